//! An emulator in a process of its own, killed when the test ends.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Directory, PATIENCE, Session, ouzel, text};

/// How a machine is started.
pub struct Setup {
    program: PathBuf,
    arguments: Vec<String>,
    monitors: usize,
    standard: Option<UnixStream>,
}

impl Setup {
    /// The program under test with no default devices, no display, and one monitor.
    pub fn new() -> Self {
        Self::of(ouzel())
    }

    /// The same with another program.
    pub fn of(program: PathBuf) -> Self {
        let arguments = ["-nodefaults", "-display", "none", "-no-user-config"].map(String::from).to_vec();
        Self { program, arguments, monitors: 1, standard: None }
    }

    /// The program under test with nothing but what the test says.
    pub fn bare() -> Self {
        Self { program: ouzel(), arguments: Vec::new(), monitors: 0, standard: None }
    }

    /// The program under test without root's right to write read-only files.
    pub fn unprivileged() -> Self {
        let mut setup = Self::new();
        if rustix::process::geteuid().is_root() {
            let capabilities = "-dac_override,-dac_read_search";
            let before = ["--bounding-set", capabilities, "--inh-caps", capabilities, text(&setup.program)];
            setup.arguments.splice(0..0, before.map(String::from));
            setup.program = PathBuf::from("setpriv");
        }
        setup
    }

    /// More arguments. `{dir}` stands for the machine's directory.
    pub fn args<T: AsRef<str>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Another number of monitors on unix sockets.
    pub fn monitors(mut self, count: usize) -> Self {
        self.monitors = count;
        self
    }

    /// Serial port 0 to a file that `Machine::serial` reads.
    pub fn serial(self) -> Self {
        self.args(["-serial", "file:{dir}/serial"])
    }

    /// A stream as standard input and output.
    pub fn standard(mut self, stream: UnixStream) -> Self {
        self.standard = Some(stream);
        self
    }

    /// Starts it.
    pub fn start(self) -> Machine {
        let directory = Directory::new();
        let mut command = Command::new(&self.program);
        for argument in &self.arguments {
            command.arg(argument.replace("{dir}", &directory.join("").to_string_lossy()));
        }
        for index in 0..self.monitors {
            let socket = directory.join(&format!("monitor{index}"));
            command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
        }
        let log = |name: &str| File::create(directory.join(name)).expect("a log file");
        command.stdin(Stdio::null()).stdout(log("stdout")).stderr(log("stderr"));
        if let Some(stream) = self.standard {
            let other = stream.try_clone().expect("a second handle of the stream");
            command.stdin(OwnedFd::from(stream)).stdout(OwnedFd::from(other));
        }
        let shown = format!("{command:?}");
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
        Machine { child, directory, shown, status: None }
    }
}

/// A running emulator.
pub struct Machine {
    child: Child,
    directory: Directory,
    shown: String,
    status: Option<ExitStatus>,
}

impl Machine {
    /// A path in the machine's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The same as text, for arguments of commands.
    pub fn file(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the program said on standard error.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    /// What the program said on standard output.
    pub fn stdout(&self) -> String {
        fs::read_to_string(self.path("stdout")).unwrap_or_default()
    }

    /// What the guest has written to its serial port.
    pub fn serial(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("serial")).unwrap_or_default()).replace('\r', "")
    }

    /// How it was started, and what it and its guest said last.
    pub fn story(&self) -> String {
        let serial = self.serial();
        let tail = serial.lines().rev().take(30).collect::<Vec<_>>();
        let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
        format!("{}\n--- stderr\n{}\n--- end of the serial output\n{tail}\n---", self.shown, self.stderr())
    }

    /// Repeats `attempt` until it gives a value.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        patience: Duration,
        mut attempt: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(value) = attempt(self) {
                return value;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}\n{}", self.story());
            sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the guest has written `text` to its serial port.
    pub fn wait_serial(&mut self, text: &str, patience: Duration) {
        self.wait_for(&format!("serial output {text:?}"), patience, |machine| {
            // The order matters: what was written before the exit is seen.
            let ended = machine.ended();
            let found = machine.serial().contains(text);
            assert!(found || !ended, "the machine ended before it wrote {text:?}\n{}", machine.story());
            found.then_some(())
        });
    }

    fn ended(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("the process can be waited for");
        }
        self.status.is_some()
    }

    /// Waits for the end of the process.
    pub fn wait_exit(&mut self, patience: Duration) -> ExitStatus {
        self.wait_for("the end of the process", patience, |machine| if machine.ended() { machine.status } else { None })
    }

    /// Whether the process still runs.
    pub fn runs(&mut self) -> bool {
        !self.ended()
    }

    /// Connects to a monitor without reading anything.
    pub fn connect_raw(&mut self, index: usize) -> Session {
        let path = self.path(&format!("monitor{index}"));
        self.connect_unix(&path.to_string_lossy())
    }

    /// Connects to a unix socket that the machine is about to create.
    pub fn connect_unix(&mut self, path: &str) -> Session {
        let stream = self.wait_for("the monitor's socket", PATIENCE, |machine| {
            let stream = UnixStream::connect(path).ok();
            assert!(stream.is_some() || !machine.ended(), "it ended at once\n{}", machine.story());
            stream
        });
        Session::over(stream)
    }

    /// The same for TCP.
    pub fn connect_tcp(&mut self, port: u16) -> Session {
        let stream = self.wait_for("the monitor's port", PATIENCE, |machine| {
            let stream = TcpStream::connect(("127.0.0.1", port)).ok();
            assert!(stream.is_some() || !machine.ended(), "it ended at once\n{}", machine.story());
            stream
        });
        Session::over_tcp(stream)
    }

    /// Connects to a monitor, takes its greeting and negotiates.
    pub fn connect(&mut self, index: usize) -> Session {
        let mut session = self.connect_raw(index);
        session.negotiate();
        session
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !self.ended() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
