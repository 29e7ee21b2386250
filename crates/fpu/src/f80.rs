//! The double extended-precision format (SDM volume 1, section 4.2.2) as a bit pattern.

/// An 80-bit floating-point bit pattern in a 16-byte slot; the upper six bytes are not part of
/// the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct F80 {
    /// Bits 63..0: the explicit integer bit and the fraction.
    pub significand: u64,
    /// Bits 79..64: sign and biased exponent.
    pub sign_exponent: u16,
}

/// The class that the full x87 tag word distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TagClass {
    Valid = 0,
    Zero = 1,
    Special = 2,
}

impl F80 {
    /// The QNaN floating-point indefinite: the masked response to an invalid operation.
    pub const INDEFINITE: Self = Self::new(0xffff, 0xc000_0000_0000_0000);

    /// A pattern from its sign and exponent word and its significand.
    #[must_use]
    pub const fn new(sign_exponent: u16, significand: u64) -> Self {
        Self { significand, sign_exponent }
    }

    /// From the ten bytes of the memory format (little endian).
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 10]) -> Self {
        let [s0, s1, s2, s3, s4, s5, s6, s7, e0, e1] = *bytes;
        Self::new(u16::from_le_bytes([e0, e1]), u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]))
    }

    /// The ten bytes of the memory format (little endian).
    #[must_use]
    pub fn to_bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.significand.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sign_exponent.to_le_bytes());
        bytes
    }

    /// Whether this is a NaN.
    pub(crate) const fn is_nan(self) -> bool {
        self.sign_exponent & 0x7fff == 0x7fff && self.significand > 0x8000_0000_0000_0000
    }

    /// How the full tag word describes this pattern in a register that is not empty.
    pub(crate) const fn tag_class(self) -> TagClass {
        let exponent = self.sign_exponent & 0x7fff;
        if exponent == 0 && self.significand == 0 {
            TagClass::Zero
        } else if exponent == 0 || exponent == 0x7fff || self.significand >> 63 == 0 {
            TagClass::Special
        } else {
            TagClass::Valid
        }
    }
}
