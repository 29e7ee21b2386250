//! Writes: in place where a cluster is this image's own, otherwise with allocation and copy on write.
//!
//! An allocating write takes the metadata lock twice: to reserve host clusters and, after the data is written, to link
//! them. In between its guest clusters are registered in `in_flight`; other writes to them wait.

use std::sync::atomic::Ordering;

use block::{Error, Result, WriteFlags};
use iobuf::IoBuf;

use crate::entry::{ALL_ALLOCATED, ALL_ZERO, COMPRESSED, COPIED, Entry, Kind, OFFSET_MASK};
use crate::flush::Reason;
use crate::image::{Allocating, Image, Meta};
use crate::map::{Run, hex};
use crate::overlap::Section;

/// Host clusters for a write, before they are linked.
struct Reservation<'a> {
    /// The first guest byte (of a cluster).
    start: u64,
    /// Where the data goes: the host offset of `start`.
    host: u64,
    /// Whether the host clusters are new.
    new: bool,
    /// The host clusters were never written.
    fresh: bool,
    /// What the clusters' entries are now.
    old: Vec<Entry>,
    /// Guest bytes to be written: with what is copied around them.
    cow_start: u64,
    data_end: u64,
    cow_end: u64,
    _guard: Allocating<'a>,
}

fn size(len: u64) -> usize {
    usize::try_from(len).unwrap_or(0)
}

impl Image {
    /// Writes guest bytes. The caller is registered as a reader.
    pub(crate) async fn write_range(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let len = buf.len() as u64;
        let mut at = 0;
        while at < len {
            let run = self.find_exclusive(offset + at, len - at).await?;
            if run.kind == Kind::Normal && run.copied && self.goes_on(offset + at, &run, len - at).await? {
                at += self.write_allocating(offset + at, &buf.slice(size(at), size(len - at)), true).await?;
            } else if run.kind == Kind::Normal && run.copied {
                let part = buf.slice(size(at), size(run.len));
                self.check_overlap(run.host, run.len).await?;
                let part = self.encrypted(offset + at, run.host, part);
                self.file.event("write_aio").await;
                self.data().write(run.host, part, WriteFlags::default()).await?;
                at += run.len;
            } else {
                at += self.write_allocating(offset + at, &buf.slice(size(at), size(len - at)), false).await?;
            }
        }
        Ok(())
    }

    /// Whether a run is followed by clusters of this image's own that are not in use, in a row with it.
    async fn goes_on(&self, offset: u64, run: &Run, len: u64) -> Result<bool> {
        if run.len >= len || self.geometry().in_cluster(offset + run.len) != 0 {
            return Ok(false);
        }
        let next = self.find(offset + run.len, len - run.len, true).await?;
        let unused = matches!(next.kind, Kind::ZeroHost | Kind::UnallocatedHost);
        Ok(unused && next.copied && run.host + run.len == next.host)
    }

    async fn find_exclusive(&self, offset: u64, len: u64) -> Result<Run> {
        let mut run = self.find(offset, len, true).await?;
        while run.len < len && run.kind == Kind::Normal && run.copied {
            let more = self.find(offset + run.len, len - run.len, true).await?;
            if more.kind != Kind::Normal || !more.copied || run.host + run.len != more.host {
                break;
            }
            run.len += more.len;
        }
        Ok(run)
    }

    /// Writes the first part of `buf` into clusters that have to be allocated: how many bytes. 0: look again.
    /// With `joined`, clusters that are in use already may be among them.
    async fn write_allocating(&self, offset: u64, buf: &IoBuf, joined: bool) -> Result<u64> {
        let end = offset + buf.len() as u64;
        let Some(mut reserved) = self.reserve(offset, end, joined).await? else { return Ok(0) };
        let result = self.write_reserved(offset, buf, &reserved).await;
        let mut meta = self.meta.lock().await;
        match result {
            Ok(()) => self.link(&mut meta, &mut reserved).await?,
            Err(error) => {
                self.abandon(&mut meta, &reserved, 0).await;
                return Err(error);
            }
        }
        let due = self.map().under_pressure() || meta.refs.under_pressure();
        drop(meta);
        let done = reserved.data_end - offset;
        drop(reserved);
        if due {
            self.relieve().await?;
        }
        Ok(done)
    }

    /// Waits for changes in flight of the cluster at `start`. Returns the metadata lock and where the next one begins.
    pub(crate) async fn lock_range(&self, start: u64, end: u64) -> Result<(tokio::sync::MutexGuard<'_, Meta>, u64)> {
        let cluster_end = start + self.cluster_size();
        loop {
            let meta = self.meta.lock().await;
            self.check_usable()?;
            match self.in_flight.conflict(start, end.max(cluster_end)) {
                Some(at) if at < cluster_end => {
                    drop(meta);
                    self.in_flight.wait(start, cluster_end).await;
                }
                Some(at) => return Ok((meta, at.min(end))),
                None => return Ok((meta, end)),
            }
        }
    }

    async fn reserve(&self, offset: u64, end: u64, joined: bool) -> Result<Option<Reservation<'_>>> {
        let geometry = self.geometry();
        let cluster = geometry.cluster_size();
        let start = offset & !(cluster - 1);
        let (mut meta, end) = self.lock_range(start, end).await?;
        self.mark_dirty_for_lazy().await?;
        self.ensure_table(&mut meta, start).await?;
        let table_end = ((start >> geometry.l1_shift()) + 1) << geometry.l1_shift();
        let end = end.min(table_end);
        let first = self.entry(start).await?;
        let own = |entry: Entry| geometry.host(entry).filter(|_| entry.word & COPIED != 0);
        let sub = |at: u64| u32::try_from(geometry.in_cluster(at) >> geometry.subcluster_bits()).unwrap_or(0);
        let in_use = own(first).is_some() && geometry.kind(first, sub(offset)) == Some(Kind::Normal);
        if in_use && !joined {
            return Ok(None);
        }
        let reuse = own(first);
        let mut old = vec![first];
        let mut at = start + cluster;
        while at < end {
            let entry = self.entry(at).await?;
            let fits = match (reuse, own(entry)) {
                (None, None) => true,
                (Some(host), Some(next)) => {
                    let last_sub = sub((end - 1).min(at + cluster - 1));
                    let open = (0..=last_sub).any(|i| geometry.kind(entry, i) != Some(Kind::Normal));
                    host + (at - start) == next && (open || joined)
                }
                _ => false,
            };
            if !fits {
                break;
            }
            if (0..self.subclusters()).any(|i| geometry.kind(entry, i).is_none()) {
                return Err(self.invalid_entry(at).await);
            }
            old.push(entry);
            at += cluster;
        }
        let (host, count) = match reuse {
            Some(host) => (host, old.len() as u64),
            None if self.has_data_file() => (start, old.len() as u64),
            None => {
                self.file.event("cluster_alloc").await;
                let (host, count) = meta.refs.allocate_up_to(old.len() as u64).await?;
                self.note_made(&mut meta);
                (host, count)
            }
        };
        old.truncate(size(count));
        let new = reuse.is_none();
        self.check_allocation_of(host, count * cluster, new).await?;
        let fresh = new && host >= self.data().len();
        let data_end = end.min(start + count * cluster);
        let (cow_start, cow_end) = self.copied_range(start, offset, data_end, &old, new);
        let guard = self.in_flight.begin(start, start + count * cluster);
        Ok(Some(Reservation { start, host, new, fresh, old, cow_start, data_end, cow_end, _guard: guard }))
    }

    /// How many parts a cluster has that are allocated one by one.
    fn subclusters(&self) -> u32 {
        if self.geometry().extended { 32 } else { 1 }
    }

    /// The error for an entry that contradicts itself.
    async fn invalid_entry(&self, guest: u64) -> Error {
        let place = self.map().locate(&self.geometry(), guest);
        let (slice, index) = place.ok().flatten().map_or((0, 0), |(_, slice, index)| (slice, index as u64));
        let text = format!("Invalid cluster entry found (L2 offset: {slice:#x}, L2 index: {})", hex(index));
        self.corrupt(&text).await
    }

    async fn check_allocation_of(&self, host: u64, len: u64, new: bool) -> Result<()> {
        if self.has_data_file() {
            Ok(())
        } else if new {
            self.check_allocation(host, len, "data cluster").await
        } else {
            self.check_overlap(host, len).await
        }
    }

    /// The guest range that has to be written so that whole subclusters become allocated.
    fn copied_range(&self, start: u64, offset: u64, data_end: u64, old: &[Entry], new: bool) -> (u64, u64) {
        let geometry = self.geometry();
        let unit = geometry.subcluster_size();
        let cluster = geometry.cluster_size();
        let mut from = offset & !(unit - 1);
        let mut to = data_end.next_multiple_of(unit);
        let last_start = start + (old.len() as u64 - 1) * cluster;
        let (Some(first), Some(last)) = (old.first(), old.last()) else { return (from, to) };
        if !new {
            let sub = u32::try_from(geometry.in_cluster(offset) >> geometry.subcluster_bits()).unwrap_or(0);
            if geometry.kind(*first, sub) == Some(Kind::Normal) {
                from = offset;
            }
            let sub = u32::try_from(geometry.in_cluster(data_end - 1) >> geometry.subcluster_bits()).unwrap_or(0);
            if geometry.kind(*last, sub) == Some(Kind::Normal) {
                to = data_end;
            }
            return (from, to);
        }
        // What is stored in the old cluster has to come along.
        if first.word & COMPRESSED != 0 || !geometry.extended {
            from = start;
        } else if first.bitmap & ALL_ALLOCATED != 0 {
            from = from.min(start + u64::from(first.bitmap.trailing_zeros()) * unit);
        }
        if last.word & COMPRESSED != 0 || !geometry.extended {
            to = last_start + cluster;
        } else if last.bitmap & ALL_ALLOCATED != 0 {
            let highest = 63 - (last.bitmap & ALL_ALLOCATED).leading_zeros();
            to = to.max(last_start + (u64::from(highest) + 1) * unit);
        }
        (from, to)
    }

    /// What was at a guest range before, or `None` if nothing has to be written there.
    async fn copied(&self, from: u64, to: u64, fresh: bool) -> Result<Option<IoBuf>> {
        if from >= to {
            return Ok(None);
        }
        let inside = if self.is_vm_state(from) { to - from } else { self.len().clamp(from, to) - from };
        let zero = self.reads_as_zero(from, inside).await?;
        if zero && fresh && !self.encryption.is_on() {
            return Ok(None);
        }
        let buf = IoBuf::zeroed(size(to - from));
        if !zero {
            self.file.event("cow_read").await;
            self.read_range(from, buf.slice(0, size(inside))).await?;
        }
        Ok(Some(buf))
    }

    async fn write_reserved(&self, offset: u64, buf: &IoBuf, reserved: &Reservation<'_>) -> Result<()> {
        let head = self.copied(reserved.cow_start, offset, reserved.fresh).await?;
        let tail = self.copied(reserved.data_end, reserved.cow_end, reserved.fresh).await?;
        let from = if head.is_some() { reserved.cow_start } else { offset };
        let data = buf.slice(0, size(reserved.data_end - offset));
        let is_bare = reserved.fresh && (reserved.cow_start < offset || reserved.data_end < reserved.cow_end);
        let whole = match (head, tail) {
            (None, None) => {
                if is_bare {
                    // What is not written there reads as zeroes.
                    self.file.event("cluster_alloc_space").await;
                    let end = reserved.host + reserved.old.len() as u64 * self.cluster_size();
                    self.bare_end.fetch_max(end, Ordering::AcqRel);
                }
                data
            }
            (head, tail) => IoBuf::concat(head.into_iter().chain([data]).chain(tail)),
        };
        let host = reserved.host + (from - reserved.start);
        let whole = self.encrypted(from, host, whole);
        self.file.event("write_aio").await;
        self.data().write(host, whole, WriteFlags::default()).await
    }

    /// Points the guest clusters to what was written.
    async fn link(&self, meta: &mut Meta, reserved: &mut Reservation<'_>) -> Result<()> {
        let geometry = self.geometry();
        let cluster = geometry.cluster_size();
        for (index, old) in reserved.old.iter().enumerate() {
            let guest = reserved.start + index as u64 * cluster;
            let host = reserved.host + index as u64 * cluster;
            let mut entry = Entry { word: host | COPIED, bitmap: 0 };
            if geometry.extended {
                let unit = geometry.subcluster_size();
                let first = reserved.cow_start.max(guest) - guest;
                let last = (reserved.cow_end.min(guest + cluster) - guest).div_ceil(unit);
                let mask = (first / unit..last).fold(0u64, |mask, sub| mask | 1 << sub);
                let kept = if old.word & COMPRESSED != 0 { 0 } else { old.bitmap };
                entry.bitmap = (kept | mask) & !(mask << 32);
            }
            let linked = match self.entry(guest).await {
                Ok(now) if now == *old => self.set_entry(guest, entry).await,
                Ok(_) => Err(Error::io("The mapping changed under a write")),
                Err(error) => Err(error),
            };
            if let Err(error) = linked {
                self.abandon(meta, reserved, index).await;
                return Err(error);
            }
            if reserved.new {
                self.free_entry(meta, *old, Reason::Never).await;
            }
        }
        Ok(())
    }

    /// Gives back the clusters from `index` on, which were not linked.
    async fn abandon(&self, meta: &mut Meta, reserved: &Reservation<'_>, index: usize) {
        if reserved.new && !self.has_data_file() {
            let host = reserved.host + index as u64 * self.cluster_size();
            self.unallocate(meta, host, (reserved.old.len() - index) as u64).await;
        }
    }

    /// Queues the host clusters of an entry that is gone.
    pub(crate) async fn free_entry(&self, meta: &mut Meta, entry: Entry, reason: Reason) {
        let geometry = self.geometry();
        if entry.word & COMPRESSED != 0 {
            let (first, count) = geometry.compressed_clusters(entry.word);
            self.free(meta, first << geometry.cluster_bits, count, reason);
        } else if let Some(host) = geometry.host(entry) {
            match &self.data_file {
                None => self.free(meta, host, 1, reason),
                Some(data) => {
                    let passes = crate::image::read(&self.run, |run| run.passes(reason));
                    if passes && let Err(error) = data.discard(host, geometry.cluster_size()).await {
                        tracing::debug!("qcow2: discard of {host:#x}: {error}");
                    }
                }
            }
        }
    }

    /// Makes sure that there is an L2 table of this image's own for guest byte `offset`.
    pub(crate) async fn ensure_table(&self, meta: &mut Meta, offset: u64) -> Result<()> {
        let geometry = self.geometry();
        let index = size(offset >> geometry.l1_shift());
        let Some(entry) = self.map().l1.get(index).copied() else {
            return Err(Error::io(format!("Offset {offset:#x} lies behind the L1 table")));
        };
        let old = entry & OFFSET_MASK;
        if old != 0 && entry & COPIED != 0 {
            return Ok(());
        }
        if geometry.in_cluster(old) != 0 {
            let text = format!("L2 table offset {old:#x} unaligned (L1 index: {})", hex(index as u64));
            return Err(self.corrupt(&text).await);
        }
        let new = meta.refs.allocate(1).await?;
        self.note_made(meta);
        self.check_allocation(new, geometry.cluster_size(), "L2 table").await?;
        let content = if old == 0 {
            Ok(vec![0; size(geometry.cluster_size())])
        } else {
            self.file.event("l2_alloc_cow_read").await;
            self.file.read_vec(old, size(geometry.cluster_size())).await
        };
        let written = match (content, self.write_counts(meta).await) {
            (Ok(content), Ok(())) => {
                self.file.event("l2_alloc_write").await;
                self.file.write_bytes(new, &content).await.map(|()| content)
            }
            (Ok(_), Err(error)) => Err(error),
            (Err(error), _) => Err(error),
        };
        let content = match written {
            Ok(content) => content,
            Err(error) => {
                self.unallocate(meta, new, 1).await;
                return Err(error);
            }
        };
        self.map().put_table(&geometry, offset, new | COPIED, &content);
        self.note_overlap(new, Section::ActiveL2);
        if old != 0 {
            self.free(meta, old, 1, Reason::Other);
        }
        Ok(())
    }

    /// An entry for a whole cluster of zeroes without a host cluster, or with that of `old`.
    pub(crate) fn zero_entry(&self, old: Entry, keep_host: bool) -> Entry {
        let word = if keep_host { old.word } else { 0 };
        if self.geometry().extended {
            Entry { word, bitmap: ALL_ZERO }
        } else {
            Entry { word: word | crate::entry::ZERO, bitmap: 0 }
        }
    }
}
