//! The legacy interface (4.1.4.10): a header at ports, the device's configuration behind it. Integers are in the
//! guest's byte order, which is little-endian here.

use device::AccessSize;
use state::State;

use super::VirtioPci;
use super::layout::{LEGACY_HEADER, LEGACY_HEADER_MSIX};
use crate::device::{Model, status};
use crate::features;
use crate::transport::{Transport, read_bytes};

/// Offsets in the header.
mod at {
    pub const DEVICE_FEATURES: u64 = 0;
    pub const DRIVER_FEATURES: u64 = 4;
    pub const QUEUE_PFN: u64 = 8;
    pub const QUEUE_SIZE: u64 = 12;
    pub const QUEUE_SELECT: u64 = 14;
    pub const QUEUE_NOTIFY: u64 = 16;
    pub const STATUS: u64 = 18;
    pub const ISR: u64 = 19;
    pub const CONFIG_VECTOR: u64 = 20;
    pub const QUEUE_VECTOR: u64 = 22;
}

/// Legacy queues begin at pages, and their used ring at another one (2.7.2).
const PAGE: u64 = 4096;

/// The guest-visible state of this interface alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "virtio-pci/legacy", version = 1)]
pub struct LegacyState {
    pub(super) queue_select: u16,
}

impl<M: Model> VirtioPci<M> {
    fn legacy_header(&self) -> u64 {
        if self.uses_msix() { LEGACY_HEADER_MSIX } else { LEGACY_HEADER }
    }

    pub(super) fn read_legacy(&mut self, offset: u64, size: AccessSize) -> u64 {
        if let Some(offset) = offset.checked_sub(self.legacy_header()) {
            return read_bytes(&self.state.core.model.config(), offset, size);
        }
        let common = &self.state.core.common;
        let queue = common.queues.0.get(usize::from(self.state.registers.legacy.queue_select));
        let value = match offset {
            at::DEVICE_FEATURES => self.offered() & 0xffff_ffff,
            at::DRIVER_FEATURES => common.state.driver_features & 0xffff_ffff,
            at::QUEUE_PFN => queue.map_or(0, |queue| queue.state().descriptors / PAGE),
            at::QUEUE_SIZE => queue.map_or(0, |queue| u64::from(queue.max_size())),
            at::QUEUE_SELECT => u64::from(self.state.registers.legacy.queue_select),
            at::STATUS => u64::from(self.shown_status()),
            at::ISR => u64::from(self.take_isr()),
            at::CONFIG_VECTOR => u64::from(common.state.config_vector),
            at::QUEUE_VECTOR => u64::from(queue.map_or(crate::queue::NO_VECTOR, |queue| queue.state().vector)),
            _ => u64::MAX,
        };
        value & size.mask()
    }

    pub(super) fn write_legacy(&mut self, offset: u64, size: AccessSize, value: u64) {
        if let Some(offset) = offset.checked_sub(self.legacy_header()) {
            let bytes = &value.to_le_bytes()[..size.bytes()];
            let core = &mut self.state.core;
            core.model.write_config(&mut core.common, offset as usize, bytes);
            self.settle();
            return;
        }
        let selected = usize::from(self.state.registers.legacy.queue_select);
        match offset {
            at::DRIVER_FEATURES => {
                // A driver that takes whatever it sees takes what shows that, and gets nothing.
                let accepted = if value & features::BAD_FEATURE != 0 { 0 } else { value & 0xffff_ffff };
                let offered = self.offered();
                self.state.core.common.accept_features(accepted, offered);
            }
            at::QUEUE_PFN => self.write_page(selected, value & 0xffff_ffff),
            at::QUEUE_SELECT => {
                let select = value as u16;
                if usize::from(select) < usize::from(crate::queue::MAX_SIZE) {
                    self.state.registers.legacy.queue_select = select;
                }
            }
            at::QUEUE_NOTIFY => self.notify(usize::from(value as u16)),
            at::STATUS => {
                self.write_status(value as u8);
                if value as u8 == status::ACKNOWLEDGE | status::DRIVER {
                    self.set_bus_master();
                }
            }
            at::CONFIG_VECTOR => self.state.core.common.state.config_vector = self.accept_vector(value as u16),
            at::QUEUE_VECTOR => {
                let vector = self.accept_vector(value as u16);
                if let Some(queue) = self.state.core.common.queues.0.get_mut(selected) {
                    queue.set_vector(vector);
                }
            }
            _ => {}
        }
    }

    /// The page of a queue; 0 resets the device, as QEMU does.
    fn write_page(&mut self, selected: usize, page: u64) {
        if page == 0 {
            self.reset_device();
            return;
        }
        let Some(queue) = self.state.core.common.queues.0.get_mut(selected) else { return };
        let size = u64::from(queue.state().size);
        queue.set_areas(|state| {
            state.descriptors = page * PAGE;
            state.driver = state.descriptors + 16 * size;
            state.device = (state.driver + 2 * (3 + size)).next_multiple_of(PAGE);
        });
        queue.enable();
    }
}
