//! The log: what is found in it at open is applied to the file; changes of the block allocation table go through it.
//!
//! It is a ring of entries of whole 4 KiB sectors. An entry has descriptors and the sectors that they describe; its
//! sequence number is one above that of the entry before, and it names the oldest entry that still counts (its tail).
//! Here that is always the entry itself: everything older is on stable storage before it is written.

use block::request::Preallocation;
use block::{Child, Error, Result};

use super::header::{Guid, Header, MIB, crc_add, guid_at, put_checksum};
use crate::bytes::{le32, le64, n, part, put, u};

pub(super) const SECTOR: u64 = 4096;
/// Sectors that one entry changes: their descriptors fit into the first sector of the entry.
pub(super) const MAX_SECTORS: usize = 120;

/// The ring.
#[derive(Clone, Copy)]
struct Ring {
    offset: u64,
    len: u64,
}

impl Ring {
    async fn read(&self, file: &Child, at: u64, into: &mut [u8]) -> Result<()> {
        let at = at % self.len;
        let first = n((self.len - at).min(u(into.len())));
        let (head, tail) = into.split_at_mut(first);
        file.read_into(self.offset + at, head).await?;
        if tail.is_empty() { Ok(()) } else { file.read_into(self.offset, tail).await }
    }

    async fn write(&self, file: &Child, at: u64, bytes: &[u8]) -> Result<()> {
        let at = at % self.len;
        let (head, tail) = bytes.split_at(n((self.len - at).min(u(bytes.len()))));
        file.write_bytes(self.offset + at, head).await?;
        if tail.is_empty() { Ok(()) } else { file.write_bytes(self.offset, tail).await }
    }
}

/// A valid entry.
#[derive(Clone, Debug)]
struct Entry {
    at: u64,
    len: u64,
    tail: u64,
    sequence: u64,
    descriptors: u64,
    flushed: u64,
    last: u64,
}

/// Reads the entry at `at`, if there is a valid one. `budget` bounds the bytes that are summed up in all.
async fn entry_at(file: &Child, ring: Ring, id: &Guid, at: u64, budget: &mut u64) -> Result<Option<Entry>> {
    let mut head = [0; 64];
    ring.read(file, at, &mut head).await?;
    let len = u64::from(le32(&head, 8));
    let entry = Entry {
        at,
        len,
        tail: le32(&head, 12).into(),
        sequence: le64(&head, 16),
        descriptors: le32(&head, 24).into(),
        flushed: le64(&head, 48),
        last: le64(&head, 56),
    };
    let fits = len >= SECTOR && len % SECTOR == 0 && len <= ring.len;
    let described = 64 + entry.descriptors * 32 <= len;
    let placed = entry.tail.is_multiple_of(SECTOR) && entry.tail < ring.len && entry.sequence != 0;
    if !head.starts_with(b"loge") || guid_at(&head, 32) != *id || !fits || !described || !placed {
        return Ok(None);
    }
    *budget = budget.checked_sub(len).ok_or_else(|| Error::invalid("The VHDX log is corrupt"))?;
    let mut crc = u32::MAX;
    let mut done = 0;
    let mut chunk = vec![0; n(len.min(MIB))];
    while done < len {
        let now = n((len - done).min(MIB));
        ring.read(file, at + done, &mut chunk[..now]).await?;
        if done == 0 {
            put(&mut chunk, 4, &[0; 4]);
        }
        crc = crc_add(crc, &chunk[..now]);
        done += u(now);
    }
    Ok((!crc == le32(&head, 4)).then_some(entry))
}

/// The newest sequence of entries whose tail is in it, oldest first. Empty if there is none.
async fn active_sequence(file: &Child, ring: Ring, id: &Guid) -> Result<Vec<Entry>> {
    let mut budget = ring.len * 8;
    let mut best: Vec<Entry> = Vec::new();
    let mut start = 0;
    while start < ring.len {
        let mut sequence: Vec<Entry> = Vec::new();
        let mut at = start;
        let mut total = 0;
        while total < ring.len {
            let Some(entry) = entry_at(file, ring, id, at % ring.len, &mut budget).await? else { break };
            if sequence.last().is_some_and(|last| last.sequence.wrapping_add(1) != entry.sequence) {
                break;
            }
            total += entry.len;
            at += entry.len;
            sequence.push(entry);
        }
        let Some(head) = sequence.last().cloned() else {
            start += SECTOR;
            continue;
        };
        start = at;
        let tail = sequence.iter().position(|entry| entry.at == head.tail);
        if let Some(tail) = tail
            && best.last().is_none_or(|best| head.sequence > best.sequence)
        {
            best = sequence.split_off(tail);
        }
    }
    Ok(best)
}

/// Whether the log holds changes that the file may lack.
pub(super) async fn is_needed(file: &Child, header: &Header) -> Result<bool> {
    Ok(header.log != Guid::default() && header.log_len != 0 && !entries(file, header).await?.is_empty())
}

async fn entries(file: &Child, header: &Header) -> Result<Vec<Entry>> {
    let ring = Ring { offset: header.log_offset, len: header.log_len.into() };
    active_sequence(file, ring, &header.log).await
}

/// Applies the log to the file.
pub(super) async fn replay(file: &Child, header: &Header) -> Result<()> {
    let ring = Ring { offset: header.log_offset, len: header.log_len.into() };
    let entries = entries(file, header).await?;
    for entry in &entries {
        if file.len() < entry.flushed {
            return Err(Error::invalid("The VHDX file is shorter than its log says"));
        }
        apply(file, ring, entry).await?;
    }
    if let Some(last) = entries.last()
        && last.last > file.len()
        && last.last <= i64::MAX as u64
    {
        file.truncate(last.last.next_multiple_of(MIB), false, Preallocation::Off).await?;
    }
    file.flush().await
}

async fn apply(file: &Child, ring: Ring, entry: &Entry) -> Result<()> {
    let sectors = (64 + entry.descriptors * 32).div_ceil(SECTOR);
    let mut data_at = entry.at + sectors * SECTOR;
    let end = entry.at + entry.len;
    for index in 0..entry.descriptors {
        let mut descriptor = [0; 32];
        ring.read(file, entry.at + 64 + index * 32, &mut descriptor).await?;
        let offset = le64(&descriptor, 16);
        if le64(&descriptor, 24) != entry.sequence || !offset.is_multiple_of(SECTOR) || offset > i64::MAX as u64 / 2 {
            return Err(Error::invalid("The VHDX log is corrupt"));
        }
        match &descriptor[..4] {
            b"desc" => {
                if data_at + SECTOR > end {
                    return Err(Error::invalid("The VHDX log is corrupt"));
                }
                let mut data = vec![0; n(SECTOR)];
                ring.read(file, data_at, &mut data).await?;
                data_at += SECTOR;
                let sequence = u64::from(le32(&data, 4)) << 32 | u64::from(le32(&data, 4092));
                if !data.starts_with(b"data") || sequence != entry.sequence {
                    return Err(Error::invalid("The VHDX log is corrupt"));
                }
                let (first, last) = (part(&descriptor, 8, 8).to_vec(), part(&descriptor, 4, 4).to_vec());
                put(&mut data, 0, &first);
                put(&mut data, 4092, &last);
                file.write_bytes(offset, &data).await?;
            }
            b"zero" => {
                let len = le64(&descriptor, 8);
                if !len.is_multiple_of(SECTOR) || len > i64::MAX as u64 / 2 {
                    return Err(Error::invalid("The VHDX log is corrupt"));
                }
                // What lies behind the end of the file is zero when the file grows.
                let len = len.min(file.len().saturating_sub(offset));
                file.write_zeroes(offset, len, block::ZeroFlags::default()).await?;
            }
            other => {
                return Err(Error::invalid(format!(
                    "Invalid VHDX log descriptor entry signature 0x{:x}",
                    le32(other, 0)
                )));
            }
        }
    }
    Ok(())
}

/// Where our own entries go.
pub(super) struct LogWriter {
    ring: Ring,
    pub(super) id: Guid,
    at: u64,
    sequence: u64,
}

impl LogWriter {
    pub(super) fn new(header: &Header) -> Self {
        let ring = Ring { offset: header.log_offset, len: header.log_len.into() };
        Self { ring, id: crate::bytes::uuid(), at: 0, sequence: 1 }
    }

    /// Writes an entry with these sectors of the file; at most [`MAX_SECTORS`].
    pub(super) async fn write(&mut self, file: &Child, sectors: &[(u64, Vec<u8>)]) -> Result<()> {
        let len = SECTOR + u(sectors.len()) * SECTOR;
        if len > self.ring.len || sectors.len() > MAX_SECTORS {
            return Err(Error::invalid("The VHDX log is too small"));
        }
        let mut bytes = vec![0; n(len)];
        put(&mut bytes, 0, b"loge");
        put(&mut bytes, 8, &u32::try_from(len).unwrap_or(0).to_le_bytes());
        put(&mut bytes, 12, &u32::try_from(self.at).unwrap_or(0).to_le_bytes());
        put(&mut bytes, 16, &self.sequence.to_le_bytes());
        put(&mut bytes, 24, &u32::try_from(sectors.len()).unwrap_or(0).to_le_bytes());
        put(&mut bytes, 32, &self.id);
        put(&mut bytes, 48, &(file.len() / MIB * MIB).to_le_bytes());
        put(&mut bytes, 56, &file.len().next_multiple_of(MIB).to_le_bytes());
        for (index, (offset, data)) in sectors.iter().enumerate() {
            let at = 64 + index * 32;
            put(&mut bytes, at, b"desc");
            put(&mut bytes, at + 4, part(data, 4092, 4));
            put(&mut bytes, at + 8, part(data, 0, 8));
            put(&mut bytes, at + 16, &offset.to_le_bytes());
            put(&mut bytes, at + 24, &self.sequence.to_le_bytes());
            let at = n(SECTOR) * (index + 1);
            put(&mut bytes, at, part(data, 0, 4096));
            put(&mut bytes, at, b"data");
            put(&mut bytes, at + 4, &self.sequence.to_le_bytes()[4..]);
            put(&mut bytes, at + 4092, &self.sequence.to_le_bytes()[..4]);
        }
        put_checksum(&mut bytes);
        self.ring.write(file, self.at, &bytes).await?;
        self.at = (self.at + len) % self.ring.len;
        self.sequence += 1;
        Ok(())
    }
}
