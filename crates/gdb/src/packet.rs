//! Packets: `$BODY#SUM`, their acknowledgements, and the byte that interrupts.

use crate::PACKET_SIZE;

/// What came from the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A packet whose checksum is right. Escapes are taken out.
    Packet(Vec<u8>),
    /// A packet whose checksum is wrong, or which is too long: it has to be sent again.
    Bad,
    /// The client has understood the last packet.
    Ack,
    /// The client wants the last packet again.
    Nack,
    /// The machine shall stop.
    Interrupt,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Between packets.
    #[default]
    Outside,
    Body,
    /// Behind the byte that says that the next one is another.
    Escape,
    /// The digits of the sum: one more, and the last with the value of the first.
    First,
    Last(u8),
}

/// Cuts a stream of bytes into what they mean.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    place: Place,
    body: Vec<u8>,
    sum: u8,
    is_long: bool,
}

impl Reader {
    /// Takes one byte; tells what it completes.
    pub fn take(&mut self, byte: u8) -> Option<Incoming> {
        match self.place {
            Place::Outside => return self.between(byte),
            Place::Body => match byte {
                b'#' => self.place = Place::First,
                // A new beginning: the rest of the old packet is lost.
                b'$' => self.begin(),
                b'}' => {
                    self.sum = self.sum.wrapping_add(byte);
                    self.place = Place::Escape;
                }
                _ => self.put(byte, byte),
            },
            Place::Escape => {
                self.put(byte, byte ^ 0x20);
                self.place = Place::Body;
            }
            Place::First => match char::from(byte).to_digit(16) {
                Some(digit) => self.place = Place::Last(digit as u8),
                None => return Some(self.end(false)),
            },
            Place::Last(first) => {
                let last = char::from(byte).to_digit(16);
                let is_right = last.is_some_and(|last| u32::from(first) << 4 | last == u32::from(self.sum));
                return Some(self.end(is_right));
            }
        }
        None
    }

    fn between(&mut self, byte: u8) -> Option<Incoming> {
        match byte {
            b'$' => {
                self.begin();
                None
            }
            b'+' => Some(Incoming::Ack),
            b'-' => Some(Incoming::Nack),
            3 => Some(Incoming::Interrupt),
            _ => None,
        }
    }

    fn begin(&mut self) {
        *self = Self { place: Place::Body, ..Self::default() };
    }

    fn put(&mut self, byte: u8, value: u8) {
        self.sum = self.sum.wrapping_add(byte);
        self.is_long |= self.body.len() >= PACKET_SIZE;
        if !self.is_long {
            self.body.push(value);
        }
    }

    fn end(&mut self, is_right: bool) -> Incoming {
        let Self { body, is_long, .. } = std::mem::take(self);
        if is_right && !is_long { Incoming::Packet(body) } else { Incoming::Bad }
    }
}

/// A packet with this body, as it goes over the wire.
#[must_use]
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(body.len() + 4);
    packet.push(b'$');
    for byte in body {
        match byte {
            b'#' | b'$' | b'}' | b'*' => packet.extend([b'}', byte ^ 0x20]),
            _ => packet.push(*byte),
        }
    }
    let sum = packet.iter().skip(1).fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    packet.push(b'#');
    packet.extend(crate::hex(&[sum]).into_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;

    fn read(bytes: &[u8]) -> Vec<Incoming> {
        let mut reader = Reader::default();
        bytes.iter().filter_map(|byte| reader.take(*byte)).collect()
    }

    #[test]
    fn packets_are_cut_out_of_noise() {
        assert_eq!(
            read(b"+x$m0,4#fd\x03$g#00-$abc$g#67"),
            [
                Incoming::Ack,
                Incoming::Packet(b"m0,4".to_vec()),
                Incoming::Interrupt,
                Incoming::Bad,
                Incoming::Nack,
                Incoming::Packet(b"g".to_vec())
            ]
        );
        // Ctrl-C inside of a packet is data.
        assert_eq!(read(b"$\x03#03"), [Incoming::Packet(vec![3])]);
        assert_eq!(read(b"$g#zz"), [Incoming::Bad]);
    }

    #[test]
    fn frames_are_read_as_they_were_written() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(read(&frame(&all)), [Incoming::Packet(all)]);
        assert_eq!(read(&frame(b"")), [Incoming::Packet(Vec::new())]);
        assert_eq!(frame(b"OK"), b"$OK#9a");
    }

    #[test]
    fn packet_without_end_takes_no_memory_and_is_bad() {
        let mut long = vec![b'$'];
        long.resize(PACKET_SIZE * 4, b'a');
        let mut reader = Reader::default();
        assert!(long.iter().all(|byte| reader.take(*byte).is_none()));
        assert!(reader.body.len() <= PACKET_SIZE);
        assert_eq!(reader.take(b'#'), None);
        assert_eq!(reader.take(b'0'), None);
        assert_eq!(reader.take(b'0'), Some(Incoming::Bad));
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        // Letters that mean something come more often.
        let known = b"$#}mMXgGpPHTZzvqQcCsSDk?:;,=.-0123456789abcdefContSupportedqemu.PhyMemMode\x03";
        let mut reader = Reader::default();
        let (mut packets, mut understood) = (0, 0);
        for _ in 0..400_000 {
            let byte = match next() % 4 {
                0 => next() as u8,
                _ => known[(next() % known.len() as u64) as usize],
            };
            if let Some(Incoming::Packet(body)) = reader.take(byte) {
                packets += 1;
                let _request = Request::parse(&body);
            }
            // Right sums are rare by chance: what came is also understood as it is.
            if byte == b'$' && Request::parse(&reader.body) != Request::Unknown {
                understood += 1;
            }
        }
        for _ in 0..20_000 {
            let length = next() % 24;
            let body: Vec<u8> = (0..length).map(|_| known[(next() % known.len() as u64) as usize]).collect();
            understood += usize::from(Request::parse(&body) != Request::Unknown);
            let again = frame(&body);
            assert_eq!(again.iter().filter_map(|byte| reader.take(*byte)).last(), Some(Incoming::Packet(body)));
        }
        assert!(packets > 0 && understood > 1000, "{packets} {understood}");
    }
}
