//! Addresses of stream sockets (QEMU's `sockets.json`).

use crate::QapiType;

/// The kinds of network addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum NetworkAddressFamily {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// Unix sockets.
    Unix,
    /// VSOCK.
    Vsock,
    /// Another one.
    Unknown,
}

/// An address of the Internet.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct InetSocketAddress {
    /// The host: a name or an address.
    pub host: String,
    /// The port: a number or a service's name.
    pub port: String,
    /// Whether host and port are numbers, so that no name is looked up.
    pub numeric: Option<bool>,
    /// For servers: the last port to try.
    pub to: Option<u16>,
    /// Whether IPv4 addresses are used.
    pub ipv4: Option<bool>,
    /// Whether IPv6 addresses are used.
    pub ipv6: Option<bool>,
    /// Whether the connection is kept alive by probes.
    pub keep_alive: Option<bool>,
}

/// An address in the file system, or an abstract name.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct UnixSocketAddress {
    /// The path.
    pub path: String,
    /// Whether it is the name of an abstract socket.
    pub r#abstract: Option<bool>,
    /// Whether an abstract name ends with its last byte, instead of being filled with zeros.
    pub tight: Option<bool>,
}

/// An address between a host and its virtual machines.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
pub struct VsockSocketAddress {
    /// The machine's number.
    pub cid: String,
    /// The port's number.
    pub port: String,
}

/// A socket that is open already.
#[derive(Debug, Clone, PartialEq, Eq, Default, QapiType)]
#[qapi(name = "FdSocketAddress")]
pub struct FdSocketAddress {
    /// The name that `getfd` gave it, or the number of an inherited descriptor.
    pub str: String,
}

/// An address of a socket.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "type")]
pub enum SocketAddress {
    /// TCP.
    Inet(InetSocketAddress),
    /// A Unix socket.
    Unix(UnixSocketAddress),
    /// VSOCK.
    Vsock(VsockSocketAddress),
    /// A descriptor.
    Fd(FdSocketAddress),
}

/// An address of a socket, as commands from before 2.9 have it: its members in an object `data`. They may stand beside
/// the type, too, as in today's addresses.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "type", content = "data", flatten)]
pub enum SocketAddressLegacy {
    /// TCP.
    Inet(InetSocketAddress),
    /// A Unix socket.
    Unix(UnixSocketAddress),
    /// VSOCK.
    Vsock(VsockSocketAddress),
    /// A descriptor.
    Fd(FdSocketAddress),
}

impl From<SocketAddressLegacy> for SocketAddress {
    fn from(address: SocketAddressLegacy) -> Self {
        match address {
            SocketAddressLegacy::Inet(inet) => Self::Inet(inet),
            SocketAddressLegacy::Unix(unix) => Self::Unix(unix),
            SocketAddressLegacy::Vsock(vsock) => Self::Vsock(vsock),
            SocketAddressLegacy::Fd(fd) => Self::Fd(fd),
        }
    }
}
