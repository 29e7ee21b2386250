//! Sessions as a client sees them. Expected texts are recorded from QEMU 7.2 (`qmp.md`).

mod client;
mod events;
mod fds;
mod hostile;
mod order;
mod protocol;
mod support;
