//! The front end's memory: its regions, mapped where the guest has them.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use memory::{AddressSpace, Backing, GuestAddress, RamBlock, RamError, RegionHandle};

use crate::wire::Region;

/// How many regions there may be.
pub(crate) const MAX_REGIONS: usize = 64;

/// Why a region can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    #[error("there are {MAX_REGIONS} regions already")]
    Full,
    #[error("the region at guest address {0:#x} of {1:#x} bytes wraps around or overlaps another")]
    Overlap(u64, u64),
    #[error("there is no region at guest address {0:#x}")]
    Unknown(u64),
    #[error(transparent)]
    Ram(#[from] RamError),
    #[error(transparent)]
    Map(#[from] memory::MapError),
}

/// The regions that are mapped.
pub(crate) struct Table {
    space: Arc<AddressSpace>,
    regions: Vec<(Region, RegionHandle)>,
}

/// Whether two ranges have an address in common. Neither wraps around.
fn overlap((a, a_len): (u64, u64), (b, b_len): (u64, u64)) -> bool {
    a < b + b_len && b < a + a_len
}

impl Table {
    pub fn new(space: Arc<AddressSpace>) -> Self {
        Self { space, regions: Vec::new() }
    }

    /// Maps one more region.
    pub fn add(&mut self, region: Region, file: &OwnedFd) -> Result<(), TableError> {
        if self.regions.len() >= MAX_REGIONS {
            return Err(TableError::Full);
        }
        let Region { guest, size, user, offset } = region;
        let fits = guest.checked_add(size).is_some() && user.checked_add(size).is_some();
        let meets = |(known, _): &(Region, RegionHandle)| {
            overlap((known.guest, known.size), (guest, size)) || overlap((known.user, known.size), (user, size))
        };
        if !fits || self.regions.iter().any(meets) {
            return Err(TableError::Overlap(guest, size));
        }
        let block = Arc::new(RamBlock::of_file("vhost-user", file, offset, size)?);
        let backing = Backing::Ram { block, offset: 0, read_only: false };
        let handle = self.space.map(GuestAddress(guest), size, 0, backing)?;
        self.regions.push((region, handle));
        Ok(())
    }

    /// Takes a region away. What is in flight keeps its memory.
    pub fn remove(&mut self, region: Region) -> Result<(), TableError> {
        let is_it = |(known, _): &(Region, RegionHandle)| {
            (known.guest, known.size, known.user) == (region.guest, region.size, region.user)
        };
        let at = self.regions.iter().position(is_it).ok_or(TableError::Unknown(region.guest))?;
        let (_, handle) = self.regions.swap_remove(at);
        Ok(self.space.unmap(handle)?)
    }

    /// Takes all away.
    pub fn clear(&mut self) {
        for (_, handle) in self.regions.drain(..) {
            // Each was mapped once.
            let _known = self.space.unmap(handle);
        }
    }

    /// The guest's address for one of the front end's.
    pub fn guest_address(&self, user: u64) -> Option<u64> {
        self.regions.iter().find_map(|(region, _)| {
            let at = user.checked_sub(region.user)?;
            (at < region.size).then(|| region.guest + at)
        })
    }
}
