//! The packet command feature set (SFF-8020i; ATA8-ACS, 7.18): how packets arrive, how their data leaves, sense data.
//!
//! What the packets mean is in [`mod@commands`] and [`mod@data`].

mod commands;
mod data;
#[cfg(test)]
mod tests;

use device::disk::{DiskError, DiskOperation};
pub(crate) use devices_scsi::sense::{asc, key};
use iobuf::IoBuf;
use memory::DmaBuffer;
use state::State;

use crate::drive::{ABRT, Drive, Phase, Step, Work, status};

/// Bytes of a packet.
pub const PACKET_LEN: usize = 12;
/// Bytes of a block of a data disc.
pub(crate) const BLOCK: usize = 2048;
/// Bytes of a block with all that is around the data.
pub(crate) const RAW_BLOCK: usize = 2352;
/// Blocks that a read without DMA takes from the disk at once.
const PIO_CHUNK: u32 = 16;
/// Blocks of one request of a DMA read.
const DMA_CHUNK: u32 = 8192;

/// The interrupt reason: in the sector count register.
mod reason {
    pub const COMMAND: u8 = 1;
    pub const IN: u8 = 2;
}

/// What a guest has been told of a new medium. The number is saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[repr(u8)]
pub(crate) enum MediumNews {
    /// Everything.
    #[default]
    Known = 0,
    /// Nothing: the next command finds no medium.
    Removed = 1,
    /// That there was none: the next command finds that it may have changed.
    Changed = 2,
}

/// The guest-visible state of a packet drive, beside its registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "ide_drive/atapi", version = 1)]
pub struct AtapiState {
    pub(crate) packet: [u8; PACKET_LEN],
    /// The data of this command moves by DMA.
    pub(crate) dma: bool,
    /// The most bytes of a block that the host takes.
    pub(crate) limit: u16,
    /// Bytes that have not been offered to the host.
    pub(crate) remaining: u64,
    /// Blocks are read with all that is around the data.
    pub(crate) raw: bool,
    pub(crate) sense_key: u8,
    pub(crate) asc: u8,
    pub(crate) tray_open: bool,
    pub(crate) tray_locked: bool,
    pub(crate) news: MediumNews,
    pub(crate) new_media: bool,
    pub(crate) eject_requested: bool,
}

impl Drive<'_> {
    // ---- Packets ----

    /// PACKET: a packet is awaited.
    pub(crate) fn packet_command(&mut self) -> Step {
        let feature = self.state.feature.now;
        // Overlapped commands don't exist here.
        if feature & 2 != 0 {
            return self.abort();
        }
        let [_, mid, high] = self.state.lba.map(|register| register.now);
        let atapi = &mut self.state.atapi;
        atapi.dma = feature & 1 != 0;
        atapi.limit = u16::from_le_bytes([mid, high]);
        self.state.work = Work::Packet;
        self.state.count.now = reason::COMMAND;
        self.state.transferred = 0;
        self.expect(PACKET_LEN, false)
    }

    /// The packet is there.
    pub fn packet(&mut self, packet: [u8; PACKET_LEN]) -> Step {
        self.state.atapi.packet = packet;
        self.state.forget_data();
        self.state.transferred = 0;
        self.execute(&packet)
    }

    // ---- How packets end ----

    fn packet_end(&mut self, status: u8, error: u8) -> Step {
        self.end(status, error);
        self.state.count.now = (self.state.count.now & !7) | reason::COMMAND | reason::IN;
        Step::Interrupt
    }

    /// Success.
    pub(crate) fn good(&mut self) -> Step {
        self.packet_end(status::DRDY | status::DSC, 0)
    }

    /// CHECK CONDITION with sense data.
    pub(crate) fn check(&mut self, key: u8, code: u8) -> Step {
        (self.state.atapi.sense_key, self.state.atapi.asc) = (key, code);
        self.packet_end(status::DRDY | status::ERR, key << 4)
    }

    /// Whether the host takes data at all. If not, the command is aborted (ATA8-ACS, 7.18.3: byte count limit).
    pub(crate) fn takes_data(&self) -> bool {
        self.state.atapi.dma || self.state.atapi.limit != 0
    }

    /// The packet is refused by the transport's rules, not by the drive's.
    pub(crate) fn refuse(&mut self) -> Step {
        self.packet_end(status::DRDY | status::ERR, ABRT)
    }

    // ---- Data to the host ----

    /// Data of the drive's own, at most `allocated` bytes of it.
    pub(crate) fn answer(&mut self, mut data: Vec<u8>, allocated: usize) -> Step {
        data.truncate(allocated);
        if data.is_empty() {
            return self.good();
        }
        self.state.atapi.remaining = data.len() as u64;
        self.state.left = 0;
        self.state.buffer = data;
        self.state.position = 0;
        if self.state.atapi.dma {
            self.state.work = Work::PacketReplyDma;
            self.want_memory(true, self.state.buffer.len() as u64)
        } else {
            self.state.work = Work::PacketReply;
            self.next_packet_block()
        }
    }

    /// Blocks of the medium, which exist.
    pub(crate) fn read_blocks(&mut self, first: u64, count: u32, is_raw: bool) -> Step {
        let bytes = if is_raw { RAW_BLOCK } else { BLOCK };
        (self.state.sector, self.state.left) = (first, count);
        self.state.atapi.raw = is_raw;
        self.state.atapi.remaining = u64::from(count) * bytes as u64;
        if self.state.atapi.dma {
            self.state.work = Work::PacketReadDma;
            self.want_memory(true, self.state.atapi.remaining)
        } else {
            self.state.work = Work::PacketRead;
            self.packet_fill()
        }
    }

    /// Reads ahead for a host that takes the data itself.
    pub(crate) fn packet_fill(&mut self) -> Step {
        self.state.chunk = self.state.left.min(PIO_CHUNK);
        self.read_bounce()
    }

    fn read_bounce(&mut self) -> Step {
        let buf = IoBuf::zeroed(self.state.chunk as usize * BLOCK);
        self.host.bounce = Some(buf.clone());
        self.request(DiskOperation::Read { offset: self.state.sector.saturating_mul(BLOCK as u64), buf })
    }

    /// Bytes of the next block that the host reads.
    fn block_len(&self) -> usize {
        let remaining = self.state.atapi.remaining;
        // 0xffff stands for 0xfffe, and only the last block may be odd.
        let limit = u64::from(self.state.atapi.limit.min(0xfffe));
        remaining.min(if limit < remaining { limit & !1 } else { limit }.max(2)) as usize
    }

    fn next_packet_block(&mut self) -> Step {
        let len = self.block_len();
        let start = self.state.position as usize;
        if self.state.buffer.len() < start + len && self.state.left > 0 {
            return self.packet_fill();
        }
        self.state.atapi.remaining = self.state.atapi.remaining.saturating_sub(len as u64);
        let [low, high, ..] = (len as u32).to_le_bytes();
        (self.state.lba[1].now, self.state.lba[2].now) = (low, high);
        self.state.count.now = (self.state.count.now & !7) | reason::IN;
        self.offer(start + len, true)
    }

    /// The host has read a block.
    pub(crate) fn packet_block_read(&mut self) -> Step {
        if self.state.atapi.remaining == 0 { self.good() } else { self.next_packet_block() }
    }

    /// The disk has read, or not.
    pub(crate) fn packet_read_done(&mut self, result: Result<(), DiskError>) -> Step {
        let bounce = self.host.bounce.take();
        if let Err(error) = result {
            self.note_packet_stores(self.state.chunk as usize * BLOCK);
            return match error {
                DiskError::NoMedium => self.check(key::NOT_READY, asc::MEDIUM_NOT_PRESENT),
                _ => self.check(key::MEDIUM_ERROR, asc::UNRECOVERED_READ_ERROR),
            };
        }
        let (first, chunk) = (self.state.sector, self.state.chunk);
        self.state.sector = first.saturating_add(u64::from(chunk));
        self.state.left = self.state.left.saturating_sub(chunk);
        let is_raw = self.state.atapi.raw;
        let copied = bounce.map(|bounce| if is_raw { data::raw(first, &bounce.to_vec()) } else { bounce.to_vec() });
        if self.state.work == Work::PacketRead {
            let consumed = self.state.position as usize;
            self.state.buffer.drain(..consumed.min(self.state.buffer.len()));
            self.state.position = 0;
            self.state.buffer.extend(copied.unwrap_or_default());
            return self.next_packet_block();
        }
        let done = self.state.transferred as usize;
        let Some(memory) = &self.host.memory else { return self.starve() };
        let moved = match copied {
            None => {
                let len = (chunk as usize * BLOCK).min(memory.len().saturating_sub(done));
                memory.stored(done, len);
                len
            }
            Some(copied) => {
                let len = copied.len().min(memory.len().saturating_sub(done));
                memory.write_at(done, &copied[..len]);
                len
            }
        };
        self.state.transferred = self.state.transferred.saturating_add(moved as u32);
        self.next_dma_read()
    }

    fn note_packet_stores(&self, len: usize) {
        if let Some(memory) = &self.host.memory {
            let done = (self.state.transferred as usize).min(memory.len());
            memory.stored(done, len.min(memory.len() - done));
        }
    }

    // ---- Data by DMA ----

    /// Memory for the data of a packet.
    pub(crate) fn packet_dma(&mut self, memory: DmaBuffer) -> Step {
        match self.state.work {
            Work::PacketReplyDma => {
                let len = self.state.buffer.len().min(memory.len());
                memory.write_at(0, &self.state.buffer[..len]);
                let is_whole = len == self.state.buffer.len();
                self.state.transferred = len as u32;
                if is_whole { self.good() } else { self.starve() }
            }
            Work::PacketReadDma => {
                self.host.memory = Some(memory);
                self.next_dma_read()
            }
            Work::PacketParametersDma => {
                let len = (self.state.left as usize).min(memory.len());
                self.state.buffer = vec![0; len];
                memory.io().read_at(0, &mut self.state.buffer);
                self.state.transferred = len as u32;
                let parameters = std::mem::take(&mut self.state.buffer);
                self.mode_select_parameters(&parameters)
            }
            _ => self.abort(),
        }
    }

    fn next_dma_read(&mut self) -> Step {
        if self.state.left == 0 {
            return self.good();
        }
        let done = self.state.transferred as usize;
        let Some(memory) = &self.host.memory else { return self.starve() };
        let space = memory.len().saturating_sub(done);
        if space == 0 {
            return self.starve();
        }
        if self.state.atapi.raw || space < BLOCK {
            self.state.chunk = self.state.left.min(PIO_CHUNK).min((space / BLOCK).max(1) as u32);
            return self.read_bounce();
        }
        let chunk = self.state.left.min(DMA_CHUNK).min((space / BLOCK) as u32);
        let buf = memory.io().slice(done, chunk as usize * BLOCK);
        self.state.chunk = chunk;
        self.request(DiskOperation::Read { offset: self.state.sector.saturating_mul(BLOCK as u64), buf })
    }

    /// Bytes of a DMA read that has not begun.
    pub(crate) fn packet_read_len(&self) -> u64 {
        self.state.atapi.remaining
    }

    /// Begins a DMA read whose memory is gone again.
    pub(crate) fn packet_again(&mut self) -> Step {
        let packet = self.state.atapi.packet;
        self.packet(packet)
    }

    // ---- Data from the host ----

    /// Wants `len` bytes of parameters.
    pub(crate) fn want_parameters(&mut self, len: usize) -> Step {
        if self.state.atapi.dma {
            (self.state.work, self.state.left) = (Work::PacketParametersDma, len as u32);
            return self.want_memory(false, len as u64);
        }
        self.state.work = Work::PacketParameters;
        let step = self.expect(len, true);
        self.limit_block_out();
        step
    }

    fn limit_block_out(&mut self) {
        let state = &mut *self.state;
        let left = state.buffer.len() - (state.position as usize).min(state.buffer.len());
        let len = left.min(usize::from(state.atapi.limit.min(0xfffe) & !1).max(2));
        state.end = state.position + len as u32;
        let [low, high, ..] = (len as u32).to_le_bytes();
        (state.lba[1].now, state.lba[2].now) = (low, high);
        state.count.now &= !7;
    }

    /// The host has written a block of parameters.
    pub(crate) fn packet_parameters(&mut self) -> Step {
        if (self.state.position as usize) < self.state.buffer.len() {
            self.limit_block_out();
            self.state.phase = Phase::DataOut;
            return Step::Data { interrupt: true };
        }
        let parameters = std::mem::take(&mut self.state.buffer);
        self.mode_select_parameters(&parameters)
    }

    // ---- The medium ----

    /// A medium went in or out, and the tray moved.
    pub fn medium_changed(&mut self, loaded: bool) {
        self.disk_changed();
        let atapi = &mut self.state.atapi;
        atapi.tray_open = !loaded;
        atapi.news = MediumNews::Removed;
        atapi.new_media = true;
        atapi.eject_requested = false;
    }

    /// Somebody wants the tray open; with `force` it is not locked any more.
    pub fn eject_request(&mut self, force: bool) {
        let atapi = &mut self.state.atapi;
        atapi.eject_requested = true;
        if force {
            atapi.tray_locked = false;
        }
    }

    /// The tray is open.
    pub fn is_tray_open(&self) -> bool {
        self.state.atapi.tray_open
    }

    /// The guest has locked the tray.
    pub fn is_locked(&self) -> bool {
        self.state.atapi.tray_locked
    }
}
