//! Directory entries: short names, long names, times.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of an entry.
pub const ENTRY: usize = 32;
/// The attribute of a directory.
pub const DIRECTORY: u8 = 0x10;
/// The attribute of the volume's label.
pub const LABEL: u8 = 0x08;
const ARCHIVE: u8 = 0x20;
const LONG_NAME: u8 = 0x0f;
const DELETED: u8 = 0xe5;
/// Characters of a long name in one entry, and where they are.
const LONG_PLACES: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

/// An entry that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The long name, or the short one with a dot.
    pub name: String,
    /// It is a directory.
    pub is_directory: bool,
    /// Its first cluster; 0 if it is empty.
    pub cluster: u32,
    /// Bytes of a file.
    pub size: u32,
}

/// Gives short names of a directory, each once.
#[derive(Default)]
pub struct ShortNames(BTreeSet<[u8; 11]>);

impl ShortNames {
    /// The short name for `name`, and whether it says everything about it.
    pub fn choose(&mut self, name: &str) -> ([u8; 11], bool) {
        let (stem, extension) = match name.rfind('.') {
            Some(dot) if dot > 0 => (&name[..dot], &name[dot + 1..]),
            _ => (name, ""),
        };
        let clean = |text: &str, len: usize| -> Vec<u8> {
            let plain = |c: char| c.is_ascii_alphanumeric() || "!#$%&'()-@^_`{}~".contains(c);
            text.chars()
                .filter(|c| *c != '.' && *c != ' ')
                .map(|c| if plain(c) { c.to_ascii_uppercase() as u8 } else { b'_' })
                .take(len)
                .collect()
        };
        let put = |stem: &[u8], extension: &[u8]| {
            let mut short = [b' '; 11];
            short[..stem.len()].copy_from_slice(stem);
            short[8..8 + extension.len()].copy_from_slice(extension);
            short
        };
        let (mut base, extension_bytes) = (clean(stem, 8), clean(extension, 3));
        if base.is_empty() {
            base.push(b'_');
        }
        let short = put(&base, &extension_bytes);
        if text_of(&short) == name && self.0.insert(short) {
            return (short, true);
        }
        for number in 1u32.. {
            let tail = format!("~{number}");
            let mut stem = base.clone();
            stem.truncate(8usize.saturating_sub(tail.len()));
            stem.extend_from_slice(tail.as_bytes());
            let short = put(&stem, &extension_bytes);
            if self.0.insert(short) {
                return (short, false);
            }
        }
        (short, false)
    }
}

/// The name of a short name's bytes.
fn text_of(short: &[u8; 11]) -> String {
    let part = |bytes: &[u8]| bytes.iter().map(|b| char::from(*b)).collect::<String>().trim_end().to_owned();
    let (stem, extension) = (part(&short[..8]), part(&short[8..]));
    if extension.is_empty() { stem } else { format!("{stem}.{extension}") }
}

fn checksum(short: &[u8; 11]) -> u8 {
    short.iter().fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// The date and time of a host time, UTC: from 1980 on in steps of two seconds.
fn stamp(time: SystemTime) -> (u16, u16) {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86400, seconds % 86400);
    // Days to a civil date, in the proleptic Gregorian calendar with years that begin in March.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = (year + era * 400 + u64::from(month <= 2)).clamp(1980, 2107);
    let date = (year - 1980) << 9 | month << 5 | day;
    let time = (rest / 3600) << 11 | (rest / 60 % 60) << 5 | (rest % 60 / 2);
    (date as u16, time as u16)
}

fn short_entry(short: &[u8; 11], attributes: u8, cluster: u32, size: u32, time: SystemTime) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    let (date, time) = stamp(time);
    let [c0, c1, c2, c3] = cluster.to_le_bytes();
    entry[..11].copy_from_slice(short);
    entry[11] = attributes;
    entry[14..16].copy_from_slice(&time.to_le_bytes());
    entry[16..18].copy_from_slice(&date.to_le_bytes());
    entry[18..20].copy_from_slice(&date.to_le_bytes());
    entry[20..22].copy_from_slice(&[c2, c3]);
    entry[22..24].copy_from_slice(&time.to_le_bytes());
    entry[24..26].copy_from_slice(&date.to_le_bytes());
    entry[26..28].copy_from_slice(&[c0, c1]);
    entry[28..].copy_from_slice(&size.to_le_bytes());
    entry
}

/// The volume's label.
pub fn label(text: &str) -> [u8; ENTRY] {
    let mut name = [b' '; 11];
    for (place, byte) in name.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
    short_entry(&name, LABEL, 0, 0, UNIX_EPOCH)
}

/// The entries `.` and `..` of a directory.
pub fn dots(own: u32, parent: u32, time: SystemTime) -> [u8; 2 * ENTRY] {
    let mut bytes = [0; 2 * ENTRY];
    bytes[..ENTRY].copy_from_slice(&short_entry(b".          ", DIRECTORY, own, 0, time));
    bytes[ENTRY..].copy_from_slice(&short_entry(b"..         ", DIRECTORY, parent, 0, time));
    bytes
}

/// The entries of a file or directory: its long name if it needs one, then the short one.
pub fn entries(
    names: &mut ShortNames,
    name: &str,
    is_directory: bool,
    cluster: u32,
    size: u32,
    time: SystemTime,
) -> Vec<u8> {
    let (short, is_all) = names.choose(name);
    let mut bytes = Vec::new();
    if !is_all {
        let mut units: Vec<u16> = name.encode_utf16().collect();
        if !units.len().is_multiple_of(13) {
            units.push(0);
            units.resize(units.len().next_multiple_of(13), 0xffff);
        }
        for (index, part) in units.chunks(13).enumerate().rev() {
            let mut entry = [0; ENTRY];
            let last = if (index + 1) * 13 == units.len() { 0x40 } else { 0 };
            entry[0] = (index as u8 + 1) | last;
            entry[11] = LONG_NAME;
            entry[13] = checksum(&short);
            for (place, unit) in LONG_PLACES.iter().zip(part) {
                entry[*place..*place + 2].copy_from_slice(&unit.to_le_bytes());
            }
            bytes.extend_from_slice(&entry);
        }
    }
    let attributes = if is_directory { DIRECTORY } else { ARCHIVE };
    bytes.extend_from_slice(&short_entry(&short, attributes, cluster, if is_directory { 0 } else { size }, time));
    bytes
}

/// The entries of a directory's bytes, without labels and dots; `None` if they make no sense (the guest is not done).
pub fn parse(bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut found = Vec::new();
    let mut long: Vec<u16> = Vec::new();
    for entry in bytes.chunks_exact(ENTRY) {
        match entry[0] {
            0 => break,
            DELETED => {
                long.clear();
                continue;
            }
            _ => {}
        }
        if entry[11] == LONG_NAME {
            let units = LONG_PLACES.iter().map(|place| u16::from_le_bytes([entry[*place], entry[*place + 1]]));
            let mut part: Vec<u16> = units.collect();
            part.append(&mut long);
            long = part;
            continue;
        }
        let long_name = std::mem::take(&mut long);
        if entry[11] & LABEL != 0 || entry[0] == b'.' {
            continue;
        }
        let mut short = [0; 11];
        short.copy_from_slice(&entry[..11]);
        if short[0] == 0x05 {
            short[0] = DELETED;
        }
        let end = long_name.iter().position(|unit| *unit == 0).unwrap_or(long_name.len());
        let name = match String::from_utf16(&long_name[..end]) {
            Ok(name) if !name.is_empty() => name,
            _ => text_of_case(&short, entry[12]),
        };
        let cluster = u32::from_le_bytes([entry[26], entry[27], entry[20], entry[21]]);
        let size = u32::from_le_bytes([entry[28], entry[29], entry[30], entry[31]]);
        if name.contains('/') || name.contains('\0') || name == "." || name == ".." || name.is_empty() {
            return None;
        }
        found.push(Entry { name, is_directory: entry[11] & DIRECTORY != 0, cluster, size });
    }
    Some(found)
}

/// A short name with the lower-case flags of Windows NT (byte 12).
fn text_of_case(short: &[u8; 11], flags: u8) -> String {
    let mut short = *short;
    if flags & 0x08 != 0 {
        short[..8].make_ascii_lowercase();
    }
    if flags & 0x10 != 0 {
        short[8..].make_ascii_lowercase();
    }
    text_of(&short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_kinds_are_read_back() {
        let mut names = ShortNames::default();
        let mut bytes = Vec::new();
        let all = [
            "README.TXT",
            "a file with a long name.text",
            "a file with a long nose.text",
            "naïve.ü",
            ".hidden",
            "exactly13char",
        ];
        for (number, name) in all.iter().enumerate() {
            bytes.extend(entries(&mut names, name, number == 1, number as u32 + 0x12345, 77, UNIX_EPOCH));
        }
        let parsed = parse(&bytes).expect("well formed");
        assert_eq!(parsed.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), all);
        assert!(parsed[1].is_directory && parsed[1].size == 0);
        assert_eq!((parsed[2].cluster, parsed[2].size), (0x12347, 77));
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        let mut names = ShortNames::default();
        let bytes = entries(&mut names, "../../etc/passwd", false, 2, 1, UNIX_EPOCH);
        assert_eq!(parse(&bytes), None);
    }

    #[test]
    fn times_are_civil() {
        let time = UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        // 2023-11-14 22:13:20
        assert_eq!(stamp(time), ((2023 - 1980) << 9 | 11 << 5 | 14, 22 << 11 | 13 << 5 | 10));
    }
}
