//! Graphics cards: the standard VGA with Bochs' display interface, the Bochs display without the VGA part, and virtio
//! cards with and without a VGA.
//!
//! Cards draw when a [`display::Console`] asks them to, from a copy of their registers, so that the guest does not wait.

#![forbid(unsafe_code)]

pub mod bochs;
pub mod card;
mod dispi;
pub mod edid;
pub mod gpu;
#[cfg(test)]
mod tests;
pub mod vga;

pub use bochs::BochsDisplay;
pub use card::{CardOptions, Legacy, VgaCard};
pub use gpu::{Gpu, GpuOptions};
