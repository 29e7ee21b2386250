//! A model as a list of properties: what `query-cpu-model-expansion` answers.

use super::CpuModel;
use super::cache::Caches;
use crate::cpuid::{FEATURES, Feature};

/// A property's value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the types")]
pub enum PropertyValue {
    Bool(bool),
    Uint(u64),
    Str(String),
}

impl CpuModel {
    /// The properties that make up the model, each under its preferred name only: setting them on `base` gives the
    /// same model (static expansion).
    pub fn static_properties(&self) -> Vec<(&'static str, PropertyValue)> {
        let mut properties = self.settings();
        let mut last = "";
        for info in FEATURES {
            let name = info.feature.name();
            // Features that share a name are one property.
            if name != last && !properties.iter().any(|(other, _)| *other == name) {
                properties.push((name, PropertyValue::Bool(self.property(name))));
            }
            last = name;
        }
        properties
    }

    /// All properties with all their names (full expansion).
    pub fn full_properties(&self) -> Vec<(&'static str, PropertyValue)> {
        let mut properties = self.static_properties();
        for name in FEATURES.iter().flat_map(|info| info.names.iter().skip(1)) {
            properties.push((name, PropertyValue::Bool(self.property(name))));
        }
        let flags = [
            ("legacy-cache", matches!(self.caches, Caches::Legacy)),
            ("l3-cache", self.l3_cache),
            ("cpuid-0xb", self.topology_leaf),
            ("tcg-cpuid", self.software_leaf),
            ("kvm", self.kvm_leaf),
            ("pmu", self.performance_counters),
            ("full-cpuid-auto-level", self.automatic_levels),
            ("x-vendor-cpuid-only", self.vendor_leaves_only),
        ];
        properties.extend(flags.map(|(name, value)| (name, PropertyValue::Bool(value))));
        let numbers = [
            ("level", u64::from(self.identity.level)),
            ("xlevel", u64::from(self.identity.extended_level)),
            ("xlevel2", u64::from(self.centaur_level)),
            ("level-func7", u64::from(self.level7)),
            ("phys-bits", u64::from(self.physical_bits)),
            ("tsc-frequency", self.tsc_frequency.unwrap_or(0)),
            ("ucode-rev", self.microcode_revision),
        ];
        properties.extend(numbers.map(|(name, value)| (name, PropertyValue::Uint(value))));
        properties
    }

    fn settings(&self) -> Vec<(&'static str, PropertyValue)> {
        let identity = &self.identity;
        let vendor = identity.vendor.signature();
        let vendor = String::from_utf8_lossy(&vendor).trim_end_matches('\0').to_string();
        vec![
            ("vendor", PropertyValue::Str(vendor)),
            ("model-id", PropertyValue::Str(identity.model_id.clone())),
            ("family", PropertyValue::Uint(u64::from(identity.family))),
            ("model", PropertyValue::Uint(u64::from(identity.model))),
            ("stepping", PropertyValue::Uint(u64::from(identity.stepping))),
            ("min-level", PropertyValue::Uint(u64::from(identity.level))),
            ("min-xlevel", PropertyValue::Uint(u64::from(identity.extended_level))),
        ]
    }

    /// A boolean property of features: on if all of them are there.
    fn property(&self, name: &str) -> bool {
        Feature::by_name(name).all(|feature| self.features.has(feature))
    }
}
