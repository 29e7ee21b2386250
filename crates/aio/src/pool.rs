//! The process's pool of threads for what blocks: at most 64, started on demand, ended when idle.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::reactor;
use crate::task::lock;

pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// The most threads of the process's pool. As many requests of the engine `Threads` run at once.
const MAX_THREADS: usize = 64;
/// How long a thread waits for the next job before it ends.
const IDLE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

/// A bounded pool of threads.
pub(crate) struct Pool {
    state: Mutex<State>,
    work: Condvar,
    max: usize,
    idle: Duration,
}

thread_local! {
    static IN_POOL: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread belongs to a pool. What blocks is done right here then, or jobs that wait for jobs could
/// use up all threads.
pub(crate) fn in_pool() -> bool {
    IN_POOL.with(Cell::get)
}

/// The process's pool.
pub(crate) fn global() -> &'static Arc<Pool> {
    static POOL: std::sync::OnceLock<Arc<Pool>> = std::sync::OnceLock::new();
    POOL.get_or_init(|| Pool::new(MAX_THREADS, IDLE))
}

impl Pool {
    pub(crate) fn new(max: usize, idle: Duration) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), work: Condvar::new(), max, idle })
    }

    /// Runs `job` on a thread of the pool, or right here if the host refuses the first thread.
    pub(crate) fn run(self: &Arc<Self>, job: Job) {
        let mut state = lock(&self.state);
        state.queue.push_back(job);
        if state.queue.len() <= state.idle {
            drop(state);
            self.work.notify_one();
            return;
        }
        if state.threads >= self.max {
            return;
        }
        state.threads += 1;
        drop(state);
        let pool = Arc::clone(self);
        if std::thread::Builder::new().name("aio-pool".to_owned()).spawn(move || pool.work()).is_err() {
            let mut state = lock(&self.state);
            state.threads -= 1;
            let stranded = if state.threads == 0 { state.queue.pop_back() } else { None };
            drop(state);
            if let Some(job) = stranded {
                job();
            }
        }
    }

    fn work(&self) {
        IN_POOL.with(|flag| flag.set(true));
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                // A panic is the job's result, which who waits for it is told; the thread goes on.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                state = lock(&self.state);
                continue;
            }
            state.idle += 1;
            let (again, timeout) = self.work.wait_timeout(state, self.idle).unwrap_or_else(PoisonError::into_inner);
            state = again;
            state.idle -= 1;
            if timeout.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }

    #[cfg(test)]
    fn threads(&self) -> usize {
        lock(&self.state).threads
    }
}

/// Runs `job` where what blocks belongs: on the pool, on a deterministic reactor's list, or here inside of the pool.
pub(crate) fn run(job: Job) {
    let mut job = Some(job);
    reactor::with_current(|reactor| {
        if reactor.is_deterministic()
            && let Some(job) = job.take()
        {
            reactor.defer(job);
        }
    });
    match job {
        Some(job) if in_pool() => job(),
        Some(job) => global().run(job),
        None => {}
    }
}

/// Runs `work` on a thread of the pool and waits for its result. For what has no asynchronous form. `work` runs even if
/// the future is dropped.
pub async fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    crate::not_in_an_attempt().await;
    let (task, handle) = crate::task::join(async move { work() });
    // The future is ready at its first poll: a job is a task that never waits.
    let job: Job = Box::new(move || {
        let mut task = task;
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let _ = task.as_mut().poll(&mut context);
    });
    run(job);
    handle.await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_pool_never_has_more_threads_than_its_limit_and_runs_every_job() {
        let pool = Pool::new(3, Duration::from_secs(5));
        let running = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let (sender, receiver) = mpsc::channel();
        for _ in 0..50 {
            let (running, most, sender) = (Arc::clone(&running), Arc::clone(&most), sender.clone());
            pool.run(Box::new(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(2));
                running.fetch_sub(1, Ordering::SeqCst);
                sender.send(()).expect("the test waits");
            }));
        }
        for _ in 0..50 {
            receiver.recv().expect("every job runs");
        }
        assert!(most.load(Ordering::SeqCst) <= 3);
        assert!(pool.threads() <= 3);
    }

    #[test]
    fn idle_threads_end_and_new_ones_are_started() {
        let pool = Pool::new(2, Duration::from_millis(5));
        for _ in 0..2 {
            let (sender, receiver) = mpsc::channel();
            pool.run(Box::new(move || sender.send(()).expect("the test waits")));
            receiver.recv().expect("the job runs");
            while pool.threads() != 0 {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn a_job_that_panics_leaves_the_pool_alive() {
        let pool = Pool::new(1, Duration::from_secs(5));
        pool.run(Box::new(|| std::panic::resume_unwind(Box::new("expected"))));
        let (sender, receiver) = mpsc::channel();
        pool.run(Box::new(move || sender.send(7).expect("the test waits")));
        assert_eq!(receiver.recv(), Ok(7));
    }
}
