//! The protocol driver `vvfat`: a host directory as a disk with a FAT file system.
//!
//! The disk's tables and directories are generated when it is opened ([`volume`]); what files contain is read from the
//! host when the guest reads it. With `rw` the guest's writes go to a temporary file first. At each flush, when the file
//! system is consistent, the difference is carried out in the host directory ([`commit`]): files are written, renamed
//! and deleted, directories made and removed.
//!
//! Microsoft's "FAT: General Overview of On-Disk Format" 1.03. Symbolic links and special files of the host are left
//! out; a guest can't name anything outside of the directory.
//!
//! Options: `dir`, `fat-type` (12, 16, 32; default 16, 12 for a floppy), `floppy`, `label`, `rw`; or the name
//! `fat:[12:|16:|32:][floppy:][ro:|rw:]DIRECTORY`.

#![forbid(unsafe_code)]

mod commit;
mod directory;
mod driver;
mod layout;
mod volume;

pub use driver::VvfatType;

/// The drivers of this crate.
pub fn drivers() -> Vec<&'static dyn block::DriverType> {
    vec![&VvfatType]
}
