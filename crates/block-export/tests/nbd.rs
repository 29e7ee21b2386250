//! The NBD server against libnbd's programs, qemu-io and clients that misbehave.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aio::{Handle, IoThread};
use block::{Child, Defaults, Graph, NewBitmap, Node, NodeConfig, OpenFlags, Options, Permissions, WriteFlags};
use block_export::nbd::{BitmapRef, Export, ExportOptions, Server, ServerOptions};
use block_export::{Address, Listener};
use block_net::TlsServerCredentials;
use iobuf::IoBuf;

const SIZE: u64 = 16 << 20;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;

/// A server with the export `x`, and the thread that it runs on.
struct Setup {
    directory: tempfile::TempDir,
    graph: Arc<Graph>,
    server: Arc<Server>,
    export: Option<Arc<Export>>,
    root: Option<Arc<Child>>,
    accepting: Option<aio::JoinHandle<()>>,
    thread: IoThread,
}

impl Setup {
    fn new(format: &str, server: ServerOptions, export: ExportOptions) -> Self {
        Self::with_driver(format, server, export, |_| {})
    }

    fn with_driver(
        format: &str,
        server: ServerOptions,
        export: ExportOptions,
        prepare: impl FnOnce(&Arc<Node>),
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let image = directory.path().join("image").to_str().expect("a plain path").to_owned();
        let graph = Graph::new(block_drivers::registry());
        if format == "raw" {
            std::fs::File::create(&image).expect("a file").set_len(SIZE).expect("its size");
        } else {
            aio::block_on(async {
                let mut creation = block_tools::create::Creation::new(&graph, format, &image).expect("creates");
                creation.values.set("size", &SIZE.to_string()).expect("a size");
                creation.run(&graph).await.expect("an image");
            });
        }
        let options = Options::new().with("driver", format).with("file.driver", "file").with("file.filename", image);
        let config = NodeConfig { discard: true, ..NodeConfig::default() };
        let defaults = Defaults::new(config, OpenFlags::default());
        let node = aio::block_on(graph.open(options, defaults)).expect("opens");
        let root = graph.attach_root(&node, "test", Permissions::NONE, Permissions::ALL).expect("attaches");
        prepare(&node);
        let thread = IoThread::start("export").expect("a thread");
        let server = Server::new(server);
        let export = ExportOptions { name: "x".into(), writable: true, multi_conn: server.has_multi_conn(), ..export };
        let export = Export::new(&graph, &node, export, thread.handle().clone()).expect("an export");
        server.add(&export).expect("a new name");
        let path = directory.path().join("s").to_str().expect("a plain path").to_owned();
        let mut listeners = Listener::bind(Address::Unix { path }).expect("listens");
        let listener = listeners.pop().expect("one");
        let accepting = thread.handle().spawn(Arc::clone(&server).serve(listener));
        let (export, root, accepting) = (Some(export), Some(root), Some(accepting));
        Self { directory, graph, server, export, root, accepting, thread }
    }

    fn raw() -> Self {
        Self::new("raw", ServerOptions::default(), ExportOptions::default())
    }

    fn socket(&self) -> String {
        self.directory.path().join("s").to_str().expect("a plain path").to_owned()
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///x?socket={}", self.socket())
    }

    fn handle(&self) -> &Handle {
        self.thread.handle()
    }

    /// A client past the handshake.
    fn client(&self) -> Client {
        let mut client = Client(UnixStream::connect(self.socket()).expect("connects"));
        client.greet();
        client.go();
        client
    }

    /// The server does what it should, whatever others do to it.
    fn check_service(&self) {
        let mut client = self.client();
        client.request(WRITE, 0, 4096, 512, &[9; 512]);
        assert_eq!(client.simple_reply(), 0);
        client.request(READ, 0, 4096, 512, &[]);
        assert_eq!(client.simple_reply(), 0);
        assert_eq!(client.read(512), [9; 512]);
        client.request(DISCONNECT, 0, 0, 0, &[]);
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.server.close();
        aio::block_on(async {
            if let Some(accepting) = self.accepting.take() {
                accepting.await;
            }
            if let Some(export) = self.export.take() {
                export.close(&self.graph).await.expect("the export closes");
            }
            self.server.wait_unused().await;
            if let Some(root) = self.root.take() {
                self.graph.detach(&root).await.expect("the image closes");
            }
        });
        assert!(!std::path::Path::new(&self.socket()).exists(), "the socket is gone");
    }
}

struct Client(UnixStream);

impl Client {
    fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).expect("the server answers");
        bytes
    }

    fn number(&mut self, len: usize) -> u64 {
        self.read(len).iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
    }

    fn greet(&mut self) {
        assert_eq!(self.read(18)[..8], *b"NBDMAGIC");
        self.0.write_all(&3u32.to_be_bytes()).expect("flags");
    }

    fn option(&mut self, option: u32, data: &[u8]) {
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        self.0.write_all(&bytes).expect("an option");
    }

    /// The kind and the contents of a reply to an option.
    fn option_reply(&mut self) -> (u32, Vec<u8>) {
        self.read(12);
        let kind = self.number(4) as u32;
        let len = self.number(4) as usize;
        (kind, self.read(len))
    }

    fn go(&mut self) {
        self.option(7, &[&1u32.to_be_bytes()[..], b"x", &[0, 0]].concat());
        while self.option_reply().0 != 1 {}
    }

    fn request(&mut self, kind: u16, flags: u16, offset: u64, len: u32, data: &[u8]) {
        let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend(7u64.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend(data);
        self.0.write_all(&bytes).expect("a request");
    }

    fn simple_reply(&mut self) -> u32 {
        assert_eq!(self.number(4), 0x6744_6698);
        let error = self.number(4) as u32;
        assert_eq!(self.number(8), 7);
        error
    }

    fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0) | Err(_))
    }
}

/// What a program prints, if it is installed.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let Ok(output) = Command::new(program).args(arguments).stderr(Stdio::piped()).output() else {
        println!("skipped: {program} is not installed");
        return None;
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn nbdinfo_sees_contexts_flags_and_extents() {
    let options = ExportOptions {
        description: Some("a disk".into()),
        allocation_depth: true,
        bitmaps: vec![BitmapRef::Below("b".into())],
        ..ExportOptions::default()
    };
    let setup = Setup::with_driver("qcow2", ServerOptions::default(), options, |node| {
        let bitmap = node.add_bitmap("b", NewBitmap::default()).expect("a bitmap");
        bitmap.mark(1 << 20, 65536);
    });
    let Some(text) = run("nbdinfo", &[&setup.uri()]) else { return };
    for line in ["a disk", "qemu:allocation-depth", "qemu:dirty-bitmap:b", "can_multi_conn: true", "can_df: true"] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let map = run("nbdinfo", &["--map=qemu:dirty-bitmap:b", &setup.uri()]).expect("installed");
    let numbers: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    assert_eq!(numbers, [["0", "1048576", "0"], ["1048576", "65536", "1"], ["1114112", "15663104", "0"]]);
}

#[test]
fn nbdcopy_gives_and_takes_every_byte() {
    for format in ["raw", "qcow2"] {
        let setup = Setup::new(format, ServerOptions::default(), ExportOptions::default());
        let source = setup.directory.path().join("source");
        let pattern: Vec<u8> = (0..SIZE).map(|at| if at >> 18 & 1 == 0 { 0 } else { (at / 7 % 251) as u8 }).collect();
        std::fs::write(&source, &pattern).expect("a file");
        let source = source.to_str().expect("a plain path");
        let copy = setup.directory.path().join("copy");
        let copy = copy.to_str().expect("a plain path");
        if run("nbdcopy", &[source, &setup.uri()]).is_none() {
            return;
        }
        run("nbdcopy", &["--connections=4", &setup.uri(), copy]);
        assert!(std::fs::read(copy).expect("a copy") == pattern, "{format}");
    }
}

#[test]
fn qemu_io_writes_zeroes_and_discards() {
    let setup = Setup::new("qcow2", ServerOptions::default(), ExportOptions::default());
    let commands = [
        "write -P 5 100 70000",
        "write -f -P 6 1M 64k",
        "write -z -u 1M 32k",
        "discard 2M 1M",
        "flush",
        "read -P 5 100 70000",
        "read -P 0 1M 32k",
        "read -P 6 1081344 32k",
    ];
    let mut arguments = vec!["-f", "raw"];
    for command in commands {
        arguments.extend(["-c", command]);
    }
    let uri = setup.uri();
    arguments.push(&uri);
    if let Some(text) = run("qemu-io", &arguments) {
        assert!(!text.contains("failed"), "{text}");
    }
}

/// A certificate of an authority, and one for a server and a client each, made with openssl.
fn certificates(directory: &std::path::Path) -> bool {
    let made = |arguments: &str| {
        let mut command = Command::new("openssl");
        command.current_dir(directory).args(arguments.split(' ')).stderr(Stdio::null()).stdout(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let ca = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca-key.pem -out ca-cert.pem -days 9 -subj /CN=ca";
    let signed = |name: &str| {
        made(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}-key.pem -out {name}.csr -subj /CN=localhost -addext subjectAltName=DNS:localhost"
        )) && made(&format!(
            "x509 -req -in {name}.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -copy_extensions copy -days 9 -out {name}-cert.pem"
        ))
    };
    made(ca) && signed("server") && signed("client")
}

#[test]
fn tls_is_required_and_clients_are_verified() {
    let keys = tempfile::tempdir().expect("a directory");
    if !certificates(keys.path()) {
        println!("skipped: openssl makes no certificates");
        return;
    }
    let credentials = TlsServerCredentials::from_directory(keys.path(), true).expect("credentials");
    let options = ServerOptions { credentials: Some(credentials), ..ServerOptions::default() };
    let setup = Setup::new("raw", options, ExportOptions::default());

    let mut plain = Client(UnixStream::connect(setup.socket()).expect("connects"));
    plain.greet();
    plain.option(3, &[]);
    assert_eq!(plain.option_reply().0, 0x8000_0005, "TLS has to come first");

    let open = |directory: &std::path::Path, verify| {
        let graph = Graph::new(block_drivers::registry());
        let credentials = block_net::TlsCredentials::from_directory(directory, verify).expect("credentials");
        graph.set_object("tls", Arc::new(credentials));
        let options = Options::new()
            .with("driver", "nbd")
            .with("server.type", "unix")
            .with("server.path", setup.socket())
            .with("export", "x")
            .with("tls-creds", "tls")
            .with("tls-hostname", "localhost");
        let defaults = Defaults::new(NodeConfig::default(), OpenFlags::default());
        let node = aio::block_on(graph.open(options, defaults))?;
        let used = Permissions::CONSISTENT_READ | Permissions::WRITE;
        let root = graph.attach_root(&node, "test", used, Permissions::ALL)?;
        aio::block_on(async {
            root.write(0, IoBuf::copy_of(&[3; 100_000]), WriteFlags::default()).await?;
            let back = root.read_vec(50_000, 50_001).await?;
            assert!(back[..50_000].iter().all(|byte| *byte == 3) && back[50_000] == 0);
            graph.detach(&root).await
        })
    };
    open(keys.path(), true).expect("a client with a certificate");
    for file in ["client-cert.pem", "client-key.pem"] {
        std::fs::remove_file(keys.path().join(file)).expect("removed");
    }
    assert!(open(keys.path(), true).is_err(), "a client without a certificate");
}

#[test]
fn data_before_the_tls_handshake_ends_the_connection() {
    let keys = tempfile::tempdir().expect("a directory");
    if !certificates(keys.path()) {
        println!("skipped: openssl makes no certificates");
        return;
    }
    let credentials = TlsServerCredentials::from_directory(keys.path(), false).expect("credentials");
    let options = ServerOptions { credentials: Some(credentials), ..ServerOptions::default() };
    let setup = Setup::new("raw", options, ExportOptions::default());
    let mut client = Client(UnixStream::connect(setup.socket()).expect("connects"));
    client.greet();
    let mut both = b"IHAVEOPT".to_vec();
    both.extend([0, 0, 0, 5, 0, 0, 0, 0]);
    both.extend(b"IHAVEOPT\0\0\0\x03\0\0\0\0");
    client.0.write_all(&both).expect("sent at once");
    assert_eq!(client.option_reply().0, 1);
    assert!(client.is_closed());
}

#[test]
fn wrong_requests_are_refused_and_the_connection_lives() {
    let setup = Setup::raw();
    let mut client = setup.client();
    for (kind, flags, offset, len, error) in [
        (READ, 0, SIZE, 1, 22),
        (READ, 0, u64::MAX, u32::MAX, 22),
        (READ, 0, 0, 32 << 20 | 1, 22),
        (READ, 4, 0, 1, 22),
        (6, 0, SIZE - 1, 2, 28),
        (4, 0, SIZE - 1, 2, 22),
        (7, 0, 0, 512, 22),
        (99, 0, 0, 0, 22),
    ] {
        client.request(kind, flags, offset, len, &[]);
        assert_eq!(client.simple_reply(), error, "{kind} {flags} {offset} {len}");
    }
    client.request(READ, 0, SIZE, 0, &[]);
    assert_eq!(client.simple_reply(), 0, "nothing at the end");
    setup.check_service();
}

#[test]
fn a_write_that_is_too_long_ends_the_connection() {
    let setup = Setup::raw();
    let mut client = setup.client();
    client.request(WRITE, 0, 0, 32 << 20 | 1, &[]);
    assert_eq!(client.simple_reply(), 22);
    assert!(client.is_closed());
    setup.check_service();
}

#[test]
fn options_of_impossible_lengths_are_refused() {
    let setup = Setup::raw();
    let mut client = Client(UnixStream::connect(setup.socket()).expect("connects"));
    client.greet();
    for (option, data, error) in [
        (7, vec![0xff; 8], 0x8000_0003),
        (10, vec![0; 3], 0x8000_0003),
        (9, [&1u32.to_be_bytes()[..], b"x", &u32::MAX.to_be_bytes()].concat(), 0x8000_0003),
        (6, vec![0; 300 << 10], 0x8000_0009),
        (3, vec![1], 0x8000_0003),
        (77, vec![5; 100_000], 0x8000_0001),
    ] {
        client.option(option, &data);
        assert_eq!(client.option_reply().0, error, "option {option}");
    }
    client.go();
    client.0.write_all(&[0xaa; 28]).expect("no request");
    assert!(client.is_closed());
    setup.check_service();
}

#[test]
fn silent_and_half_sent_clients_hold_nobody_up() {
    let setup = Setup::raw();
    let silent: Vec<_> = (0..50).map(|_| UnixStream::connect(setup.socket()).expect("connects")).collect();
    let mut half = setup.client();
    half.request(WRITE, 0, 0, 1 << 20, &[1; 1000]);
    setup.check_service();
    // Vanishes in the midst.
    drop(half);
    setup.check_service();
    drop(silent);
}

#[test]
fn a_client_that_does_not_read_is_held_up_alone() {
    let setup = Setup::raw();
    let mut greedy = setup.client();
    greedy.0.set_write_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let mut request = 0x2560_9513u32.to_be_bytes().to_vec();
    request.extend([0; 20]);
    request.extend((1u32 << 20).to_be_bytes());
    let started = Instant::now();
    while greedy.0.write_all(&request).is_ok() && started.elapsed() < Duration::from_secs(10) {}
    setup.check_service();
    drop(greedy);
    setup.check_service();
}

#[test]
fn the_handshake_has_a_limit() {
    let options = ServerOptions { handshake_limit: Duration::from_millis(100), ..ServerOptions::default() };
    let setup = Setup::new("raw", options, ExportOptions::default());
    let mut client = Client(UnixStream::connect(setup.socket()).expect("connects"));
    client.greet();
    assert!(client.is_closed());
    setup.check_service();
}

#[test]
fn more_clients_than_allowed_wait() {
    let options = ServerOptions { max_connections: 1, ..ServerOptions::default() };
    let setup = Setup::new("raw", options, ExportOptions::default());
    let first = setup.client();
    let mut second = Client(UnixStream::connect(setup.socket()).expect("connects"));
    second.0.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    assert!(second.0.read(&mut [0]).is_err(), "nobody greets");
    drop(first);
    second.0.set_read_timeout(None).expect("no timeout");
    second.greet();
    second.go();
}

#[test]
fn a_hard_end_cuts_clients_off_in_the_midst() {
    let setup = Setup::raw();
    let mut clients: Vec<Client> = (0..8).map(|_| setup.client()).collect();
    for client in &mut clients {
        client.request(READ, 0, 0, 4 << 20, &[]);
        client.request(WRITE, 0, 0, 1 << 20, &[]);
    }
    let export = Arc::clone(setup.export.as_ref().expect("an export"));
    // A client is counted when it has been handed over to the export, after its handshake.
    let deadline = Instant::now() + Duration::from_secs(20);
    while export.connections() < 8 {
        assert!(Instant::now() < deadline, "{} clients came", export.connections());
        std::thread::sleep(Duration::from_millis(2));
    }
    export.shut_down();
    aio::block_on(setup.handle().spawn(async move { export.wait_unused().await }));
    for client in &mut clients {
        let mut rest = Vec::new();
        // What was under way may still come.
        let _ = client.0.read_to_end(&mut rest);
    }
    assert_eq!(UnixStream::connect(setup.socket()).map(|_| ()).ok(), Some(()), "the server goes on");
}

#[test]
fn fifty_clients_at_once_see_their_own_writes() {
    let setup = Setup::new("qcow2", ServerOptions::default(), ExportOptions::default());
    std::thread::scope(|scope| {
        for number in 0..50u64 {
            let setup = &setup;
            scope.spawn(move || {
                let mut client = setup.client();
                let mine = number as u8 + 1;
                for round in 0..10 {
                    let offset = number * 65536 + round * 4096;
                    client.request(WRITE, 0, offset, 4096, &[mine; 4096]);
                    assert_eq!(client.simple_reply(), 0);
                    client.request(READ, 0, offset, 4096, &[]);
                    assert_eq!(client.simple_reply(), 0);
                    assert!(client.read(4096).iter().all(|byte| *byte == mine));
                }
            });
        }
    });
}

#[test]
fn an_export_refuses_what_does_not_go_together() {
    let setup = Setup::raw();
    let node = setup.root.as_ref().expect("open").node();
    let new = |options| Export::new(&setup.graph, &node, options, setup.handle().clone()).map(drop);
    let text = |options| new(options).expect_err("refused").to_string();
    let missing = ExportOptions { bitmaps: vec![BitmapRef::Below("b".into())], ..ExportOptions::default() };
    assert_eq!(text(missing), "Bitmap 'b' is not found");
    node.add_bitmap("b", NewBitmap::default()).expect("a bitmap");
    let enabled = ExportOptions { bitmaps: vec![BitmapRef::Below("b".into())], ..ExportOptions::default() };
    assert_eq!(text(enabled), "Enabled bitmap 'b' incompatible with readonly export");
    let long = ExportOptions { description: Some("d".repeat(4097)), ..ExportOptions::default() };
    assert!(text(long).ends_with("too long"));
    let resizing = setup.graph.attach_root(&node, "job", Permissions::RESIZE, Permissions::ALL);
    assert!(resizing.is_err(), "the size stays while there is an export");
}
