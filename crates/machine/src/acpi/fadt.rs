//! Fixed ACPI Description Tables: revision 1 for the PIIX4 (ACPI 1.0b, 5.2.5), which old Windows versions need, and
//! revision 3 for the ICH9 (ACPI 2.0, 5.2.8).

use acpi_tables::sdt::Sdt;

use super::{AcpiConfig, board, table};

/// WBINVD, PROC_C1, SLP_BUTTON (no fixed sleep button), RTC_S4, RESET_REG_SUP, USE_PLATFORM_CLOCK. The fixed power
/// button exists (PWR_BUTTON is clear).
const FLAGS: u32 = 0x84a5;
/// More than eight processors are addressed only physically.
const FORCE_APIC_CLUSTER_MODEL: u32 = 1 << 18;

fn common(fadt: &mut Sdt, pm_base: u16, (facs, dsdt): (u32, u32), gpe0: u32, gpe0_len: u8) {
    let pm_base = u32::from(pm_base);
    fadt.write_u32(36, facs);
    fadt.write_u32(40, dsdt);
    fadt.write_u8(44, 1); // interrupt model: multiple APIC
    fadt.write_u16(46, u16::from(board::SCI));
    fadt.write_u32(48, board::SMI_COMMAND);
    fadt.write_u32(56, pm_base + board::PM1A_EVENT);
    fadt.write_u32(64, pm_base + board::PM1A_CONTROL);
    fadt.write_u32(76, pm_base + board::PM_TIMER);
    fadt.write_u32(80, gpe0);
    fadt.write_u8(88, 4); // PM1 event block length
    fadt.write_u8(89, 2); // PM1 control block length
    fadt.write_u8(91, 4); // PM timer block length
    fadt.write_u8(92, gpe0_len);
    fadt.write_u16(96, 0xfff); // C2 is not supported
    fadt.write_u16(98, 0xfff); // C3 is not supported
    fadt.write_u8(108, board::RTC_CENTURY);
    fadt.write_u32(112, FLAGS);
}

/// The PIIX4's.
pub fn piix4(config: &AcpiConfig, facs: u32, dsdt: u32) -> Sdt {
    let mut fadt = table(*b"FACP", 1, 116);
    common(&mut fadt, config.pm_base, (facs, dsdt), board::GPE0, board::GPE0_LEN);
    fadt.write_u8(52, board::ACPI_ENABLE);
    fadt.write_u8(53, board::ACPI_DISABLE);
    fadt
}

/// The ICH9's.
pub fn ich9(config: &AcpiConfig, facs: u32, dsdt: u32) -> Sdt {
    /// In the power management block.
    const GPE0_AT: u32 = 0x20;
    const GPE0_LEN: u8 = 16;
    const RESET_PORT: u64 = 0xcf9;
    const RESET_VALUE: u8 = 0x0f;
    let mut fadt = table(*b"FACP", 3, 244);
    let pm_base = u32::from(config.pm_base);
    let gpe0 = pm_base + GPE0_AT;
    common(&mut fadt, config.pm_base, (facs, dsdt), gpe0, GPE0_LEN);
    fadt.write_u8(52, 2);
    fadt.write_u8(53, 3);
    if config.apic_ids.len() > 8 {
        fadt.write_u32(112, FLAGS | FORCE_APIC_CLUSTER_MODEL);
    }
    // Generic addresses: I/O space, bits, offset, access size, address.
    let mut address = |at: usize, bits: u8, port: u64| {
        fadt.write_u8(at, 1);
        fadt.write_u8(at + 1, bits);
        fadt.write_u64(at + 4, port);
    };
    address(116, 8, RESET_PORT);
    address(148, 32, u64::from(pm_base + board::PM1A_EVENT));
    address(172, 16, u64::from(pm_base + board::PM1A_CONTROL));
    address(208, 32, u64::from(pm_base + board::PM_TIMER));
    address(220, GPE0_LEN * 8, u64::from(gpe0));
    fadt.write_u8(128, RESET_VALUE);
    fadt.write_u64(140, u64::from(dsdt));
    fadt
}
