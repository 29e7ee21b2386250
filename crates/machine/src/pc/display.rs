//! Graphics cards: the board's own VGA, and those of the command line.

use std::sync::Arc;

use device::{DeviceCell, IoDevice, Lifecycle};
use devices_display::card::{LEGACY_PORTS, region};
use devices_display::vga::{WINDOW, WINDOW_LEN};
use devices_display::{BochsDisplay, Gpu, Legacy, VgaCard, gpu};
use devices_pci::{Address, Label, PciBus, Window};
use devices_virtio::pci::{PciOptions, Placement, VirtioPci, Wiring};
use display::Screen;
use memory::{DmaView, GuestAddress};

use super::platform::find_place;
use super::{Builder, Place, option_rom};
use crate::config::{CardModel, DeviceConfig, DeviceKind, DisplayConfig, RomConfig, VirtioConfig, VirtioModel};
use crate::error::MachineError;
use crate::screens::NewScreen;

/// The type that `-vga std` stands for.
const BOARD_CARD: &str = "VGA";
/// Where Debian's package `seabios` has the VGA BIOS of cards.
const VGA_BIOS: &str = "/usr/share/seabios/vgabios-stdvga.bin";
const VIRTIO_VGA_BIOS: &str = "/usr/share/seabios/vgabios-virtio.bin";
const BOCHS_BIOS: &str = "/usr/share/seabios/vgabios-bochs-display.bin";
/// Interrupt vectors of a virtio card.
const VIRTIO_VECTORS: u32 = 3;

/// Builds the board's card, if it has one: it gets the first free slot.
pub fn board_card(builder: &mut Builder<'_>, bus: &Arc<PciBus>) -> Result<(), MachineError> {
    let Some(device) = &builder.config.vga else { return Ok(()) };
    let rom = device.rom.as_ref();
    let built = match &device.kind {
        DeviceKind::Display(config) => card(builder, bus, config, (None, Place::Board, rom)),
        DeviceKind::Virtio(config) => virtio_card(builder, bus, config, (None, Place::Board, rom)),
        _ => Ok(()),
    };
    built.map_err(|message| MachineError::Device { option: device.source.clone(), message })
}

/// Builds a card of the command line.
pub fn command_line_card(
    builder: &mut Builder<'_>,
    bus: &Arc<PciBus>,
    (device, config): (&DeviceConfig, &DisplayConfig),
) -> Result<(), String> {
    let place = device.id.clone().map_or(Place::Anonymous, Place::Peripheral);
    card(builder, bus, config, (device.id.clone(), place, device.rom.as_ref()))
}

fn card(
    builder: &mut Builder<'_>,
    bus: &Arc<PciBus>,
    config: &DisplayConfig,
    (id, place, rom): (Option<String>, Place, Option<&RomConfig>),
) -> Result<(), String> {
    let type_name = match config.model {
        CardModel::Vga => BOARD_CARD,
        CardModel::SecondaryVga => "secondary-vga",
        CardModel::Bochs => "bochs-display",
        CardModel::IsaVga => {
            return Err("Device 'isa-vga' needs a machine whose graphics card is on the ISA bus".to_owned());
        }
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
            let (cell, windows) = BochsDisplay::build(&config.options).map_err(|error| text(&error))?;
            (BochsDisplay::screen(&cell), attach(bus, address, label, (cell, windows))?)
        }
        CardModel::IsaVga => return Ok(()),
    };
    let default = match config.model {
        CardModel::Vga => Some(VGA_BIOS),
        CardModel::Bochs => Some(BOCHS_BIOS),
        CardModel::SecondaryVga | CardModel::IsaVga => None,
    };
    option_rom::add(builder, (bus, address), rom, default)?;
    add(builder, (type_name, place, id), lifecycle, vec![screen]);
    Ok(())
}

/// A virtio card of the command line.
pub fn command_line_virtio_card(
    builder: &mut Builder<'_>,
    bus: Option<&Arc<PciBus>>,
    device: &DeviceConfig,
    config: &VirtioConfig,
) -> Result<(), String> {
    if let (Some(place), VirtioModel::Gpu { options, .. }) = (&config.mmio, &config.model) {
        options.check().map_err(|error| error.to_string())?;
        let first = builder.devices.len();
        let (names, features) = ((device, config.type_name), config.pci.features);
        let attached = super::microvm::attach(builder, names, (place, features), |_| Gpu::new(*options, false))?;
        for (head, screen) in (0..).zip(gpu::screens(&attached.access, None)) {
            builder.screens.push(NewScreen { device: first, id: device.id.clone(), head, screen });
        }
        return Ok(());
    }
    let bus = super::virtio::pci_bus(bus, config.type_name)?;
    let place = device.id.clone().map_or(Place::Anonymous, Place::Peripheral);
    virtio_card(builder, bus, config, (device.id.as_deref(), place, device.rom.as_ref()))
}

fn virtio_card(
    builder: &mut Builder<'_>,
    root: &Arc<PciBus>,
    config: &VirtioConfig,
    (id, place, rom): (Option<&str>, Place, Option<&RomConfig>),
) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let VirtioModel::Gpu { options, vga } = &config.model else { return Err("it is no graphics card".to_owned()) };
    options.check().map_err(|error| text(&error))?;
    let (bus, address) = find_place(root, &config.place, config.type_name)?;
    let wiring =
        Wiring { dma: DmaView::new(Arc::clone(&builder.memory)), line: bus.intx(address, 0), messages: bus.messages() };
    let placement = if vga.is_some() { Placement::BesideVga } else { Placement::Plain };
    let vectors = config.vectors.unwrap_or(VIRTIO_VECTORS);
    let pci = super::virtio::on_bus(builder, &bus, &config.pci)?;
    let pci = PciOptions { vectors, placement, legacy: false, modern: true, ..pci };
    let function = VirtioPci::new(&pci, wiring, |_| Gpu::new(*options, vga.is_some()));
    let (windows, vga) = match vga {
        None => (VirtioPci::windows(&function), None),
        Some(card) => {
            let legacy = Legacy::Board { memory: Arc::clone(&builder.memory), rom: None };
            let built = VgaCard::build(card, &builder.clock, legacy).map_err(|error| text(&error))?;
            map_legacy(builder, &built.card).map_err(|error| text(&error))?;
            let vram = built.windows.first().map_or(0, |window| window.len);
            (gpu::vga_beside(&function, built.windows, vram), Some(built.card))
        }
    };
    let screen = vga.as_ref().map(VgaCard::screen);
    let screens = gpu::screens(&VirtioPci::access(&function), screen.as_ref());
    let label = Label { type_name: config.type_name.to_owned(), id: id.map(str::to_owned) };
    let lifecycle = bus.attach(address, label, function.clone(), windows).map_err(|error| text(&error))?;
    option_rom::add(builder, (&bus, address), rom, vga.is_some().then_some(VIRTIO_VGA_BIOS))?;
    let path = builder.next_path(place == Place::Board, id);
    let first = builder.devices.len();
    for (head, screen) in (0..).zip(screens) {
        builder.screens.push(NewScreen { device: first, id: id.map(str::to_owned), head, screen });
    }
    builder.add_with_part(config.type_name, place, lifecycle, ("virtio-backend", "virtio-gpu-device"));
    builder.can_be_inspected(VirtioPci::inspect(&function));
    if let Some(vga) = vga {
        builder.add(BOARD_CARD, Place::Part(path, "vga"), Arc::new(vga));
    }
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
        CardModel::Vga => Legacy::Board { memory: Arc::clone(&builder.memory), rom: None },
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

fn add(
    builder: &mut Builder<'_>,
    (type_name, place, id): (&'static str, Place, Option<String>),
    lifecycle: Arc<dyn Lifecycle>,
    screens: Vec<Arc<dyn Screen>>,
) {
    for (head, screen) in (0..).zip(screens) {
        builder.screens.push(NewScreen { device: builder.devices.len(), id: id.clone(), head, screen });
    }
    builder.add(type_name, place, lifecycle);
}
