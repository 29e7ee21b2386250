//! What other threads ask of a vCPU.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

/// A set of requests to a vCPU, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(pub u32);

impl Signal {
    /// The local APIC has an interrupt to deliver (a level: the APIC raises and clears it).
    pub const INTR: Self = Self(1);
    /// A non-maskable interrupt.
    pub const NMI: Self = Self(1 << 1);
    /// A system-management interrupt (an edge: one is kept while the vCPU is in system-management mode). A vCPU that raises
    /// it by its own OUT takes it before the next instruction. A board raises it for one vCPU or, in turn, for all.
    pub const SMI: Self = Self(1 << 2);
    /// INIT#.
    pub const INIT: Self = Self(1 << 3);
    /// A start-up IPI; the vector is in [`CpuSignals::sipi_vector`].
    pub const SIPI: Self = Self(1 << 4);
    /// Return from [`crate::Vcpu::run`] with [`crate::VcpuExit::Stopped`].
    pub const STOP: Self = Self(1 << 5);
    /// Drop all cached translations of guest-physical addresses (the memory map changed).
    pub const REMAP: Self = Self(1 << 6);
    /// Somebody else's store hit memory that holds decoded code: translations must be checked.
    pub const CODE: Self = Self(1 << 7);

    /// Both sets.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Makes a vCPU's thread leave guest code that does not poll its signals.
struct Kick(Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Kick {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kick")
    }
}

/// The mailbox of one vCPU.
#[derive(Debug, Default)]
pub struct CpuSignals {
    pending: AtomicU32,
    sipi: AtomicU32,
    sleeping: AtomicBool,
    thread: Mutex<Option<Thread>>,
    kick: OnceLock<Kick>,
}

impl memory::CodeListener for CpuSignals {
    fn code_modified(&self) {
        self.raise(Signal::CODE);
    }
}

impl CpuSignals {
    /// The raised signals; polled by the CPU at block entry.
    #[inline]
    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::Acquire)
    }

    /// Whether any of `signal`'s bits is raised.
    #[inline]
    pub fn is_raised(&self, signal: Signal) -> bool {
        self.pending() & signal.0 != 0
    }

    /// The word that [`CpuSignals::pending`] reads, for translated code that polls it directly.
    pub fn pending_word(&self) -> &AtomicU32 {
        &self.pending
    }

    /// Says how the vCPU's thread is brought back while it runs guest code that does not look at
    /// [`CpuSignals::pending`], as in a hypervisor of the host. Called after each raise, from any thread and with the
    /// raiser's locks held: it must not block. Only the first call counts.
    pub fn set_kick(&self, kick: impl Fn() + Send + Sync + 'static) {
        let _first = self.kick.set(Kick(Box::new(kick)));
    }

    /// Raises signals, wakes the vCPU's thread if it sleeps in [`CpuSignals::wait`], and kicks it.
    pub fn raise(&self, signal: Signal) {
        self.pending.fetch_or(signal.0, Ordering::SeqCst);
        if let Some(Kick(kick)) = self.kick.get() {
            kick();
        }
        if self.sleeping.load(Ordering::SeqCst)
            && let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).as_ref()
        {
            thread.unpark();
        }
    }

    /// Clears signals.
    pub fn clear(&self, signal: Signal) {
        self.pending.fetch_and(!signal.0, Ordering::SeqCst);
    }

    /// Clears `signal` and tells whether any of its bits was raised.
    pub fn take(&self, signal: Signal) -> bool {
        self.pending.fetch_and(!signal.0, Ordering::SeqCst) & signal.0 != 0
    }

    /// Raises [`Signal::SIPI`] with the vector (page number of the start address).
    pub fn raise_sipi(&self, vector: u8) {
        self.sipi.store(u32::from(vector), Ordering::SeqCst);
        self.raise(Signal::SIPI);
    }

    /// The vector of the last start-up IPI.
    pub fn sipi_vector(&self) -> u8 {
        self.sipi.load(Ordering::SeqCst) as u8
    }

    /// Sleeps on the vCPU's own thread until one of `wanted` is raised or the time is over (`None`: no limit).
    pub fn wait(&self, wanted: Signal, limit: Option<Duration>) {
        Self::wait_any(&[(self, wanted)], limit);
    }

    /// Sleeps on the thread of several vCPUs until one of them has one of its signals raised, or the time is over.
    pub fn wait_any(vcpus: &[(&Self, Signal)], limit: Option<Duration>) {
        for (signals, _) in vcpus {
            *signals.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
            signals.sleeping.store(true, Ordering::SeqCst);
        }
        let start = std::time::Instant::now();
        while vcpus.iter().all(|(signals, wanted)| signals.pending.load(Ordering::SeqCst) & wanted.0 == 0) {
            match limit {
                None => std::thread::park(),
                Some(limit) => match limit.checked_sub(start.elapsed()) {
                    Some(left) if !left.is_zero() => std::thread::park_timeout(left),
                    _ => break,
                },
            }
        }
        for (signals, _) in vcpus {
            signals.sleeping.store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn raise_wakes_a_waiting_thread() {
        let signals = Arc::new(CpuSignals::default());
        let waiting = Arc::clone(&signals);
        let thread = std::thread::spawn(move || waiting.wait(Signal::NMI, None));
        signals.raise(Signal::INTR);
        signals.raise(Signal::NMI);
        thread.join().expect("thread");
        assert!(signals.take(Signal::NMI));
        assert!(!signals.take(Signal::NMI));
        assert!(signals.is_raised(Signal::INTR));
    }

    #[test]
    fn raise_kicks_after_the_signal_is_visible() {
        let signals = Arc::new(CpuSignals::default());
        let seen = Arc::new(AtomicU32::new(0));
        let (weak, kicked) = (Arc::downgrade(&signals), Arc::clone(&seen));
        signals.set_kick(move || {
            let pending = weak.upgrade().map_or(0, |signals| signals.pending());
            kicked.store(pending, Ordering::SeqCst);
        });
        signals.raise(Signal::INTR);
        assert_eq!(seen.load(Ordering::SeqCst), Signal::INTR.0);
    }

    #[test]
    fn wait_for_several_ends_with_a_signal_of_any() {
        let signals = [(); 3].map(|()| Arc::new(CpuSignals::default()));
        let waiting = signals.clone();
        let thread = std::thread::spawn(move || {
            CpuSignals::wait_any(&waiting.each_ref().map(|signals| (&**signals, Signal::INTR)), None);
        });
        signals[1].raise(Signal::NMI);
        signals[2].raise(Signal::INTR);
        thread.join().expect("thread");
    }

    #[test]
    fn raise_kicks_after_the_bits_are_set() {
        let signals = Arc::new(CpuSignals::default());
        let (send, receive) = std::sync::mpsc::channel();
        let (seen, send) = (Arc::downgrade(&signals), std::sync::Mutex::new(send));
        signals.set_kick(move || {
            let pending = seen.upgrade().map(|signals| signals.pending());
            send.lock().expect("lock").send(pending).expect("receiver");
        });
        signals.raise(Signal::SMI);
        assert_eq!(receive.try_recv(), Ok(Some(Signal::SMI.0)));
    }

    #[test]
    fn wait_with_a_limit_ends() {
        CpuSignals::default().wait(Signal::NMI, Some(Duration::from_millis(5)));
    }
}
