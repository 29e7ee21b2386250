//! PUSH, POP and LEAVE.

use super::*;

impl Translator<'_> {
    pub(super) fn push(&mut self, item: &Item) -> Try {
        let ins = &item.ins;
        if item.op.size != 8 {
            return Err(Refused);
        }
        let data = match ins.op0_kind() {
            OpKind::Register if ins.op0_register().is_gpr64() => {
                match place(self.context, register_number(ins.op0_register())) {
                    Place::Host(host) => Data::Host(host),
                    Place::Context(at) => Data::Context(at),
                }
            }
            kind if is_immediate(kind) => Data::Immediate(i32::try_from(ins.immediate(0) as i64).map_err(|_| Refused)?),
            OpKind::Memory if ins.memory_size().size() == 8 => {
                self.state.release(&mut self.asm, self.context);
                self.load_operand(item, 8)?;
                let at = field!(self.context, scratch);
                self.asm.store(8, at, S1);
                Data::Context(at)
            }
            _ => return Err(Refused),
        };
        self.push_data(item, data)
    }

    pub(super) fn push_data(&mut self, item: &Item, data: Data) -> Try {
        self.state.release(&mut self.asm, self.context);
        self.state.overwritten(&mut self.asm, self.context, 4);
        self.asm.lea(8, S0, Mem::Base(HOST_RSP, -8));
        let slow = self.look_up(8, 1, true, Form::Pointer);
        let (resume, back) = (self.asm.label(), self.asm.label());
        let site = self.site(item, Action::Execute, resume);
        match data {
            Data::Host(host) => self.asm.store(8, Mem::Base(S0, 0), host),
            Data::Immediate(value) => self.asm.store_imm(8, Mem::Base(S0, 0), value),
            Data::Context(at) => {
                self.asm.load(8, S1, self.code_field());
                self.asm.store(8, field!(self.context, value), S1);
                self.asm.load(8, S1, at);
                self.asm.store(8, Mem::Base(S0, 0), S1);
                self.asm.load(8, S1, field!(self.context, value));
            }
        }
        if !matches!(data, Data::Context(_)) {
            self.asm.load(8, S1, self.code_field());
        }
        self.asm.lea(8, HOST_RSP, Mem::Base(HOST_RSP, -8));
        self.watch(item, 8, false);
        self.asm.bind(back);
        self.outs.push(Out::Slow { at: slow, site, resume, back, then: Then::Nothing });
        Ok(())
    }

    /// Loads the top of the stack into S1.
    pub(super) fn load_top(&mut self, item: &Item, base: u8, action: Action) -> (Label, u32, Label) {
        self.asm.mov(8, S0, base);
        let slow = self.look_up(8, 1, false, Form::Indexed);
        let resume = self.asm.label();
        let site = self.site(item, action, resume);
        self.asm.load(8, S1, Mem::Index(S0, S1, 0, 0));
        (slow, site, resume)
    }

    pub(super) fn pop(&mut self, items: &[Item], at: usize) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        if item.op.size != 8 || ins.op0_kind() != OpKind::Register || !ins.op0_register().is_gpr64() {
            return Err(Refused);
        }
        let destination = register_number(ins.op0_register());
        self.state.release(&mut self.asm, self.context);
        self.keep_operands(items, at, 1 << 4 | 1 << destination);
        let (slow, site, resume) = self.load_top(item, HOST_RSP, Action::Execute);
        self.asm.lea(8, HOST_RSP, Mem::Base(HOST_RSP, 8));
        match place(self.context, destination) {
            Place::Host(host) => self.asm.mov(8, host, S1),
            Place::Context(at) => self.asm.store(8, at, S1),
        }
        let back = self.asm.label();
        self.asm.bind(back);
        self.outs.push(Out::Slow { at: slow, site, resume, back, then: Then::Nothing });
        Ok(())
    }

    pub(super) fn leave(&mut self, items: &[Item], at: usize) -> Try {
        let item = &items[at];
        if item.op.size != 8 {
            return Err(Refused);
        }
        self.state.release(&mut self.asm, self.context);
        self.keep_operands(items, at, 1 << 4 | 1 << 5);
        let (slow, site, resume) = self.load_top(item, 5, Action::Execute);
        self.asm.lea(8, HOST_RSP, Mem::Base(5, 8));
        self.asm.mov(8, 5, S1);
        let back = self.asm.label();
        self.asm.bind(back);
        self.outs.push(Out::Slow { at: slow, site, resume, back, then: Then::Nothing });
        Ok(())
    }
}
