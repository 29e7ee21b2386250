//! `drive-backup`, `blockdev-backup`, alone and as actions of a transaction.

use std::sync::Arc;

use block::{BitmapUse, Node, NodeConfig, OpenFlags, Options};
use block_jobs::backup::{self, BitmapMode, Sync};
use block_jobs::{Job, Transaction};
use block_tools::status;
use qapi::Error;
use qapi::block::block_job::{BitmapSyncMode, BlockdevBackup, DriveBackup, MirrorSyncMode};
use qapi::block::snapshots::NewImageMode;
use qapi::schema::Enumeration as _;

use super::mirror::NewImage;
use super::{common, on_error};
use crate::storage::{Storage, client_error};

/// A backup that is made and not started. Its moment is that when it was made.
pub struct PreparedBackup(Arc<Job>);

impl PreparedBackup {
    /// Starts it.
    pub fn start(self, storage: &Storage) {
        // It is started while the disk is held, so it pauses at first.
        self.0.pause();
        storage.start_job(&self.0);
        self.0.resume();
    }

    /// Gives it up.
    pub fn abandon(self, storage: &Storage) {
        aio::block_on(storage.jobs.abandon(&self.0));
    }
}

impl Storage {
    /// `blockdev-backup`.
    ///
    /// # Errors
    /// The nodes can't be used so.
    pub fn blockdev_backup(&self, command: &BlockdevBackup) -> Result<(), Error> {
        let _no_other_change = self.alone();
        self.prepare_backup(command, None)?.start(self);
        Ok(())
    }

    /// `drive-backup`.
    ///
    /// # Errors
    /// The file can't be made or opened, or the disk can't be used so.
    pub fn drive_backup(&self, command: &DriveBackup) -> Result<(), Error> {
        let _no_other_change = self.alone();
        self.prepare_drive_backup(command, None)?.start(self);
        Ok(())
    }

    /// Makes the backup of `blockdev-backup`, with the jobs of `transaction`.
    ///
    /// # Errors
    /// The nodes can't be used so.
    pub fn prepare_backup(
        &self,
        command: &BlockdevBackup,
        transaction: Option<&Transaction>,
    ) -> Result<PreparedBackup, Error> {
        let source = self.node_by(Some(&command.device), Some(&command.device))?;
        let target = self.node_by(Some(&command.target), Some(&command.target))?;
        self.backup(&source, &target, command, transaction)
    }

    /// Makes the backup of `drive-backup` and its file, with the jobs of `transaction`.
    ///
    /// # Errors
    /// The file can't be made or opened, or the disk can't be used so.
    pub fn prepare_drive_backup(
        &self,
        command: &DriveBackup,
        transaction: Option<&Transaction>,
    ) -> Result<PreparedBackup, Error> {
        let wish = &command.backup;
        let source = self.node_by(Some(&wish.device), Some(&wish.device))?;
        let is_new = command.mode != Some(NewImageMode::Existing);
        let format = command.format.as_deref().or(is_new.then(|| source.driver_type().name()));
        self.check_unblocked(&source)?;
        let backing = match wish.sync {
            MirrorSyncMode::Top => status::backing_of(&source),
            MirrorSyncMode::None => Some(Arc::clone(&source)),
            _ => None,
        };
        let sync = match (wish.sync, &backing) {
            (MirrorSyncMode::Top, None) => MirrorSyncMode::Full,
            (sync, _) => sync,
        };
        if let (true, Some(format)) = (is_new, format) {
            let size = source.len();
            self.create_copy(&NewImage { filename: &wish.target, format, size, backing: backing.as_ref() })?;
        }
        let mut more = Options::new().with("discard", "unmap").with("detect-zeroes", "unmap");
        let flags = OpenFlags::default();
        if is_new && let Some(backing) = &backing {
            // The very node: its file is in use.
            more.set("backing", backing.name());
        }
        let config = NodeConfig { cache: source.config().cache, ..NodeConfig::default() };
        let target = self.open_copy(&wish.target, format, &more, config, flags)?;
        let on_node = BlockdevBackup { sync, target: target.name().to_owned(), ..wish.clone() };
        let made = self.backup(&source, &target, &on_node, transaction);
        if made.is_err()
            && let Err(error) = aio::block_on(self.graph.close(&target))
        {
            tracing::warn!("closing '{}': {error}", wish.target);
        }
        made
    }

    fn backup(
        &self,
        source: &Arc<Node>,
        target: &Arc<Node>,
        wish: &BlockdevBackup,
        transaction: Option<&Transaction>,
    ) -> Result<PreparedBackup, Error> {
        let (sync, bitmap_mode) = bitmap_mode(wish.sync, wish.bitmap.as_deref(), wish.bitmap_mode, |name| {
            source.bitmaps().find(name).is_some()
        })?;
        let bitmap = match (&wish.bitmap, bitmap_mode) {
            (Some(name), Some(mode)) => {
                let not_found = || Error::generic(format!("Bitmap '{name}' could not be found"));
                let bitmap = source.bitmaps().find(name).ok_or_else(not_found)?;
                let used = if mode == BitmapMode::Never { BitmapUse::Read } else { BitmapUse::Change };
                bitmap.check(used).map_err(client_error)?;
                Some((bitmap, mode))
            }
            _ => None,
        };
        let perf = wish.x_perf.as_ref();
        if perf.and_then(|perf| perf.use_copy_range).unwrap_or(false) {
            return Err(Error::generic("x-perf.use-copy-range=on is not supported"));
        }
        let max_workers = perf.and_then(|perf| perf.max_workers).unwrap_or(64);
        let Some(max_workers) = usize::try_from(max_workers).ok().filter(|n| (1..=i32::MAX as usize).contains(n))
        else {
            return Err(Error::generic(format!("max-workers must be between 1 and {}", i32::MAX)));
        };
        let max_chunk = u64::try_from(perf.and_then(|perf| perf.max_chunk).unwrap_or(0))
            .map_err(|_| Error::generic("max-chunk must be zero (which means no limit) or positive"))?;
        let id = self.job_id(wish.job_id.as_deref(), source)?;
        self.check_unblocked(source)?;
        self.check_unblocked(target)?;
        let sync = match sync {
            MirrorSyncMode::Top => Sync::Top,
            MirrorSyncMode::Full => Sync::Full,
            MirrorSyncMode::None => Sync::None,
            MirrorSyncMode::Incremental | MirrorSyncMode::Bitmap => Sync::Bitmap,
        };
        let options = backup::Options {
            common: common(id, wish.speed, wish.auto_finalize, wish.auto_dismiss),
            source: Arc::clone(source),
            target: Arc::clone(target),
            sync,
            bitmap,
            compress: wish.compress.unwrap_or(false),
            on_source_error: on_error(wish.on_source_error),
            on_target_error: on_error(wish.on_target_error),
            filter_node_name: wish.filter_node_name.clone(),
            max_workers: max_workers.min(64),
            max_chunk,
            transaction: transaction.cloned(),
        };
        backup::create(&self.graph, &self.jobs, &options).map(PreparedBackup).map_err(client_error)
    }
}

/// Checks the arguments about bitmaps against each other; gives the mode of copying, and what becomes of the bitmap.
pub(super) fn bitmap_mode(
    mut sync: MirrorSyncMode,
    bitmap: Option<&str>,
    mut mode: Option<BitmapSyncMode>,
    is_there: impl Fn(&str) -> bool,
) -> Result<(MirrorSyncMode, Option<BitmapMode>), Error> {
    if matches!(sync, MirrorSyncMode::Bitmap | MirrorSyncMode::Incremental) && bitmap.is_none() {
        let text = format!("must provide a valid bitmap name for '{}' sync mode", sync.name());
        return Err(Error::generic(text));
    }
    if sync == MirrorSyncMode::Incremental {
        if mode.is_some_and(|mode| mode != BitmapSyncMode::OnSuccess) {
            let text = "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'";
            return Err(Error::generic(text));
        }
        mode = Some(BitmapSyncMode::OnSuccess);
        sync = MirrorSyncMode::Bitmap;
    }
    if let Some(name) = bitmap.filter(|name| !is_there(name)) {
        return Err(Error::generic(format!("Bitmap '{name}' could not be found")));
    }
    if bitmap.is_none() {
        if mode.is_some() {
            return Err(Error::generic("Cannot specify bitmap sync mode without a bitmap"));
        }
        return Ok((sync, None));
    }
    let Some(mode) = mode else {
        return Err(Error::generic("Bitmap sync mode must be given when providing a bitmap"));
    };
    if sync == MirrorSyncMode::None {
        let text = format!("sync mode '{}' does not produce meaningful bitmap outputs", sync.name());
        return Err(Error::generic(text));
    }
    if mode == BitmapSyncMode::Never && sync != MirrorSyncMode::Bitmap {
        let text = format!(
            "Bitmap sync mode '{}' has no meaningful effect when combined with sync mode '{}'",
            mode.name(),
            sync.name()
        );
        return Err(Error::generic(text));
    }
    let mode = match mode {
        BitmapSyncMode::OnSuccess => BitmapMode::OnSuccess,
        BitmapSyncMode::Never => BitmapMode::Never,
        BitmapSyncMode::Always => BitmapMode::Always,
    };
    Ok((sync, Some(mode)))
}
