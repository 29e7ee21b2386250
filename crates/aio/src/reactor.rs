//! A single-threaded executor with an inbox and timers.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Default)]
struct Inbox {
    spawned: VecDeque<Task>,
    woken: VecDeque<u64>,
    closed: bool,
}

struct Shared {
    inbox: Mutex<Inbox>,
    bell: Condvar,
}

impl Shared {
    fn with<R>(&self, visit: impl FnOnce(&mut Inbox) -> R) -> R {
        visit(&mut self.inbox.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Sends tasks to a reactor from any thread.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

impl Handle {
    /// Runs `future` on the reactor's thread.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.0.with(|inbox| inbox.spawned.push_back(Box::pin(future)));
        self.0.bell.notify_one();
    }
}

struct TaskWaker {
    id: u64,
    shared: Weak<Shared>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if let Some(shared) = self.shared.upgrade() {
            shared.with(|inbox| inbox.woken.push_back(self.id));
            shared.bell.notify_one();
        }
    }
}

/// A thread that runs a reactor.
pub struct IoThread {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl IoThread {
    /// Starts a thread of that name.
    ///
    /// # Errors
    /// If the host refuses a thread.
    pub fn start(name: &str) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { inbox: Mutex::default(), bell: Condvar::new() });
        let handle = Handle(Arc::clone(&shared));
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&shared))?;
        Ok(Self { handle, thread: Some(thread) })
    }

    /// Where to send tasks.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.handle.0.with(|inbox| inbox.closed = true);
        self.handle.0.bell.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs tasks until the reactor is closed and none is left.
fn run(shared: &Arc<Shared>) {
    let mut tasks: HashMap<u64, (Task, Waker)> = HashMap::new();
    let mut next = 0;
    loop {
        let (spawned, woken) = {
            let mut inbox = shared.inbox.lock().unwrap_or_else(PoisonError::into_inner);
            while inbox.spawned.is_empty() && inbox.woken.is_empty() {
                if inbox.closed && tasks.is_empty() {
                    return;
                }
                inbox = shared.bell.wait(inbox).unwrap_or_else(PoisonError::into_inner);
            }
            (std::mem::take(&mut inbox.spawned), std::mem::take(&mut inbox.woken))
        };
        for task in spawned {
            let waker = Waker::from(Arc::new(TaskWaker { id: next, shared: Arc::downgrade(shared) }));
            tasks.insert(next, (task, waker));
            poll(&mut tasks, next);
            next += 1;
        }
        for id in woken {
            poll(&mut tasks, id);
        }
    }
}

fn poll(tasks: &mut HashMap<u64, (Task, Waker)>, id: u64) {
    if let Some((task, waker)) = tasks.get_mut(&id)
        && task.as_mut().poll(&mut Context::from_waker(waker)).is_ready()
    {
        tasks.remove(&id);
    }
}

struct ThreadWaker(Thread);

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs `future` to its end on the calling thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(ThreadWaker(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::park();
    }
}

/// Runs `work` on another thread and waits for its result. For what has no asynchronous form.
pub async fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let slot: Arc<Mutex<(Option<T>, Option<Waker>)>> = Arc::new(Mutex::new((None, None)));
    let theirs = Arc::clone(&slot);
    std::thread::spawn(move || {
        let value = work();
        let mut slot = theirs.lock().unwrap_or_else(PoisonError::into_inner);
        slot.0 = Some(value);
        if let Some(waker) = slot.1.take() {
            waker.wake();
        }
    });
    std::future::poll_fn(move |context| {
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = slot.0.take() {
            return Poll::Ready(value);
        }
        slot.1 = Some(context.waker().clone());
        Poll::Pending
    })
    .await
}

/// Waits for `duration` of host time.
pub async fn sleep(duration: Duration) {
    let end = Instant::now() + duration;
    spawn_blocking(move || std::thread::sleep(end.saturating_duration_since(Instant::now()))).await;
}
