//! How data moves: reads and writes in DRQ blocks, transfers with guest memory, and requests that have no data.

use device::disk::{DiskError, DiskOperation};
use iobuf::IoBuf;
use memory::DmaBuffer;

use super::{Drive, PIO_CHUNK, Phase, SECTOR, Step, Work, status};

/// Bytes that describe a range in DATA SET MANAGEMENT.
const RANGE_LEN: usize = 8;

impl Drive<'_> {
    /// Begins an access to `left` sectors from `sector` on, which exist.
    pub(super) fn begin(&mut self, work: Work, sector: u64, left: u32) -> Step {
        let state = &mut *self.state;
        (state.work, state.sector, state.left) = (work, sector, left);
        state.transferred = 0;
        state.forget_data();
        state.power = super::command::ACTIVE;
        match work {
            Work::ReadPio | Work::Verify => self.next_read(),
            Work::WritePio => self.next_block_out(false),
            _ => {
                let len = u64::from(left) * SECTOR as u64;
                self.want_memory(work == Work::ReadDma, len)
            }
        }
    }

    /// The transport gathers memory for `len` bytes.
    pub(crate) fn want_memory(&mut self, to_memory: bool, len: u64) -> Step {
        self.state.phase = Phase::Dma;
        self.state.status = status::DRDY | status::DSC | status::DRQ;
        Step::Dma { to_memory, len }
    }

    /// A request to read for the host, or for nobody (VERIFY).
    fn next_read(&mut self) -> Step {
        self.state.chunk = self.state.left.min(PIO_CHUNK);
        let buf = IoBuf::zeroed(self.state.chunk as usize * SECTOR);
        self.host.bounce = Some(buf.clone());
        let offset = self.state.sector.saturating_mul(SECTOR as u64);
        self.request(DiskOperation::Read { offset, buf })
    }

    fn next_block_in(&mut self) -> Step {
        let end = self.state.position as usize + self.state.block.max(1) as usize * SECTOR;
        self.offer(end, true)
    }

    fn next_block_out(&mut self, interrupt: bool) -> Step {
        let sectors = self.state.left.min(self.state.block.max(1));
        self.state.chunk = sectors;
        self.expect(sectors as usize * SECTOR, interrupt)
    }

    fn write_block(&mut self) -> Step {
        let buf = IoBuf::copy_of(&self.state.buffer);
        let offset = self.state.sector.saturating_mul(SECTOR as u64);
        self.request(DiskOperation::Write { offset, buf, fua: self.state.fua })
    }

    /// The block has been moved as a whole.
    pub(super) fn block_moved(&mut self) -> Step {
        match self.state.work {
            Work::ReadPio => {
                let sectors = (self.state.block.max(1)).min(self.state.left);
                self.advance(sectors);
                if self.state.left == 0 {
                    self.end(status::DRDY | status::DSC, 0);
                    Step::None
                } else if (self.state.position as usize) < self.state.buffer.len() {
                    self.next_block_in()
                } else {
                    self.next_read()
                }
            }
            Work::WritePio => self.write_block(),
            Work::Packet => {
                let mut packet = [0; crate::atapi::PACKET_LEN];
                packet.iter_mut().zip(&self.state.buffer).for_each(|(to, from)| *to = *from);
                self.packet(packet)
            }
            Work::PacketReply | Work::PacketRead => self.packet_block_read(),
            Work::PacketParameters => self.packet_parameters(),
            // The host takes the drive's own data without hearing of the end.
            _ => {
                self.end(status::DRDY | status::DSC, 0);
                Step::None
            }
        }
    }

    /// Counts sectors as done; the registers follow.
    fn advance(&mut self, sectors: u32) {
        let state = &mut *self.state;
        state.sector = state.sector.saturating_add(u64::from(sectors));
        state.left = state.left.saturating_sub(sectors);
        state.count.now = state.left as u8;
        state.count.before = (state.left >> 8) as u8;
        let sector = state.sector;
        self.set_address(sector);
    }

    /// Memory for the transfer. It may be longer or shorter than asked for.
    pub fn dma(&mut self, memory: DmaBuffer) -> Step {
        if self.state.phase != Phase::Dma {
            return Step::None;
        }
        match self.state.work {
            Work::ReadDma | Work::WriteDma => self.dma_sectors(memory),
            Work::Trim => {
                let len = (self.state.left as usize * SECTOR).min(memory.len());
                self.state.buffer = vec![0; len];
                memory.io().read_at(0, &mut self.state.buffer);
                self.state.transferred = len as u32;
                self.state.position = 0;
                self.next_trim()
            }
            _ => self.packet_dma(memory),
        }
    }

    /// There is no memory where the transport was told to find it.
    pub fn dma_failed(&mut self) -> Step {
        if self.state.phase == Phase::Dma { self.abort() } else { Step::None }
    }

    fn dma_sectors(&mut self, memory: DmaBuffer) -> Step {
        let sectors = self.state.left.min((memory.len() / SECTOR) as u32);
        if sectors == 0 {
            return self.starve();
        }
        self.state.chunk = sectors;
        let buf = memory.io().slice(0, sectors as usize * SECTOR);
        self.host.memory = Some(memory);
        let offset = self.state.sector.saturating_mul(SECTOR as u64);
        self.request(if self.state.work == Work::ReadDma {
            DiskOperation::Read { offset, buf }
        } else {
            DiskOperation::Write { offset, buf, fua: self.state.fua }
        })
    }

    /// The transfer ends before its time; the host finds out by itself.
    pub(crate) fn starve(&mut self) -> Step {
        self.end(status::DRDY | status::DSC, 0);
        Step::Starved
    }

    /// The next range to be discarded; the ranges are in the buffer.
    fn next_trim(&mut self) -> Step {
        loop {
            let at = self.state.position as usize;
            let Some(range) = self.state.buffer.get(at..at + RANGE_LEN) else { return self.finish() };
            let entry = range.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
            let (sector, count) = (entry & 0xffff_ffff_ffff, entry >> 48);
            if count == 0 {
                self.state.position += RANGE_LEN as u32;
                continue;
            }
            if !self.has_sectors(sector, count) {
                return self.abort();
            }
            let (offset, len) = (sector * SECTOR as u64, count * SECTOR as u64);
            return self.request(DiskOperation::Discard { offset, len });
        }
    }

    /// The disk has done what was asked of it, or not.
    pub(super) fn request_done(&mut self, result: Result<(), DiskError>) -> Step {
        let work = self.state.work;
        if matches!(work, Work::PacketRead | Work::PacketReadDma) {
            return self.packet_read_done(result);
        }
        // What a disk that can't discard does not do is no failure: ranges may keep their data.
        let is_harmless = work == Work::Trim && result == Err(DiskError::Unsupported);
        if result.is_err() && !is_harmless {
            // The memory may have been written all the same.
            self.note_stores();
            return self.abort();
        }
        let chunk = self.state.chunk;
        match work {
            Work::ReadPio => {
                if let Some(bounce) = self.host.bounce.take() {
                    self.state.buffer = bounce.to_vec();
                }
                self.state.position = 0;
                self.next_block_in()
            }
            Work::Verify => {
                self.advance(chunk);
                if self.state.left == 0 { self.finish() } else { self.next_read() }
            }
            Work::WritePio => {
                self.advance(chunk);
                if self.state.left == 0 { self.finish() } else { self.next_block_out(true) }
            }
            Work::ReadDma | Work::WriteDma => {
                self.note_stores();
                self.state.transferred = chunk.saturating_mul(SECTOR as u32);
                self.advance(chunk);
                if self.state.left == 0 { self.finish() } else { self.starve() }
            }
            Work::Trim => {
                self.state.position += RANGE_LEN as u32;
                self.next_trim()
            }
            _ => self.finish(),
        }
    }

    /// Code in memory that a read has replaced becomes invalid.
    fn note_stores(&self) {
        if self.state.work == Work::ReadDma
            && let Some(memory) = &self.host.memory
        {
            memory.stored(0, (self.state.chunk as usize * SECTOR).min(memory.len()));
        }
    }

    /// Begins what was at the disk again.
    pub(super) fn resume(&mut self) -> Step {
        if self.state.phase != Phase::Disk {
            return match self.state.phase {
                Phase::Dma => self.memory_again(),
                _ => Step::None,
            };
        }
        match self.state.work {
            Work::ReadPio | Work::Verify => self.next_read(),
            Work::WritePio => self.write_block(),
            Work::Flush => self.request(DiskOperation::Flush),
            Work::Trim => self.next_trim(),
            Work::PacketRead => self.packet_fill(),
            Work::PacketReadDma => self.packet_again(),
            Work::None | Work::Reply | Work::Packet | Work::PacketReply | Work::PacketParameters => self.abort(),
            _ => self.memory_again(),
        }
    }

    /// Asks for the memory of the current transfer once more.
    pub fn memory_wanted(&mut self) -> Step {
        if self.state.phase == Phase::Dma { self.memory_again() } else { Step::None }
    }

    fn memory_again(&mut self) -> Step {
        let len = match self.state.work {
            Work::PacketReplyDma => self.state.buffer.len() as u64,
            Work::PacketReadDma => self.packet_read_len(),
            Work::PacketParametersDma => u64::from(self.state.left),
            _ => u64::from(self.state.left) * SECTOR as u64,
        };
        let to_memory = !matches!(self.state.work, Work::WriteDma | Work::Trim | Work::PacketParametersDma);
        self.want_memory(to_memory, len)
    }
}
