//! Whether the guest runs, and who wants it to (QEMU's `run-state.json` and parts of `misc.json`).

use crate::{Command, QapiType};

/// The states of a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum RunState {
    /// Stopped by the debugger.
    Debug,
    /// Waits for an incoming migration.
    Inmigrate,
    /// Stopped by an internal error; the guest cannot go on.
    InternalError,
    /// Stopped by an I/O error, as the device is configured to.
    IoError,
    /// Stopped by the command `stop`.
    Paused,
    /// Stopped after a migration to elsewhere.
    Postmigrate,
    /// Not started yet (`-S`).
    Prelaunch,
    /// Stopped for the last part of a migration.
    FinishMigrate,
    /// Stopped while a saved state is loaded.
    RestoreVm,
    /// Runs.
    Running,
    /// Stopped while its state is saved.
    SaveVm,
    /// Has shut down (`-no-shutdown`).
    Shutdown,
    /// Sleeps (ACPI S3).
    Suspended,
    /// Stopped by the watchdog.
    Watchdog,
    /// Stopped because the guest's system panicked.
    GuestPanicked,
    /// Stopped to save or load a checkpoint of COLO.
    Colo,
}

/// Why the machine shuts down or resets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum ShutdownCause {
    /// Nobody asked.
    None,
    /// An error of the host side.
    HostError,
    /// The command `quit`.
    HostQmpQuit,
    /// The command `system_reset`.
    HostQmpSystemReset,
    /// A signal.
    HostSignal,
    /// The user interface, such as a closed window.
    HostUi,
    /// The guest switched itself off.
    GuestShutdown,
    /// The guest reset itself.
    GuestReset,
    /// The guest's system panicked.
    GuestPanic,
    /// A part of the machine that is reset by itself.
    SubsystemReset,
    /// A snapshot was loaded.
    SnapshotLoad,
}

impl ShutdownCause {
    /// Whether the guest is the cause, as the events' member `guest` says.
    #[must_use]
    pub const fn is_guest(self) -> bool {
        matches!(self, Self::GuestShutdown | Self::GuestReset | Self::GuestPanic)
    }
}

/// What happens when the guest asks for a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum RebootAction {
    /// It is reset.
    Reset,
    /// As after a shutdown.
    Shutdown,
}

/// What happens when the guest switches itself off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum ShutdownAction {
    /// The program ends.
    Poweroff,
    /// The machine stops and stays.
    Pause,
}

/// What happens when the guest's system panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum PanicAction {
    /// The machine stops and stays.
    Pause,
    /// As after a shutdown.
    Shutdown,
    /// The program ends with status 1.
    ExitFailure,
    /// Nothing.
    None,
}

/// What happens when a watchdog bites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum WatchdogAction {
    /// The machine is reset.
    Reset,
    /// The power button is pressed.
    Shutdown,
    /// The program ends.
    Poweroff,
    /// The machine stops.
    Pause,
    /// A line on standard error.
    Debug,
    /// Nothing.
    None,
    /// A non-maskable interrupt.
    InjectNmi,
}

/// Sets what happens on events of the guest; those that are absent stay.
#[derive(Debug, Clone, PartialEq, Eq, Command)]
#[command(name = "set-action", preconfig)]
pub struct SetAction {
    /// On a reset.
    pub reboot: Option<RebootAction>,
    /// On a shutdown.
    pub shutdown: Option<ShutdownAction>,
    /// On a panic.
    pub panic: Option<PanicAction>,
    /// On a bite of a watchdog.
    pub watchdog: Option<WatchdogAction>,
}

/// Sets what happens when a watchdog bites.
#[derive(Debug, Clone, PartialEq, Eq, Command)]
#[command(name = "watchdog-set-action")]
pub struct WatchdogSetAction {
    /// What.
    pub action: WatchdogAction,
}

/// Whether the guest runs.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct StatusInfo {
    /// Whether the virtual CPUs may run.
    pub running: bool,
    /// Whether the virtual CPUs go by single instructions.
    pub singlestep: bool,
    /// The state in detail.
    pub status: RunState,
}

/// Tells whether the guest runs.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-status", returns = StatusInfo, preconfig)]
pub struct QueryStatus;

/// Stops the guest.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "stop")]
pub struct Stop;

/// Lets the guest run. Before an incoming migration is complete it only notes the wish.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "cont")]
pub struct Cont;

/// Resets the machine.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "system_reset")]
pub struct SystemReset;

/// Presses the power button; the guest decides what that means.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "system_powerdown")]
pub struct SystemPowerdown;

/// Wakes a suspended guest up.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "system_wakeup")]
pub struct SystemWakeup;

/// Sends a non-maskable interrupt to the guest's CPUs.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "inject-nmi")]
pub struct InjectNmi;
