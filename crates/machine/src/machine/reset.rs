//! Start, stop, reset and sleep, and what firmware leaves behind where a kernel is booted without it.

use accel::{Signal, VcpuReset};
use device::ResetKind;
use devices_chipset::lapic;
use memory::{AccessSize, AddressSpace, GuestAddress};
use x86::msr;
use x86::regs::SegmentRegister;

use super::Machine;
use crate::acpi::{AcpiTables, PlacedTables};
use crate::boot::BootError;
use crate::event::WakeReason;
use crate::pc::Board;

/// Where the RSDP goes: where guests look for it (ACPI 1.0b, 5.2.4.1).
pub(super) const RSDP_ADDRESS: u64 = 0xf_5a00;

/// Where the SMBIOS entry point goes: where guests look for it (DSP0134, 5.2.1).
const SMBIOS_ANCHOR_ADDRESS: u64 = 0xf_5b00;

impl Machine {
    /// Lets guest time and the vCPUs run.
    pub fn start(&self) {
        self.board.clock.start();
        self.accelerator.start();
        self.vcpus.resume();
    }

    /// Lets the vCPUs run while guest time stands: a debugger moves some of them by an instruction.
    pub fn start_without_time(&self) {
        self.accelerator.start();
        self.vcpus.resume();
    }

    /// Stops the vCPUs and guest time.
    pub fn stop(&self) {
        self.vcpus.pause();
        self.accelerator.stop();
        self.board.clock.stop();
    }

    /// Resets the stopped machine.
    pub fn reset(&self) {
        // The plan was written to this memory map before.
        let written = self.reset_to(ResetKind::Warm);
        debug_assert!(written.is_ok(), "{written:?}");
    }

    /// The guest suspends to RAM: the vCPUs stand, and firmware will find a note in CMOS. Time goes on.
    pub fn suspend(&self) {
        /// The shutdown status byte, and what tells firmware to resume.
        const SHUTDOWN_STATUS: u8 = 0x0f;
        const RESUME: u8 = 0xfe;
        self.vcpus.pause();
        self.board.set_cmos(SHUTDOWN_STATUS, RESUME);
    }

    /// Resets a suspended machine and lets its vCPUs run, so that the guest resumes; memory stays.
    pub fn wake(&self, reason: WakeReason) {
        self.reset_devices(ResetKind::Warm);
        if let Some(tables) = &self.tables {
            self.board.after_firmware();
            self.set_up_apic();
            let vector = tables.waking_vector(&self.board.memory);
            self.vcpus.with(0, move |cpu| {
                // As SeaBIOS: in real mode, at the vector's segment.
                let mut registers = cpu.registers();
                if let Some(code) = registers.segments.get_mut(SegmentRegister::Cs as usize) {
                    code.selector = (vector >> 4) as u16;
                    code.base = u64::from(vector >> 4) << 4;
                }
                registers.rip = u64::from(vector & 0xf);
                cpu.set_registers(&registers);
            });
        }
        if let Some(power) = &self.board.power_management {
            power.lock().wake(reason);
        }
        self.vcpus.resume();
    }

    fn reset_devices(&self, kind: ResetKind) {
        for device in &self.board.devices {
            device.lifecycle.reset(kind);
        }
        for (_, apic) in self.board.controllers.bus.devices() {
            apic.reset(kind);
        }
        for index in 0..self.vcpus.count() {
            if let Some(signals) = self.vcpus.signals(index) {
                signals.clear(pending_inputs());
            }
            self.reset_vcpu(index);
        }
    }

    pub(super) fn reset_vcpu(&self, index: usize) {
        let mtrrs = if self.boot.is_some() { firmware_mtrrs(self.physical_bits) } else { Vec::new() };
        self.vcpus.with(index, move |cpu| {
            cpu.reset(VcpuReset::PowerOn);
            let mut registers = cpu.registers();
            for (index, value) in &mut registers.msrs {
                if let Some((_, firmware)) = mtrrs.iter().find(|(mtrr, _)| mtrr == index) {
                    *value = *firmware;
                }
            }
            cpu.set_registers(&registers);
        });
    }

    pub(super) fn reset_to(&self, kind: ResetKind) -> Result<(), BootError> {
        self.reset_devices(kind);
        if kind == ResetKind::Warm {
            self.board.forget_boot_once();
        }
        if let Some(plan) = &self.boot {
            // What firmware leaves behind, since none runs.
            self.board.after_firmware();
            self.set_up_apic();
            if let Some(tables) = &self.tables {
                tables.write(&self.board.memory);
            }
            plan.write(&self.board.memory)?;
            let registers = plan.registers.clone();
            self.vcpus.with(0, move |cpu| {
                let mut registers = registers;
                // Model-specific state (APIC base, MSRs, FPU) stays as the reset left it.
                let reset = cpu.registers();
                registers.apic_base = reset.apic_base;
                registers.msrs = reset.msrs;
                registers.xsave = reset.xsave;
                registers.xcr0 = reset.xcr0;
                registers.debug = reset.debug;
                cpu.set_registers(&registers);
            });
        }
        Ok(())
    }

    /// The boot processor's APIC is on: external interrupts on LINT0, NMI on LINT1.
    fn set_up_apic(&self) {
        const SETTINGS: [(u32, u32); 3] = [(0xf0, 0x1ff), (0x350, 0x8700), (0x360, 0x8400)];
        if self.board.controllers.has_local_apics() {
            for (offset, value) in SETTINGS {
                let address = GuestAddress(lapic::APIC_SPACE_BASE + u64::from(offset));
                // Threads that run no vCPU reach the boot processor's.
                self.board.memory.store(address, AccessSize::Dword, u64::from(value));
            }
            return;
        }
        self.vcpus.with(0, |cpu| {
            if let Some(apic) = cpu.local_apic() {
                for (offset, value) in SETTINGS {
                    apic.write(offset, value);
                }
            }
        });
    }

    /// Brings the chipset into the state that firmware leaves.
    pub(crate) fn after_firmware(&self) {
        self.board.after_firmware();
    }
}

/// Firmware tables for a kernel that is booted without firmware.
pub(super) struct DirectTables {
    acpi: PlacedTables,
    /// The anchor, and the structures.
    smbios: Option<(Vec<u8>, Vec<u8>)>,
    /// Where the tables are; the SMBIOS structures are behind the ACPI tables.
    pub(super) at: u64,
    smbios_at: u64,
}

impl DirectTables {
    pub(super) fn new(board: &Board, at: u64) -> Option<Self> {
        let acpi = AcpiTables::build(board.tables.as_ref()?).placed(at as u32);
        let smbios_at = at + (acpi.blob.len() as u64).next_multiple_of(16);
        let smbios = board.smbios.as_ref();
        let smbios = smbios.map(|smbios| (smbios.placed_anchor(smbios_at as u32), smbios.tables.clone()));
        Some(Self { acpi, smbios, at, smbios_at })
    }

    /// Where the guest wants to be resumed: the FACS is the first table (ACPI 1.0b, 5.2.6).
    fn waking_vector(&self, memory: &AddressSpace) -> u32 {
        const WAKING_VECTOR: u64 = 12;
        memory.load(GuestAddress(self.at + WAKING_VECTOR), AccessSize::Dword) as u32
    }

    fn write(&self, memory: &AddressSpace) {
        memory.write(GuestAddress(self.at), &self.acpi.blob);
        memory.write(GuestAddress(RSDP_ADDRESS), &self.acpi.rsdp);
        if let Some((anchor, structures)) = &self.smbios {
            memory.write(GuestAddress(self.smbios_at), structures);
            memory.write(GuestAddress(SMBIOS_ANCHOR_ADDRESS), anchor);
        }
    }
}

/// The memory types that firmware sets up on each processor: write-back, but for video memory, ROMs and the PCI hole
/// (SDM vol. 3, 12.11). Only MSRs that the processor has are set.
fn firmware_mtrrs(physical_bits: u32) -> Vec<(u32, u64)> {
    const WRITE_BACK: u64 = 0x0606_0606_0606_0606;
    const WRITE_PROTECTED: u64 = 0x0505_0505_0505_0505;
    const HOLE: u64 = 0xc000_0000;
    const VALID: u64 = 1 << 11;
    /// Enabled, fixed ranges too; write-back by default.
    const DEFAULT_TYPE: u64 = 0xc06;
    let mask = ((1 << physical_bits) - 1) & !((1_u64 << 32) - HOLE - 1);
    let mut mtrrs = vec![(msr::MTRR_PHYSBASE0, HOLE), (msr::MTRR_PHYSMASK0, mask | VALID)];
    mtrrs.extend([(msr::MTRR_FIX64K_00000, WRITE_BACK), (msr::MTRR_FIX16K_80000, WRITE_BACK)]);
    mtrrs.push((msr::MTRR_FIX16K_A0000, 0));
    mtrrs.extend((0..8).map(|index| (msr::MTRR_FIX4K_C0000 + index, WRITE_PROTECTED)));
    mtrrs.push((msr::MTRR_DEF_TYPE, DEFAULT_TYPE));
    mtrrs
}

/// Interrupt inputs that a reset takes away.
fn pending_inputs() -> Signal {
    Signal::INTR.with(Signal::NMI).with(Signal::SMI).with(Signal::INIT).with(Signal::SIPI)
}
