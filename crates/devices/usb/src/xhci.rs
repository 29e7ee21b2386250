//! xHCI 1.2 (QEMU's interface version 1.0): `qemu-xhci` and `nec-usb-xhci`.
//!
//! Registers, ports and interrupters are here, events in [`mod@event`], commands in [`mod@command`], slots and contexts in
//! [`mod@slot`], transfers in [`mod@transfer`]. A transfer that a device answers with NAK waits on its ring until the
//! device wakes the controller; service intervals are not waited for. As in QEMU an event ring has one segment, contexts
//! have 32 bytes, streams have primary arrays alone, and saving and restoring the controller's state do nothing. Left out:
//! debug capability, bandwidth negotiation, virtualization (none is announced), and the challenge of NEC's own driver.

mod command;
mod event;
mod port;
mod slot;
#[cfg(test)]
mod tests;
mod transfer;

use std::sync::Arc;

use clock::{Clock, Timer};
use device::{AccessSize, Device, DeviceCell, DeviceState, Handle, IoDevice, IrqLine, ResetKind};
use devices_pci::bus::{PciFunction, Window};
use devices_pci::capability::{Msi, Msix, MsixPlace};
use devices_pci::config::{Bar, BarKind, ConfigSpace, Identity};
use devices_pci::express::{self, Express};
use devices_pci::{MsiMessage, MsiSink};
use memory::{DmaMap, DmaView, SpaceKind};
use state::{List, State};

use self::port::portsc;
use self::slot::{Slot, Stream};
use crate::bus::{Host, Link, Speed, Speeds, Upstream};
use crate::controller::{RootPorts, registers, words as read_words};

/// The most ports of each kind.
pub const PORTS_MAX: usize = 15;
/// The most interrupters.
pub const INTERRUPTERS_MAX: usize = 16;
/// The most slots.
pub const SLOTS_MAX: usize = 64;

const BAR: usize = 0;
const LEN: u64 = 0x4000;
/// The capability of PCI Express.
const EXPRESS_AT: u8 = 0xa0;
const OPERATIONAL: u64 = 0x40;
const PORT_REGISTERS: u64 = 0x440;
const RUNTIME: u64 = 0x1000;
const DOORBELLS: u64 = 0x2000;
const MSIX_TABLE: u64 = 0x3000;
const MSIX_PENDING: u64 = 0x3800;
/// The largest array of streams has 2 to the power of this and one more.
const MAX_STREAMS: u32 = 7;
/// The most streams that are in use: of each endpoint but the first of each slot.
const STREAMS_TOTAL: usize = SLOTS_MAX * (slot::ENDPOINTS - 1) * ((2 << MAX_STREAMS) - 1);
/// Nanoseconds of a microframe.
const MICROFRAME: u64 = 125_000;

/// Bits of USBCMD.
mod usbcmd {
    pub const RUN: u32 = 1;
    pub const RESET: u32 = 1 << 1;
    pub const INTERRUPTS: u32 = 1 << 2;
    pub const SAVE: u32 = 1 << 8;
    pub const RESTORE: u32 = 1 << 9;
    pub const WRAP_EVENT: u32 = 1 << 10;
    pub const WRITABLE: u32 = 0xc0d;
}

/// Bits of USBSTS.
mod usbsts {
    pub const HALTED: u32 = 1;
    pub const HOST_ERROR: u32 = 1 << 2;
    pub const EVENT: u32 = 1 << 3;
    pub const PORT_CHANGE: u32 = 1 << 4;
    pub const SAVE_RESTORE_ERROR: u32 = 1 << 10;
    pub const CLEARABLE: u32 = HOST_ERROR | EVENT | PORT_CHANGE | SAVE_RESTORE_ERROR;
}

/// Bits of CRCR.
mod crcr {
    pub const STOP: u64 = 1 << 1;
    pub const ABORT: u64 = 1 << 2;
    pub const RUNNING: u64 = 1 << 3;
}

/// Bits of IMAN.
mod iman {
    pub const PENDING: u32 = 1;
    pub const ENABLED: u32 = 1 << 1;
}

/// ERDP's bit for an event handler that is busy.
const ERDP_BUSY: u64 = 1 << 3;

/// The models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XhciModel {
    /// `qemu-xhci`
    Qemu,
    /// `nec-usb-xhci`
    Nec,
}

impl XhciModel {
    /// The name of its type.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu-xhci",
            Self::Nec => "nec-usb-xhci",
        }
    }
}

/// What the user can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XhciOptions {
    /// The model.
    pub model: XhciModel,
    /// Ports with USB 2.0: at most [`PORTS_MAX`].
    pub usb2_ports: u32,
    /// Ports with SuperSpeed: at most [`PORTS_MAX`].
    pub usb3_ports: u32,
    /// Interrupters: at most [`INTERRUPTERS_MAX`]; the next power of two counts.
    pub interrupters: u32,
    /// Slots: at most [`SLOTS_MAX`].
    pub slots: u32,
    /// There is an MSI capability.
    pub msi: bool,
    /// There is an MSI-X capability.
    pub msix: bool,
    /// Ports with SuperSpeed have the lower numbers.
    pub superspeed_first: bool,
    /// Endpoints can have streams.
    pub streams: bool,
}

impl XhciOptions {
    /// QEMU's defaults.
    pub fn new(model: XhciModel) -> Self {
        Self {
            model,
            usb2_ports: 4,
            usb3_ports: 4,
            interrupters: INTERRUPTERS_MAX as u32,
            slots: SLOTS_MAX as u32,
            msi: model == XhciModel::Nec,
            msix: true,
            superspeed_first: true,
            streams: true,
        }
    }

    /// The same within limits.
    fn bounded(self) -> Self {
        let ports = |count: u32| count.min(PORTS_MAX as u32);
        Self {
            usb2_ports: ports(self.usb2_ports),
            usb3_ports: ports(self.usb3_ports),
            interrupters: self.interrupters.clamp(1, INTERRUPTERS_MAX as u32).next_power_of_two(),
            slots: self.slots.clamp(1, SLOTS_MAX as u32),
            ..self
        }
    }
}

/// A ring of a producer that is the driver: where the controller is, and the cycle bit of what it has not seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[state(name = "xhci-ring", version = 1)]
struct Ring {
    dequeue: u64,
    cycle: bool,
}

/// An interrupter with its event ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[state(name = "xhci-interrupter", version = 1)]
struct Interrupter {
    iman: u32,
    imod: u32,
    table_size: u32,
    table: u64,
    dequeue: u64,
    // The ring, from the table's only segment.
    start: u64,
    size: u32,
    at: u32,
    cycle: bool,
}

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "xhci", version = 1)]
struct XhciState {
    config: ConfigSpace,
    msix: Msix,
    command: u32,
    status: u32,
    notifications: u32,
    command_ring_control: u64,
    contexts: u64,
    configure: u32,
    /// When the microframe counter was 0.
    counter_start: u64,
    commands: Ring,
    ports: [u32; 2 * PORTS_MAX],
    interrupters: [Interrupter; INTERRUPTERS_MAX],
    slots: [Slot; SLOTS_MAX],
    /// In the order of their places.
    streams: List<Stream, STREAMS_TOTAL>,
}

/// The controller.
pub struct Xhci {
    // Fixed configuration.
    options: XhciOptions,
    msi: Option<Msi>,
    // Wiring and host resources.
    clock: Clock,
    wrap: Timer,
    irq: IrqLine,
    messages: Arc<dyn MsiSink>,
    dma: DmaView,
    devices: Vec<Option<(Link, Speed)>>,
    /// What the devices on the ports see; they know it weakly.
    host: Arc<dyn Host>,
    // Guest-visible state.
    state: Box<XhciState>,
}

/// A controller in its cell, with what devices on its ports see of it.
#[derive(Clone)]
pub struct XhciCell {
    /// The controller.
    pub cell: DeviceCell<Xhci>,
    host: Arc<dyn Host>,
}

/// What a controller is connected to.
pub struct XhciWiring {
    /// Guest time.
    pub clock: Clock,
    /// The interrupt pin.
    pub irq: IrqLine,
    /// Message-signalled interrupts.
    pub messages: Arc<dyn MsiSink>,
    /// Guest memory.
    pub dma: DmaView,
    /// What the function is to PCI Express, if its bus is that.
    pub express: Option<express::Kind>,
}

impl XhciCell {
    /// A controller without devices.
    pub fn new(options: XhciOptions, wiring: XhciWiring) -> Self {
        let options = options.bounded();
        let (vendor, device, revision) = match options.model {
            XhciModel::Qemu => (0x1b36, 0x000d, 1),
            XhciModel::Nec => (0x1033, 0x0194, 3),
        };
        let mut config = ConfigSpace::new(&Identity { vendor, device, revision, class: 0x0c03, prog_if: 0x30 });
        config.set_interrupt_pin(1);
        // The release of USB: 3.0.
        config.set_u8(0x60, 0x30);
        let vectors = options.interrupters as usize;
        let msi = options.msi.then(|| Msi::add(&mut config, 0x70, vectors.trailing_zeros() as u8));
        config.add_bar(BAR, Bar { kind: BarKind::Memory64, size: LEN });
        if let Some(kind) = wiring.express {
            Express::add(&mut config, EXPRESS_AT, kind, express::Link::NARROW);
        }
        // Without the capability the table exists, but nothing reaches it.
        let mut unused = config.clone();
        let place = |offset: u64| MsixPlace { bar: BAR as u8, offset: offset as u32 };
        let target = if options.msix { &mut config } else { &mut unused };
        let msix = Msix::add(target, 0x90, vectors, place(MSIX_TABLE), place(MSIX_PENDING));
        let cell = DeviceCell::new_cyclic(|handle: &Handle<Xhci>| {
            let wrap = handle.timer(&wiring.clock, Xhci::counter_wraps);
            let state = Box::new(XhciState {
                config,
                msix,
                command: 0,
                status: usbsts::HALTED,
                notifications: 0,
                command_ring_control: 0,
                contexts: 0,
                configure: 0,
                counter_start: 0,
                commands: Ring::default(),
                ports: [0; 2 * PORTS_MAX],
                interrupters: [Interrupter::default(); INTERRUPTERS_MAX],
                slots: [Slot::default(); SLOTS_MAX],
                streams: List::default(),
            });
            let XhciWiring { clock, irq, messages, dma, .. } = wiring;
            let devices = vec![None; options.usb2_ports.max(options.usb3_ports) as usize];
            let mut xhci = Xhci {
                options,
                msi,
                clock,
                wrap,
                irq,
                messages,
                dma,
                devices,
                host: Arc::new(RootPorts(handle.clone())),
                state,
            };
            xhci.reset_registers();
            xhci
        });
        let host = Arc::clone(&cell.lock().host);
        Self { cell, host }
    }

    /// Where its registers are.
    pub fn windows(&self) -> Vec<Window> {
        registers(&self.cell, BAR, SpaceKind::Memory, LEN)
    }

    /// The speeds of each of its ports, which are one for both kinds of connection.
    pub fn port_speeds(&self) -> Vec<Speeds> {
        let xhci = self.cell.lock();
        (0..xhci.devices.len()).map(|port| xhci.speeds(port)).collect()
    }

    /// Connects a device to a port. Nothing happens when they have no speed in common.
    pub fn plug(&self, port: usize, device: Link) {
        let mut xhci = self.cell.lock();
        let Some(speed) = device.speeds().fastest_common(xhci.speeds(port)) else { return };
        let Some(place) = xhci.devices.get_mut(port) else { return };
        device.attach(Upstream::new(Arc::downgrade(&self.host), port), speed);
        *place = Some((device, speed));
        let register = xhci.register_of(port, speed);
        xhci.connect(register);
    }

    /// Disconnects what is on a port.
    pub fn unplug(&self, port: usize) {
        let device = {
            let mut xhci = self.cell.lock();
            let Some((device, speed)) = xhci.devices.get_mut(port).and_then(Option::take) else { return };
            xhci.disable_slots_of(port);
            let register = xhci.register_of(port, speed);
            xhci.connect(register);
            device
        };
        device.detach();
    }
}

impl Xhci {
    fn map(&self) -> Option<DmaMap> {
        self.state.config.is_bus_master().then(|| self.dma.map())
    }

    fn is_running(&self) -> bool {
        self.state.command & usbcmd::RUN != 0 && self.state.status & usbsts::HOST_ERROR == 0
    }

    /// Guest memory is not what it should be: the controller stops.
    fn host_error(&mut self) {
        self.state.status |= usbsts::HOST_ERROR | usbsts::HALTED;
        self.state.command &= !usbcmd::RUN;
    }

    // ---- Interrupts ----

    fn is_msix_enabled(&self) -> bool {
        self.options.msix && self.state.msix.is_enabled(&self.state.config)
    }

    fn is_msi_enabled(&self) -> bool {
        self.msi.is_some_and(|msi| msi.is_enabled(&self.state.config))
    }

    fn level(&self) -> bool {
        let interrupter = &self.state.interrupters[0];
        let both = iman::PENDING | iman::ENABLED;
        let is_pin = !self.is_msix_enabled() && !self.is_msi_enabled() && self.state.config.is_intx_enabled();
        is_pin && interrupter.iman & both == both && self.state.command & usbcmd::INTERRUPTS != 0
    }

    fn update_pin(&mut self) {
        let level = self.level();
        self.irq.set(level);
    }

    /// There are events for an interrupter.
    fn raise(&mut self, index: usize) {
        let Some(interrupter) = self.state.interrupters.get_mut(index) else { return };
        let was_busy = interrupter.dequeue & ERDP_BUSY != 0;
        interrupter.dequeue |= ERDP_BUSY;
        interrupter.iman |= iman::PENDING;
        let is_enabled = interrupter.iman & iman::ENABLED != 0;
        self.state.status |= usbsts::EVENT;
        if was_busy || !is_enabled || self.state.command & usbcmd::INTERRUPTS == 0 {
            return;
        }
        let message: Option<MsiMessage> = if self.is_msix_enabled() {
            self.state.msix.raise(&self.state.config, index)
        } else if self.is_msi_enabled() {
            self.msi.and_then(|msi| msi.message(&self.state.config, index as u32))
        } else {
            return self.update_pin();
        };
        // A message takes the pending bit with it.
        self.state.interrupters[index].iman &= !iman::PENDING;
        if let Some(message) = message {
            self.messages.deliver(message);
        }
    }

    fn deliver_unmasked(&mut self) {
        if self.options.msix {
            for message in self.state.msix.take_unmasked(&self.state.config) {
                self.messages.deliver(message);
            }
        }
    }

    // ---- The microframe counter ----

    fn counter(&self) -> u64 {
        self.clock.now().saturating_sub(self.state.counter_start) / MICROFRAME
    }

    fn schedule_wrap(&mut self) {
        let both = usbcmd::RUN | usbcmd::WRAP_EVENT;
        if self.state.command & both != both {
            self.wrap.cancel();
            return;
        }
        let next = (self.counter() & !0x3fff).saturating_add(0x4000);
        self.wrap.arm(self.state.counter_start.saturating_add(next.saturating_mul(MICROFRAME)));
    }

    fn counter_wraps(&mut self) {
        self.wrap_event();
        self.schedule_wrap();
    }

    // ---- Registers ----

    fn reset_registers(&mut self) {
        self.state.command = 0;
        self.state.status = usbsts::HALTED;
        (self.state.notifications, self.state.configure) = (0, 0);
        (self.state.command_ring_control, self.state.contexts) = (0, 0);
        self.state.commands = Ring::default();
        self.state.slots = [Slot::default(); SLOTS_MAX];
        self.state.streams = List::default();
        self.state.interrupters = [Interrupter { cycle: true, ..Interrupter::default() }; INTERRUPTERS_MAX];
        for register in 0..self.port_count() {
            self.connect(register);
        }
        self.state.status &= !usbsts::PORT_CHANGE;
        self.state.counter_start = self.clock.now();
        self.schedule_wrap();
        self.update_pin();
    }

    fn read_capability(&self, offset: u64) -> u32 {
        const USB: u32 = u32::from_le_bytes(*b"USB ");
        let XhciOptions { usb2_ports, usb3_ports, interrupters, slots, superspeed_first, .. } = self.options;
        let range = |count: u32, others: u32, is_first: bool| count << 8 | (if is_first { 0 } else { others } + 1);
        match offset {
            0x00 => 0x0100_0000 | OPERATIONAL as u32,
            0x04 => (usb2_ports + usb3_ports) << 24 | interrupters << 8 | slots,
            0x08 => 0xf,
            // 64-bit addresses; extended capabilities follow at 0x20.
            0x10 => 0x0008_0001 | if self.options.streams { MAX_STREAMS << 12 } else { 0 },
            0x14 => DOORBELLS as u32,
            0x18 => RUNTIME as u32,
            0x20 => 0x0200_0402,
            0x24 | 0x34 => USB,
            0x28 => range(usb2_ports, usb3_ports, !superspeed_first),
            0x30 => 0x0300_0002,
            0x38 => range(usb3_ports, usb2_ports, superspeed_first),
            _ => 0,
        }
    }

    fn read_operational(&self, offset: u64) -> u32 {
        match offset {
            0x00 => self.state.command,
            0x04 => self.state.status,
            // Pages of 4 KiB.
            0x08 => 1,
            0x14 => self.state.notifications,
            // The pointer reads as zero.
            0x18 => (self.state.command_ring_control & crcr::RUNNING) as u32,
            0x30 => self.state.contexts as u32,
            0x34 => (self.state.contexts >> 32) as u32,
            0x38 => self.state.configure,
            _ => 0,
        }
    }

    fn write_operational(&mut self, offset: u64, value: u32) {
        match offset {
            0x00 => self.write_command(value),
            0x04 => {
                self.state.status &= !(value & usbsts::CLEARABLE);
                self.update_pin();
            }
            0x14 => self.state.notifications = value & 0xffff,
            0x18 => {
                let kept = self.state.command_ring_control & (0xffff_ffff_0000_0000 | crcr::RUNNING);
                self.state.command_ring_control = kept | u64::from(value & 0xffff_ffc7);
            }
            0x1c => self.write_command_ring_high(value),
            0x30 => self.state.contexts = set_low(self.state.contexts, value & !0x3f),
            0x34 => self.state.contexts = set_high(self.state.contexts, value),
            0x38 => self.state.configure = value & 0xff,
            _ => {}
        }
    }

    fn write_command_ring_high(&mut self, value: u32) {
        let control = set_high(self.state.command_ring_control, value);
        self.state.command_ring_control = control & !(crcr::STOP | crcr::ABORT);
        if control & crcr::RUNNING == 0 {
            self.state.commands = Ring { dequeue: control & !0x3f, cycle: control & 1 != 0 };
        } else if control & (crcr::STOP | crcr::ABORT) != 0 {
            self.state.command_ring_control &= !crcr::RUNNING;
            self.command_event(self.state.commands.dequeue, event::COMMAND_RING_STOPPED, 0);
        }
    }

    fn write_command(&mut self, value: u32) {
        let was_running = self.state.command & usbcmd::RUN != 0;
        if value & usbcmd::SAVE != 0 {
            self.state.status &= !usbsts::SAVE_RESTORE_ERROR;
        }
        if value & usbcmd::RESTORE != 0 {
            // There is nothing to restore: the driver has to start anew.
            self.state.status |= usbsts::SAVE_RESTORE_ERROR;
        }
        self.state.command = value & usbcmd::WRITABLE;
        match (was_running, value & usbcmd::RUN != 0) {
            (false, true) => {
                self.state.status &= !usbsts::HALTED;
                self.state.counter_start = self.clock.now();
            }
            (true, false) => {
                self.state.status |= usbsts::HALTED;
                self.state.command_ring_control &= !crcr::RUNNING;
            }
            _ => {}
        }
        if value & usbcmd::RESET != 0 {
            self.reset_registers();
        }
        self.schedule_wrap();
        self.update_pin();
    }

    fn read_runtime(&self, offset: u64) -> u32 {
        if offset < 0x20 {
            return if offset == 0 { self.counter() as u32 & 0x3fff } else { 0 };
        }
        let index = (offset / 0x20 - 1) as usize;
        let Some(interrupter) = self.state.interrupters.get(index) else { return 0 };
        match offset & 0x1f {
            0x00 => interrupter.iman,
            0x04 => interrupter.imod,
            0x08 => interrupter.table_size,
            0x10 => interrupter.table as u32,
            0x14 => (interrupter.table >> 32) as u32,
            0x18 => interrupter.dequeue as u32,
            0x1c => (interrupter.dequeue >> 32) as u32,
            _ => 0,
        }
    }

    fn write_runtime(&mut self, offset: u64, value: u32) {
        let Some(index) = (offset / 0x20).checked_sub(1) else { return };
        let index = index as usize;
        if index >= self.options.interrupters as usize {
            return;
        }
        let interrupter = &mut self.state.interrupters[index];
        match offset & 0x1f {
            0x00 => {
                interrupter.iman &= !(value & iman::PENDING | iman::ENABLED);
                interrupter.iman |= value & iman::ENABLED;
                self.update_pin();
            }
            0x04 => interrupter.imod = value,
            0x08 => interrupter.table_size = value & 0xffff,
            0x10 => {
                // NEC's driver does not align it further.
                let mask = if self.options.model == XhciModel::Nec { !0xf } else { !0x3f };
                interrupter.table = set_low(interrupter.table, value & mask);
            }
            0x14 => {
                interrupter.table = set_high(interrupter.table, value);
                self.start_event_ring(index);
            }
            0x18 => {
                let is_free = u64::from(value) & ERDP_BUSY != 0;
                let busy = if is_free { 0 } else { interrupter.dequeue & ERDP_BUSY };
                interrupter.dequeue = set_low(interrupter.dequeue, value & !(ERDP_BUSY as u32)) | busy;
                if is_free && self.has_events(index) {
                    self.raise(index);
                }
            }
            0x1c => interrupter.dequeue = set_high(interrupter.dequeue, value),
            _ => {}
        }
    }

    fn ring_doorbell(&mut self, index: u64, value: u32) {
        if !self.is_running() {
            return;
        }
        match index {
            0 if value == 0 => self.process_commands(),
            0 => {}
            _ => self.ring_endpoint(index as usize, usize::from(value as u8), (value >> 16) as u16),
        }
    }

    fn read_register(&mut self, offset: u64) -> u32 {
        match offset {
            ..OPERATIONAL => self.read_capability(offset),
            OPERATIONAL..PORT_REGISTERS => self.read_operational(offset - OPERATIONAL),
            PORT_REGISTERS..RUNTIME => {
                let (register, offset) = port_register(offset);
                let is_there = register < self.port_count() && offset == 0;
                if is_there { self.state.ports[register] } else { 0 }
            }
            RUNTIME..DOORBELLS => self.read_runtime(offset - RUNTIME),
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            OPERATIONAL..PORT_REGISTERS => self.write_operational(offset - OPERATIONAL, value),
            PORT_REGISTERS..RUNTIME => {
                let (register, offset) = port_register(offset);
                if register < self.port_count() && offset == 0 {
                    self.write_port(register, value);
                }
            }
            RUNTIME..DOORBELLS => self.write_runtime(offset - RUNTIME, value),
            DOORBELLS..MSIX_TABLE => self.ring_doorbell((offset - DOORBELLS) / 4, value),
            _ => {}
        }
    }
}

fn port_register(offset: u64) -> (usize, u64) {
    let inside = offset - PORT_REGISTERS;
    ((inside / 0x10) as usize, inside % 0x10)
}

fn set_low(old: u64, value: u32) -> u64 {
    (old & 0xffff_ffff_0000_0000) | u64::from(value)
}

fn set_high(old: u64, value: u32) -> u64 {
    (old & 0xffff_ffff) | u64::from(value) << 32
}

fn write_words<const N: usize>(map: &DmaMap, at: u64, words: [u32; N]) -> Option<()> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    map.write(at, &bytes).ok()
}

impl Device for Xhci {
    fn reset(&mut self, _kind: ResetKind) {
        self.state.config.reset();
        self.state.msix.reset();
        for (device, _) in self.devices.iter().flatten() {
            device.reset();
        }
        self.reset_registers();
        self.state.counter_start = 0;
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut *self.state)
    }

    fn restored(&mut self) {
        let level = self.level();
        self.irq.restore(level);
        self.schedule_wrap();
    }
}

impl PciFunction for Xhci {
    fn config(&self) -> &ConfigSpace {
        &self.state.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.state.config
    }

    fn write_config(&mut self, offset: u8, size: AccessSize, value: u32) {
        self.state.config.write(offset, size, value);
        self.deliver_unmasked();
        self.update_pin();
    }
}

impl IoDevice for Xhci {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Dword)
    }

    fn read(&mut self, _region: usize, offset: u64, size: AccessSize) -> u64 {
        match offset {
            MSIX_TABLE.. if !self.options.msix => 0,
            MSIX_PENDING.. => self.state.msix.read_pending(offset - MSIX_PENDING, size),
            MSIX_TABLE.. => self.state.msix.read_table(offset - MSIX_TABLE, size),
            _ => u64::from(self.read_register(offset & !3)) >> (8 * (offset & 3)) & size.mask(),
        }
    }

    fn write(&mut self, _region: usize, offset: u64, size: AccessSize, value: u64) {
        match offset {
            MSIX_PENDING.. => {}
            MSIX_TABLE.. if !self.options.msix => {}
            MSIX_TABLE.. => {
                self.state.msix.write_table(offset - MSIX_TABLE, size, value);
                self.deliver_unmasked();
            }
            // Registers are written as a whole (xHCI, 5.1).
            _ if size == AccessSize::Dword && offset & 3 == 0 => self.write_register(offset, value as u32),
            _ => {}
        }
    }
}
