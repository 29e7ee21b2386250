//! The PCI cards with a VGA: QEMU's `VGA` (1234:1111, class 0300H) with the legacy ports and the window at 0xA0000, and
//! `secondary-vga` (class 0380H), which has only its registers in memory.
//!
//! BAR 0 is video memory, BAR 2 a page of registers: the monitor's description at 0, the VGA's ports from 0x3C0 at 0x400,
//! Bochs' interface at 0x500, QEMU's own registers (size, order of bytes) at 0x600.

use std::sync::Arc;

use clock::Clock;
use device::{AccessSize, Device, DeviceCell, DeviceState, Handle, IoDevice, ResetKind};
use devices_pci::{Bar, BarKind, ConfigSpace, Identity, PciFunction, Window};
use display::text::TextScreen;
use display::{Screen, Surface};
use memory::{AddressSpace, Backing, RamBlock, RamError, SpaceKind};

use crate::edid::{self, EDID_SIZE, EdidOptions};
use crate::vga::Vga;

/// QEMU's vendor and device number for the card.
pub const IDENTITY: (u16, u16) = (0x1234, 0x1111);
const DISPLAY_VGA: u16 = 0x0300;
const DISPLAY_OTHER: u16 = 0x0380;

/// Base address registers.
const VRAM_BAR: usize = 0;
const MMIO_BAR: usize = 2;
const ROM_BAR: usize = 6;
/// Bytes of the page of registers.
const MMIO_LEN: u64 = 4096;

/// Regions of the card.
pub mod region {
    /// Ports 0x3B4, 0x3B5.
    pub const MONO_CRTC: usize = 0;
    /// Port 0x3BA.
    pub const MONO_STATUS: usize = 1;
    /// Ports 0x3C0–0x3CF.
    pub const VGA: usize = 2;
    /// Ports 0x3D4, 0x3D5.
    pub const CRTC: usize = 3;
    /// Port 0x3DA.
    pub const STATUS: usize = 4;
    /// Ports 0x1CE–0x1D1: Bochs' interface.
    pub const VBE_PORTS: usize = 5;
    /// Memory 0xA0000–0xBFFFF.
    pub const WINDOW: usize = 6;
    /// The page of registers, where nothing else is.
    pub const MMIO: usize = 7;
    /// The monitor's description.
    pub const EDID: usize = 8;
    /// Ports 0x3C0–0x3DF in memory.
    pub const VGA_MMIO: usize = 9;
    /// Bochs' registers in memory.
    pub const VBE_MMIO: usize = 10;
    /// QEMU's registers.
    pub const QEMU: usize = 11;
}

/// The legacy ports: region, first port, how many.
pub const LEGACY_PORTS: [(usize, u64, u64); 6] = [
    (region::MONO_CRTC, 0x3b4, 2),
    (region::MONO_STATUS, 0x3ba, 1),
    (region::VGA, 0x3c0, 16),
    (region::CRTC, 0x3d4, 2),
    (region::STATUS, 0x3da, 1),
    (region::VBE_PORTS, 0x1ce, 4),
];

/// QEMU's registers say this of their size.
pub(crate) const QEMU_REGISTERS_LEN: u64 = 8;
pub(crate) const BIG_ENDIAN: u32 = 0xbebe_bebe;
pub(crate) const LITTLE_ENDIAN: u32 = 0x1e1e_1e1e;

/// Where a VGA's legacy parts go.
pub enum Legacy {
    /// To the board: the window at 0xA0000 is in this address space. The ROM is the VGA BIOS, if there is one.
    Board {
        /// Guest-physical memory.
        memory: Arc<AddressSpace>,
        /// The contents of the expansion ROM.
        rom: Option<Vec<u8>>,
    },
    /// Nowhere: a second card.
    None,
}

/// What the user chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CardOptions {
    /// MiB of video memory: it becomes a power of two from 1 to 512.
    pub vgamem_mb: u32,
    /// The page of registers exists.
    pub mmio: bool,
    /// QEMU's own registers exist.
    pub qemu_extended_regs: bool,
    /// The monitor's description exists.
    pub edid: bool,
    /// What it says.
    pub monitor: EdidOptions,
}

impl Default for CardOptions {
    fn default() -> Self {
        Self { vgamem_mb: 16, mmio: true, qemu_extended_regs: true, edid: true, monitor: EdidOptions::default() }
    }
}

/// Makes video memory.
pub(crate) fn video_memory(vgamem_mb: u32) -> Result<Arc<RamBlock>, RamError> {
    let mib = vgamem_mb.clamp(1, 512).next_power_of_two();
    RamBlock::new("vga.vram", u64::from(mib) << 20).map(Arc::new)
}

/// A card.
pub struct VgaCard {
    // Configuration.
    edid: [u8; EDID_SIZE],
    // The guest-visible state is within.
    vga: Vga,
}

/// A card in its cell, with what the bus and the board map of it.
pub struct Built {
    /// The card.
    pub card: DeviceCell<VgaCard>,
    /// Its windows on the PCI bus.
    pub windows: Vec<Window>,
}

impl VgaCard {
    /// A card.
    ///
    /// # Errors
    /// The host has no memory for it.
    pub fn build(options: &CardOptions, clock: &Clock, legacy: Legacy) -> Result<Built, RamError> {
        let vram = video_memory(options.vgamem_mb)?;
        let (memory, rom, class) = match legacy {
            Legacy::Board { memory, rom } => (Some(memory), rom, DISPLAY_VGA),
            Legacy::None => (None, None, DISPLAY_OTHER),
        };
        let has_mmio = options.mmio || memory.is_none();
        let revision = if has_mmio && options.qemu_extended_regs { 2 } else { 0 };
        let (vendor, device) = IDENTITY;
        let mut config = ConfigSpace::new(&Identity { vendor, device, revision, class, prog_if: 0 });
        config.add_bar(VRAM_BAR, Bar { kind: BarKind::Prefetchable32, size: vram.len() as u64 });
        if has_mmio {
            config.add_bar(MMIO_BAR, Bar { kind: BarKind::Memory32, size: MMIO_LEN });
        }
        let rom = rom.map(|image| rom_block(&image)).transpose()?;
        if let Some(rom) = &rom {
            config.add_bar(ROM_BAR, Bar { kind: BarKind::Rom, size: rom.len() as u64 });
        }
        let edid = edid::generate(&options.monitor);
        let vga = Vga::new(config, Arc::clone(&vram), clock, memory);
        let card = DeviceCell::new(Self { edid, vga });
        let windows = windows(&card, options, has_mmio, &vram, rom);
        Ok(Built { card, windows })
    }

    /// What draws the card's screen.
    pub fn screen(card: &DeviceCell<Self>) -> Arc<dyn Screen> {
        Arc::new(CardScreen(card.handle()))
    }
}

/// An expansion ROM: a power of two of bytes.
fn rom_block(image: &[u8]) -> Result<Arc<RamBlock>, RamError> {
    let len = image.len().clamp(4096, 16 << 20).next_power_of_two();
    let block = RamBlock::new("vga.rom", len as u64)?;
    block.write(0, &image[..image.len().min(len)]);
    Ok(Arc::new(block))
}

fn windows(
    card: &DeviceCell<VgaCard>,
    options: &CardOptions,
    has_mmio: bool,
    vram: &Arc<RamBlock>,
    rom: Option<Arc<RamBlock>>,
) -> Vec<Window> {
    let window =
        |index, offset, len, backing| Window { index, space: SpaceKind::Memory, offset, len, priority: 1, backing };
    let ram = |block: &Arc<RamBlock>, read_only| Backing::Ram { block: Arc::clone(block), offset: 0, read_only };
    let mut windows = vec![window(VRAM_BAR, 0, vram.len() as u64, ram(vram, false))];
    if let Some(rom) = rom {
        windows.push(window(ROM_BAR, 0, rom.len() as u64, ram(&rom, true)));
    }
    if has_mmio {
        let mut add = |region, offset, len| windows.push(window(MMIO_BAR, offset, len, card.region(region)));
        add(region::MMIO, 0, MMIO_LEN);
        if options.edid {
            add(region::EDID, 0, EDID_SIZE as u64);
        }
        add(region::VGA_MMIO, 0x400, 0x20);
        add(region::VBE_MMIO, 0x500, 0x16);
        if options.qemu_extended_regs {
            add(region::QEMU, 0x600, QEMU_REGISTERS_LEN);
        }
    }
    windows
}

struct CardScreen(Handle<VgaCard>);

impl Screen for CardScreen {
    fn text(&self) -> Option<TextScreen> {
        self.0.with(|card| card.vga.frame()).and_then(|frame| frame.text_screen())
    }

    fn render(&self, picture: &mut Surface) {
        // The card goes on while its picture is drawn.
        if let Some(frame) = self.0.with(|card| card.vga.frame()) {
            frame.render(picture);
        }
    }
}

impl Device for VgaCard {
    fn reset(&mut self, _kind: ResetKind) {
        self.vga.reset();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.vga.state)
    }

    fn restored(&mut self) {
        self.vga.restored();
    }
}

impl PciFunction for VgaCard {
    fn config(&self) -> &ConfigSpace {
        &self.vga.state.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.vga.state.config
    }
}

impl IoDevice for VgaCard {
    fn access_sizes(&self, region: usize) -> (AccessSize, AccessSize) {
        match region {
            region::VBE_PORTS | region::VBE_MMIO => (AccessSize::Word, AccessSize::Word),
            region::QEMU => (AccessSize::Dword, AccessSize::Dword),
            _ => (AccessSize::Byte, AccessSize::Byte),
        }
    }

    fn read(&mut self, region: usize, offset: u64, _size: AccessSize) -> u64 {
        match region {
            region::WINDOW => u64::from(self.vga.read_memory(offset)),
            region::EDID => u64::from(self.edid.get(offset as usize).copied().unwrap_or(0)),
            region::VBE_PORTS if offset == 0 => u64::from(self.vga.vbe_index()),
            region::VBE_PORTS => u64::from(self.vga.read_vbe()),
            region::VBE_MMIO => {
                self.vga.select_vbe((offset >> 1) as u16);
                u64::from(self.vga.read_vbe())
            }
            region::QEMU => match offset {
                0 => QEMU_REGISTERS_LEN,
                4 if self.vga.is_big_endian() => u64::from(BIG_ENDIAN),
                4 => u64::from(LITTLE_ENDIAN),
                _ => 0,
            },
            _ => port_offset(region).map_or(0, |first| u64::from(self.vga.read_port(first + offset as u16))),
        }
    }

    fn write(&mut self, region: usize, offset: u64, _size: AccessSize, value: u64) {
        match region {
            region::WINDOW => self.vga.write_memory(offset, value as u8),
            region::VBE_PORTS if offset == 0 => self.vga.select_vbe(value as u16),
            region::VBE_PORTS => self.vga.write_vbe(value as u16),
            region::VBE_MMIO => {
                self.vga.select_vbe((offset >> 1) as u16);
                self.vga.write_vbe(value as u16);
            }
            region::QEMU if offset == 4 => match value as u32 {
                BIG_ENDIAN => self.vga.set_big_endian(true),
                LITTLE_ENDIAN => self.vga.set_big_endian(false),
                _ => {}
            },
            _ => {
                if let Some(first) = port_offset(region) {
                    self.vga.write_port(first + offset as u16, value as u8);
                }
            }
        }
    }
}

/// The region's first port, from 0x3B0.
fn port_offset(region: usize) -> Option<u16> {
    match region {
        region::MONO_CRTC => Some(0x04),
        region::MONO_STATUS => Some(0x0a),
        region::VGA | region::VGA_MMIO => Some(0x10),
        region::CRTC => Some(0x24),
        region::STATUS => Some(0x2a),
        _ => None,
    }
}
