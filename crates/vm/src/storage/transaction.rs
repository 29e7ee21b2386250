//! `transaction`: several changes at one point in time, all of them or none.
//!
//! Nothing is in flight while it runs: all users of its nodes are held. The actions are prepared in their order; what is
//! prepared is done so far that it can be taken back, and that nothing can fail any more. Then all are committed; or, if
//! one can't be prepared, those before it are aborted, the last one first. An action that fails leaves nothing of its own
//! behind, but for the file of an image that it has made, as with QEMU. Backups are made with their moment and started
//! when all is final; with the completion mode `grouped` they end together.

mod backup;
mod bitmaps;
mod external;
mod internal;

use std::sync::{Arc, PoisonError};

use block::Node;
use qapi::Error;
use qapi::block::bitmaps::BlockDirtyBitmapOrStr;
use qapi::block::transaction::{ActionCompletionMode, TransactionAction, TransactionProperties};
use qapi::schema::Enumeration as _;

use super::Storage;

/// An action that is prepared.
trait Prepared {
    /// Makes it final.
    fn commit(self: Box<Self>, storage: &Storage);

    /// Takes it back.
    fn abort(self: Box<Self>, storage: &Storage);
}

/// What the actions of a transaction have in common.
struct Context<'a> {
    storage: &'a Storage,
    mode: ActionCompletionMode,
    /// The jobs that end together, if they shall.
    jobs: Option<block_jobs::Transaction>,
    /// The guest's time, nanoseconds.
    now: u64,
}

fn name(action: &TransactionAction) -> &'static str {
    match action {
        TransactionAction::Abort(_) => "abort",
        TransactionAction::BlockDirtyBitmapAdd(_) => "block-dirty-bitmap-add",
        TransactionAction::BlockDirtyBitmapRemove(_) => "block-dirty-bitmap-remove",
        TransactionAction::BlockDirtyBitmapClear(_) => "block-dirty-bitmap-clear",
        TransactionAction::BlockDirtyBitmapEnable(_) => "block-dirty-bitmap-enable",
        TransactionAction::BlockDirtyBitmapDisable(_) => "block-dirty-bitmap-disable",
        TransactionAction::BlockDirtyBitmapMerge(_) => "block-dirty-bitmap-merge",
        TransactionAction::XBlockDirtyBitmapEnable(_) => "x-block-dirty-bitmap-enable",
        TransactionAction::XBlockDirtyBitmapDisable(_) => "x-block-dirty-bitmap-disable",
        TransactionAction::XBlockDirtyBitmapMerge(_) => "x-block-dirty-bitmap-merge",
        TransactionAction::BlockdevBackup(_) => "blockdev-backup",
        TransactionAction::BlockdevSnapshot(_) => "blockdev-snapshot",
        TransactionAction::BlockdevSnapshotInternalSync(_) => "blockdev-snapshot-internal-sync",
        TransactionAction::BlockdevSnapshotSync(_) => "blockdev-snapshot-sync",
        TransactionAction::DriveBackup(_) => "drive-backup",
    }
}

impl Context<'_> {
    /// Only jobs complete together.
    fn check_mode(&self, action: &TransactionAction) -> Result<(), Error> {
        if self.mode == ActionCompletionMode::Individual {
            return Ok(());
        }
        Err(Error::generic(format!(
            "Action '{}' does not support Transaction property completion-mode = {}",
            name(action),
            self.mode.name()
        )))
    }

    fn prepare(&self, action: &TransactionAction) -> Result<Box<dyn Prepared>, Error> {
        let (storage, jobs) = (self.storage, self.jobs.as_ref());
        match action {
            TransactionAction::Abort(_) => return Err(Error::generic("Transaction aborted using Abort action")),
            TransactionAction::BlockdevBackup(wish) => return backup::node(storage, wish, jobs),
            TransactionAction::DriveBackup(wish) => return backup::file(storage, wish, jobs),
            _ => self.check_mode(action)?,
        }
        self.prepare_at_once(action)
    }

    /// The actions that are done with the reply.
    fn prepare_at_once(&self, action: &TransactionAction) -> Result<Box<dyn Prepared>, Error> {
        use TransactionAction as A;
        let storage = self.storage;
        match action {
            A::Abort(_) | A::BlockdevBackup(_) | A::DriveBackup(_) => self.prepare(action),
            A::BlockDirtyBitmapAdd(wish) => bitmaps::add(storage, wish),
            A::BlockDirtyBitmapRemove(which) => bitmaps::remove(storage, which),
            A::BlockDirtyBitmapClear(which) => bitmaps::clear(storage, which),
            A::BlockDirtyBitmapEnable(which) | A::XBlockDirtyBitmapEnable(which) => bitmaps::enable(storage, which),
            A::BlockDirtyBitmapDisable(which) | A::XBlockDirtyBitmapDisable(which) => bitmaps::disable(storage, which),
            A::BlockDirtyBitmapMerge(merge) => bitmaps::merge(storage, merge),
            A::XBlockDirtyBitmapMerge(merge) => bitmaps::merge(storage, &merge.clone().into()),
            A::BlockdevSnapshot(snapshot) => external::node(storage, snapshot),
            A::BlockdevSnapshotSync(snapshot) => external::file(storage, snapshot),
            A::BlockdevSnapshotInternalSync(snapshot) => internal::prepare(storage, snapshot, self.now),
        }
    }
}

impl Storage {
    /// `transaction`. `now` is the guest's time, nanoseconds. `done` is told on the control thread: the first action that
    /// is impossible, if there is one; then nothing has changed. What is in flight at the disks is waited for elsewhere.
    pub fn transact(
        &mut self,
        actions: Vec<TransactionAction>,
        properties: Option<TransactionProperties>,
        now: u64,
        done: impl FnOnce(&mut Storage, Result<(), Error>) + Send + 'static,
    ) {
        let (mut nodes, mut flushed) = (Vec::new(), Vec::new());
        for action in &actions {
            self.involved(action, &mut nodes, &mut flushed);
        }
        if nodes.is_empty() {
            let result = self.transact_held(&actions, properties.as_ref(), now);
            return done(self, result);
        }
        let (graph, holds) = (Arc::clone(&self.graph), self.holds.clone());
        let work = move || {
            let held = aio::block_on(holds.hold(&graph, &nodes, &flushed));
            held.map_err(|_| Error::generic("An IO error has occurred"))
        };
        self.aside.run(work, move |storage, held| {
            let result = held.and_then(|held| {
                let result = storage.transact_held(&actions, properties.as_ref(), now);
                drop(held);
                result
            });
            done(storage, result);
        });
    }

    /// The nodes that an action is about, and those that are flushed for it. What can't be found is an error later.
    fn involved(&self, action: &TransactionAction, nodes: &mut Vec<Arc<Node>>, flushed: &mut Vec<Arc<Node>>) {
        use TransactionAction as A;
        let find = |name: &str| self.node_by(Some(name), Some(name)).ok();
        let from = nodes.len();
        let mut is_flushed = false;
        match action {
            A::Abort(_) => {}
            A::BlockDirtyBitmapAdd(wish) => nodes.extend(find(&wish.node)),
            A::BlockDirtyBitmapRemove(which)
            | A::BlockDirtyBitmapClear(which)
            | A::BlockDirtyBitmapEnable(which)
            | A::XBlockDirtyBitmapEnable(which)
            | A::BlockDirtyBitmapDisable(which)
            | A::XBlockDirtyBitmapDisable(which) => nodes.extend(find(&which.node)),
            A::BlockDirtyBitmapMerge(merge) => {
                nodes.extend(find(&merge.node));
                nodes.extend(merge.bitmaps.iter().filter_map(|source| match source {
                    BlockDirtyBitmapOrStr::External(which) => find(&which.node),
                    BlockDirtyBitmapOrStr::Local(_) => None,
                }));
            }
            A::XBlockDirtyBitmapMerge(merge) => nodes.extend(find(&merge.node)),
            A::BlockdevBackup(wish) => nodes.extend(find(&wish.device)),
            A::DriveBackup(wish) => nodes.extend(find(&wish.backup.device)),
            A::BlockdevSnapshot(snapshot) => {
                is_flushed = true;
                nodes.extend(find(&snapshot.node));
                nodes.extend(find(&snapshot.overlay));
            }
            A::BlockdevSnapshotInternalSync(snapshot) => {
                is_flushed = true;
                nodes.extend(find(&snapshot.device));
            }
            A::BlockdevSnapshotSync(snapshot) => {
                is_flushed = true;
                nodes.extend(self.node_by(snapshot.device.as_deref(), snapshot.node_name.as_deref()).ok());
            }
        }
        if is_flushed {
            flushed.extend(nodes.get(from).cloned());
        }
    }

    /// The transaction itself. The disks are held.
    fn transact_held(
        &mut self,
        actions: &[TransactionAction],
        properties: Option<&TransactionProperties>,
        now: u64,
    ) -> Result<(), Error> {
        let storage = &*self;
        let mode = properties.and_then(|properties| properties.completion_mode);
        let mode = mode.unwrap_or(ActionCompletionMode::Individual);
        let jobs = (mode == ActionCompletionMode::Grouped).then(block_jobs::Transaction::new);
        let context = Context { storage, mode, jobs, now };
        let _no_other_change = storage.reopening.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut nodes, mut flushed) = (Vec::new(), Vec::new());
        for action in actions {
            storage.involved(action, &mut nodes, &mut flushed);
        }
        // Nothing is in flight there, but at what has come since.
        let drained = aio::block_on(storage.graph.drain_nodes(&nodes));
        let mut prepared = Vec::with_capacity(actions.len());
        let mut result = Ok(());
        for action in actions {
            match context.prepare(action) {
                Ok(one) => prepared.push(one),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if result.is_ok() {
            prepared.into_iter().for_each(|one| one.commit(storage));
        } else {
            prepared.into_iter().rev().for_each(|one| one.abort(storage));
        }
        drop(drained);
        result
    }
}
