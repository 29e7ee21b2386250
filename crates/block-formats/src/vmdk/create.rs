//! New images.

use std::fmt::Write as _;
use std::sync::Arc;

use block::create::{CreateOption, CreateOptionKind, CreateRequest};
use block::request::Preallocation;
use block::{Child, Defaults, Error, Graph, NodeConfig, OpenFlags, Options, Permissions, Result};

use super::cid_of;
use super::descriptor::NO_PARENT;
use super::extent::{FLAG_COMPRESSED, FLAG_MARKERS, FLAG_NEWLINES, FLAG_RGD, FLAG_ZERO_GRAIN, Header, SECTOR};
use crate::bytes::{n, put, random};

const SUBFORMATS: [&str; 5] =
    ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"];
const ADAPTERS: [&str; 4] = ["ide", "lsilogic", "buslogic", "legacyESX"];
/// The largest extent of the split subformats, bytes.
const SPLIT: u64 = 2 << 30;
/// Sectors of a grain.
const GRAIN: u64 = 128;
/// Entries of a grain table.
const ENTRIES: u64 = 512;
/// Sectors for the descriptor in a sparse file.
const DESCRIPTOR_SECTORS: u64 = 20;

const fn text(name: &'static str, help: &'static str, default: Option<&'static str>) -> CreateOption {
    CreateOption { name, kind: CreateOptionKind::Text, help, default }
}

const fn switch(name: &'static str, help: &'static str, default: Option<&'static str>) -> CreateOption {
    CreateOption { name, kind: CreateOptionKind::Bool, help, default }
}

pub(super) const OPTIONS: &[CreateOption] = &[
    text("adapter_type", "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX", None),
    text("backing_file", "File name of a base image", None),
    text("backing_fmt", "Must be 'vmdk' if present", None),
    switch("compat6", "VMDK version 6 image", Some("off")),
    text("hwversion", "VMDK hardware version", Some("undefined")),
    CreateOption { name: "size", kind: CreateOptionKind::Size, help: "Virtual disk size", default: None },
    text(
        "subformat",
        "VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | twoGbMaxExtentSparse | \
         twoGbMaxExtentFlat | streamOptimized} ",
        None,
    ),
    text("toolsversion", "VMware guest tools version", None),
    switch("zeroed_grain", "Enable efficient zero writes using the zeroed-grain GTE feature", None),
];

struct Settings {
    subformat: usize,
    adapter: &'static str,
    hardware: String,
    tools: String,
    zeroed_grain: bool,
    backing: Option<String>,
}

impl Settings {
    fn take(options: &mut Options) -> Result<Self> {
        let adapter = options.take_choice("adapter_type", &ADAPTERS)?.unwrap_or(0);
        let compat6 = options.take_bool("compat6")?.unwrap_or(false);
        let hardware = options.take_str("hwversion")?.filter(|version| version != "undefined");
        if compat6 && hardware.is_some() {
            return Err(Error::invalid("compat6 cannot be enabled with hwversion set"));
        }
        let default_hardware = if compat6 { "6" } else { "4" };
        let format = options.take_str("backing_fmt")?;
        if let Some(format) = format.filter(|format| format != "vmdk") {
            return Err(Error::invalid(format!("Invalid backing file format: {format}. Must be vmdk")));
        }
        let settings = Self {
            subformat: options.take_choice("subformat", &SUBFORMATS)?.unwrap_or(0),
            adapter: ADAPTERS[adapter],
            hardware: hardware.unwrap_or_else(|| default_hardware.to_owned()),
            tools: options.take_str("toolsversion")?.unwrap_or_else(|| "2147483647".to_owned()),
            zeroed_grain: options.take_bool("zeroed_grain")?.unwrap_or(false),
            backing: options.take_str("backing_file")?.filter(|backing| !backing.is_empty()),
        };
        if settings.is_flat() && settings.backing.is_some() {
            return Err(Error::unsupported("Flat image can't have backing file"));
        }
        if settings.is_flat() && settings.zeroed_grain {
            return Err(Error::unsupported("Flat image can't enable zeroed grain"));
        }
        for text in [&settings.hardware, &settings.tools].into_iter().chain(&settings.backing) {
            if text.contains(['"', '\n', '\0']) {
                return Err(Error::invalid("VMDK descriptors can't hold quotes and line breaks"));
            }
        }
        Ok(settings)
    }

    fn is_flat(&self) -> bool {
        matches!(self.subformat, 1 | 3)
    }

    fn is_split(&self) -> bool {
        matches!(self.subformat, 2 | 3)
    }

    fn is_compressed(&self) -> bool {
        self.subformat == 4
    }
}

/// A file name as directory (with its slash), stem and extension (with its dot).
fn split_name(name: &str) -> (&str, &str, &str) {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = name[base..].rfind('.').map_or(name.len(), |dot| base + dot);
    (&name[..base], &name[base..dot], &name[dot..])
}

pub(super) async fn create(mut request: CreateRequest) -> Result<()> {
    let file = request.target()?;
    let settings = Settings::take(&mut request.options)?;
    let size = request.size;
    if !size.is_multiple_of(SECTOR) {
        return Err(Error::invalid("Image size must be a multiple of 512 bytes"));
    }
    let parent_cid = match &settings.backing {
        Some(backing) => parent_cid(&request.graph, &request.filename, backing).await?,
        None => NO_PARENT,
    };
    let name = request.filename.strip_prefix("file:").unwrap_or(&request.filename).to_owned();
    let (directory, stem, extension) = split_name(&name);
    let mut lines = String::new();
    if settings.subformat == 0 || settings.is_compressed() {
        write_sparse(&file, size, &settings).await?;
        extent_line(&mut lines, size, &settings, &format!("{stem}{extension}"));
    } else {
        if stem.is_empty() {
            return Err(Error::invalid("No filename provided"));
        }
        let mut left = size;
        let mut index = 1;
        while left != 0 || index == 1 {
            let len = if settings.is_split() { left.min(SPLIT) } else { left };
            let base = match (settings.is_split(), settings.is_flat()) {
                (false, _) => format!("{stem}-flat{extension}"),
                (true, flat) => format!("{stem}-{}{index:03}{extension}", if flat { 'f' } else { 's' }),
            };
            create_extent(&request.graph, &format!("{directory}{base}"), len, &settings).await?;
            extent_line(&mut lines, len, &settings, &base);
            left -= len;
            index += 1;
        }
    }
    let text = descriptor(&settings, size, parent_cid, &lines);
    request.finish()?;
    if settings.subformat == 0 || settings.is_compressed() {
        if text.len() > n(DESCRIPTOR_SECTORS * SECTOR) {
            return Err(Error::invalid("VMDK description file too big"));
        }
        return file.write_bytes(SECTOR, text.as_bytes()).await;
    }
    file.write_bytes(0, text.as_bytes()).await?;
    file.truncate(text.len() as u64, true, Preallocation::Off).await
}

fn extent_line(lines: &mut String, len: u64, settings: &Settings, name: &str) {
    let sectors = len / SECTOR;
    let _ = if settings.is_flat() {
        writeln!(lines, "RW {sectors} FLAT \"{name}\" 0")
    } else {
        writeln!(lines, "RW {sectors} SPARSE \"{name}\"")
    };
}

fn descriptor(settings: &Settings, size: u64, parent_cid: u32, extents: &str) -> String {
    let cid = (random() & 0xffff_fffe) as u32;
    let parent =
        settings.backing.as_ref().map(|backing| format!("parentFileNameHint=\"{backing}\"")).unwrap_or_default();
    let heads = if settings.adapter == "ide" { 16 } else { 255 };
    let cylinders = size / (63 * heads * SECTOR);
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid:x}\nparentCID={parent_cid:x}\ncreateType=\"{}\"\n{parent}\n\
         # Extent description\n{extents}\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"{}\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"{heads}\"\nddb.geometry.sectors = \"63\"\n\
         ddb.adapterType = \"{}\"\nddb.toolsVersion = \"{}\"\n",
        SUBFORMATS[settings.subformat], settings.hardware, settings.adapter, settings.tools
    )
}

/// The content id of the backing, which must be a vmdk.
async fn parent_cid(graph: &Arc<Graph>, filename: &str, backing: &str) -> Result<u32> {
    let options = Options::new().with("filename", block::filename::combine(filename, backing));
    let config = NodeConfig { read_only: true, ..NodeConfig::default() };
    let flags = OpenFlags { no_backing: true, ..OpenFlags::default() };
    let node = graph.open(options, Defaults::new(config, flags)).await?;
    let child = graph.attach_root(&node, "image creation", Permissions::CONSISTENT_READ, Permissions::ALL)?;
    let cid = cid_of(&node);
    graph.detach(&child).await?;
    cid.ok_or_else(|| Error::invalid("backing_file must be a vmdk image"))
}

/// Makes the file of an extent.
async fn create_extent(graph: &Arc<Graph>, name: &str, len: u64, settings: &Settings) -> Result<()> {
    let protocol = graph.registry().find("file").ok_or_else(|| Error::invalid("Unknown driver 'file'"))?;
    let request = CreateRequest {
        graph: Arc::clone(graph),
        file: None,
        filename: name.to_owned(),
        size: 0,
        options: Options::new(),
        data_file: None,
    };
    protocol.create(request).await?;
    let options = Options::new().with("driver", "file").with("filename", name);
    let node = graph.open(options, Defaults::default()).await?;
    let used = Permissions::CONSISTENT_READ | Permissions::WRITE | Permissions::RESIZE;
    let child = graph.attach_root(&node, "image creation", used, Permissions::ALL)?;
    let result = if settings.is_flat() {
        child.truncate(len, true, Preallocation::Off).await
    } else {
        write_sparse(&child, len, settings).await
    };
    let flushed = child.flush().await;
    graph.detach(&child).await?;
    result.and(flushed)
}

/// Writes the header, the directories and empty tables.
async fn write_sparse(file: &Child, size: u64, settings: &Settings) -> Result<()> {
    let grains = (size / SECTOR).div_ceil(GRAIN);
    let table_sectors = ENTRIES * 4 / SECTOR;
    let tables = grains.div_ceil(ENTRIES);
    let directory_sectors = (tables * 4).div_ceil(SECTOR);
    let rgd = 1 + DESCRIPTOR_SECTORS;
    let gd = rgd + directory_sectors + table_sectors * tables;
    let mut flags = FLAG_NEWLINES | FLAG_RGD;
    if settings.is_compressed() {
        flags |= FLAG_COMPRESSED | FLAG_MARKERS;
    }
    if settings.zeroed_grain {
        flags |= FLAG_ZERO_GRAIN;
    }
    let header = Header {
        version: if settings.is_compressed() {
            3
        } else if settings.zeroed_grain {
            2
        } else {
            1
        },
        flags,
        capacity: size / SECTOR,
        grain: GRAIN,
        descriptor: 1,
        descriptor_len: DESCRIPTOR_SECTORS,
        entries: ENTRIES,
        rgd,
        gd,
        data: (gd + directory_sectors + table_sectors * tables).next_multiple_of(GRAIN),
        compression: u16::from(settings.is_compressed()),
    };
    if header.data > u64::from(u32::MAX) {
        return Err(Error::too_big("The image is too large for VMDK"));
    }
    file.write_bytes(0, &header.to_bytes()).await?;
    file.truncate(header.data * SECTOR, true, Preallocation::Off).await?;
    for start in [rgd, gd] {
        let mut directory = vec![0; n(directory_sectors * SECTOR)];
        for table in 0..tables {
            let sector = u32::try_from(start + directory_sectors + table * table_sectors).unwrap_or(0);
            put(&mut directory, n(table * 4), &sector.to_le_bytes());
        }
        file.write_bytes(start * SECTOR, &directory).await?;
    }
    Ok(())
}
