//! The JSON reader over a stream in pieces: it never panics, the pieces' borders do not matter, and what it has read
//! is written and read again as the same value.

#![no_main]

use libfuzzer_sys::fuzz_target;
use qapi::json::{self, Reader, Value};

/// Everything that `bytes`, pushed in pieces of `piece`, gives.
fn read(bytes: &[u8], piece: usize) -> Vec<Result<Value, String>> {
    let mut reader = Reader::new();
    let mut found = Vec::new();
    let mut drain = |reader: &mut Reader| {
        while let Some(result) = reader.next() {
            found.push(result.map_err(|error| error.to_string()));
        }
    };
    for part in bytes.chunks(piece) {
        reader.push(part);
        drain(&mut reader);
    }
    reader.finish();
    drain(&mut reader);
    found
}

fuzz_target!(|input: &[u8]| {
    let Some((first, bytes)) = input.split_first() else { return };
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(read(bytes, usize::from(*first % 16) + 1), whole, "the pieces matter");
    for value in whole.into_iter().flatten() {
        let text = json::to_string(&value);
        assert!(text.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "not ASCII: {text:?}");
        // Infinite doubles are written as QEMU writes them, which is no JSON.
        if text.contains("inf") {
            continue;
        }
        let again = |text: &str| match json::parse(text) {
            Ok(value) => json::to_string(&value),
            Err(error) => panic!("{text:?} can't be read again: {error}"),
        };
        // What has an equal that is shorter, as the double -0.0, may change once. Members whose names have the same hash
        // change places each time, as in QEMU: after twice all is as it was.
        let text = again(&text);
        assert_eq!(again(&again(&text)), text);
    }
});
