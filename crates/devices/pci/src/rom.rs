//! Expansion ROMs (PCI Local Bus Specification 3.0, 6.2.5.2 and 6.3): an image behind base address register 6.

use std::sync::Arc;

use memory::{Backing, RamBlock, RamError, SpaceKind};

use crate::bus::Window;
use crate::config::{Bar, BarKind, ConfigSpace, ROM_BAR};

/// The smallest ROM that a base address register can decode.
const MIN_SIZE: u64 = 2048;
/// Regions of RAM are apart by pages.
const PAGE: u64 = 4096;

/// An expansion ROM.
#[derive(Clone, Debug)]
pub struct ExpansionRom {
    block: Arc<RamBlock>,
    size: u64,
}

impl ExpansionRom {
    /// A ROM with this image, filled up with zeros to a power of two. `name` is that of its memory, as
    /// `0000:00:02.0/vga.rom`.
    ///
    /// # Errors
    /// The host has no memory.
    pub fn new(name: &str, image: &[u8]) -> Result<Self, RamError> {
        Self::sized(name, image, 0)
    }

    /// The same of `size` bytes at least.
    ///
    /// # Errors
    /// The host has no memory.
    pub fn sized(name: &str, image: &[u8], size: u64) -> Result<Self, RamError> {
        let size = (image.len() as u64).max(size).max(MIN_SIZE).next_power_of_two().max(PAGE);
        let block = RamBlock::new(name, size)?;
        block.write(0, image);
        Ok(Self { block: Arc::new(block), size })
    }

    /// Declares the base address register.
    ///
    /// # Panics
    /// When the model has declared one before.
    pub fn declare(&self, config: &mut ConfigSpace) {
        config.add_bar(ROM_BAR, Bar { kind: BarKind::Rom, size: self.size });
    }

    /// The window to attach the function with.
    pub fn window(&self) -> Window {
        let backing = Backing::Ram { block: Arc::clone(&self.block), offset: 0, read_only: true };
        Window { index: ROM_BAR, space: SpaceKind::Memory, offset: 0, len: self.size, priority: 1, backing }
    }
}
