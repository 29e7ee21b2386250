//! The `nbd` driver against qemu-nbd, nbdkit and servers that misbehave.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::process::{Child as Process, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use aio::IoThread;
use block::{
    Child, Defaults, Graph, NodeConfig, OpenFlags, Options, Permissions, Preallocation, Registry, WriteFlags, ZeroFlags,
};
use block_net::TlsCredentials;
use iobuf::IoBuf;

fn graph() -> Arc<Graph> {
    let drivers = block::builtin_drivers().into_iter().chain(block_net::drivers());
    Graph::new(Registry::new(drivers))
}

fn open_in(graph: &Arc<Graph>, options: Options, read_only: bool) -> block::Result<Arc<Child>> {
    let config = NodeConfig { discard: true, read_only, ..NodeConfig::default() };
    let node = aio::block_on(graph.open(options, Defaults::new(config, OpenFlags::default())))?;
    let write = if read_only { Permissions::NONE } else { Permissions::WRITE };
    graph.attach_root(&node, "test", Permissions::CONSISTENT_READ | write, Permissions::ALL)
}

fn open(options: Options) -> block::Result<Arc<Child>> {
    open_in(&graph(), options, false)
}

fn at(socket: &str) -> Options {
    Options::new().with("driver", "nbd").with("server.type", "unix").with("server.path", socket)
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("a plain path").to_owned()
    }

    fn image(&self, name: &str, len: u64) -> String {
        let path = self.path(name);
        std::fs::File::create(&path).expect("a file").set_len(len).expect("its size");
        path
    }
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

/// A server, until it is dropped.
struct Server(Process);

impl Server {
    /// Starts it and waits for its socket.
    fn start(program: &str, socket: &str, arguments: &[&str]) -> Self {
        let process = Command::new(program).args(arguments).spawn().expect("it starts");
        while !std::path::Path::new(socket).exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        // nbdkit binds before it listens.
        std::thread::sleep(Duration::from_millis(50));
        Self(process)
    }

    fn qemu_nbd(socket: &str, image: &str, more: &[&str]) -> Self {
        let mut arguments = vec!["-k", socket, "-f", "raw", "-t", "-e", "8"];
        arguments.extend(more);
        arguments.push(image);
        Self::start("qemu-nbd", socket, &arguments)
    }

    fn nbdkit(socket: &str, arguments: &[&str]) -> Self {
        let mut all = vec!["-f", "-U", socket];
        all.extend(arguments);
        Self::start("nbdkit", socket, &all)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn exercise(child: &Child) {
    let bytes: Vec<u8> = (0..200_000u32).map(|n| (n % 253) as u8).collect();
    child.write(1000, IoBuf::copy_of(&bytes), WriteFlags::default()).await.expect("writes");
    assert!(child.read_vec(1000, bytes.len()).await.expect("reads") == bytes);
    child.write(5, IoBuf::copy_of(b"fua"), WriteFlags { fua: true, ..WriteFlags::default() }).await.expect("writes");
    assert_eq!(child.read_vec(4, 5).await.expect("reads"), b"\0fua\0");
    let unmap = ZeroFlags { may_unmap: true, ..ZeroFlags::default() };
    child.write_zeroes(65536, 65536, unmap).await.expect("zeroes");
    assert!(child.read_vec(65536, 65536).await.expect("reads").iter().all(|byte| *byte == 0));
    child.discard(1 << 20, 65536).await.expect("discards");
    child.flush().await.expect("flushes");
    let error = child.truncate(1 << 30, true, Preallocation::Off).await.expect_err("fixed");
    assert_eq!(error.to_string(), "Cannot resize NBD nodes");
}

#[test]
fn an_export_of_qemu_nbd_is_read_written_and_mapped() {
    if !has("qemu-nbd") {
        return;
    }
    let dir = Dir::new();
    let (socket, image) = (dir.path("s"), dir.image("a.img", 4 << 20));
    let _server = Server::qemu_nbd(&socket, &image, &["--discard=unmap"]);
    let graph = graph();
    let child = open_in(&graph, at(&socket), false).expect("connects");
    assert_eq!(child.len(), 4 << 20);
    assert_eq!(child.node().driver().exact_filename(), Some(format!("nbd+unix://?socket={socket}")));
    aio::block_on(async {
        exercise(&child).await;
        let status = child.block_status(65536, 4 << 20, true).await.expect("status");
        assert!(status.zero && !status.data && status.len == 65536, "{status:?}");
        let status = child.block_status(0, 4096, true).await.expect("status");
        assert!(status.data && !status.zero && status.len == 4096, "{status:?}");
        graph.detach(&child).await.expect("closes");
    });
    let file = std::fs::read(&image).expect("the image");
    assert_eq!(&file[5..8], b"fua");
}

#[test]
fn nbdkit_serves_by_every_spelling() {
    if !has("nbdkit") {
        return;
    }
    let dir = Dir::new();
    let socket = dir.path("s");
    let _server = Server::nbdkit(&socket, &["memory", "4M"]);
    aio::block_on(async {});
    for filename in [
        format!("nbd+unix:///name?socket={socket}"),
        format!("nbd:unix:{socket}"),
        format!("nbd:unix:{socket}:exportname=x"),
        format!("json:{{\"driver\":\"nbd\",\"server\":{{\"type\":\"unix\",\"path\":\"{socket}\"}}}}"),
    ] {
        let child = open(Options::new().with("filename", filename.as_str())).expect("connects");
        aio::block_on(exercise(&child));
        let child = open(Options::new().with("driver", "nbd").with("path", socket.as_str())).expect("connects");
        aio::block_on(async { assert_eq!(child.read_vec(4, 5).await.expect("reads"), b"\0fua\0") });
    }
}

#[test]
fn old_protocols_are_understood() {
    if !has("nbdkit") {
        return;
    }
    for mode in [&["--no-sr"][..], &["--mask-handshake=0"], &["--mask-handshake=1"]] {
        let dir = Dir::new();
        let socket = dir.path("s");
        let _server = Server::nbdkit(&socket, &[mode, &["memory", "4M"]].concat());
        aio::block_on(exercise(&open(at(&socket)).expect("connects")));
    }
}

#[test]
fn many_requests_of_two_threads_share_a_connection() {
    if !has("nbdkit") {
        return;
    }
    let dir = Dir::new();
    let socket = dir.path("s");
    let _server = Server::nbdkit(&socket, &["--filter=delay", "memory", "4M", "rdelay=2ms"]);
    let child = open(at(&socket)).expect("connects");
    let threads = [IoThread::start("a").expect("a thread"), IoThread::start("b").expect("a thread")];
    let tasks: Vec<_> = (0..400u32)
        .map(|n| {
            let child = Arc::clone(&child);
            threads[n as usize % 2].handle().spawn(async move {
                let offset = u64::from(n) * 4096;
                child.write(offset, IoBuf::copy_of(&n.to_le_bytes()), WriteFlags::default()).await.expect("writes");
                assert_eq!(child.read_vec(offset, 4).await.expect("reads"), n.to_le_bytes());
            })
        })
        .collect();
    aio::block_on(async {
        for task in tasks {
            task.await;
        }
    });
}

#[test]
fn errors_of_the_server_keep_their_numbers() {
    if !has("nbdkit") {
        return;
    }
    let dir = Dir::new();
    let socket = dir.path("s");
    let error = ["--filter=error", "memory", "4M", "error=ENOSPC", "error-pwrite-rate=100%"];
    let _server = Server::nbdkit(&socket, &error);
    let child = open(at(&socket)).expect("connects");
    aio::block_on(async {
        let error = child.write(0, IoBuf::zeroed(512), WriteFlags::default()).await.expect_err("full");
        assert!(error.is_no_space(), "{error}");
        child.read_vec(0, 512).await.expect("the connection lives");
    });
}

#[test]
fn exports_that_do_not_exist_or_do_not_fit_are_refused() {
    if !has("qemu-nbd") {
        return;
    }
    let dir = Dir::new();
    let (socket, image) = (dir.path("s"), dir.image("a.img", 1 << 20));
    let server = Server::qemu_nbd(&socket, &image, &["-r", "-x", "disk"]);
    let error = open(at(&socket).with("export", "foo")).expect_err("no such export");
    assert_eq!(error.to_string(), "Requested export not available");
    assert_eq!(error.hint(), Some("server reported: export 'foo' not present"));
    let error = open(at(&socket).with("export", "disk")).expect_err("read-only");
    assert_eq!(error.to_string(), "request on write denied without write permission");
    open_in(&graph(), at(&socket).with("export", "disk"), true).expect("reads");
    let error = open(at(&socket).with("tls-creds", "tls0")).expect_err("no credentials");
    assert_eq!(error.to_string(), "No TLS credentials with id 'tls0'");
    drop(server);
    std::fs::remove_file(&socket).ok();
    let error = open(at(&socket)).expect_err("nobody is there");
    assert_eq!(error.to_string(), format!("Failed to connect to '{socket}': No such file or directory"));
}

#[test]
fn a_server_that_comes_back_is_connected_to_again() {
    if !has("qemu-nbd") {
        return;
    }
    let dir = Dir::new();
    let (socket, image) = (dir.path("s"), dir.image("a.img", 1 << 20));
    let server = Server::qemu_nbd(&socket, &image, &[]);
    let patient = open(at(&socket).with("reconnect-delay", 20u64)).expect("connects");
    let hasty = open(at(&socket)).expect("connects");
    aio::block_on(patient.write(0, IoBuf::copy_of(b"kept"), WriteFlags::default())).expect("writes");
    drop(server);
    std::fs::remove_file(&socket).ok();
    // Whether the request could still be sent makes no difference.
    for _ in 0..2 {
        let error = aio::block_on(hasty.read_vec(0, 4)).expect_err("nobody answers");
        assert_eq!(error.errno(), rustix::io::Errno::IO.raw_os_error(), "{error}");
    }
    let (again, path) = (socket.clone(), image.clone());
    let restart = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        Server::qemu_nbd(&again, &path, &[])
    });
    assert_eq!(aio::block_on(patient.read_vec(0, 4)).expect("waits and reads"), b"kept");
    let _server = restart.join().expect("it starts");
    assert_eq!(aio::block_on(hasty.read_vec(0, 4)).expect("reads again"), b"kept");
}

#[test]
fn a_server_that_comes_late_is_waited_for() {
    if !has("qemu-nbd") {
        return;
    }
    let dir = Dir::new();
    let (socket, image) = (dir.path("s"), dir.image("a.img", 1 << 20));
    let (theirs, path) = (socket.clone(), image.clone());
    let start = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        Server::qemu_nbd(&theirs, &path, &[])
    });
    open(at(&socket).with("open-timeout", 20u64)).expect("connects");
    start.join().expect("it starts");
}

fn openssl(dir: &Dir, arguments: &str) -> bool {
    let status = Command::new("openssl").args(arguments.split(' ')).current_dir(dir.0.path()).output();
    status.is_ok_and(|output| output.status.success())
}

/// A directory of credentials for a server and its client, or none without `openssl`.
fn credentials(dir: &Dir) -> bool {
    std::fs::write(dir.path("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1").expect("a file");
    let steps = [
        "req -x509 -newkey rsa:2048 -nodes -keyout ca-key.pem -out ca-cert.pem -subj /CN=ca -days 2",
        "req -newkey rsa:2048 -nodes -keyout server-key.pem -out server.csr -subj /CN=localhost",
        "x509 -req -in server.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -out server-cert.pem -days 2 -extfile names",
        "req -newkey rsa:2048 -nodes -keyout client-key.pem -out client.csr -subj /CN=client",
        "x509 -req -in client.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -out client-cert.pem -days 2 -extfile names",
    ];
    steps.into_iter().all(|step| openssl(dir, step))
}

#[test]
fn an_encrypted_export_wants_the_right_certificates() {
    let dir = Dir::new();
    if !has("qemu-nbd") || !credentials(&dir) {
        println!("skipped: no credentials");
        return;
    }
    let (socket, image) = (dir.path("s"), dir.image("a.img", 4 << 20));
    let object = format!("tls-creds-x509,id=tls0,endpoint=server,verify-peer=on,dir={}", dir.path(""));
    let more = ["--object", object.as_str(), "--tls-creds", "tls0"];
    let _server = Server::qemu_nbd(&socket, &image, &more);
    let error = open(at(&socket)).expect_err("no TLS");
    assert!(error.to_string().contains("TLS"), "{error}");
    let graph = graph();
    let tls = TlsCredentials::from_directory(dir.0.path(), true).expect("credentials");
    graph.set_object("tls0", Arc::new(tls));
    let options = || at(&socket).with("tls-creds", "tls0");
    let child = open_in(&graph, options().with("tls-hostname", "localhost"), false).expect("connects");
    aio::block_on(exercise(&child));
    let error = open_in(&graph, options().with("tls-hostname", "elsewhere"), false).expect_err("another name");
    assert!(error.to_string().starts_with("TLS handshake failed"), "{error}");
    let careless = TlsCredentials::from_directory(dir.0.path(), false).expect("credentials");
    graph.set_object("tls0", Arc::new(careless));
    open_in(&graph, options().with("tls-hostname", "elsewhere"), false).expect("connects");
}

type Answer = Box<dyn Fn(&[u8]) -> Vec<u8> + Send>;

/// A server that shakes hands in the old style and then answers each request with `answer(request)`.
fn odd_server(socket: &str, answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) {
    let listener = UnixListener::bind(socket).expect("a socket");
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut hello = b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53".to_vec();
            hello.extend((1u64 << 20).to_be_bytes());
            hello.extend([0, 0, 0, 1]);
            hello.extend([0; 124]);
            if stream.write_all(&hello).is_err() {
                continue;
            }
            let mut request = [0; 28];
            while stream.read_exact(&mut request).is_ok() {
                let bytes = answer(&request);
                if bytes.is_empty() || stream.write_all(&bytes).is_err() {
                    break;
                }
            }
        }
    });
}

#[test]
fn nonsense_from_the_server_is_an_error_and_nothing_worse() {
    let good = |request: &[u8], error: u32, data: usize| {
        let mut reply = 0x6744_6698u32.to_be_bytes().to_vec();
        reply.extend(error.to_be_bytes());
        reply.extend(&request[8..16]);
        reply.extend(vec![9; data]);
        reply
    };
    let dir = Dir::new();
    let case = |name: &str, answer: Answer| {
        let socket = dir.path(name);
        odd_server(&socket, answer);
        let child = open(at(&socket)).expect("connects");
        aio::block_on(async {
            let tasks: Vec<_> = (0..5u64)
                .map(|n| {
                    let child = Arc::clone(&child);
                    aio::spawn(async move { child.read_vec(n * 512, 512).await })
                })
                .collect();
            let mut results = Vec::new();
            for task in tasks {
                results.push(task.await);
            }
            results
        })
    };
    assert!(case("good", Box::new(move |r| good(r, 0, 512))).iter().all(Result::is_ok));
    assert!(case("error", Box::new(move |r| good(r, 5, 0))).iter().all(|r| r.as_ref().is_err_and(|e| e.errno() == 5)));
    assert!(case("closed", Box::new(|_| Vec::new())).iter().all(Result::is_err));
    assert!(case("magic", Box::new(|_| vec![1; 64])).iter().all(Result::is_err));
    assert!(
        case("structured", Box::new(|_| [&[0x66, 0x8e, 0x33, 0xef][..], &[0; 60]].concat())).iter().all(Result::is_err)
    );
    let stranger = case("stranger", Box::new(move |r| good(&[r[..8].to_vec(), vec![7; 20]].concat(), 0, 512)));
    assert!(stranger.iter().all(Result::is_err));
    let cut = case("cut", Box::new(move |r| good(r, 0, 100)));
    assert!(cut.iter().any(Result::is_err));
}
