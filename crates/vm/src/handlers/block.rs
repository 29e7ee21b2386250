//! The block layer: nodes, media, throttling, statistics, jobs, objects.

mod info;
mod jobs;
mod medium;
mod nodes;
mod objects;

use super::Table;

/// The commands and events of this subject.
pub fn register(table: &mut Table) {
    nodes::register(table);
    info::register(table);
    medium::register(table);
    jobs::register(table);
    objects::register(table);
}
