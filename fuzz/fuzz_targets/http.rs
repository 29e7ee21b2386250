//! What browsers send to the web console: heads of requests, openings and frames of WebSockets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use web::http;
use websocket::{Decoder, Opening, open};

fuzz_target!(|data: &[u8]| {
    match http::read(data) {
        Ok(Some((request, length))) => {
            assert!(length <= data.len() && length <= http::HEAD_MAX);
            assert!(request.path.starts_with('/') && !request.path.contains('\0'));
            // A head is complete at its last byte, and what follows does not change it.
            assert_eq!(http::read(&data[..length - 1]), Ok(None));
            assert_eq!(http::read(&data[..length]), Ok(Some((request.clone(), length))));
            let _ = (request.parameter("token"), request.cookie("a"), request.accepts("br"));
            if let Opening::Accepted(_, opened) = open(&data[..length]) {
                assert!(request.is_websocket && opened == length);
                // A refusal is the end; anything else is data.
                let _ = Decoder::with_text().receive(&data[length..]);
            }
        }
        Ok(None) => assert!(data.len() < http::HEAD_MAX),
        Err(_) => {}
    }
});
