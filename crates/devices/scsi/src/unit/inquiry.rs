//! INQUIRY (SPC-3, 6.4) and the vital product data pages (7.6; SBC-3, 6.6).

use super::Unit;
use super::options::UnitKind;
use crate::cdb::Cdb;
use crate::sense::Sense;

/// Bytes of the longest standard data.
const MAX_STANDARD: usize = 256;
const STANDARD: usize = 36;

fn text(data: &mut Vec<u8>, text: &str, len: usize, fill: u8) {
    data.extend(text.bytes().chain(std::iter::repeat(fill)).take(len));
}

impl Unit {
    fn peripheral_type(&self) -> u8 {
        match self.options.kind {
            UnitKind::Disk => 0x00,
            UnitKind::Cd => 0x05,
        }
    }

    pub(super) fn inquiry(&self, cdb: &Cdb) -> Result<Vec<u8>, Sense> {
        const EVPD: u8 = 1;
        if cdb.u8(1) & EVPD != 0 {
            let page = self.vital_product_data(cdb.u8(2)).ok_or(Sense::INVALID_FIELD)?;
            let mut data = vec![self.peripheral_type(), cdb.u8(2), 0, page.len() as u8];
            data.extend(page);
            return Ok(data);
        }
        if cdb.u8(2) != 0 {
            return Err(Sense::INVALID_FIELD);
        }
        let len = usize::from(cdb.be16(3)).min(MAX_STANDARD);
        let removable = if self.options.is_removable() { 0x80 } else { 0 };
        // HISUP, response format 2; the additional length grows with what is asked for.
        let additional = if len > STANDARD { len - 5 } else { STANDARD - 5 };
        let mut data =
            vec![self.peripheral_type(), removable, self.options.scsi_version, 0x12, additional as u8, 0, 0, 0x10];
        data[7] |= if self.options.queues_commands { 0x02 } else { 0 };
        text(&mut data, &self.options.vendor, 8, b' ');
        text(&mut data, &self.options.product, 16, b' ');
        text(&mut data, &self.options.version, 4, 0);
        Ok(data)
    }

    /// What a target tells of a LUN that does not exist.
    pub(super) fn target_inquiry(&self, cdb: &Cdb, is_base: bool) -> Result<Vec<u8>, Sense> {
        const EVPD: u8 = 1;
        const COMMAND_SUPPORT: u8 = 2;
        if cdb.u8(1) & COMMAND_SUPPORT != 0 || cdb.u8(2) != 0 {
            return Err(Sense::INVALID_FIELD);
        }
        if cdb.u8(1) & EVPD != 0 {
            return Ok(vec![0, 0, 1, 0]);
        }
        if !is_base {
            let mut data = vec![0; STANDARD];
            data[0] = 0x7f;
            return Ok(data);
        }
        let len = usize::from(cdb.be16(3)).min(STANDARD);
        let mut data = vec![0x3f, 0, 5, 0x12, len.saturating_sub(5) as u8, 0, 0, 0x10];
        data[7] |= if self.options.queues_commands { 0x02 } else { 0 };
        text(&mut data, "QEMU", 8, b' ');
        text(&mut data, "QEMU TARGET", 16, b' ');
        text(&mut data, self.options.version.get(..3).unwrap_or(&self.options.version), 4, 0);
        Ok(data)
    }

    fn vital_product_data(&self, page: u8) -> Option<Vec<u8>> {
        let is_disk = self.options.kind == UnitKind::Disk;
        let serial = self.options.serial(&self.properties);
        Some(match page {
            0x00 => {
                let mut pages = vec![0x00];
                pages.extend(serial.map(|_| 0x80));
                pages.push(0x83);
                pages.extend(if is_disk { &[0xb0, 0xb1, 0xb2][..] } else { &[] });
                pages
            }
            0x80 => serial?.bytes().take(36).collect(),
            0x83 => self.identification(),
            0xb0 if is_disk => self.block_limits(),
            0xb1 => {
                let mut page = self.options.rotation_rate.to_be_bytes().to_vec();
                page.resize(0x3c, 0);
                page
            }
            0xb2 => {
                // UNMAP and WRITE SAME (10 and 16) unmap.
                let is_thin = self.options.discard_granularity(&self.properties) != 0;
                vec![0, 0xe0, if is_thin { 2 } else { 1 }, 0]
            }
            _ => return None,
        })
    }

    /// Page 83: the unit's names.
    fn identification(&self) -> Vec<u8> {
        let mut page = Vec::new();
        if let Some(id) = self.options.device_id(&self.properties)
            && !id.is_empty()
        {
            let id = &id.as_bytes()[..id.len().min(200)];
            page.extend([0x02, 0, 0, id.len() as u8]);
            page.extend(id);
        }
        if self.options.wwn != 0 {
            page.extend([0x01, 0x03, 0, 8]);
            page.extend(self.options.wwn.to_be_bytes());
        }
        if self.options.port_wwn != 0 {
            page.extend([0x61, 0x93, 0, 8]);
            page.extend(self.options.port_wwn.to_be_bytes());
        }
        if self.options.port_index != 0 {
            page.extend([0x61, 0x94, 0, 4, 0, 0]);
            page.extend(self.options.port_index.to_be_bytes());
        }
        page
    }

    /// Page B0.
    fn block_limits(&self) -> Vec<u8> {
        const UNMAP_DESCRIPTORS: u32 = 255;
        let (options, disk) = (&self.options, &self.properties);
        let blocks = |bytes: u64| u32::try_from(bytes / u64::from(self.state.block_size.max(1))).unwrap_or(u32::MAX);
        let max = blocks(options.max_io_size.min(i32::MAX as u64));
        let at_most = |blocks: u32| if max == 0 { blocks } else { blocks.min(max) };
        let minimum = at_most(blocks(u64::from(options.min_io_size.unwrap_or(disk.min_io_size))));
        let optimum = at_most(blocks(u64::from(options.opt_io_size.unwrap_or(disk.opt_io_size))));
        let mut page = vec![1, 0];
        page.extend((minimum as u16).to_be_bytes());
        for number in [
            max,
            optimum,
            0,
            blocks(options.max_unmap_size),
            UNMAP_DESCRIPTORS,
            blocks(u64::from(options.discard_granularity(disk))),
            0,
        ] {
            page.extend(number.to_be_bytes());
        }
        page.extend(u64::from(max).to_be_bytes());
        page.resize(0x3c, 0);
        page
    }
}
