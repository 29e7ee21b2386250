//! The kernel's statistics of a machine and its vCPUs (`Documentation/virt/kvm/api.rst`, 4.133): a file that describes what
//! is in it.

#![expect(unsafe_code, reason = "one request that kvm-ioctls lacks")]

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use accel::{Statistic, StatisticKind, StatisticUnit};

/// `_IO(KVMIO, 0xce)`.
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
/// More than any kernel has to tell.
const LIMIT: u64 = 1 << 20;
/// Bytes of the file's header, and of a description before its name.
const HEADER_LEN: usize = 24;
const DESCRIPTION_LEN: usize = 16;

/// The statistics of a machine or a vCPU. `None`: the kernel has none, or none that can be read.
pub(crate) fn read(owner: &impl AsRawFd) -> Option<Vec<Statistic>> {
    // SAFETY: the request has no argument.
    let fd = unsafe { libc::ioctl(owner.as_raw_fd(), KVM_GET_STATS_FD) };
    if fd < 0 {
        return None;
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes).ok()?;
    parse(&bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

/// The statistics in such a file, but for those of kinds that are not known.
fn parse(bytes: &[u8]) -> Option<Vec<Statistic>> {
    let header = bytes.get(..HEADER_LEN)?;
    let field = |index: usize| u32_at(header, 4 * index).map(|value| value as usize);
    let (name_len, count, first, data) = (field(1)?, field(2)?, field(4)?, field(5)?);
    let len = DESCRIPTION_LEN.checked_add(name_len)?;
    let descriptions = bytes.get(first..)?.chunks_exact(len).take(count);
    Some(descriptions.filter_map(|description| statistic(description, bytes.get(data..)?)).collect())
}

fn statistic(description: &[u8], data: &[u8]) -> Option<Statistic> {
    let flags = u32_at(description, 0)?;
    let exponent = u16_at(description, 4)?.cast_signed();
    let (count, offset) = (u16_at(description, 6)?, u32_at(description, 8)?);
    let kind = match flags & 0xf {
        0 => StatisticKind::Cumulative,
        1 => StatisticKind::Instant,
        2 => StatisticKind::Peak,
        3 => StatisticKind::LinearHistogram(u32_at(description, 12)?),
        4 => StatisticKind::LogHistogram,
        _ => return None,
    };
    let unit = match flags >> 4 & 0xf {
        0 => StatisticUnit::None,
        1 => StatisticUnit::Bytes,
        2 => StatisticUnit::Seconds,
        3 => StatisticUnit::Cycles,
        4 => StatisticUnit::Boolean,
        _ => return None,
    };
    let base = match flags >> 8 & 0xf {
        0 => 10,
        1 => 2,
        _ => return None,
    };
    let name = description.get(DESCRIPTION_LEN..)?.split(|byte| *byte == 0).next()?;
    let values = data.get(offset as usize..)?.get(..8 * usize::from(count))?;
    let values: Vec<u64> = values.as_chunks().0.iter().map(|value| u64::from_ne_bytes(*value)).collect();
    let name = String::from_utf8_lossy(name).into_owned();
    (!values.is_empty()).then_some(Statistic { name, kind, unit, base, exponent, values })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with these descriptions (flags, exponent, values, bucket size, name), and values that count from 1.
    fn file(all: &[(u32, i16, u16, u32, &str)]) -> Vec<u8> {
        let first = HEADER_LEN + 8;
        let data = first + all.len() * (DESCRIPTION_LEN + 8);
        let mut bytes: Vec<u8> =
            [0, 8, all.len(), HEADER_LEN, first, data].iter().flat_map(|value| (*value as u32).to_ne_bytes()).collect();
        bytes.extend(b"kvm-1\0\0\0");
        let mut offset = 0;
        for (flags, exponent, count, bucket, name) in all {
            bytes.extend(flags.to_ne_bytes());
            bytes.extend(exponent.to_ne_bytes());
            bytes.extend(count.to_ne_bytes());
            bytes.extend(u32::from(offset).to_ne_bytes());
            bytes.extend(bucket.to_ne_bytes());
            bytes.extend(name.bytes().chain(std::iter::repeat(0)).take(8));
            offset += 8 * count;
        }
        bytes.extend((1..=u64::from(offset / 8)).flat_map(u64::to_ne_bytes));
        bytes
    }

    #[test]
    fn statistics_are_read_with_what_they_are_and_unknown_ones_are_left_out() {
        let bytes = file(&[
            (0x20, -9, 1, 0, "wait_ns"),
            (0x45, 0, 1, 0, "what"),
            (0x103, 10, 3, 7, "sizes"),
            (0x41, 0, 1, 0, "on"),
        ]);
        let expected = [
            ("wait_ns", StatisticKind::Cumulative, StatisticUnit::Seconds, 10, -9, vec![1]),
            ("sizes", StatisticKind::LinearHistogram(7), StatisticUnit::None, 2, 10, vec![3, 4, 5]),
            ("on", StatisticKind::Instant, StatisticUnit::Boolean, 10, 0, vec![6]),
        ];
        let expected = expected.map(|(name, kind, unit, base, exponent, values)| {
            let name = name.to_owned();
            Statistic { name, kind, unit, base, exponent, values }
        });
        assert_eq!(parse(&bytes), Some(expected.to_vec()));
    }

    #[test]
    fn file_that_ends_too_early_gives_what_is_whole() {
        let bytes = file(&[(0, 0, 1, 0, "a"), (0, 0, 2, 0, "b")]);
        for len in 0..bytes.len() {
            let found = parse(&bytes[..len]).unwrap_or_default();
            assert!(found.len() < 2, "{found:?}");
        }
        assert_eq!(parse(&bytes).map(|all| all.len()), Some(2));
    }
}
