//! What a hypervisor counts of a machine and its vCPUs.

/// How a statistic behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatisticKind {
    /// It only grows.
    Cumulative,
    /// It is how things are now.
    Instant,
    /// It is the largest there was.
    Peak,
    /// Counts by size, in buckets of this size.
    LinearHistogram(u32),
    /// Counts by size, in buckets that double.
    LogHistogram,
}

/// What a statistic is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatisticUnit {
    /// A number.
    None,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Cycles of a clock.
    Cycles,
    /// No or yes.
    Boolean,
}

/// A statistic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistic {
    /// What it is called.
    pub name: String,
    /// How it behaves.
    pub kind: StatisticKind,
    /// What it is measured in.
    pub unit: StatisticUnit,
    /// Its values are in units of a power of this, 10 or 2.
    pub base: u8,
    /// Which power.
    pub exponent: i16,
    /// One value; several in histograms.
    pub values: Vec<u64>,
}
