//! ISA devices: 16550 serial ports, the debug console and exit ports, pvpanic, a watchdog, the test device, and fw_cfg, which
//! tells firmware about the machine.

#![forbid(unsafe_code)]

pub mod debug;
pub mod fw_cfg;
pub mod ib700;
pub mod parallel;
pub mod pc_testdev;
pub mod pvpanic;
pub mod uart16550;
pub mod vmport;
