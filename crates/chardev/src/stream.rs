//! One open connection to the host: a file descriptor for input, one for output.

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, sockopt,
};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// How many file descriptors one message may carry; the kernel closes the rest.
const MAX_FDS: usize = 16;

/// What system calls a file descriptor wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A socket over which file descriptors can come.
    UnixSocket,
    /// Another socket.
    Socket,
    /// A terminal, pipe or file.
    File,
}

/// An open connection. Its file descriptors do not block, unless they are regular files.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub(crate) kind: Kind,
    pub(crate) input: Option<Arc<OwnedFd>>,
    pub(crate) output: Option<Arc<OwnedFd>>,
}

impl Stream {
    /// A connected socket, or any other file descriptor that is read and written.
    pub(crate) fn both(fd: OwnedFd) -> std::io::Result<Self> {
        let kind = match sockopt::socket_domain(&fd) {
            Ok(AddressFamily::UNIX) => Kind::UnixSocket,
            Ok(_) => Kind::Socket,
            Err(_) => Kind::File,
        };
        // Sockets need no mode: every call says that it shall not block.
        if kind == Kind::File {
            rustix::io::ioctl_fionbio(&fd, true)?;
        }
        let fd = Arc::new(fd);
        Ok(Self { kind, input: Some(Arc::clone(&fd)), output: Some(fd) })
    }

    pub(crate) fn is_socket(&self) -> bool {
        self.kind != Kind::File
    }

    /// Whether output goes to the file descriptor that input comes from.
    pub(crate) fn is_one(&self) -> bool {
        match (&self.input, &self.output) {
            (Some(input), Some(output)) => Arc::ptr_eq(input, output),
            _ => false,
        }
    }

    /// Writes what the host takes now.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let Some(output) = &self.output else {
            return Ok(bytes.len());
        };
        loop {
            let result = if self.is_socket() {
                rustix::net::send(output, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
            } else {
                rustix::io::write(output, bytes)
            };
            match result {
                Err(Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// Reads what is there now. File descriptors that came along replace those in `fds`.
    pub(crate) fn read(&self, buffer: &mut [u8], fds: &mut Option<Vec<OwnedFd>>) -> Result<usize, Errno> {
        let Some(input) = &self.input else {
            return Err(Errno::AGAIN);
        };
        loop {
            let result = match self.kind {
                Kind::UnixSocket => receive(input, buffer, fds),
                Kind::Socket => rustix::net::recv(input, &mut *buffer, RecvFlags::DONTWAIT).map(|(count, _)| count),
                Kind::File => rustix::io::read(input, &mut *buffer),
            };
            match result {
                Err(Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// Ends the connection for the other side, even if the descriptor is open elsewhere, too.
    pub(crate) fn shut_down(&self) {
        if let (true, Some(output)) = (self.is_socket(), &self.output) {
            _ = rustix::net::shutdown(output, rustix::net::Shutdown::Both);
        }
    }
}

fn receive(socket: &OwnedFd, buffer: &mut [u8], fds: &mut Option<Vec<OwnedFd>>) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    if message.flags.contains(ReturnFlags::CTRUNC) {
        tracing::warn!("more than {MAX_FDS} file descriptors came with one message: the rest was closed");
    }
    let mut received = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            received.extend(rights);
        }
    }
    if !received.is_empty() {
        *fds = Some(received);
    }
    Ok(message.bytes)
}
