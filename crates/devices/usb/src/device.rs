//! What all devices have in common (USB 2.0, chapter 9): the control pipe, standard requests, halted endpoints, remote
//! wake-up. The rest is the [`Function`]'s.

use device::{Device, DeviceCell, DeviceState, ResetKind};
use state::{Description, Field, LoadError, LoadErrorKind, Reader, SavedState, State, Writer};

use crate::bus::{Link, Outcome, Peripheral, Pipe, Speed, Speeds, Token, Upstream};
use crate::data::Data;
use crate::descriptor::{self, Descriptors, attribute, kind, microsoft};

/// The most bytes of a control transfer's data.
pub const CONTROL_MAX: usize = 4096;

/// The eight bytes that begin a control transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Direction, type and recipient.
    pub request_type: u8,
    /// The request.
    pub request: u8,
    /// Its value.
    pub value: u16,
    /// Its index.
    pub index: u16,
    /// Bytes of data.
    pub length: u16,
}

impl Setup {
    /// From the packet.
    pub fn parse(bytes: [u8; 8]) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self { request_type: bytes[0], request: bytes[1], value: word(2), index: word(4), length: word(6) }
    }

    /// Data go to the host.
    pub fn is_in(self) -> bool {
        self.request_type & 0x80 != 0
    }

    /// Type and request as one number, as the class specifications list them.
    pub fn code(self) -> u16 {
        u16::from_be_bytes([self.request_type, self.request])
    }
}

/// Standard requests: request type and request.
mod request {
    pub const GET_DEVICE_STATUS: u16 = 0x8000;
    pub const CLEAR_DEVICE_FEATURE: u16 = 0x0001;
    pub const SET_DEVICE_FEATURE: u16 = 0x0003;
    pub const SET_ADDRESS: u16 = 0x0005;
    pub const GET_DESCRIPTOR: u16 = 0x8006;
    pub const GET_CONFIGURATION: u16 = 0x8008;
    pub const SET_CONFIGURATION: u16 = 0x0009;
    pub const SET_SEL: u16 = 0x0030;
    pub const SET_ISOCHRONOUS_DELAY: u16 = 0x0031;
    pub const GET_INTERFACE_STATUS: u16 = 0x8100;
    pub const GET_INTERFACE: u16 = 0x810a;
    pub const SET_INTERFACE: u16 = 0x010b;
    pub const GET_ENDPOINT_STATUS: u16 = 0x8200;
    pub const CLEAR_ENDPOINT_FEATURE: u16 = 0x0201;
    pub const SET_ENDPOINT_FEATURE: u16 = 0x0203;
}

const FEATURE_HALT: u16 = 0;
const FEATURE_REMOTE_WAKEUP: u16 = 1;

/// A request that the device does not know or can't do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stalled;

/// What a device is beside what all devices are.
pub trait Function: Send + 'static {
    /// Its guest-visible state.
    type State: SavedState + Clone;

    /// The state.
    fn state(&self) -> &Self::State;

    /// The state, to be replaced.
    fn state_mut(&mut self) -> &mut Self::State;

    /// Its descriptors.
    fn descriptors(&self) -> &Descriptors;

    /// Everything as after power-on.
    fn reset(&mut self);

    /// A request that is no standard one. `data` has the bytes that came, or is to be filled.
    ///
    /// # Errors
    /// The device does not know the request.
    fn control(&mut self, setup: Setup, data: &mut Vec<u8>) -> Result<(), Stalled>;

    /// A transaction of an endpoint but number 0, which the configuration has.
    fn transfer(&mut self, token: Token, pipe: Pipe, data: &mut dyn Data) -> Outcome;

    /// The device is connected at that speed.
    fn connected(&mut self, speed: Speed) {
        let _ = speed;
    }

    /// The driver has taken the halt off an endpoint (bit 7 of `address` is its direction).
    fn halt_cleared(&mut self, address: u8) {
        let _ = address;
    }

    /// The state was replaced.
    fn restored(&mut self) {}

    /// See [`Peripheral::child`].
    fn child(&self, port: usize) -> Option<Link> {
        let _ = port;
        None
    }

    /// See [`Peripheral::find_below`].
    fn find_below(&self, address: u8) -> Option<Link> {
        let _ = address;
        None
    }
}

/// Where a control transfer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[repr(u8)]
enum Stage {
    /// None is under way.
    #[default]
    Idle = 0,
    /// Data to the host.
    DataIn = 1,
    /// Data to the device.
    DataOut = 2,
    /// The device is to acknowledge, and to do what was asked.
    Status = 3,
    /// It failed.
    Stalled = 4,
}

/// The guest-visible state that all devices have.
#[derive(Clone, Debug, Default, State)]
#[state(name = "usb-device", version = 1)]
struct CoreState {
    address: u8,
    configuration: u8,
    remote_wakeup: bool,
    /// Halted endpoints: bit by number, those to the host from bit 16.
    halted: u32,
    stage: Stage,
    setup: [u8; 8],
    /// Bytes of the data stage that are done.
    at: u32,
    #[state(max_len = 4096)]
    data: Vec<u8>,
}

struct Parts<F> {
    core: CoreState,
    function: F,
}

/// What the user says of a device beside what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// The serial number in place of that of its descriptors.
    pub serial: Option<String>,
    /// `msos-desc=off`: it has none of Microsoft's descriptors.
    pub without_microsoft: bool,
}

/// A device.
pub struct UsbDevice<F> {
    // Fixed configuration.
    labels: Labels,
    // Wiring.
    upstream: Option<Upstream>,
    speed: Speed,
    // Guest-visible state.
    parts: Parts<F>,
}

/// A way to tell a controller of news, without the device's lock.
pub struct Waker {
    upstream: Upstream,
    is_remote: bool,
}

impl Waker {
    /// Tells.
    pub fn wake(self) {
        self.upstream.wake(self.is_remote);
    }
}

impl<F: Function> UsbDevice<F> {
    /// A device that is not connected.
    pub fn new(function: F, labels: Labels) -> Self {
        let parts = Parts { core: CoreState::default(), function };
        Self { labels, upstream: None, speed: Speed::Full, parts }
    }

    /// The function.
    pub fn function(&self) -> &F {
        &self.parts.function
    }

    /// The function.
    pub fn function_mut(&mut self) -> &mut F {
        &mut self.parts.function
    }

    /// How the controller can be told of news, once the device's lock is free.
    pub fn waker(&self) -> Option<Waker> {
        let upstream = self.upstream.clone()?;
        Some(Waker { upstream, is_remote: self.parts.core.remote_wakeup })
    }

    fn reset_all(&mut self) {
        self.parts.core = CoreState::default();
        self.parts.function.reset();
    }

    fn has_endpoint(&self, address: u8) -> bool {
        let Some(device) = self.parts.function.descriptors().at(self.speed) else { return false };
        let mut endpoints = device.configuration.interfaces.iter().flat_map(|interface| interface.endpoints);
        self.parts.core.configuration != 0 && endpoints.any(|endpoint| endpoint.address == address)
    }

    fn transfer(&mut self, token: Token, pipe: Pipe, data: &mut dyn Data) -> Outcome {
        let endpoint = pipe.endpoint & 0xf;
        if endpoint == 0 {
            return self.control(token, data);
        }
        let address = if token == Token::In { 0x80 | endpoint } else { endpoint };
        if !self.has_endpoint(address) || self.parts.core.halted & halt_bit(address) != 0 {
            return Outcome::Stall;
        }
        let outcome = self.parts.function.transfer(token, Pipe { endpoint, ..pipe }, data);
        if outcome == Outcome::Stall {
            self.parts.core.halted |= halt_bit(address);
        }
        outcome
    }

    // ---- The control pipe ----

    fn control(&mut self, token: Token, data: &mut dyn Data) -> Outcome {
        match token {
            Token::Setup => self.setup(data),
            Token::In => self.control_in(data),
            Token::Out => self.control_out(data),
        }
    }

    fn setup(&mut self, data: &mut dyn Data) -> Outcome {
        if data.remaining() != 8 {
            return Outcome::Stall;
        }
        data.take(&mut self.parts.core.setup);
        let setup = Setup::parse(self.parts.core.setup);
        self.parts.core.at = 0;
        self.parts.core.data.clear();
        self.parts.core.stage = match (setup.is_in(), setup.length) {
            (true, _) => {
                let mut answer = Vec::new();
                match self.request(setup, &mut answer) {
                    Ok(()) => {
                        answer.truncate(usize::from(setup.length).min(CONTROL_MAX));
                        self.parts.core.data = answer;
                        if setup.length == 0 { Stage::Status } else { Stage::DataIn }
                    }
                    Err(Stalled) => Stage::Stalled,
                }
            }
            (false, 0) => Stage::Status,
            (false, length) if usize::from(length) <= CONTROL_MAX => Stage::DataOut,
            (false, _) => Stage::Stalled,
        };
        // A request that is unknown is refused in the next stage, never in this one.
        Outcome::Done(8)
    }

    fn control_in(&mut self, data: &mut dyn Data) -> Outcome {
        let core = &mut self.parts.core;
        match core.stage {
            Stage::DataIn => {
                let rest = core.data.get(core.at as usize..).unwrap_or_default();
                let len = rest.len().min(data.remaining());
                data.put(&rest[..len]);
                core.at = core.at.saturating_add(len as u32);
                Outcome::Done(len)
            }
            Stage::Status => {
                let setup = Setup::parse(core.setup);
                let mut bytes = std::mem::take(&mut core.data);
                core.stage = Stage::Idle;
                if setup.is_in() {
                    return Outcome::Done(0);
                }
                match self.request(setup, &mut bytes) {
                    Ok(()) => Outcome::Done(0),
                    Err(Stalled) => Outcome::Stall,
                }
            }
            Stage::Idle | Stage::DataOut | Stage::Stalled => Outcome::Stall,
        }
    }

    fn control_out(&mut self, data: &mut dyn Data) -> Outcome {
        let core = &mut self.parts.core;
        match core.stage {
            Stage::DataOut => {
                let length = usize::from(Setup::parse(core.setup).length);
                let len = data.remaining().min(length.saturating_sub(core.data.len()));
                let at = core.data.len();
                core.data.resize(at + len, 0);
                data.take(&mut core.data[at..]);
                if core.data.len() >= length {
                    core.stage = Stage::Status;
                }
                Outcome::Done(len)
            }
            // The host acknowledges; it may do so before it has all the data.
            Stage::DataIn => {
                core.stage = Stage::Idle;
                core.data.clear();
                Outcome::Done(0)
            }
            Stage::Idle | Stage::Status | Stage::Stalled => Outcome::Stall,
        }
    }

    // ---- Requests ----

    fn request(&mut self, setup: Setup, data: &mut Vec<u8>) -> Result<(), Stalled> {
        let has_interface = self.has_interface(setup.index);
        let is_super = self.speed == Speed::Super;
        let has_microsoft = self.has_microsoft();
        let Parts { core, function } = &mut self.parts;
        match setup.code() {
            request::SET_ADDRESS => core.address = setup.value as u8 & 0x7f,
            request::GET_DESCRIPTOR => {
                *data = self.descriptor(setup).ok_or(Stalled)?;
            }
            request::GET_CONFIGURATION => data.push(core.configuration),
            request::SET_CONFIGURATION => {
                if setup.value > 1 {
                    return Err(Stalled);
                }
                core.configuration = setup.value as u8;
                core.halted = 0;
            }
            request::GET_DEVICE_STATUS => {
                let device = function.descriptors().at(self.speed);
                let attributes = device.map_or(0, |device| device.configuration.attributes);
                let is_powered = attributes & attribute::SELF_POWERED != 0;
                data.extend([u8::from(is_powered) | u8::from(core.remote_wakeup) << 1, 0]);
            }
            request::CLEAR_DEVICE_FEATURE if setup.value == FEATURE_REMOTE_WAKEUP => core.remote_wakeup = false,
            request::SET_DEVICE_FEATURE if setup.value == FEATURE_REMOTE_WAKEUP => core.remote_wakeup = true,
            request::SET_SEL | request::SET_ISOCHRONOUS_DELAY if is_super => {}
            request::GET_INTERFACE_STATUS if has_interface => data.extend([0, 0]),
            request::GET_INTERFACE if has_interface => data.push(0),
            request::SET_INTERFACE if has_interface && setup.value == 0 => core.halted = 0,
            request::GET_ENDPOINT_STATUS | request::CLEAR_ENDPOINT_FEATURE | request::SET_ENDPOINT_FEATURE => {
                return self.endpoint_request(setup, data);
            }
            code if has_microsoft && matches!(code >> 8, 0xc0 | 0xc1) && code as u8 == microsoft::REQUEST => {
                *data = microsoft::feature(setup.index);
            }
            _ => return function.control(setup, data),
        }
        Ok(())
    }

    fn has_microsoft(&self) -> bool {
        self.parts.function.descriptors().selective_suspend && !self.labels.without_microsoft
    }

    fn endpoint_request(&mut self, setup: Setup, data: &mut Vec<u8>) -> Result<(), Stalled> {
        let address = setup.index as u8;
        let is_control = address & 0x7f == 0;
        if !is_control && !self.has_endpoint(address) {
            return Err(Stalled);
        }
        let Parts { core, function } = &mut self.parts;
        match setup.code() {
            request::GET_ENDPOINT_STATUS => data.extend([u8::from(core.halted & halt_bit(address) != 0), 0]),
            _ if setup.value != FEATURE_HALT => return Err(Stalled),
            _ if is_control => {}
            request::CLEAR_ENDPOINT_FEATURE => {
                core.halted &= !halt_bit(address);
                function.halt_cleared(address);
            }
            _ => core.halted |= halt_bit(address),
        }
        Ok(())
    }

    fn has_interface(&self, index: u16) -> bool {
        let device = self.parts.function.descriptors().at(self.speed);
        let count = device.map_or(0, |device| device.configuration.interfaces.len());
        self.parts.core.configuration != 0 && usize::from(index) < count
    }

    fn descriptor(&self, setup: Setup) -> Option<Vec<u8>> {
        let [kind, index] = setup.value.to_be_bytes();
        let descriptors = self.parts.function.descriptors();
        if kind != kind::STRING {
            let least = if self.has_microsoft() { microsoft::USB } else { 0 };
            return descriptors.bytes(kind, index, (self.speed, least));
        }
        if index == microsoft::STRING && self.has_microsoft() {
            return Some(microsoft::string());
        }
        if index == 0 {
            return Some(descriptor::LANGUAGES.to_vec());
        }
        match &self.labels.serial {
            Some(serial) if index == descriptors.names[2] => Some(descriptor::string(serial)),
            _ => {
                let (_, text) = descriptors.strings.iter().find(|(number, _)| *number == index)?;
                Some(descriptor::string(text))
            }
        }
    }
}

fn halt_bit(address: u8) -> u32 {
    1 << (u32::from(address & 0xf) + if address & 0x80 != 0 { 16 } else { 0 })
}

impl<F: Function> SavedState for Parts<F> {
    fn name(&self) -> &'static str {
        self.function.state().name()
    }

    fn version(&self) -> u32 {
        self.function.state().version()
    }

    fn describe(&self) -> Description {
        let mut fields = Vec::new();
        Field::describe(&self.core, "core", &mut fields);
        Field::describe(self.function.state(), "function", &mut fields);
        Description { name: self.name().to_owned(), version: self.version(), fields, subsections: Vec::new() }
    }

    fn save(&self, writer: &mut Writer) {
        self.core.put(writer);
        self.function.state().put(writer);
    }

    fn load(&mut self, reader: &mut Reader<'_>, version: u32) -> Result<(), LoadError> {
        let current = self.version();
        if version != current {
            let name = self.name().to_owned();
            return Err(LoadErrorKind::Version { name, version, minimum: current, current }.into());
        }
        let core = self.core.take(reader).map_err(|error| error.within("core"))?;
        let function = self.function.state().take(reader).map_err(|error| error.within("function"))?;
        self.core = core;
        *self.function.state_mut() = function;
        Ok(())
    }
}

impl<F: Function> Device for UsbDevice<F> {
    fn reset(&mut self, _kind: ResetKind) {
        self.reset_all();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.parts)
    }

    fn restored(&mut self) {
        self.parts.function.restored();
    }
}

impl<F: Function> Peripheral for DeviceCell<UsbDevice<F>> {
    fn speeds(&self) -> Speeds {
        self.lock().parts.function.descriptors().speeds()
    }

    fn attach(&self, upstream: Upstream, speed: Speed) {
        let mut device = self.lock();
        device.upstream = Some(upstream);
        device.speed = speed;
        device.parts.function.connected(speed);
        device.reset_all();
    }

    fn rewire(&self, upstream: Upstream, speed: Speed) {
        let mut device = self.lock();
        (device.upstream, device.speed) = (Some(upstream), speed);
        device.parts.function.connected(speed);
    }

    fn detach(&self) {
        let mut device = self.lock();
        device.upstream = None;
        device.reset_all();
    }

    fn speed(&self) -> Speed {
        self.lock().speed
    }

    fn reset(&self) {
        self.lock().reset_all();
    }

    fn address(&self) -> u8 {
        self.lock().parts.core.address
    }

    fn transfer(&self, token: Token, pipe: Pipe, data: &mut dyn Data) -> Outcome {
        self.lock().transfer(token, pipe, data)
    }

    fn child(&self, port: usize) -> Option<Link> {
        self.lock().parts.function.child(port)
    }

    fn find_below(&self, address: u8) -> Option<Link> {
        self.lock().parts.function.find_below(address)
    }
}
