//! PCMPESTRI, PCMPESTRM, PCMPISTRI and PCMPISTRM.
//!
//! Specification: Intel SDM volume 2, section 4.1, "Imm8 control byte operation for
//! PCMPESTRI / PCMPESTRM / PCMPISTRI / PCMPISTRM". A set of elements is a bit mask here, bit `j`
//! for element `j`; IntRes1 and IntRes2 are the names of that section.

use crate::VectorFlags;
use crate::lanes::get;

/// Where the number of valid elements comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StringLengths {
    /// The first zero element ends the string (I forms).
    Implicit,
    /// |EAX| and |EDX|, saturated (E forms).
    Explicit32,
    /// |RAX| and |RDX|, saturated (E forms with REX.W).
    Explicit64,
}

/// Which result the instruction delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StringOutput {
    /// An element index to ECX, bits 63:32 of RCX cleared (I forms: PCMPxSTRI).
    Index,
    /// A mask to XMM0 (M forms: PCMPxSTRM).
    Mask,
}

/// One of the string comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringOp {
    /// Where the lengths come from.
    pub lengths: StringLengths,
    /// What is delivered.
    pub output: StringOutput,
}

/// The result of a string comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StringResult {
    /// For RCX (zero-extended).
    Index(u32),
    /// For XMM0.
    Mask(u128),
}

impl StringOp {
    /// Compares `dst` (the first operand) with `src`; `rax` and `rdx` are the whole registers and
    /// ignored by the implicit forms.
    pub fn run(self, dst: &u128, src: &u128, rax: u64, rdx: u64, imm: u8) -> (StringResult, VectorFlags) {
        let a = Elements::new(dst, imm, self.length(rax));
        let b = Elements::new(src, imm, self.length(rdx));
        let all = b.all();
        let mut result = match imm >> 2 & 3 {
            0 => equal_any(&a, &b),
            1 => ranges(&a, &b),
            2 => equal_each(&a, &b),
            _ => equal_ordered(&a, &b),
        };
        // Polarity: bit 4 negates, bit 5 restricts the negation to valid elements of `src`.
        result ^= match imm >> 4 & 3 {
            1 => all,
            3 => b.valid(),
            _ => 0,
        };
        let flags =
            VectorFlags { cf: result != 0, zf: b.length < b.count, sf: a.length < a.count, of: result & 1 != 0 };
        let output = match self.output {
            StringOutput::Index => StringResult::Index(index(result, imm, b.count)),
            StringOutput::Mask => StringResult::Mask(mask(result, imm, b.count)),
        };
        (output, flags)
    }

    /// The explicit length in a register, if the form has one.
    fn length(self, register: u64) -> Option<u64> {
        match self.lengths {
            StringLengths::Implicit => None,
            StringLengths::Explicit32 => Some(u64::from((register as i32).unsigned_abs())),
            StringLengths::Explicit64 => Some((register as i64).unsigned_abs()),
        }
    }
}

/// An operand as signed 32-bit elements, so that one comparison serves all four formats.
struct Elements {
    values: [i32; 16],
    /// 16 bytes or 8 words.
    count: usize,
    /// Valid elements, at most `count`.
    length: usize,
}

impl Elements {
    fn new(operand: &u128, imm: u8, explicit: Option<u64>) -> Self {
        let mut values = [0; 16];
        let count = match imm & 3 {
            0 => spread(&mut values, get::<u128, u8, 16>(operand)),
            1 => spread(&mut values, get::<u128, u16, 8>(operand)),
            2 => spread(&mut values, get::<u128, i8, 16>(operand)),
            _ => spread(&mut values, get::<u128, i16, 8>(operand)),
        };
        let length = match explicit {
            Some(length) => length.min(count as u64) as usize,
            None => {
                // Words fill half of `values`; the zeros behind them end the search in time.
                let zeros = mask_of(&values, |x| x == 0) | 1 << count;
                zeros.trailing_zeros() as usize
            }
        };
        Self { values, count, length }
    }

    /// Every element of the format.
    fn all(&self) -> u32 {
        (1 << self.count) - 1
    }

    /// The elements before the end of the string.
    fn valid(&self) -> u32 {
        (1 << self.length) - 1
    }

    /// The valid elements for which `test` holds.
    #[inline(always)]
    fn select(&self, test: impl Fn(i32) -> bool) -> u32 {
        mask_of(&self.values, test) & self.valid()
    }

    fn strings(&self) -> &[i32] {
        self.values.get(..self.length).unwrap_or(&[])
    }
}

#[inline(always)]
fn spread<T: Into<i32>, const N: usize>(values: &mut [i32; 16], lanes: [T; N]) -> usize {
    for (value, lane) in values.iter_mut().zip(lanes) {
        *value = lane.into();
    }
    N
}

#[inline(always)]
fn mask_of(values: &[i32; 16], test: impl Fn(i32) -> bool) -> u32 {
    let mut mask = 0;
    for (j, &value) in values.iter().enumerate() {
        mask |= u32::from(test(value)) << j;
    }
    mask
}

/// Elements of `b` that occur in the set `a`.
fn equal_any(a: &Elements, b: &Elements) -> u32 {
    let set = a.strings().iter();
    set.fold(0, |found, &x| found | b.select(|y| y == x))
}

/// Elements of `b` inside one of the ranges that pairs of `a` give; half a pair is no range.
fn ranges(a: &Elements, b: &Elements) -> u32 {
    let pairs = a.strings().chunks_exact(2);
    pairs.fold(0, |found, pair| match *pair {
        [low, high] => found | b.select(|y| (low..=high).contains(&y)),
        _ => found,
    })
}

/// Elements equal in both; two invalid elements are equal, a valid and an invalid one are not.
fn equal_each(a: &Elements, b: &Elements) -> u32 {
    let mut equal = 0;
    for (j, (x, y)) in a.values.iter().zip(&b.values).enumerate() {
        equal |= u32::from(x == y) << j;
    }
    let both_invalid = !a.valid() & !b.valid();
    (equal & a.valid() & b.valid() | both_invalid) & b.all()
}

/// Positions of `b` at which the string `a` begins, as far as the register shows.
fn equal_ordered(a: &Elements, b: &Elements) -> u32 {
    let mut starts = b.all();
    for (i, &x) in a.strings().iter().enumerate() {
        // Positions beyond the register count as a match.
        let beyond = b.all() & !(b.all() >> i);
        starts &= b.select(|y| y == x) >> i | beyond;
    }
    starts
}

/// ECX: the least or (imm bit 6) greatest set position, `count` if there is none.
fn index(result: u32, imm: u8, count: usize) -> u32 {
    if result == 0 {
        count as u32
    } else if imm & 0x40 == 0 {
        result.trailing_zeros()
    } else {
        result.ilog2()
    }
}

/// XMM0: the bits themselves or (imm bit 6) an element of ones for each.
fn mask(result: u32, imm: u8, count: usize) -> u128 {
    if imm & 0x40 == 0 {
        return u128::from(result);
    }
    let width = 128 / count;
    let element = u128::MAX >> (128 - width);
    (0..count).filter(|j| result >> j & 1 != 0).fold(0, |mask, j| mask | element << (j * width))
}
