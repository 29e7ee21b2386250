//! What VNC clients send: messages of RFB, openings and frames of WebSockets, names in certificates, keys.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vnc::keyboard::{Keyboard, Layout, Locks};
use vnc::message::{self, Message};
use websocket::{Decoder, Opening, open};

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    if let Opening::Accepted(answer, length) = open(data) {
        assert!(answer.starts_with("HTTP/1.1 101") && length <= data.len());
    }
    // Frames give the same however they are cut.
    let (mut whole, mut cut) = (Decoder::default(), Decoder::default());
    let first = whole.receive(data);
    let (left, right) = data.split_at(usize::from(*kind).min(data.len()));
    let mut rest = cut.receive(left);
    if let Ok(received) = &mut rest
        && !received.is_closed
    {
        match cut.receive(right) {
            Ok(more) => {
                received.data.extend(more.data);
                received.answers.extend(more.answers);
                received.is_closed = more.is_closed;
            }
            Err(error) => rest = Err(error),
        }
    }
    assert_eq!(first, rest);
    let layout = Layout::named("de").expect("a layout");
    let (mut keyboard, mut locks) = (Keyboard::default(), Locks::default());
    let mut bytes = data;
    while let Ok(Some((message, length))) = message::read(bytes, kind & 1 != 0) {
        assert!(length > 0 && length <= bytes.len());
        // A message is complete at its last byte, and not before.
        assert_eq!(message::read(&bytes[..length - 1], kind & 1 != 0), Ok(None));
        bytes = &bytes[length..];
        match message {
            Message::Key { is_down, symbol } => drop(keyboard.symbol(&layout, symbol, is_down, Some(&mut locks))),
            Message::SetPixelFormat(format) => {
                let mut out = Vec::new();
                for converter in [
                    vnc::format::Converter::new(&format),
                    vnc::format::Converter::compact(&format),
                    vnc::format::Converter::tight(&format),
                ] {
                    converter.put(&[0, 0x12_3456, u32::MAX], &mut out);
                }
            }
            _ => {}
        }
    }
    assert!(keyboard.release_all().len() <= 64);
});
