//! What the commands share: the graph, opening images, messages, progress.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use block::{Child, Graph, Options};
use block_tools::open::{self, Access};
use block_tools::{Progress, keyval, secret};

use crate::cli::{Failure, Parsed};

static PROGRAM: OnceLock<String> = OnceLock::new();

/// The name of the program for messages: that under which it was started.
pub fn program() -> &'static str {
    PROGRAM.get().map_or("ouzel-img", String::as_str)
}

/// Remembers the name of the program.
pub fn set_program(path: &str) {
    let _ = PROGRAM.set(path.rsplit('/').next().unwrap_or(path).to_owned());
}

/// Prints a message for people, behind the program's name.
pub fn complain(message: impl std::fmt::Display) {
    let _ = std::io::stdout().flush();
    eprintln!("{}: {message}", program());
}

/// Prints a warning, behind the program's name.
pub fn warn(message: impl std::fmt::Display) {
    complain(format!("warning: {message}"));
}

/// The options that open the images of a command.
pub struct Tool {
    /// The graph.
    pub graph: Arc<Graph>,
    /// Operands are lists of options instead of file names.
    pub image_opts: bool,
    /// Open in spite of others.
    pub force_share: bool,
    /// Say nothing but errors.
    pub quiet: bool,
}

/// The cache mode that an option names.
pub fn cache(name: Option<&str>, default: &str, message: &str) -> Result<(block::CacheMode, bool), Failure> {
    let name = name.unwrap_or(default);
    open::parse_cache(name).ok_or_else(|| Failure::new(format!("{message}: {name}")))
}

impl Tool {
    /// Takes the options that most commands have: objects, `--image-opts`, `-U`, `-q`.
    pub fn new(parsed: &Parsed) -> Result<Self, Failure> {
        let graph = Graph::new(block_drivers::registry());
        for object in parsed.values("object") {
            secret::add_object(&graph, object)?;
        }
        Ok(Self { graph, image_opts: parsed.has("image-opts"), force_share: parsed.has("U"), quiet: parsed.has("q") })
    }

    /// Opens an operand.
    pub async fn open(&self, name: &str, format: Option<&str>, access: Access) -> Result<Arc<Child>, Failure> {
        if self.image_opts {
            self.open_options(name, format, access).await
        } else {
            self.open_file(name, format, access).await
        }
    }

    /// Opens a list of options.
    pub async fn open_options(&self, text: &str, format: Option<&str>, access: Access) -> Result<Arc<Child>, Failure> {
        if format.is_some() {
            return Err(Failure::new("--image-opts and --format are mutually exclusive"));
        }
        let mut options = keyval::to_options(text, Some("file"));
        if self.force_share {
            if options.get_str("force-share").is_some_and(|value| value != "on") {
                return Err(Failure::new("--force-share/-U conflicts with image options"));
            }
            options.set("force-share", "on");
        }
        self.open_named(text, options, access).await
    }

    /// Opens a file name.
    pub async fn open_file(&self, name: &str, format: Option<&str>, access: Access) -> Result<Arc<Child>, Failure> {
        let mut access = access;
        access.flags.force_share |= self.force_share;
        self.open_named(name, open::file_options(name, format), access).await
    }

    /// Opens options; `name` is for messages.
    pub async fn open_named(&self, name: &str, options: Options, access: Access) -> Result<Arc<Child>, Failure> {
        let child = open::open(&self.graph, options, access)
            .await
            .map_err(|error| Failure::from(error.context(format!("Could not open '{name}'"))))?;
        if let Some(warning) = block::open::guess_warning(&child.node()) {
            let _ = std::io::stdout().flush();
            eprintln!("{warning}");
        }
        Ok(child)
    }

    /// Closes an image.
    pub async fn close(&self, child: &Arc<Child>) -> block::Result<()> {
        self.graph.detach(child).await
    }
}

/// Collects the options of several `-o`.
pub fn option_list(parsed: &Parsed) -> Result<Option<String>, Failure> {
    let mut list: Option<String> = None;
    for text in parsed.values("o") {
        if !keyval::is_valid_list(text) {
            return Err(Failure::new(format!("Invalid option list: {text}")));
        }
        list = Some(match list {
            Some(list) => format!("{list},{text}"),
            None => text.to_owned(),
        });
    }
    Ok(list)
}

/// `human` or `json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Human,
    /// For programs.
    Json,
}

/// The value of `--output`.
pub fn output_format(parsed: &Parsed) -> Result<Format, Failure> {
    match parsed.value("output") {
        None | Some("human") => Ok(Format::Human),
        Some("json") => Ok(Format::Json),
        Some(_) => Err(Failure::new("--output must be used with human or json as argument.")),
    }
}

/// Shows progress on the terminal, or on the error stream when SIGUSR1 asks for it.
pub struct Bar {
    shown: bool,
    step: f64,
    state: Mutex<State>,
    asked: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    current: f64,
    printed: f64,
}

impl Bar {
    /// Shows every `step` per cent, if `shown`.
    pub fn new(shown: bool, step: f64) -> Self {
        let asked = Arc::new(AtomicBool::new(false));
        if !shown {
            // Without the handler a signal ends the program, as it would without this feature.
            let _ = signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::clone(&asked));
        }
        Self { shown, step, state: Mutex::default(), asked }
    }

    /// Goes to so many per cent.
    pub fn set(&self, percent: f64) {
        let percent = percent.min(100.0);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.current = percent;
        if self.shown {
            let moved = (percent - state.printed).abs() > self.step;
            if moved || percent >= 100.0 || percent <= 0.0 {
                state.printed = percent;
                out!("    ({percent:.2}/100%)\r");
                let _ = std::io::stdout().flush();
            }
        } else if self.asked.swap(false, Ordering::Relaxed) {
            eprintln!("    ({percent:.2}/100%)");
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.shown {
            outln!();
        }
    }
}

impl Progress for Bar {
    fn update(&self, done: u64, total: u64) {
        #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
        self.set(if total == 0 { 100.0 } else { 100.0 * done as f64 / total as f64 });
    }

    fn is_shown(&self) -> bool {
        self.shown
    }

    fn warn(&self, message: &str) {
        warn(message);
    }
}
