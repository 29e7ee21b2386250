//! The commands of `qemu-io`: reads, writes and looks at an image, one line a command. The program `ouzel-io` runs
//! them on images, the human monitor's `qemu-io` on a node that a machine uses.
//!
//! Commands, options and what they print are those of `qemu-io` 7.2, because test suites compare the text. Asynchronous
//! requests live in a set that runs whenever a command waits for something.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod format;
mod requests;
mod session;

pub use commands::COMMANDS;
pub use session::{OpenMode, Output, Session};
