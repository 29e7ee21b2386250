//! One harness for all devices of a machine: it accesses whatever they have mapped, lets time pass, and checks the laws
//! of [`device::testing`]. Tests give it random bytes, the fuzzer its own; the fuzzer may look at one device alone, on a
//! machine without the others: it is found where firmware puts it, and the script writes its structures in memory.

mod devices;

use std::sync::Arc;

use device::ResetKind;
use device::testing::{FakeDisk, Script, access, access_in, is_answered, reset_twice_is_once, save_and_restore_agree};
use devices_pci::config::reg;
use devices_pci::root_port::bridge_reg;
use devices_pci::{BarKind, FunctionInfo};
use memory::{AccessSize, AddressSpace, GuestAddress};

use crate::Machine;
use crate::qtest::QtestAccess;

/// What a byte of the script stands for, of 256.
const PORTS: u64 = 120;
const MEMORY: u64 = 190;
const RAM: u64 = 215;
const DISKS: u64 = 230;
const TIME: u64 = 246;
const LAW: u64 = 253;

/// Devices at fixed addresses: name, ports, memory, each as first address and length. A machine has those that answer there,
/// and of their ranges those that answer: boards have some of them in different places.
type Fixed = (&'static str, &'static [(u64, u64)], &'static [(u64, u64)]);

const FIXED: &[Fixed] = &[
    ("i8257", &[(0, 0x10), (0x81, 0xf), (0xc0, 0x20)], &[]),
    ("i8259", &[(0x20, 2), (0xa0, 2), (0x4d0, 2)], &[]),
    ("i8254", &[(0x40, 4), (0x61, 1)], &[]),
    ("i8042", &[(0x60, 1), (0x64, 1), (0x92, 1)], &[]),
    ("mc146818rtc", &[(0x70, 4)], &[]),
    ("vga", &[(0x1ce, 4), (0x3b4, 2), (0x3ba, 1), (0x3c0, 0x10), (0x3d4, 2), (0x3da, 1)], &[(0xa_0000, 0x2_0000)]),
    ("ide", &[(0x170, 8), (0x1f0, 8), (0x376, 1), (0x3f6, 1)], &[]),
    ("fdc", &[(0x3f1, 5), (0x3f7, 1), (0, 0x10), (0x81, 0xf)], &[]),
    ("pvpanic", &[(0x505, 1)], &[]),
    ("ib700", &[(0x441, 1), (0x443, 1)], &[]),
    ("fw_cfg", &[(0x510, 12)], &[]),
    ("acpi_pm", &[(0x600, 0x80), (0xafe0, 4), (0xb2, 2)], &[]),
    ("smbus", &[(0x700, 0x40)], &[]),
    ("acpi-cpu-hotplug", &[(0xaf00, 0xc), (0xcd8, 0xc)], &[]),
    ("acpi-pci-hotplug", &[(0xae00, 0x18), (0xcc0, 0x18)], &[]),
    ("pci-host", &[(0xcf8, 8)], &[(0xb000_0000, 0x10_0000)]),
    ("vmport", &[(0x5658, 1)], &[]),
    ("isa-serial", &[(0x3f8, 8)], &[]),
    ("isa-parallel", &[(0x378, 8)], &[]),
    ("isa-debugcon", &[(0x402, 1)], &[]),
    ("isa-debug-exit", &[(0x501, 2)], &[]),
    ("pc-testdev", &[(0xe0, 0xc), (0x2000, 0x18)], &[(0xff00_0000, 0x1_0000)]),
    ("cfi.pflash01", &[], &[(FLASH, devices::DISK_LEN)]),
    ("ioapic", &[], &[(0xfec0_0000, 0x1000)]),
    ("ioapic-2", &[], &[(0xfec1_0000, 0x1000)]),
    ("hpet", &[], &[(0xfed0_0000, 0x400)]),
    ("lapic", &[], &[(0xfee0_0000, 0x1000)]),
    // Of a microvm.
    ("ged", &[], &[(0xfea0_0000, 4), (0xfea0_0200, 3)]),
    ("virtio-mmio", &[], &[(0xfeb0_0000, 24 * 0x200)]),
    ("gpex", &[], &[(0xe000_0000, 0x10_0000)]),
];

/// Where configuration space is in memory on boards that have it there: 1 MiB for each bus, 4 KiB for each function.
const CONFIGURATION: u64 = 0xb000_0000;
/// Where functions behind bridges get their memory and ports.
const BEHIND_MEMORY: u64 = 0xc000_0000;
const BEHIND_PORTS: u64 = 0xe000;
/// Where the flash chip begins.
const FLASH: u64 = (1 << 32) - devices::DISK_LEN;
/// The card that takes the place of the board's.
const OTHER_CARD: &str = "virtio-vga";

/// Where one device is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Focus {
    ports: Vec<(u64, u64)>,
    memory: Vec<(u64, u64)>,
    /// The modern registers of a virtio device.
    virtio: Option<u64>,
}

/// A machine with every kind of device that needs no more than a disk in memory, whose vCPUs never run.
pub struct Harness {
    machine: Machine,
    access: QtestAccess,
    disks: Vec<Arc<FakeDisk>>,
    focus: Option<Focus>,
}

impl Harness {
    /// The machine `name`.
    ///
    /// # Panics
    /// It can't be built: `name` is no machine, or a device refuses its configuration.
    pub fn new(name: &str) -> Self {
        Self::with_devices(name, |_| true)
    }

    fn with_devices(name: &str, wanted: impl Fn(&str) -> bool) -> Self {
        let (machine, disks) = devices::build(name, wanted);
        let access = machine.qtest_access();
        Self { machine, access, disks, focus: None }
    }

    /// The machine with one device: one of [`Harness::names`], and what belongs to it.
    ///
    /// # Panics
    /// As [`Harness::new`], or there is no such device.
    pub fn of_device(name: &str, device: &str) -> Self {
        let whose = if device == "companion" { "ehci" } else { device };
        let mut harness = Self::with_devices(name, |owner| owner == whose);
        harness.set_up();
        harness.focus = Some(harness.find(device).unwrap_or_else(|| panic!("no device {device}")));
        harness
    }

    /// The devices that can be looked at alone.
    pub fn names(&self) -> Vec<String> {
        let fixed = FIXED.iter().filter(|(_, ports, memory)| {
            !answered(&self.access.ports, ports).is_empty() || !answered(&self.access.memory, memory).is_empty()
        });
        self.set_up_behind();
        let functions = self.functions();
        let has_card = functions.iter().any(|function| function.class == 0x0300);
        let other_card = has_card.then(|| OTHER_CARD.to_owned());
        let functions = functions.into_iter().filter_map(|function| function.id);
        fixed.map(|(name, ..)| (*name).to_owned()).chain(functions).chain(other_card).collect()
    }

    #[cfg(test)]
    pub(crate) fn machine_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// How many devices there are.
    pub fn devices(&self) -> usize {
        self.access.devices.len()
    }

    /// Removes the devices that can leave, as after the guest let them go, and tells of those that something still keeps.
    /// They don't answer any longer.
    pub fn remove_and_find_kept(mut self) -> Vec<String> {
        self.access.devices.clear();
        let watched = self.machine.removable_devices();
        for (path, _) in &watched {
            self.machine.remove(path);
        }
        watched.into_iter().filter(|(_, device)| device.upgrade().is_some()).map(|(path, _)| path).collect()
    }

    fn find(&self, device: &str) -> Option<Focus> {
        let mut focus = Focus::default();
        let fixed = FIXED.iter().find(|(name, ..)| *name == device);
        if let Some((_, ports, memory)) = fixed {
            focus.ports = answered(&self.access.ports, ports);
            focus.memory = answered(&self.access.memory, memory);
        }
        // The board's IDE controller has its registers for DMA on the bus.
        let is_it = |function: &FunctionInfo| {
            function.id.as_deref() == Some(device) || (device == "ide" && matches!(function.class, 0x0101 | 0x0106))
        };
        let function = self.functions().into_iter().find(is_it);
        if fixed.is_none() {
            function.as_ref()?;
        }
        for (index, bar) in function.iter().flat_map(|function| function.bars.iter().map(|bar| (bar.index, bar))) {
            let Some(address) = bar.address else { continue };
            if bar.kind == BarKind::Io {
                focus.ports.push((address, bar.size));
            } else {
                focus.memory.push((address, bar.size));
            }
            let is_virtio = function.as_ref().is_some_and(|function| function.vendor == 0x1af4);
            if is_virtio && index == 4 {
                focus.virtio = Some(address);
            }
        }
        // Bridges and what is behind them have more to say there than in their memory.
        let has_configuration = |function: &&FunctionInfo| function.bridge.is_some() || function.bus != 0;
        if let Some(function) = function.as_ref().filter(has_configuration) {
            let at = CONFIGURATION + (u64::from(function.bus) << 20) + (u64::from(function.address.devfn()) << 12);
            focus.memory.extend(answered(&self.access.memory, &[(at, 0x1000)]));
        }
        Some(focus)
    }

    /// All functions that have been found a place.
    fn functions(&self) -> Vec<FunctionInfo> {
        let mut functions = self.machine.pci_functions();
        let behind: Vec<_> = functions.iter().filter_map(|function| function.bridge.as_ref()).collect();
        let behind: Vec<_> = behind.into_iter().flat_map(|bridge| bridge.functions.clone()).collect();
        functions.extend(behind);
        functions
    }

    /// The machine as firmware leaves it.
    fn set_up(&self) {
        self.machine.after_firmware();
        self.set_up_behind();
    }

    /// Gives the buses behind the root's bridges numbers, and the functions there places.
    fn set_up_behind(&self) {
        let bridges = self.machine.pci_functions().into_iter().filter(|function| function.bridge.is_some());
        for (number, bridge) in (1..).zip(bridges) {
            self.configure(&bridge, bridge_reg::PRIMARY, number << 8 | number << 16);
        }
        let (mut memory, mut ports) = (BEHIND_MEMORY, BEHIND_PORTS);
        for function in self.functions().iter().filter(|function| function.bus != 0) {
            for bar in function.bars.iter().filter(|bar| bar.kind != BarKind::Rom) {
                let free = if bar.kind == BarKind::Io { &mut ports } else { &mut memory };
                let address = free.next_multiple_of(bar.size);
                *free = address + bar.size;
                self.configure(function, reg::BAR0 + 4 * bar.index as u8, address as u32);
            }
            self.configure(function, reg::COMMAND, 7);
        }
    }

    fn configure(&self, function: &FunctionInfo, register: u8, value: u32) {
        let place = u32::from(function.bus) << 16 | u32::from(function.address.devfn()) << 8 | u32::from(register);
        self.access.ports.store(GuestAddress(0xcf8), AccessSize::Dword, u64::from(1 << 31 | place));
        self.access.ports.store(GuestAddress(0xcfc), AccessSize::Dword, value.into());
    }

    /// Plays a script. Returns which laws were broken.
    pub fn play(&self, bytes: &[u8]) -> Vec<String> {
        let mut broken = Vec::new();
        if let Some(focus) = &self.focus {
            self.set_up();
            if let Some(registers) = focus.virtio {
                start_virtio(&self.access.memory, registers);
            }
        }
        let mut script = Script::new(bytes);
        while !script.is_over() {
            let choice = script.number(1);
            self.step(choice, &mut script, &mut broken);
        }
        self.work();
        broken
    }

    fn step(&self, choice: u64, script: &mut Script<'_>, broken: &mut Vec<String>) {
        let machine = &self.access;
        match (choice, &self.focus) {
            (0..PORTS, Some(focus)) if !focus.ports.is_empty() => access_in(&machine.ports, &focus.ports, script),
            (0..MEMORY, Some(focus)) if !focus.memory.is_empty() => access_in(&machine.memory, &focus.memory, script),
            (0..MEMORY, Some(focus)) => access_in(&machine.ports, &focus.ports, script),
            (0..PORTS, None) => access(&machine.ports, script),
            (PORTS..MEMORY, None) => access(&machine.memory, script),
            (MEMORY..RAM, _) => write_memory(&machine.memory, script),
            (RAM..DISKS, Some(Focus { virtio: Some(registers), .. })) => {
                offer(&machine.memory, *registers, script);
            }
            (RAM..DISKS, _) => self.work(),
            (DISKS..TIME, _) => machine.clock.step(script.number(2) << (script.number(1) & 7)),
            (TIME..LAW, _) => {
                self.work();
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

    /// The disks do what they were asked for.
    fn work(&self) {
        for disk in &self.disks {
            disk.work();
            disk.take_log();
        }
    }

    /// Checks the laws for each device, as it is now, and leaves all of them reset. Returns which
    /// are broken.
    pub fn check(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (name, device) in &self.access.devices {
            broken.extend(save_and_restore_agree(name, &**device).err());
            for kind in [ResetKind::Warm, ResetKind::Cold] {
                broken.extend(reset_twice_is_once(name, &**device, kind).err());
            }
        }
        broken
    }
}

/// Those of the ranges that devices answer now.
fn answered(space: &AddressSpace, ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
    ranges.iter().copied().filter(|(start, _)| is_answered(space, *start)).collect()
}

/// Writes up to 16 bytes to the first or the second 64 KiB of RAM.
fn write_memory(memory: &AddressSpace, script: &mut Script<'_>) {
    let choice = script.number(1);
    let address = script.number(2) & if choice & 1 == 0 { 0xffff } else { 0xff } | (choice & 2) << 15;
    for word in 0..1 + (choice >> 2 & 1) {
        memory.store(GuestAddress((address & !7) + 8 * word), AccessSize::Qword, script.number(8));
    }
}

/// Queues of a virtio device that the harness sets up, and their entries.
const QUEUES: u64 = 4;
const ENTRIES: u64 = 8;

fn queue_at(queue: u64) -> u64 {
    0x4000 + 0x1000 * queue
}

/// Sets up the first queues of a virtio device through its modern registers, with all features.
fn start_virtio(memory: &AddressSpace, registers: u64) {
    let set = |offset: u64, size, value| {
        memory.store(GuestAddress(registers + offset), size, value);
    };
    let get = |offset: u64| memory.load(GuestAddress(registers + offset), AccessSize::Dword);
    set(20, AccessSize::Byte, 0);
    set(20, AccessSize::Byte, 3);
    for half in 0..2 {
        set(0, AccessSize::Dword, half);
        let offered = get(4);
        set(8, AccessSize::Dword, half);
        // Packed queues have another layout.
        set(12, AccessSize::Dword, if half == 1 { offered & !4 } else { offered });
    }
    set(20, AccessSize::Byte, 11);
    for queue in 0..QUEUES {
        for word in 0..0x200 {
            memory.store(GuestAddress(queue_at(queue) + 8 * word), AccessSize::Qword, 0);
        }
        set(22, AccessSize::Word, queue);
        set(24, AccessSize::Word, ENTRIES);
        for (offset, at) in [(32, 0), (40, 0x400), (48, 0x800)] {
            set(offset, AccessSize::Dword, queue_at(queue) + at);
        }
        set(28, AccessSize::Word, 1);
    }
    set(20, AccessSize::Byte, 15);
}

/// Offers a chain of up to three descriptors, whose first has what the script says, and notifies the queue.
fn offer(memory: &AddressSpace, registers: u64, script: &mut Script<'_>) {
    let choice = script.number(1);
    let queue = choice & 3;
    let at = queue_at(queue);
    let count = 1 + (choice >> 2) % 3;
    for index in 0..count {
        let kind = script.number(1);
        let (address, len) = (0x1_0000 + (script.number(1) << 8), if kind & 4 == 0 { 64 } else { script.number(2) });
        let flags = kind & 2 | u64::from(index + 1 < count);
        memory.store(GuestAddress(at + 16 * index), AccessSize::Qword, address);
        memory.store(GuestAddress(at + 16 * index + 8), AccessSize::Qword, len | flags << 32 | (index + 1) << 48);
        if kind & 8 != 0 {
            for word in 0..6 {
                memory.store(GuestAddress(address + 4 * word), AccessSize::Dword, script.number(2));
            }
        }
    }
    let available = memory.load(GuestAddress(at + 0x402), AccessSize::Word);
    memory.store(GuestAddress(at + 0x404 + 2 * (available % ENTRIES)), AccessSize::Word, 0);
    memory.store(GuestAddress(at + 0x402), AccessSize::Word, available.wrapping_add(1) & 0xffff);
    memory.store(GuestAddress(registers + 0x3000 + 4 * queue), AccessSize::Word, queue);
}
