//! `human-monitor-command`: what the human monitor would print, as far as it exists: some `info` commands.

use std::fmt::Write as _;

use qapi::machine::HumanMonitorCommand;
use qapi::run_state::RunState;

use super::Table;
use crate::control::Control;

/// A command: its words, what it is for, and what it prints.
struct HumanCommand {
    words: &'static str,
    help: &'static str,
    run: fn(&mut Control) -> String,
}

const COMMANDS: &[HumanCommand] = &[
    HumanCommand { words: "info kvm", help: "show KVM information", run: kvm },
    HumanCommand { words: "info numa", help: "show NUMA information", run: numa },
    HumanCommand { words: "info status", help: "show the current VM status", run: status },
    HumanCommand { words: "info version", help: "show the version", run: version },
    HumanCommand { words: "help", help: "show the help", run: |_| help() },
];

/// The command of this subject.
pub fn register(table: &mut Table) {
    table.register::<HumanMonitorCommand>(|control, context, wanted| {
        if let Some(index) = wanted.cpu_index {
            let index = u32::try_from(index).ok().filter(|index| control.machine().cpu(*index as usize).is_some());
            context.set_default_cpu(index.ok_or_else(|| qapi::Error::expects("cpu-index", "a CPU number"))?);
        }
        Ok(execute(control, &wanted.command_line))
    });
}

fn execute(control: &mut Control, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some(first) = words.first() else { return String::new() };
    if let Some(command) = COMMANDS.iter().find(|command| command.words.split(' ').eq(words.iter().copied())) {
        return (command.run)(control);
    }
    let is_known = |count: usize| {
        let begins =
            |command: &HumanCommand| command.words.split(' ').take(count).eq(words.iter().copied().take(count));
        COMMANDS.iter().any(begins)
    };
    // As QEMU says it: the words that it did not understand.
    let unknown =
        if is_known(1) { words.iter().take(2).copied().collect::<Vec<_>>().join(" ") } else { (*first).to_owned() };
    format!("unknown command: '{unknown}'\r\n")
}

fn help() -> String {
    let mut text = String::new();
    for command in COMMANDS {
        // Writing to a String can't fail.
        let _ = write!(text, "{}  -- {}\r\n", command.words, command.help);
    }
    text
}

fn version(_: &mut Control) -> String {
    format!("{}{}\r\n", crate::version::EMULATED, crate::version::package())
}

fn kvm(control: &mut Control) -> String {
    let is_used = control.machine().accelerator().name() == "kvm";
    format!("kvm support: {}\r\n", if is_used { "enabled" } else { "disabled" })
}

fn status(control: &mut Control) -> String {
    let state = control.states().current();
    match state {
        RunState::Running => "VM status: running\r\n".to_owned(),
        other => {
            let name = qapi::schema::Enumeration::name(other);
            format!(
                "VM status: paused{}\r\n",
                if other == RunState::Paused { String::new() } else { format!(" ({name})") }
            )
        }
    }
}

fn numa(control: &mut Control) -> String {
    const MIB: u64 = 1 << 20;
    let machine = control.machine();
    let nodes = machine.node_memory();
    let mut text = format!("{} nodes\r\n", nodes.len());
    for (number, memory) in nodes.iter().enumerate() {
        let _ = write!(text, "node {number} cpus:");
        for (index, slot) in machine.cpu_slots().iter().enumerate() {
            if machine.cpu(index).is_some() && slot.node.map(usize::from) == Some(number) {
                let _ = write!(text, " {index}");
            }
        }
        let _ = write!(text, "\r\nnode {number} size: {} MB\r\nnode {number} plugged: 0 MB\r\n", memory / MIB);
    }
    text
}
