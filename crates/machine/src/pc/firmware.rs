//! What firmware does with PCI functions before a kernel runs, where SeaBIOS does it: base address registers, interrupt
//! lines, decoding on.
//!
//! Ports are given out from 0xc000 up. Memory ends below the I/O APIC; the kind (prefetchable or not) with the smaller
//! alignment lies at the end, the other below it. In each, the largest register comes first.

use device::AccessSize;
use devices_chipset::ioapic::IOAPIC_BASE;
use devices_pci::bus::PinSwizzle;
use devices_pci::config::{command, reg};
use devices_pci::{Address, BarInfo, BarKind, FunctionInfo, PciBus};

const PORTS: u64 = 0xc000;
/// Memory registers are apart by pages at least.
const PAGE: u64 = 4096;
/// The interrupts of PIRQA to PIRQD, and of PIRQE to PIRQH.
const PIRQ: [u8; 4] = [10, 10, 11, 11];

/// One base address register to be placed.
#[derive(Clone, Copy)]
struct Wanted {
    address: Address,
    index: usize,
    kind: BarKind,
    size: u64,
}

/// Sets up all the functions of a root bus.
pub fn set_up_functions(bus: &PciBus, swizzle: PinSwizzle) {
    let functions = bus.functions();
    let all: Vec<Wanted> = functions.iter().flat_map(wanted).collect();
    place(bus, PORTS, &sorted(&all, |kind| kind == BarKind::Io));
    let prefetchable = sorted(&all, BarKind::is_prefetchable);
    let plain = sorted(&all, |kind| kind != BarKind::Io && !kind.is_prefetchable());
    let alignment = |list: &[Wanted]| list.first().map_or(1, |first| first.size);
    let (upper, lower) =
        if alignment(&plain) < alignment(&prefetchable) { (plain, prefetchable) } else { (prefetchable, plain) };
    let mut end = IOAPIC_BASE;
    for list in [upper, lower] {
        let total: u64 = list.iter().map(|bar| bar.size).sum();
        end = end.saturating_sub(total) & !(alignment(&list) - 1);
        place(bus, end, &list);
    }
    for function in functions.iter().filter(|function| !function.bars.is_empty()) {
        // Firmware drives what it may boot from.
        let is_storage = function.class >> 8 == 1;
        let master = if is_storage { command::MASTER } else { 0 };
        let on = command::IO | command::MEMORY | command::SERR | master;
        let command = bus.read_config(function.address, reg::COMMAND, AccessSize::Word) | u32::from(on);
        bus.write_config(function.address, reg::COMMAND, AccessSize::Word, command);
        if let Some(pin) = function.irq_pin.checked_sub(1) {
            let line = u32::from(PIRQ[swizzle(function.address.slot(), pin) & 3]);
            bus.write_config(function.address, reg::INTERRUPT_LINE, AccessSize::Byte, line);
        }
    }
}

fn wanted(function: &FunctionInfo) -> Vec<Wanted> {
    let want = |bar: &BarInfo| {
        let size = if bar.kind == BarKind::Io { bar.size } else { bar.size.max(PAGE) };
        Wanted { address: function.address, index: bar.index, kind: bar.kind, size }
    };
    function.bars.iter().map(want).collect()
}

/// Those of a kind, the largest first.
fn sorted(all: &[Wanted], is_kind: impl Fn(BarKind) -> bool) -> Vec<Wanted> {
    let mut list: Vec<Wanted> = all.iter().copied().filter(|bar| is_kind(bar.kind)).collect();
    list.sort_by_key(|bar| std::cmp::Reverse(bar.size));
    list
}

fn place(bus: &PciBus, mut at: u64, list: &[Wanted]) {
    for bar in list {
        let offset = if bar.kind == BarKind::Rom { reg::ROM } else { reg::BAR0 + 4 * bar.index as u8 };
        bus.write_config(bar.address, offset, AccessSize::Dword, at as u32);
        if bar.kind.is_64_bit() {
            bus.write_config(bar.address, offset + 4, AccessSize::Dword, (at >> 32) as u32);
        }
        at += bar.size;
    }
}
