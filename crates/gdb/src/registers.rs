//! The registers of an x86-64 CPU as gdb numbers them, and the description that it asks for (gdb's manual, appendix G;
//! names, order and sizes are those of QEMU 7.2).
//!
//! gdb can't deal with registers that change their size, so they are always those of a 64-bit CPU. Where the CPU does not
//! execute 64-bit code, general registers and the instruction pointer have their lower halves, the upper eight are zero.

use std::fmt::Write as _;

use x86::regs::{Registers, SegmentRegister};

use crate::{hex, unhex};

/// gdb's order of the first eight.
const GENERAL: [(&str, usize); 8] =
    [("rax", 0), ("rbx", 3), ("rcx", 1), ("rdx", 2), ("rsi", 6), ("rdi", 7), ("rbp", 5), ("rsp", 4)];
const SEGMENTS: [(&str, SegmentRegister); 6] = [
    ("cs", SegmentRegister::Cs),
    ("ss", SegmentRegister::Ss),
    ("ds", SegmentRegister::Ds),
    ("es", SegmentRegister::Es),
    ("fs", SegmentRegister::Fs),
    ("gs", SegmentRegister::Gs),
];
const BASES: [&str; 3] = ["fs_base", "gs_base", "k_gs_base"];
const CONTROL: [(&str, &str); 6] = [
    ("cr0", "x64_cr0"),
    ("cr2", "int64"),
    ("cr3", "x64_cr3"),
    ("cr4", "x64_cr4"),
    ("cr8", "int64"),
    ("efer", "x64_efer"),
];
const FPU: [&str; 8] = ["fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"];

// The numbers of the first of each kind.
const RIP: usize = 16;
const EFLAGS: usize = 17;
const SEGMENT: usize = 18;
const BASE: usize = SEGMENT + SEGMENTS.len();
const CR: usize = BASE + BASES.len();
const ST: usize = CR + CONTROL.len();
const FP: usize = ST + 8;
const XMM: usize = FP + FPU.len();
const MXCSR: usize = XMM + 16;
/// How many registers there are.
pub const COUNT: usize = MXCSR + 1;

/// IA32_KERNEL_GS_BASE.
const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// XSTATE_BV in the header of an XSAVE area, and its bits for x87 and SSE (SDM vol. 1, 13.4.2).
const XSTATE_BV: usize = 512;
const LEGACY: u8 = 3;

fn is_64_bit(registers: &Registers) -> bool {
    const LMA: u64 = 1 << 10;
    const L: u16 = 1 << 13;
    registers.efer & LMA != 0 && registers.segments[SegmentRegister::Cs as usize].attributes & L != 0
}

fn area(registers: &Registers, at: usize, len: usize) -> Vec<u8> {
    let mut found = registers.xsave.get(at..at + len).unwrap_or_default().to_vec();
    found.resize(len, 0);
    found
}

/// The bytes of register `number`, as the CPU keeps them in memory.
fn bytes(registers: &Registers, number: usize) -> Option<Vec<u8>> {
    let is_wide = is_64_bit(registers);
    let wide = |value: u64| if is_wide { value } else { value & 0xffff_ffff }.to_le_bytes().to_vec();
    Some(match number {
        0..8 => wide(registers.gpr[GENERAL[number].1]),
        8..16 => wide(if is_wide { registers.gpr[number] } else { 0 }),
        RIP => wide(registers.rip),
        EFLAGS => (registers.rflags as u32).to_le_bytes().to_vec(),
        SEGMENT..BASE => {
            let (_, segment) = SEGMENTS[number - SEGMENT];
            u32::from(registers.segments[segment as usize].selector).to_le_bytes().to_vec()
        }
        BASE..CR => match number - BASE {
            0 => registers.segments[SegmentRegister::Fs as usize].base,
            1 => registers.segments[SegmentRegister::Gs as usize].base,
            _ => registers.msrs.iter().find(|(msr, _)| *msr == KERNEL_GS_BASE).map_or(0, |(_, value)| *value),
        }
        .to_le_bytes()
        .to_vec(),
        CR..ST => {
            let all = [registers.cr0, registers.cr2, registers.cr3, registers.cr4, registers.cr8, registers.efer];
            all[number - CR].to_le_bytes().to_vec()
        }
        ST..FP => area(registers, 32 + 16 * (number - ST), 10),
        // Tags: FXSAVE keeps one bit a register, FSAVE and gdb two.
        _ if number == FP + 2 => u32::from(tags(registers)).to_le_bytes().to_vec(),
        FP..XMM => {
            // Control, status, tags, upper halves and lower halves of pointers, opcode (SDM vol. 1, 10.5.1).
            let (at, len) = [(0, 2), (2, 2), (4, 1), (12, 2), (8, 4), (20, 2), (16, 4), (6, 2)][number - FP];
            let mut value = area(registers, at, len);
            value.resize(4, 0);
            value
        }
        XMM..MXCSR => area(registers, 160 + 16 * (number - XMM), 16),
        MXCSR => area(registers, 24, 4),
        _ => return None,
    })
}

/// The tag word (SDM vol. 1, figure 8-7) of what FXSAVE keeps of it.
fn tags(registers: &Registers) -> u16 {
    let abridged = area(registers, 4, 1)[0];
    let top = usize::from(area(registers, 3, 1)[0] >> 3 & 7);
    let mut tags = 0;
    for register in 0..8 {
        let value = area(registers, 32 + 16 * ((register + 8 - top) % 8), 10);
        let exponent = u16::from_le_bytes([value[8], value[9]]) & 0x7fff;
        let fraction = u64::from_le_bytes(std::array::from_fn(|at| value[at]));
        let tag = match (abridged >> register & 1, exponent, fraction) {
            (0, ..) => 3,
            (_, 0, 0) => 1,
            (_, 0 | 0x7fff, _) => 2,
            (_, _, fraction) if fraction >> 63 == 0 => 2,
            _ => 0,
        };
        tags |= tag << (2 * register);
    }
    tags
}

/// One register in hexadecimal; `None` where there is none.
#[must_use]
pub fn one(registers: &Registers, number: usize) -> Option<String> {
    bytes(registers, number).map(|bytes| hex(&bytes))
}

/// All registers in hexadecimal.
#[must_use]
pub fn all(registers: &Registers) -> String {
    (0..COUNT).filter_map(|number| one(registers, number)).collect()
}

/// Sets a register. `false`: there is none, or it can't have that value.
fn put(registers: &mut Registers, number: usize, value: &[u8]) -> bool {
    if bytes(registers, number).is_some_and(|old| old == value) {
        return true;
    }
    let is_wide = is_64_bit(registers);
    let mut wide = [0; 8];
    for (place, byte) in wide.iter_mut().zip(value) {
        *place = *byte;
    }
    let full = u64::from_le_bytes(wide);
    let word = if is_wide { full } else { full & 0xffff_ffff };
    match number {
        0..8 => registers.gpr[GENERAL[number].1] = word,
        // There are none outside of 64-bit code.
        8..16 if !is_wide => {}
        8..16 => registers.gpr[number] = word,
        RIP => registers.rip = word,
        EFLAGS => registers.rflags = full & 0x3f_ffff,
        SEGMENT..BASE => return put_selector(registers, SEGMENTS[number - SEGMENT].1, full),
        BASE..CR => match number - BASE {
            0 => registers.segments[SegmentRegister::Fs as usize].base = full,
            1 => registers.segments[SegmentRegister::Gs as usize].base = full,
            _ => match registers.msrs.iter_mut().find(|(msr, _)| *msr == KERNEL_GS_BASE) {
                Some((_, place)) => *place = full,
                None => return false,
            },
        },
        CR..ST => return put_control(registers, number - CR, full),
        ST..FP => return put_area(registers, 32 + 16 * (number - ST), value.get(..10)),
        _ if number == FP => return put_area(registers, 0, value.get(..2)),
        _ if number == FP + 1 => return put_area(registers, 2, value.get(..2)),
        // Tags follow from the registers, pointers from what was executed.
        FP..XMM => {}
        XMM..MXCSR => return put_area(registers, 160 + 16 * (number - XMM), value.get(..16)),
        MXCSR => return put_area(registers, 24, Some(&(full as u32 & 0xffff).to_le_bytes())),
        _ => return false,
    }
    true
}

fn put_area(registers: &mut Registers, at: usize, value: Option<&[u8]>) -> bool {
    let Some(value) = value else { return false };
    let Some(place) = registers.xsave.get_mut(at..at + value.len()) else { return false };
    place.copy_from_slice(value);
    // A component that was in its first state no longer is.
    if let Some(components) = registers.xsave.get_mut(XSTATE_BV) {
        *components |= LEGACY;
    }
    true
}

/// Loads a segment register, where no descriptor has to be read for it: in real and virtual-8086 mode.
fn put_selector(registers: &mut Registers, segment: SegmentRegister, value: u64) -> bool {
    let is_protected = registers.cr0 & 1 != 0 && registers.rflags & x86::regs::rflags::VM == 0;
    let Ok(selector) = u16::try_from(value) else { return false };
    let place = &mut registers.segments[segment as usize];
    if is_protected {
        return false;
    }
    (place.selector, place.base) = (selector, u64::from(selector) << 4);
    true
}

/// Sets a control register to what the CPU can have.
fn put_control(registers: &mut Registers, which: usize, value: u64) -> bool {
    const PE: u64 = 1;
    const PG: u64 = 1 << 31;
    const CR0: u64 = 0xe005_003f;
    const EFER: u64 = 1 | 1 << 11;
    match which {
        0 if value & !CR0 != 0 || value & (PE | PG) == PG => return false,
        // Paging and its kind can't be changed while 64-bit code is enabled.
        0 if registers.efer & 1 << 8 != 0 && (registers.cr0 ^ value) & (PE | PG) != 0 => return false,
        0 => registers.cr0 = value,
        1 => registers.cr2 = value,
        2 => registers.cr3 = value,
        // Only bits that the guest has found out about: those that are set may be taken away.
        3 if value & !registers.cr4 != 0 || (registers.cr4 ^ value) & (1 << 5 | 1 << 12) != 0 => return false,
        3 => registers.cr4 = value,
        4 if value > 15 => return false,
        4 => registers.cr8 = value,
        _ if (registers.efer ^ value) & !EFER != 0 => return false,
        _ => registers.efer = value,
    }
    true
}

/// Sets one register; `false` where there is none, the text is wrong, or the CPU can't have that value.
pub fn set_one(registers: &mut Registers, number: usize, text: &str) -> bool {
    let Some(value) = unhex(text) else { return false };
    let is_whole = bytes(registers, number).is_some_and(|old| old.len() == value.len());
    is_whole && put(registers, number, &value)
}

/// Sets all registers; what the CPU can't have stays as it was. `false`: the text is wrong.
pub fn set_all(registers: &mut Registers, text: &str) -> bool {
    let Some(whole) = unhex(text) else { return false };
    let mut rest = whole.as_slice();
    for number in 0..COUNT {
        let len = bytes(registers, number).map_or(0, |bytes| bytes.len());
        // A client may leave the last ones out.
        let Some((value, after)) = rest.split_at_checked(len) else { break };
        put(registers, number, value);
        rest = after;
    }
    true
}

type Fields = &'static [(&'static str, u32, u32)];

/// Names of bits: the first and the last of each.
const FLAGS: [(&str, u32, Fields); 6] = [
    (
        "x64_eflags",
        4,
        &[
            ("", 22, 31),
            ("ID", 21, 21),
            ("VIP", 20, 20),
            ("VIF", 19, 19),
            ("AC", 18, 18),
            ("VM", 17, 17),
            ("RF", 16, 16),
            ("", 15, 15),
            ("NT", 14, 14),
            ("IOPL", 12, 13),
            ("OF", 11, 11),
            ("DF", 10, 10),
            ("IF", 9, 9),
            ("TF", 8, 8),
            ("SF", 7, 7),
            ("ZF", 6, 6),
            ("", 5, 5),
            ("AF", 4, 4),
            ("", 3, 3),
            ("PF", 2, 2),
            ("", 1, 1),
            ("CF", 0, 0),
        ],
    ),
    (
        "x64_cr0",
        8,
        &[
            ("PG", 31, 31),
            ("CD", 30, 30),
            ("NW", 29, 29),
            ("AM", 18, 18),
            ("WP", 16, 16),
            ("NE", 5, 5),
            ("ET", 4, 4),
            ("TS", 3, 3),
            ("EM", 2, 2),
            ("MP", 1, 1),
            ("PE", 0, 0),
        ],
    ),
    ("x64_cr3", 8, &[("PDBR", 12, 63), ("PCID", 0, 11)]),
    (
        "x64_cr4",
        8,
        &[
            ("PKE", 22, 22),
            ("SMAP", 21, 21),
            ("SMEP", 20, 20),
            ("OSXSAVE", 18, 18),
            ("PCIDE", 17, 17),
            ("FSGSBASE", 16, 16),
            ("SMXE", 14, 14),
            ("VMXE", 13, 13),
            ("LA57", 12, 12),
            ("UMIP", 11, 11),
            ("OSXMMEXCPT", 10, 10),
            ("OSFXSR", 9, 9),
            ("PCE", 8, 8),
            ("PGE", 7, 7),
            ("MCE", 6, 6),
            ("PAE", 5, 5),
            ("PSE", 4, 4),
            ("DE", 3, 3),
            ("TSD", 2, 2),
            ("PVI", 1, 1),
            ("VME", 0, 0),
        ],
    ),
    (
        "x64_efer",
        8,
        &[
            ("TCE", 15, 15),
            ("FFXSR", 14, 14),
            ("LMSLE", 13, 13),
            ("SVME", 12, 12),
            ("NXE", 11, 11),
            ("LMA", 10, 10),
            ("LME", 8, 8),
            ("SCE", 0, 0),
        ],
    ),
    (
        "x64_mxcsr",
        4,
        &[
            ("IE", 0, 0),
            ("DE", 1, 1),
            ("ZE", 2, 2),
            ("OE", 3, 3),
            ("UE", 4, 4),
            ("PE", 5, 5),
            ("DAZ", 6, 6),
            ("IM", 7, 7),
            ("DM", 8, 8),
            ("ZM", 9, 9),
            ("OM", 10, 10),
            ("UM", 11, 11),
            ("PM", 12, 12),
            ("FZ", 15, 15),
        ],
    ),
];

/// The views of a vector register: name, element, number of elements.
const VECTORS: [(&str, &str, &str, u32); 6] = [
    ("v4f", "v4_float", "ieee_single", 4),
    ("v2d", "v2_double", "ieee_double", 2),
    ("v16i8", "v16_int8", "int8", 16),
    ("v8i16", "v8_int16", "int16", 8),
    ("v4i32", "v4_int32", "int32", 4),
    ("v2i64", "v2_int64", "int64", 2),
];

/// The document `target.xml`.
#[must_use]
pub fn description() -> String {
    let mut text = String::from(
        "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target>\
         <architecture>i386:x86-64</architecture>\n<feature name=\"org.gnu.gdb.i386.core\">\n",
    );
    // A string takes everything.
    for (name, size, fields) in FLAGS {
        let _ = writeln!(text, "<flags id=\"{name}\" size=\"{size}\">");
        for (name, start, end) in fields {
            let _ = writeln!(text, "<field name=\"{name}\" start=\"{start}\" end=\"{end}\"/>");
        }
        text.push_str("</flags>\n");
    }
    for (name, _, element, count) in VECTORS {
        let _ = writeln!(text, "<vector id=\"{name}\" type=\"{element}\" count=\"{count}\"/>");
    }
    text.push_str("<union id=\"vec128\">\n");
    for (vector, name, ..) in VECTORS {
        let _ = writeln!(text, "<field name=\"{name}\" type=\"{vector}\"/>");
    }
    text.push_str("<field name=\"uint128\" type=\"uint128\"/>\n</union>\n");
    let mut register = |name: &str, bits: u32, kind: &str, group: &str| {
        let group = if group.is_empty() { String::new() } else { format!(" group=\"{group}\"") };
        let _ = writeln!(text, "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"{group}/>");
    };
    for (name, _) in GENERAL {
        register(name, 64, if matches!(name, "rbp" | "rsp") { "data_ptr" } else { "int64" }, "");
    }
    for number in 8..16 {
        register(&format!("r{number}"), 64, "int64", "");
    }
    register("rip", 64, "code_ptr", "");
    register("eflags", 32, "x64_eflags", "");
    for (name, _) in SEGMENTS {
        register(name, 32, "int32", "");
    }
    for name in BASES {
        register(name, 64, "int64", "");
    }
    for (name, kind) in CONTROL {
        register(name, 64, kind, "");
    }
    for number in 0..8 {
        register(&format!("st{number}"), 80, "i387_ext", "");
    }
    for name in FPU {
        register(name, 32, "int", "float");
    }
    for number in 0..16 {
        register(&format!("xmm{number}"), 128, "vec128", "");
    }
    register("mxcsr", 32, "x64_mxcsr", "vector");
    text + "</feature>\n</target>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long_mode() -> Registers {
        let mut registers = Registers {
            xsave: vec![0; 832],
            msrs: vec![(KERNEL_GS_BASE, 7)],
            efer: 1 << 10 | 1 << 8,
            cr0: 1 << 31 | 1,
            ..Registers::default()
        };
        registers.segments[SegmentRegister::Cs as usize].attributes = 1 << 13;
        registers
    }

    #[test]
    fn registers_are_set_as_they_are_shown() {
        let mut registers = long_mode();
        assert!(set_one(&mut registers, 1, "8877665544332211"));
        assert_eq!(registers.gpr[3], 0x1122_3344_5566_7788);
        assert!(set_one(&mut registers, XMM, &"a5".repeat(16)));
        assert!(set_one(&mut registers, BASE + 2, "0000008080ffffff"));
        let mut again = long_mode();
        assert!(set_all(&mut again, &all(&registers)));
        assert_eq!(again, registers);
        assert!(!set_one(&mut registers, 1000, "00") && !set_one(&mut registers, 0, "zz"));
        assert!(!set_one(&mut registers, 0, "00") && !set_one(&mut registers, SEGMENT, "10000000"));
        assert_eq!(description().matches("<reg ").count(), COUNT);
    }

    #[test]
    fn outside_of_64_bit_code_registers_have_their_lower_halves() {
        let mut registers = Registers { xsave: vec![0; 832], ..Registers::default() };
        registers.gpr = [!0; 16];
        registers.rip = 0xfff0;
        assert_eq!(one(&registers, 0).as_deref(), Some("ffffffff00000000"));
        assert_eq!(one(&registers, 8).as_deref(), Some("0000000000000000"));
        assert!(set_one(&mut registers, SEGMENT, "00f00000"));
        assert_eq!(registers.segments[SegmentRegister::Cs as usize].base, 0xf_0000);
        // What gdb reads and writes back changes nothing.
        let before = registers.clone();
        assert!(set_all(&mut registers, &all(&before)));
        assert_eq!(registers, before);
    }

    #[test]
    fn control_registers_refuse_what_the_cpu_can_not_have() {
        let mut registers = long_mode();
        assert!(!set_one(&mut registers, CR, "0000008000000000"), "paging without protection");
        assert!(!set_one(&mut registers, CR, "0000000001000000"), "a reserved bit");
        assert!(!set_one(&mut registers, CR + 5, "0000000000000000"), "LME off");
        assert!(set_one(&mut registers, CR, "0100058000000000"));
        assert!(set_one(&mut registers, CR + 2, "0010000000000000"));
        assert_eq!((registers.cr0, registers.cr3), (0x8005_0001, 0x1000));
    }

    #[test]
    fn tag_word_says_which_registers_are_empty() {
        let mut registers = long_mode();
        assert_eq!(one(&registers, FP + 2).as_deref(), Some("ffff0000"));
        // One register was pushed: TOP is 7, ST0 is R7 and has the value 1.
        registers.xsave[3] = 7 << 3;
        registers.xsave[4] = 0x80;
        (registers.xsave[39], registers.xsave[40], registers.xsave[41]) = (0x80, 0xff, 0x3f);
        assert_eq!(one(&registers, FP + 2).as_deref(), Some("ff3f0000"));
        assert_eq!(one(&registers, ST).as_deref(), Some("0000000000000080ff3f"));
    }
}
