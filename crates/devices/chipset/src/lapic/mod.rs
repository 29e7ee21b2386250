//! Local APICs in xAPIC and x2APIC mode, and the bus between them (Intel SDM vol. 3, chapter 11).
//!
//! One [`Lapic`] for each vCPU, and one [`ApicBus`] that routes messages: inter-processor interrupts, MSIs, what the
//! I/O APIC sends, and the end-of-interrupt broadcast back to it. [`CpuApic`] is the vCPU's side.
//!
//! Lock rank: a local APIC's lock is the last one. So an operation that must reach somebody else (another APIC, an
//! I/O APIC, the 8259 pair) first computes an [`Effect`] with the lock held, and the bus performs it afterwards.
//!
//! Left out: APIC arbitration on the old serial bus, focus processors, CMCI, directed EOI, interrupt-remapping formats.
//! The xAPIC page can't be moved: a write of IA32_APIC_BASE keeps the new address, but the page stays at 0xfee00000.

mod bus;
mod cpu;
mod message;
mod registers;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use accel::{ApicMsrError, CpuSignals, Signal};
use clock::{Clock, Timer};
use device::{Device, DeviceState, Handle, ResetKind};

pub use bus::{APIC_SPACE_BASE, APIC_SPACE_SIZE, ApicBus, CpuConfig, current, set_current};
pub use cpu::CpuApic;
pub use message::{DeliveryMode, Destination, InterruptMessage, Trigger};
pub use registers::ApicState;
use registers::{base, error, lvt, reg};

/// The shortest time between two expiries of a periodic timer that is really waited for, in nanoseconds. Shorter
/// periods count right but interrupt at this rate, so that a guest can't occupy the timer thread.
const SHORTEST_PERIOD: u64 = 20_000;

/// What an operation on one APIC asks of the rest of the system, once its lock is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// Tell the I/O APICs that this vector's level-triggered interrupt ended.
    EndOfInterrupt(u8),
    /// Deliver a message.
    Message(InterruptMessage),
}

/// What the bus must know of an APIC to find the destinations of a message without locking it.
#[derive(Debug, Default)]
pub(crate) struct Route {
    /// Bit 0: enabled; bit 1: x2APIC mode.
    mode: AtomicU32,
    physical: AtomicU32,
    ldr: AtomicU32,
    dfr: AtomicU32,
}

impl Route {
    fn is_enabled(&self) -> bool {
        self.mode.load(Ordering::Acquire) & 1 != 0
    }

    fn is_x2apic(&self) -> bool {
        self.mode.load(Ordering::Acquire) & 2 != 0
    }

    fn matches_logical(&self, destination: u32) -> bool {
        let ldr = self.ldr.load(Ordering::Relaxed);
        if self.is_x2apic() {
            return ldr >> 16 == destination >> 16 && ldr & destination & 0xffff != 0;
        }
        let own = ldr >> 24;
        match self.dfr.load(Ordering::Relaxed) >> 28 {
            0xf => own & destination & 0xff != 0,
            0 => own >> 4 == (destination >> 4) & 0xf && own & destination & 0xf != 0,
            _ => false,
        }
    }
}

/// One local APIC.
pub struct Lapic {
    // Configuration.
    index: usize,
    apic_id: u32,
    is_boot_cpu: bool,
    has_x2apic: bool,
    tsc_khz: u64,
    // Wiring.
    clock: Clock,
    timer: Timer,
    signals: Arc<CpuSignals>,
    route: Arc<Route>,
    // Guest-visible state.
    state: ApicState,
    /// What the vCPU's TSC is ahead of the machine's; saved with the vCPU's registers, which set it.
    tsc_offset: i64,
}

impl Lapic {
    pub(crate) fn new(config: &CpuConfig, clock: &Clock, handle: &Handle<Self>, route: Arc<Route>) -> Self {
        let apic = Self {
            index: config.index,
            apic_id: config.apic_id,
            is_boot_cpu: config.is_boot_cpu,
            has_x2apic: config.has_x2apic,
            tsc_khz: config.tsc_khz.max(1),
            clock: clock.clone(),
            timer: handle.timer(clock, Self::timer_due),
            signals: Arc::clone(&config.signals),
            route,
            state: ApicState::power_on(config.apic_id, config.is_boot_cpu),
            tsc_offset: 0,
        };
        apic.publish_route();
        apic
    }

    fn publish_route(&self) {
        let state = &self.state;
        let is_x2apic = state.is_x2apic();
        let mode = u32::from(state.is_enabled()) | u32::from(is_x2apic) << 1;
        self.route.physical.store(if is_x2apic { self.apic_id } else { u32::from(state.id) }, Ordering::Relaxed);
        self.route.ldr.store(self.ldr(), Ordering::Relaxed);
        self.route.dfr.store(state.dfr, Ordering::Relaxed);
        self.route.mode.store(mode, Ordering::Release);
    }

    fn ldr(&self) -> u32 {
        if self.state.is_x2apic() { ApicState::x2apic_ldr(self.apic_id) } else { self.state.ldr }
    }

    /// Tells the vCPU whether there is an interrupt to take.
    fn update_signals(&self) {
        let wanted = self.state.deliverable().is_some() || self.state.wants_external();
        if wanted != self.signals.is_raised(Signal::INTR) {
            if wanted {
                self.signals.raise(Signal::INTR);
            } else {
                self.signals.clear(Signal::INTR);
            }
        }
    }

    /// Accepts a message that the bus routed here.
    pub(crate) fn accept(&mut self, message: &InterruptMessage) {
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                if self.state.accepts_fixed() {
                    self.state.request(message.vector, message.trigger == Trigger::Level);
                }
            }
            DeliveryMode::ExtInt => self.state.extint_message = true,
            DeliveryMode::Smi => self.signals.raise(Signal::SMI),
            DeliveryMode::Nmi => self.signals.raise(Signal::NMI),
            DeliveryMode::Init => self.signals.raise(Signal::INIT),
            DeliveryMode::StartUp => self.signals.raise_sipi(message.vector),
        }
        self.update_signals();
    }

    /// Delivers a local interrupt as its vector table entry says.
    fn deliver_local(&mut self, index: usize) {
        let entry = self.state.lvt[index];
        if entry & lvt::MASKED != 0 || !self.state.is_enabled() {
            return;
        }
        match DeliveryMode::from_bits(entry >> 8) {
            Some(DeliveryMode::Fixed) if self.state.accepts_fixed() => {
                let is_level = index == lvt::LINT0 && entry & lvt::LEVEL != 0;
                if is_level && entry & lvt::REMOTE_IRR != 0 {
                    return;
                }
                if is_level {
                    self.state.lvt[index] |= lvt::REMOTE_IRR;
                }
                self.state.request(entry as u8, is_level);
            }
            Some(DeliveryMode::Smi) => self.signals.raise(Signal::SMI),
            Some(DeliveryMode::Nmi) => self.signals.raise(Signal::NMI),
            Some(DeliveryMode::Init) => self.signals.raise(Signal::INIT),
            // ExtINT follows the pin's level, see `ApicState::wants_external`; the rest is reserved.
            _ => {}
        }
    }

    /// The level of the LINT0 pin, which the 8259 pair drives.
    pub(crate) fn set_lint0(&mut self, level: bool) {
        let is_edge = level && !self.state.lint0_level;
        self.state.lint0_level = level;
        if is_edge {
            self.deliver_local(lvt::LINT0);
        }
        self.update_signals();
    }

    /// The level of the LINT1 pin, the NMI input.
    pub(crate) fn set_lint1(&mut self, level: bool) {
        let is_edge = level && !self.state.lint1_level;
        self.state.lint1_level = level;
        if !is_edge {
            return;
        }
        if self.state.is_enabled() {
            self.deliver_local(lvt::LINT1);
            self.update_signals();
        } else if self.is_boot_cpu {
            self.signals.raise(Signal::NMI);
        }
    }

    // ---- The timer ----

    fn timer_mode(&self) -> u32 {
        (self.state.lvt[lvt::TIMER] >> 17) & 3
    }

    /// log2 of the nanoseconds that one count takes: the bus clock is 1 GHz.
    fn divide_shift(&self) -> u32 {
        let field = (self.state.divide & 3) | ((self.state.divide >> 1) & 4);
        (field + 1) & 7
    }

    fn period(&self) -> u64 {
        u64::from(self.state.initial_count) << self.divide_shift()
    }

    fn current_count(&self) -> u32 {
        let period = self.period();
        if period == 0 || self.timer_mode() > 1 {
            return 0;
        }
        let elapsed = self.clock.now().saturating_sub(self.state.count_start);
        let left = match self.timer_mode() {
            1 => period - elapsed % period,
            _ => period.saturating_sub(elapsed),
        };
        // A count that has begun is not over: round up.
        left.div_ceil(1 << self.divide_shift()) as u32
    }

    /// The guest time at which the TSC of this vCPU reaches `tsc`.
    fn tsc_to_time(&self, tsc: u64) -> u64 {
        let machine = u128::try_from(i128::from(tsc) - i128::from(self.tsc_offset)).unwrap_or(0);
        let khz = u128::from(self.tsc_khz);
        u64::try_from((machine * 1_000_000).div_ceil(khz)).unwrap_or(u64::MAX)
    }

    /// The next expiry after `now`, or 0 when there is none.
    fn expiry_after(&self, now: u64) -> u64 {
        let start = self.state.count_start;
        let period = self.period();
        match self.timer_mode() {
            0 if period != 0 && now < start.saturating_add(period) => start.saturating_add(period),
            1 if period != 0 => {
                let done = now.saturating_sub(start) / period;
                start.saturating_add(period.saturating_mul(done.saturating_add(1)))
            }
            2 if self.state.tsc_deadline != 0 => self.tsc_to_time(self.state.tsc_deadline).max(1),
            _ => 0,
        }
    }

    /// Deals with an expiry that the timer thread has not come to yet, before the timer's registers change. Returns the
    /// time, which [`Lapic::rearm`] must get: a count that began and ended between two looks at the clock would be lost.
    fn settle_timer(&mut self) -> u64 {
        let now = self.clock.now();
        if self.state.next_expiry != 0 && now >= self.state.next_expiry {
            self.expire(now);
        }
        now
    }

    /// Arms the timer after its registers changed at `now`.
    fn rearm(&mut self, now: u64) {
        self.state.next_expiry = self.expiry_after(now);
        let expiry = self.state.next_expiry;
        if expiry == 0 || (self.state.lvt[lvt::TIMER] & lvt::MASKED != 0 && self.timer_mode() != 2) {
            self.timer.cancel();
        } else if expiry <= now {
            self.expire(now);
        } else {
            self.timer.arm(expiry);
        }
    }

    fn timer_due(&mut self) {
        self.settle_timer();
    }

    fn expire(&mut self, now: u64) {
        let entry = self.state.lvt[lvt::TIMER];
        if entry & lvt::MASKED == 0 && self.state.accepts_fixed() {
            self.state.request(entry as u8, false);
            self.update_signals();
        }
        self.state.tsc_deadline = 0;
        self.state.next_expiry = if self.timer_mode() == 1 { self.expiry_after(now) } else { 0 };
        if self.state.next_expiry == 0 {
            self.timer.cancel();
        } else {
            self.state.next_expiry = self.state.next_expiry.max(now.saturating_add(SHORTEST_PERIOD));
            self.timer.arm(self.state.next_expiry);
        }
    }

    // ---- Registers ----

    /// Reads a register by its number (offset / 16).
    pub(crate) fn read_register(&mut self, index: u32) -> u32 {
        let state = &self.state;
        let word = |set: &[u32; 8]| set[(index & 7) as usize];
        match index {
            reg::ID if state.is_x2apic() => self.apic_id,
            reg::ID => u32::from(state.id) << 24,
            reg::VERSION => registers::VERSION,
            reg::TPR => u32::from(state.tpr),
            reg::PPR => u32::from(state.ppr()),
            reg::LDR => self.ldr(),
            reg::DFR => state.dfr,
            reg::SVR => state.svr,
            0x10..=0x17 => word(&state.isr),
            0x18..=0x1f => word(&state.tmr),
            0x20..=0x27 => word(&state.irr),
            reg::ESR => state.esr,
            reg::ICR_LOW => state.icr as u32,
            reg::ICR_HIGH => (state.icr >> 32) as u32,
            reg::LVT_TIMER..=reg::LVT_ERROR => state.lvt[(index - reg::LVT_TIMER) as usize],
            reg::INITIAL_COUNT => state.initial_count,
            reg::CURRENT_COUNT => self.current_count(),
            reg::DIVIDE => state.divide,
            // Arbitration priority and remote read belong to the serial APIC bus; the end of interrupt reads zero.
            reg::APR | reg::RRD | reg::EOI => 0,
            _ => {
                self.state.note_error(error::ILLEGAL_REGISTER);
                self.update_signals();
                0
            }
        }
    }

    /// Writes a register by its number (offset / 16).
    pub(crate) fn write_register(&mut self, index: u32, value: u32) -> Effect {
        let effect = self.store_register(index, value);
        self.update_signals();
        effect
    }

    fn store_register(&mut self, index: u32, value: u32) -> Effect {
        match index {
            reg::EOI => return self.state.end_of_interrupt().map_or(Effect::None, Effect::EndOfInterrupt),
            reg::TPR => self.state.tpr = value as u8,
            reg::ICR_LOW => {
                self.state.icr = (self.state.icr & !0xffff_ffff) | u64::from(value & 0xc_cfff);
                return self.command();
            }
            reg::ICR_HIGH => self.state.icr = (self.state.icr & 0xffff_ffff) | u64::from(value & 0xff00_0000) << 32,
            reg::INITIAL_COUNT => {
                if self.timer_mode() != 2 {
                    let now = self.settle_timer();
                    self.state.initial_count = value;
                    self.state.count_start = now;
                    self.rearm(now);
                }
            }
            reg::DIVIDE => {
                let now = self.settle_timer();
                self.state.divide = value & 0xb;
                self.rearm(now);
            }
            reg::LVT_TIMER => self.write_lvt_timer(value),
            0x33..=reg::LVT_ERROR => self.write_lvt((index - reg::LVT_TIMER) as usize, value),
            reg::SVR => {
                let now = self.settle_timer();
                self.state.write_svr(value);
                self.rearm(now);
            }
            reg::ESR => self.state.esr = std::mem::take(&mut self.state.esr_pending),
            reg::ID => self.state.id = (value >> 24) as u8,
            reg::LDR => self.state.ldr = value & 0xff00_0000,
            reg::DFR => self.state.dfr = value | 0x0fff_ffff,
            reg::VERSION | reg::APR | reg::PPR | reg::RRD | 0x10..=0x27 | reg::CURRENT_COUNT => {}
            _ => self.state.note_error(error::ILLEGAL_REGISTER),
        }
        if matches!(index, reg::ID | reg::LDR | reg::DFR) {
            self.publish_route();
        }
        Effect::None
    }

    fn write_lvt_timer(&mut self, value: u32) {
        let now = self.settle_timer();
        let before = self.timer_mode();
        self.state.write_lvt(lvt::TIMER, value);
        if (before == 2) != (self.timer_mode() == 2) {
            // Switching to or from TSC-deadline mode disarms the timer (SDM vol. 3, 11.5.4.1).
            self.state.initial_count = 0;
            self.state.tsc_deadline = 0;
        }
        self.rearm(now);
    }

    fn write_lvt(&mut self, index: usize, value: u32) {
        self.state.write_lvt(index, value);
        if index == lvt::LINT0 && self.state.lint0_level && value & lvt::LEVEL != 0 {
            self.deliver_local(lvt::LINT0);
        }
    }

    /// What a write of the interrupt command register sends.
    fn command(&mut self) -> Effect {
        let low = self.state.icr as u32;
        let Some(mode) = DeliveryMode::from_bits(low >> 8) else { return Effect::None };
        let vector = low as u8;
        let is_level_deassert = low & (1 << 15) != 0 && low & (1 << 14) == 0;
        if mode == DeliveryMode::Init && is_level_deassert {
            // Synchronises arbitration on the serial bus of old; nobody is initialised.
            return Effect::None;
        }
        if vector < 16 && matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority) {
            self.state.note_error(error::SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        let is_logical = low & (1 << 11) != 0;
        let destination = match (low >> 18) & 3 {
            0 if self.state.is_x2apic() => Destination::wide((self.state.icr >> 32) as u32, is_logical),
            0 => Destination::narrow((self.state.icr >> 56) as u8, is_logical),
            1 => Destination::Cpu(self.index),
            2 => Destination::All,
            _ => Destination::AllExcept(self.index),
        };
        Effect::Message(InterruptMessage { destination, mode, vector, trigger: Trigger::Edge })
    }

    // ---- Model-specific registers ----

    pub(crate) fn read_msr(&mut self, index: u32) -> Result<u64, ApicMsrError> {
        if index == 0x6e0 {
            return Ok(self.state.tsc_deadline);
        }
        if !self.state.is_x2apic() {
            return Err(ApicMsrError);
        }
        match index.wrapping_sub(0x800) {
            reg::ICR_LOW => Ok(self.state.icr),
            reg @ (reg::ID
            | reg::VERSION
            | reg::TPR
            | reg::PPR
            | reg::LDR
            | reg::SVR
            | 0x10..=0x28
            | reg::LVT_TIMER..=reg::CURRENT_COUNT
            | reg::DIVIDE) => Ok(u64::from(self.read_register(reg))),
            _ => Err(ApicMsrError),
        }
    }

    pub(crate) fn write_msr(&mut self, index: u32, value: u64) -> Result<Effect, ApicMsrError> {
        if index == 0x6e0 {
            if self.timer_mode() == 2 {
                let now = self.settle_timer();
                self.state.tsc_deadline = value;
                self.rearm(now);
            }
            return Ok(Effect::None);
        }
        if !self.state.is_x2apic() {
            return Err(ApicMsrError);
        }
        let register = index.wrapping_sub(0x800);
        if register == reg::ICR_LOW {
            if value & !0xffff_ffff_000c_cfff & !0x1000 != 0 {
                return Err(ApicMsrError);
            }
            self.state.icr = value & !0x1000;
            let effect = self.command();
            self.update_signals();
            return Ok(effect);
        }
        let allowed: u64 = match register {
            reg::TPR | reg::SELF_IPI => 0xff,
            reg::EOI | reg::ESR => 0,
            reg::SVR => 0x11ff,
            reg::LVT_TIMER => 0x7_10ff,
            0x33 | 0x34 => 0x1_17ff,
            0x35 | 0x36 => 0x1_f7ff,
            reg::LVT_ERROR => 0x1_10ff,
            reg::INITIAL_COUNT => 0xffff_ffff,
            reg::DIVIDE => 0xb,
            _ => return Err(ApicMsrError),
        };
        if value & !allowed != 0 {
            return Err(ApicMsrError);
        }
        if register == reg::SELF_IPI {
            self.accept(&InterruptMessage {
                destination: Destination::Cpu(self.index),
                mode: DeliveryMode::Fixed,
                vector: value as u8,
                trigger: Trigger::Edge,
            });
            return Ok(Effect::None);
        }
        Ok(self.write_register(register, value as u32))
    }

    pub(crate) fn set_base(&mut self, value: u64) -> Result<(), ApicMsrError> {
        const RESERVED: u64 = !0xff_ffff_fd00;
        let (enable, extended) = (value & base::ENABLE != 0, value & base::EXTD != 0);
        let was = (self.state.is_enabled(), self.state.is_x2apic());
        let is_refused = value & RESERVED != 0
            || (extended && !(enable && self.has_x2apic))
            || (was == (true, true) && enable && !extended)
            || (was == (false, false) && extended);
        if is_refused {
            return Err(ApicMsrError);
        }
        let now = self.settle_timer();
        if was.0 && !enable {
            // The identity survives, all else is as after power-on (SDM vol. 3, 11.4.3).
            self.state = self.reset_state();
        }
        self.state.base = value;
        if extended && !was.1 {
            self.state.icr &= 0xffff_ffff;
        }
        self.publish_route();
        self.rearm(now);
        self.update_signals();
        Ok(())
    }

    /// The state after INIT: identity, base and pin levels stay.
    fn reset_state(&self) -> ApicState {
        let ApicState { base, id, lint0_level, lint1_level, .. } = self.state;
        let fresh = ApicState::power_on(self.apic_id, false);
        ApicState { base, id, lint0_level, lint1_level, ..fresh }
    }

    pub(crate) fn init(&mut self) {
        self.state = self.reset_state();
        self.publish_route();
        self.rearm(self.clock.now());
        self.update_signals();
    }

    pub(crate) fn set_tsc_offset(&mut self, offset: i64) {
        if self.tsc_offset != offset {
            self.tsc_offset = offset;
            if self.state.tsc_deadline != 0 {
                self.rearm(self.clock.now());
            }
        }
    }
}

impl Device for Lapic {
    fn reset(&mut self, _kind: ResetKind) {
        let ApicState { lint0_level, lint1_level, .. } = self.state;
        let fresh = ApicState::power_on(self.apic_id, self.is_boot_cpu);
        self.state = ApicState { lint0_level, lint1_level, ..fresh };
        self.publish_route();
        self.rearm(self.clock.now());
        self.update_signals();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        self.publish_route();
        if self.state.next_expiry != 0 {
            self.timer.arm(self.state.next_expiry);
        } else {
            self.timer.cancel();
        }
        self.update_signals();
    }
}
