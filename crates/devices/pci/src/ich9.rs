//! The ICH9's LPC bridge, slot 31 function 0 (Intel 316972, 13.1): interrupt routes, the places of the power management
//! block and of the chipset configuration registers. What is behind the windows is the machine's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, ResetKind};
use state::State;

use crate::bus::PciFunction;
use crate::config::{Bar, BarKind, ConfigSpace, Identity};
use crate::pirq::{DISABLED, PirqRouter};

/// Window 0: power management, ports.
pub const PM_WINDOW: usize = 0;
/// Ports of the power management block.
pub const PM_WINDOW_LEN: u64 = 128;
/// Window 1: the chipset configuration registers, memory.
pub const RCRB_WINDOW: usize = 1;
/// Bytes of the chipset configuration registers.
pub const RCRB_LEN: u64 = 0x4000;

const PMBASE: u8 = 0x40;
const ACPI_CONTROL: u8 = 0x44;
const ACPI_ENABLE: u8 = 0x80;
const PIRQ_A: u8 = 0x60;
const PIRQ_E: u8 = 0x68;
const GEN_PMCON_1: u8 = 0xa0;
const SMI_LOCK: u8 = 0x10;
const RCBA: u8 = 0xf0;

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "ICH9LPC", version = 1)]
struct LpcState {
    config: ConfigSpace,
}

/// The bridge.
pub struct Lpc {
    // Wiring.
    router: Arc<PirqRouter>,
    smi_lock: Arc<AtomicBool>,
    // Guest-visible state.
    state: LpcState,
}

impl Lpc {
    /// The bridge whose route registers steer `router`; `smi_lock` follows the bit that locks the global SMI switch.
    pub fn new(router: Arc<PirqRouter>, smi_lock: Arc<AtomicBool>) -> DeviceCell<Self> {
        let identity = Identity { vendor: 0x8086, device: 0x2918, revision: 2, class: 0x0601, prog_if: 0 };
        let mut config = ConfigSpace::new(&identity);
        config.set_multifunction();
        config.set_u32(PMBASE, 1);
        config.allow_u32(PMBASE, 0xff80);
        for pirq in 0..4 {
            config.set_u8(PIRQ_A + pirq, DISABLED);
            config.set_u8(PIRQ_E + pirq, DISABLED);
        }
        config.allow_u32(RCBA, 0xffff_c001);
        DeviceCell::new(Self { router, smi_lock, state: LpcState { config } })
    }

    fn announce(&self) {
        let config = &self.state.config;
        let [a, e] = [PIRQ_A, PIRQ_E].map(|first| [0, 1, 2, 3].map(|pirq| config.u8(first + pirq)));
        self.router.set_routes([a, e].as_flattened());
        self.smi_lock.store(config.u8(GEN_PMCON_1) & SMI_LOCK != 0, Ordering::Release);
    }
}

impl Device for Lpc {
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

impl PciFunction for Lpc {
    fn config(&self) -> &ConfigSpace {
        &self.state.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.state.config
    }

    fn write_config(&mut self, offset: u8, size: AccessSize, value: u32) {
        let was_locked = self.state.config.u8(GEN_PMCON_1) & SMI_LOCK != 0;
        self.state.config.write(offset, size, value);
        if was_locked {
            let value = self.state.config.u8(GEN_PMCON_1) | SMI_LOCK;
            self.state.config.store_u8(GEN_PMCON_1, value);
        }
        self.announce();
    }

    fn window_address(&self, index: usize) -> Option<u64> {
        let config = &self.state.config;
        match index {
            PM_WINDOW => {
                let base = config.u32(PMBASE) & 0xff80;
                (config.u8(ACPI_CONTROL) & ACPI_ENABLE != 0 && base != 0).then_some(u64::from(base))
            }
            RCRB_WINDOW => {
                let base = config.u32(RCBA);
                (base & 1 != 0).then_some(u64::from(base & 0xffff_c000))
            }
            _ => None,
        }
    }
}

/// The window of the SMBus controller: base address register 4.
pub const SMBUS_WINDOW: usize = 4;

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "ich9-smb", version = 1)]
struct SmbusState {
    config: ConfigSpace,
}

/// The PCI side of the SMBus controller, slot 31 function 3 (Intel 316972, 18.1). What is behind its window is the
/// machine's.
pub struct SmbusFunction {
    // Guest-visible state.
    state: SmbusState,
}

impl SmbusFunction {
    /// The function.
    pub fn new() -> DeviceCell<Self> {
        let identity = Identity { vendor: 0x8086, device: 0x2930, revision: 2, class: 0x0c05, prog_if: 0 };
        let mut config = ConfigSpace::new(&identity);
        config.set_multifunction();
        config.set_interrupt_pin(1);
        config.set_u8(HOST_CONFIGURATION, 0);
        config.allow_u8(HOST_CONFIGURATION, 0x07);
        config.add_bar(SMBUS_WINDOW, Bar { kind: BarKind::Io, size: 64 });
        DeviceCell::new(Self { state: SmbusState { config } })
    }
}

/// Bit 0 lets the window answer.
const HOST_CONFIGURATION: u8 = 0x40;

impl Device for SmbusFunction {
    fn reset(&mut self, _kind: ResetKind) {
        self.state.config.reset();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {}
}

impl PciFunction for SmbusFunction {
    fn config(&self) -> &ConfigSpace {
        &self.state.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.state.config
    }

    fn window_address(&self, index: usize) -> Option<u64> {
        let is_on = self.state.config.u8(HOST_CONFIGURATION) & 1 != 0;
        self.state.config.bar_address(index).filter(|_| is_on)
    }
}

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "ICH9LPC/rcrb", version = 1)]
struct RcrbState {
    registers: [u8; RCRB_LEN as usize],
}

/// The chipset configuration registers (Intel 316972, chapter 10): storage. Interrupt routes are wired as after a reset.
/// Region 0.
pub struct Rcrb {
    // Guest-visible state.
    state: Box<RcrbState>,
    // Wiring.
    no_reboot: Arc<AtomicBool>,
}

/// General control and status: bit 5 keeps the watchdog from resetting the machine.
const GCS: usize = 0x3410;
const NO_REBOOT: u8 = 0x20;
/// Interrupt routes of devices 31, 29 to 25: pins A to D to PIRQA to PIRQD.
const ROUTES: [usize; 6] = [0x3140, 0x3144, 0x3146, 0x3148, 0x314c, 0x3150];

impl Rcrb {
    /// The registers at reset; `no_reboot` follows the bit.
    pub fn new(no_reboot: Arc<AtomicBool>) -> Self {
        let mut registers = Self { state: Box::new(RcrbState { registers: [0; RCRB_LEN as usize] }), no_reboot };
        registers.reset(ResetKind::Cold);
        registers
    }

    fn announce(&self) {
        self.no_reboot.store(self.state.registers[GCS] & NO_REBOOT != 0, Ordering::Release);
    }
}

impl Device for Rcrb {
    fn reset(&mut self, _kind: ResetKind) {
        self.state.registers.fill(0);
        for at in ROUTES {
            self.state.registers[at..at + 2].copy_from_slice(&0x3210_u16.to_le_bytes());
        }
        self.state.registers[GCS] = NO_REBOOT;
        self.announce();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut *self.state)
    }

    fn restored(&mut self) {
        self.announce();
    }
}

impl IoDevice for Rcrb {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Dword)
    }

    fn read(&mut self, _region: usize, offset: u64, size: AccessSize) -> u64 {
        let bytes = self.state.registers.iter().skip(offset as usize).take(size.bytes());
        bytes.zip(0..).fold(0, |value, (byte, index)| value | u64::from(*byte) << (8 * index))
    }

    fn write(&mut self, _region: usize, offset: u64, size: AccessSize, value: u64) {
        let bytes = self.state.registers.iter_mut().skip(offset as usize).take(size.bytes());
        for (byte, new) in bytes.zip(value.to_le_bytes()) {
            *byte = new;
        }
        self.announce();
    }
}
