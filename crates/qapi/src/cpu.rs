//! Virtual CPUs (QEMU's `machine.json` and `machine-target.json`).

use crate::machine::SysEmuTarget;
use crate::{Command, QapiType};

/// Where a virtual CPU sits.
#[derive(Debug, Clone, Default, PartialEq, Eq, QapiType)]
pub struct CpuInstanceProperties {
    /// NUMA node.
    pub node_id: Option<i64>,
    /// Socket.
    pub socket_id: Option<i64>,
    /// Die in the socket.
    pub die_id: Option<i64>,
    /// Cluster in the die.
    pub cluster_id: Option<i64>,
    /// Core in the die or cluster.
    pub core_id: Option<i64>,
    /// Thread in the core.
    pub thread_id: Option<i64>,
}

/// The states of an s390x CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QapiType)]
pub enum CpuS390State {
    /// Before its initialisation.
    Uninitialized,
    /// Stopped.
    Stopped,
    /// Stopped by a machine check.
    CheckStop,
    /// Runs.
    Operating,
    /// Loads its program.
    Load,
}

/// What `query-cpus-fast` adds for s390x.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct CpuInfoS390 {
    /// The CPU's state.
    pub cpu_state: CpuS390State,
}

/// What `query-cpus-fast` adds by architecture.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "target", tag_type = SysEmuTarget)]
pub enum CpuInfoFastTarget {
    /// s390x.
    S390x(CpuInfoS390),
    /// An architecture that adds nothing.
    #[qapi(other)]
    Other(SysEmuTarget),
}

/// A virtual CPU, as far as it is known without stopping it.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct CpuInfoFast {
    /// Its number.
    pub cpu_index: i64,
    /// Its path in the object tree.
    pub qom_path: String,
    /// The host's thread that runs it.
    pub thread_id: i64,
    /// Where it sits.
    pub props: Option<CpuInstanceProperties>,
    /// Its architecture.
    #[qapi(flatten)]
    pub target: CpuInfoFastTarget,
}

/// Lists the virtual CPUs without disturbing them.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-cpus-fast", returns = Vec<CpuInfoFast>)]
pub struct QueryCpusFast;

/// The architectures that `query-cpus` tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QapiType)]
#[expect(missing_docs, reason = "the names are those of the architectures")]
pub enum CpuInfoArch {
    X86,
    Sparc,
    Ppc,
    Mips,
    Tricore,
    S390,
    Riscv,
    Other,
}

/// What `query-cpus` adds for x86.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct CpuInfoX86 {
    /// The program counter, as a linear address.
    pub pc: i64,
}

/// What `query-cpus` adds for SPARC.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct CpuInfoSPARC {
    /// The program counter.
    pub pc: i64,
    /// The next program counter.
    pub npc: i64,
}

/// What `query-cpus` adds for PowerPC.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct CpuInfoPPC {
    /// The next instruction pointer.
    pub nip: i64,
}

/// What `query-cpus` adds for MIPS and TriCore.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct CpuInfoMIPS {
    /// The program counter.
    #[qapi(name = "PC")]
    pub pc: i64,
}

/// What `query-cpus` adds by architecture.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "arch", tag_type = CpuInfoArch)]
pub enum CpuInfoDetail {
    /// x86.
    X86(CpuInfoX86),
    /// SPARC.
    Sparc(CpuInfoSPARC),
    /// PowerPC.
    Ppc(CpuInfoPPC),
    /// MIPS.
    Mips(CpuInfoMIPS),
    /// TriCore.
    Tricore(CpuInfoMIPS),
    /// s390x.
    S390(CpuInfoS390),
    /// An architecture that adds nothing.
    #[qapi(other)]
    Other(CpuInfoArch),
}

/// A virtual CPU with its program counter.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct CpuInfo {
    /// Its number.
    #[qapi(name = "CPU")]
    pub cpu: i64,
    /// Whether it is the one that commands without a CPU number mean.
    pub current: bool,
    /// Whether it waits for an interrupt.
    pub halted: bool,
    /// Its path in the object tree.
    #[qapi(name = "qom_path")]
    pub qom_path: String,
    /// The host's thread that runs it.
    #[qapi(name = "thread_id")]
    pub thread_id: i64,
    /// Where it sits.
    pub props: Option<CpuInstanceProperties>,
    /// Its architecture and program counter.
    #[qapi(flatten)]
    pub arch: CpuInfoDetail,
}

/// Lists the virtual CPUs with their program counters. Later versions of QEMU have only
/// `query-cpus-fast`.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-cpus", returns = Vec<CpuInfo>, legacy)]
pub struct QueryCpus;

/// Did nothing from the start; it was meant to choose the CPU that other commands mean.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "cpu", legacy)]
pub struct SelectCpu {
    /// The number of the CPU.
    pub index: i64,
}

/// A CPU model.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct CpuDefinitionInfo {
    /// Its name.
    pub name: String,
    /// Whether it is the same on every host and version, so that guests can migrate.
    pub migration_safe: Option<bool>,
    /// Whether it is the same with every accelerator and machine type.
    #[qapi(name = "static")]
    pub is_static: bool,
    /// The features of it that this host cannot give.
    pub unavailable_features: Option<Vec<String>>,
    /// The name of its object type.
    pub typename: String,
    /// The model that it stands for on this machine type.
    pub alias_of: Option<String>,
    /// Whether it will go away.
    pub deprecated: bool,
}

/// Lists the CPU models.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-cpu-definitions", returns = Vec<CpuDefinitionInfo>)]
pub struct QueryCpuDefinitions;

/// A place for a virtual CPU.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct HotpluggableCPU {
    /// The type for `device_add`.
    pub r#type: String,
    /// How many virtual CPUs come at once.
    pub vcpus_count: i64,
    /// The properties for `device_add`.
    pub props: CpuInstanceProperties,
    /// The path in the object tree, if one is there.
    pub qom_path: Option<String>,
}

/// Lists the places for virtual CPUs, taken or free.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-hotpluggable-cpus", returns = Vec<HotpluggableCPU>, preconfig)]
pub struct QueryHotpluggableCpus;
