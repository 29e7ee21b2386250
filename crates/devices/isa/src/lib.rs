//! Devices on the ISA bus: serial ports, debug console, debug exit, pvpanic and fw_cfg.

#![forbid(unsafe_code)]

pub mod debug;
pub mod fw_cfg;
pub mod pvpanic;
pub mod uart16550;
