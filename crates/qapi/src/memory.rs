//! Guest memory to files (QEMU's `machine.json`).

use crate::objects::HostMemPolicy;
use crate::{Command, QapiType, Size};

/// Saves guest memory, by virtual addresses, to a file.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "memsave")]
pub struct Memsave {
    /// The first virtual address.
    pub val: i64,
    /// How many bytes.
    pub size: i64,
    /// The file; what it had is lost.
    pub filename: String,
    /// The CPU whose page tables count; the first one if absent.
    #[qapi(alias = "cpu")]
    pub cpu_index: Option<i64>,
}

/// Saves guest memory, by physical addresses, to a file.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "pmemsave")]
pub struct Pmemsave {
    /// The first physical address.
    pub val: i64,
    /// How many bytes.
    pub size: i64,
    /// The file; what it had is lost.
    pub filename: String,
}

/// A memory object.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct Memdev {
    /// Its name.
    pub id: Option<String>,
    /// Bytes.
    pub size: Size,
    /// Whether the host may share equal pages.
    pub merge: bool,
    /// Whether a core dump of the program contains it.
    pub dump: bool,
    /// Whether the host gave all pages at once.
    pub prealloc: bool,
    /// Whether other processes see what is stored.
    pub share: bool,
    /// Whether swap space is reserved.
    pub reserve: Option<bool>,
    /// The host's NUMA nodes.
    pub host_nodes: Vec<u16>,
    /// How those nodes are used.
    pub policy: HostMemPolicy,
}

/// Lists the memory objects.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-memdev", returns = Vec<Memdev>, preconfig)]
pub struct QueryMemdev;

/// How much memory the machine has.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct MemoryInfo {
    /// Bytes that it began with.
    pub base_memory: Size,
    /// Bytes that were plugged.
    pub plugged_memory: Option<Size>,
}

/// Tells how much memory the machine has.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-memory-size-summary", returns = MemoryInfo)]
pub struct QueryMemorySizeSummary;
