//! Snippets made of chosen instructions: operands that mostly address the data, forward branches, bounded loops, calls.
//!
//! What is known of the registers are their values at the start; a memory operand's displacement is chosen for them, so
//! that it mostly hits the data while the registers have not been changed.

mod operands;

use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Instruction, InstructionInfoFactory, Mnemonic as M, OpAccess,
    OpCodeOperandKind as K, OpKind, Register,
};

use super::catalog::{Catalog, Entry};
use super::native::CODE_LEN;
use super::random::{Random, pointer};
use super::state::State;
use crate::common::CODE;

/// What a snippet is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Theme {
    Any,
    Integer,
    X87,
    Vector,
    Mixed,
}

enum Item {
    Plain(Instruction),
    Branch(Code, usize),
    /// The address of a label to a register.
    Address(u32, usize),
    Label(usize),
}

/// A finished snippet.
pub struct Snippet {
    pub code: [u8; CODE_LEN],
    pub len: usize,
    pub at: usize,
    /// Each instruction, and whether it has a memory operand.
    pub codes: Vec<(Code, bool)>,
    pub mnemonics: Vec<M>,
}

/// Registers by number, as bits.
type Registers = u32;
const RSP: u32 = 4;

pub struct Assembler<'a> {
    random: &'a mut Random,
    catalog: &'a Catalog,
    state: &'a mut State,
    bits: u32,
    info: InstructionInfoFactory,
    encoder: Encoder,
    /// General registers that earlier instructions may have changed.
    written: Registers,
    /// General registers whose initial value something relies on.
    used: Registers,
    /// General registers that must not be written now: counters of loops, the stack pointer in a subroutine.
    reserved: Registers,
    /// The same as `written | used` for vector registers.
    vectors: Registers,
    items: Vec<Item>,
    labels: usize,
    /// A comparison of the x87 unit leaves bits of the status word that are not compared: there is one, or there is an
    /// instruction that could show them. Loops make the order of no account.
    compares: bool,
    reads_status: bool,
    /// All x87 exceptions are masked at the start.
    masked: bool,
    address32: bool,
}

impl<'a> Assembler<'a> {
    pub fn new(random: &'a mut Random, catalog: &'a Catalog, state: &'a mut State, bits: u32) -> Self {
        let masked = state.word(0) & 0x3f == 0x3f;
        Self {
            random,
            catalog,
            state,
            bits,
            info: InstructionInfoFactory::new(),
            encoder: Encoder::new(bits),
            written: 0,
            used: 0,
            reserved: 0,
            vectors: 0,
            items: Vec::new(),
            labels: 0,
            compares: false,
            reads_status: false,
            masked,
            address32: false,
        }
    }

    /// A random snippet; `None` where it did not work out.
    pub fn snippet(mut self) -> Option<Snippet> {
        let theme = match self.random.below(8) {
            0..=2 => Theme::Any,
            3..=4 => Theme::Integer,
            5 => Theme::X87,
            6 => Theme::Vector,
            _ => Theme::Mixed,
        };
        if self.random.one_in(3) {
            self.plain(theme);
        } else {
            let budget = 2 + self.random.below(7);
            self.block(theme, budget, 0);
        }
        self.finish()
    }

    fn block(&mut self, theme: Theme, budget: u64, depth: u32) {
        for _ in 0..budget {
            match self.random.below(if depth < 2 { 24 } else { 14 }) {
                14..=16 => self.skip(theme, depth),
                17..=18 => self.counted(theme, depth),
                19 => self.call(theme, depth),
                20 => self.indirect(theme, depth),
                21 => self.set_flags(),
                22 => self.odd_branch(),
                _ => self.plain(theme),
            }
        }
    }

    fn label(&mut self) -> usize {
        self.labels += 1;
        self.labels - 1
    }

    /// One instruction without a relative branch.
    fn plain(&mut self, theme: Theme) {
        let catalog = self.catalog;
        for _ in 0..8 {
            let table = match (theme, self.random.below(10)) {
                (Theme::Any, _) => &catalog.all,
                (Theme::Integer, 0..=6) => &catalog.integer,
                (Theme::Integer, 7..=8) => &catalog.consumers,
                (Theme::X87, 0..=7) => &catalog.x87,
                (Theme::Vector, 0..=7) => &catalog.vector,
                (Theme::Mixed, 0..=2) => &catalog.integer,
                (Theme::Mixed, 3..=4) => &catalog.consumers,
                (Theme::Mixed, 5..=6) => &catalog.vector,
                (Theme::Mixed, 7) => &catalog.x87,
                _ => &catalog.all,
            };
            let entry = table[self.random.below(table.len() as u64) as usize];
            if let Some(instruction) = self.instruction(&entry) {
                self.push(instruction);
                return;
            }
        }
    }

    fn push(&mut self, instruction: Instruction) {
        self.note_writes(&instruction);
        self.items.push(Item::Plain(instruction));
    }

    /// Records what an instruction writes; `false` if it must not.
    fn may_write(&mut self, instruction: &Instruction) -> bool {
        let reserved = self.reserved;
        let info = self.info.info(instruction);
        info.used_registers().iter().all(|used| !writes(used.access()) || general(used.register()) & reserved == 0)
    }

    fn note_writes(&mut self, instruction: &Instruction) {
        let info = self.info.info(instruction);
        for used in info.used_registers().iter().filter(|used| writes(used.access())) {
            self.written |= general(used.register());
            if used.register().is_vector_register() {
                self.vectors |= 1 << used.register().number();
            }
        }
    }

    /// A forward branch over some instructions.
    fn skip(&mut self, theme: Theme, depth: u32) {
        let wide = if self.bits == 64 { [K::br64_1, K::br64_4] } else { [K::br32_1, K::br32_4] };
        let catalog = self.catalog;
        let entry = loop {
            let entry = catalog.branches[self.random.below(catalog.branches.len() as u64) as usize];
            if wide.contains(&entry.kinds[0]) && entry.code.mnemonic() != M::Call {
                break entry;
            }
        };
        let counts = matches!(entry.code.mnemonic(), M::Loop | M::Loope | M::Loopne);
        if counts && self.reserved & 2 != 0 {
            return;
        }
        if counts {
            self.written |= 2;
        }
        let label = self.label();
        self.items.push(Item::Branch(entry.code, label));
        let budget = 1 + self.random.below(2);
        self.block(theme, budget, depth + 1);
        self.items.push(Item::Label(label));
    }

    /// A loop that is run a few times; its end keeps the flags or not.
    fn counted(&mut self, theme: Theme, depth: u32) {
        let long = self.bits == 64;
        let keeps_flags = self.random.one_in(2);
        let counter = if keeps_flags { 1 } else { self.random.below(if long { 16 } else { 8 }) as u32 };
        if counter == RSP || self.reserved >> counter & 1 != 0 {
            return;
        }
        let count = 1 + self.random.below(4) as u32;
        let register = Register::EAX + counter;
        let Ok(start) = Instruction::with2(Code::Mov_r32_imm32, register, count) else { return };
        self.push(start);
        self.reserved |= 1 << counter;
        let (top, out) = (self.label(), self.label());
        self.items.push(Item::Label(top));
        let budget = 1 + self.random.below(3);
        self.block(theme, budget, depth + 1);
        self.reserved &= !(1 << counter);
        if keeps_flags && long && self.random.one_in(2) {
            // LEA ECX,[RCX-1]; JRCXZ out; JMP top
            let operand = iced_x86::MemoryOperand::with_base_displ(Register::RCX, -1);
            let Ok(step) = Instruction::with2(Code::Lea_r32_m, Register::ECX, operand) else { return };
            self.push(step);
            self.items.push(Item::Branch(Code::Jrcxz_rel8_64, out));
            self.items.push(Item::Branch(Code::Jmp_rel32_64, top));
        } else if keeps_flags {
            self.items.push(Item::Branch(if long { Code::Loop_rel8_64_RCX } else { Code::Loop_rel8_32_ECX }, top));
        } else {
            let step = match self.random.below(2) {
                0 => Instruction::with1(Code::Dec_rm32, register),
                _ => Instruction::with2(Code::Sub_rm32_imm8, register, 1),
            };
            let Ok(step) = step else { return };
            self.push(step);
            let near = self.random.one_in(2);
            self.items.push(Item::Branch(
                match (long, near) {
                    (true, true) => Code::Jne_rel32_64,
                    (true, false) => Code::Jne_rel8_64,
                    (false, true) => Code::Jne_rel32_32,
                    (false, false) => Code::Jne_rel8_32,
                },
                top,
            ));
        }
        self.items.push(Item::Label(out));
    }

    /// CALL f; …; JMP end; f: …; RET; end:
    fn call(&mut self, theme: Theme, depth: u32) {
        let long = self.bits == 64;
        let (routine, end) = (self.label(), self.label());
        let register = self.random.below(if long { 16 } else { 8 }) as u32;
        if self.random.one_in(3) && register != RSP && self.reserved >> register & 1 == 0 {
            self.items.push(Item::Address(register, routine));
            self.written |= 1 << register;
            let call = if long {
                Instruction::with1(Code::Call_rm64, Register::RAX + register)
            } else {
                Instruction::with1(Code::Call_rm32, Register::EAX + register)
            };
            let Ok(call) = call else { return };
            self.push(call);
        } else {
            self.items.push(Item::Branch(if long { Code::Call_rel32_64 } else { Code::Call_rel32_32 }, routine));
        }
        let jump = if long { Code::Jmp_rel32_64 } else { Code::Jmp_rel32_32 };
        let budget = 1 + self.random.below(2);
        self.block(theme, budget, depth + 1);
        self.items.push(Item::Branch(jump, end));
        self.items.push(Item::Label(routine));
        let before = self.reserved;
        self.reserved |= 1 << RSP;
        let budget = 1 + self.random.below(2);
        self.block(theme, budget, depth + 1);
        self.reserved = before;
        self.items.push(Item::Plain(Instruction::with(if long { Code::Retnq } else { Code::Retnd })));
        self.items.push(Item::Label(end));
    }

    /// A jump through a register, or a push and a return.
    fn indirect(&mut self, theme: Theme, depth: u32) {
        let long = self.bits == 64;
        let register = self.random.below(if long { 16 } else { 8 }) as u32;
        if register == RSP || self.reserved >> register & 1 != 0 {
            return;
        }
        let label = self.label();
        self.items.push(Item::Address(register, label));
        self.written |= 1 << register;
        let full = if long { Register::RAX + register } else { Register::EAX + register };
        if self.random.one_in(2) || self.reserved >> RSP & 1 != 0 {
            let jump = Instruction::with1(if long { Code::Jmp_rm64 } else { Code::Jmp_rm32 }, full);
            self.items.extend(jump.ok().map(Item::Plain));
        } else {
            let push = Instruction::with1(if long { Code::Push_r64 } else { Code::Push_r32 }, full);
            self.items.extend(push.ok().map(Item::Plain));
            self.items.push(Item::Plain(Instruction::with(if long { Code::Retnq } else { Code::Retnd })));
        }
        self.block(theme, 1, depth + 1);
        self.items.push(Item::Label(label));
    }

    /// PUSH imm; POPF
    fn set_flags(&mut self) {
        if self.reserved >> RSP & 1 != 0 {
            return;
        }
        let flags = self.random.next() as i32 & 0xcd5 | 0x202;
        let (push, pop) =
            if self.bits == 64 { (Code::Pushq_imm32, Code::Popfq) } else { (Code::Pushd_imm32, Code::Popfd) };
        let Ok(push) = Instruction::with1(push, flags) else { return };
        self.push(push);
        self.push(Instruction::with(pop));
    }

    /// A branch with a 16-bit operand, whose target is nowhere, outside of 64-bit mode (where processors differ).
    fn odd_branch(&mut self) {
        let catalog = self.catalog;
        let entry = catalog.branches[self.random.below(catalog.branches.len() as u64) as usize];
        let word = matches!(entry.kinds[0], K::br16_1 | K::br16_2);
        if self.bits == 64 || !word || self.reserved != 0 {
            return;
        }
        self.written |= 2;
        let label = self.label();
        self.items.push(Item::Branch(entry.code, label));
        self.items.push(Item::Label(label));
    }

    fn instruction(&mut self, entry: &Entry) -> Option<Instruction> {
        let mnemonic = entry.code.mnemonic();
        if !self.status_allows(mnemonic) {
            return None;
        }
        let mut i = Instruction::default();
        i.set_code(entry.code);
        self.address32 = self.random.one_in(10);
        self.prepare(mnemonic, entry);
        for (n, kind) in entry.kinds().iter().enumerate() {
            self.operand(&mut i, n as u32, *kind, entry)?;
        }
        let info = entry.code.op_code();
        if info.can_use_lock_prefix() && i.op_kind(0) == OpKind::Memory && self.random.one_in(3) {
            i.set_has_lock_prefix(true);
        }
        if i.is_string_instruction() {
            match self.random.below(4) {
                0 if info.can_use_repne_prefix() => i.set_has_repne_prefix(true),
                1 | 2 if info.can_use_rep_prefix() => i.set_has_rep_prefix(true),
                _ => {}
            }
        }
        let moves_stack = self.written >> RSP & 1 == 0 && writes_stack_oddly(&mut self.info, &i);
        if moves_stack && !self.random.one_in(6) || !self.may_write(&i) {
            return None;
        }
        self.encoder.encode(&i, CODE).ok()?;
        let bytes = self.encoder.take_buffer();
        // Some codes are aliases of others, and some prefixes make another instruction.
        let decoded = Decoder::with_ip(self.bits, &bytes, CODE, DecoderOptions::AMD).decode();
        if decoded.code() != entry.code && !decoded.is_invalid() && decoded.mnemonic() != M::Wait {
            return None;
        }
        if decoded.is_invalid() {
            return None;
        }
        self.note_status(mnemonic);
        Some(i)
    }

    fn status_allows(&self, mnemonic: M) -> bool {
        let compares = super::flags::compares(mnemonic);
        !(compares && (self.reads_status || !self.masked)) && !(reads_status(mnemonic) && self.compares)
    }

    fn note_status(&mut self, mnemonic: M) {
        self.compares |= super::flags::compares(mnemonic);
        self.reads_status |= reads_status(mnemonic);
    }

    /// Gives registers that an instruction uses implicitly values that make it do something.
    fn prepare(&mut self, mnemonic: M, entry: &Entry) {
        let free = |this: &Self, register: u32| (this.written | this.used | this.reserved) >> register & 1 == 0;
        let string = entry.kinds().iter().any(|kind| matches!(kind, K::seg_rSI | K::es_rDI | K::seg_rDI));
        if string || mnemonic == M::Xlatb {
            for register in [3, 6, 7] {
                if free(self, register) {
                    self.state.gpr[register as usize] = pointer(self.random);
                    self.used |= 1 << register;
                }
            }
            if free(self, 1) && !self.random.one_in(8) {
                self.state.gpr[1] = self.random.below(40);
            }
        }
        if matches!(mnemonic, M::Div | M::Idiv) && free(self, 2) && free(self, 0) {
            self.used |= 5;
            let high = if self.random.one_in(2) { 0 } else { self.random.below(4).wrapping_sub(2) };
            self.state.gpr[2] = high;
            if self.random.one_in(2) {
                self.state.gpr[0] &= 0xffff;
            }
        }
        if self.bits == 32 {
            self.state.gpr.iter_mut().take(8).for_each(|register| *register &= 0xffff_ffff);
        }
    }

    /// Lays the items out and encodes them.
    fn finish(mut self) -> Option<Snippet> {
        let mut lens = Vec::with_capacity(self.items.len());
        for index in 0..self.items.len() {
            lens.push(self.encode(index, CODE, CODE)?.len());
        }
        let len: usize = lens.iter().sum();
        if len > CODE_LEN {
            return None;
        }
        let at = match self.random.below(16) {
            0 => 4096 - len,
            1..=8 => self.random.below(3800) as usize,
            _ => 0,
        };
        let mut labels = vec![0; self.labels];
        let mut ip = CODE + at as u64;
        for (item, len) in self.items.iter().zip(&lens) {
            if let Item::Label(label) = item {
                labels[*label] = ip;
            }
            ip += *len as u64;
        }
        let mut snippet = Snippet { code: [0xf4; CODE_LEN], len, at, codes: Vec::new(), mnemonics: Vec::new() };
        let (mut ip, mut to) = (CODE + at as u64, 0);
        for (index, len) in lens.iter().enumerate() {
            let target = match &self.items[index] {
                Item::Branch(_, label) | Item::Address(_, label) => labels[*label],
                _ => 0,
            };
            let bytes = self.encode(index, ip, target)?;
            if bytes.len() != *len {
                return None;
            }
            snippet.code[to..to + len].copy_from_slice(&bytes);
            let (code, memory) = match &self.items[index] {
                Item::Plain(i) => (i.code(), i.op_kinds().any(|kind| kind == OpKind::Memory)),
                Item::Branch(code, _) => (*code, false),
                _ => (Code::INVALID, false),
            };
            if code != Code::INVALID {
                snippet.codes.push((code, memory));
                snippet.mnemonics.push(code.mnemonic());
            }
            ip += *len as u64;
            to += len;
        }
        Some(snippet)
    }

    fn encode(&mut self, index: usize, ip: u64, target: u64) -> Option<Vec<u8>> {
        let instruction = match &self.items[index] {
            Item::Plain(instruction) => *instruction,
            Item::Branch(code, _) => Instruction::with_branch(*code, target).ok()?,
            Item::Address(register, _) if self.bits == 64 => {
                let operand = iced_x86::MemoryOperand::with_base_displ(Register::RIP, target as i64);
                Instruction::with2(Code::Lea_r64_m, Register::RAX + *register, operand).ok()?
            }
            Item::Address(register, _) => {
                Instruction::with2(Code::Mov_r32_imm32, Register::EAX + *register, target as u32).ok()?
            }
            Item::Label(_) => return Some(Vec::new()),
        };
        self.encoder.encode(&instruction, ip).ok()?;
        Some(self.encoder.take_buffer())
    }
}

/// What shows the x87 status word, or unmasks exceptions.
fn reads_status(mnemonic: M) -> bool {
    matches!(mnemonic, M::Fnstsw | M::Fstsw | M::Fldcw)
}

fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// The general register as a bit.
fn general(register: Register) -> Registers {
    if register.is_gpr() { 1 << register.full_register().number() } else { 0 }
}

/// Whether RSP is changed other than by a push or a pop.
fn writes_stack_oddly(info: &mut InstructionInfoFactory, i: &Instruction) -> bool {
    let odd = !i.is_stack_instruction() || matches!(i.mnemonic(), M::Leave | M::Enter | M::Ret);
    odd && info
        .info(i)
        .used_registers()
        .iter()
        .any(|used| writes(used.access()) && general(used.register()) == 1 << RSP)
}
