//! Boards, firmware tables, kernel loading, vCPU threads and reset: the one place that sees devices and accelerators
//! together.

#![forbid(unsafe_code)]

pub mod acpi;
pub mod boot;
pub mod e820;
pub mod event;
pub mod vcpu;
