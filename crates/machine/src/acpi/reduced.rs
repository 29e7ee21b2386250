//! The tables of a board with reduced ACPI hardware (ACPI 5.0, 4.1): QEMU 7.2's for a `microvm`. RSDP revision 2 → XSDT →
//! FACP revision 5, APIC, and the DSDT with the event device, the transports of virtio devices, and PCI Express if there
//! is any.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, EISAName, Equal, Field, FieldAccessType, FieldEntry, FieldLockRule,
    FieldUpdateRule, If, Interrupt, Local, Memory32Fixed, Method, Notify, OpRegion, OpRegionSpace, Package, Path,
    Return, Store, ZERO,
};
use acpi_tables::sdt::Sdt;
use devices_chipset::ged;
use devices_chipset::ioapic::IOAPIC_SECOND_BASE;

use super::dsdt::{
    Code, borrowed, code, current_resources, device, direct_link, fw_cfg, hid, method, name,
    operating_system_capabilities, real_time_clock, resources, routes, scope, serial_port,
};
use super::{AcpiConfig, AcpiTables, Root, add_ioapic, add_nmi, add_override, board, madt_of_processors, table};

/// What the tables tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReducedTables {
    /// Where the event device has its selector and its registers, and its interrupt.
    pub events: (u32, u32, u32),
    /// Whether there is a real-time clock.
    pub rtc: bool,
    /// The second I/O APIC exists.
    pub second_ioapic: bool,
    /// The transports with virtio devices: number, address, bytes, global system interrupt.
    pub transports: Vec<(u8, u32, u32, u32)>,
    /// PCI Express.
    pub pcie: Option<PcieTables>,
}

/// What the tables tell of a PCI Express root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcieTables {
    /// Configuration space: first address and bytes.
    pub ecam: (u32, u32),
    /// Memory below 4 GiB: first and last address.
    pub memory: (u32, u32),
    /// Memory above: first and last address.
    pub high_memory: Option<(u64, u64)>,
    /// The first of four global system interrupts.
    pub irq: u32,
}

impl AcpiTables {
    /// Adds all the tables.
    pub(super) fn add_reduced(&mut self, config: &AcpiConfig, reduced: &ReducedTables) {
        let dsdt = self.add(&dsdt(config, reduced), &[]);
        let fadt = self.add(&fadt(reduced, dsdt), &[(40, 4), (140, 8)]);
        let mut list = vec![fadt, self.add(&madt(config, reduced), &[])];
        if let Some(pcie) = reduced.pcie {
            let window = (u64::from(pcie.ecam.0), u64::from(pcie.ecam.1));
            list.push(self.add(&super::mcfg(Some(window)), &[]));
        }
        self.root = Root::Xsdt(self.add_list(*b"XSDT", &list, 8));
    }
}

/// Revision 5 (ACPI 5.0, 5.2.9).
fn fadt(reduced: &ReducedTables, dsdt: u32) -> Sdt {
    const RESET_SUPPORTED: u32 = 1 << 10;
    const HARDWARE_REDUCED: u32 = 1 << 20;
    let mut fadt = table(*b"FACP", 5, 268);
    fadt.write_u32(40, dsdt);
    fadt.write_u64(140, u64::from(dsdt));
    fadt.write_u32(112, RESET_SUPPORTED | HARDWARE_REDUCED);
    // Generic addresses: system memory, 8 bits.
    let (_, registers, _) = reduced.events;
    for (at, register) in
        [(116, ged::register::RESET), (244, ged::register::SLEEP_CONTROL), (256, ged::register::SLEEP_STATUS)]
    {
        fadt.write_u8(at + 1, 8);
        fadt.write_u64(at + 4, u64::from(registers) + register);
    }
    fadt.write_u8(128, ged::RESET_VALUE);
    fadt
}

fn madt(config: &AcpiConfig, reduced: &ReducedTables) -> Sdt {
    const LEVEL_HIGH: u16 = 0xd;
    let mut madt = madt_of_processors(config);
    add_ioapic(&mut madt, (0, board::IO_APIC, 0));
    if reduced.second_ioapic {
        add_ioapic(&mut madt, (1, IOAPIC_SECOND_BASE as u32, 24));
    }
    add_override(&mut madt, (0, 2, 0));
    for irq in reduced.pcie.iter().flat_map(|pcie| pcie.irq..pcie.irq + 4).filter(|irq| *irq < 16) {
        add_override(&mut madt, (irq as u8, irq, LEVEL_HIGH));
    }
    add_nmi(&mut madt);
    madt
}

fn dsdt(config: &AcpiConfig, reduced: &ReducedTables) -> Sdt {
    const S5: u8 = ged::SLEEP_TYPE_S5;
    let mut dsdt = table(*b"DSDT", 2, 36);
    let mut root = vec![fw_cfg()];
    root.extend(config.serial_ports.iter().map(serial_port));
    root.extend(reduced.rtc.then(real_time_clock));
    root.push(event_device(reduced));
    root.push(device("PWRB", &[hid("PNP0C0C"), name("_UID", &ZERO)]));
    root.extend(reduced.transports.iter().map(|transport| virtio(*transport)));
    root.extend(reduced.pcie.map(|pcie| pcie_root(&pcie)));
    dsdt.append_slice(&scope("\\_SB_", &root).0);
    dsdt.append_slice(&name("\\_S5_", &Package::new(vec![&S5, &ZERO, &ZERO, &ZERO])).0);
    dsdt
}

/// The generic event device: its method reads the selector and tells the devices.
fn event_device(reduced: &ReducedTables) -> Code {
    let (selector, _, irq) = reduced.events;
    let events = ged::POWER_BUTTON;
    let pressed = [
        code(&Store::new(&Local(0), &Path::new("ESEL"))),
        code(&If::new(
            &Equal::new(&Code(and(&Local(0), &events)), &events),
            vec![&Notify::new(&Path::new("\\_SB_.PWRB"), &0x80_u8)],
        )),
    ];
    device(
        "GED_",
        &[
            name("_HID", &"ACPI0013"),
            name("_UID", &"GED"),
            current_resources(&[code(&Interrupt::new(true, true, false, false, irq))]),
            code(&OpRegion::new("EREG".into(), OpRegionSpace::SystemMemory, &selector, &4_u8)),
            code(&Field::new(
                "EREG".into(),
                FieldAccessType::DWord,
                FieldLockRule::NoLock,
                FieldUpdateRule::WriteAsZeroes,
                vec![FieldEntry::Named(*b"ESEL", 32)],
            )),
            code(&Method::new("_EVT".into(), 1, true, borrowed(&pressed))),
        ],
    )
}

/// An expression: the bits that both have.
fn and(left: &dyn acpi_tables::Aml, right: &dyn acpi_tables::Aml) -> Vec<u8> {
    code(&And::new(&ZERO, left, right)).0
}

fn virtio((number, address, len, irq): (u8, u32, u32, u32)) -> Code {
    let crs = [code(&Memory32Fixed::new(true, address, len)), code(&Interrupt::new(true, false, false, false, irq))];
    let parts = [name("_HID", &"LNRO0005"), name("_UID", &number), name("_CCA", &1_u8), current_resources(&crs)];
    device(&format!("VR{number:02}"), &parts)
}

/// `PCI0`, with its interrupt links and its configuration space.
fn pcie_root(pcie: &PcieTables) -> Code {
    use AddressSpaceCacheable::NotCacheable;
    /// All five features.
    const GRANTED: u8 = 0x1f;
    let (ecam, len) = pcie.ecam;
    let buses = (len >> 20) as u16;
    let mut windows = vec![code(&AddressSpace::new_bus_number(0_u16, buses.saturating_sub(1)))];
    windows.push(code(&AddressSpace::new_memory(NotCacheable, true, pcie.memory.0, pcie.memory.1, None)));
    if let Some((first, last)) = pcie.high_memory {
        windows.push(code(&AddressSpace::new_memory(NotCacheable, true, first, last, None)));
    }
    let mut parts = vec![
        hid("PNP0A08"),
        name("_CID", &EISAName::new("PNP0A03")),
        name("_SEG", &ZERO),
        name("_BBN", &ZERO),
        name("_UID", &ZERO),
        name("_CCA", &1_u8),
        name("_PRT", &routes(|slot, pin| format!("GSI{}", (slot + pin) % 4))),
        method("_CBA", 0, &[code(&Return::new(&ecam))]),
        current_resources(&windows),
        operating_system_capabilities(GRANTED),
    ];
    for link in 0..4_u8 {
        let irq = resources(&[code(&Interrupt::new(true, false, false, false, pcie.irq + u32::from(link)))]);
        parts.push(direct_link(&format!("GSI{link}"), link, &irq));
    }
    let reserved = code(&Memory32Fixed::new(true, ecam, len));
    parts.push(device("RES0", &[hid("PNP0C02"), current_resources(&[reserved])]));
    device("PCI0", &parts)
}
