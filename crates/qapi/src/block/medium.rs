//! Trays and media, and the older commands for them.

use crate::{Command, QapiType};

/// Opens a device's tray and takes the medium out.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "eject", preconfig)]
pub struct Eject {
    /// The back end.
    #[qapi(deprecated)]
    pub device: Option<String>,
    /// The device.
    pub id: Option<String>,
    /// Whether a lock of the guest is overridden; off if absent.
    pub force: Option<bool>,
}

/// Opens a device's tray. If the guest has locked it, the guest is asked to open it.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "blockdev-open-tray", preconfig)]
pub struct BlockdevOpenTray {
    /// The back end.
    #[qapi(deprecated)]
    pub device: Option<String>,
    /// The device.
    pub id: Option<String>,
    /// Whether a lock of the guest is overridden; off if absent.
    pub force: Option<bool>,
}

/// Closes a device's tray.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "blockdev-close-tray", preconfig)]
pub struct BlockdevCloseTray {
    /// The back end.
    #[qapi(deprecated)]
    pub device: Option<String>,
    /// The device.
    pub id: Option<String>,
}

/// Takes the medium out of a device whose tray is open.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "blockdev-remove-medium", preconfig)]
pub struct BlockdevRemoveMedium {
    /// The device.
    pub id: String,
}

/// The older name of `blockdev-remove-medium`.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-blockdev-remove-medium", preconfig, legacy, unstable)]
pub struct XBlockdevRemoveMedium {
    /// The back end.
    pub device: Option<String>,
    /// The device.
    pub id: Option<String>,
}

/// Puts a node as a medium into a device whose tray is open and empty.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "blockdev-insert-medium", preconfig)]
pub struct BlockdevInsertMedium {
    /// The device.
    pub id: String,
    /// The node.
    pub node_name: String,
}

/// The older name of `blockdev-insert-medium`.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-blockdev-insert-medium", preconfig, legacy, unstable)]
pub struct XBlockdevInsertMedium {
    /// The back end.
    pub device: Option<String>,
    /// The device.
    pub id: Option<String>,
    /// The node.
    pub node_name: String,
}

/// Whether a new medium is read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum BlockdevChangeReadOnlyMode {
    /// If the old one was.
    Retain,
    /// Yes.
    ReadOnly,
    /// No.
    ReadWrite,
}

/// Puts a file as the new medium into a device: opens the tray, exchanges the medium, closes the tray.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "blockdev-change-medium", preconfig)]
pub struct BlockdevChangeMedium {
    /// The back end.
    #[qapi(deprecated)]
    pub device: Option<String>,
    /// The device.
    pub id: Option<String>,
    /// The file.
    pub filename: String,
    /// The format; probed if absent.
    pub format: Option<String>,
    /// Whether a lock of the guest is overridden; off if absent.
    pub force: Option<bool>,
    /// Whether it is read-only; as the old medium if absent.
    pub read_only_mode: Option<BlockdevChangeReadOnlyMode>,
}

/// Changes the medium of a block back end, or the password of the VNC server.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "change", legacy)]
pub struct Change {
    /// The back end, or `vnc`.
    pub device: String,
    /// The file, or `password`.
    pub target: String,
    /// The format, or the password.
    pub arg: Option<String>,
}

/// Sets the password of an encrypted image. No version of this era can do it any more.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block_passwd", legacy)]
pub struct BlockPasswd {
    /// The back end.
    pub device: Option<String>,
    /// The node.
    pub node_name: Option<String>,
    /// The password.
    pub password: String,
}
