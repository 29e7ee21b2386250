//! Serial ports of the host: a terminal device whose speed and framing are those of the guest's UART.
//!
//! Left out on purpose: modem lines, and parallel ports, which Linux offers only through ppdev's own requests.

use crate::Error;
use crate::stream::Stream;
use rustix::fs::{Mode, OFlags};
use rustix::termios::{ControlModes, InputModes, OptionalActions, Termios};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What bits are added for checking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parity {
    /// None.
    None,
    /// The number of ones is odd.
    Odd,
    /// The number of ones is even.
    Even,
}

/// How a serial line runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineParameters {
    /// Bits per second.
    pub speed: u32,
    /// 5 to 8.
    pub data_bits: u8,
    /// What is checked.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
}

/// Opens a serial port.
pub(crate) fn open(path: &str) -> Result<Stream, Error> {
    let failed = |error: rustix::io::Errno| Error::io(format!("Could not open '{path}'"), error);
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
    let mut mode = rustix::termios::tcgetattr(&fd).map_err(failed)?;
    mode.make_raw();
    // A break is read as NUL.
    mode.input_modes.remove(InputModes::IGNBRK | InputModes::BRKINT | InputModes::PARMRK);
    mode.control_modes |= ControlModes::CREAD | ControlModes::CLOCAL;
    let first = LineParameters { speed: 115_200, data_bits: 8, parity: Parity::None, stop_bits: 1 };
    set(&mut mode, first);
    rustix::termios::tcsetattr(&fd, OptionalActions::Now, &mode).map_err(failed)?;
    Stream::both(fd).map_err(|error| Error::io(format!("Could not open '{path}'"), error))
}

fn set(mode: &mut Termios, wanted: LineParameters) {
    // A speed that the host does not have leaves the old one.
    _ = mode.set_speed(wanted.speed);
    let modes = &mut mode.control_modes;
    modes.remove(ControlModes::CSIZE);
    modes.insert(match wanted.data_bits {
        5 => ControlModes::CS5,
        6 => ControlModes::CS6,
        7 => ControlModes::CS7,
        _ => ControlModes::CS8,
    });
    modes.set(ControlModes::PARENB, wanted.parity != Parity::None);
    modes.set(ControlModes::PARODD, wanted.parity == Parity::Odd);
    modes.set(ControlModes::CSTOPB, wanted.stop_bits == 2);
}

/// Changes how the line runs.
pub(crate) fn change(fd: &OwnedFd, wanted: LineParameters) {
    if let Ok(mut mode) = rustix::termios::tcgetattr(fd) {
        set(&mut mode, wanted);
        // The line goes on as it was where the host refuses.
        _ = rustix::termios::tcsetattr(fd, OptionalActions::Now, &mode);
    }
}

/// Sends a break of a quarter of a second or so.
pub(crate) fn send_break(fd: Arc<OwnedFd>) {
    // It takes its time, and whoever asks must not wait; without a thread there is no break.
    let send = move || _ = rustix::termios::tcsendbreak(&fd);
    _ = std::thread::Builder::new().name("break".into()).spawn(send);
}

/// Why a parallel port of the host can't be had.
pub(crate) fn refuse_parallel(path: &str) -> Error {
    match rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Err(error) => Error::io(format!("Could not open '{path}'"), error),
        Ok(_) => Error::options("chardev: back end 'parallel' is not supported: ports of the host need ppdev"),
    }
}
