//! A reactor: one thread's executor with an inbox, timers and, when the first operation wants it, an io_uring.
//!
//! A turn polls the tasks that are ready, then hands everything that they have queued to the kernel at once. With
//! nothing ready, that call waits as well: for completions, the next timer, or a wake-up from another thread. Without
//! operations in the ring the thread is parked, which is the cheapest to wake up.

mod inbox;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags};

use crate::clock::{Clock, VirtualClock, host_now};
use crate::operation::{Action, Completion, Operation};
use crate::pool::{self, Job};
use crate::ring::Ring;
use crate::task::{Task, lock};
use crate::testing::Random;
use crate::timer::Timers;

pub(crate) use self::inbox::Shared;
use self::inbox::{AWAKE, IN_KERNEL, PARKED};
pub use self::inbox::{Handle, spawn, yield_now};

/// A thread that runs a reactor.
#[derive(Debug)]
pub struct IoThread {
    handle: Handle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl IoThread {
    /// Starts a thread of that name.
    ///
    /// # Errors
    /// If the host refuses a thread.
    pub fn start(name: &str) -> std::io::Result<Self> {
        let shared = Shared::new();
        let handle = Handle(Arc::clone(&shared));
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let reactor = Reactor::new(shared, None);
            CURRENT.with(|current| current.replace(Some(Rc::clone(&reactor))));
            reactor.run_until_closed();
            CURRENT.with(|current| current.replace(None));
        })?;
        Ok(Self { handle, thread: Some(thread) })
    }

    /// Where to send tasks.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for IoThread {
    /// Waits until all tasks of the thread have ended.
    fn drop(&mut self) {
        lock(&self.handle.0.inbox).closing = true;
        self.handle.0.ring_bell();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

/// The reactor that does for threads without one what only a reactor can do.
pub(crate) fn background() -> &'static Handle {
    static BACKGROUND: OnceLock<IoThread> = OnceLock::new();
    BACKGROUND.get_or_init(|| IoThread::start("aio-background").expect("the host gives a thread")).handle()
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Reactor>>> = const { RefCell::new(None) };
}

/// Calls `visit` with the calling thread's reactor, if it has one.
pub(crate) fn with_current<R>(visit: impl FnOnce(&Rc<Reactor>) -> R) -> Option<R> {
    // During the thread's end there is none.
    let reactor = CURRENT.try_with(|current| current.borrow().clone()).ok()??;
    Some(visit(&reactor))
}

enum RingState {
    NotTried,
    Refused,
    Open(Box<Ring>),
}

/// What a deterministic reactor has instead of a ring and a pool.
pub(crate) struct Deterministic {
    pub(crate) random: Random,
    pub(crate) clock: Arc<VirtualClock>,
    jobs: Vec<Job>,
}

impl Deterministic {
    pub(crate) fn new(random: Random) -> Self {
        Self { random, clock: VirtualClock::new(), jobs: Vec::new() }
    }
}

/// One thread's executor.
pub(crate) struct Reactor {
    shared: Arc<Shared>,
    clock: Clock,
    deterministic: Option<RefCell<Deterministic>>,

    ready: RefCell<VecDeque<Arc<Task>>>,
    tasks: RefCell<Tasks>,
    timers: Arc<Mutex<Timers>>,
    ring: RefCell<RingState>,
    /// Sockets that are waited for, where there is no ring.
    watched: RefCell<Vec<Arc<Operation>>>,
    running: Cell<bool>,
}

/// The tasks that have not ended.
#[derive(Default)]
struct Tasks {
    slots: Vec<Option<Arc<Task>>>,
    free: Vec<usize>,
    live: usize,
}

impl Tasks {
    fn insert(&mut self, task: &Arc<Task>) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        task.slot.store(index, Ordering::Relaxed);
        self.slots[index] = Some(Arc::clone(task));
        self.live += 1;
    }

    fn remove(&mut self, task: &Task) -> Option<Arc<Task>> {
        let index = task.slot.swap(usize::MAX, Ordering::Relaxed);
        let removed = self.slots.get_mut(index)?.take()?;
        self.free.push(index);
        self.live -= 1;
        Some(removed)
    }
}

impl Reactor {
    pub(crate) fn new(shared: Arc<Shared>, deterministic: Option<Deterministic>) -> Rc<Self> {
        let _ = shared.thread.set(std::thread::current());
        let clock = deterministic.as_ref().map_or(Clock::Host, |mode| Clock::Virtual(Arc::clone(&mode.clock)));
        Rc::new(Self {
            shared,
            clock,
            deterministic: deterministic.map(RefCell::new),
            ready: RefCell::default(),
            tasks: RefCell::default(),
            timers: Arc::default(),
            ring: RefCell::new(RingState::NotTried),
            watched: RefCell::default(),
            running: Cell::new(false),
        })
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn timers(&self) -> &Arc<Mutex<Timers>> {
        &self.timers
    }

    pub(crate) fn is_deterministic(&self) -> bool {
        self.deterministic.is_some()
    }

    /// Keeps what blocks for a later step of a deterministic reactor.
    pub(crate) fn defer(&self, job: Job) {
        match &self.deterministic {
            Some(mode) => mode.borrow_mut().jobs.push(job),
            None => job(),
        }
    }

    fn adopt(&self, task: Arc<Task>) {
        self.tasks.borrow_mut().insert(&task);
        self.ready.borrow_mut().push_back(task);
    }

    /// Queues an operation in the ring; gives it back if there is none.
    fn push_to_ring(&self, operation: Arc<Operation>) -> Option<Arc<Operation>> {
        let mut state = self.ring.borrow_mut();
        if matches!(*state, RingState::NotTried) {
            let ring = self.wake_fd().ok_or(rustix::io::Errno::MFILE.into()).and_then(|fd| Ring::new(fd.as_raw_fd()));
            *state = ring.map_or(RingState::Refused, |ring| RingState::Open(Box::new(ring)));
        }
        match &mut *state {
            RingState::Open(ring) => {
                ring.push(operation);
                None
            }
            _ => Some(operation),
        }
    }

    fn wake_fd(&self) -> Option<&OwnedFd> {
        if self.shared.wake_fd.get().is_none() {
            let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
            let _ = self.shared.wake_fd.set(fd);
        }
        self.shared.wake_fd.get()
    }

    fn take_inbox(&self) -> bool {
        let (spawned, woken, closing) = {
            let mut inbox = lock(&self.shared.inbox);
            (std::mem::take(&mut inbox.spawned), std::mem::take(&mut inbox.woken), inbox.closing)
        };
        for task in spawned {
            self.adopt(task);
        }
        if !woken.is_empty() {
            self.ready.borrow_mut().extend(woken);
        }
        closing
    }

    fn poll_task(&self, task: &Arc<Task>) {
        if task.poll() {
            let removed = self.tasks.borrow_mut().remove(task);
            drop(removed);
        }
    }

    fn fire_timers(&self) {
        if lock(&self.timers).first().is_none() {
            return;
        }
        let now = host_now();
        loop {
            let Some(waker) = lock(&self.timers).pop_due(now) else { break };
            waker.wake();
        }
    }

    /// Polls `main` when it is woken, and all tasks, until `main` says that it is over.
    fn run(&self, main: &mut dyn FnMut() -> bool) {
        if self.deterministic.is_some() {
            return self.run_deterministic(main);
        }
        loop {
            if self.shared.main_woken.swap(false, Ordering::AcqRel) && main() {
                break;
            }
            self.turn();
            if self.ready.borrow().is_empty() && !self.shared.main_woken.load(Ordering::Acquire) {
                self.sleep(false);
            } else {
                self.submit_and_collect();
            }
        }
        // What the tasks that stay have queued gets on its way.
        self.submit_and_collect();
    }

    fn turn(&self) {
        self.take_inbox();
        self.fire_timers();
        let batch = self.ready.borrow().len();
        for _ in 0..batch {
            let Some(task) = self.ready.borrow_mut().pop_front() else { break };
            self.poll_task(&task);
        }
    }

    /// Runs tasks until the inbox is closed and no task is left.
    fn run_until_closed(&self) {
        self.running.set(true);
        loop {
            let closing = self.take_inbox();
            if closing && self.tasks.borrow().live == 0 {
                break;
            }
            self.turn();
            if self.ready.borrow().is_empty() { self.sleep(true) } else { self.submit_and_collect() }
        }
    }

    fn with_ring<R>(&self, visit: impl FnOnce(&mut Ring) -> R) -> Option<R> {
        match &mut *self.ring.borrow_mut() {
            RingState::Open(ring) => Some(visit(ring)),
            _ => None,
        }
    }

    fn submit_and_collect(&self) {
        self.with_ring(|ring| {
            if ring.has_unsubmitted() || (ring.in_flight() != 0 && ring.has_completions()) {
                ring.turn();
            }
        });
        self.complete_finished();
        if !self.watched.borrow().is_empty() {
            self.poll_watched(Some(Duration::ZERO));
        }
    }

    fn complete_finished(&self) {
        let Some(list) = self.with_ring(Ring::take_finished) else { return };
        for (operation, result) in &list {
            operation.complete(*result);
        }
        self.with_ring(|ring| ring.reuse(list));
    }

    fn has_mail(&self, closes: bool) -> bool {
        let inbox = lock(&self.shared.inbox);
        !inbox.spawned.is_empty()
            || !inbox.woken.is_empty()
            || (closes && inbox.closing && self.tasks.borrow().live == 0)
            || self.shared.main_woken.load(Ordering::Acquire)
    }

    /// Waits until there is something to do.
    fn sleep(&self, closes: bool) {
        let timeout = lock(&self.timers).first().map(|deadline| deadline.saturating_sub(host_now()));
        let in_ring = self.with_ring(|ring| ring.in_flight() != 0 || ring.has_unsubmitted()).unwrap_or(false);
        let watching = !self.watched.borrow().is_empty() && self.wake_fd().is_some();
        let mode = if in_ring || watching { IN_KERNEL } else { PARKED };
        self.shared.sleep.store(mode, Ordering::SeqCst);
        if self.has_mail(closes) {
            self.shared.sleep.store(AWAKE, Ordering::SeqCst);
            return self.submit_and_collect();
        }
        if in_ring {
            self.with_ring(|ring| ring.wait(timeout));
        } else if watching {
            self.poll_watched(timeout);
        } else {
            match timeout {
                Some(timeout) => std::thread::park_timeout(timeout),
                None => std::thread::park(),
            }
        }
        self.shared.sleep.store(AWAKE, Ordering::SeqCst);
        self.complete_finished();
    }

    fn poll_watched(&self, timeout: Option<Duration>) {
        let Some(wake_fd) = self.wake_fd() else { return };
        let mut watched = std::mem::take(&mut *self.watched.borrow_mut());
        let mut entries = vec![PollFd::new(wake_fd, PollFlags::IN)];
        entries.extend(watched.iter().map(|operation| match &operation.action {
            Action::Ready { events } => {
                PollFd::from_borrowed_fd(operation.fd.as_fd(), PollFlags::from_bits_retain(events.unsigned_abs()))
            }
            _ => PollFd::from_borrowed_fd(operation.fd.as_fd(), PollFlags::empty()),
        }));
        let timeout = timeout.and_then(|timeout| rustix::event::Timespec::try_from(timeout).ok());
        let polled = rustix::event::poll(&mut entries, timeout.as_ref());
        let ready: Vec<bool> = entries.iter().map(|entry| polled.is_ok() && !entry.revents().is_empty()).collect();
        drop(entries);
        if ready[0] {
            let _ = rustix::io::read(wake_fd, &mut [0; 8]);
        }
        let mut index = 0;
        let done: Vec<Arc<Operation>> = watched
            .extract_if(.., |_| {
                index += 1;
                ready[index]
            })
            .collect();
        self.watched.borrow_mut().append(&mut watched);
        for operation in done {
            operation.complete(1);
        }
    }

    fn run_deterministic(&self, main: &mut dyn FnMut() -> bool) {
        let Some(mode) = &self.deterministic else { return };
        loop {
            self.take_inbox();
            let main_ready = self.shared.main_woken.load(Ordering::Acquire);
            let (tasks, jobs) = (self.ready.borrow().len(), mode.borrow().jobs.len());
            let choices = usize::from(main_ready) + tasks + jobs;
            if choices == 0 {
                let clock = Arc::clone(&mode.borrow().clock);
                let next = clock.next_deadline().expect("deadlock: nothing can run and no time is waited for");
                clock.advance(next.saturating_sub(clock.now()));
                continue;
            }
            let choice = mode.borrow_mut().random.below(choices);
            if choice < tasks {
                let task = self.ready.borrow_mut().remove(choice);
                if let Some(task) = task {
                    self.poll_task(&task);
                }
            } else if choice < tasks + jobs {
                let job = mode.borrow_mut().jobs.swap_remove(choice - tasks);
                job();
            } else {
                self.shared.main_woken.store(false, Ordering::Release);
                if main() {
                    return;
                }
            }
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        let (spawned, woken) = {
            let mut inbox = lock(&self.shared.inbox);
            inbox.dead = true;
            (std::mem::take(&mut inbox.spawned), std::mem::take(&mut inbox.woken))
        };
        let tasks = std::mem::take(&mut self.tasks.get_mut().slots);
        self.ready.get_mut().clear();
        // Their futures refer to this reactor through wakers: they go now, not when the last waker goes.
        for task in tasks.into_iter().flatten().chain(spawned) {
            task.abandon();
        }
        drop(woken);
    }
}

/// Starts an operation where it belongs: on the current reactor's ring if `ring`, otherwise on the pool.
pub(crate) fn start(operation: &Arc<Operation>, ring: bool) {
    if crate::is_attempting() {
        // The attempt is given up with the future that waits for this.
        return;
    }
    let mut left = Some(Arc::clone(operation));
    let has_reactor = with_current(|reactor| {
        if reactor.is_deterministic() {
            return;
        }
        let waits = matches!(operation.action, Action::Ready { .. });
        if ring || waits {
            left = left.take().and_then(|operation| reactor.push_to_ring(operation));
        }
        if waits && let Some(operation) = left.take() {
            reactor.watched.borrow_mut().push(operation);
        }
    })
    .is_some();
    let Some(operation) = left else { return };
    if let (Action::Ready { events }, false, false) = (&operation.action, has_reactor, pool::in_pool()) {
        let inner = Operation::new(Arc::clone(&operation.fd), Action::Ready { events: *events });
        background().spawn(async move {
            start(&inner, true);
            let _ = Completion(inner).await;
            operation.complete(1);
        });
        return;
    }
    pool::run(Box::new(move || operation.complete(operation.execute())));
}

/// Nobody waits any more for a socket that was waited for on the current reactor.
pub(crate) fn give_up(operation: &Arc<Operation>) {
    with_current(|reactor| {
        reactor.watched.borrow_mut().retain(|watched| !Arc::ptr_eq(watched, operation));
        reactor.with_ring(|ring| ring.cancel(operation));
    });
}

struct MainWaker(Arc<Shared>);

impl Wake for MainWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.main_woken.store(true, Ordering::SeqCst);
        self.0.ring_bell();
    }
}

/// Ends the run of a reactor, also by a panic.
struct Running<'a>(&'a Reactor);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
    }
}

fn run_main<F: Future>(reactor: &Reactor, future: F) -> F::Output {
    assert!(!reactor.running.replace(true), "aio::block_on inside of a task of a reactor: await the future instead");
    let _running = Running(reactor);
    let waker = Waker::from(Arc::new(MainWaker(Arc::clone(&reactor.shared))));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let mut output = None;
    reactor.shared.main_woken.store(true, Ordering::SeqCst);
    reactor.run(&mut || match future.as_mut().poll(&mut context) {
        Poll::Ready(value) => {
            output = Some(value);
            true
        }
        Poll::Pending => false,
    });
    output.expect("the reactor runs until the future is ready")
}

/// Runs `future` to its end on the calling thread, with that thread's reactor. Tasks that were spawned meanwhile and
/// have not ended go on at the thread's next `block_on`, and are dropped with the thread.
///
/// # Panics
/// Inside of a task of a reactor: the thread's other tasks would never run.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let reactor = with_current(Rc::clone).unwrap_or_else(|| {
        let reactor = Reactor::new(Shared::new(), None);
        CURRENT.with(|current| current.replace(Some(Rc::clone(&reactor))));
        reactor
    });
    run_main(&reactor, future)
}

/// Runs `future` with a deterministic reactor that takes the place of the thread's own.
pub(crate) fn run_deterministic<F: Future>(mode: Deterministic, future: F) -> F::Output {
    /// Puts the thread's own reactor back.
    struct Restore(Option<Rc<Reactor>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            let old = self.0.take();
            let mine = CURRENT.with(|current| current.replace(old));
            drop(mine);
        }
    }
    let reactor = Reactor::new(Shared::new(), Some(mode));
    let old = CURRENT.with(|current| current.replace(Some(Rc::clone(&reactor))));
    assert!(!old.as_ref().is_some_and(|old| old.running.get()), "a deterministic run inside of a task of a reactor");
    let _restore = Restore(old);
    run_main(&reactor, future)
}
