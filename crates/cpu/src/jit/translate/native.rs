//! Instructions that stay as they are, and LEA and the divisions.

use super::*;

impl Translator<'_> {
    pub(super) fn effects(&mut self, ins: &Instruction) -> Effects {
        let quick = quick_effects(ins);
        if !cfg!(debug_assertions)
            && let Some(quick) = quick
        {
            return quick;
        }
        let effects = self.all_effects(ins);
        if let Some(quick) = quick {
            debug_assert!(
                quick.memory == effects.memory
                    && quick.writes == effects.writes
                    && effects.reads & !quick.reads == 0
                    && !effects.odd,
                "{quick:?} is not {effects:?}: {ins:?}"
            );
            return quick;
        }
        effects
    }

    fn all_effects(&mut self, ins: &Instruction) -> Effects {
        let mut effects = Effects::default();
        let info = self.tools.info.info(ins);
        let access = |access: OpAccess| {
            (
                matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite),
                matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite),
            )
        };
        for used in info.used_registers() {
            let register = used.register();
            if register_size(register) == 0 {
                continue;
            }
            let number = register.full_register().number() as u32;
            let (reads, writes) = access(used.access());
            // A part of a register is merged into the rest.
            let merges = writes && (register_size(register) < 4 || used.access() == OpAccess::CondWrite);
            effects.reads |= u32::from(reads || merges) << number;
            effects.writes |= u32::from(writes) << number;
        }
        for used in info.used_memory() {
            let this = access(used.access());
            effects.odd |= effects.memory.is_some();
            effects.memory = Some(this);
        }
        effects
    }

    /// Before an instruction changes registers: keeps the operands of the flags' recipe, where the flags matter.
    pub(super) fn keep_operands(&mut self, items: &[Item], at: usize, writes: u32) {
        if writes == 0 || !matches!(self.state.main, Main::Recipe(_)) {
            return;
        }
        if u32::from(items[at].sets) == ARITHMETIC || items[at].live == 0 {
            return;
        }
        for n in 0..16 {
            if writes >> n & 1 != 0 {
                self.state.overwritten(&mut self.asm, self.context, n);
            }
        }
    }

    pub(super) fn native(&mut self, items: &[Item], at: usize) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        let vector = item.vector;
        let plain = is_plain(ins.mnemonic()) && host_has_plain(ins);
        if !vector && !plain {
            return Err(Refused);
        }
        match ins.mnemonic() {
            M::Tzcnt if !self.mode.bmi => return Err(Refused),
            M::Lzcnt if !self.mode.abm => return Err(Refused),
            _ => {}
        }
        for n in 0..ins.op_count() {
            if ins.op_kind(n) == OpKind::Register {
                let register = ins.op_register(n);
                let known = register_size(register) != 0 || register.is_xmm() || register.is_ymm();
                if !known {
                    return Err(Refused);
                }
            }
        }
        let effects = self.effects(ins);
        if effects.odd {
            return Err(Refused);
        }
        match effects.memory {
            None => self.native_registers(items, at, effects),
            Some((true, false)) if !vector && ins.memory_size().size() <= 8 => self.native_load(items, at, effects),
            Some((_, false)) => self.native_vector_load(items, at, effects),
            Some((_, true)) => self.native_store(items, at, effects),
        }
    }

    /// The flags that must be in the host's before the instruction.
    pub(super) fn flags_before(&self, items: &[Item], at: usize) -> u32 {
        let item = &items[at];
        let mut wanted = item.reads;
        if item.modified != 0 && item.live & !item.sets != 0 {
            wanted |= ARITHMETIC as u8 & !item.sets;
        }
        u32::from(wanted)
    }

    /// Scratch registers for guest registers that live in the context.
    pub(super) fn assign(&self, effects: Effects, first: u8, count: usize) -> Try<Vec<(u8, u8)>> {
        let free = [first, S1];
        let mut assigned = Vec::new();
        for n in RESIDENT..16 {
            if (effects.reads | effects.writes) >> n & 1 != 0 {
                let scratch = free.get(assigned.len()).filter(|_| assigned.len() < count).ok_or(Refused)?;
                assigned.push((n, *scratch));
            }
        }
        Ok(assigned)
    }

    pub(super) fn load_assigned(&mut self, assigned: &[(u8, u8)], effects: Effects) {
        for (n, scratch) in assigned {
            if effects.reads >> n & 1 != 0
                && let Place::Context(at) = place(self.context, *n)
            {
                self.asm.load(8, *scratch, at);
            }
        }
    }

    pub(super) fn store_assigned(&mut self, assigned: &[(u8, u8)], effects: Effects) {
        for (n, scratch) in assigned {
            if effects.writes >> n & 1 != 0
                && let Place::Context(at) = place(self.context, *n)
            {
                self.asm.store(8, at, *scratch);
            }
        }
    }

    /// The instruction with its registers renamed; `memory` replaces the memory operand.
    pub(super) fn renamed(&self, ins: &Instruction, assigned: &[(u8, u8)], memory: Replace) -> Try<Instruction> {
        let mut new = *ins;
        for n in 0..ins.op_count() {
            match ins.op_kind(n) {
                OpKind::Register => {
                    let old = ins.op_register(n);
                    let size = register_size(old);
                    if size == 0 {
                        continue;
                    }
                    let number = register_number(old);
                    if number >= 16 {
                        // AH to BH are themselves.
                        continue;
                    }
                    let host = assigned
                        .iter()
                        .find(|(guest, _)| *guest == number)
                        .map(|(_, host)| *host)
                        .or_else(|| host_register(number))
                        .ok_or(Refused)?;
                    new.set_op_register(n, register(size, host));
                }
                OpKind::Memory => match memory {
                    Replace::Register(host, size) => {
                        new.set_op_kind(n, OpKind::Register);
                        new.set_op_register(n, register(size, host));
                    }
                    Replace::Form(form) => {
                        new.set_memory_base(Register::R14);
                        new.set_memory_index(if form == Form::Indexed { Register::R15 } else { Register::None });
                        new.set_memory_index_scale(1);
                        new.set_memory_displacement64(0);
                        new.set_memory_displ_size(0);
                        new.set_segment_prefix(Register::None);
                    }
                },
                kind if is_immediate(kind) => {}
                _ => return Err(Refused),
            }
        }
        Ok(new)
    }

    /// The instruction with its registers renamed and its memory operand replaced, as code.
    fn rename(&mut self, item: &Item, assigned: &[(u8, u8)], memory: Replace) -> Try<Encoded> {
        let patched = patch::patched(item, assigned, memory);
        #[cfg(debug_assertions)]
        if let Some(patched) = &patched {
            let encoded = self.renamed(&item.ins, assigned, memory).and_then(|new| self.encode(&new));
            if let Ok(encoded) = encoded {
                debug_assert!(patch::is_same(patched, &encoded), "{patched:x?} is not {encoded:x?}: {:?}", item.ins);
            } else {
                debug_assert!(false, "{patched:x?} can't be encoded: {:?}", item.ins);
            }
        }
        match patched {
            Some(code) => Ok(code),
            None => {
                let new = self.renamed(&item.ins, assigned, memory)?;
                self.encode(&new)
            }
        }
    }

    pub(super) fn encode(&mut self, ins: &Instruction) -> Try<Encoded> {
        let encoded = self.tools.encoder.encode(ins, 0);
        let mut bytes = self.tools.encoder.take_buffer();
        let mut result = Encoded::default();
        if encoded.is_ok()
            && let Some(to) = result.bytes.get_mut(..bytes.len())
        {
            to.copy_from_slice(&bytes);
            result.len = bytes.len() as u8;
        }
        bytes.clear();
        self.tools.encoder.set_buffer(bytes);
        if result.len == 0 { Err(Refused) } else { Ok(result) }
    }

    pub(super) fn native_registers(&mut self, items: &[Item], at: usize, effects: Effects) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        let assigned = self.assign(effects, S0, 2)?;
        let code = self.rename(item, &assigned, Replace::Form(Form::Pointer))?;
        let counter = matches!(ins.mnemonic(), M::Inc | M::Dec);
        if counter && u32::from(item.live) & CARRY != 0 {
            self.state.split_carry(&mut self.asm, self.context);
        } else if !counter {
            let wanted = self.flags_before(items, at);
            self.keep_operands(items, at, effects.writes);
            self.hold(wanted);
        }
        if assigned.len() != 1 || !self.in_context(ins) {
            self.load_assigned(&assigned, effects);
            self.asm.encoded(&code);
            self.store_assigned(&assigned, effects);
        }
        self.flags_after(items, at, None);
        Ok(())
    }

    /// Does an instruction on the context itself that has one register there, if that takes one host instruction.
    fn in_context(&mut self, ins: &Instruction) -> bool {
        let op = match ins.mnemonic() {
            M::Mov => None,
            M::Add => Some(Alu::Add),
            M::Or => Some(Alu::Or),
            M::And => Some(Alu::And),
            M::Sub => Some(Alu::Sub),
            M::Xor => Some(Alu::Xor),
            M::Cmp => Some(Alu::Cmp),
            _ => return false,
        };
        if ins.op0_kind() != OpKind::Register || !matches!(register_size(ins.op0_register()), 4 | 8) {
            return false;
        }
        let size = register_size(ins.op0_register());
        let to = place(self.context, register_number(ins.op0_register()));
        // A dword clears the upper half of its register.
        let whole = size == 8 || op == Some(Alu::Cmp);
        if is_immediate(ins.op1_kind()) {
            let Ok(value) =
                i32::try_from(if size == 8 { ins.immediate(1) as i64 } else { i64::from(ins.immediate(1) as i32) })
            else {
                return false;
            };
            return match (op, to) {
                (Some(op), Place::Context(to)) if whole => {
                    self.asm.alu_mem_imm(size, op, to, value);
                    true
                }
                (None, Place::Context(to)) if size == 8 || value >= 0 => {
                    self.asm.store_imm(8, to, value);
                    true
                }
                _ => false,
            };
        }
        if ins.op1_kind() != OpKind::Register || register_size(ins.op1_register()) != size {
            return false;
        }
        match (op, to, place(self.context, register_number(ins.op1_register()))) {
            (None, Place::Host(to), Place::Context(from)) => self.asm.load(size, to, from),
            (None, Place::Context(to), Place::Host(from)) if whole => self.asm.store(8, to, from),
            (Some(op), Place::Host(to), Place::Context(from)) => self.asm.alu_mem(size, op, to, from),
            (Some(op), Place::Context(to), Place::Host(from)) if whole => self.asm.alu_to_mem(size, op, to, from),
            _ => return false,
        }
        true
    }

    /// What the flags are after an instruction; `loaded`: its memory operand is in S1.
    pub(super) fn flags_after(&mut self, items: &[Item], at: usize, loaded: Option<u8>) {
        let ins = &items[at].ins;
        if items[at].modified == 0 {
            return;
        }
        let counter = match ins.mnemonic() {
            M::Inc => Some(Kind::Inc),
            M::Dec => Some(Kind::Dec),
            _ => None,
        };
        if let Some(kind) = counter {
            let number = register_number(ins.op0_register());
            let held = if self.state.held == Held::All { Held::All } else { Held::AllButCarry };
            if ins.op0_kind() == OpKind::Register && number < 16 {
                let size = register_size(ins.op0_register());
                let recipe = Recipe { kind, size, a: Operand::Register(number), b: Operand::Immediate(0) };
                self.state = State { main: Main::Recipe(recipe), carry: Carry::Memory, held };
            } else {
                self.state = State { main: Main::Host, carry: Carry::Memory, held };
            }
            return;
        }
        match recipe(ins, loaded) {
            Some(recipe) => {
                let in_slot = recipe.a == Operand::SlotA || recipe.b == Operand::SlotB;
                if in_slot && items[at].live != 0 {
                    // The value that was in memory goes where the deferred flags want it.
                    let slot = if recipe.a == Operand::SlotA {
                        field!(self.context, flag_a)
                    } else {
                        field!(self.context, flag_b)
                    };
                    self.asm.store(8, slot, S1);
                }
                self.state.set_recipe(recipe);
            }
            None => self.state.set_host(),
        }
    }

    pub(super) fn native_load(&mut self, items: &[Item], at: usize, effects: Effects) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        let size = ins.memory_size().size() as u8;
        if !matches!(size, 1 | 2 | 4 | 8) || is_register_bit_test(ins) {
            return Err(Refused);
        }
        let direct = effects.direct(ins);
        let assigned = self.assign(direct, S0, 1)?;
        let registers = if ins.mnemonic() == M::Movbe {
            None
        } else {
            Some(self.rename(item, &assigned, Replace::Register(S1, size))?)
        };
        // A plain load goes straight to its register.
        let straight = matches!(ins.mnemonic(), M::Mov | M::Movzx | M::Movsx | M::Movsxd) && assigned.is_empty();
        let direct_code = if straight || registers.is_none() {
            if !assigned.is_empty() {
                return Err(Refused);
            }
            Some(self.rename(item, &assigned, Replace::Form(Form::Indexed))?)
        } else {
            None
        };
        let wanted = self.flags_before(items, at);
        self.state.release(&mut self.asm, self.context);
        self.keep_operands(items, at, effects.writes);
        if let Some(code) = direct_code {
            self.address(item)?;
            let slow = self.look_up(u32::from(size), 1, false, Form::Indexed);
            let (resume, back) = (self.asm.label(), self.asm.label());
            let (action, then) = match registers {
                Some(registers) => (Action::Load(size), Then::Code(registers)),
                None => (Action::Execute, Then::Nothing),
            };
            let site = self.site(item, action, resume);
            self.asm.encoded(&code);
            self.asm.bind(back);
            self.outs.push(Out::Slow { at: slow, site, resume, back, then });
            return Ok(());
        }
        self.load_operand(item, size)?;
        self.hold(wanted);
        self.load_assigned(&assigned, direct);
        self.asm.encoded(&registers.unwrap_or_default());
        self.store_assigned(&assigned, direct);
        self.flags_after(items, at, Some(size));
        Ok(())
    }

    pub(super) fn native_vector_load(&mut self, items: &[Item], at: usize, effects: Effects) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        let size = ins.memory_size().size() as u32;
        if size == 0 || size > 32 {
            return Err(Refused);
        }
        let direct = effects.direct(ins);
        if direct.reads | direct.writes != 0 && !self.assign(direct, S0, 2)?.is_empty() {
            return Err(Refused);
        }
        let code = self.rename(item, &[], Replace::Form(Form::Indexed))?;
        if self.flags_before(items, at) != 0 {
            return Err(Refused);
        }
        self.state.release(&mut self.asm, self.context);
        self.keep_operands(items, at, effects.writes);
        self.address(item)?;
        let slow = self.look_up(size, alignment(ins, size), false, Form::Indexed);
        let flags = item.modified != 0;
        let (resume, back) = (self.asm.label(), self.asm.label());
        let action = if flags { Action::ExecuteForFlags } else { Action::Execute };
        let site = self.site(item, action, resume);
        self.asm.encoded(&code);
        self.asm.bind(back);
        let then = if flags { Then::Flags } else { Then::Nothing };
        self.outs.push(Out::Slow { at: slow, site, resume, back, then });
        if flags {
            self.state.set_host();
        }
        Ok(())
    }

    pub(super) fn native_store(&mut self, items: &[Item], at: usize, effects: Effects) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        let size = ins.memory_size().size() as u32;
        if size == 0 || size > 32 || is_register_bit_test(ins) {
            return Err(Refused);
        }
        let sets = is_setcc(ins);
        let counter = matches!(ins.mnemonic(), M::Inc | M::Dec);
        let wanted = if sets || counter { 0 } else { self.flags_before(items, at) };
        let direct = effects.direct(ins);
        let assigned = self.assign(direct, S1, 1)?;
        let code = if sets { Encoded::default() } else { self.rename(item, &assigned, Replace::Form(Form::Pointer))? };
        let flags = item.modified != 0;
        if sets {
            self.hold(ins.rflags_read());
            self.asm.setcc_mem(condition(ins), field!(self.context, scratch));
        }
        if counter && u32::from(item.live) & CARRY != 0 {
            self.state.split_carry(&mut self.asm, self.context);
        }
        self.state.release(&mut self.asm, self.context);
        self.keep_operands(items, at, effects.writes);
        self.address(item)?;
        let slow = self.look_up(size, alignment(ins, size), true, Form::Pointer);
        let (resume, back) = (self.asm.label(), self.asm.label());
        let action = if flags { Action::ExecuteForFlags } else { Action::Execute };
        let site = self.site(item, action, resume);
        if sets || !assigned.is_empty() || wanted != 0 {
            self.asm.load(8, S1, self.code_field());
            self.asm.store(8, field!(self.context, value), S1);
            if wanted != 0 {
                self.asm.store(8, field!(self.context, scratch), S0);
                self.hold(wanted);
                self.asm.load(8, S0, field!(self.context, scratch));
            }
            if sets {
                self.asm.load(1, S1, field!(self.context, scratch));
                self.asm.store(1, Mem::Base(S0, 0), S1);
            }
            self.load_assigned(&assigned, direct);
            self.asm.encoded(&code);
            self.store_assigned(&assigned, direct);
            self.asm.load(8, S1, field!(self.context, value));
        } else {
            self.asm.encoded(&code);
            self.asm.load(8, S1, self.code_field());
        }
        if counter {
            self.state = State { main: Main::Host, carry: Carry::Memory, held: Held::AllButCarry };
        } else if flags {
            self.state.set_host();
        }
        self.watch(item, size as u8, flags && item.live != 0);
        self.asm.bind(back);
        let then = if flags { Then::Flags } else { Then::Nothing };
        self.outs.push(Out::Slow { at: slow, site, resume, back, then });
        Ok(())
    }

    pub(super) fn lea(&mut self, items: &[Item], at: usize) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        let effects = self.effects(ins);
        let size = register_size(ins.op0_register());
        let destination = register_number(ins.op0_register());
        self.keep_operands(items, at, effects.writes);
        let base = ins.memory_base();
        let relative = base == Register::RIP || base == Register::EIP;
        let wide = base.is_gpr64() || ins.memory_index().is_gpr64() || base == Register::RIP;
        let constant = relative || (base == Register::None && ins.memory_index() == Register::None);
        let to = match place(self.context, destination) {
            Place::Host(host) => host,
            Place::Context(_) => S0,
        };
        if constant {
            if size != 8 && size != 4 {
                return Err(Refused);
            }
            let value = ins.memory_displacement64().wrapping_add(if relative { item.rip } else { 0 });
            let value = if wide || (!relative && ins.memory_displ_size() == 8) { value } else { value & 0xffff_ffff };
            self.asm.mov_imm(to, if size == 8 { value } else { value & 0xffff_ffff });
        } else {
            if size == 2 {
                return Err(Refused);
            }
            let address_size = if wide { 8 } else { 4 };
            let displacement = ins.memory_displacement64() as i32;
            let mem = self.operand_form(ins, displacement).ok_or(Refused)?;
            // The result is truncated to the smaller of operand and address size.
            self.asm.lea(if size == 8 { address_size } else { 4 }, to, mem);
        }
        if let Place::Context(at) = place(self.context, destination) {
            self.asm.store(8, at, S0);
        }
        Ok(())
    }

    /// DIV and IDIV of 32 and 64 bits by a register: everything that may fault is left to the interpreter.
    pub(super) fn divide(&mut self, items: &[Item], at: usize) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        let memory = ins.op0_kind() == OpKind::Memory;
        let size = if memory { ins.memory_size().size() as u8 } else { register_size(ins.op0_register()) };
        if !matches!(size, 4 | 8) {
            return Err(Refused);
        }
        let effects = self.effects(ins);
        let divisor = if memory {
            S1
        } else {
            match place(self.context, register_number(ins.op0_register())) {
                Place::Host(host) => host,
                Place::Context(_) => S1,
            }
        };
        let mut new = *ins;
        new.set_op0_kind(OpKind::Register);
        new.set_op0_register(register(size, divisor));
        let code = self.encode(&new)?;
        self.state.release(&mut self.asm, self.context);
        self.keep_operands(items, at, effects.writes);
        if memory {
            self.load_operand(item, size)?;
        } else if let Place::Context(from) = place(self.context, register_number(ins.op0_register())) {
            self.asm.load(8, S1, from);
        }
        let slow = self.asm.label();
        if ins.mnemonic() == M::Div {
            // The quotient fits if and only if the high half is below the divisor.
            self.asm.alu(size, Alu::Cmp, 2, divisor);
            self.asm.jcc(cc::AE, slow);
        } else {
            // A sign-extended dividend overflows only when divided by -1; zero is out too.
            self.asm.mov(size, S0, 0);
            self.asm.sar(size, S0, size * 8 - 1);
            self.asm.alu(size, Alu::Cmp, S0, 2);
            self.asm.jcc(cc::NE, slow);
            self.asm.lea(size, S0, Mem::Base(divisor, 1));
            self.asm.alu_imm(size, Alu::Cmp, S0, 1);
            self.asm.jcc(cc::BE, slow);
        }
        let (resume, back) = (self.asm.label(), self.asm.label());
        let site = self.site(item, Action::ExecuteForFlags, resume);
        if item.live != 0 {
            self.hold(ARITHMETIC);
        }
        self.asm.encoded(&code);
        self.asm.bind(back);
        self.state.set_host();
        self.outs.push(Out::Slow { at: slow, site, resume, back, then: Then::Flags });
        Ok(())
    }
}

/// What the commonest instructions do. They may be said to read more than they do.
fn quick_effects(ins: &Instruction) -> Option<Effects> {
    // What the first operand is: read, written. The others are read.
    let first = match ins.mnemonic() {
        M::Mov | M::Movzx | M::Movsx | M::Movsxd => (false, true),
        M::Add | M::Or | M::And | M::Sub | M::Xor | M::Adc | M::Sbb => (true, true),
        M::Inc | M::Dec | M::Neg | M::Not | M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror => (true, true),
        M::Cmp | M::Test => (true, false),
        M::Imul if ins.op_count() == 3 => (false, true),
        M::Imul if ins.op_count() == 2 => (true, true),
        M::Lea => (false, true),
        _ => return None,
    };
    let mut effects = Effects::default();
    for n in 0..ins.op_count() {
        let (reads, writes) = if n == 0 { first } else { (true, false) };
        match ins.op_kind(n) {
            OpKind::Register => {
                let register = ins.op_register(n);
                let size = register_size(register);
                if size == 0 {
                    return None;
                }
                let number = register.full_register().number() as u32;
                // A part of a register is merged into the rest.
                effects.reads |= u32::from(reads || size < 4) << number;
                effects.writes |= u32::from(writes) << number;
            }
            OpKind::Memory => {
                for register in [ins.memory_base(), ins.memory_index()] {
                    if register_size(register) != 0 {
                        effects.reads |= 1 << register.full_register().number();
                    }
                }
                effects.memory = (ins.mnemonic() != M::Lea).then_some((reads, writes));
            }
            kind if is_immediate(kind) => {}
            _ => return None,
        }
    }
    Some(effects)
}
