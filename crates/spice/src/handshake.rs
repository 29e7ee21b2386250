//! From a connection to a channel: link, ticket, session.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use listen::Stream;
use rand_core::{OsRng, RngCore};

use crate::channel::Opening;
use crate::client::Client;
use crate::link::{self, ChannelKind, Link, Refusal, common};
use crate::server::{Entry, Server};
use crate::service::Event;
use crate::ticket::{self, TICKET};
use crate::wire::Header;
use crate::{display, inputs, main_channel, pointer};

/// Clients know their password before they connect.
const TIME: Duration = Duration::from_secs(60);
/// The number of authentication by tickets.
const BY_TICKET: u32 = 1;

/// What became of a connection.
struct Opened {
    channel: Opening,
    kind: ChannelKind,
    link: Link,
    header: Header,
}

/// Serves a connection until the client leaves or is told to.
pub async fn run(server: Arc<Server>, client: Arc<Client>, stream: Stream, entry: Entry) {
    let result = tokio::select! {
        result = serve(&server, &client, stream, entry) => result,
        () = client.kick.notified() => Ok(()),
    };
    if let Err(error) = result {
        tracing::debug!("a SPICE client leaves: {error}");
    }
    server.leave(&client);
}

async fn serve(server: &Arc<Server>, client: &Arc<Client>, stream: Stream, entry: Entry) -> io::Result<()> {
    let Opened { channel, kind, link, header } =
        tokio::time::timeout(TIME, open(server, client, stream, entry)).await??;
    server.tell(Event::Initialized, client);
    let (reader, writer) = channel.split(header);
    match kind {
        ChannelKind::Main => main_channel::run(server, client, (reader, writer), link.capabilities).await,
        ChannelKind::Display => {
            let has_monitors = link.capabilities & link::MONITORS_CONFIG != 0;
            display::run(server, client, (reader, writer), link.id, has_monitors).await
        }
        ChannelKind::Inputs => inputs::run(server, client, (reader, writer)).await,
        ChannelKind::Cursor => pointer::run(server, client, (reader, writer), link.id).await,
    }
}

fn refused(refusal: Refusal) -> io::Error {
    io::Error::other(format!("refused: {refusal:?}"))
}

async fn open(server: &Server, client: &Client, stream: Stream, entry: Entry) -> io::Result<Opened> {
    let mut channel = Opening::new(stream);
    if entry.is_tls {
        let config = server.tls().ok_or(io::ErrorKind::Unsupported)?;
        channel = channel.start_tls(Arc::clone(config)).await?;
    }
    let found = channel.link().await?.and_then(|link| {
        let kind = ChannelKind::numbered(link.kind).filter(|kind| server.has_channel(*kind, link.id));
        let kind = kind.ok_or(Refusal::ChannelNotAvailable)?;
        server.refuses(kind, entry.is_tls).map_or(Ok((link, kind)), Err)
    });
    let (link, kind) = match found {
        Ok(found) => found,
        Err(refusal) => {
            channel.write(&link::refuse(refusal)).await?;
            return Err(refused(refusal));
        }
    };
    let key = server.keys().key().await?;
    channel.write(&link::answer(&ticket::public(&key)?, kind)).await?;
    let is_chosen = link.common & common::AUTH_SELECTION != 0;
    let result = if is_chosen && u32::from_le_bytes(channel.read().await?) != BY_TICKET {
        Err(Refusal::Error)
    } else {
        let sealed = channel.read::<TICKET>().await?;
        match check(server, entry, key, sealed).await? {
            true => server.admit(client, kind, &link, OsRng.next_u32() >> 1),
            false => Err(Refusal::PermissionDenied),
        }
    };
    let number = result.map_or_else(|refusal| refusal as u32, |_| 0);
    channel.write(&number.to_le_bytes()).await?;
    result.map_err(refused)?;
    let header = if link.common & common::MINI_HEADER != 0 { Header::Mini } else { Header::Full };
    Ok(Opened { channel, kind, link, header })
}

/// Whether the ticket lets its client in.
async fn check(server: &Server, entry: Entry, key: Arc<rsa::RsaPrivateKey>, sealed: [u8; TICKET]) -> io::Result<bool> {
    if entry.is_known || !server.options().has_tickets {
        return Ok(true);
    }
    let opened = tokio::task::spawn_blocking(move || ticket::open(&key, &sealed)).await?;
    // An empty password is none.
    let wanted = server.password().filter(|password| !password.is_empty());
    Ok(opened.zip(wanted).is_some_and(|(given, wanted)| listen::is_same(&given, wanted.as_bytes())))
}
