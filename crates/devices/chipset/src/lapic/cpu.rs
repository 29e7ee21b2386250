//! The vCPU's side of its local APIC.

use std::sync::Arc;

use accel::{ApicMsrError, LocalApic};
use device::DeviceCell;

use super::{ApicBus, Lapic};

/// One vCPU's local APIC, as its accelerator calls it. Clones are the same APIC.
#[derive(Clone)]
pub struct CpuApic {
    apic: DeviceCell<Lapic>,
    bus: Arc<ApicBus>,
}

impl CpuApic {
    pub(crate) fn new(apic: DeviceCell<Lapic>, bus: Arc<ApicBus>) -> Self {
        Self { apic, bus }
    }

    /// The APIC itself, for reset and migration.
    pub fn device(&self) -> &DeviceCell<Lapic> {
        &self.apic
    }

    /// What the vCPU's TSC is ahead of the machine's, in ticks: the deadline timer counts by the vCPU's.
    pub fn set_tsc_offset(&self, offset: i64) {
        self.apic.lock().set_tsc_offset(offset);
    }
}

impl LocalApic for CpuApic {
    fn acknowledge(&self) -> Option<u8> {
        {
            let mut apic = self.apic.lock();
            if let Some(vector) = apic.state.take() {
                apic.update_signals();
                return Some(vector);
            }
            if !apic.state.wants_external() {
                apic.update_signals();
                return None;
            }
            apic.state.extint_message = false;
        }
        let vector = self.bus.acknowledge_external();
        self.apic.lock().update_signals();
        vector
    }

    fn cr8(&self) -> u8 {
        self.apic.lock().state.tpr >> 4
    }

    fn set_cr8(&self, cr8: u8) {
        let mut apic = self.apic.lock();
        apic.state.tpr = (cr8 & 0xf) << 4;
        apic.update_signals();
    }

    fn base(&self) -> u64 {
        self.apic.lock().state.base
    }

    fn set_base(&self, value: u64) -> Result<(), ApicMsrError> {
        self.apic.lock().set_base(value)
    }

    fn read_msr(&self, index: u32) -> Result<u64, ApicMsrError> {
        self.apic.lock().read_msr(index)
    }

    fn write_msr(&self, index: u32, value: u64) -> Result<(), ApicMsrError> {
        let effect = self.apic.lock().write_msr(index, value)?;
        self.bus.perform(effect);
        Ok(())
    }

    fn init(&self) {
        self.apic.lock().init();
    }
}
