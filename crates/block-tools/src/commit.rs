//! Committing an overlay into an image below it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use block::gate::Gate;
use block::{Child, Error, Preallocation, Result, WriteFlags, ZeroFlags};
use iobuf::IoBuf;

use crate::progress::{self, Progress};
use crate::status;

/// Bytes that are copied at once.
const CHUNK: u64 = 1 << 20;

/// Copies what `layers` say into `base`. The layers are the images above the base, the topmost first, opened without
/// their backings; `base` is opened for writing and resizing. The base grows to the size of the topmost layer. Each piece
/// passes `gate`.
///
/// # Errors
/// The drivers'.
pub async fn commit(
    layers: &[Arc<Child>],
    base: &Arc<Child>,
    gate: &Gate,
    rate_limit: Option<u64>,
    progress: &dyn Progress,
) -> Result<()> {
    let Some(top) = layers.first() else { return Ok(()) };
    let len = status::size(&top.node());
    if status::size(&base.node()) < len {
        let _inside = gate.enter().await;
        base.truncate(len, false, Preallocation::Off).await?;
    }
    let buf = IoBuf::zeroed(usize::try_from(CHUNK).unwrap_or(0));
    let started = Instant::now();
    let (mut offset, mut copied) = (0, 0);
    while offset < len {
        progress::check(progress)?;
        let inside = gate.enter().await;
        let (n, source) = find(layers, offset, len - offset).await?;
        match source {
            Found::Nothing => offset += n,
            Found::Zero => {
                base.write_zeroes(offset, n, ZeroFlags { may_unmap: true, ..ZeroFlags::default() }).await?;
                offset += n;
            }
            Found::Data(layer) => {
                drop(inside);
                let end = offset + n;
                while offset < end {
                    progress::check(progress)?;
                    let n = CHUNK.min(end - offset);
                    let piece = buf.slice(0, usize::try_from(n).unwrap_or(0));
                    let inside = gate.enter().await;
                    layer.read(offset, piece.clone()).await?;
                    base.write(offset, piece, WriteFlags::default()).await?;
                    drop(inside);
                    offset += n;
                    copied += n;
                    keep_pace(rate_limit, copied, started).await;
                    progress.update(offset, len);
                }
            }
        }
        progress.update(offset, len);
    }
    let _inside = gate.enter().await;
    base.flush().await
}

/// Waits until as much time has passed as the bytes may take.
async fn keep_pace(rate_limit: Option<u64>, copied: u64, started: Instant) {
    if let Some(rate) = rate_limit.filter(|rate| *rate != 0) {
        #[expect(clippy::cast_precision_loss, reason = "a pause need not be exact")]
        let due = Duration::from_secs_f64(copied as f64 / rate as f64);
        aio::sleep(due.saturating_sub(started.elapsed())).await;
    }
}

enum Found<'a> {
    Nothing,
    Zero,
    Data(&'a Arc<Child>),
}

async fn find(layers: &[Arc<Child>], offset: u64, len: u64) -> Result<(u64, Found<'_>)> {
    let mut len = len;
    for (index, layer) in layers.iter().enumerate() {
        let extent = status::of_node(&layer.node(), offset, len).await?;
        if extent.len == 0 {
            // A layer in between that is too short hides what is below it.
            return if index == 0 { Err(Error::io("An empty block status")) } else { Ok((len, Found::Zero)) };
        }
        len = extent.len;
        if extent.allocated {
            return Ok((len, if extent.zero { Found::Zero } else { Found::Data(layer) }));
        }
    }
    Ok((len, Found::Nothing))
}
