//! PCI Express root ports: `pcie-root-port` (1b36:000c) and `ioh3420` (8086:3420), bridges with a slot behind them
//! (PCI-to-PCI Bridge Architecture Specification 1.2; PCI Express Base Specification 2.0, 7.8).
//!
//! The slot has an attention button, a power controller, both indicators and an electromechanical interlock (6.7): the
//! button asks the guest to let go of what is in the slot, and switching its power off, with the power indicator, is the
//! guest's consent. Interrupts go by INTA, or by MSI-X of the generic port and MSI of the other. What is in a slot whose
//! functions come and leave by ACPI does not show in the port's registers, as in QEMU.
//!
//! Left out: the bridge's windows do not filter what devices behind it decode; power does not reach the devices; no errors
//! are reported.

use std::sync::{Arc, Weak};

use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, IrqLine, ResetKind};
use memory::SpaceKind;
use state::State;

use crate::acpi_hotplug::Ejected;
use crate::bus::{Address, PciBus, PciFunction, Window};
use crate::capability::{Msi, MsiMessage, MsiSink, Msix};
use crate::config::{ConfigSpace, Identity, reg, status};
use crate::express::{self, Express, Kind, Link};

/// Registers of header type 1.
pub mod bridge_reg {
    #![expect(missing_docs, reason = "named as in the specification, figure 3-2")]
    pub const PRIMARY: u8 = 0x18;
    pub const SECONDARY: u8 = 0x19;
    pub const SUBORDINATE: u8 = 0x1a;
    pub const LATENCY: u8 = 0x1b;
    pub const IO: u8 = 0x1c;
    pub const STATUS: u8 = 0x1e;
    pub const MEMORY: u8 = 0x20;
    pub const PREFETCHABLE: u8 = 0x24;
    pub const PREFETCHABLE_UPPER: u8 = 0x28;
    pub const IO_UPPER: u8 = 0x30;
    pub const CONTROL: u8 = 0x3e;
}

/// Which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// `pcie-root-port`
    Generic,
    /// `ioh3420`
    Ioh3420,
}

/// What a port says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortOptions {
    /// Which port.
    pub kind: PortKind,
    /// `port=`
    pub port: u8,
    /// `slot=`
    pub slot: u16,
    /// `multifunction=on`
    pub is_multifunction: bool,
    /// `hotplug=`: functions may come and leave while the machine runs.
    pub hotplug: bool,
    /// `x-speed=` and `x-width=` of the generic port.
    pub link: PortLink,
    /// `disable-acs=` of the generic port: there is access control unless it is on.
    pub access_control: bool,
}

impl PortOptions {
    /// A port with the number 0 in slot 0.
    pub fn new(kind: PortKind) -> Self {
        let link = if kind == PortKind::Generic { PortLink::default() } else { PortLink { speed: 1, lanes: 1 } };
        let access_control = kind == PortKind::Generic;
        Self { kind, port: 0, slot: 0, is_multifunction: false, hotplug: true, link, access_control }
    }
}

/// The most that a link can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortLink {
    /// 2.5, 5, 8 or 16 GT/s, as 1 to 4.
    pub speed: u8,
    /// 1 to 32.
    pub lanes: u8,
}

impl Default for PortLink {
    fn default() -> Self {
        Self { speed: 4, lanes: 32 }
    }
}

impl PortLink {
    /// What the registers say of it (7.8.6, 7.8.18, 7.8.19): the target is the highest speed.
    fn registers(self) -> Link {
        const POWER_STATE: u32 = 0x0400;
        const REPORTS_ACTIVITY: u32 = 1 << 20;
        const REPORTS_BANDWIDTH: u32 = 1 << 21;
        let mut capabilities = POWER_STATE | u32::from(self.lanes) << 4 | u32::from(self.speed);
        if self.speed == 1 {
            capabilities |= if self.lanes > 1 { REPORTS_BANDWIDTH } else { 0 };
            return Link { capabilities, speeds: 0, target: 0 };
        }
        capabilities |= REPORTS_BANDWIDTH | REPORTS_ACTIVITY;
        // Up to 5 GT/s there is no need for a list of speeds.
        let speeds = if self.speed > 2 { (2 << self.speed) - 2 } else { 0 };
        Link { capabilities, speeds, target: self.speed.into() }
    }
}

/// What the slot of a port is wired to.
pub struct SlotWiring {
    /// The bus behind the port.
    pub bus: Weak<PciBus>,
    /// INTA.
    pub line: IrqLine,
    /// Where messages go.
    pub messages: Arc<dyn MsiSink>,
    /// The registers say what is in the slot: functions do not come by ACPI.
    pub shows_presence: bool,
    /// Hears that the guest let go of the functions behind the port; they have left the bus. Called with the port's lock
    /// held.
    pub ejected: Ejected,
}

/// Why the slot does not let go of its functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// The interlock is engaged.
    #[error("slot is electromechanically locked: Device or resource busy")]
    Locked,
    /// The guest is about to change the slot's power.
    #[error("Hot-unplug failed: guest is busy (power indicator blinking)")]
    Busy,
}

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "pcie-root-port", version = 1)]
struct RootPortState {
    config: ConfigSpace,
    /// Unused by ports with MSI.
    msix: Msix,
}

/// A root port.
pub struct RootPort {
    // Fixed configuration.
    at: Places,
    /// MSI, or else it is MSI-X.
    msi: Option<Msi>,
    // Wiring.
    slot: Option<SlotWiring>,
    // Guest-visible state.
    state: RootPortState,
    /// Derived: an interrupt was given for the events that are there.
    is_notified: bool,
}

const SUBSYSTEM_CAPABILITY: (u8, u8, u8) = (0x0d, 0x40, 8);
const MSI_AT: u8 = 0x60;
const MSIX_AT: u8 = 0x48;
const MSIX_BAR: u8 = 0;

/// Where a port's registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    express: u8,
}

impl Places {
    fn of(kind: PortKind) -> Self {
        Self { express: if kind == PortKind::Generic { 0x54 } else { 0x90 } }
    }

    fn link_status(self) -> u8 {
        self.express + 0x12
    }

    fn slot_control(self) -> u8 {
        self.express + 0x18
    }

    fn slot_status(self) -> u8 {
        self.express + 0x1a
    }
}

/// Data link layer active.
const LINK_ACTIVE: u16 = 1 << 13;

/// Slot capabilities (7.8.9).
mod slot_cap {
    pub const ATTENTION_BUTTON: u32 = 1;
    pub const POWER_CONTROLLER: u32 = 1 << 1;
    pub const INDICATORS: u32 = 3 << 3;
    pub const SURPRISE: u32 = 1 << 5;
    pub const HOTPLUG: u32 = 1 << 6;
    pub const INTERLOCK: u32 = 1 << 17;
    pub const NUMBER_SHIFT: u32 = 19;
}

/// Slot control (7.8.10).
mod slot_control {
    pub const INTERRUPT: u16 = 1 << 5;
    pub const ATTENTION_OFF: u16 = 3 << 6;
    pub const POWER_INDICATOR: u16 = 3 << 8;
    pub const POWER_ON_LIGHT: u16 = 1 << 8;
    pub const POWER_BLINKS: u16 = 2 << 8;
    pub const POWER_OFF_LIGHT: u16 = 3 << 8;
    pub const POWER_OFF: u16 = 1 << 10;
    pub const INTERLOCK: u16 = 1 << 11;
    /// What the guest can write.
    pub const WRITABLE: u16 = super::slot_status::EVENTS | INTERRUPT | 0x0fc0;
}

/// Slot status (7.8.11); events are enabled by the bits at the same places of the control register.
mod slot_status {
    pub const BUTTON: u16 = 1;
    pub const PRESENCE_CHANGED: u16 = 1 << 3;
    pub const COMPLETED: u16 = 1 << 4;
    pub const PRESENT: u16 = 1 << 6;
    pub const LOCKED: u16 = 1 << 7;
    /// The events that there are.
    pub const EVENTS: u16 = BUTTON | PRESENCE_CHANGED | COMPLETED;
}

/// Header type 1: buses and windows.
pub(crate) fn bridge_header(config: &mut ConfigSpace) {
    config.set_u8(reg::HEADER_TYPE, 0x01);
    // What a plain function has there is something else in a bridge.
    config.set_u32(reg::SUBSYSTEM_VENDOR, 0);
    config.allow_u32(bridge_reg::PRIMARY, 0xffff_ffff);
    config.allow_u8(bridge_reg::LATENCY, 0);
    // 16-bit ports, 64-bit prefetchable memory.
    config.set_u16(bridge_reg::IO, 0);
    config.allow_u16(bridge_reg::IO, 0xf0f0);
    config.set_u16(bridge_reg::STATUS, 0);
    config.allow_u32(bridge_reg::MEMORY, 0xfff0_fff0);
    config.set_u32(bridge_reg::PREFETCHABLE, 0x0001_0001);
    config.allow_u32(bridge_reg::PREFETCHABLE, 0xfff0_fff0);
    config.allow_u32(bridge_reg::PREFETCHABLE_UPPER, 0xffff_ffff);
    config.allow_u32(bridge_reg::PREFETCHABLE_UPPER + 4, 0xffff_ffff);
    config.allow_u32(bridge_reg::IO_UPPER, 0);
    config.allow_u16(bridge_reg::CONTROL, 0x037f);
}

impl RootPort {
    /// A port. `is_occupied` says that there is a device in its slot.
    pub fn new(options: &PortOptions, is_occupied: bool) -> DeviceCell<Self> {
        let (vendor, device, revision) = match options.kind {
            PortKind::Generic => (0x1b36, 0x000c, 0),
            PortKind::Ioh3420 => (0x8086, 0x3420, 2),
        };
        let mut config = ConfigSpace::new(&Identity { vendor, device, revision, class: 0x0604, prog_if: 0 });
        bridge_header(&mut config);
        // Nothing is forwarded until the guest says what: each window ends before it begins.
        config.set_u16(bridge_reg::IO, 0x00f0);
        config.set_u32(bridge_reg::MEMORY, 0x0000_fff0);
        config.set_u32(bridge_reg::PREFETCHABLE, 0x0001_fff1);
        if options.is_multifunction {
            config.set_u8(reg::HEADER_TYPE, 0x81);
        }
        config.set_interrupt_pin(1);
        let (id, at, len) = SUBSYSTEM_CAPABILITY;
        config.add_capability(id, at, len);
        config.set_u32(at + 4, vendor.into());
        let mut unused = config.clone();
        let (msi, msix) = match options.kind {
            PortKind::Generic => (None, Msix::add_with_bar(&mut config, MSIX_AT, 1, MSIX_BAR)),
            PortKind::Ioh3420 => {
                let msix = Msix::add_with_bar(&mut unused, MSIX_AT, 1, MSIX_BAR);
                (Some(Msi::add_masked(&mut config, MSI_AT)), msix)
            }
        };
        let at = Places::of(options.kind);
        Self::express(&mut config, at, options, is_occupied);
        express::add_error_reporting(&mut config, true);
        if options.access_control {
            express::add_access_control(&mut config);
        }
        DeviceCell::new(Self { at, msi, slot: None, state: RootPortState { config, msix }, is_notified: false })
    }

    /// The windows of a port, for its bus.
    pub fn windows(cell: &DeviceCell<Self>) -> Vec<Window> {
        let bar = cell.lock().state.config.bar(MSIX_BAR.into());
        let window = |bar: crate::Bar| Window {
            index: MSIX_BAR.into(),
            space: SpaceKind::Memory,
            offset: 0,
            len: bar.size,
            priority: 1,
            backing: cell.region(0),
        };
        bar.map(window).into_iter().collect()
    }

    /// Connects the slot, whose changes the guest is told of from now on.
    pub fn connect(&mut self, wiring: SlotWiring) {
        self.slot = Some(wiring);
    }

    fn express(config: &mut ConfigSpace, places: Places, options: &PortOptions, is_occupied: bool) {
        /// Prefixes end to end, extended formats, and alternative routing of functions, forwarded.
        const CAPABILITIES_2: u32 = 0x0030_0020;
        let link = options.link.registers();
        let link = Link { capabilities: link.capabilities | u32::from(options.port) << 24, ..link };
        let at = places.express;
        Express::add(config, at, Kind::RootPort, link).allow_reports(config);
        let mut slot = u32::from(options.slot & 0x1fff) << slot_cap::NUMBER_SHIFT;
        slot |= slot_cap::ATTENTION_BUTTON | slot_cap::POWER_CONTROLLER | slot_cap::INDICATORS | slot_cap::INTERLOCK;
        slot |= if options.hotplug { slot_cap::SURPRISE | slot_cap::HOTPLUG } else { 0 };
        config.set_u32(at + 0x14, slot);
        config.set_u16(places.slot_control(), Self::power_as_found(is_occupied));
        config.allow_u16(places.slot_control(), slot_control::WRITABLE);
        config.clear_u16(places.slot_status(), slot_status::EVENTS);
        // Which errors are system errors.
        config.allow_u16(at + 0x1c, 0x0007);
        config.set_u32(at + 0x24, CAPABILITIES_2);
        config.allow_u16(at + 0x28, 0x8020);
    }
}

impl RootPort {
    /// The slot control register after a reset: power is on where there is something.
    fn power_as_found(is_occupied: bool) -> u16 {
        use slot_control::{ATTENTION_OFF, POWER_OFF, POWER_OFF_LIGHT, POWER_ON_LIGHT};
        ATTENTION_OFF | if is_occupied { POWER_ON_LIGHT } else { POWER_OFF | POWER_OFF_LIGHT }
    }

    fn bits(&self, offset: u8, mask: u16) -> u16 {
        self.state.config.u16(offset) & mask
    }

    fn set_bits(&mut self, offset: u8, mask: u16, set: bool) {
        self.state.config.store_bits_u16(offset, mask, set);
    }

    /// The link is what both sides can: functions have one lane, and without one it is what the port can.
    fn follow_link(&mut self) {
        const SPEED_AND_WIDTH: u16 = 0x03ff;
        let is_narrow = self.slot_bus().is_some_and(|bus| bus.is_express(Address::new(0, 0)));
        let capabilities = self.state.config.u16(self.at.express + 0x0c);
        let link = if is_narrow { Link::NARROW.capabilities as u16 } else { capabilities } & SPEED_AND_WIDTH;
        self.set_bits(self.at.link_status(), SPEED_AND_WIDTH, false);
        self.set_bits(self.at.link_status(), link, true);
    }

    fn set_occupied(&mut self, is_occupied: bool) {
        let is_shown = self.slot.as_ref().is_some_and(|slot| slot.shows_presence);
        let is_occupied = is_occupied && is_shown;
        self.set_bits(self.at.slot_status(), slot_status::PRESENT, is_occupied);
        self.set_bits(self.at.link_status(), LINK_ACTIVE, is_occupied);
    }

    fn slot_bus(&self) -> Option<Arc<PciBus>> {
        self.slot.as_ref().and_then(|slot| slot.bus.upgrade())
    }

    /// A function has come into the slot; with the first one of its place the guest is told.
    pub fn plugged(&mut self, address: Address) {
        if address.function() == 0 {
            self.set_occupied(true);
            self.event(slot_status::PRESENCE_CHANGED | slot_status::BUTTON);
        }
    }

    /// The user wants the functions back. `true`: they have left at once, since the guest does not use the slot.
    ///
    /// # Errors
    /// [`SlotError`].
    pub fn request_removal(&mut self) -> Result<bool, SlotError> {
        if self.bits(self.at.slot_status(), slot_status::LOCKED) != 0 {
            return Err(SlotError::Locked);
        }
        match self.bits(self.at.slot_control(), slot_control::POWER_INDICATOR) {
            slot_control::POWER_BLINKS => return Err(SlotError::Busy),
            slot_control::POWER_OFF_LIGHT if self.bits(self.at.slot_control(), slot_control::POWER_OFF) != 0 => {
                self.emptied();
                self.set_bits(self.at.slot_status(), slot_status::BUTTON, false);
                return Ok(true);
            }
            _ => {}
        }
        self.event(slot_status::BUTTON);
        Ok(false)
    }

    /// The functions have left the slot.
    pub fn emptied(&mut self) {
        self.set_occupied(false);
        self.event(slot_status::PRESENCE_CHANGED);
    }

    /// The guest has switched the slot off: its functions leave.
    fn let_go(&mut self) {
        let Some(bus) = self.slot_bus() else { return };
        let functions = bus.detach_slot(0);
        self.set_occupied(false);
        self.set_bits(self.at.slot_status(), slot_status::PRESENCE_CHANGED, true);
        if let Some(slot) = &mut self.slot
            && !functions.is_empty()
        {
            (slot.ejected)(&bus, functions);
        }
    }

    fn event(&mut self, events: u16) {
        self.set_bits(self.at.slot_status(), events, true);
        self.notify();
    }

    fn is_pending(&self) -> bool {
        let control = self.state.config.u16(self.at.slot_control());
        control & slot_control::INTERRUPT != 0 && self.bits(self.at.slot_status(), control & slot_status::EVENTS) != 0
    }

    /// The interrupt follows the events that are enabled.
    fn notify(&mut self) {
        let (was, is) = (self.is_notified, self.is_pending());
        self.is_notified = is;
        self.set_bits(reg::STATUS, status::INTERRUPT, is && !self.uses_messages());
        let level = self.level();
        let message = if is && !was { self.raise() } else { None };
        let Some(slot) = &mut self.slot else { return };
        slot.line.set(level);
        if let Some(message) = message {
            slot.messages.deliver(message);
        }
    }

    /// The guest has switched from the pin to messages.
    fn uses_messages(&self) -> bool {
        let config = &self.state.config;
        self.msi.map_or_else(|| self.state.msix.is_enabled(config), |msi| msi.is_enabled(config))
    }

    fn level(&self) -> bool {
        self.is_notified && !self.uses_messages() && self.state.config.is_intx_enabled()
    }

    fn raise(&mut self) -> Option<MsiMessage> {
        let RootPortState { config, msix } = &mut self.state;
        match self.msi {
            Some(msi) => msi.raise(config, 0),
            None => msix.raise(config, 0),
        }
    }

    /// Masks may have changed.
    fn deliver_unmasked(&mut self) {
        let RootPortState { config, msix } = &mut self.state;
        let messages = match self.msi {
            Some(msi) => msi.take_unmasked(config),
            None => msix.take_unmasked(config),
        };
        if let Some(slot) = &self.slot {
            messages.into_iter().for_each(|message| slot.messages.deliver(message));
        }
    }

    /// The guest has written the slot's registers, which were like this before.
    fn slot_written(&mut self, (control, events): (u16, u16), (offset, size, value): (u8, AccessSize, u32)) {
        use slot_control::{POWER_OFF, POWER_OFF_LIGHT};
        let covers = |at: u8| offset < at + 2 && usize::from(offset) + size.bytes() > usize::from(at);
        if covers(self.at.slot_status()) {
            let shift = 8 * i32::from(self.at.slot_status() - offset.min(self.at.slot_status()));
            let written = if offset <= self.at.slot_status() { value >> shift } else { 0 } as u16;
            if written & !events & slot_status::EVENTS != 0 {
                // Who clears what was not set has not looked: nothing is lost.
                self.set_bits(self.at.slot_status(), events & slot_status::EVENTS, true);
            }
        }
        if covers(self.at.slot_control()) {
            if self.bits(self.at.slot_control(), slot_control::INTERLOCK) != 0 {
                self.set_bits(self.at.slot_control(), slot_control::INTERLOCK, false);
                let locked = self.bits(self.at.slot_status(), slot_status::LOCKED) != 0;
                self.set_bits(self.at.slot_status(), slot_status::LOCKED, !locked);
            }
            let is_off = |control: u16| control & (POWER_OFF | POWER_OFF_LIGHT) == (POWER_OFF | POWER_OFF_LIGHT);
            let is_present = self.bits(self.at.slot_status(), slot_status::PRESENT) != 0;
            if is_present && is_off(self.state.config.u16(self.at.slot_control())) && !is_off(control) {
                self.let_go();
            }
            self.set_bits(self.at.slot_status(), slot_status::COMPLETED, true);
        }
        self.notify();
    }
}

impl Device for RootPort {
    fn reset(&mut self, _kind: ResetKind) {
        self.state.config.reset();
        self.state.msix.reset();
        if let Some(bus) = self.slot_bus() {
            let is_occupied = bus.is_occupied(Address::new(0, 0));
            self.set_occupied(is_occupied);
            self.set_bits(self.at.slot_control(), u16::MAX, false);
            self.set_bits(self.at.slot_control(), Self::power_as_found(is_occupied), true);
        }
        self.is_notified = false;
        self.notify();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        self.is_notified = self.is_pending();
        let level = self.level();
        if let Some(slot) = &mut self.slot {
            slot.line.restore(level);
        }
    }
}

impl PciFunction for RootPort {
    fn config(&self) -> &ConfigSpace {
        &self.state.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.state.config
    }

    fn read_config(&mut self, offset: u8, size: AccessSize) -> u32 {
        self.follow_link();
        self.state.config.read(offset, size)
    }

    fn write_config(&mut self, offset: u8, size: AccessSize, value: u32) {
        let before = (self.state.config.u16(self.at.slot_control()), self.state.config.u16(self.at.slot_status()));
        self.state.config.write(offset, size, value);
        self.slot_written(before, (offset, size, value));
        self.deliver_unmasked();
    }
}

/// The vectors of MSI-X.
impl IoDevice for RootPort {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Dword, AccessSize::Qword)
    }

    fn read(&mut self, _region: usize, offset: u64, size: AccessSize) -> u64 {
        self.state.msix.read_window(offset, size)
    }

    fn write(&mut self, _region: usize, offset: u64, size: AccessSize, value: u64) {
        // Narrower writes than the table's words have no meaning.
        if size >= AccessSize::Dword {
            self.state.msix.write_window(offset, size, value);
            self.deliver_unmasked();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Label, i440fx_swizzle};
    use crate::capability::MsiMessage;
    use crate::pvpanic::PvpanicPci;
    use memory::{AddressSpace, SpaceKind};
    use std::sync::Mutex;

    /// Of the generic port.
    const AT: Places = Places { express: 0x54 };

    #[derive(Default)]
    struct Log {
        messages: Mutex<usize>,
        ejected: Mutex<Vec<Address>>,
    }

    impl MsiSink for Log {
        fn deliver(&self, _: MsiMessage) {
            *self.messages.lock().expect("log") += 1;
        }
    }

    fn bench() -> (DeviceCell<RootPort>, Arc<PciBus>, Arc<Log>) {
        let log = Arc::new(Log::default());
        let spaces = (Arc::new(AddressSpace::new(SpaceKind::Memory)), Arc::new(AddressSpace::new(SpaceKind::Ports)));
        let bus = PciBus::new("p1", spaces, Vec::new(), i440fx_swizzle, Arc::clone(&log) as Arc<dyn MsiSink>);
        let options = PortOptions { slot: 1, ..PortOptions::new(PortKind::Generic) };
        let port = RootPort::new(&options, false);
        let seen = Arc::clone(&log);
        port.lock().connect(SlotWiring {
            bus: Arc::downgrade(&bus),
            line: IrqLine::unconnected(),
            messages: Arc::clone(&log) as Arc<dyn MsiSink>,
            shows_presence: true,
            ejected: Box::new(move |_, gone| seen.ejected.lock().expect("log").extend(gone)),
        });
        port.lock().reset(ResetKind::Cold);
        (port, bus, log)
    }

    fn plug(port: &DeviceCell<RootPort>, bus: &Arc<PciBus>) {
        let function = PvpanicPci::new(3, Box::new(|_| ()));
        let address = Address::new(0, 0);
        bus.attach(address, Label::of_board("pvpanic-pci"), function, Vec::new()).expect("a free place");
        port.lock().plugged(address);
    }

    fn write(port: &DeviceCell<RootPort>, offset: u8, value: u16) {
        port.lock().write_config(offset, AccessSize::Word, value.into());
    }

    fn status_of(port: &DeviceCell<RootPort>) -> u16 {
        port.lock().state.config.u16(AT.slot_status())
    }

    #[test]
    fn plugged_function_is_present_and_interrupts_once_by_a_message() {
        let (port, bus, log) = bench();
        write(&port, MSIX_AT + 2, 0x8000);
        // The button, presence and the interrupt are enabled, power goes off and on: commands complete without one.
        write(&port, AT.slot_control(), 0x07e9);
        assert_eq!(status_of(&port), slot_status::COMPLETED);
        write(&port, AT.slot_status(), slot_status::COMPLETED);
        plug(&port, &bus);
        assert_eq!(*log.messages.lock().expect("log"), 0, "the vector is masked");
        port.lock().write(0, 12, AccessSize::Dword, 0);
        assert_eq!(status_of(&port), slot_status::PRESENT | slot_status::BUTTON | slot_status::PRESENCE_CHANGED);
        assert_eq!(*log.messages.lock().expect("log"), 1);
        write(&port, AT.slot_status(), slot_status::EVENTS);
        assert_eq!(status_of(&port) & slot_status::EVENTS, 9, "it cleared more than it saw");
        write(&port, AT.slot_status(), 9);
        assert_eq!(status_of(&port), slot_status::PRESENT);
    }

    #[test]
    fn function_leaves_when_the_guest_switches_power_and_its_light_off() {
        let (port, bus, log) = bench();
        plug(&port, &bus);
        write(&port, AT.slot_control(), 0x01c0);
        assert_eq!(port.lock().request_removal(), Ok(false));
        assert!(bus.is_occupied(Address::new(0, 0)));
        write(&port, AT.slot_control(), 0x02c0);
        assert_eq!(port.lock().request_removal(), Err(SlotError::Busy));
        write(&port, AT.slot_control(), 0x07c0);
        assert!(!bus.is_occupied(Address::new(0, 0)));
        assert_eq!(*log.ejected.lock().expect("log"), [Address::new(0, 0)]);
        assert_eq!(status_of(&port) & (slot_status::PRESENT | slot_status::PRESENCE_CHANGED), 8);
    }

    #[test]
    fn slot_without_power_lets_go_at_once_and_a_locked_one_does_not() {
        let (port, bus, _log) = bench();
        plug(&port, &bus);
        assert_eq!(port.lock().request_removal(), Ok(true), "power is still off");
        write(&port, AT.slot_control(), 0x0fc0);
        assert_eq!(port.lock().request_removal(), Err(SlotError::Locked));
        write(&port, AT.slot_control(), 0x0fc0);
        assert_eq!(port.lock().request_removal(), Ok(true));
    }

    #[test]
    fn reset_finds_out_what_is_in_the_slot() {
        let (port, bus, _log) = bench();
        plug(&port, &bus);
        port.lock().reset(ResetKind::Warm);
        assert_eq!((status_of(&port), port.lock().state.config.u16(AT.slot_control())), (slot_status::PRESENT, 0x01c0));
        bus.detach_slot(0);
        port.lock().reset(ResetKind::Warm);
        assert_eq!((status_of(&port), port.lock().state.config.u16(AT.slot_control())), (0, 0x07c0));
    }
}
