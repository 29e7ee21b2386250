//! Bringing a vCPU's thread back from guest code.
//!
//! `KVM_RUN` returns when a signal arrives, but one that arrives just before the call would be lost. So the signal's
//! handler also sets `immediate_exit` in the vCPU's shared page, which makes the next `KVM_RUN` return at once. The
//! vCPU's thread clears it before it looks at its requests; whoever has a request stores it before the kick.

#![expect(unsafe_code, reason = "signal handlers and signals to threads")]

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::error::HostError;
use crate::page::RunPage;

/// The signal that interrupts guest code.
const SIGNAL: libc::c_int = libc::SIGUSR1;

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(std::ptr::null()) };
}

extern "C" fn on_signal(_: libc::c_int) {
    // A `const` thread-local without destructor: reading it is async-signal-safe.
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: not null only while `Inside` lives, which borrows the page that holds the flag.
        unsafe { &*flag }.store(1, Ordering::SeqCst);
    }
}

/// Installs the handler, once for the process.
pub(crate) fn install() -> Result<(), HostError> {
    static INSTALLED: OnceLock<Result<(), HostError>> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        // SAFETY: all-zero bytes are a valid `sigaction`.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as usize;
        // Other system calls than KVM_RUN, which never restarts, do not notice.
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the handler is async-signal-safe, and `action` is initialised.
        let result = unsafe { libc::sigaction(SIGNAL, &action, std::ptr::null_mut()) };
        if result == 0 { Ok(()) } else { Err(HostError::last()) }
    })
}

/// Lets the signal through to the calling thread, which runs a vCPU.
pub(crate) fn unblock() {
    // SAFETY: all-zero bytes are a valid `sigset_t`, and the calls only change this thread's mask.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, SIGNAL);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
    }
}

const KICKED: u64 = 1;

/// Where a vCPU's thread is: 0 outside of guest code, otherwise its thread id times two, plus [`KICKED`].
#[derive(Debug, Default)]
pub(crate) struct Kick(AtomicU64);

impl Kick {
    /// The calling thread is about to run guest code of the vCPU with this page, until the answer is dropped. It looks
    /// at its requests after this.
    pub(crate) fn enter<'a>(&'a self, page: &'a RunPage) -> Inside<'a> {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        IMMEDIATE_EXIT.set(page.immediate_exit());
        self.0.store((thread as u64) << 1, Ordering::SeqCst);
        Inside(self, std::marker::PhantomData)
    }

    /// Whether the thread is in guest code, or about to enter it.
    pub(crate) fn is_inside(&self) -> bool {
        self.0.load(Ordering::SeqCst) > KICKED
    }

    /// Makes the thread leave guest code. Does not wait.
    pub(crate) fn kick(&self) {
        let before = self.0.fetch_or(KICKED, Ordering::SeqCst);
        if before > KICKED && before & KICKED == 0 {
            let thread = (before >> 1) as libc::pid_t;
            // SAFETY: a signal to a thread of this process, whose handler is installed. A thread that has ended
            // meanwhile takes no signal; one that got its id only runs the handler.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGNAL) };
        }
    }
}

/// A thread that is in guest code, or about to enter it.
pub(crate) struct Inside<'a>(&'a Kick, std::marker::PhantomData<(&'a RunPage, *const ())>);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::SeqCst);
        IMMEDIATE_EXIT.set(std::ptr::null());
    }
}
