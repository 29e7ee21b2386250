//! The PIIX3's ISA bridge (slot 1, function 0) and the PIIX4's power management function (function 3), as QEMU puts
//! them together (Intel 290550 and 290562). What the power management function does is a device of its own; here are
//! its configuration and the place of its ports.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use device::{AccessSize, Device, DeviceCell, DeviceState, ResetKind};
use state::State;

use crate::bus::PciFunction;
use crate::config::{ConfigSpace, Identity, reg, status};
use crate::pirq::{DISABLED, PirqRouter};

const PIRQ_ROUTES: u8 = 0x60;

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "PIIX3", version = 1)]
struct Piix3State {
    config: ConfigSpace,
}

/// The ISA bridge.
pub struct Piix3 {
    // Wiring.
    router: Arc<PirqRouter>,
    // Guest-visible state.
    state: Piix3State,
}

impl Piix3 {
    /// The bridge whose route registers steer `router`.
    pub fn new(router: Arc<PirqRouter>) -> DeviceCell<Self> {
        let identity = Identity { vendor: 0x8086, device: 0x7000, revision: 0, class: 0x0601, prog_if: 0 };
        let mut config = ConfigSpace::new(&identity);
        config.set_multifunction();
        config.set_u16(reg::STATUS, status::DEVSEL_MEDIUM);
        // ISA and X-bus timing, routes off, top of memory, motherboard device interrupts and DMA, SMI requests.
        let values = [
            (0x4c, 0x4d),
            (0x4e, 0x03),
            (0x60, DISABLED),
            (0x61, DISABLED),
            (0x62, DISABLED),
            (0x63, DISABLED),
            (0x69, 0x02),
            (0x70, 0x80),
            (0x76, 0x0c),
            (0x77, 0x0c),
            (0x78, 0x02),
            (0xa0, 0x08),
            (0xa8, 0x0f),
        ];
        for (offset, value) in values {
            config.set_u8(offset, value);
        }
        DeviceCell::new(Self { router, state: Piix3State { config } })
    }

    fn route(&self) {
        let config = &self.state.config;
        self.router.set_routes(&[0, 1, 2, 3].map(|pirq| config.u8(PIRQ_ROUTES + pirq)));
    }
}

impl Device for Piix3 {
    fn reset(&mut self, _kind: ResetKind) {
        self.state.config.reset();
        self.route();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        self.route();
    }
}

impl PciFunction for Piix3 {
    fn config(&self) -> &ConfigSpace {
        &self.state.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.state.config
    }

    fn write_config(&mut self, offset: u8, size: AccessSize, value: u32) {
        self.state.config.write(offset, size, value);
        let touched = offset..offset.saturating_add(size.bytes() as u8);
        if (PIRQ_ROUTES..PIRQ_ROUTES + 4).any(|register| touched.contains(&register)) {
            self.route();
        }
    }
}

/// The window of the power management ports.
pub const PM_WINDOW: usize = 0;
/// Its length in ports.
pub const PM_WINDOW_LEN: u64 = 64;
/// The window of the SMBus host controller.
pub const SMBUS_WINDOW: usize = 1;
/// Its length in ports.
pub const SMBUS_WINDOW_LEN: u64 = 64;

const PM_BASE: u8 = 0x40;
/// Device activity B: bit 25 lets a write of the APM control port raise an SMI.
const DEVACTB_TOP: u8 = 0x5b;
/// APMC_EN: a write of the APM control port raises an SMI.
const APMC_ENABLE: u8 = 2;
const PM_MISC: u8 = 0x80;
const SMBUS_BASE: u8 = 0x90;
const SMBUS_CONFIG: u8 = 0xd2;

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "piix4_pm", version = 1)]
struct Piix4PmState {
    config: ConfigSpace,
}

/// The power management function. Its windows are [`PM_WINDOW`] and [`SMBUS_WINDOW`].
pub struct Piix4Pm {
    // Configuration.
    has_smm: bool,
    // Wiring.
    apmc_smi: Arc<AtomicBool>,
    // Guest-visible state.
    state: Piix4PmState,
}

impl Piix4Pm {
    /// The function; `apmc_smi` follows the bit that lets the APM control port raise an SMI. Without system-management
    /// mode the bit is set from the start: firmware takes it that somebody else has set the mode up, and leaves it alone.
    pub fn new(apmc_smi: Arc<AtomicBool>, has_smm: bool) -> DeviceCell<Self> {
        let identity = Identity { vendor: 0x8086, device: 0x7113, revision: 3, class: 0x0680, prog_if: 0 };
        let mut config = ConfigSpace::new(&identity);
        config.set_u16(reg::STATUS, status::FAST_BACK_TO_BACK | status::DEVSEL_MEDIUM);
        config.set_interrupt_pin(1);
        config.set_u32(PM_BASE, 1);
        config.allow_u32(PM_BASE, 0xffc0);
        config.set_u32(SMBUS_BASE, 0xb101);
        config.allow_u32(SMBUS_BASE, 0xfff0);
        config.set_u8(SMBUS_CONFIG, 0x09);
        if !has_smm {
            config.set_u8(DEVACTB_TOP, APMC_ENABLE);
        }
        DeviceCell::new(Self { has_smm, apmc_smi, state: Piix4PmState { config } })
    }

    fn announce(&self) {
        let is_enabled = self.state.config.u8(DEVACTB_TOP) & APMC_ENABLE != 0;
        self.apmc_smi.store(self.has_smm && is_enabled, Ordering::Release);
    }
}

impl Device for Piix4Pm {
    fn reset(&mut self, _kind: ResetKind) {
        self.state.config.reset();
        self.announce();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        self.announce();
    }
}

impl PciFunction for Piix4Pm {
    fn config(&self) -> &ConfigSpace {
        &self.state.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.state.config
    }

    fn write_config(&mut self, offset: u8, size: AccessSize, value: u32) {
        self.state.config.write(offset, size, value);
        self.announce();
    }

    fn window_address(&self, index: usize) -> Option<u64> {
        let config = &self.state.config;
        let (is_enabled, base) = match index {
            PM_WINDOW => (config.u8(PM_MISC) & 1 != 0, config.u16(PM_BASE) & 0xffc0),
            SMBUS_WINDOW => (config.u8(SMBUS_CONFIG) & 1 != 0, config.u16(SMBUS_BASE) & 0xffc0),
            _ => return None,
        };
        is_enabled.then_some(u64::from(base))
    }
}
