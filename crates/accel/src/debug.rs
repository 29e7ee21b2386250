//! What a debugger outside of the guest wants of a vCPU.

/// A piece of memory whose accesses stop the vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchpoint {
    /// The first linear address.
    pub address: u64,
    /// How many bytes.
    pub len: u64,
    /// Loads stop it.
    pub reads: bool,
    /// Stores stop it.
    pub writes: bool,
}

/// What stops a vCPU. Nothing of it is visible to the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DebugRequest {
    /// Stop after one instruction.
    pub step: bool,
    /// Interrupts wait while one instruction at a time is executed. A halted vCPU that has one goes on behind its HLT.
    pub masks_interrupts: bool,
    /// Stop before the instruction at one of these linear addresses.
    pub breakpoints: Vec<u64>,
    /// Stop after an instruction that accesses one of these.
    pub watchpoints: Vec<Watchpoint>,
}

impl DebugRequest {
    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.step && self.breakpoints.is_empty() && self.watchpoints.is_empty()
    }
}

/// Why a vCPU came back with [`crate::VcpuExit::Debug`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugStop {
    /// It has done its one instruction.
    Step,
    /// It stands at a breakpoint.
    Breakpoint,
    /// This address was accessed.
    Watchpoint(Watchpoint),
}
