//! QEMU's firmware configuration device (docs/specs/fw_cfg.rst): numbered items and named files that firmware and the
//! guest's kernel read through ports 0x510 and 0x511, or by DMA requests announced at port 0x514.
//!
//! Left out: the memory-mapped variant of other machines, and writes through the data port (obsolete since QEMU 2.4).

use std::sync::Arc;

use device::{AccessSize, Device, DeviceState, IoDevice, ResetKind};
use memory::{AddressSpace, GuestAddress};
use state::State;

/// Region 0: the selector (0x510, write a word) and the data port (0x511, read bytes).
pub const REGION_PORTS: usize = 0;
/// Region 1: the DMA address register (0x514, eight bytes, big-endian).
pub const REGION_DMA: usize = 1;

/// Well-known item numbers.
pub mod key {
    #![expect(missing_docs, reason = "named as in the specification")]
    pub const SIGNATURE: u16 = 0x00;
    pub const ID: u16 = 0x01;
    pub const UUID: u16 = 0x02;
    pub const RAM_SIZE: u16 = 0x03;
    pub const NOGRAPHIC: u16 = 0x04;
    pub const NB_CPUS: u16 = 0x05;
    pub const MACHINE_ID: u16 = 0x06;
    pub const KERNEL_ADDR: u16 = 0x07;
    pub const KERNEL_SIZE: u16 = 0x08;
    pub const KERNEL_CMDLINE: u16 = 0x09;
    pub const INITRD_ADDR: u16 = 0x0a;
    pub const INITRD_SIZE: u16 = 0x0b;
    pub const BOOT_DEVICE: u16 = 0x0c;
    pub const NUMA: u16 = 0x0d;
    pub const BOOT_MENU: u16 = 0x0e;
    pub const MAX_CPUS: u16 = 0x0f;
    pub const KERNEL_ENTRY: u16 = 0x10;
    pub const KERNEL_DATA: u16 = 0x11;
    pub const INITRD_DATA: u16 = 0x12;
    pub const CMDLINE_ADDR: u16 = 0x13;
    pub const CMDLINE_SIZE: u16 = 0x14;
    pub const CMDLINE_DATA: u16 = 0x15;
    pub const SETUP_ADDR: u16 = 0x16;
    pub const SETUP_SIZE: u16 = 0x17;
    pub const SETUP_DATA: u16 = 0x18;
    pub const FILE_DIR: u16 = 0x19;
    pub const FILE_FIRST: u16 = 0x20;
    pub const ACPI_TABLES: u16 = 0x8000;
    pub const SMBIOS_ENTRIES: u16 = 0x8001;
    pub const IRQ0_OVERRIDE: u16 = 0x8002;
    pub const E820_TABLE: u16 = 0x8003;
    pub const HPET: u16 = 0x8004;
}

/// The longest name of a file, without the final zero.
pub const MAX_FILE_NAME: usize = 55;
/// The number of file slots of a pc machine.
pub const MAX_FILES: usize = 0x20;

/// What a read of the DMA register gives: "QEMU CFG".
const DMA_SIGNATURE: u64 = 0x5145_4d55_2043_4647;
/// The selector's bits for a channel that writes, which is obsolete, and for items of the architecture.
const WRITE_CHANNEL: u16 = 0x4000;
/// Selected nothing.
const INVALID: u16 = 0xffff;

/// Bits of a DMA request's control word.
mod control {
    pub const ERROR: u32 = 0x01;
    pub const READ: u32 = 0x02;
    pub const SKIP: u32 = 0x04;
    pub const SELECT: u32 = 0x08;
    pub const WRITE: u32 = 0x10;
}

/// Makes an item's contents new; `None` leaves them.
pub type RenewCallback = Box<dyn FnMut() -> Option<Vec<u8>> + Send>;
/// Told after the guest wrote to an item: the whole contents, and where it wrote how many bytes.
pub type WriteCallback = Box<dyn FnMut(&[u8], usize, usize) + Send>;

/// Contents of an item, and what the guest may do with them.
#[derive(Default)]
pub struct Item {
    data: Vec<u8>,
    is_writable: bool,
    on_select: Option<RenewCallback>,
    on_reset: Option<RenewCallback>,
    on_write: Option<WriteCallback>,
}

impl Item {
    /// Bytes that the guest can read.
    pub fn bytes(data: impl Into<Vec<u8>>) -> Self {
        Self { data: data.into(), ..Self::default() }
    }

    /// A little-endian 16-bit number.
    pub fn u16(value: u16) -> Self {
        Self::bytes(value.to_le_bytes())
    }

    /// A little-endian 32-bit number.
    pub fn u32(value: u32) -> Self {
        Self::bytes(value.to_le_bytes())
    }

    /// A little-endian 64-bit number.
    pub fn u64(value: u64) -> Self {
        Self::bytes(value.to_le_bytes())
    }

    /// A string with a final zero.
    pub fn string(value: &str) -> Self {
        let mut data = value.as_bytes().to_vec();
        data.push(0);
        Self::bytes(data)
    }

    /// Calls `callback` each time the guest selects the item.
    #[must_use]
    pub fn on_select(mut self, callback: RenewCallback) -> Self {
        self.on_select = Some(callback);
        self
    }

    /// Calls `callback` at each reset of the machine.
    #[must_use]
    pub fn on_reset(mut self, callback: RenewCallback) -> Self {
        self.on_reset = Some(callback);
        self
    }

    /// Lets the guest write by DMA, within the length that the item has.
    #[must_use]
    pub fn writable(mut self, callback: Option<WriteCallback>) -> Self {
        self.is_writable = true;
        self.on_write = callback;
        self
    }
}

/// Why a file can't be added.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FileError {
    /// The name is empty or too long.
    #[error("fw_cfg file name '{0}' is empty or longer than {MAX_FILE_NAME} bytes")]
    BadName(String),
    /// All slots are taken.
    #[error("no fw_cfg file slot left for '{0}'")]
    NoSlot(String),
    /// There is such a file already.
    #[error("duplicate fw_cfg file name: {0}")]
    Duplicate(String),
}

/// The guest-visible state.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "fw_cfg", version = 1)]
struct FwCfgState {
    selected: u16,
    offset: u32,
    dma_address: u64,
}

/// The device.
pub struct FwCfg {
    // Wiring.
    memory: Arc<AddressSpace>,
    // Contents: given by the machine, except for what the guest wrote to writable files.
    items: Vec<(u16, Item)>,
    /// Sorted by name; the keys follow this order.
    files: Vec<(String, Item)>,
    directory: Vec<u8>,
    // Guest-visible state.
    state: FwCfgState,
}

impl FwCfg {
    /// A device with its signature, its identity (with DMA) and an empty directory. DMA goes to `memory`.
    pub fn new(memory: Arc<AddressSpace>) -> Self {
        let mut device = Self {
            memory,
            items: Vec::new(),
            files: Vec::new(),
            directory: vec![0; 4],
            state: FwCfgState { selected: 0, offset: 0, dma_address: 0 },
        };
        device.set_item(key::SIGNATURE, Item::bytes(*b"QEMU"));
        device.set_item(key::ID, Item::u32(3));
        device
    }

    /// Sets the item with number `key`, in place of an earlier one.
    pub fn set_item(&mut self, key: u16, item: Item) {
        match self.items.iter_mut().find(|(other, _)| *other == key) {
            Some(entry) => entry.1 = item,
            None => self.items.push((key, item)),
        }
    }

    /// Adds a named file.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn add_file(&mut self, name: &str, item: Item) -> Result<(), FileError> {
        if name.is_empty() || name.len() > MAX_FILE_NAME || name.contains('\0') {
            return Err(FileError::BadName(name.to_owned()));
        }
        let Err(index) = self.find_file(name) else { return Err(FileError::Duplicate(name.to_owned())) };
        if self.files.len() >= MAX_FILES {
            return Err(FileError::NoSlot(name.to_owned()));
        }
        self.files.insert(index, (name.to_owned(), item));
        self.list_files();
        Ok(())
    }

    /// Replaces the contents of the file `name`; what the guest may do with it stays. Returns whether it exists.
    pub fn replace_file(&mut self, name: &str, data: impl Into<Vec<u8>>) -> bool {
        let Ok(index) = self.find_file(name) else { return false };
        self.files[index].1.data = data.into();
        self.list_files();
        true
    }

    /// The contents of the file `name`.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        let index = self.find_file(name).ok()?;
        Some(&self.files[index].1.data)
    }

    /// The files' names, in the order of their keys.
    pub fn file_names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|(name, _)| name.as_str())
    }

    fn find_file(&self, name: &str) -> Result<usize, usize> {
        self.files.binary_search_by(|(other, _)| other.as_str().cmp(name))
    }

    /// Writes the directory: big-endian, 64 bytes for each file.
    fn list_files(&mut self) {
        self.directory.clear();
        self.directory.extend((self.files.len() as u32).to_be_bytes());
        for (index, (name, item)) in self.files.iter().enumerate() {
            self.directory.extend(u32::try_from(item.data.len()).unwrap_or(u32::MAX).to_be_bytes());
            self.directory.extend((key::FILE_FIRST + index as u16).to_be_bytes());
            self.directory.extend([0; 2]);
            let mut field = [0; MAX_FILE_NAME + 1];
            field[..name.len()].copy_from_slice(name.as_bytes());
            self.directory.extend(field);
        }
    }

    fn item_mut(&mut self, key: u16) -> Option<&mut Item> {
        let key = key & !WRITE_CHANNEL;
        if let Some(index) = key.checked_sub(key::FILE_FIRST)
            && usize::from(index) < self.files.len()
        {
            return self.files.get_mut(usize::from(index)).map(|(_, item)| item);
        }
        self.items.iter_mut().find(|(other, _)| *other == key).map(|(_, item)| item)
    }

    /// The contents of the selected item.
    fn selected(&self) -> &[u8] {
        let key = self.state.selected & !WRITE_CHANNEL;
        if key == key::FILE_DIR {
            return &self.directory;
        }
        if let Some(index) = key.checked_sub(key::FILE_FIRST)
            && let Some((_, item)) = self.files.get(usize::from(index))
        {
            return &item.data;
        }
        self.items.iter().find(|(other, _)| *other == key).map_or(&[], |(_, item)| &item.data)
    }

    fn select(&mut self, key: u16) {
        self.state.offset = 0;
        let is_known = key & !WRITE_CHANNEL == key::FILE_DIR || self.item_mut(key).is_some();
        self.state.selected = if is_known { key } else { INVALID };
        let Some(item) = self.item_mut(key) else { return };
        if renew(&mut item.data, item.on_select.as_mut()) {
            self.list_files();
        }
    }

    /// The next byte of the selected item; zero behind its end.
    fn next_byte(&mut self) -> u8 {
        let offset = self.state.offset;
        let byte = self.selected().get(offset as usize).copied();
        if byte.is_some() {
            self.state.offset = offset.saturating_add(1);
        }
        byte.unwrap_or(0)
    }

    /// Performs the DMA request at the address that was written.
    fn dma(&mut self) {
        let address = GuestAddress(std::mem::take(&mut self.state.dma_address));
        let mut request = [0; 16];
        self.memory.read(address, &mut request);
        let word = |at: usize| u32::from_be_bytes([request[at], request[at + 1], request[at + 2], request[at + 3]]);
        let (command, length) = (word(0), word(4));
        let target = u64::from(word(8)) << 32 | u64::from(word(12));
        if command & control::SELECT != 0 {
            self.select((command >> 16) as u16);
        }
        let is_done = if command & control::READ != 0 {
            self.dma_read(target, length);
            true
        } else if command & control::WRITE != 0 {
            self.dma_write(target, length)
        } else {
            if command & control::SKIP != 0 {
                let end = u32::try_from(self.selected().len()).unwrap_or(u32::MAX);
                self.state.offset = self.state.offset.saturating_add(length).min(end.max(self.state.offset));
            }
            true
        };
        let answer = if is_done { 0 } else { control::ERROR };
        self.memory.write(address, &answer.to_be_bytes());
    }

    /// Copies `length` bytes from the item to the guest, zeros behind the item's end.
    fn dma_read(&mut self, target: u64, length: u32) {
        const ZEROS: [u8; 4096] = [0; 4096];
        let offset = self.state.offset as usize;
        let rest = self.selected().get(offset..).unwrap_or(&[]);
        let copied = rest.len().min(length as usize);
        self.memory.write(GuestAddress(target), &rest[..copied]);
        self.state.offset = self.state.offset.saturating_add(copied as u32);
        let mut left = length as usize - copied;
        let mut at = target.wrapping_add(copied as u64);
        while left > 0 {
            let piece = left.min(ZEROS.len());
            self.memory.write(GuestAddress(at), &ZEROS[..piece]);
            (at, left) = (at.wrapping_add(piece as u64), left - piece);
        }
    }

    /// Copies `length` bytes from the guest to the item. Refused unless the item is writable and has the room.
    fn dma_write(&mut self, target: u64, length: u32) -> bool {
        let (selected, offset, length) = (self.state.selected, self.state.offset as usize, length as usize);
        let memory = Arc::clone(&self.memory);
        let Some(item) = self.item_mut(selected).filter(|item| item.is_writable) else { return false };
        let Some(piece) = offset.checked_add(length).and_then(|end| item.data.get_mut(offset..end)) else {
            return false;
        };
        memory.read(GuestAddress(target), piece);
        if let Some(callback) = &mut item.on_write {
            callback(&item.data, offset, length);
        }
        self.state.offset = self.state.offset.saturating_add(length as u32);
        true
    }
}

/// Makes contents new; whether their length is another one now.
fn renew(data: &mut Vec<u8>, callback: Option<&mut RenewCallback>) -> bool {
    let Some(fresh) = callback.and_then(|callback| callback()) else { return false };
    let is_resized = fresh.len() != data.len();
    *data = fresh;
    is_resized
}

impl Device for FwCfg {
    fn reset(&mut self, _kind: ResetKind) {
        self.state = FwCfgState { selected: 0, offset: 0, dma_address: 0 };
        let items = self.items.iter_mut().map(|(_, item)| item).chain(self.files.iter_mut().map(|(_, item)| item));
        let resized =
            items.map(|item| renew(&mut item.data, item.on_reset.as_mut())).filter(|resized| *resized).count();
        if resized > 0 {
            self.list_files();
        }
        self.select(key::SIGNATURE);
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {}
}

impl IoDevice for FwCfg {
    fn access_sizes(&self, region: usize) -> (AccessSize, AccessSize) {
        if region == REGION_DMA { (AccessSize::Byte, AccessSize::Qword) } else { (AccessSize::Byte, AccessSize::Word) }
    }

    fn read(&mut self, region: usize, offset: u64, size: AccessSize) -> u64 {
        match (region, size) {
            (REGION_DMA, _) => (DMA_SIGNATURE.swap_bytes() >> (8 * (offset & 7))) & size.mask(),
            (_, AccessSize::Byte) => u64::from(self.next_byte()),
            _ => 0,
        }
    }

    fn write(&mut self, region: usize, offset: u64, size: AccessSize, value: u64) {
        match (region, size, offset) {
            (REGION_DMA, AccessSize::Dword, 0) => {
                self.state.dma_address = u64::from((value as u32).swap_bytes()) << 32;
            }
            (REGION_DMA, AccessSize::Dword, 4) => {
                self.state.dma_address |= u64::from((value as u32).swap_bytes());
                self.dma();
            }
            (REGION_DMA, AccessSize::Qword, 0) => {
                self.state.dma_address = value.swap_bytes();
                self.dma();
            }
            (REGION_PORTS, AccessSize::Word, 0) => self.select(value as u16),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memory::{Backing, RamBlock, SpaceKind};
    use std::sync::mpsc;

    fn bench() -> (FwCfg, Arc<AddressSpace>) {
        let memory = Arc::new(AddressSpace::new(SpaceKind::Memory));
        let block = Arc::new(RamBlock::new("pc.ram", 0x10000).expect("RAM"));
        memory.map(GuestAddress(0), 0x10000, 0, Backing::Ram { block, offset: 0, read_only: false }).expect("map");
        (FwCfg::new(Arc::clone(&memory)), memory)
    }

    fn read(device: &mut FwCfg, key: u64, len: usize) -> Vec<u8> {
        device.write(REGION_PORTS, 0, AccessSize::Word, key);
        (0..len).map(|_| device.read(REGION_PORTS, 1, AccessSize::Byte) as u8).collect()
    }

    fn dma(device: &mut FwCfg, memory: &AddressSpace, command: u32, length: u32, target: u64) -> u32 {
        let mut request = Vec::new();
        request.extend(command.to_be_bytes());
        request.extend(length.to_be_bytes());
        request.extend(target.to_be_bytes());
        memory.write(GuestAddress(0x100), &request);
        device.write(REGION_DMA, 0, AccessSize::Dword, 0);
        device.write(REGION_DMA, 4, AccessSize::Dword, u64::from(0x100u32.swap_bytes()));
        let mut answer = [0; 4];
        memory.read(GuestAddress(0x100), &mut answer);
        u32::from_be_bytes(answer)
    }

    #[test]
    fn signature_and_identity_are_there() {
        let (mut device, _) = bench();
        assert_eq!(read(&mut device, 0, 6), b"QEMU\0\0");
        assert_eq!(read(&mut device, 1, 4), [3, 0, 0, 0]);
        assert_eq!(read(&mut device, 0x77, 2), [0, 0]);
        assert_eq!(device.read(REGION_DMA, 0, AccessSize::Dword), 0x554d_4551);
        assert_eq!(device.read(REGION_DMA, 4, AccessSize::Dword), 0x4746_4320);
    }

    #[test]
    fn directory_is_sorted_and_big_endian() {
        let (mut device, _) = bench();
        device.add_file("etc/e820", Item::bytes([1; 20])).expect("added");
        device.add_file("bootorder", Item::string("/rom")).expect("added");
        let directory = read(&mut device, 0x19, 4 + 2 * 64);
        assert_eq!(directory[..12], [0, 0, 0, 2, 0, 0, 0, 5, 0, 0x20, 0, 0]);
        assert_eq!(&directory[12..22], b"bootorder\0");
        assert_eq!(directory[68..76], [0, 0, 0, 20, 0, 0x21, 0, 0]);
        assert_eq!(read(&mut device, 0x20, 5), b"/rom\0");
        assert_eq!(device.add_file("bootorder", Item::u16(0)), Err(FileError::Duplicate("bootorder".into())));
        assert!(device.add_file(&"x".repeat(56), Item::u16(0)).is_err());
    }

    #[test]
    fn dma_selects_skips_and_reads_with_zero_padding() {
        let (mut device, memory) = bench();
        device.set_item(key::KERNEL_DATA, Item::bytes(*b"0123456789"));
        memory.write(GuestAddress(0x1000), &[0xff; 16]);
        assert_eq!(dma(&mut device, &memory, 0x0011_000c, 4, 0), 0);
        assert_eq!(dma(&mut device, &memory, 2, 8, 0x1000), 0);
        let mut bytes = [0; 10];
        memory.read(GuestAddress(0x1000), &mut bytes);
        assert_eq!(&bytes, b"456789\0\0\xff\xff");
    }

    #[test]
    fn dma_writes_only_where_it_may() {
        let (mut device, memory) = bench();
        let (send, receive) = mpsc::channel();
        let callback: WriteCallback =
            Box::new(move |data, at, len| send.send((data.to_vec(), at, len)).expect("receiver"));
        device.add_file("etc/vmcoreinfo", Item::bytes([0; 4]).writable(Some(callback))).expect("added");
        device.add_file("ro", Item::bytes([0; 4])).expect("added");
        memory.write(GuestAddress(0x2000), b"abcdef");
        assert_eq!(dma(&mut device, &memory, 0x0020_0018, 4, 0x2000), 0);
        assert_eq!(receive.try_recv(), Ok((b"abcd".to_vec(), 0, 4)));
        assert_eq!(dma(&mut device, &memory, 0x0020_0018, 5, 0x2000), control::ERROR);
        assert_eq!(dma(&mut device, &memory, 0x0021_0018, 4, 0x2000), control::ERROR);
        assert_eq!(device.file("etc/vmcoreinfo"), Some(&b"abcd"[..]));
    }

    #[test]
    fn select_callback_renews_the_contents() {
        let (mut device, _) = bench();
        let item = Item::bytes([0]).on_select(Box::new(|| Some(vec![7, 8])));
        device.add_file("etc/acpi/tables", item).expect("added");
        assert_eq!(read(&mut device, 0x20, 3), [7, 8, 0]);
        assert_eq!(read(&mut device, 0x19, 8)[7], 2);
    }

    #[test]
    fn reset_callback_renews_what_the_guest_wrote() {
        let (mut device, memory) = bench();
        let item = Item::bytes([0; 2]).writable(None).on_reset(Box::new(|| Some(vec![0; 2])));
        device.add_file("etc/smi/requested-features", item).expect("added");
        memory.write(GuestAddress(0x2000), &[5, 6]);
        assert_eq!(dma(&mut device, &memory, 0x0020_0018, 2, 0x2000), 0);
        assert_eq!(read(&mut device, 0x20, 2), [5, 6]);
        device.reset(ResetKind::Cold);
        assert_eq!(read(&mut device, 0x20, 2), [0, 0]);
    }

    #[test]
    fn dma_request_outside_of_memory_is_harmless() {
        let (mut device, memory) = bench();
        device.write(REGION_DMA, 0, AccessSize::Qword, u64::MAX);
        assert_eq!(dma(&mut device, &memory, 0x0000_000a, u32::MAX >> 12, u64::MAX - 5), 0);
        assert_eq!(read(&mut device, 0, 4), b"QEMU");
    }
}
