//! Backups: the moment of the copy is that of the transaction.

use block_jobs::Transaction;
use qapi::Error;
use qapi::block::block_job::{BlockdevBackup, DriveBackup};

use super::{Prepared, Storage};
use crate::storage::jobs::backup::PreparedBackup;

impl Prepared for PreparedBackup {
    fn commit(self: Box<Self>, storage: &Storage) {
        self.start(storage);
    }

    fn abort(self: Box<Self>, storage: &Storage) {
        self.abandon(storage);
    }
}

/// `blockdev-backup`.
pub fn node(storage: &Storage, wish: &BlockdevBackup, jobs: Option<&Transaction>) -> Result<Box<dyn Prepared>, Error> {
    Ok(Box::new(storage.prepare_backup(wish, jobs)?))
}

/// `drive-backup`.
pub fn file(storage: &Storage, wish: &DriveBackup, jobs: Option<&Transaction>) -> Result<Box<dyn Prepared>, Error> {
    Ok(Box::new(storage.prepare_drive_backup(wish, jobs)?))
}
