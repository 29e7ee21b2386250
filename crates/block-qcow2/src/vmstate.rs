//! Saved machine state: it lies behind the disk, in clusters that only the L1 table of a snapshot keeps ("Snapshots").

use block::{Error, Result};
use iobuf::IoBuf;

use crate::flush::Reason;
use crate::header::MAX_L1_BYTES;
use crate::image::{Image, read};

impl Image {
    /// Where the state starts, as an offset of the guest's: at the first L2 table behind the disk.
    pub(crate) fn vm_state_start(&self) -> u64 {
        self.len().next_multiple_of(1 << self.geometry().l1_shift())
    }

    /// Whether the guest offset is in the state: there is no backing for it.
    pub(crate) fn is_vm_state(&self, offset: u64) -> bool {
        offset >= self.vm_state_start()
    }

    fn place(&self, offset: u64, len: usize) -> Result<u64> {
        let at = self.vm_state_start().checked_add(offset);
        at.filter(|at| at.checked_add(len as u64).is_some_and(|end| end < 1 << 62))
            .ok_or_else(|| Error::too_big("The machine state is too large"))
    }

    /// Reads state; zeroes where none was written.
    pub(crate) async fn read_vm_state(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let at = self.place(offset, buf.len())?;
        self.file.event("vmstate_load").await;
        let _gate = self.gate.read().await;
        let _reader = self.readers.enter();
        let limit = self.map().l1.len() as u64 * (1 << self.geometry().l1_shift());
        let inside = usize::try_from(limit.saturating_sub(at)).unwrap_or(usize::MAX).min(buf.len());
        buf.fill(inside, buf.len() - inside, 0);
        if inside == 0 { Ok(()) } else { self.read_range(at, buf.slice(0, inside)).await }
    }

    /// Writes state. The next snapshot takes it along.
    pub(crate) async fn write_vm_state(&self, offset: u64, buf: IoBuf) -> Result<()> {
        self.check_usable()?;
        if self.has_data_file() {
            return Err(Error::unsupported("Machine state can't be saved with an external data file"));
        }
        let at = self.place(offset, buf.len())?;
        self.file.event("vmstate_save").await;
        self.cover(at + buf.len() as u64).await?;
        let _gate = self.gate.read().await;
        let _reader = self.readers.enter();
        self.write_range(at, buf).await
    }

    /// Makes the L1 table long enough for guest offsets up to `end`.
    async fn cover(&self, end: u64) -> Result<()> {
        let geometry = self.geometry();
        let needed = geometry.l1_needed(end);
        if needed * 8 > MAX_L1_BYTES {
            return Err(Error::too_big("The machine state is too large for the cluster size"));
        }
        let needed = usize::try_from(needed).unwrap_or(usize::MAX);
        if needed <= self.map().l1.len() {
            return Ok(());
        }
        let _gate = self.gate.write().await;
        let _one = self.flush_lock.lock().await;
        let mut meta = self.meta.lock().await;
        self.flush_all(&mut meta).await?;
        let mut l1 = self.map().l1.clone();
        let place = read(&self.header, |h| h.l1_offset);
        let clusters = (l1.len() as u64 * 8).div_ceil(geometry.cluster_size());
        // Some more, so that the table does not move with every piece of a long state.
        let room = (needed + needed / 2).min(usize::try_from(MAX_L1_BYTES / 8).unwrap_or(usize::MAX));
        l1.resize(room.max(l1.len()), 0);
        self.move_l1(&mut meta, l1, self.len()).await?;
        if place != 0 && clusters != 0 {
            self.free(&mut meta, place, clusters, Reason::Other);
        }
        self.rebuild_table_overlap(&meta);
        self.add_inactive_l2().await
    }

    /// Drops state that is not part of a snapshot: it would only be copied on the next write.
    pub(crate) async fn drop_vm_state(&self) -> Result<()> {
        let start = self.vm_state_start();
        let end = self.map().l1.len() as u64 * (1 << self.geometry().l1_shift());
        if start >= end {
            return Ok(());
        }
        let _gate = self.gate.read().await;
        self.discard_clusters(start, end, Reason::Never, true).await
    }
}
