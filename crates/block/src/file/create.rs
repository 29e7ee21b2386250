//! Creating regular files, and changing their size.

use aio::{AllocateMode, File};
use iobuf::IoBuf;
use rustix::fs::{Mode, OFlags};

use super::lock::{self, Claim};
use crate::create::{CreateOption, CreateOptionKind, CreateRequest};
use crate::error::{Error, Result};
use crate::permissions::Permissions;
use crate::request::Preallocation;

/// Bytes of zeroes that are written at once for `preallocation=full`.
const ZEROES: usize = 1 << 20;
const SECTOR: u64 = 512;

pub(super) const CREATE_OPTIONS: &[CreateOption] = &[
    CreateOption { name: "size", kind: CreateOptionKind::Size, help: "Virtual disk size", default: None },
    CreateOption {
        name: "nocow",
        kind: CreateOptionKind::Bool,
        help: "Turn off copy-on-write (valid only on btrfs)",
        default: None,
    },
    CreateOption {
        name: "preallocation",
        kind: CreateOptionKind::Text,
        help: "Preallocation mode (allowed values: off, falloc, full)",
        default: None,
    },
    CreateOption {
        name: "extent_size_hint",
        kind: CreateOptionKind::Size,
        help: "Extent size hint for the image file, 0 to disable",
        default: None,
    },
];

pub(super) async fn create(mut request: CreateRequest) -> Result<()> {
    let name = request.filename.strip_prefix("file:").unwrap_or(&request.filename).to_owned();
    let options = &mut request.options;
    // Formats round sizes themselves; what QEMU's tools pass to a plain file counts in sectors.
    options.take("size");
    let preallocation = Preallocation::from_index(
        options
            .take_choice("preallocation", &Preallocation::NAMES)
            .map_err(|error| error.with_message("Invalid parameter for 'preallocation'"))?
            .unwrap_or(0),
    );
    let no_cow = options.take_bool("nocow")?.unwrap_or(false);
    let hint = options.take_size("extent_size_hint")?.unwrap_or(1 << 20);
    let hint = u32::try_from(hint).map_err(|_| Error::invalid("Extent size hint is too large"))?;
    let size = request.size.checked_next_multiple_of(SECTOR).ok_or_else(|| Error::too_big("The image is too large"))?;
    request.finish()?;

    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&name, flags, Mode::from_raw_mode(0o644))
        .map_err(|e| Error::from(e).context(format!("Could not create '{name}'")))?;
    // Nobody may have the file open whom an empty file would surprise.
    let used = Permissions::WRITE | Permissions::RESIZE;
    lock::tighten(&fd, &name, Claim::NONE, Claim { used, shared: Permissions::RESIZE.complement() })?;
    rustix::fs::ftruncate(&fd, 0).map_err(|e| Error::from(e).context("Failed to resize file"))?;
    if no_cow {
        // Only some file systems can, and the option is a wish.
        let _ = aio::host::set_no_copy_on_write(&fd);
    }
    if hint != 0 {
        let _ = aio::host::set_extent_size_hint(&fd, hint);
    }
    let file = File::new(fd);
    let result = resize(&file, size, preallocation).await;
    // Not left to the end of the descriptor: a child process that was just forked has it, too, until it executes.
    lock::release_to(file.fd(), Claim::NONE);
    result
}

/// Gives a regular file the size `len`.
pub(super) async fn resize(file: &File, len: u64, preallocation: Preallocation) -> Result<()> {
    let old = u64::try_from(rustix::fs::fstat(file.fd())?.st_size).unwrap_or(0);
    if len < old && preallocation != Preallocation::Off {
        return Err(Error::unsupported("Preallocation can't be used for shrinking files"));
    }
    let result = match preallocation {
        Preallocation::Metadata => return Err(Error::unsupported("Unsupported preallocation mode: metadata")),
        Preallocation::Off => {
            set_len(file, len).await.map_err(|error| error.context("Failed to resize file"))?;
            if old == 0 && len > 0 {
                // Whoever looks for the alignment of direct I/O must not read a hole: holes take any alignment. The
                // file is as good without.
                let block = if len < FIRST_BLOCK { 512 } else { FIRST_BLOCK };
                let _ = file.write(0, IoBuf::zeroed(usize::try_from(block).unwrap_or(0))).await;
                if len < block {
                    set_len(file, len).await?;
                }
            }
            return Ok(());
        }
        Preallocation::Falloc if len == old => return Ok(()),
        Preallocation::Falloc => reserve(file, old, len).await,
        Preallocation::Full => fill(file, old, len).await,
    };
    if result.is_err()
        && let Err(error) = set_len(file, old).await
    {
        tracing::error!("Failed to restore old file length: {error}");
    }
    result
}

/// The part of a new file that is allocated, bytes.
const FIRST_BLOCK: u64 = 4096;

async fn set_len(file: &File, len: u64) -> Result<()> {
    let file = file.clone();
    Ok(aio::spawn_blocking(move || rustix::fs::ftruncate(file.fd(), len)).await?)
}

async fn reserve(file: &File, old: u64, len: u64) -> Result<()> {
    match file.allocate(AllocateMode::Reserve, old, len - old).await {
        Ok(()) => Ok(()),
        // As the C library does where the file system can't reserve.
        Err(error) if super::is_unsupported(&error) => fill(file, old, len).await,
        Err(error) => Err(Error::host(&error).context("Could not preallocate data for the new file")),
    }
}

async fn fill(file: &File, old: u64, len: u64) -> Result<()> {
    let zeroes = IoBuf::zeroed(ZEROES);
    let mut at = old;
    while at < len {
        let n = (ZEROES as u64 - at % ZEROES as u64).min(len - at);
        file.write(at, zeroes.slice(0, usize::try_from(n).unwrap_or(ZEROES)))
            .await
            .map_err(|error| Error::host(&error).context("Could not write zeros for preallocation"))?;
        at += n;
    }
    file.sync_data().await.map_err(|error| Error::host(&error).context("Could not flush file to disk"))
}
