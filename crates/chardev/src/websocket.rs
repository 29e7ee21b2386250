//! The web socket protocol, the server's side: the opening, and then a stream. Data travel in binary frames; text frames
//! are taken, too.

use std::collections::VecDeque;
use std::io;
use websocket::{Decoder, Opening};

/// One connection's state.
#[derive(Debug)]
pub(crate) enum Websocket {
    /// The request, as far as it has come.
    Opening(Vec<u8>),
    /// Frames.
    Open(Decoder),
}

impl Default for Websocket {
    fn default() -> Self {
        Self::Opening(Vec::new())
    }
}

fn wrong(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Websocket {
    pub(crate) fn is_established(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// Understands what came: data, and what has to be said at once. False at the end.
    pub(crate) fn receive(&mut self, raw: &[u8], data: &mut VecDeque<u8>, reply: &mut Vec<u8>) -> io::Result<bool> {
        let decoder = match self {
            Self::Open(decoder) => decoder,
            Self::Opening(request) => {
                request.extend(raw);
                match websocket::open(request) {
                    Opening::Incomplete => return Ok(true),
                    Opening::Refused(_) => {
                        // QEMU's character devices know no other status.
                        reply.extend(websocket::refusal("400 Bad Request").into_bytes());
                        return Err(wrong("no request for a web socket"));
                    }
                    Opening::Accepted(answer, end) => {
                        reply.extend(answer.into_bytes());
                        // What follows the request came with this piece.
                        let rest = request.split_off(end);
                        *self = Self::Open(Decoder::with_text());
                        return self.receive(&rest, data, reply);
                    }
                }
            }
        };
        let received = decoder.receive(raw).map_err(wrong)?;
        data.extend(received.data);
        reply.extend(received.answers);
        Ok(!received.is_closed)
    }

    /// Data as a frame.
    pub(crate) fn frame(bytes: &[u8]) -> Vec<u8> {
        let mut frame = websocket::header(bytes.len());
        frame.extend(bytes);
        frame
    }

    /// The frame that ends the connection, once.
    pub(crate) fn close(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Opening(_) => None,
            Self::Open(decoder) => decoder.close(),
        }
    }
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
