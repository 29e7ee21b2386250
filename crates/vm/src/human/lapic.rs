//! `info lapic`: a local APIC's registers, as QEMU prints them (names and bits: SDM vol. 3, chapter 11).

use std::fmt::Write as _;

use ::hmp::Arguments;
use machine::ApicState;

use super::{Human, Outcome};

// Strings take everything: results of `write!` are not looked at.

/// `info lapic [apic-id]`
pub fn info(human: &mut Human<'_>, arguments: &Arguments) -> Outcome {
    let machine = human.control.machine();
    let index = match arguments.number("apic-id") {
        // The identity is that of the processor's place.
        Some(id) => (0..machine.cpu_slots().len())
            .find(|index| machine.local_apic(*index).is_some_and(|(state, _)| i64::from(state.id) == id)),
        None => Some(human.cpu()),
    };
    match index.and_then(|index| Some((index, machine.local_apic(index)?))) {
        Some((index, (state, count))) => show(index, &state, count).into(),
        None => "No local APIC\n".to_owned().into(),
    }
}

const MODES: [&str; 8] = ["Fixed", "...", "SMI", "...", "NMI", "INIT", "...", "ExtINT"];
const TIMERS: [&str; 4] = ["one-shot", "periodic", "tsc-deadline", "..."];

fn entry(name: &str, value: u32, is_timer: bool) -> String {
    let bit = |at: u32| value >> at & 1 == 1;
    let mode = (value >> 8 & 7) as usize;
    let mut shown = format!(
        "{name}\t {value:#010x} {} {:<5} {:<6} {:<7} {:<12} {:<6}",
        if bit(13) { "active-lo" } else { "active-hi" },
        if bit(15) { "level" } else { "edge" },
        if bit(16) { "masked" } else { "" },
        if bit(12) { "pending" } else { "" },
        if is_timer { TIMERS[(value >> 17 & 3) as usize] } else { "" },
        MODES[mode],
    );
    if mode == 0 {
        let _ = write!(shown, " (vec {})", value & 0xff);
    }
    shown.push('\n');
    shown
}

/// The vectors of a set; which of them are level-triggered.
fn vectors(name: &str, set: &[u32], level: &[u32]) -> String {
    let has = |set: &[u32], vector: usize| set.get(vector / 32).is_some_and(|word| word >> (vector % 32) & 1 == 1);
    let mut shown = format!("{name}\t ");
    let mut is_empty = true;
    for vector in (0..256).filter(|vector| has(set, *vector)) {
        let _ = write!(shown, "{vector}{} ", if has(level, vector) { "(level)" } else { "" });
        is_empty = false;
    }
    shown + if is_empty { "(none)\n" } else { "\n" }
}

/// Whom the last message between processors was for.
fn destination(state: &ApicState) -> String {
    let (low, high) = (state.icr as u32, (state.icr >> 32) as u32);
    let is_x2apic = state.base >> 10 & 1 == 1;
    if low >> 18 & 3 != 0 {
        return String::new();
    }
    let kind = if is_x2apic { "X2APIC ID" } else { "APIC ID" };
    let to = if is_x2apic { high } else { high >> 24 };
    match (low >> 11 & 1, is_x2apic, state.dfr >> 28) {
        (0, ..) => format!(" cpu {to} ({kind})"),
        (_, true, _) => format!(" cluster {} mask {:016b} ({kind})", to >> 16, to & 0xffff),
        (_, false, 0) => format!(" cluster {} mask {:04b} ({kind})", to >> 4, to & 0xf),
        _ => format!(" mask {to:08b} ({kind})"),
    }
}

fn show(index: usize, state: &ApicState, count: u32) -> String {
    let [timer, thermal, performance, lint0, lint1, error] = state.lvt;
    let mut shown = format!("dumping local APIC state for CPU {index:<2}\n\n");
    for (name, value) in
        [("LVT0", lint0), ("LVT1", lint1), ("LVTPC", performance), ("LVTERR", error), ("LVTTHMR", thermal)]
    {
        shown += &entry(name, value, false);
    }
    shown += &entry("LVTT", timer, true);
    // Bits 0, 1 and 3 say by which power of two it is divided, 7 by none.
    let divide = state.divide & 0xb;
    let power = (divide >> 1 & 4 | divide & 3) + 1;
    let _ = writeln!(
        shown,
        "Timer\t DCR={divide:#x} (divide by {}) initial_count = {} current_count = {count}",
        1 << (power % 8),
        state.initial_count
    );
    let svr = state.svr;
    let _ = writeln!(
        shown,
        "SPIV\t {svr:#010x} APIC {}, focus={}, spurious vec {}",
        if svr >> 8 & 1 == 1 { "enabled" } else { "disabled" },
        if svr >> 9 & 1 == 1 { "on" } else { "off" },
        svr & 0xff
    );
    let icr = state.icr as u32;
    let _ = writeln!(
        shown,
        "ICR\t {icr:#010x} {} {} {} {}",
        if icr >> 11 & 1 == 1 { "logical" } else { "physical" },
        if icr >> 15 & 1 == 1 { "level" } else { "edge" },
        if icr >> 14 & 1 == 1 { "assert" } else { "de-assert" },
        ["no-shorthand", "self", "all-self", "all"][(icr >> 18 & 3) as usize]
    );
    let _ = writeln!(shown, "ICR2\t {:#010x}{}", (state.icr >> 32) as u32, destination(state));
    let _ = writeln!(shown, "ESR\t {:#010x}", state.esr);
    shown += &vectors("ISR", &state.isr, &state.tmr);
    shown += &vectors("IRR", &state.irr, &state.tmr);
    let (ldr, dfr) = (state.ldr >> 24, state.dfr >> 28);
    let _ = writeln!(shown, "\nAPR 0x00 TPR {:#04x} DFR {dfr:#04x} LDR {ldr:#04x} PPR {:#04x}", state.tpr, state.ppr());
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_printed_as_qemu_prints_them() {
        let mut state = ApicState::power_on(0, true);
        state.lvt[0] = 0x2_0030;
        state.lvt[3] = 0x700;
        state.svr = 0x1ff;
        state.divide = 0xb;
        state.icr = 0x0300_0000_000c_44fd;
        state.isr[1] = 1 << 3;
        state.tmr[1] = 1 << 3;
        let shown = show(0, &state, 7);
        for line in [
            "LVT0\t 0x00000700 active-hi edge                              ExtINT\n",
            "LVTT\t 0x00020030 active-hi edge                 periodic     Fixed  (vec 48)\n",
            "LVTPC\t 0x00010000 active-hi edge  masked                      Fixed  (vec 0)\n",
            "Timer\t DCR=0xb (divide by 1) initial_count = 0 current_count = 7\n",
            "SPIV\t 0x000001ff APIC enabled, focus=off, spurious vec 255\n",
            "ICR\t 0x000c44fd physical edge assert all\nICR2\t 0x03000000\nESR\t 0x00000000\n",
            "ISR\t 35(level) \nIRR\t (none)\n\nAPR 0x00 TPR 0x00 DFR 0x0f LDR 0x00 PPR 0x20\n",
        ] {
            assert!(shown.contains(line), "{line:?} is not in\n{shown}");
        }
    }
}
