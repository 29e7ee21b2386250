//! The Multiboot specification, version 0.6.96: ELF kernels and kernels with an address header.

use super::{BootEnvironment, BootError, BootPlan, BootSource, Chunk, elf, flat, place_high, pvh};

const HEADER_MAGIC: u32 = 0x1bad_b002;
/// What the kernel finds in EAX.
const LOADED_MAGIC: u64 = 0x2bad_b002;
/// The header lies within this many bytes, 4-aligned.
const SEARCH: usize = 8192;
/// The header has load addresses (flags, bit 16).
const HAS_ADDRESSES: u32 = 1 << 16;
/// Features that this loader does not have: bits 0..16 are requirements; 0 (page alignment), 1 (memory information)
/// are met, and 2 (video mode) can't be without a display.
const UNMET_REQUIREMENTS: u32 = 0xfffc;

/// Offsets in the area of the information structure and what it points to. The area lies behind the kernel, which may
/// be loaded anywhere.
mod offset {
    pub const INFO: u64 = 0;
    pub const MODULE: u64 = 0x100;
    pub const LOADER_NAME: u64 = 0x140;
    pub const GDT: u64 = 0x180;
    pub const MEMORY_MAP: u64 = 0x200;
    pub const COMMAND_LINE: u64 = 0x1000;
    pub const MODULE_NAME: u64 = 0x1_1000;
    /// The area's length.
    pub const END: u64 = 0x2_1000;
}
/// The longest text, with its final zero byte.
const TEXT_MAX: usize = 0x1_0000;

/// The header and where in the file it was found.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    offset: usize,
    flags: u32,
}

fn dword(image: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*image.get(at..)?.first_chunk()?))
}

/// Finds a header with a right checksum.
pub fn find_header(image: &[u8]) -> Option<Header> {
    (0..SEARCH.min(image.len())).step_by(4).find_map(|offset| {
        let [magic, flags, checksum] = [0, 4, 8].map(|field| dword(image, offset + field));
        let sum = magic?.wrapping_add(flags?).wrapping_add(checksum?);
        (magic? == HEADER_MAGIC && sum == 0).then_some(Header { offset, flags: flags? })
    })
}

struct Loaded {
    chunks: Vec<Chunk>,
    end: u64,
    entry: u64,
}

/// Loads a kernel by the addresses in its header (specification, 3.1.3).
fn load_by_header(source: &BootSource, environment: &BootEnvironment, header: &Header) -> Result<Loaded, BootError> {
    const DAMAGED: BootError = BootError::Malformed("the Multiboot header's addresses do not fit the file");
    let image = &source.kernel;
    let field = |index: usize| dword(image, header.offset + 12 + 4 * index).map(u64::from).ok_or(DAMAGED);
    let [header_addr, load_addr, load_end, bss_end, entry] = [field(0)?, field(1)?, field(2)?, field(3)?, field(4)?];
    let start = (header.offset as u64 + load_addr).checked_sub(header_addr).ok_or(DAMAGED)?;
    let size = match load_end {
        0 => (image.len() as u64).checked_sub(start).ok_or(DAMAGED)?,
        end => end.checked_sub(load_addr).ok_or(DAMAGED)?,
    };
    let end = (load_addr + size).max(bss_end);
    if end > environment.low_ram_end {
        return Err(BootError::DoesNotFit { what: "the kernel", address: load_addr, size: end - load_addr });
    }
    let file = usize::try_from(start).map_err(|_| DAMAGED)?..usize::try_from(start + size).map_err(|_| DAMAGED)?;
    let loaded = Chunk::part(load_addr, image, file).ok_or(DAMAGED)?;
    let zeros = Chunk::owned(load_addr + size, vec![0; (end - load_addr - size) as usize]);
    Ok(Loaded { chunks: vec![loaded, zeros], end, entry })
}

/// Where the information area goes: on the next page behind the kernel that has RAM for all of it.
fn area_behind(kernel_end: u64, environment: &BootEnvironment) -> Result<u64, BootError> {
    const VIDEO_MEMORY: u64 = 0xa_0000;
    const ONE_MIB: u64 = 0x10_0000;
    // The interrupt vectors and BIOS data below stay as they are.
    let mut area = kernel_end.max(0x1000).next_multiple_of(0x1000);
    if area < ONE_MIB && area + offset::END > VIDEO_MEMORY {
        area = ONE_MIB;
    }
    if area + offset::END > environment.low_ram_end {
        let what = "the boot information";
        return Err(BootError::DoesNotFit { what, address: area, size: offset::END });
    }
    Ok(area)
}

/// A text with its final zero byte.
fn text(text: &str) -> Result<Vec<u8>, BootError> {
    if text.len() >= TEXT_MAX {
        return Err(BootError::Malformed("the command line or a file's name is longer than 64 KiB"));
    }
    Ok(text.bytes().chain([0]).collect())
}

/// Plans the boot of a Multiboot kernel. The initrd becomes its one module.
pub fn plan(source: &BootSource, environment: &BootEnvironment, header: &Header) -> Result<BootPlan, BootError> {
    if header.flags & UNMET_REQUIREMENTS != 0 {
        return Err(BootError::Malformed("the Multiboot kernel asks for something that this loader does not have"));
    }
    let Loaded { mut chunks, end, entry } = if header.flags & HAS_ADDRESSES != 0 {
        load_by_header(source, environment, header)?
    } else {
        let file = elf::parse(&source.kernel)?;
        if file.entry > u64::from(u32::MAX) {
            return Err(BootError::Malformed("the Multiboot kernel's entry is above 4 GiB"));
        }
        let (chunks, end) = pvh::segment_chunks(source, &file, environment)?;
        Loaded { chunks, end, entry: file.entry }
    };
    let area = area_behind(end, environment)?;
    chunks.push(Chunk::owned(area + offset::GDT, flat::gdt()));

    // Memory sizes, command line, modules, memory map, loader name (specification, 3.3).
    let mut flags = 1 | 1 << 2 | 1 << 6 | 1 << 9;
    let mut modules = 0_u32;
    if let Some(initrd) = &source.initrd {
        let address = place_high("the module", initrd.len() as u64, environment.low_ram_end, area + offset::END)?;
        let module: Vec<u8> = [address, address + initrd.len() as u64, area + offset::MODULE_NAME, 0]
            .into_iter()
            .flat_map(|value| (value as u32).to_le_bytes())
            .collect();
        chunks.extend(Chunk::part(address, initrd, 0..initrd.len()));
        chunks.push(Chunk::owned(area + offset::MODULE, module));
        chunks.push(Chunk::owned(area + offset::MODULE_NAME, text(&source.initrd_path)?));
        flags |= 1 << 3;
        modules = 1;
    }
    // The command line begins with the kernel's name, as boot loaders give it.
    let command_line = format!("{} {}", source.kernel_path, source.command_line);
    chunks.push(Chunk::owned(area + offset::COMMAND_LINE, text(&command_line)?));
    chunks.push(Chunk::owned(area + offset::LOADER_NAME, b"ouzel\0".to_vec()));
    let map: Vec<u8> = environment
        .e820
        .entries()
        .iter()
        .flat_map(|entry| 20_u32.to_le_bytes().into_iter().chain(entry.to_bytes()))
        .collect();

    let mut info = vec![0; 116];
    let mut put = |at: usize, value: u64| info[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
    put(0, flags);
    put(4, environment.e820.conventional_kib());
    put(8, environment.low_ram_end.saturating_sub(1 << 20) >> 10);
    put(16, area + offset::COMMAND_LINE);
    put(20, u64::from(modules));
    put(24, area + offset::MODULE);
    put(44, map.len() as u64);
    put(48, area + offset::MEMORY_MAP);
    put(64, area + offset::LOADER_NAME);
    chunks.push(Chunk::owned(area + offset::MEMORY_MAP, map));
    chunks.push(Chunk::owned(area + offset::INFO, info));

    let mut registers = flat::registers(entry);
    registers.gpr[0] = LOADED_MAGIC;
    registers.gpr[3] = area + offset::INFO;
    registers.gdtr.base = area + offset::GDT;
    Ok(BootPlan { chunks, registers: Box::new(registers) })
}
