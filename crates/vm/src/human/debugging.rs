//! What is written down about the guest's execution, and where its memory is on the host.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ::hmp::Arguments;
use accel::{MachineCheck, MachineCheckOutcome};
use machine::Machine;
use memory::{Backing, RamBlock};

use super::{Command, Human, Outcome, command, silent};
use crate::cpu_log;
use crate::log::{self, LogConfig};

/// The commands.
pub const COMMANDS: &[Command] = &[
    command("log", "items:s", "item1[,...]", "write down these items, or none", |human, arguments| {
        set_items(human, arguments.required("items"))
    }),
    command("logfile", "filename:F", "filename", "write the log to a file", |_, arguments| {
        match log::open(Path::new(arguments.required("filename"))) {
            Ok(()) => silent(),
            Err(error) => format!("{error}\n").into(),
        }
    }),
    command("singlestep", "option:s?", "[on|off]", "execute one instruction a block", |human, arguments| {
        let is_on = match arguments.text("option") {
            Some("on") | None => true,
            Some("off") => false,
            Some(other) => return format!("unexpected option {other}\n").into(),
        };
        if human.control.machine().accelerator().name() != "tcg" {
            return "only the software CPU executes blocks\n".to_owned().into();
        }
        human.control.snapshot().set_singlestep(is_on);
        cpu_log::follow_again(human.control.machine().vcpus());
        silent()
    }),
    command(
        "mce",
        "broadcast:-b,cpu_index:i,bank:i,status:l,mcg_status:l,addr:l,misc:l",
        "[-b] cpu bank status mcgstatus addr misc",
        "inject a machine check into a CPU, and let the others know (-b)",
        machine_check,
    ),
    command("gpa2hva", "addr:l", "addr", "show where guest-physical memory is in this program", |human, arguments| {
        let address = arguments.number("addr").unwrap_or(0).cast_unsigned();
        let shown = ram_at(human.control.machine(), address)
            .map(|(name, at)| format!("Host virtual address for {address:#x} ({name}) is {at:#x}\n"));
        shown.unwrap_or_else(|message| message).into()
    }),
    command("gpa2hpa", "addr:l", "addr", "show where guest-physical memory is in the host's", |human, arguments| {
        let address = arguments.number("addr").unwrap_or(0).cast_unsigned();
        let shown = ram_at(human.control.machine(), address).and_then(|(name, at)| {
            let frame = host_frame(at)?;
            Ok(format!("Host physical address for {address:#x} ({name}) is {frame:#x}\n"))
        });
        shown.unwrap_or_else(|message| message).into()
    }),
];

/// Whether every CPU learns of a machine check of one of them (SDM vol. 3, section 16.10.4.1).
fn broadcasts(machine: &Machine) -> bool {
    let identity = machine.config().cpu_model.identity();
    identity.family > 6 || (identity.family == 6 && identity.model >= 14)
}

/// `mce`
fn machine_check(human: &mut Human<'_>, arguments: &Arguments) -> Outcome {
    /// MCG_STATUS: MCIP and RIPV.
    const ELSEWHERE_GLOBAL: u64 = 1 << 2 | 1;
    /// MCi_STATUS: VAL and UC.
    const ELSEWHERE: u64 = 1 << 63 | 1 << 61;
    let number = |name| arguments.number(name).unwrap_or(0).cast_unsigned();
    let machine = human.control.machine();
    let Ok(cpu) = usize::try_from(number("cpu_index")) else { return silent() };
    if machine.cpu(cpu).is_none() {
        return silent();
    }
    let check = MachineCheck {
        bank: usize::try_from(number("bank")).unwrap_or(usize::MAX),
        status: number("status"),
        global_status: number("mcg_status"),
        address: number("addr"),
        misc: number("misc"),
    };
    let is_everywhere = arguments.flag("broadcast");
    if is_everywhere && !broadcasts(machine) {
        return "Guest CPU does not support MCA broadcast\n".to_owned().into();
    }
    let inject = |index: usize, check: MachineCheck| {
        let outcome = machine.vcpus().with(index, move |cpu| cpu.machine_check(&check));
        match outcome.unwrap_or(MachineCheckOutcome::Unsupported) {
            MachineCheckOutcome::Reported => Ok(String::new()),
            MachineCheckOutcome::Unsupported => Err("MCE injection not supported\n".to_owned()),
            MachineCheckOutcome::NoBank => Err("Invalid MCE bank number\n".to_owned()),
            MachineCheckOutcome::NoStatus => Err("Invalid MCE status code\n".to_owned()),
            MachineCheckOutcome::Disabled => Ok(format!("CPU {index}: Uncorrected error reporting disabled\n")),
            MachineCheckOutcome::BankDisabled => {
                Ok(format!("CPU {index}: Uncorrected error reporting disabled for bank {}\n", check.bank))
            }
            MachineCheckOutcome::NotEnabled => {
                Ok(format!("CPU {index}: MCE capability is not enabled, raising triple fault\n"))
            }
            MachineCheckOutcome::StillInProgress => {
                Ok(format!("CPU {index}: Previous MCE still in progress, raising triple fault\n"))
            }
        }
    };
    let mut told = match inject(cpu, check) {
        Ok(told) => told,
        Err(message) => return message.into(),
    };
    if is_everywhere {
        let elsewhere =
            MachineCheck { bank: 1, status: ELSEWHERE, global_status: ELSEWHERE_GLOBAL, address: 0, misc: 0 };
        for other in (0..machine.vcpus().count()).filter(|other| *other != cpu && machine.cpu(*other).is_some()) {
            told += &inject(other, elsewhere).unwrap_or_else(|message| message);
        }
    }
    told.into()
}

/// `log`: these items from now on, and no others; trace events are switched by themselves.
fn set_items(human: &Human<'_>, list: &str) -> Outcome {
    if list.split(',').any(|item| item == "trace:help") {
        return log::trace_help().into();
    }
    let (traces, items): (Vec<&str>, Vec<&str>) = list.split(',').partition(|item| item.starts_with("trace:"));
    let mut wanted = LogConfig::default();
    if list != "none" && (list.is_empty() || wanted.add_items(&items.join(",")).is_err()) {
        return log::monitor_help().into();
    }
    let mut told = String::new();
    for pattern in traces.iter().filter_map(|item| item.strip_prefix("trace:")) {
        let (is_on, pattern) = pattern.strip_prefix('-').map_or((true, pattern), |pattern| (false, pattern));
        match log::events(pattern) {
            Ok(events) => events.into_iter().for_each(|event| event.set_enabled(is_on)),
            Err(_) => told += &format!("warning: trace event '{pattern}' does not exist\n"),
        }
    }
    log::set_items(&wanted.items);
    cpu_log::follow_again(human.control.machine().vcpus());
    told.into()
}

/// The RAM or ROM that the guest has at a physical address: its name, and where this program has it.
fn ram_at(machine: &Machine, address: u64) -> Result<(String, u64), String> {
    let [(_, view), _] = machine.address_spaces();
    let range = view.find(address).ok_or_else(|| format!("No memory is mapped at address {address:#x}\n"))?;
    let Backing::Ram { block, offset, .. } = &range.backing else {
        return Err(format!("Memory at address {address:#x} is not RAM\n"));
    };
    let offset = offset + range.region_offset + (address - range.start);
    Ok((block.name().to_owned(), host_address(block, offset)))
}

fn host_address(block: &RamBlock, offset: u64) -> u64 {
    block.host_base().as_ptr() as u64 + offset
}

/// The physical address behind an address of this program, as the kernel tells it (Documentation/admin-guide/mm/pagemap).
fn host_frame(address: u64) -> Result<u64, String> {
    /// Of hosts that this program runs on.
    const PAGE: u64 = 4096;
    const ENTRY: u64 = 8;
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    let words = |what: &str, error: &std::io::Error| {
        format!("Cannot {what} /proc/self/pagemap: {}\n", crate::host_error(error))
    };
    let map = File::open("/proc/self/pagemap").map_err(|error| words("open", &error))?;
    let mut entry = [0; ENTRY as usize];
    map.read_exact_at(&mut entry, address / PAGE * ENTRY).map_err(|error| words("read", &error))?;
    let entry = u64::from_le_bytes(entry);
    match entry & PRESENT {
        0 => Err("Page not present\n".into()),
        _ => Ok((entry & FRAME) * PAGE + address % PAGE),
    }
}
