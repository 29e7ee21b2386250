//! `microvm`: processors, an I/O APIC or two, transports for virtio devices, and what little of a PC the user leaves on
//! (QEMU's `docs/system/i386/microvm.rst`).
//!
//! | global system interrupts | with ACPI, two I/O APICs | with ACPI, one | without ACPI |
//! | --- | --- | --- | --- |
//! | virtio | 24 to 47 | 16 to 23 | 5 to 12 |
//! | PCI Express | 16 to 19 | 12 to 15 | |
//!
//! The first virtio device gets the last transport that is free, as in QEMU. Left out: the USB controller of `usb=on`, and
//! the device tree for firmware.

use std::fmt::Write as _;
use std::sync::Arc;

use accel::{Accelerator, Interrupts};
use device::DeviceCell;
use devices_chipset::ged::{self, Ged, GedRequest};
use devices_pci::{Address, Label, PciBus, gpex};
use devices_virtio::device::{Access, Model};
use devices_virtio::mmio::{self, Empty, Interface, VirtioMmio, Wiring};
use memory::{AddressSpace, DmaView, GuestAddress, SpaceKind};

use super::ide::PartOfController;
use super::isa::Extra;
use super::{Backends, Board, Builder, Controllers, OwnBuses, Place, Wanted, command_line, fw_cfg, isa, isapc, virtio};
use crate::acpi::{AcpiConfig, ChipsetTables, PcieTables, ReducedTables, SleepStates};
use crate::config::{ChipsetKind, DeviceConfig, MachineConfig, MmioPlace};
use crate::error::MachineError;
use crate::event::GuestEvent;

/// Where the transports are.
const TRANSPORTS: u64 = 0xfeb0_0000;
/// Where the event device has its selector, and its registers.
const EVENTS: (u64, u64) = (0xfea0_0000, 0xfea0_0200);
const EVENTS_IRQ: u8 = 9;
/// The windows of PCI Express: configuration space, and memory; first address and bytes.
const ECAM: (u64, u64) = (0xe000_0000, 0x1000_0000);
const PCI_MEMORY: (u64, u64) = (0xc000_0000, 0x2000_0000);

/// Which interrupt controllers the board has. An accelerator that has them all has one I/O APIC.
pub fn controllers(config: &MachineConfig, accelerator: &dyn Accelerator) -> Wanted {
    let has_all = matches!(accelerator.interrupts(), Interrupts::All(_));
    let options = &config.board.microvm;
    Wanted { pic: options.pic, ioapics: if has_second_ioapic(config) && !has_all { 2 } else { 1 } }
}

fn has_second_ioapic(config: &MachineConfig) -> bool {
    let options = &config.board.microvm;
    options.acpi && options.ioapic2 != Some(false)
}

/// The transports of a board.
#[derive(Default)]
pub struct Transports {
    /// The first global system interrupt.
    first_irq: usize,
    taken: Vec<bool>,
}

impl Transports {
    fn new(acpi: bool, second_ioapic: bool) -> Self {
        let (first_irq, count) = match (acpi, second_ioapic) {
            (true, true) => (24, 24),
            (true, false) => (16, 8),
            (false, _) => (5, 8),
        };
        Self { first_irq, taken: vec![false; count] }
    }

    /// Takes the transport that a device wants.
    fn take(&mut self, place: &MmioPlace, type_name: &str) -> Result<usize, String> {
        let number = match &place.bus {
            None => self.taken.iter().rposition(|taken| !taken),
            Some(bus) => {
                let number = bus.strip_prefix("virtio-mmio-bus.").and_then(|number| number.parse().ok());
                let number = number.filter(|number: &usize| *number < self.taken.len());
                let number = number.ok_or_else(|| format!("Bus '{bus}' not found"))?;
                if self.taken[number] {
                    return Err(format!("Bus '{bus}' is full"));
                }
                Some(number)
            }
        };
        let number = number.ok_or_else(|| format!("No 'virtio-bus' bus found for device '{type_name}'"))?;
        self.taken[number] = true;
        Ok(number)
    }

    fn address(number: usize) -> u64 {
        TRANSPORTS + number as u64 * mmio::LEN
    }
}

/// What the kernel's command line says of the transports with devices, on a board without ACPI.
pub fn kernel_arguments(config: &MachineConfig) -> String {
    let options = &config.board.microvm;
    let mut text = String::new();
    if config.machine_type.chipset != ChipsetKind::Microvm || options.acpi || !options.auto_kernel_cmdline {
        return text;
    }
    let mut transports = Transports::new(false, false);
    for device in &config.devices {
        if let Some(place) = device.kind.mmio() {
            // What can't be placed is refused where the board is built.
            let _refused = transports.take(place, "");
        }
    }
    for number in (0..transports.taken.len()).rev().filter(|number| transports.taken[*number]) {
        let (address, irq) = (Transports::address(number), transports.first_irq + number);
        let _ = write!(text, " virtio_mmio.device={}@{address:#x}:{irq}", mmio::LEN);
    }
    text
}

/// Where transport `number` is: address and length.
pub fn transport(number: usize) -> (u64, u64) {
    (Transports::address(number), mmio::LEN)
}

/// A device behind a transport.
pub struct Attached<M: Model> {
    /// The way to it.
    pub access: Arc<dyn Access<M>>,
    /// Its Open Firmware path.
    pub firmware_path: String,
}

/// Attaches a device with the model that `build` makes.
pub fn attach<M: Model>(
    builder: &mut Builder<'_>,
    (device, type_name): (&DeviceConfig, &'static str),
    (place, features): (&MmioPlace, u64),
    build: impl FnOnce(Arc<dyn Access<M>>) -> M,
) -> Result<Attached<M>, String> {
    let number = builder.transports.take(place, type_name)?;
    let line = builder.gsi.get(builder.transports.first_irq + number).ok_or("the transport has no interrupt")?.line();
    let wiring = Wiring { dma: DmaView::new(Arc::clone(&builder.memory)), line };
    let cell = VirtioMmio::new(interface(builder.config), features, wiring, build);
    let address = Transports::address(number);
    let mapped = builder.memory.map(GuestAddress(address), mmio::LEN, 1, VirtioMmio::window(&cell));
    mapped.map_err(|error| error.to_string())?;
    let access = VirtioMmio::access(&cell);
    let place = device.id.clone().map_or(Place::Anonymous, Place::Peripheral);
    let inspect = VirtioMmio::inspect(&cell);
    builder.add(type_name, place, Arc::new(cell));
    builder.can_be_inspected(inspect);
    builder.can_leave(super::Removal::NoBus(format!("virtio-mmio-bus.{number}")), None);
    Ok(Attached { access, firmware_path: format!("/virtio-mmio@{address:016x}") })
}

fn interface(config: &MachineConfig) -> Interface {
    if config.board.virtio_mmio_legacy { Interface::Legacy } else { Interface::Modern }
}

/// Builds the board.
pub fn build(
    mut builder: Builder<'_>,
    controllers: Controllers,
    backends: &Backends<'_>,
) -> Result<Board, MachineError> {
    let config = builder.config;
    let options = &config.board.microvm;
    let second_ioapic = builder.gsi.len() > 24;
    if options.ioapic2 == Some(true) && options.acpi && !second_ioapic {
        return Err(MachineError::Device {
            option: "-machine ioapic2=on".to_owned(),
            message: "the accelerator has the only I/O APIC: use kernel-irqchip=split".to_owned(),
        });
    }
    builder.transports = Transports::new(options.acpi, second_ioapic);
    let fw_cfg = fw_cfg::build(&mut builder, config.machine_type.name)?;
    isapc::firmware(&mut builder)?;
    if options.pit {
        super::interval_timer(&mut builder)?;
    }
    let is_kvm = matches!(&config.accelerator, crate::accelerator::AcceleratorConfig::Opened(_));
    let rtc = match options.rtc.unwrap_or(!is_kvm) {
        true => Some(super::real_time_clock(&mut builder)?),
        false => None,
    };
    if let Some(rtc) = &rtc {
        super::store_memory_sizes(config, &mut rtc.lock());
    }
    let event_device = if options.acpi { Some(event_device(&mut builder)?) } else { None };
    let pcie = if options.acpi && options.pcie { Some(pcie(&mut builder)?) } else { None };
    let extra = match &pcie {
        Some((root, _)) => {
            let own = OwnBuses { root, ide: Vec::new(), floppy: None };
            command_line::build(&mut builder, own, backends)?
        }
        None => {
            let extra = isa::command_line_devices(&mut builder, backends.chardevs)?;
            isapc::without_pci(&mut builder, backends)?;
            virtio::command_line_devices(&mut builder, backends)?;
            extra
        }
    };
    transports(&mut builder)?;
    let tables = options.acpi.then(|| {
        let window = pcie.as_ref().map(|(_, tables)| *tables);
        Arc::new(tables(&builder, &extra, (rtc.is_some(), second_ioapic, window)))
    });
    fw_cfg::add_tables(&builder, &fw_cfg, (tables.as_ref(), None), None)?;
    let root = pcie.map(|(bus, _)| bus);
    Ok(Board { event_device, tables, rtc, root, ..Board::new(&mut builder, controllers) })
}

/// The transports as devices of the board; those that nothing is connected to answer, too.
fn transports(builder: &mut Builder<'_>) -> Result<(), MachineError> {
    const TYPE: &str = "virtio-mmio";
    let taken = builder.transports.taken.clone();
    for (number, taken) in taken.into_iter().enumerate() {
        if taken {
            builder.add(TYPE, Place::Board, Arc::new(PartOfController));
            continue;
        }
        let empty = Empty::new(interface(builder.config));
        builder.memory.map(GuestAddress(Transports::address(number)), mmio::LEN, 1, empty.region(0))?;
        builder.add(TYPE, Place::Board, Arc::new(empty));
    }
    Ok(())
}

fn event_device(builder: &mut Builder<'_>) -> Result<DeviceCell<Ged>, MachineError> {
    let events = Arc::clone(&builder.events);
    let request = Box::new(move |request| {
        events(match request {
            GedRequest::PowerOff => GuestEvent::Shutdown,
            GedRequest::Reset => GuestEvent::Reset,
        });
    });
    let device = Ged::new(builder.irq(EVENTS_IRQ), request);
    for (region, address, len) in
        [(ged::REGION_EVENTS, EVENTS.0, ged::EVENTS_LEN), (ged::REGION_REGISTERS, EVENTS.1, ged::REGISTERS_LEN)]
    {
        builder.memory.map(GuestAddress(address), len, 1, device.region(region))?;
    }
    builder.add("acpi-ged-x86", Place::Board, Arc::new(device.clone()));
    Ok(device)
}

/// The first interrupt of PCI Express.
fn pcie_irq(builder: &Builder<'_>) -> u32 {
    if builder.gsi.len() > 24 { 16 } else { 12 }
}

/// A PCI Express root. Its ports are behind no window, as in QEMU.
fn pcie(builder: &mut Builder<'_>) -> Result<(Arc<PciBus>, PcieTables), MachineError> {
    const TYPE: &str = "gpex-root";
    let irq = pcie_irq(builder);
    let inputs = builder.gsi.iter().skip(irq as usize).take(4).cloned().collect();
    let hidden_ports = Arc::new(AddressSpace::new(SpaceKind::Ports));
    let spaces = (Arc::clone(&builder.memory), hidden_ports);
    let bus = PciBus::new("pcie.0", spaces, inputs, gpex::swizzle, Arc::clone(&builder.messages));
    builder.memory.map(GuestAddress(ECAM.0), ECAM.1, 1, devices_pci::q35::configuration_window(&bus))?;
    let root = bus.attach(Address::new(0, 0), Label::of_board(TYPE), gpex::root(), Vec::new())?;
    builder.add(TYPE, Place::Board, root);
    // The topmost quarter of what the processors can address.
    let end = 1_u64 << builder.config.cpu_model.physical_bits();
    let last = |(first, len): (u64, u64)| (first as u32, (first + (len - 1)) as u32);
    let high_memory = (end > 1 << 34).then(|| (end - end / 4, end - 1));
    let ecam = (ECAM.0 as u32, ECAM.1 as u32);
    Ok((bus, PcieTables { ecam, memory: last(PCI_MEMORY), high_memory, irq }))
}

/// What the ACPI tables tell.
fn tables(
    builder: &Builder<'_>,
    extra: &Extra,
    (rtc, second_ioapic, pcie): (bool, bool, Option<PcieTables>),
) -> AcpiConfig {
    let config = builder.config;
    let topology = config.topology;
    let count = topology.sockets * topology.dies * topology.cores * topology.threads;
    let transports = &builder.transports;
    let used = (0..transports.taken.len()).filter(|number| transports.taken[*number]);
    let reduced = ReducedTables {
        events: (EVENTS.0 as u32, EVENTS.1 as u32, u32::from(EVENTS_IRQ)),
        rtc,
        second_ioapic,
        transports: used
            .map(|number| {
                let (address, irq) = (Transports::address(number) as u32, transports.first_irq + number);
                (number as u8, address, mmio::LEN as u32, irq as u32)
            })
            .collect(),
        pcie,
    };
    AcpiConfig {
        chipset: ChipsetTables::I440fx,
        pm_base: 0,
        sleep: SleepStates { s3: false, s4: None },
        high_window: None,
        apic_ids: (0..count).map(|index| topology.apic_id(index)).collect(),
        present: (0..count).map(|index| index < config.cpus).collect(),
        cpu_hotplug: None,
        pci_hotplug: None,
        pci_hole_start: 0,
        hpet: false,
        pvpanic: None,
        generation: None,
        numa: None,
        serial_ports: extra.serial_ports.clone(),
        parallel_ports: Vec::new(),
        reduced: Some(reduced),
    }
}
