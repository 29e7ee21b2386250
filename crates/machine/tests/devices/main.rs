//! The laws of all devices of a machine under random accesses: no access panics, a second reset changes nothing, and a
//! device saves what it was given.

use std::collections::BTreeSet;
use std::sync::Arc;

use clock::RtcBase;
use machine::accelerator::AcceleratorConfig;
use machine::config::{
    BoardOptions, BridgeKind, CardModel, CardOptions, DeviceConfig, DeviceKind, DisplayConfig, MachineConfig,
    MachineType, MemoryOptions, PciPlace,
};
use machine::numa::Numa;
use machine::vcpu::Threads;
use machine::{Backends, Machine, harness};
use x86::model::{CpuModel, Topology};

fn machine(name: &str) -> Machine {
    let accelerator = AcceleratorConfig::Qtest;
    let (cpu_model, _) = CpuModel::parse("qemu64", &accelerator.host()).expect("a model");
    let card = |model| DeviceKind::Display(DisplayConfig { model, address: None, options: CardOptions::default() });
    let bridge = |kind| DeviceKind::Bridge { kind, place: PciPlace::default(), chassis: 1 };
    let kinds = [
        card(CardModel::SecondaryVga),
        card(CardModel::Bochs),
        DeviceKind::Pvpanic { ioport: 0x505, events: 3 },
        DeviceKind::IsaDebugExit { iobase: 0x501, iosize: 2 },
        DeviceKind::Ib700,
        DeviceKind::I6300Esb { place: PciPlace::default() },
        DeviceKind::PvpanicPci { place: PciPlace::default(), events: 3 },
        DeviceKind::PcTestdev,
        DeviceKind::Vmgenid { guid: [1; 16] },
        DeviceKind::Vmcoreinfo,
        bridge(BridgeKind::Pci),
        bridge(BridgeKind::I82801b11),
        bridge(BridgeKind::PcieToPci),
    ];
    let plain = kinds.map(|kind| DeviceConfig { id: None, source: String::new(), kind }).into_iter();
    let config = MachineConfig {
        machine_type: MachineType::by_name(name).expect("a machine"),
        ram_size: 32 << 20,
        cpus: 1,
        topology: Topology { sockets: 1, dies: 1, cores: 1, threads: 1 },
        cpu_model,
        accelerator,
        threads: Threads::Multi,
        icount: None,
        rtc: RtcBase::Virtual { start: 1_000_000_000 },
        usb: true,
        hpet: true,
        mem_merge: true,
        dump_guest_core: true,
        firmware: machine::firmware::FirmwareConfig::default(),
        boot: None,
        vga: Some(CardOptions::default()),
        board: BoardOptions { no_reboot: false, ..BoardOptions::default() },
        memory: MemoryOptions::default(),
        numa: Numa::default(),
        types: Vec::new(),
        devices: plain.chain(harness::usb_devices()).collect(),
    };
    let backends = Backends {
        chardevs: &|id| Err(chardev::Error::NotFound(id.to_owned())),
        disks: &|_| Err("there is no disk".to_owned()),
        memories: &|_| Err("there is no memory".to_owned()),
        entropy: &|_| Err("there is no source".to_owned()),
    };
    Machine::new(&config, &backends, &(Arc::new(|_| ()) as machine::event::GuestEvents), None).expect("a machine")
}

/// Random bytes, the same in each run.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn every_device_keeps_the_laws_under_random_accesses() {
    for name in ["pc", "q35"] {
        let machine = machine(name);
        let access = machine.qtest_access();
        assert!(access.devices.len() > 15, "all devices are there: {}", access.devices.len());
        let mut broken: BTreeSet<String> = harness::check(&access).into_iter().collect();
        for seed in 0..40 {
            broken.extend(harness::play(&access, &noise(4000, seed)));
            broken.extend(harness::check(&access));
        }
        assert!(broken.is_empty(), "{name}: {broken:#?}");
    }
}
