use device::disk::DiskOperation;

use super::*;
use crate::pci::PciOptions;
use crate::testing::function::{DATA, DISK_SIZE, Function, HEADER, STATUS};
use crate::testing::{DriverQueue, Part};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

fn started(options: BlkOptions) -> (Function, DriverQueue) {
    let function = Function::new(&PciOptions::default(), options);
    let queue = function.start(feature::FLUSH | feature::CONFIG_WCE, 8);
    (function, queue)
}

fn default() -> (Function, DriverQueue) {
    started(BlkOptions::default())
}

/// A request that ends without the disk.
fn immediate((function, queue): &mut (Function, DriverQueue), kind: u32, sector: u64, data: &[Part]) -> u8 {
    function.offer(queue, kind, sector, data);
    assert_eq!(function.disk.waiting(), 0);
    assert_eq!(queue.collect(&function.guest).len(), 1);
    function.answer()
}

#[test]
fn read_fills_the_driver_s_memory() {
    let (function, mut queue) = default();
    function.offer(&mut queue, IN, 8, &[(DATA, 512, true), (DATA + 0x1000, 1024, true)]);
    let DiskOperation::Read { offset, buf } = function.disk.next() else { panic!("a read") };
    assert_eq!((offset, buf.len(), buf.segments().len()), (4096, 1536, 2));
    buf.fill(0, 1536, 7);
    function.disk.complete(Ok(()));
    assert_eq!(function.guest.read(DATA + 0x1000, 1024), [7; 1024]);
    let [(_, written)] = queue.collect(&function.guest)[..] else { panic!("one chain") };
    assert_eq!((written, function.answer()), (1537, 0));
}

#[test]
fn code_in_memory_that_is_read_into_becomes_invalid() {
    let (function, mut queue) = default();
    let page = || function.guest.ram.page_code(DATA as usize).expect("a page");
    page().watch(0, 64);
    function.offer(&mut queue, IN, 0, &[(DATA, 512, true)]);
    assert_eq!(page().generation(), 0);
    function.disk.complete(Ok(()));
    assert_eq!(page().generation(), 1);
}

#[test]
fn write_and_flush_reach_the_disk() {
    let (function, mut queue) = default();
    function.guest.write(DATA, &[9; 512]);
    function.offer(&mut queue, OUT, 1, &[(DATA, 512, false)]);
    let DiskOperation::Write { offset: 512, buf, fua: false } = function.disk.next() else { panic!("a write") };
    assert_eq!(buf.to_vec(), [9; 512]);
    function.disk.complete(Ok(()));
    assert_eq!(function.answer(), 0);
    function.offer(&mut queue, FLUSH, 0, &[]);
    assert!(matches!(function.disk.next(), DiskOperation::Flush));
    function.disk.complete(Err(DiskError::Io));
    assert_eq!(function.answer(), 1);
}

#[test]
fn errors_of_the_disk_are_told() {
    let (function, mut queue) = default();
    for (error, expected) in [(DiskError::Io, 1), (DiskError::NoSpace, 1), (DiskError::Unsupported, 2)] {
        function.offer(&mut queue, OUT, 0, &[(DATA, 512, false)]);
        function.disk.complete(Err(error));
        assert_eq!((queue.collect(&function.guest).len(), function.answer()), (1, expected));
    }
}

#[test]
fn ranges_that_the_disk_does_not_have_are_errors() {
    let sectors = DISK_SIZE / 512;
    let mut bench = default();
    for (sector, len) in [(sectors, 512), (sectors - 1, 1024), (u64::MAX, 512), (0, 511), (u64::MAX / 512, 512)] {
        for (kind, writable) in [(IN, true), (OUT, false)] {
            assert_eq!(immediate(&mut bench, kind, sector, &[(DATA, len, writable)]), 1, "{sector} {len}");
        }
    }
    // Larger blocks.
    let options = BlkOptions { logical_block_size: Some(4096), ..BlkOptions::default() };
    let mut bench = started(options);
    assert_eq!(immediate(&mut bench, IN, 1, &[(DATA, 4096, true)]), 1);
    assert_eq!(immediate(&mut bench, IN, 0, &[(DATA, 512, true)]), 1);
    let (function, mut queue) = bench;
    function.offer(&mut queue, IN, 8, &[(DATA, 4096, true)]);
    assert_eq!(function.disk.waiting(), 1);
}

#[test]
fn request_without_data_is_done() {
    let (function, mut queue) = default();
    function.offer(&mut queue, IN, 0, &[]);
    assert!(matches!(function.disk.next(), DiskOperation::Read { offset: 0, buf } if buf.is_empty()));
}

#[test]
fn header_and_status_may_lie_anywhere() {
    let (function, mut queue) = default();
    let header = u128::from(OUT) | 3 << 64;
    function.guest.write(HEADER, &header.to_le_bytes());
    let parts: [Part; 4] = [(HEADER, 5, false), (HEADER + 5, 11, false), (DATA, 512, false), (STATUS, 1, true)];
    queue.offer(&function.guest, &parts, false).expect("room");
    function.kick(0);
    assert!(matches!(function.disk.next(), DiskOperation::Write { offset: 1536, buf, .. } if buf.len() == 512));
}

#[test]
fn serial_number_is_cut_or_ended() {
    for (serial, expected) in [
        (None, &b"from-drive\0"[..]),
        (Some("x"), b"x\0"),
        (Some("12345678901234567890extra"), b"12345678901234567890"),
    ] {
        let serial = serial.map(str::to_owned);
        let mut bench = started(BlkOptions { serial, ..BlkOptions::default() });
        bench.0.guest.write(DATA, &[0xaa; 21]);
        assert_eq!(immediate(&mut bench, GET_ID, 0, &[(DATA, 20, true)]), 0);
        let mut wanted = expected.to_vec();
        wanted.resize(21, 0xaa);
        assert_eq!(bench.0.guest.read(DATA, 21), wanted);
        assert_eq!(immediate(&mut bench, GET_ID, 0, &[]), 0);
    }
}

#[test]
fn discard_and_write_zeroes_have_one_checked_range() {
    let segment = |sector: u64, sectors: u32, flags: u32| {
        (u128::from(sector) | u128::from(sectors) << 64 | u128::from(flags) << 96).to_le_bytes()
    };
    let mut bench = default();
    let part: &[Part] = &[(DATA, 16, false)];
    let refused = [
        (DISCARD, segment(0, 8, 1), 2),
        (DISCARD, segment(0, 8, 2), 2),
        (WRITE_ZEROES, segment(0, 8, 2), 2),
        (WRITE_ZEROES, segment(2048, 1, 0), 1),
        (DISCARD, segment(0, u32::MAX, 0), 1),
        (DISCARD, segment(u64::MAX, 1, 0), 1),
    ];
    for (kind, segment, expected) in refused {
        bench.0.guest.write(DATA, &segment);
        assert_eq!(immediate(&mut bench, kind, 0, part), expected);
    }
    assert_eq!(immediate(&mut bench, DISCARD, 0, &[(DATA, 32, false)]), 2, "two ranges");
    let (function, mut queue) = bench;
    function.guest.write(DATA, &segment(8, 16, 0));
    function.offer(&mut queue, DISCARD, 0, part);
    assert!(matches!(function.disk.next(), DiskOperation::Discard { offset: 4096, len: 8192 }));
    function.disk.complete(Ok(()));
    assert_eq!(queue.collect(&function.guest).len(), 1);
    for (flags, wanted) in [(0, false), (1, true)] {
        function.guest.write(DATA, &segment(8, 16, flags));
        function.offer(&mut queue, WRITE_ZEROES, 0, part);
        let DiskOperation::WriteZeroes { offset: 4096, len: 8192, unmap } = function.disk.next() else {
            panic!("zeroes")
        };
        assert_eq!(unmap, wanted);
        function.disk.complete(Ok(()));
        assert_eq!(queue.collect(&function.guest).len(), 1);
    }
    let off = BlkOptions { discard: false, write_zeroes: false, ..BlkOptions::default() };
    let mut bench = started(off);
    assert_eq!(immediate(&mut bench, DISCARD, 0, part), 2);
    assert_eq!(immediate(&mut bench, WRITE_ZEROES, 0, part), 2);
    assert_eq!(immediate(&mut bench, 99, 0, &[]), 2);
}

#[test]
fn read_only_disk_refuses_writes() {
    let disk = Arc::new(crate::testing::function::TestDisk::default());
    disk.change(|properties| properties.read_only = true);
    let function = Function::with_disk(&PciOptions::default(), BlkOptions::default(), disk);
    assert_ne!(function.offered() & feature::RO, 0);
    let queue = function.start(feature::RO, 8);
    let mut bench = (function, queue);
    assert_eq!(immediate(&mut bench, OUT, 0, &[(DATA, 512, false)]), 1);
    bench.0.guest.write(DATA, &[0; 16]);
    assert_eq!(immediate(&mut bench, WRITE_ZEROES, 0, &[(DATA, 16, false)]), 1);
}

#[test]
fn configuration_has_the_documented_layout() {
    let options = BlkOptions {
        num_queues: 4,
        min_io_size: Some(4096),
        opt_io_size: Some(65536),
        discard_granularity: Some(4096),
        geometry: Some(Geometry { cylinders: 0x102, heads: 3, sectors: 4 }),
        ..BlkOptions::default()
    };
    let function = Function::new(&PciOptions::default(), options);
    let field = |offset: u64, bytes| function.read(0x2000 + offset, bytes);
    assert_eq!((field(0, 4), field(4, 4), field(8, 4), field(12, 4)), (2048, 0, 0, 254));
    assert_eq!((field(16, 2), field(18, 1), field(19, 1), field(20, 4)), (0x102, 3, 4, 512));
    assert_eq!((field(24, 1), field(25, 1), field(26, 2), field(28, 4)), (3, 0, 8, 128));
    assert_eq!((field(32, 1), field(34, 2)), (1, 4));
    assert_eq!((field(36, 4), field(40, 4), field(44, 4)), (4_194_303, 1, 8));
    assert_eq!((field(48, 4), field(52, 4), field(56, 1)), (4_194_303, 1, 1));
    assert_eq!((field(57, 1), field(56, 2), field(0xffc, 4)), (0xff, 0xffff, 0xffff_ffff), "behind the end");
    assert_ne!(function.offered() & feature::MQ, 0);
    assert_eq!(function.read(18, 2), 4);
}

#[test]
fn guessed_geometry_is_that_of_ide_disks() {
    let bytes = |size| {
        let disk = Arc::new(crate::testing::function::TestDisk::default());
        disk.change(|properties| properties.size = size);
        let function = Function::with_disk(&PciOptions::default(), BlkOptions::default(), disk);
        (function.read(0x2010, 2), function.read(0x2012, 1), function.read(0x2013, 1))
    };
    assert_eq!(bytes(0), (2, 16, 63));
    assert_eq!(bytes(1008 * 512 * 100), (100, 16, 63));
    assert_eq!(bytes(1 << 40), (16383, 16, 63));
}

#[test]
fn resized_disk_is_announced() {
    let (function, _queue) = default();
    assert_eq!(function.read(21, 1), 0);
    function.disk.change(|properties| properties.size *= 2);
    function.disk.announce();
    assert_eq!((function.read(21, 1), function.read(0x2000, 4)), (1, 4096));
    assert!(function.level());
    assert_eq!(function.read(0x1000, 1), 3);
    function.disk.announce();
    assert_eq!(function.read(21, 1), 1, "nothing has changed");
}

#[test]
fn write_cache_follows_the_driver() {
    let modes = |function: &Function| std::mem::take(&mut *function.disk.cache_modes.lock().expect("disk"));
    let (function, _queue) = default();
    assert!(modes(&function).is_empty());
    function.write(0x2020, 1, 0);
    assert_eq!((modes(&function), function.read(0x2020, 1)), (vec![false], 0));
    function.write(20, 1, 0);
    assert_eq!((modes(&function), function.read(0x2020, 1)), (vec![true], 1), "a reset undoes it");
    // A driver that can't flush needs none.
    let _queue = function.start(0, 8);
    assert_eq!(modes(&function), [false]);
    let fixed = Function::new(&PciOptions::default(), BlkOptions { config_wce: false, ..BlkOptions::default() });
    let _queue = fixed.start(feature::FLUSH, 8);
    fixed.write(0x2020, 1, 0);
    assert!(modes(&fixed).is_empty());
    assert_eq!(fixed.offered() & feature::CONFIG_WCE, 0);
    let off = BlkOptions { write_cache: Some(false), ..BlkOptions::default() };
    assert_eq!(modes(&Function::new(&PciOptions::default(), off)), [false]);
}

#[test]
fn options_that_do_not_fit_are_refused_in_qemus_words() {
    let good = BlkOptions::default;
    let disk = crate::testing::function::TestDisk::default();
    let check = |options: BlkOptions| options.check(&disk.properties()).expect_err("refused").to_string();
    for (options, text) in [
        (BlkOptions { num_queues: 0, ..good() }, "num-queues property must be larger than 0"),
        (BlkOptions { queue_size: 2, ..good() }, "invalid queue-size property (2), must be > 2"),
        (BlkOptions { queue_size: 3, ..good() }, "invalid queue-size property (3), must be a power of 2 (max 1024)"),
        (
            BlkOptions { logical_block_size: Some(8192), physical_block_size: Some(512), ..good() },
            "logical_block_size > physical_block_size not supported",
        ),
        (BlkOptions { min_io_size: Some(100), ..good() }, "min_io_size must be a multiple of logical_block_size"),
        (
            BlkOptions { max_discard_sectors: 0, ..good() },
            "invalid max-discard-sectors property (0), must be between 1 and 4194303",
        ),
    ] {
        assert_eq!(check(options), text);
    }
    disk.change(|properties| properties.medium = false);
    assert_eq!(check(good()), "Device needs media, but drive is empty");
}
