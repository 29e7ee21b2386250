//! `-numa`: the nodes of a NUMA machine.

use machine::CpuSlot;
use machine::config::Topology;
use machine::numa::Numa;
use qapi::keyval::{self, Grammar};
use qapi::machine::NumaOptions;
use qapi::objects::{ObjectAdd, ObjectTypeOptions};

use super::arguments::all;
use super::{Argument, CliError};

/// Reads the options, in their order.
pub fn settings(
    arguments: &[Argument<'_>],
    has_hmat: bool,
    topology: Topology,
    objects: &[(String, ObjectAdd)],
) -> Result<Numa, CliError> {
    let mut numa = Numa::new(has_hmat);
    let slots = CpuSlot::all(topology);
    let size = |id: &str| objects.iter().find(|(_, object)| object.id == id).and_then(|(_, object)| size(object));
    for argument in all(arguments, "numa") {
        let text = with_ranges(argument)?;
        let options: NumaOptions =
            keyval::from_keyval(&text, &Grammar::implied("type")).map_err(|error| argument.error(error.desc))?;
        numa.set(vm::numa::step(options), &slots, &size).map_err(|message| argument.error(message))?;
    }
    Ok(numa)
}

/// The size of a memory object.
pub fn size(object: &ObjectAdd) -> Option<u64> {
    match &object.object {
        ObjectTypeOptions::MemoryBackendRam(properties) => Some(properties.size.0),
        ObjectTypeOptions::MemoryBackendFile(properties) => Some(properties.base.size.0),
        ObjectTypeOptions::MemoryBackendMemfd(properties) => Some(properties.base.size.0),
        _ => None,
    }
}

/// `cpus=1-3,cpus=5` as the list that the schema has.
fn with_ranges(argument: &Argument<'_>) -> Result<String, CliError> {
    const MOST: u16 = 1024;
    let (mut parts, mut cpus) = (Vec::new(), Vec::new());
    for part in argument.value.split(',') {
        let Some(range) = part.strip_prefix("cpus=") else {
            parts.push(part.to_owned());
            continue;
        };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first), Ok(last)) if first <= last && last < MOST => cpus.extend(first..=last),
            _ => return Err(argument.error("Parameter 'cpus' expects an uint16 value or range")),
        }
    }
    parts.extend(cpus.iter().enumerate().map(|(index, cpu)| format!("cpus.{index}={cpu}")));
    Ok(parts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::options;

    #[test]
    fn ranges_of_processors_become_lists() {
        let argument = |value| Argument { option: options::find("numa").expect("option"), value };
        let expected = "node,nodeid=1,cpus.0=2,cpus.1=3,cpus.2=7";
        assert_eq!(with_ranges(&argument("node,cpus=2-3,nodeid=1,cpus=7")).expect("ranges"), expected);
        for wrong in ["node,cpus=3-2", "node,cpus=x", "node,cpus=0-9999"] {
            assert!(with_ranges(&argument(wrong)).is_err(), "{wrong}");
        }
    }
}
