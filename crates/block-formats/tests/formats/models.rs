//! Random requests against a model in memory; with a backing, with several tasks, with reopening.

use std::path::Path;
use std::sync::Arc;

use block::image::FixMode;
use block::{Options, WriteFlags, ZeroFlags};
use iobuf::IoBuf;

use crate::support::*;

const MIB: u64 = 1 << 20;

/// A format, its options of creation, a size.
type Case = (&'static str, &'static [(&'static str, &'static str)], u64);

/// Small clusters, so that many are touched.
const CASES: &[Case] = &[
    ("vdi", &[], 24 * MIB + 512),
    ("vdi", &[("static", "on")], 8 * MIB),
    ("vpc", &[("force_size", "on")], 24 * MIB),
    ("vpc", &[("subformat", "fixed"), ("force_size", "on")], 4 * MIB),
    ("vmdk", &[], 8 * MIB + 512),
    ("vmdk", &[("zeroed_grain", "on")], 8 * MIB),
    ("vmdk", &[("subformat", "twoGbMaxExtentFlat")], 4 * MIB),
    ("vhdx", &[("block_size", "1M")], 24 * MIB),
    ("vhdx", &[("subformat", "fixed"), ("block_size", "2M")], 8 * MIB),
    ("parallels", &[("cluster_size", "64k")], 8 * MIB + 512),
    ("parallels", &[], 24 * MIB),
    ("qed", &[("cluster_size", "4k"), ("table_size", "2")], 6 * MIB),
    ("qed", &[], 8 * MIB + 512),
    ("qcow", &[], 6 * MIB + 512),
];

struct Model(Vec<u8>);

impl Model {
    fn part(&mut self, offset: u64, len: usize) -> &mut [u8] {
        let start = usize::try_from(offset).expect("small");
        &mut self.0[start..start + len]
    }
}

fn one_step(image: &Image, model: &mut Model, random: &mut Random, with_backing: bool) {
    let size = image.child.len();
    let offset = random.below(size);
    let sector = |value: u64| value / 512 * 512;
    let offset = if random.below(4) == 0 { offset } else { sector(offset) };
    let longest = if random.below(8) == 0 { 2 * MIB } else { 20_000 };
    let len = (random.below(longest) + 1).min(size - offset);
    let bytes = usize::try_from(len).expect("small");
    match random.below(10) {
        0..5 => {
            let data: Vec<u8> = (0..bytes).map(|_| 0).collect();
            let mut data = data;
            let seed = random.next();
            data.iter_mut().enumerate().for_each(|(at, byte)| *byte = (seed >> (at % 8 * 8)) as u8 ^ at as u8);
            image.write(offset, &data);
            model.part(offset, bytes).copy_from_slice(&data);
        }
        5 | 6 => {
            let flags = ZeroFlags { may_unmap: random.below(2) == 0, ..ZeroFlags::default() };
            aio::block_on(image.child.write_zeroes(offset, len, flags)).expect("zeroes");
            model.part(offset, bytes).fill(0);
        }
        7 if !with_backing => {
            aio::block_on(image.child.discard(offset, len)).expect("discards");
            // Either what was there, or zeroes.
            let now = image.read(offset, bytes);
            for (old, new) in model.part(offset, bytes).iter_mut().zip(now) {
                assert!(new == *old || new == 0, "a discard changed data to something else");
                *old = new;
            }
        }
        8 => aio::block_on(image.child.flush()).expect("flushes"),
        _ => assert!(image.read(offset, bytes) == model.part(offset, bytes), "read {offset}+{len}"),
    }
}

fn run_case(format: &str, options: &[(&str, &str)], size: u64, dir: &Path, seed: u64) {
    let file = dir.join(format!("image.{format}"));
    create(format, &file, size, options).expect("creates");
    let mut random = Random(seed);
    let mut model: Option<Model> = None;
    for _ in 0..3 {
        let image = open(format, &file);
        let model = model.get_or_insert_with(|| Model(vec![0; usize::try_from(image.child.len()).expect("small")]));
        for _ in 0..40 {
            one_step(&image, model, &mut random, false);
        }
        image.close();
        let image = try_open(format, &file, true).expect("opens again");
        assert!(image.contents() == model.0, "{format} {options:?}: contents after reopening");
        if !["vpc", "qcow"].contains(&format) {
            let result = image.check(FixMode::default());
            assert_eq!((result.corruptions, result.check_errors), (0, 0), "{format}: {result:?}");
        }
        image.close();
    }
    if have_peers() {
        let raw = dir.join("expected");
        std::fs::write(&raw, &model.expect("a model").0).expect("a raw file");
        run("qemu-img", &["compare", "-f", format, "-F", "raw", &path(&file), &path(&raw)]);
        if !["vpc", "qcow"].contains(&format) {
            run("qemu-img", &["check", "-f", format, &path(&file)]);
        }
    }
}

#[test]
fn random_requests_do_what_a_model_does() {
    for (index, (format, options, size)) in CASES.iter().enumerate() {
        let dir = tempfile::tempdir().expect("a directory");
        run_case(format, options, *size, dir.path(), (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
}

/// The status of every byte must fit to what is read: zeroes where it says so, and the file's bytes at its offset.
#[test]
fn block_status_agrees_with_what_is_read() {
    for (format, options, size) in CASES {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join(format!("image.{format}"));
        create(format, &file, *size, options).expect("creates");
        let image = open(format, &file);
        let mut random = Random(7);
        let mut model = Model(vec![0; usize::try_from(image.child.len()).expect("small")]);
        for _ in 0..30 {
            one_step(&image, &mut model, &mut random, false);
        }
        aio::block_on(image.child.flush()).expect("flushes");
        let mut at = 0;
        while at < image.child.len() {
            let status = aio::block_on(image.child.block_status(at, u64::MAX / 4, true)).expect("status");
            assert!(status.len != 0, "{format}");
            let len = usize::try_from(status.len).expect("small");
            let bytes = model.part(at, len);
            if status.zero || !status.allocated {
                assert!(bytes.iter().all(|byte| *byte == 0), "{format}: zeroes at {at}+{len}: {status:?}");
            } else if let Some(offset) = status.offset {
                let below = image.child.node().driver().data_child_at(at).expect("a file");
                assert!(aio::block_on(below.read_vec(offset, len)).expect("reads") == bytes, "{format}: {at}+{len}");
            }
            at += status.len;
        }
        image.close();
    }
}

#[test]
fn overlays_read_through_and_keep_what_was_under_partial_writes() {
    for (format, base_format, options) in [
        ("vmdk", "vmdk", &[][..]),
        ("vmdk", "vmdk", &[("zeroed_grain", "on")][..]),
        ("qed", "raw", &[("cluster_size", "4k"), ("table_size", "2")][..]),
        ("qed", "qed", &[][..]),
        ("qcow", "raw", &[][..]),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let base = dir.path().join("base");
        let size = 6 * MIB;
        // The base is shorter than its overlay.
        if base_format == "raw" {
            std::fs::write(&base, vec![0; 4 << 20]).expect("a base");
        } else {
            create(base_format, &base, 4 * MIB, &[]).expect("creates a base");
        }
        let mut model = Model(vec![0; 6 << 20]);
        let image = open(base_format, &base);
        let data: Vec<u8> = (0..4 << 20).map(|at: u32| (at >> 9) as u8 | 1).collect();
        image.write(0, &data);
        model.part(0, 4 << 20).copy_from_slice(&data);
        image.close();

        let file = dir.path().join(format!("overlay.{format}"));
        let mut all = vec![("backing_file", "base"), ("backing_fmt", base_format)];
        all.extend_from_slice(options);
        create(format, &file, size, &all).expect("creates an overlay");
        let image = open(format, &file);
        let backing = image.child.node().driver().image_backing().expect("a backing");
        assert_eq!(backing.file, "base", "{format}");
        assert!(image.contents() == model.0, "{format}: an empty overlay");
        let mut random = Random(99);
        for _ in 0..100 {
            one_step(&image, &mut model, &mut random, true);
        }
        assert!(image.contents() == model.0, "{format}: contents");
        image.close();
        if have_peers() {
            let raw = dir.path().join("expected");
            std::fs::write(&raw, &model.0).expect("a raw file");
            run("qemu-img", &["compare", "-f", format, "-F", "raw", &path(&file), &path(&raw)]);
        }
    }
}

#[test]
fn a_vmdk_overlay_notices_that_its_parent_was_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let (base, file) = (dir.path().join("base.vmdk"), dir.path().join("overlay.vmdk"));
    create("vmdk", &base, MIB, &[]).expect("creates");
    create("vmdk", &file, MIB, &[("backing_file", "base.vmdk"), ("backing_fmt", "vmdk")]).expect("creates");
    let image = try_open("vmdk", &file, true).expect("opens");
    assert_eq!(image.read(0, 512), [0; 512]);
    image.close();
    let parent = open("vmdk", &base);
    parent.write(0, &[1; 512]);
    parent.close();
    let image = try_open("vmdk", &file, true).expect("opens");
    let error = aio::block_on(image.child.read_vec(0, 512)).expect_err("another parent");
    assert!(error.to_string().contains("content ID"), "{error}");
}

/// Many writes to parts of the same unallocated clusters at the same time: no one may lose its data.
#[test]
fn writes_to_one_new_cluster_at_the_same_time_all_arrive() {
    for (format, options, size) in CASES {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join(format!("image.{format}"));
        create(format, &file, *size, options).expect("creates");
        let image = open(format, &file);
        let child = Arc::clone(&image.child);
        aio::block_on(async {
            let writes = (0..256u64).map(|index| {
                let child = Arc::clone(&child);
                let at = index * 37 % 256 * 3072;
                async move {
                    let data = IoBuf::copy_of(&[(at / 3072) as u8 | 1; 3072]);
                    child.write(at, data, WriteFlags::default()).await.expect("writes");
                }
            });
            join_all(writes.map(|write| Box::pin(write) as std::pin::Pin<Box<dyn Future<Output = ()>>>).collect())
                .await;
        });
        let allocated = std::fs::metadata(&file).expect("a file").len();
        let read = image.read(0, 256 * 3072);
        for (index, part) in read.chunks(3072).enumerate() {
            assert!(part.iter().all(|byte| *byte == index as u8 | 1), "{format}: part {index}");
        }
        image.close();
        assert!(allocated < size + 16 * MIB, "{format}: {allocated} bytes for {size}: clusters were allocated twice");
        let image = try_open(format, &file, true).expect("opens");
        assert!(image.read(0, 256 * 3072) == read, "{format}: after reopening");
        if !["vpc", "qcow"].contains(format) {
            assert_eq!(image.check(FixMode::default()).corruptions, 0, "{format}");
        }
        image.close();
    }
}

/// Polls all of them until each is done.
async fn join_all(mut futures: Vec<std::pin::Pin<Box<dyn Future<Output = ()>>>>) {
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[test]
fn compressed_clusters_are_read_back_by_both_sides() {
    for (format, options) in [("vmdk", &[("subformat", "streamOptimized")][..]), ("qcow", &[][..])] {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join(format!("image.{format}"));
        // The peer can't pack the end of a qcow image that is no whole cluster.
        let size = if format == "qcow" { 3 * MIB } else { 3 * MIB + 512 };
        create(format, &file, size, options).expect("creates");
        let image = open(format, &file);
        let cluster = image.child.node().driver().details().cluster_size.expect("clusters");
        let mut model = vec![0u8; usize::try_from(size).expect("small")];
        let mut random = Random(3);
        let mut at = 0;
        while at < size {
            let len = usize::try_from(cluster.min(size - at)).expect("small");
            let kind = random.below(3);
            let data: Vec<u8> = (0..len).map(|i| if kind == 0 { i as u8 } else { random.next() as u8 }).collect();
            if kind != 2 {
                let flags = WriteFlags { compressed: true, ..WriteFlags::default() };
                aio::block_on(image.child.write(at, IoBuf::copy_of(&data), flags)).expect("writes");
                let start = usize::try_from(at).expect("small");
                model[start..start + len].copy_from_slice(&data);
            }
            at += cluster;
        }
        if format == "qcow" {
            // A compressed cluster is unpacked when a part of it is written.
            image.write(700, &[0xee; 100]);
            model[700..800].fill(0xee);
        }
        assert!(image.contents() == model, "{format}");
        image.close();
        let image = try_open(format, &file, true).expect("opens");
        assert!(image.contents() == model, "{format}: after reopening");
        image.close();
        if have_peers() {
            let raw = dir.path().join("expected");
            std::fs::write(&raw, &model).expect("a raw file");
            run("qemu-img", &["compare", "-f", format, "-F", "raw", &path(&file), &path(&raw)]);
            if format == "qcow" {
                // qemu-img 7.2 fails to write compressed qcow images.
                continue;
            }
            let theirs = dir.path().join(format!("theirs.{format}"));
            let text: Vec<String> = options.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let text = text.join(",");
            let mut args = vec!["convert", "-c", "-f", "raw", "-O", format];
            if !text.is_empty() {
                args.extend(["-o", &text]);
            }
            let (raw, theirs_name) = (path(&raw), path(&theirs));
            args.extend([&raw[..], &theirs_name]);
            run("qemu-img", &args);
            let image = try_open(format, &theirs, true).expect("opens");
            assert!(image.contents() == model, "{format}: packed by qemu-img");
            image.close();
        }
    }
}

/// An image whose writer died after a flush: everything is there.
#[test]
fn what_was_flushed_survives_without_a_close() {
    for (format, options, size) in CASES {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join(format!("image.{format}"));
        create(format, &file, *size, options).expect("creates");
        let image = open(format, &file);
        let mut random = Random(17);
        let mut model = Model(vec![0; usize::try_from(image.child.len()).expect("small")]);
        for _ in 0..40 {
            one_step(&image, &mut model, &mut random, false);
        }
        aio::block_on(image.child.flush()).expect("flushes");
        let copy_dir = tempfile::tempdir().expect("a directory");
        for entry in std::fs::read_dir(dir.path()).expect("a directory") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), copy_dir.path().join(entry.file_name())).expect("copies");
        }
        let copy = copy_dir.path().join(format!("image.{format}"));
        if *format == "parallels" {
            let error = try_open(format, &copy, false).map(|_| ()).expect_err("in use");
            assert!(error.to_string().contains("Image was not closed correctly"), "{error}");
            let flags = block::OpenFlags { check: true, ..block::OpenFlags::default() };
            let options = Options::new().with("driver", *format).with("filename", path(&copy));
            let opened = try_open_with(options, false, flags).expect("opens for a check");
            let result = opened.check(FixMode { leaks: true, errors: true });
            assert_eq!((result.corruptions, result.corruptions_fixed), (1, 1), "{result:?}");
            opened.close();
        }
        if have_peers() && *format == "vhdx" {
            // The peer replays our log.
            run("qemu-img", &["check", "-r", "all", "-f", "vhdx", &path(&copy)]);
        }
        let opened = open(format, &copy);
        assert!(opened.contents() == model.0, "{format} {options:?}: contents of a copy");
        opened.close();
        if have_peers() {
            let raw = dir.path().join("expected");
            std::fs::write(&raw, &model.0).expect("a raw file");
            run("qemu-img", &["compare", "-f", format, "-F", "raw", &path(&copy), &path(&raw)]);
            if !["vpc", "qcow"].contains(format) {
                run("qemu-img", &["check", "-f", format, &path(&copy)]);
            }
        }
        image.close();
    }
}

#[test]
fn qed_grows_and_takes_another_backing() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("image.qed");
    create("qed", &file, MIB, &[("cluster_size", "4k"), ("table_size", "2")]).expect("creates");
    std::fs::write(dir.path().join("raw"), vec![9; 8192]).expect("a base");
    let image = open("qed", &file);
    image.write(0, &[1; 4096]);
    let driver = Arc::clone(image.child.node().driver());
    aio::block_on(async {
        let off = block::Preallocation::Off;
        driver.truncate(2 * MIB, true, off).await.expect("grows");
        assert_eq!(driver.len(), 2 * MIB);
        let error = driver.truncate(MIB, true, off).await.expect_err("shrinks");
        assert_eq!(error.to_string(), "Shrinking images is currently not supported");
        let backing = block::image::ImageBacking { file: "raw".into(), format: Some("raw".into()) };
        driver.change_backing(Some(backing)).await.expect("changes");
    });
    image.close();
    let image = try_open("qed", &file, true).expect("opens");
    assert_eq!(image.child.len(), 2 * MIB);
    let mut expected = vec![1; 4096];
    expected.extend([9; 4096]);
    expected.extend([0; 4096]);
    assert!(image.read(0, 12288) == expected, "through the backing");
    image.close();
    if have_peers() {
        run("qemu-img", &["check", "-f", "qed", &path(&file)]);
        run("qemu-io", &["-r", "-f", "qed", "-c", "read -P 9 4096 4096", &path(&file)]);
    }
}
