//! What monitors see of a device, whatever its type and its transport: registers, queues, and the descriptors of an element.
//!
//! Looking changes nothing: what is read of a queue's areas is read beside the device's work, as the guest has it now.

use device::DeviceCell;
use memory::DmaView;

use crate::device::Model;
use crate::features;
use crate::queue::{Element, ElementError};
use crate::transport::Transport;

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The number of its type (virtio 1.2, chapter 5).
    pub id: u16,
    /// The features that it offers.
    pub offered: u64,
    /// Those that its driver has accepted.
    pub accepted: u64,
    /// How many queues it has.
    pub queues: usize,
    /// Device status.
    pub status: u8,
    /// Interrupt status.
    pub isr: u8,
    /// The queue that registers of queues are of.
    pub queue_select: u16,
    /// The driver broke the rules.
    pub is_broken: bool,
    /// The driver has switched bus mastering off.
    pub is_disabled: bool,
    /// The driver has begun.
    pub is_started: bool,
    /// The driver has not said that it begins; as it is a legacy one, it may do so by using a queue.
    pub starts_on_kick: bool,
}

/// A queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueInfo {
    /// Chains that were taken and not given back.
    pub in_use: usize,
    /// Entries.
    pub size: u16,
    /// Entries that the device offers.
    pub max_size: u16,
    /// Legacy: where the device area begins.
    pub align: u32,
    /// The descriptor area.
    pub descriptors: u64,
    /// The driver area.
    pub driver: u64,
    /// The device area.
    pub device: u64,
    /// The next chain to be taken.
    pub next_available: u16,
    /// The end of what the driver offered when the device looked last.
    pub seen_available: u16,
    /// Where the next chain is given back.
    pub next_used: u16,
    /// Where the driver was interrupted for the last time.
    pub signalled: u16,
    /// Whether it was.
    pub is_signalled_valid: bool,
}

/// A device to be looked into.
pub trait Inspect: Send + Sync {
    /// The number of its type.
    fn id(&self) -> u16;

    /// The device.
    fn device(&self) -> DeviceInfo;

    /// A queue, if there is such a one.
    fn queue(&self, queue: usize) -> Option<QueueInfo>;

    /// The descriptors of an available entry of a queue: of the next that the device will take, unless `index` says another.
    /// `None`: there is no such queue.
    fn element(&self, queue: usize, index: Option<u16>) -> Option<Result<Element, ElementError>>;
}

impl<T: Transport> Inspect for DeviceCell<T> {
    fn id(&self) -> u16 {
        self.lock().core().model.device_type().id
    }

    fn device(&self) -> DeviceInfo {
        let mut device = self.lock();
        let (queue_select, is_disabled) = (device.queue_select(), device.is_disabled());
        let core = device.core();
        let (offered, status) = (core.offered(), core.shown_status());
        let common = &core.common;
        let (accepted, is_legacy) = (common.state.driver_features, !common.has(features::VERSION_1));
        let is_used = common.queues.0.iter().any(|queue| queue.next_available() != 0);
        let is_started = common.is_driver_ready() || is_legacy && is_used;
        DeviceInfo {
            id: core.model.device_type().id,
            offered,
            accepted,
            queues: common.queues.0.len(),
            status,
            isr: common.state.isr,
            queue_select,
            is_broken: common.broken.is_some(),
            is_disabled,
            is_started,
            starts_on_kick: is_legacy && !is_started && accepted != 0,
        }
    }

    fn queue(&self, queue: usize) -> Option<QueueInfo> {
        let mut device = self.lock();
        let align = device.queue_align(queue);
        let found = device.core().common.queues.0.get(queue)?;
        Some(QueueInfo { align, ..found.info() })
    }

    fn element(&self, queue: usize, index: Option<u16>) -> Option<Result<Element, ElementError>> {
        let mut device = self.lock();
        let common = &device.core().common;
        let dma: &DmaView = common.dma();
        common.queues.0.get(queue).map(|queue| queue.element(dma, index))
    }
}
