//! `x-query-virtio` and its like: what virtio devices and their queues are like inside.

mod names;

use std::sync::Arc;

use machine::virtio::{Element, ElementError, Inspect, QueueInfo, flag};
use qapi::Error;
use qapi::virtio::{
    VirtQueueStatus, VirtioDeviceFeatures, VirtioDeviceStatus, VirtioInfo, VirtioQueueElement, VirtioRingAvail,
    VirtioRingDesc, VirtioRingUsed, VirtioStatus, XQueryVirtio, XQueryVirtioQueueElement, XQueryVirtioQueueStatus,
    XQueryVirtioStatus,
};

use self::names::{decode, of_type};
use super::Table;
use crate::control::Control;

/// The commands of this subject.
pub fn register(table: &mut Table) {
    table.register::<XQueryVirtio>(|control, _, _| {
        let all = control
            .machine()
            .virtio_devices()
            .map(|device| VirtioInfo { path: device.path, name: of_type(device.inspect.id()).0.to_owned() });
        let mut all: Vec<_> = all.collect();
        all.reverse();
        Ok(all)
    });
    table.register::<XQueryVirtioStatus>(|control, _, wanted| {
        let is_running = control.states().is_running();
        let found = control.machine().virtio_devices().find(|device| device.path == wanted.path);
        let device = found.ok_or_else(|| Error::generic(format!("Path {} is not a VirtIODevice", wanted.path)))?;
        Ok(status(&**device.inspect, device.bus_name.unwrap_or_default(), is_running))
    });
    table.register::<XQueryVirtioQueueStatus>(|control, _, wanted| {
        let inspect = find(control, &wanted.path, "VirtIODevice")?;
        let queue = inspect.queue(wanted.queue.into()).ok_or_else(|| no_queue(wanted.queue))?;
        Ok(queue_status(&*inspect, wanted.queue, &queue))
    });
    table.register::<XQueryVirtioQueueElement>(|control, _, wanted| {
        let inspect = find(control, &wanted.path, "VirtIO device")?;
        let found = inspect.element(wanted.queue.into(), wanted.index).ok_or_else(|| no_queue(wanted.queue))?;
        found.map(|element| queue_element(&*inspect, &element)).map_err(|error| {
            Error::generic(match error {
                ElementError::Packed => "Packed ring not supported",
                ElementError::NoRings => "Region caches not initialized",
                ElementError::NoTable => "Cannot map indirect buffer",
            })
        })
    });
}

fn find(control: &Control, path: &str, what: &str) -> Result<Arc<dyn Inspect>, Error> {
    let found = control.machine().virtio_devices().find(|device| device.path == path);
    found.map(|device| Arc::clone(device.inspect)).ok_or_else(|| Error::generic(format!("Path {path} is not a {what}")))
}

fn no_queue(queue: u16) -> Error {
    Error::generic(format!("Invalid virtqueue number {queue}"))
}

fn features(id: u16, bits: u64) -> VirtioDeviceFeatures {
    let (transports, rest) = decode(bits, names::TRANSPORT);
    let (of_device, rest) = decode(rest, of_type(id).1);
    VirtioDeviceFeatures {
        transports,
        dev_features: Some(of_device),
        unknown_dev_features: (rest != 0).then_some(rest),
    }
}

fn status(inspect: &dyn Inspect, bus_name: String, is_running: bool) -> VirtioStatus {
    let device = inspect.device();
    let (statuses, rest) = decode(device.status.into(), names::STATUS);
    VirtioStatus {
        name: of_type(device.id).0.to_owned(),
        device_id: device.id,
        // Nobody else works on queues of this machine's devices.
        vhost_started: false,
        backend_features: features(device.id, 0),
        vhost_dev: None,
        device_endian: "little".to_owned(),
        guest_features: features(device.id, device.accepted),
        host_features: features(device.id, device.offered),
        num_vqs: device.queues as i64,
        status: VirtioDeviceStatus { statuses, unknown_statuses: (rest != 0).then_some(rest as u8) },
        isr: device.isr,
        queue_sel: device.queue_select,
        vm_running: is_running,
        broken: device.is_broken,
        disabled: device.is_disabled,
        use_started: true,
        started: device.is_started,
        start_on_kick: device.starts_on_kick,
        disable_legacy_check: false,
        bus_name,
        use_guest_notifier_mask: true,
    }
}

fn queue_status(inspect: &dyn Inspect, number: u16, queue: &QueueInfo) -> VirtQueueStatus {
    VirtQueueStatus {
        name: of_type(inspect.id()).0.to_owned(),
        queue_index: number,
        inuse: queue.in_use as u32,
        vring_num: queue.size.into(),
        vring_num_default: queue.max_size.into(),
        vring_align: queue.align,
        vring_desc: queue.descriptors,
        vring_avail: queue.driver,
        vring_used: queue.device,
        last_avail_idx: Some(queue.next_available),
        shadow_avail_idx: Some(queue.seen_available),
        used_idx: queue.next_used,
        signalled_used: queue.signalled,
        signalled_used_valid: queue.is_signalled_valid,
    }
}

fn queue_element(inspect: &dyn Inspect, element: &Element) -> VirtioQueueElement {
    const FLAGS: [(u16, &str); 5] = [
        (flag::USED, "used"),
        (flag::AVAIL, "avail"),
        (flag::INDIRECT, "indirect"),
        (flag::WRITE, "write"),
        (flag::NEXT, "next"),
    ];
    let names = |flags: u16| FLAGS.iter().filter(move |(bit, _)| flags & bit != 0).map(|(_, name)| (*name).to_owned());
    let descs = element.descriptors.iter().rev().map(|one| VirtioRingDesc {
        addr: one.address,
        len: one.len,
        flags: names(one.flags).collect(),
    });
    VirtioQueueElement {
        name: of_type(inspect.id()).0.to_owned(),
        index: element.head.into(),
        descs: descs.collect(),
        avail: VirtioRingAvail { flags: element.available.0, idx: element.available.1, ring: element.head },
        used: VirtioRingUsed { flags: element.used.0, idx: element.used.1 },
    }
}
