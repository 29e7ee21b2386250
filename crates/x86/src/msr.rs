//! Model-specific registers: numbers and bits.
//!
//! Source: SDM vol. 4; APM vol. 2, appendix A. Names are the manuals', without `IA32_` and `MSR_`.

macro_rules! msrs {
    ($($(#[$doc:meta])+ $name:ident = $index:expr;)+) => {
        $($(#[$doc])+ pub const $name: u32 = $index;)+

        /// The name of an MSR that is defined here.
        pub fn name(index: u32) -> Option<&'static str> {
            match index {
                $($name => Some(stringify!($name)),)+
                _ => None,
            }
        }
    };
}

msrs! {
    /// Machine-check address of Pentium processors.
    P5_MC_ADDR = 0x0;
    /// Machine-check type of Pentium processors.
    P5_MC_TYPE = 0x1;
    /// Time-stamp counter.
    TSC = 0x10;
    /// Platform id.
    PLATFORM_ID = 0x17;
    /// Local APIC base, enable and boot-processor flag; see [`apic_base`].
    APIC_BASE = 0x1b;
    /// Controls VMX, SMX, SGX and local machine checks.
    FEATURE_CONTROL = 0x3a;
    /// Offset that software added to the time-stamp counter.
    TSC_ADJUST = 0x3b;
    /// Speculation control.
    SPEC_CTRL = 0x48;
    /// Prediction commands.
    PRED_CMD = 0x49;
    /// Triggers a microcode update.
    BIOS_UPDT_TRIG = 0x79;
    /// Microcode revision in the upper half (Intel), the patch level in the lower half (AMD).
    BIOS_SIGN_ID = 0x8b;
    /// SMM monitor control.
    SMM_MONITOR_CTL = 0x9b;
    /// SMRAM base, readable in SMM.
    SMBASE = 0x9e;
    /// First performance counter.
    PMC0 = 0xc1;
    /// Core capabilities.
    CORE_CAPABILITIES = 0xcf;
    /// Counts at the time-stamp counter's rate.
    MPERF = 0xe7;
    /// Counts at the processor's actual rate.
    APERF = 0xe8;
    /// Memory type range capabilities.
    MTRRCAP = 0xfe;
    /// Which side-channel weaknesses are absent.
    ARCH_CAPABILITIES = 0x10a;
    /// Flushes structures.
    FLUSH_CMD = 0x10b;
    /// Transactional memory control.
    TSX_CTRL = 0x122;
    /// SYSENTER: code segment.
    SYSENTER_CS = 0x174;
    /// SYSENTER: stack pointer.
    SYSENTER_ESP = 0x175;
    /// SYSENTER: instruction pointer.
    SYSENTER_EIP = 0x176;
    /// Machine-check capabilities.
    MCG_CAP = 0x179;
    /// Machine-check status.
    MCG_STATUS = 0x17a;
    /// Machine-check control.
    MCG_CTL = 0x17b;
    /// First event select register.
    PERFEVTSEL0 = 0x186;
    /// Performance status.
    PERF_STATUS = 0x198;
    /// Performance control.
    PERF_CTL = 0x199;
    /// Clock modulation.
    CLOCK_MODULATION = 0x19a;
    /// Thermal interrupt control.
    THERM_INTERRUPT = 0x19b;
    /// Thermal status.
    THERM_STATUS = 0x19c;
    /// Miscellaneous features; see [`misc_enable`].
    MISC_ENABLE = 0x1a0;
    /// Debug control; see [`debugctl`].
    DEBUGCTL = 0x1d9;
    /// Last branch: from.
    LASTBRANCHFROMIP = 0x1db;
    /// Last branch: to.
    LASTBRANCHTOIP = 0x1dc;
    /// Last exception: from.
    LASTINTFROMIP = 0x1dd;
    /// Last exception: to.
    LASTINTTOIP = 0x1de;
    /// Base and type of variable range 0. Ranges 1 … follow in steps of two.
    MTRR_PHYSBASE0 = 0x200;
    /// Mask and valid bit of variable range 0.
    MTRR_PHYSMASK0 = 0x201;
    /// Fixed range 0-7FFFFH.
    MTRR_FIX64K_00000 = 0x250;
    /// Fixed range 80000H-9FFFFH.
    MTRR_FIX16K_80000 = 0x258;
    /// Fixed range A0000H-BFFFFH.
    MTRR_FIX16K_A0000 = 0x259;
    /// Fixed range C0000H-C7FFFH. The seven that follow go up to FFFFFH.
    MTRR_FIX4K_C0000 = 0x268;
    /// Last of the 4 KiB fixed ranges.
    MTRR_FIX4K_F8000 = 0x26f;
    /// Page attribute table.
    PAT = 0x277;
    /// Corrected machine-check interrupt of bank 0.
    MC0_CTL2 = 0x280;
    /// Default memory type and enables.
    MTRR_DEF_TYPE = 0x2ff;
    /// First fixed performance counter.
    FIXED_CTR0 = 0x309;
    /// Performance capabilities.
    PERF_CAPABILITIES = 0x345;
    /// Fixed counter control.
    FIXED_CTR_CTRL = 0x38d;
    /// Counter overflow status.
    PERF_GLOBAL_STATUS = 0x38e;
    /// Counter enables.
    PERF_GLOBAL_CTRL = 0x38f;
    /// Clears overflow status.
    PERF_GLOBAL_OVF_CTRL = 0x390;
    /// Machine-check bank 0: control. Status, address and misc follow; banks are four apart.
    MC0_CTL = 0x400;
    /// Machine-check bank 0: status.
    MC0_STATUS = 0x401;
    /// Machine-check bank 0: address.
    MC0_ADDR = 0x402;
    /// Machine-check bank 0: more information.
    MC0_MISC = 0x403;
    /// First VMX capability register.
    VMX_BASIC = 0x480;
    /// Last VMX capability register.
    VMX_VMFUNC = 0x491;
    /// Time-stamp counter value at which the local APIC's timer fires.
    TSC_DEADLINE = 0x6e0;
    /// First register of the x2APIC: register offset / 16 is added.
    X2APIC_FIRST = 0x800;
    /// x2APIC: interrupt command, 64 bits.
    X2APIC_ICR = 0x830;
    /// x2APIC: self interrupt.
    X2APIC_SELF_IPI = 0x83f;
    /// Last register of the x2APIC.
    X2APIC_LAST = 0x8ff;
    /// Protection key rights for supervisor pages.
    PKRS = 0x6e1;
    /// Supervisor state components of XSAVES.
    XSS = 0xda0;
    /// Extended features; see [`efer`].
    EFER = 0xc000_0080;
    /// Selectors of SYSCALL and SYSRET, and the 32-bit entry point.
    STAR = 0xc000_0081;
    /// SYSCALL entry point of 64-bit code.
    LSTAR = 0xc000_0082;
    /// SYSCALL entry point of compatibility code.
    CSTAR = 0xc000_0083;
    /// RFLAGS bits that SYSCALL clears.
    FMASK = 0xc000_0084;
    /// Base of FS.
    FS_BASE = 0xc000_0100;
    /// Base of GS.
    GS_BASE = 0xc000_0101;
    /// What SWAPGS exchanges with the base of GS.
    KERNEL_GS_BASE = 0xc000_0102;
    /// What RDTSCP and RDPID read.
    TSC_AUX = 0xc000_0103;
    /// AMD: system configuration.
    SYSCFG = 0xc001_0010;
    /// AMD: hardware configuration.
    HWCR = 0xc001_0015;
    /// AMD: top of memory below 4 GiB.
    TOP_MEM = 0xc001_001a;
    /// AMD: top of memory above 4 GiB.
    TOP_MEM2 = 0xc001_001d;
    /// AMD: first event select register.
    K7_EVNTSEL0 = 0xc001_0000;
    /// AMD: first performance counter.
    K7_PERFCTR0 = 0xc001_0004;
    /// AMD: interrupt pending message.
    INT_PENDING_MSG = 0xc001_0055;
    /// AMD: P-state status.
    PSTATE_STATUS = 0xc001_0063;
    /// AMD: virtual machine control.
    VM_CR = 0xc001_0114;
    /// AMD: host save area.
    VM_HSAVE_PA = 0xc001_0117;
    /// AMD: OS visible workaround length.
    OSVW_ID_LENGTH = 0xc001_0140;
    /// AMD: OS visible workaround status.
    OSVW_STATUS = 0xc001_0141;
    /// AMD: decoder configuration; bit 1 makes LFENCE serialising.
    DE_CFG = 0xc001_1029;
}

/// Bits of [`APIC_BASE`].
pub mod apic_base {
    /// This is the boot processor.
    pub const BSP: u64 = 1 << 8;
    /// x2APIC mode.
    pub const X2APIC: u64 = 1 << 10;
    /// The local APIC is enabled.
    pub const ENABLE: u64 = 1 << 11;
    /// The physical address, before the processor's width is applied.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// The address after reset.
    pub const DEFAULT: u64 = 0xfee0_0000;
}

/// Bits of [`EFER`].
pub mod efer {
    /// SYSCALL and SYSRET.
    pub const SCE: u64 = 1;
    /// Long mode enable.
    pub const LME: u64 = 1 << 8;
    /// Long mode active; read-only.
    pub const LMA: u64 = 1 << 10;
    /// No-execute pages.
    pub const NXE: u64 = 1 << 11;
    /// AMD: secure virtual machine.
    pub const SVME: u64 = 1 << 12;
    /// AMD: segment limits in long mode.
    pub const LMSLE: u64 = 1 << 13;
    /// AMD: fast FXSAVE.
    pub const FFXSR: u64 = 1 << 14;
    /// AMD: translation cache extension.
    pub const TCE: u64 = 1 << 15;
}

/// Bits of [`MISC_ENABLE`].
pub mod misc_enable {
    /// Fast string operations.
    pub const FAST_STRING: u64 = 1;
    /// Performance monitoring is available; read-only.
    pub const EMON: u64 = 1 << 7;
    /// Branch trace storage is unavailable; read-only.
    pub const BTS_UNAVAILABLE: u64 = 1 << 11;
    /// Event-based sampling is unavailable; read-only.
    pub const PEBS_UNAVAILABLE: u64 = 1 << 12;
    /// MONITOR and MWAIT.
    pub const MWAIT: u64 = 1 << 18;
    /// CPUID does not go beyond leaf 3 (2 in some manuals).
    pub const LIMIT_CPUID: u64 = 1 << 22;
    /// No-execute is disabled.
    pub const XD_DISABLE: u64 = 1 << 34;
}

/// Bits of [`DEBUGCTL`].
pub mod debugctl {
    /// Last branch recording.
    pub const LBR: u64 = 1;
    /// Single-step on branches.
    pub const BTF: u64 = 1 << 1;
}

/// Memory types of MTRRs and the PAT (SDM vol. 3, 12.11 and 12.12).
pub mod memory_type {
    /// Uncacheable.
    pub const UC: u8 = 0;
    /// Write combining.
    pub const WC: u8 = 1;
    /// Write through.
    pub const WT: u8 = 4;
    /// Write protected.
    pub const WP: u8 = 5;
    /// Write back.
    pub const WB: u8 = 6;
    /// Uncacheable unless an MTRR says write combining; PAT only.
    pub const UC_MINUS: u8 = 7;
    /// The PAT after reset.
    pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;

    /// Whether MTRRs may hold the value.
    pub fn is_valid_for_mtrr(value: u8) -> bool {
        matches!(value, UC | WC | WT | WP | WB)
    }

    /// Whether each of the PAT's fields may hold its value.
    pub fn is_valid_pat(pat: u64) -> bool {
        pat.to_le_bytes().into_iter().all(|value| matches!(value, UC | WC | WT | WP | WB | UC_MINUS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_number() {
        assert_eq!(name(0xc000_0080), Some("EFER"));
        assert_eq!(name(0x1b), Some("APIC_BASE"));
        assert_eq!(name(0x7777), None);
    }

    #[test]
    fn pat_is_valid_after_reset_and_not_with_reserved_types() {
        assert!(memory_type::is_valid_pat(memory_type::PAT_RESET));
        assert!(!memory_type::is_valid_pat(0x0007_0406_0007_0402));
        assert!(!memory_type::is_valid_for_mtrr(memory_type::UC_MINUS));
    }
}
