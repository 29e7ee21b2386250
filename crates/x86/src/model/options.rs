//! The `-cpu` argument: `MODEL[,+feature][,-feature][,name=value][,name]`, in QEMU's order of application: what the machine's
//! version keeps as it was, settings as written, then `+`, then `-`.

use super::cache::Caches;
use super::{Accelerator, CpuModel, Host, MachineVersion, ModelError, compat, describe_feature, repeat_basic_features};
use crate::cpuid::{Feature, FeatureSet, FeatureWord, Source, Vendor, range};

/// The user's wishes that are no part of the model itself.
#[derive(Default)]
struct Wishes {
    /// Features that the user named.
    named: FeatureSet,
    level: Option<u32>,
    extended_level: Option<u32>,
    centaur_level: Option<u32>,
    level7: Option<u32>,
    physical_bits: Option<u32>,
    no_check: bool,
    enforce: bool,
    unmigratable: bool,
    ignore_host_bits: bool,
}

pub(super) fn parse(
    argument: &str,
    host: &Host,
    version: MachineVersion,
) -> Result<(CpuModel, Vec<String>), ModelError> {
    let (name, changes) = argument.split_once(',').unwrap_or((argument, ""));
    if name.is_empty() {
        return Err(ModelError::Empty);
    }
    let mut model = CpuModel::named(name, host, version)?;
    let mut wishes = Wishes { ignore_host_bits: name != "host", ..Wishes::default() };
    let mut warnings = vec![];
    let (mut plus, mut minus) = (vec![], vec![]);
    let kept = compat::settings(version, name).map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut settings: Vec<_> = kept.collect();
    for change in changes.split(',').filter(|change| !change.is_empty()) {
        if let Some(feature) = change.strip_prefix('+') {
            plus.push(feature.replace('_', "-"));
        } else if let Some(feature) = change.strip_prefix('-') {
            minus.push(feature.replace('_', "-"));
        } else {
            let (name, value) = change.split_once('=').unwrap_or((change, "on"));
            let name = name.replace('_', "-");
            warn_if_ambiguous(&mut warnings, &plus, &minus, &name, value);
            settings.push(setting(name, value)?);
        }
    }
    for (name, value) in &settings {
        apply(&mut model, &mut wishes, name, value).map_err(|reason| ModelError::Setting {
            class: model.type_name(),
            name: name.clone(),
            value: value.clone(),
            reason,
        })?;
    }
    if (model.name == "max" || model.name == "host") && !wishes.unmigratable && !wishes.named.has(Feature::Invtsc) {
        model.features.remove(Feature::Invtsc);
    }
    for (names, value) in [(plus, "on"), (minus, "off")] {
        for name in names {
            apply(&mut model, &mut wishes, &name, value).map_err(ModelError::Property)?;
        }
    }
    drop_dependents(&mut model, &wishes, &mut warnings);
    settle_levels(&mut model, &wishes);
    settle_address_width(&mut model, &wishes, host)?;
    drop_unsupported(&mut model, &wishes, host, &mut warnings)?;
    Ok((model, warnings))
}

/// Normalises a setting. `tsc-freq` takes decimal suffixes and stands for `tsc-frequency`.
fn setting(name: String, value: &str) -> Result<(String, String), ModelError> {
    if name != "tsc-freq" {
        return Ok((name, value.to_string()));
    }
    let (digits, factor) = match value.char_indices().last() {
        Some((end, 'k' | 'K')) => (&value[..end], 1_000),
        Some((end, 'M' | 'm')) => (&value[..end], 1_000_000),
        Some((end, 'G' | 'g')) => (&value[..end], 1_000_000_000),
        _ => (value, 1),
    };
    let frequency = digits.parse::<f64>().map(|number| number * f64::from(factor));
    match frequency {
        Ok(frequency) if (0.0..9e18).contains(&frequency) => {
            Ok(("tsc-frequency".to_string(), (frequency as u64).to_string()))
        }
        _ => Err(ModelError::Property(format!("bad numerical value {value}"))),
    }
}

fn warn_if_ambiguous(warnings: &mut Vec<String>, plus: &[String], minus: &[String], name: &str, value: &str) {
    for (sign, names) in [('+', plus), ('-', minus)] {
        if names.iter().any(|other| other == name) {
            warnings
                .push(format!("Ambiguous CPU model string. Don't mix both \"{sign}{name}\" and \"{name}={value}\""));
            warnings.push("Compatibility of ambiguous CPU model strings won't be kept on future QEMU versions".into());
        }
    }
}

/// Sets one property. The error is QEMU's text for it.
fn apply(model: &mut CpuModel, wishes: &mut Wishes, name: &str, value: &str) -> Result<(), String> {
    let features: Vec<Feature> = Feature::by_name(name).collect();
    if !features.is_empty() {
        let present = boolean(name, value)?;
        for feature in features {
            model.features.assign(feature, present);
            wishes.named.insert(feature);
        }
        return Ok(());
    }
    if apply_identity(model, name, value)? || apply_number(model, wishes, name, value)? {
        return Ok(());
    }
    let mut negated = false;
    let flag = match name {
        "check" => {
            negated = true;
            &mut wishes.no_check
        }
        "enforce" => &mut wishes.enforce,
        "migratable" if model.name == "max" || model.name == "host" => {
            negated = true;
            &mut wishes.unmigratable
        }
        "host-phys-bits" => {
            negated = true;
            &mut wishes.ignore_host_bits
        }
        "l3-cache" => &mut model.l3_cache,
        "cpuid-0xb" => &mut model.topology_leaf,
        "tcg-cpuid" => &mut model.software_leaf,
        "kvm" => &mut model.kvm_leaf,
        "pmu" => &mut model.performance_counters,
        "full-cpuid-auto-level" => &mut model.automatic_levels,
        "x-vendor-cpuid-only" => &mut model.vendor_leaves_only,
        "legacy-cache" => {
            return match (boolean(name, value)?, model.caches) {
                (true, _) => {
                    model.caches = Caches::Legacy;
                    Ok(())
                }
                (false, Caches::Own(_)) => Ok(()),
                (false, Caches::Legacy) => {
                    Err(format!("CPU model '{}' doesn't support legacy-cache=off", model.type_name()))
                }
            };
        }
        _ => return Err(format!("Property '{}.{name}' not found", model.type_name())),
    };
    *flag = boolean(name, value)? != negated;
    Ok(())
}

fn apply_identity(model: &mut CpuModel, name: &str, value: &str) -> Result<bool, String> {
    let identity = &mut model.identity;
    match name {
        "vendor" => {
            let signature = value.as_bytes().try_into();
            let signature = signature.map_err(|_| format!("Property '.vendor' doesn't take value '{value}'"))?;
            identity.vendor = Vendor::from_signature(signature);
        }
        "model-id" => identity.model_id = value.to_string(),
        "family" => identity.family = bounded(name, value, 0xff + 0xf)?,
        "model" => identity.model = bounded(name, value, 0xff)?,
        "stepping" => identity.stepping = bounded(name, value, 0xf)?,
        "tsc-frequency" => {
            let hertz = bounded(name, value, i64::MAX)?;
            model.tsc_frequency = (hertz != 0).then_some(hertz);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn apply_number(model: &mut CpuModel, wishes: &mut Wishes, name: &str, value: &str) -> Result<bool, String> {
    match name {
        "level" => wishes.level = Some(unsigned(name, value)?),
        "xlevel" => wishes.extended_level = Some(unsigned(name, value)?),
        "xlevel2" => wishes.centaur_level = Some(unsigned(name, value)?),
        "level-func7" => wishes.level7 = Some(unsigned(name, value)?),
        "min-level" => model.identity.level = unsigned(name, value)?,
        "min-xlevel" => model.identity.extended_level = unsigned(name, value)?,
        "min-xlevel2" => model.centaur_level = unsigned(name, value)?,
        "phys-bits" => wishes.physical_bits = Some(unsigned(name, value)?),
        "ucode-rev" => model.microcode_revision = unsigned_64(name, value)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn boolean(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(format!("Parameter '{name}' expects 'on' or 'off'")),
    }
}

/// A number as C's `strtoll` with base 0 reads it.
fn number(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = match (lower.strip_prefix("0x"), lower.strip_prefix('0')) {
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) if !digits.is_empty() => (digits, 8),
        _ => (lower.as_str(), 10),
    };
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let magnitude = i128::from(u64::from_str_radix(digits, radix).ok()?);
    Some(if negative { -magnitude } else { magnitude })
}

fn bounded<T: TryFrom<i64>>(name: &str, value: &str, maximum: i64) -> Result<T, String> {
    let number = number(value).and_then(|n| i64::try_from(n).ok());
    let number = number.ok_or_else(|| format!("Parameter '{name}' expects int64"))?;
    let range_error = || format!("Property .{name} doesn't take value {number} (minimum: 0, maximum: {maximum})");
    if !(0..=maximum).contains(&number) {
        return Err(range_error());
    }
    T::try_from(number).map_err(|_| range_error())
}

fn unsigned_64(name: &str, value: &str) -> Result<u64, String> {
    // A negative number wraps, as in C.
    number(value).map(|n| n as u64).ok_or_else(|| format!("Parameter '{name}' expects uint64"))
}

fn unsigned(name: &str, value: &str) -> Result<u32, String> {
    u32::try_from(unsigned_64(name, value)?).map_err(|_| format!("Parameter '{name}' expects uint32_t"))
}

/// Removes features whose base feature is absent; says so for those that the user asked for.
fn drop_dependents(model: &mut CpuModel, wishes: &Wishes, warnings: &mut Vec<String>) {
    for info in crate::cpuid::FEATURES {
        if model.features.has(info.feature) {
            continue;
        }
        for &word in info.feature.dependents() {
            let mut orphans = FeatureSet::default();
            orphans.set_word(word, model.features.word(word));
            for orphan in orphans.intersection(&wishes.named).iter() {
                warnings.push(format!(
                    "This feature depends on other features that were not requested: {}",
                    describe_feature(orphan)
                ));
                model.unavailable.insert(orphan);
            }
            model.features.set_word(word, 0);
        }
    }
}

/// Raises the highest leaves so that every feature word that is in use can be read.
fn settle_levels(model: &mut CpuModel, wishes: &Wishes) {
    for &word in FeatureWord::ALL {
        let Source::Cpuid { leaf, subleaf, .. } = word.source() else { continue };
        let raised = match word {
            FeatureWord::Leaf7Ebx => true,
            FeatureWord::Leaf7Edx | FeatureWord::KvmFeatures | FeatureWord::KvmHints => false,
            FeatureWord::Leaf14Ecx | FeatureWord::SgxEax | FeatureWord::SgxEbx | FeatureWord::SgxSub1Eax => false,
            _ => model.automatic_levels,
        };
        let used = model.features.word(word) != 0 || (word == FeatureWord::SvmEdx && model.features.has(Feature::Svm));
        if !raised || !used {
            continue;
        }
        let highest = match leaf {
            range::CENTAUR.. => &mut model.centaur_level,
            range::EXTENDED.. => &mut model.identity.extended_level,
            _ => &mut model.identity.level,
        };
        *highest = leaf.max(*highest);
        if leaf == 7 {
            model.level7 = subleaf.unwrap_or(0).max(model.level7);
        }
    }
    model.is_level_free = model.automatic_levels && wishes.level.is_none();
    model.identity.level = wishes.level.unwrap_or(model.identity.level);
    model.identity.extended_level = wishes.extended_level.unwrap_or(model.identity.extended_level);
    model.centaur_level = wishes.centaur_level.unwrap_or(model.centaur_level);
    model.level7 = wishes.level7.unwrap_or(model.level7);
}

fn settle_address_width(model: &mut CpuModel, wishes: &Wishes, host: &Host) -> Result<(), ModelError> {
    let asked = wishes.physical_bits.filter(|&bits| bits != 0);
    model.physical_bits = if model.features.has(Feature::LongMode) {
        match asked {
            Some(bits @ (..32 | 53..)) => return Err(ModelError::PhysicalBits(u64::from(bits))),
            Some(bits) if wishes.ignore_host_bits => bits,
            None if wishes.ignore_host_bits => 40,
            _ => host.physical_bits,
        }
    } else if asked.is_some() {
        return Err(ModelError::Property("phys-bits is not user-configurable in 32 bit".to_string()));
    } else if model.features.has(Feature::Pse36) {
        36
    } else {
        32
    };
    Ok(())
}

fn drop_unsupported(
    model: &mut CpuModel,
    wishes: &Wishes,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<(), ModelError> {
    let missing = model.features.difference(&host.supported);
    let lines: Vec<String> = missing
        .iter()
        .map(|feature| {
            let subject = host.accelerator.subject();
            format!("{subject} doesn't support requested feature: {}", describe_feature(feature))
        })
        .collect();
    model.features = model.features.intersection(&host.supported);
    model.unavailable = model.unavailable.union(&missing);
    if model.identity.vendor == Vendor::Amd {
        repeat_basic_features(&mut model.features);
    }
    if wishes.enforce && !lines.is_empty() {
        return Err(ModelError::Enforce { accelerator: host.accelerator, warnings: lines });
    }
    if !wishes.no_check {
        warnings.extend(lines);
    }
    if model.accelerator == Accelerator::Software {
        model.performance_counters = false;
    }
    Ok(())
}
