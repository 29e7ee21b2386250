//! `-display curses` on a pseudo-terminal, and the serial mouse.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use serde_json::json;

use crate::support::{PATIENCE, Setup, ouzel};

/// An emulator in a terminal.
struct Terminal {
    master: File,
    peer: OwnedFd,
    child: Child,
    before: Termios,
    seen: String,
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Terminal {
    fn start(arguments: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a pseudo-terminal");
        grantpt(&master).expect("a pseudo-terminal");
        unlockpt(&master).expect("a pseudo-terminal");
        let peer = ioctl_tiocgptpeer(&master, flags).expect("its other side");
        tcsetwinsize(&master, size(100, 30)).expect("a size");
        let before = tcgetattr(&peer).expect("its mode");
        let side = || peer.try_clone().expect("another handle");
        let child = Command::new(ouzel())
            .args(["-nodefaults", "-no-user-config", "-vga", "std", "-m", "64", "-display", "curses"])
            .args(arguments)
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .expect("the emulator");
        rustix::io::ioctl_fionbio(&master, true).expect("a mode");
        Self { master: master.into(), peer, child, before, seen: String::new() }
    }

    fn read(&mut self) {
        let mut bytes = [0; 65536];
        match self.master.read(&mut bytes) {
            Ok(count) => self.seen.push_str(&String::from_utf8_lossy(&bytes[..count])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => panic!("{error} after {:?}", self.seen),
        }
    }

    /// Reads until `text` was sent.
    fn until(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.seen.contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in {:?}", self.seen);
            self.read();
        }
    }

    /// Reads until a line of the screen has `text`.
    fn shows(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.screen().contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in\n{}", self.screen());
            self.read();
        }
    }

    /// What a terminal shows that got all this: positions, clearing and characters.
    fn screen(&self) -> String {
        let mut lines = vec![vec![' '; 200]; 60];
        let (mut column, mut row) = (0, 0);
        let mut rest = self.seen.as_str();
        while let Some(character) = rest.chars().next() {
            rest = &rest[character.len_utf8()..];
            if character != '\x1b' {
                lines[row][column] = character;
                column = (column + 1).min(199);
                continue;
            }
            let Some(end) = rest.find(|c: char| c.is_ascii_alphabetic()) else { break };
            let (body, last) = (&rest[1..end], &rest[end..=end]);
            rest = &rest[end + 1..];
            match (last, body.split_once(';')) {
                ("H", Some((y, x))) => {
                    (row, column) = (y.parse::<usize>().expect("a row") - 1, x.parse::<usize>().expect("a column") - 1);
                }
                ("J", _) => lines.iter_mut().for_each(|line| line.fill(' ')),
                _ => {}
            }
        }
        lines.iter().map(|line| line.iter().collect::<String>().trim_end().to_owned() + "\n").collect()
    }

    fn keys(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Waits for the end, and looks whether the terminal is as it was.
    fn ended(&mut self) {
        self.until("\x1b[?25h\x1b[?1049l");
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("its state") {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            self.read();
        };
        assert!(status.success(), "{status}");
        let after = tcgetattr(&self.peer).expect("its mode");
        assert_eq!((after.local_modes, after.input_modes), (self.before.local_modes, self.before.input_modes));
        assert_eq!(after.output_modes, self.before.output_modes);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn curses_shows_its_way_out_and_gives_the_terminal_back() {
    let mut terminal = Terminal::start(&["-S"]);
    terminal.until("\x1b[?1049h");
    terminal.shows("Ctrl-] q: quit");
    // Another size is drawn anew.
    terminal.seen.clear();
    tcsetwinsize(&terminal.master, size(70, 40)).expect("a size");
    terminal.until("\x1b[2J");
    terminal.until("\x1b[40;1H");
    terminal.keys("\x1d");
    terminal.shows("Ctrl-]:  q  quit");
    terminal.keys("q");
    terminal.ended();
}

#[test]
fn curses_gives_the_terminal_back_at_a_signal() {
    let mut terminal = Terminal::start(&["-S"]);
    terminal.shows("Ctrl-] q: quit");
    let pid = rustix::process::Pid::from_child(&terminal.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    terminal.ended();
}

#[test]
fn curses_without_a_terminal_is_refused() {
    let mut machine = Setup::new().args(["-display", "curses"]).start();
    assert!(!machine.wait_exit(PATIENCE).success());
    assert!(machine.stderr().contains("needs standard input and output to be a terminal"), "{}", machine.stderr());
}

#[test]
#[ignore = "peer: SeaBIOS"]
fn peer_seabios_is_seen_and_hears_keys_in_a_terminal() {
    let mut terminal = Terminal::start(&["-boot", "menu=on"]);
    terminal.shows("SeaBIOS (version ");
    terminal.shows("Press ESC for boot menu");
    terminal.keys("\x1b");
    terminal.shows("Select boot device:");
    terminal.keys("\x1dq");
    terminal.ended();
}

#[test]
fn serial_mouse_tells_what_the_pointer_does() {
    let arguments = ["-chardev", "msmouse,id=m", "-device", "isa-serial,chardev=m,id=s0"];
    let mut machine = Setup::new().args(arguments).args(["-qtest", "unix:{dir}qtest,server=on,wait=off"]).start();
    let mut session = machine.connect(0);
    let mice = session.query("query-mice");
    let all = mice.as_array().expect("a list");
    let mouse = all.iter().find(|mouse| mouse["name"] == "QEMU Microsoft Mouse").expect("the mouse");
    session.run("human-monitor-command", json!({"command-line": format!("mouse_set {}", mouse["index"])}));
    let path = machine.path("qtest");
    let mut qtest = machine.wait_for("the socket", PATIENCE, |_| UnixStream::connect(&path).ok());
    qtest.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    let mut ask = |line: &str| {
        qtest.write_all(format!("{line}\n").as_bytes()).expect("qtest takes it");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\n") {
            let mut byte = [0];
            qtest.read_exact(&mut byte).expect("an answer");
            answer.push(byte[0]);
        }
        String::from_utf8(answer).expect("text").trim_end().to_owned()
    };
    session.run("human-monitor-command", json!({"command-line": "mouse_move 3 -2"}));
    for expected in ["0x0000000000000040", "0x0000000000000003", "0x000000000000003e"] {
        let deadline = Instant::now() + PATIENCE;
        while !ask("inb 0x3fd").ends_with('1') {
            assert!(Instant::now() < deadline, "no byte");
            ask("clock_step 1000000");
        }
        let got = ask("inb 0x3f8");
        // Two's complement: the highest bits of the second distance are in the first byte.
        let expected = if expected.ends_with("40") { "0x000000000000004c" } else { expected };
        assert_eq!(
            got.trim_start_matches("OK ").trim_start_matches("0x").trim_start_matches('0'),
            expected.trim_start_matches("0x").trim_start_matches('0')
        );
    }
}
