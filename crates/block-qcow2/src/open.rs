//! Opening an image.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use block::image::{CorruptionEvents, FixMode};
use block::{Child, Error, OpenRequest, Result, Role};

use crate::bitmap;
use crate::crypt::Encryption;
use crate::driver::Qcow2;
use crate::header::{Header, autoclear, incompatible, peek_cluster_bits};
use crate::image::{Image, Parts, read};
use crate::map::decode;
use crate::runtime::RunOptions;
use crate::snapshot::{Damage, read_table};

/// Reads the header.
pub async fn read_header(file: &Child) -> Result<Header> {
    let could_not = |error: Error| error.context("Could not read qcow2 header");
    let head = file.read_vec(0, 512).await.map_err(could_not)?;
    let cluster = 1usize << peek_cluster_bits(&head)?;
    Header::parse(&file.read_vec(0, cluster).await.map_err(could_not)?)
}

/// Reads the tables that an image needs in memory.
pub async fn read_tables(file: &Child, header: &Header) -> Result<(Vec<u64>, Vec<u64>)> {
    let l1 = file.read_vec(header.l1_offset, header.l1_size as usize * 8).await;
    let l1 = decode(&l1.map_err(|e| e.context("Could not read L1 table"))?);
    let len = usize::try_from(u64::from(header.reftable_clusters) << header.cluster_bits).unwrap_or(0);
    // A table that is mostly behind the end of the file is not worth its memory.
    let stored = usize::try_from(file.len().saturating_sub(header.reftable_offset)).unwrap_or(usize::MAX);
    file.event("reftable_load").await;
    let bytes = file.read_vec(header.reftable_offset, len.min(stored.next_multiple_of(8))).await;
    let mut reftable = decode(&bytes.map_err(|e| e.context("Could not initialize refcount handling"))?);
    reftable.resize(len / 8, 0);
    Ok((l1, reftable))
}

/// Opens a node's driver.
pub async fn open(mut request: OpenRequest) -> Result<Qcow2> {
    let file = request.child("file", Role::Storage).await?;
    let header = read_header(&file).await?;
    let flags = request.flags;
    let read_only = request.config.read_only;
    let (has_corrupt, has_data_file) =
        (header.incompatible & incompatible::CORRUPT != 0, header.incompatible & incompatible::DATA_FILE != 0);
    if has_corrupt && !read_only && !flags.check {
        return Err(Error::permission("qcow2: Image is corrupt; cannot be opened read/write"));
    }
    let run = RunOptions::take(&mut request.options, &header, request.config.discard)?;
    let data_file = if has_data_file { open_data_file(&mut request, &header).await? } else { None };
    if !has_data_file && request.optional_child("data-file", Role::Data).await?.is_some() {
        return Err(Error::invalid("'data-file' can only be set for images with an external data file"));
    }
    let encrypt = request.options.take_below("encrypt");
    request.finish()?;
    let encryption = Encryption::open(&request.graph, &file, &header, encrypt, flags).await?;
    let (l1, reftable) = read_tables(&file, &header).await?;
    // A check reads them itself, and tells what is wrong with them.
    let mut snapshots = Vec::new();
    if !flags.check {
        header.check_snapshot_table(header.nb_snapshots, "Snapshot table")?;
        snapshots = read_table(&file, &header, header.nb_snapshots, Damage::Refused).await?.snapshots;
    }
    let bitmaps = match bitmap::read_directory(&file, &header).await {
        Ok(bitmaps) => bitmaps,
        Err(error) if flags.check || flags.no_io => {
            tracing::error!("qcow2: {error}");
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    let events = request.graph.object(CorruptionEvents::OBJECT);
    let node_name = request.node_name.clone();
    let node_bitmaps = Arc::clone(&request.bitmaps);
    let parts = Parts {
        file,
        data_file,
        header,
        l1,
        reftable,
        snapshots,
        snapshots_read: !flags.check,
        bitmaps,
        run,
        read_only,
        encryption,
        node_bitmaps,
        events,
        node_name,
    };
    let image = Image::new(parts);
    image.add_inactive_l2().await?;
    // Whoever only looks at an image, or repairs it, leaves the bitmaps where they are.
    let untouched = flags.check || (flags.no_io && read_only);
    if !untouched {
        image.load_bitmaps().await?;
    }
    if !read_only && !flags.check {
        image.prepare_for_writing().await?;
    } else if !read_only && !has_corrupt {
        image.clear_unknown_flags().await?;
    }
    Ok(Qcow2 { image })
}

async fn open_data_file(request: &mut OpenRequest, header: &Header) -> Result<Option<Arc<Child>>> {
    if let Some(child) = request.optional_child("data-file", Role::Data).await? {
        return Ok(Some(child));
    }
    if request.flags.no_io {
        // Whoever wrote the image chose the name: it is not opened just to look at the image.
        return Ok(None);
    }
    let Some(name) = &header.data_file else {
        return Err(Error::invalid("'data-file' is required for this image"));
    };
    // As QEMU has it: relative to the working directory, unlike a backing.
    Ok(Some(request.child_by_path("data-file", "", name, Role::Data).await?))
}

impl Image {
    /// Clears the auto-clear bits of features that are not known.
    async fn clear_unknown_flags(&self) -> Result<()> {
        if read(&self.header, |h| h.autoclear & !autoclear::KNOWN != 0) {
            self.update_header(|h| h.autoclear &= autoclear::KNOWN).await?;
        }
        Ok(())
    }

    /// What has to be done before the first write: unknown auto-clear bits are cleared, a dirty image is repaired.
    pub(crate) async fn prepare_for_writing(&self) -> Result<()> {
        if read(&self.header, |h| h.incompatible & incompatible::CORRUPT != 0) {
            return Err(Error::permission("qcow2: Image is corrupt; cannot be opened read/write"));
        }
        self.clear_unknown_flags().await?;
        if read(&self.header, |h| h.incompatible & incompatible::DIRTY != 0) {
            let result = self.check(FixMode { leaks: true, errors: true }).await?;
            if result.check_errors > 0 || result.corruptions > 0 {
                self.broken.store(true, Ordering::Release);
                return Err(Error::io("Could not repair dirty image"));
            }
            for message in result.messages {
                eprintln!("{message}");
            }
        }
        self.use_bitmaps().await
    }
}
