//! What makes a machine's vCPUs.
//!
//! The order of calls, all from the control thread: the accelerator is made (and can fail: then the next one of the
//! command line is tried), the board is built around [`Accelerator::interrupts`], [`Accelerator::create_vcpu`] is called
//! for each vCPU in the order of indices, and each vCPU moves to the thread that runs it. From then on only
//! [`Accelerator::start`] and [`Accelerator::stop`], in turn, each with all vCPUs at rest.

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clock::Clock;
use memory::{AddressSpace, RamBlock};
use x86::cpuid::CpuidTable;
use x86::model::Host;

use crate::{CpuSignals, IoApicEnd, IrqControllers, LocalApic, LocalApics, PicOutput, Statistic, Vcpu};

/// Why an accelerator can't do what it is asked for. The text is complete, without the source's.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct AccelError {
    what: String,
    source: Option<io::Error>,
}

impl AccelError {
    /// An error of the accelerator's own.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }

    /// An error of the host while doing `what`.
    pub fn host(what: impl Into<String>, source: io::Error) -> Self {
        Self { what: what.into(), source: Some(source) }
    }

    /// What the host said, when it was the host.
    pub fn host_error(&self) -> Option<&io::Error> {
        self.source.as_ref()
    }
}

/// Asserts FERR#, the line of an unmasked x87 exception while CR0.NE is clear (IRQ 13 on a PC).
pub type FerrLine = Arc<dyn Fn() + Send + Sync>;

/// Where a vCPU's interrupts come from.
#[derive(Clone)]
pub enum InterruptSource {
    /// The machine's local APIC. It raises [`crate::Signal::INTR`] as a level.
    Apic(Arc<dyn LocalApic>),
    /// The accelerator's local APIC, whose LINT0 is the output of the machine's PIC: [`crate::Signal::INTR`] is its
    /// level (on the boot processor only).
    Pic(Arc<dyn PicOutput>),
    /// The accelerator's own controllers alone.
    Accelerator,
}

/// What a vCPU is made from.
#[derive(Clone)]
pub struct VcpuConfig {
    /// The index in the machine, from 0 without gaps.
    pub index: usize,
    /// Local APIC id at reset.
    pub apic_id: u32,
    /// Starts at the reset vector; the others wait for a start-up IPI.
    pub boot_processor: bool,
    /// The model.
    pub features: Arc<CpuidTable>,
    /// Guest-physical memory.
    pub memory: Arc<AddressSpace>,
    /// Guest-physical memory as system-management mode sees it. The same for all vCPUs, and the one of [`MachineSpaces`].
    /// `None`: the software CPU's mode sees what it sees otherwise; hypervisors have no such mode then and drop SMIs.
    pub smm_memory: Option<Arc<AddressSpace>>,
    /// I/O ports.
    pub ports: Arc<AddressSpace>,
    /// Guest time.
    pub clock: Clock,
    /// TSC frequency in kHz, when the command line names one.
    pub tsc_khz: Option<u64>,
    /// What IA32_BIOS_SIGN_ID reads.
    pub microcode_revision: u64,
    /// The vCPU's mailbox.
    pub signals: Arc<CpuSignals>,
    /// Where interrupts come from: fits [`Accelerator::interrupts`].
    pub interrupts: InterruptSource,
    /// The A20 gate: when clear, address bit 20 is forced to zero. Whoever changes it outside of an access of this vCPU
    /// also raises [`crate::Signal::REMAP`]. Hypervisors can't follow it.
    pub a20: Arc<AtomicBool>,
    /// FERR#. Hypervisors can't drive it.
    pub ferr: FerrLine,
}

/// Which interrupt controllers the accelerator has instead of the machine.
#[derive(Clone)]
pub enum Interrupts {
    /// None: PIC, I/O APIC and local APICs are the machine's devices.
    Machine,
    /// The local APICs; PIC and I/O APIC are the machine's.
    LocalApics(Arc<dyn LocalApics>),
    /// All of them.
    All(Arc<dyn IrqControllers>),
}

/// What guest memory an accelerator is to follow.
#[derive(Clone)]
pub struct MachineSpaces {
    /// Guest-physical memory. An accelerator with memory slots registers with [`AddressSpace::set_listener`].
    pub memory: Arc<AddressSpace>,
    /// Guest-physical memory as system-management mode sees it; see [`VcpuConfig::smm_memory`].
    pub smm_memory: Option<Arc<AddressSpace>>,
    /// Where the machine's I/O APIC hears ends of interrupts, for [`Interrupts::LocalApics`].
    pub end_of_interrupt: Option<IoApicEnd>,
}

/// What runs the vCPUs of one machine.
pub trait Accelerator: Debug + Send + Sync {
    /// The name of `-accel`: `tcg` or `kvm`. In upper case it ends the names of vCPU threads.
    fn name(&self) -> &'static str;

    /// What a CPU model may have here.
    fn host(&self) -> Host;

    /// Which interrupt controllers it has. The same answer at each call.
    fn interrupts(&self) -> Interrupts;

    /// Guest-physical addresses that the accelerator keeps for itself: the memory map for guests says that they are
    /// reserved.
    fn reserved_memory(&self) -> Option<Range<u64>>;

    /// Whether vCPUs have a system-management mode with an address space of its own.
    fn has_smm(&self) -> bool;

    /// Takes the machine's address spaces, once, before the first vCPU is made.
    ///
    /// # Errors
    /// The host refuses the memory, or there is memory for system-management mode and [`Accelerator::has_smm`] is not so.
    fn attach(&self, spaces: &MachineSpaces) -> Result<(), AccelError>;

    /// Makes a vCPU in its power-on state.
    ///
    /// # Errors
    /// The host refuses it, or the model can't be had.
    fn create_vcpu(&self, config: VcpuConfig) -> Result<Box<dyn Vcpu>, AccelError>;

    /// What the host's kernel counts of the machine, if it runs it.
    fn statistics(&self) -> Option<Vec<Statistic>> {
        None
    }

    /// The machine starts: guest time begins to run. Called before the first vCPU runs.
    fn start(&self);

    /// The machine has stopped: no vCPU runs any more.
    fn stop(&self);

    /// The log of the guest's stores to RAM; `None` for an accelerator whose stores all go through [`memory`].
    fn dirty_log(&self) -> Option<Arc<dyn DirtyLog>>;
}

/// The pages that the guest stored to, kept by an accelerator that stores past [`memory`].
pub trait DirtyLog: Send + Sync {
    /// Begins to log, with nothing dirty.
    ///
    /// # Errors
    /// The host can't.
    fn start(&self) -> Result<(), AccelError>;

    /// Ends logging.
    ///
    /// # Errors
    /// The host can't.
    fn stop(&self) -> Result<(), AccelError>;

    /// Adds to `pages` (one bit a 4 KiB page of `block`, lowest first) what was stored to since the last call, and
    /// forgets it.
    ///
    /// # Errors
    /// The host can't tell: every page counts as dirty then.
    fn take(&self, block: &RamBlock, pages: &mut [u64]) -> Result<(), AccelError>;
}
