//! A drive without a transport: commands, data blocks and errors as steps.

use std::sync::Arc;

use super::*;
use device::testing::FakeDisk;

/// A drive whose host moves everything at once.
struct Bench {
    host: DriveHost,
    state: DriveState,
    disk: Arc<FakeDisk>,
    interrupts: u32,
    results: Arc<std::sync::Mutex<Vec<Result<(), DiskError>>>>,
}

impl Bench {
    fn new(options: DriveOptions, sectors: usize) -> Self {
        let disk = FakeDisk::new(sectors);
        let host = DriveHost::new(options, disk.clone(), false);
        let mut bench = Self { host, state: DriveState::default(), disk, interrupts: 0, results: Arc::default() };
        bench.drive().hard_reset();
        bench
    }

    fn disk(sectors: usize) -> Self {
        Self::new(DriveOptions::new(DriveKind::Disk), sectors)
    }

    fn drive(&mut self) -> Drive<'_> {
        Drive { host: &mut self.host, state: &mut self.state }
    }

    /// Runs what follows from a step, as far as no host is needed; memory of `len` bytes serves DMA.
    fn run(&mut self, mut step: Step, memory: &DmaBuffer) {
        loop {
            step = match step {
                Step::None | Step::Starved => return,
                Step::Interrupt => {
                    self.interrupts += 1;
                    return;
                }
                Step::Data { interrupt } => {
                    self.interrupts += u32::from(interrupt);
                    return;
                }
                Step::Dma { .. } => self.drive().dma(memory.clone()),
                Step::Disk(operation) => {
                    let results = Arc::clone(&self.results);
                    let done = Box::new(move |result| results.lock().expect("results").push(result));
                    self.disk.submit(device::disk::DiskRequest { operation, done });
                    self.disk.work();
                    let result = self.results.lock().expect("results").remove(0);
                    let token = self.host.token();
                    self.drive().disk_done(token, result, false)
                }
            };
        }
    }

    fn command(&mut self, code: u8) {
        let step = self.drive().command(code);
        self.run(step, &DmaBuffer::detached(512 * 1024));
    }

    fn registers(&mut self, lba: u64, count: u16, device: u8) {
        let (lba, count) = (lba.to_le_bytes(), count.to_le_bytes());
        for index in 0..3 {
            self.state.lba[index].write(lba[index + 3]);
            self.state.lba[index].write(lba[index]);
        }
        self.state.count.write(count[1]);
        self.state.count.write(count[0]);
        self.state.device = device;
    }

    fn read_all(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.state.status & status::DRQ != 0 {
            let block = self.drive().data().to_vec();
            assert!(!block.is_empty());
            bytes.extend(&block);
            let step = self.drive().moved(block.len() as u32);
            self.run(step, &DmaBuffer::empty());
        }
        bytes
    }

    fn write_all(&mut self, byte: u8) -> usize {
        let mut written = 0;
        while self.state.status & status::DRQ != 0 {
            let mut drive = self.drive();
            let block = drive.data_mut();
            block.fill(byte);
            let len = block.len();
            assert_ne!(len, 0);
            written += len;
            let step = drive.moved(len as u32);
            self.run(step, &DmaBuffer::empty());
        }
        written
    }

    fn address(&self) -> [u8; 6] {
        let [low, mid, high] = self.state.lba;
        [low.now, mid.now, high.now, low.before, mid.before, high.before]
    }

    fn is_aborted(&self) -> bool {
        (self.state.status, self.state.error) == (status::DRDY | status::ERR, ABRT)
    }
}

const GOOD: u8 = status::DRDY | status::DSC;

fn words(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

#[test]
fn identify_has_qemus_words() {
    let mut bench = Bench::disk(0x4_0000);
    bench.command(0xec);
    let words = words(&bench.read_all());
    assert_eq!((bench.state.status, bench.interrupts), (GOOD, 1));
    let expected = [
        (0, 0x0040),
        (1, 260),
        (3, 16),
        (6, 63),
        (10, 0x514d),
        (47, 0x8010),
        (49, 0x0b00),
        (53, 7),
        (59, 0x0110),
        (60, 0),
        (61, 4),
        (63, 7),
        (82, 0x4021),
        (83, 0x7400),
        (85, 0x4021),
        (86, 0x3400),
        (88, 0x203f),
        (93, 0x6001),
        (100, 0),
        (101, 4),
        (106, 0x6000),
        (169, 1),
    ];
    for (index, value) in expected {
        assert_eq!(words[index], value, "word {index}");
    }
    let text: Vec<u8> = words[27..47].iter().flat_map(|word| word.to_be_bytes()).collect();
    assert_eq!(String::from_utf8_lossy(&text).trim(), "QEMU HARDDISK");
}

#[test]
fn read_sectors_gives_one_block_for_each_and_the_next_address() {
    let mut bench = Bench::disk(1000);
    bench.registers(300, 3, 0xe0);
    bench.command(0x20);
    let bytes = bench.read_all();
    assert_eq!((bytes.len(), bytes[0], bytes[512], bytes[1024]), (3 * 512, 44, 45, 46));
    assert_eq!((bench.interrupts, bench.state.status), (3, GOOD));
    assert_eq!((bench.address()[..3].to_vec(), bench.state.count.now), (vec![0x2f, 1, 0], 0));
    assert_eq!(bench.disk.take_log(), ["read 300+3"]);
}

#[test]
fn read_multiple_ext_has_blocks_of_what_was_set() {
    let mut bench = Bench::disk(1000);
    bench.state.count.write(8);
    bench.command(0xc6);
    bench.registers(10, 200, 0x40);
    bench.interrupts = 0;
    bench.command(0x29);
    let bytes = bench.read_all();
    assert_eq!((bytes.len(), bytes[0], bytes[199 * 512]), (200 * 512, 10, 209));
    assert_eq!((bench.interrupts, bench.address()), (25, [210, 0, 0, 0, 0, 0]));
    bench.state.count.write(0);
    bench.command(0xc6);
    bench.command(0x29);
    assert!(bench.is_aborted(), "multiple is off");
}

#[test]
fn cylinders_heads_and_sectors_lead_to_the_sector_and_on() {
    let mut bench = Bench::disk(0x4_0000);
    // Cylinder 2, head 3, sector 63: the last of its track.
    bench.registers(0x0000_023f, 2, 0xa3);
    bench.command(0x20);
    bench.read_all();
    let first = (2 * 16 + 3) * 63 + 62;
    assert_eq!(bench.disk.take_log(), [format!("read {first}+2")]);
    assert_eq!((bench.address()[..3].to_vec(), bench.state.device), (vec![2, 2, 0], 0xa4));
    // Other parameters, other sectors.
    bench.registers(0, 17, 0xa7);
    bench.command(0x91);
    bench.registers(0x0000_0101, 1, 0xa1);
    bench.command(0x20);
    bench.read_all();
    assert_eq!(bench.disk.take_log(), [format!("read {}+1", (8 + 1) * 17)]);
    // Sectors count from 1.
    bench.registers(0, 1, 0xa0);
    bench.command(0x20);
    assert!(bench.is_aborted());
}

#[test]
fn writes_interrupt_behind_each_block() {
    let mut bench = Bench::disk(100);
    bench.registers(7, 2, 0xe0);
    bench.command(0x30);
    assert_eq!((bench.interrupts, bench.state.status), (0, GOOD | status::DRQ));
    assert_eq!(bench.write_all(0xaa), 1024);
    assert_eq!((bench.interrupts, bench.state.status), (2, GOOD));
    bench.registers(20, 32, 0xe0);
    bench.command(0xce);
    assert_eq!(bench.write_all(0xbb), 32 * 512);
    let expected = ["write 7+1", "write 8+1", "write 20+16 fua", "write 36+16 fua"];
    assert_eq!(bench.disk.take_log(), expected);
    let data = bench.disk.data.lock().expect("data");
    assert_eq!((data[6 * 512], data[7 * 512], data[8 * 512 + 511], data[9 * 512]), (6, 0xaa, 0xaa, 9));
}

#[test]
fn dma_moves_everything_at_once_in_all_forms() {
    for (code, count, expected) in [
        (0xc8, 4, "read 5+4"),
        (0x25, 256, "read 5+256"),
        (0xca, 4, "write 5+4"),
        (0x35, 4, "write 5+4"),
        (0x3d, 4, "write 5+4 fua"),
    ] {
        let mut bench = Bench::disk(1000);
        bench.registers(5, count, 0xe0);
        bench.command(code);
        assert_eq!((bench.disk.take_log(), bench.interrupts), (vec![expected.to_owned()], 1), "{code:#x}");
        assert_eq!((bench.state.status, bench.state.transferred), (GOOD, u32::from(count) * 512), "{code:#x}");
    }
}

#[test]
fn dma_with_too_little_memory_moves_what_fits_and_stays_silent() {
    let mut bench = Bench::disk(100);
    bench.registers(5, 4, 0xe0);
    let step = bench.drive().command(0xc8);
    assert!(matches!(step, Step::Dma { to_memory: true, len: 2048 }));
    bench.run(step, &DmaBuffer::detached(1500));
    assert_eq!((bench.disk.take_log(), bench.interrupts), (vec!["read 5+2".to_owned()], 0));
    assert_eq!((bench.state.status, bench.state.transferred), (GOOD, 1024));
}

#[test]
fn accesses_outside_of_the_disk_are_aborted() {
    for code in [0x20, 0x24, 0x25, 0x30, 0x35, 0x40, 0x42, 0xc4, 0xc8, 0xca] {
        let mut bench = Bench::disk(100);
        bench.registers(98, 3, 0xe0);
        bench.command(code);
        assert!(bench.is_aborted(), "{code:#x}");
        assert!(bench.disk.take_log().is_empty());
    }
}

#[test]
fn failed_requests_abort_the_command_where_it_stands() {
    for code in [0x20, 0xc8, 0x40, 0xe7] {
        let mut bench = Bench::disk(1000);
        *bench.disk.failure.lock().expect("failure") = Some(DiskError::Io);
        bench.registers(9, 3, 0xe0);
        bench.command(code);
        assert!(bench.is_aborted(), "{code:#x}");
        assert_eq!((bench.interrupts, bench.address()[0]), (1, 9));
    }
}

#[test]
fn verify_reads_and_gives_nothing() {
    let mut bench = Bench::disk(1000);
    bench.registers(0, 300, 0x40);
    bench.command(0x42);
    assert_eq!(bench.disk.take_log(), ["read 0+128", "read 128+128", "read 256+44"]);
    assert_eq!((bench.state.status, bench.interrupts), (GOOD, 1));
}

#[test]
fn trim_discards_range_by_range() {
    let mut bench = Bench::disk(100);
    bench.state.feature.write(1);
    bench.state.count.write(1);
    let memory = DmaBuffer::detached(512);
    for (index, (sector, count)) in [(3u64, 2u64), (0, 0), (10, 5)].into_iter().enumerate() {
        memory.io().write_at(8 * index, &(sector | count << 48).to_le_bytes());
    }
    let step = bench.drive().command(0x06);
    bench.run(step, &memory);
    assert_eq!(bench.disk.take_log(), ["discard 3+2", "discard 10+5"]);
    assert_eq!((bench.state.status, bench.interrupts), (GOOD, 1));
    memory.io().write_at(0, &(99u64 | 2 << 48).to_le_bytes());
    let step = bench.drive().command(0x06);
    bench.run(step, &memory);
    assert!(bench.is_aborted(), "a range that ends behind the disk");
    bench.state.feature.write(0);
    bench.command(0x06);
    assert!(bench.is_aborted(), "no function but TRIM");
}

#[test]
fn features_change_what_identify_says() {
    let mut bench = Bench::disk(100);
    let mut set = |feature: u8, count: u8| {
        bench.state.feature.write(feature);
        bench.state.count.write(count);
        bench.command(0xef);
        assert_eq!(bench.state.status, GOOD, "{feature:#x}");
        bench.command(0xec);
        words(&bench.read_all())
    };
    assert_eq!(set(0x03, 0x22)[63], 0x0407);
    assert_eq!(set(0x03, 0x44)[88], 0x103f);
    assert_eq!(set(0x82, 0)[85], 0x4001);
    assert_eq!(set(0x02, 0)[85], 0x4021);
    assert_eq!(bench.disk.take_log(), ["cache false", "flush", "cache true"], "turning the cache off flushes it");
    bench.state.feature.write(0x99);
    bench.command(0xef);
    assert!(bench.is_aborted());
}

#[test]
fn smart_data_logs_and_status() {
    let mut bench = Bench::disk(100);
    let page = |bench: &mut Bench, function: u8, low: u8| {
        bench.registers(0xc2_4f00 | u64::from(low), 1, 0xa0);
        bench.state.feature.write(function);
        bench.command(0xb0);
        let page = bench.read_all();
        assert_eq!(page.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "{function:#x}");
        page
    };
    let data = page(&mut bench, 0xd0, 0);
    assert_eq!((data[0], data[2], data[2 + 12], data[362]), (1, 1, 3, 0x82));
    assert_eq!(page(&mut bench, 0xd1, 0)[2..4], [1, 6]);
    assert!(page(&mut bench, 0xd4, 1).is_empty());
    let log = page(&mut bench, 0xd5, 6);
    assert_eq!((log[2], log[3], log[508]), (1, 0, 1));
    assert_eq!(page(&mut bench, 0xd5, 1)[1], 0);
    page(&mut bench, 0xda, 0);
    assert_eq!(bench.address()[1..3], [0x4f, 0xc2]);
    page(&mut bench, 0xd9, 0);
    page(&mut bench, 0xd0, 0);
    assert!(bench.is_aborted(), "SMART is off");
}

#[test]
fn native_size_can_be_read_and_the_visible_one_set() {
    let mut bench = Bench::disk(5000);
    bench.registers(0, 0, 0xe0);
    bench.command(0xf9);
    assert!(bench.is_aborted(), "not behind READ NATIVE MAX");
    bench.command(0xf8);
    assert_eq!(bench.address()[..2], [0x87, 0x13]);
    bench.state.feature.write(0);
    bench.registers(99, 0, 0xe0);
    bench.command(0xf9);
    assert_eq!(bench.state.status, GOOD);
    bench.command(0xec);
    assert_eq!(words(&bench.read_all())[60], 100);
    bench.registers(100, 1, 0xe0);
    bench.command(0x20);
    assert!(bench.is_aborted());
    bench.command(0x27);
    assert_eq!(bench.address(), [0x87, 0x13, 0, 0, 0, 0]);
}

#[test]
fn power_modes_are_told_and_sleep_ends_with_a_reset() {
    let mut bench = Bench::disk(100);
    let mode = |bench: &mut Bench| {
        bench.command(0xe5);
        bench.state.count.now
    };
    assert_eq!(mode(&mut bench), 0xff);
    bench.command(0xe0);
    assert_eq!(mode(&mut bench), 0);
    bench.registers(0, 1, 0xe0);
    bench.command(0x20);
    bench.read_all();
    assert_eq!(mode(&mut bench), 0xff, "an access makes the disk turn");
    bench.command(0xe6);
    bench.command(0xec);
    assert!(bench.is_aborted());
    bench.drive().begin_soft_reset();
    bench.drive().end_soft_reset();
    assert_eq!((bench.state.status, bench.state.error, bench.address()[..3].to_vec()), (GOOD, 1, vec![1, 0, 0]));
    bench.command(0xec);
    assert_eq!(bench.read_all().len(), 512);
}

#[test]
fn unknown_commands_are_aborted_and_working_drives_ignore_all() {
    let mut bench = Bench::disk(100);
    for code in [0x00, 0x08, 0x60, 0xa0, 0xa1, 0xde, 0xff] {
        bench.command(code);
        assert!(bench.is_aborted(), "{code:#x}");
    }
    bench.command(0xec);
    let step = bench.drive().command(0xec);
    assert!(matches!(step, Step::None));
    assert_eq!(bench.read_all().len(), 512);
}

#[test]
fn reset_waits_for_the_disk_and_late_results_count_for_nothing() {
    let mut bench = Bench::disk(100);
    bench.registers(0, 1, 0xe0);
    let step = bench.drive().command(0x20);
    assert!(matches!(step, Step::Disk(_)));
    let token = bench.host.token();
    bench.drive().begin_soft_reset();
    bench.drive().end_soft_reset();
    assert_ne!(bench.state.status & status::BSY, 0);
    assert!(matches!(bench.drive().disk_done(token, Ok(()), false), Step::None));
    assert_eq!(bench.state.status, GOOD);
    assert!(matches!(bench.drive().disk_done(token, Ok(()), false), Step::None));
    assert_eq!((bench.state.status, bench.interrupts), (GOOD, 0));
}

#[test]
fn block_that_a_software_reset_ended_is_not_saved() {
    let mut bench = Bench::disk(100);
    bench.command(0xec);
    assert_eq!(bench.state.end, 512);
    bench.drive().begin_soft_reset();
    bench.drive().end_soft_reset();
    let saved = state::testing::saved(&bench.state);
    bench.drive().restored();
    assert_eq!(state::testing::saved(&bench.state), saved);
}

#[test]
fn restored_request_is_made_again() {
    let mut bench = Bench::disk(100);
    bench.registers(40, 2, 0xe0);
    let step = bench.drive().command(0x30);
    bench.run(step, &DmaBuffer::empty());
    bench.drive().data_mut().fill(0x55);
    let step = bench.drive().moved(512);
    assert!(matches!(step, Step::Disk(_)));
    // The request is lost; the state goes to another drive.
    let mut other = Bench::disk(100);
    state::testing::load_all(&mut other.state, &state::testing::saved(&bench.state)).expect("accepted");
    let step = other.drive().restored();
    other.run(step, &DmaBuffer::empty());
    assert_eq!((other.disk.take_log(), other.interrupts), (vec!["write 40+1".to_owned()], 1));
    assert_eq!(other.write_all(0x66), 512);
    assert_eq!(other.disk.data.lock().expect("data")[40 * 512], 0x55);
}

#[test]
fn reset_is_complete_and_hostile_state_is_harmless() {
    let mut bench = Bench::disk(100);
    let reset = |bench: &mut Bench| {
        bench.state.atapi.tray_open = false;
        bench.drive().hard_reset();
    };
    state::testing::assert_reset_is_complete(&mut bench, |bench| &mut bench.state, reset);
    state::testing::assert_hostile_bytes_are_harmless(&mut bench.state, 7, 300);
    let mut random = 99u64;
    for round in 0..300 {
        state::testing::assert_hostile_bytes_are_harmless(&mut bench.state, round, 3);
        let step = bench.drive().restored();
        bench.run(step, &DmaBuffer::detached(4096));
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let step = bench.drive().moved((random >> 40) as u32 & 0x3ff);
        bench.run(step, &DmaBuffer::detached(512));
        bench.command((random >> 32) as u8);
    }
}
