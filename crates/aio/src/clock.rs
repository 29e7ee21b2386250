//! Clocks: the host's, and one that a program or a test steps.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::reactor;
use crate::task::lock;
use crate::timer::{TimerKey, Timers};

/// Host time since the first call in this process. Monotonic.
pub(crate) fn host_now() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// Time on the current reactor's clock, since an arbitrary start.
pub fn now() -> Duration {
    current_clock().now()
}

fn current_clock() -> Clock {
    reactor::with_current(|reactor| reactor.clock().clone()).unwrap_or_default()
}

/// Waits for `duration` on the current reactor's clock.
pub async fn sleep(duration: Duration) {
    current_clock().sleep(duration).await;
}

#[derive(Default)]
struct Inner {
    now: Duration,
    timers: Timers,
}

/// A clock that stands still except when it is stepped.
#[derive(Default)]
pub struct VirtualClock(Mutex<Inner>);

impl std::fmt::Debug for VirtualClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VirtualClock({:?})", self.now())
    }
}

impl VirtualClock {
    /// A clock that shows zero.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The time that it shows.
    pub fn now(&self) -> Duration {
        lock(&self.0).now
    }

    /// The earliest deadline that somebody waits for.
    pub fn next_deadline(&self) -> Option<Duration> {
        lock(&self.0).timers.first()
    }

    /// Steps the clock. Who waits for a time up to the new one is woken, in the order of the deadlines.
    pub fn advance(&self, by: Duration) {
        let now = {
            let mut inner = lock(&self.0);
            inner.now = inner.now.saturating_add(by);
            inner.now
        };
        loop {
            let Some(waker) = lock(&self.0).timers.pop_due(now) else { break };
            waker.wake();
        }
    }
}

/// Where time comes from.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The host's monotonic clock.
    #[default]
    Host,
    /// A clock that is stepped.
    Virtual(Arc<VirtualClock>),
}

impl Clock {
    /// Time since an arbitrary start.
    pub fn now(&self) -> Duration {
        match self {
            Self::Host => host_now(),
            Self::Virtual(clock) => clock.now(),
        }
    }

    /// Waits for `duration`. The wait begins now, not at the first poll.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        Sleep { deadline: self.now().saturating_add(duration), clock: self.clone(), registered: None, proxy: None }
    }
}

/// Waits for a time. Dropping it ends the wait.
pub struct Sleep {
    deadline: Duration,
    clock: Clock,
    registered: Option<(Arc<Mutex<Timers>>, TimerKey)>,
    /// Sleeps in our place where the polling thread has no reactor.
    proxy: Option<crate::JoinHandle<()>>,
}

impl std::fmt::Debug for Sleep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sleep({:?})", self.deadline)
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.clock.now() >= self.deadline {
            self.forget();
            return Poll::Ready(());
        }
        if let Clock::Virtual(clock) = &self.clock {
            return poll_virtual(&Arc::clone(clock), &mut self, context);
        }
        if let Some(proxy) = &mut self.proxy {
            return Pin::new(proxy).poll(context);
        }
        if let Some((timers, key)) = &self.registered
            && lock(timers).update(*key, context.waker())
        {
            return Poll::Pending;
        }
        let Some(timers) = reactor::with_current(|reactor| Arc::clone(reactor.timers())) else {
            let left = self.deadline.saturating_sub(self.clock.now());
            let mut proxy = reactor::background().spawn(async move { Clock::Host.sleep(left).await });
            let polled = Pin::new(&mut proxy).poll(context);
            self.proxy = Some(proxy);
            return polled;
        };
        let key = lock(&timers).add(self.deadline, context.waker().clone());
        self.registered = Some((timers, key));
        Poll::Pending
    }
}

fn poll_virtual(clock: &Arc<VirtualClock>, sleep: &mut Sleep, context: &Context<'_>) -> Poll<()> {
    let mut inner = lock(&clock.0);
    if inner.now >= sleep.deadline {
        return Poll::Ready(());
    }
    let known = sleep.registered_key().filter(|key| inner.timers.update(*key, context.waker()));
    if known.is_none() {
        let key = inner.timers.add(sleep.deadline, context.waker().clone());
        sleep.registered = Some((Arc::default(), key));
    }
    Poll::Pending
}

impl Sleep {
    fn registered_key(&self) -> Option<TimerKey> {
        self.registered.as_ref().map(|(_, key)| *key)
    }

    fn forget(&mut self) {
        let Some((timers, key)) = self.registered.take() else { return };
        match &self.clock {
            Clock::Host => lock(&timers).remove(key),
            Clock::Virtual(clock) => lock(&clock.0).timers.remove(key),
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.forget();
    }
}
