//! Derive macros for the QMP schema.
