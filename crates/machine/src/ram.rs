//! Where the machine's RAM comes from: memory objects that users make, or memory of its own.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use memory::{RamBlock, RamPiece};

use crate::config::MachineConfig;
use crate::error::MachineError;

/// What a memory object (`memory-backend-ram`, `-file`, `-memfd`) gives.
#[derive(Clone, Debug)]
pub struct HostMemory {
    /// Its size in bytes.
    pub size: u64,
    /// The file that holds it; anonymous memory without one.
    pub file: Option<Arc<OwnedFd>>,
    /// Whether stores reach the file, and other programs that map it.
    pub is_shared: bool,
    /// Whether the host gives all of its pages at once.
    pub is_populated: bool,
    /// Whether the host may share equal pages; as the machine says if not given.
    pub merge: Option<bool>,
    /// Whether a core dump of the program contains it; as the machine says if not given.
    pub dump: Option<bool>,
}

/// Gives the machine the memory of an object by its id, or says why not.
pub type HostMemories<'a> = dyn Fn(&str) -> Result<HostMemory, String> + 'a;

/// Gets the RAM of a machine.
pub fn block(config: &MachineConfig, memories: &HostMemories<'_>) -> Result<RamBlock, MachineError> {
    let name = config.machine_type.ram_id();
    let of_nodes: Vec<&str> = config.numa.nodes().filter_map(|node| node.backend.as_deref()).collect();
    let ids = match (&config.memory.backend, of_nodes.is_empty()) {
        (None, true) => {
            let block = RamBlock::new(name, config.ram_size)?;
            block.advise(0, block.len(), (config.mem_merge, config.dump_guest_core));
            return Ok(block);
        }
        (Some(id), true) => vec![id.as_str()],
        (None, false) => of_nodes,
        (Some(_), false) => {
            let text = "'-machine memory-backend' and '-numa memdev' properties are mutually exclusive";
            return Err(MachineError::Memory(text.to_owned()));
        }
    };
    if let Some((_, id)) = ids.iter().enumerate().find(|(index, id)| ids[..*index].contains(id)) {
        return Err(MachineError::Memory(format!("memory backend {id} can't be used multiple times.")));
    }
    let memories = ids.iter().map(|id| memories(id).map_err(MachineError::Memory)).collect::<Result<Vec<_>, _>>()?;
    if memories.iter().map(|memory| memory.size).sum::<u64>() != config.ram_size {
        let text = "Machine memory size does not match the size of the memory backend";
        return Err(MachineError::Memory(text.to_owned()));
    }
    let piece = |memory| {
        let HostMemory { size, file, is_shared, is_populated, .. }: &HostMemory = memory;
        let file = file.as_ref().map(|file| file.as_fd());
        RamPiece { len: *size, file, is_shared: *is_shared, is_populated: *is_populated }
    };
    let pieces: Vec<_> = memories.iter().map(piece).collect();
    let block = RamBlock::of_pieces(name, &pieces)?;
    let mut offset = 0;
    for memory in &memories {
        let (merge, dump) = (memory.merge.unwrap_or(config.mem_merge), memory.dump.unwrap_or(config.dump_guest_core));
        block.advise(offset, memory.size as usize, (merge, dump));
        offset += memory.size as usize;
    }
    Ok(block)
}
