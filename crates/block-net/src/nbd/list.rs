//! What a server offers: its exports, with everything that it says of them.

use block::{Error, Result};

use super::handshake::{Handshake, note_info, start, string};
use super::wire::{
    INFO_BLOCK_SIZE, INFO_DESCRIPTION, OPT_ABORT, OPT_INFO, OPT_LIST, OPT_LIST_META_CONTEXT, REP_ACK, REP_INFO,
    REP_META_CONTEXT, REP_SERVER,
};
use crate::tls::TlsCredentials;
use crate::transport::Address;

/// The most exports, and the most contexts of one, that are believed.
const MAX_ITEMS: usize = 65536;

/// An export that a server offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// Bytes.
    pub size: u64,
    /// Transmission flags; 0 if the server does not say.
    pub flags: u16,
    /// The smallest, best and largest block of a request, bytes; zeroes if the server does not say.
    pub block_sizes: [u32; 3],
    /// The metadata contexts.
    pub contexts: Vec<String>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Handshake {
    async fn names(&mut self) -> Result<Vec<Offer>> {
        let mut offers = Vec::new();
        self.option(OPT_LIST, &[]).await?;
        loop {
            let reply = self.reply(OPT_LIST).await?;
            match reply.kind {
                REP_ACK => return Ok(offers),
                REP_SERVER if offers.len() < MAX_ITEMS => {
                    let split = reply
                        .data
                        .split_first_chunk::<4>()
                        .and_then(|(len, rest)| rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?));
                    let (name, description) = split.ok_or_else(|| Error::invalid("incorrect option name length"))?;
                    offers.push(Offer { name: text(name), description: text(description), ..Offer::default() });
                }
                REP_SERVER => return Err(Error::invalid("The server has too many exports")),
                _ => return Err(reply.error()),
            }
        }
    }

    async fn details(&mut self, offer: &mut Offer) -> Result<()> {
        let mut data = string(&offer.name);
        data.extend(1u16.to_be_bytes());
        data.extend(INFO_BLOCK_SIZE.to_be_bytes());
        self.option(OPT_INFO, &data).await?;
        let mut export = super::handshake::Export::default();
        loop {
            let reply = self.reply(OPT_INFO).await?;
            match reply.kind {
                REP_ACK => break,
                REP_INFO => {
                    let Some((kind, info)) = reply.data.split_first_chunk::<2>() else {
                        return Err(Error::invalid("The server's information is too short"));
                    };
                    let kind = u16::from_be_bytes(*kind);
                    if kind == INFO_DESCRIPTION {
                        offer.description = text(info);
                    }
                    note_info(kind, info, &mut export)?;
                }
                // It does not say, or not any more.
                _ => return Ok(()),
            }
        }
        offer.size = export.size;
        offer.flags = export.flags;
        offer.block_sizes = [export.min_block, export.preferred_block, export.max_block];
        Ok(())
    }

    async fn contexts(&mut self, offer: &mut Offer) -> Result<()> {
        let mut data = string(&offer.name);
        data.extend(0u32.to_be_bytes());
        self.option(OPT_LIST_META_CONTEXT, &data).await?;
        loop {
            let reply = self.reply(OPT_LIST_META_CONTEXT).await?;
            match reply.kind {
                REP_META_CONTEXT if offer.contexts.len() < MAX_ITEMS => {
                    let (_, name) = reply.data.split_at_checked(4).unwrap_or_default();
                    offer.contexts.push(text(name));
                }
                REP_META_CONTEXT => return Err(Error::invalid("The server has too many contexts")),
                _ => return Ok(()),
            }
        }
    }
}

/// The exports of a server.
///
/// # Errors
/// The server can't be reached, does not list exports, or breaks the protocol.
pub async fn list(address: &Address, tls: Option<(&TlsCredentials, &str)>) -> Result<Vec<Offer>> {
    let stream = address.connect().await?;
    let mut shake = start(stream, tls).await?;
    let structured = shake.structured_replies().await?;
    let mut offers = shake.names().await?;
    for offer in &mut offers {
        shake.details(offer).await?;
        if structured {
            shake.contexts(offer).await?;
        }
    }
    // Politeness: the server closes the connection anyway.
    let _ = shake.option(OPT_ABORT, &[]).await;
    Ok(offers)
}
