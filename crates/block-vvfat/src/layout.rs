//! Where everything is on the disk.

use block::{Error, Result};

/// Bytes of a sector.
pub const SECTOR: u64 = 512;

/// The width of FAT entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FatType {
    /// 12 bits.
    Fat12,
    /// 16 bits.
    Fat16,
    /// 32 bits, 28 of them used.
    Fat32,
}

impl FatType {
    /// The type of that number.
    ///
    /// # Errors
    /// If it is not 12, 16 or 32.
    pub fn from_number(number: u64) -> Result<Self> {
        match number {
            12 => Ok(Self::Fat12),
            16 => Ok(Self::Fat16),
            32 => Ok(Self::Fat32),
            _ => Err(Error::invalid("Valid FAT types are only 12, 16 and 32")),
        }
    }

    fn bits(self) -> u64 {
        match self {
            Self::Fat12 => 12,
            Self::Fat16 => 16,
            Self::Fat32 => 32,
        }
    }
}

/// Where everything is. Numbers are sectors unless they say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The width of FAT entries.
    pub fat_type: FatType,
    /// Sectors of the disk.
    pub total: u64,
    /// Sectors of a track, heads: the disk's geometry.
    pub geometry: (u8, u8),
    /// The boot sector of the volume; 0 for a floppy, which has no partition table.
    pub start: u64,
    /// Sectors from the boot sector to the first FAT.
    pub reserved: u64,
    /// Sectors of one of the two FATs.
    pub fat_len: u64,
    /// Entries of the root directory outside of the clusters; 0 with FAT32.
    pub root_entries: u64,
    /// Sectors of a cluster.
    pub cluster: u64,
    /// The number of clusters; the first one is number 2.
    pub clusters: u64,
    /// The media descriptor byte.
    pub media: u8,
}

impl Layout {
    /// A floppy disk (2.88 MB with FAT12, 1.44 MB otherwise).
    pub fn floppy(fat_type: FatType) -> Result<Self> {
        if fat_type == FatType::Fat32 {
            return Err(Error::invalid("A floppy disk can't have FAT32"));
        }
        let sectors_per_track = if fat_type == FatType::Fat12 { 36 } else { 18 };
        let total = u64::from(sectors_per_track) * 2 * 80;
        Self::compute(fat_type, total, (sectors_per_track, 2), 0, if fat_type == FatType::Fat12 { 2 } else { 1 }, 0xf0)
    }

    /// A hard disk with one partition: 1024 cylinders (64 with FAT12), 16 heads, 63 sectors.
    pub fn hard_disk(fat_type: FatType) -> Result<Self> {
        let cylinders = if fat_type == FatType::Fat12 { 64 } else { 1024 };
        let cluster = if fat_type == FatType::Fat32 { 8 } else { 16 };
        Self::compute(fat_type, cylinders * 16 * 63, (63, 16), 63, cluster, 0xf8)
    }

    fn compute(fat_type: FatType, total: u64, geometry: (u8, u8), start: u64, cluster: u64, media: u8) -> Result<Self> {
        let reserved = if fat_type == FatType::Fat32 { 32 } else { 1 };
        let root_entries = match (fat_type, start) {
            (FatType::Fat32, _) => 0,
            (_, 0) => 224,
            _ => 512,
        };
        let mut layout =
            Self { fat_type, total, geometry, start, reserved, fat_len: 1, root_entries, cluster, clusters: 0, media };
        // The FATs take room from the clusters that they describe: grow them until they are long enough.
        loop {
            let data = total.saturating_sub(layout.data_start());
            layout.clusters = data / cluster;
            let needed = ((layout.clusters + 2) * fat_type.bits()).div_ceil(8 * SECTOR);
            if needed <= layout.fat_len {
                break;
            }
            layout.fat_len = needed;
        }
        let fits = match fat_type {
            FatType::Fat12 => layout.clusters < 4085,
            FatType::Fat16 => (4085..65525).contains(&layout.clusters),
            FatType::Fat32 => layout.clusters >= 65525,
        };
        if fits || start == 0 {
            Ok(layout)
        } else {
            Err(Error::invalid("The FAT type does not fit the size of the disk"))
        }
    }

    /// The sector of the first FAT.
    pub fn fat_start(&self) -> u64 {
        self.start + self.reserved
    }

    /// The sector of the root directory outside of the clusters.
    pub fn root_start(&self) -> u64 {
        self.fat_start() + 2 * self.fat_len
    }

    /// The sector of cluster 2.
    pub fn data_start(&self) -> u64 {
        self.root_start() + self.root_entries * 32 / SECTOR
    }

    /// Bytes of a cluster.
    pub fn cluster_bytes(&self) -> u64 {
        self.cluster * SECTOR
    }

    /// The offset in bytes of a cluster.
    pub fn cluster_offset(&self, cluster: u32) -> u64 {
        (self.data_start() + (u64::from(cluster) - 2) * self.cluster) * SECTOR
    }

    /// Whether that cluster exists.
    pub fn has_cluster(&self, cluster: u32) -> bool {
        cluster >= 2 && u64::from(cluster) < self.clusters + 2
    }

    /// The mark of a chain's end.
    pub fn end_of_chain(&self) -> u32 {
        match self.fat_type {
            FatType::Fat12 => 0xfff,
            FatType::Fat16 => 0xffff,
            FatType::Fat32 => 0x0fff_ffff,
        }
    }

    /// The FAT entry of a cluster, in a FAT's bytes.
    pub fn fat_entry(&self, fat: &[u8], cluster: u32) -> u32 {
        let byte = |at: usize| u32::from(fat.get(at).copied().unwrap_or(0));
        let at = cluster as usize;
        match self.fat_type {
            FatType::Fat12 => {
                let pair = byte(at * 3 / 2) | byte(at * 3 / 2 + 1) << 8;
                if at.is_multiple_of(2) { pair & 0xfff } else { pair >> 4 }
            }
            FatType::Fat16 => byte(at * 2) | byte(at * 2 + 1) << 8,
            FatType::Fat32 => {
                (byte(at * 4) | byte(at * 4 + 1) << 8 | byte(at * 4 + 2) << 16 | byte(at * 4 + 3) << 24) & 0x0fff_ffff
            }
        }
    }

    /// Sets the FAT entry of a cluster.
    pub fn set_fat_entry(&self, fat: &mut [u8], cluster: u32, value: u32) {
        let at = cluster as usize;
        let bytes = value.to_le_bytes();
        match self.fat_type {
            FatType::Fat12 => {
                let low = at * 3 / 2;
                if at.is_multiple_of(2) {
                    fat[low] = bytes[0];
                    fat[low + 1] = fat[low + 1] & 0xf0 | bytes[1] & 0x0f;
                } else {
                    fat[low] = fat[low] & 0x0f | bytes[0] << 4;
                    fat[low + 1] = bytes[0] >> 4 | bytes[1] << 4;
                }
            }
            FatType::Fat16 => fat[at * 2..at * 2 + 2].copy_from_slice(&bytes[..2]),
            FatType::Fat32 => fat[at * 4..at * 4 + 4].copy_from_slice(&bytes),
        }
    }

    /// Whether an entry ends a chain.
    pub fn is_end(&self, entry: u32) -> bool {
        entry >= self.end_of_chain() - 7
    }

    /// The boot sector (BIOS parameter block).
    pub fn boot_sector(&self, serial: u32, label: &str) -> [u8; 512] {
        let mut sector = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
        let volume = self.total - self.start;
        put(0, &[0xeb, 0x3e, 0x90]);
        put(3, b"MSWIN4.1");
        put(11, &512u16.to_le_bytes());
        put(13, &[self.cluster as u8]);
        put(14, &(self.reserved as u16).to_le_bytes());
        put(16, &[2]);
        put(17, &(self.root_entries as u16).to_le_bytes());
        let small = volume < 0x10000 && self.fat_type != FatType::Fat32;
        put(19, &(if small { volume as u16 } else { 0 }).to_le_bytes());
        put(21, &[self.media]);
        put(24, &u16::from(self.geometry.0).to_le_bytes());
        put(26, &u16::from(self.geometry.1).to_le_bytes());
        put(28, &(self.start as u32).to_le_bytes());
        put(32, &(if small { 0 } else { volume as u32 }).to_le_bytes());
        let drive = if self.start == 0 { 0 } else { 0x80 };
        let tail = if self.fat_type == FatType::Fat32 {
            put(36, &(self.fat_len as u32).to_le_bytes());
            put(44, &2u32.to_le_bytes());
            put(48, &1u16.to_le_bytes());
            put(50, &6u16.to_le_bytes());
            64
        } else {
            put(22, &(self.fat_len as u16).to_le_bytes());
            36
        };
        put(tail, &[drive, 0, 0x29]);
        put(tail + 3, &serial.to_le_bytes());
        put(tail + 7, format!("{label:11.11}").as_bytes());
        put(
            tail + 18,
            match self.fat_type {
                FatType::Fat12 => b"FAT12   ",
                FatType::Fat16 => b"FAT16   ",
                FatType::Fat32 => b"FAT32   ",
            },
        );
        put(510, &[0x55, 0xaa]);
        sector
    }

    /// The sector of FAT32 that counts free clusters: "unknown".
    pub fn fs_info() -> [u8; 512] {
        let mut sector = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"RRaA");
        put(484, b"rrAa");
        put(488, &[0xff; 8]);
        put(510, &[0x55, 0xaa]);
        sector
    }

    /// The partition table in front of the volume.
    pub fn partition_table(&self, serial: u32) -> [u8; 512] {
        let mut sector = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
        let kind = match self.fat_type {
            FatType::Fat12 => 0x01,
            FatType::Fat16 => 0x06,
            FatType::Fat32 => 0x0c,
        };
        put(440, &serial.to_le_bytes());
        put(446, &[0x80]);
        put(447, &self.chs(self.start));
        put(450, &[kind]);
        put(451, &self.chs(self.total - 1));
        put(454, &(self.start as u32).to_le_bytes());
        put(458, &((self.total - self.start) as u32).to_le_bytes());
        put(510, &[0x55, 0xaa]);
        sector
    }

    fn chs(&self, sector: u64) -> [u8; 3] {
        let (per_track, heads) = (u64::from(self.geometry.0), u64::from(self.geometry.1));
        let cylinder = (sector / per_track / heads).min(1023);
        let head = sector / per_track % heads;
        let number = sector % per_track + 1;
        [head as u8, number as u8 | ((cylinder >> 2) & 0xc0) as u8, cylinder as u8]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_all_widths_are_read_back() {
        for layout in [
            Layout::hard_disk(FatType::Fat12).expect("fits"),
            Layout::hard_disk(FatType::Fat16).expect("fits"),
            Layout::hard_disk(FatType::Fat32).expect("fits"),
        ] {
            let mut fat = vec![0; (layout.fat_len * SECTOR) as usize];
            for cluster in 2..40 {
                layout.set_fat_entry(&mut fat, cluster, cluster * 7 + 100);
            }
            layout.set_fat_entry(&mut fat, 9, layout.end_of_chain());
            for cluster in (2..40).filter(|cluster| *cluster != 9) {
                assert_eq!(layout.fat_entry(&fat, cluster), cluster * 7 + 100, "{:?}", layout.fat_type);
            }
            assert!(layout.is_end(layout.fat_entry(&fat, 9)));
        }
    }
}
