//! QEMU's `bochs-display`: Bochs' display interface in memory without a VGA behind it. A mode is shown while it is
//! enabled, has at least 64 × 64 pixels and fits into video memory; there are no palettes, no banks and no ports.

use std::sync::Arc;

use device::{AccessSize, Device, DeviceCell, DeviceState, Handle, IoDevice, ResetKind};
use devices_pci::{Bar, BarKind, ConfigSpace, Identity, PciFunction, Window};
use display::{Screen, Surface};
use memory::{Backing, RamBlock, RamError, SpaceKind};
use state::State;

use crate::card::{BIG_ENDIAN, CardOptions, IDENTITY, LITTLE_ENDIAN, QEMU_REGISTERS_LEN, video_memory};
use crate::dispi::{self, index};
use crate::edid::{self, EDID_SIZE};

const VRAM_BAR: usize = 0;
const MMIO_BAR: usize = 2;
const MMIO_LEN: u64 = 4096;
/// Fewer columns or rows are no mode.
const SIDE_MIN: u32 = 64;

/// Region 0: the page of registers, where nothing else is.
pub const REGION_MMIO: usize = 0;
/// Region 1: the monitor's description.
pub const REGION_EDID: usize = 1;
/// Region 2: Bochs' registers.
pub const REGION_VBE: usize = 2;
/// Region 3: QEMU's registers.
pub const REGION_QEMU: usize = 3;

#[derive(Clone, State)]
#[state(name = "bochs-display", version = 1)]
struct BochsState {
    config: ConfigSpace,
    vbe: [u16; index::COUNT],
    is_big_endian: bool,
}

/// The card.
pub struct BochsDisplay {
    // Configuration.
    edid: [u8; EDID_SIZE],
    // Host resources.
    vram: Arc<RamBlock>,
    // Guest-visible state.
    state: BochsState,
}

impl BochsDisplay {
    /// A card with its windows on the PCI bus. Of the options, those of the VGA's registers do not count.
    ///
    /// # Errors
    /// The host has no memory for it.
    pub fn build(options: &CardOptions) -> Result<(DeviceCell<Self>, Vec<Window>), RamError> {
        let vram = video_memory(options.vgamem_mb)?;
        let (vendor, device) = IDENTITY;
        let mut config = ConfigSpace::new(&Identity { vendor, device, revision: 2, class: 0x0380, prog_if: 0 });
        config.add_bar(VRAM_BAR, Bar { kind: BarKind::Prefetchable32, size: vram.len() as u64 });
        config.add_bar(MMIO_BAR, Bar { kind: BarKind::Memory32, size: MMIO_LEN });
        let state = BochsState { config, vbe: [0; index::COUNT], is_big_endian: false };
        let edid = edid::generate(&options.monitor);
        let cell = DeviceCell::new(Self { edid, vram: Arc::clone(&vram), state });
        let window =
            |index, offset, len, backing| Window { index, space: SpaceKind::Memory, offset, len, priority: 1, backing };
        let len = vram.len() as u64;
        let mut windows = vec![window(VRAM_BAR, 0, len, Backing::Ram { block: vram, offset: 0, read_only: false })];
        let mut add = |region, offset, len| windows.push(window(MMIO_BAR, offset, len, cell.region(region)));
        add(REGION_MMIO, 0, MMIO_LEN);
        if options.edid {
            add(REGION_EDID, 0, EDID_SIZE as u64);
        }
        add(REGION_VBE, 0x500, 0x16);
        add(REGION_QEMU, 0x600, QEMU_REGISTERS_LEN);
        Ok((cell, windows))
    }

    /// What draws the card's screen.
    pub fn screen(card: &DeviceCell<Self>) -> Arc<dyn Screen> {
        Arc::new(BochsScreen(card.handle()))
    }
}

struct BochsScreen(Handle<BochsDisplay>);

impl Screen for BochsScreen {
    fn render(&self, picture: &mut Surface) {
        let copy = self.0.with(|card| (card.state.vbe, card.state.is_big_endian, Arc::clone(&card.vram)));
        if let Some((vbe, is_big_endian, vram)) = copy {
            render(&vbe, is_big_endian, &vram, picture);
        }
    }
}

fn render(vbe: &[u16; index::COUNT], is_big_endian: bool, vram: &RamBlock, picture: &mut Surface) {
    if vbe[index::ENABLE] & dispi::enable::ENABLED == 0 {
        return;
    }
    let bytes = match vbe[index::BPP] {
        16 => 2,
        32 => 4,
        _ => return,
    };
    let (width, height) = (u32::from(vbe[index::XRES]), u32::from(vbe[index::YRES]));
    if width < SIDE_MIN || height < SIDE_MIN {
        return;
    }
    let stride = (vbe[index::VIRT_WIDTH].max(vbe[index::XRES])) as usize * bytes;
    let start = usize::from(vbe[index::X_OFFSET]) * bytes + usize::from(vbe[index::Y_OFFSET]) * stride;
    if start + stride * (height as usize) > vram.len() {
        return;
    }
    picture.resize(width, height);
    let mut line = vec![0; width as usize * bytes];
    for y in 0..height {
        vram.read(start + y as usize * stride, &mut line);
        for (pixel, bytes) in picture.row_mut(y).iter_mut().zip(line.chunks_exact(bytes)) {
            *pixel = match *bytes {
                [low, high] => {
                    let value =
                        if is_big_endian { u16::from_be_bytes([low, high]) } else { u16::from_le_bytes([low, high]) };
                    five_six_five(value)
                }
                [a, b, c, d] if is_big_endian => u32::from_be_bytes([a, b, c, d]) & 0xff_ffff,
                [a, b, c, d] => u32::from_le_bytes([a, b, c, d]) & 0xff_ffff,
                _ => 0,
            };
        }
    }
}

/// Five, six and five bits, whose highest fill up the lowest.
fn five_six_five(value: u16) -> u32 {
    let value = u32::from(value);
    let (red, green, blue) = (value >> 8 & 0xf8, value >> 3 & 0xfc, value << 3 & 0xf8);
    (red | red >> 5) << 16 | (green | green >> 6) << 8 | blue | blue >> 5
}

impl Device for BochsDisplay {
    fn reset(&mut self, _kind: ResetKind) {
        self.state.config.reset();
        self.state.vbe = [0; index::COUNT];
        self.state.is_big_endian = false;
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {}
}

impl PciFunction for BochsDisplay {
    fn config(&self) -> &ConfigSpace {
        &self.state.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.state.config
    }
}

impl IoDevice for BochsDisplay {
    fn access_sizes(&self, region: usize) -> (AccessSize, AccessSize) {
        match region {
            REGION_VBE => (AccessSize::Word, AccessSize::Word),
            REGION_QEMU => (AccessSize::Dword, AccessSize::Dword),
            _ => (AccessSize::Byte, AccessSize::Byte),
        }
    }

    fn read(&mut self, region: usize, offset: u64, _size: AccessSize) -> u64 {
        let number = (offset >> 1) as usize;
        match (region, offset) {
            (REGION_EDID, _) => u64::from(self.edid.get(offset as usize).copied().unwrap_or(0)),
            (REGION_VBE, _) => u64::from(match number {
                index::ID => dispi::ID,
                index::VIDEO_MEMORY_64K => (self.vram.len() >> 16) as u16,
                _ => self.state.vbe.get(number).copied().unwrap_or(0),
            }),
            (REGION_QEMU, 0) => QEMU_REGISTERS_LEN,
            (REGION_QEMU, 4) if self.state.is_big_endian => u64::from(BIG_ENDIAN),
            (REGION_QEMU, 4) => u64::from(LITTLE_ENDIAN),
            _ => 0,
        }
    }

    fn write(&mut self, region: usize, offset: u64, _size: AccessSize, value: u64) {
        match (region, offset) {
            (REGION_VBE, _) => {
                if let Some(register) = self.state.vbe.get_mut((offset >> 1) as usize) {
                    *register = value as u16;
                }
            }
            (REGION_QEMU, 4) => match value as u32 {
                BIG_ENDIAN => self.state.is_big_endian = true,
                LITTLE_ENDIAN => self.state.is_big_endian = false,
                _ => {}
            },
            _ => {}
        }
    }
}
