//! MODE SENSE and MODE SELECT (SPC-3, 6.7 to 6.10) with the pages of disks (SBC-3, 6.4) and CD drives (MMC-5, 7.2).
//!
//! What can be changed: the write cache, and the size of blocks. Pages are not saved.

use super::options::UnitKind;
use super::transfer::{Begun, fail};
use super::{Completion, Unit};
use crate::cdb::{Cdb, op};
use crate::sense::Sense;

/// Page codes.
mod page {
    pub const READ_WRITE_ERROR: u8 = 0x01;
    pub const RIGID_GEOMETRY: u8 = 0x04;
    pub const FLEXIBLE_DISK: u8 = 0x05;
    pub const CACHING: u8 = 0x08;
    pub const AUDIO_CONTROL: u8 = 0x0e;
    pub const CAPABILITIES: u8 = 0x2a;
    pub const ALL: u8 = 0x3f;
}

/// Write cache enable, in the caching page.
const WCE: u8 = 4;
const WCE_AT: usize = 2;

/// Which values of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Current,
    /// A one for each bit that can be changed.
    Changeable,
}

/// A field at an offset in a page.
fn set(page: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(field) = page.get_mut(at..at + bytes.len()) {
        field.copy_from_slice(bytes);
    }
}

impl Unit {
    /// The page `code` with its header; `None` if the unit does not have it.
    fn mode_page(&self, code: u8, values: Values) -> Option<Vec<u8>> {
        let (is_disk, is_current) = (self.options.kind == UnitKind::Disk, values == Values::Current);
        let len = match code {
            page::READ_WRITE_ERROR => 10,
            page::RIGID_GEOMETRY if is_disk => 0x16,
            page::FLEXIBLE_DISK if is_disk => 0x1e,
            page::CACHING => 0x12,
            page::AUDIO_CONTROL if !is_disk => 14,
            page::CAPABILITIES if !is_disk => 0x14,
            _ => return None,
        };
        let mut page = vec![0; len + 2];
        (page[0], page[1]) = (code, len as u8);
        match code {
            // Automatic write reallocation; a retry count on CDs.
            page::READ_WRITE_ERROR if is_current || !is_disk => {
                page[2] = 0x80;
                page[3] = if is_current && !is_disk { 0x20 } else { 0 };
            }
            page::RIGID_GEOMETRY if is_current => self.rigid_geometry(&mut page),
            page::FLEXIBLE_DISK if is_current => self.flexible_disk(&mut page),
            page::CACHING if !is_current || self.properties.write_cache => page[WCE_AT] = WCE,
            page::CAPABILITIES if is_current => self.capabilities(&mut page),
            _ => {}
        }
        Some(page)
    }

    fn rigid_geometry(&self, page: &mut [u8]) {
        let geometry = self.options.geometry(&self.properties);
        let [_, high, middle, low] = u32::from(geometry.cylinders).to_be_bytes();
        set(page, 2, &[high, middle, low, geometry.heads]);
        // No write precompensation, no reduced current; steps of 200 ns; the landing zone; 5400 rpm.
        set(page, 6, &[high, middle, low, high, middle, low, 0, 200, 0xff, 0xff, 0xff]);
        set(page, 20, &5400u16.to_be_bytes());
    }

    fn flexible_disk(&self, page: &mut [u8]) {
        let geometry = self.options.geometry(&self.properties);
        let [high, low] = geometry.cylinders.to_be_bytes();
        set(page, 2, &5000u16.to_be_bytes());
        set(page, 4, &[geometry.heads, geometry.sectors, (self.state.block_size >> 8) as u8, 0, high, low]);
        // No write precompensation, no reduced current; delays; 5400 rpm.
        set(page, 10, &[high, low, high, low, 0, 1, 1, 0, 1, 1, 1]);
        set(page, 28, &5400u16.to_be_bytes());
    }

    fn capabilities(&self, page: &mut [u8]) {
        let lock = 0x2d | if self.state.tray_locked { 0x02 } else { 0 };
        // Reads all media, plays audio; 50-fold speed and 2 MiB of buffer; 16-fold at the moment.
        set(page, 2, &[0x3b, 0x00, 0x7f, 0xff, lock, 0x00]);
        for (at, word) in [(8, 50 * 176u16), (10, 2), (12, 2048), (14, 16 * 176), (18, 16 * 176), (20, 16 * 176)] {
            set(page, at, &word.to_be_bytes());
        }
    }

    pub(super) fn mode_sense(&self, cdb: &Cdb) -> Result<Vec<u8>, Sense> {
        const DISABLE_BLOCK_DESCRIPTORS: u8 = 8;
        let is_short = cdb.opcode() == op::MODE_SENSE_6;
        let is_disk = self.options.kind == UnitKind::Disk;
        let (code, values) = match (cdb.u8(2) & 0x3f, cdb.u8(2) >> 6) {
            (_, 3) => return Err(Sense::SAVING_NOT_SUPPORTED),
            (code, 1) => (code, Values::Changeable),
            (code, _) => (code, Values::Current),
        };
        // Device-specific parameter: write protection, DPO and FUA. CDs have neither that nor block descriptors.
        let dpofua = if self.options.dpofua { 0x10 } else { 0 };
        let specific = if is_disk { dpofua | if self.is_read_only() { 0x80 } else { 0 } } else { 0 };
        let descriptor = is_disk && cdb.u8(1) & DISABLE_BLOCK_DESCRIPTORS == 0 && self.properties.size != 0;
        let descriptor_len = if descriptor { 8 } else { 0 };
        let mut data = if is_short {
            vec![0, 0, specific, descriptor_len]
        } else {
            vec![0, 0, 0, specific, 0, 0, 0, descriptor_len]
        };
        if descriptor {
            let [_, high, middle, low] =
                u32::try_from(self.blocks()).ok().filter(|n| *n <= 0xff_ffff).unwrap_or(0).to_be_bytes();
            data.extend([0, high, middle, low, 0, 0, (self.state.block_size >> 8) as u8, 0]);
        }
        if code == page::ALL {
            data.extend((0..page::ALL).filter_map(|code| self.mode_page(code, values)).flatten());
        } else {
            data.extend(self.mode_page(code, values).ok_or(Sense::INVALID_FIELD)?);
        }
        if is_short {
            data[0] = (data.len() - 1) as u8;
        } else {
            let len = (data.len() - 2) as u16;
            data[..2].copy_from_slice(&len.to_be_bytes());
        }
        Ok(data)
    }

    pub(super) fn mode_select(&mut self, cdb: &Cdb, data: &[u8]) -> Begun {
        // Page format yes, save pages no.
        if cdb.u8(1) & 0x11 != 0x10 {
            return fail(Sense::INVALID_FIELD);
        }
        match self.parse_mode_select(cdb, data) {
            Err(sense) => fail(sense),
            Ok((block_size, write_cache)) => {
                if let Some(size) = block_size {
                    self.state.block_size = size;
                }
                if let Some(on) = write_cache {
                    self.properties.write_cache = on;
                    self.disk.set_write_cache(on);
                }
                if self.properties.write_cache {
                    Err(Completion::good(data.len(), data.len() as u64))
                } else {
                    Self::flush_after(data.len())
                }
            }
        }
    }

    /// What the parameters change: the size of blocks, the write cache. Nothing is changed if anything is wrong.
    fn parse_mode_select(&self, cdb: &Cdb, data: &[u8]) -> Result<(Option<u32>, Option<bool>), Sense> {
        let byte = |at: usize| data.get(at).copied().unwrap_or(0);
        let (header, descriptor_len) = if cdb.opcode() == op::MODE_SELECT_6 {
            (4, usize::from(byte(3)))
        } else {
            (8, usize::from(byte(6)) << 8 | usize::from(byte(7)))
        };
        let rest = data.get(header..).ok_or(Sense::PARAMETER_LENGTH)?;
        let descriptor = rest.get(..descriptor_len).ok_or(Sense::PARAMETER_LENGTH)?;
        let block_size = match *descriptor {
            [] => None,
            [_, _, _, _, _, high, middle, low] => {
                let size = u32::from_be_bytes([0, high, middle, low]);
                // Sizes that are no sectors are ignored, as others are by QEMU.
                (size & !0xff00 == 0 && size != 0 && size.is_multiple_of(512)).then_some(size)
            }
            _ => return Err(Sense::INVALID_PARAMETER),
        };
        let write_cache = self.parse_pages(rest.get(descriptor_len..).unwrap_or_default())?;
        Ok((block_size, write_cache))
    }

    fn parse_pages(&self, mut rest: &[u8]) -> Result<Option<bool>, Sense> {
        let mut write_cache = None;
        while let [code, ..] = *rest {
            let (header, subpage, len) = match *rest {
                [code, subpage, high, low, ..] if code & 0x40 != 0 => {
                    (4, subpage, usize::from(u16::from_be_bytes([high, low])))
                }
                [code, len, ..] if code & 0x40 == 0 => (2, 0, usize::from(len)),
                _ => return Err(Sense::PARAMETER_LENGTH),
            };
            if subpage != 0 {
                return Err(Sense::INVALID_PARAMETER);
            }
            let given = rest.get(header..header + len).ok_or(Sense::PARAMETER_LENGTH)?;
            let code = code & 0x3f;
            let pages = (self.mode_page(code, Values::Current), self.mode_page(code, Values::Changeable));
            let (Some(current), Some(changeable)) = pages else { return Err(Sense::INVALID_PARAMETER) };
            let is_same = given.len() + 2 == current.len()
                && given
                    .iter()
                    .zip(&current[2..])
                    .zip(&changeable[2..])
                    .all(|((new, old), mask)| (new ^ old) & !mask == 0);
            if !is_same {
                return Err(Sense::INVALID_PARAMETER);
            }
            if let (page::CACHING, Some(flags)) = (code, given.first()) {
                write_cache = Some(flags & WCE != 0);
            }
            rest = rest.get(header + len..).unwrap_or_default();
        }
        Ok(write_cache)
    }
}
