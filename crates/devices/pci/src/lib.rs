//! PCI: configuration space, the bus with its functions and their windows, configuration mechanism #1, and the chipset
//! functions of a 440FX machine.

#![forbid(unsafe_code)]

pub mod bus;
pub mod capability;
pub mod class;
pub mod config;
pub mod i440fx;
pub mod mechanism;
pub mod piix;
pub mod pirq;
pub mod rom;
pub mod shadow;

pub use bus::{Address, AttachError, BarInfo, FunctionInfo, Label, PciBus, PciFunction, Window};
pub use capability::{MsiMessage, MsiSink, Msix};
pub use config::{Bar, BarKind, ConfigSpace, Identity};

#[cfg(test)]
mod tests;
