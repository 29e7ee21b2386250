//! The laws of all devices of a machine under random accesses: no access panics, a second reset changes nothing, and a
//! device saves what it was given.

use std::collections::BTreeSet;

use machine::harness::Harness;

/// Random bytes, the same in each run.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn broken(harness: &Harness, seeds: std::ops::Range<u64>) -> BTreeSet<String> {
    let mut broken: BTreeSet<String> = harness.check().into_iter().collect();
    for seed in seeds {
        broken.extend(harness.play(&noise(4000, seed)));
        broken.extend(harness.check());
    }
    broken
}

#[test]
fn every_device_keeps_the_laws_under_random_accesses() {
    for name in ["pc", "q35", "isapc", "microvm"] {
        let harness = Harness::new(name);
        assert!(harness.devices() > 15, "all devices are there: {}", harness.devices());
        let broken = broken(&harness, 0..12);
        assert!(broken.is_empty(), "{name}: {broken:#?}");
    }
}

#[test]
fn nothing_keeps_devices_that_were_removed() {
    for name in ["pc", "q35"] {
        let harness = Harness::new(name);
        // Rings are set up, requests are under way.
        for seed in 0..3 {
            harness.play(&noise(4000, seed));
        }
        let kept = harness.remove_and_find_kept();
        assert!(kept.is_empty(), "{name}: {kept:?}");
    }
}

#[test]
fn each_device_alone_keeps_the_laws_where_firmware_puts_it() {
    let mut seen = BTreeSet::new();
    for (machine, owns) in [
        (
            "q35",
            &["mc146818rtc", "cfi.pflash01", "acpi-pci-hotplug", "pcie-root-port", "virtio-vga", "express-virtio"][..],
        ),
        ("microvm", &["ged", "virtio-mmio", "ioapic-2", "gpex", "isa-serial"][..]),
        ("pc", &["acpi-cpu-hotplug", "ide", "fdc"][..]),
        ("isapc", &["vga", "ide", "isa-parallel"][..]),
    ] {
        let names = Harness::new(machine).names();
        for name in owns {
            assert!(names.iter().any(|other| other == name), "{machine} has no {name}: {names:?}");
        }
        for device in names.into_iter().filter(|name| seen.insert(name.clone()) || owns.contains(&name.as_str())) {
            let broken = broken(&Harness::of_device(machine, &device), 0..1);
            assert!(broken.is_empty(), "{machine}, {device}: {broken:#?}");
        }
    }
    assert!(seen.len() > 50, "{seen:?}");
}
