//! The program against qemu-io and against itself.

use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ouzel-nbd");

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("a plain path").to_owned()
    }

    fn image(&self, len: u64) -> String {
        let path = self.path("image");
        std::fs::File::create(&path).expect("a file").set_len(len).expect("its size");
        path
    }
}

fn output(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(PROGRAM).args(arguments).output().expect("it starts");
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (output.status.success(), text)
}

/// A server whose socket can be connected to.
fn serve(socket: &str, arguments: &[&str]) -> Child {
    let child = Command::new(PROGRAM).args(["-k", socket]).args(arguments).spawn().expect("it starts");
    while UnixStream::connect(socket).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn terminate(process: rustix::process::Pid) {
    rustix::process::kill_process(process, rustix::process::Signal::TERM).expect("a signal");
}

#[test]
fn a_list_shows_what_is_served_and_a_signal_ends_it() {
    let dir = Dir::new();
    let (image, socket) = (dir.image(1000), dir.path("s"));
    let mut server = serve(&socket, &["-f", "raw", "-t", "-e", "0", "-x", "disk", "-D", "a disk", "-A", &image]);
    let (good, text) = output(&["-L", "-k", &socket]);
    assert!(good, "{text}");
    for line in ["exports available: 1", " export: 'disk'", "  description: a disk", "  size:  1024"] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    assert!(text.contains("   qemu:allocation-depth\n"), "{text}");
    terminate(rustix::process::Pid::from_child(&server));
    assert!(server.wait().expect("it ends").success());
    assert!(!std::path::Path::new(&socket).exists());
}

#[test]
fn the_last_client_ends_the_server_and_its_bytes_are_in_the_image() {
    let dir = Dir::new();
    let (image, socket) = (dir.image(1 << 20), dir.path("s"));
    // Who only knocks, as this does, is no client.
    let mut server = serve(&socket, &["-f", "raw", "-o", "65536", &image]);
    let uri = format!("nbd+unix:///?socket={socket}");
    let commands = ["-c", "write -P 3 0 4096", "-c", "read -P 3 0 4096"];
    let client = Command::new("qemu-io").args(["-f", "raw"]).args(commands).arg(&uri).stdout(Stdio::null()).status();
    let Ok(status) = client else {
        println!("skipped: qemu-io is not installed");
        terminate(rustix::process::Pid::from_child(&server));
        return drop(server.wait());
    };
    assert!(status.success());
    assert!(server.wait().expect("it ends").success());
    let bytes = std::fs::read(&image).expect("the image");
    assert!(bytes[65536..69632].iter().all(|byte| *byte == 3) && bytes[..65536].iter().all(|byte| *byte == 0));
}

#[test]
fn fork_returns_when_clients_can_come() {
    let dir = Dir::new();
    let (image, socket, pid) = (dir.image(4096), dir.path("s"), dir.path("pid"));
    let (good, text) = output(&["-k", &socket, "-f", "raw", "-t", "--fork", "--pid-file", &pid, &image]);
    assert!(good && text.is_empty(), "{text}");
    assert!(UnixStream::connect(&socket).is_ok());
    let pid: i32 = std::fs::read_to_string(&pid).expect("a file").trim().parse().expect("a number");
    terminate(rustix::process::Pid::from_raw(pid).expect("a process"));
    while UnixStream::connect(&socket).is_ok() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn contradictions_are_refused() {
    let dir = Dir::new();
    let image = dir.image(4096);
    for (arguments, message) in [
        (vec!["-L", "x"], "List mode is incompatible with a file name"),
        (vec![], "Invalid number of arguments"),
        (vec!["-k", "s", &image], "socket path must be absolute"),
        (vec!["-n", "--cache=none", &image], "-n and --cache can only be specified once"),
        (vec!["-c", "/dev/nbd0", &image], "Kernel /dev/nbdN support not available"),
        (vec!["--tls-hostname=x", &image], "--tls-hostname is not permitted without --tls-creds"),
        (vec!["--tls-creds=x", &image], "Failed to get TLS creds: No TLS credentials with id 'x'"),
        (vec!["--detect-zeroes=unmap", &image], "without setting discard operation to unmap"),
        (vec!["-o", "x", &image], "Invalid offset 'x'"),
        (vec!["-k", "/nowhere/s", "-f", "raw", &image], "Failed to"),
    ] {
        let (good, text) = output(&arguments);
        assert!(!good && text.contains(message), "{arguments:?}: {text}");
    }
}
