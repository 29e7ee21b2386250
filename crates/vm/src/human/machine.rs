//! Topics of `info` about the machine's memory, interrupt controllers and viewers.

use std::fmt::Write as _;

use ::hmp::Arguments;
use machine::IoApicInfo;
use memory::Backing;
use qapi::json::Value;

use super::info::each;
use super::{Human, Outcome, text};

// Strings take everything: results of `write!` are not looked at.

/// `info mtree`: the flat views, whether they are asked for or not, since there is no other tree.
pub fn mtree(human: &mut Human<'_>, _: &Arguments) -> Outcome {
    let mut shown = String::new();
    for (number, (name, view)) in human.control.machine().address_spaces().into_iter().enumerate() {
        let root = if name == "memory" { "system" } else { "io" };
        let _ = writeln!(shown, "FlatView #{number}\n AS \"{name}\", root: {root}\n Root memory region: {root}");
        for range in view.ranges() {
            let _ = write!(shown, "  {:016x}-{:016x} (prio 0, ", range.start, range.last);
            let _ = match &range.backing {
                Backing::Ram { block, offset, read_only } => {
                    let kind = match (*read_only, range.writes.is_some()) {
                        (false, _) => "ram",
                        (true, false) => "rom",
                        (true, true) => "romd",
                    };
                    let at = offset + range.region_offset;
                    let place = if at > 0 { format!(" @{at:016x}") } else { String::new() };
                    writeln!(shown, "{kind}): {}{place}", block.name())
                }
                Backing::Io(_) => writeln!(shown, "i/o)"),
            };
        }
        shown.push('\n');
    }
    shown.into()
}

/// What `info pic` shows of an I/O APIC.
fn ioapic((number, ioapic): (usize, &IoApicInfo)) -> String {
    let mut shown = format!("ioapic{number}: ver=0x20 id=0x{:02x} sel=0x{:02x}", ioapic.id, ioapic.select);
    if ioapic.select != 0 {
        let _ = write!(shown, " (redir[{}])", u32::from(ioapic.select).wrapping_sub(0x10) >> 1);
    }
    shown.push('\n');
    let mut remote = 0_u32;
    for (pin, entry) in ioapic.redirection.iter().enumerate() {
        const MODES: [&str; 8] = ["fixed", "lowest", "SMI", "...", "NMI", "INIT", "...", "extINT"];
        let bit = |at: u32| entry >> at & 1 == 1;
        let (is_logical, is_level) = (bit(11), bit(15));
        let _ = writeln!(
            shown,
            "  pin {pin:<2} {entry:#018x} dest={:x} vec={:<3} {} {:<5} {:<6} {:<6} {}",
            entry >> 56 & if is_logical { 0xff } else { 0xf },
            entry & 0xff,
            if bit(13) { "active-lo" } else { "active-hi" },
            if is_level { "level" } else { "edge" },
            if bit(16) { "masked" } else { "" },
            MODES[(entry >> 8 & 7) as usize],
            if is_logical { "logical" } else { "physical" }
        );
        remote |= u32::from(is_level && bit(14)) << pin;
    }
    for (name, pins) in [("  IRR", ioapic.irr), ("  Remote IRR", remote)] {
        let _ = write!(shown, "{name:<10} ");
        if pins == 0 {
            shown.push_str("(none)");
        }
        for pin in (0..24).filter(|pin| pins >> pin & 1 == 1) {
            let _ = write!(shown, "{pin:<2} ");
        }
        shown.push('\n');
    }
    shown
}

/// `info pic`
pub fn pic(human: &mut Human<'_>, _: &Arguments) -> Outcome {
    let (ioapics, pic) = human.control.machine().interrupt_controllers();
    if ioapics.is_empty() && pic.is_none() {
        return "The interrupt controllers are the accelerator's\n".to_owned().into();
    }
    let mut shown: String = ioapics.iter().enumerate().map(ioapic).collect();
    for (number, chip) in pic.as_ref().map_or(&[][..], |chips| &chips[..]).iter().enumerate().rev() {
        let _ = writeln!(
            shown,
            "pic{number}: irr={:02x} imr={:02x} isr={:02x} hprio={} irq_base={:02x} rr_sel={} elcr={:02x} fnm={}",
            chip.irr,
            chip.imr,
            chip.isr,
            chip.highest,
            chip.irq_base,
            u8::from(chip.reads_isr),
            chip.elcr,
            u8::from(chip.is_fully_nested)
        );
    }
    shown.into()
}

/// `info vnc`, of what `query-vnc-servers` tells.
pub fn vnc(servers: &Value) -> String {
    fn end(of: &Value, name: &str) -> String {
        let websocket = if text(of, "websocket") == "true" { " (Websocket)" } else { "" };
        format!("  {name}: {}:{} ({}{websocket})\n", text(of, "host"), text(of, "service"), text(of, "family"))
    }
    fn or_none(of: &Value, name: &str) -> String {
        let found = text(of, name);
        if found.is_empty() { "none".into() } else { found }
    }
    fn security(of: &Value, indent: &str) -> String {
        format!("{indent}Auth: {} (Sub: {})\n", text(of, "auth"), or_none(of, "vencrypt"))
    }
    if servers.as_array().unwrap_or_default().is_empty() {
        return "None\n".into();
    }
    each(servers, |server| {
        let mut shown = format!("{}:\n", text(server, "id"));
        let list = |name: &str| server.get(name).and_then(Value::as_array).unwrap_or_default();
        for address in list("server") {
            shown += &(end(address, "Server") + &security(address, "    "));
        }
        for client in list("clients") {
            shown += &end(client, "Client");
            for name in ["x509_dname", "sasl_username"] {
                let _ = writeln!(shown, "    {name}: {}", or_none(client, name));
            }
        }
        if list("server").is_empty() {
            shown += &security(server, "  ");
        }
        if server.get("display").is_some() {
            let _ = writeln!(shown, "  Display: {}", text(server, "display"));
        }
        shown
    })
}

/// `info spice`, of what `query-spice` tells.
pub fn spice(server: &Value) -> String {
    if text(server, "enabled") != "true" {
        return "Server: disabled\n".into();
    }
    let mut shown = "Server:\n".to_owned();
    for (name, mark) in [("port", ""), ("tls-port", " [tls]")] {
        if server.get(name).is_some() {
            let _ = writeln!(shown, "     address: {}:{}{mark}", text(server, "host"), text(server, name));
        }
    }
    for (label, name) in [
        ("   migrated", "migrated"),
        ("       auth", "auth"),
        ("   compiled", "compiled-version"),
        (" mouse-mode", "mouse-mode"),
    ] {
        let _ = writeln!(shown, " {label}: {}", text(server, name));
    }
    let channels = server.get("channels").and_then(Value::as_array).unwrap_or_default();
    if channels.is_empty() {
        shown.push_str("Channels: none\n");
    }
    for channel in channels {
        let mark = if text(channel, "tls") == "true" { " [tls]" } else { "" };
        let kind = text(channel, "channel-type");
        let name = match kind.as_str() {
            "1" => "main",
            "2" => "display",
            "3" => "inputs",
            "4" => "cursor",
            _ => "unknown",
        };
        let _ = writeln!(shown, "Channel:\n     address: {}:{}{mark}", text(channel, "host"), text(channel, "port"));
        let _ = writeln!(shown, "     session: {}", text(channel, "connection-id"));
        let _ = writeln!(shown, "     channel: {kind}:{}", text(channel, "channel-id"));
        let _ = writeln!(shown, "     channel name: {name}");
    }
    shown
}
