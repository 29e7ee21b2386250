//! PCI Express root ports: `pcie-root-port` (1b36:000c) and `ioh3420` (8086:3420), bridges with a slot behind them
//! (PCI-to-PCI Bridge Architecture Specification 1.2; PCI Express Base Specification 2.0, 7.8).
//!
//! Left out: the bridge's windows do not filter what devices behind it decode, and the slot is never changed while the
//! machine runs, so that its registers only say what is there.

use device::{Device, DeviceCell, DeviceState, ResetKind};
use state::State;

use crate::bus::PciFunction;
use crate::config::{ConfigSpace, Identity, reg};

/// Registers of header type 1.
pub(crate) mod bridge_reg {
    pub const PRIMARY: u8 = 0x18;
    pub const SECONDARY: u8 = 0x19;
    pub const SUBORDINATE: u8 = 0x1a;
    pub const LATENCY: u8 = 0x1b;
    pub const IO: u8 = 0x1c;
    pub const STATUS: u8 = 0x1e;
    pub const MEMORY: u8 = 0x20;
    pub const PREFETCHABLE: u8 = 0x24;
    pub const PREFETCHABLE_UPPER: u8 = 0x28;
    pub const IO_UPPER: u8 = 0x30;
    pub const CONTROL: u8 = 0x3e;
}

/// Which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// `pcie-root-port`
    Generic,
    /// `ioh3420`
    Ioh3420,
}

/// What a port says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortOptions {
    /// Which port.
    pub kind: PortKind,
    /// `port=`
    pub port: u8,
    /// `slot=`
    pub slot: u16,
    /// `multifunction=on`
    pub is_multifunction: bool,
}

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "pcie-root-port", version = 1)]
struct RootPortState {
    config: ConfigSpace,
}

/// A root port.
pub struct RootPort {
    // Guest-visible state.
    state: RootPortState,
}

const SUBSYSTEM_CAPABILITY: (u8, u8, u8) = (0x0d, 0x40, 8);
const EXPRESS: (u8, u8, u8) = (0x10, 0x90, 0x3c);

/// Header type 1: buses and windows.
pub(crate) fn bridge_header(config: &mut ConfigSpace) {
    config.set_u8(reg::HEADER_TYPE, 0x01);
    // What a plain function has there is something else in a bridge.
    config.set_u32(reg::SUBSYSTEM_VENDOR, 0);
    config.allow_u32(bridge_reg::PRIMARY, 0xffff_ffff);
    config.allow_u8(bridge_reg::LATENCY, 0);
    // 32-bit ports, 64-bit prefetchable memory.
    config.set_u16(bridge_reg::IO, 0x0101);
    config.allow_u16(bridge_reg::IO, 0xf0f0);
    config.set_u16(bridge_reg::STATUS, 0);
    config.allow_u32(bridge_reg::MEMORY, 0xfff0_fff0);
    config.set_u32(bridge_reg::PREFETCHABLE, 0x0001_0001);
    config.allow_u32(bridge_reg::PREFETCHABLE, 0xfff0_fff0);
    config.allow_u32(bridge_reg::PREFETCHABLE_UPPER, 0xffff_ffff);
    config.allow_u32(bridge_reg::PREFETCHABLE_UPPER + 4, 0xffff_ffff);
    config.allow_u32(bridge_reg::IO_UPPER, 0xffff_ffff);
    config.allow_u16(bridge_reg::CONTROL, 0x037f);
}

impl RootPort {
    /// A port. `is_occupied` says that there is a device in its slot.
    pub fn new(options: &PortOptions, is_occupied: bool) -> DeviceCell<Self> {
        let (vendor, device, revision) = match options.kind {
            PortKind::Generic => (0x1b36, 0x000c, 0),
            PortKind::Ioh3420 => (0x8086, 0x3420, 2),
        };
        let mut config = ConfigSpace::new(&Identity { vendor, device, revision, class: 0x0604, prog_if: 0 });
        bridge_header(&mut config);
        if options.is_multifunction {
            config.set_u8(reg::HEADER_TYPE, 0x81);
        }
        config.set_interrupt_pin(1);
        let (id, at, len) = SUBSYSTEM_CAPABILITY;
        config.add_capability(id, at, len);
        Self::express(&mut config, options, is_occupied);
        DeviceCell::new(Self { state: RootPortState { config } })
    }

    fn express(config: &mut ConfigSpace, options: &PortOptions, is_occupied: bool) {
        /// Version 2, a root port, with a slot.
        const CAPABILITIES: u16 = 0x0142;
        /// A width of one lane, 2.5 GT/s; the port's number is in the top byte.
        const LINK: u32 = 0x0000_0011;
        /// The link is up.
        const LINK_STATUS: u16 = 0x0011 | 1 << 13;
        const PRESENCE: u16 = 1 << 6;
        let (id, at, len) = EXPRESS;
        config.add_capability(id, at, len);
        config.set_u16(at + 2, CAPABILITIES);
        config.set_u32(at + 4, 0x8000);
        config.allow_u16(at + 8, 0x000f);
        config.set_u32(at + 0x0c, LINK | u32::from(options.port) << 24);
        config.allow_u16(at + 0x10, 0x0043);
        config.set_u16(at + 0x12, if is_occupied { LINK_STATUS } else { 0x0011 });
        config.set_u32(at + 0x14, u32::from(options.slot & 0x1fff) << 19);
        config.allow_u16(at + 0x18, 0x07ff);
        config.set_u16(at + 0x1a, if is_occupied { PRESENCE } else { 0 });
        config.allow_u16(at + 0x1c, 0x000f);
        config.allow_u16(at + 0x28, 0x0020);
        config.set_u16(at + 0x30, 1);
    }
}

impl Device for RootPort {
    fn reset(&mut self, _kind: ResetKind) {
        self.state.config.reset();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {}
}

impl PciFunction for RootPort {
    fn config(&self) -> &ConfigSpace {
        &self.state.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.state.config
    }
}
