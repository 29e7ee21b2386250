//! The MXCSR register (SDM volume 1, section 10.2.3) and the rules for its exceptions (11.5).

/// MXCSR: sticky exception flags, exception masks, rounding control, FTZ and DAZ.
///
/// The bits above 15 are reserved; loading one is a #GP that the caller raises (see
/// [`Mxcsr::WRITABLE`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Mxcsr(pub u32);

/// An unmasked SIMD floating-point exception: #XM, or #UD while CR4.OSXMMEXCPT is clear. The
/// flags in MXCSR are set; the destination must not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimdException;

impl Default for Mxcsr {
    fn default() -> Self {
        Self(Self::RESET)
    }
}

impl Mxcsr {
    /// The value after reset: all exceptions masked, round to nearest.
    pub const RESET: u32 = 0x1f80;
    /// The bits that may be set; MXCSR_MASK of the FXSAVE image.
    pub const WRITABLE: u32 = 0xffff;

    /// The exception flags.
    pub const FLAGS: u32 = 0x3f;
    /// Invalid operation, denormal operand and divide by zero.
    const PRE_COMPUTATION: u32 = 0x07;
    /// The flag of underflow.
    pub const UNDERFLOW: u32 = 0x10;
    pub(crate) const PRECISION: u32 = 0x20;
    const UNDERFLOW_MASK: u32 = 0x0800;
    const MASKS: u32 = 0x1f80;
    const DAZ: u32 = 0x0040;
    pub(crate) const ROUNDING: u32 = 0x6000;
    /// Flush results that are denormal to zero.
    pub const FTZ: u32 = 0x8000;

    /// The value to run the host's instruction with: the guest's rounding, FTZ and DAZ, all
    /// exceptions masked. FTZ counts only while underflow is masked. The flags that are already
    /// set are included when it does not matter which instruction raised them, because all are
    /// masked.
    #[must_use]
    pub const fn host_control(self) -> u32 {
        let mut control = (self.0 & (Self::ROUNDING | Self::DAZ | Self::FTZ)) | Self::MASKS;
        if self.all_masked() {
            control |= self.0 & Self::FLAGS;
        }
        if !self.underflow_masked() {
            control &= !Self::FTZ;
        }
        control
    }

    /// Whether no exception can be delivered.
    #[must_use]
    pub const fn all_masked(self) -> bool {
        self.0 & Self::MASKS == Self::MASKS
    }

    /// Whether underflow is masked.
    #[must_use]
    pub const fn underflow_masked(self) -> bool {
        self.0 & Self::UNDERFLOW_MASK != 0
    }

    /// Records the exceptions of one instruction and decides whether it completes. An unmasked
    /// pre-computation exception suppresses the post-computation flags.
    ///
    /// # Errors
    /// The exception is unmasked.
    pub const fn settle(&mut self, flags: u32) -> Result<(), SimdException> {
        let unmasked = !(self.0 >> 7) & Self::FLAGS;
        let before = flags & Self::PRE_COMPUTATION;
        if before & unmasked != 0 {
            self.0 |= before;
            return Err(SimdException);
        }
        self.0 |= flags & Self::FLAGS;
        if flags & unmasked != 0 {
            return Err(SimdException);
        }
        Ok(())
    }
}
