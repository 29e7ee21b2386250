//! The geometry of a hard disk, and how firmware translates it: what the user says, or what the disk's partition table
//! tells of the firmware that made it.

use std::sync::mpsc;

use device::disk::{Disk, DiskOperation, DiskRequest};
use devices_ide::drive::Geometry;
use iobuf::IoBuf;

use crate::config::Translation;

const SECTOR: usize = 512;

/// The geometry of a disk that has none of its own, and the translation that fits it.
pub fn guess(disk: &dyn Disk) -> (Geometry, Translation) {
    let sectors = disk.properties().size / SECTOR as u64;
    let standard = Geometry { cylinders: (sectors / (16 * 63)).clamp(2, 16383) as u16, heads: 16, sectors: 63 };
    match first_sector(disk).and_then(|sector| of_partitions(&sector, sectors)) {
        None => (standard, translation(standard)),
        // More heads than a disk can have: firmware has translated.
        Some((_, heads, _)) if heads > 16 => {
            let is_large = u32::from(standard.cylinders) * 16 <= 131_072;
            (standard, if is_large { Translation::Large } else { Translation::Lba })
        }
        Some((cylinders, heads, sectors)) => (Geometry { cylinders, heads: heads as u8, sectors }, Translation::None),
    }
}

/// The translation that firmware needs for a geometry, if nothing says otherwise.
pub fn translation(geometry: Geometry) -> Translation {
    let fits = geometry.cylinders <= 1024 && geometry.heads <= 16 && geometry.sectors <= 63;
    if fits { Translation::None } else { Translation::Lba }
}

/// Nothing where the disk can't be read. Devices are built on the control thread, which may wait.
fn first_sector(disk: &dyn Disk) -> Option<[u8; SECTOR]> {
    let buf = IoBuf::zeroed(SECTOR);
    let (send, receive) = mpsc::channel();
    let operation = DiskOperation::Read { offset: 0, buf: buf.clone() };
    disk.submit(DiskRequest {
        operation,
        done: Box::new(move |result| {
            // The receiver waits for exactly this.
            let _ = send.send(result);
        }),
    });
    receive.recv().ok()?.ok()?;
    let mut sector = [0; SECTOR];
    buf.read_at(0, &mut sector);
    Some(sector)
}

/// Cylinders, heads and sectors of the first partition that ends at a cylinder's end, as partitions do.
fn of_partitions(sector: &[u8; SECTOR], disk_sectors: u64) -> Option<(u16, u16, u8)> {
    const SIGNATURE: [u8; 2] = [0x55, 0xaa];
    if !sector.ends_with(&SIGNATURE) {
        return None;
    }
    sector[0x1be..0x1fe].as_chunks::<16>().0.iter().find_map(|entry| {
        let (end_head, sectors) = (entry[5], entry[6] & 63);
        if entry[12..] == [0; 4] || end_head == 0 || sectors == 0 {
            return None;
        }
        let heads = u16::from(end_head) + 1;
        let cylinders = disk_sectors / (u64::from(heads) * u64::from(sectors));
        (1..=16383).contains(&cylinders).then_some((cylinders as u16, heads, sectors))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_table_tells_the_geometry_of_the_firmware_that_made_it() {
        let mut sector = [0; SECTOR];
        sector[0x1fe..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(of_partitions(&sector, 61440), None);
        sector[0x1be..0x1ce].copy_from_slice(&[0x80, 1, 1, 0, 6, 127, 63, 0, 63, 0, 0, 0, 0x41, 0x1f, 0, 0]);
        assert_eq!(of_partitions(&sector, 61440), Some((7, 128, 63)));
        sector[0x1c3] = 15;
        assert_eq!(of_partitions(&sector, 61440), Some((60, 16, 63)));
        assert_eq!(of_partitions(&sector, 16384 * 16 * 63), None, "too many cylinders");
    }
}
