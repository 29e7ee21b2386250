//! Arbitrary bytes as what a server says to the NBD client: from the first byte on, behind a good handshake, or as
//! replies to the requests that it makes, with their cookies. The client opens a node, asks, reads, writes and closes.
#![no_main]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use block::{Defaults, Graph, NodeConfig, OpenFlags, Options, Permissions, WriteFlags, ZeroFlags};
use iobuf::IoBuf;
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 1 << 20;
/// A client that waits for this long for an answer which the bytes do not have is left.
const SILENCE: Duration = Duration::from_millis(100);

fn listener() -> &'static (PathBuf, UnixListener) {
    static LISTENER: OnceLock<(PathBuf, UnixListener)> = OnceLock::new();
    LISTENER.get_or_init(|| {
        let path = PathBuf::from(format!("/dev/shm/ouzel-fuzz-nbd-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        (path, listener)
    })
}

/// The good half of a server: reads what the client sends, and answers with what `data` says.
struct Server<'a> {
    stream: UnixStream,
    data: &'a [u8],
}

impl Server<'_> {
    fn read<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    fn take(&mut self, len: usize) -> &[u8] {
        let (now, rest) = self.data.split_at(len.min(self.data.len()));
        self.data = rest;
        now
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn send(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.write_all(bytes).ok()
    }

    fn option_reply(&mut self, option: u32, kind: u32, data: &[u8]) -> Option<()> {
        let mut bytes = 0x0003_e889_0455_65a9u64.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        self.send(&bytes)
    }

    /// A handshake whose answers are good, but for those that `lies` has bits for.
    fn handshake(&mut self, lies: u8, flags: u16) -> Option<()> {
        self.send(b"NBDMAGICIHAVEOPT\0\x03")?;
        self.read::<4>()?;
        loop {
            let header = self.read::<16>()?;
            let option = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
            let len = u32::from_be_bytes([header[12], header[13], header[14], header[15]]);
            let mut body = vec![0; len as usize];
            self.stream.read_exact(&mut body).ok()?;
            if lies >> (option % 8) & 1 != 0 {
                let kind = u32::from(self.byte());
                let kind = if kind & 0x80 != 0 { 0x8000_0000 | kind & 0xf } else { kind };
                let len = usize::from(self.byte());
                let data = self.take(len).to_vec();
                self.option_reply(option, kind, &data)?;
                continue;
            }
            match option {
                10 => {
                    let mut context = 7u32.to_be_bytes().to_vec();
                    context.extend(b"base:allocation");
                    self.option_reply(10, 4, &context)?;
                    self.option_reply(10, 1, &[])?;
                }
                7 => {
                    let mut export = vec![0, 0];
                    export.extend(SIZE.to_be_bytes());
                    export.extend(flags.to_be_bytes());
                    self.option_reply(7, 3, &export)?;
                    self.option_reply(7, 1, &[])?;
                    return Some(());
                }
                _ => self.option_reply(option, 1, &[])?,
            }
        }
    }

    /// Replies with the cookies of requests: simple ones, and chunks of any kind and length.
    fn replies(&mut self) -> Option<()> {
        loop {
            let request = self.read::<28>()?;
            let kind = u16::from_be_bytes([request[6], request[7]]);
            let len = u32::from_be_bytes([request[24], request[25], request[26], request[27]]);
            if kind == 1 {
                let mut body = vec![0; len as usize];
                self.stream.read_exact(&mut body).ok()?;
            }
            for _ in 0..=self.byte() % 4 {
                let shape = self.byte();
                let mut cookie = [request[8], request[9], request[10], request[11], request[12], request[13], request[14], request[15]];
                if shape & 0xf0 == 0xf0 {
                    cookie[usize::from(self.byte() % 8)] ^= 1;
                }
                let mut bytes = Vec::new();
                if shape & 1 == 0 {
                    bytes.extend(0x6744_6698u32.to_be_bytes());
                    bytes.extend(u32::from(self.byte()).to_be_bytes());
                    bytes.extend(cookie);
                } else {
                    bytes.extend(0x668e_33efu32.to_be_bytes());
                    bytes.extend(u16::from(shape >> 1 & 1).to_be_bytes());
                    let kind = u16::from(self.byte());
                    bytes.extend((if kind & 0x80 == 0 { kind % 7 } else { 0x8000 | kind & 3 }).to_be_bytes());
                    bytes.extend(cookie);
                    let claimed = u32::from(self.byte()) << (shape >> 4);
                    bytes.extend(claimed.to_be_bytes());
                }
                let len = usize::from(self.byte());
                bytes.extend(self.take(len));
                self.send(&bytes)?;
            }
            if self.data.is_empty() {
                return None;
            }
        }
    }

    fn serve(mut self, mode: u8, lies: u8, flags: u16) {
        let _ = match mode % 4 {
            0 => self.send(self.data),
            1 => self.handshake(lies, flags).and_then(|()| self.replies()),
            2 => self.handshake(0, flags).and_then(|()| self.send(self.data)),
            _ => self.handshake(0, flags).and_then(|()| self.replies()),
        };
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

async fn use_it(graph: &Arc<Graph>, path: &str) -> block::Result<()> {
    let options = Options::new().with("driver", "nbd").with("server.type", "unix").with("server.path", path);
    let options = options.with("export", "x");
    let node = graph.open(options, Defaults::new(NodeConfig::default(), OpenFlags::default())).await?;
    let used = Permissions::CONSISTENT_READ | Permissions::WRITE;
    let Ok(child) = graph.attach_root(&node, "fuzz", used, Permissions::ALL) else { return Ok(()) };
    let len = child.len().min(SIZE);
    let _ = child.block_status(0, len, true).await;
    let _ = child.read_vec(0, len.min(65536) as usize).await;
    if len >= 8192 {
        let _ = child.write(4096, IoBuf::copy_of(&[5; 4096]), WriteFlags::default()).await;
        let _ = child.write_zeroes(0, 8192, ZeroFlags::default()).await;
        let _ = child.discard(0, 4096).await;
        let _ = child.flush().await;
        let _ = child.read_vec(100, 1000).await;
    }
    graph.detach(&child).await
}

fuzz_target!(|data: &[u8]| {
    let Some(([mode, lies, high, low], data)) = data.split_first_chunk::<4>() else { return };
    let (path, listener) = listener();
    let flags = u16::from_be_bytes([*high & 0xf, *low | 1]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut is_first = true;
            while !is_over.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                };
                // Who comes again finds the door shut.
                if is_first {
                    stream.set_nonblocking(false).expect("a socket");
                    stream.set_read_timeout(Some(SILENCE)).expect("a timeout");
                    Server { stream, data }.serve(*mode, *lies, flags);
                    is_first = false;
                }
            }
        });
        let graph = Graph::new(block_drivers::registry());
        let _ = aio::block_on(use_it(&graph, path.to_str().expect("a plain path")));
        is_over.store(true, Ordering::Relaxed);
    });
});
