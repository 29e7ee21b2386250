//! Interrupt controllers: which of them are the kernel's, and the ways to them.
//!
//! | mode | local APIC | PIC, I/O APIC, PIT | an interrupt of ours reaches a vCPU by |
//! | --- | --- | --- | --- |
//! | `on` | kernel | kernel | a line (`KVM_IRQ_LINE`) or a message (`KVM_SIGNAL_MSI`) |
//! | `split` | kernel | ours | a message; the PIC's vector by `KVM_INTERRUPT` |
//! | `off` | ours | ours | `KVM_INTERRUPT` |
//!
//! In mode `on` the devices that the machine leaves out are the 8259 pair (ports 0x20, 0xa0, 0x4d0), the I/O APIC
//! (0xfec00000) and the local APICs (0xfee00000). The PIT stays the machine's: its ticks are interrupts on a line like
//! all others, and the machine's clock knows when it stands still. In mode `split` only the local APICs are left out;
//! the kernel is told the I/O APIC's level-triggered redirections, so that their ends come back.

use std::sync::{Arc, Mutex, PoisonError};

use accel::{IrqControllers, LocalApics, Msi};
use device::IrqSink;
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KvmIrqRouting, kvm_enable_cap, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi, kvm_irqchip, kvm_msi,
};
use kvm_ioctls::{Cap, VmFd};

use crate::error::{HostError, KvmError, request};
use crate::system::Kvm;
use crate::vm::KvmVm;

/// The number of global system interrupts of a PC with one I/O APIC.
pub(crate) const GSI_COUNT: usize = 24;
/// The inputs of the I/O APICs that a machine may have beside the kernel's local APICs.
pub(crate) const ROUTE_COUNT: usize = 2 * GSI_COUNT;

/// Which interrupt controllers are the kernel's (`kernel-irqchip=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IrqchipMode {
    /// All of them.
    #[default]
    On,
    /// The local APICs only.
    Split,
    /// None.
    Off,
}

impl IrqchipMode {
    /// Whether the local APICs are the kernel's.
    pub fn has_kernel_apic(self) -> bool {
        self != Self::Off
    }
}

/// The power-on state of the kernel's PIC pair and I/O APIC.
#[derive(Clone)]
pub(crate) struct PowerOnState([kvm_irqchip; 3]);

impl PowerOnState {
    fn read(vm: &VmFd) -> Result<Self, KvmError> {
        let mut chips = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC]
            .map(|chip_id| kvm_irqchip { chip_id, ..kvm_irqchip::default() });
        for chip in &mut chips {
            vm.get_irqchip(chip).map_err(request("KVM_GET_IRQCHIP"))?;
        }
        Ok(Self(chips))
    }

    pub(crate) fn write(&self, vm: &VmFd) -> Result<(), KvmError> {
        self.0.iter().try_for_each(|chip| vm.set_irqchip(chip).map_err(request("KVM_SET_IRQCHIP")))
    }
}

impl std::fmt::Debug for PowerOnState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PowerOnState")
    }
}

/// Makes the kernel's controllers of a machine. Returns their power-on state in mode `on`.
pub(crate) fn create(kvm: &Kvm, vm: &VmFd, mode: IrqchipMode) -> Result<Option<PowerOnState>, KvmError> {
    match mode {
        IrqchipMode::Off => Ok(None),
        IrqchipMode::Split => {
            if !kvm.has(Cap::SplitIrqchip) {
                return Err(KvmError::SplitIrqchip(HostError(libc::EINVAL)));
            }
            let mut capability = kvm_enable_cap { cap: Cap::SplitIrqchip as u32, ..kvm_enable_cap::default() };
            capability.args[0] = ROUTE_COUNT as u64;
            vm.enable_cap(&capability).map_err(|error| KvmError::SplitIrqchip(error.into()))?;
            Ok(None)
        }
        IrqchipMode::On => {
            if !kvm.has(Cap::Irqchip) {
                return Err(KvmError::KernelIrqchip(HostError(libc::EINVAL)));
            }
            vm.create_irq_chip().map_err(|error| KvmError::KernelIrqchip(error.into()))?;
            write_routes(vm, &pc_routes())?;
            PowerOnState::read(vm).map(Some)
        }
    }
}

/// Sends a message to the kernel's local APICs. `false`: no vCPU took it.
pub(crate) fn send(vm: &VmFd, message: Msi) -> Result<bool, KvmError> {
    let message = kvm_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..kvm_msi::default()
    };
    Ok(vm.signal_msi(message).map_err(request("KVM_SIGNAL_MSI"))? > 0)
}

/// What each input of the machine's I/O APIC sends, as far as the kernel must know it.
pub(crate) type Routes = [Option<Msi>; ROUTE_COUNT];

/// Tells the kernel.
pub(crate) fn set_routes(vm: &VmFd, routes: &Routes) -> Result<(), KvmError> {
    let entries: Vec<_> = (0..).zip(routes).filter_map(|(gsi, message)| Some(route(gsi, (*message)?))).collect();
    write_routes(vm, &entries)
}

fn write_routes(vm: &VmFd, entries: &[kvm_irq_routing_entry]) -> Result<(), KvmError> {
    let routing = KvmIrqRouting::from_entries(entries)
        .map_err(|_| KvmError::Request { request: "KVM_SET_GSI_ROUTING", error: HostError(libc::E2BIG) })?;
    vm.set_gsi_routing(&routing).map_err(request("KVM_SET_GSI_ROUTING"))
}

/// The wiring of a PC: the first 16 inputs reach the PIC pair, and each its own input of the I/O APIC, but for number 0,
/// which reaches input 2; number 2 is the PIC's cascade and reaches nothing there.
fn pc_routes() -> Vec<kvm_irq_routing_entry> {
    let entry = |gsi, irqchip, pin| kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: kvm_irq_routing_entry__bindgen_ty_1 { irqchip: kvm_irq_routing_irqchip { irqchip, pin } },
        ..kvm_irq_routing_entry::default()
    };
    let master = (0..8).filter(|gsi| *gsi != 2).map(|gsi| entry(gsi, KVM_IRQCHIP_PIC_MASTER, gsi));
    let slave = (8..16).map(|gsi| entry(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8));
    let ioapic = (0..GSI_COUNT as u32).filter(|gsi| *gsi != 2);
    let ioapic = ioapic.map(|gsi| entry(gsi, KVM_IRQCHIP_IOAPIC, if gsi == 0 { 2 } else { gsi }));
    master.chain(slave).chain(ioapic).collect()
}

fn route(gsi: u32, message: Msi) -> kvm_irq_routing_entry {
    let msi = kvm_irq_routing_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..kvm_irq_routing_msi::default()
    };
    let u = kvm_irq_routing_entry__bindgen_ty_1 { msi };
    kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, u, ..kvm_irq_routing_entry::default() }
}

/// The kernel's controllers as the machine uses them.
pub(crate) struct Controllers {
    vm: Arc<KvmVm>,
    /// In mode `split`: what the kernel was told.
    routes: Mutex<Routes>,
}

impl Controllers {
    pub(crate) fn new(vm: &Arc<KvmVm>) -> Arc<Self> {
        Arc::new(Self { vm: Arc::clone(vm), routes: Mutex::new([None; ROUTE_COUNT]) })
    }

    fn send(&self, message: Msi) {
        if let Err(error) = self.vm.send_message(message) {
            tracing::warn!("kvm: message {:#x} to {:#x}: {error}", message.data, message.address);
        }
    }
}

impl LocalApics for Controllers {
    fn send_msi(&self, message: Msi) {
        self.send(message);
    }

    fn set_level_route(&self, pin: u32, message: Option<Msi>) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(route) = routes.get_mut(pin as usize).filter(|route| **route != message) else { return };
        *route = message;
        if let Err(error) = self.vm.set_ioapic_routes(&routes) {
            tracing::warn!("kvm: I/O APIC input {pin}: {error}");
        }
    }
}

impl IrqControllers for Controllers {
    fn send_msi(&self, message: Msi) {
        self.send(message);
    }

    fn inputs(&self) -> Arc<dyn IrqSink> {
        Arc::new(IrqLines(Arc::clone(&self.vm)))
    }

    fn reset(&self) {
        if let Err(error) = self.vm.reset_controllers() {
            tracing::warn!("kvm: {error}");
        }
    }
}

/// The kernel's interrupt inputs in mode `on`, as [`pc_routes`] wires them.
///
/// The kernel has no way to set a level without an edge: whoever restores levels does it before the state of the
/// kernel's controllers.
struct IrqLines(Arc<KvmVm>);

impl IrqSink for IrqLines {
    fn set_level(&self, pin: u32, level: bool) {
        if let Err(error) = self.0.set_irq_line(pin, level) {
            tracing::warn!("kvm: interrupt line {pin}: {error}");
        }
    }

    fn restore_level(&self, pin: u32, level: bool) {
        self.set_level(pin, level);
    }
}
