//! Starting, stopping, resetting and ending.

use machine::event::WakeReason;
use qapi::control::Quit;
use qapi::machine::{CurrentMachineParams, QueryCurrentMachine};
use qapi::run_state::{
    Cont, InjectNmi, QueryStatus, RunState, SetAction, ShutdownCause, Stop, SystemPowerdown, SystemReset, SystemWakeup,
    WatchdogSetAction,
};

use super::Table;

/// The commands of this subject.
pub fn register(table: &mut Table) {
    table.register_snapshot::<QueryStatus>(|snapshot, _, _| Ok(snapshot.status()));
    table.register_deferred::<Stop>(|control, _, _, reply| {
        control.stop_and_flush(RunState::Paused, move || reply.send(Ok(())));
    });
    table.register::<Cont>(|control, _, _| control.resume());
    table.register_deferred::<Quit>(|control, _, _, reply| control.quit(reply));
    table.register::<SystemReset>(|control, _, _| {
        control.reset(ShutdownCause::HostQmpSystemReset);
        Ok(())
    });
    table.register::<SystemPowerdown>(|control, _, _| {
        control.powerdown();
        Ok(())
    });
    table.register::<SystemWakeup>(|control, _, _| control.wake(WakeReason::Other));
    table.register::<QueryCurrentMachine>(|control, _, _| {
        Ok(CurrentMachineParams { wakeup_suspend_support: control.machine().can_suspend() })
    });
    table.register::<SetAction>(|control, _, wanted| {
        let actions = control.actions();
        let SetAction { reboot, shutdown, panic, watchdog } = wanted;
        actions.reboot = reboot.unwrap_or(actions.reboot);
        actions.shutdown = shutdown.unwrap_or(actions.shutdown);
        actions.panic = panic.unwrap_or(actions.panic);
        actions.watchdog = watchdog.unwrap_or(actions.watchdog);
        Ok(())
    });
    table.register::<WatchdogSetAction>(|control, _, wanted| {
        control.actions().watchdog = wanted.action;
        Ok(())
    });
    table.register::<InjectNmi>(|control, _, _| {
        control.machine().inject_nmi();
        Ok(())
    });
}
