//! Work that waits for images, away from the control thread.
//!
//! Opening an image may take as long as a server likes, or a file system that hangs. So a command that opens or reopens
//! images has two halves on the control thread, and between them a thread of its own waits: its reactor runs the opening
//! alone, so that one server that hangs is in nobody's way. The command's session waits for its reply, as clients expect
//! of the order of their commands; other sessions and the guest go on. The second half looks again at what the first one
//! has seen: the machine may have changed meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
        Self { owner, waiting: Arc::default() }
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
}
