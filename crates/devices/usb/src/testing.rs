//! What the unit tests share: guest memory, an interrupt line, a bus that notes wake-ups, random bytes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use clock::Clock;
use device::testing::{reset_twice_is_once, save_and_restore_agree};
use device::{AccessSize, DeviceCell, IoDevice, IrqInput, IrqLine, IrqSink, Lifecycle, ResetKind};
use devices_pci::{MsiMessage, MsiSink, PciFunction};
use memory::{AddressSpace, Backing, DmaView, GuestAddress, RamBlock, SpaceKind};

use crate::bus::{Host, Link, Outcome, Token, Upstream};
use crate::data::ByteData;

/// Bytes of guest memory.
pub const RAM: u64 = 1 << 20;

/// An interrupt input, and where messages go.
#[derive(Default)]
pub struct Pin {
    level: AtomicBool,
    pub messages: Mutex<Vec<MsiMessage>>,
}

impl Pin {
    pub fn line(self: &Arc<Self>) -> IrqLine {
        IrqInput::new(Arc::clone(self) as Arc<dyn IrqSink>, 0).line()
    }

    pub fn level(&self) -> bool {
        self.level.load(Ordering::Relaxed)
    }
}

impl IrqSink for Pin {
    fn set_level(&self, _pin: u32, level: bool) {
        self.level.store(level, Ordering::Relaxed);
    }

    fn restore_level(&self, pin: u32, level: bool) {
        self.set_level(pin, level);
    }
}

impl MsiSink for Pin {
    fn deliver(&self, message: MsiMessage) {
        self.messages.lock().expect("messages").push(message);
    }
}

/// A machine around a controller.
pub struct Bench {
    pub dma: DmaView,
    pub clock: Clock,
    pub pin: Arc<Pin>,
}

impl Bench {
    pub fn new() -> Self {
        let memory = Arc::new(AddressSpace::new(SpaceKind::Memory));
        let block = Arc::new(RamBlock::new("ram", RAM).expect("memory"));
        let backing = Backing::Ram { block, offset: 0, read_only: false };
        memory.map(GuestAddress(0), RAM, 0, backing).expect("mapped");
        Self { dma: DmaView::new(memory), clock: Clock::manual(), pin: Arc::default() }
    }

    pub fn store(&self, at: u64, words: &[u32]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.dma.map().write(at, &bytes).expect("RAM");
    }

    pub fn word(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.dma.map().read(at, &mut bytes).expect("RAM");
        u32::from_le_bytes(bytes)
    }

    pub fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.dma.map().read(at, &mut bytes).expect("RAM");
        bytes
    }
}

/// Lets a function master the bus and drive its pin.
pub fn enable<D: PciFunction>(cell: &DeviceCell<D>) {
    cell.lock().write_config(4, AccessSize::Word, 7);
}

pub fn write<D: IoDevice>(cell: &DeviceCell<D>, offset: u64, value: u32) {
    cell.lock().write(0, offset, AccessSize::Dword, u64::from(value));
}

pub fn read<D: IoDevice>(cell: &DeviceCell<D>, offset: u64) -> u32 {
    cell.lock().read(0, offset, AccessSize::Dword) as u32
}

/// Counts wake-ups.
#[derive(Default)]
pub struct Wakes(pub AtomicUsize);

impl Host for Wakes {
    fn wake(&self, _port: usize, _is_remote: bool) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Wakes {
    /// Connects a device at the fastest speed that it has.
    pub fn connect(self: &Arc<Self>, device: &Link) {
        let all = crate::bus::Speeds::USB2.with(crate::bus::Speed::Super);
        let host: Arc<dyn Host> = Arc::clone(self) as Arc<dyn Host>;
        let speed = device.speeds().fastest_common(all).expect("a speed");
        device.attach(Upstream::new(Arc::downgrade(&host), 0), speed);
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A control transfer: `Ok` is what came, or nothing.
pub fn control(device: &Link, setup: [u8; 8], out: &[u8]) -> Result<Vec<u8>, Outcome> {
    let len = usize::from(u16::from_le_bytes([setup[6], setup[7]]));
    let is_in = setup[0] & 0x80 != 0;
    let mut setup = setup;
    assert_eq!(device.transfer(Token::Setup, 0.into(), &mut ByteData::new(&mut setup)), Outcome::Done(8));
    let mut data = if is_in { vec![0; len] } else { out.to_vec() };
    if len > 0 {
        let token = if is_in { Token::In } else { Token::Out };
        match device.transfer(token, 0.into(), &mut ByteData::new(&mut data)) {
            Outcome::Done(moved) => data.truncate(moved),
            other => return Err(other),
        }
    }
    let token = if is_in && len > 0 { Token::Out } else { Token::In };
    match device.transfer(token, 0.into(), &mut ByteData::new(&mut [])) {
        Outcome::Done(_) => Ok(data),
        other => Err(other),
    }
}

/// Gives a device its configuration.
pub fn configure(device: &Link) {
    control(device, [0, 9, 1, 0, 0, 0, 0, 0], &[]).expect("configured");
}

/// One IN transaction.
pub fn poll(device: &Link, endpoint: u8, len: usize) -> Result<Vec<u8>, Outcome> {
    let mut data = vec![0; len];
    match device.transfer(Token::In, endpoint.into(), &mut ByteData::new(&mut data)) {
        Outcome::Done(moved) => Ok(data[..moved].to_vec()),
        other => Err(other),
    }
}

/// Random numbers, the same in each run.
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 24
    }
}

/// Random accesses to a controller whose lists are in random memory, and the laws of all devices.
pub fn laws<D: IoDevice + PciFunction>(bench: &Bench, cell: &DeviceCell<D>, len: u64, seed: u64) {
    let mut noise = Noise(seed);
    let fill: Vec<u32> = (0..RAM / 4)
        .map(|_| match noise.next() % 4 {
            // Numbers that are often pointers into memory, or small.
            0 => noise.next() as u32 & 0xf_ffff,
            1 => noise.next() as u32 & 0xff,
            _ => noise.next() as u32,
        })
        .collect();
    bench.store(0, &fill);
    enable(cell);
    const SIZES: [AccessSize; 3] = [AccessSize::Byte, AccessSize::Word, AccessSize::Dword];
    for round in 0..3000 {
        // The first registers are those that matter most.
        let offset = if noise.next() & 1 == 0 { noise.next() % len.min(0x80) } else { noise.next() % len };
        let size = SIZES[(noise.next() % 4).min(2) as usize];
        let offset = if size == AccessSize::Dword { offset & !3 } else { offset };
        let value = if noise.next() & 1 == 0 { noise.next() & 0xf_ffff } else { noise.next() };
        match noise.next() % 8 {
            0 => drop(cell.lock().read(0, offset, size)),
            1 => bench.clock.step(noise.next() % 3_000_000),
            _ => cell.lock().write(0, offset, size, value),
        }
        if round % 500 == 499 {
            save_and_restore_agree("controller", cell as &dyn Lifecycle).expect("the law");
        }
    }
    for kind in [ResetKind::Warm, ResetKind::Cold] {
        reset_twice_is_once("controller", cell as &dyn Lifecycle, kind).expect("the law");
    }
}
