//! LUKS version 1 (LUKS On-Disk Format Specification 1.2.3): header, key slots, sector ciphers, and the driver `luks`.
//!
//! [`header`] reads and writes volume headers, [`cipher`] encrypts sectors, [`volume`] is a header in a file; other formats
//! that keep a LUKS header inside (qcow2) use them. Left out: LUKS 2, CAST5, and plain dm-crypt volumes.

#![forbid(unsafe_code)]

pub mod cipher;
mod driver;
pub mod hash;
pub mod header;
pub mod volume;

pub use driver::LuksType;

/// The drivers of this crate.
pub fn drivers() -> Vec<&'static dyn block::DriverType> {
    vec![&LuksType]
}
