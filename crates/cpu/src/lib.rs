//! The software x86-64 CPU.
//!
//! [`SoftCpu`] runs guest code on any host: an interpreter over cached decoded blocks ([`block`]), with segmentation,
//! paging, exceptions, task switches and model-specific registers around it. Specification: Intel SDM volumes 1–4 and
//! AMD APM where the model is AMD's.
//!
//! Code map: [`state`] is the vCPU's state; `run` is the outer loop (signals, interrupts, debug traps);
//! [`mmu`] translates and accesses memory; `segment`, `far`, `exception`, `task` are protected mode; `smm` is
//! system-management mode; `control`, `msr`,
//! [`cpuid`] and `io` are what their names say; `decode`, `block`, `flags` and `ops` decode and execute; `native` has the
//! host execute AVX.
//!
//! Left out on purpose: virtualisation extensions, AVX-512 and later, 5-level paging, protection
//! keys, memory types, performance counters, last-branch records.
//!
//! Threads: a vCPU belongs to one thread at a time; others reach it through its [`accel::CpuSignals`].

#![deny(unsafe_code)]

mod barrier;
pub mod block;
pub mod config;
mod control;
pub mod cpuid;
mod debug;
mod decode;
mod entropy;
mod exception;
mod far;
pub mod fault;
pub mod flags;
#[doc(hidden)]
pub mod fuzz;
mod io;
#[expect(unsafe_code, reason = "host code that is made at run time")]
mod jit;
mod lockstep;
mod machine_check;
pub mod mmu;
pub mod msr;
#[expect(unsafe_code, reason = "host code that is made at run time")]
mod native;
mod ops;
mod registers;
mod run;
mod segment;
mod smm;
pub mod state;
mod task;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use accel::{CpuSignals, LocalApic, TranslatorStats, Vcpu, VcpuExit, VcpuReset};
use clock::{Clock, InstructionCounter};
use memory::{AddressSpace, GuestAddress};
use x86::cpuid::CpuidTable;
use x86::regs::Registers;

pub use config::TranslatorConfig;
pub use lockstep::LockstepStats;
pub use segment::attr;
pub use state::Cpu;

/// Asserts FERR#, the line of an unmasked x87 exception while CR0.NE is clear (IRQ 13 on a PC).
pub type FerrLine = Arc<dyn Fn() + Send + Sync>;

/// The lock around locked accesses that the host can't do as one: to device memory and across a page border.
///
/// What is guaranteed: locked accesses inside of one page of RAM are host atomics, so they are atomic towards every
/// vCPU and device. Locked accesses across a page border, or to device memory, are atomic towards each other (all vCPUs
/// of a machine share one lock), but not towards plain stores or host atomics to the same bytes; real processors lock
/// the bus there.
#[derive(Debug, Default)]
pub struct ExclusiveLock(Mutex<()>);

impl ExclusiveLock {
    pub(crate) fn enter(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a vCPU is made from.
#[derive(Clone)]
pub struct CpuConfig {
    /// Local APIC id at reset.
    pub apic_id: u32,
    /// Starts at the reset vector; the others wait for a start-up IPI.
    pub boot_processor: bool,
    /// The model.
    pub features: Arc<CpuidTable>,
    /// Guest-physical memory.
    pub memory: Arc<AddressSpace>,
    /// Guest-physical memory in system-management mode, where it differs.
    pub smm_memory: Option<Arc<AddressSpace>>,
    /// I/O ports.
    pub ports: Arc<AddressSpace>,
    /// Guest time; the TSC follows it.
    pub clock: Clock,
    /// TSC frequency in kHz; see [`CpuConfig::DEFAULT_TSC_KHZ`].
    pub tsc_khz: u64,
    /// What IA32_BIOS_SIGN_ID reads: the model's microcode revision.
    pub microcode_revision: u64,
    /// The vCPU's mailbox.
    pub signals: Arc<CpuSignals>,
    /// The vCPU's local APIC.
    pub apic: Arc<dyn LocalApic>,
    /// The A20 gate: when clear, address bit 20 is forced to zero. Whoever changes it outside of an access of this vCPU
    /// also raises [`accel::Signal::REMAP`].
    pub a20: Arc<AtomicBool>,
    /// Shared by all vCPUs of the machine.
    pub exclusive: Arc<ExclusiveLock>,
    /// FERR#, where it is wired.
    pub ferr: Option<FerrLine>,
    /// How the translator works.
    pub translator: TranslatorConfig,
    /// Counts executed instructions (`-icount`): the interpreter counts each block when it begins, the translator is
    /// off, and [`accel::Vcpu::run`] comes back with [`VcpuExit::Stopped`] at the limit.
    pub counter: Option<Arc<InstructionCounter>>,
}

impl CpuConfig {
    /// 2 GHz.
    pub const DEFAULT_TSC_KHZ: u64 = 2_000_000;
}

/// What the software CPU offers to models on this host: AVX and what belongs to it only if the host has them.
#[must_use]
pub fn model_host() -> x86::model::Host {
    let mut host = x86::model::Host::software();
    native::adapt(&mut host.supported);
    host
}

/// The software CPU as an accelerator's vCPU.
pub struct SoftCpu {
    cpu: Box<Cpu>,
    /// Tells who follows execution.
    followers: Option<TraceSource>,
}

/// Tells how execution is followed now.
pub type TraceSource = Box<dyn Fn() -> block::Following + Send>;

impl SoftCpu {
    /// A vCPU in its power-on state.
    #[must_use]
    pub fn new(config: CpuConfig) -> Self {
        Self { cpu: Box::new(Cpu::new(config)), followers: None }
    }

    /// Sets who is asked how execution is followed: now, and when [`Vcpu::follow_again`] says so.
    pub fn set_followers(&mut self, followers: TraceSource) {
        self.cpu.set_following(followers());
        self.followers = Some(followers);
    }

    /// The state, for tests and tools in this process.
    pub fn cpu(&mut self) -> &mut Cpu {
        &mut self.cpu
    }
}

impl Vcpu for SoftCpu {
    fn run(&mut self) -> VcpuExit {
        self.cpu.run()
    }

    fn reset(&mut self, kind: VcpuReset) {
        self.cpu.reset(kind);
    }

    fn registers(&mut self) -> Registers {
        self.cpu.registers()
    }

    fn set_registers(&mut self, registers: &Registers) {
        self.cpu.set_registers(registers);
    }

    fn translate(&mut self, linear: u64) -> Option<GuestAddress> {
        self.cpu.sync_map();
        self.cpu.walk_quietly(linear).map(GuestAddress)
    }

    fn set_debug(&mut self, request: &accel::DebugRequest) -> bool {
        self.cpu.set_debug(request);
        true
    }

    fn debug_stop(&mut self) -> Option<accel::DebugStop> {
        self.cpu.debugger.stop.take()
    }

    fn follow_again(&mut self) -> bool {
        let Some(followers) = &self.followers else { return false };
        self.cpu.set_following(followers());
        true
    }

    fn machine_check(&mut self, check: &accel::MachineCheck) -> accel::MachineCheckOutcome {
        self.cpu.machine_check(check)
    }

    fn translator_stats(&self) -> Option<TranslatorStats> {
        let stats = self.cpu.blocks.translator_stats()?;
        let lockstep = self.cpu.lockstep_stats().unwrap_or_default();
        Some(TranslatorStats { compared: lockstep.compared, compared_instructions: lockstep.instructions, ..stats })
    }
}
