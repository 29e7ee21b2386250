//! Several futures of one task: each is polled only when it was woken itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// A future of a set.
pub type Task<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

struct Flag {
    woken: AtomicBool,
    parent: Mutex<Option<Waker>>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Some(parent) = self.parent.lock().unwrap_or_else(PoisonError::into_inner).as_ref()
        {
            parent.wake_by_ref();
        }
    }
}

/// Futures that run beside each other within one task, and their results.
pub struct Set<'a, T> {
    tasks: Vec<(Task<'a, T>, Arc<Flag>)>,
    finished: Vec<T>,
}

impl<T> Default for Set<'_, T> {
    fn default() -> Self {
        Self { tasks: Vec::new(), finished: Vec::new() }
    }
}

impl<'a, T> Set<'a, T> {
    /// Adds a future. It starts with the next poll of the set.
    pub fn push(&mut self, task: impl Future<Output = T> + Send + 'a) {
        self.tasks.push((Box::pin(task), Arc::new(Flag { woken: AtomicBool::new(true), parent: Mutex::default() })));
    }

    /// Whether no future is left.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// How many futures are left.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Polls the futures that were woken, in the order in which they were added.
    pub fn poll_all(&mut self, context: &mut Context<'_>) {
        let mut at = 0;
        while at < self.tasks.len() {
            let (task, flag) = &mut self.tasks[at];
            *flag.parent.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
            let result = if flag.woken.swap(false, Ordering::AcqRel) {
                task.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(flag))))
            } else {
                Poll::Pending
            };
            match result {
                Poll::Ready(value) => {
                    self.finished.push(value);
                    drop(self.tasks.remove(at));
                }
                Poll::Pending => at += 1,
            }
        }
    }

    /// Runs `future` to its end, the set beside it.
    pub async fn with<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = Box::pin(future);
        std::future::poll_fn(|context| {
            // The future first: it was there before what wakes the set now.
            if let Poll::Ready(value) = future.as_mut().poll(context) {
                return Poll::Ready(value);
            }
            self.poll_all(context);
            Poll::Pending
        })
        .await
    }

    /// Polls the set once, without waiting.
    pub async fn poll_once(&mut self) {
        std::future::poll_fn(|context| {
            self.poll_all(context);
            Poll::Ready(())
        })
        .await;
    }

    /// The results since they were last asked for.
    pub fn take_finished(&mut self) -> Vec<T> {
        std::mem::take(&mut self.finished)
    }

    /// Runs the set until `condition` holds, or none is left.
    pub async fn until(&mut self, condition: impl Fn() -> bool) {
        std::future::poll_fn(|context| {
            self.poll_all(context);
            if self.tasks.is_empty() || condition() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Waits until one more future is finished, or none is left; gives the results so far.
    pub async fn next(&mut self) -> Vec<T> {
        std::future::poll_fn(|context| {
            self.poll_all(context);
            if self.finished.is_empty() && !self.tasks.is_empty() {
                return Poll::Pending;
            }
            Poll::Ready(std::mem::take(&mut self.finished))
        })
        .await
    }

    /// Waits for all futures; gives the results in the order in which they finished.
    pub async fn join(mut self) -> Vec<T> {
        std::future::poll_fn(|context| {
            self.poll_all(context);
            if self.tasks.is_empty() { Poll::Ready(std::mem::take(&mut self.finished)) } else { Poll::Pending }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn futures_of_a_set_run_beside_each_other() {
        let notify = tokio::sync::Notify::new();
        let mut set = Set::default();
        set.push(async {
            notify.notified().await;
            1
        });
        set.push(async {
            notify.notify_one();
            2
        });
        assert_eq!(aio::block_on(set.join()), [2, 1]);
    }

    #[test]
    fn a_future_runs_with_the_set_beside_it() {
        let notify = tokio::sync::Notify::new();
        let mut set = Set::default();
        set.push(async {
            notify.notify_one();
        });
        aio::block_on(set.with(notify.notified()));
        assert!(set.is_empty() || set.len() == 1);
    }
}
