//! The laws that hold for every device, checked through its [`Lifecycle`], and accesses to whatever a device has mapped;
//! a disk for tests of controllers.

mod disk;

use memory::{AccessSize, AddressSpace, Backing, FlatRange, FlatView, GuestAddress};
use state::testing::{load_all, saved};

pub use self::disk::FakeDisk;
use crate::{DeviceState, Lifecycle, ResetKind};

/// The state's bytes; nothing for a device without any.
pub fn state_of(device: &dyn Lifecycle) -> Option<Vec<u8>> {
    let mut bytes = None;
    device.visit_state(&mut |state| {
        if let DeviceState::State(state) = state {
            bytes = Some(saved(state));
        }
    });
    bytes
}

/// A second reset changes nothing.
///
/// # Errors
/// It does: the text says so, with the device's `name`.
pub fn reset_twice_is_once(name: &str, device: &dyn Lifecycle, kind: ResetKind) -> Result<(), String> {
    device.reset(kind);
    let first = state_of(device);
    device.reset(kind);
    if state_of(device) == first { Ok(()) } else { Err(format!("{name}: a second {kind:?} reset changes the state")) }
}

/// A device accepts what it has saved, and saves the same again.
///
/// # Errors
/// It does not: the text says so, with the device's `name`, and where the bytes differ.
pub fn save_and_restore_agree(name: &str, device: &dyn Lifecycle) -> Result<(), String> {
    let Some(before) = state_of(device) else { return Ok(()) };
    let mut loaded = Ok(());
    device.visit_state(&mut |state| {
        if let DeviceState::State(state) = state {
            loaded = load_all(state, &before);
        }
    });
    loaded.map_err(|error| format!("{name}: refuses what it has saved: {error}"))?;
    device.restored();
    let after = state_of(device).unwrap_or_default();
    if before == after {
        return Ok(());
    }
    let at = before.iter().zip(&after).take_while(|(before, after)| before == after).count();
    Err(format!("{name}: byte {at} is another after a restore"))
}

/// Bytes that decide what is accessed; zeroes when they are used up.
pub struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    /// All of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether there are no more.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `len` bytes, at most 8, as a number.
    pub fn number(&mut self, len: usize) -> u64 {
        let (head, tail) = self.0.split_at(len.min(8).min(self.0.len()));
        self.0 = tail;
        head.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

/// Whether a device answers in this range: to all accesses, or to stores.
fn is_of_device(range: &FlatRange) -> bool {
    matches!(range.backing, Backing::Io(_)) || range.writes.is_some()
}

/// Whether a device answers at `address` now.
pub fn is_answered(space: &AddressSpace, address: u64) -> bool {
    space.view().find(address).is_some_and(is_of_device)
}

/// The ranges of a space that devices answer: first address and length.
fn device_ranges(view: &FlatView) -> Vec<(u64, u64)> {
    let ranges = view.ranges().iter().filter(|range| is_of_device(range));
    ranges.map(|range| (range.start, (range.last - range.start).saturating_add(1))).collect()
}

/// Makes one access, of any size and at any offset, to one of the ranges that devices have in `space` now.
pub fn access(space: &AddressSpace, script: &mut Script<'_>) {
    access_in(space, &device_ranges(&space.view()), script);
}

/// The same to one of `ranges`: first address and length.
pub fn access_in(space: &AddressSpace, ranges: &[(u64, u64)], script: &mut Script<'_>) {
    const SIZES: [AccessSize; 4] = [AccessSize::Byte, AccessSize::Word, AccessSize::Dword, AccessSize::Qword];
    if ranges.is_empty() {
        return;
    }
    let (start, len) = ranges[script.number(1) as usize % ranges.len()];
    let offset = script.number(if len > 0x100 { 3 } else { 1 }) % len.max(1);
    let choice = script.number(1);
    let size = SIZES[choice as usize & 3];
    let address = GuestAddress(start.saturating_add(offset));
    if choice & 4 == 0 {
        space.load(address, size);
    } else {
        let bytes = if choice & 8 == 0 { 1 } else { size.bytes() };
        // Small numbers may name pages, where the script writes structures.
        let value = script.number(bytes) << if choice & 16 == 0 { 0 } else { 8 };
        space.store(address, size, value & size.mask());
    }
}
