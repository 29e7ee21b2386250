//! What devices of older machine types keep as it was, so that a guest finds the devices that it was installed on: QEMU's
//! compatibility properties, by version.
//!
//! They count as `-global` options before those of the user do (see [`super::globals`]). What processors keep is in
//! `x86::model`. Left out is what concerns QEMU's migration stream, and properties that devices here don't have.

use x86::model::MachineVersion;

use super::globals::Global;

/// Drivers or classes of them, and what they have.
type Change = (&'static str, &'static str);

/// What machine types of each version and of those before it have, the newest first. The later one counts.
const CHANGES: &[(MachineVersion, &[Change])] = &[
    (
        (7, 1),
        &[
            ("virtio-device", "queue_reset=off"),
            ("virtio-rng-pci virtio-rng-pci-transitional virtio-rng-pci-non-transitional", "vectors=0"),
        ],
    ),
    ((6, 0), &[("ICH9-LPC", "acpi-pci-hotplug-with-bridge-support=off")]),
    ((5, 2), &[("virtio-blk-device", "report-discard-granularity=off")]),
    ((5, 1), &[("virtio-blk-device", "num-queues=1"), ("virtio-scsi-device", "num_queues=1"), ("pvpanic", "events=1")]),
    (
        (4, 2),
        &[
            ("virtio-blk-device", "queue-size=128,seg-max-adjust=off"),
            ("virtio-scsi-device", "virtqueue_size=128,seg_max_adjust=off"),
            ("mch", "smbase-smram=off"),
        ],
    ),
    ((4, 1), &[("virtio-pci", "x-pcie-flr-init=off")]),
    ((4, 0), &[("VGA secondary-vga bochs-display virtio-vga virtio-gpu-device", "edid=off")]),
    (
        (3, 1),
        &[
            ("pcie-root-port", "x-speed=2_5,x-width=1,disable-acs=on"),
            ("usb-kbd usb-mouse usb-tablet", "serial=42"),
            ("virtio-blk-device", "discard=off,write-zeroes=off"),
        ],
    ),
    ((2, 11), &[("virtio-blk-pci", "vectors=2")]),
    ((2, 10), &[("virtio-mouse-device virtio-tablet-device", "wheel-axis=off")]),
    ((2, 9), &[("mch", "extended-tseg-mbytes=0")]),
    ((2, 8), &[("virtio-pci", "x-pcie-deverr-init=off,x-pcie-lnkctl-init=off,x-pcie-pm-init=off")]),
    ((2, 7), &[("virtio-pci", "page-per-vq=on"), ("virtio-serial-device", "emergency-write=off")]),
    ((2, 6), &[("virtio-pci", "disable-modern=on,disable-legacy=off")]),
    ((2, 4), &[("virtio-pci", "x-disable-pcie=on")]),
    ((2, 3), &[("virtio-blk-pci virtio-serial-pci virtio-rng-pci", "any_layout=off")]),
    (
        (2, 1),
        &[
            ("VGA secondary-vga", "qemu-extended-regs=off"),
            ("virtio-scsi-pci", "any_layout=off"),
            ("usb-kbd usb-mouse", "usb_version=1"),
        ],
    ),
    ((2, 0), &[("nec-usb-xhci", "superspeed-ports-first=off")]),
    ((1, 7), &[("usb-device", "msos-desc=off"), ("PIIX4_PM", "acpi-pci-hotplug-with-bridge-support=off")]),
    ((1, 4), &[("scsi-hd scsi-cd ide-hd ide-cd virtio-blk-pci", "discard_granularity=0")]),
];

/// The properties that a machine type gives its devices, in their order.
pub fn globals(version: MachineVersion) -> impl Iterator<Item = Global> {
    let changes = CHANGES.iter().filter(move |(last, _)| version <= *last).flat_map(|(_, changes)| *changes);
    changes.flat_map(|(drivers, settings)| {
        let of_driver = move |driver: &'static str| {
            let settings = settings.split(',').filter_map(|setting| setting.split_once('='));
            settings.map(move |(property, value)| Global { is_machines: true, ..Global::new(driver, property, value) })
        };
        drivers.split(' ').flat_map(of_driver)
    })
}

#[cfg(test)]
mod tests {
    use super::super::{devices, globals};
    use super::*;

    #[test]
    fn every_change_is_of_a_known_device_and_property() {
        for (version, changes) in CHANGES {
            for (drivers, settings) in *changes {
                for (driver, setting) in
                    drivers.split(' ').flat_map(|name| settings.split(',').map(move |one| (name, one)))
                {
                    let (property, value) = setting.split_once('=').expect("a property and a value");
                    let global = Global::new(driver, property, value);
                    let is_known = globals::is_of_board(&global)
                        || devices::drivers()
                            .any(|driver| global.counts_for(driver) && globals::has_property(driver, property));
                    assert!(is_known, "{driver}.{property} of {version:?}");
                }
            }
        }
        assert!(CHANGES.is_sorted_by(|(one, _), (next, _)| one > next), "the newest first");
    }
}
