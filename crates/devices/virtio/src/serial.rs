//! virtio console devices (virtio 1.2, 5.3): serial ports with names between the guest and character devices.
//!
//! | queues | what |
//! | --- | --- |
//! | 0, 1 | port 0: to the guest, from the guest |
//! | 2, 3 | control messages: to the guest, from the guest |
//! | 2n+2, 2n+3 | port n |
//!
//! A port is open when both sides have opened it. What the host side does not take now stays in the guest's memory
//! until it does (consoles lose it instead, as in QEMU: their driver would stop the guest's kernel). Control messages for
//! which the driver offers no memory are lost. Left out: sizes of consoles.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use state::State;

use crate::device::{Access, Common, DeviceType, Model, RequestToken};
use crate::queue::{MAX_SIZE, Request};

/// Feature bits (5.3.3).
pub mod feature {
    #![expect(missing_docs, reason = "named as in the specification")]
    pub const MULTIPORT: u64 = 1 << 1;
    pub const EMERG_WRITE: u64 = 1 << 2;
}

/// Control messages (5.3.6.2).
mod message {
    pub const DEVICE_READY: u16 = 0;
    pub const PORT_ADD: u16 = 1;
    pub const PORT_REMOVE: u16 = 2;
    pub const PORT_READY: u16 = 3;
    pub const CONSOLE_PORT: u16 = 4;
    pub const PORT_OPEN: u16 = 6;
    pub const PORT_NAME: u16 = 7;
    pub const LEN: usize = 8;
}

/// Most ports of a device: each has two queues, and so have control messages.
pub const MAX_PORTS: u32 = MAX_SIZE as u32 / 2 - 1;
const MAX: usize = MAX_PORTS as usize;
const PORT_QUEUE: u16 = 128;
const CONTROL_QUEUE: u16 = 32;
const CONTROL_IN: usize = 2;
const CONTROL_OUT: usize = 3;

/// The user's choices, named as QEMU's properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialOptions {
    /// `max_ports`.
    pub max_ports: u32,
    /// `emergency-write`.
    pub emergency_write: bool,
}

impl Default for SerialOptions {
    fn default() -> Self {
        Self { max_ports: 31, emergency_write: true }
    }
}

/// Choices that do not fit. The texts are QEMU's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SerialError {
    /// No ports.
    #[error("Maximum number of serial ports not specified")]
    NoPorts,
    /// Too many ports.
    #[error("maximum ports supported: {MAX_PORTS}")]
    Ports,
    /// The number is taken.
    #[error("virtio-serial-bus: A port already exists at id {0}")]
    Taken(u32),
    /// The name is taken.
    #[error("virtio-serial-bus: A port already exists by name {0}")]
    Name(String),
    /// No number is free.
    #[error("virtio-serial-bus: Maximum port limit for this device reached")]
    Full,
    /// The number is too large.
    #[error("virtio-serial-bus: Out-of-range port id specified, max. allowed: {0}")]
    Range(u32),
    /// Port 0 is for consoles.
    #[error("Port number 0 on virtio-serial devices reserved for virtconsole devices for backward compatibility.")]
    Reserved,
}

impl SerialOptions {
    /// Checks the choices.
    ///
    /// # Errors
    /// [`SerialError`].
    pub fn check(&self) -> Result<(), SerialError> {
        match self.max_ports {
            0 => Err(SerialError::NoPorts),
            1..=MAX_PORTS => Ok(()),
            _ => Err(SerialError::Ports),
        }
    }
}

/// The host side of a port. Called with the device locked: nothing here waits or calls the device.
pub trait PortBackend: Send {
    /// The guest writes: how many bytes were taken. After fewer than all, [`Serial::writable`] is called later.
    fn write(&mut self, bytes: &[u8]) -> usize;

    /// The guest may have room for input that was refused.
    fn resume_input(&mut self);

    /// The guest has opened or closed the port.
    fn guest_opened(&mut self, is_open: bool);
}

/// A port that is to be added.
pub struct PortConfig {
    /// `nr`, unless the first that is free.
    pub number: Option<u32>,
    /// `name`.
    pub name: Option<String>,
    /// A `virtconsole`.
    pub is_console: bool,
    /// The host side is open.
    pub is_open: bool,
    /// The host side; without one, everything is taken.
    pub backend: Option<Box<dyn PortBackend>>,
}

/// A port.
struct Port {
    number: u32,
    name: Option<String>,
    is_console: bool,
    backend: Option<Box<dyn PortBackend>>,
    /// The host side is open.
    host_open: bool,
    /// The host side takes nothing now.
    throttled: bool,
    /// A chain that was taken in part, see [`SerialState::sent`].
    pending: Option<(RequestToken, Request)>,
}

impl Port {
    fn input_queue(&self) -> usize {
        if self.number == 0 { 0 } else { 2 * self.number as usize + 2 }
    }

    fn output_queue(&self) -> usize {
        self.input_queue() + 1
    }
}

/// The guest-visible state beside queues and features.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "virtio-console", version = 1)]
pub struct SerialState {
    /// The guest has opened the port of this number.
    guest_open: [bool; MAX],
    /// Bytes that were taken of the port's oldest chain.
    sent: [u32; MAX],
}

impl Default for SerialState {
    fn default() -> Self {
        Self { guest_open: [false; MAX], sent: [0; MAX] }
    }
}

impl SerialState {
    fn is_open(&self, number: u32) -> bool {
        self.guest_open.get(number as usize).copied().unwrap_or(false)
    }

    fn sent(&mut self, number: u32) -> Option<&mut u32> {
        self.sent.get_mut(number as usize)
    }
}

/// A console device.
pub struct Serial {
    // Fixed configuration.
    options: SerialOptions,
    // Host resources.
    ports: Vec<Port>,
    // Guest-visible state.
    state: Box<SerialState>,
}

impl Serial {
    /// A device without ports. The options were checked.
    pub fn new(options: SerialOptions) -> Self {
        Self { options, ports: Vec::new(), state: Box::default() }
    }

    /// Adds a port, and tells its number. `names` are those of other devices' ports.
    ///
    /// # Errors
    /// [`SerialError`].
    pub fn add_port(&mut self, config: PortConfig, names: &[String]) -> Result<u32, SerialError> {
        let has = |number: u32| self.ports.iter().any(|port| port.number == number);
        let number = match config.number {
            Some(number) if has(number) => return Err(SerialError::Taken(number)),
            Some(number) => number,
            None if config.is_console && !has(0) => 0,
            // Place 0 waits for a console.
            None => (1..self.options.max_ports).find(|number| !has(*number)).ok_or(SerialError::Full)?,
        };
        if let Some(name) = &config.name
            && (names.contains(name) || self.ports.iter().any(|port| port.name.as_ref() == Some(name)))
        {
            return Err(SerialError::Name(name.clone()));
        }
        if number >= self.options.max_ports {
            return Err(SerialError::Range(self.options.max_ports - 1));
        }
        if number == 0 && !config.is_console {
            return Err(SerialError::Reserved);
        }
        let PortConfig { name, is_console, is_open, backend, .. } = config;
        // Nothing blocks the guest's output to a console, connected or not.
        let host_open = backend.is_some() && (is_open || is_console);
        self.ports.push(Port { number, name, is_console, backend, host_open, throttled: false, pending: None });
        Ok(number)
    }

    /// Tells the driver of a port that came while the machine runs.
    pub fn plugged(access: &dyn Access<Self>, number: u32) {
        Self::port(access, number, &mut |serial, common, _| serial.tell(common, number, message::PORT_ADD, 1));
    }

    /// Takes a port away, and tells the driver.
    pub fn unplug(access: &dyn Access<Self>, number: u32) {
        // The back end is let go without the device's lock: it may be about to call the port.
        let mut gone = None;
        Self::port(access, number, &mut |serial, common, index| {
            let mut port = serial.ports.remove(index);
            if let Some((token, _)) = port.pending.take() {
                common.complete(token, 0);
            }
            if let Some(open) = serial.state.guest_open.get_mut(number as usize) {
                *open = false;
            }
            if let Some(sent) = serial.state.sent(number) {
                *sent = 0;
            }
            serial.tell(common, number, message::PORT_REMOVE, 1);
            gone = Some(port);
        });
        drop(gone);
    }

    /// The names of the ports.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.ports.iter().filter_map(|port| port.name.as_ref())
    }

    // ---- The host side ----

    fn port(access: &dyn Access<Self>, number: u32, visit: &mut dyn FnMut(&mut Self, &mut Common, usize)) {
        access.access(&mut |serial, common| {
            if let Some(index) = serial.ports.iter().position(|port| port.number == number) {
                visit(serial, common, index);
            }
        });
    }

    /// Input for the guest: how many bytes it took. For the rest the backend is called when there may be room.
    pub fn receive(access: &dyn Access<Self>, number: u32, bytes: &[u8]) -> usize {
        let mut taken = 0;
        Self::port(access, number, &mut |serial, common, index| {
            let port = &serial.ports[index];
            if !port.host_open || !serial.state.is_open(number) {
                return;
            }
            while taken < bytes.len() {
                let Some((token, request)) = common.pop(port.input_queue()) else { break };
                let len = request.writable.len().min(bytes.len() - taken);
                request.writable.write_at(0, &bytes[taken..taken + len]);
                taken += len;
                common.complete(token, len as u32);
            }
            common.enable_notifications(port.input_queue());
        });
        taken
    }

    /// The host side takes output again.
    pub fn writable(access: &dyn Access<Self>, number: u32) {
        Self::port(access, number, &mut |serial, common, index| {
            serial.ports[index].throttled = false;
            serial.flush(common, index);
        });
    }

    /// The host side was opened or closed. Consoles don't care.
    pub fn host_opened(access: &dyn Access<Self>, number: u32, is_open: bool) {
        Self::port(access, number, &mut |serial, common, index| {
            let port = &mut serial.ports[index];
            if port.is_console || port.host_open == is_open {
                return;
            }
            port.host_open = is_open;
            port.throttled = false;
            if !is_open {
                serial.flush(common, index);
            }
            serial.tell(common, number, message::PORT_OPEN, u16::from(is_open));
        });
    }

    // ---- Output ----

    /// Gives the guest's output to the host side, or drops it when that is closed.
    fn flush(&mut self, common: &mut Common, index: usize) {
        let Some(port) = self.ports.get_mut(index) else { return };
        let queue = port.output_queue();
        let mut left = 8 * usize::from(PORT_QUEUE);
        while !port.throttled && left > 0 {
            left -= 1;
            let Some((token, request)) = port.pending.take().or_else(|| common.pop(queue)) else {
                if common.enable_notifications(queue) { continue } else { return }
            };
            let sent = self.state.sent(port.number).map_or(0, std::mem::take) as usize;
            match send(port, &request, sent) {
                None => common.complete(token, 0),
                Some(sent) => {
                    if let Some(place) = self.state.sent(port.number) {
                        *place = sent as u32;
                    }
                    port.throttled = true;
                    port.pending = Some((token, request));
                }
            }
        }
    }

    // ---- Control messages ----

    fn tell(&self, common: &mut Common, number: u32, event: u16, value: u16) {
        self.tell_more(common, (number, event, value), &[]);
    }

    fn tell_more(&self, common: &mut Common, (number, event, value): (u32, u16, u16), more: &[u8]) {
        let Some((token, request)) = common.pop(CONTROL_IN) else { return };
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.extend(event.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        bytes.extend(more);
        bytes.truncate(request.writable.len());
        request.writable.write_at(0, &bytes);
        common.complete(token, bytes.len() as u32);
    }

    fn control(&mut self, common: &mut Common, request: &Request) {
        let mut bytes = [0; message::LEN];
        if request.readable.len() < bytes.len() {
            return;
        }
        request.readable.io().read_at(0, &mut bytes);
        let [a, b, c, d, e, f, g, h] = bytes;
        let number = u32::from_le_bytes([a, b, c, d]);
        let (event, value) = (u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
        if event == message::DEVICE_READY {
            if value != 0 {
                for port in &self.ports {
                    self.tell(common, port.number, message::PORT_ADD, 1);
                }
            }
            return;
        }
        let Some(index) = self.ports.iter().position(|port| port.number == number) else { return };
        match event {
            message::PORT_READY if value != 0 => {
                let port = &self.ports[index];
                if port.is_console {
                    self.tell(common, number, message::CONSOLE_PORT, 1);
                }
                if let Some(name) = &port.name {
                    let text = [name.as_bytes(), &[0]].concat();
                    self.tell_more(common, (number, message::PORT_NAME, 1), &text);
                }
                if port.host_open {
                    self.tell(common, number, message::PORT_OPEN, 1);
                }
            }
            message::PORT_OPEN => self.guest_opened(index, value != 0),
            _ => {}
        }
    }

    fn guest_opened(&mut self, index: usize, is_open: bool) {
        let Some(port) = self.ports.get_mut(index) else { return };
        if let Some(place) = self.state.guest_open.get_mut(port.number as usize) {
            *place = is_open;
        }
        if let Some(backend) = &mut port.backend {
            backend.guest_opened(is_open);
            if is_open {
                backend.resume_input();
            }
        }
    }

    /// The driver is gone.
    fn forget(&mut self) {
        for index in 0..self.ports.len() {
            let number = self.ports[index].number;
            self.ports[index].pending = None;
            if self.state.is_open(number) {
                self.guest_opened(index, false);
            }
        }
        *self.state = SerialState::default();
    }
}

/// Writes a chain from byte `sent` on: `Some` is how far it came when the host side takes no more.
fn send(port: &mut Port, request: &Request, mut sent: usize) -> Option<usize> {
    const PIECE: usize = 4096;
    let len = request.readable.len();
    let backend = port.backend.as_mut().filter(|_| port.host_open)?;
    let mut piece = [0; PIECE];
    while sent < len {
        let here = (len - sent).min(PIECE);
        request.readable.io().read_at(sent, &mut piece[..here]);
        let taken = backend.write(&piece[..here]).min(here);
        sent += taken;
        if taken < here {
            return (!port.is_console).then_some(sent);
        }
    }
    None
}

impl Model for Serial {
    type State = SerialState;

    fn device_type(&self) -> DeviceType {
        DeviceType { id: 3, transitional_pci_id: 0x1003, pci_class: 0x0780 }
    }

    fn features(&self) -> u64 {
        let emergency = if self.options.emergency_write { feature::EMERG_WRITE } else { 0 };
        emergency | if self.options.max_ports > 1 { feature::MULTIPORT } else { 0 }
    }

    fn queues(&self) -> Vec<u16> {
        let mut sizes = vec![PORT_QUEUE, PORT_QUEUE, CONTROL_QUEUE, CONTROL_QUEUE];
        let ports = self.options.max_ports.clamp(1, MAX_PORTS) as usize;
        sizes.resize(sizes.len() + 2 * (ports - 1), PORT_QUEUE);
        sizes
    }

    fn config(&self) -> Vec<u8> {
        let mut config = vec![0; 4];
        config.extend(self.options.max_ports.to_le_bytes());
        config.extend(if self.options.emergency_write { &[0; 4][..] } else { &[] });
        config
    }

    /// An emergency write: one byte for the first console.
    fn write_config(&mut self, _common: &mut Common, offset: usize, bytes: &[u8]) {
        const EMERGENCY_AT: usize = 8;
        let Some(at) = EMERGENCY_AT.checked_sub(offset) else { return };
        let (true, Some(byte)) = (self.options.emergency_write, bytes.get(at)) else { return };
        let console = self.ports.iter_mut().find(|port| port.is_console && port.host_open);
        if let Some(backend) = console.and_then(|port| port.backend.as_mut())
            && *byte != 0
        {
            backend.write(&[*byte]);
        }
    }

    /// A driver that knows one port can't say that it opens it.
    fn started(&mut self, common: &mut Common) {
        if !common.has(feature::MULTIPORT)
            && let Some(index) = self.ports.iter().position(|port| port.number == 0)
            && let Some(open) = self.state.guest_open.first_mut()
        {
            *open = true;
            if let Some(backend) = &mut self.ports[index].backend {
                backend.resume_input();
            }
        }
    }

    fn notified(&mut self, common: &mut Common, queue: usize) {
        match queue {
            CONTROL_IN => {}
            CONTROL_OUT => common.serve(queue, 8 * usize::from(CONTROL_QUEUE), |common, token, request| {
                self.control(common, &request);
                common.complete(token, 0);
            }),
            _ => {
                if let Some(index) = self.ports.iter().position(|port| port.output_queue() == queue) {
                    self.flush(common, index);
                } else if let Some(port) = self.ports.iter_mut().find(|port| port.input_queue() == queue) {
                    if let Some(backend) = port.backend.as_mut().filter(|_| port.host_open) {
                        backend.resume_input();
                    }
                } else if queue % 2 == 1 {
                    // Output to a port that does not exist.
                    for _ in 0..PORT_QUEUE {
                        let Some((token, _)) = common.pop(queue) else { break };
                        common.complete(token, 0);
                    }
                }
            }
        }
    }

    fn reset(&mut self, common: &mut Common) {
        // The memory of a chain that was taken in part is not used any more.
        for port in &mut self.ports {
            if let Some((token, _)) = port.pending.take() {
                common.complete(token, 0);
            }
        }
        self.forget();
    }

    fn restored(&mut self, common: &mut Common) {
        for port in &mut self.ports {
            port.pending = None;
            port.throttled = false;
        }
        for (token, request) in common.take_again() {
            match self.ports.iter().position(|port| port.output_queue() == token.queue()) {
                Some(index) if self.ports[index].pending.is_none() => {
                    self.ports[index].pending = Some((token, request));
                }
                _ => common.complete(token, 0),
            }
        }
        for index in 0..self.ports.len() {
            self.flush(common, index);
        }
    }

    fn state(&self) -> &SerialState {
        &self.state
    }

    fn state_mut(&mut self) -> &mut SerialState {
        &mut self.state
    }
}

/// What a port's character device calls.
pub struct PortAccess {
    access: Arc<dyn Access<Serial>>,
    number: u32,
}

impl PortAccess {
    /// The way to a port.
    pub fn new(access: &Arc<dyn Access<Serial>>, number: u32) -> Arc<Self> {
        Arc::new(Self { access: Arc::clone(access), number })
    }

    /// See [`Serial::receive`].
    pub fn receive(&self, bytes: &[u8]) -> usize {
        Serial::receive(&*self.access, self.number, bytes)
    }

    /// See [`Serial::writable`].
    pub fn writable(&self) {
        Serial::writable(&*self.access, self.number);
    }

    /// See [`Serial::host_opened`].
    pub fn host_opened(&self, is_open: bool) {
        Serial::host_opened(&*self.access, self.number, is_open);
    }
}
