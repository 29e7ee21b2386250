//! What virtio devices and their queues are like inside.

use crate::{Command, QapiType};

/// A virtio device.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct VirtioInfo {
    /// Its path in the object tree.
    pub path: String,
    /// What its type is called.
    pub name: String,
}

/// Lists the virtio devices, the newest first.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-query-virtio", returns = Vec<VirtioInfo>, unstable)]
pub struct XQueryVirtio;

/// Device status, bit by bit.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct VirtioDeviceStatus {
    /// The bits that are set, with what they mean.
    pub statuses: Vec<String>,
    /// Bits that have no names.
    pub unknown_statuses: Option<u8>,
}

/// Features, bit by bit.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct VirtioDeviceFeatures {
    /// Those of queues and transports, with what they mean.
    pub transports: Vec<String>,
    /// Those of the device's type, with what they mean.
    pub dev_features: Option<Vec<String>>,
    /// Those that have no names.
    pub unknown_dev_features: Option<u64>,
}

/// Features of the protocol of vhost-user, bit by bit.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct VhostDeviceProtocols {
    /// Those with names, with what they mean.
    pub protocols: Vec<String>,
    /// Those that have no names.
    pub unknown_protocols: Option<u64>,
}

/// A device whose queues another program or the host's kernel works on.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct VhostStatus {
    /// Sections of memory.
    pub n_mem_sections: i64,
    /// Sections of memory while the map is made.
    pub n_tmp_sections: i64,
    /// Queues.
    pub nvqs: u32,
    /// The first of them.
    pub vq_index: i64,
    /// The features that are offered.
    pub features: VirtioDeviceFeatures,
    /// The features that were accepted.
    pub acked_features: VirtioDeviceFeatures,
    /// The features of the other side.
    pub backend_features: VirtioDeviceFeatures,
    /// The features of the protocol.
    pub protocol_features: VhostDeviceProtocols,
    /// How many queues there may be.
    pub max_queues: u64,
    /// What the other side is capable of.
    pub backend_cap: u64,
    /// Whether it logs what it writes.
    pub log_enabled: bool,
    /// The size of that log.
    pub log_size: u64,
}

/// A virtio device inside.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct VirtioStatus {
    /// What its type is called.
    pub name: String,
    /// The number of its type.
    pub device_id: u16,
    /// Whether another program or the host's kernel works on its queues.
    pub vhost_started: bool,
    /// The byte order of legacy structures: `little` or `big`.
    pub device_endian: String,
    /// What the driver has accepted.
    pub guest_features: VirtioDeviceFeatures,
    /// What the device offers.
    pub host_features: VirtioDeviceFeatures,
    /// What another program or the host's kernel offers.
    pub backend_features: VirtioDeviceFeatures,
    /// How many queues it has.
    pub num_vqs: i64,
    /// Device status.
    pub status: VirtioDeviceStatus,
    /// Interrupt status.
    pub isr: u8,
    /// The queue that registers of queues are of.
    pub queue_sel: u16,
    /// Whether the machine runs.
    pub vm_running: bool,
    /// Whether the driver broke the rules.
    pub broken: bool,
    /// Whether the driver has switched bus mastering off.
    pub disabled: bool,
    /// Whether it is told apart who has begun.
    pub use_started: bool,
    /// Whether the driver has begun.
    pub started: bool,
    /// Whether the driver begins with its first notification.
    pub start_on_kick: bool,
    /// Whether legacy interfaces are allowed everywhere.
    pub disable_legacy_check: bool,
    /// The name of the bus that it has, if that follows from its id.
    pub bus_name: String,
    /// Whether interrupts of queues may be masked.
    pub use_guest_notifier_mask: bool,
    /// Who else works on its queues.
    pub vhost_dev: Option<VhostStatus>,
}

/// Tells what a virtio device is like inside.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-query-virtio-status", returns = VirtioStatus, unstable)]
pub struct XQueryVirtioStatus {
    /// The device's path in the object tree.
    pub path: String,
}

/// A queue inside.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct VirtQueueStatus {
    /// What the device's type is called.
    pub name: String,
    /// The number of the queue.
    pub queue_index: u16,
    /// How many elements are being worked on.
    pub inuse: u32,
    /// How many entries it has.
    pub vring_num: u32,
    /// How many the device offers.
    pub vring_num_default: u32,
    /// Where the device area begins, for legacy drivers.
    pub vring_align: u32,
    /// The address of the descriptor area.
    pub vring_desc: u64,
    /// The address of the driver area.
    pub vring_avail: u64,
    /// The address of the device area.
    pub vring_used: u64,
    /// The next element that the device takes.
    pub last_avail_idx: Option<u16>,
    /// The end of what the driver offered when the device looked last.
    pub shadow_avail_idx: Option<u16>,
    /// Where the next element is given back.
    pub used_idx: u16,
    /// Where the driver was interrupted last.
    pub signalled_used: u16,
    /// Whether it was.
    pub signalled_used_valid: bool,
}

/// Tells what a queue of a virtio device is like inside.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-query-virtio-queue-status", returns = VirtQueueStatus, unstable)]
pub struct XQueryVirtioQueueStatus {
    /// The device's path in the object tree.
    pub path: String,
    /// The number of the queue.
    pub queue: u16,
}

/// A descriptor.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct VirtioRingDesc {
    /// The guest-physical address of the memory.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// The flags that are set.
    pub flags: Vec<String>,
}

/// The driver area.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct VirtioRingAvail {
    /// Its flags.
    pub flags: u16,
    /// Its index.
    pub idx: u16,
    /// The entry that was looked at.
    pub ring: u16,
}

/// The device area.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct VirtioRingUsed {
    /// Its flags.
    pub flags: u16,
    /// Its index.
    pub idx: u16,
}

/// An element of a queue.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct VirtioQueueElement {
    /// What the device's type is called.
    pub name: String,
    /// Its first descriptor.
    pub index: u32,
    /// Its descriptors, the last one first.
    pub descs: Vec<VirtioRingDesc>,
    /// The driver area.
    pub avail: VirtioRingAvail,
    /// The device area.
    pub used: VirtioRingUsed,
}

/// Tells what an element of a queue consists of.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-query-virtio-queue-element", returns = VirtioQueueElement, unstable)]
pub struct XQueryVirtioQueueElement {
    /// The device's path in the object tree.
    pub path: String,
    /// The number of the queue.
    pub queue: u16,
    /// The entry of the driver area; the next one that the device takes unless given.
    pub index: Option<u16>,
}
