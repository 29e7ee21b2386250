//! The watchdog of the Intel 6300ESB I/O controller hub (Intel 300641, chapter 16): PCI function 8086:25ab with two
//! stages, which a guest feeds through memory-mapped registers after an unlocking sequence.
//!
//! As in QEMU, the first stage interrupts nobody. Accesses count with the sizes of the data sheet alone: configuration
//! by word, lock by byte, preload registers by double word, reload register by word; others read as zero.

use clock::{Clock, Timer};
use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, ResetKind};
use memory::SpaceKind;
use state::State;

use crate::bus::{PciFunction, Window};
use crate::config::{Bar, BarKind, ConfigSpace, Identity};

/// The name of the type.
pub const TYPE: &str = "i6300esb";

const WINDOW_LEN: u64 = 16;
const CONFIG: u8 = 0x60;
const LOCK: u8 = 0x68;
const TIMER1: u64 = 0;
const TIMER2: u64 = 4;
const RELOAD: u64 = 0xc;
const PRELOAD_MASK: u32 = 0xf_ffff;
/// Nanoseconds of a PCI clock.
const TICK: u64 = 30;

/// Bits of the configuration register.
mod config_bits {
    pub const NO_REBOOT: u16 = 1 << 5;
    pub const FAST: u16 = 1 << 2;
    pub const INTERRUPT: u16 = 0x11;
}

/// Bits of the lock register.
mod lock_bits {
    pub const LOCKED: u8 = 1;
    pub const ENABLED: u8 = 1 << 1;
    pub const FREE_RUN: u8 = 1 << 2;
}

/// Bits of the reload register. Linux expects the flag of a reboot at bit 12, the data sheet has it at 9.
mod reload_bits {
    pub const RELOAD: u32 = 1 << 8;
    pub const REBOOTED: u32 = 1 << 9 | 1 << 12;
}

/// Called when the time is over, with the device's lock held; it must not wait.
pub type Expired = Box<dyn FnMut() + Send>;

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "i6300esb_wdt", version = 1)]
struct Registers {
    config: ConfigSpace,
    control: u16,
    lock: u8,
    preload: [u32; 2],
    #[state(max = 2)]
    stage: u8,
    /// How far the guest is in unlocking.
    #[state(max = 2)]
    unlocked: u8,
    has_rebooted: bool,
    is_running: bool,
    deadline: u64,
}

/// The watchdog.
pub struct I6300Esb {
    // Host resources.
    expired: Expired,
    // Wiring.
    clock: Clock,
    timer: Timer,
    // Guest-visible state.
    registers: Registers,
}

impl I6300Esb {
    /// A watchdog that is off and calls `expired` when it bites.
    pub fn new(clock: &Clock, expired: Expired) -> DeviceCell<Self> {
        let mut config =
            ConfigSpace::new(&Identity { vendor: 0x8086, device: 0x25ab, revision: 0, class: 0x0880, prog_if: 0 });
        config.add_bar(0, Bar { kind: BarKind::Memory32, size: WINDOW_LEN });
        DeviceCell::new_cyclic(|handle| Self {
            expired,
            clock: clock.clone(),
            timer: handle.timer(clock, Self::due),
            registers: Registers {
                config,
                control: 0,
                lock: 0,
                preload: [PRELOAD_MASK; 2],
                stage: 1,
                unlocked: 0,
                has_rebooted: false,
                is_running: false,
                deadline: 0,
            },
        })
    }

    /// The window to attach the function with.
    pub fn windows(cell: &DeviceCell<Self>) -> Vec<Window> {
        let backing = cell.region(0);
        vec![Window { index: 0, space: SpaceKind::Memory, offset: 0, len: WINDOW_LEN, priority: 1, backing }]
    }

    fn restart(&mut self, stage: u8) {
        if self.registers.lock & lock_bits::ENABLED == 0 {
            return;
        }
        let preload = u64::from(self.registers.preload[usize::from(stage > 1)]);
        let shift = if self.registers.control & config_bits::FAST != 0 { 5 } else { 15 };
        self.registers.stage = stage;
        self.registers.is_running = true;
        self.registers.deadline = self.clock.now().saturating_add((preload << shift) * TICK);
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

    fn due(&mut self) {
        if !self.registers.is_running || self.clock.now() < self.registers.deadline {
            return;
        }
        self.registers.is_running = false;
        if self.registers.stage == 1 {
            self.restart(2);
            return;
        }
        let is_free_running = self.registers.lock & lock_bits::FREE_RUN != 0;
        if self.registers.control & config_bits::NO_REBOOT == 0 {
            self.registers.has_rebooted = true;
            (self.expired)();
            self.reset_timer();
        } else if is_free_running {
            self.restart(1);
        }
    }

    /// Everything but the configuration space and the note of a reboot.
    fn reset_timer(&mut self) {
        self.stop();
        self.registers.control = 0;
        self.registers.lock = 0;
        self.registers.preload = [PRELOAD_MASK; 2];
        self.registers.stage = 1;
        self.registers.unlocked = 0;
    }

    fn write_lock(&mut self, value: u8) {
        let old = self.registers.lock;
        if old & lock_bits::LOCKED != 0 {
            return;
        }
        self.registers.lock = value & (lock_bits::LOCKED | lock_bits::ENABLED | lock_bits::FREE_RUN);
        if value & lock_bits::ENABLED == 0 {
            self.stop();
        } else if old & lock_bits::ENABLED == 0 {
            self.restart(1);
        }
    }

    fn write_unlocked(&mut self, offset: u64, size: AccessSize, value: u32) {
        match (offset, size) {
            (RELOAD, AccessSize::Word) => {
                if value & reload_bits::RELOAD != 0 {
                    self.restart(1);
                }
                if value & reload_bits::REBOOTED != 0 {
                    self.registers.has_rebooted = false;
                }
            }
            (TIMER1, AccessSize::Dword) => self.registers.preload[0] = value & PRELOAD_MASK,
            (TIMER2, AccessSize::Dword) => self.registers.preload[1] = value & PRELOAD_MASK,
            _ => {}
        }
    }
}

impl Device for I6300Esb {
    fn reset(&mut self, kind: ResetKind) {
        self.registers.config.reset();
        self.reset_timer();
        if kind == ResetKind::Cold {
            self.registers.has_rebooted = false;
        }
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.registers)
    }

    fn restored(&mut self) {
        self.arm();
    }
}

impl PciFunction for I6300Esb {
    fn config(&self) -> &ConfigSpace {
        &self.registers.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.registers.config
    }

    fn read_config(&mut self, offset: u8, size: AccessSize) -> u32 {
        match (offset, size) {
            (CONFIG, AccessSize::Word) => self.registers.control.into(),
            (LOCK, AccessSize::Byte) => self.registers.lock.into(),
            _ => self.registers.config.read(offset, size),
        }
    }

    fn write_config(&mut self, offset: u8, size: AccessSize, value: u32) {
        match (offset, size) {
            (CONFIG, AccessSize::Word) => {
                let known = config_bits::NO_REBOOT | config_bits::FAST | config_bits::INTERRUPT;
                self.registers.control = value as u16 & known;
            }
            (LOCK, AccessSize::Byte) => self.write_lock(value as u8),
            _ => self.registers.config.write(offset, size, value),
        }
    }
}

impl IoDevice for I6300Esb {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Dword)
    }

    fn read(&mut self, _region: usize, offset: u64, size: AccessSize) -> u64 {
        let is_flag = (offset, size) == (RELOAD, AccessSize::Word) && self.registers.has_rebooted;
        if is_flag { reload_bits::REBOOTED.into() } else { 0 }
    }

    fn write(&mut self, _region: usize, offset: u64, size: AccessSize, value: u64) {
        const KEYS: [u64; 2] = [0x80, 0x86];
        let value = value & size.mask();
        match (offset, value, self.registers.unlocked) {
            (RELOAD, key, _) if key == KEYS[0] => self.registers.unlocked = 1,
            (RELOAD, key, 1) if key == KEYS[1] => self.registers.unlocked = 2,
            (_, _, 2) if size != AccessSize::Byte => {
                self.write_unlocked(offset, size, value as u32);
                self.registers.unlocked = 0;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const SECOND: u64 = 1_000_000_000;

    fn unlocked(watchdog: &DeviceCell<I6300Esb>, offset: u64, size: AccessSize, value: u64) {
        for key in [0x80, 0x86] {
            watchdog.lock().write(0, RELOAD, AccessSize::Byte, key);
        }
        watchdog.lock().write(0, offset, size, value);
    }

    #[test]
    fn watchdog_bites_after_both_stages_and_remembers_it() {
        let clock = Clock::manual();
        let (send, bites) = mpsc::channel();
        let watchdog = I6300Esb::new(&clock, Box::new(move || send.send(()).expect("receiver")));
        // A tick of the timer is 2^15 clocks of 30 ns, nearly a millisecond.
        for register in [TIMER1, TIMER2] {
            unlocked(&watchdog, register, AccessSize::Dword, 1000);
        }
        watchdog.lock().write_config(LOCK, AccessSize::Byte, 3);
        watchdog.lock().write_config(LOCK, AccessSize::Byte, 0);
        assert_eq!(watchdog.lock().read_config(LOCK, AccessSize::Byte), 3, "locked");
        clock.step(SECOND * 3 / 2);
        unlocked(&watchdog, RELOAD, AccessSize::Word, 0x100);
        clock.step(SECOND * 3 / 2);
        assert_eq!(bites.try_iter().count(), 0);
        assert_eq!(watchdog.lock().read(0, RELOAD, AccessSize::Word), 0);
        clock.step(SECOND);
        assert_eq!(bites.try_iter().count(), 1);
        watchdog.lock().reset(ResetKind::Warm);
        assert_eq!(watchdog.lock().read(0, RELOAD, AccessSize::Word), 0x1200);
        unlocked(&watchdog, RELOAD, AccessSize::Word, 0x1000);
        assert_eq!(watchdog.lock().read(0, RELOAD, AccessSize::Word), 0);
    }
}
