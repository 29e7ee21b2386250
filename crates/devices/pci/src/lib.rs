//! PCI: configuration space, the bus with its functions and their windows, configuration mechanism #1, and the chipset
//! functions of 440FX and Q35 machines.

#![forbid(unsafe_code)]

pub mod acpi_hotplug;
pub mod bridge;
pub mod bus;
pub mod capability;
pub mod class;
pub mod config;
pub mod express;
pub mod gpex;
pub mod i440fx;
pub mod i6300esb;
pub mod ich9;
pub mod info;
pub mod mechanism;
pub mod piix;
pub mod pirq;
pub mod pvpanic;
pub mod q35;
pub mod rom;
pub mod root_port;
pub mod shadow;
pub mod smram;

pub use bus::{Address, AttachError, Hotplug, Label, PciBus, PciFunction, Window};
pub use capability::{MsiMessage, MsiSink, Msix};
pub use config::{Bar, BarKind, ConfigSpace, Identity};
pub use info::{BarInfo, BridgeInfo, FunctionInfo};

#[cfg(test)]
mod tests;
