//! Exports: nodes of the block graph that others use over a socket.
//!
//! - [`nbd`]: the server of the Network Block Device protocol.
//! - [`listen`]: the sockets that clients connect to.
//!
//! Nothing here knows QMP. Exports over vhost-user are the crate `vhost-user`'s. Left out: exports over FUSE.

#![forbid(unsafe_code)]

pub mod listen;
pub mod nbd;

pub use listen::{Address, Listener};
