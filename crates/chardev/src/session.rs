//! What is spoken on a connection besides the bytes themselves: TLS, and above it telnet or web sockets.
//!
//! A session knows no socket: bytes of the other side go in with [`Session::receive`], bytes for it come out in
//! [`Session::unsent`]. Plain input waits until it is taken; nobody receives more before, so it is bounded.

use crate::telnet::Telnet;
use crate::tls::{Tls, TlsConfig};
use crate::websocket::Websocket;
use std::collections::VecDeque;
use std::io;

/// The protocol above TCP or TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Plain bytes.
    #[default]
    Raw,
    /// Telnet (RFC 854), with echo, suppressed go-ahead and binary transmission by us.
    Telnet,
    /// Web sockets (RFC 6455), server side.
    Websocket,
}

#[derive(Debug)]
enum Upper {
    Raw,
    Telnet(Telnet),
    Websocket(Websocket),
}

/// One connection's session.
#[derive(Debug)]
pub(crate) struct Session {
    tls: Option<Box<Tls>>,
    upper: Upper,
    /// Bytes for the other side that are still to be sent.
    pub(crate) unsent: VecDeque<u8>,
    /// Breaks that the other side has sent and nobody has seen.
    pub(crate) breaks: usize,
    input: VecDeque<u8>,
    ended: bool,
}

impl Session {
    /// A new session, or none where plain bytes are spoken. `host` is the name that a server has to prove.
    pub(crate) fn new(protocol: Protocol, tls: Option<&TlsConfig>, host: &str) -> io::Result<Option<Self>> {
        let tls = tls.map(|config| Tls::new(config, host)).transpose()?.map(Box::new);
        let upper = match protocol {
            Protocol::Raw if tls.is_none() => return Ok(None),
            Protocol::Raw => Upper::Raw,
            Protocol::Telnet => Upper::Telnet(Telnet::default()),
            Protocol::Websocket => Upper::Websocket(Websocket::default()),
        };
        let (unsent, input) = (VecDeque::new(), VecDeque::new());
        let mut session = Self { tls, upper, unsent, breaks: 0, input, ended: false };
        session.start_upper()?;
        session.pump();
        Ok(Some(session))
    }

    /// Lets the upper protocol begin, once what is below stands.
    fn start_upper(&mut self) -> io::Result<()> {
        if self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            return Ok(());
        }
        if let Upper::Telnet(telnet) = &mut self.upper
            && let Some(offers) = telnet.start()
        {
            self.send_below(offers)?;
        }
        Ok(())
    }

    /// Whether bytes can be exchanged.
    pub(crate) fn is_established(&self) -> bool {
        let is_secure = self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking());
        is_secure
            && match &self.upper {
                Upper::Websocket(websocket) => websocket.is_established(),
                Upper::Raw | Upper::Telnet(_) => true,
            }
    }

    /// Whether there is input to be taken.
    pub(crate) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Whether the other side has said that it is done.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes input, as much as there is and fits.
    pub(crate) fn take_input(&mut self, buffer: &mut [u8]) -> usize {
        let count = self.input.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(self.input.drain(..count)) {
            *to = from;
        }
        count
    }

    /// Understands what came from the other side.
    pub(crate) fn receive(&mut self, raw: &[u8]) -> io::Result<()> {
        let result = self.receive_below(raw);
        self.pump();
        result
    }

    fn receive_below(&mut self, mut raw: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return self.receive_plain(raw);
        };
        let mut plain = Vec::new();
        while !raw.is_empty() {
            if !tls.receive(&mut raw, &mut plain)? {
                self.ended = true;
                break;
            }
        }
        self.start_upper()?;
        self.receive_plain(&plain)
    }

    fn receive_plain(&mut self, plain: &[u8]) -> io::Result<()> {
        let mut reply = Vec::new();
        match &mut self.upper {
            Upper::Raw => self.input.extend(plain),
            Upper::Telnet(telnet) => self.breaks += telnet.receive(plain, &mut self.input, &mut reply),
            Upper::Websocket(websocket) => {
                let result = websocket.receive(plain, &mut self.input, &mut reply);
                self.send_below(&reply)?;
                self.ended |= !result?;
                return Ok(());
            }
        }
        self.send_below(&reply)
    }

    /// Says something to the other side.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.upper {
            Upper::Raw => self.send_below(bytes)?,
            Upper::Telnet(telnet) => {
                let framed = telnet.send(bytes);
                self.send_below(&framed)?;
            }
            Upper::Websocket(_) => {
                let framed = Websocket::frame(bytes);
                self.send_below(&framed)?;
            }
        }
        self.pump();
        Ok(())
    }

    fn send_below(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.send(bytes, &mut self.unsent),
            None => {
                self.unsent.extend(bytes);
                Ok(())
            }
        }
    }

    /// Collects what TLS has to say for itself.
    fn pump(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.pump(&mut self.unsent);
        }
    }

    /// Says farewell, where the protocol has a way to.
    pub(crate) fn close(&mut self) {
        if !self.is_established() {
            return;
        }
        if let Upper::Websocket(websocket) = &mut self.upper
            && let Some(frame) = websocket.close()
        {
            // There may be nobody to hear it.
            _ = self.send_below(&frame);
        }
        if let Some(tls) = &mut self.tls {
            tls.close();
        }
        self.pump();
    }
}
