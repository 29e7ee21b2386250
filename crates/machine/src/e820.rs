//! The memory map that firmware tells an operating system (ACPI specification, 15: INT 15h E820h).

use std::ops::Range;

use x86::cpuid::Vendor;

/// HyperTransport (AMD's BIOS and kernel developer's guides): the last 12 GiB of 40 bits.
const HYPER_TRANSPORT: (u64, u64) = (0xfd_0000_0000, 0x3_0000_0000);

/// What a range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum E820Kind {
    /// Usable RAM.
    Usable = 1,
    /// Not to be used.
    Reserved = 2,
}

/// One range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// What it is.
    pub kind: E820Kind,
}

impl E820Entry {
    /// The 20 bytes of the table: base, length, type.
    pub fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&self.start.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.len.to_le_bytes());
        bytes[16..].copy_from_slice(&(self.kind as u32).to_le_bytes());
        bytes
    }
}

/// The map, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct E820(Vec<E820Entry>);

impl E820 {
    /// The map of a PC with `low` bytes of RAM from 0, of which the last `tables` hold firmware tables, and `high`
    /// bytes from 4 GiB. Processors of AMD and Hygon keep addresses for their interconnect.
    pub fn pc(low: u64, tables: u64, high: u64, vendor: Vendor) -> Self {
        use E820Kind::{Reserved, Usable};
        let entry = |start: u64, end: u64, kind| E820Entry { start, len: end.saturating_sub(start), kind };
        let mut entries = vec![
            entry(0, 0x9_fc00, Usable),
            entry(0x9_fc00, 0xa_0000, Reserved),
            entry(0xf_0000, 0x10_0000, Reserved),
            entry(0x10_0000, low.saturating_sub(tables), Usable),
            entry(low.saturating_sub(tables), low, Reserved),
            entry(0xfffc_0000, 0x1_0000_0000, Reserved),
        ];
        if high > 0 {
            entries.push(entry(1 << 32, (1 << 32) + high, Usable));
        }
        if matches!(vendor, Vendor::Amd | Vendor::Hygon) {
            let (start, len) = HYPER_TRANSPORT;
            entries.push(E820Entry { start, len, kind: Reserved });
        }
        entries.retain(|entry| entry.len > 0);
        Self(entries)
    }

    /// Reserves addresses that no other range covers.
    #[must_use]
    pub fn with_reserved(mut self, range: Range<u64>) -> Self {
        let at = self.0.partition_point(|entry| entry.start < range.start);
        let len = range.end.saturating_sub(range.start);
        self.0.insert(at, E820Entry { start: range.start, len, kind: E820Kind::Reserved });
        self
    }

    /// What firmware is told: the RAM, and before it what processors of AMD and Hygon keep.
    pub fn for_firmware(low: u64, high: u64, vendor: Vendor) -> Self {
        let mut map = Self::ram(low, high);
        if matches!(vendor, Vendor::Amd | Vendor::Hygon) {
            let (start, len) = HYPER_TRANSPORT;
            map.0.insert(0, E820Entry { start, len, kind: E820Kind::Reserved });
        }
        map
    }

    /// Just the RAM: `low` bytes from 0 and `high` bytes from 4 GiB.
    pub fn ram(low: u64, high: u64) -> Self {
        let ranges = [(0, low), (1 << 32, high)].into_iter().filter(|(_, len)| *len > 0);
        Self(ranges.map(|(start, len)| E820Entry { start, len, kind: E820Kind::Usable }).collect())
    }

    /// The ranges.
    pub fn entries(&self) -> &[E820Entry] {
        &self.0
    }

    /// KiB of usable RAM from address 0.
    pub fn conventional_kib(&self) -> u64 {
        self.0.first().map_or(0, |first| first.len >> 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_range_is_inserted_in_order() {
        let map = E820::pc(0x800_0000, 0x2_0000, 0, Vendor::Intel).with_reserved(0xfeff_c000..0xff00_0000);
        assert!(map.entries().is_sorted_by_key(|entry| entry.start));
        let reserved = E820Entry { start: 0xfeff_c000, len: 0x4000, kind: E820Kind::Reserved };
        assert!(map.entries().contains(&reserved));
    }
}
