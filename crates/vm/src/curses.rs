//! `-display curses`: the machine's text screen in the terminal that the program was started in, and its keyboard and
//! mouse for the guest.
//!
//! The terminal is a character device like `stdio`, so its mode is put back at the program's end, also when a signal ends
//! it. What is drawn are the sequences that all of today's terminals know (ECMA-48, xterm's alternate screen and mouse):
//! no data base of terminals is asked. The last line of a terminal with room for it says how to get out.
//!
//! All of it runs on the monitor thread: a task looks at the screen and at the terminal's size 20 times a second. Left
//! out on purpose: graphics modes, of which only the size is told, and fonts other than code page 437.

mod draw;
mod keys;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use chardev::{Chardev, Outbox};
use display::input::{ABSOLUTE_MAX, Axis, Button, Event, Hub, KeyQueue};
use display::keys::Key;
use display::text::TextScreen;
use display::{Console, KeyPress};
use machine::Machine;
use tokio::runtime::Handle;
use vnc::keyboard::{Keyboard, Layout, Stroke};

use self::draw::Terminal;
use self::keys::{Input, Typed};
use crate::control::Control;
use crate::inbox::Inbox;
use crate::terminals::Terminals;

/// The id of the terminal's character device.
pub const CHARDEV: &str = "curses";

/// How often the screen is looked at.
const PERIOD: Duration = Duration::from_millis(50);
/// Guest time between two strokes, in nanoseconds.
const STROKE: u64 = 2_000_000;
/// A frame is not drawn while so much of the one before is on its way.
const UNREAD: usize = 64;

const SHIFT: u32 = 0xffe1;
const CTRL: u32 = 0xffe3;
const ALT: u32 = 0xffe9;

struct View {
    input: Input,
    terminal: Terminal,
    output: Outbox,
    /// The screen that is shown.
    screen: usize,
    /// The first byte of a command to the display itself was typed.
    is_command: bool,
    /// The mouse was there, in the terminal's cells.
    mouse: (i64, i64),
}

/// The display.
pub struct Curses {
    chardev: Chardev,
    view: Mutex<View>,
    consoles: Vec<Arc<Console>>,
    terminals: Arc<Terminals>,
    keys: Arc<KeyQueue>,
    hub: Arc<Hub>,
    /// The layout of the guest's keyboard.
    layout: Option<Layout>,
    leave: Box<dyn Fn() + Send + Sync>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Columns and rows of the terminal.
fn terminal_size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (usize::from(size.ws_col), usize::from(size.ws_row)),
        _ => (80, 25),
    }
}

impl Curses {
    /// Shows the screens of `machine` on the terminal from now on.
    pub fn start(
        chardev: Chardev,
        (machine, terminals): (&Machine, &Arc<Terminals>),
        layout: Option<&str>,
        runtime: &Handle,
        inbox: &Arc<Inbox<Control>>,
    ) -> Arc<Self> {
        let layout = Layout::named(layout.unwrap_or("en-us")).or_else(|| Layout::named("en-us"));
        let inbox = Arc::clone(inbox);
        let mut output = Outbox::default();
        output.put(draw::BEGIN.as_bytes());
        let view = View {
            input: Input::default(),
            terminal: Terminal::default(),
            output,
            screen: 0,
            is_command: false,
            mouse: (0, 0),
        };
        let curses = Arc::new(Self {
            chardev,
            view: Mutex::new(view),
            consoles: machine.consoles().to_vec(),
            terminals: Arc::clone(terminals),
            keys: Arc::clone(machine.key_queue()),
            hub: Arc::clone(machine.input()),
            layout,
            leave: Box::new(move || inbox.leave()),
        });
        let (typing, room) = (Arc::downgrade(&curses), Arc::downgrade(&curses));
        curses
            .chardev
            .set_writable(Box::new(move || with(&room, |curses| lock(&curses.view).output.send(&curses.chardev))));
        curses.chardev.set_input(Box::new(move |bytes| {
            with(&typing, |curses| curses.typed(bytes));
            bytes.len()
        }));
        let looking = Arc::downgrade(&curses);
        runtime.spawn(async move {
            let mut ticks = tokio::time::interval(PERIOD);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let Some(curses) = looking.upgrade() else { return };
                curses.look();
            }
        });
        curses
    }

    /// A screen by its number: the machine's, then terminals.
    fn console(&self, number: usize) -> Option<Arc<Console>> {
        self.terminals.behind(&self.consoles).into_iter().nth(number)
    }

    /// Draws what has changed.
    fn look(&self) {
        let view = &mut *lock(&self.view);
        // An escape that nothing has followed is a key.
        if let Some(typed) = view.input.pause() {
            self.act(view, typed);
        }
        if view.output.len() > UNREAD {
            return;
        }
        let console = self.console(view.screen);
        let text = match console.as_ref().and_then(|console| console.text()) {
            Some(text) => text,
            None => {
                let message = match console.map(|console| console.snapshot()) {
                    Some(picture) => format!("{} x {} Graphic mode", picture.width(), picture.height()),
                    None => "This machine has no screen.".to_owned(),
                };
                let cells = message.bytes().map(|byte| (byte, 7)).collect::<Vec<_>>();
                TextScreen { columns: cells.len(), rows: 1, cells, cursor: None }
            }
        };
        let hint = if view.is_command { draw::COMMANDS } else { draw::HINT };
        let drawn = view.terminal.draw(&text, hint, terminal_size());
        view.output.put(&drawn);
        view.output.send(&self.chardev);
    }

    fn typed(&self, bytes: &[u8]) {
        let view = &mut *lock(&self.view);
        for typed in view.input.take(bytes) {
            self.act(view, typed);
        }
    }

    fn act(&self, view: &mut View, typed: Typed) {
        match typed {
            Typed::Key { symbol: keys::COMMAND, ctrl: true, .. } if !view.is_command => view.is_command = true,
            Typed::Key { symbol, .. } if view.is_command && symbol == u32::from(b'q') => {
                view.is_command = false;
                (self.leave)();
            }
            Typed::Key { symbol, .. } if view.is_command && symbol == u32::from(b'l') => {
                view.is_command = false;
                view.terminal.forget();
            }
            // Escape and a digit choose a screen, as everywhere.
            Typed::Key { symbol: symbol @ 0x31..=0x39, alt: true, .. } => {
                let screen = (symbol - 0x31) as usize;
                if self.console(screen).is_some() {
                    view.screen = screen;
                    view.terminal.forget();
                }
            }
            Typed::Key { symbol, ctrl, alt } => {
                view.is_command = false;
                let console = self.console(view.screen);
                match console.as_ref().and_then(|console| console.typing()) {
                    Some(terminal) => terminal.press(KeyPress { symbol, ctrl, alt }),
                    None => self.press(symbol, ctrl, alt),
                }
            }
            Typed::Mouse { button, is_down, column, row } => self.mouse(view, (button, is_down), (column, row)),
        }
    }

    /// Types a symbol for the guest.
    fn press(&self, symbol: u32, ctrl: bool, alt: bool) {
        let Some(layout) = &self.layout else { return };
        let mut keyboard = Keyboard::default();
        let is_capital = (0x41..=0x5a).contains(&symbol);
        let modifiers = [(CTRL, ctrl), (ALT, alt), (SHIFT, is_capital)];
        let mut strokes: Vec<Stroke> = Vec::new();
        let held = modifiers.iter().filter(|(_, is_held)| *is_held).map(|(symbol, _)| *symbol);
        for symbol in held.chain([symbol]) {
            strokes.extend(keyboard.symbol(layout, symbol, true, None));
        }
        strokes.extend(keyboard.release_all());
        for (key, is_down) in strokes {
            self.stroke(key, is_down);
        }
    }

    fn stroke(&self, key: Key, is_down: bool) {
        // Who types faster than the guest reads loses what comes last.
        let _taken = self.keys.send(key, is_down, STROKE, None);
    }

    fn mouse(&self, view: &mut View, (button, is_down): (u8, bool), at: (i64, i64)) {
        /// How far a cell is for a mouse that tells movements.
        const CELL: (i64, i64) = (8, 16);
        if self.hub.is_absolute() {
            let (columns, rows) = view.terminal.shown();
            let place = |at: i64, of: usize| (at * 2 + 1) * ABSOLUTE_MAX / (2 * (of as i64).max(1));
            for (axis, to) in [(Axis::X, place(at.0, columns)), (Axis::Y, place(at.1, rows))] {
                self.hub.send(&Event::Absolute { axis, to: to.clamp(0, ABSOLUTE_MAX) }, None);
            }
        } else {
            for (axis, by) in [(Axis::X, (at.0 - view.mouse.0) * CELL.0), (Axis::Y, (at.1 - view.mouse.1) * CELL.1)] {
                self.hub.send(&Event::Relative { axis, by }, None);
            }
        }
        view.mouse = at;
        let button = match button {
            0 => Some(Button::Left),
            1 => Some(Button::Middle),
            2 => Some(Button::Right),
            64 => Some(Button::WheelUp),
            65 => Some(Button::WheelDown),
            _ => None,
        };
        if let Some(button) = button {
            self.hub.send(&Event::Button { button, is_down }, None);
            if matches!(button, Button::WheelUp | Button::WheelDown) {
                self.hub.sync();
                self.hub.send(&Event::Button { button, is_down: false }, None);
            }
        }
        self.hub.sync();
    }

    /// Gives the terminal back as it was. The character device does the rest.
    pub fn end(&self) {
        let view = &mut *lock(&self.view);
        view.output.put(draw::END.as_bytes());
        view.output.send(&self.chardev);
    }
}

impl Drop for Curses {
    fn drop(&mut self) {
        self.chardev.detach();
    }
}

fn with(curses: &Weak<Curses>, act: impl FnOnce(&Curses)) {
    if let Some(curses) = curses.upgrade() {
        act(&curses);
    }
}
