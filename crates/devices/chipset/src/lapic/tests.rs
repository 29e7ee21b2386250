use super::*;
use crate::i8259::{I8259, PicInputs};
use crate::ioapic::{IoApic, IoApicInputs};
use accel::LocalApic;
use device::{AccessSize, DeviceCell, IoDevice, IrqInput, IrqSink};
use memory::{AddressSpace, Backing, GuestAddress, SpaceKind};

struct Bench {
    clock: Clock,
    bus: Arc<ApicBus>,
    cpus: Vec<CpuApic>,
    signals: Vec<Arc<CpuSignals>>,
    pages: Vec<AddressSpace>,
}

impl Bench {
    fn new(count: usize) -> Self {
        let clock = Clock::manual();
        let bus = ApicBus::new(&clock);
        let signals: Vec<_> = (0..count).map(|_| Arc::new(CpuSignals::default())).collect();
        let cpus: Vec<_> = signals
            .iter()
            .enumerate()
            .map(|(index, signals)| {
                bus.add_cpu(&CpuConfig {
                    index,
                    apic_id: index as u32,
                    is_boot_cpu: index == 0,
                    has_x2apic: true,
                    tsc_khz: 2_000_000,
                    signals: Arc::clone(signals),
                })
            })
            .collect();
        let pages = (0..count)
            .map(|index| {
                let space = AddressSpace::new(SpaceKind::Memory);
                let backing = bus.mmio(Some(index));
                space.map(GuestAddress(APIC_SPACE_BASE), APIC_SPACE_SIZE, 0, backing).expect("map");
                space
            })
            .collect();
        let bench = Self { clock, bus, cpus, signals, pages };
        for cpu in 0..count {
            bench.write(cpu, 0xf0, 0x1ff);
        }
        bench
    }

    fn write(&self, cpu: usize, offset: u64, value: u64) {
        self.pages[cpu].store(GuestAddress(APIC_SPACE_BASE + offset), AccessSize::Dword, value);
    }

    fn read(&self, cpu: usize, offset: u64) -> u64 {
        self.pages[cpu].load(GuestAddress(APIC_SPACE_BASE + offset), AccessSize::Dword)
    }

    fn intr(&self, cpu: usize) -> bool {
        self.signals[cpu].is_raised(Signal::INTR)
    }
}

#[test]
fn reset_values_are_as_qemu_shows_them() {
    let bench = Bench::new(2);
    assert_eq!(bench.read(1, 0x20), 0x0100_0000);
    assert_eq!(bench.read(0, 0x30), 0x0005_0014);
    assert_eq!(bench.read(0, 0xe0), 0xffff_ffff);
    assert_eq!(bench.read(0, 0x350), 0x700);
    assert_eq!(bench.read(1, 0x350), 0x10000);
    assert_eq!(bench.cpus[0].base(), 0xfee0_0900);
    assert_eq!(bench.cpus[1].base(), 0xfee0_0800);
}

#[test]
fn higher_vector_is_taken_first_and_eoi_releases_the_lower() {
    let bench = Bench::new(1);
    bench.bus.deliver_msi(0xfee0_0000, 0x41);
    bench.bus.deliver_msi(0xfee0_0000, 0x81);
    assert!(bench.intr(0));
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x81));
    assert!(!bench.intr(0));
    assert_eq!(bench.read(0, 0xa0), 0x80);
    assert_eq!(bench.read(0, 0x140), 1 << 1);
    bench.write(0, 0xb0, 0);
    assert!(bench.intr(0));
    bench.cpus[0].set_cr8(4);
    assert!(!bench.intr(0));
    assert_eq!(bench.cpus[0].acknowledge(), None);
    bench.write(0, 0x80, 0x30);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x41));
}

#[test]
fn msi_through_memory_reaches_the_window_behind_the_page() {
    let bench = Bench::new(2);
    bench.pages[0].store(GuestAddress(0xfee0_1000), AccessSize::Dword, 0x55);
    assert_eq!(bench.cpus[1].acknowledge(), Some(0x55));
    bench.pages[0].store(GuestAddress(0xfee0_0000), AccessSize::Dword, 0x56);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x56));
}

#[test]
fn one_shot_timer_counts_down_and_interrupts_once() {
    let bench = Bench::new(1);
    bench.write(0, 0x3e0, 0x3); // divide by 16
    bench.write(0, 0x320, 0x30);
    bench.write(0, 0x380, 1000);
    bench.clock.step(8_000);
    assert_eq!(bench.read(0, 0x390), 500);
    bench.clock.step(7_999);
    assert!(!bench.intr(0));
    bench.clock.step(1);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x30));
    assert_eq!(bench.read(0, 0x390), 0);
    bench.write(0, 0xb0, 0);
    bench.clock.step(100_000);
    assert!(!bench.intr(0));
}

#[test]
fn an_expiry_that_the_timer_thread_has_not_come_to_survives_writes_of_the_timers_registers() {
    // Divide configuration, initial count, timer entry, spurious vector.
    for (register, value) in [(0x3e0, 0x3), (0x380, 500), (0x320, 0x30), (0xf0, 0x1ff)] {
        let bench = Bench::new(1);
        bench.write(0, 0x3e0, 0x3);
        bench.write(0, 0x320, 0x30);
        bench.write(0, 0x380, 1000);
        // Time passes without timers, as on a busy host.
        bench.clock.set(bench.clock.now() + 20_000);
        bench.write(0, register, value);
        assert_eq!(bench.cpus[0].acknowledge(), Some(0x30), "{register:#x}");
        bench.write(0, 0xb0, 0);
        bench.clock.step(100_000);
        assert_eq!(bench.intr(0), register == 0x380, "{register:#x}: no second time without a new count");
    }
}

#[test]
fn periodic_timer_repeats_and_masking_silences_it() {
    let bench = Bench::new(1);
    bench.write(0, 0x3e0, 0xb); // divide by 1
    bench.write(0, 0x320, 0x2_0031);
    bench.write(0, 0x380, 1_000_000);
    for _ in 0..3 {
        bench.clock.step(1_000_000);
        assert_eq!(bench.cpus[0].acknowledge(), Some(0x31));
        bench.write(0, 0xb0, 0);
    }
    bench.write(0, 0x320, 0x3_0031);
    bench.clock.step(1_500_000);
    assert!(!bench.intr(0));
    bench.write(0, 0x320, 0x2_0031);
    bench.clock.step(499_999);
    assert!(!bench.intr(0));
    bench.clock.step(1);
    assert!(bench.intr(0));
}

#[test]
fn tsc_deadline_fires_at_its_tick_and_at_once_when_past() {
    let bench = Bench::new(1);
    let cpu = &bench.cpus[0];
    cpu.write_msr(0x6e0, 5000).expect("write");
    assert_eq!(cpu.read_msr(0x6e0), Ok(0), "not in deadline mode");
    bench.write(0, 0x320, 0x4_0032);
    cpu.write_msr(0x6e0, 20_000).expect("write");
    assert_eq!(cpu.read_msr(0x6e0), Ok(20_000));
    bench.clock.step(9_999);
    assert!(!bench.intr(0));
    bench.clock.step(1);
    assert_eq!(cpu.acknowledge(), Some(0x32));
    assert_eq!(cpu.read_msr(0x6e0), Ok(0));
    bench.write(0, 0xb0, 0);
    cpu.set_tsc_offset(100_000);
    cpu.write_msr(0x6e0, 119_999).expect("write");
    assert_eq!(cpu.acknowledge(), Some(0x32));
}

#[test]
fn ipi_shorthands_and_modes_reach_the_right_cpus() {
    let bench = Bench::new(3);
    bench.write(1, 0x300, 0xc_0045); // all but self
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x45));
    assert_eq!(bench.cpus[1].acknowledge(), None);
    assert_eq!(bench.cpus[2].acknowledge(), Some(0x45));
    bench.write(0, 0x300, 0x4_0046); // self
    bench.write(0, 0xb0, 0);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x46));
    bench.write(0, 0x310, 2 << 24);
    bench.write(0, 0x300, 0x0_c500); // INIT assert
    assert!(bench.signals[2].take(Signal::INIT));
    bench.write(0, 0x300, 0x0_8500); // INIT de-assert
    assert!(!bench.signals[2].is_raised(Signal::INIT));
    bench.write(0, 0x300, 0x0_4699);
    assert!(bench.signals[2].take(Signal::SIPI));
    assert_eq!(bench.signals[2].sipi_vector(), 0x99);
    assert!(!bench.signals[1].is_raised(Signal::SIPI));
    bench.write(0, 0x300, 0x0_4400);
    assert!(bench.signals[2].take(Signal::NMI));
    assert_eq!(bench.read(0, 0x310), 2 << 24);
}

#[test]
fn logical_destinations_follow_the_flat_and_cluster_models() {
    let bench = Bench::new(3);
    for cpu in 0..3 {
        bench.write(cpu, 0xd0, 1 << (24 + cpu));
    }
    bench.bus.deliver_msi(0xfee0_5004, 0x60);
    assert_eq!([0, 1, 2].map(|cpu| bench.cpus[cpu].acknowledge()), [Some(0x60), None, Some(0x60)]);
    bench.write(2, 0xe0, 0x0fff_ffff);
    bench.write(2, 0xd0, 0x2200_0000);
    bench.bus.deliver_msi(0xfee2_2004, 0x70);
    assert_eq!([0, 1, 2].map(|cpu| bench.cpus[cpu].acknowledge()), [None, Some(0x70), Some(0x70)]);
}

#[test]
fn lowest_priority_chooses_the_least_busy_cpu() {
    let bench = Bench::new(2);
    bench.write(0, 0x80, 0x50);
    bench.bus.deliver_msi(0xfeef_f004, 0x161);
    assert!(!bench.intr(0));
    assert_eq!(bench.cpus[1].acknowledge(), Some(0x61));
    bench.bus.deliver_msi(0xfeef_f004, 0x162);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x62), "CPU 1 is busy at priority 6");
}

#[test]
fn software_disabled_apic_takes_no_vectors_and_masks_its_table() {
    let bench = Bench::new(1);
    bench.write(0, 0x320, 0x40);
    bench.write(0, 0xf0, 0xff);
    assert_eq!(bench.read(0, 0x320), 0x1_0040);
    bench.bus.deliver_msi(0xfee0_0000, 0x41);
    assert!(!bench.intr(0));
    bench.bus.deliver_msi(0xfee0_0000, 0x441);
    assert!(bench.signals[0].take(Signal::NMI));
}

#[test]
fn illegal_vector_sets_the_error_status() {
    let bench = Bench::new(1);
    bench.write(0, 0x370, 0xfe);
    bench.write(0, 0x300, 0x4_0005);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0xfe));
    assert_eq!(bench.read(0, 0x280), 0);
    bench.write(0, 0x280, 0);
    assert_eq!(bench.read(0, 0x280), 0x20);
    bench.write(0, 0x280, 0);
    assert_eq!(bench.read(0, 0x280), 0);
}

#[test]
fn pic_interrupt_passes_lint0_of_the_boot_cpu() {
    let bench = Bench::new(2);
    let output = IrqInput::new(bench.bus.local_pins(), 0).line();
    let pic = DeviceCell::new(I8259::new(output));
    bench.bus.connect_pic(pic.handle());
    let inputs = PicInputs(pic.clone());
    for (offset, value) in [(0, 0x11), (1, 0x20), (1, 4), (1, 1), (1, 0)] {
        pic.lock().write(0, offset, AccessSize::Byte, value);
    }
    inputs.set_level(1, true);
    assert!(bench.intr(0));
    assert!(!bench.intr(1));
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x21));
    assert!(!bench.intr(0));
    bench.write(0, 0x350, 0x1_0700);
    inputs.set_level(0, true);
    assert!(!bench.intr(0), "LINT0 is masked");
    bench.write(0, 0x350, 0x700);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x20));
}

#[test]
fn x2apic_registers_are_msrs_and_the_page_is_gone() {
    let bench = Bench::new(2);
    let cpu = &bench.cpus[1];
    assert_eq!(cpu.read_msr(0x802), Err(ApicMsrError));
    assert_eq!(cpu.set_base(0xfee0_0400), Err(ApicMsrError));
    cpu.set_base(0xfee0_0c00).expect("x2APIC");
    assert_eq!(cpu.set_base(0xfee0_0800), Err(ApicMsrError), "back to xAPIC");
    assert_eq!(cpu.read_msr(0x802), Ok(1));
    assert_eq!(cpu.read_msr(0x80d), Ok(2));
    assert_eq!(bench.read(1, 0x30), u64::from(u32::MAX));
    assert_eq!(cpu.write_msr(0x80d, 1), Err(ApicMsrError));
    assert_eq!(cpu.write_msr(0x80b, 1), Err(ApicMsrError));
    assert_eq!(cpu.read_msr(0x831), Err(ApicMsrError));
    cpu.write_msr(0x83f, 0x77).expect("self IPI");
    assert_eq!(cpu.acknowledge(), Some(0x77));
    cpu.write_msr(0x80b, 0).expect("EOI");
    cpu.write_msr(0x830, 0x78).expect("ICR");
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x78));
    cpu.set_base(0xfee0_0000).expect("disable");
    assert_eq!(cpu.read_msr(0x802), Err(ApicMsrError));
}

fn ioapic(bench: &Bench) -> (DeviceCell<IoApic>, IoApicInputs) {
    let ioapic = IoApic::new(&bench.bus);
    (ioapic.clone(), IoApicInputs(ioapic))
}

fn redirect(ioapic: &DeviceCell<IoApic>, pin: u64, value: u64) {
    let mut ioapic = ioapic.lock();
    for (index, part) in [(1, value >> 32), (0, value & 0xffff_ffff)] {
        ioapic.write(0, 0, AccessSize::Byte, 0x10 + 2 * pin + index);
        ioapic.write(0, 0x10, AccessSize::Dword, part);
    }
}

#[test]
fn ioapic_shows_24_masked_entries_after_reset() {
    let bench = Bench::new(1);
    let (ioapic, _) = ioapic(&bench);
    let mut ioapic = ioapic.lock();
    ioapic.write(0, 0, AccessSize::Dword, 1);
    assert_eq!(ioapic.read(0, 0x10, AccessSize::Dword), 0x0017_0020);
    ioapic.write(0, 0, AccessSize::Dword, 0x3e);
    assert_eq!(ioapic.read(0, 0x10, AccessSize::Dword), 0x1_0000);
    ioapic.write(0, 0, AccessSize::Dword, 0);
    ioapic.write(0, 0x10, AccessSize::Dword, 0xff00_0000);
    assert_eq!(ioapic.read(0, 0x10, AccessSize::Dword), 0x0f00_0000);
}

#[test]
fn ioapic_level_interrupt_repeats_after_eoi_while_high() {
    let bench = Bench::new(1);
    let (ioapic, inputs) = ioapic(&bench);
    redirect(&ioapic, 11, 0x8051);
    inputs.set_level(11, true);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x51));
    assert_eq!(ioapic.lock().redirection_table()[11], 0xc051);
    inputs.set_level(11, false);
    inputs.set_level(11, true);
    assert!(!bench.intr(0), "remote IRR holds it back");
    bench.write(0, 0xb0, 0);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x51));
    inputs.set_level(11, false);
    bench.write(0, 0xb0, 0);
    assert!(!bench.intr(0));
    assert_eq!(ioapic.lock().redirection_table()[11], 0x8051);
}

#[test]
fn ioapic_edge_on_a_masked_pin_is_lost_and_a_level_is_kept() {
    let bench = Bench::new(1);
    let (ioapic, inputs) = ioapic(&bench);
    inputs.set_level(0, true);
    redirect(&ioapic, 2, 0x52);
    assert!(!bench.intr(0));
    inputs.set_level(0, false);
    inputs.set_level(0, true);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x52), "ISA interrupt 0 is input 2");
    inputs.set_level(9, true);
    redirect(&ioapic, 9, 0x8093);
    assert_eq!(bench.cpus[0].acknowledge(), Some(0x93));
}

#[test]
fn ioapic_eoi_register_ends_a_level_interrupt() {
    let bench = Bench::new(1);
    let (ioapic, inputs) = ioapic(&bench);
    redirect(&ioapic, 10, 0x8061);
    inputs.set_level(10, true);
    ioapic.lock().write(0, 0x40, AccessSize::Dword, 0x61);
    assert_eq!(ioapic.lock().redirection_table()[10], 0xc061, "still high: sent again");
    inputs.set_level(10, false);
    ioapic.lock().write(0, 0x40, AccessSize::Dword, 0x61);
    assert_eq!(ioapic.lock().redirection_table()[10], 0x8061);
}

#[test]
fn page_without_a_cpu_follows_the_thread() {
    let bench = Bench::new(2);
    let space = AddressSpace::new(SpaceKind::Memory);
    let page: Backing = bench.bus.mmio(None);
    space.map(GuestAddress(APIC_SPACE_BASE), APIC_SPACE_SIZE, 0, page).expect("map");
    let id = GuestAddress(APIC_SPACE_BASE + 0x20);
    assert_eq!(space.load(id, AccessSize::Dword), 0);
    let seen = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            set_current(1);
            space.load(id, AccessSize::Dword)
        });
        thread.join().expect("thread")
    });
    assert_eq!(seen, 0x0100_0000);
}

#[test]
fn init_keeps_identity_and_base() {
    let bench = Bench::new(2);
    bench.write(1, 0x20, 0x0500_0000);
    bench.write(1, 0x80, 0x20);
    bench.cpus[1].init();
    assert_eq!(bench.read(1, 0x20), 0x0500_0000);
    assert_eq!(bench.read(1, 0x80), 0);
    assert_eq!(bench.read(1, 0xf0), 0xff);
}

#[test]
fn hostile_state_is_harmless() {
    let bench = Bench::new(1);
    let (ioapic, inputs) = ioapic(&bench);
    for seed in 1..40 {
        {
            let mut apic = bench.cpus[0].device().lock();
            let DeviceState::State(saved) = apic.state() else { panic!("an APIC has state") };
            state::testing::assert_hostile_bytes_are_harmless(saved, seed, 20);
            apic.restored();
        }
        if let DeviceState::State(saved) = ioapic.lock().state() {
            state::testing::assert_hostile_bytes_are_harmless(saved, seed, 20);
        }
        for register in 0..0x40 {
            bench.read(0, register << 4);
            bench.write(0, register << 4, seed.wrapping_mul(0x9e37_79b9) & 0xffff_ffff);
        }
        inputs.set_level(5, seed & 1 != 0);
        bench.cpus[0].acknowledge();
        bench.clock.step(10_000);
    }
}

/// What an accelerator's local APICs are told.
#[derive(Default)]
struct Remote {
    sent: std::sync::Mutex<Vec<accel::Msi>>,
    routes: std::sync::Mutex<Vec<(u32, Option<accel::Msi>)>>,
}

impl accel::LocalApics for Remote {
    fn send_msi(&self, message: accel::Msi) {
        self.sent.lock().expect("log").push(message);
    }
    fn set_level_route(&self, pin: u32, message: Option<accel::Msi>) {
        self.routes.lock().expect("log").push((pin, message));
    }
}

#[test]
fn remote_apics_get_messages_and_level_routes_and_their_ends_reach_the_ioapic() {
    let remote = Arc::new(Remote::default());
    let bus = ApicBus::remote(&Clock::manual(), remote.clone());
    let ioapic = IoApic::new(&bus);
    // Input 10: vector 0x51, logical, level-triggered, lowest priority, destination 3.
    let write = |register: u64, value: u64| {
        let mut ioapic = ioapic.lock();
        ioapic.write(0, 0, AccessSize::Dword, register);
        ioapic.write(0, 0x10, AccessSize::Dword, value);
    };
    write(0x25, 3 << 24);
    write(0x24, 0x8000 | 0x800 | 0x100 | 0x51);
    let expected = accel::Msi { address: 0xfee0_300c, data: 0xc151 };
    assert_eq!(remote.routes.lock().expect("log").last(), Some(&(10, Some(expected))));
    ioapic.lock().set_level(10, true);
    bus.end_of_interrupt(0x51);
    ioapic.lock().set_level(10, false);
    bus.end_of_interrupt(0x51);
    assert_eq!(*remote.sent.lock().expect("log"), [expected, expected]);
    write(0x24, 0x1_0000);
    assert_eq!(remote.routes.lock().expect("log").last(), Some(&(10, None)));
    bus.deliver_msi(0xfee0_1000, 0x41);
    let last = remote.sent.lock().expect("log").last().copied();
    assert_eq!(last, Some(accel::Msi { address: 0xfee0_1000, data: 0x41 }));
}
