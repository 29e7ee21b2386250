//! Internal snapshots.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use block::Node;
use block::error::strerror;
use block::image::SnapshotInfo;
use qapi::Error;
use qapi::block::snapshots::BlockdevSnapshotInternal;

use super::{Prepared, Storage};
use crate::storage::snapshots::snapshot_image;

/// The longest name of a snapshot, bytes.
const MAX_NAME: usize = 255;

/// The snapshot is there.
struct Internal {
    image: Arc<Node>,
    id: String,
    name: String,
    device: String,
}

impl Prepared for Internal {
    fn commit(self: Box<Self>, _storage: &Storage) {}

    fn abort(self: Box<Self>, _storage: &Storage) {
        let Self { image, id, name, device } = *self;
        if let Err(error) = aio::block_on(image.driver().snapshot_delete(id.clone())) {
            eprintln!(
                "Failed to delete snapshot with id '{id}' and name '{name}' on device '{device}' in abort: {error}"
            );
        }
    }
}

/// The longest start of `name` that fits.
fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(MAX_NAME)]
}

/// `blockdev-snapshot-internal-sync`. `now` is the guest's time, nanoseconds.
pub fn prepare(storage: &Storage, wish: &BlockdevSnapshotInternal, now: u64) -> Result<Box<dyn Prepared>, Error> {
    let BlockdevSnapshotInternal { device, name } = wish;
    let root = storage.root_node(device)?;
    storage.check_no_backing(&root)?;
    storage.check_unblocked(&root)?;
    if root.is_read_only() {
        return Err(Error::generic(format!("Device '{device}' is read only")));
    }
    let image = snapshot_image(&root).filter(|image| !image.is_read_only()).ok_or_else(|| {
        let format = root.driver_type().name();
        Error::generic(format!("Block format '{format}' used by device '{device}' does not support internal snapshots"))
    })?;
    if name.is_empty() {
        return Err(Error::generic("Name is empty"));
    }
    let known = || image.driver().snapshots().map_err(crate::storage::client_error);
    if known()?.iter().any(|info| info.name == *name) {
        let text = format!("Snapshot with name '{name}' already exists on device '{device}'");
        return Err(Error::generic(text));
    }
    let date = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let info = SnapshotInfo {
        name: cut(name).to_owned(),
        date_sec: date.as_secs(),
        date_nsec: date.subsec_micros() * 1000,
        vm_clock_nsec: now,
        ..SnapshotInfo::default()
    };
    aio::block_on(image.driver().snapshot_create(info)).map_err(|error| {
        let why = strerror(error.errno());
        Error::generic(format!("Failed to create snapshot '{name}' on device '{device}': {why}"))
    })?;
    let id = known()?.pop().map(|info| info.id).unwrap_or_default();
    Ok(Box::new(Internal { image, id, name: name.clone(), device: device.clone() }))
}
