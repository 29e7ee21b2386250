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
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};
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
    handle: Mutex<Option<JoinHandle<()>>>,
    host_id: i32,
    /// Ends turns, where several vCPUs share the thread.
    _slices: Option<SliceTimer>,
}

impl Thread {
    /// Ends the thread. Who waits for an answer to mail gets none.
    fn end(&self) {
        self.shared.want(Wanted::Exit);
        if let Some(handle) = self.handle.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A panic of a vCPU thread was reported when it happened.
            let _ = handle.join();
        }
        self.shared.lock().mail.clear();
    }
}

/// A vCPU's thread, and its index among the vCPUs of that.
type SeatOf = (Arc<Thread>, usize);

#[derive(Default)]
struct Seats {
    threads: Vec<Arc<Thread>>,
    /// By the vCPUs' indices, with gaps.
    seats: Vec<Option<SeatOf>>,
}

/// All the vCPU threads of a machine. Dropping it ends them.
pub struct VcpuThreads {
    seats: RwLock<Seats>,
    events: GuestEvents,
    accelerator: String,
    enter: fn(usize),
    /// All vCPUs are on one thread: none can come or leave.
    is_shared: bool,
}

impl VcpuThreads {
    /// Starts the threads, stopped.
    ///
    /// # Errors
    /// The host refuses a thread.
    pub fn start(vcpus: Vec<NewVcpu>, events: &GuestEvents, options: ThreadOptions) -> io::Result<Self> {
        let ThreadOptions { accelerator, threads, icount, enter } = options;
        let all = vcpus.into_iter().enumerate().collect::<Vec<_>>();
        let is_shared = threads == Threads::Single || icount.is_some();
        let started = Self { seats: RwLock::default(), events: Arc::clone(events), accelerator, enter, is_shared };
        if is_shared && !all.is_empty() {
            let name = match all.len() {
                1 => format!("CPU 0/{}", started.accelerator),
                _ => format!("ALL CPUs/{}", started.accelerator),
            };
            started.spawn(name, all, icount)?;
            return Ok(started);
        }
        for (index, vcpu) in all {
            started.spawn(format!("CPU {index}/{}", started.accelerator), vec![(index, vcpu)], None)?;
        }
        Ok(started)
    }

    fn read(&self) -> RwLockReadGuard<'_, Seats> {
        self.seats.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Seats> {
        self.seats.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one thread.
    fn spawn(&self, name: String, vcpus: Vec<(usize, NewVcpu)>, icount: Option<Icount>) -> io::Result<()> {
        let indices: Vec<usize> = vcpus.iter().map(|(index, _)| *index).collect();
        let signals: Vec<_> = vcpus.iter().map(|(_, vcpu)| Arc::clone(&vcpu.signals)).collect();
        let slices = match (&icount, signals.len()) {
            (Some(_), _) | (None, 0..=1) => None,
            _ => Some(SliceTimer::start(&signals)?),
        };
        let seats = vcpus.into_iter().map(|(index, vcpu)| Seat::new(index, vcpu)).collect();
        let inner = Inner { wanted: Wanted::Stop, stopped: true, mail: VecDeque::new(), held: Vec::new() };
        let shared = Arc::new(Shared { inner: Mutex::new(inner), changed: Condvar::new(), vcpus: signals });
        let turns = slices.as_ref().map(SliceTimer::turns);
        let driver = Driver::new(seats, Arc::clone(&shared), Arc::clone(&self.events), turns, icount, self.enter);
        let (tell, told) = mpsc::channel();
        let handle = std::thread::Builder::new().name(name).spawn(move || {
            // The receiver waits for exactly this message.
            let _ = tell.send(rustix::thread::gettid().as_raw_nonzero().get());
            driver.run();
        })?;
        let host_id = told.recv().map_err(|_| io::Error::other("a vCPU thread ended at its start"))?;
        let thread = Arc::new(Thread { shared, handle: Mutex::new(Some(handle)), host_id, _slices: slices });
        let mut all = self.write();
        for (seat, index) in indices.into_iter().enumerate() {
            if all.seats.len() <= index {
                all.seats.resize_with(index + 1, || None);
            }
            if let Some(place) = all.seats.get_mut(index) {
                *place = Some((Arc::clone(&thread), seat));
            }
        }
        all.threads.push(thread);
        Ok(())
    }

    /// Whether vCPUs can come and leave: each has a thread of its own.
    pub fn can_change(&self) -> bool {
        !self.is_shared
    }

    /// Adds vCPU `index`, on a thread of its own, which is stopped until [`VcpuThreads::resume`].
    ///
    /// # Errors
    /// The host refuses a thread.
    pub fn add(&self, index: usize, vcpu: NewVcpu) -> io::Result<()> {
        self.spawn(format!("CPU {index}/{}", self.accelerator), vec![(index, vcpu)], None)
    }

    /// Ends vCPU `index`, if it has a thread of its own. Must not be called from a vCPU thread.
    pub fn remove(&self, index: usize) {
        if self.is_shared {
            return;
        }
        let gone = {
            let mut all = self.write();
            let Some((thread, _)) = all.seats.get_mut(index).and_then(Option::take) else { return };
            all.threads.retain(|other| !Arc::ptr_eq(other, &thread));
            thread
        };
        gone.end();
    }

    /// One more than the highest index. There may be gaps.
    pub fn count(&self) -> usize {
        self.read().seats.len()
    }

    /// Whether there is a vCPU with this index.
    pub fn is_present(&self, index: usize) -> bool {
        self.seat(index).is_some()
    }

    fn seat(&self, index: usize) -> Option<SeatOf> {
        self.read().seats.get(index)?.clone()
    }

    fn threads(&self) -> Vec<Arc<Thread>> {
        self.read().threads.clone()
    }

    /// The host's thread id of vCPU `index`.
    pub fn host_thread_id(&self, index: usize) -> Option<i32> {
        self.seat(index).map(|(thread, _)| thread.host_id)
    }

    /// The mailbox of vCPU `index`.
    pub fn signals(&self, index: usize) -> Option<Arc<CpuSignals>> {
        let (thread, seat) = self.seat(index)?;
        thread.shared.vcpus.get(seat).cloned()
    }

    /// Lets all vCPUs run.
    pub fn resume(&self) {
        for thread in self.threads() {
            thread.shared.want(Wanted::Run);
        }
    }

    /// Which vCPUs stay where they are when the others are let run (a debugger moves some only); `false` and those that
    /// are not in the list run. Only while all are stopped.
    pub fn hold(&self, held: &[bool]) {
        let all = self.read();
        for thread in &all.threads {
            let mut of_thread = vec![false; thread.shared.vcpus.len()];
            for (vcpu, seat) in all.seats.iter().enumerate() {
                let Some((_, seat)) = seat.as_ref().filter(|(owner, _)| Arc::ptr_eq(owner, thread)) else { continue };
                if let Some(place) = of_thread.get_mut(*seat) {
                    *place = held.get(vcpu).copied().unwrap_or(false);
                }
            }
            thread.shared.lock().held = of_thread;
        }
    }

    /// Lets vCPU `index` run as the others do.
    pub fn join_others(&self, index: usize) {
        let Some((own, _)) = self.seat(index) else { return };
        let others = self.threads();
        let mut others = others.iter().filter(|other| !Arc::ptr_eq(other, &own));
        if others.any(|other| other.shared.lock().wanted == Wanted::Run) {
            own.shared.want(Wanted::Run);
        }
    }

    /// Stops all vCPUs and waits until each stands between two instructions.
    pub fn pause(&self) {
        let threads = self.threads();
        for thread in &threads {
            thread.shared.want(Wanted::Stop);
        }
        for thread in &threads {
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
        {
            let mut inner = thread.shared.lock();
            // A thread that ends takes no more mail.
            if inner.wanted == Wanted::Exit {
                return None;
            }
            inner.mail.push_back((seat, mail));
        }
        thread.shared.call();
        receive.recv().ok()
    }
}

impl Drop for VcpuThreads {
    fn drop(&mut self) {
        let threads = self.threads();
        for thread in &threads {
            thread.shared.want(Wanted::Exit);
        }
        for thread in &threads {
            thread.end();
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
    fn vcpus_come_and_leave_while_others_run() {
        let (threads, _count, _events) = start(u64::MAX, false);
        threads.resume();
        let count = Arc::new(AtomicU64::new(0));
        let signals = Arc::new(CpuSignals::default());
        let (own, seen) = (Arc::clone(&signals), Arc::clone(&count));
        let cpu = Box::new(Counter { signals: own, count: seen, fault_at: u64::MAX, halt: false });
        threads.add(3, NewVcpu { cpu, signals }).expect("a thread");
        assert_eq!((threads.count(), threads.is_present(2), threads.is_present(3)), (4, false, true));
        assert_eq!(threads.with(3, |cpu| cpu.registers().rip), Some(0), "it stands");
        threads.join_others(3);
        while count.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        threads.remove(3);
        let last = count.load(Ordering::SeqCst);
        assert_eq!((threads.with(3, |_| ()), threads.host_thread_id(3)), (None, None));
        threads.pause();
        assert_eq!(count.load(Ordering::SeqCst), last);
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
