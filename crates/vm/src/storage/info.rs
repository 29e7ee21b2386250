//! What monitors are told of back ends, nodes and images.

use std::collections::HashMap;
use std::sync::Arc;

use block::backend::{ErrorPolicy, IoStatus};
use block::throttle::Bucket;
use block::{Backend, DetectZeroes, DriverKind, Node, filename};
use block_jobs::chain::below;
use qapi::block::common::BlockdevDetectZeroesOptions;
use qapi::block::image::{ImageInfo, ImageInfoSpecific, SnapshotInfo};
use qapi::block::info::{BlockDeviceInfo, BlockDeviceIoStatus, BlockInfo, BlockdevCacheInfo};
use qapi::json;
use qapi::{Error, Path, QapiType};

use super::{Storage, bitmaps, options};

impl Storage {
    /// `query-block`.
    ///
    /// # Errors
    /// An image's size can't be had.
    pub fn backend_infos(&self) -> Result<Vec<BlockInfo>, Error> {
        let mut images = Images::default();
        filename::remembering(|| {
            self.visible_backends().iter().map(|backend| backend_info(backend, &mut images)).collect()
        })
    }

    /// `query-named-block-nodes`: the newest first.
    ///
    /// # Errors
    /// An image's size can't be had.
    pub fn node_infos(&self, flat: bool) -> Result<Vec<BlockDeviceInfo>, Error> {
        let backends = self.graph.backends();
        // As documented, and unlike QEMU 7.2, a medium's limits are told here, too.
        let group = |node: &Arc<Node>| {
            let backend =
                backends.iter().find(|backend| backend.node().is_some_and(|medium| Arc::ptr_eq(&medium, node)));
            backend.and_then(|backend| backend.throttle())
        };
        let mut images = Images::default();
        let with_limits = |node: &Arc<Node>| {
            let mut info = device_info(node, None, flat, &mut images)?;
            if let Some(group) = group(node) {
                add_limits(&mut info, &group);
            }
            Ok(info)
        };
        filename::remembering(|| self.graph.nodes().iter().rev().map(with_limits).collect())
    }
}

/// What was made out in a command about images, each without those below: the same ones are below many nodes.
#[derive(Default)]
struct Images(HashMap<*const Node, (Arc<Node>, ImageInfo)>);

impl Images {
    fn of(&mut self, node: &Arc<Node>) -> Result<ImageInfo, Error> {
        if let Some((_, known)) = self.0.get(&Arc::as_ptr(node)) {
            return Ok(known.clone());
        }
        let info = image_info(node)?;
        self.0.insert(Arc::as_ptr(node), (Arc::clone(node), info.clone()));
        Ok(info)
    }
}

/// How a device is named: by its id, or by its path.
pub fn device_name(backend: &Backend) -> Option<String> {
    backend.device().map(|device| device.id().unwrap_or_else(|| device.qom_path()))
}

/// The state of I/O in the words of QMP.
pub(super) fn io_status(status: IoStatus) -> BlockDeviceIoStatus {
    match status {
        IoStatus::Ok => BlockDeviceIoStatus::Ok,
        IoStatus::Failed => BlockDeviceIoStatus::Failed,
        IoStatus::NoSpace => BlockDeviceIoStatus::Nospace,
    }
}

fn backend_info(backend: &Arc<Backend>, images: &mut Images) -> Result<BlockInfo, Error> {
    let device = backend.device();
    let (on_read, on_write) = backend.error_policies();
    let can_stop = on_read == ErrorPolicy::Stop || matches!(on_write, ErrorPolicy::Stop | ErrorPolicy::Enospc);
    let io_status = (device.is_some() && can_stop).then(|| io_status(backend.io_status()));
    Ok(BlockInfo {
        device: backend.name().to_owned(),
        qdev: device_name(backend),
        r#type: "unknown".to_owned(),
        // What has no device could get one with removable media.
        removable: device.as_ref().is_none_or(|device| device.is_removable()),
        locked: device.as_ref().is_some_and(|device| device.is_locked()),
        inserted: backend.node().map(|node| device_info(&explicit(node), Some(backend), false, images)).transpose()?,
        tray_open: device.filter(|device| device.has_tray()).map(|device| device.is_tray_open()),
        io_status,
    })
}

/// A medium without the filters that jobs have put above it.
pub fn explicit(mut node: Arc<Node>) -> Arc<Node> {
    while let Some(below) = node.filtered().filter(|_| node.is_implicit()) {
        node = below.node();
    }
    node
}

fn device_info(
    node: &Arc<Node>,
    backend: Option<&Backend>,
    flat: bool,
    known: &mut Images,
) -> Result<BlockDeviceInfo, Error> {
    let config = node.config();
    let backing = node.backing().map(|child| child.node());
    let mut image = known.of(node)?;
    let depth = if flat { 0 } else { add_chain(node, backend.is_some(), &mut image, known)? };
    let mut info = BlockDeviceInfo {
        file: image.filename.clone(),
        node_name: Some(node.name().to_owned()),
        ro: node.is_read_only(),
        drv: node.driver_type().name().to_owned(),
        backing_file: backing.as_ref().map(filename::of),
        backing_file_depth: depth,
        encrypted: node.driver().details().encrypted,
        detect_zeroes: match config.detect_zeroes {
            DetectZeroes::Off => BlockdevDetectZeroesOptions::Off,
            DetectZeroes::On => BlockdevDetectZeroesOptions::On,
            DetectZeroes::Unmap => BlockdevDetectZeroesOptions::Unmap,
        },
        bps: 0,
        bps_rd: 0,
        bps_wr: 0,
        iops: 0,
        iops_rd: 0,
        iops_wr: 0,
        image,
        bps_max: None,
        bps_rd_max: None,
        bps_wr_max: None,
        iops_max: None,
        iops_rd_max: None,
        iops_wr_max: None,
        bps_max_length: None,
        bps_rd_max_length: None,
        bps_wr_max_length: None,
        iops_max_length: None,
        iops_rd_max_length: None,
        iops_wr_max_length: None,
        iops_size: None,
        group: None,
        cache: BlockdevCacheInfo {
            writeback: backend.is_none_or(Backend::has_write_cache),
            direct: config.cache.direct,
            no_flush: config.cache.no_flush,
        },
        write_threshold: node.write_threshold().cast_signed(),
        dirty_bitmaps: bitmaps::infos(node),
    };
    if let Some(group) = backend.and_then(Backend::throttle) {
        add_limits(&mut info, &group);
    }
    Ok(info)
}

/// Fills in the limits; those of bursts only where there are some.
fn add_limits(info: &mut BlockDeviceInfo, group: &block::throttle::Group) {
    let limits = group.limits();
    let buckets: [(Bucket, &mut i64, &mut Option<i64>, &mut Option<i64>); 6] = [
        (Bucket::BpsTotal, &mut info.bps, &mut info.bps_max, &mut info.bps_max_length),
        (Bucket::BpsRead, &mut info.bps_rd, &mut info.bps_rd_max, &mut info.bps_rd_max_length),
        (Bucket::BpsWrite, &mut info.bps_wr, &mut info.bps_wr_max, &mut info.bps_wr_max_length),
        (Bucket::IopsTotal, &mut info.iops, &mut info.iops_max, &mut info.iops_max_length),
        (Bucket::IopsRead, &mut info.iops_rd, &mut info.iops_rd_max, &mut info.iops_rd_max_length),
        (Bucket::IopsWrite, &mut info.iops_wr, &mut info.iops_wr_max, &mut info.iops_wr_max_length),
    ];
    for (bucket, average, max, length) in buckets {
        let rate = limits.rate(bucket);
        *average = rate.average.cast_signed();
        if rate.max != 0 {
            *max = Some(rate.max.cast_signed());
            *length = Some(rate.burst_length.cast_signed());
        }
    }
    info.iops_size = (limits.iops_size != 0).then_some(limits.iops_size.cast_signed());
    info.group = Some(group.name().to_owned());
}

/// Appends the images below and says how many there are.
fn add_chain(node: &Arc<Node>, of_backend: bool, image: &mut ImageInfo, known: &mut Images) -> Result<i64, Error> {
    let mut images = Vec::new();
    let mut next = below(node);
    while let Some(node) = next {
        // What jobs have put in is told of nodes only.
        let node = if of_backend { explicit(node) } else { node };
        images.push(known.of(&node)?);
        next = below(&node);
    }
    let depth = i64::try_from(images.len()).unwrap_or(i64::MAX);
    let mut chain = None;
    while let Some(mut upper) = images.pop() {
        upper.backing_image = chain.map(Box::new);
        chain = Some(upper);
    }
    image.backing_image = chain.map(Box::new);
    Ok(depth)
}

/// What is known about a node's image, without those below.
///
/// # Errors
/// The file behind it can't be asked any more.
pub fn image_info(node: &Arc<Node>) -> Result<ImageInfo, Error> {
    let driver = node.driver();
    let details = driver.details();
    let name = filename::of(node);
    let allocated = aio::block_on(driver.allocated_size()).ok().flatten();
    let backing = driver.image_backing();
    // A name in the image is relative to the image's file, also if the node has no plain name.
    let base =
        filename::exact(node).or_else(|| driver.children().first().and_then(|file| filename::exact(&file.node())));
    let snapshots = driver.snapshots().unwrap_or_default();
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    Ok(ImageInfo {
        filename: name,
        format: node.driver_type().name().to_owned(),
        dirty_flag: dirty_flag(node),
        actual_size: allocated.map(signed),
        // Sizes are told in whole sectors.
        virtual_size: signed(node.len().next_multiple_of(512)),
        cluster_size: details.cluster_size.map(signed),
        encrypted: details.encrypted.then_some(true),
        compressed: None,
        full_backing_filename: backing
            .as_ref()
            .map(|backing| filename::combine(base.as_deref().unwrap_or_default(), &backing.file)),
        backing_filename_format: backing.as_ref().and_then(|backing| backing.format.clone()),
        backing_filename: backing.map(|backing| backing.file),
        snapshots: (!snapshots.is_empty()).then(|| snapshots.into_iter().map(snapshot).collect()),
        backing_image: None,
        format_specific: details.specific.and_then(|(kind, data)| specific(node, kind, &data)).map(Box::new),
    })
}

/// Whether the image was not closed. Protocols of host files say it of themselves, and what passes bytes through asks
/// below; drivers that know nothing of their images do not tell.
fn dirty_flag(node: &Arc<Node>) -> Option<bool> {
    node.driver().details().dirty.or_else(|| match (node.driver_type().kind(), node.driver_type().name()) {
        (_, "file" | "host_device" | "host_cdrom") => Some(false),
        (DriverKind::Filter, _) | (_, "raw") => dirty_flag(&node.driver().children().first()?.node()),
        _ => None,
    })
}

/// A snapshot inside of an image.
pub(super) fn snapshot(info: block::image::SnapshotInfo) -> SnapshotInfo {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    const SECOND: u64 = 1_000_000_000;
    SnapshotInfo {
        id: info.id,
        name: info.name,
        vm_state_size: signed(info.vm_state_size),
        date_sec: signed(info.date_sec),
        date_nsec: i64::from(info.date_nsec),
        vm_clock_sec: signed(info.vm_clock_nsec / SECOND),
        vm_clock_nsec: signed(info.vm_clock_nsec % SECOND),
        icount: info.icount.map(signed),
    }
}

fn specific(node: &Node, kind: String, data: &block::Value) -> Option<ImageInfoSpecific> {
    let map = json::Map::from_iter([("type", json::Value::String(kind)), ("data", options::to_json(data))]);
    match ImageInfoSpecific::from_value(json::Value::Object(map), &Path::reply()) {
        Ok(specific) => Some(specific),
        Err(error) => {
            tracing::warn!("node '{}' tells what the schema does not know: {}", node.name(), error.desc);
            None
        }
    }
}
