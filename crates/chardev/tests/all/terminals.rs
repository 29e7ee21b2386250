//! Files, pipes, pseudo-terminals, ring buffers, shared devices.

use crate::support::{Fixture, FrontEnd, Seen};
use chardev::{Event, parse_option};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

#[test]
fn file_is_started_anew_or_continued() {
    let fixture = Fixture::new();
    let path = fixture.path("f");
    for (append, expected) in [("off", "ab"), ("off", "ab"), ("on", "abab")] {
        let front_end = fixture.open(&format!("file,id=f,path={path},append={append}"));
        front_end.write_all(b"ab");
        drop(front_end);
        fixture.chardevs.remove("f").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }
}

#[test]
fn log_file_gets_a_copy_of_the_output() {
    let fixture = Fixture::new();
    let (log, path) = (fixture.path("log"), fixture.path("f"));
    let front_end = fixture.open(&format!("file,id=f,path={path},logfile={log}"));
    front_end.write_all(b"copied");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "copied");
}

#[test]
fn pipe_is_read_and_written() {
    let fixture = Fixture::new();
    for name in ["p.in", "p.out"] {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, fixture.path(name), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    }
    let front_end = fixture.open(&format!("pipe,id=p,path={}", fixture.path("p")));
    front_end.expect_event(Event::Opened);
    std::fs::OpenOptions::new().write(true).open(fixture.path("p.in")).unwrap().write_all(b"in").unwrap();
    assert_eq!(front_end.input(2), b"in");
    let mut output = std::fs::File::open(fixture.path("p.out")).unwrap();
    front_end.write_all(b"out");
    let mut bytes = [0; 3];
    output.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"out");
}

#[test]
fn pty_is_open_while_somebody_has_it_open() {
    let fixture = Fixture::new();
    let front_end = fixture.open("pty,id=p");
    let filename = front_end.chardev.filename();
    let path = filename.strip_prefix("pty:").unwrap();
    assert_eq!(front_end.chardev.write(b"lost"), 4, "nobody has it open");
    for _ in 0..2 {
        let mut terminal = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        front_end.expect_event(Event::Opened);
        terminal.write_all(b"in").unwrap();
        assert_eq!(front_end.input(2), b"in", "the terminal is raw");
        front_end.write_all(b"out\n");
        let mut bytes = [0; 4];
        terminal.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"out\n");
        drop(terminal);
        front_end.expect_event(Event::Closed);
    }
}

#[test]
fn ring_buffer_keeps_the_latest_bytes() {
    let fixture = Fixture::new();
    let front_end = fixture.open("ringbuf,id=r,size=8");
    front_end.write_all(b"0123456789");
    assert_eq!(fixture.chardevs.ringbuf_read("r", 3).unwrap(), b"234");
    fixture.chardevs.ringbuf_write("r", b"abc").unwrap();
    assert_eq!(fixture.chardevs.ringbuf_read("r", 100).unwrap(), b"56789abc");
    drop(fixture.open("null,id=n"));
    assert_eq!(fixture.chardevs.ringbuf_read("n", 1).unwrap_err().to_string(), "n is not a ringbuf device");
}

#[test]
fn shared_device_switches_its_input_by_ctrl_a_c() {
    let fixture = Fixture::new();
    let path = fixture.path("s");
    let (exit, exited) = mpsc::channel();
    fixture.chardevs.set_exit(Box::new(move || exit.send(()).unwrap()));
    let spec = parse_option(&format!("socket,id=m,path={path},server=on,wait=off,mux=on")).unwrap();
    fixture.chardevs.add(&spec).unwrap();
    let mut peer = UnixStream::connect(&path).unwrap();
    let monitor = FrontEnd::new(fixture.chardevs.attach("m").unwrap());
    let serial = FrontEnd::new(fixture.chardevs.attach("m").unwrap());
    let without_focus = |seen: Seen| !matches!(seen, Seen::Event(Event::FocusIn | Event::FocusOut));
    let skip = |front_end: &FrontEnd| while !without_focus(front_end.next()) {};
    skip(&monitor);
    skip(&serial);
    peer.write_all(b"to serial").unwrap();
    let mut got = Vec::new();
    while got != b"to serial" {
        if let Seen::Input(bytes) = serial.next() {
            got.extend(bytes);
        }
    }
    peer.write_all(b"\x01").unwrap();
    peer.write_all(b"cto monitor\x01\x01").unwrap();
    serial.expect_event(Event::FocusOut);
    let mut got = Vec::new();
    while got != b"to monitor\x01" {
        if let Seen::Input(bytes) = monitor.next() {
            got.extend(bytes);
        }
    }
    monitor.write_all(b"both");
    serial.write_all(b" write");
    let mut output = [0; 10];
    peer.read_exact(&mut output).unwrap();
    assert_eq!(&output, b"both write");
    peer.write_all(b"\x01b\x01x").unwrap();
    monitor.expect_event(Event::Break);
    exited.recv().unwrap();
}

#[test]
fn serial_port_that_is_no_line_takes_output_all_the_same() {
    let fixture = Fixture::new();
    let path = fixture.path("port");
    std::fs::write(&path, b"in").unwrap();
    let file = fixture.open(&format!("serial,id=f,path={path}"));
    file.expect_event(Event::Opened);
    assert_eq!(file.input(2), b"in");
    file.chardev.set_line(chardev::LineParameters {
        speed: 9600,
        data_bits: 8,
        parity: chardev::Parity::None,
        stop_bits: 1,
    });
    file.write_all(b"out");
    assert_eq!(std::fs::read(&path).unwrap(), b"inout");
    let null = fixture.open("serial,id=n,path=/dev/null");
    null.expect_event(Event::Opened);
    null.write_all(&[0; 1_000_000]);
    assert!(null.chardev.is_open(), "its input is at its end, its output is not");
    let refused = fixture.chardevs.add(&parse_option("parallel,id=p,path=/dev/null").unwrap()).unwrap_err();
    assert_eq!(refused.to_string(), "not a parallel port: Inappropriate ioctl for device");
}
