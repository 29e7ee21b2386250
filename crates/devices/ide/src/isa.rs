//! An IDE channel on the ISA bus (ATA/ATAPI-4 behind the AT task file), as each of the two of an ISA-only PC is one.
//!
//! There is no bus master: transfers by DMA never begin.

use std::sync::Arc;

use device::{AccessSize, Device, DeviceCell, DeviceState, Handle, IoDevice, IrqLine, ResetKind};
use memory::DmaView;
use state::State;

use crate::channel::{Channel, ChannelHost, ChannelState, Completion};
use crate::drive::{Drive, DriveHost, DriveOptions};
use crate::events::{DriveAccess, DriveEvents};

/// The command block, eight ports.
pub const REGION_COMMAND: usize = 0;
/// Alternate status and device control, one port.
pub const REGION_CONTROL: usize = 1;

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "isa-ide", version = 1)]
struct IsaIdeState {
    channel: ChannelState,
}

/// The channel.
pub struct IsaIde {
    // Wiring and host resources.
    channel: ChannelHost,
    handle: Handle<Self>,
    // Guest-visible state.
    state: IsaIdeState,
}

impl IsaIde {
    /// A channel without drives.
    pub fn new(line: IrqLine, dma: &DmaView) -> DeviceCell<Self> {
        DeviceCell::new_cyclic(|handle: &Handle<Self>| {
            let channel = ChannelHost::new(line, dma.clone(), completion(handle));
            Self { channel, handle: handle.clone(), state: IsaIdeState { channel: ChannelState::default() } }
        })
    }

    /// Connects a drive as unit 0 or 1.
    pub fn connect(&mut self, unit: usize, options: DriveOptions, disk: Arc<dyn device::disk::Disk>) {
        let handle = self.handle.clone();
        let access: DriveAccess = Arc::new(move |visit: &mut dyn FnMut(&mut Drive<'_>)| {
            handle.with(|ide| {
                if let Some(mut drive) = ide.channel().drive(unit) {
                    visit(&mut drive);
                }
            });
        });
        let events = DriveEvents::register(&*disk, options.kind, access);
        self.channel.connect(unit, DriveHost::new(options, disk, false), events);
        self.channel().reset();
    }

    fn channel(&mut self) -> Channel<'_> {
        Channel { host: &mut self.channel, state: &mut self.state.channel, is_bus_master: false }
    }
}

fn completion(handle: &Handle<IsaIde>) -> Completion {
    let handle = handle.clone();
    Arc::new(move |unit, token, result| {
        handle.with(|ide| ide.channel().complete(unit, token, result));
    })
}

impl Device for IsaIde {
    fn reset(&mut self, _kind: ResetKind) {
        self.channel().reset();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        self.channel().restored();
    }
}

impl IoDevice for IsaIde {
    fn access_sizes(&self, region: usize) -> (AccessSize, AccessSize) {
        match region {
            REGION_CONTROL => (AccessSize::Byte, AccessSize::Byte),
            _ => (AccessSize::Byte, AccessSize::Dword),
        }
    }

    fn read(&mut self, region: usize, offset: u64, size: AccessSize) -> u64 {
        match region {
            REGION_CONTROL => u64::from(self.channel().read_alternate_status()),
            _ => self.channel().read(offset, size),
        }
    }

    fn write(&mut self, region: usize, offset: u64, size: AccessSize, value: u64) {
        match region {
            REGION_CONTROL => self.channel().write_control(value as u8),
            _ => self.channel().write(offset, size, value),
        }
    }
}
