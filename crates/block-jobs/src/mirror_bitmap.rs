//! A user's bitmap that says what a mirror copies at first.

use std::sync::Arc;

use block::{DirtyBitmap, Node, Result};

use crate::backup::BitmapMode;

/// The bitmap of the source, and what becomes of it. It is busy as long as the job has to change it in the end: another
/// one records in its place.
#[derive(Clone)]
pub(crate) struct UserBitmap {
    source: Arc<Node>,
    bitmap: Arc<DirtyBitmap>,
    mode: BitmapMode,
}

impl UserBitmap {
    /// What is dirty in the bitmap is to be copied.
    ///
    /// # Errors
    /// It is in use.
    pub(crate) fn take(
        source: &Arc<Node>,
        (bitmap, mode): &(Arc<DirtyBitmap>, BitmapMode),
        to_copy: &DirtyBitmap,
    ) -> Result<Self> {
        to_copy.merge(bitmap)?;
        if *mode != BitmapMode::Never {
            source.bitmaps().create_successor(bitmap)?;
        }
        Ok(Self { source: Arc::clone(source), bitmap: Arc::clone(bitmap), mode: *mode })
    }

    /// The bitmap becomes what it would be without the job.
    pub(crate) fn give_back(&self) {
        if self.mode != BitmapMode::Never
            && let Err(error) = self.source.bitmaps().reclaim(&self.bitmap)
        {
            tracing::warn!("a bitmap of '{}': {error}", self.source.name());
        }
    }

    /// The job ends, under drain, and this was not copied: the bitmap starts again, if it shall.
    pub(crate) fn end(&self, success: bool, not_copied: &DirtyBitmap) -> Result<Ended<'_>> {
        if self.mode == BitmapMode::Never || (!success && self.mode == BitmapMode::OnSuccess) {
            self.give_back();
            return Ok(Ended { user: self, heir: None });
        }
        let heir = self.source.bitmaps().abdicate(&self.bitmap)?;
        if success {
            // All that was written meanwhile has been copied.
            heir.unmark(0, heir.size());
        }
        heir.mark_dirty_of(not_copied);
        Ok(Ended { user: self, heir: Some(heir) })
    }
}

/// A bitmap that a job has left.
pub(crate) struct Ended<'a> {
    user: &'a UserBitmap,
    /// What has its place, if it starts again.
    heir: Option<Arc<DirtyBitmap>>,
}

impl Ended<'_> {
    /// It is no success after all.
    pub(crate) fn fail(&self) {
        if let (Some(heir), BitmapMode::OnSuccess) = (&self.heir, self.user.mode) {
            heir.mark_dirty_of(&self.user.bitmap);
        }
    }
}
