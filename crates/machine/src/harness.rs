//! One harness for all devices of a machine: it accesses whatever they have mapped, lets time pass, and checks the laws
//! of [`device::testing`]. Tests give it random bytes, the fuzzer its own.

use std::sync::Arc;

use clock::RtcBase;
use device::ResetKind;
use device::testing::{Script, access, reset_twice_is_once, save_and_restore_agree};

use x86::model::{CpuModel, Topology};

use crate::accelerator::AcceleratorConfig;
use crate::config::{
    Address, BoardOptions, BridgeKind, CardModel, CardOptions, DeviceConfig, DeviceKind, DisplayConfig, EHCI_MODELS,
    HidKind, InputKind, InputOptions, MachineConfig, MachineType, MemoryOptions, PciOptions, PciPlace, RngOptions,
    ScsiOptions, SerialOptions, SerialPortConfig, UHCI_MODELS, UhciOptions, UsbControllerConfig, UsbControllerKind,
    UsbDeviceConfig, UsbDeviceKind, UsbLabels, VirtioConfig, VirtioModel, XhciModel, XhciOptions,
};
use crate::event::GuestEvents;
use crate::firmware::FirmwareConfig;
use crate::numa::Numa;
use crate::qtest::QtestAccess;
use crate::vcpu::Threads;
use crate::{Backends, Machine};

/// What a byte of the script stands for, of 256.
const PORTS: u64 = 150;
const MEMORY: u64 = 230;
const TIME: u64 = 246;
const LAW: u64 = 253;

/// A machine with every kind of device that needs no host resource, whose vCPUs never run; for tests and the fuzzer.
///
/// # Panics
/// It can't be built: `name` is no machine, or a device refuses its configuration.
pub fn machine(name: &str) -> Machine {
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
        firmware: FirmwareConfig::default(),
        boot: None,
        vga: Some(CardOptions::default()),
        board: BoardOptions { no_reboot: false, ..BoardOptions::default() },
        memory: MemoryOptions::default(),
        numa: Numa::default(),
        types: Vec::new(),
        devices: plain.chain(usb_devices()).chain(virtio_devices()).collect(),
    };
    let backends = Backends {
        chardevs: &|id| Err(chardev::Error::NotFound(id.to_owned())),
        disks: &|_| Err("there is no disk".to_owned()),
        memories: &|_| Err("there is no memory".to_owned()),
        entropy: &|_| Err("there is no source".to_owned()),
    };
    Machine::new(&config, &backends, &(Arc::new(|_| ()) as GuestEvents), None).expect("a machine")
}

/// USB controllers of all kinds with devices, for machines that are to be harnessed.
fn usb_devices() -> Vec<DeviceConfig> {
    let place = |slot, function| PciPlace { address: Some(Address::new(slot, function)), ..PciPlace::default() };
    let controller = |id: &str, place, kind| {
        let config = UsbControllerConfig { place, is_multifunction: true, kind };
        let kind = DeviceKind::UsbController(Box::new(config));
        DeviceConfig { id: Some(id.to_owned()), source: String::new(), kind }
    };
    let device = |bus: &str, kind| {
        let (bus, labels) = (Some(format!("{bus}.0")), UsbLabels::default());
        let kind = DeviceKind::UsbDevice(Box::new(UsbDeviceConfig { bus, port: None, labels, kind }));
        DeviceConfig { id: None, source: String::new(), kind }
    };
    let uhci = |index: usize, companion| UsbControllerKind::Uhci {
        model: UHCI_MODELS[index],
        options: UhciOptions::default(),
        companion,
    };
    let hid = |kind| UsbDeviceKind::Hid { kind, usb_version: 2 };
    let hub = UsbDeviceKind::Hub { ports: 4, switches_power: true };
    vec![
        controller("ehci", place(28, 7), UsbControllerKind::Ehci { model: EHCI_MODELS[1], max_frames: 128 }),
        controller("companion", place(28, 0), uhci(2, Some(("ehci.0".to_owned(), 0)))),
        controller("uhci", place(27, 0), uhci(1, None)),
        controller("xhci", place(26, 0), UsbControllerKind::Xhci(XhciOptions::new(XhciModel::Qemu))),
        controller("nec", place(25, 0), UsbControllerKind::Xhci(XhciOptions::new(XhciModel::Nec))),
        device("ehci", hid(HidKind::Tablet)),
        device("uhci", hub),
        device("uhci", hid(HidKind::Mouse)),
        device("uhci", hid(HidKind::Keyboard)),
        device("xhci", hid(HidKind::Tablet)),
        device("nec", hid(HidKind::Keyboard)),
    ]
}

/// virtio devices of all kinds that need no disk, for machines that are to be harnessed.
fn virtio_devices() -> Vec<DeviceConfig> {
    let device = |type_name, legacy, model| {
        let pci = PciOptions { legacy, ..PciOptions::default() };
        let config = VirtioConfig { type_name, place: PciPlace::default(), pci, vectors: None, model };
        DeviceConfig { id: None, source: String::new(), kind: DeviceKind::Virtio(Box::new(config)) }
    };
    let scsi = VirtioModel::Scsi { options: ScsiOptions::default(), num_queues: None, iothread: None };
    let input = |kind| VirtioModel::Input(InputOptions { kind, wheel_axis: true });
    let port = SerialPortConfig {
        type_name: "virtserialport",
        bus: None,
        number: None,
        name: Some("org.ouzel.test".to_owned()),
        is_console: false,
        chardev: None,
    };
    vec![
        device("virtio-scsi-pci", true, scsi),
        device("virtio-rng-pci", true, VirtioModel::Rng { options: RngOptions::default(), source: None }),
        device("virtio-serial-pci", true, VirtioModel::Serial(SerialOptions::default())),
        DeviceConfig { id: None, source: String::new(), kind: DeviceKind::SerialPort(port) },
        device("virtio-keyboard-pci", false, input(InputKind::Keyboard)),
        device("virtio-mouse-pci", false, input(InputKind::Mouse)),
        device("virtio-tablet-pci", false, input(InputKind::Tablet)),
    ]
}

/// Plays a script on a machine whose clock is manual and whose vCPUs do not run. Returns which laws were broken.
pub fn play(machine: &QtestAccess, bytes: &[u8]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut script = Script::new(bytes);
    while !script.is_over() {
        match script.number(1) {
            0..PORTS => access(&machine.ports, &mut script),
            PORTS..MEMORY => access(&machine.memory, &mut script),
            MEMORY..TIME => machine.clock.step(script.number(2) << (script.number(1) & 3)),
            TIME..LAW => {
                let index = script.number(1) as usize % machine.devices.len().max(1);
                if let Some((name, device)) = machine.devices.get(index) {
                    broken.extend(save_and_restore_agree(name, &**device).err());
                }
            }
            _ => {
                let index = script.number(1) as usize % machine.devices.len().max(1);
                if let Some((_, device)) = machine.devices.get(index) {
                    device.reset(ResetKind::Warm);
                }
            }
        }
    }
    broken
}

/// Checks the laws for each device, as it is now, and leaves all of them reset. Returns which
/// are broken.
pub fn check(machine: &QtestAccess) -> Vec<String> {
    let mut broken = Vec::new();
    for (name, device) in &machine.devices {
        broken.extend(save_and_restore_agree(name, &**device).err());
        for kind in [ResetKind::Warm, ResetKind::Cold] {
            broken.extend(reset_twice_is_once(name, &**device, kind).err());
        }
    }
    broken
}
