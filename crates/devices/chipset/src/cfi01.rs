//! Parallel flash with Intel's command set (JEDEC JEP137: CFI, command set 0001), eight bits wide, with sectors of 4 KiB:
//! where firmware and its variables are. As QEMU's `cfi.pflash01`.
//!
//! While it shows its array it is ROM in the memory map, and runs code at full speed; a store is a command. Commands that
//! read something else take the ROM away until the array is asked for again: [`Cfi01::new`] gets a callback for that.
//! Writes take effect at once. The file behind it is updated in the background, in the order of the writes.
//!
//! Left out: wider buses, block locks (they can be written and have no effect, as in QEMU).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use device::disk::{Disk, DiskError, DiskOperation, DiskRequest};
use device::{AccessSize, Device, DeviceState, IoDevice, ResetKind};
use iobuf::IoBuf;
use memory::RamBlock;
use state::State;

/// Bytes of a sector: what is erased at once, and what sizes are multiples of.
pub const SECTOR: u64 = 4096;
/// Bytes of the write buffer.
const WRITE_BLOCK: u64 = 256;
/// The file is updated in units of this.
const DISK_SECTOR: u64 = 512;

/// Commands.
mod command {
    pub const ARRAY: u8 = 0x00;
    pub const PROGRAM: u8 = 0x10;
    pub const ERASE: u8 = 0x20;
    pub const PROGRAM_ALTERNATE: u8 = 0x40;
    pub const CLEAR_STATUS: u8 = 0x50;
    pub const LOCK: u8 = 0x60;
    pub const STATUS: u8 = 0x70;
    pub const IDENTIFIER: u8 = 0x90;
    pub const QUERY: u8 = 0x98;
    pub const BUFFER: u8 = 0xe8;
    pub const CONFIRM: u8 = 0xd0;
    pub const READ_ARRAY: u8 = 0xff;
}

/// Bits of the status register.
mod status {
    pub const PROGRAM_ERROR: u8 = 0x10;
    pub const ERASE_ERROR: u8 = 0x20;
    pub const READY: u8 = 0x80;
}

/// Shows the array as ROM (`true`), or lets reads reach the device. Called with the device locked.
pub type ShowArray = Box<dyn FnMut(bool) + Send>;

/// Keeps the file as the array is.
struct Writer {
    disk: Arc<dyn Disk>,
    block: Arc<RamBlock>,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    is_writing: bool,
    /// What has changed since the last request was made: first byte and end.
    dirty: Option<(u64, u64)>,
}

impl Writer {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(self: &Arc<Self>, start: u64, len: u64) {
        let size = self.block.len() as u64;
        let start_sector = start & !(DISK_SECTOR - 1);
        let end = (start + len).next_multiple_of(DISK_SECTOR).min(size);
        let mut pending = self.pending();
        pending.dirty =
            Some(pending.dirty.map_or((start_sector, end), |(from, to)| (from.min(start_sector), to.max(end))));
        self.next(pending);
    }

    /// Writes what has changed, one request at a time, so that the order is that of the guest.
    fn next(self: &Arc<Self>, mut pending: MutexGuard<'_, Pending>) {
        if pending.is_writing {
            return;
        }
        let Some((start, end)) = pending.dirty.take() else { return };
        pending.is_writing = true;
        drop(pending);
        let mut bytes = vec![0; (end - start) as usize];
        self.block.read(start as usize, &mut bytes);
        let writer = Arc::clone(self);
        let done = Box::new(move |result: Result<(), DiskError>| {
            if let Err(error) = result {
                tracing::error!("Could not update PFLASH: {error:?}");
            }
            let mut pending = writer.pending();
            pending.is_writing = false;
            writer.next(pending);
        });
        let operation = DiskOperation::Write { offset: start, buf: IoBuf::copy_of(&bytes), fua: false };
        self.disk.submit(DiskRequest { operation, done });
    }
}

/// The guest-visible state; the array itself is memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "pflash_cfi01", version = 1)]
struct Cfi01State {
    command: u8,
    /// How many writes of the command there were.
    cycle: u8,
    status: u8,
    /// Bytes of the write buffer that are still to come, less one.
    counter: u8,
}

/// A flash chip. Region 0 is the chip.
pub struct Cfi01 {
    // Configuration.
    query: [u8; 0x52],
    read_only: bool,
    // Host resources.
    block: Arc<RamBlock>,
    writer: Option<Arc<Writer>>,
    // Wiring.
    show_array: ShowArray,
    // Guest-visible state.
    state: Cfi01State,
}

impl Cfi01 {
    /// A chip with the array `block` (a multiple of [`SECTOR`]). Changes go to `disk`; without one they last as long as
    /// the machine, and a read-only one refuses them.
    pub fn new(block: &Arc<RamBlock>, disk: Option<Arc<dyn Disk>>, show_array: ShowArray) -> Self {
        let read_only = disk.as_ref().is_some_and(|disk| disk.properties().read_only);
        let writer = disk.map(|disk| Arc::new(Writer { disk, block: Arc::clone(block), pending: Mutex::default() }));
        let query = query_table(block.len() as u64);
        Self { query, read_only, block: Arc::clone(block), writer, show_array, state: Cfi01State::default() }
    }

    fn read_array(&self, offset: u64, size: AccessSize) -> u64 {
        let mut bytes = [0; 8];
        let present = (self.block.len() as u64).saturating_sub(offset).min(size.bytes() as u64) as usize;
        self.block.read(offset as usize, &mut bytes[..present]);
        u64::from_le_bytes(bytes)
    }

    fn changed(&self, start: u64, len: u64) {
        if let Some(writer) = &self.writer {
            writer.changed(start, len);
        }
    }

    fn back_to_array(&mut self) {
        (self.state.command, self.state.cycle) = (command::ARRAY, 0);
        (self.show_array)(true);
    }

    /// Stores bytes into the array, or notes that it can't be.
    fn program(&mut self, offset: u64, size: AccessSize, value: u64) {
        if self.read_only {
            self.state.status |= status::PROGRAM_ERROR;
        } else {
            self.block.write(offset as usize, &value.to_le_bytes()[..size.bytes()]);
        }
        self.state.status |= status::READY;
    }

    fn erase(&mut self, offset: u64) {
        let start = offset & !(SECTOR - 1);
        if self.read_only {
            self.state.status |= status::ERASE_ERROR;
        } else {
            self.block.write(start as usize, &[0xff; SECTOR as usize]);
            self.changed(start, SECTOR);
        }
        self.state.status |= status::READY;
    }

    /// The first write of a command.
    fn begin(&mut self, offset: u64, code: u8) {
        (self.show_array)(false);
        match code {
            command::STATUS | command::IDENTIFIER => {
                self.state.command = code;
                return;
            }
            command::PROGRAM | command::PROGRAM_ALTERNATE | command::LOCK | command::QUERY => {}
            command::ERASE => self.erase(offset),
            command::BUFFER => self.state.status |= status::READY,
            command::CLEAR_STATUS => {
                self.state.status = 0;
                return self.back_to_array();
            }
            _ => return self.back_to_array(),
        }
        self.state.command = code;
        self.state.cycle = 1;
    }

    /// The second write.
    fn second(&mut self, offset: u64, size: AccessSize, value: u64) {
        let code = value as u8;
        match self.state.command {
            command::PROGRAM | command::PROGRAM_ALTERNATE => {
                self.program(offset, size, value);
                if !self.read_only {
                    self.changed(offset, size.bytes() as u64);
                }
                self.state.cycle = 0;
            }
            command::ERASE | command::LOCK if code == command::CONFIRM => self.ready(),
            command::LOCK if code == 1 => self.ready(),
            command::BUFFER => {
                self.state.counter = code;
                self.state.cycle = 2;
            }
            command::QUERY if code != command::READ_ARRAY => {}
            _ => self.back_to_array(),
        }
    }

    fn ready(&mut self) {
        self.state.cycle = 0;
        self.state.status |= status::READY;
    }

    /// A byte for the write buffer.
    fn buffer(&mut self, offset: u64, size: AccessSize, value: u64) {
        self.program(offset, size, value);
        if self.state.counter == 0 {
            self.state.cycle = 3;
            if !self.read_only {
                self.changed(offset & !(WRITE_BLOCK - 1), WRITE_BLOCK);
            }
        }
        self.state.counter = self.state.counter.wrapping_sub(1);
    }
}

/// The answer to a CFI query (JEP137, table 1; Intel 28F-series data sheets for the extended part).
fn query_table(size: u64) -> [u8; 0x52] {
    let blocks = (size / SECTOR).saturating_sub(1);
    let mut table = [0; 0x52];
    let mut put = |at: usize, bytes: &[u8]| table[at..at + bytes.len()].copy_from_slice(bytes);
    // The command set, and where its extended table is.
    put(0x10, b"QRY\x01\x00\x31\x00");
    // Voltages, and times as powers of two.
    put(0x1b, &[0x45, 0x55, 0, 0, 0x07, 0x07, 0x0a, 0, 0x04, 0x04, 0x04, 0]);
    put(0x27, &[size.trailing_zeros() as u8, 0x02, 0x00, WRITE_BLOCK.trailing_zeros() as u8, 0x00, 0x01]);
    put(0x2d, &[blocks as u8, (blocks >> 8) as u8, (SECTOR >> 8) as u8, (SECTOR >> 16) as u8]);
    put(0x31, b"PRI10");
    put(0x3f, &[0x01]);
    table
}

impl Device for Cfi01 {
    fn reset(&mut self, _kind: ResetKind) {
        self.state = Cfi01State::default();
        (self.show_array)(true);
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        let is_array = self.state.command == command::ARRAY && self.state.cycle == 0;
        (self.show_array)(is_array);
    }
}

impl IoDevice for Cfi01 {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, AccessSize::Dword)
    }

    fn read(&mut self, _region: usize, offset: u64, size: AccessSize) -> u64 {
        match self.state.command {
            command::ARRAY => self.read_array(offset, size),
            // Neither manufacturer nor device are known.
            command::IDENTIFIER => 0,
            command::QUERY => self.query.get(offset as usize & 0xff).map_or(0, |byte| u64::from(*byte)),
            _ => {
                let value = u64::from(self.state.status);
                if size == AccessSize::Dword { value | value << 16 } else { value }
            }
        }
    }

    fn write(&mut self, _region: usize, offset: u64, size: AccessSize, value: u64) {
        match (self.state.cycle, self.state.command) {
            (0, _) => self.begin(offset, value as u8),
            (1, _) => self.second(offset, size, value),
            (2, command::BUFFER) => self.buffer(offset, size, value),
            (3, command::BUFFER) if value as u8 == command::CONFIRM => self.ready(),
            _ => self.back_to_array(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AccessSize::Byte;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn chip() -> (Cfi01, Arc<AtomicBool>) {
        let block = Arc::new(RamBlock::new("flash", 4 * SECTOR).expect("memory"));
        let shown = Arc::new(AtomicBool::new(true));
        let array = Arc::clone(&shown);
        (Cfi01::new(&block, None, Box::new(move |on| array.store(on, Ordering::Relaxed))), shown)
    }

    fn write(chip: &mut Cfi01, offset: u64, values: &[u8]) {
        for value in values {
            chip.write(0, offset, Byte, u64::from(*value));
        }
    }

    #[test]
    fn programmed_byte_is_in_the_array_after_read_array() {
        let (mut chip, shown) = chip();
        write(&mut chip, 0x1010, &[command::PROGRAM, 0x5a]);
        assert_eq!(chip.read(0, 0x1010, Byte), u64::from(status::READY));
        assert!(!shown.load(Ordering::Relaxed));
        write(&mut chip, 0x1010, &[command::READ_ARRAY]);
        assert_eq!(chip.read(0, 0x1010, Byte), 0x5a);
        assert!(shown.load(Ordering::Relaxed));
    }

    #[test]
    fn erase_fills_its_sector_only() {
        let (mut chip, _) = chip();
        write(&mut chip, 0x1fff, &[command::ERASE, command::CONFIRM, command::READ_ARRAY]);
        let read = |chip: &mut Cfi01, at| chip.read(0, at, Byte);
        assert_eq!((read(&mut chip, 0xfff), read(&mut chip, 0x1000), read(&mut chip, 0x2000)), (0, 0xff, 0));
    }

    #[test]
    fn buffer_takes_its_bytes_and_a_confirmation() {
        let (mut chip, _) = chip();
        write(&mut chip, 0x2000, &[command::BUFFER, 1]);
        write(&mut chip, 0x2000, &[0x11]);
        write(&mut chip, 0x2001, &[0x22]);
        write(&mut chip, 0x2000, &[command::CONFIRM, command::READ_ARRAY]);
        assert_eq!(chip.read(0, 0x2000, AccessSize::Word), 0x2211);
    }

    #[test]
    fn query_tells_command_set_and_size() {
        let (mut chip, _) = chip();
        write(&mut chip, 0x55, &[command::QUERY]);
        let answer: Vec<u8> = (0x10..0x15).map(|at| chip.read(0, at, Byte) as u8).collect();
        assert_eq!(answer, b"QRY\x01\x00");
        assert_eq!(chip.read(0, 0x27, Byte), 14);
    }

    #[test]
    fn reset_is_idempotent_and_no_access_panics() {
        let (mut chip, shown) = chip();
        for size in [Byte, AccessSize::Word, AccessSize::Dword] {
            for offset in [0, 0xfff, 4 * SECTOR - 1, 4 * SECTOR - 4] {
                for code in 0..=255 {
                    chip.write(0, offset, size, code);
                    chip.read(0, offset, size);
                }
            }
        }
        chip.reset(ResetKind::Warm);
        let once = chip.state.clone();
        chip.reset(ResetKind::Warm);
        assert_eq!(chip.state, once);
        assert!(shown.load(Ordering::Relaxed));
    }
}
