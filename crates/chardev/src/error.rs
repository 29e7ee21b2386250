//! What can go wrong with a character device.

use std::io;

/// The error of an operation on a character device. Texts are QEMU's where clients match on them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The options are wrong; the text names the option.
    #[error("{0}")]
    Options(String),
    /// A host resource could not be had: what was tried, and why it failed.
    #[error("{what}: {}", crate::error::strerror(.source))]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The id is taken.
    #[error("Chardev with id '{0}' already exists")]
    Duplicate(String),
    /// There is no such character device.
    #[error("Chardev '{0}' not found")]
    NotFound(String),
    /// Another front end has it.
    #[error("Device '{0}' is in use")]
    InUse(String),
    /// It cannot be removed, because a front end has it.
    #[error("Chardev '{0}' is busy")]
    Busy(String),
    /// There is no such character device, in the words of the ring buffer's commands.
    #[error("Device '{0}' not found")]
    NoDevice(String),
    /// Nothing can be changed, because there is no such device.
    #[error("Chardev '{0}' does not exist")]
    Missing(String),
    /// A shared device has no back end of its own that could be changed.
    #[error("Mux device hotswap not supported yet")]
    SharedChange,
    /// Nor has a hub.
    #[error("For mux or hub device hotswap is not supported yet")]
    HubChange,
    /// Only a ring buffer can do that.
    #[error("{0} is not a ringbuf device")]
    NotRingbuf(String),
}

impl Error {
    pub(crate) fn options(text: impl Into<String>) -> Self {
        Self::Options(text.into())
    }

    pub(crate) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }
}

/// The text of an I/O error as C's `strerror` gives it, without Rust's error number.
fn strerror(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(at) if error.raw_os_error().is_some() => text.get(..at).unwrap_or(&text).to_owned(),
        _ => text,
    }
}
