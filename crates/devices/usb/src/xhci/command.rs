//! The command ring (xHCI, 4.6).

use memory::DmaMap;

use super::event::{Event, NEC, NO_SLOTS, SLOT_NOT_ENABLED, SUCCESS, TRB_ERROR};
use super::slot::{Completed, code};
use super::transfer::{self, Trb, trb};
use super::{Xhci, XhciModel, crcr};

// Types of commands (xHCI, table 6-91).
const ENABLE_SLOT: u32 = 9;
const DISABLE_SLOT: u32 = 10;
const ADDRESS_DEVICE: u32 = 11;
const CONFIGURE_ENDPOINT: u32 = 12;
const EVALUATE_CONTEXT: u32 = 13;
const RESET_ENDPOINT: u32 = 14;
const STOP_ENDPOINT: u32 = 15;
const SET_DEQUEUE: u32 = 16;
const RESET_DEVICE: u32 = 17;
const NO_OP: u32 = 23;
/// NEC's command that asks for the version of the firmware.
const NEC_FIRMWARE: u32 = 49;

/// Address Device without SET_ADDRESS, Configure Endpoint that takes all back.
const FLAG: u32 = 1 << 9;
/// The version of the firmware that QEMU tells.
const FIRMWARE: u32 = 0x3034;

/// The most commands that a doorbell starts.
const COMMANDS_MAX: usize = 256;

impl Xhci {
    /// The doorbell of the command ring.
    pub(super) fn process_commands(&mut self) {
        let Some(map) = self.map() else { return };
        self.state.command_ring_control |= crcr::RUNNING;
        for _ in 0..COMMANDS_MAX {
            let mut ring = self.state.commands;
            let fetched = transfer::next(&map, &mut ring);
            if !self.is_running() {
                return;
            }
            match fetched {
                Ok(Some(command)) => {
                    self.state.commands = ring;
                    self.execute_command(&map, &command);
                }
                Ok(None) => return,
                Err(()) => return self.host_error(),
            }
        }
    }

    fn execute_command(&mut self, map: &DmaMap, command: &Trb) {
        let number = (command.control >> 24) as usize;
        let endpoint = (command.control >> 16 & 0x1f) as usize;
        let (pointer, flag) = (command.parameter & !0xf, command.control & FLAG != 0);
        let mut event = Event::command(command.at, SUCCESS, number as u8);
        let kind = command.kind();
        event.code = match kind {
            ENABLE_SLOT => match self.enable_slot() {
                Some(slot) => {
                    event.slot = slot;
                    SUCCESS
                }
                None => NO_SLOTS,
            },
            DISABLE_SLOT => self.with_slot(number, |this| this.disable_slot(number)),
            ADDRESS_DEVICE => self.with_slot(number, |this| this.address_device(map, number, pointer, flag)),
            CONFIGURE_ENDPOINT => self.with_slot(number, |this| this.configure_endpoints(map, number, pointer, flag)),
            EVALUATE_CONTEXT => self.with_slot(number, |this| this.evaluate_context(map, number, pointer)),
            RESET_ENDPOINT => self.with_slot(number, |this| this.reset_endpoint(map, number, endpoint)),
            STOP_ENDPOINT => self.with_slot(number, |this| this.stop_endpoint(map, number, endpoint)),
            SET_DEQUEUE => {
                let place = (number, endpoint, (command.status >> 16) as u16);
                self.with_slot(number, |this| this.set_dequeue(map, place, command.parameter & !0xe))
            }
            RESET_DEVICE => self.with_slot(number, |this| this.reset_device(map, number)),
            NO_OP => SUCCESS,
            NEC_FIRMWARE if self.options.model == XhciModel::Nec => {
                (event.kind, event.length) = (NEC, FIRMWARE);
                SUCCESS
            }
            _ => TRB_ERROR,
        };
        debug_assert!(kind != trb::LINK, "links are followed");
        self.send(event, 0);
    }

    /// Does a command of an enabled slot.
    fn with_slot(&mut self, number: usize, execute: impl FnOnce(&mut Self) -> Completed) -> u8 {
        match self.slot(number) {
            None => TRB_ERROR,
            Some(slot) if !slot.is_enabled => SLOT_NOT_ENABLED,
            Some(_) => code(execute(self)),
        }
    }
}
