//! The inputs channel: keys, lights, the pointer. What is held comes up when the client goes.

use std::io;
use std::sync::{Arc, Mutex};

use ::display::input::{ABSOLUTE_MAX, Axis, Button, Event as Input, Leds};
use ::display::keys::Key;

use crate::channel::{Reader, Writer};
use crate::client::Client;
use crate::keyboard::Keyboard;
use crate::link::ChannelKind;
use crate::lock;
use crate::message::{self, Buttons, Message, MouseMode, kind};
use crate::server::{Seat, Server};
use crate::wire::Body;

/// Movements that are acknowledged together.
const BUNCH: u32 = 4;

/// Buttons that stay down, by their bits.
const HELD: [(u16, Button); 5] = [
    (1, Button::Left),
    (1 << 1, Button::Middle),
    (1 << 2, Button::Right),
    (1 << 5, Button::Side),
    (1 << 6, Button::Extra),
];

/// What turns the wheel, by the numbers of buttons.
fn wheel(number: u8) -> Option<Button> {
    match number {
        4 => Some(Button::WheelUp),
        5 => Some(Button::WheelDown),
        _ => None,
    }
}

/// Serves an inputs channel.
pub async fn run(server: &Arc<Server>, client: &Client, (reader, writer): (Reader, Writer)) -> io::Result<()> {
    let moves = Mutex::new(0);
    let hands = Hands {
        server: Arc::clone(server),
        keyboard: Keyboard::default(),
        buttons: 0,
        locks: bits(server.seat().input.leds()),
        lights: bits(server.seat().input.leds()),
    };
    tokio::select! {
        result = listen(client, reader, hands, &moves) => result,
        result = talk(server, client, writer, &moves) => result,
    }
}

/// Lights as the protocol has them.
fn bits(leds: Leds) -> u16 {
    u16::from(leds.scroll_lock) | u16::from(leds.num_lock) << 1 | u16::from(leds.caps_lock) << 2
}

async fn talk(server: &Server, client: &Client, mut writer: Writer, moves: &Mutex<u32>) -> io::Result<()> {
    let mut told = bits(server.seat().input.leds());
    writer.send(kind::INPUTS_INIT, &Body::default().u16(told)).await?;
    loop {
        let lights = bits(server.seat().input.leds());
        if told != lights {
            told = lights;
            writer.send(kind::INPUTS_KEY_MODIFIERS, &Body::default().u16(lights)).await?;
        }
        let is_bunch = {
            let mut moves = lock(moves);
            let is_bunch = *moves >= BUNCH;
            *moves -= if is_bunch { BUNCH } else { 0 };
            is_bunch
        };
        if is_bunch {
            writer.send(kind::INPUTS_MOUSE_MOTION_ACK, &Body::default()).await?;
        } else {
            client.wake.notified().await;
        }
    }
}

async fn listen(client: &Client, mut reader: Reader, mut hands: Hands, moves: &Mutex<u32>) -> io::Result<()> {
    loop {
        let (kind, body) = reader.next().await?;
        match message::read(ChannelKind::Inputs, kind, &body)? {
            Message::Disconnecting => return Ok(()),
            Message::Scancodes(bytes) => hands.scancodes(&bytes),
            Message::Modifiers(wanted) => hands.set_locks(wanted),
            Message::Motion { by, buttons } => {
                hands.motion(by, buttons);
                count(client, moves);
            }
            Message::Position { to, buttons, display } => {
                hands.position(to, buttons, display);
                count(client, moves);
            }
            Message::Button { button, is_down, buttons } => hands.button(button, is_down, buttons),
            _ => {}
        }
    }
}

fn count(client: &Client, moves: &Mutex<u32>) {
    let mut moves = lock(moves);
    *moves = moves.saturating_add(1);
    if *moves >= BUNCH {
        client.wake.notify_one();
    }
}

/// What a client does with keyboard and mouse.
struct Hands {
    server: Arc<Server>,
    keyboard: Keyboard,
    buttons: u16,
    /// The guest's locks, as far as they can be known before their lights change.
    locks: u16,
    lights: u16,
}

/// The keys of the locks, by their bits.
const LOCKS: [&str; 3] = ["scroll_lock", "num_lock", "caps_lock"];

impl Hands {
    /// The seat, if its guest can hear anything.
    fn seat(&self) -> Option<Arc<Seat>> {
        self.server.host().can_hear().then(|| self.server.seat())
    }

    fn play(&mut self, key: Key, is_down: bool) {
        if is_down && let Some(bit) = LOCKS.iter().position(|name| *name == key.codes().name) {
            self.locks ^= 1 << bit;
        }
        if let Some(seat) = self.seat() {
            // A guest that does not take keys loses some.
            let _taken = seat.keys.send(key, is_down, 0, seat.target());
        }
    }

    fn scancodes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some((key, is_down)) = self.keyboard.take(*byte) {
                self.play(key, is_down);
            }
        }
        self.server.hurry();
    }

    fn set_locks(&mut self, wanted: u16) {
        let lights = bits(self.server.seat().input.leds());
        if std::mem::replace(&mut self.lights, lights) != lights {
            self.locks = lights;
        }
        let differs = self.locks ^ wanted;
        for (_, name) in LOCKS.iter().enumerate().filter(|(bit, _)| differs >> bit & 1 != 0) {
            if let Some(key) = Key::named(name) {
                self.play(key, true);
                self.play(key, false);
            }
        }
    }

    fn set_buttons(&mut self, seat: &Seat, buttons: Buttons) {
        let changed = std::mem::replace(&mut self.buttons, buttons.0) ^ buttons.0;
        for (bit, button) in HELD.into_iter().filter(|(bit, _)| changed & bit != 0) {
            seat.input.send(&Input::Button { button, is_down: buttons.0 & bit != 0 }, seat.target());
        }
    }

    fn button(&mut self, number: u8, is_down: bool, buttons: Buttons) {
        let Some(seat) = self.seat() else { return };
        if let Some(button) = wheel(number) {
            seat.input.send(&Input::Button { button, is_down }, seat.target());
            // A notch each, however fast it turns.
            seat.input.sync();
        }
        self.set_buttons(&seat, buttons);
        seat.input.sync();
        self.server.hurry();
    }

    fn motion(&mut self, (x, y): (i32, i32), buttons: Buttons) {
        let Some(seat) = self.seat() else { return };
        if self.server.mouse_mode() == MouseMode::Server {
            for (axis, by) in [(Axis::X, x), (Axis::Y, y)].into_iter().filter(|(_, by)| *by != 0) {
                seat.input.send(&Input::Relative { axis, by: by.into() }, seat.target());
            }
        }
        self.set_buttons(&seat, buttons);
        seat.input.sync();
        self.server.hurry();
    }

    fn position(&mut self, (x, y): (u32, u32), buttons: Buttons, display: u8) {
        let Some(seat) = self.seat() else { return };
        let console = seat.consoles.get(usize::from(display));
        if self.server.mouse_mode() == MouseMode::Client
            && let Some(console) = console
        {
            let frame = console.frame();
            for (axis, at, side) in [(Axis::X, x, frame.width()), (Axis::Y, y, frame.height())] {
                let to = (i64::from(at) * ABSOLUTE_MAX / i64::from(side)).min(ABSOLUTE_MAX);
                seat.input.send(&Input::Absolute { axis, to }, seat.target().or(Some(console)));
            }
        }
        self.set_buttons(&seat, buttons);
        seat.input.sync();
        self.server.hurry();
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        for key in self.keyboard.release_all() {
            self.play(key, false);
        }
        if self.buttons != 0 {
            let seat = self.server.seat();
            self.set_buttons(&seat, Buttons(0));
            seat.input.sync();
        }
    }
}
