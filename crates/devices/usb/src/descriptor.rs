//! Descriptors as declared data (USB 2.0, 9.6; USB 3.0, 9.6), and the bytes that a driver reads.

use crate::bus::{Speed, Speeds};

/// Types of descriptors.
pub mod kind {
    #![expect(missing_docs, reason = "named as in USB 3.0, table 9-5, and HID 1.11, 7.1")]
    pub const DEVICE: u8 = 1;
    pub const CONFIGURATION: u8 = 2;
    pub const STRING: u8 = 3;
    pub const INTERFACE: u8 = 4;
    pub const ENDPOINT: u8 = 5;
    pub const DEVICE_QUALIFIER: u8 = 6;
    pub const OTHER_SPEED: u8 = 7;
    pub const BOS: u8 = 15;
    pub const CAPABILITY: u8 = 16;
    pub const HID: u8 = 0x21;
    pub const REPORT: u8 = 0x22;
    pub const HUB: u8 = 0x29;
    pub const ENDPOINT_COMPANION: u8 = 48;
}

/// Types of endpoints: the low bits of [`Endpoint::attributes`].
pub mod transfer {
    #![expect(missing_docs, reason = "named as in USB 2.0, table 9-13")]
    pub const BULK: u8 = 2;
    pub const INTERRUPT: u8 = 3;
}

/// Bits of [`Configuration::attributes`]. The first is always set.
pub mod attribute {
    #![expect(missing_docs, reason = "named as in USB 2.0, table 9-10")]
    pub const ONE: u8 = 1 << 7;
    pub const SELF_POWERED: u8 = 1 << 6;
    pub const REMOTE_WAKEUP: u8 = 1 << 5;
}

/// An endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// Number, and bit 7 for the direction to the host.
    pub address: u8,
    /// The type.
    pub attributes: u8,
    /// Bytes of a packet.
    pub max_packet: u16,
    /// How often it is asked, in units that depend on the speed.
    pub interval: u8,
    /// Packets of a burst minus one (SuperSpeed).
    pub max_burst: u8,
    /// How many streams it has, as an exponent of 2; 0 for none (SuperSpeed).
    pub streams: u8,
    /// A descriptor of the class behind its own.
    pub extra: &'static [u8],
}

impl Endpoint {
    /// A bulk endpoint without streams.
    pub const fn bulk(address: u8, max_packet: u16, max_burst: u8) -> Self {
        Self { address, attributes: transfer::BULK, max_packet, interval: 0, max_burst, streams: 0, extra: &[] }
    }
}

/// A setting of an interface.
#[derive(Clone, Copy, Debug)]
pub struct Interface {
    /// Class, subclass, protocol.
    pub class: [u8; 3],
    /// A descriptor of the class between those of interface and endpoints.
    pub extra: &'static [u8],
    /// The endpoints.
    pub endpoints: &'static [Endpoint],
}

/// A configuration; its number is 1. Its interfaces have one setting each.
#[derive(Clone, Copy, Debug)]
pub struct Configuration {
    /// The string that names it, or 0.
    pub name: u8,
    /// See [`attribute`].
    pub attributes: u8,
    /// Power from the bus, in units of 2 mA.
    pub max_power: u8,
    /// The interfaces, from number 0.
    pub interfaces: &'static [Interface],
}

/// What a device is at one speed.
#[derive(Clone, Copy, Debug)]
pub struct DeviceAtSpeed {
    /// The version of USB, as BCD.
    pub usb: u16,
    /// The class, or 0 when the interfaces say it.
    pub class: u8,
    /// Bytes of a packet of endpoint 0; an exponent at SuperSpeed.
    pub max_packet: u8,
    /// The configuration.
    pub configuration: Configuration,
}

impl DeviceAtSpeed {
    /// A device that takes no power from the bus and whose interfaces say their classes; `name` is the string of its
    /// configuration.
    pub const fn self_powered(usb: u16, max_packet: u8, name: u8, interfaces: &'static [Interface]) -> Self {
        let attributes = attribute::ONE | attribute::SELF_POWERED;
        Self { usb, class: 0, max_packet, configuration: Configuration { name, attributes, max_power: 0, interfaces } }
    }
}

/// All the descriptors of a device.
#[derive(Clone, Copy, Debug)]
pub struct Descriptors {
    /// Vendor, product, release.
    pub identity: [u16; 3],
    /// The numbers of the strings for manufacturer, product and serial number.
    pub names: [u8; 3],
    /// At full speed.
    pub full: Option<&'static DeviceAtSpeed>,
    /// At high speed.
    pub high: Option<&'static DeviceAtSpeed>,
    /// At SuperSpeed.
    pub superspeed: Option<&'static DeviceAtSpeed>,
    /// The strings by number.
    pub strings: &'static [(u8, &'static str)],
    /// Windows may suspend it: it has Microsoft's descriptors, which say so.
    pub selective_suspend: bool,
}

impl Descriptors {
    /// The speeds that there are descriptors for.
    pub fn speeds(&self) -> Speeds {
        Speed::ALL.into_iter().filter(|speed| self.at(*speed).is_some()).fold(Speeds::default(), Speeds::with)
    }

    /// What it is at a speed.
    pub fn at(&self, speed: Speed) -> Option<&'static DeviceAtSpeed> {
        match speed {
            Speed::Low => None,
            Speed::Full => self.full,
            Speed::High => self.high,
            Speed::Super => self.superspeed,
        }
    }

    fn other(&self, speed: Speed) -> Option<&'static DeviceAtSpeed> {
        match speed {
            Speed::Full => self.high,
            Speed::High => self.full,
            _ => None,
        }
    }

    /// The bytes of a descriptor other than a string, at a speed. `usb` is the least version that the device tells.
    pub fn bytes(&self, kind: u8, index: u8, (speed, usb): (Speed, u16)) -> Option<Vec<u8>> {
        let device = self.at(speed)?;
        match kind {
            kind::DEVICE => Some(self.device(device, usb)),
            kind::CONFIGURATION if index == 0 => Some(configuration(device, kind, speed == Speed::Super)),
            kind::DEVICE_QUALIFIER => self.other(speed).map(qualifier),
            kind::OTHER_SPEED if index == 0 => self.other(speed).map(|other| configuration(other, kind, false)),
            kind::BOS => Some(self.capabilities()),
            _ => None,
        }
    }

    fn device(&self, device: &DeviceAtSpeed, usb: u16) -> Vec<u8> {
        let mut bytes = vec![18, kind::DEVICE];
        bytes.extend(device.usb.max(usb).to_le_bytes());
        bytes.extend([device.class, 0, 0, device.max_packet]);
        bytes.extend(self.identity.iter().flat_map(|number| number.to_le_bytes()));
        bytes.extend(self.names);
        bytes.push(1);
        bytes
    }

    /// The binary object store: link power management, and SuperSpeed.
    fn capabilities(&self) -> Vec<u8> {
        let mut count = 0;
        let mut body = Vec::new();
        if self.high.is_some() {
            count += 1;
            body.extend([7, kind::CAPABILITY, 2, 1 << 1, 0, 0, 0]);
        }
        if self.superspeed.is_some() {
            count += 1;
            let speeds = [self.full, self.high, self.superspeed].map(|device| device.is_some());
            let supported = (1..).zip(speeds).filter(|(_, is)| *is).fold(0, |bits, (at, _)| bits | 1_u8 << at);
            let slowest = speeds.iter().position(|is| *is).map_or(0, |at| at as u8 + 1);
            body.extend([10, kind::CAPABILITY, 3, 0, supported, 0, slowest, 0x0a, 0x20, 0]);
        }
        let [low, high] = (body.len() as u16 + 5).to_le_bytes();
        let mut bytes = vec![5, kind::BOS, low, high, count];
        bytes.extend(body);
        bytes
    }
}

fn qualifier(other: &DeviceAtSpeed) -> Vec<u8> {
    let [low, high] = other.usb.to_le_bytes();
    vec![10, kind::DEVICE_QUALIFIER, low, high, other.class, 0, 0, other.max_packet, 1, 0]
}

fn configuration(device: &DeviceAtSpeed, kind: u8, is_super: bool) -> Vec<u8> {
    let configuration = &device.configuration;
    let mut body = Vec::new();
    for (number, interface) in (0..).zip(configuration.interfaces) {
        let [class, subclass, protocol] = interface.class;
        let endpoints = interface.endpoints.len() as u8;
        body.extend([9, kind::INTERFACE, number, 0, endpoints, class, subclass, protocol, 0]);
        body.extend(interface.extra);
        for endpoint in interface.endpoints {
            let [low, high] = endpoint.max_packet.to_le_bytes();
            body.extend([7, kind::ENDPOINT, endpoint.address, endpoint.attributes, low, high, endpoint.interval]);
            if is_super {
                body.extend([6, kind::ENDPOINT_COMPANION, endpoint.max_burst, endpoint.streams, 0, 0]);
            }
            body.extend(endpoint.extra);
        }
    }
    let [low, high] = (body.len() as u16 + 9).to_le_bytes();
    let interfaces = configuration.interfaces.len() as u8;
    let mut bytes =
        vec![9, kind, low, high, interfaces, 1, configuration.name, configuration.attributes, configuration.max_power];
    bytes.extend(body);
    bytes
}

/// The bytes of a string descriptor: UTF-16, as much as fits.
pub fn string(text: &str) -> Vec<u8> {
    let units: Vec<u16> = text.encode_utf16().take(126).collect();
    let mut bytes = vec![2 + 2 * units.len() as u8, kind::STRING];
    bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
    bytes
}

/// String 0: the languages. There is American English.
pub const LANGUAGES: [u8; 4] = [4, kind::STRING, 0x09, 0x04];

/// Microsoft's descriptors (Microsoft OS Descriptors, version 1.0), which tell Windows what no other descriptor says.
pub mod microsoft {
    /// The number of the string that says that there are some.
    pub const STRING: u8 = 0xee;
    /// The request by which they are read.
    pub const REQUEST: u8 = b'Q';
    /// The least version of USB of a device that has them.
    pub const USB: u16 = 0x0200;

    /// The string: a signature, and the request.
    pub fn string() -> Vec<u8> {
        let mut bytes = super::string("MSFT100");
        bytes.extend([REQUEST, 0]);
        bytes[0] = bytes.len() as u8;
        bytes
    }

    fn with_header(index: u16, count: [u8; 2], body: &[u8]) -> Vec<u8> {
        let mut bytes = (body.len() as u32 + 10).to_le_bytes().to_vec();
        bytes.extend([0, 1]);
        bytes.extend(index.to_le_bytes());
        bytes.extend(count);
        bytes.extend(body);
        bytes
    }

    /// The feature descriptor of that index: compatible identifiers, of which there are none, or properties.
    pub fn feature(index: u16) -> Vec<u8> {
        match index {
            4 => {
                // Six reserved bytes belong to the header; interface 0, a reserved one, and identifiers of zeroes.
                let mut body = vec![0; 6];
                body.extend([0, 1]);
                body.resize(6 + 24, 0);
                with_header(index, [1, 0], &body)
            }
            5 => {
                const NUMBER: u32 = 4;
                let name: Vec<u8> =
                    "SelectiveSuspendEnabled\0".encode_utf16().flat_map(|unit| unit.to_le_bytes()).collect();
                let mut property = NUMBER.to_le_bytes().to_vec();
                property.extend((name.len() as u16).to_le_bytes());
                property.extend(&name);
                property.extend(4_u32.to_le_bytes());
                property.extend(1_u32.to_le_bytes());
                let mut body = (property.len() as u32 + 4).to_le_bytes().to_vec();
                body.extend(property);
                with_header(index, [1, 0], &body)
            }
            _ => Vec::new(),
        }
    }
}
