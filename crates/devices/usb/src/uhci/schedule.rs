//! The frame list: queue heads and transfer descriptors (UHCI 1.1, chapter 3).

use memory::DmaMap;

use super::{Uhci, cause, port, status};
use crate::bus::{Link, Outcome, Token, find};
use crate::controller::{handed_over, words};
use crate::data::GuestData;

/// Bits of link pointers.
mod link {
    pub const TERMINATE: u32 = 1;
    pub const QUEUE_HEAD: u32 = 1 << 1;
    pub const DEPTH_FIRST: u32 = 1 << 2;
}

/// Bits of a transfer descriptor's second word.
mod control {
    pub const TIMEOUT: u32 = 1 << 18;
    pub const NAK: u32 = 1 << 19;
    pub const BABBLE: u32 = 1 << 20;
    pub const STALLED: u32 = 1 << 22;
    pub const ACTIVE: u32 = 1 << 23;
    pub const ON_COMPLETE: u32 = 1 << 24;
    pub const ISOCHRONOUS: u32 = 1 << 25;
    pub const ERROR_COUNT: u32 = 3 << 27;
    pub const SHORT_PACKET: u32 = 1 << 29;
}

/// A walk that is longer than this is a circle.
const STEPS_MAX: usize = 4096;
/// Queue heads that are remembered to find the end of a circle.
const SEEN_MAX: usize = 128;

const PID_SETUP: u8 = 0x2d;
const PID_IN: u8 = 0x69;
const PID_OUT: u8 = 0xe1;

/// What a descriptor leads to.
enum Step {
    /// It is done: on to the next of its queue.
    Complete,
    /// Its queue waits: on to the next queue.
    NextQueue,
    /// Nothing more in this frame.
    StopFrame,
}

/// A transfer descriptor.
struct Descriptor {
    link: u32,
    control: u32,
    token: u32,
    buffer: u32,
}

impl Uhci {
    /// Walks the current frame's list, as far as bandwidth allows.
    pub(super) fn process_frame(&mut self) {
        if !self.state.config.is_bus_master() {
            return;
        }
        let map = self.dma.map();
        let mut causes = 0;
        let start = self.state.frame_list.wrapping_add(u32::from(self.state.frame & 0x3ff) << 2);
        if let Some([first]) = words(&map, start.into()) {
            self.walk(&map, first, &mut causes);
        }
        if causes != 0 {
            self.state.causes |= causes;
            self.state.status |= status::INTERRUPT;
        }
        self.update_interrupt();
    }

    fn walk(&mut self, map: &DmaMap, first: u32, causes: &mut u8) {
        let mut link = first;
        // The queue head that the walk is in: its address and the link to the next one.
        let mut queue: Option<(u32, u32)> = None;
        let mut seen: Vec<u32> = Vec::new();
        let mut has_moved = false;
        for _ in 0..STEPS_MAX {
            if link & link::TERMINATE != 0 {
                match queue.take() {
                    Some((_, next)) => {
                        link = next;
                        continue;
                    }
                    None => return,
                }
            }
            if link & link::QUEUE_HEAD != 0 {
                let at = link & !0xf;
                if seen.contains(&at) {
                    // A circle for the reclamation of bandwidth: once more if there was something to do.
                    if !has_moved || self.state.used >= self.options.bandwidth {
                        return;
                    }
                    has_moved = false;
                    seen.clear();
                }
                if seen.len() >= SEEN_MAX {
                    return;
                }
                seen.push(at);
                let Some([next, element]) = words(map, at.into()) else { return };
                queue = Some((at, next));
                link = element;
                if element & link::QUEUE_HEAD != 0 && element & link::TERMINATE == 0 {
                    // A queue in a queue is walked in place of its descriptors.
                    queue = None;
                }
                continue;
            }
            let at = link & !0xf;
            let Some([next, control, token, buffer]) = handed_over(map, at.into(), 1) else {
                self.state.status |= status::HOST_ERROR;
                return;
            };
            let mut descriptor = Descriptor { link: next, control, token, buffer };
            let is_queued = queue.is_some();
            let step = self.execute(map, &mut descriptor, causes);
            if descriptor.control != control {
                let _in_ram_as_it_was_read = map.write(u64::from(at) + 4, &descriptor.control.to_le_bytes());
            }
            match (step, queue) {
                (Step::StopFrame, _) => return,
                (Step::Complete, Some((head, next_queue))) => {
                    has_moved = true;
                    let _in_ram_as_it_was_read = map.write(u64::from(head) + 4, &descriptor.link.to_le_bytes());
                    link = descriptor.link;
                    if link & link::DEPTH_FIRST == 0 {
                        (link, queue) = (next_queue, None);
                    }
                }
                (Step::NextQueue, Some((_, next_queue))) => (link, queue) = (next_queue, None),
                (Step::Complete | Step::NextQueue, None) => link = descriptor.link,
            }
            if self.state.used >= self.options.bandwidth && is_queued {
                return;
            }
        }
    }

    /// The device with an address, on an enabled port.
    fn device(&self, address: u8) -> Option<Link> {
        let is_enabled = |register: u16| register & (port::ENABLED | port::SUSPENDED) == port::ENABLED;
        let ports = self.devices.iter().zip(self.state.ports).filter(|(_, register)| is_enabled(*register));
        ports.filter_map(|(device, _)| device.as_ref()).find_map(|(device, _)| find(device, address))
    }

    fn execute(&mut self, map: &DmaMap, descriptor: &mut Descriptor, causes: &mut u8) -> Step {
        let control = descriptor.control;
        if control & control::ACTIVE == 0 {
            if control & control::ON_COMPLETE != 0 && control & control::ISOCHRONOUS != 0 {
                *causes |= cause::COMPLETE;
            }
            return Step::NextQueue;
        }
        let token = match descriptor.token as u8 {
            PID_SETUP => Token::Setup,
            PID_IN => Token::In,
            PID_OUT => Token::Out,
            _ => {
                // No packet: the schedule is broken.
                self.state.status |= status::PROCESS_ERROR;
                self.stop_running();
                return Step::StopFrame;
            }
        };
        let address = (descriptor.token >> 8) as u8 & 0x7f;
        let endpoint = (descriptor.token >> 15) as u8 & 0xf;
        let max_len = (descriptor.token >> 21).wrapping_add(1) as usize & 0x7ff;
        let pieces = [(u64::from(descriptor.buffer), max_len)];
        let mut data = GuestData::new(map, &pieces);
        let outcome = self.device(address).map(|device| device.transfer(token, endpoint.into(), &mut data));
        if data.has_failed() {
            self.state.status |= status::HOST_ERROR;
            self.stop_running();
            return Step::StopFrame;
        }
        let Some(Outcome::Done(len)) = outcome else { return self.failed(descriptor, outcome, causes) };
        self.state.used = self.state.used.saturating_add(max_len.max(1) as u32);
        descriptor.control =
            (control & !(0x7ff | control::ACTIVE | control::NAK)) | (len as u32).wrapping_sub(1) & 0x7ff;
        if control & control::ON_COMPLETE != 0 {
            *causes |= cause::COMPLETE;
        }
        if token == Token::In && len < max_len && control & control::SHORT_PACKET != 0 {
            *causes |= cause::SHORT;
            return Step::NextQueue;
        }
        Step::Complete
    }

    fn failed(&mut self, descriptor: &mut Descriptor, outcome: Option<Outcome>, causes: &mut u8) -> Step {
        let mut step = Step::NextQueue;
        match outcome {
            Some(Outcome::Nak) => {
                descriptor.control |= control::NAK;
                return step;
            }
            Some(Outcome::Babble) => {
                descriptor.control |= control::BABBLE | control::STALLED;
                step = Step::StopFrame;
            }
            Some(Outcome::Stall | Outcome::Done(_)) => descriptor.control |= control::STALLED,
            // Nobody answers: the count of errors runs out.
            None => {
                descriptor.control |= control::TIMEOUT | control::STALLED;
                descriptor.control &= !control::ERROR_COUNT;
            }
        }
        // An error leaves a length of zero.
        descriptor.control = (descriptor.control & !control::ACTIVE) | 0x7ff;
        self.state.status |= status::ERROR;
        if descriptor.control & control::ON_COMPLETE != 0 {
            *causes |= cause::COMPLETE;
        }
        step
    }

    /// An error of the controller stops it.
    fn stop_running(&mut self) {
        self.state.command &= !super::command::RUN;
        self.stop();
    }
}
