//! Damaged images: a clear error or a clean check report, never a panic, a hang or a lot of memory.

mod common;

use block::OpenFlags;
use block::image::FixMode;
use common::*;

/// What one image may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// Opens, reads, checks, repairs and writes an image of any bytes. The text of the open, if it failed.
fn exercise(bytes: &[u8]) -> Option<String> {
    let handle = new_disk(bytes.to_vec());
    let check = OpenFlags { check: true, ..OpenFlags::default() };
    let mut text = None;
    match open_with(memory_options(&handle.id), true, OpenFlags { no_backing: true, ..OpenFlags::default() }) {
        Ok(open) => {
            let len = open.child.len();
            for at in [0, 65536, len / 2, len.saturating_sub(4096)] {
                let n = len.saturating_sub(at).min(200_000) as usize;
                let _ = aio::block_on(open.child.read_vec(at, n));
                let _ = aio::block_on(open.child.block_status(at, n as u64, true));
            }
            let _ = open.driver().details();
            let _ = open.driver().snapshots();
            let _ = open.close();
        }
        Err(error) => text = Some(error.to_string()),
    }
    let flags = OpenFlags { no_backing: true, ..check };
    if let Ok(open) = open_with(memory_options(&handle.id), true, flags) {
        let _ = aio::block_on(open.driver().check(FixMode::default()));
        let _ = open.close();
    }
    if let Ok(open) =
        open_with(memory_options(&handle.id), false, OpenFlags { no_backing: true, ..OpenFlags::default() })
    {
        let len = open.child.len();
        if len > 5000 {
            let _ = write(&open.child, 100, &[1; 4000]);
            let _ = write(&open.child, len - 600, &[2; 600]);
            let _ = zero(&open.child, 0, 70_000.min(len), true);
        }
        if let Ok(snapshots) = open.driver().snapshots()
            && let Some(first) = snapshots.first()
        {
            let _ = aio::block_on(open.driver().snapshot_apply(first.id.clone()));
            let _ = aio::block_on(open.driver().snapshot_delete(first.id.clone()));
        }
        let _ = open.close();
    }
    if let Ok(open) = open_with(memory_options(&handle.id), false, flags) {
        let _ = aio::block_on(open.driver().check(FixMode { leaks: true, errors: true }));
        let _ = open.close();
    }
    text
}

fn sample(options: &str) -> Vec<u8> {
    let handle = create_disk(1 << 20, options);
    let open = open_with(memory_options(&handle.id), false, OpenFlags::default()).expect("opens");
    write(&open.child, 0, &[7; 40_000]).expect("writes");
    if !options.contains("refcount_bits=1") {
        let info = block::image::SnapshotInfo { name: "s".into(), ..Default::default() };
        aio::block_on(open.driver().snapshot_create(info)).expect("makes a snapshot");
    }
    write(&open.child, 300_000, &[8; 5000]).expect("writes");
    open.close().expect("closes");
    handle.disk.data.lock().expect("data").clone()
}

fn patched(base: &[u8], at: usize, value: u64, len: usize) -> Vec<u8> {
    let mut bytes = base.to_vec();
    if bytes.len() >= at + len {
        bytes[at..at + len].copy_from_slice(&value.to_be_bytes()[8 - len..]);
    }
    bytes
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |b| u64::from_be_bytes(b.try_into().expect("eight")))
}

/// The processor time of this process: a machine that does other things as well takes none of it.
fn processor_time() -> std::time::Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    std::time::Duration::try_from(time).expect("a clock that only goes forward")
}

fn timed(what: &str, bytes: &[u8]) -> Option<String> {
    let start = processor_time();
    let text = exercise(bytes);
    // A guard against loops without an end, not a measurement.
    assert!(processor_time() - start < PATIENCE, "{what} takes too long");
    text
}

#[test]
fn damaged_images_give_errors_and_nothing_worse() {
    let extremes =
        [0, 1, 511, 512, 0x10000, 0x7fff_ffff, 0xffff_ffff, 1 << 40, 1 << 55, (1 << 62) - 512, 1 << 63, u64::MAX];
    let fields: [(usize, usize, &str); 18] = [
        (0, 4, "magic"),
        (4, 4, "version"),
        (8, 8, "backing offset"),
        (16, 4, "backing length"),
        (20, 4, "cluster bits"),
        (24, 8, "size"),
        (32, 4, "encryption"),
        (36, 4, "l1 size"),
        (40, 8, "l1 offset"),
        (48, 8, "refcount table"),
        (56, 4, "refcount clusters"),
        (60, 4, "snapshots"),
        (64, 8, "snapshot table"),
        (72, 8, "incompatible"),
        (88, 8, "autoclear"),
        (96, 4, "refcount order"),
        (100, 4, "header length"),
        (104, 1, "compression"),
    ];
    let mut count = 0;
    for options in ["cluster_size=512", "cluster_size=16384,extended_l2=on", "cluster_size=4096,refcount_bits=1"] {
        let base = sample(options);
        for (at, len, name) in fields {
            for value in extremes {
                timed(&format!("{options} {name}={value:#x}"), &patched(&base, at, value, len));
                count += 1;
            }
        }
        // Tables that point to themselves, to each other and to nowhere.
        let (l1, reftable, snapshots) = (be64(&base, 40), be64(&base, 48), be64(&base, 64));
        let l2 = be64(&base, l1 as usize) & 0x00ff_ffff_ffff_fe00;
        let block = be64(&base, reftable as usize) & !511;
        for place in
            [l1, l1 + 8, l2, l2 + 8, l2 + 16, reftable, reftable + 8, block, snapshots, snapshots + 8, snapshots + 36]
        {
            for value in [
                0,
                l1,
                l2,
                reftable,
                block,
                l2 | 1 << 63,
                l2 | 1 << 62,
                1 << 62 | 0x3fff_ffff_ffff,
                1 << 54,
                u64::MAX,
                0x300,
            ] {
                timed(&format!("{options} at {place:#x}: {value:#x}"), &patched(&base, place as usize, value, 8));
                count += 1;
            }
        }
        for len in [0, 1, 71, 72, 103, 104, 511, 512, 513, base.len() / 2, base.len() - 1] {
            timed(&format!("{options} cut to {len}"), &base[..len]);
            count += 1;
        }
        let mut rng = Rng(7);
        for round in 0..60 {
            let mut bytes = base.clone();
            for _ in 0..1 + rng.below(8) {
                let at = if rng.below(2) == 0 { rng.below(112) } else { rng.below(bytes.len() as u64) };
                bytes[at as usize] = rng.next() as u8;
            }
            timed(&format!("{options} round {round}"), &bytes);
            count += 1;
        }
    }
    println!("{count} damaged images");
}

#[test]
fn common_damage_is_named() {
    let base = sample("cluster_size=512");
    for (at, len, value, text) in [
        (0usize, 4usize, 0u64, "Image is not in qcow2 format"),
        (4, 4, 1, "Unsupported qcow2 version 1"),
        (4, 4, 4, "Unsupported qcow2 version 4"),
        (20, 4, 8, "Unsupported cluster size: 2^8"),
        (20, 4, 64, "Unsupported cluster size: 2^64"),
        (24, 8, 1 << 40, "L1 table is too small"),
        (24, 8, u64::MAX, "Image is too big"),
        (36, 4, 0xffff_ffff, "Active L1 table too large"),
        (40, 8, 0x1234, "Active L1 table offset invalid"),
        (48, 8, 0x1234, "Reference count table offset invalid"),
        (56, 4, 0, "Image does not contain a reference count table"),
        (56, 4, 0xffff_ffff, "Reference count table too large"),
        (60, 4, 0xffff_ffff, "Snapshot table too large"),
        (64, 8, 0x1234, "Snapshot table offset invalid"),
        (72, 8, 1 << 40, "Unsupported qcow2 feature(s): Unknown incompatible feature: 10000000000"),
        (96, 4, 7, "Reference count entry width too large; may not exceed 64 bits"),
        (100, 4, 80, "qcow2 header too short"),
        (100, 4, 1024, "qcow2 header exceeds cluster size"),
        (8, 8, 0x1000, "Invalid backing file offset"),
        (32, 4, 9, "Unsupported encryption method 9"),
        (72, 8, 8, "qcow2: Compression type incompatible feature bit must not be set"),
    ] {
        let found = exercise(&patched(&base, at, value, len)).unwrap_or_default();
        assert!(found.contains(text), "'{text}' is not in '{found}'");
    }
}

#[test]
fn an_image_whose_snapshot_table_was_cut_off_can_still_be_read() {
    let base = sample("cluster_size=512");
    let behind = (base.len() as u64 + (1 << 20)).next_multiple_of(512);
    let bytes = patched(&patched(&base, 64, behind, 8), 60, 3, 4);
    assert_eq!(exercise(&bytes), None);
    let handle = new_disk(bytes);

    let open = open_with(memory_options(&handle.id), true, OpenFlags::default()).expect("opens");

    assert_eq!(aio::block_on(open.child.read_vec(300_000, 5000)).expect("reads"), vec![8; 5000]);
    assert_eq!(open.driver().snapshots().expect("lists").len(), 3);
    open.close().expect("closes");
}

#[test]
fn misplaced_tables_of_snapshots_are_told_with_their_place() {
    let base = sample("cluster_size=512");
    let entry = usize::try_from(be64(&base, 64)).expect("small");
    for (at, len, value, text) in [
        (entry, 8, 0x40_0201, "l1_offset=0x400201: L1 table is not cluster aligned; snapshot table entry corrupted"),
        (entry + 8, 4, 0x1000_0000, "l1_size=0x10000000: L1 table is too large; snapshot table entry corrupted"),
    ] {
        let handle = new_disk(patched(&base, at, value, len));
        let flags = OpenFlags { check: true, ..OpenFlags::default() };
        let open = open_with(memory_options(&handle.id), true, flags).expect("opens");

        let result = aio::block_on(open.driver().check(FixMode::default())).expect("checks");

        let told = format!("ERROR snapshot 1 (s) {text}");
        assert!(result.messages.contains(&told), "'{told}' is not in {:?}", result.messages);
        open.close().expect("closes");
    }
}

#[test]
fn a_snapshot_of_clusters_that_are_not_counted_is_refused() {
    let handle = create_disk(1 << 20, "cluster_size=512");
    let open = open_with(memory_options(&handle.id), false, OpenFlags::default()).expect("opens");
    write(&open.child, 0, &[7; 1024]).expect("writes");
    open.close().expect("closes");
    let base = handle.disk.data.lock().expect("data").clone();
    let offset = 0x00ff_ffff_ffff_fe00;
    let table = be64(&base, usize::try_from(be64(&base, 40)).expect("small")) & offset;
    for host in [0xff_ffff_fe00, (base.len() as u64).next_multiple_of(512) + 512] {
        let handle = new_disk(patched(&base, usize::try_from(table).expect("small"), 1 << 63 | host, 8));
        let open = open_with(memory_options(&handle.id), false, OpenFlags::default()).expect("opens");
        let info = block::image::SnapshotInfo { name: "s".into(), ..Default::default() };

        let error = aio::block_on(open.driver().snapshot_create(info)).expect_err("the cluster is not counted");

        assert_eq!(error.to_string(), format!("The cluster at {host:#x} is in use, but not counted"));
        assert!(open.driver().snapshots().expect("lists").is_empty());
        assert_eq!(aio::block_on(open.child.read_vec(512, 512)).expect("reads"), [7; 512]);
        open.close().expect("closes");
        let len = handle.disk.data.lock().expect("data").len();
        assert!(len < 1 << 20, "the file has {len} bytes");
    }
}
