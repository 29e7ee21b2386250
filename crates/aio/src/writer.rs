//! Long writes to the page cache of one file, one after the other on one thread of the pool.
//!
//! The kernel holds the inode's lock for as long as a buffered write copies. Writes to the same file that are started
//! beside each other spin or sleep on that lock, on cores that have better work; and a thread that is woken for each write
//! leaves the file idle for two switches. Here the thread that has finished a write takes the next one at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::operation::Operation;
use crate::pool;
use crate::task::lock;

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Arc<Operation>>,
    /// A thread works on the queue.
    busy: bool,
}

/// The writes of one file.
#[derive(Debug, Default)]
pub(crate) struct Writer(Mutex<Queue>);

impl Writer {
    /// Starts an operation behind those that wait.
    pub(crate) fn start(self: &Arc<Self>, operation: Arc<Operation>) {
        {
            let mut queue = lock(&self.0);
            queue.waiting.push_back(operation);
            if std::mem::replace(&mut queue.busy, true) {
                return;
            }
        }
        let writer = Arc::clone(self);
        pool::run(Box::new(move || writer.work()));
    }

    fn work(&self) {
        loop {
            let next = {
                let mut queue = lock(&self.0);
                let next = queue.waiting.pop_front();
                queue.busy = next.is_some();
                next
            };
            let Some(operation) = next else { return };
            operation.complete(operation.execute());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use iobuf::IoBuf;

    use super::*;
    use crate::operation::{Action, Completion};

    #[test]
    fn operations_are_done_in_their_order_and_the_last_one_wins() {
        let file = tempfile::tempfile().expect("a file");
        let fd = Arc::new(OwnedFd::from(file.try_clone().expect("a descriptor")));
        let writer = Arc::new(Writer::default());
        let mut operations = Vec::new();
        for round in 0..100u8 {
            let buf = IoBuf::copy_of(&vec![round; 64 << 10]);
            let operation = Operation::new(Arc::clone(&fd), Action::Write { offset: 0, buf, sync: false });
            writer.start(Arc::clone(&operation));
            operations.push(operation);
        }
        for operation in operations {
            assert_eq!(crate::block_on(Completion(operation)).expect("writes"), 64 << 10);
        }
        let mut read = vec![0; 64 << 10];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut read, 0).expect("reads");
        assert!(read.iter().all(|byte| *byte == 99));
        assert!(!lock(&writer.0).busy || lock(&writer.0).waiting.is_empty());
    }

    #[test]
    fn an_operation_that_fails_keeps_no_other_one_waiting() {
        let path = std::env::current_exe().expect("a program");
        let fd = Arc::new(OwnedFd::from(std::fs::File::open(path).expect("opens")));
        let writer = Arc::new(Writer::default());
        for _ in 0..3 {
            let buf = IoBuf::zeroed(4096);
            let operation = Operation::new(Arc::clone(&fd), Action::Write { offset: 0, buf, sync: false });
            writer.start(Arc::clone(&operation));
            assert!(crate::block_on(Completion(operation)).is_err(), "the descriptor can't be written");
        }
    }
}
