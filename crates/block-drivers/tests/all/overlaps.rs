//! Overlapping writes, zero writes and discards of two threads never break a qcow2 image: QEMU 7.2's does within
//! seconds (its requests of one cluster don't wait for a discard of that cluster).

use std::process::Command;
use std::sync::{Arc, mpsc};

use crate::common::{Dir, create, open};
use block::{Child, Graph, Options, WriteFlags, ZeroFlags};
use block_drivers::registry;
use iobuf::IoBuf;

const SECTOR: u64 = 512;
/// The part of the disk that is fought for: small, so that almost every request overlaps another.
const AREA: u64 = 256 << 10;
const ROUNDS: usize = 150;
const REQUESTS: usize = 24;

/// Xorshift: the same requests in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Write(u8),
    Zero { may_unmap: bool },
    Discard,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    kind: Kind,
    offset: u64,
    len: u64,
}

fn request(random: &mut Random, number: usize) -> Request {
    let offset = random.below(AREA / SECTOR);
    let len = (1 + random.below(160)).min(AREA / SECTOR - offset);
    let kind = match random.below(4) {
        0 => Kind::Discard,
        1 => Kind::Zero { may_unmap: random.below(2) == 0 },
        _ => Kind::Write(1 + u8::try_from(number % 255).unwrap_or(0)),
    };
    Request { kind, offset: offset * SECTOR, len: len * SECTOR }
}

async fn perform(child: Arc<Child>, request: Request) {
    let Request { kind, offset, len } = request;
    let result = match kind {
        Kind::Write(byte) => {
            let bytes = IoBuf::copy_of(&vec![byte; usize::try_from(len).expect("small")]);
            child.write(offset, bytes, WriteFlags::default()).await
        }
        Kind::Zero { may_unmap } => {
            child.write_zeroes(offset, len, ZeroFlags { may_unmap, ..ZeroFlags::default() }).await
        }
        Kind::Discard => child.discard(offset, len).await,
    };
    result.unwrap_or_else(|error| panic!("{request:?}: {error}"));
}

/// What each sector may hold: all the same byte.
type Model = Vec<Vec<u8>>;

/// After a round, a sector holds what one of the requests over it wrote. A discard may do nothing.
fn settle(model: &mut Model, requests: &[Request]) {
    for (sector, known) in model.iter_mut().enumerate() {
        let at = sector as u64 * SECTOR;
        let covers = requests.iter().filter(|request| (request.offset..request.offset + request.len).contains(&at));
        let mut possible: Vec<u8> = Vec::new();
        let mut keeps = true;
        for request in covers {
            match request.kind {
                Kind::Write(byte) => possible.push(byte),
                Kind::Zero { .. } | Kind::Discard => possible.push(0),
            }
            keeps &= matches!(request.kind, Kind::Discard);
        }
        if keeps {
            possible.append(known);
        }
        *known = possible;
    }
}

async fn compare(child: &Child, model: &mut Model, round: usize) {
    let bytes = child.read_vec(0, usize::try_from(AREA).expect("small")).await.expect("reads");
    for (sector, (known, found)) in model.iter_mut().zip(bytes.chunks(512)).enumerate() {
        let byte = found[0];
        assert!(found.iter().all(|other| *other == byte), "round {round}: sector {sector} is torn");
        assert!(known.contains(&byte), "round {round}: sector {sector} holds {byte}, not one of {known:?}");
        *known = vec![byte];
    }
}

fn fight(options: Options, seed: u64) {
    let dir = Dir::new();
    let path = dir.path("a.qcow2");
    let graph = Graph::new(registry());
    aio::block_on(create(&graph, &path, AREA, options));
    let opened =
        Options::new().with("driver", "qcow2").with("file.driver", "file").with("file.filename", path.as_str());
    let child = aio::block_on(open(&graph, opened));
    let threads = [aio::IoThread::start("one").expect("a thread"), aio::IoThread::start("two").expect("a thread")];
    let mut model: Model = vec![vec![0]; usize::try_from(AREA / SECTOR).expect("small")];
    let mut random = Random(seed);
    for round in 0..ROUNDS {
        let requests: Vec<Request> = (0..REQUESTS).map(|number| request(&mut random, round + number)).collect();
        let (ended, all_ended) = mpsc::channel();
        for (number, request) in requests.iter().copied().enumerate() {
            let (child, ended) = (Arc::clone(&child), ended.clone());
            threads[number % 2].handle().spawn(async move {
                perform(child, request).await;
                // The receiver waits for all of them.
                let _ = ended.send(());
            });
        }
        drop(ended);
        assert_eq!(all_ended.iter().count(), REQUESTS, "round {round}: a request failed");
        settle(&mut model, &requests);
        aio::block_on(compare(&child, &mut model, round));
        if round % 16 == 0 {
            aio::block_on(child.flush()).expect("flushes");
        }
    }
    aio::block_on(graph.detach(&child)).expect("closes");
    match Command::new("qemu-img").args(["check", "-f", "qcow2", &path]).output() {
        Ok(check) => {
            let text = String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
            assert!(check.status.success(), "seed {seed}: {text}");
        }
        Err(_) => println!("skipped: there is no qemu-img to check the image"),
    }
}

#[test]
fn overlapping_requests_of_two_threads_leave_a_sound_image() {
    fight(Options::new().with("cluster_size", "4096"), 1);
    fight(Options::new(), 2);
}

#[test]
fn overlapping_requests_of_two_threads_leave_a_sound_image_with_subclusters() {
    fight(Options::new().with("cluster_size", "65536").with("extended_l2", "on"), 3);
    fight(Options::new().with("cluster_size", "512").with("lazy_refcounts", "on"), 4);
}
