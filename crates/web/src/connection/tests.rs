//! The server as a client sees it, over real sockets.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use chardev::{Backend, ChardevSpec, Chardevs, Common, TapReader};
use tokio::runtime::{Builder, Handle};

use super::*;
use crate::server::{Host, Line, Server};
use crate::{Error, Options};

struct Program {
    chardevs: Chardevs,
    inner: Mutex<Option<UnixStream>>,
}

impl Host for Program {
    fn info(&self) -> String {
        "{\"terminals\":[]}".to_owned()
    }

    fn show_screen(&self, _: OwnedFd) -> Result<(), Error> {
        Err(Error::new("no screen"))
    }

    fn monitor(&self) -> Result<Line, Error> {
        let (stream, inner) = UnixStream::pair().map_err(|error| Error::new(error.to_string()))?;
        *crate::lock(&self.inner) = Some(inner);
        Ok(Line { stream, keeper: Box::new(()) })
    }

    fn terminal(&self, name: &str) -> Option<TapReader> {
        self.chardevs.tap(name)
    }
}

fn with_server<F: Future<Output = ()>>(option: &str, test: impl FnOnce(Client, Arc<Program>) -> F) {
    let runtime = Builder::new_current_thread().enable_all().start_paused(false).build().expect("a runtime");
    let chardevs = Chardevs::new(runtime.handle().clone());
    chardevs.set_taps();
    let common = Common { mux: false, log_file: None, log_append: false };
    chardevs.add(&ChardevSpec { id: "s/0".into(), backend: Backend::Null, common }).expect("a device");
    let program = Arc::new(Program { chardevs, inner: Mutex::default() });
    let options = Options::parse(option).expect("an option");
    let host = Arc::clone(&program) as Arc<dyn Host>;
    let server = Server::start(runtime.handle(), &options, host).expect("a server");
    let url = server.url().to_owned();
    let place = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("a URL");
    let client = Client { place: place.0.to_owned(), query: place.1.to_owned(), cookie: String::new() };
    runtime.block_on(test(client, program));
}

#[derive(Clone)]
struct Client {
    place: String,
    query: String,
    cookie: String,
}

impl Client {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.place).await.expect("the server listens")
    }

    /// Sends bytes and reads to the end of the connection.
    async fn talk(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn request(&self, method: &str, path: &str, fields: &str) -> String {
        let Self { place, cookie, .. } = self;
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: {place}\r\nCookie: {cookie}\r\nConnection: close\r\n{fields}\r\n"
        );
        self.talk(text.as_bytes()).await
    }

    async fn log_in(&mut self) {
        let answer = self.request("GET", &format!("/{}", self.query), "").await;
        let cookie = answer.lines().find_map(|line| line.strip_prefix("Set-Cookie: ")).expect("a cookie");
        self.cookie = cookie.split(';').next().expect("a pair").to_owned();
    }

    /// Opens a WebSocket; what was answered, and the connection.
    async fn upgrade(&self, path: &str, origin: &str) -> (String, TcpStream) {
        let Self { place, cookie, .. } = self;
        let mut stream = self.connect().await;
        let text = format!(
            "GET {path} HTTP/1.1\r\nHost: {place}\r\nOrigin: {origin}\r\nCookie: {cookie}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(text.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.expect("an answer"));
        }
        (String::from_utf8_lossy(&answer).into_owned(), stream)
    }

    fn origin(&self) -> String {
        format!("http://{}", self.place)
    }
}

fn masked(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | u8::try_from(payload.len()).expect("short"), 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

#[test]
fn browser_without_a_session_gets_nothing_but_the_door() {
    with_server("0", |mut client, _| async move {
        for path in ["/", "/api/info", "/assets/x.js", "/index.html"] {
            let answer = client.request("GET", path, "").await;
            assert!(answer.starts_with("HTTP/1.1 401 "), "{path}: {answer}");
        }
        assert!(client.upgrade("/ws/qmp", &client.origin()).await.0.starts_with("HTTP/1.1 401 "));
        let wrong = client.request("GET", "/?token=0123456789abcdef0123456789abcdef", "").await;
        assert!(wrong.starts_with("HTTP/1.1 403 ") && !wrong.contains("Set-Cookie"), "{wrong}");
        client.log_in().await;
        let answer = client.request("GET", "/api/info", "").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("{\"terminals\":[]}"), "{answer}");
        assert!(answer.contains("Content-Security-Policy: default-src 'none'"), "{answer}");
        let again = Client { cookie: String::new(), ..client.clone() };
        let used = again.request("GET", &format!("/{}", client.query), "").await;
        assert!(used.starts_with("HTTP/1.1 403 "), "{used}");
    });
}

#[test]
fn pages_of_others_open_no_socket_and_change_nothing() {
    with_server("0", |mut client, _| async move {
        client.log_in().await;
        let own = client.origin();
        for origin in ["http://evil.example", "null", "http://127.0.0.1:1"] {
            assert!(client.upgrade("/ws/qmp", origin).await.0.starts_with("HTTP/1.1 403 "), "{origin}");
            let answer = client.request("POST", "/api/link", &format!("Origin: {origin}\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        }
        assert!(client.request("POST", "/api/link", "").await.starts_with("HTTP/1.1 403 "), "no origin");
        let rebound =
            format!("GET / HTTP/1.1\r\nHost: evil.example\r\nCookie: {}\r\nConnection: close\r\n\r\n", client.cookie);
        assert!(client.talk(rebound.as_bytes()).await.starts_with("HTTP/1.1 421 "));
        let link = client.request("POST", "/api/link", &format!("Origin: {own}\r\n")).await;
        let token = link.rsplit('"').nth(1).expect("a token");
        let mut other = Client { query: format!("?token={token}"), cookie: String::new(), ..client.clone() };
        other.log_in().await;
        client.request("POST", "/api/logout", &format!("Origin: {own}\r\n")).await;
        assert!(client.request("GET", "/api/info", "").await.starts_with("HTTP/1.1 401 "));
        assert!(other.request("GET", "/api/info", "").await.starts_with("HTTP/1.1 200 "));
    });
}

#[test]
fn garbage_and_huge_heads_are_answered_and_the_connection_ends() {
    with_server("0,auth=off", |client, _| async move {
        let huge = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(64 << 10));
        for (bytes, status) in [
            (&b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"[..], "400"),
            (b"GET / HTTP/1.0\r\n\r\n", "505"),
            (b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n\r\nabc", "413"),
            (huge.as_bytes(), "431"),
        ] {
            let answer = client.talk(bytes).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
        // Two requests at once are answered one after the other.
        let pair =
            "GET /x HTTP/1.1\r\nHost: localhost\r\n\r\nHEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let answer = client.talk(pair.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "HEAD has no body: {answer}");
    });
}

#[test]
fn half_open_connections_are_bounded_and_end_by_themselves() {
    with_server("0,auth=off", |client, _| async move {
        tokio::time::pause();
        let mut slow = Vec::new();
        for _ in 0..80 {
            let mut stream = client.connect().await;
            stream.write_all(b"GET / HTTP/1.1\r\nHo").await.expect("sent");
            slow.push(stream);
        }
        // More than may be there: this one waits until they are thrown out, and is served then.
        tokio::time::resume();
        tokio::time::pause();
        let answer = client.request("GET", "/api/info", "").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let mut rest = Vec::new();
        let mut first = slow.remove(0);
        assert_eq!(first.read_to_end(&mut rest).await.expect("its end"), 0);
    });
}

#[test]
fn monitor_and_terminal_are_carried_both_ways() {
    with_server("0,auth=off", |client, program| async move {
        let (answer, mut stream) = client.upgrade("/ws/qmp", &client.origin()).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        let inner = crate::lock(&program.inner).take().expect("a monitor");
        inner.set_nonblocking(true).expect("set");
        let mut inner = tokio::net::UnixStream::from_std(inner).expect("a stream");
        inner.write_all(b"greeting").await.expect("sent");
        let mut frame = [0; 10];
        stream.read_exact(&mut frame).await.expect("a frame");
        assert_eq!(&frame, b"\x82\x08greeting");
        stream.write_all(&masked(b"command")).await.expect("sent");
        let mut command = [0; 7];
        inner.read_exact(&mut command).await.expect("a command");
        assert_eq!(&command, b"command");
        drop(inner);
        let mut farewell = Vec::new();
        stream.read_to_end(&mut farewell).await.expect("the end");
        assert_eq!(farewell, b"\x88\x02\x03\xe8");

        let device = program.chardevs.attach_guest("s/0").expect("the device");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ears = Arc::clone(&heard);
        device.set_input(Box::new(move |bytes| {
            // A byte at a time, as a serial port.
            crate::lock(&ears).push(bytes[0]);
            1
        }));
        assert_eq!(device.write(b"before"), 6);
        let (answer, mut stream) = client.upgrade("/ws/serial/s%2F0", &client.origin()).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        let mut frame = [0; 8];
        stream.read_exact(&mut frame).await.expect("the past");
        assert_eq!(&frame, b"\x82\x06before");
        assert_eq!(device.write(b"after"), 5);
        let mut frame = [0; 7];
        stream.read_exact(&mut frame).await.expect("the present");
        assert_eq!(&frame, b"\x82\x05after");
        stream.write_all(&masked(b"typed")).await.expect("sent");
        while crate::lock(&heard).len() < 5 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*crate::lock(&heard), b"typed");
        // One that reads nothing loses its place, and the device goes on.
        for _ in 0..4096 {
            assert_eq!(device.write(&[b'x'; 4096]), 4096);
            tokio::task::yield_now().await;
        }
        drop(device);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("the end");
        assert!(rest.len() < 16 << 20, "{}", rest.len());
        assert!(client.upgrade("/ws/serial/s%2F0", &client.origin()).await.0.starts_with("HTTP/1.1 404 "));
    });
}

#[test]
fn browser_that_closes_its_socket_is_answered() {
    with_server("0,auth=off", |client, _| async move {
        let (answer, mut stream) = client.upgrade("/ws/qmp", &client.origin()).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        stream.write_all(b"\x88\x82\0\0\0\0\x03\xe9").await.expect("sent");
        let mut farewell = Vec::new();
        stream.read_to_end(&mut farewell).await.expect("the end");
        assert_eq!(farewell, b"\x88\x02\x03\xe9");
    });
}

#[test]
fn address_that_is_taken_is_an_error_that_names_it() {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let handle: &Handle = runtime.handle();
    let program = Arc::new(Program { chardevs: Chardevs::new(handle.clone()), inner: Mutex::default() });
    let result = Server::start(handle, &Options::parse(&port.to_string()).expect("an option"), program);
    let error = result.err().expect("taken").to_string();
    assert_eq!(error, format!("can't listen at 127.0.0.1:{port}: Address already in use"));
}
