//! virtio block devices (virtio 1.2, 5.2), with QEMU's configuration and limits.
//!
//! A request's data goes between guest memory and the [`Disk`] without a copy. `submit` does not wait, so that it is
//! called with the device locked; completions come back on any thread, lock the device, give the chain back and
//! interrupt. Left out: SCSI pass-through (never offered), secure erase, lifetime and zones.

mod config;
mod request;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};

use device::disk::{Disk, DiskError, DiskObserver, DiskProperties};
use state::State;

pub use self::config::{BlkOptions, Geometry, OptionError};
use self::request::{Parsed, Work};
use crate::device::{Access, Common, DeviceType, Model, RequestToken};
use crate::queue::{MAX_SIZE, Request};

/// Feature bits (5.2.3).
pub mod feature {
    #![expect(missing_docs, reason = "named as in the specification")]
    pub const SEG_MAX: u64 = 1 << 2;
    pub const GEOMETRY: u64 = 1 << 4;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const CONFIG_WCE: u64 = 1 << 11;
    pub const MQ: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// What a request ended with (5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// The guest-visible state beside queues and features: the cache mode that the driver chose.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "virtio-blk", version = 1)]
pub struct BlkState {
    write_cache: bool,
}

/// A block device.
pub struct Blk {
    // Fixed configuration.
    options: BlkOptions,
    /// The cache mode that a reset restores.
    original_write_cache: bool,
    // Host resources.
    disk: Arc<dyn Disk>,
    access: Arc<dyn Access<Self>>,
    /// The disk knows it weakly.
    _observer: Arc<Observer>,
    properties: DiskProperties,
    // Guest-visible state.
    state: BlkState,
}

struct Observer {
    access: Arc<dyn Access<Blk>>,
}

impl DiskObserver for Observer {
    fn changed(&self) {
        self.access.access(&mut |blk, common| blk.disk_changed(common));
    }
}

impl Blk {
    /// A device in front of `disk`. The options were checked.
    pub fn new(options: BlkOptions, disk: Arc<dyn Disk>, access: Arc<dyn Access<Self>>) -> Self {
        if let Some(on) = options.write_cache {
            disk.set_write_cache(on);
        }
        let observer = Arc::new(Observer { access: Arc::clone(&access) });
        let observed: Arc<dyn DiskObserver> = observer.clone();
        let weak: Weak<dyn DiskObserver> = Arc::downgrade(&observed);
        disk.observe(weak);
        let properties = disk.properties();
        let write_cache = properties.write_cache;
        Self {
            options,
            original_write_cache: write_cache,
            disk,
            access,
            _observer: observer,
            properties,
            state: BlkState { write_cache },
        }
    }

    /// The disk's size, medium or cache mode may have changed.
    fn disk_changed(&mut self, common: &mut Common) {
        let properties = self.disk.properties();
        if properties == self.properties {
            return;
        }
        self.properties = properties;
        self.state.write_cache = self.properties.write_cache;
        common.config_changed();
    }

    fn set_write_cache(&mut self, on: bool) {
        if self.state.write_cache != on {
            self.state.write_cache = on;
            self.properties.write_cache = on;
            self.disk.set_write_cache(on);
        }
    }

    fn start(&mut self, common: &mut Common, token: RequestToken, request: Request) {
        let parsed = Parsed::new(&request, &self.options, &self.properties);
        let Some(Parsed { work, status_at }) = parsed else {
            // Neither a header nor a place for the status: there is nothing to answer with (2.1.1).
            common.complete(token, 0);
            common.fail(crate::queue::QueueError::TooShort);
            return;
        };
        let reply = Reply { token, request, status_at };
        match work {
            Work::Done(status) => reply.send(common, status),
            Work::Identify => {
                reply.identify(&self.serial());
                reply.send(common, Status::Ok);
            }
            Work::Disk(device::disk::DiskOperation::Read { offset, buf }) if self.disk.read_at_once(offset, &buf) => {
                reply.send(common, Status::Ok);
            }
            Work::Disk(operation) => {
                let access = Arc::clone(&self.access);
                let mut reply = Some(reply);
                let done = Box::new(move |result: Result<(), DiskError>| {
                    access.access(&mut |_, common| {
                        if let Some(reply) = reply.take() {
                            reply.send(common, status_of(result));
                        }
                    });
                });
                self.disk.submit(device::disk::DiskRequest { operation, done });
            }
        }
    }

    fn serial(&self) -> String {
        self.options.serial.clone().unwrap_or_else(|| self.properties.serial.clone())
    }
}

fn status_of(result: Result<(), DiskError>) -> Status {
    match result {
        Ok(()) => Status::Ok,
        Err(DiskError::Unsupported) => Status::Unsupported,
        Err(_) => Status::IoError,
    }
}

/// A request that is to be answered.
struct Reply {
    token: RequestToken,
    request: Request,
    /// Where the status goes: the last byte that the device may write.
    status_at: usize,
}

impl Reply {
    /// The serial number, up to 20 bytes; a shorter one ends with a zero.
    fn identify(&self, serial: &str) {
        const ID_LEN: usize = 20;
        let mut id = serial.as_bytes().to_vec();
        id.push(0);
        id.truncate(ID_LEN.min(self.status_at));
        self.request.writable.write_at(0, &id);
    }

    fn send(self, common: &mut Common, status: Status) {
        let writable = &self.request.writable;
        // A back end may have written into the data, also for a driver that has gone.
        writable.stored(0, self.status_at);
        if common.is_current(self.token) {
            writable.write_at(self.status_at, &[status as u8]);
        }
        // As QEMU: all of the writable part counts, whatever happened.
        common.complete(self.token, u32::try_from(writable.len()).unwrap_or(u32::MAX));
    }
}

impl Model for Blk {
    type State = BlkState;

    fn device_type(&self) -> DeviceType {
        DeviceType { id: 2, transitional_pci_id: 0x1001, pci_class: 0x0100 }
    }

    fn features(&self) -> u64 {
        let mut features = feature::SEG_MAX | feature::GEOMETRY | feature::BLK_SIZE | feature::TOPOLOGY;
        let options = &self.options;
        for (offered, bit) in [
            (self.properties.read_only, feature::RO),
            (options.config_wce, feature::CONFIG_WCE),
            (options.config_wce || self.original_write_cache, feature::FLUSH),
            (options.num_queues > 1, feature::MQ),
            (options.discard, feature::DISCARD),
            (options.write_zeroes, feature::WRITE_ZEROES),
        ] {
            features |= if offered { bit } else { 0 };
        }
        features
    }

    fn queues(&self) -> Vec<u16> {
        vec![self.options.queue_size; usize::from(self.options.num_queues.clamp(1, MAX_SIZE))]
    }

    fn config(&self) -> Vec<u8> {
        self.options.config(&self.properties, self.state.write_cache)
    }

    fn write_config(&mut self, common: &mut Common, offset: usize, bytes: &[u8]) {
        let Some(index) = config::WCE_AT.checked_sub(offset) else { return };
        if let Some(wce) = bytes.get(index)
            && self.options.config_wce
            && (common.has(feature::CONFIG_WCE) || !common.has(crate::features::VERSION_1))
        {
            self.set_write_cache(*wce != 0);
        }
    }

    /// A driver that can't flush gets a disk that needs none (5.2.5.2).
    fn started(&mut self, common: &mut Common) {
        if !common.has(feature::CONFIG_WCE) {
            self.set_write_cache(common.has(feature::FLUSH));
        }
    }

    fn notified(&mut self, common: &mut Common, queue: usize) {
        // Requests that need no disk end at once.
        common.serve(queue, 8 * usize::from(MAX_SIZE), |common, token, request| self.start(common, token, request));
    }

    fn reset(&mut self, _common: &mut Common) {
        self.set_write_cache(self.original_write_cache);
    }

    fn restored(&mut self, common: &mut Common) {
        let wanted = self.state.write_cache;
        self.properties = self.disk.properties();
        self.state.write_cache = self.properties.write_cache;
        self.set_write_cache(wanted);
        for (token, request) in common.take_again() {
            self.start(common, token, request);
        }
    }

    fn state(&self) -> &BlkState {
        &self.state
    }

    fn state_mut(&mut self) -> &mut BlkState {
        &mut self.state
    }
}
