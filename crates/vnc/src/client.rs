//! A client as the server knows it: who it is, what it can, and what it waits for.

use std::sync::Mutex;

use listen::Address;
use tokio::sync::Notify;

use crate::encode::Style;
use crate::lock;

/// Who a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// Where it is.
    pub address: Address,
    /// Whether it speaks through a WebSocket.
    pub is_websocket: bool,
    /// Whom its certificate names.
    pub x509_dname: Option<String>,
    /// Whom SASL has found it to be.
    pub sasl_username: Option<String>,
}

/// How a client uses the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Share {
    /// It has not said it yet.
    #[default]
    Connecting,
    /// With others.
    Shared,
    /// Alone.
    Exclusive,
}

/// What a client understands beyond the encoding of pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an extension of its own")]
pub struct Features {
    pub copy_rect: bool,
    pub desktop_size: bool,
    pub extended_desktop_size: bool,
    pub cursor: bool,
    pub alpha_cursor: bool,
    pub pointer_type: bool,
    pub leds: bool,
    pub xvp: bool,
    pub fence: bool,
    pub continuous: bool,
    pub extended_buttons: bool,
}

/// What a client waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Request {
    /// Nothing.
    #[default]
    None,
    /// What is new.
    Incremental,
    /// An answer in any case.
    Full,
}

/// What the reading and the writing half of a session share.
#[derive(Default)]
pub struct Shared {
    pub style: Style,
    pub features: Features,
    pub request: Request,
    /// Updates come without requests.
    pub is_continuous: bool,
    /// Marks in the stream that have not come back.
    pub fences: u32,
    /// Messages that are ready, in their order.
    pub messages: Vec<u8>,
    /// WebSocket frames that are ready.
    pub frames: Vec<u8>,
    /// Everything is to be sent that the client knows by encodings: cursor, lights, size.
    pub is_new: bool,
    /// An area that the client wants again.
    pub again: Vec<display::Rectangle>,
    /// Why a size was asked for, and what became of it.
    pub resize_answer: Option<(u16, u16)>,
}

/// A client.
pub struct Client {
    pub id: u64,
    info: Mutex<ClientInfo>,
    share: Mutex<Share>,
    shared: Mutex<Shared>,
    /// There is something to write.
    pub wake: Notify,
    /// The client has to go.
    pub kick: Notify,
}

impl Client {
    pub fn new(id: u64, info: ClientInfo) -> Self {
        Self {
            id,
            info: Mutex::new(info),
            share: Mutex::default(),
            shared: Mutex::default(),
            wake: Notify::new(),
            kick: Notify::new(),
        }
    }

    pub fn info(&self) -> ClientInfo {
        lock(&self.info).clone()
    }

    pub fn share(&self) -> Share {
        *lock(&self.share)
    }

    pub fn set_share(&self, share: Share) {
        *lock(&self.share) = share;
    }

    /// Whether the client waits for a picture.
    pub fn wants_pictures(&self) -> bool {
        self.with(|shared| shared.request != Request::None || shared.is_continuous)
    }

    /// Visits what both halves share; wakes nobody.
    pub fn with<R>(&self, visit: impl FnOnce(&mut Shared) -> R) -> R {
        visit(&mut lock(&self.shared))
    }

    pub fn set_username(&self, name: String) {
        lock(&self.info).sasl_username = Some(name);
    }

    pub fn set_certificate(&self, certificate: Option<&[u8]>) {
        lock(&self.info).x509_dname = certificate.and_then(distinguished_name);
    }
}

/// An element of DER: its tag, its contents, and what stands behind it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((*tag, contents, rest))
}

/// Whom a certificate names, as `CN=…,O=…` in its own order (RFC 5280, section 4.1.2.6).
fn distinguished_name(certificate: &[u8]) -> Option<String> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    // Version (if it is there), number, algorithm, issuer, validity.
    let (tag, _, rest) = element(fields)?;
    let skipped = if tag == 0xa0 { 4 } else { 3 };
    fields = rest;
    for _ in 0..skipped {
        fields = element(fields)?.2;
    }
    let (_, mut names, _) = element(fields)?;
    let mut text = Vec::new();
    while let Some((_, set, rest)) = element(names) {
        names = rest;
        let (_, pair, _) = element(set)?;
        let (_, identifier, value) = element(pair)?;
        let (_, value, _) = element(value)?;
        let name = match identifier {
            [0x55, 4, 3] => "CN".to_owned(),
            [0x55, 4, 6] => "C".to_owned(),
            [0x55, 4, 7] => "L".to_owned(),
            [0x55, 4, 8] => "ST".to_owned(),
            [0x55, 4, 10] => "O".to_owned(),
            [0x55, 4, 11] => "OU".to_owned(),
            [first, rest @ ..] => {
                let numbers = rest.iter().map(|byte| format!(".{byte}")).collect::<String>();
                format!("{}.{}{numbers}", first / 40, first % 40)
            }
            [] => return None,
        };
        text.push(format!("{name}={}", String::from_utf8_lossy(value)));
    }
    Some(text.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_name_is_read_and_nonsense_is_no_name() {
        let name = |oid: u8, text: &[u8]| {
            let pair = [&[6, 3, 0x55, 4, oid, 12, text.len() as u8][..], text].concat();
            let sequence = [&[0x30, pair.len() as u8][..], &pair].concat();
            [&[0x31, sequence.len() as u8][..], &sequence].concat()
        };
        let names = [name(10, b"Ouzel"), name(3, b"client")].concat();
        let subject = [&[0x30, names.len() as u8][..], &names].concat();
        // Version, number, algorithm, issuer, validity.
        let before = [0xa0, 0, 2, 0, 0x30, 0, 0x30, 0, 0x30, 0];
        let fields = [&before[..], &subject].concat();
        let body = [&[0x30, fields.len() as u8][..], &fields].concat();
        let certificate = [&[0x30, body.len() as u8][..], &body].concat();
        assert_eq!(distinguished_name(&certificate).as_deref(), Some("O=Ouzel,CN=client"));
        for end in 0..certificate.len() {
            // No panic, whatever it is.
            let _ = distinguished_name(&certificate[..end]);
        }
        assert_eq!(distinguished_name(b"garbage"), None);
    }
}
