//! The derive macro: bytes, descriptions, versions, and refusal of hostile bytes.

use state::testing::{assert_hostile_bytes_are_harmless, assert_reset_is_complete, load_all, saved};
use state::{Kind, LoadErrorKind, Reader, SavedState, State};

#[derive(Clone, Copy, Debug, Default, PartialEq, State)]
#[repr(u8)]
enum Phase {
    #[default]
    Idle = 1,
    Busy = 7,
}

#[derive(Clone, Debug, Default, PartialEq, State)]
#[state(name = "toy/channel", version = 1)]
struct Channel {
    count: u16,
    #[state(max = 5)]
    mode: u8,
}

#[derive(Clone, Debug, Default, PartialEq, State)]
#[state(name = "latch", version = 3, minimum = 2)]
struct Latch {
    value: i32,
    #[state(since = 3)]
    extra: u8,
}

#[derive(Clone, Debug, Default, PartialEq, State)]
#[state(name = "toy", version = 2, minimum = 1)]
struct Toy {
    enabled: bool,
    signed: i64,
    words: [u16; 2],
    grid: [[u8; 2]; 2],
    channels: [Channel; 2],
    #[state(since = 2, name = "phase_now")]
    phase: Phase,
    #[state(max_len = 8)]
    queue: Vec<u8>,
    latch: Option<Latch>,
    #[state(skip = "statistics")]
    reads: u64,
}

fn toy() -> Toy {
    Toy {
        enabled: true,
        signed: -2,
        words: [0x1234, 5],
        grid: [[1, 2], [3, 4]],
        channels: [Channel { count: 0x0a0b, mode: 2 }, Channel { count: 1, mode: 5 }],
        phase: Phase::Busy,
        queue: vec![9, 8, 7],
        latch: None,
        reads: 42,
    }
}

#[test]
fn fields_are_saved_in_order_big_endian_and_unpadded() {
    let expected = [
        &[1][..],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe],
        &[0x12, 0x34, 0, 5],
        &[1, 2, 3, 4],
        &[0x0a, 0x0b, 2, 0, 1, 5],
        &[7],
        &[0, 0, 0, 3, 9, 8, 7],
    ];
    assert_eq!(saved(&toy()), expected.concat());
}

#[test]
fn subsection_is_saved_with_marker_name_and_version() {
    let plain = saved(&toy()).len();
    let with = saved(&Toy { latch: Some(Latch { value: 6, extra: 1 }), ..toy() });
    assert_eq!(with[plain..], *b"\x05\x09toy/latch\x00\x00\x00\x03\x00\x00\x00\x06\x01");
}

#[test]
fn load_restores_everything_but_skipped_fields() {
    for latch in [None, Some(Latch { value: -1, extra: 9 })] {
        let original = Toy { latch, ..toy() };
        let mut loaded = Toy { reads: 1, latch: Some(Latch::default()), ..Toy::default() };
        load_all(&mut loaded, &saved(&original)).unwrap();
        assert_eq!(loaded, Toy { reads: 1, ..original });
    }
}

#[test]
fn load_of_an_older_version_leaves_newer_fields_alone() {
    let mut bytes = saved(&toy());
    bytes.remove(23);
    let mut loaded = Toy::default();
    loaded.load(&mut Reader::new(&bytes), 1).unwrap();
    assert_eq!(loaded, Toy { phase: Phase::Idle, reads: 0, ..toy() });

    let mut latch = Latch { value: 0, extra: 77 };
    latch.load(&mut Reader::new(&[0, 0, 0, 1]), 2).unwrap();
    assert_eq!(latch, Latch { value: 1, extra: 77 });
}

#[test]
fn load_stops_where_the_state_ends() {
    let mut bytes = saved(&toy());
    let end = bytes.len();
    bytes.extend_from_slice(b"\x05\x03abc\x00\x00\x00\x01");
    let mut reader = Reader::new(&bytes);
    Toy::default().load(&mut reader, 2).unwrap();
    assert_eq!(reader.position(), end);
}

#[test]
fn load_refuses_what_does_not_fit_and_changes_nothing() {
    let good = saved(&toy());
    let with = |index: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[index] = value;
        bytes
    };
    let unknown = [&good[..], b"\x05\x07toy/new\x00\x00\x00\x01"].concat();
    let cases: [(Vec<u8>, u32, &str); 8] = [
        (good[..good.len() - 1].to_vec(), 2, "queue: the saved state ends early"),
        (good[..20].to_vec(), 2, "channels[1].count: the saved state ends early"),
        (with(22, 6), 2, "channels[1].mode: the saved value is out of range"),
        (with(23, 2), 2, "phase_now: the saved value is out of range"),
        (with(27, 9), 2, "queue: the saved buffer has 9 bytes, at most 8 are allowed"),
        (unknown, 2, "unknown subsection 'new'"),
        (good.clone(), 3, "version 3 of 'toy' is not supported (1 to 2 are)"),
        (good.clone(), 0, "version 0 of 'toy' is not supported (1 to 2 are)"),
    ];
    for (bytes, version, expected) in cases {
        let mut loaded = Toy { words: [7, 7], ..Toy::default() };
        let error = loaded.load(&mut Reader::new(&bytes), version).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(loaded, Toy { words: [7, 7], ..Toy::default() });
    }
}

#[test]
fn subsection_of_an_unsupported_version_is_refused_with_its_name() {
    let bytes = [&saved(&toy())[..], b"\x05\x09toy/latch\x00\x00\x00\x01\x00\x00\x00\x06"].concat();
    let error = load_all(&mut Toy::default(), &bytes).unwrap_err();
    assert_eq!(error.path, "toy/latch");
    assert!(matches!(error.kind, LoadErrorKind::Version { version: 1, minimum: 2, current: 3, .. }));
}

#[test]
fn description_lists_fields_with_kinds_and_sizes() {
    let description = Toy { latch: Some(Latch::default()), ..toy() }.describe();
    let rows: Vec<_> =
        description.fields.iter().map(|f| (f.name.as_str(), f.kind.name(), f.size, f.array_len)).collect();
    assert_eq!(
        rows,
        [
            ("enabled", "bool", 1, None),
            ("signed", "int64", 8, None),
            ("words", "uint16", 2, Some(2)),
            ("grid", "uint8", 1, Some(4)),
            ("channels", "struct", 3, Some(2)),
            ("phase_now", "uint8", 1, None),
            ("queue_len", "uint32", 4, None),
            ("queue", "buffer", 3, None),
        ]
    );
    assert_eq!(description.fields[4].nested.as_ref().map(|nested| nested.fields[1].kind), Some(Kind::UInt8));
    assert_eq!((description.name.as_str(), description.version), ("toy", 2));
    assert_eq!(description.subsections[0].name, "toy/latch");
    assert_eq!(description.field_at(22).as_deref(), Some("channels[1].mode"));
    assert_eq!(description.field_at(31 + 15).as_deref(), Some("toy/latch:value"));
    assert_eq!(description.field_at(1000), None);
}

#[derive(Clone, Debug, Default, State)]
#[state(name = "part", version = 1)]
struct Part {
    #[state(max_len = 4)]
    data: Vec<u8>,
}

#[derive(Clone, Debug, Default, State)]
#[state(name = "parts", version = 1)]
struct Parts {
    parts: [Part; 2],
    none: [u8; 0],
}

#[test]
fn description_of_unequal_elements_numbers_them() {
    let parts = Parts { parts: [Part { data: vec![1] }, Part::default()], none: [] };
    let description = parts.describe();
    let rows: Vec<_> = description.fields.iter().map(|f| (f.index, f.array_len, f.size)).collect();
    assert_eq!(rows, [(Some(0), None, 5), (Some(1), None, 4)]);
    assert_eq!(description.field_at(5).as_deref(), Some("parts[1].data_len"));
}

#[derive(Clone, Debug, State)]
#[state(name = "empty", version = 1)]
struct Empty {
    #[state(skip = "nothing is left")]
    _unit: (),
}

#[test]
fn empty_state_saves_nothing() {
    assert!(saved(&Empty { _unit: () }).is_empty());
    assert!(load_all(&mut Empty { _unit: () }, &[]).is_ok());
}

#[test]
fn random_bytes_never_panic_and_never_half_load() {
    for seed in [1, 99, 0xdead_beef] {
        assert_hostile_bytes_are_harmless(&mut toy(), seed, 20_000);
        assert_hostile_bytes_are_harmless(&mut Toy { latch: Some(Latch::default()), ..toy() }, seed, 20_000);
        assert_hostile_bytes_are_harmless(&mut Parts::default(), seed, 5_000);
    }
}

#[test]
fn reset_check_accepts_a_complete_reset() {
    assert_reset_is_complete(&mut toy(), |toy| toy, |toy| *toy = Toy { reads: toy.reads, ..Toy::default() });
}

#[test]
#[should_panic(expected = "reset leaves 'channels[0].count' of 'toy' as it was")]
fn reset_check_names_a_forgotten_field() {
    let reset = |toy: &mut Toy| *toy = Toy { channels: toy.channels.clone(), ..Toy::default() };
    assert_reset_is_complete(&mut toy(), |toy| toy, reset);
}
