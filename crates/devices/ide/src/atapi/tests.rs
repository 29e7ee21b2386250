//! Packets without a transport: data in blocks and by DMA, sense data, the tray.

use std::sync::Arc;

use device::disk::Disk;

use super::*;
use crate::drive::{DriveHost, DriveKind, DriveOptions, DriveState};
use device::testing::FakeDisk;

struct Bench {
    host: DriveHost,
    state: DriveState,
    disk: Arc<FakeDisk>,
    interrupts: u32,
}

/// How a packet ended.
#[derive(Debug, PartialEq)]
enum End {
    Good(Vec<u8>),
    /// Sense key and additional code.
    Check(u8, u8),
    Aborted,
    Starved,
}

impl Bench {
    fn new(blocks: usize) -> Self {
        let disk = FakeDisk::new(blocks * 4);
        let host = DriveHost::new(DriveOptions::new(DriveKind::Cd), disk.clone(), false);
        let mut bench = Self { host, state: DriveState::default(), disk, interrupts: 0 };
        bench.drive().hard_reset();
        bench
    }

    fn drive(&mut self) -> Drive<'_> {
        Drive { host: &mut self.host, state: &mut self.state }
    }

    fn start(&mut self, packet: &[u8], limit: u16, is_dma: bool) -> Step {
        let mut whole = [0; PACKET_LEN];
        whole[..packet.len()].copy_from_slice(packet);
        let [low, high] = limit.to_le_bytes();
        self.state.lba[1].write(low);
        self.state.lba[2].write(high);
        self.state.feature.write(u8::from(is_dma));
        assert!(matches!(self.drive().command(0xa0), Step::Data { interrupt: false }));
        assert!(self.drive().wants_packet());
        assert_eq!(self.state.count.now, 1);
        self.drive().data_mut().copy_from_slice(&whole);
        self.drive().moved(PACKET_LEN as u32)
    }

    /// Runs to the end; `memory` serves DMA, `parameters` what the drive wants.
    fn finish(&mut self, mut step: Step, memory: &DmaBuffer, parameters: &[u8]) -> End {
        let (mut data, mut parameters) = (Vec::new(), parameters.to_vec());
        loop {
            step = match step {
                Step::None => panic!("nothing follows"),
                Step::Starved => return End::Starved,
                Step::Interrupt => {
                    assert_eq!(self.state.count.now & 7, 3, "command and in");
                    self.interrupts += 1;
                    return match (self.state.status, self.state.error) {
                        (0x50, 0) => End::Good(data),
                        (0x41, 4) => End::Aborted,
                        (0x41, error) => {
                            assert_eq!(error >> 4, self.state.atapi.sense_key);
                            End::Check(self.state.atapi.sense_key, self.state.atapi.asc)
                        }
                        other => panic!("{other:x?}"),
                    };
                }
                Step::Data { interrupt } => {
                    self.interrupts += u32::from(interrupt);
                    let told = usize::from(u16::from_le_bytes([self.state.lba[1].now, self.state.lba[2].now]));
                    if self.drive().is_data_out() {
                        assert_eq!(self.state.count.now & 7, 0);
                        let block = parameters.drain(..told).collect::<Vec<_>>();
                        self.drive().data_mut().copy_from_slice(&block);
                        self.drive().moved(told as u32)
                    } else {
                        assert_eq!(self.state.count.now & 7, 2);
                        let block = self.drive().data().to_vec();
                        assert_eq!(block.len(), told);
                        data.extend(block);
                        self.drive().moved(told as u32)
                    }
                }
                Step::Dma { .. } => self.drive().dma(memory.clone()),
                Step::Disk(operation) => {
                    let result = Arc::new(std::sync::Mutex::new(None));
                    let told = Arc::clone(&result);
                    let done = Box::new(move |ended| *told.lock().expect("result") = Some(ended));
                    self.disk.submit(device::disk::DiskRequest { operation, done });
                    self.disk.work();
                    let ended = result.lock().expect("result").take().expect("ended");
                    let token = self.host.token();
                    self.drive().disk_done(token, ended, false)
                }
            };
        }
    }

    fn packet(&mut self, packet: &[u8]) -> End {
        let step = self.start(packet, 0xffff, false);
        self.finish(step, &DmaBuffer::empty(), &[])
    }

    fn data(&mut self, packet: &[u8]) -> Vec<u8> {
        match self.packet(packet) {
            End::Good(data) => data,
            other => panic!("{packet:x?}: {other:?}"),
        }
    }

    fn set_medium(&mut self, blocks: u64) {
        let mut properties = self.disk.properties.lock().expect("properties");
        properties.medium = blocks != 0;
        properties.size = blocks * BLOCK as u64;
    }
}

const NOT_READY: End = End::Check(key::NOT_READY, asc::MEDIUM_NOT_PRESENT);

#[test]
fn signature_and_identification_are_a_packet_drives() {
    let mut bench = Bench::new(10);
    assert_eq!((bench.state.status, bench.state.lba[1].now, bench.state.lba[2].now), (0, 0x14, 0xeb));
    let step = bench.drive().command(0xec);
    assert!(matches!(step, Step::Interrupt));
    assert_eq!((bench.state.status, bench.state.error), (0x41, ABRT));
    assert!(matches!(bench.drive().command(0xa1), Step::Data { interrupt: true }));
    let data = bench.drive().data().to_vec();
    assert_eq!((data[0], data[1]), (0xc0, 0x85));
    assert_eq!(&data[54..68], b"EQUMD DVR-MO  ");
}

#[test]
fn inquiry_pages_are_cut_to_what_was_allocated() {
    let mut bench = Bench::new(10);
    let data = bench.data(&[0x12, 0, 0, 0, 36]);
    assert_eq!((data.len(), data[0], data[1]), (36, 5, 0x80));
    assert_eq!(&data[8..36], b"QEMU    QEMU DVD-ROM    2.5+");
    assert_eq!(bench.data(&[0x12, 0, 0, 0, 5]), [5, 0x80, 0, 0x21, 31]);
    assert_eq!(bench.data(&[0x12, 1, 0, 0, 255]), [5, 0, 0, 2, 0, 0x83]);
    assert_eq!(bench.data(&[0x12, 1, 0x83, 0, 255]).len(), 4 + 24 + 72);
    assert_eq!(bench.packet(&[0x12, 1, 0x55, 0, 255]), End::Check(5, 0x24));
    assert_eq!(bench.packet(&[0x12, 1, 0x83, 0, 8]), End::Check(5, 0x4b));
}

#[test]
fn reads_come_in_blocks_of_the_hosts_limit() {
    let mut bench = Bench::new(100);
    let read = [0x28, 0, 0, 0, 0, 3, 0, 0, 40, 0];
    for limit in [0xffff, 0xfffe, 2048, 5120, 3001, 2] {
        bench.interrupts = 0;
        let step = bench.start(&read, limit, false);
        let End::Good(data) = bench.finish(step, &DmaBuffer::empty(), &[]) else { panic!("limit {limit}") };
        assert_eq!((data.len(), data[0], data[39 * 2048]), (40 * 2048, 12, ((3 + 39) * 4) as u8), "limit {limit}");
        let block = u32::from(limit & 0xfffe);
        assert_eq!(bench.interrupts, (40 * 2048u32).div_ceil(block) + 1, "limit {limit}");
    }
    let step = bench.start(&read, 0, false);
    assert_eq!(bench.finish(step, &DmaBuffer::empty(), &[]), End::Aborted);
}

#[test]
fn reads_by_dma_go_straight_to_memory() {
    let mut bench = Bench::new(100);
    let memory = DmaBuffer::detached(6 * 2048);
    let step = bench.start(&[0xa8, 0, 0, 0, 0, 7, 0, 0, 0, 6, 0], 0, true);
    assert_eq!(bench.finish(step, &memory, &[]), End::Good(vec![]));
    assert_eq!(bench.disk.take_log(), ["read 28+24"]);
    let mut bytes = [0; 2];
    memory.io().read_at(5 * 2048, &mut bytes);
    assert_eq!((bytes[0], bench.state.transferred), ((12 * 4) as u8, 6 * 2048));
    // Less memory than data.
    let step = bench.start(&[0xa8, 0, 0, 0, 0, 7, 0, 0, 0, 6, 0], 0, true);
    assert_eq!(bench.finish(step, &DmaBuffer::detached(5000), &[]), End::Starved);
    assert_eq!((bench.disk.take_log(), bench.state.transferred), (vec!["read 28+8".into(), "read 36+4".into()], 5000));
}

#[test]
fn raw_blocks_have_addresses_around_their_data() {
    let mut bench = Bench::new(100);
    let read = [0xbe, 0, 0, 0, 0, 2, 0, 0, 20, 0xf8];
    let data = bench.data(&read);
    assert_eq!((data.len(), data[0], data[1], data[11]), (20 * RAW_BLOCK, 0, 0xff, 0));
    assert_eq!((&data[12..16], data[16]), (&[0, 2, 2, 1][..], 8));
    let memory = DmaBuffer::detached(20 * RAW_BLOCK);
    let step = bench.start(&read, 0, true);
    assert_eq!(bench.finish(step, &memory, &[]), End::Good(vec![]));
    assert_eq!(memory.io().to_vec(), data);
    assert_eq!(bench.packet(&[0xbe, 0, 0, 0, 0, 2, 0, 0, 20, 0]), End::Good(vec![]));
    assert_eq!(bench.packet(&[0xbe, 0, 0, 0, 0, 2, 0, 0, 20, 0x40]), End::Check(5, 0x24));
}

#[test]
fn reads_outside_of_the_disc_and_failures_have_sense() {
    let mut bench = Bench::new(10);
    for packet in [
        [0x28, 0, 0, 0, 0, 9, 0, 0, 2, 0],
        [0x28, 0, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0],
        [0xbe, 0, 0, 0, 0, 10, 0, 0, 1, 0x10],
        [0x2b, 0, 0, 0, 0, 10, 0, 0, 0, 0],
    ] {
        assert_eq!(bench.packet(&packet), End::Check(5, 0x21), "{packet:x?}");
    }
    *bench.disk.failure.lock().expect("failure") = Some(DiskError::Io);
    assert_eq!(bench.packet(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]), End::Check(3, 0x11));
    let sense = bench.data(&[0x03, 0, 0, 0, 18]);
    assert_eq!((sense[0], sense[2], sense[7], sense[12]), (0xf0, 3, 10, 0x11));
    assert_eq!(bench.data(&[0x03, 0, 0, 0, 18])[2], 0, "reported once");
    assert_eq!(bench.packet(&[0xc7]), End::Check(5, 0x20));
}

#[test]
fn contents_and_capacity_are_those_of_one_track() {
    let mut bench = Bench::new(1000);
    assert_eq!(bench.data(&[0x25]), [0, 0, 3, 0xe7, 0, 0, 8, 0]);
    let toc = bench.data(&[0x43, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(toc, [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x16, 0xaa, 0, 0, 0, 3, 0xe8]);
    let toc = bench.data(&[0x43, 2, 0, 0, 0, 0, 0xaa, 1, 0]);
    assert_eq!(toc, [0, 10, 1, 1, 0, 0x16, 0xaa, 0, 0, 0, 15, 25]);
    assert_eq!(bench.packet(&[0x43, 0, 0, 0, 0, 0, 2, 1, 0]), End::Check(5, 0x24));
    assert_eq!(bench.data(&[0x43, 0, 0, 0, 0, 0, 0, 1, 0, 0x40])[..4], [0, 10, 1, 1]);
    assert_eq!(bench.data(&[0x43, 0, 0, 0, 0, 0, 0, 1, 0, 0x80]).len(), 48);
    assert_eq!(bench.data(&[0x51, 0, 0, 0, 0, 0, 0, 0, 34])[2], 0x0e);
    assert_eq!(bench.data(&[0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8]), [0, 0, 0, 0, 0, 1, 0, 0]);
}

#[test]
fn profiles_and_structures_depend_on_the_size() {
    let mut bench = Bench::new(10);
    let configuration = [0x46, 0, 0, 0, 0, 0, 0, 0, 100];
    assert_eq!(bench.data(&configuration)[6..], [0, 8, 0, 0, 3, 8, 0, 16, 0, 0, 0, 8, 1, 0]);
    assert_eq!(bench.packet(&[0xad, 0, 0, 0, 0, 0, 0, 0, 8, 4]), End::Check(5, 0x30));
    bench.set_medium(2_000_000);
    bench.drive().disk_changed();
    assert_eq!(bench.data(&configuration)[6..], [0, 16, 0, 0, 3, 8, 0, 16, 1, 0, 0, 8, 0, 0]);
    let structure = bench.data(&[0xad, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    assert_eq!((structure.len(), &structure[..8]), (2052, &[8, 2, 0, 0, 1, 0x0f, 1, 0][..]));
    assert_eq!(bench.data(&[0xad, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff]).len(), 20);
    assert_eq!(bench.packet(&[0xad, 0, 0, 0, 0, 0, 0, 3, 0xff, 0xff]), End::Check(5, 0x24));
    bench.set_medium(0);
    bench.drive().disk_changed();
    assert_eq!(bench.data(&configuration)[6..8], [0, 0]);
}

#[test]
fn mode_pages_can_be_read_and_written_as_they_are() {
    let mut bench = Bench::new(10);
    let page = bench.data(&[0x5a, 0, 0x2a, 0, 0, 0, 0, 1, 0]);
    assert_eq!((page.len(), page[1], page[8], page[12], page[14]), (30, 28, 0x2a, 0x71, 0x29));
    assert_eq!(bench.packet(&[0x5a, 0, 0xea, 0, 0, 0, 0, 1, 0]), End::Check(5, 0x39));
    assert_eq!(bench.packet(&[0x5a, 0, 0x3f, 0, 0, 0, 0, 1, 0]), End::Check(5, 0x24));
    let page = bench.data(&[0x5a, 0, 0x01, 0, 0, 0, 0, 1, 0]);
    let select = [0x55, 0x10, 0, 0, 0, 0, 0, 0, 16];
    for is_dma in [false, true] {
        let memory = DmaBuffer::detached(16);
        memory.io().write_at(0, &page);
        let step = bench.start(&select, 8, is_dma);
        assert_eq!(bench.finish(step, &memory, &page), End::Good(vec![]));
        let mut other = page.clone();
        other[11] = 9;
        memory.io().write_at(0, &other);
        let step = bench.start(&select, 0xffff, is_dma);
        assert_eq!(bench.finish(step, &memory, &other), End::Check(5, 0x26));
    }
}

#[test]
fn tray_moves_unless_it_is_locked() {
    let mut bench = Bench::new(10);
    let (lock, unlock) = ([0x1e, 0, 0, 0, 1], [0x1e, 0, 0, 0, 0]);
    let (eject, load) = ([0x1b, 0, 0, 0, 2], [0x1b, 0, 0, 0, 3]);
    assert_eq!(bench.packet(&lock), End::Good(vec![]));
    assert!(bench.drive().is_locked());
    assert_eq!(bench.packet(&eject), End::Check(2, 0x53));
    assert_eq!(bench.packet(&unlock), End::Good(vec![]));
    assert_eq!(bench.packet(&eject), End::Good(vec![]));
    assert_eq!(bench.packet(&eject), End::Good(vec![]));
    assert_eq!(bench.disk.take_log(), ["tray open"]);
    assert_eq!(bench.packet(&[0x00]), NOT_READY);
    assert_eq!(bench.packet(&load), End::Good(vec![]));
    assert_eq!(bench.disk.take_log(), ["tray closed"]);
    assert_eq!(bench.packet(&[0x00]), End::Good(vec![]));
}

#[test]
fn new_medium_is_absent_then_changed_then_there() {
    let mut bench = Bench::new(10);
    let events = [0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8];
    assert_eq!(bench.data(&events), [0, 4, 4, 0x10, 0, 2, 0, 0]);
    bench.set_medium(0);
    bench.drive().medium_changed(false);
    assert_eq!(bench.data(&events)[4..6], [0, 1]);
    assert_eq!(bench.packet(&[0x00]), NOT_READY);
    bench.set_medium(20);
    bench.drive().medium_changed(true);
    assert_eq!(bench.data(&events)[4..6], [2, 2], "events come first");
    assert_eq!(bench.data(&events)[4..6], [0, 2]);
    assert_eq!(bench.packet(&[0x00]), NOT_READY);
    let attention = End::Check(6, 0x28);
    assert_eq!(bench.packet(&[0x00]), attention);
    assert_eq!(bench.packet(&[0x00]), attention, "until somebody asks");
    assert_eq!(bench.data(&[0x03, 0, 0, 0, 18])[12], 0x28);
    assert_eq!(bench.packet(&[0x00]), End::Good(vec![]));
    assert_eq!(bench.data(&[0x25])[3], 19);
}

#[test]
fn eject_request_reaches_the_guest_and_force_unlocks() {
    let mut bench = Bench::new(10);
    assert_eq!(bench.packet(&[0x1e, 0, 0, 0, 1]), End::Good(vec![]));
    bench.drive().eject_request(false);
    let events = [0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8];
    assert_eq!(bench.data(&events)[4..6], [1, 2]);
    assert_eq!(bench.data(&events)[4..6], [0, 2]);
    assert!(bench.drive().is_locked());
    bench.drive().eject_request(true);
    assert!(!bench.drive().is_locked());
    assert_eq!(bench.packet(&[0x4a, 0, 0, 0, 0x10, 0, 0, 0, 8]), End::Check(5, 0x24));
    assert_eq!(bench.data(&[0x4a, 1, 0, 0, 0x02, 0, 0, 0, 8]), [0, 0, 0x80, 0x10]);
}
