//! Drives of the command line: a back end with a medium and everything that belongs to both.

use block::backend::ErrorPolicy;
use block::throttle::Limits;
use block::{NodeConfig, Options};
use qapi::Error;

use super::{Storage, client_error};

/// What a drive is connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interface {
    /// Nothing, until a device names it.
    #[default]
    None,
    /// A virtio disk that is made for it.
    Virtio,
    /// A drive on the board's IDE buses that is made for it.
    Ide {
        /// The bus.
        bus: u8,
        /// The place on the bus.
        unit: u8,
    },
    /// A floppy drive that is made for it.
    Floppy {
        /// Drive A is 0.
        unit: u8,
    },
}

/// A drive.
#[derive(Clone, Debug)]
pub struct DriveConfig {
    /// Its name.
    pub id: String,
    /// What it is connected to.
    pub interface: Interface,
    /// The option that it comes from, for messages.
    pub source: String,
    /// The options that its medium is opened with; an empty drive has none.
    pub medium: Option<Options>,
    /// Whether writes may be complete before they are stable.
    pub write_cache: bool,
    /// What failed reads lead to.
    pub read_error: ErrorPolicy,
    /// What failed writes lead to.
    pub write_error: ErrorPolicy,
    /// The limits of throughput.
    pub limits: Limits,
    /// The group that shares them; the drive's own if absent.
    pub group: Option<String>,
    /// The lengths of the intervals that statistics are kept of, seconds.
    pub intervals: Vec<u64>,
}

impl Storage {
    /// Makes a drive and opens its medium.
    ///
    /// # Errors
    /// The name is taken, limits contradict each other, or the medium can't be opened.
    pub fn add_drive(&mut self, drive: &DriveConfig) -> Result<(), Error> {
        self.check_backend_name(&drive.id)?;
        drive.limits.check().map_err(client_error)?;
        let backend = self.new_backend(&drive.id);
        backend.set_write_cache(drive.write_cache);
        backend.set_error_policies(drive.read_error, drive.write_error);
        for seconds in &drive.intervals {
            backend.stats.add_interval(*seconds);
        }
        if let Some(options) = &drive.medium {
            let node = self.open(options.clone(), NodeConfig::default())?;
            self.insert(&backend, &node)?;
        }
        if drive.limits.is_limited() {
            self.throttle(&backend, drive.limits, drive.group.as_deref().unwrap_or(&drive.id))?;
        }
        self.graph.add_backend(&backend).map_err(client_error)?;
        self.drives.push((drive.id.clone(), drive.interface));
        Ok(())
    }

    /// Whether the command line has made this back end.
    pub fn is_drive(&self, name: &str) -> bool {
        self.drives.iter().any(|(drive, _)| drive == name)
    }

    /// Whether this drive has a device that was made for it.
    pub fn is_automatic_drive(&self, name: &str) -> bool {
        self.drives.iter().any(|(drive, interface)| drive == name && *interface != Interface::None)
    }
}
