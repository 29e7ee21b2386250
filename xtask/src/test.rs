//! `cargo xtask test`.

use crate::layers;
use crate::run::Outcome;

/// Runs everything.
pub fn run() -> Outcome {
    layers::check()
}
