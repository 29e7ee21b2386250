//! Guest memory to files (QEMU's `machine.json`).

use crate::Command;

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
