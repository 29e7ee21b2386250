//! The 8254 programmable interval timer (Intel 231164-005) at ports 0x40–0x43, and port 0x61, which gates its channel 2
//! and reads its output.
//!
//! All six modes, the read-back command, count and status latches, BCD, and the gate of channel 2. Channel 0 drives
//! interrupt 0. An output that toggles is computed when somebody looks; for channel 0 only rising edges are waited for,
//! because nothing else can be seen of them. A periodic tick that the guest could not take, because the last one still
//! waited (its processor did not run), is kept and given later, as KVM does: guests count them. Left out: sound, and the NMI bits of port 0x61 (nothing drives them).

use clock::{Clock, Timer};
use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, IrqLine, ResetKind};
use state::State;

use crate::legacy::LegacyReplacement;

/// Region 0: the four ports of the timer (0x40).
pub const REGION_TIMER: usize = 0;
/// Region 1: port 0x61.
pub const REGION_SPEAKER: usize = 1;

/// The input clock in Hz.
const FREQUENCY: u64 = 1_193_182;
const SECOND: u64 = 1_000_000_000;
/// Channel 0 interrupts at most this often, in nanoseconds, so that a guest can't occupy the timer thread.
const SHORTEST_PERIOD: u64 = 20_000;
/// Ticks beyond this many that a guest did not take are lost.
const MOST_OWED: u32 = 1000;

fn to_ticks(nanoseconds: u64) -> u64 {
    (u128::from(nanoseconds) * u128::from(FREQUENCY) / u128::from(SECOND)) as u64
}

/// The first nanosecond at which `ticks` ticks are over.
fn to_nanoseconds(ticks: u64) -> u64 {
    (u128::from(ticks) * u128::from(SECOND)).div_ceil(u128::from(FREQUENCY)) as u64
}

fn from_bcd(value: u16) -> u32 {
    (0..4).rev().fold(0, |sum, digit| sum * 10 + u32::from((value >> (4 * digit)) & 0xf))
}

fn to_bcd(value: u32) -> u16 {
    (0..4).fold((0, value), |(bcd, rest), digit| (bcd | ((rest % 10) as u16) << (4 * digit), rest / 10)).0
}

/// Which byte a channel's port means.
mod access {
    pub const LOW: u8 = 1;
    pub const HIGH: u8 = 2;
    pub const BOTH: u8 = 3;
}

/// The guest-visible state of one channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "i8254/channel", version = 1)]
struct Channel {
    /// The count's initial value, 1..=65536 (10000 in BCD).
    #[state(max = 0x10000)]
    count: u32,
    #[state(max = 5)]
    mode: u8,
    is_bcd: bool,
    #[state(max = 3)]
    access: u8,
    /// A count was written since the control word.
    is_loaded: bool,
    gate: bool,
    /// Guest time when counting began.
    start: u64,
    /// Nanoseconds that were counted before the gate went low; valid while counting is held.
    held: u64,
    /// The low byte of a two-byte write, while its high byte is awaited.
    write_low: u8,
    expects_high_write: bool,
    expects_high_read: bool,
    latched_count: u16,
    /// How many bytes of the latched count wait to be read.
    #[state(max = 2)]
    latched_bytes: u8,
    latched_status: u8,
    is_status_latched: bool,
}

impl Channel {
    fn is_held(&self) -> bool {
        !self.gate && !matches!(self.mode, 1 | 5)
    }

    /// Ticks since counting began.
    fn elapsed(&self, now: u64) -> u64 {
        to_ticks(if self.is_held() { self.held } else { now.saturating_sub(self.start) })
    }

    fn read_count(&self, now: u64) -> u16 {
        let (count, elapsed) = (u64::from(self.count.max(1)), self.elapsed(now));
        let modulus = if self.is_bcd { 10_000 } else { 0x1_0000 };
        let value = match self.mode {
            2 => count - elapsed % count,
            // Counts by two, once for each half of the period.
            3 => count - (elapsed.wrapping_mul(2)) % count,
            _ if !self.is_loaded => count,
            _ => (count + modulus - elapsed % modulus) % modulus,
        };
        let value = (value % modulus) as u32;
        if self.is_bcd { to_bcd(value) } else { value as u16 }
    }

    fn output(&self, now: u64) -> bool {
        if !self.is_loaded {
            return self.mode != 0;
        }
        let (count, elapsed) = (u64::from(self.count.max(1)), self.elapsed(now));
        match self.mode {
            0 => elapsed >= count,
            // High until the gate's edge starts the pulse.
            1 => self.start == 0 || elapsed >= count,
            2 => !self.gate || elapsed % count != count - 1,
            3 => !self.gate || elapsed % count < count.div_ceil(2),
            _ => elapsed != count,
        }
    }

    /// Whether the output stays high behind a rising edge until the next count. In the other modes an interrupt is the
    /// edge alone: at the end of each period, or of a strobe.
    fn lasts(&self) -> bool {
        matches!(self.mode, 0 | 1) && self.is_loaded
    }

    /// Guest time of the next rising edge of the output.
    fn next_rise(&self, now: u64) -> Option<u64> {
        if !self.is_loaded || self.is_held() {
            return None;
        }
        let (count, elapsed) = (u64::from(self.count.max(1)), self.elapsed(now));
        let ticks = match self.mode {
            0 | 1 => (elapsed < count).then_some(count)?,
            2 | 3 => (elapsed / count + 1) * count,
            _ => (elapsed <= count).then_some(count + 1)?,
        };
        Some(self.start.saturating_add(to_nanoseconds(ticks)))
    }

    fn status(&self, now: u64) -> u8 {
        u8::from(self.output(now)) << 7
            | u8::from(!self.is_loaded) << 6
            | self.access << 4
            | self.mode << 1
            | u8::from(self.is_bcd)
    }

    fn control(&mut self, value: u8) {
        self.access = (value >> 4) & 3;
        // Modes 6 and 7 are 2 and 3.
        self.mode = match (value >> 1) & 7 {
            mode @ 6.. => mode - 4,
            mode => mode,
        };
        self.is_bcd = value & 1 != 0;
        self.is_loaded = false;
        (self.expects_high_write, self.expects_high_read) = (false, false);
        (self.latched_bytes, self.is_status_latched) = (0, false);
    }

    fn latch_count(&mut self, now: u64) {
        if self.latched_bytes == 0 {
            self.latched_count = self.read_count(now);
            self.latched_bytes = if self.access == access::BOTH { 2 } else { 1 };
        }
    }

    fn latch_status(&mut self, now: u64) {
        if !self.is_status_latched {
            self.latched_status = self.status(now);
            self.is_status_latched = true;
        }
    }

    fn read(&mut self, now: u64) -> u8 {
        if std::mem::take(&mut self.is_status_latched) {
            return self.latched_status;
        }
        let is_latched = self.latched_bytes != 0;
        let [low, high] = if is_latched { self.latched_count } else { self.read_count(now) }.to_le_bytes();
        self.latched_bytes = self.latched_bytes.saturating_sub(1);
        match self.access {
            access::LOW => low,
            access::HIGH => high,
            _ => {
                self.expects_high_read = !self.expects_high_read;
                if self.expects_high_read { low } else { high }
            }
        }
    }

    /// Takes a byte of a new count. Returns whether the count is complete.
    fn write(&mut self, value: u8, now: u64) -> bool {
        let count = match self.access {
            access::LOW => u16::from(value),
            access::HIGH => u16::from(value) << 8,
            _ if !self.expects_high_write => {
                (self.write_low, self.expects_high_write) = (value, true);
                if self.mode == 0 {
                    // The first byte stops the count.
                    self.is_loaded = false;
                }
                return self.mode == 0;
            }
            _ => {
                self.expects_high_write = false;
                u16::from_le_bytes([self.write_low, value])
            }
        };
        let modulus = if self.is_bcd { 10_000 } else { 0x1_0000 };
        let value = if self.is_bcd { from_bcd(count) } else { u32::from(count) };
        self.count = if value == 0 { modulus } else { value };
        self.is_loaded = true;
        self.held = 0;
        // Modes 1 and 5 wait for the gate.
        self.start = if matches!(self.mode, 1 | 5) { 0 } else { now };
        true
    }

    fn set_gate(&mut self, gate: bool, now: u64) {
        let is_rising = gate && !self.gate;
        let was_held = self.is_held();
        if !gate && self.gate && !matches!(self.mode, 1 | 5) {
            self.held = now.saturating_sub(self.start);
        }
        self.gate = gate;
        match self.mode {
            0 | 4 if is_rising && was_held => self.start = now.saturating_sub(self.held),
            // The rising edge starts the count anew.
            1 | 2 | 3 | 5 if is_rising => self.start = now.max(1),
            _ => {}
        }
    }
}

/// The guest-visible state.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "i8254", version = 1)]
struct PitState {
    channels: [Channel; 3],
    /// Bit 1 of port 0x61: the speaker's data.
    speaker_data: bool,
    /// Bit 4 of port 0x61, which toggles with the DRAM refresh: with each read, as QEMU has it.
    refresh: bool,
    /// Guest time of channel 0's next rising edge; 0 when there is none.
    next_rise: u64,
    /// Periodic ticks of channel 0 that the guest has yet to get.
    owed: u32,
}

/// The timer.
#[derive(Debug)]
pub struct I8254 {
    // Wiring.
    clock: Clock,
    timer: Timer,
    irq: IrqLine,
    legacy: LegacyReplacement,
    // Guest-visible state.
    state: PitState,
}

impl I8254 {
    /// A timer whose channel 0 drives `irq` unless the HPET replaces it.
    pub fn new(clock: &Clock, irq: IrqLine, legacy: LegacyReplacement) -> DeviceCell<Self> {
        let pit = DeviceCell::new_cyclic(|handle| Self {
            clock: clock.clone(),
            timer: handle.timer(clock, Self::timer_due),
            irq,
            legacy,
            state: PitState::default(),
        });
        pit.lock().reset(ResetKind::Cold);
        pit
    }

    /// Follows channel 0's output after something changed at `now`: looked at a second time, the clock might show that a
    /// count is over which has only begun.
    fn update(&mut self, now: u64) {
        let channel = &self.state.channels[0];
        let level = channel.lasts() && channel.output(now);
        let next = channel.next_rise(now);
        self.state.next_rise = next.unwrap_or(0);
        self.state.owed = 0;
        self.irq.set(level && !self.legacy.is_on());
        match next {
            Some(at) => self.timer.arm(at),
            None => self.timer.cancel(),
        }
    }

    fn timer_due(&mut self) {
        self.settle(self.clock.now());
    }

    /// Deals with what has fallen due.
    fn settle(&mut self, now: u64) {
        if self.state.next_rise == 0 || (now < self.state.next_rise && self.state.owed == 0) {
            return;
        }
        if matches!(self.state.channels[0].mode, 2 | 3) {
            self.tick(now);
            return;
        }
        if !self.state.channels[0].lasts() && !self.legacy.is_on() {
            self.irq.pulse();
        }
        self.update(now);
    }

    /// A periodic mode: counts the periods that are over and gives the guest a tick, if it can take one.
    fn tick(&mut self, now: u64) {
        let channel = &self.state.channels[0];
        let period = to_nanoseconds(channel.count.max(1).into()).max(SHORTEST_PERIOD);
        if now >= self.state.next_rise {
            let over = (now - self.state.next_rise) / period + 1;
            let owed = u64::from(self.state.owed).saturating_add(over).min(MOST_OWED.into());
            let next = channel.next_rise(now).unwrap_or(0);
            self.state.owed = owed as u32;
            self.state.next_rise = next.max(now.saturating_add(SHORTEST_PERIOD));
        }
        if self.legacy.is_on() {
            self.state.owed = 0;
        } else if !self.irq.is_pending() {
            self.irq.pulse();
            self.state.owed -= 1;
        }
        let again = if self.state.owed == 0 { u64::MAX } else { now.saturating_add((period / 4).max(SHORTEST_PERIOD)) };
        self.timer.arm(self.state.next_rise.min(again));
    }

    fn write_control(&mut self, value: u8, now: u64) {
        let select = value >> 6;
        if select == 3 {
            for (index, channel) in self.state.channels.iter_mut().enumerate() {
                if value & (2 << index) == 0 {
                    continue;
                }
                if value & 0x20 == 0 {
                    channel.latch_count(now);
                }
                if value & 0x10 == 0 {
                    channel.latch_status(now);
                }
            }
            return;
        }
        let channel = &mut self.state.channels[usize::from(select)];
        if value & 0x30 == 0 {
            channel.latch_count(now);
            return;
        }
        channel.control(value);
        if select == 0 {
            self.update(now);
        }
    }
}

impl Device for I8254 {
    fn reset(&mut self, _kind: ResetKind) {
        let now = self.clock.now();
        let channel = |gate| Channel {
            count: 0x1_0000,
            mode: 3,
            access: access::BOTH,
            is_loaded: true,
            gate,
            start: now,
            ..Channel::default()
        };
        self.state = PitState { channels: [channel(true), channel(true), channel(false)], ..PitState::default() };
        self.update(now);
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        let channel = &self.state.channels[0];
        let level = channel.lasts() && channel.output(self.clock.now());
        self.irq.restore(level && !self.legacy.is_on());
        match self.state.next_rise {
            0 => self.timer.cancel(),
            at => self.timer.arm(at),
        }
    }
}

impl IoDevice for I8254 {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Byte)
    }

    fn read(&mut self, region: usize, offset: u64, _size: AccessSize) -> u64 {
        let now = self.clock.now();
        if region == REGION_SPEAKER {
            self.state.refresh = !self.state.refresh;
            let channel = &self.state.channels[2];
            return u64::from(channel.gate)
                | u64::from(self.state.speaker_data) << 1
                | u64::from(self.state.refresh) << 4
                | u64::from(channel.output(now)) << 5;
        }
        match self.state.channels.get_mut((offset & 3) as usize) {
            Some(channel) => u64::from(channel.read(now)),
            // The control word register can't be read.
            None => 0,
        }
    }

    fn write(&mut self, region: usize, offset: u64, _size: AccessSize, value: u64) {
        let (now, value) = (self.clock.now(), value as u8);
        // What the timer thread has not come to yet comes first.
        self.settle(now);
        if region == REGION_SPEAKER {
            self.state.speaker_data = value & 2 != 0;
            self.state.channels[2].set_gate(value & 1 != 0, now);
            return;
        }
        match self.state.channels.get_mut((offset & 3) as usize) {
            Some(channel) => {
                if channel.write(value, now) && offset == 0 {
                    self.update(now);
                }
            }
            None => self.write_control(value, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Pins;
    use std::sync::Arc;

    fn bench() -> (Clock, DeviceCell<I8254>, Arc<Pins>) {
        let (clock, pins) = (Clock::manual(), Pins::new());
        let pit = I8254::new(&clock, pins.line(0), LegacyReplacement::default());
        (clock, pit, pins)
    }

    fn out(pit: &DeviceCell<I8254>, port: u64, value: u64) {
        let (region, offset) = if port == 0x61 { (REGION_SPEAKER, 0) } else { (REGION_TIMER, port - 0x40) };
        pit.lock().write(region, offset, AccessSize::Byte, value);
    }

    fn inp(pit: &DeviceCell<I8254>, port: u64) -> u64 {
        let (region, offset) = if port == 0x61 { (REGION_SPEAKER, 0) } else { (REGION_TIMER, port - 0x40) };
        pit.lock().read(region, offset, AccessSize::Byte)
    }

    fn count(pit: &DeviceCell<I8254>, channel: u64) -> u64 {
        out(pit, 0x43, channel << 6);
        inp(pit, 0x40 + channel) | inp(pit, 0x40 + channel) << 8
    }

    #[test]
    fn rate_generator_interrupts_once_per_period() {
        let (clock, pit, pins) = bench();
        out(&pit, 0x43, 0x34);
        out(&pit, 0x40, 0xa9);
        out(&pit, 0x40, 0x04); // 1193 ticks: a millisecond
        clock.step(10_500_000);
        assert_eq!(pins.edges(0), 10);
        let left = count(&pit, 0);
        assert!((590..=605).contains(&left), "{left}");
    }

    /// Ticks of a millisecond on a pin whose edges may wait.
    fn millisecond_ticks() -> (Clock, DeviceCell<I8254>, Arc<Pins>) {
        let (clock, pit, pins) = bench();
        out(&pit, 0x43, 0x34);
        out(&pit, 0x40, 0xa9);
        out(&pit, 0x40, 0x04);
        (clock, pit, pins)
    }

    #[test]
    fn ticks_that_a_busy_guest_could_not_take_come_later() {
        let (clock, _pit, pins) = millisecond_ticks();
        pins.hold(true);
        clock.step(10_500_000);
        assert_eq!(pins.edges(0), 0, "the last one still waits");
        pins.hold(false);
        clock.step(5_000_000);
        assert_eq!(pins.edges(0), 15);
        clock.step(5_000_000);
        assert_eq!(pins.edges(0), 20, "and none is given twice");
    }

    #[test]
    fn a_new_count_ends_what_was_owed() {
        let (clock, pit, pins) = millisecond_ticks();
        pins.hold(true);
        clock.step(10_500_000);
        out(&pit, 0x40, 0xa9);
        out(&pit, 0x40, 0x04);
        pins.hold(false);
        clock.step(2_500_000);
        assert_eq!(pins.edges(0), 2);
    }

    #[test]
    fn power_on_counts_65536_in_mode_3() {
        let (clock, pit, pins) = bench();
        clock.step(SECOND);
        assert_eq!(pins.edges(0), 18);
        out(&pit, 0x43, 0xe2);
        assert_eq!(inp(&pit, 0x40) & 0x7f, 0x36);
    }

    #[test]
    fn one_shot_raises_its_output_at_the_terminal_count() {
        let (clock, pit, pins) = bench();
        out(&pit, 0x43, 0x30);
        out(&pit, 0x40, 100);
        assert!(!pins.level(0));
        out(&pit, 0x40, 0);
        clock.step(to_nanoseconds(100) - 1);
        assert!(!pins.level(0));
        clock.step(1);
        assert!(pins.level(0));
        clock.step(SECOND);
        assert_eq!(pins.edges(0), 1);
        out(&pit, 0x43, 0x30);
        assert!(!pins.level(0));
    }

    #[test]
    fn gate_and_output_of_channel_2_are_seen_at_port_61() {
        let (clock, pit, _pins) = bench();
        out(&pit, 0x43, 0xb0);
        out(&pit, 0x42, 0x00);
        out(&pit, 0x42, 0x10);
        clock.step(SECOND);
        assert_eq!(inp(&pit, 0x61) & 0x21, 0, "the gate holds the count");
        out(&pit, 0x61, 1);
        clock.step(to_nanoseconds(0x1000) - 1);
        assert_eq!(inp(&pit, 0x61) & 0x21, 1);
        clock.step(1);
        assert_eq!(inp(&pit, 0x61) & 0x21, 0x21);
        out(&pit, 0x61, 2);
        assert_eq!(inp(&pit, 0x61) & 3, 2);
        assert_ne!(inp(&pit, 0x61) & 0x10, inp(&pit, 0x61) & 0x10, "refresh toggles");
    }

    #[test]
    fn gate_pauses_mode_0_and_restarts_mode_2() {
        let (clock, pit, _pins) = bench();
        out(&pit, 0x61, 1);
        out(&pit, 0x43, 0xb0);
        out(&pit, 0x42, 0);
        out(&pit, 0x42, 4);
        clock.step(to_nanoseconds(0x100));
        out(&pit, 0x61, 0);
        clock.step(SECOND);
        assert_eq!(count(&pit, 2), 0x300);
        out(&pit, 0x61, 1);
        clock.step(to_nanoseconds(0x100));
        assert!(count(&pit, 2).abs_diff(0x200) <= 1);
        out(&pit, 0x43, 0xb4);
        out(&pit, 0x42, 0);
        out(&pit, 0x42, 4);
        clock.step(to_nanoseconds(0x100));
        out(&pit, 0x61, 0);
        out(&pit, 0x61, 1);
        assert_eq!(count(&pit, 2), 0x400);
    }

    #[test]
    fn read_back_latches_status_then_count() {
        let (clock, pit, _pins) = bench();
        out(&pit, 0x43, 0x36);
        out(&pit, 0x40, 0x00);
        out(&pit, 0x40, 0x20);
        out(&pit, 0x43, 0xc2);
        clock.step(1_000_000);
        assert_eq!(inp(&pit, 0x40), 0xb6);
        assert_eq!(inp(&pit, 0x40) | inp(&pit, 0x40) << 8, 0x2000);
        assert_ne!(inp(&pit, 0x40) | inp(&pit, 0x40) << 8, 0x2000);
        out(&pit, 0x43, 0x34);
        out(&pit, 0x43, 0xe2);
        assert_eq!(inp(&pit, 0x40), 0xf4, "no count yet");
    }

    #[test]
    fn bcd_counts_in_decimal() {
        let (clock, pit, _pins) = bench();
        out(&pit, 0x43, 0x35);
        out(&pit, 0x40, 0x00);
        out(&pit, 0x40, 0x10);
        clock.step(to_nanoseconds(1));
        assert_eq!(count(&pit, 0), 0x999);
    }

    #[test]
    fn shortest_count_does_not_hang_the_clock() {
        let (clock, pit, pins) = bench();
        out(&pit, 0x43, 0x14);
        out(&pit, 0x40, 1);
        clock.step(10_000_000);
        assert!(pins.edges(0) <= 501);
    }

    #[test]
    fn software_strobe_pulses_one_tick_after_the_count() {
        let (clock, pit, _pins) = bench();
        out(&pit, 0x61, 1);
        out(&pit, 0x43, 0xb8);
        out(&pit, 0x42, 10);
        out(&pit, 0x42, 0);
        assert_eq!(inp(&pit, 0x61) & 0x20, 0x20);
        clock.step(to_nanoseconds(10));
        assert_eq!(inp(&pit, 0x61) & 0x20, 0);
        clock.step(to_nanoseconds(1));
        assert_eq!(inp(&pit, 0x61) & 0x20, 0x20);
    }

    #[test]
    fn software_strobe_interrupts_once_even_if_the_timer_thread_is_late() {
        let (clock, pit, pins) = bench();
        let strobe = || {
            out(&pit, 0x43, 0x38);
            out(&pit, 0x40, 10);
            out(&pit, 0x40, 0);
        };
        strobe();
        clock.step(SECOND);
        assert_eq!(pins.edges(0), 1);
        strobe();
        // Time passes without timers; the guest sets the next one.
        clock.set(clock.now() + SECOND);
        strobe();
        assert_eq!(pins.edges(0), 2);
        clock.step(SECOND);
        assert_eq!(pins.edges(0), 3);
    }

    #[test]
    fn hostile_state_is_harmless() {
        let (clock, pit, _pins) = bench();
        for seed in 1..40 {
            state::testing::assert_hostile_bytes_are_harmless(&mut pit.lock().state, seed, 20);
            pit.lock().restored();
            for port in [0x40, 0x41, 0x42, 0x61] {
                inp(&pit, port);
                out(&pit, port, seed);
            }
            clock.step(1_000_000);
        }
    }
}
