use std::sync::Arc;

use super::*;
use crate::device::Labels;
use crate::hid::{self, HidKind};
use crate::testing::{Bench, enable, laws, read, write};
use display::input::{Axis, Event, Hub};

const EVENTS: u64 = 0x1000;
const COMMANDS: u64 = 0x2000;
const INPUT: u64 = 0x3000;
const OUTPUT: u64 = 0x4000;
const RING: u64 = 0x5000;
const BUFFER: u64 = 0x6000;

fn controller(bench: &Bench, model: XhciModel) -> XhciCell {
    let wiring = XhciWiring {
        clock: bench.clock.clone(),
        irq: bench.pin.line(),
        messages: Arc::clone(&bench.pin) as Arc<dyn MsiSink>,
        dma: bench.dma.clone(),
        express: None,
    };
    XhciCell::new(XhciOptions::new(model), wiring)
}

/// A running controller with a tablet on its first port, which is reset.
fn running(bench: &Bench, input: &Arc<Hub>) -> XhciCell {
    let xhci = controller(bench, XhciModel::Qemu);
    let tablet = hid::new(HidKind::Tablet, 2, Labels::default(), &bench.clock, input);
    xhci.plug(0, Arc::new(tablet));
    enable(&xhci.cell);
    bench.store(0x800, &[EVENTS as u32, 0, 32, 0]);
    bench.store(0x900, &[0; 4]);
    bench.store(0x908, &[OUTPUT as u32, 0]);
    let base = RUNTIME + 0x20;
    for (offset, value) in [
        (base + 0x08, 1),
        (base + 0x18, EVENTS as u32),
        (base + 0x1c, 0),
        (base + 0x10, 0x800),
        (base + 0x14, 0),
        (base, iman::ENABLED),
        (OPERATIONAL + 0x38, 64),
        (OPERATIONAL + 0x18, COMMANDS as u32 | 1),
        (OPERATIONAL + 0x1c, 0),
        (OPERATIONAL + 0x30, 0x900),
        (OPERATIONAL + 0x34, 0),
        (OPERATIONAL, usbcmd::RUN | usbcmd::INTERRUPTS),
        // Registers 1 to 4 are SuperSpeed's.
        (PORT_REGISTERS + 0x40, portsc::POWER | portsc::RESET),
    ] {
        write(&xhci.cell, offset, value);
    }
    xhci
}

/// An event: pointer, status, control.
fn event(bench: &Bench, index: u64) -> (u32, u32, u32) {
    let at = EVENTS + 16 * index;
    (bench.word(at), bench.word(at + 8), bench.word(at + 12))
}

/// Slot 1 with the tablet, addressed; its endpoint 1 IN (number 3) with a ring.
fn addressed(bench: &Bench, xhci: &XhciCell) {
    bench.store(INPUT, &[0, 3]);
    bench.store(INPUT + 32, &[1 << 27 | 3 << 20, 5 << 16, 0, 0]);
    bench.store(INPUT + 64, &[0, 64 << 16 | 4 << 3 | 3 << 1, 0x7001, 0, 8]);
    bench.store(COMMANDS, &[0, 0, 0, 9 << 10 | 1]);
    bench.store(COMMANDS + 16, &[INPUT as u32, 0, 0, 1 << 24 | 11 << 10 | 1]);
    bench.store(INPUT + 0x400, &[0, 9]);
    bench.store(INPUT + 0x420, &[3 << 27 | 3 << 20, 5 << 16, 0, 0]);
    bench.store(INPUT + 0x480, &[3 << 16, 8 << 16 | 7 << 3 | 3 << 1, RING as u32 | 1, 0, 8]);
    bench.store(COMMANDS + 32, &[INPUT as u32 + 0x400, 0, 0, 1 << 24 | 12 << 10 | 1]);
    write(&xhci.cell, DOORBELLS, 0);
}

#[test]
fn reset_of_a_port_enables_it_and_is_an_event() {
    let bench = Bench::new();
    let xhci = running(&bench, &Arc::default());
    let port = read(&xhci.cell, PORT_REGISTERS + 0x40);
    assert_eq!(port & 0x3fff, portsc::CONNECTED | portsc::ENABLED | portsc::POWER | 3 << 10);
    assert_eq!(event(&bench, 0), (5 << 24, 1 << 24, 34 << 10 | 1));
    assert!(bench.pin.level());
    write(&xhci.cell, RUNTIME + 0x20, iman::PENDING | iman::ENABLED);
    assert!(!bench.pin.level());
}

#[test]
fn commands_give_a_device_a_slot_an_address_and_endpoints() {
    let bench = Bench::new();
    let xhci = running(&bench, &Arc::default());
    addressed(&bench, &xhci);
    let ends: Vec<_> = (1..4).map(|index| event(&bench, index)).collect();
    let end = |at: u64| (at as u32, 1 << 24, 1 << 24 | 33 << 10 | 1);
    assert_eq!(ends, [end(COMMANDS), end(COMMANDS + 16), end(COMMANDS + 32)]);
    assert_eq!(bench.word(OUTPUT + 12), 3 << 27 | 1, "configured, with address 1");
    assert_eq!(bench.word(OUTPUT + 32) & 7, 1, "endpoint 0 runs");
    assert_eq!(bench.word(OUTPUT + 96) & 7, 1, "endpoint 1 runs");
}

/// Configures the tablet by a control transfer.
fn configured(bench: &Bench, xhci: &XhciCell) {
    bench.store(0x7000, &[0x0001_0900, 0, 8, 2 << 10 | 1 << 6 | 1]);
    bench.store(0x7010, &[0, 0, 0, 4 << 10 | 1 << 16 | 1 << 5 | 1]);
    write(&xhci.cell, DOORBELLS + 4, 1);
    assert_eq!(event(bench, 4), (0x7010, 1 << 24, 1 << 24 | 1 << 16 | 32 << 10 | 1));
}

#[test]
fn interrupt_transfer_waits_for_the_device_and_ends_short() {
    let bench = Bench::new();
    let input = Arc::<Hub>::default();
    let xhci = running(&bench, &input);
    addressed(&bench, &xhci);
    configured(&bench, &xhci);
    bench.store(RING, &[BUFFER as u32, 0, 8, 1 << 10 | 1 << 5 | 1 << 2 | 1]);
    write(&xhci.cell, DOORBELLS + 4, 3);
    assert_eq!(event(&bench, 5).2, 0, "nothing to tell");
    input.send(&Event::Absolute { axis: Axis::X, to: 0x1234 }, None);
    input.sync();
    let (pointer, status, control) = event(&bench, 5);
    assert_eq!((pointer, control), (RING as u32, 1 << 24 | 3 << 16 | 32 << 10 | 1));
    assert_eq!(status, 13 << 24 | 2, "a short packet, two bytes are left");
    assert_eq!(bench.bytes(BUFFER, 6), [0, 0x34, 0x12, 0, 0, 0]);
}

#[test]
fn stopped_endpoint_tells_where_it_is_and_goes_on_from_there() {
    let bench = Bench::new();
    let input = Arc::<Hub>::default();
    let xhci = running(&bench, &input);
    addressed(&bench, &xhci);
    configured(&bench, &xhci);
    bench.store(RING, &[BUFFER as u32, 0, 8, 1 << 10 | 1 << 5 | 1]);
    write(&xhci.cell, DOORBELLS + 4, 3);
    bench.store(COMMANDS + 48, &[0, 0, 0, 1 << 24 | 3 << 16 | 15 << 10 | 1]);
    write(&xhci.cell, DOORBELLS, 0);
    assert_eq!(event(&bench, 5), (RING as u32, 26 << 24 | 8, 1 << 24 | 3 << 16 | 32 << 10 | 1));
    assert_eq!(event(&bench, 6).1, 1 << 24);
    assert_eq!(bench.word(OUTPUT + 96) & 7, 3);
    input.send(&Event::Absolute { axis: Axis::Y, to: 7 }, None);
    input.sync();
    assert_eq!(event(&bench, 7).2, 0, "it is stopped");
    write(&xhci.cell, DOORBELLS + 4, 3);
    assert_eq!(event(&bench, 7).0, RING as u32);
}

#[test]
fn unknown_request_halts_the_control_endpoint() {
    let bench = Bench::new();
    let xhci = running(&bench, &Arc::default());
    addressed(&bench, &xhci);
    bench.store(0x7000, &[0x0000_55c0, 0x0008_0000, 8, 2 << 10 | 1 << 6 | 1]);
    bench.store(0x7010, &[BUFFER as u32, 0, 8, 3 << 10 | 1 << 16 | 1]);
    write(&xhci.cell, DOORBELLS + 4, 1);
    let (pointer, status, _) = event(&bench, 4);
    assert_eq!((pointer, status >> 24), (0x7010, 6));
    assert_eq!(bench.word(OUTPUT + 32) & 7, 2, "halted");
}

#[test]
fn laws_hold_under_random_accesses() {
    for (seed, model) in [XhciModel::Qemu, XhciModel::Nec].into_iter().cycle().take(6).enumerate() {
        let bench = Bench::new();
        let xhci = controller(&bench, model);
        let tablet = hid::new(HidKind::Tablet, 2, Labels::default(), &bench.clock, &Arc::default());
        xhci.plug(1, Arc::new(tablet));
        laws(&bench, &xhci.cell, LEN, seed as u64);
    }
}

#[test]
fn laws_hold_with_random_rings() {
    for seed in 0..6 {
        let bench = Bench::new();
        let xhci = running(&bench, &Arc::default());
        addressed(&bench, &xhci);
        let mut noise = crate::testing::Noise(seed);
        for _ in 0..200 {
            let words: Vec<u32> = (0..256).map(|_| noise.next() as u32 & 0x0107_fc7f).collect();
            bench.store([RING, COMMANDS, 0x7000, INPUT][noise.next() as usize % 4], &words);
            write(&xhci.cell, DOORBELLS + 4 * (noise.next() % 3), (noise.next() % 5) as u32);
            write(&xhci.cell, OPERATIONAL, usbcmd::RUN | usbcmd::INTERRUPTS);
            device::testing::save_and_restore_agree("xhci", &xhci.cell).expect("the law");
        }
    }
}
