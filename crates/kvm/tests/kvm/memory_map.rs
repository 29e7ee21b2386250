//! Memory slots: ROM, changes of the map under a running guest, and the log of stores.

use std::sync::Arc;
use std::time::Duration;

use accel::{Accelerator, Signal, VcpuExit};
use kvm::IrqchipMode;
use memory::{Backing, GuestAddress, RamBlock};

use crate::support::Machine;

#[test]
fn rom_runs_and_drops_stores() {
    #[rustfmt::skip]
    let code = [
        0xb8, 0x00, 0xe0,             // mov ax, 0xe000
        0x8e, 0xd8,                   // mov ds, ax
        0xc7, 0x06, 0x00, 0x01, 0x34, 0x12, // mov word [0x100], 0x1234
        0x50, 0x50, 0xcb,             // to be overwritten below
    ];
    let Some(mut machine) = Machine::new("rom", IrqchipMode::Off, &code) else { return };
    let rom = Arc::new(RamBlock::new("rom", 0x2000).expect("ROM"));
    rom.write(0x100, &[0x78, 0x56]);
    // In the ROM: out 0xf4, al; hlt.
    rom.write(0x200, &[0xe6, 0xf4, 0xf4]);
    let backing = Backing::Ram { block: Arc::clone(&rom), offset: 0, read_only: true };
    machine.memory.map(GuestAddress(0xe_0000), 0x2000, 1, backing).expect("ROM");
    // jmp 0xe000:0x0200
    machine.load(0x100b, &[0xea, 0x00, 0x02, 0x00, 0xe0]);
    assert_eq!(machine.run(), VcpuExit::Stopped);
    assert_eq!(machine.vcpu.registers().segments[1].base, 0xe_0000);
    assert_eq!(machine.word(0xe_0100), 0x5678);
}

#[test]
fn change_of_the_map_reaches_a_running_guest() {
    #[rustfmt::skip]
    let code = [
        0xa1, 0x00, 0x30,             // again: mov ax, [0x3000]
        0x3d, 0x00, 0x00,             // cmp ax, 0
        0x74, 0xf8,                   // je again
        0xba, 0x00, 0x03, 0xef,       // out 0x300, ax
        0xe6, 0xf4,                   // out 0xf4, al
        0xf4,                         // hlt
    ];
    let Some(mut machine) = Machine::new("change_of_the_map", IrqchipMode::Off, &code) else { return };
    let other = Arc::new(RamBlock::new("other", 0x1000).expect("RAM"));
    other.write(0, &[0xcd, 0xab]);
    let memory = Arc::clone(&machine.memory);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            let backing = Backing::Ram { block: other, offset: 0, read_only: false };
            memory.map(GuestAddress(0x3000), 0x1000, 5, backing).expect("map");
        });
        assert_eq!(machine.run(), VcpuExit::Stopped);
    });
    assert_eq!(machine.test_ports.written(), [0xabcd]);
    assert_eq!(machine.accelerator.memory_slots(), 4, "RAM around the page and the device, and the page");
}

#[test]
fn guest_code_survives_that_its_slot_is_replaced() {
    // inc cx; jmp back, in the slot that each change takes away and gives back.
    let Some(mut machine) = Machine::new("slot_is_replaced", IrqchipMode::Off, &[0x41, 0xeb, 0xfd]) else { return };
    let other = Arc::new(RamBlock::new("other", 0x1000).expect("RAM"));
    let (memory, signals) = (Arc::clone(&machine.memory), Arc::clone(&machine.signals));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let backing = Backing::Ram { block: other, offset: 0, read_only: false };
            let page = memory.map(GuestAddress(0x5000), 0x1000, 5, backing).expect("map");
            for round in 0..100 {
                memory.update(page, GuestAddress(0x5000), round % 2 == 0).expect("update");
                std::thread::sleep(Duration::from_micros(200));
            }
            signals.raise(Signal::STOP);
        });
        assert_eq!(machine.run(), VcpuExit::Stopped);
    });
    assert!((0x1000..0x1003).contains(&machine.vcpu.registers().rip));
}

#[test]
fn unaligned_ram_is_reached_through_exits() {
    #[rustfmt::skip]
    let code = [
        0xb8, 0x00, 0xe0, 0x8e, 0xd8, // mov ax, 0xe000; mov ds, ax
        0xa1, 0x10, 0x08,             // mov ax, [0x810]
        0xa3, 0x20, 0x08,             // mov [0x820], ax
        0xe6, 0xf4, 0xf4,             // out 0xf4, al; hlt
    ];
    let Some(mut machine) = Machine::new("unaligned_ram", IrqchipMode::Off, &code) else { return };
    // Half a page over RAM: no slot can show it.
    let piece = Arc::new(RamBlock::new("piece", 0x1000).expect("RAM"));
    piece.write(0x10, &[0x21, 0x43]);
    let backing = Backing::Ram { block: Arc::clone(&piece), offset: 0, read_only: false };
    machine.memory.map(GuestAddress(0xe_0800), 0x800, 3, backing).expect("map");
    assert_eq!(machine.run(), VcpuExit::Stopped);
    assert_eq!(piece.load_u16(0x20), Some(0x4321));
}

#[test]
fn log_of_stores_tells_the_pages() {
    #[rustfmt::skip]
    let code = [
        0xb8, 0x00, 0x20, 0x8e, 0xd8, // again: mov ax, 0x2000; mov ds, ax
        0xc6, 0x06, 0x34, 0x12, 0x01, // mov byte [0x1234], 1
        0xc6, 0x06, 0x00, 0x50, 0x01, // mov byte [0x5000], 1
        0xa1, 0x00, 0x90,             // mov ax, [0x9000]
        0xe6, 0xf4,                   // out 0xf4, al
        0xeb, 0xea,                   // jmp again
    ];
    let Some(mut machine) = Machine::new("log_of_stores", IrqchipMode::Off, &code) else { return };
    let log = machine.accelerator.dirty_log().expect("log");
    let dirty = |machine: &Machine| {
        let mut pages = vec![0; machine.ram.len() / 4096 / 64];
        log.take(&machine.ram, &mut pages).expect("log");
        (0..pages.len() * 64).filter(|page| pages[page / 64] >> (page % 64) & 1 != 0).collect::<Vec<_>>()
    };
    assert_eq!(machine.run(), VcpuExit::Stopped);
    assert_eq!(dirty(&machine), [], "nothing is logged");
    log.start().expect("log");
    assert_eq!(dirty(&machine), [], "clean at first");
    assert_eq!(machine.run(), VcpuExit::Stopped);
    assert_eq!(dirty(&machine), [0x21, 0x25]);
    assert_eq!(dirty(&machine), [], "taken");
    assert_eq!(machine.run(), VcpuExit::Stopped);
    // A change of the map keeps what was logged in the slots that it replaces.
    let other = Arc::new(RamBlock::new("other", 0x1000).expect("RAM"));
    let backing = Backing::Ram { block: Arc::clone(&other), offset: 0, read_only: false };
    let page = machine.memory.map(GuestAddress(0x2_5000), 0x1000, 5, backing).expect("map");
    assert_eq!(dirty(&machine), [0x21, 0x25]);
    assert_eq!(machine.run(), VcpuExit::Stopped);
    assert_eq!(dirty(&machine), [0x21]);
    let mut pages = [0];
    log.take(&other, &mut pages).expect("log");
    assert_eq!(pages, [1]);
    machine.memory.unmap(page).expect("unmap");
    log.stop().expect("log");
    assert_eq!(machine.run(), VcpuExit::Stopped);
    assert_eq!(dirty(&machine), []);
}
