//! Options of the drivers that reach storage outside of the block layer.

use super::common::{BlockdevAioOptions, OnOffAuto};
use crate::QapiType;
use crate::sockets::SocketAddress;

/// Options of the drivers `file`, `host_device` and `host_cdrom`.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
#[qapi(feature = "dynamic-auto-read-only")]
pub struct BlockdevOptionsFile {
    /// The path; `/dev/fdset/N` for a descriptor that a client passed.
    pub filename: String,
    /// Whether other processes are kept out by locks; `auto` is `on` where locks are sound.
    pub locking: Option<OnOffAuto>,
    /// Who executes the requests; threads if absent.
    pub aio: Option<BlockdevAioOptions>,
    /// How many requests are submitted at once; 0 leaves it to the engine.
    pub aio_max_batch: Option<i64>,
}

/// Options of the driver `http`.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct BlockdevOptionsCurlHttp {
    /// The URL.
    pub url: String,
    /// How many bytes are read at once; 256 KiB if absent.
    pub readahead: Option<i64>,
    /// How long a request may take, in seconds; 5 if absent.
    pub timeout: Option<i64>,
    /// The user's name.
    pub username: Option<String>,
    /// The secret object with the user's password.
    pub password_secret: Option<String>,
    /// The user's name for the proxy.
    pub proxy_username: Option<String>,
    /// The secret object with the password for the proxy.
    pub proxy_password_secret: Option<String>,
    /// Cookies, as in the header `Cookie`.
    pub cookie: Option<String>,
    /// The secret object with the cookies.
    pub cookie_secret: Option<String>,
}

/// Options of the driver `https`.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct BlockdevOptionsCurlHttps {
    /// The URL.
    pub url: String,
    /// How many bytes are read at once; 256 KiB if absent.
    pub readahead: Option<i64>,
    /// How long a request may take, in seconds; 5 if absent.
    pub timeout: Option<i64>,
    /// The user's name.
    pub username: Option<String>,
    /// The secret object with the user's password.
    pub password_secret: Option<String>,
    /// The user's name for the proxy.
    pub proxy_username: Option<String>,
    /// The secret object with the password for the proxy.
    pub proxy_password_secret: Option<String>,
    /// Cookies, as in the header `Cookie`.
    pub cookie: Option<String>,
    /// Whether the server's certificate is verified; on if absent.
    pub sslverify: Option<bool>,
    /// The secret object with the cookies.
    pub cookie_secret: Option<String>,
}

/// Options of the driver `nbd`.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevOptionsNbd {
    /// The server.
    pub server: SocketAddress,
    /// The export's name; the default export if absent.
    pub export: Option<String>,
    /// The object with the TLS credentials.
    pub tls_creds: Option<String>,
    /// The name in the server's certificate; the server's host name if absent.
    pub tls_hostname: Option<String>,
    /// The metadata context that block status is asked of, for tests.
    #[qapi(unstable)]
    pub x_dirty_bitmap: Option<String>,
    /// How long requests wait for a lost server to come back, in seconds; 0 if absent.
    pub reconnect_delay: Option<u32>,
    /// How long opening waits for the server, in seconds; 0 if absent.
    pub open_timeout: Option<u32>,
}

/// Options of the drivers `null-co` and `null-aio`.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct BlockdevOptionsNull {
    /// The size in bytes; 1 GiB if absent.
    pub size: Option<i64>,
    /// How long each request takes, in nanoseconds.
    pub latency_ns: Option<u64>,
    /// Whether buffers of reads are cleared.
    pub read_zeroes: Option<bool>,
}

/// Options of the driver `vvfat`.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct BlockdevOptionsVVFAT {
    /// The directory.
    pub dir: String,
    /// 12, 16 or 32; chosen if absent.
    pub fat_type: Option<i64>,
    /// Whether it looks like a floppy disk.
    pub floppy: Option<bool>,
    /// The volume's label of up to 11 characters; `QEMU VVFAT` if absent.
    pub label: Option<String>,
    /// Whether the guest may write to the directory.
    pub rw: Option<bool>,
}
