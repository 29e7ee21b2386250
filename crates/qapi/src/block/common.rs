//! Names that many types of the block layer use.

use crate::QapiType;

/// The drivers of block nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, QapiType)]
pub enum BlockdevDriver {
    /// A filter that injects errors and stops requests.
    Blkdebug,
    /// A filter that compares an image with a raw copy of it.
    Blkverify,
    /// Images of Bochs.
    Bochs,
    /// Compressed loop images of Linux.
    Cloop,
    /// A filter that stores what is written compressed.
    Compress,
    /// A filter that copies what is about to be overwritten.
    CopyBeforeWrite,
    /// A filter that copies what is read from the backing file.
    CopyOnRead,
    /// Disk images of macOS.
    Dmg,
    /// A regular file.
    File,
    /// A CD-ROM drive of the host.
    #[qapi(name = "host_cdrom")]
    HostCdrom,
    /// A block device of the host.
    #[qapi(name = "host_device")]
    HostDevice,
    /// A file on a web server.
    Http,
    /// A file on a web server, over TLS.
    Https,
    /// Encrypted by LUKS.
    Luks,
    /// An export of an NBD server.
    Nbd,
    /// Nothing: reads zeros, forgets writes, in the background.
    NullAio,
    /// Nothing: reads zeros, forgets writes.
    NullCo,
    /// Images of Parallels.
    Parallels,
    /// Copy on write, version 1.
    Qcow,
    /// Copy on write, versions 2 and 3.
    Qcow2,
    /// QEMU's enhanced disk format.
    Qed,
    /// A vote between several images.
    Quorum,
    /// As it is, or a part of it.
    Raw,
    /// What a `copy-before-write` filter has saved, and what was not overwritten yet: the disk as it was.
    SnapshotAccess,
    /// A filter that limits throughput.
    Throttle,
    /// Images of `VirtualBox`.
    Vdi,
    /// Images of Hyper-V.
    Vhdx,
    /// Images of `VMware`.
    Vmdk,
    /// Images of Virtual PC.
    Vpc,
    /// A directory that looks like a disk.
    Vvfat,
}

/// What happens to discard requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum BlockdevDiscardOptions {
    /// They are ignored.
    Ignore,
    /// They free space.
    Unmap,
}

/// What happens to writes of nothing but zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum BlockdevDetectZeroesOptions {
    /// Nothing special.
    Off,
    /// They become efficient write-zeroes requests.
    On,
    /// The same, and they may free space.
    Unmap,
}

/// Who executes requests on a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum BlockdevAioOptions {
    /// A pool of threads.
    Threads,
    /// The kernel's asynchronous I/O; it needs direct access.
    Native,
    /// The kernel's rings.
    #[qapi(name = "io_uring")]
    IoUring,
}

/// A choice that can be left to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum OnOffAuto {
    /// Whatever fits.
    Auto,
    /// Yes.
    On,
    /// No.
    Off,
}

/// What is allocated when an image is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum PreallocMode {
    /// Nothing.
    Off,
    /// The metadata.
    Metadata,
    /// Everything, without writing the data.
    Falloc,
    /// Everything, by writing zeros.
    Full,
}

/// What a node may be used for by one of its users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum BlockPermission {
    /// Reading that returns what was written last.
    ConsistentRead,
    /// Writing.
    Write,
    /// Writing what does not change the visible data.
    WriteUnchanged,
    /// Changing the size.
    Resize,
}

/// The direction of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum IoOperationType {
    /// Reads.
    Read,
    /// Writes.
    Write,
}

/// What happens when a request of the guest fails (`werror` and `rerror` of devices).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum BlockdevOnError {
    /// The guest sees the error.
    Report,
    /// The error is ignored.
    Ignore,
    /// The guest is stopped when space ran out, and sees other errors.
    Enospc,
    /// The guest is stopped.
    Stop,
    /// As the kind of request wants it.
    Auto,
}

/// What was done about a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum BlockErrorAction {
    /// The error was ignored.
    Ignore,
    /// The guest saw the error.
    Report,
    /// The guest was stopped; the request is repeated when it goes on.
    Stop,
}
