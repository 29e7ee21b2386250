//! Terminals on screens of their own: the other end of character devices `vc`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chardev::{Chardev, Event, VcSize};
use display::terminal::{Terminal, TerminalSize};
use display::{Console, Origin};

use crate::control::Control;
use crate::inbox::Inbox;

/// A screen, and its end of the character device.
struct Entry {
    chardev: Arc<Chardev>,
    console: Arc<Console>,
}

/// The terminals, in the order in which they came.
pub struct Terminals {
    entries: Mutex<Vec<Entry>>,
    inbox: Arc<Inbox<Control>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Terminals {
    /// None yet; the control thread is told through `inbox` of those that come and go.
    pub fn new(inbox: &Arc<Inbox<Control>>) -> Arc<Self> {
        Arc::new(Self { entries: Mutex::default(), inbox: Arc::clone(inbox) })
    }

    /// All the screens: the machine's, then terminals. The first is meant where none is named.
    pub fn behind(&self, machine: &[Arc<Console>]) -> Vec<Arc<Console>> {
        let entries = lock(&self.entries);
        machine.iter().chain(entries.iter().map(|entry| &entry.console)).cloned().collect()
    }

    /// Shows what comes from a character device.
    pub fn add(self: &Arc<Self>, size: VcSize, chardev: Chardev) {
        let VcSize { width, height, columns, rows } = size;
        let chardev = Arc::new(chardev);
        let host = Arc::downgrade(&chardev);
        let reply = move |bytes: &[u8]| {
            if let Some(chardev) = host.upgrade() {
                // What nobody reads is lost, as with a real terminal without flow control.
                let _taken = chardev.write(bytes);
            }
        };
        let terminal = Arc::new(Terminal::new(TerminalSize { width, height, columns, rows }, Box::new(reply)));
        let origin = Origin { id: None, path: format!("/chardevs/{}", chardev.id()), head: 0 };
        let shown = Arc::clone(&terminal);
        chardev.set_input(Box::new(move |bytes| {
            shown.write(bytes);
            bytes.len()
        }));
        let console = Console::new(origin, terminal);
        let (terminals, gone) = (Arc::downgrade(self), Arc::downgrade(&console));
        chardev.set_events(Box::new(move |event| {
            if event == Event::Closed
                && let (Some(terminals), Some(console)) = (terminals.upgrade(), gone.upgrade())
            {
                // A device can't be dropped in its own callback.
                let inbox = Arc::clone(&terminals.inbox);
                inbox.request(Box::new(move |control: &mut Control| {
                    terminals.remove(|entry| Arc::ptr_eq(&entry.console, &console));
                    control.screens_changed();
                }));
            }
        }));
        lock(&self.entries).push(Entry { chardev, console });
        self.inbox.request(Box::new(Control::screens_changed));
    }

    fn remove(&self, is_it: impl Fn(&Entry) -> bool) -> bool {
        let removed = {
            let mut entries = lock(&self.entries);
            let position = entries.iter().position(is_it);
            position.map(|position| entries.remove(position))
        };
        // Here its callbacks end, and nobody holds the lock.
        removed.is_some()
    }

    /// Takes away the terminal of a character device; whether there was one.
    pub fn forget(&self, id: &str) -> bool {
        self.remove(|entry| entry.chardev.id() == id)
    }
}
