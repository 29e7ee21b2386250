//! The commands of both queues (virtio 1.2, 5.7.6.7 to 5.7.6.10).

use devices_virtio::device::Common;
use devices_virtio::queue::Request;

use super::Gpu;
use super::protocol::{
    EDID_ROOM, FLAG_FENCE, Fields, Format, HEADER_LEN, MAX_ENTRIES, MAX_OUTPUTS, Refusal, SCANOUT_MIN, answer, command,
};
use super::resource::Resource;
use super::state::Scanout;
use crate::edid;

/// The most bytes of a command: the longest list of memory.
const COMMAND_MAX: usize = HEADER_LEN + 8 + 16 * MAX_ENTRIES as usize;

/// An answer: its type, and what follows the header.
type Answer = Result<(u32, Vec<u8>), Refusal>;

const DONE: Answer = Ok((answer::OK_NODATA, Vec::new()));

fn words(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn bytes_of(request: &Request) -> Vec<u8> {
    let mut bytes = vec![0; request.readable.len().min(COMMAND_MAX)];
    request.readable.io().slice(0, bytes.len()).read_at(0, &mut bytes);
    bytes
}

impl Gpu {
    /// Executes a command of the control queue and writes the answer. Returns its length.
    pub(super) fn command(&mut self, common: &Common, request: &Request) -> u32 {
        let command = bytes_of(request);
        let Some((header, arguments)) = command.split_first_chunk::<HEADER_LEN>() else { return 0 };
        let mut fields = Fields(header);
        let (Ok(kind), Ok(flags)) = (fields.word(), fields.word()) else { return 0 };
        let (kind, data) = match self.execute(common, kind, Fields(arguments)) {
            Ok(answer) => answer,
            Err(refusal) => (refusal as u32, Vec::new()),
        };
        let mut answer = vec![0; HEADER_LEN];
        answer[..4].copy_from_slice(&kind.to_le_bytes());
        if flags & FLAG_FENCE != 0 {
            answer[4..8].copy_from_slice(&FLAG_FENCE.to_le_bytes());
            // The number of the fence, and the context.
            answer[8..20].copy_from_slice(&header[8..20]);
        }
        answer.extend(data);
        let len = answer.len().min(request.writable.len());
        request.writable.write_at(0, &answer[..len]);
        len as u32
    }

    fn execute(&mut self, common: &Common, kind: u32, mut fields: Fields<'_>) -> Answer {
        match kind {
            command::GET_DISPLAY_INFO => Ok((answer::OK_DISPLAY_INFO, self.display_info())),
            command::GET_EDID => self.edid(fields.word()? as usize),
            command::RESOURCE_CREATE_2D => self.create(&mut fields),
            command::RESOURCE_UNREF => self.destroy(fields.word()?),
            command::SET_SCANOUT => self.set_scanout(&mut fields),
            command::RESOURCE_FLUSH => {
                let (rectangle, id) = (fields.rectangle()?, fields.word()?);
                let resource = self.resource(id)?;
                let is_valid = rectangle.is_within(resource.width, resource.height);
                if is_valid { DONE } else { Err(Refusal::InvalidParameter) }
            }
            command::TRANSFER_TO_HOST_2D => {
                let (rectangle, offset, id) = (fields.rectangle()?, fields.long()?, fields.word()?);
                self.resource(id)?.transfer(rectangle, offset)?;
                DONE
            }
            command::RESOURCE_ATTACH_BACKING => self.attach(common, &mut fields),
            command::RESOURCE_DETACH_BACKING => {
                let resource = self.resource(fields.word()?)?;
                resource.backing.take().map_or(Err(Refusal::Unspecified), |_| DONE)
            }
            _ => Err(Refusal::Unspecified),
        }
    }

    fn resource(&mut self, id: u32) -> Result<&mut Resource, Refusal> {
        self.state.resources.get_mut(&id).ok_or(Refusal::InvalidResourceId)
    }

    /// For each head its place and size, whether somebody looks at it, and flags.
    fn display_info(&self) -> Vec<u8> {
        let mut modes = [[0; 6]; MAX_OUTPUTS as usize];
        for (mode, wish) in modes.iter_mut().zip(&self.wishes) {
            if wish.enabled {
                *mode = [0, 0, wish.width, wish.height, 1, 0];
            }
        }
        words(modes.into_iter().flatten())
    }

    fn edid(&self, head: usize) -> Answer {
        if head >= self.wishes.len() {
            return Err(Refusal::InvalidParameter);
        }
        let mut data = words([EDID_ROOM as u32, 0]);
        data.extend(edid::generate(&self.monitor(head)));
        data.resize(8 + EDID_ROOM, 0);
        Ok((answer::OK_EDID, data))
    }

    fn create(&mut self, fields: &mut Fields<'_>) -> Answer {
        let (id, format, width, height) = (fields.word()?, fields.word()?, fields.word()?, fields.word()?);
        if id == 0 || self.state.resources.contains_key(&id) {
            return Err(Refusal::InvalidResourceId);
        }
        let format = Format::numbered(format).ok_or(Refusal::InvalidParameter)?;
        let resource = Resource::new(format, (width, height), self.state.room())?;
        self.state.resources.insert(id, resource);
        DONE
    }

    fn destroy(&mut self, id: u32) -> Answer {
        self.state.resources.remove(&id).ok_or(Refusal::InvalidResourceId)?;
        for scanout in self.state.scanouts.iter_mut().filter(|scanout| scanout.resource_id == id) {
            *scanout = Scanout::default();
        }
        DONE
    }

    fn set_scanout(&mut self, fields: &mut Fields<'_>) -> Answer {
        let (rectangle, head, id) = (fields.rectangle()?, fields.word()? as usize, fields.word()?);
        if head >= self.state.scanouts.len() {
            return Err(Refusal::InvalidScanoutId);
        }
        let mut scanout = Scanout::default();
        if id != 0 {
            let resource = self.resource(id)?;
            if resource.backing.is_none() {
                return Err(Refusal::Unspecified);
            }
            let is_large = rectangle.width >= SCANOUT_MIN && rectangle.height >= SCANOUT_MIN;
            if !is_large || !rectangle.is_within(resource.width, resource.height) {
                return Err(Refusal::InvalidParameter);
            }
            let (x, y, width, height) = (rectangle.x, rectangle.y, rectangle.width, rectangle.height);
            scanout = Scanout { resource_id: id, x, y, width, height };
            self.state.is_driven = true;
        }
        self.state.scanouts[head] = scanout;
        DONE
    }

    fn attach(&mut self, common: &Common, fields: &mut Fields<'_>) -> Answer {
        let (id, count) = (fields.word()?, fields.word()?);
        let resource = self.resource(id)?;
        if count > MAX_ENTRIES || fields.0.len() < 16 * count as usize {
            return Err(Refusal::Unspecified);
        }
        let mut entries = Vec::with_capacity(count as usize);
        for _ in 0..count {
            entries.push((fields.long()?, fields.word()?));
            fields.word()?;
        }
        resource.attach(entries, common.dma())?;
        DONE
    }

    /// A command of the cursor's queue; there is no answer.
    pub(super) fn cursor_command(&mut self, request: &Request) {
        let command = bytes_of(request);
        let Some((header, arguments)) = command.split_first_chunk::<HEADER_LEN>() else { return };
        let _invalid = self.set_cursor(Fields(header), Fields(arguments));
    }

    fn set_cursor(&mut self, mut header: Fields<'_>, mut fields: Fields<'_>) -> Result<(), Refusal> {
        let kind = header.word()?;
        let (head, x, y) = (fields.word()? as usize, fields.word()?, fields.word()?);
        fields.word()?;
        let (resource_id, hot_x, hot_y) = (fields.word()?, fields.word()?, fields.word()?);
        let cursor = self.state.cursors.get_mut(head).ok_or(Refusal::InvalidScanoutId)?;
        match kind {
            command::UPDATE_CURSOR | command::MOVE_CURSOR => {}
            _ => return Err(Refusal::Unspecified),
        }
        (cursor.x, cursor.y, cursor.is_visible) = (x, y, resource_id != 0);
        if kind == command::UPDATE_CURSOR {
            (cursor.resource_id, cursor.hot_x, cursor.hot_y, cursor.is_defined) = (resource_id, hot_x, hot_y, true);
            self.define_cursor(head);
        }
        Ok(())
    }
}
