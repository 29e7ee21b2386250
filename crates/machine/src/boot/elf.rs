//! As much of ELF as kernels need: loadable segments, the entry point, and notes (System V ABI, chapters 4 and 5).

use std::ops::Range;

use super::BootError;

/// A loadable segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadSegment {
    /// Where its bytes are in the file.
    pub file: Range<usize>,
    /// Guest-physical address.
    pub address: u64,
    /// Bytes in memory; what the file does not give is zero.
    pub memory_size: u64,
}

/// A parsed file.
#[derive(Clone, Debug)]
pub struct Elf {
    /// The entry point as the header gives it (virtual).
    pub entry: u64,
    /// The `PT_LOAD` segments with a size.
    pub segments: Vec<LoadSegment>,
    /// The address in the Xen note `PHYS32_ENTRY`, if there is one.
    pub pvh_entry: Option<u32>,
}

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY` (Xen, `xen/include/public/elfnote.h`).
const NOTE_PHYS32_ENTRY: u32 = 18;

/// Whether the file begins with ELF's magic number.
pub fn is_elf(image: &[u8]) -> bool {
    image.starts_with(b"\x7fELF")
}

struct Reader<'a> {
    image: &'a [u8],
    wide: bool,
}

impl Reader<'_> {
    fn half(&self, at: u64) -> Option<u16> {
        let at = usize::try_from(at).ok()?;
        Some(u16::from_le_bytes(*self.image.get(at..)?.first_chunk()?))
    }

    fn word(&self, at: u64) -> Option<u32> {
        let at = usize::try_from(at).ok()?;
        Some(u32::from_le_bytes(*self.image.get(at..)?.first_chunk()?))
    }

    /// An address or offset: 4 bytes in 32-bit files, 8 in 64-bit ones.
    fn native(&self, at: u64) -> Option<u64> {
        if !self.wide {
            return self.word(at).map(u64::from);
        }
        let at = usize::try_from(at).ok()?;
        Some(u64::from_le_bytes(*self.image.get(at..)?.first_chunk()?))
    }

    fn program_headers(&self) -> Option<Vec<ProgramHeader>> {
        let (offset_at, size_at, count_at) = if self.wide { (0x20, 0x36, 0x38) } else { (0x1c, 0x2a, 0x2c) };
        let table = self.native(offset_at)?;
        let size = u64::from(self.half(size_at)?);
        let count = u64::from(self.half(count_at)?);
        (0..count).map(|index| self.program_header(table.checked_add(index * size)?)).collect()
    }

    fn program_header(&self, at: u64) -> Option<ProgramHeader> {
        let kind = self.word(at)?;
        let fields: [u64; 5] = if self.wide { [0x08, 0x18, 0x20, 0x28, 0x30] } else { [0x04, 0x0c, 0x10, 0x14, 0x1c] };
        let [offset, address, file_size, memory_size, align] = fields;
        Some(ProgramHeader {
            kind,
            offset: self.native(at.checked_add(offset)?)?,
            address: self.native(at.checked_add(address)?)?,
            file_size: self.native(at.checked_add(file_size)?)?,
            memory_size: self.native(at.checked_add(memory_size)?)?,
            align: self.native(at.checked_add(align)?)?,
        })
    }

    /// The PVH entry in the notes of one `PT_NOTE` segment.
    fn pvh_note(&self, header: &ProgramHeader) -> Option<u32> {
        let align = if header.align == 8 { 8 } else { 4 };
        let end = header.offset.checked_add(header.file_size)?;
        let mut at = header.offset;
        while at.checked_add(12)? <= end {
            let name_size = u64::from(self.word(at)?);
            let description_size = u64::from(self.word(at + 4)?);
            let kind = self.word(at + 8)?;
            let name = at + 12;
            let description = name.checked_add(name_size)?.checked_next_multiple_of(align)?;
            let name_range = usize::try_from(name).ok()?..usize::try_from(name.checked_add(name_size)?).ok()?;
            if kind == NOTE_PHYS32_ENTRY && self.image.get(name_range)? == b"Xen\0" && description_size >= 4 {
                return self.word(description);
            }
            at = description.checked_add(description_size)?.checked_next_multiple_of(align)?;
        }
        None
    }
}

struct ProgramHeader {
    kind: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

/// Parses an x86 ELF executable.
pub fn parse(image: &[u8]) -> Result<Elf, BootError> {
    const DAMAGED: BootError = BootError::Malformed("the ELF file is damaged");
    if !is_elf(image) || image.get(5) != Some(&1) {
        return Err(BootError::Malformed("the file is not a little-endian ELF file"));
    }
    let wide = match image.get(4) {
        Some(1) => false,
        Some(2) => true,
        _ => return Err(DAMAGED),
    };
    let reader = Reader { image, wide };
    match reader.half(0x12) {
        Some(3 | 62) => {}
        _ => return Err(BootError::Malformed("the ELF file is not for x86")),
    }
    let entry = reader.native(0x18).ok_or(DAMAGED)?;
    let headers = reader.program_headers().ok_or(DAMAGED)?;
    let mut segments = Vec::new();
    let mut pvh_entry = None;
    for header in &headers {
        match header.kind {
            PT_LOAD if header.memory_size > 0 => segments.push(load_segment(image, header).ok_or(DAMAGED)?),
            PT_NOTE => pvh_entry = pvh_entry.or_else(|| reader.pvh_note(header)),
            _ => {}
        }
    }
    if segments.is_empty() {
        return Err(BootError::Malformed("the ELF file has nothing to load"));
    }
    Ok(Elf { entry, segments, pvh_entry })
}

fn load_segment(image: &[u8], header: &ProgramHeader) -> Option<LoadSegment> {
    let start = usize::try_from(header.offset).ok()?;
    let end = start.checked_add(usize::try_from(header.file_size).ok()?)?;
    image.get(start..end)?;
    header.address.checked_add(header.memory_size)?;
    (header.file_size <= header.memory_size).then_some(())?;
    Some(LoadSegment { file: start..end, address: header.address, memory_size: header.memory_size })
}
