//! A VGA (IBM PS/2 Hardware Interface Technical Reference, video subsystem) with Bochs' display interface, as QEMU's
//! standard card is one.
//!
//! Video memory is interleaved: the four planes of an address are four bytes after one another, so that "chain 4" is
//! plain memory, which the processors reach without the card. What the guest sees at 0xA0000 goes through the card in all
//! other modes ([`memory`](self)). The picture is made on demand from a copy of the registers ([`Frame`]).
//!
//! Status bits follow the clock: 70 frames of 449 lines a second, whatever the mode. Left out: panning by pixels and rows
//! (preset row scan), underlines, light pen, and the interrupt of the vertical retrace.

mod memory;
mod ports;
mod render;
mod vbe;

use std::sync::Arc;

use ::memory::{AddressSpace, RamBlock};
use clock::Clock;
use devices_pci::ConfigSpace;
use state::State;

use crate::dispi::{self, index};
use memory::Window;
pub use render::Frame;

/// The first of the ports: 0x3B0.
pub const PORTS: u16 = 0x3b0;
/// The legacy window.
pub const WINDOW: u64 = 0xa_0000;
/// Bytes of the legacy window.
pub const WINDOW_LEN: u64 = 0x2_0000;

/// The guest-visible state, but for video memory.
#[derive(Clone, Debug, State)]
#[state(name = "vga", version = 1)]
pub(crate) struct VgaState {
    /// The card's configuration space.
    pub(crate) config: ConfigSpace,
    latch: u32,
    #[state(max = 7)]
    sr_index: u8,
    sr: [u8; 8],
    /// What counts while a VBE mode is on.
    sr_vbe: [u8; 8],
    #[state(max = 15)]
    gr_index: u8,
    gr: [u8; 16],
    ar_index: u8,
    ar: [u8; 21],
    /// The next write to the attribute controller is data.
    ar_is_data: bool,
    cr_index: u8,
    cr: [u8; 256],
    msr: u8,
    fcr: u8,
    dac_state: u8,
    #[state(max = 2)]
    dac_sub_index: u8,
    dac_read_index: u8,
    dac_write_index: u8,
    dac_cache: [u8; 3],
    dac_8bit: bool,
    palette: [u8; 768],
    vbe_index: u16,
    vbe: [u16; index::COUNT],
    vbe_start: u32,
    vbe_line: u32,
    /// Where the bank at 0xA0000 begins.
    bank: u32,
    is_big_endian: bool,
}

impl VgaState {
    fn new(config: ConfigSpace) -> Self {
        let mut vbe = [0; index::COUNT];
        vbe[index::ID] = dispi::ID;
        Self {
            config,
            latch: 0,
            sr_index: 0,
            sr: [0; 8],
            sr_vbe: [0; 8],
            gr_index: 0,
            gr: [0; 16],
            ar_index: 0,
            ar: [0; 21],
            ar_is_data: false,
            cr_index: 0,
            cr: [0; 256],
            msr: 0,
            fcr: 0,
            dac_state: 0,
            dac_sub_index: 0,
            dac_read_index: 0,
            dac_write_index: 0,
            dac_cache: [0; 3],
            dac_8bit: false,
            palette: [0; 768],
            vbe_index: 0,
            vbe,
            vbe_start: 0,
            vbe_line: 0,
            bank: 0,
            is_big_endian: false,
        }
    }

    fn is_vbe(&self) -> bool {
        self.vbe[index::ENABLE] & dispi::enable::ENABLED != 0
    }

    /// The sequencer's register as it counts now.
    fn sequencer(&self, index: usize) -> u8 {
        if self.is_vbe() { self.sr_vbe[index] } else { self.sr[index] }
    }
}

/// The card's VGA part.
pub struct Vga {
    // Host resources.
    vram: Arc<RamBlock>,
    clock: Clock,
    // Wiring.
    window: Window,
    // Guest-visible state.
    pub(crate) state: VgaState,
}

impl Vga {
    /// The VGA of a card, with that video memory, a power of two of at least 1 MiB. With `legacy`, the window at 0xA0000 of this
    /// address space shows video memory directly while the mode allows it.
    pub fn new(config: ConfigSpace, vram: Arc<RamBlock>, clock: &Clock, legacy: Option<Arc<AddressSpace>>) -> Self {
        Self { vram, clock: clock.clone(), window: Window::new(legacy), state: VgaState::new(config) }
    }

    /// Video memory.
    pub fn vram(&self) -> &Arc<RamBlock> {
        &self.vram
    }

    /// Everything as after power-on, but for video memory.
    pub fn reset(&mut self) {
        let mut config = self.state.config.clone();
        config.reset();
        self.state = VgaState::new(config);
        self.update_window();
    }

    /// The state was replaced.
    pub fn restored(&mut self) {
        // A hostile stream could name what the memory does not have.
        self.state.bank &= self.bank_mask() << 16;
        self.fix_vbe();
        self.update_window();
    }

    /// The pixels are big endian, as a big-endian guest may ask for.
    pub fn is_big_endian(&self) -> bool {
        self.state.is_big_endian
    }

    /// Sets the order of bytes in pixels.
    pub fn set_big_endian(&mut self, is_big_endian: bool) {
        self.state.is_big_endian = is_big_endian;
    }

    /// What the picture is made from.
    pub fn frame(&self) -> Frame {
        Frame::new(self.state.clone(), Arc::clone(&self.vram), self.clock.now())
    }

    fn bank_mask(&self) -> u32 {
        (self.vram.len() >> 16) as u32 - 1
    }
}
