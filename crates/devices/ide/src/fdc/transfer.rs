//! Commands that move data: READ, WRITE, VERIFY and FORMAT.
//!
//! A command's sectors are computed first. A read fetches all of them and then gives them to memory or to the host; a
//! write collects their data and then stores it, run by run.

use device::disk::{DiskError, DiskOperation, DiskRequest};
use iobuf::IoBuf;

use super::geometry::Format;
use super::{Fdc, Phase, Unit, dsr, st0};

const SECTOR: usize = 512;
const SIZE_CODE: u8 = 2;
/// Status register 1.
const END_OF_CYLINDER: u8 = 0x80;
const DATA_ERROR: u8 = 0x20;
const OVERRUN: u8 = 0x10;
const NO_DATA: u8 = 0x04;
const NOT_WRITABLE: u8 = 0x02;
const MISSING_MARK: u8 = 0x01;
/// Command codes.
const WRITE: u8 = 0x05;
const FORMAT: u8 = 0x0d;
const VERIFY: u8 = 0x16;

/// The address of a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    track: u8,
    head: u8,
    sector: u8,
}

impl Fdc {
    fn byte(&self, index: usize) -> u8 {
        self.state.fifo.get(index).copied().unwrap_or(0)
    }

    fn command(&self) -> u8 {
        self.byte(0) & 0x1f
    }

    fn current_unit(&self) -> usize {
        usize::from(self.state.selected)
    }

    /// A medium is there that has the data rate that was chosen.
    pub(super) fn is_readable(&self, unit: usize) -> bool {
        self.has_rate(unit) && self.unit(unit).is_some_and(|unit| unit.properties.medium)
    }

    /// The drive has the data rate that was chosen.
    pub(super) fn has_rate(&self, unit: usize) -> bool {
        // That of an empty drive is the code 0: 500 kbit/s.
        let rate = |unit: &Unit| if unit.properties.medium { unit.format.rate } else { 0 };
        self.unit(unit).is_some_and(|unit| rate(unit) == self.state.dsr & dsr::RATE)
    }

    // ---- How transfers end ----

    fn result(&mut self, status0: u8, status1: u8, status2: u8) {
        let drive = self.state.drives.get(self.current_unit()).cloned().unwrap_or_default();
        self.state.st0 = (self.state.st0 & st0::SEEK_END) | status0 | drive.head << 2 | self.state.selected;
        let results = [self.state.st0, status1, status2, drive.track, drive.head, drive.sector, SIZE_CODE];
        self.state.data.clear();
        self.state.data_position = 0;
        self.bounce = None;
        self.enter_result_phase(&results);
        self.raise();
    }

    pub(super) fn fail(&mut self, status1: u8, status2: u8) {
        self.result(st0::ABNORMAL, status1, status2);
    }

    pub(super) fn succeed(&mut self) {
        self.result(0, 0, 0);
    }

    // ---- What a command addresses ----

    /// The drive is selected and moved to the command's track; the sectors of the command, in their order.
    fn sectors(&mut self) -> Option<(Format, Vec<Place>)> {
        let first = self.byte(1);
        self.state.selected = first & 3;
        let unit = self.current_unit();
        let start = Place { track: self.byte(2), head: self.byte(3) & 1, sector: self.byte(4) };
        let Some(format) = self.unit(unit).map(|unit| unit.format).filter(|_| self.is_readable(unit)) else {
            // As in QEMU the head has moved by then, on the tracks of the last medium that the drive has had.
            let seen = self.unit(unit).and_then(|unit| unit.seen);
            if seen.is_some_and(|format| format.has(start.track, start.head, start.sector)) {
                self.step(unit, start.track);
                self.move_to(start);
            }
            self.fail(MISSING_MARK, 0);
            return None;
        };
        if self.byte(5) != SIZE_CODE || self.byte(6) < start.sector {
            self.fail(MISSING_MARK, 0);
            return None;
        }
        if !format.has(start.track, start.head, start.sector) {
            let status1 = if start.track < format.tracks { NO_DATA } else { END_OF_CYLINDER };
            self.fail(status1, 0);
            return None;
        }
        if self.state.drives.get(unit).is_some_and(|drive| drive.track != start.track) {
            self.state.st0 |= st0::SEEK_END;
        }
        self.step(unit, start.track);
        self.move_to(start);
        self.places()
    }

    fn move_to(&mut self, place: Place) {
        let unit = self.current_unit();
        if let Some(drive) = self.state.drives.get_mut(unit) {
            (drive.track, drive.head, drive.sector) = (place.track, place.head, place.sector);
        }
    }

    /// The command's sectors once more, when a part of it has been done.
    fn places(&self) -> Option<(Format, Vec<Place>)> {
        let format = self.unit(self.current_unit())?.format;
        if self.command() == FORMAT {
            let places = self.state.data.chunks_exact(4);
            let place = |id: &[u8]| Place { track: id[0], head: id[1], sector: id[2] };
            return Some((format, places.map(place).collect()));
        }
        let start = Place { track: self.byte(2), head: self.byte(3) & 1, sector: self.byte(4) };
        let end = usize::from(self.byte(6));
        let first_side = (end + 1).saturating_sub(usize::from(start.sector));
        let count = first_side + if self.is_multi_track() { end } else { 0 };
        let is_there = |place: &Place| format.has(place.track, place.head, place.sector);
        let places = std::iter::successors(Some(start), |place| match self.behind(format, *place) {
            (next, true) => Some(next).filter(is_there),
            (_, false) => None,
        });
        Some((format, places.take(count).collect()))
    }

    fn is_multi_track(&self) -> bool {
        self.byte(0) & 0x80 != 0
    }

    /// What follows a sector, and whether a transfer goes on there. As in QEMU it goes on at the first side of the next
    /// track, if the command is for both sides and wants more.
    fn behind(&self, format: Format, place: Place) -> (Place, bool) {
        if place.sector < format.sectors && place.sector != self.byte(6) {
            return (Place { sector: place.sector + 1, ..place }, true);
        }
        let track = place.track.saturating_add(1);
        match (self.is_multi_track(), place.head, format.sides) {
            (true, 0, 2) => (Place { head: 1, sector: 1, ..place }, true),
            (true, _, sides) => (Place { track, head: 0, sector: 1 }, sides == 2),
            (false, ..) => (Place { track, sector: 1, ..place }, false),
        }
    }

    /// Stands at the last of the first `count` sectors of the command, or behind it.
    fn stand(&mut self, count: usize, is_behind: bool) {
        let Some((format, places)) = self.places() else { return };
        let Some(last) = count.checked_sub(1).and_then(|index| places.get(index)).copied() else { return };
        let place = if is_behind { self.behind(format, last).0 } else { last };
        if places.first().is_some_and(|first| first.track != place.track) {
            self.state.st0 |= st0::SEEK_END;
        }
        self.move_to(place);
    }

    /// Stands behind the first `count` sectors of the command.
    fn stand_behind(&mut self, count: usize) {
        self.stand(count, true);
    }

    // ---- Requests ----

    fn submit(&mut self, operation: DiskOperation) {
        self.state.phase = Phase::Execution;
        self.token = self.token.wrapping_add(1);
        let (token, handle) = (self.token, self.handle.clone());
        let Some(unit) = self.unit(self.current_unit()) else { return };
        let done = Box::new(move |result| {
            handle.with(|fdc| fdc.complete(token, result));
        });
        unit.disk.submit(DiskRequest { operation, done });
    }

    // ---- Reads ----

    pub(super) fn start_read(&mut self) {
        if self.sectors().is_some() {
            self.fetch();
        }
    }

    pub(super) fn start_verify(&mut self) {
        self.start_read();
    }

    /// Fetches everything from the command's first sector to its last.
    fn fetch(&mut self) {
        let Some((first, last)) = self.span() else { return self.fail(NO_DATA, 0) };
        let size = self.unit(self.current_unit()).map_or(0, |unit| unit.properties.size);
        let (start, end) = (first * SECTOR as u64, (last + 1) * SECTOR as u64);
        let buf = IoBuf::zeroed((end - start) as usize);
        self.bounce = Some(buf.clone());
        // What an image lacks of its format reads as zeroes.
        let len = end.min(size).saturating_sub(start) as usize;
        self.submit(DiskOperation::Read { offset: start.min(size), buf: buf.slice(0, len) });
    }

    fn span(&self) -> Option<(u64, u64)> {
        let (format, places) = self.places()?;
        let numbers = || places.iter().map(|place| format.sector(place.track, place.head, place.sector));
        Some((numbers().min()?, numbers().max()?))
    }

    fn fetched(&mut self) {
        let (Some((first, _)), Some((format, places)), Some(bounce)) = (self.span(), self.places(), self.bounce.take())
        else {
            return self.fail(DATA_ERROR, DATA_ERROR);
        };
        if self.command() == VERIFY {
            self.stand_behind(places.len());
            return self.succeed();
        }
        let mut data = vec![0; places.len() * SECTOR];
        for (sector, place) in data.chunks_mut(SECTOR).zip(&places) {
            let number = format.sector(place.track, place.head, place.sector) - first;
            bounce.read_at(number as usize * SECTOR, sector);
        }
        if self.uses_dma() {
            return self.give_to_memory(&data);
        }
        self.state.data = data;
        self.state.data_position = 0;
        self.state.phase = Phase::DataIn;
        self.raise();
    }

    fn give_to_memory(&mut self, data: &[u8]) {
        let Some(transfer) = self.dma.transfer() else { return self.fail(OVERRUN, 0) };
        let len = data.len().min(transfer.len);
        if self.memory.map().write(transfer.address, &data[..len]).is_err() {
            return self.fail(OVERRUN, 0);
        }
        self.dma.advance(len);
        self.stand_behind(len.div_ceil(SECTOR));
        self.succeed();
    }

    /// The host has read everything: nobody has asked for what is behind the last sector.
    pub(super) fn transfer_ended(&mut self) {
        let sectors = self.state.data.len() / SECTOR;
        self.stand(sectors, false);
        self.succeed();
    }

    // ---- Writes ----

    fn is_writable(&self) -> bool {
        self.unit(self.current_unit()).is_some_and(|unit| !unit.properties.read_only)
    }

    pub(super) fn start_write(&mut self) {
        let Some((_, places)) = self.sectors() else { return };
        if !self.is_writable() {
            return self.fail(NOT_WRITABLE, 0);
        }
        self.collect(places.len() * SECTOR);
    }

    /// FORMAT TRACK wants the address of each sector.
    pub(super) fn start_format(&mut self) {
        self.state.selected = self.byte(1) & 3;
        let unit = self.current_unit();
        if let Some(drive) = self.state.drives.get_mut(unit) {
            drive.head = self.state.fifo.get(1).map_or(0, |byte| byte >> 2 & 1);
        }
        if !self.is_readable(unit) {
            return self.fail(MISSING_MARK, 0);
        }
        if !self.is_writable() {
            return self.fail(NOT_WRITABLE, 0);
        }
        match (self.byte(2), self.byte(3)) {
            (SIZE_CODE, sectors @ 1..) => self.collect(4 * usize::from(sectors)),
            _ => self.fail(MISSING_MARK, 0),
        }
    }

    /// Takes the data of a write from memory or from the host.
    fn collect(&mut self, len: usize) {
        self.state.sectors_written = 0;
        self.state.data_position = 0;
        self.state.data = vec![0; len];
        if !self.uses_dma() {
            self.state.phase = Phase::DataOut;
            return self.raise();
        }
        let Some(transfer) = self.dma.transfer() else { return self.fail(OVERRUN, 0) };
        let len = len.min(transfer.len);
        let mut data = vec![0; len];
        if self.memory.map().read(transfer.address, &mut data).is_err() {
            return self.fail(OVERRUN, 0);
        }
        self.dma.advance(len);
        if self.command() == WRITE {
            // The rest of a sector is zeroes.
            data.resize(len.next_multiple_of(SECTOR), 0);
        }
        self.state.data = data;
        self.data_arrived();
    }

    /// The data of a write is there.
    pub(super) fn data_arrived(&mut self) {
        let Some((format, places)) = self.places() else { return self.fail(DATA_ERROR, 0) };
        if self.command() == FORMAT {
            let is_good = places.iter().all(|place| format.has(place.track, place.head, place.sector));
            if !is_good {
                return self.fail(NO_DATA, 0);
            }
        }
        self.store();
    }

    /// Stores the next run of sectors.
    fn store(&mut self) {
        let Some((format, places)) = self.places() else { return self.fail(DATA_ERROR, 0) };
        let is_format = self.command() == FORMAT;
        let count = if is_format { places.len() } else { places.len().min(self.state.data.len() / SECTOR) };
        let done = self.state.sectors_written as usize;
        let numbers: Vec<u64> =
            places.iter().take(count).map(|place| format.sector(place.track, place.head, place.sector)).collect();
        let Some(first) = numbers.get(done).copied() else {
            if !is_format {
                self.stand_behind(count);
            }
            return self.succeed();
        };
        let run = numbers[done..].iter().zip(first..).take_while(|(number, expected)| *number == expected).count();
        let buf = if is_format {
            let buf = IoBuf::zeroed(run * SECTOR);
            buf.fill(0, run * SECTOR, self.byte(5));
            buf
        } else {
            let end = (done + run) * SECTOR;
            IoBuf::copy_of(self.state.data.get(done * SECTOR..end).unwrap_or_default())
        };
        self.state.sectors_written = (done + run) as u32;
        self.submit(DiskOperation::Write { offset: first * SECTOR as u64, buf, fua: false });
    }

    // ---- Results ----

    fn is_write(&self) -> bool {
        matches!(self.command(), WRITE | FORMAT)
    }

    pub(super) fn request_done(&mut self, result: Result<(), DiskError>) {
        match (result, self.is_write()) {
            (Ok(()), false) => self.fetched(),
            (Ok(()), true) => self.store(),
            (Err(DiskError::ReadOnly), true) => self.fail(NOT_WRITABLE, 0),
            (Err(DiskError::NoMedium), _) => self.fail(MISSING_MARK, 0),
            (Err(_), _) => self.fail(DATA_ERROR, DATA_ERROR),
        }
    }

    /// Begins again what was at the disk.
    pub(super) fn transfer_again(&mut self) {
        if !self.has_medium(self.current_unit()) {
            return self.fail(MISSING_MARK, 0);
        }
        if self.is_write() {
            self.state.sectors_written = 0;
            self.data_arrived();
        } else {
            self.fetch();
        }
    }
}
