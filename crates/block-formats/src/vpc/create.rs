//! New images.

use block::create::CreateRequest;
use block::request::Preallocation;
use block::{Error, Result};

use super::SECTOR;
use super::header::{DynamicHeader, Geometry, MAX_GEOMETRY, MAX_SECTORS, new_footer};
use crate::bytes::{n, u};

const BLOCK: u32 = 2 << 20;

/// The geometry and the number of sectors of a new image: rounded up to what the geometry can say, unless `exact`.
pub(super) fn rounded(size: u64, exact: bool) -> Result<(Geometry, u64)> {
    let mut geometry = Geometry::MAX;
    if !exact {
        let wanted = size.div_ceil(SECTOR).min(MAX_GEOMETRY);
        geometry = Geometry::of(wanted);
        let mut tried = wanted;
        while geometry.total() < wanted {
            tried += 1;
            geometry = Geometry::of(tried);
        }
    }
    if geometry.total() != MAX_GEOMETRY {
        return Ok((geometry, geometry.total()));
    }
    let sectors = size / SECTOR;
    if sectors > MAX_SECTORS {
        return Err(Error::too_big("Disk size is too large, max size is 2040 GiB"));
    }
    Ok((geometry, sectors))
}

pub(super) async fn create(mut request: CreateRequest) -> Result<()> {
    let file = request.target()?;
    let exact = request.options.take_bool("force_size")?.unwrap_or(false);
    let subformat = request.options.take_choice("subformat", &["dynamic", "fixed"])?.unwrap_or(0);
    let size = request.size;
    request.finish()?;
    let (geometry, sectors) = rounded(size, exact)?;
    let dynamic = subformat == 0;
    let footer = new_footer(sectors, geometry, exact, dynamic);
    if !dynamic {
        file.truncate(sectors * SECTOR + 512, true, Preallocation::Off).await?;
        return file.write_bytes(sectors * SECTOR, &footer).await;
    }
    let entries =
        u32::try_from((sectors * SECTOR).div_ceil(BLOCK.into())).map_err(|_| Error::too_big("Too many blocks"))?;
    let table_len = (u64::from(entries) * 4).next_multiple_of(SECTOR);
    file.write_bytes(0, &footer).await?;
    file.write_bytes(512, &DynamicHeader::new_bytes(entries, BLOCK)).await?;
    let mut at = 0;
    while at < table_len {
        let chunk = vec![0xff; n((table_len - at).min(1 << 20))];
        file.write_bytes(1536 + at, &chunk).await?;
        at += u(chunk.len());
    }
    file.write_bytes(1536 + table_len, &footer).await
}
