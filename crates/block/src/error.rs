//! What goes wrong in the block layer: a number of the host's (`errno`) for guests and policies, a text for people.

use std::io;

/// A failed operation. The text says what failed and why, outermost first, as `Could not open 'x': Permission denied`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    errno: i32,
    message: String,
    hint: Option<Box<str>>,
}

/// The result of a block operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! kinds {
    ($($name:ident $errno:ident $doc:literal),* $(,)?) => {
        $(#[doc = $doc]
        pub fn $name(message: impl Into<String>) -> Self {
            Self { errno: rustix::io::Errno::$errno.raw_os_error(), message: message.into(), hint: None }
        })*
    };
}

impl Error {
    kinds! {
        invalid INVAL "A wrong argument, option or image.",
        unsupported NOTSUP "The driver can't do this.",
        io IO "An input/output error.",
        permission PERM "An access that the node's permissions or its read-only state forbid.",
        read_only ACCESS "A write to something that can't be written.",
        busy BUSY "Somebody else uses the node.",
        not_found NOENT "Something of that name does not exist.",
        exists EXIST "Something of that name exists already.",
        no_medium NOMEDIUM "There is no medium.",
        no_space NOSPC "The host or the image is full.",
        too_big FBIG "The image or a table of it would be too large.",
        cancelled CANCELED "The operation was cancelled.",
    }

    /// An error with the number `errno` and a text of one's own.
    pub fn new(errno: i32, message: impl Into<String>) -> Self {
        Self { errno, message: message.into(), hint: None }
    }

    /// The error of a system call.
    pub fn host(error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error());
        Self { errno, message: strerror(errno), hint: None }
    }

    /// An error with just the host's text for `errno`.
    pub fn errno_only(errno: i32) -> Self {
        Self { errno, message: strerror(errno), hint: None }
    }

    /// The same error with `context: ` before its text.
    #[must_use]
    pub fn context(mut self, context: impl std::fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// The same number with another text.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// The same error with a hint for people.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into().into());
        self
    }

    /// A line that tools print below the error; QMP does not carry it.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The host's error number, positive.
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// Whether the driver said that it can't do this, so that a fall-back may be tried.
    pub fn is_unsupported(&self) -> bool {
        self.errno == rustix::io::Errno::NOTSUP.raw_os_error()
    }

    /// Whether there was no space.
    pub fn is_no_space(&self) -> bool {
        self.errno == rustix::io::Errno::NOSPC.raw_os_error()
    }
}

/// The C library's text for an error number.
pub fn strerror(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    match text.rfind(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::host(&error)
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(error: rustix::io::Errno) -> Self {
        Self::errno_only(error.raw_os_error())
    }
}
