//! Character devices as their two sides see them.

mod flow;
mod options;
mod sockets;
mod support;
mod terminals;
