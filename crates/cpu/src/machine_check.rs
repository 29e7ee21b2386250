//! Machine checks that are injected: banks of registers, and #MC (SDM vol. 3, sections 16.3 and 16.9).

use accel::{MachineCheck, MachineCheckOutcome};

use crate::cpuid::bit;
use crate::fault::{Fault, vector};
use crate::msr::BANKS;
use crate::state::{Activity, Cpu, Shadow, cr};

/// MCi_STATUS: the registers hold an error.
const VALID: u64 = 1 << 63;
/// MCi_STATUS: there was another error before it was read.
const OVERFLOW: u64 = 1 << 62;
/// MCi_STATUS: the hardware has not corrected it.
const UNCORRECTED: u64 = 1 << 61;
/// MCG_STATUS: one is being dealt with.
const IN_PROGRESS: u64 = 1 << 2;

impl Cpu {
    /// Reports an error between two instructions.
    pub(crate) fn machine_check(&mut self, check: &MachineCheck) -> MachineCheckOutcome {
        if !self.has1d(bit::MCA) {
            return MachineCheckOutcome::Unsupported;
        }
        if check.bank >= BANKS {
            return MachineCheckOutcome::NoBank;
        }
        if check.status & VALID == 0 {
            return MachineCheckOutcome::NoStatus;
        }
        let first = check.bank * 4;
        let [control, status] = [self.msrs.mc_banks[first], self.msrs.mc_banks[first + 1]];
        let overflow = if status & VALID == 0 { 0 } else { OVERFLOW };
        let report = [control, check.status | overflow, check.address, check.misc];
        if check.status & UNCORRECTED == 0 {
            if status & VALID != 0 && status & UNCORRECTED != 0 {
                // The worse one stays.
                self.msrs.mc_banks[first + 1] |= OVERFLOW;
            } else {
                self.msrs.mc_banks[first..first + 4].copy_from_slice(&report);
            }
            return MachineCheckOutcome::Reported;
        }
        let shut_down = if self.msrs.mcg_ctl != u64::MAX {
            return MachineCheckOutcome::Disabled;
        } else if control != u64::MAX {
            return MachineCheckOutcome::BankDisabled;
        } else if self.cr4 & cr::CR4_MCE == 0 {
            Some(MachineCheckOutcome::NotEnabled)
        } else if self.msrs.mcg_status & IN_PROGRESS != 0 {
            Some(MachineCheckOutcome::StillInProgress)
        } else {
            None
        };
        if let Some(outcome) = shut_down {
            self.activity = Activity::Shutdown;
            return outcome;
        }
        self.msrs.mc_banks[first..first + 4].copy_from_slice(&report);
        self.msrs.mcg_status = check.global_status;
        // One that waits for its start has no handler yet.
        if !matches!(self.activity, Activity::WaitForSipi | Activity::Shutdown) {
            self.sync_map();
            self.activity = Activity::Running;
            self.shadow = Shadow::None;
            self.deliver(Fault::external(vector::MC));
        }
        MachineCheckOutcome::Reported
    }
}
