//! Page-table entries, page-fault codes, and the shape of the paging modes.
//!
//! Source: SDM vol. 3, 4.3 to 4.7.

/// Bits of a paging-structure entry.
pub mod entry {
    /// Present.
    pub const P: u64 = 1;
    /// Writable.
    pub const RW: u64 = 1 << 1;
    /// User accessible.
    pub const US: u64 = 1 << 2;
    /// Write-through.
    pub const PWT: u64 = 1 << 3;
    /// Cache disable.
    pub const PCD: u64 = 1 << 4;
    /// Accessed.
    pub const A: u64 = 1 << 5;
    /// Dirty; in entries that map a page.
    pub const D: u64 = 1 << 6;
    /// Maps a large page; in entries above the page table.
    pub const PS: u64 = 1 << 7;
    /// PAT index; in page-table entries.
    pub const PAT: u64 = 1 << 7;
    /// Global; in entries that map a page.
    pub const G: u64 = 1 << 8;
    /// PAT index; in entries that map a large page.
    pub const PAT_LARGE: u64 = 1 << 12;
    /// Physical address, before the processor's width is applied.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// Lowest bit of the protection key.
    pub const KEY_SHIFT: u32 = 59;
    /// No execute.
    pub const NX: u64 = 1 << 63;
}

/// Bits of a page fault's error code.
pub mod fault {
    /// The page was present: a protection violation.
    pub const P: u32 = 1;
    /// The access was a write.
    pub const W: u32 = 1 << 1;
    /// The access was a user access.
    pub const U: u32 = 1 << 2;
    /// A reserved bit was set.
    pub const RSVD: u32 = 1 << 3;
    /// The access was an instruction fetch.
    pub const I: u32 = 1 << 4;
    /// A protection key forbade it.
    pub const PK: u32 = 1 << 5;
    /// A shadow-stack access.
    pub const SS: u32 = 1 << 6;
}

/// Bytes in a small page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// A paging mode (SDM vol. 3, table 4-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagingMode {
    /// CR0.PG is clear.
    Off,
    /// Two levels of 32-bit entries.
    Bits32,
    /// Three levels of 64-bit entries, the first one loaded with CR3.
    Pae,
    /// Four levels.
    FourLevel,
    /// Five levels.
    FiveLevel,
}

impl PagingMode {
    /// The mode that the registers select.
    pub fn new(cr0: u64, cr4: u64, efer: u64) -> Self {
        use crate::crx::{cr0 as c0, cr4 as c4};
        use crate::msr::efer::LMA;
        match () {
            () if cr0 & c0::PG == 0 => PagingMode::Off,
            () if cr4 & c4::PAE == 0 => PagingMode::Bits32,
            () if efer & LMA == 0 => PagingMode::Pae,
            () if cr4 & c4::LA57 == 0 => PagingMode::FourLevel,
            () => PagingMode::FiveLevel,
        }
    }

    /// Levels of paging structures.
    pub fn levels(self) -> u32 {
        match self {
            PagingMode::Off => 0,
            PagingMode::Bits32 => 2,
            PagingMode::Pae => 3,
            PagingMode::FourLevel => 4,
            PagingMode::FiveLevel => 5,
        }
    }

    /// Bytes in an entry.
    pub fn entry_size(self) -> u64 {
        if self == PagingMode::Bits32 { 4 } else { 8 }
    }

    /// log2 of the bytes that an entry of `level` maps; level 1 is the page table.
    pub fn entry_shift(self, level: u32) -> u32 {
        PAGE_SHIFT + self.index_bits() * level.saturating_sub(1)
    }

    /// Index of the entry for `address` in a structure of `level`.
    pub fn index(self, address: u64, level: u32) -> u64 {
        // PAE has four top-level entries only.
        let bits = if self == PagingMode::Pae && level == 3 { 2 } else { self.index_bits() };
        address >> self.entry_shift(level) & ((1 << bits) - 1)
    }

    fn index_bits(self) -> u32 {
        if self == PagingMode::Bits32 { 10 } else { 9 }
    }
}

/// Whether `address` is canonical for linear addresses of `bits` (48 or 57).
pub fn is_canonical(address: u64, bits: u32) -> bool {
    let unused = 64 - bits.clamp(1, 64);
    ((address << unused) as i64 >> unused) as u64 == address
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{crx, msr};

    #[test]
    fn mode_follows_the_registers() {
        let (pg, pae, lma) = (crx::cr0::PG, crx::cr4::PAE, msr::efer::LMA);
        assert_eq!(PagingMode::new(0, pae, 0), PagingMode::Off);
        assert_eq!(PagingMode::new(pg, 0, 0), PagingMode::Bits32);
        assert_eq!(PagingMode::new(pg, pae, 0), PagingMode::Pae);
        assert_eq!(PagingMode::new(pg, pae, lma), PagingMode::FourLevel);
        assert_eq!(PagingMode::new(pg, pae | crx::cr4::LA57, lma), PagingMode::FiveLevel);
    }

    #[test]
    fn indices_split_the_address() {
        assert_eq!(PagingMode::Bits32.index(0xffc0_5000, 2), 0x3ff);
        assert_eq!(PagingMode::Bits32.index(0xffc0_5000, 1), 5);
        assert_eq!(PagingMode::Pae.index(0xc020_0000, 3), 3);
        assert_eq!(PagingMode::FourLevel.index(0xffff_8000_0000_0000, 4), 256);
        assert_eq!(PagingMode::FourLevel.entry_shift(3), 30);
        assert_eq!(PagingMode::FiveLevel.index(1 << 48, 5), 1);
    }

    #[test]
    fn canonical_addresses_repeat_the_top_bit() {
        assert!(is_canonical(0x0000_7fff_ffff_ffff, 48) && is_canonical(0xffff_8000_0000_0000, 48));
        assert!(!is_canonical(0x0000_8000_0000_0000, 48) && is_canonical(0x0000_8000_0000_0000, 57));
    }
}
