//! What controllers, hubs and devices see of each other.

use std::sync::{Arc, Weak};

use crate::data::Data;

/// The speed of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Speed {
    /// 1.5 Mbit/s.
    Low,
    /// 12 Mbit/s.
    Full,
    /// 480 Mbit/s.
    High,
    /// 5 Gbit/s.
    Super,
}

impl Speed {
    /// All the speeds, slow ones first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Full, Self::High, Self::Super];

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Full => "full",
            Self::High => "high",
            Self::Super => "super",
        }
    }
}

/// A set of speeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Speeds(u8);

impl Speeds {
    /// What USB 1.1 has.
    pub const CLASSIC: Self = Self::of(Speed::Low).with(Speed::Full);
    /// What USB 2.0 has.
    pub const USB2: Self = Self::CLASSIC.with(Speed::High);

    /// One speed.
    pub const fn of(speed: Speed) -> Self {
        Self(1 << speed as u8)
    }

    /// The same and one more.
    #[must_use]
    pub const fn with(self, speed: Speed) -> Self {
        Self(self.0 | 1 << speed as u8)
    }

    /// Those of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the speed is one of these.
    pub fn has(self, speed: Speed) -> bool {
        self.0 & 1 << speed as u8 != 0
    }

    /// The fastest that both have.
    pub fn fastest_common(self, other: Self) -> Option<Speed> {
        Speed::ALL.into_iter().rev().find(|speed| self.has(*speed) && other.has(*speed))
    }

    /// The names, joined by `+`, as QEMU's messages have them.
    pub fn names(self) -> String {
        let names: Vec<&str> = Speed::ALL.into_iter().filter(|speed| self.has(*speed)).map(Speed::name).collect();
        names.join("+")
    }
}

/// What a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A control transfer begins.
    Setup,
    /// From the device.
    In,
    /// To the device.
    Out,
}

/// Where a transaction goes: an endpoint, and a stream of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pipe {
    /// The number of the endpoint, without its direction.
    pub endpoint: u8,
    /// The stream (USB 3.0, 8.12.1.4); 0 where the endpoint is used without them.
    pub stream: u16,
}

impl From<u8> for Pipe {
    fn from(endpoint: u8) -> Self {
        Self { endpoint, stream: 0 }
    }
}

/// How a transaction, or a series of them for one buffer, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// So many bytes were moved.
    Done(usize),
    /// Nothing was moved: try again, at the latest when the device wakes the controller.
    Nak,
    /// The endpoint is halted, or does not know the request.
    Stall,
    /// The device would send more than the buffer takes.
    Babble,
}

/// A controller or hub, as what is on its ports sees it.
pub trait Host: Send + Sync {
    /// The device on `port`, or one behind it, has news: transactions that it answered with NAK may be tried again. With
    /// `is_remote` a suspended port wakes up, too. The caller holds no lock.
    fn wake(&self, port: usize, is_remote: bool);
}

/// Where a device is plugged in.
#[derive(Clone)]
pub struct Upstream {
    host: Weak<dyn Host>,
    port: usize,
}

impl Upstream {
    /// The port `port` of `host`.
    pub fn new(host: Weak<dyn Host>, port: usize) -> Self {
        Self { host, port }
    }

    /// See [`Host::wake`].
    pub fn wake(&self, is_remote: bool) {
        if let Some(host) = self.host.upgrade() {
            host.wake(self.port, is_remote);
        }
    }
}

/// A device on a port, as its controller or hub sees it.
pub trait Peripheral: Send + Sync {
    /// The speeds that it can have.
    fn speeds(&self) -> Speeds;

    /// It is connected to a port at this speed: it is powered and has no address.
    fn attach(&self, upstream: Upstream, speed: Speed);

    /// The same after a restore: the device is as it is.
    fn rewire(&self, upstream: Upstream, speed: Speed);

    /// It is disconnected.
    fn detach(&self);

    /// The speed at which it is connected.
    fn speed(&self) -> Speed;

    /// The port resets it: it has no address and no configuration.
    fn reset(&self);

    /// The address that the driver has given it; 0 before that.
    fn address(&self) -> u8;

    /// Does a transaction, or a series of them that fill or empty `data`.
    fn transfer(&self, token: Token, pipe: Pipe, data: &mut dyn Data) -> Outcome;

    /// The device on port `port` of this hub, from 1, if that port is enabled.
    fn child(&self, port: usize) -> Option<Link>;

    /// The device with an address, behind enabled ports of this hub.
    fn find_below(&self, address: u8) -> Option<Link>;
}

/// A device. Clones are the same device.
pub type Link = Arc<dyn Peripheral>;

/// The device with that address: `link`, or one behind it.
pub fn find(link: &Link, address: u8) -> Option<Link> {
    if link.address() == address { Some(Arc::clone(link)) } else { link.find_below(address) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fastest_speed_that_both_ends_have_is_chosen() {
        let device = Speeds::of(Speed::Full).with(Speed::High);
        assert_eq!(device.fastest_common(Speeds::USB2), Some(Speed::High));
        assert_eq!(device.fastest_common(Speeds::CLASSIC), Some(Speed::Full));
        assert_eq!(device.fastest_common(Speeds::of(Speed::Super)), None);
        assert_eq!(Speeds::CLASSIC.and(device).names(), "low+full+high");
    }
}
