//! An image that was taken for a raw one because nobody said what it is stays one: what a guest writes to its beginning
//! does not choose what the host opens the next time.

use crate::common::{Dir, open};
use block::{Graph, Options, Registry, WriteFlags};
use block_drivers::drivers;
use iobuf::IoBuf;

#[test]
fn beginning_of_a_guessed_image_takes_everything_but_another_formats_header() {
    let dir = Dir::new();
    let path = dir.path("a.img");
    let zeroes = vec![0; 1 << 16];
    std::fs::write(&path, &zeroes).expect("a file");
    let graph = Graph::new(Registry::new(drivers()));
    aio::block_on(async {
        let guessed = open(&graph, Options::new().with("filename", path.as_str())).await;
        assert!(block::open::guess_warning(&guessed.node()).is_some_and(|text| text.contains(&path)));
        let write =
            async |offset, bytes: &[u8]| guessed.write(offset, IoBuf::copy_of(bytes), WriteFlags::default()).await;
        let header = b"QFI\xfb\0\0\0\x03";
        let error = write(0, header).await.expect_err("it would be a qcow2 image");
        assert_eq!(error.to_string(), "Operation not permitted");
        // Neither in two parts.
        write(0, b"QF").await.expect("harmless");
        assert!(write(2, b"I\xfb\0\0\0\x03").await.is_err());
        write(0, b"\xeb\x63\x90").await.expect("a boot sector");
        write(512, header).await.expect("not at the beginning");
        let mut large = zeroes.clone();
        large[..header.len()].copy_from_slice(header);
        assert!(write(0, &large).await.is_err());
        graph.detach(&guessed).await.expect("closes");
        let raw = open(&graph, Options::new().with("driver", "raw").with("filename", path.as_str())).await;
        assert!(block::open::guess_warning(&raw.node()).is_none());
        raw.write_bytes(0, header).await.expect("it was said to be raw");
        graph.detach(&raw).await.expect("closes");
    });
}
