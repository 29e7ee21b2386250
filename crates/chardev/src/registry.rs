//! The character devices of a machine, by their ids.

use crate::backend::{self, Opened};
use crate::mux::{ExitFn, Mux};
use crate::options::ChardevSpec;
use crate::port::{Sink, lock};
use crate::{Chardev, Error, terminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::runtime::Handle;

/// What `query-chardev` says of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChardevInfo {
    /// Its id.
    pub label: String,
    /// What is behind it.
    pub filename: String,
    /// Whether a front end uses it.
    pub frontend_open: bool,
}

struct Entry {
    id: String,
    opened: Opened,
    mux: Option<Arc<Mux>>,
    in_use: Arc<AtomicBool>,
}

impl Entry {
    fn is_used(&self) -> bool {
        self.mux.as_ref().map_or_else(|| self.in_use.load(Ordering::Relaxed), |mux| mux.users() > 0)
    }
}

/// All character devices. Dropping it closes them, and gives the terminal its old mode back.
pub struct Chardevs {
    runtime: Handle,
    entries: Mutex<Vec<Entry>>,
    exit: Arc<ExitFn>,
}

impl Chardevs {
    /// No devices yet; `runtime` is the monitor thread's.
    #[must_use]
    pub fn new(runtime: Handle) -> Self {
        Self { runtime, entries: Mutex::default(), exit: Arc::default() }
    }

    /// Sets what Ctrl-a x on a shared terminal does.
    pub fn set_exit(&self, exit: Box<dyn FnMut() + Send>) {
        *lock(&self.exit) = Some(exit);
    }

    /// Opens a device. A server with `wait=on` blocks the caller until its first client is there.
    ///
    /// # Errors
    /// That the id is taken, or why it cannot be opened.
    pub fn add(&self, spec: &ChardevSpec) -> Result<(), Error> {
        let is_taken = |entries: &Vec<Entry>| entries.iter().any(|entry| entry.id == spec.id);
        if is_taken(&lock(&self.entries)) {
            return Err(Error::Duplicate(spec.id.clone()));
        }
        // The lock is not held while a client is waited for.
        let opened = backend::open(spec, &self.runtime)?;
        let mux = spec.common.mux.then(|| Mux::new(Arc::clone(&opened.port), Arc::clone(&self.exit)));
        let mut entries = lock(&self.entries);
        if is_taken(&entries) {
            return Err(Error::Duplicate(spec.id.clone()));
        }
        entries.push(Entry { id: spec.id.clone(), opened, mux, in_use: Arc::default() });
        Ok(())
    }

    /// Gives a device to a front end. Only a `mux=on` device can have more than one.
    ///
    /// # Errors
    /// That there is no such device, or that it is in use.
    pub fn attach(&self, id: &str) -> Result<Chardev, Error> {
        let entries = lock(&self.entries);
        let entry = entries.iter().find(|entry| entry.id == id).ok_or_else(|| Error::NotFound(id.to_owned()))?;
        if let Some(mux) = &entry.mux {
            let share = mux.attach().ok_or_else(|| Error::InUse(id.to_owned()))?;
            return Ok(Chardev::shared(share));
        }
        if entry.in_use.swap(true, Ordering::Relaxed) {
            return Err(Error::InUse(id.to_owned()));
        }
        let in_use = Arc::clone(&entry.in_use);
        let release = Box::new(move || in_use.store(false, Ordering::Relaxed));
        Ok(Chardev::whole(Arc::clone(&entry.opened.port), release))
    }

    /// Closes a device that no front end uses.
    ///
    /// # Errors
    /// That there is no such device, or that it is in use.
    pub fn remove(&self, id: &str) -> Result<(), Error> {
        let mut entries = lock(&self.entries);
        let position = entries.iter().position(|entry| entry.id == id);
        let position = position.ok_or_else(|| Error::NotFound(id.to_owned()))?;
        if entries.get(position).is_some_and(Entry::is_used) {
            return Err(Error::Busy(id.to_owned()));
        }
        drop(entries.remove(position));
        Ok(())
    }

    /// Bytes of output that the host has not taken yet from the device of that name.
    #[must_use]
    pub fn pending_output(&self, id: &str) -> usize {
        let entries = lock(&self.entries);
        let entry = entries.iter().find(|entry| entry.id == id);
        entry.map_or(0, |entry| entry.opened.port.state().pending.len())
    }

    /// What there is, the latest first.
    #[must_use]
    pub fn list(&self) -> Vec<ChardevInfo> {
        let describe = |entry: &Entry| ChardevInfo {
            label: entry.id.clone(),
            filename: entry.opened.port.state().filename.clone(),
            frontend_open: entry.is_used(),
        };
        lock(&self.entries).iter().rev().map(describe).collect()
    }

    /// Reads from a ring buffer what was written to it.
    ///
    /// # Errors
    /// That there is no such device, or that it is of another kind.
    pub fn ringbuf_read(&self, id: &str, size: usize) -> Result<Vec<u8>, Error> {
        self.with_ring(id, |ring| ring.read(size))
    }

    /// Writes to a ring buffer, as if a guest had.
    ///
    /// # Errors
    /// That there is no such device, or that it is of another kind.
    pub fn ringbuf_write(&self, id: &str, bytes: &[u8]) -> Result<(), Error> {
        self.with_ring(id, |ring| ring.write(bytes))
    }

    fn with_ring<R>(&self, id: &str, act: impl FnOnce(&mut crate::ring::Ring) -> R) -> Result<R, Error> {
        let entries = lock(&self.entries);
        let entry = entries.iter().find(|entry| entry.id == id).ok_or_else(|| Error::NotFound(id.to_owned()))?;
        let mut state = entry.opened.port.state();
        match &mut state.sink {
            Sink::Ring(ring) => Ok(act(ring)),
            _ => Err(Error::NotRingbuf(id.to_owned())),
        }
    }

    /// Closes everything at the end of the program: connections, socket files, the terminal.
    pub fn close_all(&self) {
        lock(&self.entries).clear();
        terminal::restore();
    }
}

impl Drop for Chardevs {
    fn drop(&mut self) {
        self.close_all();
    }
}
