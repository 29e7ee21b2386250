//! Encrypted images: ours with the peer, the peer's with us, and key slots.

mod common;

use block::image::{AmendRequest, FixMode};
use block::{OpenFlags, Options, WriteFlags, ZeroFlags};
use common::*;
use iobuf::IoBuf;

const LUKS: &str = "encrypt.format=luks,encrypt.key-secret=sec0,encrypt.iter-time=10";
const OBJECT: [&str; 2] = ["--object", "secret,id=sec0,data=123456"];

fn options(path: &str, secret: &str) -> Options {
    let file = Options::new().with("driver", "qcow2").with("file.driver", "file").with("file.filename", path);
    file.with("encrypt.key-secret", secret)
}

fn open(path: &str, secret: &str) -> block::Result<Open> {
    open_with(options(path, secret), false, OpenFlags::default())
}

fn theirs(path: &str) -> String {
    format!("driver=qcow2,encrypt.key-secret=sec0,file.filename={path}")
}

fn amend(open: &Open, text: &str, force: bool) -> block::Result<()> {
    aio::block_on(open.driver().amend(AmendRequest::new(parse(text), force)))
}

/// Writes here and there, so that there is copying, clusters in place, zeroes.
fn fill(open: &Open) -> Vec<u8> {
    let mut model = vec![0u8; open.child.len() as usize];
    for (at, len, byte) in [(0usize, 65536usize, 1u8), (100_000, 70_000, 2), (1000, 512, 3), (2 << 20, 1 << 20, 4)] {
        write(&open.child, at as u64, &vec![byte; len]).expect("writes");
        model[at..at + len].fill(byte);
    }
    zero(&open.child, 2 << 20, 128 << 10, true).expect("zeroes");
    model[2 << 20..(2 << 20) + (128 << 10)].fill(0);
    model
}

#[test]
fn our_images_are_read_by_the_peer_and_its_by_us() {
    if !has_tool("qemu-img") || !has_tool("qemu-io") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.qcow2").to_str().expect("a path").to_owned();
    let raw = dir.path().join("a.raw").to_str().expect("a path").to_owned();
    let cases = ["", "cluster_size=4096", "encrypt.cipher-alg=twofish-128,encrypt.ivgen-alg=essiv", "extended_l2=on"];
    for case in cases {
        let tail = if case.is_empty() { String::new() } else { format!(",{case}") };
        create_file(&path, 4 << 20, &format!("{LUKS}{tail}")).expect("creates");
        let ours = open(&path, "sec0").expect("opens");
        let model = fill(&ours);
        assert_eq!(read_all(&ours.child).expect("reads"), model);
        ours.close().expect("closes");
        let bytes = std::fs::read(&path).expect("reads");
        assert!(!bytes.windows(4096).any(|w| w.iter().all(|b| *b == 4)), "{case}: the data is not plain");
        std::fs::write(&raw, &model).expect("writes");
        if !case.contains("twofish") {
            // The peer may lack the cipher.
            let image = theirs(&path);
            must("qemu-img", &["check", OBJECT[0], OBJECT[1], "--image-opts", &image]);
            let reference = format!("driver=raw,file.filename={raw}");
            must("qemu-img", &["compare", OBJECT[0], OBJECT[1], "--image-opts", &image, &reference]);
            must("qemu-io", &[OBJECT[0], OBJECT[1], "--image-opts", "-c", "write -P 9 3M 100k", &image]);
            let again = open(&path, "sec0").expect("opens");
            let now = read_all(&again.child).expect("reads");
            assert!(now[3 << 20..(3 << 20) + 102_400].iter().all(|b| *b == 9), "{case}");
            assert_eq!(now[..3 << 20], model[..3 << 20], "{case}");
            again.close().expect("closes");
        }
    }
    // The peer can't measure how fast a hash is that takes no time.
    let all = "encrypt.format=luks,encrypt.key-secret=sec0,encrypt.iter-time=10,encrypt.hash-alg=sha512";
    must("qemu-img", &["create", OBJECT[0], OBJECT[1], "-f", "qcow2", "-o", all, &path, "4M"]);
    must("qemu-io", &[OBJECT[0], OBJECT[1], "--image-opts", "-c", "write -P 7 1M 1M", &theirs(&path)]);
    let ours = open(&path, "sec0").expect("opens");
    let now = read_all(&ours.child).expect("reads");
    assert!(now[1 << 20..2 << 20].iter().all(|b| *b == 7) && now[..1 << 20].iter().all(|b| *b == 0));
    ours.close().expect("closes");
}

#[test]
fn the_old_method_is_read_as_the_peer_wrote_it() {
    if !has_tool("qemu-img") || !has_tool("qemu-io") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.qcow2").to_str().expect("a path").to_owned();
    let all = "encrypt.format=aes,encrypt.key-secret=sec0";
    must("qemu-img", &["create", OBJECT[0], OBJECT[1], "-f", "qcow2", "-o", all, &path, "4M"]);
    must("qemu-io", &[OBJECT[0], OBJECT[1], "--image-opts", "-c", "write -P 7 1M 100k", &theirs(&path)]);
    let ours = open(&path, "sec0").expect("opens");
    write(&ours.child, 3 << 20, &[8; 70_000]).expect("writes");
    let now = read_all(&ours.child).expect("reads");
    assert!(now[1 << 20..(1 << 20) + 102_400].iter().all(|b| *b == 7));
    ours.close().expect("closes");
    create_file(&path, 4 << 20, all).expect("creates");
    let ours = open(&path, "sec0").expect("opens");
    write(&ours.child, 3 << 20, &[8; 65536]).expect("writes");
    ours.close().expect("closes");
    must("qemu-io", &[OBJECT[0], OBJECT[1], "--image-opts", "-c", "read -P 8 3M 64k", &theirs(&path)]);
}

#[test]
fn key_slots_are_added_and_erased() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.qcow2").to_str().expect("a path").to_owned();
    create_file(&path, 1 << 20, LUKS).expect("creates");
    let text = open(&path, "sec1").map(|_| ()).expect_err("another passphrase").to_string();
    assert_eq!(text, "Invalid password, cannot unlock any keyslot");
    let image = open(&path, "sec0").expect("opens");
    let model = vec![5; 1 << 20];
    write(&image.child, 0, &model).expect("writes");
    let details = format!("{:?}", image.driver().details().specific);
    assert!(details.contains("payload-offset") && details.contains("master-key-iters"), "{details}");
    amend(&image, "encrypt.state=active,encrypt.new-secret=sec1,encrypt.iter-time=10", false).expect("adds");
    amend(&image, "encrypt.state=inactive,encrypt.old-secret=sec0", false).expect("erases");
    let last = amend(&image, "encrypt.state=inactive,encrypt.keyslot=1", false).expect_err("the last one");
    assert!(last.to_string().starts_with("Attempt to erase the only active keyslot"), "{last}");
    image.close().expect("closes");
    assert!(open(&path, "sec0").is_err());
    let image = open(&path, "sec1").expect("opens");
    assert_eq!(read_all(&image.child).expect("reads"), model);
    let buf = IoBuf::zeroed(65536);
    let compressed = WriteFlags { compressed: true, ..WriteFlags::default() };
    assert!(aio::block_on(image.child.write(0, buf, compressed)).expect_err("not both").is_unsupported());
    let flags = ZeroFlags::default();
    aio::block_on(image.child.write_zeroes(0, 512, flags)).expect("a part of a cluster");
    let now = read_all(&image.child).expect("reads");
    assert!(now[..512].iter().all(|b| *b == 0) && now[512..] == model[512..]);
    image.close().expect("closes");
    let none = options(&path, "sec1");
    let mut none_at_all = none.clone();
    none_at_all.take("encrypt.key-secret");
    let text = open_with(none_at_all.clone(), true, OpenFlags::default()).map(|_| ()).expect_err("no key").to_string();
    assert_eq!(text, "Parameter 'encrypt.key-secret' is required for cipher");
    let flags = OpenFlags { no_io: true, ..OpenFlags::default() };
    open_with(none_at_all, true, flags).expect("metadata needs no key").close().expect("closes");
    let flags = OpenFlags { check: true, ..OpenFlags::default() };
    let image = open_with(none, true, flags).expect("opens");
    let result = aio::block_on(image.driver().check(FixMode::default())).expect("checks");
    assert_eq!((result.corruptions, result.leaks), (0, 0), "{:?}", result.messages);
    image.close().expect("closes");
}

#[test]
fn wrong_options_of_encryption_are_refused_with_the_peers_texts() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.qcow2").to_str().expect("a path").to_owned();
    let error = create_file(&path, 1 << 20, "encrypt.format=luks").expect_err("no key");
    assert_eq!(error.to_string(), "Parameter 'encrypt.key-secret' is required for cipher");
    assert!(create_file(&path, 1 << 20, "encrypt.format=rot13,encrypt.key-secret=sec0").is_err());
    create_file(&path, 1 << 20, "").expect("creates");
    let format = options(&path, "sec0").with("encrypt.format", "luks");
    let error = open_with(format, true, OpenFlags::default()).map(|_| ()).expect_err("not encrypted");
    assert_eq!(error.to_string(), "No encryption in image header, but options specified format 'luks'");
    let image = open_file(&path, false).expect("opens");
    let error = amend(&image, "encrypt.state=active,encrypt.new-secret=sec1", false).expect_err("not encrypted");
    assert_eq!(error.to_string(), "Can't amend encryption options - encryption not present");
    image.close().expect("closes");
}
