//! A client that shows every byte.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use vnc::format::PixelFormat;

use crate::decoder::{Decoder, Rectangle, Source};

/// How long anything may take. It bounds a hang; nothing is measured with it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection.
pub struct Client {
    pub stream: UnixStream,
    pub decoder: Decoder,
    pub name: String,
}

impl Source for UnixStream {
    fn fetch(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.read_exact(&mut bytes).expect("the server goes on");
        bytes
    }
}

/// A message of the server.
#[derive(Debug)]
pub enum Message {
    Update(Vec<Rectangle>),
    ColourMap(Vec<u8>),
    EndOfContinuousUpdates,
    Fence(u32, Vec<u8>),
    Xvp(u8),
}

/// A connection before anything was said.
pub fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("a listener");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

/// Whether the server has ended the connection.
pub fn is_closed(stream: &mut UnixStream) -> bool {
    let mut rest = [0; 4096];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

impl Client {
    /// Version 3.8 without security, together with others.
    pub fn open(path: &Path) -> Self {
        Self::open_on(connect(path))
    }

    /// The same on a connection that is there.
    pub fn open_on(mut stream: UnixStream) -> Self {
        assert_eq!(stream.fetch(12), b"RFB 003.008\n");
        stream.write_all(b"RFB 003.008\n").expect("sent");
        assert_eq!(stream.fetch(2), [1, 1]);
        stream.write_all(&[1]).expect("sent");
        assert_eq!(stream.u32(), 0);
        Self::initialize(stream, 1)
    }

    /// What comes after security.
    pub fn initialize(mut stream: UnixStream, shared: u8) -> Self {
        stream.write_all(&[shared]).expect("sent");
        let (width, height) = (usize::from(stream.u16()), usize::from(stream.u16()));
        let format: [u8; 16] = stream.fetch(16).try_into().expect("16 bytes");
        let format = PixelFormat::read(format).expect("a format");
        let length = stream.u32() as usize;
        let name = String::from_utf8(stream.fetch(length)).expect("text");
        Self { decoder: Decoder::new(format, width, height), stream, name }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    pub fn set_encodings(&mut self, list: &[i32]) {
        let mut message = vec![2, 0];
        message.extend_from_slice(&(list.len() as u16).to_be_bytes());
        message.extend(list.iter().flat_map(|number| number.to_be_bytes()));
        self.send(&message);
    }

    pub fn set_format(&mut self, format: PixelFormat) {
        self.send(&[0, 0, 0, 0]);
        self.send(&format.write());
        self.decoder.format = format;
    }

    pub fn request(&mut self, is_incremental: bool) {
        let (width, height) = (self.decoder.width as u16, self.decoder.height as u16);
        let mut message = vec![3, is_incremental.into(), 0, 0, 0, 0];
        message.extend_from_slice(&width.to_be_bytes());
        message.extend_from_slice(&height.to_be_bytes());
        self.send(&message);
    }

    pub fn message(&mut self) -> Message {
        match self.stream.u8() {
            0 => {
                self.stream.u8();
                let count = self.stream.u16();
                Message::Update((0..count).map(|_| self.decoder.rectangle(&mut self.stream)).collect())
            }
            1 => {
                self.stream.fetch(3);
                let count = usize::from(self.stream.u16());
                Message::ColourMap(self.stream.fetch(6 * count))
            }
            150 => Message::EndOfContinuousUpdates,
            248 => {
                self.stream.fetch(3);
                let flags = self.stream.u32();
                let length = self.stream.u8();
                Message::Fence(flags, self.stream.fetch(length.into()))
            }
            250 => {
                let rest = self.stream.fetch(3);
                Message::Xvp(rest[2])
            }
            other => panic!("a message of type {other}"),
        }
    }

    /// The next update with a picture in it; what comes before is passed over.
    pub fn picture(&mut self) -> Vec<Rectangle> {
        loop {
            if let Message::Update(rectangles) = self.message()
                && rectangles.iter().any(|rectangle| matches!(rectangle, Rectangle::Pixels(_)))
            {
                return rectangles;
            }
        }
    }
}
