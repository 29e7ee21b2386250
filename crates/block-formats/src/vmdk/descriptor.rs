//! The descriptor: lines of text that name the disk's extents, its parent and its geometry.

use block::{Error, Result};

/// The longest descriptor that is read, bytes.
pub(super) const MAX_LEN: u64 = (1 << 20) - 1;
/// The most extents of a disk.
const MAX_EXTENTS: usize = 4096;
/// No parent.
pub(super) const NO_PARENT: u32 = 0xffff_ffff;

/// How the data of an extent is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExtentKind {
    /// As it is.
    Flat,
    /// With grains.
    Sparse,
    /// As it is, on a file system of VMware's.
    Vmfs,
    /// With grains, of ESX.
    VmfsSparse,
    /// With grains of 4 KiB, of ESX.
    SeSparse,
}

impl ExtentKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Flat => "FLAT",
            Self::Sparse => "SPARSE",
            Self::Vmfs => "VMFS",
            Self::VmfsSparse => "VMFSSPARSE",
            Self::SeSparse => "SESPARSE",
        }
    }
}

/// A line of the list of extents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExtentLine {
    /// Size in the disk, sectors.
    pub(super) sectors: u64,
    pub(super) kind: ExtentKind,
    pub(super) file: String,
    /// Where the data begins in a flat extent's file, sectors.
    pub(super) offset: u64,
}

/// What a descriptor says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) cid: u32,
    pub(super) parent_cid: u32,
    pub(super) create_type: String,
    pub(super) parent: Option<String>,
}

/// The value of `name=value` or `name="value"`, by the first line that begins so.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let value = line.trim().strip_prefix(name)?.trim_start().strip_prefix('=')?.trim();
        match value.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next(),
            None => Some(value),
        }
    })
}

fn hex(text: &str, name: &str) -> Option<u32> {
    u32::from_str_radix(value(text, name)?, 16).ok()
}

impl Descriptor {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let create_type = value(text, "createType").ok_or_else(|| Error::invalid("invalid VMDK image descriptor"))?;
        Ok(Self {
            cid: hex(text, "CID").ok_or_else(|| Error::invalid("invalid VMDK image descriptor"))?,
            parent_cid: hex(text, "parentCID").unwrap_or(NO_PARENT),
            create_type: create_type.to_owned(),
            parent: value(text, "parentFileNameHint").filter(|parent| !parent.is_empty()).map(str::to_owned),
        })
    }
}

/// The text of a descriptor: bytes up to the first NUL.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// The list of extents.
pub(super) fn extents(text: &str) -> Result<Vec<ExtentLine>> {
    let mut extents = Vec::new();
    for line in text.lines() {
        let Some(extent) = extent(line)? else { continue };
        if extents.len() >= MAX_EXTENTS {
            return Err(Error::invalid(format!("The descriptor has more than {MAX_EXTENTS} extents")));
        }
        extents.push(extent);
    }
    Ok(extents)
}

/// `RW sectors KIND "file" offset`.
fn extent(line: &str) -> Result<Option<ExtentLine>> {
    let invalid = || Error::invalid(format!("Invalid extent line: {line}"));
    let (before, rest) = match line.split_once('"') {
        Some((before, rest)) => (before, Some(rest)),
        None => (line, None),
    };
    let mut words = before.split_whitespace();
    if words.next() != Some("RW") {
        return Ok(None);
    }
    let (Some(Ok(sectors)), Some(kind)) = (words.next().map(str::parse::<u64>), words.next()) else {
        return Ok(None);
    };
    let Some((file, offset)) = rest.and_then(|rest| rest.split_once('"')) else { return Ok(None) };
    let offset = offset.split_whitespace().next().map(str::parse::<i64>);
    let (kind, offset) = match kind {
        "FLAT" => (ExtentKind::Flat, offset.and_then(|offset| u64::try_from(offset.ok()?).ok()).ok_or_else(invalid)?),
        _ if matches!(offset, Some(Ok(_))) => return Err(invalid()),
        "VMFS" => (ExtentKind::Vmfs, 0),
        "SPARSE" => (ExtentKind::Sparse, 0),
        "VMFSSPARSE" => (ExtentKind::VmfsSparse, 0),
        "SESPARSE" => (ExtentKind::SeSparse, 0),
        other => return Err(Error::unsupported(format!("Unsupported extent type '{other}'"))),
    };
    if sectors == 0 || sectors > i64::MAX as u64 / 512 || offset > i64::MAX as u64 / 512 || file.is_empty() {
        return Err(invalid());
    }
    Ok(Some(ExtentLine { sectors, kind, file: file.to_owned(), offset }))
}

/// The same text with another content id.
pub(super) fn with_cid(text: &str, cid: u32) -> String {
    let mut replaced = false;
    text.split_inclusive('\n')
        .map(|line| {
            if !replaced && line.starts_with("CID=") {
                replaced = true;
                format!("CID={cid:08x}\n")
            } else {
                line.to_owned()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Disk DescriptorFile\nversion=1\nCID=2f4a8bee\nparentCID=ffffffff\n\
                        createType=\"monolithicFlat\"\n\nRW 6291456 FLAT \"a b-flat.vmdk\" 8\nRDONLY 1 FLAT \"x\" 0\n";

    #[test]
    fn a_descriptor_is_taken_apart() {
        let descriptor = Descriptor::parse(TEXT).expect("valid");
        assert_eq!((descriptor.cid, descriptor.parent_cid), (0x2f4a_8bee, NO_PARENT));
        assert_eq!(descriptor.create_type, "monolithicFlat");
        assert_eq!(descriptor.parent, None);
        let extents = extents(TEXT).expect("valid");
        let flat = ExtentLine { sectors: 6_291_456, kind: ExtentKind::Flat, file: "a b-flat.vmdk".into(), offset: 8 };
        assert_eq!(extents, [flat]);
    }

    #[test]
    fn broken_lines_of_extents_are_named() {
        for line in ["RW 5 FLAT \"x\"", "RW 0 SPARSE \"x\"", "RW 5 FLAT \"x\" -1", "RW 5 FLAT \"\" 0"] {
            let error = extents(line).expect_err(line);
            assert_eq!(error.to_string(), format!("Invalid extent line: {line}"));
        }
        assert_eq!(extents("RW 5 ODD \"x\"").expect_err("odd").to_string(), "Unsupported extent type 'ODD'");
    }

    #[test]
    fn only_the_content_id_changes() {
        let changed = with_cid(TEXT, 0x12);
        assert_eq!(changed, TEXT.replace("CID=2f4a8bee", "CID=00000012"));
    }
}
