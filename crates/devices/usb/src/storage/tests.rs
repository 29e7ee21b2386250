use std::sync::Arc;

use device::disk::Disk;
use device::testing::{FakeDisk, save_and_restore_agree};
use devices_scsi::{UnitKind, UnitOptions};

use super::*;
use crate::bus::Link;
use crate::data::ByteData;
use crate::testing::{Wakes, configure, control, poll};

struct Bench {
    disk: Arc<FakeDisk>,
    cell: StorageCell,
    device: Link,
    wakes: Arc<Wakes>,
}

fn bench() -> Bench {
    let disk = FakeDisk::new(64);
    let shared: Arc<dyn Disk> = Arc::clone(&disk) as Arc<dyn Disk>;
    let cell = new(LogicalUnit::new(UnitOptions::new(UnitKind::Disk), &shared), Labels::default());
    let (device, wakes): (Link, Arc<Wakes>) = (Arc::new(cell.clone()), Arc::default());
    wakes.connect(&device);
    configure(&device);
    let bench = Bench { disk, cell, device, wakes };
    // The unit has been reset: the first command is told so.
    bench.command(1, 0, true, &[0; 6]);
    assert_eq!(bench.status(), (1, 0, csw_status::FAILED));
    bench
}

impl Bench {
    fn out(&self, bytes: &[u8]) -> Outcome {
        self.device.transfer(Token::Out, BULK_OUT.into(), &mut ByteData::new(&mut bytes.to_vec()))
    }

    fn command(&self, tag: u32, length: u32, is_in: bool, cdb: &[u8]) {
        let mut cbw = CBW_SIGNATURE.to_vec();
        cbw.extend(tag.to_le_bytes());
        cbw.extend(length.to_le_bytes());
        cbw.extend([if is_in { 0x80 } else { 0 }, 0, cdb.len() as u8]);
        cbw.extend(cdb);
        cbw.resize(CBW_LEN, 0);
        assert_eq!(self.out(&cbw), Outcome::Done(CBW_LEN));
    }

    /// Tag, residue, status.
    fn status(&self) -> (u32, u32, u8) {
        let csw = poll(&self.device, BULK_IN, 64).expect("a status");
        assert_eq!((csw.len(), &csw[..4]), (CSW_LEN, &CSW_SIGNATURE[..]));
        let word = |at: usize| u32::from_le_bytes([csw[at], csw[at + 1], csw[at + 2], csw[at + 3]]);
        (word(4), word(8), csw[12])
    }
}

#[test]
fn read_waits_for_the_disk_and_wakes_the_controller() {
    let bench = bench();
    bench.command(7, 1024, true, &[0x28, 0, 0, 0, 0, 3, 0, 0, 2, 0]);
    assert_eq!(poll(&bench.device, BULK_IN, 512), Err(Outcome::Nak));
    bench.disk.work();
    assert_eq!(bench.wakes.count(), 1);
    save_and_restore_agree("usb-storage", &bench.cell).expect("the law");
    assert_eq!(poll(&bench.device, BULK_IN, 512), Ok(vec![3; 512]));
    assert_eq!(poll(&bench.device, BULK_IN, 512), Ok(vec![4; 512]));
    assert_eq!(bench.status(), (7, 0, csw_status::PASSED));
}

#[test]
fn write_reaches_the_disk_when_all_data_have_come() {
    let bench = bench();
    bench.command(8, 512, false, &[0x2a, 0, 0, 0, 0, 5, 0, 0, 1, 0]);
    assert_eq!(bench.out(&[1; 256]), Outcome::Done(256));
    assert_eq!(bench.out(&[2; 257]), Outcome::Stall, "more than was announced");
    control(&bench.device, [2, 1, 0, 0, BULK_OUT, 0, 0, 0], &[]).expect("no longer halted");
    assert_eq!(bench.out(&[2; 256]), Outcome::Done(256));
    assert_eq!(poll(&bench.device, BULK_IN, 13), Err(Outcome::Nak));
    bench.disk.work();
    assert_eq!(bench.status(), (8, 0, csw_status::PASSED));
    let expected = [vec![1; 256], vec![2; 256]].concat();
    assert_eq!(bench.disk.take_log(), ["write 5+1"]);
    assert_eq!(bench.disk.data.lock().expect("data")[5 * 512..6 * 512], expected);
}

#[test]
fn data_that_the_unit_has_not_are_zeroes_and_residue() {
    let bench = bench();
    bench.command(9, 64, true, &[0x12, 0, 0, 0, 8, 0]);
    let data = poll(&bench.device, BULK_IN, 512).expect("data");
    assert_eq!((data.len(), &data[8..], data[4] != 0), (64, &[0; 56][..], true));
    assert_eq!(bench.status(), (9, 56, csw_status::PASSED));
    // A command that fails leaves sense data for the next one.
    bench.command(10, 512, true, &[0x28, 0, 0, 0, 1, 0, 0, 0, 1, 0]);
    assert_eq!(poll(&bench.device, BULK_IN, 512), Ok(vec![0; 512]));
    assert_eq!(bench.status(), (10, 512, csw_status::FAILED));
    bench.command(11, 18, true, &[3, 0, 0, 0, 18, 0]);
    let sense = poll(&bench.device, BULK_IN, 64).expect("sense data");
    assert_eq!((sense[2] & 0xf, sense[12]), (5, 0x21), "an address beyond the end");
}

#[test]
fn wrapper_without_meaning_halts_and_a_reset_begins_anew() {
    let bench = bench();
    assert_eq!(bench.out(&[0; CBW_LEN]), Outcome::Stall);
    control(&bench.device, [2, 1, 0, 0, BULK_OUT, 0, 0, 0], &[]).expect("no longer halted");
    bench.command(12, 512, true, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    control(&bench.device, [0x21, 0xff, 0, 0, 0, 0, 0, 0], &[]).expect("a reset");
    bench.disk.work();
    assert_eq!(poll(&bench.device, BULK_IN, 512), Err(Outcome::Nak), "the old command is forgotten");
    bench.command(13, 0, false, &[0; 6]);
    assert_eq!(bench.status(), (13, 0, csw_status::PASSED));
    assert_eq!(control(&bench.device, [0xa1, 0xfe, 0, 0, 0, 0, 1, 0], &[]), Ok(vec![0]));
}
