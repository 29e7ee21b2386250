//! What a device is: lifecycle, accesses, interrupt lines, exclusive access through a cell.
//!
//! A device model is a plain struct with `&mut self` methods. It never locks anything itself: a [`DeviceCell`] owns it
//! together with the lock that its bus takes for each access, timer or reset. It drives interrupts through an
//! [`IrqLine`] and never knows its number.
//!
//! Lock ranks: device → interrupt router ([`IrqInput`]) → PIC/IOAPIC → local APIC. A thread that holds a lock takes
//! only locks further right. Nobody waits for a backend or the control thread with a device lock held.

#![forbid(unsafe_code)]

mod cell;
pub mod disk;
pub mod entropy;
mod irq;
pub mod testing;

pub use cell::{DeviceCell, Handle, Lifecycle};
pub use irq::{IrqInput, IrqLine, IrqSink};

pub use memory::AccessSize;

/// What kind of reset reaches a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetKind {
    /// Power-on: everything, also what survives a warm reset.
    Cold,
    /// A reset of the running machine (`system_reset`, port 0xcf9, keyboard controller, triple fault).
    Warm,
}

/// What a device has to say about its guest-visible state. Nothing is migratable by silence.
pub enum DeviceState<'a> {
    /// The machine can't be migrated or snapshotted while this device exists; the text says why.
    Never(&'static str),
    /// There is no guest-visible state.
    Empty,
    /// The declared state.
    State(&'a mut dyn state::SavedState),
}

/// The lifecycle that every device has.
pub trait Device: Send + 'static {
    /// Brings the guest-visible state to its reset value. Configuration, wiring and host resources stay.
    fn reset(&mut self, kind: ResetKind);

    /// The guest-visible state, to save or to fill. After a load [`Device::restored`] is called.
    fn state(&mut self) -> DeviceState<'_>;

    /// The state was replaced from outside: recompute what is derived from it (lines without edges, timers).
    fn restored(&mut self);
}

/// A device that answers accesses in one or more regions, numbered by the device from 0.
pub trait IoDevice: Device {
    /// The smallest and largest access that `region` implements; the bus splits larger ones and fills smaller reads.
    fn access_sizes(&self, region: usize) -> (AccessSize, AccessSize);

    /// Reads `size` bytes at `offset` in `region`.
    fn read(&mut self, region: usize, offset: u64, size: AccessSize) -> u64;

    /// Writes the low `size` bytes of `value` at `offset` in `region`.
    fn write(&mut self, region: usize, offset: u64, size: AccessSize, value: u64);
}
