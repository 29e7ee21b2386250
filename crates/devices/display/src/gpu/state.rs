//! The card's guest-visible state: events, heads, cursors, and resources with their pictures.

use std::collections::BTreeMap;
use std::sync::Arc;

use state::{Description, Field, FieldDescription, Kind, LoadError, LoadErrorKind, Reader, SavedState, State, Writer};

use super::protocol::{Format, MAX_ENTRIES};
use super::resource::{BackingMemory, Resource};

/// What a head shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[state(name = "virtio-gpu/scanout", version = 1)]
pub struct Scanout {
    /// The resource; 0 for none.
    pub resource_id: u32,
    /// Its part that is shown: the first column.
    pub x: u32,
    /// The first row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// The cursor of a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[state(name = "virtio-gpu/cursor", version = 1)]
pub struct Cursor {
    /// The resource that it was taken from.
    pub resource_id: u32,
    /// The column that points.
    pub hot_x: u32,
    /// The row that points.
    pub hot_y: u32,
    /// The column on the screen.
    pub x: u32,
    /// The row on the screen.
    pub y: u32,
    /// It is shown.
    pub is_visible: bool,
    /// The driver has defined it.
    pub is_defined: bool,
}

/// The guest-visible state beside queues and features.
#[derive(Clone, Debug)]
pub struct GpuState {
    /// Bytes that all resources together do not reach: configuration, not saved.
    limit: u64,
    /// Events that the driver has not taken away.
    pub events: u32,
    /// The driver has set up a head.
    pub is_driven: bool,
    /// The heads.
    pub scanouts: Vec<Scanout>,
    /// Their cursors.
    pub cursors: Vec<Cursor>,
    /// Resources by their numbers.
    pub resources: BTreeMap<u32, Resource>,
}

impl GpuState {
    /// The state after a reset.
    pub fn new(outputs: usize, limit: u64) -> Self {
        Self {
            limit,
            events: 0,
            is_driven: false,
            scanouts: vec![Scanout::default(); outputs],
            cursors: vec![Cursor::default(); outputs],
            resources: BTreeMap::new(),
        }
    }

    /// Bytes that a new resource must not reach.
    pub fn room(&self) -> u64 {
        let used: u64 = self.resources.values().map(Resource::len).sum();
        self.limit.saturating_sub(used)
    }

    fn resource_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        (self.resources.len() as u32).put(&mut writer);
        for (id, resource) in &self.resources {
            for word in [*id, resource.format.number, resource.width, resource.height] {
                word.put(&mut writer);
            }
            resource.backing.is_some().put(&mut writer);
            if let Some(backing) = &resource.backing {
                (backing.entries.len() as u32).put(&mut writer);
                for (address, len) in &backing.entries {
                    address.put(&mut writer);
                    len.put(&mut writer);
                }
            }
            writer.put(&resource.pixels);
        }
        writer.into_bytes()
    }

    fn load_resources(&self, reader: &mut Reader<'_>) -> Result<BTreeMap<u32, Resource>, LoadError> {
        let mut loaded = Self::new(0, self.limit);
        for _ in 0..0u32.take(reader)? {
            let (id, number) = (0u32.take(reader)?, 0u32.take(reader)?);
            let size = (0u32.take(reader)?, 0u32.take(reader)?);
            let format = Format::numbered(number).ok_or(LoadErrorKind::Value)?;
            let mut backing = None;
            if false.take(reader)? {
                let count = 0u32.take(reader)?;
                if count > MAX_ENTRIES {
                    return Err(LoadErrorKind::Value.into());
                }
                let mut entries = Vec::new();
                for _ in 0..count {
                    entries.push((0u64.take(reader)?, 0u32.take(reader)?));
                }
                backing = Some(BackingMemory { entries, memory: None });
            }
            // The stream has the pixels: it is asked before memory is.
            let bytes = u64::from(size.0).saturating_mul(u64::from(size.1)).saturating_mul(4);
            let is_possible = bytes <= reader.remaining().len() as u64 && id != 0;
            let room = if is_possible { loaded.room() } else { 0 };
            let mut resource = Resource::new(format, size, room).map_err(|_| LoadErrorKind::Value)?;
            let pixels = reader.take(resource.pixels.len())?.to_vec();
            (resource.pixels, resource.backing) = (Arc::new(pixels), backing);
            loaded.resources.insert(id, resource);
        }
        Ok(loaded.resources)
    }
}

impl SavedState for GpuState {
    fn name(&self) -> &'static str {
        "virtio-gpu"
    }

    fn version(&self) -> u32 {
        1
    }

    fn describe(&self) -> Description {
        let mut fields = Vec::new();
        Field::describe(&self.events, "events", &mut fields);
        Field::describe(&self.is_driven, "is_driven", &mut fields);
        for (index, (scanout, cursor)) in self.scanouts.iter().zip(&self.cursors).enumerate() {
            let first = fields.len();
            Field::describe(scanout, "scanout", &mut fields);
            Field::describe(cursor, "cursor", &mut fields);
            fields[first..].iter_mut().for_each(|field| field.index = Some(index));
        }
        let size = self.resource_bytes().len();
        fields.push(FieldDescription::plain("resources", Kind::Buffer, size));
        Description { name: self.name().to_owned(), version: self.version(), fields, subsections: Vec::new() }
    }

    fn save(&self, writer: &mut Writer) {
        self.events.put(writer);
        self.is_driven.put(writer);
        for (scanout, cursor) in self.scanouts.iter().zip(&self.cursors) {
            scanout.put(writer);
            cursor.put(writer);
        }
        writer.put(&self.resource_bytes());
    }

    fn load(&mut self, reader: &mut Reader<'_>, version: u32) -> Result<(), LoadError> {
        if version != self.version() {
            return Err(LoadErrorKind::Value.into());
        }
        let mut loaded = Self::new(0, self.limit);
        loaded.events = self.events.take(reader)?;
        loaded.is_driven = self.is_driven.take(reader)?;
        for (scanout, cursor) in self.scanouts.iter().zip(&self.cursors) {
            loaded.scanouts.push(scanout.take(reader)?);
            loaded.cursors.push(cursor.take(reader)?);
        }
        loaded.resources = self.load_resources(reader)?;
        *self = loaded;
        Ok(())
    }
}
