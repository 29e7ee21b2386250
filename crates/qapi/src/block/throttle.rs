//! Limits of throughput.

use crate::{Command, QapiType};

/// Sets the limits of a block back end's medium. Limits that are not given end.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "block_set_io_throttle", preconfig)]
#[qapi(snake)]
pub struct BlockSetIoThrottle {
    /// The back end.
    #[qapi(deprecated)]
    pub device: Option<String>,
    /// The device.
    pub id: Option<String>,
    /// The limit of bytes in a second; 0 for none.
    pub bps: i64,
    /// The limit of bytes read in a second; 0 for none.
    pub bps_rd: i64,
    /// The limit of bytes written in a second; 0 for none.
    pub bps_wr: i64,
    /// The limit of requests in a second; 0 for none.
    pub iops: i64,
    /// The limit of reads in a second; 0 for none.
    pub iops_rd: i64,
    /// The limit of writes in a second; 0 for none.
    pub iops_wr: i64,
    /// The limit of bytes in a second during a burst.
    pub bps_max: Option<i64>,
    /// The limit of bytes read in a second during a burst.
    pub bps_rd_max: Option<i64>,
    /// The limit of bytes written in a second during a burst.
    pub bps_wr_max: Option<i64>,
    /// The limit of requests in a second during a burst.
    pub iops_max: Option<i64>,
    /// The limit of reads in a second during a burst.
    pub iops_rd_max: Option<i64>,
    /// The limit of writes in a second during a burst.
    pub iops_wr_max: Option<i64>,
    /// How long a burst of `bps_max` may be, in seconds; 1 if absent.
    pub bps_max_length: Option<i64>,
    /// How long a burst of `bps_rd_max` may be, in seconds; 1 if absent.
    pub bps_rd_max_length: Option<i64>,
    /// How long a burst of `bps_wr_max` may be, in seconds; 1 if absent.
    pub bps_wr_max_length: Option<i64>,
    /// How long a burst of `iops_max` may be, in seconds; 1 if absent.
    pub iops_max_length: Option<i64>,
    /// How long a burst of `iops_rd_max` may be, in seconds; 1 if absent.
    pub iops_rd_max_length: Option<i64>,
    /// How long a burst of `iops_wr_max` may be, in seconds; 1 if absent.
    pub iops_wr_max_length: Option<i64>,
    /// Bytes that count as one request; larger ones count as several.
    pub iops_size: Option<i64>,
    /// The throttle group; the device's own if absent.
    pub group: Option<String>,
}

/// The limits of a throttle group. What is absent does not change; without it at first, there is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct ThrottleLimits {
    /// The limit of requests in a second.
    pub iops_total: Option<i64>,
    /// The limit of requests in a second during a burst.
    pub iops_total_max: Option<i64>,
    /// How long such a burst may be, in seconds.
    pub iops_total_max_length: Option<i64>,
    /// The limit of reads in a second.
    pub iops_read: Option<i64>,
    /// The limit of reads in a second during a burst.
    pub iops_read_max: Option<i64>,
    /// How long such a burst may be, in seconds.
    pub iops_read_max_length: Option<i64>,
    /// The limit of writes in a second.
    pub iops_write: Option<i64>,
    /// The limit of writes in a second during a burst.
    pub iops_write_max: Option<i64>,
    /// How long such a burst may be, in seconds.
    pub iops_write_max_length: Option<i64>,
    /// The limit of bytes in a second.
    pub bps_total: Option<i64>,
    /// The limit of bytes in a second during a burst.
    pub bps_total_max: Option<i64>,
    /// How long such a burst may be, in seconds.
    pub bps_total_max_length: Option<i64>,
    /// The limit of bytes read in a second.
    pub bps_read: Option<i64>,
    /// The limit of bytes read in a second during a burst.
    pub bps_read_max: Option<i64>,
    /// How long such a burst may be, in seconds.
    pub bps_read_max_length: Option<i64>,
    /// The limit of bytes written in a second.
    pub bps_write: Option<i64>,
    /// The limit of bytes written in a second during a burst.
    pub bps_write_max: Option<i64>,
    /// How long such a burst may be, in seconds.
    pub bps_write_max_length: Option<i64>,
    /// Bytes that count as one request; larger ones count as several.
    pub iops_size: Option<i64>,
}

/// The properties of a throttle group.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct ThrottleGroupProperties {
    /// The limits.
    pub limits: Option<ThrottleLimits>,
    /// The limit of requests in a second.
    #[qapi(unstable)]
    pub x_iops_total: Option<i64>,
    /// The limit of requests in a second during a burst.
    #[qapi(unstable)]
    pub x_iops_total_max: Option<i64>,
    /// How long such a burst may be, in seconds.
    #[qapi(unstable)]
    pub x_iops_total_max_length: Option<i64>,
    /// The limit of reads in a second.
    #[qapi(unstable)]
    pub x_iops_read: Option<i64>,
    /// The limit of reads in a second during a burst.
    #[qapi(unstable)]
    pub x_iops_read_max: Option<i64>,
    /// How long such a burst may be, in seconds.
    #[qapi(unstable)]
    pub x_iops_read_max_length: Option<i64>,
    /// The limit of writes in a second.
    #[qapi(unstable)]
    pub x_iops_write: Option<i64>,
    /// The limit of writes in a second during a burst.
    #[qapi(unstable)]
    pub x_iops_write_max: Option<i64>,
    /// How long such a burst may be, in seconds.
    #[qapi(unstable)]
    pub x_iops_write_max_length: Option<i64>,
    /// The limit of bytes in a second.
    #[qapi(unstable)]
    pub x_bps_total: Option<i64>,
    /// The limit of bytes in a second during a burst.
    #[qapi(unstable)]
    pub x_bps_total_max: Option<i64>,
    /// How long such a burst may be, in seconds.
    #[qapi(unstable)]
    pub x_bps_total_max_length: Option<i64>,
    /// The limit of bytes read in a second.
    #[qapi(unstable)]
    pub x_bps_read: Option<i64>,
    /// The limit of bytes read in a second during a burst.
    #[qapi(unstable)]
    pub x_bps_read_max: Option<i64>,
    /// How long such a burst may be, in seconds.
    #[qapi(unstable)]
    pub x_bps_read_max_length: Option<i64>,
    /// The limit of bytes written in a second.
    #[qapi(unstable)]
    pub x_bps_write: Option<i64>,
    /// The limit of bytes written in a second during a burst.
    #[qapi(unstable)]
    pub x_bps_write_max: Option<i64>,
    /// How long such a burst may be, in seconds.
    #[qapi(unstable)]
    pub x_bps_write_max_length: Option<i64>,
    /// Bytes that count as one request; larger ones count as several.
    #[qapi(unstable)]
    pub x_iops_size: Option<i64>,
}
