//! The front end's side of a character device.

use crate::backend::Opened;
use crate::mux::MuxPort;
use crate::port::{Event, EventFn, InputFn, Port, Sink, WritableFn};
use crate::tap::Tap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A front end's hold on a character device. Dropping it lets the device go.
///
/// Callbacks run on the monitor thread, one at a time; they may call every method of the handle
/// except the `set_` ones. `set_` methods and dropping wait for a callback that is running, so that
/// none runs afterwards: do not hold a lock there that a callback takes.
pub struct Chardev {
    side: Side,
    /// Who listens besides the back end.
    tap: Option<Arc<Tap>>,
}

pub(crate) enum Side {
    /// The device's only front end.
    Whole {
        port: Arc<Port>,
        /// Lets the registry know that the device is free again.
        release: Box<dyn Fn() + Send + Sync>,
        /// A device that nobody but this handle knows.
        owned: Option<Opened>,
    },
    /// One of several front ends.
    Shared(Arc<MuxPort>),
}

impl std::fmt::Debug for Chardev {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chardev").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Chardev {
    pub(crate) fn whole(port: Arc<Port>, release: Box<dyn Fn() + Send + Sync>) -> Self {
        Self { side: Side::Whole { port, release, owned: None }, tap: None }
    }

    pub(crate) fn shared(port: Arc<MuxPort>) -> Self {
        Self { side: Side::Shared(port), tap: None }
    }

    pub(crate) fn tapped(self, tap: Arc<Tap>) -> Self {
        let mut chardev = self;
        chardev.tap = Some(tap);
        chardev
    }

    /// A character device that nobody else knows, with nobody behind it.
    pub fn null(id: &str) -> Self {
        let port = Arc::new(Port::new(id, "null".to_owned(), Sink::Null, None));
        Self { side: Side::Whole { port, release: Box::new(|| {}), owned: None }, tap: None }
    }

    /// A character device over an open socket, terminal or pipe, which nobody else knows.
    ///
    /// # Errors
    /// That the file descriptor cannot be used so.
    pub fn from_fd(id: &str, fd: OwnedFd, runtime: &tokio::runtime::Handle) -> Result<Self, crate::Error> {
        let opened = crate::backend::from_fd(id, fd, runtime)?;
        let port = Arc::clone(&opened.port);
        Ok(Self { side: Side::Whole { port, release: Box::new(|| {}), owned: Some(opened) }, tap: None })
    }

    fn port(&self) -> &Port {
        match &self.side {
            Side::Whole { port, .. } => port,
            Side::Shared(shared) => shared.base(),
        }
    }

    /// The device's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.port().id
    }

    /// What is behind the device, as `query-chardev` shows it.
    #[must_use]
    pub fn filename(&self) -> String {
        self.port().state().filename.clone()
    }

    /// Whether the other side is there. Output to nobody vanishes.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.port().is_open()
    }

    /// Takes output without blocking and returns how much of it was taken. If that is less than
    /// all, the writable callback is called when there is room. Output to nobody is taken.
    #[must_use = "what was not taken has to be written later"]
    pub fn write(&self, bytes: &[u8]) -> usize {
        let taken = match &self.side {
            Side::Whole { port, .. } => port.write(bytes),
            Side::Shared(shared) => shared.write(bytes),
        };
        if let Some(tap) = &self.tap {
            tap.say(bytes.get(..taken).unwrap_or_default());
        }
        taken
    }

    /// How much output the other side has not yet read off us, in bytes.
    #[must_use]
    pub fn pending_output(&self) -> usize {
        self.port().pending_output()
    }

    /// Sets who gets the input. Until then input stays with the host.
    pub fn set_input(&self, input: InputFn) {
        let input: InputFn = match &self.tap {
            None => input,
            Some(tap) => {
                tap.set_input(Some(input));
                let tap = Arc::clone(tap);
                Box::new(move |bytes| tap.give(bytes))
            }
        };
        match &self.side {
            Side::Whole { port, .. } => {
                port.input.set(Some(input));
                port.resume();
            }
            Side::Shared(shared) => shared.set_input(input),
        }
    }

    /// Sets who is told of events. If the device is open already, [`Event::Opened`] follows soon.
    pub fn set_events(&self, events: EventFn) {
        match &self.side {
            Side::Whole { port, .. } => {
                port.set_events(events);
                let still = matches!(port.state().sink, Sink::Null | Sink::Ring(_));
                if still {
                    // No task serves such a device.
                    port.announce(Event::Opened);
                }
                port.tell_of_open();
            }
            Side::Shared(shared) => shared.set_events(events),
        }
    }

    /// Sets who is told that there is room for output.
    pub fn set_writable(&self, writable: WritableFn) {
        match &self.side {
            Side::Whole { port, .. } => port.writable.set(Some(writable)),
            Side::Shared(shared) => shared.set_writable(writable),
        }
    }

    /// Says that the input callback can take more.
    pub fn resume_input(&self) {
        if let Some(tap) = &self.tap {
            tap.resume();
        }
        match &self.side {
            Side::Whole { port, .. } => port.resume(),
            Side::Shared(shared) => shared.resume_input(),
        }
    }

    /// Takes the file descriptors that came with the latest input that had any (unix sockets).
    /// In the input callback these belong to the bytes that it gets.
    #[must_use]
    pub fn take_fds(&self) -> Option<Vec<OwnedFd>> {
        match &self.side {
            Side::Whole { port, .. } => port.state().received_fds.take(),
            Side::Shared(_) => None,
        }
    }

    /// Ends the connection. A server then waits for the next client. Not for shared devices.
    pub fn hang_up(&self) {
        if let Side::Whole { port, .. } = &self.side {
            port.poke(|state| state.hang_up = true);
        }
    }

    /// Changes how the line behind the device runs, if it is one.
    pub fn set_line(&self, parameters: crate::LineParameters) {
        let line = self.port().state().line.clone();
        if let Some(line) = line {
            line.change(parameters);
        }
    }

    /// Sends a break on the line behind the device, if it is one.
    pub fn send_break(&self) {
        let line = self.port().state().line.clone();
        if let Some(line) = line {
            line.send_break();
        }
    }

    /// Takes all callbacks away. None runs afterwards.
    pub fn detach(&self) {
        match &self.side {
            Side::Whole { port, .. } => port.detach(),
            Side::Shared(shared) => shared.detach(),
        }
        if let Some(tap) = &self.tap {
            tap.set_input(None);
        }
    }
}

impl Drop for Chardev {
    fn drop(&mut self) {
        self.detach();
        if let Some(tap) = self.tap.take() {
            tap.end();
        }
        match &mut self.side {
            Side::Whole { release, owned, .. } => {
                owned.take();
                release();
            }
            Side::Shared(shared) => shared.leave(),
        }
    }
}
