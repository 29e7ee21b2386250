//! All devices of a machine, or the one that `OUZEL_FUZZ_DEVICE` names (on the machine `OUZEL_FUZZ_MACHINE`, `q35` unless
//! given): whatever they map is accessed in any way, time passes, states are saved and restored.

#![no_main]

use std::sync::{LazyLock, Mutex};

use libfuzzer_sys::fuzz_target;
use machine::harness::Harness;

// One machine for all inputs: each begins and ends with resets.
static HARNESS: LazyLock<Mutex<Harness>> = LazyLock::new(|| {
    let machine = std::env::var("OUZEL_FUZZ_MACHINE").unwrap_or_else(|_| "q35".to_owned());
    Mutex::new(match std::env::var("OUZEL_FUZZ_DEVICE") {
        Ok(device) => Harness::of_device(&machine, &device),
        Err(_) => Harness::new(&machine),
    })
});

fuzz_target!(|input: &[u8]| {
    let harness = HARNESS.lock().expect("one thread");
    let mut broken = harness.play(input);
    broken.extend(harness.check());
    assert!(broken.is_empty(), "{broken:#?}");
});
