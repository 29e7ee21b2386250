//! virtio 1.2: queues, the PCI transport, block devices, SCSI host adapters.

#![forbid(unsafe_code)]

pub mod blk;
pub mod device;
pub mod features;
pub mod pci;
pub mod queue;
pub mod scsi;

#[cfg(test)]
mod testing;
