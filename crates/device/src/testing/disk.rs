//! A disk in memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use iobuf::IoBuf;

use crate::disk::{Disk, DiskError, DiskObserver, DiskOperation, DiskProperties, DiskRequest, Removable};

const SECTOR: u64 = 512;

/// A disk in memory for tests of controllers: requests wait until the test lets them go, and all is written down.
pub struct FakeDisk {
    /// What is on it.
    pub data: Mutex<Vec<u8>>,
    /// What it tells of itself.
    pub properties: Mutex<DiskProperties>,
    /// What the next requests end with.
    pub failure: Mutex<Option<DiskError>>,
    /// What was asked for, in order: `read 5+2` and so on, in sectors of 512 bytes.
    pub log: Mutex<Vec<String>>,
    /// Reads are done at once; they are not in the log.
    pub at_once: AtomicBool,
    queue: Mutex<Vec<DiskRequest>>,
    is_eager: Mutex<bool>,
    observer: Mutex<Option<Weak<dyn DiskObserver>>>,
    removable: Mutex<Option<Weak<dyn Removable>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeDisk {
    /// A disk whose sectors all hold their own number's lowest byte; with a medium unless it has none.
    pub fn new(sectors: usize) -> Arc<Self> {
        let data: Vec<u8> = (0..sectors * SECTOR as usize).map(|at| (at / SECTOR as usize) as u8).collect();
        let properties = DiskProperties {
            size: data.len() as u64,
            logical_block_size: SECTOR as u32,
            physical_block_size: SECTOR as u32,
            min_io_size: 0,
            opt_io_size: 0,
            discard_granularity: SECTOR as u32,
            read_only: false,
            medium: sectors > 0,
            write_cache: true,
            serial: String::new(),
        };
        Arc::new(Self {
            data: Mutex::new(data),
            properties: Mutex::new(properties),
            failure: Mutex::default(),
            log: Mutex::default(),
            at_once: AtomicBool::new(false),
            queue: Mutex::default(),
            is_eager: Mutex::default(),
            observer: Mutex::default(),
            removable: Mutex::default(),
        })
    }

    /// What was asked for since the last call.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.log))
    }

    /// Whether requests are done as they come: for whoever waits for one.
    pub fn set_eager(&self, is_eager: bool) {
        *lock(&self.is_eager) = is_eager;
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        lock(&self.queue).len()
    }

    /// Does what waits, and what follows from it.
    pub fn work(&self) {
        loop {
            let requests = std::mem::take(&mut *lock(&self.queue));
            if requests.is_empty() {
                return;
            }
            for request in requests {
                let failure = *lock(&self.failure);
                let result = failure.map_or_else(|| self.apply(&request.operation), Err);
                (request.done)(result);
            }
        }
    }

    /// Changes what the disk tells of itself, and says so.
    ///
    /// # Panics
    /// Nobody observes the disk.
    pub fn change(&self, change: impl FnOnce(&mut DiskProperties)) {
        change(&mut lock(&self.properties));
        let observer = lock(&self.observer).as_ref().and_then(Weak::upgrade);
        observer.expect("an observer").changed();
    }

    /// The drive that takes media in and out, if one has come forward.
    pub fn drive(&self) -> Option<Arc<dyn Removable>> {
        lock(&self.removable).as_ref().and_then(Weak::upgrade)
    }

    fn apply(&self, operation: &DiskOperation) -> Result<(), DiskError> {
        let mut data = lock(&self.data);
        let range = |offset: u64, len: usize| offset as usize..(offset as usize).saturating_add(len);
        match operation {
            DiskOperation::Read { offset, buf } => {
                buf.write_at(0, data.get(range(*offset, buf.len())).ok_or(DiskError::Invalid)?);
            }
            DiskOperation::Write { offset, buf, .. } => {
                buf.read_at(0, data.get_mut(range(*offset, buf.len())).ok_or(DiskError::Invalid)?);
            }
            DiskOperation::Discard { offset, len } | DiskOperation::WriteZeroes { offset, len, .. } => {
                data.get_mut(range(*offset, *len as usize)).ok_or(DiskError::Invalid)?.fill(0);
            }
            DiskOperation::Flush => {}
        }
        Ok(())
    }
}

impl Disk for FakeDisk {
    fn properties(&self) -> DiskProperties {
        lock(&self.properties).clone()
    }

    fn read_at_once(&self, offset: u64, buf: &IoBuf) -> bool {
        if !self.at_once.load(Ordering::Relaxed) {
            return false;
        }
        let data = lock(&self.data);
        let range = usize::try_from(offset).ok().and_then(|start| data.get(start..start.checked_add(buf.len())?));
        let Some(bytes) = range else { return false };
        buf.write_at(0, bytes);
        true
    }

    fn submit(&self, request: DiskRequest) {
        let sectors = |len: usize| len as u64 / SECTOR;
        let text = match &request.operation {
            DiskOperation::Read { offset, buf } => format!("read {}+{}", offset / SECTOR, sectors(buf.len())),
            DiskOperation::Write { offset, buf, fua } => {
                format!("write {}+{}{}", offset / SECTOR, sectors(buf.len()), if *fua { " fua" } else { "" })
            }
            DiskOperation::Flush => "flush".to_owned(),
            DiskOperation::Discard { offset, len } => format!("discard {}+{}", offset / SECTOR, len / SECTOR),
            DiskOperation::WriteZeroes { offset, len, unmap } => {
                format!("zeroes {}+{}{}", offset / SECTOR, len / SECTOR, if *unmap { " unmap" } else { "" })
            }
        };
        lock(&self.log).push(text);
        lock(&self.queue).push(request);
        let is_eager = *lock(&self.is_eager);
        if is_eager {
            self.work();
        }
    }

    fn set_write_cache(&self, on: bool) {
        lock(&self.log).push(format!("cache {on}"));
        lock(&self.properties).write_cache = on;
    }

    fn observe(&self, observer: Weak<dyn DiskObserver>) {
        *lock(&self.observer) = Some(observer);
    }

    fn set_removable(&self, drive: Weak<dyn Removable>) {
        *lock(&self.removable) = Some(drive);
    }

    fn tray_moved(&self, is_open: bool) {
        lock(&self.log).push(format!("tray {}", if is_open { "open" } else { "closed" }));
    }
}
