//! The handshake of an NBD connection: fixed newstyle, newstyle and oldstyle (`doc/proto.md` of the NBD project).

use std::io;

use aio::Stream;
use block::{Error, Result};
use iobuf::IoBuf;

use super::wire::{
    FIXED_NEWSTYLE, INFO_BLOCK_SIZE, INFO_EXPORT, MAGIC, MAX_STRING, NO_ZEROES, OLD_MAGIC, OPT_EXPORT_NAME, OPT_GO,
    OPT_SET_META_CONTEXT, OPT_STARTTLS, OPT_STRUCTURED_REPLY, OPTION_MAGIC, REP_ACK, REP_ERR_TLS_REQD, REP_ERROR,
    REP_INFO, REP_META_CONTEXT, REPLY_MAGIC,
};
use crate::tls::{Tls, TlsCredentials};
use crate::transport::{Reader, Transport};

/// The longest option reply that is read, bytes.
const MAX_REPLY: u32 = 64 << 10;
/// What a server says of its export.
#[derive(Clone, Debug, Default)]
pub(super) struct Export {
    pub size: u64,
    pub flags: u16,
    pub structured: bool,
    /// The number of the metadata context that was asked for.
    pub context: Option<u32>,
    pub min_block: u32,
    pub preferred_block: u32,
    pub max_block: u32,
}

/// What a client wants.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub export: String,
    pub context: String,
    pub tls: Option<(TlsCredentials, String)>,
}

pub(super) fn broken(error: &io::Error) -> Error {
    let kind = error.kind();
    if matches!(kind, io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) {
        let what = if kind == io::ErrorKind::UnexpectedEof { "Unexpected end-of-file" } else { "Invalid data" };
        return Error::io(format!("{what} in the connection to the NBD server"));
    }
    match error.raw_os_error() {
        Some(_) => Error::host(error),
        None => Error::io(error.to_string()),
    }
}

pub(super) struct Handshake {
    transport: Transport,
    reader: Reader,
}

pub(super) struct Reply {
    pub kind: u32,
    pub data: Vec<u8>,
}

impl Reply {
    /// The error that this reply is.
    pub fn error(&self) -> Error {
        let text = match self.kind {
            0x8000_0001 => "Unsupported option type".to_owned(),
            0x8000_0002 => "Denied by server".to_owned(),
            0x8000_0003 => "Invalid parameters for option".to_owned(),
            0x8000_0004 => "Server lacks support for option".to_owned(),
            0x8000_0005 => "Server requires TLS for option".to_owned(),
            0x8000_0006 => "Requested export not available".to_owned(),
            0x8000_0007 => "Server shutting down before option".to_owned(),
            0x8000_0008 => "Server requires INFO_BLOCK_SIZE for option".to_owned(),
            other => format!("Unknown error code 0x{other:x} from the server"),
        };
        let message = String::from_utf8_lossy(&self.data);
        let error = Error::invalid(text);
        if message.is_empty() { error } else { error.with_hint(format!("server reported: {message}")) }
    }

    fn is_unknown_option(&self) -> bool {
        self.kind == 0x8000_0001
    }
}

impl Handshake {
    async fn send(&self, bytes: &[u8]) -> Result<()> {
        self.transport.write_all(IoBuf::copy_of(bytes)).await.map_err(|e| broken(&e))
    }

    pub async fn option(&self, option: u32, data: &[u8]) -> Result<()> {
        let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(u32::try_from(data.len()).map_err(|_| Error::invalid("The option is too long"))?.to_be_bytes());
        bytes.extend(data);
        self.send(&bytes).await
    }

    pub async fn reply(&mut self, option: u32) -> Result<Reply> {
        let header: [u8; 20] = self.reader.array(&self.transport).await.map_err(|e| broken(&e))?;
        let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let magic = u64::from(word(0)) << 32 | u64::from(word(4));
        if magic != REPLY_MAGIC || word(8) != option {
            return Err(Error::invalid("Unexpected option reply magic"));
        }
        if word(16) > MAX_REPLY {
            return Err(Error::invalid("The server's option reply is too long"));
        }
        let data = self.reader.bytes(&self.transport, word(16) as usize).await.map_err(|e| broken(&e))?;
        Ok(Reply { kind: word(12), data })
    }

    async fn start_tls(mut self, credentials: &TlsCredentials, host: &str) -> Result<Self> {
        self.option(OPT_STARTTLS, &[]).await?;
        let reply = self.reply(OPT_STARTTLS).await?;
        if reply.kind != REP_ACK {
            return Err(Error::invalid("Server does not support TLS").with_hint(reply.error().to_string()));
        }
        let Transport::Plain(stream) = self.transport else {
            return Err(Error::invalid("The connection is encrypted already"));
        };
        let tls = Tls::connect(stream, credentials, host)
            .await
            .map_err(|error| Error::io(format!("TLS handshake failed: {error}")))?;
        Ok(Self { transport: Transport::Tls(Box::new(tls)), reader: Reader::new() })
    }

    /// Asks for structured replies: whether the server has them.
    pub async fn structured_replies(&mut self) -> Result<bool> {
        self.option(OPT_STRUCTURED_REPLY, &[]).await?;
        let reply = self.reply(OPT_STRUCTURED_REPLY).await?;
        if reply.kind == REP_ERR_TLS_REQD {
            return Err(Error::invalid("Server requires TLS").with_hint("Did you forget a valid tls-creds?"));
        }
        Ok(reply.kind == REP_ACK)
    }

    async fn set_context(&mut self, wanted: &Wanted) -> Result<Option<u32>> {
        let mut data = string(&wanted.export);
        data.extend(1u32.to_be_bytes());
        data.extend(string(&wanted.context));
        self.option(OPT_SET_META_CONTEXT, &data).await?;
        let mut context = None;
        loop {
            let reply = self.reply(OPT_SET_META_CONTEXT).await?;
            match reply.kind {
                REP_ACK => return Ok(context),
                REP_META_CONTEXT => match reply.data.split_first_chunk::<4>() {
                    Some((id, name)) if name == wanted.context.as_bytes() => context = Some(u32::from_be_bytes(*id)),
                    _ => return Err(Error::invalid("Failed to negotiate query: unexpected context in the reply")),
                },
                kind if kind & REP_ERROR != 0 => return Ok(None),
                _ => return Err(Error::invalid("Unexpected reply to a query for metadata contexts")),
            }
        }
    }

    /// Asks for the export: false if the server doesn't know the question.
    async fn go(&mut self, name: &str, export: &mut Export) -> Result<bool> {
        let mut data = string(name);
        data.extend(1u16.to_be_bytes());
        data.extend(INFO_BLOCK_SIZE.to_be_bytes());
        self.option(OPT_GO, &data).await?;
        let mut known = false;
        loop {
            let reply = self.reply(OPT_GO).await?;
            match reply.kind {
                REP_ACK if known => return Ok(true),
                REP_ACK => return Err(Error::invalid("Missing NBD_INFO_EXPORT in the server's reply")),
                REP_INFO => {
                    let Some((kind, info)) = reply.data.split_first_chunk::<2>() else {
                        return Err(Error::invalid("The server's information is too short"));
                    };
                    known |= note_info(u16::from_be_bytes(*kind), info, export)?;
                }
                _ if reply.is_unknown_option() => return Ok(false),
                _ => return Err(reply.error()),
            }
        }
    }

    async fn size_and_flags(&mut self, export: &mut Export, wide: bool, padding: usize) -> Result<()> {
        let read = async {
            export.size = self.reader.u64(&self.transport).await?;
            if wide {
                // Oldstyle: the upper half is unused.
                self.reader.u16(&self.transport).await?;
            }
            export.flags = self.reader.u16(&self.transport).await?;
            self.reader.bytes(&self.transport, padding).await.map(drop)
        };
        read.await.map_err(|e| broken(&e))
    }
}

/// Takes in a piece of information: whether it was the export's size.
pub(super) fn note_info(kind: u16, info: &[u8], export: &mut Export) -> Result<bool> {
    let word = |at: usize| info.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
    match (kind, info.len()) {
        (INFO_EXPORT, 10) => {
            export.size = u64::from(word(0)) << 32 | u64::from(word(4));
            export.flags = u16::from_be_bytes([info[8], info[9]]);
            Ok(true)
        }
        (INFO_BLOCK_SIZE, 12) => {
            (export.min_block, export.preferred_block, export.max_block) = (word(0), word(4), word(8));
            if !export.min_block.is_power_of_two()
                || export.min_block > 64 << 10
                || export.max_block < export.min_block
                || (export.max_block != u32::MAX && !export.max_block.is_multiple_of(export.min_block))
            {
                return Err(Error::invalid("The server advertised impossible block sizes"));
            }
            Ok(false)
        }
        (INFO_EXPORT | INFO_BLOCK_SIZE, _) => Err(Error::invalid("The server's information has a wrong length")),
        _ => Ok(false),
    }
}

pub(super) fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// Greets a server that has fixed newstyle, and encrypts if that is wanted.
pub(super) async fn start(stream: Stream, tls: Option<(&TlsCredentials, &str)>) -> Result<Handshake> {
    let mut shake = Handshake { transport: Transport::Plain(stream), reader: Reader::new() };
    let greeting: [u8; 18] = shake.reader.array(&shake.transport).await.map_err(|e| broken(&e))?;
    let magic = [MAGIC.to_be_bytes(), OPTION_MAGIC.to_be_bytes()].concat();
    let (start, flags) = greeting.split_at(16);
    if start != magic {
        return Err(Error::invalid("Bad initial magic received: the peer is no newstyle NBD server"));
    }
    let flags = flags.iter().fold(0, |n, byte| n << 8 | u16::from(*byte)) & (FIXED_NEWSTYLE | NO_ZEROES);
    if flags & FIXED_NEWSTYLE == 0 {
        return Err(Error::invalid("Server does not support listing its exports"));
    }
    shake.send(&u32::from(flags).to_be_bytes()).await?;
    match tls {
        Some((credentials, host)) => shake.start_tls(credentials, host).await,
        None => Ok(shake),
    }
}

/// Talks to a server until requests can be sent.
pub(super) async fn negotiate(stream: Stream, wanted: &Wanted) -> Result<(Transport, Reader, Export)> {
    if wanted.export.len() > MAX_STRING {
        return Err(Error::invalid("export name too long to send to server"));
    }
    let mut shake = Handshake { transport: Transport::Plain(stream), reader: Reader::new() };
    let mut export = Export::default();
    let start = async {
        let magic = shake.reader.u64(&shake.transport).await?;
        Ok((magic, shake.reader.u64(&shake.transport).await?))
    };
    let (magic, style) = start.await.map_err(|e| broken(&e))?;
    if magic != MAGIC {
        return Err(Error::invalid("Bad initial magic received: the peer is no NBD server"));
    }
    if style == OLD_MAGIC {
        if !wanted.export.is_empty() {
            return Err(Error::invalid("Server does not support non-empty export names"));
        }
        if wanted.tls.is_some() {
            return Err(Error::invalid("Server does not support STARTTLS"));
        }
        shake.size_and_flags(&mut export, true, 124).await?;
        return Ok((shake.transport, shake.reader, export));
    }
    if style != OPTION_MAGIC {
        return Err(Error::invalid("Bad server magic received"));
    }
    let flags = shake.reader.u16(&shake.transport).await.map_err(|e| broken(&e))?;
    let flags = flags & (FIXED_NEWSTYLE | NO_ZEROES);
    shake.send(&u32::from(flags).to_be_bytes()).await?;
    if let Some((credentials, host)) = &wanted.tls {
        if flags & FIXED_NEWSTYLE == 0 {
            return Err(Error::invalid("Server does not support STARTTLS"));
        }
        shake = shake.start_tls(credentials, host).await?;
    }
    if flags & FIXED_NEWSTYLE != 0 {
        export.structured = shake.structured_replies().await?;
        if export.structured {
            export.context = shake.set_context(wanted).await?;
        }
        if shake.go(&wanted.export, &mut export).await? {
            return Ok((shake.transport, shake.reader, export));
        }
    }
    shake.option(OPT_EXPORT_NAME, wanted.export.as_bytes()).await?;
    shake.size_and_flags(&mut export, false, if flags & NO_ZEROES == 0 { 124 } else { 0 }).await?;
    Ok((shake.transport, shake.reader, export))
}
