//! The drivers that every Ouzel program has: those of crate `block` and those of the format crates.

#![forbid(unsafe_code)]

use block::{DriverType, Registry};

/// A registry of all drivers.
pub fn registry() -> Registry {
    Registry::new(drivers())
}

/// All drivers, in the order in which help shows them: by name.
pub fn drivers() -> Vec<&'static dyn DriverType> {
    let mut drivers = block::builtin_drivers();
    drivers.extend(block_filters::drivers());
    drivers.extend(block_formats::drivers());
    drivers.extend(block_luks::drivers());
    drivers.extend(block_net::drivers());
    drivers.extend(block_qcow2::drivers());
    drivers.extend(block_vvfat::drivers());
    drivers.sort_by_key(|driver| driver.name());
    drivers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_drivers_are_unique() {
        let names: Vec<&str> = drivers().iter().map(|driver| driver.name()).collect();
        let mut unique = names.clone();
        unique.dedup();
        assert_eq!(names, unique);
        assert!(registry().find("raw").is_some());
    }
}
