//! BT, BTS, BTR and BTC with a register as offset into a bit string in memory.

use super::*;

impl Translator<'_> {
    /// The offset selects the word, by its high bits, and the bit in it.
    pub(super) fn bit_string(&mut self, items: &[Item], at: usize) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        let size = item.op.size;
        let (base, index) = (ins.memory_base(), ins.memory_index());
        let narrow = base.is_gpr32() || index.is_gpr32() || base == Register::EIP;
        let absolute = base == Register::None && index == Register::None;
        if !matches!(size, 4 | 8) || narrow || absolute || ins.op0_kind() != OpKind::Memory {
            return Err(Refused);
        }
        let offset = place(self.context, register_number(ins.op1_register()));
        let wanted = self.flags_before(items, at);
        let writes = ins.mnemonic() != M::Bt;
        self.state.release(&mut self.asm, self.context);
        self.address(item)?;
        match (offset, size) {
            (Place::Host(host), 8) => self.asm.mov(8, S1, host),
            (Place::Host(host), _) => self.asm.movsxd(S1, host),
            (Place::Context(from), 8) => self.asm.load(8, S1, from),
            (Place::Context(from), _) => self.asm.load_sx(S1, from),
        }
        let bits = size.trailing_zeros() as u8 + 3;
        self.asm.sar(8, S1, bits);
        self.asm.lea(8, S0, Mem::Index(S0, S1, bits - 3, 0));
        let form = if writes { Form::Pointer } else { Form::Indexed };
        let slow = self.look_up(u32::from(size), 1, writes, form);
        let (resume, back) = (self.asm.label(), self.asm.label());
        let site = self.site(item, Action::ExecuteForFlags, resume);
        if writes {
            self.change_bit(ins, size, wanted, offset);
            self.state.set_host();
            self.watch(item, size, item.live != 0);
        } else {
            self.asm.load(size, S1, Mem::Index(S0, S1, 0, 0));
            self.hold(wanted);
            match offset {
                Place::Host(host) => self.asm.bt(size, S1, host),
                Place::Context(from) => {
                    self.asm.load(8, S0, from);
                    self.asm.bt(size, S1, S0);
                }
            }
            self.state.set_host();
        }
        self.asm.bind(back);
        self.outs.push(Out::Slow { at: slow, site, resume, back, then: Then::Flags });
        Ok(())
    }

    /// Changes the bit of the word at S0; S1 is the index of the entry and becomes the tracking of the page.
    fn change_bit(&mut self, ins: &Instruction, size: u8, wanted: u32, offset: Place) {
        let (code, bit, pointer) =
            (field!(self.context, value), field!(self.context, call_target), field!(self.context, scratch));
        self.asm.load(8, S1, self.code_field());
        self.asm.store(8, code, S1);
        match offset {
            Place::Host(host) => self.asm.mov(8, S1, host),
            Place::Context(from) => self.asm.load(8, S1, from),
        }
        self.asm.alu_imm(4, Alu::And, S1, i32::from(size) * 8 - 1);
        if wanted != 0 {
            self.asm.store(8, bit, S1);
            self.asm.store(8, pointer, S0);
            self.hold(wanted);
            self.asm.load(8, S0, pointer);
            self.asm.load(8, S1, bit);
        }
        let opcode = match ins.mnemonic() {
            M::Bts => 0xab,
            M::Btr => 0xb3,
            _ => 0xbb,
        };
        self.asm.change_bit(ins.has_lock_prefix(), size, opcode, Mem::Base(S0, 0), S1);
        self.asm.load(8, S1, code);
    }
}
