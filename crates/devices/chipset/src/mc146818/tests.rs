use super::*;
use crate::testing::Pins;
use clock::RtcBase;
use std::sync::Mutex;

/// 2024-02-28 23:59:58, a Wednesday.
const START: i64 = 1_709_164_798;

struct Bench {
    clock: Clock,
    rtc: DeviceCell<Mc146818>,
    pins: Arc<Pins>,
    changes: Arc<Mutex<Vec<i64>>>,
}

impl Bench {
    fn new() -> Self {
        let (clock, pins) = (Clock::manual(), Pins::new());
        let wall = WallClock::new(RtcBase::Virtual { start: START }, clock.clone());
        let changes: Arc<Mutex<Vec<i64>>> = Arc::default();
        let seen = Arc::clone(&changes);
        let on_change = Box::new(move |offset| seen.lock().expect("changes").push(offset));
        let rtc = Mc146818::new(&clock, wall, pins.line(0), LegacyReplacement::default(), on_change);
        Self { clock, rtc, pins, changes }
    }

    fn read(&self, index: u64) -> u64 {
        let mut rtc = self.rtc.lock();
        rtc.write(0, 0, AccessSize::Byte, index);
        rtc.read(0, 1, AccessSize::Byte)
    }

    fn write(&self, index: u64, value: u64) {
        let mut rtc = self.rtc.lock();
        rtc.write(0, 0, AccessSize::Byte, index);
        rtc.write(0, 1, AccessSize::Byte, value);
    }

    fn step_seconds(&self, seconds: u64) {
        self.clock.step(seconds * 1_000_000_000);
    }
}

#[test]
fn time_is_shown_in_bcd_and_rolls_over_a_leap_day() {
    let bench = Bench::new();
    assert_eq!([4, 2, 0].map(|index| bench.read(index)), [0x23, 0x59, 0x58]);
    bench.step_seconds(2);
    assert_eq!([0x32, 9, 8, 7, 6].map(|index| bench.read(index)), [0x20, 0x24, 0x02, 0x29, 0x05]);
    assert_eq!([10, 13].map(|index| bench.read(index)), [0x26, 0x80]);
    assert_eq!(bench.rtc.lock().read(0, 0, AccessSize::Byte), 0xff);
}

#[test]
fn binary_and_twelve_hour_forms_are_shown() {
    let bench = Bench::new();
    bench.write(11, 0x04);
    assert_eq!([4, 2, 0].map(|index| bench.read(index)), [0x8b, 59, 58]);
    bench.step_seconds(2);
    assert_eq!(bench.read(4), 12, "midnight is 12 am");
    bench.write(11, 0x00);
    assert_eq!(bench.read(4), 0x12);
}

#[test]
fn guest_sets_the_clock_and_the_change_is_reported() {
    let bench = Bench::new();
    bench.write(11, 0x82);
    bench.step_seconds(3);
    assert_eq!(bench.read(0), 0x58, "held");
    for (index, value) in [(4, 0x12), (2, 0x00), (0, 0x00), (7, 0x01), (8, 0x01), (9, 0x99), (0x32, 0x19)] {
        bench.write(index, value);
    }
    bench.write(11, 0x02);
    assert_eq!(bench.rtc.lock().time(), 915_192_000);
    assert_eq!(*bench.changes.lock().expect("changes"), [915_192_000 - START - 3]);
    bench.step_seconds(1);
    assert_eq!([0x32, 9, 0].map(|index| bench.read(index)), [0x19, 0x99, 0x01]);
}

#[test]
fn update_interrupt_comes_each_second_and_reading_c_ends_it() {
    let bench = Bench::new();
    bench.write(11, 0x12);
    bench.clock.step(999_999_999);
    assert!(!bench.pins.level(0));
    assert_eq!(bench.read(10), 0xa6, "update in progress");
    bench.clock.step(1);
    assert!(bench.pins.level(0));
    assert_eq!(bench.read(10), 0x26);
    assert_eq!(bench.read(12) & 0xb0, 0x90);
    assert!(!bench.pins.level(0));
    assert_eq!(bench.read(12), 0);
    bench.step_seconds(1);
    assert_eq!(bench.pins.edges(0), 2);
}

#[test]
fn alarm_matches_its_time_and_wildcards() {
    let bench = Bench::new();
    for (index, value) in [(5, 0x00), (3, 0x01), (1, 0x30)] {
        bench.write(index, value);
    }
    bench.write(11, 0x22);
    bench.step_seconds(91);
    assert!(!bench.pins.level(0));
    bench.step_seconds(1);
    assert!(bench.pins.level(0));
    assert_eq!(bench.read(12) & 0xa0, 0xa0);
    bench.write(5, 0xff);
    bench.write(3, 0xff);
    bench.step_seconds(60);
    assert_eq!(bench.pins.edges(0), 2);
}

#[test]
fn flags_are_there_for_polling_without_interrupts() {
    let bench = Bench::new();
    bench.read(12);
    bench.clock.step(976_563);
    assert_eq!(bench.read(12), 0x40);
    bench.step_seconds(1);
    assert_eq!(bench.read(12), 0x50);
    assert_eq!(bench.pins.edges(0), 0);
}

#[test]
fn periodic_interrupt_runs_at_its_rate() {
    let bench = Bench::new();
    bench.write(10, 0x2f); // 2 Hz
    bench.write(11, 0x42);
    bench.clock.step(499_999_999);
    assert!(!bench.pins.level(0));
    bench.clock.step(1);
    assert!(bench.pins.level(0));
    bench.step_seconds(1);
    assert_eq!(bench.pins.edges(0), 1, "not acknowledged");
    assert_eq!(bench.read(12) & 0xc0, 0xc0);
    bench.clock.step(500_000_000);
    assert_eq!(bench.pins.edges(0), 2);
}

#[test]
fn nmi_mask_is_bit_7_of_the_index_port() {
    let bench = Bench::new();
    let mask = bench.rtc.lock().nmi_mask();
    bench.rtc.lock().write(0, 0, AccessSize::Byte, 0x8d);
    assert!(mask.load(Ordering::Acquire));
    assert_eq!(bench.rtc.lock().read(0, 1, AccessSize::Byte), 0x80);
    bench.write(0x5f, 0xaa);
    assert!(!mask.load(Ordering::Acquire));
    assert_eq!(bench.read(0x5f), 0xaa);
}

#[test]
fn second_bank_is_separate() {
    let bench = Bench::new();
    let mut rtc = bench.rtc.lock();
    rtc.write(0, 2, AccessSize::Byte, 0x0c);
    rtc.write(0, 3, AccessSize::Byte, 0x5a);
    assert_eq!(rtc.read(0, 3, AccessSize::Byte), 0x5a);
    assert_eq!(rtc.cmos(0x0c), 0);
}

#[test]
fn reset_stops_interrupts_and_keeps_memory() {
    let bench = Bench::new();
    bench.write(0x40, 7);
    bench.write(11, 0x72);
    bench.step_seconds(1);
    bench.rtc.lock().reset(ResetKind::Warm);
    assert!(!bench.pins.level(0));
    assert_eq!(bench.read(11), 0x02);
    assert_eq!(bench.read(0x40), 7);
}

#[test]
fn nonsense_in_the_registers_is_survived() {
    let bench = Bench::new();
    bench.write(11, 0x82);
    for index in (0..10).chain([0x32]) {
        bench.write(index, 0xff);
    }
    bench.write(11, 0x72);
    bench.step_seconds(5);
    bench.read(12);
    bench.read(9);
}

#[test]
fn hostile_state_is_harmless() {
    let bench = Bench::new();
    for seed in 1..40 {
        state::testing::assert_hostile_bytes_are_harmless(&mut bench.rtc.lock().state, seed, 20);
        bench.rtc.lock().restored();
        for index in [0, 4, 9, 10, 12, 0x32] {
            bench.read(index);
        }
        bench.write(11, seed & 0xff);
        bench.write(0, 0x12);
        bench.step_seconds(1);
    }
}
