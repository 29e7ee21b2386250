//! From what is new on the screen to messages for one client. Runs on an encoder's thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::display::input::Leds;
use ::display::{Console, Cursor, CursorShape, Reader, Rectangle, Surface};

use crate::client::Features;
use crate::display::Seat;
use crate::encode::{Encoder, Lines, Style, put_header, without};
use crate::format::Converter;
use crate::message::encoding;

/// More rectangles than this become one.
const AREAS_MAX: usize = 4096;
/// Pictures of the console are judged in blocks of this size, when photographs may lose details.
const BLOCK: u32 = 128;
/// So many pictures of a block in [`BUSY_TIME`] make it busy.
const BUSY_LEAST: u32 = 4;
const BUSY_TIME: Duration = Duration::from_millis(500);

/// What is to be painted.
pub struct Plan {
    pub style: Style,
    pub features: Features,
    pub seat: Arc<Seat>,
    /// A picture may be sent.
    pub may_send: bool,
    /// It is sent even if nothing is new.
    pub is_full: bool,
    /// The client's encodings are new.
    pub is_new: bool,
    /// What is sent again.
    pub again: Vec<Rectangle>,
    /// The reason and the result of a change of size.
    pub resize_answer: Option<(u16, u16)>,
    /// Photographs lose details everywhere, not only where much changes.
    pub is_lossy_everywhere: bool,
}

/// A block that has lost details, or that changes.
#[derive(Clone, Copy)]
struct Block {
    since: Instant,
    last: Instant,
    count: u32,
    is_lossy: bool,
}

/// What a client has, and how it gets the rest.
pub struct Painter {
    encoder: Encoder,
    size: (u32, u32),
    reader: Option<Reader>,
    lines: Option<Lines>,
    blocks: Vec<Option<Block>>,
    cursor: Option<(Arc<CursorShape>, bool)>,
    leds: Option<Leds>,
    is_absolute: Option<bool>,
    out: Vec<u8>,
}

fn size_of(picture: &Surface) -> (u32, u32) {
    (picture.width(), picture.height())
}

fn shown(cursor: Option<Cursor>) -> Option<(Arc<CursorShape>, bool)> {
    cursor.map(|cursor| (cursor.shape, cursor.is_visible))
}

impl Painter {
    /// For a client that was told this size.
    pub fn new(size: (u32, u32)) -> Self {
        Self {
            encoder: Encoder::default(),
            size,
            reader: None,
            lines: None,
            blocks: Vec::new(),
            cursor: None,
            leds: None,
            is_absolute: None,
            out: Vec::new(),
        }
    }

    /// What was painted last.
    pub fn output(&self) -> &[u8] {
        &self.out
    }

    /// Whether details are missing that the client should get when its screen is quiet.
    pub fn has_lost_details(&self) -> bool {
        self.blocks.iter().flatten().any(|block| block.is_lossy)
    }

    fn look_at(&mut self, console: &Arc<Console>) {
        if !self.reader.as_ref().is_some_and(|reader| Arc::ptr_eq(reader.console(), console)) {
            self.reader = Some(console.reader());
            self.lines = None;
        }
    }

    /// Whether there is something to paint.
    pub fn is_needed(&mut self, plan: &Plan) -> bool {
        let console = &plan.seat.console;
        self.look_at(console);
        self.find_lost_details();
        let Features { leds, pointer_type, cursor, alpha_cursor, desktop_size, extended_desktop_size, .. } =
            plan.features;
        let has_picture = plan.may_send && self.reader.as_ref().is_some_and(Reader::has_news);
        plan.is_new
            || plan.is_full
            || plan.resize_answer.is_some()
            || has_picture
            || leds && self.leds != Some(plan.seat.input.leds())
            || pointer_type && self.is_absolute != Some(plan.seat.input.is_absolute())
            || (cursor || alpha_cursor) && self.cursor != shown(console.cursor())
            || (desktop_size || extended_desktop_size) && self.size != size_of(&console.frame())
    }

    /// Paints; says whether there is a picture.
    pub fn paint(&mut self, plan: &Plan) -> bool {
        self.out.clear();
        self.out.shrink_to(16 << 20);
        self.encoder.set_style(plan.style);
        let console = &plan.seat.console;
        self.look_at(console);
        if plan.is_full {
            console.refresh();
        }
        let Some(reader) = &self.reader else { return false };
        for area in &plan.again {
            reader.invalidate_area(*area);
        }
        let news = if plan.may_send { reader.take() } else { None };
        let frame = news.as_ref().map_or_else(|| console.frame(), |(frame, _)| Arc::clone(frame));
        self.put_size(plan, &frame);
        self.put_small_things(plan);
        let mut areas = news.map(|(_, areas)| areas).unwrap_or_default();
        if !plan.may_send || areas.is_empty() && !plan.is_full {
            return false;
        }
        let padded;
        let picture = if size_of(&frame) == self.size {
            &*frame
        } else {
            // The client can't have another size than it was told first.
            let mut picture = Surface::new(self.size.0, self.size.1);
            picture.copy_area(
                &frame,
                Rectangle { x: 0, y: 0, width: self.size.0.min(frame.width()), height: self.size.1 },
            );
            areas = vec![Rectangle { x: 0, y: 0, width: self.size.0, height: self.size.1 }];
            padded = picture;
            &padded
        };
        if areas.len() > AREAS_MAX {
            areas = vec![Rectangle { x: 0, y: 0, width: picture.width(), height: picture.height() }];
        }
        self.put_picture(plan, picture, areas);
        true
    }

    fn put_picture(&mut self, plan: &Plan, picture: &Surface, mut areas: Vec<Rectangle>) {
        let start = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        let mut count = 0;
        if plan.features.copy_rect && plan.style.quality.is_none() {
            let lines = self.lines.get_or_insert_with(|| Lines::new(picture.width(), picture.height()));
            if lines.size() != size_of(picture) {
                *lines = Lines::new(picture.width(), picture.height());
            }
            // Who asks for everything may have lost what could be copied.
            if let Some(scroll) = lines.update(picture, &areas).filter(|_| !plan.is_full) {
                put_header(scroll.area, encoding::COPY_RECT, &mut self.out);
                for side in [scroll.area.x, scroll.from] {
                    self.out.extend_from_slice(&(side as u16).to_be_bytes());
                }
                count += 1;
                areas = without(&areas, scroll.area);
            }
        } else {
            self.lines = None;
        }
        count += match plan.style.quality {
            None => {
                self.blocks.clear();
                areas.into_iter().map(|area| self.encoder.encode(picture, area, &mut self.out)).sum()
            }
            Some(_) => self.encode_lossy(plan, picture, &areas),
        };
        // More cannot be: there are limits on areas and on pieces of them.
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        self.out[start + 2..start + 4].copy_from_slice(&count.to_be_bytes());
    }

    /// Blocks that change often lose details; the others don't.
    fn encode_lossy(&mut self, plan: &Plan, picture: &Surface, areas: &[Rectangle]) -> usize {
        let columns = picture.width().div_ceil(BLOCK);
        let blocks = (columns * picture.height().div_ceil(BLOCK)) as usize;
        if self.blocks.len() != blocks {
            self.blocks = vec![None; blocks];
        }
        let now = Instant::now();
        let exact = Style { quality: None, ..plan.style };
        let mut parts: Vec<(usize, Rectangle)> = Vec::new();
        for area in areas {
            for row in area.y / BLOCK..(area.y + area.height).div_ceil(BLOCK) {
                for column in area.x / BLOCK..(area.x + area.width).div_ceil(BLOCK) {
                    let (x, y) = (area.x.max(column * BLOCK), area.y.max(row * BLOCK));
                    let (right, bottom) = ((column + 1) * BLOCK, (row + 1) * BLOCK);
                    let (right, bottom) = (right.min(area.x + area.width), bottom.min(area.y + area.height));
                    let part = Rectangle { x, y, width: right - x, height: bottom - y };
                    parts.push(((row * columns + column) as usize, part));
                }
            }
        }
        let mut counted = vec![false; blocks];
        let mut count = 0;
        for (number, part) in parts {
            let Some(slot) = self.blocks.get_mut(number) else { continue };
            let block = slot.get_or_insert(Block { since: now, last: now, count: 0, is_lossy: false });
            if now - block.since > BUSY_TIME {
                *block = Block { since: now, count: block.count / 2, ..*block };
            }
            if !std::mem::replace(&mut counted[number], true) {
                block.count += 1;
            }
            block.last = now;
            let is_lossy = plan.is_lossy_everywhere || block.count >= BUSY_LEAST;
            block.is_lossy |= is_lossy;
            self.encoder.set_style(if is_lossy { plan.style } else { exact });
            count += self.encoder.encode(picture, part, &mut self.out);
        }
        if plan.is_lossy_everywhere {
            self.blocks.clear();
        }
        count
    }

    /// What has lost details and is quiet now is sent again.
    fn find_lost_details(&mut self) {
        let Some(reader) = &self.reader else { return };
        let columns = self.size.0.div_ceil(BLOCK).max(1);
        let now = Instant::now();
        for (number, slot) in (0_u32..).zip(&mut self.blocks) {
            if slot.is_some_and(|block| now - block.last > BUSY_TIME) {
                let is_lossy = slot.take().is_some_and(|block| block.is_lossy);
                if is_lossy {
                    let (x, y) = (number % columns * BLOCK, number / columns * BLOCK);
                    reader.invalidate_area(Rectangle { x, y, width: BLOCK, height: BLOCK });
                }
            }
        }
    }

    /// An update that is one rectangle without a picture.
    fn put_alone(&mut self, area: Rectangle, number: i32) {
        self.out.extend_from_slice(&[0, 0, 0, 1]);
        put_header(area, number, &mut self.out);
    }

    fn put_size(&mut self, plan: &Plan, frame: &Surface) {
        let (width, height) = size_of(frame);
        let is_other = self.size != (width, height);
        if plan.features.extended_desktop_size {
            if !is_other && !plan.is_full && plan.resize_answer.is_none() {
                return;
            }
            let (reason, status) = plan.resize_answer.unwrap_or((0, 0));
            let area = Rectangle { x: reason.into(), y: status.into(), width, height };
            self.put_alone(area, encoding::EXTENDED_DESKTOP_SIZE);
            // One screen: its number, its place, its size, no flags.
            self.out.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            self.out.extend_from_slice(&(width as u16).to_be_bytes());
            self.out.extend_from_slice(&(height as u16).to_be_bytes());
            self.out.extend_from_slice(&[0; 4]);
        } else if plan.features.desktop_size && is_other {
            self.put_alone(Rectangle { x: 0, y: 0, width, height }, encoding::DESKTOP_SIZE);
        } else {
            return;
        }
        if is_other {
            self.size = (width, height);
            self.lines = None;
            self.blocks.clear();
        }
    }

    /// Pointer type, lights, cursor.
    fn put_small_things(&mut self, plan: &Plan) {
        let (width, height) = self.size;
        let is_absolute = plan.seat.input.is_absolute();
        if plan.features.pointer_type && (plan.is_new || self.is_absolute != Some(is_absolute)) {
            let area = Rectangle { x: is_absolute.into(), y: 0, width, height };
            self.put_alone(area, encoding::POINTER_TYPE_CHANGE);
        }
        self.is_absolute = Some(is_absolute);
        let leds = plan.seat.input.leds();
        if plan.features.leds && (plan.is_new || self.leds != Some(leds)) {
            self.put_alone(Rectangle { x: 0, y: 0, width: 1, height: 1 }, encoding::LED_STATE);
            let bits = [leds.scroll_lock, leds.num_lock, leds.caps_lock].map(u8::from);
            self.out.push(bits[0] | bits[1] << 1 | bits[2] << 2);
        }
        self.leds = Some(leds);
        let cursor = shown(plan.seat.console.cursor());
        if (plan.is_new || self.cursor != cursor) && (plan.features.cursor || plan.features.alpha_cursor) {
            match &cursor {
                Some((shape, is_visible)) => self.put_cursor(plan, shape, *is_visible),
                // The client's own one, which it has from the start.
                None if self.cursor.is_none() => {}
                None => self.put_alone(Rectangle { x: 0, y: 0, width: 0, height: 0 }, encoding::CURSOR),
            }
        }
        self.cursor = cursor;
    }

    fn put_cursor(&mut self, plan: &Plan, shape: &CursorShape, is_visible: bool) {
        let (width, height) = if is_visible { (shape.width, shape.height) } else { (0, 0) };
        let is_whole = shape.pixels.len() == width as usize * height as usize;
        let (width, height) = if is_whole { (width, height) } else { (0, 0) };
        let pixels = if is_whole { shape.pixels.as_slice() } else { &[] };
        let area = Rectangle { x: shape.hot_spot.0, y: shape.hot_spot.1, width, height };
        if plan.features.alpha_cursor {
            self.put_alone(area, encoding::CURSOR_WITH_ALPHA);
            self.out.extend_from_slice(&encoding::RAW.to_be_bytes());
            // Red, green and blue multiplied by alpha, and alpha.
            self.out.extend(pixels.iter().flat_map(|pixel| {
                let [blue, green, red, alpha] = pixel.to_le_bytes();
                let times = |colour: u8| (u16::from(colour) * u16::from(alpha) / 255) as u8;
                [times(red), times(green), times(blue), alpha]
            }));
            return;
        }
        self.put_alone(area, encoding::CURSOR);
        Converter::new(&plan.style.format).put(pixels, &mut self.out);
        for row in pixels.chunks(width.max(1) as usize) {
            for group in row.chunks(8) {
                let bit = |(at, pixel): (usize, &u32)| u8::from(pixel >> 31 != 0) << (7 - at);
                self.out.push(group.iter().enumerate().map(bit).sum());
            }
        }
    }
}
