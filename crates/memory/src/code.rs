//! Which pages of a RAM block hold guest code that some vCPU has decoded, and how often it was written to.
//!
//! A vCPU that decodes instructions from a page first calls [`PageCode::watch`] for the 64-byte lines that it will
//! read, then [`PageCode::generation`], then reads the bytes, and last makes sure with [`PageCode::watches`] that the
//! lines still are watched. A store to a watched line takes all marks of the page away and raises the generation;
//! decoded code is valid only while the generation of its page is the one it was decoded under.
//!
//! A vCPU that runs translated code looks at generations only now and then. It registers as a [`CodeListener`] and is
//! told when code was hit.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

/// Who wants to know that code was modified.
pub trait CodeListener: Send + Sync {
    /// A store hit watched code somewhere.
    fn code_modified(&self);
}

static LISTENERS: RwLock<Vec<Weak<dyn CodeListener>>> = RwLock::new(Vec::new());

/// Hits that are remembered.
const RECENT: usize = 64;

/// The pages of the last hits, for vCPUs that need not look at all of theirs.
struct Hits {
    /// Hits so far.
    count: u64,
    pages: [usize; RECENT],
}

static HITS: Mutex<Hits> = Mutex::new(Hits { count: 0, pages: [0; RECENT] });

/// A vCPU's place in the sequence of hits.
#[derive(Clone, Copy, Debug, Default)]
pub struct HitCursor(u64);

impl HitCursor {
    /// Calls `each` with the page of every hit since the last call; `false`, and nothing called, when there were too
    /// many: any page may have been hit.
    pub fn advance(&mut self, mut each: impl FnMut(PageId)) -> bool {
        let (from, count, pages) = {
            let hits = HITS.lock().unwrap_or_else(PoisonError::into_inner);
            (std::mem::replace(&mut self.0, hits.count), hits.count, hits.pages)
        };
        if count - from > RECENT as u64 {
            return false;
        }
        for index in from..count {
            each(PageId(pages[index as usize % RECENT]));
        }
        true
    }
}

/// Names the tracking of one page while its block of RAM lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageId(usize);

/// How many listeners there may be.
pub fn listeners() -> usize {
    LISTENERS.read().unwrap_or_else(PoisonError::into_inner).len()
}

/// Tells `listener`, while it lives, of all modified code in the process.
pub fn listen(listener: &Arc<dyn CodeListener>) {
    let mut listeners = LISTENERS.write().unwrap_or_else(PoisonError::into_inner);
    listeners.retain(|known| known.strong_count() != 0);
    listeners.push(Arc::downgrade(listener));
}

/// Tells all listeners but `own` that code was modified.
#[cold]
pub fn notify(own: Option<&Arc<dyn CodeListener>>) {
    for listener in LISTENERS.read().unwrap_or_else(PoisonError::into_inner).iter() {
        if let Some(listener) = listener.upgrade()
            && own.is_none_or(|own| !std::ptr::addr_eq(Arc::as_ptr(own), Arc::as_ptr(&listener)))
        {
            listener.code_modified();
        }
    }
}

/// The code tracking of one 4 KiB page.
/// The marks come first: translated code reads them.
#[derive(Debug, Default)]
#[repr(C)]
pub struct PageCode {
    /// One bit for each 64-byte line of the page that holds decoded code.
    lines: AtomicU64,
    /// Raised by each store to a watched line.
    generation: AtomicU32,
}

/// The mask of the 64-byte lines that `len` bytes from `offset` in the page touch.
fn line_mask(offset: usize, len: usize) -> u64 {
    if len == 0 {
        return 0;
    }
    let first = (offset / 64).min(63);
    let last = ((offset + len - 1) / 64).min(63);
    (u64::MAX >> (63 - last)) & (u64::MAX << first)
}

impl PageCode {
    /// Marks the lines of `len` bytes at `offset` (in bytes, within the page) as holding code. Returns `true` when a
    /// line was not marked before: the caller then needs a memory barrier on all vCPU threads before it reads the
    /// bytes, because another thread may have a store in flight that did not see the mark.
    pub fn watch(&self, offset: usize, len: usize) -> bool {
        let mask = line_mask(offset, len);
        if self.lines.load(Ordering::Acquire) & mask == mask {
            return false;
        }
        self.lines.fetch_or(mask, Ordering::SeqCst) & mask != mask
    }

    /// The current generation of the page's code.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether any line of the page holds decoded code.
    #[inline]
    pub fn is_watched(&self) -> bool {
        self.lines.load(Ordering::Relaxed) != 0
    }

    /// Whether all lines of `len` bytes at `offset` are watched.
    pub fn watches(&self, offset: usize, len: usize) -> bool {
        let mask = line_mask(offset, len);
        self.lines.load(Ordering::SeqCst) & mask == mask
    }

    /// Notes a store of `len` bytes at `offset`. Returns `true` when it hit watched code; the caller then calls
    /// [`notify`].
    #[inline]
    pub fn note_store(&self, offset: usize, len: usize) -> bool {
        let lines = self.lines.load(Ordering::Relaxed);
        if lines == 0 || lines & line_mask(offset, len) == 0 {
            return false;
        }
        // The marks go first: whoever sets one in between finds the old generation.
        self.lines.swap(0, Ordering::SeqCst);
        self.generation.fetch_add(1, Ordering::SeqCst);
        let mut hits = HITS.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = (hits.count % RECENT as u64) as usize;
        hits.pages[slot] = self.id().0;
        hits.count += 1;
        true
    }

    /// The page's name.
    pub fn id(&self) -> PageId {
        PageId(std::ptr::from_ref(self) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_beside_watched_line_keeps_generation() {
        let page = PageCode::default();
        assert!(page.watch(64, 10));
        assert!(!page.watch(70, 2));
        assert!(!page.note_store(0, 64));
        assert!(!page.note_store(128, 3968));
        assert_eq!(page.generation(), 0);
    }

    #[test]
    fn store_that_ends_in_watched_line_raises_generation() {
        let page = PageCode::default();
        page.watch(4090, 6);
        assert!(page.watches(4090, 6));
        assert!(page.note_store(4030, 3));
        assert!(!page.watches(4090, 6));
        assert!(!page.note_store(4095, 1));
        page.watch(4090, 6);
        assert!(page.note_store(0, 4096));
        assert_eq!(page.generation(), 2);
        assert!(!page.note_store(0, 0));
    }
}
