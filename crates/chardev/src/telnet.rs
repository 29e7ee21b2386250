//! The telnet protocol (RFC 854, 856, 857, 858), as much of it as a serial line needs.
//!
//! We offer to echo, to suppress go-ahead and to transmit in binary, and ask for the last; each other option is left
//! unanswered. An 0xFF in the data is doubled both ways. IAC BREAK is a break.

use std::collections::VecDeque;

const IAC: u8 = 255;
const DONT: u8 = 254;
const DO: u8 = 253;
const WONT: u8 = 252;
const WILL: u8 = 251;
const SB: u8 = 250;
const BREAK: u8 = 243;
const SE: u8 = 240;
const BINARY: u8 = 0;
const ECHO: u8 = 1;
const SUPPRESS_GO_AHEAD: u8 = 3;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Data,
    Command,
    /// A command that has an option, which follows.
    Option(u8),
    Subnegotiation,
    /// IAC within a subnegotiation.
    SubnegotiationCommand,
}

/// One connection's state.
#[derive(Debug, Default)]
pub(crate) struct Telnet {
    is_started: bool,
    state: State,
    /// The other side refuses to transmit in binary: its line ends are CR LF or CR NUL.
    is_text: bool,
    /// The last byte of text was CR.
    after_return: bool,
}

impl Telnet {
    /// What to say at the beginning, once.
    pub(crate) fn start(&mut self) -> Option<&'static [u8]> {
        let first = !std::mem::replace(&mut self.is_started, true);
        first.then_some(&[IAC, WILL, ECHO, IAC, WILL, SUPPRESS_GO_AHEAD, IAC, WILL, BINARY, IAC, DO, BINARY])
    }

    /// The data in `raw`, and how many breaks came with it.
    pub(crate) fn receive(&mut self, raw: &[u8], data: &mut VecDeque<u8>, _reply: &mut Vec<u8>) -> usize {
        let mut breaks = 0;
        for &byte in raw {
            self.state = match (self.state, byte) {
                (State::Data, IAC) => State::Command,
                (State::Data, _) => {
                    self.data(byte, data);
                    State::Data
                }
                (State::Command, IAC) => {
                    self.data(IAC, data);
                    State::Data
                }
                (State::Command, BREAK) => {
                    breaks += 1;
                    State::Data
                }
                (State::Command, WILL | WONT | DO | DONT) => State::Option(byte),
                (State::Command, SB) => State::Subnegotiation,
                (State::Command, _) => State::Data,
                (State::Option(command), BINARY) => {
                    match command {
                        WILL => self.is_text = false,
                        WONT => self.is_text = true,
                        _ => {}
                    }
                    State::Data
                }
                (State::Option(_), _) => State::Data,
                (State::Subnegotiation, IAC) => State::SubnegotiationCommand,
                (State::SubnegotiationCommand, SE) => State::Data,
                (State::Subnegotiation | State::SubnegotiationCommand, _) => State::Subnegotiation,
            };
        }
        breaks
    }

    fn data(&mut self, byte: u8, data: &mut VecDeque<u8>) {
        let padding = byte == 0 && self.is_text && self.after_return;
        self.after_return = byte == b'\r';
        if !padding {
            data.push_back(byte);
        }
    }

    /// How data travel.
    pub(crate) fn send(&self, bytes: &[u8]) -> Vec<u8> {
        let mut framed = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            framed.push(byte);
            if byte == IAC {
                framed.push(IAC);
            }
        }
        framed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(telnet: &mut Telnet, raw: &[u8]) -> (Vec<u8>, usize) {
        let mut data = VecDeque::new();
        let breaks = telnet.receive(raw, &mut data, &mut Vec::new());
        (data.into(), breaks)
    }

    #[test]
    fn commands_are_taken_out_of_the_data_wherever_they_are_cut() {
        let raw = [b'a', IAC, IAC, IAC, WILL, BINARY, b'b', IAC, BREAK, IAC, SB, 24, 0, IAC, IAC, 1, IAC, SE, b'c'];
        assert_eq!(received(&mut Telnet::default(), &raw), (vec![b'a', IAC, b'b', b'c'], 1));
        let mut telnet = Telnet::default();
        let pieces: Vec<_> = raw.iter().map(|&byte| received(&mut telnet, &[byte])).collect();
        assert_eq!(pieces.iter().flat_map(|(data, _)| data.clone()).collect::<Vec<_>>(), [b'a', IAC, b'b', b'c']);
        assert_eq!(pieces.iter().map(|(_, breaks)| breaks).sum::<usize>(), 1);
    }

    #[test]
    fn padding_after_a_line_end_goes_only_where_binary_was_refused() {
        let mut telnet = Telnet::default();
        assert_eq!(received(&mut telnet, b"\r\0").0, b"\r\0");
        assert_eq!(received(&mut telnet, &[IAC, WONT, BINARY, b'\r', 0, 0]).0, b"\r\0");
    }
}
