use device::disk::Disk;
use device::testing::{FakeDisk, save_and_restore_agree};
use devices_scsi::{LogicalUnit, UnitKind, UnitOptions};

use super::*;
use crate::bus::{Host, Link, Speeds, Upstream};
use crate::data::ByteData;
use crate::testing::{Wakes, configure, control};

const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 3, 0, 0, 2, 0];
const WRITE: [u8; 10] = [0x2a, 0, 0, 0, 0, 5, 0, 0, 1, 0];

struct Bench {
    disk: Arc<FakeDisk>,
    cell: UasCell,
    device: Link,
    wakes: Arc<Wakes>,
}

/// A device with a disk at LUN 0, whose first command was told of the reset.
fn bench(speed: Speed) -> Bench {
    let disk = FakeDisk::new(64);
    let shared: Arc<dyn Disk> = Arc::clone(&disk) as Arc<dyn Disk>;
    let bus = ScsiBus::new(LIMITS);
    let place = bus.place(0, None, None).expect("a place");
    bus.attach(place, None, LogicalUnit::new(UnitOptions::new(UnitKind::Disk), &shared)).expect("attached");
    let cell = new(bus, Labels::default());
    let (device, wakes): (Link, Arc<Wakes>) = (Arc::new(cell.clone()), Arc::default());
    let host: Arc<dyn Host> = Arc::clone(&wakes) as Arc<dyn Host>;
    assert!(device.speeds().fastest_common(Speeds::of(speed)).is_some());
    device.attach(Upstream::new(Arc::downgrade(&host), 0), speed);
    configure(&device);
    let bench = Bench { disk, cell, device, wakes };
    bench.command(1, 0, &[0; 6]);
    assert_eq!(bench.sense(1), (2, vec![6, 0x29]));
    bench
}

impl Bench {
    fn out(&self, endpoint: u8, stream: u16, bytes: &[u8]) -> Outcome {
        self.device.transfer(Token::Out, Pipe { endpoint, stream }, &mut ByteData::new(&mut bytes.to_vec()))
    }

    fn fetch(&self, endpoint: u8, stream: u16, len: usize) -> Result<Vec<u8>, Outcome> {
        let mut bytes = vec![0; len];
        match self.device.transfer(Token::In, Pipe { endpoint, stream }, &mut ByteData::new(&mut bytes)) {
            Outcome::Done(len) => Ok(bytes[..len].to_vec()),
            other => Err(other),
        }
    }

    fn command(&self, tag: u16, lun: u8, cdb: &[u8]) {
        let mut bytes = vec![unit::COMMAND, 0];
        bytes.extend(tag.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 0, lun, 0, 0, 0, 0, 0, 0]);
        bytes.extend(cdb);
        bytes.resize(unit::COMMAND_LEN, 0);
        assert_eq!(self.out(COMMAND, 0, &bytes), Outcome::Done(unit::COMMAND_LEN));
    }

    fn task(&self, tag: u16, function: u8, other: u16) {
        let mut bytes = vec![unit::TASK, 0];
        bytes.extend(tag.to_be_bytes());
        bytes.extend([function, 0]);
        bytes.extend(other.to_be_bytes());
        bytes.resize(16, 0);
        assert_eq!(self.out(COMMAND, 0, &bytes), Outcome::Done(16));
    }

    /// What the status pipe has for a tag; without streams it has to be the next.
    fn information(&self, tag: u16) -> Vec<u8> {
        let stream = if self.device.speed() == Speed::Super { tag } else { 0 };
        let bytes = self.fetch(STATUS, stream, 64).expect("information");
        assert_eq!(bytes[2..4], tag.to_be_bytes());
        bytes
    }

    /// The status, and the sense key with its code.
    fn sense(&self, tag: u16) -> (u8, Vec<u8>) {
        let bytes = self.information(tag);
        assert_eq!((bytes[0], bytes.len()), (unit::SENSE, 16 + usize::from(bytes[15])));
        (bytes[6], bytes.get(16..).filter(|sense| !sense.is_empty()).map_or(vec![], |sense| vec![sense[2], sense[12]]))
    }
}

#[test]
fn streams_carry_data_and_status_of_commands_in_any_order() {
    let bench = bench(Speed::Super);
    assert_eq!(bench.fetch(DATA_IN, 7, 1024), Err(Outcome::Nak), "the host asks before it commands");
    bench.command(7, 0, &READ);
    bench.command(8, 0, &WRITE);
    assert_eq!(bench.out(DATA_OUT, 8, &[9; 512]), Outcome::Done(512));
    assert_eq!(bench.fetch(STATUS, 8, 64), Err(Outcome::Nak));
    save_and_restore_agree("usb-uas", &bench.cell).expect("the law");
    bench.disk.work();
    assert!(bench.wakes.count() >= 2);
    assert_eq!(bench.sense(8), (0, vec![]));
    assert_eq!(bench.fetch(DATA_IN, 7, 1024), Ok([vec![3; 512], vec![4; 512]].concat()));
    assert_eq!(bench.sense(7), (0, vec![]));
    assert_eq!(bench.disk.data.lock().expect("data")[5 * 512..6 * 512], [9; 512]);
    assert_eq!(bench.fetch(DATA_IN, 17, 64), Err(Outcome::Stall), "there are sixteen");
}

#[test]
fn pipes_without_streams_say_whose_data_is_next() {
    let bench = bench(Speed::High);
    bench.command(1, 0, &READ);
    bench.command(2, 0, &READ);
    bench.command(0x103, 0, &WRITE);
    assert_eq!(bench.information(0x103), [unit::WRITE_READY, 0, 1, 3]);
    assert_eq!(bench.out(DATA_OUT, 0, &[1; 200]), Outcome::Done(200));
    assert_eq!(bench.out(DATA_OUT, 0, &[2; 312]), Outcome::Done(312));
    bench.disk.work();
    let mut done = Vec::new();
    while let Ok(bytes) = bench.fetch(STATUS, 0, 64) {
        if bytes[0] == unit::READ_READY {
            assert_eq!(bench.fetch(DATA_IN, 0, 4096).map(|data| data.len()), Ok(1024), "a short packet ends it");
        } else {
            done.push(u16::from_be_bytes([bytes[2], bytes[3]]));
        }
    }
    done.sort_unstable();
    assert_eq!(done, [1, 2, 0x103]);
    assert_eq!(bench.fetch(DATA_IN, 0, 512), Err(Outcome::Stall), "nothing was announced");
}

#[test]
fn failed_command_ends_the_transfer_that_waits_for_its_data() {
    let bench = bench(Speed::Super);
    assert_eq!(bench.fetch(DATA_IN, 3, 512), Err(Outcome::Nak));
    bench.command(3, 0, &[0x28, 0, 0, 0, 1, 0, 0, 0, 1, 0]);
    assert_eq!(bench.sense(3), (2, vec![5, 0x21]), "an address beyond the end");
    assert_eq!(bench.fetch(DATA_IN, 3, 512), Ok(vec![]));
    assert_eq!(bench.fetch(DATA_IN, 3, 512), Err(Outcome::Nak), "once");
}

#[test]
fn impossible_commands_are_refused_with_their_reasons() {
    let bench = bench(Speed::Super);
    bench.command(20, 0, &[0; 6]);
    assert_eq!(bench.fetch(STATUS, 0, 64).map(|bytes| (bytes[3], bytes[18], bytes[28])), Ok((20, 5, 0x4b)));
    bench.command(2, 0, &READ);
    bench.command(2, 0, &READ);
    assert_eq!(bench.sense(2), (2, vec![11, 0x4e]));
    // Another LUN of the target answers for those that are not there, but not for all.
    bench.command(4, 9, &[0; 6]);
    assert_eq!(bench.sense(4), (2, vec![5, 0x25]));
    assert_eq!(bench.out(COMMAND, 0, &[9; 32]), Outcome::Stall);
}

#[test]
fn task_aborts_a_command_and_answers_when_it_has_ended() {
    let bench = bench(Speed::Super);
    bench.command(5, 0, &READ);
    bench.task(6, task::ABORT, 5);
    assert_eq!(bench.fetch(STATUS, 6, 64), Err(Outcome::Nak), "the disk still works");
    bench.disk.work();
    assert_eq!(bench.information(6), [unit::RESPONSE, 0, 0, 6, 0, 0, 0, response::COMPLETE]);
    assert_eq!(bench.fetch(STATUS, 5, 64), Err(Outcome::Nak));
    bench.command(5, 0, &READ);
    bench.task(6, task::UNIT_RESET, 0);
    save_and_restore_agree("usb-uas", &bench.cell).expect("the law");
    assert_eq!(bench.information(6)[7], response::COMPLETE);
    bench.task(6, 0x80, 0);
    assert_eq!(bench.information(6)[7], response::NOT_SUPPORTED);
    bench.command(1, 0, &[0; 6]);
    assert_eq!(bench.sense(1), (2, vec![6, 0x29]), "the unit was reset");
}

#[test]
fn host_that_fetches_nothing_is_stopped() {
    let bench = bench(Speed::High);
    let full = |tag: u16| {
        let mut bytes = vec![unit::COMMAND, 0];
        bytes.extend(tag.to_be_bytes());
        bytes.resize(unit::COMMAND_LEN, 0);
        bench.out(COMMAND, 0, &bytes) == Outcome::Nak
    };
    assert_eq!((0..2000).position(full), Some(UNITS_HIGH));
    assert_eq!(bench.fetch(STATUS, 0, 64).map(|bytes| bytes.len()), Ok(16));
    assert!(!full(1));
}

#[test]
fn reset_forgets_commands_and_descriptors_name_the_pipes() {
    let bench = bench(Speed::Super);
    bench.command(5, 0, &READ);
    let all = control(&bench.device, [0x80, 6, 0, 2, 0, 0, 255, 0], &[]).expect("descriptors");
    assert_eq!(all.len(), 9 + 9 + 4 * (7 + 6 + 4));
    assert_eq!(all[18..35], [7, 5, 1, 2, 0, 4, 0, 6, 48, 15, 0, 0, 0, 4, 0x24, 1, 0]);
    assert_eq!(all[35..52], [7, 5, 0x82, 2, 0, 4, 0, 6, 48, 15, 4, 0, 0, 4, 0x24, 2, 0]);
    bench.device.reset();
    configure(&bench.device);
    bench.disk.work();
    assert_eq!(bench.fetch(STATUS, 5, 64), Err(Outcome::Nak));
}
