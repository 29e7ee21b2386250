//! KVM as the accelerator of a machine.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use accel::{AccelError, Accelerator, DirtyLog, Interrupts, MachineSpaces, Statistic, Vcpu, VcpuConfig};
use memory::{AddressSpace, RamBlock};
use x86::model::Host;

use crate::error::KvmError;
use crate::irqchip::{Controllers, IrqchipMode};
use crate::slots::Space;
use crate::system::Kvm;
use crate::vcpu::KvmVcpu;
use crate::vm::{Follower, IDENTITY_MAP, KvmVm, RESERVED_SIZE};

/// What `-accel kvm` is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvmOptions {
    /// `kernel-irqchip`.
    pub irqchip: IrqchipMode,
}

/// The host's KVM as an accelerator.
pub struct KvmAccelerator {
    vm: Arc<KvmVm>,
    host: Host,
    controllers: Arc<Controllers>,
    /// The paravirtual clock when the machine stopped.
    stopped_at: Mutex<Option<u64>>,
}

impl std::fmt::Debug for KvmAccelerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvmAccelerator").field("vm", &self.vm).finish_non_exhaustive()
    }
}

impl KvmAccelerator {
    /// Opens `/dev/kvm` and makes a virtual machine.
    ///
    /// # Errors
    /// [`Kvm::open`]'s, and what the kernel refuses.
    pub fn open(options: &KvmOptions) -> Result<Self, KvmError> {
        Self::new(Kvm::open()?, options)
    }

    /// Makes a virtual machine.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn new(kvm: Kvm, options: &KvmOptions) -> Result<Self, KvmError> {
        let host = kvm.model_host(options.irqchip)?;
        let vm = KvmVm::new(kvm, options.irqchip)?;
        let controllers = Controllers::new(&vm);
        Ok(Self { vm, host, controllers, stopped_at: Mutex::default() })
    }

    /// Which interrupt controllers are the kernel's.
    pub fn irqchip_mode(&self) -> IrqchipMode {
        self.vm.irqchip_mode()
    }

    /// The number of memory slots in use.
    pub fn memory_slots(&self) -> usize {
        self.vm.slot_count()
    }
}

impl Accelerator for KvmAccelerator {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn host(&self) -> Host {
        self.host.clone()
    }

    fn interrupts(&self) -> Interrupts {
        match self.vm.irqchip_mode() {
            IrqchipMode::On => Interrupts::All(Arc::clone(&self.controllers) as _),
            IrqchipMode::Split => Interrupts::LocalApics(Arc::clone(&self.controllers) as _),
            IrqchipMode::Off => Interrupts::Machine,
        }
    }

    fn reserved_memory(&self) -> Option<Range<u64>> {
        Some(IDENTITY_MAP..IDENTITY_MAP + RESERVED_SIZE)
    }

    fn has_smm(&self) -> bool {
        self.vm.has_smm()
    }

    fn attach(&self, spaces: &MachineSpaces) -> Result<(), AccelError> {
        if spaces.smm_memory.is_some() && !self.has_smm() {
            return Err(AccelError::new("System Management Mode not supported by this hypervisor."));
        }
        if let Some(end) = &spaces.end_of_interrupt {
            self.vm.set_end_of_interrupt(end);
        }
        let follow = |memory: &AddressSpace, space| {
            let is_ours = memory.set_listener(Box::new(Follower(Arc::clone(&self.vm), space)));
            if is_ours { Ok(()) } else { Err(AccelError::new("guest memory is followed by another accelerator")) }
        };
        follow(&spaces.memory, Space::Normal)?;
        if let Some(memory) = &spaces.smm_memory {
            follow(memory, Space::Smm)?;
            self.vm.set_smm_memory(memory);
        }
        self.vm.failure().map_or(Ok(()), |error| Err(error.clone().into()))
    }

    fn create_vcpu(&self, config: VcpuConfig) -> Result<Box<dyn Vcpu>, AccelError> {
        Ok(Box::new(KvmVcpu::new(&self.vm, config)?))
    }

    fn statistics(&self) -> Option<Vec<Statistic>> {
        self.vm.statistics()
    }

    fn start(&self) {
        let stopped_at = self.stopped_at.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(nanoseconds) = stopped_at
            && let Err(error) = self.vm.set_guest_clock(nanoseconds)
        {
            tracing::warn!("kvm: {error}");
        }
    }

    fn stop(&self) {
        // Without the clock's value guests see how long the machine stood.
        let now = self.vm.guest_clock().inspect_err(|error| tracing::warn!("kvm: {error}"));
        *self.stopped_at.lock().unwrap_or_else(PoisonError::into_inner) = now.ok();
    }

    fn dirty_log(&self) -> Option<Arc<dyn DirtyLog>> {
        Some(Arc::new(StoreLog(Arc::clone(&self.vm))))
    }
}

/// The log of the guest's stores. A store that a vCPU makes meanwhile is in this answer or in the next one.
struct StoreLog(Arc<KvmVm>);

impl DirtyLog for StoreLog {
    fn start(&self) -> Result<(), AccelError> {
        Ok(self.0.set_logging(true)?)
    }

    fn stop(&self) -> Result<(), AccelError> {
        Ok(self.0.set_logging(false)?)
    }

    fn take(&self, block: &RamBlock, pages: &mut [u64]) -> Result<(), AccelError> {
        Ok(self.0.take_log(block, pages)?)
    }
}
