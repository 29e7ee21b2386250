//! The control thread: sole owner of the machine and its run state.
//!
//! It takes one item at a time from its [`Inbox`] and never waits for I/O. Every change of the run state happens here,
//! with its event emitted in the same step and before the reply of the command that caused it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chardev::Chardevs;
use display::Console;
use machine::config::MachineConfig;
use machine::event::{GuestEvent, WakeReason};
use machine::{Machine, MachineError};
use qapi::device::AcpiDeviceOst;
use qapi::events::{self, GuestPanicAction};
use qapi::run_state::{RunState, ShutdownCause};
use qmp::{EventSink, FdSets, Reply};

use crate::config::{Actions, PanicAction, RebootAction, ShutdownAction, WatchdogAction};
use crate::hotplug::DeviceSource;
use crate::inbox::{Inbox, Item};
use crate::log;
use crate::mouse::SerialPointers;
use crate::run_state::RunStates;
use crate::snapshot::Snapshot;
use crate::spice::Spice;
use crate::storage::{Storage, StorageOwner};
use crate::terminals::Terminals;
use crate::vnc::Vnc;

/// What the control thread shares with the monitors.
pub struct SharedState {
    /// Where events go.
    pub events: EventSink,
    /// What monitors answer from.
    pub snapshot: Arc<Snapshot>,
    /// Whether there is no configured machine yet.
    pub preconfig: Arc<AtomicBool>,
    /// Descriptors that clients passed; unused ones are closed only while the guest runs.
    pub fd_sets: FdSets,
    /// The character devices.
    pub chardevs: Arc<Chardevs>,
    /// Mice and tablets at the other end of character devices.
    pub mice: Arc<SerialPointers>,
    /// Terminals on screens of their own.
    pub terminals: Arc<Terminals>,
    /// Where others leave work for this thread.
    pub inbox: Arc<Inbox<Control>>,
    /// The commands, for monitors of people.
    pub table: Arc<crate::handlers::Table>,
}

/// The control thread's state.
pub struct Control {
    machine: Machine,
    states: RunStates,
    actions: Actions,
    shared: SharedState,
    storage: Storage,
    vnc: Vnc,
    spice: Spice,
    source: DeviceSource,
    /// What is left to do before there is a machine (`--preconfig`).
    preconfig: Option<Preconfig>,
    /// The server for gdb, which wants to know when the machine stops.
    gdb: Option<Arc<crate::gdb::Gdb>>,
    /// The format of `x` and its like that was used last.
    human_format: ::hmp::Format,
    /// The program ends with this status.
    ended: Option<i32>,
    /// Who asked for the end.
    asker: Option<Reply<()>>,
}

/// Builds the machine once it is configured.
pub type BuildMachine = Box<dyn FnOnce(&MachineConfig, &mut Storage) -> Result<Machine, MachineError>>;

/// A machine that clients still configure.
pub struct Preconfig {
    /// The machine so far.
    pub config: MachineConfig,
    /// Builds it, and tells those that have to know it.
    pub build: BuildMachine,
    /// The guest starts once it is built.
    pub autostart: bool,
}

impl StorageOwner for Control {
    fn storage(&mut self) -> &mut Storage {
        &mut self.storage
    }

    fn guest_time(&self) -> u64 {
        self.machine.now()
    }

    fn change_vnc(&mut self, target: &str, argument: Option<&str>) -> Result<(), qapi::Error> {
        match (target, argument) {
            ("password" | "passwd", Some(password)) => self.vnc.set_password(None, password),
            ("password" | "passwd", None) => Err(qapi::Error::missing_parameter("password")),
            _ => self.vnc.change(target),
        }
    }
}

impl Control {
    /// Takes over a machine that has been built and reset.
    pub fn new(
        machine: Machine,
        storage: Storage,
        actions: Actions,
        shared: SharedState,
        source: DeviceSource,
    ) -> Self {
        let control = Self {
            machine,
            states: RunStates::new(),
            actions,
            shared,
            storage,
            vnc: Vnc::default(),
            spice: Spice::default(),
            source,
            preconfig: None,
            gdb: None,
            human_format: ::hmp::Format::default(),
            ended: None,
            asker: None,
        };
        control.log_reset();
        control
    }

    /// Lets clients configure another machine, which takes this one's place (`--preconfig`).
    pub fn wait_for_preconfig(&mut self, preconfig: Preconfig) {
        self.preconfig = Some(preconfig);
    }

    /// The machine that clients configure, and the objects that they have made.
    pub fn preconfig(&mut self) -> Option<(&mut MachineConfig, &mut Storage)> {
        let config = self.preconfig.as_mut().map(|preconfig| &mut preconfig.config)?;
        Some((config, &mut self.storage))
    }

    /// Builds the configured machine, and starts it unless it shall wait. When it can't be built the program ends.
    ///
    /// # Errors
    /// There is a machine already.
    pub fn leave_preconfig(&mut self) -> Result<(), qapi::Error> {
        let Some(preconfig) = self.preconfig.take() else {
            return Err(qapi::Error::generic("The command is permitted only before machine initialization"));
        };
        let Preconfig { config, build, autostart } = preconfig;
        match build(&config, &mut self.storage) {
            Ok(machine) => {
                self.machine = machine;
                self.screens_changed();
                self.shared.preconfig.store(false, Ordering::Release);
                self.log_reset();
                if autostart {
                    return self.resume();
                }
            }
            Err(error) => {
                eprintln!("{error}");
                self.ended = Some(1);
            }
        }
        Ok(())
    }

    fn log_reset(&self) {
        if log::is_on(log::LogItem::CpuReset) {
            crate::cpu_log::registers(self.machine.vcpus());
        }
    }

    /// Serves the inbox until the program shall end; returns its exit status.
    pub fn run(&mut self, inbox: &Inbox<Control>) -> i32 {
        loop {
            match inbox.take() {
                Item::Guest(event) => self.guest_event(event),
                Item::Terminate { signal } => {
                    eprintln!("terminating on signal {signal}");
                    self.end(ShutdownCause::HostSignal, 0);
                }
                Item::Leave => self.end(ShutdownCause::HostUi, 0),
                Item::Request(request) => request(self),
            }
            if let Some(status) = self.ended {
                self.machine.stop();
                // Waiting requests of the guest end, so that nothing below is in use.
                self.storage.drop_requests();
                self.storage.end_work();
                if let Some(asker) = self.asker.take() {
                    asker.send(Ok(()));
                }
                self.storage.close();
                return status;
            }
        }
    }

    /// A character device is no more: nor is what was at its other end in this program.
    pub fn chardev_gone(&mut self, id: &str) {
        self.shared.mice.forget(id);
        if self.shared.terminals.forget(id) {
            self.screens_changed();
        }
    }

    /// There are other screens than before.
    pub fn screens_changed(&mut self) {
        self.vnc.attach((&self.machine, &self.shared.terminals));
        self.spice.attach(&self.machine);
    }

    /// The screens: the machine's, then terminals. The first is meant where none is named.
    pub fn consoles(&self) -> Vec<Arc<Console>> {
        self.shared.terminals.behind(self.machine.consoles())
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The machine and the block layer, to change.
    pub fn machine_and_storage(&mut self) -> (&mut Machine, &mut Storage) {
        (&mut self.machine, &mut self.storage)
    }

    /// What devices that come later are made of.
    pub fn device_source(&self) -> &DeviceSource {
        &self.source
    }

    /// Where events go.
    pub fn events(&self) -> &EventSink {
        &self.shared.events
    }

    /// The machine, to change.
    pub fn machine_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// Runs a QMP command for the program itself; see [`qmp::CommandTable::call`].
    pub fn call(
        &mut self,
        context: &mut qmp::SessionContext,
        name: &str,
        arguments: qapi::json::Map,
        done: impl FnOnce(Result<qapi::json::Value, qapi::Error>) + Send + 'static,
    ) {
        let (table, snapshot) = (Arc::clone(&self.shared.table), Arc::clone(&self.shared.snapshot));
        table.call((self, &snapshot), context, name, arguments, done);
    }

    /// The graph of block nodes.
    pub fn storage_graph(&self) -> &Arc<block::Graph> {
        self.storage.graph()
    }

    /// The reactor of the block layer's requests.
    pub fn storage_reactor(&self) -> aio::Handle {
        self.storage.reactor()
    }

    /// The descriptors that clients have passed.
    pub fn fd_sets(&self) -> &FdSets {
        &self.shared.fd_sets
    }

    /// What monitors may ask for without this thread.
    pub fn snapshot(&self) -> &Snapshot {
        &self.shared.snapshot
    }

    /// The character devices.
    pub fn chardevs(&self) -> &Arc<Chardevs> {
        &self.shared.chardevs
    }

    /// The VNC servers.
    pub fn vnc(&self) -> &Vnc {
        &self.vnc
    }

    /// The VNC servers, with the objects that they use.
    pub fn vnc_and_storage(&self) -> (&Vnc, &Storage) {
        (&self.vnc, &self.storage)
    }

    /// The SPICE server.
    pub fn spice(&self) -> &Spice {
        &self.spice
    }

    /// Takes over the servers for remote displays.
    pub fn set_displays(&mut self, vnc: Vnc, spice: Spice) {
        (self.vnc, self.spice) = (vnc, spice);
    }

    /// The run state.
    pub fn states(&self) -> &RunStates {
        &self.states
    }

    /// Lets the guest run: `cont`. Nothing happens when it runs already.
    ///
    /// # Errors
    /// The machine needs a reset first.
    pub fn resume(&mut self) -> Result<(), qapi::Error> {
        self.resume_debugged(true)
    }

    /// The same for a debugger, which may let guest time stand.
    ///
    /// # Errors
    /// The machine needs a reset first.
    pub fn resume_debugged(&mut self, with_time: bool) -> Result<(), qapi::Error> {
        if self.states.is_running() || self.states.current() == RunState::Suspended {
            return Ok(());
        }
        if self.states.needs_reset() {
            return Err(qapi::Error::generic("Resetting the Virtual Machine is required"));
        }
        self.change(RunState::Running);
        self.shared.events.emit(events::Resume);
        log::VM_STATE_NOTIFY.emit(format_args!("running 1 reason 9 (running)"));
        self.storage.resume_requests();
        if with_time {
            self.machine.start();
        } else {
            self.machine.start_without_time();
        }
        Ok(())
    }

    /// Stops the guest if it runs, and says why in the run state. Its disks are flushed meanwhile.
    pub fn stop(&mut self, state: RunState) {
        self.stop_at(state, None);
    }

    /// Starts to tell `gdb` when the machine stops; returns who was told before.
    pub fn set_gdb(&mut self, gdb: Option<Arc<crate::gdb::Gdb>>) -> Option<Arc<crate::gdb::Gdb>> {
        std::mem::replace(&mut self.gdb, gdb)
    }

    /// The format of `x` and its like that was used last, by whatever monitor.
    pub fn human_format(&mut self) -> &mut ::hmp::Format {
        &mut self.human_format
    }

    /// The server for gdb.
    pub fn gdb(&self) -> Option<&Arc<crate::gdb::Gdb>> {
        self.gdb.as_ref()
    }

    /// Whether there is no configured machine yet.
    pub fn awaits_preconfig(&self) -> bool {
        self.preconfig.is_some()
    }

    /// Where others leave work for this thread.
    pub fn inbox(&self) -> &Arc<Inbox<Self>> {
        &self.shared.inbox
    }

    /// Stops the guest if it runs, and `done` is told on the control thread when everything is on stable storage, also of
    /// a guest that stood already.
    pub fn stop_and_flush(&mut self, state: RunState, done: impl FnOnce() + Send + 'static) {
        self.halt(state, None);
        self.storage.flush(done);
    }

    fn stop_at(&mut self, state: RunState, cpu: Option<usize>) {
        if self.states.is_running() {
            self.halt(state, cpu);
            self.storage.flush(|| ());
        }
    }

    fn halt(&mut self, state: RunState, cpu: Option<usize>) {
        if !self.states.is_running() {
            return;
        }
        self.machine.stop();
        self.change(state);
        self.shared.events.emit(events::Stop);
        log::VM_STATE_NOTIFY.emit(format_args!("running 0 reason {state:?}"));
        if let Some(gdb) = self.gdb.clone() {
            gdb.stopped(self, state, cpu);
        }
    }

    /// Resets the machine, as its reset button does. A machine that does not run waits in `prelaunch` afterwards.
    pub fn reset(&mut self, cause: ShutdownCause) {
        log::SYSTEM_RESET_REQUEST.emit(format_args!("reason={cause:?}"));
        if self.actions.reboot == RebootAction::Shutdown {
            self.shutdown(cause);
            return;
        }
        self.machine.stop();
        self.storage.drop_requests();
        self.storage.drain();
        self.remove_pending();
        self.machine.reset();
        self.log_reset();
        self.shared.events.emit(events::Reset { guest: cause.is_guest(), reason: cause });
        if self.states.is_running() {
            self.machine.start();
        } else {
            self.change(RunState::Prelaunch);
        }
    }

    /// The machine was switched off: the program ends, or the machine stays stopped with `-no-shutdown`.
    pub fn shutdown(&mut self, cause: ShutdownCause) {
        log::SYSTEM_SHUTDOWN_REQUEST.emit(format_args!("reason={cause:?}"));
        if self.actions.shutdown == ShutdownAction::Poweroff {
            self.end(cause, 0);
            return;
        }
        self.emit_shutdown(cause);
        self.stop(RunState::Shutdown);
    }

    /// Ends the program, whatever `-no-shutdown` says.
    pub fn end(&mut self, cause: ShutdownCause, status: i32) {
        self.emit_shutdown(cause);
        self.ended = Some(status);
    }

    /// The program ends. `asker` gets its reply behind the ends of exports and jobs.
    pub fn quit(&mut self, asker: Reply<()>) {
        self.end(ShutdownCause::HostQmpQuit, 0);
        self.asker = Some(asker);
    }

    /// Presses the power button.
    pub fn powerdown(&mut self) {
        log::SYSTEM_POWERDOWN_REQUEST.emit(format_args!(""));
        self.machine.press_power_button();
        self.shared.events.emit(events::Powerdown);
    }

    /// The guest suspends to RAM: its processors stand, time goes on.
    fn suspend(&mut self) {
        if !self.states.is_running() {
            return;
        }
        self.machine.suspend();
        self.change(RunState::Suspended);
        self.shared.events.emit(events::Suspend);
    }

    /// Wakes a suspended guest up: `system_wakeup`, an alarm.
    ///
    /// # Errors
    /// The guest is not suspended, or can't be.
    pub fn wake(&mut self, reason: WakeReason) -> Result<(), qapi::Error> {
        if !self.machine.can_suspend() {
            return Err(qapi::Error::generic("wake-up from suspend is not supported by this guest"));
        }
        if self.states.current() != RunState::Suspended {
            return Err(qapi::Error::generic("Unable to wake up: guest is not in suspended state"));
        }
        self.storage.drop_requests();
        self.storage.drain();
        self.change(RunState::Running);
        self.machine.wake(reason);
        self.shared.events.emit(events::Wakeup);
        Ok(())
    }

    fn emit_shutdown(&self, cause: ShutdownCause) {
        self.shared.events.emit(events::Shutdown { guest: cause.is_guest(), reason: cause });
    }

    fn guest_event(&mut self, event: GuestEvent) {
        match event {
            GuestEvent::Debug { cpu } => self.stop_at(RunState::Debug, Some(cpu)),
            GuestEvent::Reset => self.reset(ShutdownCause::GuestReset),
            GuestEvent::ClockChanged { offset } => {
                self.shared.events.emit(events::RtcChange { offset, qom_path: self.machine.rtc_path().to_owned() });
            }
            GuestEvent::PortChanged { id, open } => {
                self.shared.events.emit(events::VserportChange { id, open });
            }
            GuestEvent::Unplugged => self.remove_ejected(),
            GuestEvent::CpuReport { cpu, event, status } => {
                let id = self.machine.cpu_reports().into_iter().nth(cpu).and_then(|(id, _)| id);
                let info = crate::handlers::device::cpu_report(cpu, id, machine::CpuReport { event, status });
                self.shared.events.emit(AcpiDeviceOst { info });
            }
            GuestEvent::Suspend => self.suspend(),
            GuestEvent::Alarm => {
                if self.states.current() == RunState::Suspended && self.machine.wakes_by_alarm() {
                    // It is suspended, so it can be.
                    let _woken = self.wake(WakeReason::Rtc);
                }
            }
            GuestEvent::SuspendToDisk => {
                self.shared.events.emit(events::SuspendDisk);
                self.shutdown(ShutdownCause::GuestShutdown);
            }
            GuestEvent::Shutdown => self.shutdown(ShutdownCause::GuestShutdown),
            GuestEvent::Panicked { crash_loaded } => self.guest_panicked(crash_loaded),
            GuestEvent::Watchdog => self.watchdog_bites(),
            GuestEvent::DebugExit(status) => {
                // The guest chose this status: no SHUTDOWN event, as in QEMU.
                self.ended = Some(status);
            }
            GuestEvent::InternalError { cpu, text } => {
                eprintln!("vCPU {cpu} can't go on: {text}");
                self.stop(RunState::InternalError);
            }
        }
    }

    /// What happens from now on when the guest is reset, ends or panics, or a watchdog bites.
    pub fn actions(&mut self) -> &mut Actions {
        &mut self.actions
    }

    fn watchdog_bites(&mut self) {
        let action = self.actions.watchdog;
        self.shared.events.emit(events::Watchdog { action });
        match action {
            WatchdogAction::Reset => self.reset(ShutdownCause::GuestReset),
            WatchdogAction::Shutdown => self.powerdown(),
            // As in QEMU: at once, without a SHUTDOWN event.
            WatchdogAction::Poweroff => self.ended = Some(0),
            WatchdogAction::Pause => self.stop(RunState::Watchdog),
            WatchdogAction::Debug => eprintln!("watchdog: timer fired"),
            WatchdogAction::None => {}
            WatchdogAction::InjectNmi => self.machine.inject_nmi(),
        }
    }

    fn guest_panicked(&mut self, crash_loaded: bool) {
        let panicked = |action| events::GuestPanicked { action, info: None };
        if crash_loaded {
            // The guest goes on with its crash kernel: that is no event of this specification's era.
            return;
        }
        let pauses = self.actions.shutdown == ShutdownAction::Pause;
        match self.actions.panic {
            PanicAction::Pause => {
                self.shared.events.emit(panicked(GuestPanicAction::Pause));
                self.stop(RunState::GuestPanicked);
            }
            PanicAction::Shutdown if pauses => {
                self.shared.events.emit(panicked(GuestPanicAction::Pause));
                self.stop(RunState::GuestPanicked);
            }
            PanicAction::Shutdown => self.end_by_panic(0),
            PanicAction::ExitFailure => self.end_by_panic(1),
            PanicAction::None => self.shared.events.emit(panicked(GuestPanicAction::Run)),
        }
    }

    fn end_by_panic(&mut self, status: i32) {
        self.shared.events.emit(events::GuestPanicked { action: GuestPanicAction::Poweroff, info: None });
        self.stop(RunState::GuestPanicked);
        self.end(ShutdownCause::GuestPanic, status);
    }

    /// Changes the run state and publishes it. The callers go only where the table allows.
    fn change(&mut self, state: RunState) {
        let changed = self.states.change(state);
        assert!(changed.is_ok(), "the control thread's own transition is in the table: {changed:?}");
        self.shared.snapshot.set_state(state);
        self.shared.fd_sets.set_guest_runs(state == RunState::Running);
    }
}
