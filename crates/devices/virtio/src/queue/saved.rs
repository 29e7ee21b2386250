//! The saved state of a device's queues: registers, and chains in flight, which a restored device does again.

use state::{Description, Field, FieldDescription, Kind, LoadError, LoadErrorKind, Reader, SavedState, Writer};

use super::{Chain, Extent, Extents, InFlight, MAX_DESCRIPTORS, Queue, QueueState};

/// All the queues of a device.
#[derive(Clone, Debug, Default)]
pub struct QueueList(pub Vec<Queue>);

impl SavedState for QueueList {
    fn name(&self) -> &'static str {
        "virtqueues"
    }

    fn version(&self) -> u32 {
        1
    }

    fn describe(&self) -> Description {
        let mut fields = Vec::new();
        for (index, queue) in self.0.iter().enumerate() {
            let first = fields.len();
            Field::describe(&queue.state, "queue", &mut fields);
            let size = in_flight_bytes(queue).len();
            fields.push(FieldDescription::plain("in_flight", Kind::Buffer, size));
            fields[first..].iter_mut().for_each(|field| field.index = Some(index));
        }
        Description { name: self.name().to_owned(), version: self.version(), fields, subsections: Vec::new() }
    }

    fn save(&self, writer: &mut Writer) {
        for queue in &self.0 {
            queue.state.put(writer);
            writer.put(&in_flight_bytes(queue));
        }
    }

    fn load(&mut self, reader: &mut Reader<'_>, _version: u32) -> Result<(), LoadError> {
        let mut loaded = Vec::with_capacity(self.0.len());
        for (index, queue) in self.0.iter().enumerate() {
            let queue = load_queue(queue, reader).map_err(|error| error.within(&format!("[{index}]")))?;
            loaded.push(queue);
        }
        self.0 = loaded;
        Ok(())
    }
}

fn load_queue(old: &Queue, reader: &mut Reader<'_>) -> Result<Queue, LoadError> {
    let state: QueueState = old.state.take(reader)?;
    if !(1..=old.max_size).contains(&state.size) {
        return Err(LoadErrorKind::Value.into());
    }
    let mut in_flight = InFlight::default();
    for _ in 0..bounded(reader, usize::from(state.size))? {
        let (id, entries) = (0u16.take(reader)?, 0u16.take(reader)?);
        let mut extents = Extents::default();
        for _ in 0..bounded(reader, MAX_DESCRIPTORS)? {
            let (address, len, writable) = (0u64.take(reader)?, 0u32.take(reader)?, false.take(reader)?);
            let flags = if writable { super::flag::WRITE } else { 0 };
            extents.add(address, len, flags).map_err(|_| LoadErrorKind::Value)?;
        }
        if !(1..=state.size).contains(&entries) {
            return Err(LoadErrorKind::Value.into());
        }
        in_flight.insert(Chain { id, entries, extents });
    }
    // Tokens of the old chains lead nowhere.
    Ok(Queue { state, in_flight, rings: None, epoch: old.epoch + 1, ..*old })
}

fn bounded(reader: &mut Reader<'_>, maximum: usize) -> Result<u16, LoadError> {
    let count = 0u16.take(reader)?;
    if usize::from(count) > maximum { Err(LoadErrorKind::Value.into()) } else { Ok(count) }
}

/// The number of chains, then for each its id, ring entries, number of extents, and those.
fn in_flight_bytes(queue: &Queue) -> Vec<u8> {
    let mut writer = Writer::new();
    (queue.in_flight.len() as u16).put(&mut writer);
    for chain in queue.in_flight.slots.iter().flatten() {
        chain.id.put(&mut writer);
        chain.entries.put(&mut writer);
        (chain.extents.0.len() as u16).put(&mut writer);
        for Extent { address, len, writable } in &chain.extents.0 {
            address.put(&mut writer);
            len.put(&mut writer);
            writable.put(&mut writer);
        }
    }
    writer.into_bytes()
}
