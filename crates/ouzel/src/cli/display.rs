//! `-vga`, and the graphics cards of `-device`.

use machine::config::{
    CardModel, CardOptions, ChipsetKind, DeviceConfig, DeviceKind, DisplayConfig, EdidOptions, GpuOptions, VirtioModel,
};

use super::arguments::{given, last};
use super::globals::Global;
use super::value::Values;
use super::{Argument, CliError, devices, virtio, virtio_devices};

/// The properties of `VGA`, for the help.
pub const VGA_PROPERTIES: &[(&str, &str)] = &[
    ("addr", "slot and function, as 06.0 or 06 (default: the first free slot)"),
    ("edid", "on/off: the monitor describes itself (default on)"),
    ("mmio", "on/off: there is a page of registers in memory (default on)"),
    ("qemu-extended-regs", "on/off (default on)"),
    ("refresh_rate", "the monitor's, in mHz (default 75000)"),
    ("vgamem_mb", "MiB of video memory (default 16)"),
    ("xmax", "the most columns of the monitor's modes"),
    ("xres", "the monitor's preferred columns (default 1280)"),
    ("ymax", "the most rows of the monitor's modes"),
    ("yres", "the monitor's preferred rows (default 800)"),
];

/// The properties of `secondary-vga`, for the help.
pub const SECONDARY_PROPERTIES: &[(&str, &str)] = VGA_PROPERTIES;

/// The properties of `bochs-display`, for the help.
pub const BOCHS_PROPERTIES: &[(&str, &str)] = &[
    ("addr", "slot and function, as 06.0 or 06 (default: the first free slot)"),
    ("edid", "on/off: the monitor describes itself (default on)"),
    ("refresh_rate", "the monitor's, in mHz (default 75000)"),
    ("vgamem", "bytes of video memory, with an optional suffix (default 16M)"),
    ("xmax", "the most columns of the monitor's modes"),
    ("xres", "the monitor's preferred columns (default 1280)"),
    ("ymax", "the most rows of the monitor's modes"),
    ("yres", "the monitor's preferred rows (default 800)"),
];

/// `VGA`.
pub fn vga(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    check_only_vga(values, devices)?;
    card(values, CardModel::Vga, "VGA")
}

fn check_only_vga(values: &Values<'_>, devices: &[DeviceConfig]) -> Result<(), CliError> {
    if devices.iter().any(|device| device.kind.is_vga()) {
        return Err(values.error("there is a VGA already, and only one can have the legacy ports; use secondary-vga"));
    }
    Ok(())
}

/// `virtio-gpu-pci`.
pub fn virtio_gpu(values: &mut Values<'_>, _: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    let options = gpu_options(values)?;
    virtio_card(values, "virtio-gpu-pci", (options, None))
}

/// `virtio-gpu-device`.
pub fn virtio_gpu_device(values: &mut Values<'_>, _: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    let options = gpu_options(values)?;
    virtio_devices::mmio(values, "virtio-gpu-device", |_| Ok(VirtioModel::Gpu { options, vga: None }))
}

/// `virtio-vga`.
pub fn virtio_vga(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    check_only_vga(values, devices)?;
    let options = gpu_options(values)?;
    let mut vga = VIRTIO_VGA;
    if let Some(mib) = values.number("vgamem_mb", u64::from(u32::MAX))? {
        vga.vgamem_mb = mib as u32;
    }
    virtio_card(values, "virtio-vga", (options, Some(vga)))
}

/// The VGA of a `virtio-vga`, without the properties of the command line.
const VIRTIO_VGA: CardOptions = CardOptions {
    vgamem_mb: 8,
    mmio: true,
    qemu_extended_regs: true,
    edid: false,
    monitor: EdidOptions { xres: 0, yres: 0, xmax: 0, ymax: 0, refresh_rate: 0 },
};

/// A card on the ISA bus, without the properties of the command line.
const ISA_VGA: CardOptions = CardOptions { mmio: false, qemu_extended_regs: false, ..VIRTIO_VGA };

/// `isa-vga`.
pub fn isa_vga(values: &mut Values<'_>, devices: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    check_only_vga(values, devices)?;
    let mut options = ISA_VGA;
    if let Some(mib) = values.number("vgamem_mb", u64::from(u32::MAX))? {
        options.vgamem_mb = mib as u32;
    }
    Ok(DeviceKind::Display(DisplayConfig { model: CardModel::IsaVga, address: None, options }))
}

fn gpu_options(values: &mut Values<'_>) -> Result<GpuOptions, CliError> {
    let mut options = GpuOptions::default();
    let GpuOptions { max_outputs, xres, yres, edid, max_hostmem } = &mut options;
    for (key, slot) in [("max_outputs", max_outputs), ("xres", xres), ("yres", yres)] {
        if let Some(value) = values.number(key, u64::from(u32::MAX))? {
            *slot = value as u32;
        }
    }
    *edid = values.flag("edid")?.unwrap_or(*edid);
    if let Some(size) = values.text("max_hostmem")? {
        let error = |_| values.error("Parameter 'max_hostmem' expects a non-negative number below 2^64");
        *max_hostmem = qapi::keyval::parse_size(&size, 1).map_err(error)?;
    }
    options.check().map_err(|error| values.error(error.to_string()))?;
    Ok(options)
}

fn virtio_card(
    values: &mut Values<'_>,
    type_name: &'static str,
    (options, vga): (GpuOptions, Option<CardOptions>),
) -> Result<DeviceKind, CliError> {
    virtio_devices::pci(values, type_name, virtio::Variant::NonTransitional, |_| Ok(VirtioModel::Gpu { options, vga }))
}

/// `secondary-vga`.
pub fn secondary(values: &mut Values<'_>, _: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    card(values, CardModel::SecondaryVga, "secondary-vga")
}

/// `bochs-display`.
pub fn bochs(values: &mut Values<'_>, _: &[DeviceConfig]) -> Result<DeviceKind, CliError> {
    card(values, CardModel::Bochs, "bochs-display")
}

fn card(values: &mut Values<'_>, model: CardModel, driver: &str) -> Result<DeviceKind, CliError> {
    virtio::check_bus(values, driver)?;
    let address = virtio::address(values, driver)?;
    let mut options = CardOptions::default();
    if model == CardModel::Bochs {
        if let Some(size) = values.text("vgamem")? {
            let is_possible = |bytes: &u64| bytes.is_power_of_two() && (1 << 20..=512 << 20).contains(bytes);
            let bytes = qapi::keyval::parse_size(&size, 1).ok().filter(is_possible);
            let bytes =
                bytes.ok_or_else(|| values.error("Parameter 'vgamem' expects a power of two from 1 MiB to 512 MiB"))?;
            options.vgamem_mb = (bytes >> 20) as u32;
        }
    } else {
        if let Some(mib) = values.number("vgamem_mb", u64::from(u32::MAX))? {
            options.vgamem_mb = mib as u32;
        }
        for (key, slot) in [("mmio", &mut options.mmio), ("qemu-extended-regs", &mut options.qemu_extended_regs)] {
            if let Some(value) = values.flag(key)? {
                *slot = value;
            }
        }
    }
    if let Some(edid) = values.flag("edid")? {
        options.edid = edid;
    }
    let EdidOptions { xres, yres, xmax, ymax, refresh_rate } = &mut options.monitor;
    for (key, slot) in [("xres", xres), ("yres", yres), ("xmax", xmax), ("ymax", ymax), ("refresh_rate", refresh_rate)]
    {
        if let Some(value) = values.number(key, u64::from(u32::MAX))? {
            *slot = value as u32;
        }
    }
    Ok(DeviceKind::Display(DisplayConfig { model, address, options }))
}

/// The board's card: there is one unless the command line has another VGA, or wants none.
pub fn board_card(
    arguments: &[Argument<'_>],
    globals: &[Global],
    devices: &[DeviceConfig],
    chipset: ChipsetKind,
) -> Result<Option<DeviceConfig>, CliError> {
    let standard = match chipset {
        ChipsetKind::I440fx | ChipsetKind::Q35 => "VGA",
        ChipsetKind::Isa => "isa-vga",
        ChipsetKind::Microvm | ChipsetKind::Empty => return Ok(None),
    };
    let has_own = devices.iter().any(|device| device.kind.is_vga());
    let default = Argument::not_given("vga", "std")?;
    let argument = match last(arguments, "vga") {
        Some(argument) => argument,
        None if has_own || given(arguments, "nodefaults") => return Ok(None),
        None => &default,
    };
    let driver = match argument.value {
        "none" => return Ok(None),
        "std" | "virtio" if has_own => {
            return Err(argument.error("there is a VGA already, and only one can have the legacy ports"));
        }
        "std" => standard,
        "virtio" if chipset == ChipsetKind::Isa => return Err(argument.error("Virtio VGA not available")),
        "virtio" => "virtio-vga",
        other => {
            return Err(argument.error(format!("'{other}' is not available; 'std', 'virtio' and 'none' are")));
        }
    };
    devices::of_option(globals, argument, (driver, ""), devices).map(Some)
}
