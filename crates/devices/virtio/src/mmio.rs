//! virtio over MMIO (virtio 1.2, 4.2): a page of registers and one interrupt. One transport has either the legacy
//! interface (version 1, 4.2.4) or the modern one (version 2), as QEMU's property `force-legacy` says.
//!
//! A transport without a device ([`Empty`]) shows the magic number and device 0, which drivers pass by (4.2.2.2).
//! Registers have 32 bits; the configuration behind them is accessed in any size. A reset by the driver is complete when
//! no back end works on the device's requests any more: drivers of this transport don't look, so the write takes as
//! long, within bounds. Left out: shared memory regions.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, IrqLine, ResetKind};
use memory::{Backing, DmaView};
use state::State;

use crate::device::{Access, Common, Model, status};
use crate::features;
use crate::inspect::Inspect;
use crate::queue::Queue;
use crate::transport::{self, CellAccess, Core, Transport, TransportState, read_bytes};

/// Bytes of a transport's registers.
pub const LEN: u64 = 0x200;
/// `virt`, little-endian.
const MAGIC: u64 = 0x7472_6976;
/// QEMU's vendor id.
const VENDOR: u64 = 0x554d_4551;
/// Used rings begin at pages of 4 KiB unless the driver says otherwise.
const PAGE_SHIFT: u8 = 12;
/// Where the device's configuration begins.
const CONFIG: u64 = 0x100;

/// Offsets of the registers (4.2.2, 4.2.4).
mod at {
    pub const MAGIC: u64 = 0x00;
    pub const VERSION: u64 = 0x04;
    pub const DEVICE_ID: u64 = 0x08;
    pub const VENDOR_ID: u64 = 0x0c;
    pub const DEVICE_FEATURES: u64 = 0x10;
    pub const DEVICE_FEATURES_SELECT: u64 = 0x14;
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_SELECT: u64 = 0x24;
    /// Legacy.
    pub const GUEST_PAGE_SIZE: u64 = 0x28;
    pub const QUEUE_SELECT: u64 = 0x30;
    pub const QUEUE_SIZE_MAX: u64 = 0x34;
    pub const QUEUE_SIZE: u64 = 0x38;
    /// Legacy.
    pub const QUEUE_ALIGN: u64 = 0x3c;
    /// Legacy.
    pub const QUEUE_PFN: u64 = 0x40;
    pub const QUEUE_READY: u64 = 0x44;
    pub const QUEUE_NOTIFY: u64 = 0x50;
    pub const INTERRUPT_STATUS: u64 = 0x60;
    pub const INTERRUPT_ACK: u64 = 0x64;
    pub const STATUS: u64 = 0x70;
    pub const QUEUE_DESC_LOW: u64 = 0x80;
    pub const QUEUE_DESC_HIGH: u64 = 0x84;
    pub const QUEUE_DRIVER_LOW: u64 = 0x90;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x94;
    pub const QUEUE_DEVICE_LOW: u64 = 0xa0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0xa4;
    pub const SHM_LEN_LOW: u64 = 0xb0;
    pub const SHM_LEN_HIGH: u64 = 0xb4;
    pub const CONFIG_GENERATION: u64 = 0xfc;
}

/// Which of the two interfaces a transport has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// Version 1.
    Legacy,
    /// Version 2.
    Modern,
}

impl Interface {
    fn version(self) -> u64 {
        match self {
            Self::Legacy => 1,
            Self::Modern => 2,
        }
    }
}

/// What a transport is wired to.
pub struct Wiring {
    /// Guest memory.
    pub dma: DmaView,
    /// The interrupt.
    pub line: IrqLine,
}

/// The guest-visible state of the transport alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "virtio-mmio/registers", version = 1)]
struct Registers {
    is_high_device_features: bool,
    is_high_driver_features: bool,
    /// Modern: what the driver wrote, before it says that it is all.
    driver_features: u64,
    queue_select: u16,
    /// Legacy: the logarithm of the guest's page size.
    page_shift: u8,
    /// Legacy: the logarithms of where used rings begin, by queue.
    #[state(max_len = 1024)]
    aligns: Vec<u8>,
}

impl transport::Registers for Registers {
    const NAME: &'static str = "virtio-mmio";
}

/// A virtio device of type `M` behind a transport.
pub struct VirtioMmio<M: Model> {
    // Fixed configuration.
    interface: Interface,
    // Wiring.
    line: IrqLine,
    // Guest-visible state.
    state: TransportState<Registers, M>,
}

impl<M: Model> Transport for VirtioMmio<M> {
    type Model = M;

    fn core(&mut self) -> &mut Core<M> {
        &mut self.state.core
    }

    fn settle(&mut self) {
        self.state.core.settle();
        // There are no vectors.
        self.state.core.common.pending.clear();
        self.drive_line();
    }

    fn queue_select(&self) -> u16 {
        self.state.registers.queue_select
    }

    fn queue_align(&self, queue: usize) -> u32 {
        let align = self.state.registers.aligns.get(queue).copied().unwrap_or(PAGE_SHIFT);
        1_u32.checked_shl(align.into()).unwrap_or(0)
    }
}

impl<M: Model> VirtioMmio<M> {
    /// The transport around the model that `build` makes, which gets the way by which its back end comes back.
    /// `features` are those that all types may have, as of [`crate::pci::PciOptions::features`].
    pub fn new(
        interface: Interface,
        features: u64,
        Wiring { dma, line }: Wiring,
        build: impl FnOnce(Arc<dyn Access<M>>) -> M,
    ) -> DeviceCell<Self> {
        const POSSIBLE: u64 = features::INDIRECT
            | features::EVENT_IDX
            | features::NOTIFY_ON_EMPTY
            | features::ANY_LAYOUT
            | features::RING_PACKED;
        DeviceCell::new_cyclic(|handle| {
            let model = build(Arc::new(CellAccess(handle.clone())));
            let version = if interface == Interface::Modern { features::VERSION_1 } else { 0 };
            let common = Common::new(&model, features & POSSIBLE | version, dma);
            let state = TransportState { registers: Registers::default(), core: Core::new(model, common) };
            let mut device = Self { interface, line, state };
            device.clear_registers();
            device
        })
    }

    /// The registers, to be mapped.
    pub fn window(cell: &DeviceCell<Self>) -> Backing {
        transport::waiting_region(cell, 0)
    }

    /// The way by which back ends that are connected later come to the device.
    pub fn access(cell: &DeviceCell<Self>) -> Arc<dyn Access<M>> {
        Arc::new(CellAccess(cell.handle()))
    }

    /// The way by which monitors look into the device.
    pub fn inspect(cell: &DeviceCell<Self>) -> Arc<dyn Inspect> {
        Arc::new(cell.clone())
    }

    fn is_legacy(&self) -> bool {
        self.interface == Interface::Legacy
    }

    fn clear_registers(&mut self) {
        let queues = self.state.core.common.queues.0.len();
        self.state.registers = Registers { aligns: vec![PAGE_SHIFT; queues], ..Registers::default() };
    }

    /// What the device offers through its interface.
    fn offered(&self) -> u64 {
        let all = self.state.core.offered();
        if self.is_legacy() { all & 0xffff_ffff } else { all & !features::LEGACY_ONLY }
    }

    fn drive_line(&mut self) {
        let level = self.state.core.common.state.isr != 0;
        self.line.set(level);
    }

    fn selected(&mut self) -> Option<&mut Queue> {
        self.state.core.common.queues.0.get_mut(usize::from(self.state.registers.queue_select))
    }

    fn write_status(&mut self, value: u8) {
        if value == 0 {
            self.reset_device();
            return;
        }
        let old = self.state.core.common.state.status;
        if value & !old & status::FEATURES_OK != 0 && !self.is_legacy() {
            let (accepted, offered) = (self.state.registers.driver_features, self.offered());
            self.state.core.common.accept_features(accepted, offered);
        }
        self.state.core.set_status(value);
        self.settle();
    }

    /// A reset by the driver: the registers that choose what others mean stay.
    fn reset_device(&mut self) {
        self.state.registers.driver_features = 0;
        self.state.registers.queue_select = 0;
        self.state.core.reset();
        self.settle();
    }

    fn notify(&mut self, queue: usize) {
        if self.state.core.notify(queue) {
            self.settle();
        }
    }

    /// Legacy: the areas of a queue follow from its page; 0 resets the device, as QEMU does.
    fn write_page(&mut self, page: u64) {
        if page == 0 {
            self.reset_device();
            return;
        }
        let registers = &self.state.registers;
        let align = registers.aligns.get(usize::from(registers.queue_select)).copied().unwrap_or(PAGE_SHIFT);
        let shift = registers.page_shift;
        let Some(queue) = self.selected() else { return };
        let size = u64::from(queue.state().size);
        // Both factors have 32 bits at most.
        let descriptors = page << shift;
        let driver = descriptors.wrapping_add(16 * size);
        let end = driver.wrapping_add(4 + 2 * size);
        let device = end.checked_next_multiple_of(1 << align).unwrap_or(end);
        queue.set_areas(|state| (state.descriptors, state.driver, state.device) = (descriptors, driver, device));
        queue.enable();
    }

    fn write_ready(&mut self, ready: bool) {
        let select = usize::from(self.state.registers.queue_select);
        if !ready {
            self.state.core.common.reset_queue(select);
        } else if let Some(queue) = self.selected() {
            queue.enable();
        }
    }

    /// One half of the address of an area.
    fn write_area(&mut self, offset: u64, value: u64) {
        let Some(queue) = self.selected().filter(|queue| !queue.state().enabled) else { return };
        let half = |old: u64, is_high: bool| {
            if is_high { old & 0xffff_ffff | value << 32 } else { old & !0xffff_ffff | value }
        };
        queue.set_areas(|state| match offset {
            at::QUEUE_DESC_LOW | at::QUEUE_DESC_HIGH => {
                state.descriptors = half(state.descriptors, offset == at::QUEUE_DESC_HIGH);
            }
            at::QUEUE_DRIVER_LOW | at::QUEUE_DRIVER_HIGH => {
                state.driver = half(state.driver, offset == at::QUEUE_DRIVER_HIGH);
            }
            _ => state.device = half(state.device, offset == at::QUEUE_DEVICE_HIGH),
        });
    }

    fn read_register(&mut self, offset: u64) -> u64 {
        let is_legacy = self.is_legacy();
        let registers = &self.state.registers;
        match offset {
            at::MAGIC => MAGIC,
            at::VERSION => self.interface.version(),
            at::DEVICE_ID => u64::from(self.state.core.model.device_type().id),
            at::VENDOR_ID => VENDOR,
            at::DEVICE_FEATURES if registers.is_high_device_features => self.offered() >> 32,
            at::DEVICE_FEATURES => self.offered() & 0xffff_ffff,
            at::QUEUE_SIZE_MAX => self.selected().map_or(0, |queue| u64::from(queue.max_size())),
            at::QUEUE_PFN if is_legacy => {
                let shift = registers.page_shift;
                self.selected().map_or(0, |queue| queue.state().descriptors >> shift & 0xffff_ffff)
            }
            at::QUEUE_READY if !is_legacy => self.selected().map_or(0, |queue| u64::from(queue.state().enabled)),
            at::INTERRUPT_STATUS => u64::from(self.state.core.common.state.isr),
            at::STATUS => u64::from(self.state.core.shown_status()),
            at::CONFIG_GENERATION if !is_legacy => u64::from(self.state.core.common.state.generation),
            // There is no shared memory.
            at::SHM_LEN_LOW | at::SHM_LEN_HIGH => 0xffff_ffff,
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u64) {
        let is_legacy = self.is_legacy();
        let registers = &mut self.state.registers;
        match offset {
            at::DEVICE_FEATURES_SELECT => registers.is_high_device_features = value != 0,
            at::DRIVER_FEATURES_SELECT => registers.is_high_driver_features = value != 0,
            at::DRIVER_FEATURES if !is_legacy => {
                let old = registers.driver_features;
                registers.driver_features = if registers.is_high_driver_features {
                    old & 0xffff_ffff | value << 32
                } else {
                    old >> 32 << 32 | value
                };
            }
            at::DRIVER_FEATURES if !registers.is_high_driver_features => {
                let offered = self.offered();
                self.state.core.common.accept_features(value, offered);
            }
            at::GUEST_PAGE_SIZE if is_legacy => {
                registers.page_shift = Some(value.trailing_zeros()).filter(|shift| *shift <= 31).unwrap_or(0) as u8;
            }
            at::QUEUE_SELECT if value < u64::from(crate::queue::MAX_SIZE) => registers.queue_select = value as u16,
            at::QUEUE_SIZE => {
                if let Some(queue) = self.selected() {
                    queue.set_size(u16::try_from(value).unwrap_or(0));
                }
            }
            at::QUEUE_ALIGN if is_legacy && (value as u32).is_power_of_two() => {
                if let Some(align) = registers.aligns.get_mut(usize::from(registers.queue_select)) {
                    *align = value.trailing_zeros() as u8;
                }
            }
            at::QUEUE_PFN if is_legacy => self.write_page(value),
            at::QUEUE_READY if !is_legacy => self.write_ready(value != 0),
            at::QUEUE_NOTIFY => self.notify(value as usize),
            at::INTERRUPT_ACK => {
                self.state.core.common.state.isr &= !(value as u8);
                self.drive_line();
            }
            at::STATUS => self.write_status(value as u8),
            at::QUEUE_DESC_LOW
            | at::QUEUE_DESC_HIGH
            | at::QUEUE_DRIVER_LOW
            | at::QUEUE_DRIVER_HIGH
            | at::QUEUE_DEVICE_LOW
            | at::QUEUE_DEVICE_HIGH
                if !is_legacy =>
            {
                self.write_area(offset, value);
            }
            _ => {}
        }
    }
}

impl<M: Model> Device for VirtioMmio<M> {
    fn reset(&mut self, _kind: ResetKind) {
        self.reset_device();
        self.state.core.end_reset();
        self.clear_registers();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        let queues = self.state.core.common.queues.0.len();
        // A hostile stream could have another number of them, or what is no alignment.
        self.state.registers.aligns.resize(queues, PAGE_SHIFT);
        self.state.registers.aligns.iter_mut().for_each(|align| *align &= 31);
        self.state.registers.page_shift &= 31;
        self.state.core.restored();
        let level = self.state.core.common.state.isr != 0;
        self.line.restore(level);
        self.settle();
    }
}

impl<M: Model> IoDevice for VirtioMmio<M> {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Dword)
    }

    fn read(&mut self, _region: usize, offset: u64, size: AccessSize) -> u64 {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            return read_bytes(&self.state.core.model.config(), offset, size);
        }
        if size == AccessSize::Dword { self.read_register(offset) } else { 0 }
    }

    fn write(&mut self, _region: usize, offset: u64, size: AccessSize, value: u64) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            let bytes = &value.to_le_bytes()[..size.bytes()];
            let core = &mut self.state.core;
            core.model.write_config(&mut core.common, offset as usize, bytes);
            self.settle();
        } else if size == AccessSize::Dword {
            self.write_register(offset, value & 0xffff_ffff);
        }
    }
}

/// A transport that nothing is connected to.
pub struct Empty {
    interface: Interface,
}

impl Empty {
    /// One that shows the version of that interface.
    pub fn new(interface: Interface) -> DeviceCell<Self> {
        DeviceCell::new(Self { interface })
    }
}

impl Device for Empty {
    fn reset(&mut self, _kind: ResetKind) {}

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::Empty
    }

    fn restored(&mut self) {}
}

impl IoDevice for Empty {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Dword)
    }

    fn read(&mut self, _region: usize, offset: u64, size: AccessSize) -> u64 {
        let value = match offset {
            at::MAGIC => MAGIC,
            at::VERSION => self.interface.version(),
            at::VENDOR_ID => VENDOR,
            _ => 0,
        };
        value & size.mask()
    }

    fn write(&mut self, _region: usize, _offset: u64, _size: AccessSize, _value: u64) {}
}
