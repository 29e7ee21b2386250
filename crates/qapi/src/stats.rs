//! What the host's kernel counts of the machine and its vCPUs.

use crate::{Command, QapiType};

/// How a statistic behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum StatsType {
    /// It only grows.
    Cumulative,
    /// It is how things are now.
    Instant,
    /// It is the largest there was.
    Peak,
    /// Counts by size, in buckets of one size.
    LinearHistogram,
    /// Counts by size, in buckets that double.
    #[qapi(name = "log2-histogram")]
    Log2Histogram,
}

/// What a statistic is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum StatsUnit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Cycles of a clock.
    Cycles,
    /// No or yes.
    Boolean,
}

/// Who counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum StatsProvider {
    /// KVM.
    Kvm,
}

/// Of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum StatsTarget {
    /// Of the machine.
    Vm,
    /// Of each vCPU.
    Vcpu,
}

/// What is wanted of whom.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct StatsRequest {
    /// Of whom.
    pub provider: StatsProvider,
    /// The names of statistics; all if absent.
    pub names: Option<Vec<String>>,
}

/// Which vCPUs.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct StatsVCPUFilter {
    /// Their paths in the object tree; all if absent.
    pub vcpus: Option<Vec<String>>,
}

/// Of what.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "target", tag_type = StatsTarget)]
pub enum StatsFilter {
    /// Of vCPUs.
    Vcpu(StatsVCPUFilter),
    /// Of the machine.
    Vm,
}

/// The value of a statistic.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(alternate)]
pub enum StatsValue {
    /// A number.
    Scalar(u64),
    /// No or yes.
    Boolean(bool),
    /// The counts of a histogram.
    List(Vec<u64>),
}

/// A statistic.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct Stats {
    /// What it is called.
    pub name: String,
    /// How it is.
    pub value: StatsValue,
}

/// Statistics of one object.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct StatsResult {
    /// Who counts.
    pub provider: StatsProvider,
    /// The object's path in the object tree, if it is not the machine.
    pub qom_path: Option<String>,
    /// What was counted.
    pub stats: Vec<Stats>,
}

/// Returns statistics that the accelerator has: those of KVM.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-stats", returns = Vec<StatsResult>)]
pub struct QueryStats {
    /// Of what.
    #[qapi(flatten)]
    pub filter: StatsFilter,
    /// Who is asked, and for what; everybody for everything if absent.
    pub providers: Option<Vec<StatsRequest>>,
}

/// What a statistic is.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct StatsSchemaValue {
    /// What it is called.
    pub name: String,
    /// How it behaves.
    pub r#type: StatsType,
    /// What it is measured in, if it is no plain number.
    pub unit: Option<StatsUnit>,
    /// Values are in units of a power of this, if it is another than the zeroth.
    pub base: Option<i8>,
    /// Which power.
    pub exponent: i16,
    /// The size of a linear histogram's buckets.
    pub bucket_size: Option<u32>,
}

/// What statistics there are.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct StatsSchema {
    /// Who counts.
    pub provider: StatsProvider,
    /// Of what.
    pub target: StatsTarget,
    /// What each is.
    pub stats: Vec<StatsSchemaValue>,
}

/// Tells what statistics there are.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-stats-schemas", returns = Vec<StatsSchema>)]
pub struct QueryStatsSchemas {
    /// Who is asked; everybody if absent.
    pub provider: Option<StatsProvider>,
}
