//! The guest's arithmetic flags in translated code.
//!
//! The host's flags are the guest's after an instruction that sets them. TLB look-ups and polls need the host's flags
//! for themselves, and a fault or an interrupt must find the guest's. So the translator knows at every point where the
//! guest's flags can be had from ([`State`]): from the host's flags, from a [`Recipe`] (the operation and where its
//! operands still are), from bits that were saved, or from the deferred flags in the context. Between regions it is
//! always the latter: kind, two operands, and CF by itself, since INC and DEC keep it.

use super::asm::{Alu, Asm, Mem, S0, cc};
use super::context::{Context, Place, field, place};
use crate::flags::LazyFlags;

/// What deferred flags are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    /// Saved bits.
    Bits = 1,
    /// `a` is the sum of something and `b`.
    Add = 2,
    /// `a` is something minus `b`.
    Sub = 3,
    /// `a - b`, not kept.
    Cmp = 4,
    /// `a` is the result of a logical operation.
    Logic = 5,
    /// `a` was incremented.
    Inc = 6,
    /// `a` was decremented.
    Dec = 7,
    /// `a` was negated.
    Neg = 8,
}

impl Kind {
    fn from_number(number: u32) -> Self {
        match number {
            2 => Self::Add,
            3 => Self::Sub,
            4 => Self::Cmp,
            5 => Self::Logic,
            6 => Self::Inc,
            7 => Self::Dec,
            8 => Self::Neg,
            _ => Self::Bits,
        }
    }
}

/// How many numbers [`number`] gives at most.
pub(super) const NUMBERS: usize = 64;

/// What `Context::flag_kind` holds for a kind and a size in bytes.
pub(super) fn number(kind: Kind, size: u8) -> u32 {
    (kind as u32) << 2 | u32::from(size).trailing_zeros() & 3
}

/// Makes the subroutine that turns deferred flags into bits (CF from its own place): dispatches over
/// `Context::flag_makers`, whose addresses it returns. Changes S0 and the host's flags.
pub(super) fn bits_subroutine(asm: &mut Asm, context: u32, base: u64) -> (u64, [u64; NUMBERS]) {
    let start = base + u64::from(asm.here());
    asm.load(4, S0, field!(context, flag_kind));
    if let Mem::Abs(makers) = field!(context, flag_makers) {
        asm.jmp_mem(Mem::Scaled(S0, 3, makers as i32));
    }
    let mut makers = [0; NUMBERS];
    let kinds = [Kind::Bits, Kind::Add, Kind::Sub, Kind::Cmp, Kind::Logic, Kind::Inc, Kind::Dec, Kind::Neg];
    for kind in kinds {
        for size in [1u8, 2, 4, 8] {
            if let Some(maker) = makers.get_mut(number(kind, size) as usize) {
                *maker = base + u64::from(asm.here());
            }
            if kind == Kind::Bits {
                merge_carry(asm, context);
                asm.ret();
                continue;
            }
            let b = field!(context, flag_b);
            asm.store(8, field!(context, saved_rax), 0);
            asm.load(8, 0, field!(context, flag_a));
            match kind {
                Kind::Add => {
                    asm.alu_mem(size, Alu::Sub, 0, b);
                    asm.alu_mem(size, Alu::Add, 0, b);
                }
                Kind::Sub => {
                    asm.alu_mem(size, Alu::Add, 0, b);
                    asm.alu_mem(size, Alu::Cmp, 0, b);
                }
                Kind::Cmp => asm.alu_mem(size, Alu::Cmp, 0, b),
                Kind::Logic => asm.test(size, 0, 0),
                Kind::Inc => {
                    asm.dec(size, 0);
                    asm.inc(size, 0);
                }
                Kind::Dec => {
                    asm.inc(size, 0);
                    asm.dec(size, 0);
                }
                Kind::Neg => {
                    asm.neg(size, 0);
                    asm.neg(size, 0);
                }
                Kind::Bits => {}
            }
            asm.lahf();
            asm.setcc(cc::O, 0);
            asm.alu_imm(4, Alu::And, 0, 0xfeff);
            asm.load_zx(1, S0, field!(context, flag_cf));
            asm.shl(4, S0, 8);
            asm.alu(4, Alu::Add, 0, S0);
            asm.store(2, field!(context, flag_bits), 0);
            asm.load(8, 0, field!(context, saved_rax));
            asm.ret();
        }
    }
    (start, makers)
}

/// Where an operand of a recipe is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    /// A guest register.
    Register(u8),
    Immediate(i32),
    /// `Context::flag_a`.
    SlotA,
    /// `Context::flag_b`.
    SlotB,
}

/// How flags are made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recipe {
    pub kind: Kind,
    /// 1, 2, 4 or 8 bytes.
    pub size: u8,
    pub a: Operand,
    pub b: Operand,
}

/// Where the flags but CF are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Main {
    /// The context has them deferred.
    Memory,
    /// `Context::flag_bits`.
    Bits,
    Recipe(Recipe),
    /// Only in the host's flags.
    Host,
}

/// Where CF is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carry {
    /// `Context::flag_cf`.
    Memory,
    /// With the others.
    Same,
}

/// Which of the guest's flags the host's flags hold now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    None,
    AllButCarry,
    All,
}

/// Where a site's flags come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub main: Main,
    pub carry: Carry,
}

/// Where the guest's flags are at one point of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub main: Main,
    pub carry: Carry,
    pub held: Held,
}

impl State {
    /// At the borders of regions.
    pub(super) const CANONICAL: Self = Self { main: Main::Memory, carry: Carry::Memory, held: Held::None };

    pub(super) fn source(&self) -> Source {
        Source { main: self.main, carry: self.carry }
    }

    /// After an instruction whose flags only the host has.
    pub(super) fn set_host(&mut self) {
        *self = Self { main: Main::Host, carry: Carry::Same, held: Held::All };
    }

    pub(super) fn set_recipe(&mut self, recipe: Recipe) {
        *self = Self { main: Main::Recipe(recipe), carry: Carry::Same, held: Held::All };
    }

    fn load(asm: &mut Asm, context: u32, size: u8, to: u8, operand: Operand) {
        match operand {
            Operand::Register(n) => match place(context, n) {
                Place::Host(host) => asm.mov(size.max(4), to, host),
                Place::Context(at) => asm.load(8, to, at),
            },
            Operand::Immediate(value) => asm.mov_imm(to, i64::from(value) as u64),
            Operand::SlotA => asm.load(8, to, field!(context, flag_a)),
            Operand::SlotB => asm.load(8, to, field!(context, flag_b)),
        }
    }

    /// `op to, operand`.
    fn apply(asm: &mut Asm, context: u32, size: u8, op: Alu, to: u8, operand: Operand) {
        match operand {
            Operand::Register(n) => match place(context, n) {
                Place::Host(host) => asm.alu(size, op, to, host),
                Place::Context(at) => asm.alu_mem(size, op, to, at),
            },
            Operand::Immediate(value) => asm.alu_imm(size, op, to, value),
            Operand::SlotA => asm.alu_mem(size, op, to, field!(context, flag_a)),
            Operand::SlotB => asm.alu_mem(size, op, to, field!(context, flag_b)),
        }
    }

    /// The operand's host register, or S0 after loading it.
    fn in_register(asm: &mut Asm, context: u32, size: u8, operand: Operand) -> u8 {
        if let Operand::Register(n) = operand
            && let Place::Host(host) = place(context, n)
        {
            return host;
        }
        Self::load(asm, context, size, S0, operand);
        S0
    }

    /// Saves the host's flags as bits. Changes S0.
    pub(super) fn save_bits(asm: &mut Asm, context: u32) {
        asm.mov(8, S0, 0);
        asm.lahf();
        asm.setcc(cc::O, 0);
        asm.store(2, field!(context, flag_bits), 0);
        asm.mov(8, 0, S0);
    }

    /// Loads the host's flags from saved bits. Changes S0.
    pub(super) fn load_bits(asm: &mut Asm, context: u32) {
        asm.mov(8, S0, 0);
        asm.load_zx(2, 0, field!(context, flag_bits));
        asm.alu_imm(1, Alu::Add, 0, 0x7f);
        asm.sahf();
        asm.mov(8, 0, S0);
    }

    /// Before something changes the host's flags: keeps what only they have. Changes S0 and no flag.
    pub(super) fn release(&mut self, asm: &mut Asm, context: u32) {
        if self.main == Main::Host {
            Self::save_bits(asm, context);
            self.main = Main::Bits;
        }
        self.held = Held::None;
    }

    /// Brings the flags into the host's, where `self` is not [`Main::Memory`] (`false`: it is, and the runtime must be
    /// asked first). `carry`: CF is wanted too. Changes S0.
    pub(super) fn hold(&mut self, asm: &mut Asm, context: u32, carry: bool) -> bool {
        match self.held {
            Held::All => return true,
            Held::AllButCarry if !carry => return true,
            _ => {}
        }
        match self.main {
            Main::Memory => return false,
            // The host's flags hold all but CF, and they are the only place.
            Main::Host => {
                Self::save_bits(asm, context);
                self.main = Main::Bits;
                return self.hold(asm, context, carry);
            }
            Main::Bits => {
                if self.carry == Carry::Memory {
                    merge_carry(asm, context);
                    self.carry = Carry::Same;
                }
                Self::load_bits(asm, context);
                self.held = Held::All;
            }
            Main::Recipe(recipe) => {
                self.held = Held::All;
                if self.carry == Carry::Memory && !carry && !matches!(recipe.kind, Kind::Inc | Kind::Dec) {
                    self.held = Held::AllButCarry;
                }
                self.make(asm, context, recipe, carry);
            }
        }
        true
    }

    fn make(&mut self, asm: &mut Asm, context: u32, recipe: Recipe, carry: bool) {
        let Recipe { kind, size, a, b } = recipe;
        match kind {
            Kind::Cmp => {
                let left = Self::in_register(asm, context, size, a);
                Self::apply(asm, context, size, Alu::Cmp, left, b);
            }
            Kind::Add => {
                Self::load(asm, context, size, S0, a);
                Self::apply(asm, context, size, Alu::Sub, S0, b);
                Self::apply(asm, context, size, Alu::Add, S0, b);
            }
            Kind::Sub => {
                Self::load(asm, context, size, S0, a);
                Self::apply(asm, context, size, Alu::Add, S0, b);
                Self::apply(asm, context, size, Alu::Cmp, S0, b);
            }
            Kind::Logic => {
                let register = Self::in_register(asm, context, size, a);
                asm.test(size, register, register);
            }
            Kind::Neg => {
                Self::load(asm, context, size, S0, a);
                asm.neg(size, S0);
                asm.neg(size, S0);
            }
            Kind::Inc | Kind::Dec => {
                Self::load(asm, context, size, S0, a);
                if kind == Kind::Inc {
                    asm.dec(size, S0);
                } else {
                    asm.inc(size, S0);
                }
                if carry {
                    asm.bt_mem(field!(context, flag_cf), 0);
                } else {
                    self.held = Held::AllButCarry;
                }
                if kind == Kind::Inc { asm.inc(size, S0) } else { asm.dec(size, S0) }
            }
            Kind::Bits => {}
        }
    }

    /// Before guest register `n` changes: keeps it if a recipe needs it. Changes no flag.
    pub(super) fn overwritten(&mut self, asm: &mut Asm, context: u32, n: u8) {
        let Main::Recipe(recipe) = &mut self.main else { return };
        let mut keep = |operand: &mut Operand, slot: Operand, at: Mem| {
            if *operand == Operand::Register(n) {
                match place(context, n) {
                    Place::Host(host) => asm.store(8, at, host),
                    Place::Context(from) => {
                        asm.load(8, S0, from);
                        asm.store(8, at, S0);
                    }
                }
                *operand = slot;
            }
        };
        keep(&mut recipe.a, Operand::SlotA, field!(context, flag_a));
        keep(&mut recipe.b, Operand::SlotB, field!(context, flag_b));
    }

    /// Before INC or DEC: CF comes to its own place in the context, unless it is there. Changes S0.
    pub(super) fn split_carry(&mut self, asm: &mut Asm, context: u32) {
        if self.carry == Carry::Memory {
            return;
        }
        self.store_carry(asm, context);
        self.carry = Carry::Memory;
    }

    /// Stores CF to the context. The host's flags are as they were, or held anew.
    fn store_carry(&mut self, asm: &mut Asm, context: u32) {
        if let Main::Recipe(Recipe { kind: Kind::Logic, .. }) = self.main {
            asm.store_imm(1, field!(context, flag_cf), 0);
        } else if self.hold(asm, context, true) {
            asm.setcc_mem(cc::B, field!(context, flag_cf));
        }
    }

    /// Brings the flags into the form that regions agree on. Changes S0; the host's flags hold what they held or more.
    pub(super) fn canonicalise(&mut self, asm: &mut Asm, context: u32) {
        let kind = match self.main {
            Main::Memory => return,
            Main::Recipe(recipe) => {
                if self.carry == Carry::Same {
                    self.store_carry(asm, context);
                }
                // A slot that is read is written before.
                if recipe.a == Operand::SlotB || recipe.b == Operand::SlotA {
                    // Never made by `overwritten`.
                    debug_assert!(false, "operands of a recipe are crossed");
                }
                Self::store_operand(asm, context, recipe.a, Operand::SlotA, field!(context, flag_a));
                Self::store_operand(asm, context, recipe.b, Operand::SlotB, field!(context, flag_b));
                number(recipe.kind, recipe.size)
            }
            Main::Host | Main::Bits => {
                if self.carry == Carry::Same {
                    if self.held == Held::All {
                        asm.setcc_mem(cc::B, field!(context, flag_cf));
                    } else if let Mem::Abs(bits) = field!(context, flag_bits) {
                        asm.load_zx(1, S0, Mem::Abs(bits + 1));
                        asm.and_low_bit_into(S0, field!(context, flag_cf));
                        self.held = Held::None;
                    }
                }
                if self.main == Main::Host {
                    Self::save_bits(asm, context);
                }
                number(Kind::Bits, 1)
            }
        };
        asm.store_imm(4, field!(context, flag_kind), kind as i32);
        (self.main, self.carry) = (Main::Memory, Carry::Memory);
    }

    fn store_operand(asm: &mut Asm, context: u32, operand: Operand, own: Operand, slot: Mem) {
        if operand == own {
            return;
        }
        match operand {
            Operand::Register(n) => match place(context, n) {
                Place::Host(host) => asm.store(8, slot, host),
                Place::Context(at) => {
                    asm.load(8, S0, at);
                    asm.store(8, slot, S0);
                }
            },
            Operand::Immediate(value) => asm.store_imm(8, slot, value),
            Operand::SlotA | Operand::SlotB => {
                asm.load(
                    8,
                    S0,
                    if operand == Operand::SlotA { field!(context, flag_a) } else { field!(context, flag_b) },
                );
                asm.store(8, slot, S0);
            }
        }
    }
}

/// Puts CF from the context into the saved bits. Changes S0 and the host's flags.
fn merge_carry(asm: &mut Asm, context: u32) {
    let Mem::Abs(bits) = field!(context, flag_bits) else { return };
    let high = Mem::Abs(bits + 1);
    asm.load_zx(1, S0, field!(context, flag_cf));
    asm.alu_mem_imm8(1, Alu::And, high, -2);
    // The bit is clear, so that adding sets it.
    asm.add_to_mem8(high, S0);
}

/// Makes the flags of an operation.
fn evaluate(flags: &mut LazyFlags, kind: Kind, size: u8, a: u64, b: u64) {
    let bits = u32::from(size.clamp(1, 8)) * 8;
    let mask = u64::MAX >> (64 - bits);
    let (a, b) = (a & mask, b & mask);
    match kind {
        Kind::Add => flags.set_add(a.wrapping_sub(b) & mask, b, a, bits),
        Kind::Sub => flags.set_sub(a.wrapping_add(b) & mask, b, a, bits),
        Kind::Cmp => flags.set_sub(a, b, a.wrapping_sub(b) & mask, bits),
        Kind::Logic => flags.set_logic(a, bits),
        Kind::Inc => flags.set_inc(a.wrapping_sub(1) & mask, a, bits),
        Kind::Dec => flags.set_dec(a.wrapping_add(1) & mask, a, bits),
        Kind::Neg => flags.set_sub(0, a.wrapping_neg() & mask, a, bits),
        Kind::Bits => {}
    }
}

/// Makes `flags` what `source` says; `gpr` are the registers at that point.
pub(super) fn resolve(context: &Context, gpr: &[u64; 16], source: Source, flags: &mut LazyFlags) {
    match source.main {
        Main::Memory => {
            let kind = Kind::from_number(context.flag_kind >> 2);
            let size = 1 << (context.flag_kind & 3);
            match kind {
                Kind::Bits => flags.set_ax(u64::from(context.flag_bits)),
                kind => evaluate(flags, kind, size, context.flag_a, context.flag_b),
            }
        }
        // A site's flags are never in the host's alone.
        Main::Bits | Main::Host => flags.set_ax(u64::from(context.flag_bits)),
        Main::Recipe(recipe) => {
            let value = |operand| match operand {
                Operand::Register(n) => gpr[usize::from(n & 15)],
                Operand::Immediate(value) => i64::from(value) as u64,
                Operand::SlotA => context.flag_a,
                Operand::SlotB => context.flag_b,
            };
            evaluate(flags, recipe.kind, recipe.size, value(recipe.a), value(recipe.b));
        }
    }
    if source.carry == Carry::Memory {
        flags.set_cf(context.flag_cf & 1 != 0);
    }
}

/// Defers flags that `flags` has.
pub(super) fn defer(context: &mut Context, flags: &LazyFlags) {
    context.flag_kind = number(Kind::Bits, 1);
    context.flag_bits = flags.to_ax() as u16;
    context.flag_cf = u8::from(flags.cf());
}
