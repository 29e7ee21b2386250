//! Hardware task switches with 16- and 32-bit task states (SDM vol. 3, chapter 7). Long mode has none.

use x86::regs::{Segment, SegmentRegister, rflags};

use crate::control::dr6;
use crate::fault::{Exec, Fault};
use crate::segment::{Descriptor, null_segment, selector_error, system, v86_segment};
use crate::state::{Cpu, cr, gpr};

/// What switches, and what the old task is left with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskSwitch {
    /// JMP: the old task becomes available.
    Jump {
        /// Where the old task continues.
        rip: u64,
        /// Its flags.
        flags: u64,
    },
    /// CALL, interrupt or exception: the new task is nested.
    Call {
        /// Where the old task continues.
        rip: u64,
        /// Its flags.
        flags: u64,
    },
    /// IRET from a nested task.
    Return {
        /// Where the old task continues.
        rip: u64,
        /// Its flags (NT is dropped).
        flags: u64,
    },
}

/// The registers in a task state.
#[derive(Clone, Copy, Debug, Default)]
struct TaskState {
    cr3: u64,
    rip: u64,
    flags: u64,
    gpr: [u64; 8],
    /// ES, CS, SS, DS, FS, GS.
    selectors: [u16; 6],
    ldt: u16,
    trap: bool,
}

/// Where the registers of a task state lie.
struct Layout {
    wide: bool,
    rip: u64,
    /// Number of segment registers that are saved.
    segments: u64,
    ldt: u64,
    min_limit: u32,
}

const WIDE: Layout = Layout { wide: true, rip: 0x20, segments: 6, ldt: 0x60, min_limit: 0x67 };
const NARROW: Layout = Layout { wide: false, rip: 0x0e, segments: 4, ldt: 0x2a, min_limit: 0x2b };

impl Layout {
    fn of(kind: u16) -> &'static Self {
        if kind & 8 != 0 { &WIDE } else { &NARROW }
    }

    fn step(&self) -> u64 {
        if self.wide { 4 } else { 2 }
    }

    fn flags(&self) -> u64 {
        self.rip + self.step()
    }

    fn gpr(&self) -> u64 {
        self.rip + 2 * self.step()
    }

    fn segments_at(&self) -> u64 {
        self.gpr() + 8 * self.step()
    }
}

impl Cpu {
    /// The descriptor of a task that can be switched to; `fault` makes the error for a bad selector.
    pub(crate) fn task_descriptor(&mut self, selector: u16, fault: fn(u32) -> Fault) -> Exec<Descriptor> {
        let error = selector_error(selector);
        if selector & 4 != 0 || selector & 0xfffc == 0 {
            return Err(fault(error));
        }
        let descriptor = self.descriptor(selector)?.ok_or(fault(error))?;
        let available = matches!(descriptor.system_type(), system::TSS16 | system::TSS32);
        if !descriptor.is_system() || !available {
            return Err(fault(error));
        }
        if !descriptor.present() {
            return Err(Fault::np(error));
        }
        Ok(descriptor)
    }

    /// IRET with NT set: back to the task in the link field.
    pub(crate) fn return_from_task(&mut self) -> Exec {
        let link = self.read_u16_sys(self.system_address(self.tr.base))?;
        let error = selector_error(link);
        if link & 4 != 0 || link & 0xfffc == 0 {
            return Err(Fault::ts(error));
        }
        let descriptor = self.descriptor(link)?.ok_or(Fault::ts(error))?;
        let busy = matches!(descriptor.system_type(), system::TSS16_BUSY | system::TSS32_BUSY);
        if !descriptor.is_system() || !busy {
            return Err(Fault::ts(error));
        }
        if !descriptor.present() {
            return Err(Fault::np(error));
        }
        let flags = self.rflags();
        self.switch_task(link, descriptor, TaskSwitch::Return { rip: self.next_rip, flags })
    }

    /// Switches tasks. Faults up to the point of no return leave the old task; later ones are met in the new one, with
    /// RIP there.
    pub(crate) fn switch_task(&mut self, selector: u16, tss: Descriptor, how: TaskSwitch) -> Exec {
        let layout = Layout::of(tss.system_type());
        if tss.limit() < layout.min_limit {
            return Err(Fault::ts(selector_error(selector)));
        }
        let base = tss.base();
        let new = self.read_task(base, layout)?;
        let old_layout = Layout::of(self.tr.attributes);
        let (rip, flags) = match how {
            TaskSwitch::Jump { rip, flags } | TaskSwitch::Call { rip, flags } => (rip, flags),
            TaskSwitch::Return { rip, flags } => (rip, flags & !rflags::NT),
        };
        let nested = matches!(how, TaskSwitch::Call { .. });
        let returns = matches!(how, TaskSwitch::Return { .. });
        let old_selector = self.tr.selector;
        self.probe_task(base, old_layout)?;
        self.write_task(old_layout, rip, flags)?;
        if nested {
            self.write_u16_sys(self.system_address(base), old_selector)?;
        } else {
            self.set_busy(old_selector, false)?;
        }
        if !returns {
            self.write_u8_sys(tss.address.wrapping_add(5), (tss.low >> 40) as u8 | 2)?;
        }
        let mut segment = tss.segment(selector);
        segment.attributes |= 2;
        self.tr = segment;
        self.cr0 |= cr::CR0_TS;
        // Local breakpoints end with the task.
        self.dr[7] &= !0x155;
        if layout.wide && self.cr0 & cr::CR0_PG != 0 {
            self.set_cr3(new.cr3, false)?;
        }
        self.enter_state(&new, layout, nested)?;
        if new.trap {
            self.pending_debug |= dr6::BT;
        }
        Ok(())
    }

    /// Checks that what a switch writes in the two task states can be written.
    fn probe_task(&mut self, new: u64, old_layout: &Layout) -> Exec {
        use crate::mmu::{AccessKind, Class};
        let old = self.tr.base;
        for at in [old + old_layout.rip, old + old_layout.segments_at() + 0x17, new] {
            self.probe(at & 0xffff_ffff, AccessKind::Write, Class::Supervisor)?;
        }
        Ok(())
    }

    fn set_busy(&mut self, selector: u16, busy: bool) -> Exec {
        let Some(descriptor) = self.descriptor(selector)? else { return Ok(()) };
        let byte = (descriptor.low >> 40) as u8;
        let byte = if busy { byte | 2 } else { byte & !2 };
        self.write_u8_sys(descriptor.address.wrapping_add(5), byte)
    }

    fn read_slot(&mut self, at: u64, wide: bool) -> Exec<u64> {
        let at = at & 0xffff_ffff;
        if wide { self.read_u32_sys(at).map(u64::from) } else { self.read_u16_sys(at).map(u64::from) }
    }

    fn write_slot(&mut self, at: u64, wide: bool, value: u64) -> Exec {
        let at = at & 0xffff_ffff;
        if wide { self.write_u32_sys(at, value as u32) } else { self.write_u16_sys(at, value as u16) }
    }

    fn read_task(&mut self, base: u64, layout: &Layout) -> Exec<TaskState> {
        let (wide, step) = (layout.wide, layout.step());
        let mut state = TaskState {
            cr3: if wide { self.read_slot(base + 0x1c, true)? } else { 0 },
            rip: self.read_slot(base + layout.rip, wide)?,
            flags: self.read_slot(base + layout.flags(), wide)?,
            ldt: self.read_slot(base + layout.ldt, false)? as u16,
            trap: wide && self.read_slot(base + 0x64, false)? & 1 != 0,
            ..TaskState::default()
        };
        for (index, slot) in state.gpr.iter_mut().enumerate() {
            *slot = self.read_slot(base + layout.gpr() + step * index as u64, wide)?;
            if !wide {
                // The upper halves of the registers are undefined after a switch to a 16-bit task.
                *slot |= 0xffff_0000;
            }
        }
        for (index, slot) in state.selectors.iter_mut().enumerate().take(layout.segments as usize) {
            *slot = self.read_slot(base + layout.segments_at() + step * index as u64, false)? as u16;
        }
        Ok(state)
    }

    fn write_task(&mut self, layout: &Layout, rip: u64, flags: u64) -> Exec {
        let (wide, step, base) = (layout.wide, layout.step(), self.tr.base);
        self.write_slot(base + layout.rip, wide, rip)?;
        self.write_slot(base + layout.flags(), wide, flags)?;
        for index in 0..8 {
            self.write_slot(base + layout.gpr() + step * index as u64, wide, self.gpr[index])?;
        }
        for index in 0..layout.segments as usize {
            let selector = u64::from(self.segs[index].selector);
            self.write_slot(base + layout.segments_at() + step * index as u64, false, selector)?;
        }
        Ok(())
    }

    /// Loads the new task's registers, then its descriptors.
    fn enter_state(&mut self, new: &TaskState, layout: &Layout, nested: bool) -> Exec {
        self.gpr[..8].copy_from_slice(&new.gpr);
        let mut flags = if layout.wide { new.flags } else { new.flags & 0xffff };
        if nested {
            flags |= rflags::NT;
        }
        self.set_rip(new.rip);
        let cpl = if flags & rflags::VM != 0 { 3 } else { (new.selectors[SegmentRegister::Cs as usize] & 3) as u8 };
        self.set_cpl(cpl);
        self.ldtr = null_segment(new.ldt, 0);
        for (segment, selector) in self.segs.iter_mut().zip(new.selectors) {
            *segment = null_segment(selector, 0);
        }
        self.load_rflags(flags);
        self.set_cpl(cpl);
        self.update_mode();
        self.load_task_ldt(new.ldt)?;
        if flags & rflags::VM != 0 {
            for (segment, selector) in self.segs.iter_mut().zip(new.selectors) {
                *segment = v86_segment(selector);
            }
            self.update_mode();
        } else {
            self.load_task_segments(new, cpl)?;
        }
        let limit = u64::from(self.segs[SegmentRegister::Cs as usize].limit);
        if new.rip > limit { Err(Fault::gp0()) } else { Ok(()) }
    }

    fn load_task_ldt(&mut self, selector: u16) -> Exec {
        if selector & 0xfffc == 0 {
            return Ok(());
        }
        let error = selector_error(selector);
        if selector & 4 != 0 {
            return Err(Fault::ts(error));
        }
        let descriptor = self.descriptor(selector)?.ok_or(Fault::ts(error))?;
        if !descriptor.is_system() || descriptor.system_type() != system::LDT || !descriptor.present() {
            return Err(Fault::ts(error));
        }
        self.ldtr = descriptor.segment(selector);
        Ok(())
    }

    fn load_task_segments(&mut self, new: &TaskState, cpl: u8) -> Exec {
        let code = self.task_code(new.selectors[SegmentRegister::Cs as usize])?;
        self.set_segment(SegmentRegister::Cs, code);
        let stack = self.task_stack(new.selectors[SegmentRegister::Ss as usize], cpl)?;
        self.set_segment(SegmentRegister::Ss, stack);
        for register in [SegmentRegister::Es, SegmentRegister::Ds, SegmentRegister::Fs, SegmentRegister::Gs] {
            let selector = new.selectors[register as usize];
            // The rules are those of MOV, with #TS for #GP.
            let segment = self.data_segment(selector).map_err(|fault| {
                if fault.vector() == crate::fault::vector::GP { Fault::ts(selector_error(selector)) } else { fault }
            })?;
            self.set_segment(register, segment);
        }
        Ok(())
    }

    fn task_code(&mut self, selector: u16) -> Exec<Segment> {
        let error = selector_error(selector);
        if selector & 0xfffc == 0 {
            return Err(Fault::ts(0));
        }
        let mut descriptor = self.descriptor(selector)?.ok_or(Fault::ts(error))?;
        let rpl = (selector & 3) as u8;
        let level = if descriptor.is_conforming() { descriptor.dpl() <= rpl } else { descriptor.dpl() == rpl };
        if !descriptor.is_code() || !level {
            return Err(Fault::ts(error));
        }
        if !descriptor.present() {
            return Err(Fault::np(error));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor.segment(selector))
    }

    fn task_stack(&mut self, selector: u16, cpl: u8) -> Exec<Segment> {
        let error = selector_error(selector);
        if selector & 0xfffc == 0 {
            return Err(Fault::ts(0));
        }
        let mut descriptor = self.descriptor(selector)?.ok_or(Fault::ts(error))?;
        let level = descriptor.dpl() == cpl && (selector & 3) as u8 == cpl;
        if !level || !descriptor.is_writable_data() {
            return Err(Fault::ts(error));
        }
        if !descriptor.present() {
            return Err(Fault::ss(error));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor.segment(selector))
    }
}

/// The general registers come in the same order as instructions encode them.
const _: () = assert!(gpr::RAX == 0 && gpr::RDI == 7);
