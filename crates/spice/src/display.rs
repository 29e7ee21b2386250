//! A display channel: the surface, and what is new on it. A picture is cut into strips; while the client has not
//! acknowledged two windows of messages, and while the host does not take the last one, there is no other.

use std::io;
use std::sync::{Arc, Mutex};

use ::display::{Rectangle, Surface};

use crate::channel::{Reader, Writer};
use crate::client::Client;
use crate::image::{self, Compression};
use crate::link::ChannelKind;
use crate::lock;
use crate::message::{self, Message, kind};
use crate::server::Server;
use crate::wire::Body;

/// Messages that the client acknowledges at once.
const WINDOW: u32 = 20;
/// 32 bits a pixel.
const FORMAT_XRGB: u32 = 32;
/// The surface that is the screen.
const PRIMARY: u32 = 1;

/// What the reading half leaves for the writing half.
#[derive(Default)]
struct Shared {
    is_ready: bool,
    unacknowledged: u32,
    compression: Option<Compression>,
}

/// Serves a display channel.
pub async fn run(
    server: &Arc<Server>,
    client: &Client,
    (reader, writer): (Reader, Writer),
    id: u8,
    has_monitors: bool,
) -> io::Result<()> {
    let shared = Mutex::default();
    server.start_refreshing();
    let pen = Pen { writer, shared: &shared, client, size: None, images: 0, has_monitors };
    tokio::select! {
        result = listen(client, reader, &shared) => result,
        result = talk(server, id, pen) => result,
    }
}

async fn listen(client: &Client, mut reader: Reader, shared: &Mutex<Shared>) -> io::Result<()> {
    loop {
        let (kind, body) = reader.next().await?;
        let message = message::read(ChannelKind::Display, kind, &body)?;
        {
            let mut shared = lock(shared);
            match message {
                Message::Disconnecting => return Ok(()),
                Message::DisplayInit => shared.is_ready = true,
                Message::Ack => shared.unacknowledged = shared.unacknowledged.saturating_sub(WINDOW),
                Message::PreferredCompression(number) => {
                    // 1 is none; whatever else is wanted, there is one.
                    shared.compression = Some(if number == 1 { Compression::Off } else { Compression::Lz });
                    continue;
                }
                _ => continue,
            }
        }
        client.wake.notify_one();
    }
}

/// What writes to a client's screen.
struct Pen<'a> {
    writer: Writer,
    shared: &'a Mutex<Shared>,
    client: &'a Client,
    size: Option<(u32, u32)>,
    images: u64,
    has_monitors: bool,
}

async fn talk(server: &Server, id: u8, mut pen: Pen<'_>) -> io::Result<()> {
    while !lock(pen.shared).is_ready {
        pen.client.wake.notified().await;
    }
    pen.writer.send(kind::SET_ACK, &Body::default().u32(1).u32(WINDOW)).await?;
    pen.send(kind::DISPLAY_INVAL_ALL_PALETTES, &Body::default()).await?;
    let mut reader = None;
    loop {
        let Some(console) = server.seat().consoles.get(usize::from(id)).cloned() else { return Ok(()) };
        let present = match reader.take().filter(|reader: &::display::Reader| Arc::ptr_eq(reader.console(), &console)) {
            Some(reader) => reader,
            None => {
                let fresh = Arc::clone(&console);
                tokio::task::spawn_blocking(move || fresh.refresh()).await?;
                console.reader()
            }
        };
        match present.take() {
            Some((picture, areas)) => pen.draw(server, picture, areas).await?,
            None => pen.client.wait_for_news().await,
        }
        reader = Some(present);
    }
}

impl Pen<'_> {
    async fn send(&mut self, kind: u16, body: &Body) -> io::Result<()> {
        while lock(self.shared).unacknowledged > 2 * WINDOW {
            self.client.wake.notified().await;
        }
        lock(self.shared).unacknowledged += 1;
        self.writer.send(kind, body).await
    }

    async fn draw(&mut self, server: &Server, picture: Arc<Surface>, mut areas: Vec<Rectangle>) -> io::Result<()> {
        let (width, height) = (picture.width(), picture.height());
        let is_new = self.size != Some((width, height));
        if is_new {
            if self.size.replace((width, height)).is_some() {
                self.send(kind::DISPLAY_SURFACE_DESTROY, &Body::default().u32(0)).await?;
            }
            let surface = Body::default().u32(0).u32(width).u32(height).u32(FORMAT_XRGB).u32(PRIMARY);
            self.send(kind::DISPLAY_SURFACE_CREATE, &surface).await?;
            areas = vec![Rectangle { x: 0, y: 0, width, height }];
        }
        for strip in image::strips(&areas) {
            let wanted = lock(self.shared).compression;
            let offered = server.options().compression;
            let compression = wanted.filter(|_| offered != Compression::Off).unwrap_or(offered);
            self.images += 1;
            let (shown, id) = (Arc::clone(&picture), self.images);
            let made = tokio::task::spawn_blocking(move || image::draw_copy(&shown, strip, compression, id));
            let body = made.await?;
            self.send(kind::DISPLAY_DRAW_COPY, &body).await?;
        }
        if is_new {
            if self.has_monitors {
                // One of at most one: its number, its surface, its size, its place, no flags.
                let monitor = Body::default().u16(1).u16(1).u32(0).u32(0).u32(width).u32(height);
                self.send(kind::DISPLAY_MONITORS_CONFIG, &monitor.u32(0).u32(0).u32(0)).await?;
            }
            self.send(kind::DISPLAY_MARK, &Body::default()).await?;
        }
        Ok(())
    }
}
