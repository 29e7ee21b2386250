//! The machine's objects: `/machine` with its vCPUs and devices, where QEMU has them.
//!
//! Devices of the command line with an id are `/machine/peripheral/ID`, those without one
//! `/machine/peripheral-anon/device[N]`, and the board's own `/machine/unattached/device[N]`, the boot processor first.

use object::{ObjectError, ObjectTree, TypeInfo, TypeRegistry};

use crate::config::MachineConfig;
use crate::pc::{BoardDevice, Place};

/// Builds the tree, and tells the paths of the vCPUs that are present.
pub fn build(config: &MachineConfig, devices: &[BoardDevice]) -> Result<(ObjectTree, Vec<String>), ObjectError> {
    let machine_type = format!("{}-machine", config.machine_type.name);
    let cpu_type = config.cpu_model.type_name();
    let mut tree = ObjectTree::new(types(&machine_type, &cpu_type, devices)?);
    let root = tree.root();
    let machine = tree.add_child(root, "machine", &machine_type)?;
    for name in ["unattached", "peripheral", "peripheral-anon"] {
        tree.add_child(machine, name, "container")?;
    }
    tree.container("/objects")?;

    // QEMU's numbering: the boot processor, one device of the board, then the other processors.
    let mut board = devices.iter().filter(|device| device.place == Place::Board);
    let mut cpus = Vec::new();
    for index in 0..config.cpus {
        let parent = tree.container("/machine/unattached")?;
        let cpu = tree.add_child(parent, "device[*]", &cpu_type)?;
        cpus.push(tree.path(cpu)?);
        if index == 0
            && let Some(device) = board.next()
        {
            tree.add_child(parent, "device[*]", device.type_name)?;
        }
    }
    for device in board {
        let parent = tree.container("/machine/unattached")?;
        tree.add_child(parent, "device[*]", device.type_name)?;
    }
    for device in devices {
        let (parent, name) = match &device.place {
            Place::Board => continue,
            Place::Peripheral(id) => ("/machine/peripheral", id.as_str()),
            Place::Anonymous => ("/machine/peripheral-anon", "device[*]"),
        };
        let parent = tree.container(parent)?;
        let object = tree.add_child(parent, name, device.type_name)?;
        if let Some((name, type_name)) = device.part {
            tree.add_child(object, name, type_name)?;
        }
    }
    Ok((tree, cpus))
}

/// The path of device `index` of the list, in the tree that [`build`] makes.
pub fn device_path(cpus: u32, devices: &[BoardDevice], index: usize) -> String {
    let Some(device) = devices.get(index) else { return String::new() };
    let before = |place: &Place| devices[..index].iter().filter(|other| other.place == *place).count();
    match &device.place {
        Place::Peripheral(id) => format!("/machine/peripheral/{id}"),
        Place::Anonymous => format!("/machine/peripheral-anon/device[{}]", before(&Place::Anonymous)),
        Place::Board => {
            // The first of the board's devices is behind the boot processor, the others are behind all processors.
            let number = match before(&Place::Board) {
                0 => 1,
                others => others + cpus as usize,
            };
            format!("/machine/unattached/device[{number}]")
        }
    }
}

fn types(machine_type: &str, cpu_type: &str, devices: &[BoardDevice]) -> Result<TypeRegistry, ObjectError> {
    let mut types = TypeRegistry::default();
    for (name, parent) in [("device", "object"), ("machine", "object"), ("cpu", "device"), ("x86_64-cpu", "cpu")] {
        types.register(TypeInfo::abstract_type(name, parent))?;
    }
    types.register(TypeInfo::new(machine_type, "machine"))?;
    types.register(TypeInfo::new(cpu_type, "x86_64-cpu"))?;
    let parts = devices.iter().filter_map(|device| device.part);
    for name in devices.iter().map(|device| device.type_name).chain(parts.map(|(_, type_name)| type_name)) {
        if types.get(name).is_none() {
            types.register(TypeInfo::new(name, "device"))?;
        }
    }
    Ok(types)
}
