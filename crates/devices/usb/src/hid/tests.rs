use display::keys::Key;

use super::*;
use crate::bus::Link;
use crate::device::Labels;
use crate::testing::{Wakes, configure, control, poll};

struct Bench {
    clock: Clock,
    input: Arc<InputHub>,
    device: Link,
    wakes: Arc<Wakes>,
}

fn bench(kind: HidKind) -> Bench {
    let (clock, input, wakes) = (Clock::manual(), Arc::<InputHub>::default(), Arc::<Wakes>::default());
    let labels = Labels { serial: Some("s-1".to_owned()), ..Labels::default() };
    let device: Link = Arc::new(new(kind, 2, labels, &clock, &input));
    wakes.connect(&device);
    configure(&device);
    Bench { clock, input, device, wakes }
}

impl Bench {
    fn key(&self, name: &str, is_down: bool) {
        self.input.send(&Event::Key { key: Key::named(name).expect("a key"), is_down }, None);
    }
}

#[test]
fn keys_become_reports_one_after_the_other() {
    let bench = bench(HidKind::Keyboard);
    assert_eq!(poll(&bench.device, 1, 8), Err(Outcome::Nak));
    bench.key("shift", true);
    bench.key("a", true);
    bench.key("a", false);
    assert_eq!(bench.wakes.count(), 3);
    let reports: Vec<_> = (0..3).map(|_| poll(&bench.device, 1, 8).expect("a report")).collect();
    assert_eq!(reports, [[2, 0, 0, 0, 0, 0, 0, 0], [2, 0, 4, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0, 0]]);
    assert_eq!(poll(&bench.device, 1, 8), Err(Outcome::Nak));
    for name in ["a", "b", "c", "d", "e", "f", "g"] {
        bench.key(name, true);
    }
    let reports: Vec<_> = (0..7).map(|_| poll(&bench.device, 1, 8).expect("a report")).collect();
    assert_eq!(reports[5], [2, 0, 4, 5, 6, 7, 8, 9]);
    assert_eq!(reports[6], [2, 0, 1, 1, 1, 1, 1, 1], "more keys than a report has room for");
}

#[test]
fn lights_and_idle_rate_are_set_by_requests() {
    let bench = bench(HidKind::Keyboard);
    control(&bench.device, [0x21, 9, 0, 2, 0, 0, 1, 0], &[2]).expect("lights");
    assert_eq!(bench.input.leds(), Leds { caps_lock: true, ..Leds::default() });
    control(&bench.device, [0x21, 10, 0, 1, 0, 0, 0, 0], &[]).expect("4 ms");
    assert_eq!(control(&bench.device, [0xa1, 2, 0, 0, 0, 0, 1, 0], &[]), Ok(vec![1]));
    assert_eq!(poll(&bench.device, 1, 8), Err(Outcome::Nak));
    bench.clock.step(IDLE_UNIT);
    assert_eq!(bench.wakes.count(), 1);
    assert_eq!(poll(&bench.device, 1, 8), Ok(vec![0; 8]));
    assert_eq!(poll(&bench.device, 1, 8), Err(Outcome::Nak), "until the next time");
}

#[test]
fn mouse_reports_long_ways_in_steps() {
    let bench = bench(HidKind::Mouse);
    bench.input.send(&Event::Relative { axis: Axis::X, by: 200 }, None);
    bench.input.send(&Event::Relative { axis: Axis::Y, by: -3 }, None);
    bench.input.send(&Event::Button { button: Button::WheelUp, is_down: true }, None);
    bench.input.sync();
    bench.input.send(&Event::Button { button: Button::Left, is_down: true }, None);
    bench.input.sync();
    let report = || poll(&bench.device, 1, 4);
    assert_eq!(report(), Ok(vec![0, 127, 0xfd, 1]));
    assert_eq!(report(), Ok(vec![0, 73, 0, 0]));
    assert_eq!(report(), Ok(vec![1, 0, 0, 0]));
    assert_eq!(report(), Err(Outcome::Nak));
    assert!(bench.input.pointers()[0].is_current);
}

#[test]
fn standard_requests_are_answered_from_descriptors() {
    let bench = bench(HidKind::Tablet);
    let get = |kind: u8, index: u8| control(&bench.device, [0x80, 6, index, kind, 0, 0, 255, 0], &[]);
    let device = get(1, 0).expect("a device descriptor");
    assert_eq!((device.len(), device[2..4].to_vec(), device[7]), (18, vec![0, 2], 64));
    assert_eq!(get(2, 0).expect("a configuration").len(), 34);
    assert_eq!(get(6, 0).expect("a qualifier"), [10, 6, 0, 1, 0, 0, 0, 8, 1, 0]);
    assert_eq!(get(3, 10).expect("a serial number"), [8, 3, b's', 0, b'-', 0, b'1', 0]);
    assert_eq!(get(3, 0xee).expect("Microsoft's")[16..], [b'Q', 0]);
    assert_eq!(get(3, 99), Err(Outcome::Stall));
    assert_eq!(control(&bench.device, [0xc0, b'Q', 0, 0, 5, 0, 255, 0], &[]).map(|bytes| bytes.len()), Ok(76));
    assert_eq!(control(&bench.device, [0x81, 6, 0, 0x22, 0, 0, 255, 0], &[]).map(|bytes| bytes.len()), Ok(74));
    // The address counts when the request has been acknowledged.
    control(&bench.device, [0, 5, 9, 0, 0, 0, 0, 0], &[]).expect("an address");
    assert_eq!(bench.device.address(), 9);
    control(&bench.device, [2, 3, 0, 0, 0x81, 0, 0, 0], &[]).expect("halted");
    assert_eq!(control(&bench.device, [0x82, 0, 0, 0, 0x81, 0, 2, 0], &[]), Ok(vec![1, 0]));
    assert_eq!(poll(&bench.device, 1, 8), Err(Outcome::Stall));
    control(&bench.device, [2, 1, 0, 0, 0x81, 0, 0, 0], &[]).expect("no more");
    assert_eq!(poll(&bench.device, 1, 8), Err(Outcome::Nak));
}
