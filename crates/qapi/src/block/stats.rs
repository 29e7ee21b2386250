//! `query-blockstats`, latency histograms and interval statistics.

use super::image::BlockStatsSpecific;
use crate::{Command, QapiType};

/// How many requests took how long.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockLatencyHistogramInfo {
    /// The bounds between the bins, in nanoseconds, ascending.
    pub boundaries: Vec<u64>,
    /// The number of requests in each bin: one more than bounds.
    pub bins: Vec<u64>,
}

/// Statistics of the latest interval.
#[derive(Debug, Clone, PartialEq, QapiType)]
#[qapi(name = "BlockDeviceTimedStats", snake)]
pub struct BlockDeviceTimedStats {
    /// The interval's length in seconds.
    pub interval_length: i64,
    /// The shortest read, in nanoseconds, as all latencies.
    pub min_rd_latency_ns: i64,
    /// The longest read.
    pub max_rd_latency_ns: i64,
    /// The mean of reads.
    pub avg_rd_latency_ns: i64,
    /// The shortest write.
    pub min_wr_latency_ns: i64,
    /// The longest write.
    pub max_wr_latency_ns: i64,
    /// The mean of writes.
    pub avg_wr_latency_ns: i64,
    /// The shortest flush.
    pub min_flush_latency_ns: i64,
    /// The longest flush.
    pub max_flush_latency_ns: i64,
    /// The mean of flushes.
    pub avg_flush_latency_ns: i64,
    /// How many reads were in flight, on average.
    pub avg_rd_queue_depth: f64,
    /// How many writes were in flight, on average.
    pub avg_wr_queue_depth: f64,
}

/// Statistics of a block back end.
#[derive(Debug, Clone, PartialEq, Default, QapiType)]
#[qapi(snake)]
pub struct BlockDeviceStats {
    /// Bytes read.
    pub rd_bytes: i64,
    /// Bytes written.
    pub wr_bytes: i64,
    /// Bytes discarded.
    pub unmap_bytes: i64,
    /// Reads.
    pub rd_operations: i64,
    /// Writes.
    pub wr_operations: i64,
    /// Flushes.
    pub flush_operations: i64,
    /// Discards.
    pub unmap_operations: i64,
    /// What reads took in total, in nanoseconds.
    pub rd_total_time_ns: i64,
    /// What writes took in total, in nanoseconds.
    pub wr_total_time_ns: i64,
    /// What flushes took in total, in nanoseconds.
    pub flush_total_time_ns: i64,
    /// What discards took in total, in nanoseconds.
    pub unmap_total_time_ns: i64,
    /// The end of the highest write, in bytes.
    pub wr_highest_offset: i64,
    /// Reads that were joined to others.
    pub rd_merged: i64,
    /// Writes that were joined to others.
    pub wr_merged: i64,
    /// Discards that were joined to others.
    pub unmap_merged: i64,
    /// How long it has been idle, in nanoseconds; absent before the first request.
    pub idle_time_ns: Option<i64>,
    /// Reads that failed.
    pub failed_rd_operations: i64,
    /// Writes that failed.
    pub failed_wr_operations: i64,
    /// Flushes that failed.
    pub failed_flush_operations: i64,
    /// Discards that failed.
    pub failed_unmap_operations: i64,
    /// Reads that were invalid.
    pub invalid_rd_operations: i64,
    /// Writes that were invalid.
    pub invalid_wr_operations: i64,
    /// Flushes that were invalid.
    pub invalid_flush_operations: i64,
    /// Discards that were invalid.
    pub invalid_unmap_operations: i64,
    /// Whether invalid requests count for `idle_time_ns`.
    pub account_invalid: bool,
    /// Whether failed requests count for `idle_time_ns` and latencies.
    pub account_failed: bool,
    /// Statistics of intervals.
    pub timed_stats: Vec<BlockDeviceTimedStats>,
    /// Latencies of reads, if they are counted.
    pub rd_latency_histogram: Option<BlockLatencyHistogramInfo>,
    /// Latencies of writes, if they are counted.
    pub wr_latency_histogram: Option<BlockLatencyHistogramInfo>,
    /// Latencies of flushes, if they are counted.
    pub flush_latency_histogram: Option<BlockLatencyHistogramInfo>,
}

/// Statistics of a block back end or a node, and of the nodes below.
#[derive(Debug, Clone, PartialEq, QapiType)]
pub struct BlockStats {
    /// The back end's name.
    pub device: Option<String>,
    /// The device that it is connected to: its id, or its path.
    pub qdev: Option<String>,
    /// The node's name.
    pub node_name: Option<String>,
    /// The statistics.
    pub stats: BlockDeviceStats,
    /// Statistics that only some drivers have.
    pub driver_specific: Option<BlockStatsSpecific>,
    /// The node with the image.
    pub parent: Option<Box<BlockStats>>,
    /// The backing file.
    pub backing: Option<Box<BlockStats>>,
}

/// Tells the statistics of block back ends, or of nodes.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-blockstats", returns = Vec<BlockStats>, preconfig)]
pub struct QueryBlockstats {
    /// Whether nodes are listed instead of back ends; off if absent.
    pub query_nodes: Option<bool>,
}

/// Starts or ends the counting of latencies. Without bounds all counting ends.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block-latency-histogram-set", preconfig)]
pub struct BlockLatencyHistogramSet {
    /// The device.
    pub id: String,
    /// Bounds for all kinds of requests, in nanoseconds, ascending from more than 0.
    pub boundaries: Option<Vec<u64>>,
    /// Bounds for reads.
    pub boundaries_read: Option<Vec<u64>>,
    /// Bounds for writes.
    pub boundaries_write: Option<Vec<u64>>,
    /// Bounds for flushes.
    pub boundaries_flush: Option<Vec<u64>>,
}
