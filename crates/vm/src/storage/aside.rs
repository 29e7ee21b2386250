//! Work that waits for images, away from the control thread.
//!
//! Opening, closing and resizing an image may take as long as a server likes, or a file system that hangs, and so may a
//! flush. So a command that does such a thing has two halves on the control thread, and between them a thread of its own waits: its reactor runs that work
//! alone, so that one server that hangs is in nobody's way. The command's session waits for its reply, as clients expect
//! of the order of their commands; other sessions and the guest go on. The second half looks again at what the first one
//! has seen: the machine may have changed meanwhile.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use qapi::Error;

use super::{OwnerLink, Storage};

/// How many commands may wait for images. Clients that come again and again to a server that hangs find the end of it.
const MAX_WAITING: usize = 64;

/// Bytes of such a thread's stack.
const STACK: usize = 8 << 20;

/// Where such work is started, and who is told of its end.
pub struct Aside {
    owner: OwnerLink,
    waiting: Arc<AtomicUsize>,
    unfinished: Arc<Unfinished>,
}

/// How much work runs that has data to bring to its place: the program does not end before that.
#[derive(Default)]
struct Unfinished {
    count: Mutex<usize>,
    less: Condvar,
}

impl Unfinished {
    fn count(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One piece of such work, until it is done or has panicked.
struct Duty(Arc<Unfinished>);

impl Duty {
    fn take(unfinished: &Arc<Unfinished>) -> Self {
        *unfinished.count() += 1;
        Self(Arc::clone(unfinished))
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        *self.0.count() -= 1;
        self.0.less.notify_all();
    }
}

/// One of those that wait.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(waiting: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(waiting));
        (waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Aside {
    /// Work whose end is told to `owner`.
    pub fn new(owner: OwnerLink) -> Self {
        Self { owner, waiting: Arc::default(), unfinished: Arc::default() }
    }

    /// Does `work` on a thread of its own, and then `finish` on the control thread with what came of it.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
        finish: impl FnOnce(&mut Storage, Result<T, Error>) + Send + 'static,
    ) {
        let tell = Arc::clone(&self.owner.run);
        let Some(place) = Place::take(&self.waiting) else {
            let refused = Err(Error::generic("Too many commands wait for images"));
            return tell(Box::new(move |storage| finish(storage, refused)));
        };
        let run = move || {
            let done = work();
            drop(place);
            tell(Box::new(move |storage| finish(storage, done)));
        };
        // Nodes may lie deep in one another.
        let thread = std::thread::Builder::new().name("images".into()).stack_size(STACK);
        if let Err(error) = thread.spawn(run) {
            // Who waits for an answer went with the closure, and is told that it was given up.
            eprintln!("cannot start a thread: {error}");
        }
    }

    /// The same for work that must be done before the program ends: closing, flushing. It is never refused: if there is
    /// no thread for it, the control thread does it.
    pub fn run_to_the_end<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
        finish: impl FnOnce(&mut Storage, Result<T, Error>) + Send + 'static,
    ) {
        let tell = Arc::clone(&self.owner.run);
        let duty = Duty::take(&self.unfinished);
        // The thread and, if there is none, this one look for the work here.
        let task = Arc::new(Mutex::new(Some(move || {
            let done = work();
            drop(duty);
            tell(Box::new(move |storage| finish(storage, done)));
        })));
        let take = |task: &Mutex<Option<_>>| task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(place) = Place::take(&self.waiting) else {
            return take(&task).into_iter().for_each(|run| run());
        };
        let theirs = Arc::clone(&task);
        let run = move || {
            take(&theirs).into_iter().for_each(|run| run());
            drop(place);
        };
        let thread = std::thread::Builder::new().name("images".into()).stack_size(STACK);
        if let Err(error) = thread.spawn(run) {
            tracing::warn!("cannot start a thread: {error}");
            take(&task).into_iter().for_each(|run| run());
        }
    }

    /// Waits until nothing is left that must be done before the program ends.
    pub fn settle(&self) {
        let mut count = self.unfinished.count();
        while *count != 0 {
            count = self.unfinished.less.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_is_had_again_once_it_is_given_back() {
        let waiting = Arc::default();
        let mut places: Vec<_> = (0..MAX_WAITING).map(|_| Place::take(&waiting).expect("a place")).collect();
        assert!(Place::take(&waiting).is_none(), "they are as many as may be");
        places.pop();
        assert!(Place::take(&waiting).is_some());
    }

    #[test]
    fn work_that_panics_is_not_waited_for_at_the_end() {
        let aside = Aside::new(OwnerLink { run: Arc::new(|_| {}), stop_guest: Arc::new(|| {}) });
        let work = || -> Result<(), Error> { panic!("the test wants it") };
        aside.run_to_the_end(work, |_, _| {});
        aside.settle();
    }
}
