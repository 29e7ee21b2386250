//! Sockets on which viewers of a guest's screen come in: TCP and Unix sockets that wait, or that somebody else has
//! connected, as streams of a tokio runtime. The servers for VNC and SPICE stand on it.

#![forbid(unsafe_code)]

mod address;
mod listener;

use tokio::io::{AsyncRead, AsyncWrite};

pub use address::{Address, Ends, ListenAddress, OwnedFdEq};
pub use listener::{Bound, Listener, adopt, connect, listen};

/// What a connection is made of.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Any connection.
pub type Stream = Box<dyn Io>;

/// What a command or an option asks for can't be had; the text is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Error {
    /// An error that says this.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// The host's words for an error, without the number that Rust adds.
pub fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
