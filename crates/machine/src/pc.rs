//! The boards: `pc` and `q35` (440FX with PIIX3 and PIIX4 power management, or Q35 with ICH9, and the PC's own devices
//! around them), [`isapc`], [`microvm`], and the empty one.
//!
//! Fixed addresses are those of every PC; what is QEMU's choice (power management at 0x600, GPE at 0xafe0, fw_cfg at
//! 0x510) is QEMU's, so that guests find it.

mod command_line;
mod cpus;
mod display;
mod firmware;
mod flash;
mod floppy;
mod fw_cfg;
mod geometry;
mod hotplug;
mod ide;
mod interrupts;
mod isa;
mod isapc;
mod microvm;
mod option_rom;
mod pci;
mod platform;
mod q35;
mod rom;
mod scsi;
mod smm;
mod tables;
pub mod tree;
mod usb;
mod virtio;
mod virtio_serial;
mod vmport;

use std::sync::{Arc, Mutex, PoisonError};

use ::display::input::Hub;
use accel::{Accelerator, FerrLine};
use chardev::Chardev;
use clock::{Clock, WallClock};
use device::{DeviceCell, IoDevice, IrqInput, IrqLine, Lifecycle};
use devices_chipset::acpi_pm::AcpiPm;
use devices_chipset::cpu_hotplug::CpuHotplug;
use devices_chipset::ged::Ged;
use devices_chipset::hpet::Hpet;
use devices_chipset::i8254::{self, I8254};
use devices_chipset::legacy::LegacyReplacement;
use devices_chipset::mc146818::Mc146818;
use devices_isa::fw_cfg::FwCfg;
use devices_isa::pvpanic::CRASH_LOADED;
use devices_pci::{MsiSink, PciBus};
use devices_virtio::inspect::Inspect;
use memory::{AccessSize, AddressSpace, Backing, GuestAddress, RamBlock, SpaceKind};

use self::command_line::OwnBuses;
pub use self::hotplug::{HotplugBus, Removal, Removed, UnplugError};
use self::interrupts::Wanted;
pub use self::interrupts::{Controllers, Mailboxes};
use self::isa::A20Gate;
pub use self::microvm::kernel_arguments as microvm_kernel_arguments;
pub use self::usb::UsbDeviceInfo;
use crate::acpi::AcpiConfig;
use crate::config::{ChipsetKind, DriveGeometry, MachineConfig, Translation};
use crate::entropy::Sources;
use crate::error::MachineError;
use crate::event::{GuestEvent, GuestEvents};
use crate::firmware::{BootDevice, BootDevices, BootOrder, FirmwareFile};
use crate::ram::{self, HostMemories};
use crate::screens::NewScreen;
use crate::smbios::Smbios;
use crate::storage::Disks;

/// Gives the front end of a character device by its id.
pub type Chardevs<'a> = dyn Fn(&str) -> Result<Chardev, chardev::Error> + 'a;

/// What devices are connected to outside of the machine.
pub struct Backends<'a> {
    /// Character devices.
    pub chardevs: &'a Chardevs<'a>,
    /// Disks.
    pub disks: &'a Disks<'a>,
    /// Memory objects.
    pub memories: &'a HostMemories<'a>,
    /// Random numbers.
    pub entropy: &'a Sources<'a>,
}

/// Where a device is in the object tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The board has it.
    Board,
    /// The command line asked for it, with this id.
    Peripheral(String),
    /// The command line asked for it, without an id.
    Anonymous,
    /// It is a part of another device: the path of what has it, and its name there.
    Part(String, &'static str),
}

/// A device of the machine.
pub struct BoardDevice {
    /// The name of its type.
    pub type_name: &'static str,
    /// Where it is.
    pub place: Place,
    /// A part of it that is an object of its own: name and type.
    pub part: Option<(&'static str, &'static str)>,
    /// Reset and state.
    pub lifecycle: Arc<dyn Lifecycle>,
    /// How monitors look into it, if it is a virtio device.
    pub virtio: Option<Arc<dyn Inspect>>,
    /// Its path in the object tree; that of a device of the board is known once all of them are there.
    pub path: String,
    /// How it leaves the running machine.
    pub removal: Removal,
    /// The path of the device that has the bus that it is on, if that device can leave.
    pub parent: Option<String>,
    /// It came while the machine ran.
    pub is_hotplugged: bool,
    /// The guest was asked to let it go; the request may be repeated from this time on.
    pub leaves: Option<u64>,
}

impl BoardDevice {
    /// A device of the board itself, or one that stays.
    pub fn new(type_name: &'static str, place: Place, lifecycle: Arc<dyn Lifecycle>) -> Self {
        Self {
            type_name,
            place,
            part: None,
            lifecycle,
            virtio: None,
            path: String::new(),
            removal: Removal::Fixed,
            parent: None,
            is_hotplugged: false,
            leaves: None,
        }
    }

    /// Its id, if the user gave it one.
    pub fn id(&self) -> Option<&str> {
        match &self.place {
            Place::Peripheral(id) => Some(id),
            _ => None,
        }
    }
}

/// The built board, without vCPUs.
pub struct Board {
    /// Guest-physical memory.
    pub memory: Arc<AddressSpace>,
    /// The same as system-management mode sees it, if there is such a mode.
    pub smm_memory: Option<Arc<AddressSpace>>,
    /// I/O ports.
    pub ports: Arc<AddressSpace>,
    /// Guest time.
    pub clock: Clock,
    /// The interrupt controllers, as far as they are the board's.
    pub controllers: Controllers,
    /// Takes the vCPUs' mailboxes.
    pub mailboxes: Mailboxes,
    /// The A20 gate.
    pub a20: A20Gate,
    /// FERR#: IRQ 13.
    pub ferr: FerrLine,
    /// ACPI power management, if there is any.
    pub power_management: Option<DeviceCell<AcpiPm>>,
    /// What tells the guest of the power button where power management is reduced.
    pub event_device: Option<DeviceCell<Ged>>,
    /// All the devices, in reset order.
    pub devices: Vec<BoardDevice>,
    /// What the ACPI tables tell, if there are any.
    pub tables: Option<Arc<AcpiConfig>>,
    /// The SMBIOS structures, if there are any.
    pub smbios: Option<Smbios>,
    /// What firmware boots after the first reset, if that is another order than now.
    next_boot_order: Mutex<Option<(u8, u8)>>,
    /// The screens, until somebody takes them.
    pub screens: Vec<NewScreen>,
    /// Keyboards and pointers.
    pub input: Arc<Hub>,
    /// The root bus, if there is PCI.
    root: Option<Arc<PciBus>>,
    /// The chipset's PCI functions.
    chipset: Option<pci::Chipset>,
    rtc: Option<DeviceCell<Mc146818>>,
    fw_cfg: Option<DeviceCell<FwCfg>>,
    /// How processors come and leave.
    cpus: Option<DeviceCell<CpuHotplug>>,
    /// The paths of processors that came.
    cpu_paths: Vec<String>,
    /// What devices that come later are built with, if any can come.
    hotplug: Option<hotplug::Hotplug>,
}

/// What the parts of the board are built with.
struct Builder<'a> {
    config: &'a MachineConfig,
    clock: Clock,
    events: GuestEvents,
    memory: Arc<AddressSpace>,
    ports: Arc<AddressSpace>,
    ram: Arc<RamBlock>,
    /// What system-management mode sees, if there is such a mode.
    smm: Option<Arc<AddressSpace>>,
    /// One input for each global system interrupt; the first 16 are the ISA interrupts.
    gsi: Vec<IrqInput>,
    /// Where message-signalled interrupts go.
    messages: Arc<dyn MsiSink>,
    mailboxes: Mailboxes,
    legacy: LegacyReplacement,
    /// The DMA controllers, once they exist.
    dma: Option<DeviceCell<devices_chipset::i8257::I8257>>,
    devices: Vec<BoardDevice>,
    /// The hard disks on the first two IDE channels, as CMOS describes them: place, geometry, translation.
    ide_disks: Vec<(usize, DriveGeometry, Translation)>,
    /// What firmware may boot from.
    boot_devices: Vec<BootDevice>,
    /// The same for firmware.
    boot_list: BootDevices,
    screens: Vec<NewScreen>,
    input: Arc<Hub>,
    /// Expansion ROMs that are files of the firmware's.
    rom_files: Vec<FirmwareFile>,
    /// The transports for virtio devices.
    transports: microvm::Transports,
    /// The buses that are not PCI's.
    buses: hotplug::Buses,
    /// The buses behind bridges and ports, and how functions come and leave.
    pci_hotplug: Option<hotplug::PciHotplug>,
    /// Paths that are taken by what is no device of this list.
    taken: Vec<String>,
}

impl Board {
    /// A board that has nothing yet beside memory, ports and interrupt controllers.
    fn bare(
        (memory, ports): (Arc<AddressSpace>, Arc<AddressSpace>),
        clock: &Clock,
        controllers: Controllers,
        mailboxes: Mailboxes,
    ) -> Self {
        Self {
            memory,
            smm_memory: None,
            ports,
            clock: clock.clone(),
            controllers,
            mailboxes,
            a20: A20Gate::default(),
            ferr: Arc::new(|| ()),
            power_management: None,
            event_device: None,
            devices: Vec::new(),
            tables: None,
            smbios: None,
            next_boot_order: Mutex::default(),
            screens: Vec::new(),
            input: Arc::default(),
            root: None,
            chipset: None,
            rtc: None,
            fw_cfg: None,
            cpus: None,
            cpu_paths: Vec::new(),
            hotplug: None,
        }
    }

    /// The board of what was built, without a chipset and tables.
    fn new(builder: &mut Builder<'_>, controllers: Controllers) -> Self {
        let spaces = (Arc::clone(&builder.memory), Arc::clone(&builder.ports));
        Self {
            smm_memory: builder.smm.clone(),
            hotplug: Some(hotplug::Hotplug::take(builder)),
            devices: std::mem::take(&mut builder.devices),
            screens: std::mem::take(&mut builder.screens),
            input: Arc::clone(&builder.input),
            ..Self::bare(spaces, &builder.clock, controllers, builder.mailboxes.clone())
        }
    }
}

impl Builder<'_> {
    fn irq(&self, number: u8) -> IrqLine {
        self.gsi.get(usize::from(number)).map_or_else(IrqLine::unconnected, IrqInput::line)
    }

    /// Registers a device for reset and migration.
    fn add(&mut self, type_name: &'static str, place: Place, lifecycle: Arc<dyn Lifecycle>) {
        let path = match &place {
            Place::Board => String::new(),
            Place::Peripheral(id) => self.next_path(false, Some(id)),
            Place::Anonymous => self.next_path(false, None),
            Place::Part(parent, name) => format!("{parent}/{name}"),
        };
        for boot in self.boot_devices.iter_mut().filter(|boot| boot.owner.is_none()) {
            boot.owner = Some(path.clone());
        }
        self.devices.push(BoardDevice { path, ..BoardDevice::new(type_name, place, lifecycle) });
    }

    /// Says how monitors look into the device that was added last, a virtio device.
    fn can_be_inspected(&mut self, inspect: Arc<dyn Inspect>) {
        if let Some(device) = self.devices.last_mut() {
            device.virtio = Some(inspect);
        }
    }

    /// Says how the device that was added last leaves the machine, and whose bus it is on.
    fn can_leave(&mut self, removal: Removal, parent: Option<String>) {
        if let Some(device) = self.devices.last_mut() {
            (device.removal, device.parent) = (removal, parent);
        }
    }

    /// The same with a part that is an object of its own.
    fn add_with_part(
        &mut self,
        type_name: &'static str,
        place: Place,
        lifecycle: Arc<dyn Lifecycle>,
        part: (&'static str, &'static str),
    ) {
        self.add(type_name, place, lifecycle);
        if let Some(device) = self.devices.last_mut() {
            device.part = Some(part);
        }
    }

    /// The path in the object tree that the device to be added next will have, see [`crate::objects`].
    fn next_path(&self, is_boards: bool, id: Option<&str>) -> String {
        let count = |place: &Place| self.devices.iter().filter(|device| device.place == *place).count();
        match id {
            // The vCPUs come behind the board's first device.
            _ if is_boards => {
                format!("/machine/unattached/device[{}]", count(&Place::Board) + self.config.cpus as usize)
            }
            Some(id) => format!("/machine/peripheral/{id}"),
            None => {
                let mut paths = (0..).map(|number| format!("/machine/peripheral-anon/device[{number}]"));
                let is_free = |path: &String| {
                    self.devices.iter().all(|device| device.path != *path) && !self.taken.contains(path)
                };
                paths.find(is_free).unwrap_or_default()
            }
        }
    }

    /// Maps regions of a device at I/O ports: (region, first port, count).
    fn map_ports<D: IoDevice>(&self, cell: &DeviceCell<D>, ports: &[(usize, u64, u64)]) -> Result<(), MachineError> {
        for &(region, first, count) in ports {
            self.ports.map(GuestAddress(first), count, 0, cell.region(region))?;
        }
        Ok(())
    }

    /// Registers a device of the board and maps regions of it at I/O ports: (region, first port, count).
    fn add_ports<D: IoDevice>(
        &mut self,
        type_name: &'static str,
        cell: &DeviceCell<D>,
        ports: &[(usize, u64, u64)],
    ) -> Result<(), MachineError> {
        self.map_ports(cell, ports)?;
        self.add(type_name, Place::Board, Arc::new(cell.clone()));
        Ok(())
    }

    /// A callback by which a watchdog bites.
    fn watchdog(&self) -> Box<dyn FnMut() + Send> {
        let events = Arc::clone(&self.events);
        Box::new(move || events(GuestEvent::Watchdog))
    }

    /// A callback by which a guest reports that it crashed.
    fn panic_report(&self) -> Box<dyn FnMut(u8) + Send> {
        let events = Arc::clone(&self.events);
        Box::new(move |event| events(GuestEvent::Panicked { crash_loaded: event & CRASH_LOADED != 0 }))
    }

    /// A callback by which a device asks for a reset.
    fn reset_request(&self) -> Box<dyn FnMut() + Send> {
        let events = Arc::clone(&self.events);
        Box::new(move || events(GuestEvent::Reset))
    }
}

/// Builds the board.
pub fn build(
    config: &MachineConfig,
    accelerator: &dyn Accelerator,
    clock: &Clock,
    backends: &Backends<'_>,
    events: &GuestEvents,
) -> Result<Board, MachineError> {
    let (wanted, complete): (_, Complete) = match config.machine_type.chipset {
        ChipsetKind::Empty => return empty(config, accelerator, clock, backends),
        ChipsetKind::Isa => (Wanted { pic: true, ioapics: 0 }, isapc::build),
        ChipsetKind::Microvm => (microvm::controllers(config, accelerator), microvm::build),
        ChipsetKind::I440fx | ChipsetKind::Q35 => (Wanted::PC, with_pci),
    };
    let (builder, controllers) = start(config, accelerator, clock, (backends, events), wanted)?;
    complete(builder, controllers, backends)
}

/// Builds what a family of boards has beside what [`start`] makes.
type Complete = fn(Builder<'_>, Controllers, &Backends<'_>) -> Result<Board, MachineError>;

/// Builds a `pc` or a `q35`.
fn with_pci(
    mut builder: Builder<'_>,
    controllers: Controllers,
    backends: &Backends<'_>,
) -> Result<Board, MachineError> {
    let config = builder.config;
    let rtc = timers(&mut builder)?;
    let a20 = isa::keyboard_and_gates(&mut builder)?;
    let ferr = isa::legacy_ports(&mut builder)?;
    let fw_cfg = fw_cfg::build(&mut builder, config.machine_type.name)?;
    let shadowed = Arc::new(AddressSpace::new(SpaceKind::Memory));
    if let Some(firmware) = &config.firmware.rom {
        rom::map(firmware, &builder.memory, &shadowed)?;
    }
    flash::build(&mut builder, backends.disks, &shadowed)?;
    let chipset = match config.machine_type.chipset {
        ChipsetKind::I440fx => pci::build(&mut builder, &shadowed)?,
        _ => q35::build(&mut builder, &shadowed, &fw_cfg)?,
    };
    display::board_card(&mut builder, &chipset.bus)?;
    let ide = ide::build(&mut builder, &chipset, backends.disks)?;
    let floppy = floppy::build(&mut builder, backends.disks)?;
    usb::of_board(&mut builder, &chipset)?;
    let own = OwnBuses { root: &chipset.bus, ide, floppy: floppy.clone() };
    let extra = command_line::build(&mut builder, own, backends)?;
    if let Some(controller) = floppy {
        floppy::note(&controller, &rtc);
    }
    hotplug::buses(&mut builder, &chipset)?;
    builder.find_fixed_slots(&chipset.bus);
    let cpus = cpus::build(&mut builder)?;
    let acpi = Arc::new(tables::acpi(&builder, &extra));
    let smbios = tables::smbios(&builder);
    fw_cfg::add_tables(&builder, &fw_cfg, (Some(&acpi), Some(&smbios)), Some((&chipset.bus, &cpus)))?;
    let boot = &config.firmware.boot;
    store_cmos(config, &mut rtc.lock());
    store_disks(&builder.ide_disks, &mut rtc.lock());
    Ok(Board {
        a20,
        ferr,
        power_management: Some(chipset.power_management.clone()),
        tables: Some(acpi),
        smbios: Some(smbios),
        next_boot_order: Mutex::new(boot.once.map(|_| boot.order.cmos(boot.skip_floppy_check))),
        root: Some(Arc::clone(&chipset.bus)),
        chipset: Some(chipset),
        rtc: Some(rtc),
        fw_cfg: Some(fw_cfg),
        cpus: Some(cpus),
        ..Board::new(&mut builder, controllers)
    })
}

/// What every board with devices begins with: RAM, interrupt controllers, and what its parts are built with.
fn start<'a>(
    config: &'a MachineConfig,
    accelerator: &dyn Accelerator,
    clock: &Clock,
    (backends, events): (&Backends<'_>, &GuestEvents),
    wanted: Wanted,
) -> Result<(Builder<'a>, Controllers), MachineError> {
    let memory = Arc::new(AddressSpace::new(SpaceKind::Memory));
    let ports = Arc::new(AddressSpace::new(SpaceKind::Ports));
    let ram = Arc::new(ram::block(config, backends.memories)?);
    map_ram(config, &memory, &ram)?;
    let has_smm = config.machine_type.chipset.has_pci();
    let smm = match (config.firmware.smm, accelerator.has_smm()) {
        (Some(true), false) => return Err(MachineError::NoSmm),
        (Some(false), _) | (None, false) => None,
        (_, true) => has_smm.then(|| AddressSpace::over(&memory)),
    };
    let mailboxes = Mailboxes::default();
    let mut devices = Vec::new();
    let controllers = interrupts::build(accelerator, clock, (&memory, &ports), (&mailboxes, wanted), &mut devices)?;
    let builder = Builder {
        config,
        clock: clock.clone(),
        events: Arc::clone(events),
        messages: controllers.messages(&memory),
        memory,
        ports,
        ram,
        smm,
        gsi: controllers.inputs.clone(),
        mailboxes,
        legacy: LegacyReplacement::default(),
        dma: None,
        devices,
        ide_disks: Vec::new(),
        boot_devices: Vec::new(),
        boot_list: BootDevices::default(),
        screens: Vec::new(),
        input: Arc::default(),
        rom_files: Vec::new(),
        transports: microvm::Transports::default(),
        buses: hotplug::Buses::default(),
        pci_hotplug: None,
        taken: Vec::new(),
    };
    Ok((builder, controllers))
}

/// A machine without devices: processors, and RAM from address 0.
fn empty(
    config: &MachineConfig,
    accelerator: &dyn Accelerator,
    clock: &Clock,
    backends: &Backends<'_>,
) -> Result<Board, MachineError> {
    if let Some(device) = config.devices.first() {
        let message = "this machine has no bus for it".to_owned();
        return Err(MachineError::Device { option: device.source.clone(), message });
    }
    let memory = Arc::new(AddressSpace::new(SpaceKind::Memory));
    if config.ram_size > 0 {
        let block = Arc::new(ram::block(config, backends.memories)?);
        memory.map(GuestAddress(0), config.ram_size, 0, Backing::Ram { block, offset: 0, read_only: false })?;
    }
    // Processors have local APICs, which need a bus. The other controllers are in spaces that nobody sees.
    let hidden = (&AddressSpace::new(SpaceKind::Memory), &AddressSpace::new(SpaceKind::Ports));
    let mailboxes = Mailboxes::default();
    let controllers = interrupts::build(accelerator, clock, hidden, (&mailboxes, Wanted::PC), &mut Vec::new())?;
    let ports = Arc::new(AddressSpace::new(SpaceKind::Ports));
    Ok(Board::bare((memory, ports), clock, controllers, mailboxes))
}

/// RAM; where there is PCI, without the addresses from 0xa0000 to 0xfffff: video memory, and what the 440FX's PAM registers
/// control.
fn map_ram(config: &MachineConfig, memory: &AddressSpace, ram: &Arc<RamBlock>) -> Result<(), MachineError> {
    let (low, high) = config.ram_split();
    let map = |start: u64, len: u64, offset: u64| {
        let backing = Backing::Ram { block: Arc::clone(ram), offset, read_only: false };
        memory.map(GuestAddress(start), len, 0, backing)
    };
    if config.machine_type.chipset.has_pci() {
        map(0, 0xa_0000.min(low), 0)?;
        if low > 0x10_0000 {
            map(0x10_0000, low - 0x10_0000, 0x10_0000)?;
        }
    } else {
        map(0, low, 0)?;
    }
    if high > 0 {
        map(1 << 32, high, low)?;
    }
    Ok(())
}

/// Where the HPET is: address and length.
const HPET: (u64, u64) = (0xfed0_0000, 0x400);

/// PIT, RTC and HPET.
fn timers(builder: &mut Builder<'_>) -> Result<DeviceCell<Mc146818>, MachineError> {
    interval_timer(builder)?;
    let rtc = real_time_clock(builder)?;
    if builder.config.hpet {
        let lines = (0..24).map(|gsi| builder.irq(gsi)).collect();
        let hpet = Hpet::new(&builder.clock, lines, builder.legacy.clone());
        builder.memory.map(GuestAddress(HPET.0), HPET.1, 1, hpet.region(0))?;
        builder.add("hpet", Place::Board, Arc::new(hpet));
    }
    Ok(rtc)
}

fn interval_timer(builder: &mut Builder<'_>) -> Result<(), MachineError> {
    let pit = I8254::new(&builder.clock, builder.irq(0), builder.legacy.clone());
    builder.add_ports("isa-pit", &pit, &[(i8254::REGION_TIMER, 0x40, 4), (i8254::REGION_SPEAKER, 0x61, 1)])
}

fn real_time_clock(builder: &mut Builder<'_>) -> Result<DeviceCell<Mc146818>, MachineError> {
    let wall = WallClock::new(builder.config.rtc, builder.clock.clone());
    let (changes, alarms) = (Arc::clone(&builder.events), Arc::clone(&builder.events));
    let on_change = Box::new(move |offset| changes(GuestEvent::ClockChanged { offset }));
    let rtc = Mc146818::new(&builder.clock, wall, builder.irq(8), builder.legacy.clone(), on_change);
    rtc.lock().on_alarm(Box::new(move || alarms(GuestEvent::Alarm)));
    builder.add_ports("mc146818rtc", &rtc, &[(0, 0x70, 4)])?;
    Ok(rtc)
}

impl Board {
    /// Brings the chipset into the state that firmware leaves: no firmware runs before a kernel here.
    pub fn after_firmware(&self) {
        /// Both PICs: edges, vectors from 0x08 and 0x70, cascaded at input 2, all masked. Kernels on boards with reduced
        /// ACPI hardware leave them alone.
        const PICS: [(u64, u64); 10] = [
            (0x20, 0x11),
            (0xa0, 0x11),
            (0x21, 0x08),
            (0xa1, 0x70),
            (0x21, 4),
            (0xa1, 2),
            (0x21, 1),
            (0xa1, 1),
            (0x21, 0xff),
            (0xa1, 0xff),
        ];
        if let Some(chipset) = &self.chipset {
            chipset.after_firmware();
        } else {
            for (port, value) in PICS {
                self.ports.store(GuestAddress(port), AccessSize::Byte, value);
            }
        }
        // The keyboard's scancodes are translated to set 1, its interrupt is on, the mouse is off.
        self.ports.store(GuestAddress(0x64), AccessSize::Byte, 0x60);
        self.ports.store(GuestAddress(0x60), AccessSize::Byte, 0x61);
    }

    /// The PCI functions.
    pub fn pci_functions(&self) -> Vec<devices_pci::FunctionInfo> {
        self.root.as_ref().map_or_else(Vec::new, |bus| bus.functions())
    }

    /// The devices on USB buses; nothing if there is no such bus.
    pub fn usb_devices(&self) -> Option<Vec<UsbDeviceInfo>> {
        let buses = &self.hotplug.as_ref()?.buses().usb;
        (!buses.is_empty()).then(|| usb::devices(buses))
    }

    /// What firmware boots from the next time it looks, on a board with CMOS.
    pub fn set_boot_order(&self, order: BootOrder, skip_floppy_check: bool) -> bool {
        let Some(rtc) = self.rtc.as_ref() else { return false };
        store_boot_order(&mut rtc.lock(), order.cmos(skip_floppy_check));
        true
    }

    /// Stores a byte in CMOS.
    pub fn set_cmos(&self, index: u8, value: u8) {
        if let Some(rtc) = &self.rtc {
            rtc.lock().set_cmos(index, value);
        }
    }

    /// Forgets the ticks of the real-time clock that the guest could not take.
    pub fn forget_clock_ticks(&self) {
        if let Some(rtc) = &self.rtc {
            rtc.lock().forget_ticks();
        }
    }

    /// After a reset `-boot once=` is over.
    pub fn forget_boot_once(&self) {
        let order = self.next_boot_order.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(order), Some(rtc)) = (order, &self.rtc) {
            store_boot_order(&mut rtc.lock(), order);
        }
    }
}

/// What a PC's set-up program stores in CMOS: memory sizes, processors, equipment, boot order.
fn store_cmos(config: &MachineConfig, rtc: &mut Mc146818) {
    /// A coprocessor and a PS/2 mouse; floppy drives are added by their controller.
    const EQUIPMENT: u8 = 0x06;
    store_memory_sizes(config, rtc);
    rtc.set_cmos(0x5f, config.cpus.saturating_sub(1) as u8);
    // The controller has noted its drives.
    let drives = rtc.cmos(0x14);
    rtc.set_cmos(0x14, EQUIPMENT | drives);
    let boot = &config.firmware.boot;
    store_boot_order(rtc, boot.once.unwrap_or(boot.order).cmos(boot.skip_floppy_check));
}

/// How much memory there is.
fn store_memory_sizes(config: &MachineConfig, rtc: &mut Mc146818) {
    let kib = |bytes: u64, max: u64| (bytes >> 10).min(max) as u16;
    let (low, high) = config.ram_split();
    let base = kib(low, 640);
    let above_one_mib = kib(low.saturating_sub(1 << 20), 65535);
    let above_sixteen_mib = (low.saturating_sub(16 << 20) >> 16).min(65535) as u16;
    for (index, value) in [(0x15, base), (0x17, above_one_mib), (0x30, above_one_mib), (0x34, above_sixteen_mib)] {
        let [low, high] = value.to_le_bytes();
        rtc.set_cmos(index, low);
        rtc.set_cmos(index + 1, high);
    }
    let above_four_gib = (high >> 16).to_le_bytes();
    for (index, byte) in (0x5b..=0x5d).zip(above_four_gib) {
        rtc.set_cmos(index, byte);
    }
}

/// The hard disks: the type of the first two with their geometry, and the translation of all four.
fn store_disks(disks: &[(usize, DriveGeometry, Translation)], rtc: &mut Mc146818) {
    /// Type 47 says that the geometry is stored.
    const USER_TYPE: u8 = 47;
    /// Where the type and the geometry of the first two are, and their part of register 0x12.
    const PLACES: [(u8, u8, u8); 2] = [(0x19, 0x1b, 0xf0), (0x1a, 0x24, 0x0f)];
    let (mut types, mut translations) = (0, 0);
    for (place, geometry, translation) in disks {
        translations |= (*translation as u8).checked_shl(2 * *place as u32).unwrap_or(0);
        let Some((type_at, geometry_at, mask)) = PLACES.get(*place).copied() else { continue };
        types |= mask;
        rtc.set_cmos(type_at, USER_TYPE);
        let [low, high] = geometry.cylinders.to_le_bytes();
        let control = 0xc0 | u8::from(geometry.heads > 8) << 3;
        let bytes = [low, high, geometry.heads, 0xff, 0xff, control, low, high, geometry.sectors];
        for (at, byte) in (geometry_at..).zip(bytes) {
            rtc.set_cmos(at, byte);
        }
    }
    rtc.set_cmos(0x12, types);
    rtc.set_cmos(0x39, translations);
}

fn store_boot_order(rtc: &mut Mc146818, (third, first): (u8, u8)) {
    rtc.set_cmos(0x38, third);
    rtc.set_cmos(0x3d, first);
}
