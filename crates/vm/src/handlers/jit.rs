//! What is told as text: statistics of the software CPU's translator, in the lines that QEMU has for its own; and what the
//! human monitor shows of the machine.

use std::fmt::Write as _;

use ::machine::Machine;
use accel::TranslatorStats;
use qapi::Error;
use qapi::machine::{HumanReadableText, XQueryIrq, XQueryJit, XQueryNuma, XQueryRamblock, XQueryRoms, XQueryUsb};

use super::Table;
use crate::human::readable as shown;

/// The commands of this subject.
pub fn register(table: &mut Table) {
    table.register::<XQueryJit>(|control, _, _| {
        let machine = control.machine();
        if machine.accelerator().name() != "tcg" {
            return Err(Error::generic("JIT information is only available with accel=tcg"));
        }
        Ok(readable(text(&total(machine))))
    });
    table.register::<XQueryIrq>(|control, _, _| Ok(readable(shown::irq(control.machine()))));
    table.register::<XQueryNuma>(|control, _, _| Ok(readable(shown::numa(control.machine()))));
    table.register::<XQueryRamblock>(|control, _, _| Ok(readable(shown::ramblock(control.machine()))));
    table.register::<XQueryRoms>(|control, _, _| Ok(readable(shown::roms(control.machine()))));
    table.register::<XQueryUsb>(|control, _, _| {
        let devices = control.machine().usb_devices();
        let devices = devices.ok_or_else(|| Error::generic("USB support not enabled"))?;
        Ok(readable(shown::usb(&devices)))
    });
}

fn readable(human_readable_text: String) -> HumanReadableText {
    HumanReadableText { human_readable_text }
}

/// The sum over all vCPUs; zeros where nothing is translated.
fn total(machine: &Machine) -> TranslatorStats {
    let mut total = TranslatorStats::default();
    for index in 0..machine.vcpus().count() {
        if let Some(Some(stats)) = machine.vcpus().with(index, |cpu| cpu.translator_stats()) {
            total.add(&stats);
        }
    }
    total
}

fn text(stats: &TranslatorStats) -> String {
    let average = |sum: u64| sum.checked_div(stats.regions).unwrap_or(0);
    let percent = |part: u64| (part * 100).checked_div(stats.regions).unwrap_or(0);
    // In tenths.
    let expansion = (stats.code_bytes * 10).checked_div(stats.guest_bytes).unwrap_or(0);
    let mut text = String::from("Translation buffer state:\n");
    let mut line = |name: &str, value: std::fmt::Arguments<'_>| {
        // Writing to a String can't fail.
        let _ = writeln!(text, "{name:<19} {value}");
    };
    line("gen code size", format_args!("{}/{}", stats.code_bytes, stats.code_capacity));
    line("TB count", format_args!("{}", stats.regions));
    line("TB blocks", format_args!("{} with {} instructions", stats.blocks, stats.guest_instructions));
    line("TB avg target size", format_args!("{} max={} bytes", average(stats.guest_bytes), stats.largest_region));
    let host = average(stats.code_bytes);
    line("TB avg host size", format_args!("{host} bytes (expansion ratio: {}.{})", expansion / 10, expansion % 10));
    line("cross page TB count", format_args!("{} ({}%)", stats.crossing_regions, percent(stats.crossing_regions)));
    line("direct jump count", format_args!("{}", stats.linked_exits));
    text.push_str("\nStatistics:\n");
    let mut line = |name: &str, value: u64| {
        let _ = writeln!(text, "{name:<19} {value}");
    };
    line("TB translate count", stats.translations);
    line("TB flush count", stats.flushes);
    line("TB invalidate count", stats.invalidations);
    line("TLB full flushes", stats.tlb_flushes);
    line("translation time us", stats.translation_ns / 1000);
    if stats.compared != 0 {
        line("lock-step runs", stats.compared);
        line("lock-step instructions", stats.compared_instructions);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_no_translations_has_zeros() {
        let text = text(&TranslatorStats::default());
        assert!(
            text.starts_with("Translation buffer state:\ngen code size       0/0\nTB count            0\n"),
            "{text}"
        );
        assert!(text.contains("TB avg host size    0 bytes (expansion ratio: 0.0)\n"), "{text}");
        assert!(text.contains("\n\nStatistics:\nTB translate count  0\n"), "{text}");
        assert!(!text.contains("lock-step"), "{text}");
    }

    #[test]
    fn text_shows_sizes_in_relation() {
        let stats = TranslatorStats {
            code_bytes: 5000,
            code_capacity: 1 << 20,
            regions: 10,
            guest_bytes: 2000,
            largest_region: 700,
            crossing_regions: 3,
            translation_ns: 7999,
            compared: 2,
            compared_instructions: 9,
            ..TranslatorStats::default()
        };
        let text = text(&stats);
        for line in [
            "gen code size       5000/1048576",
            "TB avg target size  200 max=700 bytes",
            "TB avg host size    500 bytes (expansion ratio: 2.5)",
            "cross page TB count 3 (30%)",
            "translation time us 7",
            "lock-step runs      2",
            "lock-step instructions 9",
        ] {
            assert!(text.lines().any(|other| other == line), "no {line:?} in\n{text}");
        }
    }
}
