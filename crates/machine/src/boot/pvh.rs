//! The PVH direct boot ABI (Xen, `docs/misc/pvh.pandoc`): an ELF file with a 32-bit entry in a note.

use super::{BootEnvironment, BootError, BootPlan, BootSource, Chunk, elf, flat, place_high};

/// Where `struct hvm_start_info` and what it points to go.
const START_INFO: u64 = 0x6000;
/// The memory map entries.
const MEMORY_MAP: u64 = 0x7000;
/// The one module entry: the initrd.
const MODULES: u64 = 0x6800;
/// The command line.
const COMMAND_LINE: u64 = 0x2_0000;
/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336e_c578;

/// Lays the segments of an ELF file out as chunks, with zeros where the file gives none.
pub(super) fn segment_chunks(
    source: &BootSource,
    file: &elf::Elf,
    environment: &BootEnvironment,
) -> Result<(Vec<Chunk>, u64), BootError> {
    let mut chunks = Vec::new();
    let mut highest = 0;
    for segment in &file.segments {
        let end = segment.address.saturating_add(segment.memory_size);
        if end > environment.low_ram_end {
            let (address, size) = (segment.address, segment.memory_size);
            return Err(BootError::DoesNotFit { what: "a segment of the kernel", address, size });
        }
        let zeros = segment.memory_size - segment.file.len() as u64;
        let zeros_at = segment.address + segment.file.len() as u64;
        chunks.extend(Chunk::part(segment.address, &source.kernel, segment.file.clone()));
        // Bounded by the guest's RAM, as checked above.
        chunks.push(Chunk::owned(zeros_at, vec![0; zeros as usize]));
        highest = highest.max(end);
    }
    Ok((chunks, highest))
}

/// Plans the boot of an ELF file with a PVH note.
pub fn plan(source: &BootSource, environment: &BootEnvironment) -> Result<BootPlan, BootError> {
    let file = elf::parse(&source.kernel)?;
    let entry = file.pvh_entry.ok_or(BootError::Malformed("the ELF file has no PVH entry note"))?;
    let structures = flat::GDT_ADDRESS..COMMAND_LINE + 0x1_0000;
    let overlaps = |segment: &elf::LoadSegment| {
        segment.address < structures.end && segment.address + segment.memory_size > structures.start
    };
    if file.segments.iter().any(overlaps) {
        return Err(BootError::Malformed("the kernel lies where the boot structures go, at 0x1000 to 0x30000"));
    }
    let (mut chunks, kernel_end) = segment_chunks(source, &file, environment)?;
    chunks.push(Chunk::owned(flat::GDT_ADDRESS, flat::gdt()));

    let mut module_count = 0;
    if let Some(initrd) = &source.initrd {
        let size = initrd.len() as u64;
        let address = place_high("the initrd", size, environment.low_ram_end, kernel_end)?;
        chunks.extend(Chunk::part(address, initrd, 0..initrd.len()));
        let entry: Vec<u8> = [address, size, 0, 0].into_iter().flat_map(u64::to_le_bytes).collect();
        chunks.push(Chunk::owned(MODULES, entry));
        module_count = 1;
    }
    let mut command_line = source.command_line.clone().into_bytes();
    command_line.push(0);
    if command_line.len() > 0x1_0000 {
        return Err(BootError::Malformed("the command line is longer than 64 KiB"));
    }
    chunks.push(Chunk::owned(COMMAND_LINE, command_line));

    let map: Vec<u8> = environment
        .e820
        .entries()
        .iter()
        .flat_map(|entry| {
            let mut bytes = entry.to_bytes().to_vec();
            bytes.extend([0; 4]);
            bytes
        })
        .collect();
    let map_entries = environment.e820.entries().len() as u32;
    chunks.push(Chunk::owned(MEMORY_MAP, map));

    let mut info = Vec::new();
    info.extend(MAGIC.to_le_bytes());
    info.extend(1_u32.to_le_bytes()); // version
    info.extend(0_u32.to_le_bytes()); // flags
    info.extend(u32::to_le_bytes(module_count));
    info.extend(if module_count == 0 { 0 } else { MODULES }.to_le_bytes());
    info.extend(COMMAND_LINE.to_le_bytes());
    info.extend(environment.rsdp.to_le_bytes());
    info.extend(MEMORY_MAP.to_le_bytes());
    info.extend(map_entries.to_le_bytes());
    info.extend(0_u32.to_le_bytes());
    chunks.push(Chunk::owned(START_INFO, info));

    let mut registers = flat::registers(u64::from(entry));
    registers.gpr[3] = START_INFO;
    Ok(BootPlan { chunks, registers: Box::new(registers) })
}
