//! Port I/O with its privilege checks (SDM vol. 1, chapter 19) and I/O breakpoints.

use accel::{Signal, backdoor};
use memory::{AccessSize, AddressSpace, GuestAddress};

use crate::fault::{Exec, Fault};
use crate::segment::{attr, system};
use crate::state::{Cpu, gpr};

impl Cpu {
    /// Whether a program may access `size` bytes of ports: by IOPL, else by the TSS's bitmap. String instructions call
    /// it before they touch memory.
    ///
    /// # Errors
    /// #GP(0), #PF.
    pub fn check_port(&mut self, size: u8, port: u16) -> Exec {
        if !self.mode.is_v86() && self.mode.cpl <= self.iopl() {
            return Ok(());
        }
        let tss32 = matches!(self.tr.attributes & 0x1f, kind if kind == system::TSS32 || kind == system::TSS32_BUSY);
        if self.tr.attributes & attr::P == 0 || !tss32 || self.tr.limit < 0x67 {
            return Err(Fault::gp0());
        }
        let map = u64::from(self.read_u16_sys(self.system_address(self.tr.base.wrapping_add(0x66)))?);
        let at = map + u64::from(port >> 3);
        // Two bytes are read, so that an access across a byte border is checked too.
        if at + 1 > u64::from(self.tr.limit) {
            return Err(Fault::gp0());
        }
        let bits = self.read_u16_sys(self.system_address(self.tr.base.wrapping_add(at)))?;
        let mask = (1u16 << size) - 1;
        if bits >> (port & 7) & mask != 0 { Err(Fault::gp0()) } else { Ok(()) }
    }

    /// IN of `size` bytes (1, 2 or 4).
    ///
    /// # Errors
    /// #GP(0), #PF.
    pub fn port_in(&mut self, size: u8, port: u16) -> Exec<u32> {
        self.check_port(size, port)?;
        Ok(self.port_read(size, port))
    }

    /// OUT of `size` bytes (1, 2 or 4).
    ///
    /// # Errors
    /// #GP(0), #PF.
    pub fn port_out(&mut self, size: u8, port: u16, value: u32) -> Exec {
        self.check_port(size, port)?;
        self.port_write(size, port, value);
        Ok(())
    }

    /// An access to the port whose device sees registers, and changes them.
    fn backdoor<R>(&mut self, access: impl FnOnce(&AddressSpace) -> R) -> R {
        const ORDER: [usize; 6] = [gpr::RAX, gpr::RBX, gpr::RCX, gpr::RDX, gpr::RSI, gpr::RDI];
        let before = ORDER.map(|index| self.gpr[index] as u32);
        let (result, after) = backdoor::call(before, || access(&self.ports));
        for ((index, before), after) in ORDER.into_iter().zip(before).zip(after) {
            // What the device left alone keeps its upper half.
            if before != after {
                self.gpr[index] = u64::from(after);
            }
        }
        result
    }

    /// Reads a port after [`Cpu::check_port`].
    pub fn port_read(&mut self, size: u8, port: u16) -> u32 {
        let size = access_size(size);
        self.note_port_access(port, size);
        let value = if port == backdoor::PORT {
            self.backdoor(|ports| ports.load(GuestAddress(u64::from(port)), size))
        } else {
            self.ports.load(GuestAddress(u64::from(port)), size)
        };
        self.sync_map();
        (value & size.mask()) as u32
    }

    /// Writes a port after [`Cpu::check_port`].
    pub fn port_write(&mut self, size: u8, port: u16, value: u32) {
        let size = access_size(size);
        self.note_port_access(port, size);
        if port == backdoor::PORT {
            self.backdoor(|ports| ports.store(GuestAddress(u64::from(port)), size, u64::from(value) & size.mask()));
        } else {
            self.ports.store(GuestAddress(u64::from(port)), size, u64::from(value) & size.mask());
        }
        // The device may have changed the memory map or the A20 gate.
        self.sync_map();
        if self.signals.is_raised(Signal::SMI) {
            // It comes before the next instruction: programs rely on it.
            self.exit_request = true;
        }
    }
}

fn access_size(bytes: u8) -> AccessSize {
    match bytes {
        1 => AccessSize::Byte,
        2 => AccessSize::Word,
        _ => AccessSize::Dword,
    }
}
