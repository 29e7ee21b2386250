//! New images.

use block::create::{CreateOption, CreateOptionKind, CreateRequest};
use block::request::Preallocation;
use block::{Error, Result, Value};

use super::header::{
    HEADER_AT, Header, MAX_BLOCK, MAX_SIZE, MIB, Metadata, REGIONS_AT, Region, metadata_bytes, regions_bytes,
};
use super::{STATE_FULL, STATE_ZERO};
use crate::bytes::{n, put, random, u, uuid};

pub(super) const OPTIONS: &[CreateOption] = &[
    CreateOption {
        name: "block_size",
        kind: CreateOptionKind::Size,
        help: "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.",
        default: None,
    },
    CreateOption {
        name: "block_state_zero",
        kind: CreateOptionKind::Bool,
        help: "Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not set to 'off' when using \
               'qemu-img convert' with subformat=dynamic.",
        default: None,
    },
    CreateOption {
        name: "log_size",
        kind: CreateOptionKind::Size,
        help: "Log size; min 1MB.",
        default: Some("1048576"),
    },
    CreateOption { name: "size", kind: CreateOptionKind::Size, help: "Virtual disk size; max of 64TB.", default: None },
    CreateOption {
        name: "subformat",
        kind: CreateOptionKind::Text,
        help: "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.",
        default: None,
    },
];

fn block_size(asked: Option<u64>, size: u64) -> Result<u64> {
    let block = match asked {
        Some(asked) => asked,
        None if size > 32 << 40 => 64 * MIB,
        None if size > 100 << 30 => 32 * MIB,
        None if size > 1 << 30 => 16 * MIB,
        None => 8 * MIB,
    };
    if block == 0 || !block.is_multiple_of(MIB) {
        return Err(Error::invalid("Block size must be a multiple of 1 MB"));
    }
    if !block.is_power_of_two() {
        return Err(Error::invalid("Block size must be a power of two"));
    }
    if block > MAX_BLOCK {
        return Err(Error::invalid(format!("Block size must not exceed {MAX_BLOCK}")));
    }
    Ok(block)
}

pub(super) async fn create(mut request: CreateRequest) -> Result<()> {
    let file = request.target()?;
    if request.size > MAX_SIZE {
        return Err(Error::invalid("Image size too large; max of 64TB"));
    }
    let size = request.size.next_multiple_of(512);
    let log_len = request.options.take_size("log_size")?.unwrap_or(MIB);
    let Ok(log_len) = u32::try_from(log_len) else {
        return Err(Error::invalid("Log size must be smaller than 4 GB"));
    };
    if log_len == 0 || !u64::from(log_len).is_multiple_of(MIB) {
        return Err(Error::invalid("Log size must be a multiple of 1 MB"));
    }
    // On a command line 0 leaves the size to us; a member of a command that says 0 asks for it.
    let is_member = matches!(request.options.get("block_size"), Some(Value::Int(_)));
    let asked = request.options.take_size("block_size")?.filter(|asked| is_member || *asked != 0);
    let block_size = block_size(asked, size)?;
    let zero_state = request.options.take_bool("block_state_zero")?;
    let fixed = request.options.take_choice("subformat", &["dynamic", "fixed"])?.unwrap_or(0) == 1;
    request.finish()?;

    let metadata = Metadata { block_size, leave_allocated: fixed, size, logical_sector: 512 };
    let bat = Region { offset: MIB + u64::from(log_len), len: (metadata.entries() * 8).next_multiple_of(MIB).max(MIB) };
    let metadata_region = Region { offset: bat.offset + bat.len, len: MIB };
    let payload = metadata_region.offset + metadata_region.len;
    let mut identifier = vec![0; 8 + 512];
    put(&mut identifier, 0, b"vhdxfile");
    let creator: Vec<u8> = "Ouzel".encode_utf16().flat_map(u16::to_le_bytes).collect();
    put(&mut identifier, 8, &creator);
    file.write_bytes(0, &identifier).await?;
    let mut header = Header {
        sequence: random() >> 1,
        file_write: uuid(),
        data_write: uuid(),
        log: [0; 16],
        log_len,
        log_offset: MIB,
    };
    for at in HEADER_AT {
        file.write_bytes(at, &header.to_bytes()).await?;
        header.sequence += 1;
    }
    for at in REGIONS_AT {
        file.write_bytes(at, &regions_bytes(bat, metadata_region)).await?;
    }
    file.write_bytes(metadata_region.offset, &metadata_bytes(&metadata)).await?;
    // A fixed disk's blocks are there, unless it is wanted otherwise; a dynamic one's are zero unless left out.
    let end = if fixed { payload + metadata.blocks() * block_size } else { payload };
    file.truncate(end, true, Preallocation::Off).await?;
    let entry = |block: u64| match (fixed, zero_state) {
        (true, Some(true)) | (false, None | Some(true)) => STATE_ZERO,
        (true, _) => STATE_FULL | (payload + block * block_size),
        (false, Some(false)) => 0,
    };
    write_bat(&file, bat, &metadata, entry).await
}

async fn write_bat(file: &block::Child, bat: Region, metadata: &Metadata, entry: impl Fn(u64) -> u64) -> Result<()> {
    let ratio = metadata.chunk_ratio();
    let (mut index, entries) = (0, metadata.entries());
    while index < entries {
        let count = (entries - index).min(MIB / 8);
        let mut bytes = vec![0; n(count * 8)];
        for at in 0..count {
            let (chunk, within) = ((index + at) / (ratio + 1), (index + at) % (ratio + 1));
            if within != ratio {
                put(&mut bytes, n(at * 8), &entry(chunk * ratio + within).to_le_bytes());
            }
        }
        if bytes.iter().any(|byte| *byte != 0) {
            file.write_bytes(bat.offset + index * 8, &bytes).await?;
        }
        index += u(bytes.len()) / 8;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_size_follows_the_disk_unless_it_is_asked_for() {
        for (size, block) in [(MIB, 8), (2 << 30, 16), (101 << 30, 32), (33 << 40, 64)] {
            assert_eq!(block_size(None, size).ok(), Some(block * MIB), "{size}");
        }
        assert_eq!(block_size(Some(MIB), 33 << 40).ok(), Some(MIB));
        for (asked, text) in [
            (0, "Block size must be a multiple of 1 MB"),
            (128, "Block size must be a multiple of 1 MB"),
            (3 * MIB, "Block size must be a power of two"),
            (512 * MIB, "Block size must not exceed 268435456"),
        ] {
            assert_eq!(block_size(Some(asked), MIB).map_err(|error| error.to_string()), Err(text.to_owned()));
        }
    }
}
