//! SPICE inside of TLS with another project's viewer on an X server: the password, the picture, keys.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Directory, Machine, PATIENCE, Session, Setup, python, repository};

/// A process that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An X server with a viewer on it.
struct Desktop {
    _server: Running,
    display: String,
    home: PathBuf,
}

impl Desktop {
    fn new(home: &Path) -> Self {
        // The server takes a number that is free, and tells it when clients may come.
        let server = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", "1024x768x24", "-nolisten", "tcp"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut server = Running(server.expect("Xvfb runs"));
        let mut number = String::new();
        let told = server.0.stdout.take().expect("its output");
        BufReader::new(told).read_line(&mut number).expect("the number of its display");
        Self { _server: server, display: format!(":{}", number.trim()), home: home.to_path_buf() }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DISPLAY", &self.display).env("HOME", &self.home).env("XDG_RUNTIME_DIR", &self.home);
        command.stderr(Stdio::null()).stdin(Stdio::null());
        command
    }

    fn viewer(&self, port: u16, password: &str) -> Running {
        let viewer = self
            .command("spicy")
            .args(["-h", "localhost", "-s", &port.to_string(), "-w", password])
            .arg(format!("--spice-ca-file={}", self.home.join("ca-cert.pem").display()))
            .stdout(Stdio::null())
            .spawn();
        Running(viewer.expect("spicy runs"))
    }

    fn xdotool(&self, words: &[&str]) -> String {
        let output = self.command("xdotool").args(words).output().expect("xdotool runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The whole screen as a picture: width, and the bytes of its rows.
    fn picture(&self) -> (usize, Vec<u8>) {
        let output = self.command("import").args(["-window", "root", "-depth", "8", "ppm:-"]).output();
        rows(&output.expect("import runs").stdout)
    }

    /// Whether `picture` is somewhere on the screen, pixel for pixel.
    fn shows(&self, picture: &[u8]) -> bool {
        let (width, wanted) = rows(picture);
        let (screen_width, screen) = self.picture();
        let (len, pitch) = (3 * width, 3 * screen_width);
        let height = wanted.len() / len;
        (0..(screen.len() / pitch).saturating_sub(height)).any(|top| {
            let rows = screen[top * pitch..].chunks_exact(pitch).zip(wanted.chunks_exact(len));
            rows.take(height).all(|(shown, wanted)| shown[..len] == *wanted)
        })
    }
}

/// What is in a binary PPM file: width, and the bytes of its rows.
fn rows(file: &[u8]) -> (usize, Vec<u8>) {
    let header: Vec<&[u8]> = file.splitn(4, u8::is_ascii_whitespace).collect();
    let width = header.get(1).and_then(|word| std::str::from_utf8(word).ok()?.parse().ok()).expect("a width");
    let at = file.windows(4).position(|bytes| bytes == b"255\n").expect("a header") + 4;
    (width, file[at..].to_vec())
}

fn dump(machine: &Machine, session: &mut Session) -> Vec<u8> {
    let file = machine.file("wanted.ppm");
    session.run("screendump", json!({"filename": file}));
    std::fs::read(file).expect("a picture")
}

/// Repeats `is_so` until it is so.
fn comes(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "peer: spicy of Debian's spice-client-gtk, Xvfb, ImageMagick, xdotool, openssl"]
fn peer_viewer_spicy_shows_the_screen_inside_of_tls_and_its_keys_reach_the_guest() {
    let directory = Directory::new();
    let home = directory.join("");
    let script = repository().join("crates/ouzel/tests/peer_vnc_tls.py");
    assert!(Command::new(python()).arg(script).arg("make").arg(&home).status().expect("Python runs").success());
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let mut machine = Setup::new()
        .args(["-m", "64", "-vga", "std", "-boot", "menu=on,splash-time=65535"])
        .args(["-object", "secret,id=word,data=secret"])
        .args(["-spice", &format!("tls-port={port},addr=127.0.0.1,x509-dir={},password-secret=word", home.display())])
        .start();
    let mut session = machine.connect(0);
    let desktop = Desktop::new(&home);
    let wrong = desktop.viewer(port, "wrong");
    // Who does not know the password is asked for it, and sees nothing.
    comes("the question for the password", || {
        !desktop.xdotool(&["search", "--onlyvisible", "--class", "spicy"]).is_empty()
    });
    assert_eq!(session.query("query-spice")["channels"], json!([]));
    drop(wrong);
    let _viewer = desktop.viewer(port, "secret");
    comes("a display channel", || {
        let channels = session.query("query-spice")["channels"].clone();
        let channels = channels.as_array().into_iter().flatten();
        channels.filter(|channel| channel["channel-type"] == 2 && channel["tls"] == true).count() == 1
    });
    let mut window = String::new();
    comes("the viewer's window", || {
        window = desktop.xdotool(&["search", "--onlyvisible", "--name", "^spice display"]);
        !window.is_empty()
    });
    // As wide as the guest's screen, so that nothing is scaled; a cursor that blinks makes two pictures of a screen.
    // Firmware tells its name and how to come to its menu, and the cursor stands below.
    comes("the picture of the firmware's prompt", || {
        let shown = dump(&machine, &mut session);
        desktop.xdotool(&["windowsize", &window, &rows(&shown).0.to_string(), "600"]);
        lines(&shown) == 3 && desktop.shows(&shown)
    });
    desktop.xdotool(&["mousemove", "--window", &window, "300", "300", "click", "1"]);
    desktop.xdotool(&["key", "Escape"]);
    comes("the picture of the firmware's menu", || {
        let shown = dump(&machine, &mut session);
        lines(&shown) == 4 && desktop.shows(&shown)
    });
}

/// How many lines of text are on a screen, the cursor's among them.
fn lines(picture: &[u8]) -> usize {
    const HEIGHT: usize = 16;
    let (width, bytes) = rows(picture);
    bytes.chunks(3 * width * HEIGHT).filter(|line| line.iter().any(|byte| *byte != 0)).count()
}
