//! Why a machine can't be built.

use std::io;

use memory::{MapError, RamError};

use crate::boot::BootError;

/// Why a machine can't be built.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Guest memory.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The memory map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The kernel.
    #[error("could not load kernel '{path}': {source}")]
    Boot {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: BootError,
    },
    /// A character device that a device needs.
    #[error(transparent)]
    Chardev(#[from] chardev::Error),
    /// A device of the command line.
    #[error("{option}: {message}")]
    Device {
        /// Where it was asked for.
        option: String,
        /// Why it can't be.
        message: String,
    },
    /// PCI slots.
    #[error(transparent)]
    Pci(#[from] devices_pci::AttachError),
    /// fw_cfg's files.
    #[error(transparent)]
    FwCfg(#[from] devices_isa::fw_cfg::FileError),
    /// The object tree.
    #[error(transparent)]
    Object(#[from] object::ObjectError),
    /// The thread that runs timers.
    #[error("the host refuses a thread for timers: {0}")]
    Timers(#[source] io::Error),
    /// The accelerator.
    #[error(transparent)]
    Accelerator(#[from] accel::AccelError),
    /// A vCPU thread.
    #[error("the host refuses a vCPU thread: {0}")]
    Thread(#[source] io::Error),
    /// System-management mode was asked for.
    #[error("System Management Mode not supported by this hypervisor.")]
    NoSmm,
    /// Memory objects.
    #[error("{0}")]
    Memory(String),
    /// NUMA nodes.
    #[error("{0}")]
    Numa(String),
    /// Too little RAM for the tables and the boot structures.
    #[error("the machine needs at least 1 MiB of RAM")]
    RamTooSmall,
}
