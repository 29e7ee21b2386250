//! Real programs at the other end: what they send arrives, and what they are sent, also where somebody is slow.
//!
//! `cargo test -p chardev -- --ignored` sends 100 MiB through each.

use crate::support::{Fixture, PATIENCE};
use chardev::{Chardev, Event, TlsConfig, parse_option};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};

const SMALL: usize = 3 << 20;
const LARGE: usize = 100 << 20;

/// A slow front end: it holds a few pieces of input at most, and takes more only when asked.
struct Tap {
    chardev: Chardev,
    input: mpsc::Receiver<Vec<u8>>,
    room: mpsc::Receiver<()>,
    events: mpsc::Receiver<Event>,
}

impl Tap {
    fn open(fixture: &Fixture, options: &str) -> Self {
        let spec = parse_option(options).unwrap();
        fixture.chardevs.add(&spec).unwrap();
        let chardev = fixture.chardevs.attach(&spec.id).unwrap();
        let (sender, events) = mpsc::channel();
        chardev.set_events(Box::new(move |event| _ = sender.send(event)));
        let (writable, room) = mpsc::channel();
        chardev.set_writable(Box::new(move || _ = writable.send(())));
        let (take, input) = mpsc::sync_channel(2);
        chardev.set_input(Box::new(move |bytes| {
            let piece = bytes.get(..bytes.len().min(3000)).unwrap_or_default();
            if !piece.is_empty() && take.try_send(piece.to_vec()).is_ok() { piece.len() } else { 0 }
        }));
        Self { chardev, input, room, events }
    }

    /// Takes input until it is all of `expected`.
    fn takes(&self, expected: &[u8]) {
        let mut at = 0;
        while at < expected.len() {
            let piece = self.input.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("nothing after {at} bytes"));
            self.chardev.resume_input();
            assert!(expected[at..].starts_with(&piece), "what was sent arrives, at {at}");
            at += piece.len();
        }
    }

    /// Writes everything, waiting for room.
    fn says(&self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            at += self.chardev.write(&bytes[at..]);
            if at < bytes.len() {
                self.room.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no room after {at} bytes"));
            }
        }
    }

    fn port(&self) -> String {
        let name = self.chardev.filename();
        let name = name.strip_suffix(",server=on").unwrap();
        name.rsplit(':').next().unwrap().to_owned()
    }

    fn expect(&self, event: Event) {
        assert_eq!(self.events.recv_timeout(PATIENCE), Ok(event));
    }
}

/// Bytes without a pattern, every value among them.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| step()).collect()
}

fn has(program: &str) -> bool {
    let found = Command::new("which").arg(program).stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    if !found {
        println!("skipped: no {program}");
    }
    found
}

/// A program that ends with the test, also with one that fails, so that nobody waits for it for ever.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Sends `bytes` from a program, and then to it. Its output begins with a prologue that ends with `skip`.
fn exchange(tap: &Tap, command: &mut Command, bytes: &[u8], skip: Option<&[u8]>) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    std::thread::scope(|scope| {
        let _running = Running(child);
        let (_done, finished) = mpsc::channel::<()>();
        scope.spawn(move || {
            input.write_all(bytes).unwrap();
            // The end of its input would end the program.
            _ = finished.recv();
        });
        tap.takes(bytes);
        let (tell, told) = mpsc::channel();
        scope.spawn(move || {
            if let Some(end) = skip {
                let mut seen = Vec::new();
                while !seen.ends_with(end) {
                    let mut byte = [0];
                    output.read_exact(&mut byte).unwrap();
                    seen.push(byte[0]);
                }
            }
            let mut received = vec![0; bytes.len()];
            output.read_exact(&mut received).unwrap();
            _ = tell.send(received);
        });
        tap.says(bytes);
        let received = told.recv_timeout(PATIENCE).expect("the program hands out all that it was told");
        assert!(received == bytes, "what is received is what was written");
    });
}

fn socat(address: &str) -> Command {
    let mut command = Command::new("socat");
    command.args(["-", address]);
    command
}

fn unix_tcp_pty(len: usize) {
    if !has("socat") {
        return;
    }
    let fixture = Fixture::new();
    let bytes = noise(len);
    let path = fixture.path("s");
    let unix = Tap::open(&fixture, &format!("socket,id=u,path={path},server=on,wait=off"));
    exchange(&unix, &mut socat(&format!("UNIX-CONNECT:{path}")), &bytes, None);
    let name = format!("ouzel-echo-{}", std::process::id());
    let named = Tap::open(&fixture, &format!("socket,id=a,path={name},abstract=on,server=on,wait=off"));
    exchange(&named, &mut socat(&format!("ABSTRACT-CONNECT:{name}")), &bytes, None);
    let tcp = Tap::open(&fixture, "socket,id=t,host=127.0.0.1,port=0,server=on,wait=off,nodelay=on");
    exchange(&tcp, &mut socat(&format!("TCP:127.0.0.1:{}", tcp.port())), &bytes, None);
    let pty = Tap::open(&fixture, "pty,id=p");
    let path = pty.chardev.filename().strip_prefix("pty:").unwrap().to_owned();
    exchange(&pty, &mut socat(&format!("{path},raw,echo=0")), &bytes, None);
    pty.expect(Event::Opened);
}

#[test]
fn socat_loses_nothing() {
    unix_tcp_pty(SMALL);
}

#[test]
#[ignore = "100 MiB each"]
fn socat_loses_nothing_of_100_mib() {
    unix_tcp_pty(LARGE);
}

/// Named pipes, a host's serial port (a pair of pseudo-terminals plays it), and files, which have no other end.
fn pipe_serial_file(len: usize) {
    if !has("socat") {
        return;
    }
    let fixture = Fixture::new();
    let bytes = noise(len);
    let path = fixture.path("pipe");
    for end in ["in", "out"] {
        assert!(Command::new("mkfifo").arg(format!("{path}.{end}")).status().unwrap().success());
    }
    let pipe = Tap::open(&fixture, &format!("pipe,id=i,path={path}"));
    let mut cats = Command::new("sh");
    cats.args(["-c", &format!("exec 3<&0; cat <&3 >{path}.in & exec cat {path}.out")]);
    exchange(&pipe, &mut cats, &bytes, None);
    let (ours, theirs) = (fixture.path("tty0"), fixture.path("tty1"));
    let line = |link: &str| format!("PTY,link={link},raw,echo=0");
    let cable = Command::new("socat").args([line(&ours), line(&theirs)]).stdin(Stdio::null()).spawn().unwrap();
    let _cable = Running(cable);
    while !Path::new(&ours).exists() || !Path::new(&theirs).exists() {
        std::thread::yield_now();
    }
    let serial = Tap::open(&fixture, &format!("serial,id=s,path={ours}"));
    exchange(&serial, &mut socat(&format!("{theirs},raw,echo=0")), &bytes, None);
    let (input, output) = (fixture.path("input"), fixture.path("output"));
    std::fs::write(&input, &bytes).unwrap();
    let file = Tap::open(&fixture, &format!("file,id=f,path={output},input-path={input}"));
    file.takes(&bytes);
    file.says(&bytes);
    while std::fs::metadata(&output).unwrap().len() < bytes.len() as u64 {
        std::thread::yield_now();
    }
    assert!(std::fs::read(&output).unwrap() == bytes, "the file has what was written");
}

#[test]
fn pipe_serial_line_and_file_lose_nothing() {
    pipe_serial_file(SMALL);
}

#[test]
#[ignore = "100 MiB each"]
fn pipe_serial_line_and_file_lose_nothing_of_100_mib() {
    pipe_serial_file(LARGE);
}

#[test]
fn host_serial_port_is_a_line_of_bytes() {
    if !has("socat") {
        return;
    }
    let fixture = Fixture::new();
    // A pseudo-terminal plays the host's port; socat holds its other side and sends back what it gets.
    let link = fixture.path("tty");
    let mut child = Command::new("socat")
        .args([&format!("PTY,link={link},raw,echo=0"), "EXEC:cat"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    while !Path::new(&link).exists() {
        std::thread::yield_now();
    }
    let line = fixture.open(&format!("serial,id=s,path={link}"));
    assert_eq!(line.chardev.filename(), "serial");
    line.expect_event(Event::Opened);
    line.chardev.set_line(chardev::LineParameters {
        speed: 9600,
        data_bits: 8,
        parity: chardev::Parity::None,
        stop_bits: 1,
    });
    let bytes = noise(100_000);
    let (chardev, sent) = (&line.chardev, bytes.clone());
    let mut at = 0;
    let mut received = Vec::new();
    while received.len() < bytes.len() {
        if at < sent.len() {
            at += chardev.write(&sent[at..]);
        }
        if let crate::support::Seen::Input(bytes) = line.next() {
            received.extend(bytes);
        }
    }
    assert!(received == bytes);
    child.kill().unwrap();
    child.wait().unwrap();
}

fn telnet(len: usize) {
    if !has("telnet") {
        return;
    }
    let fixture = Fixture::new();
    let tap = Tap::open(&fixture, "socket,id=t,host=127.0.0.1,port=0,server=on,wait=off,telnet=on");
    let mut bytes = noise(len);
    // The client looks for keys of its own in what it is told; the rest of telnet has tests of its own.
    for byte in &mut bytes {
        *byte = b' ' + *byte % 90;
    }
    let mut client = Command::new("telnet");
    client.args(["-8", "-E", "127.0.0.1", &tap.port()]);
    exchange(&tap, &mut client, &bytes, Some(b"Escape character is 'off'.\n"));
}

#[test]
fn telnet_loses_nothing() {
    telnet(SMALL);
}

#[test]
#[ignore = "100 MiB"]
fn telnet_loses_nothing_of_100_mib() {
    telnet(LARGE);
}

const WEBSOCKET_CLIENT: &str = "
import asyncio, os, sys, websockets
async def main():
    async with websockets.connect(sys.argv[1], subprotocols=['binary'], max_size=None) as socket:
        loop = asyncio.get_running_loop()
        async def send():
            while piece := await loop.run_in_executor(None, os.read, 0, 65536):
                await socket.send(piece)
        sending = asyncio.create_task(send())
        async for piece in socket:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
asyncio.run(main())
";

fn websocket(len: usize) {
    let is_there = Command::new("python3").args(["-c", "import websockets"]).stderr(Stdio::null()).status();
    if !is_there.is_ok_and(|status| status.success()) {
        println!("skipped: no Python package websockets");
        return;
    }
    let fixture = Fixture::new();
    let tap = Tap::open(&fixture, "socket,id=w,host=127.0.0.1,port=0,server=on,wait=off,websocket=on");
    let mut client = Command::new("python3");
    client.args(["-c", WEBSOCKET_CLIENT, &format!("ws://127.0.0.1:{}/", tap.port())]);
    exchange(&tap, &mut client, &noise(len), None);
    tap.expect(Event::Opened);
    tap.expect(Event::Closed);
}

#[test]
fn websocket_client_loses_nothing() {
    websocket(SMALL);
}

#[test]
#[ignore = "100 MiB"]
fn websocket_client_loses_nothing_of_100_mib() {
    websocket(LARGE);
}

/// An authority, and a certificate for `localhost` under it.
fn make_certificates(directory: &Path) {
    let openssl = |arguments: &str| {
        let status = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "openssl {arguments}");
    };
    std::fs::write(directory.join("ext"), "subjectAltName=DNS:localhost\n").unwrap();
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca-key.pem -out ca-cert.pem -days 2 -subj /CN=authority");
    openssl("req -newkey rsa:2048 -nodes -keyout server-key.pem -out server.csr -subj /CN=localhost");
    openssl(
        "x509 -req -in server.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -out server-cert.pem -days 2 \
         -extfile ext",
    );
}

fn tls(len: usize) {
    if !has("openssl") {
        return;
    }
    let fixture = Fixture::new();
    let directory = fixture.directory.path().to_owned();
    make_certificates(&directory);
    let provider = || Arc::new(rustls::crypto::ring::default_provider());
    let chain = CertificateDer::pem_file_iter(directory.join("server-cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.join("server-key.pem")).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(directory.join("ca-cert.pem")).unwrap()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (server, client) = (TlsConfig::Server(Arc::new(server)), TlsConfig::Client(Arc::new(client)));
    fixture.chardevs.set_tls(Arc::new(move |_, is_server| Ok(if is_server { server.clone() } else { client.clone() })));
    let tap = Tap::open(&fixture, "socket,id=t,host=127.0.0.1,port=0,server=on,wait=off,tls-creds=c");
    assert!(tap.chardev.filename().starts_with("disconnected:tls:127.0.0.1:"), "{}", tap.chardev.filename());
    let ca = directory.join("ca-cert.pem").display().to_string();
    let mut peer = Command::new("openssl");
    let address = format!("localhost:{}", tap.port());
    peer.args(["s_client", "-quiet", "-verify_return_error", "-servername", "localhost"]);
    peer.args(["-CAfile", &ca, "-connect", &address]);
    exchange(&tap, &mut peer, &noise(len), None);
    // Our own client speaks with our server, telnet inside of TLS, and is not spoken to by a plain one.
    let inner = Tap::open(&fixture, "socket,id=i,host=127.0.0.1,port=0,server=on,wait=off,tls-creds=c,telnet=on");
    let port = inner.port();
    let front_end = fixture.open(&format!("socket,id=o,host=localhost,ipv4=on,port={port},tls-creds=c,telnet=on"));
    front_end.expect_event(Event::Opened);
    front_end.write_all(&[1, 255, 255, 0, 13]);
    inner.takes(&[1, 255, 255, 0, 13]);
    inner.says(&[255, 0, 240, 13, 10]);
    assert_eq!(front_end.input(5), [255, 0, 240, 13, 10]);
}

#[test]
fn openssl_loses_nothing() {
    tls(SMALL);
}

#[test]
#[ignore = "100 MiB"]
fn openssl_loses_nothing_of_100_mib() {
    tls(LARGE);
}

#[test]
fn garbage_instead_of_a_handshake_lets_the_next_client_in() {
    let fixture = Fixture::new();
    let tap = Tap::open(&fixture, "socket,id=w,host=127.0.0.1,port=0,server=on,wait=off,websocket=on");
    let connect = || std::net::TcpStream::connect(format!("127.0.0.1:{}", tap.port())).unwrap();
    for garbage in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[0; 20000], b"\xff\xff\r\n\r\n"] {
        let mut client = connect();
        // The server may hang up before it has read everything.
        _ = client.write_all(garbage);
        let mut answer = Vec::new();
        _ = client.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "), "{answer:?}");
    }
    let mut client = connect();
    client
        .write_all(
            b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: a\r\n\
              Sec-WebSocket-Version: 13\r\n\r\n",
        )
        .unwrap();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    tap.expect(Event::Opened);
}

#[test]
fn datagrams_go_both_ways() {
    let fixture = Fixture::new();
    let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = peer.local_addr().unwrap().port();
    let tap = Tap::open(&fixture, &format!("udp,id=u,host=127.0.0.1,port={port},localaddr=127.0.0.1"));
    tap.expect(Event::Opened);
    assert_eq!(tap.chardev.write(b"hello"), 5);
    let mut buffer = [0; 8192];
    let (count, from) = peer.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"hello");
    for piece in noise(4 << 20).chunks(4000) {
        peer.send_to(piece, from).unwrap();
        tap.takes(piece);
        tap.says(piece);
        let (count, _) = peer.recv_from(&mut buffer).unwrap();
        assert!(buffer[..count] == *piece);
    }
}

#[test]
fn another_back_end_takes_the_place_of_the_first() {
    let fixture = Fixture::new();
    let path = fixture.path("f");
    let front_end = fixture.open("null,id=c");
    front_end.expect_event(Event::Opened);
    let file = parse_option(&format!("file,id=c,path={path}")).unwrap();
    fixture.chardevs.change(&file).unwrap();
    assert_eq!(front_end.chardev.filename(), "file");
    front_end.expect_event(Event::Opened);
    front_end.write_all(b"now");
    let server = fixture.path("s");
    let socket = parse_option(&format!("socket,id=c,path={server},server=on,wait=off")).unwrap();
    fixture.chardevs.change(&socket).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"now");
    let mut client = std::os::unix::net::UnixStream::connect(&server).unwrap();
    front_end.expect_event(Event::Closed);
    front_end.expect_event(Event::Opened);
    client.write_all(b"in").unwrap();
    assert_eq!(front_end.input(2), b"in");
    let unknown = parse_option("null,id=x").unwrap();
    assert_eq!(fixture.chardevs.change(&unknown).unwrap_err().to_string(), "Chardev 'x' does not exist");
}
