//! x87 and MMX instructions, which run on the host's unit while that is the guest's (see [`crate::jit::x87`]).
//!
//! Instructions stay as they are, with a host pointer for their memory operand. Left to the interpreter: whatever
//! saves, restores or initialises the whole unit, and a control word that unmasks an exception.

use fpu::{X87Memory, X87Op};
use iced_x86::{Code, CpuidFeature, EncodingKind, Instruction, Mnemonic as M, OpKind, Register};

use super::{Action, Encoded, Form, Item, Mode, Out, Piece, Refused, Replace, Then, Translator, Try, is_plain};
use crate::jit::asm::{Alu, Mem, S0, S1, cc};
use crate::jit::context::field;
use crate::jit::x87::Record;
use crate::ops::lower::{Flow, register_size};
use crate::ops::{Op, Semantics};

/// What the translator does with an instruction of the unit.
#[derive(Clone, Copy, Debug)]
pub(super) enum Class {
    /// Nothing: it would only wait for exceptions.
    Idle,
    LoadControl,
    X87(&'static X87Op),
    Mmx,
}

fn registers(ins: &Instruction) -> impl Iterator<Item = Register> + '_ {
    (0..ins.op_count()).filter(|n| ins.op_kind(*n) == OpKind::Register).map(|n| ins.op_register(n))
}

/// What can be done with an instruction on the host's unit.
pub(super) fn class(ins: &Instruction, op: &Op, flow: Flow, mode: Mode) -> Option<Class> {
    if !mode.x87 || flow != Flow::Next {
        return None;
    }
    match ins.code() {
        Code::Wait | Code::Fnop | Code::Feni | Code::Fdisi | Code::Fsetpm => return Some(Class::Idle),
        Code::Fneni | Code::Fndisi | Code::Fnsetpm => return Some(Class::Idle),
        Code::Fldcw_m2byte => return Some(Class::LoadControl),
        Code::Finit | Code::Fninit => return None,
        _ => {}
    }
    if let Some(Semantics::X87(op)) = op.semantics {
        return (!op.has_environment()).then_some(Class::X87(op));
    }
    is_mmx(ins).then_some(Class::Mmx)
}

fn is_mmx(ins: &Instruction) -> bool {
    // Conversions set flags in MXCSR, which is the guest's only with the vectors.
    if matches!(ins.mnemonic(), M::Cvtps2pi | M::Cvttps2pi | M::Cvtpd2pi | M::Cvttpd2pi | M::Cvtpi2ps | M::Cvtpi2pd) {
        return false;
    }
    if ins.encoding() != EncodingKind::Legacy || ins.mnemonic() == M::Maskmovq {
        return false;
    }
    let features = ins.cpuid_features().iter().all(|feature| match feature {
        CpuidFeature::MMX | CpuidFeature::SSE | CpuidFeature::SSE2 | CpuidFeature::INTEL386 | CpuidFeature::X64 => true,
        CpuidFeature::SSSE3 => std::arch::is_x86_feature_detected!("ssse3"),
        _ => false,
    });
    features
        && (ins.code() == Code::Emms
            || registers(ins).any(Register::is_mm)
                && registers(ins).all(|register| register.is_mm() || register_size(register) != 0))
}

/// Whether the interpreter may look at the unit when it executes the instruction at a site.
pub(super) fn looks_at_unit(ins: &Instruction, action: Action) -> bool {
    if matches!(action, Action::Load(_) | Action::Note(_) | Action::LoadX87) {
        return false;
    }
    let vector = registers(ins).any(|register| register.is_xmm() || register.is_ymm());
    let plain = is_plain(ins.mnemonic())
        || matches!(ins.mnemonic(), M::Push | M::Pop | M::Leave | M::Div | M::Idiv)
        || ins.is_string_instruction();
    // A selector that is loaded may be the one that FDP was noted under.
    registers(ins).any(|register| register.is_mm() || register.is_segment_register()) || !(vector || plain)
}

impl Translator<'_> {
    fn wants_x87(&self) -> bool {
        let native = |item: &Item| !matches!(item.unit, None | Some(Class::Idle));
        self.pieces.iter().flat_map(|piece| &piece.items).any(native)
    }

    /// At the entry of a region, with canonical flags: lets the host's unit be the guest's.
    pub(super) fn enter_x87(&mut self, piece: &Piece) {
        let Some(first) = piece.items.first().filter(|_| self.wants_x87()) else { return };
        let (at, back) = (self.asm.label(), self.asm.label());
        self.asm.alu_mem_imm8(1, Alu::Cmp, field!(self.context, x87_live), 0);
        self.asm.jcc(cc::E, at);
        self.asm.bind(back);
        let resume = self.asm.label();
        let site = self.site(first, Action::LoadX87, resume);
        self.outs.push(Out::Slow { at, site, resume, back, then: Then::Nothing });
    }

    /// An instruction of the unit.
    pub(super) fn unit(&mut self, items: &[Item], at: usize) -> Try {
        let item = &items[at];
        match item.unit.ok_or(Refused)? {
            Class::Idle => Ok(()),
            Class::LoadControl => self.load_control(item),
            Class::X87(op) => match op.memory() {
                X87Memory::None => self.x87_registers(items, at, op),
                X87Memory::Load(size) => self.unit_load(items, at, size, op.updates_pointers()),
                X87Memory::Store(size) => self.unit_store(items, at, size, op.updates_pointers()),
            },
            Class::Mmx => self.mmx(items, at),
        }
    }

    fn x87_registers(&mut self, items: &[Item], at: usize, op: &X87Op) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        let code = self.encode(ins)?;
        let wanted = self.flags_before(items, at);
        if matches!(ins.code(), Code::Fstsw_AX | Code::Fnstsw_AX) {
            self.keep_operands(items, at, 1);
        }
        self.hold(wanted);
        self.asm.encoded(&code);
        self.flags_after(items, at, None);
        // Nothing sees the unit before the next instruction, if that has no memory operand.
        let superseded = items.get(at + 1).is_some_and(|next| {
            matches!(next.unit, Some(Class::X87(op))
                if op.memory() == X87Memory::None && op.updates_pointers())
        });
        if op.updates_pointers() && !superseded {
            self.note_instruction(item);
        }
        Ok(())
    }

    fn note_instruction(&mut self, item: &Item) {
        let number = self.numbers.x87 + self.x87_records.len() as u32;
        self.x87_records.push(Record { rip: item.rip, opcode: item.op.aux & 0x7ff });
        self.asm.store_imm(4, field!(self.context, x87_instruction), number as i32 + 1);
    }

    /// The address of the memory operand to S0, and its offset to the context.
    fn unit_address(&mut self, item: &Item) -> Try {
        self.address(item)?;
        let base = match item.ins.memory_segment() {
            Register::FS => Some(field!(self.context, fs_base)),
            Register::GS => Some(field!(self.context, gs_base)),
            _ => None,
        };
        match base {
            None => self.asm.store(8, field!(self.context, x87_offset), S0),
            Some(base) => {
                self.asm.mov(8, S1, S0);
                self.asm.alu_mem(8, Alu::Sub, S1, base);
                self.asm.store(8, field!(self.context, x87_offset), S1);
            }
        }
        Ok(())
    }

    /// The instruction with its memory operand at an address below 2 GiB.
    fn absolute(&mut self, ins: &Instruction, at: Mem) -> Try<Encoded> {
        let mut new = self.renamed(ins, &[], Replace::Form(Form::Pointer))?;
        let Mem::Abs(address) = at else { return Err(Refused) };
        new.set_memory_base(Register::None);
        new.set_memory_index(Register::None);
        new.set_memory_displacement64(u64::from(address));
        new.set_memory_displ_size(8);
        self.encode(&new)
    }

    fn unit_load(&mut self, items: &[Item], at: usize, size: u8, pointers: bool) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        let new = self.renamed(ins, &[], Replace::Form(Form::Indexed))?;
        let code = self.encode(&new)?;
        let small = size <= 8;
        let loaded = if small { self.absolute(ins, field!(self.context, value))? } else { Encoded::default() };
        self.state.release(&mut self.asm, self.context);
        if pointers {
            self.unit_address(item)?;
        } else {
            self.address(item)?;
        }
        let slow = self.look_up(u32::from(size), 1, false, Form::Indexed);
        let (resume, back, done) = (self.asm.label(), self.asm.label(), self.asm.label());
        let site = self.site(item, if small { Action::Load(size) } else { Action::Execute }, resume);
        self.asm.encoded(&code);
        self.asm.bind(back);
        if pointers {
            self.asm.load(8, S1, field!(self.context, x87_offset));
            self.asm.store(8, field!(self.context, x87_data), S1);
            self.asm.store_imm(1, field!(self.context, x87_segment), i32::from(item.op.seg) + 1);
            self.note_instruction(item);
        }
        self.asm.bind(done);
        let (back, then) = if small { (back, Then::Code(loaded)) } else { (done, Then::Nothing) };
        self.outs.push(Out::Slow { at: slow, site, resume, back, then });
        Ok(())
    }

    fn unit_store(&mut self, items: &[Item], at: usize, size: u8, pointers: bool) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        let new = self.renamed(ins, &[], Replace::Form(Form::Pointer))?;
        let code = self.encode(&new)?;
        self.state.release(&mut self.asm, self.context);
        if pointers {
            self.unit_address(item)?;
        } else {
            self.address(item)?;
        }
        let slow = self.look_up(u32::from(size), 1, true, Form::Pointer);
        let (resume, back) = (self.asm.label(), self.asm.label());
        let site = self.site(item, Action::Execute, resume);
        self.asm.encoded(&code);
        if pointers {
            // S0 and S1 are still wanted.
            self.asm.push_mem(field!(self.context, x87_offset));
            self.asm.pop_mem(field!(self.context, x87_data));
            self.asm.store_imm(1, field!(self.context, x87_segment), i32::from(item.op.seg) + 1);
            self.note_instruction(item);
        }
        self.asm.load(8, S1, self.code_field());
        self.watch(item, size, false);
        self.asm.bind(back);
        self.outs.push(Out::Slow { at: slow, site, resume, back, then: Then::Nothing });
        Ok(())
    }

    /// FLDCW. Reserved bits are dropped; a word that unmasks an exception is the interpreter's.
    fn load_control(&mut self, item: &Item) -> Try {
        self.state.release(&mut self.asm, self.context);
        self.address(item)?;
        let slow = self.look_up(2, 1, false, Form::Indexed);
        let (resume, loaded) = (self.asm.label(), self.asm.label());
        let site = self.site(item, Action::Load(2), resume);
        self.asm.load_zx(2, S1, Mem::Index(S0, S1, 0, 0));
        self.asm.bind(loaded);
        self.outs.push(Out::Slow { at: slow, site, resume, back: loaded, then: Then::Nothing });
        self.asm.mov(4, S0, S1);
        self.asm.alu_imm(4, Alu::And, S0, 0x3f);
        self.asm.alu_imm(4, Alu::Cmp, S0, 0x3f);
        let (unmasks, resume, back) = (self.asm.label(), self.asm.label(), self.asm.label());
        self.asm.jcc(cc::NE, unmasks);
        self.asm.alu_imm(4, Alu::And, S1, 0x1f3f);
        self.asm.alu_imm(4, Alu::Add, S1, 0x40);
        self.asm.store(2, field!(self.context, x87_control), S1);
        self.asm.fldcw(field!(self.context, x87_control));
        self.asm.bind(back);
        let site = self.site(item, Action::Execute, resume);
        self.outs.push(Out::Slow { at: unmasks, site, resume, back, then: Then::Nothing });
        Ok(())
    }

    fn mmx(&mut self, items: &[Item], at: usize) -> Try {
        let ins = &items[at].ins;
        let effects = self.effects(ins);
        let size = ins.memory_size().size() as u8;
        match effects.memory {
            _ if effects.odd => Err(Refused),
            None => self.native_registers(items, at, effects),
            Some(_) if !matches!(size, 1 | 2 | 4 | 8) => Err(Refused),
            Some((_, false)) => self.unit_load(items, at, size, false),
            Some((_, true)) => self.unit_store(items, at, size, false),
        }
    }
}
