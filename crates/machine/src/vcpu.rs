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

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use accel::{CpuSignals, Signal, Vcpu, VcpuExit};

use crate::event::{GuestEvent, GuestEvents};

/// Work for a vCPU's own thread.
type Mail = Box<dyn FnOnce(&mut dyn Vcpu) + Send>;

/// What ends the sleep of a halted vCPU. The CPU itself decides whether an interrupt is masked.
const WAKE: Signal =
    Signal::INTR.with(Signal::NMI).with(Signal::SMI).with(Signal::INIT).with(Signal::SIPI).with(Signal::STOP);

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
    mail: VecDeque<Mail>,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
    signals: Arc<CpuSignals>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn want(&self, wanted: Wanted) {
        self.lock().wanted = wanted;
        if wanted != Wanted::Run {
            self.signals.raise(Signal::STOP);
        }
        self.changed.notify_all();
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

/// One vCPU's thread.
struct VcpuThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    host_id: i32,
}

/// All the vCPU threads of a machine. Dropping it ends them.
pub struct VcpuThreads {
    threads: Vec<VcpuThread>,
}

impl VcpuThreads {
    /// Starts a thread for each vCPU, stopped. `enter` runs first on each thread, with the vCPU's index.
    ///
    /// # Errors
    /// The host refuses a thread.
    pub fn start(vcpus: Vec<NewVcpu>, events: &GuestEvents, enter: fn(usize)) -> io::Result<Self> {
        let mut started = Self { threads: Vec::new() };
        for (index, NewVcpu { mut cpu, signals }) in vcpus.into_iter().enumerate() {
            let inner = Inner { wanted: Wanted::Stop, stopped: true, mail: VecDeque::new() };
            let shared = Arc::new(Shared { inner: Mutex::new(inner), changed: Condvar::new(), signals });
            let (tell, told) = mpsc::channel();
            let (own, events) = (Arc::clone(&shared), Arc::clone(events));
            let thread = std::thread::Builder::new().name(format!("CPU {index}/TCG")).spawn(move || {
                enter(index);
                // The receiver waits for exactly this message.
                let _ = tell.send(rustix::thread::gettid().as_raw_nonzero().get());
                drive(index, &mut *cpu, &own, &events);
            })?;
            let host_id = told.recv().map_err(|_| io::Error::other("a vCPU thread ended at its start"))?;
            started.threads.push(VcpuThread { shared, thread: Some(thread), host_id });
        }
        Ok(started)
    }

    /// How many vCPUs there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// The host's thread id of vCPU `index`.
    pub fn host_thread_id(&self, index: usize) -> Option<i32> {
        self.threads.get(index).map(|thread| thread.host_id)
    }

    /// The mailbox of vCPU `index`.
    pub fn signals(&self, index: usize) -> Option<&Arc<CpuSignals>> {
        self.threads.get(index).map(|thread| &thread.shared.signals)
    }

    /// Lets all vCPUs run.
    pub fn resume(&self) {
        for thread in &self.threads {
            thread.shared.want(Wanted::Run);
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
        let shared = &self.threads.get(index)?.shared;
        let (send, receive) = mpsc::channel();
        shared.lock().mail.push_back(Box::new(move |cpu| {
            // The receiver waits below; if it were gone, nobody would miss the result.
            let _ = send.send(work(cpu));
        }));
        shared.signals.raise(Signal::STOP);
        shared.changed.notify_all();
        receive.recv().ok()
    }
}

impl Drop for VcpuThreads {
    fn drop(&mut self) {
        for thread in &self.threads {
            thread.shared.want(Wanted::Exit);
        }
        for thread in &mut self.threads {
            if let Some(handle) = thread.thread.take() {
                // A panic of a vCPU thread was reported when it happened.
                let _ = handle.join();
            }
        }
    }
}

/// The loop of one vCPU thread.
fn drive(index: usize, cpu: &mut dyn Vcpu, shared: &Shared, events: &GuestEvents) {
    // After a triple fault the vCPU does not run until mail (a reset) or a stop arrives.
    let mut parked = false;
    loop {
        // Clear before looking: whoever raises it later has already left its request.
        shared.signals.clear(Signal::STOP);
        let mut inner = shared.lock();
        if let Some(mail) = inner.mail.pop_front() {
            drop(inner);
            mail(cpu);
            parked = false;
            continue;
        }
        match inner.wanted {
            Wanted::Exit => return,
            Wanted::Run if !parked => {
                inner.stopped = false;
                drop(inner);
            }
            wanted => {
                parked &= wanted == Wanted::Run;
                inner.stopped = true;
                shared.changed.notify_all();
                drop(shared.changed.wait(inner).unwrap_or_else(PoisonError::into_inner));
                continue;
            }
        }
        match cpu.run() {
            VcpuExit::Stopped | VcpuExit::Debug => {}
            VcpuExit::Halted => shared.signals.wait(WAKE, None),
            VcpuExit::Shutdown => {
                parked = true;
                events(GuestEvent::Reset);
            }
            VcpuExit::InternalError(text) => {
                parked = true;
                events(GuestEvent::InternalError { cpu: index, text });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use accel::VcpuReset;
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
            Registers { rip: self.count.load(Ordering::SeqCst), ..Registers::default() }
        }
        fn set_registers(&mut self, _: &Registers) {}
        fn translate(&mut self, linear: u64) -> Option<GuestAddress> {
            Some(GuestAddress(linear))
        }
    }

    fn start(fault_at: u64, halt: bool) -> (VcpuThreads, Arc<AtomicU64>, mpsc::Receiver<GuestEvent>) {
        let count = Arc::new(AtomicU64::new(0));
        let signals = Arc::new(CpuSignals::default());
        let cpu = Box::new(Counter { signals: Arc::clone(&signals), count: Arc::clone(&count), fault_at, halt });
        let (send, receive) = mpsc::channel();
        let events: GuestEvents = Arc::new(move |event| send.send(event).expect("receiver"));
        let threads = VcpuThreads::start(vec![NewVcpu { cpu, signals }], &events, |_| ()).expect("threads");
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
}
