//! PCI host bridge and configuration space.
