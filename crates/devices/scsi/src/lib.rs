//! SCSI: what disks and CD drives answer to commands, whatever carries these (virtio, USB, ATAPI).
//!
//! A [`LogicalUnit`] executes commands (SPC-3, SBC-3 and MMC-5, as far as QEMU's `scsi-hd` and `scsi-cd` do) on a
//! [`device::disk::Disk`]; it works without a bus, as behind a USB bridge. A [`ScsiBus`] gives units addresses, answers for
//! targets, and does task management. The layouts of [`mmc`] are those of ATAPI drives, too.
//!
//! ```text
//!  host adapter (virtio-scsi, usb-storage)
//!    │ submit(Command, done)                       ▲ Completion: status, sense data, bytes moved
//!  ScsiBus ── target, LUN ── LogicalUnit ──────────┘
//!                              │ DiskRequest       ▲ DiskDone, on any thread
//!                            device::disk::Disk ───┘
//! ```
//!
//! Lock order: host adapter → bus → unit. Units call nobody with their lock held but [`device::disk::Disk`].

#![forbid(unsafe_code)]

pub mod bus;
pub mod cdb;
pub mod mmc;
pub mod sense;
mod unit;

pub use bus::{BusError, BusLimits, ScsiAddress, ScsiBus, Submitted};
pub use cdb::{Cdb, Direction, Transfer};
pub use sense::Sense;
pub use unit::options::{Geometry, UnitKind, UnitOptions};
pub use unit::{Cancel, Command, CommandDone, Completion, Ending, LogicalUnit, Status};
