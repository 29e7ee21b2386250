//! Drives of the command line: a back end with a medium and everything that belongs to both.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use block::backend::ErrorPolicy;
use block::create::CreateRequest;
use block::throttle::Limits;
use block::{Defaults, Node, NodeConfig, OpenFlags, Options, Permissions, Value};
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
    /// The firmware's flash chip of this number.
    Flash(u8),
}

/// Where a drive's writes go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Snapshot {
    /// Into its image.
    #[default]
    Off,
    /// Into a temporary overlay that is gone with the program.
    Temporary,
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
    /// How its files are read and written.
    pub engine: block::Engine,
    /// Where its writes go.
    pub snapshot: Snapshot,
    /// Whether reads copy from the backing into the image.
    pub copy_on_read: bool,
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
    /// Whether refused requests count as accesses.
    pub account_invalid: Option<bool>,
    /// Whether failed requests count.
    pub account_failed: Option<bool>,
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
        backend.stats.set_accounting(drive.account_invalid, drive.account_failed);
        for seconds in &drive.intervals {
            backend.stats.add_interval(*seconds);
        }
        if let Some(options) = &drive.medium {
            let mut node = match drive.snapshot {
                Snapshot::Off => self.open_drive(options.clone(), drive.engine)?,
                Snapshot::Temporary => self.open_with_overlay(options.clone(), drive.engine)?,
            };
            warn_of_guess(&node);
            if drive.copy_on_read && node.is_read_only() {
                tracing::warn!("disabling copy-on-read on read-only drive");
            } else if drive.copy_on_read {
                node =
                    self.open_above(&node, Options::new().with("driver", "copy-on-read").with("file", node.name()))?;
            }
            self.insert(&backend, &node)?;
        }
        if drive.limits.is_limited() {
            self.throttle(&backend, drive.limits, drive.group.as_deref().unwrap_or(&drive.id))?;
        }
        self.graph.add_backend(&backend).map_err(client_error)?;
        self.drives.push((drive.id.clone(), drive.interface));
        Ok(())
    }

    /// Opens a node over one that nobody uses yet, which is closed if that fails.
    fn open_above(&self, below: &Arc<Node>, options: Options) -> Result<Arc<Node>, Error> {
        let opened = self.open(options, NodeConfig::default());
        if opened.is_err()
            && let Err(error) = aio::block_on(self.graph.close(below))
        {
            tracing::warn!("closing '{}': {error}", below.name());
        }
        opened
    }

    /// Opens an image for reading, under an overlay in a file without a name.
    fn open_with_overlay(&self, mut options: Options, engine: block::Engine) -> Result<Arc<Node>, Error> {
        let reads_only = options.get("read-only").is_some_and(|value| *value == Value::from(true));
        options.set("read-only", true);
        options.set("auto-read-only", false);
        let image = self.open_drive(options, engine)?;
        if reads_only {
            return Ok(image);
        }
        let path = temporary_file()?;
        let name = path.to_string_lossy().into_owned();
        let overlay = self.create_overlay(&name, image.len()).and_then(|()| {
            let options = Options::new()
                .with("driver", "qcow2")
                .with("file.driver", "file")
                .with("file.filename", name.as_str())
                .with("discard", "unmap")
                .with("cache.no-flush", true)
                .with("backing", image.name());
            self.open_above(&image, options)
        });
        // Opened, it needs no name; without this it would stay behind.
        let _ = std::fs::remove_file(&path);
        overlay
    }

    fn create_overlay(&self, filename: &str, size: u64) -> Result<(), Error> {
        let created = aio::block_on(async {
            let options = Options::new().with("driver", "file").with("filename", filename);
            let node = self.graph.open(options, Defaults::new(NodeConfig::default(), OpenFlags::default())).await?;
            let used = Permissions::CONSISTENT_READ | Permissions::WRITE | Permissions::RESIZE;
            let file = self.graph.attach_root(&node, "a temporary overlay", used, Permissions::ALL)?;
            let driver = self.graph.registry().find("qcow2").ok_or_else(|| block::Error::invalid("no qcow2"))?;
            let request = CreateRequest {
                graph: Arc::clone(&self.graph),
                file: Some(Arc::clone(&file)),
                filename: filename.to_owned(),
                size,
                options: Options::new(),
                data_file: None,
            };
            let created = driver.create(request).await;
            created.and(self.graph.detach(&file).await)
        });
        created.map_err(|error| client_error(error.context(format!("Could not create temporary overlay '{filename}'"))))
    }

    /// What the drives are connected to.
    pub fn interfaces(&self) -> Vec<Interface> {
        self.drives.iter().map(|(_, interface)| *interface).collect()
    }

    /// `drive_del` of the human monitor: a drive goes with its medium, even under a device, which has an empty drive
    /// without a name then; or a node goes that nobody uses.
    ///
    /// # Errors
    /// There is no such drive, or something else needs it.
    pub fn delete_drive(&mut self, name: &str) -> Result<(), Error> {
        if self.graph.lookup(name).is_some() {
            self.check_deletion(name)?;
            return aio::block_on(self.graph.release(name)).map_err(client_error);
        }
        let Some(backend) = self.graph.backend(name) else {
            return Err(Error::generic(format!("Device '{name}' not found")));
        };
        if !self.is_drive(name) {
            return Err(Error::generic("Deleting device added with blockdev-add is not supported"));
        }
        if let Some(node) = backend.node() {
            self.check_unblocked(&node)?;
            self.end_exports_of(&backend);
            if let Err(error) = aio::block_on(backend.remove(&self.graph)) {
                tracing::warn!("closing '{name}': {error}");
            }
        }
        self.drives.retain(|(drive, _)| drive != name);
        backend.forget_name();
        match backend.device() {
            Some(device) => {
                // What fails from now on must not stop the guest.
                backend.set_error_policies(ErrorPolicy::Report, ErrorPolicy::Report);
                device.resized();
            }
            None => self.graph.remove_backend(&backend),
        }
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

/// Tells whoever started the program that an image's format was guessed.
pub(super) fn warn_of_guess(node: &Arc<Node>) {
    if let Some(warning) = block::open::guess_warning(node) {
        eprintln!("{warning}");
    }
}

/// A new empty file in `TMPDIR` or `/var/tmp` that only this user reads.
fn temporary_file() -> Result<PathBuf, Error> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let directory = std::env::var_os("TMPDIR").filter(|name| !name.is_empty());
    let directory = directory.map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("ouzel-{}-{number}", std::process::id()));
        match File::options().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(_) => return Ok(path),
            // A program that had this number was killed.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                let text = block::error::strerror(error.raw_os_error().unwrap_or(0));
                return Err(Error::generic(format!("Could not open temporary file '{}': {text}", path.display())));
            }
        }
    }
}
