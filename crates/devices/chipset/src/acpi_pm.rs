//! Power management of the PIIX4 (Intel 290562, 7.2) and the ICH9 (Intel 316972, 13.8; ACPI 1.0b, 4.7): PM1 event and
//! control registers, the ACPI timer, the GPE0 block where QEMU has it, and the SMI command port.
//!
//! The SCI is a level: high while an enabled event is pending and SCI_EN is set. Sleeping is a request to the machine.
//! A write of the SMI command port raises an SMI where the chipset's switch lets it. Left out: SMIs for events while
//! SCI_EN is clear (they go nowhere), throttling, and the device monitors of the PIIX4, whose registers read as zeros.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clock::{Clock, Timer};
use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, IrqLine, ResetKind};
use state::State;

use crate::tco::TcoLink;

/// Region 0: the 64 ports of the power management block (0x600).
pub const REGION_PM: usize = 0;
/// Region 1: the 4 ports of GPE0 (0xafe0): status, then enable.
pub const REGION_GPE0: usize = 1;
/// Region 2: the SMI command and status ports (0xb2).
pub const REGION_APM: usize = 2;
/// Region 3: the 16 ports of the ICH9's GPE0 (offset 0x20): 8 of status, 8 of enable.
pub const REGION_GPE0_ICH9: usize = 3;
/// Region 4: the ICH9's SMI enable and status registers (offset 0x30), 8 ports.
pub const REGION_SMI: usize = 4;

/// The ACPI timer's frequency in Hz.
const FREQUENCY: u64 = 3_579_545;
const SECOND: u64 = 1_000_000_000;
/// The timer status is set each time the top bit of the 24 toggles.
const HALF_RANGE: u64 = 1 << 23;

/// Bits of the PM1 status register; the enable register has those at the same places that can be enabled.
mod pm1 {
    pub const TMR: u16 = 1;
    pub const BM: u16 = 1 << 4;
    pub const GBL: u16 = 1 << 5;
    pub const PWRBTN: u16 = 1 << 8;
    pub const SLPBTN: u16 = 1 << 9;
    pub const RTC: u16 = 1 << 10;
    pub const WAK: u16 = 1 << 15;
    /// What can be enabled.
    pub const ENABLES: u16 = TMR | GBL | PWRBTN | SLPBTN | RTC;
    /// What there is at all.
    pub const STATUS: u16 = ENABLES | BM | WAK;
}

/// Bits of the PM1 control register.
mod control {
    pub const SCI_EN: u16 = 1;
    pub const GBL_RLS: u16 = 1 << 2;
    pub const SLP_EN: u16 = 1 << 13;
    pub const SLP_TYP_SHIFT: u32 = 10;
    /// What reads back: GBL_RLS and SLP_EN are triggers.
    pub const KEPT: u16 = 0x1c03;
}

/// What differs between the chipsets.
#[derive(Clone, Debug)]
pub struct PmModel {
    /// Values of the SMI command port that switch ACPI mode on and off.
    pub acpi_switch: (u8, u8),
    /// What lets the SMI command port raise an SMI.
    pub smi_enable: SmiEnable,
}

/// What lets the SMI command port raise an SMI.
#[derive(Clone, Debug)]
pub enum SmiEnable {
    /// A bit of another device, which knows whether there is a system-management mode.
    Flag(Arc<AtomicBool>),
    /// The SMI enable register, if there is a system-management mode.
    Register {
        /// There is one.
        has_smm: bool,
        /// Locks the global switch in the register.
        lock: Arc<AtomicBool>,
        /// The watchdog.
        tco: Arc<TcoLink>,
    },
}

impl PmModel {
    /// The PIIX4: `apmc` is its bit APMC_EN.
    pub fn piix4(apmc: Arc<AtomicBool>) -> Self {
        Self { acpi_switch: (0xf1, 0xf0), smi_enable: SmiEnable::Flag(apmc) }
    }

    /// The ICH9.
    pub fn ich9(has_smm: bool, lock: Arc<AtomicBool>, tco: Arc<TcoLink>) -> Self {
        Self { acpi_switch: (2, 3), smi_enable: SmiEnable::Register { has_smm, lock, tco } }
    }
}

/// Bits of the ICH9's SMI enable register.
mod smi {
    pub const GLOBAL: u32 = 1;
    pub const APMC: u32 = 1 << 5;
    /// The watchdog.
    pub const TCO: u32 = 1 << 13;
    /// Without system-management mode everything is set up already, and locked: firmware leaves it alone.
    pub const WITHOUT_SMM: u32 = APMC;
}

/// A sleeping state that the guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SleepState {
    /// Suspend to RAM (SLP_TYP 1).
    S3,
    /// Suspend to disk (SLP_TYP 2).
    S4,
    /// Soft off (SLP_TYP 0).
    S5,
}

/// Called when the guest goes to sleep, with the device's lock held; it must not wait.
pub type SleepRequest = Box<dyn FnMut(SleepState) + Send>;
/// Raises a system-management interrupt. Called with the device's lock held.
pub type SmiRequest = Box<dyn FnMut() + Send>;

/// What ends a suspension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeReason {
    /// The real-time clock's alarm.
    Rtc,
    /// The ACPI timer.
    Timer,
    /// Anything else: the user, a device.
    Other,
}

fn to_ticks(nanoseconds: u64) -> u64 {
    (u128::from(nanoseconds) * u128::from(FREQUENCY) / u128::from(SECOND)) as u64
}

/// The first nanosecond at which `ticks` ticks are over.
fn to_nanoseconds(ticks: u64) -> u64 {
    (u128::from(ticks) * u128::from(SECOND)).div_ceil(u128::from(FREQUENCY)) as u64
}

/// The guest-visible state.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "piix4_pm/registers", version = 1)]
struct Registers {
    pm1_status: u16,
    pm1_enable: u16,
    pm1_control: u16,
    /// The timer's tick that sets its status next.
    next_overflow: u64,
    gpe0_status: u16,
    gpe0_enable: u16,
    apm_control: u8,
    apm_status: u8,
    smi_enable: u32,
    smi_status: u32,
}

/// The power management block.
pub struct AcpiPm {
    // Configuration.
    model: PmModel,
    s4_value: u8,
    // Host resources.
    sleep: SleepRequest,
    // Wiring.
    smi: SmiRequest,
    clock: Clock,
    timer: Timer,
    sci: IrqLine,
    // Guest-visible state.
    registers: Registers,
}

impl AcpiPm {
    /// A block that drives `sci` (ISA interrupt 9, level-triggered) and calls `sleep` and `smi`.
    pub fn new(
        clock: &Clock,
        model: PmModel,
        sci: IrqLine,
        (sleep, smi): (SleepRequest, SmiRequest),
    ) -> DeviceCell<Self> {
        let block = DeviceCell::new_cyclic(|handle| Self {
            model,
            s4_value: 2,
            sleep,
            smi,
            clock: clock.clone(),
            timer: handle.timer(clock, Self::update),
            sci,
            registers: Registers::default(),
        });
        block.lock().reset(ResetKind::Cold);
        block
    }

    /// Sets the SLP_TYP that means S4; it is 2 before.
    pub fn set_s4_value(&mut self, value: u8) {
        self.s4_value = value;
    }

    /// The user presses the power button. It is lost while the guest has not enabled it.
    pub fn press_power_button(&mut self) {
        if self.registers.pm1_enable & pm1::PWRBTN != 0 {
            self.registers.pm1_status |= pm1::PWRBTN;
            self.update();
        }
    }

    /// A general-purpose event (0 to 15) happened: hotplug, for example.
    pub fn raise_gpe(&mut self, event: u8) {
        self.registers.gpe0_status |= 1_u16.checked_shl(u32::from(event)).unwrap_or(0);
        self.update();
    }

    /// The machine wakes up from a suspension: what the guest finds in the status register.
    pub fn wake(&mut self, reason: WakeReason) {
        self.registers.pm1_status |= pm1::WAK
            | match reason {
                WakeReason::Rtc => pm1::RTC,
                WakeReason::Timer => pm1::TMR,
                WakeReason::Other => 0,
            };
        self.update();
    }

    /// Whether the guest lets the real-time clock's alarm wake it.
    pub fn wakes_by_alarm(&self) -> bool {
        self.registers.pm1_enable & pm1::RTC != 0
    }

    /// Switches to ACPI mode, as firmware does for a guest that it starts so.
    pub fn enable_acpi(&mut self) {
        self.registers.pm1_control |= control::SCI_EN;
        self.update();
    }

    /// Notes what time has brought, and returns the SCI's level.
    fn poll(&mut self) -> bool {
        if to_ticks(self.clock.now()) >= self.registers.next_overflow {
            self.registers.pm1_status |= pm1::TMR;
        }
        let Registers { pm1_status, pm1_enable, pm1_control, gpe0_status, gpe0_enable, .. } = self.registers;
        let is_pending = pm1_status & pm1_enable & pm1::ENABLES != 0 || gpe0_status & gpe0_enable != 0;
        is_pending && pm1_control & control::SCI_EN != 0
    }

    fn update(&mut self) {
        let level = self.poll();
        self.sci.set(level);
        self.arm();
    }

    /// Waits for the timer's overflow only while it would interrupt.
    fn arm(&mut self) {
        if self.registers.pm1_enable & pm1::TMR != 0 && self.registers.pm1_status & pm1::TMR == 0 {
            self.timer.arm(to_nanoseconds(self.registers.next_overflow));
        } else {
            self.timer.cancel();
        }
    }

    fn clear_status(&mut self, bits: u16) {
        self.poll();
        self.registers.pm1_status &= !bits;
        if bits & pm1::TMR != 0 {
            self.start_overflow();
        }
    }

    fn start_overflow(&mut self) {
        self.registers.next_overflow = (to_ticks(self.clock.now()) & !(HALF_RANGE - 1)).saturating_add(HALF_RANGE);
    }

    fn write_control(&mut self, value: u16) {
        self.registers.pm1_control = value & control::KEPT;
        if value & control::GBL_RLS != 0 {
            // The firmware would be told by an SMI, and answer with the global status.
            self.registers.pm1_status |= pm1::GBL;
        }
        if value & control::SLP_EN == 0 {
            return;
        }
        match value >> control::SLP_TYP_SHIFT & 7 {
            0 => (self.sleep)(SleepState::S5),
            1 => (self.sleep)(SleepState::S3),
            value if value == u16::from(self.s4_value) => (self.sleep)(SleepState::S4),
            _ => {}
        }
    }

    /// Writes the bits of `mask` of the 16-bit register at `offset`.
    fn write_register(&mut self, offset: u64, value: u16, mask: u16) {
        let merge = |old: u16| (old & !mask) | (value & mask);
        match offset {
            0 => self.clear_status(value & mask & pm1::STATUS),
            2 => self.registers.pm1_enable = merge(self.registers.pm1_enable) & pm1::ENABLES,
            4 => self.write_control(merge(self.registers.pm1_control)),
            _ => {}
        }
    }

    /// The first 12 bytes of the block, at one moment.
    fn block(&mut self) -> [u8; 12] {
        self.poll();
        let mut bytes = [0; 12];
        let Registers { pm1_status, pm1_enable, pm1_control, .. } = self.registers;
        bytes[0..2].copy_from_slice(&pm1_status.to_le_bytes());
        bytes[2..4].copy_from_slice(&pm1_enable.to_le_bytes());
        bytes[4..6].copy_from_slice(&pm1_control.to_le_bytes());
        let timer = to_ticks(self.clock.now()) as u32 & 0xff_ffff;
        bytes[8..12].copy_from_slice(&timer.to_le_bytes());
        bytes
    }

    fn gpe0(&self) -> [u8; 4] {
        let [status_low, status_high] = self.registers.gpe0_status.to_le_bytes();
        let [enable_low, enable_high] = self.registers.gpe0_enable.to_le_bytes();
        [status_low, status_high, enable_low, enable_high]
    }

    fn write_gpe0(&mut self, offset: u64, value: u8) {
        match offset {
            0 => self.registers.gpe0_status &= !u16::from(value),
            1 => self.registers.gpe0_status &= !(u16::from(value) << 8),
            2 => self.registers.gpe0_enable = (self.registers.gpe0_enable & 0xff00) | u16::from(value),
            _ => self.registers.gpe0_enable = (self.registers.gpe0_enable & 0x00ff) | u16::from(value) << 8,
        }
    }

    fn write_apm(&mut self, offset: u64, value: u8) {
        if offset != 0 {
            self.registers.apm_status = value;
            return;
        }
        self.registers.apm_control = value;
        let (enable, disable) = self.model.acpi_switch;
        if value == enable {
            self.registers.pm1_control |= control::SCI_EN;
        } else if value == disable {
            self.registers.pm1_control &= !control::SCI_EN;
        } else if self.apm_raises_smi() {
            (self.smi)();
        }
    }

    fn apm_raises_smi(&self) -> bool {
        match &self.model.smi_enable {
            SmiEnable::Flag(flag) => flag.load(Ordering::Acquire),
            SmiEnable::Register { has_smm, .. } => *has_smm && self.registers.smi_enable & smi::APMC != 0,
        }
    }

    fn gpe0_ich9(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let narrow = self.gpe0();
        bytes[..2].copy_from_slice(&narrow[..2]);
        bytes[8..10].copy_from_slice(&narrow[2..]);
        bytes
    }

    fn smi_registers(&self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.registers.smi_enable.to_le_bytes());
        bytes[4..].copy_from_slice(&self.registers.smi_status.to_le_bytes());
        bytes
    }

    fn write_smi(&mut self, offset: u64, size: AccessSize, value: u64) {
        let SmiEnable::Register { has_smm: true, lock, tco } = &self.model.smi_enable else { return };
        let (shift, mask) = (8 * (offset & 3), size.mask());
        let merge = |old: u32| (u64::from(old) & !(mask << shift) | (value & mask) << shift) as u32;
        if offset & 4 != 0 {
            self.registers.smi_status &= !((value & mask) << shift) as u32;
            return;
        }
        let mut locked = if lock.load(Ordering::Acquire) { smi::GLOBAL } else { 0 };
        locked |= if tco.is_locked.load(Ordering::Acquire) { smi::TCO } else { 0 };
        let old = self.registers.smi_enable;
        self.registers.smi_enable = merge(old) & !locked | old & locked;
        self.announce_smi();
    }

    /// Tells the watchdog whether it may raise an SMI.
    fn announce_smi(&self) {
        if let SmiEnable::Register { tco, has_smm, .. } = &self.model.smi_enable {
            tco.raises_smi.store(*has_smm && self.registers.smi_enable & smi::TCO != 0, Ordering::Release);
        }
    }
}

/// `size` bytes at `offset`, little-endian; zeros behind the end.
fn load(bytes: &[u8], offset: u64, size: AccessSize) -> u64 {
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let present = bytes.iter().skip(from).take(size.bytes());
    present.zip(0..).fold(0, |value, (byte, index)| value | u64::from(*byte) << (8 * index))
}

impl Device for AcpiPm {
    fn reset(&mut self, _kind: ResetKind) {
        self.registers = Registers::default();
        if let SmiEnable::Register { has_smm: false, .. } = self.model.smi_enable {
            self.registers.smi_enable = smi::WITHOUT_SMM;
        }
        self.announce_smi();
        self.start_overflow();
        self.update();
    }

    fn state(&mut self) -> DeviceState<'_> {
        // What time has brought belongs to it.
        self.poll();
        DeviceState::State(&mut self.registers)
    }

    fn restored(&mut self) {
        let level = self.poll();
        self.sci.restore(level);
        self.announce_smi();
        self.arm();
    }
}

impl IoDevice for AcpiPm {
    fn access_sizes(&self, region: usize) -> (AccessSize, AccessSize) {
        match region {
            REGION_PM | REGION_SMI => (AccessSize::Byte, AccessSize::Dword),
            _ => (AccessSize::Byte, AccessSize::Byte),
        }
    }

    fn read(&mut self, region: usize, offset: u64, size: AccessSize) -> u64 {
        match region {
            REGION_PM => load(&self.block(), offset, size),
            REGION_GPE0 => load(&self.gpe0(), offset, size),
            REGION_GPE0_ICH9 => load(&self.gpe0_ich9(), offset, size),
            REGION_SMI => load(&self.smi_registers(), offset, size),
            _ => load(&[self.registers.apm_control, self.registers.apm_status], offset, size),
        }
    }

    fn write(&mut self, region: usize, offset: u64, size: AccessSize, value: u64) {
        match region {
            REGION_PM => {
                // Each 16-bit register that the access touches, once.
                let first = offset & !1;
                let shift = 8 * (offset & 1);
                let (value, mask) = ((value & size.mask()) << shift, size.mask() << shift);
                for index in 0..3 {
                    let part = (mask >> (16 * index)) as u16;
                    if part != 0 {
                        self.write_register(first + 2 * index, (value >> (16 * index)) as u16, part);
                    }
                }
            }
            REGION_GPE0 => self.write_gpe0(offset, value as u8),
            REGION_GPE0_ICH9 => match offset {
                0 | 1 => self.write_gpe0(offset, value as u8),
                8 | 9 => self.write_gpe0(offset - 6, value as u8),
                _ => {}
            },
            REGION_SMI => self.write_smi(offset, size, value),
            _ => self.write_apm(offset, value as u8),
        }
        self.update();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Pins;
    use std::sync::{Arc, mpsc};

    const PWRBTN_EN: u64 = 0x100;

    struct Bench {
        clock: Clock,
        block: DeviceCell<AcpiPm>,
        pins: Arc<Pins>,
        sleeps: mpsc::Receiver<SleepState>,
    }

    impl Bench {
        fn new() -> Self {
            let (clock, pins) = (Clock::manual(), Pins::new());
            let (send, sleeps) = mpsc::channel();
            let request = Box::new(move |state| send.send(state).expect("receiver"));
            let block = AcpiPm::new(&clock, PmModel::piix4(Arc::default()), pins.line(9), (request, Box::new(|| ())));
            Self { clock, block, pins, sleeps }
        }

        fn write(&self, offset: u64, size: AccessSize, value: u64) {
            self.block.lock().write(REGION_PM, offset, size, value);
        }

        fn read(&self, offset: u64, size: AccessSize) -> u64 {
            self.block.lock().read(REGION_PM, offset, size)
        }

        fn smi_command(&self, value: u64) {
            self.block.lock().write(REGION_APM, 0, AccessSize::Byte, value);
        }
    }

    #[test]
    fn state_saved_after_an_overflow_nobody_saw_has_it() {
        let bench = Bench::new();
        bench.clock.step(3 * SECOND);
        assert_eq!(device::testing::save_and_restore_agree("acpi_pm", &bench.block), Ok(()));
        assert_eq!(bench.read(0, AccessSize::Word) & u64::from(pm1::TMR), 1);
    }

    #[test]
    fn timer_counts_3579545_hz_in_24_bits() {
        let bench = Bench::new();
        bench.clock.step(SECOND);
        assert_eq!(bench.read(8, AccessSize::Dword), 3_579_545);
        bench.clock.step(9 * SECOND);
        assert_eq!(bench.read(8, AccessSize::Dword), 35_795_450 & 0xff_ffff);
        assert_eq!(bench.read(9, AccessSize::Byte), 35_795_450 >> 8 & 0xff);
    }

    #[test]
    fn timer_overflow_interrupts_once_for_each_half_range() {
        let bench = Bench::new();
        bench.smi_command(0xf1);
        bench.write(2, AccessSize::Word, 1);
        let half = to_nanoseconds(HALF_RANGE);
        bench.clock.step(half - 1);
        assert!(!bench.pins.level(9));
        bench.clock.step(1);
        assert!(bench.pins.level(9));
        bench.write(0, AccessSize::Word, 1);
        assert!(!bench.pins.level(9));
        bench.clock.step(half);
        assert_eq!(bench.pins.edges(9), 2);
    }

    #[test]
    fn power_button_raises_the_sci_in_acpi_mode_until_it_is_cleared() {
        let bench = Bench::new();
        bench.block.lock().press_power_button();
        assert_eq!(bench.read(0, AccessSize::Word), 0, "not enabled");
        bench.write(2, AccessSize::Word, PWRBTN_EN);
        bench.block.lock().press_power_button();
        assert_eq!(bench.read(0, AccessSize::Word), PWRBTN_EN);
        assert!(!bench.pins.level(9), "legacy mode");
        bench.smi_command(0xf1);
        assert_eq!(bench.read(4, AccessSize::Word), 1);
        assert!(bench.pins.level(9));
        // The low byte's bits do not touch it; the high byte's do.
        bench.write(0, AccessSize::Byte, 0xff);
        assert!(bench.pins.level(9));
        bench.write(1, AccessSize::Byte, 1);
        assert!(!bench.pins.level(9));
        bench.smi_command(0xf0);
        assert_eq!(bench.read(4, AccessSize::Word), 0);
    }

    #[test]
    fn dword_write_reaches_status_and_enable() {
        let bench = Bench::new();
        bench.block.lock().wake(WakeReason::Rtc);
        assert_eq!(bench.read(0, AccessSize::Dword), 0x8400);
        bench.write(0, AccessSize::Dword, 0x0120_8000);
        assert_eq!(bench.read(0, AccessSize::Dword), 0x0120_0400);
    }

    #[test]
    fn sleep_types_are_requested_with_slp_en_alone() {
        let bench = Bench::new();
        for (value, expected) in [
            (0x2000, Some(SleepState::S5)),
            (0x2400, Some(SleepState::S3)),
            (0x2801, Some(SleepState::S4)),
            (0x0400, None),
        ] {
            bench.write(4, AccessSize::Word, value);
            assert_eq!(bench.sleeps.try_recv().ok(), expected, "{value:#x}");
            assert_eq!(bench.read(4, AccessSize::Word), value & !0x2000);
        }
    }

    #[test]
    fn general_purpose_event_raises_the_sci_while_enabled() {
        let bench = Bench::new();
        bench.smi_command(0xf1);
        bench.block.lock().raise_gpe(1);
        assert!(!bench.pins.level(9));
        bench.block.lock().write(REGION_GPE0, 2, AccessSize::Byte, 2);
        assert!(bench.pins.level(9));
        assert_eq!(bench.block.lock().read(REGION_GPE0, 0, AccessSize::Byte), 2);
        bench.block.lock().write(REGION_GPE0, 0, AccessSize::Byte, 2);
        assert!(!bench.pins.level(9));
    }

    #[test]
    fn restored_event_is_a_level_without_an_edge() {
        let saved = Bench::new();
        saved.smi_command(0xf1);
        saved.write(2, AccessSize::Word, PWRBTN_EN);
        saved.block.lock().press_power_button();
        let bytes = state::testing::saved(&saved.block.lock().registers);
        let bench = Bench::new();
        state::testing::load_all(&mut bench.block.lock().registers, &bytes).expect("load");
        bench.block.lock().restored();
        assert!(bench.pins.level(9));
        assert_eq!(bench.pins.edges(9), 0);
    }

    #[test]
    fn reset_brings_all_state_back() {
        let bench = Bench::new();
        let mut block = bench.block.lock();
        state::testing::assert_reset_is_complete(
            &mut *block,
            |block| &mut block.registers,
            |block| block.reset(ResetKind::Warm),
        );
    }
}
