//! A machine with one disk and a serial port that writes to a file, and the same under QEMU.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chardev::{ChardevSpec, Chardevs};
use clock::RtcBase;
use device::disk::Disk;
use machine::accelerator::AcceleratorConfig;
use machine::boot::BootSource;
use machine::config::{
    BlkOptions, BoardOptions, DeviceConfig, DeviceKind, DiskUse, MACHINE_TYPES, MachineConfig, MemoryOptions,
    PciOptions, VirtioBlkConfig,
};
use machine::event::GuestEvent;
use machine::numa::Numa;
use machine::vcpu::Threads;
use machine::{Backends, Machine, TranslatorConfig};
use x86::model::{CpuModel, Topology};

use crate::disk::MemoryDisk;

/// How long a guest may take.
const PATIENCE: Duration = Duration::from_secs(400);

fn file(name: &str) -> PathBuf {
    let directory = std::env::var_os("OUZEL_GUESTS").expect("OUZEL_GUESTS is set, see `cargo xtask guest`");
    PathBuf::from(directory).join(name)
}

fn scratch(name: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("ouzel-virtio-{}-{number}-{name}", std::process::id()))
}

pub struct Setup {
    pub cpus: u32,
    pub pci: PciOptions,
    pub blk: BlkOptions,
    pub vectors: Option<u32>,
    checks: String,
    disk: Arc<MemoryDisk>,
}

impl Setup {
    pub fn new(checks: &str, disk: Arc<MemoryDisk>) -> Self {
        let (pci, blk) = (PciOptions::default(), BlkOptions::default());
        Self { cpus: 1, pci, blk, vectors: None, checks: checks.to_owned(), disk }
    }

    fn config(&self) -> MachineConfig {
        let accelerator = AcceleratorConfig::Software(TranslatorConfig::default());
        let (cpu_model, _) = CpuModel::parse("qemu64", &accelerator.host()).expect("a model");
        let read = |name: &str| -> Arc<[u8]> { std::fs::read(file(name)).expect(name).into() };
        let boot = BootSource {
            kernel: read("vmlinuz"),
            kernel_path: "vmlinuz".into(),
            initrd: Some(read("initrd.cpio")),
            initrd_path: "initrd.cpio".into(),
            command_line: command_line(&self.checks),
        };
        let disk = VirtioBlkConfig {
            mmio: None,
            bus: None,
            type_name: "virtio-blk-pci",
            address: None,
            disk: DiskUse { drive: "d".into(), ..DiskUse::default() },
            pci: self.pci.clone(),
            blk: self.blk.clone(),
            num_queues: None,
            vectors: self.vectors,
        };
        let serial = DeviceKind::IsaSerial { index: 0, iobase: 0x3f8, irq: 4, chardev: "serial".into() };
        let kinds = [serial, DeviceKind::VirtioBlkPci(Box::new(disk))];
        MachineConfig {
            machine_type: &MACHINE_TYPES[0],
            ram_size: 256 << 20,
            cpus: self.cpus,
            topology: Topology { sockets: 1, dies: 1, cores: self.cpus, threads: 1 },
            cpu_model,
            accelerator,
            threads: Threads::Multi,
            icount: None,
            rtc: RtcBase::Host { offset: 0 },
            usb: false,
            hpet: true,
            mem_merge: true,
            dump_guest_core: true,
            firmware: machine::firmware::FirmwareConfig::default(),
            boot: Some(boot),
            vga: None,
            board: BoardOptions::default(),
            memory: MemoryOptions::default(),
            numa: Numa::default(),
            types: Vec::new(),
            devices: kinds.map(|kind| DeviceConfig { id: None, source: String::new(), kind, rom: None }).into(),
        }
    }

    pub fn start(&self) -> Guest {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let output = scratch("serial");
        let chardevs = Chardevs::new(runtime.handle().clone());
        let option = format!("file,id=serial,path={}", output.display());
        let spec: ChardevSpec = chardev::parse_option(&option).expect("an option");
        chardevs.add(&spec).expect("a file");
        let (sender, events) = channel();
        let sender = Mutex::new(sender);
        let disk = Arc::clone(&self.disk);
        let backends = Backends {
            chardevs: &|id| chardevs.attach(id),
            disks: &|_| Ok(Arc::clone(&disk) as Arc<dyn Disk>),
            memories: &|_| Err("there is no memory".to_owned()),
            entropy: &|_| Err("there is no source".to_owned()),
        };
        let events_sink: machine::event::GuestEvents = Arc::new(move |event| {
            let _gone = sender.lock().expect("the channel").send(event);
        });
        let machine = Machine::new(&self.config(), &backends, &events_sink, None).expect("a machine");
        machine.start();
        Guest { machine, events, output, _chardevs: chardevs, _runtime: runtime }
    }
}

fn command_line(checks: &str) -> String {
    // On a busy host the kernel's check of its timer fails, whatever it runs on.
    format!("console=ttyS0 quiet no_timer_check ouzel.run={checks}")
}

pub struct Guest {
    machine: Machine,
    events: Receiver<GuestEvent>,
    output: PathBuf,
    // Open as long as the machine.
    _chardevs: Chardevs,
    _runtime: tokio::runtime::Runtime,
}

impl Guest {
    /// Waits for the guest's reset, and does it.
    pub fn reset(&mut self) {
        let event = self.events.recv_timeout(PATIENCE);
        assert!(matches!(event, Ok(GuestEvent::Reset)), "{event:?}");
        self.machine.stop();
        self.machine.reset();
        self.machine.start();
    }

    /// Waits for the power-off, and returns what the guest printed.
    pub fn finish(&mut self) -> String {
        let mut event = self.events.recv_timeout(PATIENCE);
        // A guest may ask for a reset several times.
        while matches!(event, Ok(GuestEvent::Reset)) {
            event = self.events.recv_timeout(PATIENCE);
        }
        self.machine.stop();
        let serial = std::fs::read_to_string(&self.output).unwrap_or_default().replace('\r', "");
        assert!(matches!(event, Ok(GuestEvent::Shutdown)), "{event:?}:\n{serial}");
        serial
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.output);
    }
}

/// What the guest prints under QEMU with a disk of `size` zero bytes behind `device`.
pub fn qemu(checks: &str, size: usize, device: &str) -> String {
    let path = std::env::var_os("OUZEL_QEMU").map_or_else(|| PathBuf::from("qemu-system-x86_64"), PathBuf::from);
    let output = Command::new(path)
        .args(["-nodefaults", "-display", "none", "-no-reboot", "-accel", "tcg", "-cpu", "qemu64", "-m", "256"])
        .args(["-serial", "stdio", "-drive"])
        .arg(format!("if=none,id=d,driver=null-co,read-zeroes=on,size={size}"))
        .args(["-device", device, "-kernel"])
        .arg(file("vmlinuz"))
        .arg("-initrd")
        .arg(file("initrd.cpio"))
        .args(["-append", &command_line(checks)])
        .output()
        .expect("QEMU runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).replace('\r', "")
}
