//! Buffers of one client's requests, used again: fresh memory costs more than the bytes that go through it.

use std::sync::{Arc, Mutex, PoisonError};

use iobuf::IoBuf;

/// Bytes that are kept for later.
const KEPT: usize = 8 << 20;
/// The smallest buffer, bytes.
const SMALLEST: usize = 4096;

#[derive(Default)]
struct Shelf {
    free: Vec<IoBuf>,
    bytes: usize,
}

/// The buffers that nobody uses.
#[derive(Clone, Default)]
pub(crate) struct Buffers(Arc<Mutex<Shelf>>);

/// A buffer that goes back when it is dropped, unless somebody else holds it, too.
pub(crate) struct Buffer {
    whole: IoBuf,
    buffers: Buffers,
}

impl Buffers {
    /// A buffer of at least `len` bytes. It may hold what an earlier request of the same connection has left.
    pub fn take(&self, len: usize) -> Buffer {
        let size = len.next_power_of_two().max(SMALLEST);
        let found = {
            let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let at = shelf.free.iter().rposition(|buf| buf.len() == size);
            let found = at.map(|at| shelf.free.swap_remove(at));
            shelf.bytes -= found.as_ref().map_or(0, IoBuf::len);
            found
        };
        Buffer { whole: found.unwrap_or_else(|| IoBuf::zeroed(size)), buffers: self.clone() }
    }
}

impl Buffer {
    /// The first `len` bytes.
    pub fn bytes(&self, len: usize) -> IoBuf {
        self.whole.slice(0, len)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let whole = std::mem::replace(&mut self.whole, IoBuf::empty());
        if !whole.is_unshared() {
            return;
        }
        let mut shelf = self.buffers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shelf.bytes + whole.len() <= KEPT {
            shelf.bytes += whole.len();
            shelf.free.push(whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_once_nobody_holds_it() {
        let buffers = Buffers::default();
        let first = buffers.take(5000);
        let held = first.bytes(5000);
        held.fill(0, 5000, 7);
        drop(first);
        assert!(buffers.take(5000).bytes(5000).is_zero(0, 5000), "somebody holds the first");
        let again = buffers.take(8192);
        again.bytes(1).fill(0, 1, 1);
        drop(again);
        assert!(!buffers.take(4097).bytes(1).is_zero(0, 1), "the same memory");
        let large = buffers.take(2 * KEPT);
        drop(large);
        assert!(buffers.0.lock().expect("unlocked").bytes <= KEPT);
    }
}
