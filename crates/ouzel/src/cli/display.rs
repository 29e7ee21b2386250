//! `-vga`, and the graphics cards of `-device`.

use machine::config::{CardModel, CardOptions, DeviceConfig, DeviceKind, DisplayConfig, EdidOptions};

use super::arguments::{given, last};
use super::value::Values;
use super::{Argument, CliError, virtio};

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
    let is_vga = |device: &DeviceConfig| {
        matches!(&device.kind, DeviceKind::Display(DisplayConfig { model: CardModel::Vga, .. }))
    };
    if devices.iter().any(is_vga) {
        return Err(values.error("there is a VGA already, and only one can have the legacy ports; use secondary-vga"));
    }
    card(values, CardModel::Vga, "VGA")
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
pub fn board_card(arguments: &[Argument<'_>], devices: &[DeviceConfig]) -> Result<Option<CardOptions>, CliError> {
    let has_own = devices
        .iter()
        .any(|device| matches!(&device.kind, DeviceKind::Display(DisplayConfig { model: CardModel::Vga, .. })));
    let Some(argument) = last(arguments, "vga") else {
        let wants = !has_own && !given(arguments, "nodefaults");
        return Ok(wants.then(CardOptions::default));
    };
    match argument.value {
        "none" => Ok(None),
        "std" if has_own => Err(argument.error("there is a VGA already, and only one can have the legacy ports")),
        "std" => Ok(Some(CardOptions::default())),
        other => Err(argument.error(format!("'{other}' is not available; 'std' and 'none' are"))),
    }
}
