//! What servers for viewers of a guest's screen have in common: their thread ([`Worker`]); TCP and Unix sockets that wait
//! ([`Listening`]), or that somebody else has connected, as streams of its runtime; passwords that end; how often a screen
//! is looked at ([`Pace`]). The servers for VNC and SPICE stand on it.

#![forbid(unsafe_code)]

mod address;
mod listener;
mod listening;
mod pace;
mod password;
mod worker;

use tokio::io::{AsyncRead, AsyncWrite};

pub use address::{Address, Ends, ListenAddress, OwnedFdEq};
pub use listener::{adopt, connect};
pub use listening::Listening;
pub use pace::Pace;
pub use password::{Password, is_same};
pub use worker::Worker;

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
