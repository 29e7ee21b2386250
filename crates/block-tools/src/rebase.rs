//! Changing what an overlay lies on without changing what it says.

use std::sync::Arc;

use block::{Child, Error, Node, WriteFlags, ZeroFlags};
use iobuf::IoBuf;

use crate::progress::{self, Progress};
use crate::status::{self, SECTOR};

/// Bytes that are compared at once.
const CHUNK: u64 = 2 << 20;

/// What failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The allocation of an image.
    Status(Error),
    /// Reading the old backing.
    Old(Error),
    /// Reading the new backing.
    New(Error),
    /// Writing to the overlay.
    Write(Error),
    /// The cancellation.
    Cancelled(Error),
}

/// Writes into `overlay` whatever it would read differently on `new` than on `old`.
/// `shared` is the image of the overlay's chain that `new` is, if it is one: what no image above it has is the same.
///
/// # Errors
/// See [`Failure`].
pub async fn keep_contents(
    overlay: &Arc<Child>,
    old: Option<&Arc<Node>>,
    new: Option<&Arc<Node>>,
    shared: Option<&Arc<Node>>,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let node = status::skip_filters(&overlay.node());
    let len = status::size(&node);
    let backing_len = |backing: Option<&Arc<Node>>| backing.map_or(0, |node| status::size(node));
    let (old_len, new_len) = (backing_len(old), backing_len(new));
    let mut offset = 0;
    while offset < len {
        progress::check(progress).map_err(Failure::Cancelled)?;
        let mut n = CHUNK.min(len - offset);
        let extent = status::of_node(&node, offset, n).await.map_err(Failure::Status)?;
        n = extent.len.max(1).min(n);
        let mut differs = !extent.allocated;
        if let (true, Some(shared), Some(old)) = (differs, shared, old)
            && offset < old_len
        {
            let is_base = Arc::ptr_eq(&status::skip_filters(old), &status::skip_filters(shared));
            if is_base {
                n = n.min(old_len - offset);
                differs = false;
            } else {
                let above = status::above(old, Some(shared), offset, n).await.map_err(Failure::Status)?;
                n = above.len.max(1).min(n);
                differs = above.allocated;
            }
        }
        if differs {
            n = copy_difference(overlay, offset, n, (old, old_len), (new, new_len)).await?;
        }
        offset += n;
        progress.update(offset, len);
    }
    Ok(())
}

/// Handles one piece and returns its length, which is shorter if a backing ends in it.
async fn copy_difference(
    overlay: &Arc<Child>,
    offset: u64,
    mut n: u64,
    old: (Option<&Arc<Node>>, u64),
    new: (Option<&Arc<Node>>, u64),
) -> Result<u64, Failure> {
    for end in [old.1, new.1] {
        if offset < end {
            n = n.min(end - offset);
        }
    }
    let read = |backing: Option<&Arc<Node>>, end: u64| {
        let backing = backing.filter(|_| offset < end).cloned();
        async move {
            let Some(node) = backing else { return Ok(None) };
            let buf = IoBuf::zeroed(usize::try_from(n).unwrap_or(0));
            node.read(offset, buf.clone()).await?;
            Ok::<_, Error>(Some(buf))
        }
    };
    let old_buf = read(old.0, old.1).await.map_err(Failure::Old)?;
    let new_buf = read(new.0, new.1).await.map_err(Failure::New)?;
    let zeroes = || vec![0; usize::try_from(n).unwrap_or(0)];
    let old_bytes = old_buf.as_ref().map_or_else(zeroes, IoBuf::to_vec);
    let new_bytes = new_buf.as_ref().map_or_else(zeroes, IoBuf::to_vec);
    let sector = usize::try_from(SECTOR).unwrap_or(512);
    let mut at = 0;
    while at < old_bytes.len() {
        let block = |at: usize| at..(at + sector).min(old_bytes.len());
        let differs = |at: usize| old_bytes[block(at)] != new_bytes[block(at)];
        let start = at;
        let first = differs(at);
        while at < old_bytes.len() && differs(at) == first {
            at = block(at).end;
        }
        if !first {
            continue;
        }
        let (from, len) = (offset + start as u64, at - start);
        match &old_buf {
            None => overlay.write_zeroes(from, len as u64, ZeroFlags::default()).await,
            Some(buf) => overlay.write(from, buf.slice(start, len), WriteFlags::default()).await,
        }
        .map_err(Failure::Write)?;
    }
    Ok(n)
}
