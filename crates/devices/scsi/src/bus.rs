//! A SCSI bus: units by channel, target and LUN, and what targets answer (SAM-5, chapter 4).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sense::Sense;
use crate::unit::{Addressed, Countdown};
use crate::{Cancel, Command, CommandDone, Completion, LogicalUnit};

/// Where a unit is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScsiAddress {
    /// `channel`.
    pub channel: u16,
    /// `scsi-id`.
    pub target: u16,
    /// `lun`.
    pub lun: u16,
}

/// The highest numbers of a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusLimits {
    /// Highest channel.
    pub channel: u16,
    /// Highest target.
    pub target: u16,
    /// Highest LUN.
    pub lun: u16,
}

/// Why a unit does not fit. The texts are QEMU's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusError {
    /// The channel does not exist.
    Channel(u32),
    /// The target does not exist.
    Target(u32),
    /// The LUN does not exist.
    Lun(u32),
    /// Somebody has the place: the id of that device, or nothing.
    Taken(String),
    /// All targets are taken.
    NoTarget,
    /// All LUNs of the target are taken.
    NoLun,
}

impl std::fmt::Display for BusError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Channel(channel) => write!(f, "bad scsi channel id: {channel}"),
            Self::Target(target) => write!(f, "bad scsi device id: {target}"),
            Self::Lun(lun) => write!(f, "bad scsi device lun: {lun}"),
            Self::Taken(id) => write!(f, "lun already used by '{id}'"),
            Self::NoTarget => f.write_str("no free target"),
            Self::NoLun => f.write_str("no free lun"),
        }
    }
}

impl std::error::Error for BusError {}

struct Place {
    address: ScsiAddress,
    id: String,
    unit: LogicalUnit,
}

/// A bus. Host adapters ask it for units; whoever builds the machine connects them.
pub struct ScsiBus {
    limits: BusLimits,
    places: Mutex<Vec<Place>>,
}

/// What a command to an address leads to.
pub enum Submitted {
    /// It has ended.
    Ended(Completion),
    /// It will end.
    Started,
    /// There is no such target.
    NoTarget,
}

impl ScsiBus {
    /// An empty bus.
    pub fn new(limits: BusLimits) -> Arc<Self> {
        Arc::new(Self { limits, places: Mutex::default() })
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place that a new unit gets: what is not given is the first that is free.
    ///
    /// # Errors
    /// [`BusError`].
    pub fn place(&self, channel: u32, target: Option<u32>, lun: Option<u32>) -> Result<ScsiAddress, BusError> {
        let fit = |value: u32, max: u16| u16::try_from(value).ok().filter(|value| *value <= max);
        let channel = fit(channel, self.limits.channel).ok_or(BusError::Channel(channel))?;
        let target = target.map(|id| fit(id, self.limits.target).ok_or(BusError::Target(id))).transpose()?;
        let lun = lun.map(|lun| fit(lun, self.limits.lun).ok_or(BusError::Lun(lun))).transpose()?;
        let places = self.places();
        let owner = |address: ScsiAddress| places.iter().find(|place| place.address == address);
        match (target, lun) {
            (Some(target), Some(lun)) => {
                let address = ScsiAddress { channel, target, lun };
                owner(address).map_or(Ok(address), |place| Err(BusError::Taken(place.id.clone())))
            }
            (Some(target), None) => {
                let mut free = (0..=self.limits.lun).map(|lun| ScsiAddress { channel, target, lun });
                free.find(|address| owner(*address).is_none()).ok_or(BusError::NoLun)
            }
            (None, lun) => {
                let lun = lun.unwrap_or(0);
                let mut free = (0..=self.limits.target).map(|target| ScsiAddress { channel, target, lun });
                free.find(|address| owner(*address).is_none()).ok_or(BusError::NoTarget)
            }
        }
    }

    /// Connects a unit; `id` is its name in errors.
    ///
    /// # Errors
    /// [`BusError::Taken`].
    pub fn attach(&self, address: ScsiAddress, id: Option<&str>, unit: LogicalUnit) -> Result<(), BusError> {
        let mut places = self.places();
        if let Some(taken) = places.iter().find(|place| place.address == address) {
            return Err(BusError::Taken(taken.id.clone()));
        }
        places.push(Place { address, id: id.unwrap_or("(null)").to_owned(), unit });
        Ok(())
    }

    /// Takes a unit off the bus.
    pub fn detach(&self, address: ScsiAddress) -> Option<LogicalUnit> {
        let mut places = self.places();
        let index = places.iter().position(|place| place.address == address)?;
        Some(places.remove(index).unit)
    }

    /// The unit at exactly that address.
    pub fn unit(&self, address: ScsiAddress) -> Option<LogicalUnit> {
        self.places().iter().find(|place| place.address == address).map(|place| place.unit.clone())
    }

    /// The unit that answers for an address: that of the LUN, or any of the target.
    pub fn responder(&self, address: ScsiAddress) -> Option<(LogicalUnit, bool)> {
        let places = self.places();
        let exact = places.iter().find(|place| place.address == address);
        let place = exact.or_else(|| {
            let mut others = places.iter().rev();
            others.find(|place| (place.address.channel, place.address.target) == (address.channel, address.target))
        })?;
        Some((place.unit.clone(), place.address == address))
    }

    /// The LUNs of a target, in the order in which they came.
    pub fn luns(&self, address: ScsiAddress) -> Vec<u16> {
        let places = self.places();
        let here = places
            .iter()
            .filter(|place| (place.address.channel, place.address.target) == (address.channel, address.target));
        here.map(|place| place.address.lun).collect()
    }

    /// All units with their addresses.
    pub fn units(&self) -> Vec<(ScsiAddress, LogicalUnit)> {
        self.places().iter().map(|place| (place.address, place.unit.clone())).collect()
    }

    /// Starts a command, see [`LogicalUnit::submit`].
    pub fn submit(&self, address: ScsiAddress, command: Command, done: CommandDone) -> Submitted {
        let Some((unit, is_there)) = self.responder(address) else { return Submitted::NoTarget };
        let luns = self.luns(address);
        match unit.submit_as(Addressed { is_there, lun: address.lun, luns: &luns }, command, done) {
            Some(completion) => Submitted::Ended(completion),
            None => Submitted::Started,
        }
    }

    /// A unit attention condition for all units.
    pub fn raise_attention(&self, attention: Sense) {
        for (_, unit) in self.units() {
            unit.raise_attention(attention);
        }
    }

    /// Resets the units that `select` accepts. `true`: commands in flight have to end, and `done` is called afterwards.
    pub fn reset(&self, select: impl Fn(ScsiAddress) -> bool, done: impl FnOnce() + Send + 'static) -> bool {
        let units: Vec<_> = self.units().into_iter().filter(|(address, _)| select(*address)).collect();
        // One more, so that `done` is not called by a unit that is fast.
        let countdown = Countdown::new(units.len() + 1, Box::new(done));
        let mut waits = false;
        for (_, unit) in units {
            let one = Arc::clone(&countdown);
            if unit.reset_by_initiator(move || one.one()) {
                waits = true;
            } else {
                countdown.one();
            }
        }
        if waits {
            countdown.one();
        }
        waits
    }

    /// Cancels all commands of all units: the initiator has forgotten them.
    pub fn cancel_all(&self, cause: Cancel) {
        for (_, unit) in self.units() {
            unit.cancel(|_| true, cause, || ());
        }
    }
}
