//! A node: a driver, its name and options, and the generic part of each request.
//!
//! What every driver would have to do is done here, once: padding of unaligned requests, splitting of long ones,
//! detection of zeroes, fall-backs for zero writes and FUA, keeping conflicting writes apart, skipping flushes when
//! nothing was written.

mod bitmaps;
mod blockers;
mod lineage;
mod named_backing;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};

use iobuf::IoBuf;
use tokio::sync::Notify;

pub use self::blockers::Blocker;
use self::blockers::Blockers;
use crate::bitmap::Bitmaps;
use crate::child::{BackingSlot, Child, Parent};
use crate::driver::{Driver, DriverKind, DriverType};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::permissions::Permissions;
use crate::request::{BlockStatus, Limits, Preallocation, WriteFlags, ZeroFlags};
use crate::tracker::{Overlap, Tracker};

/// The longest zero-filled buffer that stands in for an efficient zero write, bytes.
const ZERO_BUFFER: usize = 1 << 20;
/// Requests whose offset or length exceeds this are refused, bytes.
const MAX_OFFSET: u64 = i64::MAX as u64 & !511;
/// The largest size that a node can get: with room for requests that are aligned.
const MAX_LEN: u64 = i64::MAX as u64 & !((1 << 30) - 1);

/// What is done with writes of zeroes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DetectZeroes {
    /// They are written.
    #[default]
    Off,
    /// They become zero writes.
    On,
    /// They become zero writes that give space back.
    Unmap,
}

impl DetectZeroes {
    /// The names, in the order of the variants.
    pub const NAMES: [&'static str; 3] = ["off", "on", "unmap"];
}

/// Cache behaviour of a node, as `BlockdevCacheInfo` says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheMode {
    /// Bypass the host's page cache.
    pub direct: bool,
    /// Ignore flushes.
    pub no_flush: bool,
}

/// What a node is configured with, beside its driver's own options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeConfig {
    /// Writes are refused.
    pub read_only: bool,
    /// The node may become writable when somebody wants to write.
    pub auto_read_only: bool,
    /// Discards reach the driver.
    pub discard: bool,
    /// What is done with writes of zeroes.
    pub detect_zeroes: DetectZeroes,
    /// Cache behaviour.
    pub cache: CacheMode,
    /// The node is used in spite of what others do with it, and lets them (read-only nodes).
    pub force_share: bool,
}

/// Called when a write passes the threshold: the offset behind the threshold that it reaches, and the threshold.
pub type ThresholdEvent = Box<dyn FnOnce(u64, u64) + Send>;

/// A node of the block graph.
pub struct Node {
    name: String,
    driver_type: &'static dyn DriverType,
    driver: Arc<dyn Driver>,
    options: RwLock<Options>,
    config: RwLock<NodeConfig>,
    // Copies of the configuration for the request path.
    read_only: AtomicBool,
    discard: AtomicBool,
    detect_zeroes: AtomicU8,
    no_flush: AtomicBool,

    bitmaps: Arc<Bitmaps>,
    blockers: Arc<Blockers>,
    lineage: Arc<lineage::Lineage>,
    implicit: AtomicBool,
    named_backing: Mutex<named_backing::NamedBacking>,
    parents: Mutex<Vec<Weak<Child>>>,
    tracker: Tracker,
    in_flight: AtomicUsize,
    requests: AtomicU64,
    idle: Notify,
    write_generation: AtomicU64,
    flushed_generation: AtomicU64,
    flush_failed: OnceLock<Error>,
    flushing: tokio::sync::Mutex<()>,
    threshold: AtomicU64,
    threshold_event: Mutex<Option<ThresholdEvent>>,
    highest_write: AtomicU64,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({}, {})", self.name, self.driver_type.name())
    }
}

/// Counts a request as in flight until it is dropped.
struct InFlight<'a>(&'a Node);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

impl Node {
    pub(crate) fn new(
        name: String,
        driver_type: &'static dyn DriverType,
        driver: Arc<dyn Driver>,
        options: Options,
        config: NodeConfig,
        bitmaps: Arc<Bitmaps>,
    ) -> Arc<Self> {
        let node = Arc::new(Self {
            name,
            driver_type,
            driver,
            options: RwLock::new(options),
            config: RwLock::new(config),
            read_only: AtomicBool::new(config.read_only),
            discard: AtomicBool::new(config.discard),
            detect_zeroes: AtomicU8::new(config.detect_zeroes as u8),
            no_flush: AtomicBool::new(config.cache.no_flush),
            bitmaps,
            blockers: Arc::default(),
            lineage: Arc::default(),
            implicit: AtomicBool::new(false),
            named_backing: Mutex::default(),
            parents: Mutex::default(),
            tracker: Tracker::default(),
            in_flight: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            idle: Notify::new(),
            write_generation: AtomicU64::new(1),
            flushed_generation: AtomicU64::new(0),
            flush_failed: OnceLock::new(),
            flushing: tokio::sync::Mutex::const_new(()),
            threshold: AtomicU64::new(0),
            threshold_event: Mutex::default(),
            highest_write: AtomicU64::new(0),
        });
        for child in node.driver.children() {
            child.set_parent_node(&node);
        }
        if let Some(backing) = node.backing() {
            backing.set_parent_node(&node);
        }
        node
    }

    /// The node's name: given by the user, or generated (`#block123`).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the name was generated.
    pub fn has_generated_name(&self) -> bool {
        self.name.starts_with('#')
    }

    /// The kind of driver.
    pub fn driver_type(&self) -> &'static dyn DriverType {
        self.driver_type
    }

    /// The driver.
    pub fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// The options that the user gave for this node, without those of its children.
    pub fn options(&self) -> Options {
        self.options.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the options after a reopen.
    pub fn set_options(&self, options: Options) {
        *self.options.write().unwrap_or_else(PoisonError::into_inner) = options;
    }

    /// Lets requests give up that wait for a server, here and in the files below; backings are not asked.
    pub fn cancel_in_flight(&self) {
        self.driver.cancel_in_flight();
        for child in self.driver.children() {
            child.node().cancel_in_flight();
        }
    }

    /// The configuration.
    pub fn config(&self) -> NodeConfig {
        *self.config.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the configuration. The driver has been told already if `read_only` differs.
    pub fn set_config(&self, config: NodeConfig) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        self.read_only.store(config.read_only, Ordering::Release);
        self.discard.store(config.discard, Ordering::Release);
        self.detect_zeroes.store(config.detect_zeroes as u8, Ordering::Release);
        self.no_flush.store(config.cache.no_flush, Ordering::Release);
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.driver.len()
    }

    /// Whether the node has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The edge to the backing, now.
    pub fn backing(&self) -> Option<Arc<Child>> {
        self.driver.backing().and_then(|slot| slot.get())
    }

    /// Where the backing is attached.
    pub fn backing_slot(&self) -> Option<&Arc<BackingSlot>> {
        self.driver.backing()
    }

    /// The edges to all nodes below, the backing last.
    pub fn children(&self) -> Vec<Arc<Child>> {
        let mut children = self.driver.children();
        children.extend(self.backing());
        children
    }

    /// What a filter filters.
    pub fn filtered(&self) -> Option<Arc<Child>> {
        if self.driver_type.kind() != DriverKind::Filter {
            return None;
        }
        self.driver.data_child()
    }

    /// The edges that lead here.
    pub fn parents(&self) -> Vec<Arc<Child>> {
        self.with_parents(|parents| parents.iter().filter_map(Weak::upgrade).collect())
    }

    fn with_parents<R>(&self, visit: impl FnOnce(&mut Vec<Weak<Child>>) -> R) -> R {
        visit(&mut self.parents.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn add_parent(&self, child: &Arc<Child>) {
        self.with_parents(|parents| parents.push(Arc::downgrade(child)));
    }

    pub(crate) fn remove_parent(&self, child: &Arc<Child>) {
        self.with_parents(|parents| {
            parents.retain(|parent| parent.strong_count() != 0 && !std::ptr::eq(parent.as_ptr(), Arc::as_ptr(child)));
        });
    }

    /// What all users of the node use together, and what all of them share.
    pub fn cumulative_permissions(&self) -> (Permissions, Permissions) {
        self.parents().iter().fold((Permissions::NONE, Permissions::ALL), |(used, shared), parent| {
            let (u, s) = parent.permissions();
            (used | u, shared & s)
        })
    }

    /// Waits until no request is in flight here. New ones are kept out by closed gates at the roots.
    pub async fn wait_idle(&self) {
        loop {
            let idle = self.idle.notified();
            let mut idle = std::pin::pin!(idle);
            idle.as_mut().enable();
            if self.in_flight.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }

    /// How many requests have begun here since the node is there.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn enter(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.requests.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }

    /// The longest transfer for one request of the driver: the limit rounded down to the alignment.
    fn max_transfer(limits: &Limits) -> u64 {
        let align = u64::from(limits.request_alignment);
        let max = if limits.max_transfer == 0 { 1 << 30 } else { limits.max_transfer };
        (max & !(align - 1)).max(align)
    }

    fn check_range(offset: u64, len: u64) -> Result<u64> {
        offset
            .checked_add(len)
            .filter(|end| *end <= MAX_OFFSET)
            .ok_or_else(|| Error::invalid("The request lies behind the largest offset"))
    }

    /// Whether a node may have this many bytes.
    ///
    /// # Errors
    /// They are too many for any node.
    pub fn check_new_len(len: u64) -> Result<()> {
        match len {
            0..=MAX_LEN => Ok(()),
            _ if i64::try_from(len).is_err() => Err(Error::invalid("Image size cannot be negative")),
            _ => Err(Error::io(format!("offset({len}) exceeds maximum({MAX_LEN})"))),
        }
    }

    /// Reads into `buf`; zeroes behind the end of the node.
    ///
    /// # Errors
    /// The driver's.
    pub async fn read(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let end = Self::check_range(offset, buf.len() as u64)?;
        if buf.is_empty() {
            return Ok(());
        }
        let _in_flight = self.enter();
        let len = self.len();
        if end <= len {
            return self.read_inside(offset, buf).await;
        }
        let inside = usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
        buf.fill(inside, buf.len() - inside, 0);
        if inside == 0 { Ok(()) } else { self.read_inside(offset, buf.slice(0, inside)).await }
    }

    async fn read_inside(&self, offset: u64, buf: IoBuf) -> Result<()> {
        if aio::is_attempting() && !self.driver.reads_at_once() {
            aio::not_in_an_attempt().await;
        }
        let limits = self.driver.limits();
        let align = u64::from(limits.request_alignment);
        let end = offset + buf.len() as u64;
        if (offset | end) & (align - 1) != 0 {
            // Read whole blocks and copy what was asked for; the last block may reach behind the end.
            let start = offset & !(align - 1);
            let padded = usize::try_from(end.next_multiple_of(align) - start)
                .map_err(|_| Error::invalid("The request is too long"))?;
            let bounce = IoBuf::zeroed(padded);
            self.read_aligned(&limits, start, bounce.clone()).await?;
            buf.copy_from(0, &bounce, usize::try_from(offset - start).unwrap_or(0), buf.len());
            return Ok(());
        }
        if !buf.is_aligned(limits.memory_alignment as usize) {
            let bounce = IoBuf::zeroed(buf.len());
            self.read_aligned(&limits, offset, bounce.clone()).await?;
            buf.copy_from(0, &bounce, 0, buf.len());
            return Ok(());
        }
        self.read_aligned(&limits, offset, buf).await
    }

    async fn read_aligned(&self, limits: &Limits, offset: u64, buf: IoBuf) -> Result<()> {
        let max = Self::max_transfer(limits);
        if buf.len() as u64 <= max {
            return self.driver.read(offset, buf).await;
        }
        for (at, part) in pieces(&buf, max) {
            self.driver.read(offset + at, part).await?;
        }
        Ok(())
    }

    async fn event(&self, event: &'static str) {
        if let Some(hold) = self.driver.debug_event(event) {
            let _ = hold.await;
        }
    }

    fn check_writable(&self) -> Result<()> {
        if self.is_read_only() {
            return Err(Error::permission(format!("Block node is read-only: '{}'", self.name)));
        }
        Ok(())
    }

    /// Writes `buf`.
    ///
    /// # Errors
    /// The driver's; a read-only node.
    pub async fn write(&self, offset: u64, buf: IoBuf, flags: WriteFlags) -> Result<()> {
        self.check_writable()?;
        let end = Self::check_range(offset, buf.len() as u64)?;
        if buf.is_empty() {
            return Ok(());
        }
        let _in_flight = self.enter();
        if self.detect_zeroes.load(Ordering::Relaxed) != 0 && buf.is_zero(0, buf.len()) {
            let may_unmap = self.detect_zeroes.load(Ordering::Relaxed) == DetectZeroes::Unmap as u8
                && self.discard.load(Ordering::Relaxed);
            return self
                .zero(offset, buf.len() as u64, ZeroFlags { may_unmap, no_fallback: false, fua: flags.fua })
                .await;
        }
        self.check_threshold(end);
        let limits = self.driver.limits();
        let align = u64::from(limits.request_alignment);
        if (offset | end) & (align - 1) != 0 {
            self.write_unaligned(&limits, offset, buf, flags).await?;
        } else {
            let len = buf.len() as u64;
            let _tracked = self.tracker.begin(offset, len, Overlap::Plain).await;
            let result = self.write_aligned(&limits, offset, buf, flags).await;
            // A write that failed may have changed something.
            self.bitmaps.record(offset, len);
            result?;
        }
        self.written(flags.fua).await
    }

    /// Notes a finished write, and makes it stable if asked and the driver did not.
    async fn written(&self, fua: bool) -> Result<()> {
        self.write_generation.fetch_add(1, Ordering::AcqRel);
        if fua && !self.driver.supports_fua() { self.flush().await } else { Ok(()) }
    }

    async fn write_unaligned(&self, limits: &Limits, offset: u64, buf: IoBuf, flags: WriteFlags) -> Result<()> {
        let align = u64::from(limits.request_alignment);
        let (start, end) = (offset & !(align - 1), offset + buf.len() as u64);
        let padded_end = end.next_multiple_of(align);
        let _tracked = self.tracker.begin(start, padded_end - start, Overlap::Serialising).await;
        let block = limits.request_alignment as usize;
        let index = |offset: u64| usize::try_from(offset & (align - 1)).unwrap_or(0);
        let mut parts = Vec::new();
        if start != offset {
            let head = IoBuf::zeroed(block);
            self.event("pwritev_rmw_head").await;
            self.driver.read(start, head.clone()).await?;
            self.event("pwritev_rmw_after_head").await;
            parts.push(head.slice(0, index(offset)));
        }
        parts.push(buf);
        if end != padded_end {
            let tail = IoBuf::zeroed(block);
            self.event("pwritev_rmw_tail").await;
            self.driver.read(padded_end - align, tail.clone()).await?;
            self.event("pwritev_rmw_after_tail").await;
            parts.push(tail.slice(index(end), block - index(end)));
        }
        let result = self.write_aligned(limits, start, IoBuf::concat(parts), flags).await;
        self.bitmaps.record(start, padded_end - start);
        result
    }

    async fn write_aligned(&self, limits: &Limits, offset: u64, buf: IoBuf, flags: WriteFlags) -> Result<()> {
        let buf = if buf.is_aligned(limits.memory_alignment as usize) {
            buf
        } else {
            let bounce = IoBuf::zeroed(buf.len());
            bounce.copy_from(0, &buf, 0, buf.len());
            bounce
        };
        let flags = WriteFlags { fua: flags.fua && self.driver.supports_fua(), ..flags };
        if flags.compressed {
            return self.driver.write_compressed(offset, buf).await;
        }
        self.event("pwritev").await;
        let max = Self::max_transfer(limits);
        if buf.len() as u64 <= max {
            self.driver.write(offset, buf, flags).await?;
        } else {
            for (at, part) in pieces(&buf, max) {
                self.driver.write(offset + at, part, flags).await?;
            }
        }
        self.event("pwritev_done").await;
        Ok(())
    }

    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// The driver's; a read-only node.
    pub async fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.check_writable()?;
        Self::check_range(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let _in_flight = self.enter();
        let may_unmap = flags.may_unmap && self.discard.load(Ordering::Relaxed);
        self.zero(offset, len, ZeroFlags { may_unmap, ..flags }).await
    }

    async fn zero(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.check_threshold(offset + len);
        let limits = self.driver.limits();
        let align = u64::from(limits.request_alignment.max(1));
        let unit = u64::from(limits.zeroes_alignment).max(align);
        let (start, end) = (offset & !(align - 1), (offset + len).next_multiple_of(align));
        {
            let _tracked = self.tracker.begin(start, end - start, Overlap::Serialising).await;
            let middle = offset.next_multiple_of(unit).min(offset + len);
            let tail = ((offset + len) / unit * unit).max(middle);
            let mut result = Ok(());
            'ranges: for (from, to) in [(offset, middle), (middle, tail), (tail, offset + len)] {
                let mut at = from;
                while at < to {
                    let max = if limits.max_zeroes == 0 { u64::MAX } else { limits.max_zeroes.max(unit) };
                    let n = (to - at).min(max / unit * unit);
                    result = self.zero_piece(&limits, at, n, flags).await;
                    if result.is_err() {
                        break 'ranges;
                    }
                    at += n;
                }
            }
            self.bitmaps.record(offset, len);
            result?;
        }
        self.written(flags.fua).await
    }

    async fn zero_piece(&self, limits: &Limits, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        let align = u64::from(limits.request_alignment);
        let driver_flags = ZeroFlags { fua: flags.fua && self.driver.supports_fua(), ..flags };
        if (offset | len) & (align - 1) == 0 {
            self.event("pwritev_zero").await;
            match self.driver.write_zeroes(offset, len, driver_flags).await {
                Err(error) if error.is_unsupported() && !flags.no_fallback => {}
                result => return result,
            }
        } else if flags.no_fallback {
            return Err(Error::unsupported("Zeroes of part of a block have to be written"));
        }
        let write = WriteFlags { fua: driver_flags.fua, ..WriteFlags::default() };
        let zeroes = IoBuf::zeroed(usize::try_from(len).unwrap_or(usize::MAX).min(ZERO_BUFFER));
        let mut at = offset;
        let end = offset + len;
        while at < end {
            // After an unaligned start go on at a multiple of the buffer.
            let n = (ZERO_BUFFER as u64 - at % ZERO_BUFFER as u64).min(end - at).min(zeroes.len() as u64);
            let part = zeroes.slice(0, usize::try_from(n).unwrap_or(0));
            if (at | n) & (align - 1) == 0 {
                self.write_aligned(limits, at, part, write).await?;
            } else {
                self.pad_with_zeroes(limits, at, part, write).await?;
            }
            at += n;
        }
        Ok(())
    }

    /// Read-modify-write inside of a range that is tracked already.
    async fn pad_with_zeroes(&self, limits: &Limits, offset: u64, zeroes: IoBuf, flags: WriteFlags) -> Result<()> {
        let align = u64::from(limits.request_alignment);
        let start = offset & !(align - 1);
        let end = (offset + zeroes.len() as u64).next_multiple_of(align);
        let bounce = IoBuf::zeroed(usize::try_from(end - start).unwrap_or(0));
        self.read_aligned(limits, start, bounce.clone()).await?;
        bounce.fill(usize::try_from(offset - start).unwrap_or(0), zeroes.len(), 0);
        self.write_aligned(limits, start, bounce, flags).await
    }

    /// Copies `len` bytes from `source_offset` of the protocol node `source` to `offset` without reading them.
    ///
    /// # Errors
    /// [`Error::is_unsupported`] if that has to be done by reading and writing; the driver's; a read-only node.
    pub async fn copy_from(&self, offset: u64, source: Arc<Node>, source_offset: u64, len: u64) -> Result<()> {
        self.check_writable()?;
        Self::check_range(offset, len)?;
        Self::check_range(source_offset, len)?;
        let align = u64::from(self.driver.limits().request_alignment.max(1));
        if (offset | source_offset | len) & (align - 1) != 0 {
            return Err(Error::unsupported("Parts of blocks are copied by reading and writing"));
        }
        let _in_flight = self.enter();
        self.check_threshold(offset + len);
        let _tracked = self.tracker.begin(offset, len, Overlap::Plain).await;
        let result = self.driver.copy_from(offset, source, source_offset, len).await;
        if !result.as_ref().is_err_and(Error::is_unsupported) {
            self.bitmaps.record(offset, len);
        }
        result?;
        self.written(false).await
    }

    /// Gives a range back, as far as whole units of the driver lie in it and the node's `discard` option allows.
    ///
    /// # Errors
    /// The driver's; a read-only node.
    pub async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.check_writable()?;
        let end = Self::check_range(offset, len)?.min(self.len());
        if !self.discard.load(Ordering::Relaxed) || offset >= end {
            return Ok(());
        }
        let _in_flight = self.enter();
        let limits = self.driver.limits();
        let unit = u64::from(limits.discard_alignment.max(limits.request_alignment));
        // What is a unit is up to the node below a filter.
        let is_filter = self.driver_type.kind() == DriverKind::Filter;
        let inner = if is_filter { u64::from(limits.request_alignment) } else { unit };
        // The last unit of a node may be a part.
        let to = if end == self.len() && end.is_multiple_of(u64::from(limits.request_alignment)) {
            end
        } else {
            end / inner * inner
        };
        let from = offset.next_multiple_of(inner);
        if from >= to {
            return Ok(());
        }
        let _tracked = self.tracker.begin(from, to - from, Overlap::Serialising).await;
        let max = (if limits.max_discard == 0 { u64::MAX } else { limits.max_discard.max(unit) } / unit * unit).max(1);
        let mut at = from;
        while at < to {
            // Pieces end at multiples of the longest one, so that the next driver finds whole units.
            let n = (to - at).min(max - at % max);
            let result = self.driver.discard(at, n).await;
            self.bitmaps.record(at, n);
            match result {
                Err(error) if !error.is_unsupported() => return Err(error),
                _ => {}
            }
            at += n;
        }
        self.write_generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Brings everything that was written to stable storage. Does nothing if nothing was written since the last flush,
    /// or under `cache.no-flush`, which still brings the driver's tables to the host.
    ///
    /// # Errors
    /// The driver's. A flush that failed in a protocol driver fails for ever: the host may have dropped the data.
    pub fn flush(&self) -> crate::driver::IoFuture<'_> {
        Box::pin(async move {
            if let Some(error) = self.flush_failed.get() {
                return Err(error.clone());
            }
            let _in_flight = self.enter();
            let generation = self.write_generation.load(Ordering::Acquire);
            if self.flushed_generation.load(Ordering::Acquire) >= generation {
                return Ok(());
            }
            let _one = self.flushing.lock().await;
            if self.flushed_generation.load(Ordering::Acquire) >= generation {
                return Ok(());
            }
            // Taken again: this flush is good for all that finished while the last one ran.
            let generation = self.write_generation.load(Ordering::Acquire);
            if self.no_flush.load(Ordering::Relaxed) && self.driver_type.kind() == DriverKind::Protocol {
                return Ok(());
            }
            if let Some(child) = self.driver.children().first() {
                child.event("flush_to_os").await;
                child.event("flush_to_disk").await;
            }
            if let Err(error) = self.driver.flush().await {
                if self.driver_type.name() == "file" {
                    let _ = self.flush_failed.set(error.clone());
                }
                return Err(error);
            }
            if !self.no_flush.load(Ordering::Relaxed) {
                for child in self.driver.children() {
                    if !child.node().is_read_only() {
                        child.flush().await?;
                    }
                }
            }
            self.flushed_generation.fetch_max(generation, Ordering::AcqRel);
            Ok(())
        })
    }

    /// Changes the size.
    ///
    /// # Errors
    /// The driver's; a read-only node.
    pub async fn truncate(&self, len: u64, exact: bool, preallocation: Preallocation) -> Result<()> {
        self.check_writable()?;
        Self::check_new_len(len)?;
        let _in_flight = self.enter();
        let old = self.len();
        let start = old.min(len);
        let _tracked = self.tracker.begin(start, u64::MAX - start, Overlap::Serialising).await;
        self.driver.truncate(len, exact, preallocation).await?;
        self.bitmaps.truncate(self.len());
        self.write_generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// What this node (not its backing) knows of `offset .. offset + len`. The answer's length is at most `len` and 0
    /// only at the end of the node. An answer with `recurse` is completed with the data child's zeroes.
    ///
    /// # Errors
    /// The driver's.
    pub fn block_status(&self, offset: u64, len: u64, precise: bool) -> crate::driver::IoFuture<'_, BlockStatus> {
        Box::pin(async move {
            let size = self.len();
            let len = len.min(size.saturating_sub(offset));
            if len == 0 {
                return Ok(BlockStatus::default());
            }
            let _in_flight = self.enter();
            let align = u64::from(self.driver.limits().request_alignment);
            let start = offset & !(align - 1);
            let end = (offset + len).next_multiple_of(align);
            let mut status = self.driver.block_status(start, end - start, precise).await?;
            status.len = status.len.saturating_sub(offset - start).min(len);
            status.offset = status.offset.map(|at| at + (offset - start));
            if status.len == 0 {
                return Err(Error::io(format!("Node '{}' gave an empty block status", self.name)));
            }
            if status.recurse
                && let (Some(at), Some(child)) = (status.offset, self.driver.data_child_at(offset))
            {
                status.recurse = false;
                let below = child.block_status(at, status.len, precise).await?;
                if below.len == 0 {
                    // Behind the end of the child.
                    status.zero = true;
                } else {
                    status.len = status.len.min(below.len);
                    status.zero |= below.zero;
                }
            }
            Ok(status)
        })
    }

    /// Whether somebody outside of the graph uses the node.
    pub fn has_outside_parent(&self) -> bool {
        self.parents().iter().any(|parent| matches!(parent.parent(), Parent::Outside(..)))
    }
}

/// The buffer in pieces of `max` bytes, with their offsets.
fn pieces(buf: &IoBuf, max: u64) -> impl Iterator<Item = (u64, IoBuf)> + '_ {
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    (0..buf.len()).step_by(max).map(move |at| (at as u64, buf.slice(at, max.min(buf.len() - at))))
}
