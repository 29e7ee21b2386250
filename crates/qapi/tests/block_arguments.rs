//! Arguments of the block layer's commands: errors in QEMU's words, today's and older spellings.

use qapi::block::common::{BlockdevDetectZeroesOptions, BlockdevDiscardOptions, BlockdevDriver};
use qapi::block::create::{BlockdevCreate, BlockdevCreateOptions};
use qapi::block::medium::{BlockdevChangeMedium, XBlockdevRemoveMedium};
use qapi::block::nodes::{BlockdevAdd, BlockdevReopen};
use qapi::block::options::{BlockdevDriverOptions, BlockdevOptions, BlockdevRef, BlockdevRefOrNull};
use qapi::block::stats::BlockLatencyHistogramSet;
use qapi::block::throttle::BlockSetIoThrottle;
use qapi::json::{self, Map};
use qapi::keyval::{Grammar, from_keyval};
use qapi::objects::{ObjectAdd, ObjectTypeOptions};
use qapi::{Command, Error, Members, Null};

fn arguments(text: &str) -> Map {
    match json::parse(text).map(|value| value.as_object().cloned()) {
        Ok(Some(map)) => map,
        _ => panic!("no object: {text}"),
    }
}

fn read<C: Command>(text: &str) -> Result<C, Error> {
    C::from_arguments(Some(arguments(text)))
}

fn error(command: &str, text: &str) -> Option<Error> {
    match command {
        "blockdev-add" => read::<BlockdevAdd>(text).err(),
        "blockdev-create" => read::<BlockdevCreate>(text).err(),
        "blockdev-reopen" => read::<BlockdevReopen>(text).err(),
        "block_set_io_throttle" => read::<BlockSetIoThrottle>(text).err(),
        "object-add" => read::<ObjectAdd>(text).err(),
        "blockdev-change-medium" => read::<BlockdevChangeMedium>(text).err(),
        "block-latency-histogram-set" => read::<BlockLatencyHistogramSet>(text).err(),
        _ => panic!("{command}"),
    }
}

/// Commands, arguments, and what QEMU 7.2 says about them.
#[rustfmt::skip]
const REFUSED: &[(&str, &str, &str)] = &[
    ("blockdev-add", r#"{"driver": "qcow2", "node-name": "a", "file": 1}"#, "Invalid parameter type for 'file', expected: BlockdevRef"),
    ("blockdev-add", r#"{"driver": "qcow2", "node-name": "a", "file": null}"#, "Invalid parameter type for 'file', expected: BlockdevRef"),
    ("blockdev-add", r#"{"driver": "qcow2", "node-name": "a"}"#, "Parameter 'file' is missing"),
    ("blockdev-add", r#"{"node-name": "a"}"#, "Parameter 'driver' is missing"),
    ("blockdev-add", r#"{"driver": "qcow2", "node-name": 7, "file": {"driver": "file"}}"#, "Invalid parameter type for 'node-name', expected: string"),
    ("blockdev-add", r#"{"driver": "qcow2", "file": {"driver": "file"}}"#, "Parameter 'file.filename' is missing"),
    ("blockdev-add", r#"{"driver": "qcow2", "file": {"driver": "file", "filename": "x", "aio": "uring"}}"#, "Parameter 'aio' does not accept value 'uring'"),
    ("blockdev-add", r#"{"driver": "qcow2", "file": {"driver": "file", "filename": "x"}, "overlap-check": "some"}"#, "Parameter 'overlap-check' does not accept value 'some'"),
    ("blockdev-add", r#"{"driver": "qcow2", "file": {"driver": "file", "filename": "x"}, "overlap-check": 3}"#, "Invalid parameter type for 'overlap-check', expected: Qcow2OverlapChecks"),
    ("blockdev-add", r#"{"driver": "qcow2", "file": {"driver": "file", "filename": "x"}, "overlap-check": {"template": "x"}}"#, "Parameter 'template' does not accept value 'x'"),
    ("blockdev-add", r#"{"driver": "qcow2", "file": {"driver": "file", "filename": "x"}, "encrypt": {"format": "qcow"}}"#, "Parameter 'format' does not accept value 'qcow'"),
    ("blockdev-add", r#"{"driver": "qcow2", "file": {"driver": "file", "filename": "x"}, "encrypt": {}}"#, "Parameter 'encrypt.format' is missing"),
    ("blockdev-add", r#"{"driver": "qcow2", "file": {"driver": "file", "filename": "x"}, "backing": 7}"#, "Invalid parameter type for 'backing', expected: BlockdevRefOrNull"),
    ("blockdev-add", r#"{"driver": "qcow2", "file": {"driver": "file", "filename": "x"}, "cache": {"direct": "on"}}"#, "Invalid parameter type for 'cache.direct', expected: boolean"),
    ("blockdev-add", r#"{"driver": "qcow2", "file": {"driver": "file", "filename": "x", "bogus": 1}}"#, "Parameter 'file.bogus' is unexpected"),
    ("blockdev-add", r#"{"driver": "quorum", "children": [{"driver": "file"}]}"#, "Parameter 'children[0].filename' is missing"),
    ("blockdev-add", r#"{"driver": "quorum", "children": [{"driver": "null-co"}, 7], "vote-threshold": 1}"#, "Invalid parameter type for 'null', expected: BlockdevRef"),
    ("blockdev-add", r#"{"driver": "nbd", "server": {"type": "inet", "host": "h"}}"#, "Parameter 'server.port' is missing"),
    ("blockdev-add", r#"{"driver": "nbd", "server": {"host": "h", "port": "1"}}"#, "Parameter 'server.type' is missing"),
    ("blockdev-add", r#"{"driver": "nbd", "server": {"type": "unix", "path": "h", "port": "1"}}"#, "Parameter 'server.port' is unexpected"),
    ("blockdev-add", r#"{"driver": "blkdebug", "image": "x", "inject-error": [{"event": "nope"}]}"#, "Parameter 'event' does not accept value 'nope'"),
    ("blockdev-add", r#"{"driver": "blkdebug", "image": "x", "max-transfer": 5000000000}"#, "Parameter 'max-transfer' expects int32_t"),
    ("blockdev-add", r#"{"driver": "nbd", "reconnect-delay": -1, "server": {"type": "unix", "path": "h"}}"#, "Parameter 'reconnect-delay' expects uint32_t"),
    ("blockdev-create", r#"{"job-id": "j", "options": {"driver": "qcow2", "size": -1, "file": "x", "version": "v4"}}"#, "Parameter 'version' does not accept value 'v4'"),
    ("blockdev-create", r#"{"job-id": "j", "options": {"driver": "nope"}}"#, "Parameter 'driver' does not accept value 'nope'"),
    ("blockdev-create", r#"{"job-id": "j", "options": {"driver": "raw", "size": 1}}"#, "Parameter 'options.size' is unexpected"),
    ("blockdev-create", r#"{"job-id": "j", "options": {"driver": "vmdk", "size": 1, "file": "x", "subformat": "x"}}"#, "Parameter 'subformat' does not accept value 'x'"),
    ("block_set_io_throttle", r#"{"device": "x", "bps": 1}"#, "Parameter 'bps_rd' is missing"),
    ("block_set_io_throttle", r#"{"device": "x", "bps": 1.5}"#, "Invalid parameter type for 'bps', expected: integer"),
    ("object-add", r#"{"qom-type": "secret", "id": "s", "loaded": "x"}"#, "Invalid parameter type for 'loaded', expected: boolean"),
    ("object-add", r#"{"qom-type": "secret"}"#, "Parameter 'id' is missing"),
    ("object-add", r#"{"id": "x"}"#, "Parameter 'qom-type' is missing"),
    ("object-add", r#"{"qom-type": "throttle-group", "id": "x", "limits": {"iops-total": "x"}}"#, "Invalid parameter type for 'limits.iops-total', expected: integer"),
    ("object-add", r#"{"qom-type": "throttle-group", "id": "x", "x-iops": 1}"#, "Parameter 'x-iops' is unexpected"),
    ("blockdev-reopen", r#"{"options": [{"driver": "raw"}]}"#, "Parameter 'options[0].file' is missing"),
    ("blockdev-change-medium", r#"{"id": "x", "filename": "y", "read-only-mode": "z"}"#, "Parameter 'read-only-mode' does not accept value 'z'"),
    ("block-latency-histogram-set", r#"{"id": "x", "boundaries": [1, "a"]}"#, "Parameter 'boundaries[1]' expects uint64"),
];

#[test]
fn wrong_arguments_are_refused_in_the_words_of_qemu() {
    for (command, arguments, expected) in REFUSED {
        let error = error(command, arguments).map(|error| error.desc);
        assert_eq!(error.as_deref(), Some(*expected), "{command} {arguments}");
    }
}

#[test]
fn options_of_a_node_are_read_in_full_and_written_as_they_were() {
    let text = concat!(
        r#"{"driver": "qcow2", "node-name": "n", "discard": "unmap", "cache": {"direct": true, "no-flush": false}, "#,
        r#""read-only": true, "detect-zeroes": "on", "file": {"driver": "raw", "offset": 512, "file": "other"}, "#,
        r#""backing": null, "overlap-check": {"template": "none", "active-l2": true}, "#,
        r#""encrypt": {"format": "luks", "key-secret": "s"}, "data-file": {"driver": "null-co", "size": 1048576}}"#
    );
    let options = match read::<BlockdevAdd>(text) {
        Ok(add) => add.options,
        Err(error) => panic!("{error:?}"),
    };
    assert_eq!(options.node_name.as_deref(), Some("n"));
    assert_eq!(options.discard, Some(BlockdevDiscardOptions::Unmap));
    assert_eq!(options.detect_zeroes, Some(BlockdevDetectZeroesOptions::On));
    let BlockdevDriverOptions::Qcow2(qcow2) = &options.driver else { panic!("{options:?}") };
    assert_eq!(qcow2.backing, Some(BlockdevRefOrNull::Null(Null)));
    let BlockdevRef::Definition(file) = &qcow2.file else { panic!("{qcow2:?}") };
    let BlockdevDriverOptions::Raw(raw) = &file.driver else { panic!("{file:?}") };
    assert_eq!((raw.offset, &raw.file), (Some(512), &BlockdevRef::Reference("other".to_owned())));
    assert_eq!(options.to_map(), arguments(text));
}

#[test]
fn options_on_the_command_line_are_the_same_with_dots() {
    let text = concat!(
        "driver=qcow2,node-name=n,file.driver=file,file.filename=a,,b,cache.direct=on,backing=,",
        "l2-cache-size=65536,overlap-check=all,discard=unmap"
    );
    let dotted: BlockdevOptions = match from_keyval(text, &Grammar::implied("driver")) {
        Ok(options) => options,
        Err(error) => panic!("{error:?}"),
    };
    let json = concat!(
        r#"{"driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": "a,b"}, "#,
        r#""cache": {"direct": true}, "backing": "", "l2-cache-size": 65536, "overlap-check": "all", "#,
        r#""discard": "unmap"}"#
    );
    assert_eq!(Some(dotted), read::<BlockdevAdd>(json).ok().map(|add| add.options));
}

#[test]
fn children_of_a_quorum_are_numbered_on_the_command_line() {
    let text = "quorum,vote-threshold=2,children.0=a,children.1.driver=null-co,children.2=c";
    let options: Result<BlockdevOptions, Error> = from_keyval(text, &Grammar::implied("driver"));
    let Ok(BlockdevDriverOptions::Quorum(quorum)) = options.map(|options| options.driver) else { panic!("no quorum") };
    assert_eq!((quorum.children.len(), quorum.vote_threshold), (3, 2));
    assert_eq!(quorum.children[2], BlockdevRef::Reference("c".to_owned()));
}

#[test]
fn node_of_the_older_dialect_is_wrapped_and_has_an_id_and_a_write_cache() {
    let text = r#"{"options": {"driver": "qcow2", "id": "my_disk", "discard": "unmap",
        "cache": {"direct": true, "writeback": true}, "file": {"driver": "file", "filename": "/tmp/test.qcow2"}}}"#;
    let add = match read::<BlockdevAdd>(text) {
        Ok(add) => add,
        Err(error) => panic!("{error:?}"),
    };
    assert_eq!(add.id.as_deref(), Some("my_disk"));
    assert_eq!(add.options.cache.and_then(|cache| cache.writeback), Some(true));
    // The wrapper is one only if nothing stands beside it.
    let text = r#"{"options": {"driver": "null-co"}, "driver": "null-co"}"#;
    let error = read::<BlockdevAdd>(text).err().map(|error| error.desc);
    assert_eq!(error.as_deref(), Some("Parameter 'options' is unexpected"));
}

#[test]
fn object_of_the_older_dialect_has_its_properties_in_props() {
    let modern = r#"{"qom-type": "secret", "id": "s", "data": "x", "format": "raw"}"#;
    let Ok(modern) = read::<ObjectAdd>(modern) else { panic!("today's form") };
    assert!(matches!(&modern.object, ObjectTypeOptions::Secret(secret) if secret.data.as_deref() == Some("x")));
    let legacy = r#"{"qom-type": "secret", "id": "s", "props": {"data": "x", "format": "raw"}}"#;
    assert_eq!(read::<ObjectAdd>(legacy).ok(), Some(modern));
    for (text, expected) in [
        (r#"{"qom-type": "secret", "id": "s", "props": {"bogus": 1}}"#, "Parameter 'bogus' is unexpected"),
        (r#"{"qom-type": "secret", "id": "s", "props": {"id": "t"}}"#, "Parameter 'props' is unexpected"),
        (r#"{"qom-type": "secret", "id": "s", "props": 1}"#, "Parameter 'props' is unexpected"),
    ] {
        let error = read::<ObjectAdd>(text).err().map(|error| error.desc);
        assert_eq!(error.as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn media_are_named_by_device_or_id() {
    let by = |text: &str| read::<XBlockdevRemoveMedium>(text).ok().map(|command| (command.device, command.id));
    assert_eq!(by(r#"{"device": "a"}"#), Some((Some("a".to_owned()), None)));
    assert_eq!(by(r#"{"id": "a"}"#), Some((None, Some("a".to_owned()))));
}

#[test]
fn drivers_that_create_nothing_can_still_be_named() {
    let text = r#"{"job-id": "j", "options": {"driver": "raw"}}"#;
    let options = read::<BlockdevCreate>(text).ok().map(|create| create.options);
    assert_eq!(options, Some(BlockdevCreateOptions::Other(BlockdevDriver::Raw)));
}

/// A client must not be able to make the program's stack overflow.
#[test]
fn nodes_nested_too_deep_are_refused() {
    let mut text = r#"{"driver": "null-co"}"#.to_owned();
    for _ in 0..400 {
        text = format!(r#"{{"driver": "raw", "file": {text}}}"#);
    }
    let error = read::<BlockdevAdd>(&text).err().map(|error| error.desc);
    assert_eq!(error.as_deref(), Some("JSON nesting depth limit exceeded"));
}
