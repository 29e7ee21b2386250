//! Images made by one side are read, written and checked by the other.

mod common;

use common::*;

const MATRIX: &[(&str, &str)] = &[
    ("", "64k"),
    ("compat=0.10", "v2"),
    ("compat=0.10,cluster_size=512", "v2 512"),
    ("cluster_size=512", "512"),
    ("cluster_size=4096", "4k"),
    ("cluster_size=2097152", "2M"),
    ("cluster_size=512,refcount_bits=1", "512 rc1"),
    ("cluster_size=1024,refcount_bits=64", "1k rc64"),
    ("refcount_bits=2", "rc2"),
    ("refcount_bits=4,cluster_size=2048", "rc4"),
    ("refcount_bits=8", "rc8"),
    ("refcount_bits=32", "rc32"),
    ("extended_l2=on", "ext 64k"),
    ("extended_l2=on,cluster_size=16384", "ext 16k"),
    ("extended_l2=on,cluster_size=2097152", "ext 2M"),
    ("compression_type=zstd", "zstd"),
    ("lazy_refcounts=on", "lazy"),
    ("preallocation=metadata", "prealloc metadata"),
    ("preallocation=falloc", "prealloc falloc"),
    ("preallocation=full,cluster_size=4096", "prealloc full"),
    ("preallocation=metadata,extended_l2=on", "prealloc ext"),
];

const SIZE: u64 = 8 << 20;

/// Writes a pattern through Ouzel, and keeps what the disk should hold.
fn scribble(open: &Open, model: &mut [u8], seed: u64) {
    let mut rng = Rng(seed);
    for _ in 0..60 {
        let len = 1 + rng.below(200_000);
        let at = rng.below(SIZE - len);
        let range = at as usize..(at + len) as usize;
        match rng.below(8) {
            0 => {
                zero(&open.child, at, len, rng.below(2) == 0).expect("zeroes");
                model[range].fill(0);
            }
            _ => {
                let byte = 1 + rng.below(255) as u8;
                write(&open.child, at, &vec![byte; len as usize]).expect("writes");
                model[range].fill(byte);
            }
        }
    }
}

fn compare_with_qemu(dir: &std::path::Path, image: &str, model: &[u8], what: &str) {
    let raw = dir.join("model.raw");
    std::fs::write(&raw, model).expect("the model");
    let text = must("qemu-img", &["check", image]);
    assert!(text.contains("No errors were found"), "{what}: {text}");
    must("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", raw.to_str().expect("a path"), image]);
}

#[test]
fn images_of_either_side_serve_the_other() {
    if !has_tool("qemu-img") || !has_tool("qemu-io") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    for (index, (options, what)) in MATRIX.iter().enumerate() {
        for creator in ["ouzel", "qemu"] {
            let path = dir.path().join(format!("{creator}{index}.qcow2"));
            let path = path.to_str().expect("a path");
            if creator == "ouzel" {
                create_file(path, SIZE, options).unwrap_or_else(|e| panic!("{what}: {e}"));
            } else {
                let size = SIZE.to_string();
                let mut args = vec!["create", "-q", "-f", "qcow2"];
                if !options.is_empty() {
                    args.extend(["-o", options]);
                }
                args.extend([path, &size]);
                must("qemu-img", &args);
            }
            let mut model = vec![0; SIZE as usize];
            compare_with_qemu(dir.path(), path, &model, what);
            let open = open_file(path, false).unwrap_or_else(|e| panic!("{what}: {e}"));
            scribble(&open, &mut model, index as u64);
            assert!(read_all(&open.child).expect("reads") == model, "{what} by {creator}: reads back");
            open.close().expect("closes");
            compare_with_qemu(dir.path(), path, &model, what);
            // The peer writes, Ouzel reads and checks.
            must(
                "qemu-io",
                &[
                    "-f",
                    "qcow2",
                    "-c",
                    "write -P 0x5a 12345 300000",
                    "-c",
                    "write -z 1M 1M",
                    "-c",
                    "discard 3M 1M",
                    path,
                ],
            );
            model[12345..312_345].fill(0x5a);
            model[1 << 20..2 << 20].fill(0);
            let open = open_file(path, true).expect("opens");
            let now = read_all(&open.child).expect("reads");
            model[3 << 20..4 << 20].copy_from_slice(&now[3 << 20..4 << 20]);
            assert!(now == model, "{what} by {creator}: reads what QEMU wrote");
            let result = aio::block_on(open.driver().check(Default::default())).expect("checks");
            assert_eq!(
                (result.corruptions, result.leaks, result.check_errors),
                (0, 0, 0),
                "{what}: {:?}",
                result.messages
            );
            open.close().expect("closes");
            println!("{what:20} created by {creator:6}: read, written and checked by both");
            std::fs::remove_file(path).expect("removes");
        }
    }
}
