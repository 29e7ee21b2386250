//! What the host controllers share.

use std::sync::atomic::{Ordering, fence};

use device::{DeviceCell, Handle, IoDevice};
use devices_pci::bus::Window;
use memory::{DmaMap, SpaceKind};

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

/// Words in guest memory; `None` where there is no RAM. At most 12.
pub(crate) fn words<const N: usize>(map: &DmaMap, at: u64) -> Option<[u32; N]> {
    let mut bytes = [0; 48];
    let bytes = bytes.get_mut(..4 * N)?;
    map.read(at, bytes).ok()?;
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    Some(words)
}

/// The same of a descriptor that a driver on another processor hands over by writing word `last` behind the others: that
/// word is read before them.
pub(crate) fn handed_over<const N: usize>(map: &DmaMap, at: u64, last: usize) -> Option<[u32; N]> {
    let [first] = words(map, at.wrapping_add(4 * last as u64))?;
    fence(Ordering::Acquire);
    let mut words = words(map, at)?;
    *words.get_mut(last)? = first;
    Some(words)
}
