//! Storage controllers of a PC: ATA disks and ATAPI drives behind two transports, the PIIX3's IDE function and AHCI.
//!
//! A [`drive::Drive`] is the device end of the cable: task file, commands, data. It never touches a bus. What it wants
//! it says as a [`drive::Step`], and the transport ([`channel`] for parallel ATA, [`ahci`] for serial ATA) does it: it
//! raises interrupts, moves data blocks, gathers memory from descriptor tables, and hands requests to the disk, whose
//! completions come back on any thread and lock the controller.

#![forbid(unsafe_code)]

pub mod ahci;
pub mod atapi;
pub mod channel;
pub mod drive;
pub mod events;
pub mod fdc;
pub mod isa;
pub mod piix;
#[cfg(test)]
mod testing;
