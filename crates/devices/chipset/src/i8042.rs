//! The 8042 keyboard controller at ports 0x60 and 0x64.
