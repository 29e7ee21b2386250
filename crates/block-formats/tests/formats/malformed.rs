//! Broken images: each gives an error with a text somewhere between opening and checking, and never more than that.

use std::path::Path;

use block::image::FixMode;
use block::{OpenFlags, Options, WriteFlags};
use iobuf::IoBuf;

use crate::support::*;

const MIB: usize = 1 << 20;

/// What is changed in a good image.
enum Change {
    /// These bytes at this offset.
    At(usize, Vec<u8>),
    /// Several of those.
    Many(Vec<(usize, Vec<u8>)>),
    /// The file ends here.
    Cut(usize),
}

use Change::{At, Cut, Many};

fn le32(at: usize, value: u32) -> Change {
    At(at, value.to_le_bytes().to_vec())
}

fn le64(at: usize, value: u64) -> Change {
    At(at, value.to_le_bytes().to_vec())
}

fn be32(at: usize, value: u32) -> Change {
    At(at, value.to_be_bytes().to_vec())
}

fn be64(at: usize, value: u64) -> Change {
    At(at, value.to_be_bytes().to_vec())
}

fn apply(good: &[u8], change: &Change) -> Vec<u8> {
    let mut bytes = good.to_vec();
    let mut put = |at: usize, field: &[u8]| {
        if bytes.len() < at + field.len() {
            bytes.resize(at + field.len(), 0);
        }
        bytes[at..at + field.len()].copy_from_slice(field);
    };
    match change {
        At(at, field) => put(*at, field),
        Many(fields) => fields.iter().for_each(|(at, field)| put(*at, field)),
        Cut(len) => bytes.truncate(*len),
    }
    bytes
}

/// Everything that opening, reading, writing, checking and the status of an image complain about.
pub fn complaints(format: &str, file: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for read_only in [true, false] {
        let image = match try_open(format, file, read_only) {
            Ok(image) => image,
            Err(error) => {
                found.push(error.to_string());
                continue;
            }
        };
        let mut note = |result: block::Result<()>| {
            if let Err(error) = result {
                found.push(error.to_string());
            }
        };
        aio::block_on(async {
            let len = image.child.len();
            for at in [0, len / 2, len.saturating_sub(4096)] {
                note(image.child.read_vec(at, 4096).await.map(|_| ()));
            }
            let mut at = 0;
            for _ in 0..200 {
                if at >= len {
                    break;
                }
                match image.child.block_status(at, len - at, true).await {
                    Ok(status) => at += status.len,
                    Err(error) => {
                        note(Err(error));
                        break;
                    }
                }
            }
            if !read_only && len >= 4096 {
                let data = IoBuf::copy_of(&[5; 4096]);
                note(image.child.write(len / 4096 / 2 * 4096, data, WriteFlags::default()).await);
                note(image.child.flush().await);
            }
            match image.child.node().driver().check(FixMode::default()).await {
                Ok(result) if result.corruptions != 0 => {
                    let text = format!("{} corruptions: {}", result.corruptions, result.messages.concat());
                    note(Err(block::Error::io(text)));
                }
                Err(error) if !error.is_unsupported() => note(Err(error)),
                _ => {}
            }
            note(image.graph.detach(&image.child).await);
        });
    }
    found
}

/// Runs a corpus. `expected` is part of some complaint; empty if any will do.
fn run_corpus(format: &str, good: &[u8], corpus: &[(&str, Change)], at_least: usize) {
    assert!(corpus.len() >= at_least, "{format}: only {} variants", corpus.len());
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("broken");
    let mut failures = Vec::new();
    for (index, (expected, change)) in corpus.iter().enumerate() {
        std::fs::write(&file, apply(good, change)).expect("a file");
        let found = complaints(format, &file);
        if !found.iter().any(|text| !text.is_empty() && text.contains(expected)) {
            failures.push(format!("{format}, variant {index}: expected '{expected}', got {found:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A good image with some data at its beginning, as bytes.
pub fn good(format: &str, size: u64, options: &[(&str, &str)]) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("good");
    create(format, &file, size, options).expect("creates");
    let image = open(format, &file);
    image.write(0, &[7; 512]);
    image.close();
    std::fs::read(&file).expect("reads")
}

#[test]
fn broken_vdi_images_are_refused() {
    let image = good("vdi", 8 << 20, &[]);
    let corpus = vec![
        ("bad signature", Cut(0)),
        ("bad signature", Cut(64)),
        ("version 0.0", Cut(0x44)),
        ("", Cut(300)),
        ("", Cut(511)),
        ("behind the end", Cut(512)),
        ("bad signature 00000000", le32(0x40, 0)),
        ("version 1.0", le32(0x44, 0x1_0000)),
        ("version 2.1", le32(0x44, 0x2_0001)),
        ("unaligned block map offset 0x201", le32(0x154, 0x201)),
        ("overlap", le32(0x154, 0)),
        ("overlap", le32(0x154, 0xffff_fe00)),
        ("unaligned data offset 0x3ff", le32(0x158, 0x3ff)),
        ("overlap", le32(0x158, 0)),
        ("overlap", le32(0x158, 512)),
        ("sector size 0 is not 512", le32(0x168, 0)),
        ("sector size 1024 is not 512", le32(0x168, 1024)),
        ("block size 0 is not", le32(0x178, 0)),
        ("block size 1048575 is not 1048576", le32(0x178, 1_048_575)),
        ("block size 2097152 is not 1048576", le32(0x178, 2 << 20)),
        ("Unsupported VDI image size", le64(0x170, 0x1_ffff_f800_0001)),
        ("Unsupported VDI image size", le64(0x170, u64::MAX)),
        ("image bitmap has room for 8388608", le64(0x170, (8 << 20) + 1)),
        ("image bitmap has room for 0", le32(0x180, 0)),
        ("too many blocks", le32(0x180, u32::MAX)),
        ("overlap", le32(0x180, 0x1000_0000)),
        ("non-NULL link UUID", le32(0x1a8, 1)),
        ("non-NULL parent UUID", le32(0x1c4, 1)),
        ("out of range", le32(0x200, 8)),
        ("outside of the image", le32(0x200, 0xffff_fffd)),
        ("also used by", Many(vec![(0x204, vec![0; 4])])),
        ("mismatch", le32(0x184, 3)),
        ("no free blocks", le32(0x184, u32::MAX)),
    ];
    run_corpus("vdi", &image, &corpus, 25);
}

/// A VHD structure with another field and a right checksum.
fn vhd_field(image: &[u8], (start, len, sum): (usize, usize, usize), at: usize, value: &[u8]) -> (usize, Vec<u8>) {
    let mut bytes = image[start..start + len].to_vec();
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes[sum..sum + 4].fill(0);
    let total: u32 = !bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    bytes[sum..sum + 4].copy_from_slice(&total.to_be_bytes());
    (start, bytes)
}

#[test]
fn broken_vpc_images_are_refused() {
    let image = good("vpc", 8 << 20, &[("force_size", "on")]);
    let end = image.len() - 512;
    let footer = |at: usize, value: &[u8]| {
        Many([0, end].into_iter().map(|start| vhd_field(&image, (start, 512, 0x40), at, value)).collect())
    };
    let header = |at: usize, value: &[u8]| Many(vec![vhd_field(&image, (512, 1024, 0x24), at, value)]);
    let corpus = vec![
        ("File too small for a VHD header", Cut(0)),
        ("File too small", Cut(100)),
        ("File too small", Cut(511)),
        ("Error reading dynamic VHD header", Cut(512)),
        ("Error reading pagetable", Cut(1535)),
        ("Error reading pagetable", Cut(1536)),
        ("", Cut(2048)),
        ("The image has been truncated", Cut(MIB)),
        ("invalid VPC image", Many(vec![(0, b"xonectix".to_vec()), (end, b"xonectix".to_vec())])),
        ("Incorrect header checksum", Many(vec![(0x30, vec![9]), (end + 0x30, vec![9])])),
        ("Incorrect header checksum", At(0x40, vec![0; 4])),
        ("Differencing", footer(0x3c, &4u32.to_be_bytes())),
        ("invalid VPC image", footer(0x3c, &7u32.to_be_bytes())),
        ("invalid VPC image", footer(0x3c, &0u32.to_be_bytes())),
        ("Invalid file size", footer(0x30, &(1u64 << 40).to_be_bytes()).and(footer(0x3c, &2u32.to_be_bytes()), &image)),
        ("max size is 2040 GiB", footer(0x30, &(1u64 << 50).to_be_bytes())),
        ("max size is 2040 GiB", footer(0x30, &u64::MAX.to_be_bytes())),
        ("Page table too small", footer(0x30, &(9u64 << 20).to_be_bytes())),
        ("Error reading dynamic VHD header", footer(0x10, &u64::MAX.to_be_bytes())),
        ("Error reading dynamic VHD header", footer(0x10, &(1u64 << 40).to_be_bytes())),
        ("Invalid header magic", footer(0x10, &0u64.to_be_bytes())),
        ("Invalid header magic", header(0, b"xxsparse")),
        ("Invalid block size 0", header(0x20, &0u32.to_be_bytes())),
        ("Invalid block size 128", header(0x20, &128u32.to_be_bytes())),
        ("Invalid block size 305419896", header(0x20, &0x1234_5678u32.to_be_bytes())),
        ("Page table too small", header(0x20, &512u32.to_be_bytes())),
        ("Max Table Entries too large (1073741825)", header(0x1c, &0x4000_0001u32.to_be_bytes())),
        ("Max Table Entries too large", header(0x1c, &u32::MAX.to_be_bytes())),
        ("Error reading pagetable", header(0x1c, &0x1000_0000u32.to_be_bytes())),
        ("Page table too small", header(0x1c, &0u32.to_be_bytes())),
        ("Error reading pagetable", header(0x10, &u64::MAX.to_be_bytes())),
        ("Error reading pagetable", header(0x10, &(1u64 << 40).to_be_bytes())),
        ("lies in the image's tables", be32(1536, 0)),
        ("lies in the image's tables", be32(1536, 3)),
        ("The image has been truncated", be32(1536, 0xffff_fffe)),
    ];
    run_corpus("vpc", &image, &corpus, 25);
}

impl Change {
    /// The second change's fields in the structures that the first one changed (VHD footers).
    fn and(self, other: Change, image: &[u8]) -> Change {
        let (Many(first), Many(second)) = (self, other) else { panic!("two sets of fields") };
        let both = first.iter().zip(&second).map(|((start, a), (_, b))| {
            let mut bytes = a.clone();
            for (at, byte) in b.iter().enumerate() {
                if *byte != image[start + at] {
                    bytes[at] = *byte;
                }
            }
            bytes[0x40..0x44].fill(0);
            let total: u32 = !bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
            bytes[0x40..0x44].copy_from_slice(&total.to_be_bytes());
            (*start, bytes)
        });
        Many(both.collect())
    }
}

#[test]
fn broken_vmdk_images_are_refused() {
    let image = good("vmdk", 8 << 20, &[]);
    let gd = u64::from_le_bytes(image[56..64].try_into().expect("eight")) as usize * 512;
    let gt = u32::from_le_bytes(image[gd..gd + 4].try_into().expect("four")) as usize * 512;
    let corpus = vec![
        ("too small", Cut(0)),
        ("too small", Cut(3)),
        ("", Cut(4)),
        ("", Cut(80)),
        ("", Cut(512)),
        ("File truncated, expecting at least 65536 bytes", Cut(40_000)),
        ("Unsupported VMDK version 4", le32(4, 4)),
        ("Unsupported VMDK version 4294967295", le32(4, u32::MAX)),
        ("must be read only", le32(4, 3)),
        ("Unsupported image type 'monolithicSparse'", le64(12, 0)),
        ("L1 size too big", le64(12, u64::MAX)),
        ("L1 size too big", le64(12, 1 << 52)),
        ("lies outside of the file", le64(12, 1 << 40)),
        ("L1 entry size is invalid", le64(20, 0)),
        ("Invalid granularity", le64(20, 1 << 40)),
        ("Invalid granularity", le64(20, u64::MAX)),
        ("L1 entry size is invalid", le32(44, 0)),
        ("L2 table size too big", le32(44, 513)),
        ("L2 table size too big", le32(44, u32::MAX)),
        ("l1 table", le64(56, 0)),
        ("l1 table", le64(56, 1 << 50)),
        ("Invalid footer", le64(56, u64::MAX)),
        ("l1 backup table", le64(48, u64::MAX - 1)),
        ("File truncated", le64(64, 1 << 30)),
        ("File truncated", le64(64, u64::MAX)),
        ("descriptor lies behind the end", le64(28, 1 << 40)),
        ("descriptor lies behind the end", le64(28, u64::MAX)),
        ("invalid VMDK image descriptor", At(512, vec![0; 20])),
        ("invalid VMDK image descriptor", At(512, vec![b'x'; 400])),
        ("Unsupported compression algorithm", Many(vec![(10, vec![1])])),
        ("grain table lies behind", le32(gd, u32::MAX)),
        ("no grain table", le32(gd, 0)),
        ("lies in the image's tables", le32(gt, 1)),
        ("points after EOF", le32(gt, u32::MAX)),
    ];
    run_corpus("vmdk", &image, &corpus, 25);
}

#[test]
fn broken_vmdk_descriptors_are_refused() {
    let start = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n";
    let with = |create_type: &str, lines: &str| format!("{start}createType=\"{create_type}\"\n{lines}\n").into_bytes();
    let many: String = (0..5000).map(|_| "RW 8 FLAT \"data\" 0\n").collect();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("invalid VMDK image descriptor", start.as_bytes().to_vec()),
        ("invalid VMDK image descriptor", b"# Disk DescriptorFile\nversion=1\ncreateType=\"x\"\n".to_vec()),
        ("Unsupported image type 'odd'", with("odd", "RW 8 FLAT \"data\" 0")),
        ("Unsupported image type 'monolithicSparse'", with("monolithicSparse", "RW 8 SPARSE \"data\"")),
        ("Invalid extent line", with("monolithicFlat", "RW 8 FLAT \"data\"")),
        ("Invalid extent line", with("monolithicFlat", "RW 8 FLAT \"data\" -8")),
        ("Invalid extent line", with("monolithicFlat", "RW 0 FLAT \"data\" 0")),
        ("Invalid extent line", with("monolithicFlat", "RW 18446744073709551615 FLAT \"data\" 0")),
        ("Unsupported extent type 'ODD'", with("monolithicFlat", "RW 8 ODD \"data\"")),
        ("Bad const header magic", with("monolithicFlat", "RW 8 SESPARSE \"data\"")),
        ("No such file", with("monolithicFlat", "RW 8 FLAT \"missing\" 0")),
        ("No such file", with("monolithicFlat", "RW 8 FLAT \"json:{}\" 0")),
        ("No such file", with("monolithicFlat", "RW 8 FLAT \"nbd://localhost/x\" 0")),
        ("Image not in VMDK format", with("twoGbMaxExtentSparse", "RW 8 SPARSE \"data\"")),
        ("Image not in VMDK format", with("twoGbMaxExtentSparse", "RW 8 SPARSE \"image\"")),
        ("more than 4096 extents", with("twoGbMaxExtentFlat", &many)),
        ("too large", with("twoGbMaxExtentFlat", &"RW 9007199254740992 FLAT \"data\" 0\n".repeat(3))),
    ];
    for (expected, text) in cases {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("data"), [1; 4096]).expect("a file");
        let file = dir.path().join("image");
        std::fs::write(&file, &text).expect("a file");
        let found = complaints("vmdk", &file);
        assert!(found.iter().any(|text| text.contains(expected)), "expected '{expected}', got {found:?}");
    }
}

#[test]
fn broken_streams_of_vmdk_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("image");
    create("vmdk", &file, 1 << 20, &[("subformat", "streamOptimized")]).expect("creates");
    let image = open("vmdk", &file);
    let flags = WriteFlags { compressed: true, ..WriteFlags::default() };
    aio::block_on(image.child.write(0, IoBuf::copy_of(&[7; 65536]), flags)).expect("writes");
    image.close();
    let bytes = std::fs::read(&file).expect("reads");
    let corpus = vec![
        ("corrupt", le32(65536 + 8, 0)),
        ("corrupt", le32(65536 + 8, u32::MAX)),
        ("corrupt", le32(65536 + 8, 5)),
        ("corrupt", At(65536 + 12, vec![0xff; 20])),
        ("", Cut(65536)),
    ];
    run_corpus("vmdk", &bytes, &corpus, 5);
}

/// CRC-32C, bit by bit.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// VHDX structures (both copies) with another field and a right checksum.
fn vhdx_field(image: &[u8], starts: [usize; 2], len: usize, fields: &[(usize, &[u8])]) -> Change {
    let changed = starts.map(|start| {
        let mut bytes = image[start..start + len].to_vec();
        for (at, value) in fields {
            bytes[*at..at + value.len()].copy_from_slice(value);
        }
        bytes[4..8].fill(0);
        let sum = crc32c(&bytes);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        (start, bytes)
    });
    Many(changed.to_vec())
}

#[test]
fn broken_vhdx_images_are_refused() {
    let image = good("vhdx", 4 << 20, &[("block_size", "1M")]);
    let head = |at: usize, value: &[u8]| vhdx_field(&image, [64 << 10, 128 << 10], 4096, &[(at, value)]);
    let region = |fields: &[(usize, &[u8])]| vhdx_field(&image, [192 << 10, 256 << 10], 64 << 10, fields);
    // The log is at 1 MiB, the table at 2 MiB, the metadata at 3 MiB, data from 4 MiB on.
    let (bat, meta) = (2 * MIB, 3 * MIB);
    let item = |index: usize, at: usize| meta + 32 + index * 32 + at;
    let value = meta + (64 << 10);
    let zeroes = |at: usize, len: usize| (at, vec![0; len]);
    let corpus = vec![
        ("not in VHDX format", Cut(0)),
        ("not in VHDX format", Cut(7)),
        ("No valid VHDX header found", Cut(8)),
        ("No valid VHDX header found", Cut(64 << 10)),
        ("No valid VHDX region table", Cut(192 << 10)),
        ("", Cut(MIB)),
        ("behind the end", Cut(3 * MIB)),
        ("points after end of file", Cut(4 * MIB)),
        ("not in VHDX format", At(0, b"vhdyfile".to_vec())),
        ("No valid VHDX header found", Many(vec![zeroes(64 << 10, 4096), zeroes(128 << 10, 4096)])),
        ("No valid VHDX header found", Many(vec![zeroes((64 << 10) + 4, 4), zeroes((128 << 10) + 4, 4)])),
        ("No valid VHDX header found", head(66, &2u16.to_le_bytes())),
        ("unknown version", head(64, &1u16.to_le_bytes())),
        ("log has a wrong place", head(72, &0u64.to_le_bytes())),
        ("log has a wrong place", head(72, &(1u64 << 20 | 512).to_le_bytes())),
        ("log has a wrong place", head(72, &(u64::MAX - 0xf_ffff).to_le_bytes())),
        ("log has a wrong place", head(68, &4096u32.to_le_bytes())),
        ("overlaps with region", head(72, &(2u64 << 20).to_le_bytes())),
        ("overlaps with region", head(68, &(2u32 << 20).to_le_bytes())),
        ("No valid VHDX region table", Many(vec![zeroes(192 << 10, 4), zeroes(256 << 10, 4)])),
        ("too many entries", region(&[(8, &3000u32.to_le_bytes())])),
        ("too many entries", region(&[(8, &u32::MAX.to_le_bytes())])),
        ("lacks a required region", region(&[(8, &1u32.to_le_bytes())])),
        ("lacks a required region", region(&[(8, &0u32.to_le_bytes())])),
        ("wrong place or size", region(&[(32, &0u64.to_le_bytes())])),
        ("wrong place or size", region(&[(32, &(1u64 << 20 | 1).to_le_bytes())])),
        ("wrong place or size", region(&[(32, &(u64::MAX - 0xf_ffff).to_le_bytes())])),
        ("wrong place or size", region(&[(40, &0u32.to_le_bytes())])),
        ("overlaps with region", region(&[(64, &(2u64 << 20).to_le_bytes())])),
        ("unknown required region", region(&[(16, &[9; 16])])),
        ("wrong signature", At(meta, b"metadatb".to_vec())),
        ("too many items", At(meta + 10, 5000u16.to_le_bytes().to_vec())),
        ("lack a required item", At(meta + 10, 4u16.to_le_bytes().to_vec())),
        ("item has a wrong place", le32(item(1, 16), 0)),
        ("item has a wrong place", le32(item(1, 16), u32::MAX)),
        ("item has a wrong place", le32(item(1, 20), u32::MAX)),
        ("unknown required metadata item", At(item(2, 0), vec![9; 16])),
        ("block size 0 is invalid", le32(value, 0)),
        ("is invalid", le32(value, 3 << 20)),
        ("is invalid", le32(value, 512 << 20)),
        ("is invalid", le32(value, 512 << 10)),
        ("Differencing", le32(value + 4, 2)),
        ("max of 64TB", le64(value + 8, (64 << 40) + 512)),
        ("max of 64TB", le64(value + 8, u64::MAX)),
        ("no multiple of its sector size", le64(value + 8, 513)),
        ("table is too small", le64(value + 8, 32 << 40)),
        ("sector size 1024 is not supported", le32(value + 32, 1024)),
        ("wrong state or place", le64(bat, 7)),
        ("wrong state or place", le64(bat, 4)),
        ("wrong state or place", le64(bat, 6)),
        ("wrong state or place", le64(bat, 6 | 2 << 20)),
        ("wrong state or place", le64(bat, 6 | (u64::MAX << 20))),
        ("points after end of file", le64(bat, 6 | 1 << 40)),
    ];
    run_corpus("vhdx", &image, &corpus, 25);
}

#[test]
fn broken_logs_of_vhdx_are_ignored_or_refused() {
    let image = good("vhdx", 4 << 20, &[("block_size", "1M")]);
    let guid = [0x5a; 16];
    let entry = |length: u32, tail: u32, descriptors: u32, extra: &[(usize, &[u8])]| {
        let mut bytes = vec![0; 8192];
        bytes[..4].copy_from_slice(b"loge");
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[12..16].copy_from_slice(&tail.to_le_bytes());
        bytes[16..24].copy_from_slice(&1u64.to_le_bytes());
        bytes[24..28].copy_from_slice(&descriptors.to_le_bytes());
        bytes[32..48].copy_from_slice(&guid);
        for (at, value) in extra {
            bytes[*at..at + value.len()].copy_from_slice(value);
        }
        let sum = crc32c(&bytes[..(length as usize).min(8192)]);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        bytes
    };
    let descriptor = |kind: &[u8; 4], offset: u64, len: u64| {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(kind);
        bytes[8..16].copy_from_slice(&len.to_le_bytes());
        bytes[16..24].copy_from_slice(&offset.to_le_bytes());
        bytes[24..32].copy_from_slice(&1u64.to_le_bytes());
        bytes
    };
    // With an error text, those that are taken for entries; without, those that are no entries at all.
    let cases: Vec<(Option<&str>, Vec<u8>)> = vec![
        (None, vec![0; 8192]),
        (None, vec![0xff; 8192]),
        (None, entry(0, 0, 0, &[])),
        (None, entry(100, 0, 0, &[])),
        (None, entry(u32::MAX, 0, 0, &[])),
        (None, entry(4096, 0, u32::MAX, &[])),
        (None, entry(4096, 8192, 0, &[])),
        (None, entry(4096, 1, 0, &[])),
        (Some("log is corrupt"), entry(4096, 0, 1, &[(64, &descriptor(b"desc", 2 << 20, 0))])),
        (Some("log is corrupt"), entry(8192, 0, 1, &[(64, &descriptor(b"desc", 2 << 20, 0))])),
        (Some("log is corrupt"), entry(4096, 0, 1, &[(64, &descriptor(b"zero", 77, 4096))])),
        (Some("log is corrupt"), entry(4096, 0, 1, &[(64, &descriptor(b"zero", u64::MAX - 4095, 4096))])),
        (Some("Invalid VHDX log descriptor"), entry(4096, 0, 1, &[(64, &descriptor(b"oops", 2 << 20, 0))])),
        (Some("shorter than its log says"), entry(4096, 0, 0, &[(48, &(1u64 << 40).to_le_bytes())])),
    ];
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("image");
    for (index, (expected, log)) in cases.iter().enumerate() {
        let bytes = apply(&image, &vhdx_field(&image, [64 << 10, 128 << 10], 4096, &[(48, &guid)]));
        std::fs::write(&file, apply(&bytes, &At(MIB, log.clone()))).expect("a file");
        let writable = try_open("vhdx", &file, false).map(Image::close).map_err(|error| error.to_string());
        match (expected, writable) {
            (None, Ok(())) => {}
            (Some(expected), Err(error)) if error.contains(expected) => {}
            (_, result) => panic!("log {index}: expected {expected:?}, got {result:?}"),
        }
    }
}

#[test]
fn broken_parallels_images_are_refused() {
    let image = good("parallels", 8 << 20, &[]);
    let corpus = vec![
        ("not in Parallels format", Cut(0)),
        ("Zero sectors", Cut(17)),
        ("Zero sectors", Cut(28)),
        ("behind the end", Cut(64)),
        ("not in Parallels format", At(0, vec![0; 16])),
        ("not in Parallels format", le32(16, 3)),
        ("Zero sectors per track", le32(28, 0)),
        ("Too big cluster", le32(28, u32::MAX)),
        ("Catalog too large", le32(32, u32::MAX)),
        ("behind the end", le32(32, 0x1000_0000)),
        ("no room for this cluster", le32(32, 1)),
        ("too large", le64(36, u64::MAX)),
        ("cannot be opened read/write", le32(44, 0x746f_6e59)),
        ("outside image", le32(64, u32::MAX)),
        ("outside image", le32(68, 77)),
        ("shares its data", le32(68, 1)),
    ];
    run_corpus("parallels", &image, &corpus, 10);
}

#[test]
fn broken_qed_images_are_refused() {
    let image = good("qed", 8 << 20, &[("cluster_size", "4k"), ("table_size", "2")]);
    let l2 = u64::from_le_bytes(image[4096..4104].try_into().expect("eight")) as usize;
    let corpus = vec![
        ("not in QED format", Cut(0)),
        ("", Cut(40)),
        ("table offset is invalid", Cut(4096)),
        ("not in QED format", le32(0, 0)),
        ("cluster size is invalid", le32(4, 0)),
        ("cluster size is invalid", le32(4, 4097)),
        ("cluster size is invalid", le32(4, u32::MAX)),
        ("table size is invalid", le32(8, 0)),
        ("table size is invalid", le32(8, 32)),
        ("table offset is invalid", le32(12, u32::MAX)),
        ("Unsupported QED features: 8", le64(16, 8)),
        ("table offset is invalid", le64(40, 0)),
        ("table offset is invalid", le64(40, 4097)),
        ("table offset is invalid", le64(40, u64::MAX)),
        ("image size is invalid", le64(48, u64::MAX)),
        ("image size is invalid", le64(48, 511)),
        ("backing filename offset is invalid", Many(vec![(16, vec![1]), (56, vec![0xff; 8])])),
        ("wrong place", le64(4096, u64::MAX)),
        ("corruptions", le64(4096, 4096)),
        ("wrong place", le64(4096, 1 << 40)),
        ("wrong place", le64(l2, 4095)),
        ("wrong place", le64(l2, u64::MAX - 4095)),
    ];
    run_corpus("qed", &image, &corpus, 10);
}

#[test]
fn broken_qcow_images_are_refused() {
    let image = good("qcow", 8 << 20, &[]);
    let l2 = u64::from_be_bytes(image[48..56].try_into().expect("eight")) as usize;
    let corpus = vec![
        ("not in qcow format", Cut(0)),
        ("not in qcow format", Cut(47)),
        ("not in qcow format", be32(0, 0)),
        ("does not support qcow version 2", be32(4, 2)),
        ("does not support qcow version 0", be32(4, 0)),
        ("outside of the file", be64(8, 1 << 40)),
        ("Backing file name too long", Many(vec![(15, vec![48]), (16, vec![0xff; 4])])),
        ("too small", be64(24, 0)),
        ("Image too large", be64(24, u64::MAX)),
        ("outside of the file", be64(24, 1 << 40)),
        ("Cluster size must be between", At(32, vec![8])),
        ("Cluster size must be between", At(32, vec![64])),
        ("L2 table size must be between", At(33, vec![5])),
        ("L2 table size must be between", At(33, vec![255])),
        ("not supported", be32(36, 1)),
        ("invalid encryption method", be32(36, 2)),
        ("outside of the file", be64(40, 0)),
        ("outside of the file", be64(40, u64::MAX)),
        ("wrong place", be64(48, u64::MAX)),
        ("wrong place", be64(48, 12345)),
        ("wrong place", be64(l2, 1)),
        ("wrong place", be64(l2, u64::MAX >> 1)),
        ("corrupt", be64(l2, u64::MAX)),
        ("corrupt", be64(l2, 1 << 63)),
    ];
    run_corpus("qcow", &image, &corpus, 10);
}

/// As `run_corpus`, for formats that are only read.
fn run_reading(format: &str, corpus: Vec<(&str, Vec<u8>)>) {
    assert!(corpus.len() >= 10, "{format}");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("broken");
    for (index, (expected, bytes)) in corpus.into_iter().enumerate() {
        std::fs::write(&file, bytes).expect("a file");
        let options = Options::new().with("driver", format).with("filename", path(&file));
        let error = match try_open_with(options, true, OpenFlags::default()) {
            Ok(image) => aio::block_on(image.child.read_vec(0, 4096)).map(|_| ()).expect_err("reads or refuses"),
            Err(error) => error,
        };
        assert!(error.to_string().contains(expected), "{format}, variant {index}: '{expected}' is not in '{error}'");
    }
}

#[test]
fn broken_bochs_images_are_refused() {
    let mut image = vec![0; 4096];
    image[..22].copy_from_slice(b"Bochs Virtual HD Image");
    image[32..39].copy_from_slice(b"Redolog");
    image[48..55].copy_from_slice(b"Growing");
    for (at, value) in [(64, 0x2_0000u32), (68, 512), (72, 16), (76, 512), (80, 65536), (88, 1 << 20)] {
        image[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    image[512..576].fill(0xff);
    let good = image.clone();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("good");
    std::fs::write(&file, &good).expect("a file");
    let opened = try_open("bochs", &file, true).expect("opens");
    assert!(opened.contents() == vec![0; MIB]);
    let error = try_open("bochs", &file, false).map(|_| ()).expect_err("read only");
    assert!(error.to_string().ends_with("Image is read-only"), "{error}");
    let corpus = [
        ("not in Bochs format", Cut(0)),
        ("not in Bochs format", Cut(60)),
        ("not in Bochs format", At(0, vec![b'x'])),
        ("not in Bochs format", At(32, vec![b'x'])),
        ("not in Bochs format", At(48, vec![b'x'])),
        ("not in Bochs format", le32(64, 3)),
        ("Catalog size is too large", le32(72, u32::MAX)),
        ("too small for this disk size", le32(72, 1)),
        ("Extent size must be at least 512", le32(80, 0)),
        ("is not a power of two", le32(80, 65537)),
        ("is too large", le32(80, 1 << 31)),
        ("bitmaps of the extents are too small", le32(80, 4 << 20)),
        ("too small for this disk size", le64(88, u64::MAX)),
        ("behind the end", le32(68, u32::MAX)),
    ];
    run_reading("bochs", corpus.into_iter().map(|(text, change)| (text, apply(&good, &change))).collect());
}

fn cloop_image() -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut encoder, &[3; 4096]).expect("packs");
    let block = encoder.finish().expect("packs");
    let mut image = vec![0; 128];
    image.extend(4096u32.to_be_bytes());
    image.extend(1u32.to_be_bytes());
    image.extend(152u64.to_be_bytes());
    image.extend((152 + block.len() as u64).to_be_bytes());
    image.extend(block);
    image
}

#[test]
fn broken_cloop_images_are_refused() {
    let good = cloop_image();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("good");
    std::fs::write(&file, &good).expect("a file");
    assert_eq!(try_open("cloop", &file, true).expect("opens").contents(), [3; 4096]);
    let corpus = [
        ("block_size cannot be zero", Cut(0)),
        ("block_size cannot be zero", be32(128, 0)),
        ("must be a multiple of 512", be32(128, 513)),
        ("must be 64 MB or less", be32(128, 0xffff_fe00)),
        ("n_blocks 4294967295 must be 536870911 or less", be32(132, u32::MAX)),
        ("too many offsets", be32(132, 100_000_000)),
        ("behind the end", be32(132, 1_000_000)),
        ("not monotonically increasing at index 1", be64(144, 1)),
        ("invalid compressed block size at index 1", be64(144, 1 << 40)),
        (
            "behind the end",
            Many(vec![(136, (1u64 << 40).to_be_bytes().to_vec()), (144, (1u64 << 40 | 9).to_be_bytes().to_vec())]),
        ),
        ("corrupt", At(152, vec![0xff; 8])),
        ("too short", be32(128, 8192)),
    ];
    run_reading("cloop", corpus.into_iter().map(|(text, change)| (text, apply(&good, &change))).collect());
}

/// A dmg with one chunk of 8 sectors of a kind, in a resource fork.
fn dmg_image(kind: u32, data: &[u8], sectors: u64, len: u64) -> Vec<u8> {
    let mut block = b"mish".to_vec();
    block.resize(204, 0);
    block[16..24].copy_from_slice(&8u64.to_be_bytes());
    block.extend(kind.to_be_bytes());
    block.extend([0; 4]);
    for value in [0u64, sectors, 0, len] {
        block.extend(value.to_be_bytes());
    }
    let mut image = data.to_vec();
    let fork = image.len() as u64;
    image.extend(16u32.to_be_bytes());
    image.extend([0; 4]);
    image.extend((block.len() as u32 + 4).to_be_bytes());
    image.extend([0; 4]);
    image.extend((block.len() as u32).to_be_bytes());
    image.extend(&block);
    let fork_len = image.len() as u64 - fork;
    let mut trailer = b"koly".to_vec();
    trailer.resize(512, 0);
    trailer[0x28..0x30].copy_from_slice(&fork.to_be_bytes());
    trailer[0x30..0x38].copy_from_slice(&fork_len.to_be_bytes());
    trailer[0x1ec..0x1f4].copy_from_slice(&8u64.to_be_bytes());
    image.extend(trailer);
    image
}

#[test]
fn broken_dmg_images_are_refused_and_good_ones_read() {
    let plain: Vec<u8> = (0..4096u32).map(|at| (at / 100) as u8).collect();
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut zlib, &plain).expect("packs");
    let zlib = zlib.finish().expect("packs");
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
    std::io::Write::write_all(&mut bzip2, &plain).expect("packs");
    let bzip2 = bzip2.finish().expect("packs");
    let adc: Vec<u8> = plain.chunks(128).flat_map(|run| [&[0x80 | (run.len() as u8 - 1)], run].concat()).collect();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("good.dmg");
    for (kind, data) in [(1, &plain), (0x8000_0004, &adc), (0x8000_0005, &zlib), (0x8000_0006, &bzip2)] {
        std::fs::write(&file, dmg_image(kind, data, 8, data.len() as u64)).expect("a file");
        assert!(try_open("dmg", &file, true).expect("opens").contents() == plain, "kind {kind:x}");
    }
    std::fs::write(&file, dmg_image(2, &[], 8, 0)).expect("a file");
    assert!(try_open("dmg", &file, true).expect("opens").contents() == [0; 4096]);

    let good = dmg_image(0x8000_0005, &zlib, 8, zlib.len() as u64);
    let trailer = good.len() - 512;
    let changed = |change: Change| apply(&good, &change);
    let corpus = vec![
        ("must be at least 512 bytes", changed(Cut(0))),
        ("must be at least 512 bytes", changed(Cut(511.min(zlib.len())))),
        ("Could not locate UDIF trailer", changed(At(trailer, vec![0; 4]))),
        ("resource fork lies outside", changed(be64(trailer + 0x28, u64::MAX))),
        ("resource fork lies outside", changed(be64(trailer + 0x30, 1 << 40))),
        ("no tables", changed(be64(trailer + 0x30, 0))),
        ("property list lies outside", changed(Many(vec![(trailer + 0x30, vec![0; 8]), (trailer + 0xe0, vec![9; 8])]))),
        ("too large", changed(be64(trailer + 0x1ec, u64::MAX))),
        ("wrong place", changed(be64(trailer + 0x18, u64::MAX))),
        ("resource fork is broken", changed(be32(zlib.len() + 16, u32::MAX))),
        ("corrupt", changed(At(0, vec![0xff; 8]))),
        ("lzfse", dmg_image(0x8000_0007, &zlib, 8, zlib.len() as u64)),
        ("lzma", dmg_image(0x8000_0008, &zlib, 8, zlib.len() as u64)),
        ("unknown", dmg_image(0x8000_0099, &zlib, 8, zlib.len() as u64)),
        ("is larger than max", dmg_image(0x8000_0005, &zlib, 1 << 30, zlib.len() as u64)),
        ("is larger than max", dmg_image(0x8000_0005, &zlib, 8, 1 << 40)),
        ("wrong place", dmg_image(0, &[], u64::MAX, 0)),
        ("too short", dmg_image(0x8000_0005, &zlib, 9, zlib.len() as u64)),
        ("behind the end", dmg_image(0x8000_0005, &zlib, 8, 1 << 20)),
    ];
    run_reading("dmg", corpus);
}
