//! The server of the Network Block Device protocol (`doc/proto.md` of the NBD project), as QEMU's behaves.
//!
//! Fixed newstyle with structured replies, metadata contexts, TLS with certificates. A [`Server`] knows the [`Export`]s by
//! name and negotiates with clients; a client that has chosen goes to the reactor of its export, where its requests run
//! and its replies are sent, in the order in which they are done. Left out: extended headers, TLS with pre-shared keys.
//!
//! What a client may cost is bounded: the time of its handshake, the length of its options, its requests in flight and
//! their bytes. Who does not read replies holds up only itself.

mod export;
mod handshake;
mod outgoing;
mod server;
mod status;
mod transmission;

pub use export::{BitmapRef, Export, ExportOptions};
pub use server::{HANDSHAKE_LIMIT, MAX_CONNECTIONS, Server, ServerOptions};
