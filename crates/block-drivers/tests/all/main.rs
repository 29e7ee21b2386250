//! What needs several drivers.

mod chain;
mod common;
mod guess;
mod overlaps;
