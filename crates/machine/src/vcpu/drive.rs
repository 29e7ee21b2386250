//! The loop of a vCPU thread: mail, stops, turns, sleep.

use std::sync::{Arc, PoisonError, Weak};

use accel::{CpuSignals, Signal, Vcpu, VcpuExit};
use x86::regs::{Activity, rflags};

use super::slice::Turns;
use super::{NewVcpu, Shared, Wanted};
use crate::event::{GuestEvent, GuestEvents};
use crate::icount::Icount;

/// What ends the sleep of a halted vCPU that takes no maskable interrupts.
const WAKE_MASKED: Signal = Signal::NMI.with(Signal::SMI).with(Signal::INIT).with(Signal::SIPI).with(Signal::STOP);
/// What ends the sleep of a halted vCPU.
const WAKE: Signal = WAKE_MASKED.with(Signal::INTR);

/// A vCPU on its thread.
pub(super) struct Seat {
    index: usize,
    cpu: Box<dyn Vcpu>,
    signals: Arc<CpuSignals>,
    /// After a triple fault the vCPU does not run until mail (a reset) or a stop arrives.
    parked: bool,
    /// It stands while others run.
    held: bool,
    /// What a halted vCPU sleeps for.
    sleeps_for: Option<Signal>,
}

impl Seat {
    pub(super) fn new(index: usize, vcpu: NewVcpu) -> Self {
        Self { index, cpu: vcpu.cpu, signals: vcpu.signals, parked: false, held: false, sleeps_for: None }
    }

    /// Whether the vCPU takes part.
    fn is_in(&self) -> bool {
        !self.parked && !self.held
    }

    /// Whether the vCPU can use a turn.
    fn is_ready(&self) -> bool {
        self.is_in() && self.sleeps_for.is_none_or(|signal| self.signals.is_raised(signal))
    }

    /// The vCPU halted: finds out for what.
    fn fall_asleep(&mut self) {
        // An interrupt that is masked stays raised, and is no reason to wake.
        let is_deaf = self.signals.is_raised(Signal::INTR) && {
            let registers = self.cpu.registers();
            registers.activity == Activity::WaitForSipi || registers.rflags & rflags::IF == 0
        };
        self.sleeps_for = Some(if is_deaf { WAKE_MASKED } else { WAKE });
    }
}

/// Everything that a vCPU thread has.
pub(super) struct Driver {
    seats: Vec<Seat>,
    shared: Arc<Shared>,
    events: GuestEvents,
    turns: Option<Arc<Turns>>,
    icount: Option<Icount>,
    enter: fn(usize),
}

impl Driver {
    pub(super) fn new(
        seats: Vec<Seat>,
        shared: Arc<Shared>,
        events: GuestEvents,
        turns: Option<Arc<Turns>>,
        icount: Option<Icount>,
        enter: fn(usize),
    ) -> Self {
        if let Some(turns) = &turns {
            for (seat, Seat { signals, .. }) in seats.iter().enumerate() {
                // The turns know the mailboxes.
                let turns: Weak<Turns> = Arc::downgrade(turns);
                signals.set_kick(move || {
                    if let Some(turns) = turns.upgrade() {
                        turns.wanted(seat);
                    }
                });
            }
        }
        if let (Some(icount), Some(seat)) = (&icount, seats.first()) {
            icount.wake(&seat.signals);
        }
        Self { seats, shared, events, turns, icount, enter }
    }

    /// The thread's loop.
    pub(super) fn run(mut self) {
        let mut last = 0;
        let mut runs = false;
        loop {
            for seat in &self.seats {
                // Clear before looking: whoever raises it later has already left its request.
                seat.signals.clear(Signal::STOP);
            }
            let mut inner = self.shared.lock();
            if let Some((seat, mail)) = inner.mail.pop_front() {
                drop(inner);
                if let Some(seat) = self.seats.get_mut(seat) {
                    (self.enter)(seat.index);
                    mail(&mut *seat.cpu);
                    (seat.parked, seat.sleeps_for) = (false, None);
                }
                continue;
            }
            for (index, seat) in self.seats.iter_mut().enumerate() {
                seat.held = inner.held.get(index).copied().unwrap_or(false);
            }
            match inner.wanted {
                Wanted::Exit => return,
                Wanted::Run if self.seats.iter().any(Seat::is_in) => {
                    inner.stopped = false;
                    drop(inner);
                }
                wanted => {
                    for seat in &mut self.seats {
                        seat.parked &= wanted == Wanted::Run;
                    }
                    inner.stopped = true;
                    runs = false;
                    self.shared.changed.notify_all();
                    drop(self.shared.changed.wait(inner).unwrap_or_else(PoisonError::into_inner));
                    continue;
                }
            }
            if !runs && let Some(icount) = &mut self.icount {
                icount.resumed();
            }
            runs = true;
            let count = self.seats.len();
            match (1..=count).map(|step| (last + step) % count).find(|seat| self.seats[*seat].is_ready()) {
                Some(seat) => {
                    last = seat;
                    self.turn(seat);
                }
                None => self.sleep(),
            }
        }
    }

    /// Runs a vCPU until it sleeps or gives its turn up.
    fn turn(&mut self, index: usize) {
        let Some(seat) = self.seats.get_mut(index) else { return };
        (self.enter)(seat.index);
        seat.sleeps_for = None;
        if let Some(icount) = &mut self.icount {
            icount.begin_turn();
        }
        if let Some(turns) = &self.turns {
            turns.begin(index);
        }
        let exit = seat.cpu.run();
        if let Some(turns) = &self.turns {
            turns.end();
        }
        match exit {
            VcpuExit::Stopped => {}
            VcpuExit::Debug => {
                seat.parked = true;
                (self.events)(GuestEvent::Debug { cpu: seat.index });
            }
            VcpuExit::Halted => seat.fall_asleep(),
            VcpuExit::Shutdown => {
                seat.parked = true;
                (self.events)(GuestEvent::Reset);
            }
            VcpuExit::InternalError(text) => {
                seat.parked = true;
                (self.events)(GuestEvent::InternalError { cpu: seat.index, text });
            }
        }
        if let Some(icount) = &mut self.icount {
            let stop = [(&*seat.signals, Signal::STOP)];
            icount.end_turn(&stop);
        }
    }

    /// Sleeps until a vCPU has something to do.
    fn sleep(&mut self) {
        let waits = |seat: &Seat| seat.sleeps_for.unwrap_or(WAKE);
        let seats: Vec<_> =
            self.seats.iter().filter(|seat| seat.is_in()).map(|seat| (&*seat.signals, waits(seat))).collect();
        match &mut self.icount {
            None => CpuSignals::wait_any(&seats, None),
            Some(icount) => icount.sleep(&seats),
        }
    }
}
