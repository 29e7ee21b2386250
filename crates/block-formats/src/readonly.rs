//! What the formats that are only read share.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use block::open::OpenRequest;
use block::{Child, Error, IoFuture, Result, Role};

use crate::bytes::n;

/// The file of an image that is only read; the driver has no options of its own. Opening it for writing is refused,
/// unless falling back to reading is fine.
pub(crate) async fn file(mut request: OpenRequest) -> Result<Arc<Child>> {
    if !request.config.read_only && !request.config.auto_read_only {
        return Err(Error::read_only("Image is read-only"));
    }
    let file = request.child("file", Role::Storage).await?;
    request.finish()?;
    Ok(file)
}

/// Refuses to make an open image writable.
pub(crate) fn reopen<'a>(read_only: bool) -> IoFuture<'a> {
    if read_only { block::done(()) } else { block::fail(Error::read_only("Image is read-only")) }
}

/// Unpacked chunks that were used last, oldest first.
pub(crate) struct Recent<const N: usize>(Mutex<Vec<(u64, Arc<Vec<u8>>)>>);

impl<const N: usize> Default for Recent<N> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<const N: usize> Recent<N> {
    pub(crate) fn get(&self, index: u64) -> Option<Arc<Vec<u8>>> {
        let mut chunks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = chunks.iter().position(|(known, _)| *known == index)?;
        let found = chunks.remove(at);
        let data = Arc::clone(&found.1);
        chunks.push(found);
        Some(data)
    }

    pub(crate) fn put(&self, index: u64, data: &Arc<Vec<u8>>) {
        let mut chunks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if chunks.len() >= N {
            chunks.remove(0);
        }
        chunks.push((index, Arc::clone(data)));
    }
}

/// Unpacks exactly `len` bytes.
pub(crate) fn unpack(mut from: impl Read, len: u64) -> Result<Vec<u8>> {
    let mut data = Vec::with_capacity(n(len));
    from.by_ref().take(len).read_to_end(&mut data).map_err(|_| Error::io("A compressed block is corrupt"))?;
    if data.len() != n(len) {
        return Err(Error::io("A compressed block is too short"));
    }
    Ok(data)
}
