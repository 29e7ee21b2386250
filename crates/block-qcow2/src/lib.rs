//! The image format qcow2, versions 2 and 3, as `docs/interop/qcow2.txt` of QEMU's repository specifies it.
//!
//! What is where:
//! - [`header`]: header and extensions; [`entry`]: table entries; [`map`]: L1 table and cached L2 slices; [`refcount`]:
//!   counts and allocation; [`image`]: the open image and its locks.
//! - [`flush`]: the order in which metadata reaches the disk; [`overlap`]: no write ever hits metadata.
//! - [`read`], [`write`], [`zero`], [`compress`], [`truncate`]: requests. [`snapshot`], [`bitmap`], [`check`], [`amend`],
//!   [`create`]: the rest.
//!
//! [`crypt`] is encryption.

#![forbid(unsafe_code)]

mod amend;
mod bitmap;
mod check;
mod compress;
mod create;
mod crypt;
mod driver;
mod entry;
mod flush;
mod header;
mod image;
mod map;
mod open;
mod overlap;
mod read;
mod refcount;
mod runtime;
mod snapshot;
mod truncate;
mod vmstate;
mod write;
mod zero;

use std::sync::Arc;

use block::create::{CreateOption, CreateRequest, Measure, MeasureRequest};
use block::{Driver, DriverKind, DriverType, IoFuture, OpenRequest};

pub use driver::Qcow2;

/// The driver `qcow2`.
pub struct Qcow2Type;

/// The drivers of this crate.
pub fn drivers() -> Vec<&'static dyn DriverType> {
    vec![&Qcow2Type]
}

impl DriverType for Qcow2Type {
    fn name(&self) -> &'static str {
        "qcow2"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn mutable_options(&self) -> &'static [&'static str] {
        runtime::OPTIONS
    }

    fn probe(&self, head: &[u8], _filename: &str) -> u32 {
        if header::be32(head, 0) == header::MAGIC && header::be32(head, 4) >= 2 { 100 } else { 0 }
    }

    fn supports_backing(&self) -> bool {
        true
    }

    fn open(&self, request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move { Ok(Arc::new(open::open(request).await?) as Arc<dyn Driver>) })
    }

    fn create_options(&self) -> &'static [CreateOption] {
        create::OPTIONS
    }

    fn amend_options(&self) -> &'static [CreateOption] {
        create::AMEND_OPTIONS
    }

    fn create(&self, request: CreateRequest) -> IoFuture<'static> {
        Box::pin(create::create(request))
    }

    fn measure(&self, request: MeasureRequest) -> IoFuture<'static, Measure> {
        Box::pin(create::measure(request))
    }
}
