//! Mounting over a file: by the process itself if it may, else by `fusermount3`.

use std::ffi::CString;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use block::{Error, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
};

use super::wire::MAX_TRANSFER;

/// The program that mounts for users who may not.
const HELPER: &str = "fusermount3";
/// How it is told which of its descriptors is the socket.
const HELPER_SOCKET: &str = "_FUSE_COMMFD";

/// Who else than the user that mounts may use the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllowOther {
    /// Nobody.
    Off,
    /// Everybody.
    On,
    /// Everybody where the host allows that.
    #[default]
    Auto,
}

/// A file over which something is mounted.
#[derive(Debug)]
pub(super) struct Mount {
    path: PathBuf,
    by_helper: bool,
    /// The file system's number.
    number: Option<(u32, u32)>,
}

/// The number of the file system at a path. Whoever serves it is not asked for anything.
fn number(path: &Path) -> Option<(u32, u32)> {
    let found = rustix::fs::statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::empty()).ok()?;
    Some((found.stx_dev_major, found.stx_dev_minor))
}

/// The file of this name, without symbolic links.
///
/// # Errors
/// There is none, or it is something else.
pub fn resolve(mount_point: &str) -> Result<PathBuf> {
    let failed = |error| Error::host(&error).context(format!("Failed to stat '{mount_point}'"));
    let path = std::fs::canonicalize(mount_point).map_err(failed)?;
    if !std::fs::metadata(&path).map_err(failed)?.is_file() {
        return Err(Error::invalid(format!("'{mount_point}' is not a regular file")));
    }
    Ok(path)
}

fn options(allow_other: bool) -> String {
    format!("default_permissions,max_read={MAX_TRANSFER}{}", if allow_other { ",allow_other" } else { "" })
}

/// Mounts; `None` if the process may not do that.
fn direct(path: &Path, allow_other: bool) -> Result<Option<OwnedFd>> {
    use std::os::fd::AsRawFd as _;
    let device = match rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::ACCESS | Errno::PERM) => return Ok(None),
        opened => opened.map_err(|errno| Error::from(errno).context("/dev/fuse"))?,
    };
    let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let options = options(allow_other);
    let data = format!("fd={},rootmode=100000,user_id={user},group_id={group},{options}", device.as_raw_fd());
    let data = CString::new(data).map_err(|_| Error::invalid("a zero byte"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    match rustix::mount::mount("/dev/fuse", path, "fuse", flags, Some(data.as_c_str())) {
        Ok(()) => Ok(Some(device)),
        Err(Errno::PERM) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The descriptor that comes over a socket, if there comes one before its end.
fn receive(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
    });
    received.ok()?;
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}

/// Has the helper mount.
fn by_helper(path: &Path, allow_other: bool) -> Result<OwnedFd> {
    let (ours, its) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let mut command = Command::new(HELPER);
    command.args(["-o", &options(allow_other), "--"]).arg(path).env(HELPER_SOCKET, "0");
    command.stdin(its).stdout(Stdio::null()).stderr(Stdio::piped());
    let started = command.spawn().map_err(|error| Error::host(&error).context(HELPER));
    // Its end of the socket.
    drop(command);
    let helper = started?;
    let device = receive(&ours);
    let output = helper.wait_with_output().map_err(|error| Error::host(&error))?;
    device.ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        Error::io(said.trim().strip_prefix("fusermount3: ").unwrap_or(said.trim()).to_owned())
    })
}

impl Mount {
    /// Mounts over the file `path`: the device that the kernel's requests come from, and whether all may use the file.
    ///
    /// # Errors
    /// The host's.
    pub fn new(path: PathBuf, allow_other: AllowOther) -> Result<(Self, OwnedFd, bool)> {
        let all = allow_other != AllowOther::Off;
        let (device, by_helper, all) = match direct(&path, all)? {
            Some(device) => (device, false, all),
            None => match by_helper(&path, all) {
                Err(_) if allow_other == AllowOther::Auto => (by_helper(&path, false)?, true, false),
                mounted => (mounted?, true, all),
            },
        };
        let number = number(&path);
        Ok((Self { path, by_helper, number }, device, all))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes it away. Who has the file open keeps it until it is not served any more.
    pub fn unmount(&self) {
        // Something else may have been mounted there.
        if self.number.is_none() || number(&self.path) != self.number {
            return;
        }
        let unmounted = if self.by_helper {
            let mut command = Command::new(HELPER);
            command.args(["-u", "-q", "-z", "--"]).arg(&self.path).stdin(Stdio::null()).stdout(Stdio::null());
            command.stderr(Stdio::null()).status().map(|status| status.success())
        } else {
            rustix::mount::unmount(&self.path, UnmountFlags::DETACH).map(|()| true).map_err(Into::into)
        };
        if !unmounted.as_ref().is_ok_and(|done| *done) {
            tracing::warn!("unmounting '{}': {unmounted:?}", self.path.display());
        }
    }
}
