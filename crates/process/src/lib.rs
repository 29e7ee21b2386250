//! A program's process: its name and its exit, running in the background, and the file with its id.
//!
//! A daemon is the same program started again in a session of its own: threads do not survive a `fork`, and starting
//! anew needs no unsafe code. The child tells its parent through a pipe on its standard output that it is ready, so
//! that the parent's exit status says whether everything could be set up.

#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustix::fs::{FlockOperation, flock};

/// Set for the child: it is the daemon.
const DAEMON_MARK: &str = "OUZEL_DAEMON";
/// What the child writes when it is ready.
const READY: &[u8] = b"ready\n";

/// The host's words for an error, without the number that Rust adds.
fn host_error(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// Runs a program by its name, which is `default` if it was started without one, and by all its arguments. An error's text
/// goes behind the name to standard error.
pub fn main(default: &str, run: impl FnOnce(&str, &[String]) -> Result<u8, String>) -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let name = arguments.first().and_then(|path| path.rsplit('/').next()).filter(|name| !name.is_empty());
    let name = name.unwrap_or(default);
    match run(name, &arguments) {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            eprintln!("{name}: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Whether this process is the daemon that a parent started.
pub fn is_daemon() -> bool {
    std::env::var_os(DAEMON_MARK).is_some()
}

/// Starts this program again in the background and waits until it is ready; returns this process's exit status. The first
/// argument is the program's name.
///
/// # Errors
/// The host's.
pub fn start_daemon(arguments: &[String]) -> Result<i32, String> {
    let program = std::env::current_exe().map_err(|error| format!("cannot find my own program file: {error}"))?;
    let mut child = Command::new(program)
        .args(arguments.get(1..).unwrap_or_default())
        .env(DAEMON_MARK, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start the background process: {error}"))?;
    let mut said = Vec::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_end(&mut said).map_err(|error| format!("the background process went away: {error}"))?;
    }
    if said == READY {
        return Ok(0);
    }
    // It printed its own message.
    let status = child.wait().map_err(|error| error.to_string())?;
    Ok(status.code().unwrap_or(1))
}

/// Tells the parent that everything is set up, and lets go of the terminal.
///
/// # Errors
/// The host's.
pub fn report_ready() -> Result<(), String> {
    // Failing here only means that we lead a session already.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/").map_err(|error| format!("cannot change to the root directory: {error}"))?;
    let mut output = std::io::stdout();
    // A parent that is gone needs no message.
    let _ = output.write_all(READY).and_then(|()| output.flush());
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| format!("/dev/null: {error}"))?;
    let replaced = rustix::stdio::dup2_stdin(null.as_fd())
        .and_then(|()| rustix::stdio::dup2_stdout(null.as_fd()))
        .and_then(|()| rustix::stdio::dup2_stderr(null.as_fd()));
    replaced.map_err(|error| format!("cannot let go of the terminal: {error}"))
}

/// A file with the process id, locked while the program runs and removed at its end.
#[derive(Debug)]
pub struct Pidfile {
    path: PathBuf,
    _locked: File,
}

impl Pidfile {
    /// Writes the file.
    ///
    /// # Errors
    /// The host's; another process holds it.
    pub fn create(path: &Path) -> Result<Self, String> {
        let path = std::path::absolute(path).map_err(|error| format!("cannot create PID file: {error}"))?;
        let shown = path.display();
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let mut file =
            file.map_err(|error| format!("cannot create PID file: Cannot open '{shown}': {}", host_error(&error)))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| format!("cannot create PID file: Cannot lock '{shown}': {}", host_error(&error.into())))?;
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|error| format!("cannot create PID file: Failed to write '{shown}': {}", host_error(&error)))?;
        Ok(Self { path, _locked: file })
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        let _ = std::fs::remove_file(&self.path);
    }
}
