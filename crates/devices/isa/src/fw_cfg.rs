//! fw_cfg: how the machine tells firmware and guests what it is made of (QEMU, `docs/specs/fw_cfg.rst`).
//!
//! Ports: selector (2 bytes, write-only) and data (1 byte) at the first region, the big-endian DMA address register
//! (8 bytes) at the second. Items are read-only for the guest; what it writes to the data port is ignored.

use std::collections::BTreeMap;
use std::sync::Arc;

use device::{AccessSize, Device, DeviceState, IoDevice, ResetKind};
use memory::{AddressSpace, GuestAddress};
use state::State;

/// Keys with a fixed meaning.
#[expect(missing_docs, reason = "the names are those of the specification")]
pub mod key {
    pub const SIGNATURE: u16 = 0x00;
    pub const ID: u16 = 0x01;
    pub const UUID: u16 = 0x02;
    pub const RAM_SIZE: u16 = 0x03;
    pub const NOGRAPHIC: u16 = 0x04;
    pub const NB_CPUS: u16 = 0x05;
    pub const KERNEL_ADDR: u16 = 0x07;
    pub const KERNEL_SIZE: u16 = 0x08;
    pub const INITRD_ADDR: u16 = 0x0a;
    pub const INITRD_SIZE: u16 = 0x0b;
    pub const NUMA: u16 = 0x0d;
    pub const BOOT_MENU: u16 = 0x0e;
    pub const MAX_CPUS: u16 = 0x0f;
    pub const KERNEL_DATA: u16 = 0x11;
    pub const INITRD_DATA: u16 = 0x12;
    pub const CMDLINE_ADDR: u16 = 0x13;
    pub const CMDLINE_SIZE: u16 = 0x14;
    pub const CMDLINE_DATA: u16 = 0x15;
    pub const FILE_DIR: u16 = 0x19;
    pub const FILE_FIRST: u16 = 0x20;
    pub const IRQ0_OVERRIDE: u16 = 0x8002;
}

/// The revision item: bit 0 the traditional interface, bit 1 DMA.
const FEATURES: u32 = 3;
/// What the DMA address register reads: "QEMU CFG".
const DMA_SIGNATURE: u64 = 0x5145_4d55_2043_4647;
/// Selecting this reads nothing.
const INVALID: u16 = 0xffff;
/// The longest file name, without its final zero byte.
const NAME_MAX: usize = 55;

/// DMA control bits.
mod dma {
    pub const ERROR: u32 = 1;
    pub const READ: u32 = 1 << 1;
    pub const SKIP: u32 = 1 << 2;
    pub const SELECT: u32 = 1 << 3;
    pub const WRITE: u32 = 1 << 4;
}

/// The region of the selector and data ports (2 ports).
pub const PORTS: usize = 0;
/// The region of the DMA address register (8 ports).
pub const DMA: usize = 1;

/// The guest-visible state.
#[derive(Clone, Debug, Default, State)]
#[state(name = "fw_cfg", version = 2)]
struct Selection {
    current_entry: u16,
    current_offset: u32,
    dma_address: u64,
}

/// The device.
pub struct FwCfg {
    // Configuration.
    items: BTreeMap<u16, Arc<[u8]>>,
    files: BTreeMap<String, Arc<[u8]>>,
    // Wiring.
    memory: Arc<AddressSpace>,
    // Guest-visible state.
    selection: Selection,
}

impl FwCfg {
    /// A device without items but its own; `memory` is where DMA goes.
    pub fn new(memory: Arc<AddressSpace>) -> Self {
        let mut fw_cfg =
            Self { items: BTreeMap::new(), files: BTreeMap::new(), memory, selection: Selection::default() };
        fw_cfg.add(key::SIGNATURE, b"QEMU".to_vec());
        fw_cfg.add(key::ID, FEATURES.to_le_bytes().to_vec());
        fw_cfg.rebuild_directory();
        fw_cfg
    }

    /// Sets the item `key`.
    pub fn add(&mut self, key: u16, bytes: impl Into<Arc<[u8]>>) {
        self.items.insert(key, bytes.into());
    }

    /// Sets a 16-bit item.
    pub fn add_u16(&mut self, key: u16, value: u16) {
        self.add(key, value.to_le_bytes().to_vec());
    }

    /// Sets a 32-bit item.
    pub fn add_u32(&mut self, key: u16, value: u32) {
        self.add(key, value.to_le_bytes().to_vec());
    }

    /// Sets a 64-bit item.
    pub fn add_u64(&mut self, key: u16, value: u64) {
        self.add(key, value.to_le_bytes().to_vec());
    }

    /// Sets the file `name`, up to 55 bytes: `etc/e820`, `opt/…`. Longer names are cut.
    pub fn add_file(&mut self, name: &str, bytes: impl Into<Arc<[u8]>>) {
        let name: String = name.chars().take(NAME_MAX).collect();
        self.files.insert(name, bytes.into());
        self.rebuild_directory();
    }

    /// Numbers the files in the order of their names and writes the directory.
    fn rebuild_directory(&mut self) {
        self.items.retain(|key, _| !(key::FILE_FIRST..0x4000).contains(key));
        let mut directory = (self.files.len() as u32).to_be_bytes().to_vec();
        for ((name, bytes), key) in self.files.iter().zip(key::FILE_FIRST..) {
            directory.extend((bytes.len() as u32).to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0, 0]);
            let mut field = [0; NAME_MAX + 1];
            field[..name.len().min(NAME_MAX)].copy_from_slice(&name.as_bytes()[..name.len().min(NAME_MAX)]);
            directory.extend(field);
            self.items.insert(key, Arc::clone(bytes));
        }
        self.add(key::FILE_DIR, directory);
    }

    fn select(&mut self, key: u16) {
        let known = self.items.contains_key(&key);
        self.selection.current_entry = if known { key } else { INVALID };
        self.selection.current_offset = 0;
    }

    /// The rest of the selected item from the current offset.
    fn rest(&self) -> &[u8] {
        let item = self.items.get(&self.selection.current_entry);
        item.and_then(|bytes| bytes.get(self.selection.current_offset as usize..)).unwrap_or_default()
    }

    fn read_byte(&mut self) -> u8 {
        let Some(&byte) = self.rest().first() else { return 0 };
        self.selection.current_offset += 1;
        byte
    }

    /// Executes the DMA command whose descriptor lies at the address that the guest wrote.
    fn run_dma(&mut self) {
        let at = std::mem::take(&mut self.selection.dma_address);
        let mut descriptor = [0; 16];
        self.memory.read(GuestAddress(at), &mut descriptor);
        let word = |index: usize| u32::from_be_bytes([0, 1, 2, 3].map(|byte| descriptor[4 * index + byte]));
        let (control, length) = (word(0), word(1));
        let target = u64::from(word(2)) << 32 | u64::from(word(3));
        if control & dma::SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let mut failed = 0;
        if control & dma::READ != 0 {
            self.dma_read(target, length);
        } else if control & dma::WRITE != 0 {
            // No item can be written.
            failed = dma::ERROR;
        } else if control & dma::SKIP != 0 {
            self.selection.current_offset = self.selection.current_offset.saturating_add(length);
        }
        self.memory.write(GuestAddress(at), &u32::to_be_bytes(failed));
    }

    /// Copies `length` bytes of the selected item; zeros follow its end.
    fn dma_read(&mut self, target: u64, length: u32) {
        const PIECE: usize = 64 << 10;
        let available = self.rest().len().min(length as usize);
        self.memory.write(GuestAddress(target), &self.rest()[..available]);
        let zeros = vec![0; PIECE.min(length as usize - available)];
        let mut done = available;
        while done < length as usize {
            let piece = zeros.len().min(length as usize - done);
            self.memory.write(GuestAddress(target.wrapping_add(done as u64)), &zeros[..piece]);
            done += piece;
        }
        self.selection.current_offset = self.selection.current_offset.saturating_add(length);
    }
}

impl Device for FwCfg {
    fn reset(&mut self, _: ResetKind) {
        self.selection = Selection::default();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.selection)
    }

    fn restored(&mut self) {}
}

impl IoDevice for FwCfg {
    fn access_sizes(&self, region: usize) -> (AccessSize, AccessSize) {
        match region {
            PORTS => (AccessSize::Byte, AccessSize::Word),
            _ => (AccessSize::Dword, AccessSize::Qword),
        }
    }

    fn read(&mut self, region: usize, offset: u64, size: AccessSize) -> u64 {
        match (region, offset, size) {
            (PORTS, 1, AccessSize::Byte) => u64::from(self.read_byte()),
            (PORTS, ..) => 0,
            // The register is big-endian: a 4-byte access at 0 is the high half.
            (_, 0, AccessSize::Qword) => DMA_SIGNATURE.swap_bytes(),
            (_, 0, _) => u64::from(((DMA_SIGNATURE >> 32) as u32).swap_bytes()),
            _ => u64::from((DMA_SIGNATURE as u32).swap_bytes()),
        }
    }

    fn write(&mut self, region: usize, offset: u64, size: AccessSize, value: u64) {
        match (region, offset, size) {
            (PORTS, 0, AccessSize::Word) => self.select(value as u16),
            (PORTS, ..) => {}
            (_, 0, AccessSize::Qword) => {
                self.selection.dma_address = value.swap_bytes();
                self.run_dma();
            }
            (_, 0, AccessSize::Dword) => {
                self.selection.dma_address = u64::from((value as u32).swap_bytes()) << 32;
            }
            (_, 4, AccessSize::Dword) => {
                self.selection.dma_address |= u64::from((value as u32).swap_bytes());
                self.run_dma();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memory::{Backing, RamBlock, SpaceKind};

    fn fw_cfg() -> (FwCfg, Arc<AddressSpace>) {
        let memory = Arc::new(AddressSpace::new(SpaceKind::Memory));
        let block = Arc::new(RamBlock::new("test", 0x10000).expect("RAM"));
        memory.map(GuestAddress(0), 0x10000, 0, Backing::Ram { block, offset: 0, read_only: false }).expect("map");
        (FwCfg::new(Arc::clone(&memory)), memory)
    }

    fn read_item(fw_cfg: &mut FwCfg, key: u16, len: usize) -> Vec<u8> {
        fw_cfg.write(PORTS, 0, AccessSize::Word, u64::from(key));
        (0..len).map(|_| fw_cfg.read(PORTS, 1, AccessSize::Byte) as u8).collect()
    }

    #[test]
    fn selected_item_reads_byte_by_byte_then_zeros() {
        let (mut fw_cfg, _memory) = fw_cfg();
        assert_eq!(read_item(&mut fw_cfg, key::SIGNATURE, 6), b"QEMU\0\0");
        assert_eq!(read_item(&mut fw_cfg, 0x1234, 2), [0, 0]);
    }

    #[test]
    fn directory_lists_files_sorted_with_their_keys() {
        let (mut fw_cfg, _memory) = fw_cfg();
        fw_cfg.add_file("opt/z", vec![1, 2, 3]);
        fw_cfg.add_file("etc/e820", vec![9; 20]);
        let directory = read_item(&mut fw_cfg, key::FILE_DIR, 4 + 2 * 64);
        assert_eq!(directory[..12], [0, 0, 0, 2, 0, 0, 0, 20, 0, 0x20, 0, 0]);
        assert!(directory[12..].starts_with(b"etc/e820\0"));
        assert_eq!(directory[68..74], [0, 0, 0, 3, 0, 0x21]);
        assert_eq!(read_item(&mut fw_cfg, 0x21, 3), [1, 2, 3]);
    }

    #[test]
    fn dma_read_selects_copies_and_clears_the_control_word() {
        let (mut fw_cfg, memory) = fw_cfg();
        fw_cfg.add_file("opt/x", vec![1, 2, 3, 4]);
        let mut command = (0x20_u32 << 16 | 8 | 2).to_be_bytes().to_vec();
        command.extend(6_u32.to_be_bytes());
        command.extend(0x2000_u64.to_be_bytes());
        memory.write(GuestAddress(0x1000), &command);
        memory.write(GuestAddress(0x2000), &[0xff; 8]);
        fw_cfg.write(DMA, 0, AccessSize::Dword, 0);
        fw_cfg.write(DMA, 4, AccessSize::Dword, u64::from(0x1000_u32.swap_bytes()));
        let mut bytes = [0; 8];
        memory.read(GuestAddress(0x2000), &mut bytes);
        assert_eq!(bytes, [1, 2, 3, 4, 0, 0, 0xff, 0xff]);
        assert_eq!(memory.load(GuestAddress(0x1000), AccessSize::Dword), 0);
        // A write is refused.
        memory.write(GuestAddress(0x1000), &(0x20_u32 << 16 | 8 | 16).to_be_bytes());
        fw_cfg.write(DMA, 0, AccessSize::Qword, 0x1000_u64.swap_bytes());
        assert_eq!(memory.load(GuestAddress(0x1000), AccessSize::Dword), 1 << 24);
        assert_eq!(fw_cfg.read(DMA, 0, AccessSize::Dword), u64::from(0x5145_4d55_u32.swap_bytes()));
    }
}
