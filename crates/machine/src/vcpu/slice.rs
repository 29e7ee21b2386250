//! Ends the turns of vCPUs that share a thread.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use accel::{CpuSignals, Signal};

/// How long a turn lasts, unless the vCPU sleeps sooner or another one gets an interrupt.
const SLICE: Duration = Duration::from_millis(4);
/// No vCPU has its turn.
const NOBODY: usize = usize::MAX;

/// A turn: who, and until when. `None` while no vCPU runs.
type Turn = Option<(usize, Instant)>;

/// Whose turn it is.
pub(super) struct Turns {
    current: AtomicUsize,
    turn: Mutex<(Turn, bool)>,
    changed: Condvar,
    vcpus: Vec<Arc<CpuSignals>>,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, (Turn, bool)> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn of vCPU `seat` begins.
    pub(super) fn begin(&self, seat: usize) {
        self.current.store(seat, Ordering::SeqCst);
        self.lock().0 = Some((seat, Instant::now() + SLICE));
        self.changed.notify_one();
    }

    /// The turn is over.
    pub(super) fn end(&self) {
        self.current.store(NOBODY, Ordering::SeqCst);
        self.lock().0 = None;
    }

    /// Somebody wants vCPU `seat`: another one that has its turn gives it up.
    pub(super) fn wanted(&self, seat: usize) {
        let current = self.current.load(Ordering::SeqCst);
        if current != seat
            && let Some(signals) = self.vcpus.get(current)
            && !signals.is_raised(Signal::STOP)
        {
            signals.raise(Signal::STOP);
        }
    }

    /// The loop of the timer's thread.
    fn run(&self) {
        let mut turn = self.lock();
        loop {
            turn = match *turn {
                (_, true) => return,
                (None, _) => self.changed.wait(turn).unwrap_or_else(PoisonError::into_inner),
                (Some((seat, end)), _) => match end.checked_duration_since(Instant::now()) {
                    Some(left) if !left.is_zero() => {
                        self.changed.wait_timeout(turn, left).unwrap_or_else(PoisonError::into_inner).0
                    }
                    _ => {
                        if let Some(signals) = self.vcpus.get(seat) {
                            signals.raise(Signal::STOP);
                        }
                        // Until the next turn begins.
                        turn.0 = None;
                        turn
                    }
                },
            };
        }
    }
}

/// The thread that ends turns. Dropping it ends the thread.
pub(super) struct SliceTimer {
    turns: Arc<Turns>,
    thread: Option<JoinHandle<()>>,
}

impl SliceTimer {
    /// Starts the thread for these vCPUs, which share one.
    pub(super) fn start(vcpus: &[Arc<CpuSignals>]) -> io::Result<Self> {
        let turns = Arc::new(Turns {
            current: AtomicUsize::new(NOBODY),
            turn: Mutex::new((None, false)),
            changed: Condvar::new(),
            vcpus: vcpus.to_vec(),
        });
        let own = Arc::clone(&turns);
        let thread = std::thread::Builder::new().name("vCPU turns".into()).spawn(move || own.run())?;
        Ok(Self { turns, thread: Some(thread) })
    }

    /// What the vCPUs' thread tells of its turns.
    pub(super) fn turns(&self) -> Arc<Turns> {
        Arc::clone(&self.turns)
    }
}

impl Drop for SliceTimer {
    fn drop(&mut self) {
        self.turns.lock().1 = true;
        self.turns.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It has no way to panic.
            let _ = thread.join();
        }
    }
}
