//! A resource: the host's copy of a picture, and the driver's memory that it follows.

use std::sync::Arc;

use memory::{DmaAccess, DmaBuffer, DmaView};

use super::protocol::{Format, Rectangle, Refusal};

/// Bytes of a pixel, in every format.
pub const PIXEL: usize = 4;

/// Guest memory behind a resource.
#[derive(Clone, Debug, Default)]
pub struct BackingMemory {
    /// Addresses and lengths, as the driver gave them.
    pub entries: Vec<(u64, u32)>,
    /// The memory; nothing when it was not RAM after a restore.
    pub memory: Option<DmaBuffer>,
}

/// A resource.
#[derive(Clone, Debug)]
pub struct Resource {
    /// How pixels are laid out.
    pub format: Format,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// The picture, row by row. Whoever draws it elsewhere shares it.
    pub pixels: Arc<Vec<u8>>,
    /// The driver's memory, if it is attached.
    pub backing: Option<BackingMemory>,
}

impl Resource {
    /// A black picture; `limit` bytes are too many.
    pub fn new(format: Format, (width, height): (u32, u32), limit: u64) -> Result<Self, Refusal> {
        let bytes = u64::from(width).checked_mul(u64::from(height)).and_then(|pixels| pixels.checked_mul(PIXEL as u64));
        let bytes = bytes.filter(|bytes| *bytes < limit).ok_or(Refusal::OutOfMemory)?;
        let bytes = usize::try_from(bytes).map_err(|_| Refusal::OutOfMemory)?;
        Ok(Self { format, width, height, pixels: Arc::new(vec![0; bytes]), backing: None })
    }

    /// Bytes of the picture.
    pub fn len(&self) -> u64 {
        self.pixels.len() as u64
    }

    /// Bytes of a row.
    pub fn stride(&self) -> usize {
        self.width as usize * PIXEL
    }

    /// Attaches memory.
    pub fn attach(&mut self, entries: Vec<(u64, u32)>, dma: &DmaView) -> Result<(), Refusal> {
        if self.backing.is_some() {
            return Err(Refusal::Unspecified);
        }
        let memory = gather(&entries, dma).ok_or(Refusal::Unspecified)?;
        self.backing = Some(BackingMemory { entries, memory: Some(memory) });
        Ok(())
    }

    /// Finds the memory again, after a restore.
    pub fn resolve(&mut self, dma: &DmaView) {
        if let Some(backing) = &mut self.backing {
            backing.memory = gather(&backing.entries, dma);
        }
    }

    /// Copies a rectangle from the driver's memory, where it begins at `offset`; rows are as far apart as in the picture.
    /// What the memory does not have stays as it is.
    pub fn transfer(&mut self, rectangle: Rectangle, offset: u64) -> Result<(), Refusal> {
        let stride = self.stride();
        let memory = self.backing.as_ref().ok_or(Refusal::Unspecified)?.memory.clone();
        if !rectangle.is_within(self.width, self.height) {
            return Err(Refusal::InvalidParameter);
        }
        let Some(memory) = memory else { return Ok(()) };
        let len = rectangle.width as usize * PIXEL;
        let pixels = Arc::make_mut(&mut self.pixels);
        let first = rectangle.y as usize * stride + rectangle.x as usize * PIXEL;
        for row in 0..rectangle.height as usize {
            let from = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(row * stride));
            let Some(from) = from.filter(|from| *from < memory.len()) else { break };
            let len = len.min(memory.len() - from);
            let to = first + row * stride;
            if let Some(pixels) = pixels.get_mut(to..to + len) {
                memory.io().read_at(from, pixels);
            }
        }
        Ok(())
    }

    /// The pixels of a cursor: 0xAARRGGBB.
    pub fn cursor_pixels(&self) -> Vec<u32> {
        self.pixels.as_chunks::<PIXEL>().0.iter().map(|bytes| self.format.argb(*bytes)).collect()
    }
}

fn gather(entries: &[(u64, u32)], dma: &DmaView) -> Option<DmaBuffer> {
    let map = dma.map();
    let mut gather = map.gather(DmaAccess::Write);
    for (address, len) in entries {
        gather.add(*address, u64::from(*len)).ok()?;
    }
    Some(gather.finish())
}
