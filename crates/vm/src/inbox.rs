//! What waits for the control thread: guest events first, then requests, one at a time.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use machine::event::GuestEvent;

use crate::control::Control;

/// A request of a monitor, ready to run on the control thread.
pub type Request = Box<dyn FnOnce(&mut Control) + Send>;

/// Something for the control thread to do.
pub enum Item {
    /// From the guest.
    Guest(GuestEvent),
    /// A signal of the host asks the program to end.
    Terminate {
        /// The signal's number.
        signal: i32,
    },
    /// From a monitor.
    Request(Request),
}

#[derive(Default)]
struct Queues {
    guest: VecDeque<GuestEvent>,
    terminate: Option<i32>,
    requests: VecDeque<Request>,
}

/// The control thread's inbox. Everybody puts, one thread takes.
#[derive(Default)]
pub struct Inbox {
    queues: Mutex<Queues>,
    filled: Condvar,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Queues> {
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

    /// Leaves a request.
    pub fn request(&self, request: Request) {
        self.lock().requests.push_back(request);
        self.filled.notify_one();
    }

    /// Takes the most urgent item; waits for one if there is none.
    pub fn take(&self) -> Item {
        let mut queues = self.lock();
        loop {
            if let Some(event) = queues.guest.pop_front() {
                return Item::Guest(event);
            }
            if let Some(signal) = queues.terminate.take() {
                return Item::Terminate { signal };
            }
            if let Some(request) = queues.requests.pop_front() {
                return Item::Request(request);
            }
            queues = self.filled.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
