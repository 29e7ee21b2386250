//! The formats against `qemu-img` and `qemu-io`, against models, and against broken images.

mod malformed;
mod matrix;
mod models;
mod patches;
mod samples;
mod sesparse;
mod support;
