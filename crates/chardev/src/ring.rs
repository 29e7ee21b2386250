//! The memory behind a `ringbuf`: the latest bytes written, read once.

use std::collections::VecDeque;

/// A ring of bytes: writing to a full one drops the oldest.
#[derive(Debug)]
pub(crate) struct Ring {
    bytes: VecDeque<u8>,
    size: usize,
}

impl Ring {
    pub(crate) fn new(size: usize) -> Self {
        Self { bytes: VecDeque::new(), size }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let kept = bytes.get(bytes.len().saturating_sub(self.size)..).unwrap_or_default();
        let surplus = (self.bytes.len() + kept.len()).saturating_sub(self.size);
        self.bytes.drain(..surplus);
        self.bytes.extend(kept);
    }

    /// What is in it, which stays there.
    pub(crate) fn contents(&self) -> Vec<u8> {
        self.bytes.iter().copied().collect()
    }

    pub(crate) fn read(&mut self, size: usize) -> Vec<u8> {
        self.bytes.drain(..size.min(self.bytes.len())).collect()
    }
}
