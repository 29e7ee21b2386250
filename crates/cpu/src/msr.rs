//! Model-specific registers (SDM vol. 4; APM vol. 2, appendix A).
//!
//! Unknown registers raise #GP(0). MTRRs and PAT are kept and read back; memory types have no effect on this CPU.
//! Machine-check banks can be written and read, as firmware and kernels do to clear them; what reports into them is injected
//! (`machine_check`).

use std::sync::Arc;

use crate::cpuid::{Vendor, bit};
use crate::fault::{Exec, Fault};
use crate::mmu::is_canonical;
use crate::state::{Cpu, cr};
use x86::regs::SegmentRegister;

/// Machine-check banks.
pub(crate) const BANKS: usize = 10;
/// Variable MTRRs.
const VARIABLE: usize = 8;
/// MTRRcap: write-combining, fixed ranges, and the number of variable ones.
const MTRR_CAP: u64 = 1 << 10 | 1 << 8 | VARIABLE as u64;
/// MCG_CAP: MCG_CTL present, and the number of banks.
const MCG_CAP: u64 = 1 << 8 | BANKS as u64;
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// MSR numbers.
#[expect(missing_docs, reason = "the names are the registers")]
pub mod index {
    pub const P5_MC_ADDR: u32 = 0;
    pub const P5_MC_TYPE: u32 = 1;
    pub const TSC: u32 = 0x10;
    pub const PLATFORM_ID: u32 = 0x17;
    pub const APIC_BASE: u32 = 0x1b;
    pub const EBL_CR_POWERON: u32 = 0x2a;
    pub const SMI_COUNT: u32 = 0x34;
    pub const FEATURE_CONTROL: u32 = 0x3a;
    pub const TSC_ADJUST: u32 = 0x3b;
    pub const SPEC_CTRL: u32 = 0x48;
    pub const PRED_CMD: u32 = 0x49;
    pub const BIOS_UPDT_TRIG: u32 = 0x79;
    pub const BIOS_SIGN_ID: u32 = 0x8b;
    pub const SMBASE: u32 = 0x9e;
    pub const PLATFORM_INFO: u32 = 0xce;
    pub const MTRR_CAP: u32 = 0xfe;
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const MCG_CTL: u32 = 0x17b;
    pub const PERF_STATUS: u32 = 0x198;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const DEBUG_CTL: u32 = 0x1d9;
    pub const MTRR_PHYS_BASE0: u32 = 0x200;
    pub const MTRR_FIX64K: u32 = 0x250;
    pub const MTRR_FIX16K_0: u32 = 0x258;
    pub const MTRR_FIX16K_1: u32 = 0x259;
    pub const MTRR_FIX4K_0: u32 = 0x268;
    pub const PAT: u32 = 0x277;
    pub const MTRR_DEF_TYPE: u32 = 0x2ff;
    pub const MC0_CTL: u32 = 0x400;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const X2APIC_FIRST: u32 = 0x800;
    pub const X2APIC_LAST: u32 = 0x8ff;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const FMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const PERF_EVT_SEL0: u32 = 0xc001_0000;
    pub const PERF_CTR3: u32 = 0xc001_0007;
    pub const SYSCFG: u32 = 0xc001_0010;
    pub const HWCR: u32 = 0xc001_0015;
    pub const IORR_BASE0: u32 = 0xc001_0016;
    pub const TOP_MEM: u32 = 0xc001_001a;
    pub const TOP_MEM2: u32 = 0xc001_001d;
    pub const NB_CFG: u32 = 0xc001_001f;
    pub const PATCH_LOADER: u32 = 0xc001_0020;
    pub const PSTATE_CURRENT_LIMIT: u32 = 0xc001_0061;
    pub const INT_PENDING: u32 = 0xc001_0055;
    pub const VM_CR: u32 = 0xc001_0114;
    pub const VM_HSAVE_PA: u32 = 0xc001_0117;
    pub const OSVW_ID_LENGTH: u32 = 0xc001_0140;
    pub const OSVW_STATUS: u32 = 0xc001_0141;
    pub const DC_CFG: u32 = 0xc001_1022;
    pub const BU_CFG2: u32 = 0xc001_102a;
    pub const DE_CFG: u32 = 0xc001_1029;
}

/// The MSRs' values.
#[expect(missing_docs, reason = "the names are the registers")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub tsc_aux: u64,
    /// What is added to the clock's ticks.
    pub tsc_offset: u64,
    pub tsc_adjust: u64,
    pub pat: u64,
    pub misc_enable: u64,
    pub feature_control: u64,
    pub spec_ctrl: u64,
    pub debug_ctl: u64,
    pub mtrr_def_type: u64,
    pub mtrr_variable: [u64; 2 * VARIABLE],
    pub mtrr_fixed: [u64; 11],
    pub mcg_status: u64,
    pub mcg_ctl: u64,
    pub mc_banks: [u64; 4 * BANKS],
    pub hwcr: u64,
    pub syscfg: u64,
    pub de_cfg: u64,
}

impl Msrs {
    /// Values after power-on.
    pub(crate) fn reset() -> Self {
        let mut mc_banks = [0; 4 * BANKS];
        mc_banks.iter_mut().step_by(4).for_each(|control| *control = u64::MAX);
        Self {
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            tsc_aux: 0,
            tsc_offset: 0,
            tsc_adjust: 0,
            pat: PAT_RESET,
            // Fast strings.
            misc_enable: 1,
            feature_control: 0,
            spec_ctrl: 0,
            debug_ctl: 0,
            mtrr_def_type: 0,
            mtrr_variable: [0; 2 * VARIABLE],
            mtrr_fixed: [0; 11],
            mcg_status: 0,
            mcg_ctl: u64::MAX,
            mc_banks,
            hwcr: 0,
            syscfg: 0,
            // LFENCE is serialising.
            de_cfg: 1 << 1,
        }
    }
}

fn fixed_mtrr(msr: u32) -> Option<usize> {
    match msr {
        index::MTRR_FIX64K => Some(0),
        index::MTRR_FIX16K_0 => Some(1),
        index::MTRR_FIX16K_1 => Some(2),
        0x268..=0x26f => Some((msr - index::MTRR_FIX4K_0) as usize + 3),
        _ => None,
    }
}

/// Memory types that PAT and MTRR fields can hold; PAT also has UC- (7).
fn valid_types(value: u64, pat: bool) -> bool {
    value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4 | 5 | 6) || (pat && *kind == 7))
}

fn check(valid: bool) -> Exec {
    if valid { Ok(()) } else { Err(Fault::gp0()) }
}

impl Cpu {
    /// The time-stamp counter.
    #[must_use]
    pub fn tsc(&self) -> u64 {
        self.raw_tsc().wrapping_add(self.msrs.tsc_offset)
    }

    /// The counter without the guest's offset.
    fn raw_tsc(&self) -> u64 {
        // Milliseconds and the rest of them apart, which is exact and fits.
        const MILLISECOND: u64 = 1_000_000;
        let now = self.clock.now();
        let rest = u128::from(now % MILLISECOND) * u128::from(self.tsc_khz);
        let rest =
            u64::try_from(rest).map_or_else(|_| (rest / u128::from(MILLISECOND)) as u64, |rest| rest / MILLISECOND);
        (now / MILLISECOND).wrapping_mul(self.tsc_khz).wrapping_add(rest)
    }

    /// RDMSR.
    ///
    /// # Errors
    /// #GP(0) outside of CPL 0 and for unknown registers.
    pub fn rdmsr(&mut self, msr: u32) -> Exec<u64> {
        self.require_cpl0()?;
        self.read_msr(msr)
    }

    /// WRMSR.
    ///
    /// # Errors
    /// #GP(0) outside of CPL 0, for unknown registers and for reserved bits.
    pub fn wrmsr(&mut self, msr: u32, value: u64) -> Exec {
        self.require_cpl0()?;
        self.write_msr(msr, value)
    }

    pub(crate) fn has1d(&self, bits: u32) -> bool {
        self.features.leaf1_edx & bits != 0
    }

    /// Whether the model has 64-bit mode.
    pub(crate) fn has_long(&self) -> bool {
        self.features.extended1_edx & bit::LONG_MODE != 0
    }

    fn has_apic_msrs(&self, msr: u32) -> bool {
        let word = self.features.leaf1_ecx;
        if msr == index::TSC_DEADLINE { word & bit::TSC_DEADLINE != 0 } else { word & bit::X2APIC != 0 }
    }

    /// Reads a register without the privilege check.
    pub(crate) fn read_msr(&mut self, msr: u32) -> Exec<u64> {
        let features = Arc::clone(&self.features);
        let seven = |bits: u32| features.leaf7_ebx & bits != 0;
        let value = match msr {
            index::P5_MC_ADDR | index::P5_MC_TYPE | index::EBL_CR_POWERON | index::PLATFORM_ID => 0,
            index::TSC => self.tsc(),
            index::APIC_BASE if self.has1d(bit::APIC) => self.apic.base(),
            index::SMI_COUNT if features.vendor == Vendor::Intel => self.smi_count & 0xffff_ffff,
            index::SMBASE if features.vendor == Vendor::Intel && self.smm.active => self.smm.smbase.into(),
            index::FEATURE_CONTROL if features.vendor == Vendor::Intel => self.msrs.feature_control,
            index::TSC_ADJUST if seven(bit::TSC_ADJUST) => self.msrs.tsc_adjust,
            index::SPEC_CTRL if features.has_spec_ctrl() => self.msrs.spec_ctrl,
            index::BIOS_SIGN_ID => self.microcode_revision,
            index::PLATFORM_INFO if features.vendor == Vendor::Intel => {
                // Bits 15..8: the ratio to a 100 MHz bus.
                ((self.tsc_khz / 100_000) & 0xff) << 8
            }
            index::MTRR_CAP if self.has1d(bit::MTRR) => MTRR_CAP,
            index::ARCH_CAPABILITIES if features.leaf7_edx & bit::ARCH_CAPABILITIES != 0 => 0,
            index::SYSENTER_CS if self.has1d(bit::SEP) => self.msrs.sysenter_cs,
            index::SYSENTER_ESP if self.has1d(bit::SEP) => self.msrs.sysenter_esp,
            index::SYSENTER_EIP if self.has1d(bit::SEP) => self.msrs.sysenter_eip,
            index::MCG_CAP if self.has1d(bit::MCA) => MCG_CAP,
            index::MCG_STATUS if self.has1d(bit::MCA) => self.msrs.mcg_status,
            index::MCG_CTL if self.has1d(bit::MCA) => self.msrs.mcg_ctl,
            index::PERF_STATUS if features.vendor == Vendor::Intel => {
                // Two fields that firmware and kernels divide by.
                1000 | (self.tsc_khz / 100_000) << 40
            }
            index::MISC_ENABLE if features.vendor == Vendor::Intel => self.msrs.misc_enable,
            index::DEBUG_CTL => self.msrs.debug_ctl,
            0x200..=0x20f if self.has1d(bit::MTRR) => self.msrs.mtrr_variable[(msr - index::MTRR_PHYS_BASE0) as usize],
            index::PAT if self.has1d(bit::PAT) => self.msrs.pat,
            index::MTRR_DEF_TYPE if self.has1d(bit::MTRR) => self.msrs.mtrr_def_type,
            0x400..=0x427 if self.has1d(bit::MCA) => self.msrs.mc_banks[(msr - index::MC0_CTL) as usize],
            index::TSC_DEADLINE | index::X2APIC_FIRST..=index::X2APIC_LAST if self.has_apic_msrs(msr) => {
                let value = self.apic.read_msr(msr).map_err(|_| Fault::gp0())?;
                if msr == index::TSC_DEADLINE && value != 0 { value.wrapping_add(self.msrs.tsc_offset) } else { value }
            }
            index::EFER if self.has_long() || features.extended1_edx & (bit::NX | bit::SYSCALL) != 0 => self.efer,
            index::STAR if features.extended1_edx & bit::SYSCALL != 0 => self.msrs.star,
            index::LSTAR if self.has_long() => self.msrs.lstar,
            index::CSTAR if self.has_long() => self.msrs.cstar,
            index::FMASK if self.has_long() => self.msrs.fmask,
            index::FS_BASE if self.has_long() => self.segs[SegmentRegister::Fs as usize].base,
            index::GS_BASE if self.has_long() => self.segs[SegmentRegister::Gs as usize].base,
            index::KERNEL_GS_BASE if self.has_long() => self.msrs.kernel_gs_base,
            index::TSC_AUX if self.has_tsc_aux() => self.msrs.tsc_aux,
            _ => match fixed_mtrr(msr) {
                Some(slot) if self.has1d(bit::MTRR) => self.msrs.mtrr_fixed[slot],
                _ if features.vendor == Vendor::Amd => self.read_amd_msr(msr)?,
                _ => return Err(Fault::gp0()),
            },
        };
        Ok(value)
    }

    fn has_tsc_aux(&self) -> bool {
        self.features.extended1_edx & bit::RDTSCP != 0 || self.features.leaf7_ecx & bit::RDPID != 0
    }

    fn read_amd_msr(&self, msr: u32) -> Exec<u64> {
        Ok(match msr {
            index::HWCR => self.msrs.hwcr,
            index::SYSCFG => self.msrs.syscfg,
            index::DE_CFG => self.msrs.de_cfg,
            // SVM is not there and locked.
            index::VM_CR => 1 << 4 | 1 << 3,
            // Every AMD processor has four counters; these never count.
            index::PERF_EVT_SEL0..=index::PERF_CTR3
            | index::VM_HSAVE_PA
            | index::NB_CFG
            | index::INT_PENDING
            | index::PSTATE_CURRENT_LIMIT
            | index::OSVW_ID_LENGTH
            | index::OSVW_STATUS
            | index::DC_CFG
            | index::BU_CFG2
            | index::TOP_MEM
            | index::TOP_MEM2
            | index::IORR_BASE0..=0xc001_0019 => 0,
            _ => return Err(Fault::gp0()),
        })
    }

    /// Writes a register without the privilege check.
    pub(crate) fn write_msr(&mut self, msr: u32, value: u64) -> Exec {
        let features = Arc::clone(&self.features);
        match msr {
            index::P5_MC_ADDR | index::P5_MC_TYPE | index::BIOS_UPDT_TRIG | index::EBL_CR_POWERON => {}
            index::TSC => {
                let delta = value.wrapping_sub(self.tsc());
                self.move_tsc(delta);
            }
            index::TSC_ADJUST if features.leaf7_ebx & bit::TSC_ADJUST != 0 => {
                let delta = value.wrapping_sub(self.msrs.tsc_adjust);
                self.move_tsc(delta);
            }
            index::APIC_BASE if self.has1d(bit::APIC) => {
                self.apic.set_base(value).map_err(|_| Fault::gp0())?;
                self.exit_request = true;
            }
            index::FEATURE_CONTROL if features.vendor == Vendor::Intel => {
                // Bit 0 locks the register.
                check(self.msrs.feature_control & 1 == 0)?;
                self.msrs.feature_control = value;
            }
            index::SPEC_CTRL if features.has_spec_ctrl() => {
                check(value & !7 == 0)?;
                self.msrs.spec_ctrl = value;
            }
            index::PRED_CMD if features.has_pred_cmd() => check(value & !1 == 0)?,
            // Software writes 0, executes CPUID and reads the revision.
            index::BIOS_SIGN_ID => {}
            index::SYSENTER_CS if self.has1d(bit::SEP) => self.msrs.sysenter_cs = value & 0xffff,
            index::SYSENTER_ESP if self.has1d(bit::SEP) => {
                check(is_canonical(value))?;
                self.msrs.sysenter_esp = value;
            }
            index::SYSENTER_EIP if self.has1d(bit::SEP) => {
                check(is_canonical(value))?;
                self.msrs.sysenter_eip = value;
            }
            index::MCG_STATUS if self.has1d(bit::MCA) => {
                check(value == 0)?;
                self.msrs.mcg_status = 0;
            }
            index::MCG_CTL if self.has1d(bit::MCA) => {
                check(value == 0 || value == u64::MAX)?;
                self.msrs.mcg_ctl = value;
            }
            index::MISC_ENABLE if features.vendor == Vendor::Intel => self.msrs.misc_enable = value,
            // LBR and BTF are accepted and have no effect.
            index::DEBUG_CTL => self.msrs.debug_ctl = value & 0x3,
            index::PAT if self.has1d(bit::PAT) => {
                check(valid_types(value, true))?;
                self.msrs.pat = value;
            }
            0x200..=0x2ff if self.has1d(bit::MTRR) => self.write_mtrr(msr, value)?,
            0x400..=0x427 if self.has1d(bit::MCA) => self.write_bank((msr - index::MC0_CTL) as usize, value)?,
            index::TSC_DEADLINE | index::X2APIC_FIRST..=index::X2APIC_LAST if self.has_apic_msrs(msr) => {
                let mut value = value;
                if msr == index::TSC_DEADLINE && value != 0 {
                    // The APIC counts the clock's ticks; 0 would disarm it.
                    value = value.wrapping_sub(self.msrs.tsc_offset).max(1);
                }
                self.apic.write_msr(msr, value).map_err(|_| Fault::gp0())?;
            }
            index::EFER if self.has_long() || features.extended1_edx & (bit::NX | bit::SYSCALL) != 0 => {
                self.write_efer(value)?;
            }
            index::STAR if features.extended1_edx & bit::SYSCALL != 0 => self.msrs.star = value,
            index::LSTAR if self.has_long() => {
                check(is_canonical(value))?;
                self.msrs.lstar = value;
            }
            index::CSTAR if self.has_long() => {
                check(is_canonical(value))?;
                self.msrs.cstar = value;
            }
            index::FMASK if self.has_long() => self.msrs.fmask = value & 0xffff_ffff,
            index::FS_BASE if self.has_long() => self.set_segment_base(SegmentRegister::Fs, value)?,
            index::GS_BASE if self.has_long() => self.set_segment_base(SegmentRegister::Gs, value)?,
            index::KERNEL_GS_BASE if self.has_long() => {
                check(is_canonical(value))?;
                self.msrs.kernel_gs_base = value;
            }
            index::TSC_AUX if self.has_tsc_aux() => {
                check(value >> 32 == 0)?;
                self.msrs.tsc_aux = value;
            }
            _ if features.vendor == Vendor::Amd => self.write_amd_msr(msr, value)?,
            _ => return Err(Fault::gp0()),
        }
        Ok(())
    }

    fn move_tsc(&mut self, delta: u64) {
        let armed = if self.has_apic_msrs(index::TSC_DEADLINE) {
            self.apic.read_msr(index::TSC_DEADLINE).ok().filter(|deadline| *deadline != 0)
        } else {
            None
        };
        self.msrs.tsc_offset = self.msrs.tsc_offset.wrapping_add(delta);
        self.msrs.tsc_adjust = self.msrs.tsc_adjust.wrapping_add(delta);
        // An armed deadline keeps its value in the guest's ticks, so it moves in the clock's.
        if let Some(deadline) = armed {
            // A deadline that the APIC gave can be set again.
            let _unused = self.apic.write_msr(index::TSC_DEADLINE, deadline.wrapping_sub(delta).max(1));
        }
    }

    /// Sets FS or GS base.
    ///
    /// # Errors
    /// #GP(0) for a non-canonical base.
    pub(crate) fn set_segment_base(&mut self, register: SegmentRegister, base: u64) -> Exec {
        check(is_canonical(base))?;
        self.segs[register as usize].base = base;
        self.update_segment(register);
        Ok(())
    }

    fn write_mtrr(&mut self, msr: u32, value: u64) -> Exec {
        let high = !((1u64 << self.features.physical_bits) - 1);
        if let Some(slot) = fixed_mtrr(msr) {
            check(valid_types(value, false))?;
            self.msrs.mtrr_fixed[slot] = value;
            return Ok(());
        }
        match msr {
            0x200..=0x20f => {
                let slot = (msr - index::MTRR_PHYS_BASE0) as usize;
                let reserved = if slot.is_multiple_of(2) { high | 0xf00 } else { high | 0x7ff };
                let kind = slot % 2 == 1 || valid_types(value & 0xff, false);
                check(value & reserved == 0 && kind)?;
                self.msrs.mtrr_variable[slot] = value;
            }
            index::MTRR_DEF_TYPE => {
                check(value & !0xcff == 0 && valid_types(value & 0xff, false))?;
                self.msrs.mtrr_def_type = value;
            }
            _ => return Err(Fault::gp0()),
        }
        Ok(())
    }

    fn write_bank(&mut self, slot: usize, value: u64) -> Exec {
        // Controls take all zeros or all ones, but for the bits 0 and 10 that kernels clear for errata; status only zero,
        // unless HWCR.McStatusWrEn. Address and misc are plain registers, as on AMD processors and under KVM.
        let writable = self.features.vendor == Vendor::Amd && self.msrs.hwcr & 1 << 18 != 0;
        check(match slot % 4 {
            0 => value == 0 || value | 1 << 10 | 1 == u64::MAX,
            1 => value == 0 || writable,
            _ => true,
        })?;
        self.msrs.mc_banks[slot] = value;
        Ok(())
    }

    /// The bits of EFER that the model has.
    pub(crate) fn efer_known(&self) -> u64 {
        let features = &self.features;
        let mut known = cr::EFER_LMA;
        if features.extended1_edx & bit::SYSCALL != 0 {
            known |= cr::EFER_SCE;
        }
        if features.extended1_edx & bit::LONG_MODE != 0 {
            known |= cr::EFER_LME;
        }
        if features.extended1_edx & bit::NX != 0 {
            known |= cr::EFER_NXE;
        }
        if features.extended1_edx & bit::FFXSR != 0 {
            known |= cr::EFER_FFXSR;
        }
        known
    }

    fn write_efer(&mut self, value: u64) -> Exec {
        check(value & !self.efer_known() == 0)?;
        let changes_lme = (value ^ self.efer) & cr::EFER_LME != 0;
        check(!(changes_lme && self.cr0 & cr::CR0_PG != 0))?;
        let new = (value & !cr::EFER_LMA) | (self.efer & cr::EFER_LMA);
        let nxe = (new ^ self.efer) & cr::EFER_NXE != 0;
        self.efer = new;
        if nxe {
            self.tlb.flush_all();
        }
        self.update_mode();
        self.exit_request = true;
        Ok(())
    }

    fn write_amd_msr(&mut self, msr: u32, value: u64) -> Exec {
        match msr {
            index::HWCR => self.msrs.hwcr = value & (1 << 18 | 1 << 24 | 0x58),
            index::SYSCFG => self.msrs.syscfg = value,
            index::DE_CFG => self.msrs.de_cfg = value,
            index::VM_CR => {}
            index::PERF_EVT_SEL0..=index::PERF_CTR3
            | index::VM_HSAVE_PA
            | index::NB_CFG
            | index::INT_PENDING
            | index::PATCH_LOADER
            | index::OSVW_ID_LENGTH
            | index::OSVW_STATUS
            | index::DC_CFG
            | index::BU_CFG2 => {}
            _ => return Err(Fault::gp0()),
        }
        Ok(())
    }

    /// The MSRs that travel in [`x86::regs::Registers::msrs`], ascending.
    pub(crate) fn saved_msrs() -> Vec<u32> {
        let mut list = vec![
            index::TSC,
            index::FEATURE_CONTROL,
            index::TSC_ADJUST,
            index::SPEC_CTRL,
            index::SYSENTER_CS,
            index::SYSENTER_ESP,
            index::SYSENTER_EIP,
            index::MCG_STATUS,
            index::MCG_CTL,
            index::MISC_ENABLE,
            index::DEBUG_CTL,
        ];
        list.extend(index::MTRR_PHYS_BASE0..index::MTRR_PHYS_BASE0 + 2 * VARIABLE as u32);
        list.extend([index::MTRR_FIX64K, index::MTRR_FIX16K_0, index::MTRR_FIX16K_1]);
        list.extend(0x268..=0x26f);
        list.extend([index::PAT, index::MTRR_DEF_TYPE]);
        list.extend(index::MC0_CTL..index::MC0_CTL + 4 * BANKS as u32);
        list.extend([
            index::STAR,
            index::LSTAR,
            index::CSTAR,
            index::FMASK,
            index::KERNEL_GS_BASE,
            index::TSC_AUX,
            index::SYSCFG,
            index::HWCR,
            index::DE_CFG,
        ]);
        list
    }

    /// Sets one of [`Cpu::saved_msrs`] as a restore does: no rules but those of the register's width.
    pub(crate) fn restore_msr(&mut self, msr: u32, value: u64) {
        let ticks = self.raw_tsc();
        let m = &mut self.msrs;
        match msr {
            index::TSC_ADJUST => m.tsc_adjust = value,
            index::FEATURE_CONTROL => m.feature_control = value,
            index::MCG_STATUS => m.mcg_status = value,
            0x400..=0x427 => m.mc_banks[(msr - index::MC0_CTL) as usize] = value,
            index::TSC => m.tsc_offset = value.wrapping_sub(ticks),
            _ => {
                // A register that this model does not have is of no use to it.
                let _unused = self.write_msr(msr, value);
            }
        }
    }
}
