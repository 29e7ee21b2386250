//! Random writes of a guest under random jobs, against a model: each finished copy is the disk of its moment, and the disk
//! is what was written to it. `OUZEL_STRESS_SECONDS` says for how long (5 by default), `OUZEL_STRESS_SEED` repeats the
//! decisions of a run.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aio::testing::Random;
use block::backend::Operation;
use block::graph::Registry;
use block::{Backend, Defaults, Graph, Node, NodeConfig, OpenFlags, Options, Permissions, WriteFlags, ZeroFlags};
use block_jobs::backup::{self, BitmapMode};
use block_jobs::{Common, Event, Info, Job, Jobs, Kind, Observer, OnError, Status, chain, commit, mirror, stream};
use block_tools::create::Creation;
use iobuf::IoBuf;

/// Bytes of the disk.
const SIZE: usize = 4 << 20;
/// Writes in flight.
const DEPTH: usize = 8;

#[derive(Default)]
struct Log(Mutex<Vec<String>>);

fn common(id: String, speed: i64) -> Common {
    Common { id, speed, auto_finalize: true, auto_dismiss: true }
}

impl Observer for Log {
    fn event(&self, job: &Info, event: Event) {
        let mut log = self.0.lock().expect("the log");
        log.push(format!("{} {:?} {event:?} {}/{}", job.id, job.kind, job.current, job.total));
        let len = log.len();
        if len > 60 {
            log.drain(..len - 60);
        }
    }
}

/// What has to be true when a job has ended.
enum Expected {
    /// The copy, opened again from its file, is this.
    Copy(PathBuf, &'static str, Vec<u8>),
    /// Nothing but the disk.
    Disk,
}

struct Stress {
    random: Random,
    directory: tempfile::TempDir,
    graph: Arc<Graph>,
    jobs: Jobs,
    log: Arc<Log>,
    reactor: aio::IoThread,
    backend: Arc<Backend>,
    model: Vec<u8>,
    running: VecDeque<(usize, usize, Receiver<block::Result<()>>)>,
    job: Option<(Arc<Job>, Expected)>,
    next: u32,
    finished: [u32; 4],
    writes: u64,
}

impl Stress {
    fn new(seed: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let log = Arc::<Log>::default();
        let observer: Arc<dyn Observer> = Arc::clone(&log) as Arc<dyn Observer>;
        let drivers = block_drivers::drivers().into_iter().chain(block_jobs::drivers());
        let mut stress = Self {
            random: Random::new(seed),
            directory,
            graph: Graph::new(Registry::new(drivers)),
            jobs: Jobs::new(observer, || {}),
            log,
            reactor: aio::IoThread::start("disks").expect("a thread"),
            backend: Backend::new("disk"),
            model: vec![0; SIZE],
            running: VecDeque::new(),
            job: None,
            next: 0,
            finished: [0; 4],
            writes: 0,
        };
        let path = stress.create("qcow2", None);
        let node = stress.open(&path, "qcow2", None);
        stress.backend.set_reactor(stress.reactor.handle().clone());
        let shared = Permissions::CONSISTENT_READ | Permissions::WRITE_UNCHANGED | Permissions::RESIZE;
        let used = Permissions::CONSISTENT_READ | Permissions::WRITE;
        stress.backend.insert(&stress.graph, &node, used, shared).expect("a medium");
        stress.graph.add_backend(&stress.backend).expect("a back end");
        stress
    }

    fn story(&self) -> String {
        self.log.0.lock().expect("the log").join("\n")
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random.below(limit)
    }

    fn create(&mut self, format: &str, backing: Option<&Arc<Node>>) -> PathBuf {
        self.next += 1;
        let path = self.directory.path().join(format!("{}.{format}", self.next));
        let mut creation = Creation::new(&self.graph, format, path.to_str().expect("text")).expect("a format");
        if let Some(backing) = backing {
            let name = block::filename::of(backing);
            creation.set_backing(Some(&name), Some(backing.driver_type().name())).expect("a backing");
        }
        creation.values.set("size", &SIZE.to_string()).expect("a size");
        if format == "qcow2" {
            let cluster = ["512", "4096", "65536", "262144"][self.below(4)];
            creation.values.set("cluster_size", cluster).expect("a cluster");
        }
        aio::block_on(creation.run(&self.graph)).expect("an image");
        path
    }

    fn open(&self, path: &Path, format: &str, backing: Option<&Arc<Node>>) -> Arc<Node> {
        let mut options = Options::new().with("driver", format).with("filename", path.to_str().expect("text"));
        if let Some(backing) = backing {
            options.set("backing", backing.name());
        }
        let config = NodeConfig { discard: true, ..NodeConfig::default() };
        let opened = aio::block_on(self.graph.open(options, Defaults::new(config, OpenFlags::default())));
        opened.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn top(&self) -> Arc<Node> {
        self.backend.node().expect("a medium")
    }

    fn write(&mut self) {
        let max = if self.below(8) == 0 { 600 } else { 40 };
        let len = 512 * (1 + self.below(max));
        let offset = 512 * self.below((SIZE - len) / 512);
        while self.running.len() >= DEPTH || self.running.iter().any(|(at, n, _)| *at < offset + len && offset < at + n)
        {
            self.wait_for_one();
        }
        let (send, receive) = channel();
        let done = move |result| drop(send.send(result));
        let is_zero = self.below(6) == 0;
        let mut data = vec![0; len];
        if !is_zero {
            let value = self.random.next_u64();
            for (index, chunk) in data.chunks_mut(8).enumerate() {
                let word = value.wrapping_add(index as u64).to_le_bytes();
                chunk.copy_from_slice(&word[..chunk.len()]);
            }
        }
        self.model[offset..offset + len].copy_from_slice(&data);
        let operation = if is_zero {
            let flags = ZeroFlags { may_unmap: self.below(2) == 0, ..ZeroFlags::default() };
            Operation::WriteZeroes(offset as u64, len as u64, flags)
        } else {
            Operation::Write(offset as u64, IoBuf::copy_of(&data), WriteFlags::default())
        };
        self.backend.submit(operation, done);
        self.running.push_back((offset, len, receive));
        self.writes += 1;
    }

    fn wait_for_one(&mut self) {
        let Some((offset, len, receive)) = self.running.pop_front() else { return };
        let result = loop {
            match receive.recv_timeout(Duration::from_millis(20)) {
                Ok(result) => break result,
                // Who waits for a write settles jobs meanwhile, as a control thread does.
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => aio::block_on(self.jobs.settle()),
                Err(error) => panic!("a write was dropped: {error}"),
            }
        };
        result.unwrap_or_else(|error| panic!("write of {len} at {offset}: {error}\n{}", self.story()));
    }

    fn quiesce(&mut self) {
        while !self.running.is_empty() {
            self.wait_for_one();
        }
    }

    fn read_node(&self, node: &Arc<Node>) -> Vec<u8> {
        let buf = IoBuf::zeroed(SIZE);
        aio::block_on(node.read(0, buf.clone())).expect("a read");
        buf.to_vec()
    }

    fn check_disk(&mut self) {
        self.quiesce();
        let now = self.read_node(&self.top());
        self.compare(&now, &self.model.clone(), "the disk");
    }

    fn compare(&self, got: &[u8], wanted: &[u8], what: &str) {
        if let Some(at) = got.iter().zip(wanted).position(|(got, wanted)| got != wanted) {
            println!("got    {:02x?}\nwanted {:02x?}", &got[at..(at + 16).min(SIZE)], &wanted[at..(at + 16).min(SIZE)]);
            let differing = got.iter().zip(wanted).filter(|(got, wanted)| got != wanted).count();
            panic!("{what} differs at {at} ({differing} bytes)\n{}", self.story());
        }
    }

    /// An overlay over the disk, as a snapshot makes it.
    fn snapshot(&mut self) {
        let top = self.top();
        if chain::of(&top).count() > 5 {
            return;
        }
        let path = self.create("qcow2", Some(&top));
        let overlay = self.open(&path, "qcow2", Some(&top));
        aio::block_on(async {
            let _drained = self.graph.drain(&top).await;
            // The copies are opened from their files.
            top.flush().await.expect("a flush");
            self.graph.move_users(&top, &overlay).unwrap_or_else(|error| panic!("a snapshot: {error}"));
        });
    }

    fn start(&mut self) {
        let top = self.top();
        let depth = chain::of(&top).count();
        let id = format!("j{}", self.next);
        let speed = [0, 0, 8 << 20, 2 << 20][self.below(4)];
        let shape: Vec<_> =
            chain::of(&top).map(|node| format!("{}={}", node.name(), block::filename::of(&node))).collect();
        self.log.0.lock().expect("the log").push(format!("{id}: {shape:?}"));
        let made = match self.below(4) {
            0 => self.mirror(id, speed),
            1 => self.backup(id, speed),
            2 if depth > 1 => {
                let images: Vec<_> = chain::of(&top).collect();
                let bottom = images[self.random.below(images.len())].clone();
                let bottom = (self.below(2) == 0).then_some(bottom);
                let options = stream::Options {
                    common: common(id, speed),
                    top,
                    bottom,
                    backing_file: None,
                    on_error: OnError::Report,
                    filter_node_name: None,
                };
                stream::create(&self.graph, &self.jobs, &options).map(|job| (job, Expected::Disk))
            }
            3 if depth > 1 => self.commit(id, speed, depth),
            _ => return self.snapshot(),
        };
        let (job, expected) = made.unwrap_or_else(|error| panic!("a job: {error}\n{}", self.story()));
        self.jobs.start(&job, self.reactor.handle());
        self.job = Some((job, expected));
    }

    fn mirror(&mut self, id: String, speed: i64) -> block::Result<(Arc<Job>, Expected)> {
        let top = self.top();
        let backing = chain::below(&top);
        let sync = match (&backing, self.below(4)) {
            (Some(_), 0) => mirror::Sync::Top,
            (_, 1) => mirror::Sync::None,
            (_, 2) => mirror::Sync::Bitmap,
            _ => mirror::Sync::Full,
        };
        // With a bitmap that has everything, it is a full one.
        let is_full = matches!(sync, mirror::Sync::Full | mirror::Sync::Bitmap);
        let format = if is_full { ["qcow2", "raw"][self.below(2)] } else { "qcow2" };
        let over = match sync {
            mirror::Sync::Full | mirror::Sync::Bitmap => None,
            mirror::Sync::Top => backing,
            mirror::Sync::None => Some(Arc::clone(&top)),
        };
        let path = self.create(format, over.as_ref());
        let mut options = Options::new().with("driver", format).with("filename", path.to_str().expect("text"));
        if over.is_some() {
            options.set("backing", block::Value::Null);
        }
        let config = NodeConfig { discard: true, ..NodeConfig::default() };
        let target = aio::block_on(self.graph.open(options, Defaults::new(config, OpenFlags::default())))?;
        let bitmap = if sync == mirror::Sync::Bitmap {
            let bitmap = top.bitmaps().create(top.len(), [512, 65536, 1 << 20][self.below(3)], None)?;
            bitmap.mark(0, top.len());
            let modes = [backup::BitmapMode::OnSuccess, backup::BitmapMode::Never, backup::BitmapMode::Always];
            Some((bitmap, modes[self.below(3)]))
        } else {
            None
        };
        let options = mirror::Options {
            common: common(id, speed),
            kind: Kind::Mirror,
            source: top,
            target,
            replaces: None,
            sync,
            bitmap,
            backing: mirror::Backing::Source,
            target_is_zero: self.below(2) == 0,
            write_blocking: self.below(2) == 0,
            unmap: self.below(2) == 0,
            granularity: [0, 512, 65536, 1 << 20][self.below(4)],
            buf_size: [0, 65536][self.below(2)],
            on_source_error: OnError::Report,
            on_target_error: OnError::Report,
            filter_node_name: None,
        };
        let job = mirror::create(&self.graph, &self.jobs, &options)?;
        // What is in the copy of a mirror is told when it ends.
        Ok((job, if is_full { Expected::Copy(path, format, Vec::new()) } else { Expected::Disk }))
    }

    fn backup(&mut self, id: String, speed: i64) -> block::Result<(Arc<Job>, Expected)> {
        self.quiesce();
        let top = self.top();
        let backing = chain::below(&top);
        let is_top = backing.is_some() && self.below(3) == 0;
        let format = if is_top { "qcow2" } else { ["qcow2", "raw"][self.below(2)] };
        let path = self.create(format, if is_top { backing.as_ref() } else { None });
        let target = self.open(&path, format, if is_top { backing.as_ref() } else { None });
        let bitmap = if is_top || self.below(3) != 0 {
            None
        } else {
            // All that was ever written: the copy is a full one.
            let bitmap = top.bitmaps().create(SIZE as u64, 65536, Some(&format!("b{}", self.next)))?;
            bitmap.mark(0, SIZE as u64);
            Some((bitmap, [BitmapMode::OnSuccess, BitmapMode::Never, BitmapMode::Always][self.below(3)]))
        };
        let options = backup::Options {
            common: common(id, speed),
            source: top,
            target,
            sync: if is_top {
                backup::Sync::Top
            } else if bitmap.is_some() {
                backup::Sync::Bitmap
            } else {
                backup::Sync::Full
            },
            bitmap,
            compress: format == "qcow2" && self.below(3) == 0,
            on_source_error: OnError::Report,
            on_target_error: OnError::Report,
            filter_node_name: None,
            max_workers: [0, 1, 4][self.below(3)],
            max_chunk: 0,
            transaction: None,
        };
        let job = backup::create(&self.graph, &self.jobs, &options)?;
        Ok((job, Expected::Copy(path, format, self.model.clone())))
    }

    fn commit(&mut self, id: String, speed: i64, depth: usize) -> block::Result<(Arc<Job>, Expected)> {
        let images: Vec<_> = chain::of(&self.top()).collect();
        let top = self.below(depth - 1);
        let base = top + 1 + self.below(depth - top - 1);
        let (top_node, base_node) = (Arc::clone(&images[top]), Arc::clone(&images[base]));
        let job = if top == 0 {
            let options = mirror::Options {
                common: common(id, speed),
                kind: Kind::Commit,
                source: top_node,
                target: base_node,
                replaces: None,
                sync: mirror::Sync::Full,
                bitmap: None,
                backing: mirror::Backing::Leave,
                target_is_zero: false,
                write_blocking: false,
                unmap: true,
                granularity: 0,
                buf_size: 0,
                on_source_error: OnError::Report,
                on_target_error: OnError::Report,
                filter_node_name: None,
            };
            mirror::create(&self.graph, &self.jobs, &options)?
        } else {
            let options = commit::Options {
                common: common(id, speed),
                active: Arc::clone(&images[0]),
                top: top_node,
                base: base_node,
                backing_file: None,
                on_error: OnError::Report,
                filter_node_name: None,
            };
            commit::create(&self.graph, &self.jobs, &options)?
        };
        Ok((job, Expected::Disk))
    }

    /// A client's wishes.
    fn disturb(&mut self) {
        let Some((job, _)) = &self.job else { return self.start() };
        let job = Arc::clone(job);
        // They may come too late.
        match self.below(40) {
            0..10 => drop(job.user_pause()),
            10..25 => drop(job.user_resume()),
            25..30 => drop(job.set_speed([0, 1 << 20, 16 << 20][self.below(3)])),
            30 => drop(aio::block_on(self.jobs.cancel(&job, true))),
            31..33 if job.is_ready() => {
                self.quiesce();
                if let Some((_, Expected::Copy(_, _, data))) = &mut self.job {
                    data.clone_from(&self.model);
                }
                drop(job.user_resume());
                if aio::block_on(self.jobs.cancel(&job, false)).is_ok() {
                    self.finish();
                }
            }
            33..40 if job.is_ready() => {
                if let Some((_, expected)) = &mut self.job {
                    // The disk is the copy afterwards.
                    *expected = Expected::Disk;
                }
                drop(job.user_resume());
                drop(job.complete());
            }
            _ => {}
        }
    }

    /// Lets the job come to its end.
    fn finish(&mut self) {
        let until = Instant::now() + Duration::from_secs(60);
        while let Some((job, _)) = &self.job {
            let job = Arc::clone(job);
            drop(job.user_resume());
            drop(job.set_speed(0));
            if job.is_ready() && !job.is_cancel_requested() {
                if let Some((_, expected)) = &mut self.job {
                    *expected = Expected::Disk;
                }
                drop(job.complete());
            }
            self.settle();
            assert!(Instant::now() < until, "{job:?} hangs in {:?}\n{}", job.info(), self.story());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn settle(&mut self) {
        aio::block_on(self.jobs.settle());
        let ended = self.job.as_ref().is_some_and(|(job, _)| job.status() == Status::Null);
        if !ended {
            return;
        }
        let Some((job, expected)) = self.job.take() else { return };
        let info = job.info();
        let is_cancelled = job.is_cancelled();
        assert!(is_cancelled || info.error.is_none(), "{info:?}\n{}", self.story());
        if is_cancelled {
            self.check_disk();
            return;
        }
        self.finished[job.kind() as usize] += 1;
        if let Expected::Copy(path, format, data) = expected
            && !data.is_empty()
        {
            let config = NodeConfig { read_only: true, ..NodeConfig::default() };
            let options = Options::new().with("driver", format).with("filename", path.to_str().expect("text"));
            let flags = OpenFlags { force_share: true, ..OpenFlags::default() };
            let copy = aio::block_on(self.graph.open(options.with("force-share", true), Defaults::new(config, flags)));
            let copy = copy.unwrap_or_else(|error| panic!("{}: {error}\n{}", path.display(), self.story()));
            let got = self.read_node(&copy);
            aio::block_on(self.graph.close(&copy)).expect("closed");
            self.compare(&got, &data, &format!("the copy of {info:?}"));
        }
        self.check_disk();
    }
}

#[test]
fn random_jobs_under_random_writes_lose_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("OUZEL_STRESS_SECONDS").unwrap_or(5);
    let seed = number("OUZEL_STRESS_SEED").unwrap_or(18014);
    println!("seed {seed}");
    let mut stress = Stress::new(seed);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut round = 0_u64;
    while Instant::now() < until {
        round += 1;
        for _ in 0..stress.below(6) {
            stress.write();
        }
        if stress.below(3) == 0 {
            stress.disturb();
        }
        stress.settle();
        if stress.below(50) == 0 {
            stress.check_disk();
        }
    }
    stress.finish();
    stress.check_disk();
    println!("{round} rounds, {} writes, [commit, stream, mirror, backup] = {:?}", stress.writes, stress.finished);
    aio::block_on(stress.backend.remove(&stress.graph)).expect("closed");
}
