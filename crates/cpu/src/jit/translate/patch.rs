//! Renamed instructions by changing the guest's bytes, which is much cheaper than encoding them anew.
//!
//! Legacy encodings only (SDM volume 2, chapter 2): prefixes, REX, opcode, ModRM, SIB, displacement, immediate. What this
//! module does not know is left to the decoder's library ([`Translator::renamed`]).

use super::*;

/// The bytes of an instruction of a legacy encoding.
struct Parts<'a> {
    /// Prefixes that stay, in their order.
    prefixes: [u8; 4],
    prefix_count: usize,
    rex: u8,
    /// 0: one-byte opcodes; 1: 0F; 2: 0F 38; 3: 0F 3A.
    map: u8,
    opcode: u8,
    /// ModRM and what follows.
    rest: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let mut parts = Self { prefixes: [0; 4], prefix_count: 0, rex: 0, map: 0, opcode: 0, rest: &[] };
        let mut rest = bytes;
        loop {
            let (&byte, tail) = rest.split_first()?;
            match byte {
                0x66 | 0xf0 | 0xf2 | 0xf3 => {
                    *parts.prefixes.get_mut(parts.prefix_count)? = byte;
                    parts.prefix_count += 1;
                }
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 => {}
                0x40..=0x4f => {
                    parts.rex = byte;
                    rest = tail;
                    break;
                }
                _ => break,
            }
            rest = tail;
        }
        let (&first, tail) = rest.split_first()?;
        (parts.opcode, parts.rest) = (first, tail);
        match first {
            // VEX, EVEX and XOP (8F with a map), address sizes, a second REX, or a prefix behind one.
            0x62 | 0xc4 | 0xc5 | 0x8f | 0x67 | 0x66 | 0xf0 | 0xf2 | 0xf3 | 0x40..=0x4f => return None,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xd5 => return None,
            0x0f => {
                let (&second, tail) = tail.split_first()?;
                (parts.map, parts.opcode, parts.rest) = (1, second, tail);
                if matches!(second, 0x38 | 0x3a) {
                    let (&third, tail) = tail.split_first()?;
                    (parts.map, parts.opcode, parts.rest) = (if second == 0x38 { 2 } else { 3 }, third, tail);
                }
            }
            _ => {}
        }
        Some(parts)
    }

    /// Whether the ModRM byte's fields are general registers: (reg, r/m). `None`: not known.
    fn fields(&self) -> Option<(bool, bool)> {
        match (self.map, self.opcode) {
            (0, 0x00..=0x3f) if self.opcode & 7 < 4 => Some((true, true)),
            (0, 0x63 | 0x69 | 0x6b | 0x84..=0x8b) => Some((true, true)),
            (0, 0x80 | 0x81 | 0x83 | 0xc0 | 0xc1 | 0xc6 | 0xc7 | 0xd0..=0xd3 | 0xf6 | 0xf7 | 0xfe | 0xff) => {
                Some((false, true))
            }
            (1, 0x40..=0x4f | 0xa3 | 0xa4 | 0xa5 | 0xab..=0xad | 0xaf | 0xb0 | 0xb1 | 0xb3) => Some((true, true)),
            (1, 0xb6..=0xb8 | 0xbb..=0xbf | 0xc0 | 0xc1) => Some((true, true)),
            (1, 0x90..=0x9f | 0xba) => Some((false, true)),
            _ => None,
        }
    }

    /// Whether the opcode's low bits are a general register, and there is no ModRM.
    fn has_register(&self) -> bool {
        matches!((self.map, self.opcode), (0, 0xb0..=0xbf) | (1, 0xc8..=0xcf))
    }

    fn write(&self, rex: u8, opcode: u8, behind: [&[u8]; 2]) -> Option<Encoded> {
        let mut code = Encoded::default();
        let mut put = |bytes: &[u8]| {
            let at = usize::from(code.len);
            code.bytes.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
            code.len += bytes.len() as u8;
            Some(())
        };
        put(self.prefixes.get(..self.prefix_count)?)?;
        if rex != 0 || self.rex != 0 {
            put(&[0x40 | rex])?;
        }
        match self.map {
            0 => {}
            1 => put(&[0x0f])?,
            2 => put(&[0x0f, 0x38])?,
            _ => put(&[0x0f, 0x3a])?,
        }
        put(&[opcode])?;
        put(behind[0])?;
        put(behind[1])?;
        (code.len <= 15).then_some(code)
    }
}

/// Bytes of SIB and displacement behind a ModRM byte with a memory operand.
fn operand_bytes(modrm: u8, rest: &[u8]) -> Option<usize> {
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let sib = usize::from(rm == 4);
    let displacement = match mode {
        0 if rm == 5 => 4,
        0 if rm == 4 && rest.first()? & 7 == 5 => 4,
        0 => 0,
        1 => 1,
        _ => 4,
    };
    Some(sib + displacement)
}

/// What [`Translator::renamed`] and the encoder would make of an instruction, where that is simple.
pub(super) fn patched(item: &Item, assigned: &[(u8, u8)], memory: Replace) -> Option<Encoded> {
    let ins = &item.ins;
    let bytes = item.code.bytes();
    if bytes.len() != ins.len() {
        return None;
    }
    let host = |n: u8| {
        let own = assigned.iter().find(|(guest, _)| *guest == n).map(|(_, host)| *host);
        own.or_else(|| host_register(n))
    };
    let (mut has_memory, mut renames, mut high) = (false, false, false);
    for n in 0..ins.op_count() {
        match ins.op_kind(n) {
            OpKind::Memory => has_memory = true,
            OpKind::Register => {
                let register = ins.op_register(n);
                if register_size(register) == 0 {
                    continue;
                }
                let number = register_number(register);
                high |= number >= 16;
                renames |= number < 16 && host(number) != Some(number);
            }
            kind if is_immediate(kind) => {}
            _ => return None,
        }
    }
    if ins.encoding() != EncodingKind::Legacy {
        return (!has_memory && !renames).then_some(item.code);
    }
    let parts = Parts::of(bytes)?;
    // Before integer instructions these may mean something to another processor.
    if !item.vector && parts.prefixes.iter().any(|prefix| matches!(prefix, 0xf2 | 0xf3)) {
        return None;
    }
    if !has_memory && !renames {
        return Some(item.code);
    }
    // Byte registers 4 to 7 change their meaning with REX.
    if high {
        return None;
    }
    let rename = |field: u8, extension: u8| host(field | extension << 3);
    let wide = parts.rex & 8;
    if parts.has_register() {
        let new = rename(parts.opcode & 7, parts.rex & 1)?;
        return parts.write(wide | new >> 3, parts.opcode & !7 | new & 7, [parts.rest, &[]]);
    }
    let (&modrm, behind) = parts.rest.split_first()?;
    if matches!((parts.map, parts.opcode), (0, 0x90..=0xaf)) {
        return None;
    }
    let fields = parts.fields();
    let (mut reg, mut reg_high) = (modrm >> 3 & 7, parts.rex >> 2 & 1);
    if renames && fields?.0 {
        let new = rename(reg, reg_high)?;
        (reg, reg_high) = (new & 7, new >> 3);
    }
    let rex = wide | reg_high << 2;
    let reg = reg << 3;
    if modrm >> 6 == 3 {
        if has_memory || !fields?.1 {
            return None;
        }
        let new = rename(modrm & 7, parts.rex & 1)?;
        return parts.write(rex | new >> 3, parts.opcode, [&[0xc0 | reg | new & 7], behind]);
    }
    if !has_memory {
        return None;
    }
    let immediate = behind.get(operand_bytes(modrm, behind)?..)?;
    match memory {
        Replace::Register(new, _) if fields?.1 => {
            parts.write(rex | new >> 3, parts.opcode, [&[0xc0 | reg | new & 7], immediate])
        }
        Replace::Register(..) => None,
        Replace::Form(Form::Pointer) => parts.write(rex | 1, parts.opcode, [&[reg | S0 & 7], immediate]),
        Replace::Form(Form::Indexed) => {
            parts.write(rex | 3, parts.opcode, [&[reg | 4, (S1 & 7) << 3 | S0 & 7], immediate])
        }
    }
}

/// Whether two encodings are the same instruction.
#[cfg(debug_assertions)]
pub(super) fn is_same(one: &Encoded, other: &Encoded) -> bool {
    let decoded = |code: &Encoded| iced_x86::Decoder::new(64, code.bytes(), 0).decode();
    let (one, other) = (decoded(one), decoded(other));
    let operand = |ins: &Instruction, n: u32| {
        let kind = ins.op_kind(n);
        let register = if kind == OpKind::Register { ins.op_register(n) } else { Register::None };
        (kind, register, if is_immediate(kind) { ins.immediate(n) } else { 0 })
    };
    let memory = |ins: &Instruction| (ins.memory_base(), ins.memory_index(), ins.memory_displacement64());
    one.code() == other.code()
        && (0..one.op_count()).all(|n| operand(&one, n) == operand(&other, n))
        && memory(&one) == memory(&other)
        && one.has_lock_prefix() == other.has_lock_prefix()
}
