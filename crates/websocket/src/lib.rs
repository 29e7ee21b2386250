//! WebSockets (RFC 6455): the opening handshake and frames of a server. Extensions and sub-protocols other than `binary`
//! are left out.
//!
//! Both readers are pure functions of bytes: they know no socket, and can be fuzzed.

#![forbid(unsafe_code)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

/// The longest request of a handshake.
pub const REQUEST_MAX: usize = 8192;
/// What RFC 6455 adds to a client's key.
const SALT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The answer to a client's opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The request is not complete.
    Incomplete,
    /// It is a WebSocket; the answer, and how long the request was.
    Accepted(String, usize),
    /// It is none; the status of HTTP that says why. The connection ends behind a [`refusal`].
    Refused(&'static str),
}

/// Answers a client's opening handshake.
pub fn open(bytes: &[u8]) -> Opening {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() >= REQUEST_MAX {
            Opening::Refused("431 Request Header Fields Too Large")
        } else {
            Opening::Incomplete
        };
    };
    let Some(text) = bytes.get(..end).and_then(|text| std::str::from_utf8(text).ok()) else {
        return Opening::Refused("400 Bad Request");
    };
    let mut lines = text.split("\r\n");
    let mut request = lines.next().unwrap_or_default().split(' ');
    if request.next() != Some("GET") {
        return Opening::Refused("405 Method Not Allowed");
    }
    if request.nth(1) != Some("HTTP/1.1") {
        return Opening::Refused("505 HTTP Version Not Supported");
    }
    let headers: Vec<(&str, &str)> =
        lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.trim(), value.trim())).collect();
    let header =
        |wanted: &str| headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| *value);
    let lists = |name: &str, wanted: &str| {
        header(name).is_some_and(|value| value.split(',').any(|item| item.trim().eq_ignore_ascii_case(wanted)))
    };
    if !lists("upgrade", "websocket") || !lists("connection", "upgrade") {
        return Opening::Refused("426 Upgrade Required");
    }
    if header("sec-websocket-version") != Some("13") {
        return Opening::Refused("426 Upgrade Required");
    }
    let Some(key) = header("sec-websocket-key") else { return Opening::Refused("400 Bad Request") };
    // QEMU wants `binary`; clients that name no sub-protocol at all mean the same today.
    let protocol = match header("sec-websocket-protocol") {
        None => "",
        Some(_) if lists("sec-websocket-protocol", "binary") => "Sec-WebSocket-Protocol: binary\r\n",
        Some(_) => return Opening::Refused("400 Bad Request"),
    };
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(SALT);
    let accept = STANDARD.encode(hash.finalize());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nServer: ouzel\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{protocol}\r\n"
    );
    Opening::Accepted(answer, end + 4)
}

/// What is said to a client that is refused with a status of HTTP.
pub fn refusal(status: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nServer: ouzel\r\nSec-WebSocket-Version: 13\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )
}

mod opcode {
    pub const CONTINUATION: u8 = 0;
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
}

/// A client breaks the rules of RFC 6455.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame without a mask.
    #[error("a frame without a mask")]
    Unmasked,
    /// An extension that was not agreed on, text, or a kind of frame that does not exist.
    #[error("a frame of kind {0:#x}")]
    Kind(u8),
    /// A control frame beyond 125 bytes.
    #[error("a control frame of {0} bytes")]
    Control(u64),
    /// A control frame in pieces.
    #[error("a control frame that is cut")]
    Cut,
}

/// What a client's frames contained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// What the stream carries.
    pub data: Vec<u8>,
    /// Frames to send back.
    pub answers: Vec<u8>,
    /// The client has closed the stream.
    pub is_closed: bool,
}

#[derive(Debug)]
struct Frame {
    opcode: u8,
    mask: [u8; 4],
    left: u64,
    /// Bytes that have been seen, for the mask.
    seen: usize,
    control: Vec<u8>,
}

/// Takes frames of a client apart, in pieces as they come.
#[derive(Debug, Default)]
pub struct Decoder {
    header: Vec<u8>,
    frame: Option<Frame>,
    takes_text: bool,
    has_said_farewell: bool,
}

impl Decoder {
    /// One that takes text frames as it takes binary ones; by default they are an error.
    pub fn with_text() -> Self {
        Self { takes_text: true, ..Self::default() }
    }

    /// The frame that ends the stream normally (1000), unless its end has been said.
    pub fn close(&mut self) -> Option<Vec<u8>> {
        let mut frame = Vec::new();
        self.say_farewell(&1000_u16.to_be_bytes(), &mut frame);
        (!frame.is_empty()).then_some(frame)
    }

    fn say_farewell(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.has_said_farewell, true) {
            put_frame(opcode::CLOSE, payload, out);
        }
    }

    /// Takes bytes as they came.
    ///
    /// # Errors
    /// [`FrameError`]; the connection has no future then.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<Received, FrameError> {
        let mut received = Received::default();
        while !received.is_closed {
            let Some(frame) = &mut self.frame else {
                let Some((first, rest)) = bytes.split_first() else { break };
                self.header.push(*first);
                bytes = rest;
                self.frame = read_header(&self.header, self.takes_text)?;
                if self.frame.is_some() {
                    self.header.clear();
                }
                continue;
            };
            let count = usize::try_from(frame.left).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(count);
            let is_control = frame.opcode >= opcode::CLOSE;
            let into = if is_control { &mut frame.control } else { &mut received.data };
            into.extend(now.iter().enumerate().map(|(at, byte)| byte ^ frame.mask[(frame.seen + at) % 4]));
            frame.seen = (frame.seen + count) % 4;
            frame.left -= count as u64;
            bytes = later;
            if frame.left > 0 {
                break;
            }
            if let Some(Frame { opcode, control, .. }) = self.frame.take() {
                match opcode {
                    opcode::PING => put_frame(opcode::PONG, &control, &mut received.answers),
                    opcode::CLOSE => {
                        self.say_farewell(&control, &mut received.answers);
                        received.is_closed = true;
                    }
                    _ => {}
                }
            }
        }
        Ok(received)
    }
}

/// Reads a frame's header; nothing while it is incomplete.
fn read_header(bytes: &[u8], takes_text: bool) -> Result<Option<Frame>, FrameError> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let code = first & 0x0f;
    let is_known = match code {
        opcode::CONTINUATION | opcode::BINARY | opcode::CLOSE | opcode::PING | opcode::PONG => true,
        opcode::TEXT => takes_text,
        _ => false,
    };
    if first & 0x70 != 0 || !is_known {
        return Err(FrameError::Kind(*first));
    }
    if second & 0x80 == 0 {
        return Err(FrameError::Unmasked);
    }
    let more = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let (Some(length), Some(mask)) = (rest.get(..more), rest.get(more..more + 4)) else { return Ok(None) };
    let left = match more {
        0 => u64::from(second & 0x7f),
        _ => length.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
    };
    if code >= opcode::CLOSE && left > 125 {
        return Err(FrameError::Control(left));
    }
    if code >= opcode::CLOSE && first & 0x80 == 0 {
        return Err(FrameError::Cut);
    }
    let mask = mask.try_into().unwrap_or_default();
    Ok(Some(Frame { opcode: code, mask, left, seen: 0, control: Vec::new() }))
}

/// The header of a server's binary frame.
pub fn header(length: usize) -> Vec<u8> {
    let mut header = Vec::with_capacity(10);
    put_header(opcode::BINARY, length, &mut header);
    header
}

fn put_header(opcode: u8, length: usize, out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match length {
        0..=125 => out.push(length as u8),
        126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

fn put_frame(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    put_header(opcode, payload.len(), out);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(more: &str) -> Vec<u8> {
        format!(
            "GET /websockify HTTP/1.1\r\nHost: h\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        )
        .into_bytes()
    }

    #[test]
    fn opening_is_answered_as_in_the_specifications_example() {
        let bytes = request("Sec-WebSocket-Protocol: base64, binary\r\n");
        assert_eq!(open(&bytes[..bytes.len() - 1]), Opening::Incomplete);
        let Opening::Accepted(answer, length) = open(&bytes) else { panic!("refused") };
        assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
        assert!(answer.contains("Sec-WebSocket-Protocol: binary\r\n"), "{answer}");
        assert_eq!(length, bytes.len());
        for wrong in [
            request("Sec-WebSocket-Protocol: chat\r\n"),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"POST / HTTP/1.1\r\n\r\n".to_vec(),
            b"RFB 003.008\n\r\n\r\n".to_vec(),
            vec![b'x'; REQUEST_MAX],
        ] {
            assert!(matches!(open(&wrong), Opening::Refused(_)));
        }
    }

    fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        put_header(opcode, payload.len(), &mut frame);
        frame[1] |= 0x80;
        frame.extend_from_slice(&[1, 2, 3, 4]);
        frame.extend(payload.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    #[test]
    fn frames_are_taken_apart_however_they_are_cut() {
        let long: Vec<u8> = (0..70_000_u32).map(|n| n as u8).collect();
        let mut stream = masked(opcode::BINARY, b"hello");
        stream.extend(masked(opcode::PING, b"you"));
        stream.extend(masked(opcode::BINARY, &long));
        stream.extend(masked(opcode::CLOSE, &[3, 232]));
        for step in [1, 3, 1000, stream.len()] {
            let (mut decoder, mut all) = (Decoder::default(), Received::default());
            for piece in stream.chunks(step) {
                let received = decoder.receive(piece).expect("frames");
                all.data.extend(received.data);
                all.answers.extend(received.answers);
                all.is_closed |= received.is_closed;
            }
            assert_eq!(all.data[..5], *b"hello");
            assert_eq!(all.data[5..], long);
            assert_eq!(all.answers, b"\x8a\x03you\x88\x02\x03\xe8");
            assert!(all.is_closed);
        }
    }

    #[test]
    fn text_is_taken_where_it_is_wanted_and_the_end_is_said_once() {
        let mut decoder = Decoder::with_text();
        let received = decoder.receive(&masked(opcode::TEXT, b"hello")).expect("text");
        assert_eq!(received.data, b"hello");
        assert_eq!(decoder.close().expect("a frame"), b"\x88\x02\x03\xe8");
        assert_eq!(decoder.close(), None);
        let received = decoder.receive(&masked(opcode::CLOSE, &[3, 232])).expect("the end");
        assert!(received.is_closed && received.answers.is_empty());
    }

    #[test]
    fn frames_against_the_rules_are_errors() {
        let receive = |bytes: &[u8]| Decoder::default().receive(bytes);
        assert_eq!(receive(&[0x82, 1, 0]), Err(FrameError::Unmasked));
        assert_eq!(receive(&[0x81, 0x80]), Err(FrameError::Kind(0x81)));
        assert_eq!(receive(&[0xc2, 0x80]), Err(FrameError::Kind(0xc2)));
        assert_eq!(receive(&[0x89, 0xfe, 0, 126, 0, 0, 0, 0]), Err(FrameError::Control(126)));
        assert_eq!(receive(&[0x09, 0x80, 0, 0, 0, 0]), Err(FrameError::Cut));
        assert_eq!(Decoder::with_text().receive(&[0x83, 0x80]), Err(FrameError::Kind(0x83)));
        assert_eq!(header(5), [0x82, 5]);
        assert_eq!(header(126), [0x82, 126, 0, 126]);
        assert_eq!(header(0x1_0000)[..2], [0x82, 127]);
    }
}
