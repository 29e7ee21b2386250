//! Answers that come later.

use qapi::json::Value;
use qapi::{Error, QapiType};
use std::marker::PhantomData;
use std::sync::Arc;

/// Who waits for an answer.
pub(crate) trait ReplyTarget: Send + Sync {
    /// Answers the running command of connection `connection`, if that still stands.
    fn finish(self: Arc<Self>, connection: u64, id: Option<Value>, result: Result<Value, Error>);
}

/// The slot for the answer to one command, without its type.
pub(crate) struct RawReply {
    pub(crate) target: Option<Arc<dyn ReplyTarget>>,
    pub(crate) connection: u64,
    pub(crate) id: Option<Value>,
}

impl RawReply {
    pub(crate) fn send(mut self, result: Result<Value, Error>) {
        if let Some(target) = self.target.take() {
            target.finish(self.connection, self.id.take(), result);
        }
    }
}

impl Drop for RawReply {
    fn drop(&mut self) {
        if let Some(target) = self.target.take() {
            let given_up = Error::generic("The command was given up without a result");
            target.finish(self.connection, self.id.take(), Err(given_up));
        }
    }
}

/// The slot for the answer to a command whose handler has returned already. It may be sent from any
/// thread. Dropping it answers with an error. If the client is gone, the answer is dropped.
#[must_use = "the client waits for an answer"]
pub struct Reply<R> {
    raw: RawReply,
    result: PhantomData<fn(R)>,
}

impl<R: QapiType> Reply<R> {
    pub(crate) fn new(raw: RawReply) -> Self {
        Self { raw, result: PhantomData }
    }

    /// Answers.
    pub fn send(self, result: Result<R, Error>) {
        self.raw.send(result.map(|value| value.to_value()));
    }
}

impl<R> std::fmt::Debug for Reply<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").field("id", &self.raw.id).finish_non_exhaustive()
    }
}
