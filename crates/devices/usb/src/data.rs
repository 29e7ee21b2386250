//! The buffer of a transaction: guest memory, or bytes.

use memory::DmaMap;

/// A buffer with a position. Devices fill it, or take from it, in order.
pub trait Data {
    /// The bytes from the position to the end.
    fn remaining(&self) -> usize;

    /// Puts bytes, as many as there is room for.
    fn put(&mut self, bytes: &[u8]);

    /// Takes bytes; what is missing at the end is zero.
    fn take(&mut self, into: &mut [u8]);
}

/// A range of guest memory: address and length.
pub type Range = (u64, usize);

/// Guest memory in pieces.
pub struct GuestData<'a> {
    map: &'a DmaMap,
    pieces: &'a [Range],
    /// Bytes of the first piece that are done.
    done: usize,
    failed: bool,
}

impl<'a> GuestData<'a> {
    /// A buffer of these pieces.
    pub fn new(map: &'a DmaMap, pieces: &'a [Range]) -> Self {
        Self { map, pieces, done: 0, failed: false }
    }

    /// Whether some of it is no RAM.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// The rest of the current piece, at most `len` bytes of it.
    fn next(&mut self, len: usize) -> Option<Range> {
        while let Some((address, size)) = self.pieces.first().copied() {
            let rest = size.saturating_sub(self.done);
            if rest > 0 {
                let range = (address.wrapping_add(self.done as u64), rest.min(len));
                self.done += range.1;
                return Some(range);
            }
            self.pieces = &self.pieces[1..];
            self.done = 0;
        }
        None
    }
}

impl Data for GuestData<'_> {
    fn remaining(&self) -> usize {
        let all: usize = self.pieces.iter().map(|(_, size)| size).sum();
        all.saturating_sub(self.done)
    }

    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some((address, len)) = self.next(bytes.len()) else { return };
            let (now, later) = bytes.split_at(len);
            self.failed |= self.map.write(address, now).is_err();
            bytes = later;
        }
    }

    fn take(&mut self, mut into: &mut [u8]) {
        while !into.is_empty() {
            let Some((address, len)) = self.next(into.len()) else {
                into.fill(0);
                return;
            };
            let (now, later) = into.split_at_mut(len);
            self.failed |= self.map.read(address, now).is_err();
            into = later;
        }
    }
}

/// Bytes: for controllers that hold the data themselves, and for tests.
pub struct ByteData<'a> {
    bytes: &'a mut [u8],
    done: usize,
}

impl<'a> ByteData<'a> {
    /// A buffer over `bytes`.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, done: 0 }
    }
}

impl Data for ByteData<'_> {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.done
    }

    fn put(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(self.remaining());
        self.bytes[self.done..self.done + len].copy_from_slice(&bytes[..len]);
        self.done += len;
    }

    fn take(&mut self, into: &mut [u8]) {
        let len = into.len().min(self.remaining());
        into[..len].copy_from_slice(&self.bytes[self.done..self.done + len]);
        into[len..].fill(0);
        self.done += len;
    }
}
