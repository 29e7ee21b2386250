//! Character devices: byte streams between the machine and the host.
//!
//! A *back end* is what the host side is: a socket, a terminal, a file, a pipe, a pseudo-terminal, a
//! ring buffer, a tablet, several other devices (a hub) or nothing. A *front end* is its user: a serial port or a monitor, which holds a
//! [`Chardev`] handle. Options and names are those of `-chardev` and of the one-string forms of
//! `-serial`, `-monitor` and `-qmp` (QEMU 7.2's manual, "Character device options").
//!
//! Threads: every back end is served by one task on the monitor thread's runtime, which also runs
//! the input, event and writable callbacks. [`Chardev::write`] may be called from any thread and
//! never blocks: it writes to the host at once what the host takes, keeps a bounded rest, and says
//! how much it took.
//!
//! On a socket telnet, web sockets (as a server) and TLS may be spoken ([`Protocol`]).
//!
//! Left out on purpose: `spice*`, `braille`, `testdev` and `parallel` back ends, TN3270 and lists of who may
//! come (`tls-authz`). Asking for one of them is an error that says so.

#![forbid(unsafe_code)]

mod address;
mod backend;
mod error;
mod handle;
mod hub;
mod inherited;
mod legacy;
mod line;
mod mux;
mod options;
mod outbox;
mod port;
mod registry;
mod ring;
mod serve;
mod session;
mod slot;
mod socket;
mod stream;
mod tablet;
mod tap;
mod telnet;
mod terminal;
mod tls;
mod websocket;

pub use address::SocketAddress;
pub use backend::FindTls;
pub use error::Error;
pub use handle::Chardev;
pub use inherited::inherited_fd;
pub use legacy::{Legacy, parse_legacy};
pub use line::{LineParameters, Parity};
pub use options::{
    Backend, ChardevSpec, Common, Given, SocketOptions, UdpOptions, VcSize, alias_warning, backends, check_id,
    parse_option, ringbuf_size,
};
pub use outbox::Outbox;
pub use port::{Event, EventFn, InputFn, OUTPUT_LIMIT, WritableFn};
pub use registry::{ChardevInfo, Chardevs, Inner, InnerFn};
pub use session::Protocol;
pub use tablet::Tablet;
pub use tap::TapReader;
pub use tls::TlsConfig;
