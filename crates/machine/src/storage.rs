//! How devices get their disks: the machine asks whoever owns the block layer.

use std::sync::Arc;

use device::disk::Disk;

use crate::config::DiskUse;

/// A device that wants its disk.
#[derive(Clone, Debug)]
pub struct DiskRequestor<'a> {
    /// The device's id.
    pub id: Option<&'a str>,
    /// Its place in the object tree; that of its part with the disk, where QEMU has two objects.
    pub path: &'a str,
    /// The type that errors name.
    pub type_name: &'a str,
    /// Which disk, and how it is used.
    pub wish: &'a DiskUse,
}

/// Gives a device its disk, or says why not. The text is a whole message.
pub type Disks<'a> = dyn Fn(&DiskRequestor<'_>) -> Result<Arc<dyn Disk>, String> + 'a;

/// What an unknown drive leads to.
pub fn unknown_drive(requestor: &DiskRequestor<'_>) -> String {
    format!("Property '{}.drive' can't find value '{}'", requestor.type_name, requestor.wish.drive)
}
