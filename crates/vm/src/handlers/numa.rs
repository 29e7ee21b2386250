//! NUMA nodes, memory objects, and the end of the configuration.

use machine::CpuSlot;
use qapi::machine::{SetNumaNode, XExitPreconfig};
use qapi::memory::{MemoryInfo, QueryMemdev, QueryMemorySizeSummary};
use qapi::{Error, Size};

use super::Table;
use crate::numa::step;
use crate::storage::StorageOwner;
use crate::storage::memory::MachineMemory;

/// The commands of this subject.
pub fn register(table: &mut Table) {
    table.register::<SetNumaNode>(|control, _, wanted| {
        let Some((config, storage)) = control.preconfig() else {
            return Err(Error::generic("The command is permitted only before the machine has been created"));
        };
        let slots = CpuSlot::all(config.topology);
        let objects = std::cell::RefCell::new(storage.objects());
        let size = |id: &str| objects.borrow_mut().memory(id).map(|memory| memory.size());
        config.numa.set(step(wanted.options), &slots, &size).map_err(Error::generic)
    });
    table.register::<XExitPreconfig>(|control, _, _| control.leave_preconfig());
    table.register::<QueryMemdev>(|control, _, _| {
        let (merge, dump) = control.machine().memory_defaults();
        Ok(control.storage().objects().memories(MachineMemory { merge, dump }))
    });
    table.register::<QueryMemorySizeSummary>(|control, _, _| {
        Ok(MemoryInfo { base_memory: Size(control.machine().ram_size()), plugged_memory: Some(Size(0)) })
    });
}
