//! What other threads see of a reactor: its inbox, and the bell that wakes it.
//!
//! Going to sleep and waking up: the reactor publishes how it is going to sleep, then looks into its inbox once more; a
//! waker fills the inbox, then takes the published state back and rings that bell. One of the two sees the other.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Poll;
use std::thread::Thread;

use super::with_current;
use crate::task::{JoinHandle, Task, join, lock};

pub(super) const AWAKE: u8 = 0;
pub(super) const PARKED: u8 = 1;
pub(super) const IN_KERNEL: u8 = 2;

#[derive(Default)]
pub(super) struct Inbox {
    pub(super) spawned: Vec<Arc<Task>>,
    pub(super) woken: Vec<Arc<Task>>,
    /// The thread ends when no task is left.
    pub(super) closing: bool,
    /// The reactor is gone: what is sent is dropped.
    pub(super) dead: bool,
}

/// What other threads see of a reactor.
pub(crate) struct Shared {
    pub(super) inbox: Mutex<Inbox>,
    pub(super) sleep: AtomicU8,
    pub(super) main_woken: AtomicBool,
    pub(super) thread: OnceLock<Thread>,
    /// Created before the reactor first sleeps in the kernel.
    pub(super) wake_fd: OnceLock<OwnedFd>,
}

impl Shared {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            inbox: Mutex::default(),
            sleep: AtomicU8::new(AWAKE),
            main_woken: AtomicBool::new(false),
            thread: OnceLock::new(),
            wake_fd: OnceLock::new(),
        })
    }

    /// Wakes the reactor, if it sleeps, to look into its inbox.
    pub(super) fn ring_bell(&self) {
        match self.sleep.swap(AWAKE, Ordering::SeqCst) {
            PARKED => {
                if let Some(thread) = self.thread.get() {
                    thread.unpark();
                }
            }
            IN_KERNEL => {
                if let Some(fd) = self.wake_fd.get() {
                    // A full counter is a wake-up, too.
                    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
                }
            }
            _ => {}
        }
    }

    /// Queues a task to be polled on its reactor.
    pub(crate) fn schedule(task: Arc<Task>) {
        let mut task = Some(task);
        with_current(|reactor| {
            if task.as_ref().is_some_and(|task| Arc::ptr_eq(task.shared(), &reactor.shared)) {
                reactor.ready.borrow_mut().extend(task.take());
            }
        });
        if let Some(task) = task {
            let shared = Arc::clone(task.shared());
            {
                let mut inbox = lock(&shared.inbox);
                if inbox.dead {
                    return;
                }
                inbox.woken.push(task);
            }
            shared.ring_bell();
        }
    }
}

/// Sends tasks to a reactor from any thread.
#[derive(Clone)]
pub struct Handle(pub(super) Arc<Shared>);

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handle({:p})", Arc::as_ptr(&self.0))
    }
}

impl PartialEq for Handle {
    /// Whether both lead to the same reactor.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Handle {}

impl Handle {
    /// The reactor of the calling thread, if it has one.
    pub fn current() -> Option<Self> {
        with_current(|reactor| Self(Arc::clone(&reactor.shared)))
    }

    /// Whether this is the calling thread's reactor.
    pub fn is_current(&self) -> bool {
        with_current(|reactor| Arc::ptr_eq(&reactor.shared, &self.0)).unwrap_or(false)
    }

    /// Runs `future` on the reactor's thread. If the reactor has ended, the future is dropped.
    pub fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        let (future, handle) = join(future);
        let task = Task::new(future, Arc::clone(&self.0));
        let mut task = Some(task);
        with_current(|reactor| {
            if Arc::ptr_eq(&reactor.shared, &self.0)
                && let Some(task) = task.take()
            {
                reactor.adopt(task);
            }
        });
        if let Some(task) = task {
            let refused = {
                let mut inbox = lock(&self.0.inbox);
                if inbox.dead {
                    Some(task)
                } else {
                    inbox.spawned.push(task);
                    None
                }
            };
            match refused {
                Some(task) => task.abandon(),
                None => self.0.ring_bell(),
            }
        }
        handle
    }
}

/// Runs `future` as a task of the current reactor.
///
/// # Panics
/// If the calling thread has no reactor.
pub fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    Handle::current().expect("aio::spawn needs a reactor: call it in a task or under block_on").spawn(future)
}

/// Lets the other tasks that are ready run first.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(move |context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
