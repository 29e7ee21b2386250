//! All devices of a machine: whatever they map is accessed in any way, time passes, states are saved and restored.

#![no_main]

use std::sync::{LazyLock, Mutex};

use libfuzzer_sys::fuzz_target;
use machine::{Machine, harness};

// One machine for all inputs: each begins and ends with resets.
static MACHINE: LazyLock<Mutex<Machine>> = LazyLock::new(|| Mutex::new(harness::machine("pc")));

fuzz_target!(|input: &[u8]| {
    let machine = MACHINE.lock().expect("one thread");
    let access = machine.qtest_access();
    let mut broken = harness::play(&access, input);
    broken.extend(harness::check(&access));
    assert!(broken.is_empty(), "{broken:#?}");
});
