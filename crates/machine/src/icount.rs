//! `-icount`: guest time goes by executed instructions, so that a run can be repeated exactly.
//!
//! One thread runs all vCPUs in turns of a fixed number of instructions, and the timers between turns: a turn ends when
//! the next timer falls due. While all vCPUs sleep, guest time goes on to the next timer: at once, or ([`Idle::Wait`])
//! as the host's time does. Nothing that happens outside of the guest (monitors, character devices, `-rtc clock=host`)
//! is deterministic.
//!
//! Record and replay are not here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use accel::{CpuSignals, Signal};
use clock::{Clock, InstructionCounter, MAX_SHIFT};

/// How long an instruction takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// 2^N nanoseconds.
    Fixed(u32),
    /// Adapted, so that guest time follows the host's.
    Auto,
}

impl Shift {
    /// What an adapted one begins with.
    const FIRST: u32 = 3;

    fn first(self) -> u32 {
        match self {
            Self::Fixed(shift) => shift,
            Self::Auto => Self::FIRST,
        }
    }
}

/// What guest time does while all vCPUs sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// It goes on with the host's (`sleep=on`).
    Wait,
    /// It jumps to the next timer (`sleep=off`).
    Skip,
}

/// What guest time does when it is ahead of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// It waits (`align=on`).
    Wait,
    /// Nothing.
    Free,
}

/// `-icount`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcountConfig {
    /// How long an instruction takes.
    pub shift: Shift,
    /// While all vCPUs sleep.
    pub idle: Idle,
    /// When guest time is ahead.
    pub align: Align,
}

/// Instructions of a turn, when no timer falls due.
const TURN: u64 = 100_000;
/// Guest time may be ahead of the host's by this much before it waits.
const LEAD: u64 = 3_000_000;
/// How often an adapted shift is looked at.
const ADAPT: Duration = Duration::from_millis(100);
/// Nanoseconds by which an adapted clock may be off.
const WOBBLE: i64 = 100_000_000;
/// The least time between two warnings that the guest is late.
const WARN: Duration = Duration::from_secs(2);

/// The clock of a machine whose time goes by instructions, as its vCPU thread drives it.
pub struct Icount {
    config: IcountConfig,
    clock: Clock,
    counter: Arc<InstructionCounter>,
    /// The host's and the guest's time when the machine was last resumed.
    origin: (Instant, u64),
    shift: u32,
    /// When the shift was last looked at, and by how much the clock was off then.
    adapted: (Instant, i64),
    /// When the guest was last said to be late, and by how many seconds.
    warned: (Instant, i64),
    /// All vCPUs sleep, or are about to, until the next timer falls due.
    idle: Arc<AtomicBool>,
}

impl Icount {
    /// A counted clock, stopped at 0.
    pub fn new(config: IcountConfig) -> Self {
        let counter = Arc::new(InstructionCounter::default());
        let shift = config.shift.first();
        let clock = Clock::counted(Arc::clone(&counter), shift);
        let now = Instant::now();
        Self {
            config,
            clock,
            counter,
            origin: (now, 0),
            shift,
            adapted: (now, 0),
            warned: (now, 0),
            idle: Arc::default(),
        }
    }

    /// The guest's clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What the vCPUs count with.
    pub fn counter(&self) -> &Arc<InstructionCounter> {
        &self.counter
    }

    /// Lets a new, earlier deadline end a sleep of the thread that waits for `signals`.
    pub(crate) fn wake(&self, signals: &Arc<CpuSignals>) {
        let (idle, signals) = (Arc::clone(&self.idle), Arc::clone(signals));
        self.clock.set_waker(move || {
            if idle.load(Ordering::SeqCst) {
                signals.raise(Signal::STOP);
            }
        });
    }

    /// The machine runs again.
    pub(crate) fn resumed(&mut self) {
        let now = Instant::now();
        self.origin = (now, self.clock.now());
        self.adapted = (now, 0);
    }

    /// Runs what is due and says how far the next vCPU may run.
    pub(crate) fn begin_turn(&mut self) {
        self.counter.set_limit(u64::MAX);
        let due = self.clock.run_due();
        let end = self.counter.executed().saturating_add(TURN);
        self.counter.lower_limit(due.unwrap_or(end).min(end));
    }

    /// A turn is over: keeps guest time near the host's, where that is asked for. `stop` ends a wait.
    pub(crate) fn end_turn(&mut self, stop: &[(&CpuSignals, Signal)]) {
        match (self.config.shift, self.config.align) {
            (Shift::Auto, align) => {
                self.adapt();
                if align == Align::Wait {
                    self.align(stop);
                }
            }
            (Shift::Fixed(_), Align::Wait) => self.align(stop),
            (Shift::Fixed(_), Align::Free) => {}
        }
    }

    /// By how many nanoseconds guest time is ahead of the host's.
    fn lead(&self) -> i64 {
        let (host, guest) = self.origin;
        let host = i64::try_from(host.elapsed().as_nanos()).unwrap_or(i64::MAX);
        let guest = i64::try_from(self.clock.now().saturating_sub(guest)).unwrap_or(i64::MAX);
        guest.saturating_sub(host)
    }

    fn align(&mut self, stop: &[(&CpuSignals, Signal)]) {
        let lead = self.lead();
        if lead > LEAD as i64 {
            CpuSignals::wait_any(stop, Some(Duration::from_nanos(lead.unsigned_abs())));
        }
        let late = -lead / 1_000_000_000;
        if late > self.warned.1 && self.warned.0.elapsed() >= WARN {
            tracing::warn!("The guest is now late by {late} to {} seconds", late + 1);
            self.warned = (Instant::now(), late);
        }
    }

    /// Makes instructions longer or shorter, so that the clock's error becomes smaller.
    fn adapt(&mut self) {
        if self.adapted.0.elapsed() < ADAPT {
            return;
        }
        let lead = self.lead();
        let last = self.adapted.1;
        self.adapted = (Instant::now(), lead);
        // A clock that is off but on its way back is left alone.
        let shift = if lead > 0 && last.saturating_add(WOBBLE) < lead.saturating_mul(2) {
            self.shift.saturating_sub(1)
        } else if lead < 0 && last.saturating_sub(WOBBLE) > lead.saturating_mul(2) {
            (self.shift + 1).min(MAX_SHIFT)
        } else {
            self.shift
        };
        if shift != self.shift {
            self.shift = shift;
            self.clock.set_shift(shift);
        }
    }

    /// All vCPUs sleep for their signals: lets guest time go on to the next timer, and runs it.
    pub(crate) fn sleep(&mut self, vcpus: &[(&CpuSignals, Signal)]) {
        self.clock.run_due();
        if vcpus.iter().any(|(signals, wanted)| signals.is_raised(*wanted)) {
            return;
        }
        self.idle.store(true, Ordering::SeqCst);
        self.sleep_to_deadline(vcpus);
        self.idle.store(false, Ordering::SeqCst);
        self.clock.run_due();
    }

    fn sleep_to_deadline(&self, vcpus: &[(&CpuSignals, Signal)]) {
        let Some(deadline) = self.clock.next_deadline() else {
            CpuSignals::wait_any(vcpus, None);
            return;
        };
        let now = self.clock.now();
        if self.config.idle == Idle::Wait {
            let start = Instant::now();
            CpuSignals::wait_any(vcpus, Some(Duration::from_nanos(deadline.saturating_sub(now))));
            if vcpus.iter().any(|(signals, wanted)| signals.is_raised(*wanted)) {
                // Woken from outside: guest time has gone on as far as the host's.
                let slept = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                self.clock.skip_to(now.saturating_add(slept).min(deadline));
                return;
            }
        }
        self.clock.skip_to(deadline);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    const SKIP: IcountConfig = IcountConfig { shift: Shift::Fixed(3), idle: Idle::Skip, align: Align::Free };

    #[test]
    fn turn_ends_at_the_next_deadline_and_its_timer_runs_before_the_next_turn() {
        let mut icount = Icount::new(SKIP);
        let ran = Arc::new(AtomicBool::new(false));
        let own = Arc::clone(&ran);
        let mut timer = icount.clock().timer(move || own.store(true, Ordering::SeqCst));
        timer.arm(8 * 500);
        icount.begin_turn();
        assert_eq!(icount.counter().limit(), 500);
        icount.counter().add(500);
        assert!(icount.counter().is_due() && !ran.load(Ordering::SeqCst));
        icount.begin_turn();
        assert!(ran.load(Ordering::SeqCst));
        assert_eq!(icount.counter().limit(), 500 + TURN);
    }

    #[test]
    fn sleep_without_wait_jumps_from_timer_to_timer() {
        let mut icount = Icount::new(SKIP);
        let signals = CpuSignals::default();
        let log = Arc::new(Mutex::new(Vec::new()));
        // An hour and a day: nobody waits for them.
        let _timers = [3_600_000_000_000, 86_400_000_000_000].map(|deadline| {
            let (log, clock) = (Arc::clone(&log), icount.clock().clone());
            let mut timer = icount.clock().timer(move || log.lock().expect("log").push(clock.now()));
            timer.arm(deadline);
            timer
        });
        icount.sleep(&[(&signals, Signal::INTR)]);
        assert_eq!(*log.lock().expect("log"), [3_600_000_000_000]);
        icount.sleep(&[(&signals, Signal::INTR)]);
        assert_eq!(*log.lock().expect("log"), [3_600_000_000_000, 86_400_000_000_000]);
    }

    #[test]
    fn sleep_ends_at_once_when_a_vcpu_is_wanted() {
        let mut icount = Icount::new(IcountConfig { idle: Idle::Wait, ..SKIP });
        let signals = CpuSignals::default();
        let mut timer = icount.clock().timer(|| ());
        timer.arm(u64::MAX);
        signals.raise(Signal::NMI);
        icount.sleep(&[(&signals, Signal::INTR.with(Signal::NMI))]);
        assert_eq!(icount.clock().now(), 0);
    }

    #[test]
    fn earlier_deadline_from_another_thread_ends_a_sleep() {
        let mut icount = Icount::new(IcountConfig { idle: Idle::Wait, ..SKIP });
        let signals = Arc::new(CpuSignals::default());
        icount.wake(&signals);
        let mut far = icount.clock().timer(|| ());
        far.arm(u64::MAX);
        let clock = icount.clock().clone();
        let idle = Arc::clone(&icount.idle);
        let thread = std::thread::spawn(move || {
            while !idle.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            let mut near = clock.timer(|| ());
            near.arm(1);
        });
        icount.sleep(&[(&signals, Signal::STOP)]);
        assert!(signals.is_raised(Signal::STOP));
        thread.join().expect("thread");
    }
}
