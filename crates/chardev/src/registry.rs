//! The character devices of a machine, by their ids.

use crate::backend::{self, FindTls, InnerEnd, Opened};
use crate::mux::{ExitFn, Mux};
use crate::options::{Backend, ChardevSpec};
use crate::port::{Event, Port, Sink, lock};
use crate::tap::Tap;
use crate::{Chardev, Error, Tablet, TapReader, hub, terminal};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
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
    back: Back,
    mux: Option<Arc<Mux>>,
    in_use: Arc<AtomicBool>,
}

/// What is behind a device.
enum Back {
    Own(Opened),
    /// Another device.
    Shared(Held),
    /// Several other devices, below a port of its own.
    Hub(Arc<Port>, #[expect(dead_code, reason = "the devices are given back when it is dropped")] Vec<Held>),
}

/// A device that counts as used by another one.
struct Held {
    port: Arc<Port>,
    in_use: Arc<AtomicBool>,
}

impl Held {
    /// Takes a device that nobody uses.
    fn take(entry: &Entry) -> Result<Self, Error> {
        if entry.in_use.swap(true, Ordering::Relaxed) {
            return Err(Error::InUse(entry.id.clone()));
        }
        Ok(Self { port: Arc::clone(entry.port()), in_use: Arc::clone(&entry.in_use) })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.port.detach();
        self.in_use.store(false, Ordering::Relaxed);
    }
}

impl Entry {
    fn port(&self) -> &Arc<Port> {
        match &self.back {
            Back::Own(opened) => &opened.port,
            Back::Shared(held) => &held.port,
            Back::Hub(port, _) => port,
        }
    }

    fn is_used(&self) -> bool {
        self.mux.as_ref().map_or_else(|| self.in_use.load(Ordering::Relaxed), |mux| mux.users() > 0)
    }
}

/// All character devices. Dropping it closes them, and gives the terminal its old mode back.
pub struct Chardevs {
    runtime: Handle,
    entries: Mutex<Vec<Entry>>,
    exit: Arc<ExitFn>,
    tls: Mutex<Option<Arc<FindTls>>>,
    inner: Mutex<Option<Arc<InnerFn>>>,
    has_taps: AtomicBool,
    taps: Mutex<Vec<Weak<Tap>>>,
}

/// Our own end of a back end that is inside this program.
#[derive(Debug)]
pub enum Inner {
    /// What a terminal shows, or where a mouse reports.
    Line(Chardev),
    /// A tablet.
    Tablet(Arc<Tablet>),
}

/// Takes our own end of a back end that is inside this program.
pub type InnerFn = dyn Fn(&ChardevSpec, Inner) + Send + Sync;

impl Chardevs {
    /// No devices yet; `runtime` is the monitor thread's.
    #[must_use]
    pub fn new(runtime: Handle) -> Self {
        Self {
            runtime,
            entries: Mutex::default(),
            exit: Arc::default(),
            tls: Mutex::default(),
            inner: Mutex::default(),
            has_taps: AtomicBool::new(false),
            taps: Mutex::default(),
        }
    }

    /// Sets what Ctrl-a x on a shared terminal does.
    pub fn set_exit(&self, exit: Box<dyn FnMut() + Send>) {
        *lock(&self.exit) = Some(exit);
    }

    /// Sets where credentials for TLS come from.
    pub fn set_tls(&self, find: Arc<FindTls>) {
        *lock(&self.tls) = Some(find);
    }

    /// Sets who is behind back ends that are inside this program.
    pub fn set_inner(&self, inner: Arc<InnerFn>) {
        *lock(&self.inner) = Some(inner);
    }

    /// The runtime that serves the devices.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
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
        if let Backend::Mux { chardev } = &spec.backend {
            return self.add_mux(&spec.id, chardev);
        }
        if let Backend::Hub { chardevs } = &spec.backend {
            return self.add_hub(spec, chardevs);
        }
        // The lock is not held while a client is waited for.
        let opened = self.prepare(spec)?.start(&spec.id, &self.runtime);
        let mux = spec.common.mux.then(|| Mux::new(Arc::clone(&opened.port), Arc::clone(&self.exit)));
        let mut entries = lock(&self.entries);
        if is_taken(&entries) {
            return Err(Error::Duplicate(spec.id.clone()));
        }
        entries.push(Entry { id: spec.id.clone(), back: Back::Own(opened), mux, in_use: Arc::default() });
        Ok(())
    }

    fn prepare(&self, spec: &ChardevSpec) -> Result<backend::Prepared, Error> {
        let tls = lock(&self.tls).clone();
        let mut prepared = backend::prepare(spec, tls.as_deref())?;
        if let Some(end) = prepared.inner.take() {
            let inner = lock(&self.inner).clone();
            // The storage daemon has neither screens nor pointers.
            let absent = || Error::options(format!("'{}' is not a valid char driver name", prepared.filename()));
            let inner = inner.ok_or_else(absent)?;
            inner(
                spec,
                match end {
                    InnerEnd::Connection(fd) => Inner::Line(Chardev::from_fd(&spec.id, fd, &self.runtime)?),
                    InnerEnd::Tablet(tablet) => Inner::Tablet(tablet),
                },
            );
        }
        Ok(prepared)
    }

    /// A device that lets several front ends share another one.
    fn add_mux(&self, id: &str, base: &str) -> Result<(), Error> {
        let mut entries = lock(&self.entries);
        let found = entries.iter().find(|entry| entry.id == base);
        let found = found.ok_or_else(|| Error::options(format!("mux: base chardev {base} not found")))?;
        if found.mux.is_some() {
            return Err(Error::InUse(base.to_owned()));
        }
        let held = Held::take(found)?;
        let mux = Some(Mux::new(Arc::clone(&held.port), Arc::clone(&self.exit)));
        entries.push(Entry { id: id.to_owned(), back: Back::Shared(held), mux, in_use: Arc::default() });
        Ok(())
    }

    /// A device over several others.
    fn add_hub(&self, spec: &ChardevSpec, names: &[String]) -> Result<(), Error> {
        let id = &spec.id;
        if names.is_empty() {
            return Err(Error::options("hub: 'chardevs' list is not defined"));
        }
        let log = backend::open_log(&spec.common)?;
        let mut entries = lock(&self.entries);
        if entries.iter().any(|entry| entry.id == *id) {
            return Err(Error::Duplicate(id.clone()));
        }
        let mut held = Vec::new();
        for name in names {
            let found = entries.iter().find(|entry| entry.id == *name);
            let found = found.ok_or_else(|| Error::options(format!("hub: chardev can't be found by id '{name}'")))?;
            if found.mux.is_some() || matches!(found.back, Back::Hub(..)) {
                return Err(Error::options(format!(
                    "hub: multiplexers and hub devices can't be stacked, check chardev '{name}', \
                     chardev should not be a hub device or have 'mux=on' enabled"
                )));
            }
            if held.len() == hub::MAX {
                return Err(Error::options(format!("hub: too many uses of chardevs '{id}' (maximum is {})", hub::MAX)));
            }
            held.push(Held::take(found)?);
        }
        let ports: Vec<_> = held.iter().map(|held: &Held| Arc::clone(&held.port)).collect();
        let port = hub::start(id, log, &ports);
        let mux = spec.common.mux.then(|| Mux::new(Arc::clone(&port), Arc::clone(&self.exit)));
        entries.push(Entry { id: id.clone(), back: Back::Hub(port, held), mux, in_use: Arc::default() });
        Ok(())
    }

    /// Gives a device another back end; its front end keeps it (`chardev-change`).
    ///
    /// # Errors
    /// That there is no such device, that it is shared, or why the new back end cannot be had.
    pub fn change(&self, spec: &ChardevSpec) -> Result<(), Error> {
        let find = |entries: &[Entry]| -> Result<usize, Error> {
            let at = entries.iter().position(|entry| entry.id == spec.id);
            let at = at.ok_or_else(|| Error::Missing(spec.id.clone()))?;
            match entries.get(at) {
                Some(Entry { mux: None, back: Back::Own(_), .. }) => Ok(at),
                Some(Entry { mux: None, back: Back::Hub(..), .. }) => Err(Error::HubChange),
                _ => Err(Error::SharedChange),
            }
        };
        find(&lock(&self.entries))?;
        if spec.common.mux || matches!(spec.backend, Backend::Mux { .. }) {
            return Err(Error::SharedChange);
        }
        let prepared = self.prepare(spec)?;
        let entries = lock(&self.entries);
        let at = find(&entries)?;
        if let Some(Entry { back: Back::Own(opened), .. }) = entries.get(at) {
            opened.change(prepared);
        }
        Ok(())
    }

    fn port(&self, id: &str) -> Result<Arc<Port>, Error> {
        let entries = lock(&self.entries);
        let entry = entries.iter().find(|entry| entry.id == id).ok_or_else(|| Error::NotFound(id.to_owned()))?;
        Ok(Arc::clone(entry.port()))
    }

    /// Lets the front end see a break, as if the other side had sent one.
    ///
    /// # Errors
    /// That there is no such device.
    pub fn send_break(&self, id: &str) -> Result<(), Error> {
        self.port(id)?.announce(Event::Break);
        Ok(())
    }

    /// Gives a connection that somebody else has made to a socket device that has none.
    ///
    /// # Errors
    /// That there is no such device, that it is no socket, or that somebody is connected.
    pub fn add_client(&self, id: &str, socket: OwnedFd) -> Result<(), Error> {
        let port = self.port(id)?;
        let handed = port.state().handed.clone();
        let taken = !port.is_open() && handed.is_some_and(|handed| handed.try_send(socket).is_ok());
        if taken { Ok(()) } else { Err(Error::options("failed to add client")) }
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
        Ok(Chardev::whole(Arc::clone(entry.port()), release))
    }

    /// Lets others than back ends listen to guests' devices that come from now on: [`Chardevs::tap`].
    pub fn set_taps(&self) {
        self.has_taps.store(true, Ordering::Relaxed);
    }

    /// Gives a device to a front end that belongs to the guest.
    ///
    /// # Errors
    /// As [`Chardevs::attach`].
    pub fn attach_guest(&self, id: &str) -> Result<Chardev, Error> {
        let chardev = self.attach(id)?;
        if !self.has_taps.load(Ordering::Relaxed) {
            return Ok(chardev);
        }
        let mut taps = lock(&self.taps);
        taps.retain(|tap| tap.strong_count() > 0);
        let known: Vec<_> = taps.iter().filter_map(Weak::upgrade).collect();
        let is_free = |name: &String| known.iter().all(|tap| tap.name() != name);
        // Several of the guest's devices may share a terminal.
        let mut names = std::iter::once(id.to_owned()).chain((2_u32..).map(|number| format!("{id}#{number}")));
        let tap = Tap::new(names.find(is_free).unwrap_or_default());
        taps.push(Arc::downgrade(&tap));
        Ok(chardev.tapped(tap))
    }

    /// The names of the guest's devices that can be listened to.
    #[must_use]
    pub fn tap_names(&self) -> Vec<String> {
        lock(&self.taps).iter().filter_map(Weak::upgrade).map(|tap| tap.name().to_owned()).collect()
    }

    /// Listens to a guest's device.
    #[must_use]
    pub fn tap(&self, name: &str) -> Option<TapReader> {
        let found = lock(&self.taps).iter().filter_map(Weak::upgrade).find(|tap| tap.name() == name)?;
        Some(TapReader::new(&found))
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
        entry.map_or(0, |entry| entry.port().pending_output())
    }

    /// What there is, the latest first.
    #[must_use]
    pub fn list(&self) -> Vec<ChardevInfo> {
        let describe = |entry: &Entry| {
            let info = |label: String, filename: &str| ChardevInfo {
                label,
                filename: filename.to_owned(),
                frontend_open: entry.is_used(),
            };
            let own = match &entry.back {
                Back::Own(opened) => Some(opened.port.state().filename.clone()),
                Back::Shared(_) => None,
                Back::Hub(port, _) => Some(port.state().filename.clone()),
            };
            let id = entry.id.clone();
            match (own, &entry.mux) {
                (Some(filename), None) => vec![info(id, &filename)],
                // What `mux=on` asks for are two: the one that is shared, and the one below it.
                (Some(filename), Some(_)) => vec![info(id.clone(), "mux"), info(format!("{id}-base"), &filename)],
                (None, _) => vec![info(id, "mux")],
            }
        };
        lock(&self.entries).iter().rev().flat_map(describe).collect()
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
        let entry = entries.iter().find(|entry| entry.id == id).ok_or_else(|| Error::NoDevice(id.to_owned()))?;
        let mut state = entry.port().state();
        match &mut state.sink {
            Sink::Ring(ring) => Ok(act(ring)),
            _ => Err(Error::NotRingbuf(id.to_owned())),
        }
    }

    /// Closes everything at the end of the program: connections, socket files, the terminal.
    pub fn close_all(&self) {
        let entries = std::mem::take(&mut *lock(&self.entries));
        drop(entries);
        terminal::restore();
    }
}

impl Drop for Chardevs {
    fn drop(&mut self) {
        self.close_all();
    }
}
