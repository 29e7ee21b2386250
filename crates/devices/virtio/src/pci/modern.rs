//! The structures of the modern interface (4.1.4.3 to 4.1.4.6). Little-endian; 64-bit fields are accessed in halves.

use device::AccessSize;
use state::State;

use super::VirtioPci;
use super::layout::{COMMON_AT, DEVICE_AT, ISR_AT, NOTIFY_AT};
use crate::device::Model;
use crate::features;
use crate::queue::{NO_VECTOR, Queue};
use crate::transport::{Transport, read_bytes};

/// Offsets in the common configuration.
mod at {
    pub const DEVICE_FEATURE_SELECT: u64 = 0;
    pub const DEVICE_FEATURE: u64 = 4;
    pub const DRIVER_FEATURE_SELECT: u64 = 8;
    pub const DRIVER_FEATURE: u64 = 12;
    pub const CONFIG_VECTOR: u64 = 16;
    pub const NUM_QUEUES: u64 = 18;
    pub const STATUS: u64 = 20;
    pub const GENERATION: u64 = 21;
    pub const QUEUE_SELECT: u64 = 22;
    pub const QUEUE_SIZE: u64 = 24;
    pub const QUEUE_VECTOR: u64 = 26;
    pub const QUEUE_ENABLE: u64 = 28;
    pub const QUEUE_NOTIFY_OFF: u64 = 30;
    pub const QUEUE_DESC: u64 = 32;
    pub const QUEUE_DESC_HIGH: u64 = 36;
    pub const QUEUE_DRIVER: u64 = 40;
    pub const QUEUE_DRIVER_HIGH: u64 = 44;
    pub const QUEUE_DEVICE: u64 = 48;
    pub const QUEUE_DEVICE_HIGH: u64 = 52;
    pub const QUEUE_RESET: u64 = 58;
}

/// The guest-visible state of this interface alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "virtio-pci/modern", version = 1)]
pub struct ModernState {
    device_feature_select: u32,
    driver_feature_select: u32,
    /// What the driver wrote, before it is compared with what is offered.
    driver_features: u64,
    pub(super) queue_select: u16,
}

fn half(value: u64, select: u32) -> u64 {
    match select {
        0 => value & 0xffff_ffff,
        1 => value >> 32,
        _ => 0,
    }
}

fn set_half(value: &mut u64, high: bool, half: u64) {
    let half = half & 0xffff_ffff;
    *value = if high { *value & 0xffff_ffff | half << 32 } else { *value & !0xffff_ffff | half };
}

impl<M: Model> VirtioPci<M> {
    pub(super) fn read_modern(&mut self, offset: u64, size: AccessSize) -> u64 {
        match offset {
            COMMON_AT..ISR_AT => self.read_common(offset) & size.mask(),
            // One register, wherever it is read.
            ISR_AT..DEVICE_AT => u64::from(self.take_isr()),
            DEVICE_AT..NOTIFY_AT => read_bytes(&self.state.core.model.config(), offset - DEVICE_AT, size),
            _ => 0,
        }
    }

    pub(super) fn write_modern(&mut self, offset: u64, size: AccessSize, value: u64) {
        match offset {
            COMMON_AT..ISR_AT => self.write_common(offset, value),
            ISR_AT..DEVICE_AT => {}
            DEVICE_AT..NOTIFY_AT => {
                let bytes = &value.to_le_bytes()[..size.bytes()];
                let core = &mut self.state.core;
                core.model.write_config(&mut core.common, (offset - DEVICE_AT) as usize, bytes);
                self.settle();
            }
            // The register says which queue, the value repeats it.
            _ => self.notify(((offset - NOTIFY_AT) / u64::from(self.layout.notify_multiplier)) as usize),
        }
    }

    fn selected(&self) -> Option<&Queue> {
        self.state.core.common.queues.0.get(usize::from(self.state.registers.modern.queue_select))
    }

    fn read_common(&self, offset: u64) -> u64 {
        let (modern, common) = (&self.state.registers.modern, &self.state.core.common.state);
        match offset {
            at::DEVICE_FEATURE_SELECT => u64::from(modern.device_feature_select),
            at::DEVICE_FEATURE => half(self.offered() & !features::LEGACY_ONLY, modern.device_feature_select),
            at::DRIVER_FEATURE_SELECT => u64::from(modern.driver_feature_select),
            at::DRIVER_FEATURE => half(modern.driver_features, modern.driver_feature_select),
            at::CONFIG_VECTOR => u64::from(common.config_vector),
            at::NUM_QUEUES => self.state.core.common.queues.0.len() as u64,
            at::STATUS => u64::from(self.shown_status()),
            at::GENERATION => u64::from(common.generation),
            at::QUEUE_SELECT => u64::from(modern.queue_select),
            _ => self.read_queue(offset),
        }
    }

    fn read_queue(&self, offset: u64) -> u64 {
        let Some(queue) = self.selected() else {
            return if offset == at::QUEUE_VECTOR { u64::from(NO_VECTOR) } else { 0 };
        };
        let state = queue.state();
        match offset {
            at::QUEUE_SIZE => u64::from(state.size),
            at::QUEUE_VECTOR => u64::from(state.vector),
            at::QUEUE_ENABLE => u64::from(state.enabled),
            // Simply the number of the queue.
            at::QUEUE_NOTIFY_OFF => u64::from(self.state.registers.modern.queue_select),
            at::QUEUE_DESC => half(state.descriptors, 0),
            at::QUEUE_DESC_HIGH => half(state.descriptors, 1),
            at::QUEUE_DRIVER => half(state.driver, 0),
            at::QUEUE_DRIVER_HIGH => half(state.driver, 1),
            at::QUEUE_DEVICE => half(state.device, 0),
            at::QUEUE_DEVICE_HIGH => half(state.device, 1),
            at::QUEUE_RESET => {
                u64::from(self.resetting_queues.contains(&usize::from(self.state.registers.modern.queue_select)))
            }
            _ => 0,
        }
    }

    fn write_common(&mut self, offset: u64, value: u64) {
        let modern = &mut self.state.registers.modern;
        match offset {
            at::DEVICE_FEATURE_SELECT => modern.device_feature_select = value as u32,
            at::DRIVER_FEATURE_SELECT => modern.driver_feature_select = value as u32,
            at::DRIVER_FEATURE => {
                if modern.driver_feature_select <= 1 {
                    set_half(&mut modern.driver_features, modern.driver_feature_select == 1, value);
                    let accepted = modern.driver_features;
                    let offered = self.offered() & !features::LEGACY_ONLY;
                    self.state.core.common.accept_features(accepted, offered);
                } else if value != 0 {
                    // Bits that nobody offers.
                    self.state.core.common.state.bad_features = true;
                }
            }
            at::CONFIG_VECTOR => self.state.core.common.state.config_vector = self.accept_vector(value as u16),
            at::STATUS => self.write_status(value as u8),
            at::QUEUE_SELECT => modern.queue_select = value as u16,
            at::QUEUE_VECTOR => {
                let vector = self.accept_vector(value as u16);
                self.with_selected(|queue| queue.set_vector(vector));
            }
            at::QUEUE_SIZE => self.with_selected(|queue| queue.set_size(value as u16)),
            at::QUEUE_ENABLE if value == 1 => self.with_selected(Queue::enable),
            at::QUEUE_RESET if value == 1 => self.reset_selected_queue(),
            _ => self.write_area(offset, value),
        }
    }

    fn write_area(&mut self, offset: u64, value: u64) {
        self.with_selected(|queue| {
            if queue.state().enabled {
                return;
            }
            queue.set_areas(|state| match offset {
                at::QUEUE_DESC => set_half(&mut state.descriptors, false, value),
                at::QUEUE_DESC_HIGH => set_half(&mut state.descriptors, true, value),
                at::QUEUE_DRIVER => set_half(&mut state.driver, false, value),
                at::QUEUE_DRIVER_HIGH => set_half(&mut state.driver, true, value),
                at::QUEUE_DEVICE => set_half(&mut state.device, false, value),
                at::QUEUE_DEVICE_HIGH => set_half(&mut state.device, true, value),
                _ => {}
            });
        });
    }

    fn with_selected(&mut self, change: impl FnOnce(&mut Queue)) {
        if let Some(queue) =
            self.state.core.common.queues.0.get_mut(usize::from(self.state.registers.modern.queue_select))
        {
            change(queue);
        }
    }

    /// A queue's own reset (2.6.1).
    fn reset_selected_queue(&mut self) {
        let queue = usize::from(self.state.registers.modern.queue_select);
        if !self.state.core.common.has(features::RING_RESET) || queue >= self.state.core.common.queues.0.len() {
            return;
        }
        self.state.core.common.reset_queue(queue);
        if self.state.core.common.outstanding(Some(queue)) != 0 && !self.resetting_queues.contains(&queue) {
            self.resetting_queues.push(queue);
        }
    }
}
