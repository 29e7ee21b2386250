//! Memory operands: addresses, the look-up of the TLB, and what follows a store.

use super::*;

impl Translator<'_> {
    /// Puts the linear address of the memory operand into S0. Changes S1 and the host's flags.
    pub(super) fn address(&mut self, item: &Item) -> Try {
        let ins = &item.ins;
        let base = ins.memory_base();
        let segment = match ins.memory_segment() {
            Register::FS => Some(field!(self.context, fs_base)),
            Register::GS => Some(field!(self.context, gs_base)),
            _ => None,
        };
        let wide = match base {
            Register::None if ins.memory_index() == Register::None => ins.memory_displ_size() != 4,
            Register::None => ins.memory_index().is_gpr64(),
            Register::EIP => false,
            Register::RIP => true,
            base => base.is_gpr64(),
        };
        let size = if wide { 8 } else { 4 };
        let displacement = ins.memory_displacement64();
        if base == Register::RIP || base == Register::EIP {
            let address = displacement.wrapping_add(item.rip);
            self.asm.mov_imm(S0, if wide { address } else { address & 0xffff_ffff });
        } else if base == Register::None && ins.memory_index() == Register::None {
            self.asm.mov_imm(S0, if wide { displacement } else { displacement & 0xffff_ffff });
        } else {
            let short =
                i32::try_from(displacement as i64).or(if wide { Err(Refused) } else { Ok(displacement as i32) })?;
            self.scaled_address(ins, size, short);
        }
        if let Some(segment) = segment {
            self.asm.alu_mem(8, Alu::Add, S0, segment);
        }
        Ok(())
    }

    /// Base and index of the memory operand in host registers (S0 and S1, if they live in the context).
    pub(super) fn operand_form(&mut self, ins: &Instruction, displacement: i32) -> Option<Mem> {
        let fetch = |this: &mut Self, register: Register, scratch: u8| {
            (register != Register::None).then(|| match place(this.context, register.number() as u8) {
                Place::Host(host) => host,
                Place::Context(at) => {
                    this.asm.load(8, scratch, at);
                    scratch
                }
            })
        };
        let base = fetch(self, ins.memory_base(), S0);
        let index = fetch(self, ins.memory_index(), S1);
        let scale = ins.memory_index_scale().trailing_zeros() as u8;
        match (base, index) {
            (Some(base), Some(index)) => Some(Mem::Index(base, index, scale, displacement)),
            (Some(base), None) => Some(Mem::Base(base, displacement)),
            (None, Some(index)) => Some(Mem::Scaled(index, scale, displacement)),
            (None, None) => None,
        }
    }

    /// `lea S0, [base + index << scale + displacement]`.
    fn scaled_address(&mut self, ins: &Instruction, size: u8, displacement: i32) {
        let Some(mem) = self.operand_form(ins, displacement) else {
            return self.asm.mov_imm(S0, i64::from(displacement) as u64);
        };
        match mem {
            Mem::Base(base, 0) if size == 8 => {
                if base != S0 {
                    self.asm.mov(8, S0, base);
                }
            }
            mem => self.asm.lea(size, S0, mem),
        }
    }

    /// The index of the entry for the address in a register, to S1. Changes the host's flags.
    pub(super) fn entry(&mut self, address: u8) {
        let shift = 12 - DATA_ENTRY_SHIFT as u8;
        if std::arch::is_x86_feature_detected!("bmi2") {
            // What comes in at the top is masked off.
            self.asm.rorx(S1, address, shift);
        } else {
            self.asm.mov(4, S1, address);
            self.asm.shr(4, S1, shift);
        }
        self.asm.alu_imm(4, Alu::And, S1, ((DATA_SLOTS - 1) << DATA_ENTRY_SHIFT) as i32);
    }

    /// Looks up the page of the address in S0 for an access of `size` bytes; jumps to the label when it is not a plain
    /// one. Changes the host's flags.
    pub(super) fn look_up(&mut self, size: u32, align: u32, write: bool, form: Form) -> Label {
        let slow = self.asm.label();
        let tables = self.addresses.tables;
        let class = self.mode.class;
        let field = |field: DataField| Mem::Base(S1, tables.field(class, field) as i32);
        self.entry(S0);
        let tag = field(if write { DataField::Write } else { DataField::Read });
        self.asm.alu_mem(8, Alu::Xor, S0, tag);
        self.asm.alu_imm(8, Alu::Cmp, S0, 0x1000 - size as i32);
        self.asm.jcc(cc::A, slow);
        if align > 1 {
            self.asm.test_imm8(S0, (align - 1) as u8);
            self.asm.jcc(cc::NE, slow);
        }
        let host = field(DataField::Host);
        match form {
            Form::Indexed => self.asm.load(8, S1, host),
            Form::Pointer => self.asm.alu_mem(8, Alu::Add, S0, host),
        }
        slow
    }

    /// Loads the memory operand into S1, zero-extended; the slow path does the same. Changes S0 and the host's flags.
    pub(super) fn load_operand(&mut self, item: &Item, size: u8) -> Try {
        self.address(item)?;
        let slow = self.look_up(u32::from(size), 1, false, Form::Indexed);
        let (resume, back) = (self.asm.label(), self.asm.label());
        let site = self.site(item, Action::Load(size), resume);
        self.asm.load_zx(size, S1, Mem::Index(S0, S1, 0, 0));
        self.asm.bind(back);
        self.outs.push(Out::Slow { at: slow, site, resume, back, then: Then::Nothing });
        Ok(())
    }

    pub(super) fn code_field(&self) -> Mem {
        Mem::Base(S1, self.addresses.tables.field(self.mode.class, DataField::Code) as i32)
    }

    /// After a store: S0 is the host address, S1 the tracking of its page. Looks whether the page holds code.
    /// `flags`: the host's flags must survive.
    pub(super) fn watch(&mut self, item: &Item, size: u8, flags: bool) {
        let (at, back, resume) = (self.asm.label(), self.asm.label(), self.asm.label());
        if flags {
            // RCX is zero when no line of the page holds code; neither instruction changes flags.
            self.asm.store(8, field!(self.context, watched), S1);
            self.asm.load(8, S1, Mem::Base(S1, 0));
            self.asm.xchg(1, S1);
            self.asm.jrcxz(5);
            self.asm.jmp(at);
            self.asm.xchg(1, S1);
            self.asm.bind(back);
        } else {
            self.asm.alu_mem_imm8(8, Alu::Cmp, Mem::Base(S1, 0), 0);
            self.asm.jcc(cc::NE, at);
            self.asm.bind(back);
        }
        let mut source = self.state.source();
        if flags || source.main == Main::Host {
            source.main = Main::Bits;
        }
        let site = self.site(item, Action::Note(size), resume);
        if let Some(site) = self.tools.sites.last_mut() {
            site.flags = source;
        }
        self.outs.push(Out::Watched { at, site, size, resume, back, flags });
    }

    /// Looks whether a store of `size` bytes at S0 (also in `Context::scratch`) hit a line in the mask S1.
    pub(super) fn lines(&mut self, site: u32, size: u8, resume: Label, back: Label, flags: bool) {
        let context = self.context;
        let hit = self.asm.label();
        self.asm.store(8, field!(context, value), S1);
        // The lines of the first and of the last byte.
        let distances: &[i32] = if size > 1 { &[0, i32::from(size) - 1] } else { &[0] };
        for distance in distances {
            if *distance != 0 {
                self.asm.load(8, S0, field!(context, scratch));
                self.asm.alu_imm(8, Alu::Add, S0, *distance);
            }
            self.asm.shr(4, S0, 6);
            self.asm.alu_imm(4, Alu::And, S0, 63);
            self.asm.bt_mem_reg(field!(context, value), S0);
            self.asm.jcc(cc::B, hit);
        }
        if flags {
            State::load_bits(&mut self.asm, context);
        }
        self.asm.jmp(back);
        self.asm.bind(hit);
        self.asm.mov_imm(S0, u64::from(site));
        self.asm.jmp_to(self.addresses.stubs.slow);
        self.asm.bind(resume);
        if flags {
            State::load_bits(&mut self.asm, context);
        }
        self.asm.jmp(back);
    }
}
