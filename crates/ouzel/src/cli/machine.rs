//! `-machine`, `-cpu`, `-m`, `-kernel`, `-initrd`, `-append`.

use std::sync::Arc;

use clock::RtcBase;
use machine::accelerator::AcceleratorConfig;
use machine::boot::BootSource;
use machine::config::{
    BoardOptions, ChipsetKind, DeviceConfig, DeviceKind, MACHINE_TYPES, MachineConfig, MachineType, MemoryOptions,
    MicrovmOptions, RAM_MIN,
};
use qapi::keyval;
use qapi::objects::ObjectAdd;
use x86::model::CpuModel;

use super::accelerators::{self, Chosen, MachineSettings};
use super::arguments::last;
use super::firmware::{self, KernelUse, MachineFirmware};
use super::smp::Smp;
use super::value::Values;
use super::{Argument, CliError, Line, display, globals, numa, platform, types};

/// RAM without `-m`, in bytes.
const DEFAULT_RAM: u64 = 128 << 20;
/// What `-machine` says.
struct MachineOption {
    machine_type: &'static MachineType,
    usb: bool,
    hpet: bool,
    mem_merge: bool,
    dump_guest_core: bool,
    kernel: Option<String>,
    initrd: Option<String>,
    append: Option<String>,
    firmware: MachineFirmware,
    memory_backend: Option<String>,
    has_hmat: bool,
    has_graphics: bool,
    vmport: bool,
    microvm: MicrovmOptions,
    smp: Smp,
    accelerators: MachineSettings,
}

/// Reads the options.
pub fn settings(
    arguments: &[Argument<'_>],
    (rtc, uuid, objects): (RtcBase, [u8; 16], &[(String, ObjectAdd)]),
    devices: Vec<DeviceConfig>,
    warnings: &mut Vec<String>,
    lines: &mut Vec<Line>,
) -> Result<MachineConfig, CliError> {
    let mut option = machine_option(arguments)?;
    let chipset = option.machine_type.chipset;
    if chipset == ChipsetKind::Microvm {
        // As in QEMU: with a second I/O APIC the kernel's controllers can't do.
        option.accelerators.kernel_irqchip.get_or_insert_with(|| "split".to_owned());
    }
    let option = option;
    let Chosen { mut accelerator, threads, icount } =
        accelerators::settings(arguments, &option.accelerators, &machine::accelerator::open_kvm, lines)?;
    let (cpus, topology) = option.smp.complete(option.machine_type, warnings)?;
    if let AcceleratorConfig::Software(translator) = &mut accelerator {
        if translator.lockstep && cpus > 1 {
            return Err(CliError::plain("x-lockstep=on compares the tiers of one vCPU: use -smp 1"));
        }
        // The option counts for the whole machine.
        translator.code_bytes /= cpus as usize;
    }
    let is_empty = option.machine_type.chipset == ChipsetKind::Empty;
    let default_cpu = option.machine_type.default_cpu();
    let argument = last(arguments, "cpu").map_or(default_cpu, |argument| argument.value);
    let (argument, apic_id) = if is_empty { without_apic_id(argument)? } else { (argument.to_owned(), None) };
    let globals = globals::globals(arguments)?;
    let argument = globals::of_cpus(&globals, &argument);
    let made = CpuModel::parse_for(option.machine_type.version(), &argument, &accelerator.host());
    let (cpu_model, notes) = made.map_err(|error| CliError::plain(error.to_string()))?;
    // An empty machine has a processor if one was asked for.
    let cpus = if is_empty { u32::from(last(arguments, "cpu").is_some()) } else { cpus };
    let (size, memory) = memory(arguments, &option, objects)?;
    let numa = numa::settings(arguments, option.has_hmat, topology, objects)?;
    let has_graphics = option.has_graphics;
    warnings.extend(notes);
    warnings.extend(globals::check(&globals, chipset)?);
    let of_machine = option.firmware.clone();
    let machine_type = option.machine_type;
    let (usb, hpet, vmport) = (option.usb && chipset.has_pci(), option.hpet && chipset.has_pci(), option.vmport);
    let microvm = option.microvm.clone();
    let devices = if chipset == ChipsetKind::Microvm { of_microvm(devices, &microvm) } else { devices };
    let (mem_merge, dump_guest_core) = (option.mem_merge, option.dump_guest_core);
    let boot = boot(arguments, option)?;
    if is_empty && boot.is_some() {
        return Err(CliError::plain(
            "The -kernel parameter is not supported (use the generic 'loader' device instead).",
        ));
    }
    let of_machine = MachineFirmware { default: default_firmware(chipset, &microvm), ..of_machine };
    // Firmware boots no other format.
    let is_bzimage = boot.as_ref().is_some_and(|source| source.kernel.get(0x202..0x206) == Some(b"HdrS"));
    let kernel = match (boot.is_some() || is_empty, chipset) {
        // Firmware makes the tables by which a kernel finds its processors.
        (true, ChipsetKind::Microvm) if !microvm.acpi && is_bzimage => {
            KernelUse::ThroughFirmware { option_rom: microvm.option_roms }
        }
        (true, _) => KernelUse::Direct { option_rom: chipset != ChipsetKind::Microvm || microvm.option_roms },
        (false, _) => KernelUse::None,
    };
    let mut firmware = firmware::settings(arguments, uuid, &of_machine, kernel)?;
    firmware.no_graphic |= !has_graphics;
    Ok(MachineConfig {
        machine_type,
        ram_size: size,
        cpus,
        topology,
        cpu_model,
        accelerator,
        threads,
        icount,
        rtc,
        usb,
        hpet,
        mem_merge,
        dump_guest_core,
        boot,
        firmware,
        vga: display::board_card(arguments, &globals, &devices, chipset)?,
        board: BoardOptions { apic_id, vmport, microvm, ..platform::board(&globals)? },
        memory,
        numa,
        types: types::of_drivers(),
        devices,
    })
}

/// The firmware of a board, and Debian's package that has it.
fn default_firmware(chipset: ChipsetKind, microvm: &MicrovmOptions) -> (&'static str, &'static str) {
    match chipset {
        ChipsetKind::Isa => ("bios.bin", "seabios"),
        ChipsetKind::Microvm if microvm.acpi => ("bios-microvm.bin", "seabios"),
        ChipsetKind::Microvm => ("qboot.rom", "qemu-system-data"),
        ChipsetKind::I440fx | ChipsetKind::Q35 | ChipsetKind::Empty => ("bios-256k.bin", "seabios"),
    }
}

/// A `microvm` has one serial port at most of those that `-serial` asks for, and no parallel ports.
fn of_microvm(devices: Vec<DeviceConfig>, options: &MicrovmOptions) -> Vec<DeviceConfig> {
    let stays = |device: &DeviceConfig| match &device.kind {
        DeviceKind::IsaSerial { index, .. } if device.source == "-serial" => options.isa_serial && *index == 0,
        DeviceKind::IsaParallel { .. } => device.source != "-parallel",
        _ => true,
    };
    devices.into_iter().filter(stays).collect()
}

/// The chipset of the machine that the options ask for, as far as they can be read.
pub fn chipset(arguments: &[Argument<'_>]) -> ChipsetKind {
    machine_type(arguments).chipset
}

/// The machine type that the options ask for, as far as they can be read.
pub fn machine_type(arguments: &[Argument<'_>]) -> &'static MachineType {
    let default = MACHINE_TYPES.iter().find(|machine| machine.is_default).unwrap_or(&MACHINE_TYPES[0]);
    let mut machine_type = default;
    for argument in arguments.iter().filter(|argument| argument.option.name == "machine") {
        let wanted = argument.value.split(',').enumerate().find_map(|(index, part)| {
            part.strip_prefix("type=").or((index == 0 && !part.contains('=')).then_some(part))
        });
        machine_type = wanted.and_then(MachineType::by_name).unwrap_or(machine_type);
    }
    machine_type
}

fn machine_option(arguments: &[Argument<'_>]) -> Result<MachineOption, CliError> {
    let mut option = MachineOption {
        machine_type: machine_type(&[]),
        usb: false,
        hpet: true,
        mem_merge: true,
        dump_guest_core: true,
        kernel: None,
        initrd: None,
        append: None,
        firmware: MachineFirmware::default(),
        memory_backend: None,
        has_hmat: false,
        has_graphics: true,
        vmport: true,
        microvm: MicrovmOptions::default(),
        smp: Smp::default(),
        accelerators: MachineSettings::default(),
    };
    // Several -machine options add up; -enable-kvm is one of them.
    for argument in arguments {
        match argument.option.name {
            "machine" => {}
            "enable-kvm" => {
                option.accelerators.list = Some("kvm".to_owned());
                continue;
            }
            "smp" => {
                option.smp.add(Values::parse(*argument, Some("cpus"))?)?;
                continue;
            }
            "usb" | "usbdevice" => {
                option.usb = true;
                continue;
            }
            _ => continue,
        }
        let mut values = Values::parse(*argument, Some("type"))?;
        if let Some(name) = values.text("type")? {
            option.machine_type = MachineType::by_name(&name).ok_or_else(|| {
                CliError::plain("unsupported machine type\nUse -machine help to list supported machines")
            })?;
        }
        let mut values = values.of_class(&format!("{}-machine", option.machine_type.name));
        for (key, slot) in [
            ("usb", &mut option.usb),
            ("hpet", &mut option.hpet),
            ("mem-merge", &mut option.mem_merge),
            ("dump-guest-core", &mut option.dump_guest_core),
            ("hmat", &mut option.has_hmat),
            ("graphics", &mut option.has_graphics),
        ] {
            if let Some(value) = values.flag(key)? {
                *slot = value;
            }
        }
        // "auto" is on.
        if let Some(vmport) = super::virtio::on_off_auto(&mut values, "vmport")? {
            option.vmport = vmport;
        }
        if let Some(text) = values.text("max-fw-size")? {
            option.firmware.max_size = Some(max_firmware_size(argument, &text)?);
        }
        if option.machine_type.chipset == ChipsetKind::Microvm {
            microvm(&mut values, &mut option.microvm)?;
        } else if super::virtio::on_off_auto(&mut values, "acpi")? == Some(false) {
            return Err(argument.error("acpi=off is possible on a microvm only"));
        }
        match values.text("smm")?.as_deref() {
            None => {}
            Some("auto") => option.firmware.smm = None,
            Some("on") => option.firmware.smm = Some(true),
            Some("off") => option.firmware.smm = Some(false),
            Some(_) => return Err(argument.error("Invalid parameter value for 'smm', expected: on, off or auto")),
        }
        if let Some(smp) = values.nested("smp")? {
            option.smp.add(smp)?;
        }
        let [flash0, flash1] = &mut option.firmware.flash;
        for (key, slot) in [
            ("kernel", &mut option.kernel),
            ("initrd", &mut option.initrd),
            ("append", &mut option.append),
            ("memory-backend", &mut option.memory_backend),
            ("firmware", &mut option.firmware.firmware),
            ("pflash0", flash0),
            ("pflash1", flash1),
            ("accel", &mut option.accelerators.list),
            ("kernel-irqchip", &mut option.accelerators.kernel_irqchip),
        ] {
            if let Some(value) = values.text(key)? {
                *slot = Some(value);
            }
        }
        values.finish()?;
    }
    Ok(option)
}

/// The properties of a `microvm`.
fn microvm(values: &mut Values<'_>, options: &mut MicrovmOptions) -> Result<(), CliError> {
    use super::virtio::on_off_auto;
    for (key, slot) in [("acpi", &mut options.acpi), ("pit", &mut options.pit), ("pic", &mut options.pic)] {
        if let Some(text) = values.text(key)? {
            // "auto" is on.
            *slot = match text.as_str() {
                "on" | "auto" => true,
                "off" => false,
                _ => return Err(values.error(format!("Parameter '{key}' does not accept value '{text}'"))),
            };
        }
    }
    options.rtc = on_off_auto(values, "rtc")?.or(options.rtc);
    options.ioapic2 = on_off_auto(values, "ioapic2")?.or(options.ioapic2);
    if let Some(pcie) = on_off_auto(values, "pcie")? {
        options.pcie = pcie;
    }
    for (key, slot) in [
        ("isa-serial", &mut options.isa_serial),
        ("x-option-roms", &mut options.option_roms),
        ("auto-kernel-cmdline", &mut options.auto_kernel_cmdline),
    ] {
        if let Some(value) = values.flag(key)? {
            *slot = value;
        }
    }
    Ok(())
}

/// `max-fw-size=`: up to 16 MiB, what fits above the interrupt controllers.
fn max_firmware_size(argument: &Argument<'_>, text: &str) -> Result<u64, CliError> {
    const MAX: u64 = 16 << 20;
    let size = keyval::parse_size(text, 1).ok().filter(|size| *size <= MAX);
    size.ok_or_else(|| argument.error("User specified max allowed firmware size is greater than 16MiB."))
}

/// Takes `apic-id=` out of a CPU's properties.
fn without_apic_id(argument: &str) -> Result<(String, Option<u32>), CliError> {
    let mut apic_id = None;
    let mut parts = Vec::new();
    for part in argument.split(',') {
        match part.strip_prefix("apic-id=") {
            None => parts.push(part),
            Some(number) => {
                let number = keyval::parse_u64(number).and_then(|number| u32::try_from(number).ok());
                let wrong = || CliError::plain("Parameter 'apic-id' expects uint32_t");
                apic_id = Some(number.filter(|id| *id < 0xff).ok_or_else(wrong)?);
            }
        }
    }
    Ok((parts.join(","), apic_id))
}

/// `-m [size=]megs[,slots=n][,maxmem=size]` and `-machine memory-backend=id`.
fn memory(
    arguments: &[Argument<'_>],
    option: &MachineOption,
    objects: &[(String, ObjectAdd)],
) -> Result<(u64, MemoryOptions), CliError> {
    const MAX_SLOTS: u64 = 256;
    let is_empty = option.machine_type.chipset == ChipsetKind::Empty;
    let mut default = if is_empty { 0 } else { DEFAULT_RAM };
    let mut memory = MemoryOptions { backend: option.memory_backend.clone(), ..MemoryOptions::default() };
    if let Some(id) = &memory.backend {
        let object = objects.iter().find(|(_, object)| object.id == *id).and_then(|(_, object)| numa::size(object));
        default = object.ok_or_else(|| CliError::plain(format!("Memory backend '{id}' not found")))?;
    }
    let Some(argument) = last(arguments, "m") else { return Ok((default, memory)) };
    let mut values = Values::parse(*argument, Some("size"))?;
    let (size, max) = (values.text("size")?, values.text("maxmem")?);
    memory.slots = values.number("slots", u64::MAX)?.unwrap_or(0);
    values.finish()?;
    let parse = |key: &str, text: &str| {
        keyval::parse_size(text, 1 << 20).map_err(|_| {
            argument.error(format!(
                "Parameter '{key}' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or E means \
                 kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."
            ))
        })
    };
    let size = match size.as_deref() {
        None | Some("") => default,
        Some(text) => parse("size", text)?,
    };
    let size = if size == 0 { default } else { size };
    let size = match size.checked_next_multiple_of(8192) {
        Some(0) if is_empty => 0,
        Some(size) if (RAM_MIN..=1 << 40).contains(&size) => size,
        _ => return Err(argument.error("the RAM size must be between 1M and 1T")),
    };
    memory.max = max.map(|text| parse("maxmem", &text)).transpose()?;
    let max = memory.max.unwrap_or(size);
    if max < size {
        return Err(CliError::plain(format!(
            "invalid value of maxmem: maximum memory size (0x{max:x}) must be at least the initial memory size \
             (0x{size:x})"
        )));
    }
    if memory.slots > 0 && max == size {
        return Err(CliError::plain(format!(
            "invalid value of maxmem: memory slots were specified but maximum memory size (0x{max:x}) is equal to the \
             initial memory size (0x{size:x})"
        )));
    }
    if memory.slots > MAX_SLOTS || max > 1 << 40 {
        return Err(argument.error("there can be up to 256 slots and 1T of memory"));
    }
    Ok((size, memory))
}

fn boot(arguments: &[Argument<'_>], option: MachineOption) -> Result<Option<BootSource>, CliError> {
    let value = |name: &str, of_machine: Option<String>| {
        last(arguments, name).map(|argument| argument.value.to_owned()).or(of_machine)
    };
    let kernel = value("kernel", option.kernel);
    let initrd = value("initrd", option.initrd);
    let append = value("append", option.append);
    let Some(kernel) = kernel else {
        for (name, given) in [("append", append.is_some()), ("initrd", initrd.is_some())] {
            if given {
                return Err(CliError::plain(format!("-{name} only allowed with -kernel option")));
            }
        }
        return Ok(None);
    };
    let read = |what: &str, path: &str| -> Result<Arc<[u8]>, CliError> {
        let bytes = std::fs::read(path).map_err(|error| {
            CliError::plain(format!("could not open {what} file '{path}': {}", vm::host_error(&error)))
        })?;
        Ok(bytes.into())
    };
    Ok(Some(BootSource {
        kernel: read("kernel", &kernel)?,
        kernel_path: kernel,
        initrd_path: initrd.clone().unwrap_or_default(),
        initrd: initrd.map(|path| read("initrd", &path)).transpose()?,
        command_line: append.unwrap_or_default(),
    }))
}
