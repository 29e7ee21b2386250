//! Streams: what is below an image, down to a base, goes into the image; then the images in between leave the chain.
//!
//! The job reads through a `copy-on-read` filter, which keeps its copies apart from the guest's writes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use block::image::ImageBacking;
use block::rewire::Above;
use block::{Child, DriverType, Graph, IoFuture, Node, Permissions, Result, filename};
use block_filters::copy_on_read::{self, CopyOnReadType};
use block_tools::status;
use iobuf::IoBuf;

use crate::chain;
use crate::edges::{self, Edges};
use crate::flight::Failure;
use crate::info::{Kind, OnError};
use crate::job::{Job, JobDriver};
use crate::jobs::{Common, Jobs, NewJob};
use crate::sweep::{self, Ignored, Need, Sweep};

/// What a stream is made with.
pub struct Options {
    /// What every job has.
    pub common: Common,
    /// The image that the data goes to.
    pub top: Arc<Node>,
    /// The lowest image whose data is taken, no filter; all images if absent.
    pub bottom: Option<Arc<Node>>,
    /// The name that the image gets for its new backing; that of the backing if absent.
    pub backing_file: Option<String>,
    /// What errors lead to.
    pub on_error: OnError,
    /// The name of the filter.
    pub filter_node_name: Option<String>,
}

struct Stream {
    graph: Arc<Graph>,
    /// The image that the data goes to, without its filters.
    image: Arc<Node>,
    top: Arc<Node>,
    /// What is below the lowest image whose data is taken.
    bottom: Option<Arc<Node>>,
    filter: Arc<Node>,
    edges: Edges,
    backing_file: Option<String>,
    on_error: OnError,
    restore_read_only: bool,
    left: AtomicBool,
}

/// Makes a stream. The caller starts the job.
///
/// # Errors
/// The nodes can't be used so; then nothing has changed.
pub fn create(graph: &Arc<Graph>, jobs: &Jobs, options: &Options) -> Result<Arc<Job>> {
    use Permissions as P;
    jobs.check_id(&options.common.id)?;
    let top = Arc::clone(&options.top);
    let image = status::skip_filters(&top);
    let bottom = options.bottom.clone().or_else(|| chain::overlay_of(&top, None));
    let restore_read_only = image.is_read_only();
    let static_type: &'static dyn DriverType = &CopyOnReadType;
    let above =
        Above { name: options.filter_node_name.as_deref(), driver_type: static_type, edge: "file", others: &[] };
    let holder = Job::holder(Kind::Stream, &options.common.id);
    let gate = Arc::new(block::gate::Gate::new());
    let mut edges = Vec::new();
    let filter = aio::block_on(async {
        let _drained = graph.drain(&top).await;
        if restore_read_only {
            graph.make_writable(&image).await?;
        }
        let bottom = bottom.as_ref().map(|node| node.name().to_owned());
        let filter = graph.insert_above(&top, &above, |mut edges| copy_on_read::over(edges.remove(0), bottom))?;
        let attached = (|| {
            let basic = P::CONSISTENT_READ | P::WRITE_UNCHANGED;
            let main =
                graph.attach_named(&filter, (&holder, "main node"), &gate, P::CONSISTENT_READ, basic | P::WRITE)?;
            edges.push(main);
            let unchanged = P::WRITE_UNCHANGED;
            edges.push(graph.attach_named(&top, (&holder, "active node"), &gate, unchanged, basic | P::WRITE)?);
            let last = bottom_of(options, &image);
            for node in chain::of(&top).skip(1) {
                if last.as_ref().is_none_or(|last| Arc::ptr_eq(last, &image)) {
                    break;
                }
                edges.push(graph.attach_named(&node, (&holder, "intermediate node"), &gate, P::NONE, basic)?);
                if last.as_ref().is_some_and(|last| Arc::ptr_eq(last, &node)) {
                    break;
                }
            }
            Ok(())
        })();
        match attached {
            Ok(()) => Ok(filter),
            Err(error) => {
                jobs.announce_stillborn(&options.common, Kind::Stream);
                undo(graph, &filter, &top, &edges).await.and(Err(error))
            }
        }
    });
    let made = filter.and_then(|filter| {
        let stream = Arc::new(Stream {
            graph: Arc::clone(graph),
            image: Arc::clone(&image),
            top: Arc::clone(&top),
            bottom: bottom.clone(),
            filter: Arc::clone(&filter),
            edges: Mutex::new(edges.clone()),
            backing_file: options.backing_file.clone(),
            on_error: options.on_error,
            restore_read_only,
            left: AtomicBool::new(false),
        });
        let new =
            NewJob { common: options.common.clone(), kind: Kind::Stream, gate: Arc::clone(&gate), transaction: None };
        match jobs.create(new, stream) {
            Ok(job) => Ok((job, filter)),
            Err(error) => aio::block_on(undo(graph, &filter, &top, &edges)).and(Err(error)),
        }
    });
    match made {
        Ok((job, filter)) => {
            job.block_node(&filter);
            for node in chain::of(&top) {
                job.block_node(&node);
                if bottom.as_ref().is_some_and(|bottom| Arc::ptr_eq(bottom, &node)) {
                    break;
                }
            }
            Ok(job)
        }
        Err(error) => {
            if restore_read_only {
                aio::block_on(graph.make_read_only(&image))?;
            }
            Err(error)
        }
    }
}

/// The lowest image of the job: whoever is below it stays.
fn bottom_of(options: &Options, image: &Arc<Node>) -> Option<Arc<Node>> {
    options.bottom.clone().or_else(|| chain::overlay_of(image, None))
}

async fn undo(graph: &Graph, filter: &Arc<Node>, top: &Arc<Node>, edges: &[Arc<Child>]) -> Result<()> {
    edges::give_up_claims(graph, edges)?;
    let dissolved = graph.dissolve(filter, top).await;
    dissolved.and(edges::detach(graph, edges).await)
}

impl Stream {
    /// What is below the lowest image whose data is taken: it becomes the backing.
    fn base(&self) -> Option<Arc<Node>> {
        self.bottom.as_ref().and_then(|bottom| bottom.backing()).map(|child| child.node())
    }

    async fn take_over(&self) -> Result<()> {
        let base = self.base();
        if self.image.backing().is_none() {
            return Ok(());
        }
        let stored = base.as_ref().map(|base| {
            let unfiltered = status::skip_filters(base);
            ImageBacking {
                file: self.backing_file.clone().unwrap_or_else(|| filename::of(&unfiltered)),
                format: Some(unfiltered.driver_type().name().to_owned()),
            }
        });
        match self.image.change_backing(stored).await {
            Err(error) if !error.is_unsupported() => return Err(error),
            _ => {}
        }
        self.image.flush().await?;
        self.graph.exchange_backing(&self.image, base.as_ref()).await
    }

    async fn leave(&self, success: bool) -> Result<()> {
        if self.left.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let drained = self.graph.drain(&self.top).await;
        let edges = edges::take(&self.graph, &self.edges)?;
        let dissolved = self.graph.dissolve(&self.filter, &self.top).await;
        let taken = if success { self.take_over().await } else { Ok(()) };
        drop(drained);
        let mut result = dissolved.and(taken).and(edges::detach(&self.graph, &edges).await);
        if self.restore_read_only {
            result = result.and(self.graph.make_read_only(&self.image).await);
        }
        result
    }
}

impl Sweep for Stream {
    const CHUNK: u64 = 1 << 19;
    // With errors the backing is still needed.
    const IGNORED: Ignored = Ignored::Skipped;

    async fn look(&self, offset: u64, len: u64) -> Result<(u64, Need)> {
        let own = status::of_node(&self.image, offset, len).await?;
        if own.allocated || own.len == 0 {
            return Ok((own.len, Need::Nothing));
        }
        let Some(backing) = status::backing_of(&self.image) else { return Ok((own.len, Need::Nothing)) };
        let base = self.base();
        let below = status::above(&backing, base.as_ref(), offset, own.len).await?;
        if below.len == 0 {
            // Behind the end of the backing there is nothing to copy.
            return Ok((own.len, Need::Nothing));
        }
        Ok((below.len.min(own.len), if below.allocated { Need::Copy } else { Need::Nothing }))
    }

    async fn copy(&self, offset: u64, len: u64, _need: Need) -> Result<(), Failure> {
        let buf = IoBuf::zeroed(usize::try_from(len).unwrap_or(0));
        let copied = self.filter.read(offset, buf).await;
        copied.map_err(|error| Failure { offset, len, is_read: true, error })
    }
}

impl JobDriver for Stream {
    fn run(self: Arc<Self>, job: Arc<Job>) -> IoFuture<'static> {
        Box::pin(async move {
            if self.bottom.as_ref().is_some_and(|bottom| Arc::ptr_eq(bottom, &self.image)) {
                // There is nothing to take.
                return Ok(());
            }
            let len = self.image.len();
            job.set_total(len);
            sweep::run(&self, &job, len, self.on_error).await
        })
    }

    fn prepare<'a>(&'a self, _job: &'a Arc<Job>) -> IoFuture<'a> {
        Box::pin(self.leave(true))
    }

    fn abort<'a>(&'a self, _job: &'a Arc<Job>) -> IoFuture<'a> {
        Box::pin(self.leave(false))
    }
}
