//! Unit tests of the system side.
