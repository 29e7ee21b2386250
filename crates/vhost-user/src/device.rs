//! The device of an export: a model, its rings, and who is told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use aio::{EventCounter, Stream};
use devices_virtio::device::{Access, Common, Model};
use devices_virtio::queue::QueueError;
use devices_virtio::remote::{Remote, Signal};
use iobuf::IoBuf;
use memory::{AddressSpace, DmaView, SpaceKind};
use tokio::sync::Notify;

use crate::wire;

/// What is told about one ring, and whether it works.
#[derive(Default)]
struct Ring {
    call: Option<EventCounter>,
    error: Option<EventCounter>,
    is_running: bool,
    is_enabled: bool,
}

struct Inner<M: Model> {
    remote: Remote<M>,
    rings: Vec<Ring>,
    /// Where the front end is told about the configuration.
    channel: Option<Stream>,
    /// The failure was told.
    told_failure: bool,
}

/// A model of `devices_virtio` for front ends.
pub struct Device<M: Model> {
    space: Arc<AddressSpace>,
    inner: Mutex<Inner<M>>,
    /// Rung when a request has ended.
    ended: Notify,
}

struct WeakAccess<M: Model>(Weak<Device<M>>);

impl<M: Model> Access<M> for WeakAccess<M> {
    fn access(&self, visit: &mut dyn FnMut(&mut M, &mut Common)) {
        if let Some(device) = self.0.upgrade() {
            let mut inner = device.lock();
            inner.remote.visit(visit);
            inner.settle();
            drop(inner);
            device.ended.notify_waiters();
        }
    }
}

impl<M: Model> Inner<M> {
    /// Tells the front end what it has to know.
    fn settle(&mut self) {
        for signal in self.remote.take_signals() {
            match signal {
                Signal::Queue(index) => {
                    if let Some(call) = self.rings.get_mut(index).and_then(|ring| ring.call.as_mut()) {
                        call.signal();
                    }
                }
                Signal::Config => {
                    let message = wire::message(wire::BACKEND_CONFIG_CHANGE, wire::flag::VERSION, &[]);
                    // A front end that does not read it will read the configuration anyway.
                    let _unread = self.channel.as_ref().map(|channel| channel.try_write(&IoBuf::copy_of(&message)));
                }
            }
        }
        if let (Some(error), false) = (self.remote.failure(), self.told_failure) {
            tracing::debug!("a driver behind vhost-user breaks the rules: {error}");
            self.told_failure = true;
            let running = self.rings.iter_mut().filter(|ring| ring.is_running);
            running.filter_map(|ring| ring.error.as_mut()).for_each(EventCounter::signal);
        }
    }

    fn notify(&mut self, index: usize) {
        if self.rings.get(index).is_some_and(|ring| ring.is_running && ring.is_enabled) {
            self.remote.notify(index);
            self.settle();
        }
    }
}

impl<M: Model> Device<M> {
    /// The device around the model that `build` makes, which gets the way by which its back end comes back.
    pub fn new(build: impl FnOnce(Arc<dyn Access<M>>) -> M) -> Arc<Self> {
        let space = Arc::new(AddressSpace::new(SpaceKind::Memory));
        Arc::new_cyclic(|device| {
            let model = build(Arc::new(WeakAccess(device.clone())));
            let remote = Remote::new(model, DmaView::new(Arc::clone(&space)));
            let rings = (0..remote.queues()).map(|_| Ring::default()).collect();
            let inner = Mutex::new(Inner { remote, rings, channel: None, told_failure: false });
            Self { space, inner, ended: Notify::new() }
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner<M>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    /// Calls `visit` while no ring is served.
    pub(crate) fn with<R>(&self, visit: impl FnOnce(&mut Remote<M>) -> R) -> R {
        let mut inner = self.lock();
        let result = visit(&mut inner.remote);
        inner.settle();
        result
    }

    pub(crate) fn set_call(&self, index: usize, counter: Option<EventCounter>) {
        if let Some(ring) = self.lock().rings.get_mut(index) {
            ring.call = counter;
        }
    }

    pub(crate) fn set_error(&self, index: usize, counter: Option<EventCounter>) {
        if let Some(ring) = self.lock().rings.get_mut(index) {
            ring.error = counter;
        }
    }

    pub(crate) fn set_channel(&self, channel: Option<Stream>) {
        self.lock().channel = channel;
    }

    /// A ring that was set up begins to run, and is served if it is enabled.
    pub(crate) fn start(&self, index: usize, next: u16) -> Result<(), QueueError> {
        let mut inner = self.lock();
        inner.remote.start(index, next)?;
        if let Some(ring) = inner.rings.get_mut(index) {
            ring.is_running = true;
        }
        inner.notify(index);
        Ok(())
    }

    pub(crate) fn enable(&self, index: usize, is_enabled: bool) {
        let mut inner = self.lock();
        if let Some(ring) = inner.rings.get_mut(index) {
            ring.is_enabled = is_enabled;
        }
        inner.notify(index);
    }

    /// There may be something in a ring.
    pub(crate) fn notify(&self, index: usize) {
        self.lock().notify(index);
    }

    /// Nothing is taken from a ring any more.
    pub(crate) fn halt(&self, index: usize) {
        if let Some(ring) = self.lock().rings.get_mut(index) {
            ring.is_running = false;
        }
    }

    /// A ring that is halted and has nothing in flight is given back: where it stopped.
    pub(crate) fn stop(&self, index: usize) -> u16 {
        let mut inner = self.lock();
        let next = inner.remote.queue(index).map_or(0, |queue| {
            queue.disable();
            queue.next_available()
        });
        if !inner.rings.iter().any(|ring| ring.is_running) {
            inner.remote.halt();
            inner.told_failure = false;
        }
        next
    }

    /// Waits until nothing of a ring is in flight, or of any.
    pub(crate) async fn wait_idle(&self, index: Option<usize>) {
        loop {
            let ended = self.ended.notified();
            let mut ended = std::pin::pin!(ended);
            ended.as_mut().enable();
            if self.lock().remote.outstanding(index) == 0 {
                return;
            }
            ended.await;
        }
    }

    /// The front end has gone: everything that it has set up is forgotten.
    pub(crate) fn reset(&self) {
        let mut inner = self.lock();
        inner.rings.iter_mut().for_each(|ring| *ring = Ring::default());
        inner.channel = None;
        inner.told_failure = false;
        inner.remote.reset();
    }
}
