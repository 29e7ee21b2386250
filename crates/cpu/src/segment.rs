//! Segmentation: descriptors, segment loads and limit checks (SDM vol. 3, chapters 3 and 5).

use x86::regs::{Segment, SegmentRegister, TableRegister, rflags};

use crate::fault::{Exec, Fault};
use crate::mmu::{Class, Word, is_canonical};
use crate::state::{Cpu, cr, seg_ok};

/// Attribute bits of [`Segment::attributes`].
#[expect(missing_docs, reason = "the names are the bits")]
pub mod attr {
    pub const ACCESSED: u16 = 1;
    /// Readable (code) or writable (data).
    pub const RW: u16 = 2;
    /// Conforming (code) or expand-down (data).
    pub const DC: u16 = 4;
    pub const CODE: u16 = 8;
    pub const S: u16 = 0x10;
    pub const P: u16 = 0x80;
    pub const L: u16 = 0x2000;
    pub const DB: u16 = 0x4000;
    pub const G: u16 = 0x8000;
}

/// System descriptor types.
pub(crate) mod system {
    pub(crate) const TSS16: u16 = 1;
    pub(crate) const LDT: u16 = 2;
    pub(crate) const TSS16_BUSY: u16 = 3;
    pub(crate) const CALL16: u16 = 4;
    pub(crate) const TASK_GATE: u16 = 5;
    pub(crate) const INT16: u16 = 6;
    pub(crate) const TRAP16: u16 = 7;
    pub(crate) const TSS32: u16 = 9;
    pub(crate) const TSS32_BUSY: u16 = 11;
    pub(crate) const CALL32: u16 = 12;
    pub(crate) const INT32: u16 = 14;
    pub(crate) const TRAP32: u16 = 15;
}

/// A segment or gate descriptor, with its second half where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) low: u64,
    pub(crate) high: u64,
    /// Linear address of the descriptor.
    pub(crate) address: u64,
}

impl Descriptor {
    pub(crate) fn attributes(self) -> u16 {
        (self.low >> 40) as u16 & 0xf0ff
    }
    pub(crate) fn is_system(self) -> bool {
        self.attributes() & attr::S == 0
    }
    /// Type of a system descriptor.
    pub(crate) fn system_type(self) -> u16 {
        self.attributes() & 0xf
    }
    pub(crate) fn dpl(self) -> u8 {
        (self.low >> 45) as u8 & 3
    }
    pub(crate) fn present(self) -> bool {
        self.attributes() & attr::P != 0
    }
    pub(crate) fn is_code(self) -> bool {
        self.attributes() & (attr::S | attr::CODE) == attr::S | attr::CODE
    }
    pub(crate) fn is_conforming(self) -> bool {
        self.attributes() & attr::DC != 0
    }
    pub(crate) fn is_writable_data(self) -> bool {
        self.attributes() & (attr::S | attr::CODE | attr::RW) == attr::S | attr::RW
    }
    /// Data, or readable code.
    pub(crate) fn is_readable(self) -> bool {
        !self.is_system() && self.attributes() & (attr::CODE | attr::RW) != attr::CODE
    }
    pub(crate) fn is_long(self) -> bool {
        self.attributes() & attr::L != 0
    }
    pub(crate) fn is_big(self) -> bool {
        self.attributes() & attr::DB != 0
    }
    pub(crate) fn base(self) -> u64 {
        (self.low >> 16 & 0xff_ffff) | (self.low >> 32 & 0xff00_0000)
    }
    /// Base of a 16-byte system descriptor.
    pub(crate) fn long_base(self) -> u64 {
        self.base() | self.high << 32
    }
    pub(crate) fn limit(self) -> u32 {
        let limit = (self.low & 0xffff) as u32 | (self.low >> 32) as u32 & 0xf_0000;
        if self.attributes() & attr::G != 0 { limit << 12 | 0xfff } else { limit }
    }
    /// Target selector of a gate.
    pub(crate) fn gate_selector(self) -> u16 {
        (self.low >> 16) as u16
    }
    /// Target offset of a gate (32 bits; 64 with the second half).
    pub(crate) fn gate_offset(self) -> u64 {
        (self.low & 0xffff) | (self.low >> 32 & 0xffff_0000) | self.high << 32
    }
    /// The hidden part of a segment register.
    pub(crate) fn segment(self, selector: u16) -> Segment {
        Segment { selector, base: self.base(), limit: self.limit(), attributes: self.attributes() }
    }
}

/// The error code that names a selector.
pub(crate) fn selector_error(selector: u16) -> u32 {
    u32::from(selector & 0xfffc)
}

/// DPL in the attributes of a segment register.
pub(crate) fn segment_dpl(segment: &Segment) -> u8 {
    (segment.attributes >> 5) as u8 & 3
}

/// A null data segment, with the DPL that SS carries in 64-bit mode.
pub(crate) fn null_segment(selector: u16, dpl: u8) -> Segment {
    Segment { selector, base: 0, limit: 0, attributes: u16::from(dpl & 3) << 5 }
}

/// A segment as virtual-8086 mode has it.
pub(crate) fn v86_segment(selector: u16) -> Segment {
    Segment { selector, base: u64::from(selector) << 4, limit: 0xffff, attributes: 0xf3 }
}

/// Whether `size` bytes at `offset` lie within the limit of a segment.
pub(crate) fn in_limit(segment: &Segment, offset: u64, size: u64) -> bool {
    let last = offset.saturating_add(size - 1);
    let limit = u64::from(segment.limit);
    if segment.attributes & (attr::S | attr::CODE | attr::DC) == attr::S | attr::DC {
        let top = if segment.attributes & attr::DB != 0 { 0xffff_ffff } else { 0xffff };
        offset > limit && last <= top
    } else {
        last <= limit
    }
}

impl Cpu {
    /// The linear address of `size` bytes at `offset` in a segment, checked for reading or writing. `offset` is already
    /// truncated to the address size.
    ///
    /// # Errors
    /// #GP(0), or #SS(0) for SS. Non-canonical addresses are found by the access itself.
    #[inline(always)]
    pub fn seg_linear<const WRITE: bool>(&mut self, segment: SegmentRegister, offset: u64, size: u64) -> Exec<u64> {
        let need = if WRITE { seg_ok::WRITE } else { seg_ok::READ };
        if self.seg_ok[segment as usize] & need == 0 {
            self.seg_check(segment, offset, size, WRITE)?;
        }
        Ok(self.seg_base[segment as usize].wrapping_add(offset) & self.address_mask)
    }

    /// The linear address without any check (LEA-like uses, INVLPG).
    #[inline(always)]
    #[must_use]
    pub fn linear(&self, segment: SegmentRegister, offset: u64) -> u64 {
        self.seg_base[segment as usize].wrapping_add(offset) & self.address_mask
    }

    /// Reads a word at an offset in a segment.
    ///
    /// # Errors
    /// #GP, #SS, #PF, #AC.
    #[inline(always)]
    pub fn read_seg<T: Word>(&mut self, segment: SegmentRegister, offset: u64) -> Exec<T> {
        let linear = self.seg_linear::<false>(segment, offset, T::SIZE)?;
        match self.read::<T>(linear) {
            Ok(value) => Ok(value),
            Err(fault) => Err(segment_fault(segment, fault)),
        }
    }

    /// Writes a word at an offset in a segment.
    ///
    /// # Errors
    /// #GP, #SS, #PF, #AC.
    #[inline(always)]
    pub fn write_seg<T: Word>(&mut self, segment: SegmentRegister, offset: u64, value: T) -> Exec {
        let linear = self.seg_linear::<true>(segment, offset, T::SIZE)?;
        match self.write::<T>(linear, value) {
            Ok(()) => Ok(()),
            Err(fault) => Err(segment_fault(segment, fault)),
        }
    }

    #[inline(never)]
    fn seg_check(&self, register: SegmentRegister, offset: u64, size: u64, write: bool) -> Exec {
        if self.mode.is_long64() {
            return Ok(());
        }
        let segment = &self.segs[register as usize];
        let error = if register == SegmentRegister::Ss { Fault::ss(0) } else { Fault::gp0() };
        if self.mode.protected {
            let code = segment.attributes & attr::CODE != 0;
            let rw = segment.attributes & attr::RW != 0;
            let allowed = if write { !code && rw } else { !code || rw };
            if segment.attributes & attr::P == 0 || !allowed {
                return Err(error);
            }
        }
        if in_limit(segment, offset, size.max(1)) { Ok(()) } else { Err(error) }
    }

    /// Recomputes the fast copies of one segment register.
    pub(crate) fn update_segment(&mut self, register: SegmentRegister) {
        let index = register as usize;
        let segment = self.segs[index];
        let long = self.mode.is_long64();
        let has_base = matches!(register, SegmentRegister::Fs | SegmentRegister::Gs);
        self.seg_base[index] = if long && !has_base { 0 } else { segment.base };
        let code = segment.attributes & attr::CODE != 0;
        let down = !code && segment.attributes & attr::DC != 0;
        let rw = segment.attributes & attr::RW != 0;
        let mut ok = 0;
        if long {
            ok = seg_ok::READ | seg_ok::WRITE;
        } else if segment.limit == u32::MAX && !down && segment.attributes & attr::P != 0 {
            if !self.mode.protected {
                ok = seg_ok::READ | seg_ok::WRITE;
            } else {
                if !code || rw {
                    ok |= seg_ok::READ;
                }
                if !code && rw {
                    ok |= seg_ok::WRITE;
                }
            }
        }
        self.seg_ok[index] = ok;
    }

    /// Puts a segment into a register and keeps what follows from it.
    pub(crate) fn set_segment(&mut self, register: SegmentRegister, segment: Segment) {
        self.segs[register as usize] = segment;
        match register {
            SegmentRegister::Cs | SegmentRegister::Ss => self.update_mode(),
            _ => self.update_segment(register),
        }
    }

    /// The table that a selector points into, or `None` for an LDT that isn't there.
    fn table_of(&self, selector: u16) -> Option<(u64, u32)> {
        if selector & 4 == 0 {
            Some((self.gdtr.base, u32::from(self.gdtr.limit)))
        } else if self.ldtr.attributes & attr::P != 0 {
            Some((self.ldtr.base, self.ldtr.limit))
        } else {
            None
        }
    }

    /// Reads the descriptor of a selector; `None` when it is outside of its table.
    pub(crate) fn descriptor(&mut self, selector: u16) -> Exec<Option<Descriptor>> {
        let offset = u32::from(selector & 0xfff8);
        let Some((base, limit)) = self.table_of(selector) else { return Ok(None) };
        if offset + 7 > limit {
            return Ok(None);
        }
        let address = self.system_address(base.wrapping_add(u64::from(offset)));
        let low = self.read_u64_sys(address)?;
        Ok(Some(Descriptor { low, high: 0, address }))
    }

    /// Reads the second half of a system descriptor in long mode; `None` when it is outside of the table or its type
    /// field is not zero.
    pub(crate) fn extend_descriptor(&mut self, selector: u16, first: Descriptor) -> Exec<Option<Descriptor>> {
        let offset = u32::from(selector & 0xfff8);
        let fits = self.table_of(selector).is_some_and(|(_, limit)| offset + 15 <= limit);
        if !fits {
            return Ok(None);
        }
        let high = self.read_u64_sys(first.address.wrapping_add(8))?;
        Ok((high >> 40 & 0x1f == 0).then_some(Descriptor { high: high & 0xffff_ffff, ..first }))
    }

    /// Truncates the address of a system structure: 64 bits in long mode, else 32.
    pub(crate) fn system_address(&self, address: u64) -> u64 {
        if self.mode.long { address } else { address & 0xffff_ffff }
    }

    /// Sets the accessed bit in the descriptor table.
    pub(crate) fn mark_accessed(&mut self, descriptor: &mut Descriptor) -> Exec {
        if descriptor.low & 1 << 40 == 0 {
            descriptor.low |= 1 << 40;
            let byte = (descriptor.low >> 40) as u8;
            self.write_u8_sys(descriptor.address.wrapping_add(5), byte)?;
        }
        Ok(())
    }

    /// MOV to a segment register, POP, LDS and the like; not CS. A load of SS by MOV or POP also starts a shadow, which
    /// the caller sets ([`Cpu::shadow`]).
    ///
    /// # Errors
    /// #GP, #NP, #SS with the selector; #PF.
    pub fn load_segment(&mut self, register: SegmentRegister, selector: u16) -> Exec {
        if !self.mode.protected {
            let segment = if self.mode.is_v86() {
                v86_segment(selector)
            } else {
                Segment { selector, base: u64::from(selector) << 4, ..self.segs[register as usize] }
            };
            self.set_segment(register, segment);
            return Ok(());
        }
        let segment =
            if register == SegmentRegister::Ss { self.stack_segment(selector)? } else { self.data_segment(selector)? };
        self.set_segment(register, segment);
        Ok(())
    }

    fn stack_segment(&mut self, selector: u16) -> Exec<Segment> {
        let cpl = self.mode.cpl;
        let error = selector_error(selector);
        if selector & 0xfffc == 0 {
            if self.mode.is_long64() && cpl < 3 && (selector & 3) as u8 == cpl {
                return Ok(null_segment(selector, cpl));
            }
            return Err(Fault::gp0());
        }
        let mut descriptor = self.descriptor(selector)?.ok_or(Fault::gp(error))?;
        if (selector & 3) as u8 != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data() {
            return Err(Fault::gp(error));
        }
        if !descriptor.present() {
            return Err(Fault::ss(error));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor.segment(selector))
    }

    pub(crate) fn data_segment(&mut self, selector: u16) -> Exec<Segment> {
        if selector & 0xfffc == 0 {
            return Ok(null_segment(selector, 0));
        }
        let error = selector_error(selector);
        let mut descriptor = self.descriptor(selector)?.ok_or(Fault::gp(error))?;
        if !descriptor.is_readable() {
            return Err(Fault::gp(error));
        }
        let conforming = descriptor.is_code() && descriptor.is_conforming();
        let rpl = (selector & 3) as u8;
        if !conforming && (rpl > descriptor.dpl() || self.mode.cpl > descriptor.dpl()) {
            return Err(Fault::gp(error));
        }
        if !descriptor.present() {
            return Err(Fault::np(error));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// After a return to an outer level: data segments that the new level may not use become null.
    pub(crate) fn drop_inner_segments(&mut self) {
        let cpl = self.mode.cpl;
        for register in [SegmentRegister::Es, SegmentRegister::Ds, SegmentRegister::Fs, SegmentRegister::Gs] {
            let segment = self.segs[register as usize];
            let code = segment.attributes & attr::CODE != 0;
            let conforming = code && segment.attributes & attr::DC != 0;
            if segment.attributes & attr::P != 0 && !conforming && segment_dpl(&segment) < cpl {
                // Only selector and validity go: 64-bit mode goes on to use the bases of FS and GS.
                let attributes = segment.attributes & !attr::P;
                self.set_segment(register, Segment { selector: 0, attributes, ..segment });
            }
        }
    }

    /// LLDT.
    ///
    /// # Errors
    /// #UD outside of protected mode, #GP, #NP.
    pub fn lldt(&mut self, selector: u16) -> Exec {
        self.require_protected()?;
        self.require_cpl0()?;
        self.load_ldt(selector)
    }

    /// Loads LDTR, with the faults of LLDT.
    pub(crate) fn load_ldt(&mut self, selector: u16) -> Exec {
        if selector & 0xfffc == 0 {
            self.ldtr = null_segment(selector, 0);
            return Ok(());
        }
        let error = selector_error(selector);
        if selector & 4 != 0 {
            return Err(Fault::gp(error));
        }
        let mut descriptor = self.descriptor(selector)?.ok_or(Fault::gp(error))?;
        if !descriptor.is_system() || descriptor.system_type() != system::LDT {
            return Err(Fault::gp(error));
        }
        if !descriptor.present() {
            return Err(Fault::np(error));
        }
        if self.mode.long {
            descriptor = self.extend_descriptor(selector, descriptor)?.ok_or(Fault::gp(error))?;
            if !is_canonical(descriptor.long_base()) {
                return Err(Fault::gp(error));
            }
        }
        self.ldtr = Segment { base: descriptor.long_base(), ..descriptor.segment(selector) };
        Ok(())
    }

    /// LTR.
    ///
    /// # Errors
    /// #UD outside of protected mode, #GP, #NP.
    pub fn ltr(&mut self, selector: u16) -> Exec {
        self.require_protected()?;
        self.require_cpl0()?;
        let error = selector_error(selector);
        if selector & 0xfffc == 0 {
            return Err(Fault::gp0());
        }
        if selector & 4 != 0 {
            return Err(Fault::gp(error));
        }
        let mut descriptor = self.descriptor(selector)?.ok_or(Fault::gp(error))?;
        let kind = descriptor.system_type();
        let available = kind == system::TSS32 || (kind == system::TSS16 && !self.mode.long);
        if !descriptor.is_system() || !available {
            return Err(Fault::gp(error));
        }
        if !descriptor.present() {
            return Err(Fault::np(error));
        }
        if self.mode.long {
            descriptor = self.extend_descriptor(selector, descriptor)?.ok_or(Fault::gp(error))?;
            if !is_canonical(descriptor.long_base()) {
                return Err(Fault::gp(error));
            }
        }
        descriptor.low |= 1 << 41;
        self.write_u8_sys(descriptor.address.wrapping_add(5), (descriptor.low >> 40) as u8)?;
        self.tr = Segment { base: descriptor.long_base(), ..descriptor.segment(selector) };
        Ok(())
    }

    /// Whether LAR, LSL, VERR and VERW may look at a segment: conforming code always, else by privilege.
    fn visible(&self, selector: u16, descriptor: Descriptor) -> bool {
        let conforming = descriptor.is_code() && descriptor.is_conforming();
        conforming || (descriptor.dpl() >= self.mode.cpl && descriptor.dpl() >= (selector & 3) as u8)
    }

    fn inspect(&mut self, selector: u16, types: &[u16]) -> Exec<Option<Descriptor>> {
        self.require_protected()?;
        if selector & 0xfffc == 0 {
            return Ok(None);
        }
        let Some(descriptor) = self.descriptor(selector)? else { return Ok(None) };
        if descriptor.is_system() && !types.contains(&descriptor.system_type()) {
            return Ok(None);
        }
        Ok(self.visible(selector, descriptor).then_some(descriptor))
    }

    /// LAR: the access rights, or `None` (ZF = 0).
    ///
    /// # Errors
    /// #UD outside of protected mode, #PF.
    pub fn lar(&mut self, selector: u16) -> Exec<Option<u32>> {
        let types: &[u16] = if self.mode.long { &[2, 9, 11, 12] } else { &[1, 2, 3, 4, 5, 9, 11, 12] };
        let found = self.inspect(selector, types)?;
        Ok(found.map(|descriptor| (descriptor.low >> 32) as u32 & 0x00ff_ff00))
    }

    /// LSL: the limit in bytes, or `None` (ZF = 0).
    ///
    /// # Errors
    /// #UD outside of protected mode, #PF.
    pub fn lsl(&mut self, selector: u16) -> Exec<Option<u32>> {
        let types: &[u16] = if self.mode.long { &[2, 9, 11] } else { &[1, 2, 3, 9, 11] };
        Ok(self.inspect(selector, types)?.map(Descriptor::limit))
    }

    /// VERR: whether the segment can be read (ZF).
    ///
    /// # Errors
    /// #UD outside of protected mode, #PF.
    pub fn verr(&mut self, selector: u16) -> Exec<bool> {
        Ok(self.inspect(selector, &[])?.is_some_and(Descriptor::is_readable))
    }

    /// VERW: whether the segment can be written (ZF).
    ///
    /// # Errors
    /// #UD outside of protected mode, #PF.
    pub fn verw(&mut self, selector: u16) -> Exec<bool> {
        Ok(self.inspect(selector, &[])?.is_some_and(Descriptor::is_writable_data))
    }

    /// LGDT and LIDT check; the tables are set with [`Cpu::set_gdtr`] and [`Cpu::set_idtr`].
    ///
    /// # Errors
    /// #GP(0) outside of CPL 0.
    pub fn check_table_load(&self) -> Exec {
        self.require_cpl0()
    }

    /// LGDT: `base` as the operand size gives it (24, 32 or 64 bits).
    ///
    /// # Errors
    /// #GP(0) outside of CPL 0 and for a non-canonical base.
    pub fn set_gdtr(&mut self, base: u64, limit: u16) -> Exec {
        self.gdtr = self.checked_table(base, limit)?;
        Ok(())
    }

    /// LIDT: `base` as the operand size gives it (24, 32 or 64 bits).
    ///
    /// # Errors
    /// #GP(0) outside of CPL 0 and for a non-canonical base.
    pub fn set_idtr(&mut self, base: u64, limit: u16) -> Exec {
        self.idtr = self.checked_table(base, limit)?;
        Ok(())
    }

    fn checked_table(&self, base: u64, limit: u16) -> Exec<TableRegister> {
        self.require_cpl0()?;
        if self.mode.is_long64() && !is_canonical(base) {
            return Err(Fault::gp0());
        }
        Ok(TableRegister { base, limit })
    }

    /// SGDT, SIDT, SLDT, STR and SMSW are refused to programs under CR4.UMIP.
    ///
    /// # Errors
    /// #GP(0).
    pub fn check_umip(&self) -> Exec {
        if self.cr4 & cr::CR4_UMIP != 0 && self.mode.cpl > 0 { Err(Fault::gp0()) } else { Ok(()) }
    }

    /// SLDT.
    ///
    /// # Errors
    /// #UD outside of protected mode, #GP(0) under UMIP.
    pub fn sldt(&self) -> Exec<u16> {
        self.require_protected()?;
        self.check_umip()?;
        Ok(self.ldtr.selector)
    }

    /// STR.
    ///
    /// # Errors
    /// #UD outside of protected mode, #GP(0) under UMIP.
    pub fn str(&self) -> Exec<u16> {
        self.require_protected()?;
        self.check_umip()?;
        Ok(self.tr.selector)
    }

    /// #UD in real and virtual-8086 mode.
    ///
    /// # Errors
    /// #UD.
    #[inline]
    pub fn require_protected(&self) -> Exec {
        if self.mode.protected { Ok(()) } else { Err(Fault::ud()) }
    }

    /// #GP(0) unless CPL is 0.
    ///
    /// # Errors
    /// #GP(0).
    #[inline]
    pub fn require_cpl0(&self) -> Exec {
        if self.mode.cpl == 0 { Ok(()) } else { Err(Fault::gp0()) }
    }

    /// #GP(0) unless CPL is at most IOPL (in virtual-8086 mode: IOPL 3).
    ///
    /// # Errors
    /// #GP(0).
    #[inline]
    pub fn require_iopl(&self) -> Exec {
        if self.mode.cpl <= self.iopl() { Ok(()) } else { Err(Fault::gp0()) }
    }

    /// The data access class for a privilege level, as stack switches need it.
    pub(crate) fn class_for(&self, cpl: u8) -> Class {
        if cpl == 3 {
            Class::User
        } else if self.cr4 & cr::CR4_SMAP != 0 && self.system_flag(rflags::AC) {
            Class::SupervisorAc
        } else {
            Class::Supervisor
        }
    }
}

/// #SS instead of #GP for a non-canonical stack address.
#[cold]
pub(crate) fn segment_fault(segment: SegmentRegister, fault: Fault) -> Fault {
    if fault.is_non_canonical() && segment == SegmentRegister::Ss { Fault::ss(0) } else { fault }
}
