//! PCI-to-PCI bridges (PCI-to-PCI Bridge Architecture Specification 1.2): `pci-bridge` (1b36:0001), `i82801b11-bridge`
//! (8086:244e) and `pcie-pci-bridge` (1b36:000e), which is PCI Express on its upper side.
//!
//! Left out: hot-plug controllers and message-signalled interrupts of the bridges themselves; their windows do not filter
//! what devices behind them decode.

use device::{Device, DeviceCell, DeviceState, ResetKind};
use state::State;

use crate::bus::PciFunction;
use crate::config::{ConfigSpace, Identity, reg};
use crate::express::{self, Express, Kind, Link};
use crate::root_port::{bridge_header, bridge_reg};

/// Which bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgeKind {
    /// `pci-bridge`
    Pci,
    /// `i82801b11-bridge`
    I82801b11,
    /// `pcie-pci-bridge`
    PcieToPci,
}

impl BridgeKind {
    /// The name of the type.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Pci => "pci-bridge",
            Self::I82801b11 => "i82801b11-bridge",
            Self::PcieToPci => "pcie-pci-bridge",
        }
    }
}

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "pci-bridge", version = 1)]
struct BridgeState {
    config: ConfigSpace,
}

/// A bridge.
pub struct Bridge {
    // Guest-visible state.
    state: BridgeState,
}

/// Status of both sides: 66 MHz, fast back-to-back.
const CONVENTIONAL: u16 = 0x00a0;

const SLOT_ID: u8 = 0x04;
const SUBSYSTEM: u8 = 0x0d;

impl Bridge {
    /// A bridge; `chassis` is the number of the chassis behind a `pci-bridge`.
    pub fn new(kind: BridgeKind, chassis: u8) -> DeviceCell<Self> {
        let (vendor, device, revision, prog_if) = match kind {
            BridgeKind::Pci => (0x1b36, 0x0001, 0, 0),
            BridgeKind::I82801b11 => (0x8086, 0x244e, 0x92, 1),
            BridgeKind::PcieToPci => (0x1b36, 0x000e, 0, 0),
        };
        let mut config = ConfigSpace::new(&Identity { vendor, device, revision, class: 0x0604, prog_if });
        bridge_header(&mut config);
        for status in [reg::STATUS, bridge_reg::STATUS] {
            config.set_u16(status, CONVENTIONAL);
        }
        match kind {
            BridgeKind::Pci => {
                config.set_interrupt_pin(1);
                config.add_capability(SLOT_ID, 0x40, 4);
                // The first in its chassis, without slots of its own.
                config.set_u8(0x42, 0x20);
                config.set_u8(0x43, chassis);
            }
            BridgeKind::I82801b11 => config.add_capability(SUBSYSTEM, 0x50, 8),
            BridgeKind::PcieToPci => {
                config.set_interrupt_pin(1);
                Express::add(&mut config, 0x48, Kind::Bridge, Link::NARROW).allow_reports(&mut config);
                // Alternative routing is forwarded.
                config.set_u8(0x48 + 0x24, 0x20);
                config.allow_u16(0x48 + 0x28, 0x8020);
                express::add_power_management(&mut config, 0x84);
                express::add_error_reporting(&mut config, false);
            }
        }
        DeviceCell::new(Self { state: BridgeState { config } })
    }
}

impl Device for Bridge {
    fn reset(&mut self, _kind: ResetKind) {
        self.state.config.reset();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {}
}

impl PciFunction for Bridge {
    fn config(&self) -> &ConfigSpace {
        &self.state.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.state.config
    }
}
