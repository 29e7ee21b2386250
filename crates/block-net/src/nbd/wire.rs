//! The numbers of the NBD protocol (`doc/proto.md` of the NBD project), for clients and servers.

/// The first word of a server.
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// The second word of a newstyle server, and the start of an option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// The second word of an oldstyle server.
pub const OLD_MAGIC: u64 = 0x0000_4202_8186_1253;
/// The start of a reply to an option.
pub const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// The start of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// The start of a simple reply.
pub const SIMPLE_MAGIC: u32 = 0x6744_6698;
/// The start of a structured reply's chunk.
pub const STRUCTURED_MAGIC: u32 = 0x668e_33ef;

/// Handshake flag of both sides: fixed newstyle.
pub const FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag of both sides: no padding behind an export's size.
pub const NO_ZEROES: u16 = 2;

/// Option: go on with an export, the old way.
pub const OPT_EXPORT_NAME: u32 = 1;
/// Option: end.
pub const OPT_ABORT: u32 = 2;
/// Option: list the exports.
pub const OPT_LIST: u32 = 3;
/// Option: encrypt.
pub const OPT_STARTTLS: u32 = 5;
/// Option: tell about an export.
pub const OPT_INFO: u32 = 6;
/// Option: tell about an export and go on with it.
pub const OPT_GO: u32 = 7;
/// Option: structured replies.
pub const OPT_STRUCTURED_REPLY: u32 = 8;
/// Option: list metadata contexts.
pub const OPT_LIST_META_CONTEXT: u32 = 9;
/// Option: choose metadata contexts.
pub const OPT_SET_META_CONTEXT: u32 = 10;

/// Reply: done.
pub const REP_ACK: u32 = 1;
/// Reply: an export of the list.
pub const REP_SERVER: u32 = 2;
/// Reply: a piece of information.
pub const REP_INFO: u32 = 3;
/// Reply: a metadata context.
pub const REP_META_CONTEXT: u32 = 4;
/// The bit of all replies that are errors.
pub const REP_ERROR: u32 = 1 << 31;
/// Error: unknown option.
pub const REP_ERR_UNSUP: u32 = REP_ERROR | 1;
/// Error: forbidden by the server.
pub const REP_ERR_POLICY: u32 = REP_ERROR | 2;
/// Error: wrong contents or time.
pub const REP_ERR_INVALID: u32 = REP_ERROR | 3;
/// Error: TLS has to come first.
pub const REP_ERR_TLS_REQD: u32 = REP_ERROR | 5;
/// Error: no such export.
pub const REP_ERR_UNKNOWN: u32 = REP_ERROR | 6;
/// Error: the client has to obey block sizes.
pub const REP_ERR_BLOCK_SIZE_REQD: u32 = REP_ERROR | 8;
/// Error: too long.
pub const REP_ERR_TOO_BIG: u32 = REP_ERROR | 9;

/// Information: size and flags.
pub const INFO_EXPORT: u16 = 0;
/// Information: the canonical name.
pub const INFO_NAME: u16 = 1;
/// Information: a description.
pub const INFO_DESCRIPTION: u16 = 2;
/// Information: block sizes.
pub const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flag: there are flags.
pub const HAS_FLAGS: u16 = 1;
/// Transmission flag: nothing may be written.
pub const READ_ONLY: u16 = 1 << 1;
/// Transmission flag: flushes are understood.
pub const SEND_FLUSH: u16 = 1 << 2;
/// Transmission flag: writes to stable storage are understood.
pub const SEND_FUA: u16 = 1 << 3;
/// Transmission flag: discards are understood.
pub const SEND_TRIM: u16 = 1 << 5;
/// Transmission flag: zero writes are understood.
pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
/// Transmission flag: reads may ask for one chunk.
pub const SEND_DF: u16 = 1 << 7;
/// Transmission flag: all connections see the same.
pub const CAN_MULTI_CONN: u16 = 1 << 8;
/// Transmission flag: prefetching is understood.
pub const SEND_CACHE: u16 = 1 << 10;
/// Transmission flag: zero writes that must not be slow are understood.
pub const SEND_FAST_ZERO: u16 = 1 << 11;

/// Command flag: to stable storage.
pub const FUA: u16 = 1;
/// Command flag: zeroes must not become a hole.
pub const NO_HOLE: u16 = 2;
/// Command flag: one chunk of data.
pub const DF: u16 = 4;
/// Command flag: one extent is enough.
pub const REQ_ONE: u16 = 8;
/// Command flag: fail rather than be slow.
pub const FAST_ZERO: u16 = 16;

/// Chunk flag: the last of its reply.
pub const CHUNK_DONE: u16 = 1;
/// Chunk: nothing.
pub const CHUNK_NONE: u16 = 0;
/// Chunk: data.
pub const CHUNK_DATA: u16 = 1;
/// Chunk: a hole.
pub const CHUNK_HOLE: u16 = 2;
/// Chunk: block status.
pub const CHUNK_STATUS: u16 = 5;
/// The bit of all chunks that are errors; with 1, an error of the whole request.
pub const CHUNK_ERROR: u16 = 1 << 15;

/// Block status of `base:allocation`: a hole.
pub const STATE_HOLE: u32 = 1;
/// Block status of `base:allocation`: reads as zeroes.
pub const STATE_ZERO: u32 = 2;

/// The longest string, bytes.
pub const MAX_STRING: usize = 4096;
/// The longest transfer, bytes.
pub const MAX_TRANSFER: u32 = 32 << 20;
/// Bytes of a request without its data.
pub const REQUEST_SIZE: usize = 28;

/// What is asked of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    /// Data, please.
    Read = 0,
    /// Here is data.
    Write = 1,
    /// Goodbye.
    Disconnect = 2,
    /// To stable storage.
    Flush = 3,
    /// Give space back.
    Trim = 4,
    /// Fetch into caches.
    Cache = 5,
    /// Zeroes.
    WriteZeroes = 6,
    /// What is known of a range?
    BlockStatus = 7,
}

impl Command {
    /// The command of that number.
    pub fn of(number: u16) -> Option<Self> {
        [
            Self::Read,
            Self::Write,
            Self::Disconnect,
            Self::Flush,
            Self::Trim,
            Self::Cache,
            Self::WriteZeroes,
            Self::BlockStatus,
        ]
        .get(usize::from(number))
        .copied()
    }
}
