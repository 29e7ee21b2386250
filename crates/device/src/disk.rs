//! What a disk controller sees of the disk behind it: the trait side of the block layer.
//!
//! A controller turns a guest's command into a [`DiskRequest`] and hands it to its [`Disk`]. The request owns its
//! buffer, which may be guest RAM, and is completed on any thread by calling its [`DiskDone`]. Error policies
//! (`werror`, `rerror`), throttling and accounting happen behind this trait: a request that has stopped the machine is
//! simply not completed before it has been tried again.

use std::sync::Weak;

use iobuf::IoBuf;

/// What a controller wants done.
#[derive(Debug, Clone)]
pub enum DiskOperation {
    /// Reads `buf.len()` bytes at `offset` into `buf`.
    Read {
        /// Byte offset on the disk.
        offset: u64,
        /// Where the data goes.
        buf: IoBuf,
    },
    /// Writes `buf` at `offset`.
    Write {
        /// Byte offset on the disk.
        offset: u64,
        /// The data.
        buf: IoBuf,
        /// Complete only when the data is on stable storage (Forced Unit Access).
        fua: bool,
    },
    /// Completes when everything that was completed before is on stable storage.
    Flush,
    /// The guest does not need these bytes any more; they read as anything or as zeroes afterwards.
    Discard {
        /// Byte offset on the disk.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// These bytes read as zeroes afterwards.
    WriteZeroes {
        /// Byte offset on the disk.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// Storage may be given back.
        unmap: bool,
    },
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// The range is outside of the disk, misaligned or too long.
    Invalid,
    /// A write to a read-only disk.
    ReadOnly,
    /// No medium in the drive.
    NoMedium,
    /// The disk can't do this.
    Unsupported,
    /// No space left on the host.
    NoSpace,
    /// Anything else.
    Io,
}

/// Called once with the result, on any thread, without a lock held.
pub type DiskDone = Box<dyn FnOnce(Result<(), DiskError>) + Send>;

/// One request of a controller.
pub struct DiskRequest {
    /// What to do.
    pub operation: DiskOperation,
    /// Where the result goes.
    pub done: DiskDone,
}

/// What a controller reports to its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskProperties {
    /// Size in bytes; 0 without a medium.
    pub size: u64,
    /// Bytes of a logical block: offsets and lengths are multiples of it. 512 to 32768.
    pub logical_block_size: u32,
    /// Bytes of a physical block.
    pub physical_block_size: u32,
    /// Best transfer granularity in bytes, or 0.
    pub min_io_size: u32,
    /// Best transfer length in bytes, or 0.
    pub opt_io_size: u32,
    /// Granularity of discards in bytes, 0 if discards do nothing.
    pub discard_granularity: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// A medium is there.
    pub medium: bool,
    /// Writes may complete before they are on stable storage.
    pub write_cache: bool,
    /// The serial number that the user gave; empty if none. At most 20 bytes reach an ATA or virtio guest.
    pub serial: String,
}

/// Who wants to know when a disk changes.
pub trait DiskObserver: Send + Sync {
    /// Size, medium or cache mode may have changed: read [`Disk::properties`] again. No lock is held.
    fn changed(&self);
}

/// A drive with removable media, as whoever changes them sees it. Nothing here waits.
pub trait Removable: Send + Sync {
    /// There is a tray that opens and closes.
    fn has_tray(&self) -> bool;

    /// The tray is open.
    fn is_tray_open(&self) -> bool;

    /// The guest has locked the tray.
    fn is_locked(&self) -> bool;

    /// Somebody wants the tray open: the guest is asked to do it. With `force` its lock does not count any more.
    fn eject_request(&self, force: bool);

    /// A medium went in (`true`) or out; the tray moves with it, where there is one.
    fn medium_changed(&self, loaded: bool);
}

/// The disk behind a controller.
pub trait Disk: Send + Sync {
    /// The disk as it is now.
    fn properties(&self) -> DiskProperties;

    /// Reads at once if that needs no waiting: true if it was done and has succeeded. Otherwise nothing has happened, and
    /// the request is to be submitted. Called with locks held.
    fn read_at_once(&self, offset: u64, buf: &IoBuf) -> bool {
        let _ = (offset, buf);
        false
    }

    /// Starts a request. Does not wait and does not call `done` before it has returned.
    fn submit(&self, request: DiskRequest);

    /// The guest turned the volatile write cache on or off.
    fn set_write_cache(&self, on: bool);

    /// Registers who is told about changes.
    fn observe(&self, observer: Weak<dyn DiskObserver>);

    /// Registers the drive that takes media in and out: there is one with removable media only.
    fn set_removable(&self, drive: Weak<dyn Removable>);

    /// The name that the user gave the drive; empty if it has none.
    fn name(&self) -> String {
        String::new()
    }

    /// The guest has opened or closed the tray. Called with the controller locked.
    fn tray_moved(&self, is_open: bool);
}
