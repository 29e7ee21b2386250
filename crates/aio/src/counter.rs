//! Event counters (eventfd) of other programs, which are told without ever waiting for them.
//!
//! A write to a counter that is full waits, unless its open file says otherwise; whoever shares the file can change both
//! at any time. The kernel itself never waits when it signals a counter: a ring of our own has it do that, as the
//! completion of an entry that does nothing.

use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{IoUring, opcode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A counter that is added to.
#[derive(Debug)]
pub struct EventCounter {
    fd: OwnedFd,
    signal: Signal,
}

enum Signal {
    NotTried,
    /// Its completions are signalled to the counter.
    Ring(Box<IoUring>),
    /// The process may not use io_uring.
    Write,
}

impl std::fmt::Debug for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotTried => "NotTried",
            Self::Ring(_) => "Ring",
            Self::Write => "Write",
        })
    }
}

impl EventCounter {
    /// The counter behind `fd`, which becomes non-blocking. Where there is no io_uring, it is looked whether the counter
    /// is full before each write; who fills it between the two, and has writers wait, holds the caller.
    ///
    /// # Errors
    /// The host's.
    pub fn new(fd: OwnedFd) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd, signal: Signal::NotTried })
    }

    /// Adds 1. A counter that is full says already what it is to say.
    pub fn signal(&mut self) {
        if matches!(self.signal, Signal::NotTried) {
            self.signal = signalling_ring(&self.fd).map_or(Signal::Write, |ring| Signal::Ring(Box::new(ring)));
        }
        if let Signal::Ring(ring) = &mut self.signal {
            // SAFETY: the entry refers to no memory.
            let queued = unsafe { ring.submission().push(&opcode::Nop::new().build()) };
            if queued.is_ok() && ring.submit().is_ok() {
                // It is complete; nothing is to be known of it.
                ring.completion().for_each(drop);
                return;
            }
            self.signal = Signal::Write;
        }
        let mut room = [PollFd::new(&self.fd, PollFlags::OUT)];
        if matches!(poll(&mut room, Some(&Timespec::default())), Ok(1)) && room[0].revents().contains(PollFlags::OUT) {
            let _full = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
        }
    }
}

fn signalling_ring(fd: &OwnedFd) -> std::io::Result<IoUring> {
    let ring = IoUring::new(1)?;
    ring.submitter().register_eventfd(fd.as_raw_fd())?;
    Ok(ring)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    fn count(fd: &OwnedFd) -> u64 {
        let mut bytes = [0; 8];
        rustix::io::read(fd, &mut bytes).expect("counted");
        u64::from_ne_bytes(bytes)
    }

    #[test]
    fn counter_counts_with_and_without_a_ring() {
        for signal in [Signal::NotTried, Signal::Write] {
            let fd = eventfd(0, EventfdFlags::CLOEXEC).expect("a counter");
            let mut counter = EventCounter::new(fd.try_clone().expect("a clone")).expect("a counter");
            counter.signal = signal;
            counter.signal();
            assert_eq!(count(&fd), 1);
            (0..3).for_each(|_| counter.signal());
            assert_eq!(count(&fd), 3);
        }
    }

    #[test]
    fn full_counter_whose_writers_wait_holds_nobody() {
        for signal in [Signal::NotTried, Signal::Write] {
            let fd = eventfd(0, EventfdFlags::CLOEXEC).expect("a counter");
            let mut counter = EventCounter::new(fd.try_clone().expect("a clone")).expect("a counter");
            counter.signal = signal;
            rustix::io::ioctl_fionbio(&fd, false).expect("writers wait");
            rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).expect("full");
            (0..3).for_each(|_| counter.signal());
            assert!(count(&fd) >= u64::MAX - 1);
            counter.signal();
            assert_eq!(count(&fd), 1);
        }
    }
}
