//! Messages of the kernel's FUSE protocol, version 7.31 (`linux/fuse.h`): little records in the host's byte order.
//!
//! Only what a file system of a single file is asked for is taken apart; the rest is told to be not implemented.

use std::time::{Duration, SystemTime};

/// The number of the file system's root, which is the file.
pub(super) const ROOT: u64 = 1;
/// What of a message may be a header; the bytes of a write begin at [`WRITE_HEADER`].
pub(super) const LONGEST_HEADER: usize = HEADER + 88;
const HEADER: usize = 40;
/// Where the bytes of a write begin.
pub(super) const WRITE_HEADER: usize = HEADER + 40;
/// Length of a reply's header.
const REPLY_HEADER: usize = 16;

const MAJOR: u32 = 7;
const MINOR: u32 = 31;
/// The oldest protocol whose records are these.
const OLDEST_MINOR: u32 = 28;

const ASYNC_READ: u32 = 1 << 0;
const ATOMIC_O_TRUNC: u32 = 1 << 3;
const BIG_WRITES: u32 = 1 << 5;
const AUTO_INVAL_DATA: u32 = 1 << 12;
const ASYNC_DIO: u32 = 1 << 15;
const MAX_PAGES: u32 = 1 << 22;
/// What is wanted of what the kernel can do. `ATOMIC_O_TRUNC` leaves truncation by `open` to the file system, which does
/// none: an image is written over, as a disk is.
const WANTED: u32 = ASYNC_READ | ATOMIC_O_TRUNC | BIG_WRITES | AUTO_INVAL_DATA | ASYNC_DIO | MAX_PAGES;

/// The longest read or write, bytes.
pub(super) const MAX_TRANSFER: u32 = 1 << 20;
const PAGE: u32 = 4096;
/// How many requests the kernel may have under way that nobody waits for: read-ahead and asynchronous direct I/O.
const MAX_BACKGROUND: u16 = 64;
/// How long the kernel believes attributes, seconds.
const ATTRIBUTES_VALID: u64 = 1;
/// A file may be written by several processes at once without the page cache.
const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
/// The notification that attributes are others.
const NOTIFY_INVALID_INODE: i32 = 2;

/// What `setattr` changes.
pub(super) mod change {
    /// The mode.
    pub const MODE: u32 = 1 << 0;
    /// The owner.
    pub const UID: u32 = 1 << 1;
    /// The group.
    pub const GID: u32 = 1 << 2;
    /// The size.
    pub const SIZE: u32 = 1 << 3;
    /// A file handle, a lock's owner and removed privileges: said beside what is changed.
    pub const BESIDE: u32 = 1 << 6 | 1 << 9 | 1 << 11;
}

/// A request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub opcode: u32,
    /// The request's number.
    pub unique: u64,
    /// What it is about.
    pub node: u64,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Init {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
    },
    Lookup,
    GetAttributes,
    SetAttributes {
        valid: u32,
        size: u64,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    Open,
    Read {
        offset: u64,
        size: u32,
    },
    Write {
        offset: u64,
        size: u32,
    },
    StatFs,
    Release,
    Flush,
    Sync,
    Destroy,
    Allocate {
        offset: u64,
        len: u64,
        mode: u32,
    },
    Seek {
        offset: u64,
        whence: u32,
    },
    /// One that gets no reply.
    Silent,
    /// One that is not done here.
    Unknown,
}

/// What the kernel has sent is no message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The numbers of a record, one after the other.
struct Record<'a>(&'a [u8]);

impl Record<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_ne_bytes)
    }

    fn skip<const N: usize>(&mut self) -> Result<(), Malformed> {
        self.take::<N>().map(drop)
    }
}

/// Takes a message of `len` bytes apart, of which `head` are the first ones: all, or at least [`LONGEST_HEADER`].
pub(super) fn parse(head: &[u8], len: usize) -> Result<(Header, Request), Malformed> {
    let mut record = Record(head);
    if record.u32()? as usize != len {
        return Err(Malformed);
    }
    let header = Header { opcode: record.u32()?, unique: record.u64()?, node: record.u64()? };
    // Who asks: user, group, process; the length of extensions.
    record.skip::<16>()?;
    let request = match header.opcode {
        1 => Request::Lookup,
        // Forgetting nodes, an interrupted request: what is under way is soon done.
        2 | 36 | 42 => Request::Silent,
        3 => Request::GetAttributes,
        4 => {
            let valid = record.u32()?;
            record.skip::<12>()?;
            let size = record.u64()?;
            // The owner of a lock, times.
            record.skip::<44>()?;
            let mode = record.u32()?;
            record.skip::<4>()?;
            Request::SetAttributes { valid, size, mode, uid: record.u32()?, gid: record.u32()? }
        }
        14 => Request::Open,
        15 | 16 => {
            record.skip::<8>()?;
            let (offset, size) = (record.u64()?, record.u32()?);
            if header.opcode == 15 {
                Request::Read { offset, size }
            } else if len.checked_sub(WRITE_HEADER).is_none_or(|n| n < size as usize) {
                return Err(Malformed);
            } else {
                Request::Write { offset, size }
            }
        }
        17 => Request::StatFs,
        18 => Request::Release,
        20 => Request::Sync,
        25 => Request::Flush,
        26 => Request::Init {
            major: record.u32()?,
            minor: record.u32()?,
            max_readahead: record.u32()?,
            flags: record.u32()?,
        },
        38 => Request::Destroy,
        43 => {
            record.skip::<8>()?;
            Request::Allocate { offset: record.u64()?, len: record.u64()?, mode: record.u32()? }
        }
        46 => {
            record.skip::<8>()?;
            Request::Seek { offset: record.u64()?, whence: record.u32()? }
        }
        _ => Request::Unknown,
    };
    Ok((header, request))
}

/// What is told of the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    pub size: u64,
    /// Bytes that it takes.
    pub allocated: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub block_size: u32,
}

/// A reply's header, for `payload` bytes behind it. `error` is a positive number, or 0.
pub(super) fn reply(unique: u64, error: i32, payload: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(REPLY_HEADER + payload.min(128));
    // No payload is longer than a transfer.
    bytes.extend(((REPLY_HEADER + payload) as u32).to_ne_bytes());
    bytes.extend((-error).to_ne_bytes());
    bytes.extend(unique.to_ne_bytes());
    bytes
}

fn reply_with(unique: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = reply(unique, 0, payload.len());
    bytes.extend(payload);
    bytes
}

/// The reply to [`Request::Init`]; `None` if the kernel speaks another protocol.
pub(super) fn init(unique: u64, (major, minor): (u32, u32), max_readahead: u32, flags: u32) -> Option<Vec<u8>> {
    if major < MAJOR || (major == MAJOR && minor < OLDEST_MINOR) {
        return None;
    }
    let mut bytes = Vec::with_capacity(64);
    bytes.extend(MAJOR.to_ne_bytes());
    bytes.extend(MINOR.to_ne_bytes());
    // A newer kernel asks again, in the words of this version.
    if major == MAJOR {
        bytes.extend(max_readahead.to_ne_bytes());
        bytes.extend((flags & WANTED).to_ne_bytes());
        bytes.extend(MAX_BACKGROUND.to_ne_bytes());
        bytes.extend((MAX_BACKGROUND / 4 * 3).to_ne_bytes());
        bytes.extend(MAX_TRANSFER.to_ne_bytes());
        // Times are in nanoseconds.
        bytes.extend(1_u32.to_ne_bytes());
        bytes.extend(((MAX_TRANSFER / PAGE) as u16).to_ne_bytes());
    }
    bytes.resize(64, 0);
    Some(reply_with(unique, &bytes))
}

/// The reply to [`Request::Open`].
pub(super) fn open(unique: u64) -> Vec<u8> {
    let mut bytes = [0; 16];
    bytes[8..12].copy_from_slice(&PARALLEL_DIRECT_WRITES.to_ne_bytes());
    reply_with(unique, &bytes)
}

/// The reply to [`Request::Write`]: how many bytes were written.
pub(super) fn written(unique: u64, n: u32) -> Vec<u8> {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&n.to_ne_bytes());
    reply_with(unique, &bytes)
}

/// The reply to [`Request::Seek`].
pub(super) fn found(unique: u64, offset: u64) -> Vec<u8> {
    reply_with(unique, &offset.to_ne_bytes())
}

/// The reply to [`Request::StatFs`]: a file system of nothing.
pub(super) fn file_system(unique: u64) -> Vec<u8> {
    let mut bytes = [0; 80];
    bytes[40..44].copy_from_slice(&512_u32.to_ne_bytes());
    bytes[44..48].copy_from_slice(&255_u32.to_ne_bytes());
    reply_with(unique, &bytes)
}

/// The reply to [`Request::GetAttributes`] and [`Request::SetAttributes`]. Its times are now: who has looked at the file
/// for longer than a second looks again, as somebody else may have written.
pub(super) fn attributes(unique: u64, of: &Attributes) -> Vec<u8> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let mut bytes = Vec::with_capacity(104);
    for number in [ATTRIBUTES_VALID, 0, ROOT, of.size, of.allocated.div_ceil(512)] {
        bytes.extend(number.to_ne_bytes());
    }
    for _ in 0..3 {
        bytes.extend(now.as_secs().to_ne_bytes());
    }
    let nanoseconds = now.subsec_nanos();
    let links = 1;
    let numbers = [nanoseconds, nanoseconds, nanoseconds, of.mode, links, of.uid, of.gid, 0, of.block_size, 0];
    for number in numbers {
        bytes.extend(number.to_ne_bytes());
    }
    reply_with(unique, &bytes)
}

/// Tells the kernel that the file's attributes are others.
pub(super) fn invalidate_attributes() -> Vec<u8> {
    let mut bytes = reply(0, -NOTIFY_INVALID_INODE, 24);
    bytes.extend(ROOT.to_ne_bytes());
    // No range of data.
    bytes.extend((-1_i64).to_ne_bytes());
    bytes.extend(0_i64.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message about the root, whose record is `numbers`.
    fn message(opcode: u32, record: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + record.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(opcode.to_ne_bytes());
        bytes.extend(77_u64.to_ne_bytes());
        bytes.extend(ROOT.to_ne_bytes());
        bytes.extend([0; 16]);
        bytes.extend(record);
        bytes
    }

    #[test]
    fn requests_are_taken_apart() {
        let mut record = Vec::new();
        record.extend(5_u64.to_ne_bytes());
        record.extend(4096_u64.to_ne_bytes());
        record.extend(3_u32.to_ne_bytes());
        record.extend([0; 20]);
        let read = message(15, &record);
        let (header, request) = parse(&read, read.len()).expect("a read");
        assert_eq!(header, Header { opcode: 15, unique: 77, node: ROOT });
        assert_eq!(request, Request::Read { offset: 4096, size: 3 });
        record.extend(b"abc");
        let write = message(16, &record);
        assert_eq!(parse(&write, write.len()).expect("a write").1, Request::Write { offset: 4096, size: 3 });
        let mut record = vec![0; 88];
        record[0] = 9;
        record[16] = 1;
        record[68] = 2;
        record[76] = 3;
        record[80] = 4;
        let set = message(4, &record);
        let expected = Request::SetAttributes { valid: 9, size: 1, mode: 2, uid: 3, gid: 4 };
        assert_eq!(set.len(), LONGEST_HEADER);
        assert_eq!(parse(&set, set.len()).expect("attributes").1, expected);
        let other = message(999, b"anything");
        assert_eq!(parse(&other, other.len()).expect("something").1, Request::Unknown);
    }

    #[test]
    fn messages_that_are_too_short_are_refused() {
        for opcode in 0..60 {
            let whole = message(opcode, &[0; 88]);
            for len in 0..whole.len() {
                let mut cut = whole[..len].to_vec();
                assert_eq!(parse(&cut, len), Err(Malformed), "its length is wrong");
                if let Some(first) = cut.first_chunk_mut::<4>() {
                    *first = (len as u32).to_ne_bytes();
                }
                // Whatever comes of it, it comes.
                let parsed = parse(&cut, len);
                assert!(parsed.is_ok() || len < LONGEST_HEADER);
            }
        }
        // More bytes to write than there are.
        let mut record = [0; 40];
        record[16] = 1;
        let write = message(16, &record);
        assert_eq!(parse(&write, write.len()), Err(Malformed));
    }

    #[test]
    fn replies_have_the_lengths_of_their_records() {
        let of = Attributes { size: 1, allocated: 513, mode: 0o100_400, uid: 1, gid: 2, block_size: 512 };
        let replies = [
            (attributes(1, &of), 104),
            (open(1), 16),
            (written(1, 2), 8),
            (found(1, 2), 8),
            (file_system(1), 80),
            (init(1, (7, 40), 0, u32::MAX).expect("a reply"), 64),
            (init(1, (8, 0), 0, 0).expect("a reply"), 64),
            (invalidate_attributes(), 24),
            (reply(1, 5, 0), 0),
        ];
        for (bytes, len) in replies {
            assert_eq!(bytes.len(), REPLY_HEADER + len);
            assert_eq!(bytes[..4], ((REPLY_HEADER + len) as u32).to_ne_bytes());
        }
        assert_eq!(reply(1, 5, 0)[4..8], (-5_i32).to_ne_bytes());
        assert_eq!(init(1, (7, 27), 0, 0), None);
    }
}
