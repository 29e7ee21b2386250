//! virtio graphics cards without 3D (virtio 1.2, 5.7): the driver draws in its own memory and tells when the host's copy
//! of it, a *resource*, shall follow; heads (*scanouts*) show parts of resources.
//!
//! | queue | what |
//! | --- | --- |
//! | 0 | commands, each answered at once ([`control`]) |
//! | 1 | the cursor |
//!
//! A frame is made from the resource when somebody looks at it ([`screen`]); so a flush has nothing to do but to be valid.
//! The host's wishes ([`display::Console::suggest_size`]) come to the driver as an event and with the next display
//! information. Left out: 3D, blobs, UUIDs of resources; as in QEMU without them, their commands are refused.
//!
//! `virtio-vga` is the same with a VGA in its function ([`vga_beside`]): until the driver has set up a head for the first
//! time, the first one shows the VGA.

mod control;
mod protocol;
mod resource;
mod screen;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use devices_pci::{Bar, BarKind, PciFunction, Window};
use devices_virtio::device::{Common, DeviceType, Model};
use devices_virtio::pci::VirtioPci;
use display::CursorShape;

use crate::edid::EdidOptions;
use protocol::{CURSOR_SIDE, MAX_OUTPUTS};
pub use screen::screens;
use state::GpuState;

const CONTROL: usize = 0;
const CONTROL_QUEUE_SIZE: u16 = 64;
const CURSOR_QUEUE_SIZE: u16 = 16;
/// The feature: monitors describe themselves.
const FEATURE_EDID: u64 = 1 << 1;
/// The event: the display information changed.
const EVENT_DISPLAY: u32 = 1;
/// Offset of the register that takes events away.
const EVENTS_CLEAR: usize = 4;

/// The user's choices, named as QEMU's properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuOptions {
    /// `max_outputs`: heads.
    pub max_outputs: u32,
    /// `xres`: preferred columns of the first head.
    pub xres: u32,
    /// `yres`: its preferred rows.
    pub yres: u32,
    /// `edid`: monitors describe themselves.
    pub edid: bool,
    /// `max_hostmem`: all resources together have fewer bytes.
    pub max_hostmem: u64,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self { max_outputs: 1, xres: 1280, yres: 800, edid: true, max_hostmem: 256 << 20 }
    }
}

/// Too many heads. The text is QEMU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid max_outputs > 16")]
pub struct TooManyOutputs;

impl GpuOptions {
    /// Checks the choices.
    ///
    /// # Errors
    /// [`TooManyOutputs`].
    pub fn check(&self) -> Result<(), TooManyOutputs> {
        if self.max_outputs > MAX_OUTPUTS { Err(TooManyOutputs) } else { Ok(()) }
    }
}

/// What the host wants a head to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wish {
    enabled: bool,
    width: u32,
    height: u32,
}

/// A graphics card.
pub struct Gpu {
    // Fixed configuration.
    options: GpuOptions,
    has_vga: bool,
    // Host resources.
    wishes: Vec<Wish>,
    /// Cursors by head; derived from the resources.
    shapes: Vec<Option<Arc<CursorShape>>>,
    // Guest-visible state.
    state: GpuState,
}

impl Gpu {
    /// A card. The options were checked. With `has_vga` it is the one of a function that has a VGA, too.
    pub fn new(options: GpuOptions, has_vga: bool) -> Self {
        let outputs = options.max_outputs as usize;
        let mut wishes = vec![Wish::default(); outputs];
        if let Some(first) = wishes.first_mut() {
            *first = Wish { enabled: true, width: options.xres, height: options.yres };
        }
        let state = GpuState::new(outputs, options.max_hostmem);
        Self { options, has_vga, wishes, shapes: vec![None; outputs], state }
    }

    /// How many heads it has.
    pub fn outputs(&self) -> u32 {
        self.options.max_outputs
    }

    /// The host wants a head to have that size; nobody looks at it when one side is 0.
    fn wish(&mut self, common: &mut Common, head: usize, (width, height): (u32, u32)) {
        let Some(wish) = self.wishes.get_mut(head) else { return };
        *wish = Wish { enabled: width != 0 && height != 0, width, height };
        self.state.events |= EVENT_DISPLAY;
        common.config_changed();
    }

    fn monitor(&self, head: usize) -> EdidOptions {
        let wish = self.wishes.get(head).copied().unwrap_or_default();
        EdidOptions { xres: wish.width, yres: wish.height, ..EdidOptions::default() }
    }

    fn work(&mut self, common: &mut Common, queue: usize) {
        let (size, limit) = match queue {
            CONTROL => (CONTROL_QUEUE_SIZE, 4),
            _ => (CURSOR_QUEUE_SIZE, 4),
        };
        common.serve(queue, usize::from(size) * limit, |common, token, request| {
            let written = match queue {
                CONTROL => self.command(common, &request),
                _ => {
                    self.cursor_command(&request);
                    0
                }
            };
            common.complete(token, written);
        });
    }

    /// The picture of a head's cursor follows its resource.
    fn define_cursor(&mut self, head: usize) {
        let Some(cursor) = self.state.cursors.get(head) else { return };
        let resource = self.state.resources.get(&cursor.resource_id);
        let resource = resource.filter(|resource| (resource.width, resource.height) == (CURSOR_SIDE, CURSOR_SIDE));
        let old = self.shapes.get(head).cloned().flatten();
        // Another size leaves the picture as it was.
        let pixels = match (resource, old) {
            (Some(resource), _) => resource.cursor_pixels(),
            (None, Some(old)) => old.pixels.clone(),
            (None, None) => vec![0; (CURSOR_SIDE * CURSOR_SIDE) as usize],
        };
        let hot_spot = (cursor.hot_x, cursor.hot_y);
        let shape = CursorShape { width: CURSOR_SIDE, height: CURSOR_SIDE, hot_spot, pixels };
        if let Some(slot) = self.shapes.get_mut(head) {
            *slot = Some(Arc::new(shape));
        }
    }
}

impl Model for Gpu {
    type State = GpuState;

    fn device_type(&self) -> DeviceType {
        // There is no transitional device.
        DeviceType { id: 16, transitional_pci_id: 0x1050, pci_class: if self.has_vga { 0x0300 } else { 0x0380 } }
    }

    fn features(&self) -> u64 {
        if self.options.edid { FEATURE_EDID } else { 0 }
    }

    fn queues(&self) -> Vec<u16> {
        vec![CONTROL_QUEUE_SIZE, CURSOR_QUEUE_SIZE]
    }

    fn config(&self) -> Vec<u8> {
        // Events, what clears them, heads, sets of capabilities.
        [self.state.events, 0, self.options.max_outputs, 0].into_iter().flat_map(u32::to_le_bytes).collect()
    }

    fn write_config(&mut self, _common: &mut Common, offset: usize, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            if let Some(index) = at.checked_sub(EVENTS_CLEAR).filter(|index| *index < 4) {
                self.state.events &= !(u32::from(*byte) << (8 * index));
            }
        }
    }

    fn started(&mut self, _common: &mut Common) {}

    fn notified(&mut self, common: &mut Common, queue: usize) {
        self.work(common, queue);
    }

    fn reset(&mut self, _common: &mut Common) {
        self.state = GpuState::new(self.options.max_outputs as usize, self.options.max_hostmem);
        self.shapes.fill(None);
    }

    fn restored(&mut self, common: &mut Common) {
        for resource in self.state.resources.values_mut() {
            resource.resolve(common.dma());
        }
        self.shapes.fill(None);
        for head in 0..self.shapes.len() {
            self.define_cursor(head);
        }
        for (token, request) in common.take_again() {
            // Nothing waits in this device, but a stream may say so.
            let written = if token.queue() == CONTROL { self.command(common, &request) } else { 0 };
            common.complete(token, written);
        }
    }

    fn state(&self) -> &GpuState {
        &self.state
    }

    fn state_mut(&mut self) -> &mut GpuState {
        &mut self.state
    }
}

/// Adds to the function of a `virtio-vga` what its VGA has on the bus: video memory behind BAR 0, the page of registers
/// at the beginning of BAR 2. `windows` are those of the VGA, to which the function's own are added.
pub fn vga_beside(function: &device::DeviceCell<VirtioPci<Gpu>>, mut windows: Vec<Window>, vram: u64) -> Vec<Window> {
    function.lock().config_mut().add_bar(0, Bar { kind: BarKind::Prefetchable32, size: vram });
    windows.extend(VirtioPci::windows(function));
    windows
}
