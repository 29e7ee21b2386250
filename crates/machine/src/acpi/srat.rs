//! The tables of a NUMA machine: SRAT (ACPI 4.0, 5.2.16), SLIT (5.2.17) and HMAT (ACPI 6.3, 5.2.27).

use acpi_tables::sdt::Sdt;

use super::table;
use crate::numa::{DataType, LatencyBandwidth, Numa};

/// Where addresses that are no memory begin and end: video memory and ROMs.
const HOLE: (u64, u64) = (0xa_0000, 0x10_0000);
const FOUR_GIB: u64 = 1 << 32;

/// What the tables tell.
#[derive(Clone, Debug)]
pub struct NumaTables {
    /// The nodes.
    pub numa: Numa,
    /// Bytes of RAM below 4 GiB.
    pub low: u64,
    /// Bytes of RAM from 4 GiB.
    pub high: u64,
    /// Where memory may be plugged: first address and length.
    pub hotplug: Option<(u64, u64)>,
}

/// Flags of a memory affinity structure.
mod flags {
    pub const ENABLED: u32 = 1;
    pub const HOTPLUGGABLE: u32 = 1 << 1;
}

impl NumaTables {
    /// The tables, in the order of the RSDT. `apic_ids` are those of all possible processors.
    pub fn tables(&self, apic_ids: &[u32]) -> Vec<Sdt> {
        let mut tables = vec![self.srat(apic_ids)];
        if let Some(distances) = self.numa.distances() {
            let mut slit = table(*b"SLIT", 1, 36);
            slit.append_slice(&(self.numa.len() as u64).to_le_bytes());
            slit.append_slice(&distances);
            tables.push(slit);
        }
        if self.numa.has_hmat {
            tables.push(self.hmat());
        }
        tables
    }

    fn srat(&self, apic_ids: &[u32]) -> Sdt {
        let mut srat = table(*b"SRAT", 1, 48);
        srat.write_u32(36, 1);
        for (index, id) in apic_ids.iter().enumerate() {
            let node = u32::from(self.numa.node_of(index).unwrap_or(0));
            if *id < 255 {
                srat.append_slice(&[0, 16, node as u8, *id as u8, 1, 0, 0, 0]);
                srat.append_slice(&[0; 8]);
            } else {
                srat.append_slice(&[2, 24, 0, 0]);
                for value in [node, *id, 1, 0, 0] {
                    srat.append_slice(&value.to_le_bytes());
                }
            }
        }
        let ranges = self.ranges();
        for (node, start, len) in &ranges {
            memory(&mut srat, *node, (*start, *len), flags::ENABLED);
        }
        // Old guests want as many entries as there may be.
        for _ in ranges.len()..self.numa.len() + 2 {
            memory(&mut srat, 0, (0, 0), 0);
        }
        if let Some(range) = self.hotplug {
            let last = self.numa.len().saturating_sub(1) as u32;
            memory(&mut srat, last, range, flags::HOTPLUGGABLE | flags::ENABLED);
        }
        srat
    }

    /// The memory of each node, around the holes: node, first address, length.
    fn ranges(&self) -> Vec<(u32, u64, u64)> {
        let mut ranges = Vec::new();
        // RAM has no hole at 640 KiB, but what lies there is not for guests.
        let usable = [(0, HOLE.0), (HOLE.1, self.low), (FOUR_GIB, FOUR_GIB.saturating_add(self.high))];
        let mut offset = 0_u64;
        for (number, node) in self.numa.nodes().enumerate() {
            let (from, to) = (offset, offset.saturating_add(node.memory));
            offset = to;
            for (start, end) in usable {
                // Offsets into RAM are addresses below 4 GiB, and go on behind the hole there.
                let shift = if start == FOUR_GIB { FOUR_GIB - self.low.min(FOUR_GIB) } else { 0 };
                let first = from.saturating_add(shift).max(start);
                let last = to.saturating_add(shift).min(end);
                let is_there = from.max(start.saturating_sub(shift)) < to.min(end.saturating_sub(shift));
                if is_there && first < last {
                    ranges.push((number as u32, first, last - first));
                }
            }
        }
        ranges
    }

    fn hmat(&self) -> Sdt {
        const NO_INITIATOR: u32 = 128;
        let mut hmat = table(*b"HMAT", 2, 40);
        for (number, node) in self.numa.nodes().enumerate() {
            hmat.append_slice(&[0, 0, 0, 0, 40, 0, 0, 0]);
            hmat.append_slice(&[u8::from(node.initiator.is_some()), 0, 0, 0]);
            for value in [node.initiator.map_or(NO_INITIATOR, u32::from), number as u32, 0] {
                hmat.append_slice(&value.to_le_bytes());
            }
            hmat.append_slice(&[0; 16]);
        }
        let initiators: Vec<u16> =
            self.numa.nodes().zip(0_u16..).filter(|(node, _)| node.has_cpu).map(|(_, number)| number).collect();
        for list in self.numa.latency_bandwidth() {
            if !list.entries.is_empty() {
                latency_bandwidth(&mut hmat, list, &initiators, self.numa.len() as u32);
            }
        }
        for cache in self.numa.caches() {
            let levels = self.numa.caches().filter(|other| other.node == cache.node).count() as u32;
            let attributes = levels
                | u32::from(cache.level) << 4
                | u32::from(cache.associativity) << 8
                | u32::from(cache.policy) << 12
                | u32::from(cache.line) << 16;
            hmat.append_slice(&[2, 0, 0, 0, 32, 0, 0, 0]);
            hmat.append_slice(&cache.node.to_le_bytes());
            hmat.append_slice(&[0; 4]);
            hmat.append_slice(&cache.size.to_le_bytes());
            hmat.append_slice(&attributes.to_le_bytes());
            hmat.append_slice(&[0; 4]);
        }
        hmat
    }
}

/// A memory affinity structure.
fn memory(srat: &mut Sdt, node: u32, (start, len): (u64, u64), flags: u32) {
    srat.append_slice(&[1, 40]);
    srat.append_slice(&node.to_le_bytes());
    srat.append_slice(&[0; 2]);
    srat.append_slice(&start.to_le_bytes());
    srat.append_slice(&len.to_le_bytes());
    srat.append_slice(&[0; 4]);
    srat.append_slice(&flags.to_le_bytes());
    srat.append_slice(&[0; 8]);
}

/// A system locality latency and bandwidth information structure.
fn latency_bandwidth(hmat: &mut Sdt, list: &LatencyBandwidth, initiators: &[u16], targets: u32) {
    const MIB: u64 = 1 << 20;
    let count = initiators.len() as u32;
    let len = 32 + 4 * count + 4 * targets + 2 * count * targets;
    hmat.append_slice(&[1, 0, 0, 0]);
    hmat.append_slice(&len.to_le_bytes());
    hmat.append_slice(&[list.hierarchy, list.data_type as u8, 0, 0]);
    for value in [count, targets, 0] {
        hmat.append_slice(&value.to_le_bytes());
    }
    // Picoseconds, or mebibytes per second. All values may be 0: then there was no unit.
    let is_latency = list.data_type <= DataType::WriteLatency;
    let unit = if is_latency { u64::from(list.base.wrapping_mul(1000) as u32) } else { list.base / MIB };
    hmat.append_slice(&unit.to_le_bytes());
    for initiator in initiators {
        hmat.append_slice(&u32::from(*initiator).to_le_bytes());
    }
    for target in 0..targets {
        hmat.append_slice(&target.to_le_bytes());
    }
    for initiator in initiators {
        for target in 0..targets {
            let entry = list.entries.iter().find(|(from, to, _)| (from, u32::from(*to)) == (initiator, target));
            let value = entry.map_or(0, |(_, _, value)| value.checked_div(list.base).unwrap_or(0));
            hmat.append_slice(&(value as u16).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numa::{NodeOption, NumaOption};

    #[test]
    fn memory_of_nodes_goes_around_the_holes() {
        let mut numa = Numa::default();
        for name in ["a", "b"] {
            let option = NodeOption { backend: Some(name.to_owned()), ..NodeOption::default() };
            numa.set(NumaOption::Node(option), &[], &|_| Some(0xa000_0000)).expect("node");
        }
        let tables = NumaTables { numa, low: 0xc000_0000, high: 0x8000_0000, hotplug: None };
        let expected = [
            (0, 0, 0xa_0000),
            (0, 0x10_0000, 0xa000_0000 - 0x10_0000),
            (1, 0xa000_0000, 0x2000_0000),
            (1, 0x1_0000_0000, 0x8000_0000),
        ];
        assert_eq!(tables.ranges(), expected);
    }
}
