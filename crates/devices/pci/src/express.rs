//! Capabilities of PCI Express (PCI Express Base Specification 2.0, 7.8 to 7.16), as QEMU's functions have them: the
//! capability itself, power management (PCI Bus Power Management Interface Specification 1.2), error reporting and access
//! control.
//!
//! Nothing reports errors, and there is one state of power: those registers hold what the guest writes.

use device::AccessSize;

use crate::config::ConfigSpace;

/// The capability number of PCI Express.
pub const EXPRESS: u8 = 0x10;
/// Bytes that the capability takes.
pub const LEN: u8 = 0x3c;
const POWER_MANAGEMENT: u8 = 0x01;
/// Bytes that the capability of power management takes.
pub const POWER_MANAGEMENT_LEN: u8 = 8;

/// Extended capabilities: number and version.
const ERROR_REPORTING: (u16, u8) = (0x0001, 2);
const ACCESS_CONTROL: (u16, u8) = (0x000d, 1);
/// Where QEMU has them.
const ERROR_REPORTING_AT: u16 = 0x100;
const ERROR_REPORTING_LEN: u16 = 0x48;
const ACCESS_CONTROL_AT: u16 = 0x148;

/// What a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Behind a port.
    Endpoint,
    /// A part of the root complex.
    Integrated,
    /// A root port with a slot.
    RootPort,
    /// A bridge to conventional PCI.
    Bridge,
}

/// What a link can be and is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The capabilities, without the port's number.
    pub capabilities: u32,
    /// The speeds of capabilities 2.
    pub speeds: u32,
    /// The speed that it aims at.
    pub target: u16,
}

impl Link {
    /// One lane of 2.5 GT/s, with power state L0s.
    pub const NARROW: Self = Self { capabilities: 0x0411, speeds: 0, target: 0 };
}

/// The capability of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Express {
    offset: u8,
}

/// Device control (7.8.4).
mod control {
    /// Reports of the four kinds of errors.
    pub const REPORTS: u16 = 0x000f;
    pub const FUNCTION_RESET: u16 = 1 << 15;
}

/// Device capabilities (7.8.3).
mod capability {
    pub const ROLE_BASED_ERRORS: u32 = 1 << 15;
    pub const FUNCTION_RESET: u32 = 1 << 28;
}

impl Express {
    /// Adds the capability at `offset`, and makes the function's configuration space 4096 bytes. Its registers are
    /// read-only until the model says otherwise.
    pub fn add(config: &mut ConfigSpace, offset: u8, kind: Kind, link: Link) -> Self {
        /// Prefixes end to end, extended formats, and alternative routing of functions.
        const CAPABILITIES_2: u32 = 0x0030_0000;
        const BLOCKS_PREFIXES: u16 = 1 << 15;
        config.add_capability(EXPRESS, offset, LEN);
        config.extend();
        // Version 2, the kind, and a slot of ports.
        let capabilities = match kind {
            Kind::Endpoint => 0x0002,
            Kind::Integrated => 0x0092,
            Kind::RootPort => 0x0142,
            Kind::Bridge => 0x0072,
        };
        config.set_u16(offset + 2, capabilities);
        config.set_u32(offset + 4, capability::ROLE_BASED_ERRORS);
        config.set_u32(offset + 0x0c, link.capabilities);
        config.set_u16(offset + 0x12, 0x0011);
        config.set_u32(offset + 0x24, CAPABILITIES_2);
        config.allow_u16(offset + 0x28, BLOCKS_PREFIXES);
        config.set_u32(offset + 0x2c, link.speeds);
        config.set_u16(offset + 0x30, link.target);
        Self { offset }
    }

    /// The guest can choose which errors are reported.
    pub fn allow_reports(self, config: &mut ConfigSpace) {
        config.allow_u16(self.offset + 8, control::REPORTS);
    }

    /// The guest can say that the link's clock is common, and ask for longer synchronisation.
    pub fn allow_link_control(self, config: &mut ConfigSpace) {
        config.allow_u16(self.offset + 0x10, 0x00c0);
    }

    /// The guest can reset the function, see [`Express::takes_reset`].
    pub fn allow_reset(self, config: &mut ConfigSpace) {
        let capabilities = config.u32(self.offset + 4) | capability::FUNCTION_RESET;
        config.set_u32(self.offset + 4, capabilities);
    }

    /// Whether a write asks for a reset of the function, which the caller then does.
    pub fn takes_reset(self, config: &ConfigSpace, (offset, size, value): (u8, AccessSize, u32)) -> bool {
        let at = i32::from(self.offset + 8) - i32::from(offset);
        let can = config.u32(self.offset + 4) & capability::FUNCTION_RESET != 0;
        // The byte with the bit is the second.
        let is_written = (-1..size.bytes().min(4) as i32 - 1).contains(&at);
        can && is_written && value >> (8 * (at + 1)) & u32::from(control::FUNCTION_RESET >> 8) != 0
    }
}

/// Adds the capability of power management at `offset`, whose state the guest can read.
pub fn add_power_management(config: &mut ConfigSpace, offset: u8) {
    config.add_capability(POWER_MANAGEMENT, offset, POWER_MANAGEMENT_LEN);
    // Version 3.
    config.set_u16(offset + 2, 3);
}

/// The guest can choose the state of power management at `offset`.
pub fn allow_power_states(config: &mut ConfigSpace, offset: u8) {
    config.allow_u16(offset + 4, 3);
}

/// Adds advanced error reporting. Ports have the root's registers.
pub fn add_error_reporting(config: &mut ConfigSpace, is_port: bool) {
    let at = ERROR_REPORTING_AT;
    config.add_extended_capability(ERROR_REPORTING, at, ERROR_REPORTING_LEN);
    // Which uncorrectable errors are fatal, which correctable ones are not reported.
    config.set_extended(at + 0x0c, 0x0046_2030);
    config.allow_extended(at + 0x0c, 4, 0x03ff_f030);
    config.set_extended(at + 0x14, 0x0000_e000);
    config.allow_extended(at + 0x14, 4, 0x0000_f1c1);
    // Checksums, and in ports records of several headers, are possible.
    config.set_extended(at + 0x18, if is_port { 0x02a0 } else { 0x00a0 });
    config.allow_extended(at + 0x18, 4, if is_port { 0x0540 } else { 0x0140 });
    if is_port {
        config.allow_extended(at + 0x2c, 4, 7);
    }
}

/// Adds access control services: validation of sources, blocking of translations, redirection, upstream forwarding and
/// direct translated requests.
pub fn add_access_control(config: &mut ConfigSpace) {
    const SERVICES: u32 = 0x5f;
    config.add_extended_capability(ACCESS_CONTROL, ACCESS_CONTROL_AT, 8);
    config.set_extended(ACCESS_CONTROL_AT + 4, SERVICES);
    config.allow_extended(ACCESS_CONTROL_AT + 4, 4, SERVICES << 16);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Identity;

    fn function() -> ConfigSpace {
        ConfigSpace::new(&Identity { vendor: 1, device: 2, revision: 0, class: 0, prog_if: 0 })
    }

    #[test]
    fn reset_is_taken_from_any_write_that_covers_its_bit() {
        let mut config = function();
        let express = Express::add(&mut config, 0x40, Kind::Endpoint, Link::NARROW);
        let asks = |config: &ConfigSpace, offset, size, value| express.takes_reset(config, (offset, size, value));
        assert!(!asks(&config, 0x48, AccessSize::Word, 0x8000), "it can't");
        express.allow_reset(&mut config);
        for (offset, size, value, expected) in [
            (0x48, AccessSize::Word, 0x8000, true),
            (0x48, AccessSize::Dword, 0x8000, true),
            (0x49, AccessSize::Byte, 0x80, true),
            (0x46, AccessSize::Dword, 0x8000_0000, true),
            (0x48, AccessSize::Byte, 0xff, false),
            (0x48, AccessSize::Dword, 0xffff_7fff, false),
            (0x4a, AccessSize::Word, 0xffff, false),
            (0x44, AccessSize::Dword, 0xffff_ffff, false),
        ] {
            assert_eq!(asks(&config, offset, size, value), expected, "{value:#x} at {offset:#x}");
        }
    }

    #[test]
    fn extended_capabilities_are_chained_and_a_conventional_function_has_none() {
        let mut config = function();
        assert_eq!(config.read_extended(0x100, AccessSize::Dword), u32::MAX);
        Express::add(&mut config, 0x40, Kind::RootPort, Link::NARROW);
        assert_eq!(config.read_extended(0x100, AccessSize::Dword), 0);
        add_error_reporting(&mut config, true);
        add_access_control(&mut config);
        assert_eq!(config.read_extended(0x100, AccessSize::Dword), 0x1482_0001);
        assert_eq!(config.read_extended(0x148, AccessSize::Dword), 0x0001_000d);
        config.write_extended(0x14c, AccessSize::Dword, u32::MAX);
        config.write_extended(0xffc, AccessSize::Qword, 5);
        assert_eq!(config.read_extended(0x14c, AccessSize::Dword), 0x005f_005f);
        config.reset();
        assert_eq!(config.read_extended(0x14c, AccessSize::Dword), 0x5f);
        assert_eq!(config.read_extended(0xffc, AccessSize::Dword), 0);
    }
}
