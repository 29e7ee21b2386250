//! Events (xHCI, 4.9.4 and 6.4.2) on the rings of the interrupters.

use super::{Interrupter, Xhci, read_words, write_words};

// Completion codes (xHCI, table 6-90).
pub const SUCCESS: u8 = 1;
pub const DATA_BUFFER_ERROR: u8 = 2;
pub const BABBLE: u8 = 3;
pub const TRANSACTION_ERROR: u8 = 4;
pub const TRB_ERROR: u8 = 5;
pub const STALL: u8 = 6;
pub const NO_SLOTS: u8 = 9;
pub const SLOT_NOT_ENABLED: u8 = 11;
pub const ENDPOINT_NOT_ENABLED: u8 = 12;
pub const INVALID_STREAM_TYPE: u8 = 10;
pub const SHORT_PACKET: u8 = 13;
pub const CONTEXT_STATE_ERROR: u8 = 19;
const RING_FULL: u8 = 21;
pub const COMMAND_RING_STOPPED: u8 = 24;
pub const STOPPED: u8 = 26;
pub const INVALID_STREAM_ID: u8 = 34;

// Types of events (xHCI, table 6-91).
const TRANSFER: u32 = 32;
const COMMAND: u32 = 33;
const PORT: u32 = 34;
const HOST: u32 = 37;
const WRAP: u32 = 39;
/// QEMU's answer to a command of NEC's.
pub const NEC: u32 = 48;

/// An event.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub pointer: u64,
    /// Bytes that are left, or what the type says.
    pub length: u32,
    pub code: u8,
    pub kind: u32,
    pub slot: u8,
    pub endpoint: u8,
    /// Bits of the last word.
    pub flags: u32,
}

impl Event {
    const fn new(kind: u32, code: u8) -> Self {
        Self { pointer: 0, length: 0, code, kind, slot: 0, endpoint: 0, flags: 0 }
    }

    /// A transfer has ended.
    pub fn transfer(pointer: u64, length: u32, code: u8) -> Self {
        Self { pointer, length, ..Self::new(TRANSFER, code) }
    }

    /// A command has ended.
    pub fn command(pointer: u64, code: u8, slot: u8) -> Self {
        Self { pointer, slot, ..Self::new(COMMAND, code) }
    }
}

impl Xhci {
    /// The driver has set an interrupter's table: its ring begins.
    pub(super) fn start_event_ring(&mut self, index: usize) {
        let map = self.map();
        let interrupter = &mut self.state.interrupters[index];
        (interrupter.at, interrupter.cycle) = (0, true);
        (interrupter.start, interrupter.size) = (0, 0);
        if interrupter.table_size == 0 || interrupter.table == 0 {
            return;
        }
        let segment = map.and_then(|map| read_words::<3>(&map, interrupter.table));
        match segment {
            // A segment has 16 to 4096 entries.
            Some([low, high, size @ 16..=4096]) if interrupter.table_size == 1 => {
                interrupter.start = u64::from(high) << 32 | u64::from(low & !0x3f);
                interrupter.size = size;
            }
            _ => self.host_error(),
        }
    }

    /// The entry that the driver looks at next, if that is in the ring.
    fn driver_at(interrupter: &Interrupter) -> Option<u32> {
        let offset = (interrupter.dequeue & !0xf).checked_sub(interrupter.start)?;
        let entry = u32::try_from(offset / 16).ok()?;
        (entry < interrupter.size).then_some(entry)
    }

    /// Whether the driver has not seen all of an interrupter's events.
    pub(super) fn has_events(&self, index: usize) -> bool {
        let interrupter = &self.state.interrupters[index];
        Self::driver_at(interrupter).is_some_and(|entry| entry != interrupter.at)
    }

    /// Puts an event on the ring of interrupter `index`.
    pub(super) fn send(&mut self, event: Event, index: usize) {
        let index = if index < self.options.interrupters as usize { index } else { 0 };
        let interrupter = &self.state.interrupters[index];
        if interrupter.size == 0 {
            return;
        }
        let Some(driver_at) = Self::driver_at(interrupter) else { return self.host_error() };
        let ahead = |by: u32| (interrupter.at + by) % interrupter.size;
        if ahead(2) == driver_at {
            self.write_event(Event::new(HOST, RING_FULL), index);
        } else if ahead(1) != driver_at {
            self.write_event(event, index);
        }
        self.raise(index);
    }

    fn write_event(&mut self, event: Event, index: usize) {
        let Some(map) = self.map() else { return };
        let interrupter = &mut self.state.interrupters[index];
        let at = interrupter.start.wrapping_add(16 * u64::from(interrupter.at));
        let mut last = u32::from(event.slot) << 24 | u32::from(event.endpoint) << 16 | event.kind << 10 | event.flags;
        last |= u32::from(interrupter.cycle);
        let status = event.length & 0xff_ffff | u32::from(event.code) << 24;
        // The driver polls the cycle bit: it comes last.
        let head = write_words(&map, at, [event.pointer as u32, (event.pointer >> 32) as u32, status]);
        let written = head.and_then(|()| write_words(&map, at.wrapping_add(12), [last]));
        interrupter.at += 1;
        if interrupter.at >= interrupter.size {
            (interrupter.at, interrupter.cycle) = (0, !interrupter.cycle);
        }
        if written.is_none() {
            self.host_error();
        }
    }

    pub(super) fn port_event(&mut self, register: usize) {
        let event = Event { pointer: (register as u64 + 1) << 24, ..Event::new(PORT, SUCCESS) };
        self.send(event, 0);
    }

    pub(super) fn command_event(&mut self, pointer: u64, code: u8, slot: u8) {
        self.send(Event::command(pointer, code, slot), 0);
    }

    pub(super) fn wrap_event(&mut self) {
        self.send(Event::new(WRAP, SUCCESS), 0);
    }
}
