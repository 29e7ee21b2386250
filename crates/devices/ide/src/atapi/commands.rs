//! The packets of a CD or DVD drive (MMC-5, chapter 6).

use super::{BLOCK, MediumNews, PACKET_LEN, asc, data, key};
use crate::drive::{Drive, Step};

/// What a packet needs.
struct Rule {
    /// It works while the drive wants attention.
    allows_attention: bool,
    /// It works only with a medium.
    needs_medium: bool,
    /// It moves data, whatever its parameters are.
    moves_data: bool,
}

impl Rule {
    fn of(code: u8) -> Option<Self> {
        let rule =
            |allows_attention, needs_medium, moves_data| Some(Self { allows_attention, needs_medium, moves_data });
        match code {
            // TEST UNIT READY, SEEK.
            0x00 | 0x2b => rule(false, true, false),
            // REQUEST SENSE, INQUIRY, GET CONFIGURATION, GET EVENT STATUS NOTIFICATION.
            0x03 | 0x12 | 0x46 | 0x4a => rule(true, false, true),
            // START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL, SET CD SPEED, MODE SELECT.
            0x1b | 0x1e | 0xbb | 0x55 => rule(false, false, false),
            // READ (6), (10) and (12), READ CAPACITY, TOC, DISC INFORMATION, DVD STRUCTURE.
            0x08 | 0x28 | 0xa8 | 0x25 | 0x43 | 0x51 | 0xad => rule(false, true, true),
            // READ CD moves what it is asked for, if anything.
            0xbe => rule(false, true, false),
            // MODE SENSE, MECHANISM STATUS.
            0x5a | 0xbd => rule(false, false, true),
            _ => None,
        }
    }
}

fn be16(packet: &[u8; PACKET_LEN], at: usize) -> usize {
    packet.get(at..at + 2).map_or(0, |bytes| usize::from(bytes[0]) << 8 | usize::from(bytes[1]))
}

fn be32(packet: &[u8; PACKET_LEN], at: usize) -> u32 {
    packet.get(at..at + 4).map_or(0, |bytes| bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
}

impl Drive<'_> {
    /// Blocks of the medium.
    pub(crate) fn blocks(&self) -> u64 {
        self.host.properties.size / BLOCK as u64
    }

    /// A medium is in the closed drive.
    pub(crate) fn has_medium(&self) -> bool {
        !self.state.atapi.tray_open && self.host.properties.medium && self.blocks() > 0
    }

    /// What a medium of this size is.
    pub(crate) fn profile(&self) -> Option<u16> {
        self.has_medium().then(|| data::profile(self.blocks()))
    }

    pub(super) fn execute(&mut self, packet: &[u8; PACKET_LEN]) -> Step {
        let rule = Rule::of(packet[0]);
        let allows_attention = rule.as_ref().is_some_and(|rule| rule.allows_attention);
        let needs_medium = rule.as_ref().is_some_and(|rule| rule.needs_medium);
        if !allows_attention {
            if self.state.atapi.sense_key == key::UNIT_ATTENTION {
                return self.check(key::UNIT_ATTENTION, self.state.atapi.asc);
            }
            // A new medium is told of in two steps, for guests that do not ask for events: gone, then there.
            if !self.state.atapi.tray_open && self.host.properties.medium {
                match self.state.atapi.news {
                    MediumNews::Known => {}
                    MediumNews::Removed => {
                        self.state.atapi.news = MediumNews::Changed;
                        return self.check(key::NOT_READY, asc::MEDIUM_NOT_PRESENT);
                    }
                    MediumNews::Changed => {
                        self.state.atapi.news = MediumNews::Known;
                        return self.check(key::UNIT_ATTENTION, asc::MEDIUM_MAY_HAVE_CHANGED);
                    }
                }
            }
        }
        if needs_medium && !self.has_medium() {
            return self.check(key::NOT_READY, asc::MEDIUM_NOT_PRESENT);
        }
        if rule.as_ref().is_some_and(|rule| rule.moves_data) && !self.takes_data() {
            return self.refuse();
        }
        if rule.is_none() {
            return self.check(key::ILLEGAL_REQUEST, asc::ILLEGAL_OPCODE);
        }
        self.dispatch(packet)
    }

    fn dispatch(&mut self, packet: &[u8; PACKET_LEN]) -> Step {
        match packet[0] {
            0x03 => self.request_sense(packet),
            0x08 => {
                let first = u64::from(be32(packet, 0) & 0x1f_ffff);
                let count = if packet[4] == 0 { 256 } else { u32::from(packet[4]) };
                self.read(first, count)
            }
            0x12 => self.inquiry(packet),
            0x1b => self.start_stop_unit(packet),
            0x1e => {
                self.state.atapi.tray_locked = packet[4] & 1 != 0;
                self.good()
            }
            0x25 => {
                let mut capacity = (self.blocks().saturating_sub(1) as u32).to_be_bytes().to_vec();
                capacity.extend((BLOCK as u32).to_be_bytes());
                self.answer(capacity, 8)
            }
            0x28 => self.read(u64::from(be32(packet, 2)), be16(packet, 7) as u32),
            0xa8 => self.read(u64::from(be32(packet, 2)), be32(packet, 6)),
            0x2b if u64::from(be32(packet, 2)) >= self.blocks() => {
                self.check(key::ILLEGAL_REQUEST, asc::BLOCK_OUT_OF_RANGE)
            }
            0x43 => self.read_toc(packet),
            0x46 => self.get_configuration(packet),
            0x4a => self.get_event_status(packet),
            0x51 => self.read_disc_information(packet),
            0x55 => self.mode_select(packet),
            0x5a => self.mode_sense(packet),
            0xad => self.read_dvd_structure(packet),
            0xbd => self.answer(data::mechanism_status(), be16(packet, 8)),
            0xbe => self.read_cd(packet),
            // TEST UNIT READY and SEEK where they may be; all speeds are the same.
            _ => self.good(),
        }
    }

    fn invalid_field(&mut self) -> Step {
        self.check(key::ILLEGAL_REQUEST, asc::INVALID_FIELD_IN_PACKET)
    }

    fn request_sense(&mut self, packet: &[u8; PACKET_LEN]) -> Step {
        let atapi = &mut self.state.atapi;
        let mut sense = vec![0; 18];
        (sense[0], sense[2], sense[7], sense[12]) = (0xf0, atapi.sense_key, 10, atapi.asc);
        (atapi.sense_key, atapi.asc) = (key::NO_SENSE, 0);
        self.answer(sense, usize::from(packet[4]))
    }

    // ---- Reads ----

    fn is_on_medium(&self, first: u64, count: u32) -> bool {
        first + u64::from(count) <= self.blocks()
    }

    fn read(&mut self, first: u64, count: u32) -> Step {
        if count == 0 {
            return self.good();
        }
        if !self.is_on_medium(first, count) {
            return self.check(key::ILLEGAL_REQUEST, asc::BLOCK_OUT_OF_RANGE);
        }
        self.read_blocks(first, count, false)
    }

    fn read_cd(&mut self, packet: &[u8; PACKET_LEN]) -> Step {
        let (first, count) = (u64::from(be32(packet, 2)), be32(packet, 5) & 0xff_ffff);
        if count == 0 {
            return self.good();
        }
        if !self.is_on_medium(first, count) {
            return self.check(key::ILLEGAL_REQUEST, asc::BLOCK_OUT_OF_RANGE);
        }
        let parts = packet[9] & 0xf8;
        if parts != 0 && !self.takes_data() {
            return self.refuse();
        }
        match parts {
            0x00 => self.good(),
            0x10 => self.read_blocks(first, count, false),
            0xf8 => self.read_blocks(first, count, true),
            _ => self.invalid_field(),
        }
    }

    // ---- The tray ----

    fn start_stop_unit(&mut self, packet: &[u8; PACKET_LEN]) -> Step {
        let (start, moves_tray, condition) = (packet[4] & 1 != 0, packet[4] & 2 != 0, packet[4] & 0xf0);
        if condition != 0 || !moves_tray {
            return self.good();
        }
        let atapi = &mut self.state.atapi;
        if !start && !atapi.tray_open && atapi.tray_locked {
            let key = if self.host.properties.medium { key::NOT_READY } else { key::ILLEGAL_REQUEST };
            return self.check(key, asc::REMOVAL_PREVENTED);
        }
        if atapi.tray_open == start {
            atapi.tray_open = !start;
            self.host.disk.tray_moved(!start);
        }
        self.good()
    }

    fn get_event_status(&mut self, packet: &[u8; PACKET_LEN]) -> Step {
        // Only polling exists.
        if packet[1] & 1 == 0 {
            return self.invalid_field();
        }
        let has_medium = self.host.properties.medium;
        let atapi = &mut self.state.atapi;
        let medium = (atapi.tray_open, has_medium);
        let status = data::event_status(packet[4], medium, &mut atapi.new_media, &mut atapi.eject_requested);
        self.answer(status, be16(packet, 7))
    }

    // ---- What the drive and the medium are ----

    fn inquiry(&mut self, packet: &[u8; PACKET_LEN]) -> Step {
        let allocated = usize::from(packet[4]);
        if packet[1] & 1 == 0 {
            return self.answer(data::inquiry(&self.host.options.version), allocated);
        }
        match packet[2] {
            0x00 => self.answer(vec![0x05, 0x00, 0, 2, 0x00, 0x83], allocated),
            0x83 => {
                let (serial, model) = (self.serial(), self.model());
                match data::identification(&serial, &model, self.host.options.wwn, allocated) {
                    Some(page) => self.answer(page, allocated),
                    None => self.check(key::ILLEGAL_REQUEST, asc::DATA_PHASE_ERROR),
                }
            }
            _ => self.invalid_field(),
        }
    }

    fn get_configuration(&mut self, packet: &[u8; PACKET_LEN]) -> Step {
        // The profile list is the only feature.
        if be16(packet, 2) != 0 {
            return self.invalid_field();
        }
        self.answer(data::configuration(self.profile()), be16(packet, 7))
    }

    fn read_toc(&mut self, packet: &[u8; PACKET_LEN]) -> Step {
        let (is_msf, first_track) = (packet[1] & 2 != 0, packet[6]);
        let toc = match packet[9] >> 6 {
            0 => data::toc(self.blocks(), is_msf, first_track),
            1 => Some(data::sessions()),
            2 => Some(data::raw_toc(self.blocks(), is_msf)),
            _ => None,
        };
        match toc {
            Some(toc) => self.answer(toc, be16(packet, 7)),
            None => self.invalid_field(),
        }
    }

    fn read_disc_information(&mut self, packet: &[u8; PACKET_LEN]) -> Step {
        if packet[1] & 7 != 0 {
            return self.invalid_field();
        }
        self.answer(data::disc_information(), be16(packet, 7))
    }

    fn read_dvd_structure(&mut self, packet: &[u8; PACKET_LEN]) -> Step {
        let (media, layer, format) = (packet[1], packet[6], packet[7]);
        if format != 0xff && self.profile() == Some(data::CD_ROM) {
            return self.check(key::ILLEGAL_REQUEST, asc::INCOMPATIBLE_FORMAT);
        }
        let structure = if media == 0 && layer == 0 {
            devices_scsi::mmc::dvd_structure(format, self.blocks(), &data::DVD_FORMATS)
        } else {
            None
        };
        match structure {
            Some(structure) => self.answer(structure, be16(packet, 8)),
            None => self.invalid_field(),
        }
    }

    // ---- Mode pages ----

    fn mode_sense(&mut self, packet: &[u8; PACKET_LEN]) -> Step {
        match (packet[2] >> 6, data::mode_page(packet[2] & 0x3f, self.state.atapi.tray_locked)) {
            (3, _) => self.check(key::ILLEGAL_REQUEST, asc::SAVING_NOT_SUPPORTED),
            (0, Some(page)) => {
                let mut answer = vec![0, (page.len() + 6) as u8, 0x70, 0, 0, 0, 0, 0];
                answer.extend(page);
                self.answer(answer, be16(packet, 7))
            }
            _ => self.invalid_field(),
        }
    }

    fn mode_select(&mut self, packet: &[u8; PACKET_LEN]) -> Step {
        const PAGE_FORMAT: u8 = 0x10;
        const SAVE: u8 = 0x01;
        if packet[1] & PAGE_FORMAT == 0 || packet[1] & SAVE != 0 {
            return self.invalid_field();
        }
        match be16(packet, 7) {
            0 => self.good(),
            _ if !self.takes_data() => self.refuse(),
            len => self.want_parameters(len),
        }
    }

    /// Pages can be written as they are: nothing in them can be changed.
    pub(super) fn mode_select_parameters(&mut self, parameters: &[u8]) -> Step {
        let wrong = |drive: &mut Self| drive.check(key::ILLEGAL_REQUEST, asc::INVALID_FIELD_IN_PARAMETERS);
        let Some(mut rest) = parameters.get(8..) else { return wrong(self) };
        while let [code, len, ..] = *rest {
            let total = usize::from(len) + 2;
            let expected = data::mode_page(code & 0x3f, self.state.atapi.tray_locked);
            let (Some(given), Some(expected)) = (rest.get(..total), expected) else { return wrong(self) };
            if given.get(1..) != expected.get(1..) {
                return wrong(self);
            }
            rest = &rest[total..];
        }
        if rest.is_empty() { self.good() } else { wrong(self) }
    }
}
