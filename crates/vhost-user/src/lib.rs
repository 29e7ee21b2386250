//! The back end of vhost-user (QEMU's `docs/interop/vhost-user.rst`): another program, the front end, has the guest and the
//! transport of a virtio device; this one does the device's work. Rings and buffers lie in memory that both map.
//!
//! - [`wire`]: messages as bytes.
//! - [`Device`]: a model of `devices_virtio`, its rings, the descriptors that are written when the driver is to know.
//! - [`Export`]: the socket that front ends come to, one after the other.
//!
//! A session is a task on the export's reactor, and so is what waits for a ring's notifications. Whatever a front end
//! says leads to an answer or to the end of its session: its tables are checked against its files, its rings by the
//! queue, and a file that shrinks later is the memory crate's matter. Left out: logs of written pages (for migration), an
//! IOMMU, rings without notifications, the record of requests in flight, the packed layout.

#![forbid(unsafe_code)]

mod device;
mod export;
mod memory_table;
mod session;
mod socket;
pub mod wire;

pub use device::Device;
pub use export::Export;
