//! Bochs' display interface: the registers behind ports 0x1ce and 0x1cf, and at 0x500 of a card's register window.

/// Register numbers.
pub mod index {
    pub const ID: usize = 0;
    pub const XRES: usize = 1;
    pub const YRES: usize = 2;
    pub const BPP: usize = 3;
    pub const ENABLE: usize = 4;
    pub const BANK: usize = 5;
    pub const VIRT_WIDTH: usize = 6;
    pub const VIRT_HEIGHT: usize = 7;
    pub const X_OFFSET: usize = 8;
    pub const Y_OFFSET: usize = 9;
    pub const COUNT: usize = 10;
    pub const VIDEO_MEMORY_64K: usize = 10;
}

/// Bits of the register [`index::ENABLE`].
pub mod enable {
    pub const ENABLED: u16 = 0x01;
    pub const GET_CAPABILITIES: u16 = 0x02;
    pub const EIGHT_BIT_DAC: u16 = 0x20;
    pub const NO_CLEAR_MEMORY: u16 = 0x80;
}

/// The interface's version: the latest of those that a guest may choose.
pub const ID: u16 = 0xb0c5;
/// The first version.
pub const ID_FIRST: u16 = 0xb0c0;
/// The most columns.
pub const X_MAX: u16 = 16000;
/// The most rows.
pub const Y_MAX: u16 = 12000;
/// The most bits of a pixel.
pub const BPP_MAX: u16 = 32;
