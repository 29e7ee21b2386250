//! Tasks of a reactor, and how their results are waited for.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::reactor::Shared;

type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A future that a reactor polls until it ends. It is its own waker.
pub(crate) struct Task {
    /// Locked by the reactor's thread alone.
    future: Mutex<Option<BoxFuture>>,
    /// The task is in a queue and will be polled; a further wake-up does nothing.
    scheduled: AtomicBool,
    shared: Arc<Shared>,
    /// Where the reactor keeps the task.
    pub(crate) slot: AtomicUsize,
}

impl Task {
    /// A task that counts as scheduled: the caller puts it into a queue.
    pub(crate) fn new(future: BoxFuture, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            future: Mutex::new(Some(future)),
            scheduled: AtomicBool::new(true),
            shared,
            slot: AtomicUsize::new(usize::MAX),
        })
    }

    /// Polls the future; whether it has ended.
    pub(crate) fn poll(self: &Arc<Self>) -> bool {
        self.scheduled.store(false, Ordering::Release);
        let mut future = lock(&self.future);
        let Some(running) = future.as_mut() else { return true };
        let waker = Waker::from(Arc::clone(self));
        let ready = running.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if ready {
            *future = None;
        }
        ready
    }

    /// Drops the future without ending it.
    pub(crate) fn abandon(&self) {
        let future = lock(&self.future).take();
        drop(future);
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if !self.scheduled.swap(true, Ordering::AcqRel) {
            Shared::schedule(self);
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.scheduled.swap(true, Ordering::AcqRel) {
            Shared::schedule(Arc::clone(self));
        }
    }
}

impl Task {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

enum Outcome<T> {
    Running(Option<Waker>),
    Ended(T),
    Panicked(Box<dyn Any + Send>),
    Dropped,
    Taken,
}

struct JoinState<T>(Mutex<Outcome<T>>);

impl<T> JoinState<T> {
    fn finish(&self, outcome: Outcome<T>) {
        let old = std::mem::replace(&mut *lock(&self.0), outcome);
        if let Outcome::Running(Some(waker)) = old {
            waker.wake();
        }
    }
}

/// Fills in the outcome, whatever happens to the task.
struct Finish<T>(Arc<JoinState<T>>, bool);

impl<T> Finish<T> {
    fn finish(&mut self, outcome: Outcome<T>) {
        self.1 = true;
        self.0.finish(outcome);
    }
}

impl<T> Drop for Finish<T> {
    fn drop(&mut self) {
        if !self.1 {
            self.finish(Outcome::Dropped);
        }
    }
}

/// The result of a task. Dropping it leaves the task running.
///
/// Awaiting it gives what the task's future gave; if that panicked, the panic goes on here. It panics, too, if the
/// reactor ended before the task did.
pub struct JoinHandle<T>(Arc<JoinState<T>>);

impl<T> std::fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinHandle")
    }
}

impl<T> JoinHandle<T> {
    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        !matches!(*lock(&self.0.0), Outcome::Running(_))
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut state = lock(&self.0.0);
        if let Outcome::Running(waker) = &mut *state {
            match waker {
                Some(known) => known.clone_from(context.waker()),
                None => *waker = Some(context.waker().clone()),
            }
            return Poll::Pending;
        }
        let outcome = std::mem::replace(&mut *state, Outcome::Taken);
        drop(state);
        match outcome {
            Outcome::Ended(value) => Poll::Ready(value),
            Outcome::Panicked(payload) => resume_unwind(payload),
            Outcome::Dropped => panic!("the reactor ended before its task"),
            Outcome::Running(_) | Outcome::Taken => panic!("JoinHandle polled after it was ready"),
        }
    }
}

/// `future` as a task's future, and the handle to its result.
pub(crate) fn join<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> (BoxFuture, JoinHandle<T>) {
    let state = Arc::new(JoinState(Mutex::new(Outcome::Running(None))));
    let mut finish = Finish(Arc::clone(&state), false);
    let task = async move {
        let outcome = CatchUnwind(Box::pin(future)).await;
        finish.finish(match outcome {
            Ok(value) => Outcome::Ended(value),
            Err(payload) => Outcome::Panicked(payload),
        });
    };
    (Box::pin(task), JoinHandle(state))
}

/// A future whose panic becomes a value, so that it ends one task and not the reactor.
struct CatchUnwind<F>(Pin<Box<F>>);

impl<F: Future> Future for CatchUnwind<F> {
    type Output = Result<F::Output, Box<dyn Any + Send>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Err(payload) => Poll::Ready(Err(payload)),
        }
    }
}
