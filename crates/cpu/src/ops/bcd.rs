//! Decimal adjustment: AAA, AAS, AAM, AAD, DAA, DAS (SDM vol. 2; all #UD in 64-bit mode, which the decoder knows).
//!
//! Flags that the manual leaves undefined are what the processor's steps leave, as compared with hardware: those of the
//! addition or subtraction in AAA, AAS (to AX), AAD, DAA and DAS (to AL); AAM clears CF, AF and OF.

use super::{Op, S8, S16, Size};
use crate::fault::{Exec, Fault};
use crate::state::Cpu;

const AL: u8 = 0;
const AX: u8 = 0;

/// Adds `step` to (or takes it from) AX if the low digit is none or AF is set, and clears the upper half of AL. SF, ZF, PF
/// and OF are those of the addition to AX, be it of 0.
fn adjust_ascii<const SUBTRACT: bool>(cpu: &mut Cpu) -> Exec {
    let ax = S16::get(cpu, AX);
    let adjusts = ax & 0xf > 9 || cpu.flags.af();
    let step = if adjusts { 0x106 } else { 0 };
    let r = if SUBTRACT {
        let r = ax.wrapping_sub(step) & 0xffff;
        cpu.flags.set_sub(ax, step, r, 16);
        r
    } else {
        let r = (ax + step) & 0xffff;
        cpu.flags.set_add(ax, step, r, 16);
        r
    };
    S16::set(cpu, AX, r & 0xff0f);
    cpu.flags.set_cf(adjusts);
    cpu.flags.set_af(adjusts);
    Ok(())
}

/// AAA.
pub(super) fn aaa(cpu: &mut Cpu, _op: &Op) -> Exec {
    adjust_ascii::<false>(cpu)
}

/// AAS.
pub(super) fn aas(cpu: &mut Cpu, _op: &Op) -> Exec {
    adjust_ascii::<true>(cpu)
}

/// AAM: #DE for base zero.
pub(super) fn aam(cpu: &mut Cpu, op: &Op) -> Exec {
    let base = op.imm & 0xff;
    if base == 0 {
        return Err(Fault::de());
    }
    let al = S8::get(cpu, AL);
    S16::set(cpu, AX, (al % base) | ((al / base) << 8));
    cpu.flags.set_result(al % base, 8, false, false, false);
    Ok(())
}

/// AAD.
pub(super) fn aad(cpu: &mut Cpu, op: &Op) -> Exec {
    let ax = S16::get(cpu, AX);
    let (al, product) = (ax & 0xff, ((ax >> 8) * (op.imm & 0xff)) & 0xff);
    let r = (al + product) & 0xff;
    S16::set(cpu, AX, r);
    cpu.flags.set_add(al, product, r, 8);
    Ok(())
}

fn adjust_decimal(cpu: &mut Cpu, subtract: bool) -> Exec {
    let al = S8::get(cpu, AL);
    let (old_cf, af) = (cpu.flags.cf(), al & 0xf > 9 || cpu.flags.af());
    let low = if af { 6 } else { 0 };
    let high = al > 0x99 || old_cf;
    // DAS borrows out of the byte also in its first step.
    let borrow = subtract && af && al < 6;
    let step = low + if high { 0x60 } else { 0 };
    let r = if subtract { al.wrapping_sub(step) } else { al + step } & 0xff;
    S8::set(cpu, AL, r);
    let of = if subtract { al & !r } else { !al & r } & 0x80 != 0;
    cpu.flags.set_result(r, 8, high || borrow, of, af);
    Ok(())
}

/// DAA.
pub(super) fn daa(cpu: &mut Cpu, _op: &Op) -> Exec {
    adjust_decimal(cpu, false)
}

/// DAS.
pub(super) fn das(cpu: &mut Cpu, _op: &Op) -> Exec {
    adjust_decimal(cpu, true)
}
