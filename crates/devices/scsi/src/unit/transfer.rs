//! Commands that the disk works on: what it has to do, request by request.

use std::collections::VecDeque;

use device::disk::{DiskError, DiskOperation};
use iobuf::IoBuf;
use memory::DmaBuffer;

use super::{Command, Completion, Unit};
use crate::cdb::{Transfer, op};
use crate::sense::Sense;

/// What a command has begun with, or how it has ended already.
pub(super) type Begun = Result<(Job, DiskOperation), Completion>;

/// A command in the disk's hands.
pub(super) struct Job {
    /// What comes after the request in flight.
    rest: Rest,
    /// Where a read stores.
    target: Option<DmaBuffer>,
    /// Bytes that a success has moved.
    len: usize,
}

/// The requests that follow.
enum Rest {
    None,
    /// One more.
    One(DiskOperation),
    /// Ranges to discard.
    Discards(VecDeque<Range>),
    /// A pattern for bytes from `offset` on, `left` of them.
    Pattern {
        pattern: IoBuf,
        offset: u64,
        left: u64,
    },
}

/// Bytes of the disk.
struct Range {
    offset: u64,
    len: u64,
}

impl Job {
    fn new(rest: Rest) -> Self {
        Self { rest, target: None, len: 0 }
    }

    fn moving(mut self, len: usize, target: Option<DmaBuffer>) -> Self {
        (self.len, self.target) = (len, target);
        self
    }

    /// A request has ended: the next one, or how the command ends.
    pub(super) fn finished(&mut self, result: Result<(), DiskError>) -> Result<DiskOperation, Completion> {
        if let Err(error) = result {
            self.abandon();
            return Err(Completion::check(sense_of(error)));
        }
        match &mut self.rest {
            Rest::None => {}
            Rest::One(_) => {
                if let Rest::One(operation) = std::mem::replace(&mut self.rest, Rest::None) {
                    return Ok(operation);
                }
            }
            Rest::Discards(ranges) => {
                if let Some(range) = ranges.pop_front() {
                    return range.discard().map_err(Completion::check);
                }
            }
            Rest::Pattern { pattern, offset, left } => {
                let done = pattern.len() as u64;
                *offset = offset.saturating_add(done);
                *left = left.saturating_sub(done);
                if *left > 0 {
                    let len = (*left).min(done) as usize;
                    let buf = pattern.slice(0, len);
                    *pattern = buf.clone();
                    return Ok(DiskOperation::Write { offset: *offset, buf, fua: false });
                }
            }
        }
        self.abandon();
        Err(Completion::good(self.len, self.len as u64))
    }

    /// The disk has let go of the memory.
    pub(super) fn abandon(&mut self) {
        if let Some(target) = self.target.take() {
            target.stored(0, self.len.min(target.len()));
        }
    }
}

impl Range {
    const MISSING: u64 = u64::MAX;

    fn discard(&self) -> Result<DiskOperation, Sense> {
        if self.offset == Self::MISSING {
            return Err(Sense::LBA_OUT_OF_RANGE);
        }
        Ok(DiskOperation::Discard { offset: self.offset, len: self.len })
    }
}

fn sense_of(error: DiskError) -> Sense {
    match error {
        DiskError::NoMedium => Sense::NO_MEDIUM,
        DiskError::Invalid => Sense::INVALID_FIELD,
        DiskError::NoSpace => Sense::NO_SPACE,
        DiskError::ReadOnly => Sense::WRITE_PROTECTED,
        DiskError::Unsupported | DiskError::Io => Sense::IO_ERROR,
    }
}

/// A command that fails at once.
pub(super) fn fail(sense: Sense) -> Begun {
    Err(Completion::check(sense))
}

/// A command that is done.
pub(super) fn done() -> Begun {
    Err(Completion::good(0, 0))
}

impl Unit {
    /// The byte range of blocks that the medium has. No blocks may begin just behind its end.
    fn range(&self, block: u64, blocks: u32) -> Result<Range, Sense> {
        let end = block.checked_add(u64::from(blocks)).filter(|end| *end <= self.blocks());
        let size = u64::from(self.state.block_size);
        match end {
            Some(_) => Ok(Range { offset: block * size, len: u64::from(blocks) * size }),
            None => Err(Sense::LBA_OUT_OF_RANGE),
        }
    }

    /// Protection information does not exist (SBC-3, 4.22). The bits were the LUN's in older versions.
    fn has_protection(&self, command: &Command) -> bool {
        command.cdb.length() != Some(6) && self.options.scsi_version > 2 && command.cdb.u8(1) & 0xe0 != 0
    }

    /// READ.
    pub(super) fn read(&mut self, command: Command, transfer: Transfer) -> Begun {
        if !self.is_available() {
            return fail(Sense::NO_MEDIUM);
        }
        if self.has_protection(&command) {
            return fail(Sense::INVALID_FIELD);
        }
        let range = match self.range(command.cdb.block(), command.cdb.blocks()) {
            Ok(range) => range,
            Err(sense) => return fail(sense),
        };
        let len = transfer.len as usize;
        if len == 0 {
            return done();
        }
        let read = DiskOperation::Read { offset: range.offset, buf: command.data_in.io().slice(0, len) };
        // FUA: what is read is what is on stable storage.
        let fua = command.cdb.length() != Some(6) && command.cdb.u8(1) & 8 != 0;
        let (rest, first) = if fua { (Rest::One(read), DiskOperation::Flush) } else { (Rest::None, read) };
        Ok((Job::new(rest).moving(len, Some(command.data_in)), first))
    }

    /// WRITE, WRITE AND VERIFY.
    pub(super) fn write(&mut self, command: &Command, transfer: Transfer) -> Begun {
        if !self.is_available() {
            return fail(Sense::NO_MEDIUM);
        }
        if self.is_read_only() {
            return fail(Sense::WRITE_PROTECTED);
        }
        if self.has_protection(command) {
            return fail(Sense::INVALID_FIELD);
        }
        let range = match self.range(command.cdb.block(), command.cdb.blocks()) {
            Ok(range) => range,
            Err(sense) => return fail(sense),
        };
        let len = transfer.len as usize;
        if len == 0 {
            return done();
        }
        let verifies =
            matches!(command.cdb.opcode(), op::WRITE_AND_VERIFY_10 | op::WRITE_AND_VERIFY_12 | op::WRITE_AND_VERIFY_16);
        let fua = verifies || command.cdb.length() != Some(6) && command.cdb.u8(1) & 8 != 0;
        let buf = command.data_out.io().slice(0, len);
        Ok((Job::new(Rest::None).moving(len, None), DiskOperation::Write { offset: range.offset, buf, fua }))
    }

    /// SYNCHRONIZE CACHE: all of it.
    pub(super) fn flush(&self) -> Begun {
        Ok((Job::new(Rest::None), DiskOperation::Flush))
    }

    /// What follows a MODE SELECT that took `len` bytes: a cache that was turned off is written back.
    pub(super) fn flush_after(len: usize) -> Begun {
        Ok((Job::new(Rest::None).moving(len, None), DiskOperation::Flush))
    }

    /// UNMAP (SBC-3, 5.28).
    pub(super) fn unmap(&self, command: &Command, parameters: &[u8]) -> Begun {
        const HEADER: usize = 8;
        const DESCRIPTOR: usize = 16;
        const ANCHOR: u8 = 1;
        if command.cdb.u8(1) & ANCHOR != 0 {
            return fail(Sense::INVALID_FIELD);
        }
        let [a, b, c, d, _, _, _, _, descriptors @ ..] = parameters else { return fail(Sense::PARAMETER_LENGTH) };
        let (data_len, list_len) =
            (usize::from(u16::from_be_bytes([*a, *b])), usize::from(u16::from_be_bytes([*c, *d])));
        let is_whole = parameters.len() >= data_len + 2 && parameters.len() >= list_len + HEADER;
        if !is_whole || !list_len.is_multiple_of(DESCRIPTOR) {
            return fail(Sense::PARAMETER_LENGTH);
        }
        if self.is_read_only() {
            return fail(Sense::WRITE_PROTECTED);
        }
        let mut ranges = VecDeque::new();
        for descriptor in descriptors.get(..list_len).unwrap_or_default().chunks_exact(DESCRIPTOR) {
            let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
            let (block, blocks) = (number(&descriptor[..8]), number(&descriptor[8..12]) as u32);
            match self.range(block, blocks) {
                Ok(range) if range.len == 0 => {}
                Ok(range) => ranges.push_back(range),
                Err(_) => {
                    ranges.push_back(Range { offset: Range::MISSING, len: 0 });
                    break;
                }
            }
        }
        // The ranges before a bad one are unmapped.
        match ranges.pop_front().map(|range| range.discard()) {
            None => Err(Completion::good(parameters.len(), parameters.len() as u64)),
            Some(Err(sense)) => fail(sense),
            Some(Ok(operation)) => Ok((Job::new(Rest::Discards(ranges)).moving(parameters.len(), None), operation)),
        }
    }

    /// WRITE SAME (SBC-3, 5.44 and 5.46).
    pub(super) fn write_same(&self, command: &Command, block: &[u8]) -> Begun {
        const NO_DATA: u8 = 0x01;
        const UNMAP: u8 = 0x08;
        /// PBDATA, LBDATA, ANCHOR.
        const UNSUPPORTED: u8 = 0x16;
        /// Bytes of one write.
        const AT_ONCE: u64 = 512 << 10;
        let (flags, blocks) = (command.cdb.u8(1), command.cdb.blocks());
        if blocks == 0 || flags & UNSUPPORTED != 0 {
            return fail(Sense::INVALID_FIELD);
        }
        if self.is_read_only() {
            return fail(Sense::WRITE_PROTECTED);
        }
        let Range { offset, len } = match self.range(command.cdb.block(), blocks) {
            Ok(range) => range,
            Err(sense) => return fail(sense),
        };
        if flags & NO_DATA != 0 || block.iter().all(|byte| *byte == 0) {
            let operation = DiskOperation::WriteZeroes { offset, len, unmap: flags & UNMAP != 0 };
            return Ok((Job::new(Rest::None).moving(block.len(), None), operation));
        }
        let pattern = IoBuf::copy_of(&block.repeat((len.min(AT_ONCE) / block.len() as u64).max(1) as usize));
        let first = DiskOperation::Write { offset, buf: pattern.clone(), fua: false };
        Ok((Job::new(Rest::Pattern { pattern, offset, left: len }).moving(block.len(), None), first))
    }
}
