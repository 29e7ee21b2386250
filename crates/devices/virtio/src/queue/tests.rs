use std::collections::BTreeMap;

use super::*;
use crate::testing::{DriverQueue, Guest, Part, RAM_SIZE, Random};

const BASE: u64 = 0x1000;
const DATA: u64 = 0x8_0000;
const LAYOUTS: [u64; 2] = [0, features::RING_PACKED];

fn device_queue(driver: &DriverQueue) -> Queue {
    let mut queue = Queue::new(driver.size);
    queue.set_features(driver.features);
    queue.set_areas(|state| {
        (state.descriptors, state.driver, state.device) = (driver.descriptors, driver.driver, driver.device);
    });
    queue.enable();
    queue
}

struct Bench {
    guest: Guest,
    driver: DriverQueue,
    queue: Queue,
    dma: DmaView,
}

impl Bench {
    fn new(size: u16, features: u64) -> Self {
        let guest = Guest::new();
        let driver = DriverQueue::new(size, features, BASE);
        let (queue, dma) = (device_queue(&driver), guest.dma());
        Self { guest, driver, queue, dma }
    }

    fn pop(&mut self) -> Result<Option<Request>, QueueError> {
        self.queue.pop(&self.dma)
    }

    fn offer(&mut self, parts: &[Part]) -> u16 {
        self.driver.offer(&self.guest, parts, false).expect("room")
    }
}

fn random_parts(random: &mut Random, id: u64) -> Vec<Part> {
    let (readable, writable) = (random.below(4), random.below(4));
    let (readable, writable) = if readable + writable == 0 { (1, 0) } else { (readable, writable) };
    let part = |index: u64, writable| (DATA + id * 0x800 + index * 0x100, 1 + (index as u32 * 37) % 200, writable);
    (0..readable).map(|index| part(index, false)).chain((0..writable).map(|index| part(8 + index, true))).collect()
}

/// A driver and a device that work at random, in turns, with completions out of order: nothing is lost, nothing comes
/// twice, the bytes arrive, and whoever waits for an event gets it.
fn converse(size: u16, features: u64, seed: u64, rounds: usize) {
    let mut bench = Bench::new(size, features);
    let mut random = Random(seed);
    let mut offered: BTreeMap<u16, Vec<Part>> = BTreeMap::new();
    let mut working: Vec<Request> = Vec::new();
    let (mut kicked, mut waits, mut interrupted, mut done, mut collected) = (false, false, false, 0, 0);
    bench.driver.refuse_interrupts(&bench.guest);
    for _ in 0..rounds {
        match random.below(4) {
            0 => {
                for _ in 0..=random.below(3) {
                    let id = random.below(200);
                    let parts = random_parts(&mut random, id);
                    let indirect = features & features::INDIRECT != 0 && random.below(2) == 0;
                    if parts.len() > usize::from(size) && !indirect {
                        continue;
                    }
                    if let Some(id) = bench.driver.offer(&bench.guest, &parts, indirect) {
                        assert!(offered.insert(id, parts).is_none());
                    }
                }
                kicked |= bench.driver.needs_kick(&bench.guest);
                assert!(kicked || working.len() + done - collected == offered.len(), "the device does not look");
            }
            1 if kicked => {
                loop {
                    while let Some(request) = bench.pop().expect("a good driver") {
                        working.push(request);
                    }
                    if !bench.queue.enable_notifications(&bench.dma).expect("a good driver") {
                        break;
                    }
                }
                kicked = false;
                assert_eq!(working.len() + done - collected, offered.len(), "a chain was not seen");
            }
            2 if !working.is_empty() => {
                let request = working.swap_remove(random.below(working.len() as u64) as usize);
                let len = request.writable.len();
                request.writable.io().fill(0, len, done as u8);
                assert!(bench.queue.push(&bench.dma, request.token, len as u32).expect("a good driver"));
                interrupted |= bench.queue.wants_interrupt(&bench.dma).expect("a good driver");
                done += 1;
            }
            3 => {
                let used = bench.driver.collect(&bench.guest);
                if waits && !used.is_empty() {
                    assert!(interrupted, "the driver waited for an interrupt");
                }
                collected += used.len();
                for (id, len) in used {
                    let parts = offered.remove(&id).expect("offered");
                    let writable: u32 = parts.iter().filter(|part| part.2).map(|part| part.1).sum();
                    assert_eq!(len, writable);
                }
                waits = random.below(2) == 0;
                if waits {
                    bench.driver.want_interrupt(&bench.guest);
                } else {
                    bench.driver.refuse_interrupts(&bench.guest);
                }
                interrupted = false;
                // Nothing was used between the look and the wish.
                assert!(bench.driver.collect(&bench.guest).is_empty());
            }
            _ => {}
        }
    }
    assert!(done > rounds / 40, "only {done} chains in {rounds} rounds");
}

#[test]
fn random_conversations_lose_nothing_in_either_layout() {
    let options = [0, features::EVENT_IDX, features::INDIRECT, features::EVENT_IDX | features::INDIRECT];
    for layout in LAYOUTS {
        for feature in options {
            for (size, seed) in [(8, 1), (16, 77), (256, 12345), (1024, 99)] {
                converse(size, layout | feature | features::VERSION_1, seed, 6000);
            }
        }
    }
    // The packed layout has sizes that are no powers of two (2.8).
    for size in [7, 13, 1000] {
        converse(size, features::RING_PACKED | features::EVENT_IDX, 5, 6000);
    }
}

#[test]
fn split_indices_pass_their_end() {
    converse(8, features::EVENT_IDX, 3, 600_000);
}

#[test]
fn readable_and_writable_parts_are_the_driver_s_memory() {
    for layout in LAYOUTS {
        let mut bench = Bench::new(8, layout);
        bench.guest.write(DATA, b"header");
        bench.guest.write(DATA + 0x100, b"more");
        let id = bench.offer(&[(DATA, 6, false), (DATA + 0x100, 4, false), (DATA + 0x200, 3, true)]);
        let request = bench.pop().expect("a good driver").expect("a chain");
        assert_eq!(request.readable.io().to_vec(), b"headermore");
        request.writable.write_at(0, b"yes");
        assert!(bench.queue.push(&bench.dma, request.token, 3).expect("pushed"));
        assert!(!bench.queue.push(&bench.dma, request.token, 3).expect("twice"), "a chain is given back once");
        assert_eq!(bench.driver.collect(&bench.guest), [(id, 3)]);
        assert_eq!(bench.guest.read(DATA + 0x200, 3), b"yes");
    }
}

#[test]
fn chains_that_break_the_rules_are_refused() {
    let far = RAM_SIZE;
    let cases: [(&[Part], QueueError); 5] = [
        (&[(DATA, 0, false)], QueueError::EmptyBuffer),
        (&[(DATA, 1, true), (DATA, 1, false)], QueueError::Order),
        (&[(far, 1, false)], QueueError::Memory(DmaError { address: far, len: 1 })),
        (&[(far - 1, 2, true)], QueueError::Memory(DmaError { address: far - 1, len: 2 })),
        (&[(u64::MAX, u32::MAX, true)], QueueError::Memory(DmaError { address: u64::MAX, len: u64::from(u32::MAX) })),
    ];
    for layout in LAYOUTS {
        for indirect in [false, true] {
            for (parts, expected) in cases {
                let mut bench = Bench::new(8, layout | features::INDIRECT);
                bench.driver.offer(&bench.guest, parts, indirect).expect("room");
                assert_eq!(bench.pop().expect_err("refused"), expected, "{parts:?}");
            }
        }
        let mut bench = Bench::new(8, layout);
        bench.driver.offer(&bench.guest, &[(DATA, 1, false)], true).expect("room");
        assert_eq!(bench.pop().expect_err("not negotiated"), QueueError::Indirect);
    }
}

#[test]
fn split_rings_with_loops_and_bad_indices_are_refused() {
    let bench = |fill: &dyn Fn(&Guest, &DriverQueue)| {
        let mut bench = Bench::new(8, features::INDIRECT);
        fill(&bench.guest, &bench.driver);
        bench.guest.set_u16(bench.driver.driver + 2, 1);
        bench.pop().expect_err("refused")
    };
    // A descriptor that leads to itself.
    let itself = bench(&|guest, driver| guest.set_descriptor(driver.descriptors, (DATA, 1), flag::NEXT, 0));
    assert_eq!(itself, QueueError::Loop);
    let outside = bench(&|guest, driver| guest.set_descriptor(driver.descriptors, (DATA, 1), flag::NEXT, 8));
    assert_eq!(outside, QueueError::Descriptor(8));
    assert_eq!(bench(&|guest, driver| guest.set_u16(driver.driver + 4, 9)), QueueError::Descriptor(9));
    let table = |len, flags| {
        bench(&|guest: &Guest, driver: &DriverQueue| {
            guest.set_descriptor(driver.descriptors, (DATA, len), flag::INDIRECT, 0);
            for entry in 0..64 {
                guest.set_descriptor(DATA + 16 * entry, (DATA, 1), flags, 0);
            }
        })
    };
    assert_eq!(table(0, 0), QueueError::TableSize(0));
    assert_eq!(table(24, 0), QueueError::TableSize(24));
    assert_eq!(table(64, flag::NEXT), QueueError::Loop);
    assert_eq!(table(64, flag::INDIRECT), QueueError::Indirect);
    assert_eq!(table(0xffff_fff0, flag::NEXT), QueueError::TooLong);
    let both = flag::INDIRECT | flag::NEXT;
    let both = bench(&|guest, driver| guest.set_descriptor(driver.descriptors, (DATA, 16), both, 0));
    assert_eq!(both, QueueError::Indirect);
    let mut far = Bench::new(8, 0);
    far.guest.set_u16(far.driver.driver + 2, 9);
    assert_eq!(far.pop().expect_err("refused"), QueueError::Index(0, 9));
}

#[test]
fn split_chain_may_end_with_an_indirect_table() {
    let mut bench = Bench::new(8, features::INDIRECT);
    let table = bench.driver.descriptors;
    bench.guest.set_descriptor(table, (DATA, 5), flag::NEXT, 3);
    bench.guest.set_descriptor(table + 48, (DATA + 0x100, 32), flag::INDIRECT, 0);
    bench.guest.set_descriptor(DATA + 0x100, (DATA, 2), flag::NEXT, 1);
    bench.guest.set_descriptor(DATA + 0x110, (DATA, 7), flag::WRITE, 0);
    bench.guest.set_u16(bench.driver.driver + 2, 1);
    let request = bench.pop().expect("good").expect("a chain");
    assert_eq!((request.readable.len(), request.writable.len()), (7, 7));
}

#[test]
fn packed_ring_without_an_end_is_refused() {
    let mut bench = Bench::new(8, features::RING_PACKED | features::INDIRECT);
    for entry in 0..8 {
        let flags = flag::NEXT | flag::AVAIL;
        bench.guest.set_descriptor(bench.driver.descriptors + 16 * entry, (DATA, 1), 0, flags);
    }
    assert_eq!(bench.pop().expect_err("refused"), QueueError::Loop);
    let mut bench = Bench::new(8, features::RING_PACKED | features::INDIRECT);
    let flags = flag::INDIRECT | flag::AVAIL;
    bench.guest.set_descriptor(bench.driver.descriptors, (DATA, 0xffff_fff0), 0, flags);
    for entry in 0..2000 {
        bench.guest.set_descriptor(DATA + 16 * entry, (DATA, 1), 0, 0);
    }
    assert_eq!(bench.pop().expect_err("refused"), QueueError::TooLong);
}

#[test]
fn chains_longer_than_four_gigabytes_are_refused() {
    // Guest memory that large needs no host memory until it is touched.
    let ram = std::sync::Arc::new(memory::RamBlock::new("ram", 5 << 30).expect("RAM"));
    let space = std::sync::Arc::new(memory::AddressSpace::new(memory::SpaceKind::Memory));
    let backing = memory::Backing::Ram { block: ram.clone(), offset: 0, read_only: false };
    space.map(memory::GuestAddress(0), 5 << 30, 0, backing).expect("mapped");
    let guest = Guest { ram, space };
    let mut driver = DriverQueue::new(8, 0, BASE);
    let mut queue = device_queue(&driver);
    driver.offer(&guest, &[(0, u32::MAX, true), (0, 1, true)], false).expect("room");
    assert_eq!(queue.pop(&guest.dma()).expect_err("refused"), QueueError::TooLong);
}

#[test]
fn more_chains_than_entries_are_refused() {
    let mut bench = Bench::new(8, 0);
    // The same descriptor again and again.
    bench.guest.set_descriptor(bench.driver.descriptors, (DATA, 1), 0, 0);
    for index in 1..=8 {
        bench.guest.set_u16(bench.driver.driver + 2, index);
        assert!(bench.pop().expect("room").is_some());
    }
    bench.guest.set_u16(bench.driver.driver + 2, 9);
    assert_eq!(bench.pop().expect_err("refused"), QueueError::Overfull);
}

#[test]
fn rings_outside_of_ram_are_refused() {
    for layout in LAYOUTS {
        for area in 0..3 {
            let guest = Guest::new();
            let mut driver = DriverQueue::new(8, layout, BASE);
            *[&mut driver.descriptors, &mut driver.driver, &mut driver.device][area] = RAM_SIZE - 3;
            let mut queue = device_queue(&driver);
            assert!(matches!(queue.pop(&guest.dma()), Err(QueueError::Memory(_))), "{area}");
        }
    }
}

#[test]
fn completion_from_before_a_reset_is_ignored() {
    for layout in LAYOUTS {
        let mut bench = Bench::new(8, layout);
        bench.offer(&[(DATA, 4, true)]);
        let late = bench.pop().expect("good").expect("a chain");
        bench.queue.reset();
        assert_eq!(bench.queue.in_flight(), 0);
        assert!(!bench.queue.push(&bench.dma, late.token, 4).expect("ignored"));
        bench.queue = device_queue(&bench.driver);
        assert!(bench.driver.collect(&bench.guest).is_empty());
        // The buffer lives as long as somebody has it.
        late.writable.write_at(0, &[1; 4]);
    }
}

#[test]
fn moved_memory_is_found_again() {
    let mut bench = Bench::new(8, 0);
    bench.offer(&[(DATA, 4, true)]);
    let request = bench.pop().expect("good").expect("a chain");
    // The map changes: what was resolved is resolved again, and what is in flight stays where it was.
    let other = std::sync::Arc::new(memory::RamBlock::new("other", RAM_SIZE).expect("RAM"));
    let backing = memory::Backing::Ram { block: other.clone(), offset: 0, read_only: false };
    bench.guest.space.map(memory::GuestAddress(0), RAM_SIZE, 1, backing).expect("mapped");
    request.writable.write_at(0, b"data");
    assert_eq!(bench.guest.read(DATA, 4), b"data");
    assert!(bench.queue.push(&bench.dma, request.token, 4).expect("pushed"));
    assert_eq!(other.load_u16(bench.driver.device as usize + 2), Some(1));
    assert_eq!(bench.guest.u16(bench.driver.device + 2), 0);
}

#[test]
fn saved_queue_goes_on_and_does_chains_in_flight_again() {
    for layout in LAYOUTS {
        let mut bench = Bench::new(8, layout);
        bench.guest.write(DATA, b"abc");
        let first = bench.offer(&[(DATA, 3, false), (DATA + 0x100, 2, true)]);
        bench.offer(&[(DATA, 3, false)]);
        let _lost = bench.pop().expect("good").expect("a chain");
        let list = QueueList(vec![bench.queue.clone()]);
        let mut fresh = QueueList(vec![Queue::new(8)]);
        state::testing::load_all(&mut fresh, &state::testing::saved(&list)).expect("loaded");
        bench.queue = fresh.0.remove(0);
        bench.queue.set_features(layout);
        let again = bench.queue.take_again(&bench.dma).expect("resolved");
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].readable.io().to_vec(), b"abc");
        assert!(bench.queue.push(&bench.dma, again[0].token, 2).expect("pushed"));
        assert_eq!(bench.driver.collect(&bench.guest), [(first, 2)]);
        assert!(bench.pop().expect("good").is_some() && bench.pop().expect("good").is_none());
    }
}

#[test]
fn hostile_state_is_refused_or_harmless() {
    for layout in LAYOUTS {
        let mut bench = Bench::new(8, layout);
        bench.offer(&[(DATA, 3, false), (DATA + 0x100, 2, true)]);
        bench.pop().expect("good").expect("a chain");
        let mut list = QueueList(vec![bench.queue.clone(), Queue::new(4)]);
        state::testing::assert_hostile_bytes_are_harmless(&mut list, 7, 2000);
        let bytes = state::testing::saved(&list);
        let mut random = Random(11);
        for _ in 0..2000 {
            let mut bytes = bytes.clone();
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= random.next() as u8;
            if state::testing::load_all(&mut list, &bytes).is_err() {
                continue;
            }
            for queue in &mut list.0 {
                queue.set_features(layout | features::EVENT_IDX);
                let again = queue.take_again(&bench.dma).unwrap_or_default();
                let _more = queue.pop(&bench.dma);
                for request in again {
                    let _pushed = queue.push(&bench.dma, request.token, 1);
                }
                let _wish = queue.wants_interrupt(&bench.dma);
                let _more = queue.enable_notifications(&bench.dma);
            }
        }
    }
}

#[test]
fn random_rings_never_panic() {
    let mut random = Random(4242);
    for round in 0..3000 {
        let layout = LAYOUTS[round % 2] | if round % 3 == 0 { features::EVENT_IDX } else { 0 } | features::INDIRECT;
        let mut bench = Bench::new(8, layout);
        for at in (BASE..BASE + 0x200).chain(0x2_0000..0x2_0100) {
            let value = random.next();
            // Small numbers lead further than large ones.
            let byte = if value & 3 == 0 { value as u8 >> 4 } else { 0 };
            bench.guest.write(at, &[byte]);
        }
        for _ in 0..12 {
            let Ok(popped) = bench.pop() else { break };
            if let Some(request) = popped {
                let _pushed = bench.queue.push(&bench.dma, request.token, random.next() as u32);
                let _wish = bench.queue.wants_interrupt(&bench.dma);
            }
            let _more = bench.queue.enable_notifications(&bench.dma);
        }
    }
}

/// Head and descriptors of an element, as address, length and flags.
fn shown(bench: &Bench, index: Option<u16>) -> (u16, Vec<(u64, u32, u16)>) {
    let element = bench.queue.element(&bench.dma, index).expect("a split queue that is set up");
    let all = element.descriptors.iter().map(|one| (one.address, one.len, one.flags)).collect();
    (element.head, all)
}

#[test]
fn element_is_shown_as_the_driver_has_written_it_and_looking_changes_nothing() {
    let mut bench = Bench::new(8, features::INDIRECT);
    let parts = [(DATA, 16, false), (DATA + 0x100, 512, true), (DATA + 0x400, 1, true)];
    let head = bench.offer(&parts);
    let table = bench.driver.offer(&bench.guest, &parts[..2], true).expect("room");
    let direct =
        vec![(DATA, 16, flag::NEXT), (DATA + 0x100, 512, flag::NEXT | flag::WRITE), (DATA + 0x400, 1, flag::WRITE)];
    assert_eq!(shown(&bench, None), (head, direct));
    let indirect = vec![(DATA, 16, flag::NEXT), (DATA + 0x100, 512, flag::WRITE)];
    assert_eq!(shown(&bench, Some(1)), (table, indirect.clone()));
    assert_eq!(shown(&bench, Some(9)), (table, indirect));
    assert_eq!((bench.queue.info().next_available, bench.queue.info().seen_available), (0, 0));
    assert!(bench.pop().expect("a good driver").is_some());
    let info = bench.queue.info();
    assert_eq!((info.next_available, info.seen_available, info.in_use, info.next_used), (1, 2, 1, 0));
    let element = bench.queue.element(&bench.dma, None).expect("a split queue");
    assert_eq!((element.head, element.available, element.used), (table, (0, 2), (0, 0)));
}

#[test]
fn element_of_a_hostile_driver_ends() {
    let mut bench = Bench::new(4, 0);
    let head = bench.offer(&[(DATA, 16, false)]);
    let at = bench.driver.descriptors + 16 * u64::from(head);
    bench.guest.set_descriptor(at, (DATA, 0), flag::NEXT, head);
    assert_eq!(shown(&bench, None).1.len(), 4, "a loop");
    bench.guest.set_descriptor(at, (DATA, 16), flag::NEXT, 4);
    assert_eq!(shown(&bench, None).1.len(), 1, "a descriptor that is not there");
    for (address, len) in [(u64::MAX, 32), (RAM_SIZE, 16), (DATA, 0), (DATA, 15)] {
        bench.guest.set_descriptor(at, (address, len), flag::INDIRECT, 0);
        assert_eq!(bench.queue.element(&bench.dma, None), Err(ElementError::NoTable), "{address:#x} {len}");
    }
    bench.queue.disable();
    assert_eq!(bench.queue.element(&bench.dma, None), Err(ElementError::NoRings));
    let packed = Bench::new(4, features::RING_PACKED);
    assert_eq!(packed.queue.element(&packed.dma, None), Err(ElementError::Packed));
}
