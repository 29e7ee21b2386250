//! A VNC server: the Remote Framebuffer Protocol (RFC 6143) with the extensions that viewers of today use (the
//! community's `rfbproto`), over TCP, Unix sockets and WebSockets, in the clear or inside of TLS.
//!
//! A [`Service`] has one thread, on which all sockets are; pictures are encoded on a few others. A [`Display`] is what
//! one `-vnc` option asks for: listeners, a password, and the [`Seat`] that its clients look at. Each client has a reader
//! of the screen's damage and gets the next picture when it has taken the one before, so that a slow client neither slows
//! the guest nor other clients, and never has more than one picture in memory.
//!
//! Left out: encodings that nobody prefers (RRE, CoRRE, ZYWRLE, tight with PNG), audio, clipboards (no guest takes one),
//! SASL, and anonymous TLS, which rustls refuses.

#![forbid(unsafe_code)]

mod address;
mod channel;
mod client;
mod display;
pub mod encode;
pub mod format;
mod handshake;
pub mod keyboard;
mod listener;
pub mod message;
mod painter;
mod service;
mod session;

pub use address::{Address, ListenAddress, OwnedFdEq};
pub use client::ClientInfo;
pub use display::{Auth, Display, Options, Seat, SecuritySub, ServerInfo, SharePolicy};
pub use service::{Event, Host, PowerAction, Service};

/// What a command or an option asks for can't be had; the text is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Error {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// The host's words for an error, without the number that Rust adds.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
