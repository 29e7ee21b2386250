use std::sync::Arc;

use super::*;
use crate::device::Labels;
use crate::hid::{self, HidKind};
use crate::testing::{Bench, enable, laws, read, write};
use crate::uhci::{self, UhciOptions};

fn tablet(bench: &Bench, version: u32) -> Link {
    Arc::new(hid::new(HidKind::Tablet, version, Labels::default(), &bench.clock, &Arc::default()))
}

fn controller(bench: &Bench) -> EhciCell {
    EhciCell::new(MODELS[1], 128, &bench.clock, bench.pin.line(), bench.dma.clone())
}

fn companion(bench: &Bench) -> UhciCell {
    UhciCell::new(uhci::MODELS[2], UhciOptions::default(), &bench.clock, bench.pin.line(), bench.dma.clone())
}

#[test]
fn companion_has_a_port_until_the_driver_takes_it() {
    let bench = Bench::new();
    let (ehci, uhci) = (controller(&bench), companion(&bench));
    ehci.add_companion(&uhci, 2).expect("free ports");
    assert!(ehci.add_companion(&uhci, 1).expect_err("taken").contains("port 2 has a companion assigned already"));
    assert!(ehci.add_companion(&uhci, 5).expect_err("too high").contains("between 0 and 4"));
    assert_eq!(read(&ehci.cell, 4), 0x1206, "six ports, one companion with two");
    ehci.plug(3, tablet(&bench, 1));
    let of_companion = || uhci.cell.lock().read(0, 0x12, AccessSize::Word) & 1;
    assert_eq!((of_companion(), read(&ehci.cell, 0x70)), (1, port::OWNER | port::POWER));
    write(&ehci.cell, 0x60, 1);
    let taken = port::POWER | port::CONNECTED | port::CONNECT_CHANGE;
    assert_eq!((of_companion(), read(&ehci.cell, 0x70)), (0, taken));
    // A device without high speed is not enabled by a reset, and goes back.
    write(&ehci.cell, 0x70, port::RESET | port::POWER);
    write(&ehci.cell, 0x70, port::POWER);
    assert_eq!(read(&ehci.cell, 0x70) & port::ENABLED, 0);
    write(&ehci.cell, 0x70, port::OWNER | port::POWER);
    assert_eq!((of_companion(), read(&ehci.cell, 0x70) & port::CONNECTED), (1, 0));
}

/// Port 0 with a reset device; a queue that reads the device descriptor of `address`.
fn control_read(bench: &Bench, ehci: &EhciCell, address: u32) {
    ehci.plug(0, tablet(bench, 2));
    enable(&ehci.cell);
    write(&ehci.cell, 0x60, 1);
    write(&ehci.cell, 0x64, port::RESET | port::POWER);
    write(&ehci.cell, 0x64, port::POWER);
    let transfer =
        |pid: u32, toggle: u32, len: u32, more: u32| toggle << 31 | len << 16 | 3 << 10 | pid << 8 | 0x80 | more;
    bench.store(0x2000, &[0x2002, 64 << 16 | 1 << 15 | 1 << 14 | 2 << 12 | address, 1 << 30, 0, 0x3000, 1]);
    bench.store(0x2018, &[0; 6]);
    bench.store(0x3000, &[0x3040, 1, transfer(2, 0, 8, 0), 0x4000, 0, 0, 0, 0]);
    bench.store(0x3040, &[0x3080, 1, transfer(1, 1, 64, 0), 0x5ffc, 0x6000, 0, 0, 0]);
    bench.store(0x3080, &[1, 1, transfer(0, 1, 0, 1 << 15), 0, 0, 0, 0, 0]);
    bench.store(0x4000, &[0x0100_0680, 0x0040_0000]);
    write(&ehci.cell, 0x28, 3);
    write(&ehci.cell, 0x38, 0x2000);
    write(&ehci.cell, 0x20, command::RUN | command::ASYNC);
    bench.clock.step(FRAME);
}

#[test]
fn asynchronous_queue_moves_data_over_pages_and_interrupts() {
    let bench = Bench::new();
    let ehci = controller(&bench);
    control_read(&bench, &ehci, 0);
    assert_eq!(bench.bytes(0x5ffc, 4), [18, 1, 0, 2]);
    assert_eq!(bench.bytes(0x6000, 4), [0, 0, 0, 64]);
    assert_eq!(bench.word(0x3048) >> 16 & 0x7fff, 64 - 18, "what was not moved");
    assert_eq!(bench.word(0x3088) & 0x80, 0, "the last one is done");
    assert!(bench.pin.level());
    assert_eq!(read(&ehci.cell, 0x24) & 3, status::INTERRUPT);
    write(&ehci.cell, 0x24, 0x3f);
    assert!(!bench.pin.level());
}

#[test]
fn queue_of_nobody_is_halted() {
    let bench = Bench::new();
    let ehci = controller(&bench);
    control_read(&bench, &ehci, 9);
    assert_eq!(bench.word(0x2018) & 0xff, 0x48, "halted, transaction error");
    assert_eq!(read(&ehci.cell, 0x24) & 3, status::ERROR);
}

#[test]
fn laws_hold_under_random_accesses() {
    for seed in 0..8 {
        let bench = Bench::new();
        let (ehci, uhci) = (controller(&bench), companion(&bench));
        ehci.add_companion(&uhci, 0).expect("free ports");
        ehci.plug(0, tablet(&bench, 1));
        ehci.plug(2, tablet(&bench, 2));
        laws(&bench, &ehci.cell, 0x80, seed);
    }
}
