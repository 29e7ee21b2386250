//! File descriptors that a client passes over the monitor's socket (QEMU's `misc.json`).

use crate::{Command, QapiType};

/// Takes the descriptor that came with the command and keeps it under a name.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "getfd")]
pub struct Getfd {
    /// The name; a descriptor that already has it is closed.
    pub fdname: String,
}

/// Closes a descriptor that `getfd` has taken.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "closefd")]
pub struct Closefd {
    /// The name.
    pub fdname: String,
}

/// Where a descriptor went.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct AddfdInfo {
    /// The set.
    pub fdset_id: i64,
    /// The descriptor's number in this program.
    pub fd: i64,
}

/// Takes the descriptor that came with the command into a set, to be opened as `/dev/fdset/N`.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "add-fd", returns = AddfdInfo)]
pub struct AddFd {
    /// The set; a new one if absent.
    pub fdset_id: Option<i64>,
    /// Text for the client's own use.
    pub opaque: Option<String>,
}

/// Takes a descriptor out of a set.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "remove-fd")]
pub struct RemoveFd {
    /// The set.
    pub fdset_id: i64,
    /// The descriptor; all of the set if absent.
    pub fd: Option<i64>,
}

/// A descriptor in a set.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct FdsetFdInfo {
    /// Its number in this program.
    pub fd: i64,
    /// The client's text.
    pub opaque: Option<String>,
}

/// A set of descriptors.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct FdsetInfo {
    /// Its number.
    pub fdset_id: i64,
    /// Its descriptors.
    pub fds: Vec<FdsetFdInfo>,
}

/// Lists the sets of descriptors.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-fdsets", returns = Vec<FdsetInfo>)]
pub struct QueryFdsets;
