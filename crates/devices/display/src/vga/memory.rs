//! What the guest sees of video memory at 0xA0000–0xBFFFF.

use std::sync::Arc;

use ::memory::{AddressSpace, Backing, GuestAddress, RegionHandle};

use super::Vga;

/// Above the window's region, which goes through the card.
const PRIORITY: i32 = 2;

/// Where video memory itself is mapped: the first address, the length, and the offset in video memory.
type Alias = (u64, u64, u64);

/// The direct view of video memory in chain-4 modes.
pub struct Window {
    space: Option<Arc<AddressSpace>>,
    mapped: Option<(RegionHandle, Alias)>,
}

impl Window {
    /// A window in `space`; without one there is none.
    pub fn new(space: Option<Arc<AddressSpace>>) -> Self {
        Self { space, mapped: None }
    }

    fn show(&mut self, wanted: Option<Alias>, vram: &Arc<::memory::RamBlock>) {
        let Some(space) = &self.space else { return };
        if self.mapped.map(|(_, alias)| alias) == wanted {
            return;
        }
        if let Some((handle, _)) = self.mapped.take() {
            // It was mapped by us and by nobody else.
            let unmapped = space.unmap(handle);
            debug_assert!(unmapped.is_ok(), "{unmapped:?}");
        }
        if let Some(alias @ (base, len, offset)) = wanted {
            let backing = Backing::Ram { block: Arc::clone(vram), offset, read_only: false };
            // The bank is within video memory; if it were not, accesses would go through the card.
            self.mapped = space.map(GuestAddress(base), len, PRIORITY, backing).ok().map(|handle| (handle, alias));
        }
    }
}

/// Each of the lowest four bits as a byte of ones.
fn planes(bits: u8) -> u32 {
    (0..4).filter(|plane| bits >> plane & 1 != 0).fold(0, |mask, plane| mask | 0xff << (8 * plane))
}

/// A byte for each plane.
fn in_all(byte: u8) -> u32 {
    u32::from(byte) * 0x0101_0101
}

impl Vga {
    /// Shows video memory directly if the mode is chain 4 with all planes on.
    pub(super) fn update_window(&mut self) {
        let is_direct = self.state.sequencer(2) & 0x0f == 0x0f && self.state.sequencer(4) & 0x08 != 0;
        let alias = match self.state.gr[6] >> 2 & 3 {
            0 => (0xa_0000, 0x2_0000, 0),
            1 => (0xa_0000, 0x1_0000, u64::from(self.state.bank)),
            2 => (0xb_0000, 0x8000, 0),
            _ => (0xb_8000, 0x8000, 0),
        };
        self.window.show(is_direct.then_some(alias), &self.vram);
    }

    /// The offset of the window's byte `at` in the part of memory that is mapped; `None` where nothing is.
    fn window_offset(&self, at: u64) -> Option<usize> {
        let at = at & 0x1_ffff;
        let within = |start: u64, len: u64| at.checked_sub(start).filter(|at| *at < len).map(|at| at as usize);
        match self.state.gr[6] >> 2 & 3 {
            0 => Some(at as usize),
            1 => within(0, 0x1_0000).map(|at| at + self.state.bank as usize),
            2 => within(0x1_0000, 0x8000),
            _ => within(0x1_8000, 0x8000),
        }
    }

    fn is_chain4(&self) -> bool {
        self.state.sequencer(4) & 0x08 != 0
    }

    fn is_odd_even(&self) -> bool {
        self.state.gr[5] & 0x10 != 0
    }

    /// Odd addresses are in odd planes.
    fn odd_even(&self, at: usize) -> (usize, u8) {
        let plane = self.state.gr[4] & 2 | at as u8 & 1;
        ((at & !1) << 1 | usize::from(plane), plane)
    }

    /// Reads the byte `at` of the window.
    pub fn read_memory(&mut self, at: u64) -> u8 {
        let Some(at) = self.window_offset(at) else { return 0xff };
        if self.is_chain4() {
            return self.vram.load_u8(at).unwrap_or(0xff);
        }
        if self.is_odd_even() {
            return self.vram.load_u8(self.odd_even(at).0).unwrap_or(0xff);
        }
        let Some(latch) = self.vram.load_u32(at * 4) else { return 0xff };
        self.state.latch = latch;
        let gr = &self.state.gr;
        if gr[5] & 0x08 == 0 {
            return latch.to_le_bytes()[usize::from(gr[4] & 3)];
        }
        // Read mode 1: a one for each pixel whose colour is that of GR2, in the planes that GR7 cares for.
        let differs = (latch ^ planes(gr[2])) & planes(gr[7]);
        !differs.to_le_bytes().into_iter().fold(0, |bits, plane| bits | plane)
    }

    /// Writes the byte `at` of the window.
    pub fn write_memory(&mut self, at: u64, value: u8) {
        let Some(at) = self.window_offset(at) else { return };
        let enabled = self.state.sequencer(2);
        if self.is_chain4() {
            if enabled >> (at & 3) & 1 != 0 {
                self.vram.store_u8(at, value);
            }
        } else if self.is_odd_even() {
            let (at, plane) = self.odd_even(at);
            if enabled >> plane & 1 != 0 {
                self.vram.store_u8(at, value);
            }
        } else if let Some(old) = self.vram.load_u32(at * 4) {
            let mask = planes(enabled);
            self.vram.store_u32(at * 4, old & !mask | self.planar(value) & mask);
        }
    }

    /// What the graphics controller makes of a byte from the processor.
    fn planar(&self, value: u8) -> u32 {
        let (gr, latch) = (&self.state.gr, self.state.latch);
        let rotated = value.rotate_right(u32::from(gr[3] & 7));
        let (data, bits) = match gr[5] & 3 {
            0 => {
                let set = planes(gr[1]);
                (in_all(rotated) & !set | planes(gr[0]) & set, gr[8])
            }
            1 => return latch,
            2 => (planes(value), gr[8]),
            _ => (planes(gr[0]), gr[8] & rotated),
        };
        let data = match gr[3] >> 3 & 3 {
            0 => data,
            1 => data & latch,
            2 => data | latch,
            _ => data ^ latch,
        };
        let bits = in_all(bits);
        data & bits | latch & !bits
    }
}
