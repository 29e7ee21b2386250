//! The instruction decoder over arbitrary bytes in all three widths, with every and with few features.

#![no_main]

use std::sync::{Arc, LazyLock};

use cpu::fuzz::fuzz_decode;
use libfuzzer_sys::fuzz_target;
use x86::cpuid::CpuidTable;

static MODELS: LazyLock<[Arc<CpuidTable>; 2]> =
    LazyLock::new(|| ["max", "486"].map(|name| Arc::new(ouzel_fuzz::cpuid_table(name))));

fuzz_target!(|input: &[u8]| {
    let Some((mode, bytes)) = input.split_first() else { return };
    for model in MODELS.iter() {
        let found = fuzz_decode(model, bytes, *mode);
        assert!(found <= bytes.len() + 1);
    }
});
