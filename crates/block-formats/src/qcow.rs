//! `qcow`, the first version of QEMU's own format.
//!
//! A header, a table of tables, and clusters of 512 bytes to 64 KiB, which may be stored compressed (raw deflate).
//! Specification: the header and table layout as documented with QEMU. Left out: encryption (refused).

use std::any::Any;
use std::io::Read;
use std::sync::Arc;

use block::create::{CreateOption, CreateOptionKind, CreateRequest};
use block::image::{ImageBacking, ImageDetails};
use block::open::OpenRequest;
use block::request::{BlockStatus, Limits, Preallocation, WriteFlags, ZeroFlags};
use block::{BackingSlot, Child, Driver, DriverKind, DriverType, Error, IoFuture, Options, Result, Role};
use iobuf::IoBuf;

use crate::bytes::{be32, be64, n, put, u};
use crate::sparse::{Layout, Mapping, Sparse};
use crate::tables::{Order, TwoLevels};

const MAGIC: &[u8; 4] = b"QFI\xfb";
const VERSION: u32 = 1;
const HEADER: u64 = 48;
const COMPRESSED: u64 = 1 << 63;
const MAX_BACKING: u32 = 1023;
/// Compressed streams look back at most 4 KiB.
const WINDOW_BITS: u8 = 12;

/// The driver `qcow`.
pub struct QcowType;

const fn text(name: &'static str, help: &'static str) -> CreateOption {
    CreateOption { name, kind: CreateOptionKind::Text, help, default: None }
}

const CREATE_OPTIONS: &[CreateOption] = &[
    text("backing_file", "File name of a base image"),
    text("backing_fmt", "Format of the backing image"),
    text("encrypt.format", "Encrypt the image, format choices: 'aes'"),
    text("encrypt.key-secret", "ID of the secret that provides the AES encryption key"),
    CreateOption {
        name: "encryption",
        kind: CreateOptionKind::Bool,
        help: "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
        default: None,
    },
    CreateOption { name: "size", kind: CreateOptionKind::Size, help: "Virtual disk size", default: None },
];

fn no_encryption() -> Error {
    Error::unsupported("Encrypted qcow images (the legacy format 'aes') are not supported: convert them with qemu-img")
}

struct Header {
    backing_offset: u64,
    backing_len: u32,
    size: u64,
    cluster_bits: u8,
    l2_bits: u8,
    l1: u64,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self> {
        if !bytes.starts_with(MAGIC) {
            return Err(Error::invalid("Image not in qcow format"));
        }
        let version = be32(bytes, 4);
        if version != VERSION {
            let mut text = format!("qcow (v1) does not support qcow version {version}");
            if version == 2 || version == 3 {
                text.push_str("\nTry the 'qcow2' driver instead.");
            }
            return Err(Error::unsupported(text));
        }
        let header = Self {
            backing_offset: be64(bytes, 8),
            backing_len: be32(bytes, 16),
            size: be64(bytes, 24),
            cluster_bits: bytes[32],
            l2_bits: bytes[33],
            l1: be64(bytes, 40),
        };
        if header.size <= 1 {
            return Err(Error::invalid("Image size is too small (must be at least 2 bytes)"));
        }
        if !(9..=16).contains(&header.cluster_bits) {
            return Err(Error::invalid("Cluster size must be between 512 and 64k"));
        }
        if !(6..=13).contains(&header.l2_bits) {
            return Err(Error::invalid("L2 table size must be between 512 and 64k"));
        }
        match be32(bytes, 36) {
            0 => {}
            1 => return Err(no_encryption()),
            _ => return Err(Error::invalid("invalid encryption method in qcow header")),
        }
        if header.size > i64::MAX as u64 || header.l1_entries() > i32::MAX as u64 / 8 {
            return Err(Error::invalid("Image too large"));
        }
        if header.backing_offset != 0 && header.backing_len > MAX_BACKING {
            return Err(Error::invalid("Backing file name too long"));
        }
        Ok(header)
    }

    fn l1_entries(&self) -> u64 {
        self.size.div_ceil(1 << (self.cluster_bits + self.l2_bits))
    }
}

struct Clusters {
    tables: TwoLevels,
    cluster_bits: u8,
}

impl Clusters {
    fn mapping(entry: u64) -> Mapping {
        match entry {
            0 => Mapping::Unallocated,
            entry if entry & COMPRESSED != 0 => Mapping::Compressed(entry),
            host => Mapping::Data(host),
        }
    }

    /// Stores a cluster compressed; false if that does not make it smaller.
    async fn write_compressed(&self, cluster: u64, data: &[u8]) -> Result<bool> {
        let size = self.cluster_size();
        let level = flate2::Compression::default();
        let mut encoder = flate2::Compress::new_with_window_bits(level, false, WINDOW_BITS);
        // A stream that does not end within less than a cluster is of no use.
        let mut packed = Vec::with_capacity(n(size) - 1);
        let status = encoder.compress_vec(data, &mut packed, flate2::FlushCompress::Finish);
        if status.map_err(|_| Error::io("Compression failed"))? != flate2::Status::StreamEnd {
            return Ok(false);
        }
        let at = self.tables.take_room(u(packed.len()), 1)?;
        if at >> (63 - self.cluster_bits) != 0 {
            return Err(Error::no_space("The image is too large for compressed clusters"));
        }
        self.tables.file.write_bytes(at, &packed).await?;
        let entry = COMPRESSED | u(packed.len()) << (63 - self.cluster_bits) | at;
        self.tables.set(cluster, &[entry]).await?;
        Ok(true)
    }
}

impl Layout for Clusters {
    fn file(&self) -> &Arc<Child> {
        &self.tables.file
    }

    fn cluster_size(&self) -> u64 {
        self.tables.cluster_size
    }

    async fn map(&self, cluster: u64, max: u64) -> Result<(Mapping, u64)> {
        let (mapping, count) = self.tables.map(cluster, max, Self::mapping).await?;
        if let Mapping::Data(host) = mapping
            && (host < HEADER || host.checked_add(count * self.cluster_size()).is_none_or(|end| end > i64::MAX as u64))
        {
            return Err(Error::io(format!("Cluster {cluster} lies at a wrong place")));
        }
        Ok((mapping, count))
    }

    async fn reserve(&self, _cluster: u64, count: u64) -> Result<(u64, u64)> {
        Ok((self.tables.take_room(count * self.cluster_size(), self.cluster_size())?, count))
    }

    fn release(&self, host: u64, count: u64) {
        self.tables.release(host, count * self.cluster_size());
    }

    async fn link(&self, cluster: u64, count: u64, host: u64) -> Result<()> {
        let entries: Vec<u64> = (0..count).map(|index| host + index * self.cluster_size()).collect();
        self.tables.set(cluster, &entries).await
    }

    async fn read_compressed(&self, _cluster: u64, entry: u64) -> Result<Vec<u8>> {
        let shift = 63 - self.cluster_bits;
        let (at, len) = (entry & ((1 << shift) - 1), (entry & !COMPRESSED) >> shift);
        let packed = self.tables.file.read_vec(at, n(len)).await?;
        let size = self.cluster_size();
        let mut data = Vec::with_capacity(n(size));
        flate2::read::DeflateDecoder::new(&packed[..])
            .take(size)
            .read_to_end(&mut data)
            .map_err(|_| Error::io("A compressed cluster is corrupt"))?;
        if u(data.len()) != size {
            return Err(Error::io("A compressed cluster is corrupt"));
        }
        Ok(data)
    }
}

struct Qcow {
    image: Sparse<Clusters>,
    backing: Arc<BackingSlot>,
    size: u64,
    backing_file: Option<String>,
}

impl DriverType for QcowType {
    fn name(&self) -> &'static str {
        "qcow"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, head: &[u8], _filename: &str) -> u32 {
        if head.starts_with(MAGIC) && be32(head, 4) == VERSION { 100 } else { 0 }
    }

    fn supports_backing(&self) -> bool {
        true
    }

    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            let file = request.child("file", Role::Storage).await?;
            request.finish()?;
            if file.len() < HEADER {
                return Err(Error::invalid("Image not in qcow format"));
            }
            let header = Header::parse(&file.read_vec(0, n(HEADER)).await?)?;
            let l1_end = header.l1.checked_add(header.l1_entries() * 8);
            if header.l1 < HEADER || l1_end.is_none_or(|end| end > file.len().next_multiple_of(512)) {
                return Err(Error::invalid("The L1 table lies outside of the file"));
            }
            let backing_file = match header.backing_offset {
                0 => None,
                offset if offset.checked_add(header.backing_len.into()).is_none_or(|end| end > file.len()) => {
                    return Err(Error::invalid("The backing file name lies outside of the file"));
                }
                offset => {
                    let name = file.read_vec(offset, header.backing_len as usize).await?;
                    Some(String::from_utf8_lossy(&name).into_owned()).filter(|name| !name.is_empty())
                }
            };
            let (entries, cluster_size) = ((header.l1_entries(), 1 << header.l2_bits), 1 << header.cluster_bits);
            let tables = TwoLevels::new(file, Order::Big, header.l1, entries, cluster_size);
            let backing = Arc::new(BackingSlot::default());
            let clusters = Clusters { tables, cluster_bits: header.cluster_bits };
            let image = Sparse::new(clusters, Some(Arc::clone(&backing)), 0);
            Ok(Arc::new(Qcow { image, backing, size: header.size / 512 * 512, backing_file }) as Arc<dyn Driver>)
        })
    }

    fn create_options(&self) -> &'static [CreateOption] {
        CREATE_OPTIONS
    }

    fn create(&self, request: CreateRequest) -> IoFuture<'static> {
        Box::pin(create(request))
    }
}

fn refuse_encryption(options: &mut Options) -> Result<()> {
    let format = options.take_str("encrypt.format")?;
    let encryption = options.take_bool("encryption")?.unwrap_or(false);
    let secret = options.take_str("encrypt.key-secret")?;
    if format.is_some() || encryption || secret.is_some() { Err(no_encryption()) } else { Ok(()) }
}

async fn create(mut request: CreateRequest) -> Result<()> {
    let file = request.target()?;
    refuse_encryption(&mut request.options)?;
    let backing = request.options.take_str("backing_file")?.filter(|backing| !backing.is_empty());
    // The format has no place for it.
    request.options.take_str("backing_fmt")?;
    let size = request.size;
    request.finish()?;
    if size == 0 {
        return Err(Error::invalid("Image size is too small, cannot be zero length"));
    }
    let (cluster_bits, l2_bits) = if backing.is_some() { (9u8, 12u8) } else { (12, 9) };
    let name = backing.unwrap_or_default();
    let name_len = u32::try_from(name.len()).ok().filter(|len| *len <= MAX_BACKING);
    let name_len = name_len.ok_or_else(|| Error::invalid("Backing file name too long"))?;
    let l1 = (HEADER + u64::from(name_len)).next_multiple_of(8);
    let entries = size.div_ceil(1 << (cluster_bits + l2_bits));
    if entries > i32::MAX as u64 / 8 {
        return Err(Error::invalid("Image too large"));
    }
    let mut header = vec![0; n(l1)];
    put(&mut header, 0, MAGIC);
    put(&mut header, 4, &VERSION.to_be_bytes());
    put(&mut header, 24, &size.to_be_bytes());
    put(&mut header, 32, &[cluster_bits, l2_bits]);
    put(&mut header, 40, &l1.to_be_bytes());
    if name_len != 0 {
        put(&mut header, 8, &HEADER.to_be_bytes());
        put(&mut header, 16, &name_len.to_be_bytes());
        put(&mut header, n(HEADER), name.as_bytes());
    }
    file.write_bytes(0, &header).await?;
    file.truncate((l1 + entries * 8).next_multiple_of(512), true, Preallocation::Off).await
}

impl Driver for Qcow {
    fn len(&self) -> u64 {
        self.size
    }

    fn limits(&self) -> Limits {
        let cluster = u32::try_from(self.image.layout.cluster_size()).unwrap_or(0);
        Limits { zeroes_alignment: cluster, ..Limits::default() }
    }

    fn children(&self) -> Vec<Arc<Child>> {
        vec![Arc::clone(&self.image.layout.tables.file)]
    }

    fn backing(&self) -> Option<&Arc<BackingSlot>> {
        Some(&self.backing)
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(self.image.read(offset, buf))
    }

    fn write(&self, offset: u64, buf: IoBuf, _flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(self.image.write(offset, buf))
    }

    fn write_compressed(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move {
            let size = self.image.layout.cluster_size();
            let end = offset + u(buf.len());
            if !offset.is_multiple_of(size) || (!end.is_multiple_of(size) && end != self.size) {
                return Err(Error::invalid("Compressed data is written in whole clusters"));
            }
            let mut done = 0;
            while done < buf.len() {
                let len = n(size).min(buf.len() - done);
                let part = buf.slice(done, len);
                let mut data = part.to_vec();
                data.resize(n(size), 0);
                let cluster = (offset + u(done)) / size;
                let stored = {
                    let _claim = self.image.claims.claim(cluster, 1).await;
                    let mapped = self.image.layout.map(cluster, 1).await?.0;
                    // An allocated cluster stays where it is.
                    let free = !matches!(mapped, Mapping::Data(_));
                    free && self.image.layout.write_compressed(cluster, &data).await?
                };
                if !stored {
                    self.image.write(offset + u(done), part).await?;
                }
                done += len;
            }
            Ok(())
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<'_> {
        Box::pin(self.image.write_zeroes(offset, len, flags))
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        Box::pin(self.image.discard(offset, len))
    }

    fn flush(&self) -> IoFuture<'_> {
        Box::pin(self.image.layout.tables.meta.flush())
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        Box::pin(self.image.block_status(offset, len))
    }

    fn details(&self) -> ImageDetails {
        ImageDetails {
            cluster_size: Some(self.image.layout.cluster_size()),
            dirty: Some(false),
            unallocated_is_zero: true,
            ..ImageDetails::default()
        }
    }

    fn image_backing(&self) -> Option<ImageBacking> {
        self.backing_file.clone().map(|file| ImageBacking { file, format: None })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
