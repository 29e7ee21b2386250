//! A runtime on its own thread, and a front end that notes what happens.

use chardev::{Chardev, Chardevs, Event, parse_option};
use std::sync::mpsc;
use std::time::Duration;

/// Nothing here takes so long, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a front end has seen.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    Input(Vec<u8>),
    Event(Event),
    Writable,
}

pub struct Fixture {
    pub chardevs: Chardevs,
    pub runtime: tokio::runtime::Handle,
    pub directory: tempfile::TempDir,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Fixture {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || runtime.block_on(async { _ = stopped.await }));
        let directory = tempfile::tempdir().unwrap();
        Self { chardevs: Chardevs::new(handle.clone()), runtime: handle, directory, _stop: stop }
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Opens a device and attaches a front end.
    pub fn open(&self, options: &str) -> FrontEnd {
        let spec = parse_option(options).unwrap();
        self.chardevs.add(&spec).unwrap();
        FrontEnd::new(self.chardevs.attach(&spec.id).unwrap())
    }
}

pub struct FrontEnd {
    pub chardev: Chardev,
    seen: mpsc::Receiver<Seen>,
}

impl FrontEnd {
    pub fn new(chardev: Chardev) -> Self {
        let (sender, seen) = mpsc::channel();
        let (for_events, for_output) = (sender.clone(), sender.clone());
        // The test may be over when the last things happen.
        chardev.set_events(Box::new(move |event| _ = for_events.send(Seen::Event(event))));
        chardev.set_writable(Box::new(move || _ = for_output.send(Seen::Writable)));
        chardev.set_input(Box::new(move |bytes| {
            if !bytes.is_empty() {
                _ = sender.send(Seen::Input(bytes.to_vec()));
            }
            bytes.len()
        }));
        Self { chardev, seen }
    }

    pub fn next(&self) -> Seen {
        self.seen.recv_timeout(PATIENCE).expect("something happens")
    }

    pub fn expect_event(&self, event: Event) {
        assert_eq!(self.next(), Seen::Event(event));
    }

    /// Input until there are `count` bytes.
    pub fn input(&self, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.next() {
                Seen::Input(bytes) => all.extend(bytes),
                other => panic!("{other:?} instead of input"),
            }
        }
        all
    }

    /// Writes everything, waiting for room.
    pub fn write_all(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.chardev.write(bytes);
            bytes = &bytes[taken..];
            if !bytes.is_empty() {
                assert_eq!(self.next(), Seen::Writable);
            }
        }
    }
}
