//! Drivers over other nodes: what they filter, break, compare or replicate.

#![forbid(unsafe_code)]

pub mod blkdebug;
pub mod blkverify;
pub mod compress;
pub mod copy_on_read;
pub mod quorum;
pub mod throttle;

use block::DriverType;

/// The drivers of this crate.
pub fn drivers() -> Vec<&'static dyn DriverType> {
    vec![
        &blkdebug::BlkdebugType,
        &blkverify::BlkverifyType,
        &compress::CompressType,
        &copy_on_read::CopyOnReadType,
        &quorum::QuorumType,
        &throttle::ThrottleType,
    ]
}

/// The block status of a filter: all of it is in the child at the same offset.
fn pass_status<'a>(offset: u64, len: u64) -> block::IoFuture<'a, block::BlockStatus> {
    block::done(block::BlockStatus { recurse: true, ..block::BlockStatus::data(len, Some(offset)) })
}
