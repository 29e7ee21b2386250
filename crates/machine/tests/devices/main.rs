//! The laws of all devices of a machine under random accesses: no access panics, a second reset changes nothing, and a
//! device saves what it was given.

use std::collections::BTreeSet;

use machine::harness;

/// Random bytes, the same in each run.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn every_device_keeps_the_laws_under_random_accesses() {
    for name in ["pc", "q35"] {
        let machine = harness::machine(name);
        let access = machine.qtest_access();
        assert!(access.devices.len() > 15, "all devices are there: {}", access.devices.len());
        let mut broken: BTreeSet<String> = harness::check(&access).into_iter().collect();
        for seed in 0..40 {
            broken.extend(harness::play(&access, &noise(4000, seed)));
            broken.extend(harness::check(&access));
        }
        assert!(broken.is_empty(), "{name}: {broken:#?}");
    }
}
