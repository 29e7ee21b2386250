//! `drive-mirror`, `blockdev-mirror`.

use std::sync::Arc;

use block::{BitmapUse, Defaults, DirtyBitmap, Node, NodeConfig, OpenFlags, Options};
use block_jobs::Kind;
use block_jobs::backup::BitmapMode;
use block_jobs::mirror::{self, Backing, Sync};
use block_tools::create::Creation;
use block_tools::status;
use qapi::Error;
use qapi::block::block_job::{BlockdevMirror, DriveMirror, MirrorCopyMode, MirrorSyncMode};
use qapi::block::common::BlockdevOnError;
use qapi::block::snapshots::NewImageMode;
use qapi::schema::Enumeration as _;

use super::backup::bitmap_mode;
use super::{common, on_error};
use crate::storage::{Storage, client_error};

/// What both commands have in common.
struct Wish<'a> {
    job_id: Option<&'a str>,
    replaces: Option<&'a str>,
    sync: MirrorSyncMode,
    bitmap: Option<(Arc<DirtyBitmap>, BitmapMode)>,
    speed: Option<i64>,
    granularity: Option<u32>,
    buf_size: Option<i64>,
    on_source_error: Option<BlockdevOnError>,
    on_target_error: Option<BlockdevOnError>,
    unmap: bool,
    filter_node_name: Option<&'a str>,
    copy_mode: Option<MirrorCopyMode>,
    auto_finalize: Option<bool>,
    auto_dismiss: Option<bool>,
}

/// A new image: where, in which format, how large, over what.
pub(super) struct NewImage<'a> {
    pub(super) filename: &'a str,
    pub(super) format: &'a str,
    pub(super) size: u64,
    pub(super) backing: Option<&'a Arc<Node>>,
}

impl Storage {
    /// Makes the file of a copy.
    ///
    /// # Errors
    /// What making it gives.
    pub(super) fn create_copy(&self, image: &NewImage<'_>) -> Result<(), Error> {
        let created = (|| {
            let mut creation = Creation::new(&self.graph, image.format, image.filename)?;
            if let Some(backing) = image.backing {
                let name = block::filename::of(backing);
                creation.set_backing(Some(&name), Some(backing.driver_type().name()))?;
            }
            creation.values.set("size", &image.size.to_string())?;
            aio::block_on(creation.run(&self.graph))
        })();
        created.map_err(client_error)
    }

    /// Opens the file of a copy for writing.
    ///
    /// # Errors
    /// What opening it gives.
    pub(super) fn open_copy(
        &self,
        filename: &str,
        format: Option<&str>,
        more: &Options,
        config: NodeConfig,
        flags: OpenFlags,
    ) -> Result<Arc<Node>, Error> {
        let mut options = Options::new().with("filename", filename);
        if let Some(format) = format {
            options.set("driver", format);
        }
        more.iter().for_each(|(name, value)| options.set(name, value.clone()));
        let config = NodeConfig { read_only: false, auto_read_only: false, ..config };
        aio::block_on(self.graph.open(options, Defaults::new(config, flags))).map_err(client_error)
    }

    /// `blockdev-mirror`.
    ///
    /// # Errors
    /// The nodes can't be used so.
    pub fn blockdev_mirror(&self, command: &BlockdevMirror) -> Result<(), Error> {
        let _no_other_change = self.alone();
        let source = self.root_node(&command.device)?;
        let target = self.node_by(Some(&command.target), Some(&command.target))?;
        let bitmap = wished_bitmap(&source, command)?;
        let wish = Wish {
            job_id: command.job_id.as_deref(),
            replaces: command.replaces.as_deref(),
            sync: command.sync,
            bitmap,
            speed: command.speed,
            granularity: command.granularity,
            buf_size: command.buf_size,
            on_source_error: command.on_source_error,
            on_target_error: command.on_target_error,
            unmap: true,
            filter_node_name: command.filter_node_name.as_deref(),
            copy_mode: command.copy_mode,
            auto_finalize: command.auto_finalize,
            auto_dismiss: command.auto_dismiss,
        };
        self.mirror(&source, &target, Backing::Leave, false, &wish)
    }

    /// `drive-mirror`.
    ///
    /// # Errors
    /// The file can't be made or opened, or the disk can't be used so.
    pub fn drive_mirror(&self, command: &DriveMirror) -> Result<(), Error> {
        let _no_other_change = self.alone();
        let source = self.root_node(&command.device)?;
        self.check_unblocked(&source)?;
        let is_new = command.mode != Some(NewImageMode::Existing);
        let format = command.format.as_deref().or(is_new.then(|| source.driver_type().name()));
        let backing = status::backing_of(&source);
        let sync = match (command.sync, &backing) {
            (MirrorSyncMode::Top, None) => MirrorSyncMode::Full,
            (sync, _) => sync,
        };
        if command.replaces.is_some() && command.node_name.is_none() {
            return Err(Error::generic("a node-name must be provided when replacing a named node of the graph"));
        }
        if let (true, Some(format)) = (is_new, format) {
            let over = match sync {
                MirrorSyncMode::None => Some(&source),
                MirrorSyncMode::Full => None,
                _ => backing.as_ref(),
            };
            self.create_copy(&NewImage { filename: &command.target, format, size: source.len(), backing: over })?;
        }
        let mut more = Options::new();
        if let Some(name) = &command.node_name {
            more.set("node-name", name.as_str());
        }
        let flags = OpenFlags { no_backing: true, ..OpenFlags::default() };
        let target = self.open_copy(&command.target, format, &more, source.config(), flags)?;
        let is_zero = is_new && aio::block_on(status::zero_initialised(&target)).unwrap_or(false);
        let wish = Wish {
            job_id: command.job_id.as_deref(),
            replaces: command.replaces.as_deref(),
            sync,
            bitmap: None,
            speed: command.speed,
            granularity: command.granularity,
            buf_size: command.buf_size,
            on_source_error: command.on_source_error,
            on_target_error: command.on_target_error,
            unmap: command.unmap.unwrap_or(true),
            filter_node_name: None,
            copy_mode: command.copy_mode,
            auto_finalize: command.auto_finalize,
            auto_dismiss: command.auto_dismiss,
        };
        let backing = if is_new { Backing::Source } else { Backing::Image };
        let made = self.mirror(&source, &target, backing, is_zero, &wish);
        if made.is_err()
            && let Err(error) = aio::block_on(self.graph.close(&target))
        {
            tracing::warn!("closing '{}': {error}", command.target);
        }
        made
    }

    fn mirror(
        &self,
        source: &Arc<Node>,
        target: &Arc<Node>,
        backing: Backing,
        target_is_zero: bool,
        wish: &Wish<'_>,
    ) -> Result<(), Error> {
        let granularity = u64::from(wish.granularity.unwrap_or(0));
        if granularity != 0 && !(512..=64 << 20).contains(&granularity) {
            return Err(Error::expects("granularity", "a value in range [512B, 64MB]"));
        }
        if granularity != 0 && !granularity.is_power_of_two() {
            return Err(Error::expects("granularity", "a power of 2"));
        }
        self.check_unblocked(source)?;
        self.check_unblocked(target)?;
        let sync = match wish.sync {
            MirrorSyncMode::Top if status::backing_of(source).is_none() => Sync::Full,
            MirrorSyncMode::Top => Sync::Top,
            MirrorSyncMode::Full => Sync::Full,
            MirrorSyncMode::None => Sync::None,
            MirrorSyncMode::Incremental | MirrorSyncMode::Bitmap if wish.bitmap.is_some() => Sync::Bitmap,
            mode @ (MirrorSyncMode::Incremental | MirrorSyncMode::Bitmap) => {
                return Err(Error::generic(format!("Sync mode '{}' not supported", mode.name())));
            }
        };
        if let Some(name) = wish.replaces {
            let replaced = self.node_by(None, Some(name))?;
            self.check_unblocked(&replaced)?;
            if !mirror::can_replace(source, &replaced) {
                return Err(Error::generic(format!(
                    "Cannot replace '{name}' by a node mirrored from '{}', because it cannot be guaranteed that doing so \
                     would not lead to an abrupt change of visible data",
                    source.name()
                )));
            }
            if replaced.len() != source.len() {
                return Err(Error::generic("cannot replace image with a mirror image of different size"));
            }
        }
        let buf_size =
            u64::try_from(wish.buf_size.unwrap_or(0)).map_err(|_| Error::generic("Invalid parameter 'buf-size'"))?;
        let options = mirror::Options {
            common: common(self.job_id(wish.job_id, source)?, wish.speed, wish.auto_finalize, wish.auto_dismiss),
            kind: Kind::Mirror,
            source: Arc::clone(source),
            target: Arc::clone(target),
            replaces: wish.replaces.map(str::to_owned),
            sync,
            bitmap: wish.bitmap.clone(),
            backing,
            target_is_zero,
            write_blocking: wish.copy_mode == Some(MirrorCopyMode::WriteBlocking),
            unmap: wish.unmap,
            granularity,
            buf_size,
            on_source_error: on_error(wish.on_source_error),
            on_target_error: on_error(wish.on_target_error),
            filter_node_name: wish.filter_node_name.map(str::to_owned),
        };
        let job = mirror::create(&self.graph, &self.jobs, &options).map_err(client_error)?;
        self.start_job(&job);
        Ok(())
    }
}

/// The bitmap that says what a mirror copies at first, and what becomes of it.
fn wished_bitmap(source: &Node, command: &BlockdevMirror) -> Result<Option<(Arc<DirtyBitmap>, BitmapMode)>, Error> {
    let Some(name) = &command.bitmap else {
        if command.bitmap_mode.is_some() {
            return Err(Error::generic("Cannot specify bitmap sync mode without a bitmap"));
        }
        return Ok(None);
    };
    if !matches!(command.sync, MirrorSyncMode::Incremental | MirrorSyncMode::Bitmap) {
        let text = format!("sync mode '{}' is not compatible with bitmaps", command.sync.name());
        return Err(Error::generic(text));
    }
    if command.granularity.is_some_and(|granularity| granularity != 0) {
        return Err(Error::generic("granularity cannot be specified when a bitmap is provided"));
    }
    let given = source.bitmaps().find(name);
    let (_, mode) = bitmap_mode(command.sync, Some(name), command.bitmap_mode, |_| given.is_some())?;
    let (Some(bitmap), Some(mode)) = (given, mode) else { return Ok(None) };
    bitmap.check(if mode == BitmapMode::Never { BitmapUse::Read } else { BitmapUse::Change }).map_err(client_error)?;
    Ok(Some((bitmap, mode)))
}
