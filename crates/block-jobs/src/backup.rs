//! Backups: a copy of what the guest sees at the moment when the job is made.
//!
//! The filter `copy-before-write` saves what the guest is about to overwrite, the job copies the rest, many pieces at
//! once. With a bitmap only what is dirty there is copied; in the end the bitmap starts again from this moment, or comes
//! back, as the mode says.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use block::backend::ErrorAction;
use block::rewire::Above;
use block::{DirtyBitmap, Error, Graph, IoFuture, Node, Permissions, Result, Role};
use block_tools::status;

use crate::copy::{Copier, longest_piece};
use crate::copy_before_write::{CopyBeforeWrite, CopyBeforeWriteType};
use crate::edges::{self, Edges};
use crate::flight::Flight;
use crate::info::{Kind, OnError};
use crate::job::{Job, JobDriver};
use crate::jobs::{Common, Jobs, NewJob, Transaction};

/// What is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// All that the guest sees.
    Full,
    /// What is in the topmost image.
    Top,
    /// What is overwritten from now on, until the job is cancelled.
    None,
    /// What is dirty in the bitmap.
    Bitmap,
}

/// What becomes of the bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitmapMode {
    /// It starts from the time of the copy, if the job succeeds.
    OnSuccess,
    /// It stays as if there had been no job.
    Never,
    /// It starts from the time of the copy, with what could not be copied.
    Always,
}

/// What a backup is made with.
pub struct Options {
    /// What every job has.
    pub common: Common,
    /// The source.
    pub source: Arc<Node>,
    /// The copy.
    pub target: Arc<Node>,
    /// What is copied.
    pub sync: Sync,
    /// The bitmap, and what becomes of it.
    pub bitmap: Option<(Arc<DirtyBitmap>, BitmapMode)>,
    /// The copy is stored compressed.
    pub compress: bool,
    /// What errors of the source lead to.
    pub on_source_error: OnError,
    /// What errors of the copy lead to.
    pub on_target_error: OnError,
    /// The name of the filter.
    pub filter_node_name: Option<String>,
    /// The most pieces in flight; 0 for the default.
    pub max_workers: usize,
    /// The longest piece, bytes; 0 for the default.
    pub max_chunk: u64,
    /// The jobs that it ends with.
    pub transaction: Option<Transaction>,
}

struct Backup {
    graph: Arc<Graph>,
    source: Arc<Node>,
    target: Arc<Node>,
    filter: Arc<Node>,
    copier: Arc<Copier>,
    edges: Edges,
    sync: Sync,
    bitmap: Option<(Arc<DirtyBitmap>, BitmapMode)>,
    on_source_error: OnError,
    on_target_error: OnError,
    workers: usize,
    chunk: u64,
    bitmap_done: AtomicBool,
}

/// Makes a backup: the moment of the copy is now. The caller starts the job.
///
/// # Errors
/// The nodes can't be used so; then nothing has changed.
pub fn create(graph: &Arc<Graph>, jobs: &Jobs, options: &Options) -> Result<Arc<Job>> {
    jobs.check_id(&options.common.id)?;
    let (source, target) = (Arc::clone(&options.source), Arc::clone(&options.target));
    if Arc::ptr_eq(&source, &target) {
        return Err(Error::invalid("Source and target cannot be the same"));
    }
    const COMPRESSING: [&str; 3] = ["qcow", "qcow2", "vmdk"];
    if options.compress && !COMPRESSING.contains(&status::skip_filters(&target).driver_type().name()) {
        let text = format!("Compression is not supported for this drive {}", target.name());
        return Err(Error::unsupported(text));
    }
    if source.len() != target.len() {
        return Err(Error::invalid("Source and target image have different sizes"));
    }
    if target.is_read_only() {
        return Err(Error::permission(format!("Block node is read-only: '{}'", target.name())));
    }
    let cell: OnceLock<Result<Arc<Copier>>> = OnceLock::new();
    let above = Above {
        name: options.filter_node_name.as_deref(),
        driver_type: &CopyBeforeWriteType,
        edge: "file",
        others: &[("target", Role::Data, Arc::clone(&target))],
    };
    // The bitmap changes hands at the moment of the copy.
    aio::block_on(async {
        let _drained = graph.drain(&source).await;
        let filter = graph.insert_above(&source, &above, |mut edges| {
            let file = edges.remove(0);
            let target = edges.remove(0);
            match CopyBeforeWrite::over(Arc::clone(&file), target) {
                Ok(driver) => {
                    cell.get_or_init(|| Ok(Arc::clone(driver.copier())));
                    Arc::new(driver) as Arc<dyn block::Driver>
                }
                Err(error) => {
                    cell.get_or_init(|| Err(error));
                    Arc::new(crate::mirror_top::CommitTop { file }) as Arc<dyn block::Driver>
                }
            }
        })?;
        let made = match cell.get() {
            Some(Ok(copier)) => build(graph, jobs, options, &filter, copier),
            Some(Err(error)) => Err(error.clone()),
            None => Err(Error::invalid("The filter was not made")),
        };
        match made {
            Ok(job) => Ok(job),
            Err(error) => graph.dissolve(&filter, &source).await.and(Err(error)),
        }
    })
}

fn build(
    graph: &Arc<Graph>,
    jobs: &Jobs,
    options: &Options,
    filter: &Arc<Node>,
    copier: &Arc<Copier>,
) -> Result<Arc<Job>> {
    let cluster = copier.cluster();
    if options.max_chunk != 0 && options.max_chunk < cluster {
        let max = options.max_chunk;
        let text = format!("Required max-chunk ({max}) is less than backup cluster size ({cluster})");
        return Err(Error::invalid(text));
    }
    if let Some((bitmap, _)) = options.bitmap.as_ref()
        && options.sync == Sync::Bitmap
    {
        copier.copy_only(bitmap);
    }
    if options.sync == Sync::Top {
        copier.set_only_top();
    }
    if options.compress {
        copier.set_compressed();
    }
    let holder = Job::holder(Kind::Backup, &options.common.id);
    let gate = Arc::new(block::gate::Gate::new());
    let shared = Permissions::CONSISTENT_READ | Permissions::WRITE_UNCHANGED | Permissions::WRITE;
    let main = graph.attach_named(filter, (&holder, "main node"), &gate, Permissions::NONE, shared)?;
    let backup = Arc::new(Backup {
        graph: Arc::clone(graph),
        source: Arc::clone(&options.source),
        target: Arc::clone(&options.target),
        filter: Arc::clone(filter),
        copier: Arc::clone(copier),
        edges: Mutex::new(vec![Arc::clone(&main)]),
        sync: options.sync,
        bitmap: options.bitmap.clone(),
        on_source_error: options.on_source_error,
        on_target_error: options.on_target_error,
        workers: if options.max_workers == 0 { 64 } else { options.max_workers },
        chunk: match options.max_chunk {
            0 => longest_piece(cluster),
            // A client does not say how much memory a piece takes.
            max => max.min(longest_piece(cluster)),
        },
        bitmap_done: AtomicBool::new(false),
    });
    let bitmaps = options.source.bitmaps();
    copier.show_on(filter.bitmaps());
    let job = (|| {
        if let Some((bitmap, _)) = &options.bitmap {
            bitmaps.create_successor(bitmap)?;
        }
        let new = NewJob {
            common: options.common.clone(),
            kind: Kind::Backup,
            gate,
            transaction: options.transaction.clone(),
        };
        let job = jobs.create(new, backup);
        if job.is_err()
            && let Some((bitmap, _)) = &options.bitmap
        {
            bitmaps.reclaim(bitmap)?;
        }
        job
    })();
    match job {
        Ok(job) => {
            bitmaps.adopt(copier.todo());
            copier.set_job(&job);
            job.set_total(options.source.len());
            job.block_node(filter);
            job.block_node(&options.source);
            job.block_node(&options.target);
            Ok(job)
        }
        Err(error) => {
            // Just this edge goes: the caller takes the filter out and closes it.
            drop(graph.set_permissions(&main, Permissions::NONE, Permissions::ALL));
            main.node().forget_edge(&main);
            Err(error)
        }
    }
}

impl Backup {
    fn end_bitmap(&self, success: bool) -> Result<()> {
        let Some((bitmap, mode)) = &self.bitmap else { return Ok(()) };
        if self.bitmap_done.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let bitmaps = self.source.bitmaps();
        let starts_again = (success || *mode == BitmapMode::Always) && *mode != BitmapMode::Never;
        if !starts_again {
            return bitmaps.reclaim(bitmap);
        }
        let heir = bitmaps.abdicate(bitmap)?;
        if !success {
            heir.mark_dirty_of(self.copier.todo());
        }
        Ok(())
    }

    /// Leaves out what the topmost image does not have: the copy has the same backing.
    async fn skip_what_is_below(&self, job: &Arc<Job>) -> Result<()> {
        let (size, cluster) = (self.copier.todo().size(), self.copier.cluster());
        let mut at = 0;
        while at < size && !job.is_cancel_requested() {
            job.pause_point().await;
            let inside = job.gate().enter().await;
            let extent = status::of_node(&self.source, at, size - at).await?;
            drop(inside);
            let end = if at + extent.len >= size { size } else { (at + extent.len) / cluster * cluster };
            if extent.len == 0 {
                break;
            }
            if !extent.allocated && end > at {
                self.copier.todo().unmark(at, end - at);
            }
            // A cluster that is there in part is copied.
            at = if end > at { end } else { at + cluster };
        }
        Ok(())
    }

    async fn copy(self: &Arc<Self>, job: &Arc<Job>, flight: &Arc<Flight>) -> Result<()> {
        let size = self.copier.todo().size();
        let mut cursor = 0;
        loop {
            // First there is room again, so that nothing is begun after a failure that ends the job.
            flight.slot().await;
            for failure in flight.failures() {
                let policy = if failure.is_read { self.on_source_error } else { self.on_target_error };
                if job.request_failed(policy, failure.is_read, &failure.error) == ErrorAction::Report {
                    return Err(failure.error);
                }
            }
            if job.should_pause() {
                flight.idle().await;
                job.pause_point().await;
                continue;
            }
            if job.is_cancel_requested() {
                return Ok(());
            }
            // The gate first: nobody waits at it with a region in his hands.
            let inside = job.gate().enter_owned().await;
            let piece = self.copier.take(cursor, size, self.chunk).or_else(|| self.copier.take(0, size, self.chunk));
            let Some(piece) = piece else {
                drop(inside);
                if flight.running() > 0 {
                    flight.one_less().await;
                    continue;
                }
                if self.copier.todo().dirty_bytes() == 0 {
                    return Ok(());
                }
                // The guest copies the rest just now.
                job.sleep(std::time::Duration::from_millis(10)).await;
                continue;
            };
            cursor = piece.offset + piece.len;
            let (len, copier) = (piece.len, Arc::clone(&self.copier));
            flight.start(async move {
                let copied = copier.copy(piece).await;
                drop(inside);
                copied
            });
            job.throttle(len).await;
        }
    }
}

impl JobDriver for Backup {
    fn cancel(&self, _job: &Job, _force: bool) -> bool {
        self.target.cancel_in_flight();
        true
    }

    fn run(self: Arc<Self>, job: Arc<Job>) -> IoFuture<'static> {
        Box::pin(async move {
            if self.sync == Sync::None {
                while !job.is_cancel_requested() {
                    job.pause_point().await;
                    job.wait().await;
                }
                return Ok(());
            }
            if self.sync == Sync::Top {
                self.skip_what_is_below(&job).await?;
            }
            job.set_total(job.info().current + self.copier.remaining());
            let flight = Flight::beside(self.workers, &self.filter);
            let result = self.copy(&job, &flight).await;
            flight.idle().await;
            result?;
            if !job.is_cancel_requested() {
                // The copy is complete: it shall stay so. The source is its users' matter.
                let _inside = job.gate().enter().await;
                self.target.flush().await?;
            }
            Ok(())
        })
    }

    fn commit<'a>(&'a self, _job: &'a Arc<Job>) -> IoFuture<'a> {
        Box::pin(std::future::ready(self.end_bitmap(true)))
    }

    fn abort<'a>(&'a self, _job: &'a Arc<Job>) -> IoFuture<'a> {
        Box::pin(std::future::ready(self.end_bitmap(false)))
    }

    fn clean<'a>(&'a self, _job: &'a Arc<Job>) -> IoFuture<'a> {
        Box::pin(async move {
            let drained = self.graph.drain(&self.source).await;
            self.source.bitmaps().release(self.copier.todo());
            for edge in &edges::take(&self.graph, &self.edges)? {
                edge.node().forget_edge(edge);
            }
            let result = self.graph.dissolve(&self.filter, &self.source).await;
            drop(drained);
            result
        })
    }
}
