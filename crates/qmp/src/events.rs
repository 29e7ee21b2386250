//! Events: to every monitor that has left negotiation, in one order, at a limited rate.
//!
//! The limit is global (`qmp.md` section 11): the first event of a kind is sent at once; those that
//! follow within its time replace each other, and the last is sent when the time is over, with the
//! timestamp that it had.

use crate::lock;
use qapi::json::{self, Map, Value};
use qapi::{Event, EventMessage};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;

/// A monitor, as far as events go.
pub(crate) trait EventTarget: Send + Sync {
    /// Sends the event, unless the monitor's client still negotiates.
    fn send_event(&self, event: &EventLine);
}

/// An event as text, in both of its forms, made when the first monitor wants it.
pub(crate) struct EventLine {
    value: Value,
    plain: OnceLock<String>,
    pretty: OnceLock<String>,
}

impl EventLine {
    fn new(message: EventMessage, time: SystemTime) -> Self {
        let mut event = Map::from_iter([("timestamp", timestamp(time))]);
        event.insert("event", message.name);
        if let Some(data) = message.data {
            event.insert("data", data);
        }
        Self { value: Value::Object(event), plain: OnceLock::new(), pretty: OnceLock::new() }
    }

    pub(crate) fn text(&self, pretty: bool) -> &str {
        let cell = if pretty { &self.pretty } else { &self.plain };
        cell.get_or_init(|| line(&self.value, pretty))
    }
}

/// A message as it goes out, with its line end.
pub(crate) fn line(value: &Value, pretty: bool) -> String {
    let mut text = if pretty { json::to_string_pretty(value).replace('\n', "\r\n") } else { json::to_string(value) };
    text.push_str("\r\n");
    text
}

fn timestamp(time: SystemTime) -> Value {
    // A clock before 1970 gives -1, as QEMU does when it has no time.
    let (seconds, microseconds) = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (i64::try_from(since.as_secs()).unwrap_or(-1), i64::from(since.subsec_micros())),
        Err(_) => (-1, -1),
    };
    Value::Object(Map::from_iter([("seconds", seconds), ("microseconds", microseconds)]))
}

/// Events of one kind and key share a limit.
type RateKey = (&'static str, Option<String>);

/// An event that waits for its time, with its timestamp.
pub(crate) type Held = (EventMessage, SystemTime);

/// Decides which events are sent when. A plain value: the caller has the clock and the timers.
#[derive(Debug, Default)]
pub(crate) struct RateLimiter {
    /// The kinds whose time runs, each with the event that waits.
    running: HashMap<RateKey, Option<Held>>,
}

/// What to do with an event.
#[derive(Debug, PartialEq)]
pub(crate) enum Offer {
    /// Send it.
    Send(Held),
    /// Send it, and report [`RateLimiter::expire`] after this time.
    SendAndTime(Held, Duration),
    /// It waits, or has replaced one that waited.
    Hold,
}

impl RateLimiter {
    pub(crate) fn offer(&mut self, message: EventMessage, time: SystemTime) -> Offer {
        let Some(limit) = message.rate_limit else {
            return Offer::Send((message, time));
        };
        let key = (message.name, message.rate_key.clone());
        if let Some(waiting) = self.running.get_mut(&key) {
            *waiting = Some((message, time));
            return Offer::Hold;
        }
        self.running.insert(key, None);
        Offer::SendAndTime((message, time), limit)
    }

    /// The time of `key` is over: gives the event that waited, whose time then starts anew.
    pub(crate) fn expire(&mut self, key: &RateKey) -> Option<Held> {
        let held = self.running.get_mut(key).and_then(Option::take);
        if held.is_none() {
            self.running.remove(key);
        }
        held
    }
}

/// Where events are sent to. Cheap to clone; any thread may use it, and nothing blocks.
///
/// An event that a handler emits before it returns is sent before the handler's reply.
#[derive(Clone)]
pub struct EventSink(Arc<Hub>);

struct Hub {
    runtime: Handle,
    state: Mutex<HubState>,
}

#[derive(Default)]
struct HubState {
    targets: Vec<Weak<dyn EventTarget>>,
    limiter: RateLimiter,
}

impl EventSink {
    /// A sink without monitors. `runtime` is the monitor thread's, for the timers of limited events.
    #[must_use]
    pub fn new(runtime: Handle) -> Self {
        Self(Arc::new(Hub { runtime, state: Mutex::default() }))
    }

    /// Sends an event to all monitors.
    ///
    /// The caller has it by value, as a thing that has happened.
    #[expect(clippy::needless_pass_by_value, reason = "an event is used up by being told")]
    pub fn emit(&self, event: impl Event) {
        self.emit_message(event.message());
    }

    /// Sends an event whose type is erased.
    pub fn emit_message(&self, message: EventMessage) {
        let key = (message.name, message.rate_key.clone());
        let mut state = lock(&self.0.state);
        match state.limiter.offer(message, SystemTime::now()) {
            Offer::Send(held) => state.broadcast(held),
            Offer::Hold => {}
            Offer::SendAndTime(held, limit) => {
                state.broadcast(held);
                drop(state);
                let hub = Arc::downgrade(&self.0);
                self.0.runtime.spawn(time_limit(hub, key, limit));
            }
        }
    }

    pub(crate) fn add_target(&self, target: Weak<dyn EventTarget>) {
        let mut state = lock(&self.0.state);
        state.targets.retain(|target| target.strong_count() > 0);
        state.targets.push(target);
    }
}

impl std::fmt::Debug for EventSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventSink").finish_non_exhaustive()
    }
}

/// Runs the time of one kind of event, as long as events come.
async fn time_limit(hub: Weak<Hub>, key: RateKey, limit: Duration) {
    loop {
        tokio::time::sleep(limit).await;
        let Some(hub) = hub.upgrade() else {
            return;
        };
        let mut state = lock(&hub.state);
        match state.limiter.expire(&key) {
            Some(held) => state.broadcast(held),
            None => return,
        }
    }
}

impl HubState {
    /// Sends to all, under the lock, so that all monitors see one order.
    fn broadcast(&self, (message, time): Held) {
        let line = EventLine::new(message, time);
        for target in &self.targets {
            if let Some(target) = target.upgrade() {
                target.send_event(&line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: i64) -> EventMessage {
        let data = Value::Object(Map::from_iter([("number", number)]));
        EventMessage { name: "X", rate_limit: Some(Duration::from_secs(1)), rate_key: None, data: Some(data) }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn limiter_sends_first_and_last_event_with_its_own_time() {
        let mut limiter = RateLimiter::default();
        let key = ("X", None);
        assert_eq!(limiter.offer(event(1), at(1)), Offer::SendAndTime((event(1), at(1)), Duration::from_secs(1)));
        assert_eq!(limiter.offer(event(2), at(2)), Offer::Hold);
        assert_eq!(limiter.offer(event(3), at(3)), Offer::Hold);
        assert_eq!(limiter.expire(&key), Some((event(3), at(3))));
        assert_eq!(limiter.offer(event(4), at(4)), Offer::Hold, "the time has started anew");
        assert_eq!(limiter.expire(&key), Some((event(4), at(4))));
        assert_eq!(limiter.expire(&key), None);
        assert!(matches!(limiter.offer(event(5), at(5)), Offer::SendAndTime(..)), "the state was dropped");
    }

    #[test]
    fn limiter_counts_keys_and_unlimited_events_apart() {
        let mut limiter = RateLimiter::default();
        let keyed = |key: &str| EventMessage { rate_key: Some(key.into()), ..event(0) };
        assert!(matches!(limiter.offer(keyed("a"), at(0)), Offer::SendAndTime(..)));
        assert!(matches!(limiter.offer(keyed("b"), at(0)), Offer::SendAndTime(..)));
        assert_eq!(limiter.offer(keyed("a"), at(0)), Offer::Hold);
        let free = EventMessage { rate_limit: None, ..event(0) };
        assert!(matches!(limiter.offer(free.clone(), at(0)), Offer::Send(_)));
        assert!(matches!(limiter.offer(free, at(0)), Offer::Send(_)));
    }
}
