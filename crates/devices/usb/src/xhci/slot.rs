//! Slots, endpoints, and their contexts in guest memory (xHCI, 4.3, 4.6 and 6.2).

use memory::DmaMap;
use state::State;

use super::event::{
    CONTEXT_STATE_ERROR, ENDPOINT_NOT_ENABLED, Event, INVALID_STREAM_ID, INVALID_STREAM_TYPE, STOPPED, SUCCESS,
    TRANSACTION_ERROR, TRB_ERROR,
};
use super::{MAX_STREAMS, Ring, SLOTS_MAX, Xhci, portsc, read_words, write_words};
use crate::bus::{Link, Outcome, Token};
use crate::data::ByteData;

/// Endpoints of a slot.
pub const ENDPOINTS: usize = 31;

/// Bytes of a context.
const CONTEXT: u64 = 32;

/// States of an endpoint as its context has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[repr(u8)]
pub enum EndpointState {
    /// There is none.
    #[default]
    Disabled = 0,
    /// It works on its ring.
    Running = 1,
    /// An error waits for the driver.
    Halted = 2,
    /// The driver has stopped it.
    Stopped = 3,
    /// Its ring is broken.
    Error = 4,
}

/// States of a slot as its context has them.
mod slot_state {
    pub const DEFAULT: u32 = 1;
    pub const ADDRESSED: u32 = 2;
    pub const CONFIGURED: u32 = 3;
}

/// Where the controller is on a transfer ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[state(name = "xhci-work", version = 1)]
pub(super) struct Work {
    pub ring: Ring,
    /// Bytes of the transfer at the head of the ring that were moved.
    pub moved: u32,
    /// It waits for the device.
    pub is_waiting: bool,
}

/// An endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[state(name = "xhci-endpoint", version = 1)]
pub(super) struct Endpoint {
    pub state: EndpointState,
    /// Its ring, if it has no streams.
    pub work: Work,
    /// The exponent of the size of its array of streams; 0 for none.
    pub streams: u8,
    /// Where the array is.
    pub array: u64,
}

/// A stream that was in use: its contents are no longer those of the context in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[state(name = "xhci-stream", version = 1)]
pub(super) struct Stream {
    pub slot: u8,
    pub endpoint: u8,
    pub number: u16,
    pub work: Work,
}

impl Stream {
    fn place(&self) -> Place {
        (self.slot.into(), self.endpoint.into(), self.number)
    }
}

/// A ring: slot, endpoint, stream.
pub(super) type Place = (usize, usize, u16);

/// Bytes of a stream's context, and its type for a transfer ring.
const STREAM_CONTEXT: u64 = 16;
const PRIMARY_RING: u32 = 1;

/// A slot.
#[derive(Clone, Copy, Debug, State)]
#[state(name = "xhci-slot", version = 1)]
pub(super) struct Slot {
    pub is_enabled: bool,
    pub is_addressed: bool,
    /// Where its output context is.
    pub context: u64,
    pub interrupter: u16,
    /// The register of its root port, from 1; 0 is none.
    pub root_port: u8,
    pub route: u32,
    pub endpoints: [Endpoint; ENDPOINTS],
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            is_enabled: false,
            is_addressed: false,
            context: 0,
            interrupter: 0,
            root_port: 0,
            route: 0,
            endpoints: [Endpoint::default(); ENDPOINTS],
        }
    }
}

/// The completion code of a command, as an error if it is one.
pub(super) type Completed = Result<(), u8>;

impl Xhci {
    /// The slot with that number, from 1.
    pub(super) fn slot(&mut self, number: usize) -> Option<&mut Slot> {
        let index = number.checked_sub(1).filter(|index| *index < (self.options.slots as usize).min(SLOTS_MAX))?;
        self.state.slots.get_mut(index)
    }

    /// The endpoint with that number, from 1, of an enabled slot.
    pub(super) fn endpoint(&mut self, slot: usize, number: usize) -> Option<&mut Endpoint> {
        let slot = self.slot(slot).filter(|slot| slot.is_enabled)?;
        let endpoint = slot.endpoints.get_mut(number.checked_sub(1)?)?;
        (endpoint.state != EndpointState::Disabled).then_some(endpoint)
    }

    /// The device on a root port, or behind hubs as a route says.
    fn device_at(&self, root_port: u8, route: u32) -> Option<Link> {
        let register = usize::from(root_port).checked_sub(1).filter(|register| *register < self.port_count())?;
        let (mut device, _) = self.device_of(register)?;
        if self.state.ports[register] & portsc::ENABLED == 0 {
            return None;
        }
        for tier in 0..5 {
            match (route >> (4 * tier) & 0xf) as usize {
                0 => break,
                port => device = device.child(port)?,
            }
        }
        Some(device)
    }

    /// The device of a slot.
    pub(super) fn device_of_slot(&mut self, number: usize) -> Option<Link> {
        let slot = self.slot(number)?;
        let (root_port, route) = (slot.root_port, slot.route);
        self.device_at(root_port, route)
    }

    /// The device on a port is gone: its slots have none any more.
    pub(super) fn disable_slots_of(&mut self, port: usize) {
        for index in 0..SLOTS_MAX {
            let root_port = usize::from(self.state.slots[index].root_port);
            let is_it = root_port.checked_sub(1).is_some_and(|register| self.port_of(register).0 == port);
            if is_it {
                let slot = &mut self.state.slots[index];
                slot.root_port = 0;
                slot.endpoints.iter_mut().for_each(|endpoint| endpoint.work.is_waiting = false);
                let streams = self.state.streams.0.iter_mut();
                let streams = streams.filter(|stream| usize::from(stream.slot) == index + 1);
                streams.for_each(|stream| stream.work.is_waiting = false);
            }
        }
    }

    // ---- Rings ----

    /// The ring of a place, which the driver has named.
    ///
    /// # Errors
    /// The completion code for a place that is none.
    pub(super) fn work(&mut self, map: &DmaMap, place: Place) -> Result<&mut Work, u8> {
        let (slot, number, stream) = place;
        let endpoint = *self.endpoint(slot, number).ok_or(ENDPOINT_NOT_ENABLED)?;
        if endpoint.streams == 0 {
            return self.endpoint(slot, number).map(|endpoint| &mut endpoint.work).ok_or(ENDPOINT_NOT_ENABLED);
        }
        if stream == 0 || u32::from(stream) >= 2 << endpoint.streams {
            return Err(INVALID_STREAM_ID);
        }
        let at = match self.state.streams.0.binary_search_by_key(&place, Stream::place) {
            Ok(at) => at,
            Err(at) => {
                let [low, high] = read_words(map, stream_context(&endpoint, stream)).ok_or(TRB_ERROR)?;
                if low >> 1 & 7 != PRIMARY_RING {
                    return Err(INVALID_STREAM_TYPE);
                }
                let dequeue = u64::from(high) << 32 | u64::from(low & !0xf);
                let work = Work { ring: Ring { dequeue, cycle: low & 1 != 0 }, ..Work::default() };
                let stream = Stream { slot: slot as u8, endpoint: number as u8, number: stream, work };
                self.state.streams.0.insert(at, stream);
                at
            }
        };
        Ok(&mut self.state.streams.0[at].work)
    }

    /// The streams of an endpoint that were in use.
    fn streams_of(&self, slot: usize, number: usize) -> impl Iterator<Item = &Stream> {
        let is_it = move |stream: &&Stream| (usize::from(stream.slot), usize::from(stream.endpoint)) == (slot, number);
        self.state.streams.0.iter().filter(is_it)
    }

    /// The rings of an endpoint that wait for the device.
    pub(super) fn waiting(&mut self, slot: usize, number: usize) -> Vec<u16> {
        match self.endpoint(slot, number).map(|endpoint| (endpoint.streams, endpoint.work.is_waiting)) {
            Some((0, true)) => vec![0],
            Some((0, false)) | None => Vec::new(),
            Some(_) => {
                let waiting = self.streams_of(slot, number).filter(|stream| stream.work.is_waiting);
                waiting.map(|stream| stream.number).collect()
            }
        }
    }

    /// Endpoints of a slot are no longer what they were, from number `first` on.
    fn forget_streams(&mut self, slot: usize, endpoints: std::ops::RangeInclusive<usize>) {
        let is_it = |stream: &Stream| usize::from(stream.slot) == slot && endpoints.contains(&stream.endpoint.into());
        self.state.streams.0.retain(|stream| !is_it(stream));
    }

    /// Changes an endpoint's state, and tells its context.
    pub(super) fn set_endpoint_state(&mut self, map: &DmaMap, (slot, number): (usize, usize), state: EndpointState) {
        let Some(context) = self.slot(slot).map(|slot| slot.context) else { return };
        let Some(endpoint) = self.endpoint(slot, number) else { return };
        endpoint.state = state;
        endpoint.work.is_waiting = false;
        let endpoint = *endpoint;
        let at = context.wrapping_add(CONTEXT * number as u64);
        let pointer = |at: u64, ring: Ring, bits: u32| {
            let low = ring.dequeue as u32 | bits | u32::from(ring.cycle);
            write_words(map, at, [low, (ring.dequeue >> 32) as u32])
        };
        let is_it = |stream: &&mut Stream| (usize::from(stream.slot), usize::from(stream.endpoint)) == (slot, number);
        let mut written =
            read_words::<1>(map, at).and_then(|[first]| write_words(map, at, [first & !7 | state as u32]));
        if endpoint.streams == 0 {
            written = written.and_then(|()| pointer(at.wrapping_add(8), endpoint.work.ring, 0));
        }
        for stream in self.state.streams.0.iter_mut().filter(is_it) {
            stream.work.is_waiting = false;
            let at = stream_context(&endpoint, stream.number);
            written = written.and_then(|()| pointer(at, stream.work.ring, PRIMARY_RING << 1));
        }
        if written.is_none() {
            self.host_error();
        }
    }

    /// Takes an endpoint into use as its context says, which is updated.
    fn enable_endpoint(&mut self, (slot, number): (usize, usize), context: &mut [u32; 5]) {
        let streams = (context[0] >> 10 & if self.options.streams { MAX_STREAMS } else { 0 }) as u8;
        self.forget_streams(slot, number..=number);
        let Some(endpoint) = self.slot(slot).and_then(|slot| slot.endpoints.get_mut(number - 1)) else { return };
        let dequeue = u64::from(context[3]) << 32 | u64::from(context[2]);
        let ring = Ring { dequeue: dequeue & !0xf, cycle: dequeue & 1 != 0 };
        let work = Work { ring, ..Work::default() };
        *endpoint = Endpoint { state: EndpointState::Running, work, streams, array: dequeue & !0xf };
        context[0] = context[0] & !7 | EndpointState::Running as u32;
    }

    // ---- Commands ----

    pub(super) fn enable_slot(&mut self) -> Option<u8> {
        let slots = self.options.slots as usize;
        let free = self.state.slots.iter().take(slots).position(|slot| !slot.is_enabled)?;
        self.state.slots[free] = Slot { is_enabled: true, ..Slot::default() };
        self.forget_streams(free + 1, 1..=ENDPOINTS);
        Some(free as u8 + 1)
    }

    pub(super) fn disable_slot(&mut self, number: usize) -> Completed {
        if let Some(slot) = self.slot(number) {
            *slot = Slot::default();
        }
        self.forget_streams(number, 1..=ENDPOINTS);
        Ok(())
    }

    pub(super) fn address_device(&mut self, map: &DmaMap, number: usize, input: u64, is_blocked: bool) -> Completed {
        let pointer = self.state.contexts.wrapping_add(8 * number as u64);
        let [low, high] = read_words(map, pointer).ok_or(TRB_ERROR)?;
        let output = u64::from(high) << 32 | u64::from(low & !0x3f);
        if read_words(map, input) != Some([0, 3]) {
            return Err(TRB_ERROR);
        }
        let mut context: [u32; 4] = read_words(map, input.wrapping_add(CONTEXT)).ok_or(TRB_ERROR)?;
        let mut control: [u32; 5] = read_words(map, input.wrapping_add(2 * CONTEXT)).ok_or(TRB_ERROR)?;
        let (root_port, route) = ((context[1] >> 16) as u8, context[0] & 0xf_ffff);
        if root_port == 0 || usize::from(root_port) > self.port_count() {
            return Err(TRB_ERROR);
        }
        let device = self.device_at(root_port, route).ok_or(TRANSACTION_ERROR)?;
        let mut others = self.state.slots.iter().enumerate().filter(|(index, _)| index + 1 != number);
        if others.any(|(_, slot)| slot.is_enabled && (slot.root_port, slot.route) == (root_port, route)) {
            return Err(TRB_ERROR);
        }
        device.reset();
        let state = if is_blocked {
            slot_state::DEFAULT << 27
        } else {
            set_address(&device, number as u8).ok_or(TRANSACTION_ERROR)?;
            slot_state::ADDRESSED << 27 | number as u32
        };
        let interrupter = (context[2] >> 22) as u16;
        context[3] = state;
        let slot = self.slot(number).ok_or(TRB_ERROR)?;
        (slot.context, slot.interrupter) = (output, interrupter);
        (slot.root_port, slot.route) = (root_port, route);
        slot.is_addressed = true;
        self.enable_endpoint((number, 1), &mut control);
        write_words(map, output, context).ok_or(TRB_ERROR)?;
        write_words(map, output.wrapping_add(CONTEXT), control).ok_or(TRB_ERROR)
    }

    pub(super) fn configure_endpoints(
        &mut self,
        map: &DmaMap,
        number: usize,
        input: u64,
        is_deconfiguring: bool,
    ) -> Completed {
        let output = self.slot(number).ok_or(TRB_ERROR)?.context;
        let mut context: [u32; 4] = read_words(map, output).ok_or(TRB_ERROR)?;
        if is_deconfiguring {
            self.slot(number).ok_or(TRB_ERROR)?.endpoints[1..].fill(Endpoint::default());
            self.forget_streams(number, 2..=ENDPOINTS);
            context[3] = context[3] & 0x07ff_ffff | slot_state::ADDRESSED << 27;
            return write_words(map, output, context).ok_or(TRB_ERROR);
        }
        let [drop, add]: [u32; 2] = read_words(map, input).ok_or(TRB_ERROR)?;
        if drop & 3 != 0 || add & 3 != 1 {
            return Err(TRB_ERROR);
        }
        let [wanted]: [u32; 1] = read_words(map, input.wrapping_add(CONTEXT)).ok_or(TRB_ERROR)?;
        if context[3] >> 27 < slot_state::ADDRESSED {
            return Err(CONTEXT_STATE_ERROR);
        }
        for endpoint in 2..=ENDPOINTS {
            let at = output.wrapping_add(CONTEXT * endpoint as u64);
            if (drop | add) & 1 << endpoint != 0 {
                self.slot(number).ok_or(TRB_ERROR)?.endpoints[endpoint - 1] = Endpoint::default();
                self.forget_streams(number, endpoint..=endpoint);
            }
            if add & 1 << endpoint != 0 {
                let from = input.wrapping_add(CONTEXT * (endpoint as u64 + 1));
                let mut control: [u32; 5] = read_words(map, from).ok_or(TRB_ERROR)?;
                self.enable_endpoint((number, endpoint), &mut control);
                write_words(map, at, control).ok_or(TRB_ERROR)?;
            } else if drop & 1 << endpoint != 0 {
                let [first]: [u32; 1] = read_words(map, at).ok_or(TRB_ERROR)?;
                write_words(map, at, [first & !7]).ok_or(TRB_ERROR)?;
            }
        }
        context[3] = context[3] & 0x07ff_ffff | slot_state::CONFIGURED << 27;
        context[0] = context[0] & 0x07ff_ffff | wanted & 0xf800_0000;
        write_words(map, output, context).ok_or(TRB_ERROR)
    }

    pub(super) fn evaluate_context(&mut self, map: &DmaMap, number: usize, input: u64) -> Completed {
        let output = self.slot(number).ok_or(TRB_ERROR)?.context;
        let [drop, add]: [u32; 2] = read_words(map, input).ok_or(TRB_ERROR)?;
        if drop != 0 || add & !3 != 0 {
            return Err(TRB_ERROR);
        }
        if add & 1 != 0 {
            let wanted: [u32; 4] = read_words(map, input.wrapping_add(CONTEXT)).ok_or(TRB_ERROR)?;
            let mut context: [u32; 4] = read_words(map, output).ok_or(TRB_ERROR)?;
            // The latency of leaving sleep, and the interrupter.
            context[1] = context[1] & !0xffff | wanted[1] & 0xffff;
            context[2] = context[2] & 0x003f_ffff | wanted[2] & 0xffc0_0000;
            self.slot(number).ok_or(TRB_ERROR)?.interrupter = (wanted[2] >> 22) as u16;
            write_words(map, output, context).ok_or(TRB_ERROR)?;
        }
        if add & 2 != 0 {
            let [_, wanted]: [u32; 2] = read_words(map, input.wrapping_add(2 * CONTEXT)).ok_or(TRB_ERROR)?;
            let at = output.wrapping_add(CONTEXT + 4);
            let [control]: [u32; 1] = read_words(map, at).ok_or(TRB_ERROR)?;
            write_words(map, at, [control & 0xffff | wanted & 0xffff_0000]).ok_or(TRB_ERROR)?;
        }
        Ok(())
    }

    pub(super) fn reset_device(&mut self, map: &DmaMap, number: usize) -> Completed {
        let slot = self.slot(number).ok_or(TRB_ERROR)?;
        slot.endpoints[1..].fill(Endpoint::default());
        let output = slot.context;
        self.forget_streams(number, 2..=ENDPOINTS);
        if let Some(device) = self.device_of_slot(number) {
            device.reset();
        }
        let [state]: [u32; 1] = read_words(map, output.wrapping_add(12)).ok_or(TRB_ERROR)?;
        // Neither the old state nor the address.
        write_words(map, output.wrapping_add(12), [state & 0x07ff_ff00 | slot_state::DEFAULT << 27]).ok_or(TRB_ERROR)
    }

    pub(super) fn reset_endpoint(&mut self, map: &DmaMap, slot: usize, number: usize) -> Completed {
        let endpoint = self.endpoint(slot, number).ok_or(ENDPOINT_NOT_ENABLED)?;
        if endpoint.state != EndpointState::Halted {
            return Err(CONTEXT_STATE_ERROR);
        }
        self.set_endpoint_state(map, (slot, number), EndpointState::Stopped);
        Ok(())
    }

    pub(super) fn stop_endpoint(&mut self, map: &DmaMap, slot: usize, number: usize) -> Completed {
        let endpoint = *self.endpoint(slot, number).ok_or(ENDPOINT_NOT_ENABLED)?;
        if endpoint.state != EndpointState::Running {
            return Err(CONTEXT_STATE_ERROR);
        }
        if let Some(stream) = self.waiting(slot, number).first() {
            // One of them is told.
            let work = self.work(map, (slot, number, *stream)).map_or(endpoint.work, |work| *work);
            let (at, left) = self.position(map, &work);
            let interrupter = self.slot(slot).map_or(0, |slot| slot.interrupter);
            let event = Event { slot: slot as u8, endpoint: number as u8, ..Event::transfer(at, left, STOPPED) };
            self.send(event, usize::from(interrupter));
        }
        self.set_endpoint_state(map, (slot, number), EndpointState::Stopped);
        Ok(())
    }

    pub(super) fn set_dequeue(&mut self, map: &DmaMap, place: Place, pointer: u64) -> Completed {
        let (slot, number, _) = place;
        let endpoint = self.endpoint(slot, number).ok_or(ENDPOINT_NOT_ENABLED)?;
        if !matches!(endpoint.state, EndpointState::Stopped | EndpointState::Error) {
            return Err(CONTEXT_STATE_ERROR);
        }
        let work = self.work(map, place)?;
        work.ring = Ring { dequeue: pointer & !0xf, cycle: pointer & 1 != 0 };
        work.moved = 0;
        self.set_endpoint_state(map, (slot, number), EndpointState::Stopped);
        Ok(())
    }
}

/// Where the context of a stream is.
fn stream_context(endpoint: &Endpoint, stream: u16) -> u64 {
    endpoint.array.wrapping_add(STREAM_CONTEXT * u64::from(stream))
}

/// SET_ADDRESS as the controller itself does it.
fn set_address(device: &Link, address: u8) -> Option<()> {
    let mut setup = [0, 5, address, 0, 0, 0, 0, 0];
    let done = device.transfer(Token::Setup, 0.into(), &mut ByteData::new(&mut setup));
    let acknowledged = device.transfer(Token::In, 0.into(), &mut ByteData::new(&mut []));
    (done == Outcome::Done(8) && acknowledged == Outcome::Done(0)).then_some(())
}

/// What commands answer.
pub(super) fn code(result: Completed) -> u8 {
    result.err().unwrap_or(SUCCESS)
}
