//! PCI Express: configuration spaces of ports and of functions behind them.

use std::collections::BTreeMap;

use crate::support::guest::Guest;
use crate::support::{Setup, qemu};

/// Where the test maps configuration space.
const WINDOW: u64 = 0xb000_0000;

/// Functions with their slots; those without one are behind the port that is named, whose bus has that slot's number.
const DEVICES: &[(&str, (u64, u64))] = &[
    ("pcie-root-port,id=a,chassis=1,addr=4", (0, 4)),
    ("ioh3420,id=b,chassis=2,addr=5,port=3,slot=7", (0, 5)),
    ("pcie-root-port,id=c,chassis=3,addr=6,hotplug=off", (0, 6)),
    ("pcie-root-port,id=d,chassis=4,addr=7,x-speed=5,x-width=4", (0, 7)),
    ("pcie-root-port,id=e,chassis=5,addr=8", (0, 8)),
    ("qemu-xhci,addr=9", (0, 9)),
    ("virtio-serial-pci,addr=10", (0, 0x10)),
    ("virtio-rng-pci,bus=a", (4, 0)),
    ("qemu-xhci,bus=b", (5, 0)),
    ("virtio-gpu-pci,bus=c", (6, 0)),
    ("i6300esb,bus=e", (8, 0)),
];

/// The configuration spaces of all the functions, as words.
fn spaces(setup: Setup, machine: &str) -> BTreeMap<&'static str, Vec<u64>> {
    let arguments = ["-machine", machine, "-S", "-accel", "tcg", "-qtest", "unix:{dir}/qtest,server=on,wait=off"];
    let devices = DEVICES.iter().flat_map(|(option, _)| ["-device", option]);
    let machine = &mut setup.args(arguments).args(["-qtest-log", "none"]).args(devices).start();
    let mut guest = Guest::of(machine);
    let mut set = |slot: u64, register: u64, value| {
        guest.out('l', 0xcf8, 0x8000_0000 | slot << 11 | register);
        guest.out('l', 0xcfc, value);
    };
    set(0, 0x60, WINDOW | 1);
    for slot in 4..=8 {
        set(slot, 0x18, slot << 8 | slot << 16);
    }
    let mut read = |(bus, slot): (u64, u64)| {
        let at = WINDOW + (bus << 20) + (slot << 15);
        (0..1024).map(|word| guest.number(&format!("readl {:#x}", at + 4 * word))).collect()
    };
    DEVICES.iter().map(|(option, place)| (*option, read(*place))).collect()
}

#[test]
#[ignore = "peer: qemu-system-x86_64"]
fn peer_qemu_functions_of_pci_express_have_the_same_configuration_spaces() {
    let mut problems = Vec::new();
    for machine in ["pc-q35-7.2", "pc-q35-6.0", "pc-q35-3.1", "pc-q35-2.4"] {
        let (ours, theirs) = (spaces(Setup::new(), machine), spaces(Setup::of(qemu()), machine));
        for (option, space) in &ours {
            let pairs = space.iter().zip(&theirs[option]).enumerate();
            for (word, (got, wanted)) in pairs.filter(|(_, (got, wanted))| got != wanted) {
                problems.push(format!("{machine} {option} at {:#x}: got {got:#x}, wanted {wanted:#x}", 4 * word));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
