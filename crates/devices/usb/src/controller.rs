//! What the host controllers share.

use device::{DeviceCell, Handle, IoDevice};
use devices_pci::bus::Window;
use memory::SpaceKind;

use crate::bus::Host;

/// A controller with ports of its own.
pub(crate) trait RootHub: Send + 'static {
    /// A device has news: see [`Host::wake`].
    fn wake(&mut self, port: usize, is_remote: bool);
}

/// The ports of a controller, as the devices on them see it.
pub(crate) struct RootPorts<C>(pub(crate) Handle<C>);

impl<C: RootHub> Host for RootPorts<C> {
    fn wake(&self, port: usize, is_remote: bool) {
        self.0.with(|controller| controller.wake(port, is_remote));
    }
}

/// The window of a controller whose registers fill base address register `bar`.
pub(crate) fn registers<C: IoDevice>(cell: &DeviceCell<C>, bar: usize, space: SpaceKind, len: u64) -> Vec<Window> {
    vec![Window { index: bar, space, offset: 0, len, priority: 1, backing: cell.region(0) }]
}
