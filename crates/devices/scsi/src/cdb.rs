//! Command descriptor blocks (SPC-3, 4.3): lengths, addresses, and how much data a command moves which way.

/// Bytes that are kept of a command.
pub const LEN: usize = 16;

/// Operation codes.
pub mod op {
    #![expect(missing_docs, reason = "named as in SPC-3, SBC-3 and MMC-5")]
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const REQUEST_SENSE: u8 = 0x03;
    pub const FORMAT_UNIT: u8 = 0x04;
    pub const READ_6: u8 = 0x08;
    pub const WRITE_6: u8 = 0x0a;
    pub const INQUIRY: u8 = 0x12;
    pub const MODE_SELECT_6: u8 = 0x15;
    pub const RESERVE_6: u8 = 0x16;
    pub const RELEASE_6: u8 = 0x17;
    pub const MODE_SENSE_6: u8 = 0x1a;
    pub const START_STOP_UNIT: u8 = 0x1b;
    pub const PREVENT_ALLOW_MEDIUM_REMOVAL: u8 = 0x1e;
    pub const READ_CAPACITY_10: u8 = 0x25;
    pub const READ_10: u8 = 0x28;
    pub const WRITE_10: u8 = 0x2a;
    pub const SEEK_10: u8 = 0x2b;
    pub const WRITE_AND_VERIFY_10: u8 = 0x2e;
    pub const VERIFY_10: u8 = 0x2f;
    pub const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    pub const WRITE_SAME_10: u8 = 0x41;
    pub const UNMAP: u8 = 0x42;
    pub const READ_TOC: u8 = 0x43;
    pub const GET_CONFIGURATION: u8 = 0x46;
    pub const GET_EVENT_STATUS_NOTIFICATION: u8 = 0x4a;
    pub const READ_DISC_INFORMATION: u8 = 0x51;
    pub const MODE_SELECT_10: u8 = 0x55;
    pub const RESERVE_10: u8 = 0x56;
    pub const RELEASE_10: u8 = 0x57;
    pub const MODE_SENSE_10: u8 = 0x5a;
    pub const READ_16: u8 = 0x88;
    pub const WRITE_16: u8 = 0x8a;
    pub const WRITE_AND_VERIFY_16: u8 = 0x8e;
    pub const VERIFY_16: u8 = 0x8f;
    pub const SYNCHRONIZE_CACHE_16: u8 = 0x91;
    pub const WRITE_SAME_16: u8 = 0x93;
    pub const SERVICE_ACTION_IN_16: u8 = 0x9e;
    pub const REPORT_LUNS: u8 = 0xa0;
    pub const READ_12: u8 = 0xa8;
    pub const WRITE_12: u8 = 0xaa;
    pub const READ_DVD_STRUCTURE: u8 = 0xad;
    pub const WRITE_AND_VERIFY_12: u8 = 0xae;
    pub const VERIFY_12: u8 = 0xaf;
    pub const SET_CD_SPEED: u8 = 0xbb;
    pub const MECHANISM_STATUS: u8 = 0xbd;
}

/// Which way a command's data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// There is none.
    None,
    /// From the unit to the host.
    In,
    /// From the host to the unit.
    Out,
}

/// The data of a command, as its CDB has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Which way.
    pub direction: Direction,
    /// Bytes. Never more than 2³¹ for a command that is executed.
    pub len: u64,
}

impl Transfer {
    /// No data.
    pub const NONE: Self = Self { direction: Direction::None, len: 0 };
}

/// A command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cdb([u8; LEN]);

impl Cdb {
    /// The command in `bytes`; what is missing is zero, what follows is not looked at.
    pub fn new(bytes: &[u8]) -> Self {
        let mut cdb = [0; LEN];
        let len = bytes.len().min(LEN);
        cdb[..len].copy_from_slice(&bytes[..len]);
        Self(cdb)
    }

    /// The operation code.
    pub fn opcode(&self) -> u8 {
        self.0[0]
    }

    /// Byte `at`; zero behind the end.
    pub fn u8(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn number(&self, at: usize, bytes: usize) -> u64 {
        (at..at + bytes).fold(0, |number, at| number << 8 | u64::from(self.u8(at)))
    }

    /// The big-endian 16 bits at `at`.
    pub fn be16(&self, at: usize) -> u16 {
        self.number(at, 2) as u16
    }

    /// The big-endian 32 bits at `at`.
    pub fn be32(&self, at: usize) -> u32 {
        self.number(at, 4) as u32
    }

    /// The command's length, which its group says; `None` for groups that have none (SPC-3, table 14).
    pub fn length(&self) -> Option<usize> {
        match self.opcode() >> 5 {
            0 => Some(6),
            1 | 2 => Some(10),
            4 => Some(16),
            5 => Some(12),
            _ => None,
        }
    }

    /// The logical block address, where the command's group has it.
    pub fn block(&self) -> u64 {
        match self.length() {
            Some(6) => u64::from(self.be32(0) & 0x1f_ffff),
            Some(10 | 12) => u64::from(self.be32(2)),
            Some(_) => self.number(2, 8),
            None => 0,
        }
    }

    /// The length field, where the command's group has it: bytes or blocks.
    pub fn length_field(&self) -> u32 {
        match self.length() {
            Some(6) => u32::from(self.u8(4)),
            Some(10) => u32::from(self.be16(7)),
            Some(12) => self.be32(6),
            Some(_) => self.be32(10),
            None => 0,
        }
    }

    /// Blocks of a read or write: 0 stands for 256 in commands of 6 bytes.
    pub fn blocks(&self) -> u32 {
        match (self.length(), self.length_field()) {
            (Some(6), 0) => 256,
            (_, blocks) => blocks,
        }
    }

    /// The data that the command moves, for a unit with blocks of `block_size` bytes.
    pub fn transfer(&self, block_size: u32) -> Transfer {
        let block_size = u64::from(block_size);
        let field = u64::from(self.length_field());
        let blocks = u64::from(self.blocks()) * block_size;
        let (direction, len) = match self.opcode() {
            op::TEST_UNIT_READY
            | op::START_STOP_UNIT
            | op::RESERVE_6
            | op::RELEASE_6
            | op::PREVENT_ALLOW_MEDIUM_REMOVAL
            | op::SEEK_10
            | op::SYNCHRONIZE_CACHE_10
            | op::SYNCHRONIZE_CACHE_16
            | op::SET_CD_SPEED => (Direction::None, 0),
            op::READ_6 | op::READ_10 | op::READ_12 | op::READ_16 => (Direction::In, blocks),
            op::WRITE_6
            | op::WRITE_10
            | op::WRITE_12
            | op::WRITE_16
            | op::WRITE_AND_VERIFY_10
            | op::WRITE_AND_VERIFY_12
            | op::WRITE_AND_VERIFY_16 => (Direction::Out, blocks),
            // BYTCHK: 1 compares with as many blocks, 2 and 3 with one.
            op::VERIFY_10 | op::VERIFY_12 | op::VERIFY_16 => match self.u8(1) & 6 {
                2 => (Direction::Out, field * block_size),
                6 => (Direction::Out, block_size),
                _ => (Direction::None, 0),
            },
            // NDOB.
            op::WRITE_SAME_10 | op::WRITE_SAME_16 if self.u8(1) & 1 != 0 => (Direction::None, 0),
            op::WRITE_SAME_10 | op::WRITE_SAME_16 => (Direction::Out, block_size),
            op::FORMAT_UNIT => match self.u8(1) & 0x30 {
                0x10 => (Direction::Out, 4),
                0x30 => (Direction::Out, 8),
                _ => (Direction::None, 0),
            },
            op::MODE_SELECT_6 | op::MODE_SELECT_10 | op::UNMAP | op::RESERVE_10 | op::RELEASE_10 => {
                (Direction::Out, field)
            }
            op::INQUIRY => (Direction::In, u64::from(self.be16(3))),
            op::READ_CAPACITY_10 => (Direction::In, 8),
            op::MECHANISM_STATUS | op::READ_DVD_STRUCTURE => (Direction::In, u64::from(self.be16(8))),
            _ => (Direction::In, field),
        };
        if len == 0 { Transfer::NONE } else { Transfer { direction, len } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_addresses_follow_the_group() {
        for (bytes, len, block, blocks) in [
            (&[0x08, 0x1f, 2, 3, 0][..], Some(6), 0x1f_0203, 256),
            (&[0x28, 0, 1, 2, 3, 4, 0, 0x12, 0x34], Some(10), 0x0102_0304, 0x1234),
            (&[0xa8, 0, 1, 2, 3, 4, 5, 6, 7, 8], Some(12), 0x0102_0304, 0x0506_0708),
            (&[0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 1, 0], Some(16), 0x0102_0304_0506_0708, 256),
            (&[0x60], None, 0, 0),
            (&[0xff; 16], None, 0, 0),
        ] {
            let cdb = Cdb::new(bytes);
            assert_eq!((cdb.length(), cdb.block(), cdb.blocks()), (len, block, blocks), "{bytes:x?}");
        }
    }

    #[test]
    fn transfers_are_those_of_the_command() {
        let transfer = |bytes: &[u8]| {
            let transfer = Cdb::new(bytes).transfer(512);
            (transfer.direction, transfer.len)
        };
        assert_eq!(transfer(&[0x12, 0, 0, 1, 0]), (Direction::In, 256));
        assert_eq!(transfer(&[0x12]), (Direction::None, 0));
        assert_eq!(transfer(&[0x08]), (Direction::In, 256 * 512));
        assert_eq!(transfer(&[0x0a, 0, 0, 0, 2]), (Direction::Out, 1024));
        assert_eq!(transfer(&[0x2f, 2, 0, 0, 0, 0, 0, 0, 3]), (Direction::Out, 1536));
        assert_eq!(transfer(&[0x2f, 0, 0, 0, 0, 0, 0, 0, 3]), (Direction::None, 0));
        assert_eq!(transfer(&[0x41, 0, 0, 0, 0, 0, 0, 0, 3]), (Direction::Out, 512));
        assert_eq!(transfer(&[0x93, 1]), (Direction::None, 0));
        assert_eq!(transfer(&[0x25]), (Direction::In, 8));
        assert_eq!(transfer(&[0xaa, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]), (Direction::Out, 0xffff_ffff * 512));
    }
}
