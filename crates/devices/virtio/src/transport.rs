//! What all transports have: the device behind the registers, its status, its reset, and what is saved.
//!
//! A reset by the driver is complete when no back end works on the device's requests any more. [`Waiting`] is for
//! interfaces whose drivers don't look: there the write that begins the reset takes as long, within bounds.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use device::{AccessSize, DeviceCell, Handle, IoDevice};
use memory::{Backing, Io};
use state::{Description, Field, LoadError, Reader, SavedState, Writer};

use crate::device::{Access, Common, Model, status};

/// Legacy queues have their used rings at pages (2.7.2), unless the driver may say otherwise.
const LEGACY_ALIGN: u32 = 4096;

/// The device, apart from the registers by which the driver reaches it.
pub struct Core<M: Model> {
    // Guest-visible state.
    /// What all types have.
    pub common: Common,
    /// The type's model.
    pub model: M,
    /// Derived: the status to show until a reset is complete.
    resetting: Option<u8>,
    /// Who waits for that.
    waiting: Vec<Sender<()>>,
}

impl<M: Model> Core<M> {
    /// A device that has not begun.
    pub fn new(model: M, common: Common) -> Self {
        Self { common, model, resetting: None, waiting: Vec::new() }
    }

    /// What the device offers.
    pub fn offered(&self) -> u64 {
        self.common.transport_features | self.model.features()
    }

    /// The status as the driver sees it.
    pub fn shown_status(&self) -> u8 {
        self.resetting.unwrap_or(self.common.state.status)
    }

    /// The driver goes on: a status other than 0.
    pub fn set_status(&mut self, value: u8) {
        let old = self.common.state.status;
        let mut new = value | (old & status::NEEDS_RESET);
        if new & !old & status::FEATURES_OK != 0 && self.common.state.bad_features {
            new &= !status::FEATURES_OK;
        }
        self.common.state.status = new;
        if new & !old & status::DRIVER_OK != 0 {
            self.model.started(&mut self.common);
            for queue in 0..self.common.queues.0.len() {
                self.model.notified(&mut self.common, queue);
            }
        }
    }

    /// A reset by the driver.
    pub fn reset(&mut self) {
        let shown = self.shown_status();
        self.common.reset();
        self.model.reset(&mut self.common);
        if self.common.outstanding(None) != 0 {
            self.resetting = Some(shown | status::ACKNOWLEDGE);
        }
    }

    /// Looks whether a reset is complete, after the model worked.
    pub fn settle(&mut self) {
        if self.resetting.is_some() && self.common.outstanding(None) == 0 {
            self.end_reset();
        }
    }

    /// A reset is complete, or nobody waits for that any more: a machine that starts anew does not wait for the driver of the
    /// old one.
    pub fn end_reset(&mut self) {
        self.resetting = None;
        for waiting in self.waiting.drain(..) {
            let _gone = waiting.send(());
        }
    }

    /// The driver offers buffers of a queue. Whether there is such a queue.
    pub fn notify(&mut self, queue: usize) -> bool {
        let exists = queue < self.common.queues.0.len();
        if exists {
            self.model.notified(&mut self.common, queue);
        }
        exists
    }

    /// The state was loaded.
    pub fn restored(&mut self) {
        self.end_reset();
        self.common.restored();
        self.model.restored(&mut self.common);
    }
}

/// A device with a core.
pub trait Transport: IoDevice {
    /// The type of the device.
    type Model: Model;

    /// The device behind the registers.
    fn core(&mut self) -> &mut Core<Self::Model>;

    /// Tells the driver what it has to know, after the model worked.
    fn settle(&mut self);

    /// The queue that registers of queues are of.
    fn queue_select(&self) -> u16;

    /// The driver has switched the device off.
    fn is_disabled(&self) -> bool {
        false
    }

    /// Where the device area of a queue begins, for drivers of the legacy interface.
    fn queue_align(&self, _queue: usize) -> u32 {
        LEGACY_ALIGN
    }
}

/// The way of a back end to a device behind a transport.
pub struct CellAccess<T>(pub Handle<T>);

impl<T: Transport> Access<T::Model> for CellAccess<T> {
    fn access(&self, visit: &mut dyn FnMut(&mut T::Model, &mut Common)) {
        self.0.with(|device| {
            let core = device.core();
            visit(&mut core.model, &mut core.common);
            device.settle();
        });
    }
}

/// A region in which a reset waits for back ends, without the device's lock.
struct Waiting<T> {
    cell: DeviceCell<T>,
    region: usize,
}

impl<T> Waiting<T> {
    /// How long a vCPU may stand there: a machine that stops because of an error can't complete the request.
    const PATIENCE: Duration = Duration::from_secs(1);
}

/// A region of a device, to be mapped, in which a reset waits for back ends.
pub fn waiting_region<T: Transport + 'static>(cell: &DeviceCell<T>, region: usize) -> Backing {
    Backing::Io(Arc::new(Waiting { cell: cell.clone(), region }))
}

impl<T: Transport> Io for Waiting<T> {
    fn read(&self, offset: u64, size: AccessSize) -> u64 {
        self.cell.lock().read(self.region, offset, size)
    }

    fn write(&self, offset: u64, size: AccessSize, value: u64) {
        let mut device = self.cell.lock();
        let was_resetting = device.core().resetting.is_some();
        device.write(self.region, offset, size, value);
        let core = device.core();
        if was_resetting || core.resetting.is_none() {
            return;
        }
        let (sender, receiver) = channel();
        core.waiting.push(sender);
        drop(device);
        let _patience_ended = receiver.recv_timeout(Self::PATIENCE);
    }
}

/// The guest-visible state of a transport alone.
pub trait Registers: Field {
    /// What the saved state of transport and device is called.
    const NAME: &'static str;
}

/// What is saved: the model's own state lies in the model.
pub struct TransportState<R, M: Model> {
    /// The transport's.
    pub registers: R,
    /// The device's.
    pub core: Core<M>,
}

impl<R: Registers, M: Model> SavedState for TransportState<R, M> {
    fn name(&self) -> &'static str {
        R::NAME
    }

    fn version(&self) -> u32 {
        1
    }

    fn describe(&self) -> Description {
        let mut fields = Vec::new();
        let Core { common, model, .. } = &self.core;
        self.registers.describe("registers", &mut fields);
        Field::describe(&common.state, "common", &mut fields);
        Field::describe(&common.queues, "queues", &mut fields);
        Field::describe(model.state(), "model", &mut fields);
        Description { name: self.name().to_owned(), version: self.version(), fields, subsections: Vec::new() }
    }

    fn save(&self, writer: &mut Writer) {
        self.registers.put(writer);
        self.core.common.state.put(writer);
        self.core.common.queues.put(writer);
        self.core.model.state().put(writer);
    }

    fn load(&mut self, reader: &mut Reader<'_>, version: u32) -> Result<(), LoadError> {
        if version != self.version() {
            let (name, current) = (self.name().to_owned(), self.version());
            return Err(state::LoadErrorKind::Version { name, version, minimum: current, current }.into());
        }
        let Core { common, model, .. } = &mut self.core;
        let registers = self.registers.take(reader).map_err(|error| error.within("registers"))?;
        let state = common.state.take(reader).map_err(|error| error.within("common"))?;
        let queues = common.queues.take(reader).map_err(|error| error.within("queues"))?;
        let of_model = model.state().take(reader).map_err(|error| error.within("model"))?;
        self.registers = registers;
        (common.state, common.queues) = (state, queues);
        *model.state_mut() = of_model;
        Ok(())
    }
}

/// Reads bytes of a configuration; all ones behind its end, as QEMU answers.
pub fn read_bytes(bytes: &[u8], offset: u64, size: AccessSize) -> u64 {
    let from = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)?.get(..size.bytes()));
    from.map_or(size.mask(), |from| from.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}
