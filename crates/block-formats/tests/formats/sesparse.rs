//! `seSparse` extents of vmdk: made by hand, read as the peer reads them.

use std::path::Path;

use crate::support::*;

const SECTOR: usize = 512;
const GRAIN: usize = 4096;
/// Grains of a table.
const ENTRIES: usize = 4096;
/// Sectors of the parts of the file: volatile header, directory, tables, grains.
const VOLATILE: u64 = 1;
const DIRECTORY: u64 = 8;
const TABLES: u64 = 16;
const GRAINS: u64 = 16 + 2 * 64;
/// Two tables and a part of a third, which does not exist.
const CAPACITY: u64 = 2 * 32768 + 64;

fn put(file: &mut [u8], at: usize, value: u64) {
    file[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn extent() -> Vec<u8> {
    let mut file = vec![0; usize::try_from(GRAINS).expect("small") * SECTOR + 4 * GRAIN];
    let header = [
        0xcafe_babe,
        0x2_0000_0001,
        CAPACITY,
        8,
        64,
        0,
        0,
        0,
        0,
        0,
        VOLATILE,
        1,
        2,
        1,
        3,
        1,
        DIRECTORY,
        1,
        TABLES,
        128,
    ];
    for (index, value) in header.into_iter().enumerate() {
        put(&mut file, index * 8, value);
    }
    put(&mut file, 192, GRAINS);
    put(&mut file, 200, 32);
    put(&mut file, SECTOR, 0xcafe_cafe);
    let at = |sector: u64| usize::try_from(sector).expect("small") * SECTOR;
    put(&mut file, at(DIRECTORY), 0x1000_0000_0000_0000);
    put(&mut file, at(DIRECTORY) + 8, 0x1000_0000_0000_0001);
    // Grain numbers have their lowest 12 bits in bits 48 to 59.
    let grain = |number: u64| 0x3000_0000_0000_0000 | (number & 0xfff) << 48 | number >> 12;
    let entries: [(usize, u64); 6] =
        [(0, grain(2)), (1, grain(3)), (2, 1 << 60), (3, 2 << 60), (5, grain(0)), (ENTRIES + 7, grain(1))];
    for (index, entry) in entries {
        put(&mut file, at(TABLES) + index * 8, entry);
    }
    for number in 0..4 {
        let start = at(GRAINS) + number * GRAIN;
        file[start..start + GRAIN].fill(u8::try_from(number + 1).expect("small"));
    }
    file
}

fn image(directory: &Path, extent: &[u8]) -> std::path::PathBuf {
    std::fs::write(directory.join("disk-sesparse.vmdk"), extent).expect("writes");
    let text = format!(
        "# Disk DescriptorFile\nversion=4\nencoding=\"UTF-8\"\nCID=fffffffe\nparentCID=ffffffff\n\
         createType=\"seSparse\"\n\n# Extent description\nRW {CAPACITY} SESPARSE \"disk-sesparse.vmdk\"\n"
    );
    let file = directory.join("disk.vmdk");
    std::fs::write(&file, text).expect("writes");
    file
}

#[test]
fn grains_of_sesparse_extents_are_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = image(dir.path(), &extent());
    let image = try_open("vmdk", &file, true).expect("opens");
    let found = image.contents();
    assert_eq!(found.len() as u64, CAPACITY * 512);
    let mut expected = vec![0; found.len()];
    for (grain, byte) in [(0, 3), (1, 4), (5, 1), (ENTRIES + 7, 2)] {
        expected[grain * GRAIN..(grain + 1) * GRAIN].fill(byte);
    }
    assert!(found == expected);
    image.close();
    let error = try_open("vmdk", &file, false).err().expect("refused for writing");
    assert!(error.to_string().contains("No write support for seSparse images available"), "{error}");
    if have_peers() {
        let raw = dir.path().join("raw");
        std::fs::write(&raw, expected).expect("writes");
        run("qemu-img", &["compare", "-f", "vmdk", "-F", "raw", &path(&file), &path(&raw)]);
    }
}

#[test]
fn broken_sesparse_extents_are_refused() {
    let volatile = SECTOR;
    let broken: &[(usize, u64, &str)] = &[
        (0, 1, "Bad const header magic: 0x0000000000000001"),
        (8, 1, "Unsupported version: 0x0000000000000001"),
        (16, u64::MAX, "L1 size too big"),
        (16, 1, "smaller than its line says"),
        (24, 16, "Unsupported grain size: 16"),
        (32, 32, "Unsupported grain table size: 32"),
        (40, 3, "Unsupported flags: 0x0000000000000003"),
        (56, 1, "Unsupported reserved bits"),
        (80, u64::MAX, "behind the largest offset"),
        (80, 9999, "Bad volatile header magic: 0x0000000000000000"),
        (128, u64::MAX, "behind the largest offset"),
        (136, u64::MAX, "L1 size too big"),
        (144, u64::MAX / 512, "behind the largest offset"),
        (192, u64::MAX / 16, "behind the largest offset"),
        (208, 1, "Unsupported non-zero const header padding"),
        (504, 1, "Unsupported non-zero const header padding"),
        (volatile, 2, "Bad volatile header magic"),
        (volatile + 24, 1, "Image is dirty, Replaying journal not supported"),
        (volatile + 504, 1, "Unsupported non-zero volatile header padding"),
    ];
    let at = |sector: u64| usize::try_from(sector).expect("small") * SECTOR;
    let unreadable: &[(usize, u64)] = &[
        (136, 0),
        (at(DIRECTORY), 1),
        (at(DIRECTORY), 0x1000_0001_0000_0000),
        (at(DIRECTORY), 0x1000_0000_ffff_ffff),
        (at(DIRECTORY), 0x2000_0000_0000_0000),
        (at(TABLES), 1),
        (at(TABLES), 0x3fff_ffff_ffff_ffff),
        (at(TABLES), 0x4000_0000_0000_0000),
        (at(TABLES), u64::MAX),
    ];
    let dir = tempfile::tempdir().expect("a directory");
    for (offset, value, text) in broken {
        let mut bytes = extent();
        put(&mut bytes, *offset, *value);
        let error = try_open("vmdk", &image(dir.path(), &bytes), true).err();
        let error = error.unwrap_or_else(|| panic!("{offset} {value:#x} opens")).to_string();
        assert!(error.contains(text), "{offset} {value:#x}: {error}");
    }
    for (offset, value) in unreadable {
        let mut bytes = extent();
        put(&mut bytes, *offset, *value);
        let image = try_open("vmdk", &image(dir.path(), &bytes), true).expect("opens");
        assert!(aio::block_on(image.child.read_vec(0, 512)).is_err(), "{offset} {value:#x} reads");
        image.close();
    }
    println!("sesparse: {} broken images", broken.len() + unreadable.len());
}
