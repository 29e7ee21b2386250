//! `query-blockstats` and latency histograms.

use std::sync::Arc;

use block::stats::{Histogram, Kind, Latency};
use block::{Backend, DriverKind, Node, Role};
use block_jobs::chain::below;
use qapi::Error;
use qapi::block::image::{BlockStatsSpecific, BlockStatsSpecificFile};
use qapi::block::stats::{
    BlockDeviceStats, BlockDeviceTimedStats, BlockLatencyHistogramInfo, BlockLatencyHistogramSet, BlockStats,
};

use super::Storage;
use super::info::{device_name, explicit};

impl Storage {
    /// Statistics of the back ends, each with those of its nodes.
    pub fn backend_stats(&self) -> Vec<BlockStats> {
        let stats = |backend: &Arc<Backend>| BlockStats {
            device: Some(backend.name().to_owned()),
            qdev: device_name(backend),
            ..with_counters(backend, backend.node().map_or_else(empty, |node| of_node(&node, true)))
        };
        self.visible_backends().iter().map(stats).collect()
    }

    /// Statistics of the nodes, the oldest first.
    pub fn node_stats(&self) -> Vec<BlockStats> {
        self.graph.nodes().iter().map(|node| of_node(node, false)).collect()
    }

    /// `block-latency-histogram-set`.
    ///
    /// # Errors
    /// There is no such device, or bounds do not ascend.
    pub fn set_histograms(&self, command: BlockLatencyHistogramSet) -> Result<(), Error> {
        let backend = self.backend_of_device(&command.id)?;
        let kinds = [
            (Kind::Read, "read", command.boundaries_read),
            (Kind::Write, "write", command.boundaries_write),
            (Kind::Flush, "flush", command.boundaries_flush),
        ];
        let clears = command.boundaries.is_none() && kinds.iter().all(|(_, _, own)| own.is_none());
        for (kind, name, own) in kinds {
            let Some(boundaries) = own.or_else(|| command.boundaries.clone()) else {
                if clears {
                    backend.stats.set_histogram(kind, None);
                }
                continue;
            };
            let histogram = Histogram::new(boundaries)
                .ok_or_else(|| Error::generic(format!("Device '{}' set {name} boundaries fail", command.id)))?;
            backend.stats.set_histogram(kind, Some(histogram));
        }
        Ok(())
    }
}

fn empty() -> BlockStats {
    BlockStats {
        device: None,
        qdev: None,
        node_name: None,
        stats: BlockDeviceStats::default(),
        driver_specific: None,
        parent: None,
        backing: None,
    }
}

/// A node's own statistics: there is little, since devices count their requests at the back end.
fn of_node(node: &Arc<Node>, of_backend: bool) -> BlockStats {
    // What jobs have put in is told of nodes only.
    let node = &if of_backend { explicit(Arc::clone(node)) } else { Arc::clone(node) };
    let stats =
        BlockDeviceStats { wr_highest_offset: node.highest_write().cast_signed(), ..BlockDeviceStats::default() };
    let parent = data_child(node).map(|node| Box::new(of_node(&node, of_backend)));
    let backing = below(node).filter(|_| of_backend).map(|node| Box::new(of_node(&node, of_backend)));
    let driver_specific = specific(node);
    BlockStats { node_name: Some(node.name().to_owned()), stats, driver_specific, parent, backing, ..empty() }
}

/// What only some drivers count.
fn specific(node: &Node) -> Option<BlockStatsSpecific> {
    let discards = node.driver().discards()?;
    let file = BlockStatsSpecificFile {
        discard_nb_ok: discards.done,
        discard_nb_failed: discards.failed,
        discard_bytes_ok: discards.bytes,
    };
    match node.driver_type().name() {
        "file" => Some(BlockStatsSpecific::File(file)),
        "host_device" => Some(BlockStatsSpecific::HostDevice(file)),
        _ => None,
    }
}

/// The node that a node's data is in: its main child, or the only one with data.
fn data_child(node: &Arc<Node>) -> Option<Arc<Node>> {
    let children = node.driver().children();
    let holds_data = |role: Role| matches!(role, Role::Storage | Role::PlainStorage | Role::Data | Role::Filtered);
    if node.driver_type().kind() == DriverKind::Filter {
        return children.first().map(|child| child.node());
    }
    // With a data file of its own, the image itself holds metadata only.
    if let Some(data) = children.iter().find(|child| child.role() == Role::Data && child.name() == "data-file") {
        return Some(data.node());
    }
    let mut data = children.iter().filter(|child| holds_data(child.role()));
    match (data.next(), data.next()) {
        (Some(first), None) => Some(first.node()),
        (Some(first), Some(_)) if first.name() == "file" => Some(first.node()),
        _ => None,
    }
}

fn with_counters(backend: &Backend, stats: BlockStats) -> BlockStats {
    let counted = &backend.stats;
    let [read, write, flush, unmap] =
        [Kind::Read, Kind::Write, Kind::Flush, Kind::Unmap].map(|kind| counted.counters(kind));
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let histogram = |histogram: Option<Histogram>| {
        histogram.map(|one| BlockLatencyHistogramInfo { boundaries: one.boundaries, bins: one.bins })
    };
    let counters = BlockDeviceStats {
        rd_bytes: signed(read.bytes),
        wr_bytes: signed(write.bytes),
        unmap_bytes: signed(unmap.bytes),
        rd_operations: signed(read.operations),
        wr_operations: signed(write.operations),
        flush_operations: signed(flush.operations),
        unmap_operations: signed(unmap.operations),
        rd_total_time_ns: signed(read.total_time_ns),
        wr_total_time_ns: signed(write.total_time_ns),
        flush_total_time_ns: signed(flush.total_time_ns),
        unmap_total_time_ns: signed(unmap.total_time_ns),
        wr_highest_offset: stats.stats.wr_highest_offset,
        rd_merged: signed(read.merged),
        wr_merged: signed(write.merged),
        unmap_merged: signed(unmap.merged),
        idle_time_ns: counted.idle_time_ns().map(signed),
        failed_rd_operations: signed(read.failed),
        failed_wr_operations: signed(write.failed),
        failed_flush_operations: signed(flush.failed),
        failed_unmap_operations: signed(unmap.failed),
        invalid_rd_operations: signed(read.invalid),
        invalid_wr_operations: signed(write.invalid),
        invalid_flush_operations: signed(flush.invalid),
        invalid_unmap_operations: signed(unmap.invalid),
        account_invalid: counted.accounts_invalid(),
        account_failed: counted.accounts_failed(),
        timed_stats: counted.intervals().into_iter().map(timed).collect(),
        rd_latency_histogram: histogram(read.histogram),
        wr_latency_histogram: histogram(write.histogram),
        flush_latency_histogram: histogram(flush.histogram),
    };
    BlockStats { stats: counters, ..stats }
}

fn timed((seconds, [read, write, flush]): (u64, [Latency; 3])) -> BlockDeviceTimedStats {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let depth = |latency: &Latency| latency.queue_depth_milli as f64 / 1000.0;
    BlockDeviceTimedStats {
        interval_length: signed(seconds),
        min_rd_latency_ns: signed(read.min),
        max_rd_latency_ns: signed(read.max),
        avg_rd_latency_ns: signed(read.avg),
        min_wr_latency_ns: signed(write.min),
        max_wr_latency_ns: signed(write.max),
        avg_wr_latency_ns: signed(write.avg),
        min_flush_latency_ns: signed(flush.min),
        max_flush_latency_ns: signed(flush.max),
        avg_flush_latency_ns: signed(flush.avg),
        avg_rd_queue_depth: depth(&read),
        avg_wr_queue_depth: depth(&write),
    }
}
