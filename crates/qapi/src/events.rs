//! The events of the run state (QEMU's `run-state.json`).

use crate::run_state::{ShutdownCause, WatchdogAction};
use crate::{Event, QapiType};

/// The guest was stopped.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "STOP")]
pub struct Stop;

/// The guest runs again.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "RESUME")]
pub struct Resume;

/// The machine was reset.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "RESET")]
pub struct Reset {
    /// Whether the guest wanted it.
    pub guest: bool,
    /// Who wanted it.
    pub reason: ShutdownCause,
}

/// The machine shuts down.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "SHUTDOWN")]
pub struct Shutdown {
    /// Whether the guest wanted it.
    pub guest: bool,
    /// Who wanted it.
    pub reason: ShutdownCause,
}

/// The power button was pressed.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "POWERDOWN")]
pub struct Powerdown;

/// The guest suspended to RAM.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "SUSPEND")]
pub struct Suspend;

/// The guest suspended to disk and switched off.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "SUSPEND_DISK")]
pub struct SuspendDisk;

/// The guest woke up from suspension to RAM.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "WAKEUP")]
pub struct Wakeup;

/// The guest opened or closed a port of a virtio console.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "VSERPORT_CHANGE", rate_limit_ms = 1000, rate_key = "id")]
pub struct VserportChange {
    /// The port's id.
    pub id: String,
    /// Whether it is open.
    pub open: bool,
}

/// The guest set its real-time clock.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "RTC_CHANGE", rate_limit_ms = 1000)]
pub struct RtcChange {
    /// Seconds that the guest's clock is ahead of the machine's time of day.
    pub offset: i64,
    /// The clock in the object tree.
    pub qom_path: String,
}

/// A watchdog bit.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "WATCHDOG", rate_limit_ms = 1000)]
pub struct Watchdog {
    /// What is done.
    pub action: WatchdogAction,
}

/// What happens when the guest's system panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QapiType)]
pub enum GuestPanicAction {
    /// The guest is stopped.
    Pause,
    /// The machine is switched off.
    Poweroff,
    /// Nothing.
    Run,
}

/// The panic of a guest that speaks Hyper-V's protocol: the contents of its crash registers.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[expect(missing_docs, reason = "the registers have no meaning of their own")]
pub struct GuestPanicInformationHyperV {
    pub arg1: u64,
    pub arg2: u64,
    pub arg3: u64,
    pub arg4: u64,
    pub arg5: u64,
}

/// Why an s390x guest crashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QapiType)]
pub enum S390CrashReason {
    /// Not known.
    Unknown,
    /// A wait that no interrupt ends.
    DisabledWait,
    /// External interrupts without end.
    ExtintLoop,
    /// Program interrupts without end.
    PgmintLoop,
    /// Operation exceptions without end.
    OpintLoop,
}

/// The crash of an s390x guest.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct GuestPanicInformationS390 {
    /// The CPU's number.
    pub core: u32,
    /// The control fields of the program status word.
    pub psw_mask: u64,
    /// The address of the program status word.
    pub psw_addr: u64,
    /// The reason.
    pub reason: S390CrashReason,
}

/// What is known about a panic.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "type")]
pub enum GuestPanicInformation {
    /// From Hyper-V's crash registers.
    HyperV(GuestPanicInformationHyperV),
    /// From an s390x CPU.
    S390(GuestPanicInformationS390),
}

/// The guest's system panicked.
#[derive(Debug, Clone, PartialEq, Event)]
#[event(name = "GUEST_PANICKED")]
pub struct GuestPanicked {
    /// What was done then.
    pub action: GuestPanicAction,
    /// What is known about it.
    pub info: Option<GuestPanicInformation>,
}
