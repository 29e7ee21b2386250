//! Sense data (SPC-3, 4.5): why a command ended as it did.

use state::State;

/// A sense key with its additional code and qualifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[state(name = "scsi_sense", version = 1)]
pub struct Sense {
    /// The sense key, see [`key`].
    pub key: u8,
    /// Additional sense code.
    pub asc: u8,
    /// Its qualifier.
    pub ascq: u8,
}

/// Sense keys (SPC-3, table 27).
pub mod key {
    #![expect(missing_docs, reason = "named as in the specification")]
    pub const NO_SENSE: u8 = 0x0;
    pub const NOT_READY: u8 = 0x2;
    pub const MEDIUM_ERROR: u8 = 0x3;
    pub const ILLEGAL_REQUEST: u8 = 0x5;
    pub const UNIT_ATTENTION: u8 = 0x6;
    pub const DATA_PROTECT: u8 = 0x7;
    pub const ABORTED_COMMAND: u8 = 0xb;
}

/// Additional sense codes (SPC-3, table 28), those that drives of any transport use.
pub mod asc {
    #![expect(missing_docs, reason = "named as in the specification")]
    pub const UNRECOVERED_READ_ERROR: u8 = 0x11;
    pub const PARAMETER_LIST_LENGTH: u8 = 0x1a;
    pub const ILLEGAL_OPCODE: u8 = 0x20;
    pub const BLOCK_OUT_OF_RANGE: u8 = 0x21;
    pub const INVALID_FIELD_IN_PACKET: u8 = 0x24;
    pub const UNIT_NOT_SUPPORTED: u8 = 0x25;
    pub const INVALID_FIELD_IN_PARAMETERS: u8 = 0x26;
    pub const WRITE_PROTECTED: u8 = 0x27;
    pub const MEDIUM_MAY_HAVE_CHANGED: u8 = 0x28;
    pub const RESET_OCCURRED: u8 = 0x29;
    pub const PARAMETERS_CHANGED: u8 = 0x2a;
    pub const INCOMPATIBLE_FORMAT: u8 = 0x30;
    pub const SAVING_NOT_SUPPORTED: u8 = 0x39;
    pub const MEDIUM_NOT_PRESENT: u8 = 0x3a;
    pub const TARGET_CONDITIONS_CHANGED: u8 = 0x3f;
    pub const DATA_PHASE_ERROR: u8 = 0x4b;
    pub const REMOVAL_PREVENTED: u8 = 0x53;
}

/// Bytes of sense data in the fixed format.
pub const FIXED_LEN: usize = 18;

impl Sense {
    /// Nothing to say.
    pub const NONE: Self = Self::new(key::NO_SENSE, 0, 0);
    /// The unit has no size yet.
    pub const UNIT_NOT_READY: Self = Self::new(key::NOT_READY, 0x04, 0x03);
    /// There is no medium.
    pub const NO_MEDIUM: Self = Self::new(key::NOT_READY, asc::MEDIUM_NOT_PRESENT, 0);
    /// The medium can't be taken out, and there is none.
    pub const NOT_READY_REMOVAL_PREVENTED: Self = Self::new(key::NOT_READY, asc::REMOVAL_PREVENTED, 0x02);
    /// No such command.
    pub const INVALID_OPCODE: Self = Self::new(key::ILLEGAL_REQUEST, asc::ILLEGAL_OPCODE, 0);
    /// Blocks behind the end.
    pub const LBA_OUT_OF_RANGE: Self = Self::new(key::ILLEGAL_REQUEST, asc::BLOCK_OUT_OF_RANGE, 0);
    /// A field of the command.
    pub const INVALID_FIELD: Self = Self::new(key::ILLEGAL_REQUEST, asc::INVALID_FIELD_IN_PACKET, 0);
    /// A field of the parameters.
    pub const INVALID_PARAMETER: Self = Self::new(key::ILLEGAL_REQUEST, asc::INVALID_FIELD_IN_PARAMETERS, 0);
    /// The parameters' length.
    pub const PARAMETER_LENGTH: Self = Self::new(key::ILLEGAL_REQUEST, asc::PARAMETER_LIST_LENGTH, 0);
    /// Nobody has this LUN.
    pub const UNIT_NOT_SUPPORTED: Self = Self::new(key::ILLEGAL_REQUEST, asc::UNIT_NOT_SUPPORTED, 0);
    /// Mode pages are not saved.
    pub const SAVING_NOT_SUPPORTED: Self = Self::new(key::ILLEGAL_REQUEST, asc::SAVING_NOT_SUPPORTED, 0);
    /// Another kind of medium would be needed.
    pub const INCOMPATIBLE_FORMAT: Self = Self::new(key::ILLEGAL_REQUEST, asc::INCOMPATIBLE_FORMAT, 0);
    /// The medium can't be taken out.
    pub const REMOVAL_PREVENTED: Self = Self::new(key::ILLEGAL_REQUEST, asc::REMOVAL_PREVENTED, 0x02);
    /// The host failed.
    pub const IO_ERROR: Self = Self::new(key::ABORTED_COMMAND, 0x00, 0x06);
    /// The size has changed.
    pub const CAPACITY_CHANGED: Self = Self::new(key::UNIT_ATTENTION, asc::PARAMETERS_CHANGED, 0x09);
    /// Power on or reset.
    pub const RESET: Self = Self::new(key::UNIT_ATTENTION, asc::RESET_OCCURRED, 0);
    /// The medium went out.
    pub const MEDIUM_REMOVED: Self = Self::new(key::UNIT_ATTENTION, asc::MEDIUM_NOT_PRESENT, 0);
    /// Another medium went in.
    pub const MEDIUM_CHANGED: Self = Self::new(key::UNIT_ATTENTION, asc::MEDIUM_MAY_HAVE_CHANGED, 0);
    /// Units came or went.
    pub const REPORTED_LUNS_CHANGED: Self = Self::new(key::UNIT_ATTENTION, asc::TARGET_CONDITIONS_CHANGED, 0x0e);
    /// Writes are refused.
    pub const WRITE_PROTECTED: Self = Self::new(key::DATA_PROTECT, asc::WRITE_PROTECTED, 0);
    /// The host has no space left.
    pub const NO_SPACE: Self = Self::new(key::DATA_PROTECT, asc::WRITE_PROTECTED, 0x07);

    /// A sense code.
    pub const fn new(key: u8, asc: u8, ascq: u8) -> Self {
        Self { key, asc, ascq }
    }

    /// The fixed format: [`FIXED_LEN`] bytes.
    pub fn fixed(self) -> Vec<u8> {
        let mut data = vec![0; FIXED_LEN];
        (data[0], data[2], data[7], data[12], data[13]) = (0x70, self.key, 10, self.asc, self.ascq);
        data
    }

    /// The descriptor format, without descriptors.
    pub fn descriptor(self) -> Vec<u8> {
        vec![0x72, self.key, self.asc, self.ascq, 0, 0, 0, 0]
    }

    /// Whether it is a unit attention condition.
    pub fn is_attention(self) -> bool {
        self.key == key::UNIT_ATTENTION
    }

    /// How important a unit attention condition is: the smaller number is reported first (SAM-5, 5.14).
    fn precedence(self) -> u32 {
        let code = u32::from(self.asc) << 8 | u32::from(self.ascq);
        match (self.key, self.asc, self.ascq) {
            (key::UNIT_ATTENTION, 0x29, 0x04) => 1,
            (key::UNIT_ATTENTION, 0x3f, 0x01) => 2,
            (key::UNIT_ATTENTION, 0x29, 0x05 | 0x06) => code,
            (key::UNIT_ATTENTION, 0x29, qualifier @ 0..=0x07) => u32::from(qualifier),
            (key::UNIT_ATTENTION, 0x2f, 0x01) => 8,
            (key::UNIT_ATTENTION, ..) => code,
            _ => u32::MAX,
        }
    }

    /// A new unit attention condition, unless a more important one is pending.
    pub fn raise(&mut self, attention: Self) {
        if attention.is_attention() && attention.precedence() < self.precedence() {
            *self = attention;
        }
    }
}
