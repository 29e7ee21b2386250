//! Bit tests, scans and counts, BMI1, BMI2, ADX, CRC32, BSWAP, MOVBE.

use super::address::{linear_offset, load_at, modify_at};
use super::operand::{get, get_rm, mask, set, set_rm};
use super::{Op, flag, native_int};
use crate::fault::Exec;
use crate::state::Cpu;
use x86::regs::rflags;

/// What a bit test does to the bit.
pub(super) mod bit_kind {
    /// BT.
    pub const TEST: u8 = 0;
    /// BTS.
    pub const SET: u8 = 1;
    /// BTR.
    pub const RESET: u8 = 2;
    /// BTC.
    pub const COMPLEMENT: u8 = 3;
}

#[inline(always)]
fn change<const KIND: u8>(value: u64, bit: u64) -> u64 {
    match KIND {
        bit_kind::SET => value | bit,
        bit_kind::RESET => value & !bit,
        bit_kind::COMPLEMENT => value ^ bit,
        _ => value,
    }
}

/// BT, BTS, BTR, BTC. OF, SF, AF and PF are undefined; ZF and the others stay as they were.
pub(super) fn bit_test<const KIND: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    let bits = 8 * u64::from(op.size);
    let number = if op.has(flag::IMM) { op.imm } else { get(cpu, op.size, op.src) };
    let bit = 1u64 << (number & (bits - 1));
    if !op.has(flag::MEM) {
        let value = get(cpu, op.size, op.dst);
        if KIND != bit_kind::TEST {
            set(cpu, op.size, op.dst, change::<KIND>(value, bit));
        }
        cpu.flags.set_cf(value & bit != 0);
        return Ok(());
    }
    let offset = if op.has(flag::IMM) {
        linear_offset(cpu, op, 0)
    } else {
        // A register counts bits from the operand's address, in both directions.
        let shift = 64 - bits as u32;
        let signed = ((number << shift) as i64) >> shift;
        let unit = signed >> bits.trailing_zeros();
        linear_offset(cpu, op, unit.wrapping_mul(i64::from(op.size)) as u64)
    };
    let mut old = 0;
    if KIND == bit_kind::TEST {
        old = load_at(cpu, op, offset, op.size)?;
    } else if op.has(flag::LOCK) {
        super::atomic::modify_at(cpu, op, offset, op.size, |_, value| {
            old = value;
            change::<KIND>(value, bit)
        })?;
    } else {
        modify_at(cpu, op, offset, op.size, |_, value| {
            old = value;
            change::<KIND>(value, bit)
        })?;
    }
    cpu.flags.set_cf(old & bit != 0);
    Ok(())
}

/// BSF and BSR; what a zero source does to the destination, and the flags but ZF, are the host's.
pub(super) fn scan<const REVERSE: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = get_rm(cpu, op, op.size, op.src)?;
    let target = usize::from(op.dst & 15);
    let mut ax = cpu.flags.to_ax();
    cpu.gpr[target] = native_int::scan::<REVERSE>(&mut ax, op.size, cpu.gpr[target], value);
    cpu.flags.set_ax(ax);
    Ok(())
}

/// TZCNT and LZCNT: CF for a zero source, ZF for a zero result; the other flags are undefined.
pub(super) fn count_zeros<const LEADING: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = get_rm(cpu, op, op.size, op.src)?;
    let mut ax = cpu.flags.to_ax();
    let host =
        if LEADING { native_int::lzcnt(&mut ax, op.size, value) } else { native_int::tzcnt(&mut ax, op.size, value) };
    if let Some(r) = host {
        set(cpu, op.size, op.dst, r);
        cpu.flags.set_ax(ax);
        return Ok(());
    }
    let bits = 8 * u32::from(op.size);
    let count = match (value, LEADING) {
        (0, _) => bits,
        (_, true) => value.leading_zeros() - (64 - bits),
        (_, false) => value.trailing_zeros(),
    };
    set(cpu, op.size, op.dst, u64::from(count));
    let old = cpu.flags.bits() & !(rflags::CF | rflags::ZF);
    let cf = if value == 0 { rflags::CF } else { 0 };
    let zf = if count == 0 { rflags::ZF } else { 0 };
    cpu.flags.set_bits(old | cf | zf);
    Ok(())
}

/// POPCNT.
pub(super) fn popcnt(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = get_rm(cpu, op, op.size, op.src)?;
    set(cpu, op.size, op.dst, u64::from(value.count_ones()));
    cpu.flags.set_bits(if value == 0 { rflags::ZF } else { 0 });
    Ok(())
}

/// Result and flags of the host's instruction, or of `otherwise` (a result and CF) where the host has not got it: then
/// SF and ZF are from the result, OF is clear, and so are AF and PF, which are undefined.
fn by_host(
    cpu: &mut Cpu,
    op: &Op,
    host: impl FnOnce(&mut u64, u8) -> Option<u64>,
    otherwise: impl FnOnce() -> (u64, bool),
) {
    let mut ax = cpu.flags.to_ax();
    let r = match host(&mut ax, op.size) {
        Some(r) => {
            cpu.flags.set_ax(ax);
            r
        }
        None => {
            let (r, cf) = otherwise();
            cpu.flags.set_result(r & mask(op.size), 8 * u32::from(op.size), cf, false, false);
            r
        }
    };
    set(cpu, op.size, op.dst, r);
}

/// ANDN: `dst = !extra & r/m`.
pub(super) fn andn(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = get_rm(cpu, op, op.size, op.src)?;
    let a = get(cpu, op.size, op.extra);
    by_host(cpu, op, |ax, size| native_int::andn(ax, size, a, b), || (!a & b, false));
    Ok(())
}

/// BLSR (0), BLSMSK (1), BLSI (2).
pub(super) fn lowest<const KIND: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = get_rm(cpu, op, op.size, op.src)?;
    let host = |ax: &mut u64, size| match KIND {
        0 => native_int::blsr(ax, size, value),
        1 => native_int::blsmsk(ax, size, value),
        _ => native_int::blsi(ax, size, value),
    };
    by_host(cpu, op, host, || match KIND {
        0 => (value & value.wrapping_sub(1), value == 0),
        1 => (value ^ value.wrapping_sub(1), value == 0),
        _ => (value & value.wrapping_neg(), value != 0),
    });
    Ok(())
}

/// BEXTR.
pub(super) fn bextr(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = get_rm(cpu, op, op.size, op.src)?;
    let control = get(cpu, op.size, op.extra);
    by_host(
        cpu,
        op,
        |ax, size| native_int::bextr(ax, size, value, control),
        || {
            let (start, len) = ((control & 0xff) as u32, (control >> 8 & 0xff) as u32);
            let shifted = value.checked_shr(start).unwrap_or(0);
            (if len >= 64 { shifted } else { shifted & ((1 << len) - 1) }, false)
        },
    );
    Ok(())
}

/// BZHI.
pub(super) fn bzhi(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = get_rm(cpu, op, op.size, op.src)?;
    let index = get(cpu, op.size, op.extra);
    by_host(
        cpu,
        op,
        |ax, size| native_int::bzhi(ax, size, value, index),
        || {
            let n = (index & 0xff) as u32;
            let beyond = n >= 8 * u32::from(op.size);
            (if beyond { value } else { value & ((1 << n) - 1) }, beyond)
        },
    );
    Ok(())
}

/// PDEP and PEXT.
pub(super) fn deposit<const EXTRACT: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    let selector = get_rm(cpu, op, op.size, op.src)?;
    let value = get(cpu, op.size, op.extra);
    let r = if EXTRACT { simd::bits::pext(value, selector) } else { simd::bits::pdep(value, selector) };
    set(cpu, op.size, op.dst, r);
    Ok(())
}

/// ADCX (carry flag) and ADOX (overflow flag).
pub(super) fn add_carry<const OVERFLOW: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = get_rm(cpu, op, op.size, op.src)?;
    let a = get(cpu, op.size, op.dst);
    let carry = if OVERFLOW { cpu.flags.of() } else { cpu.flags.cf() };
    let sum = u128::from(a) + u128::from(b) + u128::from(carry);
    set(cpu, op.size, op.dst, sum as u64);
    let out = sum >> (8 * u32::from(op.size)) != 0;
    if OVERFLOW {
        cpu.flags.set_of(out);
    } else {
        cpu.flags.set_cf(out);
    }
    Ok(())
}

/// CRC32; `extra` is the source's size.
pub(super) fn crc32(cpu: &mut Cpu, op: &Op) -> Exec {
    let data = get_rm(cpu, op, op.extra, op.src)?;
    let crc = get(cpu, 4, op.dst) as u32;
    let r = match op.extra {
        1 => simd::bits::crc32_u8(crc, data as u8),
        2 => simd::bits::crc32_u16(crc, data as u16),
        4 => simd::bits::crc32_u32(crc, data as u32),
        _ => simd::bits::crc32_u64(crc, data),
    };
    set(cpu, 8, op.dst, u64::from(r));
    Ok(())
}

fn swap(size: u8, value: u64) -> u64 {
    value.swap_bytes() >> (64 - 8 * u32::from(size.clamp(1, 8)))
}

/// BSWAP; 16 bits are undefined in the manual and give zero on hardware.
pub(super) fn bswap(cpu: &mut Cpu, op: &Op) -> Exec {
    let r = if op.size == 2 { 0 } else { swap(op.size, get(cpu, op.size, op.dst)) };
    set(cpu, op.size, op.dst, r);
    Ok(())
}

/// MOVBE: one operand is memory.
pub(super) fn movbe<const STORE: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    if STORE {
        let value = swap(op.size, get(cpu, op.size, op.src));
        set_rm(cpu, op, op.size, op.src, value)
    } else {
        let value = get_rm(cpu, op, op.size, op.src)?;
        set(cpu, op.size, op.dst, swap(op.size, value));
        Ok(())
    }
}
