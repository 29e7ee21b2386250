//! The ACPI tables of the `pc` board, for guests that start without firmware (ACPI 1.0b to 2.0; IA-PC HPET 1.0a).
//!
//! The set and the contents follow QEMU 7.2's `pc`: RSDP revision 0 → RSDT → FACP (revision 1), FACS, DSDT, APIC, HPET,
//! WAET, with the same OEM identifiers, so that guests treat both alike.

mod dsdt;

use acpi_tables::sdt::Sdt;

const OEM_ID: [u8; 6] = *b"BOCHS ";
const OEM_TABLE_ID: [u8; 8] = *b"BXPC    ";

/// Fixed resources of the board that the tables describe.
mod board {
    pub const SCI: u8 = 9;
    pub const SMI_COMMAND: u32 = 0xb2;
    pub const ACPI_ENABLE: u8 = 0xf1;
    pub const ACPI_DISABLE: u8 = 0xf0;
    pub const PM1A_EVENT: u32 = 0x600;
    pub const PM1A_CONTROL: u32 = 0x604;
    pub const PM_TIMER: u32 = 0x608;
    pub const GPE0: u32 = 0xafe0;
    pub const GPE0_LEN: u8 = 4;
    pub const LOCAL_APIC: u32 = 0xfee0_0000;
    pub const IO_APIC: u32 = 0xfec0_0000;
    pub const HPET: u64 = 0xfed0_0000;
    /// Offset of the century byte in CMOS.
    pub const RTC_CENTURY: u8 = 0x32;
}

/// What the tables tell about this machine.
#[derive(Clone, Debug)]
pub struct AcpiConfig {
    /// Local APIC id of each possible vCPU.
    pub apic_ids: Vec<u32>,
    /// How many of them are present.
    pub present: usize,
    /// First address above low RAM: where PCI memory begins.
    pub pci_hole_start: u32,
    /// Whether there is an HPET.
    pub hpet: bool,
    /// The pvpanic port, if the device is there.
    pub pvpanic: Option<u16>,
    /// The I/O ports of the ISA serial ports that exist, in order of COM number.
    pub serial_ports: Vec<SerialPort>,
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

/// The tables, placed.
#[derive(Clone, Debug)]
pub struct AcpiTables {
    /// All the tables but the RSDP, to be written at the address given to [`AcpiTables::build`].
    pub blob: Vec<u8>,
    /// The 20 bytes of the RSDP.
    pub rsdp: Vec<u8>,
}

impl AcpiTables {
    /// Builds the tables for address `at` (page-aligned, below 4 GiB).
    pub fn build(config: &AcpiConfig, at: u32) -> Self {
        let mut blob = Vec::new();
        let mut place = |bytes: &[u8], align: usize| {
            blob.resize(blob.len().next_multiple_of(align), 0);
            let address = at + blob.len() as u32;
            blob.extend_from_slice(bytes);
            address
        };
        let facs = place(&facs(), 64);
        let dsdt = place(dsdt::build(config).as_slice(), 16);
        let mut pointers = vec![place(fadt(facs, dsdt).as_slice(), 16), place(madt(config).as_slice(), 16)];
        if config.hpet {
            pointers.push(place(hpet().as_slice(), 16));
        }
        pointers.push(place(waet().as_slice(), 16));
        let mut rsdt = table(*b"RSDT", 1, 36);
        for pointer in pointers {
            rsdt.append_slice(&pointer.to_le_bytes());
        }
        let rsdt = place(rsdt.as_slice(), 16);
        Self { blob, rsdp: rsdp(rsdt) }
    }
}

fn table(signature: [u8; 4], revision: u8, length: u32) -> Sdt {
    let mut table = Sdt::new(signature, length, revision, OEM_ID, OEM_TABLE_ID, 1);
    table.write_bytes(28, b"BXPC");
    table.write_u32(32, 1);
    table
}

/// Root System Description Pointer, revision 0 (ACPI 1.0b, 5.2.4).
fn rsdp(rsdt: u32) -> Vec<u8> {
    let mut bytes = b"RSD PTR ".to_vec();
    bytes.push(0);
    bytes.extend(OEM_ID);
    bytes.push(0);
    bytes.extend(rsdt.to_le_bytes());
    bytes[8] = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
    bytes
}

/// Firmware ACPI Control Structure (ACPI 1.0b, 5.2.6).
fn facs() -> Vec<u8> {
    let mut bytes = b"FACS".to_vec();
    bytes.extend(64_u32.to_le_bytes());
    bytes.resize(64, 0);
    bytes
}

/// Fixed ACPI Description Table, revision 1: 116 bytes (ACPI 1.0b, 5.2.5). Old Windows versions need this revision.
fn fadt(facs: u32, dsdt: u32) -> Sdt {
    /// WBINVD, PROC_C1, SLP_BUTTON (no fixed sleep button), RTC_S4, RESET_REG_SUP, USE_PLATFORM_CLOCK. The fixed power
    /// button exists (PWR_BUTTON is clear).
    const FLAGS: u32 = 0x84a5;
    let mut fadt = table(*b"FACP", 1, 116);
    fadt.write_u32(36, facs);
    fadt.write_u32(40, dsdt);
    fadt.write_u8(44, 1); // interrupt model: multiple APIC
    fadt.write_u16(46, u16::from(board::SCI));
    fadt.write_u32(48, board::SMI_COMMAND);
    fadt.write_u8(52, board::ACPI_ENABLE);
    fadt.write_u8(53, board::ACPI_DISABLE);
    fadt.write_u32(56, board::PM1A_EVENT);
    fadt.write_u32(64, board::PM1A_CONTROL);
    fadt.write_u32(76, board::PM_TIMER);
    fadt.write_u32(80, board::GPE0);
    fadt.write_u8(88, 4); // PM1 event block length
    fadt.write_u8(89, 2); // PM1 control block length
    fadt.write_u8(91, 4); // PM timer block length
    fadt.write_u8(92, board::GPE0_LEN);
    fadt.write_u16(96, 0xfff); // C2 is not supported
    fadt.write_u16(98, 0xfff); // C3 is not supported
    fadt.write_u8(108, board::RTC_CENTURY);
    fadt.write_u32(112, FLAGS);
    fadt
}

/// Multiple APIC Description Table (ACPI 1.0b, 5.2.8), with x2APIC entries for ids above 254 (ACPI 4.0, 5.2.12.12).
fn madt(config: &AcpiConfig) -> Sdt {
    let mut madt = table(*b"APIC", 1, 44);
    madt.write_u32(36, board::LOCAL_APIC);
    madt.write_u32(40, 1); // PCAT_COMPAT: there are 8259s
    for (index, &id) in config.apic_ids.iter().enumerate() {
        let enabled = u32::from(index < config.present);
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
    madt.append_slice(&[1, 12, 0, 0]);
    madt.append_slice(&board::IO_APIC.to_le_bytes());
    madt.append_slice(&0_u32.to_le_bytes());
    // ISA IRQ 0 is input 2; the level-triggered, active-high ISA IRQs are those that PCI interrupts and the SCI use.
    for (irq, input, flags) in [(0_u8, 2_u32, 0_u16), (5, 5, 0xd), (9, 9, 0xd), (10, 10, 0xd), (11, 11, 0xd)] {
        madt.append_slice(&[2, 10, 0, irq]);
        madt.append_slice(&input.to_le_bytes());
        madt.append_slice(&flags.to_le_bytes());
    }
    // NMI on LINT1 of every processor.
    madt.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    madt
}

/// HPET description (IA-PC HPET specification 1.0a, 3.2.4).
fn hpet() -> Sdt {
    let mut hpet = table(*b"HPET", 1, 56);
    hpet.write_u32(36, 0x8086_a201);
    hpet.write_u64(44, board::HPET);
    hpet
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
            apic_ids: vec![0, 1, 2, 300],
            present: 3,
            pci_hole_start: 0x0800_0000,
            hpet: true,
            pvpanic: Some(0x505),
            serial_ports: vec![SerialPort { number: 1, io: 0x3f8, irq: 4 }],
        }
    }

    #[test]
    fn tables_all_checksums_are_zero() {
        let at = 0x7fe_0000;
        let tables = AcpiTables::build(&config(), at);
        assert_eq!(tables.rsdp.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        let dword = |offset: usize| u32::from_le_bytes(*tables.blob[offset..].first_chunk().expect("dword"));
        let rsdt = (u32::from_le_bytes(*tables.rsdp[16..].first_chunk().expect("dword")) - at) as usize;
        let entries = (dword(rsdt + 4) as usize - 36) / 4;
        let mut offsets: Vec<usize> = (0..entries).map(|entry| (dword(rsdt + 36 + 4 * entry) - at) as usize).collect();
        let signatures: Vec<&[u8]> = offsets.iter().map(|offset| &tables.blob[*offset..offset + 4]).collect();
        assert_eq!(signatures, [&b"FACP"[..], b"APIC", b"HPET", b"WAET"]);
        offsets.extend([rsdt, (dword(offsets[0] + 40) - at) as usize]);
        for offset in offsets {
            let len = dword(offset + 4) as usize;
            let sum = tables.blob[offset..offset + len].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum, 0, "table at {offset:#x}");
        }
    }
}
