//! Limits of throughput: of back ends, and of groups that are objects.

use std::sync::Arc;

use block::Backend;
use block::throttle::{Bucket, Group, Limits, Rate};
use qapi::block::throttle::{BlockSetIoThrottle, ThrottleGroupProperties};
use qapi::{Error, Members};

use super::{Storage, client_error};

const NO_NEGATIVES: &str = "bps/iops/max values must be within [0, 1000000000000000]";

fn unsigned(value: Option<i64>) -> Result<Option<u64>, Error> {
    value.map(|value| u64::try_from(value).map_err(|_| Error::generic(NO_NEGATIVES))).transpose()
}

/// The limits of `block_set_io_throttle`.
///
/// # Errors
/// A number is negative.
pub fn limits_of(command: &BlockSetIoThrottle) -> Result<Limits, Error> {
    let buckets = [
        (command.bps, command.bps_max, command.bps_max_length),
        (command.bps_rd, command.bps_rd_max, command.bps_rd_max_length),
        (command.bps_wr, command.bps_wr_max, command.bps_wr_max_length),
        (command.iops, command.iops_max, command.iops_max_length),
        (command.iops_rd, command.iops_rd_max, command.iops_rd_max_length),
        (command.iops_wr, command.iops_wr_max, command.iops_wr_max_length),
    ];
    let mut limits = Limits::default();
    for (bucket, (average, max, length)) in limits.buckets.iter_mut().zip(buckets) {
        *bucket = Rate {
            average: unsigned(Some(average))?.unwrap_or(0),
            max: unsigned(max)?.unwrap_or(0),
            burst_length: unsigned(length)?.unwrap_or(1),
        };
    }
    limits.iops_size = unsigned(command.iops_size)?.unwrap_or(0);
    Ok(limits)
}

/// The limits of a group, beginning from `limits`: what is given replaces what is there. `limits.…` and the older
/// `x-…` may be mixed; the newer one wins.
///
/// # Errors
/// A number is negative.
pub fn limits_of_group(properties: &ThrottleGroupProperties, mut limits: Limits) -> Result<Limits, Error> {
    let members = properties.to_map();
    let newer = properties.limits.as_ref().map(Members::to_map).unwrap_or_default();
    let take = |name: &str| -> Result<Option<u64>, Error> {
        let value = newer.get(name).or_else(|| members.get(&format!("x-{name}")));
        unsigned(value.and_then(qapi::json::Value::as_i64))
    };
    for bucket in Bucket::ALL {
        let name = bucket.name();
        let rate = limits.buckets.get_mut(bucket as usize);
        let Some(rate) = rate else { continue };
        rate.average = take(name)?.unwrap_or(rate.average);
        rate.max = take(&format!("{name}-max"))?.unwrap_or(rate.max);
        rate.burst_length = take(&format!("{name}-max-length"))?.unwrap_or(rate.burst_length);
    }
    limits.iops_size = take("iops-size")?.unwrap_or(limits.iops_size);
    Ok(limits)
}

impl Storage {
    /// The group of that name: an object, or one that drives share.
    fn group(&mut self, name: &str, limits: Limits) -> Result<Arc<Group>, Error> {
        self.groups.retain(|group| Arc::strong_count(group) > 1);
        if let Some(group) = self.graph.object::<Group>(name) {
            return Ok(group);
        }
        if let Some(group) = self.groups.iter().find(|group| group.name() == name) {
            return Ok(Arc::clone(group));
        }
        let group = Arc::new(Group::new(name, limits).map_err(client_error)?);
        self.groups.push(Arc::clone(&group));
        Ok(group)
    }

    /// Takes a back end out of its group, or puts it into one. Requests that wait in the old one go on.
    fn change_group(&self, backend: &Backend, group: Option<Arc<Group>>) {
        let drained = backend.node().map(|node| aio::block_on(self.graph.drain(&node)));
        backend.set_throttle(group);
        drop(drained);
    }

    /// Puts a back end into a group and gives the group these limits.
    ///
    /// # Errors
    /// The limits contradict each other.
    pub fn throttle(&mut self, backend: &Backend, limits: Limits, group: &str) -> Result<(), Error> {
        let group = self.group(group, limits)?;
        group.set_limits(limits).map_err(client_error)?;
        if backend.throttle().is_none_or(|present| !Arc::ptr_eq(&present, &group)) {
            self.change_group(backend, Some(group));
        }
        Ok(())
    }

    /// `block_set_io_throttle`.
    ///
    /// # Errors
    /// There is no such back end or no medium, or the limits contradict each other.
    pub fn set_limits(&mut self, command: &BlockSetIoThrottle) -> Result<(), Error> {
        let backend = self.backend_by(command.device.as_deref(), command.id.as_deref())?;
        if backend.node().is_none() {
            return Err(Error::generic("Device has no medium"));
        }
        let limits = limits_of(command)?;
        limits.check().map_err(client_error)?;
        if !limits.is_limited() {
            self.change_group(&backend, None);
            return Ok(());
        }
        let present = backend.throttle().map(|group| group.name().to_owned());
        let own = command.device.clone().or_else(|| command.id.clone()).unwrap_or_default();
        let group = command.group.clone().or(present).unwrap_or(own);
        self.throttle(&backend, limits, &group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qapi::block::throttle::ThrottleLimits;

    #[test]
    fn limits_of_a_group_keep_what_is_not_given() {
        let mut before = Limits::default();
        before.buckets[Bucket::IopsTotal as usize] = Rate { average: 10, max: 20, burst_length: 3 };
        let properties = ThrottleGroupProperties {
            limits: Some(ThrottleLimits { iops_total: Some(15), ..ThrottleLimits::default() }),
            x_bps_read: Some(1000),
            x_iops_total: Some(99),
            ..ThrottleGroupProperties::default()
        };
        let after = limits_of_group(&properties, before).unwrap_or_default();
        assert_eq!(after.rate(Bucket::IopsTotal), Rate { average: 15, max: 20, burst_length: 3 });
        assert_eq!(after.rate(Bucket::BpsRead).average, 1000);
    }

    #[test]
    fn negative_limits_are_refused() {
        let properties = ThrottleGroupProperties { x_bps_read: Some(-1), ..ThrottleGroupProperties::default() };
        let error = limits_of_group(&properties, Limits::default()).map_err(|error| error.desc);
        assert_eq!(error, Err(NO_NEGATIVES.to_owned()));
    }
}
