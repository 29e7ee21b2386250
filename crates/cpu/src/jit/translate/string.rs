//! REP MOVS and REP STOS.

use super::*;

impl Translator<'_> {
    /// Looks up the page of a string operand in register `pointer` (RCX items of a size), which must not reach beyond
    /// it. Puts the host address into S0; S1 is the index of the entry.
    pub(super) fn string_operand(&mut self, pointer: u8, size: u8, write: bool, slow: Label) {
        let tables = self.addresses.tables;
        let class = self.mode.class;
        let field = |field: DataField| Mem::Base(S1, tables.field(class, field) as i32);
        let scale = size.trailing_zeros() as u8;
        self.entry(pointer);
        self.asm.mov(8, S0, pointer);
        self.asm.alu_mem(8, Alu::Xor, S0, field(if write { DataField::Write } else { DataField::Read }));
        self.asm.alu_imm(8, Alu::Cmp, S0, 0xfff);
        self.asm.jcc(cc::A, slow);
        self.asm.lea(8, S0, Mem::Index(S0, 1, scale, 0));
        self.asm.alu_imm(8, Alu::Cmp, S0, 0x1000);
        self.asm.jcc(cc::A, slow);
        self.asm.mov(4, S0, pointer);
        self.asm.alu_imm(4, Alu::And, S0, 0xfff);
        self.asm.alu_mem(8, Alu::Add, S0, field(DataField::Host));
    }

    /// REP MOVS and REP STOS whose operands lie in one page each: the host's instruction does it.
    pub(super) fn string(&mut self, item: &Item) -> Try {
        const RCX: u8 = 1;
        const RSI: u8 = 6;
        const RDI: u8 = 7;
        let ins = &item.ins;
        let (stos, size) = match ins.mnemonic() {
            M::Movsb => (false, 1),
            M::Movsw => (false, 2),
            M::Movsd => (false, 4),
            M::Movsq => (false, 8),
            M::Stosb => (true, 1),
            M::Stosw => (true, 2),
            M::Stosd => (true, 4),
            M::Stosq => (true, 8),
            _ => return Err(Refused),
        };
        let segment = ins.segment_prefix();
        if self.mode.down || ins.op0_kind() != OpKind::MemoryESRDI || segment == Register::FS || segment == Register::GS
        {
            return Err(Refused);
        }
        self.state.canonicalise(&mut self.asm, self.context);
        let (slow, back, hit, resume) = (self.asm.label(), self.asm.label(), self.asm.label(), self.asm.label());
        let site = self.site(item, Action::String, resume);
        let note = self.site(item, Action::Note(WHOLE_PAGE), back);
        self.asm.test(8, RCX, RCX);
        self.asm.jcc(cc::E, back);
        self.asm.alu_imm(8, Alu::Cmp, RCX, 0x1000 / i32::from(size));
        self.asm.jcc(cc::A, slow);
        self.string_operand(RDI, size, true, slow);
        self.asm.store(8, field!(self.context, scratch), S0);
        self.asm.load(8, S1, self.code_field());
        self.asm.alu_mem_imm8(8, Alu::Cmp, Mem::Base(S1, 0), 0);
        self.asm.jcc(cc::NE, slow);
        self.asm.store(8, field!(self.context, value), S1);
        let scale = size.trailing_zeros() as u8;
        if !stos {
            self.string_operand(RSI, size, false, slow);
            self.asm.lea(8, S1, Mem::Index(RSI, RCX, scale, 0));
            self.asm.store(8, field!(self.context, string_rsi), S1);
            self.asm.mov(8, RSI, S0);
        }
        self.asm.lea(8, S1, Mem::Index(RDI, RCX, scale, 0));
        self.asm.store(8, field!(self.context, string_rdi), S1);
        self.asm.load(8, RDI, field!(self.context, scratch));
        self.items(stos, size);
        if !stos {
            self.asm.load(8, RSI, field!(self.context, string_rsi));
        }
        self.asm.load(8, RDI, field!(self.context, string_rdi));
        // Another vCPU may have decoded code there meanwhile.
        self.asm.load(8, S1, field!(self.context, value));
        self.asm.alu_mem_imm8(8, Alu::Cmp, Mem::Base(S1, 0), 0);
        self.asm.jcc(cc::NE, hit);
        self.asm.bind(back);
        self.state = State::CANONICAL;
        self.outs.push(Out::Slow { at: slow, site, resume, back, then: Then::Nothing });
        self.outs.push(Out::WatchedString { at: hit, site: note, resume: back });
        Ok(())
    }

    /// RCX items between host addresses, at least one. A few are cheaper in a loop than what it takes the host to begin.
    fn items(&mut self, stos: bool, size: u8) {
        const RCX: u8 = 1;
        const RSI: u8 = 6;
        const RDI: u8 = 7;
        const FEW: i32 = 8;
        let (many, next, done) = (self.asm.label(), self.asm.label(), self.asm.label());
        let scale = size.trailing_zeros() as u8;
        self.asm.alu_imm(8, Alu::Cmp, RCX, FEW);
        self.asm.jcc(cc::A, many);
        // From the ends: RCX counts up to zero.
        self.asm.lea(8, RDI, Mem::Index(RDI, RCX, scale, 0));
        if !stos {
            self.asm.lea(8, RSI, Mem::Index(RSI, RCX, scale, 0));
        }
        self.asm.neg(8, RCX);
        self.asm.bind(next);
        if stos {
            self.asm.store(size, Mem::Index(RDI, RCX, scale, 0), 0);
        } else {
            self.asm.load(size, S0, Mem::Index(RSI, RCX, scale, 0));
            self.asm.store(size, Mem::Index(RDI, RCX, scale, 0), S0);
        }
        self.asm.alu_imm(8, Alu::Add, RCX, 1);
        self.asm.jcc(cc::NE, next);
        self.asm.jmp(done);
        self.asm.bind(many);
        self.asm.rep_string(stos, size);
        self.asm.bind(done);
    }
}
