//! The Linux/x86 boot protocol, 32-bit entry (Linux documentation, `Documentation/arch/x86/boot.rst`).
//!
//! The real-mode set-up code of the image does not run: its job, filling `struct boot_params` (the *zero page*), is
//! done here from the machine's own description.

use super::{BootEnvironment, BootError, BootPlan, BootSource, Chunk, flat, place_high};

/// Where the zero page goes.
const ZERO_PAGE: u64 = 0x1_0000;
/// Where the command line goes; it may take up to 64 KiB.
const COMMAND_LINE: u64 = 0x2_0000;
/// The longest command line, without its final zero byte, for images that do not name a limit.
const COMMAND_LINE_DEFAULT_MAX: usize = 255;
/// The stack top that a kernel finds before it sets its own.
const STACK: u64 = 0x9_0000;
/// Where a bzImage's protected-mode code goes when the image does not say otherwise.
const KERNEL: u64 = 0x10_0000;
/// `type_of_loader`: what QEMU's loader reports, so that guests that look at it behave the same.
pub const LOADER_TYPE: u8 = 0xb0;

/// Offsets in the zero page.
pub mod field {
    pub const ACPI_RSDP_ADDR: usize = 0x070;
    pub const ALT_MEM_K: usize = 0x1e0;
    pub const E820_ENTRIES: usize = 0x1e8;
    pub const SETUP_SECTS: usize = 0x1f1;
    pub const VID_MODE: usize = 0x1fa;
    pub const JUMP_LENGTH: usize = 0x201;
    pub const HEADER_MAGIC: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const TYPE_OF_LOADER: usize = 0x210;
    pub const LOADFLAGS: usize = 0x211;
    pub const CODE32_START: usize = 0x214;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const HEAP_END_PTR: usize = 0x224;
    pub const CMD_LINE_PTR: usize = 0x228;
    pub const INITRD_ADDR_MAX: usize = 0x22c;
    pub const CMDLINE_SIZE: usize = 0x238;
    pub const INIT_SIZE: usize = 0x260;
    pub const E820_TABLE: usize = 0x2d0;
}
/// Entries that fit into the zero page.
const E820_MAX: usize = 128;

fn word(image: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*image.get(at..)?.first_chunk()?))
}

fn dword(image: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*image.get(at..)?.first_chunk()?))
}

/// Whether the image has the set-up header of boot protocol 2.00 or later.
pub fn is_bzimage(image: &[u8]) -> bool {
    image.get(field::HEADER_MAGIC..field::HEADER_MAGIC + 4) == Some(b"HdrS") && word(image, 0x1fe) == Some(0xaa55)
}

/// `vga=` on the command line: the video mode for `vid_mode`.
pub fn video_mode(command_line: &str) -> Option<u16> {
    let value = command_line.split_whitespace().find_map(|word| word.strip_prefix("vga="))?;
    match value {
        "normal" => Some(0xffff),
        "ext" => Some(0xfffe),
        "ask" => Some(0xfffd),
        number => match number.strip_prefix("0x") {
            Some(hex) => u16::from_str_radix(hex, 16).ok(),
            None => number.parse().ok(),
        },
    }
}

/// Plans the boot of a bzImage.
pub fn plan(source: &BootSource, environment: &BootEnvironment) -> Result<BootPlan, BootError> {
    let image = &source.kernel;
    if image.len() < field::E820_TABLE {
        return Err(BootError::Malformed("the set-up header is cut off"));
    }
    let version = word(image, field::VERSION).unwrap_or(0);
    if version < 0x206 {
        return Err(BootError::Malformed("the kernel's boot protocol is older than 2.06 (Linux 2.6.22)"));
    }
    let loadflags = image[field::LOADFLAGS];
    if loadflags & 1 == 0 {
        return Err(BootError::Malformed("the kernel is a zImage, which loads low; only bzImage is supported"));
    }
    let code_start = (setup_sectors(image) + 1) * 512;
    let code = Chunk::part(KERNEL, image, code_start..image.len())
        .filter(|code| !code.bytes().is_empty())
        .ok_or(BootError::Malformed("the image ends before its protected-mode code"))?;
    let code_size = code.bytes().len() as u64;
    let init_size = match version {
        0x20a.. => u64::from(dword(image, field::INIT_SIZE).unwrap_or(0)),
        _ => 0,
    };
    let kernel_end = KERNEL + code_size.max(init_size);
    if kernel_end > environment.low_ram_end {
        return Err(BootError::DoesNotFit { what: "the kernel", address: KERNEL, size: kernel_end - KERNEL });
    }

    let mut zero_page = vec![0; 4096];
    copy_setup_header(&mut zero_page, image)?;
    let mut put = |at: usize, bytes: &[u8]| zero_page[at..at + bytes.len()].copy_from_slice(bytes);
    put(field::TYPE_OF_LOADER, &[LOADER_TYPE]);
    put(field::LOADFLAGS, &[loadflags | 0x80]);
    put(field::HEAP_END_PTR, &0xe000_u16.to_le_bytes());
    put(field::CODE32_START, &(KERNEL as u32).to_le_bytes());
    put(field::CMD_LINE_PTR, &(COMMAND_LINE as u32).to_le_bytes());
    put(field::ACPI_RSDP_ADDR, &environment.rsdp.to_le_bytes());
    if let Some(mode) = video_mode(&source.command_line) {
        put(field::VID_MODE, &mode.to_le_bytes());
    }
    let above_one_mib = environment.low_ram_end.saturating_sub(1 << 20) >> 10;
    put(field::ALT_MEM_K, &u32::try_from(above_one_mib).unwrap_or(u32::MAX).to_le_bytes());
    let entries = &environment.e820.entries()[..environment.e820.entries().len().min(E820_MAX)];
    put(field::E820_ENTRIES, &[entries.len() as u8]);
    for (index, entry) in entries.iter().enumerate() {
        put(field::E820_TABLE + 20 * index, &entry.to_bytes());
    }

    let mut chunks = vec![Chunk::owned(flat::GDT_ADDRESS, flat::gdt()), code];
    if let Some(initrd) = &source.initrd {
        let size = initrd.len() as u64;
        let highest = initrd_end(image);
        let address = place_high("the initrd", size, highest.min(environment.low_ram_end), kernel_end)?;
        put(field::RAMDISK_IMAGE, &(address as u32).to_le_bytes());
        put(field::RAMDISK_SIZE, &(size as u32).to_le_bytes());
        chunks.extend(Chunk::part(address, initrd, 0..initrd.len()));
    }
    chunks.push(Chunk::owned(COMMAND_LINE, command_line(source, image)?));
    chunks.push(Chunk::owned(ZERO_PAGE, zero_page));

    let mut registers = flat::registers(KERNEL);
    registers.gpr[4] = STACK;
    registers.gpr[6] = ZERO_PAGE;
    Ok(BootPlan { chunks, registers: Box::new(registers) })
}

/// How many sectors of real-mode code follow the first one.
pub fn setup_sectors(image: &[u8]) -> usize {
    match image.get(field::SETUP_SECTS) {
        None | Some(0) => 4,
        Some(sectors) => usize::from(*sectors),
    }
}

/// The end of the memory that an initial RAM disk may lie in.
pub fn initrd_end(image: &[u8]) -> u64 {
    u64::from(dword(image, field::INITRD_ADDR_MAX).unwrap_or(0x37ff_ffff)) + 1
}

/// Copies the image's set-up header: from `setup_sects` to the length that its jump instruction tells.
fn copy_setup_header(zero_page: &mut [u8], image: &[u8]) -> Result<(), BootError> {
    let end = field::HEADER_MAGIC + usize::from(image[field::JUMP_LENGTH]);
    let end = end.min(field::E820_TABLE);
    let header = image.get(field::SETUP_SECTS..end).ok_or(BootError::Malformed("the set-up header is cut off"))?;
    zero_page[field::SETUP_SECTS..end].copy_from_slice(header);
    Ok(())
}

/// The command line with its final zero byte.
pub fn command_line(source: &BootSource, image: &[u8]) -> Result<Vec<u8>, BootError> {
    let max = match dword(image, field::CMDLINE_SIZE) {
        Some(0) | None => COMMAND_LINE_DEFAULT_MAX,
        Some(max) => max as usize,
    };
    if source.command_line.len() > max.min(0xffff) {
        return Err(BootError::Malformed("the command line is longer than the kernel accepts"));
    }
    let mut bytes = source.command_line.clone().into_bytes();
    bytes.push(0);
    Ok(bytes)
}
