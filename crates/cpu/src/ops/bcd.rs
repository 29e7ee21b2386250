//! Decimal adjustment: AAA, AAS, AAM, AAD, DAA, DAS (SDM vol. 2; all #UD in 64-bit mode, which the decoder knows).
//!
//! Flags that the manual leaves undefined: OF is cleared, and AAA/AAS take SF, ZF and PF from AL.

use super::{Op, S8, S16, Size};
use crate::fault::{Exec, Fault};
use crate::state::Cpu;

const AL: u8 = 0;
const AX: u8 = 0;

fn adjust_ascii(cpu: &mut Cpu, step: u16) -> Exec {
    let ax = S16::get(cpu, AX) as u16;
    let adjusts = ax & 0xf > 9 || cpu.flags.af();
    let ax = if adjusts { ax.wrapping_add(step) } else { ax } & 0xff0f;
    S16::set(cpu, AX, u64::from(ax));
    cpu.flags.set_result(u64::from(ax & 0xff), 8, adjusts, false, adjusts);
    Ok(())
}

/// AAA.
pub(super) fn aaa(cpu: &mut Cpu, _op: &Op) -> Exec {
    adjust_ascii(cpu, 0x106)
}

/// AAS.
pub(super) fn aas(cpu: &mut Cpu, _op: &Op) -> Exec {
    let ax = S16::get(cpu, AX) as u16;
    let adjusts = ax & 0xf > 9 || cpu.flags.af();
    let ax = if adjusts { ax.wrapping_sub(6).wrapping_sub(0x100) } else { ax } & 0xff0f;
    S16::set(cpu, AX, u64::from(ax));
    cpu.flags.set_result(u64::from(ax & 0xff), 8, adjusts, false, adjusts);
    Ok(())
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
    let al = ((ax & 0xff) + (ax >> 8) * (op.imm & 0xff)) & 0xff;
    S16::set(cpu, AX, al);
    cpu.flags.set_result(al, 8, false, false, false);
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
    cpu.flags.set_result(r, 8, high || borrow, false, af);
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
