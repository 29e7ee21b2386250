//! Keeps vCPUs out of guest code while the memory map is in pieces: between the removal of a slot and the making of
//! another one in its place, a guest would fetch instructions from nowhere.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::kick::Kick;

/// How long to wait before looking again whether a kicked thread has come back.
const POLL: Duration = Duration::from_micros(20);

#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Held by whoever has closed the gate.
    holder: Mutex<()>,
    is_closed: AtomicBool,
    closed: Mutex<bool>,
    opened: Condvar,
    vcpus: Mutex<Vec<Weak<Kick>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gate {
    pub(crate) fn add(&self, kick: &Arc<Kick>) {
        let mut vcpus = lock(&self.vcpus);
        vcpus.retain(|vcpu| vcpu.strong_count() > 0);
        vcpus.push(Arc::downgrade(kick));
    }

    /// Called by a vCPU's thread after [`Kick::enter`]: whether it may go on. If not, it leaves and waits.
    pub(crate) fn is_open(&self) -> bool {
        !self.is_closed.load(Ordering::SeqCst)
    }

    /// Waits until the gate is open.
    pub(crate) fn wait(&self) {
        let mut closed = lock(&self.closed);
        while *closed {
            closed = self.opened.wait(closed).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn set_closed(&self, is_closed: bool) {
        *lock(&self.closed) = is_closed;
        self.is_closed.store(is_closed, Ordering::SeqCst);
        if !is_closed {
            self.opened.notify_all();
        }
    }

    /// Runs `work` while no vCPU is in guest code. The caller is none that is inside.
    pub(crate) fn with_all_outside<R>(&self, work: impl FnOnce() -> R) -> R {
        let _holder = lock(&self.holder);
        self.set_closed(true);
        let vcpus = lock(&self.vcpus).clone();
        for kick in vcpus.iter().filter_map(Weak::upgrade) {
            while kick.is_inside() {
                kick.kick();
                std::thread::sleep(POLL);
            }
        }
        let result = work();
        self.set_closed(false);
        result
    }
}
