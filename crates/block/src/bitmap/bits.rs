//! A sparse array of bits: memory is taken where bits are set.

use std::collections::BTreeMap;

/// Bits of a chunk.
const CHUNK: u64 = 32768;
/// Words of a chunk.
const WORDS: usize = (CHUNK / 64) as usize;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Chunk {
    words: Box<[u64; WORDS]>,
    count: u32,
}

impl Chunk {
    fn new() -> Self {
        Self { words: Box::new([0; WORDS]), count: 0 }
    }

    /// The masks of the words that bits `from .. to` lie in.
    fn masks(from: usize, to: usize) -> impl Iterator<Item = (usize, u64)> {
        (from / 64..to.div_ceil(64)).map(move |word| {
            let low = if word == from / 64 { u64::MAX << (from % 64) } else { u64::MAX };
            let high = if word == to / 64 { !(u64::MAX << (to % 64)) } else { u64::MAX };
            (word, low & high)
        })
    }

    /// The first bit at or after `from` that equals `value`.
    fn find(&self, from: usize, value: bool) -> Option<usize> {
        let flip = if value { 0 } else { u64::MAX };
        let mut mask = u64::MAX << (from % 64);
        for (index, word) in self.words.iter().enumerate().skip(from / 64) {
            let hits = (word ^ flip) & mask;
            if hits != 0 {
                return Some(index * 64 + hits.trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }
}

/// A sparse array of bits. All bits that were never set are clear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits {
    chunks: BTreeMap<u64, Chunk>,
    count: u64,
}

/// The pieces of `start .. end`, chunk by chunk: the chunk, and the bits in it.
fn pieces(start: u64, end: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    (start / CHUNK..end.div_ceil(CHUNK)).map(move |chunk| {
        let base = chunk * CHUNK;
        let at = |bit: u64| usize::try_from(bit - base).unwrap_or(0);
        (chunk, at(start.max(base)), at(end.min(base + CHUNK)))
    })
}

impl Bits {
    /// How many bits are set.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Sets bits `start .. end`.
    pub fn set(&mut self, start: u64, end: u64) {
        for (index, from, to) in pieces(start, end.max(start)) {
            let chunk = self.chunks.entry(index).or_insert_with(Chunk::new);
            let mut added = 0;
            for (word, mask) in Chunk::masks(from, to) {
                added += (mask & !chunk.words[word]).count_ones();
                chunk.words[word] |= mask;
            }
            chunk.count += added;
            self.count += u64::from(added);
        }
    }

    /// Clears bits `start .. end`.
    pub fn clear(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let touched: Vec<u64> =
            self.chunks.range(start / CHUNK..end.div_ceil(CHUNK)).map(|(index, _)| *index).collect();
        for index in touched {
            let base = index * CHUNK;
            let Some(chunk) = self.chunks.get_mut(&index) else { continue };
            let (from, to) = (start.max(base) - base, end.min(base + CHUNK) - base);
            let mut removed = 0;
            for (word, mask) in Chunk::masks(usize::try_from(from).unwrap_or(0), usize::try_from(to).unwrap_or(0)) {
                removed += (mask & chunk.words[word]).count_ones();
                chunk.words[word] &= !mask;
            }
            chunk.count -= removed;
            self.count -= u64::from(removed);
            if chunk.count == 0 {
                self.chunks.remove(&index);
            }
        }
    }

    /// The first set bit of `start .. end`.
    pub fn next_set(&self, start: u64, end: u64) -> Option<u64> {
        if start >= end {
            return None;
        }
        for (index, chunk) in self.chunks.range(start / CHUNK..end.div_ceil(CHUNK)) {
            let base = index * CHUNK;
            let from = usize::try_from(start.saturating_sub(base)).unwrap_or(0);
            if let Some(bit) = chunk.find(from, true) {
                let bit = base + bit as u64;
                return (bit < end).then_some(bit);
            }
        }
        None
    }

    /// The first clear bit of `start .. end`.
    pub fn next_clear(&self, start: u64, end: u64) -> Option<u64> {
        let mut at = start;
        while at < end {
            let Some(chunk) = self.chunks.get(&(at / CHUNK)) else { return Some(at) };
            let base = at / CHUNK * CHUNK;
            if let Some(bit) = chunk.find(usize::try_from(at - base).unwrap_or(0), false) {
                let bit = base + bit as u64;
                return (bit < end).then_some(bit);
            }
            at = base + CHUNK;
        }
        None
    }

    /// Sets all bits that are set in `other`.
    pub fn merge(&mut self, other: &Bits) {
        for (index, theirs) in &other.chunks {
            let chunk = self.chunks.entry(*index).or_insert_with(Chunk::new);
            let before = chunk.count;
            let mut count = 0;
            for (word, other) in chunk.words.iter_mut().zip(theirs.words.iter()) {
                *word |= other;
                count += word.count_ones();
            }
            chunk.count = count;
            self.count += u64::from(count - before);
        }
    }

    /// The bits from `first` on (a multiple of 64) as bytes, bit 0 of byte 0 first.
    pub fn store(&self, first: u64, bytes: &mut [u8]) {
        for (index, out) in bytes.chunks_mut(8).enumerate() {
            let bit = first + index as u64 * 64;
            let chunk = self.chunks.get(&(bit / CHUNK));
            let word = usize::try_from(bit % CHUNK / 64).unwrap_or(0);
            let word = chunk.map_or(0, |chunk| chunk.words[word]);
            out.copy_from_slice(&word.to_le_bytes()[..out.len()]);
        }
    }

    /// Sets the bits from `first` on (a multiple of 64) that are set in `bytes`.
    pub fn load(&mut self, first: u64, bytes: &[u8]) {
        for (index, word) in bytes.chunks(8).enumerate() {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            let word = u64::from_le_bytes(padded);
            if word == 0 {
                continue;
            }
            let bit = first + index as u64 * 64;
            let chunk = self.chunks.entry(bit / CHUNK).or_insert_with(Chunk::new);
            let slot = &mut chunk.words[usize::try_from(bit % CHUNK / 64).unwrap_or(0)];
            let added = (word & !*slot).count_ones();
            *slot |= word;
            chunk.count += added;
            self.count += u64::from(added);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_behave_as_an_array_of_booleans() {
        let len = 3 * CHUNK + 100;
        let mut bits = Bits::default();
        let mut model = vec![false; len as usize];
        let mut seed = 1u64;
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for _ in 0..300 {
            let start = random(len);
            let longest = if random(4) == 0 { len } else { 200 };
            let end = (start + random(longest)).min(len);
            let value = random(2) == 0;
            if value {
                bits.set(start, end);
            } else {
                bits.clear(start, end);
            }
            model[start as usize..end as usize].fill(value);
            assert_eq!(bits.count(), model.iter().filter(|bit| **bit).count() as u64);
            let from = random(len) as usize;
            let to = from + random(len - from as u64 + 1) as usize;
            let find = |value| (from..to).find(|at| model[*at] == value).map(|at| at as u64);
            assert_eq!(bits.next_set(from as u64, to as u64), find(true));
            assert_eq!(bits.next_clear(from as u64, to as u64), find(false));
        }
        let mut bytes = vec![0; (len as usize).div_ceil(8)];
        bits.store(0, &mut bytes);
        assert!(model.iter().enumerate().all(|(at, bit)| (bytes[at / 8] >> (at % 8) & 1 == 1) == *bit));
        let mut copy = Bits::default();
        copy.load(0, &bytes);
        assert_eq!(copy, bits);
        copy.clear(0, len);
        assert_eq!(copy, Bits::default());
        copy.set(7, 9);
        bits.merge(&copy);
        model[7..9].fill(true);
        assert_eq!(bits.count(), model.iter().filter(|bit| **bit).count() as u64);
    }
}
