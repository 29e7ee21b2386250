//! Reads through many images that each hold a part of what is read.
//!
//! Such a read is a future in a future for each image, and polling it takes stack for each of them. So from some depth on
//! the rest is a task of its own: the stack that a read takes does not grow with the length of the chain.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use iobuf::IoBuf;

use crate::child::Child;
use crate::error::Result;

/// So many images are read within one another.
const MAX_NESTED: u32 = 16;

thread_local! {
    static NESTED: Cell<u32> = const { Cell::new(0) };
}

/// Reads the backing of an image that is being read.
pub async fn read(backing: Arc<Child>, offset: u64, buf: IoBuf) -> Result<()> {
    if NESTED.get() < MAX_NESTED {
        return Nested(Box::pin(async move { backing.read(offset, buf).await })).await;
    }
    aio::not_in_an_attempt().await;
    aio::spawn(async move { backing.read(offset, buf).await }).await
}

/// Counts while it is polled.
struct Nested(Pin<Box<dyn Future<Output = Result<()>> + Send>>);

impl Future for Nested {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        /// Ends the counting, also by a panic.
        struct Counted;
        impl Drop for Counted {
            fn drop(&mut self) {
                NESTED.set(NESTED.get().wrapping_sub(1));
            }
        }
        NESTED.set(NESTED.get().wrapping_add(1));
        let _counted = Counted;
        self.0.as_mut().poll(context)
    }
}
