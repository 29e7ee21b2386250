//! Instructions of operating systems that need no runtime: SWAPGS, STI, CLI, CLAC, PUSHF.
//!
//! They work on [`Cpu`] itself, whose system flags and segment bases are always there. The privilege level is known from
//! the mode that a region is translated for.

use std::mem::offset_of;

use super::*;
use crate::msr::Msrs;
use crate::state::Cpu;
use x86::regs::{Segment, rflags};

/// A byte of the system's flags: where it is in [`Cpu`], and the flag in it.
const fn flag_byte(flag: u64) -> (i32, u8) {
    let byte = flag.trailing_zeros() / 8;
    (offset_of!(Cpu, system_flags) as i32 + byte as i32, (flag >> (8 * byte)) as u8)
}

const INTR: i8 = accel::Signal::INTR.0 as i8;
const GS: i32 = 5;
/// CF, PF, AF, ZF, SF and OF in RFLAGS.
const FLAGS: i32 = 0x8d5;

impl Translator<'_> {
    /// An instruction that ends a block and is nothing for the runtime.
    pub(super) fn system(&mut self, item: &Item) -> Try {
        match item.ins.mnemonic() {
            _ if self.mode.cpl != 0 => Err(Refused),
            M::Swapgs => self.swap_gs(),
            M::Cli => self.close_interrupts(),
            M::Sti => self.open_interrupts(item),
            // Under SMAP the class says whether AC is set; the class stays.
            M::Clac if self.mode.class == Class::Supervisor as u8 => self.clear_ac(),
            _ => Err(Refused),
        }
    }

    fn swap_gs(&mut self) -> Try {
        let context = field!(self.context, gs_base);
        let other = (offset_of!(Cpu, msrs) + offset_of!(Msrs, kernel_gs_base)) as i32;
        let base = offset_of!(Cpu, seg_base) as i32 + GS * size_of::<u64>() as i32;
        let segment = offset_of!(Cpu, segs) as i32 + GS * size_of::<Segment>() as i32;
        self.asm.push_mem(context);
        self.asm.load(8, S1, field!(self.context, cpu));
        self.asm.load(8, S0, Mem::Base(S1, other));
        self.asm.store(8, context, S0);
        self.asm.store(8, Mem::Base(S1, base), S0);
        self.asm.store(8, Mem::Base(S1, segment + offset_of!(Segment, base) as i32), S0);
        self.asm.pop_mem(Mem::Base(S1, other));
        Ok(())
    }

    fn close_interrupts(&mut self) -> Try {
        self.state.release(&mut self.asm, self.context);
        let (at, bit) = flag_byte(rflags::IF);
        self.asm.load(8, S1, field!(self.context, cpu));
        self.asm.alu_mem_imm8(1, Alu::And, Mem::Base(S1, at), !bit as i8);
        self.asm.alu_mem_imm8(1, Alu::And, field!(self.context, signal_mask), !INTR);
        Ok(())
    }

    /// STI holds interrupts off for one more instruction, which must be one behind which they can be looked for.
    fn open_interrupts(&mut self, item: &Item) -> Try {
        let next = self.find(item.next()).filter(|next| !self.polled[*next] && !self.done[*next]).ok_or(Refused)?;
        let shadowed = self.pieces[next].items.first().is_some_and(|first| first.flow == Flow::Next);
        // The interpreter's shadow is part of the state that the lock-step mode compares.
        if !shadowed || self.addresses.counted {
            return Err(Refused);
        }
        self.window[next] = true;
        self.state.release(&mut self.asm, self.context);
        let (at, bit) = flag_byte(rflags::IF);
        self.asm.load(8, S1, field!(self.context, cpu));
        self.asm.alu_mem_imm8(1, Alu::Or, Mem::Base(S1, at), bit as i8);
        self.asm.alu_mem_imm8(1, Alu::Or, field!(self.context, signal_mask), INTR);
        Ok(())
    }

    fn clear_ac(&mut self) -> Try {
        self.state.release(&mut self.asm, self.context);
        let (at, bit) = flag_byte(rflags::AC);
        self.asm.load(8, S1, field!(self.context, cpu));
        self.asm.alu_mem_imm8(1, Alu::And, Mem::Base(S1, at), !bit as i8);
        Ok(())
    }

    /// PUSHF of 64 bits. RF and VM are clear here.
    pub(super) fn push_flags(&mut self, item: &Item) -> Try {
        if item.op.size != 8 {
            return Err(Refused);
        }
        let image = field!(self.context, scratch);
        self.hold(ARITHMETIC);
        self.asm.pushf();
        self.asm.pop_mem(image);
        self.state.release(&mut self.asm, self.context);
        self.asm.load(8, S0, image);
        self.asm.alu_imm(4, Alu::And, S0, FLAGS);
        self.asm.load(8, S1, field!(self.context, cpu));
        self.asm.alu_mem(8, Alu::Or, S0, Mem::Base(S1, offset_of!(Cpu, system_flags) as i32));
        self.asm.alu_imm(8, Alu::Or, S0, rflags::FIXED as i32);
        self.asm.store(8, image, S0);
        self.push_data(item, Data::Context(image))
    }
}
