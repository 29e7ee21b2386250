//! Block status: what the metadata contexts say of a range.

use std::collections::BTreeSet;
use std::sync::Arc;

use block::bitmap::DirtyBitmap;
use block::{Node, Result};
use block_net::nbd::wire::{STATE_HOLE, STATE_ZERO};
use block_tools::status;

/// The number of `base:allocation`.
pub(super) const BASE_ALLOCATION: u32 = 0;
/// The number of `qemu:allocation-depth`.
pub(super) const ALLOCATION_DEPTH: u32 = 1;
/// The number of the first bitmap.
pub(super) const FIRST_BITMAP: u32 = 2;

/// Extents of one answer.
const MAX_EXTENTS: usize = (1 << 20) / 8;

/// The contexts that a client has chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contexts {
    pub allocation: bool,
    pub depth: bool,
    /// Indices of bitmaps.
    pub bitmaps: BTreeSet<usize>,
}

impl Contexts {
    pub fn is_empty(&self) -> bool {
        !self.allocation && !self.depth && self.bitmaps.is_empty()
    }
}

/// Extents in the order of their offsets, neighbours of the same kind as one.
#[derive(Debug)]
pub(super) struct Extents {
    list: Vec<(u32, u32)>,
    max: usize,
}

impl Extents {
    /// None yet. With `one`, there will be no more than one.
    pub fn new(one: bool) -> Self {
        Self { list: Vec::new(), max: if one { 1 } else { MAX_EXTENTS } }
    }

    /// Adds one; false if there is no room.
    pub fn add(&mut self, len: u64, flags: u32) -> bool {
        // A question is no longer than 32 bits.
        let Ok(len) = u32::try_from(len) else { return false };
        if let Some((last, kind)) = self.list.last_mut()
            && *kind == flags
            && let Some(sum) = last.checked_add(len)
        {
            *last = sum;
            return true;
        }
        if self.list.len() == self.max {
            return false;
        }
        self.list.push((len, flags));
        true
    }

    /// The payload of a chunk: the context's number and the extents.
    pub fn payload(&self, context: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4 + 8 * self.list.len());
        bytes.extend(context.to_be_bytes());
        for (len, flags) in &self.list {
            bytes.extend(len.to_be_bytes());
            bytes.extend(flags.to_be_bytes());
        }
        bytes
    }
}

/// What is stored, and what reads as zeroes.
///
/// # Errors
/// The drivers'.
pub(super) async fn allocation(node: &Arc<Node>, offset: u64, len: u64, extents: &mut Extents) -> Result<()> {
    let (mut at, end) = (offset, offset + len);
    while at < end {
        let known = status::above(node, None, at, end - at).await?;
        let n = known.len.clamp(1, end - at);
        let flags = if known.data { 0 } else { STATE_HOLE } | if known.zero { STATE_ZERO } else { 0 };
        if !extents.add(n, flags) {
            break;
        }
        at += n;
    }
    Ok(())
}

/// How deep in the chain a range is stored: 1 for the node itself, 0 for nowhere.
///
/// # Errors
/// The drivers'.
pub(super) async fn depth(node: &Arc<Node>, offset: u64, len: u64, extents: &mut Extents) -> Result<()> {
    let (mut at, end) = (offset, offset + len);
    while at < end {
        let known = status::above(node, None, at, end - at).await?;
        let n = known.len.clamp(1, end - at);
        if !extents.add(n, if known.allocated { known.depth.saturating_add(1) } else { 0 }) {
            break;
        }
        at += n;
    }
    Ok(())
}

/// What a bitmap says: 1 for dirty.
pub(super) fn dirty(bitmap: &DirtyBitmap, offset: u64, len: u64, extents: &mut Extents) {
    let (mut at, end) = (offset, offset + len);
    while at < end {
        let (clean, dirty) = match bitmap.next_dirty(at, end, end - at) {
            Some((from, n)) => (from - at, n),
            None => (end - at, 0),
        };
        if (clean != 0 && !extents.add(clean, 0)) || (dirty != 0 && !extents.add(dirty, 1)) {
            break;
        }
        at += clean + dirty;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_a_kind_are_one_extent() {
        let mut extents = Extents::new(false);
        for (len, flags) in [(10, 0), (5, 0), (7, 3), (1, 0)] {
            assert!(extents.add(len, flags));
        }
        assert_eq!(extents.list, [(15, 0), (7, 3), (1, 0)]);
        let mut one = Extents::new(true);
        assert!(one.add(1, 1) && one.add(2, 1));
        assert!(!one.add(1, 0));
        assert_eq!(one.payload(9), [0, 0, 0, 9, 0, 0, 0, 3, 0, 0, 0, 1]);
    }

    #[test]
    fn a_bitmap_is_clean_and_dirty_in_turn() {
        let bitmaps = block::Bitmaps::default();
        let bitmap = bitmaps.create(1 << 20, 4096, Some("b")).expect("a bitmap");
        bitmap.mark(8192, 4096);
        let mut extents = Extents::new(false);
        dirty(&bitmap, 4096, 16384, &mut extents);
        assert_eq!(extents.list, [(4096, 0), (4096, 1), (8192, 0)]);
    }
}
