//! AML for PCI functions and processors that come and leave (ACPI 1.0b, 5.6.3 and 6.3): general-purpose event 1 asks the
//! ports of `devices_pci::acpi_hotplug` what has changed, event 2 those of `devices_chipset::cpu_hotplug`.
//!
//! Every slot of a bus has a device, filled or not, but for those whose functions never leave.

use acpi_tables::aml::{
    Acquire, Add, And, Arg, BufferData, Equal, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If,
    LessThan, Local, MethodCall, Mutex, Notify, ONE, OpRegion, OpRegionSpace, Path, Release, Return, ShiftLeft, Store,
    While, ZERO,
};

use super::dsdt::{Code, PRESENT, borrowed, code, current_resources, device, hid, method, name, ports, scope};
use crate::pc::HotplugBus;

/// How PCI functions come and leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciHotplugTables {
    /// The first port of the registers.
    pub port: u16,
    /// The buses, those nearer to the root first.
    pub buses: Vec<HotplugBus>,
}

const WAIT: u16 = 0xffff;
const PCI_PORTS: u8 = 0x18;
const CPU_PORTS: u8 = 12;

fn path(name: &str) -> Path {
    Path::new(name)
}

fn region(name: &str, first: u16, len: u8) -> Code {
    code(&OpRegion::new(name.into(), OpRegionSpace::SystemIO, &first, &len))
}

/// Registers of 32 bits.
fn field(name: &str, registers: &[&[u8; 4]]) -> Code {
    let entries = registers.iter().map(|register| FieldEntry::Named(**register, 32)).collect();
    let (access, update) = (FieldAccessType::DWord, FieldUpdateRule::WriteAsZeroes);
    code(&Field::new(name.into(), access, FieldLockRule::NoLock, update, entries))
}

fn store(into: &str, value: &dyn acpi_tables::Aml) -> Code {
    code(&Store::new(&path(into), value))
}

fn acquire(mutex: &str) -> Code {
    code(&Acquire::new(mutex.into(), WAIT))
}

fn release(mutex: &str) -> Code {
    code(&Release::new(mutex.into()))
}

fn call(name: &str, arguments: &[Code]) -> Code {
    code(&MethodCall::new(name.into(), borrowed(arguments)))
}

/// The registers, below `PCI0`.
pub fn pci_registers(tables: &PciHotplugTables) -> Vec<Code> {
    let port = tables.port;
    let eject = [
        acquire("BLCK"),
        store("BNUM", &Arg(0)),
        code(&ShiftLeft::new(&path("B0EJ"), &ONE, &Arg(1))),
        release("BLCK"),
        code(&Return::new(&ZERO)),
    ];
    vec![
        device(
            "PHPR",
            &[
                hid("PNP0A06"),
                name("_UID", &"PCI Hotplug resources"),
                name("_STA", &0xb_u8),
                current_resources(&[ports(port, PCI_PORTS)]),
            ],
        ),
        region("PCST", port, 8),
        field("PCST", &[b"PCIU", b"PCID"]),
        region("SEJ_", port + 8, 4),
        field("SEJ_", &[b"B0EJ"]),
        region("BNMR", port + 0x10, 8),
        field("BNMR", &[b"BNUM", b"PIDX"]),
        code(&Mutex::new("BLCK".into(), 0)),
        method("PCEJ", 2, &eject),
    ]
}

/// The slots of the root bus and, in them, those behind bridges; and the method `PCNT`, which tells what has changed.
pub fn pci_slots(tables: &PciHotplugTables) -> Vec<Code> {
    bus(&tables.buses, &[], "\\_SB_.PCI0")
}

fn slot_name(devfn: u8) -> String {
    format!("S{devfn:02X}_")
}

/// What is below the device of a bridge, or of the host bridge; nothing if neither it nor what is behind it is described.
fn bus(buses: &[HotplugBus], bridges: &[devices_pci::Address], place: &str) -> Vec<Code> {
    let own = buses.iter().find(|bus| bus.bridges == bridges);
    let mut children: Vec<devices_pci::Address> =
        buses.iter().filter_map(|bus| bus.bridges.strip_prefix(bridges)?.first().copied()).collect();
    children.sort_unstable();
    children.dedup();
    if own.is_none() && children.is_empty() {
        return Vec::new();
    }
    let (mut parts, mut count, mut notify) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(own) = own {
        parts.push(name("BSEL", &own.selector));
        let slots = if own.has_one_slot { 0..1 } else { 0..32_u8 };
        for slot in slots.filter(|slot| own.fixed >> slot & 1 == 0) {
            let path_of = slot_name(slot << 3);
            let eject = call("PCEJ", &[code(&path("BSEL")), code(&path("_SUN"))]);
            parts.push(device(
                &path_of,
                &[name("_SUN", &slot), name("_ADR", &(u32::from(slot) << 16)), method("_EJ0", 1, &[eject])],
            ));
            let told = code(&Notify::new(&path(&path_of), &Arg(1)));
            notify.push(code(&If::new(&And::new(&ZERO, &Arg(0), &(1_u32 << slot)), vec![&told])));
        }
        parts.push(method("DVNT", 2, &notify));
        count.push(store("BNUM", &own.selector));
        count.push(call("DVNT", &[code(&path("PCIU")), code(&ONE)]));
        count.push(call("DVNT", &[code(&path("PCID")), code(&3_u8)]));
    }
    for bridge in children {
        let path_of = slot_name(bridge.devfn());
        let address = u32::from(bridge.slot()) << 16 | u32::from(bridge.function());
        let mut inside = vec![name("_ADR", &address)];
        let place = format!("{place}.{path_of}");
        inside.extend(bus(buses, &[bridges, &[bridge]].concat(), &place));
        parts.push(device(&path_of, &inside));
        count.push(call(&format!("{place}.PCNT"), &[]));
    }
    parts.push(method("PCNT", 0, &count));
    parts
}

/// The handlers of the events.
pub fn events(has_pci: bool, has_cpus: bool) -> Code {
    let mut parts = vec![name("_HID", &"ACPI0006")];
    if has_pci {
        let body = [acquire("\\_SB_.PCI0.BLCK"), call("\\_SB_.PCI0.PCNT", &[]), release("\\_SB_.PCI0.BLCK")];
        parts.push(method("_E01", 0, &body));
    }
    if has_cpus {
        parts.push(method("_E02", 0, &[call("\\_SB_.CPUS.CSCN", &[])]));
    }
    scope("\\_GPE", &parts)
}

/// The registers of processors, below `PCI0`.
pub fn cpu_registers(port: u16) -> Code {
    let field = |access: FieldAccessType, update: FieldUpdateRule, entries: Vec<FieldEntry>| {
        code(&Field::new("PRST".into(), access, FieldLockRule::NoLock, update, entries))
    };
    let bit = |name: &[u8; 4]| FieldEntry::Named(*name, 1);
    let status = vec![
        FieldEntry::Reserved(32),
        bit(b"CPEN"),
        bit(b"CINS"),
        bit(b"CRMV"),
        bit(b"CEJ0"),
        FieldEntry::Reserved(4),
        FieldEntry::Named(*b"CCMD", 8),
    ];
    let data = vec![FieldEntry::Named(*b"CSEL", 32), FieldEntry::Reserved(32), FieldEntry::Named(*b"CDAT", 32)];
    device(
        "PRES",
        &[
            hid("PNP0A06"),
            name("_UID", &"CPU Hotplug resources"),
            name("_STA", &0xb_u8),
            current_resources(&[ports(port, CPU_PORTS)]),
            code(&Mutex::new("CPLK".into(), 0)),
            region("PRST", port, CPU_PORTS),
            field(FieldAccessType::Byte, FieldUpdateRule::WriteAsZeroes, status),
            field(FieldAccessType::DWord, FieldUpdateRule::Preserve, data),
            // The first write switches to these registers.
            method("_INI", 0, &[store("CSEL", &ZERO)]),
        ],
    )
}

const LOCK: &str = "\\_SB_.PCI0.PRES.CPLK";
const SELECTOR: &str = "\\_SB_.PCI0.PRES.CSEL";
const COMMAND: &str = "\\_SB_.PCI0.PRES.CCMD";
const DATA: &str = "\\_SB_.PCI0.PRES.CDAT";
const ENABLED: &str = "\\_SB_.PCI0.PRES.CPEN";
const INSERTED: &str = "\\_SB_.PCI0.PRES.CINS";
const REMOVE: &str = "\\_SB_.PCI0.PRES.CRMV";
const EJECT: &str = "\\_SB_.PCI0.PRES.CEJ0";

/// The methods that the processors share, below `CPUS`: status, ejection, the system's report, and what has changed.
pub fn cpu_methods(count: usize) -> Vec<Code> {
    let select = || store(SELECTOR, &Arg(0));
    let is_on = code(&Store::new(&Local(0), &PRESENT));
    let status = [
        acquire(LOCK),
        select(),
        code(&Store::new(&Local(0), &ZERO)),
        code(&If::new(&Equal::new(&path(ENABLED), &ONE), vec![&is_on])),
        release(LOCK),
        code(&Return::new(&Local(0))),
    ];
    let eject = [acquire(LOCK), select(), store(EJECT, &ONE), release(LOCK)];
    let report = [
        acquire(LOCK),
        select(),
        store(COMMAND, &ONE),
        store(DATA, &Arg(1)),
        store(COMMAND, &2_u8),
        store(DATA, &Arg(2)),
        release(LOCK),
    ];
    let notify: Vec<Code> = (0..count)
        .map(|index| {
            let told = code(&Notify::new(&path(&format!("C{index:03X}")), &Arg(1)));
            code(&If::new(&Equal::new(&Arg(0), &(index as u32)), vec![&told]))
        })
        .collect();
    let changed = |flag: &str, value: u8| {
        let body = [call("CTFY", &[code(&Local(0)), code(&value)]), store(flag, &ONE)];
        code(&If::new(&Equal::new(&path(flag), &ONE), borrowed(&body)))
    };
    let step = [
        store(SELECTOR, &Local(0)),
        changed(INSERTED, 1),
        changed(REMOVE, 3),
        code(&Add::new(&Local(0), &Local(0), &ONE)),
    ];
    let scan = [
        acquire(LOCK),
        code(&Store::new(&Local(0), &ZERO)),
        code(&While::new(&LessThan::new(&Local(0), &(count as u32)), borrowed(&step))),
        release(LOCK),
    ];
    vec![
        method("CSTA", 1, &status),
        method("CEJ0", 1, &eject),
        method("COST", 3, &report),
        method("CTFY", 2, &notify),
        method("CSCN", 0, &scan),
    ]
}

/// What one processor's device has beside its names.
pub fn cpu(index: usize, apic_id: u32) -> Vec<Code> {
    let number = code(&(index as u32));
    let with = |method: &str, more: &[Code]| {
        let mut arguments = vec![Code(number.0.clone())];
        arguments.extend(more.iter().map(|code| Code(code.0.clone())));
        call(method, &arguments)
    };
    let mut entry = vec![0_u8, 8, index as u8, apic_id as u8];
    entry.extend(1_u32.to_le_bytes());
    if apic_id > 0xfe {
        entry = vec![9, 16, 0, 0];
        for value in [apic_id, 1, index as u32] {
            entry.extend(value.to_le_bytes());
        }
    }
    let mut parts = vec![
        method("_STA", 0, &[code(&Return::new(&with("CSTA", &[])))]),
        name("_MAT", &BufferData::new(entry)),
        method("_OST", 3, &[with("COST", &[code(&Arg(0)), code(&Arg(1))])]),
    ];
    if index != 0 {
        parts.push(method("_EJ0", 1, &[with("CEJ0", &[])]));
    }
    parts
}
