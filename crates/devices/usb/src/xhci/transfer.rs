//! Transfer rings (xHCI, 4.10 and 4.11).

use memory::DmaMap;

use super::event::{BABBLE, DATA_BUFFER_ERROR, Event, SHORT_PACKET, STALL, SUCCESS, TRANSACTION_ERROR, TRB_ERROR};
use super::slot::{ENDPOINTS, EndpointState, Place, Work};
use super::{Ring, Xhci};
use crate::bus::{Link, Outcome, Pipe, Token};
use crate::controller::handed_over;
use crate::data::{GuestData, Range};

/// Types of entries (xHCI, table 6-91).
pub mod trb {
    pub const NORMAL: u32 = 1;
    pub const SETUP: u32 = 2;
    pub const DATA: u32 = 3;
    pub const STATUS: u32 = 4;
    pub const ISOCHRONOUS: u32 = 5;
    pub const LINK: u32 = 6;
    pub const EVENT_DATA: u32 = 7;
    pub const NO_OP: u32 = 8;
}

/// Bits of an entry's last word.
mod control {
    pub const CYCLE: u32 = 1;
    /// Of links: the cycle bit turns over.
    pub const TOGGLE: u32 = 1 << 1;
    pub const ON_SHORT: u32 = 1 << 2;
    pub const CHAIN: u32 = 1 << 4;
    pub const ON_COMPLETE: u32 = 1 << 5;
    pub const IMMEDIATE: u32 = 1 << 6;
    pub const IN: u32 = 1 << 16;
}

/// Of events: the pointer is what an event data entry says.
const EVENT_DATA: u32 = 1 << 2;

/// The most links before an entry.
const LINKS_MAX: usize = 32;
/// The most entries of a transfer.
const ENTRIES_MAX: usize = 4096;
/// The most transfers that a doorbell starts.
const TRANSFERS_MAX: usize = 1024;
/// How often a slot's endpoints are tried again while one of them makes progress: it may be what another waits for.
const ROUNDS_MAX: usize = 4;

/// An entry of a ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trb {
    pub at: u64,
    pub parameter: u64,
    pub status: u32,
    pub control: u32,
}

impl Trb {
    pub fn kind(&self) -> u32 {
        self.control >> 10 & 0x3f
    }

    fn has(&self, bit: u32) -> bool {
        self.control & bit != 0
    }

    /// Bytes of data that it stands for.
    fn len(&self) -> usize {
        match self.kind() {
            trb::SETUP => 8,
            trb::NORMAL | trb::DATA | trb::ISOCHRONOUS => {
                let len = (self.status & 0x1_ffff) as usize;
                if self.has(control::IMMEDIATE) { len.min(8) } else { len }
            }
            _ => 0,
        }
    }

    /// Where the data is; immediate data is in the entry itself.
    fn range(&self) -> Range {
        let is_immediate = self.kind() == trb::SETUP || self.has(control::IMMEDIATE);
        (if is_immediate { self.at } else { self.parameter }, self.len())
    }

    fn interrupter(&self) -> usize {
        (self.status >> 22) as usize
    }
}

/// The next entry, if the driver has put one there; links are followed. The error is a circle, or no memory.
pub(super) fn next(map: &DmaMap, ring: &mut Ring) -> Result<Option<Trb>, ()> {
    for _ in 0..LINKS_MAX {
        let at = ring.dequeue;
        let [low, high, status, control] = handed_over(map, at, 3).ok_or(())?;
        if (control & control::CYCLE != 0) != ring.cycle {
            return Ok(None);
        }
        let entry = Trb { at, parameter: u64::from(high) << 32 | u64::from(low), status, control };
        if entry.kind() != trb::LINK {
            ring.dequeue = at.wrapping_add(16);
            return Ok(Some(entry));
        }
        ring.dequeue = entry.parameter & !0xf;
        ring.cycle ^= entry.has(control::TOGGLE);
    }
    Err(())
}

/// The entries of the next transfer, if it is complete, and the ring behind it.
fn fetch(map: &DmaMap, mut ring: Ring) -> Result<Option<(Vec<Trb>, Ring)>, ()> {
    let mut entries = Vec::new();
    while entries.len() < ENTRIES_MAX {
        let Some(entry) = next(map, &mut ring)? else { return Ok(None) };
        entries.push(entry);
        if !entry.has(control::CHAIN) {
            return Ok(Some((entries, ring)));
        }
    }
    Err(())
}

/// How a transfer ended.
enum Ending {
    /// It goes on when the device has news.
    Waits,
    /// With a completion code, after so many bytes.
    Ended(u8, usize),
}

impl Xhci {
    /// The doorbell of an endpoint.
    pub(super) fn ring_endpoint(&mut self, slot: usize, number: usize, stream: u16) {
        let Some(map) = self.map() else { return };
        let Some(endpoint) = self.endpoint(slot, number) else { return };
        match endpoint.state {
            EndpointState::Running => {}
            EndpointState::Stopped | EndpointState::Error => {
                self.set_endpoint_state(&map, (slot, number), EndpointState::Running);
            }
            EndpointState::Halted | EndpointState::Disabled => return,
        }
        if self.run_endpoint(&map, (slot, number, stream)) {
            self.retry_slot(&map, slot);
        }
    }

    /// Tries again whatever waits.
    pub(super) fn retry_all(&mut self) {
        if !self.is_running() {
            return;
        }
        let Some(map) = self.map() else { return };
        for slot in 1..=self.options.slots as usize {
            self.retry_slot(&map, slot);
        }
    }

    fn retry_slot(&mut self, map: &DmaMap, slot: usize) {
        for _ in 0..ROUNDS_MAX {
            let mut has_moved = false;
            for number in 1..=ENDPOINTS {
                for stream in self.waiting(slot, number) {
                    has_moved |= self.run_endpoint(map, (slot, number, stream));
                }
            }
            if !has_moved {
                return;
            }
        }
    }

    /// Works on a ring until it is empty, or the device has nothing more. Tells whether there was progress.
    fn run_endpoint(&mut self, map: &DmaMap, place: Place) -> bool {
        let (slot, number, stream) = place;
        for done in 0..TRANSFERS_MAX {
            let has_moved = done > 0;
            // Nobody hears of doorbells of streams that there are not.
            let Ok(work) = self.work(map, place) else { return has_moved };
            work.is_waiting = false;
            let work = *work;
            if self.endpoint(slot, number).is_none_or(|endpoint| endpoint.state != EndpointState::Running) {
                return has_moved;
            }
            let (entries, behind) = match fetch(map, work.ring) {
                Ok(Some(fetched)) => fetched,
                Ok(None) => return has_moved,
                Err(()) => {
                    self.transfer_event((slot, number), Event::transfer(work.ring.dequeue, 0, TRB_ERROR), 0);
                    self.set_endpoint_state(map, (slot, number), EndpointState::Error);
                    return has_moved;
                }
            };
            let before = work.moved as usize;
            let device = self.device_of_slot(slot);
            let has_streams = self.endpoint(slot, number).is_some_and(|endpoint| endpoint.streams > 0);
            let pipe = Pipe { endpoint: (number / 2) as u8, stream: if has_streams { stream } else { 0 } };
            let ending = execute(map, device.as_ref(), (number, pipe), &entries, before);
            let Ok(work) = self.work(map, place) else { return has_moved };
            match ending {
                (Ending::Waits, moved) => {
                    (work.moved, work.is_waiting) = (moved as u32, true);
                    return has_moved || moved > before;
                }
                (Ending::Ended(code, moved), _) => {
                    work.moved = 0;
                    if code == SUCCESS {
                        work.ring = behind;
                    }
                    self.report((slot, number), &entries, (code, moved));
                    if code != SUCCESS {
                        // The dequeue pointer stays at the transfer that failed.
                        self.set_endpoint_state(map, (slot, number), EndpointState::Halted);
                        return has_moved;
                    }
                }
            }
            if !self.is_running() {
                return false;
            }
        }
        // The rest later: a ring without an end keeps nobody else from working.
        if let Ok(work) = self.work(map, place) {
            work.is_waiting = true;
        }
        true
    }

    fn transfer_event(&mut self, (slot, number): (usize, usize), event: Event, interrupter: usize) {
        let event = Event { slot: slot as u8, endpoint: number as u8, ..event };
        self.send(event, interrupter);
    }

    /// Tells what the entries of a transfer that has ended want to have told.
    fn report(&mut self, place: (usize, usize), entries: &[Trb], (code, moved): (u8, usize)) {
        let mut left = moved;
        let mut since_event = 0_u32;
        let mut is_short = false;
        for (index, entry) in entries.iter().enumerate() {
            let len = entry.len();
            let now = len.min(left);
            left -= now;
            since_event = since_event.wrapping_add(now as u32);
            is_short |= now < len && code == SUCCESS;
            let is_last = index + 1 == entries.len();
            let has_failed = code != SUCCESS && (now < len || is_last);
            let wants = entry.has(control::ON_COMPLETE) || (is_short && entry.has(control::ON_SHORT)) || has_failed;
            if !wants {
                continue;
            }
            let code = match code {
                SUCCESS if is_short => SHORT_PACKET,
                other => other,
            };
            let mut event = Event::transfer(entry.at, (len - now) as u32, code);
            if entry.kind() == trb::EVENT_DATA {
                (event.pointer, event.length, event.flags) = (entry.parameter, since_event & 0xff_ffff, EVENT_DATA);
            }
            self.transfer_event(place, event, entry.interrupter());
            if is_short || has_failed {
                // One event for a transfer that ends early.
                return;
            }
        }
    }

    /// Where a transfer that waits is: the entry, and bytes of it that are left.
    pub(super) fn position(&self, map: &DmaMap, work: &Work) -> (u64, u32) {
        let Ok(Some((entries, _))) = fetch(map, work.ring) else { return (work.ring.dequeue, 0) };
        let mut left = work.moved as usize;
        for entry in &entries {
            if left < entry.len() {
                return (entry.at, (entry.len() - left) as u32);
            }
            left -= entry.len();
        }
        (work.ring.dequeue, 0)
    }
}

/// The token of a transfer, by its first entry and by its endpoint.
fn token(entries: &[Trb], number: usize) -> Option<Token> {
    let first = entries.iter().find(|entry| entry.kind() != trb::EVENT_DATA)?;
    let by_bit = if first.has(control::IN) { Token::In } else { Token::Out };
    match first.kind() {
        trb::SETUP => Some(Token::Setup),
        trb::DATA | trb::STATUS => Some(by_bit),
        trb::NORMAL | trb::ISOCHRONOUS => Some(if number & 1 == 1 { Token::In } else { Token::Out }),
        _ => None,
    }
}

/// Moves as much of a transfer as the device has or takes. Beside the ending tells how much was moved in all.
fn execute(
    map: &DmaMap,
    device: Option<&Link>,
    (number, pipe): (usize, Pipe),
    entries: &[Trb],
    mut moved: usize,
) -> (Ending, usize) {
    let ended = |code, moved| (Ending::Ended(code, moved), moved);
    let Some(token) = token(entries, number) else {
        // Nothing to move: no operation, or event data alone.
        let is_known = entries.iter().all(|entry| matches!(entry.kind(), trb::NO_OP | trb::EVENT_DATA));
        return ended(if is_known { SUCCESS } else { TRB_ERROR }, 0);
    };
    let Some(device) = device else { return ended(TRANSACTION_ERROR, moved) };
    let ranges: Vec<Range> = entries.iter().map(Trb::range).filter(|(_, len)| *len > 0).collect();
    let all: usize = ranges.iter().map(|(_, len)| len).sum();
    loop {
        let rest = rest(&ranges, moved);
        let len: usize = rest.iter().map(|(_, len)| len).sum();
        let mut data = GuestData::new(map, &rest);
        let outcome = device.transfer(token, pipe, &mut data);
        if data.has_failed() {
            return ended(DATA_BUFFER_ERROR, moved);
        }
        match outcome {
            Outcome::Done(now) => {
                moved += now.min(len);
                if now < len || moved >= all {
                    return ended(SUCCESS, moved);
                }
            }
            Outcome::Nak => return (Ending::Waits, moved),
            Outcome::Stall => return ended(STALL, moved),
            Outcome::Babble => return ended(BABBLE, moved),
        }
    }
}

/// The ranges from byte `from` on.
fn rest(ranges: &[Range], from: usize) -> Vec<Range> {
    let mut skip = from;
    let mut rest = Vec::new();
    for (address, len) in ranges {
        let skipped = skip.min(*len);
        skip -= skipped;
        if skipped < *len {
            rest.push((address.wrapping_add(skipped as u64), len - skipped));
        }
    }
    rest
}
