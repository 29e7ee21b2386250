//! Shadow RAM: what a host bridge's PAM registers make of the addresses from 0xc0000 to 0xfffff (Intel 290549, 3.2.18).
//!
//! The machine maps ROMs (and nothing else) there, at a lower priority; RAM appears only through these regions.

use std::sync::Arc;

use device::ResetKind;
use memory::{AccessSize, AddressSpace, Backing, GuestAddress, Io, MapError, RamBlock, RegionHandle};

use crate::config::ConfigSpace;

/// Where reads and writes of a segment go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PamMode {
    /// Both to the PCI bus: ROM shows.
    Pci,
    /// Reads from RAM; writes are lost on the PCI bus.
    ReadRam,
    /// Reads from the PCI bus, writes to RAM.
    WriteRam,
    /// Both to RAM.
    Ram,
}

impl PamMode {
    /// From the two bits of an attribute field: read enable, write enable.
    pub fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Pci,
            1 => Self::ReadRam,
            2 => Self::WriteRam,
            _ => Self::Ram,
        }
    }
}

/// The number of segments.
pub const SEGMENTS: usize = 13;

/// Switches a PAM segment. Called with the device locked.
pub type SetPam = Box<dyn FnMut(usize, PamMode) + Send>;

/// The seven PAM registers of a host bridge; the number is that of the first one in configuration space.
#[derive(Clone, Copy, Debug)]
pub struct PamRegisters(pub u8);

impl PamRegisters {
    /// Tells each segment's mode.
    pub fn announce(self, config: &ConfigSpace, set_pam: &mut SetPam) {
        for segment in 0..SEGMENTS {
            // Fields of four bits. The first one is reserved, so that segment 0 (0xf0000) is field 1.
            let field = segment as u8 + 1;
            let bits = config.u8(self.0 + field / 2) >> (4 * (field % 2));
            set_pam(segment, PamMode::from_bits(bits));
        }
    }

    /// Resets configuration space. A warm reset leaves the registers, as QEMU has it: shadowed firmware is what resumes
    /// a suspended guest.
    pub fn reset(self, config: &mut ConfigSpace, kind: ResetKind) {
        let kept: [u8; 7] = std::array::from_fn(|index| config.u8(self.0 + index as u8));
        config.reset();
        if kind == ResetKind::Warm {
            (self.0..).zip(kept).for_each(|(offset, value)| config.store_u8(offset, value));
        }
    }
}

/// First address and length of a segment: 0 is the 64 KiB at 0xf0000, then 16 KiB each from 0xc0000 on.
pub fn segment_range(segment: usize) -> (u64, u64) {
    match segment {
        0 => (0xf_0000, 0x1_0000),
        segment => (0xc_0000 + (segment as u64 - 1) * 0x4000, 0x4000),
    }
}

struct WriteThrough {
    start: u64,
    ram: Arc<RamBlock>,
    rom: Arc<AddressSpace>,
}

impl Io for WriteThrough {
    fn read(&self, offset: u64, size: AccessSize) -> u64 {
        self.rom.load(GuestAddress(self.start + offset), size)
    }

    fn write(&self, offset: u64, size: AccessSize, value: u64) {
        let bytes = value.to_le_bytes();
        self.ram.write((self.start + offset) as usize, &bytes[..size.bytes()]);
    }
}

/// The segments' regions in guest memory.
pub struct ShadowRam {
    memory: Arc<AddressSpace>,
    ram: Arc<RamBlock>,
    rom: Arc<AddressSpace>,
    regions: Vec<RegionHandle>,
    modes: [PamMode; SEGMENTS],
}

impl ShadowRam {
    /// Adds the segments to `memory` at `priority`, all showing the PCI bus. `ram` is the block whose offsets are guest
    /// addresses below 1 MiB; `rom` holds what the PCI bus shows there, for segments that only write to RAM.
    ///
    /// # Errors
    /// [`MapError`] when the block has less than 1 MiB.
    pub fn new(
        memory: &Arc<AddressSpace>,
        ram: &Arc<RamBlock>,
        rom: &Arc<AddressSpace>,
        priority: i32,
    ) -> Result<Self, MapError> {
        let mut regions = Vec::with_capacity(SEGMENTS);
        for segment in 0..SEGMENTS {
            let (start, len) = segment_range(segment);
            let backing = Backing::Ram { block: Arc::clone(ram), offset: start, read_only: false };
            let handle = memory.map(GuestAddress(start), len, priority, backing)?;
            memory.update(handle, GuestAddress(start), false)?;
            regions.push(handle);
        }
        Ok(Self {
            memory: Arc::clone(memory),
            ram: Arc::clone(ram),
            rom: Arc::clone(rom),
            regions,
            modes: [PamMode::Pci; SEGMENTS],
        })
    }

    /// Switches a segment.
    pub fn set(&mut self, segment: usize, mode: PamMode) {
        let (Some(&handle), Some(current)) = (self.regions.get(segment), self.modes.get_mut(segment)) else { return };
        if *current == mode {
            return;
        }
        *current = mode;
        let (start, _) = segment_range(segment);
        let ram = |read_only| Backing::Ram { block: Arc::clone(&self.ram), offset: start, read_only };
        let backing = match mode {
            PamMode::Pci => None,
            PamMode::ReadRam => Some(ram(true)),
            PamMode::Ram => Some(ram(false)),
            PamMode::WriteRam => {
                let io = WriteThrough { start, ram: Arc::clone(&self.ram), rom: Arc::clone(&self.rom) };
                Some(Backing::Io(Arc::new(io)))
            }
        };
        // The region was mapped with this range by `new`, so that neither step can fail.
        let is_visible = backing.is_some();
        if let Some(backing) = backing {
            let _mapped = self.memory.set_backing(handle, backing);
        }
        let _mapped = self.memory.update(handle, GuestAddress(start), is_visible);
    }
}
