//! All devices of a machine, or the one that `OUZEL_FUZZ_DEVICE` names (on the machine `OUZEL_FUZZ_MACHINE`, `q35` unless
//! given): whatever they map is accessed in any way, time passes, states are saved and restored.

#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use machine::harness::Harness;

thread_local! {
    // One machine for all inputs: each begins and ends with resets.
    static HARNESS: RefCell<Harness> = RefCell::new({
        let machine = std::env::var("OUZEL_FUZZ_MACHINE").unwrap_or_else(|_| "q35".to_owned());
        match std::env::var("OUZEL_FUZZ_DEVICE") {
            Ok(device) => Harness::of_device(&machine, &device),
            Err(_) => Harness::new(&machine),
        }
    });
}

fuzz_target!(|input: &[u8]| {
    let broken = HARNESS.with_borrow_mut(|harness| {
        let mut broken = harness.play(input);
        broken.extend(harness.check());
        broken
    });
    assert!(broken.is_empty(), "{broken:#?}");
});
