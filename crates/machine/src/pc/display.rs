//! Graphics cards: the board's own VGA, and those of the command line.

use std::sync::Arc;

use device::{DeviceCell, IoDevice, Lifecycle};
use devices_display::card::{LEGACY_PORTS, region};
use devices_display::vga::{WINDOW, WINDOW_LEN};
use devices_display::{BochsDisplay, Legacy, VgaCard};
use devices_pci::{Address, Label, PciBus, Window};
use display::Screen;
use memory::GuestAddress;

use super::{Builder, Place};
use crate::config::{CardModel, DeviceKind, DisplayConfig};
use crate::error::MachineError;
use crate::screens::NewScreen;

/// The type that `-vga std` stands for.
const BOARD_CARD: &str = "VGA";
/// Where Debian's package `seabios` has the VGA BIOS.
const VGA_BIOS: &str = "/usr/share/seabios/vgabios-stdvga.bin";

/// Builds the board's card, if it has one: it gets the first free slot.
pub fn board_card(builder: &mut Builder<'_>, bus: &Arc<PciBus>) -> Result<(), MachineError> {
    let Some(options) = &builder.config.vga else { return Ok(()) };
    let config = DisplayConfig { model: CardModel::Vga, address: None, options: *options };
    card(builder, bus, &config, None, Place::Board)
        .map_err(|message| MachineError::Device { option: "-vga std".to_owned(), message })
}

/// Builds the cards of the command line.
pub fn command_line_cards(builder: &mut Builder<'_>, bus: &Arc<PciBus>) -> Result<(), MachineError> {
    for device in &builder.config.devices {
        if let DeviceKind::Display(config) = &device.kind {
            let place = device.id.clone().map_or(Place::Anonymous, Place::Peripheral);
            card(builder, bus, config, device.id.clone(), place)
                .map_err(|message| MachineError::Device { option: device.source.clone(), message })?;
        }
    }
    Ok(())
}

fn card(
    builder: &mut Builder<'_>,
    bus: &Arc<PciBus>,
    config: &DisplayConfig,
    id: Option<String>,
    place: Place,
) -> Result<(), String> {
    let type_name = match config.model {
        CardModel::Vga => BOARD_CARD,
        CardModel::SecondaryVga => "secondary-vga",
        CardModel::Bochs => "bochs-display",
    };
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let address = match config.address {
        Some(address) => address,
        None => bus.first_free(type_name).map_err(|error| text(&error))?,
    };
    bus.check_free(address, type_name).map_err(|error| text(&error))?;
    let label = Label { type_name: type_name.to_owned(), id: id.clone() };
    let (screen, lifecycle) = match config.model {
        CardModel::Vga | CardModel::SecondaryVga => {
            let built = vga(builder, config)?;
            (VgaCard::screen(&built.0), attach(bus, address, label, built)?)
        }
        CardModel::Bochs => {
            let built = BochsDisplay::build(&config.options).map_err(|error| text(&error))?;
            (BochsDisplay::screen(&built.0), attach(bus, address, label, built)?)
        }
    };
    add(builder, (type_name, place, id), lifecycle, screen);
    Ok(())
}

fn attach<F: devices_pci::PciFunction>(
    bus: &PciBus,
    address: Address,
    label: Label,
    (card, windows): (DeviceCell<F>, Vec<Window>),
) -> Result<Arc<dyn Lifecycle>, String> {
    bus.attach(address, label, card, windows).map_err(|error| error.to_string())
}

/// A card with a VGA. The first one has the legacy ports and the window at 0xA0000.
fn vga(builder: &Builder<'_>, config: &DisplayConfig) -> Result<(DeviceCell<VgaCard>, Vec<Window>), String> {
    let legacy = match config.model {
        CardModel::Vga => Legacy::Board { memory: Arc::clone(&builder.memory), rom: rom() },
        _ => Legacy::None,
    };
    let is_legacy = matches!(legacy, Legacy::Board { .. });
    let built = VgaCard::build(&config.options, &builder.clock, legacy).map_err(|error| error.to_string())?;
    if is_legacy {
        map_legacy(builder, &built.card).map_err(|error| error.to_string())?;
    }
    Ok((built.card, built.windows))
}

fn map_legacy<D: IoDevice>(builder: &Builder<'_>, card: &DeviceCell<D>) -> Result<(), MachineError> {
    builder.map_ports(card, &LEGACY_PORTS)?;
    builder.memory.map(GuestAddress(WINDOW), WINDOW_LEN, 1, card.region(region::WINDOW))?;
    Ok(())
}

/// The VGA BIOS; without the package the card has none, and no firmware can use it.
fn rom() -> Option<Vec<u8>> {
    std::fs::read(VGA_BIOS).ok()
}

fn add(
    builder: &mut Builder<'_>,
    (type_name, place, id): (&'static str, Place, Option<String>),
    lifecycle: Arc<dyn Lifecycle>,
    screen: Arc<dyn Screen>,
) {
    builder.screens.push(NewScreen { device: builder.devices.len(), id, screen });
    builder.add(type_name, place, lifecycle);
}
