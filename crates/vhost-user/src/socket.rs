//! Messages and their descriptors on a socket.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use aio::Stream;
use iobuf::IoBuf;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};

use crate::wire::{HEADER_LEN, Header, MAX_FDS};

/// A message, not understood yet.
pub(crate) struct Message {
    pub header: Header,
    pub payload: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

/// Reads what is there, with descriptors.
async fn receive(stream: &Stream, into: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(into)];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = match rustix::net::recvmsg(stream.fd(), &mut parts, &mut control, flags) {
            Err(Errno::AGAIN) => {
                stream.readable().await?;
                continue;
            }
            Err(Errno::INTR) => continue,
            received => received?,
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || fds.len() > MAX_FDS {
            return Err(io::Error::other("too many descriptors"));
        }
        return Ok(received.bytes);
    }
}

async fn fill(stream: &Stream, into: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut done = 0;
    while done < into.len() {
        match receive(stream, &mut into[done..], fds).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => done += n,
        }
    }
    Ok(())
}

/// The next message; `None` when the front end has left between two of them.
pub(crate) async fn read(stream: &Stream) -> io::Result<Option<Message>> {
    let mut fds = Vec::new();
    let mut bytes = [0; HEADER_LEN];
    let first = receive(stream, &mut bytes, &mut fds).await?;
    if first == 0 {
        return Ok(None);
    }
    fill(stream, &mut bytes[first..], &mut fds).await?;
    let header = Header::parse(&bytes).map_err(io::Error::other)?;
    let mut payload = vec![0; header.size as usize];
    fill(stream, &mut payload, &mut fds).await?;
    Ok(Some(Message { header, payload, fds }))
}

/// Sends a reply.
pub(crate) async fn send(stream: &Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(IoBuf::copy_of(bytes)).await
}

/// Whether a descriptor is an event counter, the only kind that is read and written here without ever waiting.
pub(crate) fn is_eventfd(fd: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"anon_inode:[eventfd"))
}
