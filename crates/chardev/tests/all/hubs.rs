//! Hubs: one front end, several back ends.

use crate::support::{Fixture, FrontEnd, PATIENCE, Seen};
use chardev::{Event, parse_option};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

/// Adds servers of these names, and a hub over them.
fn hub(fixture: &Fixture, names: &[&str]) -> FrontEnd {
    let mut options = "hub,id=h".to_owned();
    for (number, name) in names.iter().enumerate() {
        let server = format!("socket,id={name},path={},server=on,wait=off", fixture.path(name));
        fixture.chardevs.add(&parse_option(&server).unwrap()).unwrap();
        options += &format!(",chardevs.{number}={name}");
    }
    fixture.open(&options)
}

fn connect(fixture: &Fixture, name: &str) -> UnixStream {
    let stream = UnixStream::connect(fixture.path(name)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn noise(len: u32) -> Vec<u8> {
    (0..len).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn hub_waits_for_the_slowest_reader_and_loses_nothing() {
    let fixture = Fixture::new();
    let front_end = hub(&fixture, &["fast", "slow", "nobody"]);
    let (mut fast, mut slow) = (connect(&fixture, "fast"), connect(&fixture, "slow"));
    front_end.expect_event(Event::Opened);
    // Both are served as soon as what they say arrives.
    for client in [&mut fast, &mut slow] {
        client.write_all(b"!").unwrap();
        assert_eq!(front_end.input(1), b"!");
    }
    let bytes = noise(4_000_000);
    let (len, (start, started)) = (bytes.len(), mpsc::channel::<()>());
    let (seen, far) = mpsc::channel();
    let read_fast = std::thread::spawn(move || {
        let mut received = vec![0; len];
        // What the slow one leaves room for arrives here without it.
        fast.read_exact(&mut received[..100_000]).unwrap();
        seen.send(()).unwrap();
        fast.read_exact(&mut received[100_000..]).unwrap();
        received
    });
    let read_slow = std::thread::spawn(move || {
        started.recv().unwrap();
        let mut received = vec![0; len];
        for piece in received.chunks_mut(10_000) {
            slow.read_exact(piece).unwrap();
        }
        received
    });
    let taken = front_end.chardev.write(&bytes);
    assert!(taken < bytes.len(), "the buffers are bounded");
    far.recv_timeout(PATIENCE).expect("the fast reader gets what the slow one has room for");
    assert_eq!(front_end.chardev.write(b"more"), 0);
    start.send(()).unwrap();
    assert_eq!(front_end.next(), Seen::Writable);
    front_end.write_all(&bytes[taken..]);
    assert!(read_fast.join().unwrap() == bytes, "the fast one has every byte");
    assert!(read_slow.join().unwrap() == bytes, "the slow one has every byte");
}

#[test]
fn reader_that_goes_away_is_not_waited_for() {
    let fixture = Fixture::new();
    let front_end = hub(&fixture, &["stays", "goes"]);
    let (mut stays, mut goes) = (connect(&fixture, "stays"), connect(&fixture, "goes"));
    front_end.expect_event(Event::Opened);
    for client in [&mut stays, &mut goes] {
        client.write_all(b"!").unwrap();
        assert_eq!(front_end.input(1), b"!");
    }
    let bytes = noise(3_000_000);
    let expected = bytes.clone();
    let reader = std::thread::spawn(move || {
        let mut received = vec![0; expected.len()];
        stays.read_exact(&mut received).unwrap();
        assert!(received == expected, "the one that stays has every byte");
        stays
    });
    let taken = front_end.chardev.write(&bytes);
    assert!(taken < bytes.len());
    drop(goes);
    assert_eq!(front_end.next(), Seen::Writable);
    front_end.write_all(&bytes[taken..]);
    let stays = reader.join().unwrap();
    // Who comes later hears what is said then.
    let mut comes = connect(&fixture, "goes");
    comes.write_all(b"?").unwrap();
    assert_eq!(front_end.input(1), b"?");
    front_end.write_all(b"now");
    let mut received = [0; 3];
    comes.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"now");
    drop((stays, comes));
    front_end.expect_event(Event::Closed);
    assert_eq!(front_end.chardev.write(&[0; 1_000_000]), 1_000_000, "output to nobody is taken");
}

#[test]
fn input_of_each_is_whole_while_the_front_end_is_slow() {
    let fixture = Fixture::new();
    let names = ["a", "b", "c", "d"];
    let front_end = hub(&fixture, &names);
    let (sender, offered) = mpsc::sync_channel(1);
    front_end.chardev.set_input(Box::new(move |bytes| {
        let piece = bytes.get(..bytes.len().min(777)).unwrap_or_default();
        if !piece.is_empty() && sender.try_send(piece.to_vec()).is_ok() { piece.len() } else { 0 }
    }));
    const EACH: usize = 200_000;
    let writers: Vec<_> = (0..4_u8)
        .map(|number| {
            let mut client = connect(&fixture, names[usize::from(number)]);
            std::thread::spawn(move || {
                // The two highest bits say who; the rest counts.
                let bytes: Vec<u8> = (0..EACH).map(|at| number << 6 | (at % 61) as u8).collect();
                client.write_all(&bytes).unwrap();
                client
            })
        })
        .collect();
    let mut counts = [0; 4];
    while counts.iter().sum::<usize>() < 4 * EACH {
        for byte in offered.recv_timeout(PATIENCE).expect("input") {
            let who = usize::from(byte >> 6);
            assert_eq!(usize::from(byte & 63), counts[who] % 61, "in order, and nothing is missing");
            counts[who] += 1;
        }
        front_end.chardev.resume_input();
    }
    for writer in writers {
        drop(writer.join().unwrap());
    }
}

#[test]
fn hub_is_open_while_somebody_is_there() {
    let fixture = Fixture::new();
    let front_end = hub(&fixture, &["a", "b"]);
    assert!(!front_end.chardev.is_open());
    let mut a = connect(&fixture, "a");
    front_end.expect_event(Event::Opened);
    let mut b = connect(&fixture, "b");
    b.write_all(b"b").unwrap();
    assert_eq!(front_end.input(1), b"b");
    drop(b);
    a.write_all(b"a").unwrap();
    assert_eq!(front_end.input(1), b"a");
    fixture.chardevs.send_break("a").unwrap();
    front_end.expect_event(Event::Break);
    drop(a);
    front_end.expect_event(Event::Closed);
    assert!(!front_end.chardev.is_open());
}

#[test]
fn hub_is_shared_and_given_back() {
    let fixture = Fixture::new();
    let add = |options: &str| fixture.chardevs.add(&parse_option(options).unwrap());
    for id in ["a", "b", "c", "d", "e"] {
        add(&format!("ringbuf,id={id}")).unwrap();
    }
    let read = |id: &str| fixture.chardevs.ringbuf_read(id, 100).unwrap();
    let log = fixture.path("log");
    let first = fixture.open(&format!("hub,id=h,chardevs.0=a,chardevs.1=b,mux=on,logfile={log}"));
    first.expect_event(Event::Opened);
    let second = FrontEnd::new(fixture.chardevs.attach("h").unwrap());
    second.expect_event(Event::Opened);
    assert_eq!(first.chardev.write(b"1") + second.chardev.write(b"2"), 2);
    assert_eq!((read("a"), read("b"), std::fs::read(&log).unwrap()), (b"12".to_vec(), b"12".to_vec(), b"12".to_vec()));
    assert_eq!(add("hub,id=i,chardevs.0=c,chardevs.1=b").unwrap_err().to_string(), "Device 'b' is in use");
    assert_eq!(fixture.chardevs.remove("h").unwrap_err().to_string(), "Chardev 'h' is busy");
    drop((first, second));
    fixture.chardevs.remove("h").unwrap();
    // What the hub had, and what a refused one had taken already, can be used again.
    let hub = fixture.open("hub,id=i,chardevs.0=c,chardevs.1=b");
    hub.expect_event(Event::Opened);
    assert_eq!(hub.chardev.write(b"3"), 1);
    assert_eq!((read("b"), read("c"), read("a")), (b"3".to_vec(), b"3".to_vec(), Vec::new()));
    let chardevs = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
    drop(hub);
    fixture.chardevs.remove("i").unwrap();
    let mut five = parse_option("hub,id=j").unwrap();
    five.backend = chardev::Backend::Hub { chardevs };
    let refused = fixture.chardevs.add(&five).unwrap_err().to_string();
    assert_eq!(refused, "hub: too many uses of chardevs 'j' (maximum is 4)");
}

#[test]
fn another_back_end_below_a_hub_takes_over() {
    let fixture = Fixture::new();
    let front_end = hub(&fixture, &["a"]);
    let _first = connect(&fixture, "a");
    front_end.expect_event(Event::Opened);
    fixture.chardevs.change(&parse_option("ringbuf,id=a").unwrap()).unwrap();
    front_end.write_all(b"ring");
    assert_eq!(fixture.chardevs.ringbuf_read("a", 100).unwrap(), b"ring");
}
