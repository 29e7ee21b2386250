//! The parser of command-line options: it never panics, with and without an implied key and shorthand.

#![no_main]

use libfuzzer_sys::fuzz_target;
use qapi::keyval::{self, Grammar};

fuzz_target!(|text: &str| {
    for grammar in [Grammar::strict(), Grammar::implied("type"), Grammar::implied("type").with_shorthand()] {
        let _ = keyval::parse(text, &grammar);
    }
    let _ = keyval::parse_size(text, 1 << 20);
    let _ = (keyval::parse_i64(text), keyval::parse_u64(text), keyval::parse_bool(text));
});
