//! Boards, firmware tables, kernel loading, vCPU threads and reset: the one place that sees devices and accelerators
//! together.
//!
//! [`Machine::new`] builds a [`config::MachineConfig`] into address spaces, devices ([`pc`]) and vCPU threads
//! ([`vcpu`]), all at rest. The control thread (crate `vm`) owns the result.

#![forbid(unsafe_code)]

pub mod accelerator;
pub mod acpi;
pub mod boot;
pub mod config;
pub mod disk;
pub mod e820;
pub mod entropy;
mod error;
pub mod event;
pub mod firmware;
pub mod harness;
pub mod icount;
mod machine;
pub mod numa;
mod objects;
mod pc;
pub mod qtest;
pub mod ram;
mod screens;
mod serial;
pub mod smbios;
pub mod storage;

/// What `info qtree` shows.
pub mod tree {
    pub use crate::pc::tree::{Bus, Facts, Node, Setting, Value};
}

/// What `query-pci` shows.
pub mod pci {
    pub use devices_pci::class::description as class_description;
    pub use devices_pci::info::BridgeInfo;
    pub use devices_pci::{BarInfo, BarKind, FunctionInfo};
}

/// What `x-query-virtio` and its like show.
pub mod virtio {
    pub use crate::machine::VirtioDevice;
    pub use devices_virtio::inspect::{DeviceInfo, Inspect, QueueInfo};
    pub use devices_virtio::queue::{Descriptor, Element, ElementError, flag};
}
pub mod vcpu;

pub use cpu::TranslatorConfig;
pub use cpu::block::{Following, Interruption, TraceSink};
pub use cpu::fault::EventKind;
pub use devices_chipset::cpu_hotplug::Report as CpuReport;
pub use devices_chipset::ioapic::IoApicInfo;
pub use devices_chipset::lapic::ApicState;
pub use devices_usb::bus::Speed as UsbSpeed;
pub use error::MachineError;
pub use machine::{CpuSlot, GuestMemory, Machine, TraceFactory};
pub use pc::{Backends, Chardevs, Removed, UnplugError, UsbDeviceInfo};
