//! Objects that users create, and I/O threads (QEMU's `qom.json`, parts of `misc.json`).

use crate::block::throttle::ThrottleGroupProperties;
use crate::{Command, QapiType, Size};

/// An I/O thread's properties.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct IothreadProperties {
    /// How many requests are submitted at once; 0 leaves it to the engine.
    pub aio_max_batch: Option<i64>,
    /// The least number of worker threads; 0 if absent.
    pub thread_pool_min: Option<i64>,
    /// The largest number of worker threads; 64 if absent.
    pub thread_pool_max: Option<i64>,
    /// How long it polls before it sleeps, at most, in nanoseconds; 0 for not at all, 32768 if absent.
    pub poll_max_ns: Option<i64>,
    /// The factor by which that time grows; 0 for the default.
    pub poll_grow: Option<i64>,
    /// The divisor by which that time shrinks; 0 for the default.
    pub poll_shrink: Option<i64>,
}

/// How a secret is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum QCryptoSecretFormat {
    /// As it is.
    Raw,
    /// In base64.
    Base64,
}

/// A secret's properties: its text or the file with it, perhaps encrypted with another secret.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct SecretProperties {
    /// Without effect: a secret is loaded when it is made.
    #[qapi(deprecated)]
    pub loaded: Option<bool>,
    /// How it is written; as it is if absent.
    pub format: Option<QCryptoSecretFormat>,
    /// The secret with the AES-256 key that it is encrypted with.
    pub keyid: Option<String>,
    /// The initialisation vector in base64, if it is encrypted.
    pub iv: Option<String>,
    /// The secret.
    pub data: Option<String>,
    /// The file with the secret.
    pub file: Option<String>,
}

/// Ends of a TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum QCryptoTLSCredsEndpoint {
    /// The one that connects.
    Client,
    /// The one that listens.
    Server,
}

/// The properties of TLS credentials that are certificates.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct TlsCredsX509Properties {
    /// Whether the peer's identity is verified; on if absent.
    pub verify_peer: Option<bool>,
    /// The directory with the files.
    pub dir: Option<String>,
    /// The end; the client's if absent.
    pub endpoint: Option<QCryptoTLSCredsEndpoint>,
    /// Which algorithms are allowed, as GnuTLS writes priorities.
    pub priority: Option<String>,
    /// Without effect: credentials are loaded when they are made.
    #[qapi(deprecated)]
    pub loaded: Option<bool>,
    /// Whether the certificates are checked when they are loaded; on if absent.
    pub sanity_check: Option<bool>,
    /// The secret with the private key's password.
    pub passwordid: Option<String>,
}

/// How the host places memory on its NUMA nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum HostMemPolicy {
    /// As the host likes.
    Default,
    /// On these nodes if possible.
    Preferred,
    /// On these nodes only.
    Bind,
    /// On these nodes in turn.
    Interleave,
}

/// What all memory objects have.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct MemoryBackendProperties {
    /// Whether a core dump of the program contains it; as the machine says if absent.
    pub dump: Option<bool>,
    /// The host's NUMA nodes.
    pub host_nodes: Option<Vec<u16>>,
    /// Whether the host may share equal pages; as the machine says if absent.
    pub merge: Option<bool>,
    /// How those nodes are used.
    pub policy: Option<HostMemPolicy>,
    /// Whether the host gives all pages at once; not if absent.
    pub prealloc: Option<bool>,
    /// How many threads touch the pages; the host does it by itself.
    pub prealloc_threads: Option<u32>,
    /// Whether other processes see what is stored.
    pub share: Option<bool>,
    /// Whether swap space is reserved.
    pub reserve: Option<bool>,
    /// Bytes.
    pub size: Size,
    /// Whether the memory is known by the object's path.
    #[qapi(name = "x-use-canonical-path-for-ramblock-id")]
    pub x_use_canonical_path_for_ramblock_id: Option<bool>,
}

/// Memory that is a file.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct MemoryBackendFileProperties {
    /// What all memory objects have.
    #[qapi(flatten)]
    pub base: MemoryBackendProperties,
    /// The alignment of the mapping.
    pub align: Option<Size>,
    /// Whether the contents may be dropped at the end.
    pub discard_data: Option<bool>,
    /// The file, or a directory to make a temporary one in.
    pub mem_path: String,
    /// Whether the file is not written.
    pub readonly: Option<bool>,
}

/// Memory that is an anonymous file.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct MemoryBackendMemfdProperties {
    /// What all memory objects have.
    #[qapi(flatten)]
    pub base: MemoryBackendProperties,
    /// Whether it has huge pages.
    pub hugetlb: Option<bool>,
    /// The size of huge pages.
    pub hugetlbsize: Option<Size>,
    /// Whether its size can't change any more; so if absent.
    pub seal: Option<bool>,
}

/// What sources of random numbers have.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct RngProperties {
    /// Without effect: a source is opened when it is made.
    #[qapi(deprecated)]
    pub opened: Option<bool>,
}

/// The properties of a file with random bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct RngRandomProperties {
    /// Without effect: a source is opened when it is made.
    #[qapi(deprecated)]
    pub opened: Option<bool>,
    /// The file; `/dev/urandom` if absent.
    pub filename: Option<String>,
}

/// The type of an object with its properties. Left out are the TLS credentials without certificates (`tls-creds-anon`,
/// `tls-creds-psk`): the TLS library has neither.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "qom-type")]
pub enum ObjectTypeOptions {
    /// A thread that executes the requests of disks.
    Iothread(IothreadProperties),
    /// Memory that is a file.
    MemoryBackendFile(Box<MemoryBackendFileProperties>),
    /// Memory that is an anonymous file.
    MemoryBackendMemfd(Box<MemoryBackendMemfdProperties>),
    /// Anonymous memory.
    MemoryBackendRam(Box<MemoryBackendProperties>),
    /// Random numbers of the program's own source.
    RngBuiltin(RngProperties),
    /// Random bytes of a file.
    RngRandom(RngRandomProperties),
    /// A password or a key.
    Secret(SecretProperties),
    /// A group of disks that share limits of throughput.
    ThrottleGroup(Box<ThrottleGroupProperties>),
    /// Certificates for connections with TLS.
    #[qapi(name = "tls-creds-x509")]
    TlsCredsX509(TlsCredsX509Properties),
}

/// Makes an object.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "object-add", merged = "props", preconfig)]
pub struct ObjectAdd {
    /// The type and its properties.
    #[qapi(flatten)]
    pub object: ObjectTypeOptions,
    /// The object's name.
    pub id: String,
}

/// Deletes an object.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "object-del", preconfig)]
pub struct ObjectDel {
    /// The object's name.
    pub id: String,
}

/// An I/O thread.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct IOThreadInfo {
    /// The object's name.
    pub id: String,
    /// The host's number of the thread.
    pub thread_id: i64,
    /// How long it polls before it sleeps, at most, in nanoseconds.
    pub poll_max_ns: i64,
    /// The factor by which that time grows.
    pub poll_grow: i64,
    /// The divisor by which that time shrinks.
    pub poll_shrink: i64,
    /// How many requests are submitted at once.
    pub aio_max_batch: i64,
}

/// Lists the I/O threads.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "query-iothreads", returns = Vec<IOThreadInfo>, preconfig)]
pub struct QueryIothreads;
