//! The interface between a machine and whatever runs its vCPUs: the software CPU, or a hypervisor.
//!
//! A vCPU is driven by one thread, which calls [`Vcpu::run`] again and again. Everybody else reaches it through its
//! [`CpuSignals`]: the local APIC raises interrupts there, the control thread asks it to come back.

#![forbid(unsafe_code)]

mod apic;
mod signals;

pub use apic::{ApicMsrError, LocalApic};
pub use signals::{CpuSignals, Signal};

use memory::GuestAddress;
use x86::regs::Registers;

/// Why [`Vcpu::run`] came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VcpuExit {
    /// [`Signal::STOP`] was raised: the thread's owner wants it for something else.
    Stopped,
    /// The vCPU waits in HLT (or for a start-up IPI): the thread may sleep with [`CpuSignals::wait`].
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
}
