//! Exports: nodes of the block graph that others use.
//!
//! - [`nbd`]: the server of the Network Block Device protocol.
//! - [`fuse`]: nodes as files of the host.
//! - [`listen`]: the sockets that clients connect to.
//!
//! Nothing here knows QMP. Exports over vhost-user are the crate `vhost-user`'s.

#![forbid(unsafe_code)]

mod buffers;
pub mod fuse;
pub mod listen;
pub mod nbd;

pub use listen::{Address, Listener};
