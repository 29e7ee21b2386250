//! format × option × direction: what one program creates and writes, the other one reads, writes and checks.

use std::path::Path;

use block::image::FixMode;

use crate::support::*;

const MIB: u64 = 1 << 20;

/// Formats and their options of creation; sizes that are no multiples of clusters on purpose.
const CASES: &[(&str, &str, u64)] = &[
    ("vdi", "", 5 * MIB + 512),
    ("vdi", "static=on", 5 * MIB + 512),
    ("vpc", "", 10 * MIB),
    ("vpc", "force_size=on", 10 * MIB + 1536),
    ("vpc", "subformat=fixed", 10 * MIB),
    ("vpc", "subformat=fixed,force_size=on", 10 * MIB + 512),
    ("vmdk", "", 5 * MIB + 512),
    ("vmdk", "zeroed_grain=on", 5 * MIB),
    ("vmdk", "compat6=on,adapter_type=lsilogic", 5 * MIB),
    ("vmdk", "hwversion=9,adapter_type=buslogic,toolsversion=12345", 5 * MIB),
    ("vmdk", "adapter_type=legacyESX", 5 * MIB),
    ("vmdk", "subformat=monolithicFlat", 5 * MIB + 512),
    ("vmdk", "subformat=twoGbMaxExtentSparse", 5 * MIB),
    ("vmdk", "subformat=twoGbMaxExtentFlat", 5 * MIB),
    ("vmdk", "subformat=streamOptimized", 5 * MIB),
    ("vhdx", "", 10 * MIB),
    ("vhdx", "block_size=1M", 5 * MIB + 512),
    ("vhdx", "block_size=2M,log_size=2M,block_state_zero=off", 5 * MIB),
    ("vhdx", "subformat=fixed", 10 * MIB),
    ("parallels", "", 10 * MIB),
    ("parallels", "cluster_size=64k", 5 * MIB + 512),
    ("qed", "", 5 * MIB + 512),
    ("qed", "cluster_size=4k,table_size=2", 5 * MIB),
    ("qed", "cluster_size=1M,table_size=16", 5 * MIB),
    ("qcow", "", 5 * MIB + 512),
    ("vhdx", "subformat=fixed,block_state_zero=off,block_size=4M", 10 * MIB),
];

fn pairs(options: &str) -> Vec<(&str, &str)> {
    options.split(',').filter_map(|option| option.split_once('=')).collect()
}

fn created_by_qemu(format: &str, options: &str, size: u64, file: &Path) {
    let (name, size) = (path(file), size.to_string());
    let mut args = vec!["create", "-q", "-f", format];
    if !options.is_empty() {
        args.extend(["-o", options]);
    }
    args.extend([&name[..], &size]);
    run("qemu-img", &args);
}

/// What a case writes: offset, length, byte.
fn patterns(size: u64) -> Vec<(u64, u64, u8)> {
    vec![(0, 4096, 0x11), (MIB - 512, 65536 + 1024, 0x22), (3 * MIB + 7 * 512, 512, 0x33), (size - 1024, 1024, 0x44)]
}

fn expected(size: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(size).expect("small")];
    for (offset, len, byte) in patterns(size) {
        let start = usize::try_from(offset).expect("small");
        bytes[start..start + usize::try_from(len).expect("small")].fill(byte);
    }
    bytes
}

fn writable(options: &str) -> bool {
    !options.contains("streamOptimized")
}

fn write_by_us(format: &str, file: &Path) -> u64 {
    let image = open(format, file);
    let size = image.child.len();
    for (offset, len, byte) in patterns(size) {
        image.write(offset, &vec![byte; usize::try_from(len).expect("small")]);
    }
    image.close();
    size
}

fn write_by_qemu(format: &str, file: &Path, size: u64) {
    let name = path(file);
    let commands: Vec<String> =
        patterns(size).iter().map(|(offset, len, byte)| format!("write -q -P {byte} {offset} {len}")).collect();
    let mut args = vec!["-f", format];
    for command in &commands {
        args.extend(["-c", command]);
    }
    args.push(&name);
    run("qemu-io", &args);
}

/// Compares with what `qemu-img` reads, and has it checked.
fn read_by_qemu(format: &str, file: &Path, size: u64) {
    let raw = file.with_extension("expected");
    std::fs::write(&raw, expected(size)).expect("a raw file");
    run("qemu-img", &["compare", "-f", format, "-F", "raw", &path(file), &path(&raw)]);
    if !["vpc", "qcow"].contains(&format) {
        run("qemu-img", &["check", "-f", format, &path(file)]);
    }
}

fn read_by_us(format: &str, file: &Path, size: u64) {
    let image = try_open(format, file, true).expect("opens");
    assert_eq!(image.child.len(), size, "{format}: size");
    assert!(image.contents() == expected(size), "{format}: contents");
    if !["vpc", "qcow"].contains(&format) {
        let result = image.check(FixMode::default());
        assert_eq!((result.corruptions, result.leaks, result.check_errors), (0, 0, 0), "{format}: {result:?}");
    }
    image.close();
}

fn info(format: &str, file: &Path) -> serde_json::Value {
    let text = run("qemu-img", &["info", "--output=json", "-f", format, &path(file)]);
    serde_json::from_str(&text).expect("JSON")
}

fn compare_info(format: &str, file: &Path) {
    let theirs = info(format, file);
    let image = try_open(format, file, true).expect("opens");
    let details = image.child.node().driver().details();
    assert_eq!(theirs["virtual-size"].as_u64(), Some(image.child.len()), "{format}");
    assert_eq!(theirs["cluster-size"].as_u64(), details.cluster_size, "{format}");
    assert_eq!(theirs["dirty-flag"].as_bool(), details.dirty, "{format}");
    let specific = details.specific.map(|(kind, data)| {
        let data: serde_json::Value = serde_json::from_str(&data.to_string()).expect("JSON");
        serde_json::json!({"type": kind, "data": data})
    });
    assert_eq!(theirs.get("format-specific"), specific.as_ref(), "{format}");
    image.close();
}

#[test]
fn images_of_either_side_are_read_and_written_by_the_other() {
    if !have_peers() {
        return;
    }
    for (format, options, size) in CASES {
        for (ours_create, ours_write) in [(true, true), (true, false), (false, true), (false, false)] {
            let dir = tempfile::tempdir().expect("a directory");
            let file = dir.path().join(format!("image.{format}"));
            if ours_create {
                create(format, &file, *size, &pairs(options)).expect("creates");
            } else {
                created_by_qemu(format, options, *size, &file);
            }
            let real_size = try_open(format, &file, true).map(|image| image.child.len()).expect("opens");
            assert_eq!(info(format, &file)["virtual-size"].as_u64(), Some(real_size), "{format} {options}");
            if writable(options) {
                if ours_write {
                    write_by_us(format, &file);
                } else {
                    write_by_qemu(format, &file, real_size);
                }
                read_by_qemu(format, &file, real_size);
                read_by_us(format, &file, real_size);
            }
            compare_info(format, &file);
            let side = |ours: bool| if ours { "ouzel" } else { "qemu" };
            println!(
                "{format:10} {options:40} created by {:5} written by {:5}: equal",
                side(ours_create),
                side(ours_write)
            );
        }
    }
}

#[test]
fn sizes_of_new_images_are_those_of_the_peer() {
    if !have_peers() {
        return;
    }
    for (format, options, size) in CASES {
        let dir = tempfile::tempdir().expect("a directory");
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
        create(format, &ours, *size, &pairs(options)).expect("creates");
        created_by_qemu(format, options, *size, &theirs);
        assert_eq!(info(format, &ours)["virtual-size"], info(format, &theirs)["virtual-size"], "{format} {options}");
    }
}
