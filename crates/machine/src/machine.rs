//! A machine that has been built, and what monitors ask about it.

mod cpus;
mod inspect;
mod reset;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use accel::{AccelError, Accelerator, CpuSignals, MachineSpaces, Signal, VcpuConfig};
use clock::Clock;
use cpu::CpuConfig;
use cpu::block::Following;
use device::ResetKind;
use devices_chipset::lapic;
use display::Console;
use display::input::{Hub, KeyQueue};
use memory::{AccessSize, AddressSpace, GuestAddress};
use object::ObjectTree;
use x86::model::Topology;

pub use self::inspect::VirtioDevice;
use self::reset::{DirectTables, RSDP_ADDRESS};
use crate::accelerator::{AcceleratorConfig, SoftwareAccelerator};
use crate::boot::{BootEnvironment, BootError, BootPlan};
use crate::config::{ChipsetKind, DeviceConfig, DeviceKind, MachineConfig};
use crate::e820::E820;
use crate::error::MachineError;
use crate::event::GuestEvents;
use crate::icount::Icount;
use crate::objects;
use crate::pc::{self, Backends, Board, Removed, UnplugError};
use crate::qtest::{QtestAccelerator, QtestAccess};
use crate::screens::Screens;
use crate::vcpu::{NewVcpu, ThreadOptions, VcpuThreads};

/// The end of low RAM holds the firmware tables: this many bytes of it.
const TABLES_SIZE: u64 = 0x2_0000;

/// Tells how the execution of a vCPU is followed, by its index.
pub type TraceFactory = dyn Fn(usize) -> Following + Send + Sync;

/// A place for a vCPU in the machine's topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuSlot {
    /// The path of its vCPU in the object tree, if one is present.
    pub path: Option<String>,
    /// Local APIC id.
    pub apic_id: u32,
    /// The socket.
    pub socket: u32,
    /// The die in its socket, on machines with several.
    pub die: Option<u32>,
    /// The core in its die.
    pub core: u32,
    /// The thread in its core.
    pub thread: u32,
    /// The NUMA node.
    pub node: Option<u16>,
}

impl CpuSlot {
    /// All the slots of a topology, in the order of vCPU indices.
    pub fn all(topology: Topology) -> Vec<CpuSlot> {
        let mut slots = Vec::new();
        for index in 0..topology.sockets * topology.dies * topology.cores * topology.threads {
            let thread = index % topology.threads;
            let core = index / topology.threads % topology.cores;
            let die = index / (topology.threads * topology.cores) % topology.dies;
            let socket = index / (topology.threads * topology.cores * topology.dies);
            slots.push(CpuSlot {
                path: None,
                apic_id: topology.apic_id(index),
                socket,
                die: (topology.dies > 1).then_some(die),
                core,
                thread,
                node: None,
            });
        }
        slots
    }
}

/// A built machine.
pub struct Machine {
    board: Board,
    objects: ObjectTree,
    screens: Screens,
    slots: Vec<CpuSlot>,
    cpu_type: String,
    boot: Option<BootPlan>,
    /// The tables, placed as firmware would, when a kernel is booted without firmware.
    tables: Option<DirectTables>,
    can_suspend: bool,
    ram_size: u64,
    memory_defaults: (bool, bool),
    node_memory: Vec<u64>,
    rtc_path: String,
    physical_bits: u32,
    accelerator: Arc<dyn Accelerator>,
    vcpus: Arc<VcpuThreads>,
    /// What it was made of, with the devices that there are now.
    config: MachineConfig,
}

impl Machine {
    /// Builds and resets a machine; it does not run yet.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn new(
        config: &MachineConfig,
        backends: &Backends<'_>,
        events: &GuestEvents,
        trace: Option<Arc<TraceFactory>>,
    ) -> Result<Self, MachineError> {
        let icount = config.icount.map(Icount::new);
        let clock = match &icount {
            Some(icount) => icount.clock().clone(),
            None if matches!(config.accelerator, AcceleratorConfig::Qtest) => Clock::manual(),
            None => Clock::host().map_err(MachineError::Timers)?,
        };
        let accelerator: Arc<dyn Accelerator> = match &config.accelerator {
            AcceleratorConfig::Software(translator) => {
                let counter = icount.as_ref().map(|icount| Arc::clone(icount.counter()));
                Arc::new(SoftwareAccelerator::new(*translator, counter, trace))
            }
            AcceleratorConfig::Qtest => Arc::new(QtestAccelerator::default()),
            AcceleratorConfig::Opened(accelerator) => Arc::clone(accelerator),
        };
        let mut slots = CpuSlot::all(config.topology);
        let mut numa = config.numa.clone();
        numa.complete(&slots, config.ram_size).map_err(MachineError::Numa)?;
        for (index, slot) in slots.iter_mut().enumerate() {
            slot.node = numa.node_of(index);
        }
        if let (Some(slot), Some(apic_id)) = (slots.first_mut(), config.board.apic_id) {
            slot.apic_id = apic_id;
        }
        let config = &MachineConfig { numa, ..config.clone() };
        let (low, high) = config.ram_split();
        let tables_at = low.checked_sub(TABLES_SIZE).filter(|at| *at >= 0xe_0000);
        let tables_at = match config.machine_type.chipset {
            ChipsetKind::Empty => 0,
            _ => tables_at.ok_or(MachineError::RamTooSmall)?,
        };
        let mut board = pc::build(config, &*accelerator, &clock, backends, events)?;
        let tables = match config.direct_boot() {
            Some(_) => DirectTables::new(&board, tables_at),
            None => None,
        };
        let boot = match config.direct_boot() {
            None => None,
            Some(source) => {
                let e820 = E820::pc(low, TABLES_SIZE, high, config.cpu_model.identity().vendor);
                let e820 = match accelerator.reserved_memory() {
                    None => e820,
                    Some(range) => e820.with_reserved(range),
                };
                let rsdp = if tables.is_some() { RSDP_ADDRESS } else { 0 };
                let environment = BootEnvironment { low_ram_end: tables_at, e820, rsdp };
                let mut source = source.clone();
                source.command_line += &pc::microvm_kernel_arguments(config);
                Some(BootPlan::new(&source, &environment).map_err(|error| boot_error(config, error))?)
            }
        };
        let (objects, paths) = objects::build(config, &slots, &mut board.devices)?;
        let screens = std::mem::take(&mut board.screens);
        let path = |device| objects::device_path(config.cpus, &board.devices, device);
        let screens = Screens::new(screens, Arc::clone(&board.input), &clock, path);
        for (slot, path) in slots.iter_mut().zip(paths) {
            slot.path = Some(path);
        }
        let spaces = MachineSpaces {
            memory: Arc::clone(&board.memory),
            smm_memory: board.smm_memory.clone(),
            end_of_interrupt: board.controllers.end_of_interrupt(),
        };
        accelerator.attach(&spaces)?;
        let vcpus = new_vcpus(config, &slots, &board, &*accelerator)?;
        let options = ThreadOptions {
            accelerator: accelerator.name().to_uppercase(),
            threads: config.threads,
            icount,
            enter: lapic::set_current,
        };
        let vcpus = VcpuThreads::start(vcpus, events, options).map_err(MachineError::Thread)?;
        let rtc = board.devices.iter().position(|device| device.type_name == "mc146818rtc").unwrap_or(usize::MAX);
        let rtc_path = objects::device_path(config.cpus, &board.devices, rtc);
        let can_suspend = config.firmware.sleep.s3 && board.power_management.is_some();
        let physical_bits = config.cpu_model.physical_bits();
        let cpu_type = config.cpu_model.type_name();
        let vcpus = Arc::new(vcpus);
        let mut machine = Self {
            board,
            objects,
            screens,
            slots,
            cpu_type,
            boot,
            tables,
            can_suspend,
            ram_size: config.ram_size,
            memory_defaults: (config.mem_merge, config.dump_guest_core),
            node_memory: config.numa.nodes().map(|node| node.memory).collect(),
            rtc_path,
            physical_bits,
            accelerator,
            vcpus,
            config: config.clone(),
        };
        for device in &config.devices {
            if let DeviceKind::Cpu(wish) = &device.kind {
                let plugged = machine.plug_cpu(device.id.as_deref(), wish, false);
                plugged.map_err(|message| MachineError::Device { option: device.source.clone(), message })?;
            }
        }
        machine.reset_to(ResetKind::Cold).map_err(|error| boot_error(config, error))?;
        Ok(machine)
    }

    /// Where the real-time clock is in the object tree.
    pub fn rtc_path(&self) -> &str {
        &self.rtc_path
    }

    /// Whether the guest can suspend to RAM and wake up.
    pub fn can_suspend(&self) -> bool {
        self.can_suspend
    }

    /// The guest's time, nanoseconds.
    pub fn now(&self) -> u64 {
        self.board.clock.now()
    }

    /// Whether the clock's alarm wakes the guest: it asked for it.
    pub fn wakes_by_alarm(&self) -> bool {
        self.board.power_management.as_ref().is_some_and(|power| power.lock().wakes_by_alarm())
    }

    /// What runs the vCPUs.
    pub fn accelerator(&self) -> &dyn Accelerator {
        &*self.accelerator
    }

    /// Presses the ACPI power button.
    pub fn press_power_button(&self) {
        if let Some(power) = &self.board.power_management {
            power.lock().press_power_button();
        }
        if let Some(device) = &self.board.event_device {
            device.lock().press_power_button();
        }
    }

    /// Sends an NMI to all vCPUs, as a front-panel button does.
    pub fn inject_nmi(&self) {
        if self.board.controllers.has_local_apics() {
            self.board.controllers.bus.pulse_nmi();
            return;
        }
        for index in 0..self.vcpus.count() {
            if let Some(signals) = self.vcpus.signals(index) {
                signals.raise(Signal::NMI);
            }
        }
    }

    /// The vCPU threads.
    pub fn vcpus(&self) -> &VcpuThreads {
        &self.vcpus
    }

    /// The objects that the machine is made of.
    pub fn objects(&self) -> &ObjectTree {
        &self.objects
    }

    /// The objects, to change.
    pub fn objects_mut(&mut self) -> &mut ObjectTree {
        &mut self.objects
    }

    /// All places for vCPUs, present or not, by index.
    pub fn cpu_slots(&self) -> &[CpuSlot] {
        &self.slots
    }

    /// The machine's generation, if the guest can ask for it.
    pub fn generation(&self) -> Option<[u8; 16]> {
        self.board.tables.as_ref().and_then(|acpi| acpi.generation)
    }

    /// Forgets the ticks of the real-time clock that the guest could not take.
    pub fn forget_clock_ticks(&self) {
        self.board.forget_clock_ticks();
    }

    /// Whether the board has places for vCPUs.
    pub fn has_cpu_slots(&self) -> bool {
        !matches!(self.config.machine_type.chipset, ChipsetKind::Empty | ChipsetKind::Microvm)
    }

    /// Bytes of RAM.
    pub fn ram_size(&self) -> u64 {
        self.ram_size
    }

    /// Whether the host may share equal pages of guest memory, and whether a core dump contains it.
    pub fn memory_defaults(&self) -> (bool, bool) {
        self.memory_defaults
    }

    /// The memory of each NUMA node; nothing on a machine without nodes.
    pub fn node_memory(&self) -> &[u64] {
        &self.node_memory
    }

    /// The slot of vCPU `index`, if it is present.
    pub fn cpu(&self, index: usize) -> Option<&CpuSlot> {
        self.slots.get(index).filter(|_| self.vcpus.is_present(index))
    }

    /// The vCPUs' object type.
    pub fn cpu_type(&self) -> &str {
        &self.cpu_type
    }

    /// The screens; the first is meant where none is named.
    pub fn consoles(&self) -> &[Arc<Console>] {
        &self.screens.consoles
    }

    /// Keyboards and pointers.
    pub fn input(&self) -> &Arc<Hub> {
        &self.screens.input
    }

    /// Keys with time in between.
    pub fn key_queue(&self) -> &Arc<KeyQueue> {
        &self.screens.keys
    }

    // ---- Devices that come and leave ----

    /// What it was made of, with the devices that there are now.
    pub fn config(&self) -> &MachineConfig {
        &self.config
    }

    /// Adds a device to the machine.
    ///
    /// # Errors
    /// Why it can't be. Disks that it was given for its path are still connected.
    pub fn plug(&mut self, device: &DeviceConfig, backends: &Backends<'_>) -> Result<(), String> {
        if let DeviceKind::Cpu(wish) = &device.kind {
            self.plug_cpu(device.id.as_deref(), wish, true)?;
            self.config.devices.push(device.clone());
            return Ok(());
        }
        let new = self.board.plug(&self.config, device, backends)?;
        for device in &self.board.devices[new] {
            objects::add(&mut self.objects, device).map_err(|error| error.to_string())?;
        }
        self.config.devices.push(device.clone());
        Ok(())
    }

    /// Asks for a device, by id or path, to leave. The path of one that can be removed at once; nothing if the guest was
    /// asked.
    ///
    /// # Errors
    /// [`UnplugError`].
    pub fn request_removal(&mut self, name: &str) -> Result<Option<String>, UnplugError> {
        let path = if name.starts_with('/') { name.to_owned() } else { format!("/machine/peripheral/{name}") };
        let object = self.objects.resolve(&path).map_err(|_| UnplugError::NotFound(name.to_owned()))?;
        let path = self.objects.path(object).map_err(|_| UnplugError::NotFound(name.to_owned()))?;
        if let Some(index) = self.cpu_at(&path) {
            return self.request_cpu_removal(index).map(|()| None);
        }
        Ok(self.board.request_removal(&path, name)?.then_some(path))
    }

    /// The paths of the devices that the guest has let go, and which have to be removed.
    pub fn ejected(&self) -> Vec<String> {
        let mut gone = self.board.ejected();
        gone.extend(self.ejected_cpus());
        gone
    }

    /// The paths of the devices that the guest was asked to let go. They have to be removed before a reset.
    pub fn pending_removals(&self) -> Vec<String> {
        self.board.pending()
    }

    /// Removes a device and all on its buses; those come first.
    pub fn remove(&mut self, path: &str) -> Vec<Removed> {
        if let Some(index) = self.cpu_at(path) {
            return vec![self.remove_cpu(index, path)];
        }
        let removed = self.board.remove(path);
        for device in &removed {
            if let Ok(object) = self.objects.resolve(&device.path) {
                // It was just found.
                let _removed = self.objects.remove(object);
            }
            if device.id.is_some() {
                self.config.devices.retain(|config| config.id != device.id);
            }
        }
        removed
    }

    /// The paths of the devices that can leave; each can be upgraded for as long as something holds it.
    pub(crate) fn removable_devices(&self) -> Vec<(String, Weak<dyn Any + Send + Sync>)> {
        let devices = self.board.devices.iter().filter(|device| device.removal.is_possible());
        devices.filter_map(|device| Some((device.path.clone(), device.lifecycle.watch()?))).collect()
    }

    /// Whether there is a device with that id or path.
    pub fn has_device(&self, name: &str) -> bool {
        let path = if name.starts_with('/') { name.to_owned() } else { format!("/machine/peripheral/{name}") };
        self.objects.resolve(&path).is_ok()
    }

    /// The machine as a test drives it.
    pub fn qtest_access(&self) -> QtestAccess {
        QtestAccess {
            memory: Arc::clone(&self.board.memory),
            ports: Arc::clone(&self.board.ports),
            clock: self.board.clock.clone(),
            devices: self
                .board
                .devices
                .iter()
                .map(|device| (device.type_name, Arc::clone(&device.lifecycle)))
                .collect(),
            taps: vec![("/machine/i440fx/ioapic".to_owned(), Arc::clone(&self.board.controllers.ioapic_tap))],
            inputs: self.board.controllers.inputs.clone(),
            driven: BTreeMap::new(),
        }
    }

    /// Reads from an I/O port, as a CPU would; `size` is 1, 2 or 4.
    pub fn read_port(&self, port: u64, size: usize) -> u64 {
        self.board.ports.load(GuestAddress(port), port_width(size))
    }

    /// Writes to an I/O port, as a CPU would; `size` is 1, 2 or 4.
    pub fn write_port(&self, port: u64, size: usize, value: u64) {
        self.board.ports.store(GuestAddress(port), port_width(size), value);
    }

    /// Guest memory, for whoever copies it in the background.
    pub fn guest_memory(&self) -> GuestMemory {
        GuestMemory { memory: Arc::clone(&self.board.memory), vcpus: Arc::clone(&self.vcpus) }
    }
}

fn boot_error(config: &MachineConfig, source: BootError) -> MachineError {
    let path = config.boot.as_ref().map(|boot| boot.kernel_path.clone()).unwrap_or_default();
    MachineError::Boot { path, source }
}

fn new_vcpus(
    config: &MachineConfig,
    slots: &[CpuSlot],
    board: &Board,
    accelerator: &dyn Accelerator,
) -> Result<Vec<NewVcpu>, MachineError> {
    let present = slots.iter().take(config.cpus as usize).enumerate();
    let vcpus: Result<Vec<_>, AccelError> =
        present.map(|(index, slot)| new_vcpu(config, (index, slot), board, accelerator)).collect();
    Ok(vcpus?)
}

/// Makes a vCPU, and its local APIC if that is the board's.
fn new_vcpu(
    config: &MachineConfig,
    (index, slot): (usize, &CpuSlot),
    board: &Board,
    accelerator: &dyn Accelerator,
) -> Result<NewVcpu, AccelError> {
    let tsc_khz = config.cpu_model.tsc_frequency().map(|hertz| hertz / 1000);
    let signals = Arc::new(CpuSignals::default());
    let features = Arc::new(config.cpu_model.build(config.topology, slot.apic_id));
    let interrupts = board.controllers.source(&lapic::CpuConfig {
        index,
        apic_id: slot.apic_id,
        is_boot_cpu: index == 0,
        has_x2apic: features.has(x86::cpuid::Feature::X2apic),
        tsc_khz: tsc_khz.unwrap_or(CpuConfig::DEFAULT_TSC_KHZ),
        signals: Arc::clone(&signals),
    });
    let cpu = accelerator.create_vcpu(VcpuConfig {
        index,
        apic_id: slot.apic_id,
        boot_processor: index == 0,
        features,
        memory: Arc::clone(&board.memory),
        smm_memory: board.smm_memory.clone(),
        ports: Arc::clone(&board.ports),
        clock: board.clock.clone(),
        tsc_khz,
        microcode_revision: config.cpu_model.microcode_revision(),
        signals: Arc::clone(&signals),
        interrupts,
        a20: Arc::clone(&board.a20.open),
        ferr: Arc::clone(&board.ferr),
    })?;
    board.mailboxes.set(index, Some(Arc::clone(&signals)));
    Ok(NewVcpu { cpu, signals })
}

fn port_width(size: usize) -> AccessSize {
    match size {
        1 => AccessSize::Byte,
        2 => AccessSize::Word,
        _ => AccessSize::Dword,
    }
}

/// Guest memory as a debugger reads it.
#[derive(Clone)]
pub struct GuestMemory {
    memory: Arc<AddressSpace>,
    vcpus: Arc<VcpuThreads>,
}

impl GuestMemory {
    /// Reads guest-physical memory; where there is none, zeros.
    pub fn read_physical(&self, address: u64, into: &mut [u8]) {
        self.memory.read(GuestAddress(address), into);
    }

    /// Writes guest-physical memory; where there is none, nothing.
    pub fn write_physical(&self, address: u64, from: &[u8]) {
        self.memory.write(GuestAddress(address), from);
    }

    /// Writes memory as vCPU `cpu` sees it, whatever its rights say; `false` where no page is mapped.
    pub fn write_virtual(&self, cpu: usize, address: u64, from: &[u8]) -> bool {
        const PAGE: u64 = 4096;
        let mut rest = from;
        let mut at = address;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(((PAGE - at % PAGE) as usize).min(rest.len()));
            let Some(Some(frame)) = self.vcpus.with(cpu, move |cpu| cpu.translate(at)) else { return false };
            self.memory.write(frame, piece);
            at = at.wrapping_add(piece.len() as u64);
            rest = after;
        }
        true
    }

    /// Reads memory as vCPU `cpu` sees it; `false` where no page is mapped.
    pub fn read_virtual(&self, cpu: usize, address: u64, into: &mut [u8]) -> bool {
        const PAGE: u64 = 4096;
        let pages = (address % PAGE + into.len() as u64).div_ceil(PAGE);
        let first = address & !(PAGE - 1);
        let translated = self.vcpus.with(cpu, move |cpu| {
            (0..pages).map(|page| cpu.translate(first.wrapping_add(page * PAGE))).collect::<Option<Vec<_>>>()
        });
        let Some(Some(frames)) = translated else { return false };
        let mut done = 0;
        for frame in frames {
            let offset = address.wrapping_add(done as u64) % PAGE;
            let piece = ((PAGE - offset) as usize).min(into.len() - done);
            self.memory.read(GuestAddress(frame.0 + offset), &mut into[done..done + piece]);
            done += piece;
        }
        true
    }
}
