//! What a virtio device is, whatever its type and its transport (virtio 1.2, chapter 2): status, features, queues,
//! configuration, and what must be told to the driver.
//!
//! A device type is a [`Model`]. It works on a [`Common`], which its transport owns together with it under one lock;
//! back ends that finish later come back through [`Access`].

use memory::DmaView;
use state::{SavedState, State};

use crate::features;
use crate::queue::{NO_VECTOR, Queue, QueueError, QueueList, Request, Token};

/// Bits of the device status (2.1).
pub mod status {
    #![expect(missing_docs, reason = "named as in the specification")]
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
    pub const FAILED: u8 = 128;
}

/// Bits of the interrupt status.
pub mod isr {
    #![expect(missing_docs, reason = "named as in 4.1.4.5")]
    pub const QUEUE: u8 = 1;
    pub const CONFIG: u8 = 2;
}

/// What a device type is to a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceType {
    /// The number of chapter 5.
    pub id: u16,
    /// The PCI device number of the transitional device.
    pub transitional_pci_id: u16,
    /// The PCI class.
    pub pci_class: u16,
}

/// A device type: what it does with its queues and its configuration.
pub trait Model: Sized + Send + 'static {
    /// Its guest-visible state beside queues and features.
    type State: SavedState + Clone;

    /// What it is.
    fn device_type(&self) -> DeviceType;

    /// The device type's own features, as they are now.
    fn features(&self) -> u64;

    /// The sizes of its queues.
    fn queues(&self) -> Vec<u16>;

    /// The bytes of its configuration.
    fn config(&self) -> Vec<u8>;

    /// The driver wrote into the configuration.
    fn write_config(&mut self, common: &mut Common, offset: usize, bytes: &[u8]);

    /// The driver is ready (`DRIVER_OK`).
    fn started(&mut self, common: &mut Common);

    /// There may be something in a queue.
    fn notified(&mut self, common: &mut Common, queue: usize);

    /// The driver has reset the device, or the machine was reset. The queues were reset before.
    fn reset(&mut self, common: &mut Common);

    /// The state was replaced: chains in flight have to be done again.
    fn restored(&mut self, common: &mut Common);

    /// The state.
    fn state(&self) -> &Self::State;

    /// The state, to be replaced.
    fn state_mut(&mut self) -> &mut Self::State;
}

/// The way of a back end to the device that it works for.
pub trait Access<M: Model>: Send + Sync {
    /// Calls `visit` with exclusive access, and tells the driver afterwards what it has to know. Nothing happens when
    /// the device is gone.
    fn access(&self, visit: &mut dyn FnMut(&mut M, &mut Common));
}

/// The guest-visible state that all types have.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "virtio", version = 1)]
pub struct CommonState {
    /// Device status.
    pub status: u8,
    /// What the driver accepted.
    pub driver_features: u64,
    /// The driver accepted something that was not offered.
    pub bad_features: bool,
    /// Interrupt status.
    pub isr: u8,
    /// Counts changes of the configuration.
    pub generation: u8,
    /// The vector of configuration changes.
    pub config_vector: u16,
    /// The device may not work: bus mastering is off.
    pub disabled: bool,
}

impl Default for CommonState {
    fn default() -> Self {
        Self {
            status: 0,
            driver_features: 0,
            bad_features: false,
            isr: 0,
            generation: 0,
            config_vector: NO_VECTOR,
            disabled: false,
        }
    }
}

/// Names a request in flight, of any queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestToken {
    queue: usize,
    token: Token,
}

impl RequestToken {
    /// The queue that the request came from.
    pub fn queue(self) -> usize {
        self.queue
    }
}

/// What all types have.
pub struct Common {
    // Fixed configuration.
    /// What the device offers beside its type's own features.
    pub(crate) transport_features: u64,
    // Wiring.
    dma: DmaView,
    // Guest-visible state.
    pub(crate) state: CommonState,
    pub(crate) queues: QueueList,
    // Bookkeeping.
    /// Requests of back ends, also those that a reset has made the device forget.
    outstanding: Vec<usize>,
    /// Vectors that are to be raised, and whether the interrupt status changed.
    pub(crate) pending: Vec<u16>,
    pub(crate) broken: Option<QueueError>,
}

impl Common {
    /// The common part of `model`, which reaches memory through `dma`.
    pub(crate) fn new<M: Model>(model: &M, transport_features: u64, dma: DmaView) -> Self {
        let queues: Vec<Queue> = model.queues().into_iter().map(Queue::new).collect();
        Self {
            transport_features,
            dma,
            state: CommonState::default(),
            outstanding: vec![0; queues.len()],
            queues: QueueList(queues),
            pending: Vec::new(),
            broken: None,
        }
    }

    /// Guest memory, for what the device reaches beside its queues.
    pub fn dma(&self) -> &DmaView {
        &self.dma
    }

    /// Whether a feature was negotiated.
    pub fn has(&self, feature: u64) -> bool {
        self.state.driver_features & feature != 0
    }

    /// Whether the driver is ready.
    pub fn is_driver_ready(&self) -> bool {
        self.state.status & status::DRIVER_OK != 0
    }

    /// The device may touch the queues.
    fn may_work(&self) -> bool {
        self.broken.is_none()
            && !self.state.disabled
            && self.state.status & status::NEEDS_RESET == 0
            // Legacy drivers may use the queues before they say that they are ready (3.1.2 of the specification).
            && (self.is_driver_ready() || !self.has(features::VERSION_1))
    }

    /// Takes the next request of a queue. It stays in flight until [`Common::complete`].
    pub fn pop(&mut self, queue: usize) -> Option<(RequestToken, Request)> {
        if !self.may_work() {
            return None;
        }
        let taken = self.queues.0.get_mut(queue)?.pop(&self.dma);
        let request = self.check(taken).flatten()?;
        self.outstanding[queue] += 1;
        Some((RequestToken { queue, token: request.token }, request))
    }

    /// Asks for notifications of a queue that was emptied. `true`: something came in between.
    pub fn enable_notifications(&mut self, queue: usize) -> bool {
        if !self.may_work() {
            return false;
        }
        let Some(ring) = self.queues.0.get_mut(queue) else { return false };
        let more = ring.enable_notifications(&self.dma);
        self.check(more).unwrap_or(false)
    }

    /// Hands what waits in a queue to `serve`, until the queue is empty and its notifications are on; at most `limit`
    /// requests, so that another processor that feeds it as fast as this does not keep the device for ever.
    pub fn serve(&mut self, queue: usize, limit: usize, mut serve: impl FnMut(&mut Self, RequestToken, Request)) {
        let mut left = limit;
        loop {
            while let Some((token, request)) = self.pop(queue) {
                serve(self, token, request);
                left = left.saturating_sub(1);
                if left == 0 {
                    return;
                }
            }
            if !self.enable_notifications(queue) {
                return;
            }
        }
    }

    /// Ends a request: gives its buffers back, `written` bytes of whose writable part are valid, and interrupts the
    /// driver if it wants that. Requests from before a reset only end.
    pub fn complete(&mut self, request: RequestToken, written: u32) {
        let RequestToken { queue, token } = request;
        if let Some(outstanding) = self.outstanding.get_mut(queue) {
            *outstanding = outstanding.saturating_sub(1);
        }
        if self.broken.is_some() || self.state.disabled {
            return;
        }
        let Some(ring) = self.queues.0.get_mut(queue) else { return };
        let pushed = match ring.push(&self.dma, token, written) {
            Ok(true) => ring.wants_interrupt(&self.dma),
            other => other,
        };
        if self.check(pushed) == Some(true) {
            self.raise_queue(queue);
        }
    }

    fn raise_queue(&mut self, queue: usize) {
        let vector = self.queues.0.get(queue).map_or(NO_VECTOR, |ring| ring.state().vector);
        self.state.isr |= isr::QUEUE;
        self.pending.push(vector);
    }

    /// Whether a request is of the driver that runs now: its buffers may be written.
    pub fn is_current(&self, request: RequestToken) -> bool {
        self.queues.0.get(request.queue).is_some_and(|queue| queue.is_current(request.token))
    }

    /// Requests of back ends for a queue, or for all, that have not ended.
    pub fn outstanding(&self, queue: Option<usize>) -> usize {
        match queue {
            Some(queue) => self.outstanding.get(queue).copied().unwrap_or(0),
            None => self.outstanding.iter().sum(),
        }
    }

    fn check<T>(&mut self, result: Result<T, QueueError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.fail(error);
                None
            }
        }
    }

    /// The driver broke the rules: the device stops until it is reset (2.1.1).
    pub fn fail(&mut self, error: QueueError) {
        self.broken = Some(error);
        if self.has(features::VERSION_1) {
            self.state.status |= status::NEEDS_RESET;
            self.notify_config();
        }
    }

    /// Why the device stopped, if it did.
    pub fn failure(&self) -> Option<QueueError> {
        self.broken
    }

    /// The configuration has changed.
    pub fn config_changed(&mut self) {
        self.state.generation = self.state.generation.wrapping_add(1);
        self.notify_config();
    }

    fn notify_config(&mut self) {
        if !self.is_driver_ready() {
            return;
        }
        // As QEMU: both bits, so that a driver of either kind looks.
        self.state.isr |= isr::QUEUE | isr::CONFIG;
        self.pending.push(self.state.config_vector);
    }

    /// The driver accepts features; those that were not offered don't count.
    pub(crate) fn accept_features(&mut self, accepted: u64, offered: u64) {
        if self.state.status & status::FEATURES_OK != 0 {
            return;
        }
        self.state.bad_features = accepted & !offered != 0;
        self.state.driver_features = accepted & offered;
        let features = self.state.driver_features;
        self.queues.0.iter_mut().for_each(|queue| queue.set_features(features));
    }

    /// Everything as at power-on, but for requests that back ends still work on.
    pub(crate) fn reset(&mut self) {
        let disabled = self.state.disabled;
        self.state = CommonState { disabled, ..CommonState::default() };
        for queue in &mut self.queues.0 {
            queue.reset();
            queue.set_features(0);
        }
        self.pending.clear();
        self.broken = None;
    }

    /// Resets one queue.
    pub(crate) fn reset_queue(&mut self, queue: usize) {
        if let Some(queue) = self.queues.0.get_mut(queue) {
            queue.reset();
        }
    }

    /// After a restore: derives what is not saved. The chains that were in flight are to be done again.
    pub(crate) fn restored(&mut self) {
        self.broken = None;
        self.pending.clear();
        let features = self.state.driver_features;
        self.queues.0.iter_mut().for_each(|queue| queue.set_features(features));
    }

    /// The chains that were in flight when the state was saved, to be done again.
    pub fn take_again(&mut self) -> Vec<(RequestToken, Request)> {
        let mut all = Vec::new();
        for queue in 0..self.queues.0.len() {
            let again = self.queues.0[queue].take_again(&self.dma);
            for request in self.check(again).unwrap_or_default() {
                self.outstanding[queue] += 1;
                all.push((RequestToken { queue, token: request.token }, request));
            }
        }
        all
    }
}

impl std::fmt::Debug for Common {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Common").field("state", &self.state).field("queues", &self.queues).finish_non_exhaustive()
    }
}
