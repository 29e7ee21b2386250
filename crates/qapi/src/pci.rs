//! What is on the PCI buses.

use crate::{Command, QapiType};

/// A window of a bridge.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct PciMemoryRange {
    /// Its first address.
    pub base: i64,
    /// Its last address.
    pub limit: i64,
}

/// A base address register.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct PciMemoryRegion {
    /// Its number; 6 is the expansion ROM.
    pub bar: i64,
    /// `io` or `memory`.
    pub r#type: String,
    /// Where it is; -1 while it is nowhere.
    pub address: i64,
    /// Bytes.
    pub size: i64,
    /// Memory: reads have no side effects.
    pub prefetch: Option<bool>,
    /// Memory: addresses have 64 bits.
    #[qapi(name = "mem_type_64")]
    pub mem_type_64: Option<bool>,
}

/// A bus behind a bridge.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct PciBusInfo {
    /// The number of the bus that the bridge is on.
    pub number: i64,
    /// The number of the bus behind it.
    pub secondary: i64,
    /// The last number behind it.
    pub subordinate: i64,
    /// The window of ports.
    #[qapi(name = "io_range")]
    pub io_range: PciMemoryRange,
    /// The window of memory.
    #[qapi(name = "memory_range")]
    pub memory_range: PciMemoryRange,
    /// The window of prefetchable memory.
    #[qapi(name = "prefetchable_range")]
    pub prefetchable_range: PciMemoryRange,
}

/// A bridge.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct PciBridgeInfo {
    /// The bus behind it.
    pub bus: PciBusInfo,
    /// What is on that bus.
    pub devices: Option<Vec<PciDeviceInfo>>,
}

/// The class of a function.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct PciDeviceClass {
    /// What the class is called.
    pub desc: Option<String>,
    /// Base class and subclass.
    pub class: i64,
}

/// The numbers of a function.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct PciDeviceId {
    /// The device number.
    pub device: i64,
    /// The vendor.
    pub vendor: i64,
    /// The number of the subsystem.
    pub subsystem: Option<i64>,
    /// The vendor of the subsystem.
    pub subsystem_vendor: Option<i64>,
}

/// A function.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct PciDeviceInfo {
    /// The bus number.
    pub bus: i64,
    /// The slot.
    pub slot: i64,
    /// The function in its slot.
    pub function: i64,
    /// Its class.
    #[qapi(name = "class_info")]
    pub class_info: PciDeviceClass,
    /// Its numbers.
    pub id: PciDeviceId,
    /// The interrupt that firmware noted, if it has a pin.
    pub irq: Option<i64>,
    /// The interrupt pin; 0 for none.
    #[qapi(name = "irq_pin")]
    pub irq_pin: i64,
    /// The user's id.
    #[qapi(name = "qdev_id")]
    pub qdev_id: String,
    /// What is behind it, if it is a bridge.
    #[qapi(name = "pci_bridge")]
    pub pci_bridge: Option<PciBridgeInfo>,
    /// Its base address registers.
    pub regions: Vec<PciMemoryRegion>,
}

/// A root bus.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct PciInfo {
    /// The bus number.
    pub bus: i64,
    /// What is on it.
    pub devices: Vec<PciDeviceInfo>,
}

/// Lists the functions on the PCI buses, as the guest has set them up.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-pci", returns = Vec<PciInfo>)]
pub struct QueryPci;
