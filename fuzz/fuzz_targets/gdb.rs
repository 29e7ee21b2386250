//! What clients of the server for gdb send: packets, requests in them, values of registers.
#![no_main]

use gdb::{Incoming, PACKET_SIZE, Reader, Request, packet, registers};
use libfuzzer_sys::fuzz_target;
use x86::regs::Registers;

fuzz_target!(|data: &[u8]| {
    let mut reader = Reader::default();
    let mut all = Registers { xsave: vec![0; 832], ..Registers::default() };
    let mut request = |body: &[u8]| match Request::parse(body) {
        Request::WriteRegisters(text) => drop(registers::set_all(&mut all, &text)),
        Request::WriteRegister(number, text) => {
            let is_set = registers::set_one(&mut all, number, &text);
            assert!(!is_set || registers::one(&all, number).is_some());
        }
        Request::ReadRegister(number) => {
            assert_eq!(registers::one(&all, number).is_some(), number < registers::COUNT);
        }
        Request::WriteMemory { bytes, .. } => assert!(bytes.len() <= body.len()),
        _ => {}
    };
    for byte in data {
        if let Some(Incoming::Packet(body)) = reader.take(*byte) {
            assert!(body.len() <= PACKET_SIZE);
            request(&body);
        }
    }
    // Right sums are rare: each line is a request, too, and comes through a packet as it was.
    for line in data.split(|byte| *byte == b'\n') {
        request(line);
        if line.len() <= PACKET_SIZE {
            let mut reader = Reader::default();
            let read = packet::frame(line).into_iter().filter_map(|byte| reader.take(byte)).last();
            assert_eq!(read, Some(Incoming::Packet(line.to_vec())));
        }
    }
});
