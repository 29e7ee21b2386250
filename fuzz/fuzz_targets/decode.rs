//! The instruction decoder over arbitrary bytes in all three widths, with every and with few features.

#![no_main]

use std::sync::{Arc, LazyLock};

use cpu::cpuid::Features;
use libfuzzer_sys::fuzz_target;

static MODELS: LazyLock<[Features; 2]> =
    LazyLock::new(|| ["max", "486"].map(|name| Features::new(Arc::new(ouzel_fuzz::cpuid_table(name)))));

fuzz_target!(|input: &[u8]| {
    let Some((mode, bytes)) = input.split_first() else { return };
    for features in MODELS.iter() {
        let found = cpu::decode::fuzz_decode(features, bytes, *mode);
        assert!(found <= bytes.len() + 1);
    }
});
