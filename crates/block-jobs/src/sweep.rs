//! One pass over an image from its start to its end, as commits and streams make it: many pieces in flight, errors by
//! the job's policy. What the job tells of its progress is how far everything is done, so that an error tells where it is.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use block::backend::ErrorAction;
use block::{Error, Result};

use crate::flight::{Failure, Flight};
use crate::info::OnError;
use crate::job::Job;

/// The most pieces in flight.
const IN_FLIGHT: usize = 16;

/// What is done with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing.
    Nothing,
    /// Its data are copied.
    Copy,
    /// It is made zero.
    Zero,
}

/// What becomes of a piece whose error is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ignored {
    /// It is tried again.
    Again,
    /// It is left out; the pass ends with the first such error.
    Skipped,
}

/// The work of a pass.
pub(crate) trait Sweep: Send + Sync + 'static {
    /// The longest piece, bytes.
    const CHUNK: u64;
    /// What becomes of a piece whose error is ignored.
    const IGNORED: Ignored;

    /// How long the range from `offset` on is alike, and what has to be done with it.
    fn look(&self, offset: u64, len: u64) -> impl Future<Output = Result<(u64, Need)>> + Send;

    /// Does it.
    fn copy(&self, offset: u64, len: u64, need: Need) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// How far a pass is.
#[derive(Default)]
struct Progress {
    /// Where everything was begun before.
    begun: u64,
    /// The starts of pieces that were begun and are not done.
    open: BTreeSet<u64>,
}

struct Pass<S> {
    work: Arc<S>,
    job: Arc<Job>,
    len: u64,
    on_error: OnError,
    flight: Arc<Flight>,
    progress: Arc<Mutex<Progress>>,
    /// Pieces that have to be done again.
    again: Vec<(u64, u64)>,
    ignored: Option<Error>,
}

/// Goes over the first `len` bytes. Returns early when the job is cancelled.
///
/// # Errors
/// The first error that the policy does not forgive.
pub(crate) async fn run<S: Sweep>(work: &Arc<S>, job: &Arc<Job>, len: u64, on_error: OnError) -> Result<()> {
    let mut pass = Pass {
        work: Arc::clone(work),
        job: Arc::clone(job),
        len,
        on_error,
        flight: Flight::new(IN_FLIGHT),
        progress: Arc::default(),
        again: Vec::new(),
        ignored: None,
    };
    let result = pass.run().await;
    pass.flight.idle().await;
    result
}

/// Changes what is known of the progress, and tells the job.
fn update(progress: &Mutex<Progress>, job: &Job, change: impl FnOnce(&mut Progress)) {
    let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
    change(&mut progress);
    job.set_current(progress.open.first().copied().unwrap_or(progress.begun));
}

impl<S: Sweep> Pass<S> {
    async fn run(&mut self) -> Result<()> {
        loop {
            for failure in self.flight.failures() {
                self.failed(failure)?;
            }
            if self.job.should_pause() {
                self.flight.idle().await;
                self.job.pause_point().await;
                continue;
            }
            if self.job.is_cancel_requested() {
                return Ok(());
            }
            let begun = self.progress.lock().unwrap_or_else(PoisonError::into_inner).begun;
            let (at, most) = match self.again.pop() {
                Some(piece) => piece,
                None if begun < self.len => {
                    let most = S::CHUNK.min(self.len - begun);
                    update(&self.progress, &self.job, |progress| {
                        progress.begun += most;
                        progress.open.insert(begun);
                    });
                    (begun, most)
                }
                None if self.flight.running() > 0 => {
                    self.flight.one_less().await;
                    continue;
                }
                None => return self.ignored.take().map_or(Ok(()), Err),
            };
            self.begin(at, most).await?;
        }
    }

    /// Looks at a piece and starts what has to be done.
    async fn begin(&mut self, at: u64, most: u64) -> Result<()> {
        self.flight.slot().await;
        let inside = self.job.gate().enter_owned().await;
        let (n, need) = match self.work.look(at, most).await {
            Ok((n, need)) => (n.clamp(1, most), need),
            Err(error) => {
                drop(inside);
                return self.failed(Failure { offset: at, len: most, is_read: true, error });
            }
        };
        if n < most {
            self.again.push((at + n, most - n));
            update(&self.progress, &self.job, |progress| {
                progress.open.insert(at + n);
            });
        }
        if need == Need::Nothing {
            self.done(at);
            return Ok(());
        }
        let (work, job, progress) = (Arc::clone(&self.work), Arc::clone(&self.job), Arc::clone(&self.progress));
        self.flight.start(async move {
            let copied = work.copy(at, n, need).await;
            if copied.is_ok() {
                update(&progress, &job, |progress| {
                    progress.open.remove(&at);
                });
            }
            drop(inside);
            copied
        });
        if need == Need::Copy {
            self.job.throttle(n).await;
        }
        Ok(())
    }

    fn done(&self, at: u64) {
        update(&self.progress, &self.job, |progress| {
            progress.open.remove(&at);
        });
    }

    /// A piece failed: it is done again, left out, or ends the pass.
    fn failed(&mut self, failure: Failure) -> Result<()> {
        match self.job.request_failed(self.on_error, failure.is_read, &failure.error) {
            ErrorAction::Report => return Err(failure.error),
            ErrorAction::Ignore if S::IGNORED == Ignored::Skipped => {
                self.done(failure.offset);
                self.ignored.get_or_insert(failure.error);
            }
            ErrorAction::Ignore | ErrorAction::Stop => self.again.push((failure.offset, failure.len)),
        }
        Ok(())
    }
}
