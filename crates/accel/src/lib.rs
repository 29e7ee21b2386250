//! The interface between a machine and whatever runs its vCPUs: the software CPU, or a hypervisor.
//!
//! An [`Accelerator`] makes a machine's vCPUs, and may bring interrupt controllers of its own.
//! A vCPU is driven by one thread, which calls [`Vcpu::run`] again and again. Everybody else reaches it through its
//! [`CpuSignals`]: the local APIC raises interrupts there, the control thread asks it to come back.

#![forbid(unsafe_code)]

mod accelerator;
mod apic;
pub mod backdoor;
mod counters;
mod debug;
mod interrupts;
mod machine_check;
mod signals;
mod statistics;

pub use accelerator::{
    AccelError, Accelerator, DirtyLog, FerrLine, InterruptSource, Interrupts, MachineSpaces, VcpuConfig,
};
pub use apic::{ApicMsrError, LocalApic};
pub use counters::{Statistic, StatisticKind, StatisticUnit};
pub use debug::{DebugRequest, DebugStop, Watchpoint};
pub use interrupts::{ApicRegisters, IoApicEnd, IrqControllers, LocalApics, Msi, PicOutput};
pub use machine_check::{MachineCheck, MachineCheckOutcome};
pub use signals::{CpuSignals, Signal};
pub use statistics::TranslatorStats;

use memory::GuestAddress;
use x86::regs::Registers;

/// Why [`Vcpu::run`] came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VcpuExit {
    /// [`Signal::STOP`] was raised: the thread's owner wants it for something else.
    Stopped,
    /// The vCPU waits in HLT (or for a start-up IPI): the thread may sleep with [`CpuSignals::wait`]. A hypervisor that
    /// has the local APIC sleeps itself instead, until [`Signal::STOP`].
    Halted,
    /// A triple fault or another condition that makes a PC reset itself.
    Shutdown,
    /// A breakpoint or single step that a debugger asked for.
    Debug,
    /// The accelerator met something that it can't run; the text says what and where.
    InternalError(String),
}

/// What a reset of one vCPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuReset {
    /// Power-on or RESET#: all registers. The boot processor starts at the reset vector, the others wait for SIPI.
    PowerOn,
    /// INIT#: keeps FPU, MSRs and caches (SDM vol. 3, table 9-1).
    Init,
}

/// One virtual CPU. Calls come from its own thread, or from the control thread while that thread is parked.
pub trait Vcpu: Send {
    /// Runs guest code until something happens that the caller must know.
    fn run(&mut self) -> VcpuExit;

    /// Resets the vCPU.
    fn reset(&mut self, kind: VcpuReset);

    /// All the registers.
    fn registers(&mut self) -> Registers;

    /// Sets all the registers; the vCPU continues from them.
    fn set_registers(&mut self, registers: &Registers);

    /// Translates a linear address as a debugger does: without faults, access rights or accessed bits. `None` when no
    /// page is mapped there.
    fn translate(&mut self, linear: u64) -> Option<GuestAddress>;

    /// The vCPU's local APIC, when the accelerator has it ([`Interrupts::LocalApics`], [`Interrupts::All`]).
    fn local_apic(&mut self) -> Option<&mut dyn ApicRegisters> {
        None
    }

    /// Sets what stops the vCPU for a debugger. `false`: the accelerator can't.
    fn set_debug(&mut self, _request: &DebugRequest) -> bool {
        false
    }

    /// Why the vCPU stopped for a debugger, once.
    fn debug_stop(&mut self) -> Option<DebugStop> {
        None
    }

    /// Asks anew who follows execution, and how: what is wanted of it has changed. `false`: nobody can follow this accelerator.
    fn follow_again(&mut self) -> bool {
        false
    }

    /// Reports an error, as the hardware would.
    fn machine_check(&mut self, _check: &MachineCheck) -> MachineCheckOutcome {
        MachineCheckOutcome::Unsupported
    }

    /// What the host's kernel counts of the vCPU, if it runs it.
    fn statistics(&self) -> Option<Vec<Statistic>> {
        None
    }

    /// What the translator tells of itself, on vCPUs that have one that is switched on.
    fn translator_stats(&self) -> Option<TranslatorStats> {
        None
    }
}
