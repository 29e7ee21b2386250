//! Identity, base address registers and capabilities, where QEMU has them.

use device::AccessSize;
use devices_pci::config::reg;
use devices_pci::express::{self, Express, Kind, Link};
use devices_pci::{Bar, BarKind, ConfigSpace, Identity, Msix};

use super::PciOptions;
use crate::device::DeviceType;
use crate::queue::MAX_SIZE;

/// The legacy ports.
pub const REGION_LEGACY: usize = 0;
/// MSI-X.
pub const REGION_MSIX: usize = 1;
/// The port for notifications.
pub const REGION_NOTIFY_PORT: usize = 2;
/// The modern structures.
pub const REGION_MODERN: usize = 4;

/// Structures of the modern register.
pub const COMMON_AT: u64 = 0;
pub const ISR_AT: u64 = 0x1000;
pub const DEVICE_AT: u64 = 0x2000;
pub const NOTIFY_AT: u64 = 0x3000;
const STRUCTURE_LEN: u64 = 0x1000;

/// Where the data is in the capability that gives access to the structures.
pub const CONFIG_DATA: u8 = 16;

const VENDOR: u16 = 0x1af4;
const MODERN_DEVICE_BASE: u16 = 0x1040;
const CAPABILITY_VENDOR: u8 = 9;

/// Types of virtio's capabilities (4.1.4).
mod kind {
    pub const COMMON: u8 = 1;
    pub const NOTIFY: u8 = 2;
    pub const ISR: u8 = 3;
    pub const DEVICE: u8 = 4;
    pub const PCI: u8 = 5;
}

/// Bytes of the legacy header, with and without the vectors' registers.
pub const LEGACY_HEADER: u64 = 20;
pub const LEGACY_HEADER_MSIX: u64 = 24;

/// Parts of the modern register as regions of their own, in the order of [`Layout::parts`].
pub const REGION_PARTS: [usize; 4] = [8, 9, 10, 11];

/// Where the register's parts are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// As all virtio functions have them.
    #[default]
    Plain,
    /// Behind the registers of a VGA, which have the beginning of BAR 2; BAR 0 is its video memory.
    BesideVga,
}

/// A part of the modern register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it is in the register.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// Where this model has it: [`COMMON_AT`] and so on.
    pub at: u64,
}

/// Where things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    placement: Placement,
    page_per_vq: bool,
    /// Bytes between the notification registers of two queues.
    pub notify_multiplier: u32,
    /// The capability that gives access to the structures.
    pub config_access: Option<u8>,
    /// The capability of PCI Express.
    pub express: Option<Express>,
}

impl Layout {
    /// Builds a function's configuration space.
    pub fn build(options: &PciOptions, kind: DeviceType, config_len: usize) -> (Self, ConfigSpace, Option<Msix>) {
        let (device, revision) =
            if options.legacy { (kind.transitional_pci_id, 0) } else { (MODERN_DEVICE_BASE + kind.id, 1) };
        let identity = Identity { vendor: VENDOR, device, revision, class: kind.pci_class, prog_if: 0 };
        let mut config = ConfigSpace::new(&identity);
        config.set_u16(reg::SUBSYSTEM_VENDOR, VENDOR);
        if options.legacy {
            config.set_u16(reg::SUBSYSTEM, kind.id);
        }
        config.set_interrupt_pin(1);
        if options.multifunction {
            config.set_multifunction();
        }
        let mut layout = Self {
            placement: options.placement,
            page_per_vq: options.page_per_vq,
            notify_multiplier: if options.page_per_vq { 4096 } else { 4 },
            config_access: None,
            express: None,
        };
        let mut free = 0x40;
        if options.is_behind_port && options.express.capability {
            layout.add_express(&mut config, options, &mut free);
        }
        if options.modern {
            layout.add_modern(&mut config, options, &mut free);
        }
        let vectors = usize::try_from(options.vectors).ok().filter(|vectors| (1..=2048).contains(vectors));
        let msix = vectors.map(|vectors| Msix::add_with_bar(&mut config, free, vectors, layout.msix_bar() as u8));
        if options.legacy {
            let header = if msix.is_some() { LEGACY_HEADER_MSIX } else { LEGACY_HEADER };
            let size = (header + config_len as u64).next_power_of_two();
            config.add_bar(REGION_LEGACY, Bar { kind: BarKind::Io, size });
        }
        (layout, config, msix)
    }

    /// Bytes of the modern register.
    pub fn modern_len(&self) -> u64 {
        (NOTIFY_AT + self.notify_len()).next_power_of_two()
    }

    fn notify_len(&self) -> u64 {
        u64::from(self.notify_multiplier) * u64::from(MAX_SIZE)
    }

    /// The base address register of the modern structures.
    pub fn modern_bar(&self) -> usize {
        if self.placement == Placement::BesideVga { 2 } else { REGION_MODERN }
    }

    /// The base address register of MSI-X.
    pub fn msix_bar(&self) -> usize {
        if self.placement == Placement::BesideVga { 4 } else { REGION_MSIX }
    }

    /// The base address register of the port for notifications.
    pub fn port_bar(&self) -> usize {
        if self.placement == Placement::BesideVga { 5 } else { REGION_NOTIFY_PORT }
    }

    /// Common configuration, interrupt status, device configuration, notifications.
    pub fn parts(&self) -> [Part; 4] {
        // Beside a VGA they lie at the end, and the first two are halves if there is no padding.
        let is_beside = self.placement == Placement::BesideVga;
        let first = if is_beside && !self.page_per_vq { STRUCTURE_LEN / 2 } else { STRUCTURE_LEN };
        let lens = [first, first, STRUCTURE_LEN, self.notify_len()];
        let mut offset = if is_beside { self.modern_len() - lens.iter().sum::<u64>() } else { 0 };
        let mut parts = [Part { offset: 0, len: 0, at: 0 }; 4];
        for ((part, len), at) in parts.iter_mut().zip(lens).zip([COMMON_AT, ISR_AT, DEVICE_AT, NOTIFY_AT]) {
            *part = Part { offset, len, at };
            offset += len;
        }
        parts
    }

    /// Where this model has what is at an offset of the register.
    pub fn find(&self, offset: u64) -> Option<u64> {
        let part = self.parts().into_iter().find(|part| (part.offset..part.offset + part.len).contains(&offset))?;
        Some(part.at + (offset - part.offset))
    }

    /// Whether the register has other things than virtio's.
    pub fn is_shared(&self) -> bool {
        self.placement == Placement::BesideVga
    }

    fn add_express(&mut self, config: &mut ConfigSpace, options: &PciOptions, free: &mut u8) {
        let express = Express::add(config, *free, Kind::Endpoint, Link::NARROW);
        *free += express::LEN;
        express::add_power_management(config, *free);
        if options.express.reports {
            express.allow_reports(config);
        }
        if options.express.link_control {
            express.allow_link_control(config);
        }
        if options.express.power_states {
            express::allow_power_states(config, *free);
        }
        if options.express.function_reset {
            express.allow_reset(config);
        }
        *free += express::POWER_MANAGEMENT_LEN;
        self.express = Some(express);
    }

    fn add_modern(&mut self, config: &mut ConfigSpace, options: &PciOptions, free: &mut u8) {
        let bar = self.modern_bar() as u8;
        let parts = self.parts();
        for (kind, part) in [kind::COMMON, kind::ISR, kind::DEVICE].into_iter().zip(parts) {
            add_capability(config, free, (kind, 16), (bar, part.offset, part.len));
        }
        let notify = add_capability(config, free, (kind::NOTIFY, 20), (bar, parts[3].offset, parts[3].len));
        config.set_u32(notify + 16, self.notify_multiplier);
        if options.modern_pio_notify {
            config.add_bar(self.port_bar(), Bar { kind: BarKind::Io, size: 4 });
            add_capability(config, free, (kind::NOTIFY, 20), (self.port_bar() as u8, 0, 4));
        }
        config.add_bar(self.modern_bar(), Bar { kind: BarKind::Prefetchable64, size: self.modern_len() });
        let access = add_capability(config, free, (kind::PCI, 20), (0, 0, 0));
        config.allow_u8(access + 4, 0xff);
        for field in [8, 12, CONFIG_DATA] {
            config.allow_u32(access + field, u32::MAX);
        }
        self.config_access = Some(access);
    }

    /// Whether a configuration access touches the data that stand for the structures.
    pub fn covers_config_data(&self, offset: u8, size: AccessSize) -> bool {
        let Some(at) = self.config_access else { return false };
        let (first, last) = (usize::from(at + CONFIG_DATA), usize::from(at + CONFIG_DATA) + 3);
        let begin = usize::from(offset);
        begin <= last && begin + size.bytes() > first
    }
}

/// Adds one of virtio's capabilities, `(type, bytes)`, for a part of a register, `(register, offset, bytes)`.
fn add_capability(
    config: &mut ConfigSpace,
    free: &mut u8,
    (kind, size): (u8, u8),
    (bar, offset, len): (u8, u64, u64),
) -> u8 {
    let at = *free;
    config.add_capability(CAPABILITY_VENDOR, at, size);
    config.set_u8(at + 2, size);
    config.set_u8(at + 3, kind);
    config.set_u8(at + 4, bar);
    config.set_u32(at + 8, offset as u32);
    config.set_u32(at + 12, len as u32);
    *free += size;
    at
}
