//! What QMP has as text for people, and the human monitor shows as it is.

use std::fmt::Write as _;
use std::sync::Arc;

use machine::pci::class_description;
use machine::tree::{Bus, Facts, Node, Value};
use machine::{Machine, UsbDeviceInfo, UsbSpeed};
use memory::{Backing, RamBlock};

// Strings take everything: results of `write!` are not looked at.

/// The blocks of memory that are mapped, each once.
fn blocks(machine: &Machine) -> Vec<Arc<RamBlock>> {
    let mut blocks: Vec<Arc<RamBlock>> = Vec::new();
    for (_, view) in machine.address_spaces() {
        for range in view.ranges() {
            if let Backing::Ram { block, .. } = &range.backing
                && !blocks.iter().any(|known| Arc::ptr_eq(known, block))
            {
                blocks.push(Arc::clone(block));
            }
        }
    }
    blocks
}

/// `info ramblock`: the blocks that the guest sees now, one behind the other.
pub fn ramblock(machine: &Machine) -> String {
    let mut shown = format!("{:>24} {:>8}  {:>18} {:>18} {:>18}\n", "Block Name", "PSize", "Offset", "Used", "Total");
    let mut offset = 0_u64;
    for block in blocks(machine) {
        let len = block.len() as u64;
        let _ = writeln!(shown, "{:>24} {:>8}  {offset:#018x} {len:#018x} {len:#018x}", block.name(), "4 KiB");
        offset = offset.saturating_add(len);
    }
    shown
}

/// `info roms`
pub fn roms(machine: &Machine) -> String {
    let mut shown = String::new();
    let [(_, memory), _] = machine.address_spaces();
    for range in memory.ranges() {
        if let Backing::Ram { block, read_only: true, .. } = &range.backing {
            let size = range.last - range.start + 1;
            let _ = writeln!(shown, "addr={:016x} size=0x{size:06x} mem=rom name=\"{}\"", range.start, block.name());
        }
    }
    shown
}

/// `info numa`
pub fn numa(machine: &Machine) -> String {
    const MIB: u64 = 1 << 20;
    let nodes = machine.node_memory();
    let mut text = format!("{} nodes\n", nodes.len());
    for (number, memory) in nodes.iter().enumerate() {
        let _ = write!(text, "node {number} cpus:");
        for (index, slot) in machine.cpu_slots().iter().enumerate() {
            if machine.cpu(index).is_some() && slot.node.map(usize::from) == Some(number) {
                let _ = write!(text, " {index}");
            }
        }
        let _ = write!(text, "\nnode {number} size: {} MB\nnode {number} plugged: 0 MB\n", memory / MIB);
    }
    text
}

/// `info irq`: the inputs that have risen.
pub fn irq(machine: &Machine) -> String {
    let mut shown = String::new();
    for (kind, counts) in machine.interrupt_counts() {
        let _ = writeln!(shown, "IRQ statistics for {kind}:");
        for (input, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let _ = writeln!(shown, "{input:2}: {count}");
        }
    }
    shown
}

/// `info usb`
pub fn usb(devices: &[UsbDeviceInfo]) -> String {
    let mut shown = String::new();
    for device in devices {
        let speed = usb_speed(device.speed);
        let _ = write!(
            shown,
            "  Device {}.{}, Port {}, Speed {speed} Mb/s, Product {}",
            device.bus, device.address, device.port, device.product
        );
        if let Some(id) = &device.id {
            let _ = write!(shown, ", ID: {id}");
        }
        shown.push('\n');
    }
    shown
}

/// In Mbit/s.
fn usb_speed(speed: UsbSpeed) -> &'static str {
    match speed {
        UsbSpeed::Low => "1.5",
        UsbSpeed::Full => "12",
        UsbSpeed::High => "480",
        UsbSpeed::Super => "5000",
    }
}

/// `info qtree`
pub fn qtree(machine: &Machine) -> String {
    let mut shown = String::new();
    for bus in machine.device_tree() {
        show_bus(&bus, 0, &mut shown);
    }
    shown
}

fn show_bus(bus: &Bus, depth: usize, shown: &mut String) {
    let _ = writeln!(shown, "{:depth$}bus: {}", "", bus.name);
    let depth = depth + 2;
    let _ = writeln!(shown, "{:depth$}type {}", "", bus.kind);
    for device in &bus.devices {
        show_device(device, depth, shown);
    }
}

fn show_device(device: &Node, depth: usize, shown: &mut String) {
    let id = device.id.as_deref().unwrap_or_default();
    let _ = writeln!(shown, "{:depth$}dev: {}, id \"{id}\"", "", device.type_name);
    let depth = depth + 2;
    for (name, value) in &device.settings {
        let _ = writeln!(shown, "{:depth$}{name} = {}", "", setting(value));
    }
    for line in facts(&device.facts) {
        let _ = writeln!(shown, "{:depth$}{line}", "");
    }
    for bus in &device.buses {
        show_bus(bus, depth, shown);
    }
}

fn setting(value: &Value) -> String {
    match value {
        Value::Switch(value) => value.to_string(),
        Value::Number(value) => format!("{value} ({value:#x})"),
        Value::Size(value) => format!("{value} ({})", block_tools::size::human(*value)),
        Value::Text(value) => format!("\"{}\"", value.escape_debug()),
        Value::Slot(slot, function) => format!("{slot:02x}.{function:x}"),
    }
}

fn facts(facts: &Facts) -> Vec<String> {
    match facts {
        Facts::None => Vec::new(),
        Facts::Memory(address, len) => vec![format!("mmio {address:016x}/{len:016x}")],
        Facts::Usb(device) => vec![format!(
            "addr {}.{}, port {}, speed {}, name {}, attached",
            device.bus,
            device.address,
            device.port,
            usb_speed(device.speed),
            device.product
        )],
        Facts::Pci(function) => {
            let class = class_description(function.class);
            let class = class.map_or_else(|| format!("Class {:04x}", function.class), str::to_owned);
            let (slot, number) = (function.address.slot(), function.address.function());
            let mut lines = vec![format!(
                "class {class}, addr {:02x}:{slot:02x}.{number:x}, pci id {:04x}:{:04x} (sub {:04x}:{:04x})",
                function.bus, function.vendor, function.device, function.subsystem_vendor, function.subsystem
            )];
            lines.extend(function.bars.iter().map(|bar| {
                let kind = if bar.kind == machine::pci::BarKind::Io { "i/o" } else { "mem" };
                let address = bar.address.unwrap_or(u64::MAX);
                let end = address.wrapping_add(bar.size).wrapping_sub(1);
                format!("bar {}: {kind} at {address:#x} [{end:#x}]", bar.index)
            }));
            lines
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_shown_below_their_buses_with_what_they_were_configured_with() {
        let unit = Node {
            type_name: "scsi-hd",
            path: String::new(),
            id: Some("disk".to_owned()),
            settings: vec![
                ("drive", Value::Text("d \"0\"".to_owned())),
                ("share-rw", Value::Switch(false)),
                ("lun", Value::Number(17)),
                ("logical_block_size", Value::Size(4096)),
            ],
            facts: Facts::None,
            buses: Vec::new(),
        };
        let hpet = Node {
            type_name: "hpet",
            path: String::new(),
            id: None,
            settings: vec![("addr", Value::Slot(31, 2))],
            facts: Facts::Memory(0xfed0_0000, 0x400),
            buses: vec![Bus { name: "scsi.0".to_owned(), kind: "SCSI", devices: vec![unit] }],
        };
        let mut shown = String::new();
        show_bus(&Bus { name: "main-system-bus".to_owned(), kind: "System", devices: vec![hpet] }, 0, &mut shown);
        let expected = [
            "bus: main-system-bus",
            "  type System",
            "  dev: hpet, id \"\"",
            "    addr = 1f.2",
            "    mmio 00000000fed00000/0000000000000400",
            "    bus: scsi.0",
            "      type SCSI",
            "      dev: scsi-hd, id \"disk\"",
            "        drive = \"d \\\"0\\\"\"",
            "        share-rw = false",
            "        lun = 17 (0x11)",
            "        logical_block_size = 4096 (4 KiB)",
        ];
        assert_eq!(shown.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn usb_devices_are_shown_with_their_ids_if_they_have_any() {
        let device = UsbDeviceInfo {
            bus: 1,
            address: 3,
            port: "1.2".to_owned(),
            speed: UsbSpeed::Full,
            product: "QEMU USB Hub",
            id: None,
        };
        let named = UsbDeviceInfo { id: Some("hub".to_owned()), speed: UsbSpeed::Low, ..device.clone() };
        assert_eq!(
            usb(&[device, named]),
            "  Device 1.3, Port 1.2, Speed 12 Mb/s, Product QEMU USB Hub\n  \
             Device 1.3, Port 1.2, Speed 1.5 Mb/s, Product QEMU USB Hub, ID: hub\n"
        );
    }
}
