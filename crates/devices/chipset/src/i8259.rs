//! The pair of 8259A interrupt controllers of a PC (Intel 8259A data sheet 231468-003), with the ELCR registers of the
//! PIIX3 at 0x4d0 and 0x4d1.
//!
//! Modelled: ICW1–ICW4, OCW1–OCW3, automatic EOI, rotation, special mask, special fully nested mode, polling, spurious
//! interrupts 7 and 15, edge and level (ELCR) triggering. As in the PIIX3, ELCR replaces the LTIM bit of ICW1. Left out:
//! MCS-80/85 mode, and buffered mode (a PC has no bus buffers to steer).

use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, IrqLine, IrqSink, ResetKind};
use state::State;

/// Region 0: the master's two ports (0x20).
pub const REGION_MASTER: usize = 0;
/// Region 1: the slave's two ports (0xa0).
pub const REGION_SLAVE: usize = 1;
/// Region 2: the edge/level control registers of both (0x4d0, 0x4d1).
pub const REGION_ELCR: usize = 2;

/// The master's input that the slave drives.
const CASCADE: u8 = 2;
/// Bits of ELCR that can be set: interrupts 0–2, 8 and 13 are edge-triggered always.
const ELCR_MASK: [u8; 2] = [0xf8, 0xde];

/// Which of the initialisation command words is expected next.
mod expect {
    pub const NONE: u8 = 0;
    pub const ICW2: u8 = 1;
    pub const ICW3: u8 = 2;
    pub const ICW4: u8 = 3;
}

/// The guest-visible state of one controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "i8259/chip", version = 1)]
struct ChipState {
    /// The inputs' levels when they were last seen, to find edges.
    last_level: u8,
    irr: u8,
    imr: u8,
    isr: u8,
    elcr: u8,
    /// The input with the highest priority.
    #[state(max = 7)]
    priority_base: u8,
    vector_base: u8,
    read_isr: bool,
    poll: bool,
    special_mask: bool,
    /// The next expected initialisation word, see [`expect`].
    #[state(max = 3)]
    init_state: u8,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_fully_nested: bool,
    needs_icw4: bool,
    single: bool,
}

impl ChipState {
    /// Rank of the highest-priority bit of `mask`: 0 is the highest, 8 is none.
    fn priority(&self, mask: u8) -> u32 {
        mask.rotate_right(u32::from(self.priority_base)).trailing_zeros()
    }

    /// The request that the controller would pass on now.
    fn pending(&self, is_master: bool) -> Option<u8> {
        let rank = self.priority(self.irr & !self.imr);
        if rank == 8 {
            return None;
        }
        let mut in_service = self.isr;
        if self.special_mask {
            in_service &= !self.imr;
        }
        if self.special_fully_nested && is_master {
            in_service &= !(1 << CASCADE);
        }
        (rank < self.priority(in_service)).then(|| (rank as u8).wrapping_add(self.priority_base) & 7)
    }

    fn acknowledge(&mut self, input: u8) {
        if !self.auto_eoi {
            self.isr |= 1 << input;
        } else if self.rotate_on_auto_eoi {
            self.priority_base = (input + 1) & 7;
        }
        if self.elcr & (1 << input) == 0 {
            self.irr &= !(1 << input);
        }
    }

    fn set_level(&mut self, input: u8, level: bool) {
        let bit = 1 << input;
        if !level {
            self.last_level &= !bit;
            // An edge request stays latched until it is acknowledged.
            self.irr &= !(bit & self.elcr);
            return;
        }
        if self.elcr & bit != 0 || self.last_level & bit == 0 {
            self.irr |= bit;
        }
        self.last_level |= bit;
    }

    fn init(&mut self, icw1: u8) {
        *self = Self {
            irr: self.irr & self.elcr,
            elcr: self.elcr,
            init_state: expect::ICW2,
            needs_icw4: icw1 & 1 != 0,
            single: icw1 & 2 != 0,
            ..Self::default()
        };
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.init(value);
        } else if value & 0x08 != 0 {
            // OCW3
            if value & 0x02 != 0 {
                self.read_isr = value & 1 != 0;
            }
            self.poll |= value & 0x04 != 0;
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            self.write_ocw2(value);
        }
    }

    fn write_ocw2(&mut self, value: u8) {
        let named = value & 7;
        match value >> 5 {
            command @ (0 | 4) => self.rotate_on_auto_eoi = command == 4,
            command @ (1 | 5) => {
                let rank = self.priority(self.isr);
                if rank < 8 {
                    let input = (rank as u8).wrapping_add(self.priority_base) & 7;
                    self.isr &= !(1 << input);
                    if command == 5 {
                        self.priority_base = (input + 1) & 7;
                    }
                }
            }
            3 => self.isr &= !(1 << named),
            6 => self.priority_base = (named + 1) & 7,
            7 => {
                self.isr &= !(1 << named);
                self.priority_base = (named + 1) & 7;
            }
            // 2: no operation.
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        let after_icw3 = if self.needs_icw4 { expect::ICW4 } else { expect::NONE };
        match self.init_state {
            expect::ICW2 => {
                self.vector_base = value & 0xf8;
                self.init_state = if self.single { after_icw3 } else { expect::ICW3 };
            }
            // The cascade of a PC is wired; what ICW3 says about it is not used.
            expect::ICW3 => self.init_state = after_icw3,
            expect::ICW4 => {
                self.special_fully_nested = value & 0x10 != 0;
                self.auto_eoi = value & 0x02 != 0;
                self.init_state = expect::NONE;
            }
            _ => self.imr = value,
        }
    }
}

/// The guest-visible state of the pair: master, slave.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "i8259", version = 1)]
struct PicState {
    master: ChipState,
    slave: ChipState,
}

/// The two cascaded controllers. Inputs 0–7 are the master's, 8–15 the slave's; input 2 is the cascade.
#[derive(Debug)]
pub struct I8259 {
    // Wiring.
    output: IrqLine,
    // Guest-visible state.
    state: PicState,
}

/// What `info pic` shows of one controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChipInfo {
    /// Interrupt request register.
    pub irr: u8,
    /// Interrupt mask register.
    pub imr: u8,
    /// In-service register.
    pub isr: u8,
    /// Vector of input 0.
    pub irq_base: u8,
    /// Edge/level control.
    pub elcr: u8,
    /// The input with the highest priority.
    pub highest: u8,
    /// Reads give ISR, not IRR.
    pub reads_isr: bool,
    /// Special fully nested mode.
    pub is_fully_nested: bool,
}

impl I8259 {
    /// A pair whose INT output drives `output`.
    pub fn new(output: IrqLine) -> Self {
        Self { output, state: PicState::default() }
    }

    /// Sets the level of input `pin` (0–15). Input 2 belongs to the cascade and others are ignored.
    pub fn set_level(&mut self, pin: u32, level: bool) {
        match pin {
            2 => return,
            0..=7 => self.state.master.set_level(pin as u8, level),
            8..=15 => self.state.slave.set_level((pin - 8) as u8, level),
            _ => return,
        }
        self.update();
    }

    /// The CPU's INTA cycle: the vector of the highest-priority request. A request that went away gives the spurious
    /// vector 7 of its controller.
    pub fn acknowledge(&mut self) -> u8 {
        let PicState { master, slave } = &mut self.state;
        let vector = match master.pending(true) {
            None => master.vector_base | 7,
            Some(CASCADE) => {
                let input = slave.pending(false);
                if let Some(input) = input {
                    slave.acknowledge(input);
                }
                master.acknowledge(CASCADE);
                // The slave's output may stay high without an edge (automatic EOI): it requests again.
                if slave.pending(false).is_some() {
                    master.irr |= 1 << CASCADE;
                }
                slave.vector_base | input.unwrap_or(7)
            }
            Some(input) => {
                master.acknowledge(input);
                master.vector_base | input
            }
        };
        self.update();
        vector
    }

    /// Whether the output asks for an interrupt.
    pub fn is_requesting(&self) -> bool {
        self.state.master.pending(true).is_some()
    }

    /// Both controllers for `info pic`: master, slave.
    pub fn info(&self) -> [ChipInfo; 2] {
        [&self.state.master, &self.state.slave].map(|chip| ChipInfo {
            irr: chip.irr,
            imr: chip.imr,
            isr: chip.isr,
            irq_base: chip.vector_base,
            elcr: chip.elcr,
            highest: chip.priority_base,
            reads_isr: chip.read_isr,
            is_fully_nested: chip.special_fully_nested,
        })
    }

    fn cascade(&mut self) {
        let level = self.state.slave.pending(false).is_some();
        self.state.master.set_level(CASCADE, level);
    }

    fn update(&mut self) {
        self.cascade();
        let level = self.is_requesting();
        self.output.set(level);
    }

    fn chip(&mut self, region: usize) -> &mut ChipState {
        if region == REGION_MASTER { &mut self.state.master } else { &mut self.state.slave }
    }

    fn poll(&mut self, region: usize) -> u8 {
        let chip = self.chip(region);
        chip.poll = false;
        let answer = match chip.pending(region == REGION_MASTER) {
            Some(input) => {
                chip.acknowledge(input);
                0x80 | input
            }
            None => 0,
        };
        self.update();
        answer
    }
}

impl Device for I8259 {
    fn reset(&mut self, _kind: ResetKind) {
        self.state = PicState::default();
        self.update();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        let level = self.is_requesting();
        self.output.restore(level);
    }
}

impl IoDevice for I8259 {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Byte)
    }

    fn read(&mut self, region: usize, offset: u64, _size: AccessSize) -> u64 {
        if region == REGION_ELCR {
            return u64::from(if offset == 0 { self.state.master.elcr } else { self.state.slave.elcr });
        }
        let chip = self.chip(region);
        u64::from(match offset {
            _ if chip.poll => self.poll(region),
            0 if chip.read_isr => chip.isr,
            0 => chip.irr,
            _ => chip.imr,
        })
    }

    fn write(&mut self, region: usize, offset: u64, _size: AccessSize, value: u64) {
        let value = value as u8;
        match (region, offset) {
            (REGION_ELCR, 0) => self.state.master.elcr = value & ELCR_MASK[0],
            (REGION_ELCR, _) => self.state.slave.elcr = value & ELCR_MASK[1],
            (_, 0) => self.chip(region).write_command(value),
            _ => self.chip(region).write_data(value),
        }
        self.update();
    }
}

/// The inputs of the pair as an interrupt sink.
pub struct PicInputs(pub DeviceCell<I8259>);

impl IrqSink for PicInputs {
    fn set_level(&self, pin: u32, level: bool) {
        self.0.lock().set_level(pin, level);
    }

    fn restore_level(&self, pin: u32, level: bool) {
        let mut pic = self.0.lock();
        let (chip, bit) = match pin {
            0..=7 => (&mut pic.state.master, 1 << pin),
            8..=15 => (&mut pic.state.slave, 1 << (pin - 8)),
            _ => return,
        };
        chip.last_level = if level { chip.last_level | bit } else { chip.last_level & !bit };
    }

    fn is_pending(&self, pin: u32) -> bool {
        let pic = self.0.lock();
        let (chip, bit) = match pin {
            0..=7 => (&pic.state.master, 1 << pin),
            8..=15 => (&pic.state.slave, 1 << (pin - 8)),
            _ => return false,
        };
        chip.irr & !chip.imr & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Pins;
    use std::sync::Arc;

    fn write(pic: &mut I8259, region: usize, offset: u64, value: u64) {
        pic.write(region, offset, AccessSize::Byte, value);
    }

    fn read(pic: &mut I8259, region: usize, offset: u64) -> u64 {
        pic.read(region, offset, AccessSize::Byte)
    }

    /// As a BIOS sets the pair up: vectors 8 and 0x70, nothing masked.
    fn pic_with(icw4: u64) -> (I8259, Arc<Pins>) {
        let pins = Pins::new();
        let mut pic = I8259::new(pins.line(0));
        for (region, base, icw3) in [(REGION_MASTER, 0x08, 4), (REGION_SLAVE, 0x70, 2)] {
            write(&mut pic, region, 0, 0x11);
            for value in [base, icw3, icw4, 0] {
                write(&mut pic, region, 1, value);
            }
        }
        (pic, pins)
    }

    #[test]
    fn edge_is_latched_and_blocks_lower_priorities_until_eoi() {
        let (mut pic, pins) = pic_with(1);
        pic.set_level(4, true);
        pic.set_level(4, false);
        assert!(pins.level(0));
        assert_eq!(pic.acknowledge(), 0x0c);
        assert!(!pins.level(0));
        pic.set_level(5, true);
        assert!(!pins.level(0), "lower priority waits");
        pic.set_level(1, true);
        assert_eq!(pic.acknowledge(), 0x09);
        write(&mut pic, REGION_MASTER, 0, 0x0b);
        assert_eq!(read(&mut pic, REGION_MASTER, 0), 0x12);
        write(&mut pic, REGION_MASTER, 0, 0x20);
        assert_eq!(read(&mut pic, REGION_MASTER, 0), 0x10);
        write(&mut pic, REGION_MASTER, 0, 0x64);
        assert_eq!(pic.acknowledge(), 0x0d);
    }

    #[test]
    fn slave_request_passes_the_cascade() {
        let (mut pic, pins) = pic_with(1);
        pic.set_level(8, true);
        pic.set_level(15, true);
        assert_eq!(pic.acknowledge(), 0x70);
        write(&mut pic, REGION_SLAVE, 0, 0x20);
        write(&mut pic, REGION_MASTER, 0, 0x20);
        assert!(pins.level(0));
        assert_eq!(pic.acknowledge(), 0x77);
        assert!(!pins.level(0));
    }

    #[test]
    fn request_that_went_away_is_spurious() {
        let (mut pic, _pins) = pic_with(1);
        assert_eq!(pic.acknowledge(), 0x0f);
        pic.set_level(8, true);
        // Masked between request and acknowledge: the master still holds the cascade's edge.
        pic.state.slave.imr = 0xff;
        assert_eq!(pic.acknowledge(), 0x77);
    }

    #[test]
    fn level_input_requests_again_while_high() {
        let (mut pic, pins) = pic_with(1);
        write(&mut pic, REGION_ELCR, 1, 0xff);
        assert_eq!(read(&mut pic, REGION_ELCR, 1), 0xde);
        pic.set_level(11, true);
        assert_eq!(pic.acknowledge(), 0x73);
        write(&mut pic, REGION_SLAVE, 0, 0x20);
        write(&mut pic, REGION_MASTER, 0, 0x20);
        assert!(pins.level(0));
        pic.set_level(11, false);
        assert!(pic.state.slave.pending(false).is_none());
    }

    #[test]
    fn automatic_eoi_leaves_nothing_in_service_and_rotates() {
        let (mut pic, _pins) = pic_with(3);
        write(&mut pic, REGION_MASTER, 0, 0x80);
        pic.set_level(3, true);
        assert_eq!(pic.acknowledge(), 0x0b);
        assert_eq!(pic.info()[0].isr, 0);
        pic.set_level(3, false);
        pic.set_level(3, true);
        pic.set_level(4, true);
        assert_eq!(pic.acknowledge(), 0x0c, "3 has the lowest priority now");
        assert_eq!(pic.acknowledge(), 0x0b);
    }

    #[test]
    fn poll_command_acknowledges_by_read() {
        let (mut pic, pins) = pic_with(1);
        pic.set_level(6, true);
        write(&mut pic, REGION_MASTER, 0, 0x0c);
        assert_eq!(read(&mut pic, REGION_MASTER, 0), 0x86);
        assert!(!pins.level(0));
        write(&mut pic, REGION_MASTER, 0, 0x0c);
        assert_eq!(read(&mut pic, REGION_MASTER, 0), 0);
    }

    #[test]
    fn special_mask_lets_lower_priorities_through() {
        let (mut pic, pins) = pic_with(1);
        pic.set_level(1, true);
        pic.acknowledge();
        pic.set_level(6, true);
        assert!(!pins.level(0));
        write(&mut pic, REGION_MASTER, 1, 0x02);
        write(&mut pic, REGION_MASTER, 0, 0x68);
        assert_eq!(pic.acknowledge(), 0x0e);
    }

    #[test]
    fn hostile_state_is_harmless_and_reset_is_complete() {
        let (mut pic, _pins) = pic_with(1);
        state::testing::assert_hostile_bytes_are_harmless(&mut pic.state, 11, 300);
        pic.restored();
        pic.acknowledge();
        state::testing::assert_reset_is_complete(&mut pic, |pic| &mut pic.state, |pic| pic.reset(ResetKind::Cold));
    }
}
