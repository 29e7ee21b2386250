//! x87: the glue between instructions and the unit in crate `fpu`.

use super::address::{self, load_bytes, offset, store_bytes};
use super::{Op, S16, Semantics, Size, flag};
use crate::fault::{Exec, Fault};
use crate::state::Cpu;
use fpu::{AddressMode, Comparison, X87Memory, X87Operand, X87Outcome};
use x86::regs::SegmentRegister;

/// WAIT.
pub(super) fn wait(cpu: &mut Cpu, _op: &Op) -> Exec {
    cpu.check_wait()
}

/// Every other x87 instruction. `src` is ST(i), `aux` the opcode's eleven bits.
pub(super) fn execute(cpu: &mut Cpu, op: &Op) -> Exec {
    let Some(Semantics::X87(x87)) = op.semantics else { return Err(Fault::ud()) };
    if x87.waits() {
        cpu.check_x87()?;
    } else {
        cpu.check_x87_no_wait()?;
    }
    let mut bytes = [0; 108];
    let mut memory: &[u8] = &[];
    if let X87Memory::Load(len) = x87.memory()
        && let Some(part) = bytes.get_mut(..usize::from(len))
    {
        load_bytes(cpu, op, part)?;
        memory = part;
    }
    let mode = if cpu.mode.protected { AddressMode::Protected } else { AddressMode::Real };
    let eflags = if x87.reads_eflags() { cpu.flags.bits() as u32 } else { 0 };
    // The pointers change only when the instruction does not fault; a store decides that.
    let before = if matches!(x87.memory(), X87Memory::Store(_)) { Some(cpu.x87) } else { None };
    if x87.updates_pointers() {
        note_pointers(cpu, op);
    }
    match cpu.x87.execute(*x87, &X87Operand { sti: op.src, memory, eflags, mode }) {
        X87Outcome::Done => {
            // A store that an unmasked exception suppresses still checks its operand.
            if let X87Memory::Store(len) = x87.memory()
                && let Err(fault) = probe(cpu, op, u64::from(len))
            {
                restore(cpu, before);
                return Err(fault);
            }
        }
        X87Outcome::Eflags(comparison) => set_comparison(cpu, comparison),
        X87Outcome::Ax(status) => S16::set(cpu, 0, u64::from(status)),
        X87Outcome::Store(store) => {
            if let Err(fault) = store_bytes(cpu, op, store.bytes()) {
                restore(cpu, before);
                return Err(fault);
            }
            cpu.x87.commit(store.commit);
        }
    }
    Ok(())
}

fn restore(cpu: &mut Cpu, before: Option<fpu::X87>) {
    if let Some(before) = before {
        cpu.x87 = before;
    }
}

fn probe(cpu: &mut Cpu, op: &Op, len: u64) -> Exec {
    let linear = address::linear_bytes::<true>(cpu, op, len)?;
    cpu.probe_write(linear, len).map_err(|fault| address::stack_fault(op.seg, fault))
}

fn set_comparison(cpu: &mut Cpu, comparison: Comparison) {
    let kept = cpu.flags.bits() & !u64::from(Comparison::MASK);
    cpu.flags.set_bits(kept | u64::from(comparison.eflags()));
}

/// In real mode the unit keeps linear addresses, elsewhere selectors and offsets.
fn note_pointers(cpu: &mut Cpu, op: &Op) {
    let real = !cpu.mode.protected;
    let cs = cpu.selector(SegmentRegister::Cs);
    let rip = if real { cpu.linear(SegmentRegister::Cs, cpu.rip) } else { cpu.rip };
    cpu.x87.note_instruction(cs, rip, op.aux);
    if op.has(flag::MEM) {
        let segment = address::segment(op.seg);
        let at = offset(cpu, op);
        let data = if real { cpu.linear(segment, at) } else { at };
        let selector = cpu.selector(segment);
        cpu.x87.note_data(selector, data);
    }
}
