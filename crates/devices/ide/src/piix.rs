//! The IDE function of the PIIX3 (Intel 290550, chapter 2.3): two channels at the addresses and interrupts of every
//! PC, and the bus master's registers behind a base address register.
//!
//! As in QEMU, the channels answer whatever the timing registers say, and timing has no effect.

use device::{AccessSize, Device, DeviceCell, DeviceState, Handle, IoDevice, IrqLine, ResetKind};
use devices_pci::bus::{PciFunction, Window};
use devices_pci::config::{Bar, BarKind, ConfigSpace, Identity, reg, status};
use memory::{DmaView, SpaceKind};
use state::State;

use std::sync::Arc;

use crate::channel::{Channel, ChannelHost, ChannelState, Completion};
use crate::drive::{Drive, DriveHost, DriveOptions};
use crate::events::{DriveAccess, DriveEvents};

/// Regions 0 and 1: the command blocks of the channels, eight ports each.
pub const REGION_COMMAND: [usize; 2] = [0, 1];
/// Regions 2 and 3: alternate status and device control, one port each.
pub const REGION_CONTROL: [usize; 2] = [2, 3];
/// Region 4: the bus master, sixteen ports.
pub const REGION_BUS_MASTER: usize = 4;

/// First ports of the command blocks.
pub const COMMAND_PORTS: [u64; 2] = [0x1f0, 0x170];
/// Ports of alternate status and device control.
pub const CONTROL_PORTS: [u64; 2] = [0x3f6, 0x376];
/// Interrupts of the channels.
pub const IRQS: [u8; 2] = [14, 15];

const BUS_MASTER_BAR: usize = 4;
const BUS_MASTER_LEN: u64 = 16;

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "ide", version = 1)]
struct PiixIdeState {
    config: ConfigSpace,
    channels: [ChannelState; 2],
}

/// The function.
pub struct PiixIde {
    // Wiring and host resources.
    channels: [ChannelHost; 2],
    handle: Handle<Self>,
    // Guest-visible state.
    state: PiixIdeState,
}

impl PiixIde {
    /// A function without drives; the lines are those of the two channels.
    pub fn new(lines: [IrqLine; 2], dma: &DmaView) -> DeviceCell<Self> {
        let identity = Identity { vendor: 0x8086, device: 0x7010, revision: 0, class: 0x0101, prog_if: 0x80 };
        let mut config = ConfigSpace::new(&identity);
        config.set_u16(reg::STATUS, status::FAST_BACK_TO_BACK | status::DEVSEL_MEDIUM);
        config.add_bar(BUS_MASTER_BAR, Bar { kind: BarKind::Io, size: BUS_MASTER_LEN });
        DeviceCell::new_cyclic(|handle: &Handle<Self>| {
            let mut index = 0;
            let channels = lines.map(|line| {
                let channel = ChannelHost::new(line, dma.clone(), completion(handle, index));
                index += 1;
                channel
            });
            let state = PiixIdeState { config, channels: [ChannelState::default(), ChannelState::default()] };
            Self { channels, handle: handle.clone(), state }
        })
    }

    /// Connects a drive: channel 0 or 1, unit 0 or 1.
    pub fn connect(&mut self, channel: usize, unit: usize, options: DriveOptions, disk: Arc<dyn device::disk::Disk>) {
        let handle = self.handle.clone();
        let access: DriveAccess = Arc::new(move |visit: &mut dyn FnMut(&mut Drive<'_>)| {
            handle.with(|function| {
                if let Some(mut drive) = function.channel(channel).as_mut().and_then(|channel| channel.drive(unit)) {
                    visit(&mut drive);
                }
            });
        });
        let events = DriveEvents::register(&*disk, options.kind, access);
        if let Some(host) = self.channels.get_mut(channel) {
            host.connect(unit, DriveHost::new(options, disk, false), events);
        }
        if let Some(mut channel) = self.channel(channel) {
            channel.reset();
        }
    }

    /// The bus master's window.
    pub fn windows(cell: &DeviceCell<Self>) -> Vec<Window> {
        vec![Window {
            index: BUS_MASTER_BAR,
            space: SpaceKind::Ports,
            offset: 0,
            len: BUS_MASTER_LEN,
            priority: 1,
            backing: cell.region(REGION_BUS_MASTER),
        }]
    }

    fn channel(&mut self, index: usize) -> Option<Channel<'_>> {
        let is_bus_master = self.state.config.is_bus_master();
        let state = self.state.channels.get_mut(index)?;
        Some(Channel { host: self.channels.get_mut(index)?, state, is_bus_master })
    }
}

fn completion(handle: &Handle<PiixIde>, index: usize) -> Completion {
    let handle = handle.clone();
    Arc::new(move |unit, token, result| {
        handle.with(|function| {
            if let Some(mut channel) = function.channel(index) {
                channel.complete(unit, token, result);
            }
        });
    })
}

impl Device for PiixIde {
    fn reset(&mut self, _kind: ResetKind) {
        self.state.config.reset();
        for index in 0..2 {
            if let Some(mut channel) = self.channel(index) {
                channel.reset();
            }
        }
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        for index in 0..2 {
            if let Some(mut channel) = self.channel(index) {
                channel.restored();
            }
        }
    }
}

impl PciFunction for PiixIde {
    fn config(&self) -> &ConfigSpace {
        &self.state.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.state.config
    }
}

impl IoDevice for PiixIde {
    fn access_sizes(&self, region: usize) -> (AccessSize, AccessSize) {
        match region {
            2 | 3 => (AccessSize::Byte, AccessSize::Byte),
            _ => (AccessSize::Byte, AccessSize::Dword),
        }
    }

    fn read(&mut self, region: usize, offset: u64, size: AccessSize) -> u64 {
        let index = if region == REGION_BUS_MASTER { (offset >> 3) as usize } else { region & 1 };
        let Some(mut channel) = self.channel(index) else { return size.mask() };
        match region {
            REGION_BUS_MASTER => channel.read_bus_master(offset & 7, size),
            2 | 3 => u64::from(channel.read_alternate_status()),
            _ => channel.read(offset, size),
        }
    }

    fn write(&mut self, region: usize, offset: u64, size: AccessSize, value: u64) {
        let index = if region == REGION_BUS_MASTER { (offset >> 3) as usize } else { region & 1 };
        let Some(mut channel) = self.channel(index) else { return };
        match region {
            REGION_BUS_MASTER => channel.write_bus_master(offset & 7, size, value),
            2 | 3 => channel.write_control(value as u8),
            _ => channel.write(offset, size, value),
        }
    }
}

#[cfg(test)]
mod tests;
