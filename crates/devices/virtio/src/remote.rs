//! A model whose transport is in another program (vhost-user): what that transport has to do with it.
//!
//! Queues are set up one by one, and the driver counts as ready while one of them runs. Vectors are those of this module:
//! they say which queue, or the configuration.

use memory::DmaView;

use crate::device::{Common, Model, status};
use crate::features;
use crate::queue::{Queue, QueueError};

/// The vector of configuration changes: no queue's.
const CONFIG_VECTOR: u16 = 0xfffe;

/// What the driver is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A queue has used buffers.
    Queue(usize),
    /// The configuration has changed.
    Config,
}

/// A model and its queues.
pub struct Remote<M: Model> {
    common: Common,
    model: M,
}

impl<M: Model> Remote<M> {
    /// `model` with queues in the memory that `dma` shows.
    pub fn new(model: M, dma: DmaView) -> Self {
        let offered = features::INDIRECT | features::EVENT_IDX | features::VERSION_1;
        let mut remote = Self { common: Common::new(&model, offered, dma), model };
        remote.common.state.config_vector = CONFIG_VECTOR;
        remote
    }

    /// The features that the driver may accept.
    pub fn offered(&self) -> u64 {
        self.common.transport_features | self.model.features()
    }

    /// The driver accepts features.
    pub fn accept(&mut self, accepted: u64) {
        self.common.state.status &= !status::FEATURES_OK;
        self.common.accept_features(accepted, self.offered());
    }

    /// How many queues there are.
    pub fn queues(&self) -> usize {
        self.common.queues.0.len()
    }

    /// A queue.
    pub fn queue(&mut self, index: usize) -> Option<&mut Queue> {
        self.common.queues.0.get_mut(index)
    }

    /// A queue that was set up begins to run, at this position.
    ///
    /// # Errors
    /// Its rings are not in memory, or there is no such queue.
    pub fn start(&mut self, index: usize, next: u16) -> Result<(), QueueError> {
        let dma = self.common.dma().clone();
        let queue = self.queue(index).ok_or(QueueError::Descriptor(u16::MAX))?;
        queue.resume(&dma, next)?;
        queue.set_vector(index as u16);
        queue.enable();
        if !self.common.is_driver_ready() {
            let ready = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
            self.common.state.status |= ready;
            self.model.started(&mut self.common);
        }
        Ok(())
    }

    /// There may be something in a queue.
    pub fn notify(&mut self, index: usize) {
        self.model.notified(&mut self.common, index);
    }

    /// No queue runs any more: the driver is gone, or resets the device.
    pub fn halt(&mut self) {
        self.common.state.status = 0;
        self.common.broken = None;
        self.common.pending.clear();
        self.model.reset(&mut self.common);
    }

    /// Forgets everything that the driver has set up; what back ends work on ends without a trace in the queues.
    pub fn reset(&mut self) {
        self.common.reset();
        self.common.state.config_vector = CONFIG_VECTOR;
        self.model.reset(&mut self.common);
    }

    /// The configuration.
    pub fn config(&self) -> Vec<u8> {
        self.model.config()
    }

    /// The driver writes into the configuration.
    pub fn write_config(&mut self, offset: usize, bytes: &[u8]) {
        self.model.write_config(&mut self.common, offset, bytes);
    }

    /// Calls `visit` with the model, for a back end.
    pub fn visit(&mut self, visit: &mut dyn FnMut(&mut M, &mut Common)) {
        visit(&mut self.model, &mut self.common);
    }

    /// Requests of a queue that back ends work on.
    pub fn outstanding(&self, queue: Option<usize>) -> usize {
        self.common.outstanding(queue)
    }

    /// What the driver did wrong, if the device stopped because of that.
    pub fn failure(&self) -> Option<QueueError> {
        self.common.failure()
    }

    /// What the driver is to be told now.
    pub fn take_signals(&mut self) -> Vec<Signal> {
        let signal = |vector| match vector {
            CONFIG_VECTOR => Signal::Config,
            queue => Signal::Queue(usize::from(queue)),
        };
        self.common.pending.drain(..).map(signal).collect()
    }
}
