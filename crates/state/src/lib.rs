//! Saved device state: declared, versioned fields.

#![forbid(unsafe_code)]

/// Guest-visible state of a device, with a name, a version and declared fields.
pub trait SavedState {}
