//! What a guest asks of the program around it. The control thread acts on these before anything else.

use std::sync::Arc;

pub use devices_chipset::acpi_pm::WakeReason;

/// Something that the guest (or its hardware) did and that only the control thread can act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    /// The guest asks for a reset: keyboard controller, port 0xcf9, port 0x92, or a triple fault.
    Reset,
    /// The guest powered off (ACPI S5).
    Shutdown,
    /// The guest set its clock.
    ClockChanged {
        /// Seconds that it is ahead of the machine's time of day.
        offset: i64,
    },
    /// A vCPU has stopped for a debugger.
    Debug {
        /// Which.
        cpu: usize,
    },
    /// The guest opened or closed a port of a virtio console.
    PortChanged {
        /// The port's id.
        id: String,
        /// Whether it is open.
        open: bool,
    },
    /// The clock's alarm went off, which wakes a suspended guest that asked for it.
    Alarm,
    /// The guest suspends to RAM (ACPI S3).
    Suspend,
    /// The guest suspends to disk (ACPI S4): it has stored its memory and switches off.
    SuspendToDisk,
    /// The guest's operating system reports that it crashed.
    Panicked {
        /// Whether it goes on to load a crash kernel.
        crash_loaded: bool,
    },
    /// A watchdog's time is over.
    Watchdog,
    /// The guest let PCI functions or vCPUs go.
    Unplugged,
    /// The guest's operating system tells how it went with a vCPU that came or shall leave.
    CpuReport {
        /// The vCPU's index.
        cpu: usize,
        /// What it is about: a notification, or an event of the system's own.
        event: u32,
        /// How it went: 0 is well.
        status: u32,
    },
    /// `isa-debug-exit`: end the process with this status.
    DebugExit(i32),
    /// A vCPU can't go on: the accelerator met something that it can't run.
    InternalError {
        /// The vCPU's index.
        cpu: usize,
        /// What happened.
        text: String,
    },
}

/// Where guest events go. Called from vCPU threads and with device locks held, so it must not wait for anything.
pub type GuestEvents = Arc<dyn Fn(GuestEvent) + Send + Sync>;
