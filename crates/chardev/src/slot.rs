//! A callback of a front end.

use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};

use crate::port::lock;

/// Where a callback is set, called and taken away. While it runs, other threads that change it wait, so that it never
/// runs after it was taken away. The thread that it runs on may change it, too: the end of a front end often comes out of
/// its own callback. That takes effect when the callback has returned.
pub(crate) struct Slot<C> {
    callback: Mutex<Option<C>>,
    running: Mutex<Running<C>>,
}

struct Running<C> {
    /// The thread that the callback runs on.
    thread: Option<ThreadId>,
    /// What it has set meanwhile.
    next: Option<Option<C>>,
}

impl<C> Default for Slot<C> {
    fn default() -> Self {
        Self { callback: Mutex::default(), running: Mutex::new(Running { thread: None, next: None }) }
    }
}

impl<C> Slot<C> {
    /// Sets the callback, or takes it away.
    pub(crate) fn set(&self, callback: Option<C>) {
        {
            let mut running = lock(&self.running);
            if running.thread == Some(thread::current().id()) {
                running.next = Some(callback);
                return;
            }
        }
        let old = std::mem::replace(&mut *lock(&self.callback), callback);
        // What it owns may end here, and change this slot again.
        drop(old);
    }

    /// Whether there is a callback. Not for the callback itself.
    pub(crate) fn is_set(&self) -> bool {
        lock(&self.callback).is_some()
    }

    /// Calls the callback, if there is one. Not for the callback itself.
    pub(crate) fn call<R>(&self, call: impl FnOnce(&mut C) -> R) -> Option<R> {
        let mut callback = lock(&self.callback);
        let current = callback.as_mut()?;
        lock(&self.running).thread = Some(thread::current().id());
        let ended = Ended(self);
        let result = call(current);
        drop(ended);
        let next = lock(&self.running).next.take();
        let old = next.map(|next| std::mem::replace(&mut *callback, next));
        drop(callback);
        drop(old);
        Some(result)
    }
}

/// The callback runs no more, even if it has panicked.
struct Ended<'a, C>(&'a Slot<C>);

impl<C> Drop for Ended<'_, C> {
    fn drop(&mut self) {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner).thread = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Weak};

    type Callback = Box<dyn FnMut() -> u32 + Send>;

    /// A front end that takes its callback away when it ends.
    struct FrontEnd(Arc<Slot<Callback>>);

    impl Drop for FrontEnd {
        fn drop(&mut self) {
            self.0.set(None);
        }
    }

    #[test]
    fn a_front_end_may_end_in_its_own_callback() {
        let slot = Arc::<Slot<Callback>>::default();
        let mut only = Some(Arc::new(FrontEnd(Arc::clone(&slot))));
        let weak: Weak<FrontEnd> = only.as_ref().map(Arc::downgrade).unwrap_or_default();
        slot.set(Some(Box::new(move || {
            let last = weak.upgrade();
            drop(only.take());
            u32::from(last.is_some())
        })));
        assert_eq!(slot.call(|callback| callback()), Some(1));
        assert!(!slot.is_set());
        assert_eq!(slot.call(|callback| callback()), None);
    }

    #[test]
    fn a_callback_that_sets_another_is_replaced_when_it_has_returned() {
        let slot = Arc::<Slot<Callback>>::default();
        let inner = Arc::downgrade(&slot);
        slot.set(Some(Box::new(move || {
            let slot = inner.upgrade().expect("it is being called");
            slot.set(None);
            slot.set(Some(Box::new(|| 2)));
            1
        })));
        assert_eq!(slot.call(|callback| callback()), Some(1));
        assert_eq!(slot.call(|callback| callback()), Some(2));
    }
}
