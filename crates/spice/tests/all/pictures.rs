//! Screens and cursors as a client has them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use display::{Cursor, CursorShape};
use spice::{ChannelKind, Compression, Options};

use crate::client::{Client, number};
use crate::{Bench, options};

/// A client's screen.
struct Shown {
    client: Client,
    width: usize,
    pixels: Vec<u32>,
    taken: u32,
    /// The kinds of images that came.
    kinds: Vec<u8>,
}

impl Shown {
    fn new(mut client: Client) -> Self {
        client.send(101, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(client.wait(3), [1, 0, 0, 0, 20, 0, 0, 0]);
        Self { client, width: 0, pixels: Vec::new(), taken: 0, kinds: Vec::new() }
    }

    /// Takes a message; returns its type.
    fn take(&mut self) -> u16 {
        let (kind, body) = self.client.next().expect("the connection goes on");
        self.taken += 1;
        if self.taken == 20 {
            self.taken = 0;
            self.client.send(2, &[]);
        }
        match kind {
            314 => {
                self.width = number(&body, 4) as usize;
                self.pixels = vec![0xdead_beef; self.width * number(&body, 8) as usize];
            }
            304 => self.draw(&body),
            _ => {}
        }
        kind
    }

    fn draw(&mut self, body: &[u8]) {
        let [top, left, bottom, right] = [4, 8, 12, 16].map(|at| number(body, at) as usize);
        let kind = body[65];
        self.kinds.push(kind);
        let image = &body[57 + 18..];
        let (width, height) = (right - left, bottom - top);
        let pixels: Vec<u32> = match kind {
            0 => image[18..].chunks_exact(4).map(|pixel| number(pixel, 0)).collect(),
            101 => expand(&image[4 + 28..]),
            other => panic!("an image of kind {other}"),
        };
        assert_eq!(pixels.len(), width * height);
        for (row, pixels) in pixels.chunks(width).enumerate() {
            let start = (top + row) * self.width + left;
            self.pixels[start..start + width].copy_from_slice(pixels);
        }
    }

    /// Takes messages until the screen is that of the guest.
    fn wait(&mut self, bench: &Bench) {
        loop {
            let frame = bench.console.snapshot();
            let wanted: Vec<u32> = (0..frame.height()).flat_map(|y| frame.row(y).to_vec()).collect();
            if self.pixels == wanted {
                return;
            }
            self.take();
        }
    }
}

/// Pixels of the LZ format.
fn expand(mut bytes: &[u8]) -> Vec<u32> {
    let mut pixels: Vec<u32> = Vec::new();
    let mut next = || {
        let byte = *bytes.first()?;
        bytes = &bytes[1..];
        Some(usize::from(byte))
    };
    while let Some(control) = next() {
        let mut byte = || next().expect("more");
        if control < 32 {
            for _ in 0..=control {
                pixels.push((byte() | byte() << 8 | byte() << 16) as u32);
            }
            continue;
        }
        let mut length = control >> 5;
        if length == 7 {
            loop {
                let more = byte();
                length += more;
                if more != 255 {
                    break;
                }
            }
        }
        let distance = ((control & 31) << 8 | byte()) + 1;
        for _ in 0..length {
            pixels.push(pixels[pixels.len() - distance]);
        }
    }
    pixels
}

#[test]
fn screen_is_the_guests_pixel_for_pixel_through_changes_and_sizes() {
    for (compression, kind) in [(Compression::Off, 0), (Compression::Lz, 101)] {
        let bench = Bench::with(Options { compression, ..options() });
        let (_main, session) = bench.session();
        let mut shown = Shown::new(bench.open(session, ChannelKind::Display));
        // The picture, the monitor, and the sign that both are there.
        let mut order = Vec::new();
        while order.last() != Some(&102) {
            order.push(shown.take());
        }
        order.dedup();
        assert_eq!(order, [108, 314, 304, 317, 102]);
        shown.wait(&bench);
        for first in [1, 50, 51] {
            bench.screen.first.store(first, Ordering::Relaxed);
            shown.wait(&bench);
        }
        for width in [640, 33] {
            bench.screen.width.store(width, Ordering::Relaxed);
            shown.wait(&bench);
            assert_eq!(shown.width, width as usize);
        }
        assert!(shown.kinds.contains(&kind), "{:?}", shown.kinds);
    }
}

#[test]
fn client_may_want_pictures_as_they_are() {
    let bench = Bench::new();
    let (_main, session) = bench.session();
    let mut client = bench.open(session, ChannelKind::Display);
    client.send(103, &[1]);
    let mut shown = Shown::new(client);
    shown.wait(&bench);
    assert!(shown.kinds.iter().all(|kind| *kind == 0), "{:?}", shown.kinds);
}

#[test]
fn client_that_acknowledges_nothing_gets_two_windows_and_the_guest_goes_on() {
    let bench = Bench::with(Options { compression: Compression::Off, ..options() });
    bench.screen.width.store(4000, Ordering::Relaxed);
    let (_main, session) = bench.session();
    let mut client = bench.open(session, ChannelKind::Display);
    client.send(101, &[1; 14]);
    client.wait(3);
    // All that comes without a word is these; the screen changes all the time.
    for number in 0..41 {
        bench.screen.first.store(number, Ordering::Relaxed);
        assert!(client.next().is_some());
    }
    for first in 0..100 {
        bench.screen.first.store(first, Ordering::Relaxed);
        bench.console.refresh();
    }
    // Another client is served.
    let (_main, session) = bench.session();
    let mut shown = Shown::new(bench.open(session, ChannelKind::Display));
    shown.wait(&bench);
    client.wait_closed();
}

#[test]
fn cursor_of_the_card_is_told_with_its_changes() {
    let bench = Bench::new();
    let (_main, session) = bench.session();
    let mut client = bench.open(session, ChannelKind::Cursor);
    // In the corner, no trail, visible, without a shape.
    assert_eq!(client.wait(101), [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0]);
    let shape = Arc::new(CursorShape { width: 1, height: 2, hot_spot: (0, 1), pixels: vec![0xff12_3456, 0] });
    let cursor = |x: i32, is_visible: bool| Cursor { shape: Arc::clone(&shape), position: (x, 3), is_visible };
    let set = |cursor: Option<Cursor>| *bench.screen.cursor.lock().expect("cursor") = cursor;
    set(Some(cursor(2, true)));
    let told = client.wait(103);
    assert_eq!(told[..5], [2, 0, 3, 0, 1]);
    assert_eq!(told[15..], [0, 1, 0, 2, 0, 0, 0, 1, 0, 0x56, 0x34, 0x12, 0xff, 0, 0, 0, 0]);
    set(Some(cursor(9, true)));
    assert_eq!(client.wait(104), [9, 0, 3, 0]);
    set(Some(cursor(9, false)));
    assert_eq!(client.wait(105), []);
}
