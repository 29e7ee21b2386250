//! Dirty bitmaps of nodes: what the commands and the actions of transactions have in common, and what monitors see.

use std::fmt::Write as _;
use std::sync::Arc;

use block::{BitmapUse, DirtyBitmap, NewBitmap, Node};
use qapi::Error;
use qapi::block::bitmaps::{BlockDirtyBitmap, BlockDirtyBitmapAdd, BlockDirtyBitmapMerge, BlockDirtyBitmapOrStr};
use qapi::block::info::BlockDirtyInfo;
use sha2::{Digest as _, Sha256};

use super::{Storage, client_error};

/// Bytes of a bitmap that are hashed at once.
const HASH_CHUNK: u64 = 64 << 10;

impl Storage {
    /// A bitmap and its node.
    ///
    /// # Errors
    /// There is no such node, or it has no such bitmap.
    pub(super) fn bitmap(&self, which: &BlockDirtyBitmap) -> Result<(Arc<Node>, Arc<DirtyBitmap>), Error> {
        let node = self
            .node_by(Some(&which.node), Some(&which.node))
            .map_err(|_| Error::generic(format!("Node '{}' not found", which.node)))?;
        let bitmap = node.bitmaps().named(&which.name).map_err(client_error)?;
        Ok((node, bitmap))
    }

    /// `block-dirty-bitmap-add`.
    ///
    /// # Errors
    /// There is no such node, a name or granularity that can't be, an image that stores no bitmaps.
    pub fn add_bitmap(&self, wish: &BlockDirtyBitmapAdd) -> Result<(Arc<Node>, Arc<DirtyBitmap>), Error> {
        if wish.name.is_empty() {
            return Err(Error::generic("Bitmap name cannot be empty"));
        }
        let node = self.node_by(Some(&wish.node), Some(&wish.node))?;
        let new = NewBitmap {
            granularity: wish.granularity.map(u64::from),
            persistent: wish.persistent.unwrap_or(false),
            disabled: wish.disabled.unwrap_or(false),
        };
        let bitmap = node.add_bitmap_as(&self.device_or_node(&node), &wish.name, new).map_err(client_error)?;
        Ok((node, bitmap))
    }

    /// `block-dirty-bitmap-remove`.
    ///
    /// # Errors
    /// There is no such bitmap, it is in use, or its image can't be changed.
    pub fn remove_bitmap(&self, which: &BlockDirtyBitmap) -> Result<(), Error> {
        let (node, _) = self.bitmap(which)?;
        aio::block_on(node.remove_bitmap(&which.name)).map_err(client_error)
    }

    /// `block-dirty-bitmap-clear`.
    ///
    /// # Errors
    /// There is no such bitmap, or it can't be changed now.
    pub fn clear_bitmap(&self, which: &BlockDirtyBitmap) -> Result<(), Error> {
        self.bitmap(which)?.1.clear().map_err(client_error)
    }

    /// `block-dirty-bitmap-enable`.
    ///
    /// # Errors
    /// There is no such bitmap, or it is in use.
    pub fn enable_bitmap(&self, which: &BlockDirtyBitmap) -> Result<(), Error> {
        self.bitmap(which)?.1.enable().map_err(client_error)
    }

    /// `block-dirty-bitmap-disable`.
    ///
    /// # Errors
    /// There is no such bitmap, or it is in use.
    pub fn disable_bitmap(&self, which: &BlockDirtyBitmap) -> Result<(), Error> {
        self.bitmap(which)?.1.disable().map_err(client_error)
    }

    /// The bitmap that a merge changes, and those that it reads, when nothing stands against it.
    ///
    /// # Errors
    /// There is no such bitmap, one is in use, or they are for disks of different sizes.
    pub(super) fn plan_merge(
        &self,
        merge: &BlockDirtyBitmapMerge,
    ) -> Result<(Arc<DirtyBitmap>, Vec<Arc<DirtyBitmap>>), Error> {
        let which = BlockDirtyBitmap { node: merge.node.clone(), name: merge.target.clone() };
        let (node, target) = self.bitmap(&which)?;
        let mut sources = Vec::with_capacity(merge.bitmaps.len());
        for source in &merge.bitmaps {
            let source = match source {
                BlockDirtyBitmapOrStr::Local(name) => node.bitmaps().named(name).map_err(client_error)?,
                BlockDirtyBitmapOrStr::External(which) => self.bitmap(which)?.1,
            };
            target.check_merge(&source).map_err(client_error)?;
            sources.push(source);
        }
        Ok((target, sources))
    }

    /// `block-dirty-bitmap-merge`.
    ///
    /// # Errors
    /// As [`Storage::plan_merge`]; then nothing has changed.
    pub fn merge_bitmaps(&self, merge: &BlockDirtyBitmapMerge) -> Result<(), Error> {
        let (target, sources) = self.plan_merge(merge)?;
        sources.iter().try_for_each(|source| target.merge(source)).map_err(client_error)
    }

    /// `x-debug-block-dirty-bitmap-sha256`: of the bits, in whole words of 64, at least one.
    ///
    /// # Errors
    /// There is no such bitmap.
    pub fn bitmap_sha256(&self, which: &BlockDirtyBitmap) -> Result<String, Error> {
        let (_, bitmap) = self.bitmap(which)?;
        let mut left = bitmap.size().div_ceil(bitmap.granularity()).div_ceil(64).max(1) * 8;
        let (mut hash, mut first) = (Sha256::new(), 0);
        let mut chunk = vec![0; usize::try_from(left.min(HASH_CHUNK)).unwrap_or(0)];
        while left != 0 {
            let len = left.min(HASH_CHUNK);
            chunk.truncate(usize::try_from(len).unwrap_or(0));
            bitmap.store_bits(first, &mut chunk);
            hash.update(&chunk);
            first += len * 8;
            left -= len;
        }
        Ok(hash.finalize().iter().fold(String::new(), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        }))
    }
}

/// What monitors see of a node's bitmaps; nothing if there are none.
pub(super) fn infos(node: &Node) -> Option<Vec<BlockDirtyInfo>> {
    let bitmaps = node.bitmaps().list();
    let info = |bitmap: &Arc<DirtyBitmap>| BlockDirtyInfo {
        name: bitmap.name(),
        count: i64::try_from(bitmap.dirty_bytes()).unwrap_or(i64::MAX),
        granularity: u32::try_from(bitmap.granularity()).unwrap_or(u32::MAX),
        recording: bitmap.is_recording(),
        busy: bitmap.is_busy(),
        persistent: bitmap.is_persistent(),
        inconsistent: bitmap.is_inconsistent().then_some(true),
    };
    (!bitmaps.is_empty()).then(|| bitmaps.iter().map(info).collect())
}

/// Whether a bitmap's bits may be changed.
///
/// # Errors
/// Says why not.
pub(super) fn check_change(bitmap: &DirtyBitmap) -> Result<(), Error> {
    bitmap.check(BitmapUse::Change).map_err(client_error)
}
