//! The tables of an image: read on demand, kept in pages, written back in an order that survives a crash.
//!
//! A change stays in memory until [`MetaCache::flush`]. That takes what has changed, waits until everything written
//! before is on stable storage (so no entry ever leads to data that is not there), writes the tables of the first
//! [`Level`], waits again, and writes those of the second. A crash in between leaves at worst clusters that nothing
//! points to. Sectors of 512 bytes are written whole, and taken to be atomic.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::{Child, Error, Result};
use tokio::sync::OnceCell;

use crate::bytes::{n, u};

/// Bytes of a page.
const PAGE: u64 = 32 << 10;
/// Bytes of a sector.
const SECTOR: u64 = 512;
/// Pages that are kept.
const MAX_PAGES: usize = 128;
/// Changed pages that are written back without being asked.
const MAX_DIRTY: usize = 64;

/// Which tables are written first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Those that others point to, or that have to be on disk before others change.
    First = 0,
    /// Those that point to them.
    Second = 1,
}

#[derive(Default)]
struct PageData {
    bytes: Vec<u8>,
    /// A bit for each changed sector, by level.
    dirty: [u64; 2],
}

#[derive(Default)]
struct Page {
    data: OnceCell<Mutex<PageData>>,
}

impl Page {
    fn lock(&self) -> Option<MutexGuard<'_, PageData>> {
        self.data.get().map(|data| data.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_dirty(&self) -> bool {
        self.lock().is_some_and(|data| data.dirty != [0; 2])
    }
}

#[derive(Default)]
struct Pages {
    /// By page number; with when it was last used.
    map: HashMap<u64, (Arc<Page>, u64)>,
    clock: u64,
}

/// The tables of one file.
pub(crate) struct MetaCache {
    file: Arc<Child>,
    /// Sectors that are written together.
    granule: u64,
    pages: Mutex<Pages>,
    flushing: tokio::sync::Mutex<()>,
}

/// A run of changed sectors: where it goes, and its bytes.
pub(crate) type Run = (u64, Vec<u8>);

impl MetaCache {
    pub(crate) fn new(file: Arc<Child>) -> Self {
        Self { file, granule: 1, pages: Mutex::default(), flushing: tokio::sync::Mutex::default() }
    }

    /// Tables that are written in units of `sectors`, a power of two of at most 64.
    pub(crate) fn with_granule(file: Arc<Child>, sectors: u64) -> Self {
        Self { granule: sectors, ..Self::new(file) }
    }

    fn with_pages<R>(&self, visit: impl FnOnce(&mut Pages) -> R) -> R {
        visit(&mut self.pages.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The page of that number. It stays in the map as long as the caller has it: what is in use is not evicted.
    async fn page(&self, number: u64) -> Result<Arc<Page>> {
        let page = self.with_pages(|pages| {
            pages.clock += 1;
            let clock = pages.clock;
            if let Some((page, used)) = pages.map.get_mut(&number) {
                *used = clock;
                return Arc::clone(page);
            }
            if pages.map.len() >= MAX_PAGES {
                let idle = pages.map.iter().filter(|(_, (page, _))| Arc::strong_count(page) == 1 && !page.is_dirty());
                if let Some(oldest) = idle.min_by_key(|(_, (_, used))| *used).map(|(number, _)| *number) {
                    pages.map.remove(&oldest);
                }
            }
            let page = Arc::new(Page::default());
            pages.map.insert(number, (Arc::clone(&page), clock));
            page
        });
        if !page.data.initialized() {
            let load = async {
                let bytes = self.file.read_vec(number * PAGE, n(PAGE)).await?;
                Ok::<_, Error>(Mutex::new(PageData { bytes, dirty: [0; 2] }))
            };
            page.data.get_or_try_init(|| load).await?;
        }
        Ok(page)
    }

    /// Calls `visit` with the bytes from `offset` to the end of its page (at least one).
    pub(crate) async fn view<R>(&self, offset: u64, visit: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let page = self.page(offset / PAGE).await?;
        let data = page.lock().ok_or_else(|| Error::io("A table could not be read"))?;
        Ok(visit(data.bytes.get(n(offset % PAGE)..).unwrap_or(&[])))
    }

    /// Reads a range.
    pub(crate) async fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < into.len() {
            let rest = &mut into[done..];
            done += self
                .view(offset + u(done), |bytes| {
                    let len = bytes.len().min(rest.len());
                    rest[..len].copy_from_slice(&bytes[..len]);
                    len
                })
                .await?;
        }
        Ok(())
    }

    /// The `N` bytes at `offset`.
    pub(crate) async fn get<const N: usize>(&self, offset: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(offset, &mut bytes).await?;
        Ok(bytes)
    }

    /// Changes a range.
    pub(crate) async fn write(&self, level: Level, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + u(done);
            let len = (bytes.len() - done).min(n(PAGE - at % PAGE));
            let page = self.page(at / PAGE).await?;
            let mut data = page.lock().ok_or_else(|| Error::io("A table could not be read"))?;
            let start = n(at % PAGE);
            if let Some(target) = data.bytes.get_mut(start..start + len) {
                target.copy_from_slice(&bytes[done..done + len]);
            }
            let last = (at % PAGE + u(len) - 1) / SECTOR / self.granule * self.granule + self.granule - 1;
            for sector in at % PAGE / SECTOR / self.granule * self.granule..=last {
                data.dirty[level as usize] |= 1 << sector;
            }
            done += len;
        }
        Ok(())
    }

    /// Whether so much has changed that it should be written.
    pub(crate) fn is_full(&self) -> bool {
        self.with_pages(|pages| {
            pages.map.len() > MAX_DIRTY && pages.map.values().filter(|(page, _)| page.is_dirty()).count() > MAX_DIRTY
        })
    }

    /// Takes what has changed on one level, with the pages that it belongs to, which are thereby kept.
    fn take(&self, level: Level) -> (Vec<Arc<Page>>, Vec<Run>) {
        let (mut taken, mut runs) = (Vec::new(), Vec::new());
        self.with_pages(|pages| {
            for (number, (page, _)) in &pages.map {
                let Some(mut data) = page.lock() else { continue };
                let mask = std::mem::take(&mut data.dirty[level as usize]);
                let mut sector = 0;
                while sector < PAGE / SECTOR {
                    if mask >> sector & 1 == 0 {
                        sector += 1;
                        continue;
                    }
                    let count = u64::from((!(mask >> sector)).trailing_zeros());
                    let bytes = &data.bytes[n(sector * SECTOR)..n((sector + count) * SECTOR)];
                    runs.push((number * PAGE + sector * SECTOR, bytes.to_vec()));
                    sector += count;
                }
                if mask != 0 {
                    drop(data);
                    taken.push(Arc::clone(page));
                }
            }
        });
        runs.sort_unstable_by_key(|run| run.0);
        (taken, runs)
    }

    /// Marks runs as changed again, after a failure.
    fn put_back(&self, level: Level, runs: &[Run]) {
        self.with_pages(|pages| {
            for (offset, bytes) in runs {
                let Some((page, _)) = pages.map.get(&(offset / PAGE)) else { continue };
                let Some(mut data) = page.lock() else { continue };
                for sector in 0..u(bytes.len()) / SECTOR {
                    data.dirty[level as usize] |= 1 << (offset % PAGE / SECTOR + sector);
                }
            }
        });
    }

    async fn write_runs(&self, runs: &[Run]) -> Result<()> {
        for (offset, bytes) in runs {
            self.file.write_bytes(*offset, bytes).await?;
        }
        Ok(())
    }

    /// Writes everything that has changed to the file. The caller flushes the file afterwards.
    pub(crate) async fn flush(&self) -> Result<()> {
        let _one = self.flushing.lock().await;
        // The second level first: what it points to on the first is then taken, too, or was written before.
        let (_second_pages, second) = self.take(Level::Second);
        let (_first_pages, first) = self.take(Level::First);
        if first.is_empty() && second.is_empty() {
            return Ok(());
        }
        let written = async {
            self.file.flush().await?;
            self.write_runs(&first).await?;
            if !first.is_empty() && !second.is_empty() {
                self.file.flush().await?;
            }
            self.write_runs(&second).await
        };
        let result = written.await;
        if result.is_err() {
            self.put_back(Level::First, &first);
            self.put_back(Level::Second, &second);
        }
        result
    }

    /// Takes all changed sectors of the second level instead of writing them: for formats that have a journal.
    pub(crate) async fn flush_with<F>(&self, write: impl FnOnce(Vec<Run>) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        let _one = self.flushing.lock().await;
        let (_pages, runs) = self.take(Level::Second);
        if runs.is_empty() {
            return Ok(());
        }
        let result = write(runs.clone()).await;
        if result.is_err() {
            self.put_back(Level::Second, &runs);
        }
        result
    }
}
