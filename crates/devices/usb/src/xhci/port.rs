//! Ports of the root hub (xHCI 1.2, 4.19 and 5.4.8): each has two registers, for USB 2 and for USB 3.

use std::sync::Arc;

use super::{Xhci, usbsts};
use crate::bus::{Link, Speed, Speeds};
use crate::controller::RootHub;

/// Bits of PORTSC.
pub(super) mod portsc {
    pub const CONNECTED: u32 = 1;
    pub const ENABLED: u32 = 1 << 1;
    pub const RESET: u32 = 1 << 4;
    pub const LINK: u32 = 0xf << 5;
    pub const POWER: u32 = 1 << 9;
    pub const SPEED_SHIFT: u32 = 10;
    pub const LINK_WRITE: u32 = 1 << 16;
    pub const CONNECT_CHANGE: u32 = 1 << 17;
    pub const WARM_RESET_CHANGE: u32 = 1 << 19;
    pub const RESET_CHANGE: u32 = 1 << 21;
    pub const LINK_CHANGE: u32 = 1 << 22;
    pub const CHANGES: u32 = 0x7f << 17;
    pub const WAKE_ENABLES: u32 = 7 << 25;
    pub const WARM_RESET: u32 = 1 << 31;

    pub const fn link(state: u32) -> u32 {
        state << 5
    }
}

/// States of a link.
pub(super) mod pls {
    pub const U0: u32 = 0;
    pub const U3: u32 = 3;
    pub const RX_DETECT: u32 = 5;
    pub const POLLING: u32 = 7;
    pub const RESUME: u32 = 15;
}

impl Xhci {
    pub(super) fn port_count(&self) -> usize {
        (self.options.usb2_ports + self.options.usb3_ports) as usize
    }

    pub(super) fn speeds(&self, port: usize) -> Speeds {
        let mut speeds = Speeds::default();
        if port < self.options.usb2_ports as usize {
            speeds = speeds.and(Speeds::USB2);
        }
        if port < self.options.usb3_ports as usize {
            speeds = speeds.with(Speed::Super);
        }
        speeds
    }

    /// The register of a port for a device with that speed.
    pub(super) fn register_of(&self, port: usize, speed: Speed) -> usize {
        let (usb2, usb3) = (self.options.usb2_ports as usize, self.options.usb3_ports as usize);
        match (speed == Speed::Super, self.options.superspeed_first) {
            (true, true) | (false, false) => port,
            (true, false) => port + usb2,
            (false, true) => port + usb3,
        }
    }

    /// The port of a register, and whether the register is for SuperSpeed.
    pub(super) fn port_of(&self, register: usize) -> (usize, bool) {
        let (usb2, usb3) = (self.options.usb2_ports as usize, self.options.usb3_ports as usize);
        let first = if self.options.superspeed_first { usb3 } else { usb2 };
        let is_first = register < first;
        (if is_first { register } else { register - first }, is_first == self.options.superspeed_first)
    }

    /// The device whose connection a register shows.
    pub(super) fn device_of(&self, register: usize) -> Option<(Link, Speed)> {
        let (port, is_super) = self.port_of(register);
        let (device, speed) = self.devices.get(port)?.as_ref()?;
        ((*speed == Speed::Super) == is_super).then(|| (Arc::clone(device), *speed))
    }

    /// Shows what is on a port now.
    pub(super) fn connect(&mut self, register: usize) {
        let device = self.device_of(register);
        let Some(port) = self.state.ports.get_mut(register) else { return };
        *port = portsc::POWER;
        *port |= match device {
            None => portsc::link(pls::RX_DETECT),
            Some((_, speed)) => {
                let (id, state) = match speed {
                    Speed::Full => (1, portsc::link(pls::POLLING)),
                    Speed::Low => (2, portsc::link(pls::POLLING)),
                    Speed::High => (3, portsc::link(pls::POLLING)),
                    Speed::Super => (4, portsc::link(pls::U0) | portsc::ENABLED),
                };
                portsc::CONNECTED | id << portsc::SPEED_SHIFT | state
            }
        };
        self.notify_port(register, portsc::CONNECT_CHANGE);
    }

    pub(super) fn notify_port(&mut self, register: usize, changes: u32) {
        let Some(port) = self.state.ports.get_mut(register) else { return };
        if *port & changes == changes {
            return;
        }
        *port |= changes;
        self.state.status |= usbsts::PORT_CHANGE;
        if self.is_running() {
            self.port_event(register);
        }
    }

    pub(super) fn reset_port(&mut self, register: usize, is_warm: bool) {
        let Some((device, speed)) = self.device_of(register) else { return };
        device.reset();
        let port = &mut self.state.ports[register];
        if is_warm && speed == Speed::Super {
            *port |= portsc::WARM_RESET_CHANGE;
        }
        *port = (*port & !portsc::LINK) | portsc::link(pls::U0) | portsc::ENABLED;
        self.notify_port(register, portsc::RESET_CHANGE);
    }

    pub(super) fn write_port(&mut self, register: usize, value: u32) {
        if value & portsc::WARM_RESET != 0 {
            return self.reset_port(register, true);
        }
        if value & portsc::RESET != 0 {
            return self.reset_port(register, false);
        }
        let port = &mut self.state.ports[register];
        *port &= !(value & portsc::CHANGES);
        if value & portsc::ENABLED != 0 {
            // Writing a one switches an enabled port off.
            *port &= !portsc::ENABLED;
        }
        let mut changed = 0;
        if value & portsc::LINK_WRITE != 0 {
            let (old, new) = ((*port & portsc::LINK) >> 5, (value & portsc::LINK) >> 5);
            if (new == pls::U0 && old != pls::U0) || (new == pls::U3 && old < pls::U3) {
                *port = (*port & !portsc::LINK) | portsc::link(new);
                changed = if new == pls::U0 { portsc::LINK_CHANGE } else { 0 };
            }
        }
        let writable = portsc::POWER | portsc::WAKE_ENABLES;
        *port = (*port & !writable) | (value & writable);
        if changed != 0 {
            self.notify_port(register, changed);
        }
    }
}

impl RootHub for Xhci {
    fn wake(&mut self, port: usize, is_remote: bool) {
        if is_remote && let Some((_, speed)) = self.devices.get(port).and_then(Option::as_ref) {
            let register = self.register_of(port, *speed);
            if let Some(port) = self.state.ports.get_mut(register)
                && *port & portsc::LINK == portsc::link(pls::U3)
            {
                *port = (*port & !portsc::LINK) | portsc::link(pls::RESUME);
                self.notify_port(register, portsc::LINK_CHANGE);
            }
        }
        self.retry_all();
    }
}
