//! UHCI 1.1: `piix3-usb-uhci`, `piix4-usb-uhci` and the six functions of the ICH9.
//!
//! The registers and ports are here, the frame list is in [`mod@schedule`]. A frame is walked once a millisecond of guest
//! time while the controller runs, and again when a device has news while the frame has bandwidth left. A transaction
//! that fails is not tried three times, since it would fail again. Left out: isochronous transfers that depend on a
//! device (none is declared), software debug, and FRNUM's use of SOFMOD.

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

/// Ports of the root hub.
pub const PORTS: usize = 2;

const BAR: usize = 4;
const LEN: u64 = 0x20;
/// Nanoseconds of a frame.
const FRAME: u64 = 1_000_000;

/// Bits of USBCMD.
mod command {
    pub const RUN: u16 = 1;
    pub const HC_RESET: u16 = 1 << 1;
    pub const GLOBAL_RESET: u16 = 1 << 2;
    pub const GLOBAL_SUSPEND: u16 = 1 << 3;
    pub const GLOBAL_RESUME: u16 = 1 << 4;
}

/// Bits of USBSTS.
mod status {
    pub const INTERRUPT: u16 = 1;
    pub const ERROR: u16 = 1 << 1;
    pub const RESUME: u16 = 1 << 2;
    pub const HOST_ERROR: u16 = 1 << 3;
    pub const PROCESS_ERROR: u16 = 1 << 4;
    pub const HALTED: u16 = 1 << 5;
}

/// Bits of USBINTR.
mod enable {
    pub const ERROR: u16 = 1;
    pub const RESUME: u16 = 1 << 1;
    pub const COMPLETE: u16 = 1 << 2;
    pub const SHORT: u16 = 1 << 3;
}

/// Bits of PORTSC.
mod port {
    pub const CONNECTED: u16 = 1;
    pub const CONNECT_CHANGE: u16 = 1 << 1;
    pub const ENABLED: u16 = 1 << 2;
    pub const ENABLE_CHANGE: u16 = 1 << 3;
    pub const RESUME_DETECT: u16 = 1 << 6;
    /// Always set.
    pub const ONE: u16 = 1 << 7;
    pub const LOW_SPEED: u16 = 1 << 8;
    pub const RESET: u16 = 1 << 9;
    pub const SUSPENDED: u16 = 1 << 12;
    /// What the driver may change.
    pub const WRITABLE: u16 = ENABLED | RESUME_DETECT | RESET | SUSPENDED;
}

/// Which transfers ended in an interrupt.
mod cause {
    pub const COMPLETE: u8 = 1;
    pub const SHORT: u8 = 2;
}

/// A model: its type's name, its identity and its interrupt pin (1 is INTA).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UhciModel {
    /// The name of its type.
    pub type_name: &'static str,
    /// Its PCI device number; the vendor is Intel.
    pub device: u16,
    /// Its PCI revision.
    pub revision: u8,
    /// Its interrupt pin.
    pub pin: u8,
    /// It can be a companion of an EHCI controller.
    pub is_companion: bool,
}

const fn model(type_name: &'static str, device: u16, revision: u8, pin: u8, is_companion: bool) -> UhciModel {
    UhciModel { type_name, device, revision, pin, is_companion }
}

/// All the models.
pub const MODELS: [UhciModel; 8] = [
    model("piix3-usb-uhci", 0x7020, 1, 4, false),
    model("piix4-usb-uhci", 0x7112, 1, 4, false),
    model("ich9-usb-uhci1", 0x2934, 3, 1, true),
    model("ich9-usb-uhci2", 0x2935, 3, 2, true),
    model("ich9-usb-uhci3", 0x2936, 3, 3, true),
    model("ich9-usb-uhci4", 0x2937, 3, 1, true),
    model("ich9-usb-uhci5", 0x2938, 3, 2, true),
    model("ich9-usb-uhci6", 0x2939, 3, 3, true),
];

/// What the user can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UhciOptions {
    /// Bytes that a frame has room for.
    pub bandwidth: u32,
    /// Frames that are made up for at once after a delay; those before are left out.
    pub max_frames: u32,
}

impl Default for UhciOptions {
    fn default() -> Self {
        Self { bandwidth: 1280, max_frames: 128 }
    }
}

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "uhci", version = 1)]
struct UhciState {
    config: ConfigSpace,
    command: u16,
    status: u16,
    causes: u8,
    enable: u16,
    frame: u16,
    frame_list: u32,
    sof_timing: u8,
    ports: [u16; PORTS],
    /// When the next frame is due.
    frame_at: u64,
    /// Bytes of the current frame that are used.
    used: u32,
}

/// The controller.
pub struct Uhci {
    // Fixed configuration.
    model: UhciModel,
    options: UhciOptions,
    // Wiring and host resources.
    clock: Clock,
    timer: Timer,
    irq: IrqLine,
    dma: DmaView,
    devices: [Option<(Link, Speed)>; PORTS],
    /// What the devices on the ports see; they know it weakly.
    host: Arc<dyn Host>,
    // Guest-visible state.
    state: UhciState,
}

/// A controller in its cell, with what devices on its ports see of it.
#[derive(Clone)]
pub struct UhciCell {
    /// The controller.
    pub cell: DeviceCell<Uhci>,
    host: Arc<dyn Host>,
}

impl UhciCell {
    /// A controller without devices.
    pub fn new(model: UhciModel, options: UhciOptions, clock: &Clock, irq: IrqLine, dma: DmaView) -> Self {
        let identity =
            Identity { vendor: 0x8086, device: model.device, revision: model.revision, class: 0x0c03, prog_if: 0 };
        let mut config = ConfigSpace::new(&identity);
        config.set_interrupt_pin(model.pin);
        // The release of USB that it follows: 1.0; and the clock.
        config.set_u8(0x60, 0x10);
        config.set_u8(0x6a, 1);
        config.add_bar(BAR, Bar { kind: BarKind::Io, size: LEN });
        let cell = DeviceCell::new_cyclic(|handle: &Handle<Uhci>| {
            let timer = handle.timer(clock, Uhci::frame_due);
            let state = UhciState {
                config,
                command: 0,
                status: status::HALTED,
                causes: 0,
                enable: 0,
                frame: 0,
                frame_list: 0,
                sof_timing: 64,
                ports: [port::ONE; PORTS],
                frame_at: 0,
                used: 0,
            };
            let devices = [None, None];
            let clock = clock.clone();
            Uhci { model, options, clock, timer, irq, dma, devices, host: Arc::new(RootPorts(handle.clone())), state }
        });
        let host = Arc::clone(&cell.lock().host);
        Self { cell, host }
    }

    /// Where its registers are.
    pub fn windows(&self) -> Vec<Window> {
        registers(&self.cell, BAR, SpaceKind::Ports, LEN)
    }

    /// The speeds of its ports.
    pub const SPEEDS: Speeds = Speeds::CLASSIC;

    /// Connects a device to a port of the root hub. Nothing happens when they have no speed in common.
    pub fn plug(&self, port: usize, device: Link) {
        let upstream = Upstream::new(Arc::downgrade(&self.host), port);
        self.cell.lock().attach(port, device, upstream);
    }

    /// Disconnects what is on a port.
    pub fn unplug(&self, port: usize) {
        if let Some(device) = self.cell.lock().detach(port) {
            device.detach();
        }
    }
}

impl Uhci {
    // ---- Ports ----

    /// A device appears on a port.
    pub(crate) fn attach(&mut self, port: usize, device: Link, upstream: Upstream) {
        let Some(speed) = device.speeds().fastest_common(UhciCell::SPEEDS) else { return };
        let Some(place) = self.devices.get_mut(port) else { return };
        device.attach(upstream, speed);
        *place = Some((device, speed));
        self.connect(port);
        self.resume();
    }

    /// A device disappears from a port.
    pub(crate) fn detach(&mut self, port: usize) -> Option<Link> {
        let (device, _) = self.devices.get_mut(port)?.take()?;
        let register = &mut self.state.ports[port];
        *register &= !(port::CONNECTED | port::LOW_SPEED);
        *register |= port::CONNECT_CHANGE;
        if *register & port::ENABLED != 0 {
            *register &= !port::ENABLED;
            *register |= port::ENABLE_CHANGE;
        }
        self.resume();
        Some(device)
    }

    /// What is on a port after a restore; the registers are as they are.
    pub(crate) fn rewire(&mut self, port: usize, device: Option<(Link, Upstream)>) {
        let Some(place) = self.devices.get_mut(port) else { return };
        *place = device.and_then(|(device, upstream)| {
            let speed = device.speeds().fastest_common(UhciCell::SPEEDS)?;
            device.rewire(upstream, speed);
            Some((device, speed))
        });
    }

    fn connect(&mut self, port: usize) {
        let Some((_, speed)) = &self.devices[port] else { return };
        let register = &mut self.state.ports[port];
        *register |= port::CONNECTED | port::CONNECT_CHANGE;
        *register &= !port::LOW_SPEED;
        if *speed == Speed::Low {
            *register |= port::LOW_SPEED;
        }
    }

    /// The bus wakes up from a global suspend.
    fn resume(&mut self) {
        if self.state.command & command::GLOBAL_SUSPEND != 0 {
            self.state.command |= command::GLOBAL_RESUME;
            self.state.status |= status::RESUME;
            self.update_interrupt();
        }
    }

    fn write_port(&mut self, port: usize, value: u16) {
        let device = self.devices[port].as_ref().map(|(device, _)| Arc::clone(device));
        let register = &mut self.state.ports[port];
        if let Some(device) = device
            && value & port::RESET != 0
            && *register & port::RESET == 0
        {
            device.reset();
        }
        let mut writable = port::WRITABLE;
        if *register & port::ENABLED == 0 && value & port::ENABLED == 0 {
            // Only an enabled port can be suspended.
            writable &= !port::SUSPENDED;
        }
        *register = (*register & !writable) | (value & writable);
        *register &= !(value & (port::CONNECT_CHANGE | port::ENABLE_CHANGE));
        if *register & port::CONNECTED == 0 {
            *register &= !port::ENABLED;
        }
    }

    // ---- Interrupts and time ----

    fn level(&self) -> bool {
        let UhciState { status, causes, enable, .. } = &self.state;
        (causes & cause::COMPLETE != 0 && enable & enable::COMPLETE != 0)
            || (causes & cause::SHORT != 0 && enable & enable::SHORT != 0)
            || (status & status::ERROR != 0 && enable & enable::ERROR != 0)
            || (status & status::RESUME != 0 && enable & enable::RESUME != 0)
            || status & (status::HOST_ERROR | status::PROCESS_ERROR) != 0
    }

    fn update_interrupt(&mut self) {
        let level = self.level() && self.state.config.is_intx_enabled();
        self.irq.set(level);
    }

    fn start(&mut self) {
        self.state.status &= !status::HALTED;
        self.state.frame_at = self.clock.now().saturating_add(FRAME);
        self.state.used = 0;
        self.timer.arm(self.state.frame_at);
    }

    fn stop(&mut self) {
        self.state.status |= status::HALTED;
        self.timer.cancel();
    }

    fn frame_due(&mut self) {
        if self.state.command & command::RUN == 0 {
            self.stop();
            return;
        }
        let now = self.clock.now();
        let missed = now.saturating_sub(self.state.frame_at) / FRAME;
        let max = u64::from(self.options.max_frames.max(1)) - 1;
        if missed > max {
            let skipped = missed - max;
            self.state.frame_at += skipped * FRAME;
            self.state.frame = self.state.frame.wrapping_add(skipped as u16) & 0x7ff;
        }
        for _ in 0..=missed.min(max) {
            self.state.used = 0;
            self.process_frame();
            self.state.frame = self.state.frame.wrapping_add(1) & 0x7ff;
            self.state.frame_at = self.state.frame_at.saturating_add(FRAME);
            if self.state.command & command::RUN == 0 {
                break;
            }
        }
        self.timer.arm(self.state.frame_at);
    }

    // ---- Registers ----

    fn reset_registers(&mut self) {
        self.state.command = 0;
        self.state.status = status::HALTED;
        (self.state.causes, self.state.enable) = (0, 0);
        (self.state.frame_list, self.state.sof_timing) = (0, 64);
        (self.state.frame_at, self.state.used) = (0, 0);
        self.timer.cancel();
        for port in 0..PORTS {
            self.state.ports[port] = port::ONE;
            if let Some((device, _)) = &self.devices[port] {
                device.reset();
            }
            self.connect(port);
        }
        self.update_interrupt();
    }

    fn write_command(&mut self, value: u16) {
        let is_running = self.state.command & command::RUN != 0;
        if value & command::HC_RESET != 0 {
            self.reset_registers();
            return;
        }
        if value & command::GLOBAL_RESET != 0 {
            for (device, _) in self.devices.iter().flatten() {
                device.reset();
            }
            let frame = self.state.frame;
            self.reset_registers();
            self.state.frame = frame;
            return;
        }
        self.state.command = value;
        match (is_running, value & command::RUN != 0) {
            (false, true) => self.start(),
            (true, false) => self.stop(),
            _ => {}
        }
    }

    fn read_register(&self, offset: u64) -> u16 {
        match offset {
            0x00 => self.state.command,
            0x02 => self.state.status,
            0x04 => self.state.enable,
            0x06 => self.state.frame,
            0x08 => self.state.frame_list as u16,
            0x0a => (self.state.frame_list >> 16) as u16,
            0x0c => u16::from(self.state.sof_timing),
            0x10 => self.state.ports[0],
            0x12 => self.state.ports[1],
            // No port: bit 7 would say that there is one.
            _ => 0xff7f,
        }
    }

    fn write_register(&mut self, offset: u64, value: u16) {
        match offset {
            0x00 => self.write_command(value),
            0x02 => {
                let cleared = value & !status::HALTED;
                self.state.status &= !cleared;
                if value & status::INTERRUPT != 0 {
                    self.state.causes = 0;
                }
                self.update_interrupt();
            }
            0x04 => {
                self.state.enable = value & 0xf;
                self.update_interrupt();
            }
            0x06 if self.state.status & status::HALTED != 0 => self.state.frame = value & 0x7ff,
            0x08 => self.state.frame_list = (self.state.frame_list & 0xffff_0000) | u32::from(value & 0xf000),
            0x0a => self.state.frame_list = (self.state.frame_list & 0xffff) | u32::from(value) << 16,
            0x0c => self.state.sof_timing = value as u8 & 0x7f,
            0x10 => self.write_port(0, value),
            0x12 => self.write_port(1, value),
            _ => {}
        }
    }

    /// The name of its type.
    pub fn type_name(&self) -> &'static str {
        self.model.type_name
    }
}

impl RootHub for Uhci {
    fn wake(&mut self, port: usize, is_remote: bool) {
        if is_remote
            && let Some(register) = self.state.ports.get_mut(port)
            && *register & port::SUSPENDED != 0
            && *register & port::RESUME_DETECT == 0
        {
            *register |= port::RESUME_DETECT;
            self.resume();
        }
        // What waited may go on in this frame.
        if self.state.command & command::RUN != 0 {
            self.process_frame();
        }
    }
}

impl Device for Uhci {
    fn reset(&mut self, _kind: ResetKind) {
        self.state.config.reset();
        self.state.frame = 0;
        self.reset_registers();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        let level = self.level() && self.state.config.is_intx_enabled();
        self.irq.restore(level);
        if self.state.command & command::RUN == 0 {
            self.timer.cancel();
        } else {
            self.timer.arm(self.state.frame_at);
        }
    }
}

impl PciFunction for Uhci {
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

impl IoDevice for Uhci {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Word)
    }

    fn read(&mut self, _region: usize, offset: u64, size: AccessSize) -> u64 {
        if offset & 1 == 1 && size == AccessSize::Word {
            return 0;
        }
        let value = u64::from(self.read_register(offset & !1));
        value >> (8 * (offset & 1)) & size.mask()
    }

    fn write(&mut self, _region: usize, offset: u64, size: AccessSize, value: u64) {
        match size {
            AccessSize::Word if offset & 1 == 0 => self.write_register(offset, value as u16),
            // SOFMOD is the one register of a byte.
            AccessSize::Byte if offset == 0x0c => self.write_register(offset, value as u16 & 0xff),
            _ => {}
        }
    }
}
