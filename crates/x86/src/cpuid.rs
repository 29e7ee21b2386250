//! CPUID as data: leaves, their look-up by the vendors' out-of-range rules, and feature tests.
//!
//! Source: SDM vol. 2, CPUID; APM vol. 3, appendix E. What depends on the running state (OSXSAVE, OSPKE, the APIC
//! enable bit, the size of the enabled XSAVE area, the current APIC id after a change) is left to the CPU.

pub use crate::feature::{FEATURES, Feature, FeatureInfo, FeatureSet, FeatureWord, Source};

/// A register that CPUID returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the registers")]
pub enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl Register {
    /// The name in upper case, as messages have it.
    pub fn name(self) -> &'static str {
        match self {
            Register::Eax => "EAX",
            Register::Ebx => "EBX",
            Register::Ecx => "ECX",
            Register::Edx => "EDX",
        }
    }
}

/// What CPUID returns for one leaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the registers")]
pub struct CpuidResult {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

impl CpuidResult {
    /// A result from its four registers.
    pub const fn new(eax: u32, ebx: u32, ecx: u32, edx: u32) -> Self {
        CpuidResult { eax, ebx, ecx, edx }
    }
}

/// A processor's maker, as leaf 0 names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the vendors")]
pub enum Vendor {
    Intel,
    Amd,
    Hygon,
    Other([u8; 12]),
}

impl Vendor {
    /// The vendor with this signature.
    pub fn from_signature(signature: [u8; 12]) -> Self {
        match &signature {
            b"GenuineIntel" => Vendor::Intel,
            b"AuthenticAMD" => Vendor::Amd,
            b"HygonGenuine" => Vendor::Hygon,
            _ => Vendor::Other(signature),
        }
    }

    /// The twelve characters that EBX, EDX and ECX of leaf 0 hold.
    pub fn signature(self) -> [u8; 12] {
        match self {
            Vendor::Intel => *b"GenuineIntel",
            Vendor::Amd => *b"AuthenticAMD",
            Vendor::Hygon => *b"HygonGenuine",
            Vendor::Other(signature) => signature,
        }
    }
}

/// Basic, hypervisor, extended and Centaur leaves begin here.
pub mod range {
    /// First hypervisor leaf.
    pub const HYPERVISOR: u32 = 0x4000_0000;
    /// First extended leaf.
    pub const EXTENDED: u32 = 0x8000_0000;
    /// First Centaur leaf.
    pub const CENTAUR: u32 = 0xc000_0000;
}

/// One leaf of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidEntry {
    /// EAX on entry.
    pub leaf: u32,
    /// ECX on entry, where it selects a sub-leaf.
    pub subleaf: Option<u32>,
    /// The answer.
    pub result: CpuidResult,
}

/// What a request beyond the highest leaf answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfRange {
    /// The contents of the highest basic leaf (Intel, and what others took from it).
    HighestBasicLeaf,
    /// Zeros (AMD and Hygon).
    Zeros,
}

/// All CPUID answers of one vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuidTable {
    /// Ascending by leaf and sub-leaf.
    entries: Vec<CpuidEntry>,
    features: FeatureSet,
    out_of_range: OutOfRange,
}

impl CpuidTable {
    /// A table of the given leaves. The highest leaves are read from EAX of leaves 0, 4000_0000H, 8000_0000H and
    /// C000_0000H; a range whose first leaf is missing is empty. Leaves above the highest are dropped.
    pub fn new(mut entries: Vec<CpuidEntry>, features: FeatureSet, out_of_range: OutOfRange) -> Self {
        entries.sort_by_key(|entry| (entry.leaf, entry.subleaf));
        let mut table = CpuidTable { entries, features, out_of_range };
        let all = table.clone();
        table.entries.retain(|entry| entry.leaf <= all.highest_leaf(entry.leaf));
        table
    }

    /// The answer for EAX = `leaf` and ECX = `subleaf`.
    pub fn get(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        if leaf <= self.highest_leaf(leaf) {
            return self.in_range(leaf, subleaf);
        }
        match self.out_of_range {
            OutOfRange::Zeros => CpuidResult::default(),
            OutOfRange::HighestBasicLeaf => self.in_range(self.highest_leaf(0), subleaf),
        }
    }

    /// Whether the feature is advertised.
    pub fn has(&self, feature: Feature) -> bool {
        self.features.has(feature)
    }

    /// The vendor that leaf 0 names.
    pub fn vendor(&self) -> Vendor {
        let CpuidResult { ebx, ecx, edx, .. } = self.find(0, 0).unwrap_or_default();
        let mut signature = [0; 12];
        for (bytes, register) in signature.chunks_exact_mut(4).zip([ebx, edx, ecx]) {
            bytes.copy_from_slice(&register.to_le_bytes());
        }
        Vendor::from_signature(signature)
    }

    /// All features.
    pub fn features(&self) -> &FeatureSet {
        &self.features
    }

    /// The leaves, ascending: what an accelerator hands to the host's kernel.
    pub fn entries(&self) -> &[CpuidEntry] {
        &self.entries
    }

    /// The highest leaf of the range that `leaf` is in. A missing range answers 0.
    fn highest_leaf(&self, leaf: u32) -> u32 {
        let first = match leaf {
            range::CENTAUR.. => range::CENTAUR,
            range::EXTENDED.. => range::EXTENDED,
            range::HYPERVISOR.. => range::HYPERVISOR,
            _ => 0,
        };
        self.find(first, 0).map_or(0, |result| result.eax)
    }

    fn in_range(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        match (self.find(leaf, subleaf), leaf) {
            (Some(result), _) => result,
            // SDM: an invalid level of leaves 0BH and 1FH returns the level number and the x2APIC id.
            (None, 0xb | 0x1f) => self.find(leaf, 0).map_or(CpuidResult::default(), |level| CpuidResult {
                ecx: if level == CpuidResult::default() { 0 } else { subleaf & 0xff },
                edx: level.edx,
                ..CpuidResult::default()
            }),
            (None, _) => CpuidResult::default(),
        }
    }

    fn find(&self, leaf: u32, subleaf: u32) -> Option<CpuidResult> {
        let start = self.entries.partition_point(|entry| entry.leaf < leaf);
        self.entries[start..]
            .iter()
            .take_while(|entry| entry.leaf == leaf)
            .find(|entry| entry.subleaf.is_none_or(|s| s == subleaf))
            .map(|entry| entry.result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(out_of_range: OutOfRange) -> CpuidTable {
        let entry = |leaf, subleaf, eax| CpuidEntry { leaf, subleaf, result: CpuidResult::new(eax, 1, 2, 3) };
        CpuidTable::new(
            vec![
                entry(0x8000_0000, None, 0x8000_0001),
                entry(0x8000_0001, None, 9),
                entry(0, None, 0xb),
                entry(0xb, Some(1), 11),
                entry(0xb, Some(0), 10),
            ],
            FeatureSet::default(),
            out_of_range,
        )
    }

    #[test]
    fn leaf_in_range_but_absent_returns_zeros() {
        assert_eq!(table(OutOfRange::HighestBasicLeaf).get(3, 0), CpuidResult::default());
    }

    #[test]
    fn leaf_above_the_highest_follows_the_vendor() {
        let intel = table(OutOfRange::HighestBasicLeaf);
        assert_eq!(intel.get(0x20, 1).eax, 11);
        assert_eq!(intel.get(0x8000_0002, 0).eax, 10);
        assert_eq!(intel.get(0x4000_0000, 0).eax, 10);
        assert_eq!(intel.get(0xffff_ffff, 0).eax, 10);
        assert_eq!(table(OutOfRange::Zeros).get(0x8000_0002, 0), CpuidResult::default());
    }

    #[test]
    fn topology_leaf_beyond_its_levels_returns_level_number_and_id() {
        assert_eq!(table(OutOfRange::Zeros).get(0xb, 0x107), CpuidResult::new(0, 0, 7, 3));
    }

    #[test]
    fn subleaf_is_ignored_where_it_selects_nothing() {
        assert_eq!(table(OutOfRange::Zeros).get(0x8000_0001, 77).eax, 9);
    }
}
