//! The driver's run-time options.

use block::{Error, Options, Result};

use crate::entry::Geometry;
use crate::flush::Reason;
use crate::header::{COMPATIBLE_LAZY, Header};
use crate::overlap::Section;

/// The most that L2 slices take by default, bytes.
const DEFAULT_MAX_L2_CACHE: u64 = 32 << 20;
/// Bytes of a slice by default.
const DEFAULT_SLICE: u64 = 4096;
/// Seconds after which unused slices are dropped by default.
const DEFAULT_CLEAN_INTERVAL: u64 = 600;

/// Run-time options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOptions {
    /// Refcounts are written at close only.
    pub lazy_refcounts: bool,
    discard_request: bool,
    discard_snapshot: bool,
    discard_other: bool,
    /// Sections that writes are checked against.
    pub overlap: u16,
    l2_cache_size: Option<u64>,
    refcount_cache_size: Option<u64>,
    cache_size: Option<u64>,
    l2_entry_size: u64,
    /// Seconds; 0: never.
    pub clean_interval: u64,
}

impl RunOptions {
    /// Takes the options that the driver knows.
    ///
    /// # Errors
    /// If one has a wrong value.
    pub fn take(options: &mut Options, header: &Header, unmap: bool) -> Result<Self> {
        let lazy = options.take_bool("lazy-refcounts")?;
        if lazy == Some(true) && header.version < 3 {
            return Err(Error::invalid(
                "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level",
            ));
        }
        let geometry = Geometry::new(header);
        let cluster_size = geometry.cluster_size();
        let cache_size = options.take_size("cache-size")?;
        let l2_cache_size = options.take_size("l2-cache-size")?;
        let refcount_cache_size = options.take_size("refcount-cache-size")?;
        if let Some(size) = cache_size {
            if l2_cache_size.is_some() && refcount_cache_size.is_some() {
                return Err(Error::invalid(
                    "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time",
                ));
            }
            if l2_cache_size.is_some_and(|l2| l2 > size) {
                return Err(Error::invalid("l2-cache-size may not exceed cache-size"));
            }
            if refcount_cache_size.is_some_and(|refcount| refcount > size) {
                return Err(Error::invalid("refcount-cache-size may not exceed cache-size"));
            }
        }
        let entry_size = options.take_size("l2-cache-entry-size")?;
        if entry_size.is_some_and(|size| !size.is_power_of_two() || size < 512 || size > cluster_size) {
            return Err(Error::invalid(format!(
                "L2 cache entry size must be a power of two between 512 and the cluster size ({cluster_size})"
            )));
        }
        let whole = header.size.div_ceil(cluster_size).saturating_mul(geometry.entry_bytes());
        let slice = entry_size.unwrap_or(DEFAULT_SLICE).min(cluster_size);
        if l2_cache_size.is_some_and(|size| size.min(whole) / slice > i32::MAX as u64) {
            return Err(Error::invalid("L2 cache size too big"));
        }
        if refcount_cache_size.is_some_and(|size| size > i32::MAX as u64 * cluster_size) {
            return Err(Error::invalid("Refcount cache size too big"));
        }
        if options.get_str("cache-clean-interval").is_some_and(|text| text.starts_with('-')) {
            return Err(Error::invalid("Cache clean interval too big"));
        }
        let clean_interval = options.take_u64("cache-clean-interval")?.unwrap_or(DEFAULT_CLEAN_INTERVAL);
        if clean_interval > u64::from(u32::MAX) {
            return Err(Error::invalid("Cache clean interval too big"));
        }
        let run = Self {
            lazy_refcounts: lazy.unwrap_or(header.compatible & COMPATIBLE_LAZY != 0 && header.version >= 3),
            discard_request: options.take_bool("pass-discard-request")?.unwrap_or(unmap),
            discard_snapshot: options.take_bool("pass-discard-snapshot")?.unwrap_or(true),
            discard_other: options.take_bool("pass-discard-other")?.unwrap_or(false),
            overlap: take_overlap(options)?,
            l2_cache_size,
            refcount_cache_size,
            cache_size,
            l2_entry_size: entry_size.unwrap_or(DEFAULT_SLICE).min(cluster_size),
            clean_interval,
        };
        Ok(run)
    }

    /// Whether clusters that become free for `reason` are given back to the host.
    pub fn passes(&self, reason: Reason) -> bool {
        match reason {
            Reason::Never => false,
            Reason::Always => true,
            Reason::Request => self.discard_request,
            Reason::Snapshot => self.discard_snapshot,
            Reason::Other => self.discard_other,
        }
    }

    /// Slices of the L2 cache, and the bytes of one.
    pub fn l2_cache(&self, geometry: &Geometry, disk_size: u64) -> (usize, u64) {
        let slice = self.l2_entry_size.min(geometry.cluster_size());
        let whole = disk_size.div_ceil(geometry.cluster_size()).saturating_mul(geometry.entry_bytes());
        let combined = self.cache_size.map(|size| size - self.refcount_bytes(geometry).min(size));
        let bytes = self.l2_cache_size.or(combined).unwrap_or_else(|| DEFAULT_MAX_L2_CACHE.min(whole));
        // One more than all there are: a cache that holds the whole disk is never full.
        let slices = (bytes / slice + 1).max(16);
        (usize::try_from(slices).unwrap_or(usize::MAX), slice)
    }

    fn refcount_bytes(&self, geometry: &Geometry) -> u64 {
        self.refcount_cache_size.unwrap_or(4 * geometry.cluster_size())
    }

    /// Blocks of the refcount cache.
    pub fn refcount_cache(&self, geometry: &Geometry) -> usize {
        // Small clusters need more blocks to be of use.
        let bytes = self.refcount_bytes(geometry).max(256 << 10);
        usize::try_from(bytes / geometry.cluster_size()).unwrap_or(usize::MAX).max(4)
    }
}

/// The options that take effect while the image is open, but for those with a dot, which are the sections to check.
pub(crate) const OPTIONS: &[&str] = &[
    "cache-clean-interval",
    "cache-size",
    "l2-cache-entry-size",
    "l2-cache-size",
    "lazy-refcounts",
    "overlap-check",
    "pass-discard-other",
    "pass-discard-request",
    "pass-discard-snapshot",
    "refcount-cache-size",
];

fn take_overlap(options: &mut Options) -> Result<u16> {
    const TEMPLATES: [&str; 4] = ["none", "constant", "cached", "all"];
    let plain = options.take_str("overlap-check")?;
    let template = options.take_str("overlap-check.template")?;
    let name = match (&plain, &template) {
        (Some(a), Some(b)) if a != b => {
            return Err(Error::invalid(format!(
                "Conflicting values for qcow2 options 'overlap-check' ('{a}') and 'overlap-check.template' ('{b}')"
            )));
        }
        (a, b) => a.clone().or_else(|| b.clone()).unwrap_or_else(|| "cached".to_owned()),
    };
    let all = Section::ALL.iter().fold(0, |mask, (section, ..)| mask | section.bit());
    let constant = Section::MainHeader.bit()
        | Section::ActiveL1.bit()
        | Section::RefcountTable.bit()
        | Section::SnapshotTable.bit()
        | Section::BitmapDirectory.bit();
    let mut mask = match TEMPLATES.iter().position(|template| *template == name) {
        Some(0) => 0,
        Some(1) => constant,
        Some(2) => all & !Section::InactiveL2.bit(),
        Some(3) => all,
        _ => {
            return Err(Error::invalid(format!(
                "Unsupported value '{name}' for qcow2 option 'overlap-check'. Allowed are any of the following: none, \
                 constant, cached, all"
            )));
        }
    };
    for (section, option, _) in Section::ALL {
        match options.take_bool(&format!("overlap-check.{option}"))? {
            Some(true) => mask |= section.bit(),
            Some(false) => mask &= !section.bit(),
            None => {}
        }
    }
    Ok(mask)
}
