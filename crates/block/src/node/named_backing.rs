//! The name of the node that was opened for what an image says of its backing.
//!
//! An image may write the name in its own way, as `file:base.img`. Only the node that was opened for it knows what that
//! means; after a change of what the image says nobody knows.

use std::sync::{Mutex, PoisonError};

use super::Node;
use crate::error::Result;
use crate::image::ImageBacking;

/// What is known.
#[derive(Default)]
pub enum NamedBacking {
    /// Nothing.
    #[default]
    Unknown,
    /// The next backing is the one that the image names.
    Expected,
    /// The name of that one when it was opened.
    Opened(String),
}

impl Node {
    fn with_named_backing<R>(&self, visit: impl FnOnce(&mut NamedBacking) -> R) -> R {
        let named: &Mutex<NamedBacking> = &self.named_backing;
        visit(&mut named.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The backing that is attached next is opened for what the image says, and nothing else.
    pub(crate) fn expect_named_backing(&self) {
        self.with_named_backing(|named| *named = NamedBacking::Expected);
    }

    /// A backing was opened.
    pub(crate) fn note_backing(&self, name: impl FnOnce() -> String) {
        self.with_named_backing(|named| {
            if matches!(named, NamedBacking::Expected) {
                *named = NamedBacking::Opened(name());
            }
        });
    }

    /// The name that the node had which was opened for what the image says.
    pub(crate) fn named_backing(&self) -> Option<String> {
        self.with_named_backing(|named| match named {
            NamedBacking::Opened(name) => Some(name.clone()),
            _ => None,
        })
    }

    /// Changes what the image says of its backing, and nothing else.
    ///
    /// # Errors
    /// The driver's.
    pub async fn change_backing(&self, backing: Option<ImageBacking>) -> Result<()> {
        self.driver().change_backing(backing).await?;
        self.with_named_backing(|named| *named = NamedBacking::Unknown);
        Ok(())
    }
}
