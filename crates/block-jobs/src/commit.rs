//! Commits below the active image: what the images from the top down to the base say goes into the base, then they leave
//! the chain. (A commit of the active image is a [`crate::mirror`].)

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use block::image::ImageBacking;
use block::rewire::Above;
use block::{
    Child, Error, Graph, IoFuture, Node, Permissions, Preallocation, Result, Role, WriteFlags, ZeroFlags, filename,
};
use block_tools::status;
use iobuf::IoBuf;

use crate::chain;
use crate::edges::{self, Edges};
use crate::flight::Failure;
use crate::info::{Kind, OnError};
use crate::job::{Job, JobDriver};
use crate::jobs::{Common, Jobs, NewJob};
use crate::mirror_top::{COMMIT_TOP, CommitTop};
use crate::sweep::{self, Ignored, Need, Sweep};

/// What a commit is made with.
pub struct Options {
    /// What every job has.
    pub common: Common,
    /// The image that the chain is read through.
    pub active: Arc<Node>,
    /// The topmost image whose data goes down.
    pub top: Arc<Node>,
    /// The image that the data goes to.
    pub base: Arc<Node>,
    /// The name that the image above the top gets for its backing; that of the base if absent.
    pub backing_file: Option<String>,
    /// What errors lead to.
    pub on_error: OnError,
    /// The name of the filter.
    pub filter_node_name: Option<String>,
}

struct Commit {
    graph: Arc<Graph>,
    top: Arc<Node>,
    base: Arc<Node>,
    filter: Arc<Node>,
    target: Arc<Child>,
    edges: Edges,
    backing_file: Option<String>,
    on_error: OnError,
    restore_read_only: bool,
    left: AtomicBool,
}

/// Makes a commit. The caller starts the job.
///
/// # Errors
/// The nodes can't be used so; then nothing has changed.
pub fn create(graph: &Arc<Graph>, jobs: &Jobs, options: &Options) -> Result<Arc<Job>> {
    jobs.check_id(&options.common.id)?;
    let (top, base) = (Arc::clone(&options.top), Arc::clone(&options.base));
    if Arc::ptr_eq(&status::skip_filters(&top), &status::skip_filters(&base)) {
        return Err(Error::invalid("Invalid files for merge: top and base are the same"));
    }
    let restore_read_only = base.is_read_only();
    let above =
        Above { name: options.filter_node_name.as_deref(), driver_type: COMMIT_TOP, edge: "backing", others: &[] };
    let filter = aio::block_on(async {
        let _drained = graph.drain(&base).await;
        if restore_read_only {
            graph.make_writable(&base).await?;
        }
        graph.insert_above(&top, &above, |mut edges| Arc::new(CommitTop { file: edges.remove(0) }))
    });
    let filter = match filter {
        Ok(filter) => filter,
        Err(error) => {
            jobs.announce_stillborn(&options.common, Kind::Commit);
            if restore_read_only {
                aio::block_on(graph.make_read_only(&base))?;
            }
            return Err(error);
        }
    };
    let mut edges = Vec::new();
    let gate = Arc::new(block::gate::Gate::new());
    let attached = attach(graph, options, &gate, &filter, &mut edges)
        .inspect_err(|_| jobs.announce_stillborn(&options.common, Kind::Commit));
    let job = attached.and_then(|target| {
        let commit = Arc::new(Commit {
            graph: Arc::clone(graph),
            top: Arc::clone(&top),
            base: Arc::clone(&base),
            filter: Arc::clone(&filter),
            target,
            edges: Mutex::new(edges.clone()),
            backing_file: options.backing_file.clone(),
            on_error: options.on_error,
            restore_read_only,
            left: AtomicBool::new(false),
        });
        let new = NewJob { common: options.common.clone(), kind: Kind::Commit, gate, transaction: None };
        jobs.create(new, commit)
    });
    match job {
        Ok(job) => {
            job.block_node(&options.active);
            chain::of(&top).take_while(|node| !Arc::ptr_eq(node, &base)).for_each(|node| job.block_node(&node));
            job.block_node(&base);
            Ok(job)
        }
        Err(error) => {
            let undone = aio::block_on(async {
                let drained = graph.drain(&base).await;
                edges::give_up_claims(graph, &edges)?;
                let result = graph.dissolve(&filter, &top).await;
                drop(drained);
                for edge in &edges {
                    graph.detach(edge).await?;
                }
                if restore_read_only {
                    graph.make_read_only(&base).await?;
                }
                result
            });
            undone.and(Err(error))
        }
    }
}

fn attach(
    graph: &Graph,
    options: &Options,
    gate: &Arc<block::gate::Gate>,
    filter: &Arc<Node>,
    edges: &mut Vec<Arc<Child>>,
) -> Result<Arc<Child>> {
    use Permissions as P;
    let holder = Job::holder(Kind::Commit, &options.common.id);
    edges.push(graph.attach_named(filter, (&holder, "main node"), gate, P::NONE, P::ALL)?);
    for (node, is_filter) in chain::between(&options.top, &options.base) {
        let read = if is_filter { P::CONSISTENT_READ } else { P::NONE };
        let shared = P::WRITE_UNCHANGED | P::WRITE | read;
        edges.push(graph.attach_named(&node, (&holder, "intermediate node"), gate, P::NONE, shared)?);
    }
    let mut used = P::CONSISTENT_READ | P::WRITE;
    if options.base.len() < options.top.len() {
        used = used | P::RESIZE;
    }
    let shared = P::CONSISTENT_READ | P::WRITE_UNCHANGED;
    let target = graph.attach_named(&options.base, (&holder, "base"), gate, used, shared)?;
    edges.push(Arc::clone(&target));
    Ok(target)
}

impl Commit {
    /// Gives the images above the top the base as their backing.
    async fn rename_backing(&self) -> Result<()> {
        let file = self.backing_file.clone().unwrap_or_else(|| filename::of(&self.base));
        let format = Some(status::skip_filters(&self.base).driver_type().name().to_owned());
        for overlay in overlays(&self.filter) {
            let backing = ImageBacking { file: file.clone(), format: format.clone() };
            let was_read_only = overlay.is_read_only();
            if was_read_only {
                self.graph.make_writable(&overlay).await?;
            }
            let changed = overlay.change_backing(Some(backing)).await;
            let flushed = match &changed {
                Ok(()) => overlay.flush().await,
                Err(_) => Ok(()),
            };
            if was_read_only {
                self.graph.make_read_only(&overlay).await?;
            }
            match changed {
                Err(error) if !error.is_unsupported() => return Err(error),
                _ => flushed?,
            }
        }
        Ok(())
    }

    async fn leave(&self, success: bool) -> Result<()> {
        if self.left.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let drained = self.graph.drain(&self.base).await;
        let edges = edges::take(&self.graph, &self.edges)?;
        let renamed = if success { self.rename_backing().await } else { Ok(()) };
        let to = if success && renamed.is_ok() { &self.base } else { &self.top };
        let dissolved = self.graph.dissolve(&self.filter, to).await;
        drop(drained);
        let mut result = renamed.and(dissolved).and(edges::detach(&self.graph, &edges).await);
        if self.restore_read_only {
            result = result.and(self.graph.make_read_only(&self.base).await);
        }
        result
    }
}

/// The images that have this node as their backing, filters in between left out.
fn overlays(node: &Arc<Node>) -> Vec<Arc<Node>> {
    let mut found = Vec::new();
    for edge in node.parents() {
        let Some(parent) = edge.parent_node() else { continue };
        match edge.role() {
            Role::Cow => found.push(parent),
            Role::Filtered => found.extend(overlays(&parent)),
            _ => {}
        }
    }
    found
}

impl Sweep for Commit {
    const CHUNK: u64 = 1 << 19;
    const IGNORED: Ignored = Ignored::Again;

    async fn look(&self, offset: u64, len: u64) -> Result<(u64, Need)> {
        let extent = status::above(&self.top, Some(&self.base), offset, len).await?;
        let need = match (extent.allocated, extent.zero) {
            (false, _) => Need::Nothing,
            (true, true) => Need::Zero,
            (true, false) => Need::Copy,
        };
        Ok((extent.len, need))
    }

    async fn copy(&self, offset: u64, len: u64, need: Need) -> Result<(), Failure> {
        let fail = |is_read| move |error| Failure { offset, len, is_read, error };
        if need == Need::Zero {
            let flags = ZeroFlags { may_unmap: true, ..ZeroFlags::default() };
            return self.target.write_zeroes(offset, len, flags).await.map_err(fail(false));
        }
        let buf = IoBuf::zeroed(usize::try_from(len).unwrap_or(0));
        self.top.read(offset, buf.clone()).await.map_err(fail(true))?;
        self.target.write(offset, buf, WriteFlags::default()).await.map_err(fail(false))
    }
}

impl JobDriver for Commit {
    fn run(self: Arc<Self>, job: Arc<Job>) -> IoFuture<'static> {
        Box::pin(async move {
            let len = self.top.len();
            job.set_total(len);
            if self.base.len() < len {
                let _inside = job.gate().enter().await;
                self.target.truncate(len, false, Preallocation::Off).await?;
            }
            sweep::run(&self, &job, len, self.on_error).await?;
            let _inside = job.gate().enter().await;
            self.target.flush().await
        })
    }

    fn prepare<'a>(&'a self, _job: &'a Arc<Job>) -> IoFuture<'a> {
        Box::pin(self.leave(true))
    }

    fn abort<'a>(&'a self, _job: &'a Arc<Job>) -> IoFuture<'a> {
        Box::pin(self.leave(false))
    }
}
