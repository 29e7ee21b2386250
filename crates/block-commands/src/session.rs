//! An open image and the requests in flight on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use block::gate::{Gate, InsideOwned};
use block::{Backend, CacheMode, Child, Engine, Error, Graph, Node, Options, Permissions, Preallocation};
use block_tools::open::{self, Access};
use block_tools::parallel::Set;

use crate::commands;

/// Where commands print to.
pub trait Output: Send {
    /// What a command found.
    fn print(&mut self, text: &str);
    /// What is wrong.
    fn complain(&mut self, text: &str);
}

/// Why a command failed; everything was printed.
#[derive(Debug)]
pub struct Failed {
    /// What is still to be printed with the results.
    pub text: String,
    /// What is still to be printed as an error, behind the program's name.
    pub error: Option<String>,
}

impl Failed {
    /// A failure that is told with the results.
    pub fn printed(text: impl Into<String>) -> Self {
        Self { text: text.into(), error: None }
    }

    /// A failure that is told as an error.
    pub fn error(text: impl Into<String>) -> Self {
        Self { text: String::new(), error: Some(text.into()) }
    }

    /// A failure that was told already.
    pub fn silent() -> Self {
        Self { text: String::new(), error: None }
    }
}

/// How an image is opened.
#[derive(Clone, Debug)]
pub struct OpenMode {
    /// Read only.
    pub read_only: bool,
    /// The cache mode.
    pub cache: CacheMode,
    /// Each write is stable before it counts as done.
    pub writethrough: bool,
    /// Discards reach the image.
    pub discard: bool,
    /// Open in spite of others.
    pub force_share: bool,
    /// Data that is read is copied into the topmost image.
    pub copy_on_read: bool,
    /// What is written goes to a temporary overlay.
    pub snapshot: bool,
    /// How its files are read and written.
    pub engine: Engine,
}

impl Default for OpenMode {
    fn default() -> Self {
        Self {
            read_only: false,
            cache: CacheMode::default(),
            writethrough: true,
            discard: true,
            force_share: false,
            copy_on_read: false,
            snapshot: false,
            engine: Engine::default(),
        }
    }
}

/// What requests have to pass on their way to an image that others use, too.
#[derive(Clone, Default)]
pub(crate) struct Entrance {
    gate: Option<Arc<Gate>>,
    disk: Option<Arc<Backend>>,
}

impl Entrance {
    /// Waits until a request may go on. It is under way until the result is dropped.
    pub(crate) async fn enter(&self, bytes: u64, direction: Direction) -> Option<InsideOwned> {
        let gate = self.gate.as_ref()?;
        let inside = gate.enter_owned().await;
        if let Some(group) = self.disk.as_ref().and_then(|disk| disk.throttle()) {
            group.admit(bytes, direction == Direction::Write, gate).await;
        }
        Some(inside)
    }
}

/// Which limits of throughput count for a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// An interpreter of commands.
pub struct Session {
    pub(crate) graph: Arc<Graph>,
    pub(crate) output: Box<dyn Output>,
    pub(crate) program: String,
    pub(crate) child: Option<Arc<Child>>,
    /// What requests have to pass.
    entrance: Entrance,
    pub(crate) writethrough: bool,
    pub(crate) misalign: bool,
    /// Operands of `open` are lists of options.
    pub(crate) image_opts: bool,
    /// It may open and close images.
    pub(crate) standalone: bool,
    pub(crate) quit: bool,
    /// Something may have been written, so that it matters whether closing works.
    written: bool,
    pub(crate) pending: Set<'static, String>,
    /// Tags of break points, and of how many requests it was told that they hold them.
    pub(crate) breaks: BTreeMap<String, usize>,
}

impl Session {
    /// A session of a program of its own.
    pub fn new(graph: Arc<Graph>, program: &str, output: Box<dyn Output>) -> Self {
        Self {
            graph,
            output,
            program: program.to_owned(),
            child: None,
            entrance: Entrance::default(),
            writethrough: true,
            misalign: false,
            image_opts: false,
            standalone: true,
            quit: false,
            written: false,
            pending: Set::default(),
            breaks: BTreeMap::new(),
        }
    }

    /// A session on an edge that somebody else opened and closes.
    pub fn on(graph: Arc<Graph>, child: Arc<Child>, program: &str, output: Box<dyn Output>) -> Self {
        Self { child: Some(child), writethrough: false, standalone: false, ..Self::new(graph, program, output) }
    }

    /// A session on the medium of a disk: its requests are held and throttled as those of the disk's guest.
    pub fn on_disk(graph: Arc<Graph>, disk: &Arc<Backend>, program: &str, output: Box<dyn Output>) -> Option<Self> {
        let entrance = Entrance { gate: Some(Arc::clone(disk.gate())), disk: Some(Arc::clone(disk)) };
        Some(Self { entrance, ..Self::on(graph, disk.root()?, program, output) })
    }

    /// Requests pass this gate, so that a drain holds them.
    pub fn set_gate(&mut self, gate: Arc<Gate>) {
        self.entrance.gate = Some(gate);
    }

    /// Buffers begin at addresses that are not aligned.
    pub fn set_misaligned(&mut self) {
        self.misalign = true;
    }

    /// Operands of `open` are lists of options.
    pub fn set_image_opts(&mut self) {
        self.image_opts = true;
    }

    /// Whether `quit` was among the commands.
    pub fn has_quit(&self) -> bool {
        self.quit
    }

    /// The image.
    pub(crate) fn image(&self) -> Result<Arc<Child>, Failed> {
        self.child.clone().ok_or_else(Failed::silent)
    }

    /// What requests have to pass.
    pub(crate) fn entrance(&self) -> Entrance {
        self.entrance.clone()
    }

    /// The topmost node.
    pub(crate) fn node(&self) -> Result<Arc<Node>, Failed> {
        Ok(self.image()?.node())
    }

    /// Runs a line; false if it failed.
    pub async fn run(&mut self, line: &str) -> bool {
        let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
        let Some((name, words)) = words.split_first() else { return true };
        let result = commands::run(self, name, words).await;
        self.print_finished();
        match result {
            Ok(text) => {
                self.output.print(&text);
                true
            }
            Err(failed) => {
                self.output.print(&failed.text);
                if let Some(error) = failed.error {
                    self.report(&error);
                }
                false
            }
        }
    }

    /// Prints an error behind the program's name.
    pub fn report(&mut self, text: &str) {
        let text = match self.program.as_str() {
            "" => format!("{text}\n"),
            program => format!("{program}: {text}\n"),
        };
        self.output.complain(&text);
    }

    /// Waits for `future`, with the requests in flight beside it.
    pub async fn with<F: Future>(&mut self, future: F) -> F::Output {
        let value = self.pending.with(future).await;
        self.print_finished();
        value
    }

    /// Does a request of so many bytes once it may go on, and waits for it.
    pub(crate) async fn request<T>(&mut self, bytes: u64, direction: Direction, request: impl AsyncFnOnce() -> T) -> T {
        let entrance = self.entrance();
        let inside = async {
            let _inside = entrance.enter(bytes, direction).await;
            request().await
        };
        self.with(inside).await
    }

    /// Waits for all requests in flight.
    pub async fn drain(&mut self) {
        while !self.pending.is_empty() {
            for text in self.pending.next().await {
                self.output.print(&text);
            }
        }
        self.print_finished();
    }

    pub(crate) fn print_finished(&mut self) {
        let node = self.child.as_ref().map(|child| child.node());
        for (tag, told) in &mut self.breaks {
            let held = node.as_ref().map_or(0, |node| commands::suspended(node, tag));
            for _ in *told..held {
                self.output.print(&format!("blkdebug: Suspended request '{tag}'\n"));
            }
            *told = held;
        }
        for text in self.pending.take_finished() {
            self.output.print(&text);
        }
    }

    /// Adds permissions to those that the session has.
    pub(crate) fn permit(&mut self, wanted: Permissions) -> Result<(), Failed> {
        let child = self.image()?;
        if child.node().is_read_only() {
            return Err(Failed::error("Block node is read-only"));
        }
        self.written = true;
        let (used, shared) = child.permissions();
        if used.contains(wanted) {
            return Ok(());
        }
        self.graph
            .set_permissions(&child, used | wanted, shared)
            .map_err(|error| Failed::error(open::text_with_hint(&error)))
    }

    /// Opens an image. `name` is the file name for messages, if it was one.
    pub async fn open(&mut self, name: Option<&str>, options: Options, mode: &OpenMode) -> Result<(), Failed> {
        if self.child.is_some() {
            return Err(Failed::error("file open already, try 'help close'"));
        }
        if mode.force_share && options.get_str("force-share").is_some_and(|value| value != "on") {
            return Err(Failed::error("-U conflicts with image options"));
        }
        let mut access = Access {
            write: !mode.read_only && !mode.snapshot,
            unmap: mode.discard,
            cache: mode.cache,
            ..Access::default()
        };
        access.flags.force_share = mode.force_share;
        access.flags.engine = mode.engine;
        let context = name.map_or("can't open".to_owned(), |name| format!("can't open device {name}"));
        let failed = |error: Error| Failed::error(open::text_with_hint(&error.context(&context)));
        if mode.copy_on_read && mode.read_only {
            return Err(failed(Error::invalid("Can't use copy-on-read on read-only device")));
        }
        let mut child = open::open(&self.graph, options, access).await.map_err(failed)?;
        if let Some(warning) = block::open::guess_warning(&child.node()) {
            self.output.complain(&format!("{warning}\n"));
        }
        if mode.snapshot {
            child = open::overlay(&self.graph, child, access).await.map_err(failed)?;
        }
        if mode.copy_on_read {
            let options = Options::new().with("driver", "copy-on-read").with("file", child.node().name());
            let filter = open::open(&self.graph, options, access).await.map_err(failed)?;
            let _ = self.graph.detach(&child).await;
            child = filter;
        }
        self.child = Some(child);
        self.writethrough = mode.writethrough;
        Ok(())
    }

    /// Closes the image, after all requests on it.
    pub async fn close(&mut self) {
        self.drain().await;
        if let Some(child) = self.child.take()
            && self.standalone
            && let Err(error) = self.graph.detach(&child).await
            && std::mem::take(&mut self.written)
        {
            self.report(&error.to_string());
        }
    }

    /// Changes the size.
    pub(crate) async fn truncate(&mut self, size: u64, preallocation: Preallocation) -> Result<(), Failed> {
        let child = self.image()?;
        let size = size.checked_next_multiple_of(512).unwrap_or(size);
        let result = self.with(child.truncate(size, false, preallocation)).await;
        result.map_err(|error| Failed::error(open::text_with_hint(&error)))
    }
}
