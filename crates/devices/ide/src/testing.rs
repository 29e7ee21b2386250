//! What the unit tests share: a disk in memory whose requests wait until a test lets them go, and an interrupt line.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use device::disk::{Disk, DiskError, DiskObserver, DiskOperation, DiskProperties, DiskRequest, Removable};
use device::{IrqInput, IrqLine, IrqSink};

/// The disk.
pub struct FakeDisk {
    pub data: Mutex<Vec<u8>>,
    pub properties: Mutex<DiskProperties>,
    queue: Mutex<Vec<DiskRequest>>,
    /// What the next requests end with.
    pub failure: Mutex<Option<DiskError>>,
    /// What was asked for.
    pub log: Mutex<Vec<String>>,
}

impl FakeDisk {
    /// A disk whose sectors all hold their own number's lowest byte.
    pub fn new(sectors: usize) -> Arc<Self> {
        let data: Vec<u8> = (0..sectors * 512).map(|at| (at / 512) as u8).collect();
        let properties = DiskProperties {
            size: data.len() as u64,
            logical_block_size: 512,
            physical_block_size: 512,
            min_io_size: 0,
            opt_io_size: 0,
            discard_granularity: 512,
            read_only: false,
            medium: true,
            write_cache: true,
            serial: String::new(),
        };
        Arc::new(Self {
            data: Mutex::new(data),
            properties: Mutex::new(properties),
            queue: Mutex::default(),
            failure: Mutex::default(),
            log: Mutex::default(),
        })
    }

    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().expect("log"))
    }

    pub fn waiting(&self) -> usize {
        self.queue.lock().expect("queue").len()
    }

    /// Does what waits, and what follows from it.
    pub fn work(&self) {
        loop {
            let requests = std::mem::take(&mut *self.queue.lock().expect("queue"));
            if requests.is_empty() {
                return;
            }
            for request in requests {
                let failure = *self.failure.lock().expect("failure");
                let result = failure.map_or_else(|| self.apply(&request.operation), Err);
                (request.done)(result);
            }
        }
    }

    fn apply(&self, operation: &DiskOperation) -> Result<(), DiskError> {
        let mut data = self.data.lock().expect("data");
        let range = |offset: u64, len: usize| offset as usize..offset as usize + len;
        match operation {
            DiskOperation::Read { offset, buf } => {
                buf.write_at(0, data.get(range(*offset, buf.len())).ok_or(DiskError::Invalid)?);
            }
            DiskOperation::Write { offset, buf, .. } => {
                let target = data.get_mut(range(*offset, buf.len())).ok_or(DiskError::Invalid)?;
                buf.read_at(0, target);
            }
            DiskOperation::Discard { offset, len } => {
                data.get_mut(range(*offset, *len as usize)).ok_or(DiskError::Invalid)?.fill(0);
            }
            DiskOperation::Flush | DiskOperation::WriteZeroes { .. } => {}
        }
        Ok(())
    }
}

impl Disk for FakeDisk {
    fn properties(&self) -> DiskProperties {
        self.properties.lock().expect("properties").clone()
    }

    fn submit(&self, request: DiskRequest) {
        let text = match &request.operation {
            DiskOperation::Read { offset, buf } => format!("read {}+{}", offset / 512, buf.len() / 512),
            DiskOperation::Write { offset, buf, fua } => {
                format!("write {}+{}{}", offset / 512, buf.len() / 512, if *fua { " fua" } else { "" })
            }
            DiskOperation::Flush => "flush".to_owned(),
            DiskOperation::Discard { offset, len } => format!("discard {}+{}", offset / 512, len / 512),
            DiskOperation::WriteZeroes { .. } => "zeroes".to_owned(),
        };
        self.log.lock().expect("log").push(text);
        self.queue.lock().expect("queue").push(request);
    }

    fn set_write_cache(&self, on: bool) {
        self.properties.lock().expect("properties").write_cache = on;
    }

    fn observe(&self, _observer: Weak<dyn DiskObserver>) {}

    fn set_removable(&self, _drive: Weak<dyn Removable>) {}

    fn tray_moved(&self, is_open: bool) {
        self.log.lock().expect("log").push(format!("tray {}", if is_open { "open" } else { "closed" }));
    }
}

/// An interrupt input.
#[derive(Default)]
pub struct Pin(AtomicBool);

impl Pin {
    pub fn line(self: &Arc<Self>) -> IrqLine {
        IrqInput::new(Arc::clone(self) as Arc<dyn IrqSink>, 0).line()
    }

    pub fn level(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl IrqSink for Pin {
    fn set_level(&self, _pin: u32, level: bool) {
        self.0.store(level, Ordering::Relaxed);
    }

    fn restore_level(&self, pin: u32, level: bool) {
        self.set_level(pin, level);
    }
}
