//! Control and debug registers, the mode that follows from them, and privileged instructions
//! (SDM vol. 3, chapter 2 and 17; the instruction pages of vol. 2).

use x86::regs::{SegmentRegister, rflags};

use crate::cpuid::{bit, component};
use crate::fault::{Exec, Fault};
use crate::mmu::{Class, is_canonical};
use crate::segment::{attr, segment_dpl};
use crate::state::{Activity, CodeMode, Cpu, Mode, Shadow, cr, denied};

const CR0_WRITABLE: u64 = cr::CR0_PE
    | cr::CR0_MP
    | cr::CR0_EM
    | cr::CR0_TS
    | cr::CR0_NE
    | cr::CR0_WP
    | cr::CR0_AM
    | cr::CR0_NW
    | cr::CR0_CD
    | cr::CR0_PG;
/// CR0 bits that change translation.
const CR0_PAGING: u64 = cr::CR0_PG | cr::CR0_WP | cr::CR0_PE;
/// CR0 and CR4 bits whose change reloads the PDPTRs (SDM vol. 3, 4.4.1).
const CR0_PDPTR: u64 = cr::CR0_PG | cr::CR0_CD | cr::CR0_NW;
const CR4_PDPTR: u64 = cr::CR4_PAE | cr::CR4_PGE | cr::CR4_PSE | cr::CR4_SMEP;

/// DR6 bits.
pub(crate) mod dr6 {
    pub(crate) const B0: u64 = 1;
    pub(crate) const BD: u64 = 1 << 13;
    pub(crate) const BS: u64 = 1 << 14;
    pub(crate) const BT: u64 = 1 << 15;
    /// Bits that read as one.
    pub(crate) const FIXED: u64 = 0xffff_0ff0;
}
pub(crate) const DR7_FIXED: u64 = 0x400;
pub(crate) const DR6_WRITABLE: u64 = 0xe00f;
pub(crate) const DR7_WRITABLE: u64 = 0xffff_2bff;
const DR7_GD: u64 = 1 << 13;

impl Cpu {
    /// Recomputes everything that follows from CR0, CR4, EFER, RFLAGS.VM, CS and SS.
    pub(crate) fn update_mode(&mut self) {
        let cs = self.segs[SegmentRegister::Cs as usize];
        let ss = self.segs[SegmentRegister::Ss as usize];
        let paged = self.cr0 & cr::CR0_PE != 0;
        let vm = paged && self.system_flag(rflags::VM);
        let long = self.efer & cr::EFER_LMA != 0;
        let big = cs.attributes & attr::DB != 0;
        let (code, bits) = if !paged {
            (CodeMode::Real, if big { 32 } else { 16 })
        } else if vm {
            (CodeMode::V86, 16)
        } else if long && cs.attributes & attr::L != 0 {
            (CodeMode::Long64, 64)
        } else if big {
            (CodeMode::Prot32, 32)
        } else {
            (CodeMode::Prot16, 16)
        };
        let stack = match code {
            CodeMode::Long64 => 64,
            CodeMode::V86 => 16,
            _ if ss.attributes & attr::DB != 0 => 32,
            _ => 16,
        };
        // CPL is set by whoever changes CS in protected mode.
        let cpl = match code {
            CodeMode::Real => 0,
            CodeMode::V86 => 3,
            _ => self.mode.cpl,
        };
        self.mode = Mode { cpl, code, bits, stack, long, protected: paged && !vm };
        self.address_mask = if code == CodeMode::Long64 { u64::MAX } else { 0xffff_ffff };
        for register in [
            SegmentRegister::Es,
            SegmentRegister::Cs,
            SegmentRegister::Ss,
            SegmentRegister::Ds,
            SegmentRegister::Fs,
            SegmentRegister::Gs,
        ] {
            self.update_segment(register);
        }
        self.mode_key = code as u32
            | u32::from(bits >> 5) << 3
            | u32::from(stack >> 5) << 5
            | u32::from(cpl) << 7
            | u32::from(long) << 9;
        self.update_privilege();
        self.update_fpu_access();
    }

    /// Changes the privilege level; the caller changes CS and calls [`Cpu::update_mode`] (or sets a segment) after.
    pub(crate) fn set_cpl(&mut self, cpl: u8) {
        self.mode.cpl = cpl & 3;
    }

    /// Recomputes what follows from CPL, RFLAGS.AC, CR0.AM and CR4.SMAP: the class of data accesses.
    pub(crate) fn update_privilege(&mut self) {
        let ac = self.system_flag(rflags::AC);
        self.alignment_check = self.mode.cpl == 3 && ac && self.cr0 & cr::CR0_AM != 0;
        let class = if self.alignment_check { Class::UserAligned } else { self.class_for(self.mode.cpl) };
        self.tlb.set_class(class);
    }

    fn update_fpu_access(&mut self) {
        let (em, ts) = (self.cr0 & cr::CR0_EM != 0, self.cr0 & cr::CR0_TS != 0);
        let mut bits = 0;
        if em || ts {
            bits |= denied::X87;
        }
        if em {
            bits |= denied::MMX_UD | denied::SSE_UD;
        }
        if ts {
            bits |= denied::NM;
        }
        if self.cr4 & cr::CR4_OSFXSR == 0 {
            bits |= denied::SSE_UD;
        }
        if ts && self.cr0 & cr::CR0_MP != 0 {
            bits |= denied::WAIT;
        }
        let vectors = component::SSE | component::AVX;
        if self.cr4 & cr::CR4_OSXSAVE == 0 || self.xcr0 & vectors != vectors {
            bits |= denied::AVX_UD;
        }
        self.fpu_denied = bits;
    }

    /// Before an x87 instruction that waits: #NM by CR0.EM and TS, then a pending unmasked exception as #MF, or on
    /// FERR# when CR0.NE is clear (the instruction then goes on, as with IGNNE# asserted).
    ///
    /// # Errors
    /// #NM, #MF.
    #[inline(always)]
    pub fn check_x87(&mut self) -> Exec {
        self.check_x87_no_wait()?;
        self.check_x87_pending()
    }

    /// Before an x87 instruction that does not wait (FNINIT, FNSTSW …): #NM by CR0.EM and TS.
    ///
    /// # Errors
    /// #NM.
    #[inline(always)]
    pub fn check_x87_no_wait(&self) -> Exec {
        if self.fpu_denied & denied::X87 != 0 { Err(Fault::nm()) } else { Ok(()) }
    }

    /// WAIT/FWAIT: #NM by CR0.MP and TS, then pending exceptions.
    ///
    /// # Errors
    /// #NM, #MF.
    pub fn check_wait(&mut self) -> Exec {
        if self.fpu_denied & denied::WAIT != 0 {
            return Err(Fault::nm());
        }
        self.check_x87_pending()
    }

    #[inline(always)]
    fn check_x87_pending(&mut self) -> Exec {
        if self.x87.pending_exception() { self.raise_x87() } else { Ok(()) }
    }

    #[cold]
    fn raise_x87(&mut self) -> Exec {
        if self.cr0 & cr::CR0_NE != 0 {
            return Err(Fault::mf());
        }
        self.raise_ferr();
        Ok(())
    }

    /// Before an MMX instruction: #UD by CR0.EM, #NM by TS, then pending x87 exceptions.
    ///
    /// # Errors
    /// #UD, #NM, #MF.
    #[inline(always)]
    pub fn check_mmx(&mut self) -> Exec {
        if self.fpu_denied & (denied::MMX_UD | denied::NM) != 0 {
            return Err(if self.fpu_denied & denied::MMX_UD != 0 { Fault::ud() } else { Fault::nm() });
        }
        self.check_x87_pending()
    }

    /// Before an SSE instruction: #UD by CR0.EM and CR4.OSFXSR, #NM by CR0.TS.
    ///
    /// # Errors
    /// #UD, #NM.
    #[inline(always)]
    pub fn check_sse(&self) -> Exec {
        if self.fpu_denied & (denied::SSE_UD | denied::NM) != 0 {
            return Err(if self.fpu_denied & denied::SSE_UD != 0 { Fault::ud() } else { Fault::nm() });
        }
        Ok(())
    }

    /// Before an AVX instruction (VEX-encoded, on vector registers): #UD by CR4.OSXSAVE and XCR0, #NM by CR0.TS.
    ///
    /// # Errors
    /// #UD, #NM.
    #[inline(always)]
    pub fn check_avx(&self) -> Exec {
        if self.fpu_denied & (denied::AVX_UD | denied::NM) != 0 {
            return Err(if self.fpu_denied & denied::AVX_UD != 0 { Fault::ud() } else { Fault::nm() });
        }
        Ok(())
    }

    /// Before FXSAVE and FXRSTOR: #NM by CR0.EM and TS.
    ///
    /// # Errors
    /// #NM.
    #[inline(always)]
    pub fn check_fxsave(&self) -> Exec {
        self.check_x87_no_wait()
    }

    /// Before XSAVE, XRSTOR and XGETBV: #UD unless CR4.OSXSAVE, #NM by CR0.TS (not for XGETBV).
    ///
    /// # Errors
    /// #UD, #NM.
    pub fn check_xsave(&self) -> Exec {
        if self.cr4 & cr::CR4_OSXSAVE == 0 {
            return Err(Fault::ud());
        }
        if self.cr0 & cr::CR0_TS != 0 { Err(Fault::nm()) } else { Ok(()) }
    }

    /// The fault for an unmasked SIMD exception: #XM, or #UD while CR4.OSXMMEXCPT is clear.
    #[must_use]
    pub fn simd_fault(&self) -> Fault {
        if self.cr4 & cr::CR4_OSXMMEXCPT != 0 { Fault::xm() } else { Fault::ud() }
    }

    // Control registers.

    /// MOV from CR.
    ///
    /// # Errors
    /// #GP(0) outside of CPL 0, #UD for registers that do not exist.
    pub fn mov_from_cr(&mut self, register: u8) -> Exec<u64> {
        match register {
            0 | 2 | 3 | 4 | 8 => self.require_cpl0()?,
            _ => return Err(Fault::ud()),
        }
        Ok(match register {
            0 => self.cr0,
            2 => self.cr2,
            3 => self.cr3,
            4 => self.cr4,
            _ => u64::from(self.apic.cr8()),
        })
    }

    /// MOV to CR; `value` is zero-extended outside of 64-bit mode.
    ///
    /// # Errors
    /// #GP(0) outside of CPL 0 and for forbidden values, #UD for registers that do not exist.
    pub fn mov_to_cr(&mut self, register: u8, value: u64) -> Exec {
        match register {
            0 | 2 | 3 | 4 | 8 => self.require_cpl0()?,
            _ => return Err(Fault::ud()),
        }
        self.exit_request = true;
        match register {
            0 => self.write_cr0(value),
            2 => {
                self.cr2 = value;
                Ok(())
            }
            3 => self.write_cr3(value),
            4 => self.write_cr4(value),
            _ => {
                if value & !0xf != 0 {
                    return Err(Fault::gp0());
                }
                self.apic.set_cr8(value as u8);
                Ok(())
            }
        }
    }

    /// The PCID that translations are made under.
    pub(crate) fn pcid(&self) -> u16 {
        if self.cr4 & cr::CR4_PCIDE != 0 { (self.cr3 & 0xfff) as u16 } else { 0 }
    }

    fn write_cr0(&mut self, value: u64) -> Exec {
        if value >> 32 != 0 {
            return Err(Fault::gp0());
        }
        let new = (value & CR0_WRITABLE) | cr::CR0_ET;
        let old = self.cr0;
        let set = |bit: u64| new & bit != 0;
        if (set(cr::CR0_PG) && !set(cr::CR0_PE)) || (set(cr::CR0_NW) && !set(cr::CR0_CD)) {
            return Err(Fault::gp0());
        }
        let turns_on = set(cr::CR0_PG) && old & cr::CR0_PG == 0;
        let turns_off = !set(cr::CR0_PG) && old & cr::CR0_PG != 0;
        let mut efer = self.efer;
        if turns_on && efer & cr::EFER_LME != 0 {
            let cs_long = self.segs[SegmentRegister::Cs as usize].attributes & attr::L != 0;
            let tss16 = self.tr.attributes & 0xd == 1;
            if self.cr4 & cr::CR4_PAE == 0 || cs_long || tss16 {
                return Err(Fault::gp0());
            }
            efer |= cr::EFER_LMA;
        }
        if turns_off {
            if self.mode.is_long64() || self.cr4 & cr::CR4_PCIDE != 0 {
                return Err(Fault::gp0());
            }
            efer &= !cr::EFER_LMA;
        }
        let pae = set(cr::CR0_PG) && self.cr4 & cr::CR4_PAE != 0 && efer & cr::EFER_LMA == 0;
        if pae && (new ^ old) & CR0_PDPTR != 0 {
            self.load_pdptrs(self.cr3)?;
        }
        self.cr0 = new;
        self.efer = efer;
        if (new ^ old) & cr::CR0_PE != 0 {
            // The level stays 0 on both ways.
            self.mode.cpl = 0;
        }
        if (new ^ old) & CR0_PAGING != 0 {
            self.tlb.flush_all();
        }
        self.update_mode();
        Ok(())
    }

    fn write_cr3(&mut self, value: u64) -> Exec {
        let pcide = self.cr4 & cr::CR4_PCIDE != 0;
        let keep = pcide && value >> 63 != 0;
        let new = if pcide { value & !(1 << 63) } else { value };
        if self.mode.long && new >> self.features.physical_bits != 0 {
            return Err(Fault::gp0());
        }
        self.set_cr3(new, keep)
    }

    /// Loads CR3 (also for task switches): the PDPTRs in PAE mode, and the TLB.
    pub(crate) fn set_cr3(&mut self, value: u64, keep: bool) -> Exec {
        let paging = self.cr0 & cr::CR0_PG != 0;
        if paging && self.cr4 & cr::CR4_PAE != 0 && !self.mode.long {
            self.load_pdptrs(value)?;
        }
        self.cr3 = value;
        self.tlb.switch(self.pcid(), keep);
        Ok(())
    }

    /// The bits of CR4 that the model has.
    pub(crate) fn cr4_writable(&self) -> u64 {
        let features = &self.features;
        let table = [
            (features.leaf1_edx & bit::VME, cr::CR4_VME | cr::CR4_PVI),
            (features.leaf1_edx & bit::TSC, cr::CR4_TSD),
            (features.leaf1_edx & bit::DE, cr::CR4_DE),
            (features.leaf1_edx & bit::PSE, cr::CR4_PSE),
            (features.leaf1_edx & bit::PAE, cr::CR4_PAE),
            (features.leaf1_edx & bit::MCE, cr::CR4_MCE),
            (features.leaf1_edx & bit::PGE, cr::CR4_PGE),
            (features.leaf1_edx & bit::FXSR, cr::CR4_OSFXSR),
            (features.leaf1_edx & bit::SSE, cr::CR4_OSXMMEXCPT),
            (features.leaf7_ecx & bit::UMIP, cr::CR4_UMIP),
            (features.leaf7_ebx & bit::FSGSBASE, cr::CR4_FSGSBASE),
            (features.leaf1_ecx & bit::PCID, cr::CR4_PCIDE),
            (features.leaf1_ecx & bit::XSAVE, cr::CR4_OSXSAVE),
            (features.leaf7_ebx & bit::SMEP, cr::CR4_SMEP),
            (features.leaf7_ebx & bit::SMAP, cr::CR4_SMAP),
        ];
        table.iter().filter(|(present, _)| *present != 0).fold(cr::CR4_PCE, |all, (_, bits)| all | bits)
    }

    fn write_cr4(&mut self, value: u64) -> Exec {
        if value & !self.cr4_writable() != 0 {
            return Err(Fault::gp0());
        }
        let (old, changed) = (self.cr4, self.cr4 ^ value);
        if self.mode.long && value & cr::CR4_PAE == 0 {
            return Err(Fault::gp0());
        }
        let enables_pcid = changed & value & cr::CR4_PCIDE != 0;
        if enables_pcid && (!self.mode.long || self.cr3 & 0xfff != 0) {
            return Err(Fault::gp0());
        }
        let pae = self.cr0 & cr::CR0_PG != 0 && value & cr::CR4_PAE != 0 && !self.mode.long;
        if pae && changed & CR4_PDPTR != 0 {
            self.cr4 = value;
            if let Err(fault) = self.load_pdptrs(self.cr3) {
                self.cr4 = old;
                return Err(fault);
            }
        }
        self.cr4 = value;
        let paging = cr::CR4_PAE | cr::CR4_PSE | cr::CR4_PGE | cr::CR4_PCIDE | cr::CR4_SMEP | cr::CR4_SMAP;
        if changed & paging != 0 {
            self.tlb.flush_all();
            self.tlb.switch(self.pcid(), false);
        }
        self.update_mode();
        Ok(())
    }

    /// CLTS.
    ///
    /// # Errors
    /// #GP(0) outside of CPL 0.
    pub fn clts(&mut self) -> Exec {
        self.require_cpl0()?;
        self.cr0 &= !cr::CR0_TS;
        self.update_fpu_access();
        Ok(())
    }

    /// LMSW: loads PE (can't clear it), MP, EM and TS.
    ///
    /// # Errors
    /// #GP(0) outside of CPL 0.
    pub fn lmsw(&mut self, value: u16) -> Exec {
        self.require_cpl0()?;
        self.exit_request = true;
        let low = u64::from(value & 0xf) | (self.cr0 & cr::CR0_PE);
        self.write_cr0((self.cr0 & !0xf) | low)
    }

    /// SMSW: CR0 as the operand size shows it.
    ///
    /// # Errors
    /// #GP(0) under UMIP.
    pub fn smsw(&self) -> Exec<u64> {
        self.check_umip()?;
        Ok(self.cr0)
    }

    /// XSETBV.
    ///
    /// # Errors
    /// #UD unless CR4.OSXSAVE, #GP(0) outside of CPL 0, for components that the model lacks, without x87, and for AVX
    /// without SSE.
    pub fn xsetbv(&mut self, register: u32, value: u64) -> Exec {
        if self.cr4 & cr::CR4_OSXSAVE == 0 {
            return Err(Fault::ud());
        }
        self.require_cpl0()?;
        let lacks_sse = value & component::AVX != 0 && value & component::SSE == 0;
        if register != 0 || value & component::X87 == 0 || value & !self.features.xcr0 != 0 || lacks_sse {
            return Err(Fault::gp0());
        }
        self.xcr0 = value;
        self.update_fpu_access();
        Ok(())
    }

    /// XGETBV.
    ///
    /// # Errors
    /// #UD unless CR4.OSXSAVE, #GP(0) for an unknown register.
    pub fn xgetbv(&self, register: u32) -> Exec<u64> {
        if self.cr4 & cr::CR4_OSXSAVE == 0 {
            return Err(Fault::ud());
        }
        match register {
            0 => Ok(self.xcr0),
            // XINUSE. Needs XGETBV(1) (leaf 0xd.1 EAX bit 2).
            1 if self.features.leafd1_eax & 4 != 0 => Ok(self.xcr0 & self.components_in_use()),
            _ => Err(Fault::gp0()),
        }
    }

    // TLB.

    /// INVLPG of a linear address.
    ///
    /// # Errors
    /// #GP(0) outside of CPL 0.
    pub fn invlpg(&mut self, linear: u64) -> Exec {
        self.require_cpl0()?;
        if is_canonical(linear) {
            self.tlb.flush_page(linear, self.pcid());
        }
        Ok(())
    }

    /// INVPCID with its 16-byte descriptor.
    ///
    /// # Errors
    /// #GP(0) outside of CPL 0 and for bad types or descriptors.
    pub fn invpcid(&mut self, kind: u64, descriptor: u128) -> Exec {
        self.require_cpl0()?;
        let (pcid, linear) = (descriptor as u64, (descriptor >> 64) as u64);
        let reserved = pcid & !0xfff != 0;
        let disabled = self.cr4 & cr::CR4_PCIDE == 0 && pcid != 0;
        let current = self.pcid();
        match kind {
            0 | 1 if reserved || disabled => return Err(Fault::gp0()),
            0 if !is_canonical(linear) => return Err(Fault::gp0()),
            0 if pcid as u16 == current => self.tlb.flush_page(linear, current),
            // Dropping more than one address is allowed.
            0 | 1 => self.tlb.flush_pcid(pcid as u16, current),
            2 => {
                self.tlb.flush_all();
                self.tlb.switch(current, false);
            }
            3 => self.tlb.flush_non_global(current),
            _ => return Err(Fault::gp0()),
        }
        Ok(())
    }

    /// INVD and WBINVD: caches are not modelled.
    ///
    /// # Errors
    /// #GP(0) outside of CPL 0.
    pub fn wbinvd(&mut self) -> Exec {
        self.require_cpl0()
    }

    // Flags and interrupts.

    /// CLI.
    ///
    /// # Errors
    /// #GP(0) when CPL is above IOPL (and CR4.PVI or VME do not help).
    pub fn cli(&mut self) -> Exec {
        if self.mode.cpl <= self.iopl() {
            self.system_flags &= !rflags::IF;
        } else if self.virtual_interrupts() {
            self.system_flags &= !rflags::VIF;
        } else {
            return Err(Fault::gp0());
        }
        Ok(())
    }

    /// STI; starts a shadow when it sets IF.
    ///
    /// # Errors
    /// #GP(0) when CPL is above IOPL (and CR4.PVI or VME do not help).
    pub fn sti(&mut self) -> Exec {
        if self.mode.cpl <= self.iopl() {
            if !self.system_flag(rflags::IF) {
                self.system_flags |= rflags::IF;
                self.shadow = Shadow::Sti;
                self.exit_request = true;
            }
        } else if self.virtual_interrupts() && !self.system_flag(rflags::VIP) {
            self.system_flags |= rflags::VIF;
        } else {
            return Err(Fault::gp0());
        }
        Ok(())
    }

    /// Whether CLI and STI act on VIF: CR4.VME in virtual-8086 mode, CR4.PVI at CPL 3.
    fn virtual_interrupts(&self) -> bool {
        if self.mode.is_v86() {
            self.cr4 & cr::CR4_VME != 0
        } else {
            self.mode.cpl == 3 && self.mode.protected && self.cr4 & cr::CR4_PVI != 0
        }
    }

    /// The image that PUSHF pushes; `size` is the operand size in bytes.
    ///
    /// # Errors
    /// #GP(0) in virtual-8086 mode with IOPL below 3 (without VME).
    pub fn pushf_value(&mut self, size: u8) -> Exec<u64> {
        let image = self.rflags() & !(rflags::RF | rflags::VM);
        if !self.mode.is_v86() || self.iopl() == 3 {
            return Ok(image);
        }
        if self.cr4 & cr::CR4_VME != 0 && size == 2 {
            let vif = if self.system_flag(rflags::VIF) { rflags::IF } else { 0 };
            return Ok((image & !rflags::IF) | vif | rflags::IOPL);
        }
        Err(Fault::gp0())
    }

    /// Applies a popped image as POPF does; `size` is the operand size in bytes. Check before the stack pointer moves:
    /// a fault leaves the flags.
    ///
    /// # Errors
    /// #GP(0) in virtual-8086 mode with IOPL below 3 (without VME).
    pub fn popf(&mut self, value: u64, size: u8) -> Exec {
        let mut mask = POPF_MASK;
        if size == 2 {
            mask &= 0xffff;
        }
        let mut value = value;
        if self.mode.is_v86() && self.iopl() < 3 {
            if self.cr4 & cr::CR4_VME == 0 || size != 2 {
                return Err(Fault::gp0());
            }
            let pending = value & rflags::IF != 0 && self.system_flag(rflags::VIP);
            if pending || value & rflags::TF != 0 {
                return Err(Fault::gp0());
            }
            // IF goes to VIF.
            mask &= !(rflags::IF | rflags::IOPL);
            mask |= rflags::VIF;
            value = (value & !rflags::VIF) | if value & rflags::IF != 0 { rflags::VIF } else { 0 };
        } else {
            if self.mode.cpl > self.iopl() {
                mask &= !rflags::IF;
            }
            if self.mode.cpl > 0 {
                mask &= !rflags::IOPL;
            }
        }
        let old = self.rflags();
        let new = (old & !mask) | (value & mask);
        // POPF leaves RF clear.
        let new = if size == 2 { new } else { new & !rflags::RF };
        self.set_rflags(new);
        if (old ^ new) & (rflags::TF | rflags::IF | rflags::AC) != 0 {
            self.exit_request = true;
            self.update_privilege();
        }
        Ok(())
    }

    /// CLAC and STAC.
    ///
    /// # Errors
    /// #UD outside of CPL 0.
    pub fn set_ac(&mut self, set: bool) -> Exec {
        if self.mode.cpl != 0 {
            return Err(Fault::ud());
        }
        if set {
            self.system_flags |= rflags::AC;
        } else {
            self.system_flags &= !rflags::AC;
        }
        self.update_privilege();
        Ok(())
    }

    /// HLT: the vCPU stops after this instruction.
    ///
    /// # Errors
    /// #GP(0) outside of CPL 0.
    pub fn hlt(&mut self) -> Exec {
        self.require_cpl0()?;
        self.activity = Activity::Halted;
        self.exit_request = true;
        Ok(())
    }

    // Time and small things.

    /// RDTSC.
    ///
    /// # Errors
    /// #GP(0) when CR4.TSD forbids it.
    pub fn rdtsc(&self) -> Exec<u64> {
        if self.cr4 & cr::CR4_TSD != 0 && self.mode.cpl != 0 { Err(Fault::gp0()) } else { Ok(self.tsc()) }
    }

    /// RDTSCP: the counter and TSC_AUX.
    ///
    /// # Errors
    /// #GP(0) when CR4.TSD forbids it.
    pub fn rdtscp(&self) -> Exec<(u64, u32)> {
        Ok((self.rdtsc()?, self.msrs.tsc_aux as u32))
    }

    /// RDPID: TSC_AUX.
    #[must_use]
    pub fn rdpid(&self) -> u64 {
        self.msrs.tsc_aux
    }

    /// RDPMC: there are no performance counters.
    ///
    /// # Errors
    /// #GP(0) always.
    pub fn rdpmc(&self, _counter: u32) -> Exec<u64> {
        Err(Fault::gp0())
    }

    /// SWAPGS (64-bit mode only; decoding sees to that).
    ///
    /// # Errors
    /// #GP(0) outside of CPL 0.
    pub fn swapgs(&mut self) -> Exec {
        self.require_cpl0()?;
        let gs = &mut self.segs[SegmentRegister::Gs as usize];
        std::mem::swap(&mut gs.base, &mut self.msrs.kernel_gs_base);
        self.update_segment(SegmentRegister::Gs);
        Ok(())
    }

    /// RDFSBASE and RDGSBASE.
    ///
    /// # Errors
    /// #UD unless CR4.FSGSBASE.
    pub fn read_base(&self, register: SegmentRegister) -> Exec<u64> {
        if self.cr4 & cr::CR4_FSGSBASE == 0 {
            return Err(Fault::ud());
        }
        Ok(self.segs[register as usize].base)
    }

    /// WRFSBASE and WRGSBASE.
    ///
    /// # Errors
    /// #UD unless CR4.FSGSBASE, #GP(0) for a non-canonical base.
    pub fn write_base(&mut self, register: SegmentRegister, base: u64) -> Exec {
        if self.cr4 & cr::CR4_FSGSBASE == 0 {
            return Err(Fault::ud());
        }
        self.set_segment_base(register, base)
    }

    // Debug registers.

    fn debug_register(&self, register: u8) -> Exec<usize> {
        match register {
            0..=3 | 6 | 7 => Ok(usize::from(register)),
            4 | 5 if self.cr4 & cr::CR4_DE == 0 => Ok(usize::from(register) + 2),
            _ => Err(Fault::ud()),
        }
    }

    fn general_detect(&mut self) -> Exec {
        if self.dr[7] & DR7_GD != 0 {
            self.dr[6] |= dr6::BD;
            // Delivery of #DB clears GD.
            return Err(Fault::db());
        }
        Ok(())
    }

    /// MOV from DR.
    ///
    /// # Errors
    /// #UD, #GP(0) outside of CPL 0, #DB for general detect.
    pub fn mov_from_dr(&mut self, register: u8) -> Exec<u64> {
        let index = self.debug_register(register)?;
        self.require_cpl0()?;
        self.general_detect()?;
        Ok(self.dr[index])
    }

    /// MOV to DR.
    ///
    /// # Errors
    /// #UD, #GP(0) outside of CPL 0 and for high bits in DR6 and DR7, #DB for general detect.
    pub fn mov_to_dr(&mut self, register: u8, value: u64) -> Exec {
        let index = self.debug_register(register)?;
        self.require_cpl0()?;
        self.general_detect()?;
        match index {
            6 | 7 if value >> 32 != 0 => return Err(Fault::gp0()),
            6 => self.dr[6] = (value & DR6_WRITABLE) | dr6::FIXED,
            7 => self.dr[7] = (value & DR7_WRITABLE) | DR7_FIXED,
            _ => self.dr[index] = value,
        }
        // Pages with data breakpoints leave the TLB's first level, others come back.
        self.tlb.flush_first();
        self.exit_request = true;
        Ok(())
    }

    /// CPL that SS carries; for checks of consistency when registers are set from outside.
    pub(crate) fn stack_dpl(&self) -> u8 {
        segment_dpl(&self.segs[SegmentRegister::Ss as usize])
    }
}

/// What POPF can change at CPL 0 in protected mode.
const POPF_MASK: u64 = rflags::CF
    | rflags::PF
    | rflags::AF
    | rflags::ZF
    | rflags::SF
    | rflags::TF
    | rflags::IF
    | rflags::DF
    | rflags::OF
    | rflags::IOPL
    | rflags::NT
    | rflags::AC
    | rflags::ID;
