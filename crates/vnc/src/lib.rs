//! A VNC server: the Remote Framebuffer Protocol (RFC 6143) with the extensions that viewers of today use (the
//! community's `rfbproto`), over TCP, Unix sockets and WebSockets, in the clear or inside of TLS.
//!
//! A [`Service`] has one thread, on which all sockets are; pictures are encoded on a few others. A [`Display`] is what
//! one `-vnc` option asks for: listeners, a password, and the [`Seat`] that its clients look at. Each client has a reader
//! of the screen's damage and gets the next picture when it has taken the one before, so that a slow client neither slows
//! the guest nor other clients, and never has more than one picture in memory.
//!
//! Left out: encodings that nobody prefers (RRE, CoRRE, ZYWRLE, tight with PNG), audio, clipboards (no guest takes one),
//! and anonymous TLS, which rustls refuses.

#![forbid(unsafe_code)]

mod channel;
mod client;
mod display;
pub mod encode;
pub mod format;
mod handshake;
pub mod keyboard;
pub mod message;
mod painter;
mod sasl;
mod service;
mod session;

pub use client::ClientInfo;
pub use display::{Auth, Display, Options, Seat, SecuritySub, ServerInfo, SharePolicy};
pub use listen::{Address, Error, ListenAddress, OwnedFdEq};
pub use service::{Event, Host, PowerAction, Service};

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
