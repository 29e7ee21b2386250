//! What processors of older machine types have otherwise, so that a guest finds the processor that it was installed on:
//! QEMU's compatibility properties, by version.
//!
//! They count for models by exactly the name here: `Haswell-v1` is the same everywhere. Left out is what concerns things
//! that models here don't have: QEMU's migration stream, Hyper-V's enlightenments, frequencies for VMware's guests, and the
//! host's cache leaves.

use super::Accelerator;

/// A machine type's version: (7, 2) for `pc-q35-7.2`.
pub type MachineVersion = (u32, u32);

/// The version of machine types that have none, where nothing is kept as it was.
pub const NEWEST: MachineVersion = (u32::MAX, 0);

/// The last version whose model names stand for no version of the model.
const UNVERSIONED_MODELS: MachineVersion = (4, 0);

/// The last version that QEMU's own models name.
const NAMED_BY_VERSION: MachineVersion = (2, 4);

/// Names of models, none for all, and what they have.
type Change = (&'static str, &'static str);

/// What machine types of each version and of those before it have, the newest first. The later one counts.
const CHANGES: &[(MachineVersion, &[Change])] = &[
    ((6, 0), &[("qemu64", "family=6,model=6,stepping=3"), ("", "x-vendor-cpuid-only=off")]),
    ((5, 1), &[("", "kvm-msi-ext-dest-id=off")]),
    (
        (3, 1),
        &[
            ("Opteron_G3", "rdtscp=off"),
            ("Opteron_G4 Opteron_G5", "rdtscp=off,npt=off,nrip-save=off"),
            ("EPYC EPYC-IBPB", "npt=off,nrip-save=off"),
            ("Skylake-Client Skylake-Client-IBRS Skylake-Server Skylake-Server-IBRS", "mpx=on"),
            ("Cascadelake-Server Icelake-Server", "mpx=on"),
            ("Cascadelake-Server", "stepping=5"),
        ],
    ),
    ((3, 0), &[("Skylake-Server Skylake-Server-IBRS", "pku=off")]),
    ((2, 12), &[("", "legacy-cache=on,topoext=off"), ("EPYC EPYC-IBPB", "xlevel=0x8000000a")]),
    ((2, 11), &[("Skylake-Server", "clflushopt=off")]),
    ((2, 8), &[("", "tcg-cpuid=off"), ("Haswell", "stepping=1")]),
    ((2, 7), &[("", "l3-cache=off,full-cpuid-auto-level=off"), ("Opteron_G3", "family=15,model=6,stepping=1")]),
    ((2, 6), &[("", "cpuid-0xb=off")]),
    (
        (2, 4),
        &[
            ("Haswell Haswell-noTSX Broadwell Broadwell-noTSX", "abm=off"),
            ("", "check=off"),
            ("qemu64", "sse4a=on,abm=on,popcnt=on"),
            ("qemu32", "popcnt=on"),
            ("Opteron_G2 Opteron_G3 Opteron_G4 Opteron_G5", "rdtscp=on"),
        ],
    ),
    (
        (2, 3),
        &[
            ("", "arat=off"),
            ("qemu64 Conroe Penryn Nehalem", "min-level=4"),
            ("kvm64 n270", "min-level=5"),
            ("pentium3", "min-level=2"),
            ("n270 Penryn Conroe Nehalem Westmere SandyBridge IvyBridge", "min-xlevel=0x8000000a"),
            ("Haswell Haswell-noTSX Broadwell Broadwell-noTSX", "min-xlevel=0x8000000a"),
        ],
    ),
    (
        (2, 2),
        &[
            ("kvm64 kvm32 Conroe Penryn Nehalem Westmere SandyBridge Haswell Broadwell", "vme=off"),
            ("Opteron_G1 Opteron_G2 Opteron_G3 Opteron_G4 Opteron_G5", "vme=off"),
            ("Haswell Broadwell", "f16c=off,rdrand=off"),
        ],
    ),
    ((2, 1), &[("coreduo core2duo", "vmx=on")]),
    ((1, 6), &[("qemu64", "model=2"), ("qemu32", "model=3")]),
    ((1, 5), &[("Conroe Penryn Nehalem", "model=2,min-level=2"), ("", "pmu=on")]),
    ((1, 4), &[("486", "model=0"), ("n270", "movbe=off"), ("Westmere", "pclmulqdq=off")]),
];

/// The defaults of KVM that machine types of these versions and of those before them do without.
const WITHOUT_DEFAULTS: &[(MachineVersion, &str)] = &[((2, 1), "svm"), ((1, 7), "x2apic")];

/// The settings that a machine type gives a model, in their order.
pub(super) fn settings(version: MachineVersion, model: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let changes = CHANGES.iter().filter(move |(last, _)| version <= *last).flat_map(|(_, changes)| *changes);
    let of_model = move |(models, _): &&Change| models.is_empty() || models.split(' ').any(|name| name == model);
    changes.filter(of_model).flat_map(|(_, settings)| settings.split(',')).filter_map(|setting| setting.split_once('='))
}

/// The name that a machine type gives a model: until 2.4 it had the version.
pub(super) fn model_id((major, minor): MachineVersion, model: &str) -> Option<String> {
    let is_qemus = matches!(model, "qemu32" | "qemu64" | "athlon");
    (is_qemus && (major, minor) <= NAMED_BY_VERSION).then(|| format!("QEMU Virtual CPU version {major}.{minor}.0"))
}

/// Whether a machine type has a setting of the accelerator's (see [`super::Host::defaults`]).
pub(super) fn has_default(version: MachineVersion, accelerator: Accelerator, setting: &str) -> bool {
    let is_without = |(last, name): &(MachineVersion, &str)| version <= *last && *name == setting;
    accelerator != Accelerator::Kvm || !WITHOUT_DEFAULTS.iter().any(is_without)
}

/// Whether a model's name stands for one of its versions.
pub(super) fn has_versioned_models(version: MachineVersion) -> bool {
    version > UNVERSIONED_MODELS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CpuModel, Host};

    #[test]
    fn every_change_is_of_a_known_model_and_can_be_made() {
        let known: Vec<_> = CpuModel::list(NEWEST).into_iter().map(|entry| entry.name).collect();
        for (version, changes) in CHANGES {
            for (models, _) in *changes {
                for model in models.split(' ').filter(|model| !model.is_empty()) {
                    assert!(known.iter().any(|name| name == model), "{model} of {version:?}");
                }
            }
            for model in known.iter().filter(|model| *model != "host") {
                let made = CpuModel::parse_for(*version, model, &Host::software());
                assert!(made.is_ok(), "{model} of {version:?}: {made:?}");
            }
        }
        assert!(CHANGES.is_sorted_by(|(one, _), (next, _)| one > next), "the newest first");
    }
}
