//! The ACPI tables (ACPI 1.0b to 2.0; IA-PC HPET 1.0a; PCI firmware specification 3.0 for MCFG).
//!
//! Set and contents follow QEMU 7.2: RSDP revision 0 → RSDT → FACP, FACS, DSDT, APIC, HPET, WAET, with the same OEM
//! identifiers, so that guests treat both alike. The FACP of `pc` has revision 1, that of `q35` revision 3, and `q35` has
//! an MCFG. Firmware links them by the script in `etc/table-loader`; for guests that start without firmware they are
//! linked here.

mod dsdt;
mod fadt;
mod hotplug;
mod loader;
mod reduced;
mod srat;
pub mod vmgenid;

use std::sync::Arc;

use acpi_tables::sdt::Sdt;

pub use self::hotplug::PciHotplugTables;
pub use self::loader::{LOADER_FILE, RSDP_FILE, TABLES_FILE, TableFiles};
use self::loader::{Script, Zone};
pub use self::reduced::{PcieTables, ReducedTables};
pub use self::srat::NumaTables;

const OEM_ID: [u8; 6] = *b"BOCHS ";
const OEM_TABLE_ID: [u8; 8] = *b"BXPC    ";

/// Fixed resources of the board that the tables describe.
mod board {
    pub const SCI: u8 = 9;
    pub const SMI_COMMAND: u32 = 0xb2;
    pub const ACPI_ENABLE: u8 = 0xf1;
    pub const ACPI_DISABLE: u8 = 0xf0;
    /// Offsets in the power management block.
    pub const PM1A_EVENT: u32 = 0;
    pub const PM1A_CONTROL: u32 = 4;
    pub const PM_TIMER: u32 = 8;
    pub const GPE0: u32 = 0xafe0;
    pub const GPE0_LEN: u8 = 4;
    pub const LOCAL_APIC: u32 = 0xfee0_0000;
    pub const IO_APIC: u32 = 0xfec0_0000;
    pub const HPET: u64 = 0xfed0_0000;
    /// Offset of the century byte in CMOS.
    pub const RTC_CENTURY: u8 = 0x32;
}

/// Which chipset the tables describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChipsetTables {
    /// 440FX with PIIX3 and PIIX4 power management.
    I440fx,
    /// Q35 with ICH9.
    Q35 {
        /// Where configuration space is mapped, if the firmware mapped it: first address and bytes.
        mmconfig: Option<(u64, u64)>,
    },
}

/// The sleep states that the guest may enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleepStates {
    /// Suspend to RAM.
    pub s3: bool,
    /// Suspend to disk, and the SLP_TYP that asks for it.
    pub s4: Option<u8>,
}

/// What the tables tell about this machine.
#[derive(Clone, Debug)]
pub struct AcpiConfig {
    /// The chipset.
    pub chipset: ChipsetTables,
    /// The first port of the power management block, where firmware put it.
    pub pm_base: u16,
    /// The sleep states beside S5.
    pub sleep: SleepStates,
    /// Where PCI memory is above 4 GiB: first and last address.
    pub high_window: Option<(u64, u64)>,
    /// Local APIC id of each possible vCPU.
    pub apic_ids: Vec<u32>,
    /// Which of them are present.
    pub present: Vec<bool>,
    /// The first port of the registers by which vCPUs come and leave, if they do.
    pub cpu_hotplug: Option<u16>,
    /// How PCI functions come and leave, if they do by ACPI.
    pub pci_hotplug: Option<PciHotplugTables>,
    /// First address above low RAM: where PCI memory begins.
    pub pci_hole_start: u32,
    /// Whether there is an HPET.
    pub hpet: bool,
    /// The pvpanic port, if the device is there.
    pub pvpanic: Option<u16>,
    /// The generation of the machine, if the guest can ask for it.
    pub generation: Option<[u8; 16]>,
    /// The nodes of a NUMA machine.
    pub numa: Option<Arc<NumaTables>>,
    /// The I/O ports of the ISA serial ports that exist, in order of COM number.
    pub serial_ports: Vec<SerialPort>,
    /// The ISA parallel ports that exist, in order of LPT number.
    pub parallel_ports: Vec<ParallelPort>,
    /// The board has reduced ACPI hardware, and this is what it has beside serial ports.
    pub reduced: Option<ReducedTables>,
}

impl AcpiConfig {
    fn is_present(&self, index: usize) -> bool {
        self.present.get(index).copied().unwrap_or(false)
    }
}

/// One ISA parallel port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParallelPort {
    /// LPT number, from 1.
    pub number: u8,
    /// First of its 8 ports.
    pub io: u16,
    /// ISA interrupt.
    pub irq: u8,
}

/// One ISA serial port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialPort {
    /// COM number, from 1.
    pub number: u8,
    /// First of its 8 ports.
    pub io: u16,
    /// ISA interrupt.
    pub irq: u8,
}

/// The tables, with offsets in place of addresses.
#[derive(Clone, Debug)]
pub struct AcpiTables {
    blob: Vec<u8>,
    /// Where pointers to other tables are, and how many bytes they have.
    pointers: Vec<(u32, u8)>,
    /// Offset and length of each table with a checksum.
    tables: Vec<(u32, u32)>,
    root: Root,
    /// Where the SSDT of the machine's generation wants the address of the number, and the number.
    generation: Option<(u32, [u8; 16])>,
}

/// Where the checksum is in a table.
const CHECKSUM_AT: u32 = 9;

/// The table of tables: where it is, or its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    /// With 32-bit pointers.
    Rsdt(u32),
    /// With 64-bit pointers.
    Xsdt(u32),
}

impl Root {
    /// The same, placed.
    fn at(self, address: u32) -> Self {
        match self {
            Self::Rsdt(offset) => Self::Rsdt(address.wrapping_add(offset)),
            Self::Xsdt(offset) => Self::Xsdt(address.wrapping_add(offset)),
        }
    }

    /// Root System Description Pointer: revision 0 (ACPI 1.0b, 5.2.4), or 2 (ACPI 2.0, 5.2.4).
    fn rsdp(self) -> Vec<u8> {
        const LEN: u32 = 36;
        let (revision, rsdt) = match self {
            Self::Rsdt(address) => (0, address),
            Self::Xsdt(_) => (2, 0),
        };
        let mut bytes = b"RSD PTR ".to_vec();
        bytes.push(0);
        bytes.extend(OEM_ID);
        bytes.push(revision);
        bytes.extend(rsdt.to_le_bytes());
        if let Self::Xsdt(address) = self {
            bytes.extend(LEN.to_le_bytes());
            bytes.extend(u64::from(address).to_le_bytes());
            bytes.resize(LEN as usize, 0);
        }
        bytes
    }

    /// Where the pointer is in the RSDP, and how many bytes it has.
    fn pointer(self) -> (u32, u8) {
        match self {
            Self::Rsdt(_) => (16, 4),
            Self::Xsdt(_) => (24, 8),
        }
    }

    /// Where checksums are in the RSDP, and of how many bytes from its beginning.
    fn checksums(self) -> &'static [(u32, u32)] {
        match self {
            Self::Rsdt(_) => &[(8, 20)],
            Self::Xsdt(_) => &[(8, 20), (32, 36)],
        }
    }
}

/// The tables at their addresses.
#[derive(Clone, Debug)]
pub struct PlacedTables {
    /// All the tables but the RSDP.
    pub blob: Vec<u8>,
    /// The RSDP.
    pub rsdp: Vec<u8>,
}

impl AcpiTables {
    /// Builds the tables.
    pub fn build(config: &AcpiConfig) -> Self {
        let mut tables =
            Self { blob: Vec::new(), pointers: Vec::new(), tables: Vec::new(), root: Root::Rsdt(0), generation: None };
        if let Some(reduced) = &config.reduced {
            tables.add_reduced(config, reduced);
            return tables;
        }
        let facs = tables.place(&facs(), 64);
        let dsdt = tables.add(&dsdt::build(config), &[]);
        let fadt = match config.chipset {
            ChipsetTables::I440fx => tables.add(&fadt::piix4(config, facs, dsdt), &[(36, 4), (40, 4)]),
            ChipsetTables::Q35 { .. } => tables.add(&fadt::ich9(config, facs, dsdt), &[(36, 4), (40, 4), (140, 8)]),
        };
        let mut list = vec![fadt, tables.add(&madt(config), &[])];
        if config.hpet {
            list.push(tables.add(&hpet(), &[]));
        }
        if let Some(guid) = config.generation {
            let ssdt = tables.add(&vmgenid::ssdt(), &[]);
            tables.generation = Some((ssdt + vmgenid::POINTER_AT, guid));
            list.push(ssdt);
        }
        if let Some(numa) = &config.numa {
            list.extend(numa.tables(&config.apic_ids).iter().map(|table| tables.add(table, &[])));
        }
        if let ChipsetTables::Q35 { mmconfig } = config.chipset {
            list.push(tables.add(&mcfg(mmconfig), &[]));
        }
        list.push(tables.add(&waet(), &[]));
        tables.root = Root::Rsdt(tables.add_list(*b"RSDT", &list, 4));
        tables
    }

    fn place(&mut self, bytes: &[u8], align: usize) -> u32 {
        self.blob.resize(self.blob.len().next_multiple_of(align), 0);
        let offset = self.blob.len() as u32;
        self.blob.extend_from_slice(bytes);
        offset
    }

    /// Adds a table whose pointers are at offsets in it.
    fn add(&mut self, table: &Sdt, pointers: &[(u32, u8)]) -> u32 {
        let offset = self.place(table.as_slice(), 16);
        self.tables.push((offset, table.as_slice().len() as u32));
        self.pointers.extend(pointers.iter().map(|(at, size)| (offset + at, *size)));
        offset
    }

    /// Adds the table of tables, with pointers of so many bytes.
    fn add_list(&mut self, signature: [u8; 4], list: &[u32], size: u8) -> u32 {
        let mut root = table(signature, 1, 36);
        let mut entries = Vec::new();
        for (at, offset) in (36..).step_by(usize::from(size)).zip(list) {
            root.append_slice(&u64::from(*offset).to_le_bytes()[..usize::from(size)]);
            entries.push((at, size));
        }
        self.add(&root, &entries)
    }

    /// Bytes of all tables but the RSDP.
    pub fn len(&self) -> usize {
        self.blob.len()
    }

    /// There is always something.
    pub fn is_empty(&self) -> bool {
        self.blob.is_empty()
    }

    /// The tables for address `at` (aligned to 64 bytes, below 4 GiB), as firmware would have placed them.
    pub fn placed(&self, at: u32) -> PlacedTables {
        let mut blob = self.blob.clone();
        if let Some((pointer, guid)) = self.generation {
            blob.resize(blob.len().next_multiple_of(vmgenid::GUID_LEN), 0);
            let page = at.wrapping_add(blob.len() as u32);
            blob[pointer as usize..pointer as usize + 4].copy_from_slice(&page.to_le_bytes());
            blob.extend(vmgenid::guid_file(guid));
        }
        for (offset, _) in &self.pointers {
            let field = *offset as usize..*offset as usize + 4;
            let mut value = [0; 4];
            value.copy_from_slice(&blob[field.clone()]);
            blob[field].copy_from_slice(&u32::from_le_bytes(value).wrapping_add(at).to_le_bytes());
        }
        for (start, len) in &self.tables {
            let sum_at = (start + CHECKSUM_AT) as usize;
            blob[sum_at] = 0;
            blob[sum_at] = checksum(&blob[*start as usize..(start + len) as usize]);
        }
        let mut rsdp = self.root.at(at).rsdp();
        for (at, len) in self.root.checksums() {
            rsdp[*at as usize] = checksum(&rsdp[..*len as usize]);
        }
        PlacedTables { blob, rsdp }
    }

    /// The files for firmware that links the tables itself.
    pub fn files(&self) -> TableFiles {
        /// The tables' size does not change with what they say, so that a restored guest finds it as it was.
        const TABLES_LEN: usize = 0x2_0000;
        let mut script = Script::default();
        script.allocate(RSDP_FILE, 16, Zone::FSegment);
        script.allocate(TABLES_FILE, 64, Zone::High);
        for (offset, size) in &self.pointers {
            script.add_pointer(TABLES_FILE, *offset, *size, TABLES_FILE);
        }
        if let Some((pointer, _)) = self.generation {
            script.allocate(vmgenid::GUID_FILE, vmgenid::GUID_LEN as u32, Zone::High);
            script.write_pointer((vmgenid::ADDRESS_FILE, 0, 8), vmgenid::GUID_FILE, vmgenid::GUID_AT);
            script.add_pointer(TABLES_FILE, pointer, 4, vmgenid::GUID_FILE);
        }
        let mut tables = self.blob.clone();
        for (start, len) in &self.tables {
            tables[(start + CHECKSUM_AT) as usize] = 0;
            script.add_checksum(TABLES_FILE, start + CHECKSUM_AT, *start, *len);
        }
        let (pointer, size) = self.root.pointer();
        script.add_pointer(RSDP_FILE, pointer, size, TABLES_FILE);
        for (at, len) in self.root.checksums() {
            script.add_checksum(RSDP_FILE, *at, 0, *len);
        }
        tables.resize(tables.len().next_multiple_of(TABLES_LEN), 0);
        TableFiles { tables, rsdp: self.root.rsdp(), loader: script.finish() }
    }
}

/// `value` that makes the sum of `bytes` and it zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// An empty table.
fn table(signature: [u8; 4], revision: u8, length: u32) -> Sdt {
    let mut table = Sdt::new(signature, length, revision, OEM_ID, OEM_TABLE_ID, 1);
    table.write_bytes(28, b"BXPC");
    table.write_u32(32, 1);
    table
}

/// Firmware ACPI Control Structure (ACPI 1.0b, 5.2.6).
fn facs() -> Vec<u8> {
    let mut bytes = b"FACS".to_vec();
    bytes.extend(64_u32.to_le_bytes());
    bytes.resize(64, 0);
    bytes
}

/// Multiple APIC Description Table (ACPI 1.0b, 5.2.8), with x2APIC entries for ids above 254 (ACPI 4.0, 5.2.12.12).
fn madt(config: &AcpiConfig) -> Sdt {
    let mut madt = madt_of_processors(config);
    add_ioapic(&mut madt, (0, board::IO_APIC, 0));
    // ISA IRQ 0 is input 2; the level-triggered, active-high ISA IRQs are those that PCI interrupts and the SCI use.
    for (irq, input, flags) in [(0_u8, 2_u32, 0_u16), (5, 5, 0xd), (9, 9, 0xd), (10, 10, 0xd), (11, 11, 0xd)] {
        add_override(&mut madt, (irq, input, flags));
    }
    add_nmi(&mut madt);
    madt
}

/// NMI on LINT1 of every processor.
fn add_nmi(madt: &mut Sdt) {
    madt.append_slice(&[4, 6, 0xff, 0, 0, 1]);
}

/// Number, address and first global system interrupt.
fn add_ioapic(madt: &mut Sdt, (id, address, first): (u8, u32, u32)) {
    madt.append_slice(&[1, 12, id, 0]);
    madt.append_slice(&address.to_le_bytes());
    madt.append_slice(&first.to_le_bytes());
}

/// An ISA interrupt with the input that it reaches.
fn add_override(madt: &mut Sdt, (irq, input, flags): (u8, u32, u16)) {
    madt.append_slice(&[2, 10, 0, irq]);
    madt.append_slice(&input.to_le_bytes());
    madt.append_slice(&flags.to_le_bytes());
}

fn madt_of_processors(config: &AcpiConfig) -> Sdt {
    let mut madt = table(*b"APIC", 1, 44);
    madt.write_u32(36, board::LOCAL_APIC);
    madt.write_u32(40, 1); // PCAT_COMPAT: there are 8259s
    for (index, &id) in config.apic_ids.iter().enumerate() {
        let enabled = u32::from(config.is_present(index));
        if let Ok(id) = u8::try_from(id)
            && id != 0xff
        {
            madt.append_slice(&[0, 8, index as u8, id]);
            madt.append_slice(&enabled.to_le_bytes());
        } else {
            madt.append_slice(&[9, 16, 0, 0]);
            for value in [id, enabled, index as u32] {
                madt.append_slice(&value.to_le_bytes());
            }
        }
    }
    madt
}

/// HPET description (IA-PC HPET specification 1.0a, 3.2.4).
fn hpet() -> Sdt {
    let mut hpet = table(*b"HPET", 1, 56);
    hpet.write_u32(36, 0x8086_a201);
    hpet.write_u64(44, board::HPET);
    hpet
}

/// Memory-mapped configuration space (PCI firmware specification 3.0, 4.1.2).
fn mcfg(mmconfig: Option<(u64, u64)>) -> Sdt {
    // Where firmware did not map it, the table must not be found; its length stays.
    let (signature, (base, len)) = match mmconfig {
        Some(window) => (*b"MCFG", window),
        None => (*b"QEMU", (0, 1 << 20)),
    };
    let mut mcfg = table(signature, 1, 60);
    mcfg.write_u64(44, base);
    mcfg.write_u8(55, ((len >> 20).saturating_sub(1)).min(255) as u8);
    mcfg
}

/// Windows ACPI Emulated devices Table: the PM timer reads right at once.
fn waet() -> Sdt {
    let mut waet = table(*b"WAET", 1, 40);
    waet.write_u32(36, 1 << 1);
    waet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> AcpiConfig {
        AcpiConfig {
            chipset: ChipsetTables::I440fx,
            pm_base: 0x600,
            sleep: SleepStates { s3: true, s4: Some(2) },
            high_window: None,
            apic_ids: vec![0, 1, 2, 300],
            present: vec![true, true, true, false],
            cpu_hotplug: Some(0xaf00),
            pci_hotplug: None,
            pci_hole_start: 0x0800_0000,
            hpet: true,
            pvpanic: Some(0x505),
            generation: Some([1; 16]),
            numa: None,
            serial_ports: vec![SerialPort { number: 1, io: 0x3f8, irq: 4 }],
            reduced: None,
            parallel_ports: vec![ParallelPort { number: 1, io: 0x378, irq: 7 }],
        }
    }

    #[test]
    fn fadt_names_the_ports_that_firmware_chose() {
        let config = AcpiConfig { pm_base: 0xb000, ..config() };
        for (fadt, gpe0) in [(fadt::piix4(&config, 0, 64), 0xafe0_u32), (fadt::ich9(&config, 0, 64), 0xb020)] {
            let dword = |at: usize| u32::from_le_bytes(*fadt.as_slice()[at..].first_chunk().expect("in the table"));
            assert_eq!([dword(56), dword(64), dword(76), dword(80)], [0xb000, 0xb004, 0xb008, gpe0]);
        }
    }

    #[test]
    fn tables_all_checksums_are_zero() {
        let at = 0x7fe_0000;
        let tables = AcpiTables::build(&config()).placed(at);
        assert_eq!(tables.rsdp.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        let dword = |offset: usize| u32::from_le_bytes(*tables.blob[offset..].first_chunk().expect("dword"));
        let rsdt = (u32::from_le_bytes(*tables.rsdp[16..].first_chunk().expect("dword")) - at) as usize;
        let entries = (dword(rsdt + 4) as usize - 36) / 4;
        let mut offsets: Vec<usize> = (0..entries).map(|entry| (dword(rsdt + 36 + 4 * entry) - at) as usize).collect();
        let signatures: Vec<&[u8]> = offsets.iter().map(|offset| &tables.blob[*offset..offset + 4]).collect();
        assert_eq!(signatures, [&b"FACP"[..], b"APIC", b"HPET", b"SSDT", b"WAET"]);
        offsets.extend([rsdt, (dword(offsets[0] + 40) - at) as usize]);
        for offset in offsets {
            let len = dword(offset + 4) as usize;
            let sum = tables.blob[offset..offset + len].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum, 0, "table at {offset:#x}");
        }
    }
}
