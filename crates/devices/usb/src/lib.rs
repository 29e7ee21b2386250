//! USB: devices, hubs, and the host controllers in front of them.
//!
//! A device is a [`device::UsbDevice`] in a cell of its own: the core answers standard requests from declared
//! descriptors ([`descriptor`]), a [`device::Function`] does the rest. A host controller ([`uhci`], [`ehci`], [`xhci`]) has [`bus::Link`]s to
//! the devices on its ports and asks them, one transaction at a time; hubs have links to those behind them.
//!
//! A transaction is done at once or not at all: a device that has no data, or no room, answers NAK and keeps nothing of
//! the transaction. When it has news it calls [`bus::Upstream::wake`], and the controller tries again what it still has
//! on its lists. So there is nothing in flight inside of a device, and a controller that is reset or a driver that takes
//! a transfer off a list need not cancel anything.
//!
//! Lock order: host controller (EHCI before its companions) → hub → device behind it → back ends. A device wakes its
//! controller without its own lock.

#![forbid(unsafe_code)]

pub mod bus;
mod controller;
pub mod data;
pub mod descriptor;
pub mod device;
pub mod ehci;
pub mod hid;
pub mod hub;
pub mod storage;
#[cfg(test)]
mod testing;
pub mod uas;
pub mod uhci;
pub mod xhci;
