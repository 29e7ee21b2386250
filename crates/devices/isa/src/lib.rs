//! 16550 serial ports, debug console, isa-debug-exit, fw_cfg.
