//! Actions on dirty bitmaps. Nothing is written while they are prepared and not final, so that what a bitmap held before
//! can be put back.

use std::sync::Arc;

use block::bitmap::Contents;
use block::{DirtyBitmap, Node};
use qapi::Error;
use qapi::block::bitmaps::{BlockDirtyBitmap, BlockDirtyBitmapAdd, BlockDirtyBitmapMerge};

use super::{Prepared, Storage};
use crate::storage::bitmaps::check_change;
use crate::storage::client_error;

/// What was done to a bitmap.
enum Change {
    /// It is new.
    Added { node: Arc<Node>, bitmap: Arc<DirtyBitmap> },
    /// It is not in its image any more, and busy.
    Retired { node: Arc<Node>, bitmap: Arc<DirtyBitmap> },
    /// It held something else.
    Bits { bitmap: Arc<DirtyBitmap>, before: Contents },
    /// It recorded, or not.
    Recording { bitmap: Arc<DirtyBitmap>, before: bool },
}

impl Prepared for Change {
    fn commit(self: Box<Self>, storage: &Storage) {
        if let Self::Retired { node, bitmap } = *self {
            bitmap.set_busy(false);
            let was_stored = bitmap.is_persistent() && node.is_read_only();
            let name = bitmap.name().unwrap_or_default();
            node.bitmaps().release(&bitmap);
            if was_stored {
                // A snapshot of the same transaction has stored it on the way.
                let stored = aio::block_on(async {
                    storage.graph.make_writable(&node).await?;
                    let removed = node.driver().remove_stored_bitmap(name).await;
                    // It is read-only as before, whatever came of it.
                    removed.and(storage.graph.make_read_only(&node).await)
                });
                if let Err(error) = stored {
                    tracing::warn!("removing a bitmap from '{}': {error}", node.name());
                }
            }
        }
    }

    fn abort(self: Box<Self>, _storage: &Storage) {
        match *self {
            Self::Added { node, bitmap } => node.bitmaps().release(&bitmap),
            // A persistent one is stored again when the image is closed.
            Self::Retired { bitmap, .. } => bitmap.set_busy(false),
            Self::Bits { bitmap, before } => bitmap.restore(before),
            Self::Recording { bitmap, before } => bitmap.set_enabled(before),
        }
    }
}

pub fn add(storage: &Storage, wish: &BlockDirtyBitmapAdd) -> Result<Box<dyn Prepared>, Error> {
    let (node, bitmap) = storage.add_bitmap(wish)?;
    Ok(Box::new(Change::Added { node, bitmap }))
}

pub fn remove(storage: &Storage, which: &BlockDirtyBitmap) -> Result<Box<dyn Prepared>, Error> {
    let (node, _) = storage.bitmap(which)?;
    let bitmap = aio::block_on(node.retire_bitmap(&which.name)).map_err(client_error)?;
    bitmap.set_busy(true);
    Ok(Box::new(Change::Retired { node, bitmap }))
}

pub fn clear(storage: &Storage, which: &BlockDirtyBitmap) -> Result<Box<dyn Prepared>, Error> {
    let (_, bitmap) = storage.bitmap(which)?;
    check_change(&bitmap)?;
    let before = bitmap.contents();
    bitmap.clear().map_err(client_error)?;
    Ok(Box::new(Change::Bits { bitmap, before }))
}

pub fn enable(storage: &Storage, which: &BlockDirtyBitmap) -> Result<Box<dyn Prepared>, Error> {
    let (_, bitmap) = storage.bitmap(which)?;
    let before = bitmap.is_enabled();
    bitmap.enable().map_err(client_error)?;
    Ok(Box::new(Change::Recording { bitmap, before }))
}

pub fn disable(storage: &Storage, which: &BlockDirtyBitmap) -> Result<Box<dyn Prepared>, Error> {
    let (_, bitmap) = storage.bitmap(which)?;
    let before = bitmap.is_enabled();
    bitmap.disable().map_err(client_error)?;
    Ok(Box::new(Change::Recording { bitmap, before }))
}

pub fn merge(storage: &Storage, merge: &BlockDirtyBitmapMerge) -> Result<Box<dyn Prepared>, Error> {
    let (bitmap, sources) = storage.plan_merge(merge)?;
    let before = bitmap.contents();
    if let Err(error) = sources.iter().try_for_each(|source| bitmap.merge(source)) {
        bitmap.restore(before);
        return Err(client_error(error));
    }
    Ok(Box::new(Change::Bits { bitmap, before }))
}
