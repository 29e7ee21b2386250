//! What monitors may answer without asking the control thread: state that it publishes, and facts that never change.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use machine::accelerator::AcceleratorConfig;
use qapi::control::{VersionInfo, VersionTriple};
use qapi::machine::CommandLineOptionInfo;
use qapi::run_state::{RunState, StatusInfo};
use qapi::vnc::DisplayOptions;
use x86::model::MachineVersion;

use crate::config::VmConfig;
use crate::version;

/// The published state.
pub struct Snapshot {
    state: RwLock<RunState>,
    /// `-name`.
    pub name: Option<String>,
    /// `-uuid`.
    pub uuid: [u8; 16],
    /// What runs the vCPUs.
    pub accelerator: AcceleratorConfig,
    singlestep: AtomicBool,
    /// The version of the machine's type.
    pub machine_version: MachineVersion,
    /// The display on this host.
    pub display: DisplayOptions,
    /// The command line's options.
    pub options: Vec<CommandLineOptionInfo>,
}

impl Snapshot {
    /// What is known before the machine exists.
    pub fn new(config: &VmConfig) -> Self {
        Self {
            state: RwLock::new(RunState::Prelaunch),
            name: config.name.clone(),
            uuid: config.uuid,
            accelerator: config.machine.accelerator.clone(),
            singlestep: AtomicBool::new(matches!(
                &config.machine.accelerator,
                AcceleratorConfig::Software(translator) if translator.one_insn_per_tb
            )),
            machine_version: config.machine.machine_type.version(),
            display: config.display.clone(),
            options: config.options.clone(),
        }
    }

    /// Publishes the run state.
    pub fn set_state(&self, state: RunState) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Whether the software CPU's blocks hold one instruction each.
    pub fn is_singlestep(&self) -> bool {
        self.singlestep.load(Ordering::Relaxed)
    }

    /// Publishes whether blocks hold one instruction each.
    pub fn set_singlestep(&self, is_on: bool) {
        self.singlestep.store(is_on, Ordering::Relaxed);
    }

    /// The reply of `query-status`.
    pub fn status(&self) -> StatusInfo {
        let status = *self.state.read().unwrap_or_else(PoisonError::into_inner);
        let singlestep = self.is_singlestep();
        StatusInfo { running: status == RunState::Running, singlestep, status }
    }

    /// The reply of `query-version`.
    pub fn version() -> VersionInfo {
        let (major, minor, micro) = version::TRIPLE;
        VersionInfo { qemu: VersionTriple { major, minor, micro }, package: version::package() }
    }
}
