//! The storage daemon: the block layer, its jobs and its exports without a machine.
//!
//! Its main thread owns a [`Storage`] as the emulator's control thread does, and takes requests from the same kind of
//! inbox. What the command line asks for is done in its order, before the first request.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use chardev::{ChardevSpec, Chardevs};
use qapi::Error;
use qapi::block::export::{BlockExportAdd, BlockExportDetail, NbdServerOptions};
use qapi::block::options::BlockdevOptions;
use qapi::objects::ObjectAdd;
use qmp::{ControlQueue, EventSink, MonitorOptions, Reply, Server, ServerOptions};

use crate::config::MonitorConfig;
use crate::handlers;
use crate::inbox::{Inbox, Item};
use crate::program::{MonitorThread, StartError};
use crate::snapshot::Snapshot;
use crate::storage::exports::listen_address;
use crate::storage::{OwnerLink, Storage, StorageConfig, StorageError, StorageOwner};

/// Something that the command line asks for.
#[derive(Clone, Debug)]
pub enum Step {
    /// `--object`
    Object(Box<ObjectAdd>),
    /// `--blockdev`
    Node(Box<BlockdevOptions>),
    /// `--chardev`
    Chardev(Box<ChardevSpec>),
    /// `--nbd-server`
    NbdServer(NbdServerOptions),
    /// `--export`
    Export(Box<BlockExportAdd>),
    /// `--monitor`
    Monitor(MonitorConfig),
}

/// What the daemon's main thread owns.
pub struct Daemon {
    storage: Storage,
    ended: bool,
    /// Who asked for the end.
    asker: Option<Reply<()>>,
}

impl StorageOwner for Daemon {
    fn storage(&mut self) -> &mut Storage {
        &mut self.storage
    }
}

impl Daemon {
    /// The program ends. `asker` gets its reply behind everything that ends with it: jobs, exports.
    pub fn quit(&mut self, asker: Reply<()>) {
        self.ended = true;
        self.asker = Some(asker);
    }

    fn serve(&mut self, inbox: &Inbox<Daemon>) {
        while !self.ended {
            match inbox.take() {
                Item::Request(request) => request(self),
                Item::Terminate { .. } | Item::Leave => self.ended = true,
                // Nobody sends such.
                Item::Guest(_) => {}
            }
        }
        self.storage.close();
        if let Some(asker) = self.asker.take() {
            asker.send(Ok(()));
        }
    }
}

/// A daemon that has been set up and can run.
pub struct DaemonProgram {
    inbox: Arc<Inbox<Daemon>>,
    daemon: Daemon,
    monitors: Vec<String>,
    // Dropped in this order: sessions, then devices, then their thread.
    server: Server<Daemon, ()>,
    chardevs: Arc<Chardevs>,
    _monitor_thread: MonitorThread,
}

impl DaemonProgram {
    /// Does what the command line asks for, step by step. Each comes with the option's text for messages.
    ///
    /// # Errors
    /// The first step that can't be done.
    pub fn start(steps: &[(String, Step)]) -> Result<Self, StartError> {
        let inbox: Arc<Inbox<Daemon>> = Arc::default();
        let host = |source| StartError::Host { what: "the monitor thread", source };
        let monitor_thread = MonitorThread::start(&inbox).map_err(host)?;
        let chardevs = Arc::new(Chardevs::new(monitor_thread.handle.clone()));
        let exit = Arc::clone(&inbox);
        chardevs.set_exit(Box::new(move || exit.leave()));
        let events = EventSink::new(monitor_thread.handle.clone());
        let server = Server::new(ServerOptions {
            table: Arc::new(handlers::daemon_table()),
            control: Arc::clone(&inbox) as Arc<dyn ControlQueue<Daemon>>,
            snapshot: Arc::new(()),
            events: events.clone(),
            version: Snapshot::version(),
            preconfig: Arc::new(AtomicBool::new(false)),
        });
        let work = Arc::clone(&inbox);
        let owner = OwnerLink {
            run: Arc::new(move |storage_work| {
                work.request(Box::new(|daemon: &mut Daemon| storage_work(daemon.storage())));
            }),
            // There is no guest that could be stopped.
            stop_guest: Arc::new(|| {}),
        };
        let storage = Storage::start(&StorageConfig::default(), &events, &owner, server.fd_sets())?;
        let daemon = Daemon { storage, ended: false, asker: None };
        let monitors = Vec::new();
        let mut program = Self { inbox, daemon, monitors, server, chardevs, _monitor_thread: monitor_thread };
        for (option, step) in steps {
            let done = program.take(step);
            if let Err(error) = done {
                program.daemon.storage.close();
                return Err(StorageError { option: option.clone(), message: error.desc }.into());
            }
        }
        Ok(program)
    }

    fn take(&mut self, step: &Step) -> Result<(), Error> {
        let storage = &mut self.daemon.storage;
        let generic = |error: chardev::Error| Error::generic(error.to_string());
        match step {
            Step::Object(object) => storage.objects().add((**object).clone()),
            Step::Node(node) => storage.add_node(node),
            Step::Chardev(spec) => self.chardevs.add(spec).map_err(generic),
            Step::NbdServer(options) => storage.start_nbd(listen_address(&options.addr)?, options),
            Step::Export(export) => {
                let address = match &export.detail {
                    BlockExportDetail::VhostUserBlk(options) => Some(listen_address(&options.addr)?),
                    BlockExportDetail::Nbd(_) | BlockExportDetail::Fuse(_) => None,
                };
                storage.add_export(export, address)
            }
            Step::Monitor(monitor) => {
                let chardev = self.chardevs.attach(&monitor.chardev).map_err(generic)?;
                let options = MonitorOptions { id: monitor.chardev.clone(), pretty: monitor.pretty };
                self.server.add_monitor(chardev, options);
                self.monitors.push(monitor.chardev.clone());
                Ok(())
            }
        }
    }

    /// Runs until the end.
    pub fn run(mut self) {
        self.daemon.serve(&self.inbox);
        crate::program::flush(&self.monitors, &self.chardevs);
        drop(self.server);
        self.chardevs.close_all();
    }
}
