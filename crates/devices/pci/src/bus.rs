//! A PCI bus: its functions, where their windows are mapped, and their interrupt pins.
//!
//! A function never maps anything: after each configuration write the bus asks it where its windows are now, without the
//! function's lock held by anybody else, and changes the address spaces. Lock order: configuration mechanism → windows
//! of a slot → the function → what a device's lock comes before.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use device::{AccessSize, Device, DeviceCell, DeviceState, IrqInput, IrqLine, Lifecycle, ResetKind};
use memory::{AddressSpace, Backing, GuestAddress, MapError, RegionHandle, SpaceKind};

use crate::capability::MsiSink;
use crate::config::{ConfigSpace, ROM_BAR, reg};
use crate::info::{BarInfo, BridgeInfo, FunctionInfo};
use crate::rom::ExpansionRom;
use crate::root_port::{RootPort, bridge_reg};

/// A function's place on its bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(u8);

impl Address {
    /// Function `function` (0–7) of slot `slot` (0–31).
    pub const fn new(slot: u8, function: u8) -> Self {
        Self((slot & 0x1f) << 3 | (function & 7))
    }

    /// The slot.
    pub const fn slot(self) -> u8 {
        self.0 >> 3
    }

    /// The function in its slot.
    pub const fn function(self) -> u8 {
        self.0 & 7
    }

    /// The unit address of Open Firmware paths: the slot, and the function unless it is the first.
    pub fn open_firmware(self) -> String {
        match self.function() {
            0 => format!("{:x}", self.slot()),
            function => format!("{:x},{function:x}", self.slot()),
        }
    }

    /// Slot and function as one byte.
    pub const fn devfn(self) -> u8 {
        self.0
    }

    /// From slot and function as one byte.
    pub const fn from_devfn(devfn: u8) -> Self {
        Self(devfn)
    }
}

/// A PCI function.
pub trait PciFunction: Device {
    /// Its configuration space.
    fn config(&self) -> &ConfigSpace;

    /// Its configuration space, to change.
    fn config_mut(&mut self) -> &mut ConfigSpace;

    /// A read by the guest. Functions with registers that change by themselves override it.
    fn read_config(&mut self, offset: u8, size: AccessSize) -> u32 {
        self.config().read(offset, size)
    }

    /// A write by the guest. Functions that react to some registers override it and pass the write on.
    fn write_config(&mut self, offset: u8, size: AccessSize, value: u32) {
        self.config_mut().write(offset, size, value);
    }

    /// A read by the guest behind the first 256 bytes.
    fn read_extended(&mut self, offset: u16, size: AccessSize) -> u32 {
        self.config().read_extended(offset, size)
    }

    /// A write by the guest behind the first 256 bytes.
    fn write_extended(&mut self, offset: u16, size: AccessSize, value: u32) {
        self.config_mut().write_extended(offset, size, value);
    }

    /// Where window `index` is mapped now. By default windows are base address registers.
    fn window_address(&self, index: usize) -> Option<u64> {
        self.config().bar_address(index)
    }
}

/// A part of an address space that a function answers.
#[derive(Debug)]
pub struct Window {
    /// Its number, see [`PciFunction::window_address`]. Several may have the same number at different offsets.
    pub index: usize,
    /// Ports or memory.
    pub space: SpaceKind,
    /// Offset from the window's address.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// The priority of its region; QEMU's base address registers have 1.
    pub priority: i32,
    /// What answers.
    pub backing: Backing,
}

struct Mapping {
    window: Window,
    /// The region and its address, since it was mapped for the first time.
    region: Option<(RegionHandle, u64)>,
}

/// A function whatever its type.
trait Endpoint: Send + Sync {
    fn read(&self, offset: u8, size: AccessSize) -> u32;
    fn write(&self, offset: u8, size: AccessSize, value: u32);
    fn read_extended(&self, offset: u16, size: AccessSize) -> u32;
    fn write_extended(&self, offset: u16, size: AccessSize, value: u32);
    fn window_address(&self, index: usize) -> Option<u64>;
    fn with_config(&self, visit: &mut dyn FnMut(&ConfigSpace));
    fn declare_rom(&self, rom: &ExpansionRom) -> bool;
    fn lifecycle(&self) -> &dyn Lifecycle;
}

impl<F: PciFunction> Endpoint for DeviceCell<F> {
    fn read(&self, offset: u8, size: AccessSize) -> u32 {
        self.lock().read_config(offset, size)
    }

    fn write(&self, offset: u8, size: AccessSize, value: u32) {
        self.lock().write_config(offset, size, value);
    }

    fn read_extended(&self, offset: u16, size: AccessSize) -> u32 {
        self.lock().read_extended(offset, size)
    }

    fn write_extended(&self, offset: u16, size: AccessSize, value: u32) {
        self.lock().write_extended(offset, size, value);
    }

    fn window_address(&self, index: usize) -> Option<u64> {
        self.lock().window_address(index)
    }

    fn with_config(&self, visit: &mut dyn FnMut(&ConfigSpace)) {
        visit(self.lock().config());
    }

    fn declare_rom(&self, rom: &ExpansionRom) -> bool {
        let mut function = self.lock();
        let is_free = function.config().bar(ROM_BAR).is_none();
        if is_free {
            rom.declare(function.config_mut());
        }
        is_free
    }

    fn lifecycle(&self) -> &dyn Lifecycle {
        self
    }
}

struct Slot {
    label: Label,
    endpoint: Box<dyn Endpoint>,
    mappings: Mutex<Vec<Mapping>>,
    memory: Arc<AddressSpace>,
    ports: Arc<AddressSpace>,
    /// The bus behind a bridge.
    secondary: Option<Arc<PciBus>>,
    /// It is a function of PCI Express.
    is_express: bool,
}

impl Slot {
    fn mappings(&self) -> MutexGuard<'_, Vec<Mapping>> {
        self.mappings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn space(&self, kind: SpaceKind) -> &AddressSpace {
        match kind {
            SpaceKind::Memory => &self.memory,
            SpaceKind::Ports => &self.ports,
        }
    }

    /// Moves the regions to where the function has its windows now.
    fn remap(&self, mappings: &mut [Mapping]) {
        for mapping in mappings {
            let Window { index, space, offset, len, priority, .. } = mapping.window;
            let wanted = self.endpoint.window_address(index).and_then(|address| address.checked_add(offset));
            let space = self.space(space);
            // A region that would wrap around is not mapped: that is what the errors are.
            let done: Result<(), MapError> = match (wanted, mapping.region) {
                (None, None) => Ok(()),
                (None, Some((handle, address))) => space.update(handle, GuestAddress(address), false),
                (Some(address), Some((handle, _))) => {
                    mapping.region = Some((handle, address));
                    space.update(handle, GuestAddress(address), true)
                }
                (Some(address), None) => {
                    let backing = mapping.window.backing.clone();
                    space.map(GuestAddress(address), len, priority, backing).map(|handle| {
                        mapping.region = Some((handle, address));
                    })
                }
            };
            if done.is_err()
                && let Some((handle, address)) = mapping.region
            {
                let _still_unmapped = space.update(handle, GuestAddress(address), false);
            }
        }
    }

    fn write(&self, offset: u8, size: AccessSize, value: u32) {
        // Held over both steps, so that two writes do not map in another order than they wrote.
        let mut mappings = self.mappings();
        self.endpoint.write(offset, size, value);
        self.remap(&mut mappings);
    }

    fn unmap(&self) {
        for mapping in self.mappings().iter_mut() {
            if let Some((handle, _)) = mapping.region.take() {
                let _was_mapped = self.space(mapping.window.space).unmap(handle);
            }
        }
    }
}

/// Reset and migration reach a function through its slot, so that its windows follow.
impl Lifecycle for Slot {
    fn reset(&self, kind: ResetKind) {
        let mut mappings = self.mappings();
        self.endpoint.lifecycle().reset(kind);
        self.remap(&mut mappings);
    }

    fn visit_state(&self, visit: &mut dyn FnMut(DeviceState<'_>)) {
        self.endpoint.lifecycle().visit_state(visit);
    }

    fn restored(&self) {
        let mut mappings = self.mappings();
        self.endpoint.lifecycle().restored();
        self.remap(&mut mappings);
    }

    fn watch(&self) -> Option<Weak<dyn Any + Send + Sync>> {
        self.endpoint.lifecycle().watch()
    }
}

/// Which interrupt input a slot's pin leads to: (slot, pin from 0) → input.
pub type PinSwizzle = fn(u8, u8) -> usize;

/// The wiring of a 440FX machine: the inputs rotate by slot, and slot 1 begins with the first.
pub fn i440fx_swizzle(slot: u8, pin: u8) -> usize {
    usize::from(slot.wrapping_add(pin).wrapping_sub(1) & 3)
}

/// What a function is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The name of its type.
    pub type_name: String,
    /// The user's id.
    pub id: Option<String>,
}

impl Label {
    /// A function of the board.
    pub fn of_board(type_name: &str) -> Self {
        Self { type_name: type_name.to_owned(), id: None }
    }
}

/// How functions come to and leave a bus of a running machine.
#[derive(Clone, Default)]
pub enum Hotplug {
    /// Not at all.
    #[default]
    None,
    /// By ACPI code, which knows the bus by this selector.
    Acpi(u32),
    /// By the slot of the port above it.
    Native(DeviceCell<RootPort>),
}

/// Why a function can't be attached.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AttachError {
    /// Another one is there.
    #[error(
        "PCI: slot {} function {} not available for {wanted}, in use by {},id={}",
        .address.slot(), .address.function(), .user.type_name, .user.id.as_deref().unwrap_or("(null)")
    )]
    Occupied {
        /// The place.
        address: Address,
        /// The type of the function that was to be attached.
        wanted: String,
        /// Who is there.
        user: Label,
    },
    /// Functions of a slot that need a first function that says that there are several.
    #[error("PCI: single function device can't be populated in function {:x}.{:x}", .0.slot(), .0.function())]
    SingleFunction(Address),
    /// A first function that does not say that there are others.
    #[error(
        "PCI: {:x}.{:x} indicates single function, but {:x}.{:x} is already populated.",
        .first.slot(), .first.function(), .other.slot(), .other.function()
    )]
    Alone {
        /// The first function.
        first: Address,
        /// One that is there.
        other: Address,
    },
    /// No slot is free.
    #[error("PCI: no slot/function available for {0}, all in use or reserved")]
    Full(String),
    /// A function of a slot that the guest looks at no more: it has seen its first function.
    #[error(
        "PCI: slot {} function 0 already occupied by {user}, new func {wanted} cannot be exposed to guest.",
        .address.slot()
    )]
    Exposed {
        /// The place.
        address: Address,
        /// The type of the function that was to be attached.
        wanted: String,
        /// The type of the first function.
        user: String,
    },
}

/// A bus.
pub struct PciBus {
    /// How option paths name it: `pci.0`, `pcie.0`, or the id of its bridge.
    name: String,
    /// Its Open Firmware path.
    path: String,
    memory: Arc<AddressSpace>,
    ports: Arc<AddressSpace>,
    inputs: Vec<IrqInput>,
    swizzle: PinSwizzle,
    messages: Arc<dyn MsiSink>,
    slots: Mutex<BTreeMap<Address, Arc<Slot>>>,
    hotplug: Mutex<Hotplug>,
}

impl PciBus {
    /// An empty root bus. Windows are mapped into `memory` and `ports`; interrupt pins lead to `inputs`, messages to
    /// `messages`.
    pub fn new(
        name: &str,
        (memory, ports): (Arc<AddressSpace>, Arc<AddressSpace>),
        inputs: Vec<IrqInput>,
        swizzle: PinSwizzle,
        messages: Arc<dyn MsiSink>,
    ) -> Arc<Self> {
        const ROOT_PATH: &str = "/pci@i0cf8";
        Arc::new(Self::build((name, ROOT_PATH.to_owned()), (memory, ports), inputs, swizzle, messages))
    }

    fn build(
        (name, path): (&str, String),
        (memory, ports): (Arc<AddressSpace>, Arc<AddressSpace>),
        inputs: Vec<IrqInput>,
        swizzle: PinSwizzle,
        messages: Arc<dyn MsiSink>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            path,
            memory,
            ports,
            inputs,
            swizzle,
            messages,
            slots: Mutex::default(),
            hotplug: Mutex::default(),
        }
    }

    /// The bus behind a bridge at `address` of this one. Its pins lead to those of the bridge, rotating by slot.
    pub fn behind(&self, address: Address, name: &str) -> Arc<Self> {
        let inputs = (0..4).filter_map(|pin| self.input(address, pin).cloned()).collect();
        let spaces = (Arc::clone(&self.memory), Arc::clone(&self.ports));
        let path = format!("{}/pci-bridge@{}", self.path, address.open_firmware());
        let swizzle: PinSwizzle = |slot, pin| usize::from(slot.wrapping_add(pin) & 3);
        Arc::new(Self::build((name, path), spaces, inputs, swizzle, self.messages()))
    }

    /// How functions come and leave while the machine runs.
    pub fn hotplug(&self) -> Hotplug {
        self.hotplug.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says how functions come and leave while the machine runs.
    pub fn set_hotplug(&self, hotplug: Hotplug) {
        *self.hotplug.lock().unwrap_or_else(PoisonError::into_inner) = hotplug;
    }

    /// The buses behind its bridges, and where the bridges are.
    pub fn children(&self) -> Vec<(Address, Arc<PciBus>)> {
        let slots = self.slots();
        slots.iter().filter_map(|(at, slot)| Some((*at, Arc::clone(slot.secondary.as_ref()?)))).collect()
    }

    /// Its Open Firmware path.
    pub fn open_firmware(&self) -> &str {
        &self.path
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bus of this name, here or behind bridges.
    pub fn by_name(self: &Arc<Self>, name: &str) -> Option<Arc<PciBus>> {
        if self.name == name {
            return Some(Arc::clone(self));
        }
        let behind: Vec<_> = self.slots().values().filter_map(|slot| slot.secondary.clone()).collect();
        behind.iter().find_map(|bus| bus.by_name(name))
    }

    /// The bus that has the number `number` now, if this is bus 0: firmware numbers the buses behind bridges.
    pub fn bus_with_number(self: &Arc<Self>, number: u8) -> Option<Arc<PciBus>> {
        if number == 0 {
            return Some(Arc::clone(self));
        }
        let bridges: Vec<_> = self.bridges();
        bridges.into_iter().find_map(|(secondary, subordinate, bus)| match number {
            _ if secondary == 0 => None,
            _ if number == secondary => Some(bus),
            _ if (secondary..=subordinate).contains(&number) => bus.bus_behind(number),
            _ => None,
        })
    }

    fn bus_behind(&self, number: u8) -> Option<Arc<PciBus>> {
        self.bridges().into_iter().find_map(|(secondary, subordinate, bus)| match number {
            _ if secondary != 0 && number == secondary => Some(bus),
            _ if (secondary..=subordinate).contains(&number) => bus.bus_behind(number),
            _ => None,
        })
    }

    /// Secondary and subordinate number of each bridge, and the bus behind it.
    fn bridges(&self) -> Vec<(u8, u8, Arc<PciBus>)> {
        let slots: Vec<_> = self.slots().values().filter(|slot| slot.secondary.is_some()).cloned().collect();
        let mut bridges = Vec::with_capacity(slots.len());
        for slot in slots {
            let Some(bus) = &slot.secondary else { continue };
            slot.endpoint.with_config(&mut |config| {
                let numbers = (config.u8(bridge_reg::SECONDARY), config.u8(bridge_reg::SUBORDINATE));
                bridges.push((numbers.0, numbers.1, Arc::clone(bus)));
            });
        }
        bridges
    }

    fn input(&self, address: Address, pin: u8) -> Option<&IrqInput> {
        self.inputs.get((self.swizzle)(address.slot(), pin))
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<Address, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, address: Address) -> Option<Arc<Slot>> {
        self.slots().get(&address).cloned()
    }

    /// A line on pin `pin` (0 is INTA) of the slot of `address`.
    pub fn intx(&self, address: Address, pin: u8) -> IrqLine {
        self.input(address, pin).map_or_else(IrqLine::unconnected, IrqInput::line)
    }

    /// Where message-signalled interrupts go.
    pub fn messages(&self) -> Arc<dyn MsiSink> {
        Arc::clone(&self.messages)
    }

    /// Whether a function could be attached at `address`.
    ///
    /// # Errors
    /// [`AttachError::Occupied`].
    pub fn check_free(&self, address: Address, wanted: &str) -> Result<(), AttachError> {
        match self.slots().get(&address) {
            None => Ok(()),
            Some(slot) => Err(AttachError::Occupied { address, wanted: wanted.to_owned(), user: slot.label.clone() }),
        }
    }

    /// The lowest slot without any function.
    ///
    /// # Errors
    /// [`AttachError::Full`].
    pub fn first_free(&self, wanted: &str) -> Result<Address, AttachError> {
        let slot = self.free_slot().ok_or_else(|| AttachError::Full(wanted.to_owned()))?;
        Ok(Address::new(slot, 0))
    }

    /// Attaches a function with its windows, and returns what the machine's reset and migration call in place of the
    /// function's own cell.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach<F: PciFunction>(
        &self,
        address: Address,
        label: Label,
        function: DeviceCell<F>,
        windows: Vec<Window>,
    ) -> Result<Arc<dyn Lifecycle>, AttachError> {
        self.attach_any(address, label, function, (windows, None))
    }

    /// Gives a function an expansion ROM, before the machine starts. `false`: there is no function, or it has one.
    pub fn add_rom(&self, address: Address, rom: &ExpansionRom) -> bool {
        let slot = self.slots().get(&address).cloned();
        let Some(slot) = slot.filter(|slot| slot.endpoint.declare_rom(rom)) else { return false };
        slot.mappings().push(Mapping { window: rom.window(), region: None });
        true
    }

    /// Attaches a bridge with the bus behind it, see [`PciBus::attach`].
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach_bridge<F: PciFunction>(
        &self,
        address: Address,
        label: Label,
        bridge: DeviceCell<F>,
        (windows, secondary): (Vec<Window>, &Arc<PciBus>),
    ) -> Result<Arc<dyn Lifecycle>, AttachError> {
        self.attach_any(address, label, bridge, (windows, Some(Arc::clone(secondary))))
    }

    fn attach_any<F: PciFunction>(
        &self,
        address: Address,
        label: Label,
        function: DeviceCell<F>,
        (windows, secondary): (Vec<Window>, Option<Arc<PciBus>>),
    ) -> Result<Arc<dyn Lifecycle>, AttachError> {
        let mappings = windows.into_iter().map(|window| Mapping { window, region: None }).collect();
        self.check_functions(address, &function)?;
        let is_express = function.lock().config().is_extended();
        let slot = Arc::new(Slot {
            is_express,
            label,
            endpoint: Box::new(function),
            mappings: Mutex::new(mappings),
            memory: Arc::clone(&self.memory),
            ports: Arc::clone(&self.ports),
            secondary,
        });
        let mut slots = self.slots();
        if let Some(user) = slots.get(&address) {
            let (wanted, user) = (slot.label.type_name.clone(), user.label.clone());
            return Err(AttachError::Occupied { address, wanted, user });
        }
        slots.insert(address, Arc::clone(&slot));
        drop(slots);
        slot.remap(&mut slot.mappings());
        Ok(slot)
    }

    /// A function but the first needs a first one that says that there are several, if there is one; and a first one
    /// that does not say so is alone.
    fn check_functions<F: PciFunction>(&self, address: Address, function: &DeviceCell<F>) -> Result<(), AttachError> {
        let is_single = |config: &ConfigSpace| config.u8(reg::HEADER_TYPE) & 0x80 == 0;
        if address.function() != 0 {
            let first = self.slot(Address::new(address.slot(), 0));
            let mut refused = false;
            if let Some(first) = first {
                first.endpoint.with_config(&mut |config| refused = is_single(config));
            }
            return if refused { Err(AttachError::SingleFunction(address)) } else { Ok(()) };
        }
        let other = self.slots().keys().copied().find(|other| other.slot() == address.slot() && *other != address);
        match other.filter(|_| is_single(function.lock().config())) {
            Some(other) => Err(AttachError::Alone { first: address, other }),
            None => Ok(()),
        }
    }

    /// Detaches a function; its windows are gone when this returns. Returns whether there was one.
    pub fn detach(&self, address: Address) -> bool {
        let slot = self.slots().remove(&address);
        if let Some(slot) = &slot {
            slot.unmap();
        }
        slot.is_some()
    }

    /// Whether the function at `address` is the one that [`PciBus::attach`] returned this for.
    pub fn is_attached(&self, address: Address, function: &Arc<dyn Lifecycle>) -> bool {
        let there = self.slot(address);
        there.is_some_and(|slot| std::ptr::addr_eq(Arc::as_ptr(&slot), Arc::as_ptr(function)))
    }

    /// What there is to say of the function at `address`.
    pub fn function(&self, address: Address) -> Option<FunctionInfo> {
        let slot = self.slot(address)?;
        let mut found = None;
        slot.endpoint.with_config(&mut |config| {
            let info = Self::describe((0, address), config, slot.secondary.as_ref());
            found = Some(FunctionInfo { id: slot.label.id.clone(), ..info });
        });
        found
    }

    /// Whether the function at `address` says that there are others in its slot.
    pub fn is_multifunction(&self, address: Address) -> bool {
        let mut says = false;
        if let Some(slot) = self.slot(address) {
            slot.endpoint.with_config(&mut |config| says = config.u8(reg::HEADER_TYPE) & 0x80 != 0);
        }
        says
    }

    /// Where there are functions.
    pub fn addresses(&self) -> Vec<Address> {
        self.slots().keys().copied().collect()
    }

    /// Detaches all functions of a slot; returns where they were.
    pub fn detach_slot(&self, slot: u8) -> Vec<Address> {
        let there: Vec<_> = self.slots().keys().copied().filter(|address| address.slot() == slot).collect();
        there.into_iter().filter(|address| self.detach(*address)).collect()
    }

    /// Whether a function could be attached at `address` while the machine runs.
    ///
    /// # Errors
    /// [`AttachError::Exposed`].
    pub fn check_exposed(&self, address: Address, wanted: &str) -> Result<(), AttachError> {
        let first = self.slot(Address::new(address.slot(), 0)).filter(|_| address.function() != 0);
        first.map_or(Ok(()), |first| {
            let (wanted, user) = (wanted.to_owned(), first.label.type_name.clone());
            Err(AttachError::Exposed { address, wanted, user })
        })
    }

    /// The lowest slot without any function.
    pub fn free_slot(&self) -> Option<u8> {
        let slots = self.slots();
        (0..32).find(|slot| !slots.keys().any(|address| address.slot() == *slot))
    }

    /// Whether there is a function at `address`.
    pub fn is_occupied(&self, address: Address) -> bool {
        self.slots().contains_key(&address)
    }

    /// Whether there is a function of PCI Express at `address`.
    pub fn is_express(&self, address: Address) -> bool {
        self.slots().get(&address).is_some_and(|slot| slot.is_express)
    }

    /// A read of configuration space; all ones where there is no function.
    pub fn read_config(&self, address: Address, offset: u8, size: AccessSize) -> u32 {
        self.slot(address).map_or(size.mask() as u32, |slot| slot.endpoint.read(offset, size))
    }

    /// A write of configuration space; windows that it moves are moved when this returns.
    pub fn write_config(&self, address: Address, offset: u8, size: AccessSize, value: u32) {
        if let Some(slot) = self.slot(address) {
            slot.write(offset, size, value);
        }
    }

    /// A read of what is behind the first 256 bytes of configuration space; all ones where there is nothing.
    pub fn read_extended(&self, address: Address, offset: u16, size: AccessSize) -> u32 {
        self.slot(address).map_or(size.mask() as u32, |slot| slot.endpoint.read_extended(offset, size))
    }

    /// A write of what is behind the first 256 bytes of configuration space. No windows depend on it.
    pub fn write_extended(&self, address: Address, offset: u16, size: AccessSize, value: u32) {
        if let Some(slot) = self.slot(address) {
            slot.endpoint.write_extended(offset, size, value);
        }
    }

    /// All the functions, by slot and function; those behind a bridge are in its description.
    pub fn functions(&self) -> Vec<FunctionInfo> {
        self.functions_of(0)
    }

    pub(crate) fn functions_of(&self, number: u8) -> Vec<FunctionInfo> {
        let slots: Vec<_> = self.slots().iter().map(|(address, slot)| (*address, Arc::clone(slot))).collect();
        let mut functions = Vec::with_capacity(slots.len());
        for (address, slot) in slots {
            slot.endpoint.with_config(&mut |config| {
                let info = Self::describe((number, address), config, slot.secondary.as_ref());
                functions.push(FunctionInfo { id: slot.label.id.clone(), ..info });
            });
        }
        functions
    }

    fn describe(
        (number, address): (u8, Address),
        config: &ConfigSpace,
        secondary: Option<&Arc<PciBus>>,
    ) -> FunctionInfo {
        let bar = |index| {
            let bar = config.bar(index)?;
            Some(BarInfo { index, kind: bar.kind, address: config.bar_address(index), size: bar.size })
        };
        FunctionInfo {
            bus: number,
            id: None,
            address,
            class: config.u16(reg::CLASS),
            vendor: config.u16(reg::VENDOR),
            device: config.u16(reg::DEVICE),
            subsystem_vendor: config.u16(reg::SUBSYSTEM_VENDOR),
            subsystem: config.u16(reg::SUBSYSTEM),
            irq: config.u8(reg::INTERRUPT_LINE),
            irq_pin: config.u8(reg::INTERRUPT_PIN),
            bars: (0..=ROM_BAR).filter_map(bar).collect(),
            bridge: secondary.map(|bus| BridgeInfo::new(config, bus)),
        }
    }
}
