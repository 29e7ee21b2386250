//! Mirrors: a copy that follows the guest's writes until it takes the source's place, or is let go.
//!
//! A dirty bitmap says what differs. The job copies granules that are dirty, many at once; when nothing is dirty it is
//! ready. In the mode `background` the source's writes make granules dirty again, in the mode `write-blocking` they go to
//! both sides (`mirror_top`). To complete, the source is drained, the last granules are copied, and the users of the
//! source use the copy.
//!
//! A granule is made clean before it is read: a write that ends later makes it dirty again. Two copies of one granule
//! never run at once.
//!
//! A commit of the active image is a mirror whose copy is the base.
//!
//! A user's bitmap may say what is copied at first. What is written later is copied in any case, so in the end the bitmap
//! can start again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use block::backend::ErrorAction;
use block::graph::Drained;
use block::rewire::Above;
use block::{
    Child, Defaults, DirtyBitmap, Error, Graph, IoFuture, Node, NodeConfig, OpenFlags, Permissions, Preallocation,
    Result, WriteFlags, ZeroFlags, filename,
};
use block_tools::status;
use iobuf::IoBuf;

use crate::backup::BitmapMode;
use crate::chain;
use crate::edges::{self, Edges};
use crate::flight::{Failure, Flight};
use crate::info::{Change, CopyMode, Kind, OnError};
use crate::job::{Job, JobDriver};
use crate::jobs::{Common, Jobs, NewJob};
use crate::mirror_bitmap::UserBitmap;
use crate::mirror_top::{Link, MIRROR_TOP, MirrorTop};

/// The number of the error "Operation not permitted".
const EPERM: i32 = 1;
/// The most requests in flight.
const MAX_IN_FLIGHT: u64 = 16;
/// The usual length of a request, bytes.
const MAX_IO: u64 = 1 << 20;
/// The longest request that a client can ask for by a large buffer, bytes.
const LONGEST_IO: u64 = 64 << 20;
/// What may be dirty when the source is drained for the last copies, bytes.
const LAST_COPIES: u64 = 4 << 20;
/// How often a job that is ready looks for new writes.
const LOOK: Duration = Duration::from_millis(100);
/// For how long it leaves what a guest is writing to.
const BUSY: Duration = Duration::from_millis(1);

/// What is copied at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// All that the guest sees.
    Full,
    /// What is in the topmost image.
    Top,
    /// Nothing: only what is written from now on.
    None,
    /// What is dirty in the bitmap.
    Bitmap,
}

/// What the copy has as its backing in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// That of the source (with [`Sync::None`]: the source).
    Source,
    /// What its image names.
    Image,
    /// What it has.
    Leave,
}

/// What a mirror is made with.
pub struct Options {
    /// What every job has.
    pub common: Common,
    /// [`Kind::Mirror`], or [`Kind::Commit`].
    pub kind: Kind,
    /// The source.
    pub source: Arc<Node>,
    /// The copy.
    pub target: Arc<Node>,
    /// The node that the copy replaces, if not the source.
    pub replaces: Option<String>,
    /// What is copied at first.
    pub sync: Sync,
    /// The bitmap of the source, and what becomes of it.
    pub bitmap: Option<(Arc<DirtyBitmap>, BitmapMode)>,
    /// What the copy has as its backing in the end.
    pub backing: Backing,
    /// The copy reads as zeroes where nothing was written.
    pub target_is_zero: bool,
    /// Writes of the guest go to both sides.
    pub write_blocking: bool,
    /// Zeroes give space back.
    pub unmap: bool,
    /// Bytes of a bit; 0 for the default.
    pub granularity: u64,
    /// Bytes in flight; 0 for the default.
    pub buf_size: u64,
    /// What errors of the source lead to.
    pub on_source_error: OnError,
    /// What errors of the copy lead to.
    pub on_target_error: OnError,
    /// The name of the filter.
    pub filter_node_name: Option<String>,
}

/// Whether a copy of `source` can take the place of `node` without anybody seeing other data: `node` shows the same, below
/// filters, or is a child of a quorum that nobody else reads.
pub fn can_replace(source: &Arc<Node>, node: &Arc<Node>) -> bool {
    if Arc::ptr_eq(source, node) {
        return true;
    }
    if let Some(filtered) = source.filtered() {
        return can_replace(&filtered.node(), node);
    }
    let is_child = || source.children().iter().any(|child| Arc::ptr_eq(&child.node(), node));
    let reads = |edge: &Arc<Child>| edge.permissions().0.contains(Permissions::CONSISTENT_READ);
    let is_of_source = |edge: &Arc<Child>| edge.parent_node().is_some_and(|parent| Arc::ptr_eq(&parent, source));
    source.driver_type().name() == "quorum"
        && is_child()
        && !node.parents().iter().any(|edge| !is_of_source(edge) && reads(edge))
}

/// A mirror.
struct Mirror {
    graph: Arc<Graph>,
    source: Arc<Node>,
    target: Arc<Node>,
    filter: Arc<Node>,
    link: Arc<Link>,
    /// The job's own edges.
    edges: Edges,
    sync: Sync,
    bitmap: Option<UserBitmap>,
    backing: Backing,
    base: Option<Arc<Node>>,
    target_is_zero: bool,
    unmap: bool,
    is_commit: bool,
    restore_read_only: bool,
    chunk: u64,
    in_flight: usize,
    on_source_error: OnError,
    replaces: Option<String>,
    to_replace: Mutex<Option<(Arc<Node>, block::node::Blocker)>>,
    should_complete: AtomicBool,
    /// Writes of the guest shall go to both sides, as soon as the work comes by.
    shall_block: AtomicBool,
    flying: Arc<AtomicU64>,
    drained: Mutex<Option<Drained>>,
    left: AtomicBool,
}

/// Makes a mirror. The caller starts the job.
///
/// # Errors
/// The nodes can't be used so; then nothing has changed.
pub fn create(graph: &Arc<Graph>, jobs: &Jobs, options: &Options) -> Result<Arc<Job>> {
    jobs.check_id(&options.common.id)?;
    let (source, target) = (Arc::clone(&options.source), Arc::clone(&options.target));
    if Arc::ptr_eq(&status::skip_filters(&source), &status::skip_filters(&target)) {
        return Err(Error::invalid("Can't mirror node into itself"));
    }
    let is_commit = chain::contains(&source, &target);
    if !is_commit && chain::contains(&source, &status::skip_filters(&target)) {
        let text = "Cannot mirror to a filter on top of a node in the source's backing chain";
        return Err(Error::invalid(text));
    }
    let granularity = match (options.granularity, &options.bitmap) {
        (0, Some((bitmap, _))) => bitmap.granularity().min(LONGEST_IO),
        (0, None) => target.driver().details().cluster_size.unwrap_or(65536).clamp(4096, 65536),
        (granularity, _) => granularity,
    };
    // A part of a cluster can't be written to an image whose backing comes in the end.
    let cluster = target.driver().details().cluster_size.filter(|size| size.is_power_of_two()).unwrap_or(0);
    let granularity = if options.backing == Backing::Leave { granularity } else { granularity.max(cluster) };
    let restore_read_only = is_commit && target.is_read_only();
    if restore_read_only {
        aio::block_on(async {
            let _drained = graph.drain(&target).await;
            graph.make_writable(&target).await
        })?;
    }
    let built = build(graph, jobs, options, is_commit, granularity, restore_read_only);
    if built.is_err() && restore_read_only {
        aio::block_on(graph.make_read_only(&target))?;
    }
    built
}

fn build(
    graph: &Arc<Graph>,
    jobs: &Jobs,
    options: &Options,
    is_commit: bool,
    granularity: u64,
    restore_read_only: bool,
) -> Result<Arc<Job>> {
    let (source, target) = (Arc::clone(&options.source), Arc::clone(&options.target));
    let above =
        Above { name: options.filter_node_name.as_deref(), driver_type: MIRROR_TOP, edge: "backing", others: &[] };
    let driver = OnceLock::new();
    let filter = aio::block_on(async {
        let _drained = graph.drain(&source).await;
        graph.insert_above(&source, &above, |mut edges| {
            let file = edges.remove(0);
            let top = Arc::new(MirrorTop { file, is_commit, link: OnceLock::new() });
            Arc::clone(driver.get_or_init(|| top)) as Arc<dyn block::Driver>
        })
    })?;
    let attached = attach(graph, options, &filter, is_commit);
    let attached = attached.inspect_err(|_| jobs.announce_stillborn(&options.common, options.kind));
    let made = attached.and_then(|(gate, edges, target_edge)| {
        let dirty = source.bitmaps().create(source.len(), granularity, None);
        let dirty = dirty.and_then(|dirty| {
            // With a bitmap each write counts until both begin: what the job finds is what the bitmap says.
            let is_blocking = options.write_blocking && options.sync != Sync::Bitmap;
            dirty.set_enabled(!is_blocking);
            let link = Arc::new(Link {
                dirty: Arc::clone(&dirty),
                regions: Arc::default(),
                target: target_edge,
                blocking: AtomicBool::new(is_blocking),
                whole_granules: options.backing != Backing::Leave && options.sync != Sync::Full,
                on_target_error: options.on_target_error,
                job: OnceLock::new(),
                stopped: AtomicBool::new(false),
                failed: Mutex::default(),
            });
            let buf_size = if options.buf_size == 0 { MAX_IN_FLIGHT * MAX_IO } else { options.buf_size };
            let buf_size = buf_size.checked_next_multiple_of(granularity).unwrap_or(granularity);
            let chunk = (buf_size / MAX_IN_FLIGHT).clamp(MAX_IO, LONGEST_IO).min(buf_size) / granularity * granularity;
            let chunk = chunk.max(granularity);
            let bitmap = options.bitmap.as_ref().map(|bitmap| UserBitmap::take(&source, bitmap, &dirty)).transpose();
            let bitmap = bitmap.inspect_err(|_| source.bitmaps().release(&dirty))?;
            let mirror = Arc::new(Mirror {
                graph: Arc::clone(graph),
                source: Arc::clone(&source),
                target: Arc::clone(&target),
                filter: Arc::clone(&filter),
                link: Arc::clone(&link),
                edges: Mutex::new(edges.clone()),
                sync: options.sync,
                bitmap: bitmap.clone(),
                backing: options.backing,
                base: (options.sync == Sync::Top).then(|| status::backing_of(&source)).flatten(),
                target_is_zero: options.target_is_zero,
                unmap: options.unmap,
                is_commit,
                restore_read_only,
                chunk,
                in_flight: usize::try_from((buf_size / chunk).clamp(1, MAX_IN_FLIGHT)).unwrap_or(1),
                on_source_error: options.on_source_error,
                replaces: options.replaces.clone(),
                to_replace: Mutex::default(),
                should_complete: AtomicBool::new(false),
                shall_block: AtomicBool::new(options.write_blocking),
                flying: Arc::default(),
                drained: Mutex::default(),
                left: AtomicBool::new(false),
            });
            let new = NewJob { common: options.common.clone(), kind: options.kind, gate, transaction: None };
            let job = jobs.create(new, mirror).inspect_err(|_| {
                source.bitmaps().release(&dirty);
                bitmap.iter().for_each(UserBitmap::give_back);
            })?;
            if options.sync == Sync::Full && !options.target_is_zero && !is_commit {
                // Known before the work begins: a job that is cancelled at once tells so, too.
                job.set_total(source.len());
            }
            Ok((job, link))
        });
        dirty.inspect_err(|_| detach_all(graph, &edges))
    });
    match made {
        Ok((job, link)) => {
            // Both are new.
            let _ = link.job.set(Arc::downgrade(&job));
            if let Some(top) = driver.get() {
                let _ = top.link.set(link);
            }
            job.block_node(&filter);
            job.block_node(&source);
            job.block_node(&target);
            if is_commit {
                chain::of(&source)
                    .skip(1)
                    .take_while(|node| !Arc::ptr_eq(node, &target))
                    .for_each(|n| job.block_node(&n));
            }
            Ok(job)
        }
        Err(error) => {
            let undone = aio::block_on(async {
                let _drained = graph.drain(&source).await;
                graph.dissolve(&filter, &source).await
            });
            undone.and(Err(error))
        }
    }
}

type Attached = (Arc<block::gate::Gate>, Vec<Arc<Child>>, Arc<Child>);

fn attach(graph: &Graph, options: &Options, filter: &Arc<Node>, is_commit: bool) -> Result<Attached> {
    use Permissions as P;
    let holder = Job::holder(options.kind, &options.common.id);
    let gate = Arc::new(block::gate::Gate::new());
    let mut edges = Vec::new();
    let result = (|| {
        let shared = P::CONSISTENT_READ | P::WRITE_UNCHANGED | P::WRITE;
        edges.push(graph.attach_named(filter, (&holder, "main node"), &gate, P::CONSISTENT_READ, shared)?);
        let (mut used, mut target_shared) = (P::WRITE, P::WRITE_UNCHANGED);
        if is_commit {
            if options.target.len() < options.source.len() {
                used = used | P::RESIZE;
            }
            target_shared = target_shared | P::CONSISTENT_READ | P::WRITE;
        }
        let target = graph.attach_named(&options.target, (&holder, "target"), &gate, used, target_shared)?;
        edges.push(Arc::clone(&target));
        edges.push(graph.attach_named(&options.source, (&holder, "source"), &gate, P::NONE, shared)?);
        if is_commit {
            for (node, is_filter) in chain::between(&options.source, &options.target).into_iter().skip(1) {
                let read = if is_filter { P::CONSISTENT_READ } else { P::NONE };
                let shared = P::WRITE_UNCHANGED | P::WRITE | read;
                edges.push(graph.attach_named(&node, (&holder, "intermediate node"), &gate, P::NONE, shared)?);
            }
        }
        Ok(target)
    })();
    match result {
        Ok(target) => Ok((gate, edges, target)),
        Err(error) => {
            detach_all(graph, &edges);
            Err(error)
        }
    }
}

/// Takes back edges; nodes that somebody else holds stay.
fn detach_all(graph: &Graph, edges: &[Arc<Child>]) {
    for edge in edges {
        if let Err(error) = aio::block_on(graph.detach(edge)) {
            tracing::warn!("letting '{}' go: {error}", edge.node().name());
        }
    }
}

/// A piece that is being copied.
struct Piece {
    offset: u64,
    len: u64,
    _region: crate::region::Region,
}

impl Mirror {
    fn len(&self) -> u64 {
        self.source.len()
    }

    fn remaining(&self) -> u64 {
        self.link.dirty.dirty_bytes().saturating_add(self.flying.load(Ordering::Acquire))
    }

    /// Marks what has to be copied at first.
    async fn find_work(&self, job: &Job) -> Result<()> {
        let (dirty, len) = (&self.link.dirty, self.len());
        if matches!(self.sync, Sync::None | Sync::Bitmap) {
            // There is none, or it is known.
            return Ok(());
        }
        if self.sync == Sync::Full && !self.target_is_zero && !self.is_commit {
            dirty.mark(0, len);
            return Ok(());
        }
        let base = if self.is_commit { Some(&self.target) } else { self.base.as_ref() };
        let mut offset = 0;
        while offset < len {
            if job.should_pause() {
                job.pause_point().await;
            }
            if job.is_cancel_requested() {
                return Ok(());
            }
            let _inside = job.gate().enter().await;
            let extent = status::above(&self.source, base, offset, len - offset).await?;
            if extent.len == 0 {
                break;
            }
            let skips_zeroes = self.sync == Sync::Full && self.target_is_zero;
            if extent.allocated && !(skips_zeroes && extent.zero) {
                dirty.mark(offset, extent.len);
            }
            offset += extent.len;
        }
        Ok(())
    }

    /// The next piece to copy from `cursor` on, made clean; the search goes around.
    fn pick(&self, cursor: &mut u64) -> Option<Piece> {
        let (dirty, len) = (&self.link.dirty, self.len());
        let granule = dirty.granularity();
        for (from, to) in [(*cursor, len), (0, *cursor)] {
            let mut at = from;
            while at < to {
                let Some((offset, run)) = dirty.next_dirty(at, to, self.chunk) else { break };
                let offset = offset / granule * granule;
                let run = run.next_multiple_of(granule).min(self.chunk).min(len - offset);
                if let Some(region) = self.link.regions.try_take(offset, offset + run) {
                    dirty.unmark(offset, run);
                    self.flying.fetch_add(run, Ordering::AcqRel);
                    *cursor = if offset + run >= len { 0 } else { offset + run };
                    return Some(Piece { offset, len: run, _region: region });
                }
                let end = self.link.regions.overlap(offset, offset + run).unwrap_or(offset + run);
                at = end.next_multiple_of(granule).max(offset + granule);
            }
        }
        None
    }

    /// Copies one piece.
    async fn copy(&self, piece: Piece) -> Result<(), Failure> {
        let result = self.copy_range(piece.offset, piece.len).await;
        if result.is_err() {
            self.link.dirty.mark(piece.offset, piece.len);
        }
        self.flying.fetch_sub(piece.len, Ordering::AcqRel);
        result
    }

    async fn copy_range(&self, offset: u64, len: u64) -> Result<(), Failure> {
        let fail = |is_read| move |error| Failure { offset, len, is_read, error };
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let extent = status::above(&self.source, None, at, end - at).await.map_err(fail(true))?;
            let n = extent.len.clamp(1, end - at);
            if extent.zero {
                let flags = ZeroFlags { may_unmap: self.unmap, ..ZeroFlags::default() };
                self.link.target.write_zeroes(at, n, flags).await.map_err(fail(false))?;
            } else {
                let buf = IoBuf::zeroed(usize::try_from(n).unwrap_or(0));
                self.source.read(at, buf.clone()).await.map_err(fail(true))?;
                self.link.target.write(at, buf, WriteFlags::default()).await.map_err(fail(false))?;
            }
            at += n;
        }
        Ok(())
    }

    fn failed(&self, job: &Job, failure: Failure) -> Option<Error> {
        let policy = if failure.is_read { self.on_source_error } else { self.link.on_target_error };
        let action = job.request_failed(policy, failure.is_read, &failure.error);
        (action == ErrorAction::Report).then_some(failure.error)
    }

    async fn flush_target(&self, job: &Job) -> Result<bool> {
        let flushed = {
            let _inside = job.gate().enter().await;
            self.link.target.flush().await
        };
        let Err(error) = flushed else { return Ok(true) };
        let failure = Failure { offset: 0, len: 0, is_read: false, error };
        self.failed(job, failure).map_or(Ok(false), Err)
    }

    /// The copies that are left when the source is drained; false if there are too many.
    async fn last_copies(&self) -> Result<bool, Failure> {
        if self.link.dirty.dirty_bytes() > LAST_COPIES.max(self.link.dirty.granularity()) {
            return Ok(false);
        }
        let mut cursor = 0;
        while let Some(piece) = self.pick(&mut cursor) {
            self.copy(piece).await?;
        }
        let failed = |error| Failure { offset: 0, len: 0, is_read: false, error };
        self.link.target.flush().await.map_err(failed)?;
        Ok(true)
    }

    async fn follow(self: &Arc<Self>, job: &Arc<Job>) -> Result<()> {
        let flight = Flight::beside(self.in_flight, &self.filter);
        let result = self.follow_with(job, &flight).await;
        flight.idle().await;
        result
    }

    async fn follow_with(self: &Arc<Self>, job: &Arc<Job>, flight: &Arc<Flight>) -> Result<()> {
        let mut cursor = 0;
        loop {
            for failure in flight.failures() {
                if let Some(error) = self.failed(job, failure) {
                    return Err(error);
                }
            }
            if let Some(error) = self.link.take_failure() {
                return Err(error);
            }
            if job.should_pause() {
                flight.idle().await;
                job.set_remaining(self.remaining());
                job.pause_point().await;
                continue;
            }
            let is_ready = job.is_ready();
            if job.is_cancelled() || (job.is_cancel_requested() && !is_ready) {
                return Ok(());
            }
            if self.shall_block.load(Ordering::Acquire) && !self.link.blocking.load(Ordering::Acquire) {
                flight.idle().await;
                let _drained = self.graph.drain(&self.source).await;
                self.link.block_writes();
                continue;
            }
            job.set_remaining(self.remaining());
            let ends = self.should_complete.load(Ordering::Acquire) || job.is_cancel_requested();
            let is_nearly_clean = is_ready && ends && self.link.dirty.dirty_bytes() <= LAST_COPIES;
            if !is_nearly_clean && self.copy_one(job, flight, &mut cursor).await {
                continue;
            }
            if flight.running() > 0 {
                flight.one_less().await;
                continue;
            }
            if !is_ready {
                if self.link.dirty.dirty_bytes() != 0 {
                    // A guest's writes are about all that is dirty. They may need this very thread to go on.
                    job.sleep(BUSY).await;
                    continue;
                }
                if !self.flush_target(job).await? {
                    continue;
                }
                if self.link.dirty.dirty_bytes() == 0 {
                    job.set_remaining(0);
                    job.set_ready();
                }
                continue;
            }
            if !ends {
                job.sleep(LOOK).await;
                continue;
            }
            let drained = self.graph.drain(&self.source).await;
            match self.last_copies().await {
                Ok(true) => {
                    job.set_remaining(0);
                    *self.drained.lock().unwrap_or_else(PoisonError::into_inner) = Some(drained);
                    return Ok(());
                }
                Ok(false) => {}
                Err(failure) => {
                    drop(drained);
                    if let Some(error) = self.failed(job, failure) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Starts one copy; false if nothing can be started now.
    async fn copy_one(self: &Arc<Self>, job: &Arc<Job>, flight: &Arc<Flight>, cursor: &mut u64) -> bool {
        if self.link.dirty.dirty_bytes() == 0 {
            return false;
        }
        flight.slot().await;
        // The gate first: nobody waits at it with a region in his hands.
        let inside = job.gate().enter_owned().await;
        let Some(piece) = self.pick(cursor) else { return false };
        let len = piece.len;
        let (mirror, its_job) = (Arc::clone(self), Arc::clone(job));
        flight.start(async move {
            let copied = mirror.copy(piece).await;
            if copied.is_ok() {
                its_job.advance(len);
            }
            drop(inside);
            copied
        });
        job.throttle(len).await;
        true
    }

    /// Leaves the graph: with the copy in the source's place, or as it was before.
    async fn leave(&self, pivots: bool, success: bool) -> Result<()> {
        if self.left.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.link.stopped.store(true, Ordering::Release);
        let drained = self.drained.lock().unwrap_or_else(PoisonError::into_inner).take();
        let drained = match drained {
            Some(drained) => drained,
            None => self.graph.drain(&self.source).await,
        };
        // Before the source may be closed, with its bitmaps.
        let bitmap = self.bitmap.as_ref().map(|bitmap| bitmap.end(success, &self.link.dirty)).transpose();
        self.source.bitmaps().release(&self.link.dirty);
        let edges = edges::take(&self.graph, &self.edges)?;
        let mut pivoted = if pivots { self.pivot().await } else { Ok(()) };
        let mut dissolved = Ok(());
        let takes_place = pivots && pivoted.is_ok() && self.replaces.is_none();
        if takes_place {
            // Users that came after the filter use the copy from now on, too.
            let is_own = |edge: &Arc<Child>| {
                edges.iter().any(|own| Arc::ptr_eq(own, edge))
                    || edge.parent_node().is_some_and(|parent| Arc::ptr_eq(&parent, &self.filter))
            };
            let late: Vec<_> = self.source.parents().into_iter().filter(|edge| !is_own(edge)).collect();
            pivoted = self.graph.dissolve_with(&self.filter, &self.target, &late).await.map_err(|error| {
                // The job's error is just a number.
                eprintln!("{error}");
                Error::errno_only(error.errno())
            });
        }
        if !takes_place || (pivoted.is_err() && self.graph.lookup(self.filter.name()).is_some()) {
            dissolved = self.graph.dissolve(&self.filter, &self.source).await;
        }
        if let (Err(_), Ok(Some(bitmap))) = (&pivoted, &bitmap) {
            bitmap.fail();
        }
        drop(drained);
        let mut result = pivoted.and(dissolved).and(bitmap.map(drop)).and(edges::detach(&self.graph, &edges).await);
        self.to_replace.lock().unwrap_or_else(PoisonError::into_inner).take();
        if self.restore_read_only && !(pivots && result.is_ok()) {
            result = result.and(self.graph.make_read_only(&self.target).await);
        }
        result
    }

    /// Opens the backing that the image of the copy names.
    async fn open_backing(&self) -> Result<()> {
        let target = status::skip_filters(&self.target);
        let Some(named) = target.driver().image_backing() else { return Ok(()) };
        let name = filename::combine(&filename::of(&target), &named.file);
        let mut options = block::Options::new().with("filename", name);
        if let Some(format) = &named.format {
            options.set("driver", format.as_str());
        }
        let config = NodeConfig { read_only: true, auto_read_only: false, ..target.config() };
        let backing = self.graph.open(options, Defaults::new(config, OpenFlags::default())).await?;
        self.graph.exchange_backing(&target, Some(&backing)).await
    }

    async fn pivot(&self) -> Result<()> {
        if self.backing == Backing::Source {
            let target = status::skip_filters(&self.target);
            let backing = match self.sync {
                Sync::None => Some(Arc::clone(&self.source)),
                Sync::Top => self.base.clone(),
                Sync::Full | Sync::Bitmap => None,
            };
            let now = target.backing().map(|child| child.node());
            let is_so = match (&now, &backing) {
                (Some(now), Some(backing)) => Arc::ptr_eq(now, backing),
                (None, None) => true,
                _ => false,
            };
            if self.sync == Sync::None {
                // It is a backing image from now on, which others may open by its name: its metadata belong in its file.
                self.source.flush().await?;
            }
            if !is_so && target.backing_slot().is_some() {
                self.graph.exchange_backing(&target, backing.as_ref()).await?;
            }
        }
        if self.backing == Backing::Image {
            self.open_backing().await?;
        }
        let replaced = self.to_replace.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((node, _blocker)) = replaced {
            if !can_replace(&self.source, &node) {
                // The job's error is just a number.
                eprintln!(
                    "Can no longer replace '{}' by '{}', because it can no longer be guaranteed that doing so would not \
                     lead to an abrupt change of visible data",
                    node.name(),
                    self.target.name()
                );
                return Err(Error::errno_only(EPERM));
            }
            let _drained = self.graph.drain(&node).await;
            self.graph.move_users(&node, &self.target)?;
        }
        Ok(())
    }
}

impl JobDriver for Mirror {
    fn run(self: Arc<Self>, job: Arc<Job>) -> IoFuture<'static> {
        Box::pin(async move {
            let (len, target_len) = (self.len(), self.target.len());
            if self.is_commit && target_len < len {
                let _inside = job.gate().enter().await;
                self.link.target.truncate(len, false, Preallocation::Off).await?;
            } else if !self.is_commit && target_len != len {
                job.set_error_text("Source and target image have different sizes");
                return Err(Error::invalid("Source and target image have different sizes"));
            }
            self.find_work(&job).await?;
            let result = self.follow(&job).await;
            self.link.stopped.store(true, Ordering::Release);
            result
        })
    }

    fn completes(&self) -> bool {
        true
    }

    fn complete(&self, _job: &Arc<Job>) -> Result<()> {
        if let Some(name) = &self.replaces {
            let node = self.graph.lookup(name);
            let node = node.ok_or_else(|| Error::not_found(format!("Node name '{name}' not found")))?;
            let blocker = node.block_operations("block device is in use by block-job-complete");
            *self.to_replace.lock().unwrap_or_else(PoisonError::into_inner) = Some((node, blocker));
        }
        self.should_complete.store(true, Ordering::Release);
        Ok(())
    }

    fn change(&self, change: Change) -> Result<()> {
        match change {
            Change::CopyMode(CopyMode::WriteBlocking) => {
                self.shall_block.store(true, Ordering::Release);
                Ok(())
            }
            Change::CopyMode(CopyMode::Background) if self.shall_block.load(Ordering::Acquire) => {
                Err(Error::unsupported("Change to copy mode 'background' is not implemented"))
            }
            Change::CopyMode(CopyMode::Background) => Ok(()),
        }
    }

    fn cancel(&self, job: &Job, force: bool) -> bool {
        let gives_up = force || !job.is_ready();
        if gives_up {
            self.target.cancel_in_flight();
        }
        gives_up
    }

    fn prepare<'a>(&'a self, job: &'a Arc<Job>) -> IoFuture<'a> {
        let pivots = self.should_complete.load(Ordering::Acquire) && !job.is_cancel_requested();
        Box::pin(self.leave(pivots, true))
    }

    fn abort<'a>(&'a self, _job: &'a Arc<Job>) -> IoFuture<'a> {
        Box::pin(self.leave(false, false))
    }
}
