//! Output that waits until the other side takes it.

use crate::Chardev;
use std::collections::VecDeque;

/// What a front end has to say, in order, however little of it the other side takes at a time. To be sent when there is
/// something new, and when the device says that there is room.
#[derive(Debug, Default)]
pub struct Outbox(VecDeque<u8>);

impl Outbox {
    /// Adds bytes behind what waits.
    pub fn put(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    /// How many bytes wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sends what the other side takes.
    pub fn send(&mut self, chardev: &Chardev) {
        while !self.0.is_empty() {
            let (first, _) = self.0.as_slices();
            let taken = chardev.write(first);
            if taken == 0 {
                return;
            }
            self.0.drain(..taken);
        }
    }
}
