//! Exclusive access: the lock that belongs to the bus, around a device.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use clock::{Clock, Timer};
use memory::{AccessSize, Backing, Io};

use crate::{Device, DeviceState, IoDevice, ResetKind};

/// Owns a device together with its lock. Clones are the same device.
pub struct DeviceCell<D>(Arc<Mutex<D>>);

impl<D> Clone for DeviceCell<D> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// A device's way to its own cell, for timers and backends that call it later. It does not keep the device alive.
pub struct Handle<D>(Weak<Mutex<D>>);

impl<D> Clone for Handle<D> {
    fn clone(&self) -> Self {
        Self(Weak::clone(&self.0))
    }
}

impl<D: Send + 'static> Handle<D> {
    /// Calls `visit` with exclusive access; `None` when the device is gone.
    pub fn with<R>(&self, visit: impl FnOnce(&mut D) -> R) -> Option<R> {
        let device = self.0.upgrade()?;
        let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
        Some(visit(&mut device))
    }

    /// A timer that calls `due` with exclusive access.
    pub fn timer(&self, clock: &Clock, due: fn(&mut D)) -> Timer {
        let handle = self.clone();
        clock.timer(move || {
            handle.with(due);
        })
    }
}

impl<D: Send + 'static> DeviceCell<D> {
    /// Puts a device that needs no handle to itself into a cell.
    pub fn new(device: D) -> Self {
        Self(Arc::new(Mutex::new(device)))
    }

    /// Builds a device that gets a handle to its own cell (for timers). The handle works once `build` has returned.
    pub fn new_cyclic(build: impl FnOnce(&Handle<D>) -> D) -> Self {
        Self(Arc::new_cyclic(|weak| Mutex::new(build(&Handle(Weak::clone(weak))))))
    }

    /// Exclusive access.
    pub fn lock(&self) -> MutexGuard<'_, D> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle that does not keep the device alive.
    pub fn handle(&self) -> Handle<D> {
        Handle(Arc::downgrade(&self.0))
    }
}

impl<D: IoDevice> DeviceCell<D> {
    /// The device's region `region`, to be mapped into an address space.
    pub fn region(&self, region: usize) -> Backing {
        let sizes = self.lock().access_sizes(region);
        Backing::Io(Arc::new(CellRegion { cell: self.clone(), region, sizes }))
    }
}

struct CellRegion<D> {
    cell: DeviceCell<D>,
    region: usize,
    sizes: (AccessSize, AccessSize),
}

impl<D: IoDevice> Io for CellRegion<D> {
    fn read(&self, offset: u64, size: AccessSize) -> u64 {
        self.cell.lock().read(self.region, offset, size)
    }

    fn write(&self, offset: u64, size: AccessSize, value: u64) {
        self.cell.lock().write(self.region, offset, size, value);
    }

    fn sizes(&self) -> (AccessSize, AccessSize) {
        self.sizes
    }
}

/// A device as the machine's reset and migration see it, whatever its type.
pub trait Lifecycle: Send + Sync {
    /// Resets the device.
    fn reset(&self, kind: ResetKind);

    /// Calls `visit` with the device's state, and with a way to say that it was replaced.
    fn visit_state(&self, visit: &mut dyn FnMut(DeviceState<'_>));

    /// Tells the device that its state was replaced.
    fn restored(&self);

    /// What can be upgraded for as long as anything holds the device: who dropped it sees that nothing keeps it. `None` for
    /// what has no cell of its own.
    fn watch(&self) -> Option<Weak<dyn Any + Send + Sync>> {
        None
    }
}

impl<D: Device> Lifecycle for DeviceCell<D> {
    fn reset(&self, kind: ResetKind) {
        self.lock().reset(kind);
    }

    fn visit_state(&self, visit: &mut dyn FnMut(DeviceState<'_>)) {
        visit(self.lock().state());
    }

    fn restored(&self) {
        self.lock().restored();
    }

    fn watch(&self) -> Option<Weak<dyn Any + Send + Sync>> {
        let device: Weak<Mutex<D>> = Arc::downgrade(&self.0);
        Some(device)
    }
}
