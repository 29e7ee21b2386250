//! Options of the driver `blkdebug`.

use super::common::BlockPermission;
use super::options::BlockdevRef;
use crate::QapiType;

/// Points in the life of a request where rules can act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
#[qapi(snake)]
#[expect(missing_docs, reason = "the names say which step of which driver")]
pub enum BlkdebugEvent {
    L1Update,
    L1GrowAllocTable,
    L1GrowWriteTable,
    L1GrowActivateTable,
    L2Load,
    L2Update,
    L2UpdateCompressed,
    L2AllocCowRead,
    L2AllocWrite,
    ReadAio,
    ReadBackingAio,
    ReadCompressed,
    WriteAio,
    WriteCompressed,
    VmstateLoad,
    VmstateSave,
    CowRead,
    CowWrite,
    ReftableLoad,
    ReftableGrow,
    ReftableUpdate,
    RefblockLoad,
    RefblockUpdate,
    RefblockUpdatePart,
    RefblockAlloc,
    RefblockAllocHookup,
    RefblockAllocWrite,
    RefblockAllocWriteBlocks,
    RefblockAllocWriteTable,
    RefblockAllocSwitchTable,
    ClusterAlloc,
    ClusterAllocBytes,
    ClusterFree,
    FlushToOs,
    FlushToDisk,
    PwritevRmwHead,
    PwritevRmwAfterHead,
    PwritevRmwTail,
    PwritevRmwAfterTail,
    Pwritev,
    PwritevZero,
    PwritevDone,
    EmptyImagePrepare,
    L1ShrinkWriteTable,
    L1ShrinkFreeL2Clusters,
    CorWrite,
    ClusterAllocSpace,
    None,
}

/// Kinds of requests that errors can be injected into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum BlkdebugIOType {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Writes of zeros.
    WriteZeroes,
    /// Discards.
    Discard,
    /// Flushes.
    Flush,
    /// Questions for the allocation status.
    BlockStatus,
}

/// An error to be injected.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlkdebugInjectErrorOptions {
    /// When.
    pub event: BlkdebugEvent,
    /// Only in this state.
    pub state: Option<i64>,
    /// Only into this kind of request; into reads, writes, write-zeroes, discards and flushes if absent.
    pub iotype: Option<BlkdebugIOType>,
    /// The error as the host numbers it; EIO if absent.
    pub errno: Option<i64>,
    /// Only into requests that touch this sector of 512 bytes.
    pub sector: Option<i64>,
    /// Only once.
    pub once: Option<bool>,
    /// Whether the request fails before it is started.
    pub immediately: Option<bool>,
}

/// A change of the state.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlkdebugSetStateOptions {
    /// When.
    pub event: BlkdebugEvent,
    /// Only in this state; in the first one if absent.
    pub state: Option<i64>,
    /// The state after it.
    #[qapi(name = "new_state")]
    pub new_state: i64,
}

/// Options of the driver `blkdebug`.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevOptionsBlkdebug {
    /// The node below.
    pub image: BlockdevRef,
    /// A file with more rules.
    pub config: Option<String>,
    /// The alignment that requests need, in bytes.
    pub align: Option<i64>,
    /// The longest transfer, in bytes.
    pub max_transfer: Option<i32>,
    /// The best alignment of write-zeroes requests, in bytes.
    pub opt_write_zero: Option<i32>,
    /// The longest write-zeroes request, in bytes.
    pub max_write_zero: Option<i32>,
    /// The best alignment of discards, in bytes.
    pub opt_discard: Option<i32>,
    /// The longest discard, in bytes.
    pub max_discard: Option<i32>,
    /// Errors to inject.
    pub inject_error: Option<Vec<BlkdebugInjectErrorOptions>>,
    /// Changes of the state.
    pub set_state: Option<Vec<BlkdebugSetStateOptions>>,
    /// Permissions that it takes on the node below, beside those that it needs.
    pub take_child_perms: Option<Vec<BlockPermission>>,
    /// Permissions that it does not share on the node below.
    pub unshare_child_perms: Option<Vec<BlockPermission>>,
}
