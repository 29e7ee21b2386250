//! The six arithmetic flags, kept lazily.
//!
//! An instruction stores its result and the vector of carries; the flags are computed by whoever reads them. The
//! representation needs no record of *which* operation it was:
//! - ZF and SF come from `result` (sign-extended to 64 bits), PF from its low byte;
//! - OF is the exclusive or of the carries out of and into the sign bit, which lie in bits 63 and 62 of `carries`;
//!   AF is bit 3 of `carries`, the carry out of bit 3;
//! - CF is bit 0 of `fix`. Bit 7 of `fix` inverts SF, and bits 15..8 are combined with the byte whose parity is PF, so
//!   that any combination of flags (POPF, SAHF) can be expressed. Ordinary results have both clear.

use x86::regs::rflags;

/// The arithmetic flags in deferred form.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct LazyFlags {
    result: u64,
    carries: u64,
    fix: u64,
}

/// CF, PF, AF, ZF, SF and OF.
pub const ARITHMETIC: u64 = rflags::CF | rflags::PF | rflags::AF | rflags::ZF | rflags::SF | rflags::OF;

const SIGN_FIX: u64 = 1 << 7;

/// Sign-extends the low `bits` bits.
#[inline(always)]
const fn extend(value: u64, bits: u32) -> u64 {
    (((value << (64 - bits)) as i64) >> (64 - bits)) as u64
}

/// Moves the top of a carry vector of `bits` bits to bit 63 and keeps bit 3.
#[inline(always)]
const fn place(carries: u64, bits: u32) -> u64 {
    if bits == 64 { carries } else { carries << (64 - bits) | carries & 8 }
}

impl LazyFlags {
    /// After `result = a + b (+ carry)`, all three truncated to `bits` bits.
    #[inline(always)]
    pub fn set_add(&mut self, a: u64, b: u64, result: u64, bits: u32) {
        let carries = (a & b) | ((a | b) & !result);
        self.result = extend(result, bits);
        self.carries = place(carries, bits);
        self.fix = carries >> (bits - 1) & 1;
    }

    /// After `result = a - b (- borrow)`, all three truncated to `bits` bits.
    #[inline(always)]
    pub fn set_sub(&mut self, a: u64, b: u64, result: u64, bits: u32) {
        let borrows = (!a & b) | ((!a | b) & result);
        self.result = extend(result, bits);
        self.carries = place(borrows, bits);
        self.fix = borrows >> (bits - 1) & 1;
    }

    /// After `result = a + 1`: as an addition, but CF stays.
    #[inline(always)]
    pub fn set_inc(&mut self, a: u64, result: u64, bits: u32) {
        let cf = self.fix & 1;
        self.set_add(a, 1, result, bits);
        self.fix = cf;
    }

    /// After `result = a - 1`: as a subtraction, but CF stays.
    #[inline(always)]
    pub fn set_dec(&mut self, a: u64, result: u64, bits: u32) {
        let cf = self.fix & 1;
        self.set_sub(a, 1, result, bits);
        self.fix = cf;
    }

    /// After a logical operation: CF, OF and AF are clear.
    #[inline(always)]
    pub fn set_logic(&mut self, result: u64, bits: u32) {
        self.result = extend(result, bits);
        self.carries = 0;
        self.fix = 0;
    }

    /// ZF, SF and PF from the result; CF, OF and AF as given.
    #[inline(always)]
    pub fn set_result(&mut self, result: u64, bits: u32, cf: bool, of: bool, af: bool) {
        self.result = extend(result, bits);
        self.carries = u64::from(of) << 63 | u64::from(af) << 3;
        self.fix = u64::from(cf);
    }

    /// CF.
    #[inline(always)]
    pub fn cf(&self) -> bool {
        self.fix & 1 != 0
    }

    /// PF.
    #[inline(always)]
    pub fn pf(&self) -> bool {
        ((self.result ^ self.fix >> 8) as u8).count_ones() & 1 == 0
    }

    /// AF.
    #[inline(always)]
    pub fn af(&self) -> bool {
        self.carries & 8 != 0
    }

    /// ZF.
    #[inline(always)]
    pub fn zf(&self) -> bool {
        self.result == 0
    }

    /// SF.
    #[inline(always)]
    pub fn sf(&self) -> bool {
        (self.result >> 63) ^ (self.fix >> 7 & 1) != 0
    }

    /// OF.
    #[inline(always)]
    pub fn of(&self) -> bool {
        (self.carries ^ self.carries << 1) >> 63 != 0
    }

    /// The flags at their places in RFLAGS.
    pub fn bits(&self) -> u64 {
        u64::from(self.cf())
            | u64::from(self.pf()) << 2
            | u64::from(self.af()) << 4
            | u64::from(self.zf()) << 6
            | u64::from(self.sf()) << 7
            | u64::from(self.of()) << 11
    }

    /// Sets all six from their places in RFLAGS.
    pub fn set_bits(&mut self, flags: u64) {
        let zero = flags & rflags::ZF != 0;
        let parity = flags & rflags::PF != 0;
        // The natural parity of result 0 is even (PF set), that of result 1 odd.
        self.result = u64::from(!zero);
        self.carries = (flags & rflags::OF) << 52 | (flags & rflags::AF) >> 1;
        self.fix = flags & rflags::CF | flags & SIGN_FIX | u64::from(zero != parity) << 8;
    }

    /// The flags as LAHF and SETO AL leave them in AX: SF, ZF, AF, PF and CF in AH, OF in AL.
    #[inline(always)]
    #[must_use]
    pub fn to_ax(&self) -> u64 {
        u64::from(self.sf()) << 15
            | u64::from(self.zf()) << 14
            | (self.carries & 8) << 9
            | u64::from(self.pf()) << 10
            | (self.fix & 1) << 8
            | u64::from(self.of())
    }

    /// Sets all six from AX after LAHF and SETO AL.
    #[inline(always)]
    pub fn set_ax(&mut self, ax: u64) {
        // See `set_bits`: result 1 is odd and not zero, result 0 is even and zero.
        self.result = !ax >> 14 & 1;
        self.carries = ax << 63 | ax >> 9 & 8;
        self.fix = ax >> 8 & (1 | SIGN_FIX) | ((ax >> 14 ^ ax >> 10) & 1) << 8;
    }

    /// CF, AF and OF at their places in [`LazyFlags::to_ax`]; the others clear.
    #[inline(always)]
    #[must_use]
    pub fn carries_to_ax(&self) -> u64 {
        (self.carries & 8) << 9 | (self.fix & 1) << 8 | u64::from(self.of())
    }

    /// ZF, SF and PF from the result; CF, AF and OF from AX after LAHF and SETO AL.
    #[inline(always)]
    pub fn set_result_ax(&mut self, result: u64, bits: u32, ax: u64) {
        self.result = extend(result, bits);
        self.carries = ax << 63 | ax >> 9 & 8;
        self.fix = ax >> 8 & 1;
    }

    /// CF and OF from AX after LAHF and SETO AL; the others stay.
    #[inline(always)]
    pub fn set_cf_of_ax(&mut self, ax: u64) {
        self.carries = self.carries & 8 | ax << 63;
        self.fix = self.fix & !1 | ax >> 8 & 1;
    }

    /// Changes CF alone.
    #[inline(always)]
    pub fn set_cf(&mut self, cf: bool) {
        self.fix = self.fix & !1 | u64::from(cf);
    }

    /// Changes AF alone.
    #[inline(always)]
    pub fn set_af(&mut self, af: bool) {
        self.carries = self.carries & !8 | u64::from(af) << 3;
    }

    /// Changes OF alone.
    #[inline(always)]
    pub fn set_of(&mut self, of: bool) {
        self.carries = self.carries & 8 | u64::from(of) << 63;
    }

    /// Changes ZF alone.
    pub fn set_zf(&mut self, zf: bool) {
        self.set_bits(self.bits() & !rflags::ZF | if zf { rflags::ZF } else { 0 });
    }

    /// One of the sixteen conditions of Jcc, SETcc and CMOVcc (SDM vol. 1, appendix B), by its encoding.
    #[inline(always)]
    pub fn condition<const CC: u8>(&self) -> bool {
        let holds = match CC >> 1 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.zf(),
            3 => self.cf() | self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.sf() ^ self.of(),
            _ => self.zf() | (self.sf() ^ self.of()),
        };
        holds ^ (CC & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_flags_survives_set_and_read() {
        for combination in 0..64u64 {
            let spread = combination & 1
                | (combination >> 1 & 1) << 2
                | (combination >> 2 & 1) << 4
                | (combination >> 3 & 1) << 6
                | (combination >> 4 & 1) << 7
                | (combination >> 5 & 1) << 11;
            let mut flags = LazyFlags::default();
            flags.set_bits(spread);
            assert_eq!(flags.bits(), spread);
            let ax = (spread & 0xd5) << 8 | spread >> 11;
            assert_eq!(flags.to_ax(), ax);
            assert_eq!(flags.carries_to_ax(), ax & 0x1101);
            let mut flags = LazyFlags::default();
            flags.set_ax(ax);
            assert_eq!(flags.bits(), spread);
        }
    }

    #[test]
    fn byte_addition_sets_carries_like_the_manual() {
        let mut flags = LazyFlags::default();
        flags.set_add(0x7f, 1, 0x80, 8);
        assert_eq!(flags.bits(), rflags::OF | rflags::SF | rflags::AF);
        flags.set_add(0xff, 1, 0, 8);
        assert_eq!(flags.bits(), rflags::CF | rflags::ZF | rflags::AF | rflags::PF);
        flags.set_sub(0, 1, 0xffff_ffff, 32);
        assert_eq!(flags.bits(), rflags::CF | rflags::SF | rflags::AF | rflags::PF);
        flags.set_dec(0, u64::MAX, 64);
        assert_eq!(flags.bits(), rflags::CF | rflags::SF | rflags::AF | rflags::PF);
    }
}
