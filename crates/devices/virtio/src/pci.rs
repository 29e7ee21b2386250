//! virtio over PCI (virtio 1.2, 4.1): identity, windows and capabilities of QEMU's `virtio-…-pci` functions on a
//! conventional bus or behind a port of PCI Express, interrupts by pin and by MSI-X.
//!
//! | register | what |
//! | --- | --- |
//! | BAR 0 | ports of the legacy interface ([`legacy`]) |
//! | BAR 1 | MSI-X |
//! | BAR 2 | one port for notifications, with `modern-pio-notify` |
//! | BAR 4 | the modern structures ([`modern`]), 64-bit |
//!
//! A reset by the driver is complete when no back end works on the device's requests any more: until then the status
//! does not read as 0, and the reset of a queue not as done (2.1, 2.6.1). Drivers of the legacy interface don't look:
//! their write takes as long, within bounds. Left out: `ACCESS_PLATFORM` (there is no IOMMU), ATS, error reporting.

mod layout;
mod legacy;
mod modern;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, IrqLine, ResetKind};
use devices_pci::config::{command, reg, status as pci_status};
use devices_pci::{ConfigSpace, MsiSink, Msix, PciFunction, Window};
use memory::{DmaView, SpaceKind};
use state::{Field, FieldDescription, LoadError, Reader, Writer};

use self::layout::{CONFIG_DATA, Layout, REGION_PARTS};
pub use self::layout::{Placement, REGION_LEGACY, REGION_MODERN, REGION_MSIX, REGION_NOTIFY_PORT};
use self::legacy::LegacyState;
use self::modern::ModernState;
use crate::device::{Access, Common, Model, status};
use crate::features;
use crate::inspect::Inspect;
use crate::transport::{self, CellAccess, Core, Transport, TransportState};

/// What the user chooses of the transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciOptions {
    /// The legacy interface exists.
    pub legacy: bool,
    /// Behind a port of PCI Express it does not, whatever [`PciOptions::legacy`] says; for who knows the bus.
    pub only_conventional_legacy: bool,
    /// The function is behind a port of PCI Express; for who knows the bus.
    pub is_behind_port: bool,
    /// What it has of PCI Express there.
    pub express: ExpressOptions,
    /// The modern interface exists.
    pub modern: bool,
    /// Interrupt vectors; 0 is no MSI-X. More than 2048 are none, as in QEMU.
    pub vectors: u32,
    /// Notifications have a port, too.
    pub modern_pio_notify: bool,
    /// Each queue's notification register has a page of its own.
    pub page_per_vq: bool,
    /// The function is one of several in its slot.
    pub multifunction: bool,
    /// Where the registers' parts are.
    pub placement: Placement,
    /// The features that all types may have: `INDIRECT`, `EVENT_IDX`, `NOTIFY_ON_EMPTY`, `ANY_LAYOUT`, `RING_PACKED`,
    /// `RING_RESET`.
    pub features: u64,
}

/// What a function has of PCI Express.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpressOptions {
    /// The capability, and 4096 bytes of configuration space.
    pub capability: bool,
    /// The guest chooses which errors are reported.
    pub reports: bool,
    /// The guest has control of the link.
    pub link_control: bool,
    /// The guest chooses the power state.
    pub power_states: bool,
    /// The guest can reset the function.
    pub function_reset: bool,
}

impl Default for ExpressOptions {
    fn default() -> Self {
        Self { capability: true, reports: true, link_control: true, power_states: true, function_reset: true }
    }
}

impl Default for PciOptions {
    fn default() -> Self {
        Self {
            legacy: true,
            only_conventional_legacy: false,
            is_behind_port: false,
            express: ExpressOptions::default(),
            modern: true,
            vectors: 2,
            modern_pio_notify: false,
            page_per_vq: false,
            multifunction: false,
            placement: Placement::Plain,
            features: features::INDIRECT
                | features::EVENT_IDX
                | features::NOTIFY_ON_EMPTY
                | features::ANY_LAYOUT
                | features::RING_RESET,
        }
    }
}

/// What a function is wired to.
pub struct Wiring {
    /// Guest memory.
    pub dma: DmaView,
    /// INTA.
    pub line: IrqLine,
    /// Where messages go.
    pub messages: Arc<dyn MsiSink>,
}

/// A virtio device of type `M` as a PCI function.
pub struct VirtioPci<M: Model> {
    // Fixed configuration.
    layout: Layout,
    // Wiring.
    line: IrqLine,
    messages: Arc<dyn MsiSink>,
    // Guest-visible state.
    state: TransportState<PciRegisters, M>,
    /// Derived: which queues a reset of their own is not complete of.
    resetting_queues: Vec<usize>,
}

/// The guest-visible state of the transport alone.
struct PciRegisters {
    config: ConfigSpace,
    msix: Option<Msix>,
    legacy: LegacyState,
    modern: ModernState,
}

impl Field for PciRegisters {
    fn describe(&self, _name: &str, fields: &mut Vec<FieldDescription>) {
        Field::describe(&self.config, "config", fields);
        if let Some(msix) = &self.msix {
            Field::describe(msix, "msix", fields);
        }
        Field::describe(&self.legacy, "legacy", fields);
        Field::describe(&self.modern, "modern", fields);
    }

    fn put(&self, writer: &mut Writer) {
        self.config.put(writer);
        if let Some(msix) = &self.msix {
            msix.put(writer);
        }
        self.legacy.put(writer);
        self.modern.put(writer);
    }

    fn take(&self, reader: &mut Reader<'_>) -> Result<Self, LoadError> {
        let config = self.config.take(reader).map_err(|error| error.within("config"))?;
        let msix = match &self.msix {
            Some(msix) => Some(msix.take(reader).map_err(|error| error.within("msix"))?),
            None => None,
        };
        let legacy = self.legacy.take(reader).map_err(|error| error.within("legacy"))?;
        let modern = self.modern.take(reader).map_err(|error| error.within("modern"))?;
        Ok(Self { config, msix, legacy, modern })
    }
}

impl transport::Registers for PciRegisters {
    const NAME: &'static str = "virtio-pci";
}

impl<M: Model> Transport for VirtioPci<M> {
    type Model = M;

    fn core(&mut self) -> &mut Core<M> {
        &mut self.state.core
    }

    fn settle(&mut self) {
        self.state.core.settle();
        let common = &mut self.state.core.common;
        self.resetting_queues.retain(|queue| common.outstanding(Some(*queue)) != 0);
        let registers = &mut self.state.registers;
        for vector in std::mem::take(&mut common.pending) {
            if let Some(msix) = &mut registers.msix
                && let Some(message) = msix.raise(&registers.config, usize::from(vector))
            {
                self.messages.deliver(message);
            }
        }
        self.drive_line();
    }

    /// After a reset nobody has switched anything yet.
    fn is_disabled(&self) -> bool {
        self.state.core.common.state.disabled && self.state.registers.config.u16(reg::COMMAND) != 0
    }

    /// Each interface has a selector; that of the one that the driver uses.
    fn queue_select(&self) -> u16 {
        let registers = &self.state.registers;
        let is_modern = self.state.core.common.has(features::VERSION_1);
        if is_modern || registers.legacy.queue_select == 0 {
            registers.modern.queue_select
        } else {
            registers.legacy.queue_select
        }
    }
}

impl<M: Model> VirtioPci<M> {
    /// The function around the model that `build` makes, which gets the way by which its back end comes back.
    pub fn new(options: &PciOptions, wiring: Wiring, build: impl FnOnce(Arc<dyn Access<M>>) -> M) -> DeviceCell<Self> {
        let Wiring { dma, line, messages } = wiring;
        DeviceCell::new_cyclic(|handle| {
            let model = build(Arc::new(CellAccess(handle.clone())));
            let mut transport = options.features;
            transport &= features::INDIRECT
                | features::EVENT_IDX
                | features::NOTIFY_ON_EMPTY
                | features::ANY_LAYOUT
                | features::RING_PACKED
                | features::RING_RESET;
            transport |= if options.modern { features::VERSION_1 } else { 0 };
            // Where there is no legacy interface nobody sees it, but for monitors.
            transport |= features::BAD_FEATURE;
            let (layout, config, msix) = Layout::build(options, model.device_type(), model.config().len());
            let common = Common::new(&model, transport, dma);
            let (legacy, modern) = (LegacyState::default(), ModernState::default());
            let registers = PciRegisters { config, msix, legacy, modern };
            let state = TransportState { registers, core: Core::new(model, common) };
            let mut device = Self { layout, line, messages, state, resetting_queues: Vec::new() };
            device.follow_command();
            device
        })
    }

    /// The windows of a function, for its bus.
    pub fn windows(cell: &DeviceCell<Self>) -> Vec<Window> {
        let device = cell.lock();
        let bars: Vec<_> =
            (0..6).filter_map(|index| device.state.registers.config.bar(index).map(|bar| (index, bar))).collect();
        let layout = device.layout.clone();
        drop(device);
        let memory = |index, offset, len, region| {
            let backing = cell.region(region);
            Window { index, space: SpaceKind::Memory, offset, len, priority: 1, backing }
        };
        let ports = |index, len, backing| {
            let (space, offset, priority) = (SpaceKind::Ports, 0, 1);
            Window { index, space, offset, len, priority, backing }
        };
        let mut windows = Vec::new();
        for (index, bar) in bars {
            if index == layout.modern_bar() && layout.is_shared() {
                let parts = layout.parts().into_iter().zip(REGION_PARTS);
                windows.extend(parts.map(|(part, region)| memory(index, part.offset, part.len, region)));
            } else if index == layout.modern_bar() {
                windows.push(memory(index, 0, bar.size, REGION_MODERN));
            } else if index == layout.msix_bar() {
                windows.push(memory(index, 0, bar.size, REGION_MSIX));
            } else if index == layout.port_bar() {
                windows.push(ports(index, bar.size, cell.region(REGION_NOTIFY_PORT)));
            } else if bar.kind == devices_pci::BarKind::Io {
                // Drivers of the legacy interface don't look whether a reset is complete.
                windows.push(ports(index, bar.size, transport::waiting_region(cell, REGION_LEGACY)));
            }
        }
        windows
    }

    /// The way by which back ends that are connected later come to the device.
    pub fn access(cell: &DeviceCell<Self>) -> Arc<dyn Access<M>> {
        Arc::new(CellAccess(cell.handle()))
    }

    /// The way by which monitors look into the device.
    pub fn inspect(cell: &DeviceCell<Self>) -> Arc<dyn Inspect> {
        Arc::new(cell.clone())
    }

    /// The device type's model.
    pub fn model(&self) -> &M {
        &self.state.core.model
    }

    /// What all types have.
    pub fn common(&self) -> &Common {
        &self.state.core.common
    }

    /// What the device offers.
    fn offered(&self) -> u64 {
        self.state.core.offered()
    }

    fn uses_msix(&self) -> bool {
        self.state.registers.msix.as_ref().is_some_and(|msix| msix.is_enabled(&self.state.registers.config))
    }

    /// The level of the pin follows the interrupt status, unless messages take its place.
    fn level(&mut self) -> bool {
        let pending = self.state.core.common.state.isr != 0 && !self.uses_msix();
        self.state.registers.config.store_bits_u16(reg::STATUS, pci_status::INTERRUPT, pending);
        pending && self.state.registers.config.is_intx_enabled()
    }

    fn drive_line(&mut self) {
        let level = self.level();
        self.line.set(level);
    }

    /// A read of the interrupt status takes it away.
    fn take_isr(&mut self) -> u8 {
        let isr = std::mem::take(&mut self.state.core.common.state.isr);
        self.drive_line();
        isr
    }

    /// The status as the driver sees it.
    fn shown_status(&self) -> u8 {
        self.state.core.shown_status()
    }

    fn write_status(&mut self, value: u8) {
        if value == 0 {
            self.reset_device();
            return;
        }
        self.state.core.set_status(value);
        self.settle();
    }

    /// A reset by the driver.
    fn reset_device(&mut self) {
        self.state.registers.legacy = LegacyState::default();
        self.state.registers.modern = ModernState::default();
        self.state.core.reset();
        self.resetting_queues.clear();
        self.settle();
    }

    fn notify(&mut self, queue: usize) {
        if self.state.core.notify(queue) {
            self.settle();
        }
    }

    /// A vector that the driver chose: one that does not exist is none.
    fn accept_vector(&self, vector: u16) -> u16 {
        let exists = self.state.registers.msix.as_ref().is_some_and(|msix| usize::from(vector) < msix.vectors());
        if exists { vector } else { crate::queue::NO_VECTOR }
    }

    /// The command register may have changed.
    fn follow_command(&mut self) {
        let is_master = self.state.registers.config.is_bus_master();
        let common = &mut self.state.core.common;
        common.state.disabled = !is_master;
        if !is_master {
            common.state.status &= !status::DRIVER_OK;
        }
    }

    fn deliver_unmasked(&mut self) {
        if let Some(msix) = &mut self.state.registers.msix {
            for message in msix.take_unmasked(&self.state.registers.config) {
                self.messages.deliver(message);
            }
        }
        self.drive_line();
    }

    /// Drivers of Linux before 2.6.34 never set the bus master bit: a legacy driver that begins gets it.
    fn set_bus_master(&mut self) {
        self.state.registers.config.store_bits_u16(reg::COMMAND, command::MASTER, true);
        self.follow_command();
    }
}

impl<M: Model> Device for VirtioPci<M> {
    fn reset(&mut self, _kind: ResetKind) {
        self.state.registers.config.reset();
        if let Some(msix) = &mut self.state.registers.msix {
            msix.reset();
        }
        self.reset_device();
        self.state.core.end_reset();
        self.follow_command();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        self.resetting_queues.clear();
        self.state.core.restored();
        let level = self.level();
        self.line.restore(level);
        self.settle();
    }
}

impl<M: Model> PciFunction for VirtioPci<M> {
    fn config(&self) -> &ConfigSpace {
        &self.state.registers.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.state.registers.config
    }

    fn read_config(&mut self, offset: u8, size: AccessSize) -> u32 {
        if self.layout.covers_config_data(offset, size) {
            self.read_through_window();
        }
        self.state.registers.config.read(offset, size)
    }

    fn write_config(&mut self, offset: u8, size: AccessSize, value: u32) {
        let config = &mut self.state.registers.config;
        config.write(offset, size, value);
        if self.layout.express.is_some_and(|express| express.takes_reset(config, (offset, size, value))) {
            self.reset(ResetKind::Warm);
            return;
        }
        self.follow_command();
        if self.layout.covers_config_data(offset, size) {
            self.write_through_window();
        }
        self.deliver_unmasked();
    }
}

/// The window of capability `VIRTIO_PCI_CAP_PCI_CFG` (4.1.4.9): accesses to the modern structures by configuration
/// accesses alone.
impl<M: Model> VirtioPci<M> {
    /// Offset and size of the access that the driver described, if it is one.
    fn window_access(&self) -> Option<(u64, AccessSize)> {
        let at = self.layout.config_access?;
        let config = &self.state.registers.config;
        let size = match config.u32(at + 12) {
            1 => AccessSize::Byte,
            2 => AccessSize::Word,
            4 => AccessSize::Dword,
            _ => return None,
        };
        let offset = u64::from(config.u32(at + 8));
        let is_inside =
            usize::from(config.u8(at + 4)) == self.layout.modern_bar() && offset.is_multiple_of(size.bytes() as u64);
        self.layout.find(offset).filter(|_| is_inside).map(|offset| (offset, size))
    }

    fn read_through_window(&mut self) {
        let (Some((offset, size)), Some(at)) = (self.window_access(), self.layout.config_access) else { return };
        let value = self.read_modern(offset, size);
        for (index, byte) in value.to_le_bytes()[..size.bytes()].iter().enumerate() {
            self.state.registers.config.store_u8(at + CONFIG_DATA + index as u8, *byte);
        }
    }

    fn write_through_window(&mut self) {
        let (Some((offset, size)), Some(at)) = (self.window_access(), self.layout.config_access) else { return };
        let value = u64::from(self.state.registers.config.u32(at + CONFIG_DATA)) & size.mask();
        self.write_modern(offset, size, value);
    }
}

impl<M: Model> IoDevice for VirtioPci<M> {
    fn access_sizes(&self, region: usize) -> (AccessSize, AccessSize) {
        match region {
            REGION_MSIX => (AccessSize::Dword, AccessSize::Qword),
            _ => (AccessSize::Byte, AccessSize::Dword),
        }
    }

    fn read(&mut self, region: usize, offset: u64, size: AccessSize) -> u64 {
        let (region, offset) = canonical(region, offset);
        match region {
            REGION_LEGACY => self.read_legacy(offset, size),
            REGION_MSIX => self.state.registers.msix.as_ref().map_or(0, |msix| msix.read_window(offset, size)),
            REGION_MODERN => self.read_modern(offset, size),
            _ => 0,
        }
    }

    fn write(&mut self, region: usize, offset: u64, size: AccessSize, value: u64) {
        let (region, offset) = canonical(region, offset);
        match region {
            REGION_LEGACY => self.write_legacy(offset, size, value),
            // Narrower writes than the table's words have no meaning.
            REGION_MSIX if size >= AccessSize::Dword => {
                if let Some(msix) = &mut self.state.registers.msix {
                    msix.write_window(offset, size, value);
                }
                self.deliver_unmasked();
            }
            REGION_NOTIFY_PORT => self.notify(value as u16 as usize),
            REGION_MODERN => self.write_modern(offset, size, value),
            _ => {}
        }
    }
}

/// The region of the modern structures, for those that are one of its parts.
fn canonical(region: usize, offset: u64) -> (usize, u64) {
    const STARTS: [u64; 4] = [layout::COMMON_AT, layout::ISR_AT, layout::DEVICE_AT, layout::NOTIFY_AT];
    match REGION_PARTS.iter().position(|part| *part == region) {
        Some(part) => (REGION_MODERN, STARTS[part] + offset),
        None => (region, offset),
    }
}
