//! A vCPU: the run loop around `KVM_RUN`.
//!
//! ```text
//! run ─▶ memory slots up to date ─▶ signals: STOP ─▶ return
//!           ▲                          │ NMI, INIT, SIPI, INTR: inject
//!           │                          ▼
//!           └──── exit handled ◀── KVM_RUN (kicked out by CpuSignals::raise)
//! ```
//!
//! An access that left guest code is completed by the next `KVM_RUN`; until then the registers are those of the middle
//! of an instruction. So before the loop returns or touches registers it lets the kernel complete the access with
//! `immediate_exit` set.

#![expect(unsafe_code, reason = "one request that kvm-ioctls lacks")]

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use accel::{
    ApicRegisters, CpuSignals, InterruptSource, LocalApic, Signal, Statistic, Vcpu, VcpuConfig, VcpuExit, VcpuReset,
    backdoor,
};
use kvm_bindings::kvm_lapic_state;
use kvm_ioctls::{Cap, VcpuFd};
use memory::{AccessSize, AddressSpace, GuestAddress};
use x86::msr;
use x86::regs::{Activity, Registers};

use crate::error::{HostError, KvmError, request};
use crate::fields::{from_mp_state, to_mp_state};
use crate::kick::{self, Kick};
use crate::page::RunPage;
use crate::registers::{self, KernelRegisters, XsaveShape};
use crate::vm::KvmVm;
use crate::{cpuid, msrs, stats};

/// Signals that are looked at before guest code runs. Which of them the kernel's own APIC makes never come.
const WANTED: u32 =
    Signal::STOP.0 | Signal::INTR.0 | Signal::NMI.0 | Signal::SMI.0 | Signal::INIT.0 | Signal::SIPI.0 | Signal::REMAP.0;

/// A vCPU on KVM.
pub(crate) struct KvmVcpu {
    // Configuration.
    index: usize,
    boot_processor: bool,
    shape: XsaveShape,
    msr_indices: Vec<u32>,
    // Host resources. The page lies in the descriptor's mapping.
    page: RunPage,
    fd: VcpuFd,
    kick: Arc<Kick>,
    // Wiring.
    vm: Arc<KvmVm>,
    memory: Arc<AddressSpace>,
    ports: Arc<AddressSpace>,
    signals: Arc<CpuSignals>,
    interrupts: InterruptSource,
    // State.
    power_on: Arc<PowerOn>,
    /// What the vCPU does, while that is ours to know: without the kernel's local APIC.
    activity: Activity,
    /// The last exit was an access that the next entry completes.
    access_pending: bool,
    /// The TSC as it was read last: writing it back would turn the clock back.
    tsc_read: Option<u64>,
    /// What went wrong outside of [`Vcpu::run`], which reports it.
    failure: Option<KvmError>,
}

/// A vCPU after power-on.
struct PowerOn {
    registers: KernelRegisters,
    apic: Option<kvm_lapic_state>,
}

/// What follows a look at the signals.
enum Attended {
    /// Guest code runs; these signals are raised and need no second look.
    Enter {
        known: u32,
    },
    /// Look again.
    Again,
    Return(VcpuExit),
}

/// What follows an exit.
enum Next {
    Continue,
    /// Continue; the next entry completes an access.
    Complete,
    /// Wait for an interrupt, outside of the kernel.
    Halt,
    /// Pass on the end of a level-triggered interrupt.
    EndOfInterrupt(u8),
    /// An access to the port whose device sees registers.
    Backdoor {
        /// It reads.
        is_read: bool,
    },
    Return(VcpuExit),
}

impl KvmVcpu {
    /// Makes a vCPU of `vm` in its power-on state.
    pub(crate) fn new(vm: &Arc<KvmVm>, config: VcpuConfig) -> Result<Self, KvmError> {
        // The rest of the configuration is the software CPU's: KVM has neither A20 gate nor FERR#.
        let VcpuConfig { index, apic_id, boot_processor, features, microcode_revision, signals, .. } = config;
        let VcpuConfig { memory, ports, tsc_khz, interrupts, .. } = config;
        let limit = vm.kvm().max_vcpus();
        if index >= limit {
            return Err(KvmError::TooManyVcpus { requested: index + 1, limit });
        }
        let kick = Arc::new(Kick::default());
        let mut fd =
            vm.create_vcpu(apic_id.into(), &kick).map_err(|error| KvmError::Vcpu { index, error: error.into() })?;
        fd.set_cpuid2(&cpuid::entries(&features)?).map_err(request("KVM_SET_CPUID2"))?;
        if let Some(wanted) = tsc_khz {
            set_tsc_frequency(vm, &fd, u32::try_from(wanted).unwrap_or(u32::MAX))?;
        }
        let kicked = Arc::clone(&kick);
        signals.set_kick(move || kicked.kick());
        let msr_indices = msrs::readable(&fd, vm.msr_indices())?;
        let registers = KernelRegisters::read(&fd, &msr_indices)?.at_power_on(&features, microcode_revision);
        let apic = vm.irqchip_mode().has_kernel_apic().then(|| registers::read_apic(&fd)).transpose()?;
        let mut vcpu = Self {
            index,
            boot_processor,
            shape: XsaveShape::of(&features),
            msr_indices,
            page: RunPage::of(&mut fd),
            fd,
            kick,
            vm: Arc::clone(vm),
            memory,
            ports,
            signals,
            interrupts,
            power_on: Arc::new(PowerOn { registers, apic }),
            activity: Activity::Running,
            access_pending: false,
            tsc_read: None,
            failure: None,
        };
        vcpu.try_reset(VcpuReset::PowerOn)?;
        Ok(vcpu)
    }

    fn user_apic(&self) -> Option<&Arc<dyn LocalApic>> {
        match &self.interrupts {
            InterruptSource::Apic(apic) => Some(apic),
            InterruptSource::Accelerator | InterruptSource::Pic(_) => None,
        }
    }

    fn acknowledge(&self) -> Option<u8> {
        match &self.interrupts {
            InterruptSource::Accelerator => None,
            InterruptSource::Pic(pic) => pic.acknowledge(),
            InterruptSource::Apic(apic) => apic.acknowledge(),
        }
    }

    /// Looks at the signals between two instructions.
    fn attend(&mut self) -> Result<Attended, KvmError> {
        // The memory slots follow by themselves.
        self.signals.clear(Signal::REMAP);
        // A machine without system-management mode drops SMIs.
        if self.signals.take(Signal::SMI) && self.vm.smm_memory().is_some() {
            self.fd.smi().map_err(request("KVM_SMI"))?;
        }
        if self.signals.take(Signal::INIT) {
            self.try_reset(VcpuReset::Init)?;
        }
        if self.signals.take(Signal::SIPI) && self.current_activity()? == Activity::WaitForSipi {
            let started = self.power_on.registers.after_init(&self.read_all()?).started_at(self.signals.sipi_vector());
            started.write(&self.fd)?;
            self.set_activity(Activity::Running)?;
        }
        if self.signals.take(Signal::STOP) {
            return Ok(Attended::Return(VcpuExit::Stopped));
        }
        if self.activity == Activity::WaitForSipi {
            // Other events are lost in this state (SDM vol. 3, 9.4.2 and 26.2).
            self.signals.clear(Signal::NMI);
            return Ok(Attended::Return(VcpuExit::Halted));
        }
        if self.signals.take(Signal::NMI) {
            self.fd.nmi().map_err(request("KVM_NMI"))?;
            self.activity = Activity::Running;
        }
        let window = self.offer_interrupt()?;
        if self.activity != Activity::Halted {
            // An interrupt that a window was asked for needs no second look.
            return Ok(Attended::Enter { known: if window { Signal::INTR.0 } else { 0 } });
        }
        if self.signals.is_raised(Signal::INTR) {
            // A masked interrupt does not end HLT; whoever waits for it to be taken would wait in a circle.
            self.signals.wait(Signal(WANTED & !Signal::INTR.0), None);
            return Ok(Attended::Again);
        }
        Ok(Attended::Return(VcpuExit::Halted))
    }

    /// Injects an interrupt of our own controllers, or asks for an exit when that is possible. `true`: it has asked.
    fn offer_interrupt(&mut self) -> Result<bool, KvmError> {
        if !self.has_own_interrupts() {
            return Ok(false);
        }
        let is_open = self.page.interrupts_enabled();
        if self.signals.is_raised(Signal::INTR) && is_open {
            if !self.page.is_ready_for_interrupt() {
                // After HLT the window opens at the entry, before an instruction.
                self.activity = Activity::Running;
            } else if let Some(vector) = self.acknowledge() {
                self.interrupt(vector)?;
                self.page.forget_exit_state();
                self.activity = Activity::Running;
            }
        }
        let window = self.signals.is_raised(Signal::INTR);
        self.page.request_interrupt_window(window);
        Ok(window)
    }

    /// `KVM_INTERRUPT`.
    fn interrupt(&self, vector: u8) -> Result<(), KvmError> {
        /// `_IOW(KVMIO, 0x86, struct kvm_interrupt)`.
        const KVM_INTERRUPT: libc::c_ulong = 0x4004_ae86;
        let interrupt = kvm_bindings::kvm_interrupt { irq: vector.into() };
        // SAFETY: the descriptor is a vCPU's, and the kernel reads exactly this structure.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_INTERRUPT, &raw const interrupt) };
        if result == 0 {
            return Ok(());
        }
        Err(KvmError::Request { request: "KVM_INTERRUPT", error: HostError::last() })
    }

    /// One turn of the loop. `Some`: the loop ends.
    fn turn(&mut self) -> Result<Option<VcpuExit>, KvmError> {
        let known = if self.access_pending {
            let pending = self.signals.pending() & self.deliverable();
            // What is raised is attended to when the access is complete. For an interrupt alone that is no hurry: the
            // window opens then.
            let hurry = pending & !Signal::INTR.0 != 0;
            self.page.immediate_exit().store(hurry.into(), Ordering::SeqCst);
            self.page.request_interrupt_window(pending & Signal::INTR.0 != 0);
            pending
        } else {
            self.page.immediate_exit().store(0, Ordering::SeqCst);
            match self.attend()? {
                Attended::Enter { known } => known,
                Attended::Again => return Ok(None),
                Attended::Return(exit) => return Ok(Some(exit)),
            }
        };
        if let Some(error) = self.vm.failure() {
            return Err(error.clone());
        }
        self.enter_guest(known)
    }

    fn has_own_interrupts(&self) -> bool {
        !matches!(self.interrupts, InterruptSource::Accelerator)
    }

    /// Signals that mean something to this vCPU.
    fn deliverable(&self) -> u32 {
        if self.has_own_interrupts() { WANTED } else { WANTED & !Signal::INTR.0 }
    }

    /// An access to the port whose device sees registers.
    fn backdoor(&mut self, is_read: bool) -> Result<(), KvmError> {
        let mut regs = self.fd.get_regs().map_err(request("KVM_GET_REGS"))?;
        let before = [regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi].map(|register| register as u32);
        let (mut value, size) = ([0; 4], usize::from(self.page.io_size().clamp(1, 4)));
        let ((), after) = backdoor::call(before, || {
            if is_read {
                load(&self.ports, backdoor::PORT.into(), &mut value[..size]);
            } else {
                store(&self.ports, backdoor::PORT.into(), &value[..size]);
            }
        });
        let registers = [&mut regs.rax, &mut regs.rbx, &mut regs.rcx, &mut regs.rdx, &mut regs.rsi, &mut regs.rdi];
        for ((register, before), after) in registers.into_iter().zip(before).zip(after) {
            // What the device left alone keeps its upper half.
            if before != after {
                *register = u64::from(after);
            }
        }
        self.fd.set_regs(&regs).map_err(request("KVM_SET_REGS"))?;
        if is_read {
            self.page.set_io_data(u32::from_le_bytes(value));
        }
        Ok(())
    }

    /// Runs guest code until the next exit, unless there are requests that are not `known`.
    fn enter_guest(&mut self, known: u32) -> Result<Option<VcpuExit>, KvmError> {
        if let Some(apic) = self.user_apic() {
            self.page.set_cr8(apic.cr8().into());
        }
        let requests = self.deliverable() & !known;
        // Whoever raises a signal or closes the gate after this kicks.
        let inside = self.kick.enter(&self.page);
        if !self.vm.gate().is_open() {
            drop(inside);
            self.vm.gate().wait();
            return Ok(None);
        }
        if self.signals.pending() & requests != 0 {
            return Ok(None);
        }
        let result = self.fd.run();
        drop(inside);
        let next = match result {
            Ok(exit) => {
                let memory = self.vm.smm_memory().filter(|_| self.page.is_in_smm()).unwrap_or(&self.memory);
                handle(exit, &self.page, memory, &self.ports)
            }
            // A kick; an access that was pending is complete. EAGAIN: the kernel let a waiting vCPU out.
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Next::Continue,
            Err(error) => Next::Return(VcpuExit::InternalError(format!("kvm run failed {}", HostError::from(error)))),
        };
        self.tsc_read = None;
        self.tell_apic();
        self.access_pending = matches!(next, Next::Complete | Next::Backdoor { .. });
        match next {
            Next::Continue | Next::Complete => {}
            Next::Halt => self.activity = Activity::Halted,
            Next::EndOfInterrupt(vector) => self.vm.end_of_interrupt(vector),
            Next::Backdoor { is_read } => self.backdoor(is_read)?,
            Next::Return(VcpuExit::InternalError(text)) => return Ok(Some(self.internal_error(text))),
            Next::Return(exit) => return Ok(Some(exit)),
        }
        Ok(None)
    }

    /// Says where the vCPU stands that can't go on.
    fn internal_error(&self, text: String) -> VcpuExit {
        VcpuExit::InternalError(match (self.fd.get_regs(), self.fd.get_sregs()) {
            (Ok(regs), Ok(sregs)) => format!("{text} at {:04x}:{:016x}", sregs.cs.selector, regs.rip),
            _ => text,
        })
    }

    /// Tells our local APIC what guest code did to CR8 and IA32_APIC_BASE.
    fn tell_apic(&self) {
        let Some(apic) = self.user_apic() else { return };
        let cr8 = (self.page.cr8() & 0xf) as u8;
        if cr8 != apic.cr8() {
            apic.set_cr8(cr8);
        }
        let base = self.page.apic_base();
        if base != apic.base() && apic.set_base(base).is_err() {
            tracing::warn!("kvm: the local APIC of CPU {} refuses the base {base:#x}", self.index);
        }
    }

    fn read_all(&self) -> Result<KernelRegisters, KvmError> {
        let mut registers = KernelRegisters::read(&self.fd, &self.msr_indices)?;
        if let Some(apic) = self.user_apic() {
            registers.set_apic(apic.cr8(), apic.base());
        }
        Ok(registers)
    }

    fn current_activity(&self) -> Result<Activity, KvmError> {
        if self.user_apic().is_some() {
            return Ok(self.activity);
        }
        self.fd.get_mp_state().map(from_mp_state).map_err(request("KVM_GET_MP_STATE"))
    }

    fn set_activity(&mut self, activity: Activity) -> Result<(), KvmError> {
        if self.user_apic().is_some() {
            self.activity = activity;
            return Ok(());
        }
        self.activity = Activity::Running;
        self.fd.set_mp_state(to_mp_state(activity)).map_err(request("KVM_SET_MP_STATE"))
    }

    fn try_reset(&mut self, kind: VcpuReset) -> Result<(), KvmError> {
        let power_on = Arc::clone(&self.power_on);
        match kind {
            VcpuReset::PowerOn => {
                if let Some(apic) = &power_on.apic {
                    registers::write_apic(&self.fd, apic)?;
                }
                power_on.registers.write(&self.fd)?;
                self.write_msrs(power_on.registers.msrs())?;
            }
            VcpuReset::Init => {
                if let Some(apic) = self.user_apic() {
                    apic.init();
                }
                power_on.registers.after_init(&self.read_all()?).write(&self.fd)?;
            }
        }
        registers::reset_events(&self.fd, self.vm.has_smi())?;
        // The flag belongs to the last exit.
        self.page.leave_smm();
        self.page.forget_exit_state();
        self.access_pending = false;
        self.tsc_read = None;
        self.set_activity(if self.boot_processor { Activity::Running } else { Activity::WaitForSipi })
    }

    fn write_msrs(&self, values: &[(u32, u64)]) -> Result<(), KvmError> {
        let own = values.iter().filter(|(index, _)| self.msr_indices.contains(index)).copied().collect::<Vec<_>>();
        let refused = msrs::write(&self.fd, &own)?;
        if !refused.is_empty() {
            tracing::debug!("kvm: CPU {}: the kernel refuses MSRs {refused:x?}", self.index);
        }
        Ok(())
    }

    fn try_registers(&mut self) -> Result<Registers, KvmError> {
        let state = self.read_all()?;
        self.tsc_read = state.msrs().iter().find(|(index, _)| *index == msr::TSC).map(|(_, value)| *value);
        let mut registers = state.to_registers(self.shape);
        registers.activity = self.current_activity()?;
        Ok(registers)
    }

    fn try_set_registers(&mut self, registers: &Registers) -> Result<(), KvmError> {
        let mut state = self.read_all()?;
        let before = state.msrs().to_vec();
        state.set(registers, self.shape);
        if let Some(apic) = self.user_apic() {
            // A base that the APIC refuses leaves it as it is.
            let _refused = apic.set_base(registers.apic_base);
            apic.set_cr8((registers.cr8 & 0xf) as u8);
            state.set_apic(apic.cr8(), apic.base());
        }
        state.write(&self.fd)?;
        // Some MSRs act when they are written, so only changes are; and a TSC that was just read is no change.
        let changed = |value: &&(u32, u64)| match value.0 {
            msr::TSC => self.tsc_read != Some(value.1),
            _ => !before.contains(value),
        };
        let changed: Vec<_> = state.msrs().iter().filter(changed).copied().collect();
        self.write_msrs(&changed)?;
        state.write_events(&self.fd, self.vm.has_smi())?;
        self.page.forget_exit_state();
        self.set_activity(registers.activity)
    }

    /// Keeps an error for [`Vcpu::run`].
    fn note<R: Default>(&mut self, result: Result<R, KvmError>) -> R {
        result.unwrap_or_else(|error| {
            tracing::warn!("kvm: CPU {}: {error}", self.index);
            self.failure.get_or_insert(error);
            R::default()
        })
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self) -> VcpuExit {
        if let Some(error) = self.failure.take() {
            return VcpuExit::InternalError(error.to_string());
        }
        kick::unblock();
        loop {
            match self.turn() {
                Ok(None) => {}
                Ok(Some(exit)) => return exit,
                Err(error) => return VcpuExit::InternalError(error.to_string()),
            }
        }
    }

    fn reset(&mut self, kind: VcpuReset) {
        let result = self.try_reset(kind);
        self.note(result);
    }

    fn registers(&mut self) -> Registers {
        let result = self.try_registers();
        self.note(result)
    }

    fn set_registers(&mut self, registers: &Registers) {
        let result = self.try_set_registers(registers);
        self.note(result);
    }

    fn translate(&mut self, linear: u64) -> Option<GuestAddress> {
        let translation = self.fd.translate_gva(linear).ok()?;
        (translation.valid != 0).then_some(GuestAddress(translation.physical_address))
    }

    fn statistics(&self) -> Option<Vec<Statistic>> {
        stats::read(&self.fd)
    }

    fn local_apic(&mut self) -> Option<&mut dyn ApicRegisters> {
        self.vm.irqchip_mode().has_kernel_apic().then_some(self as &mut dyn ApicRegisters)
    }
}

impl ApicRegisters for KvmVcpu {
    fn read(&mut self, offset: u32) -> u32 {
        let result = registers::read_apic(&self.fd).map(|state| apic_register(&state, offset));
        self.note(result)
    }

    fn write(&mut self, offset: u32, value: u32) {
        let result = registers::read_apic(&self.fd).and_then(|mut state| {
            set_apic_register(&mut state, offset, value);
            registers::write_apic(&self.fd, &state)
        });
        self.note(result);
    }
}

/// The register at `offset` of the APIC page; zero where there is none.
fn apic_register(state: &kvm_lapic_state, offset: u32) -> u32 {
    let bytes = state.regs.get(offset as usize..).and_then(|rest| rest.first_chunk::<4>());
    bytes.map_or(0, |bytes| u32::from_le_bytes(bytes.map(i8::cast_unsigned)))
}

fn set_apic_register(state: &mut kvm_lapic_state, offset: u32, value: u32) {
    if let Some(bytes) = state.regs.get_mut(offset as usize..).and_then(|rest| rest.first_chunk_mut::<4>()) {
        *bytes = value.to_le_bytes().map(u8::cast_signed);
    }
}

/// Sets the TSC's frequency, where it differs from the host's by more than guests notice.
fn set_tsc_frequency(vm: &KvmVm, vcpu: &VcpuFd, wanted: u32) -> Result<(), KvmError> {
    /// What clock adjustment can follow, in parts per million.
    const TOLERANCE: u64 = 250;
    let host = vcpu.get_tsc_khz().map_err(request("KVM_GET_TSC_KHZ"))?;
    if u64::from(wanted.abs_diff(host)) * 1_000_000 <= TOLERANCE * u64::from(host) {
        return Ok(());
    }
    if !vm.kvm().has(Cap::TscControl) || vcpu.set_tsc_khz(wanted).is_err() {
        return Err(KvmError::TscFrequency { wanted, host });
    }
    Ok(())
}

/// Does what the vCPU has left guest code for.
fn handle(exit: kvm_ioctls::VcpuExit<'_>, page: &RunPage, memory: &AddressSpace, ports: &AddressSpace) -> Next {
    use kvm_ioctls::VcpuExit as Exit;
    let failed = |text: String| Next::Return(VcpuExit::InternalError(text));
    match exit {
        Exit::IoIn(backdoor::PORT, _) => Next::Backdoor { is_read: true },
        Exit::IoOut(backdoor::PORT, _) => Next::Backdoor { is_read: false },
        Exit::IoIn(port, data) => {
            for item in data.chunks_mut(page.io_size().max(1).into()) {
                load(ports, port.into(), item);
            }
            Next::Complete
        }
        Exit::IoOut(port, data) => {
            for item in data.chunks(page.io_size().max(1).into()) {
                store(ports, port.into(), item);
            }
            Next::Complete
        }
        Exit::MmioRead(address, data) => {
            load(memory, address, data);
            Next::Complete
        }
        Exit::MmioWrite(address, data) => {
            store(memory, address, data);
            Next::Complete
        }
        Exit::Hlt => Next::Halt,
        Exit::Shutdown => Next::Return(VcpuExit::Shutdown),
        Exit::Debug(_) => Next::Return(VcpuExit::Debug),
        Exit::IoapicEoi(vector) => Next::EndOfInterrupt(vector),
        Exit::IrqWindowOpen | Exit::Intr | Exit::SetTpr | Exit::TprAccess | Exit::Nmi => Next::Continue,
        Exit::FailEntry(reason, cpu) => {
            failed(format!("KVM: entry failed, hardware error {reason:#x} on host CPU {cpu}"))
        }
        Exit::InternalError => {
            let number = page.internal_suberror();
            failed(format!("KVM internal error. Suberror: {number} ({})", suberror(number)))
        }
        Exit::MemoryFault { gpa, size, .. } => failed(format!("KVM: memory fault at {gpa:#x} of {size:#x} bytes")),
        Exit::Unknown => failed("KVM: unknown exit, hardware reason not known".to_owned()),
        Exit::Unsupported(reason) => failed(format!("KVM: unknown exit reason {reason}")),
        other => failed(format!("KVM: unexpected exit {other:?}")),
    }
}

fn suberror(number: u32) -> &'static str {
    match number {
        kvm_bindings::KVM_INTERNAL_ERROR_EMULATION => "emulation failure",
        kvm_bindings::KVM_INTERNAL_ERROR_SIMUL_EX => "simultaneous exceptions",
        kvm_bindings::KVM_INTERNAL_ERROR_DELIVERY_EV => "exit during event delivery",
        kvm_bindings::KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "unexpected exit reason",
        _ => "unknown",
    }
}

fn access_size(len: usize) -> Option<AccessSize> {
    [AccessSize::Byte, AccessSize::Word, AccessSize::Dword, AccessSize::Qword]
        .into_iter()
        .find(|size| size.bytes() == len)
}

fn load(space: &AddressSpace, address: u64, into: &mut [u8]) {
    match access_size(into.len()) {
        Some(size) => {
            let value = space.load(GuestAddress(address), size).to_le_bytes();
            into.iter_mut().zip(value).for_each(|(to, from)| *to = from);
        }
        None => space.read(GuestAddress(address), into),
    }
}

fn store(space: &AddressSpace, address: u64, from: &[u8]) {
    match access_size(from.len()) {
        Some(size) => {
            let mut value = [0; 8];
            value.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            space.store(GuestAddress(address), size, u64::from_le_bytes(value));
        }
        None => space.write(GuestAddress(address), from),
    }
}
