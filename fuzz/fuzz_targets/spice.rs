//! What SPICE clients send: links, messages of each channel, bytes of keyboards; and pictures on their way out.
#![no_main]

use display::{Rectangle, Surface};
use libfuzzer_sys::fuzz_target;
use spice::keyboard::Keyboard;
use spice::message::{self, Message};
use spice::wire::{self, Header};
use spice::{ChannelKind, Compression, image, link};

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    if let Ok(Some((found, length))) = link::read(data) {
        assert!(length <= data.len());
        assert_eq!(link::read(&data[..length]), Ok(Some((found, length))));
        assert_eq!(link::read(&data[..length - 1]), Ok(None));
    }
    let channel = ChannelKind::ALL[usize::from(kind & 3)];
    let header = if kind & 4 != 0 { Header::Mini } else { Header::Full };
    let mut keyboard = Keyboard::default();
    let mut bytes = data;
    while let Ok(Some((number, range))) = wire::split(bytes, header) {
        assert!(range.end <= bytes.len());
        // A message is complete at its last byte, and not before.
        assert_eq!(wire::split(&bytes[..range.end - 1], header), Ok(None));
        if let Ok(Message::Scancodes(codes)) = message::read(channel, number, &bytes[range.clone()]) {
            codes.iter().for_each(|code| drop(keyboard.take(*code)));
        }
        bytes = &bytes[range.end..];
    }
    assert!(keyboard.release_all().len() < 256);
    let mut picture = Surface::new(16, 8);
    for (row, bytes) in (0..8).zip(data.chunks(64)) {
        for (pixel, byte) in picture.row_mut(row).iter_mut().zip(bytes) {
            *pixel = u32::from(*byte);
        }
    }
    let area = Rectangle { x: u32::from(kind & 7), y: u32::from(kind >> 5), width: 8, height: 1 };
    for compression in [Compression::Off, Compression::Lz] {
        assert!(image::draw_copy(&picture, area, compression, 1).0.len() <= 57 + 36 + 8 * 4);
    }
});
