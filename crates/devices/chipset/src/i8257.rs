//! The pair of 8257/8237A DMA controllers of a PC (Intel 231466) with the page registers: what firmware and drivers set
//! up and read back. A device on a channel asks [`I8257::channel`] where its transfer goes, moves the bytes itself, and
//! reports them with [`I8257::advance`].
//!
//! Left out: memory-to-memory transfers, cascading of bus masters, priorities and timing (a transfer is at once).

use device::{AccessSize, Device, DeviceState, IoDevice, ResetKind};
use state::State;

/// Region 0: channels 0–3, sixteen ports from 0x00.
pub const REGION_FIRST: usize = 0;
/// Region 1: channels 4–7, 32 ports from 0xc0; only even ones count.
pub const REGION_SECOND: usize = 1;
/// Region 2: the page registers, sixteen ports from 0x80 (0x80 itself is the POST port; map from 0x81).
pub const REGION_PAGES: usize = 2;

/// Which channel each page register from 0x80 on belongs to; the others are plain storage.
const PAGE_CHANNELS: [Option<usize>; 16] = [
    None,
    Some(2),
    Some(3),
    Some(1),
    None,
    None,
    None,
    Some(0),
    None,
    Some(6),
    Some(7),
    Some(5),
    None,
    None,
    None,
    Some(4),
];

/// Bit of a command register: the controller is off.
const DISABLED: u8 = 0x04;

/// The guest-visible state of one channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "i8257/channel", version = 1)]
struct ChannelState {
    base_address: u16,
    base_count: u16,
    address: u16,
    count: u16,
    mode: u8,
}

/// The guest-visible state of one controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "i8257", version = 1)]
struct ControllerState {
    channels: [ChannelState; 4],
    command: u8,
    /// Bits 0–3: terminal count reached; bits 4–7: request.
    status: u8,
    mask: u8,
    expects_high: bool,
}

/// The guest-visible state of the pair.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "dma", version = 1)]
struct DmaState {
    controllers: [ControllerState; 2],
    pages: [u8; 16],
}

/// The direction of a channel's transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Nothing moves.
    Verify,
    /// From the device to memory.
    ToMemory,
    /// From memory to the device.
    FromMemory,
}

/// Where the next bytes of a channel's transfer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes up to the terminal count.
    pub len: usize,
    /// The direction.
    pub direction: Direction,
    /// Addresses go down.
    pub is_descending: bool,
}

/// The pair of controllers.
#[derive(Debug, Default)]
pub struct I8257 {
    // Guest-visible state.
    state: DmaState,
}

impl I8257 {
    /// A pair as after a reset.
    pub fn new() -> Self {
        let mut dma = Self::default();
        dma.state.controllers.iter_mut().for_each(master_clear);
        dma
    }

    fn page(&self, channel: usize) -> u8 {
        let index = PAGE_CHANNELS.iter().position(|page| *page == Some(channel)).unwrap_or(0);
        self.state.pages[index]
    }

    /// What channel 0–7 is set up for; `None` while it is masked or its controller is off.
    pub fn channel(&self, channel: usize) -> Option<Transfer> {
        let controller = self.state.controllers.get(channel / 4)?;
        let state = &controller.channels[channel & 3];
        if controller.mask & (1 << (channel & 3)) != 0 || controller.command & DISABLED != 0 {
            return None;
        }
        // Channels 4–7 count words.
        let shift = channel / 4;
        let page = u64::from(self.page(channel));
        let page = if shift == 0 { page } else { page & !1 };
        Some(Transfer {
            address: page << 16 | u64::from(state.address) << shift,
            len: (usize::from(state.count) + 1) << shift,
            direction: match state.mode >> 2 & 3 {
                1 => Direction::ToMemory,
                2 => Direction::FromMemory,
                _ => Direction::Verify,
            },
            is_descending: state.mode & 0x20 != 0,
        })
    }

    /// The device on `channel` moved `bytes` bytes. Returns whether this reached the terminal count.
    pub fn advance(&mut self, channel: usize, bytes: usize) -> bool {
        let Some(controller) = self.state.controllers.get_mut(channel / 4) else { return false };
        let (index, units) = (channel & 3, bytes >> (channel / 4));
        let state = &mut controller.channels[index];
        let left = usize::from(state.count) + 1;
        let moved = units.min(left);
        let delta = moved as u16;
        state.address =
            if state.mode & 0x20 != 0 { state.address.wrapping_sub(delta) } else { state.address.wrapping_add(delta) };
        state.count = state.count.wrapping_sub(delta);
        if moved < left {
            return false;
        }
        controller.status |= 1 << index;
        if state.mode & 0x10 != 0 {
            (state.address, state.count) = (state.base_address, state.base_count);
        } else {
            controller.mask |= 1 << index;
        }
        true
    }

    /// The device on `channel` asks for a transfer, or does not any more (as the status register shows it).
    pub fn set_request(&mut self, channel: usize, is_requested: bool) {
        let Some(controller) = self.state.controllers.get_mut(channel / 4) else { return };
        let bit = 0x10 << (channel & 3);
        controller.status = if is_requested { controller.status | bit } else { controller.status & !bit };
    }
}

fn master_clear(controller: &mut ControllerState) {
    controller.command = 0;
    controller.status = 0;
    controller.mask = 0x0f;
    controller.expects_high = false;
}

fn read_controller(controller: &mut ControllerState, register: u64) -> u8 {
    match register {
        0..=7 => {
            let channel = &controller.channels[(register / 2) as usize];
            let value = if register & 1 == 0 { channel.address } else { channel.count };
            controller.expects_high = !controller.expects_high;
            (if controller.expects_high { value } else { value >> 8 }) as u8
        }
        8 => {
            let status = controller.status;
            // Reading clears the terminal counts.
            controller.status &= 0xf0;
            status
        }
        0xf => controller.mask,
        _ => 0,
    }
}

fn write_controller(controller: &mut ControllerState, register: u64, value: u8) {
    let bit = 1u8 << (value & 3);
    match register {
        0..=7 => {
            let channel = &mut controller.channels[(register / 2) as usize];
            let base = if register & 1 == 0 { &mut channel.base_address } else { &mut channel.base_count };
            controller.expects_high = !controller.expects_high;
            *base = if controller.expects_high {
                (*base & 0xff00) | u16::from(value)
            } else {
                (*base & 0x00ff) | u16::from(value) << 8
            };
            let base = *base;
            *if register & 1 == 0 { &mut channel.address } else { &mut channel.count } = base;
        }
        8 => controller.command = value,
        9 if value & 4 != 0 => controller.status |= bit << 4,
        9 => controller.status &= !(bit << 4),
        0xa if value & 4 != 0 => controller.mask |= bit,
        0xa => controller.mask &= !bit,
        0xb => controller.channels[usize::from(value & 3)].mode = value,
        0xc => controller.expects_high = false,
        0xd => master_clear(controller),
        0xe => controller.mask = 0,
        _ => controller.mask = value & 0x0f,
    }
}

impl Device for I8257 {
    fn reset(&mut self, _kind: ResetKind) {
        *self = Self::new();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {}
}

impl IoDevice for I8257 {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Byte)
    }

    fn read(&mut self, region: usize, offset: u64, _size: AccessSize) -> u64 {
        u64::from(match region {
            REGION_FIRST => read_controller(&mut self.state.controllers[0], offset & 0xf),
            REGION_SECOND if offset & 1 == 0 => read_controller(&mut self.state.controllers[1], offset >> 1 & 0xf),
            REGION_SECOND => 0xff,
            _ => self.state.pages[(offset & 0xf) as usize],
        })
    }

    fn write(&mut self, region: usize, offset: u64, _size: AccessSize, value: u64) {
        let value = value as u8;
        match region {
            REGION_FIRST => write_controller(&mut self.state.controllers[0], offset & 0xf, value),
            REGION_SECOND if offset & 1 == 0 => {
                write_controller(&mut self.state.controllers[1], offset >> 1 & 0xf, value);
            }
            REGION_SECOND => {}
            _ => self.state.pages[(offset & 0xf) as usize] = value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AccessSize::Byte;

    fn write_all(dma: &mut I8257, writes: &[(usize, u64, u64)]) {
        for (region, offset, value) in writes {
            dma.write(*region, *offset, Byte, *value);
        }
    }

    #[test]
    fn floppy_channel_is_set_up_moved_and_masked_at_its_end() {
        let mut dma = I8257::new();
        assert_eq!(dma.channel(2), None);
        let setup = [(0, 0xc, 0), (0, 4, 0x00), (0, 4, 0x12), (0, 5, 0xff), (0, 5, 0x01), (2, 1, 0x03), (0, 0xb, 0x46)];
        write_all(&mut dma, &setup);
        dma.write(0, 0xa, Byte, 2);
        let transfer = dma.channel(2).expect("unmasked");
        assert_eq!((transfer.address, transfer.len, transfer.direction), (0x3_1200, 512, Direction::ToMemory));
        assert!(!dma.advance(2, 500));
        assert_eq!(dma.channel(2).map(|transfer| transfer.len), Some(12));
        assert!(dma.advance(2, 12));
        assert_eq!(dma.channel(2), None);
        assert_eq!(dma.read(0, 8, Byte), 4);
        assert_eq!(dma.read(0, 8, Byte), 0);
    }

    #[test]
    fn second_controller_counts_words_at_even_ports() {
        let mut dma = I8257::new();
        let setup = [(1, 0x18, 0), (1, 4, 0x34), (1, 4, 0x12), (1, 6, 0), (1, 6, 0), (2, 0xb, 0x05), (1, 0x16, 0x59)];
        write_all(&mut dma, &setup);
        assert_eq!((dma.read(1, 4, Byte), dma.read(1, 4, Byte)), (0x34, 0x12));
        dma.write(1, 0x14, Byte, 1);
        let transfer = dma.channel(5).expect("unmasked");
        assert_eq!((transfer.address, transfer.len, transfer.direction), (0x4_2468, 2, Direction::FromMemory));
        assert!(dma.advance(5, 2), "terminal count");
        assert_eq!(dma.channel(5), Some(transfer), "automatic initialisation");
    }

    #[test]
    fn unknown_channels_are_harmless() {
        let mut dma = I8257::new();
        assert_eq!(dma.channel(9), None);
        assert!(!dma.advance(9, usize::MAX));
        dma.set_request(9, true);
        assert!(dma.advance(0, usize::MAX));
    }
}
