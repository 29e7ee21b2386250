//! A whole server over a Unix socket, with a screen, a keyboard and clients of our own.

mod client;
mod pictures;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use clock::Clock;
use display::input::{Axis, Button, Event as Input, Hub, InputDevice, KeyQueue, Leds, Takes};
use display::{Console, Cursor, Origin, Screen, Surface};
use spice::wire::Header;
use spice::{
    ChannelKind, ClientInfo, Compression, Connected, Destination, Entry, Event, Host, ListenAddress, MouseMode,
    Options, Seat, Security, Server, Service,
};

use client::{Client, PATIENCE, answer, connect, link, number};

/// What the test sees of the program around the server.
#[derive(Default)]
struct Program(Mutex<Vec<(Event, ClientInfo)>>);

impl Host for Program {
    fn can_hear(&self) -> bool {
        true
    }
    fn event(&self, event: Event, client: &ClientInfo) {
        self.0.lock().expect("events").push((event, client.clone()));
    }
}

/// A screen of lines, which move as a number counts.
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

impl Device {
    fn wait(&self, count: usize) -> Vec<Input> {
        until(|| (self.0.lock().expect("log").len() >= count).then_some(()));
        std::mem::take(&mut *self.0.lock().expect("log"))
    }
}

/// Tries until there is something.
fn until<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < end, "it does not come");
        std::thread::yield_now();
    }
}

struct Bench {
    path: PathBuf,
    screen: Arc<Lines>,
    console: Arc<Console>,
    hub: Arc<Hub>,
    keyboard: Arc<Device>,
    program: Arc<Program>,
    server: Arc<Server>,
    _service: Service,
}

fn options() -> Options {
    Options {
        name: "guest".to_owned(),
        uuid: [7; 16],
        has_tickets: true,
        compression: Compression::Lz,
        security: Vec::new(),
    }
}

impl Bench {
    fn new() -> Self {
        Self::with(options())
    }

    fn with(options: Options) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("spice-{}-{number}", std::process::id()));
        let screen = Arc::new(Lines { first: AtomicU32::new(0), width: AtomicU32::new(320), cursor: Mutex::default() });
        let origin = Origin { id: None, path: "/screen".to_owned(), head: 0 };
        let console = Console::new(origin, Arc::clone(&screen) as Arc<dyn Screen>);
        let hub = Arc::new(Hub::default());
        let keyboard = Arc::new(Device::default());
        hub.add("keyboard", Takes::KEYBOARD, Arc::clone(&keyboard) as Arc<dyn InputDevice>);
        let keys = KeyQueue::new(Arc::clone(&hub), Clock::manual());
        let program = Arc::new(Program::default());
        let seat = Seat { consoles: vec![Arc::clone(&console)], input: Arc::clone(&hub), keys, is_bound: false };
        let service = Service::start(Arc::clone(&program) as Arc<dyn Host>, options, None, seat).expect("a service");
        let server = Arc::clone(service.server());
        let address = ListenAddress::Unix(path.to_string_lossy().into_owned());
        server.listen(&address, Entry::default()).expect("a listener");
        server.set_password("secret", Connected::Keep);
        Self { path, screen, console, hub, keyboard, program, server, _service: service }
    }

    fn open(&self, session: u32, kind: ChannelKind) -> Client {
        Client::open(&self.path, session, kind, "secret").expect("let in")
    }

    /// A main channel and its session.
    fn session(&self) -> (Client, u32) {
        let mut main = self.open(0, ChannelKind::Main);
        let init = main.wait(103);
        (main, number(&init, 0))
    }

    fn events(&self) -> Vec<Event> {
        self.program.0.lock().expect("events").iter().map(|(event, _)| *event).collect()
    }
}

#[test]
fn session_has_a_name_and_lists_its_channels() {
    for header in [Header::Mini, Header::Full] {
        let bench = Bench::new();
        let mut main = Client::open_as(&bench.path, (0, 1, 0), "secret", header).expect("let in");
        let init = main.wait(103);
        let session = number(&init, 0);
        // One screen; movements alone, by the guest; no agent.
        let told: Vec<u32> = (1..6).map(|at| number(&init, at * 4)).collect();
        assert_eq!(told, [1, 1, 1, 0, 0]);
        assert_eq!(main.wait(113), b"\x06\0\0\0guest\0");
        assert_eq!(main.wait(114), [7; 16]);
        main.send(104, &[]);
        assert_eq!(main.wait(104), [3, 0, 0, 0, 2, 0, 4, 0, 3, 0]);
        let _inputs = Client::open_as(&bench.path, (session, 3, 0), "secret", header).expect("let in");
        until(|| (bench.events().len() == 4).then_some(()));
        let channels: Vec<_> =
            bench.server.clients().iter().filter_map(|client| Some((client.channel?.kind, client.is_tls))).collect();
        assert_eq!(channels, [(ChannelKind::Main, false), (ChannelKind::Inputs, false)]);
        drop(main);
        // The session ends with its main channel.
        until(|| (bench.events().len() == 6).then_some(()));
        use Event::{Connected, Disconnected, Initialized};
        assert_eq!(bench.events(), [Connected, Initialized, Connected, Initialized, Disconnected, Disconnected]);
    }
}

#[test]
fn only_the_password_lets_in_and_only_while_it_is_valid() {
    let bench = Bench::new();
    let attempt = |password: &str| Client::open(&bench.path, 0, ChannelKind::Main, password).map(drop);
    assert_eq!(attempt("secret"), Ok(()));
    for wrong in ["", "Secret", "secrets", "secre"] {
        assert_eq!(attempt(wrong), Err(7), "{wrong}");
    }
    assert!(bench.server.expire_password(Some(1)));
    assert_eq!(attempt("secret"), Err(7));
    assert!(bench.server.expire_password(None));
    assert_eq!(attempt("secret"), Ok(()));
    // An empty password lets nobody in.
    assert!(bench.server.set_password("", Connected::Keep));
    assert_eq!(attempt(""), Err(7));
    assert!(!bench.server.set_password(&"x".repeat(61), Connected::Keep));
    assert!(bench.server.set_password("other", Connected::Keep));
    let mut main = Client::open(&bench.path, 0, ChannelKind::Main, "other").expect("let in");
    main.wait(103);
    assert!(!bench.server.set_password("another", Connected::Fail));
    assert!(bench.server.set_password("another", Connected::Disconnect));
    main.wait_closed();
    assert_eq!(attempt("other"), Err(7));
    let open = Bench::with(Options { has_tickets: false, ..options() });
    assert!(Client::open(&open.path, 0, ChannelKind::Main, "whatever").is_ok());
    assert!(!open.server.set_password("x", Connected::Keep) && !open.server.expire_password(None));
}

#[test]
fn channels_of_no_session_and_channels_that_there_are_not_are_refused() {
    let bench = Bench::with(Options { security: vec![(ChannelKind::Inputs, Security::Tls)], ..options() });
    let attempt = |session: u32, kind: u8, id: u8| {
        Client::open_as(&bench.path, (session, kind, id), "secret", Header::Mini).map(drop)
    };
    assert_eq!(attempt(1, 2, 0), Err(8));
    assert_eq!(attempt(1, 1, 0), Err(8));
    for (kind, id) in [(9, 0), (5, 0), (0, 0), (2, 1), (4, 7), (1, 1)] {
        assert_eq!(attempt(0, kind, id), Err(9), "{kind}:{id}");
    }
    let (_main, session) = bench.session();
    assert_eq!(attempt(session, 3, 0), Err(5));
    let _display = bench.open(session, ChannelKind::Display);
    assert_eq!(attempt(session, 2, 0), Err(9), "the session has it already");
    assert_eq!(attempt(session ^ 1, 4, 0), Err(8));
}

#[test]
fn new_session_ends_the_one_before() {
    let bench = Bench::new();
    let (mut first, session) = bench.session();
    let mut inputs = bench.open(session, ChannelKind::Inputs);
    inputs.wait(101);
    let (_second, other) = bench.session();
    assert_ne!(session, other);
    first.wait_closed();
    inputs.wait_closed();
    assert_eq!(Client::open(&bench.path, session, ChannelKind::Inputs, "secret").map(drop), Err(8));
    let mut inputs = bench.open(other, ChannelKind::Inputs);
    inputs.wait(101);
}

#[test]
fn keys_reach_the_guest_and_come_up_when_the_client_goes() {
    let bench = Bench::new();
    let (_main, session) = bench.session();
    let mut inputs = bench.open(session, ChannelKind::Inputs);
    assert_eq!(inputs.wait(101), [0, 0]);
    let name = |event: &Input| match event {
        Input::Key { key, is_down } => (key.codes().name, *is_down),
        other => panic!("{other:?}"),
    };
    // A key down and up, one with a prefix, a batch.
    inputs.send(101, &[0x1e, 0, 0, 0]);
    inputs.send(102, &[0x9e, 0, 0, 0]);
    inputs.send(101, &[0xe0, 0x48, 0, 0]);
    inputs.send(102, &[0xe0, 0xc8, 0, 0]);
    inputs.send(104, &[0x30, 0xb0]);
    let heard = bench.keyboard.wait(6);
    let heard: Vec<_> = heard.iter().map(name).collect();
    assert_eq!(heard, [("a", true), ("a", false), ("up", true), ("up", false), ("b", true), ("b", false)]);
    // The client's caps lock is on, the guest's is not; then its light tells so, and nothing is to be done.
    inputs.send(103, &[4, 0]);
    assert_eq!(
        bench.keyboard.wait(2).iter().map(name).collect::<Vec<_>>(),
        [("caps_lock", true), ("caps_lock", false)]
    );
    bench.hub.set_leds(Leds { caps_lock: true, ..Leds::default() });
    assert_eq!(inputs.wait(102), [4, 0]);
    inputs.send(103, &[4, 0]);
    inputs.send(101, &[0x2a, 0, 0, 0]);
    assert_eq!(bench.keyboard.wait(1).iter().map(name).collect::<Vec<_>>(), [("shift", true)]);
    drop(inputs);
    assert_eq!(bench.keyboard.wait(1).iter().map(name).collect::<Vec<_>>(), [("shift", false)]);
}

#[test]
fn pointer_moves_by_the_mode_and_movements_are_acknowledged() {
    let bench = Bench::new();
    let mouse = Arc::new(Device::default());
    bench.hub.add("mouse", Takes::MOUSE, Arc::clone(&mouse) as Arc<dyn InputDevice>);
    let (mut main, session) = bench.session();
    let mut inputs = bench.open(session, ChannelKind::Inputs);
    inputs.wait(101);
    for _ in 0..4 {
        inputs.send(111, &[[3, 0, 0, 0], [0xff; 4]].concat().into_iter().chain([1, 0]).collect::<Vec<_>>());
    }
    assert_eq!(inputs.wait(111), []);
    let heard = mouse.wait(9);
    let left = |is_down| Input::Button { button: Button::Left, is_down };
    assert_eq!(
        heard[..3],
        [Input::Relative { axis: Axis::X, by: 3 }, Input::Relative { axis: Axis::Y, by: -1 }, left(true)]
    );
    assert_eq!(heard.len(), 9);
    inputs.send(114, &[1, 0, 0]);
    inputs.send(113, &[4, 0, 0]);
    inputs.send(114, &[4, 0, 0]);
    let wheel = |is_down| Input::Button { button: Button::WheelUp, is_down };
    assert_eq!(mouse.wait(3), [left(false), wheel(true), wheel(false)]);
    // Without a tablet there is no other mode.
    main.send(105, &[2, 0]);
    assert_eq!(main.wait(105), [1, 0, 1, 0]);
    let tablet = Arc::new(Device::default());
    let id = bench.hub.add("tablet", Takes::TABLET, Arc::clone(&tablet) as Arc<dyn InputDevice>);
    bench.hub.activate(id);
    assert_eq!(main.wait(105), [3, 0, 1, 0]);
    main.send(105, &[2, 0]);
    assert_eq!(main.wait(105), [3, 0, 2, 0]);
    assert_eq!(bench.server.mouse_mode(), MouseMode::Client);
    bench.console.refresh();
    inputs.send(112, &[160, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0]);
    let half = |axis| Input::Absolute { axis, to: 0x7fff / 2 };
    assert_eq!(tablet.wait(2), [half(Axis::X), half(Axis::Y)]);
    bench.hub.remove(id);
    assert_eq!(main.wait(105), [1, 0, 1, 0]);
}

#[test]
fn client_is_told_where_the_guest_goes() {
    let bench = Bench::new();
    let (mut main, _) = bench.session();
    bench.server.set_destination(Destination { host: "there".into(), port: 5, tls_port: 0, subject: None });
    let told = main.wait(101);
    assert_eq!((told[..2].to_vec(), told[20..].to_vec()), (vec![5, 0], b"there\0".to_vec()));
    bench.server.set_destination(Destination { host: "elsewhere".into(), port: 6, tls_port: 0, subject: None });
    main.wait(102);
    assert_eq!(main.wait(101)[20..], *b"elsewhere\0");
}

#[test]
fn garbage_and_lies_end_their_connection_alone() {
    let bench = Bench::new();
    let (mut main, session) = bench.session();
    for (bytes, error) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), 2),
        (b"REDQ\x01\0\0\0\x02\0\0\0\x1a\0\0\0".to_vec(), 4),
        (b"REDQ\x02\0\0\0\x02\0\0\0\xff\xff\xff\xff".to_vec(), 3),
        ([&link(0, 1, 0, 0xd)[..38], &[0xff; 4]].concat(), 0),
    ] {
        let mut stream = connect(&bench.path);
        stream.write_all(&bytes).expect("sent");
        if error != 0 {
            assert_eq!(answer(&mut stream).0, error);
            // Closed with what was not read, perhaps.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
        }
    }
    // A ticket of random bytes, and a way of authentication that is not offered.
    for (mechanism, error) in [(1_u32, 7_u32), (2, 1)] {
        let mut stream = connect(&bench.path);
        stream.write_all(&link(0, 1, 0, 0xd)).expect("sent");
        answer(&mut stream);
        stream.write_all(&[&mechanism.to_le_bytes()[..], &[0x55; 128]].concat()).expect("sent");
        let mut result = [0; 4];
        stream.read_exact(&mut result).expect("a result");
        assert_eq!(u32::from_le_bytes(result), error);
    }
    // Messages that are too long, too short, or of values that there are not.
    for (kind, bytes) in [
        (ChannelKind::Inputs, vec![101, 0, 0xff, 0xff, 0xff, 0x7f]),
        (ChannelKind::Inputs, vec![101, 0, 1, 0, 0, 0, 5]),
        (ChannelKind::Display, vec![101, 0, 3, 0, 0, 0, 1, 2, 3]),
        (ChannelKind::Cursor, vec![1, 0, 0, 0, 0, 0]),
    ] {
        let mut client = until(|| Client::open(&bench.path, session, kind, "secret").ok());
        client.send_bytes(&bytes);
        client.wait_closed();
    }
    main.send(104, &[]);
    main.wait(104);
}

#[test]
fn fifty_half_open_clients_keep_nobody_out() {
    let bench = Bench::new();
    let half_open: Vec<_> = (0..50)
        .map(|number| {
            let mut stream = connect(&bench.path);
            let bytes = link(0, 1, 0, 0xd);
            stream.write_all(&bytes[..number % bytes.len()]).expect("sent");
            stream
        })
        .collect();
    let (mut main, _) = bench.session();
    main.send(104, &[]);
    main.wait(104);
    // Many more make the oldest leave.
    let more: Vec<_> = (0..100).map(|_| connect(&bench.path)).collect();
    for mut stream in half_open {
        let mut byte = [0];
        // Closed, or reset with what was not read.
        assert!(matches!(stream.read(&mut byte), Ok(0) | Err(_)));
    }
    drop(more);
    main.send(104, &[]);
    main.wait(104);
}
