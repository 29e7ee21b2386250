//! Delivery of exceptions and interrupts (SDM vol. 3, chapter 6; vol. 2, INT n): through the IVT, 16- and 32-bit gates,
//! 64-bit gates with interrupt stacks, task gates, and the double and triple fault rules of table 6-5.

use x86::regs::{Segment, SegmentRegister, rflags};

use crate::fault::{EventKind, Exec, Fault, vector};
use crate::mmu::{Class, is_canonical};
use crate::segment::{Descriptor, attr, in_limit, null_segment, selector_error, system};
use crate::state::{Activity, CodeMode, Cpu, cr, gpr};
use crate::task::TaskSwitch;

/// How exceptions combine (SDM vol. 3, table 6-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FaultClass {
    Benign,
    Contributory,
    PageFault,
}

fn class_of(fault: Fault) -> FaultClass {
    if fault.kind() != EventKind::Fault {
        return FaultClass::Benign;
    }
    match fault.vector() {
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP => FaultClass::Contributory,
        vector::PF => FaultClass::PageFault,
        _ => FaultClass::Benign,
    }
}

/// What is delivered when `second` is met while `first` was being delivered.
pub(crate) fn combine(first: Fault, second: Fault) -> Fault {
    match (class_of(first), class_of(second)) {
        (FaultClass::Contributory, FaultClass::Contributory)
        | (FaultClass::PageFault, FaultClass::Contributory | FaultClass::PageFault) => Fault::df(),
        _ => second,
    }
}

fn is_page_fault(fault: Fault) -> bool {
    class_of(fault) == FaultClass::PageFault
}

/// A stack that something is pushed on or popped from before it becomes the current one.
#[derive(Clone, Copy)]
pub(crate) struct Stack {
    segment: Segment,
    pub(crate) sp: u64,
    width: u8,
    class: Class,
    /// Error code of #SS on this stack.
    error: u32,
}

impl Stack {
    fn new(segment: Segment, sp: u64, width: u8, class: Class, error: u32) -> Self {
        Self { segment, sp, width, class, error }
    }

    fn mask(self) -> u64 {
        match self.width {
            16 => 0xffff,
            32 => 0xffff_ffff,
            _ => u64::MAX,
        }
    }

    /// Moves the stack pointer.
    pub(crate) fn advance(&mut self, by: u64) {
        let mask = self.mask();
        self.sp = (self.sp & !mask) | (self.sp.wrapping_add(by) & mask);
    }
}

/// The width of the stack that a segment gives outside of 64-bit mode.
fn stack_width(segment: &Segment) -> u8 {
    if segment.attributes & attr::DB != 0 { 32 } else { 16 }
}

impl Cpu {
    /// The current stack.
    pub(crate) fn current_stack(&self) -> Stack {
        let segment = self.segs[SegmentRegister::Ss as usize];
        Stack::new(segment, self.gpr[gpr::RSP], self.mode.stack, self.tlb.class(), 0)
    }

    /// The stack that a return to level `cpl` will run on.
    pub(crate) fn outer_stack(&self, segment: Segment, sp: u64, long: bool, cpl: u8) -> Stack {
        let width = if long { 64 } else { stack_width(&segment) };
        Stack::new(segment, sp, width, self.class_for(cpl), 0)
    }

    fn stack_address(&self, stack: &Stack, size: u8) -> Exec<u64> {
        let offset = stack.sp & stack.mask();
        if stack.width == 64 {
            return if is_canonical(offset) { Ok(offset) } else { Err(Fault::ss(stack.error)) };
        }
        if !in_limit(&stack.segment, offset, u64::from(size)) {
            return Err(Fault::ss(stack.error));
        }
        Ok(stack.segment.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Pushes `size` bytes.
    pub(crate) fn push_on(&mut self, stack: &mut Stack, size: u8, value: u64) -> Exec {
        stack.advance(u64::from(size).wrapping_neg());
        let at = self.stack_address(stack, size)?;
        match size {
            2 => self.write_class(at, value as u16, stack.class),
            4 => self.write_class(at, value as u32, stack.class),
            _ => self.write_class(at, value, stack.class),
        }
    }

    /// Pops `size` bytes.
    pub(crate) fn pop_from(&mut self, stack: &mut Stack, size: u8) -> Exec<u64> {
        let at = self.stack_address(stack, size)?;
        let value = match size {
            2 => u64::from(self.read_class::<u16>(at, stack.class)?),
            4 => u64::from(self.read_class::<u32>(at, stack.class)?),
            _ => self.read_class::<u64>(at, stack.class)?,
        };
        stack.advance(u64::from(size));
        Ok(value)
    }

    /// Makes the stack pointer of `stack` current, as wide as the stack is.
    pub(crate) fn commit_sp(&mut self, stack: &Stack) {
        self.gpr[gpr::RSP] = match stack.width {
            16 => (self.gpr[gpr::RSP] & !0xffff) | (stack.sp & 0xffff),
            32 => stack.sp & 0xffff_ffff,
            _ => stack.sp,
        };
    }

    /// INT n: the value to fault with, so that every way out of an instruction is the same.
    ///
    /// # Errors
    /// Always: the software interrupt.
    pub fn int_n(&mut self, vector: u8) -> Exec {
        Err(Fault::software(vector))
    }

    /// Delivers an exception or interrupt: the CPU continues in its handler, in that of a double fault, or shuts down.
    pub fn deliver(&mut self, fault: Fault) {
        self.exit_request = true;
        self.step = false;
        let mut current = fault;
        if is_page_fault(current) {
            self.cr2 = self.fault_address;
        }
        loop {
            if self.is_traced() {
                self.trace_interrupt(current);
            }
            let Err(next) = self.enter_handler(current) else { return };
            if is_page_fault(next) {
                self.cr2 = self.fault_address;
            }
            if current.vector() == vector::DF && current.kind() == EventKind::Fault {
                self.activity = Activity::Shutdown;
                return;
            }
            current = combine(current, next);
        }
    }

    fn enter_handler(&mut self, event: Fault) -> Exec {
        let software = matches!(event.kind(), EventKind::SoftwareInterrupt | EventKind::SoftwareException);
        let result = if self.mode.code == CodeMode::Real {
            self.enter_real(event)
        } else if self.mode.is_v86() && event.kind() == EventKind::SoftwareInterrupt {
            self.enter_v86_software(event)
        } else {
            self.enter_protected(event)
        };
        if event.vector() == vector::DB && result.is_ok() {
            // General detect is off in the handler.
            self.dr[7] &= !(1 << 13);
        }
        result.map_err(|fault| match fault.vector() {
            // The EXT bit: the event did not come from a program.
            vector::TS | vector::NP | vector::SS | vector::GP if !software => fault.with_ext(1),
            _ => fault,
        })
    }

    /// The RIP to save.
    fn saved_rip(&self, event: Fault) -> u64 {
        match event.kind() {
            EventKind::Fault | EventKind::Trap | EventKind::External => self.rip,
            EventKind::SoftwareInterrupt | EventKind::SoftwareException | EventKind::PrivilegedSoftware => {
                self.next_rip
            }
        }
    }

    /// RFLAGS to save: faults other than #DB set RF, so that the instruction can be restarted past its breakpoint.
    fn saved_flags(&self, event: Fault) -> u64 {
        let restart = event.kind() == EventKind::Fault && event.vector() != vector::DB;
        self.rflags() | if restart { rflags::RF } else { 0 }
    }

    /// Real mode: the interrupt vector table.
    fn enter_real(&mut self, event: Fault) -> Exec {
        let offset = u64::from(event.vector()) * 4;
        if offset + 3 > u64::from(self.idtr.limit) {
            return Err(Fault::gp(u32::from(event.vector()) << 3 | 2));
        }
        let entry = self.read_u32_sys((self.idtr.base + offset) & 0xffff_ffff)?;
        self.enter_8086(event, entry, self.rflags())
    }

    /// Pushes FLAGS, CS and IP and jumps to `entry` (offset, selector) as an 8086 does.
    fn enter_8086(&mut self, event: Fault, entry: u32, image: u64) -> Exec {
        let mut stack = self.current_stack();
        self.push_on(&mut stack, 2, image)?;
        self.push_on(&mut stack, 2, u64::from(self.selector(SegmentRegister::Cs)))?;
        self.push_on(&mut stack, 2, self.saved_rip(event))?;
        self.commit_sp(&stack);
        self.load_cs_8086((entry >> 16) as u16);
        self.set_rip(u64::from(entry & 0xffff));
        if self.mode.is_v86() && self.iopl() < 3 {
            self.load_rflags(self.rflags() & !(rflags::VIF | rflags::TF));
        } else {
            let cleared = rflags::IF | rflags::TF | if self.mode.is_v86() { 0 } else { rflags::AC | rflags::RF };
            self.load_rflags(self.rflags() & !cleared);
        }
        Ok(())
    }

    /// INT n in virtual-8086 mode: #GP below IOPL 3, redirection to the 8086 program under CR4.VME.
    fn enter_v86_software(&mut self, event: Fault) -> Exec {
        if self.cr4 & cr::CR4_VME != 0 && !self.redirection_bit(event.vector())? {
            let mut image = self.rflags();
            if self.iopl() < 3 {
                image = (image & !rflags::IF) | rflags::IOPL;
                image |= if image & rflags::VIF != 0 { rflags::IF } else { 0 };
            }
            let entry = self.read_u32(u64::from(event.vector()) * 4)?;
            return self.enter_8086(event, entry, image);
        }
        if self.iopl() < 3 {
            return Err(Fault::gp0());
        }
        self.enter_protected(event)
    }

    /// The bit of the interrupt redirection map below the I/O permission map.
    fn redirection_bit(&mut self, vector: u8) -> Exec<bool> {
        if self.tr.limit < 0x67 {
            return Err(Fault::gp0());
        }
        let map = u64::from(self.read_u16_sys(self.system_address(self.tr.base.wrapping_add(0x66)))?);
        let at = map.wrapping_sub(32).wrapping_add(u64::from(vector >> 3));
        if at > u64::from(self.tr.limit) {
            return Err(Fault::gp0());
        }
        let byte = self.read_u8_sys(self.system_address(self.tr.base.wrapping_add(at)))?;
        Ok(byte >> (vector & 7) & 1 != 0)
    }

    /// Protected and long mode: reads and checks the gate.
    fn enter_protected(&mut self, event: Fault) -> Exec {
        let long = self.mode.long;
        let size = if long { 16 } else { 8 };
        let offset = u64::from(event.vector()) * size;
        let error = u32::from(event.vector()) << 3 | 2;
        if offset + size - 1 > u64::from(self.idtr.limit) {
            return Err(Fault::gp(error));
        }
        let address = self.system_address(self.idtr.base.wrapping_add(offset));
        let low = self.read_u64_sys(address)?;
        let high = if long { self.read_u64_sys(address.wrapping_add(8))? & 0xffff_ffff } else { 0 };
        let gate = Descriptor { low, high, address };
        let kind = gate.system_type();
        let known = match kind {
            system::INT32 | system::TRAP32 => true,
            system::INT16 | system::TRAP16 | system::TASK_GATE => !long,
            _ => false,
        };
        if !gate.is_system() || !known {
            return Err(Fault::gp(error));
        }
        let software = matches!(event.kind(), EventKind::SoftwareInterrupt | EventKind::SoftwareException);
        if software && gate.dpl() < self.mode.cpl {
            return Err(Fault::gp(error));
        }
        if !gate.present() {
            return Err(Fault::np(error));
        }
        if kind == system::TASK_GATE {
            return self.enter_task(event, gate);
        }
        let selector = gate.gate_selector();
        let target = self.handler_segment(selector)?;
        if long { self.enter_long(event, gate, target) } else { self.enter_legacy(event, gate, target) }
    }

    fn enter_task(&mut self, event: Fault, gate: Descriptor) -> Exec {
        let selector = gate.gate_selector();
        let tss = self.task_descriptor(selector, Fault::gp)?;
        let switch = TaskSwitch::Call { rip: self.saved_rip(event), flags: self.saved_flags(event) };
        self.switch_task(selector, tss, switch)?;
        let Some(code) = event.error_code() else { return Ok(()) };
        let mut stack = self.current_stack();
        let size = if self.tr.attributes & 8 != 0 { 4 } else { 2 };
        self.push_on(&mut stack, size, u64::from(code))?;
        self.commit_sp(&stack);
        Ok(())
    }

    /// The code segment of a gate's handler.
    fn handler_segment(&mut self, selector: u16) -> Exec<Descriptor> {
        if selector & 0xfffc == 0 {
            return Err(Fault::gp0());
        }
        let error = selector_error(selector);
        let target = self.descriptor(selector)?.ok_or(Fault::gp(error))?;
        if !target.is_code() || target.dpl() > self.mode.cpl {
            return Err(Fault::gp(error));
        }
        if !target.present() {
            return Err(Fault::np(error));
        }
        Ok(target)
    }

    fn enter_legacy(&mut self, event: Fault, gate: Descriptor, mut target: Descriptor) -> Exec {
        let selector = gate.gate_selector();
        let error = selector_error(selector);
        let v86 = self.mode.is_v86();
        let wide = gate.system_type() & 8 != 0;
        let size = if wide { 4 } else { 2 };
        let inner = !target.is_conforming() && target.dpl() < self.mode.cpl;
        if v86 && (!inner || target.dpl() != 0) {
            return Err(Fault::gp(error));
        }
        let cpl = if inner { target.dpl() } else { self.mode.cpl };
        let old_ss = self.selector(SegmentRegister::Ss);
        let (flags, rip) = (self.saved_flags(event), self.saved_rip(event));
        let mut new_ss = None;
        let mut stack = if inner {
            let (segment, sp) = self.inner_stack(cpl)?;
            new_ss = Some(segment);
            let error = selector_error(segment.selector);
            let mut stack = Stack::new(segment, sp, stack_width(&segment), self.class_for_inner(cpl), error);
            if v86 {
                for register in [SegmentRegister::Gs, SegmentRegister::Fs, SegmentRegister::Ds, SegmentRegister::Es] {
                    self.push_on(&mut stack, size, u64::from(self.selector(register)))?;
                }
            }
            self.push_on(&mut stack, size, u64::from(old_ss))?;
            self.push_on(&mut stack, size, self.gpr[gpr::RSP])?;
            stack
        } else {
            self.current_stack()
        };
        self.push_on(&mut stack, size, flags)?;
        self.push_on(&mut stack, size, u64::from(self.selector(SegmentRegister::Cs)))?;
        self.push_on(&mut stack, size, rip)?;
        if let Some(code) = event.error_code() {
            self.push_on(&mut stack, size, u64::from(code))?;
        }
        let offset = gate.gate_offset() & if wide { 0xffff_ffff } else { 0xffff };
        if offset > u64::from(target.limit()) {
            return Err(Fault::gp0());
        }
        self.mark_accessed(&mut target)?;
        // Nothing can fail from here.
        let mut cleared = rflags::VM | rflags::NT | rflags::RF | rflags::TF;
        if gate.system_type() & 1 == 0 {
            cleared |= rflags::IF;
        }
        self.set_cpl(cpl);
        self.load_rflags(self.rflags() & !cleared);
        self.set_cpl(cpl);
        self.set_segment(SegmentRegister::Cs, target.segment((selector & !3) | u16::from(cpl)));
        if let Some(segment) = new_ss {
            self.set_segment(SegmentRegister::Ss, segment);
        }
        if v86 {
            for register in [SegmentRegister::Gs, SegmentRegister::Fs, SegmentRegister::Ds, SegmentRegister::Es] {
                self.set_segment(register, null_segment(0, 0));
            }
        }
        self.commit_sp(&stack);
        self.set_rip(offset);
        Ok(())
    }

    fn enter_long(&mut self, event: Fault, gate: Descriptor, mut target: Descriptor) -> Exec {
        let selector = gate.gate_selector();
        if !target.is_long() || target.is_big() {
            return Err(Fault::gp(selector_error(selector)));
        }
        let inner = !target.is_conforming() && target.dpl() < self.mode.cpl;
        let cpl = if inner { target.dpl() } else { self.mode.cpl };
        let ist = (gate.low >> 32) as u8 & 7;
        let sp = if ist != 0 {
            self.long_stack(0x24 + 8 * (u64::from(ist) - 1))?
        } else if inner {
            self.long_stack(4 + 8 * u64::from(cpl))?
        } else {
            self.gpr[gpr::RSP]
        };
        let old_ss = self.segs[SegmentRegister::Ss as usize];
        let mut stack = Stack::new(old_ss, sp & !0xf, 64, self.class_for_inner(cpl), 0);
        self.push_on(&mut stack, 8, u64::from(old_ss.selector))?;
        self.push_on(&mut stack, 8, self.gpr[gpr::RSP])?;
        self.push_on(&mut stack, 8, self.saved_flags(event))?;
        self.push_on(&mut stack, 8, u64::from(self.selector(SegmentRegister::Cs)))?;
        self.push_on(&mut stack, 8, self.saved_rip(event))?;
        if let Some(code) = event.error_code() {
            self.push_on(&mut stack, 8, u64::from(code))?;
        }
        if !is_canonical(gate.gate_offset()) {
            return Err(Fault::gp0());
        }
        self.mark_accessed(&mut target)?;
        // Nothing can fail from here.
        let mut cleared = rflags::VM | rflags::NT | rflags::RF | rflags::TF;
        if gate.system_type() & 1 == 0 {
            cleared |= rflags::IF;
        }
        self.set_rflags(self.rflags() & !cleared);
        self.set_cpl(cpl);
        if inner {
            self.segs[SegmentRegister::Ss as usize] = null_segment(u16::from(cpl), cpl);
        }
        self.set_segment(SegmentRegister::Cs, target.segment((selector & !3) | u16::from(cpl)));
        self.commit_sp(&stack);
        self.set_rip(gate.gate_offset());
        Ok(())
    }

    /// Stack accesses of a delivery: supervisor accesses below level 3.
    fn class_for_inner(&self, cpl: u8) -> Class {
        if cpl == 3 { Class::User } else { Class::Supervisor }
    }

    /// A stack pointer from the 64-bit TSS.
    pub(crate) fn long_stack(&mut self, offset: u64) -> Exec<u64> {
        if offset + 7 > u64::from(self.tr.limit) {
            return Err(Fault::ts(selector_error(self.tr.selector)));
        }
        let sp = self.read_u64_sys(self.tr.base.wrapping_add(offset))?;
        if is_canonical(sp) { Ok(sp) } else { Err(Fault::ss(0)) }
    }

    /// SS and SP for a more privileged level from the 16- or 32-bit TSS.
    pub(crate) fn inner_stack(&mut self, level: u8) -> Exec<(Segment, u64)> {
        let wide = self.tr.attributes & 8 != 0;
        let level_offset = u64::from(level);
        let (offset, len) = if wide { (4 + 8 * level_offset, 6) } else { (2 + 4 * level_offset, 4) };
        if offset + len - 1 > u64::from(self.tr.limit) {
            return Err(Fault::ts(selector_error(self.tr.selector)));
        }
        let at = self.system_address(self.tr.base.wrapping_add(offset));
        let (sp, selector) = if wide {
            (u64::from(self.read_u32_sys(at)?), self.read_u16_sys(at.wrapping_add(4))?)
        } else {
            (u64::from(self.read_u16_sys(at)?), self.read_u16_sys(at.wrapping_add(2))?)
        };
        let error = selector_error(selector);
        if selector & 0xfffc == 0 {
            return Err(Fault::ts(0));
        }
        let mut descriptor = self.descriptor(selector)?.ok_or(Fault::ts(error))?;
        if (selector & 3) as u8 != level || descriptor.dpl() != level || !descriptor.is_writable_data() {
            return Err(Fault::ts(error));
        }
        if !descriptor.present() {
            return Err(Fault::ss(error));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok((descriptor.segment(selector), sp))
    }

    /// A stack for a call gate to a more privileged level.
    pub(crate) fn gate_stack(&self, segment: Segment, sp: u64, cpl: u8) -> Stack {
        let width = if self.mode.long { 64 } else { stack_width(&segment) };
        Stack::new(segment, sp, width, self.class_for_inner(cpl), selector_error(segment.selector))
    }

    /// Loads CS in real or virtual-8086 mode.
    pub(crate) fn load_cs_8086(&mut self, selector: u16) {
        let old = self.segs[SegmentRegister::Cs as usize];
        let segment = if self.mode.is_v86() {
            crate::segment::v86_segment(selector)
        } else {
            Segment { selector, base: u64::from(selector) << 4, ..old }
        };
        self.set_segment(SegmentRegister::Cs, segment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_combine_as_in_table_6_5() {
        let (gp, pf, ud) = (Fault::gp0(), Fault::pf(2), Fault::ud());
        // First, second, whether a double fault follows.
        let table = [
            (ud, ud, false),
            (ud, gp, false),
            (ud, pf, false),
            (gp, ud, false),
            (gp, gp, true),
            (gp, pf, false),
            (pf, ud, false),
            (pf, gp, true),
            (pf, pf, true),
            (Fault::de(), Fault::np(8), true),
            (Fault::ts(8), Fault::ss(8), true),
            (Fault::software(13), gp, false),
            (Fault::external(14), pf, false),
        ];
        for (first, second, double) in table {
            let expected = if double { Fault::df() } else { second };
            assert_eq!(combine(first, second), expected, "{first:?} then {second:?}");
        }
    }
}
