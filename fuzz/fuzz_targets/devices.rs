//! All devices of a machine: whatever they map is accessed in any way, time passes, states are saved and restored.

#![no_main]

use std::sync::{Arc, LazyLock, Mutex};

use clock::RtcBase;
use libfuzzer_sys::fuzz_target;
use machine::accelerator::AcceleratorConfig;
use machine::config::{
    BoardOptions, BridgeKind, CardModel, CardOptions, DeviceConfig, DeviceKind, DisplayConfig, MachineConfig,
    MachineType, MemoryOptions, PciPlace,
};
use machine::numa::Numa;
use machine::vcpu::Threads;
use machine::{Backends, Machine, harness};
use x86::model::{CpuModel, Topology};

fn machine() -> Machine {
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
        bridge(BridgeKind::Pci),
        bridge(BridgeKind::I82801b11),
        bridge(BridgeKind::PcieToPci),
    ];
    let plain = kinds.map(|kind| DeviceConfig { id: None, source: String::new(), kind }).into_iter();
    let config = MachineConfig {
        machine_type: MachineType::by_name("pc").expect("a machine"),
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
        devices: plain.chain(harness::usb_devices()).chain(harness::virtio_devices()).collect(),
    };
    let backends = Backends {
        chardevs: &|_| unreachable!("no device wants one"),
        disks: &|_| Err("there is no disk".to_owned()),
        memories: &|_| Err("there is no memory".to_owned()),
        entropy: &|_| Err("there is no source".to_owned()),
    };
    Machine::new(&config, &backends, &(Arc::new(|_| ()) as machine::event::GuestEvents), None).expect("a machine")
}

// One machine for all inputs: each begins and ends with resets.
static MACHINE: LazyLock<Mutex<Machine>> = LazyLock::new(|| Mutex::new(machine()));

fuzz_target!(|input: &[u8]| {
    let machine = MACHINE.lock().expect("one thread");
    let access = machine.qtest_access();
    let mut broken = harness::play(&access, input);
    broken.extend(harness::check(&access));
    assert!(broken.is_empty(), "{broken:#?}");
});
