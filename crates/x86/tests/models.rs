//! The `-cpu` argument: names, changes, warnings and error texts, as QEMU 7.2 has them.

use x86::cpuid::{Feature, FeatureSet, Vendor};
use x86::model::{Accelerator, CpuModel, Host, KVM_DEFAULTS, MachineVersion, ModelError, NEWEST, Topology};

fn parse(argument: &str) -> Result<(CpuModel, Vec<String>), ModelError> {
    CpuModel::parse(argument, &Host::software())
}

fn error(argument: &str) -> String {
    parse(argument).expect_err(argument).to_string()
}

fn kvm() -> Host {
    let mut supported = FeatureSet::software_cpu();
    for feature in [Feature::Kvmclock, Feature::Vmx, Feature::VmxHltExit, Feature::Invtsc] {
        supported.insert(feature);
    }
    Host { accelerator: Accelerator::Kvm, supported, defaults: KVM_DEFAULTS, ..Host::software() }
}

#[test]
fn every_listed_model_parses_and_its_features_are_known() {
    let list = CpuModel::list(NEWEST);
    assert_eq!(list.len(), 132);
    let mut everything = kvm();
    for info in x86::cpuid::FEATURES {
        everything.supported.insert(info.feature);
    }
    for entry in &list {
        let (model, warnings) = CpuModel::parse(&entry.name, &everything).expect(&entry.name);
        assert_eq!(warnings, Vec::<String>::new(), "{}", entry.name);
        assert!(entry.name == "base" || model.features().has(Feature::Fpu), "{}", entry.name);
    }
}

#[test]
fn alias_is_the_version_that_it_stands_for() {
    let features = |name| parse(name).expect(name).0.build_features();
    assert_eq!(features("EPYC-IBPB"), features("EPYC-v2"));
    assert_eq!(features("Haswell"), features("Haswell-v1"));
    assert_eq!(parse("Haswell-noTSX").expect("a model").0.identity().stepping, 1);
    assert_eq!(error("Haswell-v5"), "unable to find CPU model 'Haswell-v5'");
    assert_eq!(error("Haswell-v01"), "unable to find CPU model 'Haswell-v01'");
}

trait BuildFeatures {
    fn build_features(&self) -> (FeatureSet, FeatureSet);
}

impl BuildFeatures for CpuModel {
    fn build_features(&self) -> (FeatureSet, FeatureSet) {
        (self.features().clone(), self.unavailable().clone())
    }
}

#[test]
fn errors_have_qemus_texts() {
    let global = |setting: &str, reason: &str| format!("can't apply global qemu64-x86_64-cpu.{setting}: {reason}");
    let not_found = "Property 'qemu64-x86_64-cpu.foo' not found";
    for (argument, expected) in [
        ("", "-cpu option cannot be empty".to_string()),
        ("nope", "unable to find CPU model 'nope'".to_string()),
        ("host", "CPU model 'host' requires KVM or HVF".to_string()),
        ("qemu64,+foo", not_found.to_string()),
        ("qemu64,-foo", not_found.to_string()),
        ("qemu64,foo=1", global("foo=1", not_found)),
        ("qemu64,=on", global("=on", "Property 'qemu64-x86_64-cpu.' not found")),
        ("qemu64,family=zz", global("family=zz", "Parameter 'family' expects int64")),
        (
            "qemu64,family=0x10000",
            global("family=0x10000", "Property .family doesn't take value 65536 (minimum: 0, maximum: 270)"),
        ),
        ("qemu64,model=300", global("model=300", "Property .model doesn't take value 300 (minimum: 0, maximum: 255)")),
        ("qemu64,vendor=abc", global("vendor=abc", "Property '.vendor' doesn't take value 'abc'")),
        ("qemu64,vmx=maybe", global("vmx=maybe", "Parameter 'vmx' expects 'on' or 'off'")),
        ("qemu64,check=maybe", global("check=maybe", "Parameter 'check' expects 'on' or 'off'")),
        ("qemu64,level=abc", global("level=abc", "Parameter 'level' expects uint64")),
        ("qemu64,level=-1", global("level=-1", "Parameter 'level' expects uint32_t")),
        ("qemu64,tsc-frequency=1G", global("tsc-frequency=1G", "Parameter 'tsc-frequency' expects int64")),
        ("qemu64,phys-bits=80", "phys-bits should be between 32 and 52  (but is 80)".to_string()),
        ("qemu64,migratable=no", global("migratable=no", "Property 'qemu64-x86_64-cpu.migratable' not found")),
        ("qemu64,enforce,+vmx", "TCG doesn't support requested features".to_string()),
    ] {
        assert_eq!(error(argument), expected);
    }
}

#[test]
fn check_warns_of_each_missing_feature_and_drops_it() {
    let (model, warnings) = parse("qemu64,+vmx,+avx512f,+arat").expect("a model");
    assert_eq!(
        warnings,
        [
            "TCG doesn't support requested feature: CPUID.01H:ECX.vmx [bit 5]",
            "TCG doesn't support requested feature: CPUID.07H:EBX.avx512f [bit 16]",
        ]
    );
    assert!(!model.features().has(Feature::Vmx) && model.unavailable().has(Feature::Vmx));
    assert!(model.features().has(Feature::Arat));
    assert_eq!(parse("qemu64,+vmx,check=off").expect("a model").1, Vec::<String>::new());
}

#[test]
fn default_models_of_the_software_cpu_give_no_warnings() {
    for name in ["qemu64", "qemu32", "kvm64", "kvm32", "max", "base", "486", "pentium3", "Conroe"] {
        assert_eq!(parse(name).expect(name).1, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn enforce_lists_what_is_missing() {
    let Err(ModelError::Enforce { warnings, .. }) = parse("qemu64,enforce,+vmx") else { panic!("not refused") };
    assert_eq!(warnings, ["TCG doesn't support requested feature: CPUID.01H:ECX.vmx [bit 5]"]);
}

#[test]
fn minus_wins_over_plus_and_plus_over_settings() {
    let has = |argument: &str| parse(argument).expect(argument).0.features().has(Feature::Sse42);
    assert!(!has("qemu64"));
    assert!(has("qemu64,sse4.2"));
    assert!(has("qemu64,+sse4_2,sse4-2=off"));
    assert!(!has("qemu64,-sse4_2,+sse4.2,sse4.2=on"));
    let warnings = parse("qemu64,+sse4.2,sse4.2=off").expect("a model").1;
    assert_eq!(warnings[0], "Ambiguous CPU model string. Don't mix both \"+sse4.2\" and \"sse4.2=off\"");
}

#[test]
fn feature_without_its_base_is_dropped_with_a_warning() {
    let (model, warnings) = parse("qemu64,vmx-hlt-exit").expect("a model");
    assert_eq!(
        warnings,
        ["This feature depends on other features that were not requested: MSR(48EH).vmx-hlt-exit [bit 7]"]
    );
    assert!(!model.features().has(Feature::VmxHltExit));
    let nested = CpuModel::parse("Haswell,+vmx,check=off", &kvm()).expect("a model").0;
    assert!(nested.features().has(Feature::VmxHltExit));
}

#[test]
fn identity_settings_replace_the_models() {
    let argument = "max,vendor=GenuineIntel,family=6,model=0x3f,stepping=2,model-id=A CPU,level=5,xlevel=0x80000004,\
        tsc-freq=2.5G,phys-bits=46,ucode-rev=0x100000000";
    let (model, _) = parse(argument).expect("a model");
    let identity = model.identity();
    assert_eq!((identity.vendor, identity.family, identity.model, identity.stepping), (Vendor::Intel, 6, 63, 2));
    assert_eq!((identity.model_id.as_str(), identity.level, identity.extended_level), ("A CPU", 5, 0x8000_0004));
    assert_eq!((model.tsc_frequency(), model.physical_bits()), (Some(2_500_000_000), 46));
    assert_eq!(model.microcode_revision(), 1 << 32);
    assert_eq!(model.type_name(), "max-x86_64-cpu");
}

#[test]
fn levels_rise_with_the_features_unless_they_are_given() {
    let levels = |argument: &str| {
        let model = parse(argument).expect(argument).0;
        (model.identity().level, model.identity().extended_level)
    };
    assert_eq!(levels("486"), (1, 0));
    assert_eq!(levels("486,smep,nx"), (7, 0x8000_0001));
    assert_eq!(levels("486,smep,level=3"), (3, 0));
    assert_eq!(levels("pentium3,arat,full-cpuid-auto-level=off"), (3, 0));
    assert_eq!(levels("486,spec-ctrl,check=off"), (1, 0));
    // Also where the feature means nothing without another one.
    assert_eq!(levels("phenom,xsaveopt").0, 0xd);
}

#[test]
fn dies_raise_the_level_of_intels_processors_unless_it_is_given() {
    let topology = Topology { sockets: 1, dies: 2, cores: 1, threads: 1 };
    let level = |version: MachineVersion, argument: &str| {
        let model = CpuModel::parse_for(version, argument, &Host::software()).expect(argument).0;
        model.build(topology, 0).get(0, 0).eax
    };
    assert_eq!(level(NEWEST, "Haswell"), 0x1f);
    assert_eq!(level(NEWEST, "Haswell,level=0xd"), 0xd);
    assert_eq!(level((2, 7), "Haswell"), 0xd);
    assert_eq!((level(NEWEST, "qemu64"), level((6, 0), "qemu64")), (0xd, 0x1f));
}

#[test]
fn older_machine_types_keep_their_processors() {
    let model = |version, argument: &str| CpuModel::parse_for(version, argument, &Host::software()).expect(argument).0;
    for (version, argument, levels) in [
        ((2, 8), "486,arat,3dnow,xstore", (6, 0x8000_0001)),
        ((2, 7), "486,arat,avx512vbmi,xsaveopt,3dnow,sse4a,invtsc,npt,svm,xstore", (1, 0)),
        ((1, 4), "Nehalem", (2, 0x8000_000a)),
        ((1, 4), "Nehalem,smap", (7, 0x8000_000a)),
        ((2, 3), "Penryn", (4, 0x8000_000a)),
        ((2, 3), "Penryn,erms", (7, 0x8000_000a)),
        ((2, 3), "Penryn-v1", (10, 0x8000_0008)),
        ((2, 4), "SandyBridge,svm,npt", (13, 0x8000_0008)),
        ((2, 9), "Conroe,erms", (10, 0x8000_0008)),
        ((2, 12), "EPYC", (13, 0x8000_000a)),
        ((2, 12), "EPYC,xlevel=0x80000001", (13, 0x8000_0001)),
    ] {
        let identity = model(version, argument).identity().clone();
        assert_eq!((identity.level, identity.extended_level), levels, "{argument} of {version:?}");
    }
    let of_qemu64 = |version| {
        let identity = model(version, "qemu64").identity().clone();
        ((identity.family, identity.model, identity.stepping), identity.model_id)
    };
    let name = |version: &str| format!("QEMU Virtual CPU version {version}");
    assert_eq!(of_qemu64((6, 1)), ((15, 107, 1), name("2.5+")));
    assert_eq!(of_qemu64((6, 0)), ((6, 6, 3), name("2.5+")));
    assert_eq!(of_qemu64((2, 4)), ((6, 6, 3), name("2.4.0")));
    assert_eq!(of_qemu64((1, 4)), ((6, 2, 3), name("1.4.0")));
    let has = |version, argument: &str, feature| {
        let model = model(version, argument);
        model.features().has(feature) || model.unavailable().has(feature)
    };
    assert!(!has((2, 3), "max", Feature::Arat) && has((2, 3), "max,arat", Feature::Arat));
    assert!(has((2, 4), "qemu64", Feature::Popcnt) && !has((2, 5), "qemu64", Feature::Popcnt));
    assert!(has((2, 1), "core2duo", Feature::Vmx) && !has((2, 2), "core2duo", Feature::Vmx));
    // The missing ones are no reason for warnings until 2.4.
    let warnings = |version| CpuModel::parse_for(version, "486,+avx512f", &Host::software()).expect("a model").1.len();
    assert_eq!((warnings((2, 4)), warnings((2, 5))), (0, 1));
}

#[test]
fn defaults_of_kvm_are_those_of_the_machine_type() {
    let has = |version, feature| {
        let model = CpuModel::parse_for(version, "qemu64,check=off", &kvm()).expect("a model").0;
        model.features().has(feature) || model.unavailable().has(feature)
    };
    assert!(!has((2, 2), Feature::Svm) && has((2, 1), Feature::Svm));
    assert!(has((2, 0), Feature::X2apic) && !has((1, 7), Feature::X2apic));
}

#[test]
fn names_of_models_stand_for_versions_since_machine_types_of_4_1() {
    let alias = |version, name: &str| {
        let list = CpuModel::list(version);
        list.into_iter().find(|entry| entry.name == name).and_then(|entry| entry.alias_of)
    };
    assert_eq!(alias((4, 1), "Haswell").as_deref(), Some("Haswell-v1"));
    assert_eq!(alias((4, 0), "Haswell"), None);
    assert_eq!(alias((4, 0), "Haswell-noTSX").as_deref(), Some("Haswell-v2"));
}

#[test]
fn max_is_everything_that_migrates() {
    assert!(parse("max").expect("a model").0.features().iter().count() >= 60);
    let has = |argument| CpuModel::parse(argument, &kvm()).expect(argument).0.features().has(Feature::Invtsc);
    assert!(!has("max") && has("max,migratable=off") && has("host,+invtsc"));
}

#[test]
fn kvm_models_show_kvms_signature_unless_it_is_hidden() {
    let topology = Topology { sockets: 1, dies: 1, cores: 1, threads: 1 };
    let leaf = |argument| CpuModel::parse(argument, &kvm()).expect(argument).0.build(topology, 0).get(0x4000_0000, 0);
    assert_eq!(leaf("qemu64,check=off").ebx.to_le_bytes(), *b"KVMK");
    assert_ne!(leaf("qemu64,kvm=off,check=off").ebx.to_le_bytes(), *b"KVMK");
}

#[test]
fn expansion_on_base_gives_the_model_again() {
    use x86::model::PropertyValue::{Bool, Str, Uint};
    let (model, _) = parse("Haswell,+vmx,check=off").expect("a model");
    let mut argument = "base".to_string();
    for (name, value) in model.static_properties() {
        match value {
            Bool(true) => argument += &format!(",{name}"),
            Bool(false) => {}
            Uint(value) => argument += &format!(",{name}={value}"),
            Str(value) => argument += &format!(",{name}={value}"),
        }
    }
    let (again, warnings) = parse(&argument).expect("a model");
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!((again.identity(), again.features()), (model.identity(), model.features()));
    let full = model.full_properties();
    assert!(
        full.contains(&("sse4_2", Bool(true)))
            && full.contains(&("avx512f", Bool(false)))
            && full.contains(&("avx", Bool(true)))
    );
    let mut names: Vec<_> = full.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), full.len());
}
