//! The firmware's ROM: at the end of the 4 GiB, where the processor starts, and its last 128 KiB again below 1 MiB.

use std::sync::Arc;

use memory::{AddressSpace, Backing, GuestAddress, RamBlock};

use crate::error::MachineError;
use crate::firmware::FirmwareRom;

/// The most that is shown below 1 MiB.
const LOW_MAX: u64 = 0x2_0000;

/// Maps the ROM into guest memory and into `shadowed`, the space that shadow RAM shows its user while it only writes to
/// RAM.
pub fn map(rom: &FirmwareRom, memory: &AddressSpace, shadowed: &AddressSpace) -> Result<(), MachineError> {
    let len = rom.bytes.len() as u64;
    let block = Arc::new(RamBlock::new("pc.bios", len)?);
    block.write(0, &rom.bytes);
    let whole = Backing::Ram { block: Arc::clone(&block), offset: 0, read_only: true };
    memory.map(GuestAddress((1 << 32) - len), len, 0, whole)?;
    map_low(&block, &[memory, shadowed])
}

/// Maps the ROM of a board that has RAM in its place: the guest may write it. Gives back the RAM.
pub fn map_writable(rom: &FirmwareRom, memory: &AddressSpace) -> Result<Arc<RamBlock>, MachineError> {
    const OVER_RAM: i32 = 1;
    let len = rom.bytes.len() as u64;
    let low = len.min(LOW_MAX);
    let block = Arc::new(RamBlock::new("pc.bios", len)?);
    for (start, offset, len) in [((1 << 32) - len, 0, len), (0x10_0000 - low, len - low, low)] {
        let backing = Backing::Ram { block: Arc::clone(&block), offset, read_only: false };
        memory.map(GuestAddress(start), len, OVER_RAM, backing)?;
    }
    Ok(block)
}

/// Maps just what is seen below 1 MiB.
pub fn map_low(block: &Arc<RamBlock>, spaces: &[&AddressSpace]) -> Result<(), MachineError> {
    let len = block.len() as u64;
    let low = len.min(LOW_MAX);
    for space in spaces {
        let backing = Backing::Ram { block: Arc::clone(block), offset: len - low, read_only: true };
        space.map(GuestAddress(0x10_0000 - low), low, 0, backing)?;
    }
    Ok(())
}
