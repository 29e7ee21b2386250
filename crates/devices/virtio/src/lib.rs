//! virtio 1.2: queues, the PCI transport, block devices.

#![forbid(unsafe_code)]

pub mod blk;
pub mod device;
pub mod features;
pub mod pci;
pub mod queue;

#[cfg(test)]
mod testing;
