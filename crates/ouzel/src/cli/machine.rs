//! `-machine`, `-cpu`, `-smp`, `-m`, `-kernel`, `-initrd`, `-append`.

use std::sync::Arc;

use clock::RtcBase;
use machine::accelerator::AcceleratorConfig;
use machine::boot::BootSource;
use machine::config::{DeviceConfig, MACHINE_TYPES, MAX_VCPUS, MachineConfig, MachineType, RAM_MIN};
use qapi::keyval;
use x86::model::{CpuModel, Topology};

use super::accelerators::{self, Chosen, MachineSettings};
use super::arguments::last;
use super::firmware::{self, MachineFirmware};
use super::value::Values;
use super::{Argument, CliError, Line, display, platform};

/// RAM without `-m`, in bytes.
const DEFAULT_RAM: u64 = 128 << 20;
/// The CPU without `-cpu`.
const DEFAULT_CPU: &str = "qemu64";

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
    accelerators: MachineSettings,
}

/// Reads the options.
pub fn settings(
    arguments: &[Argument<'_>],
    (rtc, uuid): (RtcBase, [u8; 16]),
    devices: Vec<DeviceConfig>,
    warnings: &mut Vec<String>,
    lines: &mut Vec<Line>,
) -> Result<MachineConfig, CliError> {
    let option = machine_option(arguments)?;
    let Chosen { mut accelerator, threads, icount } =
        accelerators::settings(arguments, &option.accelerators, &machine::accelerator::open_kvm, lines)?;
    let (cpus, topology) = smp(arguments)?;
    if let AcceleratorConfig::Software(translator) = &mut accelerator {
        if translator.lockstep && cpus > 1 {
            return Err(CliError::plain("x-lockstep=on compares the tiers of one vCPU: use -smp 1"));
        }
        // The option counts for the whole machine.
        translator.code_bytes /= cpus as usize;
    }
    let argument = last(arguments, "cpu").map_or(DEFAULT_CPU, |argument| argument.value);
    let (cpu_model, notes) =
        CpuModel::parse(argument, &accelerator.host()).map_err(|error| CliError::plain(error.to_string()))?;
    warnings.extend(notes);
    let of_machine = option.firmware.clone();
    let machine_type = option.machine_type;
    let (usb, hpet) = (option.usb, option.hpet);
    let (mem_merge, dump_guest_core) = (option.mem_merge, option.dump_guest_core);
    let boot = boot(arguments, option)?;
    let firmware = firmware::settings(arguments, uuid, &of_machine, boot.is_some())?;
    Ok(MachineConfig {
        machine_type,
        ram_size: memory(arguments)?,
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
        vga: display::board_card(arguments, &devices)?,
        board: platform::board(arguments)?,
        devices,
    })
}

fn machine_option(arguments: &[Argument<'_>]) -> Result<MachineOption, CliError> {
    let default = MACHINE_TYPES.iter().find(|machine| machine.is_default).unwrap_or(&MACHINE_TYPES[0]);
    let mut option = MachineOption {
        machine_type: default,
        usb: false,
        hpet: true,
        mem_merge: true,
        dump_guest_core: true,
        kernel: None,
        initrd: None,
        append: None,
        firmware: MachineFirmware::default(),
        accelerators: MachineSettings::default(),
    };
    // Several -machine options add up; -enable-kvm is one of them.
    for argument in arguments
        .iter()
        .filter(|argument| matches!(argument.option.name, "machine" | "enable-kvm" | "usb" | "usbdevice"))
    {
        if matches!(argument.option.name, "usb" | "usbdevice") {
            option.usb = true;
            continue;
        }
        if argument.option.name == "enable-kvm" {
            option.accelerators.list = Some("kvm".to_owned());
            continue;
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
        ] {
            if let Some(value) = values.flag(key)? {
                *slot = value;
            }
        }
        if let Some(text) = values.text("max-fw-size")? {
            option.firmware.max_size = Some(max_firmware_size(argument, &text)?);
        }
        match values.text("smm")?.as_deref() {
            None => {}
            Some("auto") => option.firmware.smm = None,
            Some("on") => option.firmware.smm = Some(true),
            Some("off") => option.firmware.smm = Some(false),
            Some(_) => return Err(argument.error("Invalid parameter value for 'smm', expected: on, off or auto")),
        }
        let [flash0, flash1] = &mut option.firmware.flash;
        for (key, slot) in [
            ("kernel", &mut option.kernel),
            ("initrd", &mut option.initrd),
            ("append", &mut option.append),
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

/// `max-fw-size=`: up to 16 MiB, what fits above the interrupt controllers.
fn max_firmware_size(argument: &Argument<'_>, text: &str) -> Result<u64, CliError> {
    const MAX: u64 = 16 << 20;
    let size = keyval::parse_size(text, 1).ok().filter(|size| *size <= MAX);
    size.ok_or_else(|| argument.error("User specified max allowed firmware size is greater than 16MiB."))
}

/// `-smp`: the vCPUs and their topology. What is not given follows from the rest; sockets come last.
fn smp(arguments: &[Argument<'_>]) -> Result<(u32, Topology), CliError> {
    let Some(argument) = last(arguments, "smp") else {
        return Ok((1, Topology { sockets: 1, dies: 1, cores: 1, threads: 1 }));
    };
    let mut values = Values::parse(*argument, Some("cpus"))?;
    let mut take = |key: &str| -> Result<Option<u32>, CliError> {
        match values.number(key, u64::from(u32::MAX))? {
            Some(0) => Err(argument.error("Invalid CPU topology: CPU topology parameters must be greater than zero")),
            given => Ok(given.map(|number| number as u32)),
        }
    };
    let cpus = take("cpus")?;
    let maxcpus = take("maxcpus")?;
    let [sockets, dies, cores, threads] = [take("sockets")?, take("dies")?, take("cores")?, take("threads")?];
    values.finish().map_err(|error| match error {
        CliError::Option { message, .. } => {
            let name = message.split('\'').nth(1).unwrap_or_default();
            CliError::plain(format!("Parameter 'smp.{name}' is unexpected"))
        }
        other => other,
    })?;
    complete_topology(cpus, maxcpus, [sockets, dies, cores, threads])
}

fn complete_topology(
    cpus: Option<u32>,
    maxcpus: Option<u32>,
    [sockets, dies, cores, threads]: [Option<u32>; 4],
) -> Result<(u32, Topology), CliError> {
    let (dies, threads) = (dies.unwrap_or(1), threads.unwrap_or(1));
    let product = |numbers: [u32; 4]| numbers.into_iter().map(u64::from).product::<u64>();
    let total = maxcpus.or(cpus);
    let (sockets, cores) = match (sockets, cores, total) {
        (Some(sockets), Some(cores), _) => (sockets, cores),
        (None, Some(cores), Some(total)) => {
            ((u64::from(total) / product([dies, cores, threads, 1])).max(1) as u32, cores)
        }
        (None, Some(cores), None) => (1, cores),
        (Some(sockets), None, Some(total)) => {
            (sockets, (u64::from(total) / product([sockets, dies, threads, 1])).max(1) as u32)
        }
        (Some(sockets), None, None) => (sockets, 1),
        // Cores before sockets, as QEMU's machine types since 6.2 do.
        (None, None, Some(total)) => (1, (u64::from(total) / product([dies, threads, 1, 1])).max(1) as u32),
        (None, None, None) => (1, 1),
    };
    let product = product([sockets, dies, cores, threads]);
    let max = maxcpus.map_or(product, u64::from);
    let cpus = cpus.map_or(max, u64::from);
    let hierarchy = format!("sockets ({sockets}) * dies ({dies}) * cores ({cores}) * threads ({threads})");
    let max_for_check = maxcpus.map_or(cpus, u64::from);
    if product != max_for_check.max(max) {
        return Err(CliError::plain(format!(
            "Invalid CPU topology: product of the hierarchy must match maxcpus: {hierarchy} != maxcpus ({max_for_check})"
        )));
    }
    if cpus > max {
        return Err(CliError::plain(format!(
            "Invalid CPU topology: maxcpus must be equal to or greater than smp: {hierarchy} == maxcpus ({max}) < smp_cpus ({cpus})"
        )));
    }
    if max > u64::from(MAX_VCPUS) {
        return Err(CliError::plain(format!(
            "Invalid SMP CPUs {max}. The max CPUs supported by machine 'pc-i440fx-7.2' is {MAX_VCPUS}"
        )));
    }
    Ok((cpus as u32, Topology { sockets, dies, cores, threads }))
}

/// `-m [size=]megs`.
fn memory(arguments: &[Argument<'_>]) -> Result<u64, CliError> {
    let Some(argument) = last(arguments, "m") else { return Ok(DEFAULT_RAM) };
    let mut values = Values::parse(*argument, Some("size"))?;
    let size = values.text("size")?;
    for key in ["slots", "maxmem"] {
        if values.text(key)?.is_some() {
            return Err(argument.error("memory hotplug (slots, maxmem) is not available"));
        }
    }
    values.finish()?;
    let size = match size.as_deref() {
        None | Some("") => DEFAULT_RAM,
        Some(text) => keyval::parse_size(text, 1 << 20).map_err(|_| {
            argument.error(
                "Parameter 'size' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or E means \
                 kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.",
            )
        })?,
    };
    let size = if size == 0 { DEFAULT_RAM } else { size };
    match size.checked_next_multiple_of(8192) {
        Some(size) if (RAM_MIN..=1 << 40).contains(&size) => Ok(size),
        _ => Err(argument.error("the RAM size must be between 1M and 1T")),
    }
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
