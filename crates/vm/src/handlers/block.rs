//! The block layer: nodes, media, throttling, statistics, jobs, objects, bitmaps, snapshots.

mod bitmaps;
pub mod exports;
mod info;
mod jobs;
mod medium;
mod nodes;
mod objects;
mod snapshots;

use qmp::CommandTable;

use crate::storage::StorageOwner;

/// The commands and events of this subject.
pub fn register<C: StorageOwner, S: 'static>(table: &mut CommandTable<C, S>) {
    nodes::register(table);
    info::register(table);
    exports::register(table);
    medium::register(table);
    jobs::register(table);
    objects::register(table);
    bitmaps::register(table);
    snapshots::register(table);
}
