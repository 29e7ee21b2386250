//! Power loss: the writes and flushes that reach the disk are recorded under a random load; then every prefix is replayed,
//! with unflushed writes dropped sector by sector at random. Each state has to open, to be free of errors (leaks are
//! fine), and to hold all data of the last acknowledged flush.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use block::image::{FixMode, SnapshotInfo};
use block::{NewBitmap, OpenFlags, WriteFlags, ZeroFlags};
use common::*;
use iobuf::IoBuf;

/// A change of the guest's: from when on it may be seen, where, and what it wrote (`None`: a discard).
struct Change {
    begun: usize,
    done: usize,
    start: usize,
    end: usize,
    byte: Option<u8>,
}

struct Recording {
    /// Options that open the image, beside the disk.
    key: Vec<(&'static str, &'static str)>,
    bitmaps: bool,
    base: Vec<u8>,
    log: Vec<Op>,
    changes: Vec<Change>,
    /// Positions in the log at which a flush was acknowledged, with the position at which it was asked for.
    flushes: Vec<(usize, usize)>,
    /// Positions between which a snapshot was made or removed.
    unsettled: Vec<(usize, usize)>,
    size: usize,
}

/// What a recording has beside writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extra {
    Nothing,
    Snapshots,
    Bitmaps,
    All,
}

trait WithAll {
    fn with_all(self, more: &[(&'static str, &'static str)]) -> Self;
}

impl WithAll for block::Options {
    fn with_all(self, more: &[(&'static str, &'static str)]) -> Self {
        more.iter().fold(self, |options, (name, value)| options.with(name, *value))
    }
}

fn record(options: &str, seed: u64, groups: u64, extra: Extra) -> Recording {
    let snapshots = matches!(extra, Extra::Snapshots | Extra::All);
    let bitmaps = matches!(extra, Extra::Bitmaps | Extra::All);
    let key = if options.contains("encrypt") { vec![("encrypt.key-secret", "sec0")] } else { Vec::new() };
    let mut rng = Rng(seed);
    let cluster = parse(options).take_size("cluster_size").expect("a size").expect("a size");
    let size = 48 * cluster;
    let handle = create_disk(size, options);
    let disk = &handle.disk;
    if bitmaps {
        let open = open_with(memory_options(&handle.id).with_all(&key), false, OpenFlags::default()).expect("opens");
        let new = NewBitmap { granularity: Some(512), persistent: true, disabled: false };
        open.child.node().add_bitmap("b", new).expect("added");
        open.close().expect("closes");
    }
    disk.delay.store(2, Ordering::Relaxed);
    let base = disk.data.lock().expect("data").clone();
    disk.recording.store(true, Ordering::Relaxed);
    let all = memory_options(&handle.id).with_all(&key).with("l2-cache-size", "8k").with("l2-cache-entry-size", "512");
    let open = open_with(all, false, OpenFlags::default()).expect("opens");
    let now = || disk.log.lock().expect("log").len();
    let mut recording = Recording {
        key,
        bitmaps,
        base,
        log: Vec::new(),
        changes: Vec::new(),
        flushes: Vec::new(),
        unsettled: Vec::new(),
        size: size as usize,
    };
    for step in 0..groups {
        let mut at = rng.below(size / 512) * 512;
        let changes = std::cell::RefCell::new(Vec::new());
        let flushes = std::cell::RefCell::new(Vec::new());
        let mut tasks: Vec<Task<'_>> = Vec::new();
        for _ in 0..1 + rng.below(4) {
            let kind = rng.below(9);
            let len = if rng.below(2) == 0 { 512 * (1 + rng.below(4)) } else { cluster * (1 + rng.below(3)) };
            let compressed = kind == 8 && recording.key.is_empty();
            let (start, len) = if compressed { (at.next_multiple_of(cluster), cluster) } else { (at, len) };
            if start + len > size {
                break;
            }
            at = start + len;
            let byte = 1 + rng.below(255) as u8;
            let (open, changes) = (&open, &changes);
            let may_unmap = rng.below(2) == 0;
            tasks.push(Box::pin(async move {
                let begun = now();
                let written = match kind {
                    0 => {
                        let flags = ZeroFlags { may_unmap, ..ZeroFlags::default() };
                        open.child.write_zeroes(start, len, flags).await.expect("zeroes");
                        Some(0)
                    }
                    1 => {
                        open.child.discard(start, len).await.expect("discards");
                        None
                    }
                    _ => {
                        let buf = IoBuf::zeroed(len as usize);
                        buf.fill(0, len as usize, byte);
                        let flags = WriteFlags { compressed, ..WriteFlags::default() };
                        open.child.write(start, buf, flags).await.expect("writes");
                        Some(byte)
                    }
                };
                let (start, end) = (start as usize, at as usize);
                changes.borrow_mut().push(Change { begun, done: now(), start, end, byte: written });
            }));
        }
        if rng.below(4) == 0 {
            let (open, flushes) = (&open, &flushes);
            tasks.push(Box::pin(async move {
                let asked = now();
                open.child.flush().await.expect("flushes");
                flushes.borrow_mut().push((now(), asked));
            }));
        }
        aio::block_on(together(tasks));
        recording.changes.extend(changes.into_inner());
        recording.flushes.extend(flushes.into_inner());
        if snapshots && rng.below(12) == 0 {
            let start = now();
            let old = open.driver().snapshots().expect("snapshots");
            if old.len() < 2 {
                let info = SnapshotInfo { name: format!("s{step}"), ..SnapshotInfo::default() };
                match aio::block_on(open.driver().snapshot_create(info)) {
                    // Narrow counts: compressed clusters share a host cluster, and snapshots share both.
                    Err(error) if error.to_string().contains("at its maximum") => {}
                    result => result.expect("makes a snapshot"),
                }
            } else {
                aio::block_on(open.driver().snapshot_delete(old[0].id.clone())).expect("deletes a snapshot");
            }
            recording.unsettled.push((start, now()));
        }
    }
    open.close().expect("closes");
    recording.log = disk.log.lock().expect("log").clone();
    recording
}

/// Applies some of the sectors of a write that was not flushed.
fn apply_partly(data: &mut Vec<u8>, op: &Op, rng: &mut Rng, mode: u64) {
    let keep = |rng: &mut Rng| match mode {
        0 => true,
        1 => rng.below(2) == 0,
        _ => rng.below(8) != 0,
    };
    match op {
        Op::Write(at, bytes) => {
            let whole = rng.below(2) == 0;
            let all = keep(rng);
            let mut offset = 0;
            while offset < bytes.len() {
                let n = (512 - (*at as usize + offset) % 512).min(bytes.len() - offset);
                if if whole { all } else { keep(rng) } {
                    let part = Op::Write(*at + offset as u64, bytes[offset..offset + n].to_vec());
                    Disk::apply(data, &part);
                }
                offset += n;
            }
        }
        op => {
            if keep(rng) {
                Disk::apply(data, op);
            }
        }
    }
}

/// Checks one state that the disk may be left in at `point`: whether it leaks, or what is wrong.
async fn check_state(recording: &Recording, data: Vec<u8>, point: usize, what: &str) -> Result<bool, String> {
    let wrong = |text: &dyn std::fmt::Display| format!("{what}: {text}");
    let dirty = data[79] & 1 != 0;
    let handle = new_disk(data);
    let options = memory_options(&handle.id).with_all(&recording.key);
    if dirty {
        // As every writable user does.
        let open = open_async(options.clone(), false, OpenFlags::default()).await.map_err(|e| wrong(&e))?;
        open.graph.detach(&open.child).await.map_err(|e| wrong(&e))?;
    }
    let open = open_async(options, true, OpenFlags::default()).await.map_err(|e| wrong(&e))?;
    let result = open.driver().check(FixMode::default()).await.map_err(|e| wrong(&e))?;
    if result.corruptions + result.check_errors != 0 {
        return Err(wrong(&format!("{:?}", result.messages)));
    }
    let now = open.child.read_vec(0, open.child.len() as usize).await.map_err(|e| wrong(&e))?;
    assert_eq!(now.len(), recording.size, "{what}");
    if recording.bitmaps {
        check_bitmap(recording, &open, point, dirty).map_err(|text| wrong(&text))?;
    }
    open.graph.detach(&open.child).await.map_err(|e| wrong(&e))?;
    // What was done before the last acknowledged flush was asked for is certain.
    let certain =
        recording.flushes.iter().filter(|(done, _)| *done <= point).map(|(_, asked)| *asked).max().unwrap_or(0);
    // Every change is of whole sectors.
    let mut allowed: Vec<Vec<u8>> = vec![vec![0]; recording.size / 512];
    for change in recording.changes.iter().filter(|change| change.begun <= point) {
        for values in &mut allowed[change.start / 512..change.end / 512] {
            if change.done <= certain && change.byte.is_some() {
                values.clear();
            }
            values.push(change.byte.unwrap_or(0));
        }
    }
    for (sector, (bytes, allowed)) in now.chunks(512).zip(&allowed).enumerate() {
        if let Some(byte) = bytes.iter().find(|byte| !allowed.contains(byte)) {
            return Err(wrong(&format!("a byte of sector {sector} is {byte}, not one of {allowed:?}")));
        }
    }
    Ok(result.leaks > 0)
}

/// A bitmap that claims to be good knows of all writes; one that does not is inconsistent.
fn check_bitmap(recording: &Recording, open: &Open, point: usize, repaired: bool) -> Result<(), String> {
    let bitmap = open.child.node().bitmaps().find("b").ok_or("the bitmap is gone")?;
    if bitmap.is_inconsistent() || repaired {
        return Ok(());
    }
    for change in recording.changes.iter().filter(|change| change.begun < point) {
        let (start, end) = (change.start as u64, change.end as u64);
        // A discard of a part of a cluster does nothing.
        if change.byte.is_some() && bitmap.next_clean(start, end).is_some() {
            return Err(format!("the bitmap does not know of the write to {start} .. {end}"));
        }
    }
    Ok(())
}

/// Whether states are found bad if the disk forgets that it was flushed: the test must be able to fail.
#[test]
fn a_disk_that_ignores_flushes_is_noticed() {
    let mut bad = 0;
    for seed in 0..6 {
        let recording = record("cluster_size=512", seed, 40, Extra::Nothing);
        let mut rng = Rng(seed);
        for _ in 0..20 {
            let mut state = recording.base.clone();
            for op in &recording.log {
                apply_partly(&mut state, op, &mut rng, 2);
            }
            let checked = aio::block_on(check_state(&recording, state, recording.log.len(), "self-test"));
            bad += u64::from(checked.is_err());
        }
    }
    assert!(bad > 20, "just {bad} of 120 states were found bad");
}

fn limit() -> usize {
    std::env::var("QCOW2_CRASH_POINTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1500)
}

const CASES: [(&str, Extra); 11] = [
    ("cluster_size=512", Extra::Nothing),
    ("cluster_size=4096", Extra::Nothing),
    ("cluster_size=512,refcount_bits=64", Extra::Nothing),
    ("cluster_size=512,compat=0.10", Extra::Nothing),
    ("cluster_size=16384,extended_l2=on", Extra::Nothing),
    ("cluster_size=2048,lazy_refcounts=on", Extra::Nothing),
    ("cluster_size=1024", Extra::Snapshots),
    ("cluster_size=512,refcount_bits=2", Extra::Snapshots),
    ("cluster_size=1024", Extra::Bitmaps),
    ("cluster_size=4096,encrypt.format=luks,encrypt.key-secret=sec0,encrypt.iter-time=1", Extra::Nothing),
    ("cluster_size=512,encrypt.format=aes,encrypt.key-secret=sec0", Extra::All),
];

/// What was done, and found.
#[derive(Default)]
struct Totals {
    points: AtomicUsize,
    leaky: AtomicUsize,
    by_peer: AtomicUsize,
}

/// Every `PEER`th state is checked by `qemu-img`, too.
const PEER: u64 = 200;

/// Replays one recording: each prefix of it, twice, with other sectors missing.
async fn replay(options: &str, extra: Extra, seed: u64, recording: &Recording, peer: bool, totals: &Totals) {
    let encrypted = !recording.key.is_empty();
    let total = limit();
    let mut rng = Rng(seed ^ 0xc0ffee);
    let mut data = recording.base.clone();
    let mut unflushed: Vec<&Op> = Vec::new();
    for point in 0..=recording.log.len() {
        // A key takes longer to derive than all the rest: every fourth point.
        let left_out = options.contains("luks") && point % 4 != 0;
        for variant in 0..if left_out { 0 } else { 2 } {
            let mut state = data.clone();
            let mode = if variant == 0 { rng.below(2) } else { 2 };
            // Writes of different sectors may be done in any order; which are missing is what counts.
            for op in &unflushed {
                apply_partly(&mut state, op, &mut rng, mode);
            }
            let snapshots = if extra == Extra::Nothing { "" } else { " with more" };
            let what =
                format!("{options}{snapshots} seed {seed} at {point} of {} variant {variant}", recording.log.len());
            if peer && !encrypted && rng.below(PEER) == 0 && state[79] & 1 == 0 {
                let file = tempfile::NamedTempFile::new().expect("a file");
                std::fs::write(file.path(), &state).expect("writes");
                let (_, text) = run("qemu-img", &["check", "-f", "qcow2", file.path().to_str().expect("a path")]);
                assert!(!text.contains("ERROR") && !text.contains("corrupt"), "{what}: {text}");
                totals.by_peer.fetch_add(1, Ordering::Relaxed);
            }
            let leaky = check_state(recording, state, point, &what).await.unwrap_or_else(|text| panic!("{text}"));
            totals.leaky.fetch_add(usize::from(leaky), Ordering::Relaxed);
            if totals.points.fetch_add(1, Ordering::Relaxed) + 1 >= total {
                return;
            }
        }
        match recording.log.get(point) {
            Some(Op::Flush) => {
                for op in unflushed.drain(..) {
                    Disk::apply(&mut data, op);
                }
            }
            Some(op) => unflushed.push(op),
            None => {}
        }
    }
}

/// All states are checked by our own check and against the model of the data, a sample by the peer. One reactor serves a
/// whole recording: starting one takes far longer than a check. Two threads take recordings in turn.
#[test]
fn every_state_after_a_power_loss_is_sound() {
    let peer = has_tool("qemu-img");
    let totals = Totals::default();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while totals.points.load(Ordering::Relaxed) < limit() {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let (options, extra) = CASES[number % CASES.len()];
                    let seed = (number / CASES.len() * 1000 + number % CASES.len()) as u64;
                    let recording = record(options, seed, 40, extra);
                    aio::block_on(replay(options, extra, seed, &recording, peer, &totals));
                }
            });
        }
    });
    let read = |total: &AtomicUsize| total.load(Ordering::Relaxed);
    println!(
        "{} states after a power loss: none with errors, {} with leaks; {} checked by qemu-img, too",
        read(&totals.points),
        read(&totals.leaky),
        read(&totals.by_peer)
    );
}
