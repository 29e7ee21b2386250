//! Screens and input: what graphics cards, keyboards and mice share with those who show and drive them.
//!
//! A [`Console`] is a head of a graphics card. Nobody is told when the guest draws: whoever wants to see the screen asks
//! for it ([`Console::refresh`]), the card renders the frame, and what differs from the frame before goes into the damage
//! record of each [`Reader`]. A slow reader thus never slows the guest, and its damage stays bounded. The [`input::Hub`]
//! takes keys and movements from any number of sources and passes them to the device that is active.
//!
//! This crate knows no device, no protocol and no guest memory.

#![forbid(unsafe_code)]

mod console;
mod damage;
pub mod image;
pub mod input;
pub mod keys;
mod surface;
pub mod terminal;
pub mod text;

pub use console::{Console, Cursor, CursorShape, KeyPress, Origin, Reader, Screen, Typing};
pub use damage::Rectangle;
pub use surface::{PixelFormat, Surface};
