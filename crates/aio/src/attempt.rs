//! Doing at once, on any thread, what does not wait.
//!
//! [`attempt`] polls a future once and drops it if it is not ready. Meanwhile no leaf operation is started that would go on
//! without the future: what is in the page cache is read, everything else waits for ever. So an attempt that fails has
//! changed nothing, as long as the future only reads.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

thread_local! {
    static ATTEMPTING: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is in an [`attempt`].
pub fn is_attempting() -> bool {
    ATTEMPTING.try_with(Cell::get).unwrap_or(false)
}

/// The result of `future` if it gives one without waiting.
pub fn attempt<F: Future>(future: F) -> Option<F::Output> {
    /// Ends the attempt, also by a panic.
    struct Attempt(bool);
    impl Drop for Attempt {
        fn drop(&mut self) {
            ATTEMPTING.set(self.0);
        }
    }
    let _attempt = Attempt(ATTEMPTING.replace(true));
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Ends an attempt, if the calling thread is in one: what follows must not be done twice.
pub async fn not_in_an_attempt() {
    if is_attempting() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{File, block_on};
    use iobuf::IoBuf;

    #[test]
    fn an_attempt_reads_what_is_cached_and_starts_nothing() {
        let file = File::new(tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).expect("a file").into());
        block_on(file.write(0, IoBuf::copy_of(&[7; 4096]))).expect("writes");
        let buf = IoBuf::zeroed(4096);
        assert!(matches!(attempt(file.read(0, buf.clone())), Some(Ok(()))));
        assert_eq!(buf.to_vec(), [7; 4096]);
        assert!(attempt(file.sync_data()).is_none(), "a flush waits");
        assert!(attempt(not_in_an_attempt()).is_none());
        assert!(!is_attempting());
        block_on(not_in_an_attempt());
    }
}
