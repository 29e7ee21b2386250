//! Guest memory to files. Files may be slow, so that a thread of its own writes each of them.

use std::fs::File;
use std::io::{self, Write};

use ::machine::GuestMemory;
use qapi::Error;
use qapi::memory::{Memsave, Pmemsave};

use super::{Table, in_background};
use crate::host_error;

/// How much is copied at once, in bytes: whole pages.
const PIECE: usize = 64 << 10;

/// The commands of this subject.
pub fn register(table: &mut Table) {
    table.register_deferred::<Memsave>(|control, context, arguments, reply| {
        let index = arguments.cpu_index.unwrap_or_else(|| i64::from(context.default_cpu().unwrap_or(0)));
        let cpu = usize::try_from(index).ok().filter(|index| control.machine().cpu(*index).is_some());
        let Some(cpu) = cpu else {
            reply.send(Err(Error::expects("cpu-index", "a CPU number")));
            return;
        };
        let memory = control.machine().guest_memory();
        let Memsave { val, size, filename, .. } = arguments;
        in_background("memory save", reply, move || {
            save(&filename, val, size, |at, into| memory.read_virtual(cpu, at, into))
        });
    });
    table.register_deferred::<Pmemsave>(|control, _, arguments, reply| {
        let memory: GuestMemory = control.machine().guest_memory();
        let Pmemsave { val, size, filename } = arguments;
        in_background("memory save", reply, move || {
            save(&filename, val, size, |at, into| {
                memory.read_physical(at, into);
                true
            })
        });
    });
}

/// Writes `size` bytes of guest memory from `start` to a new file. `read` says whether the bytes are there.
fn save(filename: &str, start: i64, size: i64, read: impl Fn(u64, &mut [u8]) -> bool) -> Result<(), Error> {
    let could_not_open =
        |error: &io::Error| Error::generic(format!("Could not open '{filename}': {}", host_error(error)));
    let mut file = File::create(filename).map_err(|error| could_not_open(&error))?;
    // Addresses are 64 bits wide; QMP's integers give the upper half as negative numbers.
    let start = start as u64;
    let total = u64::try_from(size).map_err(|_| Error::expects("size", "a non-negative size"))?;
    let mut buffer = vec![0; PIECE];
    let mut done = 0;
    while done < total {
        let at = start.wrapping_add(done);
        let to_page_end = PIECE as u64 - at % PIECE as u64;
        let piece = to_page_end.min(total - done) as usize;
        if !read(at, &mut buffer[..piece]) {
            return Err(Error::generic(format!("Invalid addr 0x{start:016x}/size {size} specified")));
        }
        file.write_all(&buffer[..piece]).map_err(|error| {
            Error::generic(format!("writing memory to file '{filename}' failed: {}", host_error(&error)))
        })?;
        done += piece as u64;
    }
    Ok(())
}
