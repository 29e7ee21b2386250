//! Arbitrary bytes as a qcow2 image, or a good one with arbitrary patches: opened, read, checked, written and repaired
//! through a disk in memory.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use ouzel_fuzz::disk::{exercise, patch, template};

static TEMPLATES: OnceLock<[Vec<u8>; 4]> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else { return };
    let templates = TEMPLATES.get_or_init(|| {
        [
            template("qcow2", 8 << 20, &[]),
            template("qcow2", 8 << 20, &[("compat", "0.10")]),
            template("qcow2", 8 << 20, &[("extended_l2", "on"), ("cluster_size", "16384")]),
            template("qcow2", 2 << 20, &[("cluster_size", "1024"), ("refcount_bits", "1"), ("lazy_refcounts", "on")]),
        ]
    });
    let image = match templates.get(usize::from(which % 5)) {
        Some(good) => patch(good, data),
        None => {
            // Without the magic number nothing is seen of the format.
            let mut image = data.to_vec();
            if let Some(magic) = image.get_mut(..4) {
                magic.copy_from_slice(b"QFI\xfb");
            }
            image
        }
    };
    exercise("qcow2", image);
});
