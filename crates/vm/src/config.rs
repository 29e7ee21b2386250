//! What the program was asked for, beside the machine itself.

use chardev::ChardevSpec;
use machine::config::MachineConfig;
use qapi::machine::CommandLineOptionInfo;
pub use qapi::run_state::{PanicAction, RebootAction, ShutdownAction, WatchdogAction};
use qapi::vnc::{DisplayKind, DisplayOptions};

use crate::hotplug::{DeviceHelp, DeviceParser, DriveParser};
use crate::qtest::QtestConfig;
pub use crate::spice::SpiceConfig;
use crate::storage::StorageConfig;
pub use crate::vnc::VncConfig;

/// `-action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actions {
    /// `reboot=`
    pub reboot: RebootAction,
    /// `shutdown=`
    pub shutdown: ShutdownAction,
    /// `panic=`
    pub panic: PanicAction,
    /// `watchdog=`
    pub watchdog: WatchdogAction,
}

impl Default for Actions {
    fn default() -> Self {
        Self {
            reboot: RebootAction::Reset,
            shutdown: ShutdownAction::Poweroff,
            panic: PanicAction::Shutdown,
            watchdog: WatchdogAction::Reset,
        }
    }
}

/// A monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorConfig {
    /// The character device it speaks on.
    pub chardev: String,
    /// Whether replies are spread over lines.
    pub pretty: bool,
    /// It is for a person, not for QMP.
    pub is_human: bool,
}

/// Everything that the command line says.
#[derive(Clone, Debug)]
pub struct VmConfig {
    /// The guest's name.
    pub name: Option<String>,
    /// The machine's UUID.
    pub uuid: [u8; 16],
    /// The machine.
    pub machine: MachineConfig,
    /// What to do when the guest ends.
    pub actions: Actions,
    /// Whether the guest starts at once; otherwise it waits for `cont` (`-S`).
    pub autostart: bool,
    /// Whether clients configure the machine further before it is built (`--preconfig`).
    pub preconfig: bool,
    /// The character devices.
    pub chardevs: Vec<ChardevSpec>,
    /// Objects, block nodes and drives.
    pub storage: StorageConfig,
    /// The qtest server.
    pub qtest: Option<QtestConfig>,
    /// Reads the properties of devices that clients add.
    pub devices: DeviceParser,
    /// Tells which devices there are, and what properties they have.
    pub device_help: DeviceHelp,
    /// Reads the drives that clients add.
    pub drives: DriveParser,
    /// The character device of the server for gdb.
    pub gdb: Option<crate::gdb::Line>,
    /// The monitors.
    pub monitors: Vec<MonitorConfig>,
    /// The VNC servers.
    pub vnc: Vec<VncConfig>,
    /// The SPICE server.
    pub spice: Option<SpiceConfig>,
    /// The web console.
    pub web: Option<web::Options>,
    /// The display on this host (`-display`).
    pub display: DisplayOptions,
    /// The layout of the guest's keyboard (`-k`).
    pub keyboard: Option<String>,
    /// What `query-command-line-options` tells.
    pub options: Vec<CommandLineOptionInfo>,
}

impl VmConfig {
    /// Whether the screen is shown on the terminal that the program was started in.
    pub fn has_curses(&self) -> bool {
        matches!(self.display.kind, DisplayKind::Curses(_))
    }
}
