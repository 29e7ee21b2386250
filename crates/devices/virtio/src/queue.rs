//! Virtqueues (virtio 1.2, 2.6 to 2.8): what the driver offers becomes buffers, what the device has done is given back.
//!
//! A [`Queue`] is state and arithmetic; it never waits and calls nobody. Its two layouts are in [`split`] and
//! [`packed`]. Whatever the driver writes into its rings leads to buffers in guest RAM or to a [`QueueError`], after
//! which the device needs a reset (2.1.1). `IN_ORDER` and `NOTIFICATION_DATA` are not offered.
//!
//! Chains that were taken and not given back yet are *in flight*; the queue knows them by a [`Token`]. A reset forgets
//! them: a token from before it is refused.

mod chain;
mod element;
mod packed;
mod saved;
mod split;
#[cfg(test)]
mod tests;

use std::sync::atomic::{Ordering, fence};

use memory::{DmaBuffer, DmaError, DmaMap, DmaView, RamSlice};
use state::State;

pub use self::chain::{Extent, Extents, flag};
pub use self::element::{Descriptor, Element, ElementError};
pub use self::saved::QueueList;
use crate::features;

/// The largest queue that this crate offers, and the longest chain that it accepts.
pub const MAX_SIZE: u16 = 1024;
const MAX_DESCRIPTORS: usize = MAX_SIZE as usize;
/// The vector of a queue without interrupts.
pub const NO_VECTOR: u16 = 0xffff;

/// What a driver did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// A ring, a table or a buffer is not in RAM.
    #[error(transparent)]
    Memory(#[from] DmaError),
    /// More is offered than the queue can hold.
    #[error("the driver moved its index from {0} to {1}")]
    Index(u16, u16),
    /// A chain begins or goes on outside of its table.
    #[error("there is no descriptor {0}")]
    Descriptor(u16),
    /// More chains are in flight than the queue can hold.
    #[error("more chains are in flight than the queue has entries")]
    Overfull,
    /// A chain comes back to itself.
    #[error("the chain of descriptors has a loop")]
    Loop,
    /// More descriptors or bytes than a chain may have.
    #[error("the chain of descriptors is too long")]
    TooLong,
    /// A descriptor shows no bytes.
    #[error("zero-sized buffers are not allowed")]
    EmptyBuffer,
    /// Readable memory behind writable memory.
    #[error("readable descriptors follow writable ones")]
    Order,
    /// An indirect descriptor where none may be.
    #[error("an indirect descriptor is not allowed here")]
    Indirect,
    /// A request without its header or without a place for its answer.
    #[error("a request lacks its header or the place for its status")]
    TooShort,
    /// An indirect table of a bad size.
    #[error("{0} bytes are no table of descriptors")]
    TableSize(u32),
}

/// The guest-visible state of a queue.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "virtqueue", version = 1)]
pub struct QueueState {
    /// Entries; the driver may choose fewer than the device offers.
    pub size: u16,
    /// The driver has set the queue up.
    pub enabled: bool,
    /// The descriptor area.
    pub descriptors: u64,
    /// The driver area: what is available.
    pub driver: u64,
    /// The device area: what was used.
    pub device: u64,
    /// The interrupt vector.
    pub vector: u16,
    /// Split: the index of the next available entry. Packed: the position in the ring, see `available_wrap`.
    next_available: u16,
    /// The same for used entries.
    next_used: u16,
    /// Packed: the wrap counters.
    available_wrap: bool,
    used_wrap: bool,
    /// Where the driver was interrupted for the last time, if it was.
    signalled: u16,
    signalled_valid: bool,
}

impl QueueState {
    fn new(size: u16) -> Self {
        Self {
            size,
            enabled: false,
            descriptors: 0,
            driver: 0,
            device: 0,
            vector: NO_VECTOR,
            next_available: 0,
            next_used: 0,
            available_wrap: true,
            used_wrap: true,
            signalled: 0,
            signalled_valid: false,
        }
    }
}

/// Names a chain in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    epoch: u64,
    slot: usize,
}

/// A chain that the driver offered.
#[derive(Debug)]
pub struct Request {
    /// Its name, to give it back.
    pub token: Token,
    /// What the device reads.
    pub readable: DmaBuffer,
    /// What the device writes.
    pub writable: DmaBuffer,
}

/// What the queue must know of a chain until it is given back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Split: the head's index. Packed: the buffer's id.
    id: u16,
    /// Packed: how many entries of the ring it took.
    entries: u16,
    extents: Extents,
}

/// The three areas in memory.
#[derive(Clone, Debug)]
struct Rings {
    descriptors: RamSlice,
    driver: RamSlice,
    device: RamSlice,
    generation: u64,
}

/// Chains in flight by slot.
#[derive(Clone, Debug, Default)]
struct InFlight {
    slots: Vec<Option<Chain>>,
    free: Vec<usize>,
}

impl InFlight {
    fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn insert(&mut self, chain: Chain) -> usize {
        if let Some(slot) = self.free.pop() {
            self.slots[slot] = Some(chain);
            return slot;
        }
        self.slots.push(Some(chain));
        self.slots.len() - 1
    }

    fn remove(&mut self, slot: usize) -> Option<Chain> {
        let chain = self.slots.get_mut(slot)?.take();
        if chain.is_some() {
            self.free.push(slot);
        }
        chain
    }
}

/// A queue.
#[derive(Clone, Debug)]
pub struct Queue {
    // Fixed configuration.
    max_size: u16,
    // Derived from the state.
    rings: Option<Rings>,
    features: u64,
    /// Changes with each reset.
    epoch: u64,
    /// Split: the driver's index as it was read last.
    seen_available: u16,
    // Guest-visible state.
    state: QueueState,
    in_flight: InFlight,
}

impl Queue {
    /// A queue of at most `max_size` entries (at most [`MAX_SIZE`]), not set up.
    pub fn new(max_size: u16) -> Self {
        let max_size = max_size.clamp(1, MAX_SIZE);
        Self {
            max_size,
            rings: None,
            features: 0,
            epoch: 0,
            seen_available: 0,
            state: QueueState::new(max_size),
            in_flight: InFlight::default(),
        }
    }

    /// The state, as the driver sees it.
    pub fn state(&self) -> &QueueState {
        &self.state
    }

    /// The size that the device offers.
    pub fn max_size(&self) -> u16 {
        self.max_size
    }

    /// Chains that were taken and not given back.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Sets the number of entries. Numbers that the device does not offer are ignored.
    pub fn set_size(&mut self, size: u16) {
        if (1..=self.max_size).contains(&size) && !self.state.enabled {
            self.state.size = size;
        }
    }

    /// Sets the areas' addresses by `change`, which gets the state.
    pub fn set_areas(&mut self, change: impl FnOnce(&mut QueueState)) {
        let (size, enabled) = (self.state.size, self.state.enabled);
        change(&mut self.state);
        (self.state.size, self.state.enabled) = (size, enabled);
        self.rings = None;
    }

    /// Sets the interrupt vector.
    pub fn set_vector(&mut self, vector: u16) {
        self.state.vector = vector;
    }

    /// The driver has set the queue up, with these negotiated features.
    pub fn enable(&mut self) {
        self.state.enabled = true;
        self.rings = None;
    }

    /// The driver, or who stands for it, takes the queue back. What is in flight still ends.
    pub fn disable(&mut self) {
        self.state.enabled = false;
    }

    /// Where the next chain is taken (split layout).
    pub fn next_available(&self) -> u16 {
        self.state.next_available
    }

    /// Goes on where another device has stopped: at the available entry `next`, and behind what the ring says is used.
    /// Split layout.
    ///
    /// # Errors
    /// [`QueueError`]: the rings are not in RAM.
    pub fn resume(&mut self, dma: &DmaView, next: u16) -> Result<(), QueueError> {
        let used = self.rings(dma)?.device.load_u16(2).unwrap_or(0);
        (self.state.next_available, self.state.next_used) = (next, used);
        self.seen_available = next;
        self.state.signalled_valid = false;
        Ok(())
    }

    /// Says what was negotiated.
    pub fn set_features(&mut self, features: u64) {
        self.features = features;
        self.rings = None;
    }

    /// Forgets everything, the chains in flight too.
    pub fn reset(&mut self) {
        self.state = QueueState::new(self.max_size);
        self.in_flight = InFlight::default();
        self.rings = None;
        self.seen_available = 0;
        self.epoch += 1;
    }

    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    fn is_packed(&self) -> bool {
        self.has(features::RING_PACKED)
    }

    /// The areas as the memory map shows them now.
    fn rings(&mut self, dma: &DmaView) -> Result<&Rings, QueueError> {
        let generation = dma.generation();
        let rings = match self.rings.take() {
            Some(rings) if rings.generation == generation => rings,
            _ => self.map_rings(&dma.map(), generation)?,
        };
        Ok(self.rings.insert(rings))
    }

    fn map_rings(&self, map: &DmaMap, generation: u64) -> Result<Rings, QueueError> {
        let size = u64::from(self.state.size);
        let event = if self.has(features::EVENT_IDX) { 2 } else { 0 };
        let (driver_len, device_len) =
            if self.is_packed() { (4, 4) } else { (4 + 2 * size + event, 4 + 8 * size + event) };
        Ok(Rings {
            descriptors: map.slice(self.state.descriptors, size * chain::DESCRIPTOR_LEN as u64)?,
            driver: map.slice(self.state.driver, driver_len)?,
            device: map.slice(self.state.device, device_len)?,
            generation,
        })
    }

    /// Whether the driver has set the queue up.
    pub fn is_ready(&self) -> bool {
        self.state.enabled
    }

    /// Takes the next chain that the driver offers.
    ///
    /// # Errors
    /// [`QueueError`]: the device needs a reset.
    pub fn pop(&mut self, dma: &DmaView) -> Result<Option<Request>, QueueError> {
        if !self.is_ready() {
            return Ok(None);
        }
        self.rings(dma)?;
        let map = dma.map();
        let taken = if self.is_packed() { self.pop_packed(&map)? } else { self.pop_split(&map)? };
        let Some(chain) = taken else { return Ok(None) };
        if self.in_flight.len() >= usize::from(self.state.size) {
            return Err(QueueError::Overfull);
        }
        let (readable, writable) = chain.extents.resolve(&map)?;
        let slot = self.in_flight.insert(chain);
        Ok(Some(Request { token: Token { epoch: self.epoch, slot }, readable, writable }))
    }

    /// Asks to be notified of what the driver offers from now on. `true`: there is something already.
    ///
    /// # Errors
    /// [`QueueError`]: the device needs a reset.
    pub fn enable_notifications(&mut self, dma: &DmaView) -> Result<bool, QueueError> {
        if !self.is_ready() {
            return Ok(false);
        }
        self.rings(dma)?;
        let Some(rings) = &self.rings else { return Ok(false) };
        if self.is_packed() {
            self.packed_enable_notifications(rings);
            fence(Ordering::SeqCst);
            return Ok(self.packed_has_available(rings));
        }
        self.split_enable_notifications(rings);
        fence(Ordering::SeqCst);
        self.seen_available = rings.available_index();
        Ok(self.seen_available != self.state.next_available)
    }

    /// Gives a chain back, `written` bytes of whose writable part are valid. `false`: the chain was forgotten.
    ///
    /// # Errors
    /// [`QueueError`]: the device needs a reset.
    pub fn push(&mut self, dma: &DmaView, token: Token, written: u32) -> Result<bool, QueueError> {
        if token.epoch != self.epoch {
            return Ok(false);
        }
        let Some(chain) = self.in_flight.remove(token.slot) else { return Ok(false) };
        self.rings(dma)?;
        if self.is_packed() {
            self.push_packed(&chain, written);
        } else {
            self.push_split(&chain, written);
        }
        Ok(true)
    }

    /// Whether a chain is still in flight.
    pub fn is_current(&self, token: Token) -> bool {
        token.epoch == self.epoch && self.in_flight.slots.get(token.slot).is_some_and(Option::is_some)
    }

    /// Whether the driver wants an interrupt for what was given back since it was asked for the last time.
    ///
    /// # Errors
    /// [`QueueError`]: the device needs a reset.
    pub fn wants_interrupt(&mut self, dma: &DmaView) -> Result<bool, QueueError> {
        if !self.is_ready() {
            return Ok(false);
        }
        self.rings(dma)?;
        let Some(rings) = self.rings.clone() else { return Ok(false) };
        // What was given back is visible before the driver's wish is read.
        fence(Ordering::SeqCst);
        Ok(if self.is_packed() { self.packed_wants_interrupt(&rings) } else { self.split_wants_interrupt(&rings) })
    }

    /// The chains in flight as requests once more, under new names: what a restored device must do again.
    ///
    /// # Errors
    /// [`QueueError`]: the device needs a reset.
    pub fn take_again(&mut self, dma: &DmaView) -> Result<Vec<Request>, QueueError> {
        self.epoch += 1;
        let map = dma.map();
        let mut requests = Vec::new();
        for (slot, chain) in self.in_flight.slots.iter().enumerate() {
            let Some(chain) = chain else { continue };
            let (readable, writable) = chain.extents.resolve(&map)?;
            requests.push(Request { token: Token { epoch: self.epoch, slot }, readable, writable });
        }
        Ok(requests)
    }
}

/// Whether a driver that asked for an event at `event` gets one when the index moves from `old` to `new` (2.7.7.1).
fn is_event_due(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
