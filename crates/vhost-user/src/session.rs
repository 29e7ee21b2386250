//! A session: the requests of one front end, one after the other.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use aio::{EventCounter, JoinHandle, Stream};
use devices_virtio::device::Model;
use devices_virtio::queue::QueueError;
use rustix::io::{Errno, ReadWriteFlags};
use tokio::sync::Notify;

use crate::device::Device;
use crate::memory_table::{MAX_REGIONS, Table, TableError};
use crate::socket::{self, Message};
use crate::wire::{self, MAX_CONFIG, Region, Request, RingAddresses, RingFd, WireError, protocol};

/// The protocol features that are offered.
const OFFERED: u64 =
    protocol::MQ | protocol::REPLY_ACK | protocol::BACKEND_REQ | protocol::CONFIG | protocol::CONFIGURE_MEM_SLOTS;

/// A request that can't be done.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("there is no ring {0}")]
    Ring(u32),
    #[error("a ring can't have {0} entries")]
    Size(u32),
    #[error("a ring can't begin at {0}")]
    Base(u32),
    #[error("the ring runs")]
    Running,
    #[error("no region has the address {0:#x}")]
    Address(u64),
    #[error("features {0:#x} are not offered")]
    Features(u64),
    #[error("a descriptor that is no event counter, or none")]
    Descriptor,
    #[error("the configuration does not have these bytes")]
    Config,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What waits for the notifications of a ring.
struct Follower {
    stop: Arc<Notify>,
    task: JoinHandle<()>,
}

/// What was said of a ring.
#[derive(Default)]
struct Ring {
    addresses: Option<RingAddresses>,
    base: u16,
    follower: Option<Follower>,
}

struct Session<M: Model> {
    device: Arc<Device<M>>,
    table: Table,
    rings: Vec<Ring>,
    protocol: u64,
    /// Rings are enabled by a request of their own.
    enables: bool,
}

/// Serves a front end until it leaves, and forgets what it has set up, once nothing of it is in flight.
pub(crate) async fn run<M: Model>(device: Arc<Device<M>>, stream: Stream) {
    let table = Table::new(Arc::clone(device.space()));
    let rings = (0..device.with(|remote| remote.queues())).map(|_| Ring::default()).collect();
    let mut session = Session { device, table, rings, protocol: 0, enables: false };
    if let Err(error) = session.serve(&stream).await {
        tracing::debug!("a front end of vhost-user is disconnected: {error}");
    }
    session.end().await;
}

impl<M: Model> Session<M> {
    async fn serve(&mut self, stream: &Stream) -> Result<(), Refusal> {
        while let Some(message) = socket::read(stream).await? {
            let header = message.header;
            match self.answer(message).await {
                Ok(Some(payload)) => socket::send(stream, &header.reply(&payload)).await?,
                Ok(None) if self.acknowledges(&header) => {
                    socket::send(stream, &header.reply(&0_u64.to_le_bytes())).await?;
                }
                Ok(None) => {}
                Err(refusal) if self.acknowledges(&header) && !matches!(refusal, Refusal::Wire(_)) => {
                    tracing::debug!("a request of vhost-user is refused: {refusal}");
                    socket::send(stream, &header.reply(&1_u64.to_le_bytes())).await?;
                }
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(())
    }

    fn acknowledges(&self, header: &wire::Header) -> bool {
        self.protocol & protocol::REPLY_ACK != 0 && header.needs_reply()
    }

    /// Does a request: what is replied, if it has a reply of its own.
    async fn answer(&mut self, message: Message) -> Result<Option<Vec<u8>>, Refusal> {
        let Message { header, payload, mut fds } = message;
        let request = Request::parse(header.request, &payload, fds.len())?;
        let number = |number: u64| Ok(Some(number.to_le_bytes().to_vec()));
        match request {
            Request::GetFeatures => {
                return number(self.device.with(|remote| remote.offered()) | wire::PROTOCOL_FEATURES);
            }
            Request::SetFeatures(features) => self.set_features(features)?,
            Request::Owner => {}
            Request::SetMemTable(regions) => self.set_table(&regions, &fds)?,
            Request::AddMemRegion(region) => {
                let file = fds.pop().ok_or(Refusal::Descriptor)?;
                self.change_table(|table| table.add(region, &file))?;
            }
            Request::RemoveMemRegion(region) => self.change_table(|table| table.remove(region))?,
            Request::SetVringNum(ring, entries) => self.set_size(ring, entries)?,
            Request::SetVringAddr(ring, addresses) => self.set_addresses(ring, addresses)?,
            Request::SetVringBase(ring, base) => {
                let base = u16::try_from(base).map_err(|_| Refusal::Base(base))?;
                self.idle_ring(ring)?.base = base;
            }
            Request::GetVringBase(ring) => {
                let base = self.stop(ring).await?;
                return Ok(Some([ring.to_le_bytes(), u32::from(base).to_le_bytes()].concat()));
            }
            Request::SetVringFd { kind, ring, .. } => self.set_fd(kind, ring, fds.pop()).await?,
            Request::GetProtocolFeatures => return number(OFFERED),
            Request::SetProtocolFeatures(features) => {
                if features & !OFFERED != 0 {
                    return Err(Refusal::Features(features));
                }
                self.protocol = features;
            }
            Request::GetQueueNum => return number(self.rings.len() as u64),
            Request::SetVringEnable(ring, is_enabled) => {
                let index = self.index(ring)?;
                self.device.enable(index, is_enabled);
            }
            Request::SetBackendRequestFd => {
                let channel = Stream::new(fds.pop().ok_or(Refusal::Descriptor)?)?;
                self.device.set_channel(Some(channel));
            }
            // No bytes say that there are none.
            Request::GetConfig { offset, len, flags } => {
                return Ok(Some(self.config(offset, len, flags).unwrap_or_default()));
            }
            Request::SetConfig(offset, bytes) => {
                let offset =
                    usize::try_from(offset).ok().filter(|offset| offset.saturating_add(bytes.len()) <= MAX_CONFIG);
                let offset = offset.ok_or(Refusal::Config)?;
                self.device.with(|remote| remote.write_config(offset, &bytes));
            }
            Request::GetMaxMemSlots => return number(MAX_REGIONS as u64),
        }
        Ok(None)
    }

    fn index(&self, ring: u32) -> Result<usize, Refusal> {
        usize::try_from(ring).ok().filter(|index| *index < self.rings.len()).ok_or(Refusal::Ring(ring))
    }

    /// A ring that does not run.
    fn idle_ring(&mut self, ring: u32) -> Result<&mut Ring, Refusal> {
        let index = self.index(ring)?;
        match self.rings.get_mut(index) {
            Some(known) if known.follower.is_none() => Ok(known),
            _ => Err(Refusal::Running),
        }
    }

    fn set_features(&mut self, features: u64) -> Result<(), Refusal> {
        let (own, enables) = (features & !wire::PROTOCOL_FEATURES, features & wire::PROTOCOL_FEATURES != 0);
        self.enables = enables;
        self.device.with(|remote| {
            if own & !remote.offered() != 0 {
                return Err(Refusal::Features(features));
            }
            remote.accept(own);
            Ok(())
        })?;
        if !enables {
            // Rings work as soon as they run.
            (0..self.rings.len()).for_each(|index| self.device.enable(index, true));
        }
        Ok(())
    }

    fn set_table(&mut self, regions: &[Region], files: &[OwnedFd]) -> Result<(), Refusal> {
        self.change_table(|table| {
            table.clear();
            regions.iter().zip(files).try_for_each(|(region, file)| table.add(*region, file))
        })
    }

    /// Changes the regions while no ring is served; rings move with their regions.
    fn change_table(&mut self, change: impl FnOnce(&mut Table) -> Result<(), TableError>) -> Result<(), Refusal> {
        let Self { device, table, rings, .. } = self;
        device.with(|remote| {
            let changed = change(table);
            for (index, ring) in rings.iter().enumerate() {
                if let (Some(addresses), Some(queue)) = (ring.addresses, remote.queue(index)) {
                    // What is nowhere any more is found out when the ring is looked at.
                    let place = |user| table.guest_address(user).unwrap_or(u64::MAX);
                    let RingAddresses { descriptors, used, available } = addresses;
                    let [descriptors, used, available] = [descriptors, used, available].map(place);
                    queue.set_areas(|state| {
                        (state.descriptors, state.device, state.driver) = (descriptors, used, available);
                    });
                }
            }
            Ok(changed?)
        })
    }

    fn set_size(&mut self, ring: u32, entries: u32) -> Result<(), Refusal> {
        self.idle_ring(ring)?;
        let index = self.index(ring)?;
        self.device.with(|remote| {
            let queue = remote.queue(index).ok_or(Refusal::Ring(ring))?;
            let size = u16::try_from(entries).ok();
            let size = size.filter(|size| size.is_power_of_two() && *size <= queue.max_size());
            queue.set_size(size.ok_or(Refusal::Size(entries))?);
            Ok(())
        })
    }

    fn set_addresses(&mut self, ring: u32, addresses: RingAddresses) -> Result<(), Refusal> {
        let index = self.index(ring)?;
        for user in [addresses.descriptors, addresses.used, addresses.available] {
            self.table.guest_address(user).ok_or(Refusal::Address(user))?;
        }
        if let Some(known) = self.rings.get_mut(index) {
            known.addresses = Some(addresses);
        }
        self.change_table(|_| Ok(()))
    }

    async fn set_fd(&mut self, kind: RingFd, ring: u32, fd: Option<OwnedFd>) -> Result<(), Refusal> {
        let index = self.index(ring)?;
        if fd.as_ref().is_some_and(|fd| !socket::is_eventfd(fd)) {
            return Err(Refusal::Descriptor);
        }
        let counter = |fd: Option<OwnedFd>| fd.map(EventCounter::new).transpose();
        match kind {
            RingFd::Call => self.device.set_call(index, counter(fd)?),
            RingFd::Error => self.device.set_error(index, counter(fd)?),
            RingFd::Kick => {
                let kick = Stream::new(fd.ok_or(Refusal::Descriptor)?)?;
                self.start(index, kick).await?;
            }
        }
        Ok(())
    }

    /// A ring runs from its notifications' descriptor on.
    async fn start(&mut self, index: usize, kick: Stream) -> Result<(), Refusal> {
        let Some(ring) = self.rings.get_mut(index) else { return Ok(()) };
        if ring.addresses.is_none() {
            return Err(Refusal::Address(0));
        }
        let was_running = match ring.follower.take() {
            Some(follower) => {
                follower.end().await;
                true
            }
            None => false,
        };
        if !was_running {
            if !self.enables {
                self.device.enable(index, true);
            }
            self.device.start(index, ring.base)?;
        }
        let stop = Arc::new(Notify::new());
        let task = aio::spawn(follow(Arc::clone(&self.device), index, kick, Arc::clone(&stop)));
        ring.follower = Some(Follower { stop, task });
        Ok(())
    }

    /// A ring is given back when nothing of it is in flight: where it stopped.
    async fn stop(&mut self, ring: u32) -> Result<u16, Refusal> {
        let index = self.index(ring)?;
        let Some(known) = self.rings.get_mut(index) else { return Err(Refusal::Ring(ring)) };
        if let Some(follower) = known.follower.take() {
            self.device.halt(index);
            follower.end().await;
            self.device.wait_idle(Some(index)).await;
            known.base = self.device.stop(index);
        }
        Ok(known.base)
    }

    fn config(&self, offset: u32, len: u32, flags: u32) -> Option<Vec<u8>> {
        let (from, count) = (offset as usize, len as usize);
        if from.saturating_add(count) > MAX_CONFIG {
            return None;
        }
        let mut bytes = self.device.with(|remote| remote.config());
        bytes.resize(MAX_CONFIG, 0);
        let mut payload: Vec<u8> = [offset, len, flags].into_iter().flat_map(u32::to_le_bytes).collect();
        payload.extend(bytes.into_iter().skip(from).take(count));
        Some(payload)
    }

    async fn end(mut self) {
        for index in 0..self.rings.len() {
            self.device.halt(index);
            let follower = self.rings.get_mut(index).and_then(|ring| ring.follower.take());
            if let Some(follower) = follower {
                follower.end().await;
            }
        }
        // The next front end finds all that this one has written.
        self.device.wait_idle(None).await;
        self.device.reset();
        self.table.clear();
    }
}

impl Follower {
    async fn end(self) {
        self.stop.notify_one();
        self.task.await;
    }
}

/// Serves a ring when it is notified.
async fn follow<M: Model>(device: Arc<Device<M>>, index: usize, kick: Stream, stop: Arc<Notify>) {
    loop {
        let ready = tokio::select! {
            biased;
            () = stop.notified() => return,
            ready = kick.readable() => ready,
        };
        if ready.is_err() {
            return;
        }
        match take_events(&kick) {
            Ok(()) => device.notify(index),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => {
                tracing::debug!("the notifications of a ring can't be read: {error}");
                return stop.notified().await;
            }
        }
    }
}

/// Takes all events from a counter, without waiting even if its owner says that reads are to wait.
fn take_events(kick: &Stream) -> Result<(), Errno> {
    let mut bytes = [0; 8];
    // The position says: none, as `read`.
    let parts = &mut [io::IoSliceMut::new(&mut bytes)];
    rustix::io::preadv2(kick.fd(), parts, u64::MAX, ReadWriteFlags::NOWAIT).map(drop)
}
