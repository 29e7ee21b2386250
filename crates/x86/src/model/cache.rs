//! Cache descriptions of the CPU models and their encodings in CPUID leaves 2, 4, 8000_0005H, 8000_0006H and 8000_001DH.
//!
//! Source: SDM vol. 2, CPUID (leaf 2 descriptors, leaf 4); APM vol. 3, appendix E.

use crate::cpuid::CpuidResult;

/// What a cache holds, as leaf 4 encodes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data = 1,
    Instruction = 2,
    Unified = 3,
}

/// One cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cache {
    kind: Kind,
    level: u32,
    kilobytes: u32,
    ways: u32,
    /// Leaf 4, EDX bits 0..2: WBINVD does not reach sharers, inclusive, complex indexing.
    properties: u32,
    self_initialising: bool,
}

/// Bytes in a line, everywhere.
const LINE: u32 = 64;
const NO_INVALIDATE_SHARING: u32 = 1;
const INCLUSIVE: u32 = 2;
const COMPLEX_INDEXING: u32 = 4;

/// The caches of one processor.
#[derive(Clone, Copy, Debug)]
pub(super) struct CacheSet {
    pub l1d: Cache,
    pub l1i: Cache,
    pub l2: Cache,
    pub l3: Cache,
}

/// Which caches a model describes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Caches {
    /// The generic ones: Intel's layout in leaves 2 and 4, AMD's in the extended leaves.
    Legacy,
    /// The processor's own.
    Own(&'static CacheSet),
}

const fn l1(kind: Kind, kilobytes: u32, ways: u32) -> Cache {
    Cache { kind, level: 1, kilobytes, ways, properties: NO_INVALIDATE_SHARING, self_initialising: true }
}

const fn l3(megabytes: u32) -> Cache {
    Cache {
        kind: Kind::Unified,
        level: 3,
        kilobytes: megabytes * 1024,
        ways: 16,
        properties: INCLUSIVE | COMPLEX_INDEXING,
        self_initialising: true,
    }
}

const fn l2(kilobytes: u32, ways: u32, properties: u32) -> Cache {
    Cache { kind: Kind::Unified, level: 2, kilobytes, ways, properties, self_initialising: properties != 0 }
}

/// Intel's side of [`Caches::Legacy`]; leaf 2 names a smaller second level than leaf 4.
pub(super) const LEGACY_INTEL: CacheSet = CacheSet {
    l1d: l1(Kind::Data, 32, 8),
    l1i: l1(Kind::Instruction, 32, 8),
    l2: l2(4096, 16, NO_INVALIDATE_SHARING),
    l3: l3(16),
};
/// The second level that leaf 2 names in [`Caches::Legacy`].
pub(super) const LEGACY_LEAF2_L2: Cache = l2(2048, 8, 0);
/// AMD's side of [`Caches::Legacy`].
pub(super) const LEGACY_AMD: CacheSet =
    CacheSet { l1d: l1(Kind::Data, 64, 2), l1i: l1(Kind::Instruction, 64, 2), l2: l2(512, 16, 0), l3: l3(16) };

const fn zen(l1i_kilobytes: u32, l1i_ways: u32, l3_megabytes: u32) -> CacheSet {
    // Zen's second level is not self-initialising in QEMU's description.
    CacheSet {
        l1d: l1(Kind::Data, 32, 8),
        l1i: l1(Kind::Instruction, l1i_kilobytes, l1i_ways),
        l2: l2(512, 8, 0),
        l3: l3(l3_megabytes),
    }
}

pub(super) const EPYC: CacheSet = zen(64, 4, 8);
pub(super) const DHYANA: CacheSet = zen(64, 4, 8);
pub(super) const EPYC_ROME: CacheSet = zen(32, 8, 16);
pub(super) const EPYC_MILAN: CacheSet = zen(32, 8, 32);

impl Cache {
    fn sets(&self) -> u32 {
        self.kilobytes * 1024 / LINE / self.ways
    }

    /// The leaf 2 descriptor byte, or FFH: see leaf 4.
    pub fn descriptor(&self) -> u32 {
        match (self.level, self.kind, self.kilobytes, self.ways) {
            (1, Kind::Data, 32, 8) => 0x2c,
            (1, Kind::Instruction, 32, 8) => 0x30,
            (2, _, 512, 8) => 0x80,
            (2, _, 2048, 8) => 0x7d,
            (3, _, 8192, 16) => 0x4b,
            (3, _, 16384, 16) => 0x4d,
            _ => 0xff,
        }
    }

    /// Leaves 4 and 8000_001DH without the core count; `sharers` is the number of APIC ids that share the cache.
    pub fn deterministic(&self, sharers: u32) -> CpuidResult {
        CpuidResult {
            eax: self.kind as u32 | self.level << 5 | u32::from(self.self_initialising) << 8 | field(sharers) << 14,
            ebx: (LINE - 1) | (self.ways - 1) << 22,
            ecx: self.sets() - 1,
            edx: self.properties,
        }
    }

    /// A first-level register of leaf 8000_0005H.
    pub fn extended_l1(&self) -> u32 {
        self.kilobytes << 24 | self.ways << 16 | 1 << 8 | LINE
    }

    /// ECX of leaf 8000_0006H.
    pub fn extended_l2(&self) -> u32 {
        self.kilobytes << 16 | extended_ways(self.ways) << 12 | 1 << 8 | LINE
    }

    /// EDX of leaf 8000_0006H: the size is in units of 512 KiB.
    pub fn extended_l3(&self) -> u32 {
        (self.kilobytes / 512) << 18 | extended_ways(self.ways) << 12 | 1 << 8 | LINE
    }
}

/// A count in a field that holds count - 1, 12 bits wide.
fn field(count: u32) -> u32 {
    count.saturating_sub(1) & 0xfff
}

/// Associativity in leaf 8000_0006H (APM vol. 3, table E-4).
fn extended_ways(ways: u32) -> u32 {
    match ways {
        1 | 2 | 4 => ways,
        8 => 6,
        16 => 8,
        32 => 10,
        48 => 11,
        64 => 12,
        96 => 13,
        128 => 14,
        _ => 15,
    }
}
