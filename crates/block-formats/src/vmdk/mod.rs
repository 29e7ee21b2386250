//! `vmdk`, the format of VMware: `monolithicSparse`, `monolithicFlat`, `twoGbMaxExtentSparse`, `twoGbMaxExtentFlat`,
//! `streamOptimized`, and `vmfs`, `vmfsSparse` and (for reading) `seSparse` of ESX.
//!
//! A descriptor (a file of its own, or in the header of a sparse one) names extents, which are parts of the disk in
//! files of their own: as they are, or with grains ([`extent`]). An overlay names its parent and the parent's content
//! id, which changes when the parent is written. Specification: "Virtual Disk Format 5.0" (VMware). Left out:
//! writing `seSparse`, extents that are raw devices or read-only, digests.

mod create;
mod descriptor;
mod extent;
mod sesparse;

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use block::create::{CreateOption, CreateRequest};
use block::image::{CheckResult, FixMode, ImageBacking, ImageDetails};
use block::open::OpenRequest;
use block::request::{BlockStatus, Limits, WriteFlags, ZeroFlags};
use block::{BackingSlot, Child, Driver, DriverKind, DriverType, Error, IoFuture, Node, Options, Result, Role, Value};
use iobuf::IoBuf;

use crate::bytes::{n, u};
use crate::sparse::{Layout, Sparse};
use descriptor::{Descriptor, ExtentKind};
use extent::{Grains, Header, SECTOR};
use sesparse::SeGrains;

/// The driver `vmdk`. Options: `extents.N` instead of the files that the descriptor names.
pub struct VmdkType;

enum Store {
    Flat { file: Arc<Child>, offset: u64 },
    Sparse(Box<Sparse<Grains>>),
    SeSparse(Box<Sparse<SeGrains>>),
}

struct Extent {
    /// As the descriptor calls it; empty for the disk's own file.
    kind: &'static str,
    /// In the disk, bytes.
    start: u64,
    len: u64,
    store: Store,
}

impl Extent {
    fn file(&self) -> &Arc<Child> {
        match &self.store {
            Store::Flat { file, .. } => file,
            Store::Sparse(image) => image.layout.file(),
            Store::SeSparse(image) => image.layout.file(),
        }
    }

    fn grain(&self) -> Option<u64> {
        match &self.store {
            Store::Flat { .. } => None,
            Store::Sparse(image) => Some(image.layout.cluster_size()),
            Store::SeSparse(image) => Some(image.layout.cluster_size()),
        }
    }

    fn is_compressed(&self) -> bool {
        matches!(&self.store, Store::Sparse(image) if image.layout.header.is_compressed())
    }
}

struct Vmdk {
    file: Arc<Child>,
    /// Where the descriptor is in `file`, and how much room it has.
    descriptor_at: (u64, u64),
    /// What it says, and its text.
    descriptor: Mutex<(Descriptor, String)>,
    cid_changed: AtomicBool,
    changing_cid: tokio::sync::Mutex<()>,
    extents: Vec<Extent>,
    backing: Arc<BackingSlot>,
}

/// The content id of a node that is a vmdk, perhaps below filters.
fn cid_of(node: &Arc<Node>) -> Option<u32> {
    let mut node = Arc::clone(node);
    while let Some(below) = node.filtered() {
        node = below.node();
    }
    node.driver().as_any().downcast_ref::<Vmdk>().map(|vmdk| vmdk.with_descriptor(|descriptor| descriptor.cid))
}

impl DriverType for VmdkType {
    fn name(&self) -> &'static str {
        "vmdk"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, head: &[u8], _filename: &str) -> u32 {
        if head.starts_with(b"KDMV") || head.starts_with(b"COWD") {
            return 100;
        }
        // A descriptor begins with comments and empty lines, then comes its version.
        let text = descriptor::text(head);
        let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        match first.and_then(|line| line.strip_prefix("version=")) {
            Some("1" | "2" | "3") => 100,
            _ => 0,
        }
    }

    fn supports_backing(&self) -> bool {
        true
    }

    fn open(&self, request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(open(request))
    }

    fn create_options(&self) -> &'static [CreateOption] {
        create::OPTIONS
    }

    fn create(&self, request: CreateRequest) -> IoFuture<'static> {
        Box::pin(create::create(request))
    }
}

async fn open(mut request: OpenRequest) -> Result<Arc<dyn Driver>> {
    let read_only = request.config.read_only;
    let file = request.child("file", Role::Storage).await?;
    let magic = file.read_vec(0, 4).await?;
    if file.len() < 4 {
        return Err(Error::invalid("File is too small, not a valid image"));
    }
    let backing = Arc::new(BackingSlot::default());
    let mut descriptor_at = (0, descriptor::MAX_LEN);
    let mut own = None;
    if magic == *b"KDMV" || magic == *b"COWD" {
        let header = Header::read(&file, read_only).await?;
        if header.descriptor != 0 {
            let start = header.descriptor.checked_mul(SECTOR).filter(|start| *start < file.len());
            let start = start.ok_or_else(|| Error::invalid("The descriptor lies behind the end of the file"))?;
            descriptor_at = (start, header.descriptor_len.saturating_mul(SECTOR).min(descriptor::MAX_LEN));
        }
        if header.capacity != 0 {
            own = Some(header);
        }
    }
    let len = file.len().saturating_sub(descriptor_at.0).min(descriptor_at.1);
    let text = match &own {
        Some(header) if header.descriptor == 0 => String::new(),
        _ => descriptor::text(&file.read_vec(descriptor_at.0, n(len)).await?),
    };
    let (descriptor, extents) = match own {
        Some(header) => {
            let descriptor = match Descriptor::parse(&text) {
                Ok(descriptor) => descriptor,
                Err(error) if header.descriptor != 0 => return Err(error),
                Err(_) => Descriptor { create_type: "vmfsSparse".to_owned(), ..Descriptor::default() },
            };
            let len = header.capacity * SECTOR;
            let grains = Grains::new(Arc::clone(&file), header);
            let store = Store::Sparse(Box::new(Sparse::new(grains, Some(Arc::clone(&backing)), 0)));
            (descriptor, vec![Extent { kind: "", start: 0, len, store }])
        }
        None => open_extents(&mut request, &file, &text, &backing).await?,
    };
    request.finish()?;
    Ok(Arc::new(Vmdk {
        file,
        descriptor_at,
        descriptor: Mutex::new((descriptor, text)),
        cid_changed: AtomicBool::new(false),
        changing_cid: tokio::sync::Mutex::default(),
        extents,
        backing,
    }))
}

async fn open_extents(
    request: &mut OpenRequest,
    file: &Arc<Child>,
    text: &str,
    backing: &Arc<BackingSlot>,
) -> Result<(Descriptor, Vec<Extent>)> {
    let descriptor = Descriptor::parse(text)?;
    let known = ["monolithicFlat", "vmfs", "vmfsSparse", "seSparse", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"];
    if !known.contains(&&descriptor.create_type[..]) {
        return Err(Error::unsupported(format!("Unsupported image type '{}'", descriptor.create_type)));
    }
    let base = block::filename::base_of(&file.node());
    let (mut extents, mut start) = (Vec::new(), 0u64);
    for (index, line) in descriptor::extents(text)?.into_iter().enumerate() {
        let name = format!("extents.{index}");
        let role =
            if line.kind == ExtentKind::Flat || line.kind == ExtentKind::Vmfs { Role::Data } else { Role::Storage };
        let child = match request.optional_child(&name, role).await? {
            Some(child) => child,
            None => {
                let relative = !line.file.starts_with('/');
                let base = match &base {
                    Ok(base) => base.as_str(),
                    Err(error) if relative => {
                        let name = block::filename::of(&file.node());
                        let text = format!("Cannot use relative paths with VMDK descriptor file '{name}'");
                        return Err(error.clone().context(text));
                    }
                    Err(_) => "",
                };
                request.child_by_path(&name, base, &line.file, role).await?
            }
        };
        let len = line.sectors * SECTOR;
        let store = if role == Role::Data {
            Store::Flat { file: child, offset: line.offset * SECTOR }
        } else if line.kind == ExtentKind::SeSparse {
            if !request.config.read_only && !request.config.auto_read_only {
                return Err(se_sparse_is_read_only());
            }
            let grains = SeGrains::open(child).await?;
            if grains.capacity < line.sectors {
                return Err(Error::invalid(format!("The extent '{}' is smaller than its line says", line.file)));
            }
            Store::SeSparse(Box::new(Sparse::new(grains, Some(Arc::clone(backing)), start)))
        } else {
            let header = Header::read(&child, request.config.read_only).await?;
            if header.capacity < line.sectors {
                return Err(Error::invalid(format!("The extent '{}' is smaller than its line says", line.file)));
            }
            Store::Sparse(Box::new(Sparse::new(Grains::new(child, header), Some(Arc::clone(backing)), start)))
        };
        extents.push(Extent { kind: line.kind.name(), start, len, store });
        start = start
            .checked_add(len)
            .filter(|end| *end <= i64::MAX as u64)
            .ok_or_else(|| Error::too_big("The disk is too large"))?;
    }
    Ok((descriptor, extents))
}

impl Vmdk {
    fn with_descriptor<R>(&self, visit: impl FnOnce(&Descriptor) -> R) -> R {
        visit(&self.descriptor.lock().unwrap_or_else(PoisonError::into_inner).0)
    }

    /// The parts of a range by extent: extent, offset in it, length, offset in the request.
    fn split(&self, offset: u64, len: u64) -> Result<Vec<(&Extent, u64, u64, u64)>> {
        let (mut parts, mut done) = (Vec::new(), 0);
        let mut index = self.extents.partition_point(|extent| extent.start + extent.len <= offset);
        while done < len {
            let extent = self.extents.get(index);
            let extent = extent.ok_or_else(|| Error::io("The request lies behind the end of the image"))?;
            let at = offset + done - extent.start;
            let part = (extent.len - at).min(len - done);
            parts.push((extent, at, part, done));
            done += part;
            index += 1;
        }
        Ok(parts)
    }

    /// The parent must still be the one that this overlay was made for.
    fn check_parent(&self) -> Result<()> {
        let Some(backing) = self.backing.get() else { return Ok(()) };
        let expected = self.with_descriptor(|descriptor| descriptor.parent_cid);
        match cid_of(&backing.node()) {
            Some(cid) if cid == expected => Ok(()),
            Some(_) => Err(Error::invalid("The content ID of the backing file is not the one that the image names")),
            None => Err(Error::invalid("The backing file of a VMDK image must be a VMDK image")),
        }
    }

    /// The first write gives the image a new content id, so that overlays notice.
    async fn change_cid(&self) -> Result<()> {
        if self.cid_changed.load(Ordering::Acquire) {
            return Ok(());
        }
        let _one = self.changing_cid.lock().await;
        if self.cid_changed.load(Ordering::Acquire) {
            return Ok(());
        }
        let (mut descriptor, text) = self.descriptor.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !text.is_empty() {
            descriptor.cid = (crate::bytes::random() & 0xffff_fffe) as u32;
            let text = descriptor::with_cid(&text, descriptor.cid);
            if u(text.len()) > self.descriptor_at.1 {
                return Err(Error::invalid("VMDK description file too big"));
            }
            self.file.write_bytes(self.descriptor_at.0, text.as_bytes()).await?;
            *self.descriptor.lock().unwrap_or_else(PoisonError::into_inner) = (descriptor, text);
        }
        self.cid_changed.store(true, Ordering::Release);
        Ok(())
    }

    async fn write_data(&self, offset: u64, buf: IoBuf, compress: bool) -> Result<()> {
        self.change_cid().await?;
        for (extent, at, len, done) in self.split(offset, u(buf.len()))? {
            let part = buf.slice(n(done), n(len));
            match &extent.store {
                Store::Flat { file, offset } => file.write(offset + at, part, WriteFlags::default()).await?,
                Store::Sparse(image) if extent.is_compressed() => write_grains(image, extent.len, at, &part).await?,
                Store::Sparse(_) if compress => {
                    return Err(Error::unsupported("Only streamOptimized images hold compressed data"));
                }
                Store::Sparse(image) => {
                    self.check_parent()?;
                    image.write(at, part).await?;
                }
                Store::SeSparse(_) => return Err(se_sparse_is_read_only()),
            }
        }
        Ok(())
    }
}

fn se_sparse_is_read_only() -> Error {
    Error::read_only("No write support for seSparse images available")
}

/// Stores whole grains compressed; the last one may be shorter.
async fn write_grains(image: &Sparse<Grains>, extent_len: u64, offset: u64, buf: &IoBuf) -> Result<()> {
    let size = image.layout.cluster_size();
    let end = offset + u(buf.len());
    if !offset.is_multiple_of(size) || (!end.is_multiple_of(size) && end != extent_len) {
        return Err(Error::invalid("Compressed VMDK extents are written in whole clusters"));
    }
    let mut done = 0;
    while done < buf.len() {
        let grain = (offset + u(done)) / size;
        let len = n(size).min(buf.len() - done);
        let mut data = buf.slice(done, len).to_vec();
        data.resize(n(size), 0);
        let _claim = image.claims.claim(grain, 1).await;
        image.layout.write_compressed(grain, data).await?;
        done += len;
    }
    Ok(())
}

impl Driver for Vmdk {
    fn len(&self) -> u64 {
        self.extents.last().map_or(0, |extent| extent.start + extent.len)
    }

    fn limits(&self) -> Limits {
        let grain = self.extents.iter().filter_map(Extent::grain).min().unwrap_or(0);
        Limits { zeroes_alignment: u32::try_from(grain).unwrap_or(0), ..Limits::default() }
    }

    fn children(&self) -> Vec<Arc<Child>> {
        let mut children = vec![Arc::clone(&self.file)];
        let others = self.extents.iter().map(Extent::file).filter(|file| !Arc::ptr_eq(file, &self.file));
        children.extend(others.cloned());
        children
    }

    fn backing(&self) -> Option<&Arc<BackingSlot>> {
        Some(&self.backing)
    }

    fn data_child(&self) -> Option<Arc<Child>> {
        self.extents.first().map(|extent| Arc::clone(extent.file()))
    }

    fn data_child_at(&self, offset: u64) -> Option<Arc<Child>> {
        let index = self.extents.partition_point(|extent| extent.start + extent.len <= offset);
        self.extents.get(index).map(|extent| Arc::clone(extent.file()))
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move {
            for (extent, at, len, done) in self.split(offset, u(buf.len()))? {
                let part = buf.slice(n(done), n(len));
                match &extent.store {
                    Store::Flat { file, offset } => file.read(offset + at, part).await?,
                    Store::Sparse(image) => {
                        self.check_parent()?;
                        image.read(at, part).await?;
                    }
                    Store::SeSparse(image) => {
                        self.check_parent()?;
                        image.read(at, part).await?;
                    }
                }
            }
            Ok(())
        })
    }

    fn write(&self, offset: u64, buf: IoBuf, _flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(self.write_data(offset, buf, false))
    }

    fn write_compressed(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(self.write_data(offset, buf, true))
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<'_> {
        Box::pin(async move {
            self.change_cid().await?;
            for (extent, at, len, _) in self.split(offset, len)? {
                match &extent.store {
                    Store::Flat { file, offset } => {
                        file.write_zeroes(offset + at, len, ZeroFlags { may_unmap: false, fua: false, ..flags })
                            .await?;
                    }
                    Store::Sparse(image) => image.write_zeroes(at, len, flags).await?,
                    Store::SeSparse(_) => return Err(se_sparse_is_read_only()),
                }
            }
            Ok(())
        })
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        Box::pin(async move {
            self.change_cid().await?;
            for (extent, at, len, _) in self.split(offset, len)? {
                if let Store::Sparse(image) = &extent.store {
                    image.discard(at, len).await?;
                }
            }
            Ok(())
        })
    }

    fn flush(&self) -> IoFuture<'_> {
        Box::pin(async move {
            for extent in &self.extents {
                if let Store::Sparse(image) = &extent.store {
                    image.layout.meta.flush().await?;
                }
            }
            Ok(())
        })
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        Box::pin(async move {
            let parts = self.split(offset, len)?;
            let Some((extent, at, len, _)) = parts.first() else { return Ok(BlockStatus::default()) };
            Ok(match &extent.store {
                Store::Flat { offset, .. } => {
                    BlockStatus { recurse: true, ..BlockStatus::data(*len, Some(offset + at)) }
                }
                Store::Sparse(image) => image.block_status(*at, *len).await?,
                Store::SeSparse(image) => image.block_status(*at, *len).await?,
            })
        })
    }

    fn allocated_size(&self) -> IoFuture<'_, Option<u64>> {
        Box::pin(async move {
            let mut total = 0;
            for child in self.children() {
                match child.node().driver().allocated_size().await? {
                    Some(size) => total += size,
                    None => return Ok(None),
                }
            }
            Ok(Some(total))
        })
    }

    fn exact_filename(&self) -> Option<String> {
        block::filename::exact(&self.file.node())
    }

    fn details(&self) -> ImageDetails {
        let descriptor = self.with_descriptor(Clone::clone);
        let extents = self.extents.iter().map(|extent| {
            let mut entries = vec![
                ("filename".to_owned(), Value::from(block::filename::of(&extent.file().node()))),
                ("format".to_owned(), extent.kind.into()),
                ("virtual-size".to_owned(), extent.len.into()),
            ];
            if let Some(grain) = extent.grain() {
                entries.push(("cluster-size".to_owned(), grain.into()));
            }
            if extent.is_compressed() {
                entries.push(("compressed".to_owned(), true.into()));
            }
            Value::Dict(entries)
        });
        let specific = Value::dict([
            ("create-type", descriptor.create_type.as_str().into()),
            ("cid", u64::from(descriptor.cid).into()),
            ("parent-cid", u64::from(descriptor.parent_cid).into()),
            ("extents", Value::List(extents.collect())),
        ]);
        let grain = self.extents.first().and_then(Extent::grain);
        let same = self.extents.iter().all(|extent| extent.grain() == grain);
        ImageDetails {
            cluster_size: grain.filter(|_| same),
            dirty: Some(false),
            compressed: self.extents.iter().any(Extent::is_compressed),
            unallocated_is_zero: true,
            specific: Some(("vmdk".to_owned(), specific)),
            ..ImageDetails::default()
        }
    }

    fn image_backing(&self) -> Option<ImageBacking> {
        let file = self.with_descriptor(|descriptor| descriptor.parent.clone())?;
        Some(ImageBacking { file, format: Some("vmdk".to_owned()) })
    }

    fn check(&self, fix: FixMode) -> IoFuture<'_, CheckResult> {
        if fix != FixMode::default() {
            return block::fail(Error::unsupported("VMDK images cannot be repaired"));
        }
        Box::pin(async move {
            let mut result = CheckResult::default();
            for extent in &self.extents {
                let Store::Sparse(image) = &extent.store else { continue };
                match image.layout.find_outside().await {
                    Ok(None) => {}
                    Ok(Some(sector)) => {
                        result.corruptions += 1;
                        let sector = extent.start / SECTOR + sector;
                        result.messages.push(format!("ERROR: cluster offset for sector {sector} points after EOF"));
                    }
                    Err(error) => {
                        result.corruptions += 1;
                        result.messages.push(format!("ERROR: {error}"));
                    }
                }
            }
            Ok(result)
        })
    }

    fn reopen(&self, options: Options, read_only: bool) -> IoFuture<'_> {
        Box::pin(async move {
            if let Some((name, _)) = options.iter().find(|(name, _)| !name.starts_with("extents")) {
                return Err(Error::invalid(format!("Cannot change the option '{name}'")));
            }
            let old = |extent: &Extent| match &extent.store {
                Store::Sparse(image) => image.layout.header.version == 3 && !extent.is_compressed(),
                Store::Flat { .. } => false,
                Store::SeSparse(_) => false,
            };
            if !read_only && self.extents.iter().any(|extent| matches!(extent.store, Store::SeSparse(_))) {
                return Err(se_sparse_is_read_only());
            }
            if !read_only && self.extents.iter().any(old) {
                return Err(Error::invalid("VMDK version 3 must be read only"));
            }
            Ok(())
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
