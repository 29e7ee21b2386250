//! What keyboards and pointers say of themselves. Numbers and strings are QEMU's.

use super::HidKind;
use crate::descriptor::{Configuration, Descriptors, DeviceAtSpeed, Endpoint, Interface, attribute, kind, transfer};

const NAMES: &[(u8, &str)] = &[
    (1, "QEMU"),
    (2, "QEMU USB Mouse"),
    (3, "QEMU USB Tablet"),
    (4, "QEMU USB Keyboard"),
    (5, "42"),
    (6, "HID Mouse"),
    (7, "HID Tablet"),
    (8, "HID Keyboard"),
    (9, "89126"),
    (10, "28754"),
    (11, "68284"),
];

/// The number of the string with the serial number: the first of three.
const SERIAL: u8 = 9;

/// The serial number that a device has before its place.
pub fn serial(kind: HidKind) -> &'static str {
    NAMES[usize::from(SERIAL - 1) + index(kind)].1
}

fn index(kind: HidKind) -> usize {
    match kind {
        HidKind::Mouse => 0,
        HidKind::Tablet => 1,
        HidKind::Keyboard => 2,
    }
}

/// The HID descriptor: version, country, and the length of the report descriptor.
const fn class_descriptor(version: u16, report: usize) -> [u8; 9] {
    [9, kind::HID, version as u8, (version >> 8) as u8, 0, 1, kind::REPORT, report as u8, 0]
}

static MOUSE_CLASS: [u8; 9] = class_descriptor(0x0001, MOUSE_REPORT.len());
static TABLET_CLASS: [u8; 9] = class_descriptor(0x0001, TABLET_REPORT.len());
static KEYBOARD_CLASS: [u8; 9] = class_descriptor(0x0111, KEYBOARD_REPORT.len());

/// A device with one interface and one endpoint: version of USB, packets of endpoint 0, the string of the configuration,
/// class, HID descriptor, packet and interval of the endpoint.
macro_rules! device {
    ($usb:expr, $max_packet:expr, $name:expr, $class:expr, $extra:expr, $packet:expr, $interval:expr) => {
        DeviceAtSpeed {
            usb: $usb,
            class: 0,
            max_packet: $max_packet,
            configuration: Configuration {
                name: $name,
                attributes: attribute::ONE | attribute::REMOTE_WAKEUP,
                max_power: 50,
                interfaces: &[Interface {
                    class: $class,
                    extra: &$extra,
                    endpoints: &[Endpoint {
                        address: 0x81,
                        attributes: transfer::INTERRUPT,
                        max_packet: $packet,
                        interval: $interval,
                        max_burst: 0,
                        streams: 0,
                        extra: &[],
                    }],
                }],
            },
        }
    };
}

static MOUSE_FULL: DeviceAtSpeed = device!(0x0100, 8, 6, [3, 1, 2], MOUSE_CLASS, 4, 10);
static MOUSE_HIGH: DeviceAtSpeed = device!(0x0200, 64, 6, [3, 1, 2], MOUSE_CLASS, 4, 7);
static TABLET_FULL: DeviceAtSpeed = device!(0x0100, 8, 7, [3, 0, 0], TABLET_CLASS, 8, 10);
static TABLET_HIGH: DeviceAtSpeed = device!(0x0200, 64, 7, [3, 0, 0], TABLET_CLASS, 8, 4);
static KEYBOARD_FULL: DeviceAtSpeed = device!(0x0100, 8, 8, [3, 1, 1], KEYBOARD_CLASS, 8, 10);
static KEYBOARD_HIGH: DeviceAtSpeed = device!(0x0200, 64, 8, [3, 1, 1], KEYBOARD_CLASS, 8, 7);

const fn all(
    product: u8,
    serial: u8,
    full: &'static DeviceAtSpeed,
    high: Option<&'static DeviceAtSpeed>,
) -> Descriptors {
    Descriptors {
        identity: [0x0627, 0x0001, 0],
        names: [1, product, serial],
        full: Some(full),
        high,
        superspeed: None,
        strings: NAMES,
        selective_suspend: true,
    }
}

static MOUSE: [Descriptors; 2] = [all(2, SERIAL, &MOUSE_FULL, None), all(2, SERIAL, &MOUSE_FULL, Some(&MOUSE_HIGH))];
static TABLET: [Descriptors; 2] =
    [all(3, SERIAL + 1, &TABLET_FULL, None), all(3, SERIAL + 1, &TABLET_FULL, Some(&TABLET_HIGH))];
static KEYBOARD: [Descriptors; 2] =
    [all(4, SERIAL + 2, &KEYBOARD_FULL, None), all(4, SERIAL + 2, &KEYBOARD_FULL, Some(&KEYBOARD_HIGH))];

/// The descriptors of a device, for USB 1 or 2.
pub fn of(kind: HidKind, usb_version: u32) -> &'static Descriptors {
    let [full_only, both] = match kind {
        HidKind::Mouse => &MOUSE,
        HidKind::Tablet => &TABLET,
        HidKind::Keyboard => &KEYBOARD,
    };
    if usb_version == 1 { full_only } else { both }
}

/// The report descriptor.
pub fn report(kind: HidKind) -> &'static [u8] {
    match kind {
        HidKind::Mouse => &MOUSE_REPORT,
        HidKind::Tablet => &TABLET_REPORT,
        HidKind::Keyboard => &KEYBOARD_REPORT,
    }
}

/// Five buttons and padding; X, Y and wheel, a byte each.
static MOUSE_REPORT: [u8; 52] = [
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1,
    0x00, // Generic desktop, mouse: application; pointer: physical
    0x05, 0x09, 0x19, 0x01, 0x29, 0x05, 0x15, 0x00, 0x25, 0x01, 0x95, 0x05, 0x75, 0x01, 0x81,
    0x02, // Buttons 1 to 5
    0x95, 0x01, 0x75, 0x03, 0x81, 0x01, // Three bits of padding
    0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x09, 0x38, 0x15, 0x81, 0x25, 0x7f, // X, Y, wheel: -127 to 127
    0x75, 0x08, 0x95, 0x03, 0x81, 0x06, // relative, eight bits each
    0xc0, 0xc0,
];

/// Three buttons and padding; X and Y from 0 to 32767, two bytes each; the wheel.
static TABLET_REPORT: [u8; 74] = [
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1,
    0x00, // Generic desktop, mouse: application; pointer: physical
    0x05, 0x09, 0x19, 0x01, 0x29, 0x03, 0x15, 0x00, 0x25, 0x01, 0x95, 0x03, 0x75, 0x01, 0x81,
    0x02, // Buttons 1 to 3
    0x95, 0x01, 0x75, 0x05, 0x81, 0x01, // Five bits of padding
    0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x15, 0x00, 0x26, 0xff, 0x7f, 0x35, 0x00, 0x46, 0xff,
    0x7f, // X, Y: 0 to 32767
    0x75, 0x10, 0x95, 0x02, 0x81, 0x02, // absolute, 16 bits each
    0x05, 0x01, 0x09, 0x38, 0x15, 0x81, 0x25, 0x7f, 0x35, 0x00, 0x45, 0x00, // The wheel: -127 to 127
    0x75, 0x08, 0x95, 0x01, 0x81, 0x06, // relative, eight bits
    0xc0, 0xc0,
];

/// Eight modifiers; a reserved byte; five lights and padding; six keys.
static KEYBOARD_REPORT: [u8; 63] = [
    0x05, 0x01, 0x09, 0x06, 0xa1, 0x01, // Generic desktop, keyboard: application
    0x75, 0x01, 0x95, 0x08, 0x05, 0x07, 0x19, 0xe0, 0x29, 0xe7, 0x15, 0x00, 0x25, 0x01, 0x81, 0x02, // Modifiers
    0x95, 0x01, 0x75, 0x08, 0x81, 0x01, // A constant byte
    0x95, 0x05, 0x75, 0x01, 0x05, 0x08, 0x19, 0x01, 0x29, 0x05, 0x91, 0x02, // Lights
    0x95, 0x01, 0x75, 0x03, 0x91, 0x01, // Three bits of padding
    0x95, 0x06, 0x75, 0x08, 0x15, 0x00, 0x25, 0xff, 0x05, 0x07, 0x19, 0x00, 0x29, 0xff, 0x81, 0x00, // Six keys
    0xc0,
];
