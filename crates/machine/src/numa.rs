//! NUMA: nodes with memory and processors, distances, and what the HMAT tells of latency and bandwidth (ACPI 6.3,
//! 5.2.16, 5.2.17, 5.2.27). The rules and the messages are QEMU 7.2's (`-numa`, `set-numa-node`).

use std::collections::BTreeMap;

use crate::machine::CpuSlot;

/// Node numbers are less than this.
pub const MAX_NODES: u16 = 128;
/// The distance from a node to itself.
const LOCAL_DISTANCE: u8 = 10;
/// Levels of side caches are less than this; level 0 is the memory itself.
const CACHE_LEVELS: u8 = 4;
const MIB: u64 = 1 << 20;
const NO_HMAT: &str = "ACPI Heterogeneous Memory Attribute Table (HMAT) is disabled, enable it with -machine hmat=on \
                       before using any of hmat specific options";

/// A node to be added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeOption {
    /// Its number; the next one when not given.
    pub node: Option<u16>,
    /// Its processors by index.
    pub cpus: Vec<u16>,
    /// Bytes of memory, where there are no memory objects.
    pub memory: Option<u64>,
    /// The memory object.
    pub backend: Option<String>,
    /// The node whose processors reach its memory best.
    pub initiator: Option<u16>,
}

/// The processors of a node: those that have all the given numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuOption {
    /// The node.
    pub node: Option<i64>,
    /// The socket.
    pub socket: Option<i64>,
    /// The die.
    pub die: Option<i64>,
    /// The cluster, which no machine here has.
    pub cluster: Option<i64>,
    /// The core.
    pub core: Option<i64>,
    /// The thread.
    pub thread: Option<i64>,
}

/// What of a memory's behaviour is told; the order is that of the HMAT's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DataType {
    /// Latency of reads and writes.
    AccessLatency,
    /// Latency of reads.
    ReadLatency,
    /// Latency of writes.
    WriteLatency,
    /// Bandwidth of reads and writes.
    AccessBandwidth,
    /// Bandwidth of reads.
    ReadBandwidth,
    /// Bandwidth of writes.
    WriteBandwidth,
}

impl DataType {
    fn is_latency(self) -> bool {
        self <= Self::WriteLatency
    }
}

/// Latency or bandwidth of one node's memory as seen from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencyBandwidthOption {
    /// The node with the processors.
    pub initiator: u16,
    /// The node with the memory.
    pub target: u16,
    /// 0 for the memory, 1 to 3 for its side caches.
    pub hierarchy: u8,
    /// What is told.
    pub data_type: DataType,
    /// In nanoseconds.
    pub latency: Option<u64>,
    /// In bytes per second.
    pub bandwidth: Option<u64>,
}

/// A side cache of a node's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheOption {
    /// The node.
    pub node: u32,
    /// Its size in bytes.
    pub size: u64,
    /// 1 to 3.
    pub level: u8,
    /// As the HMAT has it: 0 none, 1 direct-mapped, 2 complex.
    pub associativity: u8,
    /// As the HMAT has it: 0 none, 1 write-back, 2 write-through.
    pub policy: u8,
    /// Bytes of a line.
    pub line: u16,
}

/// One step of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NumaOption {
    /// A node.
    Node(NodeOption),
    /// The distance between two nodes.
    Distance {
        /// From this node.
        source: u16,
        /// To that.
        destination: u16,
        /// 10 is the distance of a node to itself.
        value: u8,
    },
    /// Processors of a node.
    Cpu(CpuOption),
    /// Latency or bandwidth.
    LatencyBandwidth(LatencyBandwidthOption),
    /// A side cache.
    Cache(CacheOption),
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Bytes of memory.
    pub memory: u64,
    /// The memory object.
    pub backend: Option<String>,
    /// The node whose processors reach its memory best.
    pub initiator: Option<u16>,
    /// Whether it has processors; known with an HMAT only.
    pub has_cpu: bool,
    has_latency: bool,
    has_bandwidth: bool,
}

/// Values of one kind: the entries are multiples of `base`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencyBandwidth {
    /// 0 for the memory, 1 to 3 for its side caches.
    pub hierarchy: u8,
    /// What is told.
    pub data_type: DataType,
    /// The unit: nanoseconds, or bytes per second.
    pub base: u64,
    /// What limits the next values: the largest compressed latency, or all bits of the bandwidths.
    range: u64,
    /// Initiator, target and value.
    pub entries: Vec<(u16, u16, u64)>,
}

/// The configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numa {
    /// Whether there is an HMAT (`-machine hmat=on`).
    pub has_hmat: bool,
    nodes: BTreeMap<u16, Node>,
    cpus: BTreeMap<usize, u16>,
    distances: BTreeMap<(u16, u16), u8>,
    latency_bandwidth: Vec<LatencyBandwidth>,
    caches: BTreeMap<(u32, u8), CacheOption>,
}

/// Tells the size of a memory object, if there is one of that name.
pub type BackendSize<'a> = dyn Fn(&str) -> Option<u64> + 'a;

impl Numa {
    /// No nodes; with an HMAT or without.
    pub fn new(has_hmat: bool) -> Self {
        Self { has_hmat, ..Self::default() }
    }

    /// Takes one step. `slots` are all possible processors.
    ///
    /// # Errors
    /// What is wrong; nothing has changed then.
    pub fn set(&mut self, option: NumaOption, slots: &[CpuSlot], backend: &BackendSize<'_>) -> Result<(), String> {
        let before = self.clone();
        let done = match option {
            NumaOption::Node(node) => self.add_node(node, slots, backend),
            NumaOption::Distance { source, destination, value } => self.set_distance(source, destination, value),
            NumaOption::Cpu(cpu) => self.assign(&cpu, slots),
            NumaOption::LatencyBandwidth(_) | NumaOption::Cache(_) if !self.has_hmat => Err(NO_HMAT.to_owned()),
            NumaOption::LatencyBandwidth(option) => self.set_latency_bandwidth(&option),
            NumaOption::Cache(cache) => self.set_cache(cache),
        };
        if done.is_err() {
            *self = before;
        }
        done
    }

    /// The nodes, by number.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are no nodes: the machine is not NUMA.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The node of a processor, by index.
    pub fn node_of(&self, cpu: usize) -> Option<u16> {
        self.cpus.get(&cpu).copied()
    }

    /// The distances, row by row, if any was given.
    pub fn distances(&self) -> Option<Vec<u8>> {
        if self.distances.is_empty() {
            return None;
        }
        let count = self.nodes.len() as u16;
        let pairs = (0..count).flat_map(|source| (0..count).map(move |destination| (source, destination)));
        Some(pairs.map(|pair| self.distances.get(&pair).copied().unwrap_or(LOCAL_DISTANCE)).collect())
    }

    /// Latencies and bandwidths, by hierarchy and kind.
    pub fn latency_bandwidth(&self) -> &[LatencyBandwidth] {
        &self.latency_bandwidth
    }

    /// The side caches, by node and level.
    pub fn caches(&self) -> impl Iterator<Item = &CacheOption> {
        self.caches.values()
    }

    fn add_node(&mut self, option: NodeOption, slots: &[CpuSlot], backend: &BackendSize<'_>) -> Result<(), String> {
        let number = option.node.unwrap_or(self.nodes.len() as u16);
        if number >= MAX_NODES {
            return Err(format!("Max number of NUMA nodes reached: {number}"));
        }
        if self.nodes.contains_key(&number) {
            return Err(format!("Duplicate NUMA nodeid: {number}"));
        }
        let mut node = Node::default();
        if let Some(initiator) = option.initiator {
            if !self.has_hmat {
                return Err(NO_HMAT.to_owned());
            }
            if initiator >= MAX_NODES {
                let last = MAX_NODES - 1;
                return Err(format!("The initiator id {initiator} expects an integer between 0 and {last}"));
            }
            node.initiator = Some(initiator);
        }
        if option.memory.is_some() && option.backend.is_some()
            || option.memory.is_some() && self.nodes.values().any(|other| other.backend.is_some())
        {
            return Err("numa configuration should use either mem= or memdev=,mixing both is not allowed".to_owned());
        }
        if option.memory.is_some() {
            return Err("Parameter -numa node,mem is not supported by this machine type".to_owned());
        }
        if let Some(name) = option.backend {
            node.memory = backend(&name).ok_or_else(|| format!("memdev={name} is ambiguous"))?;
            node.backend = Some(name);
        }
        self.nodes.insert(number, node);
        for index in option.cpus {
            if usize::from(index) >= slots.len() {
                return Err(format!("CPU index ({index}) should be smaller than maxcpus ({})", slots.len()));
            }
            self.assign_one(usize::from(index), number)?;
        }
        Ok(())
    }

    fn set_distance(&mut self, source: u16, destination: u16, value: u8) -> Result<(), String> {
        for (name, node) in [("src", source), ("dst", destination)] {
            if node >= MAX_NODES {
                return Err(format!("Parameter '{name}' expects an integer between 0 and {}", MAX_NODES - 1));
            }
        }
        if ![source, destination].iter().all(|node| self.nodes.contains_key(node)) {
            return Err("Source/Destination NUMA node is missing. Please use '-numa node' option to declare it first."
                .to_owned());
        }
        if value < LOCAL_DISTANCE {
            return Err(format!("NUMA distance ({value}) is invalid, it shouldn't be less than {LOCAL_DISTANCE}."));
        }
        if source == destination && value != LOCAL_DISTANCE {
            return Err(format!("Local distance of node {source} should be {LOCAL_DISTANCE}."));
        }
        self.distances.insert((source, destination), value);
        Ok(())
    }

    fn assign(&mut self, option: &CpuOption, slots: &[CpuSlot]) -> Result<(), String> {
        let node = option.node.ok_or("Missing mandatory node-id property")?;
        let known = u16::try_from(node).ok().filter(|node| self.nodes.contains_key(node));
        let node = known.ok_or_else(|| {
            format!(
                "Invalid node-id={node}, NUMA node must be defined with -numa node,nodeid=ID before it's used with \
                 -numa cpu,node-id=ID"
            )
        })?;
        if option.cluster.is_some() {
            return Err("cluster-id is not supported".to_owned());
        }
        if option.die.is_some() && slots.iter().any(|slot| slot.die.is_none()) {
            return Err("die-id is not supported".to_owned());
        }
        let fits = |wanted: Option<i64>, number: u32| wanted.is_none_or(|wanted| wanted == i64::from(number));
        let matching = slots.iter().enumerate().filter(|(_, slot)| {
            fits(option.socket, slot.socket)
                && fits(option.die, slot.die.unwrap_or(0))
                && fits(option.core, slot.core)
                && fits(option.thread, slot.thread)
        });
        let indices: Vec<usize> = matching.map(|(index, _)| index).collect();
        if indices.is_empty() {
            return Err("no match found".to_owned());
        }
        indices.into_iter().try_for_each(|index| self.assign_one(index, node))
    }

    fn assign_one(&mut self, index: usize, number: u16) -> Result<(), String> {
        if let Some(other) = self.cpus.get(&index).filter(|other| **other != number) {
            return Err(format!("CPU is already assigned to node-id: {other}"));
        }
        self.cpus.insert(index, number);
        if let Some(node) = self.nodes.get_mut(&number).filter(|_| self.has_hmat) {
            if let Some(initiator) = node.initiator.filter(|initiator| *initiator != number) {
                return Err(format!("The initiator of CPU NUMA node {number} should be itself (got {initiator})"));
            }
            (node.has_cpu, node.initiator) = (true, Some(number));
        }
        Ok(())
    }

    fn set_latency_bandwidth(&mut self, option: &LatencyBandwidthOption) -> Result<(), String> {
        let count = self.nodes.len();
        for (name, node) in [("initiator", option.initiator), ("target", option.target)] {
            if usize::from(node) > count {
                return Err(format!("Invalid {name}={node}, it should be less than {count}"));
            }
        }
        if !self.nodes.get(&option.initiator).is_some_and(|node| node.has_cpu) {
            return Err(format!("Invalid initiator={}, it isn't an initiator proximity domain", option.initiator));
        }
        let target = self.nodes.get_mut(&option.target);
        let target = target.ok_or_else(|| format!("The target={} should point to an existing node", option.target))?;
        let is_latency = option.data_type.is_latency();
        let (name, other) = if is_latency { ("latency", "bandwidth") } else { ("bandwidth", "latency") };
        let (wanted, unwanted) = match is_latency {
            true => (option.latency, option.bandwidth),
            false => (option.bandwidth, option.latency),
        };
        let value = wanted.ok_or_else(|| format!("Missing '{name}' option"))?;
        if unwanted.is_some() {
            return Err(format!("Invalid option '{other}' since the data type is {name}"));
        }
        if !is_latency && !value.is_multiple_of(MIB) {
            return Err(format!(
                "Bandwidth {value} between initiator={} and target={} should be 1MB aligned",
                option.initiator, option.target
            ));
        }
        let at = list_for(&mut self.latency_bandwidth, option);
        let list = &mut self.latency_bandwidth[at];
        if list.entries.iter().any(|(from, to, _)| (*from, *to) == (option.initiator, option.target)) {
            return Err(format!(
                "Duplicate configuration of the {name} for initiator={} and target={}",
                option.initiator, option.target
            ));
        }
        if value != 0 {
            list.admit(value).map_err(|what| {
                format!(
                    "{what} {value} between initiator={} and target={} should not differ from previously entered {} \
                     on more than {}",
                    option.initiator,
                    option.target,
                    if is_latency { "min or max values" } else { "values" },
                    u16::MAX - 1
                )
            })?;
            if is_latency {
                target.has_latency = true;
            } else {
                target.has_bandwidth = true;
            }
        }
        list.entries.push((option.initiator, option.target, value));
        Ok(())
    }

    fn set_cache(&mut self, cache: CacheOption) -> Result<(), String> {
        let CacheOption { node: number, level, size, .. } = cache;
        let node = u16::try_from(number).ok().and_then(|number| self.nodes.get(&number));
        let node = node
            .filter(|_| (number as usize) < self.nodes.len())
            .ok_or_else(|| format!("Invalid node-id={number}, it should be less than {}", self.nodes.len()))?;
        if !(node.has_latency && node.has_bandwidth) {
            return Err(format!(
                "The latency and bandwidth information of node-id={number} should be provided before memory side cache \
                 attributes"
            ));
        }
        if !(1..CACHE_LEVELS).contains(&level) {
            let last = CACHE_LEVELS - 1;
            return Err(format!("Invalid level={level}, it should be larger than 0 and less than or equal to {last}"));
        }
        if self.caches.contains_key(&(number, level)) {
            return Err(format!("Duplicate configuration of the side cache for node-id={number} and level={level}"));
        }
        let other = |level: u8| self.caches.get(&(number, level)).map(|cache| cache.size);
        if level > 1 {
            let below = level - 1;
            let smaller = other(below).ok_or_else(|| format!("Cache level={below} shall be defined first"))?;
            if size <= smaller {
                return Err(format!(
                    "Invalid size={size}, the size of level={level} should be larger than the size({smaller}) of \
                     level={below}"
                ));
            }
        }
        if let Some(larger) = other(level + 1).filter(|larger| size >= *larger) {
            return Err(format!(
                "Invalid size={size}, the size of level={level} should be less than the size({larger}) of level={}",
                level + 1
            ));
        }
        self.caches.insert((number, level), cache);
        Ok(())
    }

    /// Ends the configuration: checks it, and gives each processor a node and each pair of nodes a distance.
    ///
    /// # Errors
    /// What is wrong.
    pub fn complete(&mut self, slots: &[CpuSlot], ram_size: u64) -> Result<(), String> {
        let Some(last) = self.nodes.keys().next_back().copied() else { return Ok(()) };
        if let Some(missing) = (0..last).rev().find(|node| !self.nodes.contains_key(node)) {
            return Err(format!("numa: Node ID missing: {missing}"));
        }
        let total = self.nodes.values().fold(0_u64, |total, node| total.saturating_add(node.memory));
        if total != ram_size {
            return Err(format!("total memory for NUMA nodes ({total:#x}) should equal RAM size ({ram_size:#x})"));
        }
        let uses_default = self.cpus.is_empty();
        for (index, slot) in slots.iter().enumerate() {
            if !self.cpus.contains_key(&index) {
                let node = if uses_default { slot.socket % u32::from(last + 1) } else { 0 };
                self.assign_one(index, node as u16)?;
            }
        }
        if self.has_hmat {
            self.check_initiators()?;
        }
        if self.distances.is_empty() { Ok(()) } else { self.complete_distances(last) }
    }

    fn check_initiators(&self) -> Result<(), String> {
        for (number, node) in &self.nodes {
            let Some(initiator) = node.initiator else { continue };
            match self.nodes.get(&initiator) {
                None => {
                    return Err(format!(
                        "NUMA node {initiator} is missing, use '-numa node' option to declare it first"
                    ));
                }
                Some(node) if !node.has_cpu => return Err(format!("The initiator of NUMA node {number} is invalid")),
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Distances are the same in both directions unless one pair says otherwise; then all must be given.
    fn complete_distances(&mut self, last: u16) -> Result<(), String> {
        let pairs = || (0..=last).flat_map(move |source| (source + 1..=last).map(move |other| (source, other)));
        let get = |distances: &BTreeMap<_, _>, pair: (u16, u16)| distances.get(&pair).copied();
        let mut is_asymmetric = false;
        for (source, other) in pairs() {
            match (get(&self.distances, (source, other)), get(&self.distances, (other, source))) {
                (None, None) => {
                    return Err(format!(
                        "The distance between node {source} and {other} is missing, at least one distance value \
                         between each nodes should be provided."
                    ));
                }
                (Some(there), Some(back)) => is_asymmetric |= there != back,
                _ => {}
            }
        }
        for (source, other) in pairs() {
            let both = (get(&self.distances, (source, other)), get(&self.distances, (other, source)));
            let ((there, Some(value)) | (Some(value), there)) = both else { continue };
            if there.is_none() && is_asymmetric {
                return Err("At least one asymmetrical pair of distances is given, please provide distances for both \
                            directions of all node pairs."
                    .to_owned());
            }
            self.distances.entry((source, other)).or_insert(value);
            self.distances.entry((other, source)).or_insert(value);
        }
        Ok(())
    }
}

/// Where the values of this kind are, in the order of the table.
fn list_for(lists: &mut Vec<LatencyBandwidth>, option: &LatencyBandwidthOption) -> usize {
    let key = (option.hierarchy, option.data_type);
    let at = lists.partition_point(|list| (list.hierarchy, list.data_type) < key);
    if lists.get(at).is_none_or(|list| (list.hierarchy, list.data_type) != key) {
        let base = if option.data_type.is_latency() { u64::MAX } else { 1 };
        let (hierarchy, data_type) = key;
        lists.insert(at, LatencyBandwidth { hierarchy, data_type, base, range: 0, entries: Vec::new() });
    }
    at
}

impl LatencyBandwidth {
    /// Adapts the unit to one more value; entries have 16 bits, of which all ones is reserved.
    fn admit(&mut self, value: u64) -> Result<(), &'static str> {
        const LIMIT: u64 = u16::MAX as u64;
        if self.data_type.is_latency() {
            let (mut rest, mut unit) = (value, 1);
            while rest.is_multiple_of(10) {
                (rest, unit) = (rest / 10, unit * 10);
            }
            let largest = (value / self.base).max(self.range);
            if largest >= LIMIT {
                return Err("Latency");
            }
            (self.base, self.range) = (self.base.min(unit), largest);
        } else {
            let bits = self.range | value;
            let (first, last) = (bits.trailing_zeros(), 64 - bits.leading_zeros());
            if last - first > u16::BITS || value >> first >= LIMIT {
                return Err("Bandwidth");
            }
            (self.base, self.range) = (1 << first, bits);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use x86::model::Topology;

    fn slots() -> Vec<CpuSlot> {
        CpuSlot::all(Topology { sockets: 2, dies: 1, cores: 2, threads: 1 })
    }

    fn node(numa: &mut Numa, option: NodeOption) -> Result<(), String> {
        numa.set(NumaOption::Node(option), &slots(), &|name| (name == "m").then_some(64 << 20))
    }

    #[test]
    fn nodes_share_processors_by_socket_unless_they_say_otherwise() {
        let mut numa = Numa::default();
        node(&mut numa, NodeOption { backend: Some("m".to_owned()), ..NodeOption::default() }).expect("node 0");
        node(&mut numa, NodeOption::default()).expect("node 1");
        let mut named = numa.clone();
        numa.complete(&slots(), 64 << 20).expect("complete");
        assert_eq!((0..4).map(|cpu| numa.node_of(cpu)).collect::<Vec<_>>(), [Some(0), Some(0), Some(1), Some(1)]);
        let cpu = CpuOption { node: Some(1), socket: Some(0), ..CpuOption::default() };
        named.set(NumaOption::Cpu(cpu), &slots(), &|_| None).expect("processors");
        assert_eq!(
            named.set(NumaOption::Cpu(CpuOption { node: Some(0), ..cpu }), &slots(), &|_| None),
            Err("CPU is already assigned to node-id: 1".to_owned())
        );
        named.complete(&slots(), 64 << 20).expect("complete");
        assert_eq!((0..4).map(|cpu| named.node_of(cpu)).collect::<Vec<_>>(), [Some(1), Some(1), Some(0), Some(0)]);
        assert!(Numa { nodes: named.nodes.clone(), ..Numa::default() }.complete(&slots(), 1 << 20).is_err());
    }

    #[test]
    fn distances_are_symmetric_or_complete() {
        let mut numa = Numa::default();
        for _ in 0..3 {
            node(&mut numa, NodeOption::default()).expect("node");
        }
        let mut set = |source, destination, value| {
            numa.set(NumaOption::Distance { source, destination, value }, &[], &|_| None).expect("distance");
            numa.clone().complete(&[], 0).map(|()| {
                let mut done = numa.clone();
                done.complete(&[], 0).expect("twice");
                done.distances().expect("distances")
            })
        };
        assert!(set(0, 1, 20).is_err());
        assert!(set(0, 2, 30).is_err());
        assert_eq!(set(1, 2, 40), Ok(vec![10, 20, 30, 20, 10, 40, 30, 40, 10]));
        assert!(set(1, 0, 25).is_err(), "the other directions are missing");
    }
}
