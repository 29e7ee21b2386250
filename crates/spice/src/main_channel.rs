//! The main channel: the session, its channels, who moves the pointer, where the guest goes.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::channel::{Reader, Writer};
use crate::client::Client;
use crate::link::{ChannelKind, NAME_AND_UUID, SEMI_SEAMLESS_MIGRATION};
use crate::lock;
use crate::message::{self, Message, MouseMode, kind};
use crate::server::Server;
use crate::wire::Body;

/// How often the pointer is looked at.
const TICK: Duration = Duration::from_millis(250);
/// The time between two pings.
const PING: Duration = Duration::from_secs(20);
/// A client that answers no ping for so long has gone without a word.
const SILENCE: Duration = Duration::from_secs(180);

/// Where a guest goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The host.
    pub host: String,
    /// The port, 0 for none.
    pub port: u16,
    /// The port for TLS, 0 for none.
    pub tls_port: u16,
    /// What the server's certificate has to name.
    pub subject: Option<String>,
}

/// What the reading half leaves for the writing half.
#[derive(Default)]
struct Wanted {
    has_channels: bool,
    mode: Option<MouseMode>,
    heard: Option<Instant>,
}

/// Serves a main channel.
pub async fn run(
    server: &Arc<Server>,
    client: &Client,
    (reader, writer): (Reader, Writer),
    capabilities: u32,
) -> io::Result<()> {
    let wanted = Mutex::default();
    tokio::select! {
        result = listen(client, reader, &wanted) => result,
        result = talk(server, client, writer, capabilities, &wanted) => result,
    }
}

async fn listen(client: &Client, mut reader: Reader, wanted: &Mutex<Wanted>) -> io::Result<()> {
    loop {
        let (kind, body) = reader.next().await?;
        let message = message::read(ChannelKind::Main, kind, &body)?;
        {
            let mut wanted = lock(wanted);
            match message {
                Message::Disconnecting => return Ok(()),
                Message::AttachChannels => wanted.has_channels = true,
                Message::MouseModeRequest(mode) => wanted.mode = Some(mode),
                Message::Pong { .. } => {
                    wanted.heard = Some(Instant::now());
                    continue;
                }
                _ => continue,
            }
        }
        client.wake.notify_one();
    }
}

const fn supported(is_absolute: bool) -> u32 {
    MouseMode::Server as u32 | if is_absolute { MouseMode::Client as u32 } else { 0 }
}

fn text(text: &str) -> Body {
    Body::default().u32(text.len() as u32 + 1).bytes(text.as_bytes()).u8(0)
}

fn destination(to: &Destination) -> Body {
    /// Bytes before the strings.
    const FIXED: u32 = 20;
    let host = [to.host.as_bytes(), b"\0"].concat();
    let subject = to.subject.as_ref().map(|subject| [subject.as_bytes(), b"\0"].concat()).unwrap_or_default();
    let at = if subject.is_empty() { 0 } else { FIXED + host.len() as u32 };
    let body = Body::default().u16(to.port).u16(to.tls_port).u32(host.len() as u32).u32(FIXED);
    body.u32(subject.len() as u32).u32(at).bytes(&host).bytes(&subject)
}

async fn talk(
    server: &Server,
    client: &Client,
    mut writer: Writer,
    capabilities: u32,
    wanted: &Mutex<Wanted>,
) -> io::Result<()> {
    // Who comes later need not go there.
    let mut told = server.destination();
    let mut is_absolute = server.seat().input.is_absolute();
    let session = client.channel().map_or(0, |channel| channel.session);
    let screens = server.seat().consoles.len() as u32;
    let mode = server.mouse_mode();
    // No agent, no tokens for it, no sound's time, no hint at memory.
    let init = Body::default().u32(session).u32(screens).u32(supported(is_absolute)).u32(mode as u32);
    writer.send(kind::MAIN_INIT, &init.u32(0).u32(0).u32(0).u32(0)).await?;
    if capabilities & NAME_AND_UUID != 0 {
        writer.send(kind::MAIN_NAME, &text(&server.options().name)).await?;
        writer.send(kind::MAIN_UUID, &Body::default().bytes(&server.options().uuid)).await?;
    }
    let (mut pings, mut last_ping, start) = (0, Instant::now(), Instant::now());
    loop {
        let (has_channels, asked, heard) = {
            let mut wanted = lock(wanted);
            (std::mem::take(&mut wanted.has_channels), wanted.mode.take(), wanted.heard)
        };
        if has_channels {
            let channels = server.channels();
            let list = Body::default().u32(channels.len() as u32);
            let list = channels.iter().fold(list, |list, (kind, id)| list.u8(*kind as u8).u8(*id));
            writer.send(kind::MAIN_CHANNELS_LIST, &list).await?;
        }
        let was_absolute = std::mem::replace(&mut is_absolute, server.seat().input.is_absolute());
        let mut mode = asked.unwrap_or(server.mouse_mode());
        if !is_absolute {
            mode = MouseMode::Server;
        }
        if asked.is_some() || mode != server.mouse_mode() || is_absolute != was_absolute {
            server.set_mouse_mode(mode);
            let body = Body::default().u16(supported(is_absolute) as u16).u16(mode as u16);
            writer.send(kind::MAIN_MOUSE_MODE, &body).await?;
        }
        let target = server.destination();
        if target != told && capabilities & SEMI_SEAMLESS_MIGRATION != 0 {
            if told.is_some() {
                writer.send(kind::MAIN_MIGRATE_CANCEL, &Body::default()).await?;
            }
            if let Some(target) = &target {
                writer.send(kind::MAIN_MIGRATE_BEGIN, &destination(target)).await?;
            }
        }
        told = target;
        if last_ping.elapsed() >= PING {
            last_ping = Instant::now();
            pings += 1;
            let stamp = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            writer.send(kind::PING, &Body::default().u32(pings).u64(stamp)).await?;
        }
        if heard.unwrap_or(start).elapsed() > SILENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // Either is a reason to look again.
        let _ = tokio::time::timeout(TICK, client.wake.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destination_points_at_its_strings() {
        let to = Destination { host: "h".into(), port: 1, tls_port: 2, subject: Some("CN=x".into()) };
        let body = destination(&to).0;
        assert_eq!(body[..20], [1, 0, 2, 0, 2, 0, 0, 0, 20, 0, 0, 0, 5, 0, 0, 0, 22, 0, 0, 0]);
        assert_eq!(body[20..], *b"h\0CN=x\0");
        let body = destination(&Destination { subject: None, ..to }).0;
        assert_eq!(body[12..], *b"\0\0\0\0\0\0\0\0h\0");
    }
}
