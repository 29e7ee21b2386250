//! CPU models by name: QEMU 7.2's models, versions and aliases, their `-cpu` option syntax, and the CPUID leaves
//! that a model presents for a topology.
//!
//! A model is data. What an accelerator can do is a [`Host`]; features outside of it are dropped with a warning
//! (`check`) or refused (`enforce`). Hyper-V enlightenments (`hv-*`), SGX and Intel PT leaves are not modelled.

mod build;
mod cache;
mod compat;
mod expansion;
mod options;
mod table;

pub use crate::cpuid::Vendor;
use crate::cpuid::{Feature, FeatureSet, FeatureWord, Source};
pub use build::Topology;
use cache::Caches;
pub use compat::{MachineVersion, NEWEST};
pub use expansion::PropertyValue;

/// The kind of accelerator that a model is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The software CPU. Messages call it `TCG`, as clients expect.
    Software,
    /// The host's KVM.
    Kvm,
}

impl Accelerator {
    fn subject(self) -> &'static str {
        match self {
            Accelerator::Software => "TCG",
            Accelerator::Kvm => "host",
        }
    }
}

/// A processor's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The maker.
    pub vendor: Vendor,
    /// Display family: base plus extended.
    pub family: u32,
    /// Display model: extended model in bits 4..8.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
    /// The brand string, at most 48 bytes.
    pub model_id: String,
    /// Highest basic leaf.
    pub level: u32,
    /// Highest extended leaf.
    pub extended_level: u32,
}

/// What an accelerator on this machine offers to a model.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its kind.
    pub accelerator: Accelerator,
    /// Every feature that it implements.
    pub supported: FeatureSet,
    /// Settings that replace a named model's own, before the user's: what is better left out, or added, here.
    pub defaults: &'static [(&'static str, bool)],
    /// Who the models `max` and `host` are.
    pub identity: Identity,
    /// Width of physical addresses: the default of models.
    pub physical_bits: u32,
}

/// What the software CPU lacks and many models have: leaving it out is no reason for a warning.
const SOFTWARE_DEFAULTS: &[(&str, bool)] = &[("vme", false), ("acpi", false), ("monitor", false), ("svm", false)];

/// The [`Host::defaults`] that QEMU has for KVM.
pub const KVM_DEFAULTS: &[(&str, bool)] = &[
    ("kvmclock", true),
    ("kvm-nopiodelay", true),
    ("kvm-asyncpf", true),
    ("kvm-steal-time", true),
    ("kvm-pv-eoi", true),
    ("kvmclock-stable-bit", true),
    ("x2apic", true),
    ("acpi", false),
    ("monitor", false),
    ("svm", false),
];

impl Host {
    /// The software CPU.
    pub fn software() -> Self {
        Host {
            accelerator: Accelerator::Software,
            supported: FeatureSet::software_cpu(),
            defaults: SOFTWARE_DEFAULTS,
            identity: Identity {
                vendor: Vendor::Amd,
                family: 15,
                model: 107,
                stepping: 1,
                model_id: "QEMU TCG CPU version 2.5+".to_string(),
                level: 0xd,
                extended_level: 0x8000_0008,
            },
            physical_bits: 40,
        }
    }
}

/// Why a `-cpu` argument is refused. The texts are QEMU's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// Nothing was given.
    #[error("-cpu option cannot be empty")]
    Empty,
    /// No such model.
    #[error("unable to find CPU model '{0}'")]
    UnknownModel(String),
    /// The model is the host's own.
    #[error("CPU model '{0}' requires KVM or HVF")]
    RequiresKvm(String),
    /// A property given as `+name` or `-name`.
    #[error("{0}")]
    Property(String),
    /// A property given as `name=value`.
    #[error("can't apply global {class}.{name}={value}: {reason}")]
    Setting {
        /// The model's type name.
        class: String,
        /// The property.
        name: String,
        /// The value as given.
        value: String,
        /// What is wrong.
        reason: String,
    },
    /// A physical address width that no processor has.
    #[error("phys-bits should be between 32 and 52  (but is {0})")]
    PhysicalBits(u64),
    /// `enforce` is on and features are missing.
    #[error("{} doesn't support requested features", if *.accelerator == Accelerator::Software { "TCG" } else { "Host" })]
    Enforce {
        /// The accelerator that lacks them.
        accelerator: Accelerator,
        /// One line for each missing feature.
        warnings: Vec<String>,
    },
}

/// A model with the user's changes, ready to be built for a topology.
#[derive(Clone, Debug)]
pub struct CpuModel {
    name: String,
    accelerator: Accelerator,
    identity: Identity,
    features: FeatureSet,
    unavailable: FeatureSet,
    caches: Caches,
    level7: u32,
    centaur_level: u32,
    physical_bits: u32,
    tsc_frequency: Option<u64>,
    microcode_revision: u64,
    automatic_levels: bool,
    /// The highest basic leaf follows from what there is, also from the topology.
    is_level_free: bool,
    l3_cache: bool,
    topology_leaf: bool,
    software_leaf: bool,
    kvm_leaf: bool,
    vendor_leaves_only: bool,
    performance_counters: bool,
}

/// A row of `-cpu help` and `query-cpu-definitions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelEntry {
    /// The name.
    pub name: String,
    /// The versioned model that it stands for.
    pub alias_of: Option<String>,
    /// The text of the help.
    pub description: String,
    /// Whether it keeps its features from one host to another.
    pub migration_safe: bool,
    /// Whether its features are the same with all accelerators and machines.
    pub is_static: bool,
}

impl CpuModel {
    /// Parses a `-cpu` argument: a model name and comma-separated changes. Returns the model and warnings.
    pub fn parse(argument: &str, host: &Host) -> Result<(CpuModel, Vec<String>), ModelError> {
        options::parse(argument, host, NEWEST)
    }

    /// Parses a `-cpu` argument for a machine type of that version.
    pub fn parse_for(
        version: MachineVersion,
        argument: &str,
        host: &Host,
    ) -> Result<(CpuModel, Vec<String>), ModelError> {
        options::parse(argument, host, version)
    }

    /// Every model name with what it stands for with a machine type of that version, by name.
    pub fn list(version: MachineVersion) -> Vec<ModelEntry> {
        let mut entries = vec![];
        for definition in table::MODELS {
            let mut add = |name: String, alias_of: Option<String>, description: String| {
                entries.push(ModelEntry { name, alias_of, description, migration_safe: true, is_static: false });
            };
            let first = compat::has_versioned_models(version).then(|| format!("{}-v1", definition.name));
            add(definition.name.to_string(), first, "(alias configured by machine type)".to_string());
            let mut model_id = definition.model_id;
            for version in definition.versions {
                let name = format!("{}-v{}", definition.name, version.number);
                model_id = version.model_id.unwrap_or(model_id);
                if !version.alias.is_empty() {
                    add(version.alias.to_string(), Some(name.clone()), format!("(alias of {name})"));
                }
                add(name, None, [model_id, version.note].join(" ").trim().to_string());
            }
        }
        for (name, description, migration_safe, is_static) in [
            ("base", "base CPU model type with no features enabled", true, true),
            ("host", "processor with all supported host features ", false, false),
            ("max", "Enables all features supported by the accelerator in the current host", false, false),
        ] {
            let (name, description) = (name.to_string(), description.to_string());
            entries.push(ModelEntry { name, alias_of: None, description, migration_safe, is_static });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    /// The model's name as given: `qemu64`, `Haswell-v2`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of its object type.
    pub fn type_name(&self) -> String {
        type_name(&self.name)
    }

    /// Vendor, family, model, stepping, brand string and highest leaves.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The features that the guest sees.
    pub fn features(&self) -> &FeatureSet {
        &self.features
    }

    /// Features that the model or the user asked for and that the accelerator lacks.
    pub fn unavailable(&self) -> &FeatureSet {
        &self.unavailable
    }

    /// Width of physical addresses.
    pub fn physical_bits(&self) -> u32 {
        self.physical_bits
    }

    /// `tsc-frequency`, in hertz.
    pub fn tsc_frequency(&self) -> Option<u64> {
        self.tsc_frequency
    }

    /// What IA32_BIOS_SIGN_ID reads.
    pub fn microcode_revision(&self) -> u64 {
        self.microcode_revision
    }

    /// Whether performance counters are wanted (`pmu`).
    pub fn performance_counters(&self) -> bool {
        self.performance_counters
    }

    /// A model by name with its own settings only.
    fn named(name: &str, host: &Host, version: MachineVersion) -> Result<CpuModel, ModelError> {
        let blank = || Identity {
            vendor: Vendor::Other([0; 12]),
            family: 0,
            model: 0,
            stepping: 0,
            model_id: String::new(),
            level: 0,
            extended_level: 0,
        };
        let (identity, features, caches) = match name {
            "base" => (blank(), FeatureSet::default(), Caches::Legacy),
            "host" if host.accelerator != Accelerator::Kvm => return Err(ModelError::RequiresKvm(name.to_string())),
            "host" | "max" => (host.identity.clone(), host.supported.clone(), Caches::Legacy),
            _ => Self::from_table(name, host, version).ok_or_else(|| ModelError::UnknownModel(name.to_string()))?,
        };
        Ok(CpuModel {
            name: name.to_string(),
            accelerator: host.accelerator,
            identity,
            features,
            unavailable: FeatureSet::default(),
            caches,
            level7: 0,
            centaur_level: 0,
            physical_bits: 0,
            tsc_frequency: None,
            microcode_revision: 0,
            automatic_levels: true,
            is_level_free: true,
            l3_cache: true,
            topology_leaf: true,
            software_leaf: true,
            kvm_leaf: true,
            vendor_leaves_only: true,
            performance_counters: false,
        })
    }

    fn from_table(name: &str, host: &Host, machine: MachineVersion) -> Option<(Identity, FeatureSet, Caches)> {
        let (definition, number) = table::MODELS.iter().find_map(|definition| {
            if definition.name == name {
                return Some((definition, 1));
            }
            let versions = definition.versions.iter();
            let version = versions.clone().find(|version| {
                version.alias == name
                    || name
                        .strip_prefix(definition.name)
                        .and_then(|rest| rest.strip_prefix("-v"))
                        .is_some_and(|digits| digits == version.number.to_string())
            })?;
            Some((definition, version.number))
        })?;
        let (mut signature, mut model_id) = (definition.signature, definition.model_id);
        // The table's names are checked by a test.
        let set = |names: &str| FeatureSet::parse(names).unwrap_or_default();
        let mut features = set(definition.features);
        for version in definition.versions.iter().filter(|version| version.number <= number) {
            signature = version.signature.unwrap_or(signature);
            model_id = version.model_id.unwrap_or(model_id);
            features = features.union(&set(version.add)).difference(&set(version.remove));
        }
        let is_default = |(name, _): &&(&str, bool)| compat::has_default(machine, host.accelerator, name);
        for &(feature, present) in host.defaults.iter().filter(is_default) {
            Feature::by_name(feature).for_each(|feature| features.assign(feature, present));
        }
        let identity = Identity {
            vendor: definition.vendor,
            family: signature.0,
            model: signature.1,
            stepping: signature.2,
            model_id: compat::model_id(machine, name).unwrap_or_else(|| model_id.to_string()),
            level: definition.level,
            extended_level: definition.extended_level,
        };
        Some((identity, features, definition.caches))
    }
}

fn type_name(model: &str) -> String {
    format!("{model}-x86_64-cpu")
}

/// A feature as messages describe it: `CPUID.01H:ECX.vmx [bit 5]`, `MSR(48EH).vmx-hlt-exit [bit 7]`.
pub fn describe_feature(feature: Feature) -> String {
    let info = feature.info();
    let place = match info.word.source() {
        Source::Cpuid { leaf, register, .. } => format!("CPUID.{leaf:02X}H:{}", register.name()),
        Source::Msr(index) => format!("MSR({index:02X}H)"),
    };
    format!("{place}.{} [bit {}]", feature.name(), info.bit)
}

/// The feature word's bits of AMD's extended leaf that repeat leaf 1 (APM vol. 3, E.3.2).
const AMD_REPEATED: u64 = 0x0183_f3ff;

/// Makes 8000_0001H:EDX repeat leaf 1 as AMD processors do.
fn repeat_basic_features(features: &mut FeatureSet) {
    let own = features.word(FeatureWord::Extended1Edx) & !AMD_REPEATED;
    let repeated = features.word(FeatureWord::Leaf1Edx) & AMD_REPEATED;
    features.set_word(FeatureWord::Extended1Edx, own | repeated);
}
