//! A vmdk image with arbitrary patches: opened, read, written and checked through a disk in memory.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use ouzel_fuzz::disk::{exercise, patch, template};

static TEMPLATES: OnceLock<[Vec<u8>; 2]> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else { return };
    let templates = TEMPLATES
        .get_or_init(|| [template("vmdk", 8 << 20, &[("zeroed_grain", "on")]), template("vmdk", 8 << 20, &[])]);
    let image = patch(&templates[usize::from(which & 1)], data);
    exercise("vmdk", image);
});
