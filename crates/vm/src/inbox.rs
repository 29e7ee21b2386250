//! What waits for the control thread: guest events first, then requests, one at a time.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use machine::event::GuestEvent;

/// A request of a monitor, ready to run on the control thread, whose state is `C`.
pub type Request<C> = Box<dyn FnOnce(&mut C) + Send>;

/// Something for the control thread to do.
pub enum Item<C> {
    /// From the guest.
    Guest(GuestEvent),
    /// A signal of the host asks the program to end.
    Terminate {
        /// The signal's number.
        signal: i32,
    },
    /// The person at the terminal asks the program to end.
    Leave,
    /// From a monitor.
    Request(Request<C>),
}

struct Queues<C> {
    guest: VecDeque<GuestEvent>,
    terminate: Option<i32>,
    leave: bool,
    requests: VecDeque<Request<C>>,
}

/// The control thread's inbox. Everybody puts, one thread takes.
pub struct Inbox<C> {
    queues: Mutex<Queues<C>>,
    filled: Condvar,
}

impl<C> Default for Inbox<C> {
    fn default() -> Self {
        let queues = Queues { guest: VecDeque::new(), terminate: None, leave: false, requests: VecDeque::new() };
        Self { queues: Mutex::new(queues), filled: Condvar::new() }
    }
}

impl<C> Inbox<C> {
    fn lock(&self) -> MutexGuard<'_, Queues<C>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a guest event. Never waits.
    pub fn guest_event(&self, event: GuestEvent) {
        self.lock().guest.push_back(event);
        self.filled.notify_one();
    }

    /// Leaves a host signal's wish that the program ends.
    pub fn terminate(&self, signal: i32) {
        self.lock().terminate = Some(signal);
        self.filled.notify_one();
    }

    /// Leaves the wish of the person at the terminal that the program ends.
    pub fn leave(&self) {
        self.lock().leave = true;
        self.filled.notify_one();
    }

    /// Leaves a request.
    pub fn request(&self, request: Request<C>) {
        self.lock().requests.push_back(request);
        self.filled.notify_one();
    }

    /// Takes the most urgent item; waits for one if there is none.
    pub fn take(&self) -> Item<C> {
        let mut queues = self.lock();
        loop {
            if let Some(event) = queues.guest.pop_front() {
                return Item::Guest(event);
            }
            if let Some(signal) = queues.terminate.take() {
                return Item::Terminate { signal };
            }
            if std::mem::take(&mut queues.leave) {
                return Item::Leave;
            }
            if let Some(request) = queues.requests.pop_front() {
                return Item::Request(request);
            }
            queues = self.filled.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
