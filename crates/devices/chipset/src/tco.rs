//! The ICH9's TCO watchdog (Intel 316972, 13.9): 32 ports behind the power management block, a timer of 0.6 second
//! ticks. The first time that it is over it may raise an SMI, the second time it resets the machine, unless a strap or a
//! bit of the chipset configuration says no.
//!
//! Left out: the interrupt that TCO_INT_SEL chooses, and the intruder and SMLINK bits (nothing drives them).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clock::{Clock, Timer};
use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, ResetKind};
use state::State;

use crate::acpi_pm::SmiRequest;

/// Offset of the ports in the power management block.
pub const OFFSET: u64 = 0x60;
/// How many ports.
pub const PORT_COUNT: u64 = 0x20;

/// Nanoseconds of a tick.
const TICK: u64 = 600_000_000;
const TICKS: u16 = 0x3ff;

/// Offsets of the registers.
mod reg {
    pub const RLD: usize = 0x00;
    pub const DAT_IN: usize = 0x02;
    pub const STS1: usize = 0x04;
    pub const STS2: usize = 0x06;
    pub const CNT1: usize = 0x08;
    pub const CNT2: usize = 0x0a;
    pub const SW_IRQ_GEN: usize = 0x10;
    pub const TMR: usize = 0x12;
    pub const END: usize = 0x14;
}

mod sts1 {
    pub const SW_SMI: u16 = 1 << 1;
    pub const INT: u16 = 1 << 2;
    pub const TIMEOUT: u16 = 1 << 3;
    /// What writing ones clears.
    pub const CLEARABLE: u16 = 0x17fe;
}

mod sts2 {
    pub const SECOND_TIMEOUT: u16 = 1 << 1;
    pub const BOOT: u16 = 1 << 2;
    /// What writing ones clears.
    pub const CLEARABLE: u16 = 0x001f;
}

mod cnt1 {
    pub const HALT: u16 = 1 << 11;
    pub const LOCK: u16 = 1 << 12;
    pub const KEPT: u16 = 0xfeff;
}

/// What the watchdog and the SMI enable register tell each other.
#[derive(Debug, Default)]
pub struct TcoLink {
    /// TCO_EN: the watchdog may raise an SMI.
    pub raises_smi: AtomicBool,
    /// TCO_LOCK: TCO_EN does not change any more.
    pub is_locked: AtomicBool,
}

/// Called when the time is over for the second time, with the device's lock held; it must not wait.
pub type Expired = Box<dyn FnMut() + Send>;

/// The guest-visible state.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "ich9_pm/tco", version = 1)]
struct Registers {
    bytes: [u8; reg::END],
    is_running: bool,
    deadline: u64,
    #[state(max = 1)]
    timeouts: u8,
}

impl Registers {
    fn get(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn set(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
}

/// The watchdog. Region 0.
pub struct Tco {
    // Configuration.
    strap_no_reboot: bool,
    // Host resources.
    expired: Expired,
    // Wiring.
    smi: SmiRequest,
    link: Arc<TcoLink>,
    no_reboot: Arc<AtomicBool>,
    clock: Clock,
    timer: Timer,
    // Guest-visible state.
    registers: Registers,
}

impl Tco {
    /// A watchdog that calls `expired` when it bites. `strap_no_reboot` is the pin that keeps it from biting, `no_reboot`
    /// the bit of the chipset configuration.
    pub fn new(
        clock: &Clock,
        strap_no_reboot: bool,
        (link, no_reboot): (Arc<TcoLink>, Arc<AtomicBool>),
        (expired, smi): (Expired, SmiRequest),
    ) -> DeviceCell<Self> {
        let watchdog = DeviceCell::new_cyclic(|handle| Self {
            strap_no_reboot,
            expired,
            smi,
            link,
            no_reboot,
            clock: clock.clone(),
            timer: handle.timer(clock, Self::due),
            registers: Registers::default(),
        });
        watchdog.lock().reset(ResetKind::Cold);
        watchdog
    }

    fn due(&mut self) {
        if !self.registers.is_running || self.clock.now() < self.registers.deadline {
            return;
        }
        self.registers.set(reg::STS1, self.registers.get(reg::STS1) | sts1::TIMEOUT);
        if self.registers.timeouts == 0 {
            self.registers.timeouts = 1;
        } else {
            let status = self.registers.get(reg::STS2) | sts2::SECOND_TIMEOUT | sts2::BOOT;
            self.registers.set(reg::STS2, status);
            self.registers.timeouts = 0;
            if !self.strap_no_reboot && !self.no_reboot.load(Ordering::Acquire) {
                self.registers.set(reg::RLD, 0);
                self.stop();
                (self.expired)();
                return;
            }
        }
        if self.link.raises_smi.load(Ordering::Acquire) {
            (self.smi)();
        }
        self.reload();
    }

    /// Begins to count down. Values of 0 and 1 are ignored.
    fn reload(&mut self) {
        let ticks = self.registers.get(reg::TMR);
        self.registers.set(reg::RLD, ticks);
        self.registers.is_running = true;
        self.registers.deadline = self.clock.now().saturating_add(u64::from(ticks & TICKS) * TICK);
        self.arm();
    }

    fn stop(&mut self) {
        (self.registers.is_running, self.registers.deadline) = (false, 0);
        self.arm();
    }

    fn arm(&mut self) {
        if self.registers.is_running {
            self.timer.arm(self.registers.deadline);
        } else {
            self.timer.cancel();
        }
    }

    fn can_start(&self) -> bool {
        self.registers.get(reg::CNT1) & cnt1::HALT == 0 && self.registers.get(reg::TMR) & TICKS > 1
    }

    /// What the registers show now.
    fn shown(&self) -> [u8; reg::END] {
        let mut registers = self.registers.clone();
        if registers.is_running {
            let left = registers.deadline.saturating_sub(self.clock.now()) / TICK;
            registers.set(reg::RLD, left as u16 & TICKS | registers.get(reg::RLD) & !TICKS);
        }
        registers.bytes
    }

    /// Writes the bits of `mask` of the 16-bit register at the even offset `at`.
    fn write_register(&mut self, at: usize, value: u16, mask: u16) {
        let old = self.registers.get(at);
        let merged = old & !mask | value & mask;
        match at {
            reg::RLD => {
                self.registers.timeouts = 0;
                if self.can_start() { self.reload() } else { self.registers.set(at, merged) }
            }
            reg::DAT_IN => {
                self.registers.set(at, merged);
                if mask & 0xff != 0 {
                    self.registers.set(reg::STS1, self.registers.get(reg::STS1) | sts1::SW_SMI);
                    (self.smi)();
                }
                if mask & 0xff00 != 0 {
                    self.registers.set(reg::STS1, self.registers.get(reg::STS1) | sts1::INT);
                }
            }
            reg::STS1 => self.registers.set(at, old & !(value & mask & sts1::CLEARABLE)),
            reg::STS2 => self.registers.set(at, old & !(value & mask & sts2::CLEARABLE)),
            reg::CNT1 => {
                self.registers.set(at, merged & cnt1::KEPT | old & cnt1::LOCK);
                self.announce();
                if self.can_start() { self.reload() } else { self.stop() }
            }
            _ => self.registers.set(at, merged),
        }
    }

    fn announce(&self) {
        self.link.is_locked.store(self.registers.get(reg::CNT1) & cnt1::LOCK != 0, Ordering::Release);
    }
}

impl Device for Tco {
    fn reset(&mut self, _kind: ResetKind) {
        self.registers = Registers::default();
        self.registers.set(reg::CNT2, 0x0008);
        self.registers.bytes[reg::SW_IRQ_GEN] = 0x03;
        self.registers.set(reg::TMR, 0x0004);
        self.announce();
        self.arm();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.registers)
    }

    fn restored(&mut self) {
        self.announce();
        self.arm();
    }
}

impl IoDevice for Tco {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Dword)
    }

    fn read(&mut self, _region: usize, offset: u64, size: AccessSize) -> u64 {
        let shown = self.shown();
        let bytes = shown.iter().skip(offset as usize).take(size.bytes());
        bytes.zip(0..).fold(0, |value, (byte, index)| value | u64::from(*byte) << (8 * index))
    }

    fn write(&mut self, _region: usize, offset: u64, size: AccessSize, value: u64) {
        let (first, shift) = ((offset & !1) as usize, 8 * (offset & 1));
        let (value, mask) = ((value & size.mask()) << shift, size.mask() << shift);
        for index in 0..3 {
            let (at, part) = (first + 2 * index, (mask >> (16 * index)) as u16);
            if part != 0 && at < reg::END {
                self.write_register(at, (value >> (16 * index)) as u16, part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Bench {
        clock: Clock,
        link: Arc<TcoLink>,
        no_reboot: Arc<AtomicBool>,
        watchdog: DeviceCell<Tco>,
        bites: mpsc::Receiver<()>,
        smis: mpsc::Receiver<()>,
    }

    fn bench() -> Bench {
        let (clock, link, no_reboot) = (Clock::manual(), Arc::default(), Arc::default());
        let ((bite, bites), (smi, smis)) = (mpsc::channel(), mpsc::channel());
        let bite = Box::new(move || bite.send(()).expect("receiver"));
        let smi = Box::new(move || smi.send(()).expect("receiver"));
        let watchdog = Tco::new(&clock, false, (Arc::clone(&link), Arc::clone(&no_reboot)), (bite, smi));
        Bench { clock, link, no_reboot, watchdog, bites, smis }
    }

    impl Bench {
        fn write(&self, at: usize, value: u64) {
            self.watchdog.lock().write(0, at as u64, AccessSize::Word, value);
        }

        fn read(&self, at: usize) -> u64 {
            self.watchdog.lock().read(0, at as u64, AccessSize::Word)
        }
    }

    #[test]
    fn second_timeout_bites_unless_a_bit_says_no() {
        let bench = bench();
        bench.link.raises_smi.store(true, Ordering::Release);
        bench.write(reg::TMR, 10);
        bench.write(reg::RLD, 0);
        bench.clock.step(3 * TICK);
        assert_eq!(bench.read(reg::RLD), 7);
        bench.clock.step(7 * TICK);
        assert_eq!((bench.read(reg::STS1), bench.smis.try_iter().count()), (u64::from(sts1::TIMEOUT), 1));
        bench.no_reboot.store(true, Ordering::Release);
        bench.clock.step(10 * TICK);
        assert_eq!((bench.read(reg::STS2), bench.bites.try_iter().count()), (6, 0));
        bench.no_reboot.store(false, Ordering::Release);
        bench.clock.step(20 * TICK);
        assert_eq!(bench.bites.try_iter().count(), 1);
        bench.clock.step(100 * TICK);
        assert_eq!(bench.bites.try_iter().count(), 0, "it has stopped");
        bench.write(reg::STS2, 6);
        assert_eq!(bench.read(reg::STS2), 0);
    }

    #[test]
    fn halt_stops_and_lock_stays() {
        let bench = bench();
        bench.write(reg::TMR, 4);
        bench.write(reg::RLD, 0);
        bench.write(reg::CNT1, u64::from(cnt1::HALT | cnt1::LOCK));
        assert!(bench.link.is_locked.load(Ordering::Acquire));
        bench.clock.step(100 * TICK);
        assert_eq!(bench.read(reg::STS1), 0);
        bench.write(reg::CNT1, 0);
        assert_eq!(bench.read(reg::CNT1), u64::from(cnt1::LOCK));
        bench.clock.step(4 * TICK);
        assert_eq!(bench.read(reg::STS1), u64::from(sts1::TIMEOUT));
    }

    #[test]
    fn reset_brings_all_state_back() {
        let bench = bench();
        let mut watchdog = bench.watchdog.lock();
        state::testing::assert_reset_is_complete(
            &mut *watchdog,
            |watchdog| &mut watchdog.registers,
            |watchdog| watchdog.reset(ResetKind::Warm),
        );
    }
}
