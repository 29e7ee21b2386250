//! A vpc image with arbitrary patches: opened, read, written and checked through a disk in memory.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use ouzel_fuzz::disk::{exercise, fix_vhd, patch, template};

static TEMPLATES: OnceLock<[Vec<u8>; 2]> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else { return };
    let templates =
        TEMPLATES.get_or_init(|| [template("vpc", 8 << 20, &[]), template("vpc", 1 << 20, &[("subformat", "fixed")])]);
    let mut image = patch(&templates[usize::from(which & 1)], data);
    if data.last().is_some_and(|byte| byte & 3 != 0) {
        fix_vhd(&mut image);
    }
    exercise("vpc", image);
});
