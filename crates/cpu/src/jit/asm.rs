//! A small assembler for what the translator adds around the guest's own instructions: moves, address arithmetic,
//! compares and jumps. Encodings: SDM volume 2, chapters 2 to 5.
//!
//! Registers are their numbers, 0 to 15. Sizes are in bytes.

/// The first scratch register.
pub(super) const S0: u8 = 14;
/// The second scratch register.
pub(super) const S1: u8 = 15;

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mem {
    /// An address below 2 GiB.
    Abs(u32),
    /// `[base + displacement]`.
    Base(u8, i32),
    /// `[base + index << scale + displacement]`; the index is not register 4.
    Index(u8, u8, u8, i32),
    /// `[index << scale + displacement]`; the index is not register 4.
    Scaled(u8, u8, i32),
}

/// The operations of opcode group 1, by their encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Alu {
    Add = 0,
    Or = 1,
    And = 4,
    Sub = 5,
    Xor = 6,
    Cmp = 7,
}

/// Condition codes as in Jcc and SETcc.
pub(super) mod cc {
    pub(crate) const O: u8 = 0;
    pub(crate) const B: u8 = 2;
    pub(crate) const AE: u8 = 3;
    pub(crate) const E: u8 = 4;
    pub(crate) const NE: u8 = 5;
    pub(crate) const BE: u8 = 6;
    pub(crate) const A: u8 = 7;
}

/// A place in the code that is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Label(u32);

impl Label {
    /// What [`Self::from_number`] makes a label of.
    pub(super) fn number(self) -> u64 {
        u64::from(self.0)
    }

    pub(super) fn from_number(number: u64) -> Self {
        Self(number as u32)
    }
}

/// Code that is being made, for a known address.
#[derive(Default)]
pub(super) struct Asm {
    /// Its first bytes are code.
    buffer: Vec<u8>,
    len: usize,
    base: u64,
    labels: Vec<Option<u32>>,
    fixups: Vec<(u32, Label)>,
}

impl Asm {
    /// Code that will be executed at `base`.
    pub(super) fn new(base: u64) -> Self {
        Self { base, ..Self::default() }
    }

    /// Starts anew.
    pub(super) fn reset(&mut self, base: u64) {
        self.base = base;
        self.len = 0;
        self.labels.clear();
        self.fixups.clear();
    }

    /// The distance from the start.
    pub(super) fn here(&self) -> u32 {
        self.len as u32
    }

    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() as u32 - 1)
    }

    pub(super) fn bind(&mut self, label: Label) {
        let here = self.here();
        if let Some(slot) = self.labels.get_mut(label.0 as usize) {
            *slot = Some(here);
        }
    }

    /// The distance of a bound label from the start.
    pub(super) fn offset(&self, label: Label) -> Option<u32> {
        self.labels.get(label.0 as usize).copied().flatten()
    }

    /// Fills in all the jumps to labels. `None`: a label was never bound.
    pub(super) fn finish(&mut self) -> Option<&[u8]> {
        for (at, label) in &self.fixups {
            let target = self.labels.get(label.0 as usize).copied().flatten()?;
            let distance = target.wrapping_sub(at + 4);
            self.buffer.get_mut(*at as usize..*at as usize + 4)?.copy_from_slice(&distance.to_le_bytes());
        }
        self.buffer.get(..self.len)
    }

    /// Appends bytes, whose number is best known to the compiler.
    #[inline(always)]
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        if end > self.buffer.len() {
            self.grow(end);
        }
        if let Some(to) = self.buffer.get_mut(self.len..end) {
            to.copy_from_slice(bytes);
        }
        self.len = end;
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, end: usize) {
        self.buffer.resize(end.next_power_of_two().max(16 << 10), 0);
    }

    #[inline(always)]
    fn byte(&mut self, byte: u8) {
        self.bytes(&[byte]);
    }

    /// The first `len` of some bytes.
    #[inline]
    pub(super) fn some_bytes(&mut self, bytes: &[u8; 16], len: u8) {
        // A copy of a known size is cheaper than one of the right size.
        let end = self.len + usize::from(len.min(16));
        self.bytes(bytes);
        self.len = end;
    }

    #[inline(always)]
    fn dword(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    #[inline(always)]
    fn opcode(&mut self, opcode: &[u8]) {
        match *opcode {
            [one] => self.byte(one),
            [one, two] => self.bytes(&[one, two]),
            _ => self.bytes(opcode),
        }
    }

    /// An instruction with a memory operand. `opcode` holds 0F escapes; `prefix` is 66, F2, F3 or 0.
    fn mem(&mut self, prefix: u8, size: u8, opcode: &[u8], reg: u8, mem: Mem) {
        if prefix != 0 {
            self.byte(prefix);
        } else if size == 2 {
            self.byte(0x66);
        }
        let (index, base) = match mem {
            Mem::Abs(_) => (0, 0),
            Mem::Base(base, _) => (0, base),
            Mem::Index(base, index, ..) => (index, base),
            Mem::Scaled(index, ..) => (index, 0),
        };
        let mut rex = if size == 8 { 0x48 } else { 0 };
        rex |= (reg >> 3 & 1) << 2 | (index >> 3 & 1) << 1 | base >> 3 & 1;
        if rex != 0 || (size == 1 && reg >= 4) {
            self.byte(0x40 | rex);
        }
        self.opcode(opcode);
        let reg = (reg & 7) << 3;
        match mem {
            Mem::Abs(address) => {
                self.bytes(&[reg | 4, 0x25]);
                self.dword(address);
            }
            Mem::Base(base, displacement) => self.base(reg, base, displacement, None),
            Mem::Index(base, index, scale, displacement) => {
                self.base(reg, base, displacement, Some(scale << 6 | (index & 7) << 3));
            }
            Mem::Scaled(index, scale, displacement) => {
                self.bytes(&[reg | 4, scale << 6 | (index & 7) << 3 | 5]);
                self.dword(displacement as u32);
            }
        }
    }

    fn base(&mut self, reg: u8, base: u8, displacement: i32, sib: Option<u8>) {
        let low = base & 7;
        let mode = match displacement {
            0 if low != 5 => 0,
            -128..=127 => 0x40,
            _ => 0x80,
        };
        match sib {
            Some(sib) => self.bytes(&[mode | reg | 4, sib | low]),
            None if low == 4 => self.bytes(&[mode | reg | 4, 0x24]),
            None => self.byte(mode | reg | low),
        }
        match mode {
            0x40 => self.byte(displacement as u8),
            0x80 => self.dword(displacement as u32),
            _ => {}
        }
    }

    /// An instruction with a register as its r/m operand.
    fn reg(&mut self, size: u8, opcode: &[u8], reg: u8, rm: u8) {
        if size == 2 {
            self.byte(0x66);
        }
        let mut rex = if size == 8 { 0x48 } else { 0 };
        rex |= (reg >> 3 & 1) << 2 | rm >> 3 & 1;
        if rex != 0 || (size == 1 && (reg >= 4 || rm >= 4)) {
            self.byte(0x40 | rex);
        }
        self.opcode(opcode);
        self.byte(0xc0 | (reg & 7) << 3 | rm & 7);
    }

    /// `mov register, [memory]`; a dword clears the upper half, smaller sizes keep the rest.
    pub(super) fn load(&mut self, size: u8, reg: u8, mem: Mem) {
        self.mem(0, size, if size == 1 { &[0x8a] } else { &[0x8b] }, reg, mem);
    }

    /// `mov` with zero extension to 64 bits.
    pub(super) fn load_zx(&mut self, size: u8, reg: u8, mem: Mem) {
        match size {
            1 => self.mem(0, 4, &[0x0f, 0xb6], reg, mem),
            2 => self.mem(0, 4, &[0x0f, 0xb7], reg, mem),
            _ => self.load(size, reg, mem),
        }
    }

    /// `mov [memory], register`.
    pub(super) fn store(&mut self, size: u8, mem: Mem, reg: u8) {
        self.mem(0, size, if size == 1 { &[0x88] } else { &[0x89] }, reg, mem);
    }

    /// `mov [memory], immediate`, sign-extended for a qword.
    pub(super) fn store_imm(&mut self, size: u8, mem: Mem, value: i32) {
        self.mem(0, size, if size == 1 { &[0xc6] } else { &[0xc7] }, 0, mem);
        match size {
            1 => self.byte(value as u8),
            2 => self.bytes(&(value as u16).to_le_bytes()),
            _ => self.dword(value as u32),
        }
    }

    pub(super) fn mov(&mut self, size: u8, to: u8, from: u8) {
        self.reg(size, if size == 1 { &[0x8a] } else { &[0x8b] }, to, from);
    }

    /// The shortest move of a constant.
    pub(super) fn mov_imm(&mut self, reg: u8, value: u64) {
        if let Ok(low) = u32::try_from(value) {
            if reg >= 8 {
                self.byte(0x41);
            }
            self.byte(0xb8 | reg & 7);
            self.dword(low);
        } else if i64::from(value as i32) as u64 == value {
            self.reg(8, &[0xc7], 0, reg);
            self.dword(value as u32);
        } else {
            self.bytes(&[0x48 | reg >> 3, 0xb8 | reg & 7]);
            self.bytes(&value.to_le_bytes());
        }
    }

    pub(super) fn lea(&mut self, size: u8, reg: u8, mem: Mem) {
        self.mem(0, size, &[0x8d], reg, mem);
    }

    pub(super) fn alu(&mut self, size: u8, op: Alu, to: u8, from: u8) {
        let opcode = (op as u8) << 3 | if size == 1 { 2 } else { 3 };
        self.reg(size, &[opcode], to, from);
    }

    pub(super) fn alu_mem(&mut self, size: u8, op: Alu, to: u8, from: Mem) {
        let opcode = (op as u8) << 3 | if size == 1 { 2 } else { 3 };
        self.mem(0, size, &[opcode], to, from);
    }

    pub(super) fn alu_imm(&mut self, size: u8, op: Alu, to: u8, value: i32) {
        if size == 1 {
            self.reg(1, &[0x80], op as u8, to);
            self.byte(value as u8);
        } else if let Ok(byte) = i8::try_from(value) {
            self.reg(size, &[0x83], op as u8, to);
            self.byte(byte as u8);
        } else {
            self.reg(size, &[0x81], op as u8, to);
            if size == 2 { self.bytes(&(value as u16).to_le_bytes()) } else { self.dword(value as u32) }
        }
    }

    /// `op [memory], register`.
    pub(super) fn alu_to_mem(&mut self, size: u8, op: Alu, to: Mem, from: u8) {
        let opcode = (op as u8) << 3 | if size == 1 { 0 } else { 1 };
        self.mem(0, size, &[opcode], from, to);
    }

    /// `op [memory], immediate` for dwords and qwords.
    pub(super) fn alu_mem_imm(&mut self, size: u8, op: Alu, to: Mem, value: i32) {
        match i8::try_from(value) {
            Ok(byte) => self.alu_mem_imm8(size, op, to, byte),
            Err(_) => {
                self.mem(0, size, &[0x81], op as u8, to);
                self.dword(value as u32);
            }
        }
    }

    /// An operation on memory with a byte-sized immediate, sign-extended.
    pub(super) fn alu_mem_imm8(&mut self, size: u8, op: Alu, to: Mem, value: i8) {
        self.mem(0, size, if size == 1 { &[0x80] } else { &[0x83] }, op as u8, to);
        self.byte(value as u8);
    }

    /// `cmp dword [memory], imm32`; the distance of the immediate from the start.
    pub(super) fn cmp_mem_imm32(&mut self, mem: Mem, value: u32) -> u32 {
        self.mem(0, 4, &[0x81], Alu::Cmp as u8, mem);
        self.dword(value);
        self.here() - 4
    }

    pub(super) fn test(&mut self, size: u8, a: u8, b: u8) {
        self.reg(size, if size == 1 { &[0x84] } else { &[0x85] }, b, a);
    }

    pub(super) fn test_mem(&mut self, size: u8, mem: Mem, reg: u8) {
        self.mem(0, size, if size == 1 { &[0x84] } else { &[0x85] }, reg, mem);
    }

    pub(super) fn test_imm8(&mut self, reg: u8, value: u8) {
        self.reg(1, &[0xf6], 0, reg);
        self.byte(value);
    }

    pub(super) fn shl(&mut self, size: u8, reg: u8, count: u8) {
        self.reg(size, &[0xc1], 4, reg);
        self.byte(count);
    }

    pub(super) fn shr(&mut self, size: u8, reg: u8, count: u8) {
        self.reg(size, &[0xc1], 5, reg);
        self.byte(count);
    }

    /// `rorx to, from, count` of dwords, which changes no flags.
    pub(super) fn rorx(&mut self, to: u8, from: u8, count: u8) {
        // VEX.LZ.F2.0F3A.W0 F0 /r ib; R and B are inverted.
        let registers = (!(to >> 3) & 1) << 7 | 0x40 | (!(from >> 3) & 1) << 5;
        self.bytes(&[0xc4, registers | 3, 0x7b, 0xf0, 0xc0 | (to & 7) << 3 | from & 7, count]);
    }

    pub(super) fn sar(&mut self, size: u8, reg: u8, count: u8) {
        self.reg(size, &[0xc1], 7, reg);
        self.byte(count);
    }

    pub(super) fn neg(&mut self, size: u8, reg: u8) {
        self.reg(size, if size == 1 { &[0xf6] } else { &[0xf7] }, 3, reg);
    }

    pub(super) fn inc(&mut self, size: u8, reg: u8) {
        self.reg(size, if size == 1 { &[0xfe] } else { &[0xff] }, 0, reg);
    }

    pub(super) fn dec(&mut self, size: u8, reg: u8) {
        self.reg(size, if size == 1 { &[0xfe] } else { &[0xff] }, 1, reg);
    }

    /// `bt dword [memory], bit`: the bit becomes CF.
    pub(super) fn bt_mem(&mut self, mem: Mem, bit: u8) {
        self.mem(0, 4, &[0x0f, 0xba], 4, mem);
        self.byte(bit);
    }

    /// `bt qword [memory], register`, with a register below 64.
    pub(super) fn bt_mem_reg(&mut self, mem: Mem, reg: u8) {
        self.mem(0, 8, &[0x0f, 0xa3], reg, mem);
    }

    /// `bt value, offset`, which counts modulo the size.
    pub(super) fn bt(&mut self, size: u8, value: u8, offset: u8) {
        self.reg(size, &[0x0f, 0xa3], offset, value);
    }

    /// `bts`, `btr` or `btc` of a word in memory, with a register below its number of bits.
    pub(super) fn change_bit(&mut self, lock: bool, size: u8, opcode: u8, mem: Mem, reg: u8) {
        if lock {
            self.byte(0xf0);
        }
        self.mem(0, size, &[0x0f, opcode], reg, mem);
    }

    pub(super) fn movsxd(&mut self, to: u8, from: u8) {
        self.reg(8, &[0x63], to, from);
    }

    /// `movsxd register, dword [memory]`.
    pub(super) fn load_sx(&mut self, to: u8, from: Mem) {
        self.mem(0, 8, &[0x63], to, from);
    }

    pub(super) fn setcc_mem(&mut self, condition: u8, mem: Mem) {
        self.mem(0, 1, &[0x0f, 0x90 | condition], 0, mem);
    }

    /// `add byte [memory], register`.
    pub(super) fn add_to_mem8(&mut self, mem: Mem, reg: u8) {
        self.mem(0, 1, &[0x00], reg, mem);
    }

    /// Stores the low bit of a register as a byte. Changes the register and the flags.
    pub(super) fn and_low_bit_into(&mut self, reg: u8, mem: Mem) {
        self.alu_imm(4, Alu::And, reg, 1);
        self.store(1, mem, reg);
    }

    pub(super) fn setcc(&mut self, condition: u8, reg: u8) {
        self.reg(1, &[0x0f, 0x90 | condition], 0, reg);
    }

    pub(super) fn lahf(&mut self) {
        self.byte(0x9f);
    }

    pub(super) fn sahf(&mut self) {
        self.byte(0x9e);
    }

    pub(super) fn xchg(&mut self, a: u8, b: u8) {
        self.reg(8, &[0x87], a, b);
    }

    pub(super) fn push(&mut self, reg: u8) {
        if reg >= 8 {
            self.byte(0x41);
        }
        self.byte(0x50 | reg & 7);
    }

    pub(super) fn pop(&mut self, reg: u8) {
        if reg >= 8 {
            self.byte(0x41);
        }
        self.byte(0x58 | reg & 7);
    }

    pub(super) fn push_mem(&mut self, mem: Mem) {
        self.mem(0, 4, &[0xff], 6, mem);
    }

    pub(super) fn pop_mem(&mut self, mem: Mem) {
        self.mem(0, 4, &[0x8f], 0, mem);
    }

    pub(super) fn fldcw(&mut self, mem: Mem) {
        self.mem(0, 4, &[0xd9], 5, mem);
    }

    pub(super) fn pushf(&mut self) {
        self.byte(0x9c);
    }

    pub(super) fn popf(&mut self) {
        self.byte(0x9d);
    }

    /// `rep movs` (or `rep stos`) of items of a size.
    pub(super) fn rep_string(&mut self, stos: bool, size: u8) {
        self.byte(0xf3);
        match size {
            2 => self.byte(0x66),
            8 => self.byte(0x48),
            _ => {}
        }
        self.byte(if stos { 0xaa } else { 0xa4 } | u8::from(size != 1));
    }

    pub(super) fn ret(&mut self) {
        self.byte(0xc3);
    }

    pub(super) fn vzeroupper(&mut self) {
        self.bytes(&[0xc5, 0xf8, 0x77]);
    }

    pub(super) fn jmp(&mut self, label: Label) {
        self.byte(0xe9);
        self.fix(label);
    }

    pub(super) fn jcc(&mut self, condition: u8, label: Label) {
        self.bytes(&[0x0f, 0x80 | condition]);
        self.fix(label);
    }

    /// `jrcxz` over the next `distance` bytes.
    pub(super) fn jrcxz(&mut self, distance: u8) {
        self.bytes(&[0xe3, distance]);
    }

    fn fix(&mut self, label: Label) {
        let here = self.here();
        self.fixups.push((here, label));
        self.dword(0);
    }

    /// `jmp` to an address within 2 GiB.
    pub(super) fn jmp_to(&mut self, target: u64) {
        self.byte(0xe9);
        self.rel32(target);
    }

    pub(super) fn call_to(&mut self, target: u64) {
        self.byte(0xe8);
        self.rel32(target);
    }

    fn rel32(&mut self, target: u64) {
        let next = self.base + u64::from(self.here()) + 4;
        self.dword(target.wrapping_sub(next) as u32);
    }

    pub(super) fn jmp_reg(&mut self, reg: u8) {
        self.reg(4, &[0xff], 4, reg);
    }

    pub(super) fn jmp_mem(&mut self, mem: Mem) {
        self.mem(0, 4, &[0xff], 4, mem);
    }

    pub(super) fn call_mem(&mut self, mem: Mem) {
        self.mem(0, 4, &[0xff], 2, mem);
    }

    pub(super) fn ldmxcsr(&mut self, mem: Mem) {
        self.mem(0, 4, &[0x0f, 0xae], 2, mem);
    }

    pub(super) fn stmxcsr(&mut self, mem: Mem) {
        self.mem(0, 4, &[0x0f, 0xae], 3, mem);
    }

    /// `movaps` of sixteen bytes.
    pub(super) fn load_xmm(&mut self, xmm: u8, mem: Mem) {
        self.mem(0, 4, &[0x0f, 0x28], xmm, mem);
    }

    pub(super) fn store_xmm(&mut self, mem: Mem, xmm: u8) {
        self.mem(0, 4, &[0x0f, 0x29], xmm, mem);
    }

    /// An instruction of map 0F with a three-byte VEX prefix, no second source but register 0, and `[base + displacement]`.
    fn vex(&mut self, wide: bool, opcode: u8, reg: u8, base: u8, displacement: i32) {
        // R and B are inverted.
        self.bytes(&[0xc4, (!(reg >> 3) & 1) << 7 | 0x40 | (!(base >> 3) & 1) << 5 | 1, 0x78 | u8::from(wide) << 2]);
        self.byte(opcode);
        self.base((reg & 7) << 3, base, displacement, None);
    }

    /// `vmovaps` of 32 bytes at `[base + displacement]`.
    pub(super) fn move_ymm(&mut self, store: bool, ymm: u8, base: u8, displacement: i32) {
        self.vex(true, if store { 0x29 } else { 0x28 }, ymm, base, displacement);
    }

    /// `vmovaps` of 16 bytes from `[base + displacement]`, which clears the upper half.
    pub(super) fn load_xmm_alone(&mut self, xmm: u8, base: u8, displacement: i32) {
        self.vex(false, 0x28, xmm, base, displacement);
    }

    /// `vorps xmm0, xmm0, [base + displacement]`.
    pub(super) fn or_into_xmm0(&mut self, base: u8, displacement: i32) {
        self.vex(false, 0x56, 0, base, displacement);
    }

    /// `vptest xmm0, xmm0`: ZF says whether all bits are clear.
    pub(super) fn test_xmm0(&mut self) {
        self.bytes(&[0xc4, 0xe2, 0x79, 0x17, 0xc0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(build: impl FnOnce(&mut Asm)) -> Vec<iced_x86::Instruction> {
        let mut asm = Asm::new(0x1000);
        build(&mut asm);
        let code = asm.finish().expect("labels");
        iced_x86::Decoder::with_ip(64, code, 0x1000, 0).iter().collect()
    }

    #[test]
    fn memory_forms_decode_as_meant() {
        use iced_x86::Register as R;
        let list = decoded(|asm| {
            asm.load(8, 15, Mem::Index(12, 13, 3, -200));
            asm.load(1, 6, Mem::Base(13, 0));
            asm.store(2, Mem::Base(4, 8), 9);
            asm.lea(4, 1, Mem::Scaled(9, 2, 64));
            asm.store_imm(8, Mem::Abs(0x7fff_0000), -1);
            asm.move_ymm(true, 9, 14, 256);
            asm.rorx(15, 6, 7);
            asm.load_xmm_alone(9, 15, 256);
            asm.or_into_xmm0(15, 16);
            asm.test_xmm0();
            asm.alu_to_mem(8, Alu::Sub, Mem::Abs(0x1000), 9);
            asm.alu_mem_imm(4, Alu::Or, Mem::Abs(0x1000), 0x1234);
        });
        assert_eq!(list.len(), 12);
        assert_eq!((list[0].memory_base(), list[0].memory_index()), (R::R12, R::R13));
        assert_eq!(list[0].memory_displacement64() as i64, -200);
        assert_eq!((list[1].op0_register(), list[1].memory_base()), (R::SIL, R::R13));
        assert_eq!((list[2].op1_register(), list[2].memory_base()), (R::R9W, R::RSP));
        assert_eq!((list[3].op0_register(), list[3].memory_index_scale()), (R::ECX, 4));
        assert_eq!((list[4].memory_displacement64(), list[4].memory_base()), (0x7fff_0000, R::None));
        assert_eq!((list[5].op1_register(), list[5].memory_base()), (R::YMM9, R::R14));
        assert_eq!((list[6].op0_register(), list[6].op1_register()), (R::R15D, R::ESI));
        assert_eq!((list[6].mnemonic(), list[6].immediate8()), (iced_x86::Mnemonic::Rorx, 7));
        assert_eq!((list[7].code(), list[7].op0_register()), (iced_x86::Code::VEX_Vmovaps_xmm_xmmm128, R::XMM9));
        assert_eq!((list[8].op1_register(), list[8].memory_base()), (R::XMM0, R::R15));
        assert_eq!((list[8].mnemonic(), list[9].mnemonic()), (iced_x86::Mnemonic::Vorps, iced_x86::Mnemonic::Vptest));
        assert_eq!((list[10].mnemonic(), list[10].op1_register()), (iced_x86::Mnemonic::Sub, R::R9));
        assert_eq!((list[11].mnemonic(), list[11].immediate32()), (iced_x86::Mnemonic::Or, 0x1234));
    }

    #[test]
    fn jumps_reach_their_labels() {
        let list = decoded(|asm| {
            let end = asm.label();
            asm.jcc(cc::NE, end);
            asm.jmp_to(0x1234);
            asm.bind(end);
            asm.ret();
        });
        assert_eq!(list[0].near_branch64(), 0x100b);
        assert_eq!(list[1].near_branch64(), 0x1234);
    }
}
