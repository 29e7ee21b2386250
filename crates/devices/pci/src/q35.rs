//! The Q35 memory controller hub, slot 0 function 0 (Intel 316966, 5.1): PCIEXBAR, which maps configuration space into
//! memory, the PAM registers, and system-management RAM with TSEG. What the registers decide is carried out by the
//! machine; the rest of them is plain storage.
//!
//! Two registers are QEMU's own: the size of an extended TSEG (0x50) and the lock of the default SMBASE (0x9c).

use std::sync::{Arc, Weak};

use device::{AccessSize, Device, DeviceCell, DeviceState, ResetKind};
use memory::{Backing, Io, SpaceKind};
use state::State;

use crate::bus::{Address, PciBus, PciFunction, Window};
use crate::config::{ConfigSpace, Identity};
use crate::shadow::{PamRegisters, SetPam};
pub use crate::smram::Smram;
use crate::smram::bits;

const EXTENDED_TSEG: u8 = 0x50;
const PCIEXBAR: u8 = 0x60;
const PAM: PamRegisters = PamRegisters(0x90);
const SMRAM: u8 = 0x9d;
const ESMRAMC: u8 = 0x9e;
/// Where firmware usually maps configuration space, and what the register holds at reset, not enabled.
pub const PCIEXBAR_DEFAULT: u64 = 0xb000_0000;
const SMBASE: u8 = 0x9c;
/// The question whether there is RAM that can be locked, the answer, and the lock.
const SMBASE_QUERY: u8 = 0xff;
const SMBASE_IN_RAM: u8 = 1;
const SMBASE_LOCKED: u8 = 2;
/// The question for them.
const EXTENDED_TSEG_QUERY: u16 = 0xffff;

/// Bits of the extended SMRAM register.
mod esmramc {
    pub const TSEG_ENABLE: u8 = 0x01;
    pub const TSEG_SIZE: u8 = 0x06;
    pub const SIZE_1M: u8 = 0x00;
    pub const SIZE_2M: u8 = 0x02;
    pub const SIZE_8M: u8 = 0x04;
    pub const CACHE: u8 = 0x38;
    pub const HIGH: u8 = 0x80;
    pub const WRITABLE: u8 = HIGH | TSEG_SIZE | TSEG_ENABLE;
}

/// The lengths that PCIEXBAR can decode; each is a window of its own.
const LENGTHS: [u64; 3] = [256 << 20, 128 << 20, 64 << 20];

/// Takes the registers of system-management RAM. Called with the device locked.
pub type SetSmram = Box<dyn FnMut(Smram) + Send>;

/// What differs between versions of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MchOptions {
    /// `extended-tseg-mbytes=`: mebibytes of the extended TSEG; 0 for none.
    pub extended_tseg_mib: u16,
    /// `smbase-smram=`: whether the RAM at the default SMBASE can be locked.
    pub has_smbase: bool,
}

/// How far the negotiation about the RAM at the default SMBASE is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, State)]
#[repr(u8)]
enum Smbase {
    /// Nobody has asked.
    Unknown = 0,
    /// The guest has asked.
    InRam = 1,
    /// Until a reset.
    Locked = 2,
}

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "mch", version = 1)]
struct MchState {
    config: ConfigSpace,
    smbase: Smbase,
}

/// The hub.
pub struct Mch {
    // Configuration.
    options: MchOptions,
    // Wiring.
    set_pam: SetPam,
    set_smram: SetSmram,
    // Guest-visible state.
    state: MchState,
}

impl Mch {
    /// The hub. `set_pam` gets each segment's mode and `set_smram` what the registers of system-management RAM say,
    /// whenever they may have changed.
    pub fn new(options: MchOptions, set_pam: SetPam, set_smram: SetSmram) -> DeviceCell<Self> {
        let identity = Identity { vendor: 0x8086, device: 0x29c0, revision: 0, class: 0x0600, prog_if: 0 };
        let mut config = ConfigSpace::new(&identity);
        config.set_u32(PCIEXBAR, PCIEXBAR_DEFAULT as u32);
        config.set_u8(SMRAM, bits::BASE_SEGMENT);
        config.allow_u8(SMRAM, bits::WRITABLE);
        config.set_u8(ESMRAMC, esmramc::CACHE);
        config.allow_u8(ESMRAMC, esmramc::WRITABLE);
        if options.extended_tseg_mib > 0 {
            config.set_u16(EXTENDED_TSEG, options.extended_tseg_mib);
        }
        let state = MchState { config, smbase: Smbase::Unknown };
        DeviceCell::new(Self { options, set_pam, set_smram, state })
    }

    /// The windows of configuration space on `bus`, to attach the function with.
    pub fn windows(bus: &Arc<PciBus>) -> Vec<Window> {
        let backing = configuration_window(bus);
        let window = |(index, len): (usize, &u64)| Window {
            index,
            space: SpaceKind::Memory,
            offset: 0,
            len: *len,
            priority: 1,
            backing: backing.clone(),
        };
        LENGTHS.iter().enumerate().map(window).collect()
    }

    /// Where configuration space is mapped: first address, and which of the lengths.
    fn pciexbar(&self) -> Option<(u64, usize)> {
        let config = &self.state.config;
        let value = u64::from(config.u32(PCIEXBAR + 4)) << 32 | u64::from(config.u32(PCIEXBAR));
        let length = (value >> 1 & 3) as usize;
        let len = *LENGTHS.get(length)?;
        let address = value & 0xf_ffff_ffff & !(len - 1);
        (value & 1 != 0).then_some((address, length))
    }

    fn smram(&self) -> Smram {
        let (smram, extended) = (self.state.config.u8(SMRAM), self.state.config.u8(ESMRAMC));
        let is_enabled = smram & bits::ENABLE != 0;
        let tseg = match extended & esmramc::TSEG_SIZE {
            _ if !is_enabled || extended & esmramc::TSEG_ENABLE == 0 => 0,
            esmramc::SIZE_1M => 1,
            esmramc::SIZE_2M => 2,
            esmramc::SIZE_8M => 8,
            _ => u64::from(self.options.extended_tseg_mib),
        };
        Smram {
            is_enabled,
            is_open: smram & bits::OPEN != 0,
            is_high: extended & esmramc::HIGH != 0,
            tseg: tseg << 20,
            has_smbase: self.state.smbase == Smbase::Locked,
        }
    }

    /// The guest has written the register of the default SMBASE.
    fn negotiate_smbase(&mut self) {
        if !self.options.has_smbase {
            return;
        }
        let written = self.state.config.u8(SMBASE);
        self.state.smbase = match self.state.smbase {
            Smbase::Unknown if written == SMBASE_QUERY => Smbase::InRam,
            Smbase::InRam if written & SMBASE_LOCKED != 0 => Smbase::Locked,
            other => other,
        };
        self.state.config.store_u8(
            SMBASE,
            match self.state.smbase {
                Smbase::Unknown => 0,
                Smbase::InRam => SMBASE_IN_RAM,
                Smbase::Locked => SMBASE_LOCKED,
            },
        );
    }

    /// Tells the machine what the registers say.
    fn announce(&mut self) {
        PAM.announce(&self.state.config, &mut self.set_pam);
        let smram = self.smram();
        (self.set_smram)(smram);
    }
}

impl Device for Mch {
    fn reset(&mut self, kind: ResetKind) {
        self.state.smbase = Smbase::Unknown;
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

impl PciFunction for Mch {
    fn config(&self) -> &ConfigSpace {
        &self.state.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.state.config
    }

    fn write_config(&mut self, offset: u8, size: AccessSize, value: u32) {
        let config = &mut self.state.config;
        let (old, old_extended) = (config.u8(SMRAM), config.u8(ESMRAMC));
        config.write(offset, size, value);
        if old & bits::LOCK != 0 {
            // Locked until a reset, except for the bit that closes it to data.
            let close = config.u8(SMRAM) & bits::CLOSE;
            config.store_u8(SMRAM, old & !bits::CLOSE | close);
            config.store_u8(ESMRAMC, old_extended);
        } else if config.u8(SMRAM) & bits::LOCK != 0 {
            config.store_u8(SMRAM, config.u8(SMRAM) & !bits::OPEN);
        }
        let extended = self.options.extended_tseg_mib;
        let is_asked = (EXTENDED_TSEG..EXTENDED_TSEG + 2).contains(&offset);
        if extended > 0 && is_asked && config.u16(EXTENDED_TSEG) == EXTENDED_TSEG_QUERY {
            let [low, high] = extended.to_le_bytes();
            config.store_u8(EXTENDED_TSEG, low);
            config.store_u8(EXTENDED_TSEG + 1, high);
        }
        if (offset..=offset.saturating_add(size.bytes() as u8 - 1)).contains(&SMBASE) {
            self.negotiate_smbase();
        }
        self.announce();
    }

    fn window_address(&self, index: usize) -> Option<u64> {
        self.pciexbar().filter(|(_, length)| *length == index).map(|(address, _)| address)
    }
}

/// Configuration space in memory (PCI Express Base Specification 2.0, 7.2.2): 4 KiB for each function.
struct Ecam(Weak<PciBus>);

/// The configuration space of all functions behind a bus, to be mapped: 4 KiB for each.
pub fn configuration_window(bus: &Arc<PciBus>) -> Backing {
    Backing::Io(Arc::new(Ecam(Arc::downgrade(bus))))
}

impl Ecam {
    fn target(&self, offset: u64) -> Option<(Arc<PciBus>, Address, u64)> {
        let bus = self.0.upgrade()?.bus_with_number((offset >> 20) as u8)?;
        Some((bus, Address::from_devfn((offset >> 12) as u8), offset & 0xfff))
    }
}

impl Io for Ecam {
    fn read(&self, offset: u64, size: AccessSize) -> u64 {
        match self.target(offset) {
            Some((bus, address, register @ 0..=0xff)) => u64::from(bus.read_config(address, register as u8, size)),
            Some((bus, address, register)) => u64::from(bus.read_extended(address, register as u16, size)),
            None => size.mask(),
        }
    }

    fn write(&self, offset: u64, size: AccessSize, value: u64) {
        match self.target(offset) {
            Some((bus, address, register @ 0..=0xff)) => {
                bus.write_config(address, register as u8, size, value as u32);
            }
            Some((bus, address, register)) => bus.write_extended(address, register as u16, size, value as u32),
            None => {}
        }
    }
}

/// The wiring of the root bus's pins to PIRQA–PIRQH (Intel 316972, 10.1.25 ff., at their reset values): slots from 25 on
/// are the chipset's own and use the first four, the others the last four, rotating by slot; slot 30 does not rotate.
pub fn swizzle(slot: u8, pin: u8) -> usize {
    match slot {
        30 => usize::from(pin & 3) + 4,
        25..=31 => usize::from(pin & 3),
        _ => usize::from(slot.wrapping_add(pin) & 3) + 4,
    }
}
