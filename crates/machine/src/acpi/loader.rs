//! The script in `etc/table-loader` by which firmware places and links the tables (QEMU's `bios-linker-loader`): a list
//! of commands of 128 bytes each.

/// The file with all the tables but the RSDP.
pub const TABLES_FILE: &str = "etc/acpi/tables";
/// The file with the RSDP.
pub const RSDP_FILE: &str = "etc/acpi/rsdp";
/// The file with the script.
pub const LOADER_FILE: &str = "etc/table-loader";

const COMMAND_LEN: usize = 128;
const NAME_LEN: usize = 56;
/// The script's length is a multiple of this.
const SCRIPT_ALIGN: usize = 0x1000;

/// Numbers of the commands.
mod command {
    pub const ALLOCATE: u32 = 1;
    pub const ADD_POINTER: u32 = 2;
    pub const ADD_CHECKSUM: u32 = 3;
    pub const WRITE_POINTER: u32 = 4;
}

/// Where firmware puts a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Zone {
    /// Anywhere in RAM below 4 GiB.
    High = 1,
    /// Between 0xe0000 and 0xfffff.
    FSegment = 2,
}

/// The three files that firmware makes tables of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFiles {
    /// [`TABLES_FILE`].
    pub tables: Vec<u8>,
    /// [`RSDP_FILE`].
    pub rsdp: Vec<u8>,
    /// [`LOADER_FILE`].
    pub loader: Vec<u8>,
}

/// A script.
#[derive(Clone, Debug, Default)]
pub struct Script(Vec<u8>);

impl Script {
    fn command(&mut self, number: u32, parts: &[&[u8]]) {
        let start = self.0.len();
        self.0.extend(number.to_le_bytes());
        for part in parts {
            self.0.extend_from_slice(part);
        }
        self.0.resize(start + COMMAND_LEN, 0);
    }

    /// Places a file at a multiple of `align`.
    pub fn allocate(&mut self, file: &str, align: u32, zone: Zone) {
        self.command(command::ALLOCATE, &[&name(file), &align.to_le_bytes(), &[zone as u8]]);
    }

    /// Adds the address of the file `to` to the `size` bytes at `offset` of the file `file`.
    pub fn add_pointer(&mut self, file: &str, offset: u32, size: u8, to: &str) {
        self.command(command::ADD_POINTER, &[&name(file), &name(to), &offset.to_le_bytes(), &[size]]);
    }

    /// Makes the sum of `len` bytes from `start` zero by the byte at `offset`, which is zero before.
    pub fn add_checksum(&mut self, file: &str, offset: u32, start: u32, len: u32) {
        let parts = [offset, start, len].map(u32::to_le_bytes);
        self.command(command::ADD_CHECKSUM, &[&name(file), &parts[0], &parts[1], &parts[2]]);
    }

    /// Writes the address of the file `to`, plus `at`, into a file of the machine: name, offset, and bytes of the address.
    pub fn write_pointer(&mut self, (file, offset, size): (&str, u32, u8), to: &str, at: u32) {
        self.command(
            command::WRITE_POINTER,
            &[&name(file), &name(to), &offset.to_le_bytes(), &at.to_le_bytes(), &[size]],
        );
    }

    /// The file's contents.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(SCRIPT_ALIGN), 0);
        self.0
    }
}

fn name(file: &str) -> [u8; NAME_LEN] {
    let mut field = [0; NAME_LEN];
    for (to, from) in field.iter_mut().zip(file.bytes()) {
        *to = from;
    }
    field
}
