//! Pictures of screens. Files may be slow, so that a thread of its own writes each of them.

use std::fs::File;
use std::io::BufWriter;
use std::sync::Arc;

use ::display::Console;
use ::display::image::{self, ImageFormat};
use machine::Machine;
use qapi::Error;
use qapi::ui::{self, Screendump};

use super::{Table, in_background};
use crate::control::Control;
use crate::host_error;

/// The commands of this subject.
pub fn register(table: &mut Table) {
    table.register_deferred::<Screendump>(|control, _, arguments, reply| {
        let console = match console_of_dump(control, &arguments) {
            Ok(console) => console,
            Err(error) => return reply.send(Err(error)),
        };
        let format = match arguments.format {
            None | Some(ui::ImageFormat::Ppm) => ImageFormat::Ppm,
            Some(ui::ImageFormat::Png) => ImageFormat::Png,
        };
        let filename = arguments.filename;
        in_background("screendump", reply, move || dump(&console, format, &filename));
    });
}

fn console_of_dump(control: &Control, arguments: &Screendump) -> Result<Arc<Console>, Error> {
    let Some(device) = &arguments.device else {
        if arguments.head.is_some() {
            return Err(Error::generic("'head' must be specified together with 'device'"));
        }
        let first = control.consoles().first().cloned();
        return first.ok_or_else(|| Error::generic("There is no console to take a screendump from"));
    };
    console(control.machine(), device, arguments.head)
}

/// The console of a head of a device.
///
/// # Errors
/// There is no such device, or it has no such head.
pub fn console(machine: &Machine, device: &str, head: Option<i64>) -> Result<Arc<Console>, Error> {
    let head = head.unwrap_or(0);
    let is_it = |console: &&Arc<Console>| {
        let origin = console.origin();
        origin.is_named(device) && i64::from(origin.head) == head
    };
    if let Some(console) = machine.consoles().iter().find(is_it) {
        return Ok(Arc::clone(console));
    }
    if !machine.has_device(device) {
        return Err(Error::device_not_found(device));
    }
    Err(Error::generic(format!("Device '{device}' (head {head}) is not bound to a QemuConsole")))
}

fn dump(console: &Console, format: ImageFormat, filename: &str) -> Result<(), Error> {
    let file = File::create(filename)
        .map_err(|error| Error::generic(format!("failed to open file '{filename}': {}", host_error(&error))))?;
    let mut file = BufWriter::new(file);
    let written = image::write(&console.snapshot(), format, &mut file)
        .and_then(|()| file.into_inner().map(drop).map_err(std::io::IntoInnerError::into_error));
    written.map_err(|error| Error::generic(format!("failed to write file '{filename}': {}", host_error(&error))))
}
