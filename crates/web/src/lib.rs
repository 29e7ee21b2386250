//! The web console's server (`-web`): a small and strict HTTP/1.1 (RFC 9112) for a few embedded files, and WebSockets
//! (RFC 6455) to the guest's screen, to QMP monitors and to the guest's terminals.
//!
//! Who may come in: a browser exchanges a token, which is told at the start and good for one browser, for a session's
//! cookie. `Host` must be an address or a name that was allowed, which ends DNS rebinding; a WebSocket and whatever
//! changes something must come from this very origin. What is read before that is bounded in size and time.
//!
//! Threads: everything runs on the monitor thread's runtime. A screen's socket is handed to the VNC server. A slow
//! browser is waited for by nobody but its own connection.
//!
//! Left out: TLS (a tunnel of SSH or a proxy does it), requests with a body, chunked transfers, ranges.

#![forbid(unsafe_code)]

mod access;
mod connection;
mod files;
pub mod http;
mod options;
mod pages;
mod server;
mod socket;

pub use options::{Auth, Options};
pub use server::{Host, Line, Server};

/// Why the console can't be had; the text is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Error {
    /// Says why.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
