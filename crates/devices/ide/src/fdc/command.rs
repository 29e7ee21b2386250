//! Commands (82077AA, chapter 6): how long they are, and those that move no data.

use super::{DRIVES, DriveState, Fdc, st0};

/// Command codes without the bits for multi-track, density and skip.
mod code {
    pub const READ_TRACK: u8 = 0x02;
    pub const SPECIFY: u8 = 0x03;
    pub const SENSE_DRIVE: u8 = 0x04;
    pub const WRITE: u8 = 0x05;
    pub const READ: u8 = 0x06;
    pub const RECALIBRATE: u8 = 0x07;
    pub const SENSE_INTERRUPT: u8 = 0x08;
    pub const WRITE_DELETED: u8 = 0x09;
    pub const READ_ID: u8 = 0x0a;
    pub const READ_DELETED: u8 = 0x0c;
    pub const FORMAT: u8 = 0x0d;
    pub const DUMPREG: u8 = 0x0e;
    pub const SEEK: u8 = 0x0f;
    pub const VERSION: u8 = 0x10;
    pub const PERPENDICULAR: u8 = 0x12;
    pub const CONFIGURE: u8 = 0x13;
    pub const LOCK: u8 = 0x14;
    pub const VERIFY: u8 = 0x16;
    pub const POWERDOWN: u8 = 0x17;
    pub const PART_ID: u8 = 0x18;
    pub const SAVE: u8 = 0x2e;
    pub const OPTION: u8 = 0x33;
    pub const RESTORE: u8 = 0x4e;
    pub const DRIVE_SPECIFICATION: u8 = 0x8e;
    pub const RELATIVE_SEEK_OUT: u8 = 0x8f;
    pub const RELATIVE_SEEK_IN: u8 = 0xcf;
}

/// Commands whose whole byte counts.
const WHOLE: [u8; 6] = [
    code::SAVE,
    code::OPTION,
    code::RESTORE,
    code::DRIVE_SPECIFICATION,
    code::RELATIVE_SEEK_OUT,
    code::RELATIVE_SEEK_IN,
];

fn kind(byte: u8) -> u8 {
    if WHOLE.contains(&byte) { byte } else { byte & 0x1f }
}

/// Bytes of a command that begins so; one for those that do not exist.
pub fn length(fifo: &[u8]) -> usize {
    let Some(first) = fifo.first() else { return 1 };
    match kind(*first) {
        code::READ_TRACK | code::WRITE | code::READ | code::WRITE_DELETED | code::READ_DELETED | code::VERIFY => 9,
        code::SPECIFY | code::SEEK | code::RELATIVE_SEEK_IN | code::RELATIVE_SEEK_OUT => 3,
        code::SENSE_DRIVE | code::RECALIBRATE | code::READ_ID | code::PERPENDICULAR => 2,
        code::POWERDOWN | code::OPTION => 2,
        code::FORMAT => 6,
        code::CONFIGURE => 4,
        code::RESTORE => 18,
        // Parameters end with one that says so.
        code::DRIVE_SPECIFICATION => match fifo.get(1..).unwrap_or_default().iter().position(|byte| byte & 0x80 != 0) {
            Some(last) => last + 2,
            None => (fifo.len() + 1).min(7),
        },
        _ => 1,
    }
}

impl Fdc {
    fn parameter(&self, index: usize) -> u8 {
        self.state.fifo.get(index).copied().unwrap_or(0)
    }

    /// Selects the drive and the head that the second byte names.
    fn select(&mut self) -> Option<usize> {
        let byte = self.parameter(1);
        self.state.selected = byte & 3;
        let unit = usize::from(byte & 3);
        let drive = self.state.drives.get_mut(unit)?;
        drive.head = byte >> 2 & 1;
        Some(unit)
    }

    fn current(&self) -> DriveState {
        self.state.drives.get(usize::from(self.state.selected)).cloned().unwrap_or_default()
    }

    /// The command is there as a whole.
    pub(super) fn execute(&mut self) {
        let first = self.parameter(0);
        match kind(first) {
            code::READ_TRACK | code::READ => self.start_read(),
            code::WRITE => self.start_write(),
            code::VERIFY => self.start_verify(),
            code::FORMAT => self.start_format(),
            // There is no deleted data.
            code::READ_DELETED | code::WRITE_DELETED => {
                self.select();
                self.fail(0x01, 0x00);
            }
            code::READ_ID => self.read_id(),
            code::SEEK => self.seek_to(self.parameter(2)),
            code::RELATIVE_SEEK_IN => self.relative_seek(true),
            code::RELATIVE_SEEK_OUT => self.relative_seek(false),
            code::RECALIBRATE => self.seek_to(0),
            code::SENSE_INTERRUPT => self.sense_interrupt(),
            code::SENSE_DRIVE => self.sense_drive(),
            code::DUMPREG => self.dump_registers(),
            code::SAVE => self.save(),
            code::RESTORE => self.restore(),
            code::VERSION => self.enter_result_phase(&[0x90]),
            code::PART_ID => self.enter_result_phase(&[0x41]),
            code::LOCK => {
                self.state.lock = first & 0x80 != 0;
                self.enter_result_phase(&[if first & 0x80 != 0 { 0x10 } else { 0 }]);
            }
            code::POWERDOWN => {
                self.state.power = self.parameter(1);
                self.enter_result_phase(&[self.state.power]);
            }
            code::DRIVE_SPECIFICATION => self.drive_specification(),
            code::SPECIFY | code::CONFIGURE | code::PERPENDICULAR | code::OPTION => {
                self.set_up(kind(first));
                self.enter_command_phase();
            }
            _ => self.enter_result_phase(&[st0::INVALID]),
        }
    }

    /// Commands that set something, and tell nothing.
    fn set_up(&mut self, command: u8) {
        match command {
            code::SPECIFY => {
                self.state.timing = [self.parameter(1), self.parameter(2)];
                if self.parameter(2) & 1 != 0 {
                    self.state.dor &= !super::dor::DMA;
                } else {
                    self.state.dor |= super::dor::DMA;
                }
            }
            code::CONFIGURE => {
                self.state.config = self.parameter(2);
                self.state.precompensation = self.parameter(3);
            }
            code::PERPENDICULAR if self.parameter(1) & 0x80 != 0 => {
                let value = self.parameter(1) & 0x7f;
                for (unit, drive) in self.state.drives.iter_mut().enumerate() {
                    drive.perpendicular = value >> 2 & (1 << unit) | value & 3;
                }
            }
            _ => {}
        }
    }

    // ---- Positions ----

    /// Steps to a track. A step over a medium makes the drive see it. As in QEMU a drive does not move beyond the tracks
    /// of the last medium that it has had; before the first one it stays at track 0.
    pub(super) fn step(&mut self, unit: usize, track: u8) {
        let has_medium = self.has_medium(unit);
        if track > self.unit(unit).and_then(|unit| unit.seen).map_or(0, |format| format.tracks) {
            return;
        }
        if let Some(drive) = self.state.drives.get_mut(unit) {
            if drive.track != track && has_medium {
                drive.changed = false;
            }
            drive.track = track;
        }
    }

    fn seek_to(&mut self, track: u8) {
        if let Some(unit) = self.select() {
            self.step(unit, track);
        }
        self.seek_ended();
    }

    fn seek_ended(&mut self) {
        self.enter_command_phase();
        self.state.st0 = st0::SEEK_END;
        self.raise();
    }

    fn relative_seek(&mut self, is_in: bool) {
        let steps = self.parameter(2);
        if let Some(unit) = self.select() {
            let last = self.unit(unit).filter(|unit| unit.properties.medium).map_or(255, |unit| unit.format.tracks - 1);
            let track = self.current().track;
            let track = if is_in { track.saturating_add(steps).min(last) } else { track.saturating_sub(steps) };
            self.step(unit, track);
        }
        self.seek_ended();
    }

    // ---- Status ----

    fn sense_interrupt(&mut self) {
        let track = self.current().track;
        let status = if self.state.polls > 0 {
            let status = st0::POLLING | (4 - self.state.polls.min(4));
            self.state.polls -= 1;
            status
        } else if self.state.interrupt {
            self.state.st0 & !(st0::HEAD | 3) | self.state.selected
        } else {
            return self.enter_result_phase(&[st0::INVALID]);
        };
        self.enter_result_phase(&[status, track]);
        self.lower();
    }

    fn sense_drive(&mut self) {
        let unit = self.select().unwrap_or(DRIVES);
        let is_protected = self.unit(unit).is_none_or(|unit| unit.properties.read_only || !unit.properties.medium);
        let drive = self.current();
        let track_0 = if drive.track == 0 { 0x10 } else { 0 };
        let protected = if is_protected { 0x40 } else { 0 };
        self.enter_result_phase(&[0x28 | protected | track_0 | drive.head << 2 | self.state.selected]);
    }

    /// The first address that comes along.
    fn read_id(&mut self) {
        let Some(unit) = self.select() else { return self.fail(0x01, 0) };
        // As in QEMU, an empty drive has an address, too, if its rate is the one that was chosen.
        if !self.has_rate(unit) {
            return self.fail(0x01, 0);
        }
        if let Some(drive) = self.state.drives.get_mut(unit) {
            drive.sector = 1;
        }
        self.succeed();
    }

    fn last_sector(&self) -> u8 {
        self.unit(usize::from(self.state.selected)).map_or(0, |unit| unit.format.sectors)
    }

    fn lock_and_perpendicular(&self) -> u8 {
        let lock = if self.state.lock { 0x80 } else { 0 };
        lock | self.current().perpendicular << 2
    }

    fn dump_registers(&mut self) {
        let [step, load] = self.state.timing;
        let tracks = [self.state.drives[0].track, self.state.drives[1].track];
        let results = [
            tracks[0],
            tracks[1],
            0,
            0,
            step,
            load,
            self.last_sector(),
            self.lock_and_perpendicular(),
            self.state.config,
            self.state.precompensation,
        ];
        self.enter_result_phase(&results);
    }

    fn save(&mut self) {
        let [step, load] = self.state.timing;
        let results = [
            0,
            0,
            self.state.drives[0].track,
            self.state.drives[1].track,
            0,
            0,
            step,
            load,
            self.last_sector(),
            self.lock_and_perpendicular(),
            self.state.config,
            self.state.precompensation,
            self.state.power,
            0,
            0,
        ];
        self.enter_result_phase(&results);
    }

    fn restore(&mut self) {
        let bytes: Vec<u8> = (0..18).map(|index| self.parameter(index)).collect();
        let state = &mut self.state;
        (state.drives[0].track, state.drives[1].track) = (bytes[3], bytes[4]);
        state.timing = [bytes[7], bytes[8]];
        state.lock = bytes[10] & 0x80 != 0;
        for drive in &mut state.drives {
            drive.perpendicular = bytes[10] >> 2 & 0x0f;
        }
        (state.config, state.precompensation, state.power) = (bytes[11], bytes[12], bytes[13]);
        self.enter_command_phase();
    }

    fn drive_specification(&mut self) {
        let last = self.state.fifo.last().copied().unwrap_or(0);
        if last & 0x80 == 0 {
            let drive = self.current();
            self.enter_result_phase(&[st0::INVALID | drive.head << 2 | self.state.selected]);
        } else if last & 0x40 != 0 {
            let first = self.parameter(1);
            self.enter_result_phase(&[first, 0, 0, 0]);
        } else {
            self.enter_command_phase();
        }
    }
}
