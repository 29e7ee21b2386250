//! Hardware breakpoints: what DR0–DR3 and DR7 match (SDM vol. 3, chapter 17); and those of a debugger outside.

use accel::{DebugRequest, DebugStop, Watchpoint};
use memory::AccessSize;

use crate::control::dr6;
use crate::mmu::AccessKind;
use crate::state::{Cpu, cr};
use x86::regs::SegmentRegister;

/// DR6: B0–B3.
const BREAKPOINTS: u64 = 0xf;

/// What a breakpoint waits for: the R/W field of DR7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Execute = 0,
    Write = 1,
    Port = 2,
    ReadWrite = 3,
}

/// A debugger outside of the guest: its breakpoints are compared with where blocks begin and end, so that nothing is
/// written to guest memory, and code without breakpoints in it is run by whole blocks. Translated code is not entered.
#[derive(Debug, Default)]
pub(crate) struct Debugger {
    request: DebugRequest,
    /// Anything is wanted.
    pub(crate) is_active: bool,
    /// Accesses are wanted.
    watches: bool,
    /// Why the vCPU has to come back.
    pub(crate) stop: Option<DebugStop>,
}

impl Debugger {
    /// Whether one instruction is to be executed.
    pub(crate) fn steps(&self) -> bool {
        self.request.step
    }

    /// Whether interrupts wait.
    pub(crate) fn masks_interrupts(&self) -> bool {
        self.request.step && self.request.masks_interrupts
    }

    /// Whether there is a breakpoint at `linear`.
    pub(crate) fn stops_at(&self, linear: u64) -> bool {
        self.request.breakpoints.contains(&linear)
    }

    /// Whether there is a breakpoint behind the first of `len` bytes of code.
    pub(crate) fn stops_within(&self, linear: u64, len: u64) -> bool {
        self.request.breakpoints.iter().any(|at| (1..len).contains(&at.wrapping_sub(linear)))
    }

    fn watched(&self, at: u64, len: u64, kind: Option<AccessKind>) -> Option<Watchpoint> {
        let meets = |point: &&Watchpoint| {
            let wanted = match kind {
                None => true,
                Some(AccessKind::Write) => point.writes,
                Some(_) => point.reads,
            };
            wanted && at < point.address.saturating_add(point.len) && point.address < at.saturating_add(len)
        };
        self.request.watchpoints.iter().find(meets).copied()
    }
}

impl Cpu {
    /// Takes what a debugger wants.
    pub(crate) fn set_debug(&mut self, request: &DebugRequest) {
        self.debugger.request.clone_from(request);
        self.debugger.is_active = !request.is_empty();
        self.debugger.watches = !request.watchpoints.is_empty();
        self.debugger.stop = None;
        // Watched pages must not be in the tables for fast accesses.
        self.tlb.flush_all();
    }

    /// Whether any breakpoint is enabled, the guest's or a debugger's on data.
    #[inline]
    pub(crate) fn has_breakpoints(&self) -> bool {
        self.dr[7] & 0xff != 0 || self.debugger.watches
    }

    /// Breakpoint `slot` if it is enabled: condition, first address and length in bytes.
    fn breakpoint(&self, slot: usize) -> Option<(Condition, u64, u64)> {
        if self.dr[7] >> (2 * slot) & 3 == 0 {
            return None;
        }
        let field = self.dr[7] >> (16 + 4 * slot);
        let condition = match field & 3 {
            0 => Condition::Execute,
            1 => Condition::Write,
            2 if self.cr4 & cr::CR4_DE != 0 => Condition::Port,
            2 => return None,
            _ => Condition::ReadWrite,
        };
        let len = match field >> 2 & 3 {
            0 => 1,
            1 => 2,
            2 => 8,
            _ => 4,
        };
        Some((condition, self.dr[slot] & !(len - 1), len))
    }

    fn matches(&self, at: u64, len: u64, conditions: &[Condition]) -> u64 {
        let mut bits = 0;
        for slot in 0..4 {
            if let Some((condition, start, size)) = self.breakpoint(slot)
                && conditions.contains(&condition)
                && at < start.saturating_add(size)
                && start < at.saturating_add(len)
            {
                bits |= dr6::B0 << slot;
            }
        }
        bits
    }

    /// Whether a data breakpoint lies in the page of `linear`.
    pub(crate) fn watches_page(&self, linear: u64) -> bool {
        let conditions = [Condition::Write, Condition::ReadWrite];
        self.has_breakpoints()
            && (self.matches(linear & !0xfff, 0x1000, &conditions) != 0
                || self.debugger.watched(linear & !0xfff, 0x1000, None).is_some())
    }

    /// Notes the data breakpoints that an access meets; they trap after the instruction.
    #[inline]
    pub(crate) fn note_data_access(&mut self, linear: u64, len: u64, kind: AccessKind) {
        if self.has_breakpoints() {
            let all = [Condition::ReadWrite, Condition::Write];
            let conditions = if kind == AccessKind::Write { &all[..] } else { &all[..1] };
            self.pending_debug |= self.matches(linear, len, conditions);
            if self.debugger.watches
                && let Some(point) = self.debugger.watched(linear, len, Some(kind))
            {
                self.debugger.stop = Some(DebugStop::Watchpoint(point));
            }
        }
    }

    /// Notes in DR6 why a debug exception comes: B0–B3 say what matched now, the other bits stay until software clears
    /// them.
    pub(crate) fn note_debug_trap(&mut self, bits: u64) {
        self.dr[6] = self.dr[6] & !BREAKPOINTS | bits;
    }

    /// Notes the I/O breakpoints that a port access meets.
    pub(crate) fn note_port_access(&mut self, port: u16, size: AccessSize) {
        if self.has_breakpoints() {
            self.pending_debug |= self.matches(u64::from(port), size.bytes() as u64, &[Condition::Port]);
        }
    }

    /// DR6 bits of the instruction breakpoints at the current instruction.
    pub(crate) fn instruction_breakpoints(&self) -> u64 {
        if !self.has_breakpoints() {
            return 0;
        }
        self.matches(self.linear(SegmentRegister::Cs, self.rip), 1, &[Condition::Execute])
    }
}
