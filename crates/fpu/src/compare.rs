//! The outcome of a comparison that is reported in EFLAGS (`FCOMI`, `COMISS` and relatives).

/// Ordering of two floating-point operands as EFLAGS reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The first operand is greater: ZF, PF and CF clear.
    Greater,
    /// The first operand is less: CF set.
    Less,
    /// The operands are equal: ZF set.
    Equal,
    /// One of the operands is a NaN or an unsupported format: ZF, PF and CF set.
    Unordered,
}

impl Comparison {
    /// The bits of EFLAGS that the instruction writes: OF, SF, ZF, AF, PF and CF.
    pub const MASK: u32 = 0x8d5;

    /// The new values of the bits in [`Self::MASK`]; OF, SF and AF are always cleared.
    #[must_use]
    pub const fn eflags(self) -> u32 {
        match self {
            Self::Greater => 0,
            Self::Less => 0x01,
            Self::Equal => 0x40,
            Self::Unordered => 0x45,
        }
    }

    /// From the x87 condition codes C3 (bit 14), C2 (bit 10) and C0 (bit 8) of a status word.
    pub(crate) const fn from_condition_codes(status: u16) -> Self {
        match status & 0x4500 {
            0 => Self::Greater,
            0x0100 => Self::Less,
            0x4000 => Self::Equal,
            _ => Self::Unordered,
        }
    }

    /// From the low byte of EFLAGS after the host's comparison.
    pub(crate) const fn from_flags(flags: u8) -> Self {
        match flags & 0x45 {
            0 => Self::Greater,
            0x01 => Self::Less,
            0x40 => Self::Equal,
            _ => Self::Unordered,
        }
    }
}
