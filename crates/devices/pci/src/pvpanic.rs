//! `pvpanic-pci` (1b36:0011): one byte of memory through which a guest reports that it crashed (QEMU,
//! `docs/specs/pvpanic.txt`).

use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, ResetKind};
use memory::SpaceKind;
use state::State;

use crate::bus::{PciFunction, Window};
use crate::config::{Bar, BarKind, ConfigSpace, Identity};

/// The name of the type.
pub const TYPE: &str = "pvpanic-pci";

/// Bytes that answer; the base address register decodes 16.
const LEN: u64 = 2;

/// Called with the event bits that the guest wrote, with the device's lock held.
pub type PanicReport = Box<dyn FnMut(u8) + Send>;

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "pvpanic-pci", version = 1)]
struct Registers {
    config: ConfigSpace,
}

/// The device.
pub struct PvpanicPci {
    // Configuration.
    events: u8,
    // Host resources.
    report: PanicReport,
    // Guest-visible state.
    registers: Registers,
}

impl PvpanicPci {
    /// A device that tells the guest that `events` exist.
    pub fn new(events: u8, report: PanicReport) -> DeviceCell<Self> {
        let mut config =
            ConfigSpace::new(&Identity { vendor: 0x1b36, device: 0x0011, revision: 1, class: 0x0880, prog_if: 0 });
        config.add_bar(0, Bar { kind: BarKind::Memory32, size: 16 });
        DeviceCell::new(Self { events, report, registers: Registers { config } })
    }

    /// The window to attach the function with.
    pub fn windows(cell: &DeviceCell<Self>) -> Vec<Window> {
        vec![Window { index: 0, space: SpaceKind::Memory, offset: 0, len: LEN, priority: 1, backing: cell.region(0) }]
    }
}

impl Device for PvpanicPci {
    fn reset(&mut self, _kind: ResetKind) {
        self.registers.config.reset();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.registers)
    }

    fn restored(&mut self) {}
}

impl PciFunction for PvpanicPci {
    fn config(&self) -> &ConfigSpace {
        &self.registers.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.registers.config
    }
}

impl IoDevice for PvpanicPci {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Byte)
    }

    fn read(&mut self, _region: usize, _offset: u64, _size: AccessSize) -> u64 {
        self.events.into()
    }

    fn write(&mut self, _region: usize, _offset: u64, _size: AccessSize, value: u64) {
        let event = value as u8 & self.events;
        if event != 0 {
            (self.report)(event);
        }
    }
}
