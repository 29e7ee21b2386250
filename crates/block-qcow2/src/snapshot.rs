//! Internal snapshots: the snapshot table, and making, applying and deleting them.
//!
//! The counts of all clusters of a snapshot change, and with them the "copied" flags. Both can't change at one moment, so
//! that the dirty bit (version 3) is set meanwhile: after a crash the next writable open rebuilds the counts.

use std::sync::atomic::Ordering;

use block::{Child, Error, Result, image::SnapshotInfo};

use crate::entry::{COMPRESSED, COPIED, Entry, OFFSET_MASK};
use crate::flush::Reason;
use crate::header::{Header, MAX_L1_BYTES, be16, be32, be64, check_table, incompatible};
use crate::image::{Image, Meta, change, read};
use crate::map::{decode, encode};

/// Bytes of an entry without its variable part.
const FIXED: usize = 40;
/// Bytes of the extra data that is known: state size, disk size, instruction count.
const EXTRA: usize = 24;
/// The most extra data of an entry, bytes.
const MAX_EXTRA: usize = 1024;

/// An entry of the snapshot table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Offset of its L1 table.
    pub l1_offset: u64,
    /// Entries of its L1 table.
    pub l1_size: u32,
    /// What users see.
    pub info: SnapshotInfo,
    /// Extra data that is not known.
    pub unknown: Vec<u8>,
    /// Bytes of all extra data, as it is in the image.
    pub extra_len: usize,
    /// Bytes of the id and the name, as they are in the image.
    pub names_len: usize,
}

/// Bytes of the table of these snapshots.
pub fn table_len(snapshots: &[Snapshot]) -> u64 {
    let len = |s: &Snapshot| FIXED + s.extra_len + s.names_len;
    snapshots.iter().map(|s| len(s).next_multiple_of(8) as u64).sum()
}

impl Snapshot {
    /// Whether version 3 demands more of the entry: the sizes of the state and of the disk.
    pub fn is_incomplete(&self) -> bool {
        self.extra_len < 16
    }

    /// An entry from its parts; of the extra data there may be less than the image has.
    fn parse(fixed: &[u8], extra_len: usize, extra: &[u8], (id, name): (&[u8], &[u8]), disk_size: u64) -> Self {
        // Everybody else ends a text at its first zero.
        let text = |bytes: &[u8]| {
            let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(text).into_owned()
        };
        let known = |from: usize, default: u64| if extra_len >= from + 8 { be64(extra, from) } else { default };
        let info = SnapshotInfo {
            id: text(id),
            name: text(name),
            vm_state_size: known(0, be32(fixed, 32).into()),
            date_sec: be32(fixed, 16).into(),
            date_nsec: be32(fixed, 20),
            vm_clock_nsec: be64(fixed, 24),
            icount: Some(known(16, u64::MAX)).filter(|count| *count != u64::MAX),
            disk_size: known(8, disk_size),
        };
        let unknown = extra.get(EXTRA..).unwrap_or_default().to_vec();
        Self {
            l1_offset: be64(fixed, 0),
            l1_size: be32(fixed, 8),
            info,
            unknown,
            extra_len,
            names_len: id.len() + name.len(),
        }
    }

    fn serialise(&self) -> Vec<u8> {
        let info = &self.info;
        let mut bytes = Vec::new();
        bytes.extend(self.l1_offset.to_be_bytes());
        bytes.extend(self.l1_size.to_be_bytes());
        bytes.extend(u16::try_from(info.id.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(u16::try_from(info.name.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(u32::try_from(info.date_sec).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(info.date_nsec.to_be_bytes());
        bytes.extend(info.vm_clock_nsec.to_be_bytes());
        bytes.extend(u32::try_from(info.vm_state_size).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(u32::try_from(EXTRA + self.unknown.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(info.vm_state_size.to_be_bytes());
        bytes.extend(info.disk_size.to_be_bytes());
        bytes.extend(info.icount.unwrap_or(u64::MAX).to_be_bytes());
        bytes.extend(&self.unknown);
        bytes.extend(info.id.as_bytes());
        bytes.extend(info.name.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }
}

/// How a damaged snapshot table is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It is an error.
    Refused,
    /// What is too much is left out.
    LeftOut,
}

/// What a snapshot table holds.
#[derive(Debug, Default)]
pub struct Table {
    /// The snapshots.
    pub snapshots: Vec<Snapshot>,
    /// What was left out, in words.
    pub left_out: Vec<String>,
    /// Entries of which a part was left out.
    pub entry_faults: u64,
    /// Entries at the end that were left out.
    pub overhanging: u64,
}

/// Reads the first `count` entries of the snapshot table.
pub async fn read_table(file: &Child, header: &Header, count: u32, damage: Damage) -> Result<Table> {
    let mut table = Table::default();
    let mut at = header.snapshots_offset;
    let mut left = crate::header::MAX_SNAPSHOT_TABLE_BYTES;
    for index in 0..count {
        // What was cut off reads as zeroes: what is left of the image can still be read.
        let fixed = if at < file.len() { file.read_vec(at, FIXED).await? } else { vec![0; FIXED] };
        let (id_len, name_len) = (usize::from(be16(&fixed, 12)), usize::from(be16(&fixed, 14)));
        let extra_len = be32(&fixed, 36) as usize;
        if extra_len > MAX_EXTRA {
            if damage == Damage::Refused {
                let error = Error::too_big(format!("Too much extra metadata in snapshot table entry {index}"));
                return Err(error.with_hint("You can force-remove this extra metadata with qemu-img check -r all"));
            }
            let what = format!("extra metadata in snapshot table entry {index} ({extra_len} > {MAX_EXTRA})");
            table.left_out.push(format!("Discarding too much {what}"));
            table.entry_faults += 1;
        }
        let extra = file.read_vec(at + FIXED as u64, extra_len.min(MAX_EXTRA)).await?;
        let names = file.read_vec(at + (FIXED + extra_len) as u64, id_len + name_len).await?;
        let len = (FIXED + extra_len + id_len + name_len) as u64;
        let kept = len - (extra_len - extra.len()) as u64;
        let Some(rest) = left.checked_sub(kept.next_multiple_of(8)) else {
            let over = count - index;
            if damage == Damage::Refused {
                let hint = format!("You can force-remove all {over} overhanging snapshots with qemu-img check -r all");
                return Err(Error::too_big("Snapshot table is too big").with_hint(hint));
            }
            table.left_out.push(format!("Discarding {over} overhanging snapshots (snapshot table is too big)"));
            table.overhanging += u64::from(over);
            break;
        };
        left = rest;
        table.snapshots.push(Snapshot::parse(&fixed, extra_len, &extra, names.split_at(id_len), header.size));
        at += len.next_multiple_of(8);
    }
    Ok(table)
}

impl Image {
    /// Reads an L1 table that is not the active one.
    pub(crate) async fn read_l1(&self, offset: u64, entries: u32) -> Result<Vec<u64>> {
        check_table(offset, entries.into(), 8, MAX_L1_BYTES, self.geometry().cluster_bits, "Snapshot L1 table")?;
        Ok(decode(&self.file.read_vec(offset, entries as usize * 8).await?))
    }

    /// Why the L1 table of a snapshot can't be where its entry says.
    pub(crate) fn fault_of_l1(&self, snapshot: &Snapshot) -> Option<String> {
        let (offset, entries) = (snapshot.l1_offset, snapshot.l1_size);
        if self.geometry().in_cluster(offset) != 0 {
            Some(format!("l1_offset={offset:#x}: L1 table is not cluster aligned"))
        } else {
            (u64::from(entries) > MAX_L1_BYTES / 8).then(|| format!("l1_size={entries:#x}: L1 table is too large"))
        }
    }

    /// Reads a whole L2 table from the disk.
    pub(crate) async fn read_l2(&self, offset: u64) -> Result<Vec<Entry>> {
        let geometry = self.geometry();
        let words = decode(&self.file.read_vec(offset, usize::try_from(geometry.cluster_size()).unwrap_or(0)).await?);
        let step = geometry.entry_words();
        Ok(words.chunks_exact(step).map(|w| Entry { word: w[0], bitmap: if step == 2 { w[1] } else { 0 } }).collect())
    }

    /// Writes a whole L2 table to the disk.
    pub(crate) async fn write_l2(&self, offset: u64, entries: &[Entry]) -> Result<()> {
        let extended = self.geometry().extended;
        let words: Vec<u64> =
            entries.iter().flat_map(|e| if extended { vec![e.word, e.bitmap] } else { vec![e.word] }).collect();
        self.file.write_bytes(offset, &encode(&words)).await
    }

    /// Marks the image as dirty while counts and flags disagree.
    pub(crate) async fn begin_unsettled(&self) -> Result<()> {
        self.unsettled.store(true, Ordering::Release);
        if read(&self.header, |h| h.version) >= 3 {
            self.update_header(|h| h.incompatible |= incompatible::DIRTY).await?;
            self.barrier().await?;
        }
        Ok(())
    }

    /// The host clusters that an entry refers to: the first and how many.
    pub(crate) fn entry_clusters(&self, entry: Entry) -> Option<(u64, u64)> {
        let geometry = self.geometry();
        if entry.word & COMPRESSED != 0 {
            return Some(geometry.compressed_clusters(entry.word));
        }
        if self.has_data_file() {
            return None;
        }
        geometry.host(entry).map(|host| (host >> geometry.cluster_bits, 1))
    }

    /// Counts a cluster once more. One that is in use has been counted: if not, somebody else may get it, and a snapshot
    /// that looks sound would lose it.
    async fn reference(&self, meta: &mut Meta, cluster: u64) -> Result<()> {
        if meta.refs.count(cluster).await? == 0 {
            let offset = cluster << self.geometry().cluster_bits;
            let text = format!("The cluster at {offset:#x} is in use, but not counted");
            return Err(if offset < self.file.len() { Error::io(text) } else { Error::too_big(text) });
        }
        meta.refs.increment(cluster).await.map(|_| ())
    }

    /// Counts the clusters of a tree of tables once more.
    async fn reference_tree(&self, meta: &mut Meta, l1: &[u64]) -> Result<()> {
        let bits = self.geometry().cluster_bits;
        for table in l1.iter().map(|entry| entry & OFFSET_MASK).filter(|table| *table != 0) {
            for entry in self.read_l2(table).await? {
                if let Some((first, count)) = self.entry_clusters(entry) {
                    for cluster in first..first + count {
                        self.reference(meta, cluster).await?;
                    }
                }
            }
            self.reference(meta, table >> bits).await?;
            if meta.refs.under_pressure() {
                self.flush_all(meta).await?;
            }
        }
        Ok(())
    }

    /// Takes the references of a tree of tables back.
    async fn release_tree(&self, meta: &mut Meta, l1: &[u64], reason: Reason) -> Result<()> {
        let bits = self.geometry().cluster_bits;
        for table in l1.iter().map(|entry| entry & OFFSET_MASK).filter(|table| *table != 0) {
            for entry in self.read_l2(table).await? {
                if let Some((first, count)) = self.entry_clusters(entry) {
                    self.free(meta, first << bits, count, reason);
                }
            }
            self.free(meta, table, 1, reason);
        }
        self.flush_all(meta).await
    }

    /// Sets the "copied" flags of the active tables by the counts. Nothing may be dirty.
    pub(crate) async fn settle_copied(&self, meta: &mut Meta) -> Result<()> {
        let bits = self.geometry().cluster_bits;
        // What is cached is the same as on disk now, but will not be.
        self.map().drop_slices();
        let mut l1 = self.map().l1.clone();
        for entry in &mut l1 {
            let table = *entry & OFFSET_MASK;
            if table == 0 {
                continue;
            }
            let mut entries = self.read_l2(table).await?;
            let mut changed = false;
            for e in &mut entries {
                if self.has_data_file() || e.word & COMPRESSED != 0 {
                    continue;
                }
                let Some(host) = self.geometry().host(*e) else { continue };
                let word = if meta.refs.count(host >> bits).await? == 1 { e.word | COPIED } else { e.word & !COPIED };
                changed |= word != e.word;
                e.word = word;
            }
            if changed {
                self.write_l2(table, &entries).await?;
            }
            *entry = if meta.refs.count(table >> bits).await? == 1 { table | COPIED } else { table };
        }
        let offset = read(&self.header, |h| h.l1_offset);
        self.file.write_bytes(offset, &encode(&l1)).await?;
        self.barrier().await?;
        self.map().replace_l1(l1);
        self.unsettled.store(false, Ordering::Release);
        Ok(())
    }

    /// Ends an unsettled phase. If that fails, closing the image tries again.
    pub(crate) async fn end_unsettled(&self, meta: &mut Meta) -> Result<()> {
        self.flush_clean(meta).await?;
        self.rebuild_table_overlap(meta);
        self.add_inactive_l2().await
    }

    /// Writes a new snapshot table and points the header to it.
    pub(crate) async fn write_snapshots(&self, meta: &mut Meta, mut snapshots: Vec<Snapshot>) -> Result<()> {
        let cluster = self.cluster_size();
        for snapshot in &mut snapshots {
            snapshot.extra_len = EXTRA + snapshot.unknown.len();
            snapshot.names_len = snapshot.info.id.len() + snapshot.info.name.len();
        }
        let bytes: Vec<u8> = snapshots.iter().flat_map(Snapshot::serialise).collect();
        if bytes.len() as u64 > crate::header::MAX_SNAPSHOT_TABLE_BYTES {
            return Err(Error::too_big("Snapshot table is too big"));
        }
        let old = (read(&self.header, |h| h.snapshots_offset), read(&self.snapshots, |all| table_len(all)));
        let clusters = (bytes.len() as u64).div_ceil(cluster);
        let offset = if bytes.is_empty() { 0 } else { meta.refs.allocate(clusters).await? };
        self.note_made(meta);
        let written = async {
            if offset != 0 {
                self.file.write_bytes(offset, &bytes).await?;
            }
            self.flush_all(meta).await?;
            Ok(())
        }
        .await;
        if let Err(error) = written {
            self.unallocate(meta, offset, if offset == 0 { 0 } else { clusters }).await;
            return Err(error);
        }
        let count = u32::try_from(snapshots.len()).unwrap_or(0);
        self.update_header(|h| {
            h.snapshots_offset = offset;
            h.nb_snapshots = count;
        })
        .await?;
        self.barrier().await?;
        change(&self.snapshots, |all| *all = snapshots);
        if old.0 != 0 && old.1 != 0 {
            self.free(meta, old.0, old.1.div_ceil(cluster), Reason::Other);
        }
        Ok(())
    }

    /// The index of the snapshot of that id or else name.
    pub(crate) fn find_snapshot(&self, name: &str) -> Result<(usize, Snapshot)> {
        read(&self.snapshots, |all| {
            let by_id = all.iter().position(|s| s.info.id == name);
            let index = by_id.or_else(|| all.iter().position(|s| s.info.name == name));
            index.map(|index| (index, all[index].clone()))
        })
        .ok_or_else(|| Error::not_found(format!("Can't find a snapshot with the id or name '{name}'")))
    }

    /// Makes a snapshot of the disk.
    pub(crate) async fn snapshot_create(&self, mut info: SnapshotInfo) -> Result<()> {
        if self.has_data_file() {
            return Err(Error::unsupported("Internal snapshots are not supported with an external data file"));
        }
        let _gate = self.gate.write().await;
        let _one = self.flush_lock.lock().await;
        let mut meta = self.meta.lock().await;
        self.check_usable()?;
        let mut snapshots = read(&self.snapshots, Clone::clone);
        if snapshots.len() >= crate::header::MAX_SNAPSHOTS as usize {
            return Err(Error::too_big("The image has too many snapshots"));
        }
        self.flush_all(&mut meta).await?;
        let last = snapshots.iter().filter_map(|s| s.info.id.parse::<u64>().ok()).max().unwrap_or(0);
        info.id = (last + 1).to_string();
        info.disk_size = self.len();
        self.begin_unsettled().await?;
        let l1 = self.map().l1.clone();
        let result = self.copy_for_snapshot(&mut meta, &l1).await;
        let result = match result {
            Ok(l1_offset) => {
                let l1_size = u32::try_from(l1.len()).unwrap_or(0);
                snapshots.push(Snapshot {
                    l1_offset,
                    l1_size,
                    info,
                    unknown: Vec::new(),
                    extra_len: EXTRA,
                    names_len: 0,
                });
                self.write_snapshots(&mut meta, snapshots).await
            }
            Err(error) => Err(error),
        };
        // On an error some counts are too high: leaks. The flags have to be right in any case.
        let settled = self.end_unsettled(&mut meta).await;
        result.and(settled)
    }

    async fn copy_for_snapshot(&self, meta: &mut Meta, l1: &[u64]) -> Result<u64> {
        let clusters = (l1.len() as u64 * 8).div_ceil(self.cluster_size()).max(1);
        let offset = meta.refs.allocate(clusters).await?;
        self.note_made(meta);
        let plain: Vec<u64> = l1.iter().map(|entry| entry & !COPIED).collect();
        if let Err(error) = self.file.write_bytes(offset, &encode(&plain)).await {
            self.unallocate(meta, offset, clusters).await;
            return Err(error);
        }
        self.reference_tree(meta, l1).await?;
        self.flush_all(meta).await?;
        // From here on writes leave the clusters alone that will be the snapshot's.
        self.settle_copied(meta).await?;
        Ok(offset)
    }

    /// Goes back to a snapshot.
    pub(crate) async fn snapshot_apply(&self, name: &str) -> Result<()> {
        let _gate = self.gate.write().await;
        let _one = self.flush_lock.lock().await;
        let mut meta = self.meta.lock().await;
        self.check_usable()?;
        let (_, snapshot) = self.find_snapshot(name)?;
        self.flush_all(&mut meta).await?;
        let geometry = self.geometry();
        let mut l1 = self.read_l1(snapshot.l1_offset, snapshot.l1_size).await?;
        let size = snapshot.info.disk_size;
        let needed = usize::try_from(geometry.l1_needed(size)).unwrap_or(usize::MAX);
        if needed > l1.len() {
            return Err(Error::invalid("The L1 table of the snapshot is too small for its disk size"));
        }
        let old_l1 = self.map().l1.clone();
        let old_place = read(&self.header, |h| h.l1_offset);
        l1.resize(l1.len().max(old_l1.len().min(needed)), 0);
        // The tables are the snapshot's, whatever flags it was stored with.
        l1.iter_mut().for_each(|entry| *entry &= !COPIED);
        self.begin_unsettled().await?;
        let result = async {
            self.reference_tree(&mut meta, &l1).await?;
            self.move_l1(&mut meta, l1, size).await?;
            let clusters = (old_l1.len() as u64 * 8).div_ceil(geometry.cluster_size());
            self.unsettled.store(true, Ordering::Release);
            self.free(&mut meta, old_place, clusters, Reason::Other);
            self.release_tree(&mut meta, &old_l1, Reason::Snapshot).await
        }
        .await;
        let settled = self.end_unsettled(&mut meta).await;
        result.and(settled)
    }

    /// Writes a new active L1 table and points the header to it. Nothing may be dirty. The old one is the caller's.
    pub(crate) async fn move_l1(&self, meta: &mut Meta, l1: Vec<u64>, size: u64) -> Result<()> {
        let clusters = (l1.len() as u64 * 8).div_ceil(self.cluster_size());
        self.file.event("l1_grow_alloc_table").await;
        let offset = if clusters == 0 { 0 } else { meta.refs.allocate(clusters).await? };
        self.note_made(meta);
        let written = async {
            if clusters != 0 {
                self.file.event("l1_grow_write_table").await;
                self.file.write_bytes(offset, &encode(&l1)).await?;
            }
            self.flush_all(meta).await
        }
        .await;
        if let Err(error) = written {
            self.unallocate(meta, offset, clusters).await;
            return Err(error);
        }
        let entries = u32::try_from(l1.len()).unwrap_or(u32::MAX);
        self.file.event("l1_grow_activate_table").await;
        self.update_header(|h| {
            h.l1_offset = offset;
            h.l1_size = entries;
            h.size = size;
        })
        .await?;
        self.barrier().await?;
        self.size.store(size, Ordering::Release);
        let mut map = self.map();
        map.drop_slices();
        map.replace_l1(l1);
        Ok(())
    }

    /// Deletes a snapshot.
    pub(crate) async fn snapshot_delete(&self, name: &str) -> Result<()> {
        let _gate = self.gate.write().await;
        let _one = self.flush_lock.lock().await;
        let mut meta = self.meta.lock().await;
        self.check_usable()?;
        let (index, snapshot) = self.find_snapshot(name)?;
        self.flush_all(&mut meta).await?;
        let l1 = self.read_l1(snapshot.l1_offset, snapshot.l1_size).await?;
        let mut snapshots = read(&self.snapshots, Clone::clone);
        snapshots.remove(index);
        self.begin_unsettled().await?;
        let result = async {
            self.write_snapshots(&mut meta, snapshots).await?;
            let clusters = (u64::from(snapshot.l1_size) * 8).div_ceil(self.cluster_size());
            self.free(&mut meta, snapshot.l1_offset, clusters.max(1), Reason::Snapshot);
            self.release_tree(&mut meta, &l1, Reason::Snapshot).await.map_err(|error| {
                eprintln!("qcow2_free_clusters failed: {}", block::error::strerror(error.errno()));
                error.context("Failed to free the cluster and L1 table")
            })
        }
        .await;
        let settled = self.end_unsettled(&mut meta).await;
        result.and(settled)
    }
}
