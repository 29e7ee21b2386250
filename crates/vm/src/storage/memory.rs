//! Memory objects: `memory-backend-ram`, `memory-backend-file`, `memory-backend-memfd`.
//!
//! An object describes memory, and has its file open; the machine maps it. Left out: placing memory on NUMA nodes of the
//! host, and huge pages of the host (both are refused).

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use machine::ram::HostMemory;
use qapi::memory::Memdev;
use qapi::objects::{
    HostMemPolicy, MemoryBackendFileProperties, MemoryBackendMemfdProperties, MemoryBackendProperties,
};
use qapi::{Error, Size};
use rustix::fs::{MemfdFlags, SealFlags};

/// Guest memory comes in pages.
const PAGE: u64 = 4096;

/// What the machine says for memory objects that don't say it themselves.
#[derive(Clone, Copy, Debug)]
pub struct MachineMemory {
    /// Whether the host may share equal pages.
    pub merge: bool,
    /// Whether a core dump of the program contains it.
    pub dump: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ram,
    File,
    Memfd,
}

/// A memory object.
#[derive(Debug)]
pub struct MemoryObject {
    kind: Kind,
    memory: HostMemory,
    reserves: bool,
    is_used: bool,
}

impl MemoryObject {
    /// The memory of a machine that was told of none.
    pub fn of_machine(size: u64) -> Self {
        let memory = HostMemory { size, file: None, is_shared: false, is_populated: false, merge: None, dump: None };
        Self { kind: Kind::Ram, memory, reserves: true, is_used: true }
    }

    fn new(kind: Kind, properties: &MemoryBackendProperties, shares: bool) -> Result<Self, Error> {
        let Size(size) = properties.size;
        if size == 0 {
            return Err(Error::generic("property 'size' of memory backend doesn't take value '0'"));
        }
        if !size.is_multiple_of(PAGE) {
            return Err(Error::generic(format!("property 'size' expects a multiple of {PAGE} bytes")));
        }
        let has_nodes = properties.host_nodes.as_ref().is_some_and(|nodes| !nodes.is_empty());
        if has_nodes || properties.policy.is_some_and(|policy| policy != HostMemPolicy::Default) {
            return Err(Error::generic("NUMA node binding is not available in this version"));
        }
        if properties.prealloc_threads == Some(0) {
            return Err(Error::generic("property 'prealloc-threads' of memory backend doesn't take value '0'"));
        }
        let memory = HostMemory {
            size,
            file: None,
            is_shared: properties.share.unwrap_or(shares),
            is_populated: properties.prealloc.unwrap_or(false),
            merge: properties.merge,
            dump: properties.dump,
        };
        Ok(Self { kind, memory, reserves: properties.reserve.unwrap_or(true), is_used: false })
    }

    /// `memory-backend-ram`
    ///
    /// # Errors
    /// A property that can't be had.
    pub fn ram(properties: &MemoryBackendProperties) -> Result<Self, Error> {
        Self::new(Kind::Ram, properties, false)
    }

    /// `memory-backend-memfd`
    ///
    /// # Errors
    /// A property that can't be had, or the host refuses the file.
    pub fn memfd(id: &str, properties: &MemoryBackendMemfdProperties) -> Result<Self, Error> {
        if properties.hugetlb == Some(true) || properties.hugetlbsize.is_some() {
            return Err(Error::generic("huge pages are not available in this version"));
        }
        let mut object = Self::new(Kind::Memfd, &properties.base, true)?;
        let failed = |error: rustix::io::Errno| {
            Error::generic(format!("failed to create memfd: {}", crate::host_error(&error.into())))
        };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create(format!("memory-backend-memfd-{id}"), flags).map_err(failed)?;
        rustix::fs::ftruncate(&file, object.memory.size).map_err(failed)?;
        if properties.seal.unwrap_or(true) {
            let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
            rustix::fs::fcntl_add_seals(&file, seals).map_err(failed)?;
        }
        object.memory.file = Some(Arc::new(file));
        Ok(object)
    }

    /// `memory-backend-file`
    ///
    /// # Errors
    /// A property that can't be had, or the host refuses the file.
    pub fn file(properties: &MemoryBackendFileProperties) -> Result<Self, Error> {
        let mut object = Self::new(Kind::File, &properties.base, false)?;
        if properties.readonly == Some(true) {
            return Err(Error::generic("read-only memory is not available in this version"));
        }
        if properties.align.is_some_and(|Size(align)| align > PAGE || !align.is_power_of_two()) {
            return Err(Error::generic(format!("alignments above {PAGE} bytes are not available in this version")));
        }
        if properties.discard_data == Some(true) {
            return Err(Error::generic("discard-data is not available in this version"));
        }
        let path = Path::new(&properties.mem_path);
        let opened = if path.is_dir() { temporary(path) } else { open(path) };
        let failed = |error: std::io::Error| {
            let path = &properties.mem_path;
            Error::generic(format!("can't open backing store {path} for guest RAM: {}", crate::host_error(&error)))
        };
        let file = opened.map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        if len != 0 && len < object.memory.size {
            return Err(Error::generic(format!(
                "backing store size 0x{len:x} does not match 'size' option 0x{:x}",
                object.memory.size
            )));
        }
        if len == 0 {
            file.set_len(object.memory.size).map_err(failed)?;
        }
        object.memory.file = Some(Arc::new(OwnedFd::from(file)));
        Ok(object)
    }

    /// The name of its type.
    pub fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Ram => "memory-backend-ram",
            Kind::File => "memory-backend-file",
            Kind::Memfd => "memory-backend-memfd",
        }
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.memory.size
    }

    /// Whether the machine has it.
    pub fn is_used(&self) -> bool {
        self.is_used
    }

    /// What the machine maps.
    pub fn take(&mut self) -> HostMemory {
        self.is_used = true;
        self.memory.clone()
    }

    /// Its entry of `query-memdev`.
    pub fn info(&self, id: &str, machine: MachineMemory) -> Memdev {
        Memdev {
            id: Some(id.to_owned()),
            size: Size(self.memory.size),
            merge: self.memory.merge.unwrap_or(machine.merge),
            dump: self.memory.dump.unwrap_or(machine.dump),
            prealloc: self.memory.is_populated,
            share: self.memory.is_shared,
            reserve: Some(self.reserves),
            host_nodes: Vec::new(),
            policy: HostMemPolicy::Default,
        }
    }
}

/// The file, made if it is not there.
fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// A file without a name in a directory.
fn temporary(directory: &Path) -> std::io::Result<File> {
    let path = directory.join(format!("qemu_back_mem.{}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}
