//! The State derive macro.
