//! vCPU threads: an explicit state machine and a mailbox for each.
//!
//! ```text
//!             resume                     pause, mail
//!   Stopped ──────────▶ Running (in Vcpu::run) ──────────▶ Stopped
//!      │                   │ triple fault, internal error
//!      │                   ▼
//!      │                 Parked: told the control thread; waits for mail (a reset) or pause
//!      └── exit ──▶ thread ends
//! ```
//!
//! The control thread asks with [`accel::Signal::STOP`]; the CPU polls its signals at every block, so stopping takes
//! microseconds. Mail runs on the vCPU's own thread between two blocks, whether the machine runs or not.
//!
//! A thread drives one vCPU, or all of them in turn ([`Threads`]); [`drive`] is the loop for both.

mod drive;
mod slice;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use accel::{CpuSignals, Signal, Vcpu};

use self::drive::{Driver, Seat};
use self::slice::SliceTimer;
use crate::event::GuestEvents;
use crate::icount::Icount;

/// Work for a vCPU's own thread.
type Mail = Box<dyn FnOnce(&mut dyn Vcpu) + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Stop,
    Run,
    Exit,
}

struct Inner {
    wanted: Wanted,
    /// The thread is between blocks and does not run guest code.
    stopped: bool,
    /// Which of the thread's vCPUs it is for, and what to do.
    mail: VecDeque<(usize, Mail)>,
    /// Which of the thread's vCPUs stand while the others run; those that are not in the list run.
    held: Vec<bool>,
}

/// What a thread shares with those that want something of it.
struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// The mailboxes of its vCPUs.
    vcpus: Vec<Arc<CpuSignals>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the thread look at what is wanted.
    fn call(&self) {
        for signals in &self.vcpus {
            signals.raise(Signal::STOP);
        }
        self.changed.notify_all();
    }

    fn want(&self, wanted: Wanted) {
        self.lock().wanted = wanted;
        if wanted == Wanted::Run {
            self.changed.notify_all();
        } else {
            self.call();
        }
    }

    fn wait_stopped(&self) {
        let mut inner = self.lock();
        while !inner.stopped {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A vCPU before its thread exists.
pub struct NewVcpu {
    /// The CPU.
    pub cpu: Box<dyn Vcpu>,
    /// Its mailbox, shared with its local APIC.
    pub signals: Arc<CpuSignals>,
}

/// Which threads run the vCPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threads {
    /// One for each.
    #[default]
    Multi,
    /// One for all: they take turns.
    Single,
}

/// How vCPUs are run.
pub struct ThreadOptions {
    /// The accelerator's name, in upper case: the end of threads' names.
    pub accelerator: String,
    /// Which threads there are.
    pub threads: Threads,
    /// Guest time goes by instructions: one thread for all vCPUs, whatever `threads` says.
    pub icount: Option<Icount>,
    /// Runs on a vCPU's thread before each turn and each mail, with the vCPU's index.
    pub enter: fn(usize),
}

/// One thread.
struct Thread {
    shared: Arc<Shared>,
    handle: Option<JoinHandle<()>>,
    host_id: i32,
    /// Ends turns, where several vCPUs share the thread.
    _slices: Option<SliceTimer>,
}

/// All the vCPU threads of a machine. Dropping it ends them.
pub struct VcpuThreads {
    threads: Vec<Thread>,
    /// Thread, and index among its vCPUs, of each vCPU.
    seats: Vec<(usize, usize)>,
}

impl VcpuThreads {
    /// Starts the threads, stopped.
    ///
    /// # Errors
    /// The host refuses a thread.
    pub fn start(vcpus: Vec<NewVcpu>, events: &GuestEvents, options: ThreadOptions) -> io::Result<Self> {
        let ThreadOptions { accelerator, threads, icount, enter } = options;
        let all = vcpus.into_iter().enumerate().collect::<Vec<_>>();
        let mut started = Self { threads: Vec::new(), seats: Vec::new() };
        if (threads == Threads::Single || icount.is_some()) && !all.is_empty() {
            let name = match all.len() {
                1 => format!("CPU 0/{accelerator}"),
                _ => format!("ALL CPUs/{accelerator}"),
            };
            started.spawn(name, all, events, icount, enter)?;
            return Ok(started);
        }
        for (index, vcpu) in all {
            started.spawn(format!("CPU {index}/{accelerator}"), vec![(index, vcpu)], events, None, enter)?;
        }
        Ok(started)
    }

    /// Starts one thread.
    fn spawn(
        &mut self,
        name: String,
        vcpus: Vec<(usize, NewVcpu)>,
        events: &GuestEvents,
        icount: Option<Icount>,
        enter: fn(usize),
    ) -> io::Result<()> {
        let signals: Vec<_> = vcpus.iter().map(|(_, vcpu)| Arc::clone(&vcpu.signals)).collect();
        let slices = match (&icount, signals.len()) {
            (Some(_), _) | (None, 0..=1) => None,
            _ => Some(SliceTimer::start(&signals)?),
        };
        let seats = vcpus.into_iter().map(|(index, vcpu)| Seat::new(index, vcpu)).collect();
        let inner = Inner { wanted: Wanted::Stop, stopped: true, mail: VecDeque::new(), held: Vec::new() };
        let shared = Arc::new(Shared { inner: Mutex::new(inner), changed: Condvar::new(), vcpus: signals });
        let turns = slices.as_ref().map(SliceTimer::turns);
        let driver = Driver::new(seats, Arc::clone(&shared), Arc::clone(events), turns, icount, enter);
        let (tell, told) = mpsc::channel();
        let handle = std::thread::Builder::new().name(name).spawn(move || {
            // The receiver waits for exactly this message.
            let _ = tell.send(rustix::thread::gettid().as_raw_nonzero().get());
            driver.run();
        })?;
        let host_id = told.recv().map_err(|_| io::Error::other("a vCPU thread ended at its start"))?;
        let thread = self.threads.len();
        self.seats.extend((0..shared.vcpus.len()).map(|seat| (thread, seat)));
        self.threads.push(Thread { shared, handle: Some(handle), host_id, _slices: slices });
        Ok(())
    }

    /// How many vCPUs there are.
    pub fn count(&self) -> usize {
        self.seats.len()
    }

    fn seat(&self, index: usize) -> Option<(&Thread, usize)> {
        let &(thread, seat) = self.seats.get(index)?;
        Some((self.threads.get(thread)?, seat))
    }

    /// The host's thread id of vCPU `index`.
    pub fn host_thread_id(&self, index: usize) -> Option<i32> {
        self.seat(index).map(|(thread, _)| thread.host_id)
    }

    /// The mailbox of vCPU `index`.
    pub fn signals(&self, index: usize) -> Option<&Arc<CpuSignals>> {
        let (thread, seat) = self.seat(index)?;
        thread.shared.vcpus.get(seat)
    }

    /// Lets all vCPUs run.
    pub fn resume(&self) {
        for thread in &self.threads {
            thread.shared.want(Wanted::Run);
        }
    }

    /// Which vCPUs stay where they are when the others are let run (a debugger moves some only); `false` and those that
    /// are not in the list run. Only while all are stopped.
    pub fn hold(&self, held: &[bool]) {
        for (index, thread) in self.threads.iter().enumerate() {
            let own = self.seats.iter().enumerate().filter(|(_, (owner, _))| *owner == index);
            thread.shared.lock().held = own.map(|(vcpu, _)| held.get(vcpu).copied().unwrap_or(false)).collect();
        }
    }

    /// Stops all vCPUs and waits until each stands between two instructions.
    pub fn pause(&self) {
        for thread in &self.threads {
            thread.shared.want(Wanted::Stop);
        }
        for thread in &self.threads {
            thread.shared.wait_stopped();
        }
    }

    /// Runs `work` on the thread of vCPU `index`, between two instructions, and returns its result. `None` when there
    /// is no such vCPU. Must not be called from a vCPU thread.
    pub fn with<R: Send + 'static>(
        &self,
        index: usize,
        work: impl FnOnce(&mut dyn Vcpu) -> R + Send + 'static,
    ) -> Option<R> {
        let (thread, seat) = self.seat(index)?;
        let (send, receive) = mpsc::channel();
        let mail: Mail = Box::new(move |cpu| {
            // The receiver waits below; if it were gone, nobody would miss the result.
            let _ = send.send(work(cpu));
        });
        thread.shared.lock().mail.push_back((seat, mail));
        thread.shared.call();
        receive.recv().ok()
    }
}

impl Drop for VcpuThreads {
    fn drop(&mut self) {
        for thread in &self.threads {
            thread.shared.want(Wanted::Exit);
        }
        for thread in &mut self.threads {
            if let Some(handle) = thread.handle.take() {
                // A panic of a vCPU thread was reported when it happened.
                let _ = handle.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::GuestEvent;
    use accel::{VcpuExit, VcpuReset};
    use memory::GuestAddress;
    use std::sync::atomic::{AtomicU64, Ordering};
    use x86::regs::Registers;

    /// Counts up until it is told to stop, halts when `halt` is set, and faults at `fault_at`.
    struct Counter {
        signals: Arc<CpuSignals>,
        count: Arc<AtomicU64>,
        fault_at: u64,
        halt: bool,
    }

    impl Vcpu for Counter {
        fn run(&mut self) -> VcpuExit {
            loop {
                if self.signals.is_raised(Signal::STOP) {
                    return VcpuExit::Stopped;
                }
                if self.halt && !self.signals.take(Signal::INTR) {
                    return VcpuExit::Halted;
                }
                if self.count.fetch_add(1, Ordering::SeqCst) + 1 == self.fault_at {
                    return VcpuExit::Shutdown;
                }
            }
        }
        fn reset(&mut self, _: VcpuReset) {
            self.count.store(0, Ordering::SeqCst);
        }
        fn registers(&mut self) -> Registers {
            // Interrupts are open: one that arrives just after it halted must wake it.
            Registers { rip: self.count.load(Ordering::SeqCst), rflags: x86::regs::rflags::IF, ..Registers::default() }
        }
        fn set_registers(&mut self, _: &Registers) {}
        fn translate(&mut self, linear: u64) -> Option<GuestAddress> {
            Some(GuestAddress(linear))
        }
    }

    fn options(threads: Threads) -> ThreadOptions {
        ThreadOptions { accelerator: "TCG".to_owned(), threads, icount: None, enter: |_| () }
    }

    fn start(fault_at: u64, halt: bool) -> (VcpuThreads, Arc<AtomicU64>, mpsc::Receiver<GuestEvent>) {
        let count = Arc::new(AtomicU64::new(0));
        let signals = Arc::new(CpuSignals::default());
        let cpu = Box::new(Counter { signals: Arc::clone(&signals), count: Arc::clone(&count), fault_at, halt });
        let (send, receive) = mpsc::channel();
        let events: GuestEvents = Arc::new(move |event| send.send(event).expect("receiver"));
        let threads =
            VcpuThreads::start(vec![NewVcpu { cpu, signals }], &events, options(Threads::Multi)).expect("threads");
        (threads, count, receive)
    }

    #[test]
    fn pause_stops_the_count_and_resume_continues_it() {
        let (threads, count, _events) = start(u64::MAX, false);
        assert_eq!(count.load(Ordering::SeqCst), 0);
        for _ in 0..100 {
            threads.resume();
            let before = count.load(Ordering::SeqCst);
            while count.load(Ordering::SeqCst) == before {
                std::thread::yield_now();
            }
            threads.pause();
            let stopped = count.load(Ordering::SeqCst);
            assert_eq!(threads.with(0, |cpu| cpu.registers().rip), Some(stopped));
        }
        assert_eq!(threads.with(1, |_| ()), None);
        assert!(threads.host_thread_id(0).is_some());
    }

    #[test]
    fn triple_fault_is_told_once_and_reset_mail_lets_it_run_again() {
        let (threads, count, events) = start(1000, false);
        threads.resume();
        assert_eq!(events.recv().expect("event"), GuestEvent::Reset);
        assert_eq!(count.load(Ordering::SeqCst), 1000);
        threads.with(0, |cpu| cpu.reset(VcpuReset::PowerOn));
        assert_eq!(events.recv().expect("event"), GuestEvent::Reset);
        threads.pause();
        assert!(events.try_recv().is_err());
    }

    #[test]
    fn halted_vcpu_takes_mail_interrupts_and_the_end() {
        let (threads, count, _events) = start(u64::MAX, true);
        threads.resume();
        assert_eq!(threads.with(0, |cpu| cpu.registers().rip), Some(0));
        threads.signals(0).expect("signals").raise(Signal::INTR);
        while count.load(Ordering::SeqCst) != 1 {
            std::thread::yield_now();
        }
        drop(threads);
    }

    #[test]
    fn vcpus_of_one_thread_take_turns_and_have_one_id() {
        let counts = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
        let vcpus = counts.each_ref().map(|count| {
            let signals = Arc::new(CpuSignals::default());
            let (count, own) = (Arc::clone(count), Arc::clone(&signals));
            let cpu = Box::new(Counter { signals: own, count, fault_at: u64::MAX, halt: false });
            NewVcpu { cpu, signals }
        });
        let events: GuestEvents = Arc::new(|_| ());
        let threads = VcpuThreads::start(vcpus.into(), &events, options(Threads::Single)).expect("threads");
        assert_eq!(threads.host_thread_id(0), threads.host_thread_id(2));
        threads.resume();
        while counts.iter().any(|count| count.load(Ordering::SeqCst) == 0) {
            std::thread::yield_now();
        }
        assert!(threads.with(1, |cpu| cpu.registers().rip).is_some_and(|count| count > 0));
        threads.pause();
        let stopped = counts.each_ref().map(|count| count.load(Ordering::SeqCst));
        assert_eq!(threads.with(2, |cpu| cpu.registers().rip), Some(stopped[2]));
        threads.with(1, |cpu| cpu.reset(VcpuReset::PowerOn));
        assert_eq!(counts[1].load(Ordering::SeqCst), 0);
    }

    #[test]
    fn interrupt_of_a_sleeping_vcpu_ends_the_turn_of_another() {
        let counts = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        let signals = [(); 2].map(|()| Arc::new(CpuSignals::default()));
        let vcpus = [0, 1].map(|index: usize| {
            let (count, signals) = (Arc::clone(&counts[index]), Arc::clone(&signals[index]));
            let own = Arc::clone(&signals);
            NewVcpu { cpu: Box::new(Counter { signals: own, count, fault_at: u64::MAX, halt: index == 1 }), signals }
        });
        let events: GuestEvents = Arc::new(|_| ());
        let threads = VcpuThreads::start(vcpus.into(), &events, options(Threads::Single)).expect("threads");
        threads.resume();
        for round in 1..100 {
            signals[1].raise(Signal::INTR);
            while counts[1].load(Ordering::SeqCst) < round {
                std::thread::yield_now();
            }
        }
        assert_eq!(counts[1].load(Ordering::SeqCst), 99);
    }
}
