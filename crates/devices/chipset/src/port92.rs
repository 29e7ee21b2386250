//! System control port A at 0x92.
