//! The `http` driver against a small web server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use block::{Child, Defaults, Graph, NodeConfig, OpenFlags, Options, Permissions, Registry, WriteFlags};

const LEN: usize = 3_000_001;

fn content() -> Vec<u8> {
    (0..LEN as u32).map(|n| (n % 249) as u8).collect()
}

fn open(options: Options) -> block::Result<(Arc<Graph>, Arc<Child>)> {
    let graph = Graph::new(Registry::new(block::builtin_drivers().into_iter().chain(block_net::drivers())));
    graph.set_secret("pw", b"secret".to_vec());
    let config = NodeConfig { read_only: true, ..NodeConfig::default() };
    let node = aio::block_on(graph.open(options, Defaults::new(config, OpenFlags::default())))?;
    let child = graph.attach_root(&node, "test", Permissions::CONSISTENT_READ, Permissions::ALL)?;
    Ok((graph, child))
}

#[derive(Default)]
struct Log {
    connections: AtomicUsize,
    requests: Mutex<Vec<String>>,
}

/// Serves `/image`, and odd things under other names.
struct Server {
    port: u16,
    log: Arc<Log>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let log = Arc::new(Log::default());
        let theirs = Arc::clone(&log);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                theirs.connections.fetch_add(1, Ordering::SeqCst);
                let log = Arc::clone(&theirs);
                std::thread::spawn(move || serve(stream, &log));
            }
        });
        Self { port, log }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn options(&self, path: &str) -> Options {
        Options::new().with("driver", "http").with("url", self.url(path))
    }
}

fn serve(stream: TcpStream, log: &Log) {
    let content = content();
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut stream = stream;
    loop {
        let mut request = String::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            request += &line;
        }
        log.requests.lock().expect("no panic").push(request.clone());
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or("").to_owned());
        let range = request.lines().find_map(|line| line.strip_prefix("Range: bytes="));
        let range = range
            .and_then(|range| range.split_once('-'))
            .map(|(from, to)| (from.parse::<usize>().expect("a number"), to.parse::<usize>().expect("a number")));
        let reply = match (path.as_str(), method, range) {
            ("/moved", ..) => b"HTTP/1.1 302 Found\r\nLocation: /image\r\nContent-Length: 0\r\n\r\n".to_vec(),
            ("/loop", ..) => b"HTTP/1.1 301 Moved\r\nLocation: loop\r\nContent-Length: 0\r\n\r\n".to_vec(),
            ("/missing", ..) => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
            ("/rangeless", ..) => format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n").into_bytes(),
            ("/garbage", ..) => b"\x00\x01garbage\r\n\r\n".to_vec(),
            (_, "HEAD", _) => {
                format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\nAccept-Ranges: bytes\r\n\r\n").into_bytes()
            }
            ("/liar", _, Some((from, to))) => [
                format!("HTTP/1.1 206 Partial\r\nContent-Range: bytes 7-{}/{LEN}\r\n\r\n", to - from + 7).into_bytes(),
                content[..=to - from].to_vec(),
            ]
            .concat(),
            ("/short", _, Some((from, to))) => {
                let head = format!(
                    "HTTP/1.1 206 P\r\nContent-Range: bytes {from}-{to}/{LEN}\r\nContent-Length: {}\r\n\r\n",
                    to - from + 1
                );
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&content[from..to]));
                return;
            }
            ("/chunked", _, Some((from, to))) => {
                let head = format!(
                    "HTTP/1.1 206 P\r\nContent-Range: bytes {from}-{to}/{LEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
                );
                let mut reply = head.into_bytes();
                for chunk in content[from..=to].chunks(10_000) {
                    reply.extend(format!("{:x}\r\n", chunk.len()).bytes());
                    reply.extend(chunk);
                    reply.extend(b"\r\n");
                }
                reply.extend(b"0\r\n\r\n");
                reply
            }
            (_, _, Some((from, to))) => {
                let head = format!(
                    "HTTP/1.1 206 P\r\nContent-Range: bytes {from}-{to}/{LEN}\r\nContent-Length: {}\r\n\r\n",
                    to - from + 1
                );
                [head.as_bytes(), &content[from..=to]].concat()
            }
            _ => b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec(),
        };
        if stream.write_all(&reply).is_err() {
            return;
        }
    }
}

#[test]
fn an_image_is_read_in_ranges_over_few_connections() {
    let server = Server::start();
    for path in ["/image", "/moved", "/chunked"] {
        let (_graph, child) = open(server.options(path)).expect("opens");
        assert_eq!(child.len(), LEN as u64);
        aio::block_on(async {
            let content = content();
            for (offset, len) in [(0, 512), (512, 4096), (1_000_000, 700_000), (LEN - 100, 100), (100, 1)] {
                let bytes = child.read_vec(offset as u64, len).await.expect("reads");
                assert!(bytes == content[offset..offset + len], "{path} {offset}");
            }
            assert_eq!(child.read_vec(LEN as u64 - 1, 3).await.expect("reads")[1..], [0, 0]);
        });
    }
    let requests = server.log.requests.lock().expect("no panic");
    // The second read and the last ones come from what was read ahead.
    assert_eq!(requests.iter().filter(|request| request.starts_with("GET /image")).count(), 3 + 3);
    assert!(server.log.connections.load(Ordering::SeqCst) <= 12);
}

#[test]
fn parallel_reads_use_several_connections() {
    let server = Server::start();
    let (_graph, child) = open(server.options("/image").with("readahead", 0u64)).expect("opens");
    aio::block_on(async {
        let tasks: Vec<_> = (0..50usize)
            .map(|n| {
                let child = Arc::clone(&child);
                aio::spawn(async move { (n, child.read_vec(n as u64 * 50_000, 1000).await.expect("reads")) })
            })
            .collect();
        let content = content();
        for task in tasks {
            let (n, bytes) = task.await;
            assert!(bytes == content[n * 50_000..][..1000]);
        }
    });
    assert!(server.log.connections.load(Ordering::SeqCst) <= 1 + 8);
}

#[test]
fn credentials_and_cookies_go_with_every_request() {
    let server = Server::start();
    let options = server.options("/image").with("cookie", "a=b").with("username", "me").with("password-secret", "pw");
    let (_graph, child) = open(options).expect("opens");
    aio::block_on(child.read_vec(0, 10)).expect("reads");
    let requests = server.log.requests.lock().expect("no panic");
    assert_eq!(requests.len(), 2);
    for request in requests.iter() {
        assert!(request.contains("\r\nCookie: a=b\r\nAuthorization: Basic bWU6c2VjcmV0\r\n"), "{request}");
    }
    assert_eq!(child.node().driver().exact_filename(), None);
}

#[test]
fn servers_that_cannot_serve_an_image_are_refused() {
    let server = Server::start();
    let text = |options: Options| open(options).map(drop).expect_err("refused").to_string();
    let wrong = |path| text(server.options(path));
    let prefix = "CURL: Error opening file: ";
    assert_eq!(wrong("/missing"), format!("{prefix}The requested URL returned error: 404 Not Found"));
    assert_eq!(wrong("/rangeless"), format!("{prefix}Server does not support 'range' (byte ranges)."));
    assert_eq!(wrong("/loop"), format!("{prefix}Maximum (10) redirects followed"));
    assert!(wrong("/garbage").starts_with(prefix));
    assert_eq!(text(Options::new().with("driver", "http")), "http block driver requires an 'url' option");
    assert_eq!(
        text(server.options("/image").with("readahead", "1000")),
        "HTTP_READAHEAD_SIZE 1000 is not a multiple of 512"
    );
    for path in ["/liar", "/short"] {
        let (_graph, child) = open(server.options(path)).expect("opens");
        aio::block_on(child.read_vec(0, 512)).expect_err("a wrong answer");
    }
    let (_graph, child) = open(server.options("/image")).expect("opens");
    aio::block_on(child.write(0, iobuf::IoBuf::zeroed(512), WriteFlags::default())).expect_err("read-only");
}
