//! The schedules: queue heads and their transfer descriptors (EHCI 1.0, chapters 3.5, 3.6 and 4.10).

use memory::DmaMap;

use super::{Ehci, port, status};
use crate::bus::{Link, Outcome, Token, find};
use crate::controller::{handed_over, words};
use crate::data::{GuestData, Range};

/// Bits of link pointers.
const TERMINATE: u32 = 1;
const KIND: u32 = 3 << 1;
const QUEUE_HEAD: u32 = 1 << 1;

/// Bits of a transfer's token.
mod token {
    pub const TRANSACTION_ERROR: u32 = 1 << 3;
    pub const BABBLE: u32 = 1 << 4;
    pub const BUFFER_ERROR: u32 = 1 << 5;
    pub const HALTED: u32 = 1 << 6;
    pub const ACTIVE: u32 = 1 << 7;
    pub const ERROR_COUNT: u32 = 3 << 10;
    pub const PAGE_SHIFT: u32 = 12;
    pub const PAGE: u32 = 7 << PAGE_SHIFT;
    pub const ON_COMPLETE: u32 = 1 << 15;
    pub const BYTES_SHIFT: u32 = 16;
    pub const BYTES: u32 = 0x7fff << BYTES_SHIFT;
    pub const TOGGLE: u32 = 1 << 31;
}

/// The queue takes the data toggle from each transfer.
const TOGGLE_CONTROL: u32 = 1 << 14;

/// Queue heads that are looked at in one go: a longer list is a circle without an end.
const QUEUES_MAX: usize = 256;
/// Transfers of one queue that are done in one go.
const TRANSFERS_MAX: usize = 64;
/// Bytes that the asynchronous schedule moves in one go.
const BYTES_MAX: usize = 64 << 10;

/// A queue head, from its second word; the words behind the fourth are the transfer under way.
struct Queue {
    at: u32,
    next: u32,
    characteristics: u32,
    capabilities: u32,
    current: u32,
    /// Next, alternate, token, five pages.
    overlay: [u32; 8],
}

const NEXT: usize = 0;
const ALTERNATE: usize = 1;
const TOKEN: usize = 2;
const PAGES: usize = 3;

fn store(map: &DmaMap, at: u32, words: &[u32]) -> Option<()> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    map.write(u64::from(at), &bytes).ok()
}

impl Queue {
    fn read(map: &DmaMap, at: u32) -> Option<Self> {
        let [next, characteristics, capabilities, current, overlay @ ..] = words::<12>(map, at.into())?;
        Some(Self { at, next, characteristics, capabilities, current, overlay })
    }

    /// Writes the transfer under way back to the queue head and to the transfer's descriptor.
    fn write(&self, map: &DmaMap) -> Option<()> {
        store(map, self.at.wrapping_add(16), &self.overlay)?;
        store(map, (self.current & !0x1f).wrapping_add(8), &self.overlay[TOKEN..=PAGES])
    }

    fn token(&self) -> u32 {
        self.overlay[TOKEN]
    }

    /// Takes the next transfer into the overlay, if there is one that is active.
    fn advance(&mut self, map: &DmaMap) -> Option<()> {
        let has_rest = self.token() & token::BYTES != 0;
        let is_alternate = has_rest && self.overlay[ALTERNATE] & TERMINATE == 0;
        let next = self.overlay[if is_alternate { ALTERNATE } else { NEXT }];
        if next & TERMINATE != 0 {
            return None;
        }
        let mut transfer: [u32; 8] = handed_over(map, u64::from(next & !0x1f), TOKEN)?;
        if transfer[TOKEN] & token::ACTIVE == 0 {
            return None;
        }
        if self.characteristics & TOGGLE_CONTROL == 0 {
            transfer[TOKEN] = transfer[TOKEN] & !token::TOGGLE | self.token() & token::TOGGLE;
        }
        self.current = next & !0x1f;
        self.overlay = transfer;
        store(map, self.at.wrapping_add(12), &[self.current])?;
        store(map, self.at.wrapping_add(16), &self.overlay)
    }

    /// The bytes of the transfer; `None` when they reach beyond its five pages.
    fn ranges(&self) -> Option<Vec<Range>> {
        let mut left = ((self.token() & token::BYTES) >> token::BYTES_SHIFT) as usize;
        let mut page = ((self.token() & token::PAGE) >> token::PAGE_SHIFT) as usize;
        let mut offset = (self.overlay[PAGES] & 0xfff) as usize;
        let mut ranges = Vec::new();
        while left > 0 {
            let address = self.overlay.get(PAGES + page).filter(|_| page < 5)? & !0xfff;
            let len = left.min(4096 - offset);
            ranges.push((u64::from(address) + offset as u64, len));
            left -= len;
            (page, offset) = (page + 1, 0);
        }
        Some(ranges)
    }

    /// Notes that `len` bytes were moved.
    fn moved(&mut self, len: usize) {
        let old = self.token();
        let left = ((old & token::BYTES) >> token::BYTES_SHIFT).saturating_sub(len as u32);
        let end = (self.overlay[PAGES] & 0xfff) + len as u32;
        let page = ((old & token::PAGE) >> token::PAGE_SHIFT) + end / 4096;
        self.overlay[PAGES] = (self.overlay[PAGES] & !0xfff) | (end % 4096);
        let packet = (self.characteristics >> 16 & 0x7ff).max(1);
        let packets = (len as u32).div_ceil(packet).max(1);
        let toggle = if packets % 2 == 1 { token::TOGGLE } else { 0 };
        let kept = old & !(token::BYTES | token::PAGE | token::ACTIVE) ^ toggle;
        self.overlay[TOKEN] = kept | left << token::BYTES_SHIFT | (page << token::PAGE_SHIFT & token::PAGE);
    }
}

impl Ehci {
    fn map(&self) -> Option<DmaMap> {
        self.state.config.is_bus_master().then(|| self.dma.map())
    }

    /// The device with an address, on an enabled port.
    fn device(&self, address: u8) -> Option<Link> {
        let is_enabled = |register: u32| register & (port::ENABLED | port::SUSPENDED | port::OWNER) == port::ENABLED;
        let ports = self.devices.iter().zip(self.state.ports).filter(|(_, register)| is_enabled(*register));
        ports.filter_map(|(device, _)| device.as_ref()).find_map(|(device, _)| find(device, address))
    }

    /// Walks the list of a frame.
    pub(super) fn process_periodic(&mut self, frame: u32) {
        let Some(map) = self.map() else { return };
        let first = self.state.periodic_list.wrapping_add(frame << 2);
        let Some([mut link]) = words(&map, first.into()) else { return self.host_error() };
        for _ in 0..QUEUES_MAX {
            if link & TERMINATE != 0 {
                return;
            }
            if link & KIND != QUEUE_HEAD {
                // Isochronous: nobody answers.
                let Some([next]) = words(&map, u64::from(link & !0x1f)) else { return self.host_error() };
                link = next;
                continue;
            }
            let Some(mut queue) = Queue::read(&map, link & !0x1f) else { return self.host_error() };
            // The lowest byte says in which microframes it is asked.
            if queue.capabilities & 0xff != 0 && self.process_queue(&map, &mut queue, 1).is_none() {
                return self.host_error();
            }
            link = queue.next;
        }
    }

    /// Walks the circle of the asynchronous schedule, again while there is something to do. Tells whether there was.
    pub(super) fn process_async(&mut self) -> bool {
        let Some(map) = self.map() else { return false };
        let first = self.state.async_list & !0x1f;
        let (mut all, mut now) = (0, 0);
        let mut at = first;
        for _ in 0..QUEUES_MAX {
            let Some(mut queue) = Queue::read(&map, at) else {
                self.host_error();
                return false;
            };
            match self.process_queue(&map, &mut queue, TRANSFERS_MAX) {
                Some(moved) => now += moved,
                None => {
                    self.host_error();
                    return false;
                }
            }
            at = queue.next & !0x1f;
            if queue.next & TERMINATE != 0 || at == first {
                all += now;
                if now == 0 || all >= BYTES_MAX {
                    break;
                }
                (now, at) = (0, first);
            }
        }
        all > 0
    }

    fn host_error(&mut self) {
        self.state.command &= !super::command::RUN;
        self.state.status |= status::HALTED;
        self.raise(status::HOST_ERROR);
        self.timer.cancel();
    }

    /// Works on a queue until it has nothing more. Tells what was done: bytes, and one for each transfer.
    fn process_queue(&mut self, map: &DmaMap, queue: &mut Queue, transfers: usize) -> Option<usize> {
        let mut done = 0;
        for _ in 0..transfers {
            if queue.token() & token::HALTED != 0 {
                break;
            }
            if queue.token() & token::ACTIVE == 0 && queue.advance(map).is_none() {
                break;
            }
            let Some(moved) = self.execute(map, queue)? else { break };
            done += moved + 1;
        }
        Some(done)
    }

    /// Does the transfer in the overlay. `Some(None)`: the device has nothing, or the transfer failed.
    fn execute(&mut self, map: &DmaMap, queue: &mut Queue) -> Option<Option<usize>> {
        let kind = match queue.token() >> 8 & 3 {
            0 => Token::Out,
            1 => Token::In,
            _ => Token::Setup,
        };
        let address = queue.characteristics as u8 & 0x7f;
        let endpoint = (queue.characteristics >> 8) as u8 & 0xf;
        let Some(ranges) = queue.ranges() else {
            return self.failed(map, queue, token::HALTED | token::BUFFER_ERROR);
        };
        let len: usize = ranges.iter().map(|(_, len)| len).sum();
        let mut data = GuestData::new(map, &ranges);
        let Some(device) = self.device(address) else {
            queue.overlay[TOKEN] &= !token::ERROR_COUNT;
            return self.failed(map, queue, token::HALTED | token::TRANSACTION_ERROR);
        };
        let outcome = device.transfer(kind, endpoint.into(), &mut data);
        if data.has_failed() {
            return self.failed(map, queue, token::HALTED | token::BUFFER_ERROR);
        }
        match outcome {
            Outcome::Nak => Some(None),
            Outcome::Stall => self.failed(map, queue, token::HALTED),
            Outcome::Babble => self.failed(map, queue, token::HALTED | token::BABBLE),
            Outcome::Done(moved) => {
                queue.moved(moved);
                queue.write(map)?;
                let is_short = kind == Token::In && moved < len;
                if is_short || queue.token() & token::ON_COMPLETE != 0 {
                    self.state.status |= status::INTERRUPT;
                }
                Some(Some(moved))
            }
        }
    }

    fn failed(&mut self, map: &DmaMap, queue: &mut Queue, bits: u32) -> Option<Option<usize>> {
        queue.overlay[TOKEN] = queue.token() & !token::ACTIVE | bits;
        queue.write(map)?;
        self.state.status |= status::ERROR;
        Some(None)
    }
}
