use std::sync::Arc;

use super::*;
use crate::bus::Link;
use crate::device::Labels;
use crate::hid::{self, HidKind};
use crate::testing::{Bench, enable, laws};

fn tablet(bench: &Bench) -> Link {
    Arc::new(hid::new(HidKind::Tablet, 2, Labels::default(), &bench.clock, &Arc::default()))
}

fn controller(bench: &Bench) -> UhciCell {
    UhciCell::new(MODELS[0], UhciOptions::default(), &bench.clock, bench.pin.line(), bench.dma.clone())
}

fn write(uhci: &UhciCell, offset: u64, value: u16) {
    uhci.cell.lock().write(0, offset, AccessSize::Word, u64::from(value));
}

fn read(uhci: &UhciCell, offset: u64) -> u16 {
    uhci.cell.lock().read(0, offset, AccessSize::Word) as u16
}

#[test]
fn port_with_a_device_says_so_and_is_enabled_by_the_driver_only() {
    let bench = Bench::new();
    let uhci = controller(&bench);
    assert_eq!(read(&uhci, 0x10), 0x80);
    write(&uhci, 0x10, port::ENABLED);
    assert_eq!(read(&uhci, 0x10), 0x80, "nothing to enable");
    uhci.plug(0, tablet(&bench));
    assert_eq!(read(&uhci, 0x10), 0x83);
    write(&uhci, 0x10, port::CONNECT_CHANGE | port::ENABLED);
    assert_eq!(read(&uhci, 0x10), 0x85);
    uhci.unplug(0);
    assert_eq!(read(&uhci, 0x10), 0x80 | port::CONNECT_CHANGE | port::ENABLE_CHANGE);
}

/// A queue that reads the device descriptor: SETUP, IN with room for 64 bytes, OUT with an interrupt.
fn control_read(bench: &Bench, address: u32) {
    let token = |pid: u32, toggle: u32, len: u32| len.wrapping_sub(1) << 21 | toggle << 19 | address << 8 | pid;
    const ACTIVE: u32 = 1 << 23 | 3 << 27;
    bench.store(0x1000, &[1; 1024]);
    bench.store(0x1000, &[0x2002]);
    bench.store(0x2000, &[1, 0x3000]);
    bench.store(0x3000, &[0x3024, ACTIVE, token(0x2d, 0, 8), 0x4000]);
    bench.store(0x3020, &[0x3044, ACTIVE, token(0x69, 1, 64), 0x5000]);
    bench.store(0x3040, &[1, ACTIVE | 1 << 24, token(0xe1, 1, 0), 0]);
    bench.store(0x4000, &[0x0100_0680, 0x0012_0000]);
}

#[test]
fn control_transfer_is_done_in_a_frame_and_interrupts() {
    let bench = Bench::new();
    let uhci = controller(&bench);
    uhci.plug(1, tablet(&bench));
    enable(&uhci.cell);
    control_read(&bench, 0);
    // The links lead depth first, and the second word of a descriptor is the status.
    bench.store(0x3000, &[0x3024]);
    write(&uhci, 0x12, port::ENABLED);
    write(&uhci, 0x04, enable::COMPLETE);
    write(&uhci, 0x08, 0x1000);
    write(&uhci, 0x00, command::RUN);
    bench.clock.step(FRAME);
    assert_eq!(bench.word(0x2004), 1, "the queue is empty");
    assert_eq!(bench.word(0x3024) & 0x7ff, 17, "18 bytes came");
    assert_eq!(bench.bytes(0x5000, 10), [18, 1, 0, 2, 0, 0, 0, 8, 0x27, 0x06]);
    assert!(bench.pin.level());
    assert_eq!(read(&uhci, 0x02), status::INTERRUPT);
    write(&uhci, 0x02, status::INTERRUPT);
    assert!(!bench.pin.level());
    assert_eq!(read(&uhci, 0x06), 1, "one frame has gone by");
}

#[test]
fn transaction_for_nobody_fails_with_an_error_interrupt() {
    let bench = Bench::new();
    let uhci = controller(&bench);
    uhci.plug(0, tablet(&bench));
    enable(&uhci.cell);
    control_read(&bench, 5);
    write(&uhci, 0x10, port::ENABLED);
    write(&uhci, 0x04, enable::ERROR);
    write(&uhci, 0x08, 0x1000);
    write(&uhci, 0x00, command::RUN);
    bench.clock.step(FRAME);
    assert_eq!(bench.word(0x2004), 0x3000, "the queue waits for the driver");
    let control = bench.word(0x3004);
    assert_eq!(control >> 16 & 0xff, 0x44, "stalled, timeout, not active: {control:#x}");
    assert!(bench.pin.level());
}

#[test]
fn laws_hold_under_random_accesses() {
    for seed in 0..8 {
        let bench = Bench::new();
        let uhci = controller(&bench);
        uhci.plug(0, tablet(&bench));
        laws(&bench, &uhci.cell, LEN, seed);
    }
}
