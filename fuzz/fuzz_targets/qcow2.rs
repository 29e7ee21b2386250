//! Arbitrary bytes as a qcow2 image: opened, read, checked, written and repaired through a disk in memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ouzel_fuzz::disk::exercise;

fuzz_target!(|data: &[u8]| {
    // Without the magic number nothing is seen of the format.
    let mut image = data.to_vec();
    if let Some(magic) = image.get_mut(..4) {
        magic.copy_from_slice(b"QFI\xfb");
    }
    exercise("qcow2", image);
});
