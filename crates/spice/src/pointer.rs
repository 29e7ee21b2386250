//! A cursor channel: the hardware cursor of a screen, if its card has one.

use std::io;
use std::sync::Arc;

use ::display::{Cursor, CursorShape};

use crate::channel::{Reader, Writer};
use crate::client::Client;
use crate::link::ChannelKind;
use crate::message::{self, Message, kind};
use crate::server::Server;
use crate::wire::Body;

/// There is no cursor.
const NONE: u16 = 1;
/// Four bytes a pixel, with alpha.
const ALPHA: u8 = 0;

/// Serves a cursor channel.
pub async fn run(server: &Arc<Server>, client: &Client, (reader, writer): (Reader, Writer), id: u8) -> io::Result<()> {
    server.start_refreshing();
    tokio::select! {
        result = listen(reader) => result,
        result = talk(server, client, writer, id) => result,
    }
}

async fn listen(mut reader: Reader) -> io::Result<()> {
    loop {
        let (kind, body) = reader.next().await?;
        if message::read(ChannelKind::Cursor, kind, &body)? == Message::Disconnecting {
            return Ok(());
        }
    }
}

fn point((x, y): (i32, i32)) -> Body {
    let side = |at: i32| at.clamp(i16::MIN.into(), i16::MAX.into()) as i16 as u16;
    Body::default().u16(side(x)).u16(side(y))
}

/// A shape that can be told: its sides fit, and its pixels are all there.
fn picture(body: Body, shape: &CursorShape) -> Option<Body> {
    let is_whole = shape.pixels.len() == shape.width as usize * shape.height as usize;
    let side = |side: u32| u16::try_from(side).ok().filter(|_| is_whole);
    let (width, height) = (side(shape.width)?, side(shape.height)?);
    let (x, y) = (side(shape.hot_spot.0)?, side(shape.hot_spot.1)?);
    // Not to be kept, and so without a name.
    let body = body.u16(0).u64(0).u8(ALPHA).u16(width).u16(height).u16(x).u16(y);
    Some(shape.pixels.iter().fold(body, |body, pixel| body.u32(*pixel)))
}

/// What a client has to be told so that it shows another cursor.
fn change(before: Option<&Cursor>, now: Option<&Cursor>) -> Option<(u16, Body)> {
    let shown = |cursor: &&Cursor| cursor.is_visible;
    match (before.filter(shown), now.filter(shown)) {
        (None, None) => None,
        (Some(_), None) => Some((kind::CURSOR_HIDE, Body::default())),
        (Some(before), Some(now)) if before.shape == now.shape => {
            (before.position != now.position).then(|| (kind::CURSOR_MOVE, point(now.position)))
        }
        (_, Some(now)) => Some(
            picture(point(now.position).u8(1), &now.shape)
                .map_or_else(|| (kind::CURSOR_HIDE, Body::default()), |body| (kind::CURSOR_SET, body)),
        ),
    }
}

async fn talk(server: &Server, client: &Client, mut writer: Writer, id: u8) -> io::Result<()> {
    // At the corner, no trail, visible, and without a shape: the client shows its own until the card has one.
    let init = point((0, 0)).u16(0).u16(0).u8(1).u16(NONE);
    writer.send(kind::CURSOR_INIT, &init).await?;
    let mut told: Option<Cursor> = None;
    loop {
        let Some(console) = server.seat().consoles.get(usize::from(id)).cloned() else { return Ok(()) };
        let now = console.cursor();
        if let Some((kind, body)) = change(told.as_ref(), now.as_ref()) {
            writer.send(kind, &body).await?;
        }
        told = now;
        client.wait_for_news().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(pixel: u32, x: i32, is_visible: bool) -> Cursor {
        let shape = CursorShape { width: 1, height: 1, hot_spot: (0, 0), pixels: vec![pixel] };
        Cursor { shape: Arc::new(shape), position: (x, -1), is_visible }
    }

    #[test]
    fn only_what_changes_is_told() {
        let kinds = |before: Option<Cursor>, now: Option<Cursor>| {
            change(before.as_ref(), now.as_ref()).map(|(kind, body)| (kind, body.0.len()))
        };
        let [here, there, other, hidden] =
            [cursor(1, 0, true), cursor(1, 5, true), cursor(2, 0, true), cursor(1, 0, false)];
        assert_eq!(kinds(None, Some(here.clone())), Some((kind::CURSOR_SET, 5 + 2 + 17 + 4)));
        assert_eq!(kinds(Some(here.clone()), Some(here.clone())), None);
        assert_eq!(kinds(Some(here.clone()), Some(there)), Some((kind::CURSOR_MOVE, 4)));
        assert_eq!(kinds(Some(here.clone()), Some(other)), Some((kind::CURSOR_SET, 28)));
        assert_eq!(kinds(Some(here.clone()), Some(hidden.clone())), Some((kind::CURSOR_HIDE, 0)));
        assert_eq!(kinds(Some(hidden.clone()), None), None);
        assert_eq!(kinds(Some(hidden), Some(here)), Some((kind::CURSOR_SET, 28)));
        let broken = CursorShape { width: 2, height: 2, hot_spot: (0, 0), pixels: vec![1] };
        assert_eq!(picture(Body::default(), &broken), None);
    }
}
