//! AML for PCI functions that come and leave (ACPI 1.0b, 5.6.3 and 6.3): general-purpose event 1 asks the ports of
//! `devices_pci::acpi_hotplug` what has changed.
//!
//! Every slot of a bus has a device, filled or not, but for those whose functions never leave.

use acpi_tables::aml::{
    Acquire, And, Arg, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If, MethodCall, Mutex,
    Notify, ONE, OpRegion, OpRegionSpace, Path, Release, Return, ShiftLeft, Store, ZERO,
};

use super::dsdt::{Code, borrowed, code, current_resources, device, hid, method, name, ports, scope};
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

/// The handler of the event.
pub fn events() -> Code {
    let body = [acquire("\\_SB_.PCI0.BLCK"), call("\\_SB_.PCI0.PCNT", &[]), release("\\_SB_.PCI0.BLCK")];
    scope("\\_GPE", &[name("_HID", &"ACPI0006"), method("_E01", 0, &body)])
}
