//! What each command does, but for the mode pages and the transfers (SPC-3, chapter 6; SBC-3, chapter 5; MMC-5, chapter 6).

use super::options::UnitKind;
use super::transfer::{Begun, done, fail};
use super::{Addressed, Command, Completion, Unit};
use crate::cdb::{Cdb, Direction, Transfer, op};
use crate::mmc;
use crate::sense::Sense;

/// The most that a command may move that is not a read or a write.
const MAX_EMULATED: u64 = 65536;

/// Formats of READ DVD STRUCTURE, with their lengths.
const DVD_FORMATS: [(u8, u16); 4] = [(0x00, 2048 + 4), (0x01, 4 + 4), (0x03, 188 + 4), (0x04, 2048 + 4)];

/// Data for the host, or why there is none.
type Reply = Result<Vec<u8>, Sense>;

impl Unit {
    /// Executes a command whose buffers are large enough.
    pub(super) fn execute(&mut self, addressed: Addressed<'_>, command: Command, transfer: Transfer) -> Begun {
        if !addressed.is_there || command.cdb.opcode() == op::REPORT_LUNS {
            return self.target_command(addressed, &command, transfer);
        }
        if command.cdb.opcode() == op::REQUEST_SENSE && self.state.has_sense {
            let reply = self.take_sense(&command.cdb);
            return Err(answer(&command, transfer, &reply));
        }
        match command.cdb.opcode() {
            op::READ_6 | op::READ_10 | op::READ_12 | op::READ_16 => self.read(command, transfer),
            op::WRITE_6
            | op::WRITE_10
            | op::WRITE_12
            | op::WRITE_16
            | op::WRITE_AND_VERIFY_10
            | op::WRITE_AND_VERIFY_12
            | op::WRITE_AND_VERIFY_16 => self.write(&command, transfer),
            _ => self.emulate(&command, transfer),
        }
    }

    /// Commands that work without a medium.
    fn works_without_medium(opcode: u8) -> bool {
        matches!(
            opcode,
            op::INQUIRY
                | op::MODE_SENSE_6
                | op::MODE_SENSE_10
                | op::RESERVE_6
                | op::RESERVE_10
                | op::RELEASE_6
                | op::RELEASE_10
                | op::START_STOP_UNIT
                | op::PREVENT_ALLOW_MEDIUM_REMOVAL
                | op::GET_CONFIGURATION
                | op::GET_EVENT_STATUS_NOTIFICATION
                | op::MECHANISM_STATUS
                | op::REQUEST_SENSE
        )
    }

    fn emulate(&mut self, command: &Command, transfer: Transfer) -> Begun {
        let cdb = &command.cdb;
        if !Self::works_without_medium(cdb.opcode()) && !self.is_available() {
            return fail(Sense::NO_MEDIUM);
        }
        if transfer.len > MAX_EMULATED {
            return fail(Sense::INVALID_FIELD);
        }
        match transfer.direction {
            Direction::Out => {
                let mut data = vec![0; transfer.len as usize];
                command.data_out.io().read_at(0, &mut data);
                self.emulate_out(command, &data)
            }
            _ => match cdb.opcode() {
                op::SYNCHRONIZE_CACHE_10 | op::SYNCHRONIZE_CACHE_16 => self.flush(),
                op::WRITE_SAME_10 | op::WRITE_SAME_16 => self.write_same(command, &[]),
                // Without parameters there is nothing to change.
                op::UNMAP => self.unmap(command, &[]),
                op::MODE_SELECT_6 | op::MODE_SELECT_10 => done(),
                _ => match self.emulate_in(cdb) {
                    Ok(mut data) => {
                        // As QEMU: what is asked for beyond the data is zero.
                        data.resize(transfer.len as usize, 0);
                        Err(answer(command, transfer, &data))
                    }
                    Err(sense) => fail(sense),
                },
            },
        }
    }

    fn emulate_out(&mut self, command: &Command, data: &[u8]) -> Begun {
        match command.cdb.opcode() {
            op::MODE_SELECT_6 | op::MODE_SELECT_10 => self.mode_select(&command.cdb, data),
            op::UNMAP => self.unmap(command, data),
            op::WRITE_SAME_10 | op::WRITE_SAME_16 => self.write_same(command, data),
            // No data to compare with, no defect lists, no reservations of other devices.
            op::VERIFY_10 | op::VERIFY_12 | op::VERIFY_16 | op::FORMAT_UNIT | op::RESERVE_10 | op::RELEASE_10 => {
                fail(Sense::INVALID_FIELD)
            }
            _ => fail(Sense::INVALID_OPCODE),
        }
    }

    fn emulate_in(&mut self, cdb: &Cdb) -> Reply {
        let flag = |bits: u8| if cdb.u8(1) & bits != 0 { Err(Sense::INVALID_FIELD) } else { Ok(Vec::new()) };
        let on_disk = |unit: &Self| {
            if unit.options.kind == UnitKind::Disk { Ok(Vec::new()) } else { Err(Sense::INVALID_OPCODE) }
        };
        match cdb.opcode() {
            op::TEST_UNIT_READY => Ok(Vec::new()),
            op::REQUEST_SENSE => Ok(if cdb.u8(1) & 1 == 0 { Sense::NONE.fixed() } else { Sense::NONE.descriptor() }),
            op::INQUIRY => self.inquiry(cdb),
            op::MODE_SENSE_6 | op::MODE_SENSE_10 => self.mode_sense(cdb),
            // There is one initiator.
            op::RESERVE_6 | op::RELEASE_6 => flag(1),
            op::RESERVE_10 | op::RELEASE_10 => flag(3),
            op::START_STOP_UNIT => self.start_stop_unit(cdb),
            op::PREVENT_ALLOW_MEDIUM_REMOVAL => {
                self.state.tray_locked = cdb.u8(4) & 1 != 0;
                Ok(Vec::new())
            }
            op::READ_CAPACITY_10 => self.read_capacity_10(cdb),
            op::SERVICE_ACTION_IN_16 if cdb.u8(1) & 0x1f == 0x10 => self.read_capacity_16(cdb),
            op::SERVICE_ACTION_IN_16 => Err(Sense::INVALID_FIELD),
            op::SEEK_10 if cdb.block() >= self.blocks() => Err(Sense::LBA_OUT_OF_RANGE),
            op::SEEK_10 => Ok(Vec::new()),
            op::VERIFY_10 | op::VERIFY_12 | op::VERIFY_16 => flag(6),
            op::FORMAT_UNIT => on_disk(self),
            op::READ_TOC
            | op::GET_CONFIGURATION
            | op::GET_EVENT_STATUS_NOTIFICATION
            | op::READ_DISC_INFORMATION
            | op::READ_DVD_STRUCTURE
            | op::MECHANISM_STATUS => self.multimedia(cdb),
            _ => Err(Sense::INVALID_OPCODE),
        }
    }

    // ---- What the target answers ----

    /// The stored sense data goes with its report.
    fn take_sense(&mut self, cdb: &Cdb) -> Vec<u8> {
        let sense = self.state.sense;
        if self.state.sense_is_attention {
            self.state.attention_reported();
        }
        self.state.clear_sense();
        if cdb.u8(1) & 1 == 0 { sense.fixed() } else { sense.descriptor() }
    }

    /// REPORT LUNS, and commands to a LUN that does not exist.
    fn target_command(&mut self, addressed: Addressed<'_>, command: &Command, transfer: Transfer) -> Begun {
        let cdb = &command.cdb;
        let is_base = addressed.lun == 0;
        if !is_base && !addressed.is_there && !matches!(cdb.opcode(), op::INQUIRY | op::REQUEST_SENSE) {
            return fail(Sense::UNIT_NOT_SUPPORTED);
        }
        let reply = match cdb.opcode() {
            op::REPORT_LUNS => report_luns(cdb, addressed.luns),
            op::INQUIRY => self.target_inquiry(cdb, is_base),
            op::REQUEST_SENSE if is_base => Ok(self.take_sense(cdb)),
            op::REQUEST_SENSE if cdb.u8(1) & 1 == 0 => Ok(Sense::UNIT_NOT_SUPPORTED.fixed()),
            op::REQUEST_SENSE => Ok(Sense::UNIT_NOT_SUPPORTED.descriptor()),
            op::TEST_UNIT_READY => Ok(Vec::new()),
            _ => Err(Sense::INVALID_OPCODE),
        };
        match reply {
            Ok(data) => Err(answer(command, transfer, &data)),
            Err(sense) => fail(sense),
        }
    }

    // ---- The unit ----

    fn start_stop_unit(&mut self, cdb: &Cdb) -> Reply {
        let (start, moves_tray, condition) = (cdb.u8(4) & 1 != 0, cdb.u8(4) & 2 != 0, cdb.u8(4) & 0xf0);
        if condition != 0 || !moves_tray || !self.options.is_removable() {
            return Ok(Vec::new());
        }
        let state = &mut self.state;
        if !start && !state.tray_open && state.tray_locked {
            return Err(if self.properties.medium {
                Sense::REMOVAL_PREVENTED
            } else {
                Sense::NOT_READY_REMOVAL_PREVENTED
            });
        }
        if state.tray_open == start {
            state.tray_open = !start;
            self.disk.tray_moved(!start);
        }
        Ok(Vec::new())
    }

    /// The last block; the field for a partial medium must say nothing.
    fn last_block(&self, cdb: &Cdb, is_partial: bool) -> Result<u64, Sense> {
        if self.properties.size == 0 {
            return Err(Sense::UNIT_NOT_READY);
        }
        if !is_partial && cdb.block() != 0 {
            return Err(Sense::INVALID_FIELD);
        }
        Ok(self.blocks().saturating_sub(1))
    }

    fn read_capacity_10(&self, cdb: &Cdb) -> Reply {
        let last = self.last_block(cdb, cdb.u8(8) & 1 != 0)?;
        let mut data = u32::try_from(last).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        data.extend(self.state.block_size.to_be_bytes());
        Ok(data)
    }

    fn read_capacity_16(&self, cdb: &Cdb) -> Reply {
        let last = self.last_block(cdb, cdb.u8(14) & 1 != 0)?;
        let mut data = last.to_be_bytes().to_vec();
        data.extend(self.state.block_size.to_be_bytes());
        // LBPME: logical block provisioning.
        let provisioning = if self.options.discard_granularity(&self.properties) == 0 { 0 } else { 0x80 };
        data.extend([0, self.options.physical_exponent(&self.properties), provisioning, 0]);
        data.resize(32, 0);
        Ok(data)
    }

    // ---- The medium of a CD or DVD drive ----

    /// The profile of the medium in the closed drive.
    fn profile(&self) -> Option<u16> {
        self.is_available().then(|| mmc::profile(self.properties.size / mmc::BLOCK))
    }

    fn multimedia(&mut self, cdb: &Cdb) -> Reply {
        if cdb.opcode() == op::READ_TOC {
            let (is_msf, blocks) = (cdb.u8(1) & 2 != 0, self.blocks());
            let toc = match cdb.u8(2) & 0xf {
                0 => mmc::toc(blocks, is_msf, cdb.u8(6)),
                1 => Some(mmc::sessions()),
                2 => Some(mmc::raw_toc(blocks, is_msf)),
                _ => None,
            };
            return toc.ok_or(Sense::INVALID_FIELD);
        }
        if self.options.kind != UnitKind::Cd {
            return Err(Sense::INVALID_FIELD);
        }
        match cdb.opcode() {
            op::GET_CONFIGURATION => Ok(self.configuration()),
            // Only polling exists.
            op::GET_EVENT_STATUS_NOTIFICATION if cdb.u8(1) & 1 != 0 => {
                let state = &mut self.state;
                let medium = (state.tray_open, self.properties.medium);
                Ok(mmc::event_status(cdb.u8(4), medium, &mut state.media_event, &mut state.eject_requested))
            }
            op::READ_DISC_INFORMATION if cdb.u8(1) & 7 == 0 => Ok(mmc::disc_information()),
            op::READ_DVD_STRUCTURE => self.dvd_structure(cdb),
            op::MECHANISM_STATUS => Ok(mmc::mechanism_status()),
            _ => Err(Sense::INVALID_FIELD),
        }
    }

    /// The profile list, the core feature and the removable medium feature.
    fn configuration(&self) -> Vec<u8> {
        let profile = self.profile();
        let mut data = vec![0, 0, 0, 36, 0, 0];
        data.extend(profile.unwrap_or(0).to_be_bytes());
        data.extend(mmc::profile_list(profile));
        // SCSI; device busy events. A tray that is loaded, locked and ejected by command, unlocked at first.
        data.extend([0, 1, 0x0b, 8, 0, 0, 0, 1, 1, 0, 0, 0]);
        data.extend([0, 3, 0x0b, 4, 0x39, 0, 0, 0]);
        data
    }

    fn dvd_structure(&self, cdb: &Cdb) -> Reply {
        const BURST_CUTTING_AREA: u8 = 0x03;
        let (media, layer, format) = (cdb.u8(1), cdb.u8(6), cdb.u8(7));
        if media != 0 {
            return Err(Sense::INVALID_FIELD);
        }
        if format != 0xff && self.profile() == Some(mmc::CD_ROM) {
            return Err(Sense::INCOMPATIBLE_FORMAT);
        }
        if format == BURST_CUTTING_AREA || format == 0 && layer != 0 {
            return Err(Sense::INVALID_FIELD);
        }
        let blocks = self.properties.size / mmc::BLOCK;
        mmc::dvd_structure(format, blocks, &DVD_FORMATS).ok_or(Sense::INVALID_FIELD)
    }
}

/// Data for the host: as much as the command asks for.
fn answer(command: &Command, transfer: Transfer, data: &[u8]) -> Completion {
    let len = data.len().min(transfer.len as usize).min(command.data_in.len());
    command.data_in.write_at(0, data.get(..len).unwrap_or_default());
    Completion::good(len, transfer.len)
}

/// REPORT LUNS (SPC-3, 6.21): LUN 0 first, whether it exists or not.
fn report_luns(cdb: &Cdb, luns: &[u16]) -> Reply {
    const LEAST: u32 = 16;
    if cdb.length_field() < LEAST || cdb.u8(2) > 2 {
        return Err(Sense::INVALID_FIELD);
    }
    let mut list = vec![0; 16];
    for lun in luns.iter().filter(|lun| **lun != 0) {
        let [high, low] = lun.to_be_bytes();
        // Simple addressing, or flat.
        list.extend([if *lun < 256 { 0 } else { 0x40 | high }, low, 0, 0, 0, 0, 0, 0]);
    }
    let len = (list.len() - 8) as u32;
    list[..4].copy_from_slice(&len.to_be_bytes());
    // No half LUNs.
    list.truncate(cdb.length_field() as usize & !7);
    Ok(list)
}
