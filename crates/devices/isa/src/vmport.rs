//! VMware's port 0x5658 and the pointer behind it, as QEMU 7.2 has both (open-vm-tools, `backdoor_def.h`; Linux,
//! `drivers/input/mouse/vmmouse.c`).
//!
//! A driver loads a magic number into EAX and a command into ECX and accesses the port; answers come in registers, which
//! the board passes ([`Registers`]). The pointer gives its reports as words; the driver learns of them by the interrupt of
//! the PS/2 mouse, which the board moves a little for each report.

use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, ResetKind};
use state::State;

/// The port.
pub const PORT: u64 = 0x5658;
const MAGIC: u32 = 0x564d_5868;
const UNSUPPORTED: u32 = u32::MAX;
/// What version and product the guest is told: VMware's version 6, an ESX server.
const VERSION: u32 = 6;
const PRODUCT: u32 = 2;
/// The pointer's answer to `READ_ID`.
const POINTER_VERSION: u32 = 0x3442_554a;
const QUEUE_LEN: usize = 1024;
/// Words of a report.
const REPORT_LEN: usize = 4;
/// The pointer's status while it is off.
const OFF: u16 = 0xffff;

/// Commands in ECX.
mod command {
    pub const GET_VERSION: u16 = 10;
    pub const GET_BIOS_UUID: u16 = 19;
    pub const GET_RAM_SIZE: u16 = 20;
    pub const POINTER_DATA: u16 = 39;
    pub const POINTER_STATUS: u16 = 40;
    pub const POINTER_COMMAND: u16 = 41;
    pub const GET_HZ: u16 = 45;
    pub const GET_VCPU_INFO: u16 = 68;
}

/// What `POINTER_COMMAND` asks for, in EBX.
mod pointer {
    pub const DISABLE: u32 = 0xf5;
    pub const READ_ID: u32 = 0x4541_4552;
    pub const REQUEST_RELATIVE: u32 = 0x4c45_5252;
    pub const REQUEST_ABSOLUTE: u32 = 0x5342_4152;
}

/// The registers of the access that is being made: EAX, EBX, ECX, EDX, ESI, EDI.
pub trait Registers: Send {
    /// Them; `None` when no processor makes the access.
    fn get(&self) -> Option<[u32; 6]>;

    /// Changes them.
    fn set(&self, registers: [u32; 6]);
}

/// How the pointer works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointerMode {
    /// It takes nothing.
    Off,
    /// It takes movements.
    Relative,
    /// It takes positions.
    Absolute,
}

/// Is told how the pointer works from now on, with the device's lock held.
pub type ModeCallback = Box<dyn FnMut(PointerMode) + Send>;

/// What the machine says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineFacts {
    /// Its UUID.
    pub uuid: [u8; 16],
    /// Bytes of RAM.
    pub ram_size: u64,
    /// The processors have an x2APIC.
    pub x2apic: bool,
}

#[derive(Clone, PartialEq, Eq, State)]
#[state(name = "vmmouse", version = 1)]
struct PointerState {
    queue: [u32; QUEUE_LEN],
    #[state(max = 1024)]
    waiting: u16,
    status: u16,
    absolute: bool,
    is_on: bool,
}

/// The port and its pointer. Region 0.
pub struct VmPort {
    // Fixed configuration.
    facts: MachineFacts,
    // Wiring.
    registers: Box<dyn Registers>,
    mode: ModeCallback,
    // Guest-visible state.
    state: PointerState,
}

impl VmPort {
    /// The port; `mode` is told what the pointer takes.
    pub fn new(facts: MachineFacts, registers: Box<dyn Registers>) -> DeviceCell<Self> {
        let state = PointerState { queue: [0; QUEUE_LEN], waiting: 0, status: OFF, absolute: false, is_on: false };
        DeviceCell::new(Self { facts, registers, mode: Box::new(|_| ()), state })
    }

    /// Connects the pointer.
    pub fn on_mode(&mut self, mode: ModeCallback) {
        self.mode = mode;
    }

    /// A report: position (0 to 0x7fff) or movement, turns of the wheel, buttons (bit 0 left, 1 right, 2 middle).
    /// Returns whether there was room, so that the driver has to be told.
    pub fn report(&mut self, (x, y, wheel): (i32, i32, i32), buttons: u8) -> bool {
        let start = usize::from(self.state.waiting);
        if !self.state.is_on || start > QUEUE_LEN - REPORT_LEN {
            return false;
        }
        let bit = |from: u8, to: u32| if buttons & from != 0 { to } else { 0 };
        let scale = u32::from(self.state.absolute);
        let report =
            [bit(1, 0x20) | bit(2, 0x10) | bit(4, 0x08), (x as u32) << scale, (y as u32) << scale, wheel as u32];
        self.state.queue[start..start + REPORT_LEN].copy_from_slice(&report);
        self.state.waiting += REPORT_LEN as u16;
        true
    }

    fn switch(&mut self, is_on: bool, absolute: bool) {
        self.state.is_on = is_on;
        self.state.absolute = absolute;
        (self.mode)(match (is_on, absolute) {
            (false, _) => PointerMode::Off,
            (true, false) => PointerMode::Relative,
            (true, true) => PointerMode::Absolute,
        });
    }

    fn turn_off(&mut self) {
        self.state.status = OFF;
        let absolute = self.state.absolute;
        self.switch(false, absolute);
    }

    fn request(&mut self, absolute: bool) {
        if self.state.status == 0 && (!self.state.is_on || self.state.absolute != absolute) {
            self.switch(true, absolute);
        }
    }

    fn pointer_command(&mut self, wish: u32) {
        match wish {
            pointer::DISABLE => self.turn_off(),
            pointer::READ_ID => {
                if let Some(word) = self.state.queue.get_mut(usize::from(self.state.waiting)) {
                    *word = POINTER_VERSION;
                    self.state.waiting += 1;
                    self.state.status = 0;
                    let absolute = self.state.absolute;
                    self.request(absolute);
                }
            }
            pointer::REQUEST_RELATIVE => self.request(false),
            pointer::REQUEST_ABSOLUTE => self.request(true),
            _ => {}
        }
    }

    /// Takes words out of the queue into as many registers.
    fn pointer_data(&mut self, registers: &mut [u32; 6], count: u32) {
        let waiting = usize::from(self.state.waiting);
        let count = count as usize;
        if count == 0 || count > registers.len() || count > waiting {
            self.turn_off();
            return;
        }
        registers[..count].copy_from_slice(&self.state.queue[..count]);
        self.state.queue.copy_within(count..waiting, 0);
        self.state.waiting -= count as u16;
    }

    /// Executes the command in the registers. `false`: there is none.
    fn execute(&mut self, registers: &mut [u32; 6]) -> bool {
        let [eax, ebx, ecx, edx, ..] = registers;
        // Commands of the pointer have 16 bits, all others 8.
        match *ecx as u16 & 0xff {
            command::GET_VERSION => (*eax, *ebx, *ecx) = (VERSION, MAGIC, PRODUCT),
            command::GET_BIOS_UUID => {
                let parts = self.facts.uuid.as_chunks::<4>().0;
                for (register, part) in [eax, ebx, ecx, edx].into_iter().zip(parts) {
                    *register = u32::from_le_bytes(*part);
                }
            }
            command::GET_RAM_SIZE => (*eax, *ebx) = (self.facts.ram_size as u32, 0x1177),
            // The frequencies are not known.
            command::GET_HZ => *ebx = UNSUPPORTED,
            command::GET_VCPU_INFO => *eax = u32::from(self.facts.x2apic) << 3,
            command::POINTER_STATUS => *eax = u32::from(self.state.status) << 16 | u32::from(self.state.waiting),
            command::POINTER_COMMAND => {
                let wish = *ebx;
                self.pointer_command(wish);
            }
            command::POINTER_DATA => {
                let count = *ebx;
                self.pointer_data(registers, count);
            }
            _ => return false,
        }
        true
    }

    fn access(&mut self) -> u32 {
        let Some(mut registers) = self.registers.get() else { return UNSUPPORTED };
        if registers[0] != MAGIC || !self.execute(&mut registers) {
            registers[0] = UNSUPPORTED;
        }
        self.registers.set(registers);
        registers[0]
    }
}

impl Device for VmPort {
    fn reset(&mut self, _kind: ResetKind) {
        self.state.queue = [0; QUEUE_LEN];
        self.state.waiting = 0;
        self.state.absolute = false;
        self.turn_off();
    }

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        let (is_on, absolute) = (self.state.is_on, self.state.absolute);
        self.switch(is_on, absolute);
    }
}

impl IoDevice for VmPort {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        (AccessSize::Dword, AccessSize::Dword)
    }

    fn read(&mut self, _region: usize, _offset: u64, _size: AccessSize) -> u64 {
        u64::from(self.access())
    }

    fn write(&mut self, _region: usize, _offset: u64, _size: AccessSize, _value: u64) {
        self.access();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use device::testing::{reset_twice_is_once, save_and_restore_agree};

    use super::*;

    #[derive(Clone, Default)]
    struct Cpu(Arc<Mutex<Option<[u32; 6]>>>);

    impl Registers for Cpu {
        fn get(&self) -> Option<[u32; 6]> {
            *self.0.lock().expect("registers")
        }

        fn set(&self, registers: [u32; 6]) {
            *self.0.lock().expect("registers") = Some(registers);
        }
    }

    struct Bench {
        port: DeviceCell<VmPort>,
        cpu: Cpu,
        modes: Arc<Mutex<Vec<PointerMode>>>,
    }

    impl Bench {
        fn new() -> Self {
            let (cpu, modes) = (Cpu::default(), Arc::new(Mutex::new(Vec::new())));
            let uuid = std::array::from_fn(|index| index as u8);
            let facts = MachineFacts { uuid, ram_size: 0x800_0000, x2apic: true };
            let port = VmPort::new(facts, Box::new(cpu.clone()));
            let log = Arc::clone(&modes);
            port.lock().on_mode(Box::new(move |mode| log.lock().expect("modes").push(mode)));
            Self { port, cpu, modes }
        }

        fn call(&self, command: u16, ebx: u32) -> [u32; 6] {
            self.cpu.set([MAGIC, ebx, u32::from(command), 4, 5, 6]);
            let value = self.port.lock().read(0, 0, AccessSize::Dword);
            let registers = self.cpu.get().expect("registers");
            assert_eq!(value, u64::from(registers[0]));
            registers
        }
    }

    #[test]
    fn machine_tells_of_itself() {
        let bench = Bench::new();
        assert_eq!(bench.call(command::GET_VERSION, 0), [6, MAGIC, 2, 4, 5, 6]);
        let uuid = [0x0302_0100, 0x0706_0504, 0x0b0a_0908, 0x0f0e_0d0c, 5, 6];
        assert_eq!(bench.call(command::GET_BIOS_UUID, 0), uuid);
        assert_eq!(bench.call(command::GET_RAM_SIZE, 0)[..2], [0x800_0000, 0x1177]);
        assert_eq!((bench.call(command::GET_HZ, 0)[1], bench.call(command::GET_VCPU_INFO, 0)[0]), (u32::MAX, 8));
        assert_eq!(bench.call(99, 0)[0], u32::MAX);
        bench.cpu.set([1, 0, 10, 0, 0, 0]);
        assert_eq!(bench.port.lock().read(0, 0, AccessSize::Dword), u64::from(u32::MAX));
        // No processor: a test's access.
        *bench.cpu.0.lock().expect("registers") = None;
        assert_eq!(bench.port.lock().read(0, 0, AccessSize::Dword), u64::from(u32::MAX));
    }

    #[test]
    fn pointer_is_found_switched_and_read() {
        let bench = Bench::new();
        assert!(!bench.port.lock().report((1, 2, 3), 1), "it is off");
        assert_eq!(bench.call(command::POINTER_STATUS, 0)[0], 0xffff_0000);
        bench.call(command::POINTER_COMMAND, pointer::READ_ID);
        assert_eq!(bench.call(command::POINTER_STATUS, 0)[0], 1);
        assert_eq!(bench.call(command::POINTER_DATA, 1)[0], POINTER_VERSION);
        bench.call(command::POINTER_COMMAND, pointer::REQUEST_ABSOLUTE);
        assert!(bench.port.lock().report((0x10, 0x7fff, -1), 0b101));
        assert!(bench.port.lock().report((1, 1, 0), 0b010));
        assert_eq!(bench.call(command::POINTER_STATUS, 0)[0], 8);
        save_and_restore_agree("vmmouse", &bench.port).expect("saved");
        assert_eq!(bench.call(command::POINTER_DATA, 4)[..4], [0x28, 0x20, 0xfffe, u32::MAX]);
        assert_eq!(bench.call(command::POINTER_DATA, 4)[..4], [0x10, 2, 2, 0]);
        // Too much was asked for.
        bench.call(command::POINTER_DATA, 4);
        assert_eq!(bench.call(command::POINTER_STATUS, 0)[0], 0xffff_0000);
        let expected = [PointerMode::Relative, PointerMode::Absolute, PointerMode::Absolute, PointerMode::Off];
        assert_eq!(*bench.modes.lock().expect("modes"), expected);
        reset_twice_is_once("vmmouse", &bench.port, ResetKind::Warm).expect("reset");
    }

    #[test]
    fn queue_is_bounded() {
        let bench = Bench::new();
        bench.call(command::POINTER_COMMAND, pointer::READ_ID);
        let taken = (0..2000).filter(|_| bench.port.lock().report((1, 1, 0), 0)).count();
        assert_eq!(taken, 255);
        for _ in 0..10 {
            bench.call(command::POINTER_COMMAND, pointer::READ_ID);
        }
        assert_eq!(bench.call(command::POINTER_STATUS, 0)[0], 1024);
    }
}
