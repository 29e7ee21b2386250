//! A hub (USB 2.0, chapter 11, at full speed): `usb-hub` with one to eight ports.
//!
//! As QEMU's, it needs no time for resets, and no power is switched unless `port-power` says so.

use std::sync::Arc;

use device::{DeviceCell, Handle};
use state::State;

use crate::bus::{Host, Link, Outcome, Pipe, Speed, Speeds, Token, Upstream, find};
use crate::data::Data;
use crate::descriptor::{Configuration, Descriptors, DeviceAtSpeed, Endpoint, Interface, attribute, kind, transfer};
use crate::device::{Function, Labels, Setup, Stalled, UsbDevice};

/// The most ports.
pub const PORTS_MAX: usize = 8;

/// The serial number before its place.
pub const SERIAL: &str = "314159";

const ENDPOINT: Endpoint = Endpoint {
    address: 0x81,
    attributes: transfer::INTERRUPT,
    max_packet: 2,
    interval: 0xff,
    max_burst: 0,
    streams: 0,
    extra: &[],
};

const FULL: DeviceAtSpeed = DeviceAtSpeed {
    usb: 0x0110,
    class: 9,
    max_packet: 8,
    configuration: Configuration {
        name: 0,
        attributes: attribute::ONE | attribute::SELF_POWERED | attribute::REMOTE_WAKEUP,
        max_power: 0,
        interfaces: &[Interface { class: [9, 0, 0], extra: &[], endpoints: &[ENDPOINT] }],
    },
};

const DESCRIPTORS: Descriptors = Descriptors {
    identity: [0x0409, 0x55aa, 0x0101],
    names: [1, 2, 3],
    full: Some(&FULL),
    high: None,
    superspeed: None,
    strings: &[(1, "QEMU"), (2, "QEMU USB Hub"), (3, SERIAL)],
    selective_suspend: false,
};

/// Bits of a port's status, and of its change where the low five have a partner.
mod port {
    pub const CONNECTION: u16 = 1;
    pub const ENABLE: u16 = 1 << 1;
    pub const SUSPEND: u16 = 1 << 2;
    pub const OVER_CURRENT: u16 = 1 << 3;
    pub const RESET: u16 = 1 << 4;
    pub const POWER: u16 = 1 << 8;
    pub const LOW_SPEED: u16 = 1 << 9;
}

/// Requests of the hub class (USB 2.0, table 11-15): request type and request.
mod request {
    pub const GET_HUB_DESCRIPTOR: u16 = 0xa006;
    pub const GET_HUB_STATUS: u16 = 0xa000;
    pub const GET_PORT_STATUS: u16 = 0xa300;
    pub const CLEAR_HUB_FEATURE: u16 = 0x2001;
    pub const SET_HUB_FEATURE: u16 = 0x2003;
    pub const CLEAR_PORT_FEATURE: u16 = 0x2301;
    pub const SET_PORT_FEATURE: u16 = 0x2303;
}

/// Features (USB 2.0, table 11-17).
mod feature {
    pub const ENABLE: u16 = 1;
    pub const SUSPEND: u16 = 2;
    pub const RESET: u16 = 4;
    pub const POWER: u16 = 8;
    pub const C_CONNECTION: u16 = 16;
    pub const C_RESET: u16 = 20;
}

/// The guest-visible state.
#[derive(Clone, Debug, Default, State)]
#[state(name = "usb-hub", version = 1)]
pub struct HubState {
    status: [u16; PORTS_MAX],
    change: [u16; PORTS_MAX],
}

/// The function of a hub.
pub struct Hub {
    // Fixed configuration.
    ports: usize,
    switches_power: bool,
    // Wiring.
    /// What the devices on the ports see; they know it weakly.
    host: Arc<dyn Host>,
    devices: [Option<(Link, Speed)>; PORTS_MAX],
    // Guest-visible state.
    state: HubState,
}

/// A hub's ports, for the devices on them.
struct HubPorts(Handle<UsbDevice<Hub>>);

impl Host for HubPorts {
    fn wake(&self, port: usize, is_remote: bool) {
        let waker = self.0.with(|hub| {
            let function = hub.function_mut();
            if is_remote && function.state.status.get(port).is_some_and(|status| status & port::SUSPEND != 0) {
                function.clear(port, port::SUSPEND);
            }
            hub.waker()
        });
        if let Some(waker) = waker.flatten() {
            waker.wake();
        }
    }
}

/// A hub in its cell, with what devices on its ports see of it.
#[derive(Clone)]
pub struct HubCell {
    /// The hub.
    pub cell: DeviceCell<UsbDevice<Hub>>,
    host: Arc<dyn Host>,
}

impl HubCell {
    /// A hub with 1 to [`PORTS_MAX`] ports.
    pub fn new(ports: usize, switches_power: bool, labels: Labels) -> Self {
        let cell = DeviceCell::new_cyclic(|handle: &Handle<UsbDevice<Hub>>| {
            let mut hub = Hub {
                ports: ports.clamp(1, PORTS_MAX),
                switches_power,
                host: Arc::new(HubPorts(handle.clone())),
                devices: std::array::from_fn(|_| None),
                state: HubState::default(),
            };
            hub.reset();
            UsbDevice::new(hub, labels)
        });
        let host = Arc::clone(&cell.lock().function().host);
        Self { cell, host }
    }

    /// The speeds of its ports.
    pub const SPEEDS: Speeds = Speeds::CLASSIC;

    /// Connects a device to port `port`, from 0. Nothing happens when they have no speed in common.
    pub fn plug(&self, port: usize, device: Link) {
        let Some(speed) = device.speeds().fastest_common(Self::SPEEDS) else { return };
        device.attach(Upstream::new(Arc::downgrade(&self.host), port), speed);
        let waker = {
            let mut hub = self.cell.lock();
            let function = hub.function_mut();
            if let Some(place) = function.devices.get_mut(port) {
                *place = Some((device, speed));
            }
            function.connect(port);
            hub.waker()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Disconnects what is on port `port`.
    pub fn unplug(&self, port: usize) {
        let (device, waker) = {
            let mut hub = self.cell.lock();
            let function = hub.function_mut();
            let device = function.devices.get_mut(port).and_then(Option::take);
            function.clear(port, port::CONNECTION);
            function.clear(port, port::ENABLE);
            (device, hub.waker())
        };
        if let Some((device, _)) = device {
            device.detach();
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Hub {
    /// Sets a bit of a port's status, and notes the change.
    fn set(&mut self, port: usize, bit: u16) {
        let (Some(status), Some(change)) = (self.state.status.get_mut(port), self.state.change.get_mut(port)) else {
            return;
        };
        if *status & bit == 0 {
            *status |= bit;
            *change |= bit & 0x1f;
        }
    }

    /// Clears a bit of a port's status, and notes the change.
    fn clear(&mut self, port: usize, bit: u16) {
        let (Some(status), Some(change)) = (self.state.status.get_mut(port), self.state.change.get_mut(port)) else {
            return;
        };
        if *status & bit != 0 {
            *status &= !bit;
            *change |= bit & 0x1f;
        }
    }

    /// Shows what is on a port that has power.
    fn connect(&mut self, port: usize) {
        let Some((_, speed)) = self.devices.get(port).and_then(Option::as_ref) else { return };
        let is_low = *speed == Speed::Low;
        if self.state.status[port] & port::POWER != 0 {
            self.set(port, port::CONNECTION);
            self.state.status[port] &= !port::LOW_SPEED;
            self.state.status[port] |= if is_low { port::LOW_SPEED } else { 0 };
        }
    }

    fn descriptor(&self) -> Vec<u8> {
        let characteristics = if self.switches_power { 0x09 } else { 0x0a };
        let ports = self.ports as u8;
        let mut bytes = vec![0, kind::HUB, ports, characteristics, 0, 1, 0];
        // No device is fixed; power masks are all ones.
        bytes.resize(7 + (self.ports + 1).div_ceil(8), 0);
        bytes.resize(bytes.len() + self.ports.div_ceil(8), 0xff);
        bytes[0] = bytes.len() as u8;
        bytes
    }

    fn port_of(&self, setup: Setup) -> Result<usize, Stalled> {
        let port = usize::from(setup.index & 0xff).checked_sub(1).filter(|port| *port < self.ports);
        port.ok_or(Stalled)
    }

    fn set_feature(&mut self, port: usize, feature: u16) -> Result<(), Stalled> {
        match feature {
            feature::SUSPEND => self.state.status[port] |= port::SUSPEND,
            feature::RESET => {
                self.set(port, port::RESET);
                self.clear(port, port::RESET);
                if let Some((device, _)) = &self.devices[port] {
                    device.reset();
                    self.set(port, port::ENABLE);
                }
            }
            feature::POWER => {
                if self.switches_power {
                    self.set(port, port::POWER);
                    self.connect(port);
                }
            }
            _ => return Err(Stalled),
        }
        Ok(())
    }

    fn clear_feature(&mut self, port: usize, feature: u16) -> Result<(), Stalled> {
        match feature {
            feature::ENABLE => self.state.status[port] &= !port::ENABLE,
            feature::SUSPEND => self.clear(port, port::SUSPEND),
            feature::C_CONNECTION..=feature::C_RESET => {
                self.state.change[port] &= !(1 << (feature - feature::C_CONNECTION));
            }
            feature::POWER => {
                if self.switches_power {
                    self.state.status[port] &=
                        !(port::POWER | port::CONNECTION | port::ENABLE | port::SUSPEND | port::OVER_CURRENT);
                    self.state.change[port] = 0;
                }
            }
            _ => return Err(Stalled),
        }
        Ok(())
    }
}

impl Function for Hub {
    type State = HubState;

    fn state(&self) -> &HubState {
        &self.state
    }

    fn state_mut(&mut self) -> &mut HubState {
        &mut self.state
    }

    fn descriptors(&self) -> &Descriptors {
        &DESCRIPTORS
    }

    fn reset(&mut self) {
        self.state = HubState::default();
        for port in 0..self.ports {
            self.state.status[port] = if self.switches_power { 0 } else { port::POWER };
            self.connect(port);
        }
    }

    fn control(&mut self, setup: Setup, data: &mut Vec<u8>) -> Result<(), Stalled> {
        match setup.code() {
            request::GET_HUB_DESCRIPTOR => *data = self.descriptor(),
            request::GET_HUB_STATUS => data.extend([0; 4]),
            request::GET_PORT_STATUS => {
                let port = self.port_of(setup)?;
                data.extend(self.state.status[port].to_le_bytes());
                data.extend(self.state.change[port].to_le_bytes());
            }
            request::SET_HUB_FEATURE | request::CLEAR_HUB_FEATURE if setup.value < 2 => {}
            request::SET_PORT_FEATURE => return self.set_feature(self.port_of(setup)?, setup.value),
            request::CLEAR_PORT_FEATURE => return self.clear_feature(self.port_of(setup)?, setup.value),
            _ => return Err(Stalled),
        }
        Ok(())
    }

    fn transfer(&mut self, token: Token, _pipe: Pipe, data: &mut dyn Data) -> Outcome {
        if token != Token::In {
            return Outcome::Stall;
        }
        let changed = (1..).zip(self.state.change).filter(|(_, change)| *change != 0);
        let bits = changed.fold(0_u16, |bits, (at, _)| bits | 1 << at);
        if bits == 0 {
            return Outcome::Nak;
        }
        let len = (self.ports + 1).div_ceil(8).min(data.remaining());
        data.put(&bits.to_le_bytes()[..len]);
        Outcome::Done(len)
    }

    fn child(&self, port: usize) -> Option<Link> {
        let port = port.checked_sub(1).filter(|port| *port < self.ports)?;
        let (device, _) = self.devices[port].as_ref()?;
        (self.state.status[port] & port::ENABLE != 0).then(|| device.clone())
    }

    fn find_below(&self, address: u8) -> Option<Link> {
        (1..=self.ports).filter_map(|port| self.child(port)).find_map(|device| find(&device, address))
    }
}

#[cfg(test)]
mod tests {
    use clock::Clock;

    use super::*;
    use crate::hid::{self, HidKind};
    use crate::testing::{Wakes, configure, control, poll};

    #[test]
    fn port_shows_its_device_and_is_enabled_by_a_reset() {
        let hub = HubCell::new(4, false, Labels::default());
        let (link, wakes): (Link, Arc<Wakes>) = (Arc::new(hub.cell.clone()), Arc::default());
        wakes.connect(&link);
        configure(&link);
        let status = |port: u8| control(&link, [0xa3, 0, 0, 0, port, 0, 4, 0], &[]).expect("a status");
        let feature = |request: u8, feature: u8, port: u8| {
            control(&link, [0x23, request, feature, 0, port, 0, 0, 0], &[]).expect("a feature");
        };
        assert_eq!(status(3), [0, 1, 0, 0]);
        assert_eq!(poll(&link, 1, 2), Err(Outcome::Nak));
        let device: Link = Arc::new(hid::new(HidKind::Mouse, 2, Labels::default(), &Clock::manual(), &Arc::default()));
        hub.plug(2, Arc::clone(&device));
        assert_eq!(wakes.count(), 1);
        assert_eq!(device.speed(), Speed::Full);
        assert_eq!((poll(&link, 1, 2), status(3)), (Ok(vec![1 << 3]), vec![1, 1, 1, 0]));
        assert!(link.child(3).is_none(), "not enabled");
        feature(3, 4, 3);
        feature(1, 16, 3);
        assert_eq!(status(3), [3, 1, 18, 0]);
        assert!(link.child(3).is_some() && link.find_below(0).is_some() && link.find_below(1).is_none());
        hub.unplug(2);
        assert_eq!(status(3), [0, 1, 19, 0]);
        assert_eq!(control(&link, [0xa3, 0, 0, 0, 5, 0, 4, 0], &[]), Err(Outcome::Stall));
        let descriptor = control(&link, [0xa0, 6, 0, 0x29, 0, 0, 64, 0], &[]);
        assert_eq!(descriptor, Ok(vec![9, 0x29, 4, 0x0a, 0, 1, 0, 0, 0xff]));
    }
}
