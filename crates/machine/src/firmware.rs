//! What the machine starts with: the firmware's ROM, and what the command line tells the firmware.

use std::sync::{Arc, Mutex};

use crate::config::DiskUse;
use crate::smbios::SmbiosOptions;

/// The firmware's ROM: `-bios`.
#[derive(Clone, PartialEq, Eq)]
pub struct FirmwareRom {
    /// The file.
    pub path: String,
    /// Its contents: a multiple of 64 KiB, at most 8 MiB.
    pub bytes: Arc<[u8]>,
}

impl std::fmt::Debug for FirmwareRom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FirmwareRom").field("path", &self.path).field("len", &self.bytes.len()).finish()
    }
}

/// What devices firmware boots from, as `-boot order=` names them: `a` and `b` floppies, `c` disks, `d` CDs, `n` network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootOrder([u8; 3]);

impl Default for BootOrder {
    fn default() -> Self {
        Self(*b"cad")
    }
}

impl BootOrder {
    /// Reads an order.
    ///
    /// # Errors
    /// A whole message.
    pub fn parse(text: &str) -> Result<Self, String> {
        for (index, letter) in text.char_indices() {
            if !('a'..='p').contains(&letter) {
                return Err(format!("Invalid boot device '{letter}'"));
            }
            if text[..index].contains(letter) {
                return Err(format!("Boot device '{letter}' was given twice"));
            }
        }
        if text.len() > 3 {
            return Err("Too many boot devices for PC".to_owned());
        }
        let mut order = [0; 3];
        for (slot, letter) in order.iter_mut().zip(text.bytes()) {
            if Self::nibble(letter) == 0 {
                return Err(format!("Invalid boot device for PC: '{}'", char::from(letter)));
            }
            *slot = letter;
        }
        Ok(Self(order))
    }

    /// What CMOS calls the device.
    fn nibble(letter: u8) -> u8 {
        match letter {
            b'a' | b'b' => 1,
            b'c' => 2,
            b'd' => 3,
            b'n' => 4,
            _ => 0,
        }
    }

    /// Bytes 0x38 and 0x3d of CMOS; bit 0 of the first skips the check for a floppy's signature.
    pub fn cmos(self, skip_floppy_check: bool) -> (u8, u8) {
        let [first, second, third] = self.0.map(Self::nibble);
        (third << 4 | u8::from(skip_floppy_check), second << 4 | first)
    }
}

/// `-boot`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootOptions {
    /// `order=`
    pub order: BootOrder,
    /// `once=`: the order until the first reset.
    pub once: Option<BootOrder>,
    /// `menu=`
    pub menu: bool,
    /// `strict=`: nothing else is tried.
    pub strict: bool,
    /// `splash-time=` in milliseconds.
    pub splash_time: Option<u16>,
    /// The contents of the `splash=` file.
    pub splash: Option<Arc<[u8]>>,
    /// `reboot-timeout=` in milliseconds; -1 waits forever.
    pub reboot_timeout: Option<i32>,
    /// `-no-fd-bootchk`
    pub skip_floppy_check: bool,
}

/// Sleep states: the properties of the power management function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleepOptions {
    /// `disable_s3=off`
    pub s3: bool,
    /// `disable_s4=off`
    pub s4: bool,
    /// `s4_val=`
    pub s4_value: u8,
}

impl Default for SleepOptions {
    fn default() -> Self {
        Self { s3: true, s4: true, s4_value: 2 }
    }
}

/// A file for the guest's firmware: its name and its contents.
pub type FirmwareFile = (String, Arc<[u8]>);

/// An option ROM for the firmware, which has no device: `-option-rom`, and what boots a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionRom {
    /// The file's name, without directories.
    pub name: String,
    /// Its contents.
    pub bytes: Arc<[u8]>,
    /// Its place in the boot order.
    pub boot_index: Option<i32>,
}

/// Everything that concerns firmware.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirmwareConfig {
    /// The ROM; none when a kernel is booted directly.
    pub rom: Option<FirmwareRom>,
    /// `-boot`
    pub boot: BootOptions,
    /// `-smbios`
    pub smbios: SmbiosOptions,
    /// `-uuid`
    pub uuid: [u8; 16],
    /// `-nographic`: firmware talks on the serial port only.
    pub no_graphic: bool,
    /// `-fw_cfg`: further files by name.
    pub files: Vec<FirmwareFile>,
    /// Option ROMs without a device.
    pub option_roms: Vec<OptionRom>,
    /// Sleep states.
    pub sleep: SleepOptions,
    /// The flash chips, in place of the ROM: at most two.
    pub flash: Vec<DiskUse>,
    /// `max-fw-size=`: bytes of both chips together.
    pub max_size: Option<u64>,
    /// `smm=`: `None` is what the accelerator has.
    pub smm: Option<bool>,
}

/// A device to boot from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootDevice {
    /// Its place in the order: `bootindex=`. Those without one are tried last, in the firmware's own order.
    pub index: Option<i32>,
    /// Its Open Firmware path, as in `/pci@i0cf8/scsi@4/disk@0,0`.
    pub path: String,
    /// The geometry that the user gave: cylinders, heads, sectors.
    pub geometry: Option<(u32, u32, u32)>,
    /// The path in the object tree of the device that leaves with it.
    pub owner: Option<String>,
}

impl FirmwareConfig {
    /// Whether the machine starts in firmware, also when there is a kernel.
    pub fn is_there(&self) -> bool {
        self.rom.is_some() || !self.flash.is_empty()
    }
}

/// What firmware may boot from, as devices come and leave.
pub type BootDevices = Arc<Mutex<Vec<BootDevice>>>;

/// The file `bootorder`: the paths of devices with an index, in its order.
pub fn boot_order_file(devices: &[BootDevice], strict: bool) -> Vec<u8> {
    let mut indexed: Vec<_> =
        devices.iter().filter_map(|device| device.index.map(|index| (index, device.path.as_str()))).collect();
    indexed.sort_by_key(|(index, _)| *index);
    let mut lines: Vec<&str> = indexed.into_iter().map(|(_, path)| path).collect();
    if strict && !lines.is_empty() {
        lines.push("HALT");
    }
    text_file(&lines.join("\n"))
}

/// The file `bios-geometry`: path and geometry of devices that have one.
pub fn geometry_file(devices: &[BootDevice]) -> Vec<u8> {
    let lines: Vec<String> = devices
        .iter()
        .filter_map(|device| {
            let (cylinders, heads, sectors) = device.geometry?;
            Some(format!("{} {cylinders} {heads} {sectors}", device.path))
        })
        .collect();
    text_file(&lines.join("\n"))
}

/// Text with a final zero; nothing where there is none.
fn text_file(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    if !bytes.is_empty() {
        bytes.push(0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_order_cmos_bytes_name_the_devices() {
        assert_eq!(BootOrder::default().cmos(false), (0x30, 0x12));
        assert_eq!(BootOrder::parse("nd").map(|order| order.cmos(true)), Ok((0x01, 0x34)));
        for wrong in ["z", "cc", "acdn", "e"] {
            assert!(BootOrder::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn boot_order_file_sorts_by_index_and_ends_strict_lists() {
        let device =
            |index, path: &str| BootDevice { index, path: path.to_owned(), geometry: Some((1, 2, 3)), owner: None };
        let devices = [device(Some(5), "/second"), device(None, "/never"), device(Some(-1), "/first")];
        assert_eq!(boot_order_file(&devices, true), b"/first\n/second\nHALT\0");
        assert_eq!(boot_order_file(&devices[1..2], true), b"");
        assert_eq!(geometry_file(&devices[..1]), b"/second 1 2 3\0");
    }
}
