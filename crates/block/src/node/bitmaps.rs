//! What a node notes of its writes: dirty bitmaps, and the write threshold.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::{Node, ThresholdEvent};
use crate::bitmap::{BitmapUse, Bitmaps, DirtyBitmap, NewBitmap};
use crate::error::{Error, Result};

impl Node {
    /// The dirty bitmaps, which record what is written here.
    pub fn bitmaps(&self) -> &Arc<Bitmaps> {
        &self.bitmaps
    }

    /// Makes a bitmap for users (`block-dirty-bitmap-add`). Opposite: [`Node::remove_bitmap`].
    ///
    /// # Errors
    /// A wrong name or granularity; if it is to be persistent, what the image says.
    pub fn add_bitmap(&self, name: &str, new: NewBitmap) -> Result<Arc<DirtyBitmap>> {
        self.add_bitmap_as(&self.name, name, new)
    }

    /// As [`Node::add_bitmap`]; messages name the node `shown`.
    ///
    /// # Errors
    /// As [`Node::add_bitmap`].
    pub fn add_bitmap_as(&self, shown: &str, name: &str, new: NewBitmap) -> Result<Arc<DirtyBitmap>> {
        if name.is_empty() {
            return Err(Error::invalid("Bitmap name cannot be empty"));
        }
        let granularity = match new.granularity {
            Some(granularity) if granularity < 512 || !granularity.is_power_of_two() => {
                return Err(Error::invalid("Granularity must be power of 2 and at least 512"));
            }
            Some(granularity) => granularity,
            None => self.driver.details().cluster_size.unwrap_or(65536).clamp(4096, 65536),
        };
        if self.bitmaps.find(name).is_some() {
            return Err(Error::exists(format!("Bitmap already exists: {name}")));
        }
        if new.persistent {
            self.driver.can_store_bitmap(name, granularity).map_err(|error| {
                if error.is_unsupported() {
                    return error.context(format!("Can't store persistent bitmaps to {shown}"));
                }
                error.context(format!("Can't make bitmap '{name}' persistent in '{shown}'"))
            })?;
        }
        let bitmap = self.bitmaps.create(self.len(), granularity, Some(name))?;
        bitmap.set_enabled(!new.disabled);
        bitmap.set_persistent(new.persistent);
        Ok(bitmap)
    }

    /// Removes a bitmap, from the image, too, if it is persistent (`block-dirty-bitmap-remove`).
    ///
    /// # Errors
    /// There is none of that name, it is in use or read-only, or the image can't be changed.
    pub async fn remove_bitmap(&self, name: &str) -> Result<()> {
        let bitmap = self.retire_bitmap(name).await?;
        self.bitmaps.release(&bitmap);
        Ok(())
    }

    /// Removes a bitmap from the image, if it is there, and leaves it in memory.
    ///
    /// # Errors
    /// As [`Node::remove_bitmap`].
    pub async fn retire_bitmap(&self, name: &str) -> Result<Arc<DirtyBitmap>> {
        let bitmap = self.bitmaps.named(name)?;
        bitmap.check(BitmapUse::Remove)?;
        if bitmap.is_persistent() {
            self.driver.remove_stored_bitmap(name.to_owned()).await?;
        }
        Ok(bitmap)
    }

    /// Calls `event` once when a write reaches behind `threshold` bytes; 0 turns it off.
    pub fn set_write_threshold(&self, threshold: u64, event: Option<ThresholdEvent>) {
        *self.threshold_event.lock().unwrap_or_else(PoisonError::into_inner) = event;
        self.threshold.store(threshold, Ordering::Release);
    }

    /// The write threshold, or 0.
    pub fn write_threshold(&self) -> u64 {
        self.threshold.load(Ordering::Acquire)
    }

    /// The highest offset behind a finished or running write since the node was opened.
    pub fn highest_write(&self) -> u64 {
        self.highest_write.load(Ordering::Relaxed)
    }

    pub(super) fn check_threshold(&self, end: u64) {
        self.highest_write.fetch_max(end, Ordering::Relaxed);
        let threshold = self.threshold.load(Ordering::Acquire);
        if threshold == 0 || end <= threshold {
            return;
        }
        if self.threshold.compare_exchange(threshold, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            let event = self.threshold_event.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(event) = event {
                event(end - threshold, threshold);
            }
        }
    }
}
