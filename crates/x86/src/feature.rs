//! Every CPUID feature flag that has a QEMU 7.2 property name, with its place and its names.
//!
//! Places are from SDM vol. 2 (CPUID), SDM vol. 3 appendix A (VMX capability MSRs) and APM vol. 3 appendix E.
//! A feature's first name is the one that messages use; the others are accepted spellings.

use crate::cpuid::Register;

/// Where a feature word is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A register of a CPUID leaf. The sub-leaf is given where it matters.
    Cpuid {
        /// Leaf number (EAX on entry).
        leaf: u32,
        /// Sub-leaf number (ECX on entry).
        subleaf: Option<u32>,
        /// The register that holds the bits.
        register: Register,
    },
    /// A feature MSR.
    Msr(u32),
}

const fn cpuid(leaf: u32, subleaf: Option<u32>, register: Register) -> Source {
    Source::Cpuid { leaf, subleaf, register }
}

const fn msr(index: u32) -> Source {
    Source::Msr(index)
}

/// What the table says of one feature.
#[derive(Clone, Copy, Debug)]
pub struct FeatureInfo {
    /// The feature.
    pub feature: Feature,
    /// The word that holds it.
    pub word: FeatureWord,
    /// Its bit within the word.
    pub bit: u8,
    /// Property names, the preferred one first.
    pub names: &'static [&'static str],
}

macro_rules! features {
    ($($word:ident = $source:ident($($argument:expr),*) { $($bit:literal $feature:ident $($name:literal)+;)+ })+) => {
        /// A register or MSR full of feature bits, in the order in which messages list them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "FeatureWord::source tells the place")]
        pub enum FeatureWord { $($word),+ }

        impl FeatureWord {
            /// All words.
            pub const ALL: &'static [FeatureWord] = &[$(FeatureWord::$word),+];

            /// The CPUID register or MSR.
            pub fn source(self) -> Source {
                use Register::*;
                match self { $(FeatureWord::$word => $source($($argument),*)),+ }
            }
        }

        /// A named CPU feature.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        #[expect(missing_docs, reason = "the names are the features; Feature::info tells the place")]
        pub enum Feature { $($($feature),+),+ }

        /// The table, in the order of [`Feature`].
        pub const FEATURES: &[FeatureInfo] = &[$($(
            FeatureInfo { feature: Feature::$feature, word: FeatureWord::$word, bit: $bit, names: &[$($name),+] }
        ),+),+];
    };
}

impl Feature {
    /// The feature's place and names.
    pub fn info(self) -> &'static FeatureInfo {
        &FEATURES[self as usize]
    }

    /// The preferred name.
    pub fn name(self) -> &'static str {
        self.info().names[0]
    }

    /// The features that a property name stands for. Rarely more than one.
    pub fn by_name(name: &str) -> impl Iterator<Item = Feature> {
        FEATURES.iter().filter(move |info| info.names.contains(&name)).map(|info| info.feature)
    }

    /// The features that are there only if `self` is: (word, mask) pairs of dependent bits.
    pub(crate) fn dependents(self) -> &'static [FeatureWord] {
        use FeatureWord::*;
        match self {
            Feature::Vmx => {
                &[VmxProcessor, VmxSecondary, VmxPin, VmxExit, VmxEntry, VmxMisc, VmxEptVpid, VmxBasic, VmxFunctions]
            }
            Feature::ArchCapabilities => &[ArchCapabilities],
            Feature::CoreCapability => &[CoreCapability],
            Feature::Pdcm => &[PerfCapabilities],
            Feature::Svm => &[SvmEdx],
            Feature::IntelPt => &[Leaf14Ecx],
            Feature::Sgx => &[SgxEax, SgxEbx, SgxSub1Eax],
            Feature::VmxSecondaryCtls => &[VmxSecondary],
            Feature::VmxVmfunc => &[VmxFunctions],
            _ => &[],
        }
    }
}

/// A set of features: one value for each [`FeatureWord`].
#[derive(Clone, PartialEq, Eq)]
pub struct FeatureSet {
    words: [u64; FeatureWord::ALL.len()],
}

impl Default for FeatureSet {
    fn default() -> Self {
        FeatureSet { words: [0; FeatureWord::ALL.len()] }
    }
}

impl std::fmt::Debug for FeatureSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter().map(Feature::name)).finish()
    }
}

impl FeatureSet {
    /// The set of the given features.
    pub fn of(features: &[Feature]) -> Self {
        let mut set = FeatureSet::default();
        features.iter().for_each(|&feature| set.insert(feature));
        set
    }

    /// Parses names separated by white space. An unknown name is an error.
    pub fn parse(names: &str) -> Result<Self, UnknownFeature> {
        let mut set = FeatureSet::default();
        for name in names.split_whitespace() {
            let mut known = false;
            for feature in Feature::by_name(name) {
                set.insert(feature);
                known = true;
            }
            if !known {
                return Err(UnknownFeature(name.to_string()));
            }
        }
        Ok(set)
    }

    /// What Ouzel's software CPU implements.
    pub fn software_cpu() -> Self {
        FeatureSet::parse(SOFTWARE_CPU).unwrap_or_default()
    }

    /// The bits of one word.
    pub fn word(&self, word: FeatureWord) -> u64 {
        self.words[word as usize]
    }

    /// The bits of one word that is a 32-bit CPUID register.
    pub fn register(&self, word: FeatureWord) -> u32 {
        self.word(word) as u32
    }

    /// Replaces one word. This is how an accelerator fills its set from the host's registers.
    pub fn set_word(&mut self, word: FeatureWord, bits: u64) {
        self.words[word as usize] = bits;
    }

    /// Whether the feature is in the set.
    pub fn has(&self, feature: Feature) -> bool {
        let info = feature.info();
        self.word(info.word) >> info.bit & 1 != 0
    }

    /// Adds a feature.
    pub fn insert(&mut self, feature: Feature) {
        let info = feature.info();
        self.words[info.word as usize] |= 1 << info.bit;
    }

    /// Removes a feature.
    pub fn remove(&mut self, feature: Feature) {
        let info = feature.info();
        self.words[info.word as usize] &= !(1 << info.bit);
    }

    /// Adds or removes a feature.
    pub fn assign(&mut self, feature: Feature, present: bool) {
        if present { self.insert(feature) } else { self.remove(feature) }
    }

    /// Features of `self` or `other`.
    pub fn union(&self, other: &FeatureSet) -> FeatureSet {
        self.combine(other, |a, b| a | b)
    }

    /// Features of both.
    pub fn intersection(&self, other: &FeatureSet) -> FeatureSet {
        self.combine(other, |a, b| a & b)
    }

    /// Features of `self` that `other` lacks.
    pub fn difference(&self, other: &FeatureSet) -> FeatureSet {
        self.combine(other, |a, b| a & !b)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// The named features of the set, in the table's order.
    pub fn iter(&self) -> impl Iterator<Item = Feature> + '_ {
        FEATURES.iter().map(|info| info.feature).filter(|&feature| self.has(feature))
    }

    fn combine(&self, other: &FeatureSet, operation: impl Fn(u64, u64) -> u64) -> FeatureSet {
        FeatureSet { words: std::array::from_fn(|i| operation(self.words[i], other.words[i])) }
    }
}

/// A name that stands for no feature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown CPU feature '{0}'")]
pub struct UnknownFeature(pub String);

/// See [`FeatureSet::software_cpu`]. A flag belongs here when crate `cpu` implements it, not before; AVX and what
/// belongs to it are taken out again by crate `cpu` on hosts without them.
const SOFTWARE_CPU: &str = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 ss \
    pni pclmulqdq ssse3 cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave rdrand hypervisor \
    fsgsbase bmi1 smep bmi2 erms invpcid rdseed adx smap clflushopt clwb sha-ni umip rdpid fsrm \
    avx avx2 fma f16c vaes vpclmulqdq \
    syscall nx mmxext pdpe1gb rdtscp lm lahf-lm abm xsaveopt xsavec xgetbv1 arat";

features! {
    Leaf1Edx = cpuid(0x1, None, Edx) {
        0 Fpu "fpu";
        1 Vme "vme";
        2 De "de";
        3 Pse "pse";
        4 Tsc "tsc";
        5 Msr "msr";
        6 Pae "pae";
        7 Mce "mce";
        8 Cx8 "cx8";
        9 Apic "apic";
        11 Sep "sep";
        12 Mtrr "mtrr";
        13 Pge "pge";
        14 Mca "mca";
        15 Cmov "cmov";
        16 Pat "pat";
        17 Pse36 "pse36";
        18 Pn "pn";
        19 Clflush "clflush";
        21 Ds "ds";
        22 Acpi "acpi";
        23 Mmx "mmx";
        24 Fxsr "fxsr";
        25 Sse "sse";
        26 Sse2 "sse2";
        27 Ss "ss";
        28 Ht "ht";
        29 Tm "tm";
        30 Ia64 "ia64";
        31 Pbe "pbe";
    }
    Leaf1Ecx = cpuid(0x1, None, Ecx) {
        0 Sse3 "pni" "sse3";
        1 Pclmulqdq "pclmulqdq" "pclmuldq";
        2 Dtes64 "dtes64";
        3 Monitor "monitor";
        4 DsCpl "ds-cpl" "ds_cpl";
        5 Vmx "vmx";
        6 Smx "smx";
        7 Est "est";
        8 Tm2 "tm2";
        9 Ssse3 "ssse3";
        10 Cid "cid";
        12 Fma "fma";
        13 Cx16 "cx16";
        14 Xtpr "xtpr";
        15 Pdcm "pdcm";
        17 Pcid "pcid";
        18 Dca "dca";
        19 Sse41 "sse4.1" "sse4-1" "sse4_1";
        20 Sse42 "sse4.2" "sse4-2" "sse4_2";
        21 X2apic "x2apic";
        22 Movbe "movbe";
        23 Popcnt "popcnt";
        24 TscDeadline "tsc-deadline";
        25 Aes "aes";
        26 Xsave "xsave";
        28 Avx "avx";
        29 F16c "f16c";
        30 Rdrand "rdrand";
        31 Hypervisor "hypervisor";
    }
    Leaf7Ebx = cpuid(0x7, Some(0), Ebx) {
        0 Fsgsbase "fsgsbase";
        1 TscAdjust "tsc-adjust" "tsc_adjust";
        2 Sgx "sgx";
        3 Bmi1 "bmi1";
        4 Hle "hle";
        5 Avx2 "avx2";
        7 Smep "smep";
        8 Bmi2 "bmi2";
        9 Erms "erms";
        10 Invpcid "invpcid";
        11 Rtm "rtm";
        14 Mpx "mpx";
        16 Avx512f "avx512f";
        17 Avx512dq "avx512dq";
        18 Rdseed "rdseed";
        19 Adx "adx";
        20 Smap "smap";
        21 Avx512ifma "avx512ifma";
        22 Pcommit "pcommit";
        23 Clflushopt "clflushopt";
        24 Clwb "clwb";
        25 IntelPt "intel-pt";
        26 Avx512pf "avx512pf";
        27 Avx512er "avx512er";
        28 Avx512cd "avx512cd";
        29 ShaNi "sha-ni";
        30 Avx512bw "avx512bw";
        31 Avx512vl "avx512vl";
    }
    Leaf7Ecx = cpuid(0x7, Some(0), Ecx) {
        1 Avx512vbmi "avx512vbmi";
        2 Umip "umip";
        3 Pku "pku";
        5 Waitpkg "waitpkg";
        6 Avx512vbmi2 "avx512vbmi2";
        8 Gfni "gfni";
        9 Vaes "vaes";
        10 Vpclmulqdq "vpclmulqdq";
        11 Avx512vnni "avx512vnni";
        12 Avx512bitalg "avx512bitalg";
        14 Avx512Vpopcntdq "avx512-vpopcntdq";
        16 La57 "la57";
        22 Rdpid "rdpid";
        24 BusLockDetect "bus-lock-detect";
        25 Cldemote "cldemote";
        27 Movdiri "movdiri";
        28 Movdir64b "movdir64b";
        30 Sgxlc "sgxlc";
        31 Pks "pks";
    }
    Leaf7Edx = cpuid(0x7, Some(0), Edx) {
        2 Avx5124vnniw "avx512-4vnniw";
        3 Avx5124fmaps "avx512-4fmaps";
        4 Fsrm "fsrm";
        8 Avx512Vp2intersect "avx512-vp2intersect";
        10 MdClear "md-clear";
        14 Serialize "serialize";
        16 TsxLdtrk "tsx-ldtrk";
        19 ArchLbr "arch-lbr";
        22 AmxBf16 "amx-bf16";
        23 Avx512Fp16 "avx512-fp16";
        24 AmxTile "amx-tile";
        25 AmxInt8 "amx-int8";
        26 SpecCtrl "spec-ctrl";
        27 Stibp "stibp";
        29 ArchCapabilities "arch-capabilities";
        30 CoreCapability "core-capability";
        31 Ssbd "ssbd";
    }
    Leaf7Sub1Eax = cpuid(0x7, Some(1), Eax) {
        4 AvxVnni "avx-vnni";
        5 Avx512Bf16 "avx512-bf16";
    }
    Extended1Edx = cpuid(0x80000001, None, Edx) {
        11 Syscall "syscall";
        20 Nx "nx" "xd";
        22 Mmxext "mmxext";
        25 FxsrOpt "fxsr-opt" "fxsr_opt" "ffxsr";
        26 Pdpe1gb "pdpe1gb";
        27 Rdtscp "rdtscp";
        29 LongMode "lm" "i64";
        30 ThreeDNowExt "3dnowext";
        31 ThreeDNow "3dnow";
    }
    Extended1Ecx = cpuid(0x80000001, None, Ecx) {
        0 LahfLm "lahf-lm" "lahf_lm";
        1 CmpLegacy "cmp-legacy" "cmp_legacy";
        2 Svm "svm";
        3 Extapic "extapic";
        4 Cr8legacy "cr8legacy";
        5 Abm "abm";
        6 Sse4a "sse4a";
        7 Misalignsse "misalignsse";
        8 ThreeDNowPrefetch "3dnowprefetch";
        9 Osvw "osvw";
        10 Ibs "ibs";
        11 Xop "xop";
        12 Skinit "skinit";
        13 Wdt "wdt";
        15 Lwp "lwp";
        16 Fma4 "fma4";
        17 Tce "tce";
        19 NodeidMsr "nodeid-msr" "nodeid_msr";
        21 Tbm "tbm";
        22 Topoext "topoext";
        23 PerfctrCore "perfctr-core" "perfctr_core";
        24 PerfctrNb "perfctr-nb" "perfctr_nb";
    }
    Extended7Edx = cpuid(0x80000007, None, Edx) {
        8 Invtsc "invtsc";
    }
    Extended8Ebx = cpuid(0x80000008, None, Ebx) {
        0 Clzero "clzero";
        2 Xsaveerptr "xsaveerptr";
        9 Wbnoinvd "wbnoinvd";
        12 Ibpb "ibpb";
        14 Ibrs "ibrs";
        15 AmdStibp "amd-stibp";
        24 AmdSsbd "amd-ssbd";
        25 VirtSsbd "virt-ssbd";
        26 AmdNoSsb "amd-no-ssb";
    }
    Centaur1Edx = cpuid(0xc0000001, None, Edx) {
        2 Xstore "xstore";
        3 XstoreEn "xstore-en";
        6 Xcrypt "xcrypt";
        7 XcryptEn "xcrypt-en";
        8 Ace2 "ace2";
        9 Ace2En "ace2-en";
        10 Phe "phe";
        11 PheEn "phe-en";
        12 Pmm "pmm";
        13 PmmEn "pmm-en";
    }
    KvmFeatures = cpuid(0x40000001, None, Eax) {
        0 Kvmclock "kvmclock";
        1 KvmNopiodelay "kvm-nopiodelay" "kvm_nopiodelay";
        2 KvmMmu "kvm-mmu" "kvm_mmu";
        3 Kvmclock2 "kvmclock";
        4 KvmAsyncpf "kvm-asyncpf" "kvm_asyncpf";
        5 KvmStealTime "kvm-steal-time" "kvm_steal_time";
        6 KvmPvEoi "kvm-pv-eoi" "kvm_pv_eoi";
        7 KvmPvUnhalt "kvm-pv-unhalt" "kvm_pv_unhalt";
        9 KvmPvTlbFlush "kvm-pv-tlb-flush";
        11 KvmPvIpi "kvm-pv-ipi";
        12 KvmPollControl "kvm-poll-control" "kvm_poll_control";
        13 KvmPvSchedYield "kvm-pv-sched-yield";
        14 KvmAsyncpfInt "kvm-asyncpf-int" "kvm_asyncpf_int";
        15 KvmMsiExtDestId "kvm-msi-ext-dest-id";
        24 KvmclockStableBit "kvmclock-stable-bit";
    }
    KvmHints = cpuid(0x40000001, None, Edx) {
        0 KvmHintDedicated "kvm-hint-dedicated";
    }
    SvmEdx = cpuid(0x8000000a, None, Edx) {
        0 Npt "npt";
        1 Lbrv "lbrv";
        2 SvmLock "svm-lock" "svm_lock";
        3 NripSave "nrip-save" "nrip_save";
        4 TscScale "tsc-scale" "tsc_scale";
        5 VmcbClean "vmcb-clean" "vmcb_clean";
        6 Flushbyasid "flushbyasid";
        7 Decodeassists "decodeassists";
        10 PauseFilter "pause-filter" "pause_filter";
        12 Pfthreshold "pfthreshold";
        13 Avic "avic";
        15 VVmsaveVmload "v-vmsave-vmload";
        16 Vgif "vgif";
        28 SvmeAddrChk "svme-addr-chk";
    }
    XsaveEax = cpuid(0xd, Some(1), Eax) {
        0 Xsaveopt "xsaveopt";
        1 Xsavec "xsavec";
        2 Xgetbv1 "xgetbv1";
        3 Xsaves "xsaves";
        4 Xfd "xfd";
    }
    Leaf6Eax = cpuid(0x6, None, Eax) {
        2 Arat "arat";
    }
    ArchCapabilities = msr(0x10a) {
        0 RdctlNo "rdctl-no";
        1 IbrsAll "ibrs-all";
        2 Rsba "rsba";
        3 SkipL1dflVmentry "skip-l1dfl-vmentry";
        4 SsbNo "ssb-no";
        5 MdsNo "mds-no";
        6 PschangeMcNo "pschange-mc-no";
        7 TsxCtrl "tsx-ctrl";
        8 TaaNo "taa-no";
    }
    CoreCapability = msr(0xcf) {
        5 SplitLockDetect "split-lock-detect";
    }
    PerfCapabilities = msr(0x345) {
        13 FullWidthWrite "full-width-write";
    }
    VmxProcessor = msr(0x48e) {
        2 VmxVintrPending "vmx-vintr-pending";
        3 VmxTscOffset "vmx-tsc-offset";
        7 VmxHltExit "vmx-hlt-exit";
        9 VmxInvlpgExit "vmx-invlpg-exit";
        10 VmxMwaitExit "vmx-mwait-exit";
        11 VmxRdpmcExit "vmx-rdpmc-exit";
        12 VmxRdtscExit "vmx-rdtsc-exit";
        15 VmxCr3LoadNoexit "vmx-cr3-load-noexit";
        16 VmxCr3StoreNoexit "vmx-cr3-store-noexit";
        19 VmxCr8LoadExit "vmx-cr8-load-exit";
        20 VmxCr8StoreExit "vmx-cr8-store-exit";
        21 VmxFlexpriority "vmx-flexpriority";
        22 VmxVnmiPending "vmx-vnmi-pending";
        23 VmxMovdrExit "vmx-movdr-exit";
        24 VmxIoExit "vmx-io-exit";
        25 VmxIoBitmap "vmx-io-bitmap";
        27 VmxMtf "vmx-mtf";
        28 VmxMsrBitmap "vmx-msr-bitmap";
        29 VmxMonitorExit "vmx-monitor-exit";
        30 VmxPauseExit "vmx-pause-exit";
        31 VmxSecondaryCtls "vmx-secondary-ctls";
    }
    VmxSecondary = msr(0x48b) {
        0 VmxApicvXapic "vmx-apicv-xapic";
        1 VmxEpt "vmx-ept";
        2 VmxDescExit "vmx-desc-exit";
        3 VmxRdtscpExit "vmx-rdtscp-exit";
        4 VmxApicvX2apic "vmx-apicv-x2apic";
        5 VmxVpid "vmx-vpid";
        6 VmxWbinvdExit "vmx-wbinvd-exit";
        7 VmxUnrestrictedGuest "vmx-unrestricted-guest";
        8 VmxApicvRegister "vmx-apicv-register";
        9 VmxApicvVid "vmx-apicv-vid";
        10 VmxPle "vmx-ple";
        11 VmxRdrandExit "vmx-rdrand-exit";
        12 VmxInvpcidExit "vmx-invpcid-exit";
        13 VmxVmfunc "vmx-vmfunc";
        14 VmxShadowVmcs "vmx-shadow-vmcs";
        15 VmxEnclsExit "vmx-encls-exit";
        16 VmxRdseedExit "vmx-rdseed-exit";
        17 VmxPml "vmx-pml";
        20 VmxXsaves "vmx-xsaves";
        25 VmxTscScaling "vmx-tsc-scaling";
    }
    VmxPin = msr(0x48d) {
        0 VmxIntrExit "vmx-intr-exit";
        3 VmxNmiExit "vmx-nmi-exit";
        5 VmxVnmi "vmx-vnmi";
        6 VmxPreemptionTimer "vmx-preemption-timer";
        7 VmxPostedIntr "vmx-posted-intr";
    }
    VmxExit = msr(0x48f) {
        2 VmxExitNosaveDebugctl "vmx-exit-nosave-debugctl";
        12 VmxExitLoadPerfGlobalCtrl "vmx-exit-load-perf-global-ctrl";
        15 VmxExitAckIntr "vmx-exit-ack-intr";
        18 VmxExitSavePat "vmx-exit-save-pat";
        19 VmxExitLoadPat "vmx-exit-load-pat";
        20 VmxExitSaveEfer "vmx-exit-save-efer";
        21 VmxExitLoadEfer "vmx-exit-load-efer";
        22 VmxExitSavePreemptionTimer "vmx-exit-save-preemption-timer";
        23 VmxExitClearBndcfgs "vmx-exit-clear-bndcfgs";
        25 VmxExitClearRtitCtl "vmx-exit-clear-rtit-ctl";
        29 VmxExitLoadPkrs "vmx-exit-load-pkrs";
    }
    VmxEntry = msr(0x490) {
        2 VmxEntryNoloadDebugctl "vmx-entry-noload-debugctl";
        9 VmxEntryIa32eMode "vmx-entry-ia32e-mode";
        13 VmxEntryLoadPerfGlobalCtrl "vmx-entry-load-perf-global-ctrl";
        14 VmxEntryLoadPat "vmx-entry-load-pat";
        15 VmxEntryLoadEfer "vmx-entry-load-efer";
        16 VmxEntryLoadBndcfgs "vmx-entry-load-bndcfgs";
        18 VmxEntryLoadRtitCtl "vmx-entry-load-rtit-ctl";
        22 VmxEntryLoadPkrs "vmx-entry-load-pkrs";
    }
    VmxMisc = msr(0x485) {
        5 VmxStoreLma "vmx-store-lma";
        6 VmxActivityHlt "vmx-activity-hlt";
        7 VmxActivityShutdown "vmx-activity-shutdown";
        8 VmxActivityWaitSipi "vmx-activity-wait-sipi";
        29 VmxVmwriteVmexitFields "vmx-vmwrite-vmexit-fields";
        30 VmxZeroLenInject "vmx-zero-len-inject";
    }
    VmxEptVpid = msr(0x48c) {
        0 VmxEptExeconly "vmx-ept-execonly";
        6 VmxPageWalk4 "vmx-page-walk-4";
        7 VmxPageWalk5 "vmx-page-walk-5";
        16 VmxEpt2mb "vmx-ept-2mb";
        17 VmxEpt1gb "vmx-ept-1gb";
        20 VmxInvept "vmx-invept";
        21 VmxEptad "vmx-eptad";
        22 VmxEptAdvancedExitinfo "vmx-ept-advanced-exitinfo";
        25 VmxInveptSingleContext "vmx-invept-single-context";
        26 VmxInveptAllContext "vmx-invept-all-context";
        32 VmxInvvpid "vmx-invvpid";
        40 VmxInvvpidSingleAddr "vmx-invvpid-single-addr";
        41 VmxInvvpidSingleContext "vmx-invept-single-context";
        42 VmxInvvpidAllContext "vmx-invvpid-all-context";
        43 VmxInveptSingleContextNoglobals "vmx-invept-single-context-noglobals";
    }
    VmxBasic = msr(0x480) {
        54 VmxInsOuts "vmx-ins-outs";
        55 VmxTrueCtls "vmx-true-ctls";
    }
    VmxFunctions = msr(0x491) {
        0 VmxEptpSwitching "vmx-eptp-switching";
    }
    Leaf14Ecx = cpuid(0x14, Some(0), Ecx) {
        31 IntelPtLip "intel-pt-lip";
    }
    SgxEax = cpuid(0x12, Some(0), Eax) {
        0 Sgx1 "sgx1";
        1 Sgx2 "sgx2";
    }
    SgxEbx = cpuid(0x12, Some(0), Ebx) {
        0 SgxExinfo "sgx-exinfo";
    }
    SgxSub1Eax = cpuid(0x12, Some(1), Eax) {
        1 SgxDebug "sgx-debug";
        2 SgxMode64 "sgx-mode64";
        4 SgxProvisionkey "sgx-provisionkey";
        5 SgxTokenkey "sgx-tokenkey";
        7 SgxKss "sgx-kss";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feature_table_is_in_the_order_of_the_enum_and_of_the_words() {
        for (index, info) in FEATURES.iter().enumerate() {
            assert_eq!(info.feature as usize, index);
            assert!(
                info.bit < if matches!(info.word.source(), Source::Msr(_)) { 64 } else { 32 },
                "{:?}",
                info.feature
            );
        }
        assert!(FEATURES.is_sorted_by_key(|info| (info.word, info.bit)));
    }

    #[test]
    fn feature_names_follow_qemus_aliases() {
        for name in ["sse4.2", "sse4-2", "sse4_2"] {
            assert_eq!(Feature::by_name(name).collect::<Vec<_>>(), [Feature::Sse42]);
        }
        assert_eq!(Feature::by_name("sse3").collect::<Vec<_>>(), [Feature::Sse3]);
        assert_eq!(Feature::by_name("i64").collect::<Vec<_>>(), [Feature::LongMode]);
        assert_eq!(Feature::by_name("kvmclock").count(), 2);
        assert_eq!(Feature::by_name("bogus").count(), 0);
    }

    #[test]
    fn software_cpu_names_are_all_known() {
        assert!(FeatureSet::parse(SOFTWARE_CPU).is_ok());
        assert!(FeatureSet::software_cpu().has(Feature::LongMode));
        assert!(FeatureSet::software_cpu().has(Feature::Avx2));
        assert!(!FeatureSet::software_cpu().has(Feature::Avx512f));
    }

    #[test]
    fn feature_set_operations_work_on_whole_words() {
        let a = FeatureSet::of(&[Feature::Sse, Feature::Vmx]);
        let b = FeatureSet::of(&[Feature::Sse, Feature::Nx]);
        assert_eq!(a.intersection(&b), FeatureSet::of(&[Feature::Sse]));
        assert_eq!(a.difference(&b), FeatureSet::of(&[Feature::Vmx]));
        assert_eq!(a.union(&b).iter().count(), 3);
        assert_eq!(FeatureSet::parse("sse nonsense"), Err(UnknownFeature("nonsense".into())));
    }
}
