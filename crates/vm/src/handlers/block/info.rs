//! What there is, and what it has done.

use qapi::block::info::{QueryBlock, QueryNamedBlockNodes};
use qapi::block::stats::{BlockLatencyHistogramSet, QueryBlockstats};

use qmp::CommandTable;

use crate::storage::StorageOwner;

/// The commands of this subject.
pub fn register<C: StorageOwner, S: 'static>(table: &mut CommandTable<C, S>) {
    table.register::<QueryBlock>(|control, _, _| control.storage().backend_infos());
    table.register::<QueryNamedBlockNodes>(|control, _, command| {
        control.storage().node_infos(command.flat.unwrap_or(false))
    });
    table.register::<QueryBlockstats>(|control, _, command| {
        let storage = control.storage();
        Ok(if command.query_nodes.unwrap_or(false) { storage.node_stats() } else { storage.backend_stats() })
    });
    table.register::<BlockLatencyHistogramSet>(|control, _, command| control.storage().set_histograms(command));
}
