//! Executing x87 instructions: stack checks, the host's operation, and what an exception means
//! (SDM volume 1, sections 8.4 to 8.6).

use super::environment::AddressMode;
use super::op::{Condition, Indefinite, Kind, X87Memory, X87Op, f80, pad};
use super::status::{self, C0, C1, C2, C3};
use super::{CONTROL_FIXED, Target, X87};
use crate::compare::Comparison;
use crate::f80::F80;
use crate::host::x87 as host;

/// The operands of an x87 instruction besides the register stack.
#[derive(Clone, Copy, Debug, Default)]
pub struct X87Operand<'a> {
    /// The `i` of ST(i), modulo 8 (see [`sti_index`](super::sti_index)).
    pub sti: u8,
    /// The bytes of a memory source, as many as [`X87Op::memory`] says; missing bytes are zero.
    pub memory: &'a [u8],
    /// EFLAGS, for the instructions that [read them](X87Op::reads_eflags).
    pub eflags: u32,
    /// For the instructions with an [environment](X87Op::has_environment).
    pub mode: AddressMode,
}

/// What the caller has to do after [`X87::execute`].
#[derive(Clone, Copy, Debug)]
pub enum X87Outcome {
    /// Nothing.
    Done,
    /// Write the result of a comparison to EFLAGS ([`Comparison::MASK`]).
    Eflags(Comparison),
    /// Write the status word to AX.
    Ax(u16),
    /// Store [`Store::bytes`], and if that succeeds [`X87::commit`]. The unit is unchanged yet.
    Store(Store),
}

/// A store that is ready to be done.
#[derive(Clone, Copy, Debug)]
pub struct Store {
    data: [u8; 108],
    len: u8,
    /// To be passed to [`X87::commit`] after the bytes have been stored.
    pub commit: Commit,
}

/// The changes of the unit that follow a successful store.
#[derive(Clone, Copy, Debug)]
pub struct Commit(Change);

#[derive(Clone, Copy, Debug)]
enum Change {
    /// The new status word (TOP as before), then pops.
    Status { status: u16, pops: u8 },
    /// After `FNSTENV`: all exceptions are masked.
    MaskExceptions,
    /// After `FNSAVE`.
    Init,
}

impl Store {
    /// The bytes to store at the memory operand.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.data.get(..usize::from(self.len)).unwrap_or(&self.data)
    }

    fn new(bytes: &[u8], change: Change) -> Self {
        let mut data = [0; 108];
        let mut len = 0;
        for (to, from) in data.iter_mut().zip(bytes) {
            *to = *from;
            len += 1;
        }
        Self { data, len, commit: Commit(change) }
    }
}

impl X87 {
    /// Executes an instruction. The caller has dealt with #NM and, for waiting instructions, with
    /// a [pending exception](Self::pending_exception).
    pub fn execute(&mut self, op: X87Op, operand: &X87Operand<'_>) -> X87Outcome {
        let sti = operand.sti;
        match op.kind {
            Kind::ArithmeticTop(f) => self.arithmetic(f, sti, 0, 0),
            Kind::ArithmeticRegister { f, pops } => self.arithmetic(f, sti, sti, pops),
            Kind::ArithmeticMemory(f) => self.arithmetic_memory(f, operand.memory),
            Kind::LoadMemory(f) => self.load(|guest| f(&pad(operand.memory), guest)),
            Kind::LoadConstant(f) => self.load(f),
            Kind::LoadF80 => self.load_bits(f80(operand.memory)),
            Kind::LoadRegister => self.load_register(sti),
            Kind::StoreRegister { pops } => self.store_register(sti, pops),
            Kind::StoreUnchecked => self.store_unchecked(sti),
            Kind::Exchange => self.exchange(sti),
            Kind::Unary(f, codes) => self.unary(f, codes),
            Kind::UnaryTwo { f, bounded } => self.unary_two(f, bounded),
            Kind::BinaryTop(f, codes) => self.binary_top(f, codes),
            Kind::BinaryPop(f) => self.arithmetic(f, 1, 1, 1),
            Kind::ChangeSign => self.sign(|sign| sign ^ 0x8000),
            Kind::Absolute => self.sign(|sign| sign & 0x7fff),
            Kind::CompareMemory { f, pops } => self.compare_memory(f, operand.memory, pops),
            Kind::CompareRegister { f, pops } => self.compare(f, sti, pops),
            Kind::CompareBoth(f) => self.compare(f, 1, 2),
            Kind::CompareEflags { f, pops } => return self.compare_eflags(f, sti, pops),
            Kind::Test => self.test(),
            Kind::Examine => self.examine(),
            Kind::ConditionalMove(condition) => {
                self.conditional_move(condition, sti, operand.eflags);
            }
            Kind::Free { pops } => {
                // The SDM leaves C1 undefined; hardware clears it.
                self.set_codes(C1, 0);
                self.valid &= !self.tag_bit(sti);
                self.pop_times(pops);
            }
            Kind::MoveTop(by) => {
                self.set_top(self.top().wrapping_add_signed(by));
                self.set_codes(C1, 0);
            }
            Kind::Nop => {}
            Kind::Init => self.init(),
            Kind::ClearExceptions => {
                self.status &= !(status::EXCEPTIONS | status::STACK_FAULT | status::SUMMARY | status::BUSY);
            }
            Kind::LoadControl => {
                let bytes = pad(operand.memory);
                self.set_control(u16::from_le_bytes([bytes[0], bytes[1]]));
            }
            Kind::LoadEnvironment(size) => {
                self.load_environment(operand.memory, size, operand.mode);
            }
            Kind::Restore(size) => self.restore(operand.memory, size, operand.mode),
            Kind::StoreStatusAx => return X87Outcome::Ax(self.status),
            Kind::StoreMemory { .. }
            | Kind::StoreF80
            | Kind::StoreControl
            | Kind::StoreStatus
            | Kind::StoreEnvironment(_)
            | Kind::Save(_) => return self.store(op, operand.mode),
        }
        X87Outcome::Done
    }

    /// Completes a store whose bytes have been written.
    pub fn commit(&mut self, commit: Commit) {
        match commit.0 {
            Change::Status { status, pops } => {
                self.status = status;
                self.pop_times(pops);
            }
            Change::MaskExceptions => self.set_control(self.control | status::EXCEPTIONS),
            Change::Init => self.init(),
        }
    }

    fn store(&mut self, op: X87Op, mode: AddressMode) -> X87Outcome {
        let unchanged = Change::Status { status: self.status, pops: 0 };
        X87Outcome::Store(match op.kind {
            Kind::StoreMemory { convert, indefinite, pops } => {
                return self.store_converted(op, convert, indefinite, pops);
            }
            Kind::StoreF80 => return self.store_f80(),
            Kind::StoreControl => Store::new(&(self.control | CONTROL_FIXED).to_le_bytes(), unchanged),
            Kind::StoreStatus => Store::new(&self.status.to_le_bytes(), unchanged),
            Kind::StoreEnvironment(size) => Store::new(self.environment(size, mode).bytes(), Change::MaskExceptions),
            Kind::Save(size) => Store::new(self.image(size, mode).bytes(), Change::Init),
            _ => return X87Outcome::Done,
        })
    }

    fn store_converted(&mut self, op: X87Op, convert: host::StoreFn, indefinite: Indefinite, pops: u8) -> X87Outcome {
        let before = self.status;
        let (low, high) = if self.is_empty(0) {
            if !self.stack_fault(0) {
                return X87Outcome::Done;
            }
            indefinite.value()
        } else {
            let stored = convert(self.register(0), self.guest());
            if !self.settle(stored.status, C1, Target::Memory) {
                return X87Outcome::Done;
            }
            (stored.low, stored.high)
        };
        let X87Memory::Store(len) = op.memory else {
            return X87Outcome::Done;
        };
        self.deferred((low, high), len, before, pops)
    }

    fn store_f80(&mut self) -> X87Outcome {
        let before = self.status;
        let value = if self.is_empty(0) {
            if !self.stack_fault(0) {
                return X87Outcome::Done;
            }
            F80::INDEFINITE
        } else {
            self.set_codes(C1, 0);
            self.st(0)
        };
        self.deferred((value.significand, value.sign_exponent), 10, before, 1)
    }

    /// A store of at most ten bytes whose changes of the status word and pops wait for
    /// [`commit`](Self::commit).
    fn deferred(&mut self, value: (u64, u16), len: u8, before: u16, pops: u8) -> X87Outcome {
        let status = self.status;
        self.status = before;
        let mut data = [0; 108];
        data[..8].copy_from_slice(&value.0.to_le_bytes());
        data[8..10].copy_from_slice(&value.1.to_le_bytes());
        X87Outcome::Store(Store { data, len, commit: Commit(Change::Status { status, pops }) })
    }

    /// ST(`to`) ← f(ST(0), ST(`with`)), then pops.
    fn arithmetic(&mut self, f: host::BinaryFn, with: u8, to: u8, pops: u8) {
        let value = if self.is_empty(0) || self.is_empty(with) {
            if !self.stack_fault(0) {
                return;
            }
            F80::INDEFINITE
        } else {
            let result = f(self.register(0), self.register(with), self.guest());
            if !self.settle(result.status, C1, Target::Register) {
                return;
            }
            result.value()
        };
        self.write(to, value);
        self.pop_times(pops);
    }

    fn arithmetic_memory(&mut self, f: host::MemoryFn, memory: &[u8]) {
        self.replace_top(C1, |st0, guest| f(st0, &pad(memory), guest));
    }

    fn unary(&mut self, f: host::UnaryFn, codes: u16) {
        self.replace_top(codes, f);
    }

    fn replace_top(&mut self, codes: u16, f: impl FnOnce(&F80, host::Guest) -> host::One) {
        // C2 means "incomplete" or "out of range": an exception clears it.
        self.set_codes(codes & C2, 0);
        let value = if self.is_empty(0) {
            if !self.stack_fault(0) {
                return;
            }
            F80::INDEFINITE
        } else {
            let result = f(self.register(0), self.guest());
            // Without a quotient (C0, C3, C1) the old C0 and C3 stay.
            let codes = if result.value().is_nan() { codes & !(C0 | C3) } else { codes };
            if !self.settle(result.status, codes, Target::Register) {
                return;
            }
            result.value()
        };
        self.write(0, value);
    }

    /// ST(0) ← f(ST(0), ST(1)).
    fn binary_top(&mut self, f: host::BinaryFn, codes: u16) {
        if self.is_empty(0) || self.is_empty(1) {
            self.set_codes(codes & C2, 0);
            if self.stack_fault(0) {
                self.write(0, F80::INDEFINITE);
            }
            return;
        }
        let st1 = self.st(1);
        self.replace_top(codes, |st0, guest| f(st0, &st1, guest));
    }

    fn unary_two(&mut self, f: host::UnaryTwoFn, bounded: bool) {
        let codes = if bounded { C1 | C2 } else { C1 };
        self.set_codes(codes & C2, 0);
        let underflow = self.is_empty(0);
        if underflow || !self.is_empty(7) {
            if self.stack_fault(if underflow { 0 } else { C1 }) {
                self.write(0, F80::INDEFINITE);
                self.push(F80::INDEFINITE);
            }
            return;
        }
        let result = f(self.register(0), self.guest());
        if !self.settle(result.status, codes, Target::Register) {
            return;
        }
        if bounded && result.status & C2 != 0 {
            return;
        }
        self.write(0, result.replaced);
        self.push(result.pushed);
    }

    fn load(&mut self, f: impl FnOnce(host::Guest) -> host::One) {
        if !self.is_empty(7) {
            if self.stack_fault(C1) {
                self.push(F80::INDEFINITE);
            }
            return;
        }
        let result = f(self.guest());
        if self.settle(result.status, C1, Target::Load) {
            self.push(result.value());
        }
    }

    fn load_bits(&mut self, value: F80) {
        if self.is_empty(7) {
            self.set_codes(C1, 0);
            self.push(value);
        } else if self.stack_fault(C1) {
            self.push(F80::INDEFINITE);
        }
    }

    fn load_register(&mut self, sti: u8) {
        if self.is_empty(sti) {
            if self.stack_fault(0) {
                self.push(F80::INDEFINITE);
            }
            return;
        }
        self.load_bits(self.st(sti));
    }

    fn store_register(&mut self, sti: u8, pops: u8) {
        let value = if self.is_empty(0) {
            if !self.stack_fault(0) {
                return;
            }
            F80::INDEFINITE
        } else {
            self.set_codes(C1, 0);
            self.st(0)
        };
        self.write(sti, value);
        self.pop_times(pops);
    }

    /// `FSTP1` (D9 D8+i): as `FSTP ST(i)`, but an empty ST(0) is popped without a stack fault
    /// and without being stored, as hardware does.
    fn store_unchecked(&mut self, sti: u8) {
        if self.is_empty(0) {
            self.set_codes(C1, 0);
            self.pop();
        } else {
            self.store_register(sti, 1);
        }
    }

    fn exchange(&mut self, sti: u8) {
        if self.is_empty(0) || self.is_empty(sti) {
            if !self.stack_fault(0) {
                return;
            }
            for i in [0, sti] {
                if self.is_empty(i) {
                    self.write(i, F80::INDEFINITE);
                }
            }
        } else {
            self.set_codes(C1, 0);
        }
        let (a, b) = (self.physical(0), self.physical(sti));
        self.regs.swap(a, b);
    }

    fn sign(&mut self, f: impl FnOnce(u16) -> u16) {
        if self.is_empty(0) {
            if self.stack_fault(0) {
                self.write(0, F80::INDEFINITE);
            }
            return;
        }
        self.set_codes(C1, 0);
        let value = self.st(0);
        self.write(0, F80::new(f(value.sign_exponent), value.significand));
    }

    fn conditional_move(&mut self, condition: Condition, sti: u8, eflags: u32) {
        if self.is_empty(0) || self.is_empty(sti) {
            if self.stack_fault(0) {
                self.write(0, F80::INDEFINITE);
            }
            return;
        }
        if condition.holds(eflags) {
            self.write(0, self.st(sti));
        }
    }

    /// Compares, unless `empty`, and sets C0 to C3.
    fn compare_codes(&mut self, empty: bool, pops: u8, f: impl FnOnce(&Self) -> u16) {
        let codes = C0 | C1 | C2 | C3;
        if empty {
            if !self.stack_fault(0) {
                return;
            }
            self.set_codes(codes, C0 | C2 | C3);
        } else {
            let status = f(self);
            if !self.settle(status, codes, Target::Register) {
                return;
            }
        }
        self.pop_times(pops);
    }

    fn compare(&mut self, f: host::CompareFn, sti: u8, pops: u8) {
        let empty = self.is_empty(0) || self.is_empty(sti);
        self.compare_codes(empty, pops, |unit| f(unit.register(0), unit.register(sti), unit.guest()));
    }

    fn compare_memory(&mut self, f: host::CompareMemoryFn, memory: &[u8], pops: u8) {
        let empty = self.is_empty(0);
        self.compare_codes(empty, pops, |unit| f(unit.register(0), &pad(memory), unit.guest()));
    }

    fn test(&mut self) {
        let empty = self.is_empty(0);
        self.compare_codes(empty, 0, |unit| host::ftst(unit.register(0), unit.guest()));
    }

    fn compare_eflags(&mut self, f: host::CompareFn, sti: u8, pops: u8) -> X87Outcome {
        let comparison = if self.is_empty(0) || self.is_empty(sti) {
            if !self.stack_fault(0) {
                return X87Outcome::Done;
            }
            Comparison::Unordered
        } else {
            let status = f(self.register(0), self.register(sti), self.guest());
            if !self.settle(status, host::fcomi_codes(), Target::Register) {
                return X87Outcome::Done;
            }
            Comparison::from_condition_codes(status)
        };
        self.pop_times(pops);
        X87Outcome::Eflags(comparison)
    }

    fn examine(&mut self) {
        let mut codes = host::fxam(self.register(0), self.guest());
        if self.is_empty(0) {
            codes = (codes & C1) | C3 | C0;
        }
        self.set_codes(C0 | C1 | C2 | C3, codes);
    }
}
