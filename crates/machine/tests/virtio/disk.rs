//! A disk in memory with a thread that completes its requests.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use device::disk::{Disk, DiskError, DiskObserver, DiskOperation, DiskProperties, DiskRequest, Removable};

pub struct MemoryDisk {
    contents: Arc<Mutex<Vec<u8>>>,
    requests: Mutex<Sender<DiskRequest>>,
    size: u64,
}

fn perform(contents: &mut [u8], operation: &DiskOperation) -> Result<(), DiskError> {
    let range = |offset: u64, len: usize| {
        let start = usize::try_from(offset).map_err(|_| DiskError::Invalid)?;
        if start + len <= contents.len() { Ok(start..start + len) } else { Err(DiskError::Invalid) }
    };
    match operation {
        DiskOperation::Read { offset, buf } => buf.write_at(0, &contents[range(*offset, buf.len())?]),
        DiskOperation::Write { offset, buf, .. } => {
            let range = range(*offset, buf.len())?;
            buf.read_at(0, &mut contents[range]);
        }
        DiskOperation::Flush => {}
        DiskOperation::Discard { offset, len } | DiskOperation::WriteZeroes { offset, len, .. } => {
            let range = range(*offset, *len as usize)?;
            contents[range].fill(0);
        }
    }
    Ok(())
}

impl MemoryDisk {
    pub fn new(contents: Vec<u8>) -> Arc<Self> {
        let size = contents.len() as u64;
        let contents = Arc::new(Mutex::new(contents));
        let (sender, receiver) = channel::<DiskRequest>();
        let shared = Arc::clone(&contents);
        std::thread::spawn(move || {
            for request in receiver {
                let result = perform(&mut shared.lock().unwrap_or_else(PoisonError::into_inner), &request.operation);
                (request.done)(result);
            }
        });
        Arc::new(Self { contents, requests: Mutex::new(sender), size })
    }

    pub fn contents(&self) -> Vec<u8> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Disk for MemoryDisk {
    fn properties(&self) -> DiskProperties {
        DiskProperties {
            size: self.size,
            logical_block_size: 512,
            physical_block_size: 512,
            min_io_size: 0,
            opt_io_size: 0,
            discard_granularity: 0,
            read_only: false,
            medium: true,
            write_cache: true,
            serial: String::new(),
        }
    }

    fn submit(&self, request: DiskRequest) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).send(request).expect("the thread runs");
    }

    fn set_write_cache(&self, _on: bool) {}

    fn observe(&self, _observer: Weak<dyn DiskObserver>) {}

    fn set_removable(&self, _drive: Weak<dyn Removable>) {}

    fn tray_moved(&self, _is_open: bool) {}
}
