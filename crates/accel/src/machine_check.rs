//! Machine checks that somebody injects (SDM vol. 3, chapter 16).

/// An error for a vCPU to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineCheck {
    /// The bank that reports it.
    pub bank: usize,
    /// MCi_STATUS.
    pub status: u64,
    /// MCG_STATUS, of errors that are not corrected.
    pub global_status: u64,
    /// MCi_ADDR.
    pub address: u64,
    /// MCi_MISC.
    pub misc: u64,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineCheckOutcome {
    /// The bank has it; if it was not corrected, the vCPU is in its handler.
    Reported,
    /// The vCPU has no such banks, or the accelerator can't.
    Unsupported,
    /// There is no such bank.
    NoBank,
    /// The status is none: MCi_STATUS.VAL is clear.
    NoStatus,
    /// MCG_CTL has errors that are not corrected off.
    Disabled,
    /// MCi_CTL has them off.
    BankDisabled,
    /// CR4.MCE is clear: the vCPU has shut down.
    NotEnabled,
    /// Another one is not dealt with (MCG_STATUS.MCIP): the vCPU has shut down.
    StillInProgress,
}
