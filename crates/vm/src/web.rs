//! The web console's view of the program: its screen, monitors and terminals.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use ::vnc::Display;
use ::web::{Error, Host, Line};
use chardev::{Chardev, Chardevs, TapReader};
use qapi::json::{Map, Value};
use qmp::{MonitorOptions, Server};
use tokio::runtime::Handle;

use crate::control::Control;
use crate::snapshot::Snapshot;

/// The program as browsers see it.
pub struct Console {
    /// The guest's name.
    pub name: Option<String>,
    /// The runtime of monitors.
    pub runtime: Handle,
    /// The monitors.
    pub server: Arc<Server<Control, Snapshot>>,
    /// The character devices.
    pub chardevs: Arc<Chardevs>,
    /// The screen.
    pub screen: Arc<Display>,
    /// How many monitors there have been.
    pub monitors: AtomicU64,
}

/// Ends a monitor whose browser has gone.
struct Keeper {
    server: Weak<Server<Control, Snapshot>>,
    id: String,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(server) = self.server.upgrade() {
            server.remove_monitor(&self.id);
        }
    }
}

impl Host for Console {
    fn info(&self) -> String {
        let terminals: Vec<Value> = self.chardevs.tap_names().into_iter().map(Value::from).collect();
        let version = Snapshot::version();
        let version = format!("{}.{}.{}", version.qemu.major, version.qemu.minor, version.qemu.micro);
        let name = self.name.clone().map_or(Value::Null, Value::from);
        let info = [("name", name), ("version", Value::from(version)), ("terminals", Value::from(terminals))];
        Value::Object(Map::from_iter(info)).to_string()
    }

    fn show_screen(&self, socket: OwnedFd) -> Result<(), Error> {
        self.screen.add_websocket(socket).map_err(|error| Error::new(error.to_string()))
    }

    fn monitor(&self) -> Result<Line, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::new(format!("no monitor: {error}"));
        let (stream, inner) = UnixStream::pair().map_err(|error| failed(&error))?;
        let id = format!("web-{}", self.monitors.fetch_add(1, Ordering::Relaxed));
        let chardev = Chardev::from_fd(&id, inner.into(), &self.runtime).map_err(|error| failed(&error))?;
        self.server.add_monitor(chardev, MonitorOptions { id: id.clone(), pretty: false });
        let keeper = Keeper { server: Arc::downgrade(&self.server), id };
        Ok(Line { stream, keeper: Box::new(keeper) })
    }

    fn terminal(&self, name: &str) -> Option<TapReader> {
        self.chardevs.tap(name)
    }
}
