//! The block layer: nodes, images, back ends, media, throttling, jobs (QEMU's `block-core.json`, `block.json`,
//! `job.json`, parts of `crypto.json` and `qom.json`).
//!
//! Today's spellings and those of the documents of 2.7 and 2.8 are both accepted; the schema shows today's. Drivers
//! and members that this program does not have are not declared.

pub mod amend;
pub mod bitmaps;
pub mod blkdebug;
pub mod block_job;
pub mod common;
pub mod create;
pub mod crypto;
pub mod events;
pub mod export;
pub mod image;
pub mod info;
pub mod job;
pub mod medium;
pub mod nodes;
pub mod options;
pub mod protocols;
pub mod qcow2;
pub mod snapshots;
pub mod stats;
pub mod throttle;
pub mod transaction;
