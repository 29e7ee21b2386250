//! What a host bridge's registers make of system-management RAM.

/// Who sees which memory. The machine carries it out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Smram {
    /// G_SMRAME: system-management mode sees the RAM.
    pub is_enabled: bool,
    /// D_OPEN: everybody does.
    pub is_open: bool,
    /// H_SMRAME: it is seen at 0xfeda0000 in place of 0xa0000.
    pub is_high: bool,
    /// Bytes at the end of low RAM that only system-management mode sees (TSEG).
    pub tseg: u64,
    /// Only system-management mode sees the 128 KiB from 0x30000, where it begins after a reset (QEMU's own).
    pub has_smbase: bool,
}

/// Bits of the SMRAM register, on all chipsets.
pub(crate) mod bits {
    /// The segment is 0xa0000 (hardwired).
    pub const BASE_SEGMENT: u8 = 0x02;
    pub const ENABLE: u8 = 0x08;
    pub const LOCK: u8 = 0x10;
    pub const CLOSE: u8 = 0x20;
    pub const OPEN: u8 = 0x40;
    pub const WRITABLE: u8 = OPEN | CLOSE | LOCK | ENABLE;
}
