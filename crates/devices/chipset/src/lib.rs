//! PICs, PIT, APICs, RTC, i8042, power management: what a PC's chipset brings besides PCI.
//!
//! Every model is one module. The machine puts a model into a [`device::DeviceCell`] and maps its numbered regions.

#![forbid(unsafe_code)]

pub mod acpi_pm;
pub mod cfi01;
pub mod cpu_hotplug;
pub mod ged;
pub mod hpet;
pub mod i8042;
pub mod i8254;
pub mod i8257;
pub mod i8259;
pub mod ioapic;
pub mod irq_router;
pub mod lapic;
pub mod legacy;
pub mod legacy_ports;
pub mod mc146818;
pub mod smbus;
pub mod tco;

#[cfg(test)]
mod testing;
