//! What bits of virtio devices are called, in QEMU's words and order.

/// A bit: its number and what it means.
pub type Bit = (u32, &'static str);

/// Device status, of which names are told in this order.
pub const STATUS: &[Bit] = &[
    (0, "VIRTIO_CONFIG_S_ACKNOWLEDGE: Valid virtio device found"),
    (7, "VIRTIO_CONFIG_S_FAILED: Error in guest, device failed"),
    (6, "VIRTIO_CONFIG_S_NEEDS_RESET: Irrecoverable error, device needs reset"),
    (1, "VIRTIO_CONFIG_S_DRIVER: Guest OS compatible with device"),
    (3, "VIRTIO_CONFIG_S_FEATURES_OK: Feature negotiation complete"),
    (2, "VIRTIO_CONFIG_S_DRIVER_OK: Driver setup and ready"),
];

/// Features of queues and transports.
pub const TRANSPORT: &[Bit] = &[
    (29, "VIRTIO_RING_F_EVENT_IDX: Used & avail. event fields enabled"),
    (28, "VIRTIO_RING_F_INDIRECT_DESC: Indirect descriptors supported"),
    (37, "VIRTIO_F_SR_IOV: Device supports single root I/O virtualization"),
    (36, "VIRTIO_F_ORDER_PLATFORM: Memory accesses ordered by platform"),
    (35, "VIRTIO_F_IN_ORDER: Device uses buffers in same order as made available by driver"),
    (34, "VIRTIO_F_RING_PACKED: Device supports packed VQ layout"),
    (33, "VIRTIO_F_IOMMU_PLATFORM: Device can be used on IOMMU platform"),
    (32, "VIRTIO_F_VERSION_1: Device compliant for v1 spec (legacy)"),
    (27, "VIRTIO_F_ANY_LAYOUT: Device accepts arbitrary desc. layouts"),
    (24, "VIRTIO_F_NOTIFY_ON_EMPTY: Notify when device runs out of avail. descs. on VQ"),
];

/// What QEMU takes these two bits for in devices whose work may be another program's: the second one is what shows drivers
/// of the legacy interface that accept all they see.
const VHOST: [Bit; 2] = [
    (30, "VHOST_USER_F_PROTOCOL_FEATURES: Vhost-user protocol features negotiation supported"),
    (26, "VHOST_F_LOG_ALL: Logging write descriptors supported"),
];

const BLK: &[Bit] = &[
    VHOST[0],
    VHOST[1],
    (11, "VIRTIO_BLK_F_CONFIG_WCE: Cache writeback and writethrough modes supported"),
    (9, "VIRTIO_BLK_F_FLUSH: Flush command supported"),
    (7, "VIRTIO_BLK_F_SCSI: SCSI packet commands supported"),
    (0, "VIRTIO_BLK_F_BARRIER: Request barriers supported"),
    (14, "VIRTIO_BLK_F_WRITE_ZEROES: Write zeroes command supported"),
    (13, "VIRTIO_BLK_F_DISCARD: Discard command supported"),
    (12, "VIRTIO_BLK_F_MQ: Multiqueue supported"),
    (10, "VIRTIO_BLK_F_TOPOLOGY: Topology information available"),
    (6, "VIRTIO_BLK_F_BLK_SIZE: Block size of disk available"),
    (5, "VIRTIO_BLK_F_RO: Device is read-only"),
    (4, "VIRTIO_BLK_F_GEOMETRY: Legacy geometry available"),
    (2, "VIRTIO_BLK_F_SEG_MAX: Max segments in a request is seg_max"),
    (1, "VIRTIO_BLK_F_SIZE_MAX: Max segment size is size_max"),
];

const SERIAL: &[Bit] = &[
    (2, "VIRTIO_CONSOLE_F_EMERG_WRITE: Emergency write supported"),
    (1, "VIRTIO_CONSOLE_F_MULTIPORT: Multiple ports for device supported"),
    (0, "VIRTIO_CONSOLE_F_SIZE: Host providing console size"),
];

const SCSI: &[Bit] = &[
    VHOST[0],
    VHOST[1],
    (3, "VIRTIO_SCSI_F_T10_PI: T10 info included in request header"),
    (2, "VIRTIO_SCSI_F_CHANGE: Reporting and handling LUN changes supported"),
    (1, "VIRTIO_SCSI_F_HOTPLUG: Reporting and handling hot-plug events supported"),
    (0, "VIRTIO_SCSI_F_INOUT: Requests including read and writable data buffers supported"),
];

const GPU: &[Bit] = &[
    VHOST[0],
    VHOST[1],
    (4, "VIRTIO_GPU_F_CONTEXT_INIT: Context types and synchronization timelines supported"),
    (3, "VIRTIO_GPU_F_RESOURCE_BLOB: Size-based blob resources supported"),
    (2, "VIRTIO_GPU_F_RESOURCE_UUID: Resource UUID assigning supported"),
    (1, "VIRTIO_GPU_F_EDID: EDID metadata supported"),
    (0, "VIRTIO_GPU_F_VIRGL: Virgl 3D mode supported"),
];

/// What a type of devices is called, and its features.
pub fn of_type(id: u16) -> (&'static str, &'static [Bit]) {
    match id {
        2 => ("virtio-blk", BLK),
        3 => ("virtio-serial", SERIAL),
        4 => ("virtio-rng", &VHOST),
        8 => ("virtio-scsi", SCSI),
        16 => ("virtio-gpu", GPU),
        18 => ("virtio-input", &VHOST),
        _ => ("virtio", &[]),
    }
}

/// The names of the bits that are set, and the bits that are left.
pub fn decode(bits: u64, names: &[Bit]) -> (Vec<String>, u64) {
    let set = names.iter().filter(|(bit, _)| bits >> bit & 1 == 1);
    let rest = set.clone().fold(bits, |rest, (bit, _)| rest & !(1 << bit));
    (set.map(|(_, name)| (*name).to_owned()).collect(), rest)
}
