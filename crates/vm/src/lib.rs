//! The control thread: sole owner of the machine and its run state; and the handlers of QMP commands.
//!
//! [`program::Program`] starts everything; [`control::Control`] is what the control thread owns; [`handlers`] are the
//! commands, one module a subject.

#![forbid(unsafe_code)]

pub mod config;
pub mod control;
mod cpu_log;
pub mod curses;
pub mod daemon;
pub mod gdb;
pub mod handlers;
pub mod hotplug;
pub mod human;
pub mod inbox;
pub mod log;
mod mouse;
pub mod numa;
mod pairs;
pub mod program;
pub mod qtest;
pub mod run_state;
pub mod snapshot;
pub mod spice;
pub mod storage;
pub mod terminals;
pub mod version;
mod viewers;
mod vnc;
pub mod web;

/// The host's words for an error, without the number that Rust adds.
pub fn host_error(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
