//! What the user chooses, and the configuration that the driver reads (5.2.4).

use device::disk::DiskProperties;

use super::request::MAX_SECTORS;
use crate::queue::MAX_SIZE;

/// Where the write cache's mode is in the configuration.
pub const WCE_AT: usize = 32;

/// Cylinders, heads and sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Cylinders: 1 to 65535.
    pub cylinders: u16,
    /// Heads: 1 to 255.
    pub heads: u8,
    /// Sectors of a track: 1 to 255.
    pub sectors: u8,
}

impl Geometry {
    /// What a disk of `size` bytes has when nobody says anything: 16 heads and 63 sectors.
    fn guess(size: u64) -> Self {
        let cylinders = (size / 512 / (16 * 63)).clamp(2, 16383) as u16;
        Self { cylinders, heads: 16, sectors: 63 }
    }
}

/// The user's choices, named as QEMU's properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlkOptions {
    /// `num-queues`.
    pub num_queues: u16,
    /// `queue-size`: a power of two above 2.
    pub queue_size: u16,
    /// `seg-max-adjust`: the longest request follows the queue's size.
    pub seg_max_adjust: bool,
    /// `config-wce`: the driver may switch the write cache.
    pub config_wce: bool,
    /// `write-cache`, unless the disk's own mode counts.
    pub write_cache: Option<bool>,
    /// `discard`.
    pub discard: bool,
    /// `write-zeroes`.
    pub write_zeroes: bool,
    /// `max-discard-sectors`.
    pub max_discard_sectors: u32,
    /// `max-write-zeroes-sectors`.
    pub max_write_zeroes_sectors: u32,
    /// `report-discard-granularity`.
    pub report_discard_granularity: bool,
    /// `serial`.
    pub serial: Option<String>,
    /// `logical_block_size`, unless it is the disk's.
    pub logical_block_size: Option<u32>,
    /// `physical_block_size`, unless it is the disk's.
    pub physical_block_size: Option<u32>,
    /// `min_io_size` in bytes, unless it is the disk's.
    pub min_io_size: Option<u32>,
    /// `opt_io_size` in bytes, unless it is the disk's.
    pub opt_io_size: Option<u32>,
    /// `discard_granularity` in bytes, unless it is that of a block.
    pub discard_granularity: Option<u32>,
    /// `cyls`, `heads`, `secs`, unless they are guessed.
    pub geometry: Option<Geometry>,
}

impl Default for BlkOptions {
    fn default() -> Self {
        Self {
            num_queues: 1,
            queue_size: 256,
            seg_max_adjust: true,
            config_wce: true,
            write_cache: None,
            discard: true,
            write_zeroes: true,
            max_discard_sectors: MAX_SECTORS,
            max_write_zeroes_sectors: MAX_SECTORS,
            report_discard_granularity: true,
            serial: None,
            logical_block_size: None,
            physical_block_size: None,
            min_io_size: None,
            opt_io_size: None,
            discard_granularity: None,
            geometry: None,
        }
    }
}

/// Choices that do not fit. The texts are QEMU's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No queue.
    #[error("num-queues property must be larger than 0")]
    NoQueues,
    /// More queues than a device may have.
    #[error("num-queues property ({0}) must be at most {MAX_SIZE}")]
    Queues(u16),
    /// A queue too small for a request.
    #[error("invalid queue-size property ({0}), must be > 2")]
    SmallQueue(u16),
    /// A queue of a bad size.
    #[error("invalid queue-size property ({0}), must be a power of 2 (max {MAX_SIZE})")]
    QueueSize(u16),
    /// A bad limit of sectors.
    #[error("invalid {0} property ({1}), must be between 1 and {MAX_SECTORS}")]
    Sectors(&'static str, u32),
    /// Blocks.
    #[error("logical_block_size > physical_block_size not supported")]
    BlockSizes,
    /// A size that is no number of blocks.
    #[error("{0} must be a multiple of logical_block_size")]
    Multiple(&'static str),
    /// There is nothing in the drive.
    #[error("Device needs media, but drive is empty")]
    NoMedium,
}

impl BlkOptions {
    /// Bytes of a logical block.
    pub fn logical_block_size(&self, disk: &DiskProperties) -> u32 {
        self.logical_block_size.unwrap_or(disk.logical_block_size).max(512)
    }

    fn physical_block_size(&self, disk: &DiskProperties) -> u32 {
        self.physical_block_size.unwrap_or_else(|| disk.physical_block_size.max(self.logical_block_size(disk)))
    }

    /// Checks the choices, for this disk.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn check(&self, disk: &DiskProperties) -> Result<(), OptionError> {
        if !disk.medium {
            return Err(OptionError::NoMedium);
        }
        match self.num_queues {
            0 => return Err(OptionError::NoQueues),
            count if count > MAX_SIZE => return Err(OptionError::Queues(count)),
            _ => {}
        }
        if self.queue_size <= 2 {
            return Err(OptionError::SmallQueue(self.queue_size));
        }
        if !self.queue_size.is_power_of_two() || self.queue_size > MAX_SIZE {
            return Err(OptionError::QueueSize(self.queue_size));
        }
        self.check_sizes(disk)?;
        for (is_used, name, value) in [
            (self.discard, "max-discard-sectors", self.max_discard_sectors),
            (self.write_zeroes, "max-write-zeroes-sectors", self.max_write_zeroes_sectors),
        ] {
            if is_used && !(1..=MAX_SECTORS).contains(&value) {
                return Err(OptionError::Sectors(name, value));
            }
        }
        Ok(())
    }

    /// Checks the sizes of blocks, for which all kinds of disks have the same rules.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn check_sizes(&self, disk: &DiskProperties) -> Result<(), OptionError> {
        let block = self.logical_block_size(disk);
        if block > self.physical_block_size(disk) {
            return Err(OptionError::BlockSizes);
        }
        for (name, value) in [
            ("min_io_size", self.min_io_size),
            ("opt_io_size", self.opt_io_size),
            ("discard_granularity", self.discard_granularity),
        ] {
            if !value.unwrap_or(0).is_multiple_of(block) {
                return Err(OptionError::Multiple(name));
            }
        }
        Ok(())
    }

    /// The configuration as the driver reads it.
    pub fn config(&self, disk: &DiskProperties, write_cache: bool) -> Vec<u8> {
        let block = self.logical_block_size(disk);
        let physical = self.physical_block_size(disk);
        let geometry = self.geometry.unwrap_or_else(|| Geometry::guess(disk.size));
        let seg_max = if self.seg_max_adjust { u32::from(self.queue_size) - 2 } else { 126 };
        let min_io = self.min_io_size.unwrap_or(disk.min_io_size) / block;
        let opt_io = self.opt_io_size.unwrap_or(disk.opt_io_size) / block;
        // As QEMU: what the image would like does not count.
        let granularity = self.discard_granularity.filter(|_| self.report_discard_granularity).unwrap_or(block);
        let mut bytes = Vec::with_capacity(60);
        bytes.extend((disk.size / 512).to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(seg_max.to_le_bytes());
        bytes.extend(geometry.cylinders.to_le_bytes());
        bytes.extend([geometry.heads, geometry.sectors]);
        bytes.extend(block.to_le_bytes());
        // The alignment of the first block is 0.
        bytes.extend([(physical / block).ilog2() as u8, 0]);
        bytes.extend((u16::try_from(min_io).unwrap_or(u16::MAX)).to_le_bytes());
        bytes.extend(opt_io.to_le_bytes());
        bytes.extend([u8::from(write_cache), 0]);
        bytes.extend(self.num_queues.to_le_bytes());
        if !self.discard && !self.write_zeroes {
            return bytes;
        }
        let (max, segments) = if self.discard { (self.max_discard_sectors, 1u32) } else { (0, 0) };
        let alignment = if self.discard { granularity / 512 } else { 0 };
        [max, segments, alignment].iter().for_each(|field| bytes.extend(field.to_le_bytes()));
        if self.write_zeroes {
            bytes.extend(self.max_write_zeroes_sectors.to_le_bytes());
            bytes.extend(1u32.to_le_bytes());
            bytes.push(1);
        }
        bytes
    }
}
