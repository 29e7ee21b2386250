//! Persistent bitmaps: the directory, loading into the node's [`Bitmaps`], and storing ("Bitmaps").
//!
//! While the image is open for writing, the bitmaps that were loaded are marked as in use in the directory, before
//! anything is written; they are in memory alone. At close, and before the node becomes read-only, all persistent bitmaps
//! go to new clusters, then a new directory does, then the header points to that: a crash leaves the old state, in which
//! they are in use, that is inconsistent. Marks are single bytes of the directory and are written in place.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use block::{BitmapUse, Child, DirtyBitmap, Error, Result, Value};

use crate::entry::OFFSET_MASK;
use crate::flush::Reason;
use crate::header::{BitmapsExtension, Header, autoclear, be16, be32, be64};
use crate::image::{Image, Meta, change, read};
use crate::map::{decode, encode};

const IN_USE: u32 = 1;
const AUTO: u32 = 2;
const RESERVED: u32 = !3;
/// Bytes of an entry of the directory without extra data and name.
const FIXED: usize = 24;
/// The flag of a table entry whose cluster is all ones, without being stored.
const ALL_ONES: u64 = 1;
/// The longest table, entries.
const MAX_TABLE: u64 = 1 << 27;
/// The most data of a bitmap, bytes.
const MAX_BYTES: u64 = 1 << 29;
/// The most bitmaps of an image.
const MAX_BITMAPS: usize = 65535;
/// The longest directory, bytes.
const MAX_DIRECTORY: u64 = MAX_BITMAPS as u64 * 1024;

/// An entry of the bitmap directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredBitmap {
    /// Offset of its table.
    pub table_offset: u64,
    /// Entries of its table.
    pub table_size: u32,
    flags: u32,
    granularity_bits: u8,
    name: String,
}

fn entry_len(name: &str) -> u64 {
    (FIXED + name.len()).next_multiple_of(8) as u64
}

impl StoredBitmap {
    fn serialise(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.table_offset.to_be_bytes());
        bytes.extend(self.table_size.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend([1, self.granularity_bits]);
        bytes.extend(u16::try_from(self.name.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(0u32.to_be_bytes());
        bytes.extend(self.name.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    /// As `Qcow2BitmapInfo`.
    pub fn to_value(&self) -> Value {
        let mut flags = Vec::new();
        if self.flags & IN_USE != 0 {
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

    /// Whether the entry can be that of an image of `len` bytes.
    fn is_valid(&self, kind: u8, len: u64, cluster_bits: u32) -> bool {
        let bytes = u64::from(self.table_size) << cluster_bits;
        let covered = (u128::from(bytes) * 8) << self.granularity_bits.min(63);
        kind == 1
            && self.table_size != 0
            && self.table_offset != 0
            && self.table_offset & ((1 << cluster_bits) - 1) == 0
            && u64::from(self.table_size) <= MAX_TABLE
            && (9..=31).contains(&self.granularity_bits)
            && self.flags & RESERVED == 0
            && !self.name.is_empty()
            && self.name.len() <= block::bitmap::MAX_NAME
            && bytes <= MAX_BYTES
            && (self.flags & IN_USE != 0 || u128::from(len) <= covered)
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
        let Some(fixed) = bytes.get(at..at + FIXED) else {
            return Err(Error::invalid("Less bitmaps found than specified in header extension"));
        };
        let (name_len, extra_len) = (usize::from(be16(fixed, 18)), be32(fixed, 20));
        if extra_len != 0 {
            return Err(Error::invalid("Bitmap extra data is not supported"));
        }
        let name = bytes.get(at + FIXED..at + FIXED + name_len).ok_or_else(broken)?;
        let bitmap = StoredBitmap {
            table_offset: be64(fixed, 0),
            table_size: be32(fixed, 8),
            flags: be32(fixed, 12),
            granularity_bits: fixed[17],
            name: String::from_utf8_lossy(name).into_owned(),
        };
        if !bitmap.is_valid(fixed[16], header.size, header.cluster_bits) {
            return Err(Error::invalid(format!("Bitmap '{}' doesn't satisfy the constraints", bitmap.name)));
        }
        if bitmap.table_offset.saturating_add(u64::from(bitmap.table_size) * 8) > file.len().saturating_add(8) {
            return Err(broken());
        }
        bitmaps.push(bitmap);
        at = (at + FIXED + name_len).next_multiple_of(8);
    }
    if at as u64 != place.size {
        return Err(Error::invalid("More bitmaps found than specified in header extension"));
    }
    Ok(bitmaps)
}

/// What an image has of a bitmap that is about to be replaced or removed: its table and the clusters in it.
type Old = (u64, Vec<u64>);

impl Image {
    /// Bytes that the stored bitmaps would take in an image with clusters of this size; `None` if this image stores none.
    pub(crate) fn bitmap_bytes(&self, cluster: u64) -> Option<u64> {
        if read(&self.header, |h| h.version) < 3 {
            return None;
        }
        let (mut total, mut directory) = (0, 0);
        for bitmap in self.node_bitmaps.list().into_iter().filter(|bitmap| bitmap.is_persistent()) {
            let clusters = bitmap.size().div_ceil(bitmap.granularity()).div_ceil(8).div_ceil(cluster);
            total += clusters * cluster + (clusters * 8).next_multiple_of(cluster);
            directory += entry_len(&bitmap.name().unwrap_or_default());
        }
        Some(total + directory.next_multiple_of(cluster))
    }

    /// Puts the image's bitmaps into the node. Those that are in use already are inconsistent.
    pub(crate) async fn load_bitmaps(&self) -> Result<()> {
        let read_only = self.read_only.load(Ordering::Acquire);
        for stored in read(&self.bitmaps, Clone::clone) {
            if stored.flags & IN_USE != 0 && self.node_bitmaps.find(&stored.name).is_some() {
                continue;
            }
            let could_not = |e: Error| e.context(format!("Could not read bitmap '{}' from image", stored.name));
            let granularity = 1 << stored.granularity_bits;
            let bitmap = self.node_bitmaps.create(self.len(), granularity, Some(&stored.name))?;
            bitmap.set_persistent(true);
            bitmap.set_read_only(read_only);
            bitmap.set_enabled(stored.flags & AUTO != 0);
            if stored.flags & IN_USE != 0 {
                bitmap.set_inconsistent();
            } else {
                self.load_bits(&stored, &bitmap).await.map_err(could_not)?;
            }
        }
        Ok(())
    }

    /// The table of a bitmap, checked.
    async fn read_bitmap_table(&self, stored: &StoredBitmap) -> Result<Vec<u64>> {
        let table = decode(&self.file.read_vec(stored.table_offset, stored.table_size as usize * 8).await?);
        let cluster = self.cluster_size();
        let valid = |entry: &u64| {
            let offset = entry & OFFSET_MASK;
            let rest = entry & !OFFSET_MASK;
            offset & (cluster - 1) == 0 && (rest == 0 || (offset == 0 && rest == ALL_ONES))
        };
        if table.iter().all(valid) { Ok(table) } else { Err(Error::invalid("The bitmap table is damaged")) }
    }

    async fn load_bits(&self, stored: &StoredBitmap, bitmap: &DirtyBitmap) -> Result<()> {
        let cluster = self.cluster_size();
        let len = usize::try_from(cluster).unwrap_or(0);
        let bits = self.len().div_ceil(1 << stored.granularity_bits);
        for (index, entry) in self.read_bitmap_table(stored).await?.into_iter().enumerate() {
            let first = index as u64 * cluster * 8;
            if first >= bits {
                break;
            }
            let offset = entry & OFFSET_MASK;
            if offset != 0 {
                bitmap.load_bits(first, &self.file.read_vec(offset, len).await?);
            } else if entry & ALL_ONES != 0 {
                bitmap.mark(first << stored.granularity_bits, (cluster * 8) << stored.granularity_bits);
            }
        }
        Ok(())
    }

    /// Marks the bitmaps in the image as in use: from now on they are in memory alone.
    pub(crate) async fn use_bitmaps(&self) -> Result<()> {
        let mut bitmaps = read(&self.bitmaps, Clone::clone);
        let loaded = |stored: &StoredBitmap| self.node_bitmaps.find(&stored.name);
        let mut changed = false;
        for stored in bitmaps.iter_mut().filter(|b| b.flags & IN_USE == 0 && loaded(b).is_some()) {
            stored.flags |= IN_USE;
            changed = true;
        }
        if changed {
            let place = read(&self.header, |h| h.bitmaps).map_or(0, |place| place.offset);
            let bytes: Vec<u8> = bitmaps.iter().flat_map(StoredBitmap::serialise).collect();
            let could_not = |error: Error| error.context("Can't update bitmap directory");
            self.file.write_bytes(place, &bytes).await.map_err(could_not)?;
            self.file.flush().await.map_err(could_not)?;
            change(&self.bitmaps, |all| *all = bitmaps);
        }
        for bitmap in self.node_bitmaps.list().iter().filter(|bitmap| bitmap.is_persistent()) {
            bitmap.set_read_only(false);
        }
        Ok(())
    }

    /// Stores the persistent bitmaps.
    ///
    /// # Errors
    /// What stands against it; then the image keeps the bitmaps as they are there, in use.
    pub(crate) async fn store_bitmaps(&self, meta: &mut Meta) -> Result<()> {
        let mut bitmaps = read(&self.bitmaps, Clone::clone);
        let mut work: Vec<(usize, Arc<DirtyBitmap>)> = Vec::new();
        let mut old: Vec<Old> = Vec::new();
        for bitmap in self.node_bitmaps.list() {
            let Some(name) = bitmap.name() else { continue };
            if !bitmap.is_persistent() || bitmap.is_inconsistent() || bitmap.is_read_only() {
                continue;
            }
            self.check_constraints(&name, bitmap.granularity())
                .map_err(|error| error.context(format!("Bitmap '{name}' doesn't satisfy the constraints")))?;
            let at = match bitmaps.iter().position(|stored| stored.name == name) {
                Some(at) if bitmaps[at].flags & IN_USE == 0 => {
                    return Err(Error::invalid(format!("Bitmap '{name}' already exists in the image")));
                }
                Some(at) => {
                    old.push(self.old_bitmap(&bitmaps[at]).await?);
                    at
                }
                None => {
                    bitmaps.push(StoredBitmap { name, ..StoredBitmap::default() });
                    bitmaps.len() - 1
                }
            };
            bitmaps[at].flags = if bitmap.is_enabled() { AUTO } else { 0 };
            bitmaps[at].granularity_bits = u8::try_from(bitmap.granularity().trailing_zeros()).unwrap_or(0);
            work.push((at, bitmap));
        }
        if work.is_empty() {
            return Ok(());
        }
        if bitmaps.len() > MAX_BITMAPS {
            return Err(Error::invalid("Too many persistent bitmaps"));
        }
        let mut new = Vec::new();
        let mut result = Ok(());
        for (at, bitmap) in work {
            result = self.store_bits(meta, &mut bitmaps[at], &bitmap, &mut new).await;
            if result.is_err() {
                break;
            }
        }
        if result.is_ok() {
            result = self.replace_directory(meta, bitmaps, old, &mut new).await;
        }
        self.give_up(meta, new).await;
        result
    }

    /// Gives clusters back that nothing refers to.
    async fn give_up(&self, meta: &mut Meta, new: Vec<(u64, u64)>) {
        for (offset, clusters) in new {
            self.unallocate(meta, offset, clusters).await;
        }
    }

    /// Writes the bits of a bitmap and its table to new clusters, which are added to `new`.
    async fn store_bits(
        &self,
        meta: &mut Meta,
        stored: &mut StoredBitmap,
        bitmap: &DirtyBitmap,
        new: &mut Vec<(u64, u64)>,
    ) -> Result<()> {
        let cluster = self.cluster_size();
        let bits = bitmap.size().div_ceil(bitmap.granularity());
        let entries = bits.div_ceil(8).div_ceil(cluster).max(1);
        let mut table = vec![0u64; usize::try_from(entries).unwrap_or(0)];
        let mut bytes = vec![0; usize::try_from(cluster).unwrap_or(0)];
        for (index, entry) in table.iter_mut().enumerate() {
            bitmap.store_bits(index as u64 * cluster * 8, &mut bytes);
            if bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            *entry = self.store_part(meta, &bytes, new).await?;
        }
        stored.table_size = u32::try_from(entries).unwrap_or(0);
        stored.table_offset = self.store_part(meta, &encode(&table), new).await?;
        Ok(())
    }

    /// Writes to new clusters: where.
    async fn store_part(&self, meta: &mut Meta, bytes: &[u8], new: &mut Vec<(u64, u64)>) -> Result<u64> {
        let clusters = (bytes.len() as u64).div_ceil(self.cluster_size());
        let offset = meta.refs.allocate(clusters).await?;
        self.note_made(meta);
        new.push((offset, clusters));
        self.check_allocation(offset, bytes.len() as u64, "bitmap").await?;
        self.file.write_bytes(offset, bytes).await?;
        Ok(offset)
    }

    /// Where a stored bitmap is.
    async fn old_bitmap(&self, stored: &StoredBitmap) -> Result<Old> {
        let table = decode(&self.file.read_vec(stored.table_offset, stored.table_size as usize * 8).await?);
        let cluster = self.cluster_size();
        let usable = |offset: &u64| *offset != 0 && offset & (cluster - 1) == 0;
        Ok((stored.table_offset, table.iter().map(|entry| entry & OFFSET_MASK).filter(usable).collect()))
    }

    /// Points the header to a new directory and frees the old one, and what else is `old`. The clusters `new` are in use
    /// when `new` is empty afterwards.
    async fn replace_directory(
        &self,
        meta: &mut Meta,
        bitmaps: Vec<StoredBitmap>,
        old: Vec<Old>,
        new: &mut Vec<(u64, u64)>,
    ) -> Result<()> {
        let cluster = self.cluster_size();
        let bytes: Vec<u8> = bitmaps.iter().flat_map(StoredBitmap::serialise).collect();
        if bytes.len() as u64 > MAX_DIRECTORY {
            return Err(Error::invalid("Bitmap directory is too large"));
        }
        let before = read(&self.header, |h| h.bitmaps);
        let sizes = read(&self.bitmaps, |all| all.iter().map(|b| (b.table_offset, b.table_size)).collect::<Vec<_>>());
        let mut extension = None;
        if !bytes.is_empty() {
            let offset = self.store_part(meta, &bytes, new).await?;
            let count = u32::try_from(bitmaps.len()).unwrap_or(0);
            extension = Some(BitmapsExtension { count, size: bytes.len() as u64, offset });
        }
        self.flush_all(meta).await?;
        let flag = if extension.is_some() { autoclear::BITMAPS } else { 0 };
        self.update_header(|h| {
            h.bitmaps = extension;
            h.autoclear = h.autoclear & !autoclear::BITMAPS | flag;
        })
        .await
        .map_err(|error| error.context("Failed to update bitmap extension"))?;
        new.clear();
        change(&self.bitmaps, |all| *all = bitmaps);
        self.barrier().await?;
        if let Some(before) = before {
            self.free(meta, before.offset, before.size.div_ceil(cluster), Reason::Other);
        }
        for (table, clusters) in old {
            let len = sizes.iter().find(|(offset, _)| *offset == table).map_or(0, |(_, size)| u64::from(*size) * 8);
            self.free(meta, table, len.div_ceil(cluster), Reason::Other);
            for offset in clusters {
                self.free(meta, offset, 1, Reason::Other);
            }
        }
        self.flush_all(meta).await?;
        self.rebuild_table_overlap(meta);
        self.add_inactive_l2().await
    }

    /// Removes bitmaps from the image: that of a name, or all of them.
    pub(crate) async fn remove_stored(&self, name: Option<&str>) -> Result<()> {
        let _gate = self.gate.write().await;
        let _one = self.flush_lock.lock().await;
        let mut meta = self.meta.lock().await;
        let is_meant = |stored: &StoredBitmap| name.is_none_or(|name| stored.name == name);
        let (gone, kept): (Vec<_>, Vec<_>) = read(&self.bitmaps, Clone::clone).into_iter().partition(is_meant);
        if gone.is_empty() {
            return Ok(());
        }
        self.check_usable()?;
        let mut old = Vec::new();
        for stored in &gone {
            old.push(self.old_bitmap(stored).await?);
        }
        let mut new = Vec::new();
        let result = self.replace_directory(&mut meta, kept, old, &mut new).await;
        self.give_up(&mut meta, new).await;
        result
    }

    /// Whether a bitmap of this name and granularity fits into the image.
    fn check_constraints(&self, name: &str, granularity: u64) -> Result<()> {
        if granularity > 1 << 31 {
            return Err(Error::invalid(format!("Granularity exceeds maximum ({} bytes)", 1u64 << 31)));
        }
        if granularity < 1 << 9 {
            return Err(Error::invalid(format!("Granularity is under minimum ({} bytes)", 1u64 << 9)));
        }
        let bytes = self.len().div_ceil(granularity).div_ceil(8);
        if bytes > MAX_BYTES || bytes > MAX_TABLE.saturating_mul(self.cluster_size()) {
            return Err(Error::invalid("Too much space will be occupied by the bitmap. Use larger granularity"));
        }
        if name.len() > block::bitmap::MAX_NAME {
            let text = format!("Name length exceeds maximum ({} characters)", block::bitmap::MAX_NAME);
            return Err(Error::invalid(text));
        }
        Ok(())
    }

    /// Whether a new bitmap could be stored.
    pub(crate) fn can_store_bitmap(&self, name: &str, granularity: u64) -> Result<()> {
        if read(&self.header, |h| h.version) < 3 {
            return Err(Error::invalid("Cannot store dirty bitmaps in qcow2 v2 files"));
        }
        self.check_constraints(name, granularity)?;
        let names = self.node_bitmaps.list().into_iter().filter(|b| b.is_persistent()).filter_map(|b| b.name());
        let names: Vec<String> = names.chain([name.to_owned()]).collect();
        if names.len() > MAX_BITMAPS {
            return Err(Error::invalid("Maximum number of persistent bitmaps is already reached"));
        }
        if names.iter().map(|name| entry_len(name)).sum::<u64>() > MAX_DIRECTORY {
            return Err(Error::invalid("Not enough space in the bitmap directory"));
        }
        Ok(())
    }

    /// Whether the disk may change its size: bitmaps follow if they are in memory.
    pub(crate) fn check_bitmaps_for_resize(&self) -> Result<()> {
        for stored in read(&self.bitmaps, Clone::clone) {
            let Some(bitmap) = self.node_bitmaps.find(&stored.name) else {
                let text = "Cannot resize qcow2 with persistent bitmaps that were not loaded into memory";
                return Err(Error::unsupported(text));
            };
            bitmap.check(BitmapUse::Change).map_err(|error| Error::unsupported(error.to_string()))?;
        }
        Ok(())
    }
}
