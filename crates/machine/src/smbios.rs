//! SMBIOS structures (DMTF DSP0134 2.8), as QEMU hands them to firmware: the entry point in `etc/smbios/smbios-anchor`
//! and the structures in `etc/smbios/smbios-tables`. Firmware adds its own type 0 and places them.

use x86::model::Topology;

/// The fields that each type takes on the command line (`-smbios type=N,…`).
pub const FIELDS: &[(u8, &[&str])] = &[
    (0, &["vendor", "version", "date", "release", "uefi"]),
    (1, &["manufacturer", "product", "version", "serial", "uuid", "sku", "family"]),
    (2, &["manufacturer", "product", "version", "serial", "asset", "location"]),
    (3, &["manufacturer", "version", "serial", "asset", "sku"]),
    (
        4,
        &[
            "sock_pfx",
            "manufacturer",
            "version",
            "serial",
            "asset",
            "part",
            "max-speed",
            "current-speed",
            "processor-id",
        ],
    ),
    (11, &["value"]),
    (17, &["loc_pfx", "bank", "manufacturer", "serial", "asset", "part", "speed"]),
];

/// What `-smbios` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SmbiosOptions {
    /// Type, field and value; a field may be given again, the last one counts (but for type 11, which is a list).
    pub fields: Vec<(u8, String, String)>,
    /// Structures from files, with their strings and final zeros. They take the place of those of the same type.
    pub structures: Vec<Vec<u8>>,
}

impl SmbiosOptions {
    fn has(&self, kind: u8) -> bool {
        self.fields.iter().any(|(other, ..)| *other == kind)
    }

    fn get<'a>(&'a self, kind: u8, field: &str) -> Option<&'a str> {
        let found = self.fields.iter().rev().find(|(other, name, _)| *other == kind && name == field);
        found.map(|(.., value)| value.as_str())
    }

    fn number<N: std::str::FromStr>(&self, kind: u8, field: &str) -> Option<N> {
        self.get(kind, field)?.parse().ok()
    }

    fn replaces(&self, kind: u8) -> bool {
        self.structures.iter().any(|bytes| bytes.first() == Some(&kind))
    }
}

/// What the structures tell about this machine.
#[derive(Clone, Debug)]
pub struct SmbiosConfig<'a> {
    /// The command line's wishes.
    pub options: &'a SmbiosOptions,
    /// The product: the machine's description.
    pub product: &'a str,
    /// The version: the machine's name.
    pub version: &'a str,
    /// The machine's UUID.
    pub uuid: [u8; 16],
    /// Leaf 1 of CPUID: EAX and EDX.
    pub processor_id: (u32, u32),
    /// Processors present at start.
    pub cpus: u32,
    /// Their topology.
    pub topology: Topology,
    /// Ranges of RAM: first address and bytes.
    pub ram: &'a [(u64, u64)],
}

/// The entry point and the structures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Smbios {
    /// 31 bytes, with no address and no checksums yet.
    pub anchor: Vec<u8>,
    /// The structures.
    pub tables: Vec<u8>,
}

impl Smbios {
    /// The entry point for structures at address `at`.
    pub fn placed_anchor(&self, at: u32) -> Vec<u8> {
        let mut anchor = self.anchor.clone();
        anchor[24..28].copy_from_slice(&at.to_le_bytes());
        let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
        anchor[21] = sum(&anchor[16..]);
        anchor[4] = sum(&anchor);
        anchor
    }
}

/// A structure in the making: its formatted part and its strings.
struct Structure {
    bytes: Vec<u8>,
    strings: Vec<String>,
}

impl Structure {
    fn new(kind: u8, handle: u16) -> Self {
        let [low, high] = handle.to_le_bytes();
        Self { bytes: vec![kind, 0, low, high], strings: Vec::new() }
    }

    /// A string's number; 0 for none.
    fn string(mut self, text: Option<&str>) -> Self {
        let number = match text.filter(|text| !text.is_empty() && !text.contains('\0')) {
            None => 0,
            Some(text) => {
                self.strings.push(text.to_owned());
                u8::try_from(self.strings.len()).unwrap_or(0)
            }
        };
        self.bytes.push(number);
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn word(self, value: u16) -> Self {
        self.raw(&value.to_le_bytes())
    }

    fn dword(self, value: u32) -> Self {
        self.raw(&value.to_le_bytes())
    }

    fn qword(self, value: u64) -> Self {
        self.raw(&value.to_le_bytes())
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes[1] = u8::try_from(self.bytes.len()).unwrap_or(u8::MAX);
        for text in &self.strings {
            self.bytes.extend(text.bytes());
            self.bytes.push(0);
        }
        if self.strings.is_empty() {
            self.bytes.push(0);
        }
        self.bytes.push(0);
        self.bytes
    }
}

/// Handles: each type has a range of its own.
fn handle(kind: u16, index: usize) -> u16 {
    (kind << 8).wrapping_add(index as u16)
}

/// Builds the structures.
pub fn build(config: &SmbiosConfig<'_>) -> Smbios {
    let options = config.options;
    let mut structures = options.structures.clone();
    let mut add = |structure: Vec<u8>| {
        if !options.replaces(structure[0]) {
            structures.push(structure);
        }
    };
    if options.has(0) {
        add(firmware(options));
    }
    add(system(config));
    if options.has(2) {
        add(base_board(config));
    }
    add(chassis(config));
    let per_socket = config.topology.cores.saturating_mul(config.topology.threads).max(1);
    let sockets = config.cpus.div_ceil(per_socket.saturating_mul(config.topology.dies.max(1)));
    for socket in 0..sockets {
        add(processor(config, socket));
    }
    if options.has(11) {
        add(oem_strings(options));
    }
    let total = config.ram.iter().map(|(_, len)| len).sum();
    let modules = u64::div_ceil(total, MODULE_MAX);
    add(memory_array(total, modules));
    for module in 0..modules {
        add(memory_device(options, module, (total - module * MODULE_MAX).min(MODULE_MAX)));
    }
    for (index, range) in config.ram.iter().enumerate() {
        add(memory_range(index, *range));
    }
    add(Structure::new(32, 0x2000).raw(&[0; 7]).finish());
    add(Structure::new(127, 0x7f00).finish());
    Smbios { anchor: anchor(&structures), tables: structures.concat() }
}

fn anchor(structures: &[Vec<u8>]) -> Vec<u8> {
    let longest = structures.iter().map(Vec::len).max().unwrap_or(0) as u16;
    let total: usize = structures.iter().map(Vec::len).sum();
    let mut anchor = b"_SM_".to_vec();
    // Checksum, length, version 2.8.
    anchor.extend([0, 0x1f, 2, 8]);
    anchor.extend(longest.to_le_bytes());
    // Revision of the entry point, formatted area.
    anchor.extend([0; 6]);
    anchor.extend(b"_DMI_");
    anchor.push(0);
    anchor.extend((total as u16).to_le_bytes());
    anchor.extend([0; 4]);
    anchor.extend((structures.len() as u16).to_le_bytes());
    anchor.push(0x28);
    anchor
}

/// Type 0, where the machine and not the firmware says it.
fn firmware(options: &SmbiosOptions) -> Vec<u8> {
    let get = |field| options.get(0, field);
    let (major, minor) = get("release").and_then(|text| text.split_once('.')).unwrap_or(("0", "0"));
    let uefi = if get("uefi") == Some("on") { 8 } else { 0 };
    Structure::new(0, 0)
        .string(get("vendor"))
        .string(get("version"))
        .word(0xe800)
        .string(get("date"))
        // ROM size; characteristics are not given; a virtual machine, targeted content distribution.
        .raw(&[0])
        .qword(8)
        .raw(&[0, 0x14 | uefi, major.parse().unwrap_or(0), minor.parse().unwrap_or(0), 0xff, 0xff])
        .finish()
}

fn system(config: &SmbiosConfig<'_>) -> Vec<u8> {
    let get = |field| config.options.get(1, field);
    let uuid = get("uuid").and_then(parse_uuid).unwrap_or(config.uuid);
    Structure::new(1, 0x100)
        .string(get("manufacturer").or(Some("QEMU")))
        .string(get("product").or(Some(config.product)))
        .string(get("version").or(Some(config.version)))
        .string(get("serial"))
        .raw(&little_endian_uuid(uuid))
        // Woken by the power switch.
        .raw(&[6])
        .string(get("sku"))
        .string(get("family"))
        .finish()
}

/// The first three fields of a UUID are little-endian numbers here (DSP0134, 7.2.1).
fn little_endian_uuid(mut uuid: [u8; 16]) -> [u8; 16] {
    uuid[..4].reverse();
    uuid[4..6].reverse();
    uuid[6..8].reverse();
    uuid
}

/// 32 hexadecimal digits with hyphens.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    let mut uuid = [0; 16];
    if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, pair) in uuid.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(uuid)
}

fn base_board(config: &SmbiosConfig<'_>) -> Vec<u8> {
    let get = |field| config.options.get(2, field);
    Structure::new(2, 0x200)
        .string(get("manufacturer").or(Some("QEMU")))
        .string(get("product").or(Some(config.product)))
        .string(get("version").or(Some(config.version)))
        .string(get("serial"))
        .string(get("asset"))
        // A hosting board.
        .raw(&[1])
        .string(get("location"))
        .word(0x300)
        .raw(&[0x0a, 0])
        .finish()
}

fn chassis(config: &SmbiosConfig<'_>) -> Vec<u8> {
    let get = |field| config.options.get(3, field);
    Structure::new(3, 0x300)
        .string(get("manufacturer").or(Some("QEMU")))
        // Another type of chassis.
        .raw(&[1])
        .string(get("version").or(Some(config.version)))
        .string(get("serial"))
        .string(get("asset"))
        // Boot-up, power and temperature are safe; security is unknown.
        .raw(&[3, 3, 3, 2])
        .dword(0)
        .raw(&[0; 4])
        .string(get("sku"))
        .finish()
}

fn processor(config: &SmbiosConfig<'_>, socket: u32) -> Vec<u8> {
    const DEFAULT_SPEED: u16 = 2000;
    let options = config.options;
    let get = |field| options.get(4, field);
    let designation = format!("{}{socket:2x}", get("sock_pfx").unwrap_or("CPU"));
    let id = match options.number::<u64>(4, "processor-id") {
        Some(id) if id != 0 => id,
        _ => u64::from(config.processor_id.1) << 32 | u64::from(config.processor_id.0),
    };
    let cores = u8::try_from(config.topology.cores).unwrap_or(u8::MAX);
    let threads = u8::try_from(config.topology.cores.saturating_mul(config.topology.threads)).unwrap_or(u8::MAX);
    Structure::new(4, handle(4, socket as usize))
        .string(Some(&designation))
        // A central processor of another family.
        .raw(&[3, 1])
        .string(get("manufacturer").or(Some("QEMU")))
        .qword(id)
        .string(get("version").or(Some(config.version)))
        .raw(&[0])
        .word(0)
        .word(options.number(4, "max-speed").unwrap_or(DEFAULT_SPEED))
        .word(options.number(4, "current-speed").unwrap_or(DEFAULT_SPEED))
        // Populated and enabled; another kind of upgrade; no cache handles.
        .raw(&[0x41, 1])
        .raw(&[0xff; 6])
        .string(get("serial"))
        .string(get("asset"))
        .string(get("part"))
        .raw(&[cores, cores, threads])
        .word(2)
        .word(1)
        .finish()
}

fn oem_strings(options: &SmbiosOptions) -> Vec<u8> {
    let values: Vec<&str> =
        options.fields.iter().filter(|(kind, ..)| *kind == 11).map(|(.., value)| value.as_str()).collect();
    let mut structure = Structure::new(11, 0x0e00).raw(&[u8::try_from(values.len()).unwrap_or(u8::MAX)]);
    structure.strings = values.into_iter().map(str::to_owned).collect();
    structure.finish()
}

/// The largest memory module.
const MODULE_MAX: u64 = 16 << 30;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn memory_array(total: u64, modules: u64) -> Vec<u8> {
    /// The capacity is in the extended field.
    const EXTENDED: u32 = 0x8000_0000;
    let kib = u32::try_from(total.div_ceil(KIB)).ok().filter(|kib| *kib < EXTENDED);
    Structure::new(16, 0x1000)
        // Another location, system memory, corrects several bits.
        .raw(&[1, 3, 6])
        .dword(kib.unwrap_or(EXTENDED))
        .word(0xfffe)
        .word(modules as u16)
        .qword(if kib.is_some() { 0 } else { total })
        .finish()
}

fn memory_device(options: &SmbiosOptions, module: u64, size: u64) -> Vec<u8> {
    /// The size is in the extended field.
    const EXTENDED: u16 = 0x7fff;
    let get = |field| options.get(17, field);
    let mib = size.div_ceil(MIB);
    let (short, extended) =
        if mib < u64::from(EXTENDED) { (mib as u16, 0) } else { (EXTENDED, mib as u32 & 0x7fff_ffff) };
    let speed = options.number(17, "speed").unwrap_or(0);
    Structure::new(17, handle(17, module as usize))
        .word(0x1000)
        .word(0xfffe)
        .word(0xffff)
        .word(0xffff)
        .word(short)
        // A DIMM, in no set.
        .raw(&[9, 0])
        .string(Some(&format!("{} {module}", get("loc_pfx").unwrap_or("DIMM"))))
        .string(get("bank"))
        // RAM of another kind.
        .raw(&[7])
        .word(2)
        .word(speed)
        .string(get("manufacturer").or(Some("QEMU")))
        .string(get("serial"))
        .string(get("asset"))
        .string(get("part"))
        .raw(&[0])
        .dword(extended)
        .word(speed)
        .raw(&[0; 6])
        .finish()
}

fn memory_range(index: usize, (start, len): (u64, u64)) -> Vec<u8> {
    let (first, last) = (start / KIB, (start + len).saturating_sub(1) / KIB);
    let short = u32::try_from(first).ok().zip(u32::try_from(last).ok()).filter(|(_, last)| *last < u32::MAX);
    let (first_kib, last_kib) = short.unwrap_or((u32::MAX, u32::MAX));
    let is_short = short.is_some();
    Structure::new(19, handle(19, index))
        .dword(first_kib)
        .dword(last_kib)
        .word(0x1000)
        .raw(&[1])
        .qword(if is_short { 0 } else { start })
        .qword(if is_short { 0 } else { start + len - 1 })
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(options: &SmbiosOptions) -> Smbios {
        build(&SmbiosConfig {
            options,
            product: "Standard PC (i440FX + PIIX, 1996)",
            version: "pc-i440fx-7.2",
            uuid: [0; 16],
            processor_id: (0x0006_0fb1, 0x078b_fbfd),
            cpus: 2,
            topology: Topology { sockets: 1, dies: 1, cores: 2, threads: 1 },
            ram: &[(0, 128 << 20)],
        })
    }

    /// The lengths and the anchor are QEMU 7.2.22's with `-machine pc -m 128 -smp 2`.
    #[test]
    fn defaults_have_the_peers_layout() {
        let built = config(&SmbiosOptions::default());
        assert_eq!(built.tables.len(), 321);
        let anchor = [
            0x5f, 0x53, 0x4d, 0x5f, 0x00, 0x1f, 0x02, 0x08, 0x51, 0, 0, 0, 0, 0, 0, 0, 0x5f, 0x44, 0x4d, 0x49, 0x5f, 0,
            0x41, 0x01, 0, 0, 0, 0, 8, 0, 0x28,
        ];
        assert_eq!(built.anchor, anchor);
        let processor =
            [0x04, 0x2a, 0x00, 0x04, 0x01, 0x03, 0x01, 0x02, 0xb1, 0x0f, 0x06, 0x00, 0xfd, 0xfb, 0x8b, 0x07, 0x03];
        assert_eq!(built.tables[0x7b..0x7b + processor.len()], processor);
    }

    #[test]
    fn placed_anchor_both_sums_are_zero() {
        let anchor = config(&SmbiosOptions::default()).placed_anchor(0xf_6000);
        let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!((sum(&anchor), sum(&anchor[16..])), (0, 0));
    }

    #[test]
    fn options_replace_defaults_and_add_structures() {
        let field = |kind, name: &str, value: &str| (kind, name.to_owned(), value.to_owned());
        let options = SmbiosOptions {
            fields: vec![
                field(0, "vendor", "Someone"),
                field(1, "serial", "S123"),
                field(1, "uuid", "00112233-4455-6677-8899-aabbccddeeff"),
                field(11, "value", "first"),
                field(11, "value", "second"),
            ],
            structures: Vec::new(),
        };
        let tables = config(&options).tables;
        let has = |text: &[u8]| tables.windows(text.len()).any(|window| window == text);
        assert!(tables.starts_with(&[0, 0x18, 0, 0]) && has(b"Someone\0") && has(b"S123\0"));
        assert!(has(&[0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99]));
        assert!(has(b"\x0b\x05\x00\x0e\x02first\0second\0\0"));
    }
}
