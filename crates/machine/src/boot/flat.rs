//! The processor state that all boot protocols share: 32-bit protected mode, flat segments, no paging.

use x86::regs::{Registers, Segment, SegmentRegister, TableRegister, rflags};

/// Where the flat GDT lies: the page after the real-mode interrupt vectors and BIOS data.
pub const GDT_ADDRESS: u64 = 0x1000;

/// CR0.PE and CR0.ET.
const CR0_PROTECTED: u64 = 0x11;

/// Selector of the flat code segment, as the Linux boot protocol names it (`__BOOT_CS`).
const CODE_SELECTOR: u16 = 0x10;
/// Selector of the flat data segment (`__BOOT_DS`).
const DATA_SELECTOR: u16 = 0x18;

/// The GDT: null, unused, code, data.
pub fn gdt() -> Vec<u8> {
    const CODE: u64 = 0x00cf_9b00_0000_ffff;
    const DATA: u64 = 0x00cf_9300_0000_ffff;
    [0, 0, CODE, DATA].into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Registers at `entry` in flat 32-bit protected mode, with everything else as after a reset.
pub fn registers(entry: u64) -> Registers {
    let flat = |selector, kind: u16| Segment { selector, base: 0, limit: 0xffff_ffff, attributes: 0xc090 | kind };
    let mut registers = Registers {
        rip: entry,
        rflags: rflags::FIXED,
        segments: [flat(DATA_SELECTOR, 0x3); 6],
        gdtr: TableRegister { base: GDT_ADDRESS, limit: 0x1f },
        idtr: TableRegister { base: 0, limit: 0 },
        tr: Segment { selector: 0, base: 0, limit: 0x67, attributes: 0x8b },
        ldtr: Segment { selector: 0, base: 0, limit: 0, attributes: 0x82 },
        cr0: CR0_PROTECTED,
        ..Registers::default()
    };
    registers.segments[SegmentRegister::Cs as usize] = flat(CODE_SELECTOR, 0xb);
    registers
}
