//! A reactor's io_uring: operations in flight, submitted once a turn.
//!
//! A slot owns an operation, and with it the buffer and the descriptor, until its completion has been seen. The ring is
//! dropped only when no slot is in use.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};

use crate::operation::{Action, MAX_SEGMENTS, Operation};

/// Submission entries of a ring; the completion queue has twice as many, and the kernel keeps what does not fit.
const ENTRIES: u32 = 256;
/// The `user_data` of the poll on the reactor's eventfd.
const WAKE: u64 = u64::MAX;
/// The `user_data` of cancellations.
const CANCEL: u64 = u64::MAX - 1;

struct Slot {
    operation: Arc<Operation>,
    /// What the kernel reads of a vectored operation. Empty for one segment.
    iovecs: Vec<libc::iovec>,
}

pub(crate) struct Ring {
    ring: IoUring,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    in_flight: usize,
    wake_fd: RawFd,
    wake_armed: bool,
    /// Completed operations whose results are being handed out; kept for its allocation.
    finished: Vec<(Arc<Operation>, i32)>,
}

/// Whether this process may use io_uring.
pub fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| build(4).is_ok_and(|ring| ring.params().is_feature_ext_arg()))
}

/// Deferred task work (`DEFER_TASKRUN`) was measured, too: buffered writes, which kernel threads complete, came out a
/// quarter slower with it, and direct I/O no faster.
fn build(entries: u32) -> io::Result<IoUring> {
    let modern =
        IoUring::builder().setup_single_issuer().setup_coop_taskrun().setup_taskrun_flag().setup_clamp().build(entries);
    match modern {
        // Before Linux 6.0 these flags are unknown.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::builder().setup_clamp().build(entries),
        result => result,
    }
}

impl Ring {
    /// A ring for the calling thread, which alone may use it.
    pub(crate) fn new(wake_fd: RawFd) -> io::Result<Self> {
        let ring = build(ENTRIES)?;
        if !ring.params().is_feature_ext_arg() {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        let (slots, free, finished) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { ring, slots, free, in_flight: 0, wake_fd, wake_armed: false, finished })
    }

    /// Whether entries wait for submission.
    pub(crate) fn has_unsubmitted(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Whether the kernel has completions to deliver at the next call.
    pub(crate) fn has_completions(&mut self) -> bool {
        self.ring.submission().taskrun() || !self.ring.completion().is_empty()
    }

    /// Operations in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Queues an operation. It reaches the kernel with the next submission.
    pub(crate) fn push(&mut self, operation: Arc<Operation>) {
        let iovecs = match &operation.action {
            Action::Read { buf, .. } | Action::Write { buf, .. } if buf.segments().len() != 1 => buf.iovecs(),
            _ => Vec::new(),
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[index] = Some(Slot { operation, iovecs });
        self.in_flight += 1;
        self.queue_slot(index);
    }

    fn queue_slot(&mut self, index: usize) {
        if let Some(slot) = &self.slots[index] {
            let entry = entry(slot).user_data(index as u64);
            self.queue(&entry);
        }
    }

    fn queue(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: what the entry points to lives in a slot until the entry's completion has been seen.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            // The queue is full: hand it over. The kernel takes entries even if completions overflow.
            if self.ring.submit().is_err() {
                self.collect();
                let _ = self.enter(0);
            }
        }
    }

    /// Has an operation end soon. What is queued later is not affected: the kernel takes entries in their order.
    pub(crate) fn cancel(&mut self, operation: &Arc<Operation>) {
        let is_it = |slot: &Option<Slot>| slot.as_ref().is_some_and(|slot| Arc::ptr_eq(&slot.operation, operation));
        if let Some(index) = self.slots.iter().position(is_it) {
            self.queue(&opcode::AsyncCancel::new(index as u64).build().user_data(CANCEL));
        }
    }

    /// Hands over what is queued and takes in what is complete, without waiting.
    pub(crate) fn turn(&mut self) {
        let _ = self.enter(0);
        self.collect();
    }

    fn enter(&mut self, want: u32) -> io::Result<usize> {
        const GETEVENTS: u32 = 1;
        let len = self.ring.submission().len() as u32;
        // SAFETY: no signal mask or argument is passed.
        unsafe { self.ring.submitter().enter::<libc::sigset_t>(len, want, GETEVENTS, None) }
    }

    /// Hands over what is queued and waits for a completion, a wake-up through the eventfd, or the time-out.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) {
        if !self.wake_armed {
            let poll = opcode::PollAdd::new(types::Fd(self.wake_fd), libc::POLLIN as u32).multi(true);
            self.queue(&poll.build().user_data(WAKE));
            self.wake_armed = true;
        }
        // Whatever the kernel says (a signal, the time-out, completions to be taken first): the caller looks again.
        let _ = match timeout {
            None => self.enter(1),
            Some(timeout) => {
                let time = types::Timespec::from(timeout);
                self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&time))
            }
        };
        self.collect();
    }

    /// Takes completions from the ring; their results wait in `finished`.
    fn collect(&mut self) {
        let mut again = Vec::new();
        for entry in self.ring.completion() {
            if entry.user_data() == WAKE {
                self.wake_armed = io_uring::cqueue::more(entry.flags());
                continue;
            }
            let Ok(index) = usize::try_from(entry.user_data()) else { continue };
            let Some(slot) = self.slots.get_mut(index) else { continue };
            if matches!(-entry.result(), libc::EINTR | libc::EAGAIN) {
                again.push(index);
                continue;
            }
            if let Some(slot) = slot.take() {
                self.free.push(index);
                self.in_flight -= 1;
                self.finished.push((slot.operation, entry.result()));
            }
        }
        for index in again {
            self.queue_slot(index);
        }
    }

    /// Operations that have ended, with their results. The caller gives the list back for reuse.
    pub(crate) fn take_finished(&mut self) -> Vec<(Arc<Operation>, i32)> {
        std::mem::take(&mut self.finished)
    }

    pub(crate) fn reuse(&mut self, mut list: Vec<(Arc<Operation>, i32)>) {
        list.clear();
        if self.finished.is_empty() {
            self.finished = list;
        }
    }
}

fn entry(slot: &Slot) -> squeue::Entry {
    let fd = types::Fd(slot.operation.fd.as_raw_fd());
    let count = slot.iovecs.len().min(MAX_SEGMENTS) as u32;
    match &slot.operation.action {
        Action::Read { offset, buf } => match buf.segments() {
            [one] => opcode::Read::new(fd, one.start().as_ptr(), one_len(one.len())).offset(*offset).build(),
            _ => opcode::Readv::new(fd, slot.iovecs.as_ptr(), count).offset(*offset).build(),
        },
        Action::Write { offset, buf, sync } => {
            let flags = if *sync { libc::RWF_DSYNC } else { 0 };
            match buf.segments() {
                [one] => opcode::Write::new(fd, one.start().as_ptr(), one_len(one.len()))
                    .offset(*offset)
                    .rw_flags(flags as _)
                    .build(),
                _ => opcode::Writev::new(fd, slot.iovecs.as_ptr(), count).offset(*offset).rw_flags(flags as _).build(),
            }
        }
        Action::SyncData => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        Action::Allocate { flags, offset, len } => {
            opcode::Fallocate::new(fd, *len).offset(*offset).mode(flags.bits() as i32).build()
        }
        Action::Ready { events } => opcode::PollAdd::new(fd, u32::from(events.unsigned_abs())).build(),
    }
}

/// The length of one transfer; the rest of a longer one is a short transfer's.
fn one_len(len: usize) -> u32 {
    len.min(1 << 30) as u32
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Nobody waits any more for a socket that may never become ready.
        for index in 0..self.slots.len() {
            let waits = |slot: &Slot| matches!(slot.operation.action, Action::Ready { .. });
            if self.slots[index].as_ref().is_some_and(waits) {
                self.queue(&opcode::AsyncCancel::new(index as u64).build().user_data(CANCEL));
            }
        }
        // The kernel may write into buffers of operations until they are complete.
        while self.in_flight != 0 {
            let _ = self.enter(1);
            self.collect();
        }
        for (operation, result) in self.take_finished() {
            operation.complete(result);
        }
    }
}
