//! Dirty bitmaps: which parts of a node were written since some moment.
//!
//! A [`DirtyBitmap`] has a granularity (bytes of a bit, a power of two), a size (that of its node) and, if users made it,
//! a name. It belongs to the [`Bitmaps`] of a node ([`crate::Node::bitmaps`]), which record the node's writes, zero
//! writes and discards after they are done, and follow its size. Jobs make bitmaps without a name.
//!
//! # For users (`block-dirty-bitmap-*`, `ouzel-img bitmap`)
//! - [`crate::Node::add_bitmap`], [`crate::Node::remove_bitmap`]: with the image, where it stores the bitmap.
//! - [`Bitmaps::named`] (error text as QEMU's), [`Bitmaps::find`], [`Bitmaps::list`] (newest first).
//! - [`DirtyBitmap::clear`], [`DirtyBitmap::enable`], [`DirtyBitmap::disable`], [`DirtyBitmap::merge`]: check that the
//!   bitmap may be used so, with QEMU's texts.
//!
//! # For jobs
//! - [`Bitmaps::create`] without a name, [`Bitmaps::release`]; [`DirtyBitmap::mark`], [`DirtyBitmap::unmark`],
//!   [`DirtyBitmap::next_dirty`], [`DirtyBitmap::next_clean`], [`DirtyBitmap::dirty_bytes`].
//! - A backup that must not lose writes if it fails: [`Bitmaps::create_successor`] makes the bitmap busy and lets a
//!   successor record; then [`Bitmaps::abdicate`] (the successor takes the place) or [`Bitmaps::reclaim`] (both are one
//!   again).
//! - [`DirtyBitmap::contents`], [`DirtyBitmap::restore`] undo an action of a transaction.
//!
//! # For formats that store bitmaps
//! A driver gets the bitmaps of its node when it is opened ([`crate::OpenRequest::bitmaps`]): it loads those of the image
//! into it, and stores the persistent ones when it is closed or becomes read-only. Between the two the image says that
//! they are in use, so that after a crash nobody trusts them: they come back as *inconsistent* and can only be removed.
//! [`crate::Driver::can_store_bitmap`] and [`crate::Driver::remove_stored_bitmap`] are asked by the node.

pub mod bits;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::error::{Error, Result};
use bits::Bits;

/// The longest name, bytes.
pub const MAX_NAME: usize = 1023;
/// The most bits of a bitmap.
const MAX_BITS: u64 = 1 << 40;

/// What a new bitmap is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewBitmap {
    /// Bytes of a bit; by default the cluster size of the image, between 4 KiB and 64 KiB.
    pub granularity: Option<u64>,
    /// It is stored in the image.
    pub persistent: bool,
    /// It does not record for now.
    pub disabled: bool,
}

/// What somebody wants to do with a bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitmapUse {
    /// Change its bits.
    Change,
    /// Read its bits, or turn recording on or off.
    Read,
    /// Remove it.
    Remove,
}

#[derive(Debug, Default)]
struct State {
    name: Option<String>,
    size: u64,
    bits: Bits,
    disabled: bool,
    busy: bool,
    read_only: bool,
    persistent: bool,
    inconsistent: bool,
    successor: Option<Arc<DirtyBitmap>>,
}

/// Which parts of a node were written.
#[derive(Debug)]
pub struct DirtyBitmap {
    granularity_bits: u32,
    state: Mutex<State>,
}

/// What a bitmap held at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents(Bits);

impl DirtyBitmap {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name; jobs' bitmaps have none.
    pub fn name(&self) -> Option<String> {
        self.state().name.clone()
    }

    /// Bytes of a bit.
    pub fn granularity(&self) -> u64 {
        1 << self.granularity_bits
    }

    /// Bytes of the node that the bitmap is for.
    pub fn size(&self) -> u64 {
        self.state().size
    }

    /// Bytes that are dirty, in whole granules.
    pub fn dirty_bytes(&self) -> u64 {
        self.state().bits.count() << self.granularity_bits
    }

    /// Whether the bitmap records writes itself.
    pub fn is_enabled(&self) -> bool {
        !self.state().disabled
    }

    /// Whether writes are recorded, by the bitmap or its successor.
    pub fn is_recording(&self) -> bool {
        let state = self.state();
        !state.disabled || state.successor.as_ref().is_some_and(|successor| successor.is_enabled())
    }

    /// Whether an operation uses the bitmap: nobody else may change it.
    pub fn is_busy(&self) -> bool {
        self.state().busy
    }

    /// Whether the image stores the bitmap.
    pub fn is_persistent(&self) -> bool {
        self.state().persistent
    }

    /// Whether the bitmap can't be trusted: whoever used it last did not store it.
    pub fn is_inconsistent(&self) -> bool {
        self.state().inconsistent
    }

    /// Whether the bitmap can't be changed, as its image can't.
    pub fn is_read_only(&self) -> bool {
        self.state().read_only
    }

    /// Marks the bitmap as used by an operation, or not any more.
    pub fn set_busy(&self, busy: bool) {
        self.state().busy = busy;
    }

    /// Marks the bitmap as one that the image stores, or does not.
    pub fn set_persistent(&self, persistent: bool) {
        self.state().persistent = persistent;
    }

    /// Marks a loaded bitmap as not to be trusted: it does not record.
    pub fn set_inconsistent(&self) {
        let mut state = self.state();
        state.inconsistent = true;
        state.disabled = true;
    }

    /// Marks the bitmap as one that can't be changed, or can.
    pub fn set_read_only(&self, read_only: bool) {
        self.state().read_only = read_only;
    }

    /// Turns recording on or off without asking whether that is allowed: for loading.
    pub fn set_enabled(&self, enabled: bool) {
        self.state().disabled = !enabled;
    }

    /// Whether the bitmap may be used so.
    ///
    /// # Errors
    /// Says what stands against it.
    pub fn check(&self, what: BitmapUse) -> Result<()> {
        let state = self.state();
        let name = state.name.as_deref().unwrap_or_default();
        if state.busy {
            let text = format!("Bitmap '{name}' is currently in use by another operation and cannot be used");
            return Err(Error::busy(text));
        }
        if state.read_only && what != BitmapUse::Read {
            return Err(Error::invalid(format!("Bitmap '{name}' is readonly and cannot be modified")));
        }
        if state.inconsistent && what != BitmapUse::Remove {
            return Err(Error::invalid(format!("Bitmap '{name}' is inconsistent and cannot be used"))
                .with_hint("Try block-dirty-bitmap-remove to delete this bitmap from disk"));
        }
        Ok(())
    }

    /// Makes everything clean.
    ///
    /// # Errors
    /// As [`DirtyBitmap::check`].
    pub fn clear(&self) -> Result<()> {
        self.check(BitmapUse::Change)?;
        self.state().bits = Bits::default();
        Ok(())
    }

    /// Lets the bitmap record.
    ///
    /// # Errors
    /// As [`DirtyBitmap::check`].
    pub fn enable(&self) -> Result<()> {
        self.check(BitmapUse::Read)?;
        self.set_enabled(true);
        Ok(())
    }

    /// Stops recording.
    ///
    /// # Errors
    /// As [`DirtyBitmap::check`].
    pub fn disable(&self) -> Result<()> {
        self.check(BitmapUse::Read)?;
        self.set_enabled(false);
        Ok(())
    }

    /// Whether `source` can be merged into this bitmap.
    ///
    /// # Errors
    /// As [`DirtyBitmap::check`] for both; different sizes.
    pub fn check_merge(&self, source: &DirtyBitmap) -> Result<()> {
        self.check(BitmapUse::Change)?;
        source.check(BitmapUse::Read)?;
        let (size, other) = (self.size(), source.size());
        if size != other {
            return Err(Error::invalid(format!(
                "Bitmaps are of different sizes (destination size is {size}, source size is {other}) and can't be merged"
            )));
        }
        Ok(())
    }

    /// Makes dirty what is dirty in `source`, whatever its granularity.
    ///
    /// # Errors
    /// As [`DirtyBitmap::check_merge`].
    pub fn merge(&self, source: &DirtyBitmap) -> Result<()> {
        self.check_merge(source)?;
        self.mark_dirty_of(source);
        Ok(())
    }

    /// Makes dirty what is dirty in `source`, a bitmap of the same size, whoever uses the two.
    pub fn mark_dirty_of(&self, source: &DirtyBitmap) {
        if std::ptr::eq(self, source) {
            return;
        }
        // A copy, so that two locks are never held at once.
        let theirs = source.state().bits.clone();
        if self.granularity_bits == source.granularity_bits {
            self.state().bits.merge(&theirs);
            return;
        }
        let mut at = 0;
        while let Some(start) = theirs.next_set(at, u64::MAX) {
            at = theirs.next_clear(start, u64::MAX).unwrap_or(u64::MAX);
            let bits = source.granularity_bits;
            self.mark(start << bits, (at - start) << bits);
        }
    }

    /// The bits that `offset .. offset + len` touches, cut at the node's end.
    fn granules(&self, size: u64, offset: u64, len: u64) -> (u64, u64) {
        let end = offset.saturating_add(len).min(size);
        (offset >> self.granularity_bits, if end <= offset { 0 } else { ((end - 1) >> self.granularity_bits) + 1 })
    }

    /// Makes a range dirty.
    pub fn mark(&self, offset: u64, len: u64) {
        let mut state = self.state();
        let (start, end) = self.granules(state.size, offset, len);
        state.bits.set(start, end);
    }

    /// Makes a range clean: all granules that it touches.
    pub fn unmark(&self, offset: u64, len: u64) {
        let mut state = self.state();
        let (start, end) = self.granules(state.size, offset, len);
        state.bits.clear(start, end);
    }

    /// Whether the byte at `offset` is dirty.
    pub fn is_dirty(&self, offset: u64) -> bool {
        let granule = offset >> self.granularity_bits;
        self.state().bits.next_set(granule, granule + 1).is_some()
    }

    /// The first dirty area of `start .. end`: its offset and length, which is at most `max`.
    pub fn next_dirty(&self, start: u64, end: u64, max: u64) -> Option<(u64, u64)> {
        let state = self.state();
        let end = end.min(state.size);
        if start >= end || max == 0 {
            return None;
        }
        let bits = self.granularity_bits;
        let last = ((end - 1) >> bits) + 1;
        let first = state.bits.next_set(start >> bits, last)?;
        let from = (first << bits).max(start);
        let to = state.bits.next_clear(first, last).map_or(end, |clear| (clear << bits).min(end));
        Some((from, (to - from).min(max)))
    }

    /// The first clean byte of `start .. end`.
    pub fn next_clean(&self, start: u64, end: u64) -> Option<u64> {
        let state = self.state();
        let end = end.min(state.size);
        if start >= end {
            return None;
        }
        let bits = self.granularity_bits;
        let clear = state.bits.next_clear(start >> bits, ((end - 1) >> bits) + 1)?;
        Some((clear << bits).max(start))
    }

    /// What the bitmap holds.
    pub fn contents(&self) -> Contents {
        Contents(self.state().bits.clone())
    }

    /// Goes back to what the bitmap held.
    pub fn restore(&self, contents: Contents) {
        self.state().bits = contents.0;
    }

    /// The bits from granule `first` on (a multiple of 64) as bytes, the first one in bit 0 of byte 0.
    pub fn store_bits(&self, first: u64, bytes: &mut [u8]) {
        self.state().bits.store(first, bytes);
    }

    /// Sets the granules from `first` on (a multiple of 64) whose bits are set in `bytes`. Bits behind the end are ignored.
    pub fn load_bits(&self, first: u64, bytes: &[u8]) {
        let mut state = self.state();
        state.bits.load(first, bytes);
        let end = state.size.div_ceil(1 << self.granularity_bits);
        state.bits.clear(end, end.saturating_add(bytes.len() as u64 * 8));
    }

    fn truncate(&self, size: u64) {
        let mut state = self.state();
        let old = state.size.div_ceil(1 << self.granularity_bits);
        state.size = size;
        state.bits.clear(size.div_ceil(1 << self.granularity_bits), old);
    }

    fn record(&self, offset: u64, len: u64) {
        let mut state = self.state();
        if !state.disabled && !state.read_only {
            let (start, end) = self.granules(state.size, offset, len);
            state.bits.set(start, end);
        }
    }
}

/// The bitmaps of a node.
#[derive(Debug, Default)]
pub struct Bitmaps {
    all: RwLock<Vec<Arc<DirtyBitmap>>>,
    some: AtomicBool,
}

impl Bitmaps {
    fn change<R>(&self, visit: impl FnOnce(&mut Vec<Arc<DirtyBitmap>>) -> R) -> R {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        let result = visit(&mut all);
        self.some.store(!all.is_empty(), Ordering::Release);
        result
    }

    /// All of them, newest first.
    pub fn list(&self) -> Vec<Arc<DirtyBitmap>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The bitmap of that name.
    pub fn find(&self, name: &str) -> Option<Arc<DirtyBitmap>> {
        self.list().into_iter().find(|bitmap| bitmap.state().name.as_deref() == Some(name))
    }

    /// The bitmap of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(&self, name: &str) -> Result<Arc<DirtyBitmap>> {
        self.find(name).ok_or_else(|| Error::not_found(format!("Dirty bitmap '{name}' not found")))
    }

    /// A new, clean and enabled bitmap for a node of `size` bytes. `granularity` is a power of two, at least 512.
    ///
    /// # Errors
    /// If there is one of that name, the name is too long, or the bitmap would be too large.
    pub fn create(&self, size: u64, granularity: u64, name: Option<&str>) -> Result<Arc<DirtyBitmap>> {
        if !granularity.is_power_of_two() || granularity < 512 {
            return Err(Error::invalid("Granularity must be power of 2 and at least 512"));
        }
        if let Some(name) = name {
            if self.find(name).is_some() {
                return Err(Error::exists(format!("Bitmap already exists: {name}")));
            }
            if name.len() > MAX_NAME {
                return Err(Error::invalid(format!("Bitmap name too long: {name}")));
            }
        }
        if size / granularity >= MAX_BITS {
            return Err(Error::too_big("The bitmap would be too large: use a larger granularity"));
        }
        let bitmap = Arc::new(DirtyBitmap {
            granularity_bits: granularity.trailing_zeros(),
            state: Mutex::new(State { name: name.map(str::to_owned), size, ..State::default() }),
        });
        self.change(|all| all.insert(0, Arc::clone(&bitmap)));
        Ok(bitmap)
    }

    /// Lists a bitmap that another list made, as the newest one.
    pub fn adopt(&self, bitmap: &Arc<DirtyBitmap>) {
        self.change(|all| all.insert(0, Arc::clone(bitmap)));
    }

    /// Forgets a bitmap. What the image stores is not touched.
    pub fn release(&self, bitmap: &Arc<DirtyBitmap>) {
        self.change(|all| all.retain(|known| !Arc::ptr_eq(known, bitmap)));
    }

    /// Makes `bitmap` busy and lets a new bitmap without a name record in its place.
    ///
    /// # Errors
    /// If the bitmap is busy or has a successor.
    pub fn create_successor(&self, bitmap: &Arc<DirtyBitmap>) -> Result<Arc<DirtyBitmap>> {
        if bitmap.is_busy() {
            bitmap.check(BitmapUse::Remove)?;
        }
        if bitmap.state().successor.is_some() {
            return Err(Error::invalid("Cannot create a successor for a bitmap that already has one"));
        }
        let successor = self.create(bitmap.size(), bitmap.granularity(), None)?;
        let mut state = bitmap.state();
        successor.set_enabled(!state.disabled);
        state.disabled = true;
        state.busy = true;
        state.successor = Some(Arc::clone(&successor));
        Ok(successor)
    }

    /// The successor takes the bitmap's place, name and all; the bitmap is gone.
    ///
    /// # Errors
    /// If there is no successor.
    pub fn abdicate(&self, bitmap: &Arc<DirtyBitmap>) -> Result<Arc<DirtyBitmap>> {
        let mut state = bitmap.state();
        let successor = state
            .successor
            .take()
            .ok_or_else(|| Error::invalid("Cannot relinquish control if there's no successor present"))?;
        state.busy = false;
        let (name, persistent) = (state.name.take(), std::mem::take(&mut state.persistent));
        drop(state);
        {
            let mut heir = successor.state();
            heir.name = name;
            heir.persistent = persistent;
        }
        self.release(bitmap);
        Ok(successor)
    }

    /// The successor's bits come back to the bitmap, which records again as the successor did.
    ///
    /// # Errors
    /// If there is no successor.
    pub fn reclaim(&self, bitmap: &Arc<DirtyBitmap>) -> Result<()> {
        let successor = bitmap
            .state()
            .successor
            .take()
            .ok_or_else(|| Error::invalid("Cannot reclaim a successor when none is present"))?;
        let recorded = successor.is_enabled();
        {
            let mut state = bitmap.state();
            state.disabled = !recorded;
            state.busy = false;
        }
        self.release(&successor);
        bitmap.mark_dirty_of(&successor);
        Ok(())
    }

    /// Takes note that a range was written.
    pub fn record(&self, offset: u64, len: u64) {
        if self.some.load(Ordering::Acquire) {
            for bitmap in self.all.read().unwrap_or_else(PoisonError::into_inner).iter() {
                bitmap.record(offset, len);
            }
        }
    }

    /// The node has another size now.
    pub fn truncate(&self, size: u64) {
        for bitmap in self.list() {
            bitmap.truncate(size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_recorded_by_enabled_bitmaps_in_whole_granules() {
        let bitmaps = Bitmaps::default();
        let a = bitmaps.create(1 << 20, 4096, Some("a")).expect("new");
        let b = bitmaps.create(1 << 20, 65536, Some("b")).expect("new");
        b.disable().expect("usable");
        bitmaps.record(5000, 4096);
        assert_eq!((a.dirty_bytes(), b.dirty_bytes()), (8192, 0));
        assert_eq!(a.next_dirty(0, 1 << 20, u64::MAX), Some((4096, 8192)));
        assert_eq!(a.next_dirty(6000, 1 << 20, 100), Some((6000, 100)));
        assert_eq!(a.next_clean(4096, 1 << 20), Some(12288));
        b.merge(&a).expect("same size");
        assert_eq!(b.dirty_bytes(), 65536);
        a.clear().expect("usable");
        a.merge(&b).expect("same size");
        assert_eq!(a.dirty_bytes(), 65536);
        bitmaps.truncate(8192);
        assert_eq!((a.dirty_bytes(), a.size()), (8192, 8192));
        bitmaps.record(0, u64::MAX);
        assert_eq!(a.dirty_bytes(), 8192);
        assert_eq!(bitmaps.create(1, 512, Some("a")).expect_err("known").to_string(), "Bitmap already exists: a");
        assert!(bitmaps.create(u64::MAX, 512, None).is_err());
    }

    #[test]
    fn successor_takes_over_or_comes_back() {
        let bitmaps = Bitmaps::default();
        let a = bitmaps.create(1 << 20, 65536, Some("a")).expect("new");
        bitmaps.record(0, 1);
        bitmaps.create_successor(&a).expect("no successor yet");
        bitmaps.record(65536, 1);
        assert!(a.is_busy() && a.is_recording() && !a.is_enabled());
        assert_eq!(a.dirty_bytes(), 65536);
        let text = "Bitmap 'a' is currently in use by another operation and cannot be used";
        assert_eq!(a.clear().expect_err("busy").to_string(), text);
        bitmaps.reclaim(&a).expect("has one");
        assert_eq!((a.dirty_bytes(), a.is_enabled()), (2 * 65536, true));
        bitmaps.create_successor(&a).expect("no successor now");
        bitmaps.record(2 * 65536, 1);
        let heir = bitmaps.abdicate(&a).expect("has one");
        assert_eq!((heir.name().as_deref(), heir.dirty_bytes()), (Some("a"), 65536));
        assert_eq!(bitmaps.list().len(), 1);
    }
}
