//! Persistent bitmaps: kept, listed, and brought up to date with the writes of this session.
//!
//! Before the first write the enabled bitmaps are marked as in use; writes are recorded in memory, added to the stored
//! bits at close, and the mark is taken back. After a crash the bitmaps are inconsistent, as the format demands.

use std::collections::HashMap;

use block::{Child, Error, Result, Value};

use crate::header::{Header, be16, be32, be64};
use crate::image::{Image, Meta, change, read};
use crate::map::{decode, encode};

const IN_USE: u32 = 1;
const AUTO: u32 = 2;
const FIXED: usize = 24;
/// Bits of a chunk of recorded changes.
const CHUNK: u64 = 4096;

/// An entry of the bitmap directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredBitmap {
    /// Offset of its table.
    pub table_offset: u64,
    /// Entries of its table.
    pub table_size: u32,
    flags: u32,
    kind: u8,
    granularity_bits: u8,
    extra: Vec<u8>,
    name: String,
    /// Granules written since the open, by chunk; `None`: the bitmap does not record.
    recorded: Option<HashMap<u64, Vec<u64>>>,
}

impl StoredBitmap {
    fn serialise(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.table_offset.to_be_bytes());
        bytes.extend(self.table_size.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend([self.kind, self.granularity_bits]);
        bytes.extend(u16::try_from(self.name.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(u32::try_from(self.extra.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(&self.extra);
        bytes.extend(self.name.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    /// As `Qcow2BitmapInfo`.
    pub fn to_value(&self) -> Value {
        let mut flags = Vec::new();
        if self.flags & IN_USE != 0 && self.recorded.is_none() {
            flags.push(Value::from("in-use"));
        }
        if self.flags & AUTO != 0 {
            flags.push(Value::from("auto"));
        }
        Value::dict([
            ("flags", Value::List(flags)),
            ("name", self.name.as_str().into()),
            ("granularity", (1u64 << self.granularity_bits).into()),
        ])
    }

    /// Bytes of the bitmap in the file, for a disk of `size` bytes.
    pub fn stored_bytes(&self, size: u64, cluster_size: u64) -> u64 {
        let bits = size.div_ceil(1 << self.granularity_bits);
        bits.div_ceil(8).next_multiple_of(cluster_size) + u64::from(self.table_size) * 8
    }
}

/// Reads the bitmap directory.
pub async fn read_directory(file: &Child, header: &Header) -> Result<Vec<StoredBitmap>> {
    let Some(place) = header.bitmaps else { return Ok(Vec::new()) };
    if place
        .offset
        .checked_add(place.size)
        .is_none_or(|end| end > file.len().next_multiple_of(1 << header.cluster_bits))
    {
        return Err(Error::invalid("The bitmap directory lies behind the end of the image"));
    }
    let bytes = file.read_vec(place.offset, usize::try_from(place.size).unwrap_or(0)).await?;
    let mut bitmaps = Vec::new();
    let mut at = 0;
    let broken = || Error::invalid("Broken bitmap directory");
    for _ in 0..place.count {
        let fixed = bytes.get(at..at + FIXED).ok_or_else(broken)?;
        let (name_len, extra_len) = (usize::from(be16(fixed, 18)), be32(fixed, 20) as usize);
        let extra = bytes.get(at + FIXED..(at + FIXED).saturating_add(extra_len)).ok_or_else(broken)?;
        let name_at = at + FIXED + extra_len;
        let name = bytes.get(name_at..name_at + name_len).ok_or_else(broken)?;
        let bitmap = StoredBitmap {
            table_offset: be64(fixed, 0),
            table_size: be32(fixed, 8),
            flags: be32(fixed, 12),
            kind: fixed[16],
            granularity_bits: fixed[17],
            extra: extra.to_vec(),
            name: String::from_utf8_lossy(name).into_owned(),
            recorded: None,
        };
        let limits = 9..=31;
        if bitmap.kind != 1 || !limits.contains(&bitmap.granularity_bits) || name_len == 0 || name_len > 1023 {
            return Err(broken());
        }
        if bitmap.table_size > 1 << 27 || bitmap.table_offset & ((1 << header.cluster_bits) - 1) != 0 {
            return Err(broken());
        }
        if bitmap.table_offset.saturating_add(u64::from(bitmap.table_size) * 8) > file.len().saturating_add(8) {
            return Err(broken());
        }
        bitmaps.push(bitmap);
        at = (name_at + name_len).next_multiple_of(8);
    }
    Ok(bitmaps)
}

impl Image {
    /// Whether writes have to be recorded; before the first one the bitmaps are marked as in use.
    pub(crate) async fn record_write(&self, offset: u64, len: u64) -> Result<()> {
        let (record, mark) = read(&self.bitmaps, |all| {
            let fresh = all.iter().any(|b| b.flags & AUTO != 0 && b.flags & IN_USE == 0);
            (fresh || all.iter().any(|b| b.recorded.is_some()), fresh)
        });
        if !record || len == 0 {
            return Ok(());
        }
        if mark {
            let _meta = self.meta.lock().await;
            let mut bitmaps = read(&self.bitmaps, Clone::clone);
            for bitmap in bitmaps.iter_mut().filter(|b| b.flags & AUTO != 0 && b.flags & IN_USE == 0) {
                bitmap.flags |= IN_USE;
                bitmap.recorded = Some(HashMap::new());
            }
            self.write_directory(&bitmaps).await?;
            self.file.flush().await?;
            change(&self.bitmaps, |all| {
                // Somebody may have been first.
                for (now, new) in all.iter_mut().zip(bitmaps) {
                    if now.recorded.is_none() {
                        *now = new;
                    }
                }
            });
        }
        change(&self.bitmaps, |all| {
            for bitmap in all {
                let Some(recorded) = &mut bitmap.recorded else { continue };
                for granule in offset >> bitmap.granularity_bits..=(offset + len - 1) >> bitmap.granularity_bits {
                    let words = recorded.entry(granule / CHUNK).or_insert_with(|| vec![0; (CHUNK / 64) as usize]);
                    let bit = granule % CHUNK;
                    if let Some(word) = usize::try_from(bit / 64).ok().and_then(|at| words.get_mut(at)) {
                        *word |= 1 << (bit % 64);
                    }
                }
            }
        });
        Ok(())
    }

    async fn write_directory(&self, bitmaps: &[StoredBitmap]) -> Result<()> {
        let Some(place) = read(&self.header, |h| h.bitmaps) else { return Ok(()) };
        let bytes: Vec<u8> = bitmaps.iter().flat_map(StoredBitmap::serialise).collect();
        if bytes.len() as u64 > place.size.next_multiple_of(self.cluster_size()) {
            return Err(Error::invalid("The bitmap directory does not fit"));
        }
        self.file.write_bytes(place.offset, &bytes).await
    }

    /// Stores recorded changes.
    pub(crate) async fn store_bitmaps(&self, meta: &mut Meta) -> Result<()> {
        if !read(&self.bitmaps, |all| all.iter().any(|b| b.recorded.is_some())) {
            return Ok(());
        }
        let mut bitmaps = read(&self.bitmaps, Clone::clone);
        for bitmap in &mut bitmaps {
            if let Some(recorded) = bitmap.recorded.take() {
                self.store_bitmap(meta, bitmap, &recorded).await?;
                bitmap.flags &= !IN_USE;
            }
        }
        self.flush_all(meta).await?;
        self.write_directory(&bitmaps).await?;
        change(&self.bitmaps, |all| *all = bitmaps);
        Ok(())
    }

    async fn store_bitmap(&self, meta: &mut Meta, bitmap: &StoredBitmap, new: &HashMap<u64, Vec<u64>>) -> Result<()> {
        let cluster = self.cluster_size();
        let bytes = usize::try_from(cluster).unwrap_or(0);
        let mut table = decode(&self.file.read_vec(bitmap.table_offset, bitmap.table_size as usize * 8).await?);
        let mut by_cluster: HashMap<u64, Vec<(u64, &Vec<u64>)>> = HashMap::new();
        for (chunk, words) in new {
            let at = chunk * (CHUNK / 8);
            by_cluster.entry(at / cluster).or_default().push((at % cluster, words));
        }
        for (index, chunks) in by_cluster {
            let Some(entry) = usize::try_from(index).ok().and_then(|index| table.get_mut(index)) else { continue };
            let offset = *entry & crate::entry::OFFSET_MASK;
            if offset == 0 && *entry & 1 != 0 {
                continue;
            }
            let mut data = if offset == 0 { vec![0; bytes] } else { self.file.read_vec(offset, bytes).await? };
            for (at, words) in chunks {
                // Bit 0 of byte 0 is the first granule.
                let new = words.iter().flat_map(|word| word.to_le_bytes());
                for (byte, new) in data.iter_mut().skip(usize::try_from(at).unwrap_or(usize::MAX)).zip(new) {
                    *byte |= new;
                }
            }
            let place = if offset == 0 { meta.refs.allocate(1).await? } else { offset };
            self.note_made(meta);
            self.file.write_bytes(place, &data).await?;
            *entry = place;
        }
        // Counts first, then the table that refers to the clusters.
        self.flush_all(meta).await?;
        self.file.write_bytes(bitmap.table_offset, &encode(&table)).await
    }
}
