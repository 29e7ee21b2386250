//! Flow control in both directions.

use crate::support::{Fixture, FrontEnd, Seen};
use chardev::{Chardev, Event, OUTPUT_LIMIT};
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

fn pair(fixture: &Fixture) -> (Chardev, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Chardev::from_fd("c", theirs.into(), &fixture.runtime).unwrap(), ours)
}

#[test]
fn slow_reader_stops_the_writer_and_loses_nothing() {
    let fixture = Fixture::new();
    let (chardev, mut peer) = pair(&fixture);
    let front_end = FrontEnd::new(chardev);
    front_end.expect_event(Event::Opened);
    let bytes: Vec<u8> = (0..4_000_000_u32).map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[1]).collect();
    let taken = front_end.chardev.write(&bytes);
    assert!(taken < bytes.len(), "the buffer is bounded");
    assert_eq!(front_end.chardev.pending_output(), OUTPUT_LIMIT);
    assert_eq!(front_end.chardev.write(b"more"), 0);
    let expected = bytes.clone();
    let reader = std::thread::spawn(move || {
        let mut received = vec![0; expected.len()];
        peer.read_exact(&mut received).unwrap();
        assert!(received == expected, "the bytes are those that were written");
        peer
    });
    assert_eq!(front_end.next(), Seen::Writable);
    front_end.write_all(&bytes[taken..]);
    drop(reader.join().unwrap());
}

#[test]
fn output_to_nobody_is_taken_and_lost() {
    let fixture = Fixture::new();
    let (chardev, peer) = pair(&fixture);
    let front_end = FrontEnd::new(chardev);
    front_end.expect_event(Event::Opened);
    drop(peer);
    front_end.expect_event(Event::Closed);
    assert_eq!(front_end.chardev.write(&[0; 1_000_000]), 1_000_000);
    assert!(!front_end.chardev.is_open());
}

#[test]
fn input_that_is_not_taken_is_offered_again_after_resume() {
    let fixture = Fixture::new();
    let (chardev, mut peer) = pair(&fixture);
    let (sender, offered) = mpsc::channel();
    let mut room = 2;
    chardev.set_input(Box::new(move |bytes| {
        let taken = bytes.len().min(room);
        room = 100;
        sender.send((bytes.to_vec(), taken)).unwrap();
        taken
    }));
    peer.write_all(b"abcdef").unwrap();
    assert_eq!(offered.recv().unwrap(), (b"abcdef".to_vec(), 2));
    peer.write_all(b"gh").unwrap();
    assert!(offered.try_recv().is_err(), "nothing is offered before resume");
    chardev.resume_input();
    assert_eq!(offered.recv().unwrap(), (b"cdef".to_vec(), 4));
    assert_eq!(offered.recv().unwrap(), (b"gh".to_vec(), 2));
}

#[test]
fn front_end_can_hold_a_half_closed_connection() {
    let fixture = Fixture::new();
    let (chardev, mut peer) = pair(&fixture);
    let (sender, offered) = mpsc::channel();
    let mut holds = 1;
    chardev.set_input(Box::new(move |bytes| {
        sender.send(bytes.len()).unwrap();
        if bytes.is_empty() {
            holds -= 1;
            return usize::from(holds >= 0);
        }
        bytes.len()
    }));
    peer.write_all(b"ask").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!((offered.recv().unwrap(), offered.recv().unwrap()), (3, 0));
    assert_eq!(chardev.write(b"answer"), 6);
    chardev.resume_input();
    let mut answer = String::new();
    peer.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
}

#[test]
fn held_connection_ends_when_the_other_side_is_gone() {
    let fixture = Fixture::new();
    let (chardev, peer) = pair(&fixture);
    let (sender, closed) = mpsc::channel();
    chardev.set_events(Box::new(move |event| {
        if event == Event::Closed {
            sender.send(()).unwrap();
        }
    }));
    chardev.set_input(Box::new(|bytes| bytes.len().max(1)));
    drop(peer);
    closed.recv_timeout(crate::support::PATIENCE).unwrap();
}
