//! The named CPU models of QEMU 7.2 with their versions: facts, compared with `query-cpu-model-expansion`.
//!
//! A version applies its changes on top of the version before it. `vme`, `acpi`, `monitor` and `svm` are as the model
//! has them; accelerators that lack them say so in their defaults.

use super::Vendor;
use super::cache::{Caches, DHYANA, EPYC, EPYC_MILAN, EPYC_ROME};

/// A model as the table has it.
pub(super) struct Definition {
    pub name: &'static str,
    pub vendor: Vendor,
    /// Family, model and stepping.
    pub signature: (u32, u32, u32),
    /// Highest basic CPUID leaf.
    pub level: u32,
    /// Highest extended CPUID leaf, 0 for none.
    pub extended_level: u32,
    pub caches: Caches,
    pub model_id: &'static str,
    pub features: &'static str,
    pub versions: &'static [Version],
}

/// What a version changes.
pub(super) struct Version {
    pub number: u32,
    /// A second name, or empty.
    pub alias: &'static str,
    /// What `-cpu help` adds to the model id.
    pub note: &'static str,
    pub model_id: Option<&'static str>,
    pub signature: Option<(u32, u32, u32)>,
    pub add: &'static str,
    pub remove: &'static str,
}

impl Version {
    const FIRST: Version =
        Version { number: 1, alias: "", note: "", model_id: None, signature: None, add: "", remove: "" };
}

#[rustfmt::skip]
pub(super) const MODELS: &[Definition] = &[
    Definition {
        name: "486",
        vendor: Vendor::Intel,
        signature: (4, 8, 0),
        level: 1,
        extended_level: 0x0,
        caches: Caches::Legacy,
        model_id: "",
        features: "fpu vme pse hypervisor",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "athlon",
        vendor: Vendor::Amd,
        signature: (6, 2, 3),
        level: 2,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "QEMU Virtual CPU version 2.5+",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 mmx fxsr sse sse2 \
            hypervisor mmxext 3dnowext 3dnow",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "Broadwell",
        vendor: Vendor::Intel,
        signature: (6, 61, 2),
        level: 13,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Intel Core Processor (Broadwell)",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx \
            f16c rdrand hypervisor fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm rdseed adx smap syscall \
            nx rdtscp lm lahf-lm abm 3dnowprefetch xsaveopt arat vmx-vintr-pending vmx-tsc-offset vmx-hlt-exit \
            vmx-invlpg-exit vmx-mwait-exit vmx-rdpmc-exit vmx-rdtsc-exit vmx-cr3-load-noexit \
            vmx-cr3-store-noexit vmx-cr8-load-exit vmx-cr8-store-exit vmx-flexpriority vmx-vnmi-pending \
            vmx-movdr-exit vmx-io-exit vmx-io-bitmap vmx-mtf vmx-msr-bitmap vmx-monitor-exit vmx-pause-exit \
            vmx-secondary-ctls vmx-apicv-xapic vmx-ept vmx-desc-exit vmx-rdtscp-exit vmx-apicv-x2apic vmx-vpid \
            vmx-wbinvd-exit vmx-unrestricted-guest vmx-apicv-register vmx-apicv-vid vmx-rdrand-exit \
            vmx-invpcid-exit vmx-vmfunc vmx-shadow-vmcs vmx-rdseed-exit vmx-pml vmx-intr-exit vmx-nmi-exit \
            vmx-vnmi vmx-preemption-timer vmx-posted-intr vmx-exit-nosave-debugctl \
            vmx-exit-load-perf-global-ctrl vmx-exit-ack-intr vmx-exit-save-pat vmx-exit-load-pat \
            vmx-exit-save-efer vmx-exit-load-efer vmx-exit-save-preemption-timer vmx-entry-noload-debugctl \
            vmx-entry-ia32e-mode vmx-entry-load-perf-global-ctrl vmx-entry-load-pat vmx-entry-load-efer \
            vmx-store-lma vmx-activity-hlt vmx-vmwrite-vmexit-fields vmx-ept-execonly vmx-page-walk-4 \
            vmx-ept-2mb vmx-ept-1gb vmx-invept vmx-eptad vmx-invept-single-context vmx-invept-all-context \
            vmx-invvpid vmx-invvpid-single-addr vmx-invvpid-all-context vmx-invept-single-context-noglobals \
            vmx-ins-outs vmx-true-ctls vmx-eptp-switching",
        versions: &[
            Version { number: 1, ..Version::FIRST },
            Version { number: 2, alias: "Broadwell-noTSX", model_id: Some("Intel Core Processor (Broadwell, no TSX)"), remove: "hle rtm", ..Version::FIRST },
            Version { number: 3, alias: "Broadwell-IBRS", model_id: Some("Intel Core Processor (Broadwell, IBRS)"), add: "hle rtm spec-ctrl", ..Version::FIRST },
            Version { number: 4, alias: "Broadwell-noTSX-IBRS", model_id: Some("Intel Core Processor (Broadwell, no TSX, IBRS)"), remove: "hle rtm", ..Version::FIRST },
        ],
    },
    Definition {
        name: "Cascadelake-Server",
        vendor: Vendor::Intel,
        signature: (6, 85, 6),
        level: 13,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Intel Xeon Processor (Cascadelake)",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx \
            f16c rdrand hypervisor fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm avx512f avx512dq rdseed \
            adx smap clflushopt clwb avx512cd avx512bw avx512vl pku avx512vnni spec-ctrl ssbd syscall nx \
            pdpe1gb rdtscp lm lahf-lm abm 3dnowprefetch xsaveopt xsavec xgetbv1 arat vmx-vintr-pending \
            vmx-tsc-offset vmx-hlt-exit vmx-invlpg-exit vmx-mwait-exit vmx-rdpmc-exit vmx-rdtsc-exit \
            vmx-cr3-load-noexit vmx-cr3-store-noexit vmx-cr8-load-exit vmx-cr8-store-exit vmx-flexpriority \
            vmx-vnmi-pending vmx-movdr-exit vmx-io-exit vmx-io-bitmap vmx-mtf vmx-msr-bitmap vmx-monitor-exit \
            vmx-pause-exit vmx-secondary-ctls vmx-apicv-xapic vmx-ept vmx-desc-exit vmx-rdtscp-exit \
            vmx-apicv-x2apic vmx-vpid vmx-wbinvd-exit vmx-unrestricted-guest vmx-apicv-register vmx-apicv-vid \
            vmx-rdrand-exit vmx-invpcid-exit vmx-vmfunc vmx-shadow-vmcs vmx-rdseed-exit vmx-pml vmx-intr-exit \
            vmx-nmi-exit vmx-vnmi vmx-preemption-timer vmx-posted-intr vmx-exit-nosave-debugctl \
            vmx-exit-load-perf-global-ctrl vmx-exit-ack-intr vmx-exit-save-pat vmx-exit-load-pat \
            vmx-exit-save-efer vmx-exit-load-efer vmx-exit-save-preemption-timer vmx-entry-noload-debugctl \
            vmx-entry-ia32e-mode vmx-entry-load-perf-global-ctrl vmx-entry-load-pat vmx-entry-load-efer \
            vmx-store-lma vmx-activity-hlt vmx-vmwrite-vmexit-fields vmx-ept-execonly vmx-page-walk-4 \
            vmx-ept-2mb vmx-ept-1gb vmx-invept vmx-eptad vmx-invept-single-context vmx-invept-all-context \
            vmx-invvpid vmx-invvpid-single-addr vmx-invvpid-all-context vmx-invept-single-context-noglobals \
            vmx-ins-outs vmx-true-ctls",
        versions: &[
            Version { number: 1, ..Version::FIRST },
            Version { number: 2, note: "[ARCH_CAPABILITIES]", add: "arch-capabilities rdctl-no ibrs-all skip-l1dfl-vmentry mds-no", ..Version::FIRST },
            Version { number: 3, alias: "Cascadelake-Server-noTSX", note: "[ARCH_CAPABILITIES, no TSX]", remove: "hle rtm", ..Version::FIRST },
            Version { number: 4, note: "[ARCH_CAPABILITIES, EPT switching, no TSX]", add: "vmx-eptp-switching", ..Version::FIRST },
            Version { number: 5, note: "[ARCH_CAPABILITIES, EPT switching, XSAVES, no TSX]", add: "xsaves vmx-xsaves", ..Version::FIRST },
        ],
    },
    Definition {
        name: "Conroe",
        vendor: Vendor::Intel,
        signature: (6, 15, 3),
        level: 10,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Intel Celeron_4x0 (Conroe/Merom Class Core 2)",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni ssse3 hypervisor syscall nx lm lahf-lm vmx-vintr-pending vmx-tsc-offset vmx-hlt-exit \
            vmx-invlpg-exit vmx-mwait-exit vmx-rdpmc-exit vmx-rdtsc-exit vmx-cr8-load-exit vmx-cr8-store-exit \
            vmx-flexpriority vmx-vnmi-pending vmx-movdr-exit vmx-io-exit vmx-io-bitmap vmx-msr-bitmap \
            vmx-monitor-exit vmx-pause-exit vmx-secondary-ctls vmx-apicv-xapic vmx-intr-exit vmx-nmi-exit \
            vmx-vnmi vmx-exit-ack-intr vmx-entry-ia32e-mode vmx-activity-hlt vmx-ins-outs",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "Cooperlake",
        vendor: Vendor::Intel,
        signature: (6, 85, 10),
        level: 13,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Intel Xeon Processor (Cooperlake)",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx \
            f16c rdrand hypervisor fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm avx512f avx512dq rdseed \
            adx smap clflushopt clwb avx512cd avx512bw avx512vl pku avx512vnni spec-ctrl stibp \
            arch-capabilities ssbd avx512-bf16 syscall nx pdpe1gb rdtscp lm lahf-lm abm 3dnowprefetch xsaveopt \
            xsavec xgetbv1 arat rdctl-no ibrs-all skip-l1dfl-vmentry mds-no pschange-mc-no taa-no \
            vmx-vintr-pending vmx-tsc-offset vmx-hlt-exit vmx-invlpg-exit vmx-mwait-exit vmx-rdpmc-exit \
            vmx-rdtsc-exit vmx-cr3-load-noexit vmx-cr3-store-noexit vmx-cr8-load-exit vmx-cr8-store-exit \
            vmx-flexpriority vmx-vnmi-pending vmx-movdr-exit vmx-io-exit vmx-io-bitmap vmx-mtf vmx-msr-bitmap \
            vmx-monitor-exit vmx-pause-exit vmx-secondary-ctls vmx-apicv-xapic vmx-ept vmx-desc-exit \
            vmx-rdtscp-exit vmx-apicv-x2apic vmx-vpid vmx-wbinvd-exit vmx-unrestricted-guest \
            vmx-apicv-register vmx-apicv-vid vmx-rdrand-exit vmx-invpcid-exit vmx-vmfunc vmx-shadow-vmcs \
            vmx-rdseed-exit vmx-pml vmx-intr-exit vmx-nmi-exit vmx-vnmi vmx-preemption-timer vmx-posted-intr \
            vmx-exit-nosave-debugctl vmx-exit-load-perf-global-ctrl vmx-exit-ack-intr vmx-exit-save-pat \
            vmx-exit-load-pat vmx-exit-save-efer vmx-exit-load-efer vmx-exit-save-preemption-timer \
            vmx-entry-noload-debugctl vmx-entry-ia32e-mode vmx-entry-load-perf-global-ctrl vmx-entry-load-pat \
            vmx-entry-load-efer vmx-store-lma vmx-activity-hlt vmx-vmwrite-vmexit-fields vmx-ept-execonly \
            vmx-page-walk-4 vmx-ept-2mb vmx-ept-1gb vmx-invept vmx-eptad vmx-invept-single-context \
            vmx-invept-all-context vmx-invvpid vmx-invvpid-single-addr vmx-invvpid-all-context \
            vmx-invept-single-context-noglobals vmx-ins-outs vmx-true-ctls vmx-eptp-switching",
        versions: &[
            Version { number: 1, ..Version::FIRST },
            Version { number: 2, note: "[XSAVES]", add: "xsaves vmx-xsaves", ..Version::FIRST },
        ],
    },
    Definition {
        name: "core2duo",
        vendor: Vendor::Intel,
        signature: (6, 15, 11),
        level: 10,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Intel(R) Core(TM)2 Duo CPU     T7700  @ 2.40GHz",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush acpi mmx fxsr sse \
            sse2 ss pni monitor ssse3 cx16 hypervisor syscall nx lm lahf-lm vmx-vintr-pending vmx-tsc-offset \
            vmx-hlt-exit vmx-invlpg-exit vmx-mwait-exit vmx-rdpmc-exit vmx-rdtsc-exit vmx-cr8-load-exit \
            vmx-cr8-store-exit vmx-flexpriority vmx-vnmi-pending vmx-movdr-exit vmx-io-exit vmx-io-bitmap \
            vmx-msr-bitmap vmx-monitor-exit vmx-pause-exit vmx-secondary-ctls vmx-apicv-xapic vmx-intr-exit \
            vmx-nmi-exit vmx-vnmi vmx-exit-ack-intr vmx-entry-ia32e-mode vmx-activity-hlt vmx-ins-outs",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "coreduo",
        vendor: Vendor::Intel,
        signature: (6, 14, 8),
        level: 10,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Genuine Intel(R) CPU           T2600  @ 2.16GHz",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat clflush acpi mmx fxsr sse sse2 \
            ss pni monitor hypervisor nx vmx-vintr-pending vmx-tsc-offset vmx-hlt-exit vmx-invlpg-exit \
            vmx-mwait-exit vmx-rdpmc-exit vmx-rdtsc-exit vmx-movdr-exit vmx-io-exit vmx-io-bitmap \
            vmx-msr-bitmap vmx-monitor-exit vmx-pause-exit vmx-intr-exit vmx-nmi-exit vmx-exit-ack-intr \
            vmx-activity-hlt",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "Denverton",
        vendor: Vendor::Intel,
        signature: (6, 95, 1),
        level: 21,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Intel Atom Processor (Denverton)",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni pclmulqdq monitor ssse3 cx16 sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave rdrand \
            hypervisor fsgsbase smep erms mpx rdseed smap clflushopt sha-ni spec-ctrl arch-capabilities ssbd \
            syscall nx pdpe1gb rdtscp lm lahf-lm 3dnowprefetch xsaveopt xsavec xgetbv1 arat rdctl-no \
            skip-l1dfl-vmentry vmx-vintr-pending vmx-tsc-offset vmx-hlt-exit vmx-invlpg-exit vmx-mwait-exit \
            vmx-rdpmc-exit vmx-rdtsc-exit vmx-cr3-load-noexit vmx-cr3-store-noexit vmx-cr8-load-exit \
            vmx-cr8-store-exit vmx-flexpriority vmx-vnmi-pending vmx-movdr-exit vmx-io-exit vmx-io-bitmap \
            vmx-mtf vmx-msr-bitmap vmx-monitor-exit vmx-pause-exit vmx-secondary-ctls vmx-apicv-xapic vmx-ept \
            vmx-desc-exit vmx-rdtscp-exit vmx-apicv-x2apic vmx-vpid vmx-wbinvd-exit vmx-unrestricted-guest \
            vmx-apicv-register vmx-apicv-vid vmx-rdrand-exit vmx-vmfunc vmx-shadow-vmcs vmx-rdseed-exit \
            vmx-pml vmx-intr-exit vmx-nmi-exit vmx-vnmi vmx-preemption-timer vmx-posted-intr \
            vmx-exit-nosave-debugctl vmx-exit-load-perf-global-ctrl vmx-exit-ack-intr vmx-exit-save-pat \
            vmx-exit-load-pat vmx-exit-save-efer vmx-exit-load-efer vmx-exit-save-preemption-timer \
            vmx-entry-noload-debugctl vmx-entry-ia32e-mode vmx-entry-load-perf-global-ctrl vmx-entry-load-pat \
            vmx-entry-load-efer vmx-store-lma vmx-activity-hlt vmx-vmwrite-vmexit-fields vmx-ept-execonly \
            vmx-page-walk-4 vmx-ept-2mb vmx-ept-1gb vmx-invept vmx-eptad vmx-invept-single-context \
            vmx-invept-all-context vmx-invvpid vmx-invvpid-single-addr vmx-invvpid-all-context \
            vmx-invept-single-context-noglobals vmx-ins-outs vmx-true-ctls vmx-eptp-switching",
        versions: &[
            Version { number: 1, ..Version::FIRST },
            Version { number: 2, note: "[no MPX, no MONITOR]", remove: "monitor mpx", ..Version::FIRST },
            Version { number: 3, note: "[XSAVES, no MPX, no MONITOR]", add: "xsaves vmx-xsaves", ..Version::FIRST },
        ],
    },
    Definition {
        name: "Dhyana",
        vendor: Vendor::Hygon,
        signature: (24, 0, 1),
        level: 13,
        extended_level: 0x8000001e,
        caches: Caches::Own(&DHYANA),
        model_id: "Hygon Dhyana Processor",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni monitor ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt xsave avx f16c rdrand hypervisor fsgsbase \
            bmi1 avx2 smep bmi2 rdseed adx smap clflushopt syscall nx mmxext fxsr-opt pdpe1gb rdtscp lm \
            lahf-lm svm cr8legacy abm sse4a misalignsse 3dnowprefetch osvw topoext ibpb npt nrip-save xsaveopt \
            xsavec xgetbv1 arat",
        versions: &[
            Version { number: 1, ..Version::FIRST },
            Version { number: 2, note: "[XSAVES]", add: "xsaves", ..Version::FIRST },
        ],
    },
    Definition {
        name: "EPYC",
        vendor: Vendor::Amd,
        signature: (23, 1, 2),
        level: 13,
        extended_level: 0x8000001e,
        caches: Caches::Own(&EPYC),
        model_id: "AMD EPYC Processor",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni pclmulqdq monitor ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt aes xsave avx f16c rdrand \
            hypervisor fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap clflushopt sha-ni syscall nx mmxext \
            fxsr-opt pdpe1gb rdtscp lm lahf-lm svm cr8legacy abm sse4a misalignsse 3dnowprefetch osvw topoext \
            npt nrip-save xsaveopt xsavec xgetbv1 arat",
        versions: &[
            Version { number: 1, ..Version::FIRST },
            Version { number: 2, alias: "EPYC-IBPB", model_id: Some("AMD EPYC Processor (with IBPB)"), add: "ibpb", ..Version::FIRST },
            Version { number: 3, model_id: Some("AMD EPYC Processor"), add: "perfctr-core clzero xsaveerptr xsaves", ..Version::FIRST },
        ],
    },
    Definition {
        name: "EPYC-Milan",
        vendor: Vendor::Amd,
        signature: (25, 1, 1),
        level: 13,
        extended_level: 0x8000001e,
        caches: Caches::Own(&EPYC_MILAN),
        model_id: "AMD EPYC-Milan Processor",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni pclmulqdq monitor ssse3 fma cx16 pcid sse4.1 sse4.2 movbe popcnt aes xsave avx f16c rdrand \
            hypervisor fsgsbase bmi1 avx2 smep bmi2 erms invpcid rdseed adx smap clflushopt clwb sha-ni umip \
            pku rdpid fsrm syscall nx mmxext fxsr-opt pdpe1gb rdtscp lm lahf-lm svm cr8legacy abm sse4a \
            misalignsse 3dnowprefetch osvw topoext perfctr-core clzero xsaveerptr wbnoinvd ibpb ibrs amd-stibp \
            amd-ssbd npt nrip-save svme-addr-chk xsaveopt xsavec xgetbv1 xsaves arat",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "EPYC-Rome",
        vendor: Vendor::Amd,
        signature: (23, 49, 0),
        level: 13,
        extended_level: 0x8000001e,
        caches: Caches::Own(&EPYC_ROME),
        model_id: "AMD EPYC-Rome Processor",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni pclmulqdq monitor ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt aes xsave avx f16c rdrand \
            hypervisor fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap clflushopt clwb sha-ni umip rdpid syscall \
            nx mmxext fxsr-opt pdpe1gb rdtscp lm lahf-lm svm cr8legacy abm sse4a misalignsse 3dnowprefetch \
            osvw topoext perfctr-core clzero xsaveerptr wbnoinvd ibpb amd-stibp npt nrip-save xsaveopt xsavec \
            xgetbv1 xsaves arat",
        versions: &[
            Version { number: 1, ..Version::FIRST },
            Version { number: 2, add: "ibrs amd-ssbd", ..Version::FIRST },
        ],
    },
    Definition {
        name: "Haswell",
        vendor: Vendor::Intel,
        signature: (6, 60, 4),
        level: 13,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Intel Core Processor (Haswell)",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx \
            f16c rdrand hypervisor fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm syscall nx rdtscp lm \
            lahf-lm abm xsaveopt arat vmx-vintr-pending vmx-tsc-offset vmx-hlt-exit vmx-invlpg-exit \
            vmx-mwait-exit vmx-rdpmc-exit vmx-rdtsc-exit vmx-cr3-load-noexit vmx-cr3-store-noexit \
            vmx-cr8-load-exit vmx-cr8-store-exit vmx-flexpriority vmx-vnmi-pending vmx-movdr-exit vmx-io-exit \
            vmx-io-bitmap vmx-mtf vmx-msr-bitmap vmx-monitor-exit vmx-pause-exit vmx-secondary-ctls \
            vmx-apicv-xapic vmx-ept vmx-desc-exit vmx-rdtscp-exit vmx-apicv-x2apic vmx-vpid vmx-wbinvd-exit \
            vmx-unrestricted-guest vmx-apicv-register vmx-apicv-vid vmx-rdrand-exit vmx-invpcid-exit \
            vmx-vmfunc vmx-shadow-vmcs vmx-intr-exit vmx-nmi-exit vmx-vnmi vmx-preemption-timer \
            vmx-posted-intr vmx-exit-nosave-debugctl vmx-exit-load-perf-global-ctrl vmx-exit-ack-intr \
            vmx-exit-save-pat vmx-exit-load-pat vmx-exit-save-efer vmx-exit-load-efer \
            vmx-exit-save-preemption-timer vmx-entry-noload-debugctl vmx-entry-ia32e-mode \
            vmx-entry-load-perf-global-ctrl vmx-entry-load-pat vmx-entry-load-efer vmx-store-lma \
            vmx-activity-hlt vmx-vmwrite-vmexit-fields vmx-ept-execonly vmx-page-walk-4 vmx-ept-2mb \
            vmx-ept-1gb vmx-invept vmx-eptad vmx-invept-single-context vmx-invept-all-context vmx-invvpid \
            vmx-invvpid-single-addr vmx-invvpid-all-context vmx-invept-single-context-noglobals vmx-ins-outs \
            vmx-true-ctls vmx-eptp-switching",
        versions: &[
            Version { number: 1, ..Version::FIRST },
            Version { number: 2, alias: "Haswell-noTSX", model_id: Some("Intel Core Processor (Haswell, no TSX)"), signature: Some((6, 60, 1)), remove: "hle rtm", ..Version::FIRST },
            Version { number: 3, alias: "Haswell-IBRS", model_id: Some("Intel Core Processor (Haswell, IBRS)"), signature: Some((6, 60, 4)), add: "hle rtm spec-ctrl", ..Version::FIRST },
            Version { number: 4, alias: "Haswell-noTSX-IBRS", model_id: Some("Intel Core Processor (Haswell, no TSX, IBRS)"), signature: Some((6, 60, 1)), remove: "hle rtm", ..Version::FIRST },
        ],
    },
    Definition {
        name: "Icelake-Server",
        vendor: Vendor::Intel,
        signature: (6, 134, 0),
        level: 13,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Intel Xeon Processor (Icelake)",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx \
            f16c rdrand hypervisor fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm avx512f avx512dq rdseed \
            adx smap clflushopt clwb avx512cd avx512bw avx512vl avx512vbmi umip pku avx512vbmi2 gfni vaes \
            vpclmulqdq avx512vnni avx512bitalg avx512-vpopcntdq la57 spec-ctrl ssbd syscall nx pdpe1gb rdtscp \
            lm lahf-lm abm 3dnowprefetch wbnoinvd xsaveopt xsavec xgetbv1 arat vmx-vintr-pending \
            vmx-tsc-offset vmx-hlt-exit vmx-invlpg-exit vmx-mwait-exit vmx-rdpmc-exit vmx-rdtsc-exit \
            vmx-cr3-load-noexit vmx-cr3-store-noexit vmx-cr8-load-exit vmx-cr8-store-exit vmx-flexpriority \
            vmx-vnmi-pending vmx-movdr-exit vmx-io-exit vmx-io-bitmap vmx-mtf vmx-msr-bitmap vmx-monitor-exit \
            vmx-pause-exit vmx-secondary-ctls vmx-apicv-xapic vmx-ept vmx-desc-exit vmx-rdtscp-exit \
            vmx-apicv-x2apic vmx-vpid vmx-wbinvd-exit vmx-unrestricted-guest vmx-apicv-register vmx-apicv-vid \
            vmx-rdrand-exit vmx-invpcid-exit vmx-vmfunc vmx-shadow-vmcs vmx-intr-exit vmx-nmi-exit vmx-vnmi \
            vmx-preemption-timer vmx-posted-intr vmx-exit-nosave-debugctl vmx-exit-load-perf-global-ctrl \
            vmx-exit-ack-intr vmx-exit-save-pat vmx-exit-load-pat vmx-exit-save-efer vmx-exit-load-efer \
            vmx-exit-save-preemption-timer vmx-entry-noload-debugctl vmx-entry-ia32e-mode \
            vmx-entry-load-perf-global-ctrl vmx-entry-load-pat vmx-entry-load-efer vmx-store-lma \
            vmx-activity-hlt vmx-vmwrite-vmexit-fields vmx-ept-execonly vmx-page-walk-4 vmx-ept-2mb \
            vmx-ept-1gb vmx-invept vmx-eptad vmx-invept-single-context vmx-invept-all-context vmx-invvpid \
            vmx-invvpid-single-addr vmx-invvpid-all-context vmx-invept-single-context-noglobals vmx-ins-outs \
            vmx-true-ctls",
        versions: &[
            Version { number: 1, ..Version::FIRST },
            Version { number: 2, alias: "Icelake-Server-noTSX", note: "[no TSX]", remove: "hle rtm", ..Version::FIRST },
            Version { number: 3, add: "arch-capabilities rdctl-no ibrs-all skip-l1dfl-vmentry mds-no pschange-mc-no taa-no", ..Version::FIRST },
            Version { number: 4, signature: Some((6, 106, 0)), add: "avx512ifma sha-ni rdpid fsrm vmx-rdseed-exit vmx-pml vmx-eptp-switching", ..Version::FIRST },
            Version { number: 5, note: "[XSAVES]", add: "xsaves vmx-xsaves", ..Version::FIRST },
            Version { number: 6, note: "[5-level EPT]", add: "vmx-page-walk-5", ..Version::FIRST },
        ],
    },
    Definition {
        name: "IvyBridge",
        vendor: Vendor::Intel,
        signature: (6, 58, 9),
        level: 13,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Intel Xeon E3-12xx v2 (Ivy Bridge)",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni pclmulqdq ssse3 cx16 sse4.1 sse4.2 x2apic popcnt tsc-deadline aes xsave avx f16c rdrand \
            hypervisor fsgsbase smep erms syscall nx rdtscp lm lahf-lm xsaveopt arat vmx-vintr-pending \
            vmx-tsc-offset vmx-hlt-exit vmx-invlpg-exit vmx-mwait-exit vmx-rdpmc-exit vmx-rdtsc-exit \
            vmx-cr3-load-noexit vmx-cr3-store-noexit vmx-cr8-load-exit vmx-cr8-store-exit vmx-flexpriority \
            vmx-vnmi-pending vmx-movdr-exit vmx-io-exit vmx-io-bitmap vmx-mtf vmx-msr-bitmap vmx-monitor-exit \
            vmx-pause-exit vmx-secondary-ctls vmx-apicv-xapic vmx-ept vmx-desc-exit vmx-rdtscp-exit \
            vmx-apicv-x2apic vmx-vpid vmx-wbinvd-exit vmx-unrestricted-guest vmx-apicv-register vmx-apicv-vid \
            vmx-rdrand-exit vmx-intr-exit vmx-nmi-exit vmx-vnmi vmx-preemption-timer vmx-posted-intr \
            vmx-exit-nosave-debugctl vmx-exit-load-perf-global-ctrl vmx-exit-ack-intr vmx-exit-save-pat \
            vmx-exit-load-pat vmx-exit-save-efer vmx-exit-load-efer vmx-exit-save-preemption-timer \
            vmx-entry-noload-debugctl vmx-entry-ia32e-mode vmx-entry-load-perf-global-ctrl vmx-entry-load-pat \
            vmx-entry-load-efer vmx-store-lma vmx-activity-hlt vmx-ept-execonly vmx-page-walk-4 vmx-ept-2mb \
            vmx-ept-1gb vmx-invept vmx-invept-single-context vmx-invept-all-context vmx-invvpid \
            vmx-invvpid-single-addr vmx-invvpid-all-context vmx-invept-single-context-noglobals vmx-ins-outs \
            vmx-true-ctls",
        versions: &[
            Version { number: 1, ..Version::FIRST },
            Version { number: 2, alias: "IvyBridge-IBRS", model_id: Some("Intel Xeon E3-12xx v2 (Ivy Bridge, IBRS)"), add: "spec-ctrl", ..Version::FIRST },
        ],
    },
    Definition {
        name: "KnightsMill",
        vendor: Vendor::Intel,
        signature: (6, 133, 0),
        level: 13,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Intel Xeon Phi Processor (Knights Mill)",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            ss pni pclmulqdq ssse3 fma cx16 sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx f16c \
            rdrand hypervisor fsgsbase bmi1 avx2 smep bmi2 erms avx512f rdseed adx avx512pf avx512er avx512cd \
            avx512-vpopcntdq avx512-4vnniw avx512-4fmaps syscall nx pdpe1gb rdtscp lm lahf-lm abm \
            3dnowprefetch xsaveopt arat",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "kvm32",
        vendor: Vendor::Intel,
        signature: (15, 6, 1),
        level: 5,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Common 32-bit KVM processor",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni hypervisor vmx-vintr-pending vmx-tsc-offset vmx-hlt-exit vmx-invlpg-exit vmx-mwait-exit \
            vmx-rdpmc-exit vmx-rdtsc-exit vmx-movdr-exit vmx-io-exit vmx-io-bitmap vmx-msr-bitmap \
            vmx-monitor-exit vmx-pause-exit vmx-intr-exit vmx-nmi-exit vmx-exit-ack-intr vmx-activity-hlt",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "kvm64",
        vendor: Vendor::Intel,
        signature: (15, 6, 1),
        level: 13,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Common KVM processor",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni cx16 hypervisor syscall nx lm vmx-vintr-pending vmx-tsc-offset vmx-hlt-exit vmx-invlpg-exit \
            vmx-mwait-exit vmx-rdpmc-exit vmx-rdtsc-exit vmx-cr8-load-exit vmx-cr8-store-exit vmx-flexpriority \
            vmx-movdr-exit vmx-io-exit vmx-io-bitmap vmx-monitor-exit vmx-pause-exit vmx-intr-exit \
            vmx-nmi-exit vmx-exit-ack-intr vmx-entry-ia32e-mode vmx-activity-hlt",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "n270",
        vendor: Vendor::Intel,
        signature: (6, 28, 2),
        level: 10,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Intel(R) Atom(TM) CPU N270   @ 1.60GHz",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat clflush acpi mmx fxsr sse sse2 \
            ss pni monitor ssse3 movbe hypervisor nx lahf-lm",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "Nehalem",
        vendor: Vendor::Intel,
        signature: (6, 26, 3),
        level: 11,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Intel Core i7 9xx (Nehalem Class Core i7)",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni ssse3 cx16 sse4.1 sse4.2 popcnt hypervisor syscall nx lm lahf-lm vmx-vintr-pending \
            vmx-tsc-offset vmx-hlt-exit vmx-invlpg-exit vmx-mwait-exit vmx-rdpmc-exit vmx-rdtsc-exit \
            vmx-cr3-load-noexit vmx-cr3-store-noexit vmx-cr8-load-exit vmx-cr8-store-exit vmx-flexpriority \
            vmx-vnmi-pending vmx-movdr-exit vmx-io-exit vmx-io-bitmap vmx-mtf vmx-msr-bitmap vmx-monitor-exit \
            vmx-pause-exit vmx-secondary-ctls vmx-apicv-xapic vmx-ept vmx-desc-exit vmx-apicv-x2apic vmx-vpid \
            vmx-wbinvd-exit vmx-intr-exit vmx-nmi-exit vmx-vnmi vmx-preemption-timer vmx-exit-nosave-debugctl \
            vmx-exit-load-perf-global-ctrl vmx-exit-ack-intr vmx-exit-save-pat vmx-exit-load-pat \
            vmx-exit-save-efer vmx-exit-load-efer vmx-exit-save-preemption-timer vmx-entry-noload-debugctl \
            vmx-entry-ia32e-mode vmx-entry-load-perf-global-ctrl vmx-entry-load-pat vmx-entry-load-efer \
            vmx-activity-hlt vmx-ept-execonly vmx-page-walk-4 vmx-ept-2mb vmx-ept-1gb vmx-invept \
            vmx-invept-single-context vmx-invept-all-context vmx-invvpid vmx-invvpid-single-addr \
            vmx-invvpid-all-context vmx-invept-single-context-noglobals vmx-ins-outs vmx-true-ctls",
        versions: &[
            Version { number: 1, ..Version::FIRST },
            Version { number: 2, alias: "Nehalem-IBRS", model_id: Some("Intel Core i7 9xx (Nehalem Core i7, IBRS update)"), add: "spec-ctrl", ..Version::FIRST },
        ],
    },
    Definition {
        name: "Opteron_G1",
        vendor: Vendor::Amd,
        signature: (15, 6, 1),
        level: 5,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "AMD Opteron 240 (Gen 1 Class Opteron)",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni hypervisor syscall nx lm",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "Opteron_G2",
        vendor: Vendor::Amd,
        signature: (15, 6, 1),
        level: 5,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "AMD Opteron 22xx (Gen 2 Class Opteron)",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni cx16 hypervisor syscall nx lm lahf-lm svm",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "Opteron_G3",
        vendor: Vendor::Amd,
        signature: (16, 2, 3),
        level: 5,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "AMD Opteron 23xx (Gen 3 Class Opteron)",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni monitor cx16 popcnt hypervisor syscall nx rdtscp lm lahf-lm svm abm sse4a misalignsse",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "Opteron_G4",
        vendor: Vendor::Amd,
        signature: (21, 1, 2),
        level: 13,
        extended_level: 0x8000001a,
        caches: Caches::Legacy,
        model_id: "AMD Opteron 62xx class CPU",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni pclmulqdq ssse3 cx16 sse4.1 sse4.2 popcnt aes xsave avx hypervisor syscall nx pdpe1gb rdtscp \
            lm lahf-lm svm abm sse4a misalignsse 3dnowprefetch xop fma4 npt nrip-save",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "Opteron_G5",
        vendor: Vendor::Amd,
        signature: (21, 2, 0),
        level: 13,
        extended_level: 0x8000001a,
        caches: Caches::Legacy,
        model_id: "AMD Opteron 63xx class CPU",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni pclmulqdq ssse3 fma cx16 sse4.1 sse4.2 popcnt aes xsave avx f16c hypervisor syscall nx pdpe1gb \
            rdtscp lm lahf-lm svm abm sse4a misalignsse 3dnowprefetch xop fma4 tbm npt nrip-save",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "Penryn",
        vendor: Vendor::Intel,
        signature: (6, 23, 3),
        level: 10,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Intel Core 2 Duo P9xxx (Penryn Class Core 2)",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni ssse3 cx16 sse4.1 hypervisor syscall nx lm lahf-lm vmx-vintr-pending vmx-tsc-offset \
            vmx-hlt-exit vmx-invlpg-exit vmx-mwait-exit vmx-rdpmc-exit vmx-rdtsc-exit vmx-cr8-load-exit \
            vmx-cr8-store-exit vmx-flexpriority vmx-vnmi-pending vmx-movdr-exit vmx-io-exit vmx-io-bitmap \
            vmx-msr-bitmap vmx-monitor-exit vmx-pause-exit vmx-secondary-ctls vmx-apicv-xapic vmx-wbinvd-exit \
            vmx-intr-exit vmx-nmi-exit vmx-vnmi vmx-exit-load-perf-global-ctrl vmx-exit-ack-intr \
            vmx-entry-ia32e-mode vmx-entry-load-perf-global-ctrl vmx-activity-hlt vmx-ins-outs",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "pentium",
        vendor: Vendor::Intel,
        signature: (5, 4, 3),
        level: 1,
        extended_level: 0x0,
        caches: Caches::Legacy,
        model_id: "",
        features: "fpu vme de pse tsc msr mce cx8 apic mmx hypervisor",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "pentium2",
        vendor: Vendor::Intel,
        signature: (6, 5, 2),
        level: 2,
        extended_level: 0x0,
        caches: Caches::Legacy,
        model_id: "",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 mmx fxsr hypervisor",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "pentium3",
        vendor: Vendor::Intel,
        signature: (6, 7, 3),
        level: 3,
        extended_level: 0x0,
        caches: Caches::Legacy,
        model_id: "",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 mmx fxsr sse hypervisor",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "phenom",
        vendor: Vendor::Amd,
        signature: (16, 2, 3),
        level: 5,
        extended_level: 0x8000001a,
        caches: Caches::Legacy,
        model_id: "AMD Phenom(tm) 9550 Quad-Core Processor",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni monitor cx16 popcnt hypervisor syscall nx mmxext fxsr-opt pdpe1gb rdtscp lm 3dnowext 3dnow \
            lahf-lm svm abm sse4a npt",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "qemu32",
        vendor: Vendor::Intel,
        signature: (6, 6, 3),
        level: 4,
        extended_level: 0x80000004,
        caches: Caches::Legacy,
        model_id: "QEMU Virtual CPU version 2.5+",
        features: "fpu de pse tsc msr pae mce cx8 apic sep pge cmov pat mmx fxsr sse sse2 pni hypervisor",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "qemu64",
        vendor: Vendor::Amd,
        signature: (15, 107, 1),
        level: 13,
        extended_level: 0x8000000a,
        caches: Caches::Legacy,
        model_id: "QEMU Virtual CPU version 2.5+",
        features: "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni \
            cx16 hypervisor syscall nx lm lahf-lm svm",
        versions: &[Version::FIRST],
    },
    Definition {
        name: "SandyBridge",
        vendor: Vendor::Intel,
        signature: (6, 42, 1),
        level: 13,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Intel Xeon E312xx (Sandy Bridge)",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni pclmulqdq ssse3 cx16 sse4.1 sse4.2 x2apic popcnt tsc-deadline aes xsave avx hypervisor syscall \
            nx rdtscp lm lahf-lm xsaveopt arat vmx-vintr-pending vmx-tsc-offset vmx-hlt-exit vmx-invlpg-exit \
            vmx-mwait-exit vmx-rdpmc-exit vmx-rdtsc-exit vmx-cr3-load-noexit vmx-cr3-store-noexit \
            vmx-cr8-load-exit vmx-cr8-store-exit vmx-flexpriority vmx-vnmi-pending vmx-movdr-exit vmx-io-exit \
            vmx-io-bitmap vmx-mtf vmx-msr-bitmap vmx-monitor-exit vmx-pause-exit vmx-secondary-ctls \
            vmx-apicv-xapic vmx-ept vmx-desc-exit vmx-rdtscp-exit vmx-apicv-x2apic vmx-vpid vmx-wbinvd-exit \
            vmx-unrestricted-guest vmx-intr-exit vmx-nmi-exit vmx-vnmi vmx-preemption-timer \
            vmx-exit-nosave-debugctl vmx-exit-load-perf-global-ctrl vmx-exit-ack-intr vmx-exit-save-pat \
            vmx-exit-load-pat vmx-exit-save-efer vmx-exit-load-efer vmx-exit-save-preemption-timer \
            vmx-entry-noload-debugctl vmx-entry-ia32e-mode vmx-entry-load-perf-global-ctrl vmx-entry-load-pat \
            vmx-entry-load-efer vmx-store-lma vmx-activity-hlt vmx-ept-execonly vmx-page-walk-4 vmx-ept-2mb \
            vmx-ept-1gb vmx-invept vmx-invept-single-context vmx-invept-all-context vmx-invvpid \
            vmx-invvpid-single-addr vmx-invvpid-all-context vmx-invept-single-context-noglobals vmx-ins-outs \
            vmx-true-ctls",
        versions: &[
            Version { number: 1, ..Version::FIRST },
            Version { number: 2, alias: "SandyBridge-IBRS", model_id: Some("Intel Xeon E312xx (Sandy Bridge, IBRS update)"), add: "spec-ctrl", ..Version::FIRST },
        ],
    },
    Definition {
        name: "Skylake-Client",
        vendor: Vendor::Intel,
        signature: (6, 94, 3),
        level: 13,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Intel Core Processor (Skylake)",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx \
            f16c rdrand hypervisor fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm rdseed adx smap syscall \
            nx rdtscp lm lahf-lm abm 3dnowprefetch xsaveopt xsavec xgetbv1 arat vmx-vintr-pending \
            vmx-tsc-offset vmx-hlt-exit vmx-invlpg-exit vmx-mwait-exit vmx-rdpmc-exit vmx-rdtsc-exit \
            vmx-cr3-load-noexit vmx-cr3-store-noexit vmx-cr8-load-exit vmx-cr8-store-exit vmx-flexpriority \
            vmx-vnmi-pending vmx-movdr-exit vmx-io-exit vmx-io-bitmap vmx-mtf vmx-msr-bitmap vmx-monitor-exit \
            vmx-pause-exit vmx-secondary-ctls vmx-apicv-xapic vmx-ept vmx-desc-exit vmx-rdtscp-exit vmx-vpid \
            vmx-wbinvd-exit vmx-unrestricted-guest vmx-rdrand-exit vmx-invpcid-exit vmx-vmfunc vmx-shadow-vmcs \
            vmx-rdseed-exit vmx-pml vmx-intr-exit vmx-nmi-exit vmx-vnmi vmx-preemption-timer \
            vmx-exit-nosave-debugctl vmx-exit-load-perf-global-ctrl vmx-exit-ack-intr vmx-exit-save-pat \
            vmx-exit-load-pat vmx-exit-save-efer vmx-exit-load-efer vmx-exit-save-preemption-timer \
            vmx-entry-noload-debugctl vmx-entry-ia32e-mode vmx-entry-load-perf-global-ctrl vmx-entry-load-pat \
            vmx-entry-load-efer vmx-store-lma vmx-activity-hlt vmx-vmwrite-vmexit-fields vmx-ept-execonly \
            vmx-page-walk-4 vmx-ept-2mb vmx-ept-1gb vmx-invept vmx-eptad vmx-invept-single-context \
            vmx-invept-all-context vmx-invvpid vmx-invvpid-single-addr vmx-invvpid-all-context \
            vmx-invept-single-context-noglobals vmx-ins-outs vmx-true-ctls vmx-eptp-switching",
        versions: &[
            Version { number: 1, ..Version::FIRST },
            Version { number: 2, alias: "Skylake-Client-IBRS", model_id: Some("Intel Core Processor (Skylake, IBRS)"), add: "spec-ctrl", ..Version::FIRST },
            Version { number: 3, alias: "Skylake-Client-noTSX-IBRS", model_id: Some("Intel Core Processor (Skylake, IBRS, no TSX)"), remove: "hle rtm", ..Version::FIRST },
            Version { number: 4, note: "[IBRS, XSAVES, no TSX]", add: "xsaves vmx-xsaves", ..Version::FIRST },
        ],
    },
    Definition {
        name: "Skylake-Server",
        vendor: Vendor::Intel,
        signature: (6, 85, 4),
        level: 13,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Intel Xeon Processor (Skylake)",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx \
            f16c rdrand hypervisor fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm avx512f avx512dq rdseed \
            adx smap clflushopt clwb avx512cd avx512bw avx512vl pku syscall nx pdpe1gb rdtscp lm lahf-lm abm \
            3dnowprefetch xsaveopt xsavec xgetbv1 arat vmx-vintr-pending vmx-tsc-offset vmx-hlt-exit \
            vmx-invlpg-exit vmx-mwait-exit vmx-rdpmc-exit vmx-rdtsc-exit vmx-cr3-load-noexit \
            vmx-cr3-store-noexit vmx-cr8-load-exit vmx-cr8-store-exit vmx-flexpriority vmx-vnmi-pending \
            vmx-movdr-exit vmx-io-exit vmx-io-bitmap vmx-mtf vmx-msr-bitmap vmx-monitor-exit vmx-pause-exit \
            vmx-secondary-ctls vmx-apicv-xapic vmx-ept vmx-desc-exit vmx-rdtscp-exit vmx-apicv-x2apic vmx-vpid \
            vmx-wbinvd-exit vmx-unrestricted-guest vmx-apicv-register vmx-apicv-vid vmx-rdrand-exit \
            vmx-invpcid-exit vmx-vmfunc vmx-shadow-vmcs vmx-rdseed-exit vmx-pml vmx-intr-exit vmx-nmi-exit \
            vmx-vnmi vmx-preemption-timer vmx-posted-intr vmx-exit-nosave-debugctl \
            vmx-exit-load-perf-global-ctrl vmx-exit-ack-intr vmx-exit-save-pat vmx-exit-load-pat \
            vmx-exit-save-efer vmx-exit-load-efer vmx-exit-save-preemption-timer vmx-entry-noload-debugctl \
            vmx-entry-ia32e-mode vmx-entry-load-perf-global-ctrl vmx-entry-load-pat vmx-entry-load-efer \
            vmx-store-lma vmx-activity-hlt vmx-vmwrite-vmexit-fields vmx-ept-execonly vmx-page-walk-4 \
            vmx-ept-2mb vmx-ept-1gb vmx-invept vmx-eptad vmx-invept-single-context vmx-invept-all-context \
            vmx-invvpid vmx-invvpid-single-addr vmx-invvpid-all-context vmx-invept-single-context-noglobals \
            vmx-ins-outs vmx-true-ctls",
        versions: &[
            Version { number: 1, ..Version::FIRST },
            Version { number: 2, alias: "Skylake-Server-IBRS", model_id: Some("Intel Xeon Processor (Skylake, IBRS)"), add: "spec-ctrl", remove: "clflushopt", ..Version::FIRST },
            Version { number: 3, alias: "Skylake-Server-noTSX-IBRS", model_id: Some("Intel Xeon Processor (Skylake, IBRS, no TSX)"), remove: "hle rtm", ..Version::FIRST },
            Version { number: 4, note: "[IBRS, EPT switching, no TSX]", add: "vmx-eptp-switching", ..Version::FIRST },
            Version { number: 5, note: "[IBRS, XSAVES, EPT switching, no TSX]", add: "xsaves vmx-xsaves", ..Version::FIRST },
        ],
    },
    Definition {
        name: "Snowridge",
        vendor: Vendor::Intel,
        signature: (6, 134, 1),
        level: 27,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Intel Atom Processor (SnowRidge)",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni pclmulqdq monitor ssse3 cx16 sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave rdrand \
            hypervisor fsgsbase smep erms mpx rdseed smap clflushopt clwb sha-ni umip gfni cldemote movdiri \
            movdir64b spec-ctrl arch-capabilities core-capability ssbd syscall nx pdpe1gb rdtscp lm lahf-lm \
            3dnowprefetch xsaveopt xsavec xgetbv1 arat split-lock-detect vmx-vintr-pending vmx-tsc-offset \
            vmx-hlt-exit vmx-invlpg-exit vmx-mwait-exit vmx-rdpmc-exit vmx-rdtsc-exit vmx-cr3-load-noexit \
            vmx-cr3-store-noexit vmx-cr8-load-exit vmx-cr8-store-exit vmx-flexpriority vmx-vnmi-pending \
            vmx-movdr-exit vmx-io-exit vmx-io-bitmap vmx-mtf vmx-msr-bitmap vmx-monitor-exit vmx-pause-exit \
            vmx-secondary-ctls vmx-apicv-xapic vmx-ept vmx-desc-exit vmx-rdtscp-exit vmx-apicv-x2apic vmx-vpid \
            vmx-wbinvd-exit vmx-unrestricted-guest vmx-apicv-register vmx-apicv-vid vmx-rdrand-exit vmx-vmfunc \
            vmx-shadow-vmcs vmx-rdseed-exit vmx-pml vmx-intr-exit vmx-nmi-exit vmx-vnmi vmx-preemption-timer \
            vmx-posted-intr vmx-exit-nosave-debugctl vmx-exit-load-perf-global-ctrl vmx-exit-ack-intr \
            vmx-exit-save-pat vmx-exit-load-pat vmx-exit-save-efer vmx-exit-load-efer \
            vmx-exit-save-preemption-timer vmx-entry-noload-debugctl vmx-entry-ia32e-mode \
            vmx-entry-load-perf-global-ctrl vmx-entry-load-pat vmx-entry-load-efer vmx-store-lma \
            vmx-activity-hlt vmx-vmwrite-vmexit-fields vmx-ept-execonly vmx-page-walk-4 vmx-ept-2mb \
            vmx-ept-1gb vmx-invept vmx-eptad vmx-invept-single-context vmx-invept-all-context vmx-invvpid \
            vmx-invvpid-single-addr vmx-invvpid-all-context vmx-invept-single-context-noglobals vmx-ins-outs \
            vmx-true-ctls vmx-eptp-switching",
        versions: &[
            Version { number: 1, ..Version::FIRST },
            Version { number: 2, model_id: Some("Intel Atom Processor (Snowridge, no MPX)"), remove: "mpx", ..Version::FIRST },
            Version { number: 3, note: "[XSAVES, no MPX]", add: "xsaves vmx-xsaves", ..Version::FIRST },
            Version { number: 4, note: "[no split lock detect, no core-capability]", remove: "core-capability split-lock-detect", ..Version::FIRST },
        ],
    },
    Definition {
        name: "Westmere",
        vendor: Vendor::Intel,
        signature: (6, 44, 1),
        level: 11,
        extended_level: 0x80000008,
        caches: Caches::Legacy,
        model_id: "Westmere E56xx/L56xx/X56xx (Nehalem-C)",
        features: "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 \
            pni pclmulqdq ssse3 cx16 sse4.1 sse4.2 popcnt aes hypervisor syscall nx lm lahf-lm arat \
            vmx-vintr-pending vmx-tsc-offset vmx-hlt-exit vmx-invlpg-exit vmx-mwait-exit vmx-rdpmc-exit \
            vmx-rdtsc-exit vmx-cr3-load-noexit vmx-cr3-store-noexit vmx-cr8-load-exit vmx-cr8-store-exit \
            vmx-flexpriority vmx-vnmi-pending vmx-movdr-exit vmx-io-exit vmx-io-bitmap vmx-mtf vmx-msr-bitmap \
            vmx-monitor-exit vmx-pause-exit vmx-secondary-ctls vmx-apicv-xapic vmx-ept vmx-desc-exit \
            vmx-apicv-x2apic vmx-vpid vmx-wbinvd-exit vmx-unrestricted-guest vmx-intr-exit vmx-nmi-exit \
            vmx-vnmi vmx-preemption-timer vmx-exit-nosave-debugctl vmx-exit-load-perf-global-ctrl \
            vmx-exit-ack-intr vmx-exit-save-pat vmx-exit-load-pat vmx-exit-save-efer vmx-exit-load-efer \
            vmx-exit-save-preemption-timer vmx-entry-noload-debugctl vmx-entry-ia32e-mode \
            vmx-entry-load-perf-global-ctrl vmx-entry-load-pat vmx-entry-load-efer vmx-store-lma \
            vmx-activity-hlt vmx-ept-execonly vmx-page-walk-4 vmx-ept-2mb vmx-ept-1gb vmx-invept \
            vmx-invept-single-context vmx-invept-all-context vmx-invvpid vmx-invvpid-single-addr \
            vmx-invvpid-all-context vmx-invept-single-context-noglobals vmx-ins-outs vmx-true-ctls",
        versions: &[
            Version { number: 1, ..Version::FIRST },
            Version { number: 2, alias: "Westmere-IBRS", model_id: Some("Westmere E56xx/L56xx/X56xx (IBRS update)"), add: "spec-ctrl", ..Version::FIRST },
        ],
    },
];
