//! AHCI 1.3.1: the ICH9's controller with six ports (Intel 316972, chapter 14), as QEMU configures it.
//!
//! The host bus adapter's own registers, its interrupt and its PCI side are here, a port is in [`mod@port`]. Left out:
//! port multipliers, FIS-based switching, command completion coalescing, enclosure management, power states of the
//! link (all of them are not announced).

mod port;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use device::disk::{Disk, DiskError};
use device::{AccessSize, Device, DeviceCell, DeviceState, Handle, IoDevice, IrqLine, ResetKind};
use devices_pci::bus::{PciFunction, Window};
use devices_pci::capability::Msi;
use devices_pci::config::{Bar, BarKind, ConfigSpace, Identity, reg, status};
use devices_pci::{MsiMessage, MsiSink};
use memory::{DmaView, SpaceKind};
use state::State;

use self::port::{Port, PortHost, PortState, Ticket};
use crate::drive::{Drive, DriveHost, DriveOptions};
use crate::events::{DriveAccess, DriveEvents};

/// Ports of the ICH9.
pub const PORTS: usize = 6;

/// Region 0: the registers in memory.
const REGION_MEMORY: usize = 0;
/// Region 1: the pair of index and data ports.
const REGION_INDEX: usize = 1;

const MEMORY_BAR: usize = 5;
const MEMORY_LEN: u64 = 0x1000;
const INDEX_BAR: usize = 4;
const INDEX_LEN: u64 = 32;
const PORT_REGISTERS: u64 = 0x100;
const PORT_LEN: u64 = 0x80;

/// Six ports, 32 command slots, 1.5 Gb/s, AHCI only, native command queuing, 64-bit addresses.
const CAPABILITIES: u32 = 0xc014_1f05;
const VERSION: u32 = 0x0001_0000;

/// Bits of global HBA control.
mod ghc {
    pub const RESET: u32 = 1;
    pub const INTERRUPTS: u32 = 1 << 1;
    pub const AHCI: u32 = 1 << 31;
}

/// The guest-visible state.
#[derive(Clone, Debug, State)]
#[state(name = "ich9_ahci", version = 1)]
struct AhciState {
    config: ConfigSpace,
    control: u32,
    /// Ports that want an interrupt.
    interrupts: u32,
    index: u32,
    ports: [PortState; PORTS],
}

/// The controller.
pub struct Ahci {
    // Fixed configuration.
    msi: Msi,
    // Wiring and host resources.
    irq: IrqLine,
    messages: Arc<dyn MsiSink>,
    ports: [PortHost; PORTS],
    handle: Handle<Self>,
    // Guest-visible state.
    state: AhciState,
}

/// Takes the result of a request of a port.
type Completion = Arc<dyn Fn(Ticket, Result<(), DiskError>) + Send + Sync>;

impl Ahci {
    /// A controller without drives.
    pub fn new(irq: IrqLine, messages: Arc<dyn MsiSink>, dma: &DmaView) -> DeviceCell<Self> {
        let identity = Identity { vendor: 0x8086, device: 0x2922, revision: 2, class: 0x0106, prog_if: 1 };
        let mut config = ConfigSpace::new(&identity);
        config.set_u16(reg::STATUS, status::CAPABILITIES);
        config.set_interrupt_pin(1);
        // The address map: AHCI mode.
        config.set_u8(0x90, 1 << 6);
        config.add_bar(INDEX_BAR, Bar { kind: BarKind::Io, size: INDEX_LEN });
        config.add_bar(MEMORY_BAR, Bar { kind: BarKind::Memory32, size: MEMORY_LEN });
        // Where the index and data ports are: at 16 in register 4.
        config.add_capability(0x12, 0xa8, 8);
        config.set_u16(0xaa, 0x10);
        config.set_u32(0xac, (INDEX_BAR as u32 + 4) | 4 << 4);
        let msi = Msi::add(&mut config, 0x80, 0);
        DeviceCell::new_cyclic(|handle: &Handle<Self>| {
            let ports = std::array::from_fn(|index| PortHost::new(dma.clone(), completion(handle, index)));
            let state = AhciState {
                config,
                control: ghc::AHCI,
                interrupts: 0,
                index: 0,
                ports: std::array::from_fn(|_| PortState::default()),
            };
            let mut ahci = Self { msi, irq, messages, ports, handle: handle.clone(), state };
            ahci.reset_ports();
            ahci
        })
    }

    /// Connects a drive to a port.
    pub fn connect(&mut self, port: usize, options: DriveOptions, disk: Arc<dyn Disk>) {
        let handle = self.handle.clone();
        let access: DriveAccess = Arc::new(move |visit: &mut dyn FnMut(&mut Drive<'_>)| {
            handle.with(|ahci| {
                if let Some(mut drive) = ahci.port(port).as_mut().and_then(Port::drive) {
                    visit(&mut drive);
                }
            });
        });
        let events = DriveEvents::register(&*disk, options.kind, access);
        if let Some(host) = self.ports.get_mut(port) {
            host.connect(DriveHost::new(options, disk, true), events);
        }
        if let Some(mut port) = self.port(port) {
            port.reset();
        }
    }

    /// Where its registers are.
    pub fn windows(cell: &DeviceCell<Self>) -> Vec<Window> {
        let window = |index, space, len, region| Window {
            index,
            space,
            offset: 0,
            len,
            priority: 1,
            backing: cell.region(region),
        };
        vec![
            window(MEMORY_BAR, SpaceKind::Memory, MEMORY_LEN, REGION_MEMORY),
            window(INDEX_BAR, SpaceKind::Ports, INDEX_LEN, REGION_INDEX),
        ]
    }

    fn port(&mut self, index: usize) -> Option<Port<'_>> {
        let is_bus_master = self.state.config.is_bus_master();
        Some(Port { host: self.ports.get_mut(index)?, state: self.state.ports.get_mut(index)?, is_bus_master })
    }

    fn reset_ports(&mut self) {
        for index in 0..PORTS {
            if let Some(mut port) = self.port(index) {
                port.reset();
            }
        }
    }

    // ---- Interrupts ----

    fn level(&self) -> bool {
        self.state.control & ghc::INTERRUPTS != 0 && self.state.interrupts != 0
    }

    /// Follows what the ports want. A message is sent for whatever is new.
    fn update_interrupt(&mut self) {
        let mut is_new = false;
        for (index, port) in self.state.ports.iter_mut().enumerate() {
            is_new |= port.take_news();
            if port.wants_interrupt() {
                self.state.interrupts |= 1 << index;
            }
        }
        let level = self.level();
        if !self.msi.is_enabled(&self.state.config) {
            let is_enabled = self.state.config.is_intx_enabled();
            self.irq.set(level && is_enabled);
            return;
        }
        self.irq.set(false);
        if level && is_new {
            let message: Option<MsiMessage> = self.msi.message(&self.state.config, 0);
            if let Some(message) = message {
                self.messages.deliver(message);
            }
        }
    }

    // ---- Registers ----

    fn read_register(&mut self, offset: u64) -> u32 {
        match offset {
            0x00 => CAPABILITIES,
            0x04 => self.state.control,
            0x08 => self.state.interrupts,
            0x0c => (1 << PORTS) - 1,
            0x10 => VERSION,
            _ => {
                let Some(inside) = offset.checked_sub(PORT_REGISTERS) else { return 0 };
                let port = self.port((inside / PORT_LEN) as usize);
                port.map_or(0, |mut port| port.read(inside % PORT_LEN))
            }
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            0x04 if value & ghc::RESET != 0 => {
                (self.state.control, self.state.interrupts) = (ghc::AHCI, 0);
                self.reset_ports();
            }
            0x04 => self.state.control = (value & ghc::INTERRUPTS) | ghc::AHCI,
            0x08 => self.state.interrupts &= !value,
            _ => {
                if let Some(inside) = offset.checked_sub(PORT_REGISTERS)
                    && let Some(mut port) = self.port((inside / PORT_LEN) as usize)
                {
                    port.write(inside % PORT_LEN, value);
                }
            }
        }
        self.update_interrupt();
    }
}

fn completion(handle: &Handle<Ahci>, index: usize) -> Completion {
    let handle = handle.clone();
    Arc::new(move |ticket, result| {
        handle.with(|ahci| {
            if let Some(mut port) = ahci.port(index) {
                port.complete(ticket, result);
            }
            ahci.update_interrupt();
        });
    })
}

impl Device for Ahci {
    fn reset(&mut self, _kind: ResetKind) {
        self.state.config.reset();
        (self.state.control, self.state.interrupts, self.state.index) = (ghc::AHCI, 0, 0);
        self.reset_ports();
        self.update_interrupt();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        let is_pin = !self.msi.is_enabled(&self.state.config) && self.state.config.is_intx_enabled();
        let level = self.level() && is_pin;
        self.irq.restore(level);
        for index in 0..PORTS {
            if let Some(mut port) = self.port(index) {
                port.restored();
            }
        }
        self.update_interrupt();
    }
}

impl PciFunction for Ahci {
    fn config(&self) -> &ConfigSpace {
        &self.state.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.state.config
    }

    fn write_config(&mut self, offset: u8, size: AccessSize, value: u32) {
        self.state.config.write(offset, size, value);
        self.update_interrupt();
    }
}

impl IoDevice for Ahci {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Dword)
    }

    fn read(&mut self, region: usize, offset: u64, size: AccessSize) -> u64 {
        if region == REGION_INDEX {
            return match offset {
                0x10 => u64::from(self.state.index),
                0x14 => u64::from(self.read_register(u64::from(self.state.index))),
                _ => 0,
            };
        }
        let value = u64::from(self.read_register(offset & !3));
        value >> (8 * (offset & 3)) & size.mask()
    }

    fn write(&mut self, region: usize, offset: u64, size: AccessSize, value: u64) {
        if region == REGION_INDEX {
            match offset {
                0x10 => self.state.index = value as u32 & (MEMORY_LEN as u32 - 4),
                0x14 => self.write_register(u64::from(self.state.index), value as u32),
                _ => {}
            }
        } else if size == AccessSize::Dword && offset & 3 == 0 {
            // Registers are written as a whole (AHCI, 3).
            self.write_register(offset, value as u32);
        }
    }
}
