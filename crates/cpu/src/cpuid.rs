//! CPUID: the model's table with the fields that change at run time (SDM vol. 2, CPUID).

use std::sync::Arc;

use x86::cpuid::{CpuidResult, CpuidTable, Feature};

use crate::state::{Cpu, cr};

/// Who made the processor, where instructions behave differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// GenuineIntel, and whatever is neither.
    Intel,
    /// AuthenticAMD and HygonGenuine.
    Amd,
}

/// What the model can do.
#[expect(missing_docs, reason = "the fields are CPUID words and limits")]
pub struct Features {
    source: Arc<CpuidTable>,
    pub vendor: Vendor,
    pub max_leaf: u32,
    pub max_extended: u32,
    pub signature: u32,
    pub leaf1_ecx: u32,
    pub leaf1_edx: u32,
    pub leaf7_ebx: u32,
    pub leaf7_ecx: u32,
    pub leaf7_edx: u32,
    pub leafd1_eax: u32,
    /// The XSAVE components that XCR0 may enable; see [`component`].
    pub xcr0: u64,
    pub extended1_ecx: u32,
    pub extended1_edx: u32,
    pub extended8_ebx: u32,
    pub physical_bits: u32,
    pub gigabyte_pages: bool,
    pub pse36: bool,
}

impl std::fmt::Debug for Features {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Features({:?}, {:#x})", self.vendor, self.signature)
    }
}

/// Bits of the feature words that this crate asks for.
#[expect(missing_docs, reason = "the names are the features")]
pub mod bit {
    // Leaf 1 ECX.
    pub const PCID: u32 = 1 << 17;
    pub const X2APIC: u32 = 1 << 21;
    pub const TSC_DEADLINE: u32 = 1 << 24;
    pub const XSAVE: u32 = 1 << 26;
    // Leaf 1 EDX.
    pub const VME: u32 = 1 << 1;
    pub const DE: u32 = 1 << 2;
    pub const PSE: u32 = 1 << 3;
    pub const TSC: u32 = 1 << 4;
    pub const MSR: u32 = 1 << 5;
    pub const PAE: u32 = 1 << 6;
    pub const MCE: u32 = 1 << 7;
    pub const APIC: u32 = 1 << 9;
    pub const SEP: u32 = 1 << 11;
    pub const MTRR: u32 = 1 << 12;
    pub const PGE: u32 = 1 << 13;
    pub const MCA: u32 = 1 << 14;
    pub const PAT: u32 = 1 << 16;
    pub const PSE36: u32 = 1 << 17;
    pub const FXSR: u32 = 1 << 24;
    pub const SSE: u32 = 1 << 25;
    // Leaf 7 EBX.
    pub const FSGSBASE: u32 = 1;
    pub const TSC_ADJUST: u32 = 1 << 1;
    pub const SMEP: u32 = 1 << 7;
    pub const INVPCID: u32 = 1 << 10;
    pub const SMAP: u32 = 1 << 20;
    // Leaf 7 ECX.
    pub const UMIP: u32 = 1 << 2;
    pub const RDPID: u32 = 1 << 22;
    // Leaf 7 EDX.
    pub const SPEC_CTRL: u32 = 1 << 26;
    pub const STIBP: u32 = 1 << 27;
    pub const ARCH_CAPABILITIES: u32 = 1 << 29;
    pub const SSBD: u32 = 1 << 31;
    // Leaf 0x8000_0001 EDX.
    pub const SYSCALL: u32 = 1 << 11;
    pub const NX: u32 = 1 << 20;
    pub const FFXSR: u32 = 1 << 25;
    pub const PAGE1GB: u32 = 1 << 26;
    pub const RDTSCP: u32 = 1 << 27;
    pub const LONG_MODE: u32 = 1 << 29;
    // Leaf 0x8000_0008 EBX.
    pub const AMD_IBPB: u32 = 1 << 12;
    pub const AMD_IBRS: u32 = 1 << 14;
    pub const AMD_STIBP: u32 = 1 << 15;
    pub const AMD_SSBD: u32 = 1 << 24;
}

impl Features {
    /// Reads a model's table.
    pub fn new(source: Arc<CpuidTable>) -> Self {
        let zero = source.get(0, 0);
        let one = source.get(1, 0);
        let seven = if zero.eax >= 7 { source.get(7, 0) } else { CpuidResult::default() };
        let state = |subleaf| if zero.eax >= 0xd { source.get(0xd, subleaf) } else { CpuidResult::default() };
        let (d0, d1) = (state(0), state(1));
        let max_extended = source.get(0x8000_0000, 0).eax;
        let extended = |leaf: u32| {
            if max_extended >= leaf { source.get(leaf, 0) } else { CpuidResult::default() }
        };
        let (e1, e8) = (extended(0x8000_0001), extended(0x8000_0008));
        let vendor = match source.vendor() {
            x86::cpuid::Vendor::Amd | x86::cpuid::Vendor::Hygon => Vendor::Amd,
            _ => Vendor::Intel,
        };
        let physical_bits = match e8.eax & 0xff {
            0 if one.edx & (bit::PAE | bit::PSE36) != 0 => 36,
            0 => 32,
            bits => bits.clamp(32, 52),
        };
        Self {
            vendor,
            max_leaf: zero.eax,
            max_extended,
            signature: one.eax,
            leaf1_ecx: one.ecx,
            leaf1_edx: one.edx,
            leaf7_ebx: seven.ebx,
            leaf7_ecx: seven.ecx,
            leaf7_edx: seven.edx,
            leafd1_eax: d1.eax,
            xcr0: u64::from(d0.eax) & component::KNOWN | component::X87 | component::SSE,
            extended1_ecx: e1.ecx,
            extended1_edx: e1.edx,
            extended8_ebx: e8.ebx,
            physical_bits,
            gigabyte_pages: e1.edx & bit::PAGE1GB != 0,
            pse36: one.edx & bit::PSE36 != 0,
            source,
        }
    }

    /// Whether the model advertises a feature.
    pub fn has(&self, feature: Feature) -> bool {
        self.source.has(feature)
    }

    /// Whether SPEC_CTRL exists.
    pub(crate) fn has_spec_ctrl(&self) -> bool {
        self.leaf7_edx & (bit::SPEC_CTRL | bit::STIBP | bit::SSBD) != 0
            || self.extended8_ebx & (bit::AMD_IBRS | bit::AMD_STIBP | bit::AMD_SSBD) != 0
    }

    /// Whether PRED_CMD exists.
    pub(crate) fn has_pred_cmd(&self) -> bool {
        self.leaf7_edx & bit::SPEC_CTRL != 0 || self.extended8_ebx & bit::AMD_IBPB != 0
    }
}

/// State components: bits of XCR0, XSTATE_BV and XCOMP_BV (SDM vol. 1, 13.1), and where they lie.
pub(crate) mod component {
    /// The x87 unit.
    pub const X87: u64 = 1;
    /// XMM registers.
    pub const SSE: u64 = 1 << 1;
    /// The upper halves of the YMM registers.
    pub const AVX: u64 = 1 << 2;
    /// All that this CPU can have.
    pub const KNOWN: u64 = X87 | SSE | AVX;
    /// Where the component [`AVX`] begins. It is the only extended one, so the compacted form has it there too.
    pub const AVX_AT: usize = 576;
}

/// Bytes of the XSAVE area for the given components: legacy region, header, extended region.
pub(crate) const fn xsave_size(components: u64) -> usize {
    component::AVX_AT + if components & component::AVX != 0 { 256 } else { 0 }
}

impl Cpu {
    /// CPUID of a leaf, with the run-time fields filled in.
    #[must_use]
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        let features = &self.features;
        if leaf < 0x4000_0000 && leaf > features.max_leaf && features.vendor == Vendor::Amd {
            return CpuidResult::default();
        }
        // An out-of-range leaf of an Intel model reads the highest basic one, which may have run-time fields too.
        let basic = leaf < 0x4000_0000 || (leaf >= 0x8000_0000 && leaf > features.max_extended);
        let effective = if basic { leaf.min(features.max_leaf) } else { leaf };
        let mut out = features.source.get(leaf, subleaf);
        let apic_on = self.apic.base() & 1 << 11 != 0;
        match effective {
            1 => {
                out.ebx = (out.ebx & 0x00ff_ffff) | self.apic_id << 24;
                out.ecx &= !(1 << 27);
                if self.cr4 & cr::CR4_OSXSAVE != 0 {
                    out.ecx |= 1 << 27;
                }
                if !apic_on {
                    out.edx &= !bit::APIC;
                }
            }
            0xb | 0x1f if out != CpuidResult::default() => out.edx = self.apic_id,
            0xb | 0x1f => {
                // Beyond the last level: the sub-leaf number and the APIC id are still reported.
                out.ecx = subleaf & 0xff;
                out.edx = self.apic_id;
            }
            0xd if subleaf < 2 && features.leaf1_ecx & bit::XSAVE != 0 => out.ebx = xsave_size(self.xcr0) as u32,
            0x8000_0001 if features.vendor == Vendor::Amd && !apic_on => out.edx &= !bit::APIC,
            0x8000_001e if features.vendor == Vendor::Amd => out.eax = self.apic_id,
            _ => {}
        }
        out
    }
}
