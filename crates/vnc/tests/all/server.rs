//! A whole server over a Unix socket, with a screen and a keyboard of our own.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clock::Clock;
use display::input::{Event as Input, Hub, InputDevice, KeyQueue, Leds, Takes};
use display::{Console, Cursor, CursorShape, Origin, Screen, Surface};
use vnc::format::{Converter, PixelFormat};
use vnc::{
    ClientInfo, Display, Event, Host, ListenAddress, Options, PowerAction, Seat, ServerInfo, Service, SharePolicy,
};

use crate::client::{Client, Message, connect, is_closed};
use crate::decoder::{Rectangle, Source};

/// What the test sees of the program around the server.
#[derive(Default)]
struct Program {
    events: Mutex<Vec<Event>>,
    powers: Mutex<Vec<PowerAction>>,
}

impl Host for Program {
    fn can_hear(&self) -> bool {
        true
    }
    fn event(&self, event: Event, _: &ServerInfo, _: &ClientInfo) {
        self.events.lock().expect("events").push(event);
    }
    fn power(&self, action: PowerAction) {
        self.powers.lock().expect("powers").push(action);
    }
}

/// A screen that shows lines, which scroll as a number counts.
struct Lines {
    first: AtomicU32,
    width: AtomicU32,
    cursor: Mutex<Option<Cursor>>,
}

impl Screen for Lines {
    fn render(&self, picture: &mut Surface) {
        let first = self.first.load(Ordering::Relaxed);
        picture.resize(self.width.load(Ordering::Relaxed), 200);
        for y in 0..200 {
            for (x, pixel) in (0_u32..).zip(picture.row_mut(y)) {
                *pixel = ((first + y).wrapping_mul(0x0101_0107) ^ (x / 8)) & 0xff_ffff;
            }
        }
    }

    fn cursor(&self) -> Option<Cursor> {
        self.cursor.lock().expect("cursor").clone()
    }
}

#[derive(Default)]
struct Device(Mutex<Vec<Input>>);

impl InputDevice for Device {
    fn event(&self, event: &Input) {
        self.0.lock().expect("log").push(*event);
    }
    fn sync(&self) {}
}

struct Bench {
    path: PathBuf,
    screen: Arc<Lines>,
    console: Arc<Console>,
    hub: Arc<Hub>,
    keyboard: Arc<Device>,
    pointer: Arc<Device>,
    program: Arc<Program>,
    display: Arc<Display>,
    _service: Service,
}

fn options() -> Options {
    Options {
        id: "default".to_owned(),
        title: "QEMU".to_owned(),
        share: SharePolicy::AllowExclusive,
        connections: 32,
        has_password: false,
        sasl: None,
        lossy: false,
        non_adaptive: false,
        lock_key_sync: true,
        key_delay: Duration::ZERO,
        power_control: false,
        layout: None,
    }
}

impl Bench {
    fn new(options: Options) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ouzel-vnc-{}-{number}", std::process::id()));
        let screen = Arc::new(Lines { first: AtomicU32::new(0), width: AtomicU32::new(320), cursor: Mutex::default() });
        let origin = Origin { id: None, path: "/machine/vga".to_owned(), head: 0 };
        let console = Console::new(origin, Arc::clone(&screen) as Arc<dyn Screen>);
        let (hub, keyboard, pointer) = (Arc::new(Hub::default()), Arc::<Device>::default(), Arc::<Device>::default());
        hub.add("keyboard", Takes::KEYBOARD, keyboard.clone());
        hub.add("tablet", Takes::TABLET, pointer.clone());
        let program = Arc::new(Program::default());
        let service = Service::start(Arc::clone(&program) as Arc<dyn Host>).expect("a thread");
        let keys = KeyQueue::new(Arc::clone(&hub), Clock::manual());
        let consoles = vec![Arc::clone(&console)];
        let seat = Seat { console: Arc::clone(&console), consoles, input: Arc::clone(&hub), keys, is_bound: false };
        let display = Display::new(&service, options, None, seat).expect("a display");
        let address = ListenAddress::Unix(path.to_string_lossy().into_owned());
        display.listen(&[address], &[]).expect("a listener");
        Self { path, screen, console, hub, keyboard, pointer, program, display, _service: service }
    }

    /// Repeats `attempt` until it gives a value.
    fn wait<T>(&self, what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(value) = attempt() {
                return value;
            }
            assert!(Instant::now() < end, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn check(&self, client: &Client) {
        let picture = self.console.snapshot();
        assert_eq!((client.decoder.width, client.decoder.height), (picture.width() as usize, 200));
        let converter = Converter::new(&client.decoder.format);
        for y in 0..200 {
            let wanted: Vec<u32> = picture.row(y).iter().map(|pixel| converter.value(*pixel)).collect();
            let start = y as usize * client.decoder.width;
            assert_eq!(client.decoder.pixels[start..start + client.decoder.width], wanted[..], "row {y}");
        }
    }
}

#[test]
fn each_encoding_follows_a_screen_that_scrolls_and_changes_size() {
    for encoding in [0, 5, 6, 7, 16] {
        let bench = Bench::new(options());
        let mut client = Client::open(&bench.path);
        assert_eq!(client.name, "QEMU");
        client.set_encodings(&[encoding, 1, -223]);
        client.request(false);
        client.picture();
        bench.check(&client);
        let mut copies = 0;
        for step in [16, 32, 40, 8] {
            bench.screen.first.store(step, Ordering::Relaxed);
            client.request(true);
            let rectangles = client.picture();
            copies += rectangles.iter().filter(|rectangle| **rectangle == Rectangle::Pixels(1)).count();
            bench.check(&client);
        }
        assert_eq!(copies, 4, "each of them has moved");
        bench.screen.width.store(333, Ordering::Relaxed);
        client.request(true);
        client.picture();
        bench.check(&client);
    }
}

#[test]
fn client_without_sizes_keeps_its_own_and_sees_what_fits() {
    let bench = Bench::new(options());
    let mut client = Client::open(&bench.path);
    bench.screen.width.store(100, Ordering::Relaxed);
    client.request(true);
    // What the client has asked for may be the screen before.
    while client.decoder.pixels[100] != 0 || client.decoder.pixels[0] == 0 && client.decoder.pixels[1000] == 0 {
        client.picture();
        client.request(true);
    }
    let picture = bench.console.snapshot();
    let wanted: Vec<u32> = picture.row(3).to_vec();
    assert_eq!(client.decoder.pixels[3 * 320..3 * 320 + 100], wanted[..]);
    assert!(client.decoder.pixels[3 * 320 + 100..4 * 320].iter().all(|pixel| *pixel == 0));
}

#[test]
fn formats_may_change_and_the_colour_map_comes() {
    let bench = Bench::new(options());
    let mut client = Client::open(&bench.path);
    for (shift, bits) in [([0, 8, 16], 32), ([11, 5, 0], 16)] {
        let max = if bits == 16 { [31, 63, 31] } else { [255; 3] };
        let format = PixelFormat { shift, bits, max, depth: if bits == 16 { 16 } else { 24 }, ..PixelFormat::NATIVE };
        client.set_format(format);
        client.set_encodings(&[16]);
        client.request(false);
        client.picture();
        bench.check(&client);
    }
    let mut mapped = [0; 16];
    mapped[0] = 8;
    client.set_format(PixelFormat::read(mapped).expect("a format"));
    let Message::ColourMap(map) = client.message() else { panic!("no map") };
    assert_eq!(map.len(), 6 * 256);
    client.request(false);
    client.picture();
    bench.check(&client);
}

#[test]
fn keys_and_pointer_reach_the_devices_and_come_up_when_the_client_leaves() {
    let bench = Bench::new(options());
    let mut client = Client::open(&bench.path);
    client.set_encodings(&[0, -258, -261]);
    let Message::Update(acknowledged) = client.message() else { panic!("no update") };
    assert!(matches!(acknowledged[..], [Rectangle::Other(-258, ..)]));
    client.send(&[4, 1, 0, 0, 0, 0, 0, 0x61]);
    client.send(&[255, 0, 0, 1, 0, 0, 0, 0x62, 0, 0, 0, 0x30]);
    client.send(&[5, 1, 0, 160, 0, 100]);
    let count = |device: &Device| device.0.lock().expect("log").len();
    bench.wait("keys", || (count(&bench.keyboard) == 2 && count(&bench.pointer) == 3).then_some(()));
    drop(client);
    bench.wait("releases", || (count(&bench.keyboard) == 4 && count(&bench.pointer) == 4).then_some(()));
    let names: Vec<_> = bench
        .keyboard
        .0
        .lock()
        .expect("log")
        .iter()
        .map(|event| match event {
            Input::Key { key, is_down } => (key.codes().name, *is_down),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, [("a", true), ("b", true), ("a", false), ("b", false)]);
    let to = |axis, to| Input::Absolute { axis, to };
    let log = bench.pointer.0.lock().expect("log");
    assert_eq!(log[1..3], [to(display::input::Axis::X, 0x7fff / 2), to(display::input::Axis::Y, 0x7fff / 2)]);
}

#[test]
fn lights_and_cursors_are_shown() {
    let bench = Bench::new(options());
    let mut client = Client::open(&bench.path);
    client.set_encodings(&[0, -261, -239]);
    let Message::Update(lights) = client.message() else { panic!("no update") };
    assert_eq!(lights, [Rectangle::Other(-261, [0, 0, 1, 1], vec![0])]);
    bench.hub.set_leds(Leds { caps_lock: true, ..Leds::default() });
    let Message::Update(lights) = client.message() else { panic!("no update") };
    assert_eq!(lights, [Rectangle::Other(-261, [0, 0, 1, 1], vec![4])]);
    let shape = CursorShape { width: 2, height: 1, hot_spot: (1, 0), pixels: vec![0xff11_2233, 0] };
    *bench.screen.cursor.lock().expect("cursor") =
        Some(Cursor { shape: Arc::new(shape), position: (5, 5), is_visible: true });
    client.request(false);
    let cursor = |message| match message {
        Message::Update(list) => list.into_iter().find(|one| matches!(one, Rectangle::Other(-239 | -314, ..))),
        _ => None,
    };
    let found = std::iter::repeat_with(|| client.message()).find_map(cursor);
    let wanted = Rectangle::Other(-239, [1, 0, 2, 1], vec![0x33, 0x22, 0x11, 0, 0, 0, 0, 0, 0x80]);
    assert_eq!(found, Some(wanted));
    client.set_encodings(&[0, -314]);
    let mut found = std::iter::repeat_with(|| client.message()).find_map(cursor);
    while matches!(found, Some(Rectangle::Other(-239, ..))) {
        found = std::iter::repeat_with(|| client.message()).find_map(cursor);
    }
    let wanted = Rectangle::Other(-314, [1, 0, 2, 1], vec![0, 0, 0, 0, 0x11, 0x22, 0x33, 0xff, 0, 0, 0, 0]);
    assert_eq!(found, Some(wanted));
}

#[test]
fn updates_without_requests_wait_for_fences() {
    let bench = Bench::new(options());
    let mut client = Client::open(&bench.path);
    client.set_encodings(&[0, -312, -313]);
    let mut first: Vec<_> = (0..2).map(|_| format!("{:?}", client.message())).collect();
    first.sort();
    assert_eq!(first, ["EndOfContinuousUpdates", "Fence(2147483648, [])"]);
    client.send(&[248, 0, 0, 0, 0x80, 0, 0, 3, 2, 1, 2]);
    assert!(matches!(client.message(), Message::Fence(3, payload) if payload == [1, 2]));
    client.send(&[150, 1, 0, 0, 0, 0, 1, 64, 0, 200]);
    let mut pictures = 0;
    for step in 0..6 {
        bench.screen.first.store(step, Ordering::Relaxed);
        client.picture();
        pictures += 1;
        let Message::Fence(flags, payload) = client.message() else { panic!("no fence") };
        assert_eq!(flags & 0x8000_0000, 0x8000_0000);
        let mut answer = vec![248, 0, 0, 0, 0, 0, 0, 1, payload.len() as u8];
        answer.extend(payload);
        client.send(&answer);
    }
    assert_eq!(pictures, 6);
    client.send(&[150, 0, 0, 0, 0, 0, 1, 64, 0, 200]);
    loop {
        if let Message::EndOfContinuousUpdates = client.message() {
            break;
        }
    }
}

#[test]
fn sizes_that_clients_want_are_refused_by_cards_that_have_no_way() {
    let bench = Bench::new(options());
    let mut client = Client::open(&bench.path);
    client.set_encodings(&[0, -308]);
    client.send(&[251, 0, 4, 0, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 3, 0, 0, 0, 0, 0]);
    let Message::Update(answer) = client.message() else { panic!("no update") };
    assert_eq!(answer, [Rectangle::ExtendedSize { size: (320, 200), reason: 1, status: 3 }]);
}

#[test]
fn power_is_controlled_only_where_it_is_offered() {
    let bench = Bench::new(Options { power_control: true, ..options() });
    let mut client = Client::open(&bench.path);
    client.set_encodings(&[0, -309]);
    assert!(matches!(client.message(), Message::Xvp(1)));
    client.send(&[250, 0, 1, 3]);
    assert!(matches!(client.message(), Message::Xvp(0)));
    client.send(&[250, 0, 1, 2, 250, 0, 1, 4]);
    let powers = || bench.program.powers.lock().expect("powers").clone();
    let both = bench.wait("power", || Some(powers()).filter(|powers| powers.len() == 2));
    assert_eq!(both, [PowerAction::Shutdown, PowerAction::Reset]);
    let bench = Bench::new(options());
    let mut client = Client::open(&bench.path);
    client.set_encodings(&[0, -309]);
    client.send(&[250, 0, 1, 2]);
    assert!(is_closed(&mut client.stream));
    assert!(bench.program.powers.lock().expect("powers").is_empty());
}

#[test]
fn passwords_are_asked_for_in_all_versions_and_expire() {
    let bench = Bench::new(Options { has_password: true, ..options() });
    let attempt = |version: &[u8; 12]| {
        let mut stream = connect(&bench.path);
        stream.fetch(12);
        stream.write_all(version).expect("sent");
        if version == b"RFB 003.003\n" {
            assert_eq!(stream.u32(), 2);
        } else {
            assert_eq!(stream.fetch(2), [1, 2]);
            stream.write_all(&[2]).expect("sent");
        }
        let challenge: [u8; 16] = stream.fetch(16).try_into().expect("16 bytes");
        stream.write_all(&response(b"secret", challenge)).expect("sent");
        let result = stream.u32();
        if result != 0 {
            if version == b"RFB 003.008\n" {
                let length = stream.u32() as usize;
                assert_eq!(stream.fetch(length), b"Authentication failed");
            }
            assert!(is_closed(&mut stream));
            return None;
        }
        Some(Client::initialize(stream, 1))
    };
    assert!(attempt(b"RFB 003.008\n").is_none(), "there is no password yet");
    assert!(bench.display.set_password("wrong"));
    assert!(attempt(b"RFB 003.003\n").is_none());
    assert!(bench.display.set_password("secret"));
    for version in [b"RFB 003.003\n", b"RFB 003.007\n", b"RFB 003.008\n"] {
        let mut client = attempt(version).expect("the password is right");
        client.request(false);
        client.picture();
        bench.check(&client);
    }
    bench.display.expire_password(Some(1));
    assert!(attempt(b"RFB 003.008\n").is_none());
    bench.display.expire_password(None);
    assert!(attempt(b"RFB 003.008\n").is_some());
    assert!(!Bench::new(options()).display.set_password("secret"));
}

/// Says what a client of SASL says: a length that counts a zero behind it, and the text.
fn say(stream: &mut std::os::unix::net::UnixStream, text: &[u8]) {
    let mut message = (text.len() as u32 + 1).to_be_bytes().to_vec();
    message.extend_from_slice(text);
    message.push(0);
    stream.write_all(&message).expect("sent");
}

#[test]
fn sasl_lets_in_who_is_in_the_file_of_users() {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let file = std::env::temp_dir().join(format!("ouzel-vnc-users-{}-{number}", std::process::id()));
    std::fs::write(&file, format!("ann:{}\n", sasl::Verifier::new("secret", b"salt", 4096))).expect("a file");
    let bench = Bench::new(Options { sasl: Some(file.clone()), ..options() });
    let begin = |mechanism: &[u8]| {
        let mut stream = connect(&bench.path);
        stream.fetch(12);
        stream.write_all(b"RFB 003.008\n").expect("sent");
        assert_eq!(stream.fetch(2), [1, 20]);
        stream.write_all(&[20]).expect("sent");
        let length = stream.u32() as usize;
        assert_eq!(stream.fetch(length), b"SCRAM-SHA-256,PLAIN");
        stream.write_all(&(mechanism.len() as u32).to_be_bytes()).expect("sent");
        stream.write_all(mechanism).expect("sent");
        stream
    };
    let plain = |words: &[u8]| {
        let mut stream = begin(b"PLAIN");
        say(&mut stream, words);
        stream
    };
    let mut stream = plain(b"\0ann\0secret");
    assert_eq!((stream.u32(), stream.u8(), stream.u32()), (0, 1, 0));
    let mut client = Client::initialize(stream, 1);
    client.request(false);
    client.picture();
    bench.check(&client);
    let names: Vec<_> = bench.display.clients().into_iter().map(|client| client.sasl_username).collect();
    assert_eq!(names, [Some("ann".to_owned())]);
    // Without first words of the client there is an empty challenge.
    let mut stream = begin(b"PLAIN");
    stream.write_all(&[0; 4]).expect("sent");
    assert_eq!((stream.u32(), stream.fetch(2)), (1, vec![0, 0]));
    say(&mut stream, b"\0ann\0secret");
    assert_eq!((stream.u32(), stream.u8(), stream.u32()), (0, 1, 0));
    // A challenge of SCRAM: the proof itself is tested where it is made.
    let mut stream = begin(b"SCRAM-SHA-256");
    say(&mut stream, b"n,,n=ann,r=nonce");
    let length = stream.u32() as usize;
    let challenge = stream.fetch(length);
    assert!(challenge.starts_with(b"r=nonce") && challenge.ends_with(b",s=c2FsdA==,i=4096\0"), "{challenge:?}");
    assert_eq!(stream.u8(), 0);
    for refused in [b"\0ann\0wrong".as_slice(), b"\0bob\0secret", b"", b"garbage"] {
        assert!(is_closed(&mut plain(refused)), "{refused:?}");
    }
    for mechanism in [b"ANONYMOUS".as_slice(), b"", &[b'x'; 200]] {
        assert!(is_closed(&mut begin(mechanism)), "{mechanism:?}");
    }
    let mut stream = begin(b"PLAIN");
    stream.write_all(&u32::MAX.to_be_bytes()).expect("sent");
    assert!(is_closed(&mut stream), "a message without end");
    // The file counts as it is now.
    std::fs::write(&file, "").expect("a file");
    assert!(is_closed(&mut plain(b"\0ann\0secret")), "there are no users any more");
    std::fs::remove_file(&file).expect("removed");
    assert!(is_closed(&mut plain(b"\0ann\0secret")), "there is no file any more");
}

/// The answer to a challenge.
fn response(password: &[u8], challenge: [u8; 16]) -> Vec<u8> {
    use des::cipher::{BlockCipherEncrypt, KeyInit};
    let mut key = [0; 8];
    for (to, from) in key.iter_mut().zip(password) {
        *to = from.reverse_bits();
    }
    let cipher = des::Des::new(&key.into());
    challenge
        .as_chunks::<8>()
        .0
        .iter()
        .flat_map(|half| {
            let mut block = (*half).into();
            cipher.encrypt_block(&mut block);
            <[u8; 8]>::from(block)
        })
        .collect()
}

#[test]
fn exclusive_clients_make_others_leave_where_they_may() {
    let bench = Bench::new(options());
    let alone = |bench: &Bench| {
        let mut stream = connect(&bench.path);
        stream.fetch(12);
        stream.write_all(b"RFB 003.007\n").expect("sent");
        stream.fetch(2);
        stream.write_all(&[1, 0]).expect("sent");
        stream
    };
    let mut first = Client::open(&bench.path);
    let mut second = alone(&bench);
    second.fetch(24);
    assert!(is_closed(&mut first.stream));
    let mut third = connect(&bench.path);
    third.fetch(12);
    third.write_all(b"RFB 003.007\n").expect("sent");
    third.fetch(2);
    third.write_all(&[1, 1]).expect("sent");
    assert!(is_closed(&mut third), "the second is alone");
    let bench = Bench::new(Options { share: SharePolicy::ForceShared, ..options() });
    let _first = Client::open(&bench.path);
    assert!(is_closed(&mut alone(&bench)));
    let bench = Bench::new(Options { share: SharePolicy::Ignore, ..options() });
    let mut first = Client::open(&bench.path);
    alone(&bench).fetch(24);
    first.request(false);
    first.picture();
}

#[test]
fn connections_beyond_the_limit_make_the_oldest_leave_however_fast_they_come() {
    let bench = Bench::new(Options { connections: 2, ..options() });
    let mut streams = Vec::new();
    for _ in 0..12 {
        let (near, far) = std::os::unix::net::UnixStream::pair().expect("a pair");
        near.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
        streams.push(near);
        bench.display.add_client(far.into(), false).expect("taken");
    }
    let last = streams.split_off(10);
    for stream in &mut streams {
        assert!(is_closed(stream));
    }
    bench.wait("the others", || (bench.display.clients().len() == 2).then_some(()));
    for stream in last {
        Client::open_on(stream).request(false);
    }
}

#[test]
fn fifty_clients_garbage_and_silence_harm_nobody() {
    let bench = Bench::new(Options { connections: 50, ..options() });
    let mut numbers = 1_u64;
    let mut garbage = |count: usize| -> Vec<u8> {
        (0..count)
            .map(|_| {
                numbers = numbers.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (numbers >> 33) as u8
            })
            .collect()
    };
    let silent: Vec<_> = (0..20).map(|_| connect(&bench.path)).collect();
    for _ in 0..20 {
        let mut stream = connect(&bench.path);
        // The server may hang up before it has taken everything.
        let _ = stream.write_all(&garbage(1000));
    }
    for _ in 0..20 {
        let mut client = Client::open(&bench.path);
        let _ = client.stream.write_all(&garbage(5000));
    }
    let mut stuck = Client::open(&bench.path);
    for _ in 0..2000 {
        // Pictures that nobody takes.
        if stuck.stream.write_all(&[3, 0, 0, 0, 0, 0, 1, 64, 0, 200]).is_err() {
            break;
        }
    }
    drop(silent);
    let clients = || bench.display.clients().len();
    bench.wait("the others to leave", || (clients() <= 1).then_some(()));
    let mut many: Vec<_> = (0..49).map(|_| Client::open(&bench.path)).collect();
    for (number, client) in many.iter_mut().enumerate() {
        client.set_encodings(&[[0, 5, 6, 7, 16][number % 5], 1]);
        client.request(false);
        client.picture();
    }
    bench.screen.first.store(77, Ordering::Relaxed);
    for client in &mut many {
        client.request(true);
        client.picture();
        bench.check(client);
    }
    let mut late = connect(&bench.path);
    late.fetch(12);
    late.write_all(b"RFB 003.007\n").expect("sent");
    late.fetch(2);
    late.write_all(&[1, 1]).expect("sent");
    assert!(is_closed(&mut late), "fifty are enough");
    drop(many);
    drop(stuck);
    bench.wait("all to leave", || (clients() == 0).then_some(()));
    let events = bench.program.events.lock().expect("events");
    let count = |wanted| events.iter().filter(|event| **event == wanted).count();
    assert_eq!(count(Event::Connected), count(Event::Disconnected));
    assert_eq!(count(Event::Initialized), 20 + 1 + 49);
}
