//! Debian's SeaBIOS on KVM and on the software CPU, also in lock-step: it prints the same on its debug port.

use std::path::Path;
use std::sync::{Arc, Mutex};

use accel::{Accelerator, CpuSignals, InterruptSource, LocalApic, MachineSpaces, Vcpu, VcpuExit};
use clock::{Clock, RtcBase, WallClock};
use cpu::{CpuConfig, SoftCpu, TranslatorConfig};
use device::IrqLine;
use devices_chipset::i8254::{self, I8254};
use devices_chipset::legacy::LegacyReplacement;
use devices_chipset::mc146818::Mc146818;
use kvm::IrqchipMode;
use memory::{AccessSize, AddressSpace, Backing, GuestAddress, Io, RamBlock, SpaceKind};

use crate::interrupts::TestApic;
use crate::support::{LIMIT, model, open, run, skip};

const FIRMWARE: &str = "/usr/share/seabios/bios-256k.bin";
const RAM_SIZE: u64 = 32 << 20;

/// The debug port: says that it is there, and collects text.
struct DebugPort(Arc<Mutex<String>>);

impl Io for DebugPort {
    fn read(&self, _: u64, _: AccessSize) -> u64 {
        0xe9
    }
    fn write(&self, _: u64, _: AccessSize, value: u64) {
        self.0.lock().expect("text").push(char::from(value as u8));
    }
}

/// Just what SeaBIOS asks for before it looks for devices.
struct Board {
    memory: Arc<AddressSpace>,
    ports: Arc<AddressSpace>,
    clock: Clock,
    signals: Arc<CpuSignals>,
    text: Arc<Mutex<String>>,
}

impl Board {
    fn new(firmware: &[u8]) -> Self {
        let clock = Clock::host().expect("clock");
        let memory = Arc::new(AddressSpace::new(SpaceKind::Memory));
        let ports = Arc::new(AddressSpace::new(SpaceKind::Ports));
        let signals = Arc::<CpuSignals>::default();
        let ram = Arc::new(RamBlock::new("ram", RAM_SIZE).expect("RAM"));
        let rom = Arc::new(RamBlock::new("rom", firmware.len() as u64).expect("ROM"));
        rom.write(0, firmware);
        // Below 1 MiB there is a copy in RAM, as if the chipset had been told to shadow it.
        ram.write(0x10_0000 - firmware.len(), firmware);
        let backing =
            |block: &Arc<RamBlock>, read_only| Backing::Ram { block: Arc::clone(block), offset: 0, read_only };
        memory.map(GuestAddress(0), RAM_SIZE, 0, backing(&ram, false)).expect("RAM");
        let len = firmware.len() as u64;
        memory.map(GuestAddress((1 << 32) - len), len, 0, backing(&rom, true)).expect("ROM");
        let text = Arc::<Mutex<String>>::default();
        ports.map(GuestAddress(0x402), 1, 0, Backing::Io(Arc::new(DebugPort(Arc::clone(&text))))).expect("port");
        let pit = I8254::new(&clock, IrqLine::unconnected(), LegacyReplacement::default());
        ports.map(GuestAddress(0x40), 4, 0, pit.region(i8254::REGION_TIMER)).expect("PIT");
        ports.map(GuestAddress(0x61), 1, 0, pit.region(i8254::REGION_SPEAKER)).expect("PIT");
        let wall = WallClock::new(RtcBase::Virtual { start: 0 }, clock.clone());
        let rtc = Mc146818::new(&clock, wall, IrqLine::unconnected(), LegacyReplacement::default(), Box::new(|_| ()));
        // Memory above 16 MiB, in units of 64 KiB.
        let [low, high] = (((RAM_SIZE - (16 << 20)) >> 16) as u16).to_le_bytes();
        rtc.lock().set_cmos(0x34, low);
        rtc.lock().set_cmos(0x35, high);
        ports.map(GuestAddress(0x70), 2, 0, rtc.region(0)).expect("RTC");
        Self { memory, ports, clock, signals, text }
    }

    /// What SeaBIOS prints until it waits for a key or a tick of the timer, of which there are none.
    fn run(&self, vcpu: &mut dyn Vcpu) -> Vec<String> {
        self.clock.start();
        let exit = run(vcpu, &self.signals, LIMIT);
        let text = self.text.lock().expect("text");
        assert_eq!(exit, Some(VcpuExit::Halted), "at {:#x} after:\n{text}", vcpu.registers().rip);
        // The processors' frequencies differ.
        text.lines().filter(|line| !line.starts_with("CPU Mhz=")).map(str::to_owned).collect()
    }

    fn software(&self, translator: TranslatorConfig) -> Box<dyn Vcpu> {
        let apic: Arc<dyn LocalApic> = Arc::new(TestApic::default());
        Box::new(SoftCpu::new(CpuConfig {
            apic_id: 0,
            boot_processor: true,
            features: model(&cpu::model_host(), "qemu64", 0),
            memory: Arc::clone(&self.memory),
            smm_memory: None,
            ports: Arc::clone(&self.ports),
            clock: self.clock.clone(),
            tsc_khz: CpuConfig::DEFAULT_TSC_KHZ,
            microcode_revision: 0,
            signals: Arc::clone(&self.signals),
            apic,
            a20: Arc::new(true.into()),
            exclusive: Arc::default(),
            ferr: None,
            translator,
            counter: None,
        }))
    }
}

/// The firmware, if the package is there.
fn firmware(test: &str) -> Option<Vec<u8>> {
    let firmware = std::fs::read(Path::new(FIRMWARE)).ok();
    if firmware.is_none() {
        skip(test, "the package seabios is not installed");
    }
    firmware
}

fn expect_boot_menu(lines: &[String]) {
    assert!(lines.first().is_some_and(|line| line.starts_with("SeaBIOS (version ")), "{lines:?}");
    assert!(lines.contains(&"RamSize: 0x02000000 [cmos]".to_owned()), "{lines:?}");
    assert!(lines.contains(&"Press ESC for boot menu.".to_owned()), "{lines:?}");
}

/// SeaBIOS is 16-bit and 32-bit code, and the translator takes 64-bit code alone. So what is compared today is nothing:
/// the run shows that lock-step leaves code alone that only the interpreter executes, through real mode, protected mode
/// and back. A translator that takes such code is compared here at once, and the last line then wants to be turned.
#[test]
fn seabios_says_the_same_in_lock_step() {
    let Some(firmware) = firmware("seabios in lock-step") else { return };
    let board = Board::new(&firmware);
    let expected = board.run(&mut *board.software(TranslatorConfig::default()));
    expect_boot_menu(&expected);
    let board = Board::new(&firmware);
    let mut vcpu = board.software(TranslatorConfig { lockstep: true, hot_after: 1, ..TranslatorConfig::default() });
    // A difference is an internal error and no HLT.
    assert_eq!(board.run(&mut *vcpu), expected);
    assert_eq!(vcpu.translator_stats().map_or(0, |stats| stats.compared), 0);
}

#[test]
fn seabios_says_the_same_on_kvm_and_on_the_software_cpu() {
    let test = "seabios";
    let Some(firmware) = firmware(test) else { return };
    let board = Board::new(&firmware);
    let expected = board.run(&mut *board.software(TranslatorConfig::default()));
    expect_boot_menu(&expected);
    let Some(accelerator) = open(test, IrqchipMode::Off) else { return };
    let board = Board::new(&firmware);
    accelerator
        .attach(&MachineSpaces { memory: Arc::clone(&board.memory), smm_memory: None, end_of_interrupt: None })
        .expect("memory");
    let spaces = crate::support::Spaces::new();
    let apic = InterruptSource::Apic(Arc::new(TestApic::default()));
    let mut config = crate::support::vcpu_config(&spaces, 0, apic, &accelerator.host());
    (config.memory, config.ports) = (Arc::clone(&board.memory), Arc::clone(&board.ports));
    config.signals = Arc::clone(&board.signals);
    // It tells which hypervisor it finds.
    config.features = model(&accelerator.host(), "qemu64,kvm=off", 0);
    let mut vcpu = accelerator.create_vcpu(config).expect("vCPU");
    assert_eq!(board.run(&mut *vcpu), expected);
}
