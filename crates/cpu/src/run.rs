//! The outer loop: what happens between instructions, in the order of SDM vol. 3, table 6-2: INIT#, debug traps, NMI,
//! interrupts, instruction breakpoints; then blocks of code. An SMI comes behind the debug traps of the last
//! instruction, so that these need not be kept while it is handled.
//!
//! NMI, SMI and INIT# are edges: they are taken from the mailbox at once and wait in the vCPU while they are held off.

use accel::{Signal, VcpuExit, VcpuReset};
use x86::regs::rflags;

use crate::block::BlockExit;
use crate::control::dr6;
use crate::fault::{EventKind, Fault, vector};
use crate::state::{Activity, Cpu, Shadow};

/// Signals that are about the vCPU itself and come before everything else.
const CONTROL: u32 = Signal::STOP.0 | Signal::INIT.0 | Signal::SIPI.0 | Signal::SMI.0 | Signal::NMI.0 | Signal::REMAP.0;

impl Cpu {
    /// Runs until something happens that the caller must know.
    pub(crate) fn run(&mut self) -> VcpuExit {
        loop {
            self.sync_map();
            self.exit_request = false;
            if self.debugger.is_active && self.debugger.stop.is_some() {
                return VcpuExit::Debug;
            }
            let pending = self.signals.pending();
            if (pending & CONTROL != 0 || self.init_pending)
                && let Some(exit) = self.control_signals()
            {
                return exit;
            }
            if self.between_instructions(pending) {
                continue;
            }
            if let Some(report) = self.lockstep.as_mut().and_then(|lockstep| lockstep.report.take()) {
                return VcpuExit::InternalError(report);
            }
            match self.activity {
                Activity::Running if self.count_is_due() => return VcpuExit::Stopped,
                Activity::Running => self.execute(),
                Activity::Halted | Activity::WaitForSipi => return VcpuExit::Halted,
                Activity::Shutdown => return VcpuExit::Shutdown,
            }
        }
    }

    fn control_signals(&mut self) -> Option<VcpuExit> {
        if self.signals.take(Signal::REMAP) {
            self.reload_map();
        }
        self.smm.smi_pending |= self.signals.take(Signal::SMI);
        self.nmi_pending |= self.signals.take(Signal::NMI);
        self.init_pending |= self.signals.take(Signal::INIT);
        if self.init_pending && !self.smm.active {
            self.reset(VcpuReset::Init);
        }
        if self.signals.take(Signal::SIPI) && self.activity == Activity::WaitForSipi {
            self.start_at(self.signals.sipi_vector());
        }
        self.signals.take(Signal::STOP).then_some(VcpuExit::Stopped)
    }

    /// Delivers what is due between two instructions. `true`: something was.
    fn between_instructions(&mut self, pending: u32) -> bool {
        if matches!(self.activity, Activity::WaitForSipi | Activity::Shutdown) {
            // NMIs are lost (SDM vol. 3, 9.4.2).
            self.nmi_pending = false;
            return false;
        }
        if self.pending_debug != 0 && self.shadow != Shadow::MovSs {
            let bits = std::mem::take(&mut self.pending_debug);
            self.note_debug_trap(bits);
            self.shadow = Shadow::None;
            self.activity = Activity::Running;
            self.deliver(Fault::db_trap());
            return true;
        }
        if self.smm.smi_pending && !self.smm.active && self.shadow == Shadow::None {
            self.enter_smm();
            return true;
        }
        if self.nmi_pending && !self.nmi_blocked && self.shadow != Shadow::MovSs {
            self.nmi_pending = false;
            self.shadow = Shadow::None;
            self.activity = Activity::Running;
            self.deliver(Fault::external(vector::NMI));
            self.nmi_blocked = true;
            return true;
        }
        let open = self.system_flag(rflags::IF) && self.shadow == Shadow::None;
        if self.debugger.masks_interrupts() {
            if pending & Signal::INTR.0 != 0 && open && self.activity == Activity::Halted {
                // It is awake, and the interrupt comes later.
                self.activity = Activity::Running;
            }
            return false;
        }
        if pending & Signal::INTR.0 != 0
            && open
            && let Some(vector) = self.apic.acknowledge()
        {
            self.activity = Activity::Running;
            self.deliver(Fault::external(vector));
            return true;
        }
        false
    }

    /// Runs code until the outer loop is wanted.
    fn execute(&mut self) {
        if self.debugger.is_active && !self.debugger.steps() {
            let linear = self.linear(x86::regs::SegmentRegister::Cs, self.rip);
            if self.debugger.stops_at(linear) {
                self.debugger.stop = Some(accel::DebugStop::Breakpoint);
                return;
            }
        }
        // After a load of SS instruction breakpoints are passed over (SDM vol. 3, section 18.3.1.1).
        if self.has_breakpoints() && !self.system_flag(rflags::RF) && self.shadow != Shadow::MovSs {
            let bits = self.instruction_breakpoints();
            if bits != 0 {
                self.note_debug_trap(bits);
                self.deliver(Fault::db());
                return;
            }
        }
        // RF holds for one instruction. A fault of it saves RF as set anyway.
        self.system_flags &= !rflags::RF;
        let shadow = std::mem::take(&mut self.shadow);
        self.step = self.system_flag(rflags::TF);
        self.one_instruction = self.step || self.debugger.steps() || self.has_breakpoints() || shadow != Shadow::None;
        self.signal_mask = self.wanted_signals();
        let exit = self.exec_with(true);
        if self.debugger.steps() && self.debugger.stop.is_none() {
            self.debugger.stop = Some(accel::DebugStop::Step);
        }
        match exit {
            BlockExit::Fault(fault) => {
                if fault.kind() == EventKind::Fault {
                    // The instruction will run again and meet its data breakpoints then.
                    self.pending_debug = 0;
                } else if fault.kind() == EventKind::PrivilegedSoftware && self.pending_debug != 0 {
                    // ICEBP after a shadow: what was pending comes with the same exception. After INT n it comes on
                    // its own.
                    let bits = std::mem::take(&mut self.pending_debug);
                    self.note_debug_trap(bits);
                }
                self.deliver(fault);
            }
            // Its report ends the run.
            BlockExit::Differs => {}
            BlockExit::StepDone | BlockExit::Halt | BlockExit::Signals => {
                // No single-step trap follows a load of SS. SYSCALL and SYSRET decide by the TF that they leave.
                if self.step && self.shadow != Shadow::MovSs {
                    self.pending_debug |= dr6::BS;
                }
            }
        }
    }

    /// Whether an event that waits in the vCPU is no longer held off.
    pub(crate) fn has_due_event(&self) -> bool {
        (self.nmi_pending && !self.nmi_blocked) || ((self.smm.smi_pending || self.init_pending) && !self.smm.active)
    }

    /// The signals that have to be looked at before the next block. One instruction at a time needs none: the loop
    /// looks after each.
    pub(crate) fn wanted_signals(&self) -> u32 {
        if self.one_instruction {
            return 0;
        }
        let mut wanted = CONTROL | Signal::CODE.0;
        if self.system_flag(rflags::IF) {
            wanted |= Signal::INTR.0;
        }
        wanted
    }
}
