//! A SPICE server (`spice_protocol.txt`, version 2.2, of the protocol's authors) over TCP and Unix sockets, in the clear or
//! inside of TLS: the channels main, display, inputs and cursor.
//!
//! A [`Service`] has one thread, on which all sockets are; pictures are made on a few others. A client opens a connection
//! for each channel; those of a session go together, and a new session ends the one before. Each display channel has a
//! reader of its screen's damage, and gets the next strips of the picture when it has taken and acknowledged those before,
//! so that a slow client neither slows the guest nor has more than one strip in memory.
//!
//! Left out, and not offered to clients: sound, the agent in the guest (clipboards, files), USB and smart cards, videos,
//! images that lose details or refer to earlier ones, SASL.

#![forbid(unsafe_code)]

mod channel;
mod client;
mod display;
mod handshake;
pub mod image;
mod inputs;
pub mod keyboard;
pub mod link;
mod main_channel;
pub mod message;
mod pointer;
mod server;
mod service;
pub mod ticket;
pub mod wire;

pub use client::{ChannelInfo, ClientInfo};
pub use image::Compression;
pub use link::ChannelKind;
pub use listen::{Address, Ends, Error, ListenAddress};
pub use main_channel::Destination;
pub use message::MouseMode;
pub use server::{Connected, Entry, Options, Seat, Security, Server};
pub use service::{Event, Host, Service};

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
