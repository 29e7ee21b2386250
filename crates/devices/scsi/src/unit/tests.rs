use std::sync::mpsc::{Receiver, channel};

use device::testing::FakeDisk;

use super::*;
use crate::{Direction, ScsiAddress, ScsiBus, bus};

/// Another medium, or none.
fn exchange(disk: &FakeDisk, sectors: u64) {
    disk.change(|properties| (properties.size, properties.medium) = (sectors * 512, sectors > 0));
    disk.drive().expect("a drive").medium_changed(sectors > 0);
}

struct Bench {
    disk: Arc<FakeDisk>,
    unit: LogicalUnit,
}

/// A command's end with what it wrote.
type End = (Completion, Vec<u8>);

impl Bench {
    fn new(options: UnitOptions, sectors: usize) -> Self {
        let disk = FakeDisk::new(sectors);
        disk.properties.lock().expect("properties").physical_block_size = 4096;
        let unit = LogicalUnit::new(options, &(disk.clone() as Arc<dyn Disk>));
        let bench = Self { disk, unit };
        // The reset is told first.
        assert_eq!(bench.check(&[0x00]), Sense::RESET);
        bench
    }

    fn disk(sectors: usize) -> Self {
        Self::new(UnitOptions::new(UnitKind::Disk), sectors)
    }

    fn cd(sectors: usize) -> Self {
        Self::new(UnitOptions::new(UnitKind::Cd), sectors)
    }

    fn command(&self, cdb: &[u8], out: &[u8], autosense: bool) -> (Command, DmaBuffer) {
        let cdb = Cdb::new(cdb);
        let transfer = self.unit.transfer(&cdb);
        let data_in = DmaBuffer::detached(if transfer.direction == Direction::In { transfer.len as usize } else { 0 });
        let data_out = DmaBuffer::detached(out.len());
        data_out.io().write_at(0, out);
        (Command { cdb, tag: 7, data_out, data_in: data_in.clone(), autosense }, data_in)
    }

    fn start(&self, command: Command) -> Result<Completion, Receiver<Completion>> {
        let (sender, receiver) = channel();
        let done = Box::new(move |completion| sender.send(completion).expect("the test"));
        self.unit.submit(command, done).ok_or(receiver)
    }

    fn run(&self, cdb: &[u8], out: &[u8], autosense: bool) -> End {
        let (command, data_in) = self.command(cdb, out, autosense);
        let completion = self.start(command).unwrap_or_else(|receiver| {
            self.disk.work();
            receiver.try_recv().expect("an end")
        });
        (completion, data_in.io().slice(0, (completion.transferred as usize).min(data_in.len())).to_vec())
    }

    fn data(&self, cdb: &[u8]) -> Vec<u8> {
        let (completion, data) = self.run(cdb, &[], true);
        assert_eq!(completion.status(), Some(Status::Good), "{cdb:x?}: {completion:?}");
        data
    }

    fn out(&self, cdb: &[u8], out: &[u8]) -> Completion {
        let (command, _) = self.command(cdb, out, true);
        self.start(command).unwrap_or_else(|receiver| {
            self.disk.work();
            receiver.try_recv().expect("an end")
        })
    }

    fn good(&self, cdb: &[u8], out: &[u8]) {
        let completion = self.out(cdb, out);
        assert_eq!(completion.status(), Some(Status::Good), "{cdb:x?}: {completion:?}");
    }

    fn check(&self, cdb: &[u8]) -> Sense {
        self.check_out(cdb, &[])
    }

    fn check_out(&self, cdb: &[u8], out: &[u8]) -> Sense {
        let completion = self.out(cdb, out);
        completion.sense().unwrap_or_else(|| panic!("{cdb:x?}: {completion:?}"))
    }
}

#[test]
fn inquiry_has_qemus_contents() {
    let bench = Bench::disk(8);
    let data = bench.data(&[0x12, 0, 0, 0, 36]);
    assert_eq!(data[..8], [0, 0, 5, 0x12, 31, 0, 0, 0x12]);
    assert_eq!(&data[8..], b"QEMU    QEMU HARDDISK   2.5+");
    let data = bench.data(&[0x12, 0, 0, 0, 96]);
    assert_eq!((data.len(), data[4]), (96, 91));
    let cd = Bench::cd(8);
    assert_eq!(cd.data(&[0x12, 0, 0, 0, 36])[..2], [5, 0x80]);
    assert_eq!(cd.check(&[0x12, 0, 1, 0, 36]), Sense::INVALID_FIELD);
    assert_eq!(cd.data(&[0x12, 1, 0, 0, 8]), [5, 0, 0, 2, 0, 0x83, 0, 0]);
    assert_eq!(cd.check(&[0x12, 1, 0xb0, 0, 64]), Sense::INVALID_FIELD);
}

#[test]
fn vital_product_data_has_names_and_limits() {
    let options = UnitOptions {
        serial: Some("a-serial-number-of-more-than-twenty".to_owned()),
        wwn: 0x5000_c500_1234_5678,
        port_index: 3,
        rotation_rate: 1,
        ..UnitOptions::new(UnitKind::Disk)
    };
    let bench = Bench::new(options, 8);
    assert_eq!(bench.data(&[0x12, 1, 0, 0, 10]), [0, 0, 0, 6, 0, 0x80, 0x83, 0xb0, 0xb1, 0xb2]);
    assert_eq!(&bench.data(&[0x12, 1, 0x80, 0, 39]), b"\0\x80\0#a-serial-number-of-more-than-twenty");
    let page = bench.data(&[0x12, 1, 0x83, 0, 48]);
    assert_eq!(page[..8], [0, 0x83, 0, 44, 2, 0, 0, 20]);
    assert_eq!(&page[8..28], b"a-serial-number-of-m");
    assert_eq!(page[28..], [1, 3, 0, 8, 0x50, 0, 0xc5, 0, 0x12, 0x34, 0x56, 0x78, 0x61, 0x94, 0, 4, 0, 0, 0, 3]);
    let limits = bench.data(&[0x12, 1, 0xb0, 0, 64]);
    assert_eq!((limits[3], limits[4]), (0x3c, 1));
    assert_eq!(limits[8..12], [0, 0x3f, 0xff, 0xff]);
    assert_eq!(limits[20..32], [0, 0x20, 0, 0, 0, 0, 0, 255, 0, 0, 0, 8]);
    assert_eq!(bench.data(&[0x12, 1, 0xb1, 0, 64])[3..6], [0x3c, 0, 1]);
    assert_eq!(bench.data(&[0x12, 1, 0xb2, 0, 8]), [0, 0xb2, 0, 4, 0, 0xe0, 2, 0]);
}

#[test]
fn attention_comes_once_and_request_sense_tells_it_without_autosense() {
    let disk = FakeDisk::new(8);
    let unit = LogicalUnit::new(UnitOptions::new(UnitKind::Disk), &(disk.clone() as Arc<dyn Disk>));
    let bench = Bench { disk, unit };
    assert_eq!(bench.data(&[0x12, 0, 0, 0, 36]).len(), 36, "INQUIRY is never refused");
    assert_eq!(bench.run(&[0x00], &[], false).0.sense(), Some(Sense::RESET));
    let (end, data) = bench.run(&[0x03, 0, 0, 0, 18], &[], false);
    assert_eq!((end.status(), data), (Some(Status::Good), Sense::RESET.fixed()));
    assert_eq!(bench.run(&[0x03, 1, 0, 0, 8], &[], false).1[..4], [0x72, 0, 0, 0]);
    assert_eq!(bench.data(&[0x00]), []);
    // A more important one stays.
    bench.unit.raise_attention(Sense::REPORTED_LUNS_CHANGED);
    bench.unit.raise_attention(Sense::RESET);
    bench.unit.raise_attention(Sense::CAPACITY_CHANGED);
    assert_eq!(bench.check(&[0x00]), Sense::RESET);
    assert_eq!(bench.data(&[0x00]), []);
}

#[test]
fn reads_and_writes_of_all_lengths_reach_the_disk() {
    let bench = Bench::disk(1024);
    for cdb in [
        &[0x08, 0, 0, 5, 2, 0][..],
        &[0x28, 0, 0, 0, 0, 5, 0, 0, 2, 0],
        &[0xa8, 0, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0],
        &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0],
    ] {
        let data = bench.data(cdb);
        assert_eq!((data.len(), data[0], data[1023]), (1024, 5, 6));
        assert_eq!(bench.disk.take_log(), ["read 5+2"]);
    }
    for (cdb, expected) in [
        (&[0x0a, 0, 0, 9, 1, 0][..], "write 9+1"),
        (&[0x2a, 8, 0, 0, 0, 9, 0, 0, 1, 0], "write 9+1 fua"),
        (&[0x2e, 0, 0, 0, 0, 9, 0, 0, 1, 0], "write 9+1 fua"),
        (&[0xaa, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0], "write 9+1"),
        (&[0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0], "write 9+1"),
    ] {
        bench.good(cdb, &[0xa5; 512]);
        assert_eq!(bench.disk.take_log(), [expected]);
    }
    assert_eq!(bench.data(&[0x28, 8, 0, 0, 0, 9, 0, 0, 1, 0])[..2], [0xa5; 2]);
    assert_eq!(bench.disk.take_log(), ["flush", "read 9+1"]);
    bench.good(&[0x35], &[]);
    bench.good(&[0x91], &[]);
    assert_eq!(bench.disk.take_log(), ["flush", "flush"]);
    assert_eq!(bench.data(&[0x28, 0, 0, 0, 4, 0, 0, 0, 0, 0]), [], "no blocks at the end");
    assert!(bench.disk.take_log().is_empty());
}

#[test]
fn ranges_and_bits_that_do_not_exist_are_refused() {
    let bench = Bench::disk(1024);
    for cdb in [
        &[0x28, 0, 0, 0, 3, 0xff, 0, 0, 2, 0][..],
        &[0x28, 0, 0, 0, 4, 1, 0, 0, 0, 0],
        &[0x28, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0],
        &[0x88, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 0],
        &[0x2b, 0, 0, 0, 4, 0, 0, 0, 0, 0],
    ] {
        assert_eq!(bench.check(cdb), Sense::LBA_OUT_OF_RANGE, "{cdb:x?}");
    }
    assert_eq!(bench.check(&[0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0]), Sense::INVALID_FIELD);
    assert_eq!(bench.check_out(&[0x2f, 2, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512]), Sense::INVALID_FIELD);
    bench.good(&[0x2f, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[]);
}

#[test]
fn commands_without_enough_memory_do_nothing() {
    let bench = Bench::disk(1024);
    for cdb in [&[0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0][..], &[0x2a, 0, 0, 0, 0, 0, 0, 0, 2, 0], &[0x12, 0, 0, 0, 36]] {
        let command = Command {
            cdb: Cdb::new(cdb),
            tag: 0,
            data_out: DmaBuffer::detached(512),
            data_in: DmaBuffer::detached(35),
            autosense: true,
        };
        assert_eq!(bench.start(command).expect("an end").ending, Ending::Overrun, "{cdb:x?}");
    }
    // Lengths that nobody has memory for.
    for cdb in [&[0xa8, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff][..], &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0]] {
        let (data_out, data_in) = (DmaBuffer::empty(), DmaBuffer::empty());
        let command = Command { cdb: Cdb::new(cdb), tag: 0, data_out, data_in, autosense: true };
        assert_eq!(bench.start(command).expect("an end").sense(), Some(Sense::INVALID_FIELD));
    }
    assert!(bench.disk.take_log().is_empty());
}

#[test]
fn errors_of_the_disk_become_sense_data() {
    let bench = Bench::disk(8);
    for (error, expected) in [
        (DiskError::Io, Sense::IO_ERROR),
        (DiskError::NoSpace, Sense::NO_SPACE),
        (DiskError::NoMedium, Sense::NO_MEDIUM),
        (DiskError::Invalid, Sense::INVALID_FIELD),
    ] {
        *bench.disk.failure.lock().expect("failure") = Some(error);
        assert_eq!(bench.check_out(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512]), expected);
    }
    *bench.disk.failure.lock().expect("failure") = None;
    bench.disk.change(|properties| properties.read_only = true);
    assert_eq!(bench.check_out(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512]), Sense::WRITE_PROTECTED);
    assert_eq!(bench.data(&[0x1a, 8, 1, 0, 255])[2], 0x80);
    assert_eq!(bench.check(&[0xc7]), Sense::INVALID_OPCODE);
    assert_eq!(bench.check(&[0xa3]), Sense::INVALID_OPCODE);
}

#[test]
fn capacity_and_its_change_are_told() {
    let bench = Bench::disk(2048);
    assert_eq!(bench.data(&[0x25]), [0, 0, 7, 0xff, 0, 0, 2, 0]);
    let long = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32];
    let data = bench.data(&long);
    assert_eq!((data[6..12].to_vec(), data[13], data[14]), (vec![7, 0xff, 0, 0, 2, 0], 3, 0x80));
    assert_eq!(bench.check(&[0x25, 0, 0, 0, 0, 1]), Sense::INVALID_FIELD);
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&told);
    bench.unit.listen(Box::new(move |sense| log.lock().expect("log").push(sense)));
    bench.disk.change(|properties| properties.size = 3 << 41);
    assert_eq!(*told.lock().expect("log"), [Sense::CAPACITY_CHANGED]);
    assert_eq!(bench.check(&[0x25]), Sense::CAPACITY_CHANGED);
    assert_eq!(bench.data(&[0x25])[..4], [0xff; 4]);
    bench.disk.change(|properties| properties.size = 0);
    bench.check(&[0x25]);
    assert_eq!(bench.check(&long), Sense::UNIT_NOT_READY);
}

#[test]
fn unmap_and_write_same_are_checked_and_done_in_parts() {
    let bench = Bench::disk(4096);
    let list = |ranges: &[(u64, u32)]| {
        let mut list = vec![0, (ranges.len() * 16 + 6) as u8, 0, (ranges.len() * 16) as u8, 0, 0, 0, 0];
        for (block, blocks) in ranges {
            list.extend(block.to_be_bytes());
            list.extend(blocks.to_be_bytes());
            list.extend([0; 4]);
        }
        list
    };
    let unmap = |list: &[u8]| [0x42, 0, 0, 0, 0, 0, 0, 0, list.len() as u8, 0];
    let two = list(&[(8, 8), (100, 0), (32, 1)]);
    bench.good(&unmap(&two), &two);
    assert_eq!(bench.disk.take_log(), ["discard 8+8", "discard 32+1"]);
    let outside = list(&[(8, 8), (4096, 1)]);
    assert_eq!(bench.check_out(&unmap(&outside), &outside), Sense::LBA_OUT_OF_RANGE);
    assert_eq!(bench.disk.take_log(), ["discard 8+8"]);
    assert_eq!(bench.check_out(&unmap(&two[..20]), &two[..20]), Sense::PARAMETER_LENGTH);
    assert_eq!(bench.check_out(&unmap(&two[..7]), &two[..7]), Sense::PARAMETER_LENGTH);
    let mut anchored = unmap(&two);
    anchored[1] = 1;
    assert_eq!(bench.check_out(&anchored, &two), Sense::INVALID_FIELD);

    bench.good(&[0x41, 8, 0, 0, 0, 5, 0, 0, 3, 0], &[0; 512]);
    bench.good(&[0x93, 1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 3], &[]);
    assert_eq!(bench.disk.take_log(), ["zeroes 5+3 unmap", "zeroes 5+3"]);
    bench.good(&[0x41, 0, 0, 0, 0, 5, 0, 0x0a, 0, 0], &[7; 512]);
    assert_eq!(bench.disk.take_log(), ["write 5+1024", "write 1029+1024", "write 2053+512"]);
    assert_eq!(bench.disk.data.lock().expect("data")[2564 * 512], 7);
    assert_eq!(bench.check_out(&[0x41, 0, 0, 0, 0, 5, 0, 0, 0, 0], &[0; 512]), Sense::INVALID_FIELD);
    assert_eq!(bench.check_out(&[0x41, 4, 0, 0, 0, 5, 0, 0, 1, 0], &[0; 512]), Sense::INVALID_FIELD);
}

#[test]
fn mode_pages_change_the_cache_alone() {
    let bench = Bench::disk(4096);
    let page = bench.data(&[0x1a, 8, 8, 0, 24]);
    assert_eq!(page[..7], [23, 0, 0, 0, 8, 0x12, 4]);
    let with_descriptor = bench.data(&[0x5a, 0, 8, 0, 0, 0, 0, 0, 36]);
    assert_eq!(with_descriptor[..16], [0, 34, 0, 0, 0, 0, 0, 8, 0, 0, 0x10, 0, 0, 0, 2, 0]);
    assert_eq!(bench.data(&[0x1a, 8, 0x48, 0, 24])[6], 4, "can be changed");
    assert_eq!(bench.data(&[0x1a, 8, 0x3f, 0, 255])[0], 3 + 12 + 24 + 32 + 20);
    assert_eq!(bench.check(&[0x1a, 8, 0xc8, 0, 24]), Sense::SAVING_NOT_SUPPORTED);
    assert_eq!(bench.check(&[0x1a, 8, 0x2a, 0, 24]), Sense::INVALID_FIELD);
    let mut off = page.clone();
    (off[0], off[6]) = (0, 0);
    bench.good(&[0x15, 0x10, 0, 0, 24], &off);
    assert_eq!(bench.disk.take_log(), ["cache false", "flush"]);
    assert_eq!(bench.data(&[0x1a, 8, 8, 0, 24])[6], 0);
    let mut other = off.clone();
    other[7] = 1;
    assert_eq!(bench.check_out(&[0x15, 0x10, 0, 0, 24], &other), Sense::INVALID_PARAMETER);
    assert_eq!(bench.check_out(&[0x15, 0x10, 0, 0, 23], &off[..23]), Sense::PARAMETER_LENGTH);
    assert_eq!(bench.check_out(&[0x15, 0x11, 0, 0, 24], &off), Sense::INVALID_FIELD);
    assert_eq!(bench.check_out(&[0x15, 0x10, 0, 0, 3], &off[..3]), Sense::PARAMETER_LENGTH);
    // Another size of blocks, until the reset.
    bench.good(&[0x15, 0x10, 0, 0, 12], &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 8, 0]);
    assert_eq!(bench.data(&[0x25]), [0, 0, 3, 0xff, 0, 0, 8, 0]);
    bench.unit.lifecycle().reset(ResetKind::Warm);
    bench.check(&[0x00]);
    assert_eq!(bench.data(&[0x25])[6], 2);
    assert_eq!(bench.data(&[0x1a, 8, 8, 0, 24])[6], 4);
}

#[test]
fn cancelled_command_ends_when_the_disk_lets_go() {
    let bench = Bench::disk(64);
    let (command, _) = bench.command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[], true);
    let first = bench.start(command).expect_err("started");
    assert!(bench.unit.is_running(|tag| tag == 7) && !bench.unit.is_running(|tag| tag == 8));
    let (sender, all) = channel();
    assert!(!bench.unit.cancel(|tag| tag == 8, Cancel::Abort, || panic!("nothing was cancelled")));
    assert!(bench.unit.cancel(|tag| tag == 7, Cancel::Abort, move || sender.send(()).expect("the test")));
    assert!(!bench.unit.is_running(|_| true));
    assert!(first.try_recv().is_err() && all.try_recv().is_err());
    bench.disk.work();
    assert_eq!(first.try_recv().expect("an end").ending, Ending::Cancelled(Cancel::Abort));
    assert!(all.try_recv().is_ok());
    // A reset: the state at once, the command later.
    let (command, _) = bench.command(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512], true);
    let first = bench.start(command).expect_err("started");
    let (sender, all) = channel();
    assert!(bench.unit.reset_by_initiator(move || sender.send(()).expect("the test")));
    assert_eq!(bench.check(&[0x00]), Sense::RESET);
    bench.disk.work();
    assert_eq!(first.try_recv().expect("an end").ending, Ending::Cancelled(Cancel::Reset));
    assert!(all.try_recv().is_ok());
    assert!(!bench.unit.reset_by_initiator(|| panic!("nothing was running")));
}

#[test]
fn tray_and_exchange_of_media_are_told_in_steps() {
    let bench = Bench::cd(64);
    let (eject, load) = ([0x1b, 0, 0, 0, 2], [0x1b, 0, 0, 0, 3]);
    bench.good(&[0x1e, 0, 0, 0, 1], &[]);
    assert!(bench.disk.drive().expect("a drive").is_locked());
    assert_eq!(bench.check(&eject), Sense::REMOVAL_PREVENTED);
    let events = [0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8];
    bench.disk.drive().expect("a drive").eject_request(false);
    assert_eq!(bench.data(&events)[4..6], [1, 2]);
    assert_eq!(bench.data(&events)[4..6], [0, 2]);
    bench.disk.drive().expect("a drive").eject_request(true);
    assert!(!bench.disk.drive().expect("a drive").is_locked());
    bench.good(&eject, &[]);
    assert_eq!(
        (bench.disk.take_log(), bench.disk.drive().expect("a drive").is_tray_open()),
        (vec!["tray open".to_owned()], true)
    );
    assert_eq!(bench.check(&[0x00]), Sense::NO_MEDIUM);
    bench.good(&load, &[]);
    assert_eq!(bench.disk.take_log(), ["tray closed"]);
    exchange(&bench.disk, 0);
    assert_eq!(bench.check(&[0x00]), Sense::MEDIUM_REMOVED);
    assert_eq!(bench.check(&[0x25]), Sense::NO_MEDIUM);
    exchange(&bench.disk, 128);
    assert_eq!(bench.data(&events)[4..6], [2, 2]);
    assert_eq!(bench.check(&[0x00]), Sense::MEDIUM_REMOVED);
    assert_eq!(bench.check(&[0x00]), Sense::MEDIUM_CHANGED);
    assert_eq!(bench.data(&[0x25]), [0, 0, 0, 31, 0, 0, 8, 0]);
}

#[test]
fn discs_have_contents_profiles_and_structures() {
    let bench = Bench::cd(4000);
    let toc = bench.data(&[0x43, 0, 0, 0, 0, 0, 0, 0, 20]);
    assert_eq!(toc, [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x16, 0xaa, 0, 0, 0, 3, 0xe8]);
    assert_eq!(bench.check(&[0x43, 0, 3, 0, 0, 0, 0, 0, 20]), Sense::INVALID_FIELD);
    let configuration = bench.data(&[0x46, 0, 0, 0, 0, 0, 0, 0, 40]);
    assert_eq!(configuration[..20], [0, 0, 0, 36, 0, 0, 0, 8, 0, 0, 3, 8, 0, 16, 0, 0, 0, 8, 1, 0]);
    assert_eq!(bench.check(&[0xad, 0, 0, 0, 0, 0, 0, 0, 8, 4]), Sense::INCOMPATIBLE_FORMAT);
    assert_eq!(bench.data(&[0xad, 0, 0, 0, 0, 0, 0, 0xff, 0, 20])[..8], [0, 18, 0, 0, 0, 0x40, 8, 4]);
    assert_eq!(bench.data(&[0x51, 0, 0, 0, 0, 0, 0, 0, 34])[1..3], [32, 0x0e]);
    assert_eq!(bench.data(&[0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8]), [0, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(bench.data(&[0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 30])[8..13], [0x2a, 0x14, 0x3b, 0, 0x7f]);
    assert_eq!(bench.check_out(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 2048]), Sense::WRITE_PROTECTED);
    assert_eq!(Bench::disk(8).check(&[0x46, 0, 0, 0, 0, 0, 0, 0, 40]), Sense::INVALID_FIELD);
}

#[test]
fn laws_of_devices_hold() {
    use device::testing::{reset_twice_is_once, save_and_restore_agree};
    for bench in [Bench::disk(64), Bench::cd(64)] {
        bench.data(&[0x1e, 0, 0, 0, 1]);
        bench.check(&[0xc7]);
        let lifecycle = bench.unit.lifecycle();
        for kind in [ResetKind::Warm, ResetKind::Cold] {
            save_and_restore_agree("unit", &*lifecycle).expect("saved");
            reset_twice_is_once("unit", &*lifecycle, kind).expect("reset");
        }
    }
}

#[test]
fn no_command_of_any_bytes_panics() {
    let mut seed = 0x1234_5678_9abc_def1u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as u8
    };
    let benches = [Bench::disk(64), Bench::cd(64), Bench::cd(0)];
    for round in 0..30_000 {
        let mut cdb: Vec<u8> = (0..16).map(|_| if random() & 3 == 0 { random() } else { 0 }).collect();
        cdb[0] = random();
        let out: Vec<u8> =
            (0..usize::from(random()) * 4).map(|_| if random() & 1 == 0 { random() } else { 0 }).collect();
        let bench = &benches[round % 3];
        let command = Command {
            cdb: Cdb::new(&cdb),
            tag: 0,
            data_out: {
                let data = DmaBuffer::detached(out.len());
                data.io().write_at(0, &out);
                data
            },
            data_in: DmaBuffer::detached(usize::from(random()) * 16),
            autosense: random() & 1 == 0,
        };
        let _end = bench.start(command);
        bench.disk.work();
    }
}

#[test]
fn bus_gives_places_and_answers_for_targets() {
    let bus = ScsiBus::new(bus::BusLimits { channel: 0, target: 7, lun: 16383 });
    let units: Vec<Bench> = (0..3).map(|_| Bench::disk(8)).collect();
    let place = |target, lun| bus.place(0, target, lun);
    assert_eq!(place(None, None), Ok(ScsiAddress { channel: 0, target: 0, lun: 0 }));
    for (unit, (target, lun)) in units.iter().zip([(0, 0), (0, 300), (1, 2)]) {
        let address = ScsiAddress { channel: 0, target, lun };
        bus.attach(address, Some("a"), unit.unit.clone()).expect("a place");
    }
    assert_eq!(place(None, None).map(|address| address.target), Ok(1));
    assert_eq!(place(Some(0), None).map(|address| address.lun), Ok(1));
    assert_eq!(place(Some(0), Some(300)).expect_err("taken").to_string(), "lun already used by 'a'");
    assert_eq!(place(Some(8), None).expect_err("bad").to_string(), "bad scsi device id: 8");
    assert_eq!(bus.place(1, None, None).expect_err("bad").to_string(), "bad scsi channel id: 1");
    let run = |target, lun, cdb: &[u8]| {
        let data_in = DmaBuffer::detached(64);
        let command = Command {
            cdb: Cdb::new(cdb),
            tag: 0,
            data_out: DmaBuffer::empty(),
            data_in: data_in.clone(),
            autosense: true,
        };
        match bus.submit(ScsiAddress { channel: 0, target, lun }, command, Box::new(|_| ())) {
            bus::Submitted::Ended(end) => Some((end, data_in.io().to_vec())),
            bus::Submitted::NoTarget => None,
            bus::Submitted::Started => panic!("nothing needs the disk"),
        }
    };
    let luns = [0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64];
    let (end, data) = run(0, 0, &luns).expect("a target");
    assert_eq!(
        (end.residual, data[..24].to_vec()),
        (40, {
            let mut list = vec![0, 0, 0, 16];
            list.resize(16, 0);
            list.extend([0x41, 44, 0, 0, 0, 0, 0, 0]);
            list
        })
    );
    assert!(run(2, 0, &luns).is_none());
    assert_eq!(run(1, 0, &[0x12, 0, 0, 0, 36]).expect("a target").1[0], 0x3f);
    assert_eq!(run(1, 1, &[0x12, 0, 0, 0, 36]).expect("a target").1[0], 0x7f);
    assert_eq!(run(1, 1, &[0x00]).expect("a target").0.sense(), Some(Sense::UNIT_NOT_SUPPORTED));
    assert_eq!(run(1, 0, &[0x28, 0, 0, 0, 0, 0, 0, 0, 0]).expect("a target").0.sense(), Some(Sense::INVALID_OPCODE));
    assert!(!bus.reset(|address| address.target == 0, || panic!("nothing was running")));
    assert_eq!(run(0, 300, &[0x00]).expect("a target").0.sense(), Some(Sense::RESET));
    assert_eq!(run(1, 2, &[0x00]).expect("a target").0.status(), Some(Status::Good));
    assert!(bus.detach(ScsiAddress { channel: 0, target: 1, lun: 2 }).is_some());
    assert!(run(1, 2, &[0x00]).is_none());
}
