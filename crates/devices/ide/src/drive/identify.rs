//! IDENTIFY DEVICE and IDENTIFY PACKET DEVICE data (ATA8-ACS, 7.16 and 7.17), word for word as QEMU's.

use super::{Drive, DriveKind, MAX_MULTIPLE, SECTOR};

/// Ultra DMA 5, as SET FEATURES chooses it.
pub(super) const DEFAULT_MODE: u8 = 0x45;

/// The 256 words.
struct Words([u16; 256]);

impl Words {
    fn set(&mut self, index: usize, value: u16) {
        if let Some(word) = self.0.get_mut(index) {
            *word = value;
        }
    }

    fn set_many(&mut self, values: &[(usize, u16)]) {
        for (index, value) in values {
            self.set(*index, *value);
        }
    }

    /// Characters, two in a word, the first in the upper half, padded with spaces.
    fn text(&mut self, index: usize, words: usize, text: &str) {
        let mut bytes = text.bytes().chain(std::iter::repeat(b' '));
        for word in index..index + words {
            let (high, low) = (bytes.next().unwrap_or(b' '), bytes.next().unwrap_or(b' '));
            self.set(word, u16::from_be_bytes([high, low]));
        }
    }

    /// The lowest word first.
    fn number(&mut self, index: usize, words: usize, value: u64) {
        for (offset, shift) in (0..words).zip((0..64).step_by(16)) {
            self.set(index + offset, (value >> shift) as u16);
        }
    }

    fn into_bytes(self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

impl Drive<'_> {
    /// The model that the guest sees.
    pub(crate) fn model(&self) -> String {
        let default = if self.host.kind() == DriveKind::Cd { "QEMU DVD-ROM" } else { "QEMU HARDDISK" };
        self.host.options.model.clone().unwrap_or_else(|| default.to_owned())
    }

    /// The serial number that the guest sees.
    pub(crate) fn serial(&self) -> String {
        let options = &self.host.options;
        let given = options.serial.as_ref().unwrap_or(&self.host.properties.serial);
        if given.is_empty() { format!("QM{:05}", options.number) } else { given.clone() }
    }

    fn common(&self) -> Words {
        let mut words = Words([0; 256]);
        words.text(10, 10, &self.serial());
        words.set_many(&[(20, 3), (21, 512), (22, 4), (48, 1)]);
        words.text(23, 4, &self.host.options.version);
        words.text(27, 20, &self.model());
        if self.host.has_ncq {
            words.set_many(&[(75, 31), (76, 1 << 8)]);
        }
        let wwn = self.host.options.wwn;
        if wwn != 0 {
            words.set_many(&[(108, (wwn >> 48) as u16), (109, (wwn >> 32) as u16)]);
            words.set_many(&[(110, (wwn >> 16) as u16), (111, wwn as u16)]);
        }
        words
    }

    /// Words 62, 63 and 88: the modes, and which of them was chosen.
    fn modes(&self, words: &mut Words) {
        let mode = self.state.transfer_mode;
        let chosen = 1u16 << (8 + (mode & 7));
        let select = |kind: u8| if mode >> 3 == kind { chosen } else { 0 };
        words.set_many(&[(62, 0x07 | select(2)), (63, 0x07 | select(4)), (88, 0x3f | select(8))]);
    }

    pub(super) fn identify_disk(&self) -> Vec<u8> {
        let geometry = self.host.geometry();
        let [cylinders, heads, sectors] = [geometry.cylinders, u16::from(geometry.heads), u16::from(geometry.sectors)];
        let mut words = self.common();
        words.set_many(&[(0, 0x0040), (1, cylinders), (3, heads), (4, sectors.wrapping_mul(512)), (5, 512)]);
        words.set_many(&[(6, sectors), (47, 0x8000 | u16::from(MAX_MULTIPLE)), (49, 0x0b00), (51, 0x200), (52, 0x200)]);
        words.set_many(&[(53, 7), (54, cylinders), (55, heads), (56, sectors)]);
        words.number(57, 2, u64::from(cylinders) * u64::from(heads) * u64::from(sectors));
        if self.state.multiple != 0 {
            words.set(59, 0x100 | u16::from(self.state.multiple));
        }
        words.number(60, 2, self.sectors().min(0x0fff_ffff));
        self.modes(&mut words);
        words.set_many(&[(64, 3), (65, 120), (66, 120), (67, 120), (68, 120), (80, 0xf0), (81, 0x16)]);
        let wwn = if self.host.options.wwn == 0 { 0 } else { 1 << 8 };
        let write_cache = if self.host.properties.write_cache { 1 << 5 } else { 0 };
        words.set_many(&[(82, 0x4021), (83, 0x7400), (84, 0x4000 | wwn)]);
        words.set_many(&[(85, 0x4001 | write_cache), (86, 0x3400), (87, 0x4000 | wwn), (93, 0x6001)]);
        words.number(100, 4, self.sectors());
        let physical = self.host.options.physical_block_size.unwrap_or(self.host.properties.physical_block_size);
        let exponent = (physical as usize / SECTOR).max(1).ilog2() as u16;
        words.set(106, 0x6000 | (exponent & 0x0f));
        if self.host.options.discard {
            words.set_many(&[(69, 1 << 14), (169, 1)]);
        }
        words.set(217, self.host.options.rotation_rate);
        words.into_bytes()
    }

    pub(super) fn identify_packet(&self) -> Vec<u8> {
        let mut words = self.common();
        words.set_many(&[(0, 0x85c0), (49, 0x0300), (53, 7), (64, 3), (65, 0xb4), (66, 0xb4), (67, 0x12c), (68, 0xb4)]);
        self.modes(&mut words);
        words.set_many(&[(71, 30), (72, 30), (80, 0x1e)]);
        if self.host.options.wwn != 0 {
            words.set_many(&[(84, 1 << 8), (87, 1 << 8)]);
        }
        words.into_bytes()
    }
}
