//! What the user chooses of a unit, named as QEMU's properties.

use device::disk::DiskProperties;

/// What a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitKind {
    /// A direct access device: `scsi-hd`.
    Disk,
    /// A CD or DVD drive: `scsi-cd`.
    Cd,
}

/// Cylinders, heads and sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Geometry {
    /// Cylinders: 1 to 65535.
    pub cylinders: u16,
    /// Heads: 1 to 255.
    pub heads: u8,
    /// Sectors of a track: 1 to 255.
    pub sectors: u8,
}

/// The user's choices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitOptions {
    /// Disk or CD drive.
    pub kind: UnitKind,
    /// `vendor`, 8 characters.
    pub vendor: String,
    /// `product`, 16 characters.
    pub product: String,
    /// `ver`, 4 characters.
    pub version: String,
    /// `serial`, unless it is the disk's.
    pub serial: Option<String>,
    /// `device_id`: what the device identification page names the unit; the serial number, or else the drive's name.
    pub device_id: Option<String>,
    /// `wwn`; 0 is none.
    pub wwn: u64,
    /// `port_wwn`; 0 is none.
    pub port_wwn: u64,
    /// `port_index`; 0 is none.
    pub port_index: u16,
    /// `removable`: a disk whose medium can be taken out. CD drives are.
    pub removable: bool,
    /// `dpofua`: the mode data says that these bits are supported. They are, in any case.
    pub dpofua: bool,
    /// `max_unmap_size`, bytes.
    pub max_unmap_size: u64,
    /// `max_io_size`, bytes.
    pub max_io_size: u64,
    /// `rotation_rate`: per minute, 1 for a solid-state disk, 0 says nothing.
    pub rotation_rate: u16,
    /// `scsi_version`: the INQUIRY data's version, 5 is SPC-3.
    pub scsi_version: u8,
    /// `logical_block_size`, unless it is the disk's.
    pub logical_block_size: Option<u32>,
    /// `physical_block_size`, unless it is the disk's. For a CD drive it is the size of all blocks.
    pub physical_block_size: Option<u32>,
    /// `min_io_size` in bytes, unless it is the disk's.
    pub min_io_size: Option<u32>,
    /// `opt_io_size` in bytes, unless it is the disk's.
    pub opt_io_size: Option<u32>,
    /// `discard_granularity` in bytes; 4096 at least when not given, 0 says that there are no discards.
    pub discard_granularity: Option<u32>,
    /// `write-cache`, unless the disk's own mode counts.
    pub write_cache: Option<bool>,
    /// `cyls`, `heads`, `secs`, unless they are guessed.
    pub geometry: Option<Geometry>,
    /// The transport queues commands (INQUIRY's CMDQUE): virtio does, USB bulk-only does not.
    pub queues_commands: bool,
}

impl UnitOptions {
    /// QEMU's defaults of `scsi-hd` or `scsi-cd`.
    pub fn new(kind: UnitKind) -> Self {
        Self {
            kind,
            vendor: "QEMU".to_owned(),
            product: if kind == UnitKind::Cd { "QEMU CD-ROM" } else { "QEMU HARDDISK" }.to_owned(),
            version: "2.5+".to_owned(),
            serial: None,
            device_id: None,
            wwn: 0,
            port_wwn: 0,
            port_index: 0,
            removable: false,
            dpofua: false,
            max_unmap_size: 1 << 30,
            max_io_size: i32::MAX as u64,
            rotation_rate: 0,
            scsi_version: 5,
            logical_block_size: None,
            physical_block_size: None,
            min_io_size: None,
            opt_io_size: None,
            discard_granularity: None,
            write_cache: None,
            geometry: None,
            queues_commands: true,
        }
    }

    /// Whether the medium can be taken out.
    pub fn is_removable(&self) -> bool {
        self.removable || self.kind == UnitKind::Cd
    }

    /// Bytes of a block.
    pub fn block_size(&self, disk: &DiskProperties) -> u32 {
        match self.kind {
            UnitKind::Cd => self.physical_block_size.unwrap_or(2048),
            UnitKind::Disk => self.logical_block_size.unwrap_or(disk.logical_block_size).max(512),
        }
    }

    /// The binary logarithm of blocks in a physical block.
    pub(super) fn physical_exponent(&self, disk: &DiskProperties) -> u8 {
        let logical = self.logical_block_size.unwrap_or(disk.logical_block_size).max(512);
        let physical = self.physical_block_size.unwrap_or(disk.physical_block_size).max(logical);
        (physical / logical).max(1).ilog2().min(15) as u8
    }

    pub(super) fn discard_granularity(&self, disk: &DiskProperties) -> u32 {
        const DEFAULT: u32 = 4096;
        self.discard_granularity
            .unwrap_or_else(|| self.logical_block_size.unwrap_or(disk.logical_block_size).max(DEFAULT))
    }

    pub(super) fn serial<'a>(&'a self, disk: &'a DiskProperties) -> Option<&'a str> {
        self.serial.as_deref().or((!disk.serial.is_empty()).then_some(disk.serial.as_str()))
    }

    pub(super) fn device_id<'a>(&'a self, disk: &'a DiskProperties) -> Option<&'a str> {
        const FROM_SERIAL: usize = 20;
        let cut = |serial: &'a str| serial.get(..FROM_SERIAL).unwrap_or(serial);
        match &self.serial {
            Some(serial) if self.device_id.is_none() => Some(cut(serial)),
            _ => self.device_id.as_deref().or_else(|| self.serial(disk).map(cut)),
        }
    }

    pub(super) fn geometry(&self, disk: &DiskProperties) -> Geometry {
        let guess = || {
            let cylinders = (disk.size / 512 / (16 * 63)).clamp(2, 16383) as u16;
            Geometry { cylinders, heads: 16, sectors: 63 }
        };
        self.geometry.unwrap_or_else(guess)
    }
}
