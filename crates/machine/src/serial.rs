//! Between a device on the ISA bus and the character device behind it.

use std::sync::Arc;

use chardev::{Chardev, Event, LineParameters, Parity};
use device::DeviceCell;
use devices_isa::uart16550::{self, LineSettings, SerialBackend, Uart16550};

/// The UART's way to its character device.
pub struct ChardevBackend(pub Arc<Chardev>);

impl SerialBackend for ChardevBackend {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.write(bytes)
    }

    fn input_room(&mut self, _room: usize) {
        self.0.resume_input();
    }

    /// Where the character device is a port of the host, that follows.
    fn line_changed(&mut self, settings: &LineSettings) {
        if settings.is_break {
            self.0.send_break();
            return;
        }
        if settings.baud == 0 {
            return;
        }
        let parity = match settings.parity {
            // The host's lines have no constant bit.
            uart16550::Parity::None | uart16550::Parity::Mark | uart16550::Parity::Space => Parity::None,
            uart16550::Parity::Odd => Parity::Odd,
            uart16550::Parity::Even => Parity::Even,
        };
        let (data_bits, stop_bits) = (settings.data_bits, settings.stop_bits);
        self.0.set_line(LineParameters { speed: settings.baud, data_bits, parity, stop_bits });
    }
}

/// Leads the character device's input, break conditions and flow control to the UART.
pub fn connect(uart: &DeviceCell<Uart16550>, chardev: &Chardev) {
    let (input, writable, events) = (uart.handle(), uart.handle(), uart.handle());
    // Input for a device that is gone is taken and dropped.
    chardev.set_input(Box::new(move |bytes| input.with(|uart| uart.receive(bytes)).unwrap_or(bytes.len())));
    chardev.set_writable(Box::new(move || {
        writable.with(Uart16550::backend_writable);
    }));
    chardev.set_events(Box::new(move |event| {
        if event == Event::Break {
            events.with(Uart16550::receive_break);
        }
    }));
}

/// Output of the debug console. It has no flow control: what the host does not take now is lost.
pub fn debug_output(chardev: Chardev) -> devices_isa::debug::DebugOutput {
    Box::new(move |bytes| {
        let _taken = chardev.write(bytes);
    })
}
