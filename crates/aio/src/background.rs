//! Work that is in no hurry.
//!
//! What a reactor's thread copies to the page cache itself, it does at once: the shortest way for one request. Who has many
//! requests in flight and waits for none of them gains more when a thread beside the reactor copies while the reactor goes
//! on, and the reactor's other tasks need not wait for such copies.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;

thread_local! {
    static IN_BACKGROUND: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread polls a future of [`in_background`].
pub(crate) fn is_background() -> bool {
    IN_BACKGROUND.try_with(Cell::get).unwrap_or(false)
}

/// `future`, whose writes to the page cache are left to another thread when they are long.
pub async fn in_background<F: Future>(future: F) -> F::Output {
    /// Ends a poll, also by a panic.
    struct Poll(bool);
    impl Drop for Poll {
        fn drop(&mut self) {
            IN_BACKGROUND.set(self.0);
        }
    }
    let mut future = pin!(future);
    poll_fn(|context| {
        let _poll = Poll(IN_BACKGROUND.replace(true));
        future.as_mut().poll(context)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::{File, attempt, block_on, spawn, yield_now};
    use iobuf::IoBuf;

    #[test]
    fn only_the_future_itself_is_in_the_background() {
        let ended = Arc::new(AtomicBool::new(false));
        let other = Arc::clone(&ended);
        block_on(async move {
            let task = spawn(in_background(async move {
                for _ in 0..3 {
                    assert!(is_background());
                    yield_now().await;
                }
                other.store(true, Ordering::Relaxed);
            }));
            while !ended.load(Ordering::Relaxed) {
                assert!(!is_background());
                yield_now().await;
            }
            task.await;
        });
    }

    #[test]
    fn long_writes_of_the_background_are_not_done_at_once() {
        let file = File::new(tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).expect("a file").into());
        let buf = IoBuf::copy_of(&[7; 65536]);
        block_on(async {
            // In an attempt the thread is not asked, which might be the faster one.
            assert!(attempt(in_background(file.write(0, buf.clone()))).is_none(), "a thread writes");
            in_background(file.write(0, buf.clone())).await.expect("writes");
            file.write(65536, buf.clone()).await.expect("writes");
            let read = IoBuf::zeroed(131_072);
            file.read(0, read.clone()).await.expect("reads");
            assert!(read.to_vec().iter().all(|byte| *byte == 7));
        });
    }
}
