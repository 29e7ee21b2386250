//! Interrupts in the three modes, HLT and waking up, start-up of a second vCPU.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use accel::{
    Accelerator, ApicMsrError, CpuSignals, InterruptSource, Interrupts, IoApicEnd, LocalApic, MachineSpaces, Msi,
    PicOutput, Signal, VcpuExit,
};
use kvm::IrqchipMode;
use x86::msr;

use crate::support::{CODE, LIMIT, Machine, Spaces, TEST_PORTS, open, run, vcpu_config};

/// Vectors that wait for a vCPU, and its mailbox, which is told that there are some.
#[derive(Default)]
struct Pending {
    vectors: Mutex<Vec<u8>>,
    signals: OnceLock<Arc<CpuSignals>>,
}

impl Pending {
    fn raise(&self, vector: u8) {
        self.vectors.lock().expect("vectors").insert(0, vector);
        self.signals.get().expect("signals").raise(Signal::INTR);
    }

    fn take(&self) -> Option<u8> {
        let mut vectors = self.vectors.lock().expect("vectors");
        let vector = vectors.pop();
        if vectors.is_empty() {
            self.signals.get().expect("signals").clear(Signal::INTR);
        }
        vector
    }
}

/// A local APIC or a PIC that delivers what it was given.
pub struct TestApic {
    pending: Pending,
    priority: Mutex<u8>,
    base: Mutex<u64>,
}

impl Default for TestApic {
    fn default() -> Self {
        let base = Mutex::new(msr::apic_base::DEFAULT | msr::apic_base::ENABLE | msr::apic_base::BSP);
        Self { pending: Pending::default(), priority: Mutex::default(), base }
    }
}

impl LocalApic for TestApic {
    fn acknowledge(&self) -> Option<u8> {
        self.pending.take()
    }
    fn cr8(&self) -> u8 {
        *self.priority.lock().expect("priority")
    }
    fn set_cr8(&self, cr8: u8) {
        *self.priority.lock().expect("priority") = cr8;
    }
    fn base(&self) -> u64 {
        *self.base.lock().expect("base")
    }
    fn set_base(&self, value: u64) -> Result<(), ApicMsrError> {
        *self.base.lock().expect("base") = value;
        Ok(())
    }
    fn read_msr(&self, _: u32) -> Result<u64, ApicMsrError> {
        Err(ApicMsrError)
    }
    fn write_msr(&self, _: u32, _: u64) -> Result<(), ApicMsrError> {
        Err(ApicMsrError)
    }
    fn init(&self) {}
}

#[derive(Default)]
struct TestPic(Pending);

impl PicOutput for TestPic {
    fn acknowledge(&self) -> Option<u8> {
        self.0.take()
    }
}

const HANDLER: u64 = 0x1200;

/// Writes its number to the test port and ends the run: for the vector at [`HANDLER`].
#[rustfmt::skip]
const ENDING: &[u8] = &[
    0xba, 0x00, 0x03,             // mov dx, 0x300
    0xb0, 0x77,                   // mov al, 0x77
    0xee,                         // out dx, al
    0xe6, 0xf4,                   // out 0xf4, al
    0xcf,                         // iret
];

/// Waits with interrupts on, again and again.
const WAITING: &[u8] = &[
    0xfb, // sti
    0xf4, // hlt
    0xeb, 0xfd, // jmp to the hlt
];

/// Runs in a circle with interrupts on.
const SPINNING: &[u8] = &[0xfb, 0xeb, 0xfe];

fn install(machine: &Machine, vector: u8, handler: &[u8]) {
    machine.load(u64::from(vector) * 4, &(HANDLER as u32).to_le_bytes());
    machine.load(HANDLER, handler);
}

/// A machine whose local APIC is ours.
fn with_own_apic(test: &str, code: &[u8]) -> Option<(Machine, Arc<TestApic>)> {
    let apic = Arc::new(TestApic::default());
    let source = InterruptSource::Apic(Arc::clone(&apic) as _);
    let machine = Machine::with_interrupts(test, IrqchipMode::Off, source, code)?;
    apic.pending.signals.set(Arc::clone(&machine.signals)).expect("first");
    Some((machine, apic))
}

#[test]
fn off_interrupt_ends_hlt() {
    let Some((mut machine, apic)) = with_own_apic("off_interrupt_ends_hlt", WAITING) else { return };
    install(&machine, 0x31, ENDING);
    assert_eq!(machine.run(), VcpuExit::Halted);
    assert_eq!(machine.run(), VcpuExit::Halted, "nothing has happened");
    machine.signals.raise(Signal::INTR);
    assert_eq!(machine.run(), VcpuExit::Halted, "the request went away");
    assert_eq!(machine.vcpu.registers().rip, CODE + 2);
    apic.pending.raise(0x31);
    assert_eq!(machine.run(), VcpuExit::Stopped);
    assert_eq!(machine.test_ports.written(), [0x77]);
}

#[test]
fn off_interrupt_waits_until_the_guest_accepts_it() {
    #[rustfmt::skip]
    let code = [
        0xfa,                         // cli
        0xb9, 0x00, 0x10,             // mov cx, 0x1000
        0xe2, 0xfe,                   // loop to itself
        0xba, 0x00, 0x03,             // mov dx, 0x300
        0xb0, 0x11,                   // mov al, 0x11
        0xee,                         // out dx, al
        0xfb,                         // sti
        0xeb, 0xfe,                   // jmp to itself
    ];
    let Some((mut machine, apic)) = with_own_apic("off_interrupt_waits", &code) else { return };
    install(&machine, 0x31, ENDING);
    apic.pending.raise(0x31);
    assert_eq!(machine.run(), VcpuExit::Stopped);
    assert_eq!(machine.test_ports.written(), [0x11, 0x77]);
}

#[test]
fn off_interrupt_reaches_running_code() {
    let Some((mut machine, apic)) = with_own_apic("off_interrupt_reaches_running_code", SPINNING) else {
        return;
    };
    install(&machine, 0x42, ENDING);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            apic.pending.raise(0x42);
        });
        assert_eq!(machine.run(), VcpuExit::Stopped);
    });
    assert_eq!(machine.test_ports.written(), [0x77]);
}

#[test]
fn off_start_up_of_a_second_vcpu() {
    let Some(mut machine) = Machine::new("off_start_up", IrqchipMode::Off, &[]) else { return };
    let spaces = second_vcpu_spaces(&machine);
    let apic = InterruptSource::Apic(Arc::new(TestApic::default()));
    let config = vcpu_config(&spaces, 1, apic, &machine.accelerator.host());
    let signals = Arc::clone(&config.signals);
    machine.vcpu = machine.accelerator.create_vcpu(config).expect("second vCPU");
    machine.signals = signals;
    // out 0x300 twice, then hlt.
    machine.load(0x7000, &[0xba, 0x00, 0x03, 0xb8, 0x22, 0x00, 0xef, 0x8c, 0xc8, 0xef, 0xf4]);
    assert_eq!(machine.run(), VcpuExit::Halted, "it waits for its start-up");
    machine.signals.raise(Signal::INIT);
    assert_eq!(machine.run(), VcpuExit::Halted);
    machine.signals.raise_sipi(7);
    assert_eq!(machine.run(), VcpuExit::Halted);
    assert_eq!(machine.test_ports.written(), [0x22, 0x700]);
    assert_eq!(machine.vcpu.registers().activity, x86::regs::Activity::Halted);
}

fn second_vcpu_spaces(machine: &Machine) -> Spaces {
    Spaces {
        memory: Arc::clone(&machine.memory),
        smm_memory: None,
        ports: Arc::clone(&machine.ports),
        ram: Arc::clone(&machine.ram),
        test_ports: Arc::clone(&machine.test_ports),
        device: Arc::clone(&machine.device),
    }
}

/// Switches the kernel's local APIC of the machine's vCPU on, with LINT0 for a PIC.
fn enable_kernel_apic(machine: &mut Machine) {
    let apic = machine.vcpu.local_apic().expect("kernel's local APIC");
    apic.write(0xf0, 0x1ff);
    apic.write(0x350, 0x700);
    assert_eq!(apic.read(0xf0), 0x1ff);
}

#[test]
fn on_line_reaches_the_guest_through_the_kernel_s_pic() {
    #[rustfmt::skip]
    let code = [
        0xb0, 0x11, 0xe6, 0x20,       // ICW1
        0xb0, 0x20, 0xe6, 0x21,       // ICW2: vectors from 0x20
        0xb0, 0x04, 0xe6, 0x21,       // ICW3
        0xb0, 0x01, 0xe6, 0x21,       // ICW4
        0xb0, 0xdf, 0xe6, 0x21,       // OCW1: input 5 only
        0xba, 0x00, 0x03, 0xee,       // out 0x300, al: ready
        0xfb, 0xf4, 0xeb, 0xfd,       // sti; hlt; jmp to the hlt
    ];
    let Some(mut machine) = Machine::new("on_line", IrqchipMode::On, &code) else { return };
    enable_kernel_apic(&mut machine);
    install(&machine, 0x25, ENDING);
    let Interrupts::All(controllers) = machine.accelerator.interrupts() else { panic!("mode on") };
    let lines = controllers.inputs();
    let ports = Arc::clone(&machine.test_ports);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while ports.log.lock().expect("log").is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
            lines.set_level(5, true);
            lines.set_level(5, false);
        });
        assert_eq!(machine.run(), VcpuExit::Stopped);
    });
    assert_eq!(machine.test_ports.written(), [0xdf, 0x77]);
    // The mask is the PIC's power-on state after a reset: the line does nothing.
    controllers.reset();
    controllers.inputs().set_level(5, true);
    machine.start_at(CODE as u16 + 24);
    assert_eq!(run(&mut *machine.vcpu, &machine.signals, Duration::from_millis(300)), None);
}

#[test]
fn on_timer_s_line_reaches_input_2_of_the_kernel_s_ioapic() {
    #[rustfmt::skip]
    let code = [
        0x66, 0x65, 0xc7, 0x06, 0x00, 0x00, 0x14, 0, 0, 0, // mov dword gs:[0], 0x14: entry 2
        0x66, 0x65, 0xc7, 0x06, 0x10, 0x00, 0x51, 0, 0, 0, // mov dword gs:[0x10], 0x51
        0xba, 0x00, 0x03, 0xee,                            // out 0x300, al: ready
        0xfb, 0xf4, 0xeb, 0xfd,                            // sti; hlt; jmp to the hlt
    ];
    let Some(mut machine) = Machine::new("on_timer_s_line", IrqchipMode::On, &code) else { return };
    enable_kernel_apic(&mut machine);
    install(&machine, 0x51, ENDING);
    let mut registers = machine.vcpu.registers();
    registers.segments[5].base = 0xfec0_0000;
    machine.vcpu.set_registers(&registers);
    let Interrupts::All(controllers) = machine.accelerator.interrupts() else { panic!("mode on") };
    let (lines, ports) = (controllers.inputs(), Arc::clone(&machine.test_ports));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while ports.log.lock().expect("log").is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
            // Number 2 leads nowhere.
            for gsi in [2, 0] {
                lines.set_level(gsi, true);
                lines.set_level(gsi, false);
            }
        });
        assert_eq!(machine.run(), VcpuExit::Stopped);
    });
    assert_eq!(machine.test_ports.written().last(), Some(&0x77));
}

#[test]
fn off_masked_interrupt_does_not_end_hlt() {
    // cli; hlt; then what must not be reached.
    let code = [0xfa, 0xf4, 0xba, 0x00, 0x03, 0xee, 0xeb, 0xf8];
    let Some((mut machine, apic)) = with_own_apic("off_masked_interrupt", &code) else { return };
    install(&machine, 2, ENDING);
    apic.pending.raise(0x31);
    let signals = Arc::clone(&machine.signals);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            signals.raise(Signal::NMI);
        });
        assert_eq!(machine.run(), VcpuExit::Stopped);
    });
    assert_eq!(machine.test_ports.written(), [0x77], "the NMI alone was taken");
}

#[test]
fn kernel_apic_takes_messages() {
    for mode in [IrqchipMode::On, IrqchipMode::Split] {
        let Some(mut machine) = Machine::new("kernel_apic_takes_messages", mode, WAITING) else { continue };
        enable_kernel_apic(&mut machine);
        install(&machine, 0x61, ENDING);
        let send: Box<dyn Fn(Msi) + Send> = match machine.accelerator.interrupts() {
            Interrupts::All(controllers) => Box::new(move |message| controllers.send_msi(message)),
            Interrupts::LocalApics(apics) => Box::new(move |message| apics.send_msi(message)),
            Interrupts::Machine => panic!("mode {mode:?}"),
        };
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(50));
                send(Msi { address: 0xfee0_0000, data: 0x61 });
            });
            assert_eq!(machine.run(), VcpuExit::Stopped, "{mode:?}");
        });
        assert_eq!(machine.test_ports.written(), [0x77], "{mode:?}");
    }
}

#[test]
fn split_pic_reaches_the_guest_through_lint0() {
    let pic = Arc::new(TestPic::default());
    let source = InterruptSource::Pic(Arc::clone(&pic) as _);
    let Some(mut machine) = Machine::with_interrupts("split_pic", IrqchipMode::Split, source, WAITING) else { return };
    pic.0.signals.set(Arc::clone(&machine.signals)).expect("first");
    enable_kernel_apic(&mut machine);
    install(&machine, 0x27, ENDING);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            pic.0.raise(0x27);
        });
        assert_eq!(machine.run(), VcpuExit::Stopped);
    });
    assert_eq!(machine.test_ports.written(), [0x77]);
}

#[test]
fn split_end_of_a_level_triggered_interrupt_is_told() {
    let test = "split_end_of_interrupt";
    let Some(accelerator) = open(test, IrqchipMode::Split) else { return };
    let ended = Arc::new(Mutex::new(Vec::new()));
    let mailbox = Arc::new(OnceLock::<Arc<CpuSignals>>::new());
    let (log, signals) = (Arc::clone(&ended), Arc::clone(&mailbox));
    let end: IoApicEnd = Arc::new(move |vector| {
        log.lock().expect("log").push(vector);
        signals.get().expect("signals").raise(Signal::STOP);
    });
    let mut machine = Machine::of(accelerator, InterruptSource::Accelerator, Some(end), SPINNING);
    mailbox.set(Arc::clone(&machine.signals)).expect("first");
    enable_kernel_apic(&mut machine);
    #[rustfmt::skip]
    let handler = [
        0x66, 0x65, 0xc7, 0x06, 0xb0, 0x00, 0, 0, 0, 0, // mov dword gs:[0xb0], 0
        0xcf,                                           // iret
    ];
    install(&machine, 0x41, &handler);
    let mut registers = machine.vcpu.registers();
    registers.segments[5].base = 0xfee0_0000;
    machine.vcpu.set_registers(&registers);
    let Interrupts::LocalApics(apics) = machine.accelerator.interrupts() else { panic!("mode split") };
    let message = Msi { address: 0xfee0_0000, data: 0xc041 };
    apics.set_level_route(9, Some(message));
    apics.send_msi(message);
    assert_eq!(machine.run(), VcpuExit::Stopped);
    assert_eq!(*ended.lock().expect("log"), [0x41]);
}

#[test]
fn kernel_apic_starts_a_second_vcpu() {
    let Some(accelerator) = open("kernel_apic_starts_a_second_vcpu", IrqchipMode::On) else { return };
    let spaces = Spaces::new();
    let attached = MachineSpaces { memory: Arc::clone(&spaces.memory), smm_memory: None, end_of_interrupt: None };
    accelerator.attach(&attached).expect("memory");
    let config = |id| vcpu_config(&spaces, id, InterruptSource::Accelerator, &accelerator.host());
    let mut vcpus: Vec<_> = (0..2)
        .map(|id| {
            let config = config(id);
            (Arc::clone(&config.signals), accelerator.create_vcpu(config).expect("vCPU"))
        })
        .collect();
    for (_, vcpu) in &mut vcpus {
        vcpu.local_apic().expect("APIC").write(0xf0, 0x1ff);
    }
    let (signals, mut second) = vcpus.pop().expect("second");
    assert_eq!(second.registers().activity, x86::regs::Activity::WaitForSipi);
    // out 0x300, cs; then hlt with interrupts off.
    spaces.ram.write(0x7000, &[0xba, 0x00, 0x03, 0x8c, 0xc8, 0xef, 0xf4]);
    let Interrupts::All(controllers) = accelerator.interrupts() else { panic!("mode on") };
    let ports = Arc::clone(&spaces.test_ports);
    std::thread::scope(|scope| {
        let stop = Arc::clone(&signals);
        scope.spawn(move || {
            // INIT, then the start-up IPI for page 7.
            controllers.send_msi(Msi { address: 0xfee0_1000, data: 0x500 });
            std::thread::sleep(Duration::from_millis(10));
            controllers.send_msi(Msi { address: 0xfee0_1000, data: 0x607 });
            while ports.log.lock().expect("log").is_empty() && !stop.is_raised(Signal::STOP) {
                std::thread::sleep(Duration::from_millis(1));
            }
            stop.raise(Signal::STOP);
        });
        assert_eq!(run(&mut *second, &signals, LIMIT), Some(VcpuExit::Stopped));
    });
    assert_eq!(spaces.test_ports.written(), [0x700]);
}

#[test]
fn nmi_is_delivered_in_all_modes() {
    for mode in [IrqchipMode::Off, IrqchipMode::Split, IrqchipMode::On] {
        // cli; hlt; jmp to the hlt
        let Some(mut machine) = Machine::new("nmi", mode, &[0xfa, 0xf4, 0xeb, 0xfd]) else { continue };
        install(&machine, 2, ENDING);
        machine.signals.raise(Signal::NMI);
        assert_eq!(machine.run(), VcpuExit::Stopped, "{mode:?}");
        assert_eq!(machine.test_ports.written(), [0x77], "{mode:?}");
    }
}

#[test]
fn stop_brings_a_vcpu_back_from_anywhere() {
    // jmp to itself; hlt with interrupts off; port writes without end.
    let guests: [&[u8]; 3] = [&[0xeb, 0xfe], &[0xfa, 0xf4], &[0xba, 0x04, 0x03, 0xee, 0xeb, 0xfd]];
    for mode in [IrqchipMode::Off, IrqchipMode::Split, IrqchipMode::On] {
        for guest in guests {
            let Some(mut machine) = Machine::new("stop", mode, guest) else { continue };
            for round in 0..20 {
                let signals = Arc::clone(&machine.signals);
                std::thread::scope(|scope| {
                    scope.spawn(move || {
                        // At different moments: before guest code is entered, and later.
                        std::thread::sleep(Duration::from_micros(150 * (round % 5)));
                        signals.raise(Signal::STOP);
                    });
                    let exit = machine.run();
                    let is_halted = mode == IrqchipMode::Off && guest.contains(&0xf4) && exit == VcpuExit::Halted;
                    assert!(exit == VcpuExit::Stopped || is_halted, "{mode:?} {guest:x?}: {exit:?}");
                });
                machine.signals.clear(Signal::STOP);
            }
            let rip = machine.vcpu.registers().rip;
            assert!((CODE..CODE + guest.len() as u64 + 1).contains(&rip), "{mode:?} {guest:x?}: {rip:#x}");
        }
    }
    // The port is one that nobody asks about.
    const _: () = assert!(TEST_PORTS + 4 == 0x304);
}
