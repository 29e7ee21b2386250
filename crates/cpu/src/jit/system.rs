//! What follows an instruction of the system, a jump that the interpreter has executed, or a fault: translated code goes
//! on where it was, or in another region under another mode of the CPU, without the outer loop if that would find
//! nothing to do between the two instructions (see [`crate::run`]).

use super::context::JUMPS;
use super::{Jit, Open, epochs, flags};
use crate::fault::{EventKind, Fault};
use crate::state::{Activity, Cpu, Shadow};
use x86::regs::rflags::{DF, IF, RF, TF};

impl Jit {
    /// After an instruction of the system at whose end RIP is the next one: goes on behind it, or elsewhere if something
    /// changed that translated code depends on. `before`: the system's flags and the epochs of fetching; `flags`: the
    /// instruction asks for the outer loop because of what is looked at here.
    pub(super) fn after_system(&mut self, cpu: &mut Cpu, before: (u64, [u32; 2]), flags: bool, resume: u64) -> u64 {
        if cpu.exit_request && !flags {
            return 0;
        }
        let changed = (cpu.system_flags ^ before.0) & !(DF | IF);
        if changed != 0 || epochs(cpu) != before.1 || cpu.translation_key() != Some(self.key) {
            return self.elsewhere(cpu);
        }
        if !self.nothing_between(cpu) {
            return 0;
        }
        self.take_bases(cpu);
        flags::defer(&mut self.context, &cpu.flags);
        resume
    }

    /// Goes on at RIP, in whatever region is there.
    pub(super) fn elsewhere(&mut self, cpu: &mut Cpu) -> u64 {
        let Some(key) = cpu.translation_key() else { return 0 };
        if !self.nothing_between(cpu) {
            return 0;
        }
        self.key = key;
        let keys = self.make_keys(epochs(cpu));
        let tag = cpu.rip ^ keys[(cpu.rip >> 63) as usize];
        let entry = self.context.jumps[tag as usize & (JUMPS - 1)];
        if entry.tag != tag {
            if crate::mmu::is_canonical(cpu.rip) {
                self.open = Some(Open::Indirect(cpu.rip));
            }
            return 0;
        }
        self.take_bases(cpu);
        flags::defer(&mut self.context, &cpu.flags);
        self.is_elsewhere = true;
        entry.code
    }

    /// Does what the outer loop would do between two instructions, if that is nothing but to take over the masks of
    /// signals. `false`: there is more, and nothing was done.
    fn nothing_between(&mut self, cpu: &mut Cpu) -> bool {
        let quiet = !cpu.code_modified
            && cpu.activity == Activity::Running
            && cpu.shadow == Shadow::None
            && cpu.pending_debug == 0
            && !cpu.system_flag(TF)
            && !cpu.has_breakpoints()
            && !cpu.has_due_event()
            && cpu.map_is_current();
        if !quiet || (cpu.system_flag(RF) && self.addresses.counted) {
            return false;
        }
        let mask = cpu.wanted_signals();
        if cpu.signals.pending() & mask != 0 {
            // What is due now comes before the next instruction.
            return false;
        }
        // RF has held for one instruction, or holds for the next one, which has no breakpoint.
        cpu.system_flags &= !RF;
        (cpu.exit_request, cpu.step) = (false, false);
        (cpu.signal_mask, self.context.signal_mask) = (mask, mask);
        true
    }

    /// An instruction has faulted: goes on in the handler.
    pub(super) fn raise(&mut self, cpu: &mut Cpu, fault: Fault) -> u64 {
        let here = self.delivers && !self.addresses.counted && cpu.pending_debug == 0 && !cpu.code_modified;
        if !here || fault.kind() != EventKind::Fault {
            self.fault = Some(fault);
            return 0;
        }
        cpu.deliver(fault);
        self.elsewhere(cpu)
    }
}
