//! The generic PCI Express host bridge of QEMU: function 0.0 of its root bus, which has nothing but its identity.

use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, ResetKind};
use state::State;

use crate::bus::PciFunction;
use crate::config::{ConfigSpace, Identity};

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "gpex_root", version = 1)]
struct GpexState {
    config: ConfigSpace,
}

/// The function.
pub struct GpexRoot {
    state: GpexState,
}

/// The function in its cell.
pub fn root() -> DeviceCell<GpexRoot> {
    let identity = Identity { vendor: 0x1b36, device: 0x0008, revision: 0, class: 0x0600, prog_if: 0 };
    DeviceCell::new(GpexRoot { state: GpexState { config: ConfigSpace::new(&identity) } })
}

/// The wiring of the pins to the bridge's four interrupts.
pub fn swizzle(slot: u8, pin: u8) -> usize {
    (usize::from(slot) + usize::from(pin)) % 4
}

impl Device for GpexRoot {
    fn reset(&mut self, _kind: ResetKind) {
        self.state.config.reset();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {}
}

impl PciFunction for GpexRoot {
    fn config(&self) -> &ConfigSpace {
        &self.state.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.state.config
    }
}

impl IoDevice for GpexRoot {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Dword)
    }

    fn read(&mut self, _region: usize, _offset: u64, size: AccessSize) -> u64 {
        size.mask()
    }

    fn write(&mut self, _region: usize, _offset: u64, _size: AccessSize, _value: u64) {}
}
