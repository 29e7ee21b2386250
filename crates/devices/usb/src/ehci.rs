//! EHCI 1.0: `usb-ehci`, and `ich9-usb-ehci1` and `ich9-usb-ehci2` with their companions.
//!
//! Registers and ports are here, the schedules are in [`mod@schedule`]. The schedules are walked once a millisecond of guest
//! time while they are enabled, four times as often after the asynchronous one has moved something, and when a device has
//! news. A port that a companion owns is the companion's: this controller forwards what its device says. Left out:
//! isochronous and split transactions (there are no devices for them), frame lists of other sizes, parking, and the
//! interrupt threshold (interrupts come at once).

mod schedule;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use clock::{Clock, Timer};
use device::{AccessSize, Device, DeviceCell, DeviceState, Handle, IoDevice, IrqLine, ResetKind};
use devices_pci::bus::{PciFunction, Window};
use devices_pci::config::{Bar, BarKind, ConfigSpace, Identity};
use memory::{DmaView, SpaceKind};
use state::State;

use crate::bus::{Host, Link, Speed, Speeds, Upstream};
use crate::controller::{RootHub, RootPorts, registers};
use crate::uhci::UhciCell;

/// Ports of the root hub.
pub const PORTS: usize = 6;

const BAR: usize = 0;
const LEN: u64 = 0x1000;
const OPERATIONAL: u64 = 0x20;
const PORT_REGISTERS: u64 = 0x64;
/// Nanoseconds of a frame, of a microframe, and between looks at a busy schedule.
const FRAME: u64 = 1_000_000;
const MICROFRAME: u64 = FRAME / 8;
const BUSY: u64 = FRAME / 4;

/// Bits of USBCMD.
mod command {
    pub const RUN: u32 = 1;
    pub const RESET: u32 = 1 << 1;
    pub const FRAME_LIST_SIZE: u32 = 3 << 2;
    pub const PERIODIC: u32 = 1 << 4;
    pub const ASYNC: u32 = 1 << 5;
    pub const DOORBELL: u32 = 1 << 6;
    /// An interrupt threshold of eight microframes.
    pub const THRESHOLD: u32 = 8 << 16;
}

/// Bits of USBSTS.
mod status {
    pub const INTERRUPT: u32 = 1;
    pub const ERROR: u32 = 1 << 1;
    pub const PORT_CHANGE: u32 = 1 << 2;
    pub const ROLLOVER: u32 = 1 << 3;
    pub const HOST_ERROR: u32 = 1 << 4;
    pub const ADVANCE: u32 = 1 << 5;
    pub const CLEARABLE: u32 = 0x3f;
    pub const HALTED: u32 = 1 << 12;
    pub const RECLAMATION: u32 = 1 << 13;
    pub const PERIODIC: u32 = 1 << 14;
    pub const ASYNC: u32 = 1 << 15;
}

/// Bits of PORTSC.
mod port {
    pub const CONNECTED: u32 = 1;
    pub const CONNECT_CHANGE: u32 = 1 << 1;
    pub const ENABLED: u32 = 1 << 2;
    pub const ENABLE_CHANGE: u32 = 1 << 3;
    pub const OVER_CURRENT_CHANGE: u32 = 1 << 5;
    pub const FORCE_RESUME: u32 = 1 << 6;
    pub const SUSPENDED: u32 = 1 << 7;
    pub const RESET: u32 = 1 << 8;
    pub const POWER: u32 = 1 << 12;
    pub const OWNER: u32 = 1 << 13;
    pub const CHANGES: u32 = CONNECT_CHANGE | ENABLE_CHANGE | OVER_CURRENT_CHANGE;
    /// What the driver may write beside that.
    pub const WRITABLE: u32 = 0x0070_01c0;
}

/// A model: its type's name, its device number and revision; the vendor is Intel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EhciModel {
    /// The name of its type.
    pub type_name: &'static str,
    /// Its PCI device number.
    pub device: u16,
    /// Its PCI revision.
    pub revision: u8,
}

/// All the models.
pub const MODELS: [EhciModel; 3] = [
    EhciModel { type_name: "usb-ehci", device: 0x24cd, revision: 0x10 },
    EhciModel { type_name: "ich9-usb-ehci1", device: 0x293a, revision: 3 },
    EhciModel { type_name: "ich9-usb-ehci2", device: 0x293c, revision: 3 },
];

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "ehci", version = 1)]
struct EhciState {
    config: ConfigSpace,
    command: u32,
    status: u32,
    enable: u32,
    /// In microframes.
    frame_index: u32,
    segment: u32,
    periodic_list: u32,
    async_list: u32,
    configured: u32,
    ports: [u32; PORTS],
    /// The time to which the frame index belongs.
    frame_time: u64,
    /// The asynchronous schedule has just moved something.
    is_busy: bool,
}

/// A port of a companion.
type Companion = (UhciCell, usize);

/// The controller.
pub struct Ehci {
    // Fixed configuration.
    max_frames: u32,
    // Wiring and host resources.
    clock: Clock,
    timer: Timer,
    irq: IrqLine,
    dma: DmaView,
    devices: [Option<(Link, Upstream)>; PORTS],
    companions: [Option<Companion>; PORTS],
    /// Number of companions, and ports of each.
    companion_counts: (u32, u32),
    /// What the devices on the ports see; they know it weakly.
    host: Arc<dyn Host>,
    // Guest-visible state.
    state: EhciState,
}

/// A controller in its cell, with what devices on its ports see of it.
#[derive(Clone)]
pub struct EhciCell {
    /// The controller.
    pub cell: DeviceCell<Ehci>,
    host: Arc<dyn Host>,
}

impl EhciCell {
    /// A controller without devices.
    pub fn new(model: EhciModel, max_frames: u32, clock: &Clock, irq: IrqLine, dma: DmaView) -> Self {
        let identity =
            Identity { vendor: 0x8086, device: model.device, revision: model.revision, class: 0x0c03, prog_if: 0x20 };
        let mut config = ConfigSpace::new(&identity);
        config.set_interrupt_pin(4);
        // Release of USB, frame length adjustment; no support of the firmware's own driver.
        config.set_u8(0x60, 0x20);
        config.set_u8(0x61, 0x20);
        config.set_u8(0x68, 1);
        config.set_u8(0x6f, 0xc0);
        config.add_bar(BAR, Bar { kind: BarKind::Memory32, size: LEN });
        let cell = DeviceCell::new_cyclic(|handle: &Handle<Ehci>| {
            let timer = handle.timer(clock, Ehci::due);
            let state = EhciState {
                config,
                command: command::THRESHOLD,
                status: status::HALTED,
                enable: 0,
                frame_index: 0,
                segment: 0,
                periodic_list: 0,
                async_list: 0,
                configured: 0,
                ports: [port::POWER; PORTS],
                frame_time: 0,
                is_busy: false,
            };
            let none = || std::array::from_fn(|_| None);
            let clock = clock.clone();
            Ehci {
                max_frames,
                clock,
                timer,
                irq,
                dma,
                devices: none(),
                companions: std::array::from_fn(|_| None),
                companion_counts: (0, 0),
                host: Arc::new(RootPorts(handle.clone())),
                state,
            }
        });
        let host = Arc::clone(&cell.lock().host);
        Self { cell, host }
    }

    /// Where its registers are.
    pub fn windows(&self) -> Vec<Window> {
        registers(&self.cell, BAR, SpaceKind::Memory, LEN)
    }

    /// The speed of its ports without a companion.
    pub const SPEEDS: Speeds = Speeds::of(Speed::High);

    /// Makes `companion` the owner of ports from `first` on, until the driver takes them.
    ///
    /// # Errors
    /// There are no such ports, or they have another companion. The text is QEMU's.
    pub fn add_companion(&self, companion: &UhciCell, first: usize) -> Result<(), String> {
        const COUNT: usize = crate::uhci::PORTS;
        let mut ehci = self.cell.lock();
        let last = first.checked_add(COUNT).filter(|end| *end <= PORTS);
        let Some(end) = last else { return Err(format!("firstport must be between 0 and {}", PORTS - COUNT)) };
        if let Some(taken) = (first..end).find(|port| ehci.companions[*port].is_some()) {
            return Err(format!(
                "firstport {first} asks for ports {first}-{}, but port {taken} has a companion assigned already",
                end - 1
            ));
        }
        for port in first..end {
            ehci.companions[port] = Some((companion.clone(), port - first));
            ehci.state.ports[port] = port::OWNER | port::POWER;
        }
        ehci.companion_counts.0 += 1;
        ehci.companion_counts.1 = COUNT as u32;
        Ok(())
    }

    /// Connects a device to a port of the root hub.
    pub fn plug(&self, port: usize, device: Link) {
        let upstream = Upstream::new(Arc::downgrade(&self.host), port);
        let mut ehci = self.cell.lock();
        if let Some(place) = ehci.devices.get_mut(port) {
            *place = Some((device, upstream));
            ehci.attach(port);
        }
    }

    /// Disconnects what is on a port.
    pub fn unplug(&self, port: usize) {
        let device = {
            let mut ehci = self.cell.lock();
            ehci.detach(port);
            // A port without a device is this controller's again (EHCI, 4.2.2).
            if let Some(register) = ehci.state.ports.get_mut(port) {
                *register &= !port::OWNER;
            }
            ehci.devices.get_mut(port).and_then(Option::take)
        };
        if let Some((device, _)) = device {
            device.detach();
        }
    }
}

impl Ehci {
    // ---- Ports ----

    fn companion(&self, port: usize) -> Option<Companion> {
        let is_owner = self.state.ports.get(port)? & port::OWNER != 0;
        self.companions.get(port)?.clone().filter(|_| is_owner)
    }

    /// The speed at which a device is on a port of this controller; devices without high speed can't be enabled.
    fn speed(device: &Link) -> Speed {
        device.speeds().fastest_common(EhciCell::SPEEDS).unwrap_or(Speed::Full)
    }

    /// The device of a port appears to the owner.
    fn attach(&mut self, port: usize) {
        let Some((device, upstream)) = self.devices[port].clone() else { return };
        if let Some((companion, at)) = self.companion(port) {
            companion.cell.lock().attach(at, device, upstream);
            return;
        }
        device.attach(upstream, Self::speed(&device));
        self.state.ports[port] |= port::CONNECTED | port::CONNECT_CHANGE;
        self.raise(status::PORT_CHANGE);
    }

    /// The device of a port disappears from the owner.
    fn detach(&mut self, port: usize) {
        if self.devices.get(port).is_none_or(Option::is_none) {
            return;
        }
        if let Some((companion, at)) = self.companion(port) {
            companion.cell.lock().detach(at);
            return;
        }
        let register = &mut self.state.ports[port];
        *register &= !(port::CONNECTED | port::ENABLED | port::SUSPENDED);
        *register |= port::CONNECT_CHANGE;
        self.raise(status::PORT_CHANGE);
    }

    fn set_owner(&mut self, port: usize, owner: u32) {
        if self.companions[port].is_none() || (self.state.ports[port] ^ owner) & port::OWNER == 0 {
            return;
        }
        self.detach(port);
        self.state.ports[port] ^= port::OWNER;
        self.attach(port);
    }

    fn write_port(&mut self, port: usize, value: u32) {
        let register = &mut self.state.ports[port];
        *register &= !(value & port::CHANGES);
        // The driver may switch a port off, not on.
        if value & port::ENABLED == 0 {
            *register &= !port::ENABLED;
        }
        self.set_owner(port, value);
        let old = self.state.ports[port];
        let mut wanted = value & port::WRITABLE;
        if wanted & port::RESET == 0 && old & port::RESET != 0 && old & port::CONNECTED != 0 {
            // The end of a reset: a device with high speed is enabled.
            if let Some((device, _)) = &self.devices[port] {
                device.reset();
                if Self::speed(device) == Speed::High {
                    wanted |= port::ENABLED;
                }
            }
            self.state.ports[port] &= !port::CONNECT_CHANGE;
        }
        if wanted & port::FORCE_RESUME == 0 && old & port::FORCE_RESUME != 0 {
            wanted &= !port::SUSPENDED;
        }
        let register = &mut self.state.ports[port];
        *register = (*register & !port::WRITABLE) | wanted;
    }

    // ---- Interrupts and time ----

    fn raise(&mut self, bits: u32) {
        self.state.status |= bits;
        self.update_interrupt();
    }

    fn level(&self) -> bool {
        self.state.status & self.state.enable & status::CLEARABLE != 0 && self.state.config.is_intx_enabled()
    }

    fn update_interrupt(&mut self) {
        let level = self.level();
        self.irq.set(level);
    }

    /// Whether a schedule runs.
    fn is_enabled(&self, schedule: u32) -> bool {
        let both = command::RUN | schedule;
        self.state.command & both == both
    }

    fn is_timed(&self) -> bool {
        self.is_enabled(command::PERIODIC)
            || self.is_enabled(command::ASYNC)
            || (self.is_enabled(0) && self.state.enable & status::ROLLOVER != 0)
    }

    fn schedule_timer(&mut self) {
        if !self.is_timed() {
            self.timer.cancel();
            return;
        }
        let by = if self.state.is_busy { BUSY } else { FRAME };
        self.timer.arm(self.state.frame_time.saturating_add(by));
    }

    /// Time has gone on: so many microframes.
    fn advance(&mut self) -> u64 {
        let now = self.clock.now();
        let elapsed = now.saturating_sub(self.state.frame_time) / MICROFRAME;
        self.state.frame_time = self.state.frame_time.saturating_add(elapsed * MICROFRAME);
        elapsed
    }

    fn due(&mut self) {
        let old = self.state.frame_index;
        let elapsed = self.advance();
        self.state.frame_index = old.wrapping_add(elapsed as u32) & 0x3fff;
        if (u64::from(old & 0x1fff) + elapsed) >= 0x2000 {
            self.state.status |= status::ROLLOVER;
        }
        if self.is_enabled(command::PERIODIC) {
            let (first, last) = (u64::from(old >> 3), (u64::from(old) + elapsed) >> 3);
            let frames = (last - first).min(u64::from(self.max_frames.max(1)));
            for frame in last - frames..last {
                self.process_periodic(frame as u32 & 0x3ff);
            }
        }
        self.state.is_busy = self.is_enabled(command::ASYNC) && self.process_async();
        self.update_interrupt();
        self.schedule_timer();
    }

    // ---- Registers ----

    fn reset_registers(&mut self) {
        (0..PORTS).for_each(|port| self.detach(port));
        self.state.command = command::THRESHOLD;
        self.state.status = status::HALTED;
        (self.state.enable, self.state.frame_index, self.state.segment) = (0, 0, 0);
        (self.state.periodic_list, self.state.async_list, self.state.configured) = (0, 0, 0);
        (self.state.frame_time, self.state.is_busy) = (0, false);
        for port in 0..PORTS {
            let owner = if self.companions[port].is_some() { port::OWNER } else { 0 };
            self.state.ports[port] = port::POWER | owner;
            self.attach(port);
        }
        self.timer.cancel();
        self.update_interrupt();
    }

    fn write_command(&mut self, value: u32) {
        if value & command::RESET != 0 {
            return self.reset_registers();
        }
        let was_timed = self.is_timed();
        self.state.command = value & !command::FRAME_LIST_SIZE;
        let is_running = value & command::RUN != 0;
        let set = |status: &mut u32, bit: u32, on: bool| *status = if on { *status | bit } else { *status & !bit };
        set(&mut self.state.status, status::HALTED, !is_running);
        let (periodic, asynchronous) = (self.is_enabled(command::PERIODIC), self.is_enabled(command::ASYNC));
        set(&mut self.state.status, status::PERIODIC, periodic);
        set(&mut self.state.status, status::ASYNC | status::RECLAMATION, asynchronous);
        if value & command::DOORBELL != 0 {
            // Nothing is remembered of queue heads: what was taken off the list is out of use.
            self.state.command &= !command::DOORBELL;
            self.raise(status::ADVANCE);
        }
        self.restart(was_timed);
    }

    /// The timer follows what is enabled now.
    fn restart(&mut self, was_timed: bool) {
        if !was_timed && self.is_timed() {
            self.state.frame_time = self.clock.now();
            self.state.is_busy = true;
        }
        self.schedule_timer();
    }

    fn read_register(&self, offset: u64) -> u32 {
        let (companions, ports) = self.companion_counts;
        match offset {
            0x00 => 0x0100_0000 | OPERATIONAL as u32,
            0x04 => PORTS as u32 | ports << 8 | companions << 12,
            // A frame can be cached; the extended capability at 0x68.
            0x08 => 0x6880,
            0x20 => self.state.command,
            0x24 => self.state.status,
            0x28 => self.state.enable,
            0x2c => self.state.frame_index,
            0x30 => self.state.segment,
            0x34 => self.state.periodic_list,
            0x38 => self.state.async_list,
            0x60 => self.state.configured,
            _ => {
                let port = offset.checked_sub(PORT_REGISTERS).map(|inside| (inside / 4) as usize);
                port.and_then(|port| self.state.ports.get(port)).copied().unwrap_or(0)
            }
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            0x20 => self.write_command(value),
            0x24 => {
                self.state.status &= !(value & status::CLEARABLE);
                self.update_interrupt();
            }
            0x28 => {
                let was_timed = self.is_timed();
                self.state.enable = value & status::CLEARABLE;
                self.update_interrupt();
                self.restart(was_timed);
            }
            0x2c if self.state.status & status::HALTED != 0 => self.state.frame_index = value & 0x3fff,
            // There are no addresses beyond 32 bits.
            0x30 => {}
            0x34 => self.state.periodic_list = value & 0xffff_f000,
            0x38 => self.state.async_list = value & !0x1f,
            0x60 => {
                self.state.configured = value & 1;
                if value & 1 != 0 {
                    (0..PORTS).for_each(|port| self.set_owner(port, 0));
                }
            }
            _ => {
                let port = offset.checked_sub(PORT_REGISTERS).map(|inside| (inside / 4) as usize);
                if let Some(port) = port.filter(|port| *port < PORTS) {
                    self.write_port(port, value);
                }
            }
        }
    }
}

impl RootHub for Ehci {
    fn wake(&mut self, port: usize, is_remote: bool) {
        if let Some((companion, at)) = self.companion(port) {
            companion.cell.lock().wake(at, is_remote);
            return;
        }
        if is_remote
            && let Some(register) = self.state.ports.get_mut(port)
            && *register & port::SUSPENDED != 0
        {
            *register |= port::FORCE_RESUME;
            self.raise(status::PORT_CHANGE);
        }
        if self.is_enabled(command::ASYNC) {
            self.state.is_busy |= self.process_async();
            self.update_interrupt();
        }
    }
}

impl Device for Ehci {
    fn reset(&mut self, _kind: ResetKind) {
        self.state.config.reset();
        self.reset_registers();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        let level = self.level();
        self.irq.restore(level);
        for port in 0..PORTS {
            let Some((device, upstream)) = self.devices[port].clone() else { continue };
            let owner = self.companion(port);
            if let Some((companion, at)) = &self.companions[port] {
                companion.cell.lock().rewire(*at, owner.is_some().then(|| (Arc::clone(&device), upstream.clone())));
            }
            if owner.is_none() {
                device.rewire(upstream, Self::speed(&device));
            }
        }
        self.schedule_timer();
    }
}

impl PciFunction for Ehci {
    fn config(&self) -> &ConfigSpace {
        &self.state.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.state.config
    }

    fn write_config(&mut self, offset: u8, size: AccessSize, value: u32) {
        self.state.config.write(offset, size, value);
        self.update_interrupt();
    }
}

impl IoDevice for Ehci {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Dword)
    }

    fn read(&mut self, _region: usize, offset: u64, size: AccessSize) -> u64 {
        u64::from(self.read_register(offset & !3)) >> (8 * (offset & 3)) & size.mask()
    }

    fn write(&mut self, _region: usize, offset: u64, size: AccessSize, value: u64) {
        if size == AccessSize::Dword && offset & 3 == 0 {
            self.write_register(offset, value as u32);
        }
    }
}
