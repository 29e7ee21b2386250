//! VMware's port with its pointer: the registers of the processor that accesses it, and the hub's reports.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use accel::backdoor;
use device::{DeviceCell, Handle};
use devices_chipset::i8042::I8042;
use devices_isa::vmport::{self, MachineFacts, PointerMode, Registers, VmPort};
use display::input::{Axis, Button, DeviceId, Event, Hub, InputDevice, Takes};
use x86::cpuid::Feature;

use super::Builder;
use crate::error::MachineError;

/// Builds the port beside a keyboard controller.
pub fn build(builder: &mut Builder<'_>, controller: &DeviceCell<I8042>) -> Result<(), MachineError> {
    if !builder.config.board.vmport {
        return Ok(());
    }
    let config = builder.config;
    let facts = MachineFacts {
        uuid: config.firmware.uuid,
        ram_size: config.ram_size,
        x2apic: config.cpu_model.features().has(Feature::X2apic),
    };
    let port = VmPort::new(facts, Box::new(CpuRegisters));
    let connection = Connection {
        hub: Arc::downgrade(&builder.input),
        pointer: Arc::new(Pointer { port: port.handle(), controller: controller.clone(), report: Mutex::default() }),
        id: None,
    };
    let connection = Mutex::new(connection);
    port.lock().on_mode(Box::new(move |mode| {
        connection.lock().unwrap_or_else(PoisonError::into_inner).follow(mode);
    }));
    builder.add_ports("vmport", &port, &[(0, vmport::PORT, 1)])
}

/// The registers of the processor whose thread this is.
struct CpuRegisters;

impl Registers for CpuRegisters {
    fn get(&self) -> Option<[u32; 6]> {
        backdoor::registers()
    }

    fn set(&self, registers: [u32; 6]) {
        backdoor::set_registers(registers);
    }
}

/// The pointer is known to the hub while a driver uses it.
struct Connection {
    hub: Weak<Hub>,
    pointer: Arc<Pointer>,
    id: Option<DeviceId>,
}

impl Connection {
    fn follow(&mut self, mode: PointerMode) {
        let Some(hub) = self.hub.upgrade() else { return };
        if let Some(id) = self.id.take() {
            hub.remove(id);
        }
        let takes = match mode {
            PointerMode::Off => return,
            PointerMode::Relative => Takes::MOUSE,
            PointerMode::Absolute => Takes::TABLET,
        };
        let id = hub.add("vmmouse", takes, Arc::clone(&self.pointer) as Arc<dyn InputDevice>);
        hub.activate(id);
        self.id = Some(id);
    }
}

#[derive(Default)]
struct Report {
    movement: (i64, i64),
    position: (i64, i64),
    is_absolute: bool,
    wheel: i32,
    buttons: u8,
}

struct Pointer {
    /// The port has the pointer.
    port: Handle<VmPort>,
    controller: DeviceCell<I8042>,
    report: Mutex<Report>,
}

impl InputDevice for Pointer {
    fn event(&self, event: &Event) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        match *event {
            Event::Relative { axis, by } => {
                let slot = if axis == Axis::X { &mut report.movement.0 } else { &mut report.movement.1 };
                *slot = slot.saturating_add(by);
                report.is_absolute = false;
            }
            Event::Absolute { axis, to } => {
                let slot = if axis == Axis::X { &mut report.position.0 } else { &mut report.position.1 };
                *slot = to;
                report.is_absolute = true;
            }
            Event::Button { button: Button::WheelUp, is_down: true } => report.wheel = report.wheel.saturating_sub(1),
            Event::Button { button: Button::WheelDown, is_down: true } => report.wheel = report.wheel.saturating_add(1),
            Event::Button { button, is_down } => {
                let bit = match button {
                    Button::Left => 1,
                    Button::Right => 2,
                    Button::Middle => 4,
                    _ => 0,
                };
                report.buttons = if is_down { report.buttons | bit } else { report.buttons & !bit };
            }
            Event::Key { .. } => {}
        }
    }

    fn sync(&self) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let movement = std::mem::take(&mut report.movement);
        let (x, y) = if report.is_absolute { report.position } else { movement };
        let wheel = std::mem::take(&mut report.wheel);
        let buttons = report.buttons;
        drop(report);
        let limit = |value: i64| value.clamp(-0x7fff, 0x7fff) as i32;
        if self.port.with(|port| port.report((limit(x), limit(y), wheel), buttons)) == Some(true) {
            // The driver reads when the PS/2 mouse interrupts.
            self.controller.lock().mouse((1, 0, 0), 0);
        }
    }
}
