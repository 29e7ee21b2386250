//! A qcow2 image with stored bitmaps and patches of their directory, tables and bits (or of anything else): loaded, used,
//! stored, removed.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use ouzel_fuzz::disk::{bitmap_template, exercise_bitmaps, patch, patch_at};

static TEMPLATES: OnceLock<[(Vec<u8>, Vec<u64>); 3]> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else { return };
    let templates = TEMPLATES.get_or_init(|| {
        [
            bitmap_template(8 << 20, &[]),
            bitmap_template(2 << 20, &[("cluster_size", "512")]),
            bitmap_template(4 << 20, &[("cluster_size", "4096"), ("refcount_bits", "1")]),
        ]
    });
    let (good, places) = &templates[usize::from(which % 3)];
    // Patches near what belongs to the bitmaps, or anywhere.
    let image = match which / 3 % 4 {
        0 => patch(good, data),
        _ => patch_at(good, places, data),
    };
    exercise_bitmaps(image);
});
