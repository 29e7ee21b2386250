//! `-kernel` with firmware: the kernel's parts as items of fw_cfg, for the option ROM `linuxboot_dma` under SeaBIOS and
//! for OVMF's own loader. Only a Linux bzImage can be booted so.

use super::linux::{self, field};
use super::{BootError, BootSource, place_high};

/// Where the option ROM copies the set-up code.
const SETUP: u64 = 0x1_0000;
/// Where it copies the command line.
const COMMAND_LINE: u64 = 0x2_0000;
/// Where it copies the protected-mode code.
const KERNEL: u64 = 0x10_0000;

/// A part: where it goes, and its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Guest-physical address.
    pub address: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// The parts of a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirmwareKernel {
    /// The real-mode code with its header filled in.
    pub setup: Part,
    /// The protected-mode code.
    pub kernel: Part,
    /// The initial RAM disk.
    pub initrd: Part,
    /// The command line with its final zero.
    pub command_line: Part,
}

impl FirmwareKernel {
    /// The parts of `source` for a guest whose low RAM is free below `low_ram_end`.
    ///
    /// # Errors
    /// It is no bzImage, or too large.
    pub fn new(source: &BootSource, low_ram_end: u64) -> Result<Self, BootError> {
        let image = &source.kernel;
        if !linux::is_bzimage(image) {
            return Err(BootError::Malformed("only a Linux bzImage can be booted through firmware"));
        }
        if image.len() < field::E820_TABLE {
            return Err(BootError::Malformed("the set-up header is cut off"));
        }
        let code_start = (linux::setup_sectors(image) + 1) * 512;
        let (setup, kernel) = image
            .split_at_checked(code_start)
            .filter(|(_, kernel)| !kernel.is_empty())
            .ok_or(BootError::Malformed("the image ends before its protected-mode code"))?;
        let mut setup = setup.to_vec();
        let mut put = |at: usize, bytes: &[u8]| setup[at..at + bytes.len()].copy_from_slice(bytes);
        put(field::TYPE_OF_LOADER, &[linux::LOADER_TYPE]);
        put(field::LOADFLAGS, &[image[field::LOADFLAGS] | 0x80]);
        put(field::HEAP_END_PTR, &((COMMAND_LINE - SETUP - 0x200) as u16).to_le_bytes());
        put(field::CMD_LINE_PTR, &(COMMAND_LINE as u32).to_le_bytes());
        if let Some(mode) = linux::video_mode(&source.command_line) {
            put(field::VID_MODE, &mode.to_le_bytes());
        }
        let mut initrd = Part::default();
        if let Some(bytes) = &source.initrd {
            let highest = linux::initrd_end(image).min(low_ram_end);
            let kernel_end = KERNEL + kernel.len() as u64;
            let address = place_high("the initrd", bytes.len() as u64, highest, kernel_end)?;
            put(field::RAMDISK_IMAGE, &(address as u32).to_le_bytes());
            put(field::RAMDISK_SIZE, &(bytes.len() as u32).to_le_bytes());
            initrd = Part { address, bytes: bytes.to_vec() };
        }
        Ok(Self {
            kernel: Part { address: KERNEL, bytes: kernel.to_vec() },
            setup: Part { address: SETUP, bytes: setup },
            command_line: Part { address: COMMAND_LINE, bytes: linux::command_line(source, image)? },
            initrd,
        })
    }
}
