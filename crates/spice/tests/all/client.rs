//! A client of our own, on one channel.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rand_core::OsRng;
use rsa::{BigUint, Oaep, RsaPublicKey};
use spice::ChannelKind;
use spice::wire::{Header, put_header, split};

/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A channel of a client.
pub struct Client {
    stream: UnixStream,
    header: Header,
    input: Vec<u8>,
}

/// The first message of a client.
pub fn link(connection: u32, kind: u8, id: u8, common: u32) -> Vec<u8> {
    let mut bytes = b"REDQ".to_vec();
    for number in [2, 2, 26, connection] {
        bytes.extend_from_slice(&u32::to_le_bytes(number));
    }
    bytes.extend_from_slice(&[kind, id]);
    for number in [1, 1, 18, common, 0xf] {
        bytes.extend_from_slice(&u32::to_le_bytes(number));
    }
    bytes
}

fn exactly<const N: usize>(stream: &mut UnixStream) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).expect("the server's bytes");
    bytes
}

pub fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("a listener");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    stream.set_write_timeout(Some(PATIENCE)).expect("a limit");
    stream
}

/// The error in the answer to a link, and the public key.
pub fn answer(stream: &mut UnixStream) -> (u32, Vec<u8>) {
    let head = exactly::<16>(stream);
    assert_eq!(head[..12], *b"REDQ\x02\0\0\0\x02\0\0\0");
    let mut body = vec![0; u32::from_le_bytes([head[12], head[13], head[14], head[15]]) as usize];
    stream.read_exact(&mut body).expect("an answer");
    (u32::from_le_bytes([body[0], body[1], body[2], body[3]]), body[4..166].to_vec())
}

impl Client {
    /// Opens a channel; the error is the protocol's number, of the answer or of the result.
    pub fn open(path: &Path, session: u32, kind: ChannelKind, password: &str) -> Result<Self, u32> {
        Self::open_as(path, (session, kind as u8, 0), password, Header::Mini)
    }

    pub fn open_as(
        path: &Path,
        (session, kind, id): (u32, u8, u8),
        password: &str,
        header: Header,
    ) -> Result<Self, u32> {
        let mut stream = connect(path);
        // Without a choice of authentication a ticket comes at once.
        let common = if header == Header::Mini { 0xd } else { 0 };
        stream.write_all(&link(session, kind, id, common)).expect("sent");
        let (error, key) = answer(&mut stream);
        if error != 0 {
            return Err(error);
        }
        let modulus = BigUint::from_bytes_be(&key[29..157]);
        let key = RsaPublicKey::new(modulus, BigUint::from(65_537_u32)).expect("a key");
        let text = [password.as_bytes(), b"\0"].concat();
        let ticket = key.encrypt(&mut OsRng, Oaep::new::<sha1::Sha1>(), &text).expect("encrypted");
        if header == Header::Mini {
            stream.write_all(&1_u32.to_le_bytes()).expect("sent");
        }
        stream.write_all(&ticket).expect("sent");
        match u32::from_le_bytes(exactly(&mut stream)) {
            0 => Ok(Self { stream, header, input: Vec::new() }),
            error => Err(error),
        }
    }

    pub fn send(&mut self, kind: u16, body: &[u8]) {
        let mut bytes = Vec::new();
        put_header(self.header, 1, kind, body.len(), &mut bytes);
        bytes.extend_from_slice(body);
        self.stream.write_all(&bytes).expect("sent");
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        // The server may have gone before all of it is sent.
        let _ = self.stream.write_all(bytes);
    }

    /// The next message; nothing if the server has closed.
    pub fn next(&mut self) -> Option<(u16, Vec<u8>)> {
        loop {
            // Our own limit on what clients send is no limit on what they get.
            if let Some((kind, body, length)) = self.message() {
                self.input.drain(..length);
                return Some((kind, body));
            }
            let mut chunk = vec![0; 1 << 16];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing comes: {error}"),
            }
        }
    }

    fn message(&self) -> Option<(u16, Vec<u8>, usize)> {
        let (start, at) = if self.header == Header::Mini { (6, 0) } else { (18, 8) };
        let head = self.input.get(at..at + 6)?;
        let length = u32::from_le_bytes([head[2], head[3], head[4], head[5]]) as usize;
        let body = self.input.get(start..start + length)?.to_vec();
        if length < 1000 {
            assert!(matches!(split(&self.input, self.header), Ok(Some(_))));
        }
        Some((u16::from_le_bytes([head[0], head[1]]), body, start + length))
    }

    /// The next message of that type.
    pub fn wait(&mut self, kind: u16) -> Vec<u8> {
        loop {
            let (found, body) = self.next().expect("the connection goes on");
            if found == kind {
                return body;
            }
        }
    }

    /// Reads until the server closes.
    pub fn wait_closed(&mut self) {
        while self.next().is_some() {}
    }
}

/// A number of a message.
pub fn number(body: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]])
}
