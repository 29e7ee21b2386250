//! The 440FX host bridge, slot 0 function 0 (Intel 290549, chapter 3): the PAM registers, which decide what answers from
//! 0xc0000 to 0xfffff, and the SMRAM register. What the registers decide is carried out by the machine; DRAM timing and
//! error registers are plain storage.

use device::{AccessSize, Device, DeviceCell, DeviceState, ResetKind};
use state::State;

use crate::bus::PciFunction;
use crate::config::{ConfigSpace, Identity};
use crate::q35::SetSmram;
use crate::shadow::{PamRegisters, SetPam};
use crate::smram::{Smram, bits};

/// The last DRAM row boundary register: the size of RAM in units of 8 MiB.
const DRB7: u8 = 0x57;
const PAM: PamRegisters = PamRegisters(0x59);
const SMRAM: u8 = 0x72;

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "I440FX", version = 1)]
struct I440fxState {
    config: ConfigSpace,
}

/// The host bridge.
pub struct I440fx {
    // Wiring.
    set_pam: SetPam,
    set_smram: SetSmram,
    // Guest-visible state.
    state: I440fxState,
}

impl I440fx {
    /// The bridge of a machine with `ram_size` bytes below 4 GiB. `set_pam` gets each segment's mode (see
    /// [`crate::shadow`]) and `set_smram` the SMRAM register, whenever they may have changed.
    pub fn new(ram_size: u64, set_pam: SetPam, set_smram: SetSmram) -> DeviceCell<Self> {
        let identity = Identity { vendor: 0x8086, device: 0x1237, revision: 2, class: 0x0600, prog_if: 0 };
        let mut config = ConfigSpace::new(&identity);
        config.set_u8(DRB7, u8::try_from(ram_size >> 23).unwrap_or(u8::MAX));
        config.set_u8(SMRAM, bits::BASE_SEGMENT);
        config.allow_u8(SMRAM, bits::WRITABLE);
        DeviceCell::new(Self { set_pam, set_smram, state: I440fxState { config } })
    }

    /// Tells the machine what the registers say.
    fn announce(&mut self) {
        PAM.announce(&self.state.config, &mut self.set_pam);
        let smram = self.state.config.u8(SMRAM);
        (self.set_smram)(Smram {
            is_enabled: smram & bits::ENABLE != 0,
            is_open: smram & bits::OPEN != 0,
            ..Smram::default()
        });
    }
}

impl Device for I440fx {
    fn reset(&mut self, kind: ResetKind) {
        PAM.reset(&mut self.state.config, kind);
        self.announce();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        self.announce();
    }
}

impl PciFunction for I440fx {
    fn config(&self) -> &ConfigSpace {
        &self.state.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.state.config
    }

    fn write_config(&mut self, offset: u8, size: AccessSize, value: u32) {
        let old = self.state.config.u8(SMRAM);
        self.state.config.write(offset, size, value);
        let new = self.state.config.u8(SMRAM);
        if old & bits::LOCK != 0 {
            // Locked until a reset.
            self.state.config.store_u8(SMRAM, old);
        } else if new & bits::LOCK != 0 {
            self.state.config.store_u8(SMRAM, new & !bits::OPEN);
        }
        self.announce();
    }
}
