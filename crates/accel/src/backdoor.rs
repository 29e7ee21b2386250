//! The port whose device sees the processor's registers: VMware's, by which drivers call the hypervisor.
//!
//! An accelerator wraps each access to [`PORT`] in [`call`]; the device behind the port asks for the registers with
//! [`registers`] and leaves others with [`set_registers`]. All of it happens on the vCPU's own thread.

use std::cell::Cell;

/// The port.
pub const PORT: u16 = 0x5658;

/// EAX, EBX, ECX, EDX, ESI, EDI.
pub type BackdoorRegisters = [u32; 6];

thread_local! {
    static REGISTERS: Cell<Option<BackdoorRegisters>> = const { Cell::new(None) };
}

/// Makes an access with these registers; returns what it returns, and the registers as the device left them.
pub fn call<R>(registers: BackdoorRegisters, access: impl FnOnce() -> R) -> (R, BackdoorRegisters) {
    REGISTERS.set(Some(registers));
    let result = access();
    (result, REGISTERS.take().unwrap_or(registers))
}

/// The registers of the access that this thread makes; `None` outside of one.
pub fn registers() -> Option<BackdoorRegisters> {
    REGISTERS.get()
}

/// Changes the registers of the access that this thread makes.
pub fn set_registers(registers: BackdoorRegisters) {
    if REGISTERS.get().is_some() {
        REGISTERS.set(Some(registers));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_seen_and_changed_within_an_access_only() {
        assert_eq!(registers(), None);
        set_registers([9; 6]);
        assert_eq!(registers(), None);
        let (seen, left) = call([1, 2, 3, 4, 5, 6], || {
            let seen = registers();
            set_registers([7; 6]);
            seen
        });
        assert_eq!((seen, left, registers()), (Some([1, 2, 3, 4, 5, 6]), [7; 6], None));
    }
}
