//! Message-signalled interrupts: the MSI and MSI-X capabilities (PCI Local Bus Specification 3.0, 6.8).

use device::AccessSize;
use state::State;

use crate::config::{Bar, BarKind, ConfigSpace};

/// The capability number of MSI.
pub const MSI: u8 = 0x05;
/// The capability number of MSI-X.
pub const MSIX: u8 = 0x11;

/// A message: where to write what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// The address.
    pub address: u64,
    /// The data.
    pub data: u32,
}

/// Where messages go: the interrupt controllers. Its rank is that of an interrupt router.
pub trait MsiSink: Send + Sync {
    /// Delivers a message.
    fn deliver(&self, message: MsiMessage);
}

/// An MSI capability in a function's configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    offset: u8,
    form: MsiForm,
}

/// What an MSI capability has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MsiForm {
    /// Addresses of 64 bits and no masks.
    Wide,
    /// Addresses of 32 bits and masks.
    Masked,
}

impl Msi {
    /// Bytes that the capability takes.
    pub const LEN: u8 = 14;
    /// Bytes that the capability with masks takes.
    const MASKED_LEN: u8 = 20;
    /// Registers of the capability with masks.
    const MASK: u8 = 12;
    const PENDING: u8 = 16;

    /// Adds the capability at `offset`, for `1 << log2_vectors` vectors (at most 32), with addresses of 64 bits and without
    /// masks.
    pub fn add(config: &mut ConfigSpace, offset: u8, log2_vectors: u8) -> Self {
        config.add_capability(MSI, offset, Self::LEN);
        config.set_u16(offset + 2, 0x80 | u16::from(log2_vectors.min(5)) << 1);
        config.allow_u16(offset + 2, 0x71);
        config.allow_u32(offset + 4, 0xffff_fffc);
        config.allow_u32(offset + 8, u32::MAX);
        config.allow_u16(offset + 12, u16::MAX);
        Self { offset, form: MsiForm::Wide }
    }

    /// Adds the capability at `offset` for two vectors, with addresses of 32 bits and with masks.
    pub fn add_masked(config: &mut ConfigSpace, offset: u8) -> Self {
        config.add_capability(MSI, offset, Self::MASKED_LEN);
        config.set_u16(offset + 2, 0x0102);
        config.allow_u16(offset + 2, 0x0011);
        config.allow_u32(offset + 4, 0xffff_fffc);
        config.allow_u16(offset + 8, u16::MAX);
        config.allow_u32(offset + Self::MASK, 3);
        Self { offset, form: MsiForm::Masked }
    }

    /// Whether the guest switched from the interrupt pin to messages.
    pub fn is_enabled(&self, config: &ConfigSpace) -> bool {
        config.u8(self.offset + 2) & 1 != 0
    }

    /// The message of a vector; `None` while disabled. Vectors beyond what the guest allowed share the low ones.
    pub fn message(&self, config: &ConfigSpace, vector: u32) -> Option<MsiMessage> {
        if !self.is_enabled(config) {
            return None;
        }
        let allowed = 1u32 << ((config.u8(self.offset + 2) >> 4) & 7).min(5);
        let low = u64::from(config.u32(self.offset + 4));
        let (address, data) = match self.form {
            MsiForm::Wide => (u64::from(config.u32(self.offset + 8)) << 32 | low, config.u16(self.offset + 12)),
            MsiForm::Masked => (low, config.u16(self.offset + 8)),
        };
        Some(MsiMessage { address, data: (u32::from(data) & !(allowed - 1)) | (vector & (allowed - 1)) })
    }

    /// Raises a vector: its message, or `None` when MSI is off, or the vector is masked and so now pending.
    pub fn raise(&self, config: &mut ConfigSpace, vector: u32) -> Option<MsiMessage> {
        let message = self.message(config, vector)?;
        let bit = 1 << (vector & 31);
        if self.form == MsiForm::Masked && config.u32(self.offset + Self::MASK) & bit != 0 {
            let pending = config.u32(self.offset + Self::PENDING) | bit;
            self.store_pending(config, pending);
            return None;
        }
        Some(message)
    }

    /// The messages of vectors that are pending and not masked any more; call it after a write of the capability.
    pub fn take_unmasked(&self, config: &mut ConfigSpace) -> Vec<MsiMessage> {
        if self.form != MsiForm::Masked || !self.is_enabled(config) {
            return Vec::new();
        }
        let (mask, pending) = (config.u32(self.offset + Self::MASK), config.u32(self.offset + Self::PENDING));
        self.store_pending(config, pending & mask);
        (0..32)
            .filter(|vector| pending & !mask & 1 << vector != 0)
            .filter_map(|vector| self.message(config, vector))
            .collect()
    }

    fn store_pending(&self, config: &mut ConfigSpace, pending: u32) {
        for (at, byte) in (self.offset + Self::PENDING..).zip(pending.to_le_bytes()) {
            config.store_u8(at, byte);
        }
    }
}

/// The most vectors of an MSI-X table.
pub const MSIX_MAX_VECTORS: usize = 2048;
const ENTRY_LEN: usize = 16;
const MASKED: u8 = 1;

/// An MSI-X capability with its table and pending bits.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "msix", version = 1)]
pub struct Msix {
    #[state(skip = "configuration of the model")]
    offset: u8,
    /// Where the pending bits are in a base address register that holds both.
    #[state(skip = "configuration of the model")]
    pending_at: u64,
    #[state(max_len = 32768)]
    table: Vec<u8>,
    #[state(max_len = 2048)]
    pending: Vec<u8>,
}

/// Where a part of MSI-X is: a base address register and an offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixPlace {
    /// The base address register.
    pub bar: u8,
    /// The offset, a multiple of 8.
    pub offset: u32,
}

impl Msix {
    /// Bytes that the capability takes.
    pub const LEN: u8 = 12;

    /// Adds the capability at `offset` with `vectors` vectors (at least 1, at most [`MSIX_MAX_VECTORS`]).
    pub fn add(config: &mut ConfigSpace, offset: u8, vectors: usize, table: MsixPlace, pending: MsixPlace) -> Self {
        let vectors = vectors.clamp(1, MSIX_MAX_VECTORS);
        config.add_capability(MSIX, offset, Self::LEN);
        config.set_u16(offset + 2, (vectors - 1) as u16);
        config.allow_u16(offset + 2, 0xc000);
        config.set_u32(offset + 4, table.offset & !7 | u32::from(table.bar & 7));
        config.set_u32(offset + 8, pending.offset & !7 | u32::from(pending.bar & 7));
        let mut msix = Self {
            offset,
            pending_at: u64::from(pending.offset & !7),
            table: vec![0; vectors * ENTRY_LEN],
            pending: vec![0; vectors.div_ceil(8)],
        };
        msix.reset();
        msix
    }

    /// Adds the capability at `offset` with its parts in a base address register of their own, number `bar`: the table
    /// first, and the pending bits in the middle of 4 KiB, or behind a table that is longer, as QEMU has it. Accesses
    /// to the register's window are [`Msix::read_window`] and [`Msix::write_window`].
    pub fn add_with_bar(config: &mut ConfigSpace, offset: u8, vectors: usize, bar: u8) -> Self {
        let vectors = vectors.clamp(1, MSIX_MAX_VECTORS);
        let pending_at = (vectors * ENTRY_LEN).max(2048);
        let size = (pending_at + vectors.div_ceil(64) * 8).max(4096).next_power_of_two();
        config.add_bar(usize::from(bar), Bar { kind: BarKind::Memory32, size: size as u64 });
        let place = |offset: usize| MsixPlace { bar, offset: offset as u32 };
        Self::add(config, offset, vectors, place(0), place(pending_at))
    }

    /// A read of the register's window, see [`Msix::add_with_bar`].
    pub fn read_window(&self, offset: u64, size: AccessSize) -> u64 {
        match offset.checked_sub(self.pending_at) {
            Some(offset) => self.read_pending(offset, size),
            None => self.read_table(offset, size),
        }
    }

    /// A write of the register's window. The pending bits are read-only. [`Msix::take_unmasked`] tells what it let
    /// through.
    pub fn write_window(&mut self, offset: u64, size: AccessSize, value: u64) {
        if offset < self.pending_at {
            self.write_table(offset, size, value);
        }
    }

    /// All vectors masked, none pending.
    pub fn reset(&mut self) {
        self.table.fill(0);
        self.table.iter_mut().skip(12).step_by(ENTRY_LEN).for_each(|byte| *byte = MASKED);
        self.pending.fill(0);
    }

    /// The number of vectors.
    pub fn vectors(&self) -> usize {
        self.table.len() / ENTRY_LEN
    }

    /// Whether the guest switched from the interrupt pin to MSI-X.
    pub fn is_enabled(&self, config: &ConfigSpace) -> bool {
        config.u8(self.offset + 3) & 0x80 != 0
    }

    fn is_masked(&self, config: &ConfigSpace, vector: usize) -> bool {
        let entry = self.table.get(vector * ENTRY_LEN + 12).copied().unwrap_or(MASKED);
        config.u8(self.offset + 3) & 0x40 != 0 || entry & MASKED != 0
    }

    fn message(&self, vector: usize) -> Option<MsiMessage> {
        let entry = self.table.get(vector * ENTRY_LEN..(vector + 1) * ENTRY_LEN)?;
        let word = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
        Some(MsiMessage { address: u64::from(word(4)) << 32 | u64::from(word(0) & !3), data: word(8) })
    }

    /// Raises a vector: its message, or `None` when MSI-X is off, the vector is unknown, or masked and so now pending.
    pub fn raise(&mut self, config: &ConfigSpace, vector: usize) -> Option<MsiMessage> {
        if !self.is_enabled(config) {
            return None;
        }
        if self.is_masked(config, vector) {
            if vector < self.vectors()
                && let Some(byte) = self.pending.get_mut(vector / 8)
            {
                *byte |= 1 << (vector % 8);
            }
            return None;
        }
        self.message(vector)
    }

    /// The messages of vectors that are pending and not masked any more; call it after a write of the table or of the
    /// capability.
    pub fn take_unmasked(&mut self, config: &ConfigSpace) -> Vec<MsiMessage> {
        if !self.is_enabled(config) || self.pending.iter().all(|byte| *byte == 0) {
            return Vec::new();
        }
        let mut messages = Vec::new();
        for vector in 0..self.vectors() {
            let (index, bit) = (vector / 8, 1 << (vector % 8));
            let is_pending = self.pending.get(index).is_some_and(|byte| byte & bit != 0);
            if is_pending && !self.is_masked(config, vector) {
                self.pending[index] &= !bit;
                messages.extend(self.message(vector));
            }
        }
        messages
    }

    /// A read of the table.
    pub fn read_table(&self, offset: u64, size: AccessSize) -> u64 {
        read_bytes(&self.table, offset, size)
    }

    /// A write of the table; [`Msix::take_unmasked`] tells what it let through.
    pub fn write_table(&mut self, offset: u64, size: AccessSize, value: u64) {
        let Ok(offset) = usize::try_from(offset) else { return };
        let bytes = value.to_le_bytes();
        for (index, byte) in bytes[..size.bytes()].iter().enumerate() {
            if let Some(entry) = offset.checked_add(index).and_then(|at| self.table.get_mut(at)) {
                *entry = *byte;
            }
        }
    }

    /// A read of the pending bits.
    pub fn read_pending(&self, offset: u64, size: AccessSize) -> u64 {
        read_bytes(&self.pending, offset, size)
    }
}

fn read_bytes(from: &[u8], offset: u64, size: AccessSize) -> u64 {
    let byte = |index: u64| {
        let at = usize::try_from(offset.checked_add(index)?).ok()?;
        from.get(at).copied()
    };
    (0..size.bytes() as u64).fold(0, |value, index| value | u64::from(byte(index).unwrap_or(0)) << (8 * index))
}
