//! The server's side of the handshake: options until the client goes on with an export.

use std::io;
use std::sync::Arc;

use aio::Stream;
use block_net::nbd::wire::{
    FIXED_NEWSTYLE, INFO_BLOCK_SIZE, INFO_DESCRIPTION, INFO_EXPORT, INFO_NAME, MAGIC, MAX_STRING, NO_ZEROES, OPT_ABORT,
    OPT_EXPORT_NAME, OPT_GO, OPT_INFO, OPT_LIST, OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, OPT_STARTTLS,
    OPT_STRUCTURED_REPLY, OPTION_MAGIC, REP_ACK, REP_ERR_BLOCK_SIZE_REQD, REP_ERR_INVALID, REP_ERR_POLICY,
    REP_ERR_TLS_REQD, REP_ERR_TOO_BIG, REP_ERR_UNKNOWN, REP_ERR_UNSUP, REP_INFO, REP_META_CONTEXT, REP_SERVER,
    REPLY_MAGIC, SEND_DF,
};
use block_net::tls::Tls;
use block_net::transport::{Reader, Transport};
use iobuf::IoBuf;

use super::export::Export;
use super::server::Server;
use super::status::{ALLOCATION_DEPTH, BASE_ALLOCATION, Contexts, FIRST_BITMAP};

/// The longest option that is skipped instead of ending the connection, bytes.
const MAX_SKIPPED: u32 = 32 << 20;
/// The longest option that is read, bytes.
const MAX_OPTION: u32 = 256 << 10;
/// How much of an unknown export's name is told back, bytes.
const SHOWN_NAME: usize = 80;

/// A client that has chosen.
pub(super) struct Client {
    pub transport: Arc<Transport>,
    pub reader: Reader,
    pub export: Arc<Export>,
    pub structured: bool,
    pub contexts: Contexts,
}

/// How an option leaves the handshake.
enum Step {
    Next,
    Go(Arc<Export>),
    End,
}

struct Handshake<'a> {
    server: &'a Server,
    transport: Transport,
    reader: Reader,
    option: u32,
    structured: bool,
    /// The contexts, and the export that they were chosen for.
    contexts: Option<(Arc<Export>, Contexts)>,
}

/// The contents of an option, read from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.bytes(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        self.bytes(len)
    }
}

fn option_name(option: u32) -> &'static str {
    match option {
        OPT_EXPORT_NAME => "export name",
        OPT_ABORT => "abort",
        OPT_LIST => "list",
        OPT_STARTTLS => "starttls",
        OPT_INFO => "info",
        OPT_GO => "go",
        OPT_STRUCTURED_REPLY => "structured reply",
        OPT_LIST_META_CONTEXT => "list meta context",
        OPT_SET_META_CONTEXT => "set meta context",
        _ => "<unknown>",
    }
}

/// Talks to a client until it has chosen an export; nothing if it leaves or does what ends the connection.
pub(super) async fn negotiate(server: &Server, stream: Stream) -> Option<Client> {
    let mut shake = Handshake {
        server,
        transport: Transport::Plain(stream),
        reader: Reader::new(),
        option: 0,
        structured: false,
        contexts: None,
    };
    let chosen = shake.options().await;
    let export = match chosen {
        Ok(Some(export)) => export,
        Ok(None) => return None,
        Err(error) => {
            tracing::debug!("an NBD client ends its negotiation: {error}");
            return None;
        }
    };
    let contexts = match shake.contexts {
        Some((of, contexts)) if Arc::ptr_eq(&of, &export) => contexts,
        _ => Contexts::default(),
    };
    let transport = Arc::new(shake.transport);
    Some(Client { transport, reader: shake.reader, export, structured: shake.structured, contexts })
}

impl Handshake<'_> {
    async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.transport.write_all(IoBuf::copy_of(bytes)).await
    }

    async fn reply(&self, kind: u32, data: &[u8]) -> io::Result<()> {
        let mut bytes = REPLY_MAGIC.to_be_bytes().to_vec();
        bytes.extend(self.option.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        self.send(&bytes).await
    }

    async fn refuse(&self, kind: u32, text: &str) -> io::Result<Step> {
        self.reply(kind, text.as_bytes()).await?;
        Ok(Step::Next)
    }

    async fn invalid(&self) -> io::Result<Step> {
        let text = format!("option '{}' has unexpected length", option_name(self.option));
        self.refuse(REP_ERR_INVALID, &text).await
    }

    async fn unknown_export(&self, name: &[u8]) -> io::Result<Step> {
        let shown: String =
            String::from_utf8_lossy(&name[..name.len().min(SHOWN_NAME)]).chars().filter(|c| !c.is_control()).collect();
        let dots = if name.len() > SHOWN_NAME { "..." } else { "" };
        self.refuse(REP_ERR_UNKNOWN, &format!("export '{shown}{dots}' not present")).await
    }

    async fn skip(&mut self, len: u32) -> io::Result<()> {
        let mut left = len as usize;
        while left > 0 {
            let n = left.min(64 << 10);
            self.reader.bytes(&self.transport, n).await?;
            left -= n;
        }
        Ok(())
    }

    /// The greeting, then options: the export, or nothing if the client leaves.
    async fn options(&mut self) -> io::Result<Option<Arc<Export>>> {
        let mut greeting = MAGIC.to_be_bytes().to_vec();
        greeting.extend(OPTION_MAGIC.to_be_bytes());
        greeting.extend((FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
        self.send(&greeting).await?;
        let flags = self.reader.u32(&self.transport).await?;
        let (fixed, no_zeroes) = (u32::from(FIXED_NEWSTYLE), u32::from(NO_ZEROES));
        if flags & !(fixed | no_zeroes) != 0 {
            return Err(io::Error::other(format!("unknown client flags 0x{flags:x}")));
        }
        loop {
            let magic = self.reader.u64(&self.transport).await?;
            self.option = self.reader.u32(&self.transport).await?;
            let len = self.reader.u32(&self.transport).await?;
            if magic != OPTION_MAGIC || len > MAX_SKIPPED {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let is_plain = matches!(self.transport, Transport::Plain(_));
            let step = if self.server.credentials().is_some() && is_plain {
                if flags & fixed == 0 || self.option == OPT_EXPORT_NAME {
                    // There is no way to say why.
                    return Err(io::Error::other("TLS has to come first"));
                }
                self.before_tls(len).await?
            } else if flags & fixed != 0 || self.option == OPT_EXPORT_NAME {
                self.take(len, flags & no_zeroes != 0).await?
            } else {
                return Err(io::Error::other(format!("option {} without fixed newstyle", self.option)));
            };
            match step {
                Step::Next => {}
                Step::Go(export) => return Ok(Some(export)),
                Step::End => return Ok(None),
            }
        }
    }

    async fn before_tls(&mut self, len: u32) -> io::Result<Step> {
        if self.option != OPT_STARTTLS {
            self.skip(len).await?;
            let text = format!("Option 0x{:x} not permitted before TLS", self.option);
            let step = self.refuse(REP_ERR_TLS_REQD, &text).await;
            return if self.option == OPT_ABORT { Ok(Step::End) } else { step };
        }
        if len != 0 {
            self.skip(len).await?;
            self.invalid().await?;
            return Ok(Step::End);
        }
        let Some(credentials) = self.server.credentials().cloned() else { return Ok(Step::End) };
        self.reply(REP_ACK, &[]).await?;
        // Bytes from before the encryption must not count as encrypted.
        if self.reader.buffered() != 0 {
            return Err(io::Error::other("data before the TLS handshake"));
        }
        let Transport::Plain(stream) = &self.transport else { return Ok(Step::End) };
        let tls = Tls::accept(stream.clone(), &credentials).await?;
        self.transport = Transport::Tls(Box::new(tls));
        self.reader = Reader::new();
        Ok(Step::Next)
    }

    async fn take(&mut self, len: u32, no_zeroes: bool) -> io::Result<Step> {
        match self.option {
            OPT_EXPORT_NAME => return self.export_name(len, no_zeroes).await,
            OPT_LIST | OPT_STARTTLS | OPT_STRUCTURED_REPLY if len != 0 => {
                self.skip(len).await?;
                return self.invalid().await;
            }
            OPT_LIST => return self.list().await,
            OPT_STARTTLS => {
                let (kind, text) = match self.server.credentials() {
                    Some(_) => (REP_ERR_INVALID, "TLS already enabled"),
                    None => (REP_ERR_POLICY, "TLS not configured"),
                };
                return self.refuse(kind, text).await;
            }
            OPT_STRUCTURED_REPLY if self.structured => {
                return self.refuse(REP_ERR_INVALID, "structured reply already negotiated").await;
            }
            OPT_STRUCTURED_REPLY => {
                self.structured = true;
                self.reply(REP_ACK, &[]).await?;
                return Ok(Step::Next);
            }
            OPT_ABORT => {
                self.skip(len).await?;
                // The client may be gone already.
                let _ = self.reply(REP_ACK, &[]).await;
                return Ok(Step::End);
            }
            OPT_INFO | OPT_GO | OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT => {}
            _ => {
                self.skip(len).await?;
                let text = format!("Unsupported option {} ({})", self.option, option_name(self.option));
                return self.refuse(REP_ERR_UNSUP, &text).await;
            }
        }
        if len > MAX_OPTION {
            self.skip(len).await?;
            return self.refuse(REP_ERR_TOO_BIG, "the option is too long").await;
        }
        let data = self.reader.bytes(&self.transport, len as usize).await?;
        match self.option {
            OPT_INFO | OPT_GO => self.info(&data).await,
            _ => self.meta_contexts(&data).await,
        }
    }

    async fn export_name(&mut self, len: u32, no_zeroes: bool) -> io::Result<Step> {
        if len as usize > MAX_STRING {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let name = self.reader.bytes(&self.transport, len as usize).await?;
        let found = std::str::from_utf8(&name).ok().and_then(|name| self.server.find(name));
        let export = found.ok_or_else(|| io::Error::other("export not found"))?;
        let mut bytes = export.size.to_be_bytes().to_vec();
        bytes.extend(self.flags(&export).to_be_bytes());
        if !no_zeroes {
            bytes.resize(bytes.len() + 124, 0);
        }
        self.send(&bytes).await?;
        Ok(Step::Go(export))
    }

    fn flags(&self, export: &Export) -> u16 {
        export.flags | if self.structured { SEND_DF } else { 0 }
    }

    async fn list(&self) -> io::Result<Step> {
        for export in self.server.list() {
            let mut data = (export.name().len() as u32).to_be_bytes().to_vec();
            data.extend(export.name().as_bytes());
            data.extend(export.options().description.as_deref().unwrap_or_default().as_bytes());
            self.reply(REP_SERVER, &data).await?;
        }
        self.reply(REP_ACK, &[]).await?;
        Ok(Step::Next)
    }

    async fn tell(&self, kind: u16, data: &[u8]) -> io::Result<()> {
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend(data);
        self.reply(REP_INFO, &bytes).await
    }

    async fn info(&mut self, data: &[u8]) -> io::Result<Step> {
        let mut fields = Fields(data);
        let parsed = (|| {
            let name = fields.string()?;
            let count = fields.u16()?;
            let wanted = (0..count).map(|_| fields.u16()).collect::<Option<Vec<u16>>>()?;
            fields.0.is_empty().then_some((name, wanted))
        })();
        let Some((name, wanted)) = parsed.filter(|(name, _)| name.len() <= MAX_STRING) else {
            return self.invalid().await;
        };
        let Some(export) = std::str::from_utf8(name).ok().and_then(|name| self.server.find(name)) else {
            return self.unknown_export(name).await;
        };
        if wanted.contains(&INFO_NAME) {
            self.tell(INFO_NAME, name).await?;
        }
        if let Some(description) = &export.options().description {
            self.tell(INFO_DESCRIPTION, description.as_bytes()).await?;
        }
        let obeys = wanted.contains(&INFO_BLOCK_SIZE);
        let mut sizes = export.block_sizes();
        let smallest = sizes[0];
        if self.option == OPT_GO && !obeys {
            sizes[0] = 1;
        }
        self.tell(INFO_BLOCK_SIZE, &sizes.map(u32::to_be_bytes).concat()).await?;
        let mut size = export.size.to_be_bytes().to_vec();
        size.extend(self.flags(&export).to_be_bytes());
        self.tell(INFO_EXPORT, &size).await?;
        if self.option == OPT_INFO && !obeys && smallest > 1 {
            let text = "request NBD_INFO_BLOCK_SIZE to use this export";
            return self.refuse(REP_ERR_BLOCK_SIZE_REQD, text).await;
        }
        self.reply(REP_ACK, &[]).await?;
        Ok(if self.option == OPT_GO { Step::Go(export) } else { Step::Next })
    }

    async fn meta_contexts(&mut self, data: &[u8]) -> io::Result<Step> {
        let lists = self.option == OPT_LIST_META_CONTEXT;
        if !lists && !self.structured {
            let text = "request option 'set meta context' when structured reply is not negotiated";
            return self.refuse(REP_ERR_INVALID, text).await;
        }
        if !lists {
            self.contexts = None;
        }
        let mut fields = Fields(data);
        let Some(name) = fields.string().filter(|name| name.len() <= MAX_STRING) else {
            return self.invalid().await;
        };
        let Some(export) = std::str::from_utf8(name).ok().and_then(|name| self.server.find(name)) else {
            return self.unknown_export(name).await;
        };
        let Some(count) = fields.u32() else { return self.invalid().await };
        let mut chosen = Contexts::default();
        if lists && count == 0 {
            choose(&export, "base:", true, &mut chosen);
            choose(&export, "qemu:", true, &mut chosen);
        }
        for _ in 0..count {
            let Some(query) = fields.string() else { return self.invalid().await };
            if let Ok(query) = std::str::from_utf8(query) {
                choose(&export, query, lists, &mut chosen);
            }
        }
        if !fields.0.is_empty() {
            return self.invalid().await;
        }
        if chosen.allocation {
            self.tell_context(BASE_ALLOCATION, "base:allocation").await?;
        }
        if chosen.depth {
            self.tell_context(ALLOCATION_DEPTH, "qemu:allocation-depth").await?;
        }
        for (number, index) in (FIRST_BITMAP..).zip(0..export.bitmaps.len()) {
            if chosen.bitmaps.contains(&index) {
                let name = export.bitmaps[index].name().unwrap_or_default();
                self.tell_context(number, &format!("qemu:dirty-bitmap:{name}")).await?;
            }
        }
        self.reply(REP_ACK, &[]).await?;
        if !lists {
            self.contexts = Some((export, chosen));
        }
        Ok(Step::Next)
    }

    async fn tell_context(&self, number: u32, name: &str) -> io::Result<()> {
        let number = if self.option == OPT_LIST_META_CONTEXT { 0 } else { number };
        let mut data = number.to_be_bytes().to_vec();
        data.extend(name.as_bytes());
        self.reply(REP_META_CONTEXT, &data).await
    }
}

/// Notes what a query means. When listing, a namespace alone means all of it.
fn choose(export: &Export, query: &str, lists: bool, chosen: &mut Contexts) {
    let depth = export.options().allocation_depth;
    if let Some(leaf) = query.strip_prefix("base:") {
        chosen.allocation |= leaf == "allocation" || (lists && leaf.is_empty());
    } else if query == "qemu:" {
        if lists {
            chosen.depth |= depth;
            chosen.bitmaps.extend(0..export.bitmaps.len());
        }
    } else if query == "qemu:allocation-depth" {
        chosen.depth |= depth;
    } else if let Some(name) = query.strip_prefix("qemu:dirty-bitmap:") {
        let all = lists && name.is_empty();
        let fits = |index: &usize| all || export.bitmaps[*index].name().as_deref() == Some(name);
        chosen.bitmaps.extend((0..export.bitmaps.len()).filter(fits));
    }
}
