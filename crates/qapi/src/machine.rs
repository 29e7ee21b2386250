//! The machine: name, UUID, accelerator, target and machine types, command-line options
//! (QEMU's `machine.json`, `machine-target.json`, parts of `misc.json`).

use crate::cpu::CpuInstanceProperties;
use crate::{Command, QapiType, Size};

/// The guest's name.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct NameInfo {
    /// The name, if it was given one.
    pub name: Option<String>,
}

/// Returns the guest's name.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-name", returns = NameInfo, preconfig)]
pub struct QueryName;

/// The guest's UUID.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct UuidInfo {
    /// The UUID; all zero if none was given.
    #[qapi(name = "UUID")]
    pub uuid: String,
}

/// Returns the guest's UUID.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-uuid", returns = UuidInfo, preconfig)]
pub struct QueryUuid;

/// The state of KVM.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct KvmInfo {
    /// Whether the guest runs on it.
    pub enabled: bool,
    /// Whether the program can use it.
    pub present: bool,
}

/// Tells whether KVM is in use.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-kvm", returns = KvmInfo)]
pub struct QueryKvm;

/// The architectures that a guest can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
#[expect(missing_docs, reason = "the names are those of the architectures")]
pub enum SysEmuTarget {
    Aarch64,
    Alpha,
    Arm,
    Avr,
    Cris,
    Hppa,
    I386,
    Loongarch64,
    M68k,
    Microblaze,
    Microblazeel,
    Mips,
    Mips64,
    Mips64el,
    Mipsel,
    Nios2,
    Or1k,
    Ppc,
    Ppc64,
    Riscv32,
    Riscv64,
    Rx,
    S390x,
    Sh4,
    Sh4eb,
    Sparc,
    Sparc64,
    Tricore,
    #[qapi(name = "x86_64")]
    X86_64,
    Xtensa,
    Xtensaeb,
}

/// The guest's architecture.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct TargetInfo {
    /// The architecture.
    pub arch: SysEmuTarget,
}

/// Returns the guest's architecture.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-target", returns = TargetInfo)]
pub struct QueryTarget;

/// Text for people, whose form is not fixed.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct HumanReadableText {
    /// The text.
    pub human_readable_text: String,
}

/// Returns statistics of the software CPU's translator.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-query-jit", returns = HumanReadableText, unstable)]
pub struct XQueryJit;

/// Returns how often the inputs of interrupt controllers have risen.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-query-irq", returns = HumanReadableText, unstable)]
pub struct XQueryIrq;

/// Returns the NUMA nodes with their processors and memory.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-query-numa", returns = HumanReadableText, unstable)]
pub struct XQueryNuma;

/// Returns the blocks of memory.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-query-ramblock", returns = HumanReadableText, unstable)]
pub struct XQueryRamblock;

/// Returns what read-only memory there is.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-query-roms", returns = HumanReadableText, unstable)]
pub struct XQueryRoms;

/// Returns the devices on USB buses.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-query-usb", returns = HumanReadableText, unstable)]
pub struct XQueryUsb;

/// A machine type.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct MachineInfo {
    /// Its name.
    pub name: String,
    /// Another name, such as `pc`.
    pub alias: Option<String>,
    /// Whether it is taken when no other is asked for.
    pub is_default: Option<bool>,
    /// How many virtual CPUs it can have.
    pub cpu_max: i64,
    /// Whether virtual CPUs can be added while it runs.
    pub hotpluggable_cpus: bool,
    /// Whether `-numa node,mem=` works.
    pub numa_mem_supported: bool,
    /// Whether it will go away.
    pub deprecated: bool,
    /// The CPU type that it has when no other is asked for.
    pub default_cpu_type: Option<String>,
    /// The id of its main memory.
    pub default_ram_id: Option<String>,
}

/// What the machine can do.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct CurrentMachineParams {
    /// Whether the guest can suspend and wake up.
    pub wakeup_suspend_support: bool,
}

/// Tells what the machine can do.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-current-machine", returns = CurrentMachineParams)]
pub struct QueryCurrentMachine;

/// Lists the machine types.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-machines", returns = Vec<MachineInfo>)]
pub struct QueryMachines;

/// The kinds of parameters of command-line options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QapiType)]
pub enum CommandLineParameterType {
    /// Text.
    String,
    /// `on` or `off`.
    Boolean,
    /// A number.
    Number,
    /// A number of bytes, with an optional suffix.
    Size,
}

/// A parameter of a command-line option.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct CommandLineParameterInfo {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub r#type: CommandLineParameterType,
    /// What it is for.
    pub help: Option<String>,
    /// The value that it has when it is not given.
    pub default: Option<String>,
}

/// A command-line option.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct CommandLineOptionInfo {
    /// Its name.
    pub option: String,
    /// Its parameters.
    pub parameters: Vec<CommandLineParameterInfo>,
}

/// Lists command-line options and their parameters.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-command-line-options", returns = Vec<CommandLineOptionInfo>, preconfig)]
pub struct QueryCommandLineOptions {
    /// Only this one.
    pub option: Option<String>,
}

/// A node of a NUMA machine.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct NumaNodeOptions {
    /// Its number; the next one if absent.
    pub nodeid: Option<u16>,
    /// Its processors by index.
    pub cpus: Option<Vec<u16>>,
    /// Bytes of memory; exclusive with `memdev`.
    pub mem: Option<Size>,
    /// The memory object.
    pub memdev: Option<String>,
    /// The node whose processors reach its memory best.
    pub initiator: Option<u16>,
}

/// The distance between two nodes.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct NumaDistOptions {
    /// From this node.
    pub src: u16,
    /// To that.
    pub dst: u16,
    /// 10 is the distance of a node to itself.
    pub val: u8,
}

/// What of the memory is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QapiType)]
pub enum HmatLBMemoryHierarchy {
    /// The memory itself.
    Memory,
    /// Its first side cache.
    FirstLevel,
    /// Its second.
    SecondLevel,
    /// Its third.
    ThirdLevel,
}

/// What is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QapiType)]
pub enum HmatLBDataType {
    /// Nanoseconds of reads and writes.
    AccessLatency,
    /// Of reads.
    ReadLatency,
    /// Of writes.
    WriteLatency,
    /// Bytes per second of reads and writes.
    AccessBandwidth,
    /// Of reads.
    ReadBandwidth,
    /// Of writes.
    WriteBandwidth,
}

/// Latency or bandwidth of a node's memory as seen from another node.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct NumaHmatLBOptions {
    /// The node with the processors.
    pub initiator: u16,
    /// The node with the memory.
    pub target: u16,
    /// The memory, or a side cache of it.
    pub hierarchy: HmatLBMemoryHierarchy,
    /// What is told.
    pub data_type: HmatLBDataType,
    /// Nanoseconds.
    pub latency: Option<u64>,
    /// Bytes per second.
    pub bandwidth: Option<Size>,
}

/// How a cache finds its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QapiType)]
pub enum HmatCacheAssociativity {
    /// It is not told.
    None,
    /// Directly mapped.
    Direct,
    /// In another way.
    Complex,
}

/// How a cache writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QapiType)]
pub enum HmatCacheWritePolicy {
    /// It is not told.
    None,
    /// Later.
    WriteBack,
    /// At once.
    WriteThrough,
}

/// A side cache of a node's memory.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct NumaHmatCacheOptions {
    /// The node.
    pub node_id: u32,
    /// Bytes.
    pub size: Size,
    /// 1 to 3.
    pub level: u8,
    /// How it finds its lines.
    pub associativity: HmatCacheAssociativity,
    /// How it writes.
    pub policy: HmatCacheWritePolicy,
    /// Bytes of a line.
    pub line: u16,
}

/// A step of the configuration of NUMA nodes.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "type")]
pub enum NumaOptions {
    /// A node.
    Node(NumaNodeOptions),
    /// A distance.
    Dist(NumaDistOptions),
    /// Processors of a node.
    Cpu(CpuInstanceProperties),
    /// Latency or bandwidth.
    HmatLb(NumaHmatLBOptions),
    /// A side cache.
    HmatCache(NumaHmatCacheOptions),
}

/// Configures NUMA nodes before the machine is built.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "set-numa-node", preconfig)]
pub struct SetNumaNode {
    /// What.
    #[qapi(flatten)]
    pub options: NumaOptions,
}

/// Builds the machine of a program that was started with `--preconfig`.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-exit-preconfig", preconfig, unstable)]
pub struct XExitPreconfig;

/// Executes a command of the human monitor.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "human-monitor-command", returns = String)]
pub struct HumanMonitorCommand {
    /// The command.
    pub command_line: String,
    /// The processor that it is about.
    pub cpu_index: Option<i64>,
}

/// The generation of a machine.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct GuidInfo {
    /// As text.
    pub guid: String,
}

/// Tells the generation of the machine.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-vm-generation-id", returns = GuidInfo)]
pub struct QueryVmGenerationId;

/// Forgets the ticks of the real-time clock that the guest could not take.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "rtc-reset-reinjection")]
pub struct RtcResetReinjection;
