//! Jumps, calls and returns, and how regions are left.

use ::memory::PAGE_SIZE;

use super::*;
use crate::decode::LONGEST;

impl Translator<'_> {
    /// Leaves the region; the interpreter goes on at `rip`.
    pub(super) fn leave_for(&mut self, rip: u64) {
        self.useless |= self.pieces.first().is_some_and(|piece| piece.rip == rip) && self.asm.here() < 256;
        self.state.canonicalise(&mut self.asm, self.context);
        self.leave_next(rip);
    }

    pub(super) fn leave_next(&mut self, rip: u64) {
        self.asm.mov_imm(S0, rip);
        self.asm.store(8, field!(self.context, rip), S0);
        self.asm.store_imm(4, field!(self.context, leave), Leave::Next as i32);
        self.asm.jmp_to(self.addresses.stubs.leave);
    }

    /// Goes on at a known address. The piece there, if it is to follow directly.
    pub(super) fn go(&mut self, rip: u64) -> Option<(usize, State)> {
        match self.find(rip) {
            Some(index) if self.canonical[index] => {
                if !self.dead[index] {
                    self.state.canonicalise(&mut self.asm, self.context);
                }
                if self.done[index] {
                    self.asm.jmp(self.labels[index]);
                    return None;
                }
                Some((index, State::CANONICAL))
            }
            Some(index) => {
                debug_assert!(!self.done[index], "a piece with one entry is reached once");
                Some((index, self.state))
            }
            None => {
                self.state.canonicalise(&mut self.asm, self.context);
                self.edge(rip);
                None
            }
        }
    }

    /// Whether what is at `rip` depends on this page alone. An instruction that may reach into the next page does not.
    pub(super) fn same_page(&self, rip: u64) -> bool {
        self.pieces.first().is_some_and(|piece| (piece.rip ^ rip) & !0xfff == 0)
            && rip & 0xfff <= (PAGE_SIZE - LONGEST) as u64
    }

    pub(super) fn new_edge(&mut self, target: u64) -> (u32, Label) {
        let number = self.numbers.edges + self.edges.len() as u32;
        let stub = self.asm.label();
        self.edges.push(Edge { target, at: 0, stub, epoch: None });
        self.outs.push(Out::Edge { at: stub, edge: number });
        (number, stub)
    }

    /// A jump out of the region, with canonical flags.
    pub(super) fn edge(&mut self, target: u64) {
        let (_, stub) = self.new_edge(target);
        let mut epoch = None;
        if !self.same_page(target) {
            let word = Mem::Abs(self.addresses.tables.epoch(target));
            // No epoch is this one before the edge is linked: the stub is reached either way.
            epoch = Some(self.asm.cmp_mem_imm32(word, 0));
            self.asm.jcc(cc::NE, stub);
        }
        self.asm.jmp(stub);
        let at = self.asm.here() - 4;
        if let Some(edge) = self.edges.last_mut() {
            (edge.at, edge.epoch) = (at, epoch);
        }
    }

    pub(super) fn branch(&mut self, item: &Item) -> Option<(usize, State)> {
        let ins = &item.ins;
        if is_jcc(ins) {
            return self.conditional(item);
        }
        if is_direct(ins) && ins.mnemonic() == M::Jmp && ins.op0_kind() == OpKind::NearBranch64 {
            return self.go(item.target());
        }
        let done = match ins.code() {
            Code::Call_rel32_64 => self.call(item),
            Code::Retnq | Code::Retnq_imm16 => self.ret(item),
            Code::Jmp_rm64 => self.jump_indirect(item),
            Code::Call_rm64 => self.call_indirect(item),
            _ if repeats_string(ins) => {
                if self.string(item).is_err() {
                    self.slow(item, Action::String);
                }
                return self.go(item.next());
            }
            _ => Err(Refused),
        };
        if done.is_err() && is_transfer(ins) {
            self.slow(item, Action::Transfer);
            // The slow path does not come back.
            self.leave_for(item.next());
            return None;
        }
        if done.is_err() {
            if self.pieces.first().is_some_and(|piece| piece.rip == item.rip) {
                self.leave_for(item.rip);
            } else {
                self.slow(item, Action::Jump);
                // The slow path leaves; nothing follows.
                self.leave_for(item.next());
            }
        }
        None
    }

    pub(super) fn conditional(&mut self, item: &Item) -> Option<(usize, State)> {
        let wanted = item.ins.rflags_read();
        self.hold(wanted);
        let (target, next) = (item.target(), item.next());
        let inherits =
            |this: &Self, rip| this.find(rip).is_some_and(|index| !this.canonical[index] || this.dead[index]);
        if !inherits(self, target) || !inherits(self, next) {
            self.state.canonicalise(&mut self.asm, self.context);
        }
        let code = condition(&item.ins);
        match self.find(target) {
            Some(index) => {
                let label = self.labels[index];
                self.asm.jcc(code, label);
                if !self.done[index] {
                    self.waiting.push((index, self.state));
                }
            }
            None if self.same_page(target) => {
                let (_, stub) = self.new_edge(target);
                self.asm.jcc(code, stub);
                let at = self.asm.here() - 4;
                if let Some(edge) = self.edges.last_mut() {
                    edge.at = at;
                }
            }
            None => {
                let at = self.asm.label();
                self.asm.jcc(code, at);
                self.outs.push(Out::Far { at, target });
            }
        }
        self.go(next)
    }

    /// Pushes a return address; the slow path executes the whole instruction.
    pub(super) fn push_return(&mut self, item: &Item, address: u64) {
        self.asm.lea(8, S0, Mem::Base(HOST_RSP, -8));
        let slow = self.look_up(8, 1, true, Form::Pointer);
        let resume = self.asm.label();
        let site = self.site(item, Action::Jump, resume);
        if let Ok(short) = i32::try_from(address as i64) {
            self.asm.store_imm(8, Mem::Base(S0, 0), short);
            self.asm.load(8, S1, self.code_field());
        } else {
            self.asm.load(8, S1, self.code_field());
            self.asm.store(8, field!(self.context, value), S1);
            self.asm.mov_imm(S1, address);
            self.asm.store(8, Mem::Base(S0, 0), S1);
            self.asm.load(8, S1, field!(self.context, value));
        }
        self.asm.lea(8, HOST_RSP, Mem::Base(HOST_RSP, -8));
        // A hit leaves the region with the jump still to be done: the return address is stored again then.
        self.watch_call(item);
        self.asm.bind(resume);
        self.outs.push(Out::Slow { at: slow, site, resume, back: resume, then: Then::Nothing });
    }

    /// As [`Self::watch`], after the store of a call: on a hit RSP goes back and the interpreter repeats the call.
    pub(super) fn watch_call(&mut self, item: &Item) {
        let (at, back, resume) = (self.asm.label(), self.asm.label(), self.asm.label());
        self.asm.alu_mem_imm8(8, Alu::Cmp, Mem::Base(S1, 0), 0);
        self.asm.jcc(cc::NE, at);
        self.asm.bind(back);
        let site = self.site(item, Action::Note(0), resume);
        self.outs.push(Out::Watched { at, site, size: 8, resume, back, flags: false });
    }

    pub(super) fn call(&mut self, item: &Item) -> Try {
        self.state.canonicalise(&mut self.asm, self.context);
        self.state = State::CANONICAL;
        self.push_return(item, item.next());
        self.edge(item.target());
        Ok(())
    }

    pub(super) fn ret(&mut self, item: &Item) -> Try {
        self.state.canonicalise(&mut self.asm, self.context);
        self.state = State::CANONICAL;
        let (slow, site, resume) = self.load_top(item, HOST_RSP, Action::Jump);
        let extra = if item.ins.op_count() == 1 { item.ins.immediate(0) as i32 & 0xffff } else { 0 };
        let popped = 8 + extra;
        self.asm.lea(8, HOST_RSP, Mem::Base(HOST_RSP, popped));
        self.asm.bind(resume);
        self.outs.push(Out::Slow { at: slow, site, resume, back: resume, then: Then::Nothing });
        self.jump_to_s1(item.rip, popped);
        Ok(())
    }

    /// Loads the target of an indirect jump or call into S1. Flags are canonical.
    pub(super) fn target(&mut self, item: &Item) -> Try {
        let ins = &item.ins;
        if ins.op0_kind() == OpKind::Register {
            match place(self.context, register_number(ins.op0_register())) {
                Place::Host(host) => self.asm.mov(8, S1, host),
                Place::Context(at) => self.asm.load(8, S1, at),
            }
            return Ok(());
        }
        self.address(item)?;
        let slow = self.look_up(8, 1, false, Form::Indexed);
        let resume = self.asm.label();
        let site = self.site(item, Action::Jump, resume);
        self.asm.load(8, S1, Mem::Index(S0, S1, 0, 0));
        self.asm.bind(resume);
        self.outs.push(Out::Slow { at: slow, site, resume, back: resume, then: Then::Nothing });
        Ok(())
    }

    pub(super) fn jump_indirect(&mut self, item: &Item) -> Try {
        self.state.canonicalise(&mut self.asm, self.context);
        self.state = State::CANONICAL;
        self.target(item)?;
        self.jump_to_s1(item.rip, 0);
        Ok(())
    }

    pub(super) fn call_indirect(&mut self, item: &Item) -> Try {
        self.state.canonicalise(&mut self.asm, self.context);
        self.state = State::CANONICAL;
        self.target(item)?;
        // A target that is not canonical faults before anything is pushed.
        let (odd, resume) = (self.asm.label(), self.asm.label());
        let site = self.site(item, Action::Jump, resume);
        self.asm.mov(8, S0, S1);
        self.asm.shl(8, S0, 16);
        self.asm.sar(8, S0, 16);
        self.asm.alu(8, Alu::Cmp, S0, S1);
        self.asm.jcc(cc::NE, odd);
        self.asm.bind(resume);
        self.outs.push(Out::Slow { at: odd, site, resume, back: resume, then: Then::Nothing });
        self.asm.store(8, field!(self.context, call_target), S1);
        self.push_return(item, item.next());
        self.asm.load(8, S1, field!(self.context, call_target));
        self.jump_to_s1(item.rip, -8);
        Ok(())
    }

    /// Jumps to the guest address in S1, through the table.
    pub(super) fn jump_to_s1(&mut self, rip: u64, popped: i32) {
        let number = self.numbers.indirect + self.indirect.len() as u32;
        self.indirect.push(Indirect { rip, popped });
        let miss = self.asm.label();
        let context = self.context;
        let keys = match field!(context, keys) {
            Mem::Abs(address) => address as i32,
            _ => 0,
        };
        let jumps = match field!(context, jumps) {
            Mem::Abs(address) => address as i32,
            _ => 0,
        };
        self.asm.mov(8, S0, S1);
        self.asm.shr(8, S1, 63);
        self.asm.alu_mem(8, Alu::Xor, S0, Mem::Scaled(S1, 3, keys));
        self.asm.mov(4, S1, S0);
        self.asm.alu_imm(4, Alu::And, S1, JUMPS as i32 - 1);
        self.asm.shl(4, S1, 4);
        self.asm.alu_mem(8, Alu::Cmp, S0, Mem::Base(S1, jumps));
        self.asm.jcc(cc::NE, miss);
        self.asm.jmp_mem(Mem::Base(S1, jumps + 8));
        self.outs.push(Out::Miss { at: miss, indirect: number });
    }
}
