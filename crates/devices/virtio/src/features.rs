//! Feature bits that are not a device type's own (virtio 1.2, chapter 6, and the legacy ones of 6.3).

/// Legacy: an interrupt when the device has used all buffers, whatever the driver suppresses.
pub const NOTIFY_ON_EMPTY: u64 = 1 << 24;
/// Legacy: buffers may be laid out as the driver likes. Always so with [`VERSION_1`].
pub const ANY_LAYOUT: u64 = 1 << 27;
/// Descriptors may point to tables of descriptors.
pub const INDIRECT: u64 = 1 << 28;
/// Notifications and interrupts are suppressed by position.
pub const EVENT_IDX: u64 = 1 << 29;
/// Legacy: set by drivers that accept whatever is offered.
pub const BAD_FEATURE: u64 = 1 << 30;
/// The driver follows version 1 of the specification.
pub const VERSION_1: u64 = 1 << 32;
/// Queues have the packed layout.
pub const RING_PACKED: u64 = 1 << 34;
/// A queue can be reset alone.
pub const RING_RESET: u64 = 1 << 40;

/// What only the legacy interface shows.
pub const LEGACY_ONLY: u64 = NOTIFY_ON_EMPTY | ANY_LAYOUT | BAD_FEATURE;
