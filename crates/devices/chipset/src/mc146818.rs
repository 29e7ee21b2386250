//! The MC146818A real-time clock and CMOS memory (Motorola ADI856R2) at ports 0x70/0x71, with the century in byte 0x32
//! as firmware and ACPI expect it, and the PIIX3's second bank of 128 bytes at 0x72/0x73.
//!
//! Time is the machine's time of day plus what the guest set. Flags are computed when they are read, and timers run only
//! while an interrupt that could come is enabled. Left out: daylight saving, the square wave output (not wired in a PC),
//! and the reinjection of periodic ticks that a guest missed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clock::{Clock, Timer, WallClock};
use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, IrqLine, ResetKind};
use state::State;

use crate::legacy::LegacyReplacement;

mod calendar;

use calendar::Date;

/// Bytes in one bank.
pub const BANK_SIZE: usize = 128;
/// The CMOS byte of the century.
pub const CENTURY: usize = 0x32;

const SECOND: i128 = 1_000_000_000;
/// The update-in-progress flag is set this long before each second, in nanoseconds.
const UPDATE_TIME: i128 = 8 * SECOND / SLOW_CLOCK as i128;
const SLOW_CLOCK: u64 = 32_768;

mod reg {
    pub const SECONDS: usize = 0;
    pub const SECONDS_ALARM: usize = 1;
    pub const MINUTES: usize = 2;
    pub const MINUTES_ALARM: usize = 3;
    pub const HOURS: usize = 4;
    pub const HOURS_ALARM: usize = 5;
    pub const WEEKDAY: usize = 6;
    pub const DAY: usize = 7;
    pub const MONTH: usize = 8;
    pub const YEAR: usize = 9;
    pub const A: usize = 10;
    pub const B: usize = 11;
    pub const C: usize = 12;
    pub const D: usize = 13;
}

const UIP: u8 = 0x80;
const SET: u8 = 0x80;
const BINARY: u8 = 0x04;
const HOURS_24: u8 = 0x02;
/// Interrupt flags in register C, and their enables in register B.
const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;
const UPDATE: u8 = 0x10;

/// The guest-visible state.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "mc146818rtc", version = 1)]
struct RtcState {
    cmos: [u8; BANK_SIZE],
    extended: [u8; BANK_SIZE],
    index: u8,
    extended_index: u8,
    /// What the guest's time is ahead of the machine's time of day, in nanoseconds.
    offset: i64,
    /// The last second (since 1970) whose update and alarm are in the flags.
    seen_second: i64,
    /// The last periodic tick, counted from `first_tick`, that is in the flags.
    seen_tick: u64,
    /// Where periods are counted from, in cycles of the slow clock since guest time 0: the last tick before the rate was
    /// chosen.
    first_tick: u64,
}

/// What the guest's change of its clock is reported to: the guest's time minus the machine's time of day, in seconds.
pub type ChangeCallback = Box<dyn FnMut(i64) + Send>;

/// Told that an alarm that the guest enabled went off. Called with the device locked.
pub type AlarmCallback = Box<dyn FnMut() + Send>;

/// The clock.
pub struct Mc146818 {
    // Host resources.
    on_change: ChangeCallback,
    on_alarm: AlarmCallback,
    // Wiring.
    clock: Clock,
    wall: WallClock,
    update_timer: Timer,
    periodic_timer: Timer,
    irq: IrqLine,
    legacy: LegacyReplacement,
    nmi_masked: Arc<AtomicBool>,
    // Guest-visible state.
    state: RtcState,
}

impl Mc146818 {
    /// A clock that shows `wall`, drives `irq` (interrupt 8) and tells `on_change` when the guest sets it.
    pub fn new(
        clock: &Clock,
        wall: WallClock,
        irq: IrqLine,
        legacy: LegacyReplacement,
        on_change: ChangeCallback,
    ) -> DeviceCell<Self> {
        let mut cmos = [0; BANK_SIZE];
        // Divider on, 1024 Hz; 24 hours, BCD; battery good.
        (cmos[reg::A], cmos[reg::B], cmos[reg::D]) = (0x26, HOURS_24, 0x80);
        let now = wall.now();
        let state = RtcState {
            cmos,
            extended: [0; BANK_SIZE],
            index: 0,
            extended_index: 0,
            offset: 0,
            seen_second: now.div_euclid(SECOND) as i64,
            seen_tick: 0,
            first_tick: 0,
        };
        DeviceCell::new_cyclic(|handle| Self {
            on_change,
            on_alarm: Box::new(|| ()),
            clock: clock.clone(),
            wall,
            update_timer: handle.timer(clock, Self::timer_due),
            periodic_timer: handle.timer(clock, Self::timer_due),
            irq,
            legacy,
            nmi_masked: Arc::default(),
            state,
        })
    }

    /// Sets who is told of alarms.
    pub fn on_alarm(&mut self, callback: AlarmCallback) {
        self.on_alarm = callback;
    }

    /// Sets a byte of the first bank, as firmware settings and the machine's memory sizes are stored.
    pub fn set_cmos(&mut self, index: u8, value: u8) {
        self.state.cmos[usize::from(index & 0x7f)] = value;
    }

    /// A byte of the first bank as it is stored.
    pub fn cmos(&self, index: u8) -> u8 {
        self.state.cmos[usize::from(index & 0x7f)]
    }

    /// Bit 7 of port 0x70: NMIs are kept from the CPU. Clones of the flag are the same.
    pub fn nmi_mask(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.nmi_masked)
    }

    /// The guest's date and time as Unix seconds (the `rtc-time` and `date` properties).
    pub fn time(&self) -> i64 {
        self.now().div_euclid(SECOND) as i64
    }

    fn now(&self) -> i128 {
        self.wall.now() + i128::from(self.state.offset)
    }

    /// Whether the clock counts: the divider is on and nobody holds it.
    fn is_running(&self) -> bool {
        self.state.cmos[reg::B] & SET == 0 && self.state.cmos[reg::A] & 0x70 <= 0x20
    }

    // ---- The representation of time ----

    fn is_binary(&self) -> bool {
        self.state.cmos[reg::B] & BINARY != 0
    }

    fn encode(&self, value: u32) -> u8 {
        if self.is_binary() { value as u8 } else { (((value / 10) << 4) | (value % 10)) as u8 }
    }

    fn decode(&self, value: u8) -> u32 {
        if self.is_binary() { u32::from(value) } else { u32::from(value >> 4) * 10 + u32::from(value & 0xf) }
    }

    fn encode_hour(&self, hour: u32) -> u8 {
        if self.state.cmos[reg::B] & HOURS_24 != 0 {
            return self.encode(hour);
        }
        let half = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.encode(half) | if hour >= 12 { 0x80 } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u32 {
        if self.state.cmos[reg::B] & HOURS_24 != 0 {
            return self.decode(value);
        }
        self.decode(value & 0x7f) % 12 + if value & 0x80 != 0 { 12 } else { 0 }
    }

    fn store_date(&mut self, date: &Date) {
        let fields = [
            (reg::SECONDS, self.encode(date.second)),
            (reg::MINUTES, self.encode(date.minute)),
            (reg::HOURS, self.encode_hour(date.hour)),
            (reg::WEEKDAY, self.encode(date.weekday)),
            (reg::DAY, self.encode(date.day)),
            (reg::MONTH, self.encode(date.month)),
            (reg::YEAR, self.encode(date.year.rem_euclid(100) as u32)),
            (CENTURY, self.encode(date.year.div_euclid(100).rem_euclid(100) as u32)),
        ];
        for (index, value) in fields {
            self.state.cmos[index] = value;
        }
    }

    fn load_date(&self) -> Date {
        let field = |index: usize| self.decode(self.state.cmos[index]);
        Date {
            second: field(reg::SECONDS),
            minute: field(reg::MINUTES),
            hour: self.decode_hour(self.state.cmos[reg::HOURS]),
            weekday: field(reg::WEEKDAY),
            day: field(reg::DAY),
            month: field(reg::MONTH),
            year: i64::from(field(CENTURY)) * 100 + i64::from(field(reg::YEAR)),
        }
    }

    /// Shows the current time in the registers.
    fn refresh(&mut self) {
        if self.is_running() {
            self.store_date(&Date::from_seconds(self.time()));
        }
    }

    /// Takes the time from the registers; `within` is how much of the second has gone by, in nanoseconds.
    fn adopt(&mut self, within: i128) {
        let before = self.state.offset;
        let target = i128::from(self.load_date().to_seconds()) * SECOND + within;
        self.state.offset = i64::try_from(target - self.wall.now()).unwrap_or(i64::MAX);
        self.state.seen_second = self.time();
        if before != self.state.offset {
            let seconds = (i128::from(self.state.offset) + SECOND / 2).div_euclid(SECOND);
            (self.on_change)(seconds as i64);
        }
    }

    fn within_second(&self) -> i128 {
        self.now().rem_euclid(SECOND)
    }

    // ---- Flags and timers ----

    /// The first second in `from..=to` that the alarm registers match.
    fn alarm_between(&self, from: i64, to: i64) -> bool {
        const DAY: i64 = 86_400;
        if from > to {
            return false;
        }
        let cmos = &self.state.cmos;
        // 0xc0 and above: any value.
        let matches = |value: u8, wanted: u32| value >= 0xc0 || self.decode(value) == wanted;
        let hours = |hour: u32| {
            let value = cmos[reg::HOURS_ALARM];
            value >= 0xc0 || self.decode_hour(value) == hour
        };
        let last = to.min(from.saturating_add(DAY - 1));
        let mut at = from;
        while at <= last {
            let of_day = at.rem_euclid(DAY) as u32;
            let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
            if !hours(hour) {
                at += i64::from(3600 - of_day % 3600);
            } else if !matches(cmos[reg::MINUTES_ALARM], minute) {
                at += i64::from(60 - second);
            } else if !matches(cmos[reg::SECONDS_ALARM], second) {
                at += 1;
            } else {
                return true;
            }
        }
        false
    }

    /// Nanoseconds between two periodic ticks; `None` when they are off.
    fn ticks_per_period(&self) -> Option<u64> {
        let rate = match self.state.cmos[reg::A] & 0xf {
            0 => return None,
            rate @ 1..=2 => rate + 7,
            rate => rate,
        };
        Some(1 << (rate - 1))
    }

    fn periods_until(&self, now: u64) -> Option<(u64, u64)> {
        let ticks = self.ticks_per_period()?;
        Some((slow_cycles(now).saturating_sub(self.state.first_tick) / ticks, ticks))
    }

    /// Forgets the periodic ticks that have passed and are not in the flags yet.
    pub fn forget_ticks(&mut self) {
        self.state.seen_tick = self.periods_until(self.clock.now()).map_or(0, |(period, _)| period);
    }

    /// Another rate counts from the last tick of the old one.
    fn set_rate(&mut self, register: u8) {
        let now = slow_cycles(self.clock.now());
        self.state.first_tick = match self.ticks_per_period() {
            Some(ticks) => now - now.saturating_sub(self.state.first_tick) % ticks,
            None => now,
        };
        self.state.cmos[reg::A] = register;
        self.state.seen_tick = self.periods_until(self.clock.now()).map_or(0, |(period, _)| period);
    }

    /// Brings the flags of register C up to date.
    fn collect_flags(&mut self) {
        if self.is_running() {
            let now = self.time();
            let seen = self.state.seen_second;
            if now > seen {
                self.state.cmos[reg::C] |= UPDATE;
                if self.alarm_between(seen.saturating_add(1), now) {
                    self.state.cmos[reg::C] |= ALARM;
                    if self.state.cmos[reg::B] & ALARM != 0 {
                        (self.on_alarm)();
                    }
                }
            }
            self.state.seen_second = now;
        }
        if let Some((period, _)) = self.periods_until(self.clock.now()) {
            if period > self.state.seen_tick {
                self.state.cmos[reg::C] |= PERIODIC;
            }
            self.state.seen_tick = period;
        }
    }

    fn level(&self) -> bool {
        self.state.cmos[reg::B] & self.state.cmos[reg::C] & (PERIODIC | ALARM | UPDATE) != 0
    }

    /// Sets the interrupt line, and arms the timers for what may come next.
    fn update(&mut self) {
        self.collect_flags();
        let level = self.level();
        self.irq.set(level && !self.legacy.is_on());
        let (enabled, flags) = (self.state.cmos[reg::B], self.state.cmos[reg::C]);
        let awaited = enabled & !flags;
        if awaited & (UPDATE | ALARM) != 0 && self.is_running() {
            let left = (SECOND - self.within_second()) as u64;
            self.update_timer.arm(self.clock.now().saturating_add(left));
        } else {
            self.update_timer.cancel();
        }
        let next = self.periods_until(self.clock.now()).filter(|_| awaited & PERIODIC != 0);
        if let Some((period, ticks)) = next {
            let slow = u128::from(self.state.first_tick) + u128::from(period + 1) * u128::from(ticks);
            let at = (slow * SECOND as u128).div_ceil(u128::from(SLOW_CLOCK)) as u64;
            self.periodic_timer.arm(at);
        } else {
            self.periodic_timer.cancel();
        }
    }

    fn timer_due(&mut self) {
        self.update();
    }

    // ---- Registers ----

    fn read_register(&mut self, index: usize) -> u8 {
        match index {
            reg::SECONDS | reg::MINUTES | reg::HOURS | reg::WEEKDAY..=reg::YEAR | CENTURY => self.refresh(),
            reg::A => {
                let is_updating = self.is_running() && self.within_second() >= SECOND - UPDATE_TIME;
                return self.state.cmos[reg::A] & !UIP | if is_updating { UIP } else { 0 };
            }
            reg::C => {
                self.collect_flags();
                let flags = self.state.cmos[reg::C] | if self.level() { 0x80 } else { 0 };
                self.state.cmos[reg::C] = 0;
                self.update();
                return flags;
            }
            _ => {}
        }
        self.state.cmos[index]
    }

    fn write_register(&mut self, index: usize, value: u8) {
        match index {
            reg::SECONDS_ALARM | reg::MINUTES_ALARM | reg::HOURS_ALARM => {
                self.collect_flags();
                self.state.cmos[index] = value;
                self.update();
            }
            reg::SECONDS | reg::MINUTES | reg::HOURS | reg::WEEKDAY..=reg::YEAR | CENTURY => {
                self.refresh();
                self.state.cmos[index] = value;
                if self.is_running() {
                    self.adopt(self.within_second());
                    self.update();
                }
            }
            reg::A => {
                self.refresh();
                self.collect_flags();
                let was_running = self.is_running();
                self.set_rate(value & !UIP);
                if !was_running && self.is_running() {
                    // The first update comes half a second after the divider starts.
                    self.adopt(SECOND / 2);
                }
                self.update();
            }
            reg::B => self.write_b(value),
            reg::C | reg::D => {}
            _ => self.state.cmos[index] = value,
        }
    }

    fn write_b(&mut self, value: u8) {
        self.refresh();
        self.collect_flags();
        let was_running = self.is_running();
        let within = self.within_second();
        // Setting the clock switches the update interrupt off.
        let value = if value & SET != 0 { value & !UPDATE } else { value };
        self.state.cmos[reg::B] = value;
        if !was_running && self.is_running() {
            self.adopt(within);
        }
        self.update();
    }
}

/// Guest time in cycles of the slow clock.
fn slow_cycles(now: u64) -> u64 {
    (u128::from(now) * u128::from(SLOW_CLOCK) / SECOND as u128) as u64
}

impl Device for Mc146818 {
    fn reset(&mut self, _kind: ResetKind) {
        // Battery-backed: a reset stops interrupts and leaves everything else.
        self.state.cmos[reg::B] &= !(PERIODIC | ALARM | UPDATE | 0x08);
        self.state.cmos[reg::C] = 0;
        self.state.index = 0;
        self.state.extended_index = 0;
        self.nmi_masked.store(false, Ordering::Release);
        self.update();
        self.state.cmos[reg::C] = 0;
    }

    fn state(&mut self) -> DeviceState<'_> {
        self.refresh();
        // What has happened until now is in the flags, so that a restore finds nothing new.
        self.collect_flags();
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        self.nmi_masked.store(self.state.index & 0x80 != 0, Ordering::Release);
        let level = self.level() && !self.legacy.is_on();
        self.irq.restore(level);
        self.update();
    }
}

impl IoDevice for Mc146818 {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Byte)
    }

    fn read(&mut self, _region: usize, offset: u64, _size: AccessSize) -> u64 {
        u64::from(match offset {
            1 => self.read_register(usize::from(self.state.index & 0x7f)),
            3 => self.state.extended[usize::from(self.state.extended_index & 0x7f)],
            // The index ports can't be read.
            _ => 0xff,
        })
    }

    fn write(&mut self, _region: usize, offset: u64, _size: AccessSize, value: u64) {
        let value = value as u8;
        match offset {
            0 => {
                self.state.index = value;
                self.nmi_masked.store(value & 0x80 != 0, Ordering::Release);
            }
            1 => self.write_register(usize::from(self.state.index & 0x7f), value),
            2 => self.state.extended_index = value,
            _ => self.state.extended[usize::from(self.state.extended_index & 0x7f)] = value,
        }
    }
}

#[cfg(test)]
mod tests;
