//! The object tree: paths and typed properties.
