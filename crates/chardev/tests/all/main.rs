//! Character devices as their two sides see them.

mod flow;
mod hubs;
mod options;
mod peers;
mod sockets;
mod support;
mod terminals;
