//! Random requests, several at once, against a model of the disk's bytes; and failures at every step.

mod common;

use std::sync::atomic::Ordering;

use block::image::{FixMode, SnapshotInfo};
use block::{OpenFlags, WriteFlags, ZeroFlags};
use common::*;
use iobuf::IoBuf;

const OPTIONS: &[&str] = &[
    "cluster_size=512",
    "cluster_size=512,compat=0.10",
    "cluster_size=512,refcount_bits=1",
    "cluster_size=1024,refcount_bits=64",
    "cluster_size=4096",
    "cluster_size=16384,extended_l2=on",
    "cluster_size=65536",
    "cluster_size=4096,lazy_refcounts=on",
    "cluster_size=2048,compression_type=zstd",
];

fn steps(default: u64) -> u64 {
    std::env::var("QCOW2_TEST_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn check_clean(id: &str, what: &str, leaks_allowed: bool) {
    let flags = OpenFlags { check: true, ..OpenFlags::default() };
    let open = open_with(memory_options(id), true, flags).unwrap_or_else(|e| panic!("{what}: {e}"));
    let result = aio::block_on(open.driver().check(FixMode::default())).expect("checks");
    let bad = result.corruptions + result.check_errors;
    assert_eq!(bad, 0, "{what}: {:?}", result.messages);
    assert!(leaks_allowed || result.leaks == 0, "{what}: {:?}", result.messages);
    open.close().expect("closes");
}

/// One request on a range that no other request of the group touches.
async fn request(open: &Open, kind: u64, at: u64, len: u64, byte: u8, compressed: bool) -> block::Result<bool> {
    match kind {
        0 => open.child.write_zeroes(at, len, ZeroFlags { may_unmap: byte & 1 == 0, ..ZeroFlags::default() }).await?,
        1 => {
            open.child.discard(at, len).await?;
            return Ok(true);
        }
        2 => {
            let read = open.child.read_vec(at, len as usize).await?;
            assert_eq!(read.len() as u64, len);
        }
        _ => {
            let buf = IoBuf::zeroed(len as usize);
            buf.fill(0, len as usize, byte);
            open.child.write(at, buf, WriteFlags { compressed, ..WriteFlags::default() }).await?;
        }
    }
    Ok(false)
}

fn session(options: &str, seed: u64, groups: u64) {
    let mut rng = Rng(seed);
    let cluster = parse(options).take_size("cluster_size").expect("a size").expect("a size");
    let mut size = 64 * cluster + (rng.below(16) * 512);
    let handle = create_disk(size, options);
    handle.disk.delay.store(3, Ordering::Relaxed);
    let cache = format!("l2-cache-size={},l2-cache-entry-size=512,refcount-cache-size=4096", 4096 * (1 + rng.below(4)));
    let reopen = || {
        let mut all = memory_options(&handle.id);
        for (name, value) in parse(&cache).iter() {
            all.set(name, value.clone());
        }
        all
    };
    let mut open = open_with(reopen(), false, OpenFlags::default()).expect("opens");
    let mut model = vec![0u8; size as usize];
    let mut saved: Vec<(String, Vec<u8>)> = Vec::new();
    for step in 0..groups {
        // Up to four requests next to each other, so that they meet in clusters.
        let mut at = rng.below(size / 512) * 512;
        let discarded = std::cell::RefCell::new(Vec::new());
        let mut tasks: Vec<Task<'_>> = Vec::new();
        for _ in 0..1 + rng.below(4) {
            let kind = rng.below(8);
            let len = match rng.below(3) {
                0 => 1 + rng.below(cluster),
                1 => 512,
                _ => cluster * (1 + rng.below(4)),
            };
            let compressed = kind == 7 && rng.below(2) == 0;
            let (start, len) = if compressed { (at.next_multiple_of(cluster), cluster) } else { (at, len) };
            if start + len > size {
                break;
            }
            at = start + len;
            let byte = 1 + rng.below(255) as u8;
            let range = start as usize..at as usize;
            match kind {
                0 => model[range.clone()].fill(0),
                1 | 2 => {}
                _ => model[range.clone()].fill(byte),
            }
            let (open, discarded) = (&open, &discarded);
            tasks.push(Box::pin(async move {
                if request(open, kind, start, len, byte, compressed).await.expect("a request") {
                    discarded.borrow_mut().push(range);
                }
            }));
        }
        aio::block_on(together(tasks));
        for range in discarded.into_inner() {
            let now = aio::block_on(open.child.read_vec(range.start as u64, range.len())).expect("reads");
            for (offset, byte) in now.iter().enumerate() {
                let old = &mut model[range.start + offset];
                assert!(*byte == *old || *byte == 0, "a discard shows foreign data");
                *old = *byte;
            }
        }
        if step % 8 == 7 {
            let now = read_all(&open.child).expect("reads");
            if let Some(at) = (0..model.len()).find(|at| now[*at] != model[*at]) {
                panic!("{options} seed {seed} step {step}: byte {at} is {} and not {}", now[at], model[at]);
            }
        }
        match rng.below(40) {
            0..=3 => aio::block_on(open.child.flush()).expect("flushes"),
            4 => {
                open.close().expect("closes");
                check_clean(&handle.id, &format!("{options} seed {seed} step {step}"), false);
                open = open_with(reopen(), false, OpenFlags::default()).expect("opens");
            }
            5 if !options.contains("0.10") => {
                size = (32 + rng.below(96)) * cluster + rng.below(4) * 512;
                aio::block_on(open.child.truncate(size, true, block::Preallocation::Off)).expect("resizes");
                model.resize(size as usize, 0);
            }
            6 if saved.len() < 3 && !options.contains("refcount_bits=1") => {
                let name = format!("s{step}");
                let info = SnapshotInfo { name: name.clone(), ..SnapshotInfo::default() };
                aio::block_on(open.driver().snapshot_create(info)).expect("makes a snapshot");
                saved.push((name, model.clone()));
            }
            7 if !saved.is_empty() => {
                let (name, bytes) = saved[rng.below(saved.len() as u64) as usize].clone();
                aio::block_on(open.driver().snapshot_apply(name)).expect("applies a snapshot");
                model = bytes;
                size = model.len() as u64;
                assert_eq!(open.child.len(), size);
            }
            8 if !saved.is_empty() => {
                let (name, _) = saved.remove(rng.below(saved.len() as u64) as usize);
                aio::block_on(open.driver().snapshot_delete(name)).expect("deletes a snapshot");
            }
            _ => {}
        }
    }
    for (name, bytes) in saved {
        aio::block_on(open.driver().snapshot_apply(name)).expect("applies a snapshot");
        assert!(read_all(&open.child).expect("reads") == bytes, "{options} seed {seed}: a snapshot");
        model = bytes;
    }
    open.close().expect("closes");
    check_clean(&handle.id, &format!("{options} seed {seed}"), false);
    let open = open_with(memory_options(&handle.id), true, OpenFlags::default()).expect("opens");
    assert!(read_all(&open.child).expect("reads") == model, "{options} seed {seed}: after a reopen");
    open.close().expect("closes");
    if seed.is_multiple_of(8) && has_tool("qemu-img") {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), &*handle.disk.data.lock().expect("data")).expect("writes");
        must("qemu-img", &["check", "-f", "qcow2", file.path().to_str().expect("a path")]);
    }
}

#[test]
fn random_requests_match_the_model() {
    for (index, options) in OPTIONS.iter().enumerate() {
        for seed in 0..steps(6) {
            session(options, seed * 100 + index as u64 * 8, 150);
        }
    }
}

/// A fixed load; errors are what is asked for.
fn load(open: &Open, rng: &mut Rng, size: u64, model: &mut [Vec<u8>]) {
    for step in 0..24 {
        let len = 1 + rng.below(9000);
        let at = rng.below(size - len);
        let byte = 1 + rng.below(255) as u8;
        let (result, written) = match rng.below(7) {
            0 => (zero(&open.child, at, len, step % 2 == 0), 0),
            1 => (aio::block_on(open.child.discard(at, len)), 0),
            2 => (aio::block_on(open.child.flush()), 0),
            3 if step % 3 == 0 => {
                let info = SnapshotInfo { name: format!("s{step}"), ..SnapshotInfo::default() };
                (aio::block_on(open.driver().snapshot_create(info)), 0)
            }
            _ => (write(&open.child, at, &vec![byte; len as usize]), byte),
        };
        if let Err(error) = result {
            assert!(error.is_no_space() || error.errno() == 5, "{error}");
        }
        for values in &mut model[at as usize..(at + len) as usize] {
            values.push(written);
        }
    }
}

#[test]
fn a_failure_at_any_operation_leaves_at_worst_leaks() {
    let mut points = 0;
    for options in [
        "cluster_size=512",
        "cluster_size=512,refcount_bits=64",
        "cluster_size=16384,extended_l2=on",
        "cluster_size=4096,lazy_refcounts=on",
        "cluster_size=1024,compat=0.10",
    ] {
        for (no_space, keep) in [(false, false), (true, true)] {
            for n in 0..steps(90) as i64 {
                let size = 1 << 18;
                let handle = create_disk(size, options);
                let open = open_with(memory_options(&handle.id), false, OpenFlags::default()).expect("opens");
                handle.disk.no_space.store(no_space, Ordering::Relaxed);
                handle.disk.keep_failing.store(keep, Ordering::Relaxed);
                handle.disk.fail_in.store(n, Ordering::Relaxed);
                let mut model = vec![vec![0u8]; size as usize];
                load(&open, &mut Rng(n as u64 % 7), size, &mut model);
                let reached = handle.disk.fail_in.swap(-1, Ordering::Relaxed) <= 0;
                let what = format!("{options} failing at {n}, for good: {keep}");
                // With the disk back, everything works, and nothing is lost that was not under way.
                let now = read_all(&open.child).unwrap_or_else(|e| panic!("{what}: {e}"));
                for (at, byte) in now.iter().enumerate() {
                    assert!(model[at].contains(byte), "{what}: byte {at} is {byte}, not one of {:?}", model[at]);
                }
                aio::block_on(open.child.flush()).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(read_all(&open.child).expect("reads") == now, "{what}: a flush changed data");
                open.close().unwrap_or_else(|e| panic!("{what}: {e}"));
                if options.contains("lazy") || handle.disk.data.lock().expect("data")[79] & 1 != 0 {
                    open_with(memory_options(&handle.id), false, OpenFlags::default())
                        .expect("opens")
                        .close()
                        .expect("closes");
                }
                check_clean(&handle.id, &what, true);
                let open = open_with(memory_options(&handle.id), true, OpenFlags::default()).expect("opens");
                assert!(read_all(&open.child).expect("reads") == now, "{what}: a reopen changed data");
                open.close().expect("closes");
                points += 1;
                if !reached {
                    break;
                }
            }
        }
    }
    println!("{points} failures injected");
}
