//! A guest that a test plays itself: drivers of transitional virtio disks (virtio 1.2, 4.1.5 and 5.2) over the qtest
//! protocol. Nothing is executed in the machine, so that each request is the test's own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use super::{Machine, PATIENCE, Setup};

/// How a request ends: the status byte of a virtio disk.
pub const OK: u8 = 0;
/// The request has failed.
pub const FAILED: u8 = 1;

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const DISCARD: u32 = 11;

/// Guest memory of a disk's queue and buffers.
const AREA: u64 = 5 << 20;
/// Where the buffers of its requests begin, and how much each has.
const BUFFERS: u64 = 1 << 20;
const BUFFER: u64 = 256 << 10;
/// Requests that may be in flight.
const SLOTS: u16 = 16;
const PENDING: u8 = 0xff;

struct Disk {
    ports: u16,
    memory: u64,
    queue_size: u16,
    submitted: u16,
}

/// A connection to a machine's qtest server, and the disks that were found.
pub struct Guest {
    stream: BufReader<UnixStream>,
    disks: Vec<Disk>,
}

/// A machine whose guest is the test; it runs at once.
pub fn setup() -> Setup {
    Setup::new().args([
        "-m",
        "64",
        "-accel",
        "qtest",
        "-qtest",
        "unix:{dir}/qtest,server=on,wait=off",
        "-qtest-log",
        "none",
    ])
}

impl Guest {
    /// Connects, and starts the drivers of all virtio disks, in the order of their slots.
    pub fn of(machine: &mut Machine) -> Self {
        let path = machine.path("qtest");
        let stream = machine.wait_for("the qtest server", PATIENCE, |_| UnixStream::connect(&path).ok());
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut guest = Self { stream: BufReader::new(stream), disks: Vec::new() };
        for slot in 0..32 {
            if guest.config(slot, 0) == 0x1001_1af4 {
                assert!(guest.disks.len() < 8, "the guest's memory is for eight disks");
                guest.start(slot);
            }
        }
        guest
    }

    fn command(&mut self, command: &str) -> String {
        self.stream.get_mut().write_all(format!("{command}\n").as_bytes()).expect("the server takes commands");
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("an answer");
            let line = line.trim_end();
            if let Some(value) = line.strip_prefix("OK") {
                return value.trim().to_owned();
            }
            assert!(line.starts_with("IRQ "), "{command}: {line:?}");
        }
    }

    /// Asks for a number.
    pub fn number(&mut self, command: &str) -> u64 {
        let text = self.command(command);
        u64::from_str_radix(text.trim_start_matches("0x"), 16)
            .unwrap_or_else(|error| panic!("{command}: {text}: {error}"))
    }

    fn config(&mut self, slot: u32, register: u32) -> u32 {
        self.command(&format!("outl 0xcf8 {:#x}", 0x8000_0000 | slot << 11 | register));
        self.number("inl 0xcfc") as u32
    }

    fn set_config(&mut self, slot: u32, register: u32, value: u32) {
        self.command(&format!("outl 0xcf8 {:#x}", 0x8000_0000 | slot << 11 | register));
        self.command(&format!("outl 0xcfc {value:#x}"));
    }

    /// Writes to a port, `size` as in the server's commands.
    pub fn out(&mut self, size: char, port: u16, value: u64) {
        self.command(&format!("out{size} {port:#x} {value:#x}"));
    }

    fn write_memory(&mut self, address: u64, bytes: &[u8]) {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.command(&format!("write {address:#x} {:#x} 0x{digits}", bytes.len()));
    }

    fn read_memory(&mut self, address: u64, len: usize) -> Vec<u8> {
        let text = self.command(&format!("read {address:#x} {len:#x}"));
        let digits = text.trim_start_matches("0x").as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits");
        digits.chunks(2).map(byte).collect()
    }

    fn start(&mut self, slot: u32) {
        let index = self.disks.len();
        let ports = 0xc000 + 0x100 * u16::try_from(index).expect("few disks");
        self.set_config(slot, 0x10, u32::from(ports));
        self.set_config(slot, 0x04, 7);
        self.out('b', ports + 18, 0);
        self.out('b', ports + 18, 3);
        let features = self.number(&format!("inl {ports:#x}"));
        // Without EVENT_IDX.
        self.out('l', ports + 4, features & !(1 << 29));
        self.out('w', ports + 14, 0);
        let queue_size = self.number(&format!("inw {:#x}", ports + 12)) as u16;
        let memory = AREA + AREA * index as u64;
        self.out('l', ports + 8, memory >> 12);
        self.out('b', ports + 18, 7);
        self.disks.push(Disk { ports, memory, queue_size, submitted: 0 });
    }

    /// The size that a disk tells, bytes.
    pub fn size(&mut self, disk: usize) -> u64 {
        let ports = self.disks[disk].ports;
        let low = self.number(&format!("inl {:#x}", ports + 20));
        let high = self.number(&format!("inl {:#x}", ports + 24));
        (high << 32 | low) * 512
    }

    /// Whether a disk has reported a change of its configuration since the last call.
    pub fn config_changed(&mut self, disk: usize) -> bool {
        let port = self.disks[disk].ports + 19;
        self.number(&format!("inb {port:#x}")) & 2 != 0
    }

    /// Starts a request; the number is for [`Guest::wait`].
    fn submit(&mut self, disk: usize, kind: u32, sector: u64, data: &[u8]) -> u16 {
        let Disk { ports, memory, queue_size, submitted } = self.disks[disk];
        let slot = submitted % SLOTS;
        let buffer = memory + BUFFERS + BUFFER * u64::from(slot);
        let mut header = Vec::new();
        header.extend(kind.to_le_bytes());
        header.extend(0_u32.to_le_bytes());
        header.extend(sector.to_le_bytes());
        self.write_memory(buffer, &header);
        self.write_memory(buffer + 16, &[PENDING]);
        let len = data.len() as u32;
        if kind != READ && len != 0 {
            self.write_memory(buffer + 4096, data);
        }
        let into_guest = if kind == READ { 2 } else { 0 };
        let head = slot * 3;
        let mut parts = vec![(buffer, 16, 1, head + 1)];
        if len != 0 {
            parts.push((buffer + 4096, len, 1 | into_guest, head + 2));
        }
        parts.push((buffer + 16, 1, 2, 0));
        let mut table = Vec::new();
        for (index, (address, len, flags, next)) in parts.into_iter().enumerate() {
            table.extend(address.to_le_bytes());
            table.extend(len.to_le_bytes());
            table.extend((flags as u16).to_le_bytes());
            table.extend(if index == 0 { head + 1 } else { next }.to_le_bytes());
        }
        self.write_memory(memory + 16 * u64::from(head), &table);
        let available = memory + 16 * u64::from(queue_size);
        let at = available + 4 + 2 * u64::from(submitted % queue_size);
        self.write_memory(at, &head.to_le_bytes());
        self.write_memory(available + 2, &submitted.wrapping_add(1).to_le_bytes());
        self.disks[disk].submitted = submitted.wrapping_add(1);
        self.out('w', ports + 16, 0);
        slot
    }

    /// The status of a request that may still be in flight.
    fn status(&mut self, disk: usize, slot: u16) -> Option<u8> {
        let buffer = self.disks[disk].memory + BUFFERS + BUFFER * u64::from(slot);
        let status = self.read_memory(buffer + 16, 1)[0];
        (status != PENDING).then_some(status)
    }

    /// Whether a request has not ended yet.
    pub fn is_pending(&mut self, disk: usize, slot: u16) -> bool {
        self.status(disk, slot).is_none()
    }

    /// Waits for the end of a request.
    pub fn wait(&mut self, disk: usize, slot: u16) -> u8 {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.status(disk, slot) {
                return status;
            }
            assert!(Instant::now() < end, "the request does not end");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Reads.
    pub fn read(&mut self, disk: usize, sector: u64, len: usize) -> (u8, Vec<u8>) {
        let slot = self.submit(disk, READ, sector, &vec![0; len]);
        let status = self.wait(disk, slot);
        let buffer = self.disks[disk].memory + BUFFERS + BUFFER * u64::from(slot);
        (status, self.read_memory(buffer + 4096, len))
    }

    /// Writes.
    pub fn write(&mut self, disk: usize, sector: u64, data: &[u8]) -> u8 {
        let slot = self.begin_write(disk, sector, data);
        self.wait(disk, slot)
    }

    /// Starts a write.
    pub fn begin_write(&mut self, disk: usize, sector: u64, data: &[u8]) -> u16 {
        self.submit(disk, WRITE, sector, data)
    }

    /// Starts a read whose data nobody wants.
    pub fn begin_read(&mut self, disk: usize, sector: u64, len: usize) -> u16 {
        self.submit(disk, READ, sector, &vec![0; len])
    }

    /// Flushes.
    pub fn flush(&mut self, disk: usize) -> u8 {
        let slot = self.submit(disk, FLUSH, 0, &[]);
        self.wait(disk, slot)
    }

    /// Discards sectors.
    pub fn discard(&mut self, disk: usize, sector: u64, sectors: u32) -> u8 {
        let mut range = sector.to_le_bytes().to_vec();
        range.extend(sectors.to_le_bytes());
        range.extend(0_u32.to_le_bytes());
        let slot = self.submit(disk, DISCARD, 0, &range);
        self.wait(disk, slot)
    }
}
