//! The DSDT: what an operating system can't find out by probing.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Equal, Field, FieldAccessType,
    FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Local, Memory32Fixed, Method, Name, OpRegion,
    OpRegionSpace, Or, Package, PackageBuilder, Path, ResourceTemplate, Return, Scope, Store, ZERO,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use super::{AcpiConfig, ChipsetTables, ParallelPort, SerialPort, SleepStates, board, hotplug, table};

/// The PCI interrupt links: name, routing register field, and the interrupt routed at start. The PIIX3 has the first
/// four, the ICH9 all of them.
const LINKS: [(&str, &[u8; 4], u32); 8] = [
    ("LNKA", b"PRQ0", 10),
    ("LNKB", b"PRQ1", 10),
    ("LNKC", b"PRQ2", 11),
    ("LNKD", b"PRQ3", 11),
    ("LNKE", b"PRQ4", 10),
    ("LNKF", b"PRQ5", 10),
    ("LNKG", b"PRQ6", 11),
    ("LNKH", b"PRQ7", 11),
];
/// The ICH9's links in APIC mode: each has an input of its own.
const DIRECT_LINKS: [&str; 8] = ["GSIA", "GSIB", "GSIC", "GSID", "GSIE", "GSIF", "GSIG", "GSIH"];
/// The first of those inputs.
const FIRST_DIRECT: u32 = 16;
/// PCI slots with an entry in `_PRT`.
const SLOTS: u8 = 32;
/// `_STA`: nothing there.
const ZERO_STATUS: u8 = 0;
/// `_STA`: present, enabled, shown, functioning.
pub(super) const PRESENT: u8 = 0xf;

/// Encoded AML. Composing encoded pieces keeps each piece's life simple: the library's own objects borrow their parts.
pub(super) struct Code(pub(super) Vec<u8>);

impl Aml for Code {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

pub(super) fn code(object: &dyn Aml) -> Code {
    let mut bytes = Vec::new();
    object.to_aml_bytes(&mut bytes);
    Code(bytes)
}

pub(super) fn borrowed(parts: &[Code]) -> Vec<&dyn Aml> {
    parts.iter().map(|part| part as &dyn Aml).collect()
}

pub(super) fn name(path: &str, value: &dyn Aml) -> Code {
    code(&Name::new(path.into(), value))
}

pub(super) fn hid(eisa: &str) -> Code {
    name("_HID", &EISAName::new(eisa))
}

pub(super) fn resources(parts: &[Code]) -> Code {
    code(&ResourceTemplate::new(borrowed(parts)))
}

pub(super) fn current_resources(parts: &[Code]) -> Code {
    name("_CRS", &resources(parts))
}

/// The firmware's configuration device, which is none for operating systems to show.
pub(super) fn fw_cfg() -> Code {
    device("FWCF", &[name("_HID", &"QEMU0002"), name("_STA", &0xb_u8), current_resources(&[ports(0x510, 0xc)])])
}

pub(super) fn real_time_clock() -> Code {
    device("RTC_", &[hid("PNP0B00"), current_resources(&[ports(0x70, 8), isa_irq(8)])])
}

pub(super) fn serial_port(&SerialPort { number, io, irq }: &SerialPort) -> Code {
    let crs = current_resources(&[ports(io, 8), isa_irq(irq)]);
    device(&format!("COM{number}"), &[hid("PNP0501"), name("_UID", &number), name("_STA", &PRESENT), crs])
}

pub(super) fn device(path: &str, children: &[Code]) -> Code {
    code(&Device::new(path.into(), borrowed(children)))
}

pub(super) fn method(path: &str, arguments: u8, body: &[Code]) -> Code {
    code(&Method::new(path.into(), arguments, false, borrowed(body)))
}

pub(super) fn scope(path: &str, children: &[Code]) -> Code {
    code(&Scope::new(path.into(), borrowed(children)))
}

pub(super) fn ports(first: u16, length: u8) -> Code {
    code(&IO::new(first, first, 1, length))
}

/// An edge-triggered, active-high, exclusive ISA interrupt.
pub(super) fn isa_irq(number: u8) -> Code {
    code(&Interrupt::new(true, true, false, false, u32::from(number)))
}

/// A level-triggered, active-high, shared interrupt, as PCI links give it.
fn link_irq(number: u32) -> Code {
    resources(&[code(&Interrupt::new(true, false, false, true, number))])
}

/// Builds the table.
pub fn build(config: &AcpiConfig) -> Sdt {
    let mut dsdt = table(*b"DSDT", 1, 36);
    let is_q35 = config.chipset != ChipsetTables::I440fx;
    let mut root =
        vec![if is_q35 { pcie_root(config, isa_bridge(config)) } else { pci_root(config, isa_bridge(config)) }];
    root.extend(config.hpet.then(hpet));
    let links = if is_q35 { &LINKS[..] } else { &LINKS[..4] };
    root.extend(links.iter().enumerate().map(|(index, link)| interrupt_link(index, *link)));
    if is_q35 {
        for (index, path) in DIRECT_LINKS.iter().enumerate() {
            root.push(direct_link(path, 0x10 + index as u8, &link_irq(FIRST_DIRECT + index as u32)));
        }
        let mode = method("\\_PIC", 1, &[code(&Store::new(&Path::new("PICF"), &Arg(0)))]);
        dsdt.append_slice(&name("\\PICF", &ZERO).0);
        dsdt.append_slice(&mode.0);
    }
    root.push(processors(config));
    root.push(scope("PCI0", &changing(config)));
    for state in sleep_states(config.sleep) {
        dsdt.append_slice(&state.0);
    }
    dsdt.append_slice(&scope("\\_SB_", &root).0);
    let (has_pci, has_cpus) = (config.pci_hotplug.is_some(), config.cpu_hotplug.is_some());
    if has_pci || has_cpus {
        dsdt.append_slice(&hotplug::events(has_pci, has_cpus).0);
    }
    dsdt
}

/// The registers and slots of what comes and leaves.
fn changing(config: &AcpiConfig) -> Vec<Code> {
    let mut parts = Vec::new();
    if let Some(tables) = &config.pci_hotplug {
        parts.extend(hotplug::pci_registers(tables));
        parts.extend(hotplug::pci_slots(tables));
    }
    parts.extend(config.cpu_hotplug.map(hotplug::cpu_registers));
    parts
}

/// `\_S3` to `\_S5`: the SLP_TYP of each sleep state (ACPI 1.0b, 7.5.2).
fn sleep_states(sleep: SleepStates) -> Vec<Code> {
    let state = |path: &str, value: u8| name(path, &Package::new(vec![&value, &value, &ZERO, &ZERO]));
    let mut states = Vec::new();
    states.extend(sleep.s3.then(|| state("\\_S3_", 1)));
    states.extend(sleep.s4.map(|value| state("\\_S4_", value)));
    states.push(state("\\_S5_", 0));
    states
}

/// What each root bus forwards: bus numbers, ports, and the legacy video window.
fn legacy_windows() -> Vec<Code> {
    vec![
        code(&AddressSpace::new_bus_number(0_u16, 0xff)),
        ports(0xcf8, 8),
        code(&AddressSpace::new_io(0_u16, 0x0cf7, None)),
        code(&AddressSpace::new_io(0x0d00_u16, 0xffff, None)),
        code(&AddressSpace::new_memory(AddressSpaceCacheable::Cacheable, true, 0xa_0000_u32, 0xb_ffff, None)),
    ]
}

/// `PCI0`: the host bridge with its windows and interrupt routing.
fn pci_root(config: &AcpiConfig, isa: Code) -> Code {
    use AddressSpaceCacheable::{Cacheable, NotCacheable};
    let mut windows = legacy_windows();
    windows.push(code(&AddressSpace::new_memory(NotCacheable, true, config.pci_hole_start, board::IO_APIC - 1, None)));
    if let Some((first, last)) = config.high_window {
        windows.push(code(&AddressSpace::new_memory(Cacheable, true, first, last, None)));
    }
    // Pin A of slot `n` leads to link `n - 1`, the next pins to the next links, as the board is wired.
    let routes = routes(|slot, pin| LINKS[usize::from((slot + pin + 3) % 4)].0.to_owned());
    device("PCI0", &[hid("PNP0A03"), name("_UID", &ZERO), current_resources(&windows), name("_PRT", &routes), isa])
}

/// `PCI0` of a Q35: a PCI Express root with its configuration space in memory.
fn pcie_root(config: &AcpiConfig, isa: Code) -> Code {
    use AddressSpaceCacheable::{Cacheable, NotCacheable};
    /// All but hot-plug of the SHPC, and native hot-plug where functions come by ACPI.
    const GRANTED: u8 = 0x1c;
    let has_native_hotplug = config.pci_hotplug.is_none();
    let mut windows = legacy_windows();
    let memory = |first: u32, last: u32| {
        (first <= last).then(|| code(&AddressSpace::new_memory(NotCacheable, true, first, last, None)))
    };
    let end = board::IO_APIC - 1;
    let mmconfig = match config.chipset {
        ChipsetTables::Q35 { mmconfig: Some((base, len)) } => u32::try_from(base).ok().zip(u32::try_from(len).ok()),
        _ => None,
    };
    let mut children = Vec::new();
    match mmconfig {
        Some((base, len)) => {
            windows.extend(memory(config.pci_hole_start, base.saturating_sub(1)));
            windows.extend(memory(base.saturating_add(len), end));
            let reserved = code(&Memory32Fixed::new(true, base, len));
            children.push(device("DRAC", &[hid("PNP0C01"), current_resources(&[reserved])]));
        }
        None => windows.extend(memory(config.pci_hole_start, end)),
    }
    if let Some((first, last)) = config.high_window {
        windows.push(code(&AddressSpace::new_memory(Cacheable, true, first, last, None)));
    }
    // As the root bus is wired.
    let tables = |path: &str, links: &dyn Fn(usize) -> &'static str| {
        name(path, &routes(|slot, pin| links(devices_pci::q35::swizzle(slot, pin)).to_owned()))
    };
    let choose = method(
        "_PRT",
        0,
        &[
            code(&If::new(&Path::new("\\PICF"), vec![&Return::new(&Path::new("PRTA"))])),
            code(&Return::new(&Path::new("PRTP"))),
        ],
    );
    let mut root = vec![
        hid("PNP0A08"),
        name("_CID", &EISAName::new("PNP0A03")),
        name("_UID", &ZERO),
        current_resources(&windows),
        operating_system_capabilities(GRANTED | u8::from(has_native_hotplug)),
        tables("PRTP", &|pirq| LINKS[pirq].0),
        tables("PRTA", &|pirq| DIRECT_LINKS[pirq]),
        choose,
        isa,
    ];
    root.append(&mut children);
    device("PCI0", &root)
}

/// `_OSC` (PCI firmware specification 3.0, 4.5.1): what the operating system gets of what it asks for in the third word.
pub(super) fn operating_system_capabilities(granted: u8) -> Code {
    method(
        "_OSC",
        4,
        &[
            code(&CreateDWordField::new(&Path::new("CDW3"), &Arg(3), &8_u8)),
            code(&And::new(&Path::new("CDW3"), &Path::new("CDW3"), &granted)),
            code(&Return::new(&Arg(3))),
        ],
    )
}

/// A routing table: the link that each pin of each slot leads to.
pub(super) fn routes(link: impl Fn(u8, u8) -> String) -> Code {
    let mut routes = PackageBuilder::new();
    for slot in 0..SLOTS {
        for pin in 0..4 {
            let (address, link) = (u32::from(slot) << 16 | 0xffff, Path::new(&link(slot, pin)));
            routes.add_element(&Package::new(vec![&address, &u32::from(pin), &link, &ZERO]));
        }
    }
    code(&routes)
}

/// A link to one input of the I/O APIC, which can't be changed; `irq` are its resources.
pub(super) fn direct_link(path: &str, uid: u8, irq: &Code) -> Code {
    let parts = [hid("PNP0C0F"), name("_UID", &uid), name("_PRS", irq), name("_CRS", irq), method("_SRS", 1, &[])];
    device(path, &parts)
}

/// The ISA bridge, function 1.0, with the interrupt routing registers and what is on the bus.
fn isa_bridge(config: &AcpiConfig) -> Code {
    let status = name("_STA", &PRESENT);
    let is_q35 = config.chipset != ChipsetTables::I440fx;
    let mut children = vec![name("_ADR", if is_q35 { &0x001f_0000_u32 } else { &0x0001_0000_u32 })];
    children.extend(route_registers("P40C", 0x60, &LINKS[..4]));
    if is_q35 {
        children.extend(route_registers("P40D", 0x68, &LINKS[4..]));
    }
    children.extend([
        real_time_clock(),
        device(
            "KBD_",
            &[hid("PNP0303"), code(&status), current_resources(&[ports(0x60, 1), ports(0x64, 1), isa_irq(1)])],
        ),
        device("MOU_", &[hid("PNP0F13"), code(&status), current_resources(&[isa_irq(12)])]),
    ]);
    children.extend(config.serial_ports.iter().map(serial_port));
    for &ParallelPort { number, io, irq } in &config.parallel_ports {
        let crs = current_resources(&[ports(io, 8), isa_irq(irq)]);
        children.push(device(&format!("LPT{number}"), &[hid("PNP0400"), name("_UID", &number), code(&status), crs]));
    }
    if let Some(port) = config.pvpanic {
        let crs = current_resources(&[ports(port, 1)]);
        children.push(device("PEVT", &[name("_HID", &"QEMU0001"), code(&status), crs]));
    }
    children.push(fw_cfg());
    device("ISA_", &children)
}

/// The routing registers of some links in the bridge's configuration space.
fn route_registers(path: &str, offset: u8, links: &[(&str, &[u8; 4], u32)]) -> [Code; 2] {
    let fields = links.iter().map(|(_, field, _)| FieldEntry::Named(**field, 8)).collect();
    [
        code(&OpRegion::new(path.into(), OpRegionSpace::PCIConfig, &offset, &4_u8)),
        code(&Field::new(path.into(), FieldAccessType::Byte, FieldLockRule::NoLock, FieldUpdateRule::Preserve, fields)),
    ]
}

fn hpet() -> Code {
    let memory = code(&Memory32Fixed::new(true, board::HPET as u32, 0x400));
    device("HPET", &[hid("PNP0103"), name("_UID", &ZERO), name("_STA", &PRESENT), current_resources(&[memory])])
}

/// An interrupt link device: it reads and writes one of the PIIX3's PIRQ routing registers (PIIX3 data sheet, 2.3.11):
/// bits 3..0 are the ISA interrupt, bit 7 disables the link.
fn interrupt_link(index: usize, (path, field, default): (&str, &[u8; 4], u32)) -> Code {
    const DISABLED: u8 = 0x80;
    /// Where the interrupt number lies in the one-descriptor resource buffer.
    const NUMBER_AT: u8 = 5;
    let field = String::from_utf8_lossy(field);
    let register = Path::new(&format!("\\_SB_.PCI0.ISA_.{field}"));
    let status = method(
        "_STA",
        0,
        &[
            code(&And::new(&Local(0), &register, &DISABLED)),
            code(&If::new(&Equal::new(&Local(0), &DISABLED), vec![&Return::new(&0x9_u8)])),
            code(&Return::new(&0xb_u8)),
        ],
    );
    let current = method(
        "_CRS",
        0,
        &[
            name("BUFF", &link_irq(0)),
            code(&CreateDWordField::new(&Path::new("PRRI"), &Path::new("BUFF"), &NUMBER_AT)),
            code(&And::new(&Local(0), &register, &0xf_u8)),
            code(&Store::new(&Path::new("PRRI"), &Local(0))),
            code(&Return::new(&Path::new("BUFF"))),
        ],
    );
    let choose = method(
        "_SRS",
        1,
        &[
            code(&CreateDWordField::new(&Path::new("PRRS"), &Arg(0), &NUMBER_AT)),
            code(&Store::new(&register, &Path::new("PRRS"))),
        ],
    );
    let disable = method("_DIS", 0, &[code(&Or::new(&register, &register, &DISABLED))]);
    device(
        path,
        &[
            hid("PNP0C0F"),
            name("_UID", &(index as u8)),
            name("_PRS", &link_irq(default)),
            status,
            disable,
            current,
            choose,
        ],
    )
}

/// `CPUS`: one device for each possible vCPU.
fn processors(config: &AcpiConfig) -> Code {
    let mut children = vec![name("_HID", &"ACPI0010"), name("_CID", &EISAName::new("PNP0A05"))];
    for (index, apic_id) in config.apic_ids.iter().enumerate() {
        let mut parts = vec![name("_HID", &"ACPI0007"), name("_UID", &(index as u32))];
        match config.cpu_hotplug {
            Some(_) => parts.extend(hotplug::cpu(index, *apic_id)),
            None => parts.push(name("_STA", if config.is_present(index) { &PRESENT } else { &ZERO_STATUS })),
        }
        children.push(device(&format!("C{index:03X}"), &parts));
    }
    if config.cpu_hotplug.is_some() {
        children.extend(hotplug::cpu_methods(config.apic_ids.len()));
    }
    device("CPUS", &children)
}
