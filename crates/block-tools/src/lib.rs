//! Operations on whole images, for the image tools, block jobs and QMP: they report progress, can be cancelled, and
//! print nothing.
//!
//! - [`status`]: what a chain of images knows of a range.
//! - [`create`]: makes images, with their protocol file and backing.
//! - [`copy`]: copies images, sparsely, with several requests in flight.
//! - [`compare`], [`commit`], [`rebase`].
//! - [`info`]: describes an image as `ImageInfo`.
//! - [`parallel`]: several futures of one task.
//! - [`open`]: opens an image the way tools do; [`arguments`], [`keyval`], [`secret`], [`size`]: what command lines are
//!   made of.
//! - [`json`]: JSON with the layout and the order of keys that QEMU's tools print.

#![forbid(unsafe_code)]

pub mod arguments;
pub mod commit;
pub mod compare;
pub mod copy;
pub mod create;
pub mod info;
pub mod json;
pub mod keyval;
pub mod open;
pub mod parallel;
pub mod progress;
pub mod rebase;
pub mod secret;
pub mod size;
pub mod status;

pub use progress::{Progress, Silent};
