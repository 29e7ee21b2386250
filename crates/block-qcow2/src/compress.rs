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

thread_local! {
    /// What zstd needs to compress and to expand: too large to be made for each cluster.
    static ZSTD: RefCell<(Option<Compressor<'static>>, Option<Decompressor<'static>>)> = const { RefCell::new((None, None)) };
    /// The state of deflate, likewise.
    static DEFLATE: RefCell<Option<flate2::Compress>> = const { RefCell::new(None) };
}

/// Compresses a cluster; `None` if that does not make it smaller.
pub fn compress(zstd: bool, plain: &[u8]) -> Result<Option<Vec<u8>>> {
    let failed = |error: &dyn std::fmt::Display| Error::io(format!("Compression failed: {error}"));
    let mut packed = vec![0; plain.len() - 1];
    if zstd {
        return ZSTD.with_borrow_mut(|(compressor, _)| {
            let compressor = match compressor {
                Some(compressor) => compressor,
                none => none.insert(Compressor::new(ZSTD_LEVEL).map_err(|error| failed(&error))?),
            };
            // The only error that is left is a lack of room.
            let Ok(len) = compressor.compress_to_buffer(plain, &mut packed) else { return Ok(None) };
            packed.truncate(len);
            Ok(Some(packed))
        });
    }
    DEFLATE.with_borrow_mut(|deflate| {
        let level = flate2::Compression::new(DEFLATE_LEVEL);
        let deflate = deflate.get_or_insert_with(|| flate2::Compress::new_with_window_bits(level, false, WINDOW_BITS));
        deflate.reset();
        let status = deflate.compress(plain, &mut packed, flate2::FlushCompress::Finish).map_err(|e| failed(&e))?;
        if status != flate2::Status::StreamEnd {
            return Ok(None);
        }
        packed.truncate(usize::try_from(deflate.total_out()).unwrap_or(0));
        Ok(Some(packed))
    })
}

/// Expands a cluster of `len` bytes.
pub fn expand(zstd: bool, packed: &[u8], len: usize) -> Result<Vec<u8>> {
    let mut plain = vec![0; len];
    // The stream may be followed by other bytes of its last sector.
    let complete = if zstd {
        ZSTD.with_borrow_mut(|(_, decompressor)| {
            if decompressor.is_none() {
                *decompressor = Decompressor::new().ok();
            }
            let frame = zstd::zstd_safe::find_frame_compressed_size(packed).ok().and_then(|size| packed.get(..size));
            let expanded = decompressor.as_mut().zip(frame).map(|(d, frame)| d.decompress_to_buffer(frame, &mut plain));
            matches!(expanded, Some(Ok(size)) if size == len)
        })
    } else {
        let mut inflate = flate2::Decompress::new_with_window_bits(false, WINDOW_BITS);
        inflate.decompress(packed, &mut plain, flate2::FlushDecompress::Finish).is_ok()
            && inflate.total_out() == len as u64
    };
    if complete { Ok(plain) } else { Err(Error::io("A compressed cluster is damaged")) }
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
        let packed = self.file.read_vec(host, usize::try_from(len).unwrap_or(0)).await?;
        let zstd = self.uses_zstd();
        let cluster = usize::try_from(geometry.cluster_size()).unwrap_or(0);
        let plain = if cluster > 4096 {
            aio::spawn_blocking(move || expand(zstd, &packed, cluster)).await?
        } else {
            expand(zstd, &packed, cluster)?
        };
        let at = usize::try_from(geometry.in_cluster(offset)).unwrap_or(0);
        buf.write_at(0, &plain[at..at + buf.len()]);
        Ok(())
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
        let mut plain = buf.to_vec();
        plain.resize(usize::try_from(cluster).unwrap_or(0), 0);
        let zstd = self.uses_zstd();
        let packed = aio::spawn_blocking(move || compress(zstd, &plain)).await?;
        match packed {
            None => self.write_range(offset, buf).await,
            Some(packed) => {
                if !self.store_compressed(offset, &packed).await? {
                    return self.write_range(offset, buf).await;
                }
                Ok(())
            }
        }
    }

    /// Whether the stream could be stored; if not, its place can't be expressed.
    async fn store_compressed(&self, offset: u64, packed: &[u8]) -> Result<bool> {
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
            result = self.file.write(host, IoBuf::copy_of(packed), WriteFlags::default()).await;
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
        for zstd in [false, true] {
            let mut packed = compress(zstd, &plain).expect("compresses").expect("gets smaller");
            packed.extend_from_slice(&[0x55; 300]);
            assert_eq!(expand(zstd, &packed, plain.len()).expect("expands"), plain);
            assert!(expand(zstd, &packed[..packed.len() / 2], plain.len()).is_err());
        }
    }
}
