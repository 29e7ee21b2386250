//! Serial ports of the host: a terminal device whose speed and framing are those of the guest's UART.
//!
//! Left out on purpose: modem lines, and parallel ports, which Linux offers only through ppdev's own requests: none of
//! them was ever seen to work here.

use crate::Error;
use crate::stream::{Kind, Stream};
use crate::tablet::Tablet;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
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

/// What hears how a guest's line runs.
#[derive(Debug, Clone)]
pub(crate) enum Line {
    /// A serial port of the host.
    Host(Arc<OwnedFd>),
    /// A tablet inside this program.
    Tablet(Arc<Tablet>),
}

impl Line {
    /// Lets it run otherwise.
    pub(crate) fn change(&self, wanted: LineParameters) {
        match self {
            Self::Host(fd) => change(fd, wanted),
            Self::Tablet(tablet) => tablet.set_speed(wanted.speed),
        }
    }

    /// Sends a break on it.
    pub(crate) fn send_break(self) {
        match self {
            Self::Host(fd) => send_break(fd),
            // It means nothing there.
            Self::Tablet(_) => {}
        }
    }
}

/// Opens a serial port, and its line. A file that is no terminal is taken, too, and has no line: `/dev/null` is a popular
/// port.
pub(crate) fn open(path: &str) -> Result<(Stream, Option<Line>), Error> {
    let could_not = || format!("Could not open '{path}'");
    let failed = |error: Errno| Error::io(could_not(), error);
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
    let mut mode = match rustix::termios::tcgetattr(&fd) {
        Ok(mode) => mode,
        Err(Errno::NOTTY) => {
            // Input that is at its end does not end the output.
            let output = fd.try_clone().map_err(|error| Error::io(could_not(), error))?;
            let (input, output) = (Some(Arc::new(fd)), Some(Arc::new(output)));
            return Ok((Stream { kind: Kind::File, input, output, session: None }, None));
        }
        Err(error) => return Err(failed(error)),
    };
    mode.make_raw();
    // A break is read as NUL.
    mode.input_modes.remove(InputModes::IGNBRK | InputModes::BRKINT | InputModes::PARMRK);
    mode.control_modes |= ControlModes::CREAD | ControlModes::CLOCAL;
    let first = LineParameters { speed: 115_200, data_bits: 8, parity: Parity::None, stop_bits: 1 };
    set(&mut mode, first);
    // The line runs as it does where the host refuses.
    _ = rustix::termios::tcsetattr(&fd, OptionalActions::Now, &mode);
    let stream = Stream::both(fd).map_err(|error| Error::io(could_not(), error))?;
    let line = stream.input.clone().map(Line::Host);
    Ok((stream, line))
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
fn change(fd: &OwnedFd, wanted: LineParameters) {
    if let Ok(mut mode) = rustix::termios::tcgetattr(fd) {
        set(&mut mode, wanted);
        // The line goes on as it was where the host refuses.
        _ = rustix::termios::tcsetattr(fd, OptionalActions::Now, &mode);
    }
}

/// Sends a break of a quarter of a second or so.
fn send_break(fd: Arc<OwnedFd>) {
    // It takes its time, and whoever asks must not wait; without a thread there is no break.
    let send = move || _ = rustix::termios::tcsendbreak(&fd);
    _ = std::thread::Builder::new().name("break".into()).spawn(send);
}

/// The major number of ppdev's devices.
const PPDEV: u32 = 99;

/// Why a parallel port of the host can't be had.
pub(crate) fn refuse_parallel(path: &str) -> Error {
    let failed = |error: Errno| Error::io(format!("Could not open '{path}'"), error);
    let looked = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).and_then(rustix::fs::fstat);
    match looked {
        Err(error) => failed(error),
        Ok(stat)
            if FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
                && rustix::fs::major(stat.st_rdev) == PPDEV =>
        {
            Error::options("chardev: back end 'parallel' is not supported: ports of the host need ppdev")
        }
        Ok(_) => Error::io("not a parallel port", Errno::NOTTY),
    }
}
