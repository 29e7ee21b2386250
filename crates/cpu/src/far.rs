//! Far control transfers: JMP, CALL, RET and IRET with all kinds of targets, and the fast system calls
//! (SDM vol. 2 at these instructions; vol. 3, chapters 5.8 and 20).

use x86::regs::{Segment, SegmentRegister, rflags};

use crate::cpuid::Vendor;
use crate::exception::Stack;
use crate::fault::{Exec, Fault};
use crate::mmu::is_canonical;
use crate::segment::{Descriptor, attr, null_segment, selector_error, system, v86_segment};
use crate::state::{Cpu, cr, gpr};
use crate::task::TaskSwitch;

/// Attributes of the flat segments that SYSCALL and its kin load.
const FLAT_CODE64: u16 = attr::G | attr::L | attr::P | attr::S | 0xb;
const FLAT_CODE32: u16 = attr::G | attr::DB | attr::P | attr::S | 0xb;
const FLAT_DATA: u16 = attr::G | attr::DB | attr::P | attr::S | 0x3;
const DPL3: u16 = 0x60;

/// What IRET may change, before the privilege rules: all but VM and the reserved bits.
const IRET_MASK: u64 = rflags::CF
    | rflags::PF
    | rflags::AF
    | rflags::ZF
    | rflags::SF
    | rflags::TF
    | rflags::DF
    | rflags::OF
    | rflags::NT
    | rflags::RF
    | rflags::AC
    | rflags::ID;

/// Whether a far transfer pushes a return address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transfer {
    Jump,
    Call,
}

fn size_mask(size: u8) -> u64 {
    match size {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

impl Cpu {
    /// JMP far; `offset` has `size` bytes.
    ///
    /// # Errors
    /// #GP, #NP, #TS, #SS, #PF.
    pub fn far_jump(&mut self, selector: u16, offset: u64, size: u8) -> Exec {
        self.exit_request = true;
        if !self.mode.protected {
            return self.far_8086(selector, offset, size, Transfer::Jump);
        }
        self.far_protected(selector, offset, size, Transfer::Jump)
    }

    /// CALL far; `offset` has `size` bytes.
    ///
    /// # Errors
    /// #GP, #NP, #TS, #SS, #PF.
    pub fn far_call(&mut self, selector: u16, offset: u64, size: u8) -> Exec {
        self.exit_request = true;
        if !self.mode.protected {
            return self.far_8086(selector, offset, size, Transfer::Call);
        }
        self.far_protected(selector, offset, size, Transfer::Call)
    }

    fn far_8086(&mut self, selector: u16, offset: u64, size: u8, transfer: Transfer) -> Exec {
        if offset > u64::from(self.segs[SegmentRegister::Cs as usize].limit) {
            return Err(Fault::gp0());
        }
        if transfer == Transfer::Call {
            let mut stack = self.current_stack();
            self.push_on(&mut stack, size, u64::from(self.selector(SegmentRegister::Cs)))?;
            self.push_on(&mut stack, size, self.next_rip)?;
            self.commit_sp(&stack);
        }
        self.load_cs_8086(selector);
        self.set_rip(offset);
        Ok(())
    }

    fn far_protected(&mut self, selector: u16, offset: u64, size: u8, transfer: Transfer) -> Exec {
        if selector & 0xfffc == 0 {
            return Err(Fault::gp0());
        }
        let error = selector_error(selector);
        let target = self.descriptor(selector)?.ok_or(Fault::gp(error))?;
        if target.is_code() {
            return self.far_direct(selector, target, offset, size, transfer);
        }
        if !target.is_system() {
            return Err(Fault::gp(error));
        }
        let level = target.dpl() < self.mode.cpl || (selector & 3) as u8 > target.dpl();
        let long = self.mode.long;
        match target.system_type() {
            system::CALL32 => {}
            system::CALL16 | system::TASK_GATE | system::TSS16 | system::TSS32 if !long => {}
            _ => return Err(Fault::gp(error)),
        }
        if level {
            return Err(Fault::gp(error));
        }
        if !target.present() {
            return Err(Fault::np(error));
        }
        match target.system_type() {
            system::CALL16 | system::CALL32 => self.call_gate(selector, target, transfer),
            system::TASK_GATE => {
                let tss_selector = target.gate_selector();
                let tss = self.task_descriptor(tss_selector, Fault::gp)?;
                self.switch_task(tss_selector, tss, self.switch_from_here(transfer))
            }
            _ => self.switch_task(selector, target, self.switch_from_here(transfer)),
        }
    }

    fn switch_from_here(&self, transfer: Transfer) -> TaskSwitch {
        let (rip, flags) = (self.next_rip, self.rflags());
        match transfer {
            Transfer::Jump => TaskSwitch::Jump { rip, flags },
            Transfer::Call => TaskSwitch::Call { rip, flags },
        }
    }

    /// Checks a new RIP against a code segment.
    fn check_target(&self, code: Descriptor, offset: u64) -> Exec {
        let valid =
            if self.mode.long && code.is_long() { is_canonical(offset) } else { offset <= u64::from(code.limit()) };
        if valid { Ok(()) } else { Err(Fault::gp0()) }
    }

    fn far_direct(&mut self, selector: u16, mut target: Descriptor, offset: u64, size: u8, transfer: Transfer) -> Exec {
        let error = selector_error(selector);
        let (cpl, rpl) = (self.mode.cpl, (selector & 3) as u8);
        let level = if target.is_conforming() { target.dpl() <= cpl } else { rpl <= cpl && target.dpl() == cpl };
        if !level || (self.mode.long && target.is_long() && target.is_big()) {
            return Err(Fault::gp(error));
        }
        if !target.present() {
            return Err(Fault::np(error));
        }
        let offset = if self.mode.long && target.is_long() { offset } else { offset & 0xffff_ffff };
        let mut stack = self.current_stack();
        if transfer == Transfer::Call {
            self.push_on(&mut stack, size, u64::from(self.selector(SegmentRegister::Cs)))?;
            self.push_on(&mut stack, size, self.next_rip)?;
        }
        self.check_target(target, offset)?;
        self.mark_accessed(&mut target)?;
        if transfer == Transfer::Call {
            self.commit_sp(&stack);
        }
        self.enter_code(selector, target, cpl, offset);
        Ok(())
    }

    /// Loads CS at level `cpl` and jumps.
    fn enter_code(&mut self, selector: u16, code: Descriptor, cpl: u8, offset: u64) {
        self.set_cpl(cpl);
        self.set_segment(SegmentRegister::Cs, code.segment((selector & !3) | u16::from(cpl)));
        self.set_rip(offset);
    }

    fn call_gate(&mut self, selector: u16, gate: Descriptor, transfer: Transfer) -> Exec {
        let long = self.mode.long;
        let gate = if long {
            let error = selector_error(selector);
            self.extend_descriptor(selector, gate)?.ok_or(Fault::gp(error))?
        } else {
            gate
        };
        let code_selector = gate.gate_selector();
        if code_selector & 0xfffc == 0 {
            return Err(Fault::gp0());
        }
        let error = selector_error(code_selector);
        let mut target = self.descriptor(code_selector)?.ok_or(Fault::gp(error))?;
        let cpl = self.mode.cpl;
        if !target.is_code() || target.dpl() > cpl || (long && (!target.is_long() || target.is_big())) {
            return Err(Fault::gp(error));
        }
        let inner = !target.is_conforming() && target.dpl() < cpl;
        if inner && transfer == Transfer::Jump {
            return Err(Fault::gp(error));
        }
        if !target.present() {
            return Err(Fault::np(error));
        }
        let (size, offset) = match (long, gate.system_type()) {
            (true, _) => (8, gate.gate_offset()),
            (false, system::CALL32) => (4, gate.gate_offset() & 0xffff_ffff),
            (false, _) => (2, gate.gate_offset() & 0xffff),
        };
        if inner {
            return self.call_inner(gate, target, size, offset);
        }
        let mut stack = self.current_stack();
        if transfer == Transfer::Call {
            self.push_on(&mut stack, size, u64::from(self.selector(SegmentRegister::Cs)))?;
            self.push_on(&mut stack, size, self.next_rip)?;
        }
        self.check_target(target, offset)?;
        self.mark_accessed(&mut target)?;
        if transfer == Transfer::Call {
            self.commit_sp(&stack);
        }
        self.enter_code(code_selector, target, cpl, offset);
        Ok(())
    }

    /// A call gate to a more privileged level: the stack comes from the TSS, parameters are copied.
    fn call_inner(&mut self, gate: Descriptor, mut target: Descriptor, size: u8, offset: u64) -> Exec {
        let level = target.dpl();
        let mut old = self.current_stack();
        let (segment, sp) = if self.mode.long {
            (null_segment(u16::from(level), level), self.long_stack(4 + 8 * u64::from(level))?)
        } else {
            self.inner_stack(level)?
        };
        let count = if self.mode.long { 0 } else { (gate.low >> 32) as usize & 0x1f };
        let mut parameters = [0; 31];
        for slot in parameters.iter_mut().take(count) {
            *slot = self.pop_from(&mut old, size)?;
        }
        let mut stack = self.gate_stack(segment, sp, level);
        self.push_on(&mut stack, size, u64::from(self.selector(SegmentRegister::Ss)))?;
        self.push_on(&mut stack, size, self.gpr[gpr::RSP])?;
        for value in parameters.iter().take(count).rev() {
            self.push_on(&mut stack, size, *value)?;
        }
        self.push_on(&mut stack, size, u64::from(self.selector(SegmentRegister::Cs)))?;
        self.push_on(&mut stack, size, self.next_rip)?;
        self.check_target(target, offset)?;
        self.mark_accessed(&mut target)?;
        self.enter_code(gate.gate_selector(), target, level, offset);
        self.set_segment(SegmentRegister::Ss, segment);
        self.commit_sp(&stack);
        Ok(())
    }

    /// RET far; `size` is the operand size in bytes, `release` the bytes of parameters.
    ///
    /// # Errors
    /// #GP, #NP, #SS, #PF.
    pub fn far_ret(&mut self, size: u8, release: u16) -> Exec {
        self.exit_request = true;
        let release = u64::from(release);
        let mut stack = self.current_stack();
        let offset = self.pop_from(&mut stack, size)?;
        let selector = self.pop_from(&mut stack, size)? as u16;
        if !self.mode.protected {
            if offset > u64::from(self.segs[SegmentRegister::Cs as usize].limit) {
                return Err(Fault::gp0());
            }
            stack.advance(release);
            self.commit_sp(&stack);
            self.load_cs_8086(selector);
            self.set_rip(offset);
            return Ok(());
        }
        let mut code = self.return_code(selector)?;
        stack.advance(release);
        let level = (selector & 3) as u8;
        if level == self.mode.cpl {
            self.check_target(code, offset)?;
            self.mark_accessed(&mut code)?;
            self.commit_sp(&stack);
            self.enter_code(selector, code, level, offset);
            return Ok(());
        }
        let sp = self.pop_from(&mut stack, size)?;
        let ss = self.pop_from(&mut stack, size)? as u16;
        self.return_outer(selector, code, offset, (ss, sp, release))
    }

    /// The code segment that a return goes to.
    fn return_code(&mut self, selector: u16) -> Exec<Descriptor> {
        if selector & 0xfffc == 0 {
            return Err(Fault::gp0());
        }
        let error = selector_error(selector);
        let code = self.descriptor(selector)?.ok_or(Fault::gp(error))?;
        let rpl = (selector & 3) as u8;
        let level = if code.is_conforming() { code.dpl() <= rpl } else { code.dpl() == rpl };
        let both = self.mode.long && code.is_long() && code.is_big();
        if !code.is_code() || rpl < self.mode.cpl || !level || both {
            return Err(Fault::gp(error));
        }
        if !code.present() {
            return Err(Fault::np(error));
        }
        Ok(code)
    }

    /// The stack segment that a return to level `level` loads.
    fn return_stack(&mut self, selector: u16, level: u8, long: bool) -> Exec<Segment> {
        let error = selector_error(selector);
        if selector & 0xfffc == 0 {
            return if long && level < 3 && (selector & 3) as u8 == level {
                Ok(null_segment(selector, level))
            } else {
                Err(Fault::gp0())
            };
        }
        let mut descriptor = self.descriptor(selector)?.ok_or(Fault::gp(error))?;
        if (selector & 3) as u8 != level || descriptor.dpl() != level || !descriptor.is_writable_data() {
            return Err(Fault::gp(error));
        }
        if !descriptor.present() {
            return Err(Fault::ss(error));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// Returns to a less privileged level with the stack `(SS, SP, bytes to release)`.
    fn return_outer(&mut self, selector: u16, mut code: Descriptor, offset: u64, to: (u16, u64, u64)) -> Exec {
        let (ss, sp, release) = to;
        let level = (selector & 3) as u8;
        let long = self.mode.long && code.is_long();
        let segment = self.return_stack(ss, level, long)?;
        self.check_target(code, offset)?;
        self.mark_accessed(&mut code)?;
        self.enter_code(selector, code, level, offset);
        self.set_segment(SegmentRegister::Ss, segment);
        let mut stack: Stack = self.outer_stack(segment, sp, long, level);
        stack.advance(release);
        self.commit_sp(&stack);
        self.drop_inner_segments();
        Ok(())
    }

    /// IRET; `size` is the operand size in bytes.
    ///
    /// # Errors
    /// #GP, #NP, #SS, #TS, #PF.
    pub fn iret(&mut self, size: u8) -> Exec {
        self.exit_request = true;
        self.nmi_blocked = false;
        if !self.mode.protected {
            return self.iret_8086(size);
        }
        if self.system_flag(rflags::NT) {
            return if self.mode.long { Err(Fault::gp0()) } else { self.return_from_task() };
        }
        let mut stack = self.current_stack();
        let offset = self.pop_from(&mut stack, size)?;
        let selector = self.pop_from(&mut stack, size)? as u16;
        let image = self.pop_from(&mut stack, size)?;
        if size == 4 && image & rflags::VM != 0 && self.mode.cpl == 0 && !self.mode.long {
            return self.iret_to_v86(stack, offset, selector, image);
        }
        let mut code = self.return_code(selector)?;
        let level = (selector & 3) as u8;
        let flags = self.iret_flags(image, size);
        if level == self.mode.cpl && !self.mode.is_long64() {
            self.check_target(code, offset)?;
            self.mark_accessed(&mut code)?;
            self.commit_sp(&stack);
            self.enter_code(selector, code, level, offset);
        } else {
            let sp = self.pop_from(&mut stack, size)?;
            let ss = self.pop_from(&mut stack, size)? as u16;
            if level == self.mode.cpl {
                self.iret_same_level(selector, code, offset, (ss, sp))?;
            } else {
                self.return_outer(selector, code, offset, (ss, sp, 0))?;
            }
        }
        self.load_rflags(flags);
        self.update_privilege();
        Ok(())
    }

    /// IRET in 64-bit mode within a level: SS and RSP are loaded too.
    fn iret_same_level(&mut self, selector: u16, mut code: Descriptor, offset: u64, to: (u16, u64)) -> Exec {
        let level = self.mode.cpl;
        let long = code.is_long();
        let segment = self.return_stack(to.0, level, long)?;
        self.check_target(code, offset)?;
        self.mark_accessed(&mut code)?;
        self.enter_code(selector, code, level, offset);
        self.set_segment(SegmentRegister::Ss, segment);
        let stack = self.outer_stack(segment, to.1, long, level);
        self.commit_sp(&stack);
        Ok(())
    }

    /// The flags after IRET from the current level.
    fn iret_flags(&self, image: u64, size: u8) -> u64 {
        let mut mask = IRET_MASK;
        if self.mode.cpl <= self.iopl() {
            mask |= rflags::IF;
        }
        if self.mode.cpl == 0 {
            mask |= rflags::IOPL | rflags::VIF | rflags::VIP;
        }
        mask &= if size == 2 { 0xffff } else { u64::MAX };
        (self.rflags() & !mask) | (image & mask)
    }

    fn iret_8086(&mut self, size: u8) -> Exec {
        let v86 = self.mode.is_v86();
        let virtual_if = v86 && self.iopl() < 3;
        if virtual_if && (self.cr4 & cr::CR4_VME == 0 || size != 2) {
            return Err(Fault::gp0());
        }
        let mut stack = self.current_stack();
        let offset = self.pop_from(&mut stack, size)?;
        let selector = self.pop_from(&mut stack, size)? as u16;
        let image = self.pop_from(&mut stack, size)?;
        if offset > u64::from(self.segs[SegmentRegister::Cs as usize].limit) {
            return Err(Fault::gp0());
        }
        let mut mask = IRET_MASK;
        let mut image = image;
        if virtual_if {
            let pending = self.system_flag(rflags::VIP) && image & rflags::IF != 0;
            if pending || image & rflags::TF != 0 {
                return Err(Fault::gp0());
            }
            image = (image & !rflags::VIF) | if image & rflags::IF != 0 { rflags::VIF } else { 0 };
            mask = (mask & 0xffff) | rflags::VIF;
        } else {
            mask |= rflags::IF;
            if !v86 {
                mask |= rflags::IOPL;
            }
            mask &= if size == 2 { 0xffff } else { u64::MAX };
        }
        self.commit_sp(&stack);
        self.load_cs_8086(selector);
        self.set_rip(offset & size_mask(size));
        self.load_rflags((self.rflags() & !mask) | (image & mask));
        Ok(())
    }

    fn iret_to_v86(&mut self, mut stack: Stack, offset: u64, selector: u16, image: u64) -> Exec {
        let sp = self.pop_from(&mut stack, 4)?;
        let mut selectors = [0u16; 6];
        selectors[SegmentRegister::Cs as usize] = selector;
        for register in
            [SegmentRegister::Ss, SegmentRegister::Es, SegmentRegister::Ds, SegmentRegister::Fs, SegmentRegister::Gs]
        {
            selectors[register as usize] = self.pop_from(&mut stack, 4)? as u16;
        }
        if offset > 0xffff {
            return Err(Fault::gp0());
        }
        for (segment, selector) in self.segs.iter_mut().zip(selectors) {
            *segment = v86_segment(selector);
        }
        self.gpr[gpr::RSP] = sp;
        self.set_rip(offset);
        self.set_rflags(image & (IRET_MASK | rflags::IF | rflags::IOPL | rflags::VM | rflags::VIF | rflags::VIP));
        self.exit_request = true;
        self.update_mode();
        Ok(())
    }

    // Fast system calls.

    fn flat_segments(&mut self, cs: u16, ss: u16, code: u16, level: u8) {
        let dpl = if level == 3 { DPL3 } else { 0 };
        let limit = u32::MAX;
        self.set_cpl(level);
        self.segs[SegmentRegister::Ss as usize] = Segment { selector: ss, base: 0, limit, attributes: FLAT_DATA | dpl };
        self.set_segment(SegmentRegister::Cs, Segment { selector: cs, base: 0, limit, attributes: code | dpl });
    }

    /// SYSCALL.
    ///
    /// # Errors
    /// #UD unless EFER.SCE; Intel: outside of 64-bit mode.
    pub fn syscall(&mut self) -> Exec {
        let refused = !self.mode.is_long64() && (self.features.vendor == Vendor::Intel || !self.mode.protected);
        if self.efer & cr::EFER_SCE == 0 || refused {
            return Err(Fault::ud());
        }
        self.exit_request = true;
        let cs = (self.msrs.star >> 32) as u16 & 0xfffc;
        let ss = cs.wrapping_add(8);
        let flags = self.rflags();
        self.gpr[gpr::RCX] = self.next_rip;
        if self.mode.long {
            self.gpr[gpr::R11] = flags & !rflags::RF;
            let target = if self.mode.is_long64() { self.msrs.lstar } else { self.msrs.cstar };
            self.set_rflags(flags & !self.msrs.fmask & !rflags::RF);
            self.flat_segments(cs, ss, FLAT_CODE64, 0);
            self.set_rip(target);
        } else {
            self.set_rflags(flags & !(rflags::VM | rflags::IF | rflags::RF));
            self.flat_segments(cs, ss, FLAT_CODE32, 0);
            self.set_rip(self.msrs.star & 0xffff_ffff);
        }
        // TF as SYSCALL leaves it decides about a single-step trap.
        self.step = self.system_flag(rflags::TF);
        Ok(())
    }

    /// SYSRET; `size` is the operand size in bytes.
    ///
    /// # Errors
    /// #UD unless EFER.SCE; Intel: outside of 64-bit mode. #GP(0) outside of CPL 0 and for a non-canonical RCX.
    pub fn sysret(&mut self, size: u8) -> Exec {
        let refused = !self.mode.is_long64() && (self.features.vendor == Vendor::Intel || !self.mode.protected);
        if self.efer & cr::EFER_SCE == 0 || refused {
            return Err(Fault::ud());
        }
        self.require_cpl0()?;
        let base = (self.msrs.star >> 48) as u16;
        let wide = size == 8 && self.mode.is_long64();
        let target = self.gpr[gpr::RCX];
        if wide && !is_canonical(target) {
            return Err(Fault::gp0());
        }
        self.exit_request = true;
        let flags = if self.mode.long {
            (self.gpr[gpr::R11] & 0x003c_7fd7) | rflags::FIXED
        } else {
            self.rflags() | rflags::IF
        };
        let (cs, code, target) = if wide {
            (base.wrapping_add(16) | 3, FLAT_CODE64, target)
        } else {
            (base | 3, FLAT_CODE32, target & 0xffff_ffff)
        };
        self.set_rflags(flags);
        self.flat_segments(cs, base.wrapping_add(8) | 3, code, 3);
        self.set_rip(target);
        self.step = self.system_flag(rflags::TF);
        Ok(())
    }

    fn check_sysenter(&self) -> Exec {
        if self.features.vendor == Vendor::Amd && self.mode.long {
            return Err(Fault::ud());
        }
        if self.cr0 & cr::CR0_PE == 0 || self.msrs.sysenter_cs & 0xfffc == 0 {
            return Err(Fault::gp0());
        }
        Ok(())
    }

    /// SYSENTER.
    ///
    /// # Errors
    /// #GP(0) in real mode or without a code segment; AMD: #UD in long mode.
    pub fn sysenter(&mut self) -> Exec {
        self.check_sysenter()?;
        self.exit_request = true;
        let cs = self.msrs.sysenter_cs as u16 & 0xfffc;
        let long = self.mode.long;
        let mask = if long { u64::MAX } else { 0xffff_ffff };
        self.set_rflags(self.rflags() & !(rflags::VM | rflags::IF | rflags::RF));
        self.flat_segments(cs, cs.wrapping_add(8), if long { FLAT_CODE64 } else { FLAT_CODE32 }, 0);
        self.gpr[gpr::RSP] = self.msrs.sysenter_esp & mask;
        self.set_rip(self.msrs.sysenter_eip & mask);
        Ok(())
    }

    /// SYSEXIT; `size` is the operand size in bytes.
    ///
    /// # Errors
    /// #GP(0) outside of CPL 0 and protected mode, without a code segment, or for non-canonical targets; AMD: #UD in
    /// long mode.
    pub fn sysexit(&mut self, size: u8) -> Exec {
        self.check_sysenter()?;
        self.require_cpl0()?;
        let wide = size == 8 && self.mode.is_long64();
        let (rip, rsp) = (self.gpr[gpr::RDX], self.gpr[gpr::RCX]);
        if wide && !(is_canonical(rip) && is_canonical(rsp)) {
            return Err(Fault::gp0());
        }
        self.exit_request = true;
        let base = self.msrs.sysenter_cs as u16 & 0xfffc;
        let (distance, code, mask) = if wide { (32, FLAT_CODE64, u64::MAX) } else { (16, FLAT_CODE32, 0xffff_ffff) };
        let cs = base.wrapping_add(distance);
        self.flat_segments(cs | 3, cs.wrapping_add(8) | 3, code, 3);
        self.gpr[gpr::RSP] = rsp & mask;
        self.set_rip(rip & mask);
        Ok(())
    }
}
