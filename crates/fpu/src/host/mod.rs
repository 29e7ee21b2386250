//! The host's floating-point instructions, one function each.
//!
//! Every block of assembly starts from the state that the ABI guarantees (x87 stack empty, control
//! word 037Fh, MXCSR control bits at their default) and leaves that state behind. SSE exceptions
//! are always masked. x87 overflow and underflow may be unmasked in the control word that is
//! passed; between the instruction and the `FNCLEX` that clears the pending exception there are
//! only non-waiting instructions, so that the host never delivers it.
//!
//! The sticky exception flags of the host are never relied upon and may be left in any state.
//! Clearing them is slow, so an instruction first runs with what is there. If the outcome has no
//! flag beyond those the guest has set already, it is the guest's; otherwise the instruction runs
//! again from cleared flags. Operands are never overwritten, so that running twice is harmless.

pub(crate) mod sse;
pub(crate) mod x87;

/// Whether the host has every instruction that this crate executes (SSE4.1 is the newest).
#[must_use]
pub fn host_is_supported() -> bool {
    std::arch::is_x86_feature_detected!("sse3") && std::arch::is_x86_feature_detected!("sse4.1")
}
