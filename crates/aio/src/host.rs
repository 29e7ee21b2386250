//! What a descriptor's file or device can be asked for, beside transfers: byte-range locks, sizes, alignments, ioctls.
//!
//! The locks are Linux's "open file description" locks: they belong to the open file, not to the process, so that two
//! opens in one process exclude each other as those of two processes do.

use std::ffi::c_ulong;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use iobuf::IoBuf;

use crate::operation::vectored;

/// How a byte range is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Together with other shared locks.
    Shared,
    /// Alone.
    Exclusive,
}

fn flock(kind: libc::c_int, start: i64, len: i64) -> libc::flock {
    // SAFETY: `flock` is plain data for which zeroes are valid.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = start;
    lock.l_len = len;
    lock
}

fn lock_call(fd: &OwnedFd, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    loop {
        // SAFETY: `lock` is a valid `flock` that the call reads and writes.
        if unsafe { libc::fcntl(fd.as_raw_fd(), command, std::ptr::from_mut(lock)) } != -1 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn kind_of(lock: Lock) -> libc::c_int {
    match lock {
        Lock::Shared => libc::F_RDLCK,
        Lock::Exclusive => libc::F_WRLCK,
    }
}

/// Locks `len` bytes from `start` on, or fails with `EAGAIN` if another open file stands against it.
///
/// # Errors
/// The host's.
pub fn lock(fd: &OwnedFd, start: i64, len: i64, lock: Lock) -> io::Result<()> {
    lock_call(fd, libc::F_OFD_SETLK, &mut flock(kind_of(lock), start, len))
}

/// Gives up locks of `len` bytes from `start` on.
///
/// # Errors
/// The host's.
pub fn unlock(fd: &OwnedFd, start: i64, len: i64) -> io::Result<()> {
    lock_call(fd, libc::F_OFD_SETLK, &mut flock(libc::F_UNLCK, start, len))
}

/// Whether the range could be locked now.
///
/// # Errors
/// The host's.
pub fn can_lock(fd: &OwnedFd, start: i64, len: i64, lock: Lock) -> io::Result<bool> {
    let mut asked = flock(kind_of(lock), start, len);
    lock_call(fd, libc::F_OFD_GETLK, &mut asked)?;
    Ok(libc::c_int::from(asked.l_type) == libc::F_UNLCK)
}

/// Calls an ioctl that writes at most 8 bytes.
fn query(fd: &OwnedFd, request: c_ulong) -> io::Result<u64> {
    let mut value = 0u64;
    // SAFETY: the requests of this module write at most the 8 bytes of `value`.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request as _, &raw mut value) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(value),
    }
}

/// Calls an ioctl with an integer: its result.
fn control(fd: &OwnedFd, request: c_ulong, argument: c_ulong) -> io::Result<i32> {
    // SAFETY: the requests of this module take their argument by value.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request as _, argument) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// Calls an ioctl that reads a range of two 64-bit numbers.
fn range(fd: &OwnedFd, request: c_ulong, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: the requests of this module read the two numbers.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request as _, range.as_ptr()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Bytes of a block device (`BLKGETSIZE64`).
///
/// # Errors
/// The host's; `ENOTTY` for what is no block device.
pub fn device_size(fd: &OwnedFd) -> io::Result<u64> {
    const BLKGETSIZE64: c_ulong = 0x8008_1272;
    query(fd, BLKGETSIZE64)
}

/// Bytes of a block device's logical sector (`BLKSSZGET`).
///
/// # Errors
/// The host's.
pub fn device_sector(fd: &OwnedFd) -> io::Result<u32> {
    const BLKSSZGET: c_ulong = 0x1268;
    // The kernel writes an `int`: on a little-endian host the low half.
    query(fd, BLKSSZGET).map(|value| value as u32)
}

/// Gives a range of a block device back (`BLKDISCARD`). Blocks.
///
/// # Errors
/// The host's.
pub fn device_discard(fd: &OwnedFd, offset: u64, len: u64) -> io::Result<()> {
    const BLKDISCARD: c_ulong = 0x1277;
    range(fd, BLKDISCARD, offset, len)
}

/// Makes a range of a block device read as zeroes (`BLKZEROOUT`). Blocks.
///
/// # Errors
/// The host's.
pub fn device_zero(fd: &OwnedFd, offset: u64, len: u64) -> io::Result<()> {
    const BLKZEROOUT: c_ulong = 0x127f;
    range(fd, BLKZEROOUT, offset, len)
}

/// What an optical drive says of its disc (`CDROM_DRIVE_STATUS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriveStatus {
    /// The drive doesn't know.
    Unknown,
    /// No disc.
    NoDisc,
    /// The tray is open.
    TrayOpen,
    /// Not ready yet.
    NotReady,
    /// A disc is in.
    DiscOk,
}

/// The state of an optical drive.
///
/// # Errors
/// The host's; `ENOTTY` for what is no optical drive.
pub fn drive_status(fd: &OwnedFd) -> io::Result<DriveStatus> {
    const CDROM_DRIVE_STATUS: c_ulong = 0x5326;
    const CURRENT_SLOT: c_ulong = c_ulong::MAX >> 1;
    Ok(match control(fd, CDROM_DRIVE_STATUS, CURRENT_SLOT)? {
        1 => DriveStatus::NoDisc,
        2 => DriveStatus::TrayOpen,
        3 => DriveStatus::NotReady,
        4 => DriveStatus::DiscOk,
        _ => DriveStatus::Unknown,
    })
}

/// Opens (`CDROMEJECT`) or closes (`CDROMCLOSETRAY`) the tray of an optical drive. Blocks.
///
/// # Errors
/// The host's.
pub fn drive_eject(fd: &OwnedFd, open: bool) -> io::Result<()> {
    const CDROMEJECT: c_ulong = 0x5309;
    const CDROMCLOSETRAY: c_ulong = 0x5319;
    control(fd, if open { CDROMEJECT } else { CDROMCLOSETRAY }, 0).map(drop)
}

/// Locks or unlocks the tray of an optical drive (`CDROM_LOCKDOOR`).
///
/// # Errors
/// The host's.
pub fn drive_lock(fd: &OwnedFd, locked: bool) -> io::Result<()> {
    const CDROM_LOCKDOOR: c_ulong = 0x5329;
    control(fd, CDROM_LOCKDOOR, c_ulong::from(locked)).map(drop)
}

/// Turns copy-on-write off for an empty file (`FS_NOCOW_FL`).
///
/// # Errors
/// The host's.
pub fn set_no_copy_on_write(fd: &OwnedFd) -> io::Result<()> {
    const FS_IOC_GETFLAGS: c_ulong = 0x8008_6601;
    const FS_IOC_SETFLAGS: c_ulong = 0x4008_6602;
    const FS_NOCOW_FL: u64 = 0x0080_0000;
    let flags = query(fd, FS_IOC_GETFLAGS)? | FS_NOCOW_FL;
    range(fd, FS_IOC_SETFLAGS, flags, 0)
}

/// Asks the file system to allocate in units of `bytes`.
///
/// # Errors
/// The host's.
pub fn set_extent_size_hint(fd: &OwnedFd, bytes: u32) -> io::Result<()> {
    /// `struct fsxattr` of `linux/fs.h`.
    #[repr(C)]
    #[derive(Default)]
    struct FsXattr {
        xflags: u32,
        extent_size: u32,
        extents: u32,
        project: u32,
        cow_extent_size: u32,
        pad: [u8; 8],
    }
    const FS_IOC_FSGETXATTR: c_ulong = 0x801c_581f;
    const FS_IOC_FSSETXATTR: c_ulong = 0x401c_5820;
    const FS_XFLAG_EXTSIZE: u32 = 0x800;
    let mut attributes = FsXattr::default();
    for request in [FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR] {
        // SAFETY: both requests take a valid `fsxattr`, which the first one writes and the second one reads.
        if unsafe { libc::ioctl(fd.as_raw_fd(), request as _, &raw mut attributes) } == -1 {
            return Err(io::Error::last_os_error());
        }
        attributes.xflags |= FS_XFLAG_EXTSIZE;
        attributes.extent_size = bytes;
    }
    Ok(())
}

/// What direct I/O wants: multiples of how many bytes for offsets and lengths, and for addresses.
///
/// Asks `statx`; where the file system does not say, tries reads.
pub fn direct_alignment(fd: &OwnedFd) -> (u32, u32) {
    const STATX_DIOALIGN: u32 = 0x2000;
    const MAX: u32 = 4096;
    let flags = rustix::fs::StatxFlags::from_bits_retain(STATX_DIOALIGN);
    if let Ok(stat) = rustix::fs::statx(fd, "", rustix::fs::AtFlags::EMPTY_PATH, flags)
        && stat.stx_mask & STATX_DIOALIGN != 0
        && stat.stx_dio_offset_align.is_power_of_two()
        && stat.stx_dio_mem_align.is_power_of_two()
    {
        return (stat.stx_dio_offset_align, stat.stx_dio_mem_align);
    }
    let buf = IoBuf::zeroed(2 * MAX as usize);
    let sizes = [1, 512, 1024, 2048, MAX];
    let reads = |start: u32, len: u32| {
        vectored(fd.as_raw_fd(), false, 0, &buf.slice(start as usize, len as usize), 0)
            .map_or_else(|error| error.raw_os_error() != Some(libc::EINVAL), |_| true)
    };
    let request = sizes.into_iter().find(|size| reads(0, *size)).unwrap_or(MAX);
    let memory = sizes.into_iter().find(|size| reads(*size, MAX)).unwrap_or(MAX);
    (request, memory)
}
