//! Random fields of good images with random values: no panic, no endless loop. `BLOCK_PATCHES` says how many images of
//! each format are tried.

use crate::malformed::{complaints, crc32c, good};
use crate::support::*;

/// Where the fields of a format are, and what fixes its checksums.
struct Case {
    format: &'static str,
    options: &'static [(&'static str, &'static str)],
    fields: &'static [(usize, usize)],
    fix: fn(&mut [u8]),
}

fn nothing(_: &mut [u8]) {}

fn fix_vhdx(image: &mut [u8]) {
    for (start, len) in [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 64 << 10), (256 << 10, 64 << 10)] {
        if let Some(part) = image.get_mut(start..start + len) {
            part[4..8].fill(0);
            let sum = crc32c(part);
            part[4..8].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

fn fix_vhd(image: &mut [u8]) {
    let end = image.len().saturating_sub(512);
    for (start, len, at) in [(0, 512, 0x40), (end, 512, 0x40), (512, 1024, 0x24)] {
        if let Some(part) = image.get_mut(start..start + len) {
            part[at..at + 4].fill(0);
            let sum: u32 = !part.iter().map(|byte| u32::from(*byte)).sum::<u32>();
            part[at..at + 4].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

const CASES: &[Case] = &[
    Case { format: "vdi", options: &[], fields: &[(0x40, 0x1c8), (0x200, 0x240)], fix: nothing },
    Case { format: "vpc", options: &[], fields: &[(0, 0x48), (512, 560), (1536, 1600)], fix: fix_vhd },
    Case { format: "vmdk", options: &[], fields: &[(4, 80), (512, 800), (21 * 512, 23 * 512)], fix: nothing },
    Case {
        format: "vmdk",
        options: &[("subformat", "streamOptimized")],
        fields: &[(4, 80), (21 * 512, 23 * 512)],
        fix: nothing,
    },
    Case {
        format: "vhdx",
        options: &[("block_size", "1M")],
        fields: &[
            ((64 << 10) + 8, (64 << 10) + 80),
            ((192 << 10) + 8, (192 << 10) + 80),
            (2 << 20, (2 << 20) + 64),
            (3 << 20, (3 << 20) + 192),
            ((3 << 20) + (64 << 10), (3 << 20) + (64 << 10) + 40),
        ],
        fix: fix_vhdx,
    },
    Case { format: "parallels", options: &[], fields: &[(16, 128)], fix: nothing },
    Case {
        format: "qed",
        options: &[("cluster_size", "4k"), ("table_size", "2")],
        fields: &[(4, 64), (4096, 4160)],
        fix: nothing,
    },
    Case { format: "qcow", options: &[], fields: &[(4, 64), (4096, 4160)], fix: nothing },
];

fn value(random: &mut Random) -> Vec<u8> {
    let len = [1, 2, 4, 8][random.below(4) as usize];
    let number = match random.below(6) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << random.below(64),
        3 => (1u64 << random.below(64)).wrapping_sub(1),
        4 => u64::MAX << random.below(64),
        _ => random.next(),
    };
    if random.below(2) == 0 { number.to_le_bytes()[..len].to_vec() } else { number.to_be_bytes()[8 - len..].to_vec() }
}

#[test]
fn images_with_random_fields_never_panic() {
    let count = std::env::var("BLOCK_PATCHES").ok().and_then(|count| count.parse().ok()).unwrap_or(100);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("patched");
    for (index, case) in CASES.iter().enumerate() {
        let image = if case.options.iter().any(|(_, value)| *value == "streamOptimized") {
            create(case.format, &file, 4 << 20, case.options).expect("creates");
            std::fs::read(&file).expect("reads")
        } else {
            good(case.format, 4 << 20, case.options)
        };
        let mut random = Random(0x1234_5678_9abc_def1 + index as u64);
        let mut refused = 0;
        for _ in 0..count {
            let mut image = image.clone();
            for _ in 0..=random.below(3) {
                let (start, end) = case.fields[random.below(case.fields.len() as u64) as usize];
                let at = start + random.below((end - start) as u64) as usize;
                let value = value(&mut random);
                if let Some(field) = image.get_mut(at..at + value.len()) {
                    field.copy_from_slice(&value);
                }
            }
            if random.below(16) == 0 {
                image.truncate(random.below(image.len() as u64) as usize);
            }
            (case.fix)(&mut image);
            std::fs::write(&file, &image).expect("a file");
            refused += usize::from(!complaints(case.format, &file).is_empty());
        }
        println!("{}: {count} images, {refused} with complaints", case.format);
        assert!(refused != 0, "{}: nothing was broken", case.format);
    }
}
