//! A tap on what a guest's device says and hears: it sees the output that the device's back end takes, with the latest of
//! the past, and its input reaches the device as if it came from there. Any number of readers listen; one that is slow
//! loses its place, and nobody else notices.

use crate::port::{InputFn, lock};
use crate::ring::Ring;
use crate::slot::Slot;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::Notify;

/// How much of the past a reader gets, in bytes.
pub const HISTORY: usize = 64 << 10;
/// How much output may wait for a reader, in bytes, before it loses its place.
const QUEUE_MAX: usize = 256 << 10;

/// The tap on one device.
pub(crate) struct Tap {
    name: String,
    output: Mutex<Output>,
    input: Slot<InputFn>,
    /// The device has room for input, or is no more.
    resumed: Notify,
    has_ended: AtomicBool,
}

struct Output {
    history: Ring,
    readers: Vec<Weak<Queue>>,
}

/// What waits for one reader.
#[derive(Default)]
struct Queue {
    /// Nothing for one that has lost its place.
    bytes: Mutex<Option<VecDeque<u8>>>,
    ready: Notify,
}

impl Tap {
    pub(crate) fn new(name: String) -> Arc<Self> {
        Arc::new(Self {
            name,
            output: Mutex::new(Output { history: Ring::new(HISTORY), readers: Vec::new() }),
            input: Slot::default(),
            resumed: Notify::new(),
            has_ended: AtomicBool::new(false),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The device has said something.
    pub(crate) fn say(&self, bytes: &[u8]) {
        let mut output = lock(&self.output);
        output.history.write(bytes);
        output.readers.retain(|reader| reader.upgrade().is_some_and(|queue| queue.push(bytes)));
    }

    /// Sets who gets the input.
    pub(crate) fn set_input(&self, input: Option<InputFn>) {
        let is_there = input.is_some();
        self.input.set(input);
        if is_there {
            self.resume();
        }
    }

    /// Gives input to the device; how much of it was taken.
    pub(crate) fn give(&self, bytes: &[u8]) -> usize {
        self.input.call(|input| input(bytes)).unwrap_or(bytes.len())
    }

    /// The device can take more.
    pub(crate) fn resume(&self) {
        self.resumed.notify_waiters();
    }

    /// The device is no more.
    pub(crate) fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
        self.resume();
        for reader in std::mem::take(&mut lock(&self.output).readers) {
            if let Some(queue) = reader.upgrade() {
                queue.ready.notify_one();
            }
        }
    }
}

impl Queue {
    /// Whether the reader goes on.
    fn push(&self, bytes: &[u8]) -> bool {
        let mut waiting = lock(&self.bytes);
        let has_room = waiting.as_ref().is_some_and(|queue| queue.len() + bytes.len() <= QUEUE_MAX);
        match &mut *waiting {
            Some(queue) if has_room => queue.extend(bytes),
            _ => *waiting = None,
        }
        self.ready.notify_one();
        has_room
    }
}

/// Somebody who listens to a guest's device and may talk to it. To be used on the monitor thread, where the input of
/// devices comes from.
pub struct TapReader {
    tap: Arc<Tap>,
    queue: Arc<Queue>,
}

impl TapReader {
    pub(crate) fn new(tap: &Arc<Tap>) -> Self {
        let mut output = lock(&tap.output);
        let past = VecDeque::from(output.history.contents());
        let queue = Arc::new(Queue { bytes: Mutex::new(Some(past)), ready: Notify::new() });
        queue.ready.notify_one();
        output.readers.push(Arc::downgrade(&queue));
        drop(output);
        Self { tap: Arc::clone(tap), queue }
    }

    /// What the device has said since the last call, at first with the past. Nothing any more when the device is gone,
    /// or when this reader was too slow.
    pub async fn read(&self) -> Option<Vec<u8>> {
        loop {
            let has_ended = self.tap.has_ended.load(Ordering::Acquire);
            let bytes = std::mem::take(lock(&self.queue.bytes).as_mut()?);
            if !bytes.is_empty() {
                return Some(bytes.into());
            }
            if has_ended {
                return None;
            }
            self.queue.ready.notified().await;
        }
    }

    /// Gives input to the device, and waits until it has taken it. `false` when the device is gone.
    pub async fn write(&self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let mut resumed = std::pin::pin!(self.tap.resumed.notified());
            resumed.as_mut().enable();
            if self.tap.has_ended.load(Ordering::Acquire) {
                return false;
            }
            let taken = self.tap.give(bytes).min(bytes.len());
            bytes = bytes.get(taken..).unwrap_or_default();
            if taken == 0 {
                resumed.await;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<R>(work: impl Future<Output = R>) -> R {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
    }

    #[test]
    fn reader_gets_the_latest_past_and_then_everything() {
        let tap = Tap::new("serial0".into());
        tap.say(b"forgotten");
        tap.say(&vec![b'x'; HISTORY]);
        let reader = TapReader::new(&tap);
        tap.say(b"new");
        let got = block_on(reader.read()).expect("output");
        assert_eq!(got.len(), HISTORY + 3);
        assert!(got.starts_with(b"xxx") && got.ends_with(b"xnew"));
        tap.say(b"last");
        tap.end();
        assert_eq!(block_on(reader.read()).as_deref(), Some(&b"last"[..]));
        assert_eq!(block_on(reader.read()), None);
        assert!(!block_on(reader.write(b"to nobody")));
    }

    #[test]
    fn slow_reader_loses_its_place_and_others_go_on() {
        let tap = Tap::new("serial0".into());
        let (slow, quick) = (TapReader::new(&tap), TapReader::new(&tap));
        let piece = vec![b'x'; 4096];
        for _ in 0..=QUEUE_MAX / piece.len() {
            tap.say(&piece);
            assert_eq!(block_on(quick.read()).map(|bytes| bytes.len()), Some(piece.len()));
        }
        assert_eq!(block_on(slow.read()), None);
    }

    #[test]
    fn input_waits_until_the_device_takes_it() {
        let tap = Tap::new("serial0".into());
        let heard = Arc::new(Mutex::new((Vec::new(), 0_usize)));
        let ears = Arc::clone(&heard);
        tap.set_input(Some(Box::new(move |bytes| {
            let (taken, room) = &mut *lock(&ears);
            let count = bytes.len().min(std::mem::take(room));
            taken.extend_from_slice(&bytes[..count]);
            count
        })));
        let reader = TapReader::new(&tap);
        let making_room = async {
            for _ in 0..4 {
                tokio::task::yield_now().await;
                lock(&heard).1 = 2;
                tap.resume();
            }
        };
        let (is_there, ()) = block_on(async { tokio::join!(reader.write(b"typed"), making_room) });
        assert!(is_there);
        assert_eq!(lock(&heard).0, b"typed");
    }
}
