//! virtio 1.2: queues, the transports over PCI and MMIO (and in other programs), block devices, SCSI host adapters, serial
//! ports, random numbers, keyboards and pointers.

#![forbid(unsafe_code)]

pub mod blk;
pub mod device;
pub mod features;
pub mod input;
pub mod inspect;
pub mod mmio;
pub mod pci;
pub mod queue;
pub mod remote;
pub mod rng;
pub mod scsi;
pub mod serial;
mod transport;

#[cfg(test)]
mod testing;
