//! The firmware's flash chips: `-drive if=pflash`, `-machine pflash0=` and `pflash1=`. The first chip ends at 4 GiB and
//! is where the processor starts; the second one lies below it.

use std::sync::{Arc, OnceLock, Weak, mpsc};

use device::DeviceCell;
use device::disk::{Disk, DiskOperation, DiskRequest};
use devices_chipset::cfi01::{Cfi01, SECTOR};
use memory::{AddressSpace, Backing, GuestAddress, Io, RamBlock};

use super::{Builder, Place, rom};
use crate::error::MachineError;
use crate::storage::{DiskRequestor, Disks};

/// The most that both have together, unless the machine says otherwise.
const MAX_SIZE: u64 = 8 << 20;
const TYPE_NAME: &str = "cfi.pflash01";

/// Builds the chips; `shadowed` as in [`rom::map`].
pub fn build(builder: &mut Builder<'_>, disks: &Disks<'_>, shadowed: &AddressSpace) -> Result<(), MachineError> {
    let mut end = 1_u64 << 32;
    let max = builder.config.firmware.max_size.unwrap_or(MAX_SIZE);
    for (unit, wish) in builder.config.firmware.flash.iter().enumerate() {
        let refuse =
            |message: String| MachineError::Device { option: format!("-machine pflash{unit}={}", wish.drive), message };
        let path = format!("/machine/system.flash{unit}");
        let requestor = DiskRequestor { id: None, path: &path, type_name: TYPE_NAME, wish };
        let disk = disks(&requestor).map_err(refuse)?;
        let size = disk.properties().size;
        if size == 0 || !size.is_multiple_of(SECTOR) {
            let text = format!("system firmware block device {} has invalid size {size}", wish.drive);
            return Err(refuse(format!("{text}\nits size must be a non-zero multiple of {SECTOR:#x}")));
        }
        if size > max - ((1 << 32) - end) {
            return Err(refuse(format!("combined size of system firmware exceeds {max} bytes")));
        }
        let block = Arc::new(RamBlock::new(if unit == 0 { "system.flash0" } else { "system.flash1" }, size)?);
        fill(&block, &*disk, size).map_err(refuse)?;
        end -= size;
        chip(builder, (end, &block), disk)?;
        if unit == 0 {
            rom::map_low(&block, &[&builder.memory, shadowed])?;
        }
    }
    Ok(())
}

/// Maps a chip.
fn chip(
    builder: &mut Builder<'_>,
    (start, block): (u64, &Arc<RamBlock>),
    disk: Arc<dyn Disk>,
) -> Result<(), MachineError> {
    let len = block.len() as u64;
    let array = Backing::Ram { block: Arc::clone(block), offset: 0, read_only: true };
    let map = |space: &Arc<AddressSpace>| space.map(GuestAddress(start), len, 0, array.clone());
    let of_memory = map(&builder.memory)?;
    // A secure chip is ROM but for system-management mode.
    let region = match (builder.config.board.secure_flash, &builder.smm) {
        (false, _) => Some((Arc::clone(&builder.memory), of_memory)),
        (true, Some(smm)) => Some((Arc::clone(smm), map(smm)?)),
        (true, None) => None,
    };
    let shown = region.as_ref().map(|(space, handle)| (Arc::downgrade(space), *handle));
    let commands = Arc::new(OnceLock::<Weak<dyn Io>>::new());
    let reads = Arc::clone(&commands);
    let mut is_array = true;
    let cell = DeviceCell::new(Cfi01::new(
        block,
        Some(disk),
        Box::new(move |show| {
            if show == is_array {
                return;
            }
            is_array = show;
            let device = || reads.get().and_then(Weak::upgrade).map(Backing::Io);
            let backing = if show { Some(array.clone()) } else { device() };
            if let (Some((space, handle)), Some(backing)) = (&shown, backing)
                && let Some(space) = space.upgrade()
            {
                // The region was mapped with this length.
                let _mapped = space.set_backing(*handle, backing);
            }
        }),
    ));
    if let Backing::Io(io) = cell.region(0) {
        // The cell is new. The map keeps its region.
        let _first = commands.set(Arc::downgrade(&io));
        if let Some((space, handle)) = region {
            space.set_writes(handle, io)?;
        }
    }
    builder.add(TYPE_NAME, Place::Board, Arc::new(cell));
    Ok(())
}

/// Reads the whole chip.
fn fill(block: &RamBlock, disk: &dyn Disk, size: u64) -> Result<(), String> {
    const PIECE: u64 = 1 << 20;
    let mut offset = 0;
    while offset < size {
        let len = PIECE.min(size - offset);
        let buf = iobuf::IoBuf::zeroed(len as usize);
        let (tell, told) = mpsc::channel();
        let done = Box::new(move |result| {
            let _waiting = tell.send(result);
        });
        disk.submit(DiskRequest { operation: DiskOperation::Read { offset, buf: buf.clone() }, done });
        match told.recv() {
            Ok(Ok(())) => block.write(offset as usize, &buf.to_vec()),
            _ => return Err("can't read initial flash content".to_owned()),
        };
        offset += len;
    }
    Ok(())
}
