//! The machine's objects: `/machine` with its vCPUs and devices, where QEMU has them.
//!
//! Devices of the command line with an id are `/machine/peripheral/ID`, those without one
//! `/machine/peripheral-anon/device[N]`, parts of devices are below those, and the board's own
//! `/machine/unattached/device[N]`, the boot processor first.

mod cpu;

use object::{ObjectError, ObjectId, ObjectTree, Property, PropertyValue, TypeInfo, TypeRegistry, ValueKind};
use x86::model::{CpuModel, NEWEST};

use crate::config::{ChipsetKind, MACHINE_TYPES, MachineConfig, MachineType};
use crate::machine::CpuSlot;
use crate::pc::{BoardDevice, Place};

/// Builds the tree, and tells the paths of the vCPUs that are present.
pub fn build(
    config: &MachineConfig,
    slots: &[CpuSlot],
    devices: &mut [BoardDevice],
) -> Result<(ObjectTree, Vec<String>), ObjectError> {
    let machine_type = machine_type(config.machine_type);
    let cpu_type = config.cpu_model.type_name();
    let paths: Vec<_> = (0..devices.len()).map(|index| device_path(config.cpus, devices, index)).collect();
    for (device, path) in devices.iter_mut().zip(paths) {
        device.path = path;
    }
    let mut tree = ObjectTree::new(types(config, &cpu_type, devices)?);
    let root = tree.root();
    let machine = tree.add_child(root, "machine", &machine_type)?;
    for name in ["unattached", "peripheral", "peripheral-anon"] {
        tree.add_child(machine, name, "container")?;
    }
    tree.container("/objects")?;

    // QEMU's numbering: the boot processor, one device of the board, then the other processors.
    let mut board = devices.iter().filter(|device| device.place == Place::Board);
    let mut cpus = Vec::new();
    for (index, slot) in slots.iter().enumerate().take(config.cpus as usize) {
        let parent = tree.container("/machine/unattached")?;
        let cpu = tree.add_child(parent, "device[*]", &cpu_type)?;
        cpu::properties(&mut tree, cpu, (&config.cpu_model, slot), false)?;
        cpus.push(tree.path(cpu)?);
        if index == 0
            && let Some(device) = board.next()
        {
            let object = tree.add_child(parent, "device[*]", device.type_name)?;
            device_properties(&mut tree, object, device)?;
        }
    }
    for device in board {
        let parent = tree.container("/machine/unattached")?;
        let object = tree.add_child(parent, "device[*]", device.type_name)?;
        device_properties(&mut tree, object, device)?;
    }
    machine_properties(&mut tree, machine, config)?;
    for device in devices.iter().filter(|device| device.place != Place::Board) {
        add(&mut tree, device)?;
    }
    Ok((tree, cpus))
}

/// Adds a device to the tree, at the place that its path says; the type is made if it is not known.
pub fn add(tree: &mut ObjectTree, device: &BoardDevice) -> Result<(), ObjectError> {
    let (parent, name) = device.path.rsplit_once('/').unwrap_or_default();
    for type_name in std::iter::once(device.type_name).chain(device.part.map(|(_, type_name)| type_name)) {
        if tree.types().get(type_name).is_none() {
            tree.types_mut().register(TypeInfo::new(type_name, "device"))?;
        }
    }
    let parent = tree.container(parent)?;
    let object = tree.add_child(parent, name, device.type_name)?;
    device_properties(tree, object, device)?;
    if let Some((name, type_name)) = device.part {
        tree.add_child(object, name, type_name)?;
    }
    Ok(())
}

/// The first path that is free for an object that a user did not name.
pub fn anonymous_path(tree: &ObjectTree) -> String {
    let mut paths = (0_usize..).map(|number| format!("/machine/peripheral-anon/device[{number}]"));
    paths.find(|path| tree.resolve(path).is_err()).unwrap_or_default()
}

/// Adds a processor that comes beside those of `-smp`.
pub fn add_cpu(
    tree: &mut ObjectTree,
    path: &str,
    (model, slot): (&CpuModel, &CpuSlot),
    is_hotplugged: bool,
) -> Result<(), ObjectError> {
    let (parent, name) = path.rsplit_once('/').unwrap_or_default();
    let parent = tree.container(parent)?;
    let object = tree.add_child(parent, name, &model.type_name())?;
    cpu::properties(tree, object, (model, slot), is_hotplugged)
}

/// What every device says of itself.
fn device_properties(tree: &mut ObjectTree, object: ObjectId, device: &BoardDevice) -> Result<(), ObjectError> {
    let can_leave = device.removal.is_possible();
    for (name, value) in [("realized", true), ("hotpluggable", can_leave), ("hotplugged", device.is_hotplugged)] {
        tree.add_property(object, name, Property::fixed(value))?;
    }
    tree.set_realized(object, true, device.id())
}

/// What the machine was configured with.
fn machine_properties(tree: &mut ObjectTree, machine: ObjectId, config: &MachineConfig) -> Result<(), ObjectError> {
    let (kernel, initrd, append) = match &config.boot {
        Some(boot) => (boot.kernel_path.clone(), boot.initrd_path.clone(), boot.command_line.clone()),
        None => Default::default(),
    };
    let firmware = config.firmware.rom.as_ref().map(|rom| rom.path.clone()).unwrap_or_default();
    for (name, value) in [("kernel", kernel), ("initrd", initrd), ("append", append), ("firmware", firmware)] {
        tree.add_property(machine, name, Property::fixed(value).type_name("string"))?;
    }
    for (name, value) in
        [("dump-guest-core", config.dump_guest_core), ("mem-merge", config.mem_merge), ("usb", config.usb)]
    {
        tree.add_property(machine, name, Property::fixed(value))?;
    }
    let chipset = config.machine_type.chipset;
    if chipset == ChipsetKind::Microvm {
        let options = &config.board.microvm;
        let three = |value: Option<bool>| match value {
            None => "auto",
            Some(true) => "on",
            Some(false) => "off",
        };
        for (name, value) in [
            ("acpi", Some(options.acpi)),
            ("pit", Some(options.pit)),
            ("pic", Some(options.pic)),
            ("rtc", options.rtc),
            ("pcie", Some(options.pcie)),
            ("ioapic2", options.ioapic2),
        ] {
            tree.add_property(machine, name, Property::fixed(three(value)).type_name("OnOffAuto"))?;
        }
        for (name, value) in [
            ("isa-serial", options.isa_serial),
            ("x-option-roms", options.option_roms),
            ("auto-kernel-cmdline", options.auto_kernel_cmdline),
        ] {
            tree.add_property(machine, name, Property::fixed(value))?;
        }
    } else if chipset != ChipsetKind::Empty {
        tree.add_property(machine, "hpet", Property::fixed(config.hpet))?;
        tree.add_property(machine, "hmat", Property::fixed(config.numa.has_hmat))?;
    }
    let topology = config.topology;
    let numbers = [
        ("cpus", config.cpus),
        ("sockets", topology.sockets),
        ("dies", topology.dies),
        ("cores", topology.cores),
        ("threads", topology.threads),
        ("maxcpus", topology.sockets * topology.dies * topology.cores * topology.threads),
    ];
    let smp = numbers.map(|(name, number)| (name.to_owned(), PropertyValue::from(number))).to_vec();
    let smp = Property::new(ValueKind::Any).getter(move || PropertyValue::Struct(smp.clone()));
    tree.add_property(machine, "smp", smp.type_name("SMPConfiguration"))?;
    let mut memory = vec![("size".to_owned(), PropertyValue::from(config.ram_size))];
    memory.push(("slots".to_owned(), config.memory.slots.into()));
    memory.push(("max-size".to_owned(), config.memory.max.unwrap_or(config.ram_size).into()));
    let memory = Property::new(ValueKind::Any).getter(move || PropertyValue::Struct(memory.clone()));
    tree.add_property(machine, "memory", memory.type_name("MemorySizeConfiguration"))
}

/// The path of device `index` of the list, in the tree that [`build`] makes.
pub fn device_path(cpus: u32, devices: &[BoardDevice], index: usize) -> String {
    let Some(device) = devices.get(index) else { return String::new() };
    if !device.path.is_empty() {
        return device.path.clone();
    }
    let before = |place: &Place| devices[..index].iter().filter(|other| other.place == *place).count();
    match &device.place {
        Place::Peripheral(id) => format!("/machine/peripheral/{id}"),
        Place::Anonymous => format!("/machine/peripheral-anon/device[{}]", before(&Place::Anonymous)),
        Place::Part(parent, name) => format!("{parent}/{name}"),
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

/// Types that have no objects of their own: name and what they extend.
const ABSTRACT_TYPES: &[(&str, &str)] = &[
    ("device", "object"),
    ("pci-device", "device"),
    ("isa-device", "device"),
    ("ide-device", "device"),
    ("scsi-device", "device"),
    ("usb-device", "device"),
    ("machine", "object"),
    ("x86-machine", "machine"),
    ("generic-pc-machine", "x86-machine"),
    ("cpu", "device"),
    ("x86_64-cpu", "cpu"),
    ("memory-backend", "object"),
    ("rng-backend", "object"),
    ("tls-creds", "object"),
];

/// Objects that users make by `object-add`: name and what they extend.
const USER_TYPES: &[(&str, &str)] = &[
    ("iothread", "object"),
    ("memory-backend-file", "memory-backend"),
    ("memory-backend-memfd", "memory-backend"),
    ("memory-backend-ram", "memory-backend"),
    ("qtest", "object"),
    ("rng-builtin", "rng-backend"),
    ("rng-random", "rng-backend"),
    ("secret", "object"),
    ("throttle-group", "object"),
    ("tls-creds-x509", "tls-creds"),
];

fn types(config: &MachineConfig, cpu_type: &str, devices: &[BoardDevice]) -> Result<TypeRegistry, ObjectError> {
    let mut types = TypeRegistry::default();
    for (name, parent) in ABSTRACT_TYPES {
        types.register(TypeInfo::abstract_type(name, parent))?;
    }
    types.register(TypeInfo::abstract_type("user-creatable", "interface"))?;
    for (name, parent) in USER_TYPES {
        types.register(TypeInfo::new(name, parent).interface("user-creatable"))?;
    }
    for machine in MACHINE_TYPES {
        let parent = match machine.chipset {
            ChipsetKind::Empty => "machine",
            ChipsetKind::Microvm => "x86-machine",
            ChipsetKind::I440fx | ChipsetKind::Q35 | ChipsetKind::Isa => "generic-pc-machine",
        };
        types.register(TypeInfo::new(&machine_type(machine), parent))?;
    }
    for model in CpuModel::list(NEWEST) {
        types.register(TypeInfo::new(&format!("{}-x86_64-cpu", model.name), "x86_64-cpu"))?;
    }
    if types.get(cpu_type).is_none() {
        types.register(TypeInfo::new(cpu_type, "x86_64-cpu"))?;
    }
    for info in &config.types {
        types.register(info.clone())?;
    }
    let parts = devices.iter().filter_map(|device| device.part);
    for name in devices.iter().map(|device| device.type_name).chain(parts.map(|(_, type_name)| type_name)) {
        if types.get(name).is_none() {
            types.register(TypeInfo::new(name, "device"))?;
        }
    }
    Ok(types)
}

fn machine_type(machine: &MachineType) -> String {
    format!("{}-machine", machine.name)
}
