//! x87 instructions on the host's unit. Operands come from memory and results go to memory; the
//! status word is taken directly after the instruction, so that flags and condition codes are its.

use core::arch::asm;
use core::ptr::{from_mut, from_ref};
use std::sync::LazyLock;

use crate::f80::F80;
use crate::x87::status::C1;

/// The control word that the ABI guarantees: all masked, extended precision, nearest.
pub(crate) const DEFAULT_CONTROL: u16 = 0x037f;
static RESTORE: u16 = DEFAULT_CONTROL;

/// Bytes of a memory operand, zero-padded.
pub(crate) type Bytes = [u8; 16];

/// A result and the status word of the instruction that produced it. Small enough for two
/// registers: a wide copy of a value that the x87 unit has just stored would stall.
#[derive(Clone, Copy)]
pub(crate) struct One {
    significand: u64,
    sign_exponent: u16,
    pub(crate) status: u16,
}

impl One {
    fn new(value: &F80, status: u16) -> Self {
        Self { significand: value.significand, sign_exponent: value.sign_exponent, status }
    }

    pub(crate) const fn value(self) -> F80 {
        F80::new(self.sign_exponent, self.significand)
    }
}

/// The results of an instruction that replaces ST(0) and pushes.
#[derive(Clone, Copy)]
pub(crate) struct Two {
    pub(crate) replaced: F80,
    /// Undefined while C2 reports an operand out of range.
    pub(crate) pushed: F80,
    pub(crate) status: u16,
}

/// A memory result and the status word, in two registers like [`One`].
#[derive(Clone, Copy)]
pub(crate) struct Stored {
    /// Bytes 0 to 7, zero-extended.
    pub(crate) low: u64,
    /// Bytes 8 and 9.
    pub(crate) high: u16,
    pub(crate) status: u16,
}

/// Reads as many bytes as the unit has stored, at once.
const fn stored16(bytes: &Bytes) -> (u64, u16) {
    (u16::from_le_bytes([bytes[0], bytes[1]]) as u64, 0)
}

const fn stored32(bytes: &Bytes) -> (u64, u16) {
    let value = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    (value as u64, 0)
}

const fn stored64(bytes: &Bytes) -> (u64, u16) {
    let [b0, b1, b2, b3, b4, b5, b6, b7, ..] = *bytes;
    (u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]), 0)
}

const fn stored80(bytes: &Bytes) -> (u64, u16) {
    (stored64(bytes).0, u16::from_le_bytes([bytes[8], bytes[9]]))
}

pub(crate) type ConstantFn = fn(Guest) -> One;
pub(crate) type LoadFn = fn(&Bytes, Guest) -> One;
pub(crate) type StoreFn = fn(&F80, Guest) -> Stored;
pub(crate) type UnaryFn = fn(&F80, Guest) -> One;
pub(crate) type UnaryTwoFn = fn(&F80, Guest) -> Two;
pub(crate) type BinaryFn = fn(&F80, &F80, Guest) -> One;
pub(crate) type MemoryFn = fn(&F80, &Bytes, Guest) -> One;
pub(crate) type CompareFn = fn(&F80, &F80, Guest) -> u16;
pub(crate) type CompareMemoryFn = fn(&F80, &Bytes, Guest) -> u16;

/// How to run an instruction.
#[derive(Clone, Copy)]
pub(crate) struct Guest {
    /// The control word: rounding, precision, and overflow and underflow as the guest masks them.
    pub(crate) control: u16,
    /// Exception flags that the guest has set already. The status word of a result may contain
    /// any of them; of the others it contains what the instruction raised.
    pub(crate) sticky: u16,
}

impl Guest {
    /// For loads and comparisons, which do not round, overflow or underflow.
    const fn rounding_free(self) -> Self {
        Self { control: DEFAULT_CONTROL, ..self }
    }

    /// Stands for a status word before the instruction has run: it has all exception flags and is
    /// never taken for a result, because a guest with unmasked exceptions has no sticky ones.
    const UNKNOWN: u16 = 0x3f;

    /// For stores, to which the precision control does not apply.
    const fn precision_free(self) -> Self {
        Self { control: self.control | 0x0300, ..self }
    }

    /// Whether overflow and underflow are masked, so that the host runs with everything masked.
    const fn masks_range(self) -> bool {
        self.control & 0x18 == 0x18
    }

    const fn has_flags(self, status: u16) -> bool {
        status & 0x3f & !self.sticky == 0
    }
}

/// Assembly that returns the status word in AX and uses the x87 stack.
macro_rules! block {
    ([$($line:literal)*], $status:ident, $($operands:tt)*) => {
        asm!(
            $($line,)*
            $($operands)*
            out("ax") $status,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            options(nostack)
        )
    };
}

/// Runs `load`, `op` and `store` and evaluates to the status word after `op`.
///
/// Clearing the host's exception flags costs more than most instructions, so with the default
/// control word the instruction runs first under the flags that the host happens to have; only
/// if the outcome contains a flag that the guest does not have, it runs again from cleared flags.
macro_rules! run {
    ($guest:expr, [$($load:literal)*], [$($op:literal)*], [$($store:literal)*], $($operands:tt)*) => {{
        let guest: Guest = $guest;
        let mut status: u16;
        if guest.control == DEFAULT_CONTROL {
            // SAFETY: the operands point to live slots of the size that the instructions access.
            // The x87 stack is empty before and after, no exception is unmasked, and the control
            // word is not changed.
            unsafe { block!([$($load)* $($op)* "fnstsw ax" $($store)*], status, $($operands)*) }
            if !guest.has_flags(status) {
                // SAFETY: as above.
                unsafe {
                    block!(["fnclex" $($load)* $($op)* "fnstsw ax" $($store)*], status, $($operands)*)
                }
            }
        } else {
            status = Guest::UNKNOWN;
            if guest.masks_range() {
                // SAFETY: as above, and no exception is unmasked in this control word; the default
                // control word is restored at the end.
                unsafe {
                    block!(
                        ["fldcw word ptr [{control}]" $($load)* $($op)* "fnstsw ax" $($store)*
                         "fldcw word ptr [{restore}]"],
                        status,
                        $($operands)*
                        control = in(reg) from_ref(&guest.control),
                        restore = in(reg) from_ref(&RESTORE),
                    )
                }
            }
            if !guest.has_flags(status) {
                // SAFETY: as above. Exceptions are cleared before the control word can unmask one
                // and directly after the operation, before the next waiting instruction; the
                // default control word is restored at the end.
                unsafe {
                    block!(
                        ["fnclex" "fldcw word ptr [{control}]" $($load)* $($op)* "fnstsw ax"
                         "fnclex" $($store)* "fldcw word ptr [{restore}]"],
                        status,
                        $($operands)*
                        control = in(reg) from_ref(&guest.control),
                        restore = in(reg) from_ref(&RESTORE),
                    )
                }
            }
        }
        status
    }};
}

macro_rules! constants {
    ($($name:ident $op:literal)*) => {$(
        pub(crate) fn $name(guest: Guest) -> One {
            let mut value = F80::default();
            let status = run!(guest, [], [$op], ["fstp tbyte ptr [{r}]"],
                r = in(reg) from_mut(&mut value),);
            One::new(&value, status)
        }
    )*};
}

macro_rules! loads {
    ($($name:ident $op:literal)*) => {$(
        pub(crate) fn $name(memory: &Bytes, guest: Guest) -> One {
            let mut value = F80::default();
            let status = run!(guest.rounding_free(), [], [$op], ["fstp tbyte ptr [{r}]"],
                m = in(reg) from_ref(memory), r = in(reg) from_mut(&mut value),);
            One::new(&value, status)
        }
    )*};
}

macro_rules! stores {
    ($($name:ident $read:ident [$($op:literal)*] [$($after:literal)*])*) => {$(
        pub(crate) fn $name(value: &F80, guest: Guest) -> Stored {
            let mut bytes = [0; 16];
            let status = run!(guest.precision_free(), ["fld tbyte ptr [{a}]"], [$($op)*], [$($after)*],
                a = in(reg) from_ref(value), m = in(reg) from_mut(&mut bytes),);
            let (low, high) = $read(&bytes);
            Stored { low, high, status }
        }
    )*};
}

macro_rules! unary {
    ($($name:ident $op:literal)*) => {$(
        pub(crate) fn $name(st0: &F80, guest: Guest) -> One {
            let mut value = F80::default();
            let status = run!(guest, ["fld tbyte ptr [{a}]"], [$op], ["fstp tbyte ptr [{r}]"],
                a = in(reg) from_ref(st0), r = in(reg) from_mut(&mut value),);
            One::new(&value, status)
        }
    )*};
}

macro_rules! unary_two {
    ($($name:ident $op:literal [$($store:literal)*])*) => {$(
        pub(crate) fn $name(st0: &F80, guest: Guest) -> Two {
            let (mut replaced, mut pushed) = (F80::default(), F80::default());
            let status = run!(guest, ["fld tbyte ptr [{a}]"], [$op], [$($store)*],
                a = in(reg) from_ref(st0),
                r = in(reg) from_mut(&mut replaced), p = in(reg) from_mut(&mut pushed),);
            Two { replaced, pushed, status }
        }
    )*};
}

/// `first` is loaded as ST(0), `second` as ST(1).
macro_rules! binary {
    ($($name:ident $op:literal [$($store:literal)*])*) => {$(
        pub(crate) fn $name(first: &F80, second: &F80, guest: Guest) -> One {
            let mut value = F80::default();
            let status = run!(guest, ["fld tbyte ptr [{b}]" "fld tbyte ptr [{a}]"], [$op],
                [$($store)*],
                a = in(reg) from_ref(first), b = in(reg) from_ref(second),
                r = in(reg) from_mut(&mut value),);
            One::new(&value, status)
        }
    )*};
}

macro_rules! memory {
    ($($name:ident $op:literal)*) => {$(
        pub(crate) fn $name(st0: &F80, memory: &Bytes, guest: Guest) -> One {
            let mut value = F80::default();
            let status = run!(guest, ["fld tbyte ptr [{a}]"], [$op], ["fstp tbyte ptr [{r}]"],
                a = in(reg) from_ref(st0), m = in(reg) from_ref(memory),
                r = in(reg) from_mut(&mut value),);
            One::new(&value, status)
        }
    )*};
}

macro_rules! compare {
    ($($name:ident $op:literal)*) => {$(
        pub(crate) fn $name(first: &F80, second: &F80, guest: Guest) -> u16 {
            run!(guest.rounding_free(), ["fld tbyte ptr [{b}]" "fld tbyte ptr [{a}]"], [$op],
                ["fstp st(0)" "fstp st(0)"],
                a = in(reg) from_ref(first), b = in(reg) from_ref(second),)
        }
    )*};
}

macro_rules! compare_memory {
    ($($name:ident $op:literal)*) => {$(
        pub(crate) fn $name(st0: &F80, memory: &Bytes, guest: Guest) -> u16 {
            run!(guest.rounding_free(), ["fld tbyte ptr [{a}]"], [$op], ["fstp st(0)"],
                a = in(reg) from_ref(st0), m = in(reg) from_ref(memory),)
        }
    )*};
}

macro_rules! classify {
    ($($name:ident $op:literal)*) => {$(
        pub(crate) fn $name(st0: &F80, guest: Guest) -> u16 {
            run!(guest.rounding_free(), ["fld tbyte ptr [{a}]"], [$op], ["fstp st(0)"],
                a = in(reg) from_ref(st0),)
        }
    )*};
}

constants! {
    fld1 "fld1" fldl2t "fldl2t" fldl2e "fldl2e" fldpi "fldpi"
    fldlg2 "fldlg2" fldln2 "fldln2" fldz "fldz"
}

loads! {
    fld_f32 "fld dword ptr [{m}]"
    fld_f64 "fld qword ptr [{m}]"
    fild_i16 "fild word ptr [{m}]"
    fild_i32 "fild dword ptr [{m}]"
    fild_i64 "fild qword ptr [{m}]"
    fbld "fbld tbyte ptr [{m}]"
}

stores! {
    fst_f32 stored32 ["fst dword ptr [{m}]"] ["fstp st(0)"]
    fst_f64 stored64 ["fst qword ptr [{m}]"] ["fstp st(0)"]
    fist_i16 stored16 ["fist word ptr [{m}]"] ["fstp st(0)"]
    fist_i32 stored32 ["fist dword ptr [{m}]"] ["fstp st(0)"]
    // The following exist only as popping instructions. Invalid and precision, the exceptions
    // that they can raise, are always masked here, so that they always pop.
    fistp_i64 stored64 ["fistp qword ptr [{m}]"] []
    fisttp_i16 stored16 ["fisttp word ptr [{m}]"] []
    fisttp_i32 stored32 ["fisttp dword ptr [{m}]"] []
    fisttp_i64 stored64 ["fisttp qword ptr [{m}]"] []
    fbstp stored80 ["fbstp tbyte ptr [{m}]"] []
}

unary! {
    fsqrt "fsqrt" frndint "frndint" f2xm1 "f2xm1" fsin "fsin" fcos "fcos"
}

unary_two! {
    fxtract "fxtract" ["fstp tbyte ptr [{p}]" "fstp tbyte ptr [{r}]"]
    // C2 set: the operand is out of range and nothing has been pushed.
    fptan "fptan" ["test ah, 4" "jnz 2f" "fstp tbyte ptr [{p}]" "2:" "fstp tbyte ptr [{r}]"]
    fsincos "fsincos" ["test ah, 4" "jnz 2f" "fstp tbyte ptr [{p}]" "2:" "fstp tbyte ptr [{r}]"]
}

binary! {
    // ST(0) is the destination, ST(1) the source.
    fadd_st0 "fadd st(0), st(1)" ["fstp tbyte ptr [{r}]" "fstp st(0)"]
    fsub_st0 "fsub st(0), st(1)" ["fstp tbyte ptr [{r}]" "fstp st(0)"]
    fsubr_st0 "fsubr st(0), st(1)" ["fstp tbyte ptr [{r}]" "fstp st(0)"]
    fmul_st0 "fmul st(0), st(1)" ["fstp tbyte ptr [{r}]" "fstp st(0)"]
    fdiv_st0 "fdiv st(0), st(1)" ["fstp tbyte ptr [{r}]" "fstp st(0)"]
    fdivr_st0 "fdivr st(0), st(1)" ["fstp tbyte ptr [{r}]" "fstp st(0)"]
    // ST(1) is the destination, ST(0) the source.
    fadd_sti "fadd st(1), st(0)" ["fstp st(0)" "fstp tbyte ptr [{r}]"]
    fsub_sti "fsub st(1), st(0)" ["fstp st(0)" "fstp tbyte ptr [{r}]"]
    fsubr_sti "fsubr st(1), st(0)" ["fstp st(0)" "fstp tbyte ptr [{r}]"]
    fmul_sti "fmul st(1), st(0)" ["fstp st(0)" "fstp tbyte ptr [{r}]"]
    fdiv_sti "fdiv st(1), st(0)" ["fstp st(0)" "fstp tbyte ptr [{r}]"]
    fdivr_sti "fdivr st(1), st(0)" ["fstp st(0)" "fstp tbyte ptr [{r}]"]
    fscale "fscale" ["fstp tbyte ptr [{r}]" "fstp st(0)"]
    fprem "fprem" ["fstp tbyte ptr [{r}]" "fstp st(0)"]
    fprem1 "fprem1" ["fstp tbyte ptr [{r}]" "fstp st(0)"]
    // These pop: the result replaces ST(1).
    fyl2x "fyl2x" ["fstp tbyte ptr [{r}]"]
    fyl2xp1 "fyl2xp1" ["fstp tbyte ptr [{r}]"]
    fpatan "fpatan" ["fstp tbyte ptr [{r}]"]
}

memory! {
    fadd_f32 "fadd dword ptr [{m}]"
    fsub_f32 "fsub dword ptr [{m}]"
    fsubr_f32 "fsubr dword ptr [{m}]"
    fmul_f32 "fmul dword ptr [{m}]"
    fdiv_f32 "fdiv dword ptr [{m}]"
    fdivr_f32 "fdivr dword ptr [{m}]"
    fadd_f64 "fadd qword ptr [{m}]"
    fsub_f64 "fsub qword ptr [{m}]"
    fsubr_f64 "fsubr qword ptr [{m}]"
    fmul_f64 "fmul qword ptr [{m}]"
    fdiv_f64 "fdiv qword ptr [{m}]"
    fdivr_f64 "fdivr qword ptr [{m}]"
    fiadd_i16 "fiadd word ptr [{m}]"
    fisub_i16 "fisub word ptr [{m}]"
    fisubr_i16 "fisubr word ptr [{m}]"
    fimul_i16 "fimul word ptr [{m}]"
    fidiv_i16 "fidiv word ptr [{m}]"
    fidivr_i16 "fidivr word ptr [{m}]"
    fiadd_i32 "fiadd dword ptr [{m}]"
    fisub_i32 "fisub dword ptr [{m}]"
    fisubr_i32 "fisubr dword ptr [{m}]"
    fimul_i32 "fimul dword ptr [{m}]"
    fidiv_i32 "fidiv dword ptr [{m}]"
    fidivr_i32 "fidivr dword ptr [{m}]"
}

compare! {
    fcom "fcom st(1)"
    fucom "fucom st(1)"
}

compare_memory! {
    fcom_f32 "fcom dword ptr [{m}]"
    fcom_f64 "fcom qword ptr [{m}]"
    ficom_i16 "ficom word ptr [{m}]"
    ficom_i32 "ficom dword ptr [{m}]"
}

classify! {
    ftst "ftst" fxam "fxam"
}

static FCOMI_CODES: LazyLock<u16> = LazyLock::new(|| {
    let status: u16;
    // SAFETY: the stack is empty before and after, and no exception is unmasked.
    unsafe {
        // FXAM of -1 sets C1.
        block!(["fld1" "fchs" "fxam" "fcomi st(0), st(0)" "fnstsw ax" "fstp st(0)"], status,);
    }
    !status & C1
});

/// The condition codes that `FCOMI` and its relatives set from a comparison. Intel's processors clear C1, as both
/// makers' manuals say; AMD's leave it alone.
pub(crate) fn fcomi_codes() -> u16 {
    *FCOMI_CODES
}
