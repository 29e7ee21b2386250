//! Configuration mechanism #1 (PCI Local Bus Specification 3.0, 3.2.2.3.2): the address at port 0xcf8, the data at 0xcfc.
//! Port 0xcf9 between them, for byte accesses, is the PIIX3's reset control register.

use std::sync::Arc;

use device::{AccessSize, Device, DeviceState, IoDevice, ResetKind};
use state::State;

use crate::bus::{Address, PciBus};

/// Region 0: four ports from 0xcf8.
pub const REGION_ADDRESS: usize = 0;
/// Region 1: four ports from 0xcfc.
pub const REGION_DATA: usize = 1;

const ENABLE: u32 = 1 << 31;
/// Reset control: a rising bit 2 resets the processor, or with bit 1 the whole machine.
const RESET_CPU: u8 = 0x04;
const SYSTEM_RESET: u8 = 0x02;

/// The guest-visible state.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "pci_host", version = 1)]
struct MechanismState {
    address: u32,
    reset_control: u8,
}

/// Asks the machine for a reset. Called with the device locked: it must not wait for the reset.
pub type ResetRequest = Box<dyn FnMut() + Send>;

/// The configuration ports.
pub struct ConfigMechanism {
    // Host resources.
    reset: ResetRequest,
    // Wiring.
    bus: Arc<PciBus>,
    // Guest-visible state.
    state: MechanismState,
}

impl ConfigMechanism {
    /// Ports that reach the functions of `bus`; a write of the reset control register calls `reset`.
    pub fn new(bus: Arc<PciBus>, reset: ResetRequest) -> Self {
        Self { reset, bus, state: MechanismState::default() }
    }

    /// The selected bus, function and register; `None` when the address is disabled or there is no such bus.
    fn target(&self, offset: u64) -> Option<(Arc<PciBus>, Address, u8)> {
        let address = self.state.address;
        let bus = self.bus.bus_with_number((address >> 16) as u8).filter(|_| address & ENABLE != 0)?;
        // The lowest two bits of the address count, as QEMU has it: programs that write them to 0xcf8 mean them.
        Some((bus, Address::from_devfn((address >> 8) as u8), address as u8 | (offset & 3) as u8))
    }
}

impl Device for ConfigMechanism {
    fn reset(&mut self, _kind: ResetKind) {
        self.state = MechanismState::default();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {}
}

impl IoDevice for ConfigMechanism {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Dword)
    }

    fn read(&mut self, region: usize, offset: u64, size: AccessSize) -> u64 {
        match (region, offset, size) {
            (REGION_ADDRESS, 0, AccessSize::Dword) => u64::from(self.state.address),
            (REGION_ADDRESS, 1, AccessSize::Byte) => u64::from(self.state.reset_control),
            (REGION_ADDRESS, ..) => size.mask(),
            _ => match self.target(offset) {
                Some((bus, address, register)) => u64::from(bus.read_config(address, register, size)),
                None => size.mask(),
            },
        }
    }

    fn write(&mut self, region: usize, offset: u64, size: AccessSize, value: u64) {
        match (region, offset, size) {
            (REGION_ADDRESS, 0, AccessSize::Dword) => self.state.address = value as u32,
            (REGION_ADDRESS, 1, AccessSize::Byte) => {
                // As QEMU: either kind of reset is one of the machine.
                if value as u8 & RESET_CPU != 0 {
                    (self.reset)();
                } else {
                    self.state.reset_control = value as u8 & SYSTEM_RESET;
                }
            }
            (REGION_ADDRESS, ..) => {}
            _ => {
                if let Some((bus, address, register)) = self.target(offset) {
                    bus.write_config(address, register, size, value as u32);
                }
            }
        }
    }
}
