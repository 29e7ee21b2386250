//! From a model to the CPUID leaves of one vCPU.
//!
//! Leaf contents follow SDM vol. 2 (CPUID) and APM vol. 3, appendix E, with the choices that QEMU 7.2 makes, compared
//! with a guest that reads them. Bits that change at run time have their value after reset.

use super::cache::{CacheSet, Caches, LEGACY_AMD, LEGACY_INTEL, LEGACY_LEAF2_L2};
use super::{Accelerator, CpuModel};
use crate::cpuid::{CpuidEntry, CpuidResult, CpuidTable, Feature, FeatureSet, FeatureWord, OutOfRange, Vendor, range};

/// How many of each the machine has, per parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Packages.
    pub sockets: u32,
    /// Dies in a socket.
    pub dies: u32,
    /// Cores in a die.
    pub cores: u32,
    /// Threads in a core.
    pub threads: u32,
}

impl Topology {
    /// APIC id bits below the core's number.
    pub fn core_shift(&self) -> u32 {
        width(self.threads)
    }

    /// APIC id bits below the die's number.
    pub fn die_shift(&self) -> u32 {
        self.core_shift() + width(self.cores)
    }

    /// APIC id bits below the package's number.
    pub fn package_shift(&self) -> u32 {
        self.die_shift() + width(self.dies)
    }

    /// The APIC id of the `index`-th vCPU, threads counting first.
    pub fn apic_id(&self, index: u32) -> u32 {
        let (threads, cores, dies) = (self.threads.max(1), self.cores.max(1), self.dies.max(1));
        let thread = index % threads;
        let core = index / threads % cores;
        let die = index / threads / cores % dies;
        let package = index / threads / cores / dies;
        thread | core << self.core_shift() | die << self.die_shift() | package << self.package_shift()
    }

    /// Logical processors in a die.
    fn die_processors(&self) -> u32 {
        self.cores.max(1).saturating_mul(self.threads.max(1))
    }
}

/// Bits for numbers below `count`.
fn width(count: u32) -> u32 {
    count.max(1).next_power_of_two().trailing_zeros()
}

/// Where an extended state component lies in the standard XSAVE area (SDM vol. 1, 13.5) and what brings it.
struct Component {
    number: u32,
    offset: u32,
    size: u32,
    feature: Feature,
}

const fn component(number: u32, offset: u32, size: u32, feature: Feature) -> Component {
    Component { number, offset, size, feature }
}

const COMPONENTS: &[Component] = &[
    component(2, 0x240, 0x100, Feature::Avx),
    component(3, 0x3c0, 0x40, Feature::Mpx),
    component(4, 0x400, 0x40, Feature::Mpx),
    component(5, 0x440, 0x40, Feature::Avx512f),
    component(6, 0x480, 0x200, Feature::Avx512f),
    component(7, 0x680, 0x400, Feature::Avx512f),
    component(9, 0xa80, 8, Feature::Pku),
    component(17, 0xac0, 0x40, Feature::AmxTile),
    component(18, 0xb00, 0x2000, Feature::AmxTile),
];

/// The legacy region and the header.
const XSAVE_BASE: u32 = 0x240;

/// Collects leaves.
#[derive(Default)]
struct Leaves(Vec<CpuidEntry>);

impl Leaves {
    fn put(&mut self, leaf: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) {
        self.0.push(CpuidEntry { leaf, subleaf: None, result: CpuidResult { eax, ebx, ecx, edx } });
    }

    fn put_sub(&mut self, leaf: u32, subleaf: u32, result: CpuidResult) {
        self.0.push(CpuidEntry { leaf, subleaf: Some(subleaf), result });
    }
}

impl CpuModel {
    /// The CPUID answers of the vCPU with this APIC id.
    pub fn build(&self, topology: Topology, apic_id: u32) -> CpuidTable {
        let mut leaves = Leaves::default();
        let mut features = self.features.clone();
        if topology.die_processors() > 1 {
            features.insert(Feature::Ht);
            if self.identity.vendor != Vendor::Intel {
                features.insert(Feature::CmpLegacy);
            }
        }
        if !self.performance_counters {
            features.remove(Feature::Pdcm);
        }
        self.basic(&mut leaves, &features, topology, apic_id);
        self.caches(&mut leaves, topology);
        self.topology(&mut leaves, topology, apic_id);
        self.xsave(&mut leaves, &features);
        self.hypervisor(&mut leaves, &features);
        self.extended(&mut leaves, &features, topology);
        self.amd_topology(&mut leaves, topology, apic_id);
        if self.centaur_level >= range::CENTAUR {
            leaves.put(range::CENTAUR, self.centaur_level, 0, 0, 0);
            leaves.put(range::CENTAUR + 1, 0, 0, 0, features.register(FeatureWord::Centaur1Edx));
        }
        let out_of_range = match self.identity.vendor {
            Vendor::Amd | Vendor::Hygon => OutOfRange::Zeros,
            _ => OutOfRange::HighestBasicLeaf,
        };
        CpuidTable::new(leaves.0, features, out_of_range)
    }

    fn highest_basic_leaf(&self, topology: Topology) -> u32 {
        let is_listed = self.identity.vendor == Vendor::Intel || !self.vendor_leaves_only;
        let dies = if topology.dies > 1 && self.is_level_free && is_listed { 0x1f } else { 0 };
        self.identity.level.max(dies)
    }

    /// EAX of leaves 1 and 8000_0001H.
    fn version(&self) -> u32 {
        let identity = &self.identity;
        let family = match identity.family {
            0x10.. => 0xf << 8 | (identity.family - 0xf) << 20,
            family => family << 8,
        };
        family | (identity.model & 0xf) << 4 | (identity.model >> 4) << 16 | identity.stepping
    }

    fn vendor_leaf(&self, leaves: &mut Leaves, leaf: u32, highest: u32) {
        let [ebx, edx, ecx] = registers(&self.identity.vendor.signature());
        leaves.put(leaf, highest, ebx, ecx, edx);
    }

    fn basic(&self, leaves: &mut Leaves, features: &FeatureSet, topology: Topology, apic_id: u32) {
        let word = |word| features.register(word);
        self.vendor_leaf(leaves, 0, self.highest_basic_leaf(topology));
        let processors = topology.die_processors();
        // CLFLUSH moves 8 quadwords; the count of logical processors is given when there are several.
        let ebx = (apic_id & 0xff) << 24 | if processors > 1 { (processors & 0xff) << 16 } else { 0 } | 8 << 8;
        leaves.put(1, self.version(), ebx, word(FeatureWord::Leaf1Ecx), word(FeatureWord::Leaf1Edx));
        // MONITOR lines are enumerated with their extensions, their sizes are not given.
        leaves.put(5, 0, 0, 3, 0);
        leaves.put(6, word(FeatureWord::Leaf6Eax), 0, 0, 0);
        let (ebx, ecx, edx) = (word(FeatureWord::Leaf7Ebx), word(FeatureWord::Leaf7Ecx), word(FeatureWord::Leaf7Edx));
        leaves.put_sub(7, 0, CpuidResult::new(self.level7, ebx, ecx, edx));
        leaves.put_sub(7, 1, CpuidResult::new(word(FeatureWord::Leaf7Sub1Eax), 0, 0, 0));
        leaves.put(0xa, 0, 0, 0, 0);
    }

    /// Leaves 2 and 4. AMD processors do not have them.
    fn caches(&self, leaves: &mut Leaves, topology: Topology) {
        if self.vendor_leaves_only && self.identity.vendor == Vendor::Amd {
            return;
        }
        let (caches, leaf2_l2) = match self.caches {
            Caches::Own(caches) => (caches, &caches.l2),
            Caches::Legacy => (&LEGACY_INTEL, &LEGACY_LEAF2_L2),
        };
        let l3 = if self.l3_cache { caches.l3.descriptor() } else { 0 };
        let edx = caches.l1d.descriptor() << 16 | caches.l1i.descriptor() << 8 | leaf2_l2.descriptor();
        leaves.put(2, 1, 0, l3, edx);
        let cores = ((topology.cores.max(1) - 1) & 0x3f) << 26;
        let sharers = [1, 1, topology.threads, 1 << topology.die_shift().min(31)];
        let list = [&caches.l1d, &caches.l1i, &caches.l2, &caches.l3];
        for (subleaf, (cache, sharers)) in list.into_iter().zip(sharers).enumerate() {
            if subleaf < 3 || self.l3_cache {
                let result = cache.deterministic(sharers);
                leaves.put_sub(4, subleaf as u32, CpuidResult { eax: result.eax | cores, ..result });
            }
        }
    }

    /// Leaves 0BH and 1FH: threads and cores, then dies as a level of their own.
    fn topology(&self, leaves: &mut Leaves, topology: Topology, apic_id: u32) {
        let level = |subleaf: u32, kind: u32, shift: u32, count: u32| {
            CpuidResult::new(shift, count & 0xffff, subleaf | kind << 8, apic_id)
        };
        let processors = topology.die_processors();
        let threads = level(0, 1, topology.core_shift(), topology.threads);
        if self.topology_leaf {
            leaves.put_sub(0xb, 0, threads);
            leaves.put_sub(0xb, 1, level(1, 2, topology.package_shift(), processors));
        }
        if topology.dies > 1 {
            leaves.put_sub(0x1f, 0, threads);
            leaves.put_sub(0x1f, 1, level(1, 2, topology.die_shift(), processors));
            let package = processors.saturating_mul(topology.dies);
            leaves.put_sub(0x1f, 2, level(2, 5, topology.package_shift(), package));
        }
    }

    fn xsave(&self, leaves: &mut Leaves, features: &FeatureSet) {
        if !features.has(Feature::Xsave) {
            return;
        }
        let present = || COMPONENTS.iter().filter(|component| features.has(component.feature));
        let enabled = present().fold(3u32, |mask, component| mask | 1 << component.number);
        let standard = present().map(|component| component.offset + component.size).max().unwrap_or(XSAVE_BASE);
        let compacted = present().fold(XSAVE_BASE, |size, component| {
            // The tile data's compacted offset is aligned (SDM vol. 1, 13.4.3).
            let start = if component.number >= 17 { size.next_multiple_of(64) } else { size };
            start + component.size
        });
        leaves.put_sub(0xd, 0, CpuidResult::new(enabled, XSAVE_BASE, standard, 0));
        leaves.put_sub(0xd, 1, CpuidResult::new(features.register(FeatureWord::XsaveEax), compacted, 0, 0));
        for component in present() {
            let aligned = if component.number >= 17 { 2 } else { 0 };
            let result = CpuidResult::new(component.size, component.offset, aligned, 0);
            leaves.put_sub(0xd, component.number, result);
        }
    }

    fn hypervisor(&self, leaves: &mut Leaves, features: &FeatureSet) {
        const HIGHEST: u32 = range::HYPERVISOR + 1;
        let word = |word| features.register(word);
        match self.accelerator {
            Accelerator::Software if self.software_leaf => {
                let [ebx, ecx, edx] = registers(b"TCGTCGTCGTCG");
                leaves.put(range::HYPERVISOR, HIGHEST, ebx, ecx, edx);
                leaves.put(HIGHEST, 0, 0, 0, 0);
            }
            Accelerator::Kvm if self.kvm_leaf => {
                let [ebx, ecx, edx] = registers(b"KVMKVMKVM\0\0\0");
                leaves.put(range::HYPERVISOR, HIGHEST, ebx, ecx, edx);
                leaves.put(HIGHEST, word(FeatureWord::KvmFeatures), 0, 0, word(FeatureWord::KvmHints));
            }
            _ => {}
        }
    }

    fn extended(&self, leaves: &mut Leaves, features: &FeatureSet, topology: Topology) {
        let highest = self.identity.extended_level;
        if highest < range::EXTENDED {
            return;
        }
        let word = |word| features.register(word);
        self.vendor_leaf(leaves, range::EXTENDED, highest);
        let (ecx, edx) = (word(FeatureWord::Extended1Ecx), word(FeatureWord::Extended1Edx));
        leaves.put(0x8000_0001, self.version(), 0, ecx, edx);
        let mut name = [0; 48];
        for (to, from) in name.iter_mut().zip(self.identity.model_id.bytes()) {
            *to = from;
        }
        for (leaf, part) in (0x8000_0002..).zip(name.chunks_exact(16)) {
            let [eax, ebx, ecx, edx] = registers(part);
            leaves.put(leaf, eax, ebx, ecx, edx);
        }
        let caches = self.extended_caches();
        // TLBs: 255 fully associative entries for 2 MiB and 4 KiB pages; 512 four-way ones in the second level.
        leaves.put(0x8000_0005, 0x01ff_01ff, 0x01ff_01ff, caches.l1d.extended_l1(), caches.l1i.extended_l1());
        let l3 = if self.l3_cache { caches.l3.extended_l3() } else { 0 };
        leaves.put(0x8000_0006, 0, 0x4200_4200, caches.l2.extended_l2(), l3);
        leaves.put(0x8000_0007, 0, 0, 0, word(FeatureWord::Extended7Edx));
        leaves.put(0x8000_0008, self.address_sizes(features), word(FeatureWord::Extended8Ebx), core_count(topology), 0);
        if features.has(Feature::Svm) {
            leaves.put(0x8000_000a, 1, 16, 0, word(FeatureWord::SvmEdx));
        }
    }

    /// What the extended leaves describe.
    fn extended_caches(&self) -> &'static CacheSet {
        match self.caches {
            Caches::Own(caches) => caches,
            Caches::Legacy => &LEGACY_AMD,
        }
    }

    fn address_sizes(&self, features: &FeatureSet) -> u32 {
        let linear = match (features.has(Feature::LongMode), features.has(Feature::La57)) {
            (false, _) => 0,
            (true, false) => 48,
            (true, true) => 57,
        };
        linear << 8 | self.physical_bits
    }

    /// Leaves 8000_001DH and 8000_001EH.
    fn amd_topology(&self, leaves: &mut Leaves, topology: Topology, apic_id: u32) {
        if self.identity.extended_level < range::EXTENDED {
            return;
        }
        let caches = self.extended_caches();
        let list = [&caches.l1d, &caches.l1i, &caches.l2, &caches.l3];
        for (subleaf, cache) in (0..).zip(list) {
            let sharers = if subleaf < 3 { topology.threads } else { 1 << topology.die_shift().min(31) };
            if subleaf < 3 || self.l3_cache {
                leaves.put_sub(0x8000_001d, subleaf, cache.deterministic(sharers));
            }
        }
        let core = (apic_id >> topology.core_shift()) & ((1 << width(topology.cores)) - 1);
        let node = (apic_id >> topology.die_shift()) & 0xff;
        let ebx = (topology.threads.max(1) - 1) << 8 | core & 0xff;
        leaves.put(0x8000_001e, apic_id, ebx, (topology.dies.max(1) - 1) << 8 | node, 0);
    }
}

/// ECX of leaf 8000_0008H: APIC id bits and the number of processors less one.
fn core_count(topology: Topology) -> u32 {
    match topology.die_processors() {
        1 => 0,
        processors => (topology.package_shift() & 0xf) << 12 | (processors - 1) & 0xff,
    }
}

/// Text as little-endian registers.
fn registers<const N: usize>(text: &[u8]) -> [u32; N] {
    let mut words = text.chunks_exact(4).map(|bytes| bytes.iter().rev().fold(0, |word, &b| word << 8 | u32::from(b)));
    std::array::from_fn(|_| words.next().unwrap_or(0))
}
