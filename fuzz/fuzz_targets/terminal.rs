//! What guests write to a terminal of their own (`vc`), and what people type there.
#![no_main]

use display::terminal::{Terminal, TerminalSize};
use display::{KeyPress, Screen, Surface, Typing};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(([columns, rows, cut, key], data)) = data.split_first_chunk() else { return };
    let size = TerminalSize {
        columns: Some(u32::from(columns % 100)),
        rows: Some(u32::from(rows % 40)),
        ..TerminalSize::default()
    };
    let (whole, pieces) = (Terminal::new(size, Box::new(|_| {})), Terminal::new(size, Box::new(|_| {})));
    whole.write(data);
    for piece in data.chunks(usize::from(*cut).max(1)) {
        pieces.write(piece);
    }
    // Where the stream is cut does not matter.
    assert_eq!(whole.text(), pieces.text());
    let text = whole.text().expect("text");
    assert_eq!(text.cells.len(), text.columns * text.rows);
    assert!(text.cursor.is_none_or(|(x, y)| x < text.columns && y < text.rows));
    whole.press(KeyPress { symbol: 0xff00 | u32::from(*key), ctrl: key & 1 == 0, alt: key & 2 == 0 });
    let mut picture = Surface::new(1, 1);
    whole.render(&mut picture);
});
