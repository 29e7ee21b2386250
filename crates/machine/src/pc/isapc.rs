//! `isapc`: a PC without PCI. RAM lies below everything, the firmware's ROM is RAM that each reset fills anew, and the two
//! IDE channels are cards.
//!
//! Left out: a network card (`ne2k_isa`).

use std::sync::{Arc, Mutex};

use device::{DeviceState, Lifecycle, ResetKind};
use devices_display::VgaCard;
use devices_display::card::{LEGACY_PORTS, Legacy, region};
use devices_display::vga::{WINDOW, WINDOW_LEN};
use devices_ide::isa::{IsaIde, REGION_COMMAND, REGION_CONTROL};
use devices_ide::piix::{COMMAND_PORTS, CONTROL_PORTS, IRQS};
use devices_isa::fw_cfg::Item;
use memory::{Backing, DmaView, GuestAddress, RamBlock};

use super::ide::Bus;
use super::{Backends, Board, Builder, Controllers, Place, floppy, fw_cfg, ide, isa, platform, rom, usb, virtio};
use crate::config::{CardModel, DeviceKind, DisplayConfig};
use crate::error::MachineError;
use crate::screens::NewScreen;

/// Where video memory is as a whole.
const VIDEO_MEMORY: u64 = 0xe000_0000;
const CARD: &str = "isa-vga";
/// Where Debian's package `seabios` has the VGA BIOS.
const VGA_BIOS: &str = "/usr/share/seabios/vgabios.bin";
/// The windows of a card on the PCI bus: the first is video memory.
const VIDEO_WINDOW: usize = 0;

/// Builds the board.
pub fn build(
    mut builder: Builder<'_>,
    controllers: Controllers,
    backends: &Backends<'_>,
) -> Result<Board, MachineError> {
    let config = builder.config;
    let rtc = super::timers(&mut builder)?;
    let a20 = isa::keyboard_and_gates(&mut builder)?;
    let ferr = isa::legacy_ports(&mut builder)?;
    let fw_cfg = fw_cfg::build(&mut builder, config.machine_type.name)?;
    firmware(&mut builder)?;
    isa::command_line_devices(&mut builder, backends.chardevs)?;
    if config.vga.iter().chain(&config.devices).any(|device| device.kind.is_vga())
        && let Ok(bytes) = std::fs::read(VGA_BIOS)
    {
        // Without a PCI bus firmware finds it among its files.
        fw_cfg.lock().add_file("vgaroms/vgabios.bin", Item::bytes(bytes))?;
    }
    if let Some(DeviceKind::Display(display)) = config.vga.as_ref().map(|device| &device.kind) {
        card(&mut builder, display, None, Place::Board)?;
    }
    for device in &config.devices {
        if let DeviceKind::Display(display) = &device.kind
            && display.model == CardModel::IsaVga
        {
            let place = device.id.clone().map_or(Place::Anonymous, Place::Peripheral);
            card(&mut builder, display, device.id.clone(), place)?;
        }
    }
    let mut buses = channels(&mut builder)?;
    builder.buses.ide = Some("ide.1".to_owned());
    let is_of_board: fn(&DeviceKind) -> bool = DeviceKind::is_of_board;
    let is_not: fn(&DeviceKind) -> bool = |kind| !kind.is_of_board();
    ide::drives(&mut builder, &mut buses, backends.disks, is_of_board)?;
    ide::drives(&mut builder, &mut buses, backends.disks, is_not)?;
    if let Some(controller) = floppy::build(&mut builder, backends.disks)? {
        floppy::drives(&mut builder, &controller, backends.disks, is_not)?;
        floppy::note(&controller, &rtc);
    }
    without_pci(&mut builder, backends)?;
    virtio::command_line_devices(&mut builder, backends)?;
    fw_cfg::add_tables(&builder, &fw_cfg, (None, None), None)?;
    let boot = &config.firmware.boot;
    super::store_cmos(config, &mut rtc.lock());
    super::store_disks(&builder.ide_disks, &mut rtc.lock());
    Ok(Board {
        a20,
        ferr,
        next_boot_order: Mutex::new(boot.once.map(|_| boot.order.cmos(boot.skip_floppy_check))),
        rtc: Some(rtc),
        ..Board::new(&mut builder, controllers)
    })
}

/// The firmware, where it is RAM.
pub(super) fn firmware(builder: &mut Builder<'_>) -> Result<(), MachineError> {
    if let Some(firmware) = &builder.config.firmware.rom {
        let block = rom::map_writable(firmware, &builder.memory)?;
        let lifecycle = Arc::new(FirmwareRam { block, bytes: Arc::clone(&firmware.bytes) });
        builder.add("pc.bios", Place::Board, lifecycle);
    }
    Ok(())
}

/// The devices of the command line that need no PCI bus; those that need one are refused.
pub(super) fn without_pci(builder: &mut Builder<'_>, backends: &Backends<'_>) -> Result<(), MachineError> {
    for device in &builder.config.devices {
        let refuse = |message| MachineError::Device { option: device.source.clone(), message };
        if device.kind.needs_pci() {
            return Err(refuse(format!("No 'PCI' bus found for device '{}'", device.kind.type_name())));
        }
        match &device.kind {
            DeviceKind::Vmgenid { .. } => {
                return Err(refuse("vmgenid requires DMA write support in fw_cfg, and ACPI tables".to_owned()));
            }
            DeviceKind::Vmcoreinfo => platform::firmware_files(builder, device, "vmcoreinfo"),
            DeviceKind::UsbDevice(config) => usb::device(builder, backends.disks, (device, config)).map_err(refuse)?,
            _ => {}
        }
    }
    Ok(())
}

/// The firmware's RAM.
struct FirmwareRam {
    block: Arc<RamBlock>,
    bytes: Arc<[u8]>,
}

impl Lifecycle for FirmwareRam {
    fn reset(&self, _kind: ResetKind) {
        self.block.write(0, &self.bytes);
    }

    fn visit_state(&self, visit: &mut dyn FnMut(DeviceState<'_>)) {
        // RAM is saved as RAM.
        visit(DeviceState::Empty);
    }

    fn restored(&self) {}
}

/// Two channels, each with a bus of its own.
fn channels(builder: &mut Builder<'_>) -> Result<Vec<Bus>, MachineError> {
    let mut buses = Vec::new();
    for index in 0..2 {
        let channel = IsaIde::new(builder.irq(IRQS[index]), &DmaView::new(Arc::clone(&builder.memory)));
        let ports = [(REGION_COMMAND, COMMAND_PORTS[index], 8), (REGION_CONTROL, CONTROL_PORTS[index], 1)];
        builder.add_ports("isa-ide", &channel, &ports)?;
        let path = format!("/isa/ide@{:04x}/drive@0", COMMAND_PORTS[index]);
        let connect: ide::Connect = Box::new(move |_channel, unit, config, disk| {
            channel.lock().connect(unit, config.drive.clone(), disk);
        });
        buses.push(Bus::of_channel(index, path, connect));
    }
    Ok(buses)
}

/// The graphics card: its registers at the legacy ports, its memory at 0xA0000 and as a whole below the firmware.
fn card(
    builder: &mut Builder<'_>,
    config: &DisplayConfig,
    id: Option<String>,
    place: Place,
) -> Result<(), MachineError> {
    let legacy = Legacy::Board { memory: Arc::clone(&builder.memory), rom: None };
    let failed =
        |error: memory::RamError| MachineError::Device { option: "-vga std".to_owned(), message: error.to_string() };
    let built = VgaCard::build(&config.options, &builder.clock, legacy).map_err(failed)?;
    builder.map_ports(&built.card, &LEGACY_PORTS)?;
    builder.memory.map(GuestAddress(WINDOW), WINDOW_LEN, 1, built.card.region(region::WINDOW))?;
    if let Some(window) = built.windows.into_iter().find(|window| window.index == VIDEO_WINDOW)
        && let Backing::Ram { .. } = window.backing
    {
        builder.memory.map(GuestAddress(VIDEO_MEMORY), window.len, 1, window.backing)?;
    }
    let screen = VgaCard::screen(&built.card);
    builder.screens.push(NewScreen { device: builder.devices.len(), id, head: 0, screen });
    builder.add(CARD, place, Arc::new(built.card));
    Ok(())
}
