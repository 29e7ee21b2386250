use device::disk::{Disk, DiskError, DiskOperation};
use device::testing::{reset_twice_is_once, save_and_restore_agree};
use devices_scsi::{UnitKind, UnitOptions};

use super::*;
use crate::device::status;
use crate::pci::{PciOptions, VirtioPci};
use crate::testing::function::{DATA, Function, HEADER, STATUS, TestDisk};
use crate::testing::{DriverQueue, Part};

const TARGET: ScsiAddress = ScsiAddress { channel: 0, target: 3, lun: 0 };
const LUN: [u8; 8] = [1, 3, 0, 0, 0, 0, 0, 0];

struct Bench {
    function: Function<Scsi>,
    control: DriverQueue,
    events: DriverQueue,
    requests: DriverQueue,
}

/// A response: response code, status, sense key and code, residual.
type Answer = (u8, u8, (u8, u8), u32);

impl Bench {
    fn new(accepted: u64) -> Self {
        let disk = Arc::new(TestDisk::default());
        let bus = ScsiBus::new(LIMITS);
        let unit = LogicalUnit::new(UnitOptions::new(UnitKind::Disk), &(disk.clone() as Arc<dyn Disk>));
        bus.attach(TARGET, Some("d"), unit.clone()).expect("a place");
        let options = ScsiOptions { num_queues: 2, ..ScsiOptions::default() };
        let function = Function::of(&PciOptions::default(), disk, |access| Scsi::new(options, bus, access));
        Scsi::watch(&VirtioPci::access(&function.cell), TARGET, &unit);
        let mut queues = function.begin_with(accepted, 8, 4).into_iter();
        let mut next = || queues.next().expect("a queue");
        let mut bench = Self { control: next(), events: next(), requests: next(), function };
        assert_eq!(bench.run(LUN, &[0], &[]), (0, 2, (6, 0x29), 0), "the reset");
        bench
    }

    fn offer(&mut self, lun: [u8; 8], tag: u64, cdb: &[u8], data: &[Part]) {
        let mut header = lun.to_vec();
        header.extend(tag.to_le_bytes());
        header.extend([0; 3]);
        header.extend(cdb);
        header.resize(COMMAND_HEADER + 32, 0);
        self.function.guest.write(HEADER, &header);
        self.function.guest.write(STATUS, &[0xee; 108]);
        let (out, into): (Vec<Part>, Vec<Part>) = data.iter().partition(|part| !part.2);
        let parts: Vec<Part> = [(HEADER, header.len() as u32, false)]
            .into_iter()
            .chain(out)
            .chain([(STATUS, 108, true)])
            .chain(into)
            .collect();
        self.requests.offer(&self.function.guest, &parts, false).expect("room");
        self.function.kick(2);
    }

    fn answer(&mut self) -> Answer {
        assert_eq!(self.requests.collect(&self.function.guest).len(), 1, "one request has ended");
        self.read_answer()
    }

    fn read_answer(&self) -> Answer {
        let bytes = self.function.guest.read(STATUS, 108);
        let sense = if bytes[0] == 18 { (bytes[14], bytes[24]) } else { (0, 0) };
        let residual = bytes[4..8].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        (bytes[11], bytes[10], sense, residual)
    }

    fn run(&mut self, lun: [u8; 8], cdb: &[u8], data: &[Part]) -> Answer {
        self.offer(lun, 1, cdb, data);
        self.answer()
    }

    /// Task management: its response, if there is one yet.
    fn manage(&mut self, function: u32, lun: [u8; 8], tag: u64) -> Option<u8> {
        let mut request = [0; 24];
        request[4..8].copy_from_slice(&function.to_le_bytes());
        request[8..16].copy_from_slice(&lun);
        request[16..].copy_from_slice(&tag.to_le_bytes());
        self.function.guest.write(HEADER + 0x1000, &request);
        self.function.guest.write(STATUS + 0x1000, &[0xee]);
        let parts = [(HEADER + 0x1000, 24, false), (STATUS + 0x1000, 1, true)];
        self.control.offer(&self.function.guest, &parts, false).expect("room");
        self.function.kick(0);
        self.managed()
    }

    fn managed(&mut self) -> Option<u8> {
        let ended = self.control.collect(&self.function.guest).len();
        (ended == 1).then(|| self.function.guest.read(STATUS + 0x1000, 1)[0])
    }
}

#[test]
fn read_and_write_go_straight_to_memory() {
    let mut bench = Bench::new(0);
    bench.offer(LUN, 7, &[0x28, 0, 0, 0, 0, 8, 0, 0, 2, 0], &[(DATA, 1024, true)]);
    let DiskOperation::Read { offset: 4096, buf } = bench.function.disk.next() else { panic!("a read") };
    buf.fill(0, 1024, 7);
    bench.function.disk.complete(Ok(()));
    assert_eq!(bench.answer(), (0, 0, (0, 0), 0));
    assert_eq!(bench.function.guest.read(DATA, 1024), [7; 1024]);
    bench.function.guest.write(DATA, &[9; 512]);
    bench.offer(LUN, 7, &[0x2a, 0, 0, 0, 0, 1, 0, 0, 1, 0], &[(DATA, 512, false)]);
    let DiskOperation::Write { offset: 512, buf, fua: false } = bench.function.disk.next() else { panic!("a write") };
    assert_eq!(buf.to_vec(), [9; 512]);
    bench.function.disk.complete(Err(DiskError::NoSpace));
    assert_eq!(bench.answer(), (0, 2, (7, 0x27), 0));
}

#[test]
fn headers_and_luns_are_checked() {
    let mut bench = Bench::new(0);
    assert_eq!(bench.run([1, 4, 0, 0, 0, 0, 0, 0], &[0], &[]).0, response::BAD_TARGET);
    assert_eq!(bench.run([0; 8], &[0], &[]).0, response::BAD_TARGET);
    assert_eq!(bench.run([1, 3, 0x80, 0, 0, 0, 0, 0], &[0], &[]).0, response::BAD_TARGET);
    assert_eq!(bench.run([1, 3, 0x40, 5, 0, 0, 0, 0], &[0], &[]), (0, 2, (5, 0x25), 0));
    assert_eq!(bench.run(LUN, &[0x12, 0, 0, 0, 36], &[(DATA, 35, true)]).0, response::OVERRUN);
    assert_eq!(bench.run(LUN, &[0x12, 0, 0, 0, 36], &[(DATA, 36, false)]).0, response::OVERRUN);
    let both = [(DATA, 36, false), (DATA, 36, true)];
    assert_eq!(bench.run(LUN, &[0x12, 0, 0, 0, 36], &both).0, response::FAILURE);
    assert_eq!(bench.run(LUN, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 32], &[(DATA, 32, true)]), (0, 0, (0, 0), 16));
    assert_eq!(bench.function.status() & u64::from(status::NEEDS_RESET), 0);
    // No place for the response.
    let parts = [(HEADER, 51, false), (STATUS, 107, true)];
    bench.requests.offer(&bench.function.guest, &parts, false).expect("room");
    bench.function.kick(2);
    assert_ne!(bench.function.status() & u64::from(status::NEEDS_RESET), 0);
}

#[test]
fn any_header_of_any_queue_is_answered_or_breaks_the_device() {
    for queue in 0..3u64 {
        for len in [1, 3, 4, 15, 16, 23, 24, 50, 51] {
            for kind in [0u8, 1, 2, 3, 0xff] {
                let mut bench = Bench::new(feature::HOTPLUG | feature::CHANGE);
                bench.function.guest.write(HEADER, &[kind; 64]);
                let parts = [(HEADER, len, false), (STATUS, 4, true)];
                let ring = match queue {
                    0 => &mut bench.control,
                    1 => &mut bench.events,
                    _ => &mut bench.requests,
                };
                ring.offer(&bench.function.guest, &parts, false).expect("room");
                bench.function.kick(queue);
            }
        }
    }
}

#[test]
fn tasks_are_queried_and_aborted() {
    let mut bench = Bench::new(0);
    let read = [0x28, 0, 0, 0, 0, 8, 0, 0, 1, 0];
    bench.offer(LUN, 77, &read, &[(DATA, 512, true)]);
    assert_eq!(bench.manage(6, LUN, 77), Some(response::FUNCTION_SUCCEEDED));
    assert_eq!(bench.manage(6, LUN, 78), Some(response::OK));
    assert_eq!(bench.manage(7, LUN, 0), Some(response::FUNCTION_SUCCEEDED));
    assert_eq!(bench.manage(0, LUN, 78), Some(response::OK));
    assert_eq!(bench.manage(2, LUN, 0), Some(response::FUNCTION_REJECTED));
    assert_eq!(bench.manage(99, LUN, 0), Some(response::FUNCTION_REJECTED));
    assert_eq!(bench.manage(0, [1, 9, 0, 0, 0, 0, 0, 0], 77), Some(response::BAD_TARGET));
    assert_eq!(bench.manage(0, [1, 3, 0, 1, 0, 0, 0, 0], 77), Some(response::INCORRECT_LUN));
    assert_eq!(bench.manage(0, LUN, 77), None, "the disk still works on it");
    bench.function.disk.complete(Ok(()));
    assert_eq!(bench.answer().0, response::ABORTED);
    assert_eq!(bench.managed(), Some(response::OK));
    // Resets of the unit and of the target.
    for function in [5, 4] {
        bench.offer(LUN, 5, &read, &[(DATA, 512, true)]);
        assert_eq!(bench.manage(function, LUN, 0), None);
        bench.function.disk.complete(Ok(()));
        assert_eq!((bench.answer().0, bench.managed()), (response::RESET, Some(response::OK)));
        assert_eq!(bench.run(LUN, &[0], &[]).2, (6, 0x29));
        assert_eq!(bench.manage(function, LUN, 0), Some(response::OK));
        assert_eq!(bench.run(LUN, &[0], &[]).2, (6, 0x29));
    }
}

#[test]
fn changes_are_events_and_dropped_ones_are_told() {
    let mut bench = Bench::new(feature::HOTPLUG | feature::CHANGE);
    let grow = |bench: &Bench| {
        bench.function.disk.change(|properties| properties.size *= 2);
        bench.function.disk.announce();
    };
    let offer = |bench: &mut Bench| {
        bench.events.offer(&bench.function.guest, &[(STATUS, 16, true)], false).expect("room");
        bench.function.kick(1);
    };
    offer(&mut bench);
    assert!(bench.events.collect(&bench.function.guest).is_empty());
    grow(&bench);
    assert_eq!(bench.events.collect(&bench.function.guest).len(), 1);
    assert_eq!(bench.function.guest.read(STATUS, 16), [3, 0, 0, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0x2a, 9, 0, 0]);
    assert_eq!(bench.run(LUN, &[0], &[]).2, (6, 0x2a));
    grow(&bench);
    offer(&mut bench);
    assert_eq!(bench.function.guest.read(STATUS, 16)[..5], [0, 0, 0, 0x80, 0]);
    bench.events.collect(&bench.function.guest);
    bench.run(LUN, &[0], &[]);
    offer(&mut bench);
    Scsi::plugged(&*VirtioPci::access(&bench.function.cell), TARGET, false);
    assert_eq!(bench.function.guest.read(STATUS, 16), [1, 0, 0, 0, 1, 3, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(bench.run(LUN, &[0], &[]).2, (6, 0x3f));
}

#[test]
fn driver_s_reset_forgets_commands_that_end_later() {
    let mut bench = Bench::new(0);
    bench.offer(LUN, 7, &[0x28, 0, 0, 0, 0, 8, 0, 0, 1, 0], &[(DATA, 512, true)]);
    bench.function.write(20, 1, 0);
    assert_ne!(bench.function.status(), 0, "the disk still writes");
    bench.function.guest.write(STATUS, &[0x55; 108]);
    bench.function.disk.complete(Ok(()));
    assert_eq!(bench.function.status(), 0);
    assert_eq!(bench.function.guest.read(STATUS, 108), [0x55; 108]);
}

#[test]
fn configuration_has_the_documented_layout() {
    let bench = Bench::new(0);
    let word = |at: u64| bench.function.read(0x2000 + at, 4);
    let words: Vec<u64> = (0..9).map(|index| word(4 * index)).collect();
    assert_eq!(words, [2, 254, 0xffff, 128, 16, 96, 32, 255 << 16, 16383]);
    bench.function.write(0x2000 + 20, 4, 18);
    bench.function.write(0x2000 + 24, 4, 16);
    assert_eq!((word(20), word(24)), (18, 16));
    assert_eq!(bench.function.status() & u64::from(status::NEEDS_RESET), 0);
    bench.function.write(0x2000 + 24, 4, 256);
    assert_ne!(bench.function.status() & u64::from(status::NEEDS_RESET), 0);
}

#[test]
fn options_that_do_not_fit_are_refused_in_qemus_words() {
    let check = |num_queues, virtqueue_size| {
        let options = ScsiOptions { num_queues, virtqueue_size, ..ScsiOptions::default() };
        options.check().expect_err("refused").to_string()
    };
    let text = "Invalid number of queues (= 1023), must be a positive integer less than 1022.";
    assert_eq!(check(1023, 256), text);
    assert_eq!(check(0, 256).split(',').next(), Some("Invalid number of queues (= 0)"));
    assert_eq!(check(1, 2), "invalid virtqueue_size property (= 2), must be > 2");
    assert!(check(1, 100).contains("power of 2"));
}

#[test]
fn laws_of_devices_hold() {
    let mut bench = Bench::new(feature::HOTPLUG);
    bench.function.write(0x2000 + 20, 4, 18);
    bench.run(LUN, &[0x12, 0, 0, 0, 0], &[]);
    save_and_restore_agree("virtio-scsi", &bench.function.cell).expect("saved");
    for kind in [device::ResetKind::Warm, device::ResetKind::Cold] {
        reset_twice_is_once("virtio-scsi", &bench.function.cell, kind).expect("reset");
    }
}
