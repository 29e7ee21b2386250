use super::*;
use crate::testing::Pins;
use std::sync::{Arc, mpsc};

struct Bench {
    controller: I8042,
    pins: Arc<Pins>,
    a20: mpsc::Receiver<bool>,
    resets: mpsc::Receiver<()>,
}

impl Bench {
    fn new() -> Self {
        let pins = Pins::new();
        let (a20_send, a20) = mpsc::channel();
        let (reset_send, resets) = mpsc::channel();
        let controller = I8042::new(
            pins.line(1),
            pins.line(12),
            Box::new(move |level| a20_send.send(level).expect("receiver")),
            Box::new(move || reset_send.send(()).expect("receiver")),
        );
        Self { controller, pins, a20, resets }
    }

    fn command(&mut self, value: u64) {
        self.controller.write(REGION_COMMAND, 0, AccessSize::Byte, value);
    }

    fn data(&mut self, value: u64) {
        self.controller.write(REGION_DATA, 0, AccessSize::Byte, value);
    }

    fn status(&mut self) -> u64 {
        self.controller.read(REGION_COMMAND, 0, AccessSize::Byte)
    }

    fn read(&mut self) -> u64 {
        self.controller.read(REGION_DATA, 0, AccessSize::Byte)
    }

    /// All that is there to read.
    fn drain(&mut self) -> Vec<u64> {
        let mut bytes = Vec::new();
        while self.status() & 1 != 0 {
            bytes.push(self.read());
        }
        bytes
    }

    fn mouse(&mut self, value: u64) -> Vec<u64> {
        self.command(0xd4);
        self.data(value);
        self.drain()
    }
}

#[test]
fn self_test_and_mode_byte_answer() {
    let mut bench = Bench::new();
    assert_eq!(bench.status(), 0x18);
    bench.command(0xaa);
    assert_eq!(bench.status() & 0x05, 0x05);
    assert_eq!(bench.drain(), [0x55]);
    bench.command(0xab);
    assert_eq!(bench.drain(), [0]);
    bench.command(0x60);
    bench.data(0x61);
    bench.command(0x20);
    assert_eq!(bench.drain(), [0x61]);
    assert_eq!(bench.status() & 4, 0);
}

#[test]
fn keyboard_reset_and_identity() {
    let mut bench = Bench::new();
    bench.data(0xff);
    assert_eq!(bench.drain(), [0xfa, 0xaa]);
    bench.data(0xf2);
    assert_eq!(bench.drain(), [0xfa, 0xab, 0x83]);
    bench.command(0x60);
    bench.data(0x41);
    bench.data(0xf2);
    assert_eq!(bench.drain(), [0xfa, 0xab, 0x41], "translated");
    bench.data(0xed);
    bench.data(0x04);
    assert_eq!(bench.drain(), [0xfa, 0xfa]);
    assert_eq!(bench.controller.keyboard().leds(), 4);
    bench.data(0x12);
    assert_eq!(bench.drain(), [0xfe]);
    bench.data(0xfe);
    assert_eq!(bench.drain(), [0xfa], "the last byte but a resend");
}

#[test]
fn keys_come_in_the_selected_set_and_interrupt_for_each_byte() {
    let mut bench = Bench::new();
    bench.controller.key(0x1e, true);
    assert!(bench.pins.level(1));
    bench.controller.key(0x1e, false);
    assert_eq!(bench.drain(), [0x1c, 0xf0, 0x1c]);
    assert_eq!(bench.pins.edges(1), 3);
    assert!(!bench.pins.level(1));
    bench.command(0x60);
    bench.data(0x41);
    bench.controller.key(0xc8, true);
    bench.controller.key(0xc8, false);
    assert_eq!(bench.drain(), [0xe0, 0x48, 0xe0, 0xc8]);
    bench.command(0x60);
    bench.data(0x01);
    for (set, expected) in [(1, vec![0x1e, 0x9e]), (3, vec![0x1c, 0xf0, 0x1c])] {
        bench.data(0xf0);
        bench.data(set);
        assert_eq!(bench.drain(), [0xfa, 0xfa]);
        bench.controller.key(0x1e, true);
        bench.controller.key(0x1e, false);
        assert_eq!(bench.drain(), expected);
    }
    bench.data(0xf0);
    bench.data(0);
    assert_eq!(bench.drain(), [0xfa, 0xfa, 3]);
}

#[test]
fn pause_and_print_have_their_sequences() {
    let mut bench = Bench::new();
    bench.command(0x60);
    bench.data(0x41);
    bench.controller.key(scancodes::PAUSE, true);
    assert_eq!(bench.drain(), [0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]);
    bench.controller.key(scancodes::PRINT, true);
    bench.controller.key(scancodes::PRINT, false);
    assert_eq!(bench.drain(), [0xe0, 0x2a, 0xe0, 0x37, 0xe0, 0xb7, 0xe0, 0xaa]);
}

#[test]
fn switched_off_keyboard_keeps_its_keys() {
    let mut bench = Bench::new();
    bench.command(0xad);
    bench.controller.key(0x02, true);
    assert_eq!(bench.status() & 1, 0);
    bench.command(0xae);
    assert_eq!(bench.drain(), [0x16]);
    bench.data(0xf5);
    bench.drain();
    bench.controller.key(0x02, true);
    assert!(bench.drain().is_empty(), "scanning is off");
}

#[test]
fn a20_and_reset_lines_follow_the_output_port() {
    let mut bench = Bench::new();
    bench.command(0xdd);
    bench.command(0xd0);
    assert_eq!(bench.drain(), [0xcd]);
    bench.command(0xd1);
    bench.data(0xdf);
    assert_eq!(bench.a20.try_iter().collect::<Vec<_>>(), [false, true]);
    assert!(bench.resets.try_recv().is_err());
    bench.command(0xff);
    assert!(bench.resets.try_recv().is_err());
    bench.command(0xfe);
    assert!(bench.resets.try_recv().is_ok());
}

#[test]
fn mouse_is_enabled_moves_and_interrupts() {
    let mut bench = Bench::new();
    assert_eq!(bench.mouse(0xff), [0xfa, 0xaa, 0x00]);
    bench.controller.mouse((5, 5, 0), 0);
    assert!(bench.drain().is_empty(), "streaming is off");
    assert_eq!(bench.mouse(0xf4), [0xfa]);
    let edges = bench.pins.edges(12);
    bench.controller.mouse((10, -3, 0), 1);
    assert_eq!(bench.status() & 0x21, 0x21);
    assert_eq!(bench.drain(), [0x29, 10, 0xfd]);
    assert_eq!(bench.pins.edges(12), edges + 3);
    assert_eq!(bench.mouse(0xe9), [0xfa, 0x24, 2, 100]);
}

#[test]
fn mouse_turns_into_a_wheel_mouse_by_the_magic_rates() {
    let mut bench = Bench::new();
    for rates in [[200, 100, 80], [200, 200, 80]] {
        for rate in rates {
            assert_eq!(bench.mouse(0xf3), [0xfa]);
            assert_eq!(bench.mouse(rate), [0xfa]);
        }
    }
    assert_eq!(bench.mouse(0xf2), [0xfa, 4]);
    bench.mouse(0xf4);
    bench.controller.mouse((0, 0, -1), 0x08);
    assert_eq!(bench.drain(), [0x08, 0, 0, 0x1f]);
}

#[test]
fn long_movement_is_told_in_several_packets() {
    let mut bench = Bench::new();
    bench.mouse(0xf4);
    bench.controller.mouse((127 * 20, 0, 0), 0);
    let bytes = bench.drain();
    assert_eq!(bytes.len(), 60);
    assert!(bytes.chunks(3).all(|packet| packet == [0x08, 127, 0]));
}

#[test]
fn flood_of_keys_is_cut_off() {
    let mut bench = Bench::new();
    for _ in 0..100 {
        bench.controller.key(0xc8, true);
        bench.data(0xf2);
    }
    assert!(bench.drain().len() < 50);
}

#[test]
fn state_survives_hostile_bytes() {
    let mut bench = Bench::new();
    state::testing::assert_hostile_bytes_are_harmless(&mut bench.controller.state, 3, 500);
    bench.controller.restored();
    for value in 0..=255 {
        bench.command(value);
        bench.data(value);
        bench.read();
        bench.mouse(value);
    }
}
