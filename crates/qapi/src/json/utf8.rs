//! UTF-8 as QMP takes it: NUL may be spelled C0 80; non-characters and surrogates are invalid.

/// Decodes the character at the start of `bytes`: its code point, or `None` when it is invalid, and
/// how many bytes it takes (at least one unless `bytes` is empty).
pub(super) fn decode(bytes: &[u8]) -> (Option<u32>, usize) {
    let Some(&first) = bytes.first() else {
        return (None, 0);
    };
    if first < 0x80 {
        return (Some(u32::from(first)), 1);
    }
    if !(0xC0..0xFE).contains(&first) {
        return (None, 1);
    }
    let len = first.leading_ones() as usize;
    let mut point = u32::from(first) & (0x7F >> len);
    for at in 1..len {
        match bytes.get(at) {
            Some(byte) if byte & 0xC0 == 0x80 => point = (point << 6) | u32::from(byte & 0x3F),
            _ => return (None, at),
        }
    }
    let least = match len {
        2 => 0x80,
        3 => 0x800,
        4 => 0x1_0000,
        5 => 0x20_0000,
        _ => 0x400_0000,
    };
    let overlong = point < least && !(point == 0 && len == 2);
    let valid = !overlong && is_character(point);
    (valid.then_some(point), len)
}

/// Whether a code point may stand in a string.
pub(super) fn is_character(point: u32) -> bool {
    point <= 0x10_FFFF
        && !(0xD800..=0xDFFF).contains(&point)
        && !(0xFDD0..=0xFDEF).contains(&point)
        && point & 0xFFFE != 0xFFFE
}

/// The text of raw bytes for an error message: invalid characters become U+FFFD, and it ends at the
/// first NUL as a C string does.
pub(super) fn lossy_c_string(bytes: &[u8]) -> String {
    let mut rest = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let mut text = String::new();
    while !rest.is_empty() {
        let (point, len) = decode(rest);
        text.push(point.and_then(char::from_u32).unwrap_or('\u{FFFD}'));
        rest = rest.get(len.max(1)..).unwrap_or_default();
    }
    text
}
