//! One open connection to the host: a file descriptor for input, one for output.

use crate::port::lock;
use crate::session::Session;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, SocketType, sockopt,
};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

/// How many file descriptors one message may carry; the kernel closes the rest.
const MAX_FDS: usize = 16;

/// What system calls a file descriptor wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A socket over which file descriptors can come.
    UnixSocket,
    /// Another socket.
    Socket,
    /// A socket whose every message stands alone.
    Datagram,
    /// A terminal, pipe or file.
    File,
}

/// How much is handed to a session at once.
const PIECE: usize = 16 << 10;
/// How large a datagram may get.
const DATAGRAM: usize = 4096;
/// Replies of a session that the other side does not read, in bytes, before it is given up.
const UNREAD_LIMIT: usize = 1 << 20;

/// An open connection. Its file descriptors do not block, unless they are regular files.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub(crate) kind: Kind,
    pub(crate) input: Option<Arc<OwnedFd>>,
    pub(crate) output: Option<Arc<OwnedFd>>,
    /// What is spoken on it, unless that is plain bytes.
    pub(crate) session: Option<Arc<Mutex<Session>>>,
}

/// How far a session is with its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Both sides have agreed.
    Established,
    /// The other side has to say more.
    WantsInput,
    /// The other side has to read.
    WantsRoom,
}

impl Stream {
    /// A connected socket, or any other file descriptor that is read and written.
    pub(crate) fn both(fd: OwnedFd) -> std::io::Result<Self> {
        let kind = match (sockopt::socket_domain(&fd), sockopt::socket_type(&fd)) {
            (Ok(_), Ok(SocketType::DGRAM)) => Kind::Datagram,
            (Ok(AddressFamily::UNIX), _) => Kind::UnixSocket,
            (Ok(_), _) => Kind::Socket,
            (Err(_), _) => Kind::File,
        };
        // Sockets need no mode: every call says that it shall not block.
        if kind == Kind::File {
            rustix::io::ioctl_fionbio(&fd, true)?;
        }
        let fd = Arc::new(fd);
        Ok(Self { kind, input: Some(Arc::clone(&fd)), output: Some(fd), session: None })
    }

    /// A connected socket on which `session` is spoken.
    pub(crate) fn with_session(fd: OwnedFd, session: Session) -> std::io::Result<Self> {
        let plain = Self::both(fd)?;
        // No file descriptors come with what is enciphered or framed.
        let kind = if plain.kind == Kind::UnixSocket { Kind::Socket } else { plain.kind };
        Ok(Self { kind, session: Some(Arc::new(Mutex::new(session))), ..plain })
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
        let Some(session) = &self.session else {
            return self.write_raw(bytes);
        };
        let mut session = lock(session);
        if !self.flush_session(&mut session)? {
            return Err(Errno::AGAIN);
        }
        let piece = bytes.get(..bytes.len().min(PIECE)).unwrap_or_default();
        session.send(piece).map_err(|_| Errno::CONNRESET)?;
        self.flush_session(&mut session)?;
        Ok(piece.len())
    }

    fn write_raw(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let Some(output) = &self.output else {
            return Ok(bytes.len());
        };
        let datagram = bytes.get(..bytes.len().min(DATAGRAM)).unwrap_or_default();
        loop {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let result = match self.kind {
                // What nobody hears is gone, as always with datagrams.
                Kind::Datagram => match rustix::net::send(output, datagram, flags) {
                    Err(Errno::AGAIN | Errno::INTR) => Err(Errno::AGAIN),
                    _ => Ok(datagram.len()),
                },
                Kind::UnixSocket | Kind::Socket => rustix::net::send(output, bytes, flags),
                Kind::File => rustix::io::write(output, bytes),
            };
            match result {
                Err(Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// Sends what the session has to say. Says whether all of it is sent.
    fn flush_session(&self, session: &mut Session) -> Result<bool, Errno> {
        loop {
            let (unsent, _) = session.unsent.as_slices();
            if unsent.is_empty() {
                return Ok(true);
            }
            match self.write_raw(unsent) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(false),
                Ok(count) => _ = session.unsent.drain(..count),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends what a session still has to say, if there is one. Says whether all of it is sent.
    pub(crate) fn flush(&self) -> Result<bool, Errno> {
        self.session.as_ref().map_or(Ok(true), |session| self.flush_session(&mut lock(session)))
    }

    /// Whether a session has something to say that the host has not taken.
    pub(crate) fn is_behind(&self) -> bool {
        self.session.as_ref().is_some_and(|session| !lock(session).unsent.is_empty())
    }

    /// Whether there is input that has left the host already.
    pub(crate) fn has_input(&self) -> bool {
        self.session.as_ref().is_some_and(|session| lock(session).has_input())
    }

    /// How often the other side has sent a break since this was asked last.
    pub(crate) fn take_breaks(&self) -> usize {
        self.session.as_ref().map_or(0, |session| std::mem::take(&mut lock(session).breaks))
    }

    /// Goes on with the beginning of a session.
    pub(crate) fn advance(&self) -> std::io::Result<Progress> {
        let Some(session) = &self.session else {
            return Ok(Progress::Established);
        };
        let mut session = lock(session);
        loop {
            let is_sent = self.flush_session(&mut session)?;
            if session.is_established() {
                return Ok(if is_sent { Progress::Established } else { Progress::WantsRoom });
            }
            match self.feed(&mut session) {
                Ok(true) => {}
                Ok(false) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Ok(if is_sent { Progress::WantsInput } else { Progress::WantsRoom });
                }
                Err(error) => {
                    // What was wrong, for the other side.
                    _ = self.flush_session(&mut session);
                    return Err(error);
                }
            }
        }
    }

    /// Gives the session what the host has. Says whether the other side goes on speaking.
    fn feed(&self, session: &mut Session) -> std::io::Result<bool> {
        if session.unsent.len() > UNREAD_LIMIT {
            return Err(std::io::Error::other("the other side does not read its replies"));
        }
        let mut raw = [0; PIECE];
        let count = self.read_raw(&mut raw, &mut None)?;
        if count == 0 {
            return Ok(false);
        }
        session.receive(raw.get(..count).unwrap_or_default())?;
        Ok(true)
    }

    /// Reads what is there now. File descriptors that came along replace those in `fds`.
    pub(crate) fn read(&self, buffer: &mut [u8], fds: &mut Option<Vec<OwnedFd>>) -> Result<usize, Errno> {
        let Some(session) = &self.session else {
            return self.read_raw(buffer, fds);
        };
        let mut session = lock(session);
        loop {
            let count = session.take_input(buffer);
            if count > 0 || session.has_ended() {
                return Ok(count);
            }
            match self.feed(&mut session) {
                Ok(true) => _ = self.flush_session(&mut session)?,
                Ok(false) => return Ok(0),
                Err(error) => {
                    _ = self.flush_session(&mut session);
                    return Err(error.raw_os_error().map_or(Errno::PROTO, Errno::from_raw_os_error));
                }
            }
        }
    }

    fn read_raw(&self, buffer: &mut [u8], fds: &mut Option<Vec<OwnedFd>>) -> Result<usize, Errno> {
        let Some(input) = &self.input else {
            return Err(Errno::AGAIN);
        };
        loop {
            let receive_plain =
                |buffer: &mut [u8]| rustix::net::recv(input, buffer, RecvFlags::DONTWAIT).map(|(count, _)| count);
            let result = match self.kind {
                Kind::UnixSocket => receive(input, buffer, fds),
                Kind::Socket => receive_plain(buffer),
                Kind::Datagram => match receive_plain(buffer) {
                    // An empty datagram is no end; nor is it one that nobody hears us.
                    Ok(0) | Err(Errno::CONNREFUSED) => Err(Errno::INTR),
                    other => other,
                },
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
        if let Some(session) = &self.session {
            let mut session = lock(session);
            session.close();
            _ = self.flush_session(&mut session);
        }
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
