//! The ISA side of the board: keyboard controller, gates, legacy ports, fw_cfg, and what the command line adds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use accel::{FerrLine, Signal};
use device::{DeviceCell, IoDevice};
use devices_chipset::i8042::{self, I8042};
use devices_chipset::i8257::{self, I8257};
use devices_chipset::legacy_ports::{FerrPort, Port92, PostPort};
use devices_isa::debug::{DebugConsole, DebugExit};
use devices_isa::ib700::{self, Ib700};
use devices_isa::parallel::{self, ParallelPort};
use devices_isa::pc_testdev::{self, PcTestdev};
use devices_isa::pvpanic::Pvpanic;
use devices_isa::uart16550::{PORT_COUNT, Uart16550};
use memory::GuestAddress;

use super::interrupts::Mailboxes;
use super::{Builder, Chardevs, Place, Removal};
use crate::acpi::{self, SerialPort};
use crate::config::{DeviceConfig, DeviceKind};
use crate::error::MachineError;
use crate::event::GuestEvent;
use crate::screens;
use crate::serial::{self, ChardevBackend};

/// The A20 gate: whoever moves it tells the vCPUs.
#[derive(Clone)]
pub struct A20Gate {
    /// Whether address bit 20 passes.
    pub open: Arc<AtomicBool>,
    /// The vCPUs' mailboxes.
    vcpus: Mailboxes,
}

impl Default for A20Gate {
    /// A gate that stays open.
    fn default() -> Self {
        Self { open: Arc::new(AtomicBool::new(true)), vcpus: Mailboxes::default() }
    }
}

impl A20Gate {
    fn callback(&self) -> Box<dyn FnMut(bool) + Send> {
        let gate = self.clone();
        Box::new(move |open| {
            if gate.open.swap(open, Ordering::AcqRel) != open {
                for signals in gate.vcpus.all() {
                    signals.raise(Signal::REMAP);
                }
            }
        })
    }
}

/// Keyboard controller and port 0x92, which both drive the A20 gate and can reset the machine.
pub fn keyboard_and_gates(builder: &mut Builder<'_>) -> Result<A20Gate, MachineError> {
    let gate = A20Gate { open: Arc::new(AtomicBool::new(true)), vcpus: builder.mailboxes.clone() };
    let keyboard = I8042::new(builder.irq(1), builder.irq(12), gate.callback(), builder.reset_request());
    let ports = [(i8042::REGION_DATA, 0x60, 1), (i8042::REGION_COMMAND, 0x64, 1)];
    let keyboard = DeviceCell::new(keyboard);
    screens::connect_ps2(&builder.input, &keyboard);
    builder.add_ports("i8042", &keyboard, &ports)?;
    super::vmport::build(builder, &keyboard)?;
    let port92 = DeviceCell::new(Port92::new(gate.callback(), builder.reset_request()));
    builder.add_ports("port92", &port92, &[(0, 0x92, 1)])?;
    Ok(gate)
}

/// DMA controllers, the POST port, and the port that acknowledges x87 errors.
pub fn legacy_ports(builder: &mut Builder<'_>) -> Result<FerrLine, MachineError> {
    let dma = DeviceCell::new(I8257::new());
    let ports = [(i8257::REGION_FIRST, 0x00, 16), (i8257::REGION_SECOND, 0xc0, 32)];
    builder.add_ports("i8257", &dma, &ports)?;
    map_pages(builder, &dma)?;
    builder.dma = Some(dma);
    builder.add_ports("post", &DeviceCell::new(PostPort::default()), &[(0, 0x80, 1)])?;
    let ferr = DeviceCell::new(FerrPort::new(builder.irq(13)));
    builder.add_ports("ferr", &ferr, &[(0, 0xf0, 1)])?;
    Ok(Arc::new(move || ferr.lock().raise()))
}

/// The DMA page registers lie around the POST port and port 0x92, which win.
fn map_pages(builder: &Builder<'_>, dma: &DeviceCell<I8257>) -> Result<(), MachineError> {
    const BELOW: i32 = -1;
    builder.ports.map(GuestAddress(0x80), 16, BELOW, dma.region(i8257::REGION_PAGES))?;
    Ok(())
}

/// What the tables tell about the command line's devices.
#[derive(Default)]
pub struct Extra {
    /// Serial ports.
    pub serial_ports: Vec<SerialPort>,
    /// Parallel ports.
    pub parallel_ports: Vec<acpi::ParallelPort>,
    /// The pvpanic port.
    pub pvpanic: Option<u16>,
}

/// Builds the devices of the command line.
pub fn command_line_devices(builder: &mut Builder<'_>, chardevs: &Chardevs<'_>) -> Result<Extra, MachineError> {
    let mut extra = Extra::default();
    for device in &builder.config.devices {
        command_line_device(builder, chardevs, device, &mut extra)?;
    }
    extra.sort();
    Ok(extra)
}

/// Builds a device, if it is one of these.
pub fn command_line_device(
    builder: &mut Builder<'_>,
    chardevs: &Chardevs<'_>,
    device: &DeviceConfig,
    extra: &mut Extra,
) -> Result<(), MachineError> {
    let place = device.id.clone().map_or(Place::Anonymous, Place::Peripheral);
    match &device.kind {
        DeviceKind::IsaSerial { index, iobase, irq, chardev } => {
            let chardev = Arc::new(chardevs(chardev)?);
            let backend = Box::new(ChardevBackend(Arc::clone(&chardev)));
            let uart = Uart16550::new(&builder.clock, builder.irq(*irq), backend);
            serial::connect(&uart, &chardev);
            builder.map_ports(&uart, &[(0, u64::from(*iobase), PORT_COUNT)])?;
            builder.add("isa-serial", place, Arc::new(uart));
            builder.can_leave(Removal::NoBus("isa.0".to_owned()), None);
            extra.serial_ports.push(SerialPort { number: index + 1, io: *iobase, irq: *irq });
        }
        DeviceKind::IsaParallel { index, iobase, irq, chardev } => {
            extra.parallel_ports.push(acpi::ParallelPort { number: index + 1, io: *iobase, irq: *irq });
            let mut output = serial::debug_output(chardevs(chardev)?);
            let port = ParallelPort::new(builder.irq(*irq), Box::new(move |byte| output(&[byte])));
            add_single(builder, "isa-parallel", place, port, *iobase, parallel::PORT_COUNT)?;
        }
        DeviceKind::IsaDebugcon { iobase, readback, chardev } => {
            let console = DebugConsole::new(*readback, serial::debug_output(chardevs(chardev)?));
            add_single(builder, "isa-debugcon", place, console, *iobase, 1)?;
        }
        DeviceKind::IsaDebugExit { iobase, iosize } => {
            let events = Arc::clone(&builder.events);
            let exit = DebugExit::new(Box::new(move |status| events(GuestEvent::DebugExit(status))));
            add_single(builder, "isa-debug-exit", place, exit, *iobase, u64::from(*iosize))?;
        }
        DeviceKind::Pvpanic { ioport, events: reported } => {
            let report = builder.panic_report();
            add_single(builder, "pvpanic", place, Pvpanic::new(*reported, report), *ioport, 1)?;
            extra.pvpanic = Some(*ioport);
        }
        DeviceKind::Ib700 => {
            let watchdog = Ib700::new(&builder.clock, builder.watchdog());
            builder.map_ports(&watchdog, &[(0, ib700::FIRST_PORT, ib700::PORT_COUNT)])?;
            builder.add("ib700", place, Arc::new(watchdog));
        }
        DeviceKind::PcTestdev => {
            let lines = (0..pc_testdev::LINES).map(|line| builder.irq(line as u8)).collect();
            let cell = DeviceCell::new(PcTestdev::new(lines));
            // It is there for tests: what else answers at these ports is hidden.
            for (region, first, count) in pc_testdev::PORTS {
                builder.ports.map(GuestAddress(first), count, 1, cell.region(region))?;
            }
            let (region, address, len) = pc_testdev::MEMORY;
            builder.memory.map(GuestAddress(address), len, 0, cell.region(region))?;
            builder.add("pc-testdev", place, Arc::new(cell));
        }
        // The others are not ISA devices.
        _ => {}
    }
    Ok(())
}

impl Extra {
    /// The tables list ports by number.
    pub fn sort(&mut self) {
        self.serial_ports.sort_by_key(|port| port.number);
        self.parallel_ports.sort_by_key(|port| port.number);
    }
}

fn add_single<D: IoDevice>(
    builder: &mut Builder<'_>,
    type_name: &'static str,
    place: Place,
    device: D,
    port: u16,
    count: u64,
) -> Result<(), MachineError> {
    let cell = DeviceCell::new(device);
    builder.map_ports(&cell, &[(0, u64::from(port), count)])?;
    builder.add(type_name, place, Arc::new(cell));
    Ok(())
}
