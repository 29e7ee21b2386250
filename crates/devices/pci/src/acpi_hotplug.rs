//! The ports by which ACPI code plugs and unplugs PCI functions (QEMU's `docs/specs/acpi_pci_hotplug`, version of 7.2).
//!
//! | offset | read | write |
//! | --- | --- | --- |
//! | 0x00 | slots of the selected bus that were filled; a read takes them | |
//! | 0x04 | slots that shall be emptied | |
//! | 0x08 | 0 | ejects the lowest slot that is set |
//! | 0x0c | slots that can be emptied | |
//! | 0x10 | the selected bus | selects a bus |
//! | 0x14 | 0: no function has an index of the firmware's | |
//!
//! All registers have 32 bits. Without bridges (`acpi-pci-hotplug-with-bridge-support=off`) there is the root bus alone,
//! and filled slots stay set. A function leaves its bus with the guest's write; the machine hears of it and does the rest.

use std::sync::Arc;

use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, ResetKind};
use state::State;

use crate::bus::{Address, PciBus};

/// How many ports there are.
pub const PORT_COUNT: u64 = 0x18;

/// Offsets of the registers.
mod port {
    pub const UP: u64 = 0x00;
    pub const DOWN: u64 = 0x04;
    pub const EJECT: u64 = 0x08;
    pub const REMOVABLE: u64 = 0x0c;
    pub const SELECT: u64 = 0x10;
}

/// How many buses can be selected.
const BUSES: usize = 256;

/// The guest-visible state. Buses are numbered by their selectors.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "acpi_pcihp_state", version = 1)]
struct HotplugState {
    selected: u32,
    up: [u32; BUSES],
    down: [u32; BUSES],
}

impl Default for HotplugState {
    fn default() -> Self {
        Self { selected: 0, up: [0; BUSES], down: [0; BUSES] }
    }
}

/// Hears that the guest has ejected a slot; its functions have left the bus. Called with the device's lock held.
pub type Ejected = Box<dyn FnMut(&Arc<PciBus>, Vec<Address>) + Send>;

/// The ports.
pub struct AcpiHotplug {
    // Fixed configuration.
    has_bridges: bool,
    // Wiring.
    buses: Vec<Arc<PciBus>>,
    /// The slots of each bus that can be emptied: it follows from what is there.
    removable: Vec<u32>,
    ejected: Ejected,
    // Guest-visible state.
    state: HotplugState,
}

impl AcpiHotplug {
    /// Ports without buses. `has_bridges`: buses behind bridges can be selected.
    pub fn new(has_bridges: bool, ejected: Ejected) -> DeviceCell<Self> {
        DeviceCell::new(Self {
            has_bridges,
            buses: Vec::new(),
            removable: Vec::new(),
            ejected,
            state: HotplugState::default(),
        })
    }

    /// Adds a bus and returns its selector; `None` if there are too many.
    pub fn add_bus(&mut self, bus: Arc<PciBus>) -> Option<u32> {
        let selector = Some(self.buses.len()).filter(|selector| *selector < BUSES)?;
        self.buses.push(bus);
        self.removable.push(u32::MAX);
        Some(selector as u32)
    }

    /// The buses, by selector.
    pub fn buses(&self) -> &[Arc<PciBus>] {
        &self.buses
    }

    /// Says which slots of a bus can be emptied.
    pub fn set_removable(&mut self, selector: u32, slots: u32) {
        if let Some(removable) = self.removable.get_mut(selector as usize) {
            *removable = slots;
        }
    }

    /// A function has come. Afterwards the guest has to be told by an event.
    pub fn plugged(&mut self, selector: u32, slot: u8) {
        if let Some(up) = self.state.up.get_mut(selector as usize) {
            *up |= 1 << (slot & 31);
        }
    }

    /// The guest shall let a slot's functions go. Afterwards it has to be told by an event.
    pub fn request(&mut self, selector: u32, slot: u8) {
        if let Some(down) = self.state.down.get_mut(selector as usize) {
            *down |= 1 << (slot & 31);
        }
    }

    /// Nothing is asked of the guest about a slot any more.
    pub fn forget(&mut self, selector: u32, slot: u8) {
        for list in [&mut self.state.up, &mut self.state.down] {
            if let Some(slots) = list.get_mut(selector as usize) {
                *slots &= !(1 << (slot & 31));
            }
        }
    }

    fn eject(&mut self, slots: u32) {
        let selector = self.state.selected;
        let slot = slots.trailing_zeros() as u8;
        let Some(bus) = self.buses.get(selector as usize).cloned().filter(|_| slots != 0) else { return };
        self.forget(selector, slot);
        let removable = self.removable.get(selector as usize).copied().unwrap_or(0);
        if removable >> slot & 1 == 0 {
            return;
        }
        let functions = bus.detach_slot(slot);
        if !functions.is_empty() {
            (self.ejected)(&bus, functions);
        }
    }
}

impl Device for AcpiHotplug {
    /// The machine has carried out what was asked for before.
    fn reset(&mut self, _kind: ResetKind) {
        self.state.selected = 0;
        self.state.up.fill(0);
        self.state.down.fill(0);
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {}
}

impl IoDevice for AcpiHotplug {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Dword, AccessSize::Dword)
    }

    fn read(&mut self, _region: usize, offset: u64, _size: AccessSize) -> u64 {
        let selector = self.state.selected as usize;
        let of_bus = |list: &[u32]| list.get(selector).copied().unwrap_or(0);
        u64::from(match offset {
            port::UP => {
                let up = of_bus(&self.state.up);
                if let Some(slots) = self.state.up.get_mut(selector).filter(|_| self.has_bridges) {
                    *slots = 0;
                }
                up
            }
            port::DOWN => of_bus(&self.state.down),
            port::REMOVABLE => of_bus(&self.removable),
            port::SELECT => self.state.selected,
            _ => 0,
        })
    }

    fn write(&mut self, _region: usize, offset: u64, _size: AccessSize, value: u64) {
        match offset {
            port::EJECT => self.eject(value as u32),
            port::SELECT => self.state.selected = if self.has_bridges { value as u32 } else { 0 },
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Label, i440fx_swizzle};
    use crate::capability::{MsiMessage, MsiSink};
    use crate::pvpanic::PvpanicPci;
    use memory::{AddressSpace, SpaceKind};
    use std::sync::Mutex;

    struct NoMessages;

    impl MsiSink for NoMessages {
        fn deliver(&self, _: MsiMessage) {}
    }

    fn bus() -> Arc<PciBus> {
        let spaces = (Arc::new(AddressSpace::new(SpaceKind::Memory)), Arc::new(AddressSpace::new(SpaceKind::Ports)));
        let bus = PciBus::new("pci.0", spaces, Vec::new(), i440fx_swizzle, Arc::new(NoMessages));
        for address in [Address::new(3, 0), Address::new(4, 0)] {
            let function = PvpanicPci::new(3, Box::new(|_| ()));
            bus.attach(address, Label::of_board("pvpanic-pci"), function, Vec::new()).expect("a free place");
        }
        bus
    }

    fn ports(has_bridges: bool) -> (DeviceCell<AcpiHotplug>, Arc<Mutex<Vec<Address>>>) {
        let log: Arc<Mutex<Vec<Address>>> = Arc::default();
        let seen = Arc::clone(&log);
        let ejected = Box::new(move |_: &Arc<PciBus>, gone: Vec<Address>| seen.lock().expect("log").extend(gone));
        let ports = AcpiHotplug::new(has_bridges, ejected);
        assert_eq!(ports.lock().add_bus(bus()), Some(0));
        (ports, log)
    }

    fn read(ports: &DeviceCell<AcpiHotplug>, offset: u64) -> u64 {
        ports.lock().read(0, offset, AccessSize::Dword)
    }

    #[test]
    fn filled_slots_are_told_once_or_with_the_root_bus_alone_always() {
        for (has_bridges, again) in [(true, 0), (false, 0x10)] {
            let (ports, _log) = ports(has_bridges);
            ports.lock().plugged(0, 4);
            assert_eq!(read(&ports, port::UP), 0x10);
            assert_eq!(read(&ports, port::UP), again);
            ports.lock().write(0, port::SELECT, AccessSize::Dword, 7);
            assert_eq!(read(&ports, port::SELECT), if has_bridges { 7 } else { 0 });
        }
    }

    #[test]
    fn ejected_slot_is_empty_at_once_and_one_that_is_fixed_stays() {
        let (ports, log) = ports(true);
        ports.lock().set_removable(0, !(1 << 3));
        for slot in [3, 4] {
            ports.lock().request(0, slot);
        }
        assert_eq!(read(&ports, port::DOWN), 0x18);
        for slot in [3, 4, 31] {
            ports.lock().write(0, port::EJECT, AccessSize::Dword, 1 << slot);
        }
        ports.lock().write(0, port::EJECT, AccessSize::Dword, 0);
        assert_eq!(*log.lock().expect("log"), [Address::new(4, 0)]);
        assert_eq!(read(&ports, port::DOWN), 0);
        let bus = Arc::clone(&ports.lock().buses()[0]);
        assert!(bus.is_occupied(Address::new(3, 0)) && !bus.is_occupied(Address::new(4, 0)));
    }

    #[test]
    fn unknown_buses_have_no_slots_and_a_hostile_stream_does_no_harm() {
        let (ports, _log) = ports(true);
        ports.lock().write(0, port::SELECT, AccessSize::Dword, u64::from(u32::MAX));
        ports.lock().write(0, port::EJECT, AccessSize::Dword, 8);
        assert_eq!([port::UP, port::DOWN, port::REMOVABLE, 0x14].map(|at| read(&ports, at)), [0; 4]);
        let mut device = ports.lock();
        device.state = HotplugState { selected: u32::MAX, up: [1; BUSES], ..HotplugState::default() };
        device.restored();
        device.plugged(0, 1);
        device.request(u32::MAX, 1);
        device.write(0, port::EJECT, AccessSize::Dword, 1);
        device.reset(ResetKind::Warm);
        assert_eq!(device.state, HotplugState::default());
    }
}
