//! The IA-PC HPET (specification 1.0a) at 0xfed00000, 1 KiB: a 64-bit counter at 100 MHz and three comparators.
//!
//! Periodic and one-shot, edge and level, 32-bit mode, and the legacy replacement route, in which comparators 0 and 1
//! take interrupts 0 and 8 from the PIT and the RTC. A comparator matches when the counter is equal to it: one that the
//! counter has passed waits for a wrap. A periodic tick that the guest could not take, because the last one still waited
//! (its processor did not run), is kept and given later, as with the 8254: guests count them, and Linux gives up at its
//! start when it gets too few. Left out: interrupts by message (not declared in the capabilities).

use clock::{Clock, Timer};
use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, IrqLine, ResetKind};
use state::State;

use crate::legacy::LegacyReplacement;

/// The number of comparators.
const COMPARATORS: usize = 3;
/// Nanoseconds in one tick.
const TICK: u64 = 10;
/// The low half of the capabilities: Intel, legacy route, 64-bit counter, three comparators, revision 1.
const CAPABILITIES: u64 = 0x8086_a201;
/// The period of the counter in femtoseconds.
const PERIOD: u64 = 10_000_000;
/// The global interrupts that each comparator may be routed to: number 2, as on QEMU's 440FX machines.
const ROUTES: u64 = 1 << 2;
/// A periodic comparator interrupts at most this often, in nanoseconds, so that a guest can't occupy the timer thread.
const SHORTEST_PERIOD: u64 = 20_000;
/// Ticks beyond this many that a guest did not take are lost.
const MOST_OWED: u64 = 1000;
/// Where the legacy route leads comparators 0 and 1.
const LEGACY_LINES: [usize; 2] = [0, 8];

/// Offsets of the registers, which are 8 bytes long.
mod reg {
    pub const CAPABILITIES: u64 = 0x000;
    pub const CONFIGURATION: u64 = 0x010;
    pub const STATUS: u64 = 0x020;
    pub const COUNTER: u64 = 0x0f0;
    pub const TIMERS: u64 = 0x100;
    pub const TIMER_LEN: u64 = 0x20;
    pub const TIMER_CONFIGURATION: u64 = 0x00;
    pub const TIMER_COMPARATOR: u64 = 0x08;
}

/// Bits of the general configuration.
mod general {
    pub const ENABLE: u64 = 1;
    pub const LEGACY: u64 = 2;
}

/// Bits of a comparator's configuration.
mod conf {
    pub const LEVEL: u64 = 1 << 1;
    pub const INTERRUPT: u64 = 1 << 2;
    pub const PERIODIC: u64 = 1 << 3;
    pub const PERIODIC_CAPABLE: u64 = 1 << 4;
    pub const SIZE_CAPABLE: u64 = 1 << 5;
    pub const SET_VALUE: u64 = 1 << 6;
    pub const MODE_32: u64 = 1 << 8;
    pub const ROUTE_SHIFT: u32 = 9;
    pub const ROUTE: u64 = 0x1f << ROUTE_SHIFT;
    pub const WRITABLE: u64 = LEVEL | INTERRUPT | PERIODIC | SET_VALUE | MODE_32 | ROUTE;
    pub const CAPABILITIES: u64 = PERIODIC_CAPABLE | SIZE_CAPABLE | super::ROUTES << 32;
}

/// The guest-visible state of one comparator.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "hpet_timer", version = 1)]
struct Comparator {
    configuration: u64,
    comparator: u64,
    period: u64,
    /// Guest time of the next match in nanoseconds; `u64::MAX` when there is none.
    deadline: u64,
    /// Periodic ticks that the guest has yet to get.
    owed: u32,
    /// Guest time in nanoseconds when it is tried to give one again; `u64::MAX` when none is owed.
    retry_at: u64,
}

impl Comparator {
    fn power_on() -> Self {
        let configuration = conf::CAPABILITIES;
        Self { configuration, comparator: u64::MAX, period: 0, deadline: u64::MAX, owed: 0, retry_at: u64::MAX }
    }

    /// What a guest that sets the timer anew does not get any more.
    fn forget_owed(&mut self) {
        (self.owed, self.retry_at) = (0, u64::MAX);
    }

    /// Guest time when there is something to do.
    fn next(&self) -> u64 {
        self.deadline.min(self.retry_at)
    }

    /// The period in nanoseconds, as long as the shortest at least.
    fn period_time(&self) -> u64 {
        self.period.saturating_mul(TICK).max(SHORTEST_PERIOD)
    }

    fn is(&self, bit: u64) -> bool {
        self.configuration & bit != 0
    }

    /// The bits that count.
    fn mask(&self) -> u64 {
        if self.is(conf::MODE_32) { u64::from(u32::MAX) } else { u64::MAX }
    }

    /// Ticks until the counter is equal to the comparator, 0 when it is now.
    fn distance(&self, counter: u64) -> u64 {
        self.comparator.wrapping_sub(counter) & self.mask()
    }

    /// Moves a periodic comparator past the counter, and counts the ticks.
    fn advance(&mut self, counter: u64) {
        let behind = counter.wrapping_sub(self.comparator) & self.mask();
        let ticks = behind.saturating_mul(TICK) / self.period_time() + 1;
        self.owed = u64::from(self.owed).saturating_add(ticks).min(MOST_OWED) as u32;
        let Some(periods) = behind.checked_div(self.period) else { return };
        let step = periods.wrapping_add(1).wrapping_mul(self.period);
        self.comparator = self.comparator.wrapping_add(step) & self.mask();
    }
}

/// The guest-visible state.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "hpet", version = 1)]
struct Registers {
    configuration: u64,
    status: u64,
    /// The counter while it is halted; while it runs, its distance from the clock's ticks.
    counter: u64,
    comparators: [Comparator; COMPARATORS],
}

impl Registers {
    fn power_on() -> Self {
        let comparators = [(); COMPARATORS].map(|()| Comparator::power_on());
        Self { configuration: 0, status: 0, counter: 0, comparators }
    }

    fn is_enabled(&self) -> bool {
        self.configuration & general::ENABLE != 0
    }

    fn is_legacy(&self) -> bool {
        const BOTH: u64 = general::ENABLE | general::LEGACY;
        self.configuration & BOTH == BOTH
    }

    /// The line that comparator `index` drives.
    fn line(&self, index: usize) -> Option<usize> {
        if self.is_legacy()
            && let Some(line) = LEGACY_LINES.get(index)
        {
            return Some(*line);
        }
        let route = (self.comparators[index].configuration & conf::ROUTE) >> conf::ROUTE_SHIFT;
        (ROUTES >> route & 1 != 0).then_some(route as usize)
    }

    /// Whether a comparator with level-triggered interrupts holds line `line` up.
    fn level(&self, line: usize) -> bool {
        self.comparators.iter().enumerate().any(|(index, comparator)| {
            self.status >> index & 1 != 0
                && comparator.is(conf::LEVEL)
                && comparator.is(conf::INTERRUPT)
                && self.line(index) == Some(line)
        })
    }
}

/// The timer block.
pub struct Hpet {
    // Wiring.
    clock: Clock,
    timer: Timer,
    lines: Vec<IrqLine>,
    legacy: LegacyReplacement,
    // Guest-visible state.
    registers: Registers,
}

impl Hpet {
    /// A block that drives `lines`, indexed by global system interrupt, and switches `legacy`. Its one region is 1 KiB.
    pub fn new(clock: &Clock, lines: Vec<IrqLine>, legacy: LegacyReplacement) -> DeviceCell<Self> {
        DeviceCell::new_cyclic(|handle| Self {
            clock: clock.clone(),
            timer: handle.timer(clock, Self::due),
            lines,
            legacy,
            registers: Registers::power_on(),
        })
    }

    fn counter(&self) -> u64 {
        self.counter_at(self.clock.now())
    }

    fn counter_at(&self, now: u64) -> u64 {
        let base = self.registers.counter;
        if self.registers.is_enabled() { base.wrapping_add(now / TICK) } else { base }
    }

    fn set_counter(&mut self, counter: u64) {
        self.registers.counter =
            if self.registers.is_enabled() { counter.wrapping_sub(self.clock.now() / TICK) } else { counter };
    }

    /// Makes the lines show the levels.
    fn update_lines(&mut self) {
        for (index, line) in self.lines.iter_mut().enumerate() {
            line.set(self.registers.level(index));
        }
    }

    /// Computes when comparator `index` matches next, `at_least` nanoseconds from now.
    fn schedule(&mut self, index: usize, at_least: u64) {
        // One look at the clock: on a busy host much time can pass between two.
        let now = self.clock.now();
        let (ticks, counter) = (now / TICK, self.counter_at(now));
        let is_enabled = self.registers.is_enabled();
        let comparator = &mut self.registers.comparators[index];
        comparator.deadline = u64::MAX;
        if is_enabled && comparator.is(conf::INTERRUPT) {
            let mut distance = comparator.distance(counter);
            if distance == 0 && at_least > 0 {
                // It matches now, which has been dealt with.
                distance = comparator.mask().saturating_add(1);
            }
            if let Some(at) = ticks.checked_add(distance).and_then(|tick| tick.checked_mul(TICK)) {
                comparator.deadline = at.max(now.saturating_add(at_least));
            }
        }
        self.arm();
    }

    fn schedule_all(&mut self) {
        (0..COMPARATORS).for_each(|index| self.schedule(index, 0));
    }

    fn arm(&mut self) {
        match self.registers.comparators.iter().map(Comparator::next).min() {
            Some(at) if at != u64::MAX => self.timer.arm(at),
            _ => self.timer.cancel(),
        }
    }

    fn due(&mut self) {
        let now = self.clock.now();
        for index in 0..COMPARATORS {
            let counter = self.counter();
            let comparator = &mut self.registers.comparators[index];
            if comparator.next() > now {
                continue;
            }
            if !comparator.is(conf::INTERRUPT) {
                comparator.deadline = u64::MAX;
                comparator.forget_owed();
                continue;
            }
            if !comparator.is(conf::PERIODIC) || comparator.is(conf::LEVEL) {
                self.match_once(index, counter);
                continue;
            }
            if comparator.deadline <= now {
                comparator.advance(counter);
                self.schedule(index, SHORTEST_PERIOD);
            }
            self.give_tick(index, now);
        }
        self.arm();
    }

    /// A match of which there is one, or whose interrupt lasts.
    fn match_once(&mut self, index: usize, counter: u64) {
        if self.registers.comparators[index].is(conf::LEVEL) {
            self.registers.status |= 1 << index;
            self.update_lines();
        } else if let Some(line) = self.edge_line(index) {
            line.pulse();
        }
        let comparator = &mut self.registers.comparators[index];
        let at_least = if comparator.is(conf::PERIODIC) {
            comparator.advance(counter);
            SHORTEST_PERIOD
        } else {
            1
        };
        comparator.forget_owed();
        self.schedule(index, at_least);
    }

    /// Gives the guest one of the ticks that it is owed, if it can take one.
    fn give_tick(&mut self, index: usize, now: u64) {
        let gives = match self.edge_line(index) {
            Some(line) if line.is_pending() => false,
            Some(line) => {
                line.pulse();
                true
            }
            None => {
                self.registers.comparators[index].forget_owed();
                return;
            }
        };
        let comparator = &mut self.registers.comparators[index];
        comparator.owed = comparator.owed.saturating_sub(u32::from(gives));
        let pause = (comparator.period_time() / 4).max(SHORTEST_PERIOD);
        comparator.retry_at = if comparator.owed == 0 { u64::MAX } else { now.saturating_add(pause) };
    }

    /// The line on which comparator `index` gives edges, unless a level holds it up.
    fn edge_line(&mut self, index: usize) -> Option<&mut IrqLine> {
        let line = self.registers.line(index)?;
        self.lines.get_mut(line).filter(|line| !line.level())
    }

    fn write_configuration(&mut self, value: u64) {
        let counter = self.counter();
        self.registers.configuration = value & (general::ENABLE | general::LEGACY);
        self.registers.comparators.iter_mut().for_each(Comparator::forget_owed);
        self.set_counter(counter);
        self.legacy.set(self.registers.is_legacy());
        self.update_lines();
        self.schedule_all();
    }

    fn write_timer(&mut self, index: usize, register: u64, value: u64, mask: u64) {
        let Some(comparator) = self.registers.comparators.get_mut(index) else { return };
        let merge = |old: u64| (old & !mask) | (value & mask);
        match register {
            reg::TIMER_CONFIGURATION => {
                let merged = merge(comparator.configuration);
                comparator.configuration = (merged & conf::WRITABLE) | conf::CAPABILITIES;
                comparator.comparator &= comparator.mask();
                comparator.period &= comparator.mask();
                if !comparator.is(conf::LEVEL) {
                    self.registers.status &= !(1 << index);
                }
                self.update_lines();
            }
            reg::TIMER_COMPARATOR => {
                let limit = comparator.mask();
                if !comparator.is(conf::PERIODIC) || comparator.is(conf::SET_VALUE) {
                    comparator.comparator = merge(comparator.comparator) & limit;
                }
                if comparator.is(conf::PERIODIC) {
                    comparator.period = merge(comparator.period) & limit;
                }
                comparator.configuration &= !conf::SET_VALUE;
            }
            _ => return,
        }
        self.registers.comparators[index].forget_owed();
        self.schedule(index, 0);
    }

    fn read_register(&self, register: u64) -> u64 {
        match register {
            reg::CAPABILITIES => PERIOD << 32 | CAPABILITIES,
            reg::CONFIGURATION => self.registers.configuration,
            reg::STATUS => self.registers.status,
            reg::COUNTER => self.counter(),
            reg::TIMERS.. => {
                let offset = register - reg::TIMERS;
                let index = (offset / reg::TIMER_LEN) as usize;
                match (self.registers.comparators.get(index), offset % reg::TIMER_LEN) {
                    (Some(comparator), reg::TIMER_CONFIGURATION) => comparator.configuration,
                    (Some(comparator), reg::TIMER_COMPARATOR) => comparator.comparator,
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    fn write_register(&mut self, register: u64, value: u64, mask: u64) {
        match register {
            reg::CONFIGURATION => {
                let merged = (self.registers.configuration & !mask) | (value & mask);
                self.write_configuration(merged);
            }
            reg::STATUS => {
                self.registers.status &= !(value & mask);
                self.update_lines();
            }
            reg::COUNTER => {
                let counter = (self.counter() & !mask) | (value & mask);
                self.set_counter(counter);
                self.schedule_all();
            }
            reg::TIMERS.. => {
                let offset = register - reg::TIMERS;
                self.write_timer((offset / reg::TIMER_LEN) as usize, offset % reg::TIMER_LEN, value, mask);
            }
            _ => {}
        }
    }
}

impl Device for Hpet {
    fn reset(&mut self, _kind: ResetKind) {
        self.registers = Registers::power_on();
        self.legacy.set(false);
        self.update_lines();
        self.timer.cancel();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.registers)
    }

    fn restored(&mut self) {
        self.legacy.set(self.registers.is_legacy());
        for (index, line) in self.lines.iter_mut().enumerate() {
            line.restore(self.registers.level(index));
        }
        self.arm();
    }
}

impl IoDevice for Hpet {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Dword, AccessSize::Qword)
    }

    fn read(&mut self, _region: usize, offset: u64, size: AccessSize) -> u64 {
        (self.read_register(offset & !7) >> (8 * (offset & 7))) & size.mask()
    }

    fn write(&mut self, _region: usize, offset: u64, size: AccessSize, value: u64) {
        // Registers take whole 32-bit halves.
        if size >= AccessSize::Dword {
            let shift = 8 * (offset & 4);
            self.write_register(offset & !7, value << shift, size.mask() << shift);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Pins;
    use std::sync::Arc;

    struct Bench {
        clock: Clock,
        hpet: DeviceCell<Hpet>,
        pins: Arc<Pins>,
        legacy: LegacyReplacement,
    }

    impl Bench {
        fn new() -> Self {
            let (clock, pins, legacy) = (Clock::manual(), Pins::new(), LegacyReplacement::default());
            let lines = (0..24).map(|gsi| pins.line(gsi)).collect();
            let hpet = Hpet::new(&clock, lines, legacy.clone());
            Self { clock, hpet, pins, legacy }
        }

        fn write(&self, offset: u64, value: u64) {
            self.hpet.lock().write(0, offset, AccessSize::Qword, value);
        }

        fn read(&self, offset: u64) -> u64 {
            self.hpet.lock().read(0, offset, AccessSize::Qword)
        }
    }

    /// Interrupt on, routed to line 2.
    const ON: u64 = 4 | 2 << 9;

    #[test]
    fn capabilities_are_those_of_qemus_hpet() {
        let bench = Bench::new();
        assert_eq!(bench.read(0), 0x0098_9680_8086_a201);
        assert_eq!(bench.read(0x100), 0x0000_0004_0000_0030);
        assert_eq!(bench.hpet.lock().read(0, 4, AccessSize::Dword), 10_000_000);
    }

    #[test]
    fn counter_runs_at_100_mhz_while_enabled_and_keeps_its_value_when_halted() {
        let bench = Bench::new();
        bench.clock.step(1000);
        assert_eq!(bench.read(0xf0), 0);
        bench.write(0xf0, 500);
        bench.write(0x10, 1);
        bench.clock.step(1000);
        assert_eq!(bench.read(0xf0), 600);
        bench.write(0x10, 0);
        bench.clock.step(1000);
        assert_eq!(bench.read(0xf0), 600);
        bench.hpet.lock().write(0, 0xf4, AccessSize::Dword, 1);
        assert_eq!(bench.read(0xf0), 1 << 32 | 600);
    }

    #[test]
    fn one_shot_matches_once_in_64_bits_and_at_each_wrap_in_32() {
        for (mode, expected) in [(0, 1), (0x100, 2)] {
            let bench = Bench::new();
            bench.write(0x10, 1);
            bench.write(0x100, ON | mode);
            bench.write(0x108, 100);
            bench.clock.step(999);
            assert_eq!(bench.pins.edges(2), 0);
            bench.clock.step(1);
            assert_eq!(bench.pins.edges(2), 1);
            bench.clock.step((1 << 32) * TICK);
            assert_eq!(bench.pins.edges(2), expected);
        }
    }

    #[test]
    fn periodic_comparator_starts_where_set_and_repeats_with_the_second_value() {
        let bench = Bench::new();
        bench.write(0x10, 1);
        bench.write(0x120, ON | 8 | 0x40);
        bench.write(0x128, 50_000);
        bench.write(0x128, 10_000);
        assert_eq!(bench.read(0x120) & 0x40, 0);
        bench.clock.step(499_999);
        assert_eq!(bench.pins.edges(2), 0);
        bench.clock.step(1 + 3 * 100_000);
        assert_eq!(bench.pins.edges(2), 4);
        assert_eq!(bench.read(0x128), 90_000);
    }

    #[test]
    fn ticks_that_a_busy_guest_could_not_take_come_later() {
        let bench = Bench::new();
        bench.write(0x10, 1);
        bench.write(0x100, ON | 8 | 0x40);
        bench.write(0x108, 100_000);
        bench.write(0x108, 100_000);
        bench.clock.step(1_000_000);
        assert_eq!(bench.pins.edges(2), 1);
        bench.pins.hold(true);
        bench.clock.step(10_000_000);
        assert_eq!(bench.pins.edges(2), 1);
        bench.pins.hold(false);
        bench.clock.step(5_000_000);
        assert_eq!(bench.pins.edges(2), 16, "those of the busy time and those of the five milliseconds");
        bench.clock.step(1_000_000);
        assert_eq!(bench.pins.edges(2), 17);
    }

    #[test]
    fn timer_that_is_set_anew_owes_nothing() {
        let bench = Bench::new();
        bench.write(0x10, 1);
        bench.write(0x100, ON | 8 | 0x40);
        bench.write(0x108, 100_000);
        bench.pins.hold(true);
        bench.clock.step(10_000_000);
        bench.pins.hold(false);
        bench.write(0x100, ON);
        bench.clock.step(10_000_000);
        assert_eq!(bench.pins.edges(2), 1, "the next match, once");
    }

    #[test]
    fn tiny_period_does_not_occupy_the_clock() {
        let bench = Bench::new();
        bench.write(0x10, 1);
        bench.write(0x100, ON | 8 | 0x40);
        bench.write(0x108, 1);
        bench.clock.step(1_000_000);
        assert!((40..=51).contains(&bench.pins.edges(2)), "{}", bench.pins.edges(2));
    }

    #[test]
    fn level_interrupt_lasts_until_its_status_is_cleared() {
        let bench = Bench::new();
        bench.write(0x10, 1);
        bench.write(0x140, ON | 2);
        bench.write(0x148, 10);
        bench.clock.step(200);
        assert!(bench.pins.level(2));
        assert_eq!(bench.read(0x20), 4);
        bench.write(0x20, 3);
        assert!(bench.pins.level(2));
        bench.write(0x20, 4);
        assert!(!bench.pins.level(2));
    }

    #[test]
    fn legacy_route_takes_interrupts_0_and_8() {
        let bench = Bench::new();
        bench.write(0x100, ON);
        bench.write(0x120, ON);
        bench.write(0x10, 2);
        assert!(!bench.legacy.is_on(), "only together with the counter");
        bench.write(0x10, 3);
        assert!(bench.legacy.is_on());
        bench.write(0x108, 10);
        bench.write(0x128, 10);
        bench.clock.step(100);
        assert_eq!([bench.pins.edges(0), bench.pins.edges(8), bench.pins.edges(2)], [1, 1, 0]);
        bench.hpet.lock().reset(ResetKind::Warm);
        assert!(!bench.legacy.is_on());
    }

    #[test]
    fn unroutable_interrupt_goes_nowhere() {
        let bench = Bench::new();
        bench.write(0x10, 1);
        bench.write(0x100, 4 | 5 << 9);
        bench.write(0x108, 10);
        bench.clock.step(1000);
        assert_eq!((0..24).map(|pin| bench.pins.edges(pin)).sum::<u32>(), 0);
    }

    #[test]
    fn restored_block_continues_with_its_deadlines() {
        let saved = Bench::new();
        saved.write(0x10, 1);
        saved.write(0x100, ON);
        saved.write(0x108, 100);
        let bytes = state::testing::saved(&saved.hpet.lock().registers);
        let bench = Bench::new();
        state::testing::load_all(&mut bench.hpet.lock().registers, &bytes).expect("load");
        bench.hpet.lock().restored();
        bench.clock.step(1000);
        assert_eq!(bench.pins.edges(2), 1);
    }

    #[test]
    fn hostile_state_and_reset_are_harmless() {
        let bench = Bench::new();
        let mut hpet = bench.hpet.lock();
        state::testing::assert_reset_is_complete(
            &mut *hpet,
            |hpet| &mut hpet.registers,
            |hpet| hpet.reset(ResetKind::Warm),
        );
        state::testing::scramble(&mut hpet.registers);
        hpet.restored();
        drop(hpet);
        bench.clock.step(1_000_000);
        bench.read(0xf0);
    }
}
