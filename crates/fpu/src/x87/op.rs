//! What an x87 instruction does, independent of its encoding.

use super::environment::EnvironmentSize;
use crate::f80::F80;
use crate::host::x87 as host;

/// The memory operand of an x87 instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum X87Memory {
    /// No memory operand.
    None,
    /// Reads this many bytes.
    Load(u8),
    /// Writes this many bytes, unless an unmasked exception prevents it.
    Store(u8),
}

/// An x87 instruction without its operands.
#[derive(Clone, Copy, Debug)]
pub struct X87Op {
    pub(super) kind: Kind,
    pub(super) memory: X87Memory,
    pub(super) waits: bool,
}

/// Conditions of `FCMOVcc`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Condition {
    /// True when any of these EFLAGS bits is set …
    pub(super) flags: u32,
    /// … compared to this.
    pub(super) when: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Nop,
    LoadMemory(host::LoadFn),
    LoadF80,
    LoadRegister,
    LoadConstant(host::ConstantFn),
    StoreMemory {
        convert: host::StoreFn,
        indefinite: Indefinite,
        pops: u8,
    },
    StoreF80,
    StoreRegister {
        pops: u8,
    },
    StoreUnchecked,
    Exchange,
    Free {
        pops: u8,
    },
    MoveTop(i8),
    ConditionalMove(Condition),
    ChangeSign,
    Absolute,
    ArithmeticMemory(host::MemoryFn),
    /// ST(0) ← f(ST(0), ST(i)).
    ArithmeticTop(host::BinaryFn),
    /// ST(i) ← f(ST(0), ST(i)).
    ArithmeticRegister {
        f: host::BinaryFn,
        pops: u8,
    },
    CompareMemory {
        f: host::CompareMemoryFn,
        pops: u8,
    },
    CompareRegister {
        f: host::CompareFn,
        pops: u8,
    },
    /// `FCOMPP`, `FUCOMPP`: with ST(1).
    CompareBoth(host::CompareFn),
    CompareEflags {
        f: host::CompareFn,
        pops: u8,
    },
    Test,
    Examine,
    /// ST(0) ← f(ST(0)), with these condition codes.
    Unary(host::UnaryFn, u16),
    /// Replaces ST(0) and pushes; `bounded` when C2 reports an operand out of range.
    UnaryTwo {
        f: host::UnaryTwoFn,
        bounded: bool,
    },
    /// ST(0) ← f(ST(0), ST(1)), with these condition codes.
    BinaryTop(host::BinaryFn, u16),
    /// ST(1) ← f(ST(0), ST(1)), then pops.
    BinaryPop(host::BinaryFn),
    Init,
    ClearExceptions,
    LoadControl,
    StoreControl,
    StoreStatus,
    StoreStatusAx,
    LoadEnvironment(EnvironmentSize),
    StoreEnvironment(EnvironmentSize),
    Restore(EnvironmentSize),
    Save(EnvironmentSize),
}

/// The masked response of a store to an invalid operation.
#[derive(Clone, Copy, Debug)]
pub(super) enum Indefinite {
    F32,
    F64,
    I16,
    I32,
    I64,
    Bcd,
}

impl Indefinite {
    /// Bytes 0 to 7, and 8 and 9.
    pub(super) const fn value(self) -> (u64, u16) {
        match self {
            Self::F32 => (0xffc0_0000, 0),
            Self::F64 => (0xfff8_0000_0000_0000, 0),
            Self::I16 => (0x8000, 0),
            Self::I32 => (0x8000_0000, 0),
            Self::I64 => (0x8000_0000_0000_0000, 0),
            Self::Bcd => (0xc000_0000_0000_0000, 0xffff),
        }
    }
}

impl Condition {
    pub(super) fn holds(self, eflags: u32) -> bool {
        (eflags & self.flags != 0) == self.when
    }
}

impl X87Op {
    /// The memory operand's direction and size.
    #[must_use]
    pub const fn memory(&self) -> X87Memory {
        self.memory
    }

    /// Whether the instruction checks for pending exceptions first (see
    /// [`X87::pending_exception`](super::X87::pending_exception)).
    #[must_use]
    pub const fn waits(&self) -> bool {
        self.waits
    }

    /// Whether this is `FCMOVcc`, the only instruction that looks at
    /// [`X87Operand::eflags`](super::X87Operand).
    #[must_use]
    pub const fn reads_eflags(&self) -> bool {
        matches!(self.kind, Kind::ConditionalMove(_))
    }

    /// Whether the instruction reads or writes an environment whose layout depends on
    /// [`X87Operand::mode`](super::X87Operand).
    #[must_use]
    pub const fn has_environment(&self) -> bool {
        matches!(self.kind, Kind::LoadEnvironment(_) | Kind::StoreEnvironment(_) | Kind::Restore(_) | Kind::Save(_))
    }

    /// Whether the instruction updates the last-instruction pointers: all but control
    /// instructions do (SDM volume 1, section 8.1.8).
    #[must_use]
    pub const fn updates_pointers(&self) -> bool {
        !self.has_environment()
            && !matches!(
                self.kind,
                Kind::Nop
                    | Kind::Init
                    | Kind::ClearExceptions
                    | Kind::LoadControl
                    | Kind::StoreControl
                    | Kind::StoreStatus
                    | Kind::StoreStatusAx
            )
    }
}

/// Reads the bytes of a memory operand; missing bytes are zero. The usual sizes are copied as one
/// word, which the unit can then load without a stall.
pub(super) fn pad(memory: &[u8]) -> host::Bytes {
    let value = if let Ok(bytes) = <[u8; 8]>::try_from(memory) {
        u128::from(u64::from_le_bytes(bytes))
    } else if let Ok(bytes) = <[u8; 4]>::try_from(memory) {
        u128::from(u32::from_le_bytes(bytes))
    } else if let Ok(bytes) = <[u8; 2]>::try_from(memory) {
        u128::from(u16::from_le_bytes(bytes))
    } else {
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(memory) {
            *to = *from;
        }
        u128::from_le_bytes(bytes)
    };
    value.to_le_bytes()
}

/// Reads an 80-bit memory operand; missing bytes are zero.
pub(super) fn f80(memory: &[u8]) -> F80 {
    if let Ok(bytes) = <[u8; 10]>::try_from(memory) {
        return F80::from_bytes(&bytes);
    }
    let value = u128::from_le_bytes(pad(memory));
    F80::new((value >> 64) as u16, value as u64)
}
