use super::*;
use device::{IrqInput, IrqSink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A backend in memory.
#[derive(Debug, Default)]
struct MemoryBackend {
    /// What the guest sent.
    sent: Vec<u8>,
    /// How many more characters it takes; `None`: any number.
    limit: Option<usize>,
    /// The last settings that were reported.
    settings: Option<LineSettings>,
    /// How often room was reported.
    room_reports: usize,
}

impl SerialBackend for Arc<Mutex<MemoryBackend>> {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut backend = self.lock().expect("backend");
        let taken = backend.limit.map_or(bytes.len(), |limit| limit.min(bytes.len()));
        if let Some(limit) = &mut backend.limit {
            *limit -= taken;
        }
        backend.sent.extend(&bytes[..taken]);
        taken
    }

    fn input_room(&mut self, _room: usize) {
        self.lock().expect("backend").room_reports += 1;
    }

    fn line_changed(&mut self, settings: &LineSettings) {
        self.lock().expect("backend").settings = Some(*settings);
    }
}

#[derive(Default)]
struct Pin(AtomicBool);

impl IrqSink for Pin {
    fn set_level(&self, _pin: u32, level: bool) {
        self.0.store(level, Ordering::SeqCst);
    }

    fn restore_level(&self, _pin: u32, level: bool) {
        self.0.store(level, Ordering::SeqCst);
    }
}

struct Bench {
    clock: Clock,
    uart: DeviceCell<Uart16550>,
    backend: Arc<Mutex<MemoryBackend>>,
    pin: Arc<Pin>,
}

impl Bench {
    fn new() -> Self {
        let (clock, pin) = (Clock::manual(), Arc::new(Pin::default()));
        let backend = Arc::new(Mutex::new(MemoryBackend::default()));
        let irq = IrqInput::new(Arc::clone(&pin) as Arc<dyn IrqSink>, 4).line();
        let uart = Uart16550::new(&clock, irq, Box::new(Arc::clone(&backend)));
        Self { clock, uart, backend, pin }
    }

    fn read(&self, port: u64) -> u64 {
        self.uart.lock().read(0, port, AccessSize::Byte)
    }

    fn write(&self, port: u64, value: u64) {
        self.uart.lock().write(0, port, AccessSize::Byte, value);
    }

    fn irq(&self) -> bool {
        self.pin.0.load(Ordering::SeqCst)
    }

    fn sent(&self) -> Vec<u8> {
        self.backend.lock().expect("backend").sent.clone()
    }
}

#[test]
fn reset_values_are_as_qemu_shows_them() {
    let bench = Bench::new();
    assert_eq!([1, 2, 3, 4, 5, 6].map(|port| bench.read(port)), [0, 1, 0, 8, 0x60, 0xb0]);
}

#[test]
fn character_is_sent_and_the_transmitter_interrupts_until_iir_is_read() {
    let bench = Bench::new();
    bench.write(1, 2);
    assert!(bench.irq(), "enabling it while empty raises it");
    assert_eq!(bench.read(2), 2);
    assert!(!bench.irq());
    bench.write(0, u64::from(b'x'));
    assert_eq!(bench.sent(), b"x");
    assert!(bench.irq());
}

#[test]
fn busy_backend_keeps_the_transmitter_busy() {
    let bench = Bench::new();
    bench.backend.lock().expect("backend").limit = Some(1);
    bench.write(2, 1);
    for byte in b"abcdefghijklmnopqrst" {
        bench.write(0, u64::from(*byte));
    }
    assert_eq!(bench.sent(), b"a");
    assert_eq!(bench.read(5), 0);
    bench.write(1, 2);
    assert!(!bench.irq());
    bench.backend.lock().expect("backend").limit = Some(100);
    bench.uart.lock().backend_writable();
    assert_eq!(bench.sent(), b"abcdefghijklmnopq", "one and a FIFO of 16");
    assert_eq!(bench.read(5), 0x60);
    assert!(bench.irq());
}

#[test]
fn receiver_interrupts_at_its_trigger_level_and_after_a_time_out() {
    let bench = Bench::new();
    bench.write(2, 0x41); // trigger at 4
    bench.write(1, 1);
    assert_eq!(bench.uart.lock().receive(b"ab"), 2);
    assert!(!bench.irq());
    bench.clock.step(10_000_000);
    assert_eq!(bench.read(2), 0xcc);
    assert_eq!(bench.read(0), u64::from(b'a'));
    assert!(!bench.irq());
    assert_eq!(bench.uart.lock().receive(b"cde"), 3);
    assert_eq!(bench.read(2), 0xc4);
    for expected in b"bcde" {
        assert_eq!(bench.read(5) & 1, 1);
        assert_eq!(bench.read(0), u64::from(*expected));
    }
    assert_eq!(bench.read(5) & 1, 0);
    assert!(!bench.irq());
}

#[test]
fn full_receiver_refuses_and_reports_room_once() {
    let bench = Bench::new();
    assert_eq!(bench.uart.lock().receive(b"xy"), 1);
    assert_eq!(bench.read(0), u64::from(b'x'));
    assert_eq!(bench.backend.lock().expect("backend").room_reports, 1);
    bench.write(2, 1);
    assert_eq!(bench.uart.lock().receive(&[7; 40]), 16);
    bench.read(0);
    bench.read(0);
    assert_eq!(bench.backend.lock().expect("backend").room_reports, 2);
    assert_eq!(bench.uart.lock().receive_room(), 2);
}

#[test]
fn loopback_returns_characters_and_modem_outputs() {
    let bench = Bench::new();
    bench.write(4, 0x1a);
    assert_eq!(bench.read(6), 0x90);
    bench.write(4, 0x15);
    assert_eq!(bench.read(6), 0x60);
    bench.write(0, 0x5a);
    assert_eq!(bench.read(0), 0x5a);
    assert!(bench.sent().is_empty());
    bench.write(0, 1);
    bench.write(0, 2);
    assert_eq!(bench.read(5) & 2, 2, "overrun");
    assert_eq!(bench.read(0), 2);
}

#[test]
fn modem_line_changes_interrupt_and_reading_msr_clears_them() {
    let bench = Bench::new();
    bench.write(1, 8);
    bench.uart.lock().set_modem_lines(ModemLines { cts: false, dsr: true, ri: true, dcd: true });
    assert_eq!(bench.read(2), 0);
    assert_eq!(bench.read(6), 0xe1);
    assert_eq!(bench.read(6), 0xe0);
    assert!(!bench.irq());
    bench.uart.lock().set_modem_lines(ModemLines { cts: false, dsr: true, ri: false, dcd: true });
    assert_eq!(bench.read(6), 0xa4);
}

#[test]
fn line_settings_reach_the_backend() {
    let bench = Bench::new();
    bench.write(3, 0x80);
    bench.write(0, 1);
    bench.write(1, 0);
    assert_eq!(bench.read(0), 1);
    bench.write(3, 0x1b);
    bench.write(4, 3);
    let settings = bench.backend.lock().expect("backend").settings.expect("reported");
    let expected = LineSettings {
        baud: 115_200,
        data_bits: 8,
        parity: Parity::Even,
        stop_bits: 1,
        is_break: false,
        dtr: true,
        rts: true,
    };
    assert_eq!(settings, expected);
}

#[test]
fn speed_is_reported_where_it_is_set_to_what_it_was() {
    let bench = Bench::new();
    bench.write(3, 0x80);
    bench.backend.lock().expect("backend").settings = None;
    bench.write(0, 12);
    let settings = bench.backend.lock().expect("backend").settings.take();
    assert_eq!(settings.expect("reported").baud, 9600);
}

#[test]
fn break_is_a_line_interrupt() {
    let bench = Bench::new();
    bench.write(1, 4);
    bench.uart.lock().receive_break();
    assert_eq!(bench.read(2), 6);
    assert_eq!(bench.read(5) & 0x11, 0x11);
    assert!(!bench.irq());
}

#[test]
fn enabling_the_fifos_clears_them() {
    let bench = Bench::new();
    bench.uart.lock().receive(b"a");
    bench.write(2, 1);
    assert_eq!(bench.read(5), 0x60);
    assert_eq!(bench.read(2), 0xc1);
    bench.write(2, 0);
    assert_eq!(bench.read(2), 0x01);
}

#[test]
fn state_survives_hostile_bytes_and_reset_is_complete() {
    let bench = Bench::new();
    let mut uart = bench.uart.lock();
    state::testing::assert_hostile_bytes_are_harmless(&mut uart.state, 1, 300);
    uart.restored();
    for port in 0..8 {
        uart.read(0, port, AccessSize::Byte);
        uart.write(0, port, AccessSize::Byte, 0xff);
    }
}
