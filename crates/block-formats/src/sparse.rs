//! What all formats with clusters have in common: reading and writing through a map from clusters to places in a file.
//!
//! A cluster only ever goes from unallocated (or zero) to allocated: zeroing and discarding allocated clusters gives
//! the storage below back and keeps the cluster. So a lookup needs no lock, and stays true while the data is read or
//! written. Whoever allocates clusters claims them first; a second write to them waits and then finds them allocated.
//! New clusters are written before anything points to them ([`crate::meta`] has the order on disk).

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use block::{BackingSlot, BlockStatus, Child, Error, Result, WriteFlags, ZeroFlags};
use iobuf::IoBuf;
use tokio::sync::Notify;

use crate::bytes::{n, u};

/// Clusters of up to this size are written whole when they are allocated; of larger ones, just the data is.
const WHOLE: u64 = 64 << 10;
/// Clusters that one request allocates at once, bytes.
const MAX_ALLOCATION: u64 = 8 << 20;

/// Where a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// Not in this image.
    Unallocated,
    /// Zeroes by the image's word.
    Zero,
    /// At this offset of the file.
    Data(u64),
    /// Stored compressed; the number is the format's own.
    Compressed(u64),
}

/// What a format tells of its tables.
pub(crate) trait Layout: Send + Sync {
    /// Where the clusters are.
    fn file(&self) -> &Arc<Child>;

    /// Bytes of a cluster.
    fn cluster_size(&self) -> u64;

    /// The mapping of `cluster`, and for how many clusters from there on it goes on, at most `max`: the same state,
    /// places one after the other.
    fn map(&self, cluster: u64, max: u64) -> impl Future<Output = Result<(Mapping, u64)>> + Send;

    /// Finds room for up to `count` clusters, one after the other: where, and for how many. Nobody else gets them.
    fn reserve(&self, cluster: u64, count: u64) -> impl Future<Output = Result<(u64, u64)>> + Send {
        let _ = (cluster, count);
        std::future::ready(Err(Error::unsupported("The image format cannot be written")))
    }

    /// Takes clusters back that were reserved but could not be written.
    fn release(&self, host: u64, count: u64) {
        let _ = (host, count);
    }

    /// Clusters from `cluster` on are at `host` from now on.
    fn link(&self, cluster: u64, count: u64, host: u64) -> impl Future<Output = Result<()>> + Send {
        let _ = (cluster, count, host);
        std::future::ready(Err(Error::unsupported("The image format cannot be written")))
    }

    /// Whether clusters can be marked as zero.
    fn has_zero_marks(&self) -> bool {
        false
    }

    /// Marks clusters, none of which has data, as zero.
    fn link_zero(&self, cluster: u64, count: u64) -> impl Future<Output = Result<()>> + Send {
        let _ = (cluster, count);
        std::future::ready(Err(Error::unsupported("The image format has no zero clusters")))
    }

    /// The contents of a compressed cluster.
    fn read_compressed(&self, cluster: u64, at: u64) -> impl Future<Output = Result<Vec<u8>>> + Send {
        let _ = (cluster, at);
        std::future::ready(Err(Error::unsupported("The image format has no compressed clusters")))
    }

    /// Called before data is written to allocated clusters.
    fn before_write(&self, cluster: u64, count: u64) -> impl Future<Output = Result<()>> + Send {
        let _ = (cluster, count);
        std::future::ready(Ok(()))
    }
}

/// Clusters that are being allocated.
#[derive(Default)]
pub(crate) struct Claims {
    ranges: Mutex<Vec<(u64, u64)>>,
    released: Notify,
}

/// Clusters claimed; dropping it releases them.
pub(crate) struct Claim<'a> {
    claims: &'a Claims,
    range: (u64, u64),
}

impl Claims {
    fn try_claim(&self, range: (u64, u64)) -> bool {
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let free = !ranges.iter().any(|(start, end)| *start < range.1 && range.0 < *end);
        if free {
            ranges.push(range);
        }
        free
    }

    /// Waits until nobody else allocates any of these clusters.
    pub(crate) async fn claim(&self, cluster: u64, count: u64) -> Claim<'_> {
        let range = (cluster, cluster.saturating_add(count));
        loop {
            let released = self.released.notified();
            let mut released = std::pin::pin!(released);
            released.as_mut().enable();
            if self.try_claim(range) {
                return Claim { claims: self, range };
            }
            released.await;
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut ranges = self.claims.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = ranges.iter().position(|range| *range == self.range) {
            ranges.swap_remove(at);
        }
        drop(ranges);
        self.claims.released.notify_waiters();
    }
}

/// An image, or an extent of one, with clusters.
pub(crate) struct Sparse<L> {
    pub(crate) layout: L,
    pub(crate) claims: Claims,
    backing: Option<Arc<BackingSlot>>,
    /// Where the extent begins in the image, as its backing sees it.
    base: u64,
}

/// A piece of a request that lies in clusters of the same state.
struct Piece {
    mapping: Mapping,
    cluster: u64,
    clusters: u64,
    /// Offset in the first cluster.
    within: u64,
    len: u64,
}

impl<L: Layout> Sparse<L> {
    pub(crate) fn new(layout: L, backing: Option<Arc<BackingSlot>>, base: u64) -> Self {
        Self { layout, claims: Claims::default(), backing, base }
    }

    fn has_backing(&self) -> bool {
        self.backing.as_ref().is_some_and(|slot| slot.get().is_some())
    }

    async fn piece(&self, offset: u64, len: u64) -> Result<Piece> {
        let size = self.layout.cluster_size();
        let (cluster, within) = (offset / size, offset % size);
        let wanted = within.saturating_add(len).div_ceil(size);
        let (mapping, clusters) = self.layout.map(cluster, wanted).await?;
        let clusters = clusters.clamp(1, wanted.max(1));
        Ok(Piece {
            mapping,
            cluster,
            clusters,
            within,
            len: clusters.saturating_mul(size).saturating_sub(within).min(len),
        })
    }

    /// Reads `buf` at `offset` of the extent.
    pub(crate) async fn read(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + u(done);
            let piece = self.piece(at, u(buf.len() - done)).await?;
            let len = n(piece.len);
            match piece.mapping {
                Mapping::Data(host) => self.layout.file().read(host + piece.within, buf.slice(done, len)).await?,
                Mapping::Zero => buf.fill(done, len, 0),
                Mapping::Unallocated => match &self.backing {
                    Some(slot) => slot.read(self.base + at, buf.slice(done, len)).await?,
                    None => buf.fill(done, len, 0),
                },
                Mapping::Compressed(host) => {
                    let len = len.min(n(self.layout.cluster_size() - piece.within));
                    let bytes = self.layout.read_compressed(piece.cluster, host).await?;
                    let bytes = bytes.get(n(piece.within)..n(piece.within) + len);
                    buf.write_at(done, bytes.ok_or_else(|| Error::io("A compressed cluster is too short"))?);
                    done += len;
                    continue;
                }
            }
            done += len;
        }
        Ok(())
    }

    /// Writes `buf` at `offset` of the extent.
    pub(crate) async fn write(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let rest = buf.slice(done, buf.len() - done);
            let piece = self.piece(offset + u(done), u(rest.len())).await?;
            if let Mapping::Data(host) = piece.mapping {
                let len = n(piece.len);
                self.layout.before_write(piece.cluster, piece.clusters).await?;
                self.layout.file().write(host + piece.within, rest.slice(0, len), WriteFlags::default()).await?;
                done += len;
            } else {
                done += self.allocate(&piece, &rest).await?;
            }
        }
        Ok(())
    }

    /// Writes the first part of `rest` to new clusters: how many bytes it was, 0 if somebody else has allocated them.
    async fn allocate(&self, piece: &Piece, rest: &IoBuf) -> Result<usize> {
        let size = self.layout.cluster_size();
        let clusters = match piece.mapping {
            Mapping::Compressed(_) => 1,
            _ => piece.clusters.min((MAX_ALLOCATION / size).max(1)),
        };
        let _claim = self.claims.claim(piece.cluster, clusters).await;
        let (mapping, clusters) = self.layout.map(piece.cluster, clusters).await?;
        if matches!(mapping, Mapping::Data(_)) {
            return Ok(0);
        }
        let clusters = if matches!(mapping, Mapping::Compressed(_)) { 1 } else { clusters };
        let (host, clusters) = self.layout.reserve(piece.cluster, clusters).await?;
        let whole = clusters * size;
        let len = (whole - piece.within).min(u(rest.len()));
        let data = rest.slice(0, n(len));
        let tail = whole - piece.within - len;
        let written = if piece.within == 0 && tail == 0 {
            self.layout.file().write(host, data, WriteFlags::default()).await
        } else {
            self.write_filled(mapping, piece, host, data, (piece.within, tail)).await
        };
        if let Err(error) = written {
            self.layout.release(host, clusters);
            return Err(error);
        }
        self.layout.link(piece.cluster, clusters, host).await?;
        Ok(n(len))
    }

    /// Writes `data` to new clusters, and around it (`fill`: bytes before and behind) what was read there until now.
    async fn write_filled(&self, old: Mapping, piece: &Piece, host: u64, data: IoBuf, fill: (u64, u64)) -> Result<()> {
        let size = self.layout.cluster_size();
        let (head, tail) = fill;
        let start = piece.cluster * size;
        let end = start + head + u(data.len());
        if let Mapping::Compressed(at) = old {
            let bytes = self.layout.read_compressed(piece.cluster, at).await?;
            if bytes.len() < n(size) {
                return Err(Error::io("A compressed cluster is too short"));
            }
            let parts =
                [IoBuf::copy_of(&bytes[..n(head)]), data.clone(), IoBuf::copy_of(&bytes[n(size - tail)..n(size)])];
            return self.layout.file().write(host, IoBuf::concat(parts), WriteFlags::default()).await;
        }
        let from_backing = old == Mapping::Unallocated && self.has_backing();
        if !from_backing && size > WHOLE {
            let at = host + head;
            self.zero_new(host, head).await?;
            self.layout.file().write(at, data.clone(), WriteFlags::default()).await?;
            return self.zero_new(at + u(data.len()), tail).await;
        }
        let (before, after) = (IoBuf::zeroed(n(head)), IoBuf::zeroed(n(tail)));
        if from_backing && let Some(slot) = &self.backing {
            if head != 0 {
                slot.read(self.base + start, before.clone()).await?;
            }
            if tail != 0 {
                slot.read(self.base + end, after.clone()).await?;
            }
        }
        let parts = [before, data, after].into_iter().filter(|part| !part.is_empty());
        self.layout.file().write(host, IoBuf::concat(parts), WriteFlags::default()).await
    }

    /// Zeroes in a new cluster: behind the end of the file there is nothing to do.
    async fn zero_new(&self, at: u64, len: u64) -> Result<()> {
        let inside = self.layout.file().len().saturating_sub(at).min(len);
        if inside == 0 {
            return Ok(());
        }
        self.layout.file().write_zeroes(at, inside, ZeroFlags { may_unmap: true, ..ZeroFlags::default() }).await
    }

    /// Makes a range of the extent read as zeroes; unsupported where only writing zeroes does it.
    pub(crate) async fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        let size = self.layout.cluster_size();
        let flags = ZeroFlags { fua: false, ..flags };
        let mut done = 0;
        while done < len {
            let piece = self.piece(offset + done, len - done).await?;
            match piece.mapping {
                Mapping::Data(host) => {
                    self.layout.before_write(piece.cluster, piece.clusters).await?;
                    self.layout.file().write_zeroes(host + piece.within, piece.len, flags).await?;
                    done += piece.len;
                }
                Mapping::Zero => done += piece.len,
                Mapping::Unallocated
                    if self.backing.is_none() || (!self.has_backing() && !self.layout.has_zero_marks()) =>
                {
                    done += piece.len;
                }
                _ => done += self.mark_zero(&piece, size).await?,
            }
        }
        Ok(())
    }

    async fn mark_zero(&self, piece: &Piece, size: u64) -> Result<u64> {
        let clusters = piece.len / size;
        if piece.within != 0 || clusters == 0 || !self.layout.has_zero_marks() {
            if piece.within != 0 && piece.mapping == Mapping::Unallocated && !self.has_backing() {
                return Ok((size - piece.within).min(piece.len));
            }
            if clusters == 0 && piece.mapping == Mapping::Unallocated && !self.has_backing() {
                return Ok(piece.len);
            }
            return Err(Error::unsupported("The image format can't mark this range as zero"));
        }
        let _claim = self.claims.claim(piece.cluster, clusters).await;
        let (mapping, clusters) = self.layout.map(piece.cluster, clusters).await?;
        if !matches!(mapping, Mapping::Data(_) | Mapping::Zero) {
            self.layout.link_zero(piece.cluster, clusters).await?;
            return Ok(clusters * size);
        }
        Ok(0)
    }

    /// Gives the storage of a range back. It stays allocated in the image and reads as zeroes, if the file below can.
    pub(crate) async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let mut done = 0;
        while done < len {
            let piece = self.piece(offset + done, len - done).await?;
            if let Mapping::Data(host) = piece.mapping {
                self.layout.file().discard(host + piece.within, piece.len).await?;
            }
            done += piece.len;
        }
        Ok(())
    }

    /// What is known of a range of the extent.
    pub(crate) async fn block_status(&self, offset: u64, len: u64) -> Result<BlockStatus> {
        let piece = self.piece(offset, len).await?;
        Ok(match piece.mapping {
            Mapping::Data(host) => BlockStatus::data(piece.len, Some(host + piece.within)),
            Mapping::Zero => BlockStatus::zero(piece.len),
            Mapping::Unallocated if self.backing.is_some() => BlockStatus::unallocated(piece.len),
            Mapping::Unallocated => BlockStatus::zero(piece.len),
            Mapping::Compressed(_) => {
                let len = piece.len.min(self.layout.cluster_size() - piece.within);
                BlockStatus { compressed: true, ..BlockStatus::data(len, None) }
            }
        })
    }
}

/// For how many of `entries` (at most `max`) the first one's state goes on, where each is `step` further for data.
pub(crate) fn run_of(mut entries: impl Iterator<Item = Mapping>, max: u64, step: u64) -> (Mapping, u64) {
    let Some(first) = entries.next() else { return (Mapping::Unallocated, 1) };
    let mut count = 1;
    for next in entries {
        let goes_on = match (first, next) {
            (Mapping::Data(start), Mapping::Data(here)) => start.checked_add(count * step) == Some(here),
            (Mapping::Compressed(_), _) => false,
            (first, next) => first == next,
        };
        if count >= max || !goes_on {
            break;
        }
        count += 1;
    }
    (first, count)
}
