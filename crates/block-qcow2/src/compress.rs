//! Compressed clusters: raw deflate with a window of 4 KiB, or zstd.

use std::cell::RefCell;

use block::{Error, Result, WriteFlags};
use iobuf::IoBuf;
use zstd::bulk::{Compressor, Decompressor};

use crate::entry::Entry;
use crate::flush::Reason;
use crate::image::{Image, Meta, read};
use crate::refcount::max_count;

/// Log2 of the deflate window: what other readers of the format use.
const WINDOW_BITS: u8 = 12;
/// The level of deflate.
const DEFLATE_LEVEL: u32 = 6;
/// zstd's default level.
const ZSTD_LEVEL: i32 = 3;

/// Buffers up to this size are kept for the next cluster.
const KEPT: usize = 256 << 10;

/// What a thread keeps between two clusters: too large, and too much of the processor's time, to be made for each.
#[derive(Default)]
struct Workshop {
    zstd_in: Option<Compressor<'static>>,
    zstd_out: Option<Decompressor<'static>>,
    deflate: Option<flate2::Compress>,
    inflate: Option<flate2::Decompress>,
    plain: Vec<u8>,
    packed: Vec<u8>,
}

thread_local! {
    static WORKSHOP: RefCell<Workshop> = RefCell::default();
}

/// The first `len` bytes of a buffer that is kept.
fn room(kept: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if kept.len() < len {
        kept.resize(len, 0);
    }
    &mut kept[..len]
}

impl Workshop {
    /// Compresses `self.plain`, `len` bytes, to `self.packed`: the length, or `None` if that does not make it smaller.
    fn compress(&mut self, zstd: bool, len: usize) -> Result<Option<usize>> {
        let failed = |error: &dyn std::fmt::Display| Error::io(format!("Compression failed: {error}"));
        let plain = &self.plain[..len];
        let packed = room(&mut self.packed, len - 1);
        if zstd {
            let compressor = match &mut self.zstd_in {
                Some(compressor) => compressor,
                none => none.insert(Compressor::new(ZSTD_LEVEL).map_err(|error| failed(&error))?),
            };
            // The only error that is left is a lack of room.
            return Ok(compressor.compress_to_buffer(plain, packed).ok());
        }
        let level = flate2::Compression::new(DEFLATE_LEVEL);
        let new = || flate2::Compress::new_with_window_bits(level, false, WINDOW_BITS);
        let deflate = self.deflate.get_or_insert_with(new);
        deflate.reset();
        let status = deflate.compress(plain, packed, flate2::FlushCompress::Finish).map_err(|e| failed(&e))?;
        Ok((status == flate2::Status::StreamEnd).then(|| usize::try_from(deflate.total_out()).unwrap_or(0)))
    }

    /// Expands the first `packed` bytes of `self.packed` to `len` bytes of `self.plain`: whether they were complete.
    fn expand(&mut self, zstd: bool, packed: usize, len: usize) -> bool {
        let packed = &self.packed[..packed];
        let plain = room(&mut self.plain, len);
        // The stream may be followed by other bytes of its last sector.
        if zstd {
            if self.zstd_out.is_none() {
                self.zstd_out = Decompressor::new().ok();
            }
            let frame = zstd::zstd_safe::find_frame_compressed_size(packed).ok().and_then(|size| packed.get(..size));
            let expanded = self.zstd_out.as_mut().zip(frame).map(|(d, frame)| d.decompress_to_buffer(frame, plain));
            return matches!(expanded, Some(Ok(size)) if size == len);
        }
        let inflate = self.inflate.get_or_insert_with(|| flate2::Decompress::new_with_window_bits(false, WINDOW_BITS));
        inflate.reset(false);
        inflate.decompress(packed, plain, flate2::FlushDecompress::Finish).is_ok() && inflate.total_out() == len as u64
    }

    /// Gives large buffers back.
    fn tidy(&mut self) {
        for kept in [&mut self.plain, &mut self.packed] {
            if kept.len() > KEPT {
                *kept = Vec::new();
            }
        }
    }
}

/// Compresses a cluster, of which `buf` may be the beginning and the rest zeroes; `None` if that does not make it smaller.
fn compress(zstd: bool, buf: &IoBuf, cluster: usize) -> Result<Option<IoBuf>> {
    WORKSHOP.with_borrow_mut(|workshop| {
        let plain = room(&mut workshop.plain, cluster);
        let (data, rest) = plain.split_at_mut(buf.len().min(cluster));
        buf.read_at(0, data);
        rest.fill(0);
        let packed = workshop.compress(zstd, cluster);
        let packed = packed.map(|len| len.map(|len| IoBuf::copy_of(&workshop.packed[..len])));
        workshop.tidy();
        packed
    })
}

/// Expands a cluster; `into` becomes what is at `at` in it.
fn expand(zstd: bool, packed: &IoBuf, cluster: usize, at: usize, into: &IoBuf) -> Result<()> {
    WORKSHOP.with_borrow_mut(|workshop| {
        packed.read_at(0, room(&mut workshop.packed, packed.len()));
        let complete = workshop.expand(zstd, packed.len(), cluster);
        let part = at.checked_add(into.len()).and_then(|end| workshop.plain.get(at..end));
        let part = part.filter(|_| complete).map(|part| into.write_at(0, part));
        workshop.tidy();
        part.ok_or_else(|| Error::io("A compressed cluster is damaged"))
    })
}

impl Image {
    fn uses_zstd(&self) -> bool {
        read(&self.header, |h| h.compression == 1)
    }

    /// Reads a part of the compressed cluster with this descriptor.
    pub(crate) async fn read_compressed(&self, offset: u64, word: u64, buf: IoBuf) -> Result<()> {
        let geometry = self.geometry();
        let (host, len) = geometry.compressed(word);
        self.file.event("read_compressed").await;
        let packed = IoBuf::zeroed(usize::try_from(len).unwrap_or(0));
        self.file.read(host, packed.clone()).await?;
        let zstd = self.uses_zstd();
        let cluster = usize::try_from(geometry.cluster_size()).unwrap_or(0);
        let at = usize::try_from(geometry.in_cluster(offset)).unwrap_or(0);
        if cluster > 4096 {
            aio::spawn_blocking(move || expand(zstd, &packed, cluster, at, &buf)).await
        } else {
            expand(zstd, &packed, cluster, at, &buf)
        }
    }

    /// Stores clusters compressed. The caller is registered as a reader.
    pub(crate) async fn write_compressed(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let geometry = self.geometry();
        let cluster = geometry.cluster_size();
        if self.has_data_file() {
            return Err(Error::unsupported("Compression is not supported with an external data file"));
        }
        if self.encryption.is_on() {
            return Err(Error::unsupported("Compressed clusters can't be encrypted"));
        }
        let len = buf.len() as u64;
        if geometry.in_cluster(offset) != 0 {
            return Err(Error::invalid("Compressed writes must be aligned to clusters"));
        }
        if len > cluster {
            let mut tasks: Vec<std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send + '_>>> = Vec::new();
            let mut at = 0;
            while at < len {
                let n = cluster.min(len - at);
                let part = buf.slice(usize::try_from(at).unwrap_or(0), usize::try_from(n).unwrap_or(0));
                tasks.push(Box::pin(self.compress_cluster(offset + at, part)));
                if tasks.len() == 4 || at + n == len {
                    crate::read::join_all(std::mem::take(&mut tasks)).await?;
                }
                at += n;
            }
            return Ok(());
        }
        self.compress_cluster(offset, buf).await
    }

    async fn compress_cluster(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let cluster = self.cluster_size();
        let len = buf.len() as u64;
        if len < cluster && offset + len != self.len() {
            return Err(Error::invalid("Compressed writes must be whole clusters"));
        }
        let zstd = self.uses_zstd();
        let (plain, size) = (buf.clone(), usize::try_from(cluster).unwrap_or(0));
        let packed = aio::spawn_blocking(move || compress(zstd, &plain, size)).await?;
        match packed {
            None => self.write_range(offset, buf).await,
            Some(packed) => {
                if !self.store_compressed(offset, packed).await? {
                    return self.write_range(offset, buf).await;
                }
                Ok(())
            }
        }
    }

    /// Whether the stream could be stored; if not, its place can't be expressed.
    async fn store_compressed(&self, offset: u64, packed: IoBuf) -> Result<bool> {
        let geometry = self.geometry();
        let cluster = geometry.cluster_size();
        let len = packed.len() as u64;
        let (mut meta, _) = self.lock_range(offset, offset + cluster).await?;
        self.mark_dirty_for_lazy().await?;
        self.ensure_table(&mut meta, offset).await?;
        let old = self.entry(offset).await?;
        let host = self.allocate_bytes(&mut meta, len).await?;
        let Some(word) = geometry.compressed_word(host, len) else {
            let (first, last) = (host >> geometry.cluster_bits, (host + len - 1) >> geometry.cluster_bits);
            self.unallocate(&mut meta, first << geometry.cluster_bits, last - first + 1).await;
            return Ok(false);
        };
        let (first, count) = geometry.compressed_clusters(word);
        let guard = self.in_flight.begin(offset, offset + cluster);
        drop(meta);
        let mut result = self.check_overlap(host, len).await;
        if result.is_ok() {
            self.file.event("write_compressed").await;
            result = self.file.write(host, packed, WriteFlags::default()).await;
        }
        let mut meta = self.meta.lock().await;
        if result.is_ok() {
            result = self.set_entry(offset, Entry { word, bitmap: 0 }).await;
        }
        if let Err(error) = result {
            self.unallocate(&mut meta, first << geometry.cluster_bits, count).await;
            return Err(error);
        }
        self.free_entry(&mut meta, old, Reason::Never).await;
        let due = self.map().under_pressure() || meta.refs.under_pressure();
        drop(meta);
        drop(guard);
        if due {
            self.relieve().await?;
        }
        Ok(true)
    }

    /// Room for `len` bytes, at most a cluster. Each host cluster that they touch is counted once.
    async fn allocate_bytes(&self, meta: &mut Meta, len: u64) -> Result<u64> {
        let geometry = self.geometry();
        let cluster = geometry.cluster_size();
        self.file.event("cluster_alloc_bytes").await;
        let hint = meta.byte_hint;
        let max = max_count(meta.refs.order());
        if hint != 0 && meta.refs.count(hint >> geometry.cluster_bits).await? < max {
            let room = cluster - geometry.in_cluster(hint);
            let first = hint >> geometry.cluster_bits;
            if len <= room || meta.refs.allocate_at(first + 1).await? {
                if let Err(error) = meta.refs.increment(first).await {
                    if len > room {
                        self.unallocate(meta, (first + 1) << geometry.cluster_bits, 1).await;
                    }
                    return Err(error);
                }
                self.note_made(meta);
                meta.byte_hint = hint + len;
                if geometry.in_cluster(meta.byte_hint) == 0 {
                    meta.byte_hint = 0;
                }
                return Ok(hint);
            }
        }
        let host = meta.refs.allocate(1).await?;
        self.note_made(meta);
        self.check_allocation(host, len, "compressed cluster").await?;
        meta.byte_hint = if len < cluster { host + len } else { 0 };
        Ok(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_survive_compression() {
        let plain: Vec<u8> = (0..65536u32).map(|i| (i / 100 % 251) as u8).collect();
        let buf = IoBuf::copy_of(&plain);
        for zstd in [false, true] {
            let packed = compress(zstd, &buf, plain.len()).expect("compresses").expect("gets smaller").to_vec();
            let longer = IoBuf::copy_of(&[&packed[..], &[0x55; 300]].concat());
            let part = IoBuf::zeroed(1000);
            expand(zstd, &longer, plain.len(), 512, &part).expect("expands");
            assert_eq!(part.to_vec(), plain[512..1512]);
            let half = longer.slice(0, packed.len() / 2);
            assert!(expand(zstd, &half, plain.len(), 512, &part).is_err());
            // What an earlier cluster has left in the buffers does not come back.
            let short =
                compress(zstd, &IoBuf::copy_of(b"end"), plain.len()).expect("compresses").expect("gets smaller");
            let whole = IoBuf::zeroed(plain.len());
            expand(zstd, &short, plain.len(), 0, &whole).expect("expands");
            assert_eq!(&whole.to_vec()[..3], b"end");
            assert!(whole.is_zero(3, plain.len() - 3));
        }
    }
}
