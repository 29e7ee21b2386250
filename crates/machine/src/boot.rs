//! `-kernel`: putting a kernel into guest memory and the boot processor at its entry, without firmware; or, for machines
//! whose firmware was named, giving it to that ([`firmware`]).
//!
//! Three formats, told apart by their contents, in this order: a Linux bzImage ([`linux`]), a Multiboot image
//! ([`multiboot`]), and an ELF file with a PVH entry note ([`pvh`]). Each gives a [`BootPlan`]: bytes for guest memory
//! and the registers to start with. The plan is kept, so that a reset boots the same kernel again.
//!
//! Images come from outside: every length and address in them is checked, and an image that does not fit is an error.

mod elf;
pub mod firmware;
mod flat;
mod linux;
mod multiboot;
mod pvh;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use memory::{AddressSpace, GuestAddress};
use x86::regs::Registers;

use crate::e820::E820;

/// Why an image can't be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file is none of the formats that can be booted.
    #[error("it is neither a Linux bzImage, nor a Multiboot image, nor an ELF file with a PVH note")]
    UnknownFormat,
    /// The image is damaged or uses something that is not supported.
    #[error("{0}")]
    Malformed(&'static str),
    /// A part does not fit into guest memory.
    #[error("{what} of {size} bytes does not fit into guest memory at {address:#x}")]
    DoesNotFit {
        /// Which part.
        what: &'static str,
        /// Where it should go.
        address: u64,
        /// How long it is.
        size: u64,
    },
}

/// What to boot.
#[derive(Clone, Debug, Default)]
pub struct BootSource {
    /// The contents of the `-kernel` file.
    pub kernel: Arc<[u8]>,
    /// Its path, which Multiboot kernels and errors name.
    pub kernel_path: String,
    /// The contents of the `-initrd` file.
    pub initrd: Option<Arc<[u8]>>,
    /// Its path.
    pub initrd_path: String,
    /// `-append`.
    pub command_line: String,
}

/// The guest that a kernel finds.
#[derive(Clone, Debug)]
pub struct BootEnvironment {
    /// Bytes of RAM below 4 GiB that are free for the kernel, from address 0.
    pub low_ram_end: u64,
    /// The memory map.
    pub e820: E820,
    /// Address of the ACPI RSDP.
    pub rsdp: u64,
}

/// Part of a [`BootPlan`]: bytes and their place. Parts of a file are shared with it.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Guest-physical address.
    pub address: u64,
    source: Arc<[u8]>,
    range: std::ops::Range<usize>,
}

impl Chunk {
    fn owned(address: u64, bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { address, source: bytes.into(), range }
    }

    /// A part of `file`; `None` when the range is not inside of it.
    fn part(address: u64, file: &Arc<[u8]>, range: std::ops::Range<usize>) -> Option<Self> {
        file.get(range.clone())?;
        Some(Self { address, source: Arc::clone(file), range })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.source[self.range.clone()]
    }
}

/// What a boot writes into memory, and the registers of the boot processor.
#[derive(Clone, Debug)]
pub struct BootPlan {
    /// The bytes, in writing order.
    pub chunks: Vec<Chunk>,
    /// The registers at the kernel's entry.
    pub registers: Box<Registers>,
}

impl BootPlan {
    /// Works out how to boot `source`.
    ///
    /// # Errors
    /// [`BootError`], for the caller to name the file with.
    pub fn new(source: &BootSource, environment: &BootEnvironment) -> Result<Self, BootError> {
        if linux::is_bzimage(&source.kernel) {
            linux::plan(source, environment)
        } else if let Some(header) = multiboot::find_header(&source.kernel) {
            multiboot::plan(source, environment, &header)
        } else if elf::is_elf(&source.kernel) {
            pvh::plan(source, environment)
        } else {
            Err(BootError::UnknownFormat)
        }
    }

    /// Writes the plan's bytes into guest memory.
    ///
    /// # Errors
    /// [`BootError::DoesNotFit`] where there is no RAM.
    pub fn write(&self, memory: &AddressSpace) -> Result<(), BootError> {
        for chunk in &self.chunks {
            memory.load_image(GuestAddress(chunk.address), chunk.bytes()).map_err(|_| BootError::DoesNotFit {
                what: "the kernel image",
                address: chunk.address,
                size: chunk.bytes().len() as u64,
            })?;
        }
        Ok(())
    }
}

/// Places `size` bytes page-aligned as high as possible below `end`, but not below `floor`.
fn place_high(what: &'static str, size: u64, end: u64, floor: u64) -> Result<u64, BootError> {
    let address = end.checked_sub(size).map(|start| start & !0xfff);
    address.filter(|start| *start >= floor).ok_or(BootError::DoesNotFit { what, address: floor, size })
}
