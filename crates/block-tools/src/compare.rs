//! Comparing what two images say.

use std::sync::Arc;

use block::{Error, Node, Result};
use iobuf::IoBuf;

use crate::parallel::Set;
use crate::progress::{self, Progress};
use crate::status::{self, Extent, SECTOR};

/// Bytes that are read at once.
const CHUNK: u64 = 2 << 20;
/// Bytes that are compared at once: what fits into a processor's caches.
const PIECE: usize = 32 << 10;

/// What the comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The same bytes; of different sizes if the longer one has zeroes in its tail.
    Identical {
        /// The sizes differ.
        sizes_differ: bool,
    },
    /// Different bytes at this offset.
    ContentDiffers {
        /// The offset.
        offset: u64,
        /// The sizes differ and the offset lies behind the shorter one.
        in_tail: bool,
    },
    /// Strictly: the sizes differ.
    SizeDiffers,
    /// Strictly: the allocation differs at this offset.
    StatusDiffers(u64),
}

/// Which of the two images failed, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Its allocation could not be read.
    Status(usize, Error),
    /// Its bytes at the offset could not be read.
    Read(usize, u64, Error),
    /// The comparison was cancelled.
    Cancelled(Error),
    /// It failed behind the end of the shorter image.
    Tail(Box<Failure>),
}

/// Whether sizes and allocation must be the same, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Only what is read counts.
    Content,
    /// Sizes and allocation count, too.
    Strict,
}

/// Compares two images.
///
/// # Errors
/// See [`Failure`].
pub async fn compare(
    images: [&Arc<Node>; 2],
    strictness: Strictness,
    progress: &dyn Progress,
) -> Result<Outcome, Failure> {
    let sizes = images.map(|image| status::size(image));
    let strict = strictness == Strictness::Strict;
    if strict && sizes[0] != sizes[1] {
        return Ok(Outcome::SizeDiffers);
    }
    let (common, total) = (sizes[0].min(sizes[1]), sizes[0].max(sizes[1]));
    let mut buffers = Buffers::new();
    let mut known = [Known::default(), Known::default()];
    let mut offset = 0;
    while offset < common {
        progress::check(progress).map_err(Failure::Cancelled)?;
        let a = known[0].extent(images, 0, offset, common).await?;
        let b = known[1].extent(images, 1, offset, common).await?;
        let mut len = a.len.min(b.len);
        let flags = |extent: &Extent, index: usize| {
            (extent.allocated, extent.data, extent.zero, extent.offset.is_some(), known[index].end == sizes[index])
        };
        if strict && flags(&a, 0) != flags(&b, 1) {
            return Ok(Outcome::StatusDiffers(offset));
        }
        let different = if a.zero && b.zero {
            None
        } else if a.allocated == b.allocated {
            if a.allocated {
                len = len.min(CHUNK);
                buffers.difference(images, offset, len).await?
            } else {
                None
            }
        } else {
            len = len.min(CHUNK);
            buffers.data(images, usize::from(!a.allocated), offset, len).await?
        };
        if let Some(at) = different {
            return Ok(Outcome::ContentDiffers { offset: offset + at, in_tail: false });
        }
        offset += len;
        progress.update(offset, total);
    }
    let longer = usize::from(sizes[1] > sizes[0]);
    while offset < total {
        progress::check(progress).map_err(Failure::Cancelled)?;
        let in_tail = |failure| Failure::Tail(Box::new(failure));
        let tail = known[longer].extent(images, longer, offset, total).await.map_err(in_tail)?;
        let mut len = tail.len;
        if tail.allocated && !tail.zero {
            len = len.min(CHUNK);
            if let Some(at) = buffers.data(images, longer, offset, len).await.map_err(in_tail)? {
                return Ok(Outcome::ContentDiffers { offset: offset + at, in_tail: true });
            }
        }
        offset += len;
        progress.update(offset, total);
    }
    Ok(Outcome::Identical { sizes_differ: sizes[0] != sizes[1] })
}

/// The last answer about an image: it holds for longer than what is read at once.
#[derive(Default)]
struct Known {
    end: u64,
    extent: Extent,
}

impl Known {
    /// What is known from `offset` on, at most up to `end`.
    async fn extent(
        &mut self,
        images: [&Arc<Node>; 2],
        index: usize,
        offset: u64,
        end: u64,
    ) -> Result<Extent, Failure> {
        if offset >= self.end {
            let found = status::above(images[index], None, offset, end - offset).await;
            self.extent = found.map_err(|error| Failure::Status(index, error))?;
            if self.extent.len == 0 {
                return Err(Failure::Status(index, Error::io("An empty block status")));
            }
            self.end = offset + self.extent.len;
        }
        Ok(Extent { len: self.end.min(end) - offset, ..self.extent.clone() })
    }
}

/// What is read, and copies of parts of it.
struct Buffers {
    read: [IoBuf; 2],
    pieces: [Vec<u8>; 2],
}

impl Buffers {
    fn new() -> Self {
        let chunk = || IoBuf::zeroed(usize::try_from(CHUNK).unwrap_or(0));
        Self { read: [chunk(), chunk()], pieces: [vec![0; PIECE], vec![0; PIECE]] }
    }

    async fn read(&self, images: [&Arc<Node>; 2], index: usize, offset: u64, len: u64) -> Result<IoBuf, Failure> {
        let buf = self.read[index].slice(0, usize::try_from(len).unwrap_or(0));
        images[index].read(offset, buf.clone()).await.map_err(|error| Failure::Read(index, offset, error))?;
        Ok(buf)
    }

    /// Where the first sector of both images is that differs, from `offset` on.
    async fn difference(&mut self, images: [&Arc<Node>; 2], offset: u64, len: u64) -> Result<Option<u64>, Failure> {
        let mut reads = Set::default();
        for index in [0, 1] {
            let this = &*self;
            reads.push(async move { (index, this.read(images, index, offset, len).await) });
        }
        let mut results = reads.join().await;
        results.sort_by_key(|(index, _)| *index);
        let mut bufs = Vec::new();
        for (_, result) in results {
            bufs.push(result?);
        }
        let [a, b] = &bufs[..] else { return Ok(None) };
        let mut at = 0;
        while at < a.len() {
            let n = PIECE.min(a.len() - at);
            let [x, y] = &mut self.pieces;
            a.read_at(at, &mut x[..n]);
            b.read_at(at, &mut y[..n]);
            if let Some(found) = first_difference(&x[..n], &y[..n]) {
                return Ok(Some(at as u64 + found));
            }
            at += n;
        }
        Ok(None)
    }

    /// Where the first sector of one image is that is not zero, from `offset` on.
    async fn data(&self, images: [&Arc<Node>; 2], index: usize, offset: u64, len: u64) -> Result<Option<u64>, Failure> {
        let buf = self.read(images, index, offset, len).await?;
        let sector = usize::try_from(SECTOR).unwrap_or(512);
        if buf.is_zero(0, buf.len()) {
            return Ok(None);
        }
        let found = (0..buf.len()).step_by(sector).find(|at| !buf.is_zero(*at, sector.min(buf.len() - at)));
        Ok(found.map(|at| at as u64))
    }
}

/// The first sector that differs.
fn first_difference(a: &[u8], b: &[u8]) -> Option<u64> {
    if a == b {
        return None;
    }
    let sector = usize::try_from(SECTOR).unwrap_or(512);
    let at = a.chunks(sector).zip(b.chunks(sector)).position(|(a, b)| a != b)?;
    Some(at as u64 * SECTOR)
}
