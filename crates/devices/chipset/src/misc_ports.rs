//! The POST code port 0x80 and the coprocessor error port 0xf0.
