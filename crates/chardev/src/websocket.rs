//! The web socket protocol (RFC 6455), the server's side. Data travel in binary frames; text frames are taken, too.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};
use std::collections::VecDeque;
use std::io;

/// How long a request's head may be.
const HEAD_LIMIT: usize = 8192;
/// What is added to a client's key (section 1.3).
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The most that a control frame carries (section 5.5).
const CONTROL_LIMIT: u64 = 125;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opcode {
    Data,
    Close,
    Ping,
    Pong,
}

/// The frame that is being received.
#[derive(Debug)]
struct Frame {
    opcode: Opcode,
    left: u64,
    mask: [u8; 4],
    at: usize,
}

/// One connection's state.
#[derive(Debug, Default)]
pub(crate) struct Websocket {
    is_established: bool,
    /// Bytes of a head, of a request or of a frame, that is not there as a whole.
    head: Vec<u8>,
    frame: Option<Frame>,
    /// What a control frame has carried so far.
    control: Vec<u8>,
    is_closed: bool,
}

fn wrong(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Websocket {
    pub(crate) fn is_established(&self) -> bool {
        self.is_established
    }

    /// Understands what came: data, and what has to be said at once. False at the end.
    pub(crate) fn receive(&mut self, raw: &[u8], data: &mut VecDeque<u8>, reply: &mut Vec<u8>) -> io::Result<bool> {
        let mut rest = raw;
        if !self.is_established {
            self.head.extend(raw);
            let Some(end) = find(&self.head, b"\r\n\r\n") else {
                let fits = self.head.len() <= HEAD_LIMIT;
                return if fits { Ok(true) } else { Err(refuse(reply, "the request is too long")) };
            };
            let head = std::mem::take(&mut self.head);
            let text = String::from_utf8_lossy(head.get(..end).unwrap_or_default()).into_owned();
            match answer(&text) {
                Ok(answer) => reply.extend(answer.into_bytes()),
                Err(reason) => return Err(refuse(reply, reason)),
            }
            self.is_established = true;
            // What follows the head came with this piece.
            let after = head.len() - end - 4;
            rest = raw.get(raw.len() - after..).unwrap_or_default();
        }
        while !rest.is_empty() {
            rest = match &mut self.frame {
                None => self.receive_head(rest)?,
                Some(_) => self.receive_payload(rest, data),
            };
            if self.frame.as_ref().is_some_and(|frame| frame.left == 0) && !self.end_frame(reply) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn receive_head<'a>(&mut self, raw: &'a [u8]) -> io::Result<&'a [u8]> {
        let mut rest = raw;
        while let Some((&byte, after)) = rest.split_first() {
            self.head.push(byte);
            rest = after;
            if let Some(frame) = parse_head(&self.head)? {
                self.head.clear();
                self.frame = Some(frame);
                break;
            }
        }
        Ok(rest)
    }

    fn receive_payload<'a>(&mut self, raw: &'a [u8], data: &mut VecDeque<u8>) -> &'a [u8] {
        let Some(frame) = &mut self.frame else { return raw };
        let count = usize::try_from(frame.left).unwrap_or(usize::MAX).min(raw.len());
        let (piece, rest) = raw.split_at(count);
        for &byte in piece {
            let plain = byte ^ frame.mask[frame.at % 4];
            frame.at = (frame.at + 1) % 4;
            match frame.opcode {
                Opcode::Data => data.push_back(plain),
                _ => self.control.push(plain),
            }
        }
        frame.left -= count as u64;
        rest
    }

    /// A frame is there as a whole. False if it was the last.
    fn end_frame(&mut self, reply: &mut Vec<u8>) -> bool {
        let Some(frame) = self.frame.take() else { return true };
        let control = std::mem::take(&mut self.control);
        match frame.opcode {
            Opcode::Data | Opcode::Pong => true,
            Opcode::Ping => {
                reply.extend(head(0xA, control.len()));
                reply.extend(control);
                true
            }
            Opcode::Close => {
                if !std::mem::replace(&mut self.is_closed, true) {
                    reply.extend(head(8, control.len()));
                    reply.extend(control);
                }
                false
            }
        }
    }

    /// Data as a frame.
    pub(crate) fn frame(bytes: &[u8]) -> Vec<u8> {
        let mut frame = head(2, bytes.len());
        frame.extend(bytes);
        frame
    }

    /// The frame that ends the connection, once.
    pub(crate) fn close(&mut self) -> Option<Vec<u8>> {
        let first = !std::mem::replace(&mut self.is_closed, true);
        first.then(|| {
            let mut frame = head(8, 2);
            // 1000: a normal end.
            frame.extend(1000_u16.to_be_bytes());
            frame
        })
    }
}

fn head(opcode: u8, len: usize) -> Vec<u8> {
    let mut head = vec![FINAL | opcode];
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len), _) if len < 126 => head.push(len),
        (_, Ok(len)) => {
            head.push(126);
            head.extend(len.to_be_bytes());
        }
        _ => {
            head.push(127);
            head.extend((len as u64).to_be_bytes());
        }
    }
    head
}

/// The frame that a head announces, if the head is whole (section 5.2).
fn parse_head(head: &[u8]) -> io::Result<Option<Frame>> {
    let (&[first, second], rest) = match head.split_first_chunk::<2>() {
        Some(split) => split,
        None => return Ok(None),
    };
    if first & 0x70 != 0 {
        return Err(wrong("a web socket frame with reserved bits"));
    }
    if second & MASKED == 0 {
        return Err(wrong("a web socket frame of a client without mask"));
    }
    let (left, rest) = match second & 0x7F {
        126 => match rest.split_first_chunk::<2>() {
            Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk::<8>() {
            Some((len, rest)) => (u64::from_be_bytes(*len), rest),
            None => return Ok(None),
        },
        short => (u64::from(short), rest),
    };
    let Some((mask, _)) = rest.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let opcode = match first & 0xF {
        0..=2 => Opcode::Data,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        10 => Opcode::Pong,
        _ => return Err(wrong("a web socket frame of an unknown kind")),
    };
    if opcode != Opcode::Data && (left > CONTROL_LIMIT || first & FINAL == 0) {
        return Err(wrong("a web socket control frame that is too long or cut"));
    }
    Ok(Some(Frame { opcode, left, mask: *mask, at: 0 }))
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn refuse(reply: &mut Vec<u8>, reason: &'static str) -> io::Error {
    reply.extend(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    wrong(reason)
}

/// The answer to a request to change to web sockets (section 4.2).
fn answer(request: &str) -> Result<String, &'static str> {
    let mut lines = request.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    if words.next() != Some("GET") || words.nth(1) != Some("HTTP/1.1") {
        return Err("no GET request");
    }
    let headers: Vec<(String, &str)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim()))
        .collect();
    let header = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
    let has = |name: &str, word: &str| {
        header(name).is_some_and(|value| value.split(',').any(|item| item.trim().eq_ignore_ascii_case(word)))
    };
    if !has("upgrade", "websocket") || !has("connection", "upgrade") {
        return Err("no request for web sockets");
    }
    if header("sec-websocket-version") != Some("13") {
        return Err("a web socket version that is not spoken");
    }
    let key = header("sec-websocket-key").ok_or("a web socket request without key")?;
    let protocol = match header("sec-websocket-protocol") {
        None => "",
        Some(_) if has("sec-websocket-protocol", "binary") => "Sec-WebSocket-Protocol: binary\r\n",
        Some(_) => return Err("a web socket client that does not speak 'binary'"),
    };
    let accept = STANDARD.encode(Sha1::digest(format!("{key}{KEY_SUFFIX}")));
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{protocol}\r\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

    fn received(websocket: &mut Websocket, raw: &[u8]) -> (io::Result<bool>, Vec<u8>, Vec<u8>) {
        let (mut data, mut reply) = (VecDeque::new(), Vec::new());
        let result = websocket.receive(raw, &mut data, &mut reply);
        (result, data.into(), reply)
    }

    #[test]
    fn example_of_the_specification_is_answered() {
        let (result, data, reply) = received(&mut Websocket::default(), REQUEST);
        assert!(result.unwrap() && data.is_empty());
        let reply = String::from_utf8(reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 101 "), "{reply}");
        assert!(reply.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{reply}");
    }

    #[test]
    fn frames_are_understood_wherever_they_are_cut() {
        let mut frames = REQUEST.to_vec();
        // "Hello", masked (section 5.7), a ping in between, and the end.
        frames.extend([0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        frames.extend([0x89, 0x81, 0, 0, 0, 0, b'p', 0x88, 0x80, 1, 2, 3, 4]);
        let mut websocket = Websocket::default();
        let (mut data, mut reply, mut open) = (Vec::new(), Vec::new(), true);
        for &byte in &frames {
            assert!(open);
            let (result, some, replied) = received(&mut websocket, &[byte]);
            open = result.unwrap();
            data.extend(some);
            reply.extend(replied);
        }
        assert!(!open);
        assert_eq!(data, b"Hello");
        assert!(reply.ends_with(&[0x8A, 1, b'p', 0x88, 0]), "{reply:?}");
        let (_, data, _) = received(&mut Websocket::default(), &frames);
        assert_eq!(data, b"Hello");
    }

    #[test]
    fn garbage_is_refused() {
        assert!(received(&mut Websocket::default(), b"POST / HTTP/1.1\r\n\r\n").0.is_err());
        assert!(received(&mut Websocket::default(), &[b'x'; 9000]).0.is_err());
        for frame in [[0x82, 5], [0xF2, 0x85], [0x83, 0x80]] {
            let mut websocket = Websocket::default();
            assert!(received(&mut websocket, REQUEST).0.unwrap());
            assert!(received(&mut websocket, &[frame[0], frame[1], 0, 0, 0, 0]).0.is_err(), "{frame:?}");
        }
    }
}
