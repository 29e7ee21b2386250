//! What shows the card's heads.

use std::sync::Arc;

use devices_virtio::device::Access;
use display::{Cursor, Screen, Surface};

use super::Gpu;
use super::protocol::Format;
use super::state::Scanout;

/// The heads of a card; the first one shows `vga` until the driver has set up a head.
pub fn screens(access: &Arc<dyn Access<Gpu>>, vga: Option<&Arc<dyn Screen>>) -> Vec<Arc<dyn Screen>> {
    let mut outputs = 0;
    access.access(&mut |card, _| outputs = card.outputs());
    let head = |head| {
        let vga = vga.filter(|_| head == 0).cloned();
        Arc::new(GpuScreen { access: Arc::clone(access), head, vga }) as Arc<dyn Screen>
    };
    (0..outputs as usize).map(head).collect()
}

struct GpuScreen {
    access: Arc<dyn Access<Gpu>>,
    head: usize,
    vga: Option<Arc<dyn Screen>>,
}

/// What a head shows.
enum Frame {
    /// What the VGA shows, or nothing yet.
    Undriven,
    /// Nothing.
    Off,
    /// A part of a picture whose rows have that many bytes.
    Picture { scanout: Scanout, format: Format, stride: usize, pixels: Arc<Vec<u8>> },
}

impl Gpu {
    fn frame(&self, head: usize) -> Frame {
        if !self.state.is_driven {
            return Frame::Undriven;
        }
        let scanout = self.state.scanouts.get(head).copied().unwrap_or_default();
        match self.state.resources.get(&scanout.resource_id) {
            None => Frame::Off,
            Some(resource) => {
                let (format, stride, pixels) = (resource.format, resource.stride(), Arc::clone(&resource.pixels));
                Frame::Picture { scanout, format, stride, pixels }
            }
        }
    }

    fn cursor(&self, head: usize) -> Option<Cursor> {
        let (cursor, shape) = (self.state.cursors.get(head)?, self.shapes.get(head)?);
        let shape = Arc::clone(shape.as_ref()?);
        let position = (cursor.x as i32, cursor.y as i32);
        cursor.is_defined.then_some(Cursor { shape, position, is_visible: cursor.is_visible })
    }
}

impl GpuScreen {
    fn ask<R>(&self, question: impl Fn(&Gpu) -> R) -> Option<R> {
        let mut answer = None;
        self.access.access(&mut |gpu, _| answer = Some(question(gpu)));
        answer
    }
}

impl Screen for GpuScreen {
    fn render(&self, picture: &mut Surface) {
        match self.ask(|gpu| gpu.frame(self.head)) {
            None => {}
            Some(Frame::Undriven) => match &self.vga {
                Some(vga) => vga.render(picture),
                None => picture.fill(0),
            },
            Some(Frame::Off) => picture.fill(0),
            Some(Frame::Picture { scanout, format, stride, pixels }) => {
                draw(picture, &scanout, format, (stride, &pixels));
            }
        }
    }

    fn cursor(&self) -> Option<Cursor> {
        self.ask(|gpu| gpu.cursor(self.head)).flatten()
    }

    fn suggest_size(&self, width: u32, height: u32) -> bool {
        self.access.access(&mut |gpu, common| gpu.wish(common, self.head, (width, height)));
        true
    }
}

fn draw(picture: &mut Surface, scanout: &Scanout, format: Format, (stride, pixels): (usize, &[u8])) {
    picture.resize(scanout.width, scanout.height);
    for y in 0..picture.height() {
        let start = (scanout.y as usize + y as usize) * stride + scanout.x as usize * 4;
        let line = pixels.get(start..).unwrap_or_default().as_chunks::<4>().0;
        for (pixel, bytes) in picture.row_mut(y).iter_mut().zip(line) {
            *pixel = format.argb(*bytes) & 0xff_ffff;
        }
    }
}
