//! `cargo xtask demo`.

use crate::run::Outcome;

/// Sets up, builds, boots a guest and shows a short session.
pub fn run() -> Outcome {
    Err("the demo needs the emulator".into())
}
