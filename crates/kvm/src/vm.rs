//! One virtual machine of the kernel's.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use accel::{IoApicEnd, Msi, Statistic};
use kvm_bindings::kvm_clock_data;
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use memory::{AddressSpace, FlatView, MapListener, RamBlock};

use crate::error::{KvmError, request};
use crate::gate::Gate;
use crate::irqchip::{self, IrqchipMode, PowerOnState, Routes};
use crate::kick::{self, Kick};
use crate::slots::{self, Slots, Space};
use crate::stats;
use crate::system::Kvm;

/// Four pages below the firmware that the kernel needs on old Intel processors, where real mode is run under paging: a
/// page table, and a task state segment behind it. A memory map for guests says that they are reserved.
pub(crate) const IDENTITY_MAP: u64 = 0xfeff_c000;
/// The length of what is at [`IDENTITY_MAP`].
pub(crate) const RESERVED_SIZE: u64 = 0x4000;

/// A virtual machine: memory slots and interrupt controllers. Its vCPUs are [`crate::KvmVcpu`]s.
#[derive(Debug)]
pub(crate) struct KvmVm {
    // The descriptor is closed before the memory goes that the slots hold.
    fd: VmFd,
    kvm: Kvm,
    mode: IrqchipMode,
    /// In mode `on`: how the kernel's controllers are after power-on.
    controllers: Option<PowerOnState>,
    has_smi: bool,
    msr_indices: Vec<u32>,
    slots: Mutex<Slots>,
    /// Those of system-management mode, where it sees another memory.
    smm_slots: Mutex<Slots>,
    smm_memory: OnceLock<Arc<AddressSpace>>,
    gate: Gate,
    /// Where ends of interrupts go, in mode `split`.
    end_of_interrupt: OnceLock<EndOfInterrupt>,
    /// Why the guest's memory is not what it should be. The vCPUs do not run with that.
    failure: OnceLock<KvmError>,
}

struct EndOfInterrupt(IoApicEnd);

impl std::fmt::Debug for EndOfInterrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EndOfInterrupt")
    }
}

/// Follows one of the machine's memory maps.
pub(crate) struct Follower(pub(crate) Arc<KvmVm>, pub(crate) Space);

impl MapListener for Follower {
    fn changed(&self, view: &Arc<FlatView>) {
        if let Err(error) = self.0.follow(view, self.1) {
            tracing::error!("kvm: {error}");
            // The first one is the one to tell.
            let _known = self.0.failure.set(error);
        }
    }
}

impl KvmVm {
    /// Makes a machine without memory.
    pub(crate) fn new(kvm: Kvm, mode: IrqchipMode) -> Result<Arc<Self>, KvmError> {
        kick::install().map_err(request("sigaction"))?;
        let fd = kvm.system().create_vm().map_err(request("KVM_CREATE_VM"))?;
        fd.set_identity_map_address(IDENTITY_MAP).map_err(request("KVM_SET_IDENTITY_MAP_ADDR"))?;
        fd.set_tss_address(IDENTITY_MAP as usize + 0x1000).map_err(request("KVM_SET_TSS_ADDR"))?;
        let controllers = irqchip::create(&kvm, &fd, mode)?;
        Ok(Arc::new(Self {
            fd,
            mode,
            controllers,
            has_smi: kvm.has(Cap::X86Smm),
            msr_indices: kvm.msr_indices()?,
            slots: Mutex::new(Slots::new(Space::Normal, kvm.memory_slots())),
            smm_slots: Mutex::new(Slots::new(Space::Smm, kvm.memory_slots())),
            smm_memory: OnceLock::new(),
            gate: Gate::default(),
            end_of_interrupt: OnceLock::new(),
            failure: OnceLock::new(),
            kvm,
        }))
    }

    pub(crate) fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    pub(crate) fn irqchip_mode(&self) -> IrqchipMode {
        self.mode
    }

    /// What the kernel counts of the machine.
    pub(crate) fn statistics(&self) -> Option<Vec<Statistic>> {
        stats::read(&self.fd)
    }

    /// Why vCPUs must not run.
    pub(crate) fn failure(&self) -> Option<&KvmError> {
        self.failure.get()
    }

    /// Says where ends of interrupts go. Only the first call counts.
    pub(crate) fn set_end_of_interrupt(&self, end: &IoApicEnd) {
        let _first = self.end_of_interrupt.set(EndOfInterrupt(Arc::clone(end)));
    }

    /// A local APIC of the kernel's ended a vector that a level-triggered input sends.
    pub(crate) fn end_of_interrupt(&self, vector: u8) {
        if let Some(EndOfInterrupt(end)) = self.end_of_interrupt.get() {
            end(vector);
        }
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Whether the kernel knows SMIs.
    pub(crate) fn has_smi(&self) -> bool {
        self.has_smi
    }

    /// Whether the kernel has a second address space for system-management mode.
    pub(crate) fn has_smm(&self) -> bool {
        /// `KVM_CAP_MULTI_ADDRESS_SPACE`: the number of address spaces.
        const MULTI_ADDRESS_SPACE: u64 = 118;
        self.has_smi && self.kvm.system().check_extension_raw(MULTI_ADDRESS_SPACE) > 1
    }

    /// What system-management mode sees. `None`: the machine has no such mode.
    pub(crate) fn smm_memory(&self) -> Option<&Arc<AddressSpace>> {
        self.smm_memory.get()
    }

    /// Says what system-management mode sees. Only the first call counts.
    pub(crate) fn set_smm_memory(&self, memory: &Arc<AddressSpace>) {
        let _first = self.smm_memory.set(Arc::clone(memory));
    }

    pub(crate) fn msr_indices(&self) -> &[u32] {
        &self.msr_indices
    }

    pub(crate) fn create_vcpu(&self, id: u64, kick: &Arc<Kick>) -> Result<VcpuFd, kvm_ioctls::Error> {
        let vcpu = self.fd.create_vcpu(id)?;
        self.gate.add(kick);
        Ok(vcpu)
    }

    fn slots(&self, space: Space) -> MutexGuard<'_, Slots> {
        let slots = match space {
            Space::Normal => &self.slots,
            Space::Smm => &self.smm_slots,
        };
        slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the memory slots of an address space to `view`, with no vCPU in guest code.
    fn follow(&self, view: &FlatView, space: Space) -> Result<(), KvmError> {
        let mut slots = self.slots(space);
        let wanted = slots::plan(view);
        if slots.differ(&wanted) {
            self.gate.with_all_outside(|| slots.change(&self.fd, wanted))?;
        }
        Ok(())
    }

    /// The number of memory slots in use.
    pub(crate) fn slot_count(&self) -> usize {
        self.slots(Space::Normal).count() + self.slots(Space::Smm).count()
    }

    /// Starts or ends the log of the guest's stores.
    pub(crate) fn set_logging(&self, wanted: bool) -> Result<(), KvmError> {
        self.slots(Space::Normal).set_logging(&self.fd, wanted)?;
        self.slots(Space::Smm).set_logging(&self.fd, wanted)
    }

    /// Adds to `pages` those of `block` that were stored to since the last time.
    pub(crate) fn take_log(&self, block: &RamBlock, pages: &mut [u64]) -> Result<(), KvmError> {
        self.slots(Space::Normal).take_log(&self.fd, block, pages)?;
        self.slots(Space::Smm).take_log(&self.fd, block, pages)
    }

    /// Sets the level of a global system interrupt, in mode `on`.
    pub(crate) fn set_irq_line(&self, gsi: u32, level: bool) -> Result<(), KvmError> {
        self.fd.set_irq_line(gsi, level).map_err(request("KVM_IRQ_LINE"))
    }

    /// Sends a message to the kernel's local APICs. `false`: no vCPU took it.
    pub(crate) fn send_message(&self, message: Msi) -> Result<bool, KvmError> {
        irqchip::send(&self.fd, message)
    }

    /// Says which message each level-triggered input of the machine's I/O APIC sends, in mode `split`.
    pub(crate) fn set_ioapic_routes(&self, routes: &Routes) -> Result<(), KvmError> {
        irqchip::set_routes(&self.fd, routes)
    }

    /// Brings the kernel's PIC and I/O APIC to their power-on state.
    pub(crate) fn reset_controllers(&self) -> Result<(), KvmError> {
        self.controllers.as_ref().map_or(Ok(()), |controllers| controllers.write(&self.fd))
    }

    /// The paravirtual clock (kvmclock) in nanoseconds, to be read when the machine stops.
    pub(crate) fn guest_clock(&self) -> Result<u64, KvmError> {
        Ok(self.fd.get_clock().map_err(request("KVM_GET_CLOCK"))?.clock)
    }

    /// Sets the paravirtual clock, when the machine goes on: guests do not see how long it stood.
    pub(crate) fn set_guest_clock(&self, nanoseconds: u64) -> Result<(), KvmError> {
        let clock = kvm_clock_data { clock: nanoseconds, ..kvm_clock_data::default() };
        self.fd.set_clock(&clock).map_err(request("KVM_SET_CLOCK"))
    }
}
