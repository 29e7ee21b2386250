//! Identity, base address registers and capabilities, where QEMU has them.

use device::AccessSize;
use devices_pci::config::reg;
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

/// Where things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes between the notification registers of two queues.
    pub notify_multiplier: u32,
    /// The capability that gives access to the structures.
    pub config_access: Option<u8>,
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
        let mut layout = Self { notify_multiplier: if options.page_per_vq { 4096 } else { 4 }, config_access: None };
        let mut free = 0x40;
        if options.modern {
            layout.add_modern(&mut config, options, &mut free);
        }
        let vectors = usize::try_from(options.vectors).ok().filter(|vectors| (1..=2048).contains(vectors));
        let msix = vectors.map(|vectors| Msix::add_with_bar(&mut config, free, vectors, REGION_MSIX as u8));
        if options.legacy {
            let header = if msix.is_some() { LEGACY_HEADER_MSIX } else { LEGACY_HEADER };
            let size = (header + config_len as u64).next_power_of_two();
            config.add_bar(REGION_LEGACY, Bar { kind: BarKind::Io, size });
        }
        (layout, config, msix)
    }

    /// Bytes of the modern register.
    pub fn modern_len(&self) -> u64 {
        (NOTIFY_AT + u64::from(self.notify_multiplier) * u64::from(MAX_SIZE)).next_power_of_two()
    }

    fn add_modern(&mut self, config: &mut ConfigSpace, options: &PciOptions, free: &mut u8) {
        let notify_len = u64::from(self.notify_multiplier) * u64::from(MAX_SIZE);
        let bar = REGION_MODERN as u8;
        for (kind, offset, len) in [
            (kind::COMMON, COMMON_AT, STRUCTURE_LEN),
            (kind::ISR, ISR_AT, STRUCTURE_LEN),
            (kind::DEVICE, DEVICE_AT, STRUCTURE_LEN),
        ] {
            add_capability(config, free, (kind, 16), (bar, offset, len));
        }
        let notify = add_capability(config, free, (kind::NOTIFY, 20), (bar, NOTIFY_AT, notify_len));
        config.set_u32(notify + 16, self.notify_multiplier);
        if options.modern_pio_notify {
            config.add_bar(REGION_NOTIFY_PORT, Bar { kind: BarKind::Io, size: 4 });
            add_capability(config, free, (kind::NOTIFY, 20), (REGION_NOTIFY_PORT as u8, 0, 4));
        }
        config.add_bar(REGION_MODERN, Bar { kind: BarKind::Prefetchable64, size: self.modern_len() });
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
