//! `human-monitor-command`: what the human monitor would print.

use qapi::machine::HumanMonitorCommand;
use qmp::SessionContext;

use super::Table;
use crate::human;

/// The command of this subject.
pub fn register(table: &mut Table) {
    table.register_deferred::<HumanMonitorCommand>(|control, context, wanted, reply| {
        // Each line has a monitor of its own: nothing that it chooses stays.
        let mut context = SessionContext::of(context);
        if let Some(index) = wanted.cpu_index {
            let index = u32::try_from(index).ok().filter(|index| control.machine().cpu(*index as usize).is_some());
            let Some(index) = index else {
                return reply.send(Err(qapi::Error::expects("cpu-index", "a CPU number")));
            };
            context.set_default_cpu(index);
        }
        let done = Box::new(|text: String| reply.send(Ok(text.replace('\n', "\r\n"))));
        human::execute(control, &mut context, &wanted.command_line, done);
    });
}
