//! Saved state of devices from a hostile stream: a load is refused or leaves a device that works. After it the device
//! is restored, read, written, reset and saved.

#![no_main]

use device::{DeviceState, IoDevice, IrqLine, ResetKind};
use libfuzzer_sys::fuzz_target;
use state::{Reader, Writer};

/// Loads the bytes and uses the device: `accesses` are offsets and values.
fn exercise<D: IoDevice>(device: &mut D, bytes: &[u8], accesses: &[u8]) {
    let loaded = match device.state() {
        DeviceState::State(state) => {
            let version = state.version();
            state.load(&mut Reader::new(bytes), version).is_ok()
        }
        _ => false,
    };
    if loaded {
        device.restored();
    }
    let (least, _) = device.access_sizes(0);
    for pair in accesses.chunks_exact(2) {
        let offset = u64::from(pair[0] & 7);
        let _ = device.read(0, offset, least);
        device.write(0, offset, least, u64::from(pair[1]));
    }
    if let DeviceState::State(state) = device.state() {
        let mut writer = Writer::new();
        state.save(&mut writer);
        let bytes = writer.into_bytes();
        let version = state.version();
        state.load(&mut Reader::new(&bytes), version).expect("what was saved can be loaded");
    }
    device.reset(ResetKind::Cold);
}

fuzz_target!(|input: (u8, &[u8], &[u8])| {
    let (which, bytes, accesses) = input;
    match which % 2 {
        0 => exercise(&mut devices_chipset::i8259::I8259::new(IrqLine::unconnected()), bytes, accesses),
        _ => {
            let clock = clock::Clock::manual();
            let cell = devices_isa::uart16550::Uart16550::new(
                &clock,
                IrqLine::unconnected(),
                Box::new(devices_isa::uart16550::NullBackend),
            );
            exercise(&mut *cell.lock(), bytes, accesses);
        }
    }
});
