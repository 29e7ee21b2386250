//! Bitmaps of pages: one bit a page, lowest first.

/// Adds to `into` the pages whose bits are set in the first `count` bits of `from`; bit 0 is page `first`. Pages that
/// `into` has no bits for are dropped.
pub(crate) fn merge(into: &mut [u64], first: usize, from: &[u64], count: usize) {
    for (index, &word) in from.iter().enumerate() {
        let done = index * 64;
        let Some(left) = count.checked_sub(done).filter(|left| *left > 0) else { return };
        let word = if left < 64 { word & ((1 << left) - 1) } else { word };
        let (slot, shift) = ((first + done) / 64, (first + done) % 64);
        if let Some(low) = into.get_mut(slot) {
            *low |= word << shift;
        }
        if shift > 0
            && let Some(high) = into.get_mut(slot + 1)
        {
            *high |= word >> (64 - shift);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_shifts_and_cuts() {
        let mut pages = [0; 3];
        merge(&mut pages, 60, &[1 | 1 << 5 | 1 << 63, 0b111], 66);
        assert_eq!(pages, [1 << 60, 1 << 1 | 1 << 59 | 1 << 60 | 1 << 61, 0]);
        merge(&mut pages, 128, &[u64::MAX, u64::MAX], 128);
        assert_eq!(pages[2], u64::MAX);
        merge(&mut pages, 1 << 40, &[1], 1);
    }
}
