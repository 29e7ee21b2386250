//! The guest's x87 unit in the host's.
//!
//! While the unit is *live* ([`Context::x87_live`]), the host's x87 unit is the guest's: registers, tags, control and
//! status word; MMX registers are those registers on the host as well. [`crate::state::Cpu::x87`] then holds old
//! values. The unit is taken when a region with such instructions is entered and given back when translated code is
//! left, or before the interpreter executes an instruction that may look at it. Slow paths in between run with the
//! guest's values in the host's unit: the ABI keeps nothing there that compiled Rust would want.
//!
//! Only a guest that masks all exceptions gets there ([`usable`]), so that no exception is ever pending in the host.
//! The pointers of the last instruction (FIP, FDP, FOP) are not the host's: translated code notes the number of the
//! instruction and the offset of its operand, and [`Jit::flush_x87`] makes the pointers of them.

use fpu::FxsaveFormat;
use std::arch::x86_64::{_xrstor, _xsave};
use x86::regs::SegmentRegister;

use super::Jit;
use crate::state::{Cpu, denied};

/// Component 0 of XSAVE: the x87 unit.
const X87: u64 = 1;
/// Where the header of an XSAVE area is.
const HEADER: usize = 512;

/// The legacy area and the header.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Area([u8; 576]);

/// Where an instruction is that sets the pointers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub rip: u64,
    pub opcode: u16,
}

/// Whether x87 and MMX instructions can't fault under the guest's settings: neither #NM nor #MF.
#[inline]
pub(super) fn usable(cpu: &Cpu) -> bool {
    cpu.fpu_denied & denied::X87 == 0 && cpu.x87.control() & 0x3f == 0x3f
}

/// Whether the host can save and restore its x87 unit by itself.
pub(super) fn host_has_it() -> bool {
    std::arch::is_x86_feature_detected!("xsave")
}

/// The unit as XRSTOR wants it.
fn image_of(cpu: &Cpu, area: &mut Area) {
    let mut image = [0; 160];
    cpu.x87.fxsave(FxsaveFormat::Long, &mut image);
    // The pointers are kept elsewhere.
    image[6..24].fill(0);
    let (legacy, header) = area.0.split_at_mut(HEADER);
    for (to, from) in legacy.iter_mut().zip(image) {
        *to = from;
    }
    header.fill(0);
    if let Some(components) = header.first_mut() {
        *components = X87 as u8;
    }
}

impl Jit {
    /// Brings the guest's unit into the host's.
    pub(super) fn load_x87(&mut self, cpu: &Cpu) {
        let context = &mut *self.context;
        image_of(cpu, &mut context.x87_area);
        (context.x87_instruction, context.x87_segment) = (0, 0);
        context.x87_live = 1;
        // SAFETY: `Mode::x87` is set only on hosts with XSAVE. The area is aligned, its header is valid, and it
        // restores the x87 unit alone, where compiled code keeps nothing.
        unsafe { _xrstor(context.x87_area.0.as_ptr(), X87) }
    }

    /// Takes the guest's unit back from the host's, if it is there.
    #[inline]
    pub(super) fn flush_x87(&mut self, cpu: &mut Cpu) {
        if self.context.x87_live != 0 {
            self.save_x87(cpu);
        }
    }

    fn save_x87(&mut self, cpu: &mut Cpu) {
        let context = &mut *self.context;
        context.x87_live = 0;
        // SAFETY: the unit is live, so the host has XSAVE; the area is aligned. FNINIT leaves the unit as the ABI and
        // crate `fpu` want it.
        unsafe {
            _xsave(context.x87_area.0.as_mut_ptr(), X87);
            std::arch::asm!(
                "fninit",
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                options(nomem, nostack)
            );
        }
        let mut image = [0; 160];
        for (to, from) in image.iter_mut().zip(context.x87_area.0) {
            *to = from;
        }
        let old = *cpu.x87.pointers();
        cpu.x87.fxrstor(FxsaveFormat::Long, &image);
        let record = (context.x87_instruction as usize).checked_sub(1).and_then(|index| self.x87_records.get(index));
        match record {
            Some(record) => cpu.x87.note_instruction(cpu.selector(SegmentRegister::Cs), record.rip, record.opcode),
            None => cpu.x87.note_instruction(old.instruction_selector, old.instruction, old.opcode),
        }
        match context.x87_segment.checked_sub(1) {
            Some(segment) => cpu.x87.note_data(cpu.selector(crate::ops::segment(segment)), context.x87_data),
            None => cpu.x87.note_data(old.data_selector, old.data),
        }
    }

    /// Before the slow path of a site: takes the unit back if the site wants it. `true`: it is to be loaded again when
    /// translated code goes on.
    #[inline]
    pub(super) fn suspend_x87(&mut self, cpu: &mut Cpu, site: u32) -> bool {
        let wanted = self.context.x87_live != 0 && self.sites.get(site as usize).is_none_or(|site| site.x87);
        if wanted {
            self.save_x87(cpu);
        }
        wanted
    }
}
