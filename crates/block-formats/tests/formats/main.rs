//! The formats against `qemu-img` and `qemu-io`, against models, and against broken images.

mod matrix;
mod models;
mod support;
