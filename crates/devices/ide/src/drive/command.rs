//! The commands of a disk (ATA8-ACS, chapter 7), and those that a CD drive shares with it.

use device::disk::DiskOperation;

use super::{Drive, DriveKind, MAX_MULTIPLE, Register, Step, Work, status};

/// What CHECK POWER MODE says of a disk that turns.
pub(crate) const ACTIVE: u8 = 0xff;
const IDLE: u8 = 0x80;
const STANDBY: u8 = 0x00;
/// Asleep: only a reset wakes the drive. The value is the model's own, no register shows it.
const ASLEEP: u8 = 0x01;

/// Command codes.
pub(crate) mod code {
    pub const DATA_SET_MANAGEMENT: u8 = 0x06;
    pub const DEVICE_RESET: u8 = 0x08;
    pub const READ_NATIVE_MAX_EXT: u8 = 0x27;
    pub const SET_MAX_EXT: u8 = 0x37;
    pub const DIAGNOSTIC: u8 = 0x90;
    pub const PACKET: u8 = 0xa0;
    pub const IDENTIFY_PACKET: u8 = 0xa1;
    pub const SMART: u8 = 0xb0;
    pub const SET_MULTIPLE: u8 = 0xc6;
    pub const FLUSH: u8 = 0xe7;
    pub const FLUSH_EXT: u8 = 0xea;
    pub const IDENTIFY: u8 = 0xec;
    pub const SET_FEATURES: u8 = 0xef;
    pub const SECURITY_FREEZE_LOCK: u8 = 0xf5;
    pub const READ_NATIVE_MAX: u8 = 0xf8;
    pub const SET_MAX: u8 = 0xf9;
}

/// How an access addresses sectors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    /// 28 bits, or cylinder, head and sector.
    Short,
    /// 48 bits.
    Ext,
}

/// An access of the command set: what, how wide, and whether in blocks of SET MULTIPLE.
struct Access {
    work: Work,
    width: Width,
    multiple: bool,
    fua: bool,
}

impl Access {
    fn of(command: u8) -> Option<Self> {
        let access = |work, width, multiple, fua| Some(Self { work, width, multiple, fua });
        match command {
            0x20 | 0x21 => access(Work::ReadPio, Width::Short, false, false),
            0x24 => access(Work::ReadPio, Width::Ext, false, false),
            0x25 => access(Work::ReadDma, Width::Ext, false, false),
            0x29 => access(Work::ReadPio, Width::Ext, true, false),
            0x30 | 0x31 | 0x3c => access(Work::WritePio, Width::Short, false, false),
            0x34 => access(Work::WritePio, Width::Ext, false, false),
            0x35 => access(Work::WriteDma, Width::Ext, false, false),
            0x39 => access(Work::WritePio, Width::Ext, true, false),
            0x3d => access(Work::WriteDma, Width::Ext, false, true),
            0x40 | 0x41 => access(Work::Verify, Width::Short, false, false),
            0x42 => access(Work::Verify, Width::Ext, false, false),
            0xc4 => access(Work::ReadPio, Width::Short, true, false),
            0xc5 => access(Work::WritePio, Width::Short, true, false),
            0xc8 | 0xc9 => access(Work::ReadDma, Width::Short, false, false),
            0xca | 0xcb => access(Work::WriteDma, Width::Short, false, false),
            0xce => access(Work::WritePio, Width::Ext, true, true),
            _ => None,
        }
    }
}

impl Drive<'_> {
    /// The host writes the command register. A drive that works ignores it, but for DEVICE RESET of packet drives.
    pub fn command(&mut self, command: u8) -> Step {
        let is_cd = self.host.kind() == DriveKind::Cd;
        if self.state.status & (status::BSY | status::DRQ) != 0 && !(is_cd && command == code::DEVICE_RESET) {
            return Step::None;
        }
        let asked_native_max = std::mem::take(&mut self.state.asked_native_max);
        if self.state.power == ASLEEP && command != code::DEVICE_RESET {
            return self.abort();
        }
        self.state.error = 0;
        self.state.transferred = 0;
        self.state.status = status::BSY | status::DRDY;
        let step = if is_cd { self.cd_command(command) } else { self.disk_command(command, asked_native_max) };
        debug_assert!(!matches!(step, Step::None) || command == code::DEVICE_RESET || command == code::DIAGNOSTIC);
        step
    }

    /// The commands that a packet drive has.
    fn cd_command(&mut self, command: u8) -> Step {
        match command {
            code::DEVICE_RESET => self.device_reset(),
            // READ SECTORS and IDENTIFY DEVICE tell packet drives by their signature.
            0x20 | code::IDENTIFY => {
                self.post_signature();
                self.abort()
            }
            code::DIAGNOSTIC => self.diagnostic(),
            code::PACKET => self.packet_command(),
            code::IDENTIFY_PACKET => {
                let data = self.identify_packet();
                self.reply(data)
            }
            code::FLUSH => self.flush(),
            code::SET_FEATURES => self.set_features(),
            0xe0..=0xe3 | 0xe5 | 0xe6 | 0x94..=0x99 => self.power(command),
            _ => self.abort(),
        }
    }

    /// The commands of a disk.
    fn disk_command(&mut self, command: u8, asked_native_max: bool) -> Step {
        if let Some(access) = Access::of(command) {
            return self.access(&access);
        }
        match command {
            code::DATA_SET_MANAGEMENT => self.data_set_management(),
            // RECALIBRATE and SEEK.
            0x10..=0x1f | 0x70..=0x7f => self.finish(),
            code::READ_NATIVE_MAX | code::READ_NATIVE_MAX_EXT => self.read_native_max(command),
            code::SET_MAX | code::SET_MAX_EXT => self.set_max(command, asked_native_max),
            code::DIAGNOSTIC => self.diagnostic(),
            // INITIALIZE DEVICE PARAMETERS.
            0x91 => {
                self.state.heads = (self.state.device & 0x0f) + 1;
                self.state.track_sectors = self.state.count.now;
                self.finish()
            }
            code::SMART => self.smart(),
            code::SET_MULTIPLE => self.set_multiple(),
            code::FLUSH | code::FLUSH_EXT => self.flush(),
            code::IDENTIFY => {
                let data = self.identify_disk();
                self.reply(data)
            }
            code::SET_FEATURES => self.set_features(),
            0xe0..=0xe3 | 0xe5 | 0xe6 | 0x94..=0x99 => self.power(command),
            // The drive has no security: what others can't set is frozen anyway.
            code::SECURITY_FREEZE_LOCK => self.finish(),
            _ => self.abort(),
        }
    }

    // ---- Addresses ----

    fn is_lba(&self) -> bool {
        self.state.device & 0x40 != 0
    }

    /// Addressable sectors.
    pub(crate) fn sectors(&self) -> u64 {
        let native = self.host.native_sectors();
        if self.state.max_sectors == 0 { native } else { self.state.max_sectors.min(native) }
    }

    pub(crate) fn has_sectors(&self, sector: u64, count: u64) -> bool {
        sector.checked_add(count).is_some_and(|end| end <= self.sectors())
    }

    /// The sector that the registers address, and which form of the registers that was.
    fn address(&self, width: Width) -> u64 {
        let [low, mid, high] = self.state.lba;
        let word = |registers: [u8; 3]| u64::from(u32::from_le_bytes([registers[0], registers[1], registers[2], 0]));
        let short = word([low.now, mid.now, high.now]);
        let head = u64::from(self.state.device & 0x0f);
        match width {
            Width::Ext => word([low.before, mid.before, high.before]) << 24 | short,
            Width::Short if self.is_lba() => head << 24 | short,
            Width::Short => {
                let cylinder = short >> 8;
                let (heads, sectors) = (u64::from(self.state.heads), u64::from(self.state.track_sectors));
                // Sectors count from 1: number 0 leads to no sector.
                (cylinder * heads + head).wrapping_mul(sectors).wrapping_add(u64::from(low.now)).wrapping_sub(1)
            }
        }
    }

    /// Writes a sector's address into the registers, in the form of the current command.
    pub(super) fn set_address(&mut self, sector: u64) {
        let bytes = sector.to_le_bytes();
        let state = &mut *self.state;
        if state.ext {
            for (index, register) in state.lba.iter_mut().enumerate() {
                *register = Register { now: bytes[index], before: bytes[index + 3] };
            }
            return;
        }
        let [low, mid, high] = if state.device & 0x40 != 0 {
            state.device = (state.device & 0xf0) | (bytes[3] & 0x0f);
            [bytes[0], bytes[1], bytes[2]]
        } else {
            let (heads, sectors) = (u64::from(state.heads.max(1)), u64::from(state.track_sectors.max(1)));
            let track = sector / sectors;
            state.device = (state.device & 0xf0) | ((track % heads) as u8 & 0x0f);
            let [low, high, ..] = (track / heads).to_le_bytes();
            [(sector % sectors + 1) as u8, low, high]
        };
        for (register, now) in state.lba.iter_mut().zip([low, mid, high]) {
            register.now = now;
        }
    }

    /// How many sectors the registers ask for.
    fn sector_count(&self, width: Width) -> u32 {
        let Register { now, before } = self.state.count;
        match width {
            Width::Short => {
                // The upper half of a SATA frame's field has no meaning here; QEMU takes it nevertheless, and its tests
                // rely on that.
                let upper = if self.host.has_ncq { u32::from(before) << 8 } else { 0 };
                let count = upper | u32::from(now);
                if count == 0 { 256 } else { count }
            }
            Width::Ext => {
                let count = u32::from(before) << 8 | u32::from(now);
                if count == 0 { 0x1_0000 } else { count }
            }
        }
    }

    fn access(&mut self, access: &Access) -> Step {
        let (sector, count) = (self.address(access.width), self.sector_count(access.width));
        if access.multiple && self.state.multiple == 0 {
            return self.abort();
        }
        if !self.has_sectors(sector, u64::from(count)) {
            return self.abort();
        }
        self.state.ext = access.width == Width::Ext;
        self.state.block = if access.multiple { u32::from(self.state.multiple) } else { 1 };
        self.state.fua = access.fua;
        self.begin(access.work, sector, count)
    }

    // ---- Single commands ----

    fn device_reset(&mut self) -> Step {
        if self.host.in_flight {
            self.begin_soft_reset();
        } else {
            self.soft_reset();
        }
        Step::None
    }

    /// EXECUTE DEVICE DIAGNOSTIC: both drives do it, and the transport interrupts.
    fn diagnostic(&mut self) -> Step {
        self.end(0, 1);
        self.state.device = 0xa0;
        self.post_signature();
        if self.host.kind() == DriveKind::Cd { Step::None } else { Step::Interrupt }
    }

    fn flush(&mut self) -> Step {
        self.state.work = Work::Flush;
        if !self.host.properties.medium {
            return self.finish();
        }
        self.request(DiskOperation::Flush)
    }

    fn data_set_management(&mut self) -> Step {
        let blocks = u32::from(self.state.count.before) << 8 | u32::from(self.state.count.now);
        // TRIM is the only function; more ranges than the buffer holds are not announced.
        if self.state.feature.now & 1 == 0 || !self.host.options.discard || blocks == 0 {
            return self.abort();
        }
        if blocks as usize * super::SECTOR > super::BUFFER_MAX {
            return self.abort();
        }
        (self.state.work, self.state.left, self.state.transferred) = (Work::Trim, blocks, 0);
        self.want_memory(false, u64::from(blocks) * super::SECTOR as u64)
    }

    fn read_native_max(&mut self, command: u8) -> Step {
        let Some(last) = self.host.native_sectors().checked_sub(1) else { return self.abort() };
        self.state.ext = command == code::READ_NATIVE_MAX_EXT;
        let last = if self.state.ext { last } else { last.min(0x0fff_ffff) };
        self.set_address(last);
        let step = self.finish();
        self.state.asked_native_max = true;
        step
    }

    /// SET MAX ADDRESS directly behind READ NATIVE MAX ADDRESS of the same width.
    fn set_max(&mut self, command: u8, asked_native_max: bool) -> Step {
        let width = if command == code::SET_MAX_EXT { Width::Ext } else { Width::Short };
        let is_ext = width == Width::Ext;
        if !asked_native_max || is_ext != self.state.ext || (!is_ext && self.state.feature.now != 0) {
            return self.abort();
        }
        let last = self.address(width);
        if last >= self.host.native_sectors() {
            return self.abort();
        }
        self.state.max_sectors = last + 1;
        self.finish()
    }

    fn set_multiple(&mut self) -> Step {
        let count = self.state.count.now;
        if count > MAX_MULTIPLE || (count != 0 && !count.is_power_of_two()) {
            return self.abort();
        }
        self.state.multiple = count;
        self.finish()
    }

    fn set_features(&mut self) -> Step {
        match self.state.feature.now {
            0x02 => self.set_write_cache(true),
            0x82 => {
                self.set_write_cache(false);
                return self.flush();
            }
            0xcc => self.state.reset_reverts = true,
            0x66 => self.state.reset_reverts = false,
            // Look-ahead, power management, acoustic management and others that change nothing here.
            0xaa | 0x55 | 0x05 | 0x85 | 0x69 | 0x67 | 0x96 | 0x9a | 0x42 | 0xc2 => {}
            0x03 => {
                let mode = self.state.count.now;
                // PIO, single and multiword DMA, Ultra DMA.
                if !matches!(mode >> 3, 0 | 1 | 2 | 4 | 8) {
                    return self.abort();
                }
                self.state.transfer_mode = mode;
            }
            _ => return self.abort(),
        }
        self.finish()
    }

    /// The power management commands and their older codes.
    fn power(&mut self, command: u8) -> Step {
        match command {
            0xe0 | 0xe2 | 0x94 | 0x96 => self.state.power = STANDBY,
            0xe1 | 0xe3 | 0x95 | 0x97 => self.state.power = IDLE,
            0xe6 | 0x99 => self.state.power = ASLEEP,
            // As QEMU, a disk that is idle counts as active.
            _ => self.state.count.now = if self.state.power == STANDBY { STANDBY } else { ACTIVE },
        }
        self.finish()
    }
}
