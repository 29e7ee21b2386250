//! A graphics tablet on a serial line: Wacom's PenPartner (CT-0045R), which speaks Wacom's protocol IV at 9600 baud, 8N1.
//!
//! The computer sends commands, each ended by CR or LF, but for `~#`, which is answered at once:
//!
//! | command | answer |
//! | --- | --- |
//! | `~#` | the model and the version of its firmware |
//! | `RE` | how the line runs |
//! | `ST` | reports from now on, the first one at once |
//! | `SP` | no more reports |
//! | `TS`, and a byte | seven bytes that follow from this byte |
//!
//! `@` before a command means nothing here, and unknown commands are taken without a word. A report has seven bytes: the
//! first one alone has its highest bit set, and says whether the pen touches the tablet; two numbers of 16 bits follow, the
//! two highest of them in the first and the fourth byte; the last one would be the pressure, of which this tablet knows
//! nothing. At another speed nothing is understood and nothing said, and a change of speed begins everything anew.
//!
//! Left out on purpose: what such a tablet says of itself when it gets power (its Plug and Play name), before anybody has
//! set up the line.
//!
//! Commands are taken on the thread of the guest's serial port, reports on that of whoever moves the pointer; a task on the
//! monitor thread delivers answers and reports.

use crate::port::{Port, Sink, lock};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// Bits per second.
const SPEED: u32 = 9600;
const MODEL: &[u8] = b"~#CT-0045R,V1.3-5,";
const LINE_SETTINGS: &[u8] = b"96,N,8,0";
/// How much is kept for a guest that does not read. What has no room is lost, whole reports at a time.
const OUTPUT_MAX: usize = 512;
/// More of a command is not kept: there is none so long.
const COMMAND_MAX: usize = 16;
/// The largest position on either axis of a pointer.
const POINTER_MAX: i64 = 0x7fff;
/// How many of the tablet's dots ten thousand of the pointer's steps are, in both directions.
const DOTS: (i64, i64) = (1537, 1152);

/// The tablet. Dropping it does not end it: its character device has it, too.
#[derive(Default)]
pub struct Tablet {
    state: Mutex<State>,
    on_end: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

#[derive(Default)]
struct State {
    /// 0 until the guest has said it.
    speed: u32,
    command: Vec<u8>,
    output: VecDeque<u8>,
    /// How often output was thrown away, or taken behind the task's back.
    resets: u64,
    is_reporting: bool,
    position: (i64, i64),
    is_touching: bool,
    waker: Option<Waker>,
}

impl std::fmt::Debug for Tablet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tablet").finish_non_exhaustive()
    }
}

impl Tablet {
    /// Moves the pen, in steps of a pointer from 0 to 32767; what is absent stays.
    pub fn move_to(&self, x: Option<i64>, y: Option<i64>) {
        let position = &mut lock(&self.state).position;
        let within = |to: i64| to.clamp(0, POINTER_MAX);
        *position = (x.map_or(position.0, within), y.map_or(position.1, within));
    }

    /// Puts the pen on the tablet, or lifts it.
    pub fn touch(&self, is_touching: bool) {
        lock(&self.state).is_touching = is_touching;
    }

    /// Says where the pen is, if the guest wants to know.
    pub fn report(&self) {
        self.act(|state| {
            if state.is_reporting {
                state.report();
            }
        });
    }

    /// Sets what to do when the character device has another back end, or is gone.
    pub fn on_end(&self, on_end: Box<dyn FnOnce() + Send>) {
        *lock(&self.on_end) = Some(on_end);
    }

    /// Takes what the guest sends.
    pub fn receive(&self, bytes: &[u8]) {
        self.act(|state| bytes.iter().for_each(|byte| state.receive(*byte)));
    }

    /// The guest runs its line at this speed, in bits per second.
    pub fn set_speed(&self, speed: u32) {
        self.act(|state| {
            if std::mem::replace(&mut state.speed, speed) != speed {
                state.command.clear();
                state.output.clear();
                state.resets += 1;
                state.is_reporting = false;
            }
        });
    }

    /// What it has said and nobody has heard yet.
    pub fn take_output(&self) -> Vec<u8> {
        let mut state = lock(&self.state);
        state.resets += 1;
        state.output.drain(..).collect()
    }

    fn act(&self, act: impl FnOnce(&mut State)) {
        let waker = {
            let mut state = lock(&self.state);
            act(&mut state);
            if state.output.is_empty() { None } else { state.waker.take() }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, port: &Port, waits: &mut bool, context: &Context<'_>) -> Poll<()> {
        port.state().waker = Some(context.waker().clone());
        lock(&self.state).waker = Some(context.waker().clone());
        port.announce_open();
        loop {
            let resumed = std::mem::take(&mut port.state().resume);
            if *waits && !resumed {
                return Poll::Pending;
            }
            let (resets, mut output) = {
                let state = lock(&self.state);
                (state.resets, state.output.clone())
            };
            if output.is_empty() {
                *waits = false;
                return Poll::Pending;
            }
            // The tablet's lock is not held: the serial port may be about to say something.
            let offered = output.make_contiguous();
            let taken = port.input.call(|input| input(offered)).unwrap_or(0).min(offered.len());
            *waits = taken < offered.len();
            let mut state = lock(&self.state);
            if state.resets == resets {
                state.output.drain(..taken);
            }
        }
    }
}

impl State {
    fn receive(&mut self, byte: u8) {
        if self.speed != SPEED || (self.command.is_empty() && matches!(byte, b'@' | b'\r' | b'\n')) {
            return;
        }
        if matches!(byte, b'\r' | b'\n') {
            let command = std::mem::take(&mut self.command);
            return self.execute(&command);
        }
        if self.command.len() < COMMAND_MAX {
            self.command.push(byte);
        }
        if self.command == b"~#" {
            self.command.clear();
            self.say(MODEL);
        }
    }

    fn execute(&mut self, command: &[u8]) {
        match command {
            b"RE" => self.say(LINE_SETTINGS),
            b"ST" => {
                self.is_reporting = true;
                self.report();
            }
            b"SP" => self.is_reporting = false,
            [b'T', b'S', asked] => {
                let (high, low) = (asked >> 4 & 7, asked & 15);
                self.say(&[0xa3, 0x7e | asked >> 7, (high ^ 5) << 4 | low ^ 7, 0x03, 0x7f, 0x7f, 0x00]);
            }
            _ => {}
        }
    }

    fn report(&mut self) {
        if self.speed != SPEED {
            return;
        }
        let first = if self.is_touching { 0xa0 } else { 0xe0 };
        let split = |dots: i64| [(dots >> 14 & 3) as u8, (dots >> 7 & 0x7f) as u8, (dots & 0x7f) as u8];
        let x = split(self.position.0 * DOTS.0 / 10_000);
        let y = split(self.position.1 * DOTS.1 / 10_000);
        self.say(&[first | x[0], x[1], x[2], y[0], y[1], y[2], 0]);
    }

    fn say(&mut self, bytes: &[u8]) {
        if self.output.len() + bytes.len() <= OUTPUT_MAX {
            self.output.extend(bytes);
        }
    }
}

/// A tablet that is to be served. Its end is told when this or the task is dropped.
pub(crate) struct Server(Arc<Tablet>);

impl Server {
    pub(crate) fn new(tablet: &Arc<Tablet>) -> Self {
        Self(Arc::clone(tablet))
    }

    /// Delivers what the tablet says, for as long as the character device is this tablet.
    pub(crate) async fn serve(self, port: Arc<Port>) {
        port.state().sink = Sink::Tablet(Arc::clone(&self.0));
        let mut waits = false;
        std::future::poll_fn(|context| self.0.poll(&port, &mut waits, context)).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let on_end = lock(&self.0.on_end).take();
        if let Some(on_end) = on_end {
            on_end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(tablet: &Tablet, command: &[u8]) -> Vec<u8> {
        tablet.receive(command);
        tablet.take_output()
    }

    #[test]
    fn commands_are_understood_in_any_pieces() {
        let tablet = Tablet::default();
        tablet.set_speed(9600);
        assert_eq!(asked(&tablet, b"~#"), MODEL);
        assert_eq!(asked(&tablet, b"R"), b"");
        assert_eq!(asked(&tablet, b"E\r\n@RE\r"), [LINE_SETTINGS, LINE_SETTINGS].concat());
        assert_eq!(asked(&tablet, b"TSa\r"), [0xa3, 0x7e, 0x36, 0x03, 0x7f, 0x7f, 0]);
        assert_eq!(asked(&tablet, b"TS\xff\r"), [0xa3, 0x7f, 0x28, 0x03, 0x7f, 0x7f, 0]);
        for unknown in [&b"TE\r"[..], b"REX\r", b"\0RE\r", &[b'A'; 1000], b"\r", b"re\r"] {
            assert_eq!(asked(&tablet, unknown), b"", "{unknown:?}");
        }
        assert_eq!(asked(&tablet, b"RE\r"), LINE_SETTINGS, "no command is stuck");
    }

    #[test]
    fn other_speeds_are_not_understood_and_a_new_speed_begins_anew() {
        let tablet = Tablet::default();
        assert_eq!(asked(&tablet, b"~#"), b"", "nobody has set up the line");
        tablet.set_speed(9600);
        tablet.receive(b"ST\rR");
        tablet.set_speed(9600);
        assert_eq!(tablet.take_output().len(), 7);
        tablet.report();
        tablet.set_speed(1200);
        assert_eq!(asked(&tablet, b"~#"), b"");
        tablet.set_speed(9600);
        tablet.report();
        assert_eq!(asked(&tablet, b"E\rRE\r"), LINE_SETTINGS, "half a command is forgotten");
    }

    #[test]
    fn reports_are_whole_and_within_the_tablet() {
        let tablet = Tablet::default();
        tablet.set_speed(9600);
        tablet.receive(b"ST\r");
        assert_eq!(tablet.take_output(), [0xe0, 0, 0, 0, 0, 0, 0]);
        tablet.move_to(Some(16000), Some(99_999));
        tablet.report();
        assert_eq!(tablet.take_output(), [0xe0, 0x13, 0x1b, 0, 0x1d, 0x3e, 0]);
        tablet.touch(true);
        tablet.move_to(None, Some(-1));
        tablet.report();
        assert_eq!(tablet.take_output(), [0xa0, 0x13, 0x1b, 0, 0, 0, 0]);
        for _ in 0..1000 {
            tablet.report();
        }
        assert_eq!(tablet.take_output().len(), 511);
    }
}
