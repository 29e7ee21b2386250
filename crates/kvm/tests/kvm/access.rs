//! Port and memory accesses of guests.

use accel::VcpuExit;
use kvm::IrqchipMode;
use memory::AccessSize::{Byte, Dword, Word};

use crate::support::{DEVICE, Machine};

#[test]
fn port_accesses_reach_the_device_in_their_size() {
    #[rustfmt::skip]
    let code = [
        0xba, 0x00, 0x03,             // mov dx, 0x300
        0xb0, 0x41,                   // mov al, 'A'
        0xee,                         // out dx, al
        0xb8, 0x34, 0x12,             // mov ax, 0x1234
        0xef,                         // out dx, ax
        0x66, 0xb8, 4, 3, 2, 1,       // mov eax, 0x01020304
        0x66, 0xef,                   // out dx, eax
        0xed,                         // in ax, dx
        0xa3, 0x00, 0x20,             // mov [0x2000], ax
        0xec,                         // in al, dx
        0xa2, 0x02, 0x20,             // mov [0x2002], al
        0xe6, 0xf4,                   // out 0xf4, al
        0xf4,                         // hlt
    ];
    let Some(mut machine) = Machine::new("port_accesses", IrqchipMode::Off, &code) else { return };
    machine.test_ports.answers.lock().expect("answers").extend([0xbeef, 0x7f]);
    assert_eq!(machine.run(), VcpuExit::Stopped);
    let expected = [
        (0, Byte, Some(0x41)),
        (0, Word, Some(0x1234)),
        (0, Dword, Some(0x0102_0304)),
        (0, Word, None),
        (0, Byte, None),
    ];
    assert_eq!(machine.test_ports.take(), expected);
    assert_eq!((machine.word(0x2000), machine.word(0x2002)), (0xbeef, 0x7f));
}

#[test]
fn string_port_accesses_are_split_into_items() {
    #[rustfmt::skip]
    let code = [
        0xfc,                         // cld
        0xba, 0x02, 0x03,             // mov dx, 0x302
        0xbe, 0x00, 0x30,             // mov si, 0x3000
        0xb9, 0x03, 0x00,             // mov cx, 3
        0xf3, 0x6f,                   // rep outsw
        0xbf, 0x00, 0x31,             // mov di, 0x3100
        0xb9, 0x04, 0x00,             // mov cx, 4
        0xf3, 0x6c,                   // rep insb
        0xe6, 0xf4,                   // out 0xf4, al
        0xf4,                         // hlt
    ];
    let Some(mut machine) = Machine::new("string_port_accesses", IrqchipMode::Off, &code) else { return };
    machine.load(0x3000, &[1, 2, 3, 4, 5, 6]);
    machine.test_ports.answers.lock().expect("answers").extend([9, 8, 7, 6]);
    assert_eq!(machine.run(), VcpuExit::Stopped);
    let log = machine.test_ports.take();
    let written: Vec<_> = log.iter().filter(|access| access.2.is_some()).copied().collect();
    assert_eq!(written, [(2, Word, Some(0x201)), (2, Word, Some(0x403)), (2, Word, Some(0x605))]);
    let mut read = [0; 4];
    machine.ram.read(0x3100, &mut read);
    assert_eq!(read, [9, 8, 7, 6]);
}

#[test]
fn memory_accesses_reach_the_device_in_their_size() {
    #[rustfmt::skip]
    let code = [
        0xb8, 0x00, 0xd0,             // mov ax, 0xd000
        0x8e, 0xc0,                   // mov es, ax
        0x26, 0xc6, 0x06, 0x04, 0x00, 0x55,             // mov byte es:[4], 0x55
        0x26, 0xc7, 0x06, 0x08, 0x00, 0x34, 0x12,       // mov word es:[8], 0x1234
        0x66, 0x26, 0xc7, 0x06, 0x0c, 0x00, 4, 3, 2, 1, // mov dword es:[12], 0x01020304
        0x26, 0xa1, 0x10, 0x00,       // mov ax, es:[16]
        0xa3, 0x00, 0x20,             // mov [0x2000], ax
        0xe6, 0xf4,                   // out 0xf4, al
        0xf4,                         // hlt
    ];
    let Some(mut machine) = Machine::new("memory_accesses", IrqchipMode::Off, &code) else { return };
    machine.device.answers.lock().expect("answers").push(0xcafe);
    assert_eq!(machine.run(), VcpuExit::Stopped);
    let expected = [(4, Byte, Some(0x55)), (8, Word, Some(0x1234)), (12, Dword, Some(0x0102_0304)), (16, Word, None)];
    assert_eq!(machine.device.take(), expected);
    assert_eq!(machine.word(0x2000), 0xcafe);
    assert_eq!(machine.vcpu.registers().segments[0].base, DEVICE);
}

#[test]
fn stopped_vcpu_has_completed_its_access() {
    #[rustfmt::skip]
    let code = [
        0xe4, 0xf4,                   // in al, 0xf4: all ones
        0xe6, 0xf4,                   // out 0xf4, al
        0xf4,                         // hlt
    ];
    let Some(mut machine) = Machine::new("stopped_vcpu", IrqchipMode::Off, &code) else { return };
    assert_eq!(machine.run(), VcpuExit::Stopped);
    let registers = machine.vcpu.registers();
    assert_eq!(registers.rip, 0x1004);
    assert_eq!(registers.gpr[0] & 0xff, 0xff);
}
