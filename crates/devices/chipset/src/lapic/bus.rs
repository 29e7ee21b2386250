//! The bus: finds the destinations of messages, and holds the page through which CPUs reach their own APIC.

use std::cell::Cell;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use accel::{CpuSignals, LocalApics, Msi};
use clock::Clock;
use device::{AccessSize, DeviceCell, Handle, IrqSink, Lifecycle};
use memory::{Backing, Io};

use super::registers::{contains, highest};
use super::{ApicState, CpuApic, DeliveryMode, Destination, Effect, InterruptMessage, Lapic, Route};
use crate::i8259::I8259;
use crate::ioapic::IoApic;
use std::sync::atomic::Ordering;

/// Where the APIC page begins. The megabyte behind it takes message-signalled interrupts.
pub const APIC_SPACE_BASE: u64 = 0xfee0_0000;
/// The length of the region that [`ApicBus::mmio`] answers.
pub const APIC_SPACE_SIZE: u64 = 0x10_0000;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Says that the calling thread runs vCPU `index`: its accesses to the APIC page reach that vCPU's APIC. Threads that
/// never say so reach vCPU 0's.
pub fn set_current(index: usize) {
    CURRENT.set(index);
}

/// The vCPU of the calling thread.
pub fn current() -> usize {
    CURRENT.get()
}

/// What distinguishes one vCPU's APIC.
#[derive(Clone, Debug)]
pub struct CpuConfig {
    /// The vCPU's index in the machine.
    pub index: usize,
    /// The initial APIC identity.
    pub apic_id: u32,
    /// The boot processor.
    pub is_boot_cpu: bool,
    /// x2APIC mode may be entered (CPUID.1:ECX bit 21).
    pub has_x2apic: bool,
    /// The frequency of the TSC in kHz, for the deadline timer: the TSC is `clock.now() * tsc_khz / 1e6` + offset.
    pub tsc_khz: u64,
    /// The vCPU's mailbox.
    pub signals: Arc<CpuSignals>,
}

#[derive(Clone)]
struct Entry {
    index: usize,
    apic: DeviceCell<Lapic>,
    route: Arc<Route>,
}

impl Entry {
    fn is_selected(&self, destination: Destination) -> bool {
        self.route.is_enabled()
            && match destination {
                Destination::Physical(id) => self.route.physical.load(Ordering::Relaxed) == id,
                Destination::Logical(mask) => self.route.matches_logical(mask),
                Destination::All => true,
                Destination::AllExcept(index) => self.index != index,
                Destination::Cpu(index) => self.index == index,
            }
    }
}

/// Everything that APICs can reach.
pub struct ApicBus {
    clock: Clock,
    entries: RwLock<Arc<Vec<Entry>>>,
    ioapics: RwLock<Vec<Handle<IoApic>>>,
    pic: OnceLock<Handle<I8259>>,
    /// Takes all messages, when the local APICs are an accelerator's.
    remote: Option<Arc<dyn LocalApics>>,
}

impl ApicBus {
    /// A bus without APICs; `clock` drives their timers.
    pub fn new(clock: &Clock) -> Arc<Self> {
        Arc::new(Self::build(clock, None))
    }

    /// A bus in front of an accelerator's local APICs.
    pub fn remote(clock: &Clock, apics: Arc<dyn LocalApics>) -> Arc<Self> {
        Arc::new(Self::build(clock, Some(apics)))
    }

    fn build(clock: &Clock, remote: Option<Arc<dyn LocalApics>>) -> Self {
        Self {
            clock: clock.clone(),
            entries: RwLock::default(),
            ioapics: RwLock::default(),
            pic: OnceLock::new(),
            remote,
        }
    }

    /// Adds a vCPU's APIC.
    pub fn add_cpu(self: &Arc<Self>, config: &CpuConfig) -> CpuApic {
        let route = Arc::new(Route::default());
        let apic = DeviceCell::new_cyclic(|handle| Lapic::new(config, &self.clock, handle, Arc::clone(&route)));
        let entry = Entry { index: config.index, apic: apic.clone(), route };
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let list = Arc::make_mut(&mut entries);
        list.retain(|other| other.index != config.index);
        let position = list.partition_point(|other| other.index < config.index);
        list.insert(position, entry);
        CpuApic::new(apic, Arc::clone(self))
    }

    /// Takes a vCPU's APIC off the bus.
    pub fn remove_cpu(&self, index: usize) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut entries).retain(|entry| entry.index != index);
    }

    /// Makes an I/O APIC hear ends of interrupts.
    pub fn connect_ioapic(&self, ioapic: Handle<IoApic>) {
        self.ioapics.write().unwrap_or_else(PoisonError::into_inner).push(ioapic);
    }

    /// The controller that answers INTA cycles of external interrupts. Only the first call counts.
    pub fn connect_pic(&self, pic: Handle<I8259>) {
        let _already_connected = self.pic.set(pic);
    }

    fn snapshot(&self) -> Arc<Vec<Entry>> {
        Arc::clone(&self.entries.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `visit` on the APIC of vCPU `index`, or of the first one when there is no such vCPU.
    fn with<R>(&self, index: usize, visit: impl FnOnce(&mut Lapic) -> R) -> Option<R> {
        let apic = {
            let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
            let entry = entries.get(index).filter(|entry| entry.index == index);
            let entry = entry.or_else(|| entries.iter().find(|entry| entry.index == index)).or(entries.first())?;
            entry.apic.clone()
        };
        let answer = visit(&mut apic.lock());
        Some(answer)
    }

    /// The registers of a vCPU's APIC, for `info lapic`.
    pub fn registers(&self, index: usize) -> Option<ApicState> {
        let entries = self.snapshot();
        let entry = entries.iter().find(|entry| entry.index == index)?;
        Some(entry.apic.lock().state.clone())
    }

    /// What the timer of a vCPU's APIC has left to count.
    pub fn timer_count(&self, index: usize) -> Option<u32> {
        let entries = self.snapshot();
        let entry = entries.iter().find(|entry| entry.index == index)?;
        Some(entry.apic.lock().current_count())
    }

    /// All the APICs as the machine's reset and migration see them, with their vCPU's index.
    pub fn devices(&self) -> Vec<(usize, Arc<dyn Lifecycle>)> {
        let entries = self.snapshot();
        entries.iter().map(|entry| (entry.index, Arc::new(entry.apic.clone()) as Arc<dyn Lifecycle>)).collect()
    }

    /// Routes a message to its destinations. Callers hold no local APIC's lock.
    pub fn deliver(&self, message: &InterruptMessage) {
        if let Some(remote) = &self.remote {
            if let Some(message) = message.to_msi() {
                remote.send_msi(message);
            }
            return;
        }
        let entries = self.snapshot();
        let selected = entries.iter().filter(|entry| entry.is_selected(message.destination));
        if message.mode == DeliveryMode::LowestPriority {
            // Of equals the first wins.
            let target = selected.min_by_key(|entry| {
                let apic = entry.apic.lock();
                (!apic.state.accepts_fixed(), apic.state.ppr(), highest(&apic.state.irr))
            });
            if let Some(target) = target {
                target.apic.lock().accept(message);
            }
            return;
        }
        for entry in selected {
            entry.apic.lock().accept(message);
        }
    }

    /// Whether a fixed message like this one still waits at one of its destinations, so that another would be lost.
    pub fn is_requested(&self, message: &InterruptMessage) -> bool {
        matches!(message.mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority)
            && self.remote.is_none()
            && self.snapshot().iter().filter(|entry| entry.is_selected(message.destination)).any(|entry| {
                let apic = entry.apic.lock();
                apic.state.accepts_fixed() && contains(&apic.state.irr, message.vector)
            })
    }

    /// Delivers a message-signalled interrupt. Writes elsewhere than to 0xfeexxxxx and reserved delivery modes are
    /// dropped.
    pub fn deliver_msi(&self, address: u64, data: u32) {
        if let Some(remote) = &self.remote {
            remote.send_msi(Msi { address, data });
            return;
        }
        if let Some(message) = InterruptMessage::from_msi(address, data) {
            self.deliver(&message);
        }
    }

    /// An NMI on the LINT1 pins of all CPUs (`inject-nmi`, system errors).
    pub fn pulse_nmi(&self) {
        for entry in self.snapshot().iter() {
            let mut apic = entry.apic.lock();
            apic.set_lint1(true);
            apic.set_lint1(false);
        }
    }

    /// Does what an operation on one APIC asked for.
    pub(crate) fn perform(&self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Message(message) => self.deliver(&message),
            Effect::EndOfInterrupt(vector) => self.end_of_interrupt(vector),
        }
    }

    /// A local APIC ended `vector`, which was level-triggered: the I/O APICs hear of it. Callers hold no device's lock.
    pub fn end_of_interrupt(&self, vector: u8) {
        let ioapics = self.ioapics.read().unwrap_or_else(PoisonError::into_inner);
        for ioapic in ioapics.iter() {
            ioapic.with(|ioapic| ioapic.end_of_interrupt(vector));
        }
    }

    /// What an I/O APIC sends for its level-triggered input `pin`, for an accelerator that must know in advance.
    pub(crate) fn set_level_route(&self, pin: usize, message: Option<&InterruptMessage>) {
        if let Some(remote) = &self.remote {
            remote.set_level_route(pin as u32, message.and_then(InterruptMessage::to_msi));
        }
    }

    /// The vector of the 8259 pair.
    pub(crate) fn acknowledge_external(&self) -> Option<u8> {
        self.pic.get()?.with(I8259::acknowledge)
    }

    /// The APIC page and the MSI window behind it, as vCPU `cpu` sees it, to be mapped at [`APIC_SPACE_BASE`] for
    /// [`APIC_SPACE_SIZE`] bytes. `None`: as the vCPU of the accessing thread sees it, see [`set_current`].
    pub fn mmio(self: &Arc<Self>, cpu: Option<usize>) -> Backing {
        Backing::Io(Arc::new(ApicPage { bus: Arc::clone(self), cpu }))
    }

    /// The LINT0 pins of all CPUs (pin 0), which the 8259 pair drives, and their LINT1 pins (pin 1), the NMI.
    pub fn local_pins(self: &Arc<Self>) -> Arc<dyn IrqSink> {
        Arc::new(LocalPins(Arc::clone(self)))
    }
}

struct LocalPins(Arc<ApicBus>);

impl IrqSink for LocalPins {
    fn set_level(&self, pin: u32, level: bool) {
        for entry in self.0.snapshot().iter() {
            let mut apic = entry.apic.lock();
            match pin {
                0 => apic.set_lint0(level),
                _ => apic.set_lint1(level),
            }
        }
    }

    fn restore_level(&self, pin: u32, level: bool) {
        for entry in self.0.snapshot().iter() {
            let mut apic = entry.apic.lock();
            match pin {
                0 => apic.state.lint0_level = level,
                _ => apic.state.lint1_level = level,
            }
            apic.update_signals();
        }
    }
}

struct ApicPage {
    bus: Arc<ApicBus>,
    cpu: Option<usize>,
}

impl ApicPage {
    fn cpu(&self) -> usize {
        self.cpu.unwrap_or_else(current)
    }
}

impl Io for ApicPage {
    fn read(&self, offset: u64, size: AccessSize) -> u64 {
        if offset >= 0x1000 || size != AccessSize::Dword {
            return 0;
        }
        let read = self.bus.with(self.cpu(), |apic| {
            // The page is there in xAPIC mode only; else nothing answers.
            let is_visible = apic.state.is_enabled() && !apic.state.is_x2apic();
            if is_visible { apic.read_register((offset >> 4) as u32) } else { u32::MAX }
        });
        u64::from(read.unwrap_or(u32::MAX))
    }

    fn write(&self, offset: u64, size: AccessSize, value: u64) {
        if size != AccessSize::Dword {
            return;
        }
        if !(0x10..0x1000).contains(&offset) {
            // On a real PC the CPU's page and the MSI window are different things at the same address; no register
            // is at offset 0, so that they can share one region.
            self.bus.deliver_msi(APIC_SPACE_BASE | offset, value as u32);
            return;
        }
        let effect = self.bus.with(self.cpu(), |apic| {
            let is_visible = apic.state.is_enabled() && !apic.state.is_x2apic();
            if is_visible { apic.write_register((offset >> 4) as u32, value as u32) } else { Effect::None }
        });
        self.bus.perform(effect.unwrap_or(Effect::None));
    }

    fn sizes(&self) -> (AccessSize, AccessSize) {
        (AccessSize::Dword, AccessSize::Dword)
    }
}
