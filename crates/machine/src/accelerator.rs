//! The choice of what runs the vCPUs, and the software CPU as an accelerator.

use std::ops::Range;
use std::sync::Arc;

use accel::{AccelError, Accelerator, DirtyLog, InterruptSource, Interrupts, MachineSpaces, Vcpu, VcpuConfig};
use clock::InstructionCounter;
use cpu::{CpuConfig, ExclusiveLock, SoftCpu, TranslatorConfig};
use kvm::{IrqchipMode, KvmAccelerator, KvmOptions};
use x86::model::Host;

use crate::machine::TraceFactory;
use crate::qtest;

/// What runs the vCPUs.
#[derive(Clone, Debug)]
pub enum AcceleratorConfig {
    /// The software CPU, which is made with the machine.
    Software(TranslatorConfig),
    /// None: vCPUs never execute, and guest time moves only when a test says so.
    Qtest,
    /// An accelerator of the host, which has been opened.
    Opened(Arc<dyn Accelerator>),
}

impl AcceleratorConfig {
    /// What CPU models may have on it.
    pub fn host(&self) -> Host {
        match self {
            Self::Software(_) | Self::Qtest => cpu::model_host(),
            Self::Opened(accelerator) => accelerator.host(),
        }
    }

    /// The name of `-accel`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Software(_) => SOFTWARE,
            Self::Qtest => qtest::NAME,
            Self::Opened(accelerator) => accelerator.name(),
        }
    }
}

/// Which interrupt controllers are the host kernel's: `kernel-irqchip=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelIrqchip {
    /// All of them.
    #[default]
    On,
    /// None.
    Off,
    /// The local APICs.
    Split,
}

/// Opens the host's KVM.
///
/// # Errors
/// The host has none, or it lacks what is needed.
pub fn open_kvm(irqchip: KernelIrqchip) -> Result<AcceleratorConfig, AccelError> {
    let irqchip = match irqchip {
        KernelIrqchip::On => IrqchipMode::On,
        KernelIrqchip::Off => IrqchipMode::Off,
        KernelIrqchip::Split => IrqchipMode::Split,
    };
    let accelerator = KvmAccelerator::open(&KvmOptions { irqchip })?;
    Ok(AcceleratorConfig::Opened(Arc::new(accelerator)))
}

/// The software CPU's name, which is QEMU's for its own.
const SOFTWARE: &str = "tcg";

/// Makes software CPUs for one machine.
pub struct SoftwareAccelerator {
    translator: TranslatorConfig,
    counter: Option<Arc<InstructionCounter>>,
    trace: Option<Arc<TraceFactory>>,
    exclusive: Arc<ExclusiveLock>,
}

impl std::fmt::Debug for SoftwareAccelerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SoftwareAccelerator").field("translator", &self.translator).finish_non_exhaustive()
    }
}

impl SoftwareAccelerator {
    /// Software CPUs that count their instructions and are followed by sinks, if wanted. Where instructions are
    /// counted, nothing is translated.
    pub fn new(
        translator: TranslatorConfig,
        counter: Option<Arc<InstructionCounter>>,
        trace: Option<Arc<TraceFactory>>,
    ) -> Self {
        let enabled = translator.enabled && counter.is_none();
        Self { translator: TranslatorConfig { enabled, ..translator }, counter, trace, exclusive: Arc::default() }
    }
}

impl Accelerator for SoftwareAccelerator {
    fn name(&self) -> &'static str {
        SOFTWARE
    }

    fn host(&self) -> Host {
        cpu::model_host()
    }

    fn interrupts(&self) -> Interrupts {
        Interrupts::Machine
    }

    fn reserved_memory(&self) -> Option<Range<u64>> {
        None
    }

    fn has_smm(&self) -> bool {
        true
    }

    fn attach(&self, _spaces: &MachineSpaces) -> Result<(), AccelError> {
        // The vCPUs look at the address space itself.
        Ok(())
    }

    fn create_vcpu(&self, config: VcpuConfig) -> Result<Box<dyn Vcpu>, AccelError> {
        let InterruptSource::Apic(apic) = config.interrupts else {
            return Err(AccelError::new("the software CPU has no local APIC of its own"));
        };
        let mut cpu = SoftCpu::new(CpuConfig {
            apic_id: config.apic_id,
            boot_processor: config.boot_processor,
            features: config.features,
            memory: config.memory,
            smm_memory: config.smm_memory,
            ports: config.ports,
            clock: config.clock,
            tsc_khz: config.tsc_khz.unwrap_or(CpuConfig::DEFAULT_TSC_KHZ),
            signals: config.signals,
            apic,
            microcode_revision: config.microcode_revision,
            a20: config.a20,
            exclusive: Arc::clone(&self.exclusive),
            ferr: Some(config.ferr),
            translator: self.translator,
            counter: self.counter.clone(),
        });
        if let Some(make) = self.trace.clone() {
            cpu.set_followers(Box::new(move || make(config.index)));
        }
        Ok(Box::new(cpu))
    }

    // Guest time is the machine's clock; nothing else runs between a stop and a start.
    fn start(&self) {}

    fn stop(&self) {}

    fn dirty_log(&self) -> Option<Arc<dyn DirtyLog>> {
        None
    }
}
