//! One client: its handshake, and then two halves. The reading half takes messages; the writing half sends a picture when
//! the client has asked for one and there is something new, and goes on when the client has taken it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ::display::input::{ABSOLUTE_MAX, Axis, Button, Event as Input};
use ::display::keys::Key;
use ::display::{KeyPress, Rectangle};

use crate::channel::{Channel, Reader, Writer};
use crate::client::{Client, Features, Request, Share, Shared};
use crate::display::{Auth, Display, Seat};
use crate::encode::{Encoding, Style, put_header};
use crate::format::PixelFormat;
use crate::handshake;
use crate::keyboard::{Keyboard, Stroke};
use crate::message::{self, Message, encoding};
use crate::painter::{Painter, Plan};
use crate::service::{Event, PowerAction};

/// A person may have to type a password in this time.
const HANDSHAKE_TIME: Duration = Duration::from_secs(180);
/// Answers that a client does not take.
const MESSAGES_MAX: usize = 1 << 20;
/// Pictures without requests that may be on their way.
const FENCES_MAX: u32 = 2;
/// The effort of deflate for clients that don't say.
const COMPRESSION: u8 = 1;
const FENCE_REQUEST: u32 = 0x8000_0000;
/// The order of messages around a fence is kept in any case.
const FENCE_FLAGS: u32 = 7;
/// What our own fences carry.
const FENCE_MARK: &[u8] = b"p";

fn broken(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// Serves a client until it leaves or is told to.
pub async fn run(display: Arc<Display>, client: Arc<Client>, channel: Channel, auth: Auth) {
    let result = tokio::select! {
        result = serve(&display, &client, channel, auth) => result,
        () = client.kick.notified() => Ok(()),
    };
    if let Err(error) = result {
        tracing::debug!("a VNC client leaves: {error}");
    }
    display.leave(&client);
}

async fn serve(display: &Arc<Display>, client: &Arc<Client>, channel: Channel, auth: Auth) -> io::Result<()> {
    let handshake = async {
        let mut channel = channel;
        if client.info().is_websocket && !channel.is_framed() {
            if let Some(config) = display.tls() {
                let certificate;
                (channel, certificate) = channel.start_tls(&config).await?;
                client.set_certificate(certificate.as_deref());
            }
            channel.start_frames().await?;
        }
        let mut channel = handshake::run(channel, display, client, auth).await?;
        let [is_shared] = channel.read::<1>().await?;
        Ok::<_, io::Error>((channel, if is_shared == 0 { Share::Exclusive } else { Share::Shared }))
    };
    let (mut channel, share) = tokio::time::timeout(HANDSHAKE_TIME, handshake).await??;
    if !display.admit(client, share) {
        return Ok(());
    }
    let console = Arc::clone(&display.seat().console);
    let frame = tokio::task::spawn_blocking(move || console.snapshot()).await?;
    let size = (frame.width(), frame.height());
    drop(frame);
    channel.write(&server_init(size, &display.options().title)).await?;
    display.tell(Event::Initialized, client);
    display.start_refreshing();
    let (reader, writer) = channel.split();
    let hands = Hands::new(Arc::clone(display));
    tokio::select! {
        result = listen(display, client, reader, hands) => result,
        result = talk(display, client, writer, Painter::new(size)) => result,
    }
}

fn server_init((width, height): (u32, u32), title: &str) -> Vec<u8> {
    let mut message = Vec::new();
    message.extend_from_slice(&(width as u16).to_be_bytes());
    message.extend_from_slice(&(height as u16).to_be_bytes());
    message.extend_from_slice(&PixelFormat::NATIVE.write());
    message.extend_from_slice(&(title.len() as u32).to_be_bytes());
    message.extend_from_slice(title.as_bytes());
    message
}

/// The writing half.
async fn talk(display: &Display, client: &Client, mut writer: Writer, mut painter: Painter) -> io::Result<()> {
    loop {
        let seat = display.seat();
        let (mut plan, messages, frames) = client.with(|shared| {
            let is_full = shared.request == Request::Full;
            let goes_on = shared.is_continuous && shared.fences < FENCES_MAX;
            let plan = Plan {
                style: shared.style,
                features: shared.features,
                seat,
                may_send: shared.request != Request::None || goes_on,
                is_full,
                is_new: std::mem::take(&mut shared.is_new),
                again: std::mem::take(&mut shared.again),
                resize_answer: shared.resize_answer.take(),
                is_lossy_everywhere: display.options().non_adaptive,
            };
            (plan, std::mem::take(&mut shared.messages), std::mem::take(&mut shared.frames))
        });
        if !frames.is_empty() {
            writer.write_frames(&frames).await?;
        }
        if !messages.is_empty() {
            writer.write(&messages).await?;
        }
        if !painter.is_needed(&plan) {
            // Those that come back for details wait for a quiet moment.
            let most = if painter.has_lost_details() { Duration::from_millis(200) } else { Duration::from_secs(3600) };
            // Either is a reason to look again.
            let _ = tokio::time::timeout(most, client.wake.notified()).await;
            continue;
        }
        if plan.may_send {
            // A request that comes while this one is served is another one.
            client.with(|shared| shared.request = Request::None);
        }
        plan.again.truncate(AGAIN_MAX);
        let has_request = plan.may_send;
        let was_painted = tokio::task::spawn_blocking(move || {
            let is_picture = painter.paint(&plan);
            (painter, is_picture)
        });
        let is_picture;
        (painter, is_picture) = was_painted.await?;
        client.with(|shared| {
            if has_request && !is_picture && shared.request == Request::None && !shared.is_continuous {
                shared.request = Request::Incremental;
            }
        });
        if !painter.output().is_empty() {
            writer.write(painter.output()).await?;
        }
        if is_picture && client.with(add_fence) {
            let mut fence = Vec::new();
            put_fence(FENCE_REQUEST | 1, FENCE_MARK, &mut fence);
            writer.write(&fence).await?;
        }
    }
}

/// Counts a fence behind a picture that nobody has asked for.
fn add_fence(shared: &mut Shared) -> bool {
    let is_wanted = shared.is_continuous && shared.features.fence;
    shared.fences += u32::from(is_wanted);
    is_wanted
}

fn put_fence(flags: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[248, 0, 0, 0]);
    out.extend_from_slice(&flags.to_be_bytes());
    out.push(payload.len() as u8);
    out.extend_from_slice(payload);
}

/// More areas become the whole screen.
const AGAIN_MAX: usize = 64;

/// The reading half.
async fn listen(display: &Arc<Display>, client: &Client, mut reader: Reader, mut hands: Hands) -> io::Result<()> {
    loop {
        let buttons = client.with(|shared| shared.features.extended_buttons);
        let next = message::read(reader.input(), buttons).map_err(|error| broken(error.to_string()))?;
        if let Some((message, length)) = next {
            reader.consume(length);
            take(display, client, &mut hands, message)?;
            continue;
        }
        reader.fill().await?;
        let answers = reader.answers();
        let waiting = client.with(|shared| {
            shared.frames.extend_from_slice(&answers);
            shared.frames.len() + shared.messages.len()
        });
        if waiting > MESSAGES_MAX {
            return Err(broken("the client takes no answers"));
        }
        if !answers.is_empty() {
            client.wake.notify_one();
        }
    }
}

fn take(display: &Arc<Display>, client: &Client, hands: &mut Hands, message: Message) -> io::Result<()> {
    match message {
        Message::SetPixelFormat(format) => client.with(|shared| {
            shared.style.format = format;
            if !format.is_true_colour {
                put_colour_map(&mut shared.messages);
            }
        }),
        Message::SetEncodings(list) => set_encodings(display, client, hands, &list),
        Message::UpdateRequest { is_incremental: true, .. } => client.with(|shared| {
            if shared.request == Request::None {
                shared.request = Request::Incremental;
            }
        }),
        Message::UpdateRequest { area: [x, y, width, height], .. } => client.with(|shared| {
            shared.request = Request::Full;
            let [x, y, width, height] = [x, y, width, height].map(u32::from);
            let area = Rectangle { x, y, width, height };
            let is_room = shared.again.len() < AGAIN_MAX;
            let whole = Rectangle { x: 0, y: 0, width: 0xffff, height: 0xffff };
            if is_room { shared.again.push(area) } else { shared.again = vec![whole] }
        }),
        Message::Key { is_down, symbol } => {
            hands.symbol(symbol, is_down);
            return Ok(());
        }
        Message::ExtendedKey { is_down, symbol, code } => {
            hands.place(symbol, code, is_down);
            return Ok(());
        }
        Message::Pointer { buttons, position } => {
            hands.pointer(buttons, position);
            return Ok(());
        }
        Message::CutText => return Ok(()),
        Message::ContinuousUpdates { is_on } => client.with(|shared| {
            if shared.is_continuous && !is_on {
                shared.messages.push(150);
            }
            shared.is_continuous = is_on && shared.features.continuous;
            shared.fences = 0;
        }),
        Message::Fence { flags, payload } => client.with(|shared| {
            if flags & FENCE_REQUEST != 0 {
                put_fence(flags & FENCE_FLAGS, &payload, &mut shared.messages);
            } else if payload == FENCE_MARK {
                shared.fences = shared.fences.saturating_sub(1);
            }
        }),
        Message::Xvp { version, action } => xvp(display, client, version, action)?,
        Message::SetDesktopSize { size: (width, height) } => {
            let console = Arc::clone(&display.seat().console);
            let is_told = width > 0 && height > 0 && console.suggest_size(width.into(), height.into());
            // 3: that can't be; 4: the guest is told.
            client.with(|shared| shared.resize_answer = Some((1, if is_told { 4 } else { 3 })));
        }
    }
    client.wake.notify_one();
    Ok(())
}

fn xvp(display: &Display, client: &Client, version: u8, action: u8) -> io::Result<()> {
    if !client.with(|shared| shared.features.xvp) {
        return Err(broken("xvp was not offered"));
    }
    if version != 1 {
        return Err(broken(format!("xvp's version {version}")));
    }
    match action {
        2 => display.host().power(PowerAction::Shutdown),
        4 => display.host().power(PowerAction::Reset),
        _ => client.with(|shared| shared.messages.extend_from_slice(&[250, 0, 1, 0])),
    }
    Ok(())
}

fn put_colour_map(out: &mut Vec<u8>) {
    out.extend_from_slice(&[1, 0, 0, 0, 1, 0]);
    for colour in PixelFormat::colour_map() {
        out.extend(colour.iter().flat_map(|value| value.to_be_bytes()));
    }
}

fn set_encodings(display: &Display, client: &Client, hands: &mut Hands, list: &[i32]) {
    let options = display.options();
    let has = |number: i32| list.contains(&number);
    let level = |lowest: i32, highest: i32| {
        let found = list.iter().find(|number| (lowest..=highest).contains(*number));
        found.map(|number| (number - lowest) as u8)
    };
    let mut chosen = list.iter().find_map(|number| Encoding::numbered(*number)).unwrap_or_default();
    if chosen == Encoding::Zlib && has(encoding::ZRLE) {
        chosen = Encoding::Zrle;
    }
    let size = {
        let frame = display.seat().console.frame();
        Rectangle { x: 0, y: 0, width: frame.width(), height: frame.height() }
    };
    let mut messages = Vec::new();
    let mut acknowledge = |number: i32| {
        messages.extend_from_slice(&[0, 0, 0, 1]);
        put_header(size, number, &mut messages);
    };
    if has(encoding::EXTENDED_KEY_EVENT) {
        acknowledge(encoding::EXTENDED_KEY_EVENT);
    }
    if has(encoding::EXTENDED_MOUSE_BUTTONS) {
        acknowledge(encoding::EXTENDED_MOUSE_BUTTONS);
    }
    let features = Features {
        copy_rect: has(encoding::COPY_RECT),
        desktop_size: has(encoding::DESKTOP_SIZE),
        extended_desktop_size: has(encoding::EXTENDED_DESKTOP_SIZE),
        cursor: has(encoding::CURSOR),
        alpha_cursor: has(encoding::CURSOR_WITH_ALPHA),
        pointer_type: has(encoding::POINTER_TYPE_CHANGE),
        leds: has(encoding::LED_STATE),
        xvp: has(encoding::XVP) && options.power_control,
        fence: has(encoding::FENCE),
        continuous: has(encoding::FENCE) && has(encoding::CONTINUOUS_UPDATES),
        extended_buttons: has(encoding::EXTENDED_MOUSE_BUTTONS),
    };
    hands.has_pointer_type = features.pointer_type;
    hands.follows_lights = features.leds;
    client.with(|shared| {
        shared.style = Style {
            encoding: chosen,
            compression: level(encoding::COMPRESSION_LOWEST, encoding::COMPRESSION_HIGHEST).unwrap_or(COMPRESSION),
            quality: level(encoding::JPEG_QUALITY_LOWEST, encoding::JPEG_QUALITY_HIGHEST).filter(|_| options.lossy),
            ..shared.style
        };
        let before = std::mem::replace(&mut shared.features, features);
        shared.is_new = true;
        shared.messages.extend_from_slice(&messages);
        if features.xvp {
            shared.messages.extend_from_slice(&[250, 0, 1, 1]);
        }
        if features.fence && !before.fence {
            put_fence(FENCE_REQUEST, &[], &mut shared.messages);
        }
        if features.continuous && !before.continuous {
            // This tells that there is such a thing.
            shared.messages.push(150);
        }
    });
}

/// What a client does with keyboard and mouse; everything comes up when it goes.
struct Hands {
    display: Arc<Display>,
    keyboard: Keyboard,
    buttons: u16,
    last: Option<(u16, u16)>,
    has_pointer_type: bool,
    follows_lights: bool,
    /// Ctrl and Alt are held by the client.
    ctrl: bool,
    alt: bool,
}

/// Buttons by their bits.
const BUTTONS: [Button; 9] = [
    Button::Left,
    Button::Middle,
    Button::Right,
    Button::WheelUp,
    Button::WheelDown,
    Button::WheelLeft,
    Button::WheelRight,
    Button::Side,
    Button::Extra,
];

impl Hands {
    fn new(display: Arc<Display>) -> Self {
        Self {
            display,
            keyboard: Keyboard::default(),
            buttons: 0,
            last: None,
            has_pointer_type: false,
            follows_lights: false,
            ctrl: false,
            alt: false,
        }
    }

    /// Keys that are not the guest's: those that choose a screen, and all of them while that is a terminal.
    fn keeps(&mut self, symbol: u32, code: Option<u32>, is_down: bool) -> bool {
        match (symbol, code) {
            (0xffe3 | 0xffe4, _) | (_, Some(0x1d | 0x9d)) => self.ctrl = is_down,
            (0xffe9 | 0xffea, _) | (_, Some(0x38 | 0xb8)) => self.alt = is_down,
            _ => {}
        }
        // The place of a digit counts, where it is told: what it means with Alt depends on the layout.
        let number = match code {
            Some(code) => code.checked_sub(2),
            None => symbol.checked_sub(0x31),
        };
        if is_down
            && self.ctrl
            && self.alt
            && let Some(number @ 0..9) = number
            && self.display.select(number as usize)
        {
            let strokes = self.keyboard.release_all();
            self.play(&strokes);
            return true;
        }
        let seat = self.display.seat();
        let Some(terminal) = seat.console.typing() else { return false };
        if is_down {
            terminal.press(KeyPress { symbol, ctrl: self.ctrl, alt: self.alt });
            self.display.hurry();
        }
        true
    }

    fn play(&self, strokes: &[Stroke]) {
        let seat = self.display.seat();
        if !self.display.host().can_hear() {
            return;
        }
        let delay = u64::try_from(self.display.options().key_delay.as_nanos()).unwrap_or(u64::MAX);
        for (key, is_down) in strokes {
            // A guest that does not take keys loses some.
            let _taken = seat.keys.send(*key, *is_down, delay, seat.target());
        }
        self.display.hurry();
    }

    fn symbol(&mut self, symbol: u32, is_down: bool) {
        if self.keeps(symbol, None, is_down) {
            return;
        }
        self.type_symbol(symbol, is_down);
    }

    fn type_symbol(&mut self, symbol: u32, is_down: bool) {
        let display = Arc::clone(&self.display);
        let follows = self.follows_lights;
        let keyboard = &mut self.keyboard;
        let strokes =
            display.with_locks(|locks| keyboard.symbol(display.layout(), symbol, is_down, locks.filter(|_| !follows)));
        self.play(&strokes);
    }

    fn place(&mut self, symbol: u32, code: u32, is_down: bool) {
        if self.keeps(symbol, Some(code), is_down) {
            return;
        }
        let key = u8::try_from(code).ok().and_then(Key::numbered);
        // A layout that was asked for counts more than the place.
        let (Some(key), None) = (key, &self.display.options().layout) else {
            return self.type_symbol(symbol, is_down);
        };
        let display = Arc::clone(&self.display);
        let follows = self.follows_lights;
        let keyboard = &mut self.keyboard;
        let strokes = display
            .with_locks(|locks| keyboard.place(key, is_down, locks.filter(|_| !follows).map(|locks| (symbol, locks))));
        self.play(&strokes);
    }

    fn set_buttons(&mut self, seat: &Seat, buttons: u16) {
        let changed = self.buttons ^ buttons;
        self.buttons = buttons;
        for (bit, button) in BUTTONS.into_iter().enumerate().filter(|(bit, _)| changed >> bit & 1 != 0) {
            seat.input.send(&Input::Button { button, is_down: buttons >> bit & 1 != 0 }, seat.target());
        }
    }

    fn pointer(&mut self, buttons: u16, (x, y): (u16, u16)) {
        let seat = self.display.seat();
        if seat.console.typing().is_some() {
            self.last = Some((x, y));
            return;
        }
        if !self.display.host().can_hear() {
            return;
        }
        self.set_buttons(&seat, buttons);
        if seat.input.is_absolute() {
            let frame = seat.console.frame();
            for (axis, at, side) in [(Axis::X, x, frame.width()), (Axis::Y, y, frame.height())] {
                let to = (i64::from(at) * ABSOLUTE_MAX / i64::from(side)).min(ABSOLUTE_MAX);
                seat.input.send(&Input::Absolute { axis, to }, seat.target());
            }
        } else {
            let (x, y) = (i64::from(x), i64::from(y));
            // Clients that know of it tell movements around the middle.
            let middle = self.has_pointer_type.then_some((0x7fff, 0x7fff));
            let from = middle.or(self.last.map(|(x, y)| (i64::from(x), i64::from(y)))).unwrap_or((x, y));
            for (axis, by) in [(Axis::X, x - from.0), (Axis::Y, y - from.1)] {
                if by != 0 {
                    seat.input.send(&Input::Relative { axis, by }, seat.target());
                }
            }
        }
        self.last = Some((x, y));
        seat.input.sync();
        self.display.hurry();
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        let strokes = self.keyboard.release_all();
        if !strokes.is_empty() {
            self.play(&strokes);
        }
        if self.buttons != 0 {
            let seat = self.display.seat();
            self.set_buttons(&seat, 0);
            seat.input.sync();
        }
    }
}
